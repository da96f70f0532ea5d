package engine

import (
	"context"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/saga"
	"github.com/weftcloud/weft/pkg/store"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

func pad(n int) string {
	s := strconv.Itoa(n)
	return strings.Repeat("0", max(0, 5-len(s))) + s
}

// commandID is the message id of a command: it bears the attempt, so that a command that is sent again for want of news
// is another message, and one that is sent again after a crash is the same.
func commandID(o *busv1.Origin) string {
	return o.GetSaga() + "." + o.GetStep() + "." + strconv.Itoa(int(o.GetDirection())) + "." + strconv.Itoa(int(o.GetAttempt()))
}

// takeOver loads every unfinished saga, arms its timer, and settles what is under way.
func (e *Engine) takeOver(ctx context.Context) error {
	page, err := e.Store.List(ctx, prefix+"s/", store.ListOptions{})
	if err != nil {
		return fault.Wrap(err, "list the sagas")
	}
	loaded, err := e.load(page.Entries)
	if err != nil {
		return err
	}
	for name, r := range loaded {
		if r.plan == nil || r.state == nil || saga.Ended(r.state) {
			continue
		}
		if err := r.prepare(e.Kinds); err != nil {
			e.Logger.Error("a saga cannot be taken over; it needs a hand", "operation", name, "error", err)
			continue
		}
		r.outputsFrom(r.plan)
		e.mu.Lock()
		e.runs[name] = r
		e.mu.Unlock()
		if err := e.resume(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// load decodes the sagas from their keys.
func (e *Engine) load(entries []store.Entry) (map[string]*run, error) {
	out := map[string]*run{}
	at := func(name string) *run {
		if out[name] == nil {
			out[name] = &run{outputs: map[string]proto.Message{}, observed: map[int]proto.Message{}}
		}
		return out[name]
	}
	for _, entry := range entries {
		rest := strings.TrimPrefix(entry.Key, prefix+"s/")
		var err error
		switch name, what := splitKey(rest); {
		case what == "plan":
			p := &orchestratorv1.SagaPlan{}
			err = proto.Unmarshal(entry.Value, p)
			at(name).plan = p
		case what == "state":
			s := &orchestratorv1.SagaState{}
			err = proto.Unmarshal(entry.Value, s)
			at(name).state, at(name).revision = s, entry.ModRevision
		case strings.HasPrefix(what, "out/"):
			err = decodeOutput(at(name), what, entry.Value)
		}
		if err != nil {
			return nil, fault.As(fault.Internal, fault.Wrap(err, "decode %s", entry.Key))
		}
	}
	return out, nil
}

// splitKey parts a saga's key, without the prefix, into the operation's name and what is kept there.
func splitKey(key string) (name, what string) {
	for _, suffix := range []string{"/plan", "/state"} {
		if n, ok := strings.CutSuffix(key, suffix); ok {
			return n, suffix[1:]
		}
	}
	if i := strings.LastIndex(key, "/out/"); i > 0 {
		return key[:i], key[i+1:]
	}
	return key, ""
}

func decodeOutput(r *run, what string, value []byte) error {
	n, err := strconv.Atoi(strings.TrimPrefix(what, "out/"))
	if err != nil {
		return err
	}
	packed := &anypb.Any{}
	if err := proto.Unmarshal(value, packed); err != nil {
		return err
	}
	m, err := packed.UnmarshalNew()
	if err != nil {
		return err
	}
	r.observed[n] = m
	return nil
}

// outputsFrom puts what steps observed in place of what stood before.
func (r *run) outputsFrom(p *orchestratorv1.SagaPlan) {
	for n, m := range r.observed {
		if n < len(p.GetSteps()) {
			r.outputs[p.GetSteps()[n].GetGoal().GetResource().GetLocalName()] = m
		}
	}
}

// resume settles what is under way: a participant that knows the outcome is believed; to one that does not, the command
// is sent again.
func (e *Engine) resume(ctx context.Context, r *run) error {
	owner, _, err := e.owned()
	if err != nil {
		return err
	}
	r.mu.Lock()
	inFlight := saga.InFlight(r.state)
	var messages []bus.Message
	for _, c := range inFlight {
		m, err := e.command(r, r.state, c, r.outputs, owner.Epoch())
		if err != nil {
			continue // its time runs out, and it is then refused like any other
		}
		messages = append(messages, m)
	}
	e.arm(r)
	r.mu.Unlock()
	for _, c := range inFlight {
		e.ask(ctx, r, c, owner.Epoch())
	}
	ops := e.Outbox.Ops(messages...)
	if len(ops) == 0 {
		return nil
	}
	if _, err := e.Store.Txn(ctx, []store.Compare{owner.Fence()}, ops); err != nil {
		return fault.Wrap(err, "send the commands of %s again", r.plan.GetName())
	}
	e.Outbox.Committed(ops)
	return nil
}

// ask asks the participant of a step what became of it. That it cannot be asked is no harm: the message will come, or
// the command is sent again.
func (e *Engine) ask(ctx context.Context, r *run, c saga.Command, epoch int64) {
	step := r.plan.GetSteps()[c.Step]
	goal := step.GetGoal()
	if c.Direction == busv1.Direction_DIRECTION_UNDO {
		goal = step.GetUndo()
	}
	kind, ok := e.Kinds.ByType(goal.GetResource().GetType())
	if !ok {
		return
	}
	origin := &busv1.Origin{Saga: r.plan.GetName(), Step: step.GetId(), Direction: c.Direction, Attempt: c.Attempt, Epoch: epoch}
	outcome, err := e.Querier.Query(ctx, kind, origin, goal.GetResource().GetName(), goal.GetResource().GetKey())
	if err != nil {
		e.Logger.Info("a participant cannot be asked yet", "operation", r.plan.GetName(), "step", step.GetId(), "error", err)
		return
	}
	if outcome == nil || outcome.GetResult() == busv1.Result_RESULT_PROGRESS {
		return
	}
	if err := e.Apply(ctx, r.plan.GetName(), saga.OutcomeReceived{Outcome: outcome}); err != nil && !fault.Is(err, fault.NotFound) {
		e.Logger.Warn("outcome on take-over", "operation", r.plan.GetName(), "step", step.GetId(), "error", err)
	}
}
