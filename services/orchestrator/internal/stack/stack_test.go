package stack_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/service"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/engine"
	"github.com/weftcloud/weft/services/orchestrator/internal/stack"
)

const shop = "tenants/acme/stacks/shop"

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a stack server with services that stand in for the real ones: they say what check makes of an item, count
// the gigabytes that volumes need, and give the resources that stand.
type world struct {
	*testing.T
	server   *stack.Server
	store    *memstore.Store
	check    func(*participantv1.Item) *participantv1.Finding
	draws    func(*participantv1.Item) *participantv1.Draw
	standing map[string]proto.Message
	down     error
	broken   string // the resource that cannot be looked at

	mu    sync.Mutex
	asked map[string]kindv1.Change // what preflight was asked about, by name
}

func newWorld(t *testing.T) *world {
	t.Helper()
	kinds, err := resource.NewRegistry(
		&networkv1.Network{}, &networkv1.Subnet{}, &networkv1.Router{}, &networkv1.FloatingIP{}, &networkv1.PrivateNetwork{},
		&networkv1.Publication{}, &computev1.Server{}, &storagev1.Volume{}, &containerv1.Cluster{}, &containerv1.Manifest{}, &orchestratorv1.Secret{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, store: memstore.New(), standing: map[string]proto.Message{}, asked: map[string]kindv1.Change{}}
	keys := 0
	w.server = &stack.Server{
		Engine: engine.New(engine.Config{Store: w.store, Kinds: kinds, Now: func() time.Time { return now }}), Kinds: kinds,
		Peers: service.Peers{"network": peer{w, "network"}, "compute": peer{w, "compute"}, "storage": peer{w, "storage"}, "container": peer{w, "container"}},
		Now:   func() time.Time { return now }, NewKey: func() string { keys++; return "k" + strconv.Itoa(keys) },
		Quotas: service.Quotas(w.store), Tenant: func(context.Context, string) error { return nil },
		Own: func(_ context.Context, name string) (proto.Message, error) {
			return &orchestratorv1.Secret{Name: name, Metadata: &kindv1.Metadata{Key: "secret"}}, nil
		},
	}
	return w
}

// peer is one service.
type peer struct {
	w    *world
	name string
}

// NewStream implements grpc.ClientConnInterface; nothing here streams.
func (p peer) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.ErrUnsupported
}

// Invoke implements grpc.ClientConnInterface.
func (p peer) Invoke(_ context.Context, method string, in, out any, _ ...grpc.CallOption) error {
	if p.w.down != nil {
		return fault.Status(p.w.down)
	}
	var answer proto.Message
	var err error
	switch r := in.(type) {
	case *participantv1.DescribeObjectsRequest:
		answer, err = p.describe(r)
	case *participantv1.PreflightRequest:
		answer = p.preflight(r)
	case *participantv1.ExpandRequest:
		answer = expand(r.GetItem())
	case *participantv1.ResolveRequest:
		answer, err = p.w.resolve(r)
	default:
		return fmt.Errorf("nobody answers %s", method)
	}
	if err != nil {
		return fault.Status(err)
	}
	proto.Merge(out.(proto.Message), answer)
	return nil
}

func (w *world) resolve(r *participantv1.ResolveRequest) (proto.Message, error) {
	if w.broken != "" && w.broken == r.GetName() {
		return nil, fault.New(fault.Unavailable, "the lights are off")
	}
	m, ok := w.standing[r.GetName()]
	if !ok {
		return nil, fault.New(fault.NotFound, "%s does not exist", r.GetName())
	}
	packed, err := anypb.New(m)
	return &participantv1.ResolveResponse{Resource: packed}, err
}

// describe says of every object of cloud lab what one of its service is: a volume of 100 GiB, or a network.
func (p peer) describe(r *participantv1.DescribeObjectsRequest) (*participantv1.DescribeObjectsResponse, error) {
	out := &participantv1.DescribeObjectsResponse{}
	if r.GetCloud() != "clouds/lab" {
		return out, nil
	}
	specs := map[string]proto.Message{"storage": &storagev1.VolumeSpec{Size: "100Gi"}, "network": &networkv1.NetworkSpec{}}
	for _, o := range r.GetObjects() {
		spec, err := anypb.New(specs[p.name])
		if err != nil {
			return nil, err
		}
		out.Objects = append(out.Objects, &participantv1.DescribedObject{Type: o.GetType(), Id: o.GetIds()[0], Spec: spec})
	}
	return out, nil
}

