package reconcile

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
)

// Account is one account at a provider, with the budget of calls that all of its users share.
type Account struct {
	// Name names the account in messages, e.g. clouds/lab.
	Name string
	// Session holds the drivers.
	Session driver.Session

	now     func() time.Time
	limiter *rate.Limiter

	mu     sync.Mutex
	paused time.Time
	paces  map[string]*pace
}

// NewAccount makes an account that may be called perSecond times a second, with bursts of twice as many.
func NewAccount(name string, session driver.Session, perSecond float64, now func() time.Time) *Account {
	return &Account{
		Name: name, Session: session, now: now, limiter: rate.NewLimiter(rate.Limit(perSecond), int(2*perSecond)), paces: map[string]*pace{},
	}
}

// call makes one call at the provider within the account's budget. A provider that asks to wait pauses all calls of the
// account (RFC 9110, section 10.2.3, Retry-After).
func call[T any](ctx context.Context, a *Account, do func(context.Context) (T, error)) (T, error) {
	var zero T
	if err := a.admit(ctx); err != nil {
		return zero, err
	}
	out, err := do(ctx)
	if fault.Is(err, fault.Throttled) {
		a.pause(max(fault.RetryAfter(err), time.Second))
	}
	return out, err
}

func (a *Account) admit(ctx context.Context) error {
	a.mu.Lock()
	rest := a.paused.Sub(a.now())
	a.mu.Unlock()
	if rest > 0 {
		return &fault.Error{Kind: fault.Throttled, RetryAfter: rest, Message: a.Name + " asked to wait"}
	}
	if err := a.limiter.Wait(ctx); err != nil {
		return fault.As(fault.Unavailable, fault.Wrap(err, "wait for a call at %s", a.Name))
	}
	return nil
}

func (a *Account) pause(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if until := a.now().Add(d); until.After(a.paused) {
		a.paused = until
	}
}

func (a *Account) pace(typ string) *pace {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.paces[typ]
	if p == nil {
		p = &pace{began: map[record.ID]time.Time{}}
		a.paces[typ] = p
	}
	return p
}

// Timing of polls.
const (
	// batchWindow is how long the first to ask waits for others, so that one list call serves all.
	batchWindow = 15 * time.Millisecond
	// tick is the grid that polls are laid on, so that those of many objects fall together.
	tick = 50 * time.Millisecond
	// slowest bounds the time between two polls.
	slowest = 5 * time.Second
)

// pace decides when objects of one kind in one account are looked at, and looks at all that are due with one call. It
// learns how long the kind takes to become ready, and does not look much before.
type pace struct {
	mu       sync.Mutex
	began    map[record.ID]time.Time
	expected time.Duration
	pending  *batch
}

// batch is one list call in the making.
type batch struct {
	ids  map[string]bool
	done chan struct{}
	seen map[string]driver.Observation[proto.Message]
	err  error
}

// observe looks at one object, together with all others that are asked for within the batch window.
func (p *pace) observe(ctx context.Context, a *Account, d driver.Any, id string) (driver.Observation[proto.Message], bool, error) {
	p.mu.Lock()
	b := p.pending
	if b == nil {
		b = &batch{ids: map[string]bool{}, done: make(chan struct{})}
		p.pending = b
		time.AfterFunc(batchWindow, func() { p.run(context.WithoutCancel(ctx), a, d, b) })
	}
	b.ids[id] = true
	p.mu.Unlock()
	select {
	case <-b.done:
	case <-ctx.Done():
		return driver.Observation[proto.Message]{}, false, fault.As(fault.Unavailable, ctx.Err())
	}
	if b.err != nil {
		return driver.Observation[proto.Message]{}, false, b.err
	}
	o, ok := b.seen[id]
	return o, ok, nil
}

// observeTimeout bounds one list call.
const observeTimeout = time.Minute

func (p *pace) run(ctx context.Context, a *Account, d driver.Any, b *batch) {
	p.mu.Lock()
	p.pending = nil
	ids := make([]string, 0, len(b.ids))
	for id := range b.ids {
		ids = append(ids, id)
	}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	b.seen, b.err = call(ctx, a, func(ctx context.Context) (map[string]driver.Observation[proto.Message], error) {
		return d.Observe(ctx, ids)
	})
	close(b.done)
}

// restart counts an object's time from now.
func (p *pace) restart(id record.ID, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.began[id] = now
}

// ready learns from an object that has become ready.
func (p *pace) ready(id record.ID, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	began, ok := p.began[id]
	delete(p.began, id)
	if !ok {
		return
	}
	took := now.Sub(began)
	if p.expected == 0 || took < p.expected {
		p.expected = took
		return
	}
	p.expected += (took - p.expected) / 8
}

// forget drops what is known of an object.
func (p *pace) forget(id record.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.began, id)
}

// next gives the time until an object is to be looked at again: an eighth of the time that it has taken so far, but not
// much before its kind is usually ready, and more often about then. Looks are laid on a grid, coarser the longer it takes,
// so that those of many objects fall together.
func (p *pace) next(id record.ID, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	began, ok := p.began[id]
	if !ok {
		began = now
		p.began[id] = now
	}
	elapsed := now.Sub(began)
	share, grid := time.Duration(8), 2*tick
	if p.expected > 0 && elapsed < 2*p.expected {
		share, grid = 24, tick
	}
	wait := min(max(elapsed/share, grid), slowest)
	if early := p.expected*19/20 - elapsed; early > wait {
		wait = min(early, slowest)
	}
	for 2*grid <= elapsed/share {
		grid *= 2
	}
	return now.Add(wait).Truncate(grid).Add(grid).Sub(now)
}
