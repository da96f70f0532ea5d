package chaos

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
	"syscall"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/crash"
	"github.com/weftcloud/weft/pkg/embed"
)

// services are the programs that make an installation of several processes.
var services = []string{"network", "storage", "compute", "container", "orchestrator"}

// fleet is an installation whose services are processes of their own: when one dies, the others, etcd, NATS and the cloud
// live on. Each process has orders of its own.
type fleet struct {
	*story.Installation
	bin       string
	addresses map[string]string
	members   map[string]*member
}

// member is one process of a fleet.
type member struct {
	fleet   *fleet
	program string
	args    []string
	ended   chan struct{} // closed once it has ended
	process *os.Process
}

// Ended implements victim.
func (m *member) Ended() <-chan struct{} { return m.ended }

// Orders implements victim.
func (m *member) Orders() string { return filepath.Join(m.fleet.Dir, m.program+".orders") }

func (m *member) log() string { return filepath.Join(m.fleet.Dir, m.program+".log") }

// launch starts the process.
func (m *member) launch(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(m.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(m.fleet.bin, m.program), m.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), crash.Orders+"="+m.Orders())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := errors.Join(cmd.Wait(), log.Close()); err != nil {
			fmt.Fprintf(os.Stderr, "%s ended: %s\n", m.program, err)
		}
	}()
	m.ended, m.process = ended, cmd.Process
}

// TryRestart implements victim.
func (m *member) TryRestart(t testing.TB) bool {
	t.Helper()
	said := m.readies(t)
	m.launch(t)
	return m.ready(t, said)
}

// readies counts how often a member has said that it is ready.
func (m *member) readies(t testing.TB) int {
	t.Helper()
	log, err := os.ReadFile(m.log())
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(log, []byte(`"ready"`))
}

// ready waits until a member says once more that it is ready; false if it ends before.
func (m *member) ready(t testing.TB, said int) bool {
	t.Helper()
	alive := true
	story.Await(t, m.program+" is ready", func() bool {
		select {
		case <-m.ended:
			alive = false
		default:
		}
		return !alive || m.readies(t) > said
	})
	return alive
}

// kill ends a member.
func (m *member) kill(t testing.TB) {
	t.Helper()
	if err := m.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	<-m.ended
}

// address gives a loopback address where nobody listens, below the ports that the kernel gives to outgoing connections.
func address(t testing.TB) string {
	t.Helper()
	for range 100 {
		lis, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20000+mathrand.IntN(12000)))
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

// buildFleet builds the programs with their points.
func buildFleet(t *testing.T) string {
	t.Helper()
	dir := t.TempDir() + "/"
	more := []string{}
	for _, s := range services {
		more = append(more, "github.com/weftcloud/weft/services/"+s+"/cmd/"+s+"d")
	}
	if err := build(dir, append(more, "github.com/weftcloud/weft/services/sandbox/cmd/sandboxd")...); err != nil {
		t.Fatal(err)
	}
	return dir
}

// beginFleet starts a fleet, and learns from an undisturbed run what a stack makes.
func beginFleet(t *testing.T) *site {
	t.Helper()
	f := &fleet{Installation: &story.Installation{Dir: t.TempDir()}, bin: buildFleet(t), addresses: map[string]string{}, members: map[string]*member{}}
	f.papers(t)
	f.backbone(t)
	for _, s := range services {
		f.start(t, s+"d", "--config", filepath.Join(f.Dir, s+".yaml"))
	}
	at, box := address(t), filepath.Join(f.Dir, "box")
	f.start(t, "sandboxd", "--listen", at, "--kubernetes-listen", address(t), "--admin-token", "open", "--out", box)
	f.Cloud = &story.Cloud{URL: "http://" + at, Token: "open"}
	for _, s := range services {
		if !f.members[s+"d"].ready(t, 0) {
			t.Fatalf("%sd ended", s)
		}
	}
	story.Await(t, "the front door answers", func() bool { return f.Weft(t, "tenant", "list").Code == 0 })
	f.Must(t, "tenant", "add", "default")
	add := exec.Command(os.Getenv(story.Binary), "cloud", "add", "lab", "--driver", "openstack", "--os-cloud", "sandbox")
	add.Env = append(os.Environ(), "WEFT_CONTEXT="+f.Context(), "OS_CLIENT_CONFIG_FILE="+filepath.Join(box, "clouds.yaml"))
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("add the cloud: %s\n%s", err, out)
	}
	s := &site{Installation: f.Installation, fleet: f}
	s.learn(t)
	return s
}

