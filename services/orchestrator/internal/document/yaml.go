package document

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// The limits on what is read, so that no document can exhaust the machine.
const (
	// maxBytes bounds the text.
	maxBytes = 1 << 20
	// maxResources bounds the resources of one stack.
	maxResources = 2000
	// maxDepth bounds how deep values nest.
	maxDepth = 64
	// maxNodes bounds the values after aliases are followed, against documents that grow when they are read.
	maxNodes = 200_000
)

type nodeKind int

const (
	nullNode nodeKind = iota
	boolNode
	intNode
	floatNode
	stringNode
	listNode
	mapNode
)

// String names the kind of value for people.
func (k nodeKind) String() string {
	return [...]string{"nothing", "true or false", "a whole number", "a number", "a string", "a list", "a map"}[k]
}

// node is one value of a document, with its place.
type node struct {
	kind      nodeKind
	line, col int
	offset    int // in bytes; -1 if the value stands in no text
	text      string
	b         bool
	i         int64
	f         float64
	items     []*node
	entries   []entry
	doubt     bool // it was not read as it was written, or stands in two ways
}

type entry struct {
	key       string
	line, col int
	value     *node
}

func (n *node) get(key string) *node {
	for _, e := range n.entries {
		if e.key == key {
			return e.value
		}
	}
	return nil
}

// place is a position in the text, from 1.
type place struct{ line, col int }

// trouble is a syntax error or something that YAML allows and documents do not.
type trouble struct {
	place
	message string
	within  bool // it touches no more than the node that is in doubt
}

// reader turns the parser's tree into nodes.
type reader struct {
	src      string
	lines    []int // offset of each line's begin
	anchors  map[string]ast.Node
	active   map[string]bool // anchors that are being followed
	nodes    int
	troubles []trouble
}

// read parses YAML (of which JSON is a part). The node is nil if nothing could be read.
func read(text string) (root *node, troubles []trouble) {
	r := &reader{src: text, anchors: map[string]ast.Node{}, active: map[string]bool{}}
	r.index()
	// The parser is foreign code that has crashed on odd input before; a crash must refuse the document, not end the service.
	defer func() {
		if p := recover(); p != nil {
			root, troubles = nil, []trouble{{place: place{1, 1}, message: fmt.Sprintf("the document is no YAML: %v", p)}}
		}
	}()
	if len(text) > maxBytes {
		return nil, r.fail(place{1, 1}, "the document has %d bytes; at most %d are read", len(text), maxBytes)
	}
	if !utf8.ValidString(text) {
		return nil, r.fail(place{1, 1}, "the document is not UTF-8 text")
	}
	tokens := lexer.Tokenize(text)
	if r.tooDeep(tokens) {
		return nil, r.troubles
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, r.syntax(err)
	}
	if len(file.Docs) > 1 && file.Docs[1].Body != nil {
		r.fail(r.placeOf(file.Docs[1].Body), "there is a second document in the file; put each stack into a file of its own")
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return nil, r.fail(place{1, 1}, "the document is empty; it begins with kind: Stack")
	}
	r.collectAnchors(file.Docs[0].Body, 0)
	return r.node(file.Docs[0].Body, 0), r.troubles
}

func (r *reader) fail(at place, format string, args ...any) []trouble {
	r.troubles = append(r.troubles, trouble{place: at, message: fmt.Sprintf(format, args...)})
	return r.troubles
}

// doubt says what is wrong with one node.
func (r *reader) doubt(n *node, at place, format string, args ...any) {
	n.doubt = true
	r.troubles = append(r.troubles, trouble{at, fmt.Sprintf(format, args...), true})
}

func (r *reader) index() {
	r.lines = []int{0}
	for i := range len(r.src) {
		if r.src[i] == '\n' {
			r.lines = append(r.lines, i+1)
		}
	}
}

// offsetOf gives the offset in bytes of a place; the parser counts columns in characters.
func (r *reader) offsetOf(p place) int {
	if p.line < 1 || p.line > len(r.lines) {
		return -1
	}
	at := r.lines[p.line-1]
	for range p.col - 1 {
		if at >= len(r.src) || r.src[at] == '\n' {
			break
		}
		_, size := utf8.DecodeRuneInString(r.src[at:])
		at += size
	}
	return at
}

