package expr

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/fault"
)

const (
	// costLimit bounds what one evaluation may cost, in CEL's units: about one per field read or element visited.
	costLimit = 100_000
	// sourceLimit bounds the source of one expression, in bytes.
	sourceLimit = 8192
	// nestingLimit bounds how deep an expression nests.
	nestingLimit = 50
)

// reserved are the words that CEL keeps for itself (cel-spec, language definition, "reserved words") and its type names:
// a resource of such a name cannot be used in an expression.
var reserved = map[string]bool{
	"as": true, "break": true, "const": true, "continue": true, "else": true, "false": true, "for": true, "function": true,
	"if": true, "import": true, "in": true, "let": true, "loop": true, "package": true, "namespace": true, "null": true,
	"return": true, "true": true, "var": true, "void": true, "while": true,
	"bool": true, "bytes": true, "double": true, "dyn": true, "int": true, "list": true, "map": true, "null_type": true,
	"string": true, "type": true, "uint": true,
}

// Reserved tells whether a resource of this name cannot be used in expressions, since the word means something else there.
func Reserved(resource string) bool { return reserved[VariableName(resource)] }

// Env is what expressions can name. It is safe for concurrent use.
type Env struct {
	base      *cel.Env
	params    map[string]any
	variables map[string]variable
}

type variable struct {
	resource string
	message  protoreflect.MessageDescriptor
}

// NewEnv makes an environment of resources, each with the descriptor of its outputs, and of parameters, whose values are
// string, bool, int64, float64, []any or map[string]any. The error is Internal.
func NewEnv(resources map[string]protoreflect.MessageDescriptor, params map[string]any) (*Env, error) {
	e := &Env{params: params, variables: map[string]variable{}}
	options := []cel.EnvOption{
		ext.Strings(), cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(sourceLimit + 1024), cel.ParserRecursionLimit(nestingLimit),
	}
	files := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(resources)) {
		d := resources[name]
		if !files[d.ParentFile().Path()] {
			files[d.ParentFile().Path()] = true
			options = append(options, cel.TypeDescs(d.ParentFile()))
		}
		if Reserved(name) {
			continue
		}
		v := VariableName(name)
		e.variables[v] = variable{resource: name, message: d}
		options = append(options, cel.Variable(v, cel.ObjectType(string(d.FullName()))))
	}
	base, err := cel.NewEnv(options...)
	if err != nil {
		return nil, fault.Wrap(fault.As(fault.Internal, err), "make the environment of expressions")
	}
	e.base = base
	return e, nil
}

// Use is one output that an expression uses.
type Use struct {
	// Resource is the resource's name.
	Resource string
	// Field is the field of its outputs; empty if the expression uses the outputs as a whole.
	Field string
}

// Program is a text that was checked and can be evaluated.
type Program struct {
	parts []compiled
	want  Type
	text  string
	uses  []Use
	vars  map[string]string // variable to resource
}

type compiled struct {
	literal string
	program cel.Program // nil for literal text
}

// Compile checks a text against the type that is wanted. The error is an *Error; its offset is one in the whole text.
func (e *Env) Compile(t *Template, want Type) (*Program, error) {
	p := &Program{want: want, vars: map[string]string{}}
	var text strings.Builder
	for _, part := range t.Parts {
		if !part.Expression {
			p.parts = append(p.parts, compiled{literal: part.Text})
			text.WriteString(Escape(part.Text))
			continue
		}
		wantPart := want
		if !t.Whole() {
			wantPart = inText
		}
		src, err := e.compilePart(p, part, wantPart)
		if err != nil {
			return nil, err
		}
		text.WriteString("${" + src + "}")
	}
	if !t.Whole() && !want.accepts(cel.StringType) {
		return nil, &Error{Message: fmt.Sprintf("a text with more than one expression in it is a string, but %s is wanted here", want)}
	}
	p.text = text.String()
	return p, nil
}

