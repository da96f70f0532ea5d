package openstack

import (
	"context"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/loadbalancer/v2/providers"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// What a cloud's load balancers can do.
//
// The service tells which providers there are, and not what they can do: it asks a provider when an object is made, and
// not even then when a whole tree is, so that a UDP listener that nobody serves would come out as ACTIVE. So the names are
// asked for, and what is documented of those that are known is held against the spec before anything is made. Of a provider
// that is not known only what all are required to have is believed: TCP, HTTP and HTTPS.

// abilities are what a provider can do.
type abilities struct{ protocols, algorithms, monitors []string }

var (
	// common is what every provider has.
	common = abilities{
		protocols: []string{"TCP", "HTTP", "HTTPS"}, algorithms: []string{"ROUND_ROBIN", "LEAST_CONNECTIONS", "SOURCE_IP"},
		monitors: []string{"TCP", "HTTP", "HTTPS", "TLS-HELLO"},
	}
	amphora = abilities{
		protocols: append([]string{"UDP"}, common.protocols...), algorithms: append([]string{"SOURCE_IP_PORT"}, common.algorithms...),
		monitors: append([]string{"UDP-CONNECT", "PING"}, common.monitors...),
	}
	// ovn is the provider of ovn-octavia-provider, which looks at packets only.
	ovn = abilities{protocols: []string{"TCP", "UDP"}, algorithms: []string{"SOURCE_IP_PORT"}, monitors: []string{"TCP", "UDP-CONNECT"}}
)

// providersKnown are the abilities of the providers of which they are documented, by the names that clouds give them.
var providersKnown = map[string]abilities{"amphora": amphora, "amphorav2": amphora, "octavia": amphora, "ovn": ovn}

func abilitiesOf(provider string) abilities {
	if a, ok := providersKnown[provider]; ok {
		return a
	}
	return common
}

// usualProvider is the provider that clouds use where none is asked for, unless they are set up otherwise, which nobody but
// their operators can see.
const usualProvider = "amphora"

// providerFor gives the provider that makes a load balancer. The error is Invalid if the cloud has none of that name.
func (d *LoadBalancers) providerFor(ctx context.Context, spec *networkv1.LoadBalancerSpec) (string, error) {
	c, err := d.s.LoadBalancer(ctx)
	if err != nil {
		return "", err
	}
	found, err := cloud.List[providers.Provider](ctx, c, "lbaas/providers", "providers", url.Values{})
	if err != nil {
		return "", err
	}
	var names []string
	for _, p := range found {
		names = append(names, p.Name)
	}
	switch asked := spec.GetProvider(); {
	case slices.Contains(names, asked):
		return asked, nil
	case asked != "":
		return "", cloud.Unknown("spec.provider", "provider of load balancers", asked, names)
	case len(names) == 1:
		return names[0], nil
	default:
		return usualProvider, nil
	}
}

// capable says what of a tree the cloud's provider cannot make. The error is Unsupported and names the field.
func (d *LoadBalancers) capable(ctx context.Context, spec *networkv1.LoadBalancerSpec, t tree) error {
	special := func(p pool) bool {
		return p.protocol == "UDP" || p.algorithm == "SOURCE_IP_PORT" || p.monitor != nil && !slices.Contains(common.monitors, p.monitor.kind)
	}
	if spec.GetProvider() == "" && !slices.ContainsFunc(t.pools, special) && !slices.ContainsFunc(t.listeners, func(l listener) bool { return l.protocol == "UDP" }) {
		return nil // no provider that clouds choose by themselves lacks any of it
	}
	provider, err := d.providerFor(ctx, spec)
	if err != nil {
		return err
	}
	return t.within(provider)
}

// within holds a tree to what a provider can do.
func (t tree) within(provider string) error {
	can := abilitiesOf(provider)
	refuse := func(field, what string, among []string) error {
		return &fault.Error{
			Kind: fault.Unsupported, Field: field,
			Message: "provider " + provider + " of this cloud's load balancers has no " + what + "; it has " + strings.Join(among, ", "),
		}
	}
	for i, l := range t.listeners {
		if !slices.Contains(can.protocols, l.protocol) {
			return refuse("spec.listeners["+strconv.Itoa(i)+"].protocol", l.protocol+" listeners", can.protocols)
		}
	}
	for i, p := range t.pools {
		field := "spec.pools[" + strconv.Itoa(i) + "]"
		switch {
		case !slices.Contains(can.protocols, p.protocol):
			return refuse(field+".protocol", p.protocol+" pools", can.protocols)
		case !slices.Contains(can.algorithms, p.algorithm):
			return refuse(field+".algorithm", p.algorithm, can.algorithms)
		case p.monitor != nil && !slices.Contains(can.monitors, p.monitor.kind):
			return refuse(field+".monitor.type", p.monitor.kind+" monitors", can.monitors)
		}
	}
	return nil
}

// Check implements driver.Checker: whether the trees are sound, whether the cloud's provider can make them, and the quotas
// of the load balancer service, and the port that the address takes.
func (d *LoadBalancers) Check(ctx context.Context, items []driver.Item[*networkv1.LoadBalancerSpec]) ([]driver.Finding, []driver.QuotaUse, error) {
	if _, err := d.s.LoadBalancer(ctx); fault.Is(err, fault.Unsupported) {
		var findings []driver.Finding
		for _, i := range items {
			if i.Spec != nil {
				findings = append(findings, driver.Finding{Name: i.Name, Field: "cloud", Fault: fault.Wrap(err, "this cloud has no load balancers")})
			}
		}
		return findings, nil, nil
	}
	var findings []driver.Finding
	need := map[string]int64{}
	for _, i := range items {
		if i.Spec == nil {
			continue
		}
		count(need, i)
		t, err := treeOf(i.Spec)
		if err == nil {
			err = d.capable(ctx, i.Spec, t)
		}
		if err == nil || unknownAt(i.Unknown, fault.Field(err)) {
			continue
		}
		if !fault.Is(err, fault.Invalid) && !fault.Is(err, fault.Unsupported) {
			return nil, nil, err
		}
		findings = append(findings, driver.Finding{Name: i.Name, Field: fault.Field(err), Fault: err})
	}
	uses, err := d.quotas(ctx, need)
	if err != nil {
		return nil, nil, err
	}
	ports, err := quotaUses(ctx, d.s, map[string]int64{"port": made(items)})
	return findings, append(uses, ports...), err
}

// unknownAt tells whether a field, or what it is part of, is not known yet.
func unknownAt(unknown []string, field string) bool {
	field = strings.TrimPrefix(field, "spec.")
	return slices.ContainsFunc(unknown, func(u string) bool {
		u = strings.TrimPrefix(u, "spec.")
		return field != "" && (strings.HasPrefix(field, u) || strings.HasPrefix(u, field))
	})
}

// count adds what a plan needs for an item. A target counts as one member at least: how many it has is known when it is
// there.
func count(need map[string]int64, i driver.Item[*networkv1.LoadBalancerSpec]) {
	sizes := func(s *networkv1.LoadBalancerSpec) map[string]int64 {
		out := map[string]int64{"listener": int64(len(s.GetListeners())), "pool": int64(len(s.GetPools()))}
		for _, p := range s.GetPools() {
			out["member"] += int64(len(p.GetMembers()))
			if p.GetMonitor().GetType() != networkv1.MonitorType_MONITOR_TYPE_NONE {
				out["health_monitor"]++
			}
		}
		return out
	}
	wanted, former := sizes(i.Spec), map[string]int64{}
	switch {
	case isMade(i):
		need["load_balancer"]++
	case i.Former != nil:
		former = sizes(i.Former)
	}
	for name, n := range wanted {
		need[name] += max(n-former[name], 0)
	}
}

// collections are where what a quota counts is listed.
var collections = map[string][2]string{
	"load_balancer": {balancers, "loadbalancers"}, "listener": {"lbaas/listeners", "listeners"}, "pool": {"lbaas/pools", "pools"},
	"member": {"lbaas/pools", "pools"}, "health_monitor": {"lbaas/healthmonitors", "healthmonitors"},
}

// quotas joins needs with the project's quotas. The service tells the limits and not what is used: that is counted, where
// there is a limit.
func (d *LoadBalancers) quotas(ctx context.Context, need map[string]int64) ([]driver.QuotaUse, error) {
	c, err := d.s.LoadBalancer(ctx)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Quota map[string]*int64 `json:"quota"`
	}
	resp, err := c.Get(ctx, c.ServiceURL("lbaas/quotas/"+d.s.ProjectID), &answer, nil)
	if err != nil {
		err = cloud.Fault(err, "read quotas of %s", d.s.Account)
		if fault.Is(err, fault.Denied) || fault.Is(err, fault.NotFound) {
			return nil, nil // a cloud that does not show them
		}
		return nil, err
	}
	if err := resp.Body.Close(); err != nil {
		return nil, cloud.Fault(err, "read quotas of %s", d.s.Account)
	}
	limits := map[string]cloud.Limit{}
	for name := range need {
		limit := answer.Quota[name]
		if limit == nil || need[name] == 0 {
			continue
		}
		used := int64(0)
		if *limit >= 0 {
			if used, err = d.used(ctx, name); err != nil {
				return nil, err
			}
		}
		limits[name] = cloud.Limit{Used: used, Limit: *limit}
	}
	return cloud.QuotaUses("load-balancer", need, limits), nil
}

