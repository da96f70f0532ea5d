package service_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/bus/membus"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/driver/memdriver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/service"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
	"github.com/weftcloud/weft/pkg/testkit"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

const acme = "tenants/acme"

// wire is a server and the connection to it, without anything between: what is called is registered here, faults become
// statuses as at the real edge.
type wire map[string]registered

type registered struct {
	desc *grpc.ServiceDesc
	impl any
}

// RegisterService implements grpc.ServiceRegistrar.
func (w wire) RegisterService(desc *grpc.ServiceDesc, impl any) {
	w[desc.ServiceName] = registered{desc, impl}
}

// Invoke implements grpc.ClientConnInterface.
func (w wire) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	parts := strings.Split(method, "/")
	to := w[parts[1]]
	if to.desc == nil {
		return fmt.Errorf("there is no service %s", parts[1])
	}
	for _, m := range to.desc.Methods {
		if m.MethodName != parts[2] {
			continue
		}
		decode := func(request any) error {
			proto.Merge(request.(proto.Message), args.(proto.Message))
			return nil
		}
		answer, err := m.Handler(to.impl, ctx, decode, nil)
		if err != nil {
			return fault.Status(err)
		}
		proto.Merge(reply.(proto.Message), answer.(proto.Message))
		return nil
	}
	return fmt.Errorf("there is no method %s", method)
}

// NewStream implements grpc.ClientConnInterface; nothing here streams.
func (w wire) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.ErrUnsupported
}

// credentials gives every tenant the same cloud.
type credentials struct {
	orchestratorv1.UnimplementedCredentialServiceServer
}

func (credentials) GetCloudCredentials(_ context.Context, r *orchestratorv1.GetCloudCredentialsRequest) (*orchestratorv1.CloudCredentials, error) {
	if r.GetCloud() != "clouds/lab" {
		return nil, fault.New(fault.NotFound, "%s does not exist", r.GetCloud())
	}
	if r.GetTenant() == "tenants/barred" {
		return nil, fault.New(fault.Denied, "%s may not use %s", r.GetTenant(), r.GetCloud())
	}
	return &orchestratorv1.CloudCredentials{Driver: "memory", Endpoint: "here"}, nil
}

// checked is a driver that also looks whether items can be made: each needs ports, of which there are four.
type checked[S, O proto.Message] struct {
	*memdriver.Driver[S, O]
	ports int64
}

func (c checked[S, O]) Check(_ context.Context, items []driver.Item[S]) ([]driver.Finding, []driver.QuotaUse, error) {
	var found []driver.Finding
	for _, i := range items {
		if strings.HasSuffix(i.Name, "/cursed") {
			found = append(found, driver.Finding{Name: i.Name, Field: "spec.mtu", Fault: fault.New(fault.Invalid, "not this one")})
		}
	}
	return found, []driver.QuotaUse{{Service: "network", Quota: "ports", Need: c.ports * int64(len(items)), Limit: 4}}, nil
}

// Sizes implements driver.Sized: a network takes so many virtual CPUs as its MTU is long. Of 1313 there is none, and of 1314
// nobody knows.
func (c checked[S, O]) Sizes(_ context.Context, specs []S) ([]map[string]int64, error) {
	out := make([]map[string]int64, len(specs))
	for i, spec := range specs {
		n, ok := any(spec).(*networkv1.NetworkSpec)
		switch {
		case !ok:
		case n.GetMtu() == 1313:
			return nil, fault.InField("spec.mtu", "there is no size %d", n.GetMtu())
		case n.GetMtu() == 1314:
			return nil, fault.New(fault.Unavailable, "the sizes are not at hand")
		default:
			out[i] = map[string]int64{quota.VCPUs: int64(n.GetMtu())}
		}
	}
	return out, nil
}

// farStore is a store that takes a while to answer.
type farStore struct {
	store.Store

	away  atomic.Int64 // how long a read takes, in nanoseconds
	lists atomic.Int64 // how many lists were read
}

func (s *farStore) List(ctx context.Context, prefix string, opts store.ListOptions) (store.Page, error) {
	s.lists.Add(1)
	return s.Store.List(ctx, prefix, opts)
}

func (s *farStore) Get(ctx context.Context, key string) (store.Entry, error) {
	select {
	case <-time.After(time.Duration(s.away.Load())):
		return s.Store.Get(ctx, key)
	case <-ctx.Done():
		return store.Entry{}, fault.As(fault.Unavailable, ctx.Err())
	}
}

