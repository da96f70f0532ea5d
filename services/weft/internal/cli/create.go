package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"sigs.k8s.io/yaml"

	"github.com/weftcloud/weft/pkg/expr"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
)

func (a *tool) createCommand() *cobra.Command {
	var cloud, spec, file string
	var labels map[string]string
	var w waiting
	cmd := &cobra.Command{
		Use: "create KIND NAME [--spec JSON | -f FILE]", Short: "Make one resource by itself, without a stack",
		Example: "  weft create network web --cloud lab\n  weft create subnet web --cloud lab --spec '{network: web, cidr: 10.9.0.0/24}'",
		Args:    takes(2, 2, "a kind and a name"), ValidArgsFunction: a.completeKind,
		RunE: func(cmd *cobra.Command, args []string) error {
			x, err := apiNamed(args[0])
			if err != nil {
				return err
			}
			if spec != "" && file != "" {
				return misused(cmd, "give the spec with either --spec or -f")
			}
			text := []byte(spec)
			if file != "" {
				if text, err = a.readFile(file); err != nil {
					return err
				}
			}
			return a.with(func(c *client) error {
				m, err := x.build(c, cloud, labels, text)
				if err != nil {
					return err
				}
				op, err := x.create(cmd, c, args[1], m)
				if err != nil {
					return failed(err, "create %s %s", x.singular, args[1])
				}
				return a.finish(cmd.Context(), c, op, w, func(*longrunningpb.Operation) string {
					return fmt.Sprintf("%s %s %s\n", a.style(a.p.OutIsTerminal).green("ready:"), x.singular, args[1])
				})
			})
		},
	}
	w.flags(cmd)
	cmd.Flags().StringVar(&cloud, "cloud", "", "the cloud that it is placed on")
	cmd.Flags().StringVar(&spec, "spec", "", "the spec, as `JSON` or YAML")
	cmd.Flags().StringVarP(&file, "file", "f", "", "the spec's `FILE`; - for standard input")
	cmd.Flags().StringToStringVar(&labels, "label", nil, "a label, `NAME=VALUE`; may be given again")
	return cmd
}

// build makes a resource of its parts. References in the spec may be names within the tenant.
func (x *api) build(c *client, cloud string, labels map[string]string, spec []byte) (proto.Message, error) {
	m, err := newMessage(x.message)
	if err != nil {
		return nil, err
	}
	if x.message.Fields().ByName("spec") == nil {
		return nil, fault.New(fault.Unsupported, "a %s comes of weft apply", x.singular)
	}
	o := resource.Wrap(m)
	if cloud != "" {
		o.SetCloud("clouds/" + strings.TrimPrefix(cloud, "clouds/"))
	}
	if len(labels) > 0 {
		o.Metadata().Labels = labels
	}
	if err := decodeSpec(o.Spec(), spec); err != nil {
		return nil, err
	}
	return m, qualify(c, o.Spec())
}

// decodeSpec reads a spec, refusing fields that it does not have.
func decodeSpec(into proto.Message, text []byte) error {
	if len(strings.TrimSpace(string(text))) == 0 {
		return nil
	}
	raw, err := yaml.YAMLToJSONStrict(text)
	if err == nil {
		err = decodeWords(into, raw)
	}
	if err != nil {
		text := strings.ReplaceAll(strings.TrimPrefix(err.Error(), "proto: "), "\u00a0", " ")
		return &failure{what: "read the spec", err: fault.New(fault.Invalid, "%s", text), next: "the fields are " + strings.Join(fieldNames(into.ProtoReflect().Descriptor()), ", ")}
	}
	return nil
}

// decodeWords decodes JSON in which enums may stand as people write them in documents: DESTROY for RECLAIM_DESTROY.
func decodeWords(into proto.Message, raw []byte) error {
	var value any
	numbers := json.NewDecoder(bytes.NewReader(raw))
	numbers.UseNumber()
	if err := numbers.Decode(&value); err != nil {
		return err
	}
	fullNames(into.ProtoReflect().Descriptor(), value)
	full, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return protojson.Unmarshal(full, into)
}

// fullNames puts the full names of enum values in the place of words. What is no such word stays, for the decoder to refuse.
func fullNames(d protoreflect.MessageDescriptor, value any) {
	object, ok := value.(map[string]any)
	if !ok {
		return
	}
	for name, v := range object {
		f := d.Fields().ByJSONName(name)
		switch {
		case f == nil:
		case f.IsMap():
			if entries, ok := v.(map[string]any); ok {
				for key, entry := range entries {
					entries[key] = fullName(f.MapValue(), entry)
				}
			}
		case f.IsList():
			if items, ok := v.([]any); ok {
				for i := range items {
					items[i] = fullName(f, items[i])
				}
			}
		default:
			object[name] = fullName(f, v)
		}
	}
}

