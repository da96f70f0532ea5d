package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/saga"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/document"
	"github.com/weftcloud/weft/services/orchestrator/internal/plan"
)

// simDoc is a document, by local name.
type simDoc struct{ resources map[string]simResource }

// simResource is one resource of a document. Which fields matter depends on its kind.
type simResource struct {
	kind                          string // Network, Volume, Server or FloatingIP
	mtu, size                     int
	image, flavor, label, network string
	volume, peer, server          string
}

// simPlaces are the local names that documents use, each of one kind.
var simPlaces = []struct{ name, kind string }{
	{"neta", "Network"},
	{"netb", "Network"},
	{"vola", "Volume"},
	{"volb", "Volume"},
	{"sa", "Server"},
	{"sb", "Server"},
	{"sc", "Server"},
	{"sd", "Server"},
	{"se", "Server"},
}

// draw changes a document a little, or makes one.
func (s *sim) draw(former *simDoc) *simDoc {
	d := &simDoc{resources: map[string]simResource{}}
	often := 2
	if former != nil {
		d.resources, often = maps.Clone(former.resources), 5
	}
	for _, place := range simPlaces {
		r, stands := d.resources[place.name]
		if s.rng.IntN(often) != 0 && (stands || former != nil) {
			continue
		}
		if stands && s.rng.IntN(3) == 0 {
			delete(d.resources, place.name)
			continue
		}
		d.resources[place.name] = s.drawResource(place.kind, r)
	}
	s.mendDoc(d)
	return d
}

func (s *sim) drawResource(kind string, r simResource) simResource {
	pick := func(of ...string) string { return of[s.rng.IntN(len(of))] }
	r.kind = kind
	switch {
	case kind == "Network":
		r.mtu = 1400 + s.rng.IntN(3)
	case kind == "FloatingIP":
		r.server = pick("sa", "sb", "sc", "sd")
	case kind == "Volume":
		r.size = 10 * (1 + s.rng.IntN(2))
	case r.image == "":
		r.image, r.flavor, r.label, r.network = pick("debian", "alpine"), pick("small", "large"), pick("x", "y"), pick("neta", "netb")
		r.volume, r.peer = pick("", "", "vola", "volb"), pick("", "", "", "sa", "sb", "net")
	default:
		switch s.rng.IntN(5) {
		case 0:
			r.image = pick("debian", "alpine")
		case 1:
			r.flavor = pick("small", "large")
		case 2:
			r.network = pick("neta", "netb")
		case 3:
			r.volume = pick("", "vola", "volb")
		default:
			r.label = pick("x", "y", "z")
		}
	}
	return r
}

// mendDoc makes a document one that can be: what is referred to is in it, and a volume has one holder.
func (s *sim) mendDoc(d *simDoc) {
	if _, ok := d.resources["neta"]; !ok {
		d.resources["neta"] = simResource{kind: "Network", mtu: 1400}
	}
	held := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(d.resources)) {
		r := d.resources[name]
		if _, ok := d.resources[r.server]; r.kind == "FloatingIP" && !ok {
			delete(d.resources, name)
		}
		if r.kind != "Server" {
			continue
		}
		if _, ok := d.resources[r.network]; !ok {
			r.network = "neta"
		}
		if _, ok := d.resources[r.volume]; !ok || held[r.volume] {
			r.volume = ""
		}
		held[r.volume] = true
		if _, ok := d.resources[r.peer]; r.peer != "net" && (!ok || r.peer >= name) { // no circles
			r.peer = ""
		}
		d.resources[name] = r
	}
}

// text writes a document.
func (d *simDoc) text(name, cloud string) string {
	resources := map[string]any{}
	for local, r := range d.resources {
		spec := map[string]any{}
		switch r.kind {
		case "Network":
			spec["mtu"] = r.mtu
		case "FloatingIP":
			spec["server"] = r.server
		case "Volume":
			spec["size"] = strconv.Itoa(r.size) + "Gi"
		default:
			spec["image"], spec["flavor"], spec["network"], spec["metadata"] = r.image, r.flavor, r.network, map[string]any{"label": r.label}
			if r.volume != "" {
				spec["volumes"] = []any{map[string]any{"volume": r.volume}}
			}
			switch r.peer {
			case "":
			case "net":
				spec["userData"] = "mtu ${" + r.network + ".mtu}"
			default:
				spec["userData"] = "peer ${" + r.peer + ".address}"
			}
		}
		resources[local] = map[string]any{"kind": r.kind, "spec": spec}
	}
	text, err := json.Marshal(map[string]any{"kind": "Stack", "name": name, "placement": map[string]any{"cloud": cloud}, "resources": resources})
	if err != nil {
		panic(err)
	}
	return string(text)
}

