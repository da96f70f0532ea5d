package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// greedy draws on every quota that there is, at the cloud and of the tenant.
const greedy = `kind: Stack
name: greedy
placement: {cloud: lab}
resources:
  net: {kind: Network, spec: {}}
  subnet: {kind: Subnet, spec: {network: net, cidr: 10.77.0.0/24}}
  router: {kind: Router, spec: {externalNetwork: public, subnets: [subnet]}}
  wall: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: "80"}, {protocol: TCP, ports: "443"}]}}
  key: {kind: KeyPair, spec: {publicKey: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0v1h7mXyV9G6Zp7o2Ff7gkL9cQJ4nT1uQd5y8wXb3K me"}}
  apart: {kind: ServerGroup, spec: {policy: ANTI_AFFINITY}}
  data: {kind: Volume, spec: {size: 3Gi, reclaim: DESTROY}}
  more: {kind: Volume, spec: {size: 2Gi, reclaim: DESTROY}}
  moment: {kind: VolumeSnapshot, spec: {volume: data, reclaim: DESTROY}}
  home: {kind: Share, spec: {size: 4Gi, clients: [{cidr: 10.77.0.0/24}], reclaim: DESTROY}}
  db: {kind: Server, spec: {image: tiny, flavor: m1.small, network: net, securityGroups: [wall], keyPair: key, serverGroup: apart, volumes: [{volume: data}]}}
  crew: {kind: ScalingGroup, spec: {template: {image: tiny, flavor: m1.tiny, network: net}, min: 1, max: 3, desired: 2, drainPeriod: 0s}}
  ip: {kind: FloatingIP, spec: {externalNetwork: public}}
  door: {kind: PortForwarding, spec: {floatingIp: ip, target: db, port: 80, externalPort: 8080}}
  front:
    kind: LoadBalancer
    spec:
      network: net
      listeners: [{name: web, port: 80}]
      pools: [{name: web, monitor: {delay: 2s, timeout: 1s, retries: 2}, members: [{address: 10.77.0.77, port: 80}]}]
  apps: {kind: Cluster, spec: {driver: ADOPT, credentials: kube}}
  web: {kind: Workload, spec: {cluster: apps, replicas: 1, containers: [{name: web, image: pause}]}}
`

// drawn is what a plan of greedy needs at least: the quotas, by whose they are and service. What a quota is called at the
// sandbox's service is the value's key.
var drawn = map[string][]string{
	"clouds/lab compute":            {"cores", "instances", "key_pairs", "ram", "server_groups"},
	"clouds/lab network":            {"floatingip", "network", "port", "router", "security_group", "security_group_rule", "subnet"},
	"clouds/lab block-storage":      {"gigabytes", "snapshots", "volumes"},
	"clouds/lab shared-file-system": {"gigabytes", "shares"},
	"clouds/lab load-balancer":      {"health_monitor", "listener", "load_balancer", "member", "pool"},
	"tenants/default compute":       {"ramMiB", "servers", "vcpus"},
	"tenants/default storage":       {"shareGiB", "shares", "snapshots", "volumeGiB", "volumes"},
	"tenants/default network":       {"floatingIPs", "loadBalancers", "networks", "routers"},
	"tenants/default container":     {"workloads"},
}

// atSandbox is what the sandbox calls the services.
var atSandbox = map[string]string{
	"compute": "compute", "network": "network", "block-storage": "volume", "shared-file-system": "share", "load-balancer": "load-balancer",
}

// refusedWithin is how long a refusal may take, from the command to its end.
const refusedWithin = 2 * time.Second

// limits sets one quota, of the cloud or of the tenant; less than 0 takes the limit away.
func limits(t *testing.T, i *story.Installation, q *participantv1.QuotaUse, n int64) {
	t.Helper()
	if strings.HasPrefix(q.GetCloud(), "clouds/") {
		i.Cloud.Quota(t, atSandbox[q.GetService()], map[string]int{q.GetQuota(): int(n)})
		return
	}
	value := fmt.Sprint(n)
	if n < 0 {
		value = "none"
	}
	i.Must(t, "tenant", "set", "default", "--quota", q.GetQuota()+"="+value)
}

