package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// scaleVariable is the environment variable that says of how many stacks BenchmarkScale makes the larger installation; the
// smaller has a tenth of them.
const scaleVariable = "WEFT_SCALE"

// Of the sizes: a tenant has ten stacks, and so many are under way at once, however many there are.
const (
	stacksPerTenant = 10
	atOnce          = 16
)

// tenResources is a stack of ten resources.
func tenResources(name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "kind: Stack\nname: %s\nplacement: {cloud: lab}\nresources:\n", name)
	b.WriteString("  net: {kind: Network, spec: {}}\n" +
		"  sub: {kind: Subnet, spec: {network: net, cidr: 10.0.0.0/24}}\n" +
		"  rtr: {kind: Router, spec: {externalNetwork: public, subnets: [sub]}}\n" +
		"  wall: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: \"80\"}]}}\n")
	for s := range 2 {
		fmt.Fprintf(&b, "  vol%[1]d: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}\n"+
			"  srv%[1]d: {kind: Server, spec: {image: tiny, flavor: m1.tiny, network: net, securityGroups: [wall], volumes: [{volume: vol%[1]d}]}}\n"+
			"  fip%[1]d: {kind: FloatingIP, spec: {server: srv%[1]d}}\n", s)
	}
	return b.String()
}

const resourcesPerStack = 10

// scaled is what was seen of an installation with so many stacks.
type scaled struct {
	stacks      int
	wall        time.Duration // to make them
	cpu         time.Duration // of the platform, to make them
	calls       int           // at the cloud, to make them
	empty, full int           // resident bytes before and after
	idleCalls   map[string]int
	idle        time.Duration
	idleCPU     time.Duration
}

func (s *scaled) resources() float64 { return float64(s.stacks * resourcesPerStack) }

// perStack is how many bytes a stack adds.
func (s *scaled) perStack() float64 { return float64(s.full-s.empty) / float64(s.stacks) }

// BenchmarkScale makes many stacks of many tenants at a sandbox that is a process of its own, so that memory and CPU are
// the platform's, with its etcd and NATS: once a tenth of them, once all, each in an installation of its own. Then it looks
// at what the platform does while all stand. What it prints as growth is what ten times as many cost, over ten times what a
// tenth costs: 1 is linear.
func BenchmarkScale(b *testing.B) {
	n := 50
	if text := os.Getenv(scaleVariable); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 10 {
			b.Fatalf("%s=%s: want a number of stacks from 10", scaleVariable, text)
		}
	}
	sandboxd := filepath.Join(b.TempDir(), "sandboxd")
	if out, err := exec.Command("go", "build", "-o", sandboxd, "github.com/weftcloud/weft/services/sandbox/cmd/sandboxd").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	for b.Loop() {
		small, large := scale(b, sandboxd, n/10), scale(b, sandboxd, n)
		b.Run("growth", func(b *testing.B) { grown(b, small, large) })
	}
}

// grown reports the larger installation, and what it cost beside the smaller.
func grown(b *testing.B, small, large *scaled) {
	for b.Loop() {
		grown := float64(large.stacks) / float64(small.stacks)
		b.ReportMetric(float64(large.calls)/large.resources(), "API-calls/resource")
		b.ReportMetric(float64(large.full)/(1<<20), "MiB-resident")
		b.ReportMetric(large.perStack()/1024, "KiB/stack")
		b.ReportMetric(large.cpu.Seconds()*1000/float64(large.stacks), "ms-CPU/stack")
		b.ReportMetric(large.wall.Seconds()/(grown*small.wall.Seconds()), "growth-wall")
		b.ReportMetric(large.cpu.Seconds()/(grown*small.cpu.Seconds()), "growth-CPU")
		b.ReportMetric(float64(large.full-large.empty)/(grown*float64(small.full-small.empty)), "growth-memory")
		b.ReportMetric(float64(large.calls)/(grown*float64(small.calls)), "growth-calls")
		idle := 0
		for _, calls := range large.idleCalls {
			idle += calls
		}
		b.ReportMetric(float64(idle)/large.idle.Minutes(), "idle-calls/min")
		b.ReportMetric(100*large.idleCPU.Seconds()/large.idle.Seconds(), "idle-%-of-a-core")
	}
}

// scale makes stacks in a new installation, and looks at it while they stand.
func scale(b *testing.B, sandboxd string, stacks int) *scaled {
	b.Helper()
	var out *scaled
	b.Run(fmt.Sprintf("%d stacks", stacks), func(b *testing.B) {
		i := outside(b, sandboxd)
		conn := i.Dial(b, i.Context())
		tenants := (stacks + stacksPerTenant - 1) / stacksPerTenant
		for t := range tenants {
			_, err := orchestratorv1.NewTenantServiceClient(conn).CreateTenant(b.Context(), &orchestratorv1.CreateTenantRequest{
				TenantId: fmt.Sprintf("t%d", t), Tenant: &orchestratorv1.Tenant{Spec: &orchestratorv1.TenantSpec{Quotas: &orchestratorv1.TenantQuotas{Servers: new(int64(1000))}}},
			})
			if err != nil {
				b.Fatal(err)
			}
		}
		i.Apply(b, tenResources("warm"), "DONE")
		i.Destroy(b, "warm", "DONE")
		s := &scaled{stacks: stacks, empty: settled(b, i.Pid())}
		since, began, used := i.Cloud.Last(b), time.Now(), cpu(b, i.Pid())
		applyAll(b, conn, stacks, tenants)
		s.wall, s.cpu = time.Since(began), cpu(b, i.Pid())-used
		calls := i.Cloud.Calls(b, since)
		s.calls, s.full = len(calls), settled(b, i.Pid())
		b.Logf("%d stacks of %d resources: %.1f s, %.1f s CPU, %.2f API calls each resource, resident %d → %d MiB\n%s",
			stacks, resourcesPerStack, s.wall.Seconds(), s.cpu.Seconds(), float64(s.calls)/s.resources(), s.empty>>20, s.full>>20, tally(counted(calls), float64(stacks), "a stack"))
		s.watch(b, i)
		out = s
	})
	if out == nil {
		b.FailNow()
	}
	return out
}

