package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// TestRepairedByPolicy takes objects of a stack away whose document wants it to be repaired: what can be made anew is, without
// a word; what holds data, and what is too much at once, waits for a person, who is told why.
func TestRepairedByPolicy(t *testing.T) {
	t.Parallel()
	i := story.Start(t, "--observe-every", observeEvery.String())
	i.Cloud.Hurry(t)
	nothing := i.Cloud.Inventory(t)
	document := strings.Replace(stackOf("drift", routed+`  group: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: "80"}]}}
  data: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}
`), "resources:", "drift: {repair: RECREATE}\nresources:", 1)
	i.Apply(t, document, "DONE")
	h := &hands{Foreign: i.Cloud.Foreign(t, "demo"), i: i, stack: "drift"}

	lost := h.standing(t, "group")
	h.drop(neutron + "security-groups/" + lost)
	story.Await(t, "the group stands again", func() bool {
		_, stands := i.Cloud.Inventory(t).Find("network.security_group", "drift.group")
		return stands && h.standing(t, "group") != lost
	})
	story.Await(t, "the stack is as its document says", func() bool {
		return i.Stack(t, "drift").GetState().String() == "STACK_STATE_READY" && len(i.Plan(t, document).GetChanges()) == 0
	})

	volume := h.standing(t, "data")
	h.drop("/volume/v3/" + h.project(t) + "/volumes/" + volume)
	awaitDrift(t, i, "data", kindv1.DriftType_DRIFT_TYPE_MISSING)
	h.heldBecause(t, "data holds data")
	i.Must(t, "repair", "drift", "--wait", "-o", "json").Ended(t, "DONE")

	h.Do(http.MethodPut, neutron+"routers/"+h.standing(t, "router")+"/remove_router_interface", object{"subnet_id": h.standing(t, "subnet")}, nil)
	i.Apply(t, strings.Replace(document, "RECREATE", "NONE", 1), "DONE") // so that they go at once for who looks
	for _, path := range []string{"routers/" + h.standing(t, "router"), "subnets/" + h.standing(t, "subnet"), "networks/" + h.standing(t, "net")} {
		h.drop(neutron + path)
	}
	for _, local := range []string{"router", "subnet", "net"} {
		awaitDrift(t, i, local, kindv1.DriftType_DRIFT_TYPE_MISSING)
	}
	i.Apply(t, document, "DONE")
	h.heldBecause(t, "3 of 5 objects drifted")
	i.Must(t, "repair", "drift", "--wait", "-o", "json").Ended(t, "DONE")
	i.Destroy(t, "drift", "DONE")
	i.NothingLeft(t, nothing)
}

// heldBecause looks that the stack tells why it is not repaired, and that nothing is begun for two intervals.
func (h *hands) heldBecause(t *testing.T, why string) {
	t.Helper()
	before := h.i.Stack(t, "drift")
	if !strings.Contains(before.GetRepairHeld(), why) {
		t.Errorf("it is held because %q, want %q", before.GetRepairHeld(), why)
	}
	if text := h.i.Must(t, "describe", "stack", "drift").Out; !strings.Contains(text, "it is not repaired by itself") {
		t.Errorf("describe does not tell that it is held:\n%s", text)
	}
	seen := h.i.Cloud.Last(t)
	h.i.Cloud.AwaitCall(t, seen, http.MethodGet, "/networks") // a round has begun
	h.i.Cloud.AwaitCall(t, h.i.Cloud.Last(t), http.MethodGet, "/networks")
	if after := h.i.Stack(t, "drift"); after.GetOperation() != before.GetOperation() {
		t.Errorf("%s was begun all the same", after.GetOperation())
	}
}
