package reconcile

// How what is wanted comes to stand.
//
// Creates. That a create is about to be sent is written before it is sent, and its id as soon as it is answered; between
// the two the record says that there may be an object. Neither the create nor the write of the id is cut by a
// handover (see own.go). After an answer that was lost, or a crash, a look-up by the key decides, and a second create is
// sent when two looks found none.
//
// What may still come. An object may show up after that, if the provider took longer to make it than the looks were
// apart. So the record notes when a create is sent again, and the release of such a one looks up by the key once more
// when the object that it knows is gone, before the tombstone: whatever else bears the key goes the same way.
//
// What is gone. A wanted object that two looks miss, with no sighting between them, ends its resource as FAILED and is told as
// drift, as if a round had found it: whoever asks for the resource again, an undo too, has it looked up and made anew.

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/crash"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/participant"
	"github.com/weftcloud/weft/pkg/record"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// ensure brings one wanted resource a step nearer.
func (l *Loop) ensure(ctx context.Context, at *turn, e *record.Entry) (time.Duration, error) {
	refs, err := l.refs(ctx, e)
	if err != nil {
		return l.failed(ctx, at, e, err)
	}
	d, err := l.driver(ctx, at, e, refs)
	if err != nil {
		return l.failed(ctx, at, e, err)
	}
	if e.Record.GetRemake() {
		if wait, err := l.dismantle(ctx, at, e, d); err != nil {
			return l.failed(ctx, at, e, err)
		} else if wait > 0 {
			return wait, nil
		}
	}
	look := driver.Remembering(ctx) // what the answers to create and update tell
	if e.Object.Status().GetProviderId() == "" {
		wait, err := l.make(look, at, e, d, refs)
		if err != nil {
			return l.failed(ctx, at, e, err)
		}
		if wait > 0 {
			return wait, nil
		}
	}
	if e.Record.GetAppliedGeneration() != e.Object.Metadata().GetGeneration() {
		if err := l.update(look, at, e, d, refs); driver.IsUnfinished(err) {
			return l.unfinished(ctx, at, e)
		} else if fault.Is(err, fault.NotFound) {
			return l.unknown(ctx, at, e, d, err)
		} else if err != nil {
			return l.failed(ctx, at, e, err)
		}
		at.pace(e.Kind.Type).restart(e.ID, l.Now())
	}
	if seen, ok := told(look, d, e.Object.Status().GetProviderId()); ok {
		at.pace(e.Kind.Type).forget(e.ID)
		return 0, l.ready(ctx, e, seen)
	}
	return l.observe(ctx, at, e, d, refs)
}

// told gives an object that is ready as the answers to its create and update showed it in this very look: then nobody need
// ask for it. What is not ready is looked at later, as is whatever no answer told.
func told(look context.Context, d driver.Any, id string) (driver.Observation[proto.Message], bool) {
	t, ok := d.Teller()
	if !ok {
		return driver.Observation[proto.Message]{}, false
	}
	seen, ok := t.Told(look, id)
	return seen, ok && seen.State == driver.Ready
}

// driver opens the account of an entry for the look, and gives the driver of the entry's kind in it.
func (l *Loop) driver(ctx context.Context, at *turn, e *record.Entry, refs driver.Refs) (driver.Any, error) {
	var err error
	at.aside(func() { at.Account, err = l.Accounts.Account(ctx, e, refs) })
	if err != nil {
		return nil, err
	}
	d, ok := at.Session.Drivers[e.Kind.Type]
	if !ok {
		return nil, fault.New(fault.Unsupported, "%s has no driver for %s", at.Name, e.Kind.Name)
	}
	return d, nil
}

// make finds the object by its key, or creates it. That a create is about to be sent is written before it is sent. A wait
// says that it is not known yet whether there is one.
func (l *Loop) make(ctx context.Context, at *turn, e *record.Entry, d driver.Any, refs driver.Refs) (time.Duration, error) {
	status := e.Object.Status()
	if e.Record.GetAdopt() != "" {
		if err := l.takeOver(ctx, at, e, d, refs); err != nil {
			return 0, err
		}
	} else if e.Record.GetAttempted() {
		if wait, err := l.adopt(ctx, at, e, d, refs); wait > 0 || err != nil {
			return wait, err
		}
	}
	if status.GetProviderId() == "" {
		if err := l.create(ctx, at, e, d, refs); err != nil {
			return 0, err
		}
	}
	participant.SetPhase(e, kindv1.Phase_PHASE_CREATING, l.Now())
	status.Fault, e.Record.Failures = nil, 0
	kept, done := at.owned.outlasting(ctx)
	defer done()
	if err := l.save(kept, e); err != nil {
		return 0, err
	}
	crash.Point(crash.LoopIDAfter)
	return 0, nil
}