// rig is a network service with what is around it, in a synctest bubble.
type rig struct {
	*testing.T
	service  *service.Service
	store    *farStore
	bus      *membus.Bus
	wire     wire
	networks *memdriver.Driver[*networkv1.NetworkSpec, *networkv1.NetworkObserved]
	subnets  *memdriver.Driver[*networkv1.SubnetSpec, *networkv1.SubnetObserved]

	client       networkv1.NetworkServiceClient
	subnetClient networkv1.SubnetServiceClient
	operations   longrunningpb.OperationsClient
	participant  participantv1.ParticipantServiceClient
}

func run(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{T: t, wire: wire{}}
		r.networks = memdriver.New(memdriver.Config[*networkv1.NetworkSpec, *networkv1.NetworkObserved]{
			ReadyAfter: time.Second,
			Observed: func(id string, s *networkv1.NetworkSpec) *networkv1.NetworkObserved {
				return &networkv1.NetworkObserved{NetworkId: id, Mtu: s.GetMtu()}
			},
		})
		r.subnets = memdriver.New(memdriver.Config[*networkv1.SubnetSpec, *networkv1.SubnetObserved]{
			Observed: func(id string, s *networkv1.SubnetSpec) *networkv1.SubnetObserved {
				return &networkv1.SubnetObserved{SubnetId: id, Cidr: s.GetCidr()}
			},
		})
		session := driver.Session{
			Drivers: map[string]driver.Any{
				"network.weft.cloud/Network": driver.Erase(checked[*networkv1.NetworkSpec, *networkv1.NetworkObserved]{r.networks, 1}),
				"network.weft.cloud/Subnet":  driver.Erase(checked[*networkv1.SubnetSpec, *networkv1.SubnetObserved]{r.subnets, 2}),
			},
			Probe: func(context.Context) ([]driver.Feature, error) {
				return []driver.Feature{{Service: "network", Name: "dns", Value: "yes"}}, nil
			},
		}
		catalog := service.Catalog{
			Service: "network", Kinds: []service.Kind{
				{Message: &networkv1.Network{}, Draws: []quota.Draw{{Quota: quota.Networks}, {Quota: quota.VCPUs, Field: "mtu", Sized: true}}},
				{Message: &networkv1.Subnet{}, MostBy: []string{"cidr", "gatewayIp"}, Most: func(proto.Message) (string, string, proto.Message, int64) {
					return "network.weft.cloud/Network", "template", &networkv1.NetworkSpec{Mtu: 100}, 2 // as a kind does that is made of networks
				}},
			},
			Providers: []driver.Provider{{Name: "memory", Open: func(context.Context, driver.Credentials) (driver.Session, error) { return session, nil }}},
		}
		peer := wire{}
		orchestratorv1.RegisterCredentialServiceServer(peer, credentials{})
		r.serve(catalog, service.Peers{"orchestrator": peer})
		r.client, r.subnetClient = networkv1.NewNetworkServiceClient(r.wire), networkv1.NewSubnetServiceClient(r.wire)
		r.participant = participantv1.NewParticipantServiceClient(r.wire)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.service.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run = %v", err)
			}
		}()
		test(t, r)
	})
}

// serve makes the service and registers it.
func (r *rig) serve(catalog service.Catalog, peers service.Peers) {
	r.Helper()
	r.bus = membus.New()
	r.store = &farStore{Store: memstore.New()}
	s, err := service.New(catalog, service.Deps{Store: r.store, Bus: r.bus, Peers: peers, Logger: testkit.Logger(r.T)})
	if err != nil {
		r.Fatal(err)
	}
	if err := s.Register(r.wire); err != nil {
		r.Fatal(err)
	}
	s.RegisterOperations(r.wire)
	r.service, r.operations = s, longrunningpb.NewOperationsClient(r.wire)
}

func (r *rig) want(err error, kind fault.Kind, field string) {
	r.Helper()
	got := fault.FromStatus(err)
	if err == nil || !fault.Is(got, kind) || fault.Field(got) != field {
		r.Fatalf("error = %v (field %q), want %s in %q", err, fault.Field(got), kind, field)
	}
}

// create makes a network and gives the operation.
func (r *rig) create(id string, mtu int32) *longrunningpb.Operation {
	r.Helper()
	op, err := r.client.CreateNetwork(r.Context(), &networkv1.CreateNetworkRequest{
		Parent: acme, NetworkId: id, Network: &networkv1.Network{Cloud: "clouds/lab", Spec: &networkv1.NetworkSpec{Mtu: mtu}, Metadata: &kindv1.Metadata{Key: "mine", Stack: "mine", Labels: map[string]string{"a": "b"}}},
	})
	if err != nil {
		r.Fatal(err)
	}
	return op
}

