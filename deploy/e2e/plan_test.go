package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// house is the document that the edits of this story change.
const house = `kind: Stack
name: house
placement: {cloud: lab}
resources:
  net: {kind: Network, spec: {}}
  subnet: {kind: Subnet, spec: {network: net, cidr: 10.70.0.0/24}}
  router: {kind: Router, spec: {externalNetwork: public, subnets: [subnet]}}
  wall: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: "80"}]}}
  data: {kind: Volume, spec: {size: 2Gi, reclaim: DESTROY}}
  key: {kind: KeyPair, spec: {publicKey: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0v1h7mXyV9G6Zp7o2Ff7gkL9cQJ4nT1uQd5y8wXb3K me"}}
  vm: {kind: Server, spec: {image: tiny, flavor: m1.tiny, network: net, securityGroups: [wall], metadata: {role: a}}}
  lone: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}
  ip: {kind: FloatingIP, spec: {externalNetwork: public, server: vm}}
  apps: {kind: Cluster, spec: {driver: ADOPT, credentials: kube}}
  web: {kind: Workload, spec: {cluster: apps, replicas: 1, containers: [{name: web, image: pause, ports: [80]}]}}
`

// edit is one change of the document, and what the plan must say of it: by local name, the kind of change.
type edit struct {
	name     string
	from, to string
	want     map[string]string
	loses    string // the resource whose data is lost, if any
}

var edits = []edit{
	{"nothing", "", "", map[string]string{}, ""},
	{"a rule", `ports: "80"`, `ports: "443"`, map[string]string{"wall": "IN_PLACE"}, ""},
	{"metadata", "role: a", "role: b", map[string]string{"vm": "IN_PLACE"}, ""},
	{"a volume grows", "size: 2Gi", "size: 3Gi", map[string]string{"data": "IN_PLACE"}, ""},
	{"more copies", "replicas: 1", "replicas: 2", map[string]string{"web": "IN_PLACE"}, ""},
	{"name servers", "cidr: 10.70.0.0/24", "dnsServers: [1.1.1.1], cidr: 10.70.0.0/24", map[string]string{"subnet": "IN_PLACE"}, ""},
	{"a bigger machine", "flavor: m1.tiny", "flavor: m1.small", map[string]string{"vm": "RESTART"}, ""},
	{"something new", "  ip:", "  second: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}\n  ip:", map[string]string{"second": "CREATE"}, ""},
	{"something less", "  lone: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}\n", "", map[string]string{"lone": "DELETE"}, "lone"},
	{"a volume shrinks", "size: 3Gi", "size: 1Gi", map[string]string{"data": "REPLACE"}, "data"},
	{"another key", "XyV9G6Zp7o2Ff7gkL9cQJ4nT1uQd5y8wXb3K", "XyV9G6Zp7o2Ff7gkL9cQJ4nT1uQd5y8wXb4K", map[string]string{"key": "REPLACE"}, ""},
	{"another image", "image: tiny, flavor", "image: debian-12, flavor", map[string]string{"vm": "REPLACE", "ip": "IN_PLACE"}, "vm"},
	{"two at once", "role: b", "role: c", map[string]string{"vm": "IN_PLACE", "web": "IN_PLACE"}, ""},
	{"the address goes", "  ip: {kind: FloatingIP, spec: {externalNetwork: public, server: vm}}\n", "", map[string]string{"ip": "DELETE"}, ""},
}

// TestPlan shows that a plan names each change and its kind, and that applying touches the objects of these changes and
// no others: every call that can change something at the clouds is laid at the door of a resource in the plan.
func TestPlan(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	nothing := i.Cloud.Inventory(t)
	document := house
	i.Apply(t, document, "DONE")
	for _, e := range edits {
		ok := t.Run(e.name, func(t *testing.T) {
			next := document
			if e.from != "" {
				if !strings.Contains(document, e.from) {
					t.Fatalf("the document has no %q to change", e.from)
				}
				next = strings.Replace(document, e.from, e.to, 1)
			}
			if e.name == "two at once" {
				next = strings.Replace(next, "replicas: 2", "replicas: 1", 1)
			}
			document = next
			planned(t, i, e, next)
		})
		if !ok {
			break // what follows builds on it
		}
	}
	i.Destroy(t, "house", "DONE")
	i.NothingLeft(t, nothing)
}

// TestResize changes a machine's size at a cloud that takes its time to confirm it: the change is sent once, not again
// with every look.
func TestResize(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	i.Cloud.Latency(t, "compute.server.resize_confirmed", "1s")
	i.Apply(t, stackOf("grown", machine), "DONE")
	since := i.Cloud.Last(t)
	i.Apply(t, stackOf("grown", strings.Replace(machine, "m1.tiny", "m1.small", 1)), "DONE", "--timeout", "60s")
	if calls := i.Cloud.Mutations(t, since); len(calls) > 10 {
		t.Errorf("one resize took %d calls: %v", len(calls), calls)
	}
	i.Destroy(t, "grown", "DONE")
}

