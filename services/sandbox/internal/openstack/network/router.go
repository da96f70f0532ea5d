package network

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

func (s *Service) viewRouter(r *rest.Request, o object) rest.M {
	n := o.(*Router)
	v := n.common(rest.M{
		"name": n.Name, "admin_state_up": n.AdminUp, "status": n.status(r.Now), "external_gateway_info": nil, "availability_zones": []string{"nova"},
		"availability_zone_hints": []string{}, "routes": append([]HostRoute{}, n.Routes...), "flavor_id": nil,
	})
	if p := s.ports.Get(n.GatewayPort); p != nil {
		v["external_gateway_info"] = rest.M{"network_id": p.Network, "external_fixed_ips": append([]FixedIP{}, p.FixedIPs...), "enable_snat": n.SNAT}
	}
	if r.Token.Admin() {
		v["distributed"], v["ha"] = false, false
	}
	return v
}

func (s *Service) createRouter(r *rest.Request, in rest.M) (object, error) {
	n := &Router{Standard: newStandard(r, in), AdminUp: true, SNAT: true}
	n.Status = "ACTIVE"
	setBool(in, "admin_state_up", &n.AdminUp)
	if err := s.checkQuota(n.Project, "router", 1); err != nil {
		return nil, err
	}
	if err := s.setGateway(r, n, in, "create"); err != nil {
		return nil, err
	}
	s.routers.Put(n.ID, n)
	return n, nil
}

func (s *Service) updateRouter(r *rest.Request, o object, in rest.M) (object, error) {
	n := *o.(*Router)
	setBool(in, "admin_state_up", &n.AdminUp)
	if raw, ok := in["routes"]; ok {
		routes, err := readRoutes("routes", raw)
		if err != nil {
			return nil, err
		}
		for _, route := range routes {
			if !s.reaches(&n, netip.MustParseAddr(route.NextHop)) {
				return nil, rest.Errorf(http.StatusBadRequest, "InvalidRoutes", "Invalid format for routes: %v, the nexthop is not connected with router", raw)
			}
		}
		n.Routes = routes
	}
	if err := s.setGateway(r, &n, in, "update"); err != nil {
		return nil, err
	}
	n.change(r, in)
	s.routers.Put(n.ID, &n)
	return &n, nil
}

func (s *Service) reaches(n *Router, a netip.Addr) bool {
	for _, p := range s.ports.By(byDevice, n.ID) {
		for _, ip := range p.FixedIPs {
			if sub := s.subnets.Get(ip.Subnet); sub != nil && sub.CIDR.Contains(a) {
				return true
			}
		}
	}
	return false
}

// setGateway gives the router an external gateway, changes it or takes it away.
func (s *Service) setGateway(r *rest.Request, n *Router, in rest.M, verb string) error {
	raw, given := in["external_gateway_info"]
	if !given {
		return nil
	}
	info := struct {
		Network string `json:"network_id"`
		SNAT    *bool  `json:"enable_snat"`
		IPs     []any  `json:"external_fixed_ips"`
	}{}
	if err := convert(raw, &info); err != nil {
		return badRequest("Invalid input for external_gateway_info. Reason: '%v' is not a dictionary.", raw)
	}
	if info.SNAT != nil && !r.Token.Admin() {
		return denied("(rule:" + verb + "_router and (rule:" + verb + "_router:external_gateway_info and (rule:" + verb + "_router:external_gateway_info:network_id and rule:" + verb + "_router:external_gateway_info:enable_snat)))")
	}
	if len(info.IPs) > 0 && !r.Token.Admin() {
		return denied("(rule:" + verb + "_router and (rule:" + verb + "_router:external_gateway_info and (rule:" + verb + "_router:external_gateway_info:network_id and rule:" + verb + "_router:external_gateway_info:external_fixed_ips)))")
	}
	old := s.ports.Get(n.GatewayPort)
	if old != nil && old.Network != info.Network {
		if s.routerCarriesFloats(n.ID, "") {
			return conflict("RouterExternalGatewayInUseByFloatingIp", "Gateway cannot be updated for router %s, since a gateway to external network %s is required by one or more floating IPs.", n.ID, old.Network)
		}
	}
	if info.Network != "" {
		net := s.networks.Get(info.Network)
		if net == nil {
			return s.kinds["network"].notFound(info.Network)
		}
		if !net.External {
			return rest.Errorf(http.StatusBadRequest, "BadRequest", "Bad router request: Network %s is not an external network.", info.Network)
		}
	}
	n.SNAT = info.SNAT == nil || *info.SNAT
	if old != nil && old.Network == info.Network {
		return nil
	}
	if info.Network == "" {
		s.dropGateway(n, old)
		return nil
	}
	p, err := s.externalPort(r.Now, info.Network, ownerGateway, n.ID, info.IPs)
	if err != nil {
		return err
	}
	p.Status = "DOWN"
	p.become(r.Now, s.later(r.Now, "port.active"), "ACTIVE")
	s.ports.Put(p.ID, p)
	s.dropGateway(n, old)
	n.GatewayPort = p.ID
	return nil
}

