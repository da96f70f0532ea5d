package compute

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/network"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

func readAll(r *rest.Request) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r.HTTP.Body, 1<<20))
	if err != nil {
		return nil, bad("read request: %v", err)
	}
	return data, nil
}

func (s *Service) routes() []rest.Route {
	routes := []rest.Route{
		{Method: "GET", Pattern: "/", Operation: "version.list", Handler: versions, Public: true},
		{Method: "GET", Pattern: "/v2.1", Operation: "version.get", Handler: version, Public: true},
		{Method: "POST", Pattern: "/v2.1/os-keypairs", Operation: "keypair.create", Handler: s.createKeypair, Stream: true},
	}
	add := func(method, pattern, operation string, h rest.Handler) {
		routes = append(routes, rest.Route{Method: method, Pattern: "/v2.1" + pattern, Operation: operation, Handler: h})
	}
	add("GET", "/servers", "server.list", s.listServers(false))
	add("GET", "/servers/detail", "server.list", s.listServers(true))
	add("POST", "/servers", "server.create", s.createServer)
	add("GET", "/servers/{id}", "server.get", s.getServer)
	add("PUT", "/servers/{id}", "server.update", s.updateServer)
	add("DELETE", "/servers/{id}", "server.delete", s.deleteServer)
	add("POST", "/servers/{id}/action", "server.action", s.serverAction)
	add("GET", "/servers/{id}/metadata", "server.metadata", s.getMetadata)
	add("POST", "/servers/{id}/metadata", "server.metadata", s.setMetadata(false))
	add("PUT", "/servers/{id}/metadata", "server.metadata", s.setMetadata(true))
	add("GET", "/servers/{id}/metadata/{key}", "server.metadata", s.getMetadataItem)
	add("PUT", "/servers/{id}/metadata/{key}", "server.metadata", s.setMetadataItem)
	add("DELETE", "/servers/{id}/metadata/{key}", "server.metadata", s.deleteMetadataItem)
	add("GET", "/servers/{id}/tags", "server.tags", since(26, s.listTags))
	add("PUT", "/servers/{id}/tags", "server.tags", since(26, s.setTags))
	add("DELETE", "/servers/{id}/tags", "server.tags", since(26, s.deleteTags))
	add("GET", "/servers/{id}/tags/{tag}", "server.tags", since(26, s.getTag))
	add("PUT", "/servers/{id}/tags/{tag}", "server.tags", since(26, s.addTag))
	add("DELETE", "/servers/{id}/tags/{tag}", "server.tags", since(26, s.deleteTag))
	add("GET", "/servers/{id}/ips", "server.addresses", s.listAddresses)
	add("GET", "/servers/{id}/ips/{network}", "server.addresses", s.listAddresses)
	add("GET", "/servers/{id}/os-security-groups", "server.security_groups", s.listGroups)
	add("GET", "/servers/{id}/os-instance-actions", "server.actions", s.listActions)
	add("GET", "/servers/{id}/diagnostics", "server.diagnostics", s.diagnostics)
	add("GET", "/servers/{id}/os-server-password", "server.password", s.getPassword)
	add("GET", "/servers/{id}/os-volume_attachments", "volume_attachment.list", s.listDisks)
	add("POST", "/servers/{id}/os-volume_attachments", "volume_attachment.create", s.attachDisk)
	add("GET", "/servers/{id}/os-volume_attachments/{volume}", "volume_attachment.get", s.getDisk)
	add("PUT", "/servers/{id}/os-volume_attachments/{volume}", "volume_attachment.update", s.updateDisk)
	add("DELETE", "/servers/{id}/os-volume_attachments/{volume}", "volume_attachment.delete", s.detachDisk)
	add("GET", "/servers/{id}/os-interface", "interface.list", s.listPorts)
	add("POST", "/servers/{id}/os-interface", "interface.create", s.attachPort)
	add("GET", "/servers/{id}/os-interface/{port}", "interface.get", s.getPort)
	add("DELETE", "/servers/{id}/os-interface/{port}", "interface.delete", s.detachPort)
	add("GET", "/flavors", "flavor.list", s.listFlavors(false))
	add("GET", "/flavors/detail", "flavor.list", s.listFlavors(true))
	add("POST", "/flavors", "flavor.create", s.createFlavor)
	add("GET", "/flavors/{id}", "flavor.get", s.getFlavor)
	add("DELETE", "/flavors/{id}", "flavor.delete", s.deleteFlavor)
	add("GET", "/flavors/{id}/os-extra_specs", "flavor.get", s.getSpecs)
	add("POST", "/flavors/{id}/os-extra_specs", "flavor.update", s.setSpecs)
	add("GET", "/os-keypairs", "keypair.list", s.listKeypairs)
	add("GET", "/os-keypairs/{name}", "keypair.get", s.getKeypair)
	add("DELETE", "/os-keypairs/{name}", "keypair.delete", s.deleteKeypair)
	add("GET", "/os-server-groups", "server_group.list", s.listServerGroups)
	add("POST", "/os-server-groups", "server_group.create", s.createServerGroup)
	add("GET", "/os-server-groups/{id}", "server_group.get", s.getServerGroup)
	add("DELETE", "/os-server-groups/{id}", "server_group.delete", s.deleteServerGroup)
	add("GET", "/limits", "limits.get", s.getLimits)
	add("GET", "/os-quota-sets/{target}", "quota.get", s.getQuota(false))
	add("GET", "/os-quota-sets/{target}/detail", "quota.get", s.getQuota(true))
	add("GET", "/os-quota-sets/{target}/defaults", "quota.get", s.getQuotaDefaults)
	add("PUT", "/os-quota-sets/{target}", "quota.update", s.putQuota)
	add("DELETE", "/os-quota-sets/{target}", "quota.delete", s.deleteQuota)
	add("GET", "/os-availability-zone", "zone.list", listZones(false))
	add("GET", "/os-availability-zone/detail", "zone.list", listZones(true))
	add("GET", "/os-services", "service.list", listServices)
	add("GET", "/os-hypervisors", "hypervisor.list", listHypervisors)
	add("GET", "/os-hypervisors/detail", "hypervisor.list", listHypervisors)
	add("GET", "/extensions", "extension.list", func(*rest.Request) (*rest.Response, error) {
		return rest.OK(rest.M{"extensions": []rest.M{}})
	})
	return routes
}

