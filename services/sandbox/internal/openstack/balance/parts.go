package balance

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

// What is below a load balancer: listeners, pools, members and monitors.

// protocols are those that the API knows; has are those that the provider has.
var (
	listenerProtocols = []string{"SCTP", "HTTPS", "TERMINATED_HTTPS", "PROMETHEUS", "TCP", "UDP", "HTTP"}
	poolProtocols     = []string{"SCTP", "HTTPS", "PROXY", "PROXYV2", "TCP", "UDP", "HTTP"}
	has               = []string{"HTTP", "TCP", "HTTPS"}
	algorithms        = []string{"SOURCE_IP_PORT", "LEAST_CONNECTIONS", "SOURCE_IP", "ROUND_ROBIN"}
	monitorTypes      = []string{"SCTP", "TLS-HELLO", "HTTPS", "UDP-CONNECT", "TCP", "HTTP", "PING"}
	monitorsHad       = []string{"HTTP", "HTTPS", "TCP", "TLS-HELLO"}
)

// among refuses a value that the API does not know.
func among(field, value string, known []string) error {
	if slices.Contains(known, value) {
		return nil
	}
	list := ""
	for i, k := range known {
		if i > 0 {
			list += ", "
		}
		list += k
	}
	return refuse(http.StatusBadRequest, "Invalid input for field/attribute %s. Value: '%s'. Value should be one of: %s", field, value, list)
}

// lacks refuses what the provider does not have.
func lacks(format string, args ...any) error {
	return refuse(http.StatusNotImplemented, "Provider 'haproxy' does not support a requested option: "+format, args...)
}

type listenerIn struct {
	nodeIn
	Balancer    *string   `json:"loadbalancer_id"`
	Protocol    string    `json:"protocol"`
	Port        int       `json:"protocol_port"`
	Limit       *int      `json:"connection_limit"`
	PoolID      *string   `json:"default_pool_id"`
	DefaultPool *poolIn   `json:"default_pool"`
	CIDRs       *[]string `json:"allowed_cidrs"`
	ClientData  *int      `json:"timeout_client_data"`
	MemberData  *int      `json:"timeout_member_data"`
	Connect     *int      `json:"timeout_member_connect"`
	Inspect     *int      `json:"timeout_tcp_inspect"`
}

func (in listenerIn) apply(b *LoadBalancer, l *Listener) error {
	in.nodeIn.apply(&l.Node)
	if in.Limit != nil {
		l.Limit = *in.Limit
	}
	if in.CIDRs != nil {
		for _, c := range *in.CIDRs {
			if _, err := netip.ParsePrefix(c); err != nil {
				return refuse(http.StatusBadRequest, "Invalid input for field/attribute allowed_cidrs. Value: '%s'. Value should be IPv4 or IPv6 CIDR format", c)
			}
		}
		l.CIDRs = slices.Clone(*in.CIDRs)
	}
	if in.PoolID != nil {
		at := slices.IndexFunc(b.Pools, func(p Pool) bool { return p.ID == *in.PoolID })
		if *in.PoolID != "" && at < 0 {
			return refuse(http.StatusNotFound, "Pool %s not found.", *in.PoolID)
		}
		if at >= 0 && !answers(l.Protocol, b.Pools[at].Protocol) {
			return refuse(http.StatusBadRequest, "Validation failure: The pool protocol '%s' is invalid while the listener protocol is '%s'.", b.Pools[at].Protocol, l.Protocol)
		}
		l.Pool = *in.PoolID
	}
	return nil
}

// answers says whether a listener can lead to a pool.
func answers(listener, pool string) bool {
	return slices.Contains(map[string][]string{
		"HTTP": {"HTTP", "PROXY", "PROXYV2"}, "HTTPS": {"HTTPS", "PROXY", "PROXYV2", "TCP"}, "TCP": {"HTTP", "HTTPS", "PROXY", "PROXYV2", "TCP"}, "UDP": {"UDP"}, "SCTP": {"SCTP"},
	}[listener], pool)
}

func (s *Service) addListener(r *rest.Request, b *LoadBalancer, in listenerIn) error {
	if err := among("protocol", in.Protocol, listenerProtocols); err != nil {
		return err
	}
	if in.Port < 1 || in.Port > 65535 {
		return refuse(http.StatusBadRequest, "Invalid input for field/attribute protocol_port. Value: '%d'. Value should be lower or equal to 65535", in.Port)
	}
	l := Listener{Node: newNode(r, in.nodeIn), Protocol: in.Protocol, Port: in.Port, Limit: -1}
	for _, o := range b.Listeners {
		if o.Port == l.Port && (o.Protocol == "UDP") == (l.Protocol == "UDP") {
			return refuse(http.StatusConflict, "Another Listener on this Load Balancer is already using protocol %s and protocol_port %d", o.Protocol, l.Port)
		}
	}
	if err := in.apply(b, &l); err != nil {
		return err
	}
	b.Listeners = append(b.Listeners, l)
	return nil
}

