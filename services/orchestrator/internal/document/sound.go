package document

import (
	"maps"
	"slices"
	"strings"

	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// What is sound of a document with problems is looked at further, so that a person is told all at once. A resource is
// sound if nothing is wrong with it and with what it needs. What is left out must not make a finding false: it stands in
// Omitted, so that nobody takes it for something that goes away.

// Sound reads a document as Parse does, and gives what of it is sound beside the problems. The document is nil if that
// cannot be told, or is nothing.
func Sound(src Source) (*Document, []*orchestratorv1.Problem) {
	p := parse(src)
	if len(p.problems) == 0 {
		return p.doc, nil
	}
	if p.blind || p.doc.Scope == nil {
		return nil, p.problems
	}
	if p.misled { // a default may stand where another value was meant
		for name, n := range p.nodes {
			if holds(n, "params") {
				p.unsound[name] = true
			}
		}
	}
	p.doc.Outputs = nil // their problems are no resource's, and nobody asks the clouds about them
	return p.doc.Without(slices.Collect(maps.Keys(p.unsound))...), p.problems
}

// Without gives the document without resources and without all that need them; nil if no resource remains.
func (d *Document) Without(names ...string) *Document {
	out := *d
	out.Omitted, out.Resources = maps.Clone(d.Omitted), nil
	if out.Omitted == nil {
		out.Omitted = map[string]*Resource{}
	}
	for _, name := range names {
		out.Omitted[name] = d.Resource(name)
	}
	lacks := func(name string) bool { _, omitted := out.Omitted[name]; return omitted }
	for again := true; again; {
		again = false
		for _, r := range d.Resources {
			if !lacks(r.Name) && slices.ContainsFunc(r.Needs(), lacks) {
				out.Omitted[r.Name], again = r, true
			}
		}
	}
	for _, r := range d.Resources {
		if !lacks(r.Name) {
			out.Resources = append(out.Resources, r)
		}
	}
	if len(out.Resources) == 0 {
		return nil
	}
	return &out
}

// ResourceOf gives the resource that a problem's field belongs to; empty if to none.
func ResourceOf(field string) string {
	rest, ok := strings.CutPrefix(field, "resources.")
	if !ok {
		return ""
	}
	if end := strings.IndexAny(rest, ".["); end >= 0 {
		rest = rest[:end]
	}
	return rest
}

// blame notes what a problem makes unsound.
func (p *documentReader) blame(field string) {
	part := field
	if end := strings.IndexAny(part, ".["); end >= 0 {
		part = part[:end]
	}
	switch name := ResourceOf(field); {
	case name != "":
		p.unsound[name] = true
	case part == "parameters":
		p.misled = true
	case part == "", part == "kind", part == "name", part == "resources" && field == part:
		p.blind = true
	} // outputs, a field that there is not, and a placement, whose lack is every resource's own problem, hurt no resource
}

// doubts notes what is unsound because the text itself is in doubt, as where a name stands twice.
func (p *documentReader) doubts(root *node, parts map[string]*node) {
	resources := parts["resources"]
	if resources == nil {
		resources = &node{}
	}
	p.blind = p.blind || root.doubt || resources.doubt || doubtful(parts["kind"]) || doubtful(parts["name"]) || doubtful(parts["placement"])
	p.misled = p.misled || doubtful(parts["parameters"])
	for _, e := range resources.entries {
		if doubtful(e.value) {
			p.unsound[e.key] = true
		}
	}
}

func doubtful(n *node) bool {
	return n != nil && (n.doubt || slices.ContainsFunc(n.items, doubtful) || slices.ContainsFunc(n.entries, func(e entry) bool { return doubtful(e.value) }))
}

// holds tells whether a word stands in a string of a value.
func holds(n *node, word string) bool {
	if n == nil {
		return false
	}
	return strings.Contains(n.text, word) ||
		slices.ContainsFunc(n.items, func(i *node) bool { return holds(i, word) }) ||
		slices.ContainsFunc(n.entries, func(e entry) bool { return holds(e.value, word) })
}