var simCollections = map[string]string{"Network": "networks", "Volume": "volumes", "Server": "servers", "FloatingIP": "floatingIps"}

// wants gives the specs that a document asks for, by full name, given what stands.
func (d *simDoc) wants(id string, stands map[string]*simObject) map[string]proto.Message {
	full := func(local string) string {
		return "tenants/acme/" + simCollections[d.resources[local].kind] + "/" + id + "." + local
	}
	out := map[string]proto.Message{}
	for _, local := range slices.Sorted(maps.Keys(d.resources)) {
		switch r := d.resources[local]; r.kind {
		case "Network":
			out[full(local)] = &networkv1.NetworkSpec{Mtu: int32(r.mtu)}
		case "FloatingIP":
			out[full(local)] = &networkv1.FloatingIPSpec{Server: full(r.server)}
		case "Volume":
			out[full(local)] = &storagev1.VolumeSpec{Size: strconv.Itoa(r.size) + "Gi"}
		default:
			spec := &computev1.ServerSpec{Image: r.image, Flavor: r.flavor, Network: full(r.network), Metadata: map[string]string{"label": r.label}}
			if r.volume != "" {
				spec.Volumes = []*computev1.ServerVolume{{Volume: full(r.volume)}}
			}
			switch r.peer {
			case "":
			case "net": // see simSame
				spec.UserData = "mtu"
			default:
				for _, key := range slices.Sorted(maps.Keys(stands)) {
					if stands[key].name == full(r.peer) {
						spec.UserData = "peer " + stands[key].address()
					}
				}
			}
			out[full(local)] = spec
		}
	}
	return out
}

// simStack is one stack, and the client that works on it.
type simStack struct {
	sim     *sim
	id      string
	name    string
	cloud   string
	shard   int
	left    int     // how many operations the client still has in mind
	doc     *simDoc // of the last that was done
	destroy bool
	leaving map[string]bool // what may be on its way out, and may be gone, by name
	tainted bool            // a person skipped a step: it is not known what stands
	exempt  map[string]bool // keys that a person gave up
	next    *simEvent
	// stands is what must stand now, by name; nil if it is not known.
	stands map[string]proto.Message
}

// makeStacks makes the stacks: one to three, the second in the shard of the first.
func (s *sim) makeStacks() {
	ids := []string{"shop", "", "wiki"}
	for i := 0; ids[1] == ""; i++ {
		if id := fmt.Sprint("blog", i); bus.ShardOf("tenants/acme/stacks/"+id) == bus.ShardOf("tenants/acme/stacks/shop") {
			ids[1] = id
		}
	}
	for i := range 1 + max(s.rng.IntN(10)-6, 0)/2 + s.rng.IntN(2) {
		name := "tenants/acme/stacks/" + ids[i]
		st := &simStack{
			sim: s, id: ids[i], name: name, cloud: []string{"lab", "annex"}[s.rng.IntN(2)], shard: bus.ShardOf(name), left: 1 + s.rng.IntN(5)/2,
			exempt: map[string]bool{}, stands: map[string]proto.Message{},
		}
		s.stacks = append(s.stacks, st)
		if !slices.Contains(s.shards, st.shard) {
			s.shards = append(s.shards, st.shard)
		}
		st.again(s.upTo(10 * time.Second))
	}
}

func (s *sim) stack(name string) *simStack {
	for _, st := range s.stacks {
		if st.name == name {
			return st
		}
	}
	panic("there is no " + name)
}

// again has the client look at its stack in a while.
func (st *simStack) again(wait time.Duration) {
	if st.next != nil {
		st.next.over = true
	}
	st.next = st.sim.after(wait, nil, st.turn)
}

// unfinished gives the saga that works on a stack; nil if there is none.
func (st *simStack) unfinished() *simSaga {
	for _, g := range st.sim.monitor.order {
		if g.stack == st.name && g.before != nil && g.ended == nil {
			return g
		}
	}
	return nil
}

