// Package saga is the pure core of the saga engine: what happens to a saga when something happens. It does no I/O, has
// no clock and imports neither the bus nor the store.
//
// # Background
//
// A plan (SagaPlan) is an acyclic graph of steps and never changes. Compensable steps come first; when all of them are
// done the saga has passed its pivot, and the retriable steps (deletions) begin. Before the pivot a failure undoes every
// step that was started, each after the steps that need it. After the pivot the saga only goes forward.
//
// # States of a step
//
//	          needs done              ready/released
//	WAITING ───────────▶ RUNNING ───────────────────────▶ DONE
//	   │                 │  ▲ │ failed, will not pass
//	   │ saga goes back  │  │ └───────────────▶ FAILED     (before the pivot)
//	   ▼                 ▼  │                   STUCK      (after the pivot)
//	DROPPED            BACKOFF
//
//	RUNNING, BACKOFF, DONE, FAILED ──dependants undone──▶ UNDOING ──▶ UNDONE
//	                                                      │  ▲   └──▶ STUCK
//	                                                      ▼  │
//	                                                    UNDO_BACKOFF
//
//	STUCK ──retry──▶ RUNNING or UNDOING;  STUCK ──skip──▶ SKIPPED
//
// A release that is skipped is RUNNING or UNDOING once more, until its service has forgotten the resource. If that gets
// stuck, too, the next skip needs no one.
//
// # States of a saga
//
//	RUNNING ──▶ DONE
//	   │ a step failed, a cancel, the deadline
//	   ▼
//	UNDOING ──▶ UNDONE, CANCELLED, or FAILED if nothing was started
//	NEEDS_HAND: nothing moves and a step is stuck; retry and skip lead back, abandon ends in FAILED.
//
// A person may hold a saga, a step, or a cloud. What is held is not begun and not tried again, forward or back; what is
// under way is ended, and its outcome taken. While anything of a saga is held its deadline stands still.
//
// # The four deadlines
//
// A command of which nothing is heard is sent again after QueueLimit; one of which something was heard, and then nothing
// more, after SilenceLimit. A step that is not done within its attempt timeout has failed. A saga that is not done by its
// deadline goes back, or if it cannot needs a hand.
//
// # Who may write, and what happens on a crash
//
// Only the owner of the saga's shard writes its state, fenced by its epoch. The commands of a transition are a function
// of the state before and after; InFlight gives those that a new owner sends again, with the same message ids.
package saga

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/fault"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// Short names for the states.
const (
	waiting     = orchestratorv1.StepState_STEP_STATE_WAITING
	running     = orchestratorv1.StepState_STEP_STATE_RUNNING
	backoff     = orchestratorv1.StepState_STEP_STATE_BACKOFF
	done        = orchestratorv1.StepState_STEP_STATE_DONE
	failed      = orchestratorv1.StepState_STEP_STATE_FAILED
	undoing     = orchestratorv1.StepState_STEP_STATE_UNDOING
	undoBackoff = orchestratorv1.StepState_STEP_STATE_UNDO_BACKOFF
	undone      = orchestratorv1.StepState_STEP_STATE_UNDONE
	stuck       = orchestratorv1.StepState_STEP_STATE_STUCK
	dropped     = orchestratorv1.StepState_STEP_STATE_DROPPED
	skipped     = orchestratorv1.StepState_STEP_STATE_SKIPPED

	sagaRunning   = orchestratorv1.OperationState_OPERATION_STATE_RUNNING
	sagaUndoing   = orchestratorv1.OperationState_OPERATION_STATE_UNDOING
	sagaDone      = orchestratorv1.OperationState_OPERATION_STATE_DONE
	sagaFailed    = orchestratorv1.OperationState_OPERATION_STATE_FAILED
	sagaCancelled = orchestratorv1.OperationState_OPERATION_STATE_CANCELLED
	sagaUndone    = orchestratorv1.OperationState_OPERATION_STATE_UNDONE
	sagaNeedsHand = orchestratorv1.OperationState_OPERATION_STATE_NEEDS_HAND
)

