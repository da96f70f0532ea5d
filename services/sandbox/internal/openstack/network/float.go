package network

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

// byFloatPort is the index of floating IPs by the ports they lead to.
const byFloatPort = 2

func (s *Service) viewFloat(r *rest.Request, o object) rest.M {
	f := o.(*FloatingIP)
	forwards := []rest.M{}
	for _, fw := range f.Forwards {
		forwards = append(forwards, rest.M{"id": fw.ID, "external_port": fw.External, "internal_port": fw.Internal, "internal_ip_address": fw.Address.String(), "protocol": fw.Protocol, "internal_port_id": fw.Port})
	}
	v := f.common(rest.M{
		"floating_ip_address": f.Address.String(), "floating_network_id": f.Network, "router_id": optional(f.Router), "port_id": optional(f.Port),
		"fixed_ip_address": nil, "status": f.status(r.Now), "qos_policy_id": nil, "port_details": nil, "port_forwardings": forwards,
	})
	if f.Fixed.IsValid() {
		v["fixed_ip_address"] = f.Fixed.String()
	}
	if p := s.ports.Get(f.Port); p != nil {
		v["port_details"] = rest.M{
			"name": p.Name, "network_id": p.Network, "mac_address": p.MAC, "admin_state_up": p.AdminUp, "status": p.status(r.Now),
			"device_id": p.Device, "device_owner": p.Owner,
		}
	}
	return v
}

func (s *Service) createFloat(r *rest.Request, in rest.M) (object, error) {
	id, _ := in["floating_network_id"].(string)
	n := s.networks.Get(id)
	if n == nil {
		return nil, s.kinds["network"].notFound(id)
	}
	if !n.External {
		return nil, rest.Errorf(http.StatusBadRequest, "BadRequest", "Bad floatingip request: Network %s is not a valid external network.", id)
	}
	f := &FloatingIP{Standard: newStandard(r, in), Network: id}
	f.Revision, f.Status = 0, "DOWN"
	if err := s.checkQuota(f.Project, "floatingip", 1); err != nil {
		return nil, err
	}
	if err := s.associate(r, f, in); err != nil {
		return nil, err
	}
	var fixed []any
	if a, ok := in["floating_ip_address"].(string); ok && a != "" {
		fixed = []any{rest.M{"ip_address": a}}
	}
	if sub, ok := in["subnet_id"].(string); ok && sub != "" && fixed == nil {
		fixed = []any{rest.M{"subnet_id": sub}}
	}
	p, err := s.externalPort(r.Now, id, ownerFloat, f.ID, fixed)
	if err != nil {
		return nil, err
	}
	p.Host = "" // nothing plugs the port of a floating IP
	f.OwnPort, f.Address = p.ID, p.FixedIPs[0].Address
	s.floats.Put(f.ID, f)
	return f, nil
}

func (s *Service) updateFloat(r *rest.Request, o object, in rest.M) (object, error) {
	f := *o.(*FloatingIP)
	if _, ok := in["port_id"]; ok {
		if err := s.associate(r, &f, in); err != nil {
			return nil, err
		}
	}
	f.change(r, in)
	s.floats.Put(f.ID, &f)
	return &f, nil
}

// associate ties the floating IP to the port of the request, or unties it when the port is null.
func (s *Service) associate(r *rest.Request, f *FloatingIP, in rest.M) error {
	id, _ := in["port_id"].(string)
	if id == "" {
		s.disassociate(r.Now, f)
		return nil
	}
	p := s.ports.Get(id)
	if p == nil || !owned(r.Token, p) {
		return s.kinds["port"].notFound(id)
	}
	ip, err := chooseFixed(p, in)
	if err != nil {
		return err
	}
	for _, other := range s.floats.By(byFloatPort, p.ID) {
		if other.ID != f.ID && other.Port == p.ID && other.Fixed == ip.Address && other.Network == f.Network {
			return conflict("FloatingIPPortAlreadyAssociated", "Cannot associate floating IP %s (%s) with port %s using fixed IP %s, as that fixed IP already has a floating IP on external network %s.", f.Address, f.ID, p.ID, ip.Address, f.Network)
		}
	}
	router := s.routerBetween(f.Network, ip.Subnet)
	if router == "" {
		return rest.Errorf(http.StatusNotFound, "ExternalGatewayForFloatingIPNotFound", "External network %s is not reachable from subnet %s.  Therefore, cannot associate Port %s with a Floating IP.", f.Network, ip.Subnet, p.ID)
	}
	if len(f.Forwards) > 0 {
		return conflict("FipInUseByPortForwarding", "Floating IP %s in use by Port Forwarding resources.", f.ID)
	}
	f.Port, f.Fixed, f.Router = p.ID, ip.Address, router
	f.become(r.Now, s.later(r.Now, "floatingip.active"), "ACTIVE")
	return nil
}