func (s *Service) createListener(r *rest.Request) (*rest.Response, error) {
	in := listenerIn{}
	if err := read(r, "listener", "listener_", &in); err != nil {
		return nil, err
	}
	b, err := s.balancer(r.Token, text(in.Balancer))
	if err != nil {
		return nil, err
	}
	if err := s.room(b.Project, map[string]int{"listener": 1}); err != nil {
		return nil, err
	}
	if err := busy(b); err != nil {
		return nil, err
	}
	before := len(b.Listeners)
	if err := s.addListener(r, b, in); err != nil {
		return nil, err
	}
	if !slices.Contains(has, in.Protocol) {
		b.Listeners = b.Listeners[:before]
		return nil, lacks("The haproxy provider has HTTP, TCP and HTTPS (pass-through) listeners, not %s.", in.Protocol)
	}
	s.begin(r.Now, b, pendingUpdate)
	return rest.Status(http.StatusCreated, rest.M{"listener": s.viewListener(b, &b.Listeners[before])})
}

// listener finds a listener and its load balancer.
func (s *Service) listener(r *rest.Request) (*LoadBalancer, *Listener, error) {
	for _, b := range s.balancers.All() {
		for i := range b.Listeners {
			if b.Listeners[i].ID != r.Params["id"] {
				continue
			}
			if b.Project != r.Token.ProjectID && !r.Token.Admin() {
				return nil, nil, denied()
			}
			return b, &b.Listeners[i], nil
		}
	}
	return nil, nil, refuse(http.StatusNotFound, "Listener %s not found.", r.Params["id"])
}

func (s *Service) getListener(r *rest.Request) (*rest.Response, error) {
	b, l, err := s.listener(r)
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"listener": s.viewListener(b, l)})
}

func (s *Service) listListeners(r *rest.Request) (*rest.Response, error) {
	all, err := s.all(r)
	if err != nil {
		return nil, err
	}
	var views []rest.M
	for _, b := range all {
		for i := range b.Listeners {
			v := s.viewListener(b, &b.Listeners[i])
			if below(r, b) {
				views = append(views, v)
			}
		}
	}
	return answer(cutQuery(r), r.HTTP.URL.Path, "listeners", views)
}

// below tells whether what is below a load balancer is asked for.
func below(r *rest.Request, b *LoadBalancer) bool {
	for _, key := range []string{"load_balancer_id", "loadbalancer_id"} {
		if want := r.Query.Get(key); want != "" && want != b.ID {
			return false
		}
	}
	return true
}

// cutQuery takes out of a query what was looked at already.
func cutQuery(r *rest.Request) *rest.Request {
	cut := *r
	cut.Query = map[string][]string{}
	for key, value := range r.Query {
		if key != "load_balancer_id" && key != "loadbalancer_id" {
			cut.Query[key] = value
		}
	}
	return &cut
}

func (s *Service) updateListener(r *rest.Request) (*rest.Response, error) {
	b, l, err := s.listener(r)
	if err != nil {
		return nil, err
	}
	in := listenerIn{}
	if err := read(r, "listener", "listener_", &in); err != nil {
		return nil, err
	}
	if err := busy(b); err != nil {
		return nil, err
	}
	next := *l
	if err := in.apply(b, &next); err != nil {
		return nil, err
	}
	*l = next
	l.Status = pendingUpdate
	s.begin(r.Now, b, pendingUpdate)
	return rest.OK(rest.M{"listener": s.viewListener(b, l)})
}

func (s *Service) deleteListener(r *rest.Request) (*rest.Response, error) {
	b, l, err := s.listener(r)
	if err != nil {
		return nil, err
	}
	if err := busy(b); err != nil {
		return nil, err
	}
	l.Status = pendingDelete
	s.begin(r.Now, b, pendingUpdate)
	return rest.Status(http.StatusNoContent, nil)
}