// Timing of attempts.
const (
	// QueueLimit is how long a command may stay without any answer before it is sent again: it may be lost.
	QueueLimit = 10 * time.Second
	// SilenceLimit is how long a step may stay without further news before its command is sent again. The command is
	// idempotent; the participant answers it with how far it is.
	SilenceLimit = 20 * time.Second
	// DefaultAttemptTimeout is how long a step may take, from its first command, if the plan does not say.
	DefaultAttemptTimeout = 15 * time.Minute
	// maxFailures is how often a step may fail with a fault that can pass, before the pivot.
	maxFailures = 5

	firstBackoff = time.Second
	maxBackoff   = time.Minute
)

// Event is something that happens to a saga.
type Event interface{ event() }

// The events.
type (
	// OutcomeReceived: a participant told what became of a command.
	OutcomeReceived struct{ Outcome *busv1.Outcome }
	// Tick: time has passed.
	Tick struct{}
	// Cancelled: a client asked to cancel.
	Cancelled struct{}
	// Retried: a person asks to try a stuck step again, or with an empty Step all of them.
	Retried struct{ Step string }
	// Skipped: a person says that a stuck step is to be taken as done. What it was to release is forgotten.
	Skipped struct{ Step, Reason string }
	// Abandoned: a person ends a saga that needs a hand, leaving what it left.
	Abandoned struct{ Reason string }
	// Refused: the orchestrator itself could not send a step's command, e.g. because its spec cannot be resolved.
	Refused struct {
		Step  string
		Fault *kindv1.Fault
	}
	// Paused: a person asks to begin nothing more, or with a Step not to begin that one.
	Paused struct{ Step, Reason string }
	// Resumed: a person lets a step go on, or without one the saga and all of its steps.
	Resumed struct{ Step string }
	// CloudsHeld: these are all the clouds at which nothing is to be begun now.
	CloudsHeld struct{ Clouds []string }
)

func (OutcomeReceived) event() {}
func (Tick) event()            {}
func (Cancelled) event()       {}
func (Retried) event()         {}
func (Skipped) event()         {}
func (Abandoned) event()       {}
func (Refused) event()         {}
func (Paused) event()          {}
func (Resumed) event()         {}
func (CloudsHeld) event()      {}

// Command is a command to be sent.
type Command struct {
	// Step is the step's index in the plan.
	Step int
	// Direction is forward or back.
	Direction busv1.Direction
	// Attempt counts the commands of the step and direction, from 1.
	Attempt int32
}

// Transition is what an event leads to.
type Transition struct {
	// State is the new state. The old one is not changed.
	State *orchestratorv1.SagaState
	// Commands are to be sent once State is kept.
	Commands []Command
	// Changed tells whether State differs from the old one.
	Changed bool
	// Successes are the outcomes by which a step was done or undone, in the order in which they were applied.
	Successes []*busv1.Outcome
}

// Begin gives the first state of a saga and its first commands. held are the clouds that are held now.
func Begin(plan *orchestratorv1.SagaPlan, held []string, now time.Time) Transition {
	state := &orchestratorv1.SagaState{State: sagaRunning, Deadline: plan.GetDeadline()}
	for range plan.GetSteps() {
		state.Steps = append(state.Steps, &orchestratorv1.StepRecord{State: waiting})
	}
	m := machine{plan: plan, state: state, now: now}
	m.holdClouds(held)
	m.advance()
	return m.finish(nil)
}

// Apply gives what event leads to. An event that does not fit is an error: Invalid if it can fit no state of this saga,
// Precondition if it does not fit this one. A late or repeated outcome fits and changes nothing.
func Apply(plan *orchestratorv1.SagaPlan, state *orchestratorv1.SagaState, event Event, now time.Time) (Transition, error) {
	tr, errs := ApplyAll(plan, state, []Event{event}, now)
	if errs[0] != nil {
		return Transition{}, errs[0]
	}
	return tr, nil
}

// ApplyAll gives what events lead to that are applied one after the other, as one transition: a command that a later one
// of them makes void is not sent. errs has an entry for each event, nil if it fitted; one that did not changes nothing.
func ApplyAll(plan *orchestratorv1.SagaPlan, state *orchestratorv1.SagaState, events []Event, now time.Time) (tr Transition, errs []error) {
	m := machine{plan: plan, state: proto.CloneOf(state), now: now}
	errs = make([]error, len(events))
	for i, event := range events {
		if errs[i] = m.apply(event); errs[i] == nil && !Ended(m.state) {
			m.advance()
		}
	}
	return m.finish(state), errs
}

