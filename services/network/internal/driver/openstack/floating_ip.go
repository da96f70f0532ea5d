package openstack

import (
	"context"
	"net/url"

	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/floatingips"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

type floatingIP struct {
	base
	Address      string `json:"floating_ip_address"`
	FixedAddress string `json:"fixed_ip_address"`
	PortID       string `json:"port_id"`
	NetworkID    string `json:"floating_network_id"`
}

// FloatingIPs is the driver of FloatingIP.
type FloatingIPs struct{ objects[floatingIP] }

// NewFloatingIPs makes the driver.
func NewFloatingIPs(s *cloud.Session) *FloatingIPs {
	return &FloatingIPs{objects[floatingIP]{s: s, path: "floatingips", field: "floatingips"}}
}

// Find implements driver.Driver.
func (d *FloatingIPs) Find(ctx context.Context, r driver.Request[*networkv1.FloatingIPSpec]) ([]string, error) {
	return d.find(ctx, r.Key, r.Name)
}

// Create implements driver.Driver: the address is taken and led to the server in one call.
func (d *FloatingIPs) Create(ctx context.Context, r driver.Request[*networkv1.FloatingIPSpec]) (string, error) {
	external, err := d.s.ExternalNetwork(ctx, "spec.externalNetwork", r.Spec.GetExternalNetwork(), false)
	if err != nil {
		return "", err
	}
	portID, err := d.portOf(ctx, r, external.ID)
	if err != nil {
		return "", err
	}
	c, err := d.client(ctx)
	if err != nil {
		return "", err
	}
	id, err := d.created(ctx, floatingips.Create(ctx, c, floatingips.CreateOpts{
		FloatingNetworkID: external.ID, PortID: portID, Description: cloud.Description(r.Key, r.Name),
	}).Result, "floatingip")
	return id, cloud.Fault(err, "create floating IP %s", r.Name)
}

// Told implements driver.Teller.
func (d *FloatingIPs) Told(ctx context.Context, id string) (driver.Observation[*networkv1.FloatingIPObserved], bool) {
	f, ok := d.told(ctx, id)
	return f.observation(), ok
}

// portOf gives the port that the address leads to; empty if it leads nowhere.
func (d *FloatingIPs) portOf(ctx context.Context, r driver.Request[*networkv1.FloatingIPSpec], externalID string) (string, error) {
	field, name := "spec.server", r.Spec.GetServer()
	if name == "" {
		field, name = "spec.target", r.Spec.GetTarget()
	}
	if name == "" {
		return "", nil
	}
	switch target := r.Refs[name].(type) {
	case *computev1.Server:
		return d.portOfServer(ctx, target, field, externalID)
	case *networkv1.LoadBalancer:
		return cloud.Ref(r.Refs, field, name, func(l *networkv1.LoadBalancer) string { return l.GetObserved().GetPortId() })
	case nil:
		return "", &fault.Error{Kind: fault.Precondition, Field: field, Message: name + " does not exist yet"}
	default:
		return "", &fault.Error{Kind: fault.Unsupported, Field: field, Message: "a floating IP cannot lead to " + name}
	}
}

// portOfServer gives the port that a server is reached by: of several interfaces it is the first on a network that has a
// router to the external network.
func (d *FloatingIPs) portOfServer(ctx context.Context, server *computev1.Server, field, externalID string) (string, error) {
	interfaces := server.GetObserved().GetInterfaces()
	if len(interfaces) == 0 {
		return "", &fault.Error{Kind: fault.Precondition, Field: field, Message: server.GetName() + " does not exist at the cloud yet"}
	}
	if len(interfaces) == 1 {
		return interfaces[0].GetPortId(), nil
	}
	reached, err := d.networksRoutedTo(ctx, externalID)
	if err != nil {
		return "", err
	}
	for _, i := range interfaces {
		if reached[i.GetNetworkId()] {
			return i.GetPortId(), nil
		}
	}
	return "", &fault.Error{Kind: fault.Precondition, Field: field, Message: "none of the networks of " + server.GetName() + " has a router to the external network"}
}

// networksRoutedTo gives the networks that have a router whose gateway is on an external network.
func (d *FloatingIPs) networksRoutedTo(ctx context.Context, externalID string) (map[string]bool, error) {
	all, err := NewRouters(d.s).list(ctx, url.Values{})
	if err != nil {
		return nil, err
	}
	outward := map[string]bool{}
	for _, r := range all {
		if r.Gateway != nil && r.Gateway.NetworkID == externalID {
			outward[r.ID] = true
		}
	}
	joined, err := ports(d.s).list(ctx, url.Values{"device_owner": {"network:router_interface", "network:router_interface_distributed", "network:ha_router_replicated_interface"}})
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, p := range joined {
		if outward[p.DeviceID] {
			out[p.NetworkID] = true
		}
	}
	return out, nil
}

// Follows implements driver.Follower: a load balancer that is made anew has another port.
func (d *FloatingIPs) Follows(r driver.Request[*networkv1.FloatingIPSpec]) string {
	if l, ok := r.Refs[r.Spec.GetTarget()].(*networkv1.LoadBalancer); ok {
		return l.GetObserved().GetPortId()
	}
	return ""
}

// Observe implements driver.Driver. The status is not asked whether the address works: DOWN is also an address whose
// server is stopped.
func (d *FloatingIPs) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[*networkv1.FloatingIPObserved], error) {
	all, err := d.byIDs(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := make(map[string]driver.Observation[*networkv1.FloatingIPObserved], len(all))
	for id, f := range all {
		out[id] = f.observation()
	}
	return out, nil
}

func (f floatingIP) observation() driver.Observation[*networkv1.FloatingIPObserved] {
	state, why := stateOf(f.Status, "floating IP", f.ID)
	return driver.Observation[*networkv1.FloatingIPObserved]{
		State: state, Fault: why,
		Observed: &networkv1.FloatingIPObserved{FloatingIpId: f.ID, Address: f.Address, FixedAddress: f.FixedAddress},
	}
}

// Update implements driver.Driver: the address is led elsewhere in one call, whatever it led to.
func (d *FloatingIPs) Update(ctx context.Context, id string, r driver.Request[*networkv1.FloatingIPSpec]) error {
	standing, err := d.one(ctx, id)
	if err != nil {
		return err
	}
	portID, err := d.portOf(ctx, r, standing.NetworkID)
	if err != nil || portID == standing.PortID {
		return err
	}
	c, err := d.client(ctx)
	if err != nil {
		return err
	}
	d.forget(ctx, id)
	_, err = floatingips.Update(ctx, c, id, floatingips.UpdateOpts{PortID: &portID}).Extract()
	return cloud.Fault(err, "lead floating IP %s to port %q", r.Name, portID)
}

// Delete implements driver.Driver. The error is Precondition if somebody has led the address to something that is not
// Weft's: the cloud would take it from them without a word.
func (d *FloatingIPs) Delete(ctx context.Context, id string) error {
	strange, err := d.strange(ctx, id)
	if err != nil {
		return err
	}
	if err := driver.Blocked(strange); err != nil {
		return fault.Wrap(err, "delete floating IP %s", id)
	}
	c, err := d.client(ctx)
	if err != nil {
		return err
	}
	return gone(floatingips.Delete(ctx, c, id).ExtractErr(), "floating IP", id)
}

// Blockers implements driver.Blockable: what the address leads to that is not Weft's, and the port mappings on it.
func (d *FloatingIPs) Blockers(ctx context.Context, id string) ([]*kindv1.Blocker, error) {
	strange, err := d.strange(ctx, id)
	if err != nil {
		return nil, err
	}
	c, err := d.client(ctx)
	if err != nil {
		return nil, err
	}
	mappings, err := cloud.List[mapping](ctx, c, "floatingips/"+id+"/port_forwardings", "port_forwardings", nil)
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Unsupported) {
		return append([]*kindv1.Blocker{}, strange...), nil // neither the address nor the extension need exist
	}
	if err != nil {
		return nil, err
	}
	out := append([]*kindv1.Blocker{}, strange...)
	for _, m := range mappings {
		out = append(out, m.blocker(d.s, id))
	}
	return out, nil
}

// Check implements driver.Checker: an external network to take the address from, and the quota.
func (d *FloatingIPs) Check(ctx context.Context, items []driver.Item[*networkv1.FloatingIPSpec]) ([]driver.Finding, []driver.QuotaUse, error) {
	var findings []driver.Finding
	for _, i := range items {
		if i.Spec == nil {
			continue
		}
		if err := d.s.Outside(ctx); err != nil {
			return nil, nil, err
		}
		_, err := d.s.ExternalNetwork(ctx, "spec.externalNetwork", i.Spec.GetExternalNetwork(), false)
		if err != nil && !fault.Is(err, fault.Invalid) {
			return nil, nil, err
		}
		if err != nil {
			findings = append(findings, driver.Finding{Name: i.Name, Field: "spec.externalNetwork", Fault: err})
		}
	}
	uses, err := quotaUses(ctx, d.s, map[string]int64{"floatingip": made(items)})
	return findings, uses, err
}
