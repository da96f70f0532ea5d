package openstack

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/weftcloud/weft/pkg/fault"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

// The tree of a load balancer, as it is wanted and as it stands, in the load balancer service's own words.
//
// # Who is who
//
// Listeners and pools are known by their names within the load balancer; members by their address and port; a pool has one
// monitor at most. What cannot be changed at the cloud, a listener's protocol and port, a pool's protocol, a monitor's type,
// is taken away and made anew.
//
// # One change after the other
//
// The service takes one change at a time: with each the load balancer is immutable (PENDING_UPDATE) until its provider has
// made it real, and another is refused with 409. So changes gives all that is missing, in an order in which each can be done
// when those before it are, and Update sends the first. A crash between two loses nothing: the rest is computed again from
// what stands. The order keeps serving what can be served: what is new is complete before a listener leads to it, and what
// goes is led nowhere before it goes.

// tree is a load balancer with all that is below it.
type tree struct {
	listeners []listener
	pools     []pool
}

// listener is what listens at one port. pool is the name of the pool that answers; empty if none does.
type listener struct {
	id, name, protocol, pool string
	port                     int
	cidrs                    []string
}

// pool is who answers.
type pool struct {
	id, name, protocol, algorithm string
	persistence                   persistence
	monitor                       *monitor
	members                       []member
}

// persistence is how a client stays with a member; the zero value is that it does not.
type persistence struct{ kind, cookie string }

// monitor is how members are watched. Times are in seconds.
type monitor struct {
	id                      string
	kind                    string
	delay, timeout, retries int
	path, codes             string
}

// member is who answers. Its name says whose it is, and is not compared.
type member struct {
	name, address string
	port, weight  int
}

// at is what tells a member from the others of its pool.
func (m member) at() string { return netip.AddrPortFrom(addrOf(m.address), uint16(m.port)).String() }

// addrOf reads an address in any notation; the zero address stands for what is none.
func addrOf(text string) netip.Addr {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap()
}

// same tells whether two monitors try the same.
func (m monitor) same(o monitor) bool {
	m.id, o.id = "", ""
	return m == o
}

// protocolWords are the service's words for protocols.
var protocolWords = map[networkv1.ListenerProtocol]string{
	networkv1.ListenerProtocol_LISTENER_PROTOCOL_UNSPECIFIED: "TCP", networkv1.ListenerProtocol_LISTENER_PROTOCOL_TCP: "TCP",
	networkv1.ListenerProtocol_LISTENER_PROTOCOL_UDP: "UDP", networkv1.ListenerProtocol_LISTENER_PROTOCOL_HTTP: "HTTP",
	networkv1.ListenerProtocol_LISTENER_PROTOCOL_HTTPS: "HTTPS",
}

// answering lists the protocols of pools that a listener of a protocol can lead to.
var answering = map[string][]string{"TCP": {"TCP", "HTTP", "HTTPS"}, "UDP": {"UDP"}, "HTTP": {"HTTP"}, "HTTPS": {"HTTPS", "TCP"}}

var algorithmWords = map[networkv1.PoolAlgorithm]string{
	networkv1.PoolAlgorithm_POOL_ALGORITHM_UNSPECIFIED: "ROUND_ROBIN", networkv1.PoolAlgorithm_POOL_ALGORITHM_ROUND_ROBIN: "ROUND_ROBIN",
	networkv1.PoolAlgorithm_POOL_ALGORITHM_LEAST_CONNECTIONS: "LEAST_CONNECTIONS", networkv1.PoolAlgorithm_POOL_ALGORITHM_SOURCE_IP: "SOURCE_IP",
	networkv1.PoolAlgorithm_POOL_ALGORITHM_SOURCE_IP_PORT: "SOURCE_IP_PORT",
}

var persistenceWords = map[networkv1.PersistenceType]string{
	networkv1.PersistenceType_PERSISTENCE_TYPE_SOURCE_IP: "SOURCE_IP", networkv1.PersistenceType_PERSISTENCE_TYPE_HTTP_COOKIE: "HTTP_COOKIE",
	networkv1.PersistenceType_PERSISTENCE_TYPE_APP_COOKIE: "APP_COOKIE",
}

