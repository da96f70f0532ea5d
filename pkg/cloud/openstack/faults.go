package openstack

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/weftcloud/weft/pkg/fault"
)

// rule says what an HTTP answer means. The first one that fits decides.
type rule struct {
	status int
	// contains holds texts of which one must stand in the answer, in lower case; none means any answer.
	contains []string
	kind     fault.Kind
}

// quotaTexts are how the services say that a quota is reached: nova and cinder in words, neutron by the error's type.
var quotaTexts = []string{"quota exceeded", "exceeds allowed", "overquota", "exceeded for resources", "maximum number of ports exceeded", "quota"}

// rules is THE table of what the services' answers mean.
var rules = []rule{
	{status: 400, contains: []string{"volume status must be", "must not be migrating, attached"}, kind: fault.Conflict}, // cinder says so of a volume in use
	{status: 400, contains: []string{"status must be 'available'", "is in an invalid state"}, kind: fault.Conflict},     // manila, of a share that is being changed
	{status: 400, contains: []string{"retype needs volume"}, kind: fault.Conflict},                                      // cinder, of a volume that is being changed
	{status: 400, contains: []string{"instance has not been resized"}, kind: fault.Conflict},                            // nova, of a resize that is being confirmed already
	{status: 400, kind: fault.Invalid},
	{status: 401, kind: fault.Denied},
	{status: 403, contains: quotaTexts, kind: fault.Quota},
	{status: 403, kind: fault.Denied},
	{status: 404, kind: fault.NotFound},
	{status: 405, kind: fault.Unsupported},
	{status: 406, kind: fault.Unsupported}, // a microversion that the service does not know
	{status: 408, kind: fault.Unavailable},
	{status: 409, contains: []string{"overquota", "quota exceeded"}, kind: fault.Quota},
	{status: 409, kind: fault.Conflict},
	{status: 410, kind: fault.NotFound},
	{status: 413, contains: quotaTexts, kind: fault.Quota},
	{status: 413, kind: fault.Throttled},
	{status: 422, kind: fault.Invalid},
	{status: 429, kind: fault.Throttled},
	{status: 501, kind: fault.Unsupported},
}

// Fault gives an error of the client library as a fault, with what was attempted, the cloud's own text and its request
// id; nil stays nil. What is no answer of the cloud at all is Unavailable: whether the request had an effect is not known.
func Fault(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fault.Wrap(translate(err), format, args...)
}

// login gives the fault of a login. The identity service says of an application credential that is gone that it cannot be
// found; taken as it stands, that would say of whatever was asked for that it does not exist.
func login(err error) error {
	if fault.Is(err, fault.NotFound) {
		return &fault.Error{Kind: fault.Denied, Cause: err}
	}
	return err
}

// failedLogin gives the fault of an error of a login; nil stays nil.
func failedLogin(err error) error {
	if err == nil {
		return nil
	}
	return login(translate(err))
}

// translate gives the fault without what was attempted.
func translate(err error) error {
	if _, done := errors.AsType[*fault.Error](err); done {
		return err
	}
	if e, ok := errors.AsType[*gophercloud.ErrUnableToReauthenticate](err); ok {
		return fault.Wrap(login(translate(e.ErrReauth)), "authenticate again")
	}
	if e, ok := errors.AsType[gophercloud.ErrUnexpectedResponseCode](err); ok {
		return answer(e)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return &fault.Error{Kind: fault.Denied, Message: "the cloud's certificate is not trusted; give its authority as ca_cert", Cause: err}
	}
	for kind, is := range map[fault.Kind]func(error) bool{fault.Unsupported: lacksService, fault.Invalid: isMissingInput} {
		if is(err) {
			return &fault.Error{Kind: kind, Cause: err}
		}
	}
	return &fault.Error{Kind: fault.Unavailable, Cause: err}
}

