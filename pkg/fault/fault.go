// Package fault is the one list of error kinds that Weft acts on. Callers look at the kind, never at the text.
package fault

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// Kind says what an error means to whoever must act on it.
type Kind string

// The kinds. Retryable says which of them pass by themselves.
const (
	// Invalid: the request is wrong whatever the state of the world.
	Invalid Kind = "Invalid"
	// NotFound: the thing asked for does not exist. It is an answer, not a failed look-up.
	NotFound Kind = "NotFound"
	// Exists: the thing to be made exists and is not ours.
	Exists Kind = "Exists"
	// Conflict: someone else changed or holds the thing; looking again and trying again can help.
	Conflict Kind = "Conflict"
	// Precondition: the request is sound, but something else must happen first.
	Precondition Kind = "Precondition"
	// Denied: the caller, or our credentials at the cloud, may not do this.
	Denied Kind = "Denied"
	// Quota: a limit on what may exist is reached.
	Quota Kind = "Quota"
	// Throttled: a limit on the rate of requests is reached.
	Throttled Kind = "Throttled"
	// Unavailable: no usable answer came; whether the request had an effect is not known.
	Unavailable Kind = "Unavailable"
	// Unsupported: the place asked cannot do this at all.
	Unsupported Kind = "Unsupported"
	// Internal: a fault of Weft's own.
	Internal Kind = "Internal"
)

// Retryable tells whether a fault of this kind can pass without anyone acting.
func (k Kind) Retryable() bool {
	switch k {
	case Conflict, Throttled, Unavailable, Precondition:
		return true
	default:
		return false
	}
}

// Error is an error with a kind.
type Error struct {
	// Kind is what callers act on.
	Kind Kind
	// Op says what was attempted on what, e.g. "create subnet shop.net".
	Op string
	// Message says why it failed, and what can be done.
	Message string
	// Field is the place that is wrong, e.g. spec.cidr; empty if it is not a matter of one field.
	Field string
	// RequestID is the provider's id of the request; empty if there is none.
	RequestID string
	// RetryAfter is how long the provider asked to wait; 0 if it did not ask.
	RetryAfter time.Duration
	// Cause is the error beneath; nil if there is none.
	Cause error
}

// Error gives the whole message: what was attempted, why it failed, what lies beneath.
func (e *Error) Error() string {
	text := e.Message
	if text == "" && e.Cause != nil {
		text = e.Cause.Error()
	} else if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	if text == "" {
		text = string(e.Kind)
	}
	if e.Op == "" {
		return text
	}
	return e.Op + ": " + text
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// New makes an error of a kind.
func New(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// InField makes an Invalid error that names the field.
func InField(field, format string, args ...any) *Error {
	return &Error{Kind: Invalid, Field: field, Message: fmt.Sprintf(format, args...)}
}

// Wrap adds what was attempted to an error and keeps its kind; nil stays nil.
func Wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	wrapped := &Error{Kind: KindOf(err), Op: fmt.Sprintf(format, args...), Cause: err}
	if inner, ok := errors.AsType[*Error](err); ok {
		wrapped.Field, wrapped.RequestID, wrapped.RetryAfter = inner.Field, inner.RequestID, inner.RetryAfter
	}
	return wrapped
}

// As gives err the kind, unless it has one already; nil stays nil.
func As(kind Kind, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	return &Error{Kind: kind, Cause: err}
}

// KindOf gives the kind of an error: its own; Unavailable for a context that ended, since the outcome is then unknown;
// the one that a gRPC status maps to; else Internal. It gives "" for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return Unavailable
	}
	if s, ok := statusOf(err); ok {
		return kindOfStatus(s)
	}
	return Internal
}

// Is tells whether err is of the kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// Retryable tells whether err can pass without anyone acting.
func Retryable(err error) bool { return err != nil && KindOf(err).Retryable() }

// RetryAfter gives how long the provider asked to wait; 0 if it did not.
func RetryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.RetryAfter
	}
	return 0
}

// Field gives the field that err names; "" if it names none.
func Field(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Field
	}
	return ""
}

// Proto gives err as the message that is kept and shown; nil for nil.
func Proto(err error, now time.Time) *kindv1.Fault {
	if err == nil {
		return nil
	}
	f := &kindv1.Fault{Kind: string(KindOf(err)), Message: err.Error(), Retryable: Retryable(err), Time: timestamppb.New(now)}
	if e, ok := errors.AsType[*Error](err); ok {
		f.RequestId, f.Field = e.RequestID, e.Field
	}
	return f
}

// FromProto gives a kept fault as an error; nil for nil.
func FromProto(f *kindv1.Fault) error {
	if f == nil {
		return nil
	}
	return &Error{Kind: Kind(f.GetKind()), Message: f.GetMessage(), Field: f.GetField(), RequestID: f.GetRequestId()}
}
