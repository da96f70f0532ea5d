package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"

	"github.com/weftcloud/weft/pkg/fault"
	// The contracts of all kinds are linked in, so that they can be found by reflection.
	_ "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
)

// api is the typed API of one type of resource, as its contract has it: the standard methods of AIP-131 to AIP-135.
type api struct {
	// name, plural and singular are what people may call it: Subnet, subnets, subnet.
	name, plural, singular string
	tenanted               bool
	message                protoreflect.MessageDescriptor
	methods                map[string]protoreflect.MethodDescriptor
}

// apis finds the APIs of all resources that the program knows, ordered by plural.
func apis() []*api {
	var out []*api
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(file.Package()), "weft.") {
			return true
		}
		for i := range file.Services().Len() {
			if found := apiOf(file.Services().Get(i)); found != nil {
				out = append(out, found)
			}
		}
		return true
	})
	slices.SortFunc(out, func(x, y *api) int { return strings.Compare(x.plural, y.plural) })
	return out
}

// apiOf reads the API of a service whose Get method yields a resource; nil if it has none.
func apiOf(service protoreflect.ServiceDescriptor) *api {
	found := &api{methods: map[string]protoreflect.MethodDescriptor{}}
	for i := range service.Methods().Len() {
		m := service.Methods().Get(i)
		res, ok := proto.GetExtension(m.Output().Options(), annotations.E_Resource).(*annotations.ResourceDescriptor)
		if ok && res != nil && string(m.Name()) == "Get"+string(m.Output().Name()) {
			found.name, found.plural, found.singular = string(m.Output().Name()), res.GetPlural(), res.GetSingular()
			found.message, found.tenanted = m.Output(), strings.HasPrefix(res.GetPattern()[0], "tenants/{tenant}/")
		}
		for _, verb := range []string{"Get", "List", "Create", "Update", "Delete"} {
			if strings.HasPrefix(string(m.Name()), verb) {
				found.methods[verb] = m
			}
		}
	}
	if found.message == nil {
		return nil
	}
	return found
}

// apiNamed finds an API by what a person calls it, whatever the case and with or without hyphens.
func apiNamed(word string) (*api, error) {
	plain := strings.ToLower(strings.ReplaceAll(word, "-", ""))
	var known []string
	for _, x := range apis() {
		for _, name := range []string{x.name, x.plural, x.singular} {
			if strings.ToLower(name) == plain {
				return x, nil
			}
		}
		known = append(known, x.plural)
	}
	guess := ""
	if near := nearest(plain, known); near != "" {
		guess = fmt.Sprintf("; did you mean %q?", near)
	}
	return nil, misused(nil, "there is no kind %q%s (the kinds are %s)", word, guess, strings.Join(known, ", "))
}

// nearest gives the candidate that a misspelt word most likely means; empty if none is near.
func nearest(word string, candidates []string) string {
	best, least := "", len(word)/3+2
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d < least {
			best, least = c, d
		}
	}
	return best
}

// distance counts the letters to insert, delete or replace that make one word of another.
func distance(from, to string) int {
	row := make([]int, len(to)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(from) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(to) {
			replaced := diagonal
			if from[i] != to[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(to)]
}

func newMessage(d protoreflect.MessageDescriptor) (proto.Message, error) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		return nil, fault.Wrap(fault.As(fault.Internal, err), "make a message %s", d.FullName())
	}
	return t.New().Interface(), nil
}

// call calls a standard method; fill fills the request.
func (x *api) call(ctx context.Context, c *client, verb string, fill func(request protoreflect.Message)) (proto.Message, error) {
	method, ok := x.methods[verb]
	if !ok {
		return nil, fault.New(fault.Unsupported, "a %s cannot be made or changed by itself; it comes of weft apply", x.singular)
	}
	request, err := newMessage(method.Input())
	if err != nil {
		return nil, err
	}
	response, err := newMessage(method.Output())
	if err != nil {
		return nil, err
	}
	fill(request.ProtoReflect())
	return response, c.conn.Invoke(ctx, "/"+string(method.Parent().FullName())+"/"+string(method.Name()), request, response)
}

