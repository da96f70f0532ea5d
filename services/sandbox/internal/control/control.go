// Package control is how a person or a test steers the sandbox from outside the simulated clouds: it records
// every API call, breaks chosen calls, sets latencies and quotas, and lists everything that exists.
//
// Each simulated service is wrapped by Middleware. A request passes through it in this order:
//
//  1. the call gets its number and start time;
//  2. the first registered fault that matches and is not used up is taken: it answers by itself (status,
//     conflict, throttle), never answers (hang), waits and goes on (delay), lets the request be executed and
//     then cuts the connection (drop_response), or has it executed as without a part of the cloud (cell_down);
//  3. the service runs; it may name the operation with Enter, which waits for the latency of that operation;
//     a service that does not is delayed by its default before its answer leaves;
//  4. the finished call is recorded.
//
// Calls of the admin API itself are not recorded.
package control

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/world"
)

// InventoryItem is one object that exists in a simulated cloud, whoever made it.
type InventoryItem struct {
	Service     string            `json:"service"`           // compute, network, volume, image, identity, kubernetes
	Kind        string            `json:"kind"`              // server, network, port, Deployment, …
	ID          string            `json:"id"`                // the provider's id; for Kubernetes the UID
	Name        string            `json:"name"`              // for Kubernetes namespace/name
	Project     string            `json:"project,omitempty"` // project id or namespace
	State       string            `json:"state,omitempty"`   // the status the API shows
	Tags        []string          `json:"tags,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Description string            `json:"description,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	// Settings are what a client can set beyond the above, and see by the cloud's own API: the size of a volume, the
	// flavor of a server, the ports of a rule. What holds the other is told by id. Of Kubernetes it is a digest.
	Settings  map[string]string `json:"settings,omitempty"`
	CreatedAt time.Time         `json:"createdAt"`
	// Seeded objects belong to the cloud itself (images, the external network, default security groups) and are
	// left out of the inventory unless ?seeded=true.
	Seeded bool `json:"seeded,omitempty"`
}

// InventorySource is a simulated cloud that can list what it holds.
type InventorySource interface {
	// Inventory lists every object; it MUST be a consistent snapshot.
	Inventory() []InventoryItem
	// Counts is the number of objects by "service.kind", without seeded ones.
	Counts() map[string]int
}

// QuotaKeeper is a simulated cloud whose quotas can be set.
type QuotaKeeper interface {
	// SetQuotas sets limits of one service for a project (id or name); -1 is unlimited. It fails for an unknown
	// project, service or key.
	SetQuotas(project, service string, limits map[string]int) error
	// Quotas yields the limits that differ from the defaults: project id, service, key.
	Quotas() map[string]map[string]map[string]int
}

// Latencies are waiting times by operation, for example compute.server.create (how long the request takes) or
// compute.server.active (how long until the state is reached). See Control.RequestLatency and StateLatency for
// how a missing key falls back.
type Latencies map[string]time.Duration

// DevLatencies feel like a small fast cloud: for people and demos.
func DevLatencies() Latencies {
	return Latencies{
		"request":                 5 * time.Millisecond,
		"compute.server.active":   1500 * time.Millisecond,
		"compute.server.deleted":  500 * time.Millisecond,
		"volume.volume.available": 500 * time.Millisecond,
		"state":                   200 * time.Millisecond,
	}
}

// NoLatencies make every call and every state immediate: for tests.
func NoLatencies() Latencies { return Latencies{} }

// ErrorWriter answers a request with an error in the dialect of one service.
type ErrorWriter func(w http.ResponseWriter, r *http.Request, status int, message string)

// Control is the steering wheel of one sandbox. Its methods may be called from many goroutines.
type Control struct {
	clock world.Clock

	mu        sync.Mutex
	calls     callLog
	faults    []*Fault
	faultSeq  int
	preset    Latencies
	latencies Latencies
	sources   []InventorySource
	quotas    []QuotaKeeper
	resets    []func() error
	dialects  map[string]ErrorWriter
	admin     http.Handler
}

// New makes a Control without latencies or faults.
func New(clock world.Clock) *Control {
	c := &Control{clock: clock, preset: Latencies{}, latencies: Latencies{}, dialects: map[string]ErrorWriter{}}
	c.calls.clear()
	c.admin = c.routes()
	return c
}

// AddInventory makes a source part of GET /_sandbox/inventory.
func (c *Control) AddInventory(source InventorySource) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sources = append(c.sources, source)
}

// AddQuotas makes a keeper reachable by PUT /_sandbox/quotas.
func (c *Control) AddQuotas(keeper QuotaKeeper) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.quotas = append(c.quotas, keeper)
}

// AddReset has reset called by POST /_sandbox/reset: it MUST bring its world back to the seeded state.
func (c *Control) AddReset(reset func() error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resets = append(c.resets, reset)
}

// AddDialect sets how faults of a service are answered. Without one, a Kubernetes Status is sent for the service
// "kubernetes" and {"error": {"code", "message"}} for others.
func (c *Control) AddDialect(service string, write ErrorWriter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dialects[service] = write
}

// SetPreset sets the latencies that are in force now and again after a reset.
func (c *Control) SetPreset(l Latencies) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.preset, c.latencies = l, cloneLatencies(l)
}

func cloneLatencies(l Latencies) Latencies {
	out := Latencies{}
	for k, v := range l {
		out[k] = v
	}
	return out
}

// RequestLatency is how long a request of the operation takes: the operation's own value, else
// "<service>.request", else "request", else nothing.
func (c *Control) RequestLatency(service, operation string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range []string{operation, service + ".request", "request"} {
		if d, ok := c.latencies[key]; ok && key != "" {
			return d
		}
	}
	return 0
}

// StateLatency is how long an object takes to reach a state, for example "compute.server.active": the value of
// that key, else "state", else nothing.
func (c *Control) StateLatency(key string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d, ok := c.latencies[key]; ok {
		return d
	}
	return c.latencies["state"]
}

type callKey struct{}

// call is what a service may tell about the request it runs.
type call struct {
	control *Control
	service string

	mu        sync.Mutex
	operation string
	project   string
	user      string
	waited    bool
	down      bool     // a cell does not answer
	cell      []string // the servers in it; all if there are none
}

func callOf(ctx context.Context) *call {
	cl, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		return nil
	}
	return cl
}

// Enter names the operation of a request ("compute.server.create") and waits for its latency. It returns the
// context's error when the client went away meanwhile. Outside Middleware it does nothing.
func Enter(ctx context.Context, operation string) error {
	cl := callOf(ctx)
	if cl == nil {
		return nil
	}
	cl.mu.Lock()
	cl.operation = operation
	cl.mu.Unlock()
	return cl.wait(ctx)
}

// Identify tells the call log whose request this is.
func Identify(ctx context.Context, project, user string) {
	cl := callOf(ctx)
	if cl == nil {
		return
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.project, cl.user = project, user
}

// Down tells whether a server is in a cell that does not answer while a request is served.
func Down(ctx context.Context, server string) bool {
	cl := callOf(ctx)
	if cl == nil {
		return false
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return cl.down && (len(cl.cell) == 0 || slices.Contains(cl.cell, server))
}

// wait sleeps for the latency of the request, once.
func (cl *call) wait(ctx context.Context) error {
	cl.mu.Lock()
	waited, operation := cl.waited, cl.operation
	cl.waited = true
	cl.mu.Unlock()
	if waited {
		return nil
	}
	return sleep(ctx, cl.control.RequestLatency(cl.service, operation))
}

// sleep is in real time even when the world's clock is moved by hand: it delays an answer, not a state.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
