package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// spinner is drawn before what is under way, one frame a redraw.
var spinner = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

// stepMark is what stands before a step: whether it is done, under way, waiting or wrong.
func stepMark(s orchestratorv1.StepState, frame int, st style) string {
	switch s {
	case orchestratorv1.StepState_STEP_STATE_DONE, orchestratorv1.StepState_STEP_STATE_SKIPPED:
		return st.green("✓")
	case orchestratorv1.StepState_STEP_STATE_RUNNING, orchestratorv1.StepState_STEP_STATE_UNDOING:
		return st.cyan(spinner[frame%len(spinner)])
	case orchestratorv1.StepState_STEP_STATE_BACKOFF, orchestratorv1.StepState_STEP_STATE_UNDO_BACKOFF:
		return st.yellow("↻")
	case orchestratorv1.StepState_STEP_STATE_FAILED, orchestratorv1.StepState_STEP_STATE_STUCK:
		return st.red("✗")
	case orchestratorv1.StepState_STEP_STATE_UNDONE:
		return st.yellow("↶")
	default:
		return st.dim("·")
	}
}

// doing and did say what a step does, and has done, by its change.
var (
	doing = map[kindv1.Change]string{
		kindv1.Change_CHANGE_CREATE: "creating", kindv1.Change_CHANGE_IN_PLACE: "changing", kindv1.Change_CHANGE_RESTART: "restarting",
		kindv1.Change_CHANGE_REPLACE: "replacing", kindv1.Change_CHANGE_DELETE: "deleting",
	}
	did = map[kindv1.Change]string{
		kindv1.Change_CHANGE_CREATE: "created", kindv1.Change_CHANGE_IN_PLACE: "changed", kindv1.Change_CHANGE_RESTART: "restarted",
		kindv1.Change_CHANGE_REPLACE: "replaced", kindv1.Change_CHANGE_DELETE: "deleted",
	}
)

// stepText says where a step stands in a word or two.
func stepText(s *orchestratorv1.StepStatus) string {
	switch s.GetState() {
	case orchestratorv1.StepState_STEP_STATE_RUNNING:
		return doing[s.GetChange()]
	case orchestratorv1.StepState_STEP_STATE_DONE:
		return did[s.GetChange()]
	case orchestratorv1.StepState_STEP_STATE_BACKOFF:
		return doing[s.GetChange()] + ", trying again"
	case orchestratorv1.StepState_STEP_STATE_UNDO_BACKOFF:
		return "undoing, trying again"
	case orchestratorv1.StepState_STEP_STATE_DROPPED:
		return "not begun"
	default:
		return words(s.GetState())
	}
}

// attempt gives the number of a step's attempt while it is on its way forward; 0 later, when it says nothing any more.
func attempt(s *orchestratorv1.StepStatus) int32 {
	switch s.GetState() {
	case orchestratorv1.StepState_STEP_STATE_RUNNING, orchestratorv1.StepState_STEP_STATE_BACKOFF:
		return s.GetAttempt()
	}
	return 0
}

// elapsed gives how long a step took or has taken; empty if it has not begun.
func elapsed(s *orchestratorv1.StepStatus, now time.Time) string {
	if s.GetStartTime() == nil {
		return ""
	}
	end := now
	if s.GetEndTime() != nil {
		end = s.GetEndTime().AsTime()
	}
	return span(end.Sub(s.GetStartTime().AsTime()))
}

// localName gives the name of a step within its stack, with what tells two steps of one resource apart.
func localName(s *orchestratorv1.StepStatus) string {
	if strings.HasPrefix(s.GetId(), "tenants/") { // a change of a single resource
		return base(s.GetId())
	}
	return s.GetId()
}

// holdText says who holds an operation; empty if nobody does.
func holdText(op *orchestratorv1.OperationMetadata) string {
	switch {
	case op.GetHold() != nil:
		return "paused: " + op.GetHold().GetReason() + " (weft ops resume " + base(op.GetName()) + ")"
	case len(op.GetHeldClouds()) > 0:
		var clouds []string
		for _, cloud := range op.GetHeldClouds() {
			clouds = append(clouds, base(cloud))
		}
		return "nothing is begun at " + strings.Join(clouds, ", ") + ": paused (weft cloud resume)"
	default:
		return ""
	}
}

// notes are the lines below a step: what it waits for, what went wrong.
func notes(s *orchestratorv1.StepStatus, done map[string]bool) []string {
	var out []string
	if h := s.GetHold(); h != nil {
		out = append(out, "paused: "+h.GetReason())
	}
	if s.GetState() == orchestratorv1.StepState_STEP_STATE_WAITING {
		var missing []string
		for _, need := range s.GetNeeds() {
			if !done[need] {
				missing = append(missing, need)
			}
		}
		if len(missing) > 0 {
			out = append(out, "waits for "+strings.Join(missing, ", "))
		}
		return out
	}
	ended := s.GetState() == orchestratorv1.StepState_STEP_STATE_DONE || s.GetState() == orchestratorv1.StepState_STEP_STATE_UNDONE
	if f := s.GetFault(); f != nil && !ended && !saidByBlockers(f, s.GetBlockers()) {
		out = append(out, f.GetKind()+": "+f.GetMessage())
	}
	if !ended {
		for _, b := range s.GetBlockers() {
			out = append(out, blockerText(b.GetKind(), b.GetId(), b.GetOwner(), b.GetAction()))
		}
	}
	return out
}

