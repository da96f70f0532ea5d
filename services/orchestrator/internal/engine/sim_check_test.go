package engine

import (
	"context"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/store"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
)

// checkEnd holds the world to what the end of a saga says, at the moment at which it is written.
func (s *sim) checkEnd(g *simSaga) {
	st := s.stack(g.stack)
	st.stands, st.leaving = nil, map[string]bool{}
	switch state := g.ended.GetOperation().GetState(); {
	case state == orchestratorv1.OperationState_OPERATION_STATE_DONE && g.doc == nil:
		st.stands, st.doc = map[string]proto.Message{}, nil
	case state == orchestratorv1.OperationState_OPERATION_STATE_DONE:
		st.stands, st.doc = g.doc.wants(st.id, s.cloud.of(st.name)), g.doc
	case g.ended.GetAbandonReason() != "" || g.ended.GetKeepOnFailure():
	case g.clean:
		st.stands = map[string]proto.Message{}
		for _, o := range g.before {
			st.stands[o.name] = o.spec
		}
		for _, r := range g.plan.GetFormer().GetStanding() {
			if r.GetReleasing() { // an abandoned operation began it: it goes, sooner or later, and whoever is next makes another
				st.leaving[r.GetName()] = true
			}
		}
		s.allowAnew(g, st)
		s.checkKeys(g)
	}
	if state := g.ended.GetOperation(); g.ended.GetAbandonReason() == "" && !g.ended.GetKeepOnFailure() {
		for _, step := range state.GetSteps() {
			if x := step.GetState(); x == orchestratorv1.StepState_STEP_STATE_RUNNING || x == orchestratorv1.StepState_STEP_STATE_UNDOING {
				s.violate("%s has ended while step %s is %s", g.name, step.GetId(), x)
			}
		}
	}
	s.checkStands(st, "at the end of "+g.name)
	s.checkQuotas("at the end of " + g.name)
}

// allowAnew lets stand what an abandoned operation had begun to release, and an undo then made anew: it was the stack's all
// the time, and whoever takes the stack away takes it away, too.
func (s *sim) allowAnew(g *simSaga, st *simStack) {
	for _, step := range g.plan.GetSteps() {
		r := step.GetGoal().GetResource()
		if !step.GetGoal().GetRelease() || !r.GetReleasing() || step.GetUndo() == nil {
			continue
		}
		for _, o := range s.cloud.of(g.stack) {
			if o.name == r.GetName() && o.key == step.GetUndo().GetResource().GetKey() {
				st.stands[o.name] = o.spec
			}
		}
	}
}

// checkKeys wants the very objects after a saga was undone, unless some had to be made anew.
func (s *sim) checkKeys(g *simSaga) {
	if g.skipped || s.stack(g.stack).tainted {
		return
	}
	for _, step := range g.plan.GetSteps() {
		if step.GetGoal().GetRelease() && step.GetUndo() != nil {
			return
		}
	}
	if now := s.cloud.of(g.stack); !slices.Equal(slices.Sorted(maps.Keys(now)), slices.Sorted(maps.Keys(g.before))) {
		s.violate("%s was undone; %v stood before, %v stand now", g.name, slices.Sorted(maps.Keys(g.before)), slices.Sorted(maps.Keys(now)))
	}
}

