// Package reconcile is the one loop above all drivers: find, adopt, create, poll, update, delete.
//
// # Protocol
//
// The loop takes an id, never a difference: it reads the record and then the world, does one thing, writes what it saw,
// and looks again. A record wakes it when it is written, a timer when something must be looked at again. One id is
// worked on by one goroutine at a time, of the one replica that owns the record's shard (see own.go).
//
//	wanted:   resolve references → find by key, if a create may have been sent → else create → update, if the driver
//	          asks for it or the generation is newer → observe until ready or failed
//	released: find by key, if no id is known → delete → observe until it is gone, twice → find by key, if a create was sent
//	          again → tombstone
//
// # What happens on a crash
//
// The record says whether a create may have been sent; then a look-up by key decides, never a second create. A create
// whose answer was lost is found the same way. A shard that is handed over in good order waits for the answers to its
// creates (see own.go); what shows up later than the looks is taken away with the rest when the record is released (see
// ensure.go). An id that the cloud does not list must be missing twice before it is believed to be gone, 2 s apart, or half
// a second if it was asked to go. A failed look-up is an error and changes nothing.
//
// # What it tells
//
// Faults that can pass are tried again with back-off, for as long as the resource is wanted, and are told as progress;
// others end in FAILED, until the spec changes or someone asks again. An object that is broken, and with which nothing is
// lost, is made anew; what follows other resources is kept up with them (see follow.go). That a provider asks to wait is no fault of a
// resource: what must wait keeps its turn in the account's budget (see package budget) and tells nothing.
//
// # Who works
//
// A look holds one of a bounded number of slots while it reads, decides and writes, not while it waits for its turn to
// call or for the answer: there the budget says who comes first. A record that is written while a look at it waits, e.g.
// because it is to be undone, is read again at once, and keeps its place in line. What a look writes itself does not interrupt
// it: a create, the update after it and what is told of both are parts of one look.
package reconcile

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/budget"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/participant"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/tracing"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// Accounts opens the account that a resource is placed in.
type Accounts interface {
	// Account gives the account for an entry, whose references lead to refs.
	Account(ctx context.Context, e *record.Entry, refs driver.Refs) (*Account, error)
}

// Renewer is what Accounts that can learn of new credentials are as well.
type Renewer interface {
	// Renew is called when an account's provider has refused its credentials, and tells whether there are others now. An
	// error says that this could not be found out; it MUST be one that can pass.
	Renew(ctx context.Context, e *record.Entry, refused *Account) (bool, error)
}

// Resolver gives what references lead to.
type Resolver interface {
	// Resolve gives the resource of a name and key as its kind's message. An empty key means the one that stands under
	// the name.
	Resolve(ctx context.Context, name, key string) (proto.Message, error)
}

// Secrets opens secret outputs.
type Secrets interface {
	// Secret gives the value of a secret output of the resource of a name and key.
	Secret(ctx context.Context, name, key, field string) (string, error)
}

// Config is what a Loop is made of.
type Config struct {
	Book     *record.Book
	Accounts Accounts
	Resolver Resolver
	Logger   *slog.Logger
	// Controllers are those of the kinds that have no driver, by type.
	Controllers map[string]Controller
	// Traces makes a span of each call at a provider; nil makes none.
	Traces *tracing.Traces
	Now    func() time.Time
	// Concurrency bounds how many ids are worked on at once; 0 means 64.
	Concurrency int
	// TombstoneAge is how long a tombstone is kept; it MUST be longer than any stream keeps a message. 0 means 2 hours.
	TombstoneAge time.Duration
	// ObserveEvery is how often what is ready is looked at, to find what was done to it elsewhere; 0 means never.
	ObserveEvery time.Duration
	// Installation is the name of the installation: what bears another's mark is not adopted.
	Installation string
	// Secrets opens secret outputs of other resources; nil opens none.
	Secrets Secrets
	// Taken is called when shards have come to be owned: another replica may have had them, and have died with messages that
	// it had committed and not published. It must not block. nil means nothing.
	Taken func()
}

// Loop works on those records of one service that this replica owns.
type Loop struct {
	Config

	slots chan struct{}
	fresh chan struct{} // holds one token: there are shards whose records are to be loaded

	mu      sync.Mutex
	owned   map[int]*owned      // by shard
	written map[record.ID]int64 // the revisions of own writes that the store is yet to tell of
	watched int64               // the revision up to which the store has told
	// wholes gives the record that another is a part of, partsOf the parts of one, as this replica's controllers said.
	wholes  map[record.ID]record.ID
	partsOf map[record.ID][]record.ID
}

