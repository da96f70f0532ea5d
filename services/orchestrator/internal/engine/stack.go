package engine

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/store"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/plan"
)

// concludeStack writes what a saga that has ended, or is held, leaves of its stack.
func (e *Engine) concludeStack(ctx context.Context, t *transaction, r *run, state *orchestratorv1.SagaState, outputs map[string]proto.Message) error {
	key, kept := stackKey(r.plan.GetStack()), t.stack
	if kept == nil {
		var revision int64
		var err error
		if kept, revision, err = e.readStack(ctx, r.plan.GetStack()); err != nil {
			return err
		}
		t.compares = append(t.compares, store.Compare{Key: key, ModRevision: revision})
	}
	next, err := e.conclusion(r, state, outputs, kept)
	if err != nil {
		return err
	}
	draw, err := e.release(r.plan, state, next)
	if err != nil {
		return err
	}
	t.ops = append(t.ops, draw...)
	if next == nil {
		t.ops = append(t.ops, store.Op{Key: key, Delete: true})
		gone := proto.CloneOf(kept.GetStack())
		gone.Metadata.Sequence++
		return e.event(t, stackEvent(gone, "deleted"))
	}
	next.Stack.Operation = r.plan.GetName()
	next.Stack.Metadata.Sequence++
	next.Stack.Metadata.UpdateTime = timestamppb.New(e.Now())
	next.Requests = kept.GetRequests()
	value, err := proto.Marshal(next)
	if err != nil {
		return fault.As(fault.Internal, fault.Wrap(err, "encode %s", r.plan.GetStack()))
	}
	t.ops = append(t.ops, store.Op{Key: key, Value: value})
	return e.event(t, stackEvent(next.GetStack(), strings.ToLower(strings.TrimPrefix(next.GetStack().GetState().String(), "STACK_STATE_"))))
}

// conclusion gives the stack as it stands; nil if nothing is left of it.
func (e *Engine) conclusion(r *run, state *orchestratorv1.SagaState, outputs map[string]proto.Message, kept *orchestratorv1.StackRecord) (*orchestratorv1.StackRecord, error) {
	switch state.GetState() {
	case orchestratorv1.OperationState_OPERATION_STATE_DONE:
		if r.plan.GetAction() == orchestratorv1.Action_ACTION_DESTROY {
			return nil, nil
		}
		return e.achieved(r, state, outputs, kept)
	case orchestratorv1.OperationState_OPERATION_STATE_UNDONE, orchestratorv1.OperationState_OPERATION_STATE_CANCELLED:
		return restored(r, state, outputs, kept)
	default:
		if untouched(state) {
			return restored(r, state, outputs, kept)
		}
		return partly(r, state, outputs, kept)
	}
}

func untouched(state *orchestratorv1.SagaState) bool {
	return !slices.ContainsFunc(state.GetSteps(), func(s *orchestratorv1.StepRecord) bool { return s.GetAttempt() > 0 })
}

// achieved is the stack as the plan wanted it. Outputs that have no value are told as the operation's fault and left out:
// all that was to be made stands.
func (e *Engine) achieved(r *run, state *orchestratorv1.SagaState, outputs map[string]proto.Message, kept *orchestratorv1.StackRecord) (*orchestratorv1.StackRecord, error) {
	next := &orchestratorv1.StackRecord{Stack: proto.CloneOf(r.plan.GetResult())}
	for _, s := range r.plan.GetStanding() {
		stands, err := e.standing(r, s, outputs)
		if err != nil {
			return nil, err
		}
		if skipped(r.plan, state, s.GetKey()) {
			stands.Draws = either(r.plan, stands)
		}
		next.Standing = append(next.Standing, stands)
	}
	values, err := r.resolver.Outputs(r.plan.GetOutputs(), outputs)
	if err != nil {
		state.Fault = fault.Proto(fault.Wrap(err, "outputs of %s", r.plan.GetStack()), e.Now())
	}
	next.Stack.Outputs = values
	next.Stack.State = orchestratorv1.StackState_STACK_STATE_READY
	next.Stack.Metadata = proto.CloneOf(kept.GetStack().GetMetadata())
	next.Stack.Metadata.Generation++
	return next, nil
}

// standing is one resource with what was sent and observed.
func (e *Engine) standing(r *run, s *orchestratorv1.StandingResource, outputs map[string]proto.Message) (*orchestratorv1.StandingResource, error) {
	out := proto.CloneOf(s)
	if s.GetComposite() {
		return out, nil
	}
	if former := sentBefore(r.plan, s.GetKey()); former != nil {
		out.Resolved = former
	} else if err := r.sent(out, outputs); err != nil {
		return nil, err
	}
	if m, ok := outputs[s.GetLocalName()]; ok {
		packed, err := anypb.New(m)
		if err != nil {
			return nil, fault.As(fault.Internal, fault.Wrap(err, "encode what was observed of %s", s.GetName()))
		}
		out.Observed = packed
	}
	return out, nil
}