func versions(r *rest.Request) (*rest.Response, error) {
	return rest.OK(rest.M{"versions": []rest.M{
		{"id": "v2.0", "status": "SUPPORTED", "version": "", "min_version": "", "updated": "2011-01-21T11:33:21Z", "links": []rest.M{rest.Link("self", r.Base+"/compute/v2/")}},
		{"id": "v2.1", "status": "CURRENT", "version": fmt.Sprintf("2.%d", HighestMinor), "min_version": "2.1", "updated": "2013-07-23T11:33:21Z", "links": []rest.M{rest.Link("self", r.Base+"/compute/v2.1/")}},
	}})
}

func version(r *rest.Request) (*rest.Response, error) {
	return rest.OK(rest.M{"version": rest.M{
		"id": "v2.1", "status": "CURRENT", "version": fmt.Sprintf("2.%d", HighestMinor), "min_version": "2.1", "updated": "2013-07-23T11:33:21Z",
		"links":       []rest.M{rest.Link("self", r.Base+"/compute/v2.1/"), {"rel": "describedby", "type": "text/html", "href": "http://docs.openstack.org/"}},
		"media-types": []rest.M{{"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"}},
	}})
}

func (s *Service) listActions(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"instanceActions": []rest.M{{
		"action": "create", "instance_uuid": v.ID, "request_id": "req-" + v.ID, "user_id": v.User, "project_id": v.Project, "start_time": rest.Micros(v.CreatedAt), "message": nil, "updated_at": rest.Micros(v.UpdatedAt),
	}}})
}

