package document

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/expr"
	"github.com/weftcloud/weft/pkg/resource"
)

// Spec is the spec of one resource as it was read. Its fields bear the contract's JSON names, enums their full names;
// what equals a field's default is left out; parameters are put in. Strings keep the escapes of expressions, and
// references stand as they were written.
type Spec struct {
	// Value is the spec.
	Value *structpb.Struct
	// References are the references in it.
	References []Reference
	// Uses are the outputs that its expressions use.
	Uses []Use
}

// Use is an output that an expression in a spec uses.
type Use struct {
	expr.Use
	// Path is where the expression stands in the spec.
	Path string
}

// Reference is a reference in a spec.
type Reference struct {
	// Path is where it stands in the spec, e.g. volumes[0].volume.
	Path string
	// Type is the resource type that is referred to; of a field that may refer to one of several it is the one meant.
	Type string
	// Local is the name of the resource of the stack, or in an expansion "." and the name of the sibling; empty if the
	// reference leads out of the stack.
	Local string
	// Outside is the full name of a resource outside of the stack.
	Outside string
	// Completes, Exclusive, Alone and Near are what the field says of itself.
	Completes, Exclusive, Alone, Near bool
}

// Scope is what the specs of a stack can name.
type Scope struct {
	// Kinds are all kinds.
	Kinds *resource.Registry
	// Tenant is the tenant's id, Stack the stack's name.
	Tenant, Stack string
	// Env is what expressions can name.
	Env *expr.Env
	// Local finds the kind of a resource of the stack.
	Local func(name string) (*resource.Kind, bool)
	// Locals lists the resources of the stack.
	Locals []string
	// Sibling finds the kind of a sibling in an expansion; nil outside of one.
	Sibling func(name string) (*resource.Kind, bool)
}

// Fault is one thing that is wrong in a spec.
type Fault struct {
	// Path is the field in the spec; Message says what is wrong and what can be done.
	Path, Message string
}

// Analyse reads a spec that stands in no document, of a child of a composite resource.
func Analyse(scope *Scope, k *resource.Kind, spec *structpb.Struct) (*Spec, []Fault) {
	c := &specChecker{scope: scope, kind: k, spec: &Spec{}}
	n := nodeOf(structpb.NewStructValue(spec), place{}, false)
	c.run(n)
	faults := make([]Fault, len(c.troubles))
	for i, t := range c.troubles {
		faults[i] = Fault{Path: t.path, Message: t.message}
	}
	return c.spec, faults
}

// specTrouble is one thing wrong in a spec.
type specTrouble struct {
	path, message string
	at            place
}

// specChecker reads one spec.
type specChecker struct {
	scope    *Scope
	kind     *resource.Kind
	spec     *Spec
	troubles []specTrouble
	// takesSecrets says that the values of the map that is being read take secrets.
	takesSecrets bool
	places       func(path string, n *node)               // notes where a value stands; may be nil
	within       func(n *node, text string, at int) place // finds a byte of a string's value in the document; may be nil
}

func (c *specChecker) fail(path string, n *node, format string, args ...any) {
	c.troubles = append(c.troubles, specTrouble{path: path, message: fmt.Sprintf(format, args...), at: place{n.line, n.col}})
}

// run reads the spec and holds it against the contract's rules.
func (c *specChecker) run(n *node) {
	if n.kind != mapNode && n.kind != nullNode {
		c.fail("", n, "spec is %s; it must be a map", n.kind)
		c.spec.Value = &structpb.Struct{Fields: map[string]*structpb.Value{}}
		return
	}
	before := len(c.troubles)
	c.spec.Value = c.message(n, c.kind.Spec, "")
	c.rules(before)
}

