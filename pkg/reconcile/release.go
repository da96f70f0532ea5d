package reconcile

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/crash"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// release brings one resource that is not wanted any more a step nearer to being gone.
func (l *Loop) release(ctx context.Context, at *turn, e *record.Entry) (time.Duration, error) {
	if !e.Record.GetAttempted() {
		return 0, l.gone(ctx, e) // nothing was ever asked of the cloud
	}
	refs := l.standing(ctx, e)
	d, err := l.driver(ctx, at, e, refs)
	if err != nil {
		return l.failed(ctx, at, e, err)
	}
	if d.Adopts() {
		return 0, l.gone(ctx, e)
	}
	if e.Record.GetAdopt() != "" && undone(e) {
		wait, err := l.letGo(ctx, at, e, d)
		if err != nil {
			return l.failed(ctx, at, e, err)
		}
		if wait > 0 {
			return wait, nil
		}
		return 0, l.gone(ctx, e)
	}
	if e.Object.Status().GetProviderId() == "" {
		wait, err := l.adopt(ctx, at, e, d, refs)
		if err != nil {
			return l.failed(ctx, at, e, err)
		}
		if wait > 0 {
			return wait, nil
		}
		if e.Object.Status().GetProviderId() == "" {
			return 0, l.gone(ctx, e)
		}
	}
	if wait, err := l.reclaim(ctx, at, e, d, refs); wait > 0 || err != nil || e.Object.Status().GetProviderId() == "" {
		return wait, err
	}
	return l.remove(ctx, at, e, d, refs)
}

// standing resolves the references that can be resolved; what is gone is not needed to delete.
func (l *Loop) standing(ctx context.Context, e *record.Entry) driver.Refs {
	refs, err := l.refs(ctx, e)
	if err == nil {
		return refs
	}
	refs = driver.Refs{}
	for name, key := range e.Record.GetReferences() {
		if m, err := l.Resolver.Resolve(ctx, name, key); err == nil {
			refs[name] = m
		}
	}
	return refs
}

// releaseGrace is how long an object that is to go must be missing before it is believed to be gone. It is shorter than for
// what is wanted: the provider was asked to take it away, so what counts is that two answers agree.
const releaseGrace = 500 * time.Millisecond

// miss notes that an object that is to go was not listed by an answer that was asked for at a time. It gives the time to wait
// for the next answer; none if this is another one than the first.
func (t *task) miss(asked, now time.Time) time.Duration {
	if t.missed.IsZero() {
		t.missed = now
		return releaseGrace
	}
	return releaseGrace - asked.Sub(t.missed)
}

// remove deletes the object and waits until it is gone.
func (l *Loop) remove(ctx context.Context, at *turn, e *record.Entry, d driver.Any, refs driver.Refs) (time.Duration, error) {
	id, pace := e.Object.Status().GetProviderId(), at.pace(e.Kind.Type+" release") // which takes another time than a create

	absent := false // the provider itself said that there is none
	if at.task.missed.IsZero() && !pace.asked(e.ID, l.Now()) {
		crash.Point(crash.LoopDeleteBefore)
		_, err := call(ctx, at, "delete", func(ctx context.Context) (struct{}, error) { return struct{}{}, d.Delete(ctx, id) })
		crash.Point(crash.LoopDeleteAfter)
		if fault.Is(err, fault.Conflict) || fault.Is(err, fault.Precondition) {
			return l.blocked(ctx, at, e, d, err)
		}
		if err != nil && !fault.Is(err, fault.NotFound) {
			return l.failed(ctx, at, e, fault.Wrap(err, "delete %s", e.Name))
		}
		absent = err != nil
		pace.accept(e.ID, l.Now())
	}
	asked := l.Now()
	seen, present, err := pace.observe(ctx, at, d, id)
	if err != nil {
		return l.failed(ctx, at, e, fault.Wrap(err, "observe %s", e.Name))
	}
	if !present {
		if wait := at.task.miss(asked, l.Now()); wait > 0 && !absent {
			return wait, nil
		}
		pace.ready(e.ID, at.task.missed)
		at.task.missed = time.Time{}
		return l.others(ctx, at, e, d, refs)
	}
	at.task.missed = time.Time{}
	if len(e.Object.Status().GetBlockers()) > 0 || e.Record.GetFailures() > 0 {
		e.Record.Failures = 0
		e.Object.Status().Blockers, e.Object.Status().Fault = nil, fault.Proto(seen.Fault, l.Now())
		if err := l.save(ctx, e); err != nil {
			return 0, err
		}
	}
	wait := pace.next(e.ID, l.Now())
	if seen.State == driver.Outdated { // a part of it can go only now that others are gone
		pace.askNext(e.ID)
		wait = max(wait, effect)
	}
	return wait, nil
}

