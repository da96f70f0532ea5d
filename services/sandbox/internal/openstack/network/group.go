package network

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

// defaultGroups makes the default security group of whoever lists, and of the projects that an admin asks for: Neutron makes
// them when they are looked for.
func (s *Service) defaultGroups(r *rest.Request) {
	if r.Token.ProjectID != "" {
		s.defaultGroup(r, r.Token.ProjectID)
	}
	for _, project := range append(slices.Clone(r.Query["project_id"]), r.Query["tenant_id"]...) {
		if r.Token.Admin() && project != "" {
			s.defaultGroup(r, project)
		}
	}
}

// defaultGroup yields the default security group of a project and makes it when the project is seen first.
func (s *Service) defaultGroup(r *rest.Request, project string) *Group {
	for _, g := range s.groups.By(byProject, project) {
		if g.Name == "default" {
			return g
		}
	}
	now := r.Now.Truncate(time.Second)
	g := &Group{Standard: Standard{ID: rest.NewID(), Name: "default", Project: project, Description: "Default security group", CreatedAt: now, UpdatedAt: now, Revision: 1, Seeded: true}, Stateful: true}
	s.groups.Put(g.ID, g)
	for _, ether := range []string{"IPv4", "IPv6"} {
		s.addRule(now, g, Rule{Direction: "egress", EtherType: ether})
		s.addRule(now, g, Rule{Direction: "ingress", EtherType: ether, RemoteGroup: g.ID})
	}
	return g
}

func (s *Service) addRule(now time.Time, g *Group, rule Rule) {
	rule.Standard = Standard{ID: rest.NewID(), Project: g.Project, CreatedAt: now, UpdatedAt: now, Seeded: g.Seeded}
	rule.Group, rule.Auto = g.ID, true
	s.rules.Put(rule.ID, &rule)
}

func (s *Service) viewGroup(r *rest.Request, o object) rest.M {
	g := o.(*Group)
	rules := []rest.M{}
	for _, rule := range s.rules.By(byNetwork, g.ID) {
		rules = append(rules, s.viewRule(r, rule))
	}
	return g.common(rest.M{"name": g.Name, "stateful": g.Stateful, "shared": false, "security_group_rules": rules})
}

func (s *Service) createGroup(r *rest.Request, in rest.M) (object, error) {
	g := &Group{Standard: newStandard(r, in), Stateful: true}
	setBool(in, "stateful", &g.Stateful)
	s.defaultGroup(r, g.Project)
	if g.Name == "default" {
		return nil, conflict("SecurityGroupDefaultAlreadyExists", "Default security group already exists.")
	}
	if err := s.checkQuota(g.Project, "security_group", 1); err != nil {
		return nil, err
	}
	if err := s.checkQuota(g.Project, "security_group_rule", 2); err != nil {
		return nil, err
	}
	s.groups.Put(g.ID, g)
	for _, ether := range []string{"IPv4", "IPv6"} {
		s.addRule(r.Now.Truncate(time.Second), g, Rule{Direction: "egress", EtherType: ether})
	}
	return g, nil
}

func (s *Service) updateGroup(r *rest.Request, o object, in rest.M) (object, error) {
	g := *o.(*Group)
	if name, ok := in["name"].(string); ok && g.Name == "default" && name != "default" {
		return nil, conflict("SecurityGroupCannotUpdateDefault", "Updating default security group not allowed.")
	}
	if _, ok := in["stateful"]; ok && len(s.ports.By(byGroup, g.ID)) > 0 {
		return nil, conflict("SecurityGroupInUse", "Security Group %s in use.", g.ID)
	}
	setBool(in, "stateful", &g.Stateful)
	g.change(r, in)
	s.groups.Put(g.ID, &g)
	return &g, nil
}

func (s *Service) removeGroup(r *rest.Request, o object) error {
	g := o.(*Group)
	if s.ports.Count(byGroup, g.ID) > 0 {
		return conflict("SecurityGroupInUse", "Security Group %s in use.", g.ID)
	}
	if g.Name == "default" && !r.Token.Admin() {
		return conflict("SecurityGroupCannotRemoveDefault", "Insufficient rights for removing default security group.")
	}
	for _, rule := range s.rules.By(byNetwork, g.ID) {
		s.rules.Delete(rule.ID)
	}
	s.groups.Delete(g.ID)
	return nil
}

