package openstack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/loadbalancer/v2/listeners"
	"github.com/gophercloud/gophercloud/v2/openstack/loadbalancer/v2/loadbalancers"
	"github.com/gophercloud/gophercloud/v2/openstack/loadbalancer/v2/monitors"
	"github.com/gophercloud/gophercloud/v2/openstack/loadbalancer/v2/pools"
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// The driver of LoadBalancer, for OpenStack's load balancer service (Octavia).
//
// The whole tree is made by the one call that makes the load balancer, which bears the mark in its description: the service
// writes all objects in one transaction, and the provider makes them real at once. It is one call for what would be five
// and more, with a wait until the load balancer can be changed again between any two.
//
// # States
//
//	PENDING_*  it is immutable: Progressing; a change is Unfinished, a deletion is told to be blocked by the work
//	ACTIVE     Ready
//	ERROR      nothing but a deletion is taken, and failover is for the cloud's operators: Broken, the loop makes it anew.
//	           Its address changes with that, as the cloud gives another port.

type loadBalancer struct {
	ID          string `json:"id"`
	Description string `json:"description"`
	Status      string `json:"provisioning_status"`
	Operating   string `json:"operating_status"`
	Provider    string `json:"provider"`
	Address     string `json:"vip_address"`
	PortID      string `json:"vip_port_id"`
	NetworkID   string `json:"vip_network_id"`
}

// pending tells whether its provider is at work on it, so that it can neither be changed nor deleted.
func (l loadBalancer) pending() bool { return strings.HasPrefix(l.Status, "PENDING_") }

// LoadBalancers is the driver of LoadBalancer.
type LoadBalancers struct{ s *cloud.Session }

// NewLoadBalancers makes the driver.
func NewLoadBalancers(s *cloud.Session) *LoadBalancers { return &LoadBalancers{s: s} }

// balancers is the path of the collection.
const balancers = "lbaas/loadbalancers"

func (d *LoadBalancers) list(ctx context.Context, query url.Values) ([]loadBalancer, error) {
	c, err := d.s.LoadBalancer(ctx)
	if err != nil {
		return nil, err
	}
	query.Set("project_id", d.s.ProjectID)
	return cloud.List[loadBalancer](ctx, c, balancers, "loadbalancers", query)
}

// Find implements driver.Driver.
func (d *LoadBalancers) Find(ctx context.Context, r driver.Request[*networkv1.LoadBalancerSpec]) ([]string, error) {
	if r.Key == "" {
		return nil, fault.New(fault.Internal, "find load balancer %s: no key is given", r.Name)
	}
	mark := cloud.Description(r.Key, r.Name)
	all, err := d.list(ctx, url.Values{"description": {mark}})
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, l := range all {
		if l.Description == mark {
			ids = append(ids, l.ID)
		}
	}
	return ids, nil
}

// Create implements driver.Driver: the whole tree is made by one call.
func (d *LoadBalancers) Create(ctx context.Context, r driver.Request[*networkv1.LoadBalancerSpec]) (string, error) {
	want, networkID, err := d.wanted(ctx, r)
	if err != nil {
		return "", err
	}
	if err := d.capable(ctx, r.Spec, want); err != nil {
		return "", err
	}
	c, err := d.s.LoadBalancer(ctx)
	if err != nil {
		return "", err
	}
	body := wholeTree{"name": cloud.LastPart(r.Name), "description": cloud.Description(r.Key, r.Name), "vip_network_id": networkID}
	if r.Spec.GetProvider() != "" {
		body["provider"] = r.Spec.GetProvider()
	}
	body["listeners"], body["pools"] = want.body()
	l, err := loadbalancers.Create(ctx, c, body).Extract()
	if err != nil {
		return "", cloud.Fault(err, "create load balancer %s", r.Name)
	}
	return l.ID, nil
}

// wholeTree is the body of a call that makes a load balancer with all that is below it. The library's own options
// cannot say that two listeners lead to one pool.
type wholeTree map[string]any