// adopt settles a create that may have had an effect: an object that bears the key is ours. None must be found twice,
// some time apart, before it is believed that there is none: a create may still be under way, and clouds list with a
// delay. Until then it gives the time to wait. If several are found, creates had more than one effect: one is kept.
func (l *Loop) adopt(ctx context.Context, at *turn, e *record.Entry, d driver.Any, refs driver.Refs) (time.Duration, error) {
	if e.Record.GetRefused() && !e.Record.GetResent() {
		return 0, nil // the provider itself said that it made nothing
	}
	asked := l.Now() // an answer says what was the case when it was asked for, however long it took
	ids, err := call(ctx, at, "find", func(ctx context.Context) ([]string, error) { return d.Find(ctx, request(e, refs)) })
	if err != nil {
		return 0, fault.Wrap(err, "look up %s by its key", e.Name)
	}
	if len(ids) > 0 {
		e.Object.Status().ProviderId, e.Record.MissingTime = ids[0], nil
		for _, extra := range ids[1:] {
			if _, err := call(ctx, at, "delete", func(ctx context.Context) (struct{}, error) { return struct{}{}, d.Delete(ctx, extra) }); err != nil {
				return 0, fault.Wrap(err, "delete %s, a second object for %s", extra, e.Name)
			}
		}
		return 0, l.Book.Save(ctx, e, record.Notice{})
	}
	if e.Record.GetRefused() {
		return 0, nil // the last create made nothing, and of those before it nothing is there
	}
	if e.Record.GetMissingTime() == nil {
		e.Record.MissingTime = timestamppb.New(l.Now())
		return missingGrace, l.Book.Save(ctx, e, record.Notice{})
	}
	return max(missingGrace-asked.Sub(e.Record.GetMissingTime().AsTime()), 0), nil
}

func (l *Loop) create(ctx context.Context, at *turn, e *record.Entry, d driver.Any, refs driver.Refs) error {
	wanted, secrets, err := l.opened(ctx, e, refs)
	if err != nil {
		return err
	}
	sent := false
	id, err := call(ctx, at, "create", func(ctx context.Context) (string, error) {
		if err := l.attempt(ctx, e); err != nil {
			return "", err
		}
		if err := at.owned.check(ctx); err != nil {
			return "", err // that took its time
		}
		sent = true
		crash.Point(crash.LoopCreateBefore)
		uncut, done := at.owned.outlasting(ctx)
		defer done()
		id, err := d.Create(uncut, wanted)
		return id, discreet(err, secrets)
	})
	crash.Point(crash.LoopCreateAfter)
	if err != nil && !sent {
		return err
	}
	if err != nil {
		e.Record.Refused = answered(err)
		if at.refused { // it is sent again without a failure that would be kept
			if err := l.Book.Save(ctx, e, record.Notice{}); err != nil {
				return err
			}
		}
		return fault.Wrap(err, "create %s", e.Name)
	}
	at.pace(e.Kind.Type).restart(e.ID, l.Now())
	e.Object.Status().ProviderId = id
	if !d.NeedsUpdate() {
		e.Record.AppliedGeneration, e.Record.Followed = e.Object.Metadata().GetGeneration(), followed(d, request(e, refs))
	}
	return nil
}

// attempt writes that a create is about to be sent. It is done when the look's turn to call has come, not before: what
// waits has made nothing, and may still be given up without a look-up.
func (l *Loop) attempt(ctx context.Context, e *record.Entry) error {
	if e.Record.GetAttempted() && !e.Record.GetRefused() {
		e.Record.Resent = true // none was found of the one before, which may have been too early
	}
	e.Record.Attempted, e.Record.Refused, e.Record.MissingTime = true, false, nil
	crash.Point(crash.LoopAttemptBefore)
	return l.Book.Save(ctx, e, record.Notice{})
}

// answered tells whether an error is the provider's own refusal, so that nothing was made. After any other the outcome is
// not known.
func answered(err error) bool {
	kind := fault.KindOf(err)
	return kind != fault.Unavailable && kind != fault.Internal
}