// TestQuotasRefuse asks for one more than each quota has, in turn: the request is refused at once, as a whole, and nothing was
// made by then.
func TestQuotasRefuse(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Must(t, "secret", "put", "kube", "--from-file", "kubeconfig="+i.Data()+"/kubeconfig")
	for _, names := range slices.Sorted(maps.Keys(drawn)) {
		if strings.HasPrefix(names, "tenants/") {
			for _, name := range drawn[names] {
				i.Must(t, "tenant", "set", "default", "--quota", name+"=1000000")
			}
		}
	}
	// The network service makes a project's default security group, which counts too, when it is first asked about groups.
	i.Apply(t, "kind: Stack\nname: first\nplacement: {cloud: lab}\nresources: {wall: {kind: SecurityGroup, spec: {}}}\n", "DONE")
	i.Destroy(t, "first", "DONE")
	before, plan := i.Cloud.Inventory(t), i.Plan(t, greedy)
	got := map[string][]string{}
	for _, q := range plan.GetQuotas() {
		of := q.GetCloud() + " " + q.GetService()
		got[of] = append(got[of], q.GetQuota())
	}
	for _, names := range got {
		slices.Sort(names)
	}
	if d := cmp.Diff(drawn, got); d != "" {
		t.Fatalf("the plan needs other quotas (-want +got):\n%s", d)
	}
	path := i.Document(t, "greedy.yaml", greedy)
	since := i.Cloud.Last(t)
	for _, q := range plan.GetQuotas() {
		t.Run(strings.ReplaceAll(q.GetCloud(), "/", " ")+" "+q.GetService()+" "+q.GetQuota(), func(t *testing.T) {
			limits(t, i, q, q.GetUsed()+q.GetNeed()-1)
			defer limits(t, i, q, q.GetUsed()+q.GetNeed())
			want := fmt.Sprintf("%s: the %s quota of %s does not suffice: need %d, used %d, limit %d", q.GetCloud(), q.GetService(), q.GetQuota(), q.GetNeed(), q.GetUsed(), q.GetUsed()+q.GetNeed()-1)
			took := time.Hour
			for range 3 { // other stories work at the same time
				began := time.Now()
				r := i.Weft(t, "apply", "-f", path).Refused(t)
				took = min(took, time.Since(began))
				if !strings.Contains(r.Err, want) || !strings.Contains(r.Err, "greedy.yaml:") || !strings.Contains(r.Err, free) {
					t.Fatalf("want it to say %q, its place, and what to do:\n%s", want, r.Err)
				}
				if took < refusedWithin {
					break
				}
			}
			if took > refusedWithin {
				t.Errorf("it was refused after %s, want less than %s", took, refusedWithin)
			}
		})
	}
	rehearsed := func(c story.Call) bool { return strings.Contains(c.Query, "dryRun=All") }
	if calls := slices.DeleteFunc(i.Cloud.Mutations(t, since), rehearsed); len(calls) != 0 {
		t.Errorf("what was refused changed something: %v", calls)
	}
	i.Cloud.Same(t, before)
	i.Apply(t, greedy, "DONE") // with each quota at what is needed, and no more
	for name, q := range quotasOf(t, i) {
		if q.GetLimit() >= 0 && (q.GetUsed() != q.GetLimit() || q.GetHeld() != 0) {
			t.Errorf("when all stands, of %s %d are in use, %d of them held, want all of %d", name, q.GetUsed(), q.GetHeld(), q.GetLimit())
		}
	}
	i.Destroy(t, "greedy", "DONE")
	unused(t, i)
}

// quotasOf gives the tenant's quotas, by name.
func quotasOf(t *testing.T, i *story.Installation) map[string]*participantv1.QuotaUse {
	t.Helper()
	answer := &orchestratorv1.ListQuotasResponse{}
	i.Must(t, "quotas", "-o", "json").Decode(t, answer)
	out := map[string]*participantv1.QuotaUse{}
	for _, q := range answer.GetQuotas() {
		out[q.GetQuota()] = q
	}
	return out
}

// unused wants nothing of the tenant's quotas to be in use.
func unused(t *testing.T, i *story.Installation) {
	t.Helper()
	for name, q := range quotasOf(t, i) {
		if q.GetUsed() != 0 || q.GetHeld() != 0 {
			t.Errorf("nothing is left, and of %s %d are in use, %d of them held", name, q.GetUsed(), q.GetHeld())
		}
	}
}

