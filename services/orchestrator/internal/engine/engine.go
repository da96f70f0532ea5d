// Package engine runs sagas: it applies events to their states, keeps each transition in one transaction, and sends
// what follows from it. What follows is decided by package saga, which is pure.
//
// # Layout, below /weft/orchestrator/
//
//	s/<operation>/plan       the plan, written once
//	s/<operation>/state      the state, written whole by each transition
//	s/<operation>/out/<n>    what step n observed when it was done
//	k/<stack>                the stack
//	so/…                     the outbox: commands and events that are committed and not yet published
//
// # Who may write
//
// Only the owner. It holds a lease; every transaction compares the lease's key (the fence), so that an owner that was
// paused for longer than its lease cannot write, and every command carries the epoch, so that it cannot command.
//
// # What happens on a crash
//
// A transition is one transaction: state, outputs, commands and events. The next owner reads all unfinished sagas, asks
// the participants about the steps that are under way, and sends their commands again with the same ids. The outbox
// publishes what was committed and not sent.
package engine

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/saga"
	"github.com/weftcloud/weft/pkg/store"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/plan"
)

// Owner is the right to run sagas.
type Owner interface {
	// Fence is the condition that every transaction carries.
	Fence() store.Compare
	// Epoch numbers the owners; a later one has a greater.
	Epoch() int64
}

// Querier asks a participant what became of a key.
type Querier interface {
	Query(ctx context.Context, kind *resource.Kind, origin *busv1.Origin, name, key string) (*busv1.Outcome, error)
}

// Config is what an Engine is made of.
type Config struct {
	Store   store.Store
	Outbox  record.Outbox
	Kinds   *resource.Registry
	Querier Querier
	Logger  *slog.Logger
	Now     func() time.Time
}

// Engine runs the sagas of one owner. All methods are safe for concurrent use.
type Engine struct {
	Config

	mu    sync.Mutex
	owner Owner
	ready chan struct{}   // closed while there is an owner that has taken over
	ctx   context.Context // of Run: timers act within it
	runs  map[string]*run
	// loading says that the unfinished sagas are still being read: one that is not among runs may yet come.
	loading bool
}

// run is one unfinished saga.
type run struct {
	mu       sync.Mutex
	plan     *orchestratorv1.SagaPlan
	state    *orchestratorv1.SagaState
	revision int64
	outputs  map[string]proto.Message // what was observed, by local name
	observed map[int]proto.Message    // on take-over: what steps observed
	resolver *plan.Resolver
	timer    *time.Timer
	over     bool
	// unsure says that it is not known whether the last transition was kept: the saga must be read again. unsent are the
	// messages that are to be sent if it was.
	unsure bool
	unsent []store.Op
}

// New makes an engine; it runs nothing until Own.
func New(c Config) *Engine {
	return &Engine{Config: c, ready: make(chan struct{}), runs: map[string]*run{}}
}

var prefix = record.Prefix("orchestrator")

func planKey(name string) string       { return prefix + "s/" + name + "/plan" }
func stateKey(name string) string      { return prefix + "s/" + name + "/state" }
func outKey(name string, n int) string { return prefix + "s/" + name + "/out/" + pad(n) }
func stackKey(name string) string      { return prefix + "k/" + name }

