package engine

import (
	"time"

	"github.com/weftcloud/weft/pkg/saga"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// Stats tells what an engine has done, and what is under way.
type Stats struct {
	// Transitions counts the transitions that were kept, Events the events that they took, Commands those that they sent.
	Transitions, Events, Commands int64
	// Fenced counts the transactions that the store refused because another owns the shard.
	Fenced int64
	// Late counts the events that were not applied because the ownership of the shard was over, by the clock of this process.
	Late int64
	// Unreadable counts the sagas that could not be taken over.
	Unreadable int64
	// Shards and Sagas are how many this process owns now.
	Shards, Sagas int
	// Idle counts the unfinished sagas without a next action, or whose next action is long overdue: there must be none.
	Idle int
	// Held counts the sagas of which something is held, NeedsHand those that wait for a person.
	Held, NeedsHand int
	// Oldest is the age of the oldest step that is begun and not done, by the type of its resource.
	Oldest map[string]time.Duration
}

func (e *Engine) count(change func(*Stats)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(&e.stats)
}

// Stats tells what the engine has done, and looks at all that is under way.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	out := e.stats
	e.mu.Unlock()
	parts := e.owned()
	out.Shards, out.Oldest = len(parts), map[string]time.Duration{}
	for _, p := range parts {
		for _, r := range p.all() {
			out.Sagas++
			if look := r.look.Load(); look != nil {
				out.add(look, e.Now())
			}
		}
	}
	return out
}

// look is what is to be counted of a saga: its plan and its state, neither of which is ever changed.
type look struct {
	plan  *orchestratorv1.SagaPlan
	state *orchestratorv1.SagaState
}

// overdue is how long after its time a saga's next action may come before it is taken for lost.
const overdue = time.Minute

func (s *Stats) add(l *look, now time.Time) {
	wake, due := saga.Wake(l.plan, l.state)
	if saga.Check(l.plan, l.state) != nil || due && now.Sub(wake) > overdue {
		s.Idle++
	}
	if l.state.GetHeldTime() != nil {
		s.Held++
	}
	if l.state.GetState() == orchestratorv1.OperationState_OPERATION_STATE_NEEDS_HAND {
		s.NeedsHand++
	}
	for i, step := range l.state.GetSteps() {
		if step.GetStartTime() == nil || step.GetEndTime() != nil {
			continue
		}
		typ := l.plan.GetSteps()[i].GetGoal().GetResource().GetType()
		s.Oldest[typ] = max(s.Oldest[typ], now.Sub(step.GetStartTime().AsTime()))
	}
}
