package compute

import (
	"fmt"
	"maps"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/control"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/network"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

func serverLinks(r *rest.Request, id string) []rest.M {
	return []rest.M{rest.Link("self", r.Base+"/compute/v2.1/servers/"+id), rest.Link("bookmark", r.Base+"/compute/servers/"+id)}
}

func word(text string) any {
	if text == "" {
		return nil
	}
	return text
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func (s *Service) addresses(v *Server) map[string][]rest.M {
	out := map[string][]rest.M{}
	for _, a := range s.networks.Addresses(v.ID) {
		out[a.Network] = append(out[a.Network], rest.M{"version": a.Version, "addr": a.Address, "OS-EXT-IPS:type": a.Type, "OS-EXT-IPS-MAC:mac_addr": a.MAC})
	}
	return out
}

func (s *Service) flavorIn(r *rest.Request, v *Server) rest.M {
	f := v.Flavor
	if r.Minor < 47 {
		return rest.M{"id": f.ID, "links": []rest.M{rest.Link("bookmark", r.Base+"/compute/flavors/"+f.ID)}}
	}
	return rest.M{
		"vcpus": f.VCPUs, "ram": f.RAM, "disk": f.Disk, "ephemeral": f.Ephemeral, "swap": f.Swap, "original_name": f.Name, "extra_specs": orEmpty(f.ExtraSpecs),
	}
}

// view shows a server in detail.
func (s *Service) view(r *rest.Request, v *Server) rest.M {
	out := rest.M{
		"id": v.ID, "name": v.Name, "status": v.Status(), "tenant_id": v.Project, "user_id": v.User, "metadata": orEmpty(v.Metadata), "hostId": "",
		"image": "", "flavor": s.flavorIn(r, v), "created": rest.Seconds(v.CreatedAt), "updated": rest.Seconds(v.UpdatedAt), "addresses": s.addresses(v),
		"accessIPv4": v.AccessIPv4, "accessIPv6": v.AccessIPv6, "links": serverLinks(r, v.ID), "OS-DCF:diskConfig": "MANUAL", "OS-EXT-AZ:availability_zone": "",
		"config_drive": "", "key_name": word(v.KeyName), "OS-SRV-USG:launched_at": stamp(v.LaunchedAt), "OS-SRV-USG:terminated_at": nil,
		"OS-EXT-STS:task_state": word(v.TaskState), "OS-EXT-STS:vm_state": v.VMState, "OS-EXT-STS:power_state": v.Power,
	}
	if v.ImageID != "" {
		out["image"] = rest.M{"id": v.ImageID, "links": []rest.M{rest.Link("bookmark", r.Base+"/compute/images/"+v.ImageID)}}
	}
	if v.VMState != "building" && v.VMState != "error" || v.Power != 0 {
		out["hostId"], out["OS-EXT-AZ:availability_zone"] = hostID(v.Project), v.Zone
	}
	if v.ConfigDrive {
		out["config_drive"] = "True"
	}
	status := v.Status()
	if status == "ACTIVE" || status == "BUILD" || status == "REBUILD" || status == "RESIZE" || status == "VERIFY_RESIZE" || status == "REVERT_RESIZE" || status == "REBOOT" || status == "HARD_REBOOT" {
		out["progress"] = 0
	}
	if v.Fault != nil && (status == "ERROR" || status == "DELETED") {
		out["fault"] = rest.M{"code": v.Fault.Code, "created": rest.Seconds(v.Fault.Created), "message": v.Fault.Message}
	}
	if names := s.networks.GroupNames(v.ID); len(names) > 0 {
		groups := []rest.M{}
		for _, name := range names {
			groups = append(groups, rest.M{"name": name})
		}
		out["security_groups"] = groups
	}
	attached := []rest.M{}
	for _, d := range v.Disks {
		if d.Destination != "volume" || d.Volume == "" {
			continue
		}
		one := rest.M{"id": d.Volume}
		if r.Minor >= 3 {
			one["delete_on_termination"] = d.DeleteOnTermination
		}
		attached = append(attached, one)
	}
	out["os-extended-volumes:volumes_attached"] = attached
	s.viewNew(r, v, out)
	return out
}

// viewNew adds what later microversions brought, and what only an admin sees.
func (s *Service) viewNew(r *rest.Request, v *Server, out rest.M) {
	for _, field := range []struct {
		since int
		name  string
		value any
	}{
		{9, "locked", v.Locked},
		{19, "description", word(v.Description)},
		{26, "tags", append([]string{}, v.Tags...)},
		{63, "trusted_image_certificates", nil},
		{73, "locked_reason", word(v.LockedReason)},
		{90, "OS-EXT-SRV-ATTR:hostname", v.Hostname},
	} {
		if r.Minor >= field.since {
			out[field.name] = field.value
		}
	}
	if !r.Token.Admin() {
		return
	}
	out["OS-EXT-SRV-ATTR:host"], out["OS-EXT-SRV-ATTR:hypervisor_hostname"] = nil, nil
	if out["hostId"] != "" {
		out["OS-EXT-SRV-ATTR:host"], out["OS-EXT-SRV-ATTR:hypervisor_hostname"] = network.Host, network.Host
	}
	out["OS-EXT-SRV-ATTR:instance_name"] = fmt.Sprintf("instance-%08x", v.Number)
	if r.Minor >= 3 {
		maps.Copy(out, rest.M{
			"OS-EXT-SRV-ATTR:reservation_id": "r-" + v.ID[:8], "OS-EXT-SRV-ATTR:launch_index": 0, "OS-EXT-SRV-ATTR:hostname": v.Hostname, "OS-EXT-SRV-ATTR:kernel_id": "",
			"OS-EXT-SRV-ATTR:ramdisk_id": "", "OS-EXT-SRV-ATTR:root_device_name": "/dev/vda", "OS-EXT-SRV-ATTR:user_data": word(v.UserData),
		})
	}
	if r.Minor >= 16 {
		out["host_status"] = "UP"
	}
}

// server finds the server of the path.
func (s *Service) server(r *rest.Request) (*Server, error) {
	v := s.servers.Get(r.Params["id"])
	if v == nil || v.Project != r.Token.ProjectID && !r.Token.Admin() {
		return nil, notFound("Instance %s could not be found.", r.Params["id"])
	}
	if control.Down(r.HTTP.Context(), v.ID) && !(r.HTTP.Method == http.MethodGet && r.Params["id"] == path.Base(r.HTTP.URL.Path) && r.Minor >= downCells) {
		return nil, cellDown()
	}
	return v, nil
}

func (s *Service) getServer(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	if control.Down(r.HTTP.Context(), v.ID) {
		return rest.OK(rest.M{"server": s.viewUnseen(r, v)})
	}
	return rest.OK(rest.M{"server": s.viewOne(r, v)})
}

// While the database of a cell does not answer (api-guide, "Handling Down Cells"), what the service itself keeps of its servers is
// shown from microversion 2.69 on: by a GET, and by a list that asks for no page, order or filter, whose items cannot be told of
// them. Such a list leaves them out, as [api]list_records_by_skipping_down_cells has it by default.
const (
	downCells = 69
	cellID    = "5d2f6c1e-6f0f-4b2c-8d6d-2f1c7f8e9a10"
)

// cellDown answers what cannot be answered without the cell.
func cellDown() error {
	return rest.Errorf(http.StatusInternalServerError, "", "Unexpected API Error. Cell %s is not responding and hence instance info is not available.", cellID)
}

// showsUnseen tells whether a list shows servers whose cell does not answer.
func showsUnseen(r *rest.Request) bool {
	for name := range r.Query {
		if name != "all_tenants" {
			return false
		}
	}
	return r.Minor >= downCells
}

// viewUnseen shows a server whose cell does not answer.
func (s *Service) viewUnseen(r *rest.Request, v *Server) rest.M {
	out := rest.M{
		"id": v.ID, "status": "UNKNOWN", "tenant_id": v.Project, "user_id": v.User, "created": rest.Seconds(v.CreatedAt), "links": serverLinks(r, v.ID),
		"image": "", "flavor": s.flavorIn(r, v), "OS-EXT-AZ:availability_zone": v.Zone, "OS-EXT-STS:power_state": 0,
	}
	if v.ImageID != "" {
		out["image"] = rest.M{"id": v.ImageID, "links": []rest.M{rest.Link("bookmark", r.Base+"/compute/images/"+v.ImageID)}}
	}
	if v.Zone == "" {
		out["OS-EXT-AZ:availability_zone"] = "UNKNOWN"
	}
	if r.Minor >= 71 {
		group := []string{}
		if v.ServerGroup != "" {
			group = append(group, v.ServerGroup)
		}
		out["server_groups"] = group
	}
	return out
}

// listUnseen shows the servers of a list whose cell does not answer, as many as there is room for.
func (s *Service) listUnseen(r *rest.Request, unseen []*Server, detail bool, room int) []rest.M {
	var views []rest.M
	for _, v := range unseen[:max(min(room, len(unseen)), 0)] {
		one := rest.M{"id": v.ID, "status": "UNKNOWN", "links": serverLinks(r, v.ID)}
		if detail {
			one["tenant_id"], one["created"] = v.Project, rest.Seconds(v.CreatedAt)
		}
		views = append(views, one)
	}
	return views
}

// viewOne is view with what a list does not show.
func (s *Service) viewOne(r *rest.Request, v *Server) rest.M {
	out := s.view(r, v)
	if r.Minor < 71 {
		return out
	}
	group := []string{}
	if v.ServerGroup != "" {
		group = append(group, v.ServerGroup)
	}
	out["server_groups"] = group
	return out
}

func (s *Service) updateServer(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	body := struct {
		Server *struct {
			Name, Description, AccessIPv4, AccessIPv6, Hostname *string
			DiskConfig                                          *string `json:"OS-DCF:diskConfig"`
		}
	}{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	in := body.Server
	if in == nil {
		return nil, bad("'server' is a required property")
	}
	if in.Name != nil && *in.Name == "" {
		return nil, invalid("name", "", "'' is too short")
	}
	for _, f := range []struct{ from, to *string }{{in.Name, &v.Name}, {in.Description, &v.Description}, {in.AccessIPv4, &v.AccessIPv4}, {in.AccessIPv6, &v.AccessIPv6}, {in.Hostname, &v.Hostname}} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	v.UpdatedAt = r.Now
	s.servers.Put(v.ID, v)
	return rest.OK(rest.M{"server": s.viewOne(r, v)})
}

func (s *Service) deleteServer(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	if v.Locked && !r.Token.Admin() {
		return nil, conflict("Instance %s is locked", v.ID)
	}
	if v.TaskState == "deleting" {
		return rest.Status(http.StatusNoContent, nil)
	}
	v.TaskState = "deleting"
	s.plan(r.Now, v, Step{At: s.at(r.Now, "server.deleted", 100), Do: "gone"})
	return rest.Status(http.StatusNoContent, nil)
}

// Lists.

// listWords are what a list may be asked for. Those that are no filter of the caller's are ignored, as in Nova.
var listWords = strings.Fields(`
	name status flavor image changes-since changes-before ip ip6 tags tags-any not-tags not-tags-any limit marker sort_key
	sort_dir all_tenants uuid reservation_id key_name availability_zone config_drive deleted project_id tenant_id user_id
	host hostname metadata vm_state task_state power_state locked description access_ip_v4 access_ip_v6 launched_at
	terminated_at created_at updated_at progress root_device_name launch_index display_name soft_deleted node
	auto_disk_config instance_type_id kernel_id ramdisk_id image_ref block_device_mapping services system_metadata
	security_groups pci_devices info_cache disable_terminate display_description cell_name cleaned hidden internal_id
	locked_by shutdown_terminate vm_mode ephemeral_gb root_gb memory_mb vcpus os_type architecture user_data
	default_ephemeral_device default_swap_device`)

var sortKeys = map[string]func(*Server) string{
	"display_name": func(v *Server) string { return v.Name }, "uuid": func(v *Server) string { return v.ID },
	"created_at":  func(v *Server) string { return v.CreatedAt.Format("20060102150405.000000000") },
	"updated_at":  func(v *Server) string { return v.UpdatedAt.Format("20060102150405.000000000") },
	"launched_at": func(v *Server) string { return v.LaunchedAt.Format("20060102150405.000000000") },
	"vm_state":    func(v *Server) string { return v.VMState }, "task_state": func(v *Server) string { return v.TaskState },
	"key_name": func(v *Server) string { return v.KeyName }, "project_id": func(v *Server) string { return v.Project },
	"user_id": func(v *Server) string { return v.User }, "hostname": func(v *Server) string { return v.Hostname },
	"power_state": func(v *Server) string { return strconv.Itoa(v.Power) }, "image_ref": func(v *Server) string { return v.ImageID },
	"availability_zone": func(v *Server) string { return v.Zone }, "display_description": func(v *Server) string { return v.Description },
	"locked": func(v *Server) string { return strconv.FormatBool(v.Locked) }, "progress": func(*Server) string { return "0" },
}

// statuses that a list may be filtered by.
var statuses = []string{
	"ACTIVE", "BUILD", "DELETED", "ERROR", "HARD_REBOOT", "MIGRATING", "PASSWORD", "PAUSED", "REBOOT", "REBUILD", "RESCUE", "RESIZE", "REVERT_RESIZE", "SHELVED",
	"SHELVED_OFFLOADED", "SHUTOFF", "SOFT_DELETED", "SUSPENDED", "UNKNOWN", "VERIFY_RESIZE",
}

func queryError(name, value, why string) error {
	return bad("Invalid input for query parameters %s. Value: %s. %s", name, value, why)
}

// filter is a list request made ready.
type filter struct {
	r             *rest.Request
	name, ip, ip6 *regexp.Regexp
	since, before time.Time
	all, gone     bool
	exact         []string // the filters asked for of which the value must be the server's own
}

// exactWords are the filters that ask for a value and not for a pattern.
var exactWords = []string{
	"flavor", "image", "uuid", "user_id", "key_name", "availability_zone", "description", "vm_state", "task_state", "project_id", "tenant_id", "hostname",
}

func (s *Service) readFilter(r *rest.Request) (*filter, error) {
	f := &filter{r: r}
	q := r.Query
	for name := range q {
		if !slices.Contains(listWords, name) && !strings.HasPrefix(name, "_") {
			return nil, bad("'%s' does not match any of the regexes: '^_'", name)
		}
	}
	if all, given := rest.ParseBool(q.Get("all_tenants")); q.Has("all_tenants") && (all || !given) {
		if !r.Token.Admin() {
			return nil, policy("os_compute_api:servers:index:get_all_tenants")
		}
		f.all = true
	}
	for _, status := range q["status"] {
		if !slices.Contains(statuses, strings.ToUpper(status)) {
			return nil, bad("Invalid status value")
		}
	}
	for _, re := range []struct {
		name string
		to   **regexp.Regexp
	}{{"name", &f.name}, {"ip", &f.ip}, {"ip6", &f.ip6}} {
		if !q.Has(re.name) {
			continue
		}
		compiled, err := regexp.Compile(q.Get(re.name))
		if err != nil {
			return nil, queryError(re.name, q.Get(re.name), fmt.Sprintf("'%s' is not a 'regex'", q.Get(re.name)))
		}
		*re.to = compiled
	}
	for _, at := range []struct {
		name string
		to   *time.Time
	}{{"changes-since", &f.since}, {"changes-before", &f.before}} {
		if !q.Has(at.name) {
			continue
		}
		parsed, ok := parseTime(q.Get(at.name))
		if !ok {
			return nil, queryError(at.name, q.Get(at.name), fmt.Sprintf("'%s' is not a 'date-time'", q.Get(at.name)))
		}
		*at.to = parsed
	}
	for _, name := range exactWords {
		if q.Has(name) {
			f.exact = append(f.exact, name)
		}
	}
	deleted, _ := rest.ParseBool(q.Get("deleted"))
	f.gone = !f.since.IsZero() || deleted && r.Token.Admin()
	return f, nil
}

func parseTime(text string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04:05.000000", "2006-01-02"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

func (s *Service) accepts(f *filter, v *Server) bool {
	q := f.r.Query
	if v.Project != f.r.Token.ProjectID && !f.all {
		return false
	}
	if f.name != nil && !f.name.MatchString(v.Name) {
		return false
	}
	if want := q["status"]; len(want) > 0 && !slices.ContainsFunc(want, func(w string) bool { return strings.EqualFold(w, v.Status()) }) {
		return false
	}
	if !f.since.IsZero() && v.UpdatedAt.Truncate(time.Second).Before(f.since) || !f.before.IsZero() && v.UpdatedAt.After(f.before) {
		return false
	}
	if len(f.exact) > 0 && !f.fits(v) {
		return false
	}
	if f.r.Minor >= 26 && !tagged(f.r, v.Tags) {
		return false
	}
	return s.hasAddress(f.ip, v, 4) && s.hasAddress(f.ip6, v, 6)
}

// fits tells whether a server has the values asked for. What the caller may not filter by is ignored.
func (f *filter) fits(v *Server) bool {
	exact := map[string]string{"flavor": v.Flavor.ID, "image": v.ImageID, "uuid": v.ID, "user_id": v.User}
	if f.r.Minor >= 83 || f.r.Token.Admin() {
		maps.Copy(exact, map[string]string{"key_name": v.KeyName, "availability_zone": v.Zone, "description": v.Description, "vm_state": v.VMState, "task_state": v.TaskState})
	}
	if f.r.Token.Admin() {
		maps.Copy(exact, map[string]string{"project_id": v.Project, "tenant_id": v.Project, "hostname": v.Hostname})
	}
	for _, name := range f.exact {
		if have, known := exact[name]; known && f.r.Query.Get(name) != have {
			return false
		}
	}
	return true
}

func (s *Service) hasAddress(re *regexp.Regexp, v *Server, version int) bool {
	if re == nil {
		return true
	}
	for _, a := range s.networks.Addresses(v.ID) {
		if a.Version == version && a.Type == "fixed" && re.MatchString(a.Address) {
			return true
		}
	}
	return false
}

func tagged(r *rest.Request, have []string) bool {
	words := func(name string) []string {
		if !r.Query.Has(name) {
			return nil
		}
		return strings.Split(r.Query.Get(name), ",")
	}
	has := func(tag string) bool { return slices.Contains(have, tag) }
	lacks := func(tag string) bool { return !slices.Contains(have, tag) }
	if slices.ContainsFunc(words("tags"), lacks) || slices.ContainsFunc(words("not-tags-any"), has) {
		return false
	}
	if anyOf := words("tags-any"); len(anyOf) > 0 && !slices.ContainsFunc(anyOf, has) {
		return false
	}
	notAll := words("not-tags")
	return len(notAll) == 0 || slices.ContainsFunc(notAll, lacks)
}

// maxPage is osapi_max_limit.
const maxPage = 1000

func pageSize(r *rest.Request) (int, error) {
	text := r.Query.Get("limit")
	if text == "" {
		return maxPage, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, queryError("limit", text, fmt.Sprintf("'%s' does not match '^[0-9]*$'", text))
	}
	return min(n, maxPage), nil
}

func (s *Service) listServers(detail bool) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		limit, err := pageSize(r)
		if err != nil {
			return nil, err
		}
		f, err := s.readFilter(r)
		if err != nil {
			return nil, err
		}
		var found, unseen []*Server
		first := limit > 0 && !r.Query.Has("marker") && !r.Query.Has("sort_key") // then nobody sees more than the newest
		for _, v := range s.servers.Newest() {
			switch {
			case !s.accepts(f, v):
			case control.Down(r.HTTP.Context(), v.ID):
				unseen = append(unseen, v)
			default:
				found = append(found, v)
			}
			if first && len(found) == limit {
				break
			}
		}
		if f.gone {
			for _, v := range s.deleted.Newest() {
				if s.accepts(f, v) {
					found = append(found, v)
				}
			}
		}
		if err := sortServers(r, found); err != nil {
			return nil, err
		}
		if marker := r.Query.Get("marker"); marker != "" {
			if s.servers.Get(marker) != nil && control.Down(r.HTTP.Context(), marker) {
				return nil, cellDown()
			}
			at := slices.IndexFunc(found, func(v *Server) bool { return v.ID == marker })
			if at < 0 {
				return nil, bad("marker [%s] not found", marker)
			}
			found = found[at+1:]
		}
		body := rest.M{}
		if limit > 0 && len(found) >= limit {
			found = found[:limit]
			body["servers_links"] = []rest.M{rest.Link("next", rest.NextLink(r, r.HTTP.URL.Path, found[limit-1].ID, limit))}
			if !r.Query.Has("limit") {
				q := r.HTTP.URL.Query()
				q.Set("marker", found[limit-1].ID)
				body["servers_links"] = []rest.M{rest.Link("next", r.Base+r.HTTP.URL.Path+"?"+q.Encode())}
			}
		}
		if limit == 0 {
			found = nil
		}
		views := make([]rest.M, 0, len(found))
		for _, v := range found {
			if detail {
				views = append(views, s.view(r, v))
				continue
			}
			views = append(views, rest.M{"id": v.ID, "name": v.Name, "links": serverLinks(r, v.ID)})
		}
		if showsUnseen(r) {
			views = append(views, s.listUnseen(r, unseen, detail, limit-len(views))...)
		}
		body["servers"] = views
		return rest.OK(body)
	}
}

func sortServers(r *rest.Request, found []*Server) error {
	keys, dirs := r.Query["sort_key"], r.Query["sort_dir"]
	for _, key := range keys {
		if sortKeys[key] == nil {
			return queryError("sort_key", key, fmt.Sprintf("'%s' is not one of ['%s']", key, strings.Join(slices.Sorted(maps.Keys(sortKeys)), "', '")))
		}
	}
	if len(keys) == 0 {
		return nil
	}
	slices.SortStableFunc(found, func(a, b *Server) int {
		for i, key := range keys {
			c := strings.Compare(sortKeys[key](a), sortKeys[key](b))
			if len(dirs) <= i || dirs[i] != "asc" {
				c = -c
			}
			if c != 0 {
				return c
			}
		}
		return 0
	})
	return nil
}

// Metadata.

// changeable refuses changes in states that do not allow them.
func changeable(v *Server, what string, vmStates ...string) error {
	if !slices.Contains(vmStates, v.VMState) {
		return conflict("Cannot '%s' instance %s while it is in vm_state %s", what, v.ID, v.VMState)
	}
	if v.TaskState != "" {
		return conflict("Cannot '%s' instance %s while it is in task_state %s", what, v.ID, v.TaskState)
	}
	return nil
}

var metadataStates = []string{"active", "paused", "suspended", "stopped"}

func (s *Service) getMetadata(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"metadata": orEmpty(v.Metadata)})
}

