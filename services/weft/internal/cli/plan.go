package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/charmbracelet/x/ansi"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

func (a *tool) planCommand() *cobra.Command {
	var from reading
	var skip, rehearsed, repair bool
	cmd := &cobra.Command{
		Use: "plan -f FILE", Short: "Say what apply would do, and do nothing",
		Long: `Say what apply would do, and do nothing.

  +    made                    !    changed, with an interruption
  ~    changed while it works  -/+  made anew, the old one deleted
  -    deleted

With --rehearse the plan is also carried out, in a simulated cloud on this machine that is made for it and gone after it:
once for each step, with a failure after the step was done, and once without. Each run is held against what the plan tells
of the undo. Your clouds are not touched. The exit code is 0 only if every run ended as told.`,
		Example: "  weft plan -f shop.yaml\n  weft plan -f shop.yaml --rehearse",
		Args:    takes(0, 0, "no arguments; the document comes with -f"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withDocument(cmd, &from, func(c *client, parent string, doc *document, values *structpb.Struct) error {
				plan, err := orchestratorv1.NewStackServiceClient(c.conn).PlanStack(cmd.Context(), &orchestratorv1.PlanStackRequest{
					Parent: parent, Document: doc.text, DocumentName: doc.name, Parameters: values, SkipPreflight: skip, Repair: repair,
				})
				if err != nil {
					return &failure{what: "plan " + doc.name, err: err, document: doc.sources()}
				}
				if !rehearsed || len(plan.GetProblems()) > 0 {
					return a.printPlan(plan, doc)
				}
				return a.rehearse(cmd.Context(), c, plan, doc, values)
			})
		},
	}
	from.flags(cmd)
	cmd.Flags().BoolVar(&skip, "skip-preflight", false, "leave out what only the clouds can tell: quotas, images, flavors")
	cmd.Flags().BoolVar(&repair, "repair", false, "bring back, too, what was removed, changed or broken at the clouds")
	cmd.Flags().BoolVar(&rehearsed, "rehearse", false, "carry it out in a simulated cloud, failing after each step in turn, and say how each run ends")
	return cmd
}

func (a *tool) printPlan(plan *orchestratorv1.Plan, doc *document) error {
	width, _ := a.p.Size()
	text := func() string {
		if plan.GetStack() == "" { // it did not get so far
			return ""
		}
		return planText(plan, width, a.style(a.p.OutIsTerminal))
	}
	if err := a.print(plan, text); err != nil {
		return err
	}
	problems := plan.GetProblems()
	if len(problems) == 0 {
		return nil
	}
	refusal, err := status.New(codes.InvalidArgument, problems[0].GetFault().GetMessage()).WithDetails(&orchestratorv1.Problems{Problems: problems})
	if err != nil {
		return fault.As(fault.Internal, fault.Wrap(err, "gather the problems of %s", doc.name))
	}
	return &failure{
		what: doc.name + " cannot be applied: " + count(len(problems), "problem"), err: refusal.Err(), document: doc.sources(),
		next: "mend the places above, then weft plan again",
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// sign is how a kind of change is marked.
type sign struct {
	mark, text, total string
	paint             func(style, string) string
}

// signs lists the kinds of change in the order in which the summary counts them.
var signs = []struct {
	change kindv1.Change
	sign
}{
	{kindv1.Change_CHANGE_CREATE, sign{"+", "create", "to create", style.green}},
	{kindv1.Change_CHANGE_IN_PLACE, sign{"~", "change in place", "to change", style.yellow}},
	{kindv1.Change_CHANGE_RESTART, sign{"!", "change with a restart", "to restart", style.yellow}},
	{kindv1.Change_CHANGE_REPLACE, sign{"-/+", "replace", "to replace", style.red}},
	{kindv1.Change_CHANGE_DELETE, sign{"-", "delete", "to delete", style.red}},
	{kindv1.Change_CHANGE_ADOPT, sign{"=", "adopt", "to adopt", style.green}},
	{kindv1.Change_CHANGE_FORGET, sign{"x", "forget", "to forget", style.yellow}},
}

func signOf(c kindv1.Change) sign {
	for _, s := range signs {
		if s.change == c {
			return s.sign
		}
	}
	return sign{" ", "", "", func(_ style, s string) string { return s }}
}

// planText writes a plan for a person: what is done to which resource, field by field, how each change would be undone,
// and the quotas that it takes.
func planText(plan *orchestratorv1.Plan, width int, st style) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n", st.bold("plan for stack "+base(plan.GetStack())), wrapped(planSummary(plan), width, 0))
	if len(plan.GetChanges()) > 0 {
		b.WriteString("\n")
		names, kinds := 0, 0
		for _, c := range plan.GetChanges() {
			names, kinds = max(names, ansi.StringWidth(c.GetLocalName())), max(kinds, len(base(c.GetType())))
		}
		names, kinds = min(names, max(10, width/3)), min(kinds, max(8, width/4))
		for _, c := range plan.GetChanges() {
			writeChange(&b, c, names, kinds, width, st)
		}
		writeUndo(&b, plan, width, st)
	}
	writeQuotas(&b, plan, width, st)
	return b.String()
}

func planSummary(plan *orchestratorv1.Plan) string {
	counts := map[kindv1.Change]int{}
	for _, c := range plan.GetChanges() {
		counts[c.GetChange()]++
	}
	var parts []string
	for _, s := range signs {
		if n := counts[s.change]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s.total))
		}
	}
	if len(parts) == 0 && len(plan.GetProblems()) > 0 {
		return "it cannot be made as it is"
	}
	if len(parts) == 0 {
		parts = append(parts, "nothing changes")
	}
	if n := len(plan.GetAdoptions()); n > 0 {
		parts = append(parts, count(n, "object")+" to adopt (weft adopt)")
	}
	if n := plan.GetUnchanged(); n > 0 {
		parts = append(parts, fmt.Sprintf("%d unchanged", n))
	}
	if n := plan.GetPublicAddresses(); n > 0 {
		parts = append(parts, publicAddresses(int(n)))
	}
	return strings.Join(parts, ", ")
}

