package plan

import (
	"slices"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/document"
)

// A document with problems is planned without what is not sound of it (document.Sound). What the clouds are then asked
// about must not hang on what was left out beyond needs, which the document follows itself:
//
//   - What stands and was left out may be changed so that it makes room: two subnets of one network. So of what completes
//     a resource, all or nothing is looked at.
//   - On a cluster an object can need what another brings without referring to it, as a namespace of another manifest. So
//     of the resources of one kind on one cluster, all or nothing is looked at.
//   - What stands and was left out may give up some of a quota. Then no quota is said to be too small.

// Uncertain lists the resources of the document of which a finding might be false because of what the document leaves out.
func (r *Result) Uncertain() []string { return r.uncertain }

// QuotasKnown tells whether what the plan needs of quotas is not less than it seems because of what is left out.
func (r *Result) QuotasKnown() bool { return !r.frees }

// Compare orders items for preflight as the document does. What goes away comes first.
func (r *Result) Compare(a, b *participantv1.Item) int { return r.rank(a) - r.rank(b) }

func (r *Result) rank(i *participantv1.Item) int {
	if rank, ok := r.ranks[i.GetName()]; ok && i.GetChange() != remove {
		return rank
	}
	return -1
}

// left tells whether what stands belongs to a resource that the document leaves out.
func (p *planner) left(s *orchestratorv1.StandingResource) bool {
	top, _, _ := cut(s.GetLocalName())
	_, omitted := p.in.Document.Omitted[top]
	return omitted
}

// leftStanding gives what stands with an object and is left out.
func (p *planner) leftStanding() []*orchestratorv1.StandingResource {
	var out []*orchestratorv1.StandingResource
	for _, s := range p.in.Former.GetStanding() {
		if !s.GetComposite() && p.left(s) {
			out = append(out, s)
		}
	}
	return out
}

// target is what resources of one type refer to.
type target struct{ typ, name string }

// uncertain gives the resources of the document to leave out besides.
func (p *planner) uncertain() []string {
	if len(p.in.Document.Omitted) == 0 {
		return nil
	}
	shared := map[target]bool{}
	for _, s := range p.leftStanding() {
		for _, name := range p.completedBy(s) {
			shared[target{s.GetType(), name}] = true
		}
	}
	var out []string
	for _, n := range p.order {
		contends := slices.ContainsFunc(n.refs, func(r ref) bool { return r.completes && shared[target{n.kind.Type, r.name}] })
		top, _, _ := cut(n.local)
		if (contends || p.lacksNeighbour(n)) && !slices.Contains(out, top) {
			out = append(out, top)
		}
	}
	return out
}

// completedBy gives what a standing resource completes.
func (p *planner) completedBy(s *orchestratorv1.StandingResource) []string {
	k, ok := p.in.Kinds.ByType(s.GetType())
	if !ok {
		return nil
	}
	var out []string
	visit := func(t document.Text) (*structpb.Value, error) {
		if t.Field != nil && resource.ReferenceTypeOf(t.Field) != "" && resource.FieldOptionsOf(t.Field).GetCompletes() {
			out = append(out, t.Value)
		}
		return nil, nil
	}
	if _, err := document.MapTexts(s.GetSpec(), k.Spec, visit); err != nil {
		return nil // visit returns none
	}
	return out
}

// lacksNeighbour tells whether an object on a cluster may need what an omitted resource brings there.
func (p *planner) lacksNeighbour(n *node) bool {
	if n.kind.Options.GetPlacement() != kindv1.Placement_PLACEMENT_CLUSTER {
		return false
	}
	for _, o := range p.in.Document.Omitted {
		switch {
		case o == nil: // a kind that is not known may be any
			return true
		case o.Kind != n.kind:
		case len(o.Spec.References) == 0, slices.ContainsFunc(o.Spec.References, func(r document.Reference) bool { return n.refersTo(r) }):
			return true
		}
	}
	return false
}

// refersTo tells whether a node refers to what a reference of the document leads to.
func (n *node) refersTo(to document.Reference) bool {
	return slices.ContainsFunc(n.refs, func(r ref) bool {
		return (to.Local != "" && r.local == to.Local) || (to.Outside != "" && r.name == to.Outside)
	})
}