func planned(t *testing.T, i *story.Installation, e edit, document string) {
	t.Helper()
	since := i.Cloud.Last(t)
	p := i.Plan(t, document)
	if calls := i.Cloud.Mutations(t, since); len(calls) > 0 && !dryRuns(calls) {
		t.Errorf("planning changed something: %v", calls)
	}
	got := map[string]string{}
	for _, c := range p.GetChanges() {
		got[c.GetLocalName()] = story.ChangeName(c.GetChange())
		if (c.GetDataLoss() != "") != (c.GetLocalName() == e.loses) {
			t.Errorf("%s: data loss is %q", c.GetLocalName(), c.GetDataLoss())
		}
	}
	if diff := cmp.Diff(e.want, got); diff != "" {
		t.Fatalf("the plan's changes (-want +got):\n%s", diff)
	}
	doors := owners(i.Stack(t, "house"), i.Cloud.Inventory(t))
	since = i.Cloud.Last(t)
	i.Apply(t, document, "DONE")
	maps.Copy(doors, owners(i.Stack(t, "house"), i.Cloud.Inventory(t)))
	touched(t, p, doors, i.Cloud.Mutations(t, since))
	if again := i.Plan(t, document); len(again.GetChanges()) != 0 {
		t.Errorf("applied, the document still changes something: %v", again.GetChanges())
	}
}

// dryRuns tells whether all calls are Kubernetes' dry runs, which change nothing.
func dryRuns(calls []story.Call) bool {
	return !slices.ContainsFunc(calls, func(c story.Call) bool { return !strings.Contains(c.Query, "dryRun=All") })
}

// owners tells which resource an object at the cloud belongs to, by the object's id, and for Kubernetes by its name.
func owners(s *orchestratorv1.Stack, in story.Inventory) map[string]string {
	out := map[string]string{}
	for _, r := range s.GetResources() {
		if id := r.GetStatus().GetProviderId(); id != "" {
			out[id] = r.GetLocalName()
		}
		out["house-"+r.GetLocalName()] = r.GetLocalName()
	}
	for _, item := range in { // what hangs on something: a port on its machine
		if owner, ok := out[item.Metadata["device_id"]]; ok {
			out[item.ID] = owner
		}
	}
	return out
}

// makers tells which type of resource a call makes, by the end of the path that it is posted to.
var makers = map[string]string{
	"networks": "Network", "subnets": "Subnet", "routers": "Router", "security-groups": "SecurityGroup", "floatingips": "FloatingIP",
	"servers": "Server", "os-keypairs": "KeyPair", "volumes": "Volume", "os-volume_attachments": "VolumeAttachment",
}

// parts tells whose type a part is that has ids of its own: rules of a security group.
var parts = map[string]string{"security-group-rules": "SecurityGroup", "ports": "Server"}

// touched fails the test unless every call belongs to a change of the plan, and every change has its calls.
func touched(t *testing.T, p *orchestratorv1.Plan, doors map[string]string, calls []story.Call) {
	t.Helper()
	changes := map[string]*orchestratorv1.ResourceChange{}
	for _, c := range p.GetChanges() {
		changes[c.GetLocalName()] = c
	}
	seen := map[string]bool{}
	for _, call := range calls {
		if strings.Contains(call.Query, "dryRun=All") {
			continue
		}
		found := false
		for name, c := range changes {
			if touches(call, name, c, doors) {
				seen[name], found = true, true
			}
		}
		if !found {
			t.Errorf("%s touches what the plan does not name", call)
		}
	}
	for name := range changes {
		if !seen[name] {
			t.Errorf("the plan changes %s, and no call touched it: %v", name, calls)
		}
	}
}

func touches(call story.Call, name string, c *orchestratorv1.ResourceChange, doors map[string]string) bool {
	segments := strings.Split(strings.Trim(call.Path, "/"), "/")
	typ := c.GetType()[strings.LastIndexByte(c.GetType(), '/')+1:]
	last := segments[len(segments)-1]
	if call.Method == "POST" && makers[last] == typ && slices.Contains([]string{"CREATE", "REPLACE"}, story.ChangeName(c.GetChange())) {
		return true
	}
	return slices.ContainsFunc(segments, func(s string) bool {
		return doors[s] == name || parts[s] == typ && doors[last] == ""
	}) || last == fmt.Sprintf("house.%s", name)
}