func (r *rig) wait(op *longrunningpb.Operation) *longrunningpb.Operation {
	r.Helper()
	op, err := r.operations.WaitOperation(r.Context(), &longrunningpb.WaitOperationRequest{Name: op.GetName(), Timeout: durationpb.New(time.Hour)})
	if err != nil {
		r.Fatal(err)
	}
	if !op.GetDone() {
		r.Fatalf("it is not done: %v", op)
	}
	return op
}

// succeeded wants an operation to end well and gives what it made.
func (r *rig) succeeded(op *longrunningpb.Operation, answer proto.Message) {
	r.Helper()
	op = r.wait(op)
	if op.GetResponse() == nil {
		r.Fatalf("%v", op)
	}
	if answer == nil {
		return
	}
	if err := op.GetResponse().UnmarshalTo(answer); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) get(id string) *networkv1.Network {
	r.Helper()
	n, err := r.client.GetNetwork(r.Context(), &networkv1.GetNetworkRequest{Name: acme + "/networks/" + id})
	if err != nil {
		r.Fatal(err)
	}
	return n
}

func TestCreateAndGet(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		op := r.create("net.one", 1400)
		if op.GetDone() {
			t.Errorf("it is done at once: %v", op)
		}
		early, err := r.operations.WaitOperation(t.Context(), &longrunningpb.WaitOperationRequest{Name: op.GetName(), Timeout: durationpb.New(10 * time.Millisecond)})
		if err != nil || early.GetDone() {
			t.Errorf("a wait that ends early = %v, %v, want the operation as it is", early, err)
		}
		r.store.away.Store(int64(5 * time.Millisecond))
		early, err = r.operations.WaitOperation(t.Context(), &longrunningpb.WaitOperationRequest{Name: op.GetName(), Timeout: durationpb.New(time.Millisecond)})
		if err != nil || early.GetDone() {
			t.Errorf("a wait that is shorter than a look = %v, %v, want the operation as it is", early, err)
		}
		r.store.away.Store(0)
		made := &networkv1.Network{}
		r.succeeded(op, made)
		if made.GetObserved().GetMtu() != 1400 || made.GetStatus().GetPhase() != kindv1.Phase_PHASE_READY || made.GetMetadata().GetLabels()["a"] != "b" {
			t.Errorf("made = %v", made)
		}
		if meta := made.GetMetadata(); meta.GetKey() == "mine" || meta.GetStack() != "" || meta.GetGeneration() != 1 {
			t.Errorf("a client sets what is the platform's: %v", meta)
		}
		if diff := cmp.Diff(made.String(), r.get("net.one").String()); diff != "" {
			t.Error(diff)
		}
		_, err = r.client.CreateNetwork(t.Context(), &networkv1.CreateNetworkRequest{Parent: acme, NetworkId: "net.one", Network: &networkv1.Network{Cloud: "clouds/lab", Spec: &networkv1.NetworkSpec{}}})
		r.want(err, fault.Exists, "")
		_, err = r.client.GetNetwork(t.Context(), &networkv1.GetNetworkRequest{Name: "tenants/other/networks/net.one"})
		r.want(err, fault.NotFound, "")
	})
}

func TestCreateRefuses(t *testing.T) {
	for what, c := range map[string]struct {
		request *networkv1.CreateSubnetRequest
		kind    fault.Kind
		field   string
	}{
		"a reference to nothing":        {&networkv1.CreateSubnetRequest{SubnetId: "s", Subnet: &networkv1.Subnet{Cloud: "clouds/lab", Spec: &networkv1.SubnetSpec{Network: "nothing"}}}, fault.Invalid, "spec.network"},
		"a reference to another tenant": {&networkv1.CreateSubnetRequest{SubnetId: "s", Subnet: &networkv1.Subnet{Cloud: "clouds/lab", Spec: &networkv1.SubnetSpec{Network: "tenants/other/networks/net"}}}, fault.Invalid, "spec.network"},
		"a cloud that is not there":     {&networkv1.CreateSubnetRequest{SubnetId: "s", Subnet: &networkv1.Subnet{Cloud: "clouds/none", Spec: &networkv1.SubnetSpec{Network: "net"}}}, fault.NotFound, ""},
		"a wrong id":                    {&networkv1.CreateSubnetRequest{SubnetId: "-", Subnet: &networkv1.Subnet{Cloud: "clouds/lab", Spec: &networkv1.SubnetSpec{Network: "net"}}}, fault.Invalid, "name"},
	} {
		t.Run(what, func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) {
				r.succeeded(r.create("net", 1400), nil)
				c.request.Parent = acme
				_, err := r.subnetClient.CreateSubnet(t.Context(), c.request)
				r.want(err, c.kind, c.field)
				if len(r.subnets.Objects()) != 0 {
					t.Error("something was made")
				}
			})
		})
	}
}