func (s *Service) diagnostics(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, policy("os_compute_api:os-server-diagnostics")
	}
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"state": map[bool]string{true: "running", false: "shutdown"}[v.Power == 1], "driver": "sandbox", "hypervisor": "sandbox", "uptime": int(r.Now.Sub(v.CreatedAt).Seconds())})
}

func (s *Service) getPassword(r *rest.Request) (*rest.Response, error) {
	if _, err := s.server(r); err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"password": ""})
}

// Flavors.

func (f *Flavor) view(r *rest.Request, detail bool) rest.M {
	out := rest.M{"id": f.ID, "name": f.Name, "links": []rest.M{rest.Link("self", r.Base+"/compute/v2.1/flavors/"+f.ID), rest.Link("bookmark", r.Base+"/compute/flavors/"+f.ID)}}
	if r.Minor >= 55 {
		out["description"] = word(f.Description)
	}
	if !detail {
		return out
	}
	maps.Copy(out, rest.M{
		"ram": f.RAM, "disk": f.Disk, "swap": "", "OS-FLV-EXT-DATA:ephemeral": f.Ephemeral, "OS-FLV-DISABLED:disabled": false, "vcpus": f.VCPUs,
		"os-flavor-access:is_public": f.Public, "rxtx_factor": json.Number("1.0"),
	})
	if r.Minor >= 75 || f.Swap > 0 {
		out["swap"] = f.Swap
	}
	if r.Minor >= 61 {
		out["extra_specs"] = orEmpty(f.ExtraSpecs)
	}
	return out
}

func (s *Service) listFlavors(detail bool) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		limit, err := pageSize(r)
		if err != nil {
			return nil, err
		}
		minRAM, errRAM := strconv.Atoi("0" + r.Query.Get("minRam"))
		minDisk, errDisk := strconv.Atoi("0" + r.Query.Get("minDisk"))
		if errRAM != nil || errDisk != nil {
			return nil, bad("Invalid minRam or minDisk filter")
		}
		var found []*Flavor
		for _, f := range s.flavors.All() {
			if f.RAM >= minRAM && f.Disk >= minDisk && (f.Public || r.Token.Admin()) {
				found = append(found, f)
			}
		}
		slices.SortFunc(found, func(a, b *Flavor) int { return strings.Compare(a.ID, b.ID) })
		if marker := r.Query.Get("marker"); marker != "" {
			at := slices.IndexFunc(found, func(f *Flavor) bool { return f.ID == marker })
			if at < 0 {
				return nil, bad("marker [%s] not found", marker)
			}
			found = found[at+1:]
		}
		body := rest.M{}
		if r.Query.Has("limit") && limit > 0 && len(found) >= limit {
			found = found[:limit]
			body["flavors_links"] = []rest.M{rest.Link("next", rest.NextLink(r, r.HTTP.URL.Path, found[limit-1].ID, limit))}
		}
		out := []rest.M{}
		for _, f := range found {
			out = append(out, f.view(r, detail))
		}
		body["flavors"] = out
		return rest.OK(body)
	}
}

func (s *Service) flavor(r *rest.Request) (*Flavor, error) {
	f := s.flavors.Get(r.Params["id"])
	if f == nil {
		return nil, notFound("Flavor %s could not be found.", r.Params["id"])
	}
	return f, nil
}

func (s *Service) getFlavor(r *rest.Request) (*rest.Response, error) {
	f, err := s.flavor(r)
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"flavor": f.view(r, true)})
}

func (s *Service) getSpecs(r *rest.Request) (*rest.Response, error) {
	f, err := s.flavor(r)
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"extra_specs": orEmpty(f.ExtraSpecs)})
}

func (s *Service) setSpecs(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, policy("os_compute_api:os-flavor-extra-specs:create")
	}
	f, err := s.flavor(r)
	if err != nil {
		return nil, err
	}
	body := struct {
		Specs map[string]string `json:"extra_specs"`
	}{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	next := maps.Clone(orEmpty(f.ExtraSpecs))
	maps.Copy(next, body.Specs)
	f.ExtraSpecs = next
	s.flavors.Put(f.ID, f)
	return rest.OK(rest.M{"extra_specs": body.Specs})
}

