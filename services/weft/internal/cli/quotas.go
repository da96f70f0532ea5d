package cli

import (
	"strconv"

	"github.com/spf13/cobra"

	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

func (a *tool) quotasCommand() *cobra.Command {
	return &cobra.Command{
		Use: "quotas", Short: "List what the tenant may have, and what it has of it",
		Long: `List what the tenant may have, and what it has of it.

Used is what stands; held is what operations under way may add to it, which nobody else can take meanwhile. The quotas of
the clouds, which count besides, are shown by weft plan where a plan draws on them.`,
		Args: takes(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client) error {
				parent, err := c.parent()
				if err != nil {
					return err
				}
				answer, err := orchestratorv1.NewQuotaServiceClient(c.conn).ListQuotas(cmd.Context(), &orchestratorv1.ListQuotasRequest{Parent: parent})
				if err != nil {
					return failed(err, "list the quotas of %s", parent)
				}
				return a.printTable(answer, a.quotaTable(answer.GetQuotas()), "there are no quotas")
			})
		},
	}
}

// quotaTable shows quotas with what is used of them.
func (a *tool) quotaTable(quotas []*participantv1.QuotaUse) *table {
	st := a.style(a.p.OutIsTerminal)
	t := &table{header: []string{"SERVICE", "QUOTA", "USED", "HELD", "LIMIT"}}
	for _, q := range quotas {
		limit := "none"
		if q.GetLimit() >= 0 {
			limit = strconv.FormatInt(q.GetLimit(), 10)
		}
		if q.GetLimit() >= 0 && q.GetUsed() >= q.GetLimit() {
			limit = st.yellow(limit)
		}
		t.add(q.GetService(), q.GetQuota(), strconv.FormatInt(q.GetUsed()-q.GetHeld(), 10), strconv.FormatInt(q.GetHeld(), 10), limit)
	}
	return t
}
