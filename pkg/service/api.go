package service

import (
	"context"
	"encoding/base64"
	"slices"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/weftcloud/weft/pkg/app"
	"github.com/weftcloud/weft/pkg/expr"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/installation"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// The standard methods (AIP-131 to AIP-135) are the same for every kind, so they are served from the contract's
// descriptors: no kind has code for its API.

// backend is what stands behind the standard methods of a kind.
type backend interface {
	get(ctx context.Context, name string) (proto.Message, error)
	// list gives resources after a name, and the name after which there are more; "" if there are none.
	list(ctx context.Context, tenant, after string, limit int) (resources []proto.Message, next string, err error)
	create(ctx context.Context, object resource.Object, validateOnly bool) (proto.Message, error)
	update(ctx context.Context, object resource.Object, mask *fieldmaskpb.FieldMask) (proto.Message, error)
	remove(ctx context.Context, name, etag string) (proto.Message, error)
}

// kindServer serves the standard methods of one kind.
type kindServer struct {
	kind         *resource.Kind
	backend      backend
	installation string
}

// method is one standard method: it takes the request and gives the answer.
type method func(s *kindServer, ctx context.Context, request protoreflect.Message) (proto.Message, error)

// registerKind registers the gRPC service of a kind.
func (s *Service) registerKind(server grpc.ServiceRegistrar, k *resource.Kind) error {
	sd, err := serviceOf(k)
	if err != nil {
		return err
	}
	ks := &kindServer{kind: k, backend: s.backendOf(k), installation: s.deps.Installation}
	desc := &grpc.ServiceDesc{ServiceName: string(sd.FullName()), HandlerType: (*any)(nil), Metadata: sd.ParentFile().Path()}
	standard := map[string]method{
		"Get" + k.Name: (*kindServer).get, "Create" + k.Name: (*kindServer).create, "Update" + k.Name: (*kindServer).update,
		"Delete" + k.Name: (*kindServer).remove, listMethod(sd): (*kindServer).list,
	}
	for i := range sd.Methods().Len() {
		md := sd.Methods().Get(i)
		do, ok := standard[string(md.Name())]
		if !ok {
			continue // a custom method: see catalogMethods
		}
		handler, err := handle(ks, sd, md, do)
		if err != nil {
			return err
		}
		desc.Methods = append(desc.Methods, handler)
	}
	desc.Methods = append(desc.Methods, s.catalogMethods(k)...)
	server.RegisterService(desc, ks)
	return nil
}

// catalogMethods gives the custom methods of a kind.
func (s *Service) catalogMethods(k *resource.Kind) []grpc.MethodDesc {
	kind := s.kinds[k.Type]
	if kind.Custom == nil {
		return kind.Methods
	}
	return append(slices.Clone(kind.Methods), kind.Custom(s)...)
}

func listMethod(sd protoreflect.ServiceDescriptor) string {
	for i := range sd.Methods().Len() {
		if name := string(sd.Methods().Get(i).Name()); strings.HasPrefix(name, "List") {
			return name
		}
	}
	return ""
}

// serviceOf finds the gRPC service of a kind: it stands in the same file and is called after it.
func serviceOf(k *resource.Kind) (protoreflect.ServiceDescriptor, error) {
	sd := k.Message.ParentFile().Services().ByName(protoreflect.Name(k.Name + "Service"))
	if sd == nil {
		return nil, fault.New(fault.Internal, "%s has no service %sService in its file", k.Message.FullName(), k.Name)
	}
	return sd, nil
}

func handle(ks *kindServer, sd protoreflect.ServiceDescriptor, md protoreflect.MethodDescriptor, do method) (grpc.MethodDesc, error) {
	input, err := protoregistry.GlobalTypes.FindMessageByName(md.Input().FullName())
	if err != nil {
		return grpc.MethodDesc{}, fault.As(fault.Internal, fault.Wrap(err, "find %s", md.Input().FullName()))
	}
	full := "/" + string(sd.FullName()) + "/" + string(md.Name())
	call := func(ctx context.Context, request any) (any, error) {
		answer, err := do(ks, ctx, request.(proto.Message).ProtoReflect())
		if err != nil {
			return nil, err
		}
		return answer, nil
	}
	return grpc.MethodDesc{MethodName: string(md.Name()), Handler: Handler(full, func() proto.Message { return input.New().Interface() }, call)}, nil
}

func text(m protoreflect.Message, field protoreflect.Name) string {
	f := m.Descriptor().Fields().ByName(field)
	if f == nil {
		return ""
	}
	return m.Get(f).String()
}

// resourceIn gives the resource in a request: the field whose type is the kind.
func (ks *kindServer) resourceIn(m protoreflect.Message) resource.Object {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); f.Message() != nil && f.Message().FullName() == ks.kind.Message.FullName() {
			return resource.Wrap(proto.Clone(m.Mutable(f).Message().Interface()))
		}
	}
	panic("service: " + string(m.Descriptor().FullName()) + " holds no " + ks.kind.Name) // decided by the contract, not by input
}

