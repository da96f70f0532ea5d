package balance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

func (s *Service) routes() []rest.Route {
	routes := []rest.Route{{Method: "GET", Pattern: "/", Operation: "version.list", Handler: versions, Public: true}}
	add := func(method, pattern, operation string, h rest.Handler) {
		routes = append(routes, rest.Route{Method: method, Pattern: "/v2.0/lbaas" + pattern, Operation: operation, Handler: h})
	}
	add("GET", "/loadbalancers", "loadbalancer.list", s.listBalancers)
	add("POST", "/loadbalancers", "loadbalancer.create", s.createBalancer)
	add("GET", "/loadbalancers/{id}", "loadbalancer.get", s.onBalancer(func(_ *rest.Request, b *LoadBalancer) (*rest.Response, error) {
		return rest.OK(rest.M{"loadbalancer": s.view(b)})
	}))
	add("GET", "/loadbalancers/{id}/status", "loadbalancer.status", s.onBalancer(func(_ *rest.Request, b *LoadBalancer) (*rest.Response, error) {
		return rest.OK(s.status(b))
	}))
	add("PUT", "/loadbalancers/{id}", "loadbalancer.update", s.onBalancer(s.updateBalancer))
	add("PUT", "/loadbalancers/{id}/failover", "loadbalancer.failover", s.onBalancer(s.failover))
	add("DELETE", "/loadbalancers/{id}", "loadbalancer.delete", s.onBalancer(s.deleteBalancer))
	add("GET", "/listeners", "listener.list", s.listListeners)
	add("POST", "/listeners", "listener.create", s.createListener)
	add("GET", "/listeners/{id}", "listener.get", s.getListener)
	add("PUT", "/listeners/{id}", "listener.update", s.updateListener)
	add("DELETE", "/listeners/{id}", "listener.delete", s.deleteListener)
	add("GET", "/pools", "pool.list", s.listPools)
	add("POST", "/pools", "pool.create", s.createPool)
	add("GET", "/pools/{pool}", "pool.get", s.getPool)
	add("PUT", "/pools/{pool}", "pool.update", s.updatePool)
	add("DELETE", "/pools/{pool}", "pool.delete", s.deletePool)
	add("GET", "/pools/{pool}/members", "member.list", s.listMembers)
	add("POST", "/pools/{pool}/members", "member.create", s.createMember)
	add("PUT", "/pools/{pool}/members", "member.batch", s.batchMembers)
	add("GET", "/pools/{pool}/members/{id}", "member.get", s.getMember)
	add("PUT", "/pools/{pool}/members/{id}", "member.update", s.updateMember)
	add("DELETE", "/pools/{pool}/members/{id}", "member.delete", s.deleteMember)
	add("GET", "/healthmonitors", "healthmonitor.list", s.listMonitors)
	add("POST", "/healthmonitors", "healthmonitor.create", s.createMonitor)
	add("GET", "/healthmonitors/{id}", "healthmonitor.get", s.getMonitor)
	add("PUT", "/healthmonitors/{id}", "healthmonitor.update", s.updateMonitor)
	add("DELETE", "/healthmonitors/{id}", "healthmonitor.delete", s.deleteMonitor)
	add("GET", "/providers", "provider.list", func(*rest.Request) (*rest.Response, error) {
		return rest.OK(rest.M{"providers": []rest.M{{"name": Provider, "description": "haproxy in a network namespace"}}})
	})
	add("GET", "/quotas/{project}", "quota.get", s.getQuota)
	add("PUT", "/quotas/{project}", "quota.update", s.putQuota)
	add("DELETE", "/quotas/{project}", "quota.delete", s.deleteQuota)
	return routes
}

func versions(r *rest.Request) (*rest.Response, error) {
	all := []rest.M{}
	for minor := range 28 {
		status := "SUPPORTED"
		if minor == 27 {
			status = "CURRENT"
		}
		all = append(all, rest.M{"id": fmt.Sprintf("v2.%d", minor), "status": status, "updated": "2023-02-03T00:00:00Z", "links": []rest.M{rest.Link("self", r.Base+"/load-balancer/v2")}})
	}
	return rest.OK(rest.M{"versions": all})
}

// denied is what a user gets for what is an operator's.
func denied() error {
	return refuse(http.StatusForbidden, "Policy does not allow this request to be performed.")
}

// read reads body[name] strictly: an unknown field is refused.
func read(r *rest.Request, name, argument string, into any) error {
	body := map[string]json.RawMessage{}
	if err := r.JSON(&body); err != nil {
		return err
	}
	raw, ok := body[name]
	if !ok {
		return refuse(http.StatusBadRequest, "Missing argument: \"%s\"", argument)
	}
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		return nil
	}
	if unknown, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return refuse(http.StatusBadRequest, "Unknown attribute for argument %s.%s: %s", argument, name, strings.Trim(unknown, `"`))
	}
	return refuse(http.StatusBadRequest, "Invalid input for field/attribute %s. %v", name, err)
}

