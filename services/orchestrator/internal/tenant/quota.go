package tenant

import (
	"context"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/resource"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// Quotas serves weft.orchestrator.v1.QuotaService.
type Quotas struct {
	orchestratorv1.UnimplementedQuotaServiceServer

	// Account is what tenants take.
	Account *quota.Account
	// Exists refuses what is asked of a tenant that does not exist.
	Exists func(ctx context.Context, tenant string) error
}

// ListQuotas lists what a tenant may have, and what it has of it.
func (q *Quotas) ListQuotas(ctx context.Context, r *orchestratorv1.ListQuotasRequest) (*orchestratorv1.ListQuotasResponse, error) {
	tenant, err := resource.ParseParent(r.GetParent())
	if err != nil {
		return nil, err
	}
	if err := q.Exists(ctx, tenant); err != nil {
		return nil, err
	}
	limits, _, err := q.Account.Limits(ctx, tenant)
	if err != nil {
		return nil, fault.Wrap(err, "look what %s may have", r.GetParent())
	}
	state, err := q.Account.Read(ctx, tenant)
	if err != nil {
		return nil, err
	}
	out := &orchestratorv1.ListQuotasResponse{}
	for _, one := range quota.All() {
		out.Quotas = append(out.Quotas, state.Use(tenant, one, 0, limits))
	}
	return out, nil
}
