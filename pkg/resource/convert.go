package resource

import (
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/fault"
)

// FromStruct gives a spec that is kept as JSON as the kind's message. The error is Invalid.
func FromStruct(kind *Kind, s *structpb.Struct) (proto.Message, error) {
	text, err := protojson.Marshal(s)
	if err != nil {
		return nil, fault.As(fault.Invalid, fault.Wrap(err, "encode the spec of a %s", kind.Name))
	}
	spec := kind.NewSpec()
	if err := protojson.Unmarshal(text, spec); err != nil {
		return nil, fault.As(fault.Invalid, fault.Wrap(err, "decode the spec of a %s", kind.Name))
	}
	return spec, nil
}

// ToStruct gives a message as JSON. The error is Internal.
func ToStruct(m proto.Message) (*structpb.Struct, error) {
	text, err := protojson.Marshal(m)
	if err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "encode %s", m.ProtoReflect().Descriptor().FullName()))
	}
	s := &structpb.Struct{}
	if err := protojson.Unmarshal(text, s); err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "decode %s", m.ProtoReflect().Descriptor().FullName()))
	}
	return s, nil
}
