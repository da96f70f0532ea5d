package cli

import (
	"fmt"
	"strings"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

func (a *tool) repairCommand() *cobra.Command {
	var preview bool
	var timeout time.Duration
	var ifBusy busy
	var w waiting
	cmd := &cobra.Command{
		Use: "repair STACK", Short: "Bring back what was removed, changed or broken at the clouds",
		Long: `Bring a stack back to its document where something was removed, changed or broken at the clouds without Weft.

weft describe stack shows what that is. What was changed is changed back; what is gone or broken is made anew, and what
uses it is led to the new one. With --plan it is only shown what would be done.`,
		Example: "  weft describe stack shop\n  weft repair shop --plan\n  weft repair shop",
		Args:    takes(1, 1, "a stack's name"), ValidArgsFunction: a.completeNames("stack"),
		RunE: func(cmd *cobra.Command, args []string) error {
			others, err := ifBusy.value(cmd)
			if err != nil {
				return err
			}
			return a.with(func(c *client) error {
				parent, err := c.parent()
				if err != nil {
					return err
				}
				stacks := orchestratorv1.NewStackServiceClient(c.conn)
				stack, err := stacks.GetStack(cmd.Context(), &orchestratorv1.GetStackRequest{Name: parent + "/stacks/" + base(args[0])})
				if err != nil {
					return failed(err, "read stack %s", args[0])
				}
				doc := &document{name: base(stack.GetName()), text: stack.GetDocument()}
				if preview {
					plan, err := stacks.PlanStack(cmd.Context(), &orchestratorv1.PlanStackRequest{
						Parent: parent, Document: doc.text, DocumentName: doc.name, Parameters: stack.GetParameters(), Repair: true,
					})
					if err != nil {
						return &failure{what: "plan the repair of " + doc.name, err: err, document: doc.sources()}
					}
					return a.printPlan(plan, doc)
				}
				request := &orchestratorv1.ApplyStackRequest{
					Parent: parent, Document: doc.text, DocumentName: doc.name, Parameters: stack.GetParameters(), Busy: others, Repair: true,
				}
				if timeout > 0 {
					request.Timeout = durationpb.New(timeout)
				}
				op, err := stacks.ApplyStack(cmd.Context(), request)
				if err != nil {
					return &failure{what: "repair " + doc.name, err: err, document: doc.sources()}
				}
				return a.finish(cmd.Context(), c, op, w, func(op *longrunningpb.Operation) string { return a.appliedText(op) })
			})
		},
	}
	w.flags(cmd)
	ifBusy.flags(cmd)
	cmd.Flags().BoolVar(&preview, "plan", false, "only show what would be done")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "undo it if it is not done by then (default 30m)")
	return cmd
}

// driftText says what became of an object.
func driftText(d *kindv1.Drift) string {
	switch d.GetType() {
	case kindv1.DriftType_DRIFT_TYPE_MISSING:
		return "it is gone from the cloud"
	case kindv1.DriftType_DRIFT_TYPE_FAILED:
		return "it is broken at the cloud: " + d.GetFault().GetMessage()
	default:
	}
	var parts []string
	for _, f := range d.GetFields() {
		parts = append(parts, fmt.Sprintf("%s was %q and is %q", f.GetPath(), f.GetWas(), f.GetIs()))
	}
	if len(parts) == 0 {
		return "it was changed at the cloud"
	}
	return "it was changed at the cloud: " + strings.Join(parts, ", ")
}
