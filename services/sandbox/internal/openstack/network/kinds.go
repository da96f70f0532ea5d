package network

import (
	"iter"
	"net/url"
	"strings"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
	"github.com/weftcloud/weft/services/sandbox/internal/world"
)

var (
	text  = attribute{form: "string", post: true, put: true}
	flag  = attribute{form: "bool", post: true, put: true}
	seen  = attribute{form: "any"}
	admin = attribute{form: "any", post: true, put: true, admin: true}
	anyRW = attribute{form: "any", post: true, put: true, nofilter: true}
)

func missing(kind, format string) func(string) error {
	return func(id string) error { return rest.Errorf(404, kind, format, id) }
}

// getter adapts a table.
func getter[T any, P interface {
	*T
	object
}](t *world.Table[T]) func(string) object {
	return func(id string) object {
		if v := t.Get(id); v != nil {
			return P(v)
		}
		return nil
	}
}

func putter[T any, P interface {
	*T
	object
}](t *world.Table[T]) func(object) {
	return func(o object) { t.Put(o.std().ID, (*T)(o.(P))) }
}

// lister walks a table, or looks up by id or by an index when the query names one.
func lister[T any, P interface {
	*T
	object
}](t *world.Table[T], indexes map[string]int) func(url.Values) []object {
	wrap := func(seq iter.Seq2[string, *T]) []object {
		var out []object
		for _, v := range seq {
			out = append(out, P(v))
		}
		return out
	}
	return func(q url.Values) []object {
		if ids := q["id"]; len(ids) > 0 {
			var out []object
			for _, id := range ids {
				if v := t.Get(id); v != nil {
					out = append(out, P(v))
				}
			}
			return out
		}
		for name, index := range indexes {
			if values := q[name]; len(values) > 0 && values[0] != "" {
				var out []object
				for _, value := range values {
					for _, v := range t.By(index, value) {
						out = append(out, P(v))
					}
				}
				return out
			}
		}
		return wrap(t.All())
	}
}

// byOwner are the filters that the index of owners answers.
var byOwner = map[string]int{"project_id": byProject, "tenant_id": byProject}

func (s *Service) allKinds() map[string]*kind {
	out := map[string]*kind{}
	for _, k := range []*kind{s.networkKind(), s.subnetKind(), s.portKind(), s.routerKind(), s.groupKind(), s.ruleKind(), s.floatKind()} {
		out[k.one] = k
	}
	return out
}

func (s *Service) networkKind() *kind {
	return &kind{
		one: "network", many: "networks", notFound: missing("NetworkNotFound", "Network %s could not be found."),
		get: getter[Network](s.networks), list: lister[Network](s.networks, nil), put: putter[Network](s.networks),
		view: s.viewNetwork, create: s.createNetwork, update: s.updateNetwork, remove: s.removeNetwork,
		visible: func(_ *rest.Token, o object) bool { n := o.(*Network); return n.Shared || n.External },
		attrs: withStandard(map[string]attribute{
			"name": text, "admin_state_up": flag, "shared": {form: "bool", post: true, put: true, admin: true}, "router:external": {form: "bool", post: true, put: true, admin: true},
			"is_default": {form: "bool", post: true, put: true, admin: true}, "mtu": {form: "int", post: true, put: true}, "port_security_enabled": flag, "status": seen, "subnets": {form: "list", nofilter: true},
			"availability_zone_hints": {form: "list", post: true}, "availability_zones": {form: "list", nofilter: true}, "qos_policy_id": anyRW, "ipv4_address_scope": seen, "ipv6_address_scope": seen,
			"provider:network_type": admin, "provider:physical_network": admin, "provider:segmentation_id": admin,
		}),
	}
}

func (s *Service) subnetKind() *kind {
	return &kind{
		one: "subnet", many: "subnets", notFound: missing("SubnetNotFound", "Subnet %s could not be found."),
		get: getter[Subnet](s.subnets), put: putter[Subnet](s.subnets),
		list: lister[Subnet](s.subnets, map[string]int{"network_id": byNetwork}),
		view: s.viewSubnet, create: s.createSubnet, update: s.updateSubnet, remove: s.removeSubnet,
		visible: func(t *rest.Token, o object) bool {
			n := s.networks.Get(o.(*Subnet).Network)
			return n != nil && (n.Shared || n.Project == t.ProjectID)
		},
		attrs: withStandard(map[string]attribute{
			"name": text, "network_id": {form: "id", post: true, required: true}, "ip_version": {form: "int", post: true, required: true}, "cidr": {form: "string", post: true},
			"gateway_ip": {form: "any", post: true, put: true}, "enable_dhcp": flag, "allocation_pools": anyRW, "dns_nameservers": anyRW, "host_routes": anyRW,
			"ipv6_ra_mode": {form: "any", post: true}, "ipv6_address_mode": {form: "any", post: true}, "subnetpool_id": {form: "any", post: true}, "prefixlen": {form: "any", post: true},
			"service_types": anyRW, "segment_id": {form: "any", post: true}, "shared": {form: "bool"},
		}),
	}
}

