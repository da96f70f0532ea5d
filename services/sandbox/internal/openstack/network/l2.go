package network

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

// Device owners.
const (
	ownerDHCP    = "network:dhcp"
	ownerGateway = "network:router_gateway"
	ownerRouter  = "network:router_interface"
	ownerFloat   = "network:floatingip"
)

// autoDeleted are the ports that vanish with their network or subnet instead of blocking its deletion.
func autoDeleted(p *Port) bool { return p.Owner == ownerDHCP }

func (s *Service) viewNetwork(r *rest.Request, o object) rest.M {
	n := o.(*Network)
	subnets, zones := []string{}, []string{}
	for _, sub := range s.subnets.By(byNetwork, n.ID) {
		subnets = append(subnets, sub.ID)
		zones = []string{"nova"}
	}
	v := n.common(rest.M{
		"name": n.Name, "admin_state_up": n.AdminUp, "mtu": n.MTU, "status": n.status(r.Now), "subnets": subnets, "shared": n.Shared,
		"availability_zone_hints": []string{}, "availability_zones": zones, "ipv4_address_scope": nil, "ipv6_address_scope": nil,
		"router:external": n.External, "port_security_enabled": n.PortSecurity, "qos_policy_id": nil,
	})
	if n.External || r.HTTP != nil && r.HTTP.Method == http.MethodPost {
		v["is_default"] = n.Default
	}
	if r.Token.Admin() {
		v["provider:network_type"], v["provider:physical_network"], v["provider:segmentation_id"] = n.Type, nil, n.Segment
		if n.Physical != "" {
			v["provider:physical_network"], v["provider:segmentation_id"] = n.Physical, nil
		}
	}
	return v
}

// maxMTU is what a VXLAN network of the lab carries.
const maxMTU = 1450

func (n *Network) apply(in rest.M) error {
	setBool(in, "admin_state_up", &n.AdminUp)
	setBool(in, "shared", &n.Shared)
	setBool(in, "router:external", &n.External)
	setBool(in, "is_default", &n.Default)
	setBool(in, "port_security_enabled", &n.PortSecurity)
	mtu, ok := in["mtu"].(float64)
	if !ok || mtu == 0 {
		return nil
	}
	if mtu > maxMTU && n.Type == "vxlan" {
		return invalidInput("Requested MTU is too big, maximum is %d.", maxMTU)
	}
	if mtu < 68 {
		return badRequest("Invalid input for mtu. Reason: '%v' is too small - must be at least '68'.", mtu)
	}
	n.MTU = int(mtu)
	return nil
}

func (s *Service) createNetwork(r *rest.Request, in rest.M) (object, error) {
	n := &Network{Standard: newStandard(r, in), AdminUp: true, PortSecurity: true, MTU: maxMTU, Type: "vxlan"}
	if t, ok := in["provider:network_type"].(string); ok {
		n.Type = t
	}
	if p, ok := in["provider:physical_network"].(string); ok {
		n.Physical, n.MTU = p, 1500
	}
	if err := n.apply(in); err != nil {
		return nil, err
	}
	if err := s.checkQuota(n.Project, "network", 1); err != nil {
		return nil, err
	}
	s.segment++
	n.Segment, n.Status = s.segment, "ACTIVE"
	s.defaultGroup(r, n.Project)
	s.networks.Put(n.ID, n)
	return n, nil
}

func (s *Service) updateNetwork(r *rest.Request, o object, in rest.M) (object, error) {
	n := *o.(*Network)
	if err := n.apply(in); err != nil {
		return nil, err
	}
	n.change(r, in)
	s.networks.Put(n.ID, &n)
	return &n, nil
}

func (s *Service) removeNetwork(_ *rest.Request, o object) error {
	id := o.std().ID
	var blockers []string
	for _, p := range s.ports.By(byNetwork, id) {
		if !autoDeleted(p) {
			blockers = append(blockers, p.ID)
		}
	}
	slices.Sort(blockers)
	if len(blockers) > 0 {
		return conflict("NetworkInUse", "Unable to complete operation on network %s. There are one or more ports still in use on the network, id for these ports is: %s.", id, strings.Join(blockers, ","))
	}
	for _, p := range s.ports.By(byNetwork, id) {
		s.dropPort(p)
	}
	for _, sub := range s.subnets.By(byNetwork, id) {
		s.subnets.Delete(sub.ID)
		delete(s.used, sub.ID)
	}
	s.networks.Delete(id)
	return nil
}

