package engine

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/crash"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/saga"
	"github.com/weftcloud/weft/pkg/store"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/plan"
)

// run is one unfinished saga.
//
// Its queue of events is guarded by mu. All else belongs to whoever works on it: who finds it idle (busy is false) becomes
// the one, and works until the queue is empty.
type run struct {
	part *part
	name string

	mu      sync.Mutex
	pending []posted
	busy    bool
	over    bool        // it has ended, or never began
	timer   func() bool // stops the timer of the next tick; nil if there is none

	plan     *orchestratorv1.SagaPlan
	resolver *plan.Resolver
	state    *orchestratorv1.SagaState
	revision int64
	outputs  map[string]proto.Message // what was observed, by local name
	observed map[int]proto.Message    // what steps observed, as it is kept
	// resuming says that it was taken over, and what is under way has not been asked for.
	resuming bool
	// unsure says that it is not known whether the last transition was kept: the saga must be read again. unsent are the
	// messages that are to be sent if it was.
	unsure bool
	unsent []store.Op

	look atomic.Pointer[look] // what statistics see
}

// posted is one event in a queue. done, if it is not nil, gets what became of it.
type posted struct {
	event saga.Event
	done  chan<- error
}

func (q posted) answer(err error) {
	if q.done != nil {
		q.done <- err
	}
}

const (
	// together bounds how many events one transaction takes.
	together = 48
	// again is when a transaction is tried again of which it is not known whether it was kept, or that was refused.
	again = time.Second
)

func newRun(p *part, name string) *run {
	return &run{part: p, name: name, outputs: map[string]proto.Message{}, observed: map[int]proto.Message{}}
}

// prepare makes what is derived from the plan, and from what steps observed.
func (r *run) prepare(p *orchestratorv1.SagaPlan) error {
	r.plan = p
	standing := p.GetStanding()
	if len(standing) == 0 {
		standing = p.GetFormer().GetStanding()
	}
	resolver, err := plan.NewResolver(r.part.Kinds, standing)
	if err != nil {
		return fault.Wrap(err, "%s", r.name)
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
	for _, n := range slices.Sorted(maps.Keys(r.observed)) { // of several steps of a resource the last tells most
		if n < len(p.GetSteps()) {
			r.outputs[p.GetSteps()[n].GetGoal().GetResource().GetLocalName()] = r.observed[n]
		}
	}
	return nil
}

// post queues an event for a saga and, if nobody works on it, has somebody do so.
func (p *part) post(r *run, q posted) {
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		q.answer(fault.New(fault.NotFound, "operation %s does not exist or has ended", r.name))
		return
	}
	r.pending = append(r.pending, q)
	idle := !r.busy
	r.busy = true
	r.mu.Unlock()
	if idle {
		p.employ(r)
	}
}

// employ has somebody work on a saga, unless the shard is being given up. The caller has made it busy.
func (p *part) employ(r *run) {
	if p.spawn(func() { p.work(r) }) {
		return
	}
	r.mu.Lock()
	left := r.pending
	r.pending, r.busy = nil, false
	r.mu.Unlock()
	p.late(r, left)
}

// late deals with events that came when the shard was this process's no more.
func (p *part) late(r *run, events []posted) {
	p.count(func(s *Stats) { s.Late += int64(len(events)) })
	for _, q := range events {
		q.answer(fault.New(fault.Unavailable, "the ownership of %s was lost; try again", r.name))
	}
}

// work applies what is queued until nothing is, or until the store must be given time.
func (p *part) work(r *run) {
	for {
		batch := r.take()
		if batch == nil {
			return
		}
		if p.ctx.Err() != nil {
			p.late(r, batch)
			continue
		}
		if !p.turn(r, batch) {
			return
		}
	}
}

// take takes what is queued; nil, and the saga is idle, if nothing is.
func (r *run) take() []posted {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pending) == 0 {
		r.busy = false
		return nil
	}
	n := min(len(r.pending), together)
	batch := r.pending[:n:n]
	r.pending = r.pending[n:]
	if len(r.pending) == 0 {
		r.pending = nil
	}
	return batch
}