func (s *Service) viewRule(r *rest.Request, o object) rest.M {
	u := o.(*Rule)
	v := u.common(rest.M{
		"security_group_id": u.Group, "ethertype": u.EtherType, "direction": u.Direction, "protocol": optional(u.Protocol),
		"port_range_min": nil, "port_range_max": nil, "remote_ip_prefix": optional(u.RemotePrefix), "remote_address_group_id": nil,
		"normalized_cidr": optional(u.RemotePrefix), "remote_group_id": optional(u.RemoteGroup),
	})
	if u.Auto {
		v["description"] = nil
	}
	if r.HTTP != nil && r.HTTP.Method == http.MethodPost && strings.HasSuffix(r.HTTP.URL.Path, "-rules") {
		delete(v, "tags")
	}
	if u.PortMin != nil {
		v["port_range_min"] = *u.PortMin
	}
	if u.PortMax != nil {
		v["port_range_max"] = *u.PortMax
	}
	return v
}

// protocols that rules may name; the numbers 0 to 255 are accepted, too.
var protocols = []string{
	"ah", "dccp", "egp", "esp", "gre", "hopopt", "icmp", "igmp", "ip", "ipip", "ipv6-encap", "ipv6-frag", "ipv6-icmp", "icmpv6",
	"ipv6-nonxt", "ipv6-opts", "ipv6-route", "ospf", "pgm", "rsvp", "sctp", "tcp", "udp", "udplite", "vrrp",
}

// protocolNumbers let a rule by number equal the one by name.
var protocolNumbers = map[string]string{"1": "icmp", "6": "tcp", "17": "udp", "58": "ipv6-icmp", "icmpv6": "ipv6-icmp", "132": "sctp"}

func sameProtocol(p string) string {
	if name := protocolNumbers[p]; name != "" {
		return name
	}
	return p
}

func number(v any) *int {
	f, ok := v.(float64)
	if !ok {
		n, err := strconv.Atoi(fmt.Sprint(v))
		if err != nil {
			return nil
		}
		return &n
	}
	n := int(f)
	return &n
}

func (s *Service) readRule(r *rest.Request, in rest.M) (*Rule, error) {
	u := &Rule{Standard: newStandard(r, in), EtherType: "IPv4"}
	u.Revision = 0
	setString(in, "security_group_id", &u.Group)
	g := s.groups.Get(u.Group)
	if g == nil || !owned(r.Token, g) {
		return nil, s.kinds["security_group"].notFound(u.Group)
	}
	u.Project = g.Project
	u.Direction = fmt.Sprint(in["direction"])
	if u.Direction != "ingress" && u.Direction != "egress" {
		return nil, badRequest("Invalid input for direction. Reason: %s is not in valid_values.", u.Direction)
	}
	if v, ok := in["ethertype"].(string); ok {
		at := slices.IndexFunc([]string{"IPv4", "IPv6"}, func(e string) bool { return strings.EqualFold(e, v) })
		if at < 0 {
			return nil, badRequest("Invalid input for ethertype. Reason: %s is not in valid_values.", v)
		}
		u.EtherType = []string{"IPv4", "IPv6"}[at]
	}
	if v := in["protocol"]; v != nil && v != "any" {
		u.Protocol = strings.ToLower(fmt.Sprint(v))
		n, err := strconv.Atoi(u.Protocol)
		if !slices.Contains(protocols, u.Protocol) && (err != nil || n < 0 || n > 255) {
			return nil, rest.Errorf(http.StatusBadRequest, "SecurityGroupRuleInvalidProtocol", "Security group rule protocol %s not supported. Only protocol values [None, '%s'] and integer representations [0 to 255] are supported.", u.Protocol, strings.Join(protocols, "', '"))
		}
	}
	u.PortMin, u.PortMax = number(in["port_range_min"]), number(in["port_range_max"])
	if prefix, ok := in["remote_ip_prefix"].(string); ok && prefix != "" {
		cidr, ok := parseCIDR(prefix)
		if !ok {
			return nil, badRequest("Invalid input for remote_ip_prefix. Reason: '%s' is not a valid IP subnet.", prefix)
		}
		if cidr.Addr().Is4() != (u.EtherType == "IPv4") {
			return nil, rest.Errorf(http.StatusBadRequest, "SecurityGroupRuleParameterConflict", "Conflicting value ethertype %s for CIDR %s", u.EtherType, prefix)
		}
		u.RemotePrefix = cidr.String()
	}
	setString(in, "remote_group_id", &u.RemoteGroup)
	return u, u.check(s, r)
}

