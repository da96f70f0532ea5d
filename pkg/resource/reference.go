package resource

import (
	"strconv"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// Reference is one reference in a spec.
type Reference struct {
	// Path is where it stands, e.g. volumes[0].volume, in the names that documents use.
	Path string
	// Type is the resource type that it refers to.
	Type string
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

// ReferenceTypeOf gives the resource type that a field refers to; empty if it refers to none.
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
	return Reference{Path: path, Type: ReferenceTypeOf(f), Value: value, Options: FieldOptionsOf(f), Set: set}
}