func (s *Service) viewSubnet(_ *rest.Request, o object) rest.M {
	n := o.(*Subnet)
	version := 4
	if n.CIDR.Addr().Is6() {
		version = 6
	}
	v := n.common(rest.M{
		"name": n.Name, "network_id": n.Network, "ip_version": version, "subnetpool_id": nil, "enable_dhcp": n.DHCP, "ipv6_ra_mode": optional(n.RAMode),
		"ipv6_address_mode": optional(n.AddressMode), "gateway_ip": nil, "cidr": n.CIDR.String(), "allocation_pools": append([]Range{}, n.Pools...),
		"host_routes": append([]HostRoute{}, n.Routes...), "dns_nameservers": append([]string{}, n.DNS...), "service_types": []string{},
	})
	if n.Gateway.IsValid() {
		v["gateway_ip"] = n.Gateway.String()
	}
	return v
}

func optional(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// parseCIDR reads a network address; the host part is dropped, as Neutron does. A bare address is a /32.
func parseCIDR(text string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked(), true
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	// Neutron's parser fills up an abbreviated IPv4 address: 10.77 is 10.77.0.0.
	head, bits, hasBits := strings.Cut(text, "/")
	if dots := strings.Count(head, "."); dots >= 3 || head == "" || strings.Trim(head, "0123456789.") != "" {
		return netip.Prefix{}, false
	}
	for strings.Count(head, ".") < 3 {
		head += ".0"
	}
	if !hasBits {
		bits = "32"
	}
	p, err := netip.ParsePrefix(head + "/" + bits)
	return p.Masked(), err == nil
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// usable is the part of a network that guests can have.
func usable(p netip.Prefix) Range {
	first, last := p.Addr(), lastOf(p)
	if p.Addr().Is4() && p.Bits() < 31 {
		return Range{first.Next(), last.Prev()}
	}
	if p.Addr().Is6() && p.Bits() < 127 {
		return Range{first.Next(), last}
	}
	return Range{first, last}
}

// poolsWithout is the whole network without the gateway.
func poolsWithout(p netip.Prefix, gateway netip.Addr) []Range {
	all := usable(p)
	if !gateway.IsValid() || !inRange(all, gateway) {
		return []Range{all}
	}
	out := []Range{}
	if gateway.Compare(all.Start) > 0 {
		out = append(out, Range{all.Start, gateway.Prev()})
	}
	if gateway.Compare(all.End) < 0 {
		out = append(out, Range{gateway.Next(), all.End})
	}
	return out
}

func (s *Service) createSubnet(r *rest.Request, in rest.M) (object, error) {
	networkID, _ := in["network_id"].(string)
	network := s.networks.Get(networkID)
	if network == nil || !owned(r.Token, network) {
		return nil, s.kinds["network"].notFound(networkID)
	}
	n := &Subnet{Standard: newStandard(r, in), Network: network.ID, DHCP: true}
	n.Revision = 0
	n.Project = network.Project
	setBool(in, "enable_dhcp", &n.DHCP)
	setString(in, "ipv6_ra_mode", &n.RAMode)
	setString(in, "ipv6_address_mode", &n.AddressMode)
	if err := n.apply(in); err != nil {
		return nil, err
	}
	if err := s.placeSubnet(n, in); err != nil {
		return nil, err
	}
	if err := s.checkQuota(n.Project, "subnet", 1); err != nil {
		return nil, err
	}
	s.subnets.Put(n.ID, n)
	s.used[n.ID] = newPool(n)
	network.touch(r.Now)
	s.networks.Put(network.ID, network)
	s.scheduleDHCP(r.Now, network.ID)
	return n, nil
}

// placeSubnet sets and checks the CIDR, the gateway and the pools of a new subnet.
func (s *Service) placeSubnet(n *Subnet, in rest.M) error {
	text, _ := in["cidr"].(string)
	if text == "" {
		return rest.Errorf(400, "BadRequest", "Bad subnets request: a subnetpool must be specified in the absence of a cidr.")
	}
	cidr, ok := parseCIDR(text)
	if !ok {
		return badRequest("Invalid input for cidr. Reason: '%s' is not a valid IP subnet.", text)
	}
	version := fmt.Sprint(in["ip_version"])
	if version != "4" && version != "6" {
		return badRequest("Invalid input for ip_version. Reason: '%s' is not in [4, 6].", version)
	}
	if cidr.Addr().Is4() != (version == "4") {
		return invalidInput("cidr '%s' does not match the ip_version '%s'.", cidr, version)
	}
	if n.DHCP && cidr.Addr().Is4() && cidr.Bits() > 30 {
		return invalidInput("Subnet has a prefix length that is incompatible with DHCP service enabled.")
	}
	n.CIDR = cidr
	n.Gateway = usable(cidr).Start
	if gw, given := in["gateway_ip"]; given {
		n.Gateway = netip.Addr{}
		if gw != nil {
			a, err := netip.ParseAddr(fmt.Sprint(gw))
			if err != nil {
				return badRequest("Invalid input for gateway_ip. Reason: '%v' is not a valid IP address.", gw)
			}
			n.Gateway = a
		}
	}
	if err := n.setPools(in); err != nil {
		return err
	}
	for _, other := range s.subnets.By(byNetwork, n.Network) {
		if other.CIDR.Overlaps(cidr) {
			return invalidInput("Requested subnet with cidr: %s for network: %s overlaps with another subnet.", cidr, n.Network)
		}
	}
	return nil
}

func (n *Subnet) setPools(in rest.M) error {
	raw, given := in["allocation_pools"]
	if !given || raw == nil {
		n.Pools = poolsWithout(n.CIDR, n.Gateway)
		return nil
	}
	pools := []struct{ Start, End string }{}
	if err := convert(raw, &pools); err != nil {
		return badRequest("Invalid input for allocation_pools. Reason: Invalid data format for IP pool: '%v'.", raw)
	}
	n.Pools = []Range{}
	for _, p := range pools {
		a, errA := netip.ParseAddr(p.Start)
		b, errB := netip.ParseAddr(p.End)
		if errA != nil || errB != nil || b.Less(a) {
			return rest.Errorf(400, "InvalidAllocationPool", "The allocation pool {'start': '%s', 'end': '%s'} is not valid.", p.Start, p.End)
		}
		if !n.CIDR.Contains(a) || !n.CIDR.Contains(b) {
			return rest.Errorf(400, "OutOfBoundsAllocationPool", "The allocation pool %s-%s spans beyond the subnet cidr %s.", p.Start, p.End, n.CIDR)
		}
		r := Range{a, b}
		for _, other := range n.Pools {
			if inRange(r, other.Start) || inRange(other, r.Start) {
				return conflict("OverlappingAllocationPools", "Found overlapping allocation pools: %s-%s, %s-%s for subnet %s.", other.Start, other.End, a, b, n.CIDR)
			}
		}
		if inRange(r, n.Gateway) {
			return conflict("GatewayConflictWithAllocationPools", "Gateway ip %s conflicts with allocation pool %s-%s.", n.Gateway, a, b)
		}
		n.Pools = append(n.Pools, r)
	}
	return nil
}

// convert reads a decoded JSON value as another type.
func convert(from, into any) error {
	data, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

func (n *Subnet) apply(in rest.M) error {
	if raw, ok := in["dns_nameservers"]; ok {
		dns := []string{}
		if err := convert(raw, &dns); err != nil {
			return badRequest("Invalid input for dns_nameservers. Reason: Invalid data format for nameserver: '%v'.", raw)
		}
		for _, a := range dns {
			if _, err := netip.ParseAddr(a); err != nil {
				return badRequest("Invalid input for dns_nameservers. Reason: '%s' is not a valid nameserver. '%s' is not a valid IP address.", a, a)
			}
		}
		n.DNS = dns
	}
	if raw, ok := in["host_routes"]; ok {
		routes, err := readRoutes("host_routes", raw)
		if err != nil {
			return err
		}
		n.Routes = routes
	}
	return nil
}

func readRoutes(name string, raw any) ([]HostRoute, error) {
	routes := []HostRoute{}
	if err := convert(raw, &routes); err != nil {
		return nil, badRequest("Invalid input for %s. Reason: Invalid data format for hostroute: '%v'.", name, raw)
	}
	for _, r := range routes {
		if _, ok := parseCIDR(r.Destination); !ok {
			return nil, badRequest("Invalid input for %s. Reason: '%s' is not a valid IP subnet.", name, r.Destination)
		}
		if _, err := netip.ParseAddr(r.NextHop); err != nil {
			return nil, badRequest("Invalid input for %s. Reason: '%s' is not a valid IP address.", name, r.NextHop)
		}
	}
	return routes, nil
}

func (s *Service) updateSubnet(r *rest.Request, o object, in rest.M) (object, error) {
	n := *o.(*Subnet)
	if gw, given := in["gateway_ip"]; given {
		a := netip.Addr{}
		if gw != nil {
			parsed, err := netip.ParseAddr(fmt.Sprint(gw))
			if err != nil {
				return nil, badRequest("Invalid input for gateway_ip. Reason: '%v' is not a valid IP address.", gw)
			}
			a = parsed
		}
		if a != n.Gateway {
			for _, p := range s.ports.By(byNetwork, n.Network) {
				if p.Owner == ownerRouter && slices.ContainsFunc(p.FixedIPs, func(ip FixedIP) bool { return ip.Address == n.Gateway }) {
					return nil, conflict("GatewayIpInUse", "Current gateway ip %s already in use by port %s. Unable to update.", n.Gateway, p.ID)
				}
			}
		}
		n.Gateway = a
	}
	setBool(in, "enable_dhcp", &n.DHCP)
	if _, ok := in["allocation_pools"]; ok {
		if err := n.setPools(in); err != nil {
			return nil, err
		}
	}
	if err := n.apply(in); err != nil {
		return nil, err
	}
	n.change(r, in)
	s.subnets.Put(n.ID, &n)
	s.scheduleDHCP(r.Now, n.Network)
	return &n, nil
}

func (s *Service) removeSubnet(r *rest.Request, o object) error {
	n := o.(*Subnet)
	for _, p := range s.ports.By(byNetwork, n.Network) {
		if autoDeleted(p) || !slices.ContainsFunc(p.FixedIPs, func(ip FixedIP) bool { return ip.Subnet == n.ID }) {
			continue
		}
		return conflict("SubnetInUse", "Unable to complete operation on subnet %s: One or more ports have an IP allocation from this subnet.", n.ID)
	}
	s.subnets.Delete(n.ID)
	delete(s.used, n.ID)
	if network := s.networks.Get(n.Network); network != nil {
		network.touch(r.Now)
		s.networks.Put(network.ID, network)
	}
	for _, p := range s.ports.By(byNetwork, n.Network) {
		if autoDeleted(p) {
			s.renewDHCP(r.Now, n.Network)
			break
		}
	}
	return nil
}

// scheduleDHCP has the DHCP port follow the subnets of a network, as the agent does a moment later.
func (s *Service) scheduleDHCP(now time.Time, network string) {
	s.World.Agenda.At(s.later(now, "dhcp.port"), func(at time.Time) { s.renewDHCP(at, network) })
}

func (s *Service) renewDHCP(now time.Time, network string) {
	n := s.networks.Get(network)
	if n == nil {
		return
	}
	var port *Port
	for _, p := range s.ports.By(byNetwork, network) {
		if p.Owner == ownerDHCP {
			port = p
		}
	}
	var want []string
	for _, sub := range s.subnets.By(byNetwork, network) {
		if sub.DHCP {
			want = append(want, sub.ID)
		}
	}
	if len(want) == 0 {
		if port != nil {
			s.dropPort(port)
		}
		return
	}
	if port != nil && slices.EqualFunc(port.FixedIPs, want, func(ip FixedIP, subnet string) bool { return ip.Subnet == subnet }) {
		return
	}
	if port == nil {
		port = &Port{
			Standard: Standard{ID: rest.NewID(), Project: n.Project, CreatedAt: now.Truncate(time.Second), UpdatedAt: now.Truncate(time.Second), Revision: 1, Status: "DOWN"},
			Network:  network, MAC: s.newMAC(network), Device: "dhcp5a5b2105-f38d-504a-8db5-504028e0b221-" + network, Owner: ownerDHCP, AdminUp: true, VNIC: "normal", Host: Host,
		}
		port.become(now, s.later(now, "port.active"), "ACTIVE")
	}
	var ips []FixedIP
	for _, id := range want {
		at := slices.IndexFunc(port.FixedIPs, func(ip FixedIP) bool { return ip.Subnet == id })
		if at >= 0 {
			ips = append(ips, port.FixedIPs[at])
			continue
		}
		// A full subnet has no room for the agent's port; guests go on without it.
		if a, err := s.allocate(s.subnets.Get(id), port.ID); err == nil {
			ips = append(ips, FixedIP{Subnet: id, Address: a})
		}
	}
	s.vacate(port)
	port.FixedIPs = ips
	port.touch(now)
	s.occupy(port)
	s.ports.Put(port.ID, port)
}