func (s *Service) dropGateway(n *Router, old *Port) {
	if old != nil {
		s.dropPort(old)
	}
	n.GatewayPort = ""
}

// externalPort makes a port on an external network; it belongs to no project, as in Neutron.
func (s *Service) externalPort(now time.Time, network, owner, device string, fixed []any) (*Port, error) {
	at := now.Truncate(time.Second)
	p := &Port{
		Standard: Standard{ID: rest.NewID(), CreatedAt: at, UpdatedAt: at, Revision: 1, Status: "N/A"},
		Network:  network, MAC: s.newMAC(network), Device: device, Owner: owner, AdminUp: true, VNIC: "normal", Host: Host,
	}
	var err error
	if len(fixed) > 0 {
		err = s.setFixedIPs(p, fixed)
	}
	if len(fixed) == 0 {
		p.FixedIPs, err = s.anyAddress(p)
	}
	if err != nil {
		return nil, err
	}
	s.occupy(p)
	s.ports.Put(p.ID, p)
	return p, nil
}

// routerCarriesFloats says whether floating IPs are associated through the router, with fixed addresses in the
// subnet when one is named.
func (s *Service) routerCarriesFloats(router, subnet string) bool {
	for _, f := range s.floats.All() {
		if f.Router != router {
			continue
		}
		if subnet == "" {
			return true
		}
		for _, id := range floatPorts(f) {
			p := s.ports.Get(id)
			if p == nil {
				continue
			}
			if slices.ContainsFunc(p.FixedIPs, func(ip FixedIP) bool { return ip.Subnet == subnet }) {
				return true
			}
		}
	}
	return false
}

func (s *Service) removeRouter(_ *rest.Request, o object) error {
	n := o.(*Router)
	var attached []string
	for _, p := range s.ports.By(byDevice, n.ID) {
		if p.Owner == ownerRouter {
			attached = append(attached, p.ID)
		}
	}
	slices.Sort(attached)
	if len(attached) > 0 {
		return conflict("RouterInUse", "Router %s has ports still attached: %s", n.ID, strings.Join(attached, ", "))
	}
	if s.routerCarriesFloats(n.ID, "") {
		return conflict("RouterInUse", "Router %s still has floating IPs", n.ID)
	}
	s.dropGateway(n, s.ports.Get(n.GatewayPort))
	s.routers.Delete(n.ID)
	return nil
}

type interfaceBody struct {
	Subnet string `json:"subnet_id"`
	Port   string `json:"port_id"`
}

func (s *Service) interfaceRequest(r *rest.Request) (*Router, interfaceBody, error) {
	body := interfaceBody{}
	o, err := s.findOwn(s.kinds["router"], r, "update")
	if err != nil {
		return nil, body, err
	}
	if err := r.JSON(&body); err != nil {
		return nil, body, err
	}
	if body.Subnet == "" && body.Port == "" {
		return nil, body, rest.Errorf(http.StatusBadRequest, "BadRequest", "Bad router request: Either subnet_id or port_id must be specified.")
	}
	return o.(*Router), body, nil
}

func (s *Service) addInterface(r *rest.Request) (*rest.Response, error) {
	n, body, err := s.interfaceRequest(r)
	if err != nil {
		return nil, err
	}
	if body.Subnet != "" && body.Port != "" {
		return nil, rest.Errorf(http.StatusBadRequest, "BadRequest", "Bad router request: Cannot specify both subnet-id and port-id.")
	}
	var p *Port
	if body.Port != "" {
		p, err = s.interfacePort(r, n, body.Port)
	}
	if body.Subnet != "" {
		p, err = s.interfaceOn(r, n, body.Subnet)
	}
	if err != nil {
		return nil, err
	}
	p.become(r.Now, s.later(r.Now, "port.active"), "ACTIVE")
	s.ports.Put(p.ID, p)
	n.touch(r.Now)
	s.routers.Put(n.ID, n)
	return rest.OK(interfaceView(n, p, p.FixedIPs[0].Subnet))
}

func interfaceView(n *Router, p *Port, subnet string) rest.M {
	return rest.M{"id": n.ID, "tenant_id": n.Project, "port_id": p.ID, "network_id": p.Network, "subnet_id": subnet, "subnet_ids": []string{subnet}}
}

