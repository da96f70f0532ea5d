package plan

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/expr"
	"github.com/weftcloud/weft/pkg/fault"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/document"
)

// items gives what preflight is asked about: all that is touched, by service.
func (p *planner) items() (map[string][]*participantv1.Item, error) {
	known, err := p.known()
	if err != nil {
		return nil, err
	}
	out := map[string][]*participantv1.Item{}
	for _, n := range p.sorted {
		if n.change == unchanged {
			continue
		}
		item := &participantv1.Item{Name: n.name, Type: n.kind.Type, Cloud: n.cloud, Change: n.change, Key: n.key}
		if n.former != nil {
			item.Former = formerSpec(n.former)
		}
		item.Spec, item.Unknown, err = p.knownSpec(n, known)
		if err != nil {
			return nil, err
		}
		out[n.kind.Service] = append(out[n.kind.Service], item)
	}
	for _, d := range p.gone {
		k, ok := p.in.Kinds.ByType(d.former.GetType())
		if !ok || d.change == replace { // of a replacement the item of the new one says all
			continue
		}
		out[k.Service] = append(out[k.Service], &participantv1.Item{
			Name: d.former.GetName(), Type: k.Type, Cloud: d.former.GetCloud(), Change: remove, Key: d.former.GetKey(), Former: formerSpec(d.former),
		})
	}
	return out, nil
}

func formerSpec(f *orchestratorv1.StandingResource) *structpb.Struct {
	if f.GetResolved() != nil {
		return f.GetResolved()
	}
	return f.GetSpec()
}

// known gives the outputs of the nodes that keep theirs.
func (p *planner) known() (map[string]proto.Message, error) {
	out := map[string]proto.Message{}
	for _, n := range p.sorted {
		if n.change == create || n.change == replace || n.former.GetObserved() == nil {
			continue
		}
		m, err := n.former.GetObserved().UnmarshalNew()
		if err != nil {
			return nil, fault.As(fault.Internal, fault.Wrap(err, "decode what was observed of %s", n.name))
		}
		out[n.local] = m
	}
	return p.resolver.withComposites(out), nil
}

// knownSpec gives the part of a spec that is known, and the paths of the rest.
func (p *planner) knownSpec(n *node, known map[string]proto.Message) (*structpb.Struct, []string, error) {
	var unknown []string
	open := map[string]bool{}
	for _, u := range n.written.Uses {
		if p.unknown(u.Resource, u.Field) {
			open[u.Path] = true
		}
	}
	spec, err := document.MapTexts(n.spec, n.kind.Spec, func(t document.Text) (*structpb.Value, error) {
		parsed, err := expr.Parse(t.Value)
		if err != nil {
			return nil, err
		}
		if !parsed.HasExpressions() {
			return structpb.NewStringValue(parsed.Literal()), nil
		}
		if !open[t.Path] {
			v, err := p.resolver.value(t.Value, t.Want, t.Field, known)
			if err == nil {
				return v, nil
			}
		}
		unknown = append(unknown, t.Path) // also where an output that should be known was never seen
		return nil, nil
	})
	if err != nil {
		return nil, nil, err
	}
	return withoutNulls(spec), unknown, nil
}

// withoutNulls takes away the places that unknown elements of lists leave, which a message cannot have.
func withoutNulls(s *structpb.Struct) *structpb.Struct {
	for _, v := range s.GetFields() {
		dropNulls(v)
	}
	return s
}

func dropNulls(v *structpb.Value) {
	if l := v.GetListValue(); l != nil {
		kept := l.Values[:0]
		for _, e := range l.GetValues() {
			if _, null := e.GetKind().(*structpb.Value_NullValue); !null {
				dropNulls(e)
				kept = append(kept, e)
			}
		}
		l.Values = kept
	}
	for _, e := range v.GetStructValue().GetFields() {
		dropNulls(e)
	}
}

// FieldOf gives the field of the document that a field of a resource comes from, e.g. for net.subnet and spec.cidr the
// field spec.cidr of net.
func (r *Result) FieldOf(localName, field string) string {
	if sources := r.sources[localName]; sources != nil {
		return sourceOf(sources, field)
	}
	return strings.TrimSpace(field)
}