// Run runs sagas as owner until ctx ends: those that are unfinished, and those that begin.
func (e *Engine) Run(ctx context.Context, owner Owner) error {
	e.mu.Lock()
	e.owner, e.ctx, e.loading = owner, ctx, true
	e.mu.Unlock()
	err := e.takeOver(ctx)
	e.mu.Lock()
	e.loading = false
	e.mu.Unlock()
	if err == nil {
		e.mu.Lock()
		close(e.ready)
		e.mu.Unlock()
		<-ctx.Done()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.runs {
		r.mu.Lock()
		if r.timer != nil {
			r.timer.Stop()
		}
		r.mu.Unlock()
	}
	e.owner, e.ready, e.runs = nil, make(chan struct{}), map[string]*run{}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// owned gives the owner, or Unavailable while this process is not it.
func (e *Engine) owned() (Owner, context.Context, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.owner == nil {
		return nil, nil, errNotOwned()
	}
	return e.owner, e.ctx, nil
}

// patience is how long a new saga waits for this process to become the owner and to have taken over: longer than a lease
// outlives a killed owner, so that what is asked right after a restart is not refused.
const patience = 8 * time.Second

// await gives the owner once it has taken over, after a while if it has not yet.
func (e *Engine) await(ctx context.Context) (Owner, error) {
	e.mu.Lock()
	ready := e.ready
	e.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-ready:
		owner, _, err := e.owned()
		return owner, err
	case <-ctx.Done():
		return nil, errNotOwned()
	}
}

func errNotOwned() error {
	return fault.New(fault.Unavailable, "another orchestrator owns the sagas, or none does yet; try again")
}

// Begin begins a saga. The stack must be as the caller read it: at stackRevision, 0 if it did not exist. Conflict means
// that it is not.
func (e *Engine) Begin(ctx context.Context, p *orchestratorv1.SagaPlan, changing *orchestratorv1.StackRecord, stackRevision int64) error {
	owner, err := e.await(ctx)
	if err != nil {
		return err
	}
	if _, err := e.find(p.GetName()); !fault.Is(err, fault.NotFound) {
		return fault.New(fault.Unavailable, "begin %s: the sagas are being taken over; try again", p.GetName())
	}
	r := &run{plan: p, outputs: map[string]proto.Message{}}
	if err := r.prepare(e.Kinds); err != nil {
		return err
	}
	encoded, err := proto.Marshal(p)
	if err != nil {
		return fault.As(fault.Internal, fault.Wrap(err, "encode the plan of %s", p.GetName()))
	}
	record, err := proto.Marshal(changing)
	if err != nil {
		return fault.As(fault.Internal, fault.Wrap(err, "encode %s", p.GetStack()))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	tr := saga.Begin(p, e.Now())
	t := transaction{
		compares: []store.Compare{owner.Fence(), {Key: stackKey(p.GetStack()), ModRevision: stackRevision}, {Key: planKey(p.GetName())}},
		ops:      []store.Op{{Key: planKey(p.GetName()), Value: encoded}},
		stack:    changing,
	}
	if !saga.Ended(tr.State) {
		t.ops = append(t.ops, store.Op{Key: stackKey(p.GetStack()), Value: record})
	}
	if err := e.event(&t, stackEvent(changing.GetStack(), "changing")); err != nil {
		return err
	}
	e.mu.Lock()
	e.runs[p.GetName()] = r
	e.mu.Unlock()
	err = e.commit(ctx, owner, r, tr, t)
	if err != nil && !r.unsure {
		e.drop(p.GetName())
	}
	return fault.Wrap(err, "begin %s", p.GetName())
}

// find gives an unfinished saga; Unavailable while it may yet be read, else NotFound.
func (e *Engine) find(name string) (*run, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch r := e.runs[name]; {
	case r != nil:
		return r, nil
	case e.loading:
		return nil, fault.New(fault.Unavailable, "operation %s: the sagas are being taken over; try again", name)
	default:
		return nil, fault.New(fault.NotFound, "operation %s does not exist or has ended", name)
	}
}

// prepare makes what is derived from the plan.
func (r *run) prepare(kinds *resource.Registry) error {
	standing := r.plan.GetStanding()
	if len(standing) == 0 {
		standing = r.plan.GetFormer().GetStanding()
	}
	resolver, err := plan.NewResolver(kinds, standing)
	if err != nil {
		return fault.Wrap(err, "%s", r.plan.GetName())
	}
	r.resolver = resolver
	for _, s := range standing {
		if s.GetObserved() == nil {
			continue
		}
		m, err := s.GetObserved().UnmarshalNew()
		if err != nil {
			return fault.As(fault.Internal, fault.Wrap(err, "decode what was observed of %s", s.GetName()))
		}
		r.outputs[s.GetLocalName()] = m
	}
	return nil
}

func (e *Engine) drop(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.runs, name)
}

// Outcome takes one delivery of the queue of outcomes.
func (e *Engine) Outcome(ctx context.Context, d bus.Delivery) bus.Verdict {
	o := &busv1.Outcome{}
	if err := proto.Unmarshal(d.Data, o); err != nil {
		return bus.Reject
	}
	err := e.Apply(ctx, o.GetOrigin().GetSaga(), saga.OutcomeReceived{Outcome: o})
	switch {
	case err == nil, fault.Is(err, fault.NotFound):
		return bus.Ack // a saga that has ended wants no outcomes
	case fault.Is(err, fault.Invalid), fault.Is(err, fault.Internal):
		e.Logger.Error("outcome", "saga", o.GetOrigin().GetSaga(), "step", o.GetOrigin().GetStep(), "error", err)
		return bus.Reject
	default:
		return bus.Later
	}
}

// Apply applies an event to an unfinished saga. NotFound means that there is none of the name, or that it has ended.
func (e *Engine) Apply(ctx context.Context, name string, event saga.Event) error {
	owner, _, err := e.owned()
	if err != nil {
		return err
	}
	r, err := e.find(name)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := e.reread(ctx, owner, r); err != nil {
		return err
	}
	if r.over || r.state == nil {
		return fault.New(fault.NotFound, "operation %s does not exist or has ended", name)
	}
	tr, err := saga.Apply(r.plan, r.state, event, e.Now())
	if err != nil || !tr.Changed {
		return err
	}
	t := transaction{compares: []store.Compare{owner.Fence()}}
	if err := e.keepOutput(&t, r, tr, event); err != nil {
		return err
	}
	return e.commit(ctx, owner, r, tr, t)
}

// keepOutput keeps what a step observed when it was done.
func (e *Engine) keepOutput(t *transaction, r *run, tr saga.Transition, event saga.Event) error {
	received, ok := event.(saga.OutcomeReceived)
	if !ok || received.Outcome.GetObserved() == nil {
		return nil
	}
	for i, p := range r.plan.GetSteps() {
		if p.GetId() != received.Outcome.GetOrigin().GetStep() {
			continue
		}
		m, err := received.Outcome.GetObserved().UnmarshalNew()
		if err != nil {
			return fault.As(fault.Invalid, fault.Wrap(err, "decode what was observed by step %s", p.GetId()))
		}
		value, err := proto.Marshal(received.Outcome.GetObserved())
		if err != nil {
			return fault.As(fault.Internal, fault.Wrap(err, "encode what was observed by step %s", p.GetId()))
		}
		goal := p.GetGoal()
		if received.Outcome.GetOrigin().GetDirection() == busv1.Direction_DIRECTION_UNDO {
			goal = p.GetUndo()
		}
		t.ops = append(t.ops, store.Op{Key: outKey(r.plan.GetName(), i), Value: value})
		t.outputs = map[string]proto.Message{goal.GetResource().GetLocalName(): m}
		return nil
	}
	return nil
}

// transaction is one transition in the making.
type transaction struct {
	compares []store.Compare
	ops      []store.Op
	messages []bus.Message
	outputs  map[string]proto.Message
	// stack is the stack as this transaction itself leaves it; nil if it does not touch it. A saga without steps ends as
	// it begins, before there is anything to read.
	stack *orchestratorv1.StackRecord
}

// commit keeps a transition and sends what follows from it. A command whose spec cannot be resolved is an event of its
// own: it is applied before anything is kept.
func (e *Engine) commit(ctx context.Context, owner Owner, r *run, tr saga.Transition, t transaction) error {
	before := r.state
	outputs := r.outputs
	if t.outputs != nil {
		outputs = merged(r.outputs, t.outputs)
	}
	state, commands, err := e.settle(r, tr, outputs, owner.Epoch())
	if err != nil {
		return err
	}
	t.messages = append(t.messages, commands...)
	state.Epoch = owner.Epoch()
	if err := e.announce(&t, r, before, state); err != nil {
		return err
	}
	if saga.Ended(state) || state.GetState() == orchestratorv1.OperationState_OPERATION_STATE_NEEDS_HAND {
		if err := e.concludeStack(ctx, &t, r, state, outputs); err != nil {
			return err
		}
	}
	value, err := proto.Marshal(state)
	if err != nil {
		return fault.As(fault.Internal, fault.Wrap(err, "encode %s", r.plan.GetName()))
	}
	messages := e.Outbox.Ops(t.messages...)
	t.compares = append(t.compares, store.Compare{Key: stateKey(r.plan.GetName()), ModRevision: r.revision})
	t.ops = append(append(t.ops, store.Op{Key: stateKey(r.plan.GetName()), Value: value}), messages...)
	revision, err := e.Store.Txn(ctx, t.compares, t.ops)
	if fault.Is(err, fault.Unavailable) {
		r.unsure, r.unsent = true, messages
		e.again(r)
	}
	if err != nil {
		return fault.Wrap(err, "keep %s", r.plan.GetName())
	}
	e.Outbox.Committed(messages)
	r.state, r.revision, r.outputs = state, revision, outputs
	e.arm(r)
	return nil
}

// reread reads a saga again of which it is not known whether its last transition was kept. The caller holds the run.
func (e *Engine) reread(ctx context.Context, owner Owner, r *run) error {
	if !r.unsure {
		return nil
	}
	name := r.plan.GetName()
	page, err := e.Store.List(ctx, prefix+"s/"+name+"/", store.ListOptions{})
	if err != nil {
		return fault.Wrap(err, "read %s again", name)
	}
	loaded, err := e.load(page.Entries)
	if err != nil {
		return err
	}
	kept := loaded[name]
	if kept == nil || kept.state == nil { // it never began
		r.over, r.unsure = true, false
		e.drop(name)
		return nil
	}
	if err := kept.prepare(e.Kinds); err != nil {
		return err
	}
	kept.outputsFrom(kept.plan)
	if kept.revision != r.revision && kept.state.GetEpoch() == owner.Epoch() {
		e.Outbox.Committed(r.unsent)
	}
	r.state, r.revision, r.outputs, r.unsure, r.unsent = kept.state, kept.revision, kept.outputs, false, nil
	e.arm(r)
	return nil
}

// again has a saga look at the clock in a while. The caller holds the run.
func (e *Engine) again(r *run) {
	if r.timer != nil {
		r.timer.Stop()
	}
	r.timer = time.AfterFunc(time.Second, func() { e.tick(r.plan.GetName()) })
}

func merged(a, b map[string]proto.Message) map[string]proto.Message {
	out := make(map[string]proto.Message, len(a)+len(b))
	for k, v := range a {
		out[k] = v
	}
	for k, v := range b {
		out[k] = v
	}
	return out
}

// settle resolves the commands of a transition; one that cannot be resolved fails its step, which may lead to others.
func (e *Engine) settle(r *run, tr saga.Transition, outputs map[string]proto.Message, epoch int64) (*orchestratorv1.SagaState, []bus.Message, error) {
	var messages []bus.Message
	for {
		var refused *saga.Refused
		for _, c := range tr.Commands {
			m, err := e.command(r, tr.State, c, outputs, epoch)
			if err != nil {
				refused = &saga.Refused{Step: r.plan.GetSteps()[c.Step].GetId(), Fault: fault.Proto(err, e.Now())}
				break
			}
			messages = append(messages, m)
		}
		if refused == nil {
			return tr.State, messages, nil
		}
		e.Logger.Warn("a step's spec cannot be resolved", "operation", r.plan.GetName(), "step", refused.Step, "fault", refused.Fault.GetMessage())
		next, err := saga.Apply(r.plan, tr.State, *refused, e.Now())
		if err != nil {
			return nil, nil, err
		}
		tr = next
	}
}

// command makes the message of a command.
func (e *Engine) command(r *run, state *orchestratorv1.SagaState, c saga.Command, outputs map[string]proto.Message, epoch int64) (bus.Message, error) {
	step := r.plan.GetSteps()[c.Step]
	goal, priority := step.GetGoal(), bus.PriorityNormal
	if c.Direction == busv1.Direction_DIRECTION_UNDO {
		goal, priority = plan.UndoGoal(r.plan, step, started(r.plan, state)), bus.PriorityUndo
	}
	kind, ok := e.Kinds.ByType(goal.GetResource().GetType())
	if !ok {
		return bus.Message{}, fault.New(fault.Internal, "step %s: there is no kind %s", step.GetId(), goal.GetResource().GetType())
	}
	cmd := &busv1.Command{
		Origin: &busv1.Origin{Saga: r.plan.GetName(), Step: step.GetId(), Direction: c.Direction, Attempt: c.Attempt, Epoch: epoch},
		Name:   goal.GetResource().GetName(), Type: goal.GetResource().GetType(), Key: goal.GetResource().GetKey(), Deadline: r.plan.GetDeadline(),
	}
	if goal.GetRelease() {
		cmd.Action = &busv1.Command_Release{Release: &busv1.Release{}}
	} else {
		ensure, err := e.ensure(r, goal, outputs)
		if err != nil {
			return bus.Message{}, err
		}
		cmd.Action = &busv1.Command_Ensure{Ensure: ensure}
	}
	data, err := proto.Marshal(cmd)
	if err != nil {
		return bus.Message{}, fault.As(fault.Internal, fault.Wrap(err, "encode the command of step %s", step.GetId()))
	}
	return bus.Message{
		Subject: bus.CommandSubject(kind.Service, priority, resource.TenantOf(cmd.GetName()), kind.Collection),
		ID:      commandID(cmd.GetOrigin()), Data: data,
	}, nil
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

func (e *Engine) ensure(r *run, goal *orchestratorv1.Goal, outputs map[string]proto.Message) (*busv1.Ensure, error) {
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
		Stack: r.plan.GetStack(), Replaces: goal.GetReplaces(),
	}, nil
}

// arm sets the timer of a saga to its next tick, or lets go of a saga that has ended. The caller holds the run.
func (e *Engine) arm(r *run) {
	if r.timer != nil {
		r.timer.Stop()
	}
	name := r.plan.GetName()
	if saga.Ended(r.state) {
		r.over = true
		e.drop(name)
		return
	}
	if err := saga.Check(r.plan, r.state); err != nil {
		e.Logger.Error("saga without a next action", "operation", name, "error", err)
	}
	wake, ok := saga.Wake(r.state)
	if !ok {
		return
	}
	r.timer = time.AfterFunc(max(wake.Sub(e.Now()), 0), func() { e.tick(name) })
}

// tick lets a saga look at the clock. A tick that could not be kept is made again.
func (e *Engine) tick(name string) {
	_, ctx, err := e.owned()
	if err != nil || ctx.Err() != nil {
		return
	}
	err = e.Apply(ctx, name, saga.Tick{})
	if err == nil || fault.Is(err, fault.NotFound) || ctx.Err() != nil {
		e.rearm(name)
		return
	}
	e.Logger.Warn("tick", "operation", name, "error", err)
	if r, err := e.find(name); err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		e.again(r)
	}
}

// rearm sets the timer of a saga whose tick changed nothing, e.g. because it came a moment early.
func (e *Engine) rearm(name string) {
	e.mu.Lock()
	r := e.runs[name]
	e.mu.Unlock()
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == nil || r.over {
		return
	}
	if wake, ok := saga.Wake(r.state); ok && wake.Sub(e.Now()) <= 0 {
		if r.timer != nil {
			r.timer.Stop()
		}
		r.timer = time.AfterFunc(10*time.Millisecond, func() { e.tick(name) })
		return
	}
	e.arm(r)
}
