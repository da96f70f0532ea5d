package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

func (a *tool) ledgerCommand() *cobra.Command {
	var orphans, all bool
	cmd := &cobra.Command{
		Use: "ledger", Short: "List all that exists because of Weft",
		Args: takes(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client) error {
				parent := "tenants/-"
				if !all {
					var err error
					if parent, err = c.parent(); err != nil {
						return err
					}
				}
				ledger, err := orchestratorv1.NewLedgerServiceClient(c.conn).ListLedgerEntries(cmd.Context(), &orchestratorv1.ListLedgerEntriesRequest{Parent: parent, Orphans: orphans})
				if err != nil {
					return failed(err, "read the ledger of %s", parent)
				}
				return a.printLedger(ledger)
			})
		},
	}
	cmd.Flags().BoolVar(&orphans, "orphans", false, "also look at the clouds for objects that bear our mark and have no record")
	cmd.Flags().BoolVar(&all, "all-tenants", false, "of all tenants; for operators")
	return cmd
}

// printLedger writes the ledger. An incomplete one is an error, since what is not listed may still exist.
func (a *tool) printLedger(ledger *orchestratorv1.ListLedgerEntriesResponse) error {
	t := &table{header: []string{"NAME", "KIND", "PHASE", "CLOUD", "PROVIDER ID", "STACK", "AGE", "ORPHAN"}}
	st := a.style(a.p.OutIsTerminal)
	for _, e := range ledger.GetEntries() {
		orphan := ""
		if e.GetOrphan() {
			orphan = st.red("orphan")
		}
		t.add(e.GetName(), base(e.GetType()), st.state(enumText(e.GetPhase())), base(e.GetCloud()), e.GetProviderId(), base(e.GetStack()), age(a.p.Now(), e.GetCreateTime()), orphan)
	}
	if err := a.printTable(ledger, t, "the ledger is empty"); err != nil {
		return err
	}
	if len(ledger.GetUnreachable()) == 0 {
		return nil
	}
	fmt.Fprintf(a.p.Err, "%s the ledger is incomplete; these could not be asked:\n", a.style(a.p.ErrIsTerminal).red("error:"))
	for _, f := range ledger.GetUnreachable() {
		fmt.Fprintf(a.p.Err, "  why:  %s (%s)\n", f.GetMessage(), f.GetKind())
	}
	fmt.Fprintln(a.p.Err, "  next: see that they run and can be reached, then ask again")
	return errReported
}
