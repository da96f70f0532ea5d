package openstack

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// What keeps networks, subnets, routers, security groups and floating IPs from being deleted.
//
// Almost always it is a port. A port by itself tells little, so it is told as what it belongs to: the server that has it,
// the router that joins a subnet by it, the load balancer. Where the cloud does not say more, the port itself is told,
// with what it bears as its device.
//
// Two things the cloud would take away without a word, although they are somebody else's; there the drivers refuse:
// a subnet of others on our router, and a floating IP of ours that others have led to something of theirs.

// port is a port, as far as the drivers look at it.
type port struct {
	base
	Name           string    `json:"name"`
	NetworkID      string    `json:"network_id"`
	DeviceID       string    `json:"device_id"`
	DeviceOwner    string    `json:"device_owner"`
	FixedIPs       []fixedIP `json:"fixed_ips"`
	SecurityGroups []string  `json:"security_groups"`
}

// fixedIP is one address of a port.
type fixedIP struct {
	SubnetID  string `json:"subnet_id"`
	IPAddress string `json:"ip_address"`
}

// on tells whether the port has an address of the subnet.
func (p port) on(subnetID string) bool {
	return slices.ContainsFunc(p.FixedIPs, func(f fixedIP) bool { return f.SubnetID == subnetID })
}

func ports(s *cloud.Session) objects[port] { return objects[port]{s: s, path: "ports", field: "ports"} }

// passing are the owners of ports that the cloud takes away together with their network or subnet.
var passing = map[string]bool{"network:dhcp": true, "network:distributed": true, "network:router_centralized_snat": true}

func isRouterInterface(owner string) bool {
	switch owner {
	case "network:router_interface", "network:router_interface_distributed", "network:ha_router_replicated_interface":
		return true
	}
	return false
}

// onServer tells a port of a server. What follows the colon is the server's zone.
func (p port) onServer() bool {
	return strings.HasPrefix(p.DeviceOwner, "compute:") && p.DeviceID != ""
}

// around is what is known of what ports belong to.
type around struct {
	servers map[string]cloud.Holder
	routers map[string]router
}

// lookAround reads the servers and routers that ports belong to: one call for each.
func lookAround(ctx context.Context, s *cloud.Session, all []port) (around, error) {
	var serverIDs, routerIDs []string
	for _, p := range all {
		switch {
		case p.onServer():
			serverIDs = append(serverIDs, p.DeviceID)
		case (isRouterInterface(p.DeviceOwner) || p.DeviceOwner == ownerGateway) && !slices.Contains(routerIDs, p.DeviceID):
			routerIDs = append(routerIDs, p.DeviceID)
		}
	}
	var out around
	var err error
	if out.servers, err = s.Holders(ctx, serverIDs); err != nil {
		return out, err
	}
	if len(routerIDs) > 0 {
		out.routers, err = NewRouters(s).byIDs(ctx, routerIDs)
	}
	return out, err
}

// portBlockers lists what keeps something from being deleted by the ports that fit a query. loose gives the action that
// frees it from one port while the port stays; empty if there is none.
func portBlockers(ctx context.Context, s *cloud.Session, query url.Values, loose func(port) string) ([]*kindv1.Blocker, error) {
	all, err := ports(s).list(ctx, query)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(p port) bool { return passing[p.DeviceOwner] })
	known, err := lookAround(ctx, s, all)
	if err != nil {
		return nil, err
	}
	out := []*kindv1.Blocker{}
	for _, p := range all {
		b := p.blocker(s, known)
		if loose != nil {
			b.Action = loose(p) + ", or " + b.GetAction()
		}
		out = append(out, b)
	}
	return out, nil
}

const ownerGateway = "network:router_gateway"