// preflight counts gigabytes for volumes and servers, so that two services draw on one quota.
func (p peer) preflight(r *participantv1.PreflightRequest) *participantv1.PreflightResponse {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	out := &participantv1.PreflightResponse{}
	q := &participantv1.QuotaUse{Cloud: "clouds/lab", Service: "disks", Quota: "gigabytes", Used: 100, Limit: 1000}
	for _, i := range r.GetItems() {
		p.w.asked[i.GetName()] = i.GetChange()
		if p.w.check != nil {
			if f := p.w.check(i); f != nil {
				out.Findings = append(out.Findings, f)
			}
		}
		if p.w.draws != nil && i.GetSpec() != nil {
			out.Draws = append(out.Draws, p.w.draws(i))
		}
		size, err := strconv.Atoi(strings.TrimSuffix(i.GetSpec().GetFields()["size"].GetStringValue(), "Gi"))
		if err == nil {
			q.Need += int64(size)
		}
		if strings.HasSuffix(i.GetType(), "/Server") {
			q.Need += 10
		}
	}
	if q.GetNeed() > 0 {
		out.Quotas = append(out.Quotas, q)
	}
	if q.GetUsed()+q.GetNeed() > q.GetLimit() {
		out.Findings = append(out.Findings, &participantv1.Finding{Fault: fault.Proto(quota.Fault(q), now)})
	}
	return out
}

// expand makes of a PrivateNetwork a network and a subnet, of a Publication an address.
func expand(item *participantv1.Item) *participantv1.ExpandResponse {
	spec := item.GetSpec().GetFields()
	child := func(name, kind string, fields map[string]*structpb.Value) *participantv1.Child {
		maps.DeleteFunc(fields, func(_ string, v *structpb.Value) bool { return v == nil })
		return &participantv1.Child{Name: name, Type: "network.weft.cloud/" + kind, Spec: &structpb.Struct{Fields: fields}}
	}
	if strings.HasSuffix(item.GetType(), "/Publication") {
		return &participantv1.ExpandResponse{
			Children: []*participantv1.Child{child("address", "FloatingIP", map[string]*structpb.Value{"server": spec["target"]})},
			Outputs:  map[string]string{"address": "address.address", "port": "443"},
		}
	}
	return &participantv1.ExpandResponse{
		Children: []*participantv1.Child{
			child("network", "Network", map[string]*structpb.Value{"mtu": spec["mtu"]}),
			child("subnet", "Subnet", map[string]*structpb.Value{"network": structpb.NewStringValue(".network"), "cidr": spec["cidr"], "dnsServers": spec["dnsServers"]}),
		},
		Outputs: map[string]string{"network_id": "network.network_id", "gateway_ip": "subnet.gateway_ip"},
	}
}

// put keeps a stack as the engine does.
func (w *world) put(record *orchestratorv1.StackRecord) {
	w.Helper()
	raw, err := proto.Marshal(record)
	if err != nil {
		w.Fatal(err)
	}
	if _, err := w.store.Txn(w.Context(), nil, []store.Op{{Key: "/weft/orchestrator/k/" + record.GetStack().GetName(), Value: raw}}); err != nil {
		w.Fatal(err)
	}
}

func (w *world) plan(document string) *orchestratorv1.Plan {
	w.Helper()
	p, err := w.server.PlanStack(w.Context(), &orchestratorv1.PlanStackRequest{Parent: "tenants/acme", Document: document, DocumentName: "s.yaml"})
	if err != nil {
		w.Fatal(err)
	}
	return p
}

// said gives problems as line:column and the field.
func said(problems []*orchestratorv1.Problem) []string {
	out := []string{}
	for _, p := range problems {
		out = append(out, fmt.Sprintf("%d:%d %s", p.GetLine(), p.GetColumn(), p.GetField()))
	}
	return out
}

