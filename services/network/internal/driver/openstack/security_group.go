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
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/rules"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

type securityGroup struct {
	base
	Name  string         `json:"name"`
	Rules []standingRule `json:"security_group_rules"`
}

// standingRule is a rule as the cloud tells it; null fields are left at their zero.
type standingRule struct {
	ID string `json:"id"`
	groupRule
}

// groupRule is what a rule says. It is comparable, so that rules can be told apart.
type groupRule struct {
	Direction   string `json:"direction"`
	EtherType   string `json:"ethertype"`
	Protocol    string `json:"protocol"`
	PortMin     int    `json:"port_range_min"`
	PortMax     int    `json:"port_range_max"`
	RemoteCIDR  string `json:"remote_ip_prefix"`
	RemoteGroup string `json:"remote_group_id"`
}

// normal gives the rule in one spelling: the cloud may know a protocol by several names, and 0.0.0.0/0 is anywhere.
func (r groupRule) normal() groupRule {
	switch r.Protocol {
	case "any":
		r.Protocol = ""
	case "icmpv6", "58":
		r.Protocol = "ipv6-icmp"
	case "1":
		r.Protocol = "icmp"
	case "6":
		r.Protocol = "tcp"
	case "17":
		r.Protocol = "udp"
	}
	if p, err := netip.ParsePrefix(r.RemoteCIDR); err == nil {
		r.RemoteCIDR = p.Masked().String()
		if p.Bits() == 0 {
			r.RemoteCIDR = ""
		}
	}
	return r
}

// leaving are the rules that the cloud gives every new group: whatever leaves is allowed.
var leaving = []groupRule{{Direction: "egress", EtherType: "IPv4"}, {Direction: "egress", EtherType: "IPv6"}}

// SecurityGroups is the driver of SecurityGroup. The group is made bare; its rules are calls of their own and belong to
// Update.
type SecurityGroups struct{ objects[securityGroup] }

// NewSecurityGroups makes the driver.
func NewSecurityGroups(s *cloud.Session) *SecurityGroups {
	return &SecurityGroups{objects[securityGroup]{s: s, path: "security-groups", field: "security_groups"}}
}

// NeedsUpdate implements driver.TwoStep.
func (d *SecurityGroups) NeedsUpdate() bool { return true }

// Find implements driver.Driver.
func (d *SecurityGroups) Find(ctx context.Context, r driver.Request[*networkv1.SecurityGroupSpec]) ([]string, error) {
	return d.find(ctx, r.Key, r.Name)
}

// Create implements driver.Driver.
func (d *SecurityGroups) Create(ctx context.Context, r driver.Request[*networkv1.SecurityGroupSpec]) (string, error) {
	c, err := d.client(ctx)
	if err != nil {
		return "", err
	}
	id, err := d.created(ctx, groups.Create(ctx, c, groups.CreateOpts{Name: cloud.LastPart(r.Name), Description: cloud.Description(r.Key, r.Name)}).Result, "security_group")
	return id, cloud.Fault(err, "create security group %s", r.Name)
}

// Told implements driver.Teller: the answers to the group's create and to that of its rules hold all its rules.
func (d *SecurityGroups) Told(ctx context.Context, id string) (driver.Observation[*networkv1.SecurityGroupObserved], bool) {
	g, ok := d.told(ctx, id)
	return g.observation(), ok
}