// saidByBlockers tells a fault that says no more than the blockers, which are shown one by one.
func saidByBlockers(f *kindv1.Fault, blockers []*kindv1.Blocker) bool {
	kind := fault.Kind(f.GetKind())
	return len(blockers) > 0 && (kind == fault.Conflict || kind == fault.Precondition)
}

// noteIndent is how far the notes below a step stand to the right.
const noteIndent = 6

// progressText draws an operation as a tree of its steps, at most so many lines high: finished steps give way first.
func progressText(op *orchestratorv1.OperationMetadata, now time.Time, frame, width, height int, st style) string {
	done := map[string]bool{}
	byName := map[string]*orchestratorv1.StepStatus{}
	var names []string
	for _, s := range op.GetSteps() {
		done[s.GetId()] = s.GetState() == orchestratorv1.StepState_STEP_STATE_DONE || s.GetState() == orchestratorv1.StepState_STEP_STATE_SKIPPED
		byName[localName(s)] = s
		names = append(names, localName(s))
	}
	left := 0
	for _, ok := range done {
		if !ok {
			left++
		}
	}
	header := cut(fmt.Sprintf("%s %s  %s  %d/%d  %s", words(op.GetAction()), base(op.GetTarget()), st.state(enumText(op.GetState())),
		len(done)-left, len(done), span(endOr(op, now).Sub(op.GetCreateTime().AsTime()))), width)
	if held := holdText(op); held != "" {
		header += "\n" + cut(st.yellow(held), width)
		height--
	}
	branches := treeOf(names)
	labels, kinds := 0, 0
	for _, b := range branches {
		labels, kinds = max(labels, len([]rune(b.label))), max(kinds, len(base(byName[b.name].GetType())))
	}
	labels, kinds = min(labels, max(12, width/3)), min(kinds, max(8, width/5))
	var lines []string
	var finished []bool
	for _, b := range branches {
		s := byName[b.name]
		if s == nil {
			lines, finished = append(lines, cut("  "+st.bold(b.label), width)), append(finished, false)
			continue
		}
		text := fmt.Sprintf("%s %s  %s  %s", stepMark(s.GetState(), frame, st), padded(cut(b.label, labels), labels), st.dim(padded(cut(base(s.GetType()), kinds), kinds)), stepText(s))
		if took := elapsed(s, now); took != "" {
			text += "  " + st.dim(took)
		}
		if n := attempt(s); n > 1 {
			text += st.yellow(fmt.Sprintf("  attempt %d", n))
		}
		lines, finished = append(lines, cut(text, width)), append(finished, done[s.GetId()])
		for _, note := range notes(s, done) {
			for _, line := range folded(note, width-noteIndent) { // what to do must not be cut off
				lines, finished = append(lines, cut(strings.Repeat(" ", noteIndent)+st.yellow(line), width)), append(finished, false)
			}
		}
	}
	return header + "\n" + strings.Join(trim(lines, finished, height-1, st), "")
}

// trim drops finished lines from the top, then any from the bottom, until they fit.
func trim(lines []string, finished []bool, height int, st style) []string {
	var out []string
	over := len(lines) - max(1, height)
	hidden := 0
	for i, line := range lines {
		if over >= hidden && over > 0 && finished[i] {
			hidden++
			continue
		}
		out = append(out, line+"\n")
	}
	if hidden > 0 {
		out = append([]string{st.dim(fmt.Sprintf("  … %d done", hidden)) + "\n"}, out...)
	}
	if len(out) > height && height > 1 {
		out = append(out[:height-1], st.dim("  …")+"\n")
	}
	return out
}

func endOr(op *orchestratorv1.OperationMetadata, now time.Time) time.Time {
	if op.GetEndTime() != nil {
		return op.GetEndTime().AsTime()
	}
	return now
}

// changedLines gives one line for each step, and for the operation, whose state differs from the former one: what is
// written where no terminal can redraw.
func changedLines(former, next *orchestratorv1.OperationMetadata, now time.Time) []string {
	was := map[string]*orchestratorv1.StepStatus{}
	for _, s := range former.GetSteps() {
		was[s.GetId()] = s
	}
	at := span(now.Sub(next.GetCreateTime().AsTime()))
	var out []string
	for _, s := range next.GetSteps() {
		before := was[s.GetId()]
		same := before.GetState() == s.GetState() && before.GetAttempt() == s.GetAttempt() && before.GetFault().GetMessage() == s.GetFault().GetMessage() &&
			slices.EqualFunc(before.GetBlockers(), s.GetBlockers(), func(a, b *kindv1.Blocker) bool { return proto.Equal(a, b) })
		if same || before == nil && s.GetState() == orchestratorv1.StepState_STEP_STATE_WAITING {
			continue
		}
		line := fmt.Sprintf("%8s  %s %s: %s", at, base(s.GetType()), localName(s), stepText(s))
		if n := attempt(s); n > 1 {
			line += fmt.Sprintf(", attempt %d", n)
		}
		for _, note := range notes(s, nil) {
			line += "; " + note
		}
		out = append(out, line)
	}
	if former.GetState() != next.GetState() {
		out = append(out, fmt.Sprintf("%8s  %s %s: %s", at, words(next.GetAction()), base(next.GetTarget()), words(next.GetState())))
	}
	return out
}
