package kubernetes

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftcloud/weft/pkg/fault"
)

// kindOfReason maps the reasons of a Kubernetes status (k8s.io/apimachinery/pkg/apis/meta/v1, StatusReason).
//
// Forbidden stands for two things: the role does not allow it, and admission refused it; quota is told apart below.
var kindOfReason = map[metav1.StatusReason]fault.Kind{
	metav1.StatusReasonUnauthorized:          fault.Denied,
	metav1.StatusReasonForbidden:             fault.Denied,
	metav1.StatusReasonNotFound:              fault.NotFound,
	metav1.StatusReasonAlreadyExists:         fault.Exists,
	metav1.StatusReasonConflict:              fault.Conflict,
	metav1.StatusReasonGone:                  fault.Conflict,
	metav1.StatusReasonExpired:               fault.Conflict,
	metav1.StatusReasonInvalid:               fault.Invalid,
	metav1.StatusReasonBadRequest:            fault.Invalid,
	metav1.StatusReasonRequestEntityTooLarge: fault.Invalid,
	metav1.StatusReasonNotAcceptable:         fault.Unsupported,
	metav1.StatusReasonUnsupportedMediaType:  fault.Unsupported,
	metav1.StatusReasonMethodNotAllowed:      fault.Unsupported,
	metav1.StatusReasonTooManyRequests:       fault.Throttled,
	metav1.StatusReasonServerTimeout:         fault.Unavailable,
	metav1.StatusReasonTimeout:               fault.Unavailable,
	metav1.StatusReasonInternalError:         fault.Unavailable,
	metav1.StatusReasonServiceUnavailable:    fault.Unavailable,
	metav1.StatusReasonStoreReadError:        fault.Unavailable,
}

// kindOfCode maps the HTTP codes of a status whose reason is none of the above; proxies before API servers send those.
var kindOfCode = map[int]fault.Kind{
	http.StatusBadRequest:            fault.Invalid,
	http.StatusUnauthorized:          fault.Denied,
	http.StatusForbidden:             fault.Denied,
	http.StatusNotFound:              fault.NotFound,
	http.StatusMethodNotAllowed:      fault.Unsupported,
	http.StatusNotAcceptable:         fault.Unsupported,
	http.StatusConflict:              fault.Conflict,
	http.StatusGone:                  fault.Conflict,
	http.StatusRequestEntityTooLarge: fault.Invalid,
	http.StatusUnsupportedMediaType:  fault.Unsupported,
	http.StatusUnprocessableEntity:   fault.Invalid,
	http.StatusTooManyRequests:       fault.Throttled,
}

// Fault gives an error of client-go as a fault: nil stays nil, a fault stays as it is. Whatever is no answer of the API
// server is Unavailable: the request may have had its effect.
func Fault(err error) error {
	if err == nil {
		return nil
	}
	if _, already := errors.AsType[*fault.Error](err); already {
		return err
	}
	var status apierrors.APIStatus // no error by type, so AsType cannot find it
	if !errors.As(err, &status) {
		return &fault.Error{Kind: networkKind(err), Cause: err}
	}
	f := &fault.Error{Kind: statusKind(status.Status()), Cause: err}
	if seconds, asked := apierrors.SuggestsClientDelay(err); asked {
		f.RetryAfter = time.Duration(seconds) * time.Second
	}
	return f
}

func statusKind(s metav1.Status) fault.Kind {
	if isQuota(s) {
		return fault.Quota
	}
	if hasCause(s, corev1.NamespaceTerminatingCause) {
		return fault.Conflict // it passes when the namespace is gone
	}
	if kind, ok := kindOfReason[s.Reason]; ok {
		return kind
	}
	if kind, ok := kindOfCode[int(s.Code)]; ok {
		return kind
	}
	if s.Code >= http.StatusInternalServerError {
		return fault.Unavailable
	}
	return fault.Internal
}

// isQuota tells a refusal by a ResourceQuota from one by a role. The API server says both as Forbidden without a cause;
// only the text that its quota admission puts before the figures differs.
func isQuota(s metav1.Status) bool {
	return s.Reason == metav1.StatusReasonForbidden && strings.Contains(s.Message, "exceeded quota: ")
}

func hasCause(s metav1.Status, typ metav1.CauseType) bool {
	if s.Details == nil {
		return false
	}
	return slices.ContainsFunc(s.Details.Causes, func(c metav1.StatusCause) bool { return c.Type == typ })
}

// networkKind maps errors below HTTP. Only what cannot pass by itself is named: a certificate that does not match.
func networkKind(err error) fault.Kind {
	_, authority := errors.AsType[x509.UnknownAuthorityError](err)
	_, host := errors.AsType[x509.HostnameError](err)
	_, invalid := errors.AsType[x509.CertificateInvalidError](err)
	_, verification := errors.AsType[*tls.CertificateVerificationError](err)
	if _, alert := errors.AsType[tls.AlertError](err); alert || authority || host || invalid || verification {
		return fault.Denied
	}
	return fault.Unavailable
}
