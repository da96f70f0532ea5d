package auth

import (
	"context"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// onBehalfOf is the metadata key by which a service says on whose rights it calls. From anyone else it is refused.
const onBehalfOf = "weft-on-behalf-of"

// OnBehalfOf gives a context for outgoing calls of a service that run on the rights of id instead of its own.
func OnBehalfOf(ctx context.Context, id Identity) context.Context {
	md, ok := metadata.FromOutgoingContext(ctx)
	if !ok {
		md = metadata.MD{}
	}
	md = md.Copy()
	md.Set(onBehalfOf, id.String())
	return metadata.NewOutgoingContext(ctx, md)
}

// Authenticate gives the identity on whose rights the caller of a method calls: its own, or for a service the one that
// it calls on behalf of. The error is an Unauthenticated status, or Denied.
func Authenticate(ctx context.Context) (Identity, error) {
	id, err := FromPeer(ctx)
	if err != nil {
		return Identity{}, status.Errorf(codes.Unauthenticated, "%s; show a certificate of this installation's CA", err)
	}
	claims := metadata.ValueFromIncomingContext(ctx, onBehalfOf)
	if len(claims) == 0 {
		return id, nil
	}
	if id.Class != Service {
		return Identity{}, fault.New(fault.Denied, "%s may not call on behalf of others; only services may", id)
	}
	if len(claims) > 1 {
		return Identity{}, fault.New(fault.Denied, "%s names %d identities to call on behalf of; give one", id, len(claims))
	}
	user, err := ParseIdentity(claims[0])
	if err != nil {
		return Identity{}, fault.New(fault.Denied, "%s calls on behalf of nobody that can exist: %s", id, err)
	}
	return user, nil
}

// open are the services that every authenticated caller may call and that name no tenant.
var open = []string{"grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection", "grpc.health.v1.Health"}

// readers are the beginnings of the names of methods that change nothing.
var readers = []string{"Get", "List", "Watch", "Wait", "Query", "Plan"}

// method is what the policy needs to know of a gRPC method.
type method struct {
	service, name string
	audience      kindv1.Audience
	input         protoreflect.MessageDescriptor
	open          bool
}

// describe finds a method, given as /package.Service/Method, in the contracts that are linked into the program. A
// method that is not there is Denied: nothing says who may call it.
func describe(fullMethod string) (method, error) {
	service, name, ok := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	if !ok {
		return method{}, fault.New(fault.Denied, "%q is no method", fullMethod)
	}
	for _, s := range open {
		if s == service {
			return method{service: service, name: name, open: true}, nil
		}
	}
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service + "." + name))
	md, isMethod := d.(protoreflect.MethodDescriptor)
	if err != nil || !isMethod {
		return method{}, status.Errorf(codes.Unimplemented, "there is no method %s", fullMethod)
	}
	m := method{service: service, name: name, input: md.Input()}
	if access, ok := proto.GetExtension(md.Options(), kindv1.E_Access).(*kindv1.Access); ok && access != nil {
		m.audience = access.GetAudience()
	}
	return m, nil
}

// admit tells whether an identity may call a method at all, before the request is read.
func (m method) admit(id Identity) error {
	switch {
	case m.open, id.Class == Service:
		return nil
	case m.audience == kindv1.Audience_AUDIENCE_SERVICE:
		return fault.New(fault.Denied, "%s/%s is for the platform's own services; you are %s", m.service, m.name, id)
	case id.Class == Operator:
		return nil
	case m.audience == kindv1.Audience_AUDIENCE_OPERATOR:
		return fault.New(fault.Denied, "%s/%s is for operators; you are %s", m.service, m.name, id)
	case id.Class == Viewer && !reads(m.name):
		return fault.New(fault.Denied, "%s may look and not change anything; ask for the role editor", id)
	}
	return nil
}

func reads(name string) bool {
	for _, prefix := range readers {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// admitRequest tells whether an identity may make this very request: every tenant that it names must be the
// identity's, and it must name one.
func (m method) admitRequest(id Identity, request proto.Message) error {
	if m.open || id.Platform() || m.audience == kindv1.Audience_AUDIENCE_ANY {
		return nil
	}
	named := namesIn(request.ProtoReflect())
	found := false
	for _, name := range named {
		tenant := resource.TenantOf(name)
		if tenant == "" {
			continue
		}
		if tenant != id.Tenant {
			return fault.New(fault.Denied, "%s belongs to tenant %s; %q is another's", id.Name, id.Tenant, name)
		}
		found = true
	}
	if !found {
		return fault.New(fault.Denied, "%s/%s names no tenant, so %s may not call it", m.service, m.name, id)
	}
	return nil
}

// namesIn lists the resource names by which a request says what it is about: its fields name, parent and tenant, the
// name of a resource within it, and whatever else in it refers to a resource.
func namesIn(m protoreflect.Message) []string {
	var out []string
	for _, field := range []protoreflect.Name{"name", "parent", "tenant"} {
		if f := m.Descriptor().Fields().ByName(field); f != nil && f.Kind() == protoreflect.StringKind && !f.IsList() {
			out = append(out, m.Get(f).String())
		}
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Message() == nil || f.IsList() || f.IsMap() {
			return true
		}
		if name := f.Message().Fields().ByName("name"); name != nil && name.Kind() == protoreflect.StringKind && !name.IsList() {
			out = append(out, v.Message().Get(name).String())
		}
		return true
	})
	for _, ref := range resource.References(m.Interface()) {
		out = append(out, ref.Value)
	}
	return out
}

// Authorize tells whether the identity may make the request of the method, given as /package.Service/Method.
func Authorize(id Identity, fullMethod string, request proto.Message) error {
	m, err := describe(fullMethod)
	if err != nil {
		return err
	}
	if err := m.admit(id); err != nil {
		return err
	}
	return m.admitRequest(id, request)
}