func TestValidateOnly(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		ask := func(id string) error {
			_, err := r.client.CreateNetwork(t.Context(), &networkv1.CreateNetworkRequest{
				Parent: acme, NetworkId: id, ValidateOnly: true, Network: &networkv1.Network{Cloud: "clouds/lab", Spec: &networkv1.NetworkSpec{}},
			})
			return err
		}
		if err := ask("net"); err != nil {
			t.Error(err)
		}
		r.want(ask("cursed"), fault.Invalid, "spec.mtu")
		time.Sleep(time.Minute)
		if len(r.networks.Objects()) != 0 {
			t.Error("something was made")
		}
		list, err := r.client.ListNetworks(t.Context(), &networkv1.ListNetworksRequest{Parent: acme})
		if err != nil || len(list.GetNetworks()) != 0 {
			t.Errorf("%v, %v", list, err)
		}
	})
}

func TestListInPages(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		for i := range 7 {
			r.create(fmt.Sprintf("n%d", i), int32(1400+i))
		}
		for what, c := range map[string]struct {
			filter string
			size   int32
			want   []string
		}{
			"all, by two":      {"", 2, []string{"n0 n1", "n2 n3", "n4 n5", "n6"}},
			"all, by seven":    {"", 7, []string{"n0 n1 n2 n3 n4 n5 n6"}},
			"some, by two":     {"spec.mtu >= 1404", 2, []string{"n4 n5", "n6"}},
			"none":             {"spec.mtu > 9000", 2, []string{""}},
			"the usual number": {"", 0, []string{"n0 n1 n2 n3 n4 n5 n6"}},
		} {
			var got []string
			for token := ""; ; {
				page, err := r.client.ListNetworks(t.Context(), &networkv1.ListNetworksRequest{Parent: acme, PageSize: c.size, PageToken: token, Filter: c.filter})
				if err != nil {
					t.Fatal(err)
				}
				var ids []string
				for _, n := range page.GetNetworks() {
					ids = append(ids, strings.TrimPrefix(n.GetName(), acme+"/networks/"))
				}
				got = append(got, strings.Join(ids, " "))
				if token = page.GetNextPageToken(); token == "" || len(got) > 10 {
					break
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s: %s", what, diff)
			}
		}
		_, err := r.client.ListNetworks(t.Context(), &networkv1.ListNetworksRequest{Parent: acme, PageToken: "???"})
		r.want(err, fault.Invalid, "page_token")
		_, err = r.client.ListNetworks(t.Context(), &networkv1.ListNetworksRequest{Parent: "acme"})
		r.want(err, fault.Invalid, "parent")
		if _, err := r.client.ListNetworks(t.Context(), &networkv1.ListNetworksRequest{Parent: acme, Filter: "spec.nothing == 1"}); !fault.Is(fault.FromStatus(err), fault.Invalid) {
			t.Errorf("a wrong filter: %v", err)
		}
	})
}

func TestUpdate(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.succeeded(r.create("net", 1400), nil)
		update := func(n *networkv1.Network, paths ...string) (*longrunningpb.Operation, error) {
			n.Name = acme + "/networks/net"
			return r.client.UpdateNetwork(t.Context(), &networkv1.UpdateNetworkRequest{Network: n, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
		}
		op, err := update(&networkv1.Network{Spec: &networkv1.NetworkSpec{Mtu: 1500}}, "spec.mtu")
		if err != nil {
			t.Fatal(err)
		}
		changed := &networkv1.Network{}
		r.succeeded(op, changed)
		if changed.GetObserved().GetMtu() != 1500 || changed.GetMetadata().GetGeneration() != 2 || changed.GetMetadata().GetLabels()["a"] != "b" {
			t.Errorf("changed = %v", changed)
		}
		op, err = update(&networkv1.Network{Metadata: &kindv1.Metadata{Labels: map[string]string{"c": "d"}}}, "metadata.labels")
		if err != nil {
			t.Fatal(err)
		}
		r.succeeded(op, changed)
		if changed.GetSpec().GetMtu() != 1500 || !cmp.Equal(changed.GetMetadata().GetLabels(), map[string]string{"c": "d"}) {
			t.Errorf("changed = %v", changed)
		}
		for _, path := range []string{"status", "metadata.key", "spec.nothing", "name"} {
			_, err := update(&networkv1.Network{}, path)
			r.want(err, fault.Invalid, "update_mask")
		}
		_, err = update(&networkv1.Network{Spec: &networkv1.NetworkSpec{Mtu: 70000}}, "spec.mtu") // what is merged is checked, however the mask names it
		r.want(err, fault.Invalid, "spec.mtu")
		_, err = update(&networkv1.Network{Spec: &networkv1.NetworkSpec{Mtu: 1300}, Metadata: &kindv1.Metadata{Etag: "old"}}, "spec")
		r.want(err, fault.Conflict, "")
		_, err = update(&networkv1.Network{Spec: &networkv1.NetworkSpec{Mtu: 1300}, Metadata: &kindv1.Metadata{Etag: r.get("net").GetMetadata().GetEtag()}}, "spec")
		if err != nil {
			t.Errorf("with the etag that stands: %v", err)
		}
	})
}

