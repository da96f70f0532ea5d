package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
)

// TestSweep forgets a network that somebody's port holds: it is an orphan then, listed, and swept once the port is gone.
// What looks like ours and is not stays.
func TestSweep(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	somebody := i.Cloud.Foreign(t, "demo")
	similar := somebody.Network("sweep.net")
	somebody.Do(http.MethodPut, neutron+"networks/"+similar, object{"network": object{ // as another installation marks it
		"description": "weft key=01900000-0000-7000-8000-00000000abcd name=tenants/default/networks/sweep.net",
	}}, nil)
	nothing := i.Cloud.Inventory(t)
	i.Apply(t, stackOf("sweep", fabric), "DONE")
	h := &hands{Foreign: somebody, i: i, stack: "sweep"}
	network := h.standing(t, "net")
	port := somebody.Port(network, "their:tool")
	i.Go(t, "destroy", "sweep", "--timeout", "5s", "--wait", "-o", "json")
	op := operationOf(t, i, "sweep", "ACTION_DESTROY")
	for range 2 { // the subnet is held, and then the network
		stuck := i.AwaitState(t, op.ID(), "NEEDS_HAND")
		for _, s := range stuck.GetSteps() {
			if strings.HasSuffix(s.GetState().String(), "_STUCK") {
				i.Must(t, "ops", "skip", op.ID(), s.GetId(), "--reason", "somebody's port holds it")
			}
		}
	}
	i.AwaitState(t, op.ID(), "DONE")
	if text := i.Must(t, "ledger", "--orphans").Out; !strings.Contains(text, network) || strings.Contains(text, similar) {
		t.Errorf("the ledger is\n%s", text)
	}
	if r := i.Weft(t, "sweep"); r.Code != 2 || !strings.Contains(r.Err, "--yes") || !strings.Contains(r.Err, network) {
		t.Errorf("a sweep that nobody said yes to: %d\n%s", r.Code, r.Err)
	}
	h.drop(neutron + "ports/" + port)
	i.Must(t, "sweep", "--yes")
	i.NothingLeft(t, nothing)
}