// placeAt gives the place of an offset in bytes.
func (r *reader) placeAt(offset int) place {
	low, high := 0, len(r.lines)
	for high-low > 1 {
		mid := (low + high) / 2
		if r.lines[mid] <= offset {
			low = mid
			continue
		}
		high = mid
	}
	return place{low + 1, utf8.RuneCountInString(r.src[r.lines[low]:min(offset, len(r.src))]) + 1}
}

// tooDeep refuses what would nest too deep, before the parser, which recurses, sees it.
func (r *reader) tooDeep(tokens token.Tokens) bool {
	depth, line, inLine := 0, 0, 0
	for _, t := range tokens {
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType:
			if t.Position.Line != line {
				line, inLine = t.Position.Line, 0
			}
			inLine++
		case token.TagType:
			r.fail(place{t.Position.Line, t.Position.Column}, "the tag %s has no meaning here; remove it", strings.TrimSpace(t.Value))
			return true
		}
		if depth > maxDepth || inLine > maxDepth || t.Position.IndentLevel > maxDepth*2 {
			r.fail(place{t.Position.Line, t.Position.Column}, "values nest deeper than %d", maxDepth)
			return true
		}
	}
	return false
}

func (r *reader) syntax(err error) []trouble {
	message, at := err.Error(), place{1, 1}
	type located interface {
		GetMessage() string
		GetToken() *token.Token
	}
	if l, ok := err.(located); ok {
		message = l.GetMessage()
		if t := l.GetToken(); t != nil && t.Position != nil {
			at = place{t.Position.Line, t.Position.Column}
		}
	}
	return r.fail(at, "the document is no YAML: %s", message)
}

func (r *reader) placeOf(n ast.Node) place {
	t := n.GetToken()
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return r.placeOf(n.Values[0].Key)
		}
		t = n.Start
	case *ast.MappingValueNode:
		return r.placeOf(n.Key)
	case *ast.SequenceNode:
		t = n.Start
	case *ast.LiteralNode:
		t = n.Start
	}
	if t == nil || t.Position == nil {
		return place{1, 1}
	}
	return place{t.Position.Line, t.Position.Column}
}

// collectAnchors finds the anchors, which may stand anywhere before their aliases.
func (r *reader) collectAnchors(n ast.Node, depth int) {
	if n == nil || depth > maxDepth*4 {
		return
	}
	switch n := n.(type) {
	case *ast.AnchorNode:
		if n.Name != nil && n.Value != nil {
			r.anchors[n.Name.GetToken().Value] = n.Value
		}
		r.collectAnchors(n.Value, depth+1)
	case *ast.MappingNode:
		for _, v := range n.Values {
			r.collectAnchors(v, depth+1)
		}
	case *ast.MappingValueNode:
		r.collectAnchors(n.Value, depth+1)
	case *ast.SequenceNode:
		for _, v := range n.Values {
			r.collectAnchors(v, depth+1)
		}
	}
}

// node turns one value; it gives a null for what cannot be read, after saying so.
func (r *reader) node(n ast.Node, depth int) *node {
	out := &node{line: 1, col: 1, offset: -1}
	if n == nil {
		return out
	}
	at := r.placeOf(n)
	out.line, out.col, out.offset = at.line, at.col, r.offsetOf(at)
	r.nodes++
	if r.nodes == maxNodes {
		r.fail(at, "the document has more than %d values when its aliases are followed", maxNodes)
	}
	if r.nodes >= maxNodes {
		return out
	}
	if depth > maxDepth {
		r.fail(at, "values nest deeper than %d", maxDepth)
		return out
	}
	switch n := n.(type) {
	case *ast.AnchorNode:
		return r.node(n.Value, depth)
	case *ast.AliasNode:
		return r.alias(n, at, depth, out)
	case *ast.MappingNode:
		r.mapping(out, n.Values, depth)
	case *ast.MappingValueNode:
		r.mapping(out, []*ast.MappingValueNode{n}, depth)
	case *ast.SequenceNode:
		out.kind = listNode
		for _, v := range n.Values {
			out.items = append(out.items, r.node(v, depth+1))
		}
	default:
		r.scalar(out, n, at)
	}
	return out
}

