package engine

import (
	"context"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/saga"
	"github.com/weftcloud/weft/pkg/store"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

const simOwners = "/weft/orchestrator/owners/"

func simOwnerKey(shard int) string { return simOwners + strconv.Itoa(shard) }

// simStore is the store as one process sees it.
type simStore struct {
	store.Store // what is not used here
	sim         *sim
	process     *simProcess
}

// trouble is what happens to a call before it has its effect.
func (v *simStore) trouble(ctx context.Context, op string) error {
	s := v.sim
	if err := ctx.Err(); err != nil {
		return fault.As(fault.Unavailable, err)
	}
	if s.chance(s.odds.unavailable) {
		return fault.New(fault.Unavailable, "the store does not answer: %s", op)
	}
	if s.depth >= 3 || s.calm {
		return nil
	}
	wait := time.Duration(0)
	switch {
	case s.chance(s.odds.stop):
		wait = s.between(time.Second, 15*time.Second)
		v.process.freeze(wait)
	case s.chance(s.odds.slow):
		wait = s.upTo(300 * time.Millisecond)
	default:
		return nil
	}
	s.note("%s waits %s in a %s", v.process.name, wait, op)
	s.depth++
	s.until(s.now.Add(wait), nil)
	s.depth--
	if v.process.dead {
		panic(simCrash{v.process})
	}
	if v.process.frozen.After(s.now) { // it was stopped again meanwhile, or the run is at its end
		v.process.frozen = s.now
	}
	return nil
}

// freeze has a process stand still. Its lease ends meanwhile if that is long.
func (p *simProcess) freeze(wait time.Duration) {
	p.sim.counts.pauses++
	p.frozen = p.sim.now.Add(wait)
	for _, r := range p.sim.replicas {
		if r.process == p {
			r.stopped(wait)
		}
	}
}

// Get implements store.Store.
func (v *simStore) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := ctx.Err(); err != nil {
		return store.Entry{}, fault.As(fault.Unavailable, err)
	}
	if v.sim.chance(v.sim.odds.unavailable / 2) {
		return store.Entry{}, fault.New(fault.Unavailable, "the store does not answer")
	}
	if v.sim.mutant.noTombstones && strings.Contains(key, "/t/") {
		return store.Entry{}, fault.New(fault.NotFound, "no tombstone")
	}
	return v.sim.store.Get(ctx, key)
}

// List implements store.Store.
func (v *simStore) List(ctx context.Context, prefix string, opts store.ListOptions) (store.Page, error) {
	if err := v.trouble(ctx, "list"); err != nil {
		return store.Page{}, err
	}
	return v.sim.store.List(ctx, prefix, opts)
}

// Txn implements store.Store.
func (v *simStore) Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error) {
	s := v.sim
	if s.chance(s.odds.crashTxn) {
		v.process.crash("before a transaction")
	}
	if err := v.trouble(ctx, "transaction"); err != nil {
		return 0, err
	}
	if ctx.Err() != nil && s.rng.IntN(2) == 0 { // given up while it was under way: it may have its effect all the same
		return 0, fault.As(fault.Unavailable, ctx.Err())
	}
	revision, err := s.monitor.commit(v.process, compares, ops)
	if err != nil {
		return 0, err
	}
	if s.chance(s.odds.crashTxn) {
		v.process.crash("after a transaction")
	}
	if ctx.Err() != nil || s.chance(s.odds.lostAnswer) {
		s.counts.lost++
		s.note("%s does not get the answer", v.process.name)
		return 0, fault.New(fault.Unavailable, "the answer was lost")
	}
	return revision, nil
}

// simMonitor makes every transaction, and holds it to what must be true.
type simMonitor struct {
	sim   *sim
	sagas map[string]*simSaga
	order []*simSaga
}

// simSaga is what the monitor knows of one saga.
type simSaga struct {
	name, stack string
	plan        *orchestratorv1.SagaPlan
	state       *orchestratorv1.SagaState
	ended       *orchestratorv1.SagaSummary
	before      map[string]*simObject // what stood when it began, by key
	clean       bool                  // the stack was sound then
	skipped     bool                  // a person skipped a step
	doc         *simDoc               // nil for a destruction
}

func newSimMonitor(s *sim) *simMonitor { return &simMonitor{sim: s, sagas: map[string]*simSaga{}} }

