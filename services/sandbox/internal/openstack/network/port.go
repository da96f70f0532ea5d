package network

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

// Host is the name of the only hypervisor.
const Host = "sandbox-node"

func (s *Service) viewPort(r *rest.Request, o object) rest.M {
	p := o.(*Port)
	v := p.common(rest.M{
		"name": p.Name, "network_id": p.Network, "mac_address": p.MAC, "admin_state_up": p.AdminUp, "status": p.status(r.Now), "device_id": p.Device,
		"device_owner": p.Owner, "fixed_ips": append([]FixedIP{}, p.FixedIPs...), "security_groups": append([]string{}, p.Groups...),
		"allowed_address_pairs": append([]AddressPair{}, p.Pairs...), "extra_dhcp_opts": append([]any{}, p.DHCPOptions...),
		"binding:vnic_type": p.VNIC, "port_security_enabled": p.Security, "qos_policy_id": nil, "qos_network_policy_id": nil,
	})
	if r.Token.Admin() {
		v["binding:host_id"], v["binding:profile"], v["resource_request"] = p.Host, rest.M{}, nil
		v["binding:vif_type"], v["binding:vif_details"] = "unbound", rest.M{}
		if p.Host != "" {
			v["binding:vif_type"], v["binding:vif_details"] = "bridge", rest.M{"connectivity": "l2", "port_filter": true, "bound_drivers": rest.M{"0": "linuxbridge"}}
		}
	}
	return v
}

func (s *Service) createPort(r *rest.Request, in rest.M) (object, error) {
	id, _ := in["network_id"].(string)
	n := s.networks.Get(id)
	if n == nil || !owned(r.Token, n) && !n.Shared && !n.External {
		return nil, s.kinds["network"].notFound(id)
	}
	if !owned(r.Token, n) && !n.Shared {
		return nil, rest.Errorf(http.StatusForbidden, "HTTPForbidden", "Tenant %s not allowed to create port on this network", r.Token.ProjectID)
	}
	if _, ok := in["mac_address"]; ok && !owned(r.Token, n) {
		return nil, denied("(rule:create_port and rule:create_port:mac_address)")
	}
	p := &Port{Standard: newStandard(r, in), Network: n.ID, AdminUp: true, Security: n.PortSecurity, VNIC: "normal"}
	p.Status = "DOWN"
	setString(in, "device_id", &p.Device)
	setString(in, "device_owner", &p.Owner)
	if err := s.checkQuota(p.Project, "port", 1); err != nil {
		return nil, err
	}
	if _, ok := in["security_groups"]; !ok && p.Security {
		in["security_groups"] = []any{s.defaultGroup(r, p.Project).ID}
	}
	if err := s.applyPort(r, p, in); err != nil {
		return nil, err
	}
	if _, ok := in["fixed_ips"]; !ok {
		ips, err := s.anyAddress(p)
		if err != nil {
			return nil, err
		}
		p.FixedIPs = ips
	}
	s.occupy(p)
	s.ports.Put(p.ID, p)
	return p, nil
}

// anyAddress takes one IPv4 and one IPv6 address, where the network has subnets of that version.
func (s *Service) anyAddress(p *Port) ([]FixedIP, error) {
	var ips []FixedIP
	var full error
	for _, v6 := range []bool{false, true} {
		for _, sub := range s.subnets.By(byNetwork, p.Network) {
			if sub.CIDR.Addr().Is6() != v6 {
				continue
			}
			a, err := s.allocate(sub, p.ID)
			full = err
			if err == nil {
				ips = append(ips, FixedIP{Subnet: sub.ID, Address: a})
				break
			}
		}
	}
	if len(ips) == 0 {
		return nil, full
	}
	return ips, nil
}

// applyPort sets what a create or update gives. It changes p only; nothing is held on an error except addresses,
// which are given back.
func (s *Service) applyPort(r *rest.Request, p *Port, in rest.M) error {
	setBool(in, "admin_state_up", &p.AdminUp)
	setBool(in, "port_security_enabled", &p.Security)
	setString(in, "binding:vnic_type", &p.VNIC)
	setString(in, "binding:host_id", &p.Host)
	if p.MAC == "" {
		p.MAC = s.newMAC(p.Network)
	}
	if mac, ok := in["mac_address"].(string); ok {
		hw, err := net.ParseMAC(mac)
		if err != nil {
			return badRequest("Invalid input for mac_address. Reason: '%s' is not a valid MAC address.", mac)
		}
		if owner := s.macs[p.Network][hw.String()]; owner != "" && owner != p.ID {
			return conflict("MacAddressInUse", "Unable to complete operation for network %s. The mac address %s is in use.", p.Network, mac)
		}
		p.MAC = hw.String()
	}
	if raw, ok := in["security_groups"]; ok {
		if err := s.setGroups(r, p, raw); err != nil {
			return err
		}
	}
	if raw, ok := in["allowed_address_pairs"]; ok {
		if err := p.setPairs(raw); err != nil {
			return err
		}
	}
	if !p.Security && len(p.Pairs) > 0 {
		return conflict("AddressPairAndPortSecurityRequired", "Port Security must be enabled in order to have allowed address pairs on a port.")
	}
	if !p.Security && len(p.Groups) > 0 {
		return conflict("PortSecurityPortHasSecurityGroup", "Port has security group associated. Cannot disable port security or IP address until security group is removed.")
	}
	if raw, ok := in["extra_dhcp_opts"]; ok {
		opts, _ := raw.([]any)
		p.DHCPOptions = opts
	}
	if raw, ok := in["fixed_ips"]; ok {
		return s.setFixedIPs(p, raw)
	}
	return nil
}

