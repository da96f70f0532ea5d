package expr

import (
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/fault"
)

// CompileFilter compiles the filter of a List method over messages of the descriptor, whose fields are the variables,
// e.g. status.phase == "READY" && metadata.labels.env == "prod". Enums are compared with their names, short or full. A
// field that does not exist is an error now; a key that a map lacks makes the filter false later. An empty filter takes
// everything. Errors are Invalid and name the field "filter".
func CompileFilter(d protoreflect.MessageDescriptor, filter string) (func(proto.Message) (bool, error), error) {
	if strings.TrimSpace(filter) == "" {
		return func(proto.Message) (bool, error) { return true, nil }, nil
	}
	if len(filter) > sourceLimit {
		return nil, fault.InField("filter", "the filter is longer than %d bytes", sourceLimit)
	}
	env, err := filterEnv(d)
	if err != nil {
		return nil, err
	}
	parsed, issues := env.Parse(filter)
	if issues.Err() != nil {
		return nil, filterIssue(filter, issues, d)
	}
	if err := checkFields(parsed, d); err != nil {
		return nil, err
	}
	shortenEnums(parsed, d)
	checked, issues := env.Check(parsed)
	if issues.Err() != nil {
		return nil, filterIssue(filter, issues, d)
	}
	if k := checked.OutputType().Kind(); k != types.BoolKind && k != types.DynKind {
		return nil, fault.InField("filter", "the filter %q yields %s; it must be true or false", filter, describe(checked.OutputType()))
	}
	program, err := env.Program(checked, cel.CostLimit(costLimit))
	if err != nil {
		return nil, fault.InField("filter", "the filter %q cannot be used: %s", filter, err)
	}
	return func(m proto.Message) (bool, error) { return evalFilter(program, filter, m) }, nil
}

func filterEnv(d protoreflect.MessageDescriptor) (*cel.Env, error) {
	options := []cel.EnvOption{cel.CrossTypeNumericComparisons(true), cel.ParserExpressionSizeLimit(sourceLimit), cel.ParserRecursionLimit(nestingLimit)}
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		for _, name := range slices.Compact([]string{string(f.Name()), f.JSONName()}) {
			options = append(options, cel.Variable(name, cel.DynType))
		}
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		return nil, fault.Wrap(fault.As(fault.Internal, err), "make the environment of a filter over %s", d.Name())
	}
	return env, nil
}

func filterIssue(filter string, issues *cel.Issues, d protoreflect.MessageDescriptor) error {
	errs := issues.Errors()
	if len(errs) == 0 {
		return fault.InField("filter", "the filter %q is not sound: %s", filter, issues.Err())
	}
	first := errs[0]
	if m := undeclared.FindStringSubmatch(first.Message); m != nil {
		return unknownFilterField(m[1], d)
	}
	message, _, _ := strings.Cut(first.Message, "\n")
	return fault.InField("filter", "the filter %q is not sound at character %d: %s", filter, first.Location.Column()+1, message)
}

func unknownFilterField(name string, d protoreflect.MessageDescriptor) error {
	names := fieldNames(d)
	if near := Nearest(name, names); near != "" {
		return fault.InField("filter", "%s has no field %q; did you mean %q?", d.Name(), name, near)
	}
	return fault.InField("filter", "%s has no field %q; its fields are %s", d.Name(), name, strings.Join(names, ", "))
}

// checkFields refuses fields that do not exist, which an evaluation over maps would not see.
func checkFields(parsed *cel.Ast, d protoreflect.MessageDescriptor) error {
	var bad error
	ast.PreOrderVisit(parsed.NativeRep().Expr(), ast.NewExprVisitor(func(x ast.Expr) {
		if bad != nil || x.Kind() != ast.SelectKind {
			return
		}
		owner := filterMessage(x.AsSelect().Operand(), d)
		if owner == nil || wellKnown(owner) {
			return
		}
		if name := x.AsSelect().FieldName(); fieldByText(owner, name) == nil {
			bad = unknownFilterField(name, owner)
		}
	}))
	return bad
}

// filterField gives the field that an expression of names and fields reads; nil if it reads none.
func filterField(x ast.Expr, d protoreflect.MessageDescriptor) protoreflect.FieldDescriptor {
	switch x.Kind() {
	case ast.IdentKind:
		return fieldByText(d, x.AsIdent())
	case ast.SelectKind:
		if owner := filterMessage(x.AsSelect().Operand(), d); owner != nil {
			return fieldByText(owner, x.AsSelect().FieldName())
		}
	case ast.CallKind:
		if c := x.AsCall(); c.FunctionName() == "_[_]" && len(c.Args()) == 2 {
			if f := filterField(c.Args()[0], d); f != nil && f.IsList() {
				return f
			}
		}
	}
	return nil
}

