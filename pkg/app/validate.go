package app

import (
	"context"
	"errors"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/weftcloud/weft/pkg/fault"
)

// Validate checks a request against the rules in its contract. The error is an InvalidArgument status that names every
// field that is wrong (google.rpc.BadRequest), with the fields as JSON writes them, e.g. subnet.spec.dnsServers[0].
//
// Of a request with an update_mask only the fields that it changes are checked: the resource in it is a part of one,
// and whoever merges it checks the whole.
func Validate(v protovalidate.Validator, request proto.Message) error {
	return violations(v.Validate(request), request, "", updated(request))
}

// ValidatePart checks a message that is the field of a resource, e.g. spec, as Validate checks a request.
func ValidatePart(v protovalidate.Validator, field string, part proto.Message) error {
	return violations(v.Validate(part), part, field+".", func(string) bool { return true })
}

// violations gives the status of those violations that matter, with a prefix to their fields.
func violations(err error, m proto.Message, prefix string, matters func(path string) bool) error {
	if err == nil {
		return nil
	}
	var invalid *protovalidate.ValidationError
	if !errors.As(err, &invalid) {
		return fault.Wrap(fault.As(fault.Internal, err), "validate %s", m.ProtoReflect().Descriptor().FullName())
	}
	var out []*errdetails.BadRequest_FieldViolation
	for _, violation := range invalid.Violations {
		path := protovalidate.FieldPathString(violation.Proto.GetField())
		if !matters(path) {
			continue
		}
		field := strings.TrimSuffix(prefix+jsonPath(path), ".")
		out = append(out, &errdetails.BadRequest_FieldViolation{Field: field, Description: violation.Proto.GetMessage()})
	}
	return refuse(out)
}

// refuse gives the status that names all violations; nil if there is none.
func refuse(violations []*errdetails.BadRequest_FieldViolation) error {
	if len(violations) == 0 {
		return nil
	}
	texts := make([]string, 0, len(violations))
	for _, v := range violations {
		texts = append(texts, strings.TrimPrefix(v.GetField()+": "+v.GetDescription(), ": "))
	}
	s := status.Convert(fault.Status(fault.InField(violations[0].GetField(), "%s", strings.Join(texts, "; "))))
	plain := status.New(s.Code(), s.Message())
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.BadRequest:
			continue
		case *errdetails.ErrorInfo:
			full, err := plain.WithDetails(d, &errdetails.BadRequest{FieldViolations: violations})
			if err == nil {
				return full.Err()
			}
		}
	}
	return s.Err()
}

// updated tells which paths of a request its update_mask covers; all of them if it has no such field.
func updated(request proto.Message) func(path string) bool {
	m := request.ProtoReflect()
	mask := m.Descriptor().Fields().ByName("update_mask")
	if mask == nil || mask.Message() == nil || mask.Message().FullName() != (&fieldmaskpb.FieldMask{}).ProtoReflect().Descriptor().FullName() {
		return func(string) bool { return true }
	}
	resource := ""
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); f.Message() != nil && f != mask && resource == "" {
			resource = string(f.Name())
		}
	}
	paths := []string{"spec", "metadata.labels"}
	if given, ok := m.Get(mask).Message().Interface().(*fieldmaskpb.FieldMask); ok && len(given.GetPaths()) > 0 {
		paths = given.GetPaths()
	}
	return func(path string) bool {
		rest, inside := strings.CutPrefix(path, resource+".")
		if !inside {
			return true
		}
		for _, p := range paths {
			if p == "*" || rest == p || strings.HasPrefix(rest, p+".") || strings.HasPrefix(rest, p+"[") {
				return true
			}
		}
		return false
	}
}

// jsonPath writes a path of proto names with the names that JSON has; what stands in quotes is a map's key and stays.
func jsonPath(path string) string {
	var b strings.Builder
	quoted, up := false, false
	for _, r := range path {
		switch {
		case r == '"':
			quoted = !quoted
			b.WriteRune(r)
		case r == '_' && !quoted:
			up = true
		case up:
			b.WriteString(strings.ToUpper(string(r)))
			up = false
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func validateUnary(v protovalidate.Validator) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if m, ok := req.(proto.Message); ok {
			if err := Validate(v, m); err != nil {
				return nil, err
			}
		}
		return handler(ctx, req)
	}
}

func validateStream(v protovalidate.Validator) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		return handler(srv, &validated{ServerStream: stream, v: v})
	}
}

// validated is a stream whose incoming messages are checked.
type validated struct {
	grpc.ServerStream
	v protovalidate.Validator
}

// RecvMsg receives a message and checks it.
func (s *validated) RecvMsg(msg any) error {
	if err := s.ServerStream.RecvMsg(msg); err != nil {
		return err
	}
	if m, ok := msg.(proto.Message); ok {
		return Validate(s.v, m)
	}
	return nil
}
