package expr

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// ShortEnum gives the name of an enum's value without the enum's prefix: READY for PHASE_READY.
func ShortEnum(v protoreflect.EnumValueDescriptor) string {
	e, ok := v.Parent().(protoreflect.EnumDescriptor)
	if !ok {
		return string(v.Name())
	}
	return strings.TrimPrefix(string(v.Name()), enumPrefix(e))
}

// enumPrefix gives what the names of all values of an enum begin with: that of its zero value without UNSPECIFIED
// (buf lint ENUM_ZERO_VALUE_SUFFIX and ENUM_VALUE_PREFIX hold for all contracts).
func enumPrefix(e protoreflect.EnumDescriptor) string {
	zero := string(e.Values().Get(0).Name())
	prefix, ok := strings.CutSuffix(zero, "UNSPECIFIED")
	if !ok {
		return ""
	}
	return prefix
}

// EnumByText finds the value that a person means: by its full or short name, in any case, with hyphens or underscores.
func EnumByText(e protoreflect.EnumDescriptor, text string) (protoreflect.EnumValueDescriptor, bool) {
	name := strings.ToUpper(strings.ReplaceAll(text, "-", "_"))
	if v := e.Values().ByName(protoreflect.Name(name)); v != nil {
		return v, true
	}
	v := e.Values().ByName(protoreflect.Name(enumPrefix(e) + name))
	return v, v != nil
}

// EnumTexts lists the short names of an enum's values, without the one that means that none was given.
func EnumTexts(e protoreflect.EnumDescriptor) []string {
	var out []string
	for i := range e.Values().Len() {
		if v := e.Values().Get(i); v.Number() != 0 {
			out = append(out, ShortEnum(v))
		}
	}
	return out
}
