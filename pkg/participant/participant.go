// Package participant is the part that every service plays in a saga: it takes commands from the bus into records,
// answers what became of them, and serves the same records to clients.
//
// # The inbox
//
// A command is recorded in one transaction and only then acked; the reconcile loop, woken by the record, does the work.
//
//	Ensure   of a key with a tombstone        refused: a released key stays released
//	         of a key that is being released  refused: undo came before do
//	         that was overtaken, see stale    refused: e.g. its sender has lost the saga
//	         of a new key                     a record is added
//	         that makes something anew        refused while the one before stands, which is taken away
//	         with another spec                the record gets a new generation
//	         with the spec that stands        the outcome is told again
//	Release  of a key with a tombstone        the outcome is told again
//	         of a key never seen              a tombstone is written, so that a late Ensure is refused
//	         of a record                      the record is marked; the loop takes the object away
//	         that only forgets, of a record   a tombstone takes its place; the cloud is not asked
//
// # What happens on a crash
//
// Before the transaction the bus delivers the command again; after it the record is found at the next start.
package participant

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/crash"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/tracing"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// Inbox takes commands into records.
type Inbox struct {
	book  *record.Book
	kinds *resource.Registry
	now   func() time.Time

	// Traces makes a span of each command; nil makes none.
	Traces *tracing.Traces

	commands *prometheus.CounterVec // by what became of them
}

// NewInbox makes the inbox of a service. kinds holds the kinds that the service owns.
func NewInbox(book *record.Book, kinds *resource.Registry, now func() time.Time) *Inbox {
	return &Inbox{book: book, kinds: kinds, now: now, commands: newCommands()}
}

// Handle takes one delivery of a command queue.
func (in *Inbox) Handle(ctx context.Context, d bus.Delivery) bus.Verdict {
	cmd := &busv1.Command{}
	if err := proto.Unmarshal(d.Data, cmd); err != nil {
		return bus.Reject
	}
	ctx, end := in.Traces.Span(ctx, cmd.GetOrigin().GetTraceParent(), "command "+cmd.GetType(), "weft.resource", cmd.GetName(), "weft.step", cmd.GetOrigin().GetStep())
	crash.Point(crash.InboxCommitBefore)
	err := in.Accept(ctx, cmd)
	crash.Point(crash.InboxAckBefore)
	end(err)
	switch {
	case err == nil:
		return bus.Ack
	case fault.Is(err, fault.Invalid), fault.Is(err, fault.Internal):
		return bus.Reject
	default:
		return bus.Later
	}
}

// Accept records a command. An Invalid or Internal fault says that it can never be recorded; any other that it may be
// tried again.
func (in *Inbox) Accept(ctx context.Context, cmd *busv1.Command) error {
	result, err := in.accept(ctx, cmd)
	if err == nil {
		in.commands.WithLabelValues(result).Inc()
	}
	return err
}

// accept records a command, and tells what became of it.
func (in *Inbox) accept(ctx context.Context, cmd *busv1.Command) (result string, err error) {
	kind, ok := in.kinds.ByType(cmd.GetType())
	if !ok {
		return "", fault.New(fault.Invalid, "command for %s: this service has no kind %s", cmd.GetName(), cmd.GetType())
	}
	if isNew, err := in.first(ctx, kind, cmd); isNew {
		return taken, err
	}
	id := record.ID{Name: cmd.GetName(), Key: cmd.GetKey()}
	if _, err := in.book.Tombstone(ctx, id.Key); err == nil {
		return in.released(ctx, id, cmd)
	} else if !fault.Is(err, fault.NotFound) {
		return "", err
	}
	e, err := in.book.Get(ctx, id)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return "", err
	}
	if fault.Is(err, fault.NotFound) {
		e = nil
	}
	if e != nil && stale(e, cmd.GetOrigin()) {
		return refused, nil // who overtook it is answered instead
	}
	if cmd.GetRelease() != nil {
		return in.release(ctx, id, e, cmd)
	}
	if cmd.GetEnsure() == nil {
		return "", fault.New(fault.Invalid, "command for %s asks for nothing", cmd.GetName())
	}
	return in.ensure(ctx, kind, e, cmd)
}

