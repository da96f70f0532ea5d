package plan_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/document"
	"github.com/weftcloud/weft/services/orchestrator/internal/plan"
)

var update = flag.Bool("update", false, "write the golden files anew")

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func kinds(t fataler) *resource.Registry {
	r, err := resource.NewRegistry(
		&networkv1.Network{}, &networkv1.Subnet{}, &networkv1.Router{}, &networkv1.SecurityGroup{}, &networkv1.FloatingIP{},
		&networkv1.LoadBalancer{}, &networkv1.PrivateNetwork{}, &networkv1.Publication{}, &computev1.Server{}, &computev1.KeyPair{}, &storagev1.Volume{},
		&storagev1.VolumeAttachment{}, &storagev1.VolumeSnapshot{}, &containerv1.Cluster{}, &containerv1.Workload{}, &containerv1.Manifest{}, &orchestratorv1.Secret{})
	if err != nil {
		t.Fatalf("%v", err)
	}
	return r
}

// world stands in for the services: it expands, looks up, and makes keys that count.
type world struct {
	kinds *resource.Registry
	keys  int
	// outside are the resources that stand outside of the stack.
	outside map[string]proto.Message
}

func newWorld(t fataler) *world {
	secret := &orchestratorv1.Secret{Metadata: &kindv1.Metadata{Key: "secret-key"}}
	volume := &storagev1.Volume{Metadata: &kindv1.Metadata{Key: "outside-key"}}
	return &world{kinds: kinds(t), outside: map[string]proto.Message{
		"tenants/acme/secrets/kube": secret, "tenants/acme/volumes/other": volume,
	}}
}

func (w *world) newKey() string { w.keys++; return "k" + strconv.Itoa(w.keys) }

func (w *world) lookup(_ context.Context, name string) (proto.Message, error) {
	if m, ok := w.outside[name]; ok {
		return m, nil
	}
	return nil, fault.New(fault.NotFound, "%s does not exist", name)
}

