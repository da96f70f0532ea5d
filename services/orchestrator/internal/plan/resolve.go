package plan

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/expr"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/document"
)

// Resolver evaluates the expressions of a stack's resources while a saga runs. It is made from SagaPlan.standing, and is
// safe for concurrent use.
type Resolver struct {
	kinds      *resource.Registry
	env        func() (*expr.Env, error) // made when it is first needed: it is large, and many stacks have no expression
	composites map[string]*composite
	observed   map[string]protoreflect.MessageDescriptor // of the resources that are no children
	locals     map[string]*resource.Kind                 // of these too
}

// composite is a composite resource: its outputs are expressions over its children.
type composite struct {
	kind     *resource.Kind
	children map[string]string // name in the expansion to local name
	env      *expr.Env
	outputs  map[string]*expr.Program // by field
	texts    map[string]string
}

// NewResolver makes a resolver of the resources of one stack, composite ones included. The error is Internal or, for
// outputs of a composite resource that do not fit its children, Invalid.
func NewResolver(kinds *resource.Registry, standing []*orchestratorv1.StandingResource) (*Resolver, error) {
	r := &Resolver{kinds: kinds, composites: map[string]*composite{}, observed: map[string]protoreflect.MessageDescriptor{}, locals: map[string]*resource.Kind{}}
	for _, s := range standing {
		if s.GetParent() != "" {
			continue
		}
		k, ok := kinds.ByType(s.GetType())
		if !ok {
			return nil, fault.New(fault.Internal, "resolve %s: there is no kind %s", s.GetName(), s.GetType())
		}
		r.observed[s.GetLocalName()], r.locals[s.GetLocalName()] = k.Observed, k
		if !s.GetComposite() {
			continue
		}
		c, err := newComposite(kinds, k, s, standing)
		if err != nil {
			return nil, err
		}
		r.composites[s.GetLocalName()] = c
	}
	r.env = sync.OnceValues(func() (*expr.Env, error) { return expr.NewEnv(r.observed, nil) })
	return r, nil
}

func newComposite(kinds *resource.Registry, k *resource.Kind, s *orchestratorv1.StandingResource, standing []*orchestratorv1.StandingResource) (*composite, error) {
	c := &composite{kind: k, children: map[string]string{}, outputs: map[string]*expr.Program{}, texts: s.GetOutputs()}
	types := map[string]protoreflect.MessageDescriptor{}
	for _, child := range standing {
		if child.GetParent() != s.GetLocalName() {
			continue
		}
		ck, ok := kinds.ByType(child.GetType())
		if !ok {
			return nil, fault.New(fault.Internal, "resolve %s: there is no kind %s", child.GetName(), child.GetType())
		}
		name := strings.TrimPrefix(child.GetLocalName(), s.GetLocalName()+".")
		c.children[name], types[name] = child.GetLocalName(), ck.Observed
	}
	env, err := expr.NewEnv(types, nil)
	if err != nil {
		return nil, err
	}
	c.env = env
	for _, field := range slices.Sorted(maps.Keys(s.GetOutputs())) {
		fd := document.FieldByText(k.Observed, field)
		if fd == nil {
			return nil, fault.New(fault.Internal, "expand %s: %s has no output %q", s.GetName(), k.Name, field)
		}
		p, err := compileText(env, "${"+s.GetOutputs()[field]+"}", expr.FieldType(fd))
		if err != nil {
			return nil, fault.Wrap(err, "expand %s: output %s", s.GetName(), field)
		}
		c.outputs[field] = p
	}
	return c, nil
}

func compileText(env *expr.Env, text string, want expr.Type) (*expr.Program, error) {
	t, err := expr.Parse(text)
	if err != nil {
		return nil, err
	}
	return env.Compile(t, want)
}

// Resolve gives the spec message of a resource: every expression evaluated over the outputs, the result held against the
// rules of the contract. Outputs are the observed messages of the resources that have an object, children included, by
// local name; those that Inputs names are needed. A resource that has a resolved spec gets that. The error is Invalid or, if an output is missing, Precondition.
func (r *Resolver) Resolve(res *orchestratorv1.StandingResource, outputs map[string]proto.Message) (proto.Message, error) {
	k, ok := r.kinds.ByType(res.GetType())
	if !ok {
		return nil, fault.New(fault.Internal, "resolve %s: there is no kind %s", res.GetName(), res.GetType())
	}
	if res.GetResolved() != nil { // an undo brings back what was sent then, whatever its expressions yield now
		return TypedSpec(k, res.GetResolved())
	}
	all := r.withComposites(outputs)
	resolved, err := document.MapTexts(res.GetSpec(), k.Spec, func(t document.Text) (*structpb.Value, error) {
		v, err := r.value(t.Value, t.Want, t.Field, all)
		return v, fault.Wrap(err, "resolve spec.%s of %s", t.Path, res.GetLocalName())
	})
	if err != nil {
		return nil, err
	}
	m, err := TypedSpec(k, resolved)
	if err != nil {
		return nil, fault.Wrap(err, "resolve %s", res.GetLocalName())
	}
	if err := protovalidate.Validate(m); err != nil {
		return nil, fault.Wrap(fault.As(fault.Invalid, err), "resolve %s", res.GetLocalName())
	}
	return m, nil
}