func (s *Service) setMetadata(replace bool) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		v, err := s.server(r)
		if err != nil {
			return nil, err
		}
		body := struct{ Metadata map[string]string }{}
		if err := r.JSON(&body); err != nil {
			return nil, err
		}
		if body.Metadata == nil {
			return nil, bad("'metadata' is a required property")
		}
		next := map[string]string{}
		if !replace {
			next = maps.Clone(orEmpty(v.Metadata))
		}
		maps.Copy(next, body.Metadata)
		if err := s.storeMetadata(r, v, next); err != nil {
			return nil, err
		}
		return rest.OK(rest.M{"metadata": next})
	}
}

func (s *Service) storeMetadata(r *rest.Request, v *Server, next map[string]string) error {
	if err := checkMetadata(next); err != nil {
		return err
	}
	if limit := s.limits(v.Project)["metadata_items"]; limit >= 0 && len(next) > limit {
		return rest.Errorf(http.StatusForbidden, "", "Maximum number of metadata items exceeds %d", limit)
	}
	if err := changeable(v, "update metadata", metadataStates...); err != nil {
		return err
	}
	v.Metadata, v.UpdatedAt = next, r.Now
	s.servers.Put(v.ID, v)
	return nil
}

func (s *Service) getMetadataItem(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	value, ok := v.Metadata[r.Params["key"]]
	if !ok {
		return nil, notFound("Metadata item was not found")
	}
	return rest.OK(rest.M{"meta": rest.M{r.Params["key"]: value}})
}

