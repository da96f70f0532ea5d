package plan

import (
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/resource"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/document"
)

// held is an object that one resource at a time can hold.
type held struct{ name, key string }

// exclusive finds who must let go of an object before another can hold it, and which departures are early by that.
func (p *planner) exclusive() {
	p.holding = p.holders()
	leaving := map[string]*departure{}
	for _, d := range p.gone {
		leaving[d.former.GetLocalName()] = d
	}
	for _, local := range p.formerOrder {
		f := p.former[local]
		for _, h := range heldBy(p.in.Kinds, f) {
			n := p.holding[h]
			if n == nil {
				continue
			}
			d := leaving[local]
			if n.local == local {
				if d != nil {
					p.early(d, leaving)
				}
				continue
			}
			if d != nil {
				p.early(d, leaving)
			}
			p.handovers = append(p.handovers, [2]string{n.local, local})
		}
	}
}

// holders gives who is to hold what; two holders of one thing are a problem.
func (p *planner) holders() map[held]*node {
	out := map[held]*node{}
	for _, n := range p.sorted {
		for _, r := range n.refs {
			if !r.exclusive {
				continue
			}
			h := held{r.name, r.key}
			if other := out[h]; other != nil {
				p.fail(n.local, n.sources, "spec."+r.path, "%s is held by %s already, and one resource at a time can hold it; remove one of the two", r.name, other.local)
				continue
			}
			out[h] = n
		}
	}
	return out
}

// beforeHolders makes what takes hold of an object wait for what only refers to it, and thereby the undo of the latter wait
// for the holder to let go: a cloud refuses a snapshot of a volume that is just being attached or detached, and one that is
// deleted at that moment it cannot delete ever after.
func (p *planner) beforeHolders(g *graph) {
	for _, n := range p.sorted {
		for _, r := range n.refs {
			holder := p.holding[held{r.name, r.key}]
			if r.exclusive || holder == nil || g.steps[n.local] == nil || g.steps[holder.local] == nil || g.reaches(n.local, holder.local) {
				continue
			}
			g.need(holder.local, n.local)
		}
	}
}

// heldBy gives what a standing resource holds.
func heldBy(kinds *resource.Registry, f *orchestratorv1.StandingResource) []held {
	k, ok := kinds.ByType(f.GetType())
	if !ok {
		return nil
	}
	var out []held
	visit := func(t document.Text) (*structpb.Value, error) {
		if t.Field != nil && resource.ReferenceTypeOf(t.Field) != "" && resource.FieldOptionsOf(t.Field).GetExclusive() {
			out = append(out, held{t.Value, f.GetReferences()[t.Value]})
		}
		return nil, nil
	}
	if _, err := document.MapTexts(f.GetSpec(), k.Spec, visit); err != nil {
		return nil // visit returns none
	}
	return out
}

// early lets an object go before the pivot. What referred to it and goes away too must go before it.
func (p *planner) early(d *departure, leaving map[string]*departure) {
	if d.early {
		return
	}
	d.early, d.freshKey = true, p.in.NewKey()
	for _, dependent := range p.referrers(d.former) {
		if other := leaving[dependent.GetLocalName()]; other != nil {
			p.early(other, leaving)
		}
	}
}

// referrers gives the standing resources that refer to an object.
func (p *planner) referrers(f *orchestratorv1.StandingResource) []*orchestratorv1.StandingResource {
	var out []*orchestratorv1.StandingResource
	for _, local := range p.formerOrder {
		other := p.former[local]
		if other.GetKey() != f.GetKey() && other.GetReferences()[f.GetName()] == f.GetKey() {
			out = append(out, other)
		}
	}
	return out
}

func (d *departure) stepID() string {
	if d.successor != nil {
		return d.former.GetLocalName() + "/release"
	}
	return d.former.GetLocalName()
}