func (w *world) looked() []string {
	out := []string{}
	for name, change := range w.asked {
		out = append(out, name[strings.LastIndexByte(name, '.')+1:]+" "+strings.TrimPrefix(change.String(), "CHANGE_"))
	}
	slices.Sort(out)
	return out
}

// at finds fault with a field of every item of a type.
func at(typ, field string) func(*participantv1.Item) *participantv1.Finding {
	return func(i *participantv1.Item) *participantv1.Finding {
		if !strings.HasSuffix(i.GetType(), "/"+typ) || i.GetChange() == kindv1.Change_CHANGE_DELETE {
			return nil
		}
		return &participantv1.Finding{Name: i.GetName(), Field: field, Fault: &kindv1.Fault{Kind: string(fault.Invalid), Message: "not this one"}}
	}
}

const head = "kind: Stack\nname: shop\nplacement: {cloud: lab}\nparameters: {flavor: m9}\nresources:\n" // five lines

// stands gives a stack in which a resource stands.
func stands(local, typ, name string, spec map[string]any) *orchestratorv1.StackRecord {
	s, err := structpb.NewStruct(spec)
	if err != nil {
		panic(err)
	}
	return &orchestratorv1.StackRecord{
		Stack:    &orchestratorv1.Stack{Name: shop, State: orchestratorv1.StackState_STACK_STATE_READY, Metadata: &kindv1.Metadata{Key: "s"}},
		Standing: []*orchestratorv1.StandingResource{{LocalName: local, Name: name, Type: typ, Key: "old", Cloud: "clouds/lab", Spec: s, Resolved: s}},
	}
}