// volumes gives a stack of so many volumes.
func volumes(name string, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "kind: Stack\nname: %s\nplacement: {cloud: lab}\nresources:\n", name)
	for v := range n {
		fmt.Fprintf(&b, "  v%d: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}\n", v)
	}
	return b.String()
}

// TestQuotasAreHeld has requests come at once that together pass what the tenant may have: as many begin as fit, the others are
// refused at once, and what is held is free again whatever becomes of who holds it: done, undone, cancelled, killed.
func TestQuotasAreHeld(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Must(t, "tenant", "set", "default", "--quota", "volumes=5,volumeGiB=100")
	i.Cloud.Latency(t, "volume.volume.available", "3s")
	stands := "" // which of the first two did begin

	t.Run("two at once", func(t *testing.T) {
		began := time.Now()
		a := i.Go(t, "apply", "-f", i.Document(t, "a.yaml", volumes("a", 3)), "--wait", "-o", "json")
		b := i.Go(t, "apply", "-f", i.Document(t, "b.yaml", volumes("b", 3)), "--wait", "-o", "json")
		var refused story.Result
		var other <-chan story.Result
		select {
		case refused = <-a:
			other, stands = b, "b"
		case refused = <-b:
			other, stands = a, "a"
		}
		took := time.Since(began)
		refused.Refused(t)
		for _, says := range []string{"tenants/default: the storage quota of volumes does not suffice: need 3, used 3", "limit 5"} {
			if !strings.Contains(refused.Err, says) {
				t.Errorf("it does not say %q:\n%s", says, refused.Err)
			}
		}
		if q := quotasOf(t, i)["volumes"]; q.GetHeld() != 3 || q.GetUsed() != 3 {
			t.Errorf("while one is under way %d are held of %d in use, want 3 of 3", q.GetHeld(), q.GetUsed())
		}
		if took > 3*time.Second {
			t.Errorf("it was refused after %s, which is no sooner than the other is done", took)
		}
		(<-other).Ended(t, "DONE")
		if q := quotasOf(t, i)["volumes"]; q.GetHeld() != 0 || q.GetUsed() != 3 {
			t.Errorf("when it is done %d are held of %d in use, want 0 of 3", q.GetHeld(), q.GetUsed())
		}
	})
	t.Run("a resource by itself counts", func(t *testing.T) {
		i.Must(t, "create", "volume", "lone", "--cloud", "lab", "--spec", "{size: 1Gi, reclaim: DESTROY}", "--wait")
		i.Must(t, "create", "volume", "second", "--cloud", "lab", "--spec", "{size: 1Gi, reclaim: DESTROY}", "--wait")
		r := i.Weft(t, "create", "volume", "third", "--cloud", "lab", "--spec", "{size: 1Gi, reclaim: DESTROY}").Refused(t)
		if want := "the storage quota of volumes does not suffice: need 1, used 5, limit 5"; !strings.Contains(r.Err, want) {
			t.Errorf("it does not say %q:\n%s", want, r.Err)
		}
		i.Must(t, "delete", "volume", "lone", "--wait")
		i.Must(t, "delete", "volume", "second", "--wait")
		if q := quotasOf(t, i)["volumes"]; q.GetUsed() != 3 {
			t.Errorf("when they are deleted %d are in use, want 3", q.GetUsed())
		}
	})
	t.Run("killed", func(t *testing.T) {
		op := i.Must(t, "apply", "-f", i.Document(t, "c.yaml", volumes("c", 2)), "-o", "json").Operation(t)
		i.Kill(t)
		i.Restart(t)
		r := i.Weft(t, "apply", "-f", i.Document(t, "d.yaml", volumes("d", 1))).Refused(t)
		if want := "need 1, used 5"; !strings.Contains(r.Err, want) {
			t.Errorf("after a crash it does not say %q:\n%s", want, r.Err)
		}
		i.AwaitState(t, op.ID(), "DONE")
		i.Destroy(t, "c", "DONE")
		if q := quotasOf(t, i)["volumes"]; q.GetHeld() != 0 || q.GetUsed() != 3 {
			t.Errorf("after a crash %d are held of %d in use, want 0 of 3", q.GetHeld(), q.GetUsed())
		}
	})
	t.Run("undone and cancelled", func(t *testing.T) {
		i.Cloud.Break(t, story.Fault{Service: "volume", Method: "POST", Path: "/volumes", Body: "e.v1", Effect: "status", Status: 400, Message: "no"})
		i.Apply(t, volumes("e", 2), "UNDONE")
		i.Cloud.Mend(t)
		op := i.Must(t, "apply", "-f", i.Document(t, "f.yaml", volumes("f", 2)), "-o", "json").Operation(t)
		i.Must(t, "ops", "cancel", op.ID())
		i.AwaitState(t, op.ID(), "CANCELLED")
		i.Destroy(t, stands, "DONE")
		unused(t, i)
	})
	t.Run("many at once", func(t *testing.T) {
		i.Cloud.Hurry(t)
		results := make([]<-chan story.Result, 10)
		for n := range results {
			name := fmt.Sprintf("m%d", n)
			results[n] = i.Go(t, "apply", "-f", i.Document(t, name+".yaml", volumes(name, 1)), "--wait", "-o", "json")
		}
		var done []string
		for n, c := range results {
			if r := <-c; r.Code == 0 {
				done = append(done, fmt.Sprintf("m%d", n))
			} else if !strings.Contains(r.Err, "quota of volumes does not suffice: need 1, used 5") {
				t.Errorf("want begun, or refused for the quota:\n%s", r.Err)
			}
		}
		if len(done) != 5 {
			t.Errorf("%d of ten began, want the 5 that the tenant may have: %v", len(done), done)
		}
		for _, name := range done {
			i.Destroy(t, name, "DONE")
		}
		unused(t, i)
	})
}

