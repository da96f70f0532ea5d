package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/fault"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/weft/internal/contextfile"
	"github.com/weftcloud/weft/services/weft/internal/rehearse"
)

// rehearse rehearses a document whose plan is sound, and writes what came of it.
func (a *tool) rehearse(ctx context.Context, c *client, plan *orchestratorv1.Plan, doc *document, parameters *structpb.Struct) error {
	parent, err := c.parent()
	if err != nil {
		return err
	}
	if a.output == "table" {
		if err := a.printPlan(plan, doc); err != nil {
			return err
		}
	}
	st := a.style(a.p.ErrIsTerminal)
	report, err := rehearse.Run(ctx, rehearse.Config{
		Install: func(ctx context.Context, in rehearse.Installation) error {
			return a.p.Dev(ctx, DevConfig{DataDir: in.Dir, Listen: "127.0.0.1:0", ContextPath: in.ContextPath, Out: io.Discard, Bus: in.Bus, Fleeting: true})
		},
		Dial: func(file *contextfile.File) (*grpc.ClientConn, error) {
			private, err := connect(file)
			if err != nil {
				return nil, err
			}
			return private.conn, nil
		},
		Person: c.conn, Parent: parent, Document: doc.text, DocumentName: doc.name, Parameters: parameters,
		Say: func(format string, args ...any) {
			if !a.machine() {
				a.note("%s", st.dim("rehearsal: "+fmt.Sprintf(format, args...)))
			}
		},
	})
	if err != nil {
		return rehearsalFailure(ctx, doc, err)
	}
	report.Notices = append(report.Notices, planDifferences(plan, report.GetPlan())...)
	report.Plan = plan // its quotas are those of the person's clouds
	width, _ := a.p.Size()
	if err := a.print(report, func() string { return rehearsalText(report, width, a.style(a.p.OutIsTerminal)) }); err != nil {
		return err
	}
	if report.GetAsTold() {
		return nil
	}
	return &failure{
		what: "rehearse " + doc.name, err: fault.New(fault.Precondition, "%s", rehearse.Summary(report)),
		next: "do not rely on the undo of the steps named above; weft apply --keep-on-failure leaves it to you",
	}
}

// rehearsalFailure says why there is no rehearsal, and what to do.
func rehearsalFailure(ctx context.Context, doc *document, err error) error {
	f := &failure{what: "rehearse " + doc.name, err: err, document: doc.sources()}
	switch {
	case ctx.Err() != nil:
		f.err, f.next = status.Error(codes.Canceled, "it was interrupted; nothing of it is left"), "run the command again"
	case len(problemsOf(err)) > 0:
		f.what += ": the simulated cloud cannot stand in for what is named here"
		f.next = "leave it out of a copy of the document, and rehearse that"
	case fault.Is(err, fault.Unavailable):
		f.next = "a rehearsal runs an installation of its own: it needs room in the temporary folder ($TMPDIR) and free ports on 127.0.0.1"
	}
	return f
}

// planDifferences says where the plan in the simulated cloud is another one than at the person's own.
func planDifferences(own, rehearsed *orchestratorv1.Plan) []string {
	told := func(plan *orchestratorv1.Plan) map[string]string {
		out := map[string]string{}
		for _, s := range plan.GetSteps() {
			out[s.GetId()] = s.GetUndo()
		}
		return out
	}
	var out []string
	mine, theirs := told(own), told(rehearsed)
	for _, s := range own.GetSteps() {
		if theirs[s.GetId()] != mine[s.GetId()] {
			out = append(out, "step "+s.GetId()+" could not be rehearsed as it is planned: in the simulated cloud it does not change the same")
		}
	}
	for _, s := range rehearsed.GetSteps() {
		if mine[s.GetId()] == "" {
			out = append(out, "step "+s.GetId()+" was rehearsed, and is not needed at your own cloud")
		}
	}
	return out
}

// rehearsalText writes a rehearsal for a person: a line for each run, what differs, and the verdict.
func rehearsalText(r *orchestratorv1.Rehearsal, width int, st style) string {
	var b strings.Builder
	t := &table{header: []string{"", "FAILED AFTER", "END", "UNDONE, IN ORDER", "INVENTORY", "LEFT OVER"}}
	for _, run := range r.GetRuns() {
		step, number := run.GetStep(), strconv.Itoa(int(run.GetNumber()))
		if step == "" {
			step, number = "(nothing)", ""
		}
		var undone []string
		for _, u := range run.GetUndone() {
			undone = append(undone, u.GetStep())
		}
		inventory := st.green("equal")
		if !run.GetInventoryEqual() {
			inventory = st.red("DIFFERS")
		}
		t.add(number, step, enumText(run.GetState()), strings.Join(undone, " "), inventory, strconv.Itoa(len(run.GetLeftovers())))
	}
	b.WriteString("\n" + t.render(width, st))
	for _, run := range r.GetRuns() {
		writeDifferences(&b, run, width, st)
	}
	for _, notice := range r.GetNotices() {
		b.WriteString(wrapped("note: "+notice, width, 0) + "\n")
	}
	verdict := st.green
	if !r.GetAsTold() {
		verdict = st.red
	}
	b.WriteString("\n" + verdict("rehearsed: ") + wrapped(rehearse.Summary(r), width, 11) + "\n")
	return b.String()
}

func writeDifferences(b *strings.Builder, run *orchestratorv1.RehearsalRun, width int, st style) {
	if run.GetAsTold() {
		return
	}
	step := "without a failure"
	if run.GetStep() != "" {
		step = "failing after " + run.GetStep()
	}
	b.WriteString(st.bold(step) + "\n")
	line := func(text string) { b.WriteString("    " + wrapped(text, width, 4) + "\n") }
	for _, d := range run.GetDifferences() {
		line(d)
	}
	for _, l := range run.GetLeftovers() {
		line("left over: " + l)
	}
	for _, m := range run.GetMissing() {
		line("missing: " + m)
	}
}