// message reads a map as a message.
func (c *specChecker) message(n *node, d protoreflect.MessageDescriptor, path string) *structpb.Struct {
	out := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	given := map[protoreflect.Name]bool{}
	for _, e := range n.entries {
		fd := FieldByText(d, e.key)
		if fd == nil {
			c.troubles = append(c.troubles, specTrouble{Join(path, e.key), unknownField(e.key, d), place{e.line, e.col}})
			continue
		}
		if given[fd.Name()] {
			c.fail(Join(path, e.key), &node{line: e.line, col: e.col}, "%s and %s are the same field; remove one", fd.JSONName(), fd.Name())
			continue
		}
		if e.value.kind == nullNode {
			continue
		}
		given[fd.Name()] = true
		at := Join(path, fd.JSONName())
		if c.places != nil {
			c.places(at, e.value)
		}
		if v := c.field(e.value, fd, at); v != nil && (fd.HasPresence() || !isDefault(v, fd)) {
			out.Fields[fd.JSONName()] = v
		}
	}
	for i := range d.Fields().Len() {
		if fd := d.Fields().Get(i); required(fd) && !given[fd.Name()] {
			c.fail(Join(path, fd.JSONName()), n, "%s needs the field %s, %s", c.owner(d), fd.JSONName(), expr.FieldType(fd))
		}
	}
	return out
}

// owner names a message for people: the kind for its spec.
func (c *specChecker) owner(d protoreflect.MessageDescriptor) string {
	if d == c.kind.Spec {
		return "a " + c.kind.Name
	}
	return "a " + string(d.Name())
}

func required(fd protoreflect.FieldDescriptor) bool {
	behaviour, ok := proto.GetExtension(fd.Options(), annotations.E_FieldBehavior).([]annotations.FieldBehavior)
	return ok && slices.Contains(behaviour, annotations.FieldBehavior_REQUIRED)
}

// isDefault tells whether leaving a field out means the same.
func isDefault(v *structpb.Value, fd protoreflect.FieldDescriptor) bool {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		return k.StringValue == "" || (fd.Enum() != nil && k.StringValue == string(fd.Enum().Values().Get(0).Name()))
	case *structpb.Value_NumberValue:
		return k.NumberValue == 0
	case *structpb.Value_BoolValue:
		return !k.BoolValue
	case *structpb.Value_ListValue:
		return len(k.ListValue.GetValues()) == 0
	case *structpb.Value_StructValue:
		return len(k.StructValue.GetFields()) == 0
	default:
		return true
	}
}

func unknownField(name string, d protoreflect.MessageDescriptor) string {
	var names []string
	for i := range d.Fields().Len() {
		names = append(names, d.Fields().Get(i).JSONName())
	}
	return unknownWord("field", name, names)
}

// unknownWord says that a word is not known, which one was perhaps meant, and which there are.
func unknownWord(what, word string, known []string) string {
	text := fmt.Sprintf("there is no %s %q", what, word)
	if near := expr.Nearest(word, known); near != "" {
		text += fmt.Sprintf("; did you mean %q?", near)
	}
	if len(known) == 0 {
		return text + "; there are none"
	}
	shown := known
	if len(shown) > 30 {
		shown = append(slices.Clone(shown[:30]), "…")
	}
	return text + " (known: " + strings.Join(shown, ", ") + ")"
}

// field reads the value of a field; nil if it is wrong.
func (c *specChecker) field(n *node, fd protoreflect.FieldDescriptor, path string) *structpb.Value {
	if !fd.IsList() && !fd.IsMap() {
		return c.element(n, fd, path, expr.FieldType(fd))
	}
	if n.kind == stringNode {
		return c.text(n, fd, path, expr.FieldType(fd), func(constant *node) *structpb.Value { return c.field(constant, fd, path) })
	}
	if fd.IsMap() {
		return c.mapField(n, fd, path)
	}
	if n.kind != listNode {
		c.fail(path, n, "%s is %s; it must be a list, written [a, b] or one item a line after a hyphen", fd.JSONName(), n.kind)
		return nil
	}
	out := &structpb.ListValue{}
	for i, item := range n.items {
		at := path + "[" + strconv.Itoa(i) + "]"
		if c.places != nil {
			c.places(at, item)
		}
		if v := c.element(item, fd, at, expr.ElementType(fd)); v != nil {
			out.Values = append(out.Values, v)
		}
	}
	return structpb.NewListValue(out)
}