// apply takes one event.
func (m *machine) apply(event Event) error {
	if Ended(m.state) {
		switch event.(type) {
		case OutcomeReceived, Tick, CloudsHeld:
			return nil
		default:
			return fault.New(fault.Precondition, "operation %s has ended", m.plan.GetName())
		}
	}
	switch e := event.(type) {
	case OutcomeReceived:
		return m.outcome(e.Outcome)
	case Refused:
		return m.refused(e)
	case Tick:
		m.tick()
		return nil
	case Cancelled:
		return m.cancel()
	case Retried:
		return m.retry(e.Step)
	case Skipped:
		return m.skip(e)
	case Abandoned:
		return m.abandon(e.Reason)
	case Paused:
		return m.pause(e)
	case Resumed:
		return m.letGo(e.Step)
	case CloudsHeld:
		m.holdClouds(e.Clouds)
		return nil
	default:
		return fault.New(fault.Invalid, "operation %s: unknown event %T", m.plan.GetName(), event)
	}
}

// Ended tells whether a saga has ended for good.
func Ended(state *orchestratorv1.SagaState) bool {
	switch state.GetState() {
	case sagaDone, sagaFailed, sagaCancelled, sagaUndone:
		return true
	default:
		return false
	}
}

// InFlight gives the commands that are under way, for a new owner to send again.
func InFlight(state *orchestratorv1.SagaState) []Command {
	var out []Command
	for i, s := range state.GetSteps() {
		switch s.GetState() {
		case running:
			out = append(out, Command{Step: i, Direction: busv1.Direction_DIRECTION_DO, Attempt: s.GetAttempt()})
		case undoing:
			out = append(out, Command{Step: i, Direction: busv1.Direction_DIRECTION_UNDO, Attempt: s.GetUndoAttempt()})
		default:
		}
	}
	return out
}

// Wake gives the time at which a Tick is due; false if the saga has ended or waits for a person.
func Wake(plan *orchestratorv1.SagaPlan, state *orchestratorv1.SagaState) (wake time.Time, due bool) {
	if Ended(state) || state.GetState() == sagaNeedsHand {
		return time.Time{}, false
	}
	if state.GetHeldTime() == nil {
		wake, due = state.GetDeadline().AsTime(), true
	}
	for i, s := range state.GetSteps() {
		if s.GetWakeTime() == nil || !moving(s.GetState()) || Held(plan, state, i) {
			continue
		}
		if at := s.GetWakeTime().AsTime(); !due || at.Before(wake) {
			wake, due = at, true
		}
	}
	return wake, due
}

// Held tells whether a step is not to be begun, since a person holds it, its cloud or the saga.
func Held(plan *orchestratorv1.SagaPlan, state *orchestratorv1.SagaState, step int) bool {
	return state.GetHold() != nil || state.GetSteps()[step].GetHold() != nil ||
		slices.Contains(state.GetHeldClouds(), plan.GetSteps()[step].GetGoal().GetResource().GetCloud())
}

// Only tells whether two states of a saga differ in nothing that must be kept at once: when to look again, whether a
// participant was heard, and the count of transitions. What is lost of it is found again.
func Only(before, after *orchestratorv1.SagaState) bool {
	if before.GetState() != after.GetState() || len(before.GetSteps()) != len(after.GetSteps()) {
		return false
	}
	like := proto.CloneOf(after)
	like.Sequence = before.GetSequence()
	for i, s := range like.GetSteps() {
		s.WakeTime, s.Heard = before.GetSteps()[i].GetWakeTime(), before.GetSteps()[i].GetHeard()
	}
	return proto.Equal(before, like)
}

// Pivoted tells whether all compensable steps are done, so that the saga can only go forward.
func Pivoted(plan *orchestratorv1.SagaPlan, state *orchestratorv1.SagaState) bool {
	for i, p := range plan.GetSteps() {
		if !p.GetRetriable() && !settled(state.GetSteps()[i].GetState()) {
			return false
		}
	}
	return true
}