// checkStands holds the cloud to what must stand of a stack.
func (s *sim) checkStands(st *simStack, when string) {
	if st.stands == nil || st.tainted {
		return
	}
	seen := map[string]bool{}
	for _, o := range s.cloud.sorted() {
		if o.stack != st.name {
			continue
		}
		want := st.stands[o.name]
		switch {
		case o.deleting && st.leaving[o.name]:
		case want == nil:
			s.violate("%s: %s (%s) stands, and nobody wants it", when, o.name, o.key)
		case seen[o.name]:
			s.violate("%s: %s stands twice", when, o.name)
		case o.deleting:
			s.violate("%s: %s (%s) is being deleted", when, o.name, o.key)
		case !simSame(o.spec, want):
			s.violate("%s: %s (%s) is %v, wanted is %v", when, o.name, o.key, o.spec, want)
		}
		seen[o.name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(st.stands)) {
		if !seen[name] && !st.leaving[name] {
			s.violate("%s: %s does not stand", when, name)
		}
	}
}

// simSame compares what stands with what is wanted. A volume that has grown stays as large. What was made from a network's
// mtu stays when that changes: the plan takes only outputs of what is made anew for changed.
func simSame(a, b proto.Message) bool {
	if x, ok := b.(*computev1.ServerSpec); ok && x.GetUserData() == "mtu" {
		if y, also := a.(*computev1.ServerSpec); also && strings.HasPrefix(y.GetUserData(), "mtu ") {
			b = proto.CloneOf(x)
			b.(*computev1.ServerSpec).UserData = y.GetUserData()
		}
	}
	x, ok := a.(*storagev1.VolumeSpec)
	if y, also := b.(*storagev1.VolumeSpec); ok && also {
		return x.GetSize() >= y.GetSize()
	}
	return proto.Equal(a, b)
}

// checkRest holds the world to what must be true when no saga is under way.
func (s *sim) checkRest(when string) {
	for _, g := range s.monitor.order {
		if g.before != nil && g.ended == nil {
			s.violate("%s: %s has not ended: %s %s", when, g.name, g.state.GetState(), simSteps(g.state))
		}
	}
	s.checkQuotas(when)
	standing := map[string]bool{}
	for _, st := range s.stacks {
		s.checkStands(st, when)
		maps.Copy(standing, st.exempt)
		if kept := s.kept(st.name); kept != nil {
			for _, r := range kept.GetStanding() {
				standing[r.GetKey()] = true
			}
		}
	}
	records := map[string]*record.Entry{}
	for _, v := range s.services {
		entries, _, err := s.records(v.name).List(context.Background(), "", record.ID{}, 0)
		if err != nil {
			panic(err)
		}
		for _, e := range entries {
			records[e.Key] = e
			s.checkRecord(when, e, standing[e.Key])
		}
	}
	for _, o := range s.cloud.sorted() {
		e := records[o.key]
		if e == nil || e.Object.Status().GetProviderId() != o.id && (e.Object.Status().GetProviderId() != "" || !e.Record.GetAttempted()) {
			s.violate("%s: %s (%s, %s) stands and no record knows it", when, o.name, o.key, o.id)
		}
	}
}

// checkRecord holds one record to the cloud and to its stack.
func (s *sim) checkRecord(when string, e *record.Entry, standing bool) {
	if !standing {
		s.violate("%s: %s (%s) is kept, and its stack does not know it", when, e.Name, e.Key)
	}
	status := e.Object.Status()
	if status.GetPhase() == kindv1.Phase_PHASE_READY && !e.Record.GetRelease() && s.cloud.objects[status.GetProviderId()] == nil {
		s.violate("%s: %s (%s) is kept as ready, and nothing stands", when, e.Name, e.Key)
	}
}

// kept reads a stack; nil if there is none.
func (s *sim) kept(name string) *orchestratorv1.StackRecord {
	e, err := s.store.Get(context.Background(), stackKey(name))
	if err != nil {
		return nil
	}
	out := &orchestratorv1.StackRecord{}
	if err := proto.Unmarshal(e.Value, out); err != nil {
		panic(err)
	}
	return out
}

// checkGone wants nothing left in the end: no object, no record, and of the sagas only what is kept of the ended.
func (s *sim) checkGone() {
	exempt := map[string]bool{}
	for _, st := range s.stacks {
		maps.Copy(exempt, st.exempt)
		if kept := s.kept(st.name); kept != nil {
			s.violate("in the end %s is left: %s", st.name, kept.GetStack().GetState())
		}
	}
	for _, o := range s.cloud.sorted() {
		if !exempt[o.key] {
			s.violate("in the end %s (%s) stands", o.name, o.key)
		}
	}
	page, err := s.store.List(context.Background(), "/weft/", store.ListOptions{KeysOnly: true})
	if err != nil {
		panic(err)
	}
	for _, e := range page.Entries {
		_, rest, _ := strings.Cut(strings.TrimPrefix(e.Key, "/weft/"), "/")
		what, rest, _ := strings.Cut(rest, "/")
		_, key, _ := strings.Cut(rest, "+")
		switch {
		case e.Key == "/weft/quota/acme/turn":
		case what == "f" || what == "t" || what == "owners" || what == "r" && exempt[key] || what == "n" && len(exempt) > 0:
		default:
			s.violate("in the end %s is left in the store", e.Key)
		}
	}
}