// sent notes in a resource what is sent for it, its expressions resolved; nothing if one of them has no value.
func (r *run) sent(s *orchestratorv1.StandingResource, outputs map[string]proto.Message) error {
	spec, err := r.resolver.Resolve(s, outputs)
	if err != nil {
		return nil //nolint:nilerr // it was not sent, or what was seen since leaves an expression without a value
	}
	s.Resolved, err = resource.ToStruct(spec)
	return err
}

// sentBefore gives the spec that was sent for a resource before a plan that does nothing with it; nil if it does, or if
// none is known.
func sentBefore(p *orchestratorv1.SagaPlan, key string) *structpb.Struct {
	for _, step := range p.GetSteps() {
		if step.GetGoal().GetResource().GetKey() == key {
			return nil
		}
	}
	for _, s := range p.GetFormer().GetStanding() {
		if s.GetKey() == key {
			return s.GetResolved()
		}
	}
	return nil
}

// restored is the stack as it stood before, but for objects that the undo had to make anew; nil if it did not stand.
func restored(r *run, state *orchestratorv1.SagaState, outputs map[string]proto.Message, kept *orchestratorv1.StackRecord) (*orchestratorv1.StackRecord, error) {
	if r.plan.GetFormer() == nil {
		return nil, nil
	}
	next := proto.CloneOf(r.plan.GetFormer())
	next.Standing = plan.AfterUndo(r.plan, started(r.plan, state))
	for i, s := range next.GetStanding() {
		if was := r.plan.GetFormer().GetStanding()[i]; s.GetKey() == was.GetKey() {
			s.Observed = was.GetObserved()
			if skipped(r.plan, state, s.GetKey()) {
				s.Draws = either(r.plan, s)
			}
			continue
		}
		m, seen := outputs[s.GetLocalName()]
		if !seen { // a person skipped that it is made anew: whether it stands as asked the next plan makes sure of
			s.Observed, s.Unsure = nil, true
			continue
		}
		packed, err := anypb.New(m)
		if err != nil {
			return nil, fault.As(fault.Internal, fault.Wrap(err, "encode what was observed of %s", s.GetName()))
		}
		s.Observed = packed
	}
	next.Stack.Metadata = proto.CloneOf(kept.GetStack().GetMetadata())
	next.Stack.State = orchestratorv1.StackState_STACK_STATE_READY
	return next, nil
}

// partly is a stack of which a part was done and not undone: all that may exist is kept, so that a later apply or
// destroy deals with it: also what an undo began to make anew. What may be on its way out is marked: its key is never
// ensured again.
func partly(r *run, state *orchestratorv1.SagaState, outputs map[string]proto.Message, kept *orchestratorv1.StackRecord) (*orchestratorv1.StackRecord, error) {
	next := &orchestratorv1.StackRecord{Stack: proto.CloneOf(kept.GetStack())}
	next.Stack.State = orchestratorv1.StackState_STACK_STATE_DEGRADED
	gone, leaving := goneKeys(r.plan, state), leavingKeys(r.plan, state)
	seen, names := map[string]bool{}, map[string]bool{}
	add := func(s *orchestratorv1.StandingResource) error {
		if seen[s.GetKey()] && !s.GetComposite() || gone[s.GetKey()] || s.GetComposite() && names[s.GetLocalName()] {
			return nil
		}
		out := proto.CloneOf(s)
		out.Releasing = out.GetReleasing() || leaving[s.GetKey()]
		for i := 2; names[out.GetLocalName()]; i++ {
			out.LocalName = s.GetLocalName() + "-old" + strconv.Itoa(i-1)
		}
		if m, ok := outputs[s.GetLocalName()]; ok && !s.GetComposite() && out.GetLocalName() == s.GetLocalName() {
			packed, err := anypb.New(m)
			if err != nil {
				return fault.As(fault.Internal, fault.Wrap(err, "encode what was observed of %s", s.GetName()))
			}
			out.Observed = packed
		}
		seen[s.GetKey()], names[out.GetLocalName()] = true, true
		next.Standing = append(next.Standing, out)
		return nil
	}
	for i, step := range r.plan.GetSteps() {
		if step.GetGoal().GetRelease() || state.GetSteps()[i].GetAttempt() == 0 || started(r.plan, state)(plan.JoinOf(step)) {
			continue
		}
		begun := proto.CloneOf(step.GetGoal().GetResource())
		begun.Unsure = true
		begun.Draws = either(r.plan, begun)
		if err := r.sent(begun, outputs); err != nil { // expressions are about what stood then, which the next plan may not know
			return nil, err
		}
		if err := add(begun); err != nil {
			return nil, err
		}
	}
	for _, s := range slices.Concat(r.anew(state), r.plan.GetFormer().GetStanding(), composites(r.plan.GetStanding(), len(next.GetStanding()) > 0)) {
		if err := add(s); err != nil {
			return nil, err
		}
	}
	return next, nil
}

