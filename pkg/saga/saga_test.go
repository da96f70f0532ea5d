package saga_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/saga"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// step makes a planned step: an ensure that a release undoes, or a retriable release.
func step(id string, retriable bool, needs ...string) *orchestratorv1.PlannedStep {
	r := &orchestratorv1.StandingResource{LocalName: id, Name: "tenants/t/servers/" + id, Key: "key-" + id, Cloud: "clouds/" + string("ab"[len(needs)%2])}
	p := &orchestratorv1.PlannedStep{
		Id: id, Needs: needs, Retriable: retriable, Goal: &orchestratorv1.Goal{Resource: r, Release: retriable},
		AttemptTimeout: durationpb.New(10 * time.Minute),
	}
	if !retriable {
		p.Undo = &orchestratorv1.Goal{Resource: r, Release: true}
	}
	return p
}

func plan(steps ...*orchestratorv1.PlannedStep) *orchestratorv1.SagaPlan {
	return &orchestratorv1.SagaPlan{
		Name: "tenants/t/operations/o", Stack: "tenants/t/stacks/s", Action: orchestratorv1.Action_ACTION_APPLY, Steps: steps,
		CreateTime: timestamppb.New(start), Deadline: timestamppb.New(start.Add(30 * time.Minute)),
	}
}

// world plays the participants: it remembers what every command did, and checks what must always hold.
type world struct {
	t        *rapid.T
	plan     *orchestratorv1.SagaPlan
	state    *orchestratorv1.SagaState
	now      time.Time
	flying   []saga.Command
	begun    map[string]bool // steps whose goal was commanded
	undone   []string        // in order
	done     []string
	everSent map[string]int
}

func newWorld(t *rapid.T, p *orchestratorv1.SagaPlan) *world {
	w := &world{t: t, plan: p, now: start, begun: map[string]bool{}, everSent: map[string]int{}}
	w.take(saga.Begin(p, nil, w.now))
	return w
}

func (w *world) id(c saga.Command) string { return w.plan.GetSteps()[c.Step].GetId() }

func (w *world) take(tr saga.Transition) {
	w.state = tr.State
	if err := saga.Check(w.plan, w.state); err != nil {
		w.t.Fatalf("%v\n%v", err, w.state)
	}
	for _, c := range tr.Commands {
		w.checkCommand(c)
		if saga.Held(w.plan, w.state, c.Step) {
			w.t.Fatalf("step %s is held and was begun", w.id(c))
		}
		w.flying = append(w.flying, c)
	}
}

// checkCommand checks that a command is due: forward when all needs are done, back when all dependants are undone.
func (w *world) checkCommand(c saga.Command) {
	id := w.id(c)
	key := fmt.Sprintf("%s/%d/%d", id, c.Direction, c.Attempt)
	if w.everSent[key]++; w.everSent[key] > 1 {
		w.t.Fatalf("command %s was sent twice", key)
	}
	if c.Direction == busv1.Direction_DIRECTION_DO {
		w.begun[id] = true
		for _, need := range w.plan.GetSteps()[c.Step].GetNeeds() {
			if !slices.Contains(w.done, need) {
				w.t.Fatalf("step %s was begun before %s was done", id, need)
			}
		}
		if w.plan.GetSteps()[c.Step].GetRetriable() {
			for _, p := range w.plan.GetSteps() {
				if !p.GetRetriable() && !slices.Contains(w.done, p.GetId()) {
					w.t.Fatalf("step %s was begun before the pivot: %s is not done", id, p.GetId())
				}
			}
		}
		return
	}
	for _, p := range w.plan.GetSteps() {
		if slices.Contains(p.GetNeeds(), id) && w.begun[p.GetId()] && !slices.Contains(w.undone, p.GetId()) {
			w.t.Fatalf("step %s is undone before %s, which needs it", id, p.GetId())
		}
	}
}

