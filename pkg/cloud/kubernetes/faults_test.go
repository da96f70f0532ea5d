package kubernetes

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weftcloud/weft/pkg/fault"
)

func TestFault(t *testing.T) {
	pods, deployment := schema.GroupResource{Resource: "pods"}, schema.GroupKind{Group: "apps", Kind: "Deployment"}
	status := func(code int32, reason metav1.StatusReason, causes ...metav1.CauseType) error {
		s := metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: "no"}
		for _, c := range causes {
			s.Details = &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: c}}}
		}
		return &apierrors.StatusError{ErrStatus: s}
	}
	dial := &url.Error{Op: "Get", URL: "https://x", Err: &net.OpError{Op: "dial", Err: errors.New("connection refused")}}
	tests := map[string]struct {
		err  error
		want fault.Kind
	}{
		"nothing":                {nil, ""},
		"a fault stays":          {fault.New(fault.Quota, "x"), fault.Quota},
		"not found":              {apierrors.NewNotFound(pods, "a"), fault.NotFound},
		"exists":                 {apierrors.NewAlreadyExists(pods, "a"), fault.Exists},
		"conflict":               {apierrors.NewConflict(pods, "a", errors.New("changed")), fault.Conflict},
		"apply conflict":         {apierrors.NewApplyConflict(nil, "x"), fault.Conflict},
		"invalid":                {apierrors.NewInvalid(deployment, "a", nil), fault.Invalid},
		"bad request":            {apierrors.NewBadRequest("x"), fault.Invalid},
		"too large":              {apierrors.NewRequestEntityTooLargeError("x"), fault.Invalid},
		"unauthorized":           {apierrors.NewUnauthorized("x"), fault.Denied},
		"forbidden by role":      {apierrors.NewForbidden(pods, "a", errors.New("no access")), fault.Denied},
		"forbidden by quota":     {apierrors.NewForbidden(pods, "a", errors.New("exceeded quota: q, requested: pods=1")), fault.Quota},
		"namespace terminating":  {status(403, metav1.StatusReasonForbidden, corev1.NamespaceTerminatingCause), fault.Conflict},
		"method":                 {apierrors.NewMethodNotSupported(pods, "watch"), fault.Unsupported},
		"throttled":              {apierrors.NewTooManyRequests("x", 3), fault.Throttled},
		"server timeout":         {apierrors.NewServerTimeout(pods, "get", 1), fault.Unavailable},
		"timeout":                {apierrors.NewTimeoutError("x", 1), fault.Unavailable},
		"internal":               {apierrors.NewInternalError(errors.New("x")), fault.Unavailable},
		"unavailable":            {apierrors.NewServiceUnavailable("x"), fault.Unavailable},
		"expired":                {apierrors.NewResourceExpired("x"), fault.Conflict},
		"proxy 502":              {status(http.StatusBadGateway, ""), fault.Unavailable},
		"proxy 401":              {status(http.StatusUnauthorized, ""), fault.Denied},
		"proxy 413":              {status(http.StatusRequestEntityTooLarge, ""), fault.Invalid},
		"teapot":                 {status(http.StatusTeapot, ""), fault.Internal},
		"refused":                {dial, fault.Unavailable},
		"dropped":                {&url.Error{Op: "Post", URL: "https://x", Err: io.ErrUnexpectedEOF}, fault.Unavailable},
		"deadline":               {context.DeadlineExceeded, fault.Unavailable},
		"unknown authority":      {&url.Error{Op: "Get", URL: "https://x", Err: x509.UnknownAuthorityError{}}, fault.Denied},
		"client cert is refused": {&url.Error{Op: "Get", URL: "https://x", Err: tls.AlertError(42)}, fault.Denied},
		"wrapped":                {fmt.Errorf("list: %w", apierrors.NewNotFound(pods, "a")), fault.NotFound},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := Fault(tt.err)
			if fault.KindOf(got) != tt.want {
				t.Errorf("Fault(%v) is %s, want %s", tt.err, fault.KindOf(got), tt.want)
			}
		})
	}
}

func TestFaultKeepsWhatTheServerAskedFor(t *testing.T) {
	if got := fault.RetryAfter(Fault(apierrors.NewTooManyRequests("slow down", 3))); got != 3*time.Second {
		t.Errorf("retry after %s, want 3s", got)
	}
}