func TestImmutableField(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.succeeded(r.create("net", 1400), nil)
		op, err := r.subnetClient.CreateSubnet(t.Context(), &networkv1.CreateSubnetRequest{Parent: acme, SubnetId: "s", Subnet: &networkv1.Subnet{
			Cloud: "clouds/lab", Spec: &networkv1.SubnetSpec{Network: "net", Cidr: "10.0.0.0/24"},
		}})
		if err != nil {
			t.Fatal(err)
		}
		r.succeeded(op, nil)
		spec := &networkv1.SubnetSpec{Network: "net", Cidr: "10.1.0.0/24"}
		_, err = r.subnetClient.UpdateSubnet(t.Context(), &networkv1.UpdateSubnetRequest{Subnet: &networkv1.Subnet{Name: acme + "/subnets/s", Spec: spec}})
		r.want(err, fault.Invalid, "spec.cidr")
		_, err = r.subnetClient.UpdateSubnet(t.Context(), &networkv1.UpdateSubnetRequest{
			Subnet:     &networkv1.Subnet{Name: acme + "/subnets/s", Spec: &networkv1.SubnetSpec{DnsServers: []string{"no address"}}},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.dnsServers"}}, // as JSON writes it
		})
		r.want(err, fault.Invalid, "spec.dnsServers[0]")
		_, err = r.client.DeleteNetwork(t.Context(), &networkv1.DeleteNetworkRequest{Name: acme + "/networks/net"})
		r.want(err, fault.Precondition, "") // the subnet uses it
	})
}

func TestFailedChanges(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.networks.Inject(memdriver.Create, memdriver.Fault{Err: fault.New(fault.Denied, "not you"), Times: 2})
		first := r.create("net", 1400)
		if op := r.wait(first); op.GetError() == nil || !strings.Contains(op.GetError().GetMessage(), "not you") {
			t.Errorf("%v", op)
		}
		update := func(mtu int32) *longrunningpb.Operation {
			op, err := r.client.UpdateNetwork(t.Context(), &networkv1.UpdateNetworkRequest{Network: &networkv1.Network{Name: acme + "/networks/net", Spec: &networkv1.NetworkSpec{Mtu: mtu}}})
			if err != nil {
				t.Fatal(err)
			}
			return op
		}
		if op := r.wait(update(1500)); op.GetError() == nil {
			t.Errorf("%v", op)
		}
		r.wait(first)                  // overtaken, and it has ended all the same
		r.succeeded(update(1500), nil) // the same again: someone asks for another try
		r.wait(first)
	})
}

func TestDelete(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		created := r.create("net", 1400)
		r.succeeded(created, nil)
		remove := func(etag string) (*longrunningpb.Operation, error) {
			return r.client.DeleteNetwork(t.Context(), &networkv1.DeleteNetworkRequest{Name: acme + "/networks/net", Etag: etag})
		}
		_, err := remove("old")
		r.want(err, fault.Conflict, "")
		r.networks.Inject(memdriver.Delete, memdriver.Fault{Err: fault.New(fault.Denied, "not you")})
		op, err := remove(r.get("net").GetMetadata().GetEtag())
		if err != nil {
			t.Fatal(err)
		}
		if op := r.wait(op); op.GetError() == nil {
			t.Errorf("a deletion that was denied = %v", op)
		}
		if op, err = remove(""); err != nil {
			t.Fatalf("it cannot be deleted again: %v", err)
		}
		_, err = remove("")
		r.want(err, fault.Precondition, "")
		r.succeeded(op, nil)
		if len(r.networks.Objects()) != 0 {
			t.Errorf("%v is left", r.networks.Objects())
		}
		_, err = r.client.GetNetwork(t.Context(), &networkv1.GetNetworkRequest{Name: acme + "/networks/net"})
		r.want(err, fault.NotFound, "")
		r.wait(created)
		_, err = r.operations.GetOperation(t.Context(), &longrunningpb.GetOperationRequest{Name: strings.Replace(op.GetName(), ".net.", ".nothing.", 1) + "x"})
		r.want(err, fault.Invalid, "name")
		_, err = r.operations.CancelOperation(t.Context(), &longrunningpb.CancelOperationRequest{Name: op.GetName()})
		r.want(err, fault.Unsupported, "")
	})
}

