package openstack

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

// TestToldByAnswers: what the service has made when it answers is not asked for again, neither to be brought to its spec nor
// to be observed. That it is told as it is observed is held by the suite.
func TestToldByAnswers(t *testing.T) {
	p := simulated(t)
	external, err := p.Session.ExternalNetwork(t.Context(), "", "", false)
	if err != nil {
		t.Fatal(err)
	}
	network, joined := p.Network(t, "10.94.0.0/24")
	refs := driver.Refs{network.GetName(): network, joined.GetName(): joined}
	for name, c := range map[string]struct {
		driver driver.Any
		spec   proto.Message
		calls  int64
	}{
		"network":     {driver.Erase(NewNetworks(p.Session)), &networkv1.NetworkSpec{Mtu: 1400}, 1},
		"subnet":      {driver.Erase(NewSubnets(p.Session)), &networkv1.SubnetSpec{Network: network.GetName(), Cidr: "10.95.0.0/24"}, 1},
		"router":      {driver.Erase(NewRouters(p.Session)), &networkv1.RouterSpec{ExternalNetwork: external.Name, Subnets: []string{joined.GetName()}}, 2},
		"bare router": {driver.Erase(NewRouters(p.Session)), &networkv1.RouterSpec{}, 1},
		"group":       {driver.Erase(NewSecurityGroups(p.Session)), &networkv1.SecurityGroupSpec{Rules: []*networkv1.SecurityGroupRule{{Protocol: networkv1.Protocol_PROTOCOL_TCP, Ports: "80"}}}, 2},
		"bare group":  {driver.Erase(NewSecurityGroups(p.Session)), &networkv1.SecurityGroupSpec{}, 1},
		"floating IP": {driver.Erase(NewFloatingIPs(p.Session)), &networkv1.FloatingIPSpec{ExternalNetwork: external.Name}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			before := p.Calls()
			look := driver.Remembering(t.Context())
			r := driver.Request[proto.Message]{Key: "k-" + name, Name: "tenants/told/networks/a", Generation: 1, Spec: c.spec, Refs: refs}
			id, err := c.driver.Create(look, r)
			if err != nil {
				t.Fatal(err)
			}
			if c.driver.NeedsUpdate() {
				if err := c.driver.Update(look, id, r); err != nil {
					t.Fatal(err)
				}
			}
			teller, ok := c.driver.Teller()
			if !ok {
				t.Fatal("it does not tell")
			}
			if o, ok := teller.Told(look, id); !ok || o.State != driver.Ready {
				t.Errorf("told %v, %v; want that it is ready", o, ok)
			}
			if n := p.Calls() - before; n != c.calls {
				t.Errorf("%d calls, want %d", n, c.calls)
			}
			if err := c.driver.Delete(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			if err := c.driver.Update(t.Context(), id, r); !fault.Is(err, fault.NotFound) {
				t.Errorf("update in another look, when it is gone: %v, want NotFound", err)
			}
		})
	}
}
