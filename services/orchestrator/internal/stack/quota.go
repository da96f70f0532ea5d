package stack

import (
	"context"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/resource"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/plan"
)

// tenantQuotas holds a plan against what its tenant may have, and keeps in the plan what each of its resources draws. What it
// finds is told early and with its place; what counts is what the engine finds when the saga begins, see Engine.Begin.
func (s *Server) tenantQuotas(ctx context.Context, c *compiled, result *plan.Result, answers []*participantv1.PreflightResponse) error {
	draws := drawsOf(answers)
	recordDraws(result, draws)
	tenant := resource.TenantOf(c.source.parent)
	limits, _, err := s.Quotas.Limits(ctx, tenant)
	if err != nil || len(limits) == 0 {
		return fault.Wrap(err, "look what %s may have", c.source.parent)
	}
	state, err := s.Quotas.Read(ctx, tenant)
	if err != nil {
		return err
	}
	own := state.Of(strings.TrimPrefix(result.Saga.GetStack(), "tenants/"+tenant+"/"))
	m := &measure{}
	m.sort(result)
	for _, q := range quota.All() {
		if _, limited := limits[q.Name]; limited {
			s.holdAgainst(c, result, state.Use(tenant, q, 0, limits), own[q.Name], m.items, draws)
		}
	}
	return nil
}

// holdAgainst holds a plan against one quota. It is reported at the first resource, in the document's order, that passes it.
// What the stack itself draws, own, it need not find room for, as when its saga begins: of that part may be held by an
// operation that this one takes the place of, or be of what is gone.
func (s *Server) holdAgainst(c *compiled, result *plan.Result, use *participantv1.QuotaUse, own int64, items []measured, draws map[string]*participantv1.Draw) {
	former, wanted := map[string]int64{}, int64(0)
	for _, f := range c.record.GetStanding() {
		former[f.GetKey()] = f.GetDraws()[use.GetQuota()]
		wanted += f.GetDraws()[use.GetQuota()]
	}
	first := ""
	for _, i := range items {
		d := draws[i.item.GetName()]
		if field, open := d.GetUnknown()[use.GetQuota()]; open {
			c.problems = append(c.problems, result.Problem(&participantv1.Finding{
				Name: i.item.GetName(), Field: "spec." + field, Fault: fault.Proto(fault.InField("spec."+field,
					"its value is known only when other resources stand, but %s has a quota of %s that it draws on; write the value itself", use.GetCloud(), use.GetQuota()), s.Now()),
			}))
		}
		wanted += max(d.GetAmounts()[use.GetQuota()]-former[i.item.GetKey()], 0)
		use.Need = max(wanted-own, 0)
		if first == "" && quota.Passes(use) {
			first = i.item.GetName()
		}
	}
	if use.GetNeed() > 0 && c.result != nil {
		c.quotas = append(c.quotas, use)
	}
	if first != "" && result.QuotasKnown() {
		c.problems = append(c.problems, result.Problem(&participantv1.Finding{Name: first, Fault: fault.Proto(quota.Fault(use), s.Now())}))
	}
}

// drawsOf gives what services said that resources draw, by name.
func drawsOf(answers []*participantv1.PreflightResponse) map[string]*participantv1.Draw {
	out := map[string]*participantv1.Draw{}
	for _, a := range answers {
		for _, d := range a.GetDraws() {
			out[d.GetName()] = d
		}
	}
	return out
}

// recordDraws keeps in a plan what its resources draw.
func recordDraws(result *plan.Result, draws map[string]*participantv1.Draw) {
	touched := map[string]string{} // key to name
	for _, items := range result.Items {
		for _, i := range items {
			if i.GetSpec() != nil {
				touched[i.GetKey()] = i.GetName()
			}
		}
	}
	former := map[string]*orchestratorv1.StandingResource{}
	for _, f := range result.Saga.GetFormer().GetStanding() {
		former[f.GetKey()] = f
	}
	set := func(r *orchestratorv1.StandingResource) {
		if name, ok := touched[r.GetKey()]; ok {
			r.Draws = draws[name].GetAmounts()
		}
	}
	for _, r := range result.Saga.GetStanding() {
		set(r)
	}
	for _, step := range result.Saga.GetSteps() {
		if !step.GetGoal().GetRelease() {
			set(step.GetGoal().GetResource())
		}
		undo := step.GetUndo().GetResource()
		if undo == nil { // of a deletion after the pivot
			continue
		}
		was := former[undo.GetKey()]
		if was != nil && !step.GetUndo().GetRelease() && !proto.Equal(undo.GetSpec(), was.GetSpec()) { // what has grown stays grown
			undo.Draws = quota.Amounts(was.GetDraws()).Max(draws[touched[undo.GetKey()]].GetAmounts())
		}
		if step.GetGoal().GetRelease() && len(undo.GetDraws()) == 0 { // of what is gone, which draws nothing until it is made anew
			undo.Draws = draws[undo.GetName()].GetAmounts()
		}
	}
}
