package document

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/expr"
)

// Text is one string in a spec.
type Text struct {
	// Path is where it stands, in the names that documents use, e.g. containers[0].env.DB_HOST.
	Path string
	// Field is the field that it stands in; nil where there is no contract.
	Field protoreflect.FieldDescriptor
	// Want is what the place takes.
	Want expr.Type
	// Value is the string as it stands, with its escapes.
	Value string
}

// MapTexts copies a spec and puts in place of each string, also those in lists and maps, what f gives for it; nil leaves
// the place empty. The first error of f ends it.
func MapTexts(spec *structpb.Struct, d protoreflect.MessageDescriptor, f func(Text) (*structpb.Value, error)) (*structpb.Struct, error) {
	return mapMessage(spec, d, "", f)
}

func mapMessage(s *structpb.Struct, d protoreflect.MessageDescriptor, path string, f func(Text) (*structpb.Value, error)) (*structpb.Struct, error) {
	out := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for _, name := range sortedKeys(s.GetFields()) {
		var fd protoreflect.FieldDescriptor
		at := Join(path, name)
		if d != nil {
			if fd = FieldByText(d, name); fd != nil {
				at = Join(path, fd.JSONName())
			}
		}
		v, err := mapField(s.GetFields()[name], fd, at, f)
		if err != nil {
			return nil, err
		}
		if v != nil {
			out.Fields[name] = v
		}
	}
	return out, nil
}

func mapField(v *structpb.Value, fd protoreflect.FieldDescriptor, path string, f func(Text) (*structpb.Value, error)) (*structpb.Value, error) {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		want := expr.AnyType
		if fd != nil {
			want = expr.FieldType(fd)
		}
		return f(Text{Path: path, Field: fd, Want: want, Value: k.StringValue})
	case *structpb.Value_ListValue:
		return mapList(k.ListValue, fd, path, f)
	case *structpb.Value_StructValue:
		if fd != nil && fd.IsMap() {
			return mapMap(k.StructValue, fd.MapValue(), path, f)
		}
		return mapElement(v, fd, path, f)
	default:
		return v, nil
	}
}

func mapList(l *structpb.ListValue, fd protoreflect.FieldDescriptor, path string, f func(Text) (*structpb.Value, error)) (*structpb.Value, error) {
	out := &structpb.ListValue{}
	for i, e := range l.GetValues() {
		v, err := mapElement(e, fd, path+"["+strconv.Itoa(i)+"]", f)
		if err != nil {
			return nil, err
		}
		if v == nil {
			v = structpb.NewNullValue()
		}
		out.Values = append(out.Values, v)
	}
	return structpb.NewListValue(out), nil
}

func mapMap(s *structpb.Struct, value protoreflect.FieldDescriptor, path string, f func(Text) (*structpb.Value, error)) (*structpb.Value, error) {
	out := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for _, key := range sortedKeys(s.GetFields()) {
		v, err := mapElement(s.GetFields()[key], value, Join(path, key), f)
		if err != nil {
			return nil, err
		}
		if v != nil {
			out.Fields[key] = v
		}
	}
	return structpb.NewStructValue(out), nil
}

// mapElement maps one value that is no list or map of its field.
func mapElement(v *structpb.Value, fd protoreflect.FieldDescriptor, path string, f func(Text) (*structpb.Value, error)) (*structpb.Value, error) {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		want := expr.AnyType
		if fd != nil {
			want = expr.ElementType(fd)
		}
		return f(Text{Path: path, Field: fd, Want: want, Value: k.StringValue})
	case *structpb.Value_ListValue:
		return mapList(k.ListValue, nil, path, f)
	case *structpb.Value_StructValue:
		var d protoreflect.MessageDescriptor
		if fd != nil {
			d = fd.Message()
		}
		s, err := mapMessage(k.StructValue, d, path, f)
		if err != nil {
			return nil, err
		}
		return structpb.NewStructValue(s), nil
	default:
		return v, nil
	}
}

// FieldByText finds a field by either of its names: externalNetwork or external_network; nil if there is none.
func FieldByText(d protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if f := d.Fields().ByJSONName(name); f != nil {
		return f
	}
	return d.Fields().ByName(protoreflect.Name(name))
}

// Join appends a field or key to a path; a key that is no plain word is quoted: labels["app/name"].
func Join(path, name string) string {
	if !plainWord(name) {
		return fmt.Sprintf("%s[%q]", path, name)
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

func plainWord(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
