package balance

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

// stamp is how Octavia writes times.
func stamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format("2006-01-02T15:04:05")
}

// common is what all objects show.
func (n Node) common(project, operating string, own rest.M) rest.M {
	own["id"], own["name"], own["provisioning_status"], own["operating_status"] = n.ID, n.Name, n.Status, operating
	own["admin_state_up"], own["project_id"], own["tenant_id"], own["tags"] = !n.Down, project, project, append([]string{}, n.Tags...)
	own["created_at"], own["updated_at"] = stamp(n.CreatedAt), stamp(n.UpdatedAt)
	return own
}

func ids[T any](all []T, id func(T) string) []rest.M {
	out := []rest.M{}
	for _, one := range all {
		out = append(out, rest.M{"id": id(one)})
	}
	return out
}

func listenerID(l Listener) string { return l.ID }
func poolID(p Pool) string         { return p.ID }
func memberID(m Member) string     { return m.ID }

func (s *Service) view(b *LoadBalancer) rest.M {
	return b.common(b.Project, s.state(b), rest.M{
		"description": b.Description, "provider": Provider, "vip_address": b.Address, "vip_port_id": b.Port, "vip_subnet_id": b.Subnet,
		"vip_network_id": b.Network, "vip_qos_policy_id": nil, "flavor_id": nil, "availability_zone": nil, "additional_vips": []rest.M{},
		"listeners": ids(b.Listeners, listenerID), "pools": ids(b.Pools, poolID),
	})
}

// viewWhole is the answer to the call that makes a tree: what is below stands in it.
func (s *Service) viewWhole(b *LoadBalancer) rest.M {
	v := s.view(b)
	listeners, pools := []rest.M{}, []rest.M{}
	for i := range b.Listeners {
		l := s.viewListener(b, &b.Listeners[i])
		delete(l, "loadbalancers")
		listeners = append(listeners, l)
	}
	for i := range b.Pools {
		p := &b.Pools[i]
		whole := s.viewPool(b, p)
		members := []rest.M{}
		for k := range p.Members {
			members = append(members, s.viewMember(b, p, &p.Members[k]))
		}
		whole["members"], whole["healthmonitor"] = members, nil
		if p.Monitor != nil {
			whole["healthmonitor"] = s.viewMonitor(b, p)
		}
		delete(whole, "healthmonitor_id")
		delete(whole, "loadbalancers")
		pools = append(pools, whole)
	}
	v["listeners"], v["pools"] = listeners, pools
	return v
}

func (s *Service) viewListener(b *LoadBalancer, l *Listener) rest.M {
	v := l.common(b.Project, nodeState(l.Node), rest.M{
		"description": l.Description, "protocol": l.Protocol, "protocol_port": l.Port, "connection_limit": l.Limit, "allowed_cidrs": nil, "default_pool_id": nil,
		"loadbalancers": []rest.M{{"id": b.ID}}, "insert_headers": rest.M{}, "l7policies": []rest.M{}, "sni_container_refs": []string{},
		"default_tls_container_ref": nil, "client_authentication": "NONE", "client_ca_tls_container_ref": nil, "client_crl_container_ref": nil,
		"timeout_client_data": 50000, "timeout_member_connect": 5000, "timeout_member_data": 50000, "timeout_tcp_inspect": 0,
		"tls_ciphers": nil, "tls_versions": nil, "alpn_protocols": nil,
	})
	if len(l.CIDRs) > 0 {
		v["allowed_cidrs"] = slices.Clone(l.CIDRs)
	}
	if l.Pool != "" {
		v["default_pool_id"] = l.Pool
	}
	return v
}

func (s *Service) viewPool(b *LoadBalancer, p *Pool) rest.M {
	leading := []rest.M{}
	for _, l := range b.Listeners {
		if l.Pool == p.ID {
			leading = append(leading, rest.M{"id": l.ID})
		}
	}
	v := p.common(b.Project, s.poolState(b, p), rest.M{
		"description": p.Description, "protocol": p.Protocol, "lb_algorithm": p.Algorithm, "session_persistence": nil, "healthmonitor_id": nil,
		"loadbalancers": []rest.M{{"id": b.ID}}, "listeners": leading, "members": ids(p.Members, memberID),
		"tls_enabled": false, "tls_container_ref": nil, "ca_tls_container_ref": nil, "crl_container_ref": nil, "tls_ciphers": nil, "tls_versions": nil, "alpn_protocols": nil,
	})
	if p.Persistence != nil {
		v["session_persistence"] = *p.Persistence
	}
	if p.Monitor != nil {
		v["healthmonitor_id"] = p.Monitor.ID
	}
	return v
}