func (c *specChecker) mapField(n *node, fd protoreflect.FieldDescriptor, path string) *structpb.Value {
	if n.kind != mapNode {
		c.fail(path, n, "%s is %s; it must be a map", fd.JSONName(), n.kind)
		return nil
	}
	out := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	c.takesSecrets = resource.FieldOptionsOf(fd).GetTakesSecrets()
	defer func() { c.takesSecrets = false }()
	for _, e := range n.entries {
		at := Join(path, e.key)
		if c.places != nil {
			c.places(at, e.value)
		}
		if v := c.element(e.value, fd.MapValue(), at, expr.ElementType(fd.MapValue())); v != nil {
			out.Fields[e.key] = v
		}
	}
	return structpb.NewStructValue(out)
}

// element reads one value that is no list or map of its field.
func (c *specChecker) element(n *node, fd protoreflect.FieldDescriptor, path string, want expr.Type) *structpb.Value {
	if n.kind == stringNode && (fd.Kind() != protoreflect.StringKind || strings.Contains(n.text, "${")) {
		return c.text(n, fd, path, want, func(constant *node) *structpb.Value { return c.literal(constant, fd, path, want) })
	}
	return c.literal(n, fd, path, want)
}

// text reads a string that may hold expressions; constant reads the value of one that does not depend on outputs.
func (c *specChecker) text(n *node, fd protoreflect.FieldDescriptor, path string, want expr.Type, constant func(*node) *structpb.Value) *structpb.Value {
	t, err := expr.Parse(n.text)
	if err != nil {
		c.failIn(path, n, err)
		return nil
	}
	if !t.HasExpressions() {
		if fd.IsList() && n.kind == stringNode && !strings.HasSuffix(path, "]") {
			c.fail(path, n, "%s is a string; it must be a list, e.g. [%s]", fd.JSONName(), n.text)
			return nil
		}
		if fd.IsMap() {
			c.fail(path, n, "%s is a string; it must be a map", fd.JSONName())
			return nil
		}
		return c.literal(n, fd, path, want)
	}
	p, err := c.scope.Env.Compile(t, want)
	if err != nil {
		c.failIn(path, n, err)
		return nil
	}
	if len(p.Uses()) == 0 {
		v, err := p.Eval(nil)
		if err != nil {
			c.fail(path, n, "%s", err)
			return nil
		}
		return constant(nodeOf(v, place{n.line, n.col}, true))
	}
	if resource.ReferenceTypeOf(fd) != "" {
		c.fail(path, n, "%s is a reference: write the name of a resource, e.g. %s, instead of an expression over outputs", fd.JSONName(), p.Uses()[0].Resource)
		return nil
	}
	if !resource.FieldOptionsOf(fd).GetTakesSecrets() && !c.takesSecrets {
		if u := c.secretOf(p.Uses()); u != "" {
			c.fail(path, n, "%s is a secret; %s takes none, for what stands there is shown to people", u, fieldName(path))
			return nil
		}
	}
	for _, u := range p.Uses() {
		c.spec.Uses = append(c.spec.Uses, Use{Use: u, Path: path})
	}
	return structpb.NewStringValue(p.Text())
}

// secretOf gives the first of the outputs that is a secret; empty if none is.
func (c *specChecker) secretOf(uses []expr.Use) string {
	for _, u := range uses {
		if k, ok := c.scope.Local(u.Resource); ok && SecretOutput(k, u.Field) {
			return u.Resource + "." + u.Field
		}
	}
	return ""
}

// SecretOutput tells whether an output of a kind is a secret.
func SecretOutput(k *resource.Kind, field string) bool {
	f := FieldByText(k.Observed, field)
	return f != nil && resource.FieldOptionsOf(f).GetSecret()
}

// failIn says what is wrong with a string, at the character that is wrong.
func (c *specChecker) failIn(path string, n *node, err error) {
	at := place{n.line, n.col}
	bad, ok := errors.AsType[*expr.Error](err)
	if ok && c.within != nil {
		at = c.within(n, n.text, bad.Offset)
	}
	c.troubles = append(c.troubles, specTrouble{path: path, message: err.Error(), at: at})
}

