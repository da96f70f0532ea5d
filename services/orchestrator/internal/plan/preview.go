package plan

import (
	"slices"
	"strings"

	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// A plan's previews tell of every step of the saga, also of those that people would not think of, how it is undone. They
// are read off the steps themselves, so that what is shown is what the engine would do.

// Short names for the kinds of undo.
const (
	undoRelease = orchestratorv1.UndoAction_UNDO_ACTION_RELEASE
	undoRestore = orchestratorv1.UndoAction_UNDO_ACTION_RESTORE
	undoRemake  = orchestratorv1.UndoAction_UNDO_ACTION_REMAKE
	undoNone    = orchestratorv1.UndoAction_UNDO_ACTION_NONE
)

// previews tells of each step of a saga.
func (p *planner) previews(saga *orchestratorv1.SagaPlan) []*orchestratorv1.StepPreview {
	out := make([]*orchestratorv1.StepPreview, 0, len(saga.GetSteps()))
	for _, s := range saga.GetSteps() {
		r := s.GetGoal().GetResource()
		v := &orchestratorv1.StepPreview{
			Id: s.GetId(), LocalName: r.GetLocalName(), Type: r.GetType(), Needs: s.GetNeeds(), UndoKey: s.GetUndo().GetResource().GetKey(),
		}
		switch {
		case strings.HasSuffix(s.GetId(), "/restore"):
			previewRestore(v, s)
		case strings.HasSuffix(s.GetId(), joinSuffix):
			previewJoin(v, s)
		case s.GetUndo() == nil:
			p.previewLate(v, s)
		case s.GetGoal().GetRelease():
			p.previewEarly(v, s)
		case s.GetUndo().GetRelease():
			p.previewMade(v, s, saga)
		default:
			previewChanged(v, s, p.nodes[r.GetLocalName()], saga)
		}
		out = append(out, v)
	}
	return out
}

// called names a resource in words: its kind and its name in the stack.
func called(r *orchestratorv1.StandingResource) string {
	return r.GetType()[strings.LastIndexByte(r.GetType(), '/')+1:] + " " + r.GetLocalName()
}

// listed joins names for a sentence: a, b and c. More than five are cut.
func listed(names []string) string {
	if len(names) > 5 {
		names = append(slices.Clone(names[:5]), "more")
	}
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// previewMade tells of a step that makes an object, which the undo deletes.
func (p *planner) previewMade(v *orchestratorv1.StepPreview, s *orchestratorv1.PlannedStep, saga *orchestratorv1.SagaPlan) {
	r := s.GetGoal().GetResource()
	object := called(r)
	v.Doing = "make " + object
	if s.GetChange() == replace {
		object = "the new " + object
		v.Doing = "make " + object + " in place of the old one"
	}
	v.UndoAction, v.Undo = undoRelease, "delete "+object
	v.UndoPrecondition = "nothing from outside of the stack is attached to it"
	if users := dependants(saga, s.GetId()); len(users) > 0 {
		verb := " is"
		if len(users) > 1 {
			verb = " are"
		}
		v.UndoPrecondition = listed(users) + verb + " undone before it, and nothing else is attached to it"
	}
	switch {
	case p.holdsData(r.GetType()):
		v.UndoDataLoss = "what was written to it meanwhile"
	case p.hasOwnDisk(r.GetType()):
		v.UndoDataLoss = "what was written to its own disk meanwhile"
	}
}

// dependants gives the local names of the resources whose steps wait for one, and are therefore undone before it.
func dependants(saga *orchestratorv1.SagaPlan, id string) []string {
	var out []string
	for _, s := range saga.GetSteps() {
		name := s.GetGoal().GetResource().GetLocalName()
		waits := slices.Contains(s.GetNeeds(), id) || slices.Contains(s.GetNeeds(), id+joinSuffix)
		if waits && s.GetUndo() != nil && s.GetId() != id+joinSuffix && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// previewChanged tells of a step that changes an object, which the undo changes back.
func previewChanged(v *orchestratorv1.StepPreview, s *orchestratorv1.PlannedStep, n *node, saga *orchestratorv1.SagaPlan) {
	object := called(s.GetGoal().GetResource())
	v.UndoAction = undoRestore
	if len(n.fields) == 0 {
		v.Doing, v.Undo = "make sure of "+object, "none is needed: nothing of "+object+" is changed"
		return
	}
	v.Doing = "change " + listed(n.changed()) + " of " + object
	paths := listed(slices.DeleteFunc(n.changed(), func(path string) bool { return slices.Contains(prefixed(n.lasting()), path) }))
	v.Undo = "put back " + paths + " of " + object
	v.UndoPrecondition = "the former values are still accepted"
	if s.GetChange() == restart {
		v.Doing += ", with a restart"
		v.UndoPrecondition = "the cloud still has room for the former values"
		v.UndoNotice = "it is interrupted once more"
	}
	if id := v.GetLocalName() + "/restore"; slices.ContainsFunc(saga.GetSteps(), func(s *orchestratorv1.PlannedStep) bool { return s.GetId() == id }) {
		v.Undo = "put back " + paths + " of " + object + " with " + id
		v.UndoPrecondition = "what it referred to has been made anew"
	}
	previewLasting(v, n, object)
}

// previewLasting tells of the changed fields that the undo leaves as they are.
func previewLasting(v *orchestratorv1.StepPreview, n *node, object string) {
	for _, path := range n.lasting() {
		v.UndoKeeps = append(v.UndoKeeps, "spec."+path)
	}
	all := len(n.lasting()) == len(n.fields)
	if len(n.grown) > 0 {
		if all {
			v.Undo, v.UndoPrecondition = "none is possible: "+object+" is left as large as it was made", ""
		}
		v.UndoNotice = joined(v.GetUndoNotice(), listed(prefixed(n.grown))+" can only grow and stays large")
	}
	if len(n.wiped) > 0 {
		v.DataLoss = "what is on its own disk"
		if all {
			v.Undo, v.UndoPrecondition, v.UndoNotice = "none is possible: what was on the disk of "+object+" is gone", "", ""
		}
		v.UndoNotice = joined(v.GetUndoNotice(), "what was on its own disk does not come back")
	}
}

func prefixed(paths []string) []string {
	out := make([]string, 0, len(paths))
	for _, p := range paths {
		out = append(out, "spec."+p)
	}
	return out
}

// changed gives the paths of the fields that change.
func (n *node) changed() []string {
	var paths []string
	for _, f := range n.fields {
		paths = append(paths, f.GetPath())
	}
	return paths
}

func joined(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; ")
}

// previewEarly tells of a step that deletes an object before the pivot. Its undo makes another one.
func (p *planner) previewEarly(v *orchestratorv1.StepPreview, s *orchestratorv1.PlannedStep) {
	object := called(s.GetGoal().GetResource())
	v.Doing = "delete " + object + ", which holds what another one needs"
	if s.GetChange() == replace {
		v.Doing = "delete the old " + object + ", which holds what the new one needs"
	}
	v.DataLoss, v.DataKept = p.lossOf(s.GetGoal().GetResource())
	v.UndoAction, v.Undo = undoRemake, "make "+object+" anew as it was"
	v.UndoPrecondition = "the cloud still has room for it and all that its former spec names"
	v.UndoNotice = "it is another object: its ids and addresses may differ"
}

// previewLate tells of a step after the pivot, which has no undo.
func (p *planner) previewLate(v *orchestratorv1.StepPreview, s *orchestratorv1.PlannedStep) {
	object := called(s.GetGoal().GetResource())
	if s.GetChange() == replace {
		object = "the old " + object
	}
	v.Doing = "delete " + object
	if v.DataLoss, v.DataKept = p.lossOf(s.GetGoal().GetResource()); v.GetDataKept() != "" {
		v.Doing = "let go of " + object
	}
	v.UndoAction = undoNone
	v.Undo = "none: " + object + " is deleted only when all else is done, and is then tried until it is gone"
}

// previewRestore tells of a step that is there for its undo alone.
func previewRestore(v *orchestratorv1.StepPreview, s *orchestratorv1.PlannedStep) {
	object := called(s.GetGoal().GetResource())
	v.Doing = "nothing yet: it stands ready to lead " + object + " back"
	v.UndoAction, v.Undo = undoRestore, "lead "+object+" to what is made anew, with its former spec"
	v.UndoPrecondition = "what it referred to has been made anew"
}

// lossOf tells what is lost with an object that is deleted, and what stays at the cloud; empty if nothing.
func (p *planner) lossOf(r *orchestratorv1.StandingResource) (lost, kept string) {
	switch {
	case p.holdsData(r.GetType()):
		if lost, kept = p.departureLoss(r); lost != "" {
			return "all data on it", ""
		}
		return "", kept
	case p.hasOwnDisk(r.GetType()):
		return "what is on its own disk", ""
	}
	return "", ""
}

// hasOwnDisk tells whether an object of a type keeps something that a replacement would lose.
func (p *planner) hasOwnDisk(typ string) bool {
	k, ok := p.in.Kinds.ByType(typ)
	if !ok {
		return false
	}
	for i := range k.Spec.Fields().Len() {
		if (meaning{}).within(k.Spec.Fields().Get(i)).loses {
			return true
		}
	}
	return false
}
