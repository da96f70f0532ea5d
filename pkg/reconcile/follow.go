package reconcile

// What is done for objects that are ready: following, and making anew what is broken.
//
// Followers. What an object of such a kind is made from includes what its references observe (driver.Follower). What that
// was when the object was last brought to its spec is kept in its record. While the object is ready its references are
// looked at every few seconds; when they tell something else, the record says that the object is being updated, and from
// there it goes as with a new generation: after a crash the next owner goes on. The object itself is looked at, too, less
// often, for it tells how what it leads to works.
//
// Broken objects. A provider may say of an object that only another one can be of use (driver.Broken). The record says that
// it is to be made anew, and how often in a row that was so; it is taken away, and when the provider lists it no longer a
// new one is made as the first was: by the key, after a look-up. Three in a row that break are given up.

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/participant"
	"github.com/weftcloud/weft/pkg/record"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// The times of following.
const (
	// followEvery is the time between two looks at what an object follows.
	followEvery = 2 * time.Second
	// watchEvery is the time between two looks at an object that follows others.
	watchEvery = 10 * time.Second
	// unfinishedPause is the time between two parts of a change that the provider takes one after the other.
	unfinishedPause = 500 * time.Millisecond
	// mostRemakes is how many broken objects in a row are replaced.
	mostRemakes = 3
)

// follows tells whether an entry's object follows others. It does so while it is ready.
func follows(e *record.Entry) bool {
	return !e.Record.GetRelease() && e.Record.GetFollowed() != "" && e.Object.Status().GetPhase() == kindv1.Phase_PHASE_READY
}

// followed gives what an object is made from of what its references observe; empty if it follows none.
func followed(d driver.Any, r driver.Request[proto.Message]) string {
	f, ok := d.Follower()
	if !ok {
		return ""
	}
	return f.Follows(r)
}

// keepUp looks whether an object that is ready is still what it should be.
func (l *Loop) keepUp(ctx context.Context, at *turn, e *record.Entry) (time.Duration, error) {
	refs, err := l.refs(ctx, e)
	if err != nil {
		return followEvery, l.passing(e, err) // what it follows is on its way, or goes with it
	}
	d, err := l.driver(ctx, at, e, refs)
	if err != nil {
		return followEvery, l.passing(e, err)
	}
	if followed(d, request(e, refs)) != e.Record.GetFollowed() {
		e.Record.AppliedGeneration = 0
		participant.SetPhase(e, kindv1.Phase_PHASE_UPDATING, l.Now())
		return soon, l.Book.Save(ctx, e, record.Notice{Verb: "updating"})
	}
	if now := l.Now(); at.task.watched.IsZero() {
		at.task.watched = now
	} else if now.Sub(at.task.watched) >= watchEvery {
		at.task.watched = now
		return followEvery, l.watch(ctx, at, e, d)
	}
	return followEvery, nil
}

// passing drops a fault of a look that nobody waits for: the next look comes soon, and the object stands as it is.
func (l *Loop) passing(e *record.Entry, err error) error {
	if fault.Retryable(err) || errors.Is(err, errWoken) {
		l.Logger.Debug("look at what is followed; it is tried again", "name", e.Name, "key", e.Key, "error", err)
		return nil
	}
	return err
}

// watch looks at an object that is ready, and writes what is another now.
func (l *Loop) watch(ctx context.Context, at *turn, e *record.Entry, d driver.Any) error {
	asked := l.Now()
	seen, present, err := at.pace(e.Kind.Type).observe(ctx, at, d, e.Object.Status().GetProviderId())
	switch {
	case err != nil:
		return l.passing(e, err)
	case !present:
		if e.Record.GetMissingTime() != nil && l.Now().Sub(e.Record.GetMissingTime().AsTime()) > 2*watchEvery {
			e.Record.MissingTime = nil // that was another time
		}
		if e.Record.GetMissingTime() == nil {
			e.Record.MissingTime = timestamppb.New(l.Now())
			return l.Book.Save(ctx, e, record.Notice{})
		}
		if asked.Sub(e.Record.GetMissingTime().AsTime()) < missingGrace {
			return nil
		}
		_, err := l.note(ctx, e.ID, e.Object.Status().GetProviderId(), driver.Observation[proto.Message]{}, false)
		return err
	case seen.State == driver.Broken:
		_, err := l.broken(ctx, e, seen.Fault)
		return err
	case seen.State != driver.Ready || proto.Equal(seen.Observed, e.Object.Observed()):
		return l.sighted(ctx, e)
	}
	e.Record.MissingTime = nil
	handles(e.ID, seen.Observed)
	e.Object.SetObserved(seen.Observed)
	e.Object.Status().ObserveTime = timestamppb.New(l.Now())
	return l.Book.Save(ctx, e, record.Notice{Verb: "observed"})
}

// broken has an object made anew, unless too many were broken in a row.
func (l *Loop) broken(ctx context.Context, e *record.Entry, why error) (time.Duration, error) {
	if why == nil {
		why = fault.New(fault.Internal, "%s is broken without a reason", e.Name)
	}
	if e.Record.GetRemakes() >= mostRemakes {
		return 0, l.give(ctx, e, fault.Wrap(why, "%s was made anew %d times", e.Name, mostRemakes))
	}
	e.Record.Remake = true
	e.Record.Remakes++
	e.Object.Status().Fault = fault.Proto(fault.Wrap(why, "%s is made anew", e.Name), l.Now())
	participant.SetPhase(e, kindv1.Phase_PHASE_UPDATING, l.Now())
	return soon, l.save(ctx, e)
}

// dismantle takes a broken object away. It gives the time to wait while it stands.
func (l *Loop) dismantle(ctx context.Context, at *turn, e *record.Entry, d driver.Any) (time.Duration, error) {
	status, pace := e.Object.Status(), at.pace(e.Kind.Type+" release")
	if id := status.GetProviderId(); id != "" {
		if !pace.asked(e.ID, l.Now()) {
			_, err := call(ctx, at, "delete", func(ctx context.Context) (struct{}, error) { return struct{}{}, d.Delete(ctx, id) })
			if err != nil && !fault.Is(err, fault.NotFound) {
				return 0, fault.Wrap(err, "delete %s, which is broken", e.Name)
			}
			pace.accept(e.ID, l.Now())
		}
		_, present, err := pace.observe(ctx, at, d, id)
		if err != nil {
			return 0, fault.Wrap(err, "observe %s", e.Name)
		}
		if present {
			return pace.next(e.ID, l.Now()), nil
		}
		pace.ready(e.ID, l.Now())
	}
	status.ProviderId = ""
	e.Record.Remake, e.Record.AppliedGeneration, e.Record.MissingTime, e.Record.Refused, e.Record.Adopt = false, 0, nil, false, ""
	return 0, l.Book.Save(ctx, e, record.Notice{})
}

// unfinished waits for the provider to be done with a part of a change. It is no failure.
func (l *Loop) unfinished(ctx context.Context, at *turn, e *record.Entry) (time.Duration, error) {
	at.pace(e.Kind.Type).restart(e.ID, l.Now())
	if e.Record.GetFailures() == 0 && e.Object.Status().GetFault() == nil {
		return unfinishedPause, nil
	}
	e.Record.Failures, e.Object.Status().Fault = 0, nil
	return unfinishedPause, l.Book.Save(ctx, e, record.Notice{})
}