// stale tells whether a command was overtaken by the one that the record has seen: it comes from an older owner, from a
// saga before it (the names of a stack's sagas sort by age, whoever gave them, and one saga at a time works on a stack), from the way
// forward of a saga that goes back, from a step before it, or from an earlier attempt.
func stale(e *record.Entry, origin *busv1.Origin) bool {
	seen := e.Record.GetOrigin()
	switch {
	case seen == nil:
		return false
	case origin.GetEpoch() != seen.GetEpoch():
		return origin.GetEpoch() < seen.GetEpoch()
	case origin.GetSaga() != seen.GetSaga():
		return origin.GetSaga() < seen.GetSaga()
	case origin.GetDirection() != seen.GetDirection():
		return origin.GetDirection() < seen.GetDirection()
	case origin.GetStep() != seen.GetStep():
		return origin.GetPlace() < seen.GetPlace() && origin.GetPlace() > 0
	default:
		return origin.GetAttempt() < seen.GetAttempt()
	}
}

// released answers a command on a released key.
func (in *Inbox) released(ctx context.Context, id record.ID, cmd *busv1.Command) (string, error) {
	if cmd.GetRelease() == nil {
		return refused, nil // a late Ensure; a released key stays released
	}
	return duplicate, in.book.Tell(ctx, &busv1.Outcome{Origin: cmd.GetOrigin(), Key: id.Key, Result: busv1.Result_RESULT_RELEASED}, 0)
}

func (in *Inbox) release(ctx context.Context, id record.ID, e *record.Entry, cmd *busv1.Command) (string, error) {
	if e == nil {
		return taken, in.book.Bury(ctx, id, cmd.GetOrigin(), &busv1.Outcome{Origin: cmd.GetOrigin(), Key: id.Key, Result: busv1.Result_RESULT_RELEASED})
	}
	if cmd.GetRelease().GetForget() {
		return in.forget(ctx, e, cmd)
	}
	again := e.Record.GetRelease()
	e.Record.Origin, e.Record.WakeTime = cmd.GetOrigin(), nil
	if word := cmd.GetRelease().GetReclaim(); word != kindv1.Reclaim_RECLAIM_UNSPECIFIED {
		e.Record.Reclaim = word
	}
	if again {
		e.Record.Failures = 0
		SetPhase(e, kindv1.Phase_PHASE_RELEASING, in.now())
		return duplicate, in.book.Save(ctx, e, record.Notice{Outcome: Outcome(e)})
	}
	MarkReleased(e, in.now())
	return taken, in.book.Save(ctx, e, record.Notice{Verb: "releasing"})
}

// forget takes a record away without a look at the cloud.
func (in *Inbox) forget(ctx context.Context, e *record.Entry, cmd *busv1.Command) (string, error) {
	MarkReleased(e, in.now())
	e.Record.Origin = cmd.GetOrigin()
	outcome := &busv1.Outcome{Origin: cmd.GetOrigin(), Key: e.Key, Result: busv1.Result_RESULT_RELEASED}
	return taken, in.book.Remove(ctx, e, record.Notice{Verb: "released", Outcome: outcome})
}

// MarkReleased makes an entry one that is to be taken away.
func MarkReleased(e *record.Entry, now time.Time) {
	e.Record.Release, e.Record.Failures, e.Record.WakeTime = true, 0, nil
	e.Object.Metadata().DeleteTime = timestamppb.New(now)
	SetPhase(e, kindv1.Phase_PHASE_RELEASING, now)
	e.Object.Status().Fault = nil
}

func (in *Inbox) ensure(ctx context.Context, kind *resource.Kind, e *record.Entry, cmd *busv1.Command) (string, error) {
	if e != nil && e.Record.GetRelease() {
		return refused, nil // undo came before do
	}
	spec := kind.NewSpec()
	if err := cmd.GetEnsure().GetSpec().UnmarshalTo(spec); err != nil {
		return "", fault.As(fault.Invalid, fault.Wrap(err, "command for %s: decode the spec", cmd.GetName()))
	}
	if e == nil {
		return in.add(ctx, kind, spec, cmd)
	}
	e.Record.Origin = cmd.GetOrigin()
	if Same(e, spec, cmd.GetEnsure().GetLabels(), cmd.GetEnsure().GetReferences()) {
		if status := e.Object.Status(); status.GetPhase() == kindv1.Phase_PHASE_FAILED || status.GetDrift() != nil {
			Reopen(e, in.now())
		}
		e.Record.WakeTime = nil
		return duplicate, in.book.Save(ctx, e, record.Notice{Outcome: Outcome(e)})
	}
	Change(e, spec, cmd.GetEnsure().GetLabels(), cmd.GetEnsure().GetReferences(), in.now())
	err := in.book.Save(ctx, e, record.Notice{Verb: verbOf(e)})
	if !fault.Is(err, fault.Exists) {
		return taken, err
	}
	return refused, in.refuse(ctx, cmd, err) // what it claims is taken, so nothing of it was recorded
}

