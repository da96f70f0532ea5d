package plan

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// graph is the steps of a saga while they are put together.
type graph struct {
	steps map[string]*orchestratorv1.PlannedStep
	order []string // as they were added
}

func (g *graph) add(s *orchestratorv1.PlannedStep) {
	s.AttemptTimeout = attempt()
	g.steps[s.GetId()] = s
	g.order = append(g.order, s.GetId())
}

// need makes step from wait for step to.
func (g *graph) need(from, to string) {
	s := g.steps[from]
	if from != to && g.steps[to] != nil && !slices.Contains(s.GetNeeds(), to) {
		s.Needs = append(s.Needs, to)
	}
}

// reaches tells whether step from waits for step to.
func (g *graph) reaches(from, to string) bool {
	seen := map[string]bool{}
	queue := []string{from}
	for len(queue) > 0 {
		next := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if next == to {
			return true
		}
		if !seen[next] {
			seen[next] = true
			queue = append(queue, g.steps[next].GetNeeds()...)
		}
	}
	return false
}

// sorted gives the steps so that each stands after those that it needs, those after the pivot last.
func (g *graph) sorted() []*orchestratorv1.PlannedStep {
	var out []*orchestratorv1.PlannedStep
	done := map[string]bool{}
	var visit func(id string)
	visit = func(id string) {
		if done[id] {
			return
		}
		done[id] = true
		for _, need := range g.steps[id].GetNeeds() {
			visit(need)
		}
		out = append(out, g.steps[id])
	}
	for _, retriable := range []bool{false, true} {
		for _, id := range g.order {
			if g.steps[id].GetRetriable() == retriable {
				visit(id)
			}
		}
	}
	return out
}

// steps makes the saga and what is shown of it.
func (p *planner) steps() (*orchestratorv1.SagaPlan, *orchestratorv1.Plan) {
	g := &graph{steps: map[string]*orchestratorv1.PlannedStep{}}
	restores := p.addSteps(g)
	p.forwardNeeds(g)
	p.earlyNeeds(g, restores)
	p.beforeHolders(g) // after what must be: it orders only what is free
	p.lateNeeds(g)

	saga := sagaPlan(p.in.Operation, p.stack(), orchestratorv1.Action_ACTION_APPLY, p.in.Now, p.in.Timeout)
	saga.Steps, saga.Standing, saga.Former = g.sorted(), p.standing(), p.in.Former
	saga.Outputs, saga.Parameters = p.in.Document.Outputs, p.in.Document.Parameters
	saga.Result = &orchestratorv1.Stack{
		Name: p.stack(), Document: p.in.Document.Text, State: orchestratorv1.StackState_STACK_STATE_READY, Operation: p.in.Operation,
		Parameters: p.in.Document.Parameters,
	}
	return saga, p.changes(g, saga)
}

// addSteps makes the steps without their needs, and gives which nodes have a step that only restores.
func (p *planner) addSteps(g *graph) map[string]bool {
	departures := map[string]*departure{}
	for _, d := range p.gone {
		if d.early {
			departures[d.former.GetName()] = d
		}
	}
	restores := map[string]bool{}
	for _, n := range p.sorted {
		if n.change == unchanged {
			continue
		}
		standing := n.standing()
		s := &orchestratorv1.PlannedStep{Id: n.local, Change: n.change, Goal: &orchestratorv1.Goal{Resource: standing}}
		switch n.change {
		case create:
			if f := p.former[n.local]; f != nil && f.GetName() == n.name {
				s.Goal.Replaces = f.GetKey()
			}
			p.addCreation(g, n, s)
			continue
		case replace:
			s.Goal.Replaces = n.former.GetKey()
			s.Undo = &orchestratorv1.Goal{Resource: standing, Release: true}
		default:
			former := n.undone()
			s.Undo = &orchestratorv1.Goal{Resource: former}
			if redirect(former, departures) {
				restores[n.local] = true
				s.Undo = &orchestratorv1.Goal{Resource: standing}
				g.add(&orchestratorv1.PlannedStep{
					Id: n.local + "/restore", Change: inPlace,
					Goal: &orchestratorv1.Goal{Resource: proto.CloneOf(n.former)}, Undo: &orchestratorv1.Goal{Resource: former},
				})
			}
		}
		g.add(s)
	}
	for _, d := range p.gone {
		s := &orchestratorv1.PlannedStep{
			Id: d.stepID(), Change: d.change, Retriable: !d.early, Goal: &orchestratorv1.Goal{Resource: proto.CloneOf(d.former), Release: true},
		}
		if d.early {
			fresh := proto.CloneOf(d.former)
			fresh.Key, fresh.Observed, fresh.Releasing = d.freshKey, nil, false
			redirect(fresh, departures)
			s.Undo = &orchestratorv1.Goal{Resource: fresh, Replaces: d.former.GetKey()}
		}
		g.add(s)
	}
	return restores
}

