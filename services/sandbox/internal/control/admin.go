package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Handler serves the admin API below /_sandbox/. Who may call it is decided by whoever mounts it.
func (c *Control) Handler() http.Handler { return c.admin }

func (c *Control) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_sandbox/inventory", c.getInventory)
	mux.HandleFunc("GET /_sandbox/calls", c.getCalls)
	mux.HandleFunc("DELETE /_sandbox/calls", c.deleteCalls)
	mux.HandleFunc("GET /_sandbox/faults", c.getFaults)
	mux.HandleFunc("POST /_sandbox/faults", c.postFault)
	mux.HandleFunc("DELETE /_sandbox/faults", c.deleteFaults)
	mux.HandleFunc("GET /_sandbox/quotas", c.getQuotas)
	mux.HandleFunc("PUT /_sandbox/quotas", c.putQuotas)
	mux.HandleFunc("GET /_sandbox/latencies", c.getLatencies)
	mux.HandleFunc("PUT /_sandbox/latencies", c.putLatencies)
	mux.HandleFunc("POST /_sandbox/reset", c.postReset)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, r, http.StatusNotFound, fmt.Errorf("%s %s: no such admin call", r.Method, r.URL.Path))
	})
	return mux
}

func refuse(w http.ResponseWriter, r *http.Request, status int, err error) {
	writePlain(w, r, status, err.Error())
}

func (c *Control) getInventory(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	service, kind, seeded := q.Get("service"), q.Get("kind"), q.Get("seeded") == "true"
	items := []InventoryItem{}
	counts := map[string]int{}
	for _, item := range c.Inventory() {
		if service != "" && item.Service != service || kind != "" && item.Kind != kind || item.Seeded && !seeded {
			continue
		}
		items = append(items, item)
		counts[item.Service+"."+item.Kind]++
	}
	writeJSON(w, http.StatusOK, map[string]any{"items": items, "counts": counts, "total": len(items)})
}

// Inventory lists every object of every source, seeded ones included.
func (c *Control) Inventory() []InventoryItem {
	c.mu.Lock()
	sources := slices.Clone(c.sources)
	c.mu.Unlock()
	var items []InventoryItem
	for _, s := range sources {
		items = append(items, s.Inventory()...)
	}
	return items
}

func (c *Control) getCalls(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	since := uint64(0)
	if text := q.Get("since"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			refuse(w, r, http.StatusBadRequest, fmt.Errorf("since=%s: must be a call's seq", text))
			return
		}
		since = n
	}
	service, method := q.Get("service"), q.Get("method")
	c.mu.Lock()
	calls := c.calls.list(func(cl *Call) bool {
		return cl.Seq > since && (service == "" || cl.Service == service) && (method == "" || cl.Method == method)
	})
	answer := map[string]any{
		"total": c.calls.total, "counts": maps.Clone(c.calls.counts),
		"forgotten": c.calls.total - uint64(len(c.calls.ring)), "last": c.calls.seq,
	}
	c.mu.Unlock()
	// Calls are logged when they end; the reader wants them as they began.
	slices.SortFunc(calls, func(a, b Call) int { return int(int64(a.Seq) - int64(b.Seq)) })
	answer["calls"] = calls
	writeJSON(w, http.StatusOK, answer)
}

// Calls yields the kept calls with a seq above since, in order of arrival.
func (c *Control) Calls(since uint64) []Call {
	c.mu.Lock()
	calls := c.calls.list(func(cl *Call) bool { return cl.Seq > since })
	c.mu.Unlock()
	slices.SortFunc(calls, func(a, b Call) int { return int(int64(a.Seq) - int64(b.Seq)) })
	return calls
}

