package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftcloud/weft/pkg/fault"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// misuse is an error in how a command was called.
type misuse struct {
	cmd  *cobra.Command
	text string
}

func misused(cmd *cobra.Command, format string, args ...any) error {
	return &misuse{cmd: cmd, text: fmt.Sprintf(format, args...)}
}

// Error says what was wrong.
func (m *misuse) Error() string { return m.text }

// failure is an error with what a person needs: what was attempted, why it failed, what to do.
type failure struct {
	// what was attempted.
	what string
	// err is why it failed.
	err error
	// next is what to do; empty derives it from the kind of fault.
	next string
	// document is the text that problems point into, by the name it was given to the server.
	document map[string]string
	// resource is what failed, where a program would want its name; nil if the request says it.
	resource *errdetails.ResourceInfo
}

// Error says what was attempted and why it failed.
func (f *failure) Error() string { return f.what + ": " + f.err.Error() }

// Unwrap gives why it failed.
func (f *failure) Unwrap() error { return f.err }

// failed says what was attempted when err is not nil.
func failed(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	if inner, ok := errors.AsType[*failure](err); ok {
		return inner
	}
	return &failure{what: fmt.Sprintf(format, args...), err: err}
}

// errReported is returned when all there is to say has been said.
var errReported = errors.New("reported")

// report writes an error, for a person or as an object for a program, and gives the exit code.
func (a *tool) report(err error) int {
	if errors.Is(err, errReported) {
		return exitFailed
	}
	st := a.style(a.p.ErrIsTerminal)
	if m := a.misuseIn(err); m != nil {
		if !a.writeObject(m.status()) {
			a.writeMisuse(m, st)
		}
		return exitUsage
	}
	f, ok := errors.AsType[*failure](err)
	if !ok {
		f = &failure{what: a.running.CommandPath(), err: err}
	}
	if !a.writeObject(f.status()) {
		a.writeFailure(f, st)
	}
	return exitFailed
}

// misuseIn gives the misuse that an error is; nil if the command was called as it should be.
func (a *tool) misuseIn(err error) *misuse {
	m, ok := errors.AsType[*misuse](err)
	switch {
	case ok && m.cmd == nil:
		return &misuse{cmd: a.running, text: m.text}
	case ok:
		return m
	case a.running == nil: // cobra refused the arguments before any command ran
		return &misuse{text: firstLine(err.Error())}
	}
	return nil
}

