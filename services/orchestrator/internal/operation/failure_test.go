package operation

import (
	"strings"
	"testing"

	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// TestFailureNamesWhatIsInTheWay: an operation that needs a hand because something blocks a deletion says so in its error,
// not only that its time ran out.
func TestFailureNamesWhatIsInTheWay(t *testing.T) {
	late := &kindv1.Fault{Kind: string(fault.Unavailable), Message: "the operation was not done by its deadline"}
	held := &kindv1.Fault{Kind: string(fault.Conflict), Message: "delete net: it cannot go before server s1 (web-1): delete server s1"}
	for name, c := range map[string]struct {
		state, step *kindv1.Fault
		want, once  string
	}{
		"time ran out while something is in the way": {state: late, step: held, want: held.GetMessage(), once: late.GetMessage()},
		"only a step says why":                       {step: held, want: held.GetMessage(), once: held.GetMessage()},
		"the step says the same":                     {state: late, step: late, want: late.GetMessage(), once: late.GetMessage()},
		"no step is stuck":                           {state: late, want: late.GetMessage(), once: late.GetMessage()},
	} {
		t.Run(name, func(t *testing.T) {
			view := &orchestratorv1.OperationMetadata{State: orchestratorv1.OperationState_OPERATION_STATE_NEEDS_HAND, Fault: c.state}
			if c.step != nil {
				view.Steps = []*orchestratorv1.StepStatus{{State: orchestratorv1.StepState_STEP_STATE_DONE}, {State: orchestratorv1.StepState_STEP_STATE_STUCK, Fault: c.step}}
			}
			text := failure(&orchestratorv1.SagaSummary{Operation: view}).Error()
			if !strings.Contains(text, c.want) || strings.Count(text, c.once) != 1 || !strings.Contains(text, "it needs a hand") {
				t.Errorf("the error is %q, want %q in it, and %q once", text, c.want, c.once)
			}
		})
	}
}