// first records the first Ensure of a new key without a look before: the transaction itself finds out whether key and
// name are new. It tells whether it was one; if it was not nothing was written.
func (in *Inbox) first(ctx context.Context, kind *resource.Kind, cmd *busv1.Command) (isNew bool, err error) {
	ensure, origin := cmd.GetEnsure(), cmd.GetOrigin()
	if ensure == nil || ensure.GetReplaces() != "" || origin.GetDirection() != busv1.Direction_DIRECTION_DO || origin.GetAttempt() != 1 {
		return false, nil
	}
	spec := kind.NewSpec()
	if ensure.GetSpec().UnmarshalTo(spec) != nil {
		return false, nil // it is told once it is known that the command counts
	}
	e := in.entry(kind, spec, cmd)
	err = in.book.AddFirst(ctx, e, record.Notice{Verb: verbOf(e)})
	if fault.Is(err, fault.Exists) {
		return false, nil // what it claims is taken, which is told once it is known that the command counts
	}
	return !record.IsConflict(err), err
}

// entry makes the entry that a command asks for.
func (in *Inbox) entry(kind *resource.Kind, spec proto.Message, cmd *busv1.Command) *record.Entry {
	ensure := cmd.GetEnsure()
	object := resource.Wrap(kind.New())
	object.SetName(cmd.GetName())
	object.SetCloud(ensure.GetCloud())
	object.SetSpec(spec)
	meta := object.Metadata()
	meta.Key, meta.Stack, meta.Labels = cmd.GetKey(), ensure.GetStack(), ensure.GetLabels()
	e := NewEntry(in.book, kind, object, in.now())
	e.Record.Origin, e.Record.References, e.Record.Replaces = cmd.GetOrigin(), ensure.GetReferences(), ensure.GetReplaces()
	e.Record.Adopt = ensure.GetAdopt()
	return e
}

func (in *Inbox) add(ctx context.Context, kind *resource.Kind, spec proto.Message, cmd *busv1.Command) (string, error) {
	e := in.entry(kind, spec, cmd)
	err := in.makeRoom(ctx, cmd)
	if err == nil {
		err = in.book.Add(ctx, e, record.Notice{Verb: verbOf(e)})
	}
	if !fault.Is(err, fault.Exists) && !fault.Is(err, fault.Conflict) || record.IsConflict(err) {
		return taken, err
	}
	return refused, in.refuse(ctx, cmd, err)
}

// refuse tells that a command was not taken, and why.
func (in *Inbox) refuse(ctx context.Context, cmd *busv1.Command, why error) error {
	return in.book.Tell(ctx, &busv1.Outcome{
		Origin: cmd.GetOrigin(), Key: cmd.GetKey(), Result: busv1.Result_RESULT_FAILED, Fault: fault.Proto(why, in.now()),
	}, 0)
}

// makeRoom has what a command replaces taken away, if that is asked for; Conflict says that it is not gone yet. The entry
// that goes keeps its origin: who releases it is not told of it, since what counts is that the new one stands.
func (in *Inbox) makeRoom(ctx context.Context, cmd *busv1.Command) error {
	if !cmd.GetEnsure().GetReleaseReplaced() {
		return nil
	}
	old, err := in.book.Get(ctx, record.ID{Name: cmd.GetName(), Key: cmd.GetEnsure().GetReplaces()})
	switch {
	case fault.Is(err, fault.NotFound):
		return nil
	case err != nil:
		return err
	}
	notice := record.Notice{} // what is on its way is written all the same: the loop may not know of it, if an answer was lost
	if !old.Record.GetRelease() || old.Object.Status().GetPhase() == kindv1.Phase_PHASE_FAILED {
		MarkReleased(old, in.now())
		notice.Verb = "releasing"
	}
	if err := in.book.Save(ctx, old, notice); err != nil {
		return err
	}
	return fault.New(fault.Conflict, "%s is made anew when the one before is gone", cmd.GetName())
}

// NewEntry makes the entry of a resource that is asked for now.
func NewEntry(book *record.Book, kind *resource.Kind, object resource.Object, now time.Time) *record.Entry {
	meta := object.Metadata()
	meta.Generation, meta.CreateTime, meta.UpdateTime = 1, timestamppb.New(now), timestamppb.New(now)
	e := book.NewEntry(kind, object)
	SetPhase(e, kindv1.Phase_PHASE_PENDING, now)
	return e
}

// Same tells whether an entry asks for just this already.
func Same(e *record.Entry, spec proto.Message, labels, references map[string]string) bool {
	return proto.Equal(e.Object.Spec(), spec) && equal(e.Object.Metadata().GetLabels(), labels) && equal(e.Record.GetReferences(), references)
}