// used counts what a quota counts.
func (d *LoadBalancers) used(ctx context.Context, quota string) (int64, error) {
	c, err := d.s.LoadBalancer(ctx)
	if err != nil {
		return 0, err
	}
	at := collections[quota]
	all, err := cloud.List[struct {
		Members []struct{} `json:"members"`
	}](ctx, c, at[0], at[1], url.Values{"project_id": {d.s.ProjectID}})
	if err != nil {
		return 0, err
	}
	if quota != "member" {
		return int64(len(all)), nil
	}
	var n int64
	for _, p := range all {
		n += int64(len(p.Members))
	}
	return n, nil
}

// probeBalancers asks the load balancer service what it can do; nothing if there is none.
func probeBalancers(ctx context.Context, s *cloud.Session) ([]driver.Feature, error) {
	feature := func(name, value string) driver.Feature {
		return driver.Feature{Service: "load-balancer", Name: name, Value: value}
	}
	c, err := s.LoadBalancer(ctx)
	if fault.Is(err, fault.Unsupported) {
		return []driver.Feature{feature("endpoint", "none")}, nil
	}
	if err != nil {
		return nil, err
	}
	found, err := cloud.List[providers.Provider](ctx, c, "lbaas/providers", "providers", url.Values{})
	if err != nil {
		return nil, err
	}
	out := []driver.Feature{feature("endpoint", c.Endpoint)}
	for _, p := range found {
		out = append(out, feature("provider "+p.Name, strings.Join(abilitiesOf(p.Name).protocols, ", ")))
	}
	return out, nil
}
