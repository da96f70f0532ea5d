package natsbus

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftcloud/weft/pkg/fault"
)

// kinds maps the client's errors to fault kinds. What is not listed is Unavailable: the bus is a network away, and
// whatever went wrong there may pass.
var kinds = []struct {
	err  error
	kind fault.Kind
}{
	{nats.ErrMaxPayload, fault.Invalid},
	{nats.ErrBadSubject, fault.Invalid},
	{nats.ErrBadHeaderMsg, fault.Invalid},
	{nats.ErrHeadersNotSupported, fault.Unsupported},
	{nats.ErrPermissionViolation, fault.Denied},
	{nats.ErrAuthorization, fault.Denied},
	{jetstream.ErrTooManyStalledMsgs, fault.Throttled},
	{jetstream.ErrInvalidOption, fault.Internal},
	{jetstream.ErrInvalidConsumerName, fault.Internal},
	{jetstream.ErrInvalidStreamName, fault.Internal},
}

// codes maps the errors of JetStream's API, by their code (nats-server, server/errors.json), to fault kinds. What is not
// listed goes by the class of its HTTP-like status.
var codes = map[jetstream.ErrorCode]fault.Kind{
	10023: fault.Throttled,   // insufficient resources
	10047: fault.Quota,       // insufficient storage resources available
	10028: fault.Quota,       // resource limits exceeded for account
	10054: fault.Invalid,     // message size exceeds maximum allowed
	10058: fault.Conflict,    // stream name already in use with a different configuration
	10077: fault.Throttled,   // the stream could not store: it is full
	10148: fault.Conflict,    // consumer already exists
	10013: fault.Conflict,    // consumer name already in use
	10008: fault.Unavailable, // cluster not available
}

// faultOf gives an error of NATS as a fault; nil for nil.
func faultOf(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fault.As(fault.Unavailable, err)
	}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return fault.As(k.kind, err)
		}
	}
	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok {
		return fault.As(fault.Unavailable, err)
	}
	if kind, ok := codes[api.ErrorCode]; ok {
		return fault.As(kind, err)
	}
	switch {
	case api.Code == 404:
		return fault.As(fault.NotFound, err)
	case api.Code >= 400 && api.Code < 500:
		return fault.As(fault.Invalid, err)
	default:
		return fault.As(fault.Unavailable, err)
	}
}
