// Package balance simulates Octavia v2 as the lab's answers it, whose only provider runs haproxy.
//
// A load balancer is one row with all that is below it: Octavia locks the whole tree with each change, and so does the
// agenda. A change puts the load balancer and what it touches into PENDING_*, and refuses others with 409; when the time
// has come the provider is done, and all is ACTIVE, or gone. If the port that has the address is gone meanwhile, the
// provider fails, as the real one does, and the load balancer is in ERROR: it takes a deletion and nothing else.
//
// No packet is sent. Whether a member answers is known by whether a server that runs has its address.
package balance

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/control"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/network"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
	"github.com/weftcloud/weft/services/sandbox/internal/world"
)

// Provider is the only provider, as in the lab.
const Provider = "haproxy"

// The provisioning states.
const (
	active        = "ACTIVE"
	pendingCreate = "PENDING_CREATE"
	pendingUpdate = "PENDING_UPDATE"
	pendingDelete = "PENDING_DELETE"
	failed        = "ERROR"
)

// Node is what every object has.
type Node struct {
	ID, Name, Description string
	Status                string // provisioning
	Tags                  []string
	Down                  bool // admin_state_up is false
	CreatedAt, UpdatedAt  time.Time
}

// LoadBalancer is a load balancer with all that is below it.
type LoadBalancer struct {
	Node
	Project                        string
	Network, Subnet, Port, Address string
	Due                            time.Time // when the provider is done; zero: it is not at work
	Listeners                      []Listener
	Pools                          []Pool
}

// Listener listens at one port.
type Listener struct {
	Node
	Protocol string
	Port     int
	CIDRs    []string
	Pool     string
	Limit    int
}

// Persistence is how a client stays with a member.
type Persistence struct {
	Type        string  `json:"type"`
	Cookie      *string `json:"cookie_name"`
	Timeout     *int    `json:"persistence_timeout"`
	Granularity *string `json:"persistence_granularity"`
}

// Pool is who answers.
type Pool struct {
	Node
	Protocol, Algorithm string
	Persistence         *Persistence
	Members             []Member
	Monitor             *Monitor
}

// Member is one that answers.
type Member struct {
	Node
	Address, Subnet string
	Port, Weight    int
}

// Monitor is how members are watched.
type Monitor struct {
	Node
	Type, Method, Path, Codes     string
	Delay, Timeout, Retries, Fall int
}

const byProject = 0

// Power tells whether a server runs.
type Power interface {
	Running(server string) bool
}

// Service is the simulated Octavia.
type Service struct {
	rest.Service
	balancers *world.Table[LoadBalancer]
	quotas    *world.Table[map[string]int]
	network   *network.Service
	power     Power
}

// New makes the service and loads its state.
func New(w *rest.World, prefix string, n *network.Service, power Power, auth func(string, time.Time) *rest.Token) (*Service, error) {
	s := &Service{
		balancers: world.NewTable(w.Journal, "balance.loadbalancers", func(b *LoadBalancer) []string { return []string{b.Project} }),
		quotas:    world.NewTable[map[string]int](w.Journal, "balance.quotas"), network: n, power: power,
	}
	s.Service = rest.Service{
		Name: "load-balancer", Prefix: prefix, World: w, Routes: s.routes(), WriteError: writeError, Authenticate: auth,
		Clean: func(path string) string {
			if rest, ok := strings.CutPrefix(path, "/v2/"); ok { // both names lead to the same
				return "/v2.0/" + rest
			}
			return path
		},
	}
	s.Prepare()
	if err := s.balancers.Load(); err != nil {
		return nil, err
	}
	if err := s.quotas.Load(); err != nil {
		return nil, err
	}
	for id, b := range s.balancers.All() {
		if !b.Due.IsZero() {
			s.World.Agenda.At(b.Due, func(at time.Time) { s.done(at, id) })
		}
	}
	return s, nil
}

