package openstack

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

type subnet struct {
	base
	Name       string   `json:"name"`
	NetworkID  string   `json:"network_id"`
	CIDR       string   `json:"cidr"`
	GatewayIP  string   `json:"gateway_ip"`
	EnableDHCP bool     `json:"enable_dhcp"`
	DNS        []string `json:"dns_nameservers"`
	HostRoutes []struct {
		Destination string `json:"destination"`
	} `json:"host_routes"`
}

// Subnets is the driver of Subnet.
type Subnets struct{ objects[subnet] }

// NewSubnets makes the driver.
func NewSubnets(s *cloud.Session) *Subnets {
	return &Subnets{objects[subnet]{s: s, path: "subnets", field: "subnets"}}
}

// Find implements driver.Driver.
func (d *Subnets) Find(ctx context.Context, r driver.Request[*networkv1.SubnetSpec]) ([]string, error) {
	return d.find(ctx, r.Key, r.Name)
}

// Create implements driver.Driver.
func (d *Subnets) Create(ctx context.Context, r driver.Request[*networkv1.SubnetSpec]) (string, error) {
	networkID, err := networkRef(r.Refs, r.Spec.GetNetwork())
	if err != nil {
		return "", err
	}
	p, err := prefix(r.Spec.GetCidr())
	if err != nil {
		return "", err
	}
	c, err := d.client(ctx)
	if err != nil {
		return "", err
	}
	dhcp := !r.Spec.GetDhcpDisabled()
	opts := subnets.CreateOpts{
		NetworkID: networkID, CIDR: p.String(), Name: cloud.LastPart(r.Name), Description: cloud.Description(r.Key, r.Name),
		IPVersion: gophercloud.IPv4, EnableDHCP: &dhcp, DNSNameservers: r.Spec.GetDnsServers(),
	}
	if p.Addr().Is6() {
		opts.IPVersion = gophercloud.IPv6
	}
	if gateway := r.Spec.GetGatewayIp(); gateway != "" {
		opts.GatewayIP = &gateway
	}
	id, err := d.created(ctx, subnets.Create(ctx, c, opts).Result, "subnet")
	return id, cloud.Fault(err, "create subnet %s", r.Name)
}

// Told implements driver.Teller.
func (d *Subnets) Told(ctx context.Context, id string) (driver.Observation[*networkv1.SubnetObserved], bool) {
	s, ok := d.told(ctx, id)
	return s.observation(), ok
}

// Observe implements driver.Driver. A subnet has no status: it works as soon as it exists.
func (d *Subnets) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[*networkv1.SubnetObserved], error) {
	all, err := d.byIDs(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := make(map[string]driver.Observation[*networkv1.SubnetObserved], len(all))
	for id, s := range all {
		out[id] = s.observation()
	}
	return out, nil
}

func (s subnet) observation() driver.Observation[*networkv1.SubnetObserved] {
	return driver.Observation[*networkv1.SubnetObserved]{
		State:    driver.Ready,
		Observed: &networkv1.SubnetObserved{SubnetId: s.ID, Cidr: s.CIDR, GatewayIp: s.GatewayIP},
		Facts:    map[string]string{"dns_nameservers": strings.Join(s.DNS, " "), "enable_dhcp": strconv.FormatBool(s.EnableDHCP)},
	}
}

// Update implements driver.Driver.
func (d *Subnets) Update(ctx context.Context, id string, r driver.Request[*networkv1.SubnetSpec]) error {
	standing, err := d.one(ctx, id)
	if err != nil {
		return err
	}
	opts, differs, err := subnetChange(standing, r.Spec)
	if err != nil || !differs {
		return err
	}
	c, err := d.client(ctx)
	if err != nil {
		return err
	}
	d.forget(ctx, id)
	_, err = subnets.Update(ctx, c, id, opts).Extract()
	return cloud.Fault(err, "update subnet %s", r.Name)
}

// subnetChange gives what must change for a subnet to be as wanted.
func subnetChange(standing subnet, spec *networkv1.SubnetSpec) (opts subnets.UpdateOpts, differs bool, err error) {
	p, err := prefix(spec.GetCidr())
	if err != nil {
		return opts, false, err
	}
	gateway := p.Addr().Next()
	if given := spec.GetGatewayIp(); given != "" {
		if gateway, err = netip.ParseAddr(given); err != nil {
			return opts, false, fault.InField("spec.gatewayIp", "%q is no address", given)
		}
	}
	if old, parseErr := netip.ParseAddr(standing.GatewayIP); parseErr != nil || old != gateway {
		text := gateway.String()
		opts.GatewayIP, differs = &text, true
		opts.AllocationPools = poolsAround(p, gateway) // the gateway must not lie in a pool that it did not lie beside before
	}
	if dns := spec.GetDnsServers(); !slices.Equal(dns, standing.DNS) {
		wanted := append([]string{}, dns...)
		opts.DNSNameservers, differs = &wanted, true
	}
	if dhcp := !spec.GetDhcpDisabled(); dhcp != standing.EnableDHCP {
		opts.EnableDHCP, differs = &dhcp, true
	}
	return opts, differs, nil
}

// poolsAround gives all addresses of a range but the gateway, the range's own address and, for IPv4, the broadcast
// address.
func poolsAround(p netip.Prefix, gateway netip.Addr) []subnets.AllocationPool {
	first, last := p.Addr().Next(), lastOf(p)
	if p.Addr().Is4() {
		last = last.Prev()
	}
	var pools []subnets.AllocationPool
	add := func(from, to netip.Addr) {
		if from.Compare(to) <= 0 {
			pools = append(pools, subnets.AllocationPool{Start: from.String(), End: to.String()})
		}
	}
	if !p.Contains(gateway) || gateway.Less(first) || last.Less(gateway) {
		add(first, last)
		return pools
	}
	add(first, gateway.Prev())
	add(gateway.Next(), last)
	return pools
}

// lastOf gives the last address of a range.
func lastOf(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 1 << (7 - bit%8)
	}
	last, ok := netip.AddrFromSlice(bytes)
	if !ok {
		return p.Addr() // an address's own bytes always make an address
	}
	return last
}

