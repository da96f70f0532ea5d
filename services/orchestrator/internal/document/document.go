// Package document reads the documents of stacks, YAML or JSON, and holds them against the contracts of the kinds. All
// that is wrong is found at once, each with its place in the text, and nothing here asks anyone: what only the clouds or
// the store can tell is not found here.
package document

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/expr"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// Source is a text to read.
type Source struct {
	// Kinds are all kinds.
	Kinds *resource.Registry
	// Tenant is the id of the tenant that the stack is for.
	Tenant string
	// Name is what the document is called in messages.
	Name string
	// Text is the document.
	Text []byte
	// Parameters are values over those in the document; may be nil.
	Parameters *structpb.Struct
}

// Document is a document that was read and is sound.
type Document struct {
	// Source is the document's name in messages, Text the document as it was written.
	Source, Text string
	// Tenant is the id of the tenant, Name the name of the stack.
	Tenant, Name string
	// Parameters are the values that hold: those of the document and those over them.
	Parameters *structpb.Struct
	// Repair says that what drifts is repaired without being asked, within bounds.
	Repair bool
	// Resources are the resources, in the document's order.
	Resources []*Resource
	// Outputs are the outputs of the stack, parameters put in.
	Outputs *structpb.Struct
	// Scope is what specs of this stack can name.
	Scope *Scope
	// Omitted are the resources that stand in the text and are left out here, see Sound; nil for one whose kind is not
	// known. It is empty for a document that was read whole.
	Omitted map[string]*Resource

	places map[string]place
}

// Resource is one resource of a document.
type Resource struct {
	// Name is its name in the document.
	Name string
	// Kind is its kind.
	Kind *resource.Kind
	// Cloud is where it is placed, as clouds/{cloud}; empty for a kind that is not placed on a cloud.
	Cloud string
	// Labels are its labels.
	Labels map[string]string
	// DependsOn are the resources that it is said to need, beside those that its spec names.
	DependsOn []string
	// Adopt is the id at the cloud of an object that stands already and becomes this resource's; empty if one is made.
	Adopt string
	// Spec is its spec.
	Spec *Spec
}

