package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/weftcloud/weft/pkg/fault"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

func (a *tool) tenantCommand() *cobra.Command {
	return group("tenant", "Add tenants and list them", a.tenantAdd(), a.listOf("tenant"))
}

// isolations are how a tenant can be kept apart from the others, as people write it.
var isolations = map[string]orchestratorv1.Isolation{
	"single-tenant": orchestratorv1.Isolation_ISOLATION_SINGLE_TENANT,
	"multi-tenant":  orchestratorv1.Isolation_ISOLATION_MULTI_TENANT,
}

func (a *tool) tenantAdd() *cobra.Command {
	var display, isolation string
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Add a tenant, or change what is said of it", Args: takes(1, 1, "a name"),
		Example: "  weft tenant add acme --isolation multi-tenant",
		RunE: func(cmd *cobra.Command, args []string) error {
			chosen, known := isolations[isolation]
			if isolation != "" && !known {
				return misused(cmd, "--isolation is single-tenant or multi-tenant, not %q", isolation)
			}
			return a.with(func(c *client) error {
				spec, err := tenantSpec(cmd, c, args[0])
				if err != nil {
					return err
				}
				if cmd.Flags().Changed("display-name") {
					spec.DisplayName = display
				}
				if known {
					spec.Isolation = chosen
				}
				op, err := a.put(cmd, c, "tenant", args[0], &orchestratorv1.Tenant{Spec: spec})
				if err != nil {
					return err
				}
				return a.print(op, func() string {
					return fmt.Sprintf("%s tenant %s\n  let people in: weft identity issue NAME --role editor --tenant %s\n", a.style(a.p.OutIsTerminal).green("ready:"), args[0], args[0])
				})
			})
		},
	}
	cmd.Flags().StringVar(&display, "display-name", "", "what people call it")
	cmd.Flags().StringVar(&isolation, "isolation", "", "single-tenant: it works in the clouds' own projects; multi-tenant: it gets a project of its own at each cloud (default single-tenant)")
	return cmd
}

// tenantSpec gives what is wanted of a tenant as it stands; what no flag says stays. One that is not there yet is empty.
func tenantSpec(cmd *cobra.Command, c *client, name string) (*orchestratorv1.TenantSpec, error) {
	t, err := orchestratorv1.NewTenantServiceClient(c.conn).GetTenant(cmd.Context(), &orchestratorv1.GetTenantRequest{Name: "tenants/" + name})
	if fault.Is(fault.FromStatus(err), fault.NotFound) {
		return &orchestratorv1.TenantSpec{}, nil
	}
	if err != nil {
		return nil, failed(err, "read tenant %s", name)
	}
	return t.GetSpec(), nil
}
