package resource_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/weftcloud/weft/pkg/resource"
	_ "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
)

// internal are the files that are no API: what is kept, and what goes over the bus.
var internal = []string{"weft/bus/v1/", "weft/orchestrator/v1/saga.proto", "weft/participant/v1/record.proto", "weft/kind/v1/kind.proto"}

// unruled are the fields that say nothing of the values they take, each with the reason.
var unruled = map[protoreflect.FullName]string{
	"weft.bus.v1.Outcome.observed":                   "any kind's message, absent unless READY; a rule on an Any could only list types, and no contract lists the kinds",
	"weft.orchestrator.v1.StandingResource.observed": "the same, as it is kept",
}

// messages gives all messages of the contracts, those inside others too, but not the entries of maps.
func messages() []protoreflect.MessageDescriptor {
	var out []protoreflect.MessageDescriptor
	var add func(all protoreflect.MessageDescriptors)
	add = func(all protoreflect.MessageDescriptors) {
		for i := range all.Len() {
			if m := all.Get(i); !m.IsMapEntry() {
				out = append(out, m)
				add(m.Messages())
			}
		}
	}
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if strings.HasPrefix(file.Path(), "weft/") {
			add(file.Messages())
		}
		return true
	})
	return out
}

// TestEveryFieldSaysItsBehavior holds the contracts to AIP-203: every field of the API says whether it is required,
// optional, or only told.
func TestEveryFieldSaysItsBehavior(t *testing.T) {
	fields := 0
	for _, m := range messages() {
		if hasPrefix(m.ParentFile().Path(), internal) {
			continue
		}
		for i := range m.Fields().Len() {
			fields++
			if f := m.Fields().Get(i); len(behaviors(f)) == 0 {
				t.Errorf("%s does not say its behavior", f.FullName())
			}
		}
	}
	if fields < 300 {
		t.Errorf("only %d fields were looked at", fields)
	}
}

// TestEveryFieldHasRules holds the contracts to their rules: every field that someone can send, keep or put on the bus
// says what values it takes. What is only told (OUTPUT_ONLY) needs none, and bools take both of theirs.
func TestEveryFieldHasRules(t *testing.T) {
	fields, used := 0, map[protoreflect.FullName]bool{}
	for _, m := range messages() {
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			if slices.Contains(behaviors(f), annotations.FieldBehavior_OUTPUT_ONLY) {
				continue
			}
			fields++
			wrong := lacks(f)
			if unruled[f.FullName()] != "" {
				used[f.FullName()] = true
				if wrong == "" {
					t.Errorf("%s has rules; take it off the list of those without", f.FullName())
				}
				continue
			}
			if wrong != "" {
				t.Errorf("%s: %s", f.FullName(), wrong)
			}
		}
	}
	for name := range unruled {
		if !used[name] {
			t.Errorf("%s is said to have no rules, and does not exist", name)
		}
	}
	if fields < 350 {
		t.Errorf("only %d fields were looked at", fields)
	}
}

// TestRulesCompile has each message checked once, so that a rule that does not fit its field is found here, and that
// what is unset is refused by nothing but the rule that says it is needed.
func TestRulesCompile(t *testing.T) {
	for _, m := range messages() {
		err := protovalidate.Validate(dynamicpb.NewMessage(m))
		var invalid *protovalidate.ValidationError
		if err == nil {
			continue
		}
		if !errors.As(err, &invalid) {
			t.Errorf("%s: %s", m.FullName(), err)
			continue
		}
		for _, v := range invalid.Violations {
			if f := v.FieldDescriptor; f != nil && !needed(f) {
				t.Errorf("%s is refused when it is unset: %s", f.FullName(), v)
			}
		}
	}
}

// needed tells whether a field is to be set: it says so to people, or in a file that is no API, to the program.
func needed(f protoreflect.FieldDescriptor) bool {
	return slices.Contains(behaviors(f), annotations.FieldBehavior_REQUIRED) || hasPrefix(f.ParentFile().Path(), internal)
}

// lacks says what a field's rules leave open; "" if nothing.
func lacks(f protoreflect.FieldDescriptor) string {
	rules := rulesOf(f)
	required := slices.Contains(behaviors(f), annotations.FieldBehavior_REQUIRED)
	switch {
	case f.IsMap():
		return lacksInMap(f, rules.GetMap())
	case f.IsList():
		if rules.GetRepeated().GetMaxItems() == 0 {
			return "max_items is missing"
		}
		return within("items", lacksInValue(f, rules.GetRepeated().GetItems()))
	case f.Message() != nil && required && !rules.GetRequired():
		return "it is REQUIRED, and required is missing"
	case f.Enum() != nil && required && !slices.Contains(rules.GetEnum().GetNotIn(), 0):
		return "it is REQUIRED, and not_in: [0] is missing"
	}
	return lacksInValue(f, rules)
}