func (s *Service) setGroups(r *rest.Request, p *Port, raw any) error {
	ids := []string{}
	if err := convert(raw, &ids); err != nil {
		return badRequest("Invalid input for security_groups. Reason: '%v' is not a list of UUIDs.", raw)
	}
	for _, id := range ids {
		if g := s.groups.Get(id); g == nil || !owned(r.Token, g) {
			return s.kinds["security_group"].notFound(id)
		}
	}
	slices.Sort(ids)
	p.Groups = slices.Compact(ids)
	return nil
}

func (p *Port) setPairs(raw any) error {
	pairs := []AddressPair{}
	if err := convert(raw, &pairs); err != nil {
		return badRequest("Invalid input for allowed_address_pairs. Reason: Allowed address pairs must be a list.")
	}
	for i, pair := range pairs {
		if _, ok := parseCIDR(pair.Address); !ok {
			return badRequest("Invalid input for allowed_address_pairs. Reason: '%s' is not a valid IP address.", pair.Address)
		}
		if pair.MAC == "" {
			pairs[i].MAC = p.MAC
		}
	}
	p.Pairs = pairs
	return nil
}

// setFixedIPs replaces the addresses of a port. Entries give a subnet, an address or both; addresses that the port
// has already are kept.
func (s *Service) setFixedIPs(p *Port, raw any) error {
	wants := []struct {
		Subnet  string `json:"subnet_id"`
		Address string `json:"ip_address"`
	}{}
	if err := convert(raw, &wants); err != nil {
		return badRequest("Invalid input for fixed_ips. Reason: Invalid data format for fixed IP: '%v'.", raw)
	}
	next := []FixedIP{}
	spare := slices.Clone(p.FixedIPs)
	giveBack := func() {
		for _, ip := range next {
			if !slices.Contains(p.FixedIPs, ip) {
				delete(s.used[ip.Subnet].taken, ip.Address)
			}
		}
	}
	for _, want := range wants {
		ip, err := s.fixedIP(p, want.Subnet, want.Address, &spare)
		if err != nil {
			giveBack()
			return err
		}
		s.used[ip.Subnet].taken[ip.Address] = p.ID
		next = append(next, ip)
	}
	for _, old := range p.FixedIPs {
		if !slices.Contains(next, old) {
			delete(s.used[old.Subnet].taken, old.Address)
		}
	}
	p.FixedIPs = next
	return nil
}

func (s *Service) fixedIP(p *Port, subnetID, text string, spare *[]FixedIP) (FixedIP, error) {
	var a netip.Addr
	if text != "" {
		parsed, err := netip.ParseAddr(text)
		if err != nil {
			return FixedIP{}, badRequest("Invalid input for fixed_ips. Reason: '%s' is not a valid IP address.", text)
		}
		a = parsed
	}
	var sub *Subnet
	for _, candidate := range s.subnets.By(byNetwork, p.Network) {
		if candidate.ID == subnetID || subnetID == "" && a.IsValid() && candidate.CIDR.Contains(a) {
			sub = candidate
		}
	}
	if sub == nil && subnetID != "" {
		if s.subnets.Get(subnetID) == nil {
			return FixedIP{}, s.kinds["subnet"].notFound(subnetID)
		}
		return FixedIP{}, invalidInput("Failed to create port on network %s, because fixed_ips included invalid subnet %s.", p.Network, subnetID)
	}
	if sub == nil {
		return FixedIP{}, rest.Errorf(http.StatusBadRequest, "InvalidIpForNetwork", "IP address %s is not a valid IP for any of the subnets on the specified network.", text)
	}
	if !a.IsValid() {
		if at := slices.IndexFunc(*spare, func(ip FixedIP) bool { return ip.Subnet == sub.ID }); at >= 0 {
			kept := (*spare)[at]
			*spare = slices.Delete(*spare, at, at+1)
			return kept, nil
		}
		found, err := s.allocate(sub, p.ID)
		return FixedIP{Subnet: sub.ID, Address: found}, err
	}
	if all := usable(sub.CIDR); !inRange(all, a) {
		return FixedIP{}, rest.Errorf(http.StatusBadRequest, "InvalidIpForSubnet", "IP address %s is not a valid IP for the specified subnet.", text)
	}
	if owner := s.used[sub.ID].taken[a]; owner != "" && owner != p.ID {
		return FixedIP{}, conflict("IpAddressAlreadyAllocated", "IP address %s already allocated in subnet %s", text, sub.ID)
	}
	return FixedIP{Subnet: sub.ID, Address: a}, nil
}

