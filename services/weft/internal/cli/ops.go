package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/spf13/cobra"

	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

func (a *tool) opsCommand() *cobra.Command {
	return group("ops", "Look at operations, and lend a hand to those that need one",
		a.opsList(), a.opsGet(), a.opsWatch(), a.opsCancel(), a.opsPause(), a.opsResume(), a.opsRetry(), a.opsSkip(), a.opsAbandon(), a.opsDead())
}

func (a *tool) opsList() *cobra.Command {
	var filter string
	cmd := &cobra.Command{
		Use: "list", Short: "List the operations of the tenant", Args: takes(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client) error {
				all, err := listOperations(cmd.Context(), c, filter)
				if err != nil {
					return err
				}
				t := &table{header: []string{"OPERATION", "ACTION", "TARGET", "STATE", "AGE", "TOOK", "FAULT"}}
				st := a.style(a.p.OutIsTerminal)
				for _, op := range all.GetOperations() {
					m := metadataOfOperation(op)
					took := ""
					if m.GetEndTime() != nil {
						took = span(m.GetEndTime().AsTime().Sub(m.GetCreateTime().AsTime()))
					}
					t.add(base(op.GetName()), words(m.GetAction()), base(m.GetTarget()), st.state(enumText(m.GetState())), age(a.p.Now(), m.GetCreateTime()), took, m.GetFault().GetMessage())
				}
				if err := a.printTable(all, t, "there are no operations"); err != nil || len(all.GetUnreachable()) == 0 {
					return err
				}
				return incomplete("the list", all.GetUnreachable())
			})
		},
	}
	cmd.Flags().StringVar(&filter, "filter", "", "a CEL `expression` over the operation's metadata, e.g. state == \"RUNNING\"")
	return cmd
}

// listOperations reads all pages as one, newest first. What could not be asked stands in it as unreachable.
func listOperations(ctx context.Context, c *client, filter string) (*longrunningpb.ListOperationsResponse, error) {
	parent, err := c.parent()
	if err != nil {
		return nil, err
	}
	all := &longrunningpb.ListOperationsResponse{}
	for token := ""; ; {
		page, err := c.operations().ListOperations(ctx, &longrunningpb.ListOperationsRequest{
			Name: parent, Filter: filter, PageSize: 1000, PageToken: token, ReturnPartialSuccess: true,
		})
		if err != nil {
			return nil, failed(err, "list the operations of %s", c.tenant)
		}
		all.Operations = append(all.Operations, page.GetOperations()...)
		for _, missing := range page.GetUnreachable() {
			if !slices.Contains(all.GetUnreachable(), missing) {
				all.Unreachable = append(all.Unreachable, missing)
			}
		}
		if token = page.GetNextPageToken(); token == "" {
			slices.SortStableFunc(all.GetOperations(), func(x, y *longrunningpb.Operation) int {
				return metadataOfOperation(y).GetCreateTime().AsTime().Compare(metadataOfOperation(x).GetCreateTime().AsTime())
			})
			return all, nil
		}
	}
}

// onOperation makes a command that works on the operation named by its first argument.
func (a *tool) onOperation(use, short string, most int, what string, run func(cmd *cobra.Command, c *client, name string, args []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: takes(1, most, what), ValidArgsFunction: a.completeOperations,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client) error {
				name, err := c.name("operations", args[0])
				if err != nil {
					return err
				}
				return run(cmd, c, name, args[1:])
			})
		},
	}
}

