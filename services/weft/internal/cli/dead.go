package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weftcloud/weft/pkg/fault"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// mostResent is how many dead letters are sent again by one call.
const mostResent = 1000

func (a *tool) opsDead() *cobra.Command {
	list := a.opsDeadList()
	cmd := &cobra.Command{
		Use: "dead", Short: "List the messages that nobody could deal with, newest first; for operators", Args: list.Args, RunE: list.RunE,
	}
	cmd.Flags().AddFlagSet(list.Flags())
	cmd.AddCommand(list, a.opsDeadResend())
	return cmd
}

func (a *tool) opsDeadList() *cobra.Command {
	var filter string
	cmd := &cobra.Command{
		Use: "list", Short: "List the messages that nobody could deal with, newest first; for operators", Args: takes(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client) error {
				letters, err := listDead(cmd.Context(), c, filter)
				if err != nil {
					return err
				}
				slices.Reverse(letters)
				t := &table{header: []string{"LETTER", "QUEUE", "ABOUT", "SAGA", "STEP", "REASON", "ATTEMPTS", "AGE", "SENT AGAIN"}}
				for _, l := range letters {
					again := ""
					if l.GetResend() != nil {
						again = age(a.p.Now(), l.GetResend().GetTime()) + " ago"
					}
					t.add(base(l.GetName()), l.GetQueue(), aboutDead(l), base(l.GetOrigin().GetSaga()), l.GetOrigin().GetStep(),
						words(l.GetReason()), fmt.Sprint(l.GetAttempts()), age(a.p.Now(), l.GetCreateTime()), again)
				}
				return a.printTable(&orchestratorv1.ListDeadLettersResponse{DeadLetters: letters}, t, "there are no dead letters")
			})
		},
	}
	cmd.Flags().StringVar(&filter, "filter", "", "a CEL `expression` over the dead letter, e.g. queue == \"cmd_network_normal\"")
	return cmd
}

// aboutDead says in a few words what a dead letter is about.
func aboutDead(l *orchestratorv1.DeadLetter) string {
	switch {
	case l.GetUnreadable() != "":
		return l.GetUnreadable()
	case l.GetResource() != "":
		return strings.TrimSpace(l.GetAction() + " " + base(l.GetType()) + " " + base(l.GetResource()))
	default:
		return strings.TrimSpace("outcome " + words(l.GetResult()))
	}
}

// listDead reads all pages, oldest first.
func listDead(ctx context.Context, c *client, filter string) ([]*orchestratorv1.DeadLetter, error) {
	var out []*orchestratorv1.DeadLetter
	for token := ""; ; {
		page, err := orchestratorv1.NewDeadLetterServiceClient(c.conn).ListDeadLetters(ctx, &orchestratorv1.ListDeadLettersRequest{Filter: filter, PageSize: 1000, PageToken: token})
		if err != nil {
			return nil, failed(err, "list the dead letters")
		}
		out = append(out, page.GetDeadLetters()...)
		if token = page.GetNextPageToken(); token == "" {
			return out, nil
		}
	}
}

func (a *tool) opsDeadResend() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "resend LETTER...|--all", Short: "Send dead letters once more to where they were sent first; one that was sent again is left alone",
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return misused(cmd, "give letters, as weft ops dead lists them, or --all")
			}
			return a.with(func(c *client) error {
				names := namesOfDead(args)
				if all {
					var err error
					if names, err = unsentDead(cmd.Context(), c); err != nil {
						return err
					}
				}
				out, err := resendDead(cmd.Context(), c, names)
				if err != nil {
					return err
				}
				return a.printResent(out)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all that were not sent again yet")
	return cmd
}

// namesOfDead gives the full names, each once.
func namesOfDead(ids []string) []string {
	var out []string
	for _, id := range ids {
		if name := "deadLetters/" + base(id); !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// unsentDead names the dead letters that were not sent again.
func unsentDead(ctx context.Context, c *client) ([]string, error) {
	letters, err := listDead(ctx, c, "")
	var out []string
	for _, l := range letters {
		if l.GetResend() == nil {
			out = append(out, l.GetName())
		}
	}
	return out, err
}

// resendDead sends letters again, as many calls as it takes.
func resendDead(ctx context.Context, c *client, names []string) (*orchestratorv1.ResendDeadLettersResponse, error) {
	all := &orchestratorv1.ResendDeadLettersResponse{}
	for some := range slices.Chunk(names, mostResent) {
		out, err := orchestratorv1.NewDeadLetterServiceClient(c.conn).ResendDeadLetters(ctx, &orchestratorv1.ResendDeadLettersRequest{Names: some})
		if err != nil {
			return nil, failed(err, "send dead letters again")
		}
		all.Results = append(all.Results, out.GetResults()...)
	}
	return all, nil
}

// printResent writes what became of each letter. One that could not be sent is an error, after all are told.
func (a *tool) printResent(out *orchestratorv1.ResendDeadLettersResponse) error {
	t := &table{header: []string{"LETTER", "ABOUT", "RESULT"}}
	st := a.style(a.p.OutIsTerminal)
	var faults []string
	var first error
	for _, r := range out.GetResults() {
		about := ""
		if r.GetDeadLetter() != nil {
			about = aboutDead(r.GetDeadLetter())
		}
		result := "sent again"
		switch {
		case r.GetFault() != nil:
			result = st.red("not sent")
			faults = append(faults, r.GetFault().GetMessage())
			if first == nil {
				first = fault.FromProto(r.GetFault())
			}
		case r.GetAlready():
			result = "left alone: it was sent again " + age(a.p.Now(), r.GetDeadLetter().GetResend().GetTime()) + " ago"
		}
		t.add(base(r.GetName()), about, result)
	}
	if err := a.printTable(out, t, "there is no dead letter that was not sent again"); err != nil || first == nil {
		return err
	}
	return &failure{
		what: fmt.Sprintf("send %d of %d dead letters again", len(faults), len(out.GetResults())), err: fault.New(fault.KindOf(first), "%s", strings.Join(faults, "; ")),
		next: "weft ops dead shows what is known of each; sending again what was sent does no harm",
	}
}
