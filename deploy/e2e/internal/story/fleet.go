package story

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
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/crash"
	"github.com/weftcloud/weft/pkg/embed"
)

// Services are the services that make an installation of several processes; the program of each has a d at its end.
func Services() []string {
	return []string{"network", "storage", "compute", "container", "orchestrator"}
}

// BuildFleet builds the services and the sandbox into dir, with further flags of go build. What was built before is found
// up to date.
func BuildFleet(dir string, flags ...string) error {
	return BuildServices(dir, flags, append([]string{"sandbox"}, Services()...)...)
}

// BuildServices builds some of them.
func BuildServices(dir string, flags []string, services ...string) error {
	args := append(append([]string{"build"}, flags...), "-o", dir+"/")
	for _, s := range services {
		args = append(args, "github.com/weftcloud/weft/services/"+s+"/cmd/"+s+"d")
	}
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	return nil
}

// port counts through the ports that Address gives, so that it gives none twice.
var port = func() *atomic.Uint32 {
	var first atomic.Uint32
	first.Store(mathrand.Uint32N(12000))
	return &first
}()

// Address gives a loopback address where nobody listens. Its port is none of those that the kernel gives to outgoing
// connections (32768 and up): one of them could take it before the program does that is to listen there.
func Address(t testing.TB) string {
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

// Fleet is an installation whose services are processes of their own: when one dies the others, etcd, NATS and the cloud
// live on. Its Dir holds the certificates, the configurations and the logs.
type Fleet struct {
	*Installation
	// Bin is the folder of the programs. It counts for what is started from now on.
	Bin string
	// Addresses are those of the services, of etcd and of NATS.
	Addresses map[string]string
	// Processes are those that were started, by the program, of further replicas with their names.
	Processes map[string]*Process
	// Store is etcd, once it is started.
	Store *embed.EtcdServer

	more func(service string) string
}

// Process is one program of a fleet.
type Process struct {
	fleet   *Fleet
	bin     string
	name    string
	args    []string
	process *os.Process
	state   *os.ProcessState // once it has ended
	ended   chan struct{}    // closed once it has ended
}

// NewFleet issues certificates and writes the configurations, as whoever runs an installation does; it starts nothing. more
// gives what also stands in the configuration of a service; nil for nothing. What is started lasts as long as the test, and
// the logs are shown if that fails.
func NewFleet(t testing.TB, bin string, more func(service string) string) *Fleet {
	t.Helper()
	f := &Fleet{
		Installation: &Installation{Dir: t.TempDir()}, Bin: bin, Addresses: map[string]string{}, Processes: map[string]*Process{}, more: more,
	}
	ca := filepath.Join(f.Dir, "ca")
	f.Must(t, "identity", "ca", "--ca-dir", ca)
	for _, name := range append([]string{"etcd", "nats"}, Services()...) {
		f.Addresses[name] = Address(t)
		f.Must(t, "identity", "issue", "--service", name, "--ca-dir", ca, "--out", filepath.Join(f.Dir, "tls", name))
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	f.Write(t, "seal.key", string(key))
	for _, name := range Services() {
		f.Write(t, name+".yaml", f.Configuration(name))
	}
	f.Must(t, "identity", "issue", "ops", "--role", "operator", "--tenant", "default", "--ca-dir", ca, "--out", f.Context(),
		"--endpoint", f.Addresses["orchestrator"], "--nats", "tls://"+f.Addresses["nats"])
	t.Cleanup(func() {
		for program, p := range f.Processes {
			f.Kill(t, program)
			if log, err := os.ReadFile(p.log()); t.Failed() && err == nil {
				t.Logf("the log of %s:\n%s", program, log)
			}
		}
	})
	return f
}

// Write writes a file of the fleet.
func (f *Fleet) Write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.Dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Configuration is what stands in the configuration of a service. Only the orchestrator is told the name of its replica:
// former builds of the others know none.
func (f *Fleet) Configuration(service string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "listen: %s\nlog: {level: info}\n", f.Addresses[service])
	fmt.Fprintf(&b, "tls: {certFile: %[1]s/tls.crt, keyFile: %[1]s/tls.key, caFile: %[1]s/ca.crt}\n", filepath.Join(f.Dir, "tls", service))
	fmt.Fprintf(&b, "etcd: {endpoints: [\"https://%s\"]}\nnats: {url: \"tls://%s\"}\npeers:\n", f.Addresses["etcd"], f.Addresses["nats"])
	for _, s := range Services() {
		fmt.Fprintf(&b, "  %s: %s\n", s, f.Addresses[s])
	}
	if service == "orchestrator" {
		fmt.Fprintf(&b, "replica: a\nsealKeyFile: %s\n", filepath.Join(f.Dir, "seal.key"))
	}
	if f.more != nil {
		b.WriteString(f.more(service))
	}
	return b.String()
}

// Run starts a program under a name that begins with the program's.
func (f *Fleet) Run(t testing.TB, name string, args ...string) {
	t.Helper()
	p := &Process{fleet: f, bin: f.Bin, name: name, args: args}
	p.launch(t)
	f.Processes[name] = p
}

// Start starts a service.
func (f *Fleet) Start(t testing.TB, service string) {
	t.Helper()
	f.Run(t, service+"d", "--config", filepath.Join(f.Dir, service+".yaml"))
}

// Join starts another replica of a service but the orchestrator, which listens elsewhere.
func (f *Fleet) Join(t testing.TB, service, replica string) {
	t.Helper()
	name := service + "-" + replica + ".yaml"
	_, rest, _ := strings.Cut(f.Configuration(service), "\n") // which begins with the address of the first
	f.Write(t, name, fmt.Sprintf("listen: %s\nreplica: %s\n", Address(t), replica)+rest)
	f.Run(t, service+"d "+replica, "--config", filepath.Join(f.Dir, name))
}

// Kill ends a program in the middle of whatever it does.
func (f *Fleet) Kill(t testing.TB, program string) {
	t.Helper()
	p := f.Processes[program]
	if err := p.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	<-p.ended
}

// Says waits until a program's log has a text.
func (f *Fleet) Says(t testing.TB, program, text string) {
	t.Helper()
	p := f.Processes[program]
	Await(t, program+" says "+text, func() bool {
		log := p.said(t)
		if p.hasEnded() {
			t.Fatalf("%s ended:\n%s", program, log)
		}
		return bytes.Contains(log, []byte(text))
	})
}

// ServerTLS is the configuration of a server by the certificate that was issued for it.
func (f *Fleet) ServerTLS(t testing.TB, name string) *tls.Config {
	t.Helper()
	dir := filepath.Join(f.Dir, "tls", name)
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

// StartEtcd starts etcd behind TLS, within this process.
func (f *Fleet) StartEtcd(t testing.TB) {
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
	lis, err := net.Listen("tcp", f.Addresses["etcd"])
	if err != nil {
		t.Fatal(err)
	}
	f.Store = server
	config := f.ServerTLS(t, "etcd")
	config.NextProtos = []string{"h2"}
	server.Serve(tls.NewListener(lis, config))
}

// StartNATS starts NATS behind TLS, within this process, with what it keeps in dir. It ends with the test, or when restart
// is called, which starts it again on what it has kept.
func (f *Fleet) StartNATS(t testing.TB) (restart func()) {
	t.Helper()
	config := embed.NATSConfig{Dir: t.TempDir(), Listen: f.Addresses["nats"], TLS: f.ServerTLS(t, "nats"), Authenticate: embed.ByIdentity}
	server, err := embed.NATS(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return func() {
		t.Helper()
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
		if server, err = embed.NATS(config); err != nil {
			t.Fatal(err)
		}
	}
}

// StartSandbox starts the simulated clouds.
func (f *Fleet) StartSandbox(t testing.TB) {
	t.Helper()
	at := Address(t)
	f.Run(t, "sandboxd", "--listen", at, "--kubernetes-listen", Address(t), "--admin-token", "open", "--out", filepath.Join(f.Dir, "box"))
	f.Cloud = &Cloud{URL: "http://" + at, Token: "open"}
	Await(t, "the sandbox answers", func() bool {
		conn, err := net.DialTimeout("tcp", at, time.Second)
		return err == nil && conn.Close() == nil
	})
}

// Register waits until the services are ready, and tells the installation of the clouds.
func (f *Fleet) Register(t testing.TB) {
	t.Helper()
	for program := range f.Processes {
		if strings.HasSuffix(program, "d") && program != "sandboxd" || strings.HasPrefix(program, "orchestratord") {
			f.Says(t, program, ready)
		}
	}
	Await(t, "the front door answers", func() bool { return f.Weft(t, "tenant", "list").Code == 0 })
	f.Must(t, "tenant", "add", "default")
	clouds := []string{"OS_CLIENT_CONFIG_FILE=" + filepath.Join(f.Dir, "box", "clouds.yaml")}
	(<-f.GoIn(t, clouds, "cloud", "add", "lab", "--driver", "openstack", "--os-cloud", "sandbox")).Ok(t)
	f.Must(t, "secret", "put", "kube", "--from-file", "kubeconfig="+filepath.Join(f.Dir, "box", "kubeconfig"))
}

// ready is what a service says when it is.
const ready = `"ready"`

// launch starts the process. Its log goes on where the one before it ended.
func (p *Process) launch(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(p.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	program, _, _ := strings.Cut(p.name, " ")
	cmd := exec.Command(filepath.Join(p.bin, program), p.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), crash.Orders+"="+p.Orders())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	p.process, p.ended = cmd.Process, ended
	go func() {
		defer close(ended)
		if err := cmd.Wait(); err != nil {
			fmt.Fprintf(log, "%s ended: %s\n", p.name, err)
		}
		if err := log.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		p.state = cmd.ProcessState
	}()
}

func (p *Process) log() string { return filepath.Join(p.fleet.Dir, p.name+".log") }

// said is the log so far.
func (p *Process) said(t testing.TB) []byte {
	t.Helper()
	log, err := os.ReadFile(p.log())
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func (p *Process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// Ended gives a channel that is closed once the process that runs now has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// ExitCode is how it ended; -1 if a signal ended it. It has ended.
func (p *Process) ExitCode() int { return p.state.ExitCode() }

// Orders is the path of its orders (package crash), which it obeys if it was built with its points.
func (p *Process) Orders() string { return filepath.Join(p.fleet.Dir, p.name+".orders") }

// Order leaves orders for it, whole or not at all.
func (p *Process) Order(t testing.TB, orders ...string) {
	t.Helper()
	p.fleet.Write(t, p.name+".orders.new", strings.Join(orders, "\n"))
	if err := os.Rename(p.Orders()+".new", p.Orders()); err != nil {
		t.Fatal(err)
	}
}

// AwaitStop waits until it was stopped, by a signal or by orders.
func (p *Process) AwaitStop(t testing.TB) {
	t.Helper()
	Await(t, p.name+" is stopped", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.process.Pid))
		if err != nil {
			t.Fatalf("%s: %s\n%s", p.name, err, p.said(t))
		}
		_, state, _ := strings.Cut(string(stat), ") ") // what is before may hold anything
		return strings.HasPrefix(state, "T")
	})
}

// Signal sends it a signal.
func (p *Process) Signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := p.process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// TryRestart starts it again, and tells whether it got ready; false if it ended before.
func (p *Process) TryRestart(t testing.TB) bool {
	t.Helper()
	said := bytes.Count(p.said(t), []byte(ready))
	p.launch(t)
	Await(t, p.name+" is ready", func() bool { return p.hasEnded() || bytes.Count(p.said(t), []byte(ready)) > said })
	return !p.hasEnded()
}