func (ks *kindServer) get(ctx context.Context, request protoreflect.Message) (proto.Message, error) {
	return ks.backend.get(ctx, text(request, "name"))
}

// Page sizes (AIP-158).
const (
	defaultPage = 100
	largestPage = 1000
)

func (ks *kindServer) list(ctx context.Context, request protoreflect.Message) (proto.Message, error) {
	tenant := ""
	if ks.kind.Tenanted {
		parsed, err := resource.ParseParent(text(request, "parent"))
		if err != nil {
			return nil, err
		}
		tenant = parsed
	}
	size := int(request.Get(request.Descriptor().Fields().ByName("page_size")).Int())
	if size == 0 {
		size = defaultPage
	}
	size = min(size, largestPage)
	page, next, err := ks.page(ctx, tenant, text(request, "filter"), text(request, "page_token"), size)
	if err != nil {
		return nil, err
	}
	return ks.listResponse(request, page, next)
}

// page collects one page: it reads on until the page is full of resources that match.
func (ks *kindServer) page(ctx context.Context, tenant, filter, token string, size int) ([]proto.Message, string, error) {
	match, err := expr.CompileFilter(ks.kind.Message, filter)
	if err != nil {
		return nil, "", err
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return nil, "", fault.InField("page_token", "%q is no token of this list", token)
	}
	after := string(raw)
	var out []proto.Message
	for {
		resources, next, err := ks.backend.list(ctx, tenant, after, size)
		if err != nil {
			return nil, "", err
		}
		for i, r := range resources {
			ok, err := match(r)
			if err != nil {
				return nil, "", err
			}
			if ok {
				out = append(out, r)
			}
			if len(out) == size {
				return out, nextToken(resource.Wrap(r).Name(), next != "" || i+1 < len(resources)), nil
			}
		}
		if next == "" {
			return out, "", nil
		}
		after = next
	}
}

func nextToken(after string, more bool) string {
	if !more {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString([]byte(after))
}

func (ks *kindServer) listResponse(request protoreflect.Message, page []proto.Message, next string) (proto.Message, error) {
	name := protoreflect.FullName(strings.TrimSuffix(string(request.Descriptor().FullName()), "Request") + "Response")
	t, err := protoregistry.GlobalTypes.FindMessageByName(name)
	if err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "find %s", name))
	}
	m := t.New()
	list := m.Mutable(m.Descriptor().Fields().ByNumber(1)).List()
	for _, r := range page {
		list.Append(protoreflect.ValueOfMessage(r.ProtoReflect()))
	}
	m.Set(m.Descriptor().Fields().ByName("next_page_token"), protoreflect.ValueOfString(next))
	return m.Interface(), nil
}

func (ks *kindServer) create(ctx context.Context, request protoreflect.Message) (proto.Message, error) {
	object := ks.resourceIn(request)
	name := ks.kind.FullName(resource.TenantOf(text(request, "parent")), idIn(request))
	if _, err := resource.ParseName(name); err != nil {
		return nil, err
	}
	object.SetName(name)
	labels := object.Metadata().GetLabels()
	clean := resource.Wrap(ks.kind.New())
	clean.SetName(name)
	clean.SetCloud(object.Cloud())
	clean.SetSpec(object.Spec())
	clean.Metadata().Labels, clean.Metadata().Key = labels, installation.NewKey(ks.installation)
	return ks.backend.create(ctx, clean, flag(request, "validate_only"))
}

