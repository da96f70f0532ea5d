package plan

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/expr"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/document"
)

// Composite gives the spec and the outputs of a composite resource as its own API shows them: references are full names,
// and expressions have the values that they yield over outputs (see Resolve). What cannot be evaluated yet is absent.
func (r *Resolver) Composite(s *orchestratorv1.StandingResource, tenant, stack string, outputs map[string]proto.Message) (spec, observed proto.Message, err error) {
	k, ok := r.locals[s.GetLocalName()]
	if !ok {
		return nil, nil, fault.New(fault.Internal, "show %s: it is not in %s", s.GetName(), stack)
	}
	all := r.withComposites(outputs)
	leads, err := r.leads(s, k, tenant, stack)
	if err != nil {
		return nil, nil, err
	}
	value, err := document.MapTexts(s.GetSpec(), k.Spec, func(t document.Text) (*structpb.Value, error) {
		if name, ok := leads[t.Path]; ok {
			return structpb.NewStringValue(name), nil
		}
		parsed, err := expr.Parse(t.Value)
		if err != nil {
			return nil, err
		}
		v, err := r.value(t.Value, t.Want, t.Field, all)
		if err != nil && parsed.HasExpressions() {
			return nil, nil // an output that is not there yet
		}
		return v, err
	})
	if err != nil {
		return nil, nil, fault.Wrap(err, "show %s", s.GetName())
	}
	if spec, err = TypedSpec(k, withoutNulls(value)); err != nil {
		return nil, nil, fault.Wrap(err, "show %s", s.GetName())
	}
	observed, err = r.composites[s.GetLocalName()].known(outputs)
	return spec, observed, fault.Wrap(err, "show %s", s.GetName())
}

// leads gives the full names of what the references of a composite resource's spec lead to, by path. The spec was sound
// when it was applied, so faults that rules of today find in it are no reason to hide it.
func (r *Resolver) leads(s *orchestratorv1.StandingResource, k *resource.Kind, tenant, stack string) (map[string]string, error) {
	env, err := r.env()
	if err != nil {
		return nil, err
	}
	written, _ := document.Analyse(&document.Scope{
		Kinds: r.kinds, Tenant: tenant, Stack: stack, Env: env, Locals: slices.Sorted(maps.Keys(r.locals)),
		Local: func(name string) (*resource.Kind, bool) { k, ok := r.locals[name]; return k, ok },
	}, k, s.GetSpec())
	out := map[string]string{}
	for _, ref := range written.References {
		if ref.Local == "" {
			out[ref.Path] = ref.Outside
			continue
		}
		target, ok := r.kinds.ByType(ref.Type)
		if !ok {
			continue
		}
		id := stack + "." + ref.Local
		if child := r.locals[ref.Local].Provides(ref.Type); child != "" {
			id += "." + child
		}
		out[ref.Path] = target.FullName(tenant, id)
	}
	return out, nil
}

// known gives those outputs of a composite resource that its children's outputs yield.
func (c *composite) known(outputs map[string]proto.Message) (proto.Message, error) {
	values := map[string]proto.Message{}
	for name, local := range c.children {
		if m, ok := outputs[local]; ok {
			values[name] = m
		}
	}
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for field, p := range c.outputs {
		if v, err := p.Eval(values); err == nil { // else a child has not been seen yet
			s.Fields[field] = v
		}
	}
	m := c.kind.NewObserved()
	return m, fromStruct(s, m)
}

// ShownInputs lists the local names of the resources whose outputs Composite evaluates.
func (r *Resolver) ShownInputs(s *orchestratorv1.StandingResource) ([]string, error) {
	needed, err := r.Inputs(s)
	if err != nil {
		return nil, err
	}
	for _, child := range r.composites[s.GetLocalName()].children {
		if !slices.Contains(needed, child) {
			needed = append(needed, child)
		}
	}
	return needed, nil
}