// commit makes a transaction.
func (m *simMonitor) commit(p *simProcess, compares []store.Compare, ops []store.Op) (int64, error) {
	s := m.sim
	var fence *store.Compare
	made := make([]store.Compare, 0, len(compares))
	for i, c := range compares {
		owners := strings.HasPrefix(c.Key, simOwners)
		if owners {
			fence = &compares[i]
		}
		tomb := s.mutant.noTombstones && strings.Contains(c.Key, "/t/")
		record := s.mutant.noRevision && strings.Contains(c.Key, "/r/") && c.ModRevision != 0
		if owners && s.mutant.noFence || tomb || record {
			continue
		}
		made = append(made, c)
	}
	revision, err := s.store.Txn(context.Background(), made, ops)
	key := ""
	if len(ops) > 0 {
		key = ops[0].Key
	}
	s.note("%s writes %s and %d more: %d %s", p.name, key, len(ops)-1, revision, fault.KindOf(err))
	if err != nil {
		return 0, err
	}
	m.fenced(p, fence, ops)
	for _, op := range ops {
		m.written(p, op)
	}
	return revision, nil
}

// fenced looks whether who wrote for a shard owns it.
func (m *simMonitor) fenced(p *simProcess, fence *store.Compare, ops []store.Op) {
	if fence != nil {
		e, err := m.sim.store.Get(context.Background(), fence.Key)
		if err != nil || e.CreateRevision != fence.CreateRevision {
			m.sim.violate("%s wrote for a shard that it does not own: %s", p.name, ops[0].Key)
		}
		return
	}
	for _, op := range ops {
		rest, ok := strings.CutPrefix(op.Key, prefix)
		if ok && !strings.HasPrefix(rest, "so/") {
			m.sim.violate("%s wrote %s without a fence", p.name, op.Key)
		}
	}
}

// written looks at one write.
func (m *simMonitor) written(p *simProcess, op store.Op) {
	rest, ok := strings.CutPrefix(op.Key, prefix)
	if !ok || op.Delete {
		return
	}
	what, rest, _ := strings.Cut(rest, "/")
	switch {
	case what == "s" && strings.HasSuffix(rest, "/state"):
		_, name, _ := strings.Cut(strings.TrimSuffix(rest, "/state"), "/")
		m.state(p, m.saga(name), op.Value)
	case what == "f":
		m.over(m.saga(rest), op.Value)
	}
}

// saga gives what is known of a saga; its plan is read when it is first seen.
func (m *simMonitor) saga(name string) *simSaga {
	g := m.sagas[name]
	if g == nil {
		panic("a saga that no client began: " + name)
	}
	if g.before == nil {
		g.before = m.sim.cloud.of(g.stack)
		m.sim.counts.sagas++
	}
	return g
}

// state looks at a transition.
func (m *simMonitor) state(p *simProcess, g *simSaga, value []byte) {
	state := &orchestratorv1.SagaState{}
	if err := proto.Unmarshal(value, state); err != nil {
		m.sim.violate("%s wrote a state of %s that cannot be read: %v", p.name, g.name, err)
		return
	}
	if g.ended != nil {
		m.sim.violate("%s wrote a state of %s, which has ended", p.name, g.name)
	}
	if g.state != nil && state.GetSequence() <= g.state.GetSequence() {
		m.sim.violate("%s: transition %d after %d", g.name, state.GetSequence(), g.state.GetSequence())
	}
	if saga.Ended(state) {
		m.sim.violate("%s has ended and is among the unfinished", g.name)
	}
	if err := saga.Check(g.plan, state); err != nil {
		m.sim.violate("%s: %v", g.name, err)
	}
	if state.GetState() == orchestratorv1.OperationState_OPERATION_STATE_NEEDS_HAND {
		m.sim.counts.needsHand++
	}
	g.state = state
	m.sim.note("%s is %s %s, deadline %.0f", g.name, simState(state), simSteps(state), state.GetDeadline().AsTime().Sub(simStart).Seconds())
}

// simState writes where a saga stands.
func simState(state *orchestratorv1.SagaState) string {
	text := strings.TrimPrefix(state.GetState().String(), "OPERATION_STATE_")
	if state.GetHeldTime() != nil {
		text += " held"
	}
	return text
}

// simSteps writes where the steps of a saga stand.
func simSteps(state *orchestratorv1.SagaState) string {
	var b strings.Builder
	for _, st := range state.GetSteps() {
		b.WriteString(" " + strings.TrimPrefix(st.GetState().String(), "STEP_STATE_") + strconv.Itoa(int(st.GetAttempt())) + "/" + strconv.Itoa(int(st.GetUndoAttempt())))
	}
	return b.String()
}

// over looks at the end of a saga.
func (m *simMonitor) over(g *simSaga, value []byte) {
	end := &orchestratorv1.SagaSummary{}
	if err := proto.Unmarshal(value, end); err != nil {
		m.sim.violate("the summary of %s cannot be read: %v", g.name, err)
		return
	}
	if g.ended != nil {
		m.sim.violate("%s has ended twice", g.name)
	}
	g.ended = end
	name := strings.TrimPrefix(end.GetOperation().GetState().String(), "OPERATION_STATE_")
	m.sim.counts.ended++
	m.sim.counts.ends[name]++
	m.sim.note("%s has ended: %s", g.name, name)
	m.sim.checkEnd(g)
}
