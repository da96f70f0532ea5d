// Package engine runs sagas: it applies events to their states, keeps each transition in one transaction, and sends
// what follows from it. What follows is decided by package saga, which is pure.
//
// # Layout, below /weft/orchestrator/
//
//	s/<shard>/<operation>/state    the state of an unfinished saga, written whole by each transition
//	s/<shard>/<operation>/out/<n>  what step n observed when it was done
//	p/<operation>                  the plan of an unfinished saga, written once
//	f/<operation>                  what is kept of a saga that has ended
//	k/<stack>                      the stack
//	so/…                           the outbox: commands and events that are committed and not yet published
//
// A saga is in the shard of its stack (bus.ShardOf). The transaction that ends it moves it from s/ and p/ to f/, so that
// what a new owner must read is as much as is under way, and no more.
//
// # Who may write
//
// Only the owner of the shard (package shard). Every transaction compares the owner's key (the fence), so that an owner
// that was paused for longer than its lease cannot write, and every command carries the epoch, so that it cannot command.
//
// # Who works
//
// Each saga has a queue of events. Whoever finds it idle works until it is empty; all events that came meanwhile are
// applied together, as one transition and one transaction (run.go).
//
// # What happens on a crash
//
// A transition is one transaction: state, outputs, commands and events. The next owner of the shard reads its unfinished
// sagas, asks the participants about the steps that are under way, and sends the commands again, with the same ids, that
// they know nothing of. The outbox publishes what was committed and not sent.
package engine

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/saga"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/tracing"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// Owner is the right to run the sagas of one shard.
type Owner interface {
	// Shard is the number of the shard.
	Shard() int
	// Fence is the condition that every transaction carries.
	Fence() store.Compare
	// Epoch numbers the owners of the shard; a later one has a greater.
	Epoch() int64
}

// Querier asks a participant what became of a key.
type Querier interface {
	// Query gives the outcome; nil if the participant has never seen the key.
	Query(ctx context.Context, kind *resource.Kind, origin *busv1.Origin, name, key string) (*busv1.Outcome, error)
}

// Outbox publishes what was committed.
type Outbox interface {
	record.Outbox
	// Recover looks soon for what others committed and did not publish.
	Recover()
}

// Config is what an Engine is made of.
type Config struct {
	Store   store.Store
	Outbox  Outbox
	Kinds   *resource.Registry
	Querier Querier
	Logger  *slog.Logger
	Now     func() time.Time
	// Admit refuses new sagas, with a Throttled fault, when the installation has all that it can take; nil admits all.
	Admit func(ctx context.Context) error
	// Quotas keeps what stacks draw of their tenants' quotas; nil means that there are none.
	Quotas *quota.Account
	// Traces makes a span of each transition; nil makes none.
	Traces *tracing.Traces
	// Go runs something beside what is under way, and After does so in a while, unless it is stopped. nil means in a
	// goroutine, and by the clock: a simulation has its own.
	Go    func(func())
	After func(wait time.Duration, do func()) (stop func() bool)
}

// Engine runs the sagas of the shards that this process owns. All methods are safe for concurrent use.
type Engine struct {
	Config

	taking chan struct{} // one for each saga that is being taken over

	mu      sync.Mutex
	parts   map[int]*part
	changed chan struct{} // closed when a shard has come or gone
	held    []string      // the clouds that are held
	stats   Stats
}

// New makes an engine; it runs nothing until Own.
func New(c Config) *Engine {
	if c.Admit == nil {
		c.Admit = func(context.Context) error { return nil }
	}
	if c.Go == nil {
		c.Go = func(do func()) { go do() }
	}
	if c.After == nil {
		c.After = func(wait time.Duration, do func()) func() bool { return time.AfterFunc(wait, do).Stop }
	}
	return &Engine{Config: c, parts: map[int]*part{}, changed: make(chan struct{}), taking: make(chan struct{}, takeOverAtOnce)}
}

// Owns tells whether this process owns a shard and has taken it over, and gives a channel that is closed when that may
// have changed for any shard.
func (e *Engine) Owns(shard int) (bool, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.parts[shard]
	return p != nil && p.isReady(), e.changed
}

// change wakes whoever waits for a shard. The caller holds the lock.
func (e *Engine) change() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// part gives the owned shard of a stack.
func (e *Engine) part(stack string) (*part, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.parts[bus.ShardOf(stack)]
	if p == nil || !p.isReady() {
		return nil, fault.New(fault.Unavailable, "this orchestrator does not own %s now; try again", stack)
	}
	return p, nil
}

// Begin begins a saga of a shard that this process owns. The stack must be as the caller read it: at stackRevision, 0 if
// it did not exist. Conflict means that it is not, Unavailable that another process owns the shard or that it is not
// known whether the saga was kept, Throttled that there is no room for more, Quota that it may add more than the tenant may
// have.
func (e *Engine) Begin(ctx context.Context, plan *orchestratorv1.SagaPlan, changing *orchestratorv1.StackRecord, stackRevision int64) error {
	p, err := e.part(plan.GetStack())
	if err != nil {
		return err
	}
	if err := e.Admit(ctx); err != nil {
		return fault.Wrap(err, "begin %s", plan.GetName())
	}
	return fault.Wrap(p.begin(ctx, plan, changing, stackRevision), "begin %s", plan.GetName())
}

// Act applies what a person asks for to an unfinished saga of a shard that this process owns. NotFound means that there
// is none of the name, or that it has ended.
func (e *Engine) Act(ctx context.Context, stack, name string, event saga.Event) error {
	p, err := e.part(stack)
	if err != nil {
		return err
	}
	r := p.find(name)
	if r == nil {
		return fault.New(fault.NotFound, "operation %s does not exist or has ended", name)
	}
	done := make(chan error, 1)
	p.post(r, posted{event: event, done: done})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fault.As(fault.Unavailable, ctx.Err())
	}
}

// Outcome takes what a participant told, if it is for a saga that runs here. It does not block. The error says that it
// cannot be read.
func (e *Engine) Outcome(d bus.Delivery) error {
	shard, ok := bus.OutcomeShard(d.Subject)
	if !ok {
		return fault.New(fault.Invalid, "%s is the subject of no outcome", d.Subject)
	}
	e.mu.Lock()
	p := e.parts[shard]
	e.mu.Unlock()
	if p == nil {
		return nil
	}
	o := &busv1.Outcome{}
	if err := proto.Unmarshal(d.Data, o); err != nil {
		return fault.As(fault.Invalid, fault.Wrap(err, "decode an outcome"))
	}
	p.outcome(o)
	return nil
}

// Hold says at which clouds nothing is to be begun, all of them.
func (e *Engine) Hold(clouds []string) {
	clouds = slices.Sorted(slices.Values(clouds))
	e.mu.Lock()
	same := slices.Equal(clouds, e.held)
	e.held = clouds
	e.mu.Unlock()
	if same {
		return
	}
	for _, p := range e.owned() {
		for _, r := range p.all() {
			p.post(r, posted{event: saga.CloudsHeld{Clouds: clouds}})
		}
	}
}

// owned gives the owned shards, in their order.
func (e *Engine) owned() []*part {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]*part, 0, len(e.parts))
	for _, shard := range slices.Sorted(maps.Keys(e.parts)) {
		out = append(out, e.parts[shard])
	}
	return out
}

// heldClouds gives the clouds at which nothing is to be begun.
func (e *Engine) heldClouds() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.held
}
