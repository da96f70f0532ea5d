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

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// Objects of the network service that somebody else made become resources by their description, which is where the mark
// stands. What stood there before is given back if the adoption is undone.

// described reads objects of the project, by id or all, and has each described by spec. What another project shares, or the
// cloud's own, is left out: it cannot be taken.
func described[T interface{ common() base }](ctx context.Context, o objects[T], ids []string, describe func(T) (driver.Described, error)) ([]driver.Described, error) {
	var all []T
	var err error
	if len(ids) == 0 {
		all, err = o.list(ctx, url.Values{"project_id": {o.s.ProjectID}, "limit": {"1000"}})
	} else {
		var byID map[string]T
		byID, err = o.byIDs(ctx, ids)
		for _, item := range byID {
			all = append(all, item)
		}
	}
	if err != nil {
		return nil, err
	}
	out := []driver.Described{}
	for _, item := range all {
		b := item.common()
		if b.ProjectID != "" && b.ProjectID != o.s.ProjectID {
			continue
		}
		d, err := describe(item)
		if err != nil {
			return nil, err
		}
		d.ID, d.Before = b.ID, b.Description
		if key, owner, marked := cloud.ParseDescription(b.Description); marked {
			d.Key, d.Owner, d.Before = key, owner, ""
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b driver.Described) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// Mark implements driver.Importer.
func (o objects[T]) Mark(ctx context.Context, id, key, name string) error {
	item, err := o.one(ctx, id)
	if err != nil {
		return err
	}
	mark, seen := cloud.Description(key, name), item.common().Description
	if seen == mark {
		return nil
	}
	if other, _, marked := cloud.ParseDescription(seen); marked && other != key {
		return fault.New(fault.Exists, "%s %s bears the key %s already", o.path, id, other)
	}
	return o.describeAs(ctx, id, mark)
}

// Unmark implements driver.Importer.
func (o objects[T]) Unmark(ctx context.Context, id, key, before string) error {
	item, err := o.one(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if seen, _, marked := cloud.ParseDescription(item.common().Description); !marked || seen != key {
		return nil
	}
	return o.describeAs(ctx, id, before)
}

// describeAs gives an object a description.
func (o objects[T]) describeAs(ctx context.Context, id, text string) error {
	c, err := o.client(ctx)
	if err != nil {
		return err
	}
	one := strings.TrimSuffix(o.field, "s")
	resp, err := c.Put(ctx, c.ServiceURL(o.path, id), map[string]any{one: map[string]string{"description": text}}, nil, &gophercloud.RequestOpts{OkCodes: []int{200}})
	if err != nil {
		return cloud.Fault(err, "describe %s %s", one, id)
	}
	return cloud.Fault(resp.Body.Close(), "describe %s %s", one, id)
}

// Describe implements driver.Importer. What else has a port on the network is an obstacle: it hangs on the network and
// would be left out.
func (d *Networks) Describe(ctx context.Context, ids []string) ([]driver.Described, error) {
	strange := map[string][]string{}
	all, err := ports(d.s).list(ctx, url.Values{"project_id": {d.s.ProjectID}, "limit": {"1000"}})
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if known := strings.HasPrefix(p.DeviceOwner, "compute:") || strings.HasPrefix(p.DeviceOwner, "network:"); !known {
			who := p.DeviceOwner
			if who == "" {
				who = "nobody"
			}
			strange[p.NetworkID] = append(strange[p.NetworkID], fmt.Sprintf("port %s of %s is on it, which no kind of Weft's describes", p.ID, who))
		}
	}
	return described(ctx, d.objects, ids, func(n network) (driver.Described, error) {
		out := driver.Described{Name: n.Name, Obstacles: strange[n.ID]}
		out.Spec = &networkv1.NetworkSpec{Mtu: int32(n.MTU)} // a size of packets is far below the bound
		if n.External || n.Shared {
			out.Obstacles = append(out.Obstacles, "it is shared with other projects")
		}
		return out, nil
	})
}

// Describe implements driver.Importer.
func (d *Subnets) Describe(ctx context.Context, ids []string) ([]driver.Described, error) {
	return described(ctx, d.objects, ids, func(s subnet) (driver.Described, error) {
		spec := &networkv1.SubnetSpec{Network: s.NetworkID, Cidr: s.CIDR, DnsServers: s.DNS, DhcpDisabled: !s.EnableDHCP}
		out := driver.Described{Name: s.Name, Spec: spec}
		p, err := netip.ParsePrefix(s.CIDR)
		if err != nil {
			return out, fault.New(fault.Unavailable, "the cloud gives %q as the range of subnet %s", s.CIDR, s.ID)
		}
		gateway, err := netip.ParseAddr(s.GatewayIP)
		switch {
		case err != nil:
			out.Obstacles = append(out.Obstacles, "it has no gateway")
		case gateway != p.Masked().Addr().Next():
			spec.GatewayIp = s.GatewayIP
		}
		if len(s.HostRoutes) > 0 {
			out.Obstacles = append(out.Obstacles, "it gives its hosts routes of their own")
		}
		return out, nil
	})
}

// Describe implements driver.Importer.
func (d *Routers) Describe(ctx context.Context, ids []string) ([]driver.Described, error) {
	joined, err := ports(d.s).list(ctx, url.Values{"project_id": {d.s.ProjectID}, "limit": {"1000"}})
	if err != nil {
		return nil, err
	}
	subnets := map[string][]string{}
	for _, p := range joined {
		if !isRouterInterface(p.DeviceOwner) {
			continue
		}
		for _, f := range p.FixedIPs {
			subnets[p.DeviceID] = append(subnets[p.DeviceID], f.SubnetID)
		}
	}
	return described(ctx, d.objects, ids, func(r router) (driver.Described, error) {
		slices.Sort(subnets[r.ID])
		spec := &networkv1.RouterSpec{Subnets: slices.Compact(subnets[r.ID])}
		out := driver.Described{Name: r.Name, Spec: spec}
		if r.Gateway != nil {
			name, err := externalName(ctx, d.s, r.Gateway.NetworkID)
			if err != nil {
				return out, err
			}
			spec.ExternalNetwork = name
		}
		if len(r.Routes) > 0 {
			out.Obstacles = append(out.Obstacles, "it has routes of its own")
		}
		return out, nil
	})
}

// externalName gives how documents call an external network: its name if only it has that name, else its id.
func externalName(ctx context.Context, s *cloud.Session, id string) (string, error) {
	n, err := s.ExternalNetwork(ctx, "spec.externalNetwork", id, false)
	if err != nil {
		return "", err
	}
	if n.Name == "" {
		return id, nil
	}
	named, err := s.ExternalNetwork(ctx, "spec.externalNetwork", n.Name, false)
	switch {
	case fault.Is(err, fault.Invalid): // a name of several is none to call it by
		return id, nil
	case err != nil:
		return "", err
	case named.ID != id:
		return id, nil
	}
	return n.Name, nil
}

// Describe implements driver.Importer. The project's own default group is nobody's to take.
func (d *SecurityGroups) Describe(ctx context.Context, ids []string) ([]driver.Described, error) {
	return described(ctx, d.objects, ids, func(g securityGroup) (driver.Described, error) {
		out := driver.Described{Name: g.Name}
		spec := &networkv1.SecurityGroupSpec{}
		spec.Rules, out.Obstacles = specRules(g.Rules)
		out.Spec = spec
		if g.Name == "default" {
			out.Obstacles = append(out.Obstacles, "it is the project's default group")
		}
		return out, nil
	})
}

// specRules gives the rules of a spec that stand for those of a group: two that differ in the address family alone, and
// have no range, are one. Those that a spec cannot say are obstacles.
func specRules(standing []standingRule) (out []*networkv1.SecurityGroupRule, obstacles []string) {
	have := map[groupRule]bool{}
	for _, s := range standing {
		have[s.normal()] = true
	}
	for i, l := range leaving {
		if !have[l] {
			obstacles = append(obstacles, "not all may leave by "+leaving[i].EtherType+", and a SecurityGroup always lets it")
		}
	}
	lines := []string{}
	byText := map[string]*networkv1.SecurityGroupRule{}
	for r := range have {
		if r == leaving[0] || r == leaving[1] {
			continue
		}
		rule, obstacle := specRule(r, have)
		if obstacle != "" {
			obstacles = append(obstacles, obstacle)
			continue
		}
		text := fmt.Sprint(rule.GetDirection(), rule.GetProtocol(), rule.GetPorts(), rule.GetRemoteCidr(), rule.GetRemoteGroup())
		if byText[text] == nil {
			byText[text], lines = rule, append(lines, text)
		}
	}
	slices.Sort(lines)
	for _, text := range lines {
		out = append(out, byText[text])
	}
	slices.Sort(obstacles)
	return out, obstacles
}

// specRule gives one rule as a spec has it; obstacle says why there is none.
func specRule(r groupRule, have map[groupRule]bool) (rule *networkv1.SecurityGroupRule, obstacle string) {
	rule = &networkv1.SecurityGroupRule{RemoteCidr: r.RemoteCIDR, RemoteGroup: r.RemoteGroup}
	if r.Direction == "egress" {
		rule.Direction = networkv1.Direction_DIRECTION_EGRESS
	}
	protocols := map[string]networkv1.Protocol{
		"": networkv1.Protocol_PROTOCOL_UNSPECIFIED, "tcp": networkv1.Protocol_PROTOCOL_TCP, "udp": networkv1.Protocol_PROTOCOL_UDP,
		"icmp": networkv1.Protocol_PROTOCOL_ICMP, "ipv6-icmp": networkv1.Protocol_PROTOCOL_ICMP,
	}
	protocol, known := protocols[r.Protocol]
	ported := protocol == networkv1.Protocol_PROTOCOL_TCP || protocol == networkv1.Protocol_PROTOCOL_UDP
	if !known || !ported && (r.PortMin != 0 || r.PortMax != 0) {
		return nil, fmt.Sprintf("it has the rule %s %s %s %d-%d, which a SecurityGroup cannot say", r.Direction, r.EtherType, r.Protocol, r.PortMin, r.PortMax)
	}
	rule.Protocol = protocol
	switch {
	case r.PortMin != 0 && r.PortMin == r.PortMax:
		rule.Ports = strconv.Itoa(r.PortMin)
	case r.PortMin != 0 || r.PortMax != 0:
		rule.Ports = strconv.Itoa(max(r.PortMin, 1)) + "-" + strconv.Itoa(r.PortMax)
	}
	other := r
	other.EtherType = map[string]string{"IPv4": "IPv6", "IPv6": "IPv4"}[r.EtherType]
	other.Protocol = map[string]string{"icmp": "ipv6-icmp", "ipv6-icmp": "icmp"}[r.Protocol]
	if other.Protocol == "" {
		other.Protocol = r.Protocol
	}
	if r.RemoteCIDR != "" || have[other] {
		return rule, ""
	}
	if r.RemoteGroup != "" {
		return nil, "it lets another group in by one address family only, which a SecurityGroup cannot say"
	}
	rule.RemoteCidr = map[string]string{"IPv4": "0.0.0.0/0", "IPv6": "::/0"}[r.EtherType]
	return rule, ""
}

// Describe implements driver.Importer.
func (d *FloatingIPs) Describe(ctx context.Context, ids []string) ([]driver.Described, error) {
	all, err := ports(d.s).list(ctx, url.Values{"project_id": {d.s.ProjectID}, "limit": {"1000"}})
	if err != nil {
		return nil, err
	}
	byID, count := map[string]port{}, map[string]int{}
	for _, p := range all {
		byID[p.ID] = p
		count[p.DeviceID]++
	}
	forwarded, err := NewPortForwardings(d.s).inUse(ctx)
	if err != nil {
		return nil, err
	}
	return described(ctx, d.objects, ids, func(f floatingIP) (driver.Described, error) {
		spec := &networkv1.FloatingIPSpec{}
		out := driver.Described{Name: f.Address, Spec: spec}
		spec.ExternalNetwork, err = externalName(ctx, d.s, f.NetworkID)
		if err != nil {
			return out, err
		}
		if slices.ContainsFunc(forwarded, func(s shared) bool { return s.ID == f.ID && s.Forwardings != nil && len(*s.Forwardings) > 0 }) {
			out.Obstacles = append(out.Obstacles, "it has port forwardings, which are not imported")
		}
		p, known := byID[f.PortID]
		switch {
		case f.PortID == "":
		case !known || !strings.HasPrefix(p.DeviceOwner, "compute:"):
			out.Obstacles = append(out.Obstacles, "it leads to port "+f.PortID+", which is no server's")
		case count[p.DeviceID] > 1:
			out.Obstacles = append(out.Obstacles, "it leads to one of several interfaces of server "+p.DeviceID)
		default:
			spec.Server = p.DeviceID
		}
		return out, nil
	})
}