// Check tells what is wrong with a state; nil if nothing is. An unfinished saga must have a next action.
func Check(plan *orchestratorv1.SagaPlan, state *orchestratorv1.SagaState) error {
	if len(plan.GetSteps()) != len(state.GetSteps()) {
		return fault.New(fault.Internal, "operation %s: %d steps are planned, %d kept", plan.GetName(), len(plan.GetSteps()), len(state.GetSteps()))
	}
	if Ended(state) {
		if len(InFlight(state)) > 0 && state.GetAbandonReason() == "" && !plan.GetKeepOnFailure() {
			return fault.New(fault.Internal, "operation %s has ended with a command in flight", plan.GetName())
		}
		return nil
	}
	if state.GetHeldTime() != nil {
		return nil // the next action is a person's
	}
	for _, s := range state.GetSteps() {
		if moving(s.GetState()) && s.GetWakeTime() != nil {
			return nil
		}
		if s.GetState() == stuck && state.GetState() == sagaNeedsHand {
			return nil
		}
	}
	return fault.New(fault.Internal, "operation %s has no next action", plan.GetName())
}

func moving(s orchestratorv1.StepState) bool {
	return s == running || s == backoff || s == undoing || s == undoBackoff
}

func settled(s orchestratorv1.StepState) bool { return s == done || s == skipped }

// machine is one transition in the making.
type machine struct {
	plan     *orchestratorv1.SagaPlan
	state    *orchestratorv1.SagaState
	now      time.Time
	commands []Command
	// successes are the outcomes by which steps were done or undone.
	successes []*busv1.Outcome
}

func (m *machine) index(step string) (int, error) {
	i := slices.IndexFunc(m.plan.GetSteps(), func(p *orchestratorv1.PlannedStep) bool { return p.GetId() == step })
	if i < 0 {
		return 0, fault.InField("step", "operation %s has no step %q", m.plan.GetName(), step)
	}
	return i, nil
}

// outcome takes what a participant told.
func (m *machine) outcome(o *busv1.Outcome) error {
	i, err := m.index(o.GetOrigin().GetStep())
	if err != nil {
		return err
	}
	back := o.GetOrigin().GetDirection() == busv1.Direction_DIRECTION_UNDO
	step, goal := m.state.GetSteps()[i], m.goal(i, back)
	current := step.GetAttempt()
	if back {
		current = step.GetUndoAttempt()
	}
	if goal.GetResource().GetKey() != o.GetKey() {
		return fault.InField("key", "operation %s, step %s: the outcome is of another key", m.plan.GetName(), o.GetOrigin().GetStep())
	}
	if o.GetResult() < busv1.Result_RESULT_READY || o.GetResult() > busv1.Result_RESULT_PROGRESS {
		return fault.InField("result", "operation %s, step %s: outcome without a result", m.plan.GetName(), o.GetOrigin().GetStep())
	}
	if !m.expects(step, back) {
		return nil // it comes late: the saga has turned since, or the step is over
	}
	step.Heard = true
	if o.GetProviderId() != "" {
		step.ProviderId = o.GetProviderId()
	}
	switch o.GetResult() {
	case busv1.Result_RESULT_READY, busv1.Result_RESULT_RELEASED:
		if (o.GetResult() == busv1.Result_RESULT_RELEASED) != goal.GetRelease() {
			return nil // the answer to a former command on the same key
		}
		m.succeed(step, back)
		m.successes = append(m.successes, o)
	case busv1.Result_RESULT_FAILED:
		if o.GetOrigin().GetAttempt() == current && (step.GetState() == running || step.GetState() == undoing) {
			m.fail(i, back, o.GetFault())
		}
	case busv1.Result_RESULT_PROGRESS:
		step.Fault, step.Blockers = o.GetFault(), o.GetBlockers()
		if step.GetState() == running || step.GetState() == undoing {
			step.WakeTime = timestamppb.New(m.now.Add(SilenceLimit))
		}
	default:
	}
	return nil
}

