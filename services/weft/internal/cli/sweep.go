package cli

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// The rounds of a sweep: what holds another orphan must be gone before that can go.
const (
	sweepRounds = 20
	sweepPause  = 3 * time.Second
)

func (a *tool) sweepCommand() *cobra.Command {
	var all, yes bool
	cmd := &cobra.Command{
		Use: "sweep", Short: "Delete what bears our mark at the clouds and has no record",
		Long: `List the orphans, objects at the clouds that bear the mark of this installation and that it keeps no record of, and delete
them once you have said yes. What bears no mark, another installation's, or has a record is never touched.`,
		Example: "  weft ledger --orphans\n  weft sweep\n  weft sweep --yes",
		Args:    takes(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client) error {
				parent := "tenants/-"
				if !all {
					var err error
					if parent, err = c.parent(); err != nil {
						return err
					}
				}
				return a.sweep(cmd, orchestratorv1.NewLedgerServiceClient(c.conn), parent, yes)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all-tenants", false, "of all tenants; for operators")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// sweep deletes orphans in rounds, until none is left or nothing goes any more.
func (a *tool) sweep(cmd *cobra.Command, ledger orchestratorv1.LedgerServiceClient, parent string, yes bool) error {
	ctx := cmd.Context()
	found, err := orphansOf(ctx, ledger, parent)
	if err != nil {
		return err
	}
	answer := &orchestratorv1.SweepOrphansResponse{}
	if len(found) == 0 {
		return a.print(answer, func() string { return "there are no orphans\n" })
	}
	if !yes {
		if err := a.confirmSweep(cmd, found); err != nil {
			return err
		}
	}
	first := len(found)
	for round := range sweepRounds {
		if answer, err = ledger.SweepOrphans(ctx, &orchestratorv1.SweepOrphansRequest{Parent: parent, Orphans: found}); err != nil {
			return failed(err, "sweep the orphans of %s", parent)
		}
		left, err := orphansOf(ctx, ledger, parent)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			return a.print(answer, func() string { return fmt.Sprintf("swept %s; none is left\n", count(first, "orphan")) })
		}
		found = left
		if round < sweepRounds-1 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(sweepPause):
			}
		}
	}
	if err := a.print(answer, func() string { return sweptText(answer) }); err != nil {
		return err
	}
	return &failure{what: fmt.Sprintf("%s left", count(len(found), "orphan")), next: "see above what holds them, then weft sweep again"}
}

// confirmSweep shows orphans and asks; only a yes goes on.
func (a *tool) confirmSweep(cmd *cobra.Command, found []*participantv1.Orphan) error {
	t := &table{header: []string{"NAME", "KIND", "CLOUD", "PROVIDER ID"}}
	for _, o := range found {
		t.add(o.GetName(), base(o.GetType()), base(o.GetCloud()), o.GetProviderId())
	}
	width, _ := a.p.Size()
	if _, err := fmt.Fprintf(a.p.Err, "%sdelete %s? [y/N] ", t.render(width, a.style(a.p.ErrIsTerminal)), count(len(found), "orphan")); err != nil {
		return err
	}
	answer, err := bufio.NewReader(a.p.In).ReadString('\n')
	if strings.EqualFold(strings.TrimSpace(answer), "y") || strings.EqualFold(strings.TrimSpace(answer), "yes") {
		return nil
	}
	if err != nil { // nobody can answer
		return misused(cmd, "nobody said yes; give --yes to sweep without being asked")
	}
	return &failure{what: "nothing was swept: the answer was no"}
}

// orphansOf lists orphans. An incomplete list is an error: what is not listed may still be there.
func orphansOf(ctx context.Context, ledger orchestratorv1.LedgerServiceClient, parent string) ([]*participantv1.Orphan, error) {
	answer, err := ledger.ListLedgerEntries(ctx, &orchestratorv1.ListLedgerEntriesRequest{Parent: parent, Orphans: true})
	if err != nil {
		return nil, failed(err, "read the ledger of %s", parent)
	}
	if len(answer.GetUnreachable()) > 0 {
		var missing []string
		for _, f := range answer.GetUnreachable() {
			missing = append(missing, f.GetMessage())
		}
		return nil, incomplete("the list of orphans", missing)
	}
	var out []*participantv1.Orphan
	for _, e := range answer.GetEntries() {
		if e.GetOrphan() {
			out = append(out, &participantv1.Orphan{Type: e.GetType(), Cloud: e.GetCloud(), Name: e.GetName(), Key: e.GetKey(), ProviderId: e.GetProviderId()})
		}
	}
	return out, nil
}

// sweptText tells what keeps orphans.
func sweptText(answer *orchestratorv1.SweepOrphansResponse) string {
	var b strings.Builder
	for _, s := range answer.GetSwept() {
		if f := s.GetFault(); f != nil {
			fmt.Fprintf(&b, "%s %s: %s (%s)\n", base(s.GetOrphan().GetType()), s.GetOrphan().GetProviderId(), f.GetMessage(), f.GetKind())
		}
	}
	return b.String()
}
