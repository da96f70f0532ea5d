// Package network simulates Neutron v2.0 as the lab's ML2 with L3, DHCP and port forwarding answers it.
//
// Every kind of object goes through the same five calls (collection.go); what differs is a table of attributes
// (kinds.go) and what making, changing and removing one does (one file per kind). Addresses are held per subnet
// so that allocation does not walk the ports. States that take time (a port that a guest plugs, a floating IP
// that the router takes up) are a pair of states and a moment, looked at when the object is shown.
package network

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/control"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
	"github.com/weftcloud/weft/services/sandbox/internal/world"
)

// Standard is what every object of Neutron has.
type Standard struct {
	ID, Name, Project, Description string
	Tags                           []string
	Revision                       int
	CreatedAt, UpdatedAt           time.Time
	Status                         string
	NextStatus                     string    // what Status becomes
	NextAt                         time.Time // when; zero: it stays
	Seeded                         bool
}

func (s *Standard) std() *Standard { return s }

func (s *Standard) status(now time.Time) string {
	if !s.NextAt.IsZero() && !now.Before(s.NextAt) {
		return s.NextStatus
	}
	return s.Status
}

// become has the status change to next at the given time.
func (s *Standard) become(now, at time.Time, next string) {
	s.Status = s.status(now)
	s.NextStatus, s.NextAt = next, at
}

func (s *Standard) touch(now time.Time) {
	s.Revision++
	s.UpdatedAt = now.Truncate(time.Second)
}

// Network is a network.
type Network struct {
	Standard
	AdminUp, Shared, External, Default, PortSecurity bool
	MTU, Segment                                     int
	Type, Physical                                   string
}

// Range is an allocation pool.
type Range struct {
	Start netip.Addr `json:"start"`
	End   netip.Addr `json:"end"`
}

// HostRoute is a static route, of a subnet or of a router.
type HostRoute struct {
	Destination string `json:"destination"`
	NextHop     string `json:"nexthop"`
}

// Subnet is a subnet.
type Subnet struct {
	Standard
	Network     string
	CIDR        netip.Prefix
	Gateway     netip.Addr // invalid: none
	DHCP        bool
	Pools       []Range
	DNS         []string
	Routes      []HostRoute
	RAMode      string
	AddressMode string
}

// FixedIP is one address of a port.
type FixedIP struct {
	Subnet  string     `json:"subnet_id"`
	Address netip.Addr `json:"ip_address"`
}

// Port is a port.
type Port struct {
	Standard
	Network, MAC, Device, Owner string
	AdminUp, Security           bool
	FixedIPs                    []FixedIP
	Groups                      []string
	Pairs                       []AddressPair
	DHCPOptions                 []any
	Host, VNIC                  string
}

// AddressPair is a further address that a port may use.
type AddressPair struct {
	MAC     string `json:"mac_address"`
	Address string `json:"ip_address"`
}

// Router is a router.
type Router struct {
	Standard
	AdminUp, SNAT bool
	GatewayPort   string // "" : no external gateway
	Routes        []HostRoute
}

// Group is a security group.
type Group struct {
	Standard
	Stateful bool
}

// Rule is a security group rule.
type Rule struct {
	Standard
	Group, Direction, EtherType, Protocol string
	PortMin, PortMax                      *int
	RemotePrefix, RemoteGroup             string
	Auto                                  bool // came with its group
}

// FloatingIP is a floating IP.
type FloatingIP struct {
	Standard
	Network, Port, Router, OwnPort string
	Address                        netip.Addr
	Fixed                          netip.Addr // invalid: not associated
	Forwards                       []Forward
}

// Forward is a port forwarding of a floating IP.
type Forward struct {
	ID, Protocol, Port, Description string
	External, Internal              int
	Address                         netip.Addr
}

// Indexes of the tables.
const (
	byProject = iota // every table
	byNetwork        // ports, subnets, floating IPs
	byDevice         // ports
	byGroup          // ports: security group
)

// Service is the simulated Neutron.
type Service struct {
	rest.Service
	networks *world.Table[Network]
	subnets  *world.Table[Subnet]
	ports    *world.Table[Port]
	routers  *world.Table[Router]
	groups   *world.Table[Group]
	rules    *world.Table[Rule]
	floats   *world.Table[FloatingIP]
	quotas   *world.Table[map[string]int]
	kinds    map[string]*kind
	used     map[string]*pool             // by subnet
	macs     map[string]map[string]string // network: mac: port
	segment  int
	admin    string
}