func TestWhatAStackOwns(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.command(&busv1.Command{
			Origin: &busv1.Origin{Saga: acme + "/operations/1", Step: "net", Direction: busv1.Direction_DIRECTION_DO, Attempt: 1, Epoch: 1},
			Name:   acme + "/networks/net", Type: "network.weft.cloud/Network", Key: "k1",
			Action: &busv1.Command_Ensure{Ensure: &busv1.Ensure{Cloud: "clouds/lab", Stack: acme + "/stacks/s", Spec: r.packed(&networkv1.NetworkSpec{Mtu: 1400})}},
		})
		_, err := r.client.UpdateNetwork(t.Context(), &networkv1.UpdateNetworkRequest{Network: &networkv1.Network{Name: acme + "/networks/net", Spec: &networkv1.NetworkSpec{Mtu: 1}}})
		r.want(err, fault.Precondition, "")
		_, err = r.client.DeleteNetwork(t.Context(), &networkv1.DeleteNetworkRequest{Name: acme + "/networks/net"})
		r.want(err, fault.Precondition, "")
		time.Sleep(time.Minute)
		synctest.Wait()
		answer, err := r.participant.Query(t.Context(), &participantv1.QueryRequest{Name: acme + "/networks/net", Key: "k1"})
		if err != nil || answer.GetOutcome().GetResult() != busv1.Result_RESULT_READY {
			t.Errorf("%v, %v", answer, err)
		}
	})
}

func (r *rig) packed(m proto.Message) *anypb.Any {
	r.Helper()
	packed, err := anypb.New(m)
	if err != nil {
		r.Fatal(err)
	}
	return packed
}

// command sends a command by the bus and waits until it is taken.
func (r *rig) command(c *busv1.Command) {
	r.Helper()
	data, err := proto.Marshal(c)
	if err != nil {
		r.Fatal(err)
	}
	m := bus.Message{Subject: bus.CommandSubject("network", bus.PriorityNormal, "acme", "networks"), ID: c.GetKey(), Data: data}
	if err := r.bus.Publish(r.Context(), m); err != nil {
		r.Fatal(err)
	}
	synctest.Wait()
}

func TestResolve(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.succeeded(r.create("net", 1400), nil)
		key := r.get("net").GetMetadata().GetKey()
		for _, k := range []string{"", key} {
			answer, err := r.participant.Resolve(t.Context(), &participantv1.ResolveRequest{Name: acme + "/networks/net", Key: k})
			n := &networkv1.Network{}
			if err != nil || answer.GetResource().UnmarshalTo(n) != nil || n.GetObserved().GetMtu() != 1400 {
				t.Errorf("%v, %v", n, err)
			}
		}
		_, err := r.participant.Resolve(t.Context(), &participantv1.ResolveRequest{Name: acme + "/networks/net", Key: "another"})
		r.want(err, fault.NotFound, "")
		_, err = r.participant.Expand(t.Context(), &participantv1.ExpandRequest{Item: &participantv1.Item{Type: "network.weft.cloud/Network"}})
		r.want(err, fault.Unsupported, "")
		probed, err := r.participant.Probe(t.Context(), &participantv1.ProbeRequest{Cloud: "clouds/lab"})
		if err != nil || len(probed.GetFeatures()) != 1 {
			t.Errorf("%v, %v", probed, err)
		}
	})
}

