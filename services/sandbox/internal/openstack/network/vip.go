package network

import (
	"net/netip"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

// ownerBalancer is the device owner of the port that has a load balancer's address.
const ownerBalancer = "Octavia"

// NetworkOf gives the network of a subnet; empty if there is no such subnet.
func (s *Service) NetworkOf(subnet string) string {
	if n := s.subnets.Get(subnet); n != nil {
		return n.Network
	}
	return ""
}

// PlugBalancer makes the port that has the address of a load balancer, as Octavia does in its user's project.
func (s *Service) PlugBalancer(t *rest.Token, now, active time.Time, network, subnet, address, balancer string) (*Port, error) {
	in := rest.M{"network_id": network, "name": "octavia-lb-" + balancer, "device_id": "lb-" + balancer, "device_owner": ownerBalancer}
	fixed := rest.M{}
	if subnet != "" {
		fixed["subnet_id"] = subnet
	}
	if address != "" {
		fixed["ip_address"] = address
	}
	if len(fixed) > 0 {
		in["fixed_ips"] = []any{fixed}
	}
	o, err := s.createPort(&rest.Request{Token: t, Now: now}, in)
	if err != nil {
		return nil, err
	}
	p := o.(*Port)
	p.become(now, active, "ACTIVE")
	s.ports.Put(p.ID, p)
	return p, nil
}

// Unplug takes a port away, with what floating IPs lead to it; an absent one is no error.
func (s *Service) Unplug(now time.Time, port string) {
	if p := s.ports.Get(port); p != nil {
		s.releaseFloats(now, p.ID)
		s.dropPort(p)
	}
}

// DeviceAt gives the device of the port that has an address, on a network or, as a router would find it, on another of the
// same project; empty if none has.
func (s *Service) DeviceAt(project, network, address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return ""
	}
	device := ""
	for _, p := range s.ports.By(byProject, project) {
		for _, f := range p.FixedIPs {
			if f.Address != ip {
				continue
			}
			if p.Network == network {
				return p.Device
			}
			device = p.Device
		}
	}
	return device
}