func (s *Service) updatePort(r *rest.Request, o object, in rest.M) (object, error) {
	old := o.(*Port)
	if _, ok := in["mac_address"]; ok && !r.Token.Admin() {
		return nil, denied("(rule:update_port and rule:update_port:mac_address)")
	}
	p := *old
	delete(s.macs[old.Network], old.MAC)
	err := s.applyPort(r, &p, in)
	if err != nil {
		s.occupy(old)
		return nil, err
	}
	setString(in, "device_id", &p.Device)
	setString(in, "device_owner", &p.Owner)
	p.change(r, in)
	s.occupy(&p)
	s.ports.Put(p.ID, &p)
	return &p, nil
}

func (s *Service) removePort(r *rest.Request, o object) error {
	p := o.(*Port)
	if p.Owner == ownerRouter || p.Owner == ownerGateway || p.Owner == ownerFloat {
		return conflict("ServicePortInUse", "Port %s cannot be deleted directly via the port API: has device owner %s.", p.ID, p.Owner)
	}
	s.releaseFloats(r.Now, p.ID)
	s.dropPort(p)
	return nil
}

func (s *Service) dropPort(p *Port) {
	s.vacate(p)
	s.ports.Delete(p.ID)
}

// For Nova.

// Attachment asks for one network interface of a server.
type Attachment struct {
	Network, Port, FixedIP, Tag string
}

// CheckAttachment says, before anything is made, whether an attachment can work; the error is for Nova's client.
func (s *Service) CheckAttachment(t *rest.Token, a Attachment) error {
	if a.Port != "" {
		p := s.ports.Get(a.Port)
		if p == nil || !owned(t, p) {
			return rest.Errorf(http.StatusBadRequest, "", "Port id %s could not be found.", a.Port)
		}
		if p.Device != "" {
			return rest.Errorf(http.StatusConflict, "", "Port %s is still in use.", p.ID)
		}
		if len(p.FixedIPs) == 0 {
			return rest.Errorf(http.StatusBadRequest, "", "Port %s requires a FixedIP in order to be used.", p.ID)
		}
		return nil
	}
	n := s.networks.Get(a.Network)
	if n == nil || !owned(t, n) && !n.Shared && !n.External {
		return rest.Errorf(http.StatusBadRequest, "", "Network %s could not be found.", a.Network)
	}
	if n.External && !n.Shared && !t.Admin() {
		return rest.Errorf(http.StatusForbidden, "", "It is not allowed to create an interface on external network %s", n.ID)
	}
	if s.subnets.Count(byNetwork, n.ID) == 0 {
		return rest.Errorf(http.StatusBadRequest, "", "Network %s requires a subnet in order to boot instances on.", n.ID)
	}
	if a.FixedIP == "" {
		return nil
	}
	ip, err := netip.ParseAddr(a.FixedIP)
	if err != nil {
		return rest.Errorf(http.StatusBadRequest, "", "Invalid fixed IP address %s", a.FixedIP)
	}
	for _, sub := range s.subnets.By(byNetwork, n.ID) {
		if owner := s.used[sub.ID].taken[ip]; owner != "" {
			return rest.Errorf(http.StatusBadRequest, "", "Fixed IP address %s is already in use on instance %s.", a.FixedIP, s.ports.Get(owner).Device)
		}
	}
	return nil
}

// RoomForPorts checks the port quota for n more.
func (s *Service) RoomForPorts(project string, n int) bool {
	return s.checkQuota(project, "port", n) == nil
}

// Known says whether a network exists.
func (s *Service) Known(network string) bool { return s.networks.Get(network) != nil }

// Networks yields the networks a server gets when it asks for none in particular.
func (s *Service) Networks(t *rest.Token) []string {
	var own, shared []string
	for id, n := range s.networks.All() {
		if n.Project == t.ProjectID && !n.External {
			own = append(own, id)
		}
		if n.Shared {
			shared = append(shared, id)
		}
	}
	return append(own, shared...)
}