// New makes the service, loads its state and seeds the external network when there is none.
func New(w *rest.World, prefix, adminProject string, auth func(string, time.Time) *rest.Token) (*Service, error) {
	j := w.Journal
	s := &Service{
		networks: world.NewTable(j, "network.networks", func(n *Network) []string { return []string{n.Project} }),
		subnets: world.NewTable(j, "network.subnets", func(n *Subnet) []string { return []string{n.Project} },
			func(n *Subnet) []string { return []string{n.Network} }),
		ports: world.NewTable(j, "network.ports", func(p *Port) []string { return []string{p.Project} },
			func(p *Port) []string { return []string{p.Network} }, func(p *Port) []string { return []string{p.Device} },
			func(p *Port) []string { return p.Groups }),
		routers: world.NewTable(j, "network.routers", func(r *Router) []string { return []string{r.Project} }),
		groups:  world.NewTable(j, "network.security_groups", func(g *Group) []string { return []string{g.Project} }),
		rules: world.NewTable(j, "network.security_group_rules", func(r *Rule) []string { return []string{r.Project} },
			func(r *Rule) []string { return []string{r.Group} }),
		floats: world.NewTable(j, "network.floatingips", func(f *FloatingIP) []string { return []string{f.Project} },
			func(f *FloatingIP) []string { return []string{f.Network} }, floatPorts),
		quotas: world.NewTable[map[string]int](j, "network.quotas"),
		used:   map[string]*pool{}, macs: map[string]map[string]string{}, admin: adminProject, segment: 1000,
	}
	s.kinds = s.allKinds()
	s.Service = rest.Service{
		Name: "network", Prefix: prefix, World: w, Routes: s.routes(), WriteError: writeError, Authenticate: auth,
		Clean: func(path string) string { return strings.TrimSuffix(path, ".json") },
	}
	s.Prepare()
	for _, load := range []func() error{
		s.networks.Load, s.subnets.Load, s.ports.Load, s.routers.Load, s.groups.Load, s.rules.Load, s.floats.Load, s.quotas.Load,
	} {
		if err := load(); err != nil {
			return nil, err
		}
	}
	s.restore()
	s.seed()
	return s, nil
}

// floatPorts are the ports that a floating IP leads to.
func floatPorts(f *FloatingIP) []string {
	keys := []string{f.Port}
	for _, fw := range f.Forwards {
		keys = append(keys, fw.Port)
	}
	return keys
}

// restore rebuilds what is derived from the loaded objects.
func (s *Service) restore() {
	for id, n := range s.subnets.All() {
		s.used[id] = newPool(n)
	}
	for _, p := range s.ports.All() {
		s.occupy(p)
	}
	for _, n := range s.networks.All() {
		s.segment = max(s.segment, n.Segment)
	}
	for id, n := range s.networks.All() {
		s.scheduleDHCP(n.CreatedAt, id)
	}
}

// Seeds of a fresh cloud: the lab's external network with a larger pool.
const (
	externalName = "public"
	externalCIDR = "172.24.0.0/16"
)

func (s *Service) seed() {
	if s.networks.Len() > 0 {
		return
	}
	now := s.World.Clock().UTC().Truncate(time.Second)
	n := &Network{
		Standard: Standard{ID: "8a0ba2d4-6c43-4a3b-9d0c-2f3c1e5b7a01", Name: externalName, Project: s.admin, Status: "ACTIVE", Revision: 2, CreatedAt: now, UpdatedAt: now, Seeded: true},
		AdminUp:  true, External: true, Default: true, PortSecurity: true, MTU: 1500, Type: "flat", Physical: "public",
	}
	s.networks.Put(n.ID, n)
	sub := &Subnet{
		Standard: Standard{ID: "8a0ba2d4-6c43-4a3b-9d0c-2f3c1e5b7a02", Name: "public-subnet", Project: s.admin, CreatedAt: now, UpdatedAt: now, Seeded: true},
		Network:  n.ID, CIDR: netip.MustParsePrefix(externalCIDR), Gateway: netip.MustParseAddr("172.24.4.1"),
		Pools: []Range{{netip.MustParseAddr("172.24.4.10"), netip.MustParseAddr("172.24.255.250")}},
	}
	s.subnets.Put(sub.ID, sub)
	s.used[sub.ID] = newPool(sub)
}