// begin keeps a new saga, what it holds of its tenant's quotas, and its first commands. If another of the tenant's came first
// at a quota it is looked again whether there is enough left.
func (p *part) begin(ctx context.Context, planned *orchestratorv1.SagaPlan, changing *orchestratorv1.StackRecord, stackRevision int64) error {
	for try := 1; ; try++ {
		hold, err := p.hold(ctx, planned)
		if err != nil {
			return err
		}
		err = p.beginHolding(ctx, planned, changing, stackRevision, hold)
		if try == quota.Tries || !fault.Is(err, fault.Conflict) {
			return err
		}
		if again, lookErr := p.Quotas.Overtaken(ctx, hold); lookErr != nil || !again {
			return errors.Join(err, lookErr)
		}
	}
}

func (p *part) beginHolding(ctx context.Context, planned *orchestratorv1.SagaPlan, changing *orchestratorv1.StackRecord, stackRevision int64, hold *quota.Hold) error {
	r := newRun(p, planned.GetName())
	if err := r.prepare(planned); err != nil {
		return err
	}
	encoded, err := proto.Marshal(planned)
	if err != nil {
		return fault.As(fault.Internal, fault.Wrap(err, "encode the plan"))
	}
	record, err := proto.Marshal(changing)
	if err != nil {
		return fault.As(fault.Internal, fault.Wrap(err, "encode %s", planned.GetStack()))
	}
	held := p.heldClouds()
	tr := saga.Begin(planned, held, p.Now())
	t := transaction{
		compares: []store.Compare{
			p.owner.Fence(), {Key: stackKey(planned.GetStack()), ModRevision: stackRevision}, {Key: planKey(r.name)}, {Key: summaryKey(r.name)},
		},
		stack: changing,
	}
	t.compares = append(t.compares, hold.Compares...)
	if !saga.Ended(tr.State) { // else what it leaves is written at once
		t.ops = append(t.ops, store.Op{Key: planKey(r.name), Value: encoded}, store.Op{Key: stackKey(planned.GetStack()), Value: record})
		t.ops = append(t.ops, hold.Ops...)
	}
	if err := p.event(&t, stackEvent(changing.GetStack(), "changing")); err != nil {
		return err
	}
	r.busy = true // what comes meanwhile waits
	if !p.add(r) {
		return p.begunBefore(r.name)
	}
	if now := p.heldClouds(); !slices.Equal(held, now) { // those that were held meanwhile were told to the sagas that there were
		p.post(r, posted{event: saga.CloudsHeld{Clouds: now}})
	}
	err = p.commit(ctx, r, tr, t)
	if err != nil && !r.unsure {
		p.conclude(r)
		p.refused(err)
		return err
	}
	if r.unsure { // it finds out by itself
		p.wake(r, again)
	}
	p.employ(r)
	return err
}

// begunBefore answers who begins a saga a second time, for want of an answer to the first: Conflict if it is known by now
// that it was kept.
func (p *part) begunBefore(name string) error {
	if r := p.find(name); r != nil && r.look.Load() != nil {
		return fault.New(fault.Conflict, "it has begun already")
	}
	return fault.New(fault.Unavailable, "it is not known yet whether it was kept; try again")
}

// turn applies events that came together. It says no, and nobody works on the saga, if they could not be kept.
func (p *part) turn(r *run, batch []posted) bool {
	if err := p.reread(r); err != nil {
		p.putBack(r, batch, err)
		return false
	}
	if r.resuming && r.state != nil {
		r.resuming = false
		batch = append(p.resume(r), batch...)
	}
	if r.state == nil || saga.Ended(r.state) {
		for _, q := range batch {
			q.answer(fault.New(fault.NotFound, "operation %s does not exist or has ended", r.name))
		}
		return true
	}
	events := make([]saga.Event, len(batch))
	for i, q := range batch {
		events[i] = q.event
		if _, ok := q.event.(saga.CloudsHeld); ok { // another may have been queued before it that was newer
			events[i] = saga.CloudsHeld{Clouds: p.heldClouds()}
		}
	}
	tr, errs := saga.ApplyAll(r.plan, r.state, events, p.Now())
	taken := p.judge(r, batch, errs)
	p.count(func(s *Stats) { s.Events += int64(len(taken)) })
	switch {
	case !tr.Changed:
		p.arm(r)
	case len(tr.Commands) == 0 && saga.Only(r.state, tr.State):
		r.state = tr.State // it is kept with the next transition
		p.arm(r)
	default:
		t := transaction{compares: []store.Compare{p.owner.Fence()}}
		err := p.keepOutputs(&t, r, tr)
		if err == nil {
			err = p.commit(p.writing, r, tr, t)
		}
		if err != nil {
			p.refused(err)
			p.putBack(r, taken, err)
			return false
		}
	}
	for _, q := range taken {
		q.answer(nil)
	}
	return true
}

