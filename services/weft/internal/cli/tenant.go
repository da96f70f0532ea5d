package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/quota"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

func (a *tool) tenantCommand() *cobra.Command {
	return group("tenant", "Add tenants, say what they may have, and list them", a.tenantAdd(), a.tenantSet(), a.listOf("tenant"))
}

// tenantFlags are what a person says of a tenant.
type tenantFlags struct {
	display, isolation string
	quotas             map[string]string
}

func (f *tenantFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.display, "display-name", "", "what people call it")
	cmd.Flags().StringVar(&f.isolation, "isolation", "", "single-tenant: it works in the clouds' own projects; multi-tenant: it gets a project of its own at each cloud (default single-tenant)")
	cmd.Flags().StringToStringVar(&f.quotas, "quota", nil, "what it may have at most, `NAME=NUMBER`, or NAME=none for no limit; may be given again. Names: "+strings.Join(quotaNames(), ", "))
}

// gib is how a quota is called that is given in GiB and kept in MiB.
const gib = "ramGiB"

func quotaNames() []string {
	out := []string{gib}
	for _, q := range quota.All() {
		out = append(out, q.Name)
	}
	slices.Sort(out)
	return out
}

// into changes a spec as the flags say; what they do not name stays.
func (f *tenantFlags) into(cmd *cobra.Command, spec *orchestratorv1.TenantSpec) error {
	if cmd.Flags().Changed("display-name") {
		spec.DisplayName = f.display
	}
	if cmd.Flags().Changed("isolation") {
		chosen, known := isolations[f.isolation]
		if !known {
			return misused(cmd, "--isolation is single-tenant or multi-tenant, not %q", f.isolation)
		}
		spec.Isolation = chosen
	}
	for _, name := range slices.Sorted(maps.Keys(f.quotas)) {
		if spec.Quotas == nil {
			spec.Quotas = &orchestratorv1.TenantQuotas{}
		}
		if err := setQuota(spec.GetQuotas().ProtoReflect(), name, f.quotas[name]); err != nil {
			return &failure{what: "read --quota", err: err, next: "write it as in --quota servers=10,ramGiB=64; the names are " + strings.Join(quotaNames(), ", ")}
		}
	}
	return nil
}

// setQuota sets one limit, or takes it away.
func setQuota(quotas protoreflect.Message, name, value string) error {
	field, unit := name, int64(1)
	if name == gib {
		field, unit = quota.RAMMiB, 1<<10
	}
	f := quotas.Descriptor().Fields().ByJSONName(field)
	if f == nil {
		return fault.New(fault.Invalid, "there is no quota %q", name)
	}
	if value == "none" {
		quotas.Clear(f)
		return nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 || n > 1<<40 {
		return fault.New(fault.Invalid, "%q is no number for the quota %s", value, name)
	}
	quotas.Set(f, protoreflect.ValueOfInt64(n*unit))
	return nil
}

// isolations are how a tenant can be kept apart from the others, as people write it.
var isolations = map[string]orchestratorv1.Isolation{
	"single-tenant": orchestratorv1.Isolation_ISOLATION_SINGLE_TENANT,
	"multi-tenant":  orchestratorv1.Isolation_ISOLATION_MULTI_TENANT,
}

func (a *tool) tenantAdd() *cobra.Command {
	f := &tenantFlags{}
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Add a tenant, or change what is said of it", Args: takes(1, 1, "a name"),
		Example: "  weft tenant add acme --display-name Acme --quota servers=10,ramGiB=64\n  weft tenant add beta --isolation multi-tenant",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.putTenant(cmd, args[0], f, true)
		},
	}
	f.add(cmd)
	return cmd
}

func (a *tool) tenantSet() *cobra.Command {
	f := &tenantFlags{}
	cmd := &cobra.Command{
		Use: "set NAME", Short: "Change what is said of a tenant, such as what it may have", Args: takes(1, 1, "a name"), ValidArgsFunction: a.completeNames("tenant"),
		Example: "  weft tenant set acme --quota servers=20\n  weft tenant set acme --quota servers=none",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.putTenant(cmd, args[0], f, false)
		},
	}
	f.add(cmd)
	return cmd
}

// putTenant changes a tenant as the flags say, or adds it. What the flags do not name stays as it is.
func (a *tool) putTenant(cmd *cobra.Command, name string, f *tenantFlags, add bool) error {
	return a.with(func(c *client) error {
		t, err := orchestratorv1.NewTenantServiceClient(c.conn).GetTenant(cmd.Context(), &orchestratorv1.GetTenantRequest{Name: "tenants/" + name})
		err = fault.FromStatus(err)
		if fault.Is(err, fault.NotFound) && add {
			t, err = nil, nil
		}
		if err != nil {
			return failed(err, "read tenant %s", name)
		}
		next := &orchestratorv1.Tenant{Spec: &orchestratorv1.TenantSpec{}}
		if t.GetSpec() != nil {
			next.Spec = t.GetSpec()
		}
		if err := f.into(cmd, next.GetSpec()); err != nil {
			return err
		}
		op, err := a.put(cmd, c, "tenant", name, next)
		if err != nil {
			return err
		}
		return a.print(op, func() string {
			text := fmt.Sprintf("%s tenant %s\n", a.style(a.p.OutIsTerminal).green("ready:"), name)
			if add {
				text += fmt.Sprintf("  let people in: weft identity issue NAME --role editor --tenant %s\n", name)
			}
			return text
		})
	})
}
