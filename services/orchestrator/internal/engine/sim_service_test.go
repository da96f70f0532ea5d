package engine

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/participant"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// simService is one participant: the real inbox and records, and a loop above the cloud that takes its steps in the order
// in which package reconcile takes them.
type simService struct {
	sim     *sim
	name    string
	life    int
	process *simProcess
	book    *record.Book
	inbox   *participant.Inbox
	tasks   map[record.ID]*simTask
}

// simTask is the work on one record.
type simTask struct {
	id            record.ID
	active, again bool
	timer         *simEvent
	polls         int
	asked         bool // a delete was accepted
}

func newSimService(s *sim, name string) *simService {
	v := &simService{sim: s, name: name}
	v.start()
	return v
}

func (s *sim) service(name string) *simService {
	for _, v := range s.services {
		if v.name == name {
			return v
		}
	}
	panic("there is no service " + name)
}

// start starts a process, which works on all that is not where it should be.
func (v *simService) start() {
	s := v.sim
	v.life++
	p := &simProcess{sim: s, name: fmt.Sprintf("%s.%d", v.name, v.life)}
	p.died = func() { s.after(s.upTo(10*time.Second), nil, v.start) }
	view := &simStore{sim: s, process: p}
	box := newSimOutbox(s, p, view, record.Prefix(v.name)+"o/")
	now := func() time.Time { return s.now }
	v.process, v.tasks = p, map[record.ID]*simTask{}
	v.book = record.New(record.Config{Service: v.name, Store: view, Outbox: box, Kinds: s.kinds, Now: now, Changed: func(c record.Change) { v.wake(c.ID) }})
	v.inbox = participant.NewInbox(v.book, s.kinds, now)
	box.Recover()
	s.after(s.upTo(sweepOutbox), p, box.sweep)
	s.after(0, p, v.load)
	s.after(30*time.Minute, p, v.sweep)
	s.note("%s starts", p.name)
}

// tombstoneAge is how long tombstones are kept; as long as package reconcile keeps them.
const tombstoneAge = 2 * time.Hour

func (v *simService) sweep() {
	if _, err := v.book.Sweep(context.Background(), tombstoneAge); err != nil {
		v.sim.note("%s: sweep: %s", v.name, fault.KindOf(err))
	}
	v.sim.after(30*time.Minute, v.process, v.sweep)
}

func (v *simService) load() {
	entries, _, err := v.book.List(context.Background(), "", record.ID{}, 0)
	if err != nil {
		v.sim.after(time.Second, v.process, v.load)
		return
	}
	for _, e := range entries {
		if !simSettled(e) {
			v.wake(e.ID)
		}
	}
}

// handle takes a command.
func (v *simService) handle(d bus.Delivery, _ *busv1.Command) bus.Verdict {
	return v.inbox.Handle(context.Background(), d)
}

// query answers an orchestrator.
func (v *simService) query(origin *busv1.Origin, name, key string) (*busv1.Outcome, error) {
	if v.sim.mutant.blindQuery {
		origin = proto.CloneOf(origin)
		o, known, err := v.inbox.Query(context.Background(), record.ID{Name: name, Key: key}, nil)
		if err != nil || !known {
			return nil, err
		}
		o.Origin = origin
		return o, nil
	}
	o, known, err := v.inbox.Query(context.Background(), record.ID{Name: name, Key: key}, origin)
	if err != nil || !known {
		return nil, err
	}
	return o, nil
}

// wake has the loop look at a record.
func (v *simService) wake(id record.ID) {
	t := v.tasks[id]
	if t == nil {
		t = &simTask{id: id}
		v.tasks[id] = t
	}
	if t.active {
		t.again = true
		return
	}
	t.active = true
	v.sim.after(v.sim.upTo(2*time.Millisecond), v.process, func() { v.look(t) })
}

// rest ends a look.
func (v *simService) rest(t *simTask, wait time.Duration, err error) {
	switch {
	case record.IsConflict(err):
		wait = time.Millisecond
	case err != nil:
		wait = max(wait, time.Second)
	}
	t.active = false
	if t.timer != nil {
		t.timer.over, t.timer = true, nil
	}
	switch {
	case t.again:
		t.again = false
		v.wake(t.id)
	case wait > 0:
		t.timer = v.sim.after(wait, v.process, func() { v.wake(t.id) })
	default:
		delete(v.tasks, t.id)
	}
}

// simSettled tells whether there is nothing to do for a record.
func simSettled(e *record.Entry) bool {
	status := e.Object.Status()
	return status.GetPhase() == kindv1.Phase_PHASE_FAILED || !e.Record.GetRelease() && status.GetPhase() == kindv1.Phase_PHASE_READY &&
		status.GetObservedGeneration() == e.Object.Metadata().GetGeneration()
}