func (s *Service) setMetadataItem(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	body := struct{ Meta map[string]string }{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	value, ok := body.Meta[r.Params["key"]]
	if !ok || len(body.Meta) != 1 {
		return nil, bad("Request body and URI mismatch")
	}
	next := maps.Clone(orEmpty(v.Metadata))
	next[r.Params["key"]] = value
	if err := s.storeMetadata(r, v, next); err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"meta": body.Meta})
}

func (s *Service) deleteMetadataItem(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	if _, ok := v.Metadata[r.Params["key"]]; !ok {
		return nil, notFound("Metadata item was not found")
	}
	next := maps.Clone(v.Metadata)
	delete(next, r.Params["key"])
	if err := s.storeMetadata(r, v, next); err != nil {
		return nil, err
	}
	return rest.Status(http.StatusNoContent, nil)
}

// Tags.

// since hides a handler before a microversion.
func since(minor int, h rest.Handler) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		if r.Minor < minor {
			return nil, notFound("The resource could not be found.")
		}
		return h(r)
	}
}

func (s *Service) listTags(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"tags": append([]string{}, v.Tags...)})
}

func (s *Service) getTag(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(v.Tags, r.Params["tag"]) {
		return nil, notFound("Server %s has no tag '%s'", v.ID, r.Params["tag"])
	}
	return rest.Status(http.StatusNoContent, nil)
}

