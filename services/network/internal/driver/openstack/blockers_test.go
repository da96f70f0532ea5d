package openstack

import (
	"context"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/floatingips"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/portforwarding"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/routers"
	neutron "github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"

	"github.com/weftcloud/weft/pkg/cloud/openstack/openstacktest"
)

// deletable is what a test of blockers needs of a driver.
type deletable interface {
	driver.Blockable
	Delete(ctx context.Context, id string) error
}

// held is one object that cannot be deleted, and what holds it.
type held struct {
	d  deletable
	id string
	// refusal is the kind of fault that a deletion ends in.
	refusal fault.Kind
	want    want
}

// want is what is to be told of a blocker: texts that owner and action must hold.
type want struct {
	kind, id      string
	owner, action []string
}

// blocked checks that a deletion is refused, that it names who holds the object, and that it is refused no more after
// free.
func (h held) blocked(t *testing.T, p *openstacktest.Place) {
	t.Helper()
	if err := h.d.Delete(t.Context(), h.id); !fault.Is(err, h.refusal) {
		t.Fatalf("delete while it is held = %v (%s), want %s", err, fault.KindOf(err), h.refusal)
	}
	found, err := h.d.Blockers(t.Context(), h.id)
	if err != nil || len(found) != 1 {
		t.Fatalf("blockers = %v, %v; want one", found, err)
	}
	told(t, found[0], h.want)
}

func told(t *testing.T, b *kindv1.Blocker, w want) {
	t.Helper()
	if b.GetKind() != w.kind || b.GetId() != w.id {
		t.Errorf("blocker %s %s, want %s %s", b.GetKind(), b.GetId(), w.kind, w.id)
	}
	for _, text := range w.owner {
		if !strings.Contains(b.GetOwner(), text) {
			t.Errorf("its owner is told as %q, want %q in it", b.GetOwner(), text)
		}
	}
	for _, text := range w.action {
		if !strings.Contains(b.GetAction(), text) {
			t.Errorf("the action is %q, want %q in it", b.GetAction(), text)
		}
	}
}

// goes checks that an object is deleted now, within the time that a cloud takes to tidy up.
func (h held) goes(t *testing.T, p *openstacktest.Place) {
	t.Helper()
	p.Await(t, "the deletion goes on", func() (bool, error) {
		err := h.d.Delete(t.Context(), h.id)
		if fault.Is(err, fault.Conflict) || fault.Is(err, fault.Precondition) {
			return false, nil
		}
		return err == nil, err
	})
	if found, err := h.d.Blockers(t.Context(), h.id); err != nil || len(found) > 0 {
		t.Errorf("blockers of what is gone = %v, %v", found, err)
	}
}

func neutronOf(t *testing.T, p *openstacktest.Place) *gophercloud.ServiceClient {
	t.Helper()
	c, err := p.Session.Network(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestForeignPortIsNamedAsBlocker: a port that somebody made holds the network and the subnet.
func TestForeignPortIsNamedAsBlocker(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		n, s := p.Network(t, "10.95.0.0/24")
		id, _ := p.PortAs(t, neutron.CreateOpts{Name: "theirs", NetworkID: n.GetObserved().GetNetworkId(), DeviceOwner: "their:tool", DeviceID: "gadget-7"})
		w := want{kind: "port", id: id, owner: []string{"theirs", "this project", "their:tool gadget-7"}, action: []string{"their:tool gadget-7"}}
		subnet := held{NewSubnets(p.Session), s.GetObserved().GetSubnetId(), fault.Conflict, w}
		network := held{NewNetworks(p.Session), n.GetObserved().GetNetworkId(), fault.Conflict, w}
		subnet.blocked(t, p)
		network.blocked(t, p)
		mustDo(t, neutron.Delete(t.Context(), neutronOf(t, p), id).ExtractErr())
		subnet.goes(t, p)
		network.goes(t, p)
	})
}

// TestForeignServerIsNamedAsBlocker: a server that somebody put on the network is told as the server, not as a port.
func TestForeignServerIsNamedAsBlocker(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		n, s := p.Network(t, "10.99.0.0/24")
		server := p.Server(t, n).GetObserved().GetServerId()
		w := want{kind: "server", id: server, owner: []string{"conform", "this project", "by port "}, action: []string{"delete server " + server, "detach port "}}
		subnet := held{NewSubnets(p.Session), s.GetObserved().GetSubnetId(), fault.Conflict, w}
		network := held{NewNetworks(p.Session), n.GetObserved().GetNetworkId(), fault.Conflict, w}
		subnet.blocked(t, p)
		network.blocked(t, p)
		c, err := p.Session.Compute(t.Context())
		mustDo(t, err)
		mustDo(t, servers.Delete(t.Context(), c, server).ExtractErr())
		subnet.goes(t, p)
		network.goes(t, p)
	})
}