type poolIn struct {
	nodeIn
	Balancer    *string     `json:"loadbalancer_id"`
	Listener    *string     `json:"listener_id"`
	Protocol    string      `json:"protocol"`
	Algorithm   string      `json:"lb_algorithm"`
	Persistence optionalSet `json:"session_persistence"`
	Members     []memberIn  `json:"members"`
	Monitor     *monitorIn  `json:"healthmonitor"`
}

func (in poolIn) apply(p *Pool) error {
	in.nodeIn.apply(&p.Node)
	if in.Algorithm != "" {
		if err := among("lb_algorithm", in.Algorithm, algorithms); err != nil {
			return err
		}
		p.Algorithm = in.Algorithm
	}
	if in.Persistence.given {
		p.Persistence = in.Persistence.value
	}
	return nil
}

// addPool adds a pool with all that is given to be in it.
func (s *Service) addPool(r *rest.Request, b *LoadBalancer, in poolIn) error {
	if err := among("protocol", in.Protocol, poolProtocols); err != nil {
		return err
	}
	if in.Algorithm == "" {
		return refuse(http.StatusBadRequest, "Invalid input for field/attribute lb_algorithm. Value: 'None'. Mandatory field missing.")
	}
	p := Pool{Node: newNode(r, in.nodeIn), Protocol: in.Protocol}
	if err := in.apply(&p); err != nil {
		return err
	}
	for _, m := range in.Members {
		if err := p.add(r, m); err != nil {
			return err
		}
	}
	if in.Monitor != nil {
		m, err := newMonitor(r, *in.Monitor)
		if err != nil {
			return err
		}
		p.Monitor = m
	}
	b.Pools = append(b.Pools, p)
	return nil
}

func (s *Service) createPool(r *rest.Request) (*rest.Response, error) {
	in := poolIn{}
	if err := read(r, "pool", "pool_", &in); err != nil {
		return nil, err
	}
	b, at, err := s.home(r, in)
	if err != nil {
		return nil, err
	}
	if err := s.room(b.Project, map[string]int{"pool": 1}); err != nil {
		return nil, err
	}
	if at >= 0 && b.Listeners[at].Pool != "" {
		return nil, refuse(http.StatusConflict, "This listener already has a default pool")
	}
	if err := busy(b); err != nil {
		return nil, err
	}
	if in.Protocol != "" && slices.Contains(poolProtocols, in.Protocol) && !slices.Contains(has, in.Protocol) {
		return nil, lacks("The haproxy provider has no %s pools.", in.Protocol)
	}
	if err := s.addPool(r, b, in); err != nil {
		return nil, err
	}
	p := &b.Pools[len(b.Pools)-1]
	if at >= 0 {
		b.Listeners[at].Pool, b.Listeners[at].Status = p.ID, pendingUpdate
	}
	s.begin(r.Now, b, pendingUpdate)
	return rest.Status(http.StatusCreated, rest.M{"pool": s.viewPool(b, p)})
}

// home finds where a new pool goes: a load balancer, and the listener that shall lead to it, or -1.
func (s *Service) home(r *rest.Request, in poolIn) (*LoadBalancer, int, error) {
	if id := text(in.Listener); id != "" {
		for _, b := range s.balancers.By(byProject, r.Token.ProjectID) {
			if at := slices.IndexFunc(b.Listeners, func(l Listener) bool { return l.ID == id }); at >= 0 {
				return b, at, nil
			}
		}
		return nil, -1, refuse(http.StatusNotFound, "Listener %s not found.", id)
	}
	if text(in.Balancer) == "" {
		return nil, -1, refuse(http.StatusBadRequest, "Validation failure: Must provide at least one of: loadbalancer_id, listener_id")
	}
	b, err := s.balancer(r.Token, text(in.Balancer))
	return b, -1, err
}

// pool finds a pool and its load balancer.
func (s *Service) pool(r *rest.Request, id string) (*LoadBalancer, *Pool, error) {
	for _, b := range s.balancers.All() {
		for i := range b.Pools {
			if b.Pools[i].ID != id {
				continue
			}
			if b.Project != r.Token.ProjectID && !r.Token.Admin() {
				return nil, nil, denied()
			}
			return b, &b.Pools[i], nil
		}
	}
	return nil, nil, refuse(http.StatusNotFound, "Pool %s not found.", id)
}

func (s *Service) getPool(r *rest.Request) (*rest.Response, error) {
	b, p, err := s.pool(r, r.Params["pool"])
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"pool": s.viewPool(b, p)})
}