// ToLoadBalancerCreateMap implements loadbalancers.CreateOptsBuilder.
func (b wholeTree) ToLoadBalancerCreateMap() (map[string]any, error) {
	return map[string]any{"loadbalancer": map[string]any(b)}, nil
}

// body gives the listeners and pools of a tree as the call that makes them all takes them: a listener leads to a pool by name.
func (t tree) body() (listenersOut, poolsOut []map[string]any) {
	listenersOut, poolsOut = []map[string]any{}, []map[string]any{}
	for _, l := range t.listeners {
		out := map[string]any{"name": l.name, "protocol": l.protocol, "protocol_port": l.port, "default_pool": map[string]any{"name": l.pool}}
		if len(l.cidrs) > 0 {
			out["allowed_cidrs"] = l.cidrs
		}
		listenersOut = append(listenersOut, out)
	}
	for _, p := range t.pools {
		out := map[string]any{"name": p.name, "protocol": p.protocol, "lb_algorithm": p.algorithm}
		if s := p.persistence.body(); s != nil {
			out["session_persistence"] = s
		}
		if p.monitor != nil {
			out["healthmonitor"] = p.monitor.body(p.name)
		}
		if len(p.members) > 0 {
			out["members"] = memberBodies(p.members)
		}
		poolsOut = append(poolsOut, out)
	}
	return listenersOut, poolsOut
}

func (p persistence) body() map[string]any {
	if p.kind == "" {
		return nil
	}
	out := map[string]any{"type": p.kind}
	if p.cookie != "" {
		out["cookie_name"] = p.cookie
	}
	return out
}

func (m monitor) body(name string) map[string]any {
	out := map[string]any{
		"name": name, "type": m.kind, "delay": m.delay, "timeout": m.timeout, "max_retries": m.retries, "max_retries_down": m.retries,
	}
	if m.path != "" {
		out["url_path"], out["expected_codes"] = m.path, m.codes
	}
	return out
}

func memberBodies(all []member) []map[string]any {
	out := make([]map[string]any, 0, len(all))
	for _, m := range all {
		out = append(out, map[string]any{"name": m.name, "address": m.address, "protocol_port": m.port, "weight": m.weight})
	}
	return out
}

// wanted gives the tree that a request asks for, its members resolved, and the network that the address is on.
func (d *LoadBalancers) wanted(ctx context.Context, r driver.Request[*networkv1.LoadBalancerSpec]) (tree, string, error) {
	t, err := treeOf(r.Spec)
	if err != nil {
		return tree{}, "", err
	}
	networkID, err := cloud.Ref(r.Refs, "spec.network", r.Spec.GetNetwork(), func(n *networkv1.Network) string { return n.GetObserved().GetNetworkId() })
	if err != nil {
		return tree{}, "", err
	}
	for i, p := range r.Spec.GetPools() {
		for j, m := range p.GetMembers() {
			found, err := d.membersOf(ctx, r.Refs, fmt.Sprintf("spec.pools[%d].members[%d].target", i, j), m, networkID)
			if err != nil {
				return tree{}, "", err
			}
			t.pools[i].members = append(t.pools[i].members, found...)
		}
		t.pools[i].members = distinct(t.pools[i].members)
	}
	return t, networkID, nil
}

// distinct keeps the first of several members with one address and port: a node can answer for two workloads by one port.
func distinct(all []member) []member {
	seen := map[string]bool{}
	return slices.DeleteFunc(all, func(m member) bool {
		twice := seen[m.at()]
		seen[m.at()] = true
		return twice
	})
}

