package engine

import (
	"context"
	"maps"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/store"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// simLimit is how many resources the tenant may have, its stacks' together: few enough for some sagas to be refused.
const simLimit = 19

// quotas gives the account of the tenant. It is read at once: what counts is what the transactions compare.
func (s *sim) quotas() *quota.Account {
	return &quota.Account{Store: s.store, Limits: func(context.Context, string) (quota.Amounts, *store.Compare, error) {
		return quota.Amounts{quota.Servers: simLimit}, nil, nil
	}}
}

// simDraws has each resource of a plan draw one.
func simDraws(p *orchestratorv1.SagaPlan) {
	one := quota.Amounts{quota.Servers: 1}
	for _, r := range p.GetStanding() {
		r.Draws = one
	}
	for _, step := range p.GetSteps() {
		step.GetGoal().GetResource().Draws = one
		if step.GetUndo() != nil {
			step.GetUndo().GetResource().Draws = one
		}
	}
}

// checkQuotas wants no more to be drawn than the tenant may have, and of each stack just what its record says that stands,
// and what its saga holds if one is under way.
func (s *sim) checkQuotas(when string) {
	page, err := s.store.List(context.Background(), "/weft/quota/acme/d/", store.ListOptions{})
	if err != nil {
		panic(err)
	}
	state, err := s.quotas().Read(context.Background(), "acme")
	if err != nil {
		panic(err)
	}
	if n := state.Used[quota.Servers] + state.Held[quota.Servers]; n > simLimit {
		s.violate("%s: %d are drawn, the limit is %d", when, n, simLimit)
	}
	under := map[string]quota.Amounts{} // by the draw's key
	for _, g := range s.monitor.order {
		if g.before != nil && g.ended == nil {
			tenant, owner := account(g.stack)
			op, err := quota.Set(tenant, owner, &participantv1.TenantDraw{Used: drawn(g.plan.GetFormer().GetStanding()), Held: addable(g.plan)})
			if err != nil {
				panic(err)
			}
			under[op.Key] = drawn(g.plan.GetFormer().GetStanding()).Plus(addable(g.plan))
		}
	}
	want := map[string]int64{}
	for _, st := range s.stacks {
		tenant, owner := account(st.name)
		op, err := quota.Set(tenant, owner, nil)
		if err != nil {
			panic(err)
		}
		amounts, running := under[op.Key]
		if kept := s.kept(st.name); kept != nil && !running {
			amounts = drawn(kept.GetStanding())
		}
		if n := amounts[quota.Servers]; n > 0 {
			want[op.Key] = n
		}
	}
	got := map[string]int64{}
	for _, e := range page.Entries {
		d := &participantv1.TenantDraw{}
		if err := proto.Unmarshal(e.Value, d); err != nil {
			panic(err)
		}
		got[e.Key] = d.GetUsed()[quota.Servers] + d.GetHeld()[quota.Servers]
	}
	if !maps.Equal(want, got) {
		s.violate("%s: drawn is %v, the stacks and the sagas under way say %v", when, got, want)
	}
}