// expects tells whether a step still waits for an outcome of this direction. A stuck step does: good news may come late.
func (m *machine) expects(step *orchestratorv1.StepRecord, back bool) bool {
	switch step.GetState() {
	case running, backoff:
		return !back
	case undoing, undoBackoff:
		return back
	case stuck:
		return back == (step.GetUndoAttempt() > 0)
	default:
		return false
	}
}

func (m *machine) succeed(step *orchestratorv1.StepRecord, back bool) {
	switch {
	case step.GetForget():
		step.State = skipped
	case back:
		step.State = undone
	default:
		step.State = done
	}
	step.Fault, step.Blockers, step.WakeTime, step.EndTime = nil, nil, nil, timestamppb.New(m.now)
}

// fail takes a failure: it backs off if the fault can pass, else the step has failed, or is stuck if it cannot be given up.
func (m *machine) fail(i int, back bool, f *kindv1.Fault) {
	step := m.state.GetSteps()[i]
	step.Fault = f
	passes := fault.Kind(f.GetKind()).Retryable()
	switch {
	case back && passes:
		step.State, step.WakeTime = undoBackoff, m.after(i, step.GetUndoAttempt())
	case back:
		step.State, step.WakeTime = stuck, nil
	case passes && (m.plan.GetSteps()[i].GetRetriable() || step.GetAttempt() < maxFailures):
		step.State, step.WakeTime = backoff, m.after(i, step.GetAttempt())
	case m.plan.GetSteps()[i].GetRetriable():
		step.State, step.WakeTime = stuck, nil
	default:
		step.State, step.WakeTime, step.EndTime = failed, nil, timestamppb.New(m.now)
		m.goBack(f)
	}
}

// goBack turns the saga round, if it can still be turned.
func (m *machine) goBack(f *kindv1.Fault) {
	if m.state.GetState() == sagaUndoing {
		return
	}
	if m.state.GetFault() == nil {
		m.state.Fault = f
	}
	m.state.State = sagaUndoing
	m.state.Deadline = timestamppb.New(m.now.Add(m.allowance()))
	if m.plan.GetKeepOnFailure() && !m.state.GetCancelRequested() {
		m.end(sagaFailed)
		return
	}
	for i, step := range m.state.GetSteps() {
		if step.GetState() == waiting {
			step.State = dropped
			continue
		}
		if m.plan.GetSteps()[i].GetUndo() == nil && step.GetState() != dropped && step.GetState() != skipped {
			step.State, step.WakeTime = undone, nil
		}
	}
}

// allowance is the time that the plan gave for the whole.
func (m *machine) allowance() time.Duration {
	return max(m.plan.GetDeadline().AsTime().Sub(m.plan.GetCreateTime().AsTime()), time.Minute)
}

func (m *machine) refused(e Refused) error {
	i, err := m.index(e.Step)
	if err != nil {
		return err
	}
	switch m.state.GetSteps()[i].GetState() {
	case running:
		m.fail(i, false, e.Fault)
	case undoing:
		m.fail(i, true, e.Fault)
	default:
	}
	return nil
}

// tick deals with everything whose time has come.
func (m *machine) tick() {
	if m.state.GetState() == sagaNeedsHand {
		return
	}
	if m.state.GetHeldTime() == nil && !m.now.Before(m.state.GetDeadline().AsTime()) {
		m.expire()
		return
	}
	for i, step := range m.state.GetSteps() {
		if !moving(step.GetState()) || step.GetWakeTime() == nil || m.now.Before(step.GetWakeTime().AsTime()) || m.held(i) {
			continue
		}
		if step.GetState() == running && m.overdue(i) {
			m.fail(i, false, &kindv1.Fault{
				Kind: string(fault.Internal), Time: timestamppb.New(m.now),
				Message: "the step was not done in its time" + lastFault(step),
			})
			continue
		}
		m.send(i, step.GetState() == undoing || step.GetState() == undoBackoff)
	}
}

func lastFault(step *orchestratorv1.StepRecord) string {
	if step.GetFault() == nil {
		return ""
	}
	return "; the last it said was: " + step.GetFault().GetMessage()
}