func (r *reader) scalar(out *node, n ast.Node, at place) {
	switch n := n.(type) {
	case *ast.NullNode:
	case *ast.BoolNode:
		out.kind, out.b, out.text = boolNode, n.Value, n.Token.Value
	case *ast.StringNode:
		out.kind, out.text = stringNode, n.Value
	case *ast.LiteralNode:
		out.kind = stringNode
		if n.Value != nil {
			out.text = n.Value.Value
		}
	case *ast.IntegerNode:
		r.integer(out, n)
	case *ast.FloatNode:
		out.kind, out.f, out.text = floatNode, n.Value, n.Token.Value
	default:
		r.doubt(out, at, "%s has no meaning here; write a string, a number, true or false, a list or a map", strings.TrimSpace(n.String()))
	}
}

func (r *reader) integer(out *node, n *ast.IntegerNode) {
	out.kind, out.text = intNode, n.Token.Value
	switch v := n.Value.(type) {
	case int64:
		out.i = v
	case uint64:
		if v > math.MaxInt64 {
			out.kind, out.f = floatNode, float64(v)
			return
		}
		out.i = int64(v)
	}
}

// alias follows an alias.
func (r *reader) alias(n *ast.AliasNode, at place, depth int, none *node) *node {
	name := ""
	if n.Value != nil {
		name = n.Value.GetToken().Value
	}
	target, ok := r.anchors[name]
	switch {
	case !ok:
		r.doubt(none, at, "the alias *%s has no anchor &%s", name, name)
		return none
	case r.active[name]:
		r.doubt(none, at, "the alias *%s stands inside its own anchor", name)
		return none
	}
	r.active[name] = true
	defer delete(r.active, name)
	return r.node(target, depth+1)
}

func (r *reader) mapping(out *node, values []*ast.MappingValueNode, depth int) {
	out.kind = mapNode
	seen := map[string]place{}
	var merged []entry
	for _, v := range values {
		if v == nil || v.Key == nil {
			continue
		}
		at := r.placeOf(v.Key)
		if v.Key.IsMergeKey() {
			merged = append(merged, r.merge(out, v.Value, at, depth)...)
			continue
		}
		key, ok := r.key(out, v.Key, at)
		if !ok {
			continue
		}
		if first, twice := seen[key]; twice {
			r.doubt(out.get(key), at, "%q stands here twice; it stands on line %d already, remove or rename one", key, first.line)
			continue
		}
		seen[key] = at
		out.entries = append(out.entries, entry{key: key, line: at.line, col: at.col, value: r.node(v.Value, depth+1)})
	}
	for _, e := range merged {
		if _, own := seen[e.key]; !own {
			seen[e.key] = place{e.line, e.col}
			out.entries = append(out.entries, e)
		}
	}
}

// merge gives the entries that the key << brings in.
func (r *reader) merge(into *node, v ast.Node, at place, depth int) []entry {
	n := r.node(v, depth+1)
	into.doubt = into.doubt || n.doubt
	switch n.kind {
	case mapNode:
		return n.entries
	case listNode:
		var out []entry
		for _, item := range n.items {
			if item.kind == mapNode {
				out = append(out, item.entries...)
				continue
			}
			r.doubt(into, at, "<< takes a map or a list of maps")
		}
		return out
	default:
		r.doubt(into, at, "<< takes a map or a list of maps")
		return nil
	}
}

// key gives the text of a key.
func (r *reader) key(of *node, k ast.MapKeyNode, at place) (string, bool) {
	var n ast.Node = k
	if explicit, ok := k.(*ast.MappingKeyNode); ok {
		n = explicit.Value
	}
	if a, ok := n.(*ast.AnchorNode); ok {
		n = a.Value
	}
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		return n.GetToken().Value, true
	case *ast.LiteralNode:
		if n.Value != nil {
			return n.Value.Value, true
		}
	}
	r.doubt(of, at, "a key is a string")
	return "", false
}
