package engine

import (
	"context"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/saga"
	"github.com/weftcloud/weft/pkg/store"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// View gives an operation as clients see it.
func View(p *orchestratorv1.SagaPlan, state *orchestratorv1.SagaState) *orchestratorv1.OperationMetadata {
	out := &orchestratorv1.OperationMetadata{
		Name: p.GetName(), Target: p.GetStack(), Action: p.GetAction(), State: state.GetState(), CreateTime: p.GetCreateTime(),
		EndTime: state.GetEndTime(), Deadline: state.GetDeadline(), Fault: state.GetFault(), Sequence: state.GetSequence(),
		Hold: state.GetHold(), HeldClouds: state.GetHeldClouds(),
	}
	for i, step := range p.GetSteps() {
		s := state.GetSteps()[i]
		out.Steps = append(out.Steps, &orchestratorv1.StepStatus{
			Id: step.GetId(), Resource: step.GetGoal().GetResource().GetName(), Type: step.GetGoal().GetResource().GetType(), Change: step.GetChange(),
			State: s.GetState(), Needs: step.GetNeeds(), Attempt: s.GetAttempt() + s.GetUndoAttempt(), Fault: s.GetFault(), Blockers: s.GetBlockers(),
			ProviderId: s.GetProviderId(), StartTime: s.GetStartTime(), EndTime: s.GetEndTime(), Hold: s.GetHold(),
		})
	}
	return out
}

// summary gives what is kept of a saga that has ended, and shown of any.
func summary(p *orchestratorv1.SagaPlan, state *orchestratorv1.SagaState) *orchestratorv1.SagaSummary {
	return &orchestratorv1.SagaSummary{Operation: View(p, state), KeepOnFailure: p.GetKeepOnFailure(), AbandonReason: state.GetAbandonReason()}
}

// Read reads an operation, whether it has ended or not; NotFound if there is none.
func (e *Engine) Read(ctx context.Context, name string) (*orchestratorv1.SagaSummary, error) {
	out, _, err := e.read(ctx, name)
	return out, err
}

// read reads an operation, and its plan if it has not ended. One that ends meanwhile is found where the ended are.
func (e *Engine) read(ctx context.Context, name string) (*orchestratorv1.SagaSummary, *orchestratorv1.SagaPlan, error) {
	p, err := e.readPlan(ctx, name)
	if fault.Is(err, fault.NotFound) {
		out, err := e.readEnded(ctx, name)
		return out, nil, err
	}
	if err != nil {
		return nil, nil, err
	}
	entry, err := e.Store.Get(ctx, stateKey(bus.ShardOf(p.GetStack()), name))
	if fault.Is(err, fault.NotFound) {
		out, err := e.readEnded(ctx, name)
		return out, nil, err
	}
	if err != nil {
		return nil, nil, fault.Wrap(err, "read %s", name)
	}
	state := &orchestratorv1.SagaState{}
	if err := proto.Unmarshal(entry.Value, state); err != nil {
		return nil, nil, fault.As(fault.Internal, fault.Wrap(err, "decode %s", name))
	}
	return summary(p, state), p, nil
}

// readEnded reads an operation that has ended.
func (e *Engine) readEnded(ctx context.Context, name string) (*orchestratorv1.SagaSummary, error) {
	entry, err := e.Store.Get(ctx, summaryKey(name))
	if fault.Is(err, fault.NotFound) {
		return nil, fault.New(fault.NotFound, "operation %s does not exist", name)
	}
	if err != nil {
		return nil, fault.Wrap(err, "read %s", name)
	}
	out := &orchestratorv1.SagaSummary{}
	if err := proto.Unmarshal(entry.Value, out); err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "decode %s", name))
	}
	return out, nil
}

// Plan reads the plan of an unfinished saga; NotFound if there is none of the name, or if it has ended.
func (e *Engine) Plan(ctx context.Context, name string) (*orchestratorv1.SagaPlan, error) {
	return e.readPlan(ctx, name)
}

// Names lists the operations of a tenant that are kept, in no particular order.
func (e *Engine) Names(ctx context.Context, tenant string) ([]string, error) {
	seen := map[string]bool{}
	var out []string
	for _, at := range []string{planKey(""), summaryKey("")} { // in this order: one that ends meanwhile is in one of them
		page, err := e.Store.List(ctx, at+"tenants/"+tenant+"/operations/", store.ListOptions{KeysOnly: true})
		if err != nil {
			return nil, fault.Wrap(err, "list the operations of %s", tenant)
		}
		for _, entry := range page.Entries {
			if name := strings.TrimPrefix(entry.Key, at); !seen[name] {
				seen[name] = true
				out = append(out, name)
			}
		}
	}
	return out, nil
}

