package scalinggroup

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
)

// TestQuery asks a server that answers as Prometheus does.
func TestQuery(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
		value  float64
		err    string // what it says; empty for none
	}{
		"scalar":      {200, `{"status":"success","data":{"resultType":"scalar","result":[1435781430.781,"1.5"]}}`, 1.5, ""},
		"one series":  {200, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1435781430.781,"42"]}]}}`, 42, ""},
		"none":        {200, `{"status":"success","data":{"resultType":"vector","result":[]}}`, 0, "0 series"},
		"two":         {200, `{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"1"]},{"value":[1,"2"]}]}}`, 0, "2 series"},
		"matrix":      {200, `{"status":"success","data":{"resultType":"matrix","result":[]}}`, 0, "a matrix"},
		"no number":   {200, `{"status":"success","data":{"resultType":"scalar","result":[1,"NaN"]}}`, 0, "NaN"},
		"endless":     {200, `{"status":"success","data":{"resultType":"scalar","result":[1,"+Inf"]}}`, 0, "+Inf"},
		"refused":     {400, `{"status":"error","errorType":"bad_data","error":"parse error at char 3"}`, 0, "parse error at char 3"},
		"no JSON":     {502, `<html>`, 0, "502"},
		"redirection": {302, `{}`, 0, "302"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/base/api/v1/query" || r.URL.Query().Get("query") != `sum(rate(x{a="b"}[1m]))` {
					t.Errorf("asked for %s", r.URL)
				}
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tc.status)
				if _, err := w.Write([]byte(tc.body)); err != nil {
					t.Error(err)
				}
			}))
			defer server.Close()
			got := newQuerier().ask(t.Context(), &computev1.ScalingMetric{Url: server.URL + "/base/", Query: `sum(rate(x{a="b"}[1m]))`})
			if tc.err == "" && (got.err != nil || got.value != tc.value) || tc.err != "" && (got.err == nil || !strings.Contains(got.err.Error(), tc.err)) {
				t.Errorf("%v, %v", got.value, got.err)
			}
		})
	}
	for _, address := range []string{"http://169.254.169.254/latest", "http://[fe80::1]/", "http://127.0.0.1:1/"} {
		if got := newQuerier().ask(t.Context(), &computev1.ScalingMetric{Url: address, Query: "x"}); got.err == nil {
			t.Errorf("%s answered", address)
		}
	}
}
