package plan

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/resource"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/document"
)

// joinSuffix ends the id of the step that has the rest join an object that was made without it.
const joinSuffix = "/join"

// JoinOf gives the id of the step, if there is one, that has the rest join what another step makes.
func JoinOf(s *orchestratorv1.PlannedStep) string { return s.GetId() + joinSuffix }

// addCreation adds the step that makes an object or, if something is to join it that must itself be made first, the two that
// make it without that and have that join.
func (p *planner) addCreation(g *graph, n *node, s *orchestratorv1.PlannedStep) {
	standing := s.GetGoal().GetResource()
	if !p.isJoined(n) {
		s.Undo = &orchestratorv1.Goal{Resource: standing, Release: true}
		g.add(s)
		return
	}
	alone := proto.CloneOf(standing)
	alone.Needs, alone.References = n.firstNeeds(), map[string]string{}
	withoutJoining(alone.GetSpec(), n.kind.Spec)
	for _, r := range n.refs {
		if !joining(n.kind.Spec, r.path) {
			alone.References[r.name] = r.key
		}
	}
	s.Goal.Resource, s.Undo = alone, &orchestratorv1.Goal{Resource: alone, Release: true}
	g.add(s)
	g.add(&orchestratorv1.PlannedStep{
		Id: n.local + joinSuffix, Change: inPlace, Goal: &orchestratorv1.Goal{Resource: standing}, Undo: &orchestratorv1.Goal{Resource: alone},
	})
}

// isJoined tells whether a node that is made need not wait for all that it needs: something of it is made or changed, too, and
// is needed by nothing but what joins.
func (p *planner) isJoined(n *node) bool {
	if n.change != create || p.former[n.local] != nil {
		return false
	}
	first := n.firstNeeds()
	return slices.ContainsFunc(n.needs, func(need string) bool {
		return p.nodes[need].change != unchanged && !slices.ContainsFunc(first, func(f string) bool { return p.waitsFor(f, need) })
	})
}

// whole gives the step after which a node is all that it is to be.
func (g *graph) whole(local string) string {
	if g.steps[local+joinSuffix] != nil {
		return local + joinSuffix
	}
	return local
}

// joining tells whether a path of a spec leads into a field that joins later.
func joining(d protoreflect.MessageDescriptor, path string) bool {
	for d != nil && path != "" {
		name, rest, _ := strings.Cut(path, ".")
		name, _, _ = strings.Cut(name, "[")
		fd := document.FieldByText(d, name)
		if fd == nil {
			return false
		}
		if resource.FieldOptionsOf(fd).GetJoins() {
			return true
		}
		if fd.IsMap() {
			return false // no map holds what joins
		}
		d, path = fd.Message(), rest
	}
	return false
}

// withoutJoining takes what joins later out of a spec.
func withoutJoining(s *structpb.Struct, d protoreflect.MessageDescriptor) {
	for name, v := range s.GetFields() {
		fd := document.FieldByText(d, name)
		switch {
		case fd == nil:
		case resource.FieldOptionsOf(fd).GetJoins():
			delete(s.GetFields(), name)
		case fd.Message() != nil && !fd.IsMap():
			withoutJoining(v.GetStructValue(), fd.Message())
			for _, e := range v.GetListValue().GetValues() {
				withoutJoining(e.GetStructValue(), fd.Message())
			}
		}
	}
}

// previewJoin tells of a step that has the rest join an object.
func previewJoin(v *orchestratorv1.StepPreview, s *orchestratorv1.PlannedStep) {
	object := called(s.GetGoal().GetResource())
	v.Doing = "have what " + object + " leads to join it"
	v.UndoAction, v.Undo = undoRestore, "take out of "+object+" again what has joined it"
	v.UndoPrecondition = "it still takes changes"
}