// TestSoundPartIsLookedAt plans documents with problems: what is sound of them is looked at all the same, and nothing is
// that could be said to be wrong only because of what was left out.
func TestSoundPartIsLookedAt(t *testing.T) {
	const (
		server  = "  db: {kind: Server, spec: {image: tiny, flavor: m9, network: fine}}\n"
		network = "  fine: {kind: Network, spec: {}}\n"
	)
	volume := stands("data", "storage.weft.cloud/Volume", "tenants/acme/volumes/shop.data", map[string]any{"size": "900Gi"})
	tests := map[string]struct {
		former   *orchestratorv1.StackRecord
		document string
		check    func(*participantv1.Item) *participantv1.Finding
		want     []string
		looked   []string
	}{
		"a field that there is not, and a flavor": {
			document: head + network + "  data: {kind: Volume, spec: {size: 1Gi, colour: red}}\n" + server, check: at("Server", "spec.flavor"),
			want: []string{"7:42 resources.data.spec.colour", "8:50 resources.db.spec.flavor"}, looked: []string{"db CREATE", "fine CREATE"},
		},
		"problems of the plan too": {
			document: head + network + "  data: {kind: Volume, spec: {size: 1Gi, colour: red}}\n  s: {kind: Subnet, spec: {network: networks/nosuch, cidr: 10.0.0.0/24}}\n" + server,
			check:    at("Server", "spec.flavor"),
			want:     []string{"7:42 resources.data.spec.colour", "8:37 resources.s.spec.network", "9:50 resources.db.spec.flavor"},
			looked:   []string{"db CREATE", "fine CREATE"},
		},
		"what needs it is left out": {
			document: head + "  fine: {kind: Network, spec: {mtu: big}}\n  late: {kind: Volume, dependsOn: [db], spec: {size: 1Gi}}\n  own: {kind: Volume, spec: {size: 1Gi}}\n" + server,
			check:    at("Server", "spec.flavor"), want: []string{"6:37 resources.fine.spec.mtu"}, looked: []string{"own CREATE"},
		},
		"an output": {
			document: head + network + server + "outputs: {a: \"${nosuch.id}\"}\n", check: at("Server", "spec.flavor"),
			want: []string{"7:50 resources.db.spec.flavor", "8:17 outputs.a"}, looked: []string{"db CREATE", "fine CREATE"},
		},
		"a parameter that may be another's typing error": {
			document: strings.Replace(head, "flavor: m9", "flavor: m9, none: ~", 1) + network + strings.Replace(server, "m9", `"${params.flavor}"`, 1), check: at("Server", "spec.flavor"),
			want: []string{"4:26 parameters.none"}, looked: []string{"fine CREATE"},
		},
		"no name": {
			document: strings.Replace(head, "name: shop", "name: Shop!", 1) + network + server, check: at("Server", "spec.flavor"), want: []string{"2:7 name"}, looked: []string{},
		},
		"a resource that stands twice": {
			document: head + network + "  own: {kind: Volume, spec: {size: 1Gi}}\n" + network + server, check: at("Server", "spec.flavor"), want: []string{"8:3 "}, looked: []string{"own CREATE"},
		},
		"a field that stands twice": {
			document: head + network + "  data: {kind: Volume, spec: {size: 1Gi, size: 901Gi}}\n" + server, check: at("Server", "spec.flavor"),
			want: []string{"7:42 ", "8:50 resources.db.spec.flavor"}, looked: []string{"db CREATE", "fine CREATE"},
		},
		"a name that stands twice": {
			document: strings.Replace(head, "name: shop", "name: shop\nname: shoq", 1) + network + server, check: at("Server", "spec.flavor"), want: []string{"3:1 "}, looked: []string{},
		},
		"an alias of nothing": {
			document: head + network + "  data: {kind: Volume, spec: {size: *nothing}}\n" + server, check: at("Server", "spec.flavor"),
			want: []string{"7:30 resources.data.spec.size", "7:37 ", "8:50 resources.db.spec.flavor"}, looked: []string{"db CREATE", "fine CREATE"},
		},
		"no YAML": {document: head + network + "  x: [\n" + server, check: at("Server", "spec.flavor"), want: []string{"7:6 "}, looked: []string{}},
		"what stands and is left out does not go away": {
			former: volume, document: head + network + "  data: {kind: Volume, spec: {size: 1Gi, colour: red}}\n", want: []string{"7:42 resources.data.spec.colour"}, looked: []string{"fine CREATE"},
		},
		"what stands under a kind that there is not does not go away either": {
			former: volume, document: head + network + "  data: {kind: Volum, spec: {size: 1Gi}}\n", want: []string{"7:16 resources.data.kind"}, looked: []string{"fine CREATE"},
		},
		"what is no longer in the document goes away": {
			former: volume, document: head + network + "  v: {kind: Volume, spec: {size: 1Gi, colour: red}}\n", want: []string{"7:39 resources.v.spec.colour"}, looked: []string{"data DELETE", "fine CREATE"},
		},
		"no quota is too small if what stands may give some up": {
			former: volume, document: head + "  data: {kind: Volume, spec: {size: 1Gi, colour: red}}\n  v: {kind: Volume, spec: {size: 901Gi}}\n", want: []string{"6:42 resources.data.spec.colour"}, looked: []string{"v CREATE"},
		},
		"a quota is too small whatever is left out": {
			document: head + "  data: {kind: Volume, spec: {size: 1Gi, colour: red}}\n  v: {kind: Volume, spec: {size: 901Gi}}\n",
			want:     []string{"6:42 resources.data.spec.colour", "7:3 resources.v"}, looked: []string{"v CREATE"},
		},
		"a subnet beside one that stands and is left out": {
			former:   stands("one", "network.weft.cloud/Subnet", "tenants/acme/subnets/shop.one", map[string]any{"network": "tenants/acme/networks/shop.fine", "cidr": "10.0.0.0/24"}),
			document: head + network + "  one: {kind: Subnet, spec: {network: fine, cidr: 10.1.0.0/24, colour: red}}\n  two: {kind: Subnet, spec: {network: fine, cidr: 10.0.0.0/24}}\n",
			check:    at("Subnet", "spec.cidr"), want: []string{"7:64 resources.one.spec.colour"}, looked: []string{"fine CREATE"},
		},
		"a subnet beside a new one that is left out": {
			document: head + network + "  one: {kind: Subnet, spec: {network: fine, cidr: 10.1.0.0/24, colour: red}}\n  two: {kind: Subnet, spec: {network: fine, cidr: 10.0.0.0/24}}\n",
			check:    at("Subnet", "spec.cidr"), want: []string{"7:64 resources.one.spec.colour", "8:51 resources.two.spec.cidr"}, looked: []string{"fine CREATE", "two CREATE"},
		},
		"a manifest beside one that is left out": {
			document: head + network + "  apps: {kind: Cluster, spec: {driver: ADOPT, credentials: kube}}\n  ns: {kind: Manifest, spec: {cluster: apps, yaml: \"\", colour: red}}\n  m: {kind: Manifest, spec: {cluster: apps, yaml: \"kind: ConfigMap\"}}\n",
			check:    at("Manifest", "spec.yaml"), want: []string{"8:56 resources.ns.spec.colour"}, looked: []string{"apps CREATE", "fine CREATE"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.check = test.check
			if test.former != nil {
				w.put(test.former)
			}
			p := w.plan(test.document)
			if diff := cmp.Diff(test.want, said(p.GetProblems())); diff != "" {
				t.Errorf("problems (-want +got):\n%s\n%v", diff, p.GetProblems())
			}
			if diff := cmp.Diff(test.looked, w.looked()); diff != "" {
				t.Errorf("looked at (-want +got):\n%s", diff)
			}
			if len(p.GetChanges()) > 0 || len(p.GetQuotas()) > 0 {
				t.Errorf("a part of a document is shown as a plan: %v", p)
			}
			_, err := w.server.ApplyStack(t.Context(), &orchestratorv1.ApplyStackRequest{Parent: "tenants/acme", Document: test.document, DocumentName: "s.yaml"})
			if !fault.Is(fault.FromStatus(err), fault.Invalid) && !fault.Is(fault.FromStatus(err), fault.Quota) {
				t.Errorf("apply: %v", err)
			}
		})
	}
}