// judge answers the events that did not fit, and gives the others.
func (p *part) judge(r *run, batch []posted, errs []error) []posted {
	taken := make([]posted, 0, len(batch))
	for i, q := range batch {
		if errs[i] == nil {
			taken = append(taken, q)
			continue
		}
		if q.done == nil {
			p.Logger.Error("an event does not fit its saga", "operation", r.name, "event", q.event, "error", errs[i])
		}
		q.answer(errs[i])
	}
	return taken
}

// refused deals with a transaction that failed: if it was because another owns the shard, all work ends.
func (p *part) refused(err error) {
	if fault.Is(err, fault.Conflict) {
		p.fenced()
	}
}

// putBack deals with events that could not be kept. Who waits for an answer gets it; what participants told is queued
// again, and tried in a while.
func (p *part) putBack(r *run, batch []posted, err error) {
	if p.ctx.Err() == nil {
		p.Logger.Warn("keep what happened to a saga", "operation", r.name, "error", err)
	}
	if fault.Is(err, fault.Conflict) {
		r.unsure = true
	}
	var back []posted
	for _, q := range batch {
		if q.done != nil {
			q.answer(err)
			continue
		}
		if _, tick := q.event.(saga.Tick); !tick {
			back = append(back, q)
		}
	}
	r.mu.Lock()
	r.pending, r.busy = append(back, r.pending...), false
	r.mu.Unlock()
	p.wake(r, again)
}

// wake has a saga look at the clock in a while.
func (p *part) wake(r *run, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.disarm()
	if !r.over && p.ctx.Err() == nil {
		r.timer = p.After(wait, func() { p.post(r, posted{event: saga.Tick{}}) })
	}
}

// keepOutputs keeps what steps observed when they were done.
func (p *part) keepOutputs(t *transaction, r *run, tr saga.Transition) error {
	for _, o := range tr.Successes {
		if o.GetObserved() == nil {
			continue
		}
		i := stepOf(r.plan, o.GetOrigin().GetStep())
		m, err := o.GetObserved().UnmarshalNew()
		if err != nil {
			return fault.As(fault.Internal, fault.Wrap(err, "decode what was observed by step %s", o.GetOrigin().GetStep()))
		}
		value, err := proto.Marshal(o.GetObserved())
		if err != nil {
			return fault.As(fault.Internal, fault.Wrap(err, "encode what was observed by step %s", o.GetOrigin().GetStep()))
		}
		goal := r.plan.GetSteps()[i].GetGoal()
		if o.GetOrigin().GetDirection() == busv1.Direction_DIRECTION_UNDO {
			goal = r.plan.GetSteps()[i].GetUndo()
		}
		if t.observed == nil {
			t.observed, t.outputs = map[int]kept{}, map[string]proto.Message{}
		}
		t.observed[i] = kept{value, m}
		t.outputs[goal.GetResource().GetLocalName()] = m
	}
	return nil
}

func stepOf(p *orchestratorv1.SagaPlan, id string) int {
	for i, step := range p.GetSteps() {
		if step.GetId() == id {
			return i
		}
	}
	return 0 // it was found when the event was applied
}

// kept is what a step observed, and how it is kept.
type kept struct {
	value   []byte
	message proto.Message
}

// transaction is one transition in the making.
type transaction struct {
	compares []store.Compare
	ops      []store.Op
	messages []bus.Message
	observed map[int]kept
	outputs  map[string]proto.Message
	// stack is the stack as this transaction itself leaves it; nil if it does not touch it. A saga without steps ends as
	// it begins, before there is anything to read.
	stack *orchestratorv1.StackRecord
}