func (s *Service) portKind() *kind {
	return &kind{
		one: "port", many: "ports", notFound: missing("PortNotFound", "Port %s could not be found."),
		get: getter[Port](s.ports), put: putter[Port](s.ports),
		list: lister[Port](s.ports, map[string]int{"device_id": byDevice, "network_id": byNetwork}),
		view: s.viewPort, create: s.createPort, update: s.updatePort, remove: s.removePort,
		visible: func(t *rest.Token, o object) bool {
			n := s.networks.Get(o.(*Port).Network)
			return n != nil && n.Project == t.ProjectID
		},
		attrs: withStandard(map[string]attribute{
			"name": text, "network_id": {form: "id", post: true, required: true}, "admin_state_up": flag, "mac_address": {form: "string", post: true, put: true}, "fixed_ips": {form: "any", post: true, put: true},
			"device_id": text, "device_owner": text, "security_groups": {form: "any", post: true, put: true}, "allowed_address_pairs": anyRW, "extra_dhcp_opts": anyRW, "status": seen,
			"port_security_enabled": flag, "binding:vnic_type": text, "binding:host_id": admin, "binding:profile": admin, "binding:vif_type": seen, "binding:vif_details": seen,
			"qos_policy_id": anyRW, "qos_network_policy_id": seen, "resource_request": seen, "propagate_uplink_status": anyRW, "ip_allocation": seen, "numa_affinity_policy": anyRW,
		}),
	}
}

func (s *Service) routerKind() *kind {
	return &kind{
		one: "router", many: "routers", notFound: missing("RouterNotFound", "Router %s could not be found"),
		get: getter[Router](s.routers), list: lister[Router](s.routers, byOwner), put: putter[Router](s.routers),
		view: s.viewRouter, create: s.createRouter, update: s.updateRouter, remove: s.removeRouter,
		attrs: withStandard(map[string]attribute{
			"name": text, "admin_state_up": flag, "external_gateway_info": anyRW, "routes": {form: "any", put: true, nofilter: true}, "status": seen, "flavor_id": {form: "any", post: true},
			"distributed": admin, "ha": admin, "availability_zone_hints": {form: "list", post: true}, "availability_zones": {form: "list", nofilter: true},
		}),
	}
}

func (s *Service) groupKind() *kind {
	return &kind{
		one: "security_group", many: "security_groups", notFound: missing("SecurityGroupNotFound", "Security group %s does not exist"),
		get: getter[Group](s.groups), put: putter[Group](s.groups), list: lister[Group](s.groups, byOwner),
		view: s.viewGroup, create: s.createGroup, update: s.updateGroup, remove: s.removeGroup,
		attrs: withStandard(map[string]attribute{"name": text, "stateful": flag, "security_group_rules": {form: "list", nofilter: true}, "shared": {form: "bool"}}),
	}
}

func (s *Service) ruleKind() *kind {
	return &kind{
		one: "security_group_rule", many: "security_group_rules", notFound: missing("SecurityGroupRuleNotFound", "Security group rule %s does not exist"),
		get: getter[Rule](s.rules), put: putter[Rule](s.rules), list: lister[Rule](s.rules, map[string]int{"security_group_id": byNetwork}),
		view: s.viewRule, create: s.createRule, remove: s.removeRule,
		attrs: withStandard(map[string]attribute{
			"security_group_id": {form: "id", post: true, required: true}, "direction": {form: "any", post: true, required: true}, "ethertype": {form: "any", post: true}, "protocol": {form: "any", post: true},
			"port_range_min": {form: "int", post: true}, "port_range_max": {form: "int", post: true}, "remote_ip_prefix": {form: "any", post: true}, "remote_group_id": {form: "id", post: true},
			"remote_address_group_id": {form: "id", post: true}, "normalized_cidr": seen,
		}),
	}
}

func (s *Service) floatKind() *kind {
	return &kind{
		one: "floatingip", many: "floatingips", notFound: missing("FloatingIPNotFound", "Floating IP %s could not be found"),
		get: getter[FloatingIP](s.floats), put: putter[FloatingIP](s.floats),
		list: lister[FloatingIP](s.floats, map[string]int{"floating_network_id": byNetwork, "project_id": byProject, "tenant_id": byProject}),
		view: s.viewFloat, create: s.createFloat, update: s.updateFloat, remove: s.removeFloat,
		attrs: withStandard(map[string]attribute{
			"floating_network_id": {form: "id", post: true, required: true}, "floating_ip_address": {form: "any", post: true, admin: true}, "subnet_id": {form: "id", post: true},
			"port_id": {form: "id", post: true, put: true}, "fixed_ip_address": {form: "any", post: true, put: true}, "router_id": seen, "status": seen, "qos_policy_id": anyRW,
			"port_details": {form: "any", nofilter: true}, "port_forwardings": {form: "any", nofilter: true}, "dns_name": {form: "string", post: true}, "dns_domain": {form: "string", post: true},
		}),
	}
}