// blocker says what a port belongs to, whose that is and how it goes away safely.
func (p port) blocker(s *cloud.Session, known around) *kindv1.Blocker {
	by := "by port " + p.ID
	if p.Name != "" {
		by += " (" + p.Name + ")"
	}
	server, isServer := known.servers[p.DeviceID]
	switch {
	case p.onServer() && isServer:
		return serverBlocker(s, server, p.ID, by)
	case p.onServer() && p.ProjectID != s.ProjectID: // others' servers are not shown to us
		return serverBlocker(s, cloud.Holder{ID: p.DeviceID, ProjectID: p.ProjectID}, p.ID, by)
	case isRouterInterface(p.DeviceOwner):
		return routerBlocker(s, p, known.routers[p.DeviceID])
	case p.DeviceOwner == ownerGateway:
		r := known.routers[p.DeviceID]
		return &kindv1.Blocker{
			Kind: "router gateway", Id: p.ID, Owner: "router " + p.DeviceID + " of " + whoseRouter(s, r, p.ProjectID),
			Action: "clear the external gateway of router " + p.DeviceID,
		}
	case p.DeviceOwner == "network:floatingip":
		return &kindv1.Blocker{Kind: "floating IP", Id: p.DeviceID, Owner: s.Whose("", "", p.ProjectID, by), Action: "delete floating IP " + p.DeviceID}
	case strings.HasPrefix(p.DeviceOwner, "Octavia") || p.DeviceOwner == "neutron:LOADBALANCERV2":
		id := strings.TrimPrefix(p.DeviceID, "lb-")
		return &kindv1.Blocker{Kind: "load balancer", Id: id, Owner: s.Whose("", "", p.ProjectID, by), Action: "delete load balancer " + id + ", which takes its port away"}
	}
	return p.bare(s)
}

// bare tells a port of which only the port itself is known.
func (p port) bare(s *cloud.Session) *kindv1.Blocker {
	_, resource, _ := cloud.ParseDescription(p.Description)
	device := strings.TrimSpace(p.DeviceOwner + " " + p.DeviceID)
	b := &kindv1.Blocker{Kind: "port", Id: p.ID, Owner: s.Whose(resource, p.Name, p.ProjectID), Action: "take the port away at its device, " + device}
	if device == "" {
		b.Owner += ", on no device"
		b.Action = "find out who made port " + p.ID + ", then delete it"
	} else {
		b.Owner += ", on device " + device
	}
	return b
}

// serverBlocker tells a server that holds something by a port.
func serverBlocker(s *cloud.Session, h cloud.Holder, portID, by string) *kindv1.Blocker {
	action := "delete server " + h.ID + ", or detach port " + portID + " from it"
	if h.Resource != "" {
		action = "delete " + h.Resource + " in Weft"
	}
	return &kindv1.Blocker{Kind: "server", Id: h.ID, Owner: s.Whose(h.Resource, h.Name, h.ProjectID, by), Action: action}
}

// routerBlocker tells a router that has joined a subnet.
func routerBlocker(s *cloud.Session, p port, r router) *kindv1.Blocker {
	subnets := make([]string, 0, len(p.FixedIPs))
	for _, f := range p.FixedIPs {
		subnets = append(subnets, f.SubnetID)
	}
	return &kindv1.Blocker{
		Kind: "router interface", Id: p.ID, Owner: "router " + p.DeviceID + " of " + whoseRouter(s, r, p.ProjectID),
		Action: "detach subnet " + strings.Join(subnets, ", ") + " from router " + p.DeviceID,
	}
}

// whoseRouter says whose a router is; of one that is not shown to us only the project of its port is known.
func whoseRouter(s *cloud.Session, r router, project string) string {
	_, resource, _ := cloud.ParseDescription(r.Description)
	if r.ProjectID != "" {
		project = r.ProjectID
	}
	return s.Whose(resource, r.Name, project)
}