// redirect leads a former resource's references to the fresh keys of what is deleted early; false if it has none.
func redirect(f *orchestratorv1.StandingResource, departures map[string]*departure) bool {
	any := false
	for name, key := range f.GetReferences() {
		if d := departures[name]; d != nil && key == d.former.GetKey() {
			f.References[name] = d.freshKey
			any = true
		}
	}
	return any
}

// lasting gives the changed fields whose change an undo does not take back: quantities that cannot shrink, and those that have
// emptied the object. Of the latter the undo puts back the text only, so that the next plan asks for the change once more.
func (n *node) lasting() []string { return slices.Concat(n.grown, n.wiped) }

// undone gives what an undo of a change in place brings back: what stood, but for quantities that cannot shrink.
func (n *node) undone() *orchestratorv1.StandingResource {
	former := proto.CloneOf(n.former)
	if former.References == nil {
		former.References = map[string]string{}
	}
	for _, path := range n.grown {
		value := valueAt(n.spec, path)
		setAt(former.GetSpec(), path, value)
		if former.GetResolved() != nil {
			setAt(former.GetResolved(), path, value)
		}
	}
	return former
}

// valueAt and setAt know paths of fields in messages, which is where quantities stand.
func valueAt(s *structpb.Struct, path string) *structpb.Value {
	first, rest, more := strings.Cut(path, ".")
	if !more {
		return s.GetFields()[first]
	}
	return valueAt(s.GetFields()[first].GetStructValue(), rest)
}

func setAt(s *structpb.Struct, path string, v *structpb.Value) {
	first, rest, more := strings.Cut(path, ".")
	if s == nil || s.Fields == nil {
		return
	}
	if !more && v == nil {
		delete(s.Fields, first)
		return
	}
	if !more {
		s.Fields[first] = v
		return
	}
	setAt(s.GetFields()[first].GetStructValue(), rest, v)
}

// forwardNeeds makes each step wait for those of what its node needs; through nodes that have none, for those beyond.
func (p *planner) forwardNeeds(g *graph) {
	nearest := map[string][]string{}
	for _, n := range p.inNeedOrder() {
		steps := func(needs []string) []string {
			var ids []string
			for _, need := range needs {
				beyond := nearest[need]
				if g.steps[need] != nil && p.nodes[need].change != unchanged {
					beyond = []string{need}
					if n.how[need].whole {
						beyond = []string{g.whole(need)}
					}
				}
				for _, id := range beyond {
					if !slices.Contains(ids, id) {
						ids = append(ids, id)
					}
				}
			}
			return ids
		}
		all := steps(n.needs)
		nearest[n.local] = all
		if n.change == unchanged {
			continue
		}
		last, first := g.whole(n.local), all
		if last != n.local {
			first = steps(n.firstNeeds())
			g.need(last, n.local)
		}
		for _, id := range first {
			g.need(n.local, id)
		}
		for _, id := range all {
			g.need(last, id)
		}
	}
}

// inNeedOrder gives the nodes, each after all that it needs, completing ones included.
func (p *planner) inNeedOrder() []*node {
	var out []*node
	done := map[string]bool{}
	var visit func(local string)
	visit = func(local string) {
		if done[local] {
			return
		}
		done[local] = true
		for _, need := range p.nodes[local].needs {
			visit(need)
		}
		out = append(out, p.nodes[local])
	}
	for _, n := range p.sorted {
		visit(n.local)
	}
	return out
}