// membersOf gives the members that one entry of a pool stands for.
func (d *LoadBalancers) membersOf(ctx context.Context, refs driver.Refs, field string, m *networkv1.LoadBalancerMember, networkID string) ([]member, error) {
	weight := max(int(m.GetWeight()), 1)
	if m.GetTarget() == "" {
		return []member{{name: m.GetAddress(), address: m.GetAddress(), port: int(m.GetPort()), weight: weight}}, nil
	}
	target, ok := refs[m.GetTarget()]
	if !ok {
		return nil, &fault.Error{Kind: fault.Precondition, Field: field, Message: m.GetTarget() + " does not exist yet"}
	}
	at, err := targets{d.s}.places(ctx, target, m.GetPort(), networkID)
	if err != nil {
		if e, ok := errors.AsType[*fault.Error](err); ok && e.Field == "" {
			return nil, &fault.Error{Kind: e.Kind, Field: field, Cause: err}
		}
		return nil, err
	}
	out := make([]member, 0, len(at))
	for _, p := range at {
		out = append(out, member{name: cloud.LastPart(m.GetTarget()), address: p.address, port: int(p.port), weight: weight})
	}
	return out, nil
}

// Observe implements driver.Driver: one list, and the states of what is below for each load balancer that is not about to
// come or go.
func (d *LoadBalancers) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[*networkv1.LoadBalancerObserved], error) {
	out := map[string]driver.Observation[*networkv1.LoadBalancerObserved]{}
	if len(ids) == 0 {
		return out, nil
	}
	query := url.Values{}
	if len(ids) == 1 { // the service cannot be asked for several ids
		query.Set("id", ids[0])
	}
	all, err := d.list(ctx, query)
	if err != nil {
		return nil, err
	}
	for _, l := range all {
		if !slices.Contains(ids, l.ID) || l.Status == "DELETED" {
			continue
		}
		state, why := l.state()
		observed := &networkv1.LoadBalancerObserved{
			LoadBalancerId: l.ID, Address: l.Address, PortId: l.PortID, NetworkId: l.NetworkID, OperatingStatus: l.Operating, Provider: l.Provider,
		}
		var facts map[string]string
		if state == driver.Ready {
			if observed.Members, facts, err = d.below(ctx, l.ID); err != nil && !fault.Is(err, fault.NotFound) {
				return nil, err
			}
		}
		out[l.ID] = driver.Observation[*networkv1.LoadBalancerObserved]{State: state, Fault: why, Observed: observed, Facts: facts}
	}
	return out, nil
}

func (l loadBalancer) state() (driver.State, error) {
	switch {
	case l.Status == "ERROR":
		return driver.Broken, fault.New(fault.Unavailable, "load balancer %s is in status ERROR at the cloud, whose provider %s tells no reason", l.ID, l.Provider)
	case l.pending():
		return driver.Progressing, nil
	default:
		return driver.Ready, nil
	}
}

// states is what the service tells of all that is below a load balancer. The library's own type knows the monitor by the
// name that it has elsewhere.
type states struct {
	Statuses struct {
		LoadBalancer struct {
			Listeners []struct {
				Name  string `json:"name"`
				Pools []struct {
					ID      string `json:"id"`
					Name    string `json:"name"`
					Monitor struct {
						ID   string `json:"id"`
						Type string `json:"type"`
					} `json:"health_monitor"`
					Members []struct {
						Name      string `json:"name"`
						Address   string `json:"address"`
						Port      int    `json:"protocol_port"`
						Operating string `json:"operating_status"`
					} `json:"members"`
				} `json:"pools"`
			} `json:"listeners"`
		} `json:"loadbalancer"`
	} `json:"statuses"`
}