// strangers tells the interfaces of a router by which it joins subnets that are not Weft's. They are somebody else's to
// detach: their hosts lose the router. Weft's own subnets bear the mark.
func (d *Routers) strangers(ctx context.Context, standing []port) (map[string]subnet, error) {
	var ids []string
	for _, p := range standing {
		for _, f := range p.FixedIPs {
			ids = append(ids, f.SubnetID)
		}
	}
	if len(ids) == 0 {
		return map[string]subnet{}, nil
	}
	known, err := NewSubnets(d.s).byIDs(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := map[string]subnet{}
	for _, p := range standing {
		for _, f := range p.FixedIPs {
			s, shown := known[f.SubnetID]
			if _, _, ours := cloud.ParseDescription(s.Description); !shown || !ours {
				s.ID = f.SubnetID
				out[p.ID] = s
			}
		}
	}
	return out, nil
}

// strangerBlockers tells the subnets of others on a router.
func (d *Routers) strangerBlockers(id string, standing []port, strangers map[string]subnet) []*kindv1.Blocker {
	out := []*kindv1.Blocker{}
	for _, p := range standing {
		s, ok := strangers[p.ID]
		if !ok {
			continue
		}
		out = append(out, &kindv1.Blocker{
			Kind: "router interface", Id: p.ID, Owner: "subnet " + s.ID + " of " + d.s.Whose("", s.Name, s.ProjectID),
			Action: "have the owner of subnet " + s.ID + " detach it from router " + id + ", through which its hosts reach others",
		})
	}
	return out
}

// blocker says whose a floating IP is that needs a router, and where it leads.
func (f floatingIP) blocker(s *cloud.Session) *kindv1.Blocker {
	leads := "leads to " + f.FixedAddress
	if f.FixedAddress == "" {
		leads = "has port mappings"
	}
	_, resource, _ := cloud.ParseDescription(f.Description)
	b := &kindv1.Blocker{Kind: "floating IP", Id: f.ID, Owner: s.Whose(resource, "", f.ProjectID, f.Address, leads), Action: "delete floating IP " + f.Address + ", or lead it nowhere"}
	if resource != "" {
		b.Action = "delete " + resource + " in Weft"
	}
	return b
}

// strange tells what a floating IP leads to if that is not Weft's: somebody has taken the address into use, and would lose
// it. Weft's own is a port of a server that bears the mark, or a port that bears it.
func (d *FloatingIPs) strange(ctx context.Context, id string) ([]*kindv1.Blocker, error) {
	f, err := d.one(ctx, id)
	if fault.Is(err, fault.NotFound) || err == nil && f.PortID == "" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := ports(d.s).one(ctx, f.PortID)
	if fault.Is(err, fault.NotFound) {
		return nil, nil // it is gone meanwhile, and leads nowhere any more
	}
	if err != nil {
		return nil, err
	}
	if _, _, ours := cloud.ParseDescription(p.Description); ours {
		return nil, nil
	}
	if ours, err := p.balancedByUs(ctx, d.s); err != nil || ours {
		return nil, err
	}
	known, err := lookAround(ctx, d.s, []port{p})
	if err != nil || known.servers[p.DeviceID].Key != "" {
		return nil, err
	}
	b := p.blocker(d.s, known)
	b.Action = fmt.Sprintf("have its owner give up floating IP %s (lead it nowhere: unset its port), which leads to %s", f.Address, f.FixedAddress)
	return []*kindv1.Blocker{b}, nil
}

// balancedByUs tells a port that has the address of a load balancer of Weft. The load balancer service makes the port, so
// it is the load balancer that bears the mark.
func (p port) balancedByUs(ctx context.Context, s *cloud.Session) (bool, error) {
	if !strings.HasPrefix(p.DeviceOwner, "Octavia") {
		return false, nil
	}
	found, err := NewLoadBalancers(s).list(ctx, url.Values{"id": {strings.TrimPrefix(p.DeviceID, "lb-")}})
	if err != nil || len(found) == 0 {
		return false, err
	}
	_, _, ours := cloud.ParseDescription(found[0].Description)
	return ours, nil
}

// mapping is one port mapping on a floating IP.
type mapping struct {
	ID           string `json:"id"`
	Description  string `json:"description"`
	Protocol     string `json:"protocol"`
	ExternalPort int    `json:"external_port"`
	InternalIP   string `json:"internal_ip_address"`
	InternalPort int    `json:"internal_port"`
}

// blocker says where a mapping leads, and whose it is.
func (m mapping) blocker(s *cloud.Session, floatingIP string) *kindv1.Blocker {
	_, resource, _ := cloud.ParseDescription(m.Description)
	b := &kindv1.Blocker{
		Kind: "port forwarding", Id: m.ID, Owner: s.Whose(resource, "", "", fmt.Sprintf("%s %d leads to %s:%d", m.Protocol, m.ExternalPort, m.InternalIP, m.InternalPort)),
		Action: "delete port forwarding " + m.ID + " of floating IP " + floatingIP,
	}
	if resource != "" {
		b.Action = "delete " + resource + " in Weft"
	}
	return b
}
