package openstack

import (
	"context"
	"net/netip"
	"net/url"
	"slices"
	"strconv"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/routers"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

type router struct {
	base
	Name    string `json:"name"`
	Gateway *struct {
		NetworkID string `json:"network_id"`
		FixedIPs  []struct {
			IPAddress string `json:"ip_address"`
		} `json:"external_fixed_ips"`
	} `json:"external_gateway_info"`
	Routes []struct {
		Destination string `json:"destination"`
	} `json:"routes"`
}

// Routers is the driver of Router. A router is made with its gateway; its interfaces are calls of their own and belong
// to Update, so that nothing can fail in Create once the router exists.
type Routers struct{ objects[router] }

// NewRouters makes the driver.
func NewRouters(s *cloud.Session) *Routers {
	return &Routers{objects[router]{s: s, path: "routers", field: "routers"}}
}

// NeedsUpdate implements driver.TwoStep.
func (d *Routers) NeedsUpdate() bool { return true }

// Find implements driver.Driver.
func (d *Routers) Find(ctx context.Context, r driver.Request[*networkv1.RouterSpec]) ([]string, error) {
	return d.find(ctx, r.Key, r.Name)
}

// Create implements driver.Driver.
func (d *Routers) Create(ctx context.Context, r driver.Request[*networkv1.RouterSpec]) (string, error) {
	c, err := d.client(ctx)
	if err != nil {
		return "", err
	}
	opts := routers.CreateOpts{Name: cloud.LastPart(r.Name), Description: cloud.Description(r.Key, r.Name)}
	if ref := r.Spec.GetExternalNetwork(); ref != "" {
		external, err := d.s.ExternalNetwork(ctx, "spec.externalNetwork", ref, false)
		if err != nil {
			return "", err
		}
		opts.GatewayInfo = &routers.GatewayInfo{NetworkID: external.ID}
	}
	id, err := d.created(ctx, routers.Create(ctx, c, opts).Result, "router")
	return id, cloud.Fault(err, "create router %s", r.Name)
}

// Told implements driver.Teller. An interface that Update adds changes nothing of what is observed of the router.
func (d *Routers) Told(ctx context.Context, id string) (driver.Observation[*networkv1.RouterObserved], bool) {
	r, ok := d.told(ctx, id)
	return r.observation(), ok
}

// Observe implements driver.Driver.
func (d *Routers) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[*networkv1.RouterObserved], error) {
	all, err := d.byIDs(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := make(map[string]driver.Observation[*networkv1.RouterObserved], len(all))
	for id, r := range all {
		out[id] = r.observation()
	}
	return out, nil
}

func (r router) observation() driver.Observation[*networkv1.RouterObserved] {
	state, why := stateOf(r.Status, "router", r.ID)
	seen := &networkv1.RouterObserved{RouterId: r.ID}
	if r.Gateway != nil && len(r.Gateway.FixedIPs) > 0 {
		seen.ExternalAddress = r.Gateway.FixedIPs[0].IPAddress
	}
	return driver.Observation[*networkv1.RouterObserved]{State: state, Fault: why, Observed: seen}
}

// Update implements driver.Driver: the gateway, then the interfaces that are too many, then those that are missing. Subnets
// that somebody else has attached stay.
func (d *Routers) Update(ctx context.Context, id string, r driver.Request[*networkv1.RouterSpec]) error {
	wanted, err := subnetRefs(r.Refs, r.Spec.GetSubnets())
	if err != nil {
		return err
	}
	c, err := d.client(ctx)
	if err != nil {
		return err
	}
	if err := d.updateGateway(ctx, c, id, r); err != nil {
		return err
	}
	var standing []port
	if _, fresh := d.told(ctx, id); !fresh { // a router that was made in this look has no interface (API reference, "Create router")
		if standing, err = d.interfaces(ctx, id); err != nil {
			return err
		}
	}
	others, err := d.strangers(ctx, standing)
	if err != nil {
		return err
	}
	for _, p := range standing {
		if _, strange := others[p.ID]; strange {
			continue
		}
		if !slices.ContainsFunc(p.FixedIPs, func(f fixedIP) bool { return slices.Contains(wanted, f.SubnetID) }) {
			if err := detach(ctx, c, id, p); err != nil {
				return err
			}
		}
	}
	for _, subnetID := range wanted {
		if slices.ContainsFunc(standing, func(p port) bool { return p.on(subnetID) }) {
			continue
		}
		if _, err := routers.AddInterface(ctx, c, id, routers.AddInterfaceOpts{SubnetID: subnetID}).Extract(); err != nil {
			return cloud.Fault(err, "attach subnet %s to router %s", subnetID, r.Name)
		}
	}
	return nil
}

// updateGateway brings the gateway to the spec.
func (d *Routers) updateGateway(ctx context.Context, c *gophercloud.ServiceClient, id string, r driver.Request[*networkv1.RouterSpec]) error {
	standing, err := d.one(ctx, id)
	if err != nil {
		return err
	}
	current, wanted := "", ""
	if standing.Gateway != nil {
		current = standing.Gateway.NetworkID
	}
	if ref := r.Spec.GetExternalNetwork(); ref != "" {
		external, err := d.s.ExternalNetwork(ctx, "spec.externalNetwork", ref, false)
		if err != nil {
			return err
		}
		wanted = external.ID
	}
	if current == wanted {
		return nil
	}
	d.forget(ctx, id)
	_, err = routers.Update(ctx, c, id, routers.UpdateOpts{GatewayInfo: &routers.GatewayInfo{NetworkID: wanted}}).Extract()
	return cloud.Fault(err, "set the external network of router %s", r.Name)
}

// interfaces lists the ports by which a router joins subnets.
func (d *Routers) interfaces(ctx context.Context, id string) ([]port, error) {
	all, err := ports(d.s).list(ctx, url.Values{"device_id": {id}})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(p port) bool { return !isRouterInterface(p.DeviceOwner) }), nil
}

