package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/document"
)

// compare decides what is done with a node. Those that it needs were decided before.
func (p *planner) compare(n *node) error {
	for i, r := range n.refs {
		if r.local != "" && r.local != n.local {
			n.refs[i].key = p.nodes[r.local].key
		}
	}
	n.former = p.former[n.local]
	switch {
	case n.former == nil:
		n.change, n.key = create, p.in.NewKey()
	case n.former.GetType() != n.kind.Type:
		n.change, n.key, n.former = create, p.in.NewKey(), nil
	default:
		if err := p.differ(n); err != nil {
			return err
		}
	}
	for i, r := range n.refs { // of a reference to itself
		if r.local == n.local {
			n.refs[i].key = n.key
		}
	}
	return nil
}

func (p *planner) differ(n *node) error {
	forced, err := p.forced(n)
	if err != nil {
		return err
	}
	d := differ{forced: forced, node: n}
	if n.cloud != n.former.GetCloud() {
		d.add("cloud", structpb.NewStringValue(n.former.GetCloud()), structpb.NewStringValue(n.cloud), meaning{change: replace})
	}
	d.labels(n.former.GetLabels(), n.labels)
	d.message("", n.kind.Spec, n.former.GetSpec(), n.spec, meaning{})
	if d.err != nil {
		return d.err
	}
	n.key = n.former.GetKey()
	if n.former.GetReleasing() {
		n.change = replace // a key that is being released can only go
	}
	for _, f := range n.fields {
		n.change = max(n.change, f.GetChange()) // the enum's values rise with what a change does: in place, restart, replace
	}
	if n.change == unchanged && (n.former.GetUnsure() || n.former.GetResolved() == nil) {
		n.change = inPlace // it was asked for, but it is not certain that it ever stood as asked
	}
	if n.change == replace {
		n.key = p.in.NewKey()
	}
	return nil
}

// forced gives the paths whose value changes although the text does not: references to what has another key now,
// expressions over outputs that are not known yet, and those that yield something else than what was sent.
func (p *planner) forced(n *node) (map[string]bool, error) {
	stale, err := p.stale(n)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, r := range n.refs {
		former := n.former.GetReferences()[r.name]
		if r.local != n.local && former != "" && former != r.key {
			out[r.path] = true
		}
	}
	for _, u := range n.written.Uses {
		if stale || p.unknown(u.Resource, u.Field) {
			out[u.Path] = true
		}
	}
	return out, nil
}

// stale tells whether the expressions of what stands yield something else now than what was sent: what they are about was
// changed or made anew since, say by an undo. That they yield nothing at all is told when they are needed.
func (p *planner) stale(n *node) (bool, error) {
	if len(n.written.Uses) == 0 || n.former.GetResolved() == nil {
		return false, nil
	}
	if p.before == nil {
		standing := p.in.Former.GetStanding()
		resolver, err := NewResolver(p.in.Kinds, standing)
		if err != nil {
			return false, err
		}
		p.before, p.outputs = resolver, map[string]proto.Message{}
		for _, s := range standing {
			if s.GetObserved() == nil {
				continue
			}
			m, err := s.GetObserved().UnmarshalNew()
			if err != nil {
				return false, fault.As(fault.Internal, fault.Wrap(err, "decode what was observed of %s", s.GetName()))
			}
			p.outputs[s.GetLocalName()] = m
		}
	}
	asWritten := proto.CloneOf(n.former)
	asWritten.Resolved = nil
	spec, err := p.before.Resolve(asWritten, p.outputs)
	if err != nil {
		return false, nil //nolint:nilerr // an expression that yields nothing now fails its own step, with its place, when the saga comes to it
	}
	now, err := resource.ToStruct(spec)
	return !proto.Equal(now, n.former.GetResolved()), err
}

// unknown tells whether an output has another value than before, or none yet.
func (p *planner) unknown(local, field string) bool {
	if n, ok := p.nodes[local]; ok {
		return n.change == create || n.change == replace
	}
	e, former := p.composites[local], p.formerComposites[local]
	if e == nil || former == nil {
		return true
	}
	fields := []string{field}
	if field == "" {
		fields = slices.Sorted(maps.Keys(e.outputs))
	}
	for _, f := range fields {
		if e.outputs[f] != former.GetOutputs()[f] {
			return true
		}
		c := p.resolver.composites[local]
		if c == nil || c.outputs[f] == nil {
			continue
		}
		for _, u := range c.outputs[f].Uses() {
			if p.unknown(c.children[u.Resource], u.Field) {
				return true
			}
		}
	}
	return false
}

// meaning is what the fields on a path say of it.
type meaning struct {
	change              kindv1.Change
	opaque, loses, grow bool
	// covered says that the fields below say nothing of the change.
	covered bool
}

func (m meaning) within(fd protoreflect.FieldDescriptor) meaning {
	o := resource.FieldOptionsOf(fd)
	m.opaque = m.opaque || o.GetOpaque()
	if m.covered {
		return m
	}
	m.covered = o.GetCovers()
	if o.GetChange() != unchanged {
		m.change = o.GetChange()
	}
	m.loses, m.grow = m.loses || o.GetLosesData(), o.GetGrowOnly()
	return m
}

// differ compares the spec that stands with the one that is wanted.
type differ struct {
	node   *node
	forced map[string]bool
	err    error
}