// others ends a record whose object is gone or was kept, unless another bears its key, which can be if creates were sent again: then
// that one is seen to next.
func (l *Loop) others(ctx context.Context, at *turn, e *record.Entry, d driver.Any, refs driver.Refs) (time.Duration, error) {
	if !e.Record.GetResent() {
		return 0, l.gone(ctx, e)
	}
	ids, err := call(ctx, at, "find", func(ctx context.Context) ([]string, error) { return d.Find(ctx, request(e, refs)) })
	if err != nil {
		return l.failed(ctx, at, e, fault.Wrap(err, "look up %s by its key", e.Name))
	}
	if len(ids) == 0 {
		return 0, l.gone(ctx, e)
	}
	e.Object.Status().ProviderId = ids[0]
	return soon, l.Book.Save(ctx, e, record.Notice{})
}

// blocked tells what keeps the object from being deleted, and tries again later.
func (l *Loop) blocked(ctx context.Context, at *turn, e *record.Entry, d driver.Any, cause error) (time.Duration, error) {
	status := e.Object.Status()
	blockers := unnamed(at.tenant, driver.BlockersOf(cause))
	if len(blockers) > 0 {
		cause = driver.Blocked(blockers) // which names no other tenant's
	}
	if b, ok := d.Blockable(); ok {
		found, err := call(ctx, at, "blockers", func(ctx context.Context) ([]*kindv1.Blocker, error) { return b.Blockers(ctx, status.GetProviderId()) })
		if err != nil {
			return l.failed(ctx, at, e, fault.Wrap(err, "look what blocks the deletion of %s", e.Name))
		}
		blockers = append(unnamed(at.tenant, found), blockers...)
	}
	blockers = driver.SortBlockers(blockers)
	e.Record.Failures++
	wait := min(500*time.Millisecond<<min(e.Record.GetFailures()-1, 10), 15*time.Second)
	next := fault.Proto(refusal(e.Name, cause, blockers), l.Now())
	blockers = blockers[:min(len(blockers), mostBlockers)]
	same := slices.EqualFunc(blockers, status.GetBlockers(), func(a, b *kindv1.Blocker) bool { return proto.Equal(a, b) })
	told := !same || next.GetKind() != status.GetFault().GetKind()
	if told {
		status.Blockers, status.Fault = blockers, next
	}
	return wait, l.pause(ctx, e, wait, told)
}

// mostBlockers is how many blockers a status holds. Whoever clears them away sees the next ones.
const mostBlockers = 50

// refusal gives the fault of a deletion that is blocked: the provider's own words, and by whom it is blocked, unless the
// cause says so itself.
func refusal(name string, cause error, blockers []*kindv1.Blocker) error {
	if len(blockers) == 0 || len(driver.BlockersOf(cause)) > 0 {
		return fault.Wrap(cause, "delete %s", name)
	}
	err := &fault.Error{Kind: fault.KindOf(cause), Message: "it cannot go before " + driver.NameBlockers(blockers), Cause: cause}
	if inner, ok := errors.AsType[*fault.Error](cause); ok {
		err.RequestID = inner.RequestID
	}
	return fault.Wrap(err, "delete %s", name)
}

// gone ends a record whose object is gone.
func (l *Loop) gone(ctx context.Context, e *record.Entry) error {
	notice := record.Notice{Verb: "released"}
	if e.Record.GetOrigin() != nil {
		notice.Outcome = &busv1.Outcome{Origin: e.Record.GetOrigin(), Key: e.Key, Result: busv1.Result_RESULT_RELEASED}
	}
	return l.Book.Remove(ctx, e, notice)
}