func (s *Service) createFlavor(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, policy("os_compute_api:os-flavor-manage:create")
	}
	body := struct {
		Flavor struct {
			ID                     any
			Name                   string
			Description            *string
			RAM, VCPUs, Disk, Swap any
			Ephemeral              any   `json:"OS-FLV-EXT-DATA:ephemeral"`
			Public                 *bool `json:"os-flavor-access:is_public"`
		}
	}{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	in := body.Flavor
	f := &Flavor{ID: rest.NewID(), Name: in.Name, Public: in.Public == nil || *in.Public}
	if in.ID != nil && fmt.Sprint(in.ID) != "auto" {
		f.ID = fmt.Sprint(in.ID)
	}
	if in.Description != nil {
		f.Description = *in.Description
	}
	for _, n := range []struct {
		name string
		from any
		to   *int
	}{{"ram", in.RAM, &f.RAM}, {"vcpus", in.VCPUs, &f.VCPUs}, {"disk", in.Disk, &f.Disk}, {"swap", in.Swap, &f.Swap}, {"ephemeral", in.Ephemeral, &f.Ephemeral}} {
		if n.from == nil {
			continue
		}
		v, err := count(n.from)
		if err != nil || v < 0 {
			return nil, invalid(n.name, n.from, "is not a whole number")
		}
		*n.to = v
	}
	if f.Name == "" || f.RAM == 0 || f.VCPUs == 0 {
		return nil, invalid("flavor", "", "'name', 'ram' and 'vcpus' are required properties")
	}
	for _, other := range s.flavors.All() {
		if other.ID == f.ID {
			return nil, conflict("Flavor with ID %s already exists.", f.ID)
		}
		if other.Name == f.Name {
			return nil, conflict("Flavor with name %s already exists.", f.Name)
		}
	}
	s.flavors.Put(f.ID, f)
	return rest.OK(rest.M{"flavor": f.view(r, true)})
}

func (s *Service) deleteFlavor(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, policy("os_compute_api:os-flavor-manage:delete")
	}
	f, err := s.flavor(r)
	if err != nil {
		return nil, err
	}
	s.flavors.Delete(f.ID)
	return accepted()
}

// Server groups.

func (s *Service) groupView(r *rest.Request, g *ServerGroup) rest.M {
	members := []string{}
	for _, v := range s.servers.By(byGroup, g.ID) {
		members = append(members, v.ID)
	}
	out := rest.M{"id": g.ID, "name": g.Name, "members": members}
	if r.Minor >= 13 {
		out["project_id"], out["user_id"] = g.Project, g.User
	}
	if r.Minor < 64 {
		out["policies"], out["metadata"] = []string{g.Policy}, rest.M{}
		return out
	}
	rules := rest.M{}
	for k, v := range g.Rules {
		rules[k] = v
	}
	out["policy"], out["rules"] = g.Policy, rules
	return out
}

func (s *Service) listServerGroups(r *rest.Request) (*rest.Response, error) {
	limit, err := pageSize(r)
	if err != nil {
		return nil, err
	}
	all, _ := rest.ParseBool(r.Query.Get("all_projects"))
	out := []rest.M{}
	for _, g := range s.groups.All() {
		if (g.Project == r.Token.ProjectID || all && r.Token.Admin()) && len(out) < limit {
			out = append(out, s.groupView(r, g))
		}
	}
	return rest.OK(rest.M{"server_groups": out})
}

var groupPolicies = []string{"anti-affinity", "affinity", "soft-anti-affinity", "soft-affinity"}