// TestProblemsAreToldWhenTheRestCannotBeLookedAt keeps an outage from hiding what is wrong with the document.
func TestProblemsAreToldWhenTheRestCannotBeLookedAt(t *testing.T) {
	w := newWorld(t)
	w.down = fault.New(fault.Unavailable, "the lights are off")
	p := w.plan(head + "  data: {kind: Volume, spec: {size: 1Gi, colour: red}}\n  fine: {kind: Network, spec: {}}\n")
	if diff := cmp.Diff([]string{"6:42 resources.data.spec.colour", "0:0 "}, said(p.GetProblems())); diff != "" {
		t.Fatalf("problems (-want +got):\n%s", diff)
	}
	if text := p.GetProblems()[1].GetFault().GetMessage(); !strings.Contains(text, "the lights are off") {
		t.Errorf("the last problem says %q", text)
	}
	_, err := w.server.PlanStack(t.Context(), &orchestratorv1.PlanStackRequest{Parent: "tenants/acme", Document: head + "  fine: {kind: Network, spec: {}}\n"})
	if !fault.Is(fault.FromStatus(err), fault.Unavailable) {
		t.Errorf("a sound document that cannot be looked at: %v", err)
	}
}

// TestQuotaIsPlaced finds the first resource, in the document's order, with which a quota does not suffice.
func TestQuotaIsPlaced(t *testing.T) {
	volume := func(name, size string) string {
		return "  " + name + ": {kind: Volume, spec: {size: " + size + "}}\n"
	}
	tests := map[string]struct {
		resources string
		want      []string
		says      string
	}{
		"it fits":                {volume("a", "400Gi") + volume("b", "500Gi"), []string{}, ""},
		"the only one":           {volume("a", "901Gi"), []string{"6:3 resources.a"}, "need 901, used 100, limit 1000"},
		"the third of five":      {volume("e", "300Gi") + volume("d", "400Gi") + volume("c", "300Gi") + volume("b", "1Gi") + volume("a", "900Gi"), []string{"8:3 resources.c"}, "need 1901, used 100, limit 1000"},
		"the last":               {volume("a", "400Gi") + volume("b", "500Gi") + volume("c", "1Gi"), []string{"8:3 resources.c"}, "need 901"},
		"of two services":        {volume("v", "890Gi") + "  net: {kind: Network, spec: {}}\n  x: {kind: Server, spec: {image: i, flavor: f, network: net}}\n  y: {kind: Server, spec: {image: i, flavor: f, network: net}}\n", []string{"9:3 resources.y"}, "need 910"},
		"needed by what is late": {"  x: {kind: Server, dependsOn: [v], spec: {image: i, flavor: f, network: net}}\n" + volume("v", "895Gi") + "  net: {kind: Network, spec: {}}\n", []string{"7:3 resources.v"}, "need 905"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.plan(head + test.resources)
			if diff := cmp.Diff(test.want, said(p.GetProblems())); diff != "" {
				t.Fatalf("problems (-want +got):\n%s\n%v", diff, p.GetProblems())
			}
			if len(p.GetQuotas()) != 1 {
				t.Errorf("quotas: %v", p.GetQuotas())
			}
			if len(test.want) == 0 {
				return
			}
			if f := p.GetProblems()[0].GetFault(); !strings.Contains(f.GetMessage(), test.says) || fault.Kind(f.GetKind()) != fault.Quota {
				t.Errorf("it says %v", f)
			}
		})
	}
}

