package daemon

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/weftcloud/weft/pkg/app"
	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/embed"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/service"
	"github.com/weftcloud/weft/pkg/testkit"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte("listen: a:1\npeers: {compute: c:2}\netcd: {endpoints: [https://e:1], tls: {caFile: /etcd.pem}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	type more struct {
		Config `koanf:",squash"`
		Colour string `koanf:"colour"`
	}
	tests := map[string]struct {
		args, environ []string
		want          more
		wrong         string
	}{
		"nothing": {},
		"file":    {args: []string{"--config", file}, want: more{Config: Config{Listen: "a:1", Peers: Addresses{"compute": "c:2"}, Etcd: Etcd{Endpoints: []string{"https://e:1"}, TLS: Files{CA: "/etcd.pem"}}}}},
		"environment": {
			environ: []string{"WEFTD_PEERS=compute=c:3, storage=s:4", "WEFTD_TLS_CERT_FILE=/c", "WEFTD_ETCD_ENDPOINTS=https://a:1,https://b:2", "WEFTD_CALLS_PER_SECOND=7.5", "WEFTD_REPLICA=r", "WEFTD_COLOUR=red"},
			want: more{Colour: "red", Config: Config{
				Replica: "r",
				Peers:   Addresses{"compute": "c:3", "storage": "s:4"}, TLS: Files{Cert: "/c"}, Etcd: Etcd{Endpoints: []string{"https://a:1", "https://b:2"}}, CallsPerSecond: 7.5,
			}},
		},
		"no such variable": {environ: []string{"WEFTD_LISTN=x"}, wrong: "WEFTD_LISTN"},
		"peers misspelt":   {environ: []string{"WEFTD_PEERS=compute"}, wrong: `"compute" is not NAME=HOST:PORT`},
		"no such file":     {args: []string{"--config", "/nowhere"}, wrong: "/nowhere"},
		"an argument":      {args: []string{"run"}, wrong: `"run"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := more{}
			err := Load(&got, append([]string{"networkd"}, test.args...), test.environ)
			if test.wrong != "" {
				if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), test.wrong) {
					t.Fatalf("%v, want an Invalid error with %q", err, test.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	c := Config{NATS: NATS{TLS: Files{CA: "/n.pem"}}}.complete()
	own := Files{Cert: "/etc/weft/tls/tls.crt", Key: "/etc/weft/tls/tls.key", CA: "/etc/weft/tls/ca.crt"}
	nats := own
	nats.CA = "/n.pem"
	want := Config{Listen: ":7443", TLS: own, Etcd: Etcd{Endpoints: []string{"https://etcd:2379"}, TLS: own}, NATS: NATS{URL: "tls://nats:4222", TLS: nats}}
	if other := want.complete(); c.Replica == "" || c.Replica == other.Replica {
		t.Errorf("two processes without a name are %q and %q", c.Replica, other.Replica)
	}
	want.Replica = c.Replica
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := c.check(); err != nil {
		t.Errorf("the defaults are refused: %s", err)
	}
	kinds, err := resource.NewRegistry(&networkv1.Network{})
	if err != nil {
		t.Fatal(err)
	}
	p := &process{name: "compute", cfg: Config{Peers: Addresses{"orchestrator": "o:1", "compute": "me:1"}}}
	if diff := cmp.Diff(Addresses{"network": "network:7443", "orchestrator": "o:1"}, p.peers(kinds)); diff != "" {
		t.Errorf("peers (-want +got):\n%s", diff)
	}
}

// issued writes the files of a service's certificate.
func issued(t *testing.T, ca *auth.CA, name string) Files {
	t.Helper()
	dir := t.TempDir()
	cert, err := ca.Issue(auth.Identity{Class: auth.Service, Name: name}, auth.IssueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM, err := auth.EncodePEM(cert)
	if err != nil {
		t.Fatal(err)
	}
	f := Files{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt")}
	for path, data := range map[string][]byte{f.Cert: certPEM, f.Key: keyPEM, f.CA: ca.PEM()} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// TestRefused are configurations that no waiting mends: the process ends at once and says what is wrong.
func TestRefused(t *testing.T) {
	ca, err := auth.OpenCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	own := issued(t, ca, "network")
	tests := map[string]struct {
		cfg  Config
		want string
	}{
		"etcd in the clear":    {Config{TLS: own, Etcd: Etcd{Endpoints: []string{"http://127.0.0.1:2379"}}}, "etcd.endpoints"},
		"NATS in the clear":    {Config{TLS: own, NATS: NATS{URL: "tls://a:1,nats://b:2"}}, "nats.url"},
		"another's identity":   {Config{TLS: issued(t, ca, "storage")}, "spiffe://weft/service/storage"},
		"no certificate":       {Config{TLS: Files{Cert: "/nowhere", Key: "/nowhere", CA: own.CA}}, "/nowhere"},
		"half a pair":          {Config{TLS: Files{Cert: own.Cert, CA: own.CA}}, own.Cert},
		"a CA without any":     {Config{TLS: Files{Cert: own.Cert, Key: own.Key, CA: own.Key}}, "no certificate"},
		"no CA for etcd":       {Config{TLS: own, Etcd: Etcd{TLS: Files{CA: "/nowhere"}}}, "connect to etcd"},
		"no level of the log":  {Config{TLS: own, Log: app.LogConfig{Level: "loud"}}, "log.level"},
		"a budget below none":  {Config{TLS: own, CallsPerSecond: -1}, "callsPerSecond"},
		"a replica's slash":    {Config{TLS: own, Replica: "a/b"}, "replica"},
		"replicas below none":  {Config{TLS: own, NATS: NATS{Replicas: -1}}, "nats.replicas"},
		"an endpoint, no host": {Config{TLS: own, Etcd: Etcd{Endpoints: []string{"etcd:2379"}}}, "https://host:port"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := Run(t.Context(), "network", test.cfg, io.Discard, func(service.Deps) (Composed, error) {
				t.Error("composed all the same")
				return nil, errors.New("composed")
			})
			var said bytes.Buffer
			if code := ExitCode(&said, "networkd", err); code != 1 || !strings.Contains(said.String(), test.want) {
				t.Errorf("exit code %d, %q; want an error with %q", code, &said, test.want)
			}
		})
	}
}

// lines is a log that a test can read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) has(text string) func() error {
	return func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !strings.Contains(l.buf.String(), text) {
			return errors.New("no line says " + text)
		}
		return nil
	}
}

// idle is a service that does nothing until it is asked to end.
type idle struct{ ran chan struct{} }

func (idle) Collectors() []prometheus.Collector { return nil }

func (idle) Register(grpc.ServiceRegistrar) error { return nil }

func (i idle) Run(ctx context.Context) error {
	close(i.ran)
	<-ctx.Done()
	return nil
}

// free gives a loopback address where nobody listens. Its port is none of those that the kernel gives to outgoing
// connections (32768 and up): one of them could take it first.
func free(t *testing.T) string {
	t.Helper()
	for range 100 {
		lis, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(20000+rand.IntN(12000)))
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

// TestWaits starts a service before etcd and NATS: it says what it waits for, begins once they are there, answers, and
// ends when asked.
func TestWaits(t *testing.T) {
	ca, err := auth.OpenCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Listen: free(t), Metrics: free(t), TLS: issued(t, ca, "network"), Etcd: Etcd{Endpoints: []string{"https://" + free(t)}}, NATS: NATS{URL: "tls://" + free(t)}}
	ctx, end := context.WithCancel(t.Context())
	defer end()
	log, s, ended := &lines{}, idle{make(chan struct{})}, make(chan error, 1)
	go func() {
		ended <- Run(ctx, "network", cfg, log, func(service.Deps) (Composed, error) { return s, nil })
	}()
	testkit.Await(t, 30*time.Second, log.has(`"awaiting":"etcd"`))
	lis, err := net.Listen("tcp", strings.TrimPrefix(cfg.Etcd.Endpoints[0], "https://"))
	if err != nil {
		t.Fatal(err)
	}
	serverTLS := auth.ServerTLS(ca.Source(auth.Identity{Class: auth.Service, Name: "etcd"}, auth.IssueOptions{}), ca.Pool())
	serverTLS.NextProtos = []string{"h2"}
	testkit.Etcd(t).Serve(tls.NewListener(lis, serverTLS))
	testkit.Await(t, 30*time.Second, log.has(`"awaiting":"NATS"`))
	nats, err := embed.NATS(embed.NATSConfig{
		Dir: t.TempDir(), Listen: strings.TrimPrefix(cfg.NATS.URL, "tls://"), Authenticate: embed.ByIdentity,
		TLS: auth.ServerTLS(ca.Source(auth.Identity{Class: auth.Service, Name: "nats"}, auth.IssueOptions{}), ca.Pool()),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := nats.Close(); err != nil {
			t.Error(err)
		}
	})
	<-s.ran
	conn, err := app.Dial(cfg.Listen, app.DialConfig{TLS: auth.ClientTLS(ca.Source(auth.Identity{Class: auth.Operator, Name: "o"}, auth.IssueOptions{}), ca.Pool(), "")})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil || answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("its health: %v, %v", answer, err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	end()
	if err := <-ended; err != nil {
		t.Errorf("asked to end: %s", err)
	}
}

// TestEndsWhileItWaits: whoever is asked to end before all is there ends in order.
func TestEndsWhileItWaits(t *testing.T) {
	ca, err := auth.OpenCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	log, ended := &lines{}, make(chan error, 1)
	cfg := Config{TLS: issued(t, ca, "network"), Etcd: Etcd{Endpoints: []string{"https://" + free(t)}}}
	go func() {
		ended <- Run(ctx, "network", cfg, log, func(service.Deps) (Composed, error) { return nil, errors.New("composed") })
	}()
	testkit.Await(t, 30*time.Second, log.has(`"awaiting":"etcd"`))
	end()
	if err := <-ended; err != nil {
		t.Errorf("asked to end while it waits: %s", err)
	}
}

func TestExitCode(t *testing.T) {
	var out bytes.Buffer
	if code := ExitCode(&out, "networkd", nil); code != 0 || out.Len() > 0 {
		t.Errorf("no error: %d %q", code, &out)
	}
	if code := ExitCode(&out, "networkd", flag.ErrHelp); code != 0 || out.Len() > 0 {
		t.Errorf("help: %d %q", code, &out)
	}
	if code := ExitCode(&out, "networkd", errors.New("it broke")); code != 1 || out.String() != "networkd: it broke\n" {
		t.Errorf("an error: %d %q", code, &out)
	}
}
