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
		p = &pace{young: map[record.ID]age{}}
		a.paces[typ] = p
	}
	return p
}

// Timing of polls.
const (
	// batchWindow is how long the first to ask waits for others, so that one list call serves all.
	batchWindow = 15 * time.Millisecond
	// tick is the grid that polls are laid on, so that those of many objects fall together.
	tick = 20 * time.Millisecond
	// slowest bounds the time between two polls.
	slowest = 5 * time.Second
)

// pace decides when objects of one kind in one account are looked at, and looks at all that are due with one call. It
// learns how long the kind usually takes to become ready, and does not look much before.
type pace struct {
	mu      sync.Mutex
	young   map[record.ID]age
	usual   time.Duration // 0 if it is not known
	pending *batch
}

// age tells how long an object has been on its way, and when it was last seen to be so.
type age struct{ began, seen time.Time }

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
	p.young[id] = age{began: now}
}

// ready learns from an object that has become ready: it did so between the last two looks. One that was ready at the
// first look may have been so for long, and those to come are looked at earlier.
func (p *pace) ready(id record.ID, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.young[id]
	delete(p.young, id)
	if !ok {
		return
	}
	took := now.Sub(a.began)
	if a.seen.IsZero() {
		took = took * 9 / 10
	} else {
		took = (took + a.seen.Sub(a.began)) / 2
	}
	if p.usual == 0 || took < p.usual {
		p.usual = took
		return
	}
	p.usual += (took - p.usual) / 8
}

// forget drops what is known of an object.
func (p *pace) forget(id record.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.young, id)
}

// next gives the time until an object that is on its way is to be looked at again: an eighth of the time that it has taken
// so far, but not before its kind is usually ready, and every fiftieth of that time about then. Looks are laid on a grid,
// coarser the longer the time between two, so that those of many objects fall together.
func (p *pace) next(id record.ID, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.young[id]
	if !ok {
		a.began = now
	}
	elapsed := now.Sub(a.began)
	grid, wait := tick, max(elapsed/8, 4*tick)
	if p.usual > 0 && elapsed < p.usual*3/2 {
		grid = max(p.usual/50, tick)
		wait = max(grid, p.usual*19/20-elapsed)
	} else {
		for 2*grid <= wait {
			grid *= 2
		}
	}
	a.seen = now
	p.young[id] = a
	return now.Add(min(wait, slowest)).Truncate(grid).Add(grid).Sub(now)
}