// housed gives a stack with a server that is published, and a network of its own, as planned by the server itself.
func housed(w *world) *orchestratorv1.StackRecord {
	w.Helper()
	spec := func(fields map[string]any) *structpb.Struct {
		s, err := structpb.NewStruct(fields)
		if err != nil {
			w.Fatal(err)
		}
		return s
	}
	one := func(local, collection, typ, parent string, fields map[string]any) *orchestratorv1.StandingResource {
		return &orchestratorv1.StandingResource{
			LocalName: local, Name: "tenants/acme/" + collection + "/shop." + local, Type: typ, Cloud: "clouds/lab", Parent: parent, Spec: spec(fields), Labels: map[string]string{"env": "prod"},
		}
	}
	net := one("net", "privateNetworks", "network.weft.cloud/PrivateNetwork", "", map[string]any{"cidr": "10.0.0.0/24", "dnsServers": []any{"${db.address}", "9.9.9.9"}})
	net.Composite, net.Labels, net.Outputs = true, nil, map[string]string{"network_id": "network.network_id", "gateway_ip": "subnet.gateway_ip"}
	door := one("door", "publications", "network.weft.cloud/Publication", "", map[string]any{"target": "db", "port": 443, "via": "VIA_FLOATING_IP"})
	door.Composite, door.Labels, door.Outputs = true, nil, map[string]string{"address": "address.address", "port": "443"}
	record := stands("x", "x", "x", nil)
	record.Standing = []*orchestratorv1.StandingResource{
		net, door,
		one("net.network", "networks", "network.weft.cloud/Network", "net", nil),
		one("net.subnet", "subnets", "network.weft.cloud/Subnet", "net", nil),
		one("door.address", "floatingIps", "network.weft.cloud/FloatingIP", "door", nil),
		one("db", "servers", "compute.weft.cloud/Server", "", nil),
	}
	ready := func(phase kindv1.Phase, at time.Duration) (*kindv1.Status, *kindv1.Metadata) {
		return &kindv1.Status{Phase: phase, PhaseTime: timestamppb.New(now.Add(at))}, &kindv1.Metadata{CreateTime: timestamppb.New(now.Add(at))}
	}
	network := &networkv1.Network{Observed: &networkv1.NetworkObserved{NetworkId: "n-1"}}
	network.Status, network.Metadata = ready(kindv1.Phase_PHASE_READY, time.Second)
	subnet := &networkv1.Subnet{Observed: &networkv1.SubnetObserved{GatewayIp: "10.0.0.1"}}
	subnet.Status, subnet.Metadata = ready(kindv1.Phase_PHASE_UPDATING, 2*time.Second)
	address := &networkv1.FloatingIP{}
	address.Status, address.Metadata = ready(kindv1.Phase_PHASE_FAILED, 3*time.Second)
	address.Status.Fault = &kindv1.Fault{Message: "none left"}
	server := &computev1.Server{Observed: &computev1.ServerObserved{Address: "10.0.0.7"}}
	w.standing["tenants/acme/networks/shop.net.network"], w.standing["tenants/acme/subnets/shop.net.subnet"] = network, subnet
	w.standing["tenants/acme/floatingIps/shop.door.address"], w.standing["tenants/acme/servers/shop.db"] = address, server
	return record
}

