package e2e

import (
	"slices"
	"strings"
	"testing"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// operationOf waits until an operation of an action works on a stack, and gives the newest.
func operationOf(t *testing.T, i *story.Installation, stack, action string) *story.Operation {
	t.Helper()
	var found *story.Operation
	story.Await(t, action+" of "+stack, func() bool {
		all := &longrunningpb.ListOperationsResponse{}
		i.Must(t, "ops", "list", "-o", "json").Decode(t, all)
		for _, long := range all.GetOperations() {
			op := &story.Operation{OperationMetadata: &orchestratorv1.OperationMetadata{}, Long: long}
			if err := long.GetMetadata().UnmarshalTo(op.OperationMetadata); err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(op.GetTarget(), "/"+stack) && op.GetAction().String() == action {
				found = op
				return true
			}
		}
		return false
	})
	return found
}

func stackOf(name, resources string) string {
	return "kind: Stack\nname: " + name + "\nplacement: {cloud: lab}\nresources:\n" + resources
}

// TestCancel cancels an apply while a server builds: it ends as cancelled, and nothing is left.
func TestCancel(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	nothing := i.Cloud.Inventory(t)
	i.Cloud.Latency(t, "compute.server.active", "30s")
	since := i.Cloud.Last(t)
	running := i.Go(t, "apply", "-f", i.Document(t, "slow.yaml", stackOf("slow", machine)), "--wait", "-o", "json")
	i.Cloud.AwaitCall(t, since, "POST", "/servers")
	op := operationOf(t, i, "slow", "ACTION_APPLY")
	i.Must(t, "ops", "cancel", op.ID(), "--wait")
	(<-running).Ended(t, "CANCELLED")
	i.NothingLeft(t, nothing)
	if r := i.Weft(t, "get", "stack", "slow").Refused(t); !strings.Contains(r.Err, "does not exist") {
		t.Errorf("the stack that was cancelled: %s", r.Err)
	}
	if r := i.Weft(t, "ops", "cancel", op.ID()).Refused(t); !strings.Contains(r.Err, "has already ended as CANCELLED") {
		t.Errorf("a second cancel: %s", r.Err)
	}
}

// TestKeepOnFailure leaves what was made when the caller asks for it, and a destroy takes it away.
func TestKeepOnFailure(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	nothing := i.Cloud.Inventory(t)
	i.Cloud.Break(t, story.Fault{Service: "compute", Method: "POST", Path: "/servers", Effect: "status", Status: 403, Message: "Quota exceeded for cores"})
	op := i.Apply(t, stackOf("kept", machine), "FAILED", "--keep-on-failure")
	if text := op.Long.GetError().GetMessage(); !strings.Contains(text, "Quota exceeded for cores") || !strings.Contains(text, "kept") {
		t.Errorf("the operation's error: %q", text)
	}
	if counts := i.Cloud.Inventory(t).Counts(); counts["network.network"] != 1 || counts["network.router"] != 1 {
		t.Errorf("what was made was not kept: %v", counts)
	}
	if s := i.Stack(t, "kept"); s.GetState() != orchestratorv1.StackState_STACK_STATE_DEGRADED {
		t.Errorf("the stack is %s", s.GetState())
	}
	i.Cloud.Mend(t)
	i.Apply(t, stackOf("kept", machine), "DONE") // the same document again goes on from there
	if counts := i.Cloud.Inventory(t).Counts(); counts["network.network"] != 1 || counts["compute.server"] != 1 {
		t.Errorf("after going on: %v", counts)
	}
	i.Destroy(t, "kept", "DONE")
	i.NothingLeft(t, nothing)
}

// stuck destroys a stack with a volume that the cloud refuses to delete, until the operation needs a hand.
func stuck(t *testing.T, i *story.Installation, name string) *story.Operation {
	t.Helper()
	i.Apply(t, stackOf(name, "  data: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}\n"+fabric), "DONE")
	i.Cloud.Break(t, story.Fault{Service: "volume", Method: "DELETE", Path: "/volumes/*", Effect: "status", Status: 403, Message: "Policy doesn't allow volume:delete"})
	op := i.Destroy(t, name, "NEEDS_HAND")
	if op.StepState("data") != "STUCK" || !strings.Contains(op.Step("data").GetFault().GetMessage(), "Policy doesn't allow volume:delete") {
		t.Errorf("the step is %s: %v", op.StepState("data"), op.Step("data").GetFault())
	}
	return op
}

// TestHand lends a hand to destroys that are stuck: try again, take as done, give up.
func TestHand(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	nothing := i.Cloud.Inventory(t)
	t.Run("retry", func(t *testing.T) {
		op := stuck(t, i, "retried")
		if r := i.Weft(t, "destroy", "retried").Refused(t); !strings.Contains(r.Err, "needs a hand") {
			t.Errorf("a second destroy of what is held: %s", r.Err)
		}
		i.Cloud.Mend(t)
		i.Must(t, "ops", "retry", op.ID(), "data")
		i.AwaitState(t, op.ID(), "DONE")
		i.NothingLeft(t, nothing)
	})
	t.Run("skip", func(t *testing.T) {
		op := stuck(t, i, "skipped")
		if r := i.Weft(t, "ops", "skip", op.ID(), "data"); r.Code != 2 {
			t.Errorf("a skip without a reason: exit code %d", r.Code)
		}
		i.Must(t, "ops", "skip", op.ID(), "data", "--reason", "the volume stays for the auditors")
		i.AwaitState(t, op.ID(), "DONE")
		left(t, i, "skipped.data")
	})
	t.Run("abandon", func(t *testing.T) {
		op := stuck(t, i, "abandoned")
		i.Must(t, "ops", "abandon", op.ID(), "--reason", "the cloud is given back")
		op = i.AwaitState(t, op.ID(), "FAILED")
		if text := op.Long.GetError().GetMessage(); !strings.Contains(text, "the cloud is given back") {
			t.Errorf("the reason is not kept: %q", text)
		}
		left(t, i, "abandoned.data")
		i.Cloud.Mend(t)
		i.Destroy(t, "abandoned", "DONE") // a person can still take it away
		if _, there := i.Cloud.Inventory(t).Find("volume.volume", "abandoned.data"); there {
			t.Error("the volume is still there")
		}
	})
}

// left fails the test unless the volume is still at the cloud and in the ledger: what exists because of us is never
// forgotten.
func left(t *testing.T, i *story.Installation, name string) {
	t.Helper()
	volume, ok := i.Cloud.Inventory(t).Find("volume.volume", name)
	if !ok {
		t.Fatalf("there is no volume %s", name)
	}
	entries := i.Ledger(t).GetEntries()
	for _, e := range entries {
		if e.GetProviderId() == volume.ID {
			return
		}
	}
	t.Errorf("the ledger forgets volume %s: %v", name, slices.Clone(entries))
}