// value evaluates one string.
func (r *Resolver) value(text string, want expr.Type, fd protoreflect.FieldDescriptor, outputs map[string]proto.Message) (*structpb.Value, error) {
	t, err := expr.Parse(text)
	if err != nil {
		return nil, err
	}
	if !t.HasExpressions() {
		return structpb.NewStringValue(t.Literal()), nil
	}
	env, err := r.env()
	if err != nil {
		return nil, err
	}
	p, err := env.Compile(t, want)
	if err != nil {
		return nil, err
	}
	v, err := p.Eval(outputs)
	if err != nil {
		return nil, err
	}
	return enumName(v, fd)
}

// enumName turns the word that an expression yields for an enum into the value's full name.
func enumName(v *structpb.Value, fd protoreflect.FieldDescriptor) (*structpb.Value, error) {
	word, isWord := v.GetKind().(*structpb.Value_StringValue)
	if fd == nil || fd.Enum() == nil || !isWord {
		return v, nil
	}
	e, ok := expr.EnumByText(fd.Enum(), word.StringValue)
	if !ok {
		return nil, fault.New(fault.Invalid, "%q is none of %s", word.StringValue, strings.Join(expr.EnumTexts(fd.Enum()), ", "))
	}
	return structpb.NewStringValue(string(e.Name())), nil
}

// withComposites adds the outputs of those composite resources whose children's outputs are all known.
func (r *Resolver) withComposites(outputs map[string]proto.Message) map[string]proto.Message {
	all := maps.Clone(outputs)
	if all == nil {
		all = map[string]proto.Message{}
	}
	for local, c := range r.composites {
		if m, err := c.eval(outputs); err == nil { // one that cannot be had yet is missed where it is used, by name
			all[local] = m
		}
	}
	return all
}

func (c *composite) eval(outputs map[string]proto.Message) (proto.Message, error) {
	values := map[string]proto.Message{}
	for name, local := range c.children {
		if m, ok := outputs[local]; ok {
			values[name] = m
		}
	}
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for field, p := range c.outputs {
		v, err := p.Eval(values)
		if err != nil {
			return nil, err
		}
		s.Fields[field] = v
	}
	m := c.kind.NewObserved()
	return m, fromStruct(s, m)
}

// Inputs lists the local names of the resources with an object whose outputs a resource's expressions use; children of
// composite resources stand for these.
func (r *Resolver) Inputs(res *orchestratorv1.StandingResource) ([]string, error) {
	k, ok := r.kinds.ByType(res.GetType())
	if !ok {
		return nil, fault.New(fault.Internal, "resolve %s: there is no kind %s", res.GetName(), res.GetType())
	}
	env, err := r.env()
	if err != nil {
		return nil, err
	}
	needed := map[string]bool{}
	_, err = document.MapTexts(res.GetSpec(), k.Spec, func(t document.Text) (*structpb.Value, error) {
		p, err := compileText(env, t.Value, t.Want)
		if err != nil {
			return nil, fault.Wrap(err, "resolve spec.%s of %s", t.Path, res.GetLocalName())
		}
		for _, u := range p.Uses() {
			r.inputs(u.Resource, needed)
		}
		return nil, nil
	})
	return slices.Sorted(maps.Keys(needed)), err
}

func (r *Resolver) inputs(local string, needed map[string]bool) {
	c, ok := r.composites[local]
	if !ok {
		needed[local] = true
		return
	}
	for _, child := range c.children {
		needed[child] = true
	}
}

// Outputs evaluates the outputs of the stack, SagaPlan.outputs. An output that cannot be evaluated is an error.
func (r *Resolver) Outputs(values *structpb.Struct, outputs map[string]proto.Message) (*structpb.Struct, error) {
	all := r.withComposites(outputs)
	return document.MapTexts(values, nil, func(t document.Text) (*structpb.Value, error) {
		v, err := r.value(t.Value, t.Want, nil, all)
		return v, fault.Wrap(err, "outputs.%s", t.Path)
	})
}

// TypedSpec gives a spec without expressions as its kind's spec message. The error is Invalid.
func TypedSpec(k *resource.Kind, spec *structpb.Struct) (proto.Message, error) {
	m := k.NewSpec()
	return m, fromStruct(spec, m)
}

// SpecStruct gives a message as it is kept in StandingResource.resolved.
func SpecStruct(m proto.Message) (*structpb.Struct, error) {
	text, err := protojson.Marshal(m)
	if err != nil {
		return nil, fault.Wrap(fault.As(fault.Internal, err), "write %s", m.ProtoReflect().Descriptor().Name())
	}
	s := &structpb.Struct{}
	if err := protojson.Unmarshal(text, s); err != nil {
		return nil, fault.Wrap(fault.As(fault.Internal, err), "write %s", m.ProtoReflect().Descriptor().Name())
	}
	return s, nil
}

func fromStruct(s *structpb.Struct, m proto.Message) error {
	text, err := protojson.Marshal(s)
	if err != nil {
		return fault.Wrap(fault.As(fault.Internal, err), "read %s", m.ProtoReflect().Descriptor().Name())
	}
	if err := protojson.Unmarshal(text, m); err != nil {
		return fault.New(fault.Invalid, "read %s: %s", m.ProtoReflect().Descriptor().Name(), strings.TrimPrefix(err.Error(), "proto: "))
	}
	return nil
}