// served tells whether the clients have done all that they had in mind.
func (s *sim) served() bool {
	return s.idle() && !slices.ContainsFunc(s.stacks, func(st *simStack) bool { return st.left > 0 })
}

// idle tells whether no saga is under way.
func (s *sim) idle() bool {
	return !slices.ContainsFunc(s.monitor.order, func(g *simSaga) bool { return g.before != nil && g.ended == nil })
}

// destroyed tells whether no stack is left.
func (s *sim) destroyed() bool {
	return !slices.ContainsFunc(s.stacks, func(st *simStack) bool {
		_, err := s.store.Get(context.Background(), stackKey(st.name))
		return err == nil
	})
}

// turn is what a client does when it looks at its stack.
func (st *simStack) turn() {
	s := st.sim
	wait := s.between(time.Second, 40*time.Second)
	r := s.ownerOf(st.shard)
	if r == nil {
		st.again(time.Second)
		return
	}
	if g := st.unfinished(); g != nil {
		st.again(wait)
		if g.state != nil {
			r.process.enter(func() { st.meddle(r, g) })
		}
		return
	}
	if !st.destroy && (st.left == 0 || s.calm) {
		return
	}
	st.again(wait)
	r.process.enter(func() { st.begin(r) })
}

// begin begins an operation on a stack that nothing works on.
func (st *simStack) begin(r *simReplica) {
	s := st.sim
	kept, revision, err := r.engine.ReadStack(context.Background(), st.name)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return
	}
	if st.unfinished() != nil { // another was quicker, while this one read
		return
	}
	if kept == nil && st.destroy {
		st.next.over = true
		return
	}
	s.ops++
	operation := fmt.Sprintf("tenants/acme/operations/op-%06d", s.ops)
	var p *orchestratorv1.SagaPlan
	var changing *orchestratorv1.StackRecord
	var doc *simDoc
	if kept != nil && (st.destroy || s.rng.IntN(6) == 0) {
		p, changing = st.planDestroy(operation, kept)
	} else {
		doc = s.draw(st.doc)
		p, changing = st.planApply(operation, kept, doc)
	}
	if p == nil {
		return
	}
	g := &simSaga{name: operation, stack: st.name, plan: p, doc: doc, clean: kept == nil || kept.GetStack().GetState() == orchestratorv1.StackState_STACK_STATE_READY}
	s.monitor.sagas[operation] = g
	s.monitor.order = append(s.monitor.order, g)
	err = r.engine.Begin(context.Background(), p, changing, revision)
	s.note("%s begins %s of %s, %d steps: %s", r.process.name, operation, st.id, len(p.GetSteps()), fault.KindOf(err))
	if fault.Is(err, fault.Quota) {
		s.counts.overQuota++
	}
	if err == nil || g.before != nil {
		st.left = max(st.left-1, 0)
	}
	if err == nil && g.before == nil {
		s.violate("%s was begun and is nowhere", operation)
	}
}

func (st *simStack) planDestroy(operation string, kept *orchestratorv1.StackRecord) (*orchestratorv1.SagaPlan, *orchestratorv1.StackRecord) {
	p, err := plan.Destroy(plan.DestroyInput{Record: kept, Kinds: st.sim.kinds, Operation: operation, Now: st.sim.now})
	if err != nil {
		st.sim.violate("plan the destruction of %s: %v", st.name, err)
		return nil, nil
	}
	changing := proto.CloneOf(kept)
	changing.Stack.State, changing.Stack.Operation = orchestratorv1.StackState_STACK_STATE_DELETING, operation
	changing.Stack.Metadata.Etag = ""
	changing.Stack.Metadata.Sequence++
	return p, changing
}