func (d *differ) labels(old, wanted map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(union(old, wanted))) {
		o, hadIt := old[k]
		w, hasIt := wanted[k]
		if o == w && hadIt == hasIt {
			continue
		}
		var before, after *structpb.Value
		if hadIt {
			before = structpb.NewStringValue(o)
		}
		if hasIt {
			after = structpb.NewStringValue(w)
		}
		d.add(document.Join("labels", k), before, after, meaning{change: inPlace})
	}
}

func union[V any](a, b map[string]V) map[string]V {
	out := maps.Clone(a)
	if out == nil {
		out = map[string]V{}
	}
	maps.Copy(out, b)
	return out
}

func (d *differ) message(path string, desc protoreflect.MessageDescriptor, old, wanted *structpb.Struct, m meaning) {
	for i := range desc.Fields().Len() {
		fd := desc.Fields().Get(i)
		name := fd.JSONName()
		o, w := old.GetFields()[name], wanted.GetFields()[name]
		if o == nil && w == nil {
			continue
		}
		d.field(document.Join(path, name), fd, o, w, m.within(fd))
	}
}

func (d *differ) field(path string, fd protoreflect.FieldDescriptor, old, wanted *structpb.Value, m meaning) {
	switch {
	case fd.IsMap() && old.GetStringValue() == "" && wanted.GetStringValue() == "":
		o, w := old.GetStructValue().GetFields(), wanted.GetStructValue().GetFields()
		for _, k := range slices.Sorted(maps.Keys(union(o, w))) {
			d.element(document.Join(path, k), fd.MapValue(), o[k], w[k], m)
		}
	case fd.IsList() && old.GetStringValue() == "" && wanted.GetStringValue() == "":
		o, w := old.GetListValue().GetValues(), wanted.GetListValue().GetValues()
		for i := range max(len(o), len(w)) {
			var ov, wv *structpb.Value
			if i < len(o) {
				ov = o[i]
			}
			if i < len(w) {
				wv = w[i]
			}
			d.element(fmt.Sprintf("%s[%d]", path, i), fd, ov, wv, m)
		}
	default:
		d.element(path, fd, old, wanted, m)
	}
}

func (d *differ) element(path string, fd protoreflect.FieldDescriptor, old, wanted *structpb.Value, m meaning) {
	if fd.Message() != nil && old.GetStructValue() != nil && wanted.GetStructValue() != nil {
		d.message(path, fd.Message(), old.GetStructValue(), wanted.GetStructValue(), m)
		return
	}
	if proto.Equal(old, wanted) && !d.forced[path] {
		return
	}
	if m.grow {
		m = d.grow(path, old, wanted, m)
		if m.change == unchanged {
			return
		}
	}
	d.add("spec."+path, old, wanted, m)
}

// grow decides what the change of a quantity does that can only grow.
func (d *differ) grow(path string, old, wanted *structpb.Value, m meaning) meaning {
	before, okBefore := quantity(old)
	after, okAfter := quantity(wanted)
	if !okBefore || !okAfter { // known only later; if it shrinks, the step says so
		return m
	}
	switch before.Cmp(after) {
	case 0:
		if !d.forced[path] {
			m.change = unchanged
		}
	case 1:
		m.change = replace
	default:
		d.node.grown = append(d.node.grown, path)
	}
	return m
}

var quantityPattern = regexp.MustCompile(`^([0-9]+)(Ki|Mi|Gi|Ti|Pi)?$`)

// quantity reads a number with a binary unit (IEC 80000-13).
func quantity(v *structpb.Value) (*big.Int, bool) {
	m := quantityPattern.FindStringSubmatch(v.GetStringValue())
	if m == nil {
		return nil, false
	}
	n, ok := new(big.Int).SetString(m[1], 10)
	if !ok {
		return nil, false
	}
	shift := map[string]uint{"": 0, "Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50}[m[2]]
	return n.Lsh(n, shift), true
}

func (d *differ) add(path string, old, wanted *structpb.Value, m meaning) {
	f := &orchestratorv1.FieldChange{Path: path, Change: m.change}
	if f.Change == unchanged {
		f.Change = inPlace
	}
	if !m.opaque {
		f.OldValue, f.NewValue = d.show(old), d.show(wanted)
	}
	switch {
	case m.loses && f.GetChange() == replace:
		d.node.losing = append(d.node.losing, path)
	case m.loses && f.GetChange() == restart:
		d.node.wiped = append(d.node.wiped, strings.TrimPrefix(path, "spec."))
	}
	d.node.fields = append(d.node.fields, f)
}

// show writes a value as JSON; "" for none.
func (d *differ) show(v *structpb.Value) string {
	if v == nil {
		return ""
	}
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v.AsInterface()); err != nil {
		d.err = fault.As(fault.Internal, fault.Wrap(err, "write a value of %s", d.node.local))
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// removed finds what goes away.
func (p *planner) removed() {
	for _, local := range p.formerOrder {
		f, n := p.former[local], p.nodes[local]
		switch {
		case n == nil || n.former == nil:
			p.gone = append(p.gone, &departure{former: f, successor: n, change: remove})
		case n.change == replace:
			p.gone = append(p.gone, &departure{former: f, successor: n, change: replace})
		}
	}
}