func (s *Service) listPools(r *rest.Request) (*rest.Response, error) {
	all, err := s.all(r)
	if err != nil {
		return nil, err
	}
	var views []rest.M
	for _, b := range all {
		for i := range b.Pools {
			if below(r, b) {
				views = append(views, s.viewPool(b, &b.Pools[i]))
			}
		}
	}
	return answer(cutQuery(r), r.HTTP.URL.Path, "pools", views)
}

// busyPool is busy in the words that are used of a pool and what is in it.
func busyPool(b *LoadBalancer, p *Pool) error {
	if b.Status != active {
		return refuse(http.StatusConflict, "Pool %s is immutable and cannot be updated.", p.ID)
	}
	return nil
}

func (s *Service) updatePool(r *rest.Request) (*rest.Response, error) {
	b, p, err := s.pool(r, r.Params["pool"])
	if err != nil {
		return nil, err
	}
	in := poolIn{}
	if err := read(r, "pool", "pool_", &in); err != nil {
		return nil, err
	}
	if err := busyPool(b, p); err != nil {
		return nil, err
	}
	next := *p
	if err := in.apply(&next); err != nil {
		return nil, err
	}
	*p = next
	p.Status = pendingUpdate
	s.begin(r.Now, b, pendingUpdate)
	return rest.OK(rest.M{"pool": s.viewPool(b, p)})
}

func (s *Service) deletePool(r *rest.Request) (*rest.Response, error) {
	b, p, err := s.pool(r, r.Params["pool"])
	if err != nil {
		return nil, err
	}
	if err := busyPool(b, p); err != nil {
		return nil, err
	}
	for i := range b.Listeners {
		if b.Listeners[i].Pool == p.ID {
			b.Listeners[i].Pool = ""
		}
	}
	p.Status = pendingDelete
	s.begin(r.Now, b, pendingUpdate)
	return rest.Status(http.StatusNoContent, nil)
}

type memberIn struct {
	nodeIn
	Address        string  `json:"address"`
	Port           int     `json:"protocol_port"`
	Weight         *int    `json:"weight"`
	Subnet         *string `json:"subnet_id"`
	Backup         *bool   `json:"backup"`
	MonitorAddress *string `json:"monitor_address"`
	MonitorPort    *int    `json:"monitor_port"`
}

func (in memberIn) apply(m *Member) error {
	in.nodeIn.apply(&m.Node)
	if in.Weight != nil {
		if *in.Weight < 0 || *in.Weight > 256 {
			return refuse(http.StatusBadRequest, "Invalid input for field/attribute weight. Value: '%d'. Value should be lower or equal to 256", *in.Weight)
		}
		m.Weight = *in.Weight
	}
	return nil
}

// add adds a member.
func (p *Pool) add(r *rest.Request, in memberIn) error {
	if _, err := netip.ParseAddr(in.Address); err != nil {
		return refuse(http.StatusBadRequest, "Invalid input for field/attribute address. Value: '%s'. Value should be IPv4 or IPv6 format", in.Address)
	}
	if in.Port < 1 || in.Port > 65535 {
		return refuse(http.StatusBadRequest, "Invalid input for field/attribute protocol_port. Value: '%d'. Value should be lower or equal to 65535", in.Port)
	}
	for _, o := range p.Members {
		if o.Address == in.Address && o.Port == in.Port {
			return refuse(http.StatusConflict, "Another member on this pool is already using ip %s on protocol_port %d", in.Address, in.Port)
		}
	}
	m := Member{Node: newNode(r, in.nodeIn), Address: in.Address, Port: in.Port, Weight: 1, Subnet: text(in.Subnet)}
	if err := in.apply(&m); err != nil {
		return err
	}
	p.Members = append(p.Members, m)
	return nil
}

func (s *Service) listMembers(r *rest.Request) (*rest.Response, error) {
	b, p, err := s.pool(r, r.Params["pool"])
	if err != nil {
		return nil, err
	}
	var views []rest.M
	for i := range p.Members {
		views = append(views, s.viewMember(b, p, &p.Members[i]))
	}
	return answer(r, r.HTTP.URL.Path, "members", views)
}

func (s *Service) createMember(r *rest.Request) (*rest.Response, error) {
	b, p, err := s.pool(r, r.Params["pool"])
	if err != nil {
		return nil, err
	}
	in := memberIn{}
	if err := read(r, "member", "member_", &in); err != nil {
		return nil, err
	}
	if err := s.room(b.Project, map[string]int{"member": 1}); err != nil {
		return nil, err
	}
	if err := busyPool(b, p); err != nil {
		return nil, err
	}
	if err := p.add(r, in); err != nil {
		return nil, err
	}
	p.Status = pendingUpdate
	s.begin(r.Now, b, pendingUpdate)
	return rest.Status(http.StatusCreated, rest.M{"member": s.viewMember(b, p, &p.Members[len(p.Members)-1])})
}