// fullName does so for one value of a field.
func fullName(f protoreflect.FieldDescriptor, v any) any {
	if f.Message() != nil {
		fullNames(f.Message(), v)
		return v
	}
	word, isText := v.(string)
	if f.Enum() == nil || !isText {
		return v
	}
	if e, ok := expr.EnumByText(f.Enum(), word); ok {
		return string(e.Name())
	}
	return v
}

func fieldNames(d protoreflect.MessageDescriptor) []string {
	var out []string
	for i := range d.Fields().Len() {
		out = append(out, d.Fields().Get(i).JSONName())
	}
	return out
}

// qualify makes full names of references that are names within the tenant.
func qualify(c *client, spec proto.Message) error {
	kinds, err := resource.Linked()
	if err != nil {
		return err
	}
	for _, ref := range resource.References(spec) {
		if strings.Contains(ref.Value, "/") {
			continue
		}
		may := kinds.Targets(ref.Types)
		if len(may) > 1 {
			return &failure{
				what: "read the spec", err: fault.New(fault.Invalid, "%s is %q, which may be one of several kinds", ref.Path, ref.Value),
				next: "write it as " + resource.Written(may),
			}
		}
		if len(may) == 0 {
			continue
		}
		kind := may[0]
		if kind.Tenanted && c.tenant == "" {
			_, err := c.parent()
			return err
		}
		ref.Set(kind.FullName(c.tenant, ref.Value))
	}
	return nil
}

// create calls the kind's Create method.
func (x *api) create(cmd *cobra.Command, c *client, id string, m proto.Message) (*longrunningpb.Operation, error) {
	parent := ""
	if x.tenanted {
		var err error
		if parent, err = c.parent(); err != nil {
			return nil, err
		}
	}
	return x.change(cmd.Context(), c, "Create", func(r protoreflect.Message) {
		set(r, "parent", protoreflect.ValueOfString(parent))
		fields := r.Descriptor().Fields()
		for i := range fields.Len() {
			switch f := fields.Get(i); {
			case f.Message() == x.message:
				r.Set(f, protoreflect.ValueOfMessage(m.ProtoReflect()))
			case f.Kind() == protoreflect.StringKind && strings.HasSuffix(string(f.Name()), "_id") && f.Name() != "request_id":
				r.Set(f, protoreflect.ValueOfString(id))
			}
		}
	})
}

// update calls the kind's Update method with the whole spec, or with the fields given.
func (x *api) update(cmd *cobra.Command, c *client, id string, m proto.Message, fields ...string) (*longrunningpb.Operation, error) {
	name, err := x.fullName(c, id)
	if err != nil {
		return nil, err
	}
	resource.Wrap(m).SetName(name)
	return x.change(cmd.Context(), c, "Update", func(r protoreflect.Message) {
		all := r.Descriptor().Fields()
		for i := range all.Len() {
			if f := all.Get(i); f.Message() == x.message {
				r.Set(f, protoreflect.ValueOfMessage(m.ProtoReflect()))
			}
		}
		if len(fields) > 0 {
			r.Set(all.ByName("update_mask"), protoreflect.ValueOfMessage((&fieldmaskpb.FieldMask{Paths: fields}).ProtoReflect()))
		}
	})
}

func (a *tool) deleteCommand() *cobra.Command {
	var etag string
	var w waiting
	cmd := &cobra.Command{
		Use: "delete KIND NAME", Short: "Delete one resource that was made by itself",
		Args: takes(2, 2, "a kind and a name"), ValidArgsFunction: a.completeKind,
		RunE: func(cmd *cobra.Command, args []string) error {
			x, err := apiNamed(args[0])
			if err != nil {
				return err
			}
			return a.with(func(c *client) error { return a.remove(cmd, c, x, args[1], etag, w) })
		},
	}
	w.flags(cmd)
	cmd.Flags().StringVar(&etag, "etag", "", "refuse unless the resource still has this etag")
	return cmd
}

func (a *tool) remove(cmd *cobra.Command, c *client, x *api, id, etag string, w waiting) error {
	name, err := x.fullName(c, id)
	if err != nil {
		return err
	}
	op, err := x.change(cmd.Context(), c, "Delete", func(r protoreflect.Message) {
		set(r, "name", protoreflect.ValueOfString(name))
		set(r, "etag", protoreflect.ValueOfString(etag))
	})
	if err != nil {
		return failed(err, "delete %s %s", x.singular, base(id))
	}
	return a.finish(cmd.Context(), c, op, w, func(*longrunningpb.Operation) string {
		return fmt.Sprintf("%s %s %s\n", a.style(a.p.OutIsTerminal).green("gone:"), x.singular, base(id))
	})
}
