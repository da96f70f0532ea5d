package cli

import (
	"fmt"
	"os"
	"strings"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// importable are the kinds whose objects an import can begin with, by flag.
var importable = []struct{ flag, kind string }{
	{"server", "Server"},
	{"network", "Network"},
	{"subnet", "Subnet"},
	{"router", "Router"},
	{"security-group", "SecurityGroup"},
	{"volume", "Volume"},
	{"floating-ip", "FloatingIP"},
	{"key-pair", "KeyPair"},
}

func (a *tool) importCommand() *cobra.Command {
	var cloud, stack, to string
	var all, partly bool
	chosen := make([][]string, len(importable))
	cmd := &cobra.Command{
		Use: "import --cloud CLOUD --stack NAME", Short: "Write a document of what stands at a cloud without Weft",
		Long: `Read objects at a cloud, with all that they need and all that hangs on them, and write the document of a stack that
adopts them. Nothing is changed: the plan of the document is empty. weft adopt then takes ownership.

What belongs to the document and cannot be in it is an error that names each, unless --partly is given.`,
		Example: "  weft import --cloud lab --stack shop --server web1 --to shop.yaml\n  weft plan -f shop.yaml\n  weft adopt -f shop.yaml",
		Args:    takes(0, 0, "no arguments; objects come with flags such as --server"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			request := &orchestratorv1.DraftDocumentRequest{Cloud: "clouds/" + base(cloud), StackId: base(stack), AllowPartial: partly}
			for i, k := range importable {
				for _, object := range chosen[i] {
					request.Objects = append(request.Objects, &orchestratorv1.ObjectSelector{Kind: k.kind, Object: object})
				}
			}
			switch {
			case cloud == "" || stack == "":
				return misused(cmd, "give the cloud with --cloud and the stack's name with --stack")
			case all == (len(request.GetObjects()) > 0):
				return misused(cmd, "give either objects, e.g. --server web1, or --all for all of the cloud's project")
			}
			return a.with(func(c *client) error {
				var err error
				if request.Parent, err = c.parent(); err != nil {
					return err
				}
				answer, err := orchestratorv1.NewImportServiceClient(c.conn).DraftDocument(cmd.Context(), request)
				if err != nil {
					return failed(err, "read what stands at %s", request.GetCloud())
				}
				return a.imported(answer, to)
			})
		},
	}
	cmd.Flags().StringVar(&cloud, "cloud", "", "the `cloud` to read")
	cmd.Flags().StringVar(&stack, "stack", "", "the `name` of the stack in the document")
	cmd.Flags().StringVar(&to, "to", "", "the `FILE` to write the document to (default: standard output)")
	cmd.Flags().BoolVar(&all, "all", false, "all of the cloud's project that is nobody's")
	cmd.Flags().BoolVar(&partly, "partly", false, "write a document also when something that belongs to it must be left out")
	for i, k := range importable {
		cmd.Flags().StringArrayVar(&chosen[i], k.flag, nil, "a "+k.kind+" by id or name; may be given again")
	}
	return cmd
}

// imported writes a document, and tells a person what it leaves out.
func (a *tool) imported(answer *orchestratorv1.DraftDocumentResponse, to string) error {
	var about strings.Builder
	for _, l := range answer.GetLeftOut() {
		fmt.Fprintf(&about, "left out: %s %s (%s): %s\n", l.GetKind(), l.GetObjectName(), l.GetId(), l.GetReason())
	}
	if to == "" {
		if _, err := fmt.Fprint(a.p.Err, about.String()); err != nil {
			return err
		}
		return a.print(answer, answer.GetDocument)
	}
	if err := os.WriteFile(to, []byte(answer.GetDocument()), 0o600); err != nil {
		return &failure{what: "write " + to, err: err}
	}
	return a.print(answer, func() string {
		return fmt.Sprintf("%s%s adopts %s\n  look: weft plan -f %s\n  take ownership: weft adopt -f %s\n", about.String(), to, count(int(answer.GetAdopted()), "object"), to, to)
	})
}

func (a *tool) adoptCommand() *cobra.Command {
	var from reading
	var timeout time.Duration
	var w waiting
	cmd := &cobra.Command{
		Use: "adopt -f FILE", Short: "Take ownership of the objects at clouds that a document adopts",
		Long: `Take ownership of the objects that a document's resources adopt (adopt: ID) and that are not Weft's yet. Each gets the mark
of its resource, and nothing else of it is changed; from then on it is as if the stack had made it, and is deleted with it.

Where the document wants more than what stands, that is the next plan: weft plan, then weft apply. If one object cannot be
had, those that were marked are let go of again.`,
		Example: "  weft import --cloud lab --stack shop --server web1 --to shop.yaml\n  weft adopt -f shop.yaml",
		Args:    takes(0, 0, "no arguments; the document comes with -f"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withDocument(cmd, &from, func(c *client, parent string, doc *document, values *structpb.Struct) error {
				request := &orchestratorv1.AdoptStackRequest{Parent: parent, Document: doc.text, DocumentName: doc.name, Parameters: values}
				if timeout > 0 {
					request.Timeout = durationpb.New(timeout)
				}
				op, err := orchestratorv1.NewImportServiceClient(c.conn).AdoptStack(cmd.Context(), request)
				if err != nil {
					return &failure{what: "adopt what " + doc.name + " adopts", err: err, document: doc.sources()}
				}
				return a.finish(cmd.Context(), c, op, w, func(op *longrunningpb.Operation) string { return a.appliedText(op) })
			})
		},
	}
	w.flags(cmd)
	from.flags(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "let go of it all if it is not done by then (default 30m)")
	return cmd
}

func (a *tool) forgetCommand() *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use: "forget STACK RESOURCE", Short: "Take a resource out of its stack without touching the cloud",
		Long: `Take a resource out of its stack and its document. The cloud is not touched: an object that is still there bears our mark
on, and the ledger lists it as an orphan. It no longer counts for the tenant's quotas, so only operators
may forget. It is refused while others need the resource.`,
		Example: "  weft forget shop data",
		Args:    takes(2, 2, "a stack's name and a resource's in its document"), ValidArgsFunction: a.completeNames("stack"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client) error {
				parent, err := c.parent()
				if err != nil {
					return err
				}
				op, err := orchestratorv1.NewImportServiceClient(c.conn).ForgetResource(cmd.Context(), &orchestratorv1.ForgetResourceRequest{
					Name: parent + "/stacks/" + base(args[0]), LocalName: args[1],
				})
				if err != nil {
					return failed(err, "forget %s of %s", args[1], args[0])
				}
				return a.finish(cmd.Context(), c, op, w, func(op *longrunningpb.Operation) string { return a.appliedText(op) })
			})
		},
	}
	w.flags(cmd)
	return cmd
}