// Watch calls send with an operation at once and after each change, until it has ended or needs a hand, or ctx ends.
func (e *Engine) Watch(ctx context.Context, name string, send func(*orchestratorv1.OperationMetadata) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	now, p, err := e.read(ctx, name)
	if err != nil {
		return err
	}
	if p == nil {
		return send(now.GetOperation())
	}
	watch := e.Store.Watch(ctx, stateKey(bus.ShardOf(p.GetStack()), name), 0)
	if now, err = e.Read(ctx, name); err != nil { // it may have changed before the watch began
		return err
	}
	for last := int64(-1); ; {
		if view := now.GetOperation(); view.GetSequence() > last {
			last = view.GetSequence()
			if err := send(view); err != nil {
				return err
			}
		}
		if OverOperation(now.GetOperation()) {
			return nil
		}
		select {
		case events, ok := <-watch.Events():
			if ok {
				now, err = e.newest(ctx, events, now, p)
			} else if ctx.Err() == nil {
				if err = watch.Err(); fault.Is(err, fault.Conflict) { // what changed is no longer kept: read it again
					watch = e.Store.Watch(ctx, stateKey(bus.ShardOf(p.GetStack()), name), 0)
					now, err = e.Read(ctx, name)
				}
			}
		case <-ctx.Done():
			return fault.As(fault.Unavailable, ctx.Err())
		}
		if err != nil {
			return fault.Wrap(err, "watch %s", name)
		}
	}
}

// newest gives what the last of some changes left of an operation, or what was before if there are none.
func (e *Engine) newest(ctx context.Context, events []store.Event, before *orchestratorv1.SagaSummary, p *orchestratorv1.SagaPlan) (*orchestratorv1.SagaSummary, error) {
	if len(events) == 0 {
		return before, nil
	}
	last := events[len(events)-1]
	if last.Deleted {
		return e.readEnded(ctx, p.GetName())
	}
	state := &orchestratorv1.SagaState{}
	if err := proto.Unmarshal(last.Entry.Value, state); err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "decode %s", p.GetName()))
	}
	return summary(p, state), nil
}

// Over tells whether nothing happens to a saga any more unless a person acts.
func Over(s *orchestratorv1.SagaState) bool {
	return saga.Ended(s) || s.GetState() == orchestratorv1.OperationState_OPERATION_STATE_NEEDS_HAND
}

// OverOperation tells the same of an operation as it is shown.
func OverOperation(o *orchestratorv1.OperationMetadata) bool {
	return Over(&orchestratorv1.SagaState{State: o.GetState()})
}

// ReadStack reads a stack and its revision; NotFound if there is none.
func (e *Engine) ReadStack(ctx context.Context, name string) (*orchestratorv1.StackRecord, int64, error) {
	kept, revision, err := e.readStack(ctx, name)
	if err != nil {
		return nil, 0, err
	}
	kept.GetStack().GetMetadata().Etag = strconv.FormatInt(revision, 36)
	return kept, revision, nil
}

// readStack reads a stack as it is kept.
func (e *Engine) readStack(ctx context.Context, name string) (*orchestratorv1.StackRecord, int64, error) {
	entry, err := e.Store.Get(ctx, stackKey(name))
	if fault.Is(err, fault.NotFound) {
		return nil, 0, fault.New(fault.NotFound, "%s does not exist", name)
	}
	if err != nil {
		return nil, 0, fault.Wrap(err, "read %s", name)
	}
	kept := &orchestratorv1.StackRecord{}
	if err := proto.Unmarshal(entry.Value, kept); err != nil {
		return nil, 0, fault.As(fault.Internal, fault.Wrap(err, "decode %s", name))
	}
	return kept, entry.ModRevision, nil
}

// Stacks lists the stacks of a tenant after one, in order of their names.
func (e *Engine) Stacks(ctx context.Context, tenant, after string, limit int) ([]*orchestratorv1.StackRecord, bool, error) {
	opts := store.ListOptions{Limit: limit}
	if after != "" {
		opts.After = stackKey(after)
	}
	page, err := e.Store.List(ctx, stackKey("tenants/"+tenant+"/stacks/"), opts)
	if err != nil {
		return nil, false, fault.Wrap(err, "list the stacks of %s", tenant)
	}
	var out []*orchestratorv1.StackRecord
	for _, entry := range page.Entries {
		kept := &orchestratorv1.StackRecord{}
		if err := proto.Unmarshal(entry.Value, kept); err != nil {
			return nil, false, fault.As(fault.Internal, fault.Wrap(err, "decode %s", entry.Key))
		}
		kept.GetStack().GetMetadata().Etag = strconv.FormatInt(entry.ModRevision, 36)
		out = append(out, kept)
	}
	return out, page.More, nil
}