func writeChange(b *strings.Builder, c *orchestratorv1.ResourceChange, names, kinds, width int, st style) {
	s := signOf(c.GetChange())
	line := fmt.Sprintf("%s %s  %s  %s", s.paint(st, padded(s.mark, 3)), padded(cut(c.GetLocalName(), names), names), padded(cut(base(c.GetType()), kinds), kinds), s.text)
	b.WriteString(cut(strings.TrimRight(line, " "), width) + "\n")
	paths := 0
	for _, f := range c.GetFields() {
		paths = max(paths, ansi.StringWidth(f.GetPath()))
	}
	paths = min(paths, max(12, width/3))
	for _, f := range c.GetFields() {
		b.WriteString(cut(fmt.Sprintf("      %s  %s", padded(cut(f.GetPath(), paths), paths), fieldText(f, c.GetChange(), st)), width) + "\n")
	}
	if c.GetDataLoss() != "" {
		b.WriteString("      " + st.red("DATA LOSS: "+wrapped(c.GetDataLoss(), width-11, 17)) + "\n")
	}
	if c.GetDataKept() != "" {
		b.WriteString("      " + st.yellow("DATA KEPT: "+wrapped(c.GetDataKept(), width-11, 17)) + "\n")
	}
}

// fieldText shows a field's old and new value; of an opaque one only that it changes.
func fieldText(f *orchestratorv1.FieldChange, whole kindv1.Change, st style) string {
	var text string
	switch {
	case f.GetOldValue() == "" && f.GetNewValue() == "":
		text = "(changed; not shown)"
	case f.GetOldValue() == "":
		text = st.green(f.GetNewValue())
	case f.GetNewValue() == "":
		text = st.red(f.GetOldValue()) + " → (none)"
	default:
		text = st.red(f.GetOldValue()) + " → " + st.green(f.GetNewValue())
	}
	if s := signOf(f.GetChange()); s.text != "" && f.GetChange() == kindv1.Change_CHANGE_REPLACE && whole == kindv1.Change_CHANGE_REPLACE {
		text += st.dim("  forces the replacement")
	}
	return text
}

// writeUndo tells of each step how it is undone: by what, if what holds, at the price of which data.
func writeUndo(b *strings.Builder, plan *orchestratorv1.Plan, width int, st style) {
	if len(plan.GetSteps()) == 0 {
		return
	}
	b.WriteString("\n" + st.bold("should a step fail, those begun are undone, last first:") + "\n")
	names := 0
	for _, s := range plan.GetSteps() {
		names = max(names, ansi.StringWidth(s.GetId()))
	}
	names = min(names, max(10, width/3))
	for _, s := range plan.GetSteps() {
		fmt.Fprintf(b, "    %s  %s\n", padded(cut(s.GetId(), names), names), wrapped(s.GetUndo(), width, names+6))
		line := func(what, text string, paint func(string) string) {
			if text != "" {
				text = wrapped(what+text, width-names-8, 0)
				for part := range strings.SplitSeq(text, "\n") {
					b.WriteString(strings.Repeat(" ", names+8) + paint(part) + "\n")
				}
			}
		}
		line("if ", s.GetUndoPrecondition(), st.dim)
		line("LOSES ", s.GetUndoDataLoss(), st.red)
		line("but ", s.GetUndoNotice(), st.yellow)
	}
}

func writeQuotas(b *strings.Builder, plan *orchestratorv1.Plan, width int, st style) {
	if len(plan.GetQuotas()) == 0 {
		return
	}
	t := &table{header: []string{"OF", "SERVICE", "QUOTA", "NEED", "USED", "LIMIT"}}
	for _, q := range plan.GetQuotas() {
		limit := strconv.FormatInt(q.GetLimit(), 10)
		if q.GetLimit() < 0 {
			limit = "none"
		} else if q.GetUsed()+q.GetNeed() > q.GetLimit() {
			limit = st.red(limit + " too little")
		}
		of := base(q.GetCloud())
		if strings.HasPrefix(q.GetCloud(), "tenants/") {
			of = "tenant " + of
		}
		t.add(of, q.GetService(), q.GetQuota(), fmt.Sprintf("%+d", q.GetNeed()), strconv.FormatInt(q.GetUsed(), 10), limit)
	}
	b.WriteString("\n" + t.render(width, st))
}

// publicAddresses tells how many public addresses a stack uses.
func publicAddresses(n int) string {
	if n == 1 {
		return "1 public address in use"
	}
	return fmt.Sprintf("%d public addresses in use", n)
}