func resolve[M proto.Message](t *testing.T, c *stack.Composites, name string, m M) M {
	t.Helper()
	answer, err := c.Resolve(t.Context(), &participantv1.ResolveRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	if err := answer.GetResource().UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestComposites shows composite resources of a stack: expressions have their values, references are full names, and
// status comes from the children.
func TestComposites(t *testing.T) {
	w := newWorld(t)
	c := &stack.Composites{Stacks: w.server}
	w.put(housed(w))
	list, err := c.ListLedger(t.Context(), &participantv1.ListLedgerRequest{Tenant: "tenants/acme"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list.GetEntries() {
		names = append(names, e.GetName()+" of "+e.GetStack())
	}
	if diff := cmp.Diff([]string{"tenants/acme/privateNetworks/shop.net of " + shop, "tenants/acme/publications/shop.door of " + shop}, names); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
	net := resolve(t, c, "tenants/acme/privateNetworks/shop.net", &networkv1.PrivateNetwork{})
	if got := net.GetSpec(); got.GetCidr() != "10.0.0.0/24" || !slices.Equal(got.GetDnsServers(), []string{"10.0.0.7", "9.9.9.9"}) {
		t.Errorf("spec: %v", got)
	}
	if got := net.GetObserved(); got.GetNetworkId() != "n-1" || got.GetGatewayIp() != "10.0.0.1" {
		t.Errorf("observed: %v", got)
	}
	if st, meta := net.GetStatus(), net.GetMetadata(); st.GetPhase() != kindv1.Phase_PHASE_UPDATING || !st.GetPhaseTime().AsTime().Equal(now.Add(2*time.Second)) ||
		meta.GetStack() != shop || meta.GetLabels()["env"] != "prod" || !meta.GetCreateTime().AsTime().Equal(now.Add(time.Second)) || meta.GetEtag() == "" || net.GetCloud() != "clouds/lab" {
		t.Errorf("status and metadata: %v", net)
	}
	door := resolve(t, c, "tenants/acme/publications/shop.door", &networkv1.Publication{})
	if got := door.GetSpec(); got.GetTarget() != "tenants/acme/servers/shop.db" || got.GetPort() != 443 || got.GetVia() != networkv1.Via_VIA_FLOATING_IP {
		t.Errorf("spec: %v", got)
	}
	if door.GetObserved().GetAddress() != "" || door.GetObserved().GetPort() != 443 || door.GetStatus().GetPhase() != kindv1.Phase_PHASE_FAILED || door.GetStatus().GetFault().GetMessage() != "none left" {
		t.Errorf("observed and status: %v", door)
	}
	for _, name := range []string{"tenants/acme/privateNetworks/shop.nosuch", "tenants/acme/privateNetworks/nosuch.net", "tenants/acme/privateNetworks/shop", "tenants/acme/publications/shop.net"} {
		if _, err := c.Resolve(t.Context(), &participantv1.ResolveRequest{Name: name}); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCompositesOnTheirWay shows composite resources whose children are not there yet, or are going.
func TestCompositesOnTheirWay(t *testing.T) {
	w := newWorld(t)
	c := &stack.Composites{Stacks: w.server}
	record := housed(w)
	w.put(record)
	clear(w.standing)
	name := "tenants/acme/privateNetworks/shop.net"
	net := resolve(t, c, name, &networkv1.PrivateNetwork{})
	if net.GetStatus().GetPhase() != kindv1.Phase_PHASE_PENDING || !slices.Equal(net.GetSpec().GetDnsServers(), []string{"9.9.9.9"}) || net.GetObserved().GetNetworkId() != "" {
		t.Errorf("before anything is there: %v", net)
	}
	record.Stack.State, record.Stack.Metadata.DeleteTime = orchestratorv1.StackState_STACK_STATE_DELETING, timestamppb.New(now)
	w.put(record)
	if net := resolve(t, c, name, &networkv1.PrivateNetwork{}); net.GetStatus().GetPhase() != kindv1.Phase_PHASE_RELEASING || net.GetMetadata().GetDeleteTime() == nil {
		t.Errorf("while it is deleted: %v", net)
	}
	w.down = fault.New(fault.Unavailable, "the lights are off")
	if net := resolve(t, c, name, &networkv1.PrivateNetwork{}); !strings.Contains(net.GetStatus().GetFault().GetMessage(), "the lights are off") {
		t.Errorf("when it cannot be seen: %v", net)
	}
}

// TestAloneIsNotListedTwice leaves out the stack that a resource's own API made.
func TestAloneIsNotListedTwice(t *testing.T) {
	w := newWorld(t)
	c := &stack.Composites{Stacks: w.server}
	record := stands("x", "x", "x", nil)
	record.Stack.Name = "tenants/acme/stacks/privatenetwork-office"
	record.Stack.Document = `{"resources": {"office": {"kind": "PrivateNetwork", "spec": {"cidr": "10.0.0.0/24"}}}}`
	record.Standing = []*orchestratorv1.StandingResource{{
		LocalName: "office", Name: "tenants/acme/privateNetworks/privatenetwork-office.office", Type: "network.weft.cloud/PrivateNetwork", Composite: true,
	}}
	w.put(record)
	list, err := c.ListLedger(t.Context(), &participantv1.ListLedgerRequest{Tenant: "tenants/acme"})
	if err != nil || len(list.GetEntries()) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	_, err = c.Resolve(t.Context(), &participantv1.ResolveRequest{Name: record.GetStanding()[0].GetName()})
	if !fault.Is(err, fault.NotFound) {
		t.Errorf("%v", err)
	}
}

// TestOperationsSortByAge names an operation after one that a replica named whose clock was ahead. Participants take the
// commands of the lesser name for the older ones and refuse them.
func TestOperationsSortByAge(t *testing.T) {
	const early, late = "01890a5d-ac96-774b-bcce-b302099a8057", "01890a5d-b07e-7abc-8123-456789abcdef"
	for name, c := range map[string]struct{ key, other, want string }{
		"first":              {early, "", early},
		"in order":           {late, early, late},
		"of a clock behind":  {early, late, "01890a5d-b07f-774b-bcce-b302099a8057"},
		"the same":           {late, late, "01890a5d-b07f-7abc-8123-456789abcdef"},
		"over a byte's end":  {early, "01890a5d-b0ff-7abc-8123-456789abcdef", "01890a5d-b100-774b-bcce-b302099a8057"},
		"not after a UUIDv7": {early, "shop", early},
	} {
		got := stack.LaterThan(c.key, c.other)
		if got != c.want || name != "not after a UUIDv7" && got <= c.other {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// TestWorst says with which kind of fault a document is refused: a cloud that refused to be looked at, as one call too many,
// is no reason to give up.
func TestWorst(t *testing.T) {
	tests := map[string]struct {
		problems []fault.Kind
		want     fault.Kind
	}{
		"the document is wrong":           {[]fault.Kind{fault.Throttled, fault.Quota, fault.Invalid}, fault.Invalid},
		"something named does not exist":  {[]fault.Kind{fault.Unsupported, fault.NotFound}, fault.Invalid},
		"a quota does not suffice":        {[]fault.Kind{fault.Unavailable, fault.Quota}, fault.Quota},
		"the cloud lets nobody look":      {[]fault.Kind{fault.Throttled, fault.Throttled}, fault.Throttled},
		"clouds cannot be reached":        {[]fault.Kind{fault.Throttled, fault.Unavailable}, fault.Unavailable},
		"something stands in the way":     {[]fault.Kind{fault.Precondition}, fault.Precondition},
		"one is unknown, another refused": {[]fault.Kind{fault.Throttled, fault.Denied}, fault.Precondition},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var problems []*orchestratorv1.Problem
			for _, kind := range test.problems {
				problems = append(problems, &orchestratorv1.Problem{Fault: &kindv1.Fault{Kind: string(kind)}})
			}
			if got := stack.Worst(problems); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}