// detach takes one interface off a router; one that is gone is as wanted.
func detach(ctx context.Context, c *gophercloud.ServiceClient, id string, p port) error {
	_, err := routers.RemoveInterface(ctx, c, id, routers.RemoveInterfaceOpts{PortID: p.ID}).Extract()
	err = cloud.Fault(err, "detach port %s from router %s", p.ID, id)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// Delete implements driver.Driver: the interfaces go first, since the cloud refuses to delete a router that has some. The
// error is Precondition if one of them is somebody else's.
func (d *Routers) Delete(ctx context.Context, id string) error {
	c, err := d.client(ctx)
	if err != nil {
		return err
	}
	standing, err := d.interfaces(ctx, id)
	if err != nil {
		return err
	}
	others, err := d.strangers(ctx, standing)
	if err != nil {
		return err
	}
	if err := driver.Blocked(d.strangerBlockers(id, standing, others)); err != nil {
		return fault.Wrap(err, "delete router %s", id)
	}
	for _, p := range standing {
		if err := detach(ctx, c, id, p); err != nil {
			return err
		}
	}
	return gone(routers.Delete(ctx, c, id).ExtractErr(), "router", id)
}

// Blockers implements driver.Blockable: the subnets of others that are attached, and the floating IPs that need the router.
func (d *Routers) Blockers(ctx context.Context, id string) ([]*kindv1.Blocker, error) {
	standing, err := d.interfaces(ctx, id)
	if err != nil {
		return nil, err
	}
	others, err := d.strangers(ctx, standing)
	if err != nil {
		return nil, err
	}
	all, err := NewFloatingIPs(d.s).list(ctx, url.Values{"router_id": {id}})
	if err != nil {
		return nil, err
	}
	out := d.strangerBlockers(id, standing, others)
	for _, f := range all {
		out = append(out, f.blocker(d.s))
	}
	return out, nil
}

// subnetRefs gives the ids of the subnets that a spec refers to.
func subnetRefs(refs driver.Refs, names []string) ([]string, error) {
	ids := make([]string, 0, len(names))
	for i, name := range names {
		id, err := cloud.Ref(refs, "spec.subnets["+strconv.Itoa(i)+"]", name, func(s *networkv1.Subnet) string { return s.GetObserved().GetSubnetId() })
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// Check implements driver.Checker: an external network that exists, subnets whose ranges do not overlap, and the quota.
func (d *Routers) Check(ctx context.Context, items []driver.Item[*networkv1.RouterSpec]) ([]driver.Finding, []driver.QuotaUse, error) {
	var findings []driver.Finding
	var interfaces int64
	for _, i := range items {
		if i.Spec == nil {
			continue
		}
		if ref := i.Spec.GetExternalNetwork(); ref != "" {
			if err := d.s.Outside(ctx); err != nil {
				return nil, nil, err
			}
			_, err := d.s.ExternalNetwork(ctx, "spec.externalNetwork", ref, false)
			if err != nil && !fault.Is(err, fault.Invalid) {
				return nil, nil, err
			}
			if err != nil {
				findings = append(findings, driver.Finding{Name: i.Name, Field: "spec.externalNetwork", Fault: err})
			}
		}
		findings = append(findings, checkJoined(i)...)
		interfaces += int64(len(i.Spec.GetSubnets()) - len(i.Former.GetSubnets()))
	}
	uses, err := quotaUses(ctx, d.s, map[string]int64{"router": made(items), "port": max(interfaces, 0)})
	return findings, uses, err
}

// checkJoined compares the ranges of the subnets that a router joins, as far as they are known.
func checkJoined(i driver.Item[*networkv1.RouterSpec]) []driver.Finding {
	var findings []driver.Finding
	var seen []placed
	for at, name := range i.Spec.GetSubnets() {
		s, ok := i.Planned[name].(*networkv1.Subnet)
		if !ok {
			s, ok = i.Refs[name].(*networkv1.Subnet)
		}
		p, err := netip.ParsePrefix(s.GetSpec().GetCidr())
		if !ok || err != nil {
			continue // what is not known yet, or wrong by itself, is reported where it stands
		}
		if text := overlapping(p.Masked(), seen); text != "" {
			field := "spec.subnets[" + strconv.Itoa(at) + "]"
			findings = append(findings, driver.Finding{Name: i.Name, Field: field, Fault: fault.InField(field, "subnet %s cannot join the router: %s", name, text)})
		}
		seen = append(seen, placed{p.Masked(), name})
	}
	return findings
}
