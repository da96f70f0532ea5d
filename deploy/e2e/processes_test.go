package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/embed"
)

// services are the programs that make an installation.
var services = []string{"network", "storage", "compute", "container", "orchestrator"}

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
	args := []string{"build", "-o", dir + "/", "github.com/weftcloud/weft/services/sandbox/cmd/sandboxd"}
	for _, s := range services {
		args = append(args, "github.com/weftcloud/weft/services/"+s+"/cmd/"+s+"d")
	}
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %s\n%s", err, out)
	}
	return dir
}

// port counts through the ports that address gives, so that it gives none twice.
var port = func() *atomic.Uint32 {
	var first atomic.Uint32
	first.Store(mathrand.Uint32N(12000))
	return &first
}()

// address gives a loopback address where nobody listens. Its port is none of those that the kernel gives to outgoing
// connections (32768 and up): one of them could take it before the program does that is to listen there.
func address(t *testing.T) string {
	t.Helper()
	for range 100 {
		lis, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20000+port.Add(1)%12000))
		if err != nil {
			continue
		}
		if err := lis.Close(); err != nil {
			t.Fatal(err)
		}
		return lis.Addr().String()
	}
	t.Fatal("found no port that is free")
	return ""
}

// fleet is an installation whose services are processes of their own.
type fleet struct {
	*story.Installation
	bin, dir  string
	addresses map[string]string           // of the services, etcd and NATS
	processes map[string]*process         // by the program, of further replicas with their names
	more      func(service string) string // what also stands in the configurations; nil for nothing
	store     *embed.EtcdServer           // once it is started
}

// process is one program that runs.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed once it has ended
	log   string
}

// run starts a program under a name that begins with the program's.
func (c *fleet) run(t *testing.T, name string, args ...string) {
	t.Helper()
	program, _, _ := strings.Cut(name, " ")
	p := &process{log: filepath.Join(c.dir, name+".log"), ended: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(filepath.Join(c.bin, program), args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		if err := errors.Join(p.cmd.Wait(), log.Close()); err != nil {
			t.Logf("%s ended: %s", name, err)
		}
	}()
	c.processes[name] = p
}

// start starts a service.
func (c *fleet) start(t *testing.T, service string) {
	t.Helper()
	c.run(t, service+"d", "--config", filepath.Join(c.dir, service+".yaml"))
}

// join starts another replica of a service, which listens elsewhere.
func (c *fleet) join(t *testing.T, service, replica string) {
	t.Helper()
	name := service + "-" + replica + ".yaml"
	listen := fmt.Sprintf("listen: %s\nreplica: %s\n", address(t), replica)
	_, rest, _ := strings.Cut(c.configuration(service), "\n") // which begins with the address of the first
	c.write(t, name, listen+rest)
	c.run(t, service+"d "+replica, "--config", filepath.Join(c.dir, name))
}

// kill ends a program in the middle of whatever it does.
func (c *fleet) kill(t *testing.T, program string) {
	t.Helper()
	p := c.processes[program]
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	<-p.ended
}

// says waits until a program's log has a text.
func (c *fleet) says(t *testing.T, program, text string) {
	t.Helper()
	p := c.processes[program]
	story.Await(t, program+" says "+text, func() bool {
		log, err := os.ReadFile(p.log)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-p.ended:
			t.Fatalf("%s ended:\n%s", program, log)
		default:
		}
		return bytes.Contains(log, []byte(text))
	})
}

// prepare issues certificates and writes the configurations, as whoever runs an installation does.
func prepare(t *testing.T) *fleet {
	t.Helper()
	return prepareWith(t, nil)
}