// task is the work on one id.
type task struct {
	active bool
	again  bool
	woken  chan struct{} // closed when again is set; nil before a look and between two
	heard  int64         // the latest revision of the record that woke the look; math.MaxInt64 for any other reason
	timer  *time.Timer

	// What follows belongs to the goroutine that works on the id.
	ticket   *budget.Ticket // a place in line that an interrupted look has left; nil if none
	refusals int            // how often in a row the provider refused a call as one too many
	watched  time.Time      // when an object that is ready and follows others was last looked at
	missed   time.Time      // when an object that is to go was first not listed; zero if it was seen since
}

// leave gives up the place in line.
func (t *task) leave() {
	if t.ticket != nil {
		t.ticket.Cancel()
		t.ticket = nil
	}
}

// New makes a loop. It does nothing until Run, and works on nothing until Own.
func New(c Config) *Loop {
	if c.Concurrency == 0 {
		c.Concurrency = 64
	}
	if c.TombstoneAge == 0 {
		c.TombstoneAge = 2 * time.Hour
	}
	if c.Taken == nil {
		c.Taken = func() {}
	}
	return &Loop{
		Config: c, slots: make(chan struct{}, c.Concurrency), fresh: make(chan struct{}, 1),
		owned: map[int]*owned{}, written: map[record.ID]int64{}, wholes: map[record.ID]record.ID{}, partsOf: map[record.ID][]record.ID{},
	}
}

// sweep deletes old tombstones until ctx ends.
func (l *Loop) sweep(ctx context.Context) {
	ticker := time.NewTicker(l.TombstoneAge / 4)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if _, err := l.Book.Sweep(ctx, l.TombstoneAge); err != nil && ctx.Err() == nil {
				l.Logger.Warn("sweep tombstones", "error", err)
			}
		}
	}
}

// settled tells whether there is nothing to do for an entry.
func (l *Loop) settled(e *record.Entry) bool {
	return l.Controllers[e.Kind.Type] == nil && settled(e)
}

// settled tells whether an entry that a driver makes real is where it should be.
func settled(e *record.Entry) bool {
	status := e.Object.Status()
	if status.GetPhase() == kindv1.Phase_PHASE_FAILED {
		return true
	}
	return !e.Record.GetRelease() && status.GetPhase() == kindv1.Phase_PHASE_READY &&
		status.GetObservedGeneration() == e.Object.Metadata().GetGeneration()
}

// Wake makes the loop look at an id, if this replica owns it. It does not block.
func (l *Loop) Wake(id record.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wake(id, math.MaxInt64)
}

// wake is Wake for who holds the lock, of a record that was written at a revision.
func (l *Loop) wake(id record.ID, revision int64) {
	o := l.owned[ShardOf(id.Key)]
	if o == nil || o.ctx.Err() != nil {
		return
	}
	t := o.tasks[id]
	if t == nil {
		t = &task{}
		o.tasks[id] = t
	}
	if t.active {
		t.heard = max(t.heard, revision)
		if !t.again && t.woken != nil {
			close(t.woken)
		}
		t.again = true
		return
	}
	t.active = true
	o.group.Go(func() { l.work(o, id, t) })
}

// ownWrite tells whether a look was woken by nothing but what it wrote itself, from which it goes on: it need not be
// interrupted then, nor repeated before the time that it gives. The store may tell of a write before the writer has heard that it
// stands, so this is asked when the look would be interrupted, after its write. For who holds the lock.
func (at *turn) ownWrite() bool {
	return at.entry != nil && at.task.heard <= at.entry.Revision()
}

// undisturbed tells whether a look that was woken was so by what it wrote itself; then it is as if it had not been woken.
func (at *turn) undisturbed() bool {
	at.loop.mu.Lock()
	defer at.loop.mu.Unlock()
	if !at.ownWrite() {
		return false
	}
	at.task.again, at.wrote, at.task.woken = false, true, make(chan struct{})
	at.woken = at.task.woken
	return true
}

// work looks at an id for as long as it is woken, and then sets the timer that it asked for.
func (l *Loop) work(o *owned, id record.ID, t *task) {
	for {
		select {
		case l.slots <- struct{}{}:
		case <-o.ctx.Done():
			t.leave()
			return
		}
		at := l.turn(o, t)
		wait, err := l.reconcile(o.ctx, at, id)
		<-l.slots
		if o.ctx.Err() != nil {
			t.leave()
			return
		}
		if err != nil {
			l.Logger.Warn("reconcile", "name", id.Name, "key", id.Key, "error", err)
			wait = max(wait, time.Second)
		}
		if !at.interrupted { // else there is another look, which goes on from its place; after rest the task may be another's
			t.leave()
		}
		if l.rest(o, id, at, wait) {
			return
		}
	}
}