// update brings the object to the present generation.
func (l *Loop) update(ctx context.Context, at *turn, e *record.Entry, d driver.Any, refs driver.Refs) error {
	wanted, secrets, err := l.opened(ctx, e, refs)
	if err != nil {
		return err
	}
	id := e.Object.Status().GetProviderId()
	_, err = call(ctx, at, "update", func(ctx context.Context) (struct{}, error) {
		crash.Point(crash.LoopUpdateBefore)
		return struct{}{}, discreet(d.Update(ctx, id, wanted), secrets)
	})
	crash.Point(crash.LoopUpdateAfter)
	if err != nil {
		return fault.Wrap(err, "update %s", e.Name)
	}
	generation, status, from := e.Object.Metadata().GetGeneration(), e.Object.Status(), followed(d, request(e, refs))
	if e.Record.GetAppliedGeneration() == generation && e.Record.GetFailures() == 0 && status.GetFault() == nil && e.Record.GetFollowed() == from {
		return nil // there is nothing new to keep
	}
	e.Record.AppliedGeneration, e.Record.Failures, e.Record.Followed, status.Fault = generation, 0, from, nil
	return l.Book.Save(ctx, e, record.Notice{})
}

// observe looks at the object and writes what it saw.
func (l *Loop) observe(ctx context.Context, at *turn, e *record.Entry, d driver.Any, refs driver.Refs) (time.Duration, error) {
	id, pace, asked := e.Object.Status().GetProviderId(), at.pace(e.Kind.Type), l.Now()
	seen, present, err := pace.observe(ctx, at, d, id)
	if err != nil {
		return l.failed(ctx, at, e, fault.Wrap(err, "observe %s", e.Name))
	}
	if !present {
		return l.vanished(ctx, e, asked)
	}
	if err := l.sighted(ctx, e); err != nil {
		return 0, err
	}
	switch seen.State {
	case driver.Ready:
		pace.ready(e.ID, l.Now())
		return 0, l.ready(ctx, e, seen) // which wakes those that follow others
	case driver.Broken:
		pace.forget(e.ID)
		return l.broken(ctx, e, seen.Fault)
	case driver.Failed:
		pace.forget(e.ID)
		f := seen.Fault
		if f == nil {
			f = fault.New(fault.Internal, "%s failed without a reason", e.Name)
		}
		return 0, l.give(ctx, e, f)
	case driver.Outdated:
		if err := l.update(ctx, at, e, d, refs); driver.IsUnfinished(err) {
			return l.unfinished(ctx, at, e)
		} else if err != nil {
			return l.failed(ctx, at, e, err)
		}
	default:
	}
	e.Record.Failures = 0
	if l.news(e, seen.Fault) {
		if err := l.save(ctx, e); err != nil {
			return 0, err
		}
	}
	if seen.State == driver.Outdated {
		return max(pace.next(e.ID, l.Now()), effect), nil
	}
	return pace.next(e.ID, l.Now()), nil
}

// effect is how long a change of an outdated object is given to show: not every cloud tells at once that it is at work,
// and the change would be sent again with every look.
const effect = 250 * time.Millisecond

// ready writes that the object stands as wanted.
func (l *Loop) ready(ctx context.Context, e *record.Entry, seen driver.Observation[proto.Message]) error {
	handles(e.ID, seen.Observed)
	e.Object.SetObserved(seen.Observed)
	e.Record.Facts = seen.Facts
	status := e.Object.Status()
	status.Fault, status.Blockers, status.Drift = nil, nil, nil
	status.ObserveTime, status.ObservedGeneration = timestamppb.New(l.Now()), e.Object.Metadata().GetGeneration()
	e.Record.Failures, e.Record.Remakes, e.Record.WakeTime = 0, 0, nil
	participant.SetPhase(e, kindv1.Phase_PHASE_READY, l.Now())
	return l.save(ctx, e)
}

// missingGrace is how long an object must be missing before it is believed to be gone: clouds list with a delay.
const missingGrace = 2 * time.Second

// vanished deals with a wanted object that the cloud, asked at a time, does not list: once may be a delay, twice is a fact.
func (l *Loop) vanished(ctx context.Context, e *record.Entry, asked time.Time) (time.Duration, error) {
	if e.Record.GetMissingTime() == nil {
		e.Record.MissingTime = timestamppb.New(l.Now())
		return missingGrace, l.Book.Save(ctx, e, record.Notice{})
	}
	if rest := missingGrace - asked.Sub(e.Record.GetMissingTime().AsTime()); rest > 0 {
		return rest, nil
	}
	return 0, l.lose(ctx, e)
}

// unknown deals with an update that was answered with NotFound. It may be said of the object, or of what its spec asks for,
// so the object is looked for.
func (l *Loop) unknown(ctx context.Context, at *turn, e *record.Entry, d driver.Any, cause error) (time.Duration, error) {
	asked := l.Now()
	_, present, err := at.pace(e.Kind.Type).observe(ctx, at, d, e.Object.Status().GetProviderId())
	if err != nil {
		return l.failed(ctx, at, e, fault.Wrap(err, "observe %s", e.Name))
	}
	if !present {
		return l.vanished(ctx, e, asked)
	}
	e.Record.MissingTime = nil
	return l.failed(ctx, at, e, cause)
}