func (a *tool) writeMisuse(m *misuse, st style) {
	fmt.Fprintf(a.p.Err, "%s %s\n", st.red("error:"), m.text)
	if m.cmd != nil {
		fmt.Fprintf(a.p.Err, "usage: %s\n", m.cmd.UseLine())
	}
	fmt.Fprintf(a.p.Err, "  next: %s --help\n", m.command())
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func (a *tool) writeFailure(f *failure, st style) {
	w := a.p.Err
	fmt.Fprintf(w, "%s %s\n", st.red("error:"), f.what)
	if problems := problemsOf(f.err); len(problems) > 0 {
		a.writeProblems(problems, f.document, st)
	} else {
		width, _ := a.p.Size()
		fmt.Fprintf(w, "  why:  %s\n", wrapped(fmt.Sprintf("%s (%s)", messageOf(f.err), fault.KindOf(f.err)), width, 8))
		for _, v := range violationsOf(f.err) {
			if v.GetField() != "" {
				fmt.Fprintf(w, "        %s %s: %s\n", st.dim("at"), v.GetField(), v.GetDescription())
			}
		}
	}
	if next := cmp.Or(f.next, nextStep(f.err)); next != "" {
		fmt.Fprintf(w, "  next: %s\n", next)
	}
}

// messageOf gives the text of an error without gRPC's own words around it.
func messageOf(err error) string {
	if _, ours := errors.AsType[*fault.Error](err); !ours {
		if s, ok := status.FromError(err); ok {
			return s.Message()
		}
	}
	return err.Error()
}

func detailsOf(err error) []any {
	s, ok := status.FromError(err)
	if !ok {
		return nil
	}
	return s.Details()
}

func problemsOf(err error) []*orchestratorv1.Problem {
	for _, d := range detailsOf(err) {
		if p, ok := d.(*orchestratorv1.Problems); ok {
			return p.GetProblems()
		}
	}
	return nil
}

// violationsOf gives the fields that are wrong, if there are several; a single one stands in the message already.
func violationsOf(err error) []*errdetails.BadRequest_FieldViolation {
	for _, d := range detailsOf(err) {
		if b, ok := d.(*errdetails.BadRequest); ok && len(b.GetFieldViolations()) > 1 {
			return b.GetFieldViolations()
		}
	}
	return nil
}

// nextSteps says for each kind of fault what a person can do.
var nextSteps = map[fault.Kind]string{
	fault.Invalid:      "mend what is named above and run the command again",
	fault.NotFound:     "look at what there is with weft get KIND; kinds and names complete with the tab key",
	fault.Exists:       "choose another name, or look at what has it with weft describe",
	fault.Conflict:     "someone else changed or holds it: look again, then run the command again",
	fault.Precondition: "do first what the message asks for, then run the command again",
	fault.Denied:       "use a context whose identity may do this (--context, or weft identity issue)",
	fault.Quota:        "free some of what counts against the limit, or ask for a higher one",
	fault.Throttled:    "wait a little and run the command again",
	fault.Unavailable:  "see that the installation runs (weft dev) and that the context names it, then run the command again",
	fault.Unsupported:  "this installation or cloud cannot do it; weft cloud list shows what clouds can",
	fault.Internal:     "this is a fault of Weft's own; its log says more",
}

func nextStep(err error) string {
	if status.Code(err) == codes.Unauthenticated {
		return "the context's certificate is not valid here, or no longer; get a new one with weft identity issue, or start weft dev again"
	}
	if errors.Is(err, context.Canceled) {
		return ""
	}
	if fault.Is(err, fault.Unavailable) && hasProblems(err) {
		return "see that what is named above can be reached, then run the command again"
	}
	return nextSteps[fault.KindOf(err)]
}

// hasProblems tells whether the installation itself answered, and names what is wrong with a document.
func hasProblems(err error) bool {
	return slices.ContainsFunc(status.Convert(err).Details(), func(detail any) bool {
		_, ok := detail.(*orchestratorv1.Problems)
		return ok
	})
}

// writeProblems writes what is wrong with a document, each with its place and the line that it is about.
func (a *tool) writeProblems(problems []*orchestratorv1.Problem, documents map[string]string, st style) {
	width, _ := a.p.Size()
	problems = slices.Clone(problems)
	slices.SortStableFunc(problems, func(x, y *orchestratorv1.Problem) int {
		return cmp.Or(cmp.Compare(x.GetLine(), y.GetLine()), cmp.Compare(x.GetColumn(), y.GetColumn()))
	})
	for _, p := range problems {
		text := p.GetFault().GetMessage()
		if p.GetField() != "" && !strings.HasPrefix(text, p.GetField()) {
			text = p.GetField() + ": " + text
		}
		fmt.Fprintf(a.p.Err, "\n%s\n  %s\n", st.bold(placeOf(p)), wrapped(fmt.Sprintf("%s (%s)", text, p.GetFault().GetKind()), width, 2))
		fmt.Fprint(a.p.Err, excerpt(documents[p.GetDocument()], int(p.GetLine()), int(p.GetColumn()), width, st))
	}
	fmt.Fprintln(a.p.Err)
}

// excerpt shows a line of a document with a caret below the column; empty if there is no such line.
func excerpt(document string, line, column, width int, st style) string {
	lines := strings.Split(document, "\n")
	if document == "" || line < 1 || line > len(lines) {
		return ""
	}
	source := []rune(strings.TrimRight(lines[line-1], "\r"))
	at := max(0, min(column-1, len(source)))
	gutter := fmt.Sprintf("%5d | ", line)
	room := max(20, width-len(gutter)-1)
	from := 0
	if at >= room {
		from = at - room/2
	}
	shown := source[from:min(len(source), from+room)]
	pad := make([]rune, 0, at-from)
	for _, r := range source[from:at] {
		if r != '\t' {
			r = ' '
		}
		pad = append(pad, r)
	}
	return st.dim(gutter) + string(shown) + "\n" + st.dim("      | ") + string(pad) + st.red("^") + "\n"
}