// balancer finds a load balancer that the caller may see.
func (s *Service) balancer(t *rest.Token, id string) (*LoadBalancer, error) {
	b := s.balancers.Get(id)
	if b == nil {
		return nil, refuse(http.StatusNotFound, "Load Balancer %s not found.", id)
	}
	if b.Project != t.ProjectID && !t.Admin() {
		return nil, denied()
	}
	return b, nil
}

func (s *Service) onBalancer(do func(*rest.Request, *LoadBalancer) (*rest.Response, error)) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		b, err := s.balancer(r.Token, r.Params["id"])
		if err != nil {
			return nil, err
		}
		return do(r, b)
	}
}

// all lists the load balancers that the caller may see.
func (s *Service) all(r *rest.Request) ([]*LoadBalancer, error) {
	if project := r.Query.Get("project_id"); project != "" && project != r.Token.ProjectID && !r.Token.Admin() {
		return nil, denied()
	}
	if len(r.Query["id"]) > 1 { // the real one passes the list to its database, which takes none
		return nil, refuse(http.StatusInternalServerError, "(pymysql.err.OperationalError) (4078, \"Illegal parameter data types varchar and row for operation '='\")")
	}
	if r.Token.Admin() {
		var out []*LoadBalancer
		for _, b := range s.balancers.All() {
			out = append(out, b)
		}
		return out, nil
	}
	return s.balancers.By(byProject, r.Token.ProjectID), nil
}

func (s *Service) listBalancers(r *rest.Request) (*rest.Response, error) {
	all, err := s.all(r)
	if err != nil {
		return nil, err
	}
	var views []rest.M
	for _, b := range all {
		views = append(views, s.view(b))
	}
	return answer(r, r.HTTP.URL.Path, "loadbalancers", views)
}

// busy refuses a change of a load balancer, or of what is below it, that its provider is at work on.
func busy(b *LoadBalancer) error {
	if b.Status != active {
		return refuse(http.StatusConflict, "Load Balancer %s is immutable and cannot be updated.", b.ID)
	}
	return nil
}

// wrong refuses a change of the load balancer itself.
func wrong(b *LoadBalancer) error {
	return refuse(http.StatusConflict, "Invalid state %s of loadbalancer resource %s", b.Status, b.ID)
}

// nodeIn is what all objects take.
type nodeIn struct {
	Name        *string   `json:"name"`
	Description *string   `json:"description"`
	Up          *bool     `json:"admin_state_up"`
	Tags        *[]string `json:"tags"`
	Project     *string   `json:"project_id"`
	Tenant      *string   `json:"tenant_id"`
}

func (in nodeIn) apply(n *Node) {
	if in.Name != nil {
		n.Name = *in.Name
	}
	if in.Description != nil {
		n.Description = *in.Description
	}
	if in.Up != nil {
		n.Down = !*in.Up
	}
	if in.Tags != nil {
		n.Tags = *in.Tags
	}
}

func newNode(r *rest.Request, in nodeIn) Node {
	n := Node{ID: rest.NewID(), Status: pendingCreate, CreatedAt: r.Now}
	in.apply(&n)
	return n
}

// balancerIn is what makes or changes a load balancer.
type balancerIn struct {
	nodeIn
	Network   *string      `json:"vip_network_id"`
	Subnet    *string      `json:"vip_subnet_id"`
	Port      *string      `json:"vip_port_id"`
	Address   *string      `json:"vip_address"`
	QoS       *string      `json:"vip_qos_policy_id"`
	Provider  *string      `json:"provider"`
	Flavor    *string      `json:"flavor_id"`
	Zone      *string      `json:"availability_zone"`
	Listeners []listenerIn `json:"listeners"`
	Pools     []poolIn     `json:"pools"`
}

func text(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}

func (s *Service) createBalancer(r *rest.Request) (*rest.Response, error) {
	in := balancerIn{}
	if err := read(r, "loadbalancer", "load_balancer", &in); err != nil {
		return nil, err
	}
	if p := text(in.Provider); p != "" && p != Provider {
		return nil, refuse(http.StatusBadRequest, "Provider '%s' is not enabled.", p)
	}
	b := &LoadBalancer{Node: newNode(r, in.nodeIn), Project: r.Token.ProjectID}
	if err := s.grow(r, b, in); err != nil {
		return nil, err
	}
	more := map[string]int{"load_balancer": 1}
	b.count(more)
	if err := s.room(b.Project, more); err != nil {
		return nil, err
	}
	if err := s.plug(r, b, in); err != nil {
		return nil, err
	}
	s.begin(r.Now, b, pendingCreate)
	return rest.Status(http.StatusCreated, rest.M{"loadbalancer": s.viewWhole(b)})
}