// turn begins a look: what is written from now on interrupts it.
func (l *Loop) turn(o *owned, t *task) *turn {
	l.mu.Lock()
	defer l.mu.Unlock()
	t.again, t.heard, t.woken = false, 0, make(chan struct{})
	return &turn{loop: l, task: t, owned: o, slots: l.slots, woken: t.woken}
}

// rest ends the work on an id, unless it was woken meanwhile.
func (l *Loop) rest(o *owned, id record.ID, at *turn, wait time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := at.task
	if wrote := at.wrote || t.again && at.ownWrite(); t.again && !at.ownWrite() || wrote && wait <= 0 {
		return false
	}
	t.again, t.active, t.woken = false, false, nil // what was closed by an own write is not closed again before the next look
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	switch {
	case wait > 0 && o.ctx.Err() == nil:
		t.timer = time.AfterFunc(wait, func() { l.Wake(id) })
	case wait <= 0:
		delete(o.tasks, id)
	}
	return true
}

// reconcile looks at one id once. It gives the time after which to look again; 0 means when it is woken.
func (l *Loop) reconcile(ctx context.Context, at *turn, id record.ID) (time.Duration, error) {
	e, err := l.Book.Get(ctx, id)
	if fault.Is(err, fault.NotFound) {
		l.parts(id, nil)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	rests := l.settled(e)
	if rests && !follows(e) {
		return 0, nil
	}
	if wake := e.Record.GetWakeTime(); !rests && wake != nil && l.Now().Before(wake.AsTime()) {
		return wake.AsTime().Sub(l.Now()), nil
	}
	e.Fence = at.owned.fence()
	if l.Controllers[e.Kind.Type] == nil { // a controller is woken by whatever it writes
		at.entry = e
	}
	at.class, at.tenant = classOf(e), resource.TenantOf(e.Name)
	at.traces, at.trace, at.kind = l.Traces, e.Record.GetOrigin().GetTraceParent(), e.Kind.Name
	if c := l.Controllers[e.Kind.Type]; c != nil {
		return l.control(ctx, at, c, e)
	}
	var wait time.Duration
	switch {
	case rests:
		wait, err = l.keepUp(ctx, at, e)
	case e.Record.GetRelease():
		wait, err = l.release(ctx, at, e)
	default:
		wait, err = l.ensure(ctx, at, e)
	}
	if record.IsConflict(err) {
		return soon, nil // the record was written meanwhile: read it again
	}
	if record.IsFenced(err) {
		at.owned.end() // whatever else this replica believes
	}
	return wait, err
}

// soon is when a look is repeated for which nothing has to be waited.
const soon = time.Millisecond

// save writes what was seen and tells it.
func (l *Loop) save(ctx context.Context, e *record.Entry) error {
	return l.Book.Save(ctx, e, participant.NoticeOf(e))
}

// refs resolves the references of a spec. Secrets are left out: they are never resolved into a request.
func (l *Loop) refs(ctx context.Context, e *record.Entry) (driver.Refs, error) {
	refs := driver.Refs{}
	for _, r := range resource.References(e.Object.Spec()) {
		if r.Type == secretType {
			continue
		}
		m, err := l.Resolver.Resolve(ctx, r.Value, e.Record.GetReferences()[r.Value])
		if fault.Is(err, fault.NotFound) {
			return nil, &fault.Error{Kind: fault.Precondition, Field: "spec." + r.Path, Message: r.Value + " does not exist"}
		}
		if err != nil {
			return nil, fault.Wrap(err, "resolve %s", r.Value)
		}
		if s := resource.Wrap(m).Status(); s.GetProviderId() == "" || s.GetPhase() == kindv1.Phase_PHASE_RELEASING {
			return nil, &fault.Error{Kind: fault.Precondition, Field: "spec." + r.Path, Message: r.Value + " is not ready"}
		}
		refs[r.Value] = m
	}
	return refs, nil
}

const secretType = "orchestrator.weft.cloud/Secret"

// request gives an entry as drivers want it.
func request(e *record.Entry, refs driver.Refs) driver.Request[proto.Message] {
	meta := e.Object.Metadata()
	return driver.Request[proto.Message]{
		Key: e.Key, Name: e.Name, Generation: meta.GetGeneration(), Labels: meta.GetLabels(), Spec: e.Object.Spec(), Refs: refs,
		Claimed: record.Claimed(e), Undo: undone(e),
	}
}
