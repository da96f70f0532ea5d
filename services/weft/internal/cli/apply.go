package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// waiting is whether a command waits for the operation that it began.
type waiting struct{ wait, noWait bool }

func (w *waiting) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.wait, "wait", false, "wait until it is done (the default on a terminal)")
	cmd.Flags().BoolVar(&w.noWait, "no-wait", false, "return as soon as it has begun")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if w.wait && w.noWait {
			return misused(cmd, "give either --wait or --no-wait")
		}
		return nil
	}
}

// finish waits for an operation if that is wanted, and writes it. done says what to tell a person when it is done.
func (a *tool) finish(ctx context.Context, c *client, op *longrunningpb.Operation, w waiting, done func(*longrunningpb.Operation) string) error {
	if !w.wait && (w.noWait || !a.interactive()) && !op.GetDone() {
		return a.print(op, func() string {
			return fmt.Sprintf("begun: %s\n  watch it: weft ops watch %s\n", op.GetName(), base(op.GetName()))
		})
	}
	last, err := a.wait(ctx, c, op)
	if last == nil {
		return err
	}
	if err != nil && a.output == "table" {
		return err
	}
	if printErr := a.print(last, func() string { return done(last) }); printErr != nil {
		return printErr
	}
	return err
}

// busy is what a command does about another operation that works on the same stack.
type busy struct{ what string }

func (b *busy) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&b.what, "if-busy", "wait", "while another operation works on the stack: `wait` for it, refuse, or supersede it (cancel and undo it first)")
}

// value gives what is asked for.
func (b *busy) value(cmd *cobra.Command) (orchestratorv1.Busy, error) {
	value, ok := orchestratorv1.Busy_value["BUSY_"+strings.ToUpper(b.what)]
	if !ok || value == 0 {
		return 0, misused(cmd, "--if-busy %q: give wait, refuse or supersede", b.what)
	}
	return orchestratorv1.Busy(value), nil
}

func (a *tool) applyCommand() *cobra.Command {
	var from reading
	var requestID string
	var ifBusy busy
	var timeout time.Duration
	var keep bool
	var w waiting
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "Bring a stack to a document: make, change and delete what it takes",
		Example: "  weft apply -f shop.yaml\n  weft apply -f shop.yaml --param web-replicas=3 --no-wait",
		Args:    takes(0, 0, "no arguments; the document comes with -f"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			others, err := ifBusy.value(cmd)
			if err != nil {
				return err
			}
			return a.withDocument(cmd, &from, func(c *client, parent string, doc *document, values *structpb.Struct) error {
				request := &orchestratorv1.ApplyStackRequest{
					Parent: parent, Document: doc.text, DocumentName: doc.name, Parameters: values, KeepOnFailure: keep, RequestId: requestID, Busy: others,
				}
				if timeout > 0 {
					request.Timeout = durationpb.New(timeout)
				}
				op, err := orchestratorv1.NewStackServiceClient(c.conn).ApplyStack(cmd.Context(), request)
				if err != nil {
					return &failure{what: "apply " + doc.name, err: err, document: doc.sources()}
				}
				return a.finish(cmd.Context(), c, op, w, func(op *longrunningpb.Operation) string { return a.appliedText(op) })
			})
		},
	}
	w.flags(cmd)
	ifBusy.flags(cmd)
	from.flags(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "undo it if it is not done by then (default 30m)")
	cmd.Flags().BoolVar(&keep, "keep-on-failure", false, "when it fails leave what was made, for a look")
	cmd.Flags().StringVar(&requestID, "request-id", "", "a name of your own for this request: the same one again yields the same operation")
	return cmd
}

// appliedText tells a person that a stack stands, and its outputs.
func (a *tool) appliedText(op *longrunningpb.Operation) string {
	st := a.style(a.p.OutIsTerminal)
	stack := &orchestratorv1.Stack{}
	if op.GetResponse() == nil || op.GetResponse().UnmarshalTo(stack) != nil {
		return st.green("done") + " " + base(metadataOfOperation(op).GetTarget()) + "\n"
	}
	return fmt.Sprintf("%s stack %s, %d resources\n%s", st.green("ready:"), base(stack.GetName()), len(stack.GetResources()), outputsText(stack.GetOutputs(), st))
}

func (a *tool) destroyCommand() *cobra.Command {
	var file, etag, reclaim string
	var timeout time.Duration
	var ifBusy busy
	var w waiting
	cmd := &cobra.Command{
		Use: "destroy NAME | destroy -f FILE", Short: "Take a stack away with all that it holds",
		Args: takes(0, 1, "a stack's name, or its document with -f"), ValidArgsFunction: a.completeNames("stack"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (file != "") {
				return misused(cmd, "give either a stack's name or its document with -f")
			}
			others, err := ifBusy.value(cmd)
			if err != nil {
				return err
			}
			word, ok := kindv1.Reclaim_value["RECLAIM_"+strings.ToUpper(reclaim)]
			if reclaim != "" && (!ok || word == 0) {
				return misused(cmd, "--reclaim %q: give keep, snapshot or destroy", reclaim)
			}
			id := ""
			if file == "" {
				id = args[0]
			} else {
				doc, err := a.readDocument(cmd, file)
				if err != nil {
					return err
				}
				if id, err = doc.stackName(); err != nil {
					return err
				}
			}
			return a.with(func(c *client) error {
				name, err := c.name("stacks", id)
				if err != nil {
					return err
				}
				if err := a.askForData(cmd, c, name, kindv1.Reclaim(word)); err != nil {
					return err
				}
				request := &orchestratorv1.DeleteStackRequest{Name: name, Etag: etag, Busy: others, Reclaim: kindv1.Reclaim(word)}
				if timeout > 0 {
					request.Timeout = durationpb.New(timeout)
				}
				op, err := orchestratorv1.NewStackServiceClient(c.conn).DeleteStack(cmd.Context(), request)
				if err != nil {
					return failed(err, "destroy %s", id)
				}
				return a.finish(cmd.Context(), c, op, w, func(*longrunningpb.Operation) string {
					return a.style(a.p.OutIsTerminal).green("gone:") + " stack " + base(name) + "\n"
				})
			})
		},
	}
	w.flags(cmd)
	ifBusy.flags(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", "", "the document's `FILE`, whose name is taken; - for standard input")
	cmd.Flags().StringVar(&reclaim, "reclaim", "", "what becomes of the data of all resources, over what the document says: `keep`, snapshot or destroy")
	cmd.Flags().StringVar(&etag, "etag", "", "refuse unless the stack still has this etag")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "ask for a hand if it is not done by then (default 30m)")
	return cmd
}