// literal reads a value without expressions.
func (c *specChecker) literal(n *node, fd protoreflect.FieldDescriptor, path string, want expr.Type) *structpb.Value {
	wrong := func(format string, args ...any) *structpb.Value {
		c.fail(path, n, format, args...)
		return nil
	}
	name := fieldName(path)
	switch fd.Kind() {
	case protoreflect.StringKind, protoreflect.BytesKind:
		switch {
		case n.kind == boolNode || n.kind == intNode || n.kind == floatNode:
			return wrong("%s is %s; it must be a string, write it in quotes: %q", name, n.kind, n.text)
		case n.kind != stringNode:
			return wrong("%s is %s; it must be a string", name, n.kind)
		}
		if resource.ReferenceTypeOf(fd) != "" && n.text != "" {
			c.reference(n, fd, path)
		}
		return structpb.NewStringValue(n.text)
	case protoreflect.BoolKind:
		if n.kind != boolNode {
			return wrong("%s is %s; it must be true or false%s", name, describeNode(n), unquoted(n))
		}
		return structpb.NewBoolValue(n.b)
	case protoreflect.EnumKind:
		return c.enum(n, fd, path, name)
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		switch n.kind {
		case intNode:
			return structpb.NewNumberValue(float64(n.i))
		case floatNode:
			return structpb.NewNumberValue(n.f)
		}
		return wrong("%s is %s; it must be a number%s", name, describeNode(n), unquoted(n))
	case protoreflect.MessageKind, protoreflect.GroupKind:
		if fd.Message().FullName() == durationName {
			return c.duration(n, path, name)
		}
		if n.kind != mapNode {
			return wrong("%s is %s; it must be a map with the fields of a %s", name, describeNode(n), fd.Message().Name())
		}
		return structpb.NewStructValue(c.message(n, fd.Message(), path))
	default:
		return c.integer(n, fd, path, name)
	}
}

// durationName is the type of durations; its JSON is a text.
const durationName = "google.protobuf.Duration"

// duration reads a duration as people write it, e.g. 90s, 1.5h or 1h30m, and gives it in seconds, as JSON has it.
func (c *specChecker) duration(n *node, path, name string) *structpb.Value {
	d, err := time.ParseDuration(n.text)
	if n.kind != stringNode || err != nil {
		c.fail(path, n, "%s is %s; it must be a duration with its unit, e.g. 30s, 5m or 1h30m", name, describeNode(n))
		return nil
	}
	return structpb.NewStringValue(strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s")
}

func (c *specChecker) enum(n *node, fd protoreflect.FieldDescriptor, path, name string) *structpb.Value {
	if n.kind == stringNode {
		if v, ok := expr.EnumByText(fd.Enum(), n.text); ok {
			return structpb.NewStringValue(string(v.Name()))
		}
	}
	words := expr.EnumTexts(fd.Enum())
	text := fmt.Sprintf("%s is %s; it must be one of %s", name, describeNode(n), strings.Join(words, ", "))
	if near := expr.Nearest(strings.ToUpper(n.text), words); near != "" {
		text += fmt.Sprintf("; did you mean %s?", near)
	}
	c.fail(path, n, "%s", text)
	return nil
}

func (c *specChecker) integer(n *node, fd protoreflect.FieldDescriptor, path, name string) *structpb.Value {
	if n.kind == floatNode && n.f == math.Trunc(n.f) && math.Abs(n.f) < 1<<53 {
		n = &node{kind: intNode, i: int64(n.f), line: n.line, col: n.col, text: n.text}
	}
	if n.kind != intNode {
		c.fail(path, n, "%s is %s; it must be a whole number%s", name, describeNode(n), unquoted(n))
		return nil
	}
	low, high := int64(math.MinInt64), int64(math.MaxInt64)
	switch fd.Kind() {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		low, high = math.MinInt32, math.MaxInt32
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		low, high = 0, math.MaxUint32
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		low = 0
	}
	if n.i < low || n.i > high {
		c.fail(path, n, "%s is %d; it must be between %d and %d", name, n.i, low, high)
		return nil
	}
	if n.i > 1<<53 || n.i < -(1<<53) { // beyond what a JSON number holds exactly; protojson takes a string
		return structpb.NewStringValue(strconv.FormatInt(n.i, 10))
	}
	return structpb.NewNumberValue(float64(n.i))
}

// fieldName gives the last name in a path.
func fieldName(path string) string {
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[i+1:]
	}
	return path
}