// TestForeignRouterIsNamedAsBlocker: somebody's router has joined our subnet.
func TestForeignRouterIsNamedAsBlocker(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		n, s := p.Network(t, "10.100.0.0/24")
		router, subnetID := p.Routed(t, s), s.GetObserved().GetSubnetId()
		joined, err := NewRouters(p.Session).interfaces(t.Context(), router)
		if err != nil || len(joined) != 1 {
			t.Fatalf("interfaces = %v, %v", joined, err)
		}
		w := want{kind: "router interface", id: joined[0].ID, owner: []string{router, "conform", "this project"}, action: []string{"detach subnet " + subnetID + " from router " + router}}
		subnet := held{NewSubnets(p.Session), subnetID, fault.Conflict, w}
		network := held{NewNetworks(p.Session), n.GetObserved().GetNetworkId(), fault.Conflict, w}
		subnet.blocked(t, p)
		network.blocked(t, p)
		_, err = routers.RemoveInterface(t.Context(), neutronOf(t, p), router, routers.RemoveInterfaceOpts{SubnetID: subnetID}).Extract()
		mustDo(t, err)
		subnet.goes(t, p)
		network.goes(t, p)
	})
}

// ourRouter makes a router by the driver, with a gateway, and takes it away at the end of the test.
func ourRouter(t *testing.T, p *openstacktest.Place, subnet *networkv1.Subnet) string {
	t.Helper()
	d := NewRouters(p.Session)
	external, err := p.Session.ExternalNetwork(t.Context(), "", "", false)
	mustDo(t, err)
	r := driver.Request[*networkv1.RouterSpec]{
		Key: uuid.NewString(), Name: "tenants/conform/routers/blocked",
		Spec: &networkv1.RouterSpec{ExternalNetwork: external.Name, Subnets: []string{subnet.GetName()}}, Refs: driver.Refs{subnet.GetName(): subnet},
	}
	id, err := d.Create(t.Context(), r)
	mustDo(t, err)
	t.Cleanup(func() {
		if err := d.Delete(context.Background(), id); err != nil {
			t.Errorf("router %s is left behind: %v", id, err)
		}
	})
	mustDo(t, d.Update(t.Context(), id, r))
	return id
}

// TestForeignSubnetOnOurRouter: a subnet that somebody attached to our router is not taken from them, neither when the
// router is changed nor when it is released.
func TestForeignSubnetOnOurRouter(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		_, ours := p.Network(t, "10.101.0.0/24")
		_, theirs := p.ForeignNetwork(t, "10.102.0.0/24")
		theirID, d, c := theirs.GetObserved().GetSubnetId(), NewRouters(p.Session), neutronOf(t, p)
		id := ourRouter(t, p, ours)
		added, err := routers.AddInterface(t.Context(), c, id, routers.AddInterfaceOpts{SubnetID: theirID}).Extract()
		mustDo(t, err)
		detached := false
		t.Cleanup(func() { // before the router goes
			if _, err := routers.RemoveInterface(context.Background(), c, id, routers.RemoveInterfaceOpts{SubnetID: theirID}).Extract(); err != nil && !detached {
				t.Error(err)
			}
		})
		mustDo(t, d.Update(t.Context(), id, driver.Request[*networkv1.RouterSpec]{
			Key: uuid.NewString(), Name: "tenants/conform/routers/blocked", Spec: &networkv1.RouterSpec{Subnets: []string{ours.GetName()}}, Refs: driver.Refs{ours.GetName(): ours},
		}))
		router := held{d, id, fault.Precondition, want{
			kind: "router interface", id: added.PortID, owner: []string{theirID, "conform", "this project"}, action: []string{"detach it from router " + id},
		}}
		router.blocked(t, p)
		if standing, err := d.interfaces(t.Context(), id); err != nil || len(standing) != 2 {
			t.Errorf("after the refusal the router has the interfaces %v, %v; want both", standing, err)
		}
		_, err = routers.RemoveInterface(t.Context(), c, id, routers.RemoveInterfaceOpts{SubnetID: theirID}).Extract()
		mustDo(t, err)
		detached = true
		router.goes(t, p)
	})
}

// foreignFloat makes a floating IP, as somebody else would, and leads it to a port.
func foreignFloat(t *testing.T, p *openstacktest.Place, portID string) *floatingips.FloatingIP {
	t.Helper()
	c := neutronOf(t, p)
	external, err := p.Session.ExternalNetwork(t.Context(), "", "", false)
	mustDo(t, err)
	f, err := floatingips.Create(t.Context(), c, floatingips.CreateOpts{FloatingNetworkID: external.ID, PortID: portID}).Extract()
	mustDo(t, err)
	t.Cleanup(func() {
		if err := floatingips.Delete(context.Background(), c, f.ID).ExtractErr(); err != nil && !gophercloud.ResponseCodeIs(err, 404) {
			t.Errorf("floating IP %s is left behind: %v", f.ID, err)
		}
	})
	return f
}