// compilePart compiles one expression into p and gives its source with the parameters put in.
func (e *Env) compilePart(p *Program, part Part, want Type) (string, error) {
	if len(part.Text) > sourceLimit {
		return "", &Error{Offset: part.Offset, Message: fmt.Sprintf("the expression is longer than %d bytes", sourceLimit)}
	}
	src, err := putIn(part.Text, e.params)
	if bad, ok := errors.AsType[*Error](err); ok {
		return "", &Error{Offset: part.Offset + bad.Offset, Message: bad.Message}
	}
	parsed, issues := e.base.Parse(src.text)
	if issues.Err() != nil {
		return "", e.located(part, src, nil, issues)
	}
	checked, issues := e.base.Check(parsed)
	if issues.Err() != nil {
		return "", e.located(part, src, parsed, issues)
	}
	if !want.accepts(checked.OutputType()) {
		return "", &Error{Offset: part.Offset, Message: fmt.Sprintf("the expression yields %s, but %s is wanted here", describe(checked.OutputType()), want)}
	}
	program, err := e.base.Program(checked, cel.CostLimit(costLimit))
	if err != nil {
		return "", &Error{Offset: part.Offset, Message: err.Error()}
	}
	p.parts = append(p.parts, compiled{program: program})
	e.collect(p, checked.NativeRep().Expr())
	return src.text, nil
}

// collect notes which outputs an expression uses.
func (e *Env) collect(p *Program, root ast.Expr) {
	selected := map[int64]bool{}
	add := func(name, field string) {
		v, ok := e.variables[name]
		if !ok {
			return
		}
		p.vars[name] = v.resource
		if u := (Use{Resource: v.resource, Field: field}); !slices.Contains(p.uses, u) {
			p.uses = append(p.uses, u)
		}
	}
	ast.PreOrderVisit(root, ast.NewExprVisitor(func(x ast.Expr) {
		switch x.Kind() {
		case ast.SelectKind:
			if operand := x.AsSelect().Operand(); operand.Kind() == ast.IdentKind {
				selected[operand.ID()] = true
				add(strings.TrimPrefix(operand.AsIdent(), "."), x.AsSelect().FieldName())
			}
		case ast.IdentKind:
			if !selected[x.ID()] {
				add(strings.TrimPrefix(x.AsIdent(), "."), "")
			}
		}
	}))
}

var (
	undeclared = regexp.MustCompile(`^undeclared reference to '([^']*)'`)
	noField    = regexp.MustCompile(`^undefined field '([^']*)'`)
)

// located gives the first of CEL's issues as an error of ours.
func (e *Env) located(part Part, src source, parsed *cel.Ast, issues *cel.Issues) *Error {
	errs := issues.Errors()
	if len(errs) == 0 {
		return &Error{Offset: part.Offset, Message: issues.Err().Error()}
	}
	first := errs[0]
	out := &Error{Offset: part.Offset + src.original(byteOffset(src.text, first.Location.Line(), first.Location.Column()))}
	if m := undeclared.FindStringSubmatch(first.Message); m != nil {
		out.Message = e.noVariable(m[1])
		return out
	}
	if m := noField.FindStringSubmatch(first.Message); m != nil && parsed != nil {
		out.Message = e.noField(m[1], parsed.NativeRep().Expr(), first.ExprID)
		return out
	}
	message, _, _ := strings.Cut(first.Message, "\n")
	out.Message = "the expression is not sound: " + strings.TrimSuffix(message, " (in container '')")
	if parsed == nil {
		out.Message += "; write $${ for a literal ${"
	}
	return out
}

// byteOffset turns CEL's position (line from 1, column in characters from 0) into an offset in bytes.
func byteOffset(text string, line, column int) int {
	offset := 0
	for ; line > 1; line-- {
		next := strings.IndexByte(text[offset:], '\n')
		if next < 0 {
			break
		}
		offset += next + 1
	}
	for range column {
		if offset >= len(text) {
			break
		}
		offset++
		for offset < len(text) && text[offset]&0xC0 == 0x80 {
			offset++
		}
	}
	return min(offset, len(text))
}

func (e *Env) noVariable(name string) string {
	if name == "params" {
		return `params is followed by the name of one parameter: params.name or params["the-name"]`
	}
	if reserved[name] {
		return fmt.Sprintf("%q means something else in expressions, so a resource of that name cannot be used in one; rename it", name)
	}
	names := slices.Sorted(maps.Keys(e.variables))
	if near := Nearest(name, names); near != "" {
		return fmt.Sprintf("there is no resource %q; did you mean %q?", name, near)
	}
	hint := "parameters are written params.name, a literal ${ is written $${"
	if len(names) > 0 && len(names) <= 20 {
		hint = "the resources are " + strings.Join(names, ", ") + "; " + hint
	}
	return fmt.Sprintf("there is no resource or function %q; %s", name, hint)
}