// earlyNeeds orders the deletions before the pivot.
func (p *planner) earlyNeeds(g *graph, restores map[string]bool) {
	byLocal := map[string]*departure{}
	for _, d := range p.gone {
		byLocal[d.former.GetLocalName()] = d
	}
	for _, d := range p.gone {
		if !d.early {
			continue
		}
		if d.successor != nil {
			g.need(d.successor.local, d.stepID())
		}
		for _, f := range p.referrers(d.former) {
			if other := byLocal[f.GetLocalName()]; other != nil {
				g.need(d.stepID(), other.stepID())
			}
			if restores[f.GetLocalName()] {
				g.need(d.stepID(), f.GetLocalName()+"/restore")
			}
		}
	}
	for _, h := range p.handovers {
		p.handover(g, h[0], h[1], byLocal)
	}
	for _, d := range p.gone { // what can be made ready first, is: the object is missed for a shorter time
		if !d.early || d.successor == nil {
			continue
		}
		for _, id := range slices.Clone(g.steps[d.successor.local].GetNeeds()) {
			if !g.reaches(id, d.stepID()) {
				g.need(d.stepID(), id)
			}
		}
	}
}

// handover makes a node wait until a former holder has let go.
func (p *planner) handover(g *graph, taker, holder string, byLocal map[string]*departure) {
	id := holder
	if d := byLocal[holder]; d != nil {
		id = d.stepID()
	}
	n := p.nodes[taker]
	if n.change == unchanged || g.steps[id] == nil {
		return
	}
	if g.reaches(id, taker) {
		p.fail(taker, n.sources, "spec", "%s takes over from %s what one resource at a time can hold, but %s must be changed after %s; make the change in two steps: take it away from %s first", taker, holder, holder, taker, holder)
		return
	}
	g.need(taker, id)
}

// lateNeeds orders the deletions after the pivot: what needed an object goes before it.
func (p *planner) lateNeeds(g *graph) {
	late := map[string]string{}
	for _, d := range p.gone {
		if !d.early {
			late[d.former.GetLocalName()] = d.stepID()
		}
	}
	releaseNeeds(g, p.in.Kinds, p.former, late)
}

// releaseNeeds makes the releases wait in the reverse order of need, through resources that stay; and what only refers to an
// object until what holds it has let go (see beforeHolders).
func releaseNeeds(g *graph, kinds *resource.Registry, former map[string]*orchestratorv1.StandingResource, release map[string]string) {
	holders := map[held]string{}
	for _, id := range slices.Clone(g.order) {
		local := strings.TrimSuffix(id, "/release")
		if release[local] != id {
			continue
		}
		for _, h := range heldBy(kinds, former[local]) {
			holders[h] = id
		}
		seen := map[string]bool{local: true}
		queue := slices.Clone(former[local].GetNeeds())
		for len(queue) > 0 {
			next := queue[0]
			queue = queue[1:]
			if seen[next] {
				continue
			}
			seen[next] = true
			if to := release[next]; to != "" {
				if !g.reaches(id, to) { // a record whose needs run in a circle must not stop a deletion
					g.need(to, id)
				}
				continue
			}
			queue = append(queue, former[next].GetNeeds()...)
		}
	}
	for _, id := range slices.Clone(g.order) {
		f := former[strings.TrimSuffix(id, "/release")]
		if release[f.GetLocalName()] != id {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(f.GetReferences())) {
			if holder := holders[held{name, f.GetReferences()[name]}]; holder != "" && !g.reaches(holder, id) {
				g.need(id, holder)
			}
		}
	}
}

// changes is what is shown.
func (p *planner) changes(g *graph, saga *orchestratorv1.SagaPlan) *orchestratorv1.Plan {
	plan := &orchestratorv1.Plan{Stack: p.stack(), Steps: p.previews(saga)}
	departures := map[string]*departure{}
	for _, d := range p.gone {
		departures[d.stepID()] = d
	}
	for _, n := range p.sorted {
		if n.change == unchanged {
			plan.Unchanged++
		}
		if n.kind.Options.GetPublicAddress() {
			plan.PublicAddresses++
		}
	}
	for _, s := range saga.GetSteps() {
		d := departures[s.GetId()]
		if strings.HasSuffix(s.GetId(), "/restore") || strings.HasSuffix(s.GetId(), joinSuffix) || (d != nil && d.change == replace) {
			continue // shown with the resource that they are for
		}
		r := s.GetGoal().GetResource()
		c := &orchestratorv1.ResourceChange{
			Resource: r.GetName(), LocalName: r.GetLocalName(), Type: r.GetType(), Change: s.GetChange(), Key: r.GetKey(), Needs: p.shownNeeds(g, s),
		}
		if d != nil {
			c.DataLoss, c.DataKept = p.departureLoss(d.former)
		} else {
			p.describeChange(c, p.nodes[s.GetId()])
		}
		describeUndo(c, plan.GetSteps())
		plan.Changes = append(plan.Changes, c)
	}
	return plan
}