func (w *world) apply(e saga.Event) error {
	before := proto.CloneOf(w.state)
	tr, err := saga.Apply(w.plan, w.state, e, w.now)
	if !proto.Equal(before, w.state) {
		w.t.Fatalf("the old state was changed by %T", e)
	}
	if err != nil {
		return err
	}
	w.take(tr)
	return nil
}

func (w *world) outcome(c saga.Command, result busv1.Result, kind fault.Kind) saga.OutcomeReceived {
	o := &busv1.Outcome{
		Origin: &busv1.Origin{Saga: w.plan.GetName(), Step: w.id(c), Direction: c.Direction, Attempt: c.Attempt},
		Key:    w.plan.GetSteps()[c.Step].GetGoal().GetResource().GetKey(), Result: result,
	}
	if kind != "" {
		o.Fault = &kindv1.Fault{Kind: string(kind), Message: "as the test wants it"}
	}
	return saga.OutcomeReceived{Outcome: o}
}

// answer gives the good outcome of a command.
func (w *world) good(c saga.Command) busv1.Result {
	goal := w.plan.GetSteps()[c.Step].GetGoal()
	if c.Direction == busv1.Direction_DIRECTION_UNDO {
		goal = w.plan.GetSteps()[c.Step].GetUndo()
	}
	if goal.GetRelease() {
		return busv1.Result_RESULT_RELEASED
	}
	return busv1.Result_RESULT_READY
}

func (w *world) land(c saga.Command) saga.OutcomeReceived {
	i := w.plan.GetSteps()[c.Step]
	record := w.state.GetSteps()[c.Step]
	s, stuck := record.GetState(), record.GetState() == orchestratorv1.StepState_STEP_STATE_STUCK
	wants := s == orchestratorv1.StepState_STEP_STATE_RUNNING || s == orchestratorv1.StepState_STEP_STATE_BACKOFF || (stuck && record.GetUndoAttempt() == 0)
	if c.Direction == busv1.Direction_DIRECTION_UNDO {
		wants = s == orchestratorv1.StepState_STEP_STATE_UNDOING || s == orchestratorv1.StepState_STEP_STATE_UNDO_BACKOFF || (stuck && record.GetUndoAttempt() > 0)
	}
	if wants && c.Direction == busv1.Direction_DIRECTION_DO {
		w.done = append(w.done, i.GetId())
	}
	if wants && c.Direction == busv1.Direction_DIRECTION_UNDO {
		w.undone = append(w.undone, i.GetId())
	}
	return w.outcome(c, w.good(c), "")
}

func drawPlan(t *rapid.T) *orchestratorv1.SagaPlan {
	n := rapid.IntRange(1, 30).Draw(t, "steps")
	var steps []*orchestratorv1.PlannedStep
	for i := range n {
		retriable := rapid.IntRange(0, 4).Draw(t, "retriable") == 0
		var needs []string
		for j := range i {
			if steps[j].GetRetriable() && !retriable {
				continue // what stands after the pivot is needed by nothing before it
			}
			if rapid.IntRange(0, 5).Draw(t, "need") == 0 {
				needs = append(needs, steps[j].GetId())
			}
		}
		steps = append(steps, step(fmt.Sprintf("s%02d", i), retriable, needs...))
	}
	return plan(steps...)
}

// TestAlwaysEnds drives random plans with random outcomes, losses, repetitions and clocks. Whatever happens, commands
// come in order, a repeated outcome changes nothing, and the saga ends with nothing left behind or waits for a person.
func TestAlwaysEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, drawPlan(t))
		for turn := 0; !saga.Ended(w.state); turn++ {
			if turn > 3000 {
				t.Fatalf("it does not end: %v", w.state)
			}
			w.turn()
		}
		w.checkEnd()
	})
}

