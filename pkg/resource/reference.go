package resource

import (
	"slices"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// Reference is one reference in a spec.
type Reference struct {
	// Path is where it stands, e.g. volumes[0].volume, in the names that documents use.
	Path string
	// Type is the resource type that it refers to; AnyOf if it may lead to one of several, whose kind its full name tells
	// (see Registry.Target).
	Type string
	// Types are the resource types that it may refer to: one, or several.
	Types []string
	// Value is the name that stands there.
	Value string
	// Options is what the field means to the planner; never nil.
	Options *kindv1.FieldOptions
	// Set puts another name in its place.
	Set func(name string)
}

// FieldOptionsOf gives what a field means to the planner; never nil.
func FieldOptionsOf(f protoreflect.FieldDescriptor) *kindv1.FieldOptions {
	o, ok := proto.GetExtension(f.Options(), kindv1.E_Field).(*kindv1.FieldOptions)
	if !ok || o == nil {
		return &kindv1.FieldOptions{}
	}
	return o
}

// AnyOf is the type of a reference that may lead to one of several kinds; its field's options list them.
const AnyOf = "*"

// ReferenceTypesOf gives the resource types that a field may refer to; none if it refers to nothing.
func ReferenceTypesOf(f protoreflect.FieldDescriptor) []string {
	switch typ := ReferenceTypeOf(f); typ {
	case "":
		return nil
	case AnyOf:
		return FieldOptionsOf(f).GetTypes()
	default:
		return []string{typ}
	}
}

// ReferenceTypeOf gives the resource type that a field refers to, AnyOf for one of several; empty if it refers to none.
func ReferenceTypeOf(f protoreflect.FieldDescriptor) string {
	r, ok := proto.GetExtension(f.Options(), annotations.E_ResourceReference).(*annotations.ResourceReference)
	if !ok || r == nil {
		return ""
	}
	return r.GetType()
}

// References lists the references in a spec that are not empty, in the order of its fields.
func References(spec proto.Message) []Reference {
	var out []Reference
	walk(spec.ProtoReflect(), "", &out)
	return out
}

func walk(m protoreflect.Message, path string, out *[]Reference) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) {
			continue
		}
		at := path + f.JSONName()
		switch {
		case ReferenceTypeOf(f) != "" && f.IsList():
			l := m.Mutable(f).List()
			for j := range l.Len() {
				*out = append(*out, reference(f, at+"["+strconv.Itoa(j)+"]", l.Get(j).String(), func(s string) { l.Set(j, protoreflect.ValueOfString(s)) }))
			}
		case ReferenceTypeOf(f) != "":
			*out = append(*out, reference(f, at, m.Get(f).String(), func(s string) { m.Set(f, protoreflect.ValueOfString(s)) }))
		case f.IsList() && f.Message() != nil:
			l := m.Mutable(f).List()
			for j := range l.Len() {
				walk(l.Get(j).Message(), at+"["+strconv.Itoa(j)+"].", out)
			}
		case f.Message() != nil && !f.IsMap():
			walk(m.Mutable(f).Message(), at+".", out)
		}
	}
}

func reference(f protoreflect.FieldDescriptor, path, value string, set func(string)) Reference {
	return Reference{Path: path, Type: ReferenceTypeOf(f), Types: ReferenceTypesOf(f), Value: value, Options: FieldOptionsOf(f), Set: set}
}

// Targets gives the kinds that a reference may lead to, as far as their contracts are known here.
func (r *Registry) Targets(types []string) []*Kind {
	var out []*Kind
	for _, t := range types {
		if k, ok := r.ByType(t); ok {
			out = append(out, k)
		}
	}
	return out
}

// Target gives the kind that a reference leads to. One of several kinds is told by the collection in its value, so the value
// must hold one, as each full name does.
func (r *Registry) Target(ref Reference) (*Kind, bool) {
	if ref.Type != AnyOf {
		return r.ByType(ref.Type)
	}
	parts := strings.Split(ref.Value, "/")
	if len(parts) < 2 {
		return nil, false
	}
	k, ok := r.ByCollection(parts[len(parts)-2])
	if !ok || !slices.Contains(ref.Types, k.Type) {
		return nil, false
	}
	return k, true
}

// Qualify gives the kind that a reference of a tenant's resource leads to, and its full name. The error is Invalid, or
// Internal if the contract names no kind that is known here.
func (r *Registry) Qualify(tenant string, ref Reference) (*Kind, string, error) {
	may := r.Targets(ref.Types)
	if len(may) == 0 {
		return nil, "", fault.New(fault.Internal, "%s refers to an unknown type %s", ref.Path, strings.Join(ref.Types, ", "))
	}
	k := may[0]
	if len(may) > 1 {
		var ok bool
		if k, ok = r.Target(ref); !ok {
			return nil, "", fault.New(fault.Invalid, "%q may lead to one of several kinds: write it as %s", ref.Value, Written(may))
		}
	}
	full, err := k.Qualify(tenant, ref.Value)
	return k, full, err
}

// Written says how references to kinds are written, e.g. servers/NAME or workloads/NAME.
func Written(kinds []*Kind) string {
	return either(kinds, func(k *Kind) string { return k.Collection + "/NAME" })
}

// Either names kinds of which one is wanted, e.g. Server, ScalingGroup or Workload.
func Either(kinds []*Kind) string { return either(kinds, func(k *Kind) string { return k.Name }) }

func either(kinds []*Kind, word func(*Kind) string) string {
	words := make([]string, 0, len(kinds))
	for _, k := range kinds {
		words = append(words, word(k))
	}
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