func (s *Service) viewMember(b *LoadBalancer, p *Pool, m *Member) rest.M {
	v := m.common(b.Project, s.memberState(b, p, m), rest.M{
		"address": m.Address, "protocol_port": m.Port, "weight": m.Weight, "subnet_id": nil, "backup": false, "monitor_address": nil, "monitor_port": nil,
	})
	if m.Subnet != "" {
		v["subnet_id"] = m.Subnet
	}
	return v
}

func (s *Service) viewMonitor(b *LoadBalancer, p *Pool) rest.M {
	m := p.Monitor
	v := m.common(b.Project, nodeState(m.Node), rest.M{
		"type": m.Type, "delay": m.Delay, "timeout": m.Timeout, "max_retries": m.Retries, "max_retries_down": m.Fall, "http_method": nil, "url_path": nil,
		"expected_codes": nil, "http_version": nil, "domain_name": nil, "pools": []rest.M{{"id": p.ID}},
	})
	if m.Type == "HTTP" || m.Type == "HTTPS" {
		v["http_method"], v["url_path"], v["expected_codes"] = m.Method, m.Path, m.Codes
	}
	return v
}

// status is the tree with the states of all that is below a listener.
func (s *Service) status(b *LoadBalancer) rest.M {
	part := func(n Node, operating string, own rest.M) rest.M {
		own["id"], own["name"], own["provisioning_status"], own["operating_status"] = n.ID, n.Name, n.Status, operating
		return own
	}
	listeners := []rest.M{}
	for _, l := range b.Listeners {
		pools := []rest.M{}
		for i := range b.Pools {
			p := &b.Pools[i]
			if p.ID != l.Pool {
				continue
			}
			members := []rest.M{}
			for k := range p.Members {
				m := &p.Members[k]
				members = append(members, part(m.Node, s.memberState(b, p, m), rest.M{"address": m.Address, "protocol_port": m.Port}))
			}
			one := part(p.Node, s.poolState(b, p), rest.M{"members": members})
			if p.Monitor != nil {
				one["health_monitor"] = part(p.Monitor.Node, nodeState(p.Monitor.Node), rest.M{"type": p.Monitor.Type})
			}
			pools = append(pools, one)
		}
		listeners = append(listeners, part(l.Node, nodeState(l.Node), rest.M{"pools": pools}))
	}
	return rest.M{"statuses": rest.M{"loadbalancer": part(b.Node, s.state(b), rest.M{"listeners": listeners})}}
}

// answer gives a list as a query asks for it.
func answer(r *rest.Request, path, field string, all []rest.M) (*rest.Response, error) {
	kept := []rest.M{}
	for _, v := range all {
		if fits(r, v) {
			kept = append(kept, v)
		}
	}
	slices.SortStableFunc(kept, func(a, b rest.M) int {
		return cmpText(fmt.Sprint(a["created_at"], a["id"]), fmt.Sprint(b["created_at"], b["id"]))
	})
	if marker := r.Query.Get("marker"); marker != "" {
		at := slices.IndexFunc(kept, func(v rest.M) bool { return v["id"] == marker })
		if at < 0 {
			return nil, refuse(http.StatusNotFound, "%s %s not found.", field, marker)
		}
		kept = kept[at+1:]
	}
	links := []rest.M{}
	if limit, err := strconv.Atoi(r.Query.Get("limit")); err == nil && limit > 0 && len(kept) >= limit {
		kept = kept[:limit]
		links = append(links, rest.Link("next", rest.NextLink(r, path, kept[limit-1]["id"].(string), limit)))
	}
	if fields := r.Query["fields"]; len(fields) > 0 {
		for i, v := range kept {
			cut := rest.M{}
			for _, f := range fields {
				if value, ok := v[f]; ok {
					cut[f] = value
				}
			}
			kept[i] = cut
		}
	}
	return rest.OK(rest.M{field: kept, field + "_links": links})
}

func cmpText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// fits tells whether an object fits the filters of a query.
func fits(r *rest.Request, v rest.M) bool {
	for key, want := range r.Query {
		switch key {
		case "limit", "marker", "fields", "sort", "page_reverse", "sort_key", "sort_dir", "tags", "tags-any", "not-tags", "not-tags-any":
			continue
		}
		if !slices.Contains(want, fmt.Sprint(v[key])) {
			return false
		}
	}
	if want := r.Query["tags"]; len(want) > 0 {
		have, ok := v["tags"].([]string)
		if !ok || slices.ContainsFunc(want, func(t string) bool { return !slices.Contains(have, t) }) {
			return false
		}
	}
	return true
}
