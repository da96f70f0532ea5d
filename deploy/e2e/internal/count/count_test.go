package count

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCounter passes calls on to two services and counts them; links that a service makes of the host lead to the proxy.
func TestCounter(t *testing.T) {
	service := func(name string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/none" {
				w.WriteHeader(http.StatusNotFound)
			}
			if _, err := io.WriteString(w, name+" at http://"+r.Host); err != nil {
				t.Error(err)
			}
		}))
		t.Cleanup(s.Close)
		return s
	}
	one, two := service("one"), service("two")
	c := New()
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	call := func(upstream, path, want string) {
		t.Helper()
		front, err := c.Before(upstream)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.Get(front + path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		if closed := answer.Body.Close(); err != nil || closed != nil {
			t.Fatal(err, closed)
		}
		if got := string(text); got != want+" at "+front {
			t.Errorf("%s answered %q", path, got)
		}
	}
	call(one.URL, "/servers/0123abcd-0000-4000-8000-0123456789ab/action?all=1", "one")
	after := c.Last()
	call(two.URL, "/v3/0123456789abcdef0123456789abcdef/volumes", "two")
	call(one.URL, "/none", "one")
	all := c.Since(0)
	for n := range all {
		all[n].Agent = ""
	}
	want := []Call{
		{Service: one.URL, Method: "GET", Path: "/servers/ID/action", Query: "all=1", Status: 200},
		{Service: two.URL, Method: "GET", Path: "/v3/ID/volumes", Status: 200},
		{Service: one.URL, Method: "GET", Path: "/none", Status: 404},
	}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Error(diff)
	}
	if got := c.Since(after); len(got) != 2 || got[0].String() != "GET /v3/ID/volumes" {
		t.Errorf("after the first: %v", got)
	}
}
