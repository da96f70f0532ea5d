package app

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	longrunning "cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/fault"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

type natsConfig struct {
	URL string `koanf:"url"`
}

type config struct {
	Listen  string        `koanf:"listen"`
	DataDir string        `koanf:"dataDir"`
	Grace   time.Duration `koanf:"grace"`
	Hosts   []string      `koanf:"hosts"`
	NATS    natsConfig    `koanf:"nats"`
}

func TestLoadConfig(t *testing.T) {
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("listen: file:1\ngrace: 3s\nhosts: [a]\nnats: {url: nats://file}\n")
	tests := map[string]struct {
		sources Sources
		want    config
		wrong   string
	}{
		"defaults":         {Sources{}, config{Listen: "default:1", Hosts: []string{"x", "y"}}, ""},
		"file":             {Sources{File: good}, config{Listen: "file:1", Grace: 3 * time.Second, Hosts: []string{"a"}, NATS: natsConfig{"nats://file"}}, ""},
		"env over file":    {Sources{File: good, EnvPrefix: "W_", Environ: []string{"W_LISTEN=env:1", "W_NATS_URL=nats://env", "W_DATA_DIR=/d", "OTHER=1"}}, config{Listen: "env:1", DataDir: "/d", Grace: 3 * time.Second, Hosts: []string{"a"}, NATS: natsConfig{"nats://env"}}, ""},
		"flag over env":    {Sources{EnvPrefix: "W_", Environ: []string{"W_LISTEN=env:1"}, Flags: map[string]any{"listen": "flag:1"}}, config{Listen: "flag:1", Hosts: []string{"x", "y"}}, ""},
		"unknown key":      {Sources{File: write("lisen: x\n")}, config{}, "lisen"},
		"key twice":        {Sources{File: write("listen: x\nlisten: y\n")}, config{}, "listen"},
		"unknown variable": {Sources{EnvPrefix: "W_", Environ: []string{"W_LISEN=x"}}, config{}, "W_LISEN"},
		"wrong type":       {Sources{File: write("grace: soon\n")}, config{}, "grace"},
		"no such file":     {Sources{File: "/nonexistent"}, config{}, "/nonexistent"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := config{Listen: "default:1", Hosts: []string{"x", "y"}}
			err := LoadConfig(&got, test.sources)
			if test.wrong != "" {
				if !fault.Is(err, fault.Invalid) || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(test.wrong)) {
					t.Fatalf("error %v, want Invalid that names %s", err, test.wrong)
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

func TestLoggerHidesSecrets(t *testing.T) {
	var out bytes.Buffer
	logger, err := NewLogger(&out, LogConfig{})
	if err != nil {
		t.Fatal(err)
	}
	logger.With("db_password", "hunter2").Info("x", "Token", "hunter2", slog.Group("g", "kubeconfig", "hunter2"), "user", "anna")
	if got := out.String(); strings.Contains(got, "hunter2") || !strings.Contains(got, "anna") || !strings.HasPrefix(got, "{") {
		t.Errorf("logged %s", got)
	}
	if _, err := NewLogger(&out, LogConfig{Level: "loud"}); !fault.Is(err, fault.Invalid) {
		t.Errorf("level loud: %v", err)
	}
}

func TestGroupClosesInReverse(t *testing.T) {
	var order []string
	var closers Closers
	for _, name := range []string{"store", "bus", "server"} {
		closers.Add(name, func(context.Context) error { order = append(order, name); return nil })
	}
	broken := errors.New("broken")
	err := Group{Closers: &closers, Grace: time.Second}.Run(t.Context(),
		Task{"waits", func(ctx context.Context) error { <-ctx.Done(); order = append(order, "task"); return ctx.Err() }},
		Task{"breaks", func(context.Context) error { return broken }},
	)
	if !errors.Is(err, broken) {
		t.Errorf("error %v, want that of the task that broke", err)
	}
	if diff := cmp.Diff([]string{"task", "server", "bus", "store"}, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestGroupForcesWhatHangs(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	hung := make(chan struct{})
	defer close(hung)
	err := Group{Grace: time.Millisecond}.Run(ctx, Task{"hangs", func(context.Context) error { <-hung; return nil }})
	if !fault.Is(err, fault.Unavailable) {
		t.Errorf("error %v, want Unavailable", err)
	}
	err = Group{}.Run(t.Context(), Task{"panics", func(context.Context) error { panic("x") }})
	if !fault.Is(err, fault.Internal) {
		t.Errorf("error %v, want Internal", err)
	}
}

// subnets is a service that answers what a test tells it to.
type subnets struct {
	networkv1.UnimplementedSubnetServiceServer
	get func(context.Context, string) error
}

func (s *subnets) GetSubnet(ctx context.Context, r *networkv1.GetSubnetRequest) (*networkv1.Subnet, error) {
	return &networkv1.Subnet{Name: r.GetName()}, s.get(ctx, r.GetName())
}

func (s *subnets) UpdateSubnet(context.Context, *networkv1.UpdateSubnetRequest) (*longrunning.Operation, error) {
	return &longrunning.Operation{}, nil
}

// rig is a server within the process, and a way to call it as anyone.
type rig struct {
	ca *auth.CA
	in *InProcess
}

func newRig(t *testing.T, service *subnets) *rig {
	t.Helper()
	ca, err := auth.OpenCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{ca: ca, in: NewInProcess()}
	source := ca.Source(auth.Identity{Class: auth.Service, Name: "network"}, auth.IssueOptions{})
	s, err := NewGRPCServer(ServerConfig{TLS: auth.ServerTLS(source, ca.Pool()), Metrics: NewMetrics(), Grace: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	networkv1.RegisterSubnetServiceServer(s, service)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, r.in) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return r
}

func (r *rig) dial(t *testing.T, ca *auth.CA, id auth.Identity) *grpc.ClientConn {
	t.Helper()
	config := auth.ClientTLS(ca.Source(id, auth.IssueOptions{}), r.ca.Pool(), auth.ServerName("network"))
	conn, err := Dial("network", DialConfig{TLS: config, InProcess: r.in})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

var editor = auth.Identity{Class: auth.Editor, Tenant: "acme", Name: "anna"}

func TestServerAuthenticates(t *testing.T) {
	var seen auth.Identity
	r := newRig(t, &subnets{get: func(ctx context.Context, _ string) error { seen, _ = auth.FromContext(ctx); return nil }})
	get := func(conn *grpc.ClientConn, ctx context.Context, name string) codes.Code {
		_, err := networkv1.NewSubnetServiceClient(conn).GetSubnet(ctx, &networkv1.GetSubnetRequest{Name: name})
		return status.Code(err)
	}
	member, ctx := r.dial(t, r.ca, editor), t.Context()
	if code := get(member, ctx, "tenants/acme/subnets/a"); code != codes.OK || seen != editor {
		t.Errorf("own: %s as %s", code, seen)
	}
	if code := get(member, ctx, "tenants/other/subnets/a"); code != codes.PermissionDenied {
		t.Errorf("another's: %s", code)
	}
	claim := metadata.AppendToOutgoingContext(ctx, "weft-on-behalf-of", "spiffe://weft/operator/root")
	if code := get(member, claim, "tenants/acme/subnets/a"); code != codes.PermissionDenied {
		t.Errorf("a member on behalf of an operator: %s", code)
	}
	service := r.dial(t, r.ca, auth.Identity{Class: auth.Service, Name: "orchestrator"})
	if code := get(service, ctx, "tenants/other/subnets/a"); code != codes.OK {
		t.Errorf("a service: %s", code)
	}
	if code := get(service, auth.OnBehalfOf(ctx, editor), "tenants/other/subnets/a"); code != codes.PermissionDenied {
		t.Errorf("a service on behalf of a member of another tenant: %s", code)
	}
	if code := get(service, auth.OnBehalfOf(ctx, editor), "tenants/acme/subnets/a"); code != codes.OK || seen != editor {
		t.Errorf("a service on behalf of a member: %s as %s", code, seen)
	}
	foreign, err := auth.OpenCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if code := get(r.dial(t, foreign, editor), ctx, "tenants/acme/subnets/a"); code == codes.OK {
		t.Error("a certificate of another CA was let in")
	}
}

func TestServerTranslates(t *testing.T) {
	r := newRig(t, &subnets{get: func(_ context.Context, name string) error {
		if strings.HasSuffix(name, "/panic") {
			panic("x")
		}
		return fault.New(fault.Quota, "no more subnets")
	}})
	client := networkv1.NewSubnetServiceClient(r.dial(t, r.ca, editor))
	_, err := client.GetSubnet(t.Context(), &networkv1.GetSubnetRequest{Name: "tenants/acme/subnets/a"})
	if !fault.Is(err, fault.Quota) || status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a fault came out as %v", err)
	}
	if _, err := client.GetSubnet(t.Context(), &networkv1.GetSubnetRequest{Name: "tenants/acme/subnets/panic"}); status.Code(err) != codes.Internal {
		t.Errorf("a panic came out as %v", err)
	}
	health, err := healthpb.NewHealthClient(r.dial(t, r.ca, editor)).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "weft.network.v1.SubnetService"})
	if err != nil || health.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", health, err)
	}
}

func TestServerValidates(t *testing.T) {
	r := newRig(t, &subnets{})
	client := networkv1.NewSubnetServiceClient(r.dial(t, r.ca, editor))
	bad := &networkv1.Subnet{Name: "tenants/acme/subnets/a", Cloud: "", Spec: &networkv1.SubnetSpec{Network: "tenants/acme/networks/n", Cidr: "x", DnsServers: []string{"10.0.0.1", "y"}}}
	tests := map[string]struct {
		mask []string
		want []string
	}{
		"all of the spec":   {nil, []string{"subnet.spec.cidr", "subnet.spec.dnsServers[1]"}},
		"one field":         {[]string{"spec.dns_servers"}, []string{"subnet.spec.dnsServers[1]"}},
		"a field that fits": {[]string{"spec.network"}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := client.UpdateSubnet(t.Context(), &networkv1.UpdateSubnetRequest{Subnet: bad, UpdateMask: &fieldmaskpb.FieldMask{Paths: test.mask}})
			var got []string
			for _, d := range status.Convert(err).Details() {
				if b, ok := d.(*errdetails.BadRequest); ok {
					for _, v := range b.GetFieldViolations() {
						got = append(got, v.GetField())
					}
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("fields (-want +got):\n%s\n%v", diff, err)
			}
			if (len(test.want) > 0) != fault.Is(err, fault.Invalid) {
				t.Errorf("error %v", err)
			}
		})
	}
}