// writeError answers as Octavia's framework does.
func writeError(w http.ResponseWriter, _ *http.Request, status int, _, message string) {
	code := "Client"
	if status >= 500 {
		code = "Server"
	}
	rest.WriteJSON(w, status, rest.M{"faultcode": code, "faultstring": message, "debuginfo": nil})
}

// Reset brings the service back to its seeds: it has none.
func (s *Service) Reset() {
	s.balancers.Clear()
	s.quotas.Clear()
}

// begin puts a load balancer into a PENDING state until its provider is done.
func (s *Service) begin(now time.Time, b *LoadBalancer, status string) {
	key := map[string]string{pendingCreate: "active", pendingUpdate: "updated", pendingDelete: "deleted"}[status]
	b.Status, b.Due = status, s.World.Later(now, "load-balancer.loadbalancer."+key)
	if status != pendingCreate {
		b.UpdatedAt = now
	}
	s.balancers.Put(b.ID, b)
	s.World.Agenda.At(b.Due, func(at time.Time) { s.done(at, b.ID) })
}

// done is the end of the provider's work.
func (s *Service) done(at time.Time, id string) {
	b := s.balancers.Get(id)
	if b == nil || b.Due.IsZero() || b.Due.After(at) {
		return
	}
	b.Due = time.Time{}
	if b.Status == pendingDelete {
		s.network.Unplug(at, b.Port)
		s.balancers.Delete(id)
		return
	}
	end := active
	if s.network.Port(b.Port) == nil {
		end = failed
	}
	b.Status, b.UpdatedAt = end, at
	b.settle(at, end)
	s.balancers.Put(id, b)
}

// settle ends the work on what is below: what is to go is gone.
func (b *LoadBalancer) settle(at time.Time, end string) {
	finish := func(n *Node) {
		if strings.HasPrefix(n.Status, "PENDING_") {
			n.Status, n.UpdatedAt = end, at
		}
	}
	going := func(n Node) bool { return n.Status == pendingDelete && end == active }
	b.Listeners = slices.DeleteFunc(b.Listeners, func(l Listener) bool { return going(l.Node) })
	b.Pools = slices.DeleteFunc(b.Pools, func(p Pool) bool { return going(p.Node) })
	for i := range b.Listeners {
		finish(&b.Listeners[i].Node)
	}
	for i := range b.Pools {
		p := &b.Pools[i]
		finish(&p.Node)
		p.Members = slices.DeleteFunc(p.Members, func(m Member) bool { return going(m.Node) })
		for k := range p.Members {
			finish(&p.Members[k].Node)
		}
		if p.Monitor != nil && going(p.Monitor.Node) {
			p.Monitor = nil
		}
		if p.Monitor != nil {
			finish(&p.Monitor.Node)
		}
	}
}

// Operating states.

// memberState says how a member works.
func (s *Service) memberState(b *LoadBalancer, p *Pool, m *Member) string {
	switch {
	case m.Down:
		return "OFFLINE"
	case m.Status == pendingCreate || m.Status == failed:
		return "OFFLINE"
	case p.Monitor == nil:
		return "NO_MONITOR"
	case s.power.Running(s.network.DeviceAt(b.Project, b.Network, m.Address)):
		return "ONLINE"
	default:
		return "ERROR"
	}
}

// poolState says how a pool works: by its members.
func (s *Service) poolState(b *LoadBalancer, p *Pool) string {
	if p.Down || p.Status == pendingCreate {
		return "OFFLINE"
	}
	if p.Status == failed {
		return "ERROR"
	}
	bad := 0
	for i := range p.Members {
		if s.memberState(b, p, &p.Members[i]) == "ERROR" {
			bad++
		}
	}
	switch {
	case bad > 0 && bad == len(p.Members):
		return "ERROR"
	case bad > 0:
		return "DEGRADED"
	default:
		return "ONLINE"
	}
}