func equal(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

// Change gives an entry a new spec, and with it a new generation.
func Change(e *record.Entry, spec proto.Message, labels, references map[string]string, now time.Time) {
	e.Object.SetSpec(spec)
	meta := e.Object.Metadata()
	meta.Labels, meta.UpdateTime = labels, timestamppb.New(now)
	meta.Generation++
	e.Record.References = references
	Reopen(e, now)
}

// Reopen makes the loop try an entry again from the start. An object that is not as it was made is brought to its spec, one
// that is gone is looked for by its key and then made again.
func Reopen(e *record.Entry, now time.Time) {
	e.Record.Failures, e.Record.WakeTime = 0, nil
	status := e.Object.Status()
	if drift := status.GetDrift(); drift != nil {
		e.Record.AppliedGeneration = 0
		if drift.GetType() == kindv1.DriftType_DRIFT_TYPE_MISSING {
			status.ProviderId, e.Record.MissingTime, e.Record.Adopt = "", nil, "" // what is made now was not adopted
		}
	}
	status.Fault, status.Blockers, status.Drift = nil, nil, nil
	phase := kindv1.Phase_PHASE_UPDATING
	if status.GetProviderId() == "" {
		phase = kindv1.Phase_PHASE_PENDING
	}
	SetPhase(e, phase, now)
}

// SetPhase enters a phase.
func SetPhase(e *record.Entry, phase kindv1.Phase, now time.Time) {
	status := e.Object.Status()
	if status.GetPhase() != phase {
		status.Phase, status.PhaseTime = phase, timestamppb.New(now)
	}
}

// verbs are the verbs of the events, by the phase that is entered.
var verbs = map[kindv1.Phase]string{
	kindv1.Phase_PHASE_PENDING:   "pending",
	kindv1.Phase_PHASE_CREATING:  "creating",
	kindv1.Phase_PHASE_READY:     "ready",
	kindv1.Phase_PHASE_UPDATING:  "updating",
	kindv1.Phase_PHASE_RELEASING: "releasing",
	kindv1.Phase_PHASE_FAILED:    "failed",
}

func verbOf(e *record.Entry) string { return verbs[e.Object.Status().GetPhase()] }

// NoticeOf gives what the present state of an entry tells the world.
func NoticeOf(e *record.Entry) record.Notice {
	n := record.Notice{Verb: verbOf(e)}
	if e.Record.GetOrigin() != nil {
		n.Outcome = Outcome(e)
	}
	return n
}

// Outcome gives what has become of the command that an entry answers, as it stands now.
func Outcome(e *record.Entry) *busv1.Outcome {
	status := e.Object.Status()
	o := &busv1.Outcome{
		Origin: e.Record.GetOrigin(), Key: e.Key, Result: busv1.Result_RESULT_PROGRESS,
		Fault: status.GetFault(), Blockers: slices.Clone(status.GetBlockers()), ProviderId: status.GetProviderId(),
	}
	switch {
	case status.GetPhase() == kindv1.Phase_PHASE_FAILED:
		o.Result = busv1.Result_RESULT_FAILED
	case !e.Record.GetRelease() && status.GetPhase() == kindv1.Phase_PHASE_READY && status.GetObservedGeneration() == e.Object.Metadata().GetGeneration():
		o.Result = busv1.Result_RESULT_READY
		observed, err := anypb.New(e.Object.Observed())
		if err != nil {
			o.Result, o.Fault = busv1.Result_RESULT_FAILED, &kindv1.Fault{Kind: string(fault.Internal), Message: "encode what was observed: " + err.Error()}
			return o
		}
		o.Observed, o.Fault = observed, nil
	}
	return o
}

// Query gives what became of the command of an origin, on a key; known is false if the service has not taken it. A key
// that is released is known whoever asks; what else stands may be what an earlier command asked for. Without an origin it
// is told as it stands.
func (in *Inbox) Query(ctx context.Context, id record.ID, origin *busv1.Origin) (outcome *busv1.Outcome, known bool, err error) {
	if _, err := in.book.Tombstone(ctx, id.Key); err == nil {
		return &busv1.Outcome{Origin: origin, Key: id.Key, Result: busv1.Result_RESULT_RELEASED}, true, nil
	} else if !fault.Is(err, fault.NotFound) {
		return nil, false, err
	}
	e, err := in.book.Get(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	if taken := e.Record.GetOrigin(); origin != nil && (taken.GetSaga() != origin.GetSaga() || taken.GetStep() != origin.GetStep() || taken.GetDirection() != origin.GetDirection()) {
		return nil, false, nil
	}
	o := Outcome(e)
	o.Origin = origin
	return o, true, nil
}