// end kills all processes.
func (s *site) end(t *testing.T) {
	t.Helper()
	if s.fleet == nil {
		s.Kill(t)
		return
	}
	for _, m := range s.fleet.members {
		m.kill(t)
	}
}

// start starts a member for the first time; it lasts as long as the test.
func (f *fleet) start(t *testing.T, program string, args ...string) {
	t.Helper()
	m := &member{fleet: f, program: program, args: args}
	f.members[program] = m
	m.launch(t)
	t.Cleanup(func() {
		m.kill(t)
		if log, err := os.ReadFile(m.log()); t.Failed() && err == nil {
			t.Logf("the log of %s:\n%s", program, log)
		}
	})
}

// papers issues certificates and writes the configurations.
func (f *fleet) papers(t *testing.T) {
	t.Helper()
	ca := filepath.Join(f.Dir, "ca")
	f.Must(t, "identity", "ca", "--ca-dir", ca)
	for _, name := range append([]string{"etcd", "nats"}, services...) {
		f.addresses[name] = address(t)
		f.Must(t, "identity", "issue", "--service", name, "--ca-dir", ca, "--out", filepath.Join(f.Dir, "tls", name))
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	f.write(t, "seal.key", string(key))
	for _, s := range services {
		f.write(t, s+".yaml", f.configuration(s))
	}
	f.Must(t, "identity", "issue", "ops", "--role", "operator", "--tenant", "default", "--ca-dir", ca, "--out", f.Context(),
		"--endpoint", f.addresses["orchestrator"], "--nats", "tls://"+f.addresses["nats"])
}

func (f *fleet) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.Dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// configuration is what stands in the configuration of a service.
func (f *fleet) configuration(service string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "listen: %s\nlog: {level: info}\nreplica: a\n", f.addresses[service])
	fmt.Fprintf(&b, "tls: {certFile: %[1]s/tls.crt, keyFile: %[1]s/tls.key, caFile: %[1]s/ca.crt}\n", filepath.Join(f.Dir, "tls", service))
	fmt.Fprintf(&b, "etcd: {endpoints: [\"https://%s\"]}\nnats: {url: \"tls://%s\"}\npeers:\n", f.addresses["etcd"], f.addresses["nats"])
	for _, s := range services {
		fmt.Fprintf(&b, "  %s: %s\n", s, f.addresses[s])
	}
	if service == "orchestrator" {
		fmt.Fprintf(&b, "sealKeyFile: %s\n", filepath.Join(f.Dir, "seal.key"))
	}
	return b.String()
}

// backbone starts etcd and NATS, behind TLS, within this process.
func (f *fleet) backbone(t *testing.T) {
	t.Helper()
	etcd, err := embed.EtcdWith(embed.EtcdConfig{Dir: t.TempDir(), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", f.addresses["etcd"])
	if err != nil {
		t.Fatal(err)
	}
	config := f.serverTLS(t, "etcd")
	config.NextProtos = []string{"h2"}
	etcd.Serve(tls.NewListener(lis, config))
	nats, err := embed.NATS(embed.NATSConfig{
		Dir: t.TempDir(), Listen: f.addresses["nats"], TLS: f.serverTLS(t, "nats"), Authenticate: embed.ByIdentity,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(nats.Close(), etcd.Close()); err != nil {
			t.Error(err)
		}
	})
}

// serverTLS is the configuration of a server by the certificate that was issued for it.
func (f *fleet) serverTLS(t *testing.T, name string) *tls.Config {
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

// fleetTrials are the runs of the fleet: of each point one process that passes it, in each direction once. The outbox is
// the same code everywhere, and passed by both kinds of processes.
func fleetTrials(wanted func(crash.Name) bool) []trial {
	var out []trial
	for _, p := range places {
		members := []string{"networkd"}
		switch what, _, _ := strings.Cut(string(p.point), "/"); what {
		case "engine":
			members = []string{"orchestratord"}
		case "outbox":
			members = []string{"orchestratord", "networkd"}
		}
		for _, m := range members {
			for _, undoing := range []bool{false, true} {
				if wanted(p.point) {
					// One process of several passes less often than all together: the first passing is sure.
					out = append(out, trial{program: m, member: m, place: p, undoing: undoing, passing: 1})
				}
			}
		}
	}
	return slices.Clip(out)
}
