package cli

import (
	"strings"

	"github.com/spf13/cobra"

	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
)

func (a *tool) consoleLogCommand() *cobra.Command {
	var lines int32
	cmd := &cobra.Command{
		Use: "console-log SERVER", Short: "Show the end of what a server wrote to its console",
		Example: "  weft console-log shop.db --lines 50",
		Args:    takes(1, 1, "a server"), ValidArgsFunction: a.completeNames("server"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client) error {
				name, err := c.name("servers", args[0])
				if err != nil {
					return err
				}
				log, err := computev1.NewServerServiceClient(c.conn).QueryConsoleLog(cmd.Context(), &computev1.QueryConsoleLogRequest{Name: name, Lines: lines})
				if err != nil {
					return failed(err, "read the console of %s", args[0])
				}
				return a.print(log, func() string { return strings.TrimSuffix(log.GetText(), "\n") + "\n" })
			})
		},
	}
	cmd.Flags().Int32Var(&lines, "lines", 0, "how many lines to show at most; 0 means all that the cloud keeps")
	return cmd
}