func (u *Rule) check(s *Service, r *rest.Request) error {
	if u.RemotePrefix != "" && u.RemoteGroup != "" {
		return rest.Errorf(http.StatusBadRequest, "SecurityGroupMultipleRemoteEntites", "Only one of remote_ip_prefix or remote_group_id or remote_address_group_id may be provided.")
	}
	if u.RemoteGroup != "" {
		if g := s.groups.Get(u.RemoteGroup); g == nil || !owned(r.Token, g) {
			return s.kinds["security_group"].notFound(u.RemoteGroup)
		}
	}
	if u.PortMin == nil && u.PortMax == nil {
		return nil
	}
	switch sameProtocol(u.Protocol) {
	case "":
		return rest.Errorf(http.StatusBadRequest, "SecurityGroupProtocolRequiredWithPorts", "Must also specify protocol if port range is given.")
	case "tcp", "udp", "sctp", "udplite", "dccp":
		if u.PortMin == nil || u.PortMax == nil || *u.PortMin > *u.PortMax {
			return rest.Errorf(http.StatusBadRequest, "SecurityGroupInvalidPortRange", "For TCP/UDP protocols, port_range_min must be <= port_range_max")
		}
		if *u.PortMin < 1 || *u.PortMax > 65535 {
			return rest.Errorf(http.StatusBadRequest, "SecurityGroupInvalidPortValue", "Invalid value for port %d", *u.PortMin)
		}
	case "icmp", "ipv6-icmp":
		if u.PortMin == nil {
			return rest.Errorf(http.StatusBadRequest, "SecurityGroupMissingIcmpType", "ICMP code (port-range-max) %d is provided but ICMP type (port-range-min) is missing.", *u.PortMax)
		}
		if *u.PortMin > 255 || u.PortMax != nil && *u.PortMax > 255 {
			return rest.Errorf(http.StatusBadRequest, "SecurityGroupInvalidIcmpValue", "Invalid value for ICMP type or code. It must be 0 to 255.")
		}
	}
	return nil
}

func sameInt(a, b *int) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }

func (u *Rule) same(o *Rule) bool {
	any4 := func(p string) string {
		if p == "0.0.0.0/0" || p == "::/0" {
			return ""
		}
		return p
	}
	return u.Direction == o.Direction && u.EtherType == o.EtherType && sameProtocol(u.Protocol) == sameProtocol(o.Protocol) &&
		sameInt(u.PortMin, o.PortMin) && sameInt(u.PortMax, o.PortMax) && any4(u.RemotePrefix) == any4(o.RemotePrefix) && u.RemoteGroup == o.RemoteGroup
}

func (s *Service) createRule(r *rest.Request, in rest.M) (object, error) {
	u, err := s.readRule(r, in)
	if err != nil {
		return nil, err
	}
	for _, o := range s.rules.By(byNetwork, u.Group) {
		if u.same(o) {
			return nil, conflict("SecurityGroupRuleExists", "Security group rule already exists. Rule id is %s.", o.ID)
		}
	}
	if err := s.checkQuota(u.Project, "security_group_rule", 1); err != nil {
		return nil, err
	}
	s.rules.Put(u.ID, u)
	s.touchGroup(r.Now, u.Group)
	return u, nil
}

func (s *Service) removeRule(r *rest.Request, o object) error {
	s.rules.Delete(o.std().ID)
	s.touchGroup(r.Now, o.(*Rule).Group)
	return nil
}

func (s *Service) touchGroup(now time.Time, id string) {
	if g := s.groups.Get(id); g != nil {
		g.touch(now)
		s.groups.Put(id, g)
	}
}