// commit keeps a transition and sends what follows from it. A command whose spec cannot be resolved is an event of its
// own: it is applied before anything is kept.
func (p *part) commit(ctx context.Context, r *run, tr saga.Transition, t transaction) (err error) {
	ctx, end := p.Traces.Span(ctx, r.plan.GetTraceParent(), "transition", "weft.operation", r.name, "weft.state", tr.State.GetState().String())
	defer func() { end(err) }()
	outputs := r.outputs
	if len(t.outputs) > 0 {
		outputs = merged(r.outputs, t.outputs)
	}
	state, commands, err := p.settle(r, tr, outputs)
	if err != nil {
		return err
	}
	t.messages = append(t.messages, commands...)
	state.Epoch = p.owner.Epoch()
	if err := p.announce(&t, r, r.state, state); err != nil {
		return err
	}
	if Over(state) {
		if err := p.concludeStack(ctx, &t, r, state, outputs); err != nil {
			return err
		}
		crash.Point(crash.EngineEndBefore)
	}
	if err := p.writeState(&t, r, state); err != nil {
		return err
	}
	messages := p.Outbox.Ops(t.messages...)
	crash.Point(crash.EngineCommitBefore)
	revision, err := p.Store.Txn(ctx, t.compares, append(t.ops, messages...))
	if fault.Is(err, fault.Unavailable) {
		r.unsure, r.unsent = true, messages
	}
	if err != nil {
		return fault.Wrap(err, "keep %s", r.name)
	}
	crash.Point(crash.EngineCommitAfter)
	p.Outbox.Committed(messages)
	p.count(func(s *Stats) { s.Transitions++; s.Commands += int64(len(commands)) })
	for n, k := range t.observed {
		r.observed[n] = k.message
	}
	r.state, r.revision, r.outputs = state, revision, outputs
	p.arm(r)
	return nil
}

// writeState adds the writes that keep a state; one that has ended is moved to where the ended are.
func (p *part) writeState(t *transaction, r *run, state *orchestratorv1.SagaState) error {
	shard := p.owner.Shard()
	t.compares = append(t.compares, store.Compare{Key: stateKey(shard, r.name), ModRevision: r.revision})
	if !saga.Ended(state) {
		value, err := proto.Marshal(state)
		if err != nil {
			return fault.As(fault.Internal, fault.Wrap(err, "encode %s", r.name))
		}
		t.ops = append(t.ops, store.Op{Key: stateKey(shard, r.name), Value: value})
		for n, k := range t.observed {
			t.ops = append(t.ops, store.Op{Key: outKey(shard, r.name, n), Value: k.value})
		}
		return nil
	}
	value, err := proto.Marshal(summary(r.plan, state))
	if err != nil {
		return fault.As(fault.Internal, fault.Wrap(err, "encode %s", r.name))
	}
	t.ops = append(t.ops, store.Op{Key: summaryKey(r.name), Value: value})
	if r.revision != 0 {
		t.ops = append(t.ops, store.Op{Key: stateKey(shard, r.name), Delete: true}, store.Op{Key: planKey(r.name), Delete: true})
	}
	return nil
}

// reread reads a saga again of which it is not known whether its last transition was kept.
func (p *part) reread(r *run) error {
	if !r.unsure {
		return nil
	}
	page, err := p.Store.List(p.ctx, sagaPrefix(p.owner.Shard(), r.name), store.ListOptions{})
	if err != nil {
		return fault.Wrap(err, "read %s again", r.name)
	}
	now, err := p.decode(p.ctx, r.name, page.Entries)
	if err != nil {
		return err
	}
	if now == nil {
		return p.vanished(r)
	}
	if err := p.handIn(r); err != nil {
		return err
	}
	r.state, r.revision, r.outputs, r.observed = now.state, now.revision, now.outputs, now.observed
	r.unsure, r.unsent = false, nil
	p.arm(r)
	return nil
}

// handIn hands in the messages of a transaction of which the answer was lost, if it was kept. That they stand in the store is
// the proof: what became of the saga may be another owner's doing. Those that do not stand there any more are published.
func (p *part) handIn(r *run) error {
	if len(r.unsent) == 0 {
		return nil
	}
	_, err := p.Store.Get(p.ctx, r.unsent[0].Key)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return fault.Wrap(err, "look whether the last transition of %s was kept", r.name)
	}
	p.Outbox.Committed(r.unsent)
	return nil
}