// turn lets one random thing happen; from some turn on, only good ones, so that it ends.
func (w *world) turn() {
	t := w.t
	if w.state.GetState() == orchestratorv1.OperationState_OPERATION_STATE_NEEDS_HAND {
		w.hand()
		return
	}
	what := rapid.IntRange(0, 14).Draw(t, "what")
	if what > 11 {
		w.hold(what == 12)
		return
	}
	if len(w.flying) == 0 || what == 0 {
		w.now = w.now.Add(time.Duration(rapid.IntRange(1, 90).Draw(t, "seconds")) * time.Second)
		wake, ok := saga.Wake(w.plan, w.state)
		if ok && len(w.flying) == 0 && w.now.Before(wake) {
			w.now = wake
		}
		must(t, w.apply(saga.Tick{}))
		if !ok && len(w.flying) == 0 && !saga.Ended(w.state) && w.state.GetState() != orchestratorv1.OperationState_OPERATION_STATE_NEEDS_HAND {
			w.hold(false) // nothing else would ever happen
		}
		return
	}
	i := rapid.IntRange(0, len(w.flying)-1).Draw(t, "which")
	c := w.flying[i]
	switch what {
	case 1: // lost
		w.flying = slices.Delete(w.flying, i, i+1)
	case 2: // it failed for good
		w.flying = slices.Delete(w.flying, i, i+1)
		must(t, w.apply(w.outcome(c, busv1.Result_RESULT_FAILED, fault.Quota)))
	case 3: // it failed, and can pass
		w.flying = slices.Delete(w.flying, i, i+1)
		must(t, w.apply(w.outcome(c, busv1.Result_RESULT_FAILED, fault.Unavailable)))
	case 4:
		must(t, w.apply(w.outcome(c, busv1.Result_RESULT_PROGRESS, "")))
	case 5:
		if err := w.apply(saga.Cancelled{}); err != nil && !fault.Is(err, fault.Precondition) {
			t.Fatal(err)
		}
	default:
		w.flying = slices.Delete(w.flying, i, i+1)
		o := w.land(c)
		must(t, w.apply(o))
		w.repeat(o)
	}
}

// hold plays the person who holds something, or lets everything go on. No deadline passes meanwhile.
func (w *world) hold(it bool) {
	if !it {
		must(w.t, w.apply(saga.CloudsHeld{}))
		must(w.t, w.apply(saga.Resumed{}))
		if w.state.GetHeldTime() != nil {
			w.t.Fatalf("nothing is held, yet time stands still: %v", w.state)
		}
		return
	}
	deadline := w.state.GetDeadline().AsTime()
	switch rapid.IntRange(0, 2).Draw(w.t, "hold") {
	case 0:
		must(w.t, w.apply(saga.Paused{Reason: "the whole"}))
	case 1:
		i := rapid.IntRange(0, len(w.plan.GetSteps())-1).Draw(w.t, "held")
		must(w.t, w.apply(saga.Paused{Step: w.plan.GetSteps()[i].GetId(), Reason: "a step"}))
	default:
		must(w.t, w.apply(saga.CloudsHeld{Clouds: []string{"clouds/a", "clouds/x"}}))
		if w.state.GetHeldTime() == nil {
			return // it has nothing there
		}
	}
	w.now = w.now.Add(24 * time.Hour)
	before := w.state.GetState()
	must(w.t, w.apply(saga.Tick{}))
	if w.state.GetHeldTime() != nil && w.state.GetState() != before && w.state.GetDeadline().AsTime().Equal(deadline) && w.state.GetState() == orchestratorv1.OperationState_OPERATION_STATE_NEEDS_HAND {
		w.t.Fatalf("a deadline passed while it was held: %v", w.state)
	}
}

// repeat delivers an outcome again: nothing may change.
func (w *world) repeat(o saga.OutcomeReceived) {
	tr, err := saga.Apply(w.plan, w.state, o, w.now)
	if err != nil || tr.Changed || len(tr.Commands) > 0 {
		w.t.Fatalf("a repeated outcome changed something: %v, %v", err, tr.State)
	}
}

// hand plays the person that a stuck saga waits for.
func (w *world) hand() {
	if rapid.Bool().Draw(w.t, "retry") {
		must(w.t, w.apply(saga.Retried{}))
		return
	}
	must(w.t, w.apply(saga.Abandoned{Reason: "the test is tired of it"}))
}

