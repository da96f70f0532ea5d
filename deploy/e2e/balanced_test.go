package e2e

import (
	"path/filepath"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

// TestBalanced brings the example up: both machines are members and answer, one that the cloud has stopped is told to be
// out, and a load balancer whose provider has failed is made anew under the same public address. Nothing is left in the end.
func TestBalanced(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	before := i.Cloud.Inventory(t)
	document, err := filepath.Abs("../examples/balanced.yaml")
	if err != nil {
		t.Fatal(err)
	}
	i.Must(t, "apply", "-f", document, "--wait")
	front, address := &networkv1.LoadBalancer{}, &networkv1.FloatingIP{}
	look := func() {
		i.Must(t, "get", "loadBalancer", "balanced.front", "-o", "json").Decode(t, front)
		i.Must(t, "get", "floatingIp", "balanced.address", "-o", "json").Decode(t, address)
	}
	states := func() string {
		look()
		text := ""
		for _, m := range front.GetObserved().GetMembers() {
			text += m.GetName() + " " + m.GetOperatingStatus() + ", "
		}
		return text
	}
	story.Await(t, "both answer", func() bool { return states() == "balanced.one ONLINE, balanced.two ONLINE, " })
	public := address.GetObserved().GetAddress()
	if address.GetObserved().GetFixedAddress() != front.GetObserved().GetAddress() {
		t.Errorf("%s leads to %s, want the load balancer's %s", public, address.GetObserved().GetFixedAddress(), front.GetObserved().GetAddress())
	}

	foreign := i.Cloud.Foreign(t, "demo")
	one, ok := i.Cloud.Inventory(t).Find("compute.server", "balanced.one")
	if !ok {
		t.Fatal("there is no server balanced.one")
	}
	foreign.Do("POST", "/compute/v2.1/servers/"+one.ID+"/action", map[string]any{"os-stop": nil}, nil)
	story.Await(t, "one is out", func() bool { return states() == "balanced.one ERROR, balanced.two ONLINE, " })
	foreign.Do("POST", "/compute/v2.1/servers/"+one.ID+"/action", map[string]any{"os-start": nil}, nil)
	story.Await(t, "it is back", func() bool { return states() == "balanced.one ONLINE, balanced.two ONLINE, " })

	// Without its port the provider fails at the next change.
	former, port := front.GetObserved().GetLoadBalancerId(), front.GetObserved().GetPortId()
	foreign.Do("DELETE", "/network/v2.0/ports/"+port, nil, nil)
	foreign.Do("PUT", "/load-balancer/v2.0/lbaas/loadbalancers/"+former, map[string]any{"loadbalancer": map[string]any{"admin_state_up": true}}, nil)
	story.Await(t, "another load balancer stands, and the address leads to it", func() bool {
		look()
		return front.GetObserved().GetLoadBalancerId() != former && address.GetObserved().GetFixedAddress() == front.GetObserved().GetAddress()
	})
	if address.GetObserved().GetAddress() != public {
		t.Errorf("the public address is %s, want %s as before", address.GetObserved().GetAddress(), public)
	}
	i.Destroy(t, "balanced", "DONE")
	i.NothingLeft(t, before)
}