// overdue tells whether a forward step before the pivot has used up its time.
func (m *machine) overdue(i int) bool {
	p := m.plan.GetSteps()[i]
	if p.GetRetriable() {
		return false
	}
	limit := p.GetAttemptTimeout().AsDuration()
	if limit <= 0 {
		limit = DefaultAttemptTimeout
	}
	began := m.state.GetSteps()[i].GetStartTime().AsTime()
	if resumed := m.state.GetResumeTime(); resumed != nil && resumed.AsTime().After(began) {
		began = resumed.AsTime()
	}
	return m.now.Sub(began) >= limit
}

// expire deals with the saga's deadline: before the pivot it goes back; after it, or when it goes back already, what is
// not over is stuck.
func (m *machine) expire() {
	f := &kindv1.Fault{Kind: string(fault.Unavailable), Message: "the operation was not done by its deadline", Time: timestamppb.New(m.now)}
	if m.state.GetState() == sagaRunning && !Pivoted(m.plan, m.state) {
		m.goBack(f)
		return
	}
	for _, step := range m.state.GetSteps() {
		if moving(step.GetState()) {
			step.State, step.WakeTime = stuck, nil
			if step.GetFault() == nil {
				step.Fault = f
			}
		}
	}
	if m.state.GetFault() == nil {
		m.state.Fault = f
	}
}

func (m *machine) cancel() error {
	if m.state.GetState() != sagaRunning && m.state.GetState() != sagaUndoing {
		return fault.New(fault.Precondition, "operation %s needs a hand: retry or skip its stuck steps, or abandon it", m.plan.GetName())
	}
	if m.state.GetState() == sagaRunning && Pivoted(m.plan, m.state) {
		return fault.New(fault.Precondition, "operation %s has begun to delete and can only go forward", m.plan.GetName())
	}
	if m.state.GetCancelRequested() {
		return nil
	}
	m.state.CancelRequested = true
	m.state.Hold = nil // who cancels wants it undone
	for _, step := range m.state.GetSteps() {
		step.Hold = nil
	}
	m.countHolds()
	m.goBack(&kindv1.Fault{Kind: string(fault.Precondition), Message: "the operation was cancelled", Time: timestamppb.New(m.now)})
	return nil
}

// retry sends stuck and waiting steps again at once.
func (m *machine) retry(step string) error {
	only := -1
	if step != "" {
		i, err := m.index(step)
		if err != nil {
			return err
		}
		only = i
	}
	tried := false
	for i, s := range m.state.GetSteps() {
		if (only >= 0 && i != only) || !(s.GetState() == stuck || moving(s.GetState())) || m.held(i) {
			continue
		}
		tried = true
		s.Forget = s.GetForget() && s.GetState() != stuck
		m.send(i, s.GetState() == undoing || s.GetState() == undoBackoff || (s.GetState() == stuck && s.GetUndoAttempt() > 0))
	}
	if !tried {
		return fault.New(fault.Precondition, "operation %s: nothing there waits to be tried again", m.plan.GetName())
	}
	m.resume()
	return nil
}

// resume leads a saga that needed a hand on its way again.
func (m *machine) resume() {
	if m.state.GetState() != sagaNeedsHand {
		return
	}
	m.state.State = sagaRunning
	if slices.ContainsFunc(m.state.GetSteps(), func(s *orchestratorv1.StepRecord) bool { return s.GetUndoAttempt() > 0 || s.GetState() == dropped }) {
		m.state.State = sagaUndoing
	} else {
		m.state.Fault = nil
	}
	m.state.Deadline = timestamppb.New(m.now.Add(m.allowance()))
}

func (m *machine) skip(e Skipped) error {
	i, err := m.index(e.Step)
	if err != nil {
		return err
	}
	step := m.state.GetSteps()[i]
	if step.GetState() != stuck {
		return fault.New(fault.Precondition, "operation %s, step %s is not stuck; only a stuck step can be skipped", m.plan.GetName(), e.Step)
	}
	step.SkipReason = e.Reason
	if back := step.GetUndoAttempt() > 0; m.goal(i, back).GetRelease() && !step.GetForget() {
		step.Forget = true
		m.send(i, back)
	} else {
		step.State, step.EndTime, step.WakeTime = skipped, timestamppb.New(m.now), nil
	}
	m.resume()
	return nil
}

