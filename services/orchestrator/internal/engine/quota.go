package engine

import (
	"context"
	"strings"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/saga"
	"github.com/weftcloud/weft/pkg/store"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// A stack draws on its tenant's quotas (package quota). The transaction that begins a saga holds what the saga may add at
// most, which is refused if the tenant may not have it; the one that ends it leaves the draw of what stands. Both compare
// the stack's key, so the draw is as true as the stack.

// drawn gives what a stack's resources take.
func drawn(standing []*orchestratorv1.StandingResource) quota.Amounts {
	out := quota.Amounts{}
	for _, s := range standing {
		out = out.Plus(s.GetDraws())
	}
	return out
}

// addable gives what a saga may add to what stands: the new objects while the old ones still stand, and what is changed at
// its larger.
func addable(p *orchestratorv1.SagaPlan) quota.Amounts {
	former := map[string]quota.Amounts{}
	for _, s := range p.GetFormer().GetStanding() {
		former[s.GetKey()] = s.GetDraws()
	}
	out := quota.Amounts{}
	for _, s := range p.GetStanding() {
		out = out.Plus(quota.Amounts(s.GetDraws()).Over(former[s.GetKey()]))
	}
	return out
}

// either gives what a resource takes of which it is not certain whether it stands as before a saga or as that wanted it: the
// larger.
func either(p *orchestratorv1.SagaPlan, s *orchestratorv1.StandingResource) quota.Amounts {
	out := quota.Amounts(s.GetDraws())
	for _, before := range p.GetFormer().GetStanding() {
		if before.GetKey() == s.GetKey() {
			out = out.Max(before.GetDraws())
		}
	}
	for _, step := range p.GetSteps() {
		if to := step.GetGoal().GetResource(); to.GetKey() == s.GetKey() && !step.GetGoal().GetRelease() {
			out = out.Max(to.GetDraws())
		}
	}
	return out
}

// skipped tells whether a person took a change of a resource as done, or as undone: the provider may have refused it.
func skipped(p *orchestratorv1.SagaPlan, state *orchestratorv1.SagaState, key string) bool {
	for i, step := range p.GetSteps() {
		if step.GetGoal().GetResource().GetKey() == key && state.GetSteps()[i].GetState() == orchestratorv1.StepState_STEP_STATE_SKIPPED {
			return true
		}
	}
	return false
}

// account names a stack among those that draw on its tenant's quotas.
func account(stack string) (tenant, owner string) {
	tenant = resource.TenantOf(stack)
	return tenant, strings.TrimPrefix(stack, "tenants/"+tenant+"/")
}

// hold gives what the transaction that begins a saga must carry to hold what the saga may add. The error is Quota if its
// tenant may not have so much.
func (e *Engine) hold(ctx context.Context, p *orchestratorv1.SagaPlan) (*quota.Hold, error) {
	add := addable(p)
	if e.Quotas == nil || len(add) == 0 {
		return &quota.Hold{}, nil
	}
	tenant, owner := account(p.GetStack())
	return e.Quotas.Draw(ctx, tenant, owner, &participantv1.TenantDraw{Used: drawn(p.GetFormer().GetStanding()), Held: add, Operation: p.GetName()})
}

// release gives the write that leaves the draw of what stands when a saga has ended; nothing if the stack never drew.
func (e *Engine) release(p *orchestratorv1.SagaPlan, state *orchestratorv1.SagaState, next *orchestratorv1.StackRecord) ([]store.Op, error) {
	if e.Quotas == nil || !saga.Ended(state) {
		return nil, nil
	}
	used := drawn(next.GetStanding())
	if len(used) == 0 && len(addable(p)) == 0 && len(drawn(p.GetFormer().GetStanding())) == 0 {
		return nil, nil
	}
	tenant, owner := account(p.GetStack())
	op, err := quota.Set(tenant, owner, &participantv1.TenantDraw{Used: used})
	return []store.Op{op}, fault.Wrap(err, "free what %s held", p.GetName())
}