// Observe implements driver.Driver. A group has no status: it works as soon as it exists.
func (d *SecurityGroups) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[*networkv1.SecurityGroupObserved], error) {
	all, err := d.byIDs(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := make(map[string]driver.Observation[*networkv1.SecurityGroupObserved], len(all))
	for id, g := range all {
		out[id] = g.observation()
	}
	return out, nil
}

func (g securityGroup) observation() driver.Observation[*networkv1.SecurityGroupObserved] {
	return driver.Observation[*networkv1.SecurityGroupObserved]{
		State:    driver.Ready,
		Observed: &networkv1.SecurityGroupObserved{SecurityGroupId: g.ID, RuleCount: ruleCount(g.Rules)},
		Facts:    map[string]string{"security_group_rules": ruleTexts(g.Rules)},
	}
}

// ruleTexts writes rules one a line, in an order of their own.
func ruleTexts(standing []standingRule) string {
	lines := make([]string, 0, len(standing))
	for _, s := range standing {
		r := s.normal()
		lines = append(lines, fmt.Sprintf("%s %s %s %d-%d %s%s", r.Direction, r.EtherType, r.Protocol, r.PortMin, r.PortMax, r.RemoteCIDR, r.RemoteGroup))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// ruleCount counts the rules that a spec has: those that differ in the address family alone are one, and those that let
// everything leave are none.
func ruleCount(standing []standingRule) int32 {
	distinct := map[groupRule]bool{}
	for _, s := range standing {
		r := s.normal()
		if r == leaving[0] || r == leaving[1] {
			continue
		}
		if r.RemoteCIDR == "" {
			r.EtherType = ""
		}
		if r.Protocol == "ipv6-icmp" {
			r.Protocol = "icmp"
		}
		distinct[r] = true
	}
	return int32(len(distinct)) // a quota keeps it far below the bound
}

// Update implements driver.Driver: rules that are missing are added in one call, then rules that are too many go.
func (d *SecurityGroups) Update(ctx context.Context, id string, r driver.Request[*networkv1.SecurityGroupSpec]) error {
	wanted, err := rulesOf(r)
	if err != nil {
		return err
	}
	standing, err := d.one(ctx, id)
	if err != nil {
		return err
	}
	c, err := d.client(ctx)
	if err != nil {
		return err
	}
	missing, extra := ruleDiff(standing.Rules, append(wanted, leaving...))
	_, fresh := d.told(ctx, id)
	d.forget(ctx, id)
	added, err := addRules(ctx, c, id, missing)
	if err != nil {
		return cloud.Fault(err, "add rules to security group %s", r.Name)
	}
	if fresh && len(added) == len(missing) && len(extra) == 0 {
		standing.Rules = append(standing.Rules, added...)
		d.tell(ctx, standing)
	}
	for _, e := range extra {
		err := cloud.Fault(rules.Delete(ctx, c, e.ID).ExtractErr(), "delete a rule of security group %s", r.Name)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	return nil
}

// ruleDiff tells which wanted rules do not stand, and which standing ones are not wanted.
func ruleDiff(standing []standingRule, wanted []groupRule) (missing []groupRule, extra []standingRule) {
	want := map[groupRule]bool{}
	for _, w := range wanted {
		want[w.normal()] = true
	}
	have := map[groupRule]bool{}
	for _, s := range standing {
		have[s.normal()] = true
		if !want[s.normal()] {
			extra = append(extra, s)
		}
	}
	for _, w := range wanted {
		if n := w.normal(); !have[n] {
			have[n] = true // a rule that is wanted twice is made once
			missing = append(missing, n)
		}
	}
	return missing, extra
}

// addRules makes rules, all in one call, and gives them as the answer shows them.
func addRules(ctx context.Context, c *gophercloud.ServiceClient, id string, missing []groupRule) ([]standingRule, error) {
	if len(missing) == 0 {
		return nil, nil
	}
	opts := make([]rules.CreateOpts, 0, len(missing))
	for _, m := range missing {
		opts = append(opts, rules.CreateOpts{
			SecGroupID: id, Direction: rules.RuleDirection(m.Direction), EtherType: rules.RuleEtherType(m.EtherType), Protocol: rules.RuleProtocol(m.Protocol),
			PortRangeMin: m.PortMin, PortRangeMax: m.PortMax, RemoteIPPrefix: m.RemoteCIDR, RemoteGroupID: m.RemoteGroup,
		})
	}
	var answer struct {
		Rules []standingRule `json:"security_group_rules"`
	}
	err := rules.CreateBulk(ctx, c, opts).ExtractInto(&answer)
	return answer.Rules, err
}

// rulesOf gives the rules that a spec asks for, as the cloud knows them. A rule without a range applies to both address
// families, which are two rules at the cloud.
func rulesOf(r driver.Request[*networkv1.SecurityGroupSpec]) ([]groupRule, error) {
	var out []groupRule
	for i, spec := range r.Spec.GetRules() {
		at := "spec.rules[" + strconv.Itoa(i) + "]"
		remote := ""
		if name := spec.GetRemoteGroup(); name != "" {
			id, err := cloud.Ref(r.Refs, at+".remoteGroup", name, func(g *networkv1.SecurityGroup) string { return g.GetObserved().GetSecurityGroupId() })
			if err != nil {
				return nil, err
			}
			remote = id
		}
		some, err := rulesFor(at, spec, remote)
		if err != nil {
			return nil, err
		}
		out = append(out, some...)
	}
	return out, nil
}

// rulesFor gives one rule of a spec as the cloud knows it. The error is Invalid and names the field below at.
func rulesFor(at string, spec *networkv1.SecurityGroupRule, remoteGroup string) ([]groupRule, error) {
	r := groupRule{Direction: "ingress", RemoteGroup: remoteGroup}
	if spec.GetDirection() == networkv1.Direction_DIRECTION_EGRESS {
		r.Direction = "egress"
	}
	if spec.GetRemoteCidr() != "" && spec.GetRemoteGroup() != "" {
		return nil, fault.InField(at, "give either remoteCidr or remoteGroup")
	}
	var err error
	if r.PortMin, r.PortMax, err = portRange(at, spec); err != nil {
		return nil, err
	}
	protocol := map[networkv1.Protocol]string{networkv1.Protocol_PROTOCOL_TCP: "tcp", networkv1.Protocol_PROTOCOL_UDP: "udp", networkv1.Protocol_PROTOCOL_ICMP: "icmp"}[spec.GetProtocol()]
	v4, v6 := r, r
	v4.EtherType, v4.Protocol = "IPv4", protocol
	v6.EtherType, v6.Protocol = "IPv6", strings.Replace(protocol, "icmp", "ipv6-icmp", 1)
	if spec.GetRemoteCidr() == "" {
		return []groupRule{v4, v6}, nil
	}
	p, err := netip.ParsePrefix(spec.GetRemoteCidr())
	if err != nil {
		return nil, fault.InField(at+".remoteCidr", "%q is no range in CIDR notation, e.g. 10.20.0.0/24", spec.GetRemoteCidr())
	}
	if p.Addr().Is6() {
		v6.RemoteCIDR = p.Masked().String()
		return []groupRule{v6}, nil
	}
	v4.RemoteCIDR = p.Masked().String()
	return []groupRule{v4}, nil
}

// portRange reads ports, e.g. 80 or 8000-8080; 0, 0 means all.
func portRange(at string, spec *networkv1.SecurityGroupRule) (from, to int, err error) {
	text := spec.GetPorts()
	if text == "" {
		return 0, 0, nil
	}
	if p := spec.GetProtocol(); p != networkv1.Protocol_PROTOCOL_TCP && p != networkv1.Protocol_PROTOCOL_UDP {
		return 0, 0, fault.InField(at+".protocol", "ports need protocol PROTOCOL_TCP or PROTOCOL_UDP")
	}
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	from, errFrom := strconv.Atoi(first)
	to, errTo := strconv.Atoi(last)
	if errFrom != nil || errTo != nil || from < 1 || to > 65535 || from > to {
		return 0, 0, fault.InField(at+".ports", "%q is no port from 1 to 65535 and no range of them, e.g. 8000-8080", text)
	}
	return from, to, nil
}

// Delete implements driver.Driver.
func (d *SecurityGroups) Delete(ctx context.Context, id string) error {
	c, err := d.client(ctx)
	if err != nil {
		return err
	}
	return gone(groups.Delete(ctx, c, id).ExtractErr(), "security group", id)
}

// Blockers implements driver.Blockable: the ports that bear the group.
func (d *SecurityGroups) Blockers(ctx context.Context, id string) ([]*kindv1.Blocker, error) {
	return portBlockers(ctx, d.s, url.Values{"security_groups": {id}}, func(p port) string { return "take security group " + id + " off port " + p.ID })
}

// Check implements driver.Checker: rules that make sense, and the quota.
func (d *SecurityGroups) Check(ctx context.Context, items []driver.Item[*networkv1.SecurityGroupSpec]) ([]driver.Finding, []driver.QuotaUse, error) {
	var findings []driver.Finding
	var ruleNeed int64
	for _, i := range items {
		if i.Spec == nil {
			continue
		}
		for at, spec := range i.Spec.GetRules() {
			made, err := rulesFor("spec.rules["+strconv.Itoa(at)+"]", spec, spec.GetRemoteGroup())
			if err != nil {
				findings = append(findings, driver.Finding{Name: i.Name, Field: fault.Field(err), Fault: err})
			}
			ruleNeed += int64(len(made))
		}
		for _, spec := range i.Former.GetRules() {
			if made, err := rulesFor("", spec, spec.GetRemoteGroup()); err == nil {
				ruleNeed -= int64(len(made))
			}
		}
		if isMade(i) {
			ruleNeed += int64(len(leaving))
		}
	}
	uses, err := quotaUses(ctx, d.s, map[string]int64{"security_group": made(items), "security_group_rule": max(ruleNeed, 0)})
	return findings, uses, err
}