// below reads what is below a load balancer: the members with their states, and as facts what there is of all kinds, which
// somebody may take away.
func (d *LoadBalancers) below(ctx context.Context, id string) ([]*networkv1.LoadBalancerMemberObserved, map[string]string, error) {
	c, err := d.s.LoadBalancer(ctx)
	if err != nil {
		return nil, nil, err
	}
	var status states
	if err := loadbalancers.GetStatuses(ctx, c, id).ExtractInto(&status); err != nil {
		return nil, nil, cloud.Fault(err, "read the states of load balancer %s", id)
	}
	var out []*networkv1.LoadBalancerMemberObserved
	var lines, all, ats, watched []string
	seen := map[string]bool{}
	for _, l := range status.Statuses.LoadBalancer.Listeners {
		lines = append(lines, l.Name)
		for _, p := range l.Pools {
			if seen[p.ID] {
				continue
			}
			seen[p.ID] = true
			all = append(all, p.Name)
			if p.Monitor.ID != "" {
				watched = append(watched, p.Name+" "+p.Monitor.Type)
			}
			for _, m := range p.Members {
				at := member{address: m.Address, port: m.Port}
				ats = append(ats, p.Name+" "+at.at())
				out = append(out, &networkv1.LoadBalancerMemberObserved{
					Pool: p.Name, Name: m.Name, Address: m.Address, Port: int32(m.Port), OperatingStatus: m.Operating,
				})
			}
		}
	}
	slices.SortFunc(out, func(a, b *networkv1.LoadBalancerMemberObserved) int {
		return strings.Compare(a.GetPool()+" "+a.GetName()+" "+a.GetAddress()+" "+strconv.Itoa(int(a.GetPort())), b.GetPool()+" "+b.GetName()+" "+b.GetAddress()+" "+strconv.Itoa(int(b.GetPort())))
	})
	return out, map[string]string{"listeners": sorted(lines), "pools": sorted(all), "members": sorted(ats), "healthmonitors": sorted(watched)}, nil
}

func sorted(names []string) string {
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// Update implements driver.Driver: it looks what differs, and sends the first change. It is Unfinished while others are left.
func (d *LoadBalancers) Update(ctx context.Context, id string, r driver.Request[*networkv1.LoadBalancerSpec]) error {
	all, err := d.list(ctx, url.Values{"id": {id}})
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fault.New(fault.NotFound, "load balancer %s does not exist", id)
	}
	if all[0].pending() {
		return driver.Unfinished("load balancer %s cannot be changed while it is %s", id, all[0].Status)
	}
	if all[0].Status == "ERROR" {
		return nil // it takes no change; what is to become of it Observe tells
	}
	want, _, err := d.wanted(ctx, r)
	if err != nil {
		return err
	}
	if err := d.capable(ctx, r.Spec, want); err != nil {
		return err
	}
	standing, err := d.standing(ctx, id)
	if err != nil {
		return err
	}
	missing := changes(want, standing)
	if len(missing) == 0 {
		return nil
	}
	if err := d.do(ctx, id, missing[0]); err != nil {
		return err
	}
	if complete(missing) {
		return nil
	}
	return driver.Unfinished("%s of load balancer %s is being changed, %d more to come", missing[0].what, id, len(missing)-1)
}

// complete tells whether nothing can be missing after the first of the changes: what is in a pool that was made, and the
// listeners that lead to it, are not among the changes yet.
func complete(missing []change) bool {
	return len(missing) == 1 && (missing[0].verb != "create" || missing[0].pool == nil)
}

// standing reads the tree that stands.
func (d *LoadBalancers) standing(ctx context.Context, id string) (tree, error) {
	c, err := d.s.LoadBalancer(ctx)
	if err != nil {
		return tree{}, err
	}
	foundPools, err := cloud.List[pools.Pool](ctx, c, "lbaas/pools", "pools", url.Values{"loadbalancer_id": {id}})
	if err != nil {
		return tree{}, err
	}
	foundListeners, err := cloud.List[listeners.Listener](ctx, c, "lbaas/listeners", "listeners", url.Values{"load_balancer_id": {id}})
	if err != nil {
		return tree{}, err
	}
	names := map[string]string{}
	t := tree{}
	for _, p := range foundPools {
		names[p.ID] = p.Name
		out, err := d.standingPool(ctx, c, p)
		if err != nil {
			return tree{}, err
		}
		t.pools = append(t.pools, out)
	}
	for _, l := range foundListeners {
		slices.Sort(l.AllowedCIDRs)
		t.listeners = append(t.listeners, listener{
			id: l.ID, name: l.Name, protocol: l.Protocol, port: l.ProtocolPort, pool: names[l.DefaultPoolID], cidrs: l.AllowedCIDRs,
		})
	}
	return t, nil
}