func describeNode(n *node) string {
	if n.kind == stringNode {
		return fmt.Sprintf("the string %q", n.text)
	}
	if n.kind == intNode || n.kind == floatNode || n.kind == boolNode {
		return n.text
	}
	return n.kind.String()
}

func unquoted(n *node) string {
	if n.kind != stringNode || n.text == "" {
		return ""
	}
	if _, err := strconv.ParseFloat(n.text, 64); err == nil || n.text == "true" || n.text == "false" {
		return ", write it without quotes"
	}
	return ""
}

// reference reads a reference.
func (c *specChecker) reference(n *node, fd protoreflect.FieldDescriptor, path string) {
	options := resource.FieldOptionsOf(fd)
	ref := Reference{Path: path, Completes: options.GetCompletes(), Exclusive: options.GetExclusive(), Alone: options.GetAlone(), Near: options.GetNear()}
	types := resource.ReferenceTypesOf(fd)
	wanted := c.scope.Kinds.Targets(types)
	if len(wanted) == 0 {
		c.fail(path, n, "%s refers to the kind %s, which is not known here", fieldName(path), strings.Join(types, ", "))
		return
	}
	if sibling, ok := strings.CutPrefix(n.text, "."); ok && c.scope.Sibling != nil {
		if k, ok := c.scope.Sibling(sibling); ok && slices.Contains(wanted, k) {
			ref.Local, ref.Type = n.text, k.Type
			c.spec.References = append(c.spec.References, ref)
			return
		}
		c.fail(path, n, "%s refers to %q, which is no sibling that is a %s", fieldName(path), sibling, resource.Either(wanted))
		return
	}
	led, message := c.lead(n.text, wanted)
	if message != "" {
		c.fail(path, n, "%s", message)
		return
	}
	ref.Local, ref.Outside, ref.Type = led.local, led.outside, led.kind.Type
	c.spec.References = append(c.spec.References, ref)
}

// led is where a reference leads: to a resource of the stack or, as a full name, out of it.
type led struct {
	local, outside string
	kind           *resource.Kind // the wanted one that it is, or that stands for it
}

// answers gives the one of the wanted kinds that a resource of a kind is, or has a child for; nil if there is none.
func answers(k *resource.Kind, wanted []*resource.Kind) *resource.Kind {
	for _, w := range wanted {
		if k.Type == w.Type {
			return w
		}
	}
	for _, w := range wanted {
		if k.Provides(w.Type) != "" {
			return w
		}
	}
	return nil
}

// lead finds where a reference to one of the wanted kinds leads. Where several are wanted all of them are tenants'.
func (c *specChecker) lead(text string, wanted []*resource.Kind) (to led, message string) {
	if !strings.Contains(text, "/") {
		return c.leadByName(text, wanted)
	}
	name, tenanted := text, wanted[0].Tenanted
	if tenanted && !strings.HasPrefix(text, "tenants/") {
		name = "tenants/" + c.scope.Tenant + "/" + text
	}
	parsed, err := resource.ParseName(name)
	if err != nil {
		return led{}, fmt.Sprintf("%q is no name: %s", text, err)
	}
	if tenanted && parsed.Tenant != c.scope.Tenant {
		return led{}, fmt.Sprintf("%q belongs to another tenant; a stack can use only what is its own tenant's", text)
	}
	collection := parsed.Collection
	k, ok := c.scope.Kinds.ByCollection(collection)
	if !ok {
		return led{}, fmt.Sprintf("%q: there is no kind whose collection is %q; a %s is written %s", text, collection, resource.Either(wanted), resource.Written(wanted))
	}
	kind := answers(k, wanted)
	if kind == nil {
		return led{}, fmt.Sprintf("%q is a %s; a %s is wanted here, written %s", text, k.Name, resource.Either(wanted), resource.Written(wanted))
	}
	if child := k.Provides(kind.Type); k != kind && child != "" {
		parsed.Collection, parsed.ID = kind.Collection, parsed.ID+"."+child
	}
	if own, ok := strings.CutPrefix(parsed.ID, c.scope.Stack+"."); ok && parsed.Tenant == c.scope.Tenant {
		name, _, _ := strings.Cut(own, ".")
		return c.leadByName(name, wanted)
	}
	return led{outside: parsed.String(), kind: kind}, ""
}

