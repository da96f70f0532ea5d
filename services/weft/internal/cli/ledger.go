package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weftcloud/weft/pkg/fault"
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

// incomplete is the error of a list that lacks what could not be asked. What several services say of it is said once.
func incomplete(what string, missing []string) error {
	missing = slices.Compact(slices.Sorted(slices.Values(missing)))
	return &failure{
		what: what + " is incomplete; not all could be asked", err: fault.New(fault.Unavailable, "%s", strings.Join(missing, "; ")),
		next: "see that they run and can be reached, then ask again",
	}
}

// printLedger writes the ledger. An incomplete one is an error, since what is not listed may still exist.
func (a *tool) printLedger(ledger *orchestratorv1.ListLedgerEntriesResponse) error {
	t := &table{header: []string{"NAME", "KIND", "PHASE", "CLOUD", "PROVIDER ID", "STACK", "AGE", "ORPHAN"}}
	st := a.style(a.p.OutIsTerminal)
	for _, e := range ledger.GetEntries() {
		orphan := ""
		switch {
		case e.GetOrphan():
			orphan = st.red("orphan")
		case e.GetKept():
			orphan = st.yellow("kept")
		}
		t.add(e.GetName(), base(e.GetType()), st.state(enumText(e.GetPhase())), base(e.GetCloud()), e.GetProviderId(), base(e.GetStack()), age(a.p.Now(), e.GetCreateTime()), orphan)
	}
	if err := a.printTable(ledger, t, "the ledger is empty"); err != nil {
		return err
	}
	if len(ledger.GetUnreachable()) == 0 {
		return nil
	}
	var missing []string
	for _, f := range ledger.GetUnreachable() {
		missing = append(missing, f.GetMessage())
	}
	return incomplete("the ledger", missing)
}
