package etcdstore

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftcloud/weft/pkg/fault"
)

// kinds maps the errors that mean something to us (etcd, api/v3rpc/rpctypes) to fault kinds.
var kinds = map[error]fault.Kind{
	rpctypes.ErrEmptyKey:         fault.Invalid,
	rpctypes.ErrTooManyOps:       fault.Invalid,
	rpctypes.ErrDuplicateKey:     fault.Invalid,
	rpctypes.ErrRequestTooLarge:  fault.Invalid,
	rpctypes.ErrLeaseTTLTooLarge: fault.Invalid,
	rpctypes.ErrCompacted:        fault.Conflict,
	rpctypes.ErrNoSpace:          fault.Quota,
	rpctypes.ErrLeaseNotFound:    fault.NotFound,
	rpctypes.ErrTooManyRequests:  fault.Throttled,
	rpctypes.ErrPermissionDenied: fault.Denied,
	rpctypes.ErrAuthFailed:       fault.Denied,
	rpctypes.ErrInvalidAuthToken: fault.Unavailable, // the client asks for a new one by itself
	rpctypes.ErrCorrupt:          fault.Internal,
}

// codesToKinds maps what is left by gRPC code. What is not listed is Internal.
var codesToKinds = map[codes.Code]fault.Kind{
	codes.Unavailable:        fault.Unavailable,
	codes.DeadlineExceeded:   fault.Unavailable,
	codes.Canceled:           fault.Unavailable,
	codes.Aborted:            fault.Unavailable,
	codes.ResourceExhausted:  fault.Invalid, // the answer or the request is larger than gRPC allows
	codes.PermissionDenied:   fault.Denied,
	codes.Unauthenticated:    fault.Denied,
	codes.FailedPrecondition: fault.Unavailable, // a member that is not, or not yet, able to answer
}

// faultOf gives an error of etcd, or of the way to it, as a fault; nil for nil.
func faultOf(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctxErr := ctx.Err(); ctxErr != nil {
		return &fault.Error{Kind: fault.Unavailable, Cause: ctxErr}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, clientv3.ErrNoAvailableEndpoints) {
		return fault.As(fault.Unavailable, err)
	}
	code := status.Code(err)
	if known, ok := errors.AsType[rpctypes.EtcdError](rpctypes.Error(err)); ok {
		if kind, ok := kinds[known]; ok {
			return fault.As(kind, known)
		}
		code = known.Code()
	}
	if kind, ok := codesToKinds[code]; ok {
		return fault.As(kind, err)
	}
	return fault.As(fault.Internal, err)
}