func (c *specChecker) leadByName(text string, wanted []*resource.Kind) (to led, message string) {
	k, ok := c.scope.Local(text)
	if ok {
		if kind := answers(k, wanted); kind != nil {
			return led{local: text, kind: kind}, ""
		}
	}
	if len(wanted) == 1 && !wanted[0].Options.GetStackable() {
		full := wanted[0].FullName(c.scope.Tenant, text)
		if _, err := resource.ParseName(full); err != nil {
			return led{}, fmt.Sprintf("%q is no name: %s", text, err)
		}
		return led{outside: full, kind: wanted[0]}, ""
	}
	if ok {
		return led{}, fmt.Sprintf("%q is a %s; a %s is wanted here%s", text, k.Name, resource.Either(wanted), c.candidates(wanted))
	}
	near := ""
	if word := expr.Nearest(text, c.fitting(wanted)); word != "" {
		near = fmt.Sprintf("; did you mean %q?", word)
	}
	return led{}, fmt.Sprintf("there is no resource %q in the stack%s%s; a %s outside of the stack is written %s", text, near, c.candidates(wanted), resource.Either(wanted), resource.Written(wanted))
}

// fitting lists the resources of the stack that a reference to one of the kinds can lead to.
func (c *specChecker) fitting(wanted []*resource.Kind) []string {
	var out []string
	for _, name := range c.scope.Locals {
		if k, ok := c.scope.Local(name); ok && answers(k, wanted) != nil {
			out = append(out, name)
		}
	}
	return out
}

func (c *specChecker) candidates(wanted []*resource.Kind) string {
	names := c.fitting(wanted)
	switch {
	case len(names) == 0:
		return fmt.Sprintf("; the stack has no %s", resource.Either(wanted))
	case len(names) > 10:
		names = append(names[:10:10], "…")
	}
	return "; the stack has " + strings.Join(names, ", ")
}

// nodeOf turns a JSON value into a node. With escape, its strings are literal text; without, they may hold expressions.
func nodeOf(v *structpb.Value, at place, escape bool) *node {
	n := &node{line: at.line, col: at.col, offset: -1}
	switch k := v.GetKind().(type) {
	case *structpb.Value_BoolValue:
		n.kind, n.b, n.text = boolNode, k.BoolValue, strconv.FormatBool(k.BoolValue)
	case *structpb.Value_NumberValue:
		n.kind, n.f, n.text = floatNode, k.NumberValue, strconv.FormatFloat(k.NumberValue, 'f', -1, 64)
		if k.NumberValue == math.Trunc(k.NumberValue) && math.Abs(k.NumberValue) <= 1<<53 {
			n.kind, n.i = intNode, int64(k.NumberValue)
		}
	case *structpb.Value_StringValue:
		n.kind, n.text = stringNode, k.StringValue
		if escape {
			n.text = expr.Escape(n.text)
		}
	case *structpb.Value_ListValue:
		n.kind = listNode
		for _, e := range k.ListValue.GetValues() {
			n.items = append(n.items, nodeOf(e, at, escape))
		}
	case *structpb.Value_StructValue:
		n.kind = mapNode
		for _, key := range sortedKeys(k.StructValue.GetFields()) {
			n.entries = append(n.entries, entry{key: key, line: at.line, col: at.col, value: nodeOf(k.StructValue.GetFields()[key], at, escape)})
		}
	}
	return n
}