// lose gives up a wanted object that is gone. It is drift as well, told as when a round finds it: rounds do not look at what
// has failed, and who asks for the resource again, or repairs it, has to know that there is nothing to change.
func (l *Loop) lose(ctx context.Context, e *record.Entry) error {
	status := e.Object.Status()
	if drift := l.driftOf(e, driver.Observation[proto.Message]{}, false); !sameDrift(status.GetDrift(), drift) {
		status.Drift, status.ObserveTime = drift, drift.GetTime()
		if err := l.Book.Save(ctx, e, record.Notice{Verb: "drifted"}); err != nil {
			return err
		}
	}
	e.Record.MissingTime = nil
	return l.give(ctx, e, fault.New(fault.NotFound, "%s (%s) is gone from the cloud", e.Name, status.GetProviderId()))
}

// sighted keeps that an object was seen that had been missed: two misses count only if it was not seen between them.
func (l *Loop) sighted(ctx context.Context, e *record.Entry) error {
	if e.Record.GetMissingTime() == nil {
		return nil
	}
	e.Record.MissingTime = nil
	return l.Book.Save(ctx, e, record.Notice{})
}

// maxBackoff bounds the time between two attempts.
const maxBackoff = 30 * time.Second

// silentRefusals is how often in a row a provider may refuse a resource's call as one too many before that is told, and
// tried again less often, like other faults.
const silentRefusals = 5

// failed deals with an attempt that failed: it is tried again if the fault can pass, else given up.
func (l *Loop) failed(ctx context.Context, at *turn, e *record.Entry, err error) (time.Duration, error) {
	if at.owned.check(ctx) != nil {
		return time.Second, nil // we are stopping; the record says to the next owner what to do
	}
	if record.IsConflict(err) || record.IsFenced(err) {
		return 0, err
	}
	if errors.Is(err, errWoken) {
		return soon, nil
	}
	if at.refused && fault.Is(err, fault.Throttled) && at.task.refusals < silentRefusals {
		at.task.refusals++
		return soon, nil // it stands in line again; the budget rests for as long as the provider asked
	}
	if fault.Is(err, fault.Denied) {
		other, unasked := l.renewed(ctx, at, e)
		if other {
			return soon, nil // it was refused for credentials that others have taken the place of
		}
		if unasked != nil { // others may have: the refusal is not the last word
			err = &fault.Error{Kind: fault.Unavailable, Message: err.Error() + "; whether there are other credentials cannot be asked", Cause: unasked}
		}
	}
	if !fault.Retryable(err) {
		return 0, l.give(ctx, e, err)
	}
	e.Record.Failures++
	wait := max(min(250*time.Millisecond<<min(e.Record.GetFailures()-1, 10), maxBackoff), fault.RetryAfter(err))
	return wait, l.pause(ctx, e, wait, l.news(e, err))
}

// renewed tells whether there are other credentials now than those that the look was made with; the error says that this
// could not be found out.
func (l *Loop) renewed(ctx context.Context, at *turn, e *record.Entry) (other bool, err error) {
	r, ok := l.Accounts.(Renewer)
	if !ok || at.Account == nil {
		return false, nil
	}
	at.aside(func() { other, err = r.Renew(ctx, e, at.Account) })
	return other, err
}

// pause keeps how often a resource failed and until when it is left alone, so that neither a restart nor the loop's own
// writes cut a back-off short. told says whether the world is told, too.
func (l *Loop) pause(ctx context.Context, e *record.Entry, wait time.Duration, told bool) error {
	e.Record.WakeTime = timestamppb.New(l.Now().Add(wait))
	if told {
		return l.save(ctx, e)
	}
	return l.Book.Save(ctx, e, record.Notice{})
}

// give writes that the resource will not become what is wanted.
func (l *Loop) give(ctx context.Context, e *record.Entry, err error) error {
	e.Object.Status().Fault = fault.Proto(err, l.Now())
	e.Record.WakeTime = nil
	participant.SetPhase(e, kindv1.Phase_PHASE_FAILED, l.Now())
	return l.save(ctx, e)
}

// news notes what is being waited for, and tells whether it is news.
func (l *Loop) news(e *record.Entry, err error) bool {
	status := e.Object.Status()
	next := fault.Proto(err, l.Now())
	if next.GetKind() == status.GetFault().GetKind() && next.GetMessage() == status.GetFault().GetMessage() {
		return false
	}
	status.Fault = next
	return true
}