// Attach makes or takes the port of an attachment for a server. The port becomes ACTIVE at the given time.
func (s *Service) Attach(t *rest.Token, now, active time.Time, a Attachment, server string, groups []string) (*Port, bool, error) {
	owner := "compute:nova"
	if a.Port != "" {
		p := s.ports.Get(a.Port)
		if p == nil {
			return nil, false, rest.Errorf(http.StatusNotFound, "", "Port id %s could not be found.", a.Port)
		}
		if p.Device != "" && p.Device != server {
			return nil, false, rest.Errorf(http.StatusConflict, "", "Port %s is still in use.", a.Port)
		}
		p.Device, p.Owner, p.Host = server, owner, Host
		p.become(now, active, "ACTIVE")
		p.touch(now)
		s.ports.Put(p.ID, p)
		return p, false, nil
	}
	in := rest.M{"network_id": a.Network, "device_id": server, "device_owner": owner}
	if a.FixedIP != "" {
		in["fixed_ips"] = []any{rest.M{"ip_address": a.FixedIP}}
	}
	if len(groups) > 0 {
		list := []any{}
		for _, g := range groups {
			list = append(list, g)
		}
		in["security_groups"] = list
	}
	o, err := s.createPort(&rest.Request{Token: t, Now: now}, in)
	if err != nil {
		return nil, false, err
	}
	p := o.(*Port)
	p.Host = Host
	p.become(now, active, "ACTIVE")
	s.ports.Put(p.ID, p)
	return p, true, nil
}

// Detach frees a port of a server: one that Nova made is deleted, one that was given goes back.
func (s *Service) Detach(now time.Time, port string, made bool) {
	p := s.ports.Get(port)
	if p == nil {
		return
	}
	if made {
		s.releaseFloats(now, p.ID)
		s.dropPort(p)
		return
	}
	p.Device, p.Owner, p.Host = "", "", ""
	p.Status, p.NextAt = "DOWN", time.Time{}
	p.touch(now)
	s.ports.Put(p.ID, p)
}

// Port yields a port for Nova; nil when there is none.
func (s *Service) Port(id string) *Port { return s.ports.Get(id) }

// PortStatus is the port's state at now.
func (s *Service) PortStatus(p *Port, now time.Time) string { return p.status(now) }

// PortsOf yields the ports plugged into a server.
func (s *Service) PortsOf(server string) []*Port { return s.ports.By(byDevice, server) }

// Address is one address of a server as Nova shows it.
type Address struct {
	Network, MAC, Type, Address string
	Version                     int
}

// Addresses yields the fixed and floating addresses of a server's ports.
func (s *Service) Addresses(server string) []Address {
	var out []Address
	for _, p := range s.PortsOf(server) {
		n := s.networks.Get(p.Network)
		if n == nil {
			continue
		}
		for _, ip := range p.FixedIPs {
			version := 4
			if ip.Address.Is6() {
				version = 6
			}
			out = append(out, Address{n.Name, p.MAC, "fixed", ip.Address.String(), version})
			for _, f := range s.floats.By(2, p.ID) {
				if f.Fixed == ip.Address {
					out = append(out, Address{n.Name, p.MAC, "floating", f.Address.String(), 4})
				}
			}
		}
	}
	return out
}

// GroupNames yields the names of the security groups on a server's ports.
func (s *Service) GroupNames(server string) []string {
	var names []string
	for _, p := range s.PortsOf(server) {
		for _, id := range p.Groups {
			if g := s.groups.Get(id); g != nil {
				names = append(names, g.Name)
			}
		}
	}
	return names
}

// FindGroup resolves a security group by id or name.
func (s *Service) FindGroup(t *rest.Token, now time.Time, nameOrID string) *Group {
	s.defaultGroup(&rest.Request{Token: t, Now: now}, t.ProjectID)
	var found *Group
	for _, g := range s.groups.By(byProject, t.ProjectID) {
		if g.ID == nameOrID {
			return g
		}
		if g.Name == nameOrID && found == nil {
			found = g
		}
	}
	return found
}

// SetGroup adds a security group to, or removes it from, all ports of a server; false: nothing changed.
func (s *Service) SetGroup(now time.Time, server, group string, add bool) bool {
	changed := false
	for _, p := range s.PortsOf(server) {
		at := slices.Index(p.Groups, group)
		if add == (at >= 0) {
			continue
		}
		next := slices.Clone(p.Groups)
		if add {
			next = append(next, group)
		}
		if !add {
			next = slices.Delete(next, at, at+1)
		}
		p.Groups, changed = next, true
		p.touch(now)
		s.ports.Put(p.ID, p)
	}
	return changed
}