// set sets a field of a request if it has it.
func set(m protoreflect.Message, field protoreflect.Name, value protoreflect.Value) {
	if f := m.Descriptor().Fields().ByName(field); f != nil {
		m.Set(f, value)
	}
}

// fullName gives the full name of a resource.
func (x *api) fullName(c *client, id string) (string, error) {
	switch {
	case strings.Contains(id, "/"):
		return id, nil
	case x.tenanted:
		return c.name(x.plural, id)
	default:
		return x.plural + "/" + id, nil
	}
}

func (x *api) get(ctx context.Context, c *client, id string) (proto.Message, error) {
	name, err := x.fullName(c, id)
	if err != nil {
		return nil, err
	}
	m, err := x.call(ctx, c, "Get", func(r protoreflect.Message) { set(r, "name", protoreflect.ValueOfString(name)) })
	return m, failed(err, "get %s", name)
}

// list reads all pages and gives them as one answer, with the items in it.
func (x *api) list(ctx context.Context, c *client, filter string) (proto.Message, []proto.Message, error) {
	parent := ""
	if x.tenanted {
		var err error
		if parent, err = c.parent(); err != nil {
			return nil, nil, err
		}
	}
	var whole proto.Message
	for token := ""; ; {
		page, err := x.call(ctx, c, "List", func(r protoreflect.Message) {
			set(r, "parent", protoreflect.ValueOfString(parent))
			set(r, "filter", protoreflect.ValueOfString(filter))
			set(r, "page_token", protoreflect.ValueOfString(token))
			set(r, "page_size", protoreflect.ValueOfInt32(1000))
		})
		if err != nil {
			return nil, nil, failed(err, "list the %s", x.plural)
		}
		next := page.ProtoReflect().Descriptor().Fields().ByName("next_page_token")
		token = page.ProtoReflect().Get(next).String()
		page.ProtoReflect().Clear(next)
		if whole == nil {
			whole = page
		} else {
			proto.Merge(whole, page)
		}
		if token == "" {
			return whole, x.items(whole), nil
		}
	}
}

func (x *api) items(response proto.Message) []proto.Message {
	m := response.ProtoReflect()
	fields := m.Descriptor().Fields()
	var out []proto.Message
	for i := range fields.Len() {
		f := fields.Get(i)
		if !f.IsList() || f.Message() != x.message {
			continue
		}
		l := m.Get(f).List()
		for j := range l.Len() {
			out = append(out, l.Get(j).Message().Interface())
		}
	}
	return out
}

// change calls a method that yields an operation.
func (x *api) change(ctx context.Context, c *client, verb string, fill func(protoreflect.Message)) (*longrunningpb.Operation, error) {
	m, err := x.call(ctx, c, verb, fill)
	if err != nil {
		return nil, err
	}
	op, ok := m.(*longrunningpb.Operation)
	if !ok {
		return nil, fault.New(fault.Internal, "%s of a %s yields no operation", verb, x.singular)
	}
	return op, nil
}

// completeKind completes the name of a kind, then names of its resources.
func (a *tool) completeKind(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		var out []cobra.Completion
		for _, x := range apis() {
			out = append(out, x.plural)
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeNames(args[0])(cmd, args[1:], "")
}

// completeNames completes the names of resources of a kind. Without an installation there is nothing to offer.
func (a *tool) completeNames(kind string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		x, err := apiNamed(kind)
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []cobra.Completion
		err = a.with(func(c *client) error {
			_, items, err := x.list(cmd.Context(), c, "")
			for _, item := range items {
				out = append(out, base(nameOf(item)))
			}
			return err
		})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// nameOf gives the name of a resource.
func nameOf(m proto.Message) string {
	return m.ProtoReflect().Get(m.ProtoReflect().Descriptor().Fields().ByName("name")).String()
}