func (s *Service) storeTags(v *Server, now time.Time, tags []string) {
	v.Tags, v.UpdatedAt = unique(tags), now
	s.servers.Put(v.ID, v)
}

func (s *Service) addTag(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	tag := r.Params["tag"]
	if err := checkTag("tag", tag); err != nil {
		return nil, err
	}
	if err := changeable(v, "update tag", metadataStates...); err != nil {
		return nil, err
	}
	if slices.Contains(v.Tags, tag) {
		return rest.Status(http.StatusNoContent, nil)
	}
	if len(v.Tags) >= 50 {
		return nil, bad("The number of tags exceeded the per-server limit 50")
	}
	s.storeTags(v, r.Now, append(slices.Clone(v.Tags), tag))
	return &rest.Response{Status: http.StatusCreated, Header: map[string]string{"Location": r.Base + r.HTTP.URL.Path}}, nil
}

func (s *Service) setTags(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	body := struct{ Tags []string }{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Tags == nil {
		return nil, bad("'tags' is a required property")
	}
	if len(body.Tags) > 50 {
		return nil, invalid("tags", body.Tags, "is too long")
	}
	for i, tag := range body.Tags {
		if err := checkTag(strconv.Itoa(i), tag); err != nil {
			return nil, err
		}
	}
	if err := changeable(v, "update tags", metadataStates...); err != nil {
		return nil, err
	}
	s.storeTags(v, r.Now, body.Tags)
	return rest.OK(rest.M{"tags": v.Tags})
}

func (s *Service) deleteTags(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	if err := changeable(v, "delete tags", metadataStates...); err != nil {
		return nil, err
	}
	s.storeTags(v, r.Now, []string{})
	return rest.Status(http.StatusNoContent, nil)
}

func (s *Service) deleteTag(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	if err := changeable(v, "delete tag", metadataStates...); err != nil {
		return nil, err
	}
	at := slices.Index(v.Tags, r.Params["tag"])
	if at < 0 {
		return nil, notFound("Instance %s has no tag '%s'", v.ID, r.Params["tag"])
	}
	s.storeTags(v, r.Now, slices.Delete(slices.Clone(v.Tags), at, at+1))
	return rest.Status(http.StatusNoContent, nil)
}
