package e2e

import (
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
)

// programsIn is the environment variable that names a folder with the programs; without it they are built.
const programsIn = "WEFT_PROGRAMS"

// programs builds them, and the sandbox, beside the binary, and gives their folder. What was built by another story is
// found up to date.
func programs(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv(programsIn); dir != "" {
		return dir
	}
	dir := filepath.Join(filepath.Dir(os.Getenv(story.Binary)), "programs")
	if err := story.BuildFleet(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// fleet is an installation whose services are processes of their own.
type fleet struct{ *story.Fleet }

// prepare prepares one, of which nothing is started.
func prepare(t *testing.T) *fleet {
	t.Helper()
	return prepareWith(t, nil)
}

// prepareWith is prepare with more in the configurations.
func prepareWith(t *testing.T, more func(service string) string) *fleet {
	t.Helper()
	return &fleet{story.NewFleet(t, programs(t), more)}
}

// TestProcesses runs every service in a process of its own, as an installation on several machines does. They start in
// any order and before etcd and NATS; one of them is killed in the middle of an apply; at the end each ends in order.
func TestProcesses(t *testing.T) {
	c := prepare(t)
	c.StartSandbox(t)
	began := time.Now()
	mark := func(what string) { t.Logf("%5.1f s: %s", time.Since(began).Seconds(), what) }
	order := append([]string{}, story.Services()...)
	mathrand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	t.Logf("the services start in the order %v", order)
	for _, s := range order[:3] {
		c.Start(t, s)
	}
	c.Says(t, order[0]+"d", `"awaiting":"etcd"`)
	c.StartEtcd(t)
	c.Says(t, order[0]+"d", `"awaiting":"NATS"`)
	c.StartNATS(t)
	c.Says(t, order[0]+"d", `"ready"`)
	for _, s := range order[3:] {
		c.Start(t, s)
	}
	c.Register(t)
	for _, kind := range []string{"networks", "volumes", "servers", "clusters"} {
		story.Await(t, "the service of "+kind+" answers", func() bool { return c.Weft(t, "get", kind).Code == 0 })
	}
	nothing := c.Cloud.Inventory(t)
	mark("all services answer")

	since := c.Cloud.Last(t)
	c.Cloud.Latency(t, "compute.server.active", "1s")
	running := c.Go(t, "apply", "-f", c.Document(t, "shop.yaml", shop(t)), "--wait", "-o", "json")
	c.during(t, running, since)
	c.Kill(t, "computed")
	c.Start(t, "compute")
	mark("the compute service was killed and started again")
	(<-running).Ended(t, "DONE")
	mark("the apply is done")
	want := map[string]int{"compute.server": 1, "volume.volume": 1, "network.network": 1, "network.subnet": 1, "network.router": 1, "network.floatingip": 1}
	got := c.Cloud.Inventory(t).Counts()
	for kind, n := range want {
		if got[kind] != n {
			t.Errorf("the cloud has %d of %s, want %d", got[kind], kind, n)
		}
	}
	unique(t, c.Cloud.Inventory(t))
	c.Destroy(t, "shop", "DONE")
	c.NothingLeft(t, nothing)
	mark("nothing is left")
	c.end(t)
	mark("all services ended")
}

// TestReplicas runs two processes of the network and of the compute service beside one of each other, and kills one of
// them in the middle of an apply, while it makes objects: the other finds what was made, and makes what was not, in good
// time. In the end there is exactly one object for each resource.
func TestReplicas(t *testing.T) {
	c := prepare(t)
	c.StartSandbox(t)
	c.StartEtcd(t)
	c.StartNATS(t)
	for _, s := range story.Services() {
		c.Start(t, s)
	}
	c.Register(t)
	for _, s := range []string{"network", "compute"} {
		c.Join(t, s, "b")
		c.Says(t, s+"d b", `"joined the replicas"`)
	}
	nothing := c.Cloud.Inventory(t)

	began := time.Now()
	slow := c.Cloud.Break(t, story.Fault{Service: "network", Method: "POST", Path: "/subnets", Effect: "delay", Delay: "1s", Times: 6})
	running := c.Go(t, "apply", "-f", c.Document(t, "many.yaml", many(6)), "--wait", "-o", "json")
	c.Cloud.AwaitStruck(t, slow)
	c.Kill(t, "networkd b")
	t.Logf("%5.1f s: one of the network services was killed", time.Since(began).Seconds())
	(<-running).Ended(t, "DONE")
	t.Logf("%5.1f s: the apply is done", time.Since(began).Seconds())
	in := c.Cloud.Inventory(t)
	want := map[string]int{"network.network": 6, "network.subnet": 6, "compute.server": 2}
	got := in.Counts()
	for kind, n := range want {
		if got[kind] != n {
			t.Errorf("the cloud has %d of %s, want %d", got[kind], kind, n)
		}
	}
	unique(t, in)
	delete(c.Processes, "networkd b")

	// What is destroyed is, too, when a service's other process is asked to end meanwhile.
	destroying := c.Go(t, "destroy", "many", "--wait", "-o", "json")
	c.ends(t, "computed")
	c.Start(t, "compute")
	(<-destroying).Ended(t, "DONE")
	c.NothingLeft(t, nothing)
	t.Logf("%5.1f s: nothing is left", time.Since(began).Seconds())
	c.end(t)
}

// many is a document of some networks with a subnet each, and two servers.
func many(networks int) string {
	var b strings.Builder
	b.WriteString("kind: Stack\nname: many\nplacement: {cloud: lab}\nresources:\n")
	for i := range networks {
		fmt.Fprintf(&b, "  net%[1]d: {kind: Network, spec: {}}\n  subnet%[1]d: {kind: Subnet, spec: {network: net%[1]d, cidr: 10.7%[1]d.0.0/24}}\n", i)
	}
	for i := range min(2, networks) {
		fmt.Fprintf(&b, "  vm%[1]d: {kind: Server, spec: {image: tiny, flavor: m1.tiny, network: net%[1]d}}\n", i)
	}
	return b.String()
}

// during waits until the cloud was asked for a server, and fails the test if the apply ends before.
func (c *fleet) during(t *testing.T, running <-chan story.Result, since uint64) {
	t.Helper()
	story.Await(t, "the cloud is asked for a server", func() bool {
		select {
		case r := <-running:
			t.Fatalf("the apply ended before: exit code %d\n%s\n%s", r.Code, r.Err, r.Out)
		default:
		}
		return slices.ContainsFunc(c.Cloud.Mutations(t, since), func(call story.Call) bool { return call.Method == "POST" && strings.HasSuffix(call.Path, "/servers") })
	})
}

// ends asks a program to end, which it does with exit code 0.
func (c *fleet) ends(t *testing.T, name string) {
	t.Helper()
	c.signal(t, name)
	c.awaitEnd(t, name)
}

func (c *fleet) signal(t *testing.T, name string) {
	t.Helper()
	c.Processes[name].Signal(t, syscall.SIGTERM)
}

func (c *fleet) awaitEnd(t *testing.T, name string) {
	t.Helper()
	p := c.Processes[name]
	select {
	case <-p.Ended():
		if code := p.ExitCode(); code != 0 {
			t.Errorf("%s ended with exit code %d after SIGTERM", name, code)
		}
	case <-time.After(20 * time.Second):
		t.Errorf("%s did not end within 20 s of SIGTERM", name)
	}
}

// end asks every service to end.
func (c *fleet) end(t *testing.T) {
	t.Helper()
	var names []string
	for name := range c.Processes {
		if name != "sandboxd" {
			names = append(names, name)
			c.signal(t, name)
		}
	}
	for _, name := range names {
		c.awaitEnd(t, name)
	}
}