func lacksService(err error) bool {
	_, service := errors.AsType[*gophercloud.ErrServiceNotFound](err)
	_, endpoint := errors.AsType[*gophercloud.ErrEndpointNotFound](err)
	_, endpointValue := errors.AsType[gophercloud.ErrEndpointNotFound](err)
	return service || endpoint || endpointValue
}

func isMissingInput(err error) bool {
	_, missing := errors.AsType[gophercloud.ErrMissingInput](err)
	_, invalid := errors.AsType[gophercloud.ErrInvalidInput](err)
	return missing || invalid
}

// answer gives an HTTP answer as a fault.
func answer(e gophercloud.ErrUnexpectedResponseCode) error {
	text := providerText(e.Body)
	f := &fault.Error{
		Kind:       kindOf(e.Actual, text),
		Message:    fmt.Sprintf("%s (HTTP %d)", text, e.Actual),
		RequestID:  requestID(e.ResponseHeader),
		RetryAfter: retryAfter(e.ResponseHeader),
	}
	if text == "" {
		f.Message = fmt.Sprintf("HTTP %d %s", e.Actual, http.StatusText(e.Actual))
	}
	return f
}

func kindOf(status int, text string) fault.Kind {
	lower := strings.ToLower(text)
	for _, r := range rules {
		if r.status == status && (len(r.contains) == 0 || containsAny(lower, r.contains)) {
			return r.kind
		}
	}
	if status >= 400 && status < 500 {
		return fault.Invalid
	}
	return fault.Unavailable
}

func containsAny(text string, parts []string) bool {
	for _, p := range parts {
		if strings.Contains(text, p) {
			return true
		}
	}
	return false
}

// requestID reads the id under which the cloud's operators find the request.
func requestID(h http.Header) string {
	if id := h.Get("X-Openstack-Request-Id"); id != "" {
		return id
	}
	return h.Get("X-Compute-Request-Id")
}

// retryAfter reads Retry-After: seconds, or a date, counted from the answer's own date.
func retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil && seconds >= 0 {
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	sent, err := http.ParseTime(h.Get("Date"))
	if err != nil || at.Before(sent) {
		return 0
	}
	return at.Sub(sent)
}

var (
	markup = regexp.MustCompile(`(?s)<[^>]*>`)
	spaces = regexp.MustCompile(`\s+`)
)

// maxText is how much of an answer that is not JSON is kept, in bytes.
const maxText = 300

// providerText finds the message in an answer. The services wrap it in an object of one field whose name differs
// ({"badRequest": {"message": …}}, {"NeutronError": {"type": …, "message": …}}), or not at all; some answer HTML.
func providerText(body []byte) string {
	var outer map[string]json.RawMessage
	if json.Unmarshal(body, &outer) != nil {
		return shorten(markup.ReplaceAllString(string(body), " "))
	}
	if text := messageIn(outer); text != "" {
		return text
	}
	for _, raw := range outer {
		var inner map[string]json.RawMessage
		if json.Unmarshal(raw, &inner) == nil && messageIn(inner) != "" {
			return messageIn(inner)
		}
		var plain string
		if len(outer) == 1 && json.Unmarshal(raw, &plain) == nil && plain != "" {
			return plain
		}
	}
	return shorten(string(body))
}

// messageIn reads message, faultstring or title; the type stands before it where there is one, as with neutron.
func messageIn(m map[string]json.RawMessage) string {
	for _, key := range []string{"message", "faultstring", "title"} {
		var text, typ string
		if m[key] == nil || json.Unmarshal(m[key], &text) != nil || text == "" {
			continue
		}
		if m["type"] != nil && json.Unmarshal(m["type"], &typ) == nil && typ != "" {
			return typ + ": " + shorten(text)
		}
		return shorten(text)
	}
	return ""
}

func shorten(text string) string {
	text = strings.TrimSpace(spaces.ReplaceAllString(text, " "))
	if len(text) > maxText {
		return text[:maxText] + "…"
	}
	return text
}
