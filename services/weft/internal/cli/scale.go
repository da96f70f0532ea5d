package cli

import (
	"fmt"
	"strconv"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/spf13/cobra"

	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
)

func (a *tool) scaleCommand() *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use: "scale GROUP N", Short: "Give a scaling group another size, until its document, the clock or a metric says otherwise",
		Example: "  weft scale shop.web 4 --wait",
		Args:    takes(2, 2, "a scaling group and a number"), ValidArgsFunction: a.completeNames("scalingGroup"),
		RunE: func(cmd *cobra.Command, args []string) error {
			desired, err := strconv.ParseInt(args[1], 10, 32)
			if err != nil || desired < 0 {
				return misused(cmd, "%q is no number of members", args[1])
			}
			return a.with(func(c *client) error {
				name, err := c.name("scalingGroups", args[0])
				if err != nil {
					return err
				}
				op, err := computev1.NewScalingGroupServiceClient(c.conn).ScaleScalingGroup(cmd.Context(), &computev1.ScaleScalingGroupRequest{Name: name, Desired: int32(desired)})
				if err != nil {
					return failed(err, "scale %s", args[0])
				}
				return a.finish(cmd.Context(), c, op, w, func(*longrunningpb.Operation) string {
					return fmt.Sprintf("%s %s has %d members in service\n", a.style(a.p.OutIsTerminal).green("ready:"), args[0], desired)
				})
			})
		},
	}
	w.flags(cmd)
	return cmd
}
