// Package resource knows what every kind has in common. A kind describes itself in its contract (see
// weft/kind/v1/kind.proto); this package reads those descriptions, so that no service needs a list of the others' kinds.
package resource

import (
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// Kind is a kind as its contract describes it.
type Kind struct {
	// Type is the resource type, e.g. network.weft.cloud/Subnet.
	Type string
	// Name is the kind's name in documents, e.g. Subnet.
	Name string
	// Service is the service that owns it.
	Service string
	// Collection is its plural in names, e.g. subnets; Singular its singular, e.g. subnet.
	Collection, Singular string
	// Tenanted tells whether its names begin with a tenant.
	Tenanted bool
	// Options is how it describes itself.
	Options *kindv1.KindOptions
	// Message is the descriptor of the kind's message.
	Message protoreflect.MessageDescriptor
	// Spec and Observed are the descriptors of its spec and of its outputs.
	Spec, Observed protoreflect.MessageDescriptor
}

// FullName gives the full name of a resource of this kind.
func (k *Kind) FullName(tenant, id string) string {
	n := Name{Collection: k.Collection, ID: id}
	if k.Tenanted {
		n.Tenant = tenant
	}
	return n.String()
}

// New makes an empty message of the kind.
func (k *Kind) New() proto.Message { return newMessage(k.Message) }

// NewSpec makes an empty spec of the kind.
func (k *Kind) NewSpec() proto.Message { return newMessage(k.Spec) }

// NewObserved makes an empty observed message of the kind.
func (k *Kind) NewObserved() proto.Message { return newMessage(k.Observed) }

// Provides gives the child that stands for a composite resource where a field asks for typ; "" if none does.
func (k *Kind) Provides(typ string) string {
	for _, p := range k.Options.GetProvides() {
		if p.GetType() == typ {
			return p.GetChild()
		}
	}
	return ""
}

func newMessage(d protoreflect.MessageDescriptor) proto.Message {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic("resource: message type " + string(d.FullName()) + " is not linked in") // a kind's Go code and its descriptor come from one file
	}
	return t.New().Interface()
}

// Registry holds kinds by type, by name and by collection.
type Registry struct {
	kinds        []*Kind
	byType       map[string]*Kind
	byName       map[string]*Kind
	byCollection map[string]*Kind
}

// NewRegistry reads the kinds of the given messages.
func NewRegistry(messages ...proto.Message) (*Registry, error) {
	r := &Registry{byType: map[string]*Kind{}, byName: map[string]*Kind{}, byCollection: map[string]*Kind{}}
	for _, m := range messages {
		if err := r.add(m.ProtoReflect().Descriptor()); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Linked reads all kinds whose contracts are linked into the program.
func Linked() (*Registry, error) {
	r := &Registry{byType: map[string]*Kind{}, byName: map[string]*Kind{}, byCollection: map[string]*Kind{}}
	var failed error
	protoregistry.GlobalTypes.RangeMessages(func(t protoreflect.MessageType) bool {
		if isKind(t.Descriptor()) {
			failed = r.add(t.Descriptor())
		}
		return failed == nil
	})
	if failed != nil {
		return nil, failed
	}
	slices.SortFunc(r.kinds, func(a, b *Kind) int { return strings.Compare(a.Type, b.Type) })
	return r, nil
}

func isKind(d protoreflect.MessageDescriptor) bool {
	return proto.HasExtension(d.Options(), kindv1.E_Kind)
}

func (r *Registry) add(d protoreflect.MessageDescriptor) error {
	k, err := describe(d)
	if err != nil {
		return err
	}
	if r.byName[k.Name] != nil || r.byCollection[k.Collection] != nil {
		return fault.New(fault.Internal, "two kinds are called %s", k.Name)
	}
	r.kinds = append(r.kinds, k)
	r.byType[k.Type], r.byName[k.Name], r.byCollection[k.Collection] = k, k, k
	return nil
}

func describe(d protoreflect.MessageDescriptor) (*Kind, error) {
	options, isKind := proto.GetExtension(d.Options(), kindv1.E_Kind).(*kindv1.KindOptions)
	res, isResource := proto.GetExtension(d.Options(), annotations.E_Resource).(*annotations.ResourceDescriptor)
	if !isKind || options == nil || !isResource || res == nil {
		return nil, fault.New(fault.Internal, "%s does not describe itself as a kind", d.FullName())
	}
	spec, observed := d.Fields().ByName("spec"), d.Fields().ByName("observed")
	if spec == nil || observed == nil || d.Fields().ByName("metadata") == nil || d.Fields().ByName("status") == nil {
		return nil, fault.New(fault.Internal, "%s lacks one of the fields that every kind has", d.FullName())
	}
	return &Kind{
		Type: res.GetType(), Name: string(d.Name()), Service: options.GetService(), Collection: res.GetPlural(), Singular: res.GetSingular(),
		Tenanted: strings.HasPrefix(res.GetPattern()[0], "tenants/{tenant}/"), Options: options,
		Message: d, Spec: spec.Message(), Observed: observed.Message(),
	}, nil
}

// Kinds lists the kinds; a registry of all linked kinds is ordered by type.
func (r *Registry) Kinds() []*Kind { return r.kinds }

// ByType finds a kind by its resource type.
func (r *Registry) ByType(typ string) (*Kind, bool) { k, ok := r.byType[typ]; return k, ok }

// ByName finds a kind by its name in documents.
func (r *Registry) ByName(name string) (*Kind, bool) { k, ok := r.byName[name]; return k, ok }

// ByCollection finds a kind by its plural.
func (r *Registry) ByCollection(c string) (*Kind, bool) { k, ok := r.byCollection[c]; return k, ok }

// Of finds the kind of a full resource name. The error is Invalid.
func (r *Registry) Of(name string) (*Kind, Name, error) {
	n, err := ParseName(name)
	if err != nil {
		return nil, Name{}, err
	}
	k, ok := r.ByCollection(n.Collection)
	if !ok {
		return nil, Name{}, fault.InField("name", "%q: there is no kind whose collection is %q", name, n.Collection)
	}
	return k, n, nil
}

// Qualify gives the full name of what a field of a tenant's resource refers to: an id, a name without its tenant, or a
// full name. The error is Invalid.
func (k *Kind) Qualify(tenant, value string) (string, error) {
	if !strings.Contains(value, "/") {
		value = k.FullName(tenant, value)
	} else if k.Tenanted && strings.Count(value, "/") == 1 {
		value = "tenants/" + tenant + "/" + value
	}
	n, err := ParseName(value)
	if err != nil {
		return "", err
	}
	if n.Collection != k.Collection {
		return "", fault.New(fault.Invalid, "%s is no %s", value, k.Name)
	}
	// What is no tenant's, e.g. a cloud, may refer to any.
	if k.Tenanted && tenant != "" && n.Tenant != tenant {
		return "", fault.New(fault.Invalid, "%s belongs to another tenant", value)
	}
	return value, nil
}