// shownNeeds gives the local names of the resources whose steps a step waits for.
func (p *planner) shownNeeds(g *graph, s *orchestratorv1.PlannedStep) []string {
	var out []string
	for _, id := range s.GetNeeds() {
		if strings.HasSuffix(id, "/restore") { // it changes nothing, so nobody waits for it
			continue
		}
		local := g.steps[id].GetGoal().GetResource().GetLocalName()
		if local != s.GetGoal().GetResource().GetLocalName() && !slices.Contains(out, local) {
			out = append(out, local)
		}
	}
	return out
}

// holdsData tells whether what a resource of this type holds exists nowhere else.
func (p *planner) holdsData(typ string) bool {
	k, ok := p.in.Kinds.ByType(typ)
	return ok && k.Options.GetHoldsData()
}

// departureLoss tells what is lost with a resource that goes, and what stays at the cloud.
func (p *planner) departureLoss(former *orchestratorv1.StandingResource) (lost, kept string) {
	if !p.holdsData(former.GetType()) {
		return "", ""
	}
	switch reclaimOf(former) {
	case kindv1.Reclaim_RECLAIM_DESTROY:
		return "all data on it is lost", ""
	case kindv1.Reclaim_RECLAIM_SNAPSHOT:
		return "", "a copy of its data stays at the cloud, marked as kept"
	default:
		return "", "it stays at the cloud with its data, marked as kept"
	}
}

// reclaimOf gives what becomes of the data of a resource that stands, when it is released. What is sent is what counts, since
// it may be an expression.
func reclaimOf(s *orchestratorv1.StandingResource) kindv1.Reclaim {
	spec := s.GetResolved()
	if spec == nil {
		spec = s.GetSpec()
	}
	word := kindv1.Reclaim(kindv1.Reclaim_value[spec.GetFields()["reclaim"].GetStringValue()])
	if word == kindv1.Reclaim_RECLAIM_UNSPECIFIED {
		return kindv1.Reclaim_RECLAIM_KEEP
	}
	return word
}

func (p *planner) describeChange(c *orchestratorv1.ResourceChange, n *node) {
	c.Fields = n.fields
	switch {
	case n.change == replace:
		c.Key = n.former.GetKey()
		c.DataLoss, c.DataKept = p.replaceLoss(n)
	case len(n.wiped) > 0:
		c.DataLoss = diskLoss(prefixed(n.wiped))
	}
}

// diskLoss tells what a change of these fields loses.
func diskLoss(fields []string) string {
	return "what is on its own disk is lost, because " + strings.Join(fields, ", ") + " changes"
}

// describeUndo gathers what the steps of a resource tell of their undo, in the order in which they would be undone.
func describeUndo(c *orchestratorv1.ResourceChange, steps []*orchestratorv1.StepPreview) {
	var undo, notice []string
	for _, v := range slices.Backward(steps) {
		if v.GetLocalName() != c.GetLocalName() || v.GetUndoAction() == undoNone && c.GetChange() == replace || strings.HasSuffix(v.GetId(), joinSuffix) {
			continue
		}
		undo = append(undo, v.GetUndo())
		notice = append(notice, v.GetUndoNotice())
		if v.GetUndoDataLoss() != "" {
			notice = append(notice, v.GetUndoDataLoss()+" is lost")
		}
	}
	c.Undo, c.UndoNotice = joined(undo...), joined(notice...)
}

func (p *planner) replaceLoss(n *node) (lost, kept string) {
	if p.holdsData(n.kind.Type) {
		if lost, kept = p.departureLoss(n.former); lost != "" {
			return lost + ": the new one begins empty", ""
		}
		return "", "of the old one " + kept + "; the new one begins empty"
	}
	if len(n.losing) > 0 {
		return diskLoss(n.losing), ""
	}
	if p.hasOwnDisk(n.kind.Type) { // what one field's change loses, a replacement for another reason loses too
		return "what is on its own disk is lost", ""
	}
	return "", ""
}
