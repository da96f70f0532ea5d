package reconcile

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/budget"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/tracing"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
)

// Account is one account at a provider, with the budget of calls that all of its users share.
type Account struct {
	// Name names the account in messages, e.g. clouds/lab.
	Name string
	// Session holds the drivers. What is asked of them beside the loop, looks before a plan, lists of what is marked and
	// probes, draws on the budget by itself.
	Session driver.Session

	budget *budget.Budget

	mu    sync.Mutex
	paces map[string]*pace
}

// NewAccount makes an account whose calls draw on a budget. Others may draw on it, too.
func NewAccount(name string, session driver.Session, calls *budget.Budget) *Account {
	a := &Account{Name: name, budget: calls, paces: map[string]*pace{}}
	a.Session = a.metered(session)
	return a
}

// errWoken ends a look at a record that was written while the look waited for its turn: it may ask for something else now.
var errWoken = errors.New("the record was written meanwhile")

// turn is one look at one id: what it is to the budget, and where it can be interrupted.
type turn struct {
	*Account // nil until the entry was read

	loop  *Loop
	task  *task
	owned *owned
	entry *record.Entry // what is worked on; nil before it was read, and for a controller
	wrote bool          // it was woken by what it wrote itself
	slots chan struct{}
	woken <-chan struct{} // closed when the record was written since the look began

	traces *tracing.Traces
	trace  string // the trace that the record's command is part of
	kind   string

	class       budget.Class
	tenant      string
	interrupted bool // it was woken while it waited
	refused     bool // the provider refused a call as one too many
}

// classOf gives the class of an entry's calls: what is undone comes first, then what a person waits for, as for a single
// change.
func classOf(e *record.Entry) budget.Class {
	origin := e.Record.GetOrigin()
	switch {
	case origin == nil, origin.GetPriority() == busv1.Priority_PRIORITY_INTERACTIVE:
		return budget.Interactive
	case origin.GetPriority() == busv1.Priority_PRIORITY_UNDO:
		return budget.Undo
	default:
		return budget.Normal
	}
}

// aside does what may take long without the slot that the look holds, so that others can work meanwhile.
func (at *turn) aside(do func()) {
	<-at.slots
	defer func() { at.slots <- struct{}{} }()
	do()
}

// admit waits for the look's turn to call. A look that is interrupted leaves its place in line to the next look at the
// same id.
func (at *turn) admit(ctx context.Context) (*budget.Ticket, error) {
	t := at.task.ticket
	if t == nil || t.Budget() != at.budget {
		at.task.leave()
		t = at.budget.Enter(at.class, at.tenant)
		at.task.ticket = t
	}
	t.SetClass(at.class)
	if err := at.wait(ctx, t.Ready()); err != nil {
		return nil, err
	}
	at.task.ticket = nil
	return t, nil
}

// wait waits until ready is closed. That the record was written comes first.
func (at *turn) wait(ctx context.Context, ready <-chan struct{}) error {
	for {
		select {
		case <-at.woken:
			if at.undisturbed() {
				continue
			}
			at.interrupted = true
			return errWoken
		default:
		}
		select {
		case <-ready:
			return nil
		case <-at.woken:
			continue
		case <-ctx.Done():
			return fault.As(fault.Unavailable, fault.Wrap(ctx.Err(), "wait for a call at %s", at.Name))
		}
	}
}

// heard notes what a call was answered.
func (at *turn) heard(err error) {
	switch {
	case err == nil:
		at.task.refusals = 0
	case fault.Is(err, fault.Throttled):
		at.refused = true
	}
}

// call makes one call at the provider when its turn has come, if the record is still this replica's then. A provider that
// asks to wait pauses all calls of the account. what names the call in the trace of the saga.
func call[T any](ctx context.Context, at *turn, what string, do func(context.Context) (T, error)) (out T, err error) {
	at.aside(func() {
		var t *budget.Ticket
		if t, err = at.admit(ctx); err != nil {
			return
		}
		defer t.Done()
		if err = at.owned.check(ctx); err != nil {
			return
		}
		ctx, end := at.traces.Span(ctx, at.trace, what+" "+at.kind, "weft.account", at.Name)
		out, err = do(ctx)
		end(err)
		at.throttled(err)
		at.heard(err)
	})
	return out, err
}

// throttled pauses the account if err says so.
func (a *Account) throttled(err error) {
	if fault.Is(err, fault.Throttled) {
		a.budget.Throttled(fault.RetryAfter(err))
	}
}

// lookTries is how often a look that changes nothing is tried if the provider refuses it as one too many.
const lookTries = 3

// look makes a call that somebody waits for, and that may be made again.
func look[T any](ctx context.Context, a *Account, tenant string, do func() (T, error)) (T, error) {
	for try := 1; ; try++ {
		if err := a.budget.Acquire(ctx, budget.Interactive, tenant); err != nil {
			var zero T
			return zero, fault.Wrap(err, "wait for a call at %s", a.Name)
		}
		out, err := do()
		a.throttled(err)
		a.budget.Done()
		if !fault.Is(err, fault.Throttled) || try == lookTries {
			return out, err
		}
	}
}

// metered gives a session whose looks draw on the budget.
func (a *Account) metered(s driver.Session) driver.Session {
	drivers := make(map[string]driver.Any, len(s.Drivers))
	for typ, d := range s.Drivers {
		drivers[typ] = metered{Any: d, account: a}
	}
	out := driver.Session{Drivers: drivers}
	if s.Probe != nil {
		out.Probe = func(ctx context.Context) ([]driver.Feature, error) {
			return look(ctx, a, "", func() ([]driver.Feature, error) { return s.Probe(ctx) })
		}
	}
	return out
}