// TestTenantQuotaOfServers shows what a server takes by its flavor, also when it is made larger by its own API.
func TestTenantQuotaOfServers(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	i.Must(t, "create", "network", "net", "--cloud", "lab", "--wait")
	i.Must(t, "create", "subnet", "net", "--cloud", "lab", "--spec", "{network: net, cidr: 10.78.0.0/24}", "--wait")
	i.Must(t, "create", "server", "vm", "--cloud", "lab", "--spec", "{image: tiny, flavor: m1.tiny, network: net}", "--wait")
	before := quotasOf(t, i)
	if before["servers"].GetUsed() != 1 || before["vcpus"].GetUsed() == 0 || before["ramMiB"].GetUsed() == 0 {
		t.Fatalf("a server takes %v", before)
	}
	i.Must(t, "tenant", "set", "default", "--quota", fmt.Sprintf("servers=1,ramMiB=%d", before["ramMiB"].GetUsed()))
	servers := computev1.NewServerServiceClient(i.Dial(t, i.Context()))
	vm, err := servers.GetServer(t.Context(), &computev1.GetServerRequest{Name: "tenants/default/servers/vm"})
	if err != nil {
		t.Fatal(err)
	}
	vm.Spec.Flavor = "m1.nothing"
	if _, err := servers.UpdateServer(t.Context(), &computev1.UpdateServerRequest{Server: vm}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a flavor that there is not is refused with %v", err)
	}
	if after := quotasOf(t, i); after["ramMiB"].GetUsed() != before["ramMiB"].GetUsed() {
		t.Errorf("after a refusal a server takes %v, before %v", after["ramMiB"], before["ramMiB"])
	}
	vm.Spec.Flavor = "m1.small"
	_, err = servers.UpdateServer(t.Context(), &computev1.UpdateServerRequest{Server: vm})
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "tenants/default: the compute quota of ramMiB does not suffice") {
		t.Errorf("a larger flavor is refused with %v", err)
	}
	i.Must(t, "tenant", "set", "default", "--quota", "ramMiB=none")
	if _, err := servers.UpdateServer(t.Context(), &computev1.UpdateServerRequest{Server: vm}); err != nil {
		t.Fatal(err)
	}
	if after := quotasOf(t, i); after["ramMiB"].GetUsed() <= before["ramMiB"].GetUsed() || after["servers"].GetUsed() != 1 {
		t.Errorf("a larger server takes %v, before %v", after["ramMiB"], before["ramMiB"])
	}
}