// look looks at a record once.
func (v *simService) look(t *simTask) {
	e, err := v.book.Get(context.Background(), t.id)
	switch {
	case fault.Is(err, fault.NotFound):
		v.rest(t, 0, nil)
	case err != nil:
		v.rest(t, 0, err)
	case simSettled(e):
		v.rest(t, 0, nil)
	case e.Record.GetWakeTime() != nil && v.sim.now.Before(e.Record.GetWakeTime().AsTime()):
		v.rest(t, e.Record.GetWakeTime().AsTime().Sub(v.sim.now), nil)
	case e.Record.GetRelease():
		v.release(t, e)
	default:
		v.ensure(t, e)
	}
}

func (v *simService) save(e *record.Entry) error {
	return v.book.Save(context.Background(), e, participant.NoticeOf(e))
}

func (v *simService) keep(e *record.Entry) error {
	return v.book.Save(context.Background(), e, record.Notice{})
}

// failed ends a look at which something failed.
func (v *simService) failed(t *simTask, e *record.Entry, err error) {
	if record.IsConflict(err) {
		v.rest(t, 0, err)
		return
	}
	status := e.Object.Status()
	if !fault.Retryable(err) {
		status.Fault, e.Record.WakeTime = fault.Proto(err, v.sim.now), nil
		participant.SetPhase(e, kindv1.Phase_PHASE_FAILED, v.sim.now)
		v.rest(t, 0, v.save(e))
		return
	}
	e.Record.Failures++
	wait := min(250*time.Millisecond<<min(e.Record.GetFailures()-1, 10), 30*time.Second)
	e.Record.WakeTime = timestamppb.New(v.sim.now.Add(wait))
	next := fault.Proto(err, v.sim.now)
	if next.GetKind() == status.GetFault().GetKind() && next.GetMessage() == status.GetFault().GetMessage() {
		v.rest(t, wait, v.keep(e))
		return
	}
	status.Fault = next
	v.rest(t, wait, v.save(e))
}

// references looks whether what a spec refers to stands.
func (v *simService) references(e *record.Entry) error {
	for _, r := range resource.References(e.Object.Spec()) {
		kind, _, err := v.sim.kinds.Of(r.Value)
		if err != nil {
			return err
		}
		other := v.sim.service(kind.Service)
		if !other.process.up() {
			return fault.New(fault.Unavailable, "%s does not answer", other.name)
		}
		found, err := v.sim.records(other.name).Get(context.Background(), record.ID{Name: r.Value, Key: e.Record.GetReferences()[r.Value]})
		if err != nil {
			return fault.New(fault.Precondition, "%s does not exist", r.Value)
		}
		if s := found.Object.Status(); s.GetProviderId() == "" || s.GetPhase() == kindv1.Phase_PHASE_RELEASING {
			return fault.New(fault.Precondition, "%s is not ready", r.Value)
		}
	}
	return nil
}

// records gives the records of a service, past all trouble.
func (s *sim) records(service string) *record.Book {
	return record.New(record.Config{Service: service, Store: s.store, Kinds: s.kinds, Now: func() time.Time { return s.now }})
}

func (v *simService) ensure(t *simTask, e *record.Entry) {
	if err := v.references(e); err != nil {
		v.failed(t, e, err)
		return
	}
	if e.Object.Status().GetProviderId() != "" {
		v.update(t, e)
		return
	}
	v.adopt(t, e, func() {
		if e.Object.Status().GetProviderId() != "" {
			v.created(t, e)
			return
		}
		v.create(t, e)
	})
}

// missingGrace is how long an object must be missing before it is believed that there is none.
const missingGrace = 2 * time.Second

// adopt settles a create that may have had an effect, and then goes on.
func (v *simService) adopt(t *simTask, e *record.Entry, then func()) {
	if !e.Record.GetAttempted() || e.Record.GetRefused() || v.sim.mutant.noLookup && !e.Record.GetRelease() {
		then()
		return
	}
	asked := v.sim.now
	v.sim.cloud.find(v.process, e.Key, func(ids []string, err error) {
		switch {
		case err != nil:
			v.failed(t, e, err)
		case len(ids) > 0:
			e.Object.Status().ProviderId, e.Record.MissingTime = ids[0], nil
			if err := v.keep(e); err != nil {
				v.rest(t, 0, err)
				return
			}
			then()
		case e.Record.GetMissingTime() == nil:
			e.Record.MissingTime = timestamppb.New(v.sim.now)
			v.rest(t, missingGrace, v.keep(e))
		default:
			if rest := missingGrace - asked.Sub(e.Record.GetMissingTime().AsTime()); rest > 0 {
				v.rest(t, rest, nil)
				return
			}
			then()
		}
	})
}