func (st *simStack) planApply(operation string, kept *orchestratorv1.StackRecord, doc *simDoc) (*orchestratorv1.SagaPlan, *orchestratorv1.StackRecord) {
	s := st.sim
	text := doc.text(st.id, st.cloud)
	d, problems := document.Parse(document.Source{Kinds: s.kinds, Tenant: "acme", Name: "doc.yaml", Text: []byte(text)})
	if len(problems) > 0 {
		panic(fmt.Sprint(text, problems))
	}
	timeout := time.Duration(0)
	if s.chance(100) {
		timeout = s.between(30*time.Second, 10*time.Minute)
	}
	built, problems, err := plan.Build(context.Background(), plan.Input{
		Document: d, Former: kept, Kinds: s.kinds, Tenant: "acme", Operation: operation, Now: s.now, Timeout: timeout, NewKey: s.newKey,
		Expand: func(context.Context, *participantv1.Item) (*participantv1.ExpandResponse, error) {
			return nil, fault.New(fault.Unsupported, "no composites")
		},
		Lookup: func(_ context.Context, name string) (proto.Message, error) {
			return nil, fault.New(fault.NotFound, "%s is nowhere", name)
		},
	})
	if err != nil || len(problems) > 0 { // e.g. a change that must be made in two steps
		s.note("%s: no plan: %v %v", st.id, problems, err)
		return nil, nil
	}
	p := built.Saga
	simDraws(p)
	p.KeepOnFailure = s.chance(50)
	p.Result = &orchestratorv1.Stack{Name: st.name, Document: text, Operation: operation}
	changing := &orchestratorv1.StackRecord{Stack: &orchestratorv1.Stack{Name: st.name, Document: text, Metadata: &kindv1.Metadata{Key: s.newKey()}}}
	if kept != nil {
		changing = proto.CloneOf(kept)
		changing.Stack.Metadata.Etag = ""
	}
	changing.Stack.State, changing.Stack.Operation = orchestratorv1.StackState_STACK_STATE_CHANGING, operation
	changing.Stack.Metadata.Sequence++
	return p, changing
}

// meddle is what people do to a saga that is under way.
func (st *simStack) meddle(r *simReplica, g *simSaga) {
	s := st.sim
	held := g.state.GetHold() != nil || slices.ContainsFunc(g.state.GetSteps(), func(x *orchestratorv1.StepRecord) bool { return x.GetHold() != nil })
	switch {
	case g.state.GetState() == orchestratorv1.OperationState_OPERATION_STATE_NEEDS_HAND:
		st.help(r, g)
	case held && (s.calm || s.rng.IntN(3) == 0):
		st.act(r, g, saga.Resumed{})
	case s.chance(s.odds.people):
		step := g.plan.GetSteps()[s.rng.IntN(len(g.plan.GetSteps()))].GetId()
		switch s.rng.IntN(6) {
		case 0, 1:
			st.act(r, g, saga.Cancelled{})
		case 2:
			st.act(r, g, saga.Paused{Reason: "to look at it"})
		case 3:
			st.act(r, g, saga.Paused{Step: step, Reason: "to look at it"})
		case 4:
			st.act(r, g, saga.Retried{})
		default:
			st.hold()
		}
	}
}

// hold holds the stack's cloud for a while.
func (st *simStack) hold() {
	s, cloud := st.sim, "clouds/"+st.cloud
	s.holds[cloud] = true
	s.holdEverywhere()
	s.after(s.between(time.Second, 3*time.Minute), nil, func() {
		delete(s.holds, cloud)
		s.holdEverywhere()
	})
}

// help is what a person does for a saga that needs a hand.
func (st *simStack) help(r *simReplica, g *simSaga) {
	s := st.sim
	var stuck []int
	for i, step := range g.state.GetSteps() {
		if step.GetState() == orchestratorv1.StepState_STEP_STATE_STUCK {
			stuck = append(stuck, i)
		}
	}
	if len(stuck) == 0 {
		s.violate("%s needs a hand, and nothing of it is stuck", g.name)
		return
	}
	what := s.rng.IntN(10)
	switch {
	case s.calm || what < 7:
		st.act(r, g, saga.Retried{})
	case what == 7:
		i := stuck[s.rng.IntN(len(stuck))]
		step := g.plan.GetSteps()[i]
		g.skipped, st.tainted = true, true
		st.exempt[step.GetGoal().GetResource().GetKey()] = true
		st.exempt[step.GetUndo().GetResource().GetKey()] = true
		for _, goal := range []*orchestratorv1.Goal{step.GetGoal(), step.GetUndo()} {
			if goal.GetRelease() {
				s.cloud.strike(goal.GetResource().GetKey())
			}
		}
		st.act(r, g, saga.Skipped{Step: step.GetId(), Reason: "it was dealt with by hand"})
	default:
		st.act(r, g, saga.Abandoned{Reason: "it takes too long"})
	}
}

// act applies what a person asks for.
func (st *simStack) act(r *simReplica, g *simSaga, event saga.Event) {
	err := r.act(st.name, g.name, event)
	st.sim.note("%s: %T on %s: %s", r.process.name, event, g.name, fault.KindOf(err))
}