func must(t *rapid.T, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

// checkEnd checks what a saga that has ended leaves.
func (w *world) checkEnd() {
	if w.state.GetAbandonReason() != "" {
		return
	}
	for i, s := range w.state.GetSteps() {
		p := w.plan.GetSteps()[i]
		switch w.state.GetState() {
		case orchestratorv1.OperationState_OPERATION_STATE_DONE:
			if s.GetState() != orchestratorv1.StepState_STEP_STATE_DONE {
				w.t.Fatalf("the saga is done, but step %s is %s", p.GetId(), s.GetState())
			}
		default:
			if w.begun[p.GetId()] && s.GetState() != orchestratorv1.StepState_STEP_STATE_UNDONE {
				w.t.Fatalf("step %s was begun, the saga is %s, the step %s", p.GetId(), w.state.GetState(), s.GetState())
			}
			if w.begun[p.GetId()] && !slices.Contains(w.undone, p.GetId()) {
				w.t.Fatalf("step %s is said to be undone, but nobody said so", p.GetId())
			}
		}
	}
}

// TestIndependentOutcomesCommute delivers the outcomes of steps that do not depend on each other in any order: the end is
// the same.
func TestIndependentOutcomesCommute(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 8).Draw(t, "steps")
		var steps []*orchestratorv1.PlannedStep
		for i := range n {
			steps = append(steps, step(fmt.Sprintf("s%d", i), false))
		}
		p := plan(steps...)
		run := func(order []int) *orchestratorv1.SagaState {
			w := newWorld(t, p)
			for _, i := range order {
				must(t, w.apply(w.land(w.flying[i])))
			}
			return w.state
		}
		order := make([]int, n)
		for i := range order {
			order[i] = i
		}
		a, b := run(order), run(rapid.Permutation(order).Draw(t, "order"))
		if !proto.Equal(a, b) {
			t.Fatalf("the order of outcomes matters:\n%v\n%v", a, b)
		}
	})
}

// TestTogetherOrApart applies the same events one by one and all together: the state is the same, and what is sent
// together is what was sent one by one and is still wanted.
func TestTogetherOrApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPlan(t)
		w := newWorld(t, p)
		for range rapid.IntRange(0, 20).Draw(t, "turns") {
			if saga.Ended(w.state) || w.state.GetState() == orchestratorv1.OperationState_OPERATION_STATE_NEEDS_HAND {
				return
			}
			w.turn()
		}
		var events []saga.Event
		for _, c := range w.flying {
			switch rapid.IntRange(0, 4).Draw(t, "outcome") {
			case 0:
				events = append(events, w.outcome(c, busv1.Result_RESULT_FAILED, fault.Quota))
			case 1:
				events = append(events, w.outcome(c, busv1.Result_RESULT_FAILED, fault.Unavailable))
			default:
				events = append(events, w.outcome(c, w.good(c), ""))
			}
		}
		events = append(events, saga.Skipped{Step: "there is none"})
		apart, sent := w.state, []saga.Command(nil)
		for _, e := range events[:len(events)-1] {
			tr, err := saga.Apply(p, apart, e, w.now)
			must(t, err)
			apart, sent = tr.State, append(sent, tr.Commands...)
		}
		together, errs := saga.ApplyAll(p, w.state, events, w.now)
		if last := errs[len(errs)-1]; last == nil || !slices.Equal(errs[:len(errs)-1], make([]error, len(errs)-1)) {
			t.Fatalf("errors = %v", errs)
		}
		flying := saga.InFlight(apart)
		sent = slices.DeleteFunc(sent, func(c saga.Command) bool { return !slices.Contains(flying, c) })
		together.State.Sequence = apart.GetSequence()
		if !proto.Equal(apart, together.State) || !slices.Equal(sent, together.Commands) {
			t.Fatalf("apart %v\n%v\ntogether %v\n%v", sent, apart, together.Commands, together.State)
		}
	})
}