// Reset brings the service back to its seeds.
func (s *Service) Reset() {
	s.networks.Clear()
	s.subnets.Clear()
	s.ports.Clear()
	s.routers.Clear()
	s.groups.Clear()
	s.rules.Clear()
	s.floats.Clear()
	s.quotas.Clear()
	s.used, s.macs, s.segment = map[string]*pool{}, map[string]map[string]string{}, 1000
	s.seed()
}

// later is the moment when a state is reached.
func (s *Service) later(now time.Time, key string) time.Time {
	return s.World.Later(now, "network."+key)
}

func writeError(w http.ResponseWriter, _ *http.Request, status int, kind, message string) {
	if kind == "" {
		kind = map[int]string{409: "Conflict", 429: "TooManyRequests", 503: "ServiceUnavailable", 500: "HTTPInternalServerError", 404: "HTTPNotFound", 400: "BadRequest", 403: "PolicyNotAuthorized"}[status]
	}
	rest.WriteJSON(w, status, rest.M{"NeutronError": rest.M{"type": kind, "message": message, "detail": ""}})
}

func badRequest(format string, args ...any) error {
	return rest.Errorf(http.StatusBadRequest, "HTTPBadRequest", format, args...)
}

func invalidInput(format string, args ...any) error {
	return rest.Errorf(http.StatusBadRequest, "InvalidInput", "Invalid input for operation: "+format, args...)
}

func conflict(kind, format string, args ...any) error {
	return rest.Errorf(http.StatusConflict, kind, format, args...)
}

func denied(rule string) error {
	return rest.Errorf(http.StatusForbidden, "PolicyNotAuthorized", "%s is disallowed by policy", rule)
}

// Inventory lists every object. Default security groups and the external network are seeded, their rules are not
// listed: they live and die with the group.
func (s *Service) Inventory() []control.InventoryItem {
	var out []control.InventoryItem
	now := s.World.Clock()
	add := func(kind string, st *Standard) {
		out = append(out, control.InventoryItem{
			Service: "network", Kind: kind, ID: st.ID, Name: st.Name, Project: st.Project, State: st.status(now), Tags: st.Tags,
			Description: st.Description, CreatedAt: st.CreatedAt, Seeded: st.Seeded,
		})
	}
	set := func(settings map[string]string) { out[len(out)-1].Settings = settings }
	for _, o := range s.networks.All() {
		add("network", &o.Standard)
		set(map[string]string{"mtu": strconv.Itoa(o.MTU)})
	}
	for _, o := range s.subnets.All() {
		add("subnet", &o.Standard)
		set(map[string]string{
			"network": o.Network, "cidr": o.CIDR.String(), "gateway": o.Gateway.String(), "dhcp": strconv.FormatBool(o.DHCP), "dns": strings.Join(o.DNS, ","),
		})
	}
	for _, o := range s.ports.All() {
		add("port", &o.Standard)
		out[len(out)-1].Metadata = map[string]string{"network_id": o.Network, "device_owner": o.Owner, "device_id": o.Device}
		set(map[string]string{"security_groups": strings.Join(slices.Sorted(slices.Values(o.Groups)), ",")})
	}
	for _, o := range s.routers.All() {
		add("router", &o.Standard)
		set(map[string]string{"gateway": strconv.FormatBool(o.GatewayPort != "")})
	}
	for _, o := range s.groups.All() {
		add("security_group", &o.Standard)
	}
	for _, o := range s.rules.All() {
		if g := s.groups.Get(o.Group); g == nil || !g.Seeded {
			add("security_group_rule", &o.Standard)
			set(map[string]string{
				"group": o.Group, "direction": o.Direction, "ethertype": o.EtherType, "protocol": o.Protocol, "ports": o.ports(),
				"remote": o.RemotePrefix + o.RemoteGroup,
			})
		}
	}
	for _, o := range s.floats.All() {
		add("floatingip", &o.Standard)
		out[len(out)-1].Metadata = map[string]string{"address": o.Address.String(), "port_id": o.Port}
		if p := s.ports.Get(o.Port); p != nil {
			set(map[string]string{"leads_to": p.Device})
		}
		for _, fw := range o.Forwards {
			out = append(out, control.InventoryItem{
				Service: "network", Kind: "port_forwarding", ID: fw.ID, Project: o.Project, Description: fw.Description, CreatedAt: o.UpdatedAt,
				Metadata: map[string]string{"floatingip_id": o.ID},
			})
		}
	}
	return out
}