func lacksInMap(f protoreflect.FieldDescriptor, rules *validate.MapRules) string {
	if rules.GetMaxPairs() == 0 {
		return "max_pairs is missing"
	}
	if wrong := lacksInValue(f.MapKey(), rules.GetKeys()); wrong != "" {
		return within("keys", wrong)
	}
	return within("values", lacksInValue(f.MapValue(), rules.GetValues()))
}

func within(part, wrong string) string {
	if wrong == "" {
		return ""
	}
	return part + ": " + wrong
}

// lacksInValue says what the rules of one value leave open.
func lacksInValue(f protoreflect.FieldDescriptor, rules *validate.FieldRules) string {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return ""
	case protoreflect.EnumKind:
		if !rules.GetEnum().GetDefinedOnly() {
			return "defined_only is missing"
		}
	case protoreflect.StringKind:
		if !boundedText(rules.GetString()) {
			return "nothing says how long it may be: give max_len, or a format that does"
		}
	case protoreflect.BytesKind:
		if rules.GetBytes().GetMaxLen() == 0 {
			return "max_len is missing"
		}
	case protoreflect.MessageKind, protoreflect.GroupKind:
		if len(rules.GetCel()) == 0 && rules.GetType() == nil && !rules.GetRequired() && !ruled(f.Message(), nil) {
			return fmt.Sprintf("neither it nor %s has rules", f.Message().FullName())
		}
	default:
		return lacksInNumber(rules)
	}
	return ""
}

// lacksInNumber asks for a lower bound; where there is no upper one, the type's own holds.
func lacksInNumber(rules *validate.FieldRules) string {
	switch n := rules.GetType().(type) {
	case *validate.FieldRules_Int32:
		if n.Int32.GetGreaterThan() != nil {
			return ""
		}
	case *validate.FieldRules_Int64:
		if n.Int64.GetGreaterThan() != nil {
			return ""
		}
	}
	return "nothing says how small it may be: give gte"
}

func boundedText(s *validate.StringRules) bool {
	return s.GetMaxLen() > 0 || s.GetMaxBytes() > 0 || s.GetLen() > 0 || s.GetConst() != "" || len(s.GetIn()) > 0 || s.GetUuid() || s.GetIp() || s.GetIpPrefix()
}

// ruled tells whether a message of ours says what values it takes: a field of it does, or it has none.
func ruled(m protoreflect.MessageDescriptor, above []protoreflect.FullName) bool {
	if !strings.HasPrefix(string(m.FullName()), "weft.") || slices.Contains(above, m.FullName()) {
		return false
	}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if proto.HasExtension(f.Options(), validate.E_Field) || f.Message() != nil && ruled(f.Message(), append(above, m.FullName())) {
			return true
		}
	}
	return m.Fields().Len() == 0
}

func rulesOf(f protoreflect.FieldDescriptor) *validate.FieldRules {
	rules, ok := proto.GetExtension(f.Options(), validate.E_Field).(*validate.FieldRules)
	if !ok || rules == nil {
		return &validate.FieldRules{}
	}
	return rules
}

func behaviors(f protoreflect.FieldDescriptor) []annotations.FieldBehavior {
	found, ok := proto.GetExtension(f.Options(), annotations.E_FieldBehavior).([]annotations.FieldBehavior)
	if !ok {
		return nil
	}
	return found
}

func hasPrefix(path string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(path, p) })
}

// TestEveryKindDescribesItself reads all kinds from their contracts.
func TestEveryKindDescribesItself(t *testing.T) {
	kinds, err := resource.Linked()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds.Kinds() {
		if k.Service == "" || k.Collection == "" || k.Singular == "" || !strings.HasPrefix(k.Type, k.Service+".weft.cloud/") {
			t.Errorf("%s describes itself as %+v", k.Name, k)
		}
		if err := protovalidate.Validate(k.Options); err != nil {
			t.Errorf("%s describes itself against the rules: %s", k.Name, err)
		}
		for i := range k.Spec.Fields().Len() {
			f := k.Spec.Fields().Get(i)
			if options := resource.FieldOptionsOf(f); options != nil {
				if err := protovalidate.Validate(options); err != nil {
					t.Errorf("%s describes itself against the rules: %s", f.FullName(), err)
				}
			}
		}
	}
	if len(kinds.Kinds()) != 17 {
		t.Errorf("%d kinds, want 17", len(kinds.Kinds()))
	}
}