func TestPreflight(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		item := func(typ, name, cloud string, spec map[string]any) *participantv1.Item {
			s, err := structpb.NewStruct(spec)
			if err != nil {
				t.Fatal(err)
			}
			return &participantv1.Item{Name: acme + name, Type: "network.weft.cloud/" + typ, Cloud: cloud, Spec: s, Change: kindv1.Change_CHANGE_CREATE}
		}
		net := item("Network", "/networks/net", "clouds/lab", nil)
		subnet := item("Subnet", "/subnets/s", "clouds/lab", map[string]any{"network": acme + "/networks/net", "cidr": "10.0.0.0/24"})
		enough, err := r.participant.Preflight(t.Context(), &participantv1.PreflightRequest{Items: []*participantv1.Item{net, subnet}})
		if err != nil || len(enough.GetFindings()) != 0 || len(enough.GetQuotas()) != 1 || enough.GetQuotas()[0].GetNeed() != 3 {
			t.Errorf("%v, %v", enough, err)
		}
		cursed := item("Network", "/networks/cursed", "clouds/lab", nil)
		lost := item("Network", "/networks/lost", "clouds/none", nil)
		all, err := r.participant.Preflight(t.Context(), &participantv1.PreflightRequest{Items: []*participantv1.Item{net, subnet, cursed, item("Network", "/networks/more", "clouds/lab", nil), lost}})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range all.GetFindings() {
			got = append(got, fmt.Sprintf("%s %s %s", strings.TrimPrefix(f.GetName(), acme), f.GetField(), f.GetFault().GetKind()))
		}
		if diff := cmp.Diff([]string{"  Quota", "/networks/cursed spec.mtu Invalid", "/networks/lost cloud NotFound"}, got); diff != "" {
			t.Errorf("all that is wrong, at once: %s", diff)
		}
		if len(r.networks.Objects()) != 0 {
			t.Error("a look made something")
		}
		_, err = r.participant.Preflight(t.Context(), &participantv1.PreflightRequest{Items: []*participantv1.Item{{Type: "compute.weft.cloud/Server"}}})
		r.want(err, fault.Invalid, "")
	})
}

// TestDescribeObjects tells whose objects are, of any number of them with one read of the records.
func TestDescribeObjects(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.succeeded(r.create("net", 1400), nil)
		for range 20 {
			r.networks.Stand(&networkv1.NetworkSpec{})
		}
		before := r.store.lists.Load()
		answer, err := participantv1.NewImportParticipantServiceClient(r.wire).DescribeObjects(t.Context(), &participantv1.DescribeObjectsRequest{Cloud: "clouds/lab", Tenant: "tenants/acme"})
		if err != nil {
			t.Fatal(err)
		}
		taken := 0
		for _, o := range answer.GetObjects() {
			if strings.Contains(o.GetTaken().GetMessage(), "it is the object of tenants/acme/networks/net") {
				taken++
			}
		}
		if len(answer.GetObjects()) != 21 || taken != 1 {
			t.Errorf("%d objects, %d of them ours, want 21 and 1: %v", len(answer.GetObjects()), taken, answer)
		}
		if n := r.store.lists.Load() - before; n > 1 {
			t.Errorf("the records were read %d times", n)
		}
	})
}

func TestLedger(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.succeeded(r.create("net", 1400), nil)
		for _, name := range []string{acme + "/networks/lost", "tenants/other/networks/lost"} {
			if _, err := r.networks.Create(t.Context(), driver.Request[*networkv1.NetworkSpec]{Key: "nobody's", Name: name, Spec: &networkv1.NetworkSpec{}}); err != nil {
				t.Fatal(err)
			}
		}
		list := func() (orphans []string, entries int, unreachable int) {
			answer, err := r.participant.ListLedger(t.Context(), &participantv1.ListLedgerRequest{Tenant: acme, Orphans: true, Clouds: []string{"clouds/lab"}})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range answer.GetEntries() {
				if e.GetOrphan() {
					orphans = append(orphans, e.GetName()+" "+e.GetProviderId())
				}
			}
			return orphans, len(answer.GetEntries()), len(answer.GetUnreachable())
		}
		orphans, entries, unreachable := list()
		if diff := cmp.Diff([]string{acme + "/networks/lost mem-2"}, orphans); diff != "" || entries != 2 || unreachable != 0 {
			t.Errorf("%s, %d entries, %d unreachable", diff, entries, unreachable)
		}
		sweep := func(o *participantv1.Orphan) *kindv1.Fault {
			o.Type, o.Cloud = "network.weft.cloud/Network", "clouds/lab"
			answer, err := r.participant.Sweep(t.Context(), &participantv1.SweepRequest{Orphans: []*participantv1.Orphan{o}})
			if err != nil {
				t.Fatal(err)
			}
			return answer.GetSwept()[0].GetFault()
		}
		net := r.networks.Objects()[0]
		for what, o := range map[string]*participantv1.Orphan{
			"it has a record":        {Key: net.Key, ProviderId: net.ID},
			"it bears another's key": {Key: "another", ProviderId: "mem-2"},
		} {
			if f := sweep(o); f == nil || len(r.networks.Objects()) != 3 {
				t.Errorf("%s: fault %v, objects %v", what, f, r.networks.Objects())
			}
		}
		if f := sweep(&participantv1.Orphan{Key: "nobody's", ProviderId: "mem-2"}); f != nil || len(r.networks.Objects()) != 2 {
			t.Errorf("fault %v, objects %v", f, r.networks.Objects())
		}
		if f := sweep(&participantv1.Orphan{Key: "nobody's", ProviderId: "mem-2"}); f != nil {
			t.Errorf("what is gone: %v", f)
		}
		if f := sweep(&participantv1.Orphan{Key: "nobody's", ProviderId: "mem-2", Name: "tenants/barred/networks/lost"}); f.GetKind() != string(fault.Unavailable) {
			t.Errorf("what may stand in a project that cannot be looked into: %v, want Unavailable", f)
		}
		r.networks.Inject(memdriver.Find, memdriver.Fault{Err: fault.New(fault.Unavailable, "away")})
		if orphans, entries, unreachable = list(); len(orphans) != 0 || entries != 1 || unreachable != 1 {
			t.Errorf("%v, %d entries, %d unreachable: a list that failed is told", orphans, entries, unreachable)
		}
	})
}