// TestForeignFloatingIPNeedsOurRouter: the router carries somebody's floating IP, so the cloud does not let it go.
func TestForeignFloatingIPNeedsOurRouter(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		n, s := p.Network(t, "10.103.0.0/24")
		portID, address := p.Port(t, n)
		id := ourRouter(t, p, s)
		f := foreignFloat(t, p, portID)
		router := held{NewRouters(p.Session), id, fault.Conflict, want{
			kind: "floating IP", id: f.ID, owner: []string{f.FloatingIP, "this project", "leads to " + address}, action: []string{"delete floating IP " + f.FloatingIP, "lead it nowhere"},
		}}
		router.blocked(t, p)
		mustDo(t, floatingips.Delete(t.Context(), neutronOf(t, p), f.ID).ExtractErr())
		router.goes(t, p)
	})
}

// TestFloatingIPInUse: an address of ours that somebody has led to a port of theirs is not taken from them. What leads to
// a port of ours goes.
func TestFloatingIPInUse(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		n, s := p.ForeignNetwork(t, "10.104.0.0/24")
		p.Routed(t, s)
		portID, fixed := p.Port(t, n)
		d, c := NewFloatingIPs(p.Session), neutronOf(t, p)
		id, err := d.Create(t.Context(), driver.Request[*networkv1.FloatingIPSpec]{Key: uuid.NewString(), Name: "tenants/conform/floatingIps/used", Spec: &networkv1.FloatingIPSpec{}})
		mustDo(t, err)
		t.Cleanup(func() {
			if err := floatingips.Delete(context.Background(), c, id).ExtractErr(); err != nil && !gophercloud.ResponseCodeIs(err, 404) {
				t.Errorf("floating IP %s is left behind: %v", id, err)
			}
		})
		used, err := floatingips.Update(t.Context(), c, id, floatingips.UpdateOpts{PortID: &portID}).Extract()
		mustDo(t, err)
		float := held{d, id, fault.Precondition, want{
			kind: "port", id: portID, owner: []string{"foreign", "this project"}, action: []string{used.FloatingIP, fixed},
		}}
		float.blocked(t, p)
		nowhere := ""
		_, err = floatingips.Update(t.Context(), c, id, floatingips.UpdateOpts{PortID: &nowhere}).Extract()
		mustDo(t, err)
		mapping, err := portforwarding.Create(t.Context(), c, id, portforwarding.CreateOpts{
			InternalPortID: portID, InternalIPAddress: fixed, InternalPort: 80, ExternalPort: 8080, Protocol: "tcp",
		}).Extract()
		mustDo(t, err)
		float.refusal, float.want = fault.Conflict, want{kind: "port forwarding", id: mapping.ID, owner: []string{fixed, "tcp 8080"}, action: []string{"delete port forwarding " + mapping.ID}}
		float.blocked(t, p)
		mustDo(t, portforwarding.Delete(t.Context(), c, id, mapping.ID).ExtractErr())
		float.goes(t, p)
	})
}

// TestSecurityGroupInUse: a port that somebody put into our group holds it.
func TestSecurityGroupInUse(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		n, _ := p.ForeignNetwork(t, "10.105.0.0/24")
		d := NewSecurityGroups(p.Session)
		id, err := d.Create(t.Context(), driver.Request[*networkv1.SecurityGroupSpec]{Key: uuid.NewString(), Name: "tenants/conform/securityGroups/used", Spec: &networkv1.SecurityGroupSpec{}})
		mustDo(t, err)
		t.Cleanup(func() {
			if err := d.Delete(context.Background(), id); err != nil {
				t.Errorf("security group %s is left behind: %v", id, err)
			}
		})
		portID, _ := p.PortAs(t, neutron.CreateOpts{Name: "theirs", NetworkID: n.GetObserved().GetNetworkId(), SecurityGroups: &[]string{id}})
		group := held{d, id, fault.Conflict, want{kind: "port", id: portID, owner: []string{"theirs", "this project"}, action: []string{"take security group " + id + " off port " + portID}}}
		group.blocked(t, p)
		_, err = neutron.Update(t.Context(), neutronOf(t, p), portID, neutron.UpdateOpts{SecurityGroups: &[]string{}}).Extract()
		mustDo(t, err)
		group.goes(t, p)
	})
}