var monitorWords = map[networkv1.MonitorType]string{
	networkv1.MonitorType_MONITOR_TYPE_TCP: "TCP", networkv1.MonitorType_MONITOR_TYPE_HTTP: "HTTP", networkv1.MonitorType_MONITOR_TYPE_HTTPS: "HTTPS",
	networkv1.MonitorType_MONITOR_TYPE_PING: "PING", networkv1.MonitorType_MONITOR_TYPE_TLS_HELLO: "TLS-HELLO",
	networkv1.MonitorType_MONITOR_TYPE_UDP_CONNECT: "UDP-CONNECT",
}

// treeOf gives the tree that a spec asks for, without members. The errors are Invalid and name the field.
func treeOf(spec *networkv1.LoadBalancerSpec) (tree, error) {
	t := tree{}
	ports := map[string]string{}
	for i, l := range spec.GetListeners() {
		field := "spec.listeners[" + strconv.Itoa(i) + "]"
		out, err := listenerOf(field, spec, l)
		if err != nil {
			return tree{}, err
		}
		if slices.ContainsFunc(t.listeners, func(o listener) bool { return o.name == out.name }) {
			return tree{}, fault.InField(field+".name", "there are two listeners called %s; give each a name of its own", out.name)
		}
		at := transport(out.protocol) + " " + strconv.Itoa(out.port)
		if other := ports[at]; other != "" {
			return tree{}, fault.InField(field+".port", "%s is taken by listener %s; choose another port, or lead both to one listener", at, other)
		}
		ports[at] = out.name
		t.listeners = append(t.listeners, out)
	}
	for i, p := range spec.GetPools() {
		out, err := t.poolOf("spec.pools["+strconv.Itoa(i)+"]", p)
		if err != nil {
			return tree{}, err
		}
		if slices.ContainsFunc(t.pools, func(o pool) bool { return o.name == out.name }) {
			return tree{}, fault.InField("spec.pools["+strconv.Itoa(i)+"].name", "there are two pools called %s; give each a name of its own", out.name)
		}
		t.pools = append(t.pools, out)
	}
	return t, t.fit()
}

// transport gives what ports are counted by.
func transport(protocol string) string {
	if protocol == "UDP" {
		return "UDP"
	}
	return "TCP"
}

// listenerOf reads a listener of a spec.
func listenerOf(field string, spec *networkv1.LoadBalancerSpec, l *networkv1.LoadBalancerListener) (listener, error) {
	out := listener{name: l.GetName(), protocol: protocolWords[l.GetProtocol()], port: int(l.GetPort()), pool: l.GetPool()}
	named := func(name string) bool {
		return slices.ContainsFunc(spec.GetPools(), func(p *networkv1.LoadBalancerPool) bool { return p.GetName() == name })
	}
	switch {
	case out.pool != "" && !named(out.pool):
		return out, fault.InField(field+".pool", "there is no pool called %s; the pools are %s", out.pool, poolNames(spec))
	case out.pool == "" && named(out.name):
		out.pool = out.name
	case out.pool == "" && len(spec.GetPools()) == 1:
		out.pool = spec.GetPools()[0].GetName()
	case out.pool == "":
		return out, fault.InField(field+".pool", "say which pool answers; the pools are %s", poolNames(spec))
	}
	for i, text := range l.GetAllowedCidrs() {
		cidr, err := netip.ParsePrefix(text)
		if err != nil {
			return out, fault.InField(field+".allowedCidrs["+strconv.Itoa(i)+"]", "%q is no range of addresses, e.g. 10.0.0.0/8", text)
		}
		out.cidrs = append(out.cidrs, cidr.Masked().String())
	}
	slices.Sort(out.cidrs)
	out.cidrs = slices.Compact(out.cidrs)
	return out, nil
}

func poolNames(spec *networkv1.LoadBalancerSpec) string {
	var names []string
	for _, p := range spec.GetPools() {
		names = append(names, p.GetName())
	}
	return strings.Join(names, ", ")
}