func chooseFixed(p *Port, in rest.M) (FixedIP, error) {
	want, _ := in["fixed_ip_address"].(string)
	for _, ip := range p.FixedIPs {
		if ip.Address.Is4() && (want == "" || ip.Address.String() == want) {
			return ip, nil
		}
	}
	if want != "" {
		return FixedIP{}, rest.Errorf(http.StatusBadRequest, "BadRequest", "Bad floatingip request: Port %s does not have fixed ip %s.", p.ID, want)
	}
	return FixedIP{}, rest.Errorf(http.StatusBadRequest, "BadRequest", "Bad floatingip request: Cannot add floating IP to port %s that has no fixed IPv4 addresses.", p.ID)
}

func (s *Service) disassociate(now time.Time, f *FloatingIP) {
	if f.Port == "" {
		return
	}
	f.Port, f.Router, f.Fixed = "", "", netip.Addr{}
	f.become(now, s.later(now, "floatingip.down"), "DOWN")
}

// routerBetween finds the router with a gateway on the external network and an interface on the subnet.
func (s *Service) routerBetween(external, subnet string) string {
	sub := s.subnets.Get(subnet)
	if sub == nil {
		return ""
	}
	for _, p := range s.ports.By(byNetwork, sub.Network) {
		if p.Owner != ownerRouter || !slices.ContainsFunc(p.FixedIPs, func(ip FixedIP) bool { return ip.Subnet == subnet }) {
			continue
		}
		router := s.routers.Get(p.Device)
		if router == nil {
			continue
		}
		if gw := s.ports.Get(router.GatewayPort); gw != nil && gw.Network == external {
			return router.ID
		}
	}
	return ""
}

// releaseFloats unties everything that leads to a port which is about to vanish.
func (s *Service) releaseFloats(now time.Time, port string) {
	for _, f := range s.floats.By(byFloatPort, port) {
		if f.Port == port {
			s.disassociate(now, f)
		}
		f.Forwards = slices.DeleteFunc(slices.Clone(f.Forwards), func(fw Forward) bool { return fw.Port == port })
		if f.Port == "" && len(f.Forwards) == 0 {
			f.Router = ""
		}
		f.touch(now)
		s.floats.Put(f.ID, f)
	}
}

func (s *Service) removeFloat(_ *rest.Request, o object) error {
	f := o.(*FloatingIP)
	if len(f.Forwards) > 0 {
		return conflict("FipInUseByPortForwarding", "Floating IP %s in use by Port Forwarding resources.", f.ID)
	}
	if p := s.ports.Get(f.OwnPort); p != nil {
		s.dropPort(p)
	}
	s.floats.Delete(f.ID)
	return nil
}

// Port forwardings.

func forwardView(fw Forward) rest.M {
	return rest.M{
		"id": fw.ID, "external_port": fw.External, "external_port_range": fmt.Sprintf("%d:%d", fw.External, fw.External), "protocol": fw.Protocol,
		"internal_port_id": fw.Port, "internal_ip_address": fw.Address.String(), "internal_port": fw.Internal,
		"internal_port_range": fmt.Sprintf("%d:%d", fw.Internal, fw.Internal), "description": fw.Description,
	}
}

func (s *Service) forwardsOf(r *rest.Request) (*FloatingIP, int, error) {
	o, err := s.findOwn(s.kinds["floatingip"], r, "update")
	if err != nil {
		return nil, 0, err
	}
	f := *o.(*FloatingIP)
	f.Forwards = slices.Clone(f.Forwards)
	id, ok := r.Params["forward"]
	if !ok {
		return &f, -1, nil
	}
	at := slices.IndexFunc(f.Forwards, func(fw Forward) bool { return fw.ID == id })
	if at < 0 {
		return nil, 0, rest.Errorf(http.StatusNotFound, "PortForwardingNotFound", "Port Forwarding %s could not be found.", id)
	}
	return &f, at, nil
}

