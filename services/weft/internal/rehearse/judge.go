package rehearse

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// Short names.
const (
	stateDone   = orchestratorv1.OperationState_OPERATION_STATE_DONE
	stateUndone = orchestratorv1.OperationState_OPERATION_STATE_UNDONE

	told0       = orchestratorv1.UndoAction_UNDO_ACTION_UNSPECIFIED
	toldRelease = orchestratorv1.UndoAction_UNDO_ACTION_RELEASE
	toldRestore = orchestratorv1.UndoAction_UNDO_ACTION_RESTORE
	toldRemake  = orchestratorv1.UndoAction_UNDO_ACTION_REMAKE
	toldNone    = orchestratorv1.UndoAction_UNDO_ACTION_NONE
)

// tidyTime is how long the cloud's own controllers are given to tidy up, e.g. the pods of a workload that is gone.
const tidyTime = 15 * time.Second

// undoOrder gathers the steps in the order in which they were undone.
type undoOrder struct{ order []string }

func (u *undoOrder) add(op *orchestratorv1.OperationMetadata) {
	var fresh []*orchestratorv1.StepStatus
	for _, s := range op.GetSteps() {
		if s.GetState() == orchestratorv1.StepState_STEP_STATE_UNDONE && !slices.Contains(u.order, s.GetId()) {
			fresh = append(fresh, s)
		}
	}
	slices.Reverse(fresh) // of those that ended at one time, the later in the plan goes first
	slices.SortStableFunc(fresh, func(a, b *orchestratorv1.StepStatus) int {
		return a.GetEndTime().AsTime().Compare(b.GetEndTime().AsTime())
	})
	for _, s := range fresh {
		u.order = append(u.order, s.GetId())
	}
}

// sight is what was seen of the private installation at one time.
type sight struct {
	inventory []item
	// resources are the stack's resources with an object, by local name; none if the stack does not stand.
	resources map[string]*orchestratorv1.StackResource
}

func (s *stage) look(ctx context.Context) (*sight, error) {
	inventory, err := s.cloud.inventory(ctx)
	if err != nil {
		return nil, err
	}
	out := &sight{inventory: inventory, resources: map[string]*orchestratorv1.StackResource{}}
	stack, err := orchestratorv1.NewStackServiceClient(s.conn).GetStack(ctx, &orchestratorv1.GetStackRequest{Name: s.stack})
	if err = fault.FromStatus(err); fault.Is(err, fault.NotFound) {
		return out, nil
	}
	for _, r := range stack.GetResources() {
		if r.GetKey() != "" {
			out.resources[r.GetLocalName()] = r
		}
	}
	return out, fault.Wrap(err, "read %s", s.stack)
}

// id gives the id of a resource's object at the cloud, as the inventory has it; empty if there is none.
func (s *sight) id(local string) string {
	return objectID(s.resources[local].GetStatus().GetProviderId())
}

// objectID gives the id in a provider id: a workload's is namespace/name/uid.
func objectID(provider string) string { return provider[strings.LastIndexByte(provider, '/')+1:] }

// holds tells whether the cloud has an object with an id, or one that bears a key: all that Weft makes does.
func (s *sight) holds(id, key string) bool {
	return slices.ContainsFunc(s.inventory, func(i item) bool { return id != "" && objectID(i.ID) == id || i.bears(key) })
}

// verdict is what a run is judged by.
type verdict struct {
	step          *orchestratorv1.StepPreview // that failed; nil for none
	end           *orchestratorv1.OperationMetadata
	order         []string
	before, after *sight
	struck        bool
}

// remade gives the local names of what was deleted early and is told to be made anew.
func (v *verdict) remade(plan *orchestratorv1.Plan) []string {
	var out []string
	for _, p := range plan.GetSteps() {
		if p.GetUndoAction() == toldRemake && slices.Contains(v.order, p.GetId()) {
			out = append(out, p.GetLocalName())
		}
	}
	return out
}

// grown tells whether a step was undone that leaves a quantity as large as it was made. judgeFormer looks at which.
func (v *verdict) grown(plan *orchestratorv1.Plan) bool {
	return slices.ContainsFunc(plan.GetSteps(), func(p *orchestratorv1.StepPreview) bool {
		return len(p.GetUndoKeeps()) > 0 && slices.Contains(v.order, p.GetId())
	})
}