// poolOf reads a pool of a spec; what it speaks follows from the listeners that lead to it.
func (t tree) poolOf(field string, p *networkv1.LoadBalancerPool) (pool, error) {
	out := pool{name: p.GetName(), protocol: protocolWords[p.GetProtocol()], algorithm: algorithmWords[p.GetAlgorithm()]}
	if p.GetProtocol() == networkv1.ListenerProtocol_LISTENER_PROTOCOL_UNSPECIFIED {
		if i := slices.IndexFunc(t.listeners, func(l listener) bool { return l.pool == out.name }); i >= 0 {
			out.protocol = t.listeners[i].protocol
		}
	}
	if s := p.GetPersistence(); s != nil {
		out.persistence = persistence{persistenceWords[s.GetType()], s.GetCookie()}
		if (out.persistence.kind == "APP_COOKIE") != (out.persistence.cookie != "") {
			return out, fault.InField(field+".persistence.cookie", "a cookie's name belongs to APP_COOKIE, and to it alone")
		}
		if out.persistence.kind != "SOURCE_IP" && out.protocol != "HTTP" {
			return out, fault.InField(field+".persistence.type", "%s needs an HTTP pool, and %s is %s; use SOURCE_IP", out.persistence.kind, out.name, out.protocol)
		}
	}
	for i, m := range p.GetMembers() {
		if (m.GetTarget() == "") == (m.GetAddress() == "") {
			return out, fault.InField(field+".members["+strconv.Itoa(i)+"]", "give a member a target or an address, and not both")
		}
	}
	var err error
	out.monitor, err = monitorOf(field+".monitor", out.protocol, p.GetMonitor())
	return out, err
}

// The monitor that is used where nothing is said: it takes a member that is cut off out in less than 10 seconds.
const (
	usualDelay   = 3 * time.Second
	mostTimeout  = 5
	usualRetries = 2
)

// monitorOf reads a monitor of a spec; nil if none is wanted.
func monitorOf(field, protocol string, m *networkv1.LoadBalancerMonitor) (*monitor, error) {
	if m.GetType() == networkv1.MonitorType_MONITOR_TYPE_NONE {
		return nil, nil
	}
	out := &monitor{kind: monitorWords[m.GetType()], retries: int(m.GetRetries()), path: m.GetUrlPath(), codes: m.GetExpectedCodes()}
	if out.kind == "" {
		out.kind = map[string]string{"HTTP": "HTTP", "UDP": "UDP-CONNECT"}[protocol]
	}
	if out.kind == "" {
		out.kind = "TCP"
	}
	if out.retries == 0 {
		out.retries = usualRetries
	}
	var err error
	if out.delay, err = seconds(field+".delay", m.GetDelay(), int(usualDelay/time.Second)); err != nil {
		return nil, err
	}
	if out.timeout, err = seconds(field+".timeout", m.GetTimeout(), min(max(out.delay-1, 1), mostTimeout)); err != nil {
		return nil, err
	}
	if out.timeout >= out.delay && out.delay > 1 || out.timeout > out.delay {
		return nil, fault.InField(field+".timeout", "an answer may take %ds, and must take less than the %ds between two tries", out.timeout, out.delay)
	}
	asks := out.kind == "HTTP" || out.kind == "HTTPS"
	switch {
	case !asks && out.path != "":
		return nil, fault.InField(field+".urlPath", "a %s monitor asks for no path; use HTTP or HTTPS", out.kind)
	case !asks && out.codes != "":
		return nil, fault.InField(field+".expectedCodes", "a %s monitor gets no status code; use HTTP or HTTPS", out.kind)
	case (out.kind == "UDP-CONNECT") && protocol != "UDP", protocol == "UDP" && out.kind == "PING":
		return nil, fault.InField(field+".type", "a %s pool cannot be watched by %s", protocol, out.kind)
	}
	if asks && out.path == "" {
		out.path = "/"
	}
	if asks && out.codes == "" {
		out.codes = "200"
	}
	return out, nil
}

// seconds reads a time in whole seconds.
func seconds(field string, d *durationpb.Duration, usual int) (int, error) {
	if d == nil {
		return usual, nil
	}
	if d.AsDuration()%time.Second != 0 {
		return 0, fault.InField(field, "%s is no whole number of seconds", d.AsDuration())
	}
	return int(d.AsDuration() / time.Second), nil
}

// fit holds listeners to the pools that they lead to.
func (t tree) fit() error {
	for i, l := range t.listeners {
		at := slices.IndexFunc(t.pools, func(p pool) bool { return p.name == l.pool })
		if at >= 0 && !slices.Contains(answering[l.protocol], t.pools[at].protocol) {
			return fault.InField("spec.listeners["+strconv.Itoa(i)+"].pool", "an %s listener cannot lead to pool %s, which speaks %s", l.protocol, l.pool, t.pools[at].protocol)
		}
	}
	return nil
}