// standingPool reads what is in a pool.
func (d *LoadBalancers) standingPool(ctx context.Context, c *gophercloud.ServiceClient, p pools.Pool) (pool, error) {
	out := pool{id: p.ID, name: p.Name, protocol: p.Protocol, algorithm: p.LBMethod, persistence: persistence{p.Persistence.Type, p.Persistence.CookieName}}
	if len(p.Members) > 0 {
		found, err := cloud.List[pools.Member](ctx, c, "lbaas/pools/"+p.ID+"/members", "members", url.Values{})
		if err != nil {
			return out, err
		}
		for _, m := range found {
			out.members = append(out.members, member{name: m.Name, address: m.Address, port: m.ProtocolPort, weight: m.Weight})
		}
	}
	if p.MonitorID == "" {
		return out, nil
	}
	m, err := monitors.Get(ctx, c, p.MonitorID).Extract()
	if err != nil {
		return out, cloud.Fault(err, "read monitor %s of pool %s", p.MonitorID, p.Name)
	}
	out.monitor = &monitor{id: m.ID, kind: m.Type, delay: m.Delay, timeout: m.Timeout, retries: m.MaxRetries}
	if m.MaxRetriesDown != m.MaxRetries {
		out.monitor.retries = -1 // somebody changed it: it is none that is asked for
	}
	if m.Type == "HTTP" || m.Type == "HTTPS" {
		out.monitor.path, out.monitor.codes = m.URLPath, m.ExpectedCodes
	}
	return out, nil
}

// do sends one change.
func (d *LoadBalancers) do(ctx context.Context, id string, ch change) error {
	c, err := d.s.LoadBalancer(ctx)
	if err != nil {
		return err
	}
	method := "PUT"
	var path string
	var body map[string]any
	switch {
	case ch.listener != nil:
		path, body = "lbaas/listeners", ch.listenerBody(id)
	case ch.verb == "members":
		path, body = "lbaas/pools/"+ch.in+"/members", map[string]any{"members": memberBodies(ch.pool.members)}
	case ch.pool != nil:
		path, body = "lbaas/pools", ch.poolBody(id)
	default:
		path, body = "lbaas/healthmonitors", ch.monitorBody()
	}
	switch ch.verb {
	case "create":
		method = "POST"
	case "delete":
		method, body = "DELETE", nil
	}
	if ch.verb == "delete" || ch.verb == "update" {
		path += "/" + ch.id()
	}
	opts := &gophercloud.RequestOpts{OkCodes: []int{200, 201, 202, 204}}
	if body != nil {
		opts.JSONBody = body
	}
	resp, err := c.Request(ctx, method, c.ServiceURL(path), opts)
	if err != nil {
		err = cloud.Fault(err, "%s %s of load balancer %s", ch.verb, ch.what, id)
		if fault.Is(err, fault.Conflict) { // somebody was faster
			return driver.Unfinished("%v", err)
		}
		return err
	}
	return cloud.Fault(resp.Body.Close(), "%s %s of load balancer %s", ch.verb, ch.what, id)
}

// id is the id of what is changed.
func (ch change) id() string {
	switch {
	case ch.listener != nil:
		return ch.listener.id
	case ch.pool != nil:
		return ch.pool.id
	default:
		return ch.monitor.id
	}
}

func (ch change) listenerBody(balancer string) map[string]any {
	l := ch.listener
	out := map[string]any{"default_pool_id": ch.in, "allowed_cidrs": append([]string{}, l.cidrs...)}
	if ch.verb == "create" {
		out["loadbalancer_id"], out["name"], out["protocol"], out["protocol_port"] = balancer, l.name, l.protocol, l.port
	}
	return map[string]any{"listener": out}
}

func (ch change) poolBody(balancer string) map[string]any {
	p := ch.pool
	out := map[string]any{"lb_algorithm": p.algorithm}
	if s := p.persistence.body(); s != nil || ch.verb == "update" {
		out["session_persistence"] = s
	}
	if ch.verb == "create" {
		out["loadbalancer_id"], out["name"], out["protocol"] = balancer, p.name, p.protocol
	}
	return map[string]any{"pool": out}
}

