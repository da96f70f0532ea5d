package reconcile

// Kinds that are made of other kinds of the same service.
//
// Background. Some kinds are no object at a provider: a scaling group is a number of servers. Such a kind has a Controller
// in place of drivers. It adds and releases records of the service, its parts; the ordinary loop makes those real, so that
// all that is true of them (keys before calls, budgets, tombstones, the ledger) is true of parts, at every provider.
//
// Who is woken. The record is looked at when it is written, when one of its parts is, and when the time is over that the
// last look gave. It is never settled: who owns it goes on looking at it while it stands.
//
// Who may write. The controller writes its own record and the records of its parts, all with the fence of its own record's
// shard; the loop writes what it sees of parts. Both compare what they read.
//
// What happens on a crash. A controller keeps in its record what it is about to do before it does it, a part's key among
// it, and looks at what stands before it goes on: whatever stops it, the next look brings it to the same end.

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
)

// Controller makes resources of one kind real by other records of the same service. It is safe for concurrent use, and
// keeps nothing of a resource beside its record.
type Controller interface {
	// Control looks at one record and does what is next. It is called again when the record or a part is written, and at
	// the latest after the time that it gives; 0 means that there is nothing to wait for. It MUST NOT write what stands
	// already: each write wakes it.
	Control(ctx context.Context, h *Hand) (time.Duration, error)
}

// Hand is what a controller works with while it looks at a record.
type Hand struct {
	// Entry is the record.
	Entry *record.Entry
	// Book holds the records of the service.
	Book *record.Book
	// Now is the time.
	Now func() time.Time

	loop *Loop
	at   *turn
}

// Parts says which records the record is made of now: when one of them is written it is looked at again.
func (h *Hand) Parts(ids []record.ID) { h.loop.parts(h.Entry.ID, ids) }

// Warn tells the log of a fault that the controller goes on in spite of.
func (h *Hand) Warn(what string, err error) {
	h.loop.Logger.Warn(what, "name", h.Entry.Name, "key", h.Entry.Key, "error", err)
}

// Aside does what may take long, so that others are worked on meanwhile.
func (h *Hand) Aside(do func()) { h.at.aside(do) }

// Observe looks at the objects of parts of one kind in one account, with one call that draws on the account's budget. An
// id that is absent from the answer does not exist.
func (h *Hand) Observe(ctx context.Context, parts []*record.Entry) (map[string]driver.Observation[proto.Message], error) {
	if len(parts) == 0 {
		return nil, nil
	}
	d, err := h.loop.driver(ctx, h.at, parts[0], nil)
	if err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(parts))
	for _, p := range parts {
		ids = append(ids, p.Object.Status().GetProviderId())
	}
	return call(ctx, h.at, "observe", func(ctx context.Context) (map[string]driver.Observation[proto.Message], error) {
		return d.Observe(ctx, ids)
	})
}

// control has the controller of a record look at it.
func (l *Loop) control(ctx context.Context, at *turn, c Controller, e *record.Entry) (time.Duration, error) {
	wait, err := c.Control(ctx, &Hand{Entry: e, Book: l.Book, Now: l.Now, loop: l, at: at})
	switch {
	case record.IsConflict(err), at.interrupted:
		return soon, nil // it was written meanwhile: read it again
	case record.IsFenced(err):
		at.owned.end()
	case at.owned.check(ctx) != nil:
		return time.Second, nil
	}
	return wait, fault.Wrap(err, "control %s", e.Name)
}

// parts notes whose parts records are, in place of what was noted before.
func (l *Loop) parts(whole record.ID, parts []record.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wanted := make(map[record.ID]bool, len(parts))
	for _, p := range parts {
		wanted[p] = true
		l.wholes[p] = whole
	}
	for _, p := range l.partsOf[whole] {
		if !wanted[p] {
			delete(l.wholes, p)
		}
	}
	l.partsOf[whole] = parts
	if len(parts) == 0 {
		delete(l.partsOf, whole)
	}
}