// Delete implements driver.Driver.
func (d *Subnets) Delete(ctx context.Context, id string) error {
	c, err := d.client(ctx)
	if err != nil {
		return err
	}
	return gone(subnets.Delete(ctx, c, id).ExtractErr(), "subnet", id)
}

// Blockers implements driver.Blockable: the ports that have an address of the subnet.
func (d *Subnets) Blockers(ctx context.Context, id string) ([]*kindv1.Blocker, error) {
	return portBlockers(ctx, d.s, url.Values{"fixed_ips": {"subnet_id=" + id}}, nil)
}

// networkRef gives the id of the network that a spec refers to.
func networkRef(refs driver.Refs, name string) (string, error) {
	return cloud.Ref(refs, "spec.network", name, func(n *networkv1.Network) string { return n.GetObserved().GetNetworkId() })
}

// prefix reads a range and cuts it to its first address, as the network service does.
func prefix(cidr string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		return p, fault.InField("spec.cidr", "%q is no range in CIDR notation, e.g. 10.20.0.0/24", cidr)
	}
	return p.Masked(), nil
}

// Check implements driver.Checker: ranges that are well-formed and overlap neither each other nor what stands on the
// same network, and the quota.
func (d *Subnets) Check(ctx context.Context, items []driver.Item[*networkv1.SubnetSpec]) ([]driver.Finding, []driver.QuotaUse, error) {
	var findings []driver.Finding
	taken := map[string][]placed{}
	dhcpOn := map[string]bool{}
	for _, i := range items {
		if i.Spec == nil || slices.Contains(i.Unknown, "cidr") || slices.Contains(i.Unknown, "spec.cidr") {
			continue
		}
		found, err := d.checkOne(ctx, i, taken)
		if err != nil {
			return nil, nil, err
		}
		findings = append(findings, found...)
		if isMade(i) && !i.Spec.GetDhcpDisabled() {
			dhcpOn[i.Spec.GetNetwork()] = true
		}
	}
	uses, err := quotaUses(ctx, d.s, map[string]int64{"subnet": made(items), "port": int64(len(dhcpOn))})
	return findings, uses, err
}

// placed is a range and who has it.
type placed struct {
	prefix netip.Prefix
	who    string
}

// overlapping gives a sentence on who of others overlaps with p; empty if nobody does.
func overlapping(p netip.Prefix, others []placed) string {
	for _, o := range others {
		if p.Overlaps(o.prefix) {
			return fmt.Sprintf("%s overlaps with %s of %s; choose another range", p, o.prefix, o.who)
		}
	}
	return ""
}

// checkOne checks one subnet and adds its range to those taken on its network.
func (d *Subnets) checkOne(ctx context.Context, i driver.Item[*networkv1.SubnetSpec], taken map[string][]placed) ([]driver.Finding, error) {
	p, err := prefix(i.Spec.GetCidr())
	if err != nil {
		return []driver.Finding{{Name: i.Name, Field: "spec.cidr", Fault: err}}, nil
	}
	on := i.Spec.GetNetwork()
	if _, seen := taken[on]; !seen {
		if taken[on], err = d.standing(ctx, i.Refs, on); err != nil {
			return nil, err
		}
	}
	var findings []driver.Finding
	others := slices.DeleteFunc(slices.Clone(taken[on]), func(o placed) bool { return o.who == i.Name })
	if text := overlapping(p, others); text != "" {
		findings = append(findings, driver.Finding{Name: i.Name, Field: "spec.cidr", Fault: fault.InField("spec.cidr", "%s", text)})
	}
	taken[on] = append(others, placed{p, i.Name})
	if given := i.Spec.GetGatewayIp(); given != "" {
		gateway, err := netip.ParseAddr(given)
		if err != nil || !p.Contains(gateway) {
			findings = append(findings, driver.Finding{Name: i.Name, Field: "spec.gatewayIp", Fault: fault.InField("spec.gatewayIp", "%s is no address of %s", given, p)})
		}
	}
	return findings, nil
}

// standing reads the ranges on a network that exists. A subnet that bears our mark goes by its resource's name, so that
// it is not held against itself.
func (d *Subnets) standing(ctx context.Context, refs driver.Refs, name string) ([]placed, error) {
	id, err := networkRef(refs, name)
	if err != nil {
		return []placed{}, nil // the network does not exist yet, so nothing stands on it
	}
	all, err := d.list(ctx, url.Values{"network_id": {id}})
	if err != nil {
		return nil, err
	}
	out := make([]placed, 0, len(all))
	for _, s := range all {
		p, err := netip.ParsePrefix(s.CIDR)
		if err != nil {
			return nil, fault.New(fault.Unavailable, "the cloud gives %q as the range of subnet %s", s.CIDR, s.ID)
		}
		who := fmt.Sprintf("subnet %s (%s) at the cloud", s.Name, s.ID)
		if _, name, ok := cloud.ParseDescription(s.Description); ok && name != "" {
			who = name
		}
		out = append(out, placed{p, who})
	}
	return out, nil
}
