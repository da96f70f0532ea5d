package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

func (a *tool) tenantCommand() *cobra.Command {
	return group("tenant", "Add tenants and list them", a.tenantAdd(), a.listOf("tenant"))
}

func (a *tool) tenantAdd() *cobra.Command {
	var display string
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Add a tenant, or change what it is called", Args: takes(1, 1, "a name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client) error {
				op, err := a.put(cmd, c, "tenant", args[0], &orchestratorv1.Tenant{Spec: &orchestratorv1.TenantSpec{DisplayName: display}})
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
	return cmd
}