func (s *Service) interfacePort(r *rest.Request, n *Router, id string) (*Port, error) {
	p := s.ports.Get(id)
	if p == nil || !owned(r.Token, p) {
		return nil, s.kinds["port"].notFound(id)
	}
	if p.Device != "" && p.Device != n.ID {
		return nil, conflict("PortInUse", "Unable to complete operation on port %s for network %s. Port already has an attached device %s.", p.ID, p.Network, p.Device)
	}
	if len(p.FixedIPs) == 0 {
		return nil, rest.Errorf(http.StatusBadRequest, "BadRequest", "Bad router request: Router port must have at least one fixed IP.")
	}
	if err := s.checkOverlap(n, p.FixedIPs[0].Subnet); err != nil {
		return nil, err
	}
	p.Device, p.Owner, p.Host = n.ID, ownerRouter, Host
	return p, nil
}

func (s *Service) interfaceOn(r *rest.Request, n *Router, id string) (*Port, error) {
	sub := s.subnets.Get(id)
	if sub == nil || !owned(r.Token, sub) && !s.kinds["subnet"].visible(r.Token, sub) {
		return nil, s.kinds["subnet"].notFound(id)
	}
	if !sub.Gateway.IsValid() {
		return nil, rest.Errorf(http.StatusBadRequest, "BadRequest", "Bad router request: Subnet for router interface must have a gateway IP.")
	}
	if err := s.checkOverlap(n, id); err != nil {
		return nil, err
	}
	if owner := s.used[sub.ID].taken[sub.Gateway]; owner != "" {
		return nil, conflict("IpAddressAlreadyAllocated", "IP address %s already allocated in subnet %s", sub.Gateway, sub.ID)
	}
	if err := s.checkQuota(n.Project, "port", 1); err != nil {
		return nil, err
	}
	at := r.Now.Truncate(time.Second)
	p := &Port{
		Standard: Standard{ID: rest.NewID(), Project: n.Project, CreatedAt: at, UpdatedAt: at, Revision: 1, Status: "DOWN"},
		Network:  sub.Network, MAC: s.newMAC(sub.Network), Device: n.ID, Owner: ownerRouter, AdminUp: true, VNIC: "normal", Host: Host,
		FixedIPs: []FixedIP{{Subnet: sub.ID, Address: sub.Gateway}},
	}
	s.occupy(p)
	return p, nil
}

// checkOverlap refuses a second interface on a subnet, or one on overlapping addresses.
func (s *Service) checkOverlap(n *Router, subnet string) error {
	sub := s.subnets.Get(subnet)
	for _, p := range s.ports.By(byDevice, n.ID) {
		for _, ip := range p.FixedIPs {
			if ip.Subnet == subnet {
				return rest.Errorf(http.StatusBadRequest, "BadRequest", "Bad router request: Router already has a port on subnet %s.", subnet)
			}
			if other := s.subnets.Get(ip.Subnet); other != nil && other.CIDR.Overlaps(sub.CIDR) {
				return rest.Errorf(http.StatusBadRequest, "BadRequest", "Bad router request: Cidr %s of subnet %s overlaps with cidr %s of subnet %s.", sub.CIDR, sub.ID, other.CIDR, other.ID)
			}
		}
	}
	return nil
}

func (s *Service) removeInterface(r *rest.Request) (*rest.Response, error) {
	n, body, err := s.interfaceRequest(r)
	if err != nil {
		return nil, err
	}
	if body.Subnet != "" && s.subnets.Get(body.Subnet) == nil {
		return nil, s.kinds["subnet"].notFound(body.Subnet)
	}
	for _, p := range s.ports.By(byDevice, n.ID) {
		if p.Owner != ownerRouter || body.Port != "" && p.ID != body.Port {
			continue
		}
		at := slices.IndexFunc(p.FixedIPs, func(ip FixedIP) bool { return body.Subnet == "" || ip.Subnet == body.Subnet })
		if at < 0 {
			continue
		}
		subnet := p.FixedIPs[at].Subnet
		if s.routerCarriesFloats(n.ID, subnet) {
			return nil, conflict("RouterInterfaceInUseByFloatingIP", "Router interface for subnet %s on router %s cannot be deleted, as it is required by one or more floating IPs.", subnet, n.ID)
		}
		s.dropPort(p)
		n.touch(r.Now)
		s.routers.Put(n.ID, n)
		return rest.OK(interfaceView(n, p, subnet))
	}
	if body.Port != "" {
		return nil, rest.Errorf(http.StatusNotFound, "RouterInterfaceNotFound", "Router %s does not have an interface with id %s", n.ID, body.Port)
	}
	return nil, rest.Errorf(http.StatusNotFound, "RouterInterfaceNotFoundForSubnet", "Router %s has no interface on subnet %s", n.ID, body.Subnet)
}