func (s *Service) listForwards(r *rest.Request) (*rest.Response, error) {
	f, _, err := s.forwardsOf(r)
	if err != nil {
		return nil, err
	}
	out := []rest.M{}
	for _, fw := range f.Forwards {
		v := forwardView(fw)
		matches := true
		for name, values := range r.Query {
			if have, ok := v[name]; ok && !slices.Contains(values, fmt.Sprint(have)) {
				matches = false
			}
		}
		if matches {
			out = append(out, pick(v, r.Query["fields"]))
		}
	}
	slices.SortFunc(out, func(a, b rest.M) int { return compare(a["id"], b["id"]) })
	return rest.OK(rest.M{"port_forwardings": out})
}

func (s *Service) getForward(r *rest.Request) (*rest.Response, error) {
	f, at, err := s.forwardsOf(r)
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"port_forwarding": forwardView(f.Forwards[at])})
}

func (s *Service) createForward(r *rest.Request) (*rest.Response, error) {
	f, _, err := s.forwardsOf(r)
	if err != nil {
		return nil, err
	}
	fw := Forward{ID: rest.NewID()}
	if err := s.readForward(r, f, &fw, true); err != nil {
		return nil, err
	}
	f.Forwards = append(f.Forwards, fw)
	return s.saveForward(r, f, fw, http.StatusCreated)
}

func (s *Service) saveForward(r *rest.Request, f *FloatingIP, fw Forward, status int) (*rest.Response, error) {
	p := s.ports.Get(fw.Port)
	for _, ip := range p.FixedIPs {
		if ip.Address == fw.Address {
			f.Router = s.routerBetween(f.Network, ip.Subnet)
		}
	}
	f.become(r.Now, s.later(r.Now, "floatingip.active"), "ACTIVE")
	f.touch(r.Now)
	s.floats.Put(f.ID, f)
	return rest.Status(status, rest.M{"port_forwarding": forwardView(fw)})
}

func (s *Service) updateForward(r *rest.Request) (*rest.Response, error) {
	f, at, err := s.forwardsOf(r)
	if err != nil {
		return nil, err
	}
	fw := f.Forwards[at]
	if err := s.readForward(r, f, &fw, false); err != nil {
		return nil, err
	}
	f.Forwards[at] = fw
	return s.saveForward(r, f, fw, http.StatusOK)
}

func (s *Service) readForward(r *rest.Request, f *FloatingIP, fw *Forward, create bool) error {
	body := struct {
		Forward *struct {
			Protocol    *string `json:"protocol"`
			Port        *string `json:"internal_port_id"`
			Address     *string `json:"internal_ip_address"`
			External    *int    `json:"external_port"`
			Internal    *int    `json:"internal_port"`
			Description *string `json:"description"`
		} `json:"port_forwarding"`
	}{}
	if err := r.JSON(&body); err != nil {
		return err
	}
	in := body.Forward
	if in == nil {
		return badRequest("Unable to find 'port_forwarding' in request body")
	}
	if create {
		for _, a := range []struct {
			name    string
			missing bool
		}{{"internal_port_id", in.Port == nil}, {"internal_ip_address", in.Address == nil}, {"protocol", in.Protocol == nil}} {
			if a.missing {
				return badRequest("Failed to parse request. Required attribute '%s' not specified", a.name)
			}
		}
		if in.External == nil || in.Internal == nil { // so does Zed
			return rest.Errorf(http.StatusInternalServerError, "HTTPInternalServerError", "Request Failed: internal server error while processing your request.")
		}
	}
	take(&fw.Protocol, in.Protocol)
	take(&fw.Description, in.Description)
	take(&fw.External, in.External)
	take(&fw.Internal, in.Internal)
	if in.Port != nil {
		fw.Port, fw.Address = *in.Port, netip.Addr{}
	}
	if !slices.Contains(forwardable, fw.Protocol) {
		return badRequest("Invalid input for protocol. Reason: %s is not in valid_values.", fw.Protocol)
	}
	for _, a := range []struct {
		name  string
		value int
	}{{"external_port", fw.External}, {"internal_port", fw.Internal}} {
		if a.value < 1 {
			return badRequest("Invalid input for %s. Reason: '%d' is too small - must be at least '1'.", a.name, a.value)
		}
		if a.value > 65535 {
			return badRequest("Invalid input for %s. Reason: '%d' is too large - must be no larger than '65535'.", a.name, a.value)
		}
	}
	return s.checkForward(r, f, fw, in.Address)
}

