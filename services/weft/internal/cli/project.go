package cli

import (
	"fmt"
	"strings"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/spf13/cobra"

	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

func (a *tool) projectCommand() *cobra.Command {
	return group("project", "Look after the projects that tenants have at clouds", a.projectRotate(), a.listOf("project"))
}

func (a *tool) projectRotate() *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use: "rotate [TENANT/]CLOUD", Short: "Put a new credential in use for a tenant's project at a cloud; the one before is deleted some time later",
		Example: "  weft project rotate acme/lab --wait",
		Args:    takes(1, 1, "a cloud, with or without a tenant"), ValidArgsFunction: a.completeNames("project"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client) error {
				name, err := projectName(c, args[0])
				if err != nil {
					return err
				}
				op, err := orchestratorv1.NewProjectServiceClient(c.conn).RotateProject(cmd.Context(), &orchestratorv1.RotateProjectRequest{Name: name})
				if err != nil {
					return failed(err, "rotate %s", args[0])
				}
				return a.finish(cmd.Context(), c, op, w, func(*longrunningpb.Operation) string {
					return fmt.Sprintf("%s a new credential is in use for %s\n", a.style(a.p.OutIsTerminal).green("ready:"), args[0])
				})
			})
		},
	}
	w.flags(cmd)
	return cmd
}

// projectName gives the full name of a project that a person names by tenant and cloud, or by the cloud alone.
func projectName(c *client, arg string) (string, error) {
	tenant, cloud, both := strings.Cut(arg, "/")
	if both && tenant != "tenants" {
		return "tenants/" + tenant + "/projects/" + cloud, nil
	}
	return c.name("projects", arg)
}