// goal gives what a step is to bring about, forward or back.
func (m *machine) goal(i int, back bool) *orchestratorv1.Goal {
	if back {
		return m.plan.GetSteps()[i].GetUndo()
	}
	return m.plan.GetSteps()[i].GetGoal()
}

func (m *machine) abandon(reason string) error {
	if m.state.GetState() != sagaNeedsHand {
		return fault.New(fault.Precondition, "operation %s does not need a hand; cancel it instead", m.plan.GetName())
	}
	m.state.AbandonReason = reason
	m.end(sagaFailed)
	return nil
}

func (m *machine) held(i int) bool { return Held(m.plan, m.state, i) }

// pause holds the saga or a step.
func (m *machine) pause(e Paused) error {
	if m.state.GetState() == sagaNeedsHand {
		return fault.New(fault.Precondition, "operation %s needs a hand and does nothing as it is", m.plan.GetName())
	}
	hold := &orchestratorv1.Hold{Reason: e.Reason, Time: timestamppb.New(m.now)}
	if e.Step == "" {
		m.state.Hold = hold
		m.countHolds()
		return nil
	}
	i, err := m.index(e.Step)
	if err != nil {
		return err
	}
	m.state.GetSteps()[i].Hold = hold
	m.countHolds()
	return nil
}

// letGo lets the saga and all of its steps go on, or one step. That nothing was held is no error.
func (m *machine) letGo(step string) error {
	let := m.state.GetSteps()
	if step != "" {
		i, err := m.index(step)
		if err != nil {
			return err
		}
		let = let[i : i+1]
	}
	found := step == "" && m.state.GetHold() != nil
	if found {
		m.state.Hold = nil
	}
	for _, s := range let {
		found = found || s.GetHold() != nil
		s.Hold = nil
	}
	if found {
		m.state.ResumeTime = timestamppb.New(m.now)
	}
	m.countHolds()
	return nil
}

// holdClouds takes the clouds that are held now; those that the plan has nothing at do not matter.
func (m *machine) holdClouds(clouds []string) {
	var held []string
	for _, p := range m.plan.GetSteps() {
		cloud := p.GetGoal().GetResource().GetCloud()
		if cloud != "" && slices.Contains(clouds, cloud) && !slices.Contains(held, cloud) {
			held = append(held, cloud)
		}
	}
	slices.Sort(held)
	if len(held) < len(m.state.GetHeldClouds()) {
		m.state.ResumeTime = timestamppb.New(m.now)
	}
	m.state.HeldClouds = held
	m.countHolds()
}

// countHolds notes since when anything is held. When nothing is any more the deadline is put off by that time.
func (m *machine) countHolds() {
	held := m.state.GetHold() != nil || len(m.state.GetHeldClouds()) > 0 ||
		slices.ContainsFunc(m.state.GetSteps(), func(s *orchestratorv1.StepRecord) bool { return s.GetHold() != nil })
	switch {
	case held && m.state.GetHeldTime() == nil:
		m.state.HeldTime = timestamppb.New(m.now)
	case !held && m.state.GetHeldTime() != nil:
		stood := m.now.Sub(m.state.GetHeldTime().AsTime())
		m.state.Deadline = timestamppb.New(m.state.GetDeadline().AsTime().Add(stood))
		m.state.HeldTime = nil
	}
}

// send sends a step's next command.
func (m *machine) send(i int, back bool) {
	step := m.state.GetSteps()[i]
	if step.GetStartTime() == nil {
		step.StartTime = timestamppb.New(m.now)
	}
	step.WakeTime, step.Heard = timestamppb.New(m.now.Add(QueueLimit)), false
	if back {
		step.State, step.EndTime = undoing, nil
		step.UndoAttempt++
		m.commands = append(m.commands, Command{Step: i, Direction: busv1.Direction_DIRECTION_UNDO, Attempt: step.GetUndoAttempt()})
		return
	}
	step.State = running
	step.Attempt++
	m.commands = append(m.commands, Command{Step: i, Direction: busv1.Direction_DIRECTION_DO, Attempt: step.GetAttempt()})
}