// Resource finds a resource by its name; nil if there is none.
func (d *Document) Resource(name string) *Resource {
	for _, r := range d.Resources {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// Position finds the place of a field of a resource, e.g. "db" and "spec.image" or "image"; if the field does not stand in
// the document, that of the nearest thing above it. A child of a composite resource has the place of that. It gives 1, 1
// for a resource that is not in the document.
func (d *Document) Position(localName, field string) (line, col int) {
	local, _, _ := strings.Cut(localName, ".")
	base := ""
	if local != "" {
		base = "resources." + local
		if field != "" && !knownPart(field) {
			field = "spec." + field
		}
	}
	path := normal(base + dotted(base, field))
	for {
		if p, ok := d.places[path]; ok {
			return p.line, p.col
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return 1, 1
		}
		path = path[:cut]
	}
}

func dotted(base, field string) string {
	if base == "" || field == "" || strings.HasPrefix(field, "[") {
		return field
	}
	return "." + field
}

// knownPart tells whether a field's path begins with a part of a resource rather than with a field of its spec.
func knownPart(field string) bool {
	first, _, _ := strings.Cut(field, ".")
	first, _, _ = strings.Cut(first, "[")
	return slices.Contains(resourceFields, first) || first == "cloud"
}

var (
	rootFields     = []string{"kind", "name", "placement", "parameters", "drift", "resources", "outputs"}
	resourceFields = []string{"kind", "spec", "placement", "labels", "dependsOn", "adopt"}
	labelPattern   = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
	paramPattern   = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$`)
)

// maxName bounds the length of a stack's name and a resource's name together, so that full names, which hold both and
// the name of a child, stay within what names may have (resource.ParseName).
const maxName = 100

// Parse reads a document. Either the document or at least one problem is returned.
func Parse(src Source) (*Document, []*orchestratorv1.Problem) {
	p := parse(src)
	if len(p.problems) > 0 {
		return nil, p.problems
	}
	return p.doc, nil
}

// parse reads a document as far as it goes.
func parse(src Source) *documentReader {
	root, troubles := read(string(src.Text))
	p := &documentReader{
		src: src, doc: &Document{Source: src.Name, Text: string(src.Text), Tenant: src.Tenant, places: map[string]place{}},
		kinds: map[string]*resource.Kind{}, unsound: map[string]bool{},
	}
	p.reader = &reader{src: string(src.Text)}
	p.reader.index()
	for _, t := range troubles {
		p.blind = p.blind || !t.within
		p.add("", t.place, t.message)
	}
	if root != nil {
		p.document(root)
	}
	slices.SortStableFunc(p.problems, func(a, b *orchestratorv1.Problem) int {
		return int(a.GetLine()-b.GetLine())*100000 + int(a.GetColumn()-b.GetColumn())
	})
	return p
}

// documentReader reads one document.
type documentReader struct {
	src      Source
	reader   *reader
	doc      *Document
	problems []*orchestratorv1.Problem
	kinds    map[string]*resource.Kind // of the resources whose kind is known
	nodes    map[string]*node
	params   map[string]any
	env      *expr.Env
	unsound  map[string]bool // the resources of which something is wrong
	blind    bool            // something is wrong that all resources may hang on
	misled   bool            // something is wrong with a parameter
}

func (p *documentReader) fail(field string, at place, format string, args ...any) {
	if at.line == 0 {
		at.line, at.col = p.doc.Position("", field)
	}
	p.blame(field)
	p.add(field, at, fmt.Sprintf(format, args...))
}

func (p *documentReader) add(field string, at place, message string) {
	p.problems = append(p.problems, &orchestratorv1.Problem{
		Document: p.src.Name, Line: int32(at.line), Column: int32(at.col), Field: field,
		Fault: &kindv1.Fault{Kind: string(fault.Invalid), Message: message, Field: field},
	})
}

func (p *documentReader) note(path string, n *node) {
	p.doc.places[normal(path)] = place{n.line, n.col}
}

// entries goes over the entries of a map, after those that are not known were refused.
func (p *documentReader) entries(n *node, path string, known []string, f func(e entry, path string)) {
	for _, e := range n.entries {
		at := Join(path, e.key)
		if !slices.Contains(known, e.key) {
			p.fail(at, place{e.line, e.col}, "%s", unknownWord("field", e.key, known))
			continue
		}
		p.note(at, e.value)
		if e.value.kind != nullNode {
			f(e, at)
		}
	}
}

// want refuses a value of another type.
func (p *documentReader) want(n *node, path string, kind nodeKind, hint string) bool {
	if n.kind == kind {
		return true
	}
	p.fail(path, place{n.line, n.col}, "%s is %s; it must be %s%s", fieldName(path), describeNode(n), kind, hint)
	return false
}

func (p *documentReader) document(root *node) {
	if root.kind != mapNode {
		p.fail("", place{root.line, root.col}, "the document is %s; it must be a map that begins with kind: Stack", root.kind)
		return
	}
	parts := map[string]*node{}
	p.entries(root, "", rootFields, func(e entry, _ string) { parts[e.key] = e.value })
	p.doubts(root, parts)
	p.head(root, parts)
	cloud := p.placement(parts["placement"], "placement")
	p.drift(parts["drift"])
	p.parameters(parts["parameters"])
	p.resources(parts["resources"], cloud)
	p.makeScope()
	for _, r := range p.doc.Resources {
		p.spec(r)
	}
	p.outputs(parts["outputs"])
	p.cycles()
}

// head reads kind and name.
func (p *documentReader) head(root *node, parts map[string]*node) {
	at := place{root.line, root.col}
	if n := parts["kind"]; n == nil {
		p.fail("kind", at, "the document needs kind: Stack")
	} else if n.kind != stringNode || n.text != "Stack" {
		p.fail("kind", place{n.line, n.col}, "kind is %s; a document is of the kind Stack", describeNode(n))
	}
	n := parts["name"]
	if n == nil {
		p.fail("name", at, "the document needs a name, e.g. name: shop")
		return
	}
	if !p.want(n, "name", stringNode, "") {
		return
	}
	p.doc.Name = n.text
	if !labelPattern.MatchString(n.text) {
		p.fail("name", place{n.line, n.col}, "%q is no name for a stack: use up to 63 lower-case letters, digits and hyphens, a letter first and no hyphen last", n.text)
	}
}

// placement reads a placement and gives the cloud's full name; empty if there is none.
func (p *documentReader) placement(n *node, path string) string {
	if n == nil || !p.want(n, path, mapNode, ", e.g. {cloud: lab}") {
		return ""
	}
	cloud := ""
	p.entries(n, path, []string{"cloud"}, func(e entry, at string) {
		if !p.want(e.value, at, stringNode, ", the name of a registered cloud") {
			return
		}
		name := strings.TrimPrefix(e.value.text, "clouds/")
		if !labelPattern.MatchString(name) {
			p.fail(at, place{e.value.line, e.value.col}, "%q is no name of a cloud; it looks like lab or clouds/lab", e.value.text)
			return
		}
		cloud = "clouds/" + name
	})
	return cloud
}

// drift reads what is to become of what was removed, changed or broken without Weft.
func (p *documentReader) drift(n *node) {
	if n == nil || !p.want(n, "drift", mapNode, ", e.g. {repair: RECREATE}") {
		return
	}
	p.entries(n, "drift", []string{"repair"}, func(e entry, at string) {
		switch {
		case e.value.kind == stringNode && e.value.text == "RECREATE":
			p.doc.Repair = true
		case e.value.kind == stringNode && e.value.text == "NONE":
		default:
			p.fail(at, place{e.value.line, e.value.col}, "repair is %s; it must be one of NONE, RECREATE", describeNode(e.value))
		}
	})
}

func (p *documentReader) parameters(n *node) {
	p.params = map[string]any{}
	p.doc.Parameters = &structpb.Struct{Fields: map[string]*structpb.Value{}}
	if n != nil && p.want(n, "parameters", mapNode, " from names to default values") {
		for _, e := range n.entries {
			p.parameter(e)
		}
	}
	for _, name := range sortedKeys(p.src.Parameters.GetFields()) {
		p.override(name, nodeOf(p.src.Parameters.GetFields()[name], place{}, false))
	}
	for name, v := range p.params {
		value, err := structpb.NewValue(v)
		if err != nil {
			p.fail(Join("parameters", name), place{}, "the value cannot be kept: %s", err)
			continue
		}
		p.doc.Parameters.Fields[name] = value
	}
}

func (p *documentReader) parameter(e entry) {
	path := Join("parameters", e.key)
	p.note(path, e.value)
	if !paramPattern.MatchString(e.key) {
		p.fail(path, place{e.line, e.col}, "%q is no name for a parameter: use letters, digits, hyphens and underscores, a letter first", e.key)
		return
	}
	if e.value.kind == nullNode {
		p.fail(path, place{e.line, e.col}, "the parameter %s needs a default value, which also says its type", e.key)
		return
	}
	p.params[e.key] = plainValue(e.value)
}

// override puts a given value in place of a default; both must be of one type.
func (p *documentReader) override(name string, given *node) {
	path := Join("parameters", name)
	former, ok := p.params[name]
	if !ok {
		p.fail(path, place{}, "%s", unknownWord("parameter", name, sortedKeys(p.params)))
		return
	}
	value := plainValue(given)
	switch former.(type) {
	case float64:
		if i, isInt := value.(int64); isInt {
			value = float64(i)
		}
	case int64:
		if f, isFloat := value.(float64); isFloat && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			value = int64(f)
		}
	}
	if fmt.Sprintf("%T", value) != fmt.Sprintf("%T", former) {
		p.fail(path, place{}, "the parameter %s is given as %s, but its default in the document is %s", name, given.kind, kindOf(former))
		return
	}
	p.params[name] = value
}

func kindOf(v any) nodeKind {
	switch v.(type) {
	case bool:
		return boolNode
	case int64:
		return intNode
	case float64:
		return floatNode
	case string:
		return stringNode
	case []any:
		return listNode
	case map[string]any:
		return mapNode
	default:
		return nullNode
	}
}

// plainValue gives a node as a Go value; its strings are taken literally.
func plainValue(n *node) any {
	switch n.kind {
	case boolNode:
		return n.b
	case intNode:
		return n.i
	case floatNode:
		return n.f
	case stringNode:
		return n.text
	case listNode:
		out := make([]any, len(n.items))
		for i, item := range n.items {
			out[i] = plainValue(item)
		}
		return out
	case mapNode:
		out := map[string]any{}
		for _, e := range n.entries {
			out[e.key] = plainValue(e.value)
		}
		return out
	default:
		return nil
	}
}

func (p *documentReader) resources(n *node, cloud string) {
	p.nodes = map[string]*node{}
	if n == nil || !p.want(n, "resources", mapNode, " from names to resources") {
		return
	}
	if len(n.entries) > maxResources {
		p.fail("resources", place{n.line, n.col}, "the stack has %d resources; at most %d are taken, split it into several stacks", len(n.entries), maxResources)
		return
	}
	for _, e := range n.entries {
		p.resource(e, cloud)
	}
	for _, r := range p.doc.Resources {
		p.dependsOn(r, n.get(r.Name).get("dependsOn"))
	}
}

func (p *documentReader) resource(e entry, cloud string) {
	path := Join("resources", e.key)
	p.doc.places[normal(path)] = place{e.line, e.col}
	switch {
	case !labelPattern.MatchString(e.key):
		p.fail(path, place{e.line, e.col}, "%q is no name for a resource: use up to 63 lower-case letters, digits and hyphens, a letter first and no hyphen last", e.key)
		return
	case e.key == "params":
		p.fail(path, place{e.line, e.col}, "a resource cannot be called params: expressions know the parameters by that name")
		return
	case len(p.doc.Name)+len(e.key) > maxName:
		p.fail(path, place{e.line, e.col}, "the names of the stack and of the resource have more than %d characters together; shorten one", maxName)
		return
	}
	if !p.want(e.value, path, mapNode, " with kind and spec") {
		return
	}
	r := &Resource{Name: e.key}
	parts := map[string]*node{}
	p.entries(e.value, path, resourceFields, func(e entry, _ string) { parts[e.key] = e.value })
	r.Kind = p.kindOfResource(e, parts["kind"], path)
	if r.Kind == nil {
		return
	}
	p.kinds[r.Name] = r.Kind
	r.Cloud = p.cloudOf(r, e, parts["placement"], path, cloud)
	r.Labels = p.labels(parts["labels"], path+".labels")
	r.Adopt = p.adopt(r, parts["adopt"], path+".adopt")
	p.nodes[r.Name] = parts["spec"]
	if parts["spec"] == nil {
		p.nodes[r.Name] = &node{line: e.line, col: e.col, offset: -1}
	}
	p.doc.Resources = append(p.doc.Resources, r)
}

func (p *documentReader) kindOfResource(e entry, n *node, path string) *resource.Kind {
	if n == nil {
		p.fail(path+".kind", place{e.line, e.col}, "the resource %s needs a kind, e.g. kind: Server", e.key)
		return nil
	}
	if !p.want(n, path+".kind", stringNode, "") {
		return nil
	}
	k, ok := p.src.Kinds.ByName(n.text)
	if ok && k.Options.GetStackable() {
		return k
	}
	if ok {
		p.fail(path+".kind", place{n.line, n.col}, "a %s is not part of a stack; it is made by itself and referred to by its name", k.Name)
		return nil
	}
	var names []string
	for _, k := range p.src.Kinds.Kinds() {
		if k.Options.GetStackable() {
			names = append(names, k.Name)
		}
	}
	p.fail(path+".kind", place{n.line, n.col}, "%s", unknownWord("kind", n.text, names))
	return nil
}

// cloudOf gives the cloud that a resource is placed on.
func (p *documentReader) cloudOf(r *Resource, e entry, n *node, path, cloud string) string {
	own := p.placement(n, path+".placement")
	if r.Kind.Options.GetPlacement() != kindv1.Placement_PLACEMENT_CLOUD {
		if own != "" {
			p.fail(path+".placement", place{n.line, n.col}, "a %s is not placed on a cloud; remove placement", r.Kind.Name)
		}
		return ""
	}
	if own != "" {
		return own
	}
	if cloud == "" && (n == nil || n.kind != mapNode) {
		p.fail(path+".placement", place{e.line, e.col}, "the resource %s has no cloud: write placement: {cloud: NAME} here, or at the head of the document for all", r.Name)
	}
	return cloud
}

// adopt reads the id of the object that becomes a resource's.
func (p *documentReader) adopt(r *Resource, n *node, path string) string {
	if n == nil || !p.want(n, path, stringNode, ", the id of an object at the cloud; write it in quotes") {
		return ""
	}
	switch {
	case r.Kind.Options.GetComposite():
		p.fail(path, place{n.line, n.col}, "a %s has no object of its own to adopt; write its parts, each with the object that it adopts", r.Kind.Name)
	case n.text == "" || len(n.text) > maxAdopt:
		p.fail(path, place{n.line, n.col}, "the id of an object has from 1 to %d characters", maxAdopt)
	}
	return n.text
}

// maxAdopt bounds the length of an id at a cloud.
const maxAdopt = 1024

func (p *documentReader) labels(n *node, path string) map[string]string {
	if n == nil || !p.want(n, path, mapNode, "") {
		return nil
	}
	out := map[string]string{}
	for _, e := range n.entries {
		at := Join(path, e.key)
		p.note(at, e.value)
		if !p.want(e.value, at, stringNode, ", write it in quotes") {
			continue
		}
		if t, err := expr.Parse(e.value.text); err != nil || t.HasExpressions() {
			p.fail(at, place{e.value.line, e.value.col}, "a label takes no expressions; write $${ for a literal ${")
			continue
		}
		out[e.key] = strings.ReplaceAll(e.value.text, "$${", "${")
	}
	if err := protovalidate.Validate(&kindv1.Metadata{Labels: out}); err != nil {
		p.fail(path, place{n.line, n.col}, "the labels do not hold to the rules: %s", strings.TrimPrefix(err.Error(), "validation error: "))
	}
	return out
}

func (p *documentReader) dependsOn(r *Resource, n *node) {
	path := Join("resources", r.Name) + ".dependsOn"
	if n == nil || n.kind == nullNode || !p.want(n, path, listNode, " of names, e.g. [db]") {
		return
	}
	for i, item := range n.items {
		at := fmt.Sprintf("%s[%d]", path, i)
		p.note(at, item)
		if !p.want(item, at, stringNode, ", the name of a resource of the stack") {
			continue
		}
		if _, ok := p.kinds[item.text]; !ok {
			p.fail(at, place{item.line, item.col}, "%s", unknownWord("resource", item.text, sortedKeys(p.kinds)))
			continue
		}
		if !slices.Contains(r.DependsOn, item.text) {
			r.DependsOn = append(r.DependsOn, item.text)
		}
	}
}

func (p *documentReader) makeScope() {
	observed := map[string]protoreflect.MessageDescriptor{}
	for name, k := range p.kinds {
		observed[name] = k.Observed
	}
	env, err := expr.NewEnv(observed, p.params)
	if err != nil {
		p.fail("", place{1, 1}, "%s", err)
		return
	}
	p.env = env
	p.doc.Scope = &Scope{
		Kinds: p.src.Kinds, Tenant: p.src.Tenant, Stack: p.doc.Name, Env: env, Locals: slices.Sorted(maps.Keys(p.kinds)),
		Local: func(name string) (*resource.Kind, bool) { k, ok := p.kinds[name]; return k, ok },
	}
}

// within finds the place of a byte of a string's value. Escapes and folded lines make the value differ from the text, so
// the nearest expression at or before the byte is looked for in the text.
func (p *documentReader) within(n *node, value string, at int) place {
	fallback := place{n.line, n.col}
	if n.offset < 0 {
		return fallback
	}
	begin := strings.LastIndex(value[:min(at, len(value))], "${")
	if begin < 0 {
		begin = min(at, len(value))
	}
	needle := value[begin:min(at, len(value))]
	nth := strings.Count(value[:begin], needle)
	from := n.offset
	text := p.reader.src
	if needle == "" {
		needle = value[begin:min(begin+2, len(value))]
		if needle == "" {
			return fallback
		}
		nth = strings.Count(value[:begin], needle)
		at = begin
	}
	for {
		i := strings.Index(text[from:], needle)
		if i < 0 {
			return fallback
		}
		if nth == 0 {
			return p.reader.placeAt(from + i + at - begin)
		}
		nth--
		from += i + len(needle)
	}
}

func (p *documentReader) spec(r *Resource) {
	base := Join("resources", r.Name) + ".spec"
	r.Spec = &Spec{}
	c := &specChecker{
		scope: p.doc.Scope, kind: r.Kind, spec: r.Spec, within: p.within,
		places: func(path string, n *node) { p.note(base+"."+path, n) },
	}
	if c.scope == nil {
		return
	}
	c.run(p.nodes[r.Name])
	for _, t := range c.troubles {
		at := base
		if t.path != "" {
			at += dotted(base, t.path)
		}
		p.fail(at, t.at, "%s", t.message)
	}
}

func (p *documentReader) outputs(n *node) {
	p.doc.Outputs = &structpb.Struct{Fields: map[string]*structpb.Value{}}
	if n == nil || !p.want(n, "outputs", mapNode, " from names to values") || p.env == nil {
		return
	}
	for _, e := range n.entries {
		path := Join("outputs", e.key)
		p.note(path, e.value)
		if !paramPattern.MatchString(e.key) {
			p.fail(path, place{e.line, e.col}, "%q is no name for an output: use letters, digits, hyphens and underscores, a letter first", e.key)
			continue
		}
		p.doc.Outputs.Fields[e.key] = p.outputValue(e.value, path)
	}
}

func (p *documentReader) outputValue(n *node, path string) *structpb.Value {
	switch n.kind {
	case boolNode:
		return structpb.NewBoolValue(n.b)
	case intNode:
		return structpb.NewNumberValue(float64(n.i))
	case floatNode:
		return structpb.NewNumberValue(n.f)
	case stringNode:
		return p.outputText(n, path)
	case listNode:
		out := &structpb.ListValue{}
		for i, item := range n.items {
			out.Values = append(out.Values, p.outputValue(item, fmt.Sprintf("%s[%d]", path, i)))
		}
		return structpb.NewListValue(out)
	case mapNode:
		out := &structpb.Struct{Fields: map[string]*structpb.Value{}}
		for _, e := range n.entries {
			out.Fields[e.key] = p.outputValue(e.value, Join(path, e.key))
		}
		return structpb.NewStructValue(out)
	default:
		return structpb.NewNullValue()
	}
}

func (p *documentReader) outputText(n *node, path string) *structpb.Value {
	t, err := expr.Parse(n.text)
	if err == nil {
		var program *expr.Program
		if program, err = p.env.Compile(t, expr.AnyType); err == nil {
			for _, u := range program.Uses() {
				if k, ok := p.kinds[u.Resource]; ok && SecretOutput(k, u.Field) {
					p.fail(path, place{n.line, n.col}, "%s.%s is a secret; outputs are shown to people, and take none", u.Resource, u.Field)
				}
			}
			return structpb.NewStringValue(program.Text())
		}
	}
	at := place{n.line, n.col}
	if bad, ok := errors.AsType[*expr.Error](err); ok {
		at = p.within(n, n.text, bad.Offset)
	}
	p.fail(path, at, "%s", err)
	return structpb.NewNullValue()
}