// change is one call that brings a standing tree nearer to the wanted one.
type change struct {
	// verb is create, update, delete or members; what is what it is done to.
	verb string
	// what names it for people.
	what string
	// One of these says what is to be; of a deletion only the id counts.
	listener *listener
	pool     *pool
	monitor  *monitor
	// in is the id of the pool that a monitor or members are in, or that a listener leads to.
	in string
}

// changes gives what is missing between what stands and what is wanted, in the order in which it can be done. It is empty
// if nothing is. What can be said only when an earlier change is done, for it gives the id, follows with the next call.
func changes(want, standing tree) []change {
	var first, pools, inside, lead, last []change
	stands := map[string]pool{}
	for _, s := range standing.pools {
		w, ok := find(want.pools, func(p pool) bool { return p.name == s.name && p.protocol == s.protocol })
		if _, twice := stands[s.name]; ok && !twice {
			stands[s.name] = s
			inside = append(inside, poolChanges(w, s)...)
			continue
		}
		_, again := find(want.pools, func(p pool) bool { return p.name == s.name })
		gone := change{verb: "delete", what: "pool " + s.name, pool: &pool{id: s.id, name: s.name}}
		if again {
			pools = append(pools, gone)
			continue
		}
		last = append(last, gone)
	}
	for _, w := range want.pools {
		if _, ok := stands[w.name]; !ok {
			pools = append(pools, change{verb: "create", what: "pool " + w.name, pool: &w})
		}
	}
	listens := map[string]listener{}
	for _, s := range standing.listeners {
		_, ok := find(want.listeners, func(l listener) bool { return l.name == s.name && l.protocol == s.protocol && l.port == s.port })
		if _, twice := listens[s.name]; ok && !twice {
			listens[s.name] = s
			continue
		}
		first = append(first, change{verb: "delete", what: "listener " + s.name, listener: &listener{id: s.id, name: s.name}})
	}
	for _, w := range want.listeners {
		in := stands[w.pool].id
		s, ok := listens[w.name]
		switch {
		case in == "": // the pool is yet to be made
		case !ok:
			lead = append(lead, change{verb: "create", what: "listener " + w.name, listener: &w, in: in})
		case s.pool != w.pool || !slices.Equal(s.cidrs, w.cidrs):
			w.id = s.id
			lead = append(lead, change{verb: "update", what: "listener " + w.name, listener: &w, in: in})
		}
	}
	return slices.Concat(first, pools, inside, lead, last)
}

// poolChanges gives what is missing in a pool that stands.
func poolChanges(want, standing pool) []change {
	var out []change
	what := "pool " + want.name
	want.id = standing.id
	if want.algorithm != standing.algorithm || want.persistence != standing.persistence {
		out = append(out, change{verb: "update", what: what, pool: &want})
	}
	if !sameMembers(want.members, standing.members) {
		out = append(out, change{verb: "members", what: "members of " + what, pool: &want, in: standing.id})
	}
	w, s := want.monitor, standing.monitor
	if s != nil && (w == nil || w.kind != s.kind) {
		out = append(out, change{verb: "delete", what: "monitor of " + what, monitor: &monitor{id: s.id}})
		s = nil
	}
	switch {
	case w != nil && s == nil:
		out = append(out, change{verb: "create", what: "monitor of " + what, monitor: w, in: standing.id})
	case w != nil && !w.same(*s):
		changed := *w
		changed.id = s.id
		out = append(out, change{verb: "update", what: "monitor of " + what, monitor: &changed})
	}
	return out
}

// sameMembers tells whether two pools have the same members.
func sameMembers(a, b []member) bool {
	weights := map[string]int{}
	for _, m := range a {
		weights[m.at()] = m.weight
	}
	if len(weights) != len(b) {
		return false
	}
	return !slices.ContainsFunc(b, func(m member) bool { w, ok := weights[m.at()]; return !ok || w != m.weight })
}

func find[T any](all []T, is func(T) bool) (T, bool) {
	if i := slices.IndexFunc(all, is); i >= 0 {
		return all[i], true
	}
	var none T
	return none, false
}