// state says how a load balancer works: as the worst of its pools.
func (s *Service) state(b *LoadBalancer) string {
	switch {
	case b.Down, b.Status == pendingCreate:
		return "OFFLINE"
	case b.Status == failed:
		return "ERROR"
	}
	worst := "ONLINE"
	for i := range b.Pools {
		switch st := s.poolState(b, &b.Pools[i]); {
		case st == "ERROR", st == "DEGRADED" && worst == "ONLINE":
			worst = st
		}
	}
	return worst
}

// nodeState is the operating state of what has none of its own.
func nodeState(n Node) string {
	switch {
	case n.Down, n.Status == pendingCreate:
		return "OFFLINE"
	case n.Status == failed:
		return "ERROR"
	default:
		return "ONLINE"
	}
}

// Inventory lists every load balancer; what is below belongs to it.
func (s *Service) Inventory() []control.InventoryItem {
	var out []control.InventoryItem
	for _, b := range s.balancers.All() {
		var parts []string
		for _, l := range b.Listeners {
			parts = append(parts, "listener "+l.Name)
		}
		for _, p := range b.Pools {
			parts = append(parts, "pool "+p.Name)
		}
		slices.Sort(parts)
		out = append(out, control.InventoryItem{
			Service: "load-balancer", Kind: "loadbalancer", ID: b.ID, Name: b.Name, Project: b.Project, State: b.Status, Tags: b.Tags,
			Description: b.Description, CreatedAt: b.CreatedAt, Metadata: map[string]string{"vip_port_id": b.Port, "vip_address": b.Address},
			Settings: map[string]string{"tree": strings.Join(parts, ",")},
		})
	}
	return out
}

// Quotas.

// quotaNames are the quotas, and what a refusal calls what they count.
var quotaNames = map[string]string{
	"load_balancer": "Load Balancer", "listener": "Listener", "pool": "Pool", "member": "Member", "health_monitor": "Health Monitor", "l7policy": "L7Policy", "l7rule": "L7Rule",
}

func (s *Service) limits(project string) map[string]int {
	out := map[string]int{}
	for name := range quotaNames {
		out[name] = -1
	}
	if own := s.quotas.Get(project); own != nil {
		maps.Copy(out, *own)
	}
	return out
}

// used counts what a project has.
func (s *Service) used(project string) map[string]int {
	out := map[string]int{}
	for _, b := range s.balancers.By(byProject, project) {
		out["load_balancer"]++
		b.count(out)
	}
	return out
}

// count adds what is below a load balancer.
func (b *LoadBalancer) count(out map[string]int) {
	out["listener"] += len(b.Listeners)
	out["pool"] += len(b.Pools)
	for _, p := range b.Pools {
		out["member"] += len(p.Members)
		if p.Monitor != nil {
			out["health_monitor"]++
		}
	}
}

// room refuses what is more than a quota allows.
func (s *Service) room(project string, more map[string]int) error {
	limits, used := s.limits(project), s.used(project)
	for _, name := range slices.Sorted(maps.Keys(more)) {
		if more[name] > 0 && limits[name] >= 0 && used[name]+more[name] > limits[name] {
			return refuse(http.StatusForbidden, "Quota has been met for resources: %s", quotaNames[name])
		}
	}
	return nil
}

// SetQuotas sets limits of a project.
func (s *Service) SetQuotas(project string, limits map[string]int) error {
	for key := range limits {
		if quotaNames[key] == "" {
			return refuse(http.StatusBadRequest, "Unknown attribute for argument quotas.quota: %s", key)
		}
	}
	next := map[string]int{}
	if own := s.quotas.Get(project); own != nil {
		maps.Copy(next, *own)
	}
	maps.Copy(next, limits)
	s.quotas.Put(project, &next)
	return nil
}

// Quotas yields the limits that were set, by project.
func (s *Service) Quotas() map[string]map[string]int {
	out := map[string]map[string]int{}
	for project, own := range s.quotas.All() {
		out[project] = maps.Clone(*own)
	}
	return out
}

func refuse(status int, format string, args ...any) error {
	return rest.Errorf(status, "", format, args...)
}