// TestHeldStandsStill holds a cloud over the deadline of a saga, and lets it go: it goes on as if no time had passed.
func TestHeldStandsStill(t *testing.T) {
	p := plan(step("net", false), step("server", false, "net"))
	now := start
	apply := func(state *orchestratorv1.SagaState, e saga.Event) saga.Transition {
		t.Helper()
		tr, err := saga.Apply(p, state, e, now)
		if err != nil {
			t.Fatal(err)
		}
		return tr
	}
	tr := saga.Begin(p, []string{"clouds/b"}, now)
	tr = apply(tr.State, saga.OutcomeReceived{Outcome: &busv1.Outcome{Origin: &busv1.Origin{Step: "net", Direction: 1, Attempt: 1}, Key: "key-net", Result: busv1.Result_RESULT_READY}})
	if wake, due := saga.Wake(p, tr.State); len(tr.Commands) > 0 || due || saga.Check(p, tr.State) != nil {
		t.Fatalf("it is held, and sends %v, wakes at %s: %v", tr.Commands, wake, saga.Check(p, tr.State))
	}
	now = now.Add(10 * time.Hour)
	held := apply(tr.State, saga.Tick{})
	if held.Changed {
		t.Fatalf("time passed while it was held: %v", held.State)
	}
	tr = apply(tr.State, saga.CloudsHeld{})
	if len(tr.Commands) != 1 || !tr.State.GetDeadline().AsTime().Equal(start.Add(10*time.Hour+30*time.Minute)) {
		t.Fatalf("it does not go on: %v, %v", tr.Commands, tr.State)
	}
}

func TestFailureUndoesInReverse(t *testing.T) {
	p := plan(step("net", false), step("server", false, "net"), step("ip", false, "server"))
	var sent []string
	take := func(tr saga.Transition) *orchestratorv1.SagaState {
		for _, c := range tr.Commands {
			sent = append(sent, fmt.Sprintf("%s %s %d", c.Direction.String()[len("DIRECTION_"):], p.GetSteps()[c.Step].GetId(), c.Attempt))
		}
		return tr.State
	}
	outcome := func(id string, d busv1.Direction, r busv1.Result, f *kindv1.Fault) saga.Event {
		return saga.OutcomeReceived{Outcome: &busv1.Outcome{
			Origin: &busv1.Origin{Step: id, Direction: d, Attempt: 1}, Key: "key-" + id, Result: r, Fault: f,
		}}
	}
	do, undo := busv1.Direction_DIRECTION_DO, busv1.Direction_DIRECTION_UNDO
	quota := &kindv1.Fault{Kind: string(fault.Quota), Message: "no more servers"}
	state := take(saga.Begin(p, nil, start))
	for _, e := range []saga.Event{
		outcome("net", do, busv1.Result_RESULT_READY, nil),
		outcome("server", do, busv1.Result_RESULT_FAILED, quota),
		outcome("server", undo, busv1.Result_RESULT_RELEASED, nil),
		outcome("net", undo, busv1.Result_RESULT_RELEASED, nil),
	} {
		tr, err := saga.Apply(p, state, e, start)
		if err != nil {
			t.Fatal(err)
		}
		state = take(tr)
	}
	want := []string{"DO net 1", "DO server 1", "UNDO server 1", "UNDO net 1"}
	if !slices.Equal(sent, want) {
		t.Errorf("sent %q, want %q", sent, want)
	}
	if state.GetState() != orchestratorv1.OperationState_OPERATION_STATE_UNDONE || !proto.Equal(state.GetFault(), quota) {
		t.Errorf("it ended as %s with %v", state.GetState(), state.GetFault())
	}
}