// after gives the end of a back-off: it doubles with each attempt, and is spread by the step's place so that many steps
// that failed together do not come back together.
func (m *machine) after(i int, attempt int32) *timestamppb.Timestamp {
	wait := maxBackoff
	if attempt < 7 {
		wait = min(firstBackoff<<max(attempt-1, 0), maxBackoff)
	}
	spread := time.Duration((i*7919+int(attempt)*104729)%250) * wait / 1000
	return timestamppb.New(m.now.Add(wait + spread))
}

// finish gives the transition.
func (m *machine) finish(before *orchestratorv1.SagaState) Transition {
	if before != nil && proto.Equal(before, m.state) {
		return Transition{State: before}
	}
	m.state.Sequence++
	flying := InFlight(m.state)
	m.commands = slices.DeleteFunc(m.commands, func(c Command) bool { return !slices.Contains(flying, c) })
	return Transition{State: m.state, Commands: m.commands, Changed: true, Successes: m.successes}
}

// advance begins what can begin, and ends the saga if nothing is left.
func (m *machine) advance() {
	if m.state.GetState() == sagaNeedsHand && !slices.ContainsFunc(m.state.GetSteps(), func(s *orchestratorv1.StepRecord) bool { return s.GetState() == stuck }) {
		m.resume() // good news came late
	}
	switch m.state.GetState() {
	case sagaRunning:
		m.forward()
	case sagaUndoing:
		m.backward()
	default:
	}
}

// forward begins the steps whose needs are done; retriable ones only after the pivot.
func (m *machine) forward() {
	pivoted := Pivoted(m.plan, m.state)
	over, moves := true, m.state.GetHeldTime() != nil
	for i, p := range m.plan.GetSteps() {
		step := m.state.GetSteps()[i]
		if step.GetState() == waiting && (pivoted || !p.GetRetriable()) && !m.held(i) && m.all(p.GetNeeds(), settled) {
			m.send(i, false)
		}
		over = over && settled(step.GetState())
		moves = moves || moving(step.GetState())
	}
	if over {
		m.end(sagaDone)
		return
	}
	if !moves {
		m.state.State = sagaNeedsHand
	}
}

// backward begins to undo the steps that no step depends on any more.
func (m *machine) backward() {
	gone := func(s orchestratorv1.StepState) bool { return s == undone || s == dropped || s == skipped }
	over, moves, started := true, m.state.GetHeldTime() != nil, false
	for i := len(m.plan.GetSteps()) - 1; i >= 0; i-- {
		step := m.state.GetSteps()[i]
		if !gone(step.GetState()) && !m.back(step) && !m.held(i) && m.dependantsGone(m.plan.GetSteps()[i].GetId(), gone) {
			m.send(i, true)
		}
		over = over && gone(step.GetState())
		moves = moves || moving(step.GetState())
		started = started || step.GetAttempt() > 0
	}
	switch {
	case over && m.state.GetCancelRequested():
		m.end(sagaCancelled)
	case over && !started:
		m.end(sagaFailed)
	case over:
		m.end(sagaUndone)
	case !moves:
		m.state.State = sagaNeedsHand
	}
}

// back tells whether a step is on its way back, or is stuck.
func (m *machine) back(step *orchestratorv1.StepRecord) bool {
	s := step.GetState()
	return s == undoing || s == undoBackoff || s == stuck
}

func (m *machine) all(ids []string, ok func(orchestratorv1.StepState) bool) bool {
	for _, id := range ids {
		i, err := m.index(id)
		if err != nil || !ok(m.state.GetSteps()[i].GetState()) {
			return false
		}
	}
	return true
}

func (m *machine) dependantsGone(id string, gone func(orchestratorv1.StepState) bool) bool {
	for i, p := range m.plan.GetSteps() {
		if slices.Contains(p.GetNeeds(), id) && !gone(m.state.GetSteps()[i].GetState()) {
			return false
		}
	}
	return true
}

func (m *machine) end(state orchestratorv1.OperationState) {
	m.state.State, m.state.EndTime = state, timestamppb.New(m.now)
}