func take[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// forwardable are the protocols that Zed forwards.
var forwardable = []string{"tcp", "udp", "udplite", "icmp", "ipv6-icmp", "icmpv6", "sctp", "dccp"}

// checkForward refuses what Zed refuses, in its order: a private port that is led to already comes before all else, also
// before a floating IP that does not exist.
func (s *Service) checkForward(r *rest.Request, f *FloatingIP, fw *Forward, address *string) error {
	p := s.ports.Get(fw.Port)
	if p == nil || !owned(r.Token, p) {
		return s.kinds["port"].notFound(fw.Port)
	}
	if address != nil {
		a, err := netip.ParseAddr(*address)
		if err != nil {
			return badRequest("Invalid input for internal_ip_address. Reason: '%s' is not a valid IP address.", *address)
		}
		fw.Address = a
	}
	at := slices.IndexFunc(p.FixedIPs, func(ip FixedIP) bool {
		return ip.Address == fw.Address || !fw.Address.IsValid() && ip.Address.Is4()
	})
	if at < 0 {
		return badForward("Requested internal IP address %s is not suitable for internal neutron port %s, as its fixed_ips are %s.", fw.Address, p.ID, pythonList(p.FixedIPs))
	}
	fw.Address = p.FixedIPs[at].Address
	for _, other := range s.floats.By(byFloatPort, p.ID) {
		for _, o := range other.Forwards {
			if o.ID != fw.ID && o.Protocol == fw.Protocol && o.Port == fw.Port && o.Internal == fw.Internal && o.Address == fw.Address {
				return badForward("There is a port collision with the internal_port_range. The following ranges collides: %d:%d and %d:%d.", o.Internal, o.Internal, fw.Internal, fw.Internal)
			}
		}
		if other.Port == p.ID {
			return conflict("PortHasBindingFloatingIP", "Cannot create port forwarding to floating IP %s (%s) with port %s using fixed IP %s, as that port already has a binding floating IP.", other.Address, other.ID, p.ID, fw.Address)
		}
	}
	if f.Port != "" {
		return conflict("FloatingIPPortAlreadyAssociated", "Cannot associate floating IP %s (%s) with port %s using fixed IP %s, as that fixed IP already has a floating IP on external network %s.", f.Address, f.ID, p.ID, fw.Address, f.Network)
	}
	for _, o := range f.Forwards {
		if o.ID != fw.ID && o.Protocol == fw.Protocol && o.External == fw.External {
			return badForward("There is a port collision with the external_port_range. The following ranges collides: %d:%d and %d:%d.", o.External, o.External, fw.External, fw.External)
		}
	}
	router := s.routerBetween(f.Network, p.FixedIPs[at].Subnet)
	if router != "" && f.Router != "" && router != f.Router { // all forwardings of an address are on one router
		return badForward("The Floating IP %s had been set on router %s, the internal Neutron port %s can not reach it", f.ID, f.Router, p.ID)
	}
	if router == "" {
		return badForward("External network %s is not reachable from subnet %s. Cannot set Port forwarding for port %s with Floating IP %s.", f.Network, p.FixedIPs[at].Subnet, p.ID, f.ID)
	}
	return nil
}

func badForward(format string, args ...any) error {
	return rest.Errorf(http.StatusBadRequest, "BadRequest", "Bad port_forwarding request: "+format, args...)
}

// pythonList writes addresses as Neutron's messages do.
func pythonList(all []FixedIP) string {
	out := make([]string, 0, len(all))
	for _, ip := range all {
		out = append(out, fmt.Sprintf("{'subnet_id': '%s', 'ip_address': '%s'}", ip.Subnet, ip.Address))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

func (s *Service) deleteForward(r *rest.Request) (*rest.Response, error) {
	f, at, err := s.forwardsOf(r)
	if err != nil {
		return nil, err
	}
	f.Forwards = slices.Delete(f.Forwards, at, at+1)
	if len(f.Forwards) == 0 && f.Port == "" {
		f.Router = ""
		f.become(r.Now, s.later(r.Now, "floatingip.down"), "DOWN")
	}
	f.touch(r.Now)
	s.floats.Put(f.ID, f)
	return rest.Status(http.StatusNoContent, nil)
}
