package document

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/expr"
)

// rules holds the literal values of a spec against the rules of its contract (protovalidate). Where an expression stands,
// a placeholder takes its place, and what a rule says of it is left for the time when the value is known.
func (c *specChecker) rules(before int) {
	root := &node{}               // the place is found by the path
	if len(c.troubles) > before { // a value of the wrong type cannot be held against a rule
		return
	}
	open := map[string]bool{}
	for _, u := range c.spec.Uses {
		open[normal(u.Path)] = true
	}
	m, err := c.typed(open)
	if err != nil {
		c.fail("", root, "the spec cannot be read as a %s: %s", c.kind.Name, err)
		return
	}
	var violations *protovalidate.ValidationError
	err = protovalidate.Validate(m)
	if err == nil {
		return
	}
	if !errors.As(err, &violations) {
		c.fail("", root, "the spec cannot be held against its rules: %s", err)
		return
	}
	for _, v := range violations.Violations {
		path := protovalidate.FieldPathString(v.Proto.GetField())
		if postponed(v, path, m.ProtoReflect().Descriptor(), open) {
			continue
		}
		c.fail(c.documentPath(path), root, "%s", ruleMessage(v, path, c.kind.Name))
	}
}

// typed gives the spec as its message, with placeholders where expressions stand.
func (c *specChecker) typed(open map[string]bool) (proto.Message, error) {
	filled, err := MapTexts(c.spec.Value, c.kind.Spec, func(t Text) (*structpb.Value, error) {
		if open[normal(t.Path)] {
			return placeholder(t.Field, t.Path), nil
		}
		parsed, err := expr.Parse(t.Value)
		if err != nil {
			return nil, err
		}
		return structpb.NewStringValue(parsed.Literal()), nil
	})
	if err != nil {
		return nil, err
	}
	text, err := protojson.Marshal(filled)
	if err != nil {
		return nil, err
	}
	m := c.kind.NewSpec()
	return m, protojson.Unmarshal(text, m)
}

// placeholder gives a value of the field's type that is not its default; nil where none is of use.
func placeholder(fd protoreflect.FieldDescriptor, path string) *structpb.Value {
	if fd == nil || fd.IsMap() || (fd.IsList() && !strings.HasSuffix(path, "]")) {
		return nil
	}
	switch fd.Kind() {
	case protoreflect.StringKind:
		return structpb.NewStringValue("x")
	case protoreflect.BoolKind:
		return structpb.NewBoolValue(true)
	case protoreflect.EnumKind:
		if values := fd.Enum().Values(); values.Len() > 1 {
			return structpb.NewStringValue(string(values.Get(1).Name()))
		}
		return nil
	case protoreflect.MessageKind, protoreflect.GroupKind, protoreflect.BytesKind:
		return nil
	default:
		return structpb.NewNumberValue(1)
	}
}

// postponed tells whether a violation may be the fault of a placeholder.
func postponed(v *protovalidate.Violation, path string, d protoreflect.MessageDescriptor, open map[string]bool) bool {
	at := normal(path)
	if text, is := messageRule(v, path, d); is {
		for p := range open {
			if field, ok := fieldUnder(p, at); ok && mentions(text, field) {
				return true
			}
		}
		return false
	}
	for p := range open {
		if p == at || under(p, at) || under(at, p) {
			return true
		}
	}
	return false
}

// messageRule gives the expression of the rule over a whole message that a violation is of.
func messageRule(v *protovalidate.Violation, path string, d protoreflect.MessageDescriptor) (string, bool) {
	owner := messageAt(d, path)
	if owner == nil {
		return "", false
	}
	rules, ok := proto.GetExtension(owner.Options(), validate.E_Message).(*validate.MessageRules)
	if !ok || rules == nil {
		return "", false
	}
	for _, r := range rules.GetCel() {
		if r.GetId() == v.Proto.GetRuleId() {
			return r.GetExpression(), true
		}
	}
	return "", false
}

var index = regexp.MustCompile(`\[[^\]]*\]`)

// messageAt gives the message that a path leads to; nil if it leads to none.
func messageAt(d protoreflect.MessageDescriptor, path string) protoreflect.MessageDescriptor {
	if path == "" {
		return d
	}
	for _, name := range strings.Split(index.ReplaceAllString(path, ""), ".") {
		if d == nil {
			return nil
		}
		fd := FieldByText(d, name)
		if fd == nil {
			return nil
		}
		if fd.IsMap() {
			fd = fd.MapValue()
		}
		d = fd.Message()
	}
	return d
}

// fieldUnder gives the first name of path beneath the path of a message.
func fieldUnder(path, message string) (string, bool) {
	rest := path
	if message != "" {
		if !under(path, message) {
			return "", false
		}
		rest = strings.TrimPrefix(path[len(message):], ".")
	}
	name, _, _ := strings.Cut(rest, ".")
	name, _, _ = strings.Cut(name, "[")
	return name, name != ""
}

// mentions tells whether a rule's expression reads a field of this.
func mentions(rule, field string) bool {
	for _, m := range regexp.MustCompile(`this\.([A-Za-z0-9_]+)`).FindAllStringSubmatch(rule, -1) {
		if normal(m[1]) == field {
			return true
		}
	}
	return false
}

// under tells whether a path lies beneath another; both are normal.
func under(path, above string) bool {
	return above == "" || (len(path) > len(above) && strings.HasPrefix(path, above) && (path[len(above)] == '.' || path[len(above)] == '['))
}

// documentPath turns a path of protovalidate into one of documents.
func (c *specChecker) documentPath(path string) string {
	var out strings.Builder
	d := c.kind.Spec
	for i, name := range strings.Split(path, ".") {
		bare, rest := name, ""
		if at := strings.IndexByte(name, '['); at >= 0 {
			bare, rest = name[:at], name[at:]
		}
		if i > 0 {
			out.WriteByte('.')
		}
		fd := protoreflect.FieldDescriptor(nil)
		if d != nil {
			fd = FieldByText(d, bare)
		}
		if fd == nil { // a part of a quoted key that holds a dot
			out.WriteString(name)
			d = nil
			continue
		}
		out.WriteString(fd.JSONName() + rest)
		d = fd.Message()
	}
	return out.String()
}

// ruleMessage says what a rule wants.
func ruleMessage(v *protovalidate.Violation, path, kind string) string {
	message := v.Proto.GetMessage()
	if message == "" {
		message = "the rule " + v.Proto.GetRuleId() + " does not hold"
	}
	if path == "" {
		return fmt.Sprintf("%s: %s", kind, message)
	}
	value := ""
	if v.FieldValue.IsValid() && v.FieldDescriptor != nil && !v.FieldDescriptor.IsList() && !v.FieldDescriptor.IsMap() {
		switch v.FieldDescriptor.Kind() {
		case protoreflect.StringKind:
			if s := v.FieldValue.String(); len(s) <= 80 {
				value = fmt.Sprintf(" %q", s)
			}
		case protoreflect.Int32Kind, protoreflect.Int64Kind:
			value = fmt.Sprintf(" %d", v.FieldValue.Int())
		}
	}
	return fmt.Sprintf("%s%s: %s", fieldName(path), value, message)
}

// normal gives one spelling to the paths of documents, findings and rules: lower case without underscores, keys without
// quotes.
func normal(path string) string {
	path = strings.ReplaceAll(strings.ToLower(path), "_", "")
	path = strings.ReplaceAll(path, `["`, ".")
	return strings.TrimPrefix(strings.ReplaceAll(path, `"]`, ""), ".")
}