func flag(m protoreflect.Message, field protoreflect.Name) bool {
	f := m.Descriptor().Fields().ByName(field)
	return f != nil && m.Get(f).Bool()
}

// idIn gives the id in a create request: the field that is called after the kind and ends in _id (AIP-133).
func idIn(request protoreflect.Message) string {
	fields := request.Descriptor().Fields()
	for i := range fields.Len() {
		if strings.HasSuffix(string(fields.Get(i).Name()), "_id") {
			return request.Get(fields.Get(i)).String()
		}
	}
	return ""
}

func (ks *kindServer) update(ctx context.Context, request protoreflect.Message) (proto.Message, error) {
	object := ks.resourceIn(request)
	if object.Name() == "" {
		return nil, fault.InField(ks.kind.Singular+".name", "the name of the %s to change is missing", ks.kind.Name)
	}
	mask, ok := request.Get(request.Descriptor().Fields().ByName("update_mask")).Message().Interface().(*fieldmaskpb.FieldMask)
	if !ok || len(mask.GetPaths()) == 0 {
		mask = &fieldmaskpb.FieldMask{Paths: []string{"spec", "metadata.labels"}}
	}
	return ks.backend.update(ctx, object, mask)
}

func (ks *kindServer) remove(ctx context.Context, request protoreflect.Message) (proto.Message, error) {
	return ks.backend.remove(ctx, text(request, "name"), text(request, "etag"))
}

// backendOf gives what stands behind a kind.
func (s *Service) backendOf(k *resource.Kind) backend {
	if k.Options.GetComposite() {
		return &compositeBackend{service: s, kind: k}
	}
	return &recordBackend{service: s, kind: k, local: s.kinds[k.Type].Local}
}

// merge takes the masked fields of next into a copy of former.
func merge(former, next resource.Object, mask *fieldmaskpb.FieldMask) (resource.Object, error) {
	out := resource.Wrap(proto.Clone(former.Message()))
	for _, path := range mask.GetPaths() {
		if path != "spec" && path != "metadata.labels" && !strings.HasPrefix(path, "spec.") {
			return resource.Object{}, fault.InField("update_mask", "%q cannot be changed; what can is spec, spec.* and metadata.labels", path)
		}
		if err := copyPath(out.Message().ProtoReflect(), next.Message().ProtoReflect(), strings.Split(path, ".")); err != nil {
			return resource.Object{}, err
		}
	}
	// The interceptor saw only the part that came.
	return out, app.ValidatePart(protovalidate.GlobalValidator, "spec", out.Spec())
}

func copyPath(to, from protoreflect.Message, path []string) error {
	f := to.Descriptor().Fields().ByName(protoreflect.Name(path[0]))
	if f == nil {
		f = to.Descriptor().Fields().ByJSONName(path[0])
	}
	if f == nil {
		return fault.InField("update_mask", "%s has no field %q", to.Descriptor().Name(), path[0])
	}
	if len(path) > 1 {
		if f.Message() == nil || f.IsList() || f.IsMap() {
			return fault.InField("update_mask", "%q has no fields of its own", path[0])
		}
		return copyPath(to.Mutable(f).Message(), from.Get(f).Message(), path[1:])
	}
	if !from.Has(f) {
		to.Clear(f)
		return nil
	}
	to.Set(f, from.Get(f))
	return nil
}

// immutable gives the first field of a spec that differs and cannot be changed in place.
func immutable(former, next proto.Message) string {
	a, b := former.ProtoReflect(), next.ProtoReflect()
	fields := a.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if resource.FieldOptionsOf(f).GetChange() == kindv1.Change_CHANGE_REPLACE && !a.Get(f).Equal(b.Get(f)) {
			return string(f.Name())
		}
	}
	return ""
}

// newest leaves one entry a name, the newest; entries are ordered by name and key.
func newest(entries []*record.Entry) []*record.Entry {
	out := entries[:0:0]
	for i, e := range entries {
		if i+1 < len(entries) && entries[i+1].Name == e.Name {
			continue
		}
		out = append(out, e)
	}
	return slices.Clip(out)
}