// grow adds what the call that makes a load balancer gives to be below it. Of a whole tree the provider is not asked
// whether it has the protocols.
func (s *Service) grow(r *rest.Request, b *LoadBalancer, in balancerIn) error {
	for _, p := range in.Pools {
		if err := s.addPool(r, b, p); err != nil {
			return err
		}
	}
	for _, l := range in.Listeners {
		given := l.DefaultPool
		l.DefaultPool = nil
		if given != nil && given.Protocol != "" {
			if err := s.addPool(r, b, *given); err != nil {
				return err
			}
		}
		if given != nil {
			at := slices.IndexFunc(b.Pools, func(p Pool) bool { return p.Name == text(given.Name) })
			if at < 0 {
				return refuse(http.StatusBadRequest, "Validation failure: Pool named '%s' is not part of the load balancer", text(given.Name))
			}
			l.PoolID = &b.Pools[at].ID
		}
		if err := s.addListener(r, b, l); err != nil {
			return err
		}
	}
	return nil
}

// plug takes the address.
func (s *Service) plug(r *rest.Request, b *LoadBalancer, in balancerIn) error {
	network := text(in.Network)
	if subnet := text(in.Subnet); subnet != "" {
		if network = s.network.NetworkOf(subnet); network == "" {
			return refuse(http.StatusBadRequest, "Subnet %s not found.", subnet)
		}
	}
	if network == "" {
		return refuse(http.StatusBadRequest, "Validation failure: VIP must contain one of: vip_port_id, vip_network_id, vip_subnet_id.")
	}
	if !s.network.Known(network) {
		return refuse(http.StatusBadRequest, "Network %s not found.", network)
	}
	p, err := s.network.PlugBalancer(r.Token, r.Now, s.World.Later(r.Now, "load-balancer.loadbalancer.active"), network, text(in.Subnet), text(in.Address), b.ID)
	if err != nil {
		return refuse(http.StatusInternalServerError, "Error creating VIP port on network %s: %v", network, err)
	}
	b.Network, b.Port = network, p.ID
	if len(p.FixedIPs) > 0 {
		b.Subnet, b.Address = p.FixedIPs[0].Subnet, p.FixedIPs[0].Address.String()
	}
	return nil
}

func (s *Service) updateBalancer(r *rest.Request, b *LoadBalancer) (*rest.Response, error) {
	in := nodeIn{}
	if err := read(r, "loadbalancer", "load_balancer", &in); err != nil {
		return nil, err
	}
	if b.Status != active {
		return nil, wrong(b)
	}
	in.apply(&b.Node)
	s.begin(r.Now, b, pendingUpdate)
	return rest.OK(rest.M{"loadbalancer": s.view(b)})
}

func (s *Service) failover(r *rest.Request, b *LoadBalancer) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, denied()
	}
	if b.Status != active && b.Status != failed {
		return nil, wrong(b)
	}
	s.begin(r.Now, b, pendingUpdate)
	return rest.Status(http.StatusAccepted, nil)
}

func (s *Service) deleteBalancer(r *rest.Request, b *LoadBalancer) (*rest.Response, error) {
	cascade, _ := rest.ParseBool(r.Query.Get("cascade"))
	if !cascade && len(b.Listeners)+len(b.Pools) > 0 {
		return nil, refuse(http.StatusBadRequest, "Validation failure: Cannot delete Load Balancer %s - it has children", b.ID)
	}
	if b.Status != active && b.Status != failed {
		return nil, wrong(b)
	}
	for i := range b.Listeners {
		b.Listeners[i].Status = pendingDelete
	}
	for i := range b.Pools {
		b.Pools[i].Status = pendingDelete
	}
	s.begin(r.Now, b, pendingDelete)
	return rest.Status(http.StatusNoContent, nil)
}

func (s *Service) getQuota(r *rest.Request) (*rest.Response, error) {
	project := r.Params["project"]
	if project != r.Token.ProjectID && !r.Token.Admin() {
		return nil, denied()
	}
	return rest.OK(rest.M{"quota": s.limits(project)})
}

func (s *Service) putQuota(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, denied()
	}
	in := map[string]int{}
	if err := read(r, "quota", "quotas", &in); err != nil {
		return nil, err
	}
	if err := s.SetQuotas(r.Params["project"], in); err != nil {
		return nil, err
	}
	return rest.Status(http.StatusAccepted, rest.M{"quota": s.limits(r.Params["project"])})
}

func (s *Service) deleteQuota(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, denied()
	}
	s.quotas.Delete(r.Params["project"])
	return rest.Status(http.StatusNoContent, nil)
}