// anew gives what an undo began to make anew, after it was deleted before the pivot.
func (r *run) anew(state *orchestratorv1.SagaState) []*orchestratorv1.StandingResource {
	var out []*orchestratorv1.StandingResource
	for i, step := range r.plan.GetSteps() {
		if step.GetGoal().GetRelease() && step.GetUndo() != nil && state.GetSteps()[i].GetUndoAttempt() > 0 {
			fresh := plan.UndoGoal(r.plan, step, started(r.plan, state)).GetResource()
			if state.GetSteps()[i].GetState() != orchestratorv1.StepState_STEP_STATE_UNDONE {
				fresh.Observed, fresh.Unsure = nil, true
			}
			out = append(out, fresh)
		}
	}
	return out
}

// leavingKeys gives the keys of objects whose release was begun. Whether it is over is not asked here.
func leavingKeys(p *orchestratorv1.SagaPlan, state *orchestratorv1.SagaState) map[string]bool {
	out := map[string]bool{}
	for i, step := range p.GetSteps() {
		if step.GetGoal().GetRelease() && state.GetSteps()[i].GetAttempt() > 0 {
			out[step.GetGoal().GetResource().GetKey()] = true
		}
		if step.GetUndo().GetRelease() && state.GetSteps()[i].GetUndoAttempt() > 0 {
			out[step.GetUndo().GetResource().GetKey()] = true
		}
	}
	return out
}

// composites gives the composite resources of a plan, whose children may stand.
func composites(standing []*orchestratorv1.StandingResource, started bool) []*orchestratorv1.StandingResource {
	var out []*orchestratorv1.StandingResource
	for _, s := range standing {
		if started && s.GetComposite() {
			out = append(out, s)
		}
	}
	return out
}

// goneKeys gives the keys of objects that are known to be released.
func goneKeys(p *orchestratorv1.SagaPlan, state *orchestratorv1.SagaState) map[string]bool {
	out := map[string]bool{}
	for i, step := range p.GetSteps() {
		s := state.GetSteps()[i]
		over := s.GetState() == orchestratorv1.StepState_STEP_STATE_SKIPPED
		if step.GetGoal().GetRelease() && (over || s.GetState() == orchestratorv1.StepState_STEP_STATE_DONE) {
			out[step.GetGoal().GetResource().GetKey()] = true
		}
		if step.GetUndo().GetRelease() && (over && s.GetUndoAttempt() > 0 || s.GetState() == orchestratorv1.StepState_STEP_STATE_UNDONE) {
			out[step.GetUndo().GetResource().GetKey()] = true
		}
	}
	return out
}

// event adds an event to a transaction.
func (e *Engine) event(t *transaction, ev eventOf) error {
	data, err := protojson.Marshal(ev.data)
	if err != nil {
		return fault.As(fault.Internal, fault.Wrap(err, "encode the event of %s", ev.name))
	}
	n, err := resource.ParseName(ev.name)
	if err != nil {
		return err
	}
	id := ev.of + "." + strconv.FormatInt(ev.sequence, 10)
	t.messages = append(t.messages, bus.Message{
		Subject: bus.EventSubject(n.Tenant, "orchestrator", n.Collection, ev.verb), ID: id, Data: data,
		Header: map[string]string{
			"ce-specversion": "1.0", "ce-id": id, "ce-type": "cloud.weft.orchestrator." + strings.TrimSuffix(n.Collection, "s") + "." + ev.verb + ".v1",
			"ce-source": "/services/orchestrator", "ce-subject": ev.name, "ce-time": e.Now().UTC().Format("2006-01-02T15:04:05.000000000Z"),
			"ce-sequence": strings.Repeat("0", 20-len(strconv.FormatInt(ev.sequence, 10))) + strconv.FormatInt(ev.sequence, 10), "content-type": "application/json",
		},
	})
	return nil
}

// eventOf is one change that the world is told of. of and the sequence make its id: of is never given to another, as the
// name of a stack is when it is deleted and made again.
type eventOf struct {
	of         string
	name, verb string
	sequence   int64
	data       proto.Message
}

// stackEvent tells of a stack, without its document: a document may hold what only its author should see.
func stackEvent(s *orchestratorv1.Stack, verb string) eventOf {
	public := proto.CloneOf(s)
	public.Document, public.Parameters = "", nil
	return eventOf{of: s.GetMetadata().GetKey(), name: s.GetName(), verb: verb, sequence: s.GetMetadata().GetSequence(), data: public}
}

// announce tells of an operation that enters another state.
func (e *Engine) announce(t *transaction, r *run, before, after *orchestratorv1.SagaState) error {
	if before.GetState() == after.GetState() {
		return nil
	}
	verb := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(after.GetState().String(), "OPERATION_STATE_")), "_", "-")
	return e.event(t, eventOf{of: r.plan.GetName(), name: r.plan.GetName(), verb: verb, sequence: after.GetSequence(), data: View(r.plan, after)})
}