func (s *Service) createServerGroup(r *rest.Request) (*rest.Response, error) {
	body := struct {
		Group struct {
			Name, Policy string
			Policies     []string
			Rules        map[string]int
		} `json:"server_group"`
	}{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	in := body.Group
	if len(in.Policies) > 0 && r.Minor < 64 {
		in.Policy = in.Policies[0]
	}
	if in.Name == "" {
		return nil, invalid("name", "", "'' is too short")
	}
	if !slices.Contains(groupPolicies, in.Policy) {
		return nil, invalid("policy", in.Policy, fmt.Sprintf("'%s' is not one of ['anti-affinity', 'affinity', 'soft-anti-affinity', 'soft-affinity']", in.Policy))
	}
	if limit := s.limits(r.Token.ProjectID)["server_groups"]; limit >= 0 && s.groups.Count(byProject, r.Token.ProjectID) >= limit {
		return nil, rest.Errorf(http.StatusForbidden, "", "Quota exceeded, too many server groups.")
	}
	g := &ServerGroup{ID: rest.NewID(), Name: in.Name, Policy: in.Policy, Rules: in.Rules, Project: r.Token.ProjectID, User: r.Token.UserID, CreatedAt: r.Now}
	s.groups.Put(g.ID, g)
	return rest.OK(rest.M{"server_group": s.groupView(r, g)})
}

func (s *Service) serverGroup(r *rest.Request) (*ServerGroup, error) {
	g := s.groups.Get(r.Params["id"])
	if g == nil || g.Project != r.Token.ProjectID && !r.Token.Admin() {
		return nil, notFound("Instance group %s could not be found.", r.Params["id"])
	}
	return g, nil
}

func (s *Service) getServerGroup(r *rest.Request) (*rest.Response, error) {
	g, err := s.serverGroup(r)
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"server_group": s.groupView(r, g)})
}

func (s *Service) deleteServerGroup(r *rest.Request) (*rest.Response, error) {
	g, err := s.serverGroup(r)
	if err != nil {
		return nil, err
	}
	s.groups.Delete(g.ID)
	return rest.Status(http.StatusNoContent, nil)
}

// Limits and quotas.

func (s *Service) getLimits(r *rest.Request) (*rest.Response, error) {
	project := r.Token.ProjectID
	if want := r.Query.Get("tenant_id"); want != "" && r.Token.Admin() {
		project = want
	}
	limits, used := s.limits(project), s.usageOf(project)
	out := rest.M{
		"maxTotalInstances": limits["instances"], "maxTotalCores": limits["cores"], "maxTotalRAMSize": limits["ram"], "maxServerMeta": limits["metadata_items"],
		"maxTotalKeypairs": limits["key_pairs"], "maxServerGroups": limits["server_groups"], "maxServerGroupMembers": limits["server_group_members"],
		"totalRAMUsed": used.ram, "totalCoresUsed": used.cores, "totalInstancesUsed": used.instances, "totalServerGroupsUsed": s.groups.Count(byProject, project),
	}
	if r.Minor < 36 {
		maps.Copy(out, rest.M{"maxTotalFloatingIps": -1, "maxSecurityGroups": -1, "maxSecurityGroupRules": -1, "totalFloatingIpsUsed": 0, "totalSecurityGroupsUsed": 0})
	}
	if r.Minor < 39 {
		out["maxImageMeta"] = limits["metadata_items"]
	}
	if r.Minor < 57 {
		maps.Copy(out, rest.M{"maxPersonality": 5, "maxPersonalitySize": 10240})
	}
	return rest.OK(rest.M{"limits": rest.M{"rate": []any{}, "absolute": out}})
}

// shown are the limits that the microversion shows.
func shown(r *rest.Request, limits map[string]int) map[string]int {
	out := maps.Clone(limits)
	for k, v := range oldQuotas {
		if r.Minor < 36 || r.Minor < 57 && strings.HasPrefix(k, "injected") {
			out[k] = v
		}
	}
	return out
}

func (s *Service) quotaTarget(r *rest.Request) (string, error) {
	if target := r.Params["target"]; r.Token.Admin() || target == r.Token.ProjectID {
		return target, nil
	}
	return "", policy("os_compute_api:os-quota-sets:show")
}