func (c *Control) deleteCalls(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	c.calls.clear()
	c.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

func (c *Control) getFaults(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	faults := make([]Fault, 0, len(c.faults))
	for _, f := range c.faults {
		faults = append(faults, *f)
	}
	c.mu.Unlock()
	writeJSON(w, http.StatusOK, map[string]any{"faults": faults})
}

func (c *Control) postFault(w http.ResponseWriter, r *http.Request) {
	f := &Fault{}
	if err := decodeStrict(r, f); err != nil {
		refuse(w, r, http.StatusBadRequest, err)
		return
	}
	if err := c.addFault(f); err != nil {
		refuse(w, r, http.StatusBadRequest, err)
		return
	}
	writeJSON(w, http.StatusCreated, f)
}

func (c *Control) deleteFaults(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("id")
	c.mu.Lock()
	before := len(c.faults)
	c.faults = slices.DeleteFunc(c.faults, func(f *Fault) bool { return id == "" || f.ID == id })
	gone := before - len(c.faults)
	c.mu.Unlock()
	if id != "" && gone == 0 {
		refuse(w, r, http.StatusNotFound, fmt.Errorf("fault %q: does not exist", id))
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (c *Control) getQuotas(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	keepers := slices.Clone(c.quotas)
	c.mu.Unlock()
	all := map[string]map[string]map[string]int{}
	for _, k := range keepers {
		maps.Copy(all, k.Quotas())
	}
	writeJSON(w, http.StatusOK, map[string]any{"quotas": all})
}

// putQuotas reads {"project": "demo", "service": "compute", "instances": 5, …}.
func (c *Control) putQuotas(w http.ResponseWriter, r *http.Request) {
	fields := map[string]json.RawMessage{}
	if err := decodeStrict(r, &fields); err != nil {
		refuse(w, r, http.StatusBadRequest, err)
		return
	}
	var project, service string
	limits := map[string]int{}
	var errs []error
	for name, raw := range fields {
		switch name {
		case "project":
			errs = append(errs, json.Unmarshal(raw, &project))
		case "service":
			errs = append(errs, json.Unmarshal(raw, &service))
		default:
			n := 0
			if err := json.Unmarshal(raw, &n); err != nil {
				errs = append(errs, fmt.Errorf("%s: must be a whole number, -1 for unlimited", name))
			}
			limits[name] = n
		}
	}
	if err := errors.Join(errs...); err != nil || project == "" || service == "" || len(limits) == 0 {
		if err == nil {
			err = errors.New(`give project, service and at least one limit: {"project": "demo", "service": "compute", "instances": 5}`)
		}
		refuse(w, r, http.StatusBadRequest, err)
		return
	}
	if err := c.SetQuotas(project, service, limits); err != nil {
		refuse(w, r, http.StatusBadRequest, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// SetQuotas sets limits of one service for a project; the first keeper that knows the service decides.
func (c *Control) SetQuotas(project, service string, limits map[string]int) error {
	c.mu.Lock()
	keepers := slices.Clone(c.quotas)
	c.mu.Unlock()
	err := fmt.Errorf("service %q: has no quotas", service)
	for _, k := range keepers {
		if err = k.SetQuotas(project, service, limits); err == nil {
			return nil
		}
	}
	return err
}

func (c *Control) getLatencies(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	out := map[string]Duration{}
	for k, v := range c.latencies {
		out[k] = Duration(v)
	}
	c.mu.Unlock()
	writeJSON(w, http.StatusOK, map[string]any{"latencies": out})
}

// putLatencies changes the given keys; null removes one, so that it falls back.
func (c *Control) putLatencies(w http.ResponseWriter, r *http.Request) {
	fields := map[string]*Duration{}
	if err := decodeStrict(r, &fields); err != nil {
		refuse(w, r, http.StatusBadRequest, err)
		return
	}
	for k, v := range fields {
		if v != nil && *v < 0 {
			refuse(w, r, http.StatusBadRequest, fmt.Errorf("%s: must not be negative", k))
			return
		}
	}
	c.mu.Lock()
	next := cloneLatencies(c.latencies)
	for k, v := range fields {
		delete(next, k)
		if v != nil {
			next[k] = time.Duration(*v)
		}
	}
	c.latencies = next
	c.mu.Unlock()
	c.getLatencies(w, r)
}

func (c *Control) postReset(w http.ResponseWriter, r *http.Request) {
	if err := c.Reset(); err != nil {
		refuse(w, r, http.StatusInternalServerError, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// Reset brings every world back to its seeds and forgets faults, calls and changed latencies.
func (c *Control) Reset() error {
	c.mu.Lock()
	resets := slices.Clone(c.resets)
	c.faults = nil
	c.latencies = cloneLatencies(c.preset)
	c.calls.clear()
	c.mu.Unlock()
	var errs []error
	for _, reset := range resets {
		errs = append(errs, reset())
	}
	return errors.Join(errs...)
}

func decodeStrict(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("request body: %w", err)
	}
	return nil
}