func (a *tool) completeOperations(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var out []cobra.Completion
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	err := a.with(func(c *client) error {
		all, err := listOperations(cmd.Context(), c, "")
		for _, op := range all.GetOperations() {
			out = append(out, base(op.GetName()))
		}
		return err
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func (a *tool) opsGet() *cobra.Command {
	return a.onOperation("get OPERATION", "Show an operation and its steps", 1, "an operation", func(cmd *cobra.Command, c *client, name string, _ []string) error {
		op, err := c.operation(cmd.Context(), name)
		if err != nil {
			return failed(err, "get operation %s", base(name))
		}
		return a.print(op, func() string { return a.operationText(metadataOfOperation(op)) })
	})
}

func (a *tool) operationText(m *orchestratorv1.OperationMetadata) string {
	width, _ := a.p.Size()
	text := progressText(m, a.p.Now(), 0, width, unlimited, a.style(a.p.OutIsTerminal))
	if f := m.GetFault(); f != nil {
		text += fmt.Sprintf("fault: %s (%s)\n", f.GetMessage(), f.GetKind())
	}
	return text
}

func (a *tool) opsWatch() *cobra.Command {
	return a.onOperation("watch OPERATION", "Follow an operation until it has ended", 1, "an operation", func(cmd *cobra.Command, c *client, name string, _ []string) error {
		op, err := c.operation(cmd.Context(), name)
		if err != nil {
			return failed(err, "get operation %s", base(name))
		}
		return a.finish(cmd.Context(), c, op, waiting{wait: true}, func(op *longrunningpb.Operation) string { return a.appliedText(op) })
	})
}

func (a *tool) opsCancel() *cobra.Command {
	var w waiting
	cmd := a.onOperation("cancel OPERATION", "Stop an operation and undo what it did", 1, "an operation", func(cmd *cobra.Command, c *client, name string, _ []string) error {
		if _, err := c.operations().CancelOperation(cmd.Context(), &longrunningpb.CancelOperationRequest{Name: name}); err != nil {
			return failed(err, "cancel operation %s", base(name))
		}
		op, err := c.operation(cmd.Context(), name)
		if err != nil {
			return failed(err, "get operation %s", base(name))
		}
		if !w.wait {
			return a.print(op, func() string {
				return fmt.Sprintf("asked to cancel %s\n  watch it: weft ops watch %s\n", base(name), base(name))
			})
		}
		last, err := a.wait(cmd.Context(), c, op)
		if last == nil {
			return err
		}
		if state := metadataOfOperation(last).GetState(); state != orchestratorv1.OperationState_OPERATION_STATE_CANCELLED && err != nil {
			return err
		}
		return a.print(last, func() string { return a.operationText(metadataOfOperation(last)) })
	})
	w.flags(cmd)
	return cmd
}

// lend makes a command by which a person lends a hand to an operation.
func (a *tool) lend(cmd *cobra.Command, name, verb string, do func(context.Context) (*orchestratorv1.OperationMetadata, error)) error {
	m, err := do(cmd.Context())
	if err != nil {
		return failed(err, "%s operation %s", verb, base(name))
	}
	return a.print(m, func() string { return a.operationText(m) })
}

func (a *tool) opsRetry() *cobra.Command {
	return a.onOperation("retry OPERATION [STEP]", "Try a failed, stuck or waiting step again at once", 2, "an operation, and a step unless all that are stuck are meant",
		func(cmd *cobra.Command, c *client, name string, args []string) error {
			return a.lend(cmd, name, "retry", func(ctx context.Context) (*orchestratorv1.OperationMetadata, error) {
				return orchestratorv1.NewOperationServiceClient(c.conn).RetryStep(ctx, &orchestratorv1.RetryStepRequest{Name: name, Step: first(args)})
			})
		})
}

func (a *tool) opsSkip() *cobra.Command {
	var reason string
	cmd := a.onOperation("skip OPERATION STEP --reason TEXT", "Take a stuck step as done, on your word", 2, "an operation and a step",
		func(cmd *cobra.Command, c *client, name string, args []string) error {
			if len(args) != 1 || reason == "" {
				return misused(cmd, "give an operation, a step, and with --reason why")
			}
			return a.lend(cmd, name, "skip a step of", func(ctx context.Context) (*orchestratorv1.OperationMetadata, error) {
				return orchestratorv1.NewOperationServiceClient(c.conn).SkipStep(ctx, &orchestratorv1.SkipStepRequest{Name: name, Step: args[0], Reason: reason})
			})
		})
	cmd.Flags().StringVar(&reason, "reason", "", "why; it is kept with the operation")
	return cmd
}

func (a *tool) opsAbandon() *cobra.Command {
	var reason string
	cmd := a.onOperation("abandon OPERATION --reason TEXT", "End an operation that needs a hand, leaving what it left", 1, "an operation",
		func(cmd *cobra.Command, c *client, name string, _ []string) error {
			if reason == "" {
				return misused(cmd, "say with --reason why")
			}
			return a.lend(cmd, name, "abandon", func(ctx context.Context) (*orchestratorv1.OperationMetadata, error) {
				return orchestratorv1.NewOperationServiceClient(c.conn).AbandonOperation(ctx, &orchestratorv1.AbandonOperationRequest{Name: name, Reason: reason})
			})
		})
	cmd.Flags().StringVar(&reason, "reason", "", "why; it is kept with the operation")
	return cmd
}

func (a *tool) opsPause() *cobra.Command {
	var reason string
	cmd := a.onOperation("pause OPERATION [STEP] --reason TEXT", "Begin nothing more of an operation, or not that step, for now", 2, "an operation, and a step unless all of it is meant",
		func(cmd *cobra.Command, c *client, name string, args []string) error {
			if reason == "" {
				return misused(cmd, "say with --reason why")
			}
			return a.lend(cmd, name, "pause", func(ctx context.Context) (*orchestratorv1.OperationMetadata, error) {
				return orchestratorv1.NewOperationServiceClient(c.conn).PauseOperation(ctx, &orchestratorv1.PauseOperationRequest{Name: name, Step: first(args), Reason: reason})
			})
		})
	cmd.Flags().StringVar(&reason, "reason", "", "why; it is shown with the operation")
	return cmd
}

func (a *tool) opsResume() *cobra.Command {
	return a.onOperation("resume OPERATION [STEP]", "Let a paused operation, or step, go on", 2, "an operation, and a step unless all of it is meant",
		func(cmd *cobra.Command, c *client, name string, args []string) error {
			return a.lend(cmd, name, "resume", func(ctx context.Context) (*orchestratorv1.OperationMetadata, error) {
				return orchestratorv1.NewOperationServiceClient(c.conn).ResumeOperation(ctx, &orchestratorv1.ResumeOperationRequest{Name: name, Step: first(args)})
			})
		})
}

// first gives the first argument; empty if there is none.
func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// since reads a flag that is a time span back from now; zero means from the first.
func since(now time.Time, back time.Duration) time.Time {
	if back <= 0 {
		return time.Time{}
	}
	return now.Add(-back)
}