// create writes that a create is about to be sent, and sends it.
func (v *simService) create(t *simTask, e *record.Entry) {
	if !e.Record.GetAttempted() || e.Record.GetRefused() || e.Record.GetMissingTime() != nil {
		e.Record.Attempted, e.Record.Refused, e.Record.MissingTime = true, false, nil
		if err := v.keep(e); err != nil {
			v.rest(t, 0, err)
			return
		}
	}
	v.sim.cloud.create(v.process, v.name, e, func(id string, err error) {
		if err != nil {
			kind := fault.KindOf(err)
			e.Record.Refused = kind != fault.Unavailable && kind != fault.Internal
			v.failed(t, e, err)
			return
		}
		e.Object.Status().ProviderId = id
		if v.name != "compute" { // whose driver wants an update after a create
			e.Record.AppliedGeneration = e.Object.Metadata().GetGeneration()
		}
		v.created(t, e)
	})
}

func (v *simService) created(t *simTask, e *record.Entry) {
	t.polls = 0
	participant.SetPhase(e, kindv1.Phase_PHASE_CREATING, v.sim.now)
	e.Object.Status().Fault, e.Record.Failures = nil, 0
	if err := v.save(e); err != nil {
		v.rest(t, 0, err)
		return
	}
	v.update(t, e)
}

// update brings the object to the present generation, and looks at it.
func (v *simService) update(t *simTask, e *record.Entry) {
	generation := e.Object.Metadata().GetGeneration()
	if e.Record.GetAppliedGeneration() == generation {
		v.observe(t, e)
		return
	}
	t.polls = 0
	v.sim.cloud.update(v.process, e, func(err error) {
		if err != nil {
			v.failed(t, e, err)
			return
		}
		e.Record.AppliedGeneration, e.Record.Failures, e.Object.Status().Fault = generation, 0, nil
		if err := v.keep(e); err != nil {
			v.rest(t, 0, err)
			return
		}
		v.observe(t, e)
	})
}

// poll gives the time until the next look: it grows.
func (t *simTask) poll() time.Duration {
	t.polls++
	return min(500*time.Millisecond<<min(t.polls-1, 6), 30*time.Second)
}

func (v *simService) observe(t *simTask, e *record.Entry) {
	asked := v.sim.now
	v.sim.cloud.observe(v.process, e.Object.Status().GetProviderId(), func(seen *simSeen, err error) {
		switch {
		case err != nil:
			v.failed(t, e, err)
		case seen == nil && e.Record.GetMissingTime() == nil:
			e.Record.MissingTime = timestamppb.New(v.sim.now)
			v.rest(t, missingGrace, v.keep(e))
		case seen == nil:
			if rest := missingGrace - asked.Sub(e.Record.GetMissingTime().AsTime()); rest > 0 {
				v.rest(t, rest, nil)
				return
			}
			v.failed(t, e, fault.New(fault.NotFound, "%s is gone from the cloud", e.Name))
		case seen.broken:
			v.failed(t, e, fault.New(fault.Internal, "it failed at the cloud"))
		case seen.ready:
			v.ready(t, e, seen)
		default:
			e.Record.MissingTime = nil
			v.rest(t, t.poll(), nil)
		}
	})
}

func (v *simService) ready(t *simTask, e *record.Entry, seen *simSeen) {
	e.Record.MissingTime = nil
	e.Object.SetObserved(seen.observed)
	status := e.Object.Status()
	status.Fault, status.Blockers = nil, nil
	status.ObserveTime, status.ObservedGeneration = timestamppb.New(v.sim.now), e.Object.Metadata().GetGeneration()
	e.Record.Failures, e.Record.WakeTime = 0, nil
	participant.SetPhase(e, kindv1.Phase_PHASE_READY, v.sim.now)
	v.rest(t, 0, v.save(e))
}

func (v *simService) release(t *simTask, e *record.Entry) {
	if !e.Record.GetAttempted() {
		v.gone(t, e)
		return
	}
	if e.Object.Status().GetProviderId() != "" {
		v.remove(t, e)
		return
	}
	v.adopt(t, e, func() {
		if e.Object.Status().GetProviderId() == "" {
			v.gone(t, e)
			return
		}
		v.remove(t, e)
	})
}

func (v *simService) gone(t *simTask, e *record.Entry) {
	notice := record.Notice{Verb: "released"}
	if e.Record.GetOrigin() != nil {
		notice.Outcome = &busv1.Outcome{Origin: e.Record.GetOrigin(), Key: e.Key, Result: busv1.Result_RESULT_RELEASED}
	}
	v.rest(t, 0, v.book.Remove(context.Background(), e, notice))
}

// remove deletes the object and waits until it is gone.
func (v *simService) remove(t *simTask, e *record.Entry) {
	id := e.Object.Status().GetProviderId()
	wait := func() {
		v.sim.cloud.observe(v.process, id, func(seen *simSeen, err error) {
			switch {
			case err != nil:
				v.failed(t, e, err)
			case seen == nil:
				v.gone(t, e)
			default:
				v.rest(t, t.poll(), nil)
			}
		})
	}
	if t.asked {
		wait()
		return
	}
	t.polls = 0
	v.sim.cloud.delete(v.process, id, e.Key, func(err error) {
		if err != nil && !fault.Is(err, fault.NotFound) {
			v.failed(t, e, err)
			return
		}
		t.asked = true
		wait()
	})
}
