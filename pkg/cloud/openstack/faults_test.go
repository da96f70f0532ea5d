package openstack

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/weftcloud/weft/pkg/fault"
)

func TestFault(t *testing.T) {
	date := http.Header{"Date": {"Mon, 23 Nov 2026 06:00:00 GMT"}, "Retry-After": {"Mon, 23 Nov 2026 06:00:30 GMT"}}
	for name, tc := range map[string]struct {
		status int
		body   string
		header http.Header
		err    error
		kind   fault.Kind
		text   string
		after  time.Duration
	}{
		"nova bad request":       {status: 400, body: `{"badRequest": {"code": 400, "message": "Can not find requested image"}}`, kind: fault.Invalid, text: "Can not find requested image"},
		"cinder volume in use":   {status: 400, body: `{"badRequest": {"code": 400, "message": "Invalid volume: Volume status must be available or error and must not be migrating, attached."}}`, kind: fault.Conflict},
		"nova resize confirmed":  {status: 400, body: `{"badRequest": {"code": 400, "message": "Instance has not been resized."}}`, kind: fault.Conflict},
		"token refused":          {status: 401, body: `{"error": {"code": 401, "message": "The request you have made requires authentication.", "title": "Unauthorized"}}`, kind: fault.Denied, text: "requires authentication"},
		"nova quota":             {status: 403, body: `{"forbidden": {"code": 403, "message": "Quota exceeded for cores: Requested 4, but already used 20 of 20 cores"}}`, kind: fault.Quota, text: "20 of 20 cores"},
		"policy":                 {status: 403, body: `{"NeutronError": {"type": "PolicyNotAuthorized", "message": "rule:get_x is disallowed by policy", "detail": ""}}`, kind: fault.Denied, text: "PolicyNotAuthorized"},
		"neutron gone":           {status: 404, body: `{"NeutronError": {"type": "NetworkNotFound", "message": "Network x could not be found.", "detail": ""}}`, kind: fault.NotFound},
		"glance in HTML":         {status: 404, body: "<html><head></head><body><h1>404 Not Found</h1>No image found</body></html>", kind: fault.NotFound, text: "No image found"},
		"neutron quota":          {status: 409, body: `{"NeutronError": {"type": "OverQuota", "message": "Quota exceeded for resources: ['router'].", "detail": ""}}`, kind: fault.Quota},
		"neutron in use":         {status: 409, body: `{"NeutronError": {"type": "NetworkInUse", "message": "Unable to complete operation on network x.", "detail": ""}}`, kind: fault.Conflict},
		"cinder quota":           {status: 413, body: `{"overLimit": {"code": 413, "message": "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed gigabytes quota."}}`, kind: fault.Quota},
		"rate, by nova of old":   {status: 413, body: `{"overLimit": {"code": 413, "message": "This request was rate-limited."}}`, header: http.Header{"Retry-After": {"7"}}, kind: fault.Throttled, after: 7 * time.Second},
		"rate":                   {status: 429, body: `{"error": "slow down"}`, header: date, kind: fault.Throttled, text: "slow down", after: 30 * time.Second},
		"microversion":           {status: 406, body: `{"computeFault": {"message": "Version 2.99 is not supported by the API."}}`, kind: fault.Unsupported},
		"unknown client error":   {status: 418, body: ``, kind: fault.Invalid, text: "HTTP 418"},
		"broken service":         {status: 500, body: `{"computeFault": {"code": 500, "message": "Unexpected API Error."}}`, kind: fault.Unavailable},
		"proxy without service":  {status: 503, body: `<h1>Service Unavailable</h1>`, kind: fault.Unavailable},
		"no connection":          {err: &url.Error{Op: "Get", URL: "http://cloud", Err: errors.New("connection refused")}, kind: fault.Unavailable},
		"answer cut off":         {err: io.ErrUnexpectedEOF, kind: fault.Unavailable},
		"deadline":               {err: context.DeadlineExceeded, kind: fault.Unavailable},
		"no such service":        {err: &gophercloud.ErrEndpointNotFound{}, kind: fault.Unsupported},
		"new token refused":      {err: &gophercloud.ErrUnableToReauthenticate{ErrReauth: gophercloud.ErrUnexpectedResponseCode{Actual: 401}}, kind: fault.Denied},
		"credential is gone":     {err: &gophercloud.ErrUnableToReauthenticate{ErrReauth: gophercloud.ErrUnexpectedResponseCode{Actual: 404}}, kind: fault.Denied},
		"fails after new token":  {err: &gophercloud.ErrErrorAfterReauthentication{ErrOriginal: gophercloud.ErrUnexpectedResponseCode{Actual: 404}}, kind: fault.NotFound},
		"already a fault":        {err: fault.New(fault.Quota, "none left"), kind: fault.Quota, text: "none left"},
		"input that lacks a key": {err: gophercloud.ErrMissingInput{Argument: "name"}, kind: fault.Invalid, text: "name"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.err
			if err == nil {
				header := tc.header.Clone()
				if header == nil {
					header = http.Header{}
				}
				header.Set("X-Openstack-Request-Id", "req-7")
				err = gophercloud.ErrUnexpectedResponseCode{Actual: tc.status, Body: []byte(tc.body), ResponseHeader: header}
			}
			got := Fault(err, "create network %s", "shop.net")
			if fault.KindOf(got) != tc.kind {
				t.Errorf("kind = %s, want %s (%v)", fault.KindOf(got), tc.kind, got)
			}
			if !strings.HasPrefix(got.Error(), "create network shop.net: ") || !strings.Contains(got.Error(), tc.text) {
				t.Errorf("text = %q, want what was attempted and %q", got, tc.text)
			}
			if fault.RetryAfter(got) != tc.after {
				t.Errorf("retry after = %s, want %s", fault.RetryAfter(got), tc.after)
			}
			if e, ok := errors.AsType[*fault.Error](got); !ok || tc.err == nil && e.RequestID != "req-7" {
				t.Errorf("request id = %+v, want req-7", e)
			}
		})
	}
	if Fault(nil, "create") != nil {
		t.Error("nil must stay nil")
	}
}