// expand makes of a PrivateNetwork a network, a subnet and, with a way out, a router; of a Publication an address.
func (w *world) expand(_ context.Context, item *participantv1.Item) (*participantv1.ExpandResponse, error) {
	spec := item.GetSpec().AsMap()
	child := func(name, kind string, sources map[string]string, values map[string]any) *participantv1.Child {
		for k, v := range values {
			if v == nil {
				delete(values, k)
			}
		}
		s, err := structpb.NewStruct(values)
		if err != nil {
			panic(err)
		}
		return &participantv1.Child{Name: name, Type: "network.weft.cloud/" + kind, Spec: s, Sources: sources}
	}
	if strings.HasSuffix(item.GetType(), "Publication") {
		if spec["port"] == 666.0 {
			return nil, fault.InField("spec.port", "not this one")
		}
		return &participantv1.ExpandResponse{
			Children: []*participantv1.Child{child("address", "FloatingIP", map[string]string{"server": "target"}, map[string]any{"server": spec["target"]})},
			Outputs:  map[string]string{"address": "address.address", "port": fmt.Sprint(spec["port"])},
		}, nil
	}
	out := &participantv1.ExpandResponse{
		Children: []*participantv1.Child{
			child("network", "Network", nil, map[string]any{"mtu": spec["mtu"]}),
			child("subnet", "Subnet", map[string]string{"cidr": "cidr"}, map[string]any{"network": ".network", "cidr": spec["cidr"]}),
		},
		Outputs: map[string]string{"network_id": "network.network_id", "gateway_ip": "subnet.gateway_ip"},
	}
	if spec["external"] != nil {
		out.Children = append(out.Children, child("router", "Router", map[string]string{"externalNetwork": "external"}, map[string]any{"externalNetwork": spec["external"], "subnets": []any{".subnet"}}))
		out.Outputs["external_address"] = "router.external_address"
	}
	return out, nil
}

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func (w *world) build(t fataler, text string, former *orchestratorv1.StackRecord) (*plan.Result, []*orchestratorv1.Problem) {
	t.Helper()
	d, problems := document.Parse(document.Source{Kinds: w.kinds, Tenant: "acme", Name: "s.yaml", Text: []byte(text)})
	if d == nil {
		t.Fatalf("%v\n%s", problems, text)
	}
	r, problems, err := plan.Build(context.Background(), plan.Input{
		Document: d, Former: former, Kinds: w.kinds, Expand: w.expand, Lookup: w.lookup, NewKey: w.newKey, Tenant: "acme",
		Operation: "tenants/acme/operations/op", Now: now,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return r, problems
}

// observe gives what the cloud would show of a resource.
func (w *world) observe(t fataler, s *orchestratorv1.StandingResource) proto.Message {
	k, ok := w.kinds.ByType(s.GetType())
	if !ok {
		t.Fatalf("no kind %s", s.GetType())
	}
	switch m := k.NewObserved().(type) {
	case *computev1.ServerObserved:
		m.ServerId, m.Address = s.GetKey(), "10.0.0."+strconv.Itoa(len(s.GetLocalName()))
		return m
	case *networkv1.FloatingIPObserved:
		m.Address = "192.0.2.1"
		return m
	case *networkv1.NetworkObserved:
		m.NetworkId = "net-" + s.GetKey()
		return m
	case *networkv1.SubnetObserved:
		m.GatewayIp = "10.0.0.1"
		return m
	default:
		return m
	}
}

// run does a saga as an engine would: step by step, each after its needs, every spec resolved. It gives the record.
func (w *world) run(t fataler, saga *orchestratorv1.SagaPlan) *orchestratorv1.StackRecord {
	t.Helper()
	resolver, err := plan.NewResolver(w.kinds, saga.GetStanding())
	if err != nil {
		t.Fatalf("%v", err)
	}
	outputs := map[string]proto.Message{}
	for _, s := range saga.GetStanding() {
		if s.GetObserved() != nil {
			if outputs[s.GetLocalName()], err = s.GetObserved().UnmarshalNew(); err != nil {
				t.Fatalf("%v", err)
			}
		}
	}
	done := map[string]bool{}
	for _, step := range saga.GetSteps() {
		for _, need := range step.GetNeeds() {
			if !done[need] {
				t.Fatalf("step %s runs before %s", step.GetId(), need)
			}
		}
		done[step.GetId()] = true
		res := step.GetGoal().GetResource()
		if step.GetGoal().GetRelease() {
			continue
		}
		if _, err := resolver.Resolve(res, outputs); err != nil {
			t.Fatalf("step %s: %v", step.GetId(), err)
		}
		outputs[res.GetLocalName()] = w.observe(t, res)
	}
	record := &orchestratorv1.StackRecord{Stack: saga.GetResult()}
	for _, s := range saga.GetStanding() {
		stands := proto.CloneOf(s)
		if !s.GetComposite() {
			m, err := resolver.Resolve(s, outputs)
			if err != nil {
				t.Fatalf("%v", err)
			}
			if stands.Resolved, err = plan.SpecStruct(m); err != nil {
				t.Fatalf("%v", err)
			}
			if stands.Observed, err = anypb.New(outputs[s.GetLocalName()]); err != nil {
				t.Fatalf("%v", err)
			}
		}
		record.Standing = append(record.Standing, stands)
	}
	if _, err := resolver.Outputs(saga.GetOutputs(), outputs); err != nil {
		t.Fatalf("%v", err)
	}
	return record
}

const head = "kind: Stack\nname: shop\nplacement: {cloud: lab}\n"

const shop = head + `parameters: {n: 2}
resources:
  net:   {kind: PrivateNetwork, spec: {cidr: 10.20.0.0/24, external: public}}
  data:  {kind: Volume, spec: {size: 20Gi}}
  sg:    {kind: SecurityGroup, spec: {rules: [{ports: "80"}, {remoteGroup: sg}]}}
  db:
    kind: Server
    labels: {tier: db}
    spec: {image: debian-12, flavor: m1.small, network: net, securityGroups: [sg], volumes: [{volume: data}], userData: secret}
  apps:  {kind: Cluster, spec: {driver: adopt, credentials: kube}}
  web:
    kind: Workload
    spec:
      cluster: apps
      replicas: ${params.n}
      containers: [{name: web, image: shop:1, env: {DB_HOST: "${db.address}", OUT: "${net.external_address}"}}]
  door:  {kind: Publication, spec: {target: db, port: 80, via: FLOATING_IP}}
outputs: {url: "http://${door.address}:${door.port}"}
`

func show(r *plan.Result) string {
	var b strings.Builder
	short := func(c kindv1.Change) string { return strings.TrimPrefix(c.String(), "CHANGE_") }
	for _, c := range r.Plan.GetChanges() {
		fmt.Fprintf(&b, "%s %s key=%s needs=%v\n", short(c.GetChange()), c.GetLocalName(), c.GetKey(), c.GetNeeds())
		for _, f := range c.GetFields() {
			fmt.Fprintf(&b, "    %s %s: %s -> %s\n", short(f.GetChange()), f.GetPath(), f.GetOldValue(), f.GetNewValue())
		}
		if c.GetDataLoss() != "" {
			fmt.Fprintf(&b, "    data loss: %s\n", c.GetDataLoss())
		}
		fmt.Fprintf(&b, "    undo: %s\n", c.GetUndo())
		if c.GetUndoNotice() != "" {
			fmt.Fprintf(&b, "    notice: %s\n", c.GetUndoNotice())
		}
	}
	fmt.Fprintf(&b, "unchanged %d\n%ssteps\n", r.Plan.GetUnchanged(), showUndo(r.Plan))
	goal := func(g *orchestratorv1.Goal) string {
		if g == nil {
			return "-"
		}
		verb := "ensure"
		if g.GetRelease() {
			verb = "release"
		}
		text := verb + " " + g.GetResource().GetLocalName() + "/" + g.GetResource().GetKey()
		if g.GetReplaces() != "" {
			text += " replacing " + g.GetReplaces()
		}
		return text
	}
	for _, s := range r.Saga.GetSteps() {
		pivot := ""
		if s.GetRetriable() {
			pivot = " late"
		}
		fmt.Fprintf(&b, "    %s%s: %s | undo %s | needs %v\n", s.GetId(), pivot, goal(s.GetGoal()), goal(s.GetUndo()), s.GetNeeds())
	}
	return b.String()
}

// showUndo shows what a plan tells of the undo of each step.
func showUndo(p *orchestratorv1.Plan) string {
	var b strings.Builder
	for _, v := range p.GetSteps() {
		fmt.Fprintf(&b, "    %s: %s\n", v.GetId(), v.GetDoing())
		for _, line := range [][2]string{
			{"loses", v.GetDataLoss()},
			{strings.TrimPrefix(v.GetUndoAction().String(), "UNDO_ACTION_"), v.GetUndo()},
			{"  if", v.GetUndoPrecondition()},
			{"  loses", v.GetUndoDataLoss()},
			{"  notice", v.GetUndoNotice()},
			{"  key", v.GetUndoKey()},
		} {
			if line[1] != "" {
				fmt.Fprintf(&b, "        %s: %s\n", line[0], line[1])
			}
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return "what each step does, and its undo\n" + b.String()
}

// TestEveryStepTellsItsUndo holds what is shown against what the engine would do.
func TestEveryStepTellsItsUndo(t *testing.T) {
	w := newWorld(t)
	r, _ := w.build(t, shop, nil)
	record := w.run(t, r.Saga)
	edited := strings.NewReplacer("debian-12", "debian-13", "20Gi", "30Gi", "10.20.0.0/24", "10.21.0.0/24", "n: 2", "n: 3").Replace(shop)
	r, _ = w.build(t, edited, record)
	if len(r.Plan.GetSteps()) != len(r.Saga.GetSteps()) {
		t.Fatalf("%d steps are shown of %d", len(r.Plan.GetSteps()), len(r.Saga.GetSteps()))
	}
	seen := map[orchestratorv1.UndoAction]bool{}
	for i, s := range r.Saga.GetSteps() {
		v := r.Plan.GetSteps()[i]
		want := orchestratorv1.UndoAction_UNDO_ACTION_RESTORE
		switch {
		case s.GetUndo() == nil:
			want = orchestratorv1.UndoAction_UNDO_ACTION_NONE
		case s.GetUndo().GetRelease():
			want = orchestratorv1.UndoAction_UNDO_ACTION_RELEASE
		case s.GetGoal().GetRelease():
			want = orchestratorv1.UndoAction_UNDO_ACTION_REMAKE
		}
		if v.GetId() != s.GetId() || v.GetUndoAction() != want || v.GetUndoKey() != s.GetUndo().GetResource().GetKey() || v.GetUndo() == "" || v.GetDoing() == "" {
			t.Errorf("step %s is shown as %v, want %s", s.GetId(), v, want)
		}
		seen[v.GetUndoAction()] = true
	}
	if len(seen) != 4 {
		t.Errorf("the edit leads to the undos %v, want one of each", seen)
	}
}

func TestPlans(t *testing.T) {
	edit := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(shop) }
	cases := []struct{ name, text string }{
		{"nothing", shop},
		{"written otherwise", edit(`{size: 20Gi}`, `{"size": "20Gi", image: ""}`, "external: public", "external: public, mtu: 0")},
		{"size grows", edit("20Gi", "30Gi")},
		{"size in other units", edit("20Gi", "1Ti")},
		{"size shrinks", edit("20Gi", "10Gi")},
		{"image", edit("debian-12", "debian-13")},
		{"disk made anew", edit("flavor: m1.small", "rebuild: once, flavor: m1.small")},
		{"disk made anew and more", edit("flavor: m1.small", "rebuild: once, flavor: m1.large")},
		{"flavor and labels", edit("m1.small", "m1.large", "tier: db", "tier: data")},
		{"user data is not shown", edit("userData: secret", "userData: hidden")},
		{"parameter", edit("n: 2", "n: 3")},
		{"rules", edit(`{ports: "80"}`, `{ports: "81"}, {ports: "82"}`)},
		{"range of the network", edit("10.20.0.0/24", "10.21.0.0/24")},
		{"no way out", edit(", external: public", "", `, OUT: "${net.external_address}"`, "")},
		{"output of a composite", edit(", external: public", "")},
		{"another server is published", edit("  door:  {kind: Publication, spec: {target: db,", "  db2: {kind: Server, spec: {image: a, flavor: b, network: net}}\n  door:  {kind: Publication, spec: {target: db2,")},
		{"volume goes to another server", edit(", volumes: [{volume: data}]", "", "  door:", "  db2: {kind: Server, spec: {image: a, flavor: b, network: net, volumes: [{volume: data}]}}\n  door:")},
		{"server takes another's place", edit("  db:", "  base:", "${db.", "${base.", "target: db", "target: base")},
		{"kind", edit("data:  {kind: Volume, spec: {size: 20Gi}}", "data:  {kind: Network}", ", volumes: [{volume: data}]", "")},
		{"cloud", edit("{kind: Volume, spec", "{kind: Volume, placement: {cloud: other}, spec")},
		{"empty", head},
	}
	var b strings.Builder
	first := newWorld(t)
	r, problems := first.build(t, shop, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	fmt.Fprintf(&b, "# create\n%s\n", show(r))
	record := first.run(t, r.Saga)
	for _, c := range cases {
		w := newWorld(t)
		w.keys = 100
		r, problems := w.build(t, c.text, proto.CloneOf(record))
		if len(problems) > 0 {
			t.Fatal(c.name, problems)
		}
		fmt.Fprintf(&b, "# %s\n%s\n", c.name, show(r))
		after := w.run(t, r.Saga)
		again, _ := w.build(t, c.text, after)
		if len(again.Plan.GetChanges()) > 0 || len(again.Saga.GetSteps()) > 0 {
			t.Errorf("%s: after it was applied the plan is not empty:\n%s", c.name, show(again))
		}
	}
	saga, err := plan.Destroy(plan.DestroyInput{Record: record, Kinds: first.kinds, Now: now, Operation: "tenants/acme/operations/op"})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "# destroy\n%s", show(&plan.Result{Plan: &orchestratorv1.Plan{}, Saga: saga}))
	golden(t, "plans.golden", b.String())
}

// TestHoldersComeLast: what only refers to a volume is made before the volume is attached, and deleted after it was detached,
// unless it is to wait for that itself.
func TestHoldersComeLast(t *testing.T) {
	needs := func(steps []*orchestratorv1.PlannedStep, id string) []string {
		for _, s := range steps {
			if s.GetId() == id {
				return s.GetNeeds()
			}
		}
		t.Fatalf("there is no step %s", id)
		return nil
	}
	for name, c := range map[string]struct {
		more, first, then string
	}{
		"attached":         {more: "  moment: {kind: VolumeSnapshot, spec: {volume: data}}\n", first: "moment", then: "disk"},
		"after the holder": {more: "  moment: {kind: VolumeSnapshot, dependsOn: [disk], spec: {volume: data, force: true}}\n", first: "disk", then: "moment"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r, problems := w.build(t, head+"resources:\n  net: {kind: Network}\n  data: {kind: Volume, spec: {size: 1Gi}}\n"+
				"  db: {kind: Server, spec: {image: a, flavor: b, network: net}}\n  disk: {kind: VolumeAttachment, spec: {server: db, volume: data}}\n"+c.more, nil)
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			if !slices.Contains(needs(r.Saga.GetSteps(), c.then), c.first) || slices.Contains(needs(r.Saga.GetSteps(), c.first), c.then) {
				t.Errorf("made in the wrong order: %v", r.Saga.GetSteps())
			}
			saga, err := plan.Destroy(plan.DestroyInput{Record: w.run(t, r.Saga), Kinds: w.kinds, Now: now})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(needs(saga.GetSteps(), c.first), c.then) || slices.Contains(needs(saga.GetSteps(), c.then), c.first) {
				t.Errorf("deleted in the wrong order: %v", saga.GetSteps())
			}
		})
	}
}

// TestWhatJoinsIsNotWaitedFor: a load balancer is made beside its members, which join it when they stand. Whoever needs no more
// than its address waits for no member; whoever says that it needs the load balancer waits for all.
func TestWhatJoinsIsNotWaitedFor(t *testing.T) {
	const (
		net      = "  net: {kind: Network}\n"
		one      = "  one: {kind: Server, spec: {image: a, flavor: b, network: net}}\n"
		two      = "  two: {kind: Server, spec: {image: a, flavor: b, network: net}}\n"
		front    = "  front: {kind: LoadBalancer, spec: {network: net, listeners: [{name: web, port: 80}], pools: [{name: web, members: [{target: one, port: 80}, {address: '${one.address}', port: 81}]}]}}\n"
		frontTwo = "  front: {kind: LoadBalancer, spec: {network: net, listeners: [{name: web, port: 80}], pools: [{name: web, members: [{target: one, port: 80}, {target: two, port: 80}]}]}}\n"
		after    = "  front: {kind: LoadBalancer, dependsOn: [one], spec: {network: net, listeners: [{name: web, port: 80}], pools: [{name: web, members: [{target: one, port: 80}]}]}}\n"
		door     = "  door: {kind: FloatingIP, spec: {target: front}}\n"
		last     = "  last: {kind: Server, dependsOn: [front], spec: {image: a, flavor: b, network: net}}\n"
	)
	cases := map[string]struct {
		before, after string
		want          map[string]string // the needs of each step
	}{
		"all made": {
			after: net + one + front + door + last,
			want:  map[string]string{"net": "", "one": "net", "front": "net", "front/join": "front net one", "door": "front", "last": "front/join net"},
		},
		"a member stands":           {before: net + one, after: net + one + front + door, want: map[string]string{"front": "", "door": "front"}},
		"a member comes to it":      {before: net + one + front, after: net + one + two + frontTwo, want: map[string]string{"two": "", "front": "two"}},
		"it is to wait for them":    {after: net + one + after, want: map[string]string{"net": "", "one": "net", "front": "net one"}},
		"another kind of that name": {before: "  front: {kind: Network}\n", after: net + one + front, want: map[string]string{"net": "", "one": "net", "front": "net one", "front/release": ""}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			var record *orchestratorv1.StackRecord
			if c.before != "" {
				r, problems := w.build(t, head+"resources:\n"+c.before, nil)
				if len(problems) > 0 {
					t.Fatal(problems)
				}
				record = w.run(t, r.Saga)
			}
			r, problems := w.build(t, head+"resources:\n"+c.after, record)
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			got := map[string]string{}
			for _, s := range r.Saga.GetSteps() {
				got[s.GetId()] = strings.Join(slices.Sorted(slices.Values(s.GetNeeds())), " ")
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestNearReference: a load balancer takes its address when the network has a subnet; who leads to it waits for the router, too,
// and lets go of it before that goes.
func TestNearReference(t *testing.T) {
	const front = "  front: {kind: LoadBalancer, spec: {network: net, listeners: [{name: web, port: 80}], pools: [{name: web}]}}\n" +
		"  door: {kind: FloatingIP, spec: {target: front}}\n" + "  db: {kind: Server, spec: {image: a, flavor: b, network: net}}\n"
	for name, c := range map[string]struct {
		network string
		want    map[string]string
	}{
		"of its own": {
			"  net: {kind: Network}\n  sub: {kind: Subnet, spec: {network: net, cidr: 10.0.0.0/24}}\n  way: {kind: Router, spec: {externalNetwork: public, subnets: [sub]}}\n",
			map[string]string{"net": "", "sub": "net", "way": "sub", "front": "net sub", "door": "front sub way", "db": "net sub way"},
		},
		"of a composite": {
			"  net: {kind: PrivateNetwork, spec: {cidr: 10.0.0.0/24, external: public}}\n",
			map[string]string{
				"net.network": "", "net.subnet": "net.network", "net.router": "net.subnet", "front": "net.network net.subnet",
				"door": "front net.router net.subnet", "db": "net.network net.router net.subnet",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r, problems := w.build(t, head+"resources:\n"+c.network+front, nil)
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			got := map[string]string{}
			for _, s := range r.Saga.GetSteps() {
				got[s.GetId()] = strings.Join(slices.Sorted(slices.Values(s.GetNeeds())), " ")
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			saga, err := plan.Destroy(plan.DestroyInput{Record: w.run(t, r.Saga), Kinds: w.kinds, Now: now})
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range saga.GetSteps() {
				if id := s.GetId(); (id == "way" || id == "net.router") && !slices.Contains(s.GetNeeds(), "door") {
					t.Errorf("the router goes after %v", s.GetNeeds())
				}
			}
		})
	}
}

// TestMadeWithoutWhatJoins: the first of the two steps asks for nothing that joins, and refers to nothing of it; the second asks
// for all, and its undo for what stood before it.
func TestMadeWithoutWhatJoins(t *testing.T) {
	w := newWorld(t)
	r, problems := w.build(t, head+`resources:
  net: {kind: Network}
  one: {kind: Server, spec: {image: a, flavor: b, network: net}}
  front: {kind: LoadBalancer, spec: {network: net, listeners: [{name: web, port: 80}], pools: [{name: web, algorithm: SOURCE_IP, members: [{target: one, port: 80}]}]}}
`, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	steps := map[string]*orchestratorv1.PlannedStep{}
	for _, s := range r.Saga.GetSteps() {
		steps[s.GetId()] = s
	}
	first, join := steps["front"], steps["front/join"]
	pool := func(s *orchestratorv1.StandingResource) map[string]any {
		return s.GetSpec().AsMap()["pools"].([]any)[0].(map[string]any)
	}
	names := func(s *orchestratorv1.StandingResource) int { return len(s.GetReferences()) }
	alone, whole := first.GetGoal().GetResource(), join.GetGoal().GetResource()
	if p := pool(alone); p["members"] != nil || p["algorithm"] != "POOL_ALGORITHM_SOURCE_IP" || names(alone) != 1 {
		t.Errorf("it is made as %v", alone)
	}
	if p := pool(whole); len(p["members"].([]any)) != 1 || names(whole) != 2 || whole.GetKey() != alone.GetKey() {
		t.Errorf("it is then changed to %v", whole)
	}
	if !first.GetUndo().GetRelease() || first.GetUndo().GetResource().GetKey() != alone.GetKey() || !proto.Equal(join.GetUndo().GetResource(), alone) || join.GetUndo().GetRelease() {
		t.Errorf("the undos are %v and %v", first.GetUndo(), join.GetUndo())
	}
	if len(r.Plan.GetChanges()) != 3 || r.Plan.GetChanges()[2].GetUndo() != "delete LoadBalancer front" {
		t.Errorf("shown is %v", r.Plan.GetChanges())
	}
}

// TestHandoverBeforeWhatRefers: what only refers to a volume may wait for its new holder, and that for the former one.
func TestHandoverBeforeWhatRefers(t *testing.T) {
	const two = `resources:
  net: {kind: Network}
  a: {kind: Volume, spec: {size: 1Gi}}
  b: {kind: Volume, spec: {size: 1Gi}}
  db1: {kind: Server, spec: {image: i, flavor: f, network: net, volumes: [{volume: %s}]}}
  db2: {kind: Server, spec: {image: i, flavor: f, network: net%s}}
`
	w := newWorld(t)
	r, problems := w.build(t, head+fmt.Sprintf(two, "a", ""), nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	moved := head + fmt.Sprintf(two, "b", ", volumes: [{volume: a}]") + "  moment: {kind: VolumeSnapshot, dependsOn: [db2], spec: {volume: b, force: true}}\n"
	r, problems = w.build(t, moved, w.run(t, r.Saga))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	var order []string
	for _, s := range r.Saga.GetSteps() {
		order = append(order, s.GetId())
	}
	if slices.Index(order, "db1") > slices.Index(order, "db2") || slices.Index(order, "db2") > slices.Index(order, "moment") {
		t.Errorf("the order is %v", order)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("differs from %s (-update writes it anew):\n%s", path, d)
	}
}

func TestProblems(t *testing.T) {
	cases := map[string]struct{ text, want string }{
		"outside resource": {
			head + "resources:\n  net: {kind: Network}\n  db: {kind: Server, spec: {image: a, flavor: b, network: net, volumes: [{volume: volumes/gone}]}}\n",
			"s.yaml:6:83: resources.db.spec.volumes[0].volume: tenants/acme/volumes/gone does not exist; make it first, or correct the name",
		},
		"secret": {
			head + "resources:\n  c: {kind: Cluster, spec: {driver: adopt, credentials: nope}}\n",
			"s.yaml:5:57: resources.c.spec.credentials: tenants/acme/secrets/nope does not exist; make it first, or correct the name",
		},
		"expansion": {
			head + "resources:\n  net: {kind: Network}\n  db: {kind: Server, spec: {image: a, flavor: b, network: net}}\n  p: {kind: Publication, spec: {target: db, via: FLOATING_IP, port: 666}}\n",
			"s.yaml:7:69: resources.p.spec.port: not this one",
		},
		"child that is not made": {
			head + "resources:\n  net: {kind: PrivateNetwork, spec: {cidr: 10.0.0.0/24}}\n  sub: {kind: Subnet, spec: {network: net, cidr: 10.1.0.0/24}}\n  r: {kind: Router, spec: {subnets: [net, sub]}}\n  a: {kind: Server, spec: {image: a, flavor: b, network: net, volumes: [{volume: volumes/other}]}}\n  b: {kind: Server, spec: {image: a, flavor: b, network: net, volumes: [{volume: volumes/other}]}}\n",
			"s.yaml:9:82: resources.b.spec.volumes[0].volume: tenants/acme/volumes/other is held by a already, and one resource at a time can hold it; remove one of the two",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, problems := newWorld(t).build(t, c.text, nil)
			var got []string
			for _, p := range problems {
				got = append(got, fmt.Sprintf("%s:%d:%d: %s: %s", p.GetDocument(), p.GetLine(), p.GetColumn(), p.GetField(), p.GetFault().GetMessage()))
			}
			if d := cmp.Diff([]string{c.want}, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestFindingOfAChildNamesThePlaceOfItsComposite(t *testing.T) {
	r, _ := newWorld(t).build(t, shop, nil)
	p := r.Problem(&participantv1.Finding{Name: "tenants/acme/routers/shop.net.router", Field: "spec.external_network", Fault: &kindv1.Fault{Kind: "NotFound", Message: "no such network"}})
	lines := strings.Split(shop, "\n")
	if got := lines[p.GetLine()-1][p.GetColumn()-1:]; !strings.HasPrefix(got, "10.20") && !strings.HasPrefix(got, "public") {
		t.Errorf("it points to %q", got)
	}
	p = r.Problem(&participantv1.Finding{Name: "tenants/acme/subnets/shop.net.subnet", Field: "spec.cidr", Fault: &kindv1.Fault{Kind: "Invalid", Message: "overlaps"}})
	if got := lines[p.GetLine()-1][p.GetColumn()-1:]; !strings.HasPrefix(got, "10.20") || p.GetField() != "resources.net.spec.cidr" || p.GetFault().GetKind() != "Invalid" {
		t.Errorf("it points to %q, field %s", got, p.GetField())
	}
}

func TestItems(t *testing.T) {
	w := newWorld(t)
	r, _ := w.build(t, shop, nil)
	item := func(r *plan.Result, service, name string) *participantv1.Item {
		i := slices.IndexFunc(r.Items[service], func(i *participantv1.Item) bool { return strings.HasSuffix(i.GetName(), "/shop."+name) })
		if i < 0 {
			t.Fatalf("no item %s", name)
		}
		return r.Items[service][i]
	}
	web := item(r, "container", "web")
	if d := cmp.Diff([]string{"containers[0].env.DB_HOST", "containers[0].env.OUT"}, web.GetUnknown()); d != "" {
		t.Error(d)
	}
	if got := web.GetSpec().AsMap()["replicas"]; got != 2.0 {
		t.Errorf("replicas %v", got)
	}
	record := w.run(t, r.Saga)
	r, _ = w.build(t, strings.ReplaceAll(shop, "shop:1", "shop:2"), record)
	web = item(r, "container", "web")
	env := web.GetSpec().AsMap()["containers"].([]any)[0].(map[string]any)["env"]
	if d := cmp.Diff(map[string]any{"DB_HOST": "10.0.0.2", "OUT": ""}, env); d != "" || len(web.GetUnknown()) > 0 || web.GetFormer() == nil {
		t.Errorf("%s, unknown %v", d, web.GetUnknown())
	}
	if len(r.Items) != 1 || len(r.Items["container"]) != 1 {
		t.Errorf("untouched resources are asked about: %v", r.Items)
	}
}

func TestUndoOfAnEarlyDeletion(t *testing.T) {
	w := newWorld(t)
	r, _ := w.build(t, shop, nil)
	record := w.run(t, r.Saga)
	r, _ = w.build(t, strings.ReplaceAll(shop, "debian-12", "debian-13"), record)
	step := func(id string) *orchestratorv1.PlannedStep {
		for _, s := range r.Saga.GetSteps() {
			if s.GetId() == id {
				return s
			}
		}
		t.Fatalf("no step %s", id)
		return nil
	}
	fresh := step("db/release").GetUndo().GetResource().GetKey()
	old := step("db/release").GetGoal().GetResource().GetKey()
	const name = "tenants/acme/servers/shop.db"
	restore := step("door.address/restore")
	if got := plan.UndoGoal(r.Saga, restore, func(id string) bool { return true }).GetResource().GetReferences()[name]; got != fresh {
		t.Errorf("after the deletion was started the address leads to %s, want %s", got, fresh)
	}
	if got := plan.UndoGoal(r.Saga, restore, func(id string) bool { return id == restore.GetId() }).GetResource().GetReferences()[name]; got != old {
		t.Errorf("before it the address leads to %s, want %s", got, old)
	}
	for want, started := range map[string]bool{fresh: true, old: false} {
		for _, s := range plan.AfterUndo(r.Saga, func(string) bool { return started }) {
			if s.GetLocalName() == "db" && s.GetKey() != want {
				t.Errorf("started %v: db has the key %s", started, s.GetKey())
			}
			if s.GetLocalName() == "door.address" && s.GetReferences()[name] != want {
				t.Errorf("started %v: the address leads to %s", started, s.GetReferences()[name])
			}
		}
	}
	if got := step("db/release").GetUndo().GetResource().GetResolved(); got == nil {
		t.Error("what is made anew has no resolved spec")
	}
}

func TestUncertainResourceIsEnsuredAgain(t *testing.T) {
	w := newWorld(t)
	r, _ := w.build(t, shop, nil)
	record := w.run(t, r.Saga)
	for _, s := range record.GetStanding() {
		if s.GetLocalName() == "sg" {
			s.Resolved = nil
		}
	}
	r, _ = w.build(t, shop, record)
	if len(r.Plan.GetChanges()) != 1 || r.Plan.GetChanges()[0].GetLocalName() != "sg" || r.Plan.GetChanges()[0].GetChange() != kindv1.Change_CHANGE_IN_PLACE {
		t.Errorf("got %v", r.Plan.GetChanges())
	}
}

// TestStaleExpression plans the same document after what an expression is about has another output, as when an undo had to
// make it anew: what was sent with the old value is changed, and nothing else.
func TestStaleExpression(t *testing.T) {
	w := newWorld(t)
	r, _ := w.build(t, shop, nil)
	record := w.run(t, r.Saga)
	if r, _ = w.build(t, shop, record); len(r.Plan.GetChanges()) > 0 {
		t.Fatalf("nothing has changed: %v", r.Plan.GetChanges())
	}
	for _, s := range record.GetStanding() {
		if s.GetLocalName() != "db" {
			continue
		}
		moved, err := anypb.New(&computev1.ServerObserved{ServerId: "another", Address: "10.0.0.99"})
		if err != nil {
			t.Fatal(err)
		}
		s.Observed = moved
	}
	r, _ = w.build(t, shop, record)
	changes := r.Plan.GetChanges()
	if len(changes) != 1 || changes[0].GetLocalName() != "web" || changes[0].GetFields()[0].GetPath() != "spec.containers[0].env.DB_HOST" {
		t.Errorf("got %v", changes)
	}
}

func TestLabelsTravelWithTheResource(t *testing.T) {
	r, _ := newWorld(t).build(t, shop, nil)
	for _, s := range r.Saga.GetSteps() {
		want := map[string]string(nil)
		if s.GetId() == "db" {
			want = map[string]string{"tier": "db"}
		}
		if d := cmp.Diff(want, s.GetGoal().GetResource().GetLabels()); d != "" {
			t.Error(s.GetId(), d)
		}
	}
}