// ports writes a rule's range of ports; empty for all.
func (r *Rule) ports() string {
	if r.PortMin == nil || r.PortMax == nil {
		return ""
	}
	return strconv.Itoa(*r.PortMin) + "-" + strconv.Itoa(*r.PortMax)
}

// Quotas.

var defaultQuotas = map[string]int{
	"network": 100, "subnet": 100, "subnetpool": -1, "port": 500, "router": 10, "floatingip": 50, "rbac_policy": 10,
	"security_group": 10, "security_group_rule": 100, "trunk": -1,
}

func (s *Service) limits(project string) map[string]int {
	out := maps.Clone(defaultQuotas)
	if own := s.quotas.Get(project); own != nil {
		maps.Copy(out, *own)
	}
	return out
}

func (s *Service) inUse(project, kind string) int {
	switch kind {
	case "network":
		return s.networks.Count(byProject, project)
	case "subnet":
		return s.subnets.Count(byProject, project)
	case "port":
		return s.ports.Count(byProject, project)
	case "router":
		return s.routers.Count(byProject, project)
	case "floatingip":
		return s.floats.Count(byProject, project)
	case "security_group":
		return s.groups.Count(byProject, project)
	case "security_group_rule":
		return s.rules.Count(byProject, project)
	}
	return 0
}

func (s *Service) checkQuota(project, kind string, more int) error {
	limit := s.limits(project)[kind]
	if limit >= 0 && s.inUse(project, kind)+more > limit {
		return conflict("OverQuota", "Quota exceeded for resources: ['%s'].", kind)
	}
	return nil
}

// SetQuotas sets limits of a project.
func (s *Service) SetQuotas(project string, limits map[string]int) error {
	for key := range limits {
		if _, ok := defaultQuotas[key]; !ok {
			return badRequest("Unrecognized attribute(s) '%s'", key)
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

// pool holds the addresses of one subnet that are in use.
type pool struct {
	taken map[netip.Addr]string // address: port
	next  netip.Addr
}

func newPool(n *Subnet) *pool {
	p := &pool{taken: map[netip.Addr]string{}}
	if len(n.Pools) > 0 {
		p.next = n.Pools[0].Start
	}
	return p
}

// allocate finds a free address in the allocation pools, going on where the last one was found.
func (s *Service) allocate(n *Subnet, port string) (netip.Addr, error) {
	p := s.used[n.ID]
	at := slices.IndexFunc(n.Pools, func(r Range) bool { return inRange(r, p.next) })
	if at < 0 && len(n.Pools) > 0 {
		at, p.next = 0, n.Pools[0].Start
	}
	// Every pool once, and the first one a second time for the part before the cursor.
	for i := 0; at >= 0 && i <= len(n.Pools); i++ {
		r := n.Pools[(at+i)%len(n.Pools)]
		a := r.Start
		if i == 0 {
			a = p.next
		}
		for ; inRange(r, a); a = a.Next() {
			if p.taken[a] == "" {
				p.taken[a] = port
				p.next = a.Next()
				return a, nil
			}
		}
	}
	return netip.Addr{}, conflict("IpAddressGenerationFailure", "No more IP addresses available on network %s.", n.Network)
}

func inRange(r Range, a netip.Addr) bool {
	return a.IsValid() && a.Compare(r.Start) >= 0 && a.Compare(r.End) <= 0
}

func (s *Service) occupy(p *Port) {
	for _, ip := range p.FixedIPs {
		if u := s.used[ip.Subnet]; u != nil {
			u.taken[ip.Address] = p.ID
		}
	}
	if s.macs[p.Network] == nil {
		s.macs[p.Network] = map[string]string{}
	}
	s.macs[p.Network][p.MAC] = p.ID
}

func (s *Service) vacate(p *Port) {
	for _, ip := range p.FixedIPs {
		if u := s.used[ip.Subnet]; u != nil && u.taken[ip.Address] == p.ID {
			delete(u.taken, ip.Address)
		}
	}
	delete(s.macs[p.Network], p.MAC)
	if len(s.macs[p.Network]) == 0 {
		delete(s.macs, p.Network)
	}
}

func (s *Service) newMAC(network string) string {
	for {
		hex := rest.NewHex()
		mac := fmt.Sprintf("fa:16:3e:%s:%s:%s", hex[0:2], hex[2:4], hex[4:6])
		if s.macs[network][mac] == "" {
			return mac
		}
	}
}
