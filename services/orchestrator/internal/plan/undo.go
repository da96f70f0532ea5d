package plan

import (
	"slices"

	"google.golang.org/protobuf/proto"

	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// UndoGoal gives what is commanded to undo a step, after the steps that started tells were started: references lead to
// the key under which an object that was deleted early stands, the fresh one if its deletion was started, else the old
// one. It gives nil for a step that cannot be undone.
func UndoGoal(p *orchestratorv1.SagaPlan, step *orchestratorv1.PlannedStep, started func(stepID string) bool) *orchestratorv1.Goal {
	if step.GetUndo() == nil {
		return nil
	}
	goal := proto.CloneOf(step.GetUndo())
	for _, s := range p.GetSteps() {
		if !s.GetGoal().GetRelease() || s.GetUndo() == nil || started(s.GetId()) {
			continue
		}
		name := s.GetGoal().GetResource().GetName()
		if goal.GetResource().GetReferences()[name] == s.GetUndo().GetResource().GetKey() {
			goal.Resource.References[name] = s.GetGoal().GetResource().GetKey()
		}
	}
	return goal
}

// AfterUndo gives the stack's resources as they stand when a saga was undone of which these steps had been started.
func AfterUndo(p *orchestratorv1.SagaPlan, started func(stepID string) bool) []*orchestratorv1.StandingResource {
	out := make([]*orchestratorv1.StandingResource, len(p.GetFormer().GetStanding()))
	for i, s := range p.GetFormer().GetStanding() {
		out[i] = proto.CloneOf(s)
	}
	for _, step := range slices.Backward(p.GetSteps()) { // the order of the undo; the last word on a resource holds
		if step.GetUndo() == nil || step.GetUndo().GetRelease() || !started(step.GetId()) {
			continue
		}
		back := UndoGoal(p, step, started).GetResource()
		for i, s := range out {
			if s.GetLocalName() == back.GetLocalName() {
				out[i] = proto.CloneOf(back)
			}
		}
	}
	return out
}