// noField says which fields there are where an expression names one that does not exist.
func (e *Env) noField(name string, root ast.Expr, id int64) string {
	var owner protoreflect.MessageDescriptor
	ast.PreOrderVisit(root, ast.NewExprVisitor(func(x ast.Expr) {
		if x.ID() == id && x.Kind() == ast.SelectKind {
			owner = e.messageOf(x.AsSelect().Operand())
		}
	}))
	if owner == nil {
		return fmt.Sprintf("there is no field %q", name)
	}
	if f := owner.Fields().ByJSONName(name); f != nil {
		return fmt.Sprintf("there is no field %q; in expressions it is written %s", name, f.Name())
	}
	names := fieldNames(owner)
	if near := Nearest(name, names); near != "" {
		return fmt.Sprintf("%s has no field %q; did you mean %q?", owner.Name(), name, near)
	}
	if len(names) == 0 {
		return fmt.Sprintf("%s has no fields, so no field %q", owner.Name(), name)
	}
	return fmt.Sprintf("%s has no field %q; its fields are %s", owner.Name(), name, strings.Join(names, ", "))
}

func fieldNames(d protoreflect.MessageDescriptor) []string {
	out := make([]string, d.Fields().Len())
	for i := range out {
		out[i] = string(d.Fields().Get(i).Name())
	}
	return out
}

// messageOf gives the message that an expression of names, fields and indexes yields; nil if it yields none.
func (e *Env) messageOf(x ast.Expr) protoreflect.MessageDescriptor {
	switch x.Kind() {
	case ast.IdentKind:
		return e.variables[x.AsIdent()].message
	case ast.SelectKind:
		if d := e.messageOf(x.AsSelect().Operand()); d != nil {
			if f := d.Fields().ByName(protoreflect.Name(x.AsSelect().FieldName())); f != nil {
				return f.Message()
			}
		}
	case ast.CallKind:
		if c := x.AsCall(); c.FunctionName() == "_[_]" && len(c.Args()) == 2 {
			return e.messageOf(c.Args()[0])
		}
	}
	return nil
}

// Uses lists the outputs that the text uses, each once; none means that its value is known already.
func (p *Program) Uses() []Use { return p.uses }

// Text gives the text with the values of the parameters put in: it has the same value, and needs no parameters.
func (p *Program) Text() string { return p.text }

// Eval evaluates the text over the outputs of the resources that it uses. The value is as protojson writes it. The error
// is Invalid: an index beyond a list, a key that a map lacks, the limit of cost.
func (p *Program) Eval(outputs map[string]proto.Message) (*structpb.Value, error) {
	vars := map[string]any{}
	for name, resource := range p.vars {
		m, ok := outputs[resource]
		if !ok || m == nil {
			return nil, fault.New(fault.Precondition, "evaluate %s: the outputs of %s are not known", p.text, resource)
		}
		vars[name] = m
	}
	if len(p.parts) == 1 && p.parts[0].program != nil {
		return p.evalWhole(vars)
	}
	var b strings.Builder
	for _, part := range p.parts {
		if part.program == nil {
			b.WriteString(part.literal)
			continue
		}
		v, _, err := part.program.Eval(vars)
		if err != nil {
			return nil, fault.New(fault.Invalid, "evaluate %s: %s", p.text, err)
		}
		s, ok := v.ConvertToType(types.StringType).(types.String)
		if !ok {
			return nil, fault.New(fault.Invalid, "evaluate %s: %s cannot be part of a text", p.text, v.Type().TypeName())
		}
		b.WriteString(string(s))
	}
	return structpb.NewStringValue(b.String()), nil
}

func (p *Program) evalWhole(vars map[string]any) (*structpb.Value, error) {
	v, _, err := p.parts[0].program.Eval(vars)
	if err != nil {
		return nil, fault.New(fault.Invalid, "evaluate %s: %s", p.text, err)
	}
	if !p.want.acceptsValue(v) {
		return nil, fault.New(fault.Invalid, "evaluate %s: it yields %s, but %s is wanted", p.text, v.Type().TypeName(), p.want)
	}
	return toJSON(p.text, v)
}

func toJSON(text string, v ref.Val) (*structpb.Value, error) {
	native, err := v.ConvertToNative(reflect.TypeFor[*structpb.Value]())
	if err != nil {
		return nil, fault.New(fault.Invalid, "evaluate %s: its value cannot be written down: %s", text, err)
	}
	value, ok := native.(*structpb.Value)
	if !ok {
		return nil, fault.New(fault.Internal, "evaluate %s: unexpected %T", text, native)
	}
	return value, nil
}