// judge holds a run against the plan.
func (s *stage) judge(ctx context.Context, run *orchestratorv1.RehearsalRun, v *verdict) error {
	differ := func(text string) { run.Differences = append(run.Differences, text) }
	want := stateUndone
	if v.step == nil || v.step.GetUndoAction() == toldNone {
		want = stateDone
	}
	if v.step != nil && !v.struck {
		differ(v.step.GetId() + " was not done, so it could not fail after it: " + v.end.GetFault().GetMessage())
	}
	if v.end.GetState() != want {
		differ("the operation ended " + word(v.end.GetState()) + " instead of " + word(want) + ": " + v.end.GetFault().GetMessage())
	}
	if err := s.settle(ctx, run, v, want); err != nil {
		return err
	}
	if want == stateDone {
		return s.judgeDone(ctx, differ)
	}
	s.judgeOrder(v, differ)
	for _, id := range v.order {
		run.Undone = append(run.Undone, s.judgeUndo(v, id, differ))
	}
	s.judgeUntouched(v, differ)
	return s.judgeFormer(ctx, v, differ)
}

func word(s orchestratorv1.OperationState) string {
	return strings.TrimPrefix(s.String(), "OPERATION_STATE_")
}

// settle looks at the cloud until it holds what it should, or its controllers have had their time.
func (s *stage) settle(ctx context.Context, run *orchestratorv1.RehearsalRun, v *verdict, want orchestratorv1.OperationState) (err error) {
	for deadline := time.Now().Add(tidyTime); ; {
		if v.after, err = s.look(ctx); err != nil {
			return err
		}
		var before, after []string
		if want == stateDone {
			after = v.after.names()
			before = s.done
			if before == nil {
				before = after
			}
		} else {
			before, after = compared(v.before, v.after, v.remade(s.out.GetPlan()), v.grown(s.out.GetPlan()))
		}
		run.Missing, run.Leftovers = without(before, after), without(after, before)
		run.InventoryEqual = len(run.GetMissing())+len(run.GetLeftovers()) == 0
		if run.GetInventoryEqual() || time.Now().After(deadline) {
			if want == stateDone && s.done == nil {
				s.done = after
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// judgeDone holds a run that was done against the document: nothing is left to change, and every object is there.
func (s *stage) judgeDone(ctx context.Context, differ func(string)) error {
	again, err := s.plan(ctx)
	if err != nil {
		return err
	}
	for _, c := range again.GetChanges() {
		differ(c.GetLocalName() + " is not as the document asks, although all was done")
	}
	now, err := s.look(ctx)
	if err != nil {
		return err
	}
	for local := range now.resources {
		if !now.holds(now.id(local), now.resources[local].GetKey()) && !unlisted(now.resources[local].GetType()) {
			differ("the cloud holds no " + local)
		}
	}
	return nil
}

// unlisted tells whether objects of a type are no items of the inventory: an attachment is a state of its volume, an
// adopted cluster was there before.
func unlisted(typ string) bool {
	return slices.Contains([]string{"VolumeAttachment", "Cluster"}, typ[strings.LastIndexByte(typ, '/')+1:])
}

// judgeOrder tells of every step that was undone before one that needs it.
func (s *stage) judgeOrder(v *verdict, differ func(string)) {
	for _, p := range s.out.GetPlan().GetSteps() {
		at := slices.Index(v.order, p.GetId())
		for _, need := range p.GetNeeds() {
			if before := slices.Index(v.order, need); at >= 0 && before >= 0 && before < at {
				differ(need + " was undone before " + p.GetId() + ", which needs it")
			}
		}
	}
	for _, step := range v.end.GetSteps() {
		if step.GetState() != orchestratorv1.StepState_STEP_STATE_UNDONE && step.GetState() != orchestratorv1.StepState_STEP_STATE_DROPPED {
			differ(step.GetId() + " is " + strings.TrimPrefix(step.GetState().String(), "STEP_STATE_") + ": " + step.GetFault().GetMessage())
		}
	}
}

// judgeUndo finds what became of the object of a step that was undone.
func (s *stage) judgeUndo(v *verdict, id string, differ func(string)) *orchestratorv1.RehearsedUndo {
	out := &orchestratorv1.RehearsedUndo{Step: id}
	i := slices.IndexFunc(s.out.GetPlan().GetSteps(), func(p *orchestratorv1.StepPreview) bool { return p.GetId() == id })
	if i < 0 {
		differ(id + " was undone, and the plan does not show it")
		return out
	}
	p := s.out.GetPlan().GetSteps()[i]
	out.Told = p.GetUndoAction()
	out.Found = found(v, p)
	if out.Found == toldRemake && out.Told == toldRestore && slices.Contains(v.remade(s.out.GetPlan()), p.GetLocalName()) {
		out.Found = toldRestore // another step deleted it, and tells that it is made anew
	}
	if out.GetTold() != out.GetFound() {
		differ(id + ": the plan tells " + Action(out.GetTold()) + ", found " + Action(out.GetFound()))
	}
	return out
}

// found reads off the cloud how a step was undone.
func found(v *verdict, p *orchestratorv1.StepPreview) orchestratorv1.UndoAction {
	local := p.GetLocalName()
	was, is := v.before.resources[local], v.after.resources[local]
	if p.GetUndoAction() == toldRelease {
		i := slices.IndexFunc(v.end.GetSteps(), func(s *orchestratorv1.StepStatus) bool { return s.GetId() == p.GetId() })
		made := objectID(v.end.GetSteps()[i].GetProviderId())
		if v.after.holds(made, "") && !slices.Contains([]string{v.before.id(local), v.after.id(local)}, made) {
			return toldNone
		}
		return toldRelease
	}
	switch {
	case is == nil && was == nil && p.GetUndoAction() == toldRestore:
		return toldRestore // another step of the same run made it, and tells that it is taken away
	case is == nil:
		return told0
	case was.GetKey() == is.GetKey():
		return toldRestore
	default:
		return toldRemake
	}
}

// judgeUntouched tells of resources that stood before and are not the same objects, unless the plan tells so.
func (s *stage) judgeUntouched(v *verdict, differ func(string)) {
	remade := v.remade(s.out.GetPlan())
	for local, was := range v.before.resources {
		is := v.after.resources[local]
		switch {
		case is == nil:
			differ(local + " stood before and is gone")
		case slices.Contains(remade, local) && is.GetStatus().GetProviderId() == "":
			differ(local + " was not made anew")
		case !slices.Contains(remade, local) && is.GetStatus().GetProviderId() != was.GetStatus().GetProviderId():
			differ(local + " is another object than before")
		}
	}
}

// judgeFormer plans the document that stood before: nothing may be left to change but what the plan tells to be kept.
func (s *stage) judgeFormer(ctx context.Context, v *verdict, differ func(string)) error {
	if s.former == nil {
		if len(v.after.resources) > 0 {
			differ("a stack is left")
		}
		return nil
	}
	plan, err := orchestratorv1.NewStackServiceClient(s.conn).PlanStack(ctx, &orchestratorv1.PlanStackRequest{
		Parent: s.cfg.Parent, Document: s.former.GetDocument(), Parameters: s.former.GetParameters(), SkipPreflight: true,
	})
	if err != nil {
		return fault.Wrap(fault.FromStatus(err), "plan the former document")
	}
	kept := map[string][]string{}
	for _, p := range s.out.GetPlan().GetSteps() {
		if slices.Contains(v.order, p.GetId()) {
			kept[p.GetLocalName()] = append(kept[p.GetLocalName()], p.GetUndoKeeps()...)
		}
	}
	grown := false
	for _, c := range plan.GetChanges() {
		grown = grown || len(kept[c.GetLocalName()]) > 0
	}
	for _, c := range plan.GetChanges() {
		for _, f := range c.GetFields() {
			if !slices.Contains(kept[c.GetLocalName()], f.GetPath()) && !(grown && f.GetOldValue() == f.GetNewValue()) {
				differ(c.GetLocalName() + ": " + f.GetPath() + " is " + f.GetOldValue() + ", before it was " + f.GetNewValue())
			}
		}
		if len(c.GetFields()) == 0 {
			differ(c.GetLocalName() + " is not certain to stand as it did")
		}
	}
	return nil
}

// Action gives a kind of undo in a word.
func Action(a orchestratorv1.UndoAction) string {
	switch a {
	case toldRelease:
		return "released"
	case toldRestore:
		return "restored"
	case toldRemake:
		return "made anew"
	case toldNone:
		return "left"
	}
	return "nothing"
}