// prepareWith is prepare with more in the configurations.
func prepareWith(t *testing.T, more func(service string) string) *fleet {
	t.Helper()
	c := &fleet{more: more, Installation: &story.Installation{Dir: t.TempDir()}, bin: programs(t), dir: t.TempDir(), addresses: map[string]string{}, processes: map[string]*process{}}
	ca := filepath.Join(c.dir, "ca")
	c.Must(t, "identity", "ca", "--ca-dir", ca)
	for _, name := range append([]string{"etcd", "nats"}, services...) {
		c.addresses[name] = address(t)
		c.Must(t, "identity", "issue", "--service", name, "--ca-dir", ca, "--out", filepath.Join(c.dir, "tls", name))
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	c.write(t, "seal.key", string(key))
	for _, name := range services {
		c.write(t, name+".yaml", c.configuration(name))
	}
	c.Must(t, "identity", "issue", "ops", "--role", "operator", "--tenant", "default", "--ca-dir", ca, "--out", c.Context(),
		"--endpoint", c.addresses["orchestrator"], "--nats", "tls://"+c.addresses["nats"])
	t.Cleanup(func() {
		for program, p := range c.processes {
			c.kill(t, program)
			if log, err := os.ReadFile(p.log); t.Failed() && err == nil {
				t.Logf("the log of %s:\n%s", program, log)
			}
		}
	})
	return c
}

func (c *fleet) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// configuration is what stands in the configuration of a service.
func (c *fleet) configuration(service string) string {
	var b strings.Builder
	own := filepath.Join(c.dir, "tls", service)
	fmt.Fprintf(&b, "listen: %s\nlog: {level: info}\n", c.addresses[service])
	fmt.Fprintf(&b, "tls: {certFile: %[1]s/tls.crt, keyFile: %[1]s/tls.key, caFile: %[1]s/ca.crt}\n", own)
	fmt.Fprintf(&b, "etcd: {endpoints: [\"https://%s\"]}\nnats: {url: \"tls://%s\"}\npeers:\n", c.addresses["etcd"], c.addresses["nats"])
	for _, s := range services {
		fmt.Fprintf(&b, "  %s: %s\n", s, c.addresses[s])
	}
	if service == "orchestrator" {
		fmt.Fprintf(&b, "sealKeyFile: %s\nreplica: a\n", filepath.Join(c.dir, "seal.key"))
	}
	if c.more != nil {
		b.WriteString(c.more(service))
	}
	return b.String()
}

// serverTLS is the configuration of a server by the certificate that was issued for it.
func (c *fleet) serverTLS(t *testing.T, name string) *tls.Config {
	t.Helper()
	dir := filepath.Join(c.dir, "tls", name)
	pem, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	trust, err := auth.ParsePool(pem)
	if err != nil {
		t.Fatal(err)
	}
	return auth.ServerTLS(auth.Files(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")), trust)
}

// etcd starts etcd behind TLS.
func (c *fleet) etcd(t *testing.T) {
	t.Helper()
	server, err := embed.EtcdWith(embed.EtcdConfig{Dir: t.TempDir(), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	lis, err := net.Listen("tcp", c.addresses["etcd"])
	if err != nil {
		t.Fatal(err)
	}
	c.store = server
	config := c.serverTLS(t, "etcd")
	config.NextProtos = []string{"h2"}
	server.Serve(tls.NewListener(lis, config))
}

// nats starts NATS behind TLS.
func (c *fleet) nats(t *testing.T) {
	t.Helper()
	server, err := embed.NATS(embed.NATSConfig{
		Dir: t.TempDir(), Listen: c.addresses["nats"], TLS: c.serverTLS(t, "nats"), Authenticate: embed.ByIdentity,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
}

// sandbox starts the simulated clouds.
func (c *fleet) sandbox(t *testing.T) {
	t.Helper()
	at, box := address(t), filepath.Join(c.dir, "box")
	c.run(t, "sandboxd", "--listen", at, "--kubernetes-listen", address(t), "--admin-token", "open", "--out", box)
	c.Cloud = &story.Cloud{URL: "http://" + at, Token: "open"}
	story.Await(t, "the sandbox answers", func() bool {
		conn, err := net.DialTimeout("tcp", at, time.Second)
		return err == nil && conn.Close() == nil
	})
}

// register tells the installation of the clouds.
func (c *fleet) register(t *testing.T) {
	t.Helper()
	for program := range c.processes {
		if strings.HasSuffix(program, "d") && program != "sandboxd" || strings.HasPrefix(program, "orchestratord") {
			c.says(t, program, `"ready"`)
		}
	}
	story.Await(t, "the front door answers", func() bool { return c.Weft(t, "tenant", "list").Code == 0 })
	c.Must(t, "tenant", "add", "default")
	clouds := []string{"OS_CLIENT_CONFIG_FILE=" + filepath.Join(c.dir, "box", "clouds.yaml")}
	(<-c.GoIn(t, clouds, "cloud", "add", "lab", "--driver", "openstack", "--os-cloud", "sandbox")).Ok(t)
	c.Must(t, "secret", "put", "kube", "--from-file", "kubeconfig="+filepath.Join(c.dir, "box", "kubeconfig"))
}

// TestProcesses runs every service in a process of its own, as an installation on several machines does. They start in
// any order and before etcd and NATS; one of them is killed in the middle of an apply; at the end each ends in order.
func TestProcesses(t *testing.T) {
	c := prepare(t)
	c.sandbox(t)
	began := time.Now()
	mark := func(what string) { t.Logf("%5.1f s: %s", time.Since(began).Seconds(), what) }
	order := append([]string{}, services...)
	mathrand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	t.Logf("the services start in the order %v", order)
	for _, s := range order[:3] {
		c.start(t, s)
	}
	c.says(t, order[0]+"d", `"awaiting":"etcd"`)
	c.etcd(t)
	c.says(t, order[0]+"d", `"awaiting":"NATS"`)
	c.nats(t)
	c.says(t, order[0]+"d", `"ready"`)
	for _, s := range order[3:] {
		c.start(t, s)
	}
	c.register(t)
	for _, kind := range []string{"networks", "volumes", "servers", "clusters"} {
		story.Await(t, "the service of "+kind+" answers", func() bool { return c.Weft(t, "get", kind).Code == 0 })
	}
	nothing := c.Cloud.Inventory(t)
	mark("all services answer")

	since := c.Cloud.Last(t)
	c.Cloud.Latency(t, "compute.server.active", "1s")
	running := c.Go(t, "apply", "-f", c.Document(t, "shop.yaml", shop(t)), "--wait", "-o", "json")
	c.during(t, running, since)
	c.kill(t, "computed")
	c.start(t, "compute")
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
	c.sandbox(t)
	c.etcd(t)
	c.nats(t)
	for _, s := range services {
		c.start(t, s)
	}
	c.register(t)
	for _, s := range []string{"network", "compute"} {
		c.join(t, s, "b")
		c.says(t, s+"d b", `"joined the replicas"`)
	}
	nothing := c.Cloud.Inventory(t)

	began := time.Now()
	slow := c.Cloud.Break(t, story.Fault{Service: "network", Method: "POST", Path: "/subnets", Effect: "delay", Delay: "1s", Times: 6})
	running := c.Go(t, "apply", "-f", c.Document(t, "many.yaml", many(6)), "--wait", "-o", "json")
	c.Cloud.AwaitStruck(t, slow)
	c.kill(t, "networkd b")
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
	delete(c.processes, "networkd b")

	// What is destroyed is, too, when a service's other process is asked to end meanwhile.
	destroying := c.Go(t, "destroy", "many", "--wait", "-o", "json")
	c.ends(t, "computed")
	c.start(t, "compute")
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
	if err := c.processes[name].cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

func (c *fleet) awaitEnd(t *testing.T, name string) {
	t.Helper()
	p := c.processes[name]
	select {
	case <-p.ended:
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
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
	for name := range c.processes {
		if name != "sandboxd" {
			names = append(names, name)
			c.signal(t, name)
		}
	}
	for _, name := range names {
		c.awaitEnd(t, name)
	}
}
