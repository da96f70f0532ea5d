package resource

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// Object gives access to the six fields that the messages of all kinds share.
type Object struct{ m protoreflect.Message }

// Wrap wraps a kind's message.
func Wrap(m proto.Message) Object { return Object{m.ProtoReflect()} }

// Message gives the message back.
func (o Object) Message() proto.Message { return o.m.Interface() }

func (o Object) field(name protoreflect.Name) protoreflect.FieldDescriptor {
	return o.m.Descriptor().Fields().ByName(name)
}

// Name gives the resource's name.
func (o Object) Name() string { return o.m.Get(o.field("name")).String() }

// SetName sets the resource's name.
func (o Object) SetName(name string) { o.m.Set(o.field("name"), protoreflect.ValueOfString(name)) }

// Cloud gives the cloud; empty for a kind that is not placed on one.
func (o Object) Cloud() string {
	f := o.field("cloud")
	if f == nil {
		return ""
	}
	return o.m.Get(f).String()
}

// SetCloud sets the cloud; a kind without the field is left alone.
func (o Object) SetCloud(cloud string) {
	if f := o.field("cloud"); f != nil {
		o.m.Set(f, protoreflect.ValueOfString(cloud))
	}
}

// Metadata gives the metadata, to be read or changed; it is made if it is absent.
func (o Object) Metadata() *kindv1.Metadata {
	return o.m.Mutable(o.field("metadata")).Message().Interface().(*kindv1.Metadata)
}

// Status gives the status, to be read or changed; it is made if it is absent.
func (o Object) Status() *kindv1.Status {
	return o.m.Mutable(o.field("status")).Message().Interface().(*kindv1.Status)
}

// Spec gives the spec, to be read or changed; it is made if it is absent.
func (o Object) Spec() proto.Message {
	return o.m.Mutable(o.field("spec")).Message().Interface()
}

// HasSpec tells whether there is a spec.
func (o Object) HasSpec() bool { return o.m.Has(o.field("spec")) }

// SetSpec sets the spec.
func (o Object) SetSpec(spec proto.Message) {
	o.m.Set(o.field("spec"), protoreflect.ValueOfMessage(spec.ProtoReflect()))
}

// Observed gives the observed message; it is made if it is absent.
func (o Object) Observed() proto.Message {
	return o.m.Mutable(o.field("observed")).Message().Interface()
}

// SetObserved sets the observed message.
func (o Object) SetObserved(observed proto.Message) {
	o.m.Set(o.field("observed"), protoreflect.ValueOfMessage(observed.ProtoReflect()))
}
