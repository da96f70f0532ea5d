package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// TestBlocker puts a foreign port on the stack's network. The destroy waits and names it, and goes on by itself when it
// is gone.
func TestBlocker(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	nothing := i.Cloud.Inventory(t)
	i.Apply(t, "kind: Stack\nname: lan\nplacement: {cloud: lab}\nresources:\n"+fabric, "DONE")
	network, ok := i.Cloud.Inventory(t).Find("network.network", "lan.net")
	if !ok {
		t.Fatal("the cloud has no network lan.net")
	}
	somebody := i.Cloud.Foreign(t, "demo")
	port := somebody.Port(network.ID, "compute:elsewhere")
	destroying := i.Go(t, "destroy", "lan", "--wait", "-o", "json")
	op := destroyOf(t, i, "lan")
	var blocker *kindv1.Blocker
	op = i.AwaitOp(t, op.ID(), "the operation names the port", func(o *story.Operation) bool {
		for _, step := range o.GetSteps() {
			at := slices.IndexFunc(step.GetBlockers(), func(b *kindv1.Blocker) bool { return b.GetId() == port })
			if at >= 0 {
				blocker = step.GetBlockers()[at]
			}
		}
		return blocker != nil
	})
	if !op.Is("RUNNING") {
		t.Errorf("the operation is %s instead of waiting", op.State())
	}
	if !strings.Contains(strings.ToLower(blocker.GetKind()), "port") || !strings.Contains(blocker.GetOwner(), "compute:elsewhere") || blocker.GetAction() == "" {
		t.Errorf("the blocker does not say what it is, whose, and what to do: %v", blocker)
	}
	if text := i.Must(t, "ops", "get", op.ID()).Out; !strings.Contains(text, port) {
		t.Errorf("a person is not told of the port: %s", text)
	}
	if r := i.Must(t, "describe", "stack", "lan"); !strings.Contains(r.Out, "lan") {
		t.Errorf("describe: %s", r.Out)
	}
	somebody.Do(http.MethodDelete, "/network/v2.0/ports/"+port, nil, nil)
	(<-destroying).Ended(t, "DONE")
	i.NothingLeft(t, nothing)
}

// destroyOf waits until an operation destroys a stack, and gives it.
func destroyOf(t *testing.T, i *story.Installation, stack string) *story.Operation {
	t.Helper()
	return operationOf(t, i, stack, "ACTION_DESTROY")
}