// metered is a driver whose looks draw on the budget; the loop accounts for the other calls itself.
type metered struct {
	driver.Any
	account *Account
}

func (m metered) Checker() (driver.Checker[proto.Message], bool) {
	c, ok := m.Any.Checker()
	return meteredChecker{c, m.account}, ok
}

func (m metered) Lister() (driver.Lister, bool) {
	l, ok := m.Any.Lister()
	return meteredLister{l, m.account}, ok
}

type meteredChecker struct {
	driver.Checker[proto.Message]
	account *Account
}

func (c meteredChecker) Check(ctx context.Context, items []driver.Item[proto.Message]) ([]driver.Finding, []driver.QuotaUse, error) {
	tenant := ""
	if len(items) > 0 {
		tenant = resource.TenantOf(items[0].Name)
	}
	var quotas []driver.QuotaUse
	findings, err := look(ctx, c.account, tenant, func() (found []driver.Finding, err error) {
		found, quotas, err = c.Checker.Check(ctx, items)
		return found, err
	})
	return findings, quotas, err
}

func (m metered) Sized() (driver.Sized[proto.Message], bool) {
	s, ok := m.Any.Sized()
	return meteredSized{s, m.account}, ok
}

type meteredSized struct {
	driver.Sized[proto.Message]
	account *Account
}

func (s meteredSized) Sizes(ctx context.Context, specs []proto.Message) ([]map[string]int64, error) {
	return look(ctx, s.account, "", func() ([]map[string]int64, error) { return s.Sized.Sizes(ctx, specs) })
}

type meteredLister struct {
	driver.Lister
	account *Account
}

func (l meteredLister) ListMarked(ctx context.Context) ([]driver.Marked, error) {
	return look(ctx, l.account, "", func() ([]driver.Marked, error) { return l.Lister.ListMarked(ctx) })
}

// Erase has a driver delete an object that no record knows. It draws on the budget like the calls that somebody waits for.
func (a *Account) Erase(ctx context.Context, d driver.Any, id, tenant string) error {
	_, err := look(ctx, a, tenant, func() (struct{}, error) { return struct{}{}, d.Delete(ctx, id) })
	return fault.Wrap(err, "delete %s at %s", id, a.Name)
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

// age tells how long an object has been on its way, when it was last seen to be so, and when it was last asked for.
type age struct{ began, seen, asked time.Time }

// batch is one list call in the making. It takes in who comes until its turn to call has come, and waits in the best class
// of those that it serves.
type batch struct {
	ids    map[string]bool
	class  budget.Class
	ticket *budget.Ticket // nil within the batch window
	done   chan struct{}
	seen   map[string]driver.Observation[proto.Message]
	err    error
}

// observe looks at one object, together with all others that are asked for until the call is made.
func (p *pace) observe(ctx context.Context, at *turn, d driver.Any, id string) (driver.Observation[proto.Message], bool, error) {
	b := p.join(ctx, at, d, id)
	var err error
	at.aside(func() { err = at.wait(ctx, b.done) })
	if err != nil {
		return driver.Observation[proto.Message]{}, false, err
	}
	at.heard(b.err)
	if b.err != nil {
		return driver.Observation[proto.Message]{}, false, b.err
	}
	o, ok := b.seen[id]
	return o, ok, nil
}

// join adds an object to the batch in the making.
func (p *pace) join(ctx context.Context, at *turn, d driver.Any, id string) *batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.pending
	if b == nil {
		b = &batch{ids: map[string]bool{}, class: at.class, done: make(chan struct{})}
		p.pending = b
		account, tenant := at.Account, at.tenant
		time.AfterFunc(batchWindow, func() { p.run(ctx, account, tenant, d, b) })
	}
	b.ids[id] = true
	if at.class > b.class {
		b.class = at.class
		if b.ticket != nil {
			b.ticket.SetClass(b.class)
		}
	}
	return b
}

// observeTimeout bounds one list call.
const observeTimeout = time.Minute

// run makes the call of a batch when its turn has come. It waits as long as the record of who began it is this replica's;
// who else waits then begins another.
func (p *pace) run(ctx context.Context, a *Account, tenant string, d driver.Any, b *batch) {
	defer close(b.done)
	p.mu.Lock()
	b.ticket = a.budget.Enter(b.class, tenant)
	p.mu.Unlock()
	select {
	case <-b.ticket.Ready():
		defer b.ticket.Done()
	case <-ctx.Done():
		b.ticket.Cancel()
	}
	if ctx.Err() != nil {
		b.err = errWoken
	}
	p.mu.Lock()
	p.pending = nil
	ids := make([]string, 0, len(b.ids))
	for id := range b.ids {
		ids = append(ids, id)
	}
	p.mu.Unlock()
	if b.err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), observeTimeout)
	defer cancel()
	b.seen, b.err = d.Observe(ctx, ids)
	a.throttled(b.err)
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

// askAgain is the time after which a provider that accepted a deletion, and still has the object, is asked again.
const askAgain = 10 * time.Second

// asked tells whether the provider was asked for an object of late.
func (p *pace) asked(id record.ID, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.young[id]
	return ok && now.Sub(a.asked) < askAgain
}

// accept notes that the provider has accepted what it was asked for, and counts from the first time.
func (p *pace) accept(id record.ID, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.young[id]
	if !ok {
		a.began = now
	}
	a.asked = now
	p.young[id] = a
}

// askNext has the provider asked again at the next look.
func (p *pace) askNext(id record.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a, ok := p.young[id]; ok {
		a.asked = time.Time{}
		p.young[id] = a
	}
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