// TestSkippedReleaseIsForgotten skips a release that is stuck: its service is asked to forget the resource, and the saga ends
// when it has. If the service does not, a retry releases again, and a second skip needs nobody.
func TestSkippedReleaseIsForgotten(t *testing.T) {
	p := plan(step("server", true))
	apply := func(state *orchestratorv1.SagaState, e saga.Event) saga.Transition {
		t.Helper()
		tr, err := saga.Apply(p, state, e, start)
		if err := errors.Join(err, saga.Check(p, tr.State)); err != nil {
			t.Fatal(err)
		}
		return tr
	}
	told := func(attempt int32, r busv1.Result, kind fault.Kind) saga.Event {
		o := &busv1.Outcome{Origin: &busv1.Origin{Step: "server", Direction: 1, Attempt: attempt}, Key: "key-server", Result: r}
		if kind != "" {
			o.Fault = &kindv1.Fault{Kind: string(kind)}
		}
		return saga.OutcomeReceived{Outcome: o}
	}
	held := apply(saga.Begin(p, nil, start).State, told(1, busv1.Result_RESULT_FAILED, fault.Denied))
	asked := apply(held.State, saga.Skipped{Step: "server", Reason: "it is gone"})
	if s := asked.State.GetSteps()[0]; len(asked.Commands) != 1 || !s.GetForget() || s.GetState() != orchestratorv1.StepState_STEP_STATE_RUNNING {
		t.Fatalf("sent %v, step %v", asked.Commands, s)
	}
	ended := apply(asked.State, told(2, busv1.Result_RESULT_RELEASED, ""))
	if s := ended.State.GetSteps()[0]; s.GetState() != orchestratorv1.StepState_STEP_STATE_SKIPPED || s.GetSkipReason() != "it is gone" || !saga.Ended(ended.State) {
		t.Errorf("it ended as %v", ended.State)
	}
	stuck := apply(asked.State, told(2, busv1.Result_RESULT_FAILED, fault.Denied))
	if s := apply(stuck.State, saga.Retried{}).State.GetSteps()[0]; s.GetForget() || s.GetAttempt() != 3 {
		t.Errorf("a retry still forgets: %v", s)
	}
	if again := apply(stuck.State, saga.Skipped{Step: "server", Reason: "nobody answers"}); len(again.Commands) > 0 || !saga.Ended(again.State) {
		t.Errorf("a second skip led to %v", again)
	}
}

func TestIllegalEvents(t *testing.T) {
	p := plan(step("net", false))
	running := saga.Begin(p, nil, start).State
	ended := proto.CloneOf(running)
	ended.State = orchestratorv1.OperationState_OPERATION_STATE_DONE
	tests := map[string]struct {
		state *orchestratorv1.SagaState
		event saga.Event
		want  fault.Kind
	}{
		"outcome of no step":         {running, saga.OutcomeReceived{Outcome: &busv1.Outcome{Origin: &busv1.Origin{Step: "nope"}}}, fault.Invalid},
		"outcome of another key":     {running, saga.OutcomeReceived{Outcome: &busv1.Outcome{Origin: &busv1.Origin{Step: "net", Direction: 1}, Key: "x"}}, fault.Invalid},
		"skip of a running step":     {running, saga.Skipped{Step: "net", Reason: "r"}, fault.Precondition},
		"abandon while it runs":      {running, saga.Abandoned{Reason: "r"}, fault.Precondition},
		"retry of a step that is no": {running, saga.Retried{Step: "nope"}, fault.Invalid},
		"cancel after the end":       {ended, saga.Cancelled{}, fault.Precondition},
		"pause after the end":        {ended, saga.Paused{Reason: "r"}, fault.Precondition},
		"pause of a step that is no": {running, saga.Paused{Step: "nope", Reason: "r"}, fault.Invalid},
		"retry of a held step":       {saga.Begin(p, []string{"clouds/a"}, start).State, saga.Retried{Step: "net"}, fault.Precondition},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := saga.Apply(p, tt.state, tt.event, start); !fault.Is(err, tt.want) {
				t.Errorf("got %v, want a fault of kind %s", err, tt.want)
			}
		})
	}
}
