package expr

import (
	"fmt"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Type is what a place in a document takes.
type Type struct {
	words string
	// any: everything is taken; primitive: what can stand in a text.
	any, primitive bool
	kinds          []*cel.Type
}

// AnyType takes everything.
var AnyType = Type{words: "anything", any: true}

// inText takes what can be part of a longer text.
var inText = Type{words: "a string, a number or true or false", primitive: true}

// String describes the type for people, e.g. "a whole number".
func (t Type) String() string { return t.words }

// FieldType is what a field takes; for a list or a map, the whole of it.
func FieldType(f protoreflect.FieldDescriptor) Type {
	switch {
	case f.IsMap():
		value := ElementType(f.MapValue())
		return Type{words: "a map", kinds: mapsOf(value)}
	case f.IsList():
		return Type{words: "a list", kinds: listsOf(ElementType(f))}
	default:
		return ElementType(f)
	}
}

func listsOf(element Type) []*cel.Type {
	out := []*cel.Type{}
	for _, k := range element.kinds {
		out = append(out, cel.ListType(k))
	}
	return out
}

func mapsOf(value Type) []*cel.Type {
	out := []*cel.Type{}
	for _, k := range value.kinds {
		out = append(out, cel.MapType(cel.StringType, k))
	}
	return out
}

// ElementType is what a field that is no list takes, or one element of a list.
func ElementType(f protoreflect.FieldDescriptor) Type {
	switch f.Kind() {
	case protoreflect.StringKind:
		return Type{words: "a string", kinds: []*cel.Type{cel.StringType}}
	case protoreflect.BytesKind:
		return Type{words: "bytes", kinds: []*cel.Type{cel.BytesType}}
	case protoreflect.BoolKind:
		return Type{words: "true or false", kinds: []*cel.Type{cel.BoolType}}
	case protoreflect.EnumKind:
		return Type{words: "one of the words of " + string(f.Enum().Name()), kinds: []*cel.Type{cel.StringType, cel.IntType}}
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		return Type{words: "a number", kinds: []*cel.Type{cel.DoubleType, cel.IntType, cel.UintType}}
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return Type{words: "a " + string(f.Message().Name()), kinds: []*cel.Type{cel.ObjectType(string(f.Message().FullName())), cel.MapType(cel.StringType, cel.DynType)}}
	default:
		return Type{words: "a whole number", kinds: []*cel.Type{cel.IntType, cel.UintType}}
	}
}

// accepts tells whether a value of CEL's type from is taken. What is only known when it is evaluated is taken, and
// looked at then.
func (t Type) accepts(from *cel.Type) bool {
	if t.any || from.Kind() == types.DynKind || from.Kind() == types.AnyKind {
		return true
	}
	if t.primitive {
		switch from.Kind() {
		case types.StringKind, types.IntKind, types.UintKind, types.DoubleKind, types.BoolKind, types.TimestampKind, types.DurationKind:
			return true
		default:
			return false
		}
	}
	for _, k := range t.kinds {
		if assignable(k, from) {
			return true
		}
	}
	return false
}

func assignable(to, from *cel.Type) bool {
	if to.Kind() == types.DynKind || from.Kind() == types.DynKind {
		return true
	}
	if to.Kind() != from.Kind() {
		return false
	}
	switch to.Kind() {
	case types.ListKind, types.MapKind:
		for i, p := range to.Parameters() {
			if i < len(from.Parameters()) && !assignable(p, from.Parameters()[i]) {
				return false
			}
		}
		return true
	case types.StructKind:
		return to.TypeName() == from.TypeName()
	default:
		return true
	}
}

// acceptsValue looks at a value whose type was not known before.
func (t Type) acceptsValue(v ref.Val) bool {
	if t.any {
		return true
	}
	vt, ok := v.Type().(*types.Type)
	if !ok {
		return false
	}
	return t.accepts(vt)
}

// describe names a CEL type for people.
func describe(t *cel.Type) string {
	switch t.Kind() {
	case types.StringKind:
		return "a string"
	case types.BoolKind:
		return "true or false"
	case types.IntKind, types.UintKind:
		return "a whole number"
	case types.DoubleKind:
		return "a number"
	case types.ListKind:
		return "a list"
	case types.MapKind:
		return "a map"
	case types.BytesKind:
		return "bytes"
	case types.NullTypeKind:
		return "nothing"
	case types.StructKind:
		return "a whole " + t.TypeName()
	default:
		return fmt.Sprintf("a %s", t.TypeName())
	}
}
