package kubernetes

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/parser"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/weftcloud/weft/pkg/fault"
)

// fieldYAML is where a manifest's text stands.
const fieldYAML = "spec.yaml"

// document is one object of a manifest and its place there.
type document struct {
	object *unstructured.Unstructured
	// number counts the documents from 1, line is the line where it begins.
	number, line int
}

// place gives the place in a message.
func (d document) place() string { return fmt.Sprintf("document %d, line %d", d.number, d.line) }

// invalid gives an Invalid fault about a document.
func (d document) invalid(format string, args ...any) error {
	return fault.InField(fieldYAML, "%s: %s", d.place(), fmt.Sprintf(format, args...))
}

// chunk is the text of one document.
type chunk struct {
	text         string
	number, line int
}

// split cuts a text at the lines that separate documents. Documents without content are left out and not counted.
func split(text string) []chunk {
	var out []chunk
	current, number, start := []string{}, 1, 1
	flush := func(next int) {
		body := strings.Join(current, "\n")
		first := 0
		blank := true
		for i, line := range current {
			if trimmed := strings.TrimSpace(line); trimmed != "" && !strings.HasPrefix(trimmed, "#") {
				first, blank = i, false
				break
			}
		}
		if !blank {
			out = append(out, chunk{text: body, number: number, line: start + first})
			number++
		}
		current, start = current[:0], next
	}
	for i, line := range strings.Split(text, "\n") {
		if line == "---" || strings.HasPrefix(line, "--- ") || strings.HasPrefix(line, "---\r") || strings.HasPrefix(line, "---\t") {
			flush(i + 2)
			if rest := strings.TrimSpace(strings.TrimPrefix(line, "---")); rest != "" && !strings.HasPrefix(rest, "#") {
				current, start = append(current, rest), i+1
			}
			continue
		}
		current = append(current, line)
	}
	flush(len(text))
	return out
}

// parseManifest reads a manifest's objects in their order; lists are taken apart. The errors are all that is wrong with
// its text, each Invalid with its place.
func parseManifest(text string) ([]document, []error) {
	var docs []document
	var problems []error
	for _, c := range split(text) {
		d := document{number: c.number, line: c.line}
		if err := syntax(c); err != nil {
			problems = append(problems, err)
			continue
		}
		body, err := sigsyaml.YAMLToJSONStrict([]byte(c.text))
		if err != nil {
			problems = append(problems, d.invalid("%v", err))
			continue
		}
		content := map[string]any{}
		if err := sigsyaml.Unmarshal(body, &content); err != nil {
			problems = append(problems, d.invalid("a document must be one object with apiVersion and kind"))
			continue
		}
		found, bad := d.objects(body, content)
		docs, problems = append(docs, found...), append(problems, bad...)
	}
	if len(docs) == 0 && len(problems) == 0 {
		problems = append(problems, fault.InField(fieldYAML, "it holds no object"))
	}
	return docs, append(problems, twice(docs)...)
}

// syntax reports an error in the text with its own line.
func syntax(c chunk) error {
	_, err := parser.ParseBytes([]byte(c.text), 0)
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[yaml.Error](err); ok && e.GetToken() != nil && e.GetToken().Position != nil {
		// The token counts from the start of the chunk's text; blank lines before its first content are part of it.
		line := c.line - leadingLines(c.text) + e.GetToken().Position.Line - 1
		return fault.InField(fieldYAML, "document %d, line %d, column %d: %s", c.number, line, e.GetToken().Position.Column, e.GetMessage())
	}
	return fault.InField(fieldYAML, "document %d, line %d: %v", c.number, c.line, err)
}

// leadingLines counts the lines before the first content.
func leadingLines(text string) int {
	for i, line := range strings.Split(text, "\n") {
		if trimmed := strings.TrimSpace(line); trimmed != "" && !strings.HasPrefix(trimmed, "#") {
			return i
		}
	}
	return 0
}

