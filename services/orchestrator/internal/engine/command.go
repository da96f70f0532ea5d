package engine

import (
	"errors"
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/saga"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/plan"
)

// settle resolves the commands of a transition; one that cannot be resolved fails its step, which may lead to others.
func (p *part) settle(r *run, tr saga.Transition, outputs map[string]proto.Message) (*orchestratorv1.SagaState, []bus.Message, error) {
	var messages []bus.Message
	for {
		var refused []saga.Event
		for _, c := range tr.Commands {
			m, err := p.command(r, tr.State, c, outputs)
			if err == nil {
				messages = append(messages, m)
				continue
			}
			step := r.plan.GetSteps()[c.Step].GetId()
			p.Logger.Warn("a step's spec cannot be resolved", "operation", r.name, "step", step, "fault", err)
			refused = append(refused, saga.Refused{Step: step, Fault: fault.Proto(err, p.Now())})
		}
		if len(refused) == 0 {
			return tr.State, messages, nil
		}
		next, errs := saga.ApplyAll(r.plan, tr.State, refused, p.Now())
		if err := errors.Join(errs...); err != nil {
			return nil, nil, fault.As(fault.Internal, err)
		}
		tr = next
	}
}

// commandID is the message id of a command: it bears the attempt, so that a command that is sent again for want of news
// is another message, and one that is sent again after a crash is the same.
func commandID(o *busv1.Origin) string {
	return o.GetSaga() + "." + o.GetStep() + "." + strconv.Itoa(int(o.GetDirection())) + "." + strconv.Itoa(int(o.GetAttempt()))
}

// started tells which steps were begun.
func started(p *orchestratorv1.SagaPlan, state *orchestratorv1.SagaState) func(string) bool {
	return func(id string) bool {
		for i, step := range p.GetSteps() {
			if step.GetId() == id {
				return state.GetSteps()[i].GetAttempt() > 0
			}
		}
		return false
	}
}

// subjectOf gives where a command is sent.
func subjectOf(kind *resource.Kind, origin *busv1.Origin, name string) string {
	return bus.CommandSubject(kind.Service, queueOf(origin.GetPriority()), resource.TenantOf(name), kind.Collection)
}

// command makes the message of a command.
func (p *part) command(r *run, state *orchestratorv1.SagaState, c saga.Command, outputs map[string]proto.Message) (bus.Message, error) {
	step := r.plan.GetSteps()[c.Step]
	goal := step.GetGoal()
	if c.Direction == busv1.Direction_DIRECTION_UNDO {
		goal = plan.UndoGoal(r.plan, step, started(r.plan, state))
	}
	kind, ok := p.Kinds.ByType(goal.GetResource().GetType())
	if !ok {
		return bus.Message{}, fault.New(fault.Internal, "step %s: there is no kind %s", step.GetId(), goal.GetResource().GetType())
	}
	cmd := &busv1.Command{
		Origin: p.origin(r, c), Name: goal.GetResource().GetName(), Type: goal.GetResource().GetType(), Key: goal.GetResource().GetKey(),
		Deadline: r.plan.GetDeadline(),
	}
	if goal.GetRelease() {
		cmd.Action = &busv1.Command_Release{Release: &busv1.Release{Forget: state.GetSteps()[c.Step].GetForget() || goal.GetForget(), Reclaim: goal.GetReclaim()}}
	} else {
		ensure, err := r.ensure(goal, outputs)
		if err != nil {
			return bus.Message{}, err
		}
		// What is made anew replaces what the way forward may, or may not, have begun to take away.
		ensure.ReleaseReplaced = c.Direction == busv1.Direction_DIRECTION_UNDO && goal.GetReplaces() != ""
		cmd.Action = &busv1.Command_Ensure{Ensure: ensure}
	}
	data, err := proto.Marshal(cmd)
	if err != nil {
		return bus.Message{}, fault.As(fault.Internal, fault.Wrap(err, "encode the command of step %s", step.GetId()))
	}
	m := bus.Message{Subject: subjectOf(kind, cmd.GetOrigin(), cmd.GetName()), ID: commandID(cmd.GetOrigin()), Data: data}
	if trace := r.plan.GetTraceParent(); trace != "" {
		m.Header = map[string]string{bus.HeaderTrace: trace}
	}
	return m, nil
}

// ensure gives what makes a goal stand, with every expression resolved.
func (r *run) ensure(goal *orchestratorv1.Goal, outputs map[string]proto.Message) (*busv1.Ensure, error) {
	spec, err := r.resolver.Resolve(goal.GetResource(), outputs)
	if err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	packed, err := anypb.New(spec)
	if err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "encode the spec of %s", goal.GetResource().GetName()))
	}
	return &busv1.Ensure{
		Cloud: goal.GetResource().GetCloud(), Spec: packed, References: goal.GetResource().GetReferences(), Labels: goal.GetResource().GetLabels(),
		Stack: r.plan.GetStack(), Replaces: goal.GetReplaces(), Adopt: goal.GetAdopt(),
	}, nil
}

// origin gives where a command comes from.
func (p *part) origin(r *run, c saga.Command) *busv1.Origin {
	priority, place := r.plan.GetPriority(), c.Step+1 // the steps stand in an order in which they can run
	if c.Direction == busv1.Direction_DIRECTION_UNDO {
		priority, place = busv1.Priority_PRIORITY_UNDO, len(r.plan.GetSteps())-c.Step
	}
	return &busv1.Origin{
		Saga: r.name, Step: r.plan.GetSteps()[c.Step].GetId(), Direction: c.Direction, Attempt: c.Attempt, Epoch: p.owner.Epoch(),
		Shard: int32(p.owner.Shard()), Priority: priority, TraceParent: r.plan.GetTraceParent(), Place: int32(place),
	}
}

// queueOf gives the queue of a priority.
func queueOf(p busv1.Priority) bus.Priority {
	switch p {
	case busv1.Priority_PRIORITY_UNDO:
		return bus.PriorityUndo
	case busv1.Priority_PRIORITY_INTERACTIVE:
		return bus.PriorityInteractive
	default:
		return bus.PriorityNormal
	}
}