// batchMembers makes the members those that are given: who is there is changed, who is not is added, all others go.
func (s *Service) batchMembers(r *rest.Request) (*rest.Response, error) {
	b, p, err := s.pool(r, r.Params["pool"])
	if err != nil {
		return nil, err
	}
	var in []memberIn
	if err := read(r, "members", "members_", &in); err != nil {
		return nil, err
	}
	if err := s.room(b.Project, map[string]int{"member": len(in) - len(p.Members)}); err != nil {
		return nil, err
	}
	if err := busyPool(b, p); err != nil {
		return nil, err
	}
	next := Pool{}
	for _, m := range in {
		if err := next.add(r, m); err != nil {
			return nil, err
		}
	}
	for i := range next.Members {
		m := &next.Members[i]
		at := slices.IndexFunc(p.Members, func(o Member) bool { return o.Address == m.Address && o.Port == m.Port })
		if at < 0 {
			continue
		}
		kept := p.Members[at]
		if err := in[i].apply(&kept); err != nil {
			return nil, err
		}
		kept.Status = pendingUpdate
		*m = kept
	}
	for _, o := range p.Members {
		if !slices.ContainsFunc(next.Members, func(m Member) bool { return m.ID == o.ID }) {
			o.Status = pendingDelete
			next.Members = append(next.Members, o)
		}
	}
	p.Members, p.Status = next.Members, pendingUpdate
	s.begin(r.Now, b, pendingUpdate)
	return rest.Status(http.StatusAccepted, nil)
}

// member finds a member of the pool that the path names.
func (s *Service) member(r *rest.Request) (*LoadBalancer, *Pool, *Member, error) {
	b, p, err := s.pool(r, r.Params["pool"])
	if err != nil {
		return nil, nil, nil, err
	}
	for i := range p.Members {
		if p.Members[i].ID == r.Params["id"] {
			return b, p, &p.Members[i], nil
		}
	}
	return nil, nil, nil, refuse(http.StatusNotFound, "Member %s not found.", r.Params["id"])
}

func (s *Service) getMember(r *rest.Request) (*rest.Response, error) {
	b, p, m, err := s.member(r)
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"member": s.viewMember(b, p, m)})
}

func (s *Service) updateMember(r *rest.Request) (*rest.Response, error) {
	b, p, m, err := s.member(r)
	if err != nil {
		return nil, err
	}
	in := memberIn{}
	if err := read(r, "member", "member_", &in); err != nil {
		return nil, err
	}
	if err := busyPool(b, p); err != nil {
		return nil, err
	}
	next := *m
	if err := in.apply(&next); err != nil {
		return nil, err
	}
	*m = next
	m.Status = pendingUpdate
	s.begin(r.Now, b, pendingUpdate)
	return rest.OK(rest.M{"member": s.viewMember(b, p, m)})
}

func (s *Service) deleteMember(r *rest.Request) (*rest.Response, error) {
	b, p, m, err := s.member(r)
	if err != nil {
		return nil, err
	}
	if err := busyPool(b, p); err != nil {
		return nil, err
	}
	m.Status = pendingDelete
	s.begin(r.Now, b, pendingUpdate)
	return rest.Status(http.StatusNoContent, nil)
}

type monitorIn struct {
	nodeIn
	Pool    *string  `json:"pool_id"`
	Type    string   `json:"type"`
	Delay   *int     `json:"delay"`
	Timeout *int     `json:"timeout"`
	Retries *int     `json:"max_retries"`
	Fall    *int     `json:"max_retries_down"`
	Method  *string  `json:"http_method"`
	Path    *string  `json:"url_path"`
	Codes   *string  `json:"expected_codes"`
	Version *float64 `json:"http_version"`
	Domain  *string  `json:"domain_name"`
}

func (in monitorIn) apply(m *Monitor) {
	in.nodeIn.apply(&m.Node)
	for _, n := range []struct {
		given *int
		into  *int
	}{{in.Delay, &m.Delay}, {in.Timeout, &m.Timeout}, {in.Retries, &m.Retries}, {in.Fall, &m.Fall}} {
		if n.given != nil {
			*n.into = *n.given
		}
	}
	for _, t := range []struct {
		given *string
		into  *string
	}{{in.Method, &m.Method}, {in.Path, &m.Path}, {in.Codes, &m.Codes}} {
		if t.given != nil {
			*t.into = *t.given
		}
	}
}