// sandbox starts a sandbox, and gives its address and the folder with what leads to it. Where another program was quicker to
// take the address it takes another.
func sandbox(b *testing.B, sandboxd string) (at, box string) {
	b.Helper()
	for range 5 {
		at, box = story.Address(b), b.TempDir()
		cmd := exec.Command(sandboxd, "--listen", at, "--kubernetes-listen", story.Address(b), "--admin-token", "open", "--out", box)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		died := false
		story.Await(b, "the sandbox is there", func() bool {
			select {
			case err := <-ended:
				b.Logf("the sandbox ended: %v", err)
				died = true
			default:
			}
			written, err := os.Stat(filepath.Join(box, "clouds.yaml")) // when the addresses are taken
			return died || err == nil && written.Size() > 0
		})
		if died {
			continue
		}
		b.Cleanup(func() {
			if err := cmd.Process.Kill(); err != nil {
				b.Error(err)
			}
			b.Logf("the sandbox ended: %v", <-ended)
		})
		return at, box
	}
	b.Fatal("no sandbox starts")
	return "", ""
}

// outside starts a sandbox and an installation without one, which knows it as its cloud.
func outside(b *testing.B, sandboxd string) *story.Installation {
	b.Helper()
	at, box := sandbox(b, sandboxd)
	i := story.Start(b, "--no-sandbox")
	i.Cloud = &story.Cloud{URL: "http://" + at, Token: "open"}
	(<-i.GoIn(b, []string{"OS_CLIENT_CONFIG_FILE=" + filepath.Join(box, "clouds.yaml")}, "cloud", "add", "lab", "--driver", "openstack", "--os-cloud", "sandbox")).Ok(b)
	for service, names := range map[string][]string{
		"compute": {"instances", "cores", "ram"}, "volume": {"volumes", "gigabytes"},
		"network": {"network", "subnet", "router", "port", "floatingip", "security_group", "security_group_rule"},
	} {
		for _, name := range names {
			i.Cloud.Quota(b, service, map[string]int{name: -1})
		}
	}
	return i
}

// applyAll applies stacks, some at once, and waits until all are done.
func applyAll(b *testing.B, conn *grpc.ClientConn, stacks, tenants int) {
	b.Helper()
	client, operations := orchestratorv1.NewStackServiceClient(conn), longrunningpb.NewOperationsClient(conn)
	next := make(chan int)
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for n := range next {
				if err := applyOne(b.Context(), client, operations, fmt.Sprintf("tenants/t%d", n%tenants), fmt.Sprintf("s%d", n)); err != nil {
					b.Errorf("stack %d: %v", n, err)
				}
			}
		})
	}
	for n := range stacks {
		next <- n
	}
	close(next)
	wg.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

func applyOne(ctx context.Context, client orchestratorv1.StackServiceClient, operations longrunningpb.OperationsClient, tenant, name string) error {
	op, err := client.ApplyStack(ctx, &orchestratorv1.ApplyStackRequest{Parent: tenant, Document: tenResources(name)})
	for err == nil && !op.GetDone() {
		op, err = operations.WaitOperation(ctx, &longrunningpb.WaitOperationRequest{Name: op.GetName(), Timeout: durationpb.New(30 * time.Second)})
	}
	if err != nil {
		return err
	}
	if op.GetError() != nil {
		return errors.New(op.GetError().GetMessage())
	}
	return nil
}

// settled gives the resident bytes of a process once they have stayed about the same for a while, or after a minute.
func settled(b *testing.B, pid int) int {
	b.Helper()
	last := resident(b, pid)
	for range 12 {
		time.Sleep(5 * time.Second)
		now := resident(b, pid)
		if now > last*98/100 && now < last*102/100 {
			return now
		}
		last = now
	}
	return last
}

// watch looks at what the platform does while all stands, for two rounds of observation.
func (s *scaled) watch(b *testing.B, i *story.Installation) {
	b.Helper()
	since, began, used := i.Cloud.Last(b), time.Now(), cpu(b, i.Pid())
	time.Sleep(time.Minute)
	s.idle, s.idleCPU, s.idleCalls = time.Since(began), cpu(b, i.Pid())-used, counted(i.Cloud.Calls(b, since))
	b.Logf("%d stacks stand: %.1f %% of a core\n%s", s.stacks, 100*s.idleCPU.Seconds()/s.idle.Seconds(), tally(s.idleCalls, s.idle.Minutes(), "a minute"))
}

// counted counts calls by what they ask for.
func counted(calls []story.Call) map[string]int {
	out := map[string]int{}
	for _, c := range calls {
		out[c.Service+" "+cmp.Or(c.Operation, c.Method+" "+c.Path)]++
	}
	return out
}

// tally shows counts, the most frequent first.
func tally(counts map[string]int, by float64, of string) string {
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return cmp.Or(counts[b]-counts[a], cmp.Compare(a, b)) })
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "  %8.2f %s: %s\n", float64(counts[name])/by, of, name)
	}
	return b.String()
}