// objects gives the objects of a document: itself, or the items of a list.
func (d document) objects(body []byte, content map[string]any) ([]document, []error) {
	for _, field := range []string{"apiVersion", "kind"} {
		if s, ok := content[field].(string); !ok || s == "" {
			return nil, []error{d.invalid("it has no %s", field)}
		}
	}
	u := &unstructured.Unstructured{}
	if !strings.HasSuffix(content["kind"].(string), "List") || content["items"] == nil {
		if err := u.UnmarshalJSON(body); err != nil {
			return nil, []error{d.invalid("%v", err)}
		}
		d.object = u
		if err := d.examine(); err != nil {
			return nil, []error{err}
		}
		return []document{d}, nil
	}
	l := &unstructured.UnstructuredList{}
	if err := l.UnmarshalJSON(body); err != nil {
		return nil, []error{d.invalid("%v", err)}
	}
	var out []document
	var problems []error
	for i := range l.Items {
		item := d
		item.object = &l.Items[i]
		if err := item.examine(); err != nil {
			problems = append(problems, err)
			continue
		}
		out = append(out, item)
	}
	return out, problems
}

// examine reports what no object of a manifest may have or lack, and takes away what only the server may set.
func (d document) examine() error {
	o := d.object
	if o.GetName() == "" && o.GetGenerateName() != "" {
		return d.invalid("metadata.generateName would make a new %s with each change; give it a metadata.name", o.GetKind())
	}
	if o.GetName() == "" {
		return d.invalid("the %s has no metadata.name", o.GetKind())
	}
	for _, set := range []map[string]string{o.GetLabels(), o.GetAnnotations()} {
		for k := range set {
			if strings.HasPrefix(k, reserved) {
				return d.invalid("%s: labels and annotations that begin with %s are set by Weft; leave it out", k, reserved)
			}
		}
	}
	if _, err := schema.ParseGroupVersion(o.GetAPIVersion()); err != nil {
		return d.invalid("apiVersion %q should look like v1 or apps/v1", o.GetAPIVersion())
	}
	for _, field := range []string{"creationTimestamp", "resourceVersion", "uid", "generation", "managedFields", "selfLink"} {
		unstructured.RemoveNestedField(o.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(o.Object, "status")
	return nil
}

// twice reports objects that stand in a manifest more than once.
func twice(docs []document) []error {
	seen := map[string]document{}
	var out []error
	for _, d := range docs {
		id := d.object.GroupVersionKind().GroupKind().String() + " " + d.object.GetNamespace() + "/" + d.object.GetName()
		if first, again := seen[id]; again {
			out = append(out, d.invalid("%s stands in document %d already", describe(d.object.GetKind(), d.object.GetNamespace(), d.object.GetName()), first.number))
			continue
		}
		seen[id] = d
	}
	return out
}

// definition is what a CustomResourceDefinition in a manifest says of a kind.
type definition struct{ namespaced bool }

// definitions gives the kinds that documents define.
func definitions(docs []document) map[schema.GroupKind]definition {
	out := map[schema.GroupKind]definition{}
	for _, d := range docs {
		if !isDefinition(d.object.GroupVersionKind().GroupKind()) {
			continue
		}
		group := textAt(d.object.Object, "spec", "group")
		kind := textAt(d.object.Object, "spec", "names", "kind")
		scope := textAt(d.object.Object, "spec", "scope")
		out[schema.GroupKind{Group: group, Kind: kind}] = definition{namespaced: scope == "Namespaced"}
	}
	return out
}

// namespacesIn gives the namespaces that documents make.
func namespacesIn(docs []document) map[string]bool {
	out := map[string]bool{}
	for _, d := range docs {
		if isNamespace(d.object.GroupVersionKind().GroupKind()) {
			out[d.object.GetName()] = true
		}
	}
	return out
}

func isNamespace(k schema.GroupKind) bool { return k == schema.GroupKind{Kind: "Namespace"} }

func isDefinition(k schema.GroupKind) bool {
	return k == schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}
}

// textAt gives the text at a path of an object; "" if there is none, or something else than text.
func textAt(object map[string]any, path ...string) string {
	text, found, err := unstructured.NestedString(object, path...)
	if err != nil || !found {
		return ""
	}
	return text
}