// filterMessage gives the message that an expression yields: a field that is one, or an element of a list of them.
func filterMessage(x ast.Expr, d protoreflect.MessageDescriptor) protoreflect.MessageDescriptor {
	f := filterField(x, d)
	if f == nil || f.IsMap() || (f.IsList() && x.Kind() != ast.CallKind) {
		return nil
	}
	return f.Message()
}

func fieldByText(d protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if f := d.Fields().ByName(protoreflect.Name(name)); f != nil {
		return f
	}
	return d.Fields().ByJSONName(name)
}

// shortenEnums replaces full names of enum values in a filter by the short names that messages are shown with.
func shortenEnums(parsed *cel.Ast, d protoreflect.MessageDescriptor) {
	short := map[string]string{}
	collectEnums(d, short, map[protoreflect.FullName]bool{})
	factory := ast.NewExprFactory()
	ast.PostOrderVisit(parsed.NativeRep().Expr(), ast.NewExprVisitor(func(x ast.Expr) {
		if x.Kind() != ast.LiteralKind {
			return
		}
		text, ok := x.AsLiteral().(types.String)
		if !ok || short[string(text)] == "" {
			return
		}
		x.SetKindCase(factory.NewLiteral(x.ID(), types.String(short[string(text)])))
	}))
}

func collectEnums(d protoreflect.MessageDescriptor, short map[string]string, seen map[protoreflect.FullName]bool) {
	if seen[d.FullName()] || wellKnown(d) {
		return
	}
	seen[d.FullName()] = true
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		if f.IsMap() {
			f = f.MapValue()
		}
		if e := f.Enum(); e != nil {
			for j := range e.Values().Len() {
				short[string(e.Values().Get(j).Name())] = ShortEnum(e.Values().Get(j))
			}
		}
		if f.Message() != nil {
			collectEnums(f.Message(), short, seen)
		}
	}
}

func evalFilter(program cel.Program, filter string, m proto.Message) (bool, error) {
	v, _, err := program.Eval(view(m.ProtoReflect(), 0))
	if err != nil {
		if strings.Contains(err.Error(), "no such key") { // cel-go has no typed error for it (common/types/map.go)
			return false, nil
		}
		return false, fault.InField("filter", "evaluate the filter %q: %s", filter, err)
	}
	yes, ok := v.Value().(bool)
	if !ok {
		return false, fault.InField("filter", "the filter %q yields %s; it must be true or false", filter, v.Type().TypeName())
	}
	return yes, nil
}

func wellKnown(d protoreflect.MessageDescriptor) bool {
	return d.FullName().Parent() == "google.protobuf"
}

// viewDepth bounds how deep absent messages are shown as empty ones; contracts nest less.
const viewDepth = 8

// view shows a message as a map: fields under both of their names, enums by their short names, absent messages as empty
// ones, so that a filter can read through them.
func view(m protoreflect.Message, depth int) map[string]any {
	out := map[string]any{}
	if depth > viewDepth {
		return out
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		v := viewField(f, m.Get(f), depth)
		out[string(f.Name())], out[f.JSONName()] = v, v
	}
	return out
}

func viewField(f protoreflect.FieldDescriptor, v protoreflect.Value, depth int) any {
	switch {
	case f.IsMap():
		out := map[string]any{}
		v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
			out[k.String()] = viewValue(f.MapValue(), e, depth)
			return true
		})
		return out
	case f.IsList():
		out := make([]any, v.List().Len())
		for i := range out {
			out[i] = viewValue(f, v.List().Get(i), depth)
		}
		return out
	default:
		return viewValue(f, v, depth)
	}
}

func viewValue(f protoreflect.FieldDescriptor, v protoreflect.Value, depth int) any {
	switch f.Kind() {
	case protoreflect.EnumKind:
		if d := f.Enum().Values().ByNumber(v.Enum()); d != nil {
			return ShortEnum(d)
		}
		return fmt.Sprint(v.Enum())
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return viewMessage(v.Message(), depth)
	default:
		return v.Interface()
	}
}

func viewMessage(m protoreflect.Message, depth int) any {
	switch known := m.Interface().(type) {
	case *timestamppb.Timestamp:
		return known.AsTime()
	case *durationpb.Duration:
		return known.AsDuration()
	case *structpb.Struct:
		return known.AsMap()
	case *structpb.Value:
		return known.AsInterface()
	case *structpb.ListValue:
		return known.AsSlice()
	case *anypb.Any:
		return map[string]any{"type_url": known.GetTypeUrl(), "typeUrl": known.GetTypeUrl()}
	default:
		return view(m, depth+1)
	}
}