// vanished deals with a saga that is not among the unfinished ones: it has ended, or never began.
func (p *part) vanished(r *run) error {
	if err := p.handIn(r); err != nil {
		return err
	}
	r.unsure, r.unsent, r.state = false, nil, nil
	p.conclude(r)
	return nil
}

// conclude lets go of a saga that has ended, and deletes what nobody needs any more.
func (p *part) conclude(r *run) {
	r.mu.Lock()
	r.over = true
	left := r.pending
	r.pending = nil
	r.disarm()
	r.mu.Unlock()
	p.drop(r)
	for _, q := range left {
		q.answer(fault.New(fault.NotFound, "operation %s does not exist or has ended", r.name))
	}
	keys := make([]string, 0, len(r.observed))
	for n := range r.observed {
		keys = append(keys, outKey(p.owner.Shard(), r.name, n))
	}
	p.clean(keys)
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

// arm sets the timer of a saga to its next tick, or lets go of a saga that has ended.
func (p *part) arm(r *run) {
	r.look.Store(&look{r.plan, r.state})
	if saga.Ended(r.state) {
		crash.Point(crash.EngineEndAfter)
		p.conclude(r)
		return
	}
	if err := saga.Check(r.plan, r.state); err != nil {
		p.Logger.Error("saga without a next action", "operation", r.name, "error", err)
	}
	if wake, ok := saga.Wake(r.plan, r.state); ok {
		// A timer may fire a moment before its time; the tick then changes nothing and is made again.
		p.wake(r, max(wake.Sub(p.Now()), time.Millisecond))
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.disarm()
}

// disarm stops the timer. The caller holds the lock.
func (r *run) disarm() {
	if r.timer != nil {
		r.timer()
		r.timer = nil
	}
}

// resume settles what is under way in a saga that was taken over: a participant that knows the outcome is believed; to one
// that knows nothing, or cannot be asked, the command is sent again. It gives the outcomes.
func (p *part) resume(r *run) []posted {
	p.taking <- struct{}{}
	defer func() { <-p.taking }()
	crash.Point(crash.EngineTakeoverRead)
	var outcomes []posted
	var messages []bus.Message
	for _, c := range saga.InFlight(r.state) {
		o, known := p.ask(r, c)
		if o != nil {
			outcomes = append(outcomes, posted{event: saga.OutcomeReceived{Outcome: o}})
		}
		if known {
			continue
		}
		m, err := p.command(r, r.state, c, r.outputs)
		if err != nil {
			continue // its time runs out, and it is then refused like any other
		}
		messages = append(messages, m)
	}
	crash.Point(crash.EngineTakeoverAsked)
	p.arm(r)
	ops := p.Outbox.Ops(messages...)
	if len(ops) == 0 {
		return outcomes
	}
	if _, err := p.Store.Txn(p.writing, []store.Compare{p.owner.Fence()}, ops); err != nil {
		p.Logger.Warn("send commands again; they will be when nothing is heard of them", "operation", r.name, "error", err)
		p.refused(err)
		return outcomes
	}
	p.Outbox.Committed(ops)
	return outcomes
}

// ask asks the participant of a step what became of it. known says that it has the command.
func (p *part) ask(r *run, c saga.Command) (o *busv1.Outcome, known bool) {
	step := r.plan.GetSteps()[c.Step]
	goal := step.GetGoal()
	if c.Direction == busv1.Direction_DIRECTION_UNDO {
		goal = plan.UndoGoal(r.plan, step, started(r.plan, r.state))
	}
	kind, ok := p.Kinds.ByType(goal.GetResource().GetType())
	if !ok {
		return nil, false
	}
	o, err := p.Querier.Query(p.ctx, kind, p.origin(r, c), goal.GetResource().GetName(), goal.GetResource().GetKey())
	if err != nil {
		p.Logger.Info("a participant cannot be asked yet", "operation", r.name, "step", step.GetId(), "error", err)
		return nil, false
	}
	return o, o != nil
}
