package e2e

import (
	"strings"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// TestPause holds an operation, then one step, then a cloud: what is under way is ended, nothing more is begun, and it goes
// on when it is let.
func TestPause(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	nothing := i.Cloud.Inventory(t)

	t.Run("an operation", func(t *testing.T) {
		slow := i.Cloud.Break(t, story.Fault{Service: "network", Method: "POST", Path: "/networks", Effect: "delay", Delay: "2s", Times: 1})
		running := i.Go(t, "apply", "-f", i.Document(t, "held.yaml", stackOf("held", fabric)), "--wait", "-o", "json")
		i.Cloud.AwaitStruck(t, slow)
		op := operationOf(t, i, "held", "ACTION_APPLY")
		if r := i.Weft(t, "ops", "pause", op.ID()); r.Code != 2 || !strings.Contains(r.Err, "--reason") {
			t.Errorf("a pause without a reason: %s", r.Err)
		}
		i.Must(t, "ops", "pause", op.ID(), "--reason", "the change window is over")
		held := i.AwaitOp(t, op.ID(), "the network is made", func(o *story.Operation) bool { return step(o, "net").GetState() == stepDone })
		if subnet := step(held, "subnet"); subnet.GetStartTime() != nil || held.GetHold().GetReason() != "the change window is over" {
			t.Errorf("while it is paused the subnet is %v, the hold %v", subnet, held.GetHold())
		}
		if text := i.Must(t, "ops", "get", op.ID()).Out; !strings.Contains(text, "paused: the change window is over") || !strings.Contains(text, "weft ops resume") {
			t.Errorf("it does not say that it is paused:\n%s", text)
		}
		i.Must(t, "ops", "resume", op.ID())
		(<-running).Ended(t, "DONE")
		i.Destroy(t, "held", "DONE")
		i.NothingLeft(t, nothing)
	})

	t.Run("a cloud", func(t *testing.T) {
		i.Must(t, "cloud", "pause", "lab", "--reason", "its storage is being moved")
		since := i.Cloud.Last(t)
		running := i.Go(t, "apply", "-f", i.Document(t, "later.yaml", stackOf("later", fabric)), "--wait", "-o", "json")
		op := operationOf(t, i, "later", "ACTION_APPLY")
		held := i.AwaitOp(t, op.ID(), "it is held", func(o *story.Operation) bool { return len(o.GetHeldClouds()) == 1 })
		if held.GetHeldClouds()[0] != "clouds/lab" {
			t.Errorf("held at %v", held.GetHeldClouds())
		}
		if calls := i.Cloud.Mutations(t, since); len(calls) > 0 {
			t.Errorf("calls at a paused cloud: %v", calls)
		}
		i.Must(t, "cloud", "resume", "lab")
		(<-running).Ended(t, "DONE")
		i.Destroy(t, "later", "DONE")
		i.NothingLeft(t, nothing)
	})
}

const stepDone = orchestratorv1.StepState_STEP_STATE_DONE

// step gives a step of an operation; nil if there is none of the name.
func step(o *story.Operation, id string) *orchestratorv1.StepStatus {
	for _, s := range o.GetSteps() {
		if s.GetId() == id {
			return s
		}
	}
	return nil
}

// TestBusy applies to a stack that is being worked on: the second is refused, waits, or supersedes the first, as it asks.
func TestBusy(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	nothing := i.Cloud.Inventory(t)
	i.Cloud.Latency(t, "compute.server.active", "4s")
	since := i.Cloud.Last(t)
	first := i.Go(t, "apply", "-f", i.Document(t, "busy.yaml", stackOf("busy", machine)), "--wait", "-o", "json")
	i.Cloud.AwaitCall(t, since, "POST", "/servers")
	changed := i.Document(t, "changed.yaml", stackOf("busy", machine+"  more: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}\n"))
	if r := i.Weft(t, "apply", "-f", changed, "--if-busy", "refuse").Refused(t); !strings.Contains(r.Err, "is being worked on by") {
		t.Errorf("a second apply: %s", r.Err)
	}
	if r := i.Weft(t, "apply", "-f", changed, "--if-busy", "perhaps"); r.Code != 2 || !strings.Contains(r.Err, "give wait, refuse or supersede") {
		t.Errorf("a wrong flag: %s", r.Err)
	}
	second := i.Go(t, "apply", "-f", changed, "--wait", "-o", "json") // it waits
	(<-first).Ended(t, "DONE")
	op := (<-second).Ended(t, "DONE")
	if n := len(op.GetSteps()); n != 1 {
		t.Errorf("the second apply has %d steps, want one for what it adds to the first", n)
	}
	i.Destroy(t, "busy", "DONE")
	i.NothingLeft(t, nothing)

	since = i.Cloud.Last(t)
	i.Cloud.Latency(t, "compute.server.active", "60s")
	first = i.Go(t, "apply", "-f", i.Document(t, "busy.yaml", stackOf("busy", machine)), "--wait", "-o", "json")
	i.Cloud.AwaitCall(t, since, "POST", "/servers")
	i.Cloud.Latency(t, "compute.server.active", "1s")
	second = i.Go(t, "apply", "-f", i.Document(t, "other.yaml", stackOf("busy", fabric)), "--if-busy", "supersede", "--wait", "-o", "json")
	(<-first).Ended(t, "CANCELLED")
	(<-second).Ended(t, "DONE")
	if counts := i.Cloud.Inventory(t).Counts(); counts["compute.server"] != 0 || counts["network.network"] != 1 {
		t.Errorf("after the second: %v", counts)
	}
	i.Destroy(t, "busy", "DONE", "--if-busy", "refuse")
	i.NothingLeft(t, nothing)
}