func (ch change) monitorBody() map[string]any {
	out := ch.monitor.body("")
	delete(out, "name")
	if ch.verb == "create" {
		out["pool_id"] = ch.in
		return map[string]any{"healthmonitor": out}
	}
	delete(out, "type")
	return map[string]any{"healthmonitor": out}
}

// Delete implements driver.Driver: all that is below goes with it. While the provider is at work on it, the service refuses
// a deletion; that it is on its way already is what was asked for.
func (d *LoadBalancers) Delete(ctx context.Context, id string) error {
	c, err := d.s.LoadBalancer(ctx)
	if err != nil {
		return err
	}
	err = gone(loadbalancers.Delete(ctx, c, id, loadbalancers.DeleteOpts{Cascade: true}).ExtractErr(), "load balancer", id)
	if !fault.Is(err, fault.Conflict) {
		return err
	}
	all, lookErr := d.list(ctx, url.Values{"id": {id}})
	if lookErr != nil {
		return lookErr
	}
	if len(all) == 0 || all[0].Status == "PENDING_DELETE" || all[0].Status == "DELETED" {
		return nil
	}
	return err
}

// Blockers implements driver.Blockable: only work of its own provider keeps a load balancer.
func (d *LoadBalancers) Blockers(ctx context.Context, id string) ([]*kindv1.Blocker, error) {
	all, err := d.list(ctx, url.Values{"id": {id}})
	if err != nil {
		return nil, err
	}
	out := []*kindv1.Blocker{}
	if len(all) > 0 && all[0].pending() && all[0].Status != "PENDING_DELETE" {
		out = append(out, &kindv1.Blocker{
			Kind: "work", Id: id, Owner: "provider " + all[0].Provider + " of the load balancer service, " + all[0].Status,
			Action: "wait until it is done; if it does not end, the cloud's operators must free load balancer " + id,
		})
	}
	return out, nil
}

// ListMarked implements driver.Lister.
func (d *LoadBalancers) ListMarked(ctx context.Context) ([]driver.Marked, error) {
	all, err := d.list(ctx, url.Values{"limit": {"1000"}})
	if fault.Is(err, fault.Unsupported) {
		return nil, nil // a cloud without the service has no load balancers
	}
	if err != nil {
		return nil, err
	}
	var out []driver.Marked
	for _, l := range all {
		if key, name, ok := cloud.ParseDescription(l.Description); ok {
			out = append(out, driver.Marked{ID: l.ID, Key: key, Name: name})
		}
	}
	return out, nil
}

// Follows implements driver.Follower: the members are made from where their targets answer.
func (d *LoadBalancers) Follows(r driver.Request[*networkv1.LoadBalancerSpec]) string {
	var parts []string
	for _, p := range r.Spec.GetPools() {
		for _, m := range p.GetMembers() {
			if m.GetTarget() != "" {
				parts = append(parts, m.GetTarget()+" "+answers(r.Refs[m.GetTarget()]))
			}
		}
	}
	slices.Sort(parts)
	return strings.Join(slices.Compact(parts), "\n")
}

// answers tells where a target answers, as text, as far as it observes that itself. Of a kind of which it is not said here
// what that is, all that is observed counts: a change too many costs a look, one too few a member that does not answer.
func answers(target proto.Message) string {
	var parts []string
	switch m := target.(type) {
	case *computev1.Server:
		for _, i := range m.GetObserved().GetInterfaces() {
			parts = append(parts, i.GetPortId()+" "+i.GetAddress())
		}
	case *computev1.ScalingGroup:
		parts = inService(m)
	case *containerv1.Workload:
		for _, n := range m.GetObserved().GetNodes() {
			parts = append(parts, n.GetName()+" "+n.GetProviderId()+" "+strings.Join(n.GetAddresses(), " "))
		}
		parts = append(parts, fmt.Sprint(m.GetObserved().GetNodePorts()))
	case nil:
	default:
		text, err := proto.MarshalOptions{Deterministic: true}.Marshal(resource.Wrap(m).Observed())
		if err != nil {
			return err.Error() // it is the same as long as the message is as it is
		}
		parts = append(parts, fmt.Sprintf("%x", sha256.Sum256(text)))
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}