func (s *Service) getQuota(detail bool) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		target, err := s.quotaTarget(r)
		if err != nil {
			return nil, err
		}
		u := s.usageOf(target)
		used := map[string]int{"instances": u.instances, "cores": u.cores, "ram": u.ram, "server_groups": s.groups.Count(byProject, target)}
		out := rest.M{"id": target}
		for k, limit := range shown(r, s.limits(target)) {
			out[k] = limit
			if detail {
				out[k] = rest.M{"limit": limit, "in_use": used[k], "reserved": 0}
			}
		}
		return rest.OK(rest.M{"quota_set": out})
	}
}

func (s *Service) getQuotaDefaults(r *rest.Request) (*rest.Response, error) {
	out := rest.M{"id": r.Params["target"]}
	for k, limit := range shown(r, defaultQuotas) {
		out[k] = limit
	}
	return rest.OK(rest.M{"quota_set": out})
}

func (s *Service) putQuota(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, policy("os_compute_api:os-quota-sets:update")
	}
	body := struct {
		Set map[string]any `json:"quota_set"`
	}{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	limits := map[string]int{}
	for k, v := range body.Set {
		if k == "force" || k == "tenant_id" {
			continue
		}
		n, err := strconv.Atoi(fmt.Sprint(v))
		if err != nil {
			return nil, invalid(k, v, fmt.Sprintf("'%v' is not an integer", v))
		}
		if _, old := oldQuotas[k]; !old {
			limits[k] = n
		}
	}
	if err := s.SetQuotas(r.Params["target"], limits); err != nil {
		return nil, err
	}
	out := rest.M{}
	for k, limit := range shown(r, s.limits(r.Params["target"])) {
		out[k] = limit
	}
	return rest.OK(rest.M{"quota_set": out})
}

func (s *Service) deleteQuota(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, policy("os_compute_api:os-quota-sets:delete")
	}
	s.quotas.Delete(r.Params["target"])
	return accepted()
}

// Zones, services, hypervisors.

func listZones(detail bool) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		zone := rest.M{"zoneName": "nova", "zoneState": rest.M{"available": true}, "hosts": nil}
		if !detail {
			return rest.OK(rest.M{"availabilityZoneInfo": []rest.M{zone}})
		}
		if !r.Token.Admin() {
			return nil, policy("os_compute_api:os-availability-zone:detail")
		}
		up := rest.M{"available": true, "active": true, "updated_at": rest.Micros(r.Now)}
		zone["hosts"] = rest.M{network.Host: rest.M{"nova-compute": up}}
		internal := rest.M{"zoneName": "internal", "zoneState": rest.M{"available": true}, "hosts": rest.M{network.Host: rest.M{"nova-scheduler": up, "nova-conductor": up}}}
		return rest.OK(rest.M{"availabilityZoneInfo": []rest.M{internal, zone}})
	}
}

func listServices(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, policy("os_compute_api:os-services:list")
	}
	out := []rest.M{}
	for i, binary := range []string{"nova-scheduler", "nova-conductor", "nova-compute"} {
		zone := "internal"
		if binary == "nova-compute" {
			zone = "nova"
		}
		var id any = i + 1
		if r.Minor >= 53 {
			id = fmt.Sprintf("5a4db0a1-0000-4000-8000-00000000000%d", i+1)
		}
		out = append(out, rest.M{"id": id, "binary": binary, "host": network.Host, "zone": zone, "status": "enabled", "state": "up", "updated_at": rest.Micros(r.Now), "disabled_reason": nil, "forced_down": false})
	}
	return rest.OK(rest.M{"services": out})
}

func listHypervisors(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, policy("os_compute_api:os-hypervisors:list")
	}
	return rest.OK(rest.M{"hypervisors": []rest.M{{
		"id": "5a4db0a1-0000-4000-8000-000000000009", "hypervisor_hostname": network.Host, "state": "up", "status": "enabled", "hypervisor_type": "sandbox", "hypervisor_version": 1,
		"host_ip": "127.0.0.1", "service": rest.M{"id": "5a4db0a1-0000-4000-8000-000000000003", "host": network.Host, "disabled_reason": nil}, "uptime": nil,
	}}})
}