// TestLocalKind serves a kind whose record is the resource: it is ready at once, passes Admit, and is gone at once.
func TestLocalKind(t *testing.T) {
	r := &rig{T: t, wire: wire{}}
	inUse := true
	local := &service.Local{
		Admit: func(_ context.Context, next resource.Object, former *resource.Object) error {
			spec := next.Spec().(*orchestratorv1.SecretSpec)
			if len(spec.GetData()) == 0 {
				return fault.InField("spec.data", "empty")
			}
			next.SetObserved(&orchestratorv1.SecretObserved{Keys: []string{fmt.Sprint(former != nil)}})
			return nil
		},
		Release: func(context.Context, resource.Object) error {
			if inUse {
				return fault.New(fault.Precondition, "in use")
			}
			return nil
		},
	}
	r.serve(service.Catalog{Service: "orchestrator", Kinds: []service.Kind{{Message: &orchestratorv1.Secret{}, Local: local}}}, nil)
	client := orchestratorv1.NewSecretServiceClient(r.wire)
	create := func(data map[string]string) (*longrunningpb.Operation, error) {
		return client.CreateSecret(t.Context(), &orchestratorv1.CreateSecretRequest{Parent: acme, SecretId: "s", Secret: &orchestratorv1.Secret{Spec: &orchestratorv1.SecretSpec{Data: data}}})
	}
	_, err := create(nil)
	r.want(err, fault.Invalid, "spec.data")
	op, err := create(map[string]string{"password": "hunter2"})
	if err != nil {
		t.Fatal(err)
	}
	made := &orchestratorv1.Secret{}
	if !op.GetDone() || op.GetResponse().UnmarshalTo(made) != nil || made.GetStatus().GetPhase() != kindv1.Phase_PHASE_READY {
		t.Errorf("%v", op)
	}
	if strings.Contains(op.String(), "hunter2") || len(made.GetSpec().GetData()) != 0 {
		t.Errorf("the answer tells the secret: %v", op)
	}
	op, err = client.UpdateSecret(t.Context(), &orchestratorv1.UpdateSecretRequest{Secret: &orchestratorv1.Secret{Name: made.GetName(), Spec: &orchestratorv1.SecretSpec{Data: map[string]string{"password": "swordfish"}}}})
	if err != nil || !op.GetDone() || op.GetResponse().UnmarshalTo(made) != nil || made.GetMetadata().GetGeneration() != 2 {
		t.Errorf("%v, %v", op, err)
	}
	if diff := cmp.Diff([]string{"true"}, made.GetObserved().GetKeys()); diff != "" {
		t.Errorf("what Admit observed: %s", diff)
	}
	_, err = client.DeleteSecret(t.Context(), &orchestratorv1.DeleteSecretRequest{Name: made.GetName()})
	r.want(err, fault.Precondition, "")
	inUse = false
	op, err = client.DeleteSecret(t.Context(), &orchestratorv1.DeleteSecretRequest{Name: made.GetName()})
	if err != nil || !op.GetDone() || op.GetResponse() == nil {
		t.Errorf("%v, %v", op, err)
	}
	_, err = client.GetSecret(t.Context(), &orchestratorv1.GetSecretRequest{Name: made.GetName()})
	r.want(err, fault.NotFound, "")
}