// versions answers the root of the endpoint.
func versions(r *rest.Request) (*rest.Response, error) {
	return rest.OK(rest.M{"versions": []rest.M{{"id": "v2.0", "status": "CURRENT", "links": []rest.M{rest.Link("self", r.Base+"/network/v2.0/")}}}})
}

func (s *Service) resources(r *rest.Request) (*rest.Response, error) {
	out := []rest.M{}
	for _, k := range s.kinds {
		out = append(out, rest.M{"name": k.one, "collection": k.many, "links": []rest.M{rest.Link("self", r.Base+"/network/v2.0/"+k.path())}})
	}
	return rest.OK(rest.M{"resources": out})
}

// extensions are the aliases of the lab that the sandbox lives up to.
var extensions = strings.Fields(`
	allowed-address-pairs availability_zone binding default-subnetpools empty-string-filtering expose-port-forwarding-in-fip
	external-net extra_dhcp_opt extraroute filter-validation fip-port-details floating-ip-port-forwarding
	floating-ip-port-forwarding-description ip-substring-filtering net-mtu net-mtu-writable network_availability_zone pagination
	port-security project-id provider quotas quota_details revision-if-match router ext-gw-mode router_availability_zone
	security-group security-groups-remote-address-group security-groups-normalized-cidr sorting standard-attr-description
	standard-attr-revisions standard-attr-tag standard-attr-timestamp stateful-security-group`)

func extensionView(alias string) rest.M {
	return rest.M{"name": alias, "alias": alias, "description": "Simulated by the sandbox", "updated": "2020-01-01T00:00:00-00:00", "links": []string{}}
}

func listExtensions(*rest.Request) (*rest.Response, error) {
	out := []rest.M{}
	for _, alias := range extensions {
		out = append(out, extensionView(alias))
	}
	return rest.OK(rest.M{"extensions": out})
}

func getExtension(r *rest.Request) (*rest.Response, error) {
	for _, alias := range extensions {
		if alias == r.Params["alias"] {
			return rest.OK(rest.M{"extension": extensionView(alias)})
		}
	}
	return nil, rest.Errorf(404, "HTTPNotFound", "Extension with alias %s does not exist", r.Params["alias"])
}

func listZones(*rest.Request) (*rest.Response, error) {
	return rest.OK(rest.M{"availability_zones": []rest.M{
		{"state": "available", "name": "nova", "resource": "router"}, {"state": "available", "name": "nova", "resource": "network"},
	}})
}

func (s *Service) quotaProject(r *rest.Request) (string, error) {
	if id := r.Params["project"]; id == r.Token.ProjectID || r.Token.Admin() {
		return id, nil
	}
	return "", denied("rule:get_quota")
}

func (s *Service) listQuotas(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, denied("rule:get_quota")
	}
	out := []rest.M{}
	for project := range s.quotas.All() {
		view := quotaView(s.limits(project))
		view["project_id"], view["tenant_id"] = project, project
		out = append(out, view)
	}
	return rest.OK(rest.M{"quotas": out})
}

func quotaView(limits map[string]int) rest.M {
	view := rest.M{}
	for k, v := range limits {
		view[k] = v
	}
	return view
}

func (s *Service) getQuota(r *rest.Request) (*rest.Response, error) {
	project, err := s.quotaProject(r)
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"quota": quotaView(s.limits(project))})
}

func (s *Service) getQuotaDefaults(r *rest.Request) (*rest.Response, error) {
	if _, err := s.quotaProject(r); err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"quota": quotaView(defaultQuotas)})
}

func (s *Service) getQuotaDetails(r *rest.Request) (*rest.Response, error) {
	project, err := s.quotaProject(r)
	if err != nil {
		return nil, err
	}
	view := rest.M{}
	for k, limit := range s.limits(project) {
		view[k] = rest.M{"limit": limit, "used": s.inUse(project, k), "reserved": 0}
	}
	return rest.OK(rest.M{"quota": view})
}

func (s *Service) putQuota(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, denied("rule:update_quota")
	}
	body := struct{ Quota map[string]any }{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	limits := map[string]int{}
	for k, v := range body.Quota {
		if k == "tenant_id" || k == "project_id" || k == "force" || k == "check_limit" {
			continue
		}
		n, ok := v.(float64)
		if !ok {
			return nil, badRequest("Invalid input for %s. Reason: '%v' is not an integer.", k, v)
		}
		limits[k] = int(n)
	}
	if err := s.SetQuotas(r.Params["project"], limits); err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"quota": quotaView(s.limits(r.Params["project"]))})
}

func (s *Service) deleteQuota(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, denied("rule:delete_quota")
	}
	s.quotas.Delete(r.Params["project"])
	return rest.Status(204, nil)
}