func newMonitor(r *rest.Request, in monitorIn) (*Monitor, error) {
	if err := among("type", in.Type, monitorTypes); err != nil {
		return nil, err
	}
	if in.Delay == nil || in.Timeout == nil || in.Retries == nil {
		return nil, refuse(http.StatusBadRequest, "Invalid input for field/attribute delay. Value: 'None'. Mandatory field missing.")
	}
	m := &Monitor{Node: newNode(r, in.nodeIn), Type: in.Type, Method: "GET", Path: "/", Codes: "200", Fall: 3}
	in.apply(m)
	return m, nil
}

func (s *Service) createMonitor(r *rest.Request) (*rest.Response, error) {
	in := monitorIn{}
	if err := read(r, "healthmonitor", "health_monitor_", &in); err != nil {
		return nil, err
	}
	b, p, err := s.pool(r, text(in.Pool))
	if err != nil {
		return nil, err
	}
	if err := s.room(b.Project, map[string]int{"health_monitor": 1}); err != nil {
		return nil, err
	}
	if p.Monitor != nil {
		return nil, refuse(http.StatusConflict, "This pool already has a health monitor")
	}
	if err := busyPool(b, p); err != nil {
		return nil, err
	}
	m, err := newMonitor(r, in)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(monitorsHad, m.Type) {
		return nil, lacks("The haproxy provider has no %s health monitors.", m.Type)
	}
	p.Monitor, p.Status = m, pendingUpdate
	s.begin(r.Now, b, pendingUpdate)
	return rest.Status(http.StatusCreated, rest.M{"healthmonitor": s.viewMonitor(b, p)})
}

// monitor finds the pool that has a monitor.
func (s *Service) monitor(r *rest.Request) (*LoadBalancer, *Pool, error) {
	for _, b := range s.balancers.All() {
		for i := range b.Pools {
			if m := b.Pools[i].Monitor; m == nil || m.ID != r.Params["id"] {
				continue
			}
			if b.Project != r.Token.ProjectID && !r.Token.Admin() {
				return nil, nil, denied()
			}
			return b, &b.Pools[i], nil
		}
	}
	return nil, nil, refuse(http.StatusNotFound, "Health Monitor %s not found.", r.Params["id"])
}

func (s *Service) getMonitor(r *rest.Request) (*rest.Response, error) {
	b, p, err := s.monitor(r)
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"healthmonitor": s.viewMonitor(b, p)})
}

func (s *Service) listMonitors(r *rest.Request) (*rest.Response, error) {
	all, err := s.all(r)
	if err != nil {
		return nil, err
	}
	var views []rest.M
	for _, b := range all {
		for i := range b.Pools {
			if b.Pools[i].Monitor != nil {
				views = append(views, s.viewMonitor(b, &b.Pools[i]))
			}
		}
	}
	return answer(r, r.HTTP.URL.Path, "healthmonitors", views)
}

func (s *Service) updateMonitor(r *rest.Request) (*rest.Response, error) {
	b, p, err := s.monitor(r)
	if err != nil {
		return nil, err
	}
	in := monitorIn{}
	if err := read(r, "healthmonitor", "health_monitor_", &in); err != nil {
		return nil, err
	}
	if err := busyPool(b, p); err != nil {
		return nil, err
	}
	next := *p.Monitor
	in.apply(&next)
	next.Status = pendingUpdate
	p.Monitor = &next
	s.begin(r.Now, b, pendingUpdate)
	return rest.OK(rest.M{"healthmonitor": s.viewMonitor(b, p)})
}

func (s *Service) deleteMonitor(r *rest.Request) (*rest.Response, error) {
	b, p, err := s.monitor(r)
	if err != nil {
		return nil, err
	}
	if err := busyPool(b, p); err != nil {
		return nil, err
	}
	next := *p.Monitor
	next.Status = pendingDelete
	p.Monitor = &next
	s.begin(r.Now, b, pendingUpdate)
	return rest.Status(http.StatusNoContent, nil)
}

// optionalSet tells a persistence that is given as null, which takes it away, from one that is not given.
type optionalSet struct {
	given bool
	value *Persistence
}

// UnmarshalJSON is called for null, too.
func (o *optionalSet) UnmarshalJSON(data []byte) error {
	o.given = true
	if string(data) == "null" {
		return nil
	}
	o.value = &Persistence{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode(o.value)
}
