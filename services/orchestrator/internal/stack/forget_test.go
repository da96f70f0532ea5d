package stack_test

import (
	"testing"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/services/orchestrator/internal/stack"
)

// TestCutEntry takes resources out of documents: their lines go, and no others; one that shares its line with others is
// refused.
func TestCutEntry(t *testing.T) {
	const text = "resources:\n  one: {kind: Network}\n  two:\n    kind: Volume\n\n    spec:\n      size: 1Gi\n  # of three\n  three: {kind: Network}\noutputs: {}\n"
	for line, want := range map[int]string{
		2: "resources:\n  two:\n    kind: Volume\n\n    spec:\n      size: 1Gi\n  # of three\n  three: {kind: Network}\noutputs: {}\n",
		3: "resources:\n  one: {kind: Network}\n  # of three\n  three: {kind: Network}\noutputs: {}\n",
		9: "resources:\n  one: {kind: Network}\n  two:\n    kind: Volume\n\n    spec:\n      size: 1Gi\n  # of three\noutputs: {}\n",
	} {
		got, err := stack.CutEntry(text, line, 3)
		if err != nil || got != want {
			t.Errorf("without the entry at line %d it is %q, %v; want %q", line, got, err, want)
		}
	}
	if _, err := stack.CutEntry("resources: {one: {kind: Network}}\n", 1, 13); !fault.Is(err, fault.Precondition) {
		t.Errorf("an entry in a line of others: %v", err)
	}
}
