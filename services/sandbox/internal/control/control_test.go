package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type bench struct {
	*Control
	t        *testing.T
	server   *httptest.Server
	executed atomic.Int32
}

func newBench(t *testing.T) *bench {
	b := &bench{Control: New(time.Now), t: t}
	mux := http.NewServeMux()
	mux.Handle("/_sandbox/", b.Handler())
	mux.Handle("/compute/", b.Middleware("compute", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if err := Enter(r.Context(), "compute.server.create"); err != nil {
			return
		}
		Identify(r.Context(), "demo", "ann")
		b.executed.Add(1)
		w.WriteHeader(http.StatusAccepted)
		if _, err := w.Write(body); err != nil {
			return
		}
	})))
	b.server = httptest.NewServer(mux)
	t.Cleanup(b.server.Close)
	return b
}

func (b *bench) admin(method, path, body string, want int) map[string]any {
	b.t.Helper()
	resp := b.call(method, path, body)
	defer resp.Body.Close()
	out := map[string]any{}
	if resp.StatusCode != want {
		b.t.Fatalf("%s %s: status %d, want %d", method, path, resp.StatusCode, want)
	}
	if resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		b.t.Fatal(err)
	}
	return out
}

func (b *bench) try(method, path, body string) (*http.Response, error) {
	req, err := http.NewRequest(method, b.server.URL+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	return http.DefaultClient.Do(req)
}

func (b *bench) call(method, path, body string) *http.Response {
	b.t.Helper()
	resp, err := b.try(method, path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp
}

func (b *bench) status(method, path, body string) int {
	b.t.Helper()
	resp := b.call(method, path, body)
	if err := resp.Body.Close(); err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode
}

func TestFaultMatchesSkipsAndEnds(t *testing.T) {
	b := newBench(t)
	b.admin("POST", "/_sandbox/faults", `{"service":"compute","method":"post","path":"/servers","body":"needle","skip":1,"times":2,"effect":"status","status":503}`, 201)
	hit := func() int { return b.status("POST", "/compute/v2.1/servers", `a needle in hay`) }
	for i, one := range []struct {
		status int
		do     func() int
	}{
		{202, func() int { return b.status("GET", "/compute/v2.1/servers", "needle") }},
		{202, func() int { return b.status("POST", "/compute/v2.1/servers/1/action", "needle") }},
		{202, func() int { return b.status("POST", "/compute/v2.1/servers", "hay") }},
		{202, hit},
		{503, hit},
		{503, hit},
		{202, hit},
	} {
		if got := one.do(); got != one.status {
			t.Errorf("call %d: status %d, want %d", i, got, one.status)
		}
	}
	faults := b.admin("GET", "/_sandbox/faults", "", 200)["faults"].([]any)
	if f := faults[0].(map[string]any); f["struck"] != 2.0 || f["matched"] != 3.0 {
		t.Errorf("fault: %v", f)
	}
	b.admin("DELETE", "/_sandbox/faults?id=nope", "", 404)
	b.admin("DELETE", "/_sandbox/faults", "", 204)
	if left := b.admin("GET", "/_sandbox/faults", "", 200)["faults"].([]any); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestFaultPaths(t *testing.T) {
	for name, one := range map[string]struct {
		path, url string
		want      bool
	}{
		"tail":             {"/servers", "/compute/v2.1/servers", true},
		"not inside":       {"/servers", "/compute/v2.1/servers/1", false},
		"segment boundary": {"volumes", "/compute/v2.1/os-volumes", false},
		"star":             {"/servers/*", "/compute/v2.1/servers/1", true},
		"one segment":      {"/servers/*", "/compute/v2.1/servers/1/tags", false},
		"two stars":        {"/servers/**", "/compute/v2.1/servers/1/tags/x", true},
		"regexp":           {"^/compute/.*/servers/[0-9]+$", "/compute/v2.1/servers/12", true},
		"regexp differs":   {"^/servers", "/compute/v2.1/servers", false},
		"dot is a dot":     {"/v2.1/x", "/v2a1/x", false},
	} {
		f := &Fault{Path: one.path, Effect: EffectConflict}
		if err := f.prepare(); err != nil {
			t.Fatal(err)
		}
		got := f.matches("compute", httptest.NewRequest("GET", one.url, nil), nil)
		if got != one.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestLimitRefills: as many calls as the rate pass at once after a rest, and then the rate.
func TestLimitRefills(t *testing.T) {
	f := &Fault{Effect: EffectLimit, Rate: 5}
	if err := f.prepare(); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	passed := func(calls int) (n int) {
		for range calls {
			if f.passes(now) {
				n++
			}
		}
		return n
	}
	for _, one := range []struct {
		later time.Duration
		want  int
	}{{0, 5}, {0, 0}, {200 * time.Millisecond, 1}, {500 * time.Millisecond, 2}, {time.Hour, 5}} {
		now = now.Add(one.later)
		if got := passed(20); got != one.want {
			t.Errorf("%s later %d calls pass, want %d", one.later, got, one.want)
		}
	}
	if err := (&Fault{Effect: EffectLimit}).prepare(); err == nil {
		t.Error("a limit without a rate is taken")
	}
}

func TestFaultEffects(t *testing.T) {
	t.Run("limit", func(t *testing.T) {
		b := newBench(t)
		b.admin("POST", "/_sandbox/faults", `{"effect":"limit","rate":1}`, 201)
		if got := b.status("GET", "/compute/servers", ""); got != 202 {
			t.Errorf("the first call: status %d", got)
		}
		resp := b.call("GET", "/compute/servers", "")
		if err := resp.Body.Close(); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "1" {
			t.Errorf("one too many: status %d, retry after %q", resp.StatusCode, resp.Header.Get("Retry-After"))
		}
	})
	t.Run("throttle", func(t *testing.T) {
		b := newBench(t)
		b.admin("POST", "/_sandbox/faults", `{"effect":"throttle","retryAfter":"1500ms","times":1}`, 201)
		resp := b.call("POST", "/compute/servers", "")
		defer resp.Body.Close()
		if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "2" || b.executed.Load() != 0 {
			t.Errorf("status %d, retry after %q, executed %d", resp.StatusCode, resp.Header.Get("Retry-After"), b.executed.Load())
		}
	})
	t.Run("conflict", func(t *testing.T) {
		b := newBench(t)
		b.admin("POST", "/_sandbox/faults", `{"effect":"conflict","message":"someone was first"}`, 201)
		resp := b.call("POST", "/compute/servers", "")
		body, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 409 || !strings.Contains(string(body), "someone was first") || b.executed.Load() != 0 {
			t.Errorf("status %d, body %s", resp.StatusCode, body)
		}
	})
	t.Run("drop_response executes", func(t *testing.T) {
		b := newBench(t)
		b.admin("POST", "/_sandbox/faults", `{"effect":"drop_response","times":1}`, 201)
		if _, err := b.try("POST", "/compute/servers", "x"); err == nil {
			t.Error("there was an answer")
		}
		if b.executed.Load() != 1 {
			t.Errorf("executed %d times", b.executed.Load())
		}
		calls := b.Calls(0)
		if len(calls) != 1 || calls[0].Status != 0 || calls[0].Fault == "" {
			t.Errorf("calls: %+v", calls)
		}
	})
	t.Run("hang does not execute", func(t *testing.T) {
		b := newBench(t)
		b.admin("POST", "/_sandbox/faults", `{"effect":"hang","times":1}`, 201)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "POST", b.server.URL+"/compute/servers", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := http.DefaultClient.Do(req); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if b.executed.Load() != 0 {
			t.Error("executed")
		}
	})
	t.Run("delay executes later", func(t *testing.T) {
		b := newBench(t)
		b.admin("POST", "/_sandbox/faults", `{"effect":"delay","delay":"60ms"}`, 201)
		begin := time.Now()
		if got := b.status("POST", "/compute/servers", ""); got != 202 || time.Since(begin) < 60*time.Millisecond {
			t.Errorf("status %d after %v", got, time.Since(begin))
		}
	})
}

func TestBadFaultsAreRefused(t *testing.T) {
	b := newBench(t)
	for _, body := range []string{
		`{"effect":"explode"}`, `{"effect":"delay"}`, `{"effect":"status","status":99}`, `{"effect":"hang","times":-1}`, `{"effect":"hang","path":"^("}`,
		`{"effect":"hang","nonsense":1}`, `{"effect":"delay","delay":"soon"}`, `nothing`,
	} {
		b.admin("POST", "/_sandbox/faults", body, 400)
	}
	b.admin("POST", "/_sandbox/faults", `{"id":"a","effect":"hang","service":"none"}`, 201)
	b.admin("POST", "/_sandbox/faults", `{"id":"a","effect":"hang","service":"none"}`, 400)
}

func TestCallsAreRecordedInOrder(t *testing.T) {
	b := newBench(t)
	b.status("POST", "/compute/v2.1/servers?x=1", "body")
	b.status("GET", "/compute/v2.1/servers", "")
	b.status("GET", "/compute/v2.1/servers/1", "")
	answer := b.admin("GET", "/_sandbox/calls?since=1&method=GET", "", 200)
	if got := answer["calls"].([]any); len(got) != 2 {
		t.Errorf("calls: %v", got)
	}
	if diff := cmp.Diff(map[string]any{"compute POST 202": 1.0, "compute GET 202": 2.0}, answer["counts"]); diff != "" {
		t.Error(diff)
	}
	first := b.Calls(0)[0]
	want := Call{Seq: 1, Service: "compute", Method: "POST", Path: "/compute/v2.1/servers", Query: "x=1", Status: 202, UserAgent: "Go-http-client/1.1", Operation: "compute.server.create", Project: "demo", User: "ann"}
	first.Time, first.DurationMS, first.RequestID = time.Time{}, 0, ""
	if diff := cmp.Diff(want, first); diff != "" {
		t.Error(diff)
	}
	b.admin("GET", "/_sandbox/calls?since=x", "", 400)
	b.admin("DELETE", "/_sandbox/calls", "", 204)
	b.status("GET", "/compute/v2.1/servers", "")
	if got := b.Calls(0); len(got) != 1 || got[0].Seq != 4 {
		t.Errorf("after deletion: %+v", got)
	}
}

func TestLatencies(t *testing.T) {
	b := newBench(t)
	b.SetPreset(Latencies{"request": time.Millisecond, "state": time.Second, "compute.server.active": time.Minute})
	for key, want := range map[string]time.Duration{"compute.server.active": time.Minute, "compute.server.deleted": time.Second} {
		if got := b.StateLatency(key); got != want {
			t.Errorf("%s: %v", key, got)
		}
	}
	b.admin("PUT", "/_sandbox/latencies", `{"compute.server.create":"80ms","compute.request":20,"compute.server.active":null}`, 200)
	for operation, want := range map[string]time.Duration{"compute.server.create": 80 * time.Millisecond, "compute.server.list": 20 * time.Millisecond} {
		if got := b.RequestLatency("compute", operation); got != want {
			t.Errorf("%s: %v", operation, got)
		}
	}
	if got := b.RequestLatency("network", "network.port.list"); got != time.Millisecond {
		t.Errorf("default: %v", got)
	}
	if got := b.StateLatency("compute.server.active"); got != time.Second {
		t.Errorf("removed key: %v", got)
	}
	begin := time.Now()
	b.status("POST", "/compute/servers", "")
	if took := time.Since(begin); took < 80*time.Millisecond {
		t.Errorf("the call took %v", took)
	}
	b.admin("PUT", "/_sandbox/latencies", `{"request":"-1s"}`, 400)
	b.admin("POST", "/_sandbox/reset", "", 204)
	if got := b.StateLatency("compute.server.active"); got != time.Minute {
		t.Errorf("after reset: %v", got)
	}
}

type keeper struct{ got map[string]int }

func (k *keeper) SetQuotas(project, service string, limits map[string]int) error {
	if service != "compute" || project != "demo" {
		return errors.New("unknown")
	}
	k.got = limits
	return nil
}

func (k *keeper) Quotas() map[string]map[string]map[string]int {
	return map[string]map[string]map[string]int{"demo": {"compute": k.got}}
}

func TestQuotasAndInventory(t *testing.T) {
	b := newBench(t)
	k := &keeper{}
	b.AddQuotas(k)
	b.AddInventory(things{})
	b.admin("PUT", "/_sandbox/quotas", `{"project":"demo","service":"compute","instances":3,"cores":-1}`, 204)
	if diff := cmp.Diff(map[string]int{"instances": 3, "cores": -1}, k.got); diff != "" {
		t.Error(diff)
	}
	for _, body := range []string{`{"project":"demo","service":"compute"}`, `{"project":"demo","service":"nope","x":1}`, `{"project":"demo","service":"compute","x":"y"}`} {
		b.admin("PUT", "/_sandbox/quotas", body, 400)
	}
	if got := b.admin("GET", "/_sandbox/inventory", "", 200); got["total"] != 1.0 {
		t.Errorf("inventory: %v", got)
	}
	if got := b.admin("GET", "/_sandbox/inventory?seeded=true&kind=image", "", 200); got["total"] != 1.0 {
		t.Errorf("seeded: %v", got)
	}
	b.admin("GET", "/_sandbox/nothing", "", 404)
}

type things struct{}

func (things) Inventory() []InventoryItem {
	return []InventoryItem{{Service: "compute", Kind: "server", ID: "1"}, {Service: "image", Kind: "image", ID: "2", Seeded: true}}
}
func (things) Counts() map[string]int { return map[string]int{"compute.server": 1} }
