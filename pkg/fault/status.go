package fault

import (
	"errors"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// domain is the domain of the ErrorInfo detail that carries a fault's kind over gRPC (google.rpc.ErrorInfo).
const domain = "weft.cloud"

// codeOf maps kinds to gRPC codes. Several kinds may share a code; the ErrorInfo detail keeps them apart.
var codeOf = map[Kind]codes.Code{
	Invalid:      codes.InvalidArgument,
	NotFound:     codes.NotFound,
	Exists:       codes.AlreadyExists,
	Conflict:     codes.Aborted,
	Precondition: codes.FailedPrecondition,
	Denied:       codes.PermissionDenied,
	Quota:        codes.ResourceExhausted,
	Throttled:    codes.ResourceExhausted,
	Unavailable:  codes.Unavailable,
	Unsupported:  codes.Unimplemented,
	Internal:     codes.Internal,
}

// kindOfCode maps the codes of a status that bears no ErrorInfo of ours.
var kindOfCode = map[codes.Code]Kind{
	codes.InvalidArgument:    Invalid,
	codes.OutOfRange:         Invalid,
	codes.NotFound:           NotFound,
	codes.AlreadyExists:      Exists,
	codes.Aborted:            Conflict,
	codes.FailedPrecondition: Precondition,
	codes.PermissionDenied:   Denied,
	codes.Unauthenticated:    Denied,
	codes.ResourceExhausted:  Throttled,
	codes.Unavailable:        Unavailable,
	codes.DeadlineExceeded:   Unavailable,
	codes.Canceled:           Unavailable,
	codes.Unimplemented:      Unsupported,
}

// Status gives err as a gRPC status error with google.rpc details; nil for nil. A status error with details of its own
// stays as it is.
func Status(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := statusOf(err); ok {
		if _, ours := errors.AsType[*Error](err); !ours {
			return s.Err()
		}
	}
	kind := KindOf(err)
	s := status.New(codeOf[kind], err.Error())
	withDetails, detailErr := s.WithDetails(details(kind, err)...)
	if detailErr != nil {
		return s.Err()
	}
	return withDetails.Err()
}

// details gives the google.rpc details of a fault.
func details(kind Kind, err error) []protoadapt.MessageV1 {
	out := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: string(kind), Domain: domain}}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return out
	}
	if kind == Invalid && e.Field != "" {
		out = append(out, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: e.Field, Description: err.Error()}}})
	}
	if kind == Quota {
		out = append(out, &errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{Subject: e.Field, Description: err.Error()}}})
	}
	if kind == Precondition {
		out = append(out, &errdetails.PreconditionFailure{Violations: []*errdetails.PreconditionFailure_Violation{{Type: "PRECONDITION", Subject: e.Field, Description: err.Error()}}})
	}
	if e.RetryAfter > 0 {
		out = append(out, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	if e.RequestID != "" {
		out = append(out, &errdetails.RequestInfo{RequestId: e.RequestID})
	}
	return out
}

// FromStatus gives a gRPC error as a fault; nil for nil.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ours := errors.AsType[*Error](err); ours {
		return err
	}
	s, ok := statusOf(err)
	if !ok {
		return As(Internal, err)
	}
	out := &Error{Kind: kindOfStatus(s), Message: s.Message()}
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.BadRequest:
			if v := d.GetFieldViolations(); len(v) > 0 {
				out.Field = v[0].GetField()
			}
		case *errdetails.RetryInfo:
			out.RetryAfter = d.GetRetryDelay().AsDuration()
		case *errdetails.RequestInfo:
			out.RequestID = d.GetRequestId()
		}
	}
	if out.RetryAfter < 0 {
		out.RetryAfter = time.Duration(0)
	}
	return out
}

// statusOf gives the gRPC status in err's chain.
func statusOf(err error) (*status.Status, bool) {
	type grpcStatus interface{ GRPCStatus() *status.Status }
	var s grpcStatus
	if !errors.As(err, &s) {
		return nil, false
	}
	return s.GRPCStatus(), true
}

// kindOfStatus gives the kind that a status carries: the one in its ErrorInfo, else the one of its code.
func kindOfStatus(s *status.Status) Kind {
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == domain {
			return Kind(info.GetReason())
		}
	}
	if kind, ok := kindOfCode[s.Code()]; ok {
		return kind
	}
	return Internal
}
