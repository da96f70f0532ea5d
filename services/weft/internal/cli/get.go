package cli

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

func (a *tool) getCommand() *cobra.Command {
	var filter string
	cmd := &cobra.Command{
		Use: "get KIND [NAME]", Short: "List the resources of a kind, or show one",
		Example: "  weft get servers\n  weft get subnets --filter 'status.phase == \"READY\"'\n  weft get stack shop -o yaml",
		Args:    takes(1, 2, "a kind, and a name to see one"), ValidArgsFunction: a.completeKind,
		RunE: func(cmd *cobra.Command, args []string) error {
			x, err := apiNamed(args[0])
			if err != nil {
				return err
			}
			return a.with(func(c *client) error {
				if len(args) == 2 {
					m, err := x.get(cmd.Context(), c, args[1])
					if err != nil {
						return err
					}
					return a.printTable(m, a.resourceTable(x, []proto.Message{m}), "")
				}
				response, items, err := x.list(cmd.Context(), c, filter)
				if err != nil {
					return err
				}
				return a.printTable(response, a.resourceTable(x, items), "there are no "+x.plural)
			})
		},
	}
	cmd.Flags().StringVar(&filter, "filter", "", "a CEL `expression` over the resource")
	return cmd
}

// resourceTable shows resources of any kind: what all kinds share, and the first outputs of theirs that fit. What lies in
// no cloud, e.g. a cloud, is told apart by its spec.
func (a *tool) resourceTable(x *api, items []proto.Message) *table {
	fields := x.message.Fields()
	source := fields.ByName("observed")
	if fields.ByName("cloud") == nil && len(shownValues(source)) == 0 {
		source = fields.ByName("spec")
	}
	outputs := shownValues(source)
	t := &table{header: []string{"NAME", "PHASE", "CLOUD"}}
	for _, f := range outputs {
		t.header = append(t.header, upper(f.JSONName()))
	}
	t.header = append(t.header, "PROVIDER ID", "STACK", "AGE", "FAULT")
	for _, item := range items {
		m := item.ProtoReflect()
		row := []string{base(nameOf(item)), phaseOf(m), base(textOf(m, "cloud"))}
		for _, f := range outputs {
			row = append(row, valueText(f, m.Get(source).Message().Get(f)))
		}
		meta, status := metadataOf(m), statusOf(m)
		t.add(append(row, status.GetProviderId(), base(meta.GetStack()), age(a.p.Now(), meta.GetCreateTime()), status.GetFault().GetMessage())...)
	}
	return t
}

// shownValues picks up to three fields that say something to a person: single values that are neither a provider's ids
// nor the names of other resources.
func shownValues(part protoreflect.FieldDescriptor) []protoreflect.FieldDescriptor {
	if part == nil {
		return nil
	}
	var out []protoreflect.FieldDescriptor
	fields := part.Message().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.IsList() || f.IsMap() || f.Message() != nil || len(out) == 3 || strings.HasSuffix(string(f.Name()), "_id") || proto.HasExtension(f.Options(), annotations.E_ResourceReference) {
			continue
		}
		out = append(out, f)
	}
	return out
}

func valueText(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch f.Kind() {
	case protoreflect.StringKind:
		return v.String()
	case protoreflect.EnumKind:
		return enumText(anEnum{f.Enum(), v.Enum()})
	case protoreflect.BoolKind:
		return strconv.FormatBool(v.Bool())
	}
	if v.Int() == 0 {
		return ""
	}
	return strconv.FormatInt(v.Int(), 10)
}

// upper writes a JSON name as a header: readyReplicas is READY REPLICAS.
func upper(name string) string {
	var out []rune
	for _, r := range name {
		if r >= 'A' && r <= 'Z' {
			out = append(out, ' ', r)
			continue
		}
		if r >= 'a' && r <= 'z' {
			r -= 'a' - 'A'
		}
		out = append(out, r)
	}
	return string(out)
}

func textOf(m protoreflect.Message, field protoreflect.Name) string {
	f := m.Descriptor().Fields().ByName(field)
	if f == nil {
		return ""
	}
	return m.Get(f).String()
}

func metadataOf(m protoreflect.Message) *kindv1.Metadata {
	f := m.Descriptor().Fields().ByName("metadata")
	if f == nil {
		return nil
	}
	meta, ok := m.Get(f).Message().Interface().(*kindv1.Metadata)
	if !ok {
		return nil
	}
	return meta
}

func statusOf(m protoreflect.Message) *kindv1.Status {
	f := m.Descriptor().Fields().ByName("status")
	if f == nil {
		return nil
	}
	status, ok := m.Get(f).Message().Interface().(*kindv1.Status)
	if !ok {
		return nil
	}
	return status
}

// phaseOf says where a resource stands: its phase, or for what has none of the shared phases its state.
func phaseOf(m protoreflect.Message) string {
	if status := statusOf(m); status != nil {
		return enumText(status.GetPhase())
	}
	f := m.Descriptor().Fields().ByName("state")
	if f == nil || f.Enum() == nil || m.Get(f).Enum() == 0 {
		return ""
	}
	return enumText(anEnum{f.Enum(), m.Get(f).Enum()})
}

// anEnum is an enum's value that is known by reflection only.
type anEnum struct {
	d protoreflect.EnumDescriptor
	n protoreflect.EnumNumber
}

// Descriptor gives the enum.
func (e anEnum) Descriptor() protoreflect.EnumDescriptor { return e.d }

// Type is never asked for.
func (e anEnum) Type() protoreflect.EnumType { return nil }

// Number gives the value.
func (e anEnum) Number() protoreflect.EnumNumber { return e.n }
