package openstack

import (
	"context"
	"net/url"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/mtu"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"

	"github.com/weftcloud/weft/pkg/driver"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

type network struct {
	base
	MTU int `json:"mtu"`
}

// Networks is the driver of Network.
type Networks struct{ objects[network] }

// NewNetworks makes the driver.
func NewNetworks(s *cloud.Session) *Networks {
	return &Networks{objects[network]{s: s, path: "networks", field: "networks"}}
}

// Find implements driver.Driver.
func (d *Networks) Find(ctx context.Context, r driver.Request[*networkv1.NetworkSpec]) ([]string, error) {
	return d.find(ctx, r.Key, r.Name)
}

// Create implements driver.Driver.
func (d *Networks) Create(ctx context.Context, r driver.Request[*networkv1.NetworkSpec]) (string, error) {
	c, err := d.client(ctx)
	if err != nil {
		return "", err
	}
	opts := mtu.CreateOptsExt{
		CreateOptsBuilder: networks.CreateOpts{Name: cloud.LastPart(r.Name), Description: cloud.Description(r.Key, r.Name)},
		MTU:               int(r.Spec.GetMtu()),
	}
	n, err := networks.Create(ctx, c, opts).Extract()
	if err != nil {
		return "", cloud.Fault(err, "create network %s", r.Name)
	}
	return n.ID, nil
}

// Observe implements driver.Driver.
func (d *Networks) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[*networkv1.NetworkObserved], error) {
	all, err := d.byIDs(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := make(map[string]driver.Observation[*networkv1.NetworkObserved], len(all))
	for id, n := range all {
		state, why := stateOf(n.Status, "network", id)
		out[id] = driver.Observation[*networkv1.NetworkObserved]{
			State: state, Fault: why,
			Observed: &networkv1.NetworkObserved{NetworkId: id, Mtu: int32(n.MTU)},
		} //nolint:gosec // a size of packets is far below the bound
	}
	return out, nil
}

// Update implements driver.Driver.
func (d *Networks) Update(ctx context.Context, id string, r driver.Request[*networkv1.NetworkSpec]) error {
	n, err := d.one(ctx, id)
	if err != nil {
		return err
	}
	wanted := int(r.Spec.GetMtu())
	if wanted == 0 || wanted == n.MTU {
		return nil
	}
	c, err := d.client(ctx)
	if err != nil {
		return err
	}
	_, err = networks.Update(ctx, c, id, mtu.UpdateOptsExt{UpdateOptsBuilder: networks.UpdateOpts{}, MTU: wanted}).Extract()
	return cloud.Fault(err, "update network %s", r.Name)
}

// Delete implements driver.Driver.
func (d *Networks) Delete(ctx context.Context, id string) error {
	c, err := d.client(ctx)
	if err != nil {
		return err
	}
	return gone(networks.Delete(ctx, c, id).ExtractErr(), "network", id)
}

// Blockers implements driver.Blockable: the ports on the network that the cloud does not take away by itself.
func (d *Networks) Blockers(ctx context.Context, id string) ([]*kindv1.Blocker, error) {
	return portBlockers(ctx, d.s, url.Values{"network_id": {id}})
}

// Check implements driver.Checker.
func (d *Networks) Check(ctx context.Context, items []driver.Item[*networkv1.NetworkSpec]) ([]driver.Finding, []driver.QuotaUse, error) {
	uses, err := quotaUses(ctx, d.s, map[string]int64{"network": made(items)})
	return nil, uses, err
}

// port is a port, as far as the drivers look at it.
type port struct {
	base
	Name        string    `json:"name"`
	NetworkID   string    `json:"network_id"`
	DeviceID    string    `json:"device_id"`
	DeviceOwner string    `json:"device_owner"`
	FixedIPs    []fixedIP `json:"fixed_ips"`
}

// fixedIP is one address of a port.
type fixedIP struct {
	SubnetID  string `json:"subnet_id"`
	IPAddress string `json:"ip_address"`
}

// on tells whether the port has an address of the subnet.
func (p port) on(subnetID string) bool {
	for _, f := range p.FixedIPs {
		if f.SubnetID == subnetID {
			return true
		}
	}
	return false
}

func ports(s *cloud.Session) objects[port] { return objects[port]{s: s, path: "ports", field: "ports"} }

// passing are the owners of ports that the cloud takes away together with their network or subnet.
var passing = map[string]bool{"network:dhcp": true, "network:distributed": true, "network:router_centralized_snat": true}

// portBlockers lists the ports that fit a query and keep something from being deleted.
func portBlockers(ctx context.Context, s *cloud.Session, query url.Values) ([]*kindv1.Blocker, error) {
	all, err := ports(s).list(ctx, query)
	if err != nil {
		return nil, err
	}
	out := []*kindv1.Blocker{}
	for _, p := range all {
		if !passing[p.DeviceOwner] {
			out = append(out, p.blocker())
		}
	}
	return out, nil
}

// blocker says who owns a port and how it goes away safely.
func (p port) blocker() *kindv1.Blocker {
	b := &kindv1.Blocker{Kind: "port", Id: p.ID}
	owner := strings.TrimSpace(p.DeviceOwner + " " + p.DeviceID)
	switch {
	case isRouterInterface(p.DeviceOwner):
		b.Action = "detach the subnet from router " + p.DeviceID
	case p.DeviceOwner == "network:router_gateway":
		b.Action = "clear the external gateway of router " + p.DeviceID
	case p.DeviceOwner == "network:floatingip":
		b.Action = "delete floating IP " + p.DeviceID
	case strings.HasPrefix(p.DeviceOwner, "compute:"):
		b.Action = "delete server " + p.DeviceID + ", or detach the port from it"
	case strings.HasPrefix(p.DeviceOwner, "Octavia") || p.DeviceOwner == "neutron:LOADBALANCERV2":
		b.Action = "delete the load balancer " + strings.TrimPrefix(p.DeviceID, "lb-") + " that owns the port"
	case p.DeviceOwner == "":
		b.Action = "find out who made the port, then delete it"
	default:
		b.Action = "take the port away at its owner, " + owner
	}
	if owner == "" {
		owner = "nobody"
	}
	if p.Name != "" {
		owner += " (port " + p.Name + ")"
	}
	b.Owner = owner
	return b
}

func isRouterInterface(owner string) bool {
	switch owner {
	case "network:router_interface", "network:router_interface_distributed", "network:ha_router_replicated_interface":
		return true
	}
	return false
}
