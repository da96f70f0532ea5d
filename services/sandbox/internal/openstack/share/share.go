// Package share simulates Manila: shares with their access rules and export locations, types and quotas. Nothing can be
// mounted. A share is
//
//	creating → available → extending → available;  available | error → deleting → gone
//
// and an access rule queued_to_apply → active, then queued_to_deny → gone.
package share

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/control"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
	"github.com/weftcloud/weft/services/sandbox/internal/world"
)

// Share is one share. Sizes are in GiB. Next is the state that it comes to at Due; empty: it rests.
type Share struct {
	ID, Name, Description, Project, User string
	Protocol, Type, Status, Next         string
	Size, NewSize                        int
	Metadata                             map[string]string
	CreatedAt, Due                       time.Time
}

// Rule is one access rule.
type Rule struct {
	ID, ShareID, Type, To, Level, Status, Next string
	CreatedAt, Due                             time.Time
}

// typ is a share type.
type typ struct{ ID, Name string }

// types of the cloud; the first is the default.
var types = []typ{{"5c1f7a52-7a55-4c8e-9a2f-6b1f6c0d1e01", "default"}, {"5c1f7a52-7a55-4c8e-9a2f-6b1f6c0d1e02", "ceph"}}

// gone stands for removal.
const gone = "deleted"

// Service is the simulated Manila.
type Service struct {
	rest.Service
	shares *world.Table[Share]
	rules  *world.Table[Rule]
	quotas *world.Table[map[string]int]
}

// New makes the service and loads its state.
func New(w *rest.World, prefix string, auth func(string, time.Time) *rest.Token) (*Service, error) {
	s := &Service{
		shares: world.NewTable[Share](w.Journal, "share.shares"), rules: world.NewTable(w.Journal, "share.rules", func(r *Rule) []string { return []string{r.ShareID} }),
		quotas: world.NewTable[map[string]int](w.Journal, "share.quotas"),
	}
	s.Service = rest.Service{Name: "share", Prefix: prefix, World: w, Routes: s.routes(), WriteError: writeError, Authenticate: auth, Negotiate: negotiate}
	s.Prepare()
	for _, load := range []func() error{s.shares.Load, s.rules.Load, s.quotas.Load} {
		if err := load(); err != nil {
			return nil, err
		}
	}
	for id := range s.shares.All() {
		s.watch(id)
	}
	for id := range s.rules.All() {
		s.watchRule(id)
	}
	return s, nil
}

// Reset forgets everything.
func (s *Service) Reset() {
	s.shares.Clear()
	s.rules.Clear()
	s.quotas.Clear()
}

// HighestMinor is the highest microversion, 2.73.
const HighestMinor = 73

const versionHeader = "X-OpenStack-Manila-API-Version"

func negotiate(w http.ResponseWriter, r *rest.Request) error {
	w.Header().Set("Vary", versionHeader)
	if version := r.HTTP.Header.Get(versionHeader); version != "" {
		minor, err := rest.Microversion(version, 2, 0, HighestMinor)
		if err != nil {
			return err
		}
		r.Minor = minor
	}
	w.Header().Set(versionHeader, fmt.Sprintf("2.%d", r.Minor))
	return nil
}

func writeError(w http.ResponseWriter, r *http.Request, status int, kind, message string) {
	if status == http.StatusRequestEntityTooLarge && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", "0")
	}
	rest.WriteFault(w, r, status, kind, message)
}

func bad(format string, args ...any) error {
	return rest.Errorf(http.StatusBadRequest, "", format, args...)
}

func (s *Service) routes() []rest.Route {
	version := func(r *rest.Request) (*rest.Response, error) {
		return rest.Status(http.StatusMultipleChoices, rest.M{"versions": []rest.M{{
			"id": "v2.0", "status": "CURRENT", "version": fmt.Sprintf("2.%d", HighestMinor), "min_version": "2.0", "updated": "2015-08-27T11:33:21Z",
			"links": []rest.M{rest.Link("self", r.Base+s.Prefix+"/v2/")}, "media-types": []rest.M{},
		}}})
	}
	return []rest.Route{
		{Method: "GET", Pattern: "/", Operation: "version.list", Handler: version, Public: true},
		{Method: "GET", Pattern: "/v2", Operation: "version.get", Handler: version},
		{Method: "GET", Pattern: "/v2/shares", Operation: "share.list", Handler: s.list},
		{Method: "GET", Pattern: "/v2/shares/detail", Operation: "share.list", Handler: s.list},
		{Method: "POST", Pattern: "/v2/shares", Operation: "share.create", Handler: s.create},
		{Method: "GET", Pattern: "/v2/shares/{id}", Operation: "share.get", Handler: s.get},
		{Method: "DELETE", Pattern: "/v2/shares/{id}", Operation: "share.delete", Handler: s.remove},
		{Method: "POST", Pattern: "/v2/shares/{id}/action", Operation: "share.action", Handler: s.action},
		{Method: "POST", Pattern: "/v2/shares/{id}/metadata", Operation: "share.metadata", Handler: s.setMetadata},
		{Method: "DELETE", Pattern: "/v2/shares/{id}/metadata/{key}", Operation: "share.metadata", Handler: s.dropMetadata},
		{Method: "GET", Pattern: "/v2/shares/{id}/export_locations", Operation: "export_location.list", Handler: s.exports},
		{Method: "GET", Pattern: "/v2/share-access-rules", Operation: "access_rule.list", Handler: s.listRules},
		{Method: "GET", Pattern: "/v2/snapshots", Operation: "snapshot.list", Handler: noSnapshots},
		{Method: "GET", Pattern: "/v2/snapshots/detail", Operation: "snapshot.list", Handler: noSnapshots},
		{Method: "GET", Pattern: "/v2/types", Operation: "type.list", Handler: listTypes},
		{Method: "GET", Pattern: "/v2/quota-sets/{project}/detail", Operation: "quota.get", Handler: s.getQuota},
		{Method: "GET", Pattern: "/v2/scheduler-stats/pools/detail", Operation: "pool.list", Handler: pools},
	}
}

// become sets a share's state, and the one that follows when a latency has passed.
func (s *Service) become(now time.Time, v *Share, status, next, latency string) {
	v.Status, v.Next, v.Due = status, next, s.World.Later(now, "share."+latency)
	s.shares.Put(v.ID, v)
	s.watch(v.ID)
}

func (s *Service) watch(id string) {
	v := s.shares.Get(id)
	if v == nil || v.Next == "" {
		return
	}
	s.World.Agenda.At(v.Due, func(at time.Time) {
		v := s.shares.Get(id)
		if v == nil || v.Next == "" || v.Due.After(at) {
			return
		}
		if v.Next == gone {
			for _, r := range s.rules.By(0, id) {
				s.rules.Delete(r.ID)
			}
			s.shares.Delete(id)
			return
		}
		next := *v
		next.Status, next.Next = v.Next, ""
		if next.NewSize > 0 {
			next.Size, next.NewSize = next.NewSize, 0
		}
		s.shares.Put(id, &next)
	})
}

func (s *Service) watchRule(id string) {
	v := s.rules.Get(id)
	if v == nil || v.Next == "" {
		return
	}
	s.World.Agenda.At(v.Due, func(at time.Time) {
		v := s.rules.Get(id)
		if v == nil || v.Next == "" || v.Due.After(at) {
			return
		}
		if v.Next == gone {
			s.rules.Delete(id)
			return
		}
		next := *v
		next.Status, next.Next = v.Next, ""
		s.rules.Put(id, &next)
	})
}

func (s *Service) view(r *rest.Request, v *Share) rest.M {
	status := "active"
	for _, rule := range s.rules.By(0, v.ID) {
		if rule.Status != "active" {
			status = "syncing"
		}
	}
	return rest.M{
		"id": v.ID, "size": v.Size, "availability_zone": "nova", "created_at": rest.Micros(v.CreatedAt), "status": v.Status, "name": v.Name,
		"description": nil, "project_id": v.Project, "snapshot_id": nil, "share_network_id": nil, "share_proto": v.Protocol, "metadata": orEmpty(v.Metadata),
		"share_type": typeID(v.Type), "volume_type": v.Type, "share_type_name": v.Type, "is_public": false, "snapshot_support": true, "task_state": nil,
		"access_rules_status": status, "replication_type": nil, "has_replicas": false, "user_id": v.User, "share_group_id": nil, "progress": "100%",
		"links": []rest.M{rest.Link("self", r.Base+s.Prefix+"/v2/shares/"+v.ID)},
	}
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func typeID(name string) string {
	for _, t := range types {
		if t.Name == name {
			return t.ID
		}
	}
	return ""
}

func (s *Service) list(r *rest.Request) (*rest.Response, error) {
	var want map[string]string
	if text := r.Query.Get("metadata"); text != "" {
		if err := json.Unmarshal([]byte(strings.ReplaceAll(text, "'", `"`)), &want); err != nil {
			return nil, bad("Invalid input received: metadata")
		}
	}
	out, left := []rest.M{}, 1000
	if n, err := strconv.Atoi(r.Query.Get("limit")); err == nil {
		left = n
	}
	skip, err := strconv.Atoi(cmp.Or(r.Query.Get("offset"), "0"))
	if err != nil {
		return nil, bad("offset param must be an integer")
	}
	for _, v := range s.shares.Newest() {
		fits := v.Project == r.Token.ProjectID
		for k, value := range want {
			fits = fits && v.Metadata[k] == value
		}
		if !fits {
			continue
		}
		if skip > 0 {
			skip--
			continue
		}
		if left == 0 {
			break
		}
		left--
		out = append(out, s.view(r, v))
	}
	return rest.OK(rest.M{"shares": out})
}

func (s *Service) create(r *rest.Request) (*rest.Response, error) {
	body := struct {
		Share struct {
			Proto    string            `json:"share_proto"`
			Size     int               `json:"size"`
			Name     string            `json:"name"`
			Type     string            `json:"share_type"`
			Metadata map[string]string `json:"metadata"`
		} `json:"share"`
	}{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	in := body.Share
	proto := strings.ToUpper(in.Proto)
	if !slices.Contains([]string{"NFS", "CIFS"}, proto) {
		return nil, bad("Invalid share protocol provided: %s. It is either disabled or unsupported. Available protocols: ['NFS', 'CIFS']", in.Proto)
	}
	if in.Size < 1 {
		return nil, bad("Share size '%d' must be an integer and greater than 0", in.Size)
	}
	name := types[0].Name
	if in.Type != "" {
		at := slices.IndexFunc(types, func(t typ) bool { return t.ID == in.Type || t.Name == in.Type })
		if at < 0 {
			return nil, rest.Errorf(http.StatusNotFound, "", "Share type not found.")
		}
		name = types[at].Name
	}
	if err := s.checkQuota(r.Token.ProjectID, 1, in.Size); err != nil {
		return nil, err
	}
	v := &Share{
		ID: rest.NewID(), Name: in.Name, Project: r.Token.ProjectID, User: r.Token.UserID, Protocol: proto, Type: name, Size: in.Size, Metadata: in.Metadata, CreatedAt: r.Now,
	}
	s.become(r.Now, v, "creating", "available", "share.available")
	return rest.OK(rest.M{"share": s.view(r, v)})
}

func (s *Service) share(r *rest.Request) (*Share, error) {
	v := s.shares.Get(r.Params["id"])
	if v == nil || v.Project != r.Token.ProjectID {
		return nil, rest.Errorf(http.StatusNotFound, "", "The resource could not be found.")
	}
	next := *v
	return &next, nil
}

func (s *Service) get(r *rest.Request) (*rest.Response, error) {
	v, err := s.share(r)
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"share": s.view(r, v)})
}

func (s *Service) remove(r *rest.Request) (*rest.Response, error) {
	v, err := s.share(r)
	if err != nil {
		return nil, err
	}
	if v.Status != "available" && v.Status != "error" {
		return nil, rest.Errorf(http.StatusForbidden, "", "Invalid share: %%(reason)s.")
	}
	s.become(r.Now, v, "deleting", gone, "share.deleted")
	return rest.Status(http.StatusAccepted, nil)
}

func (s *Service) action(r *rest.Request) (*rest.Response, error) {
	v, err := s.share(r)
	if err != nil {
		return nil, err
	}
	body := map[string]map[string]any{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	for name, args := range body {
		switch name {
		case "extend":
			return s.extend(r, v, args)
		case "allow_access":
			return s.allow(r, v, args)
		case "deny_access":
			return s.deny(r, v, fmt.Sprint(args["access_id"]))
		}
		return nil, bad("There is no such action: %s", name)
	}
	return nil, bad("There is no such action")
}

func (s *Service) extend(r *rest.Request, v *Share, args map[string]any) (*rest.Response, error) {
	size, err := strconv.Atoi(fmt.Sprint(args["new_size"]))
	if err != nil {
		return nil, bad("new_size must be an integer")
	}
	if v.Status != "available" {
		return nil, bad("Invalid share: Share %s status must be 'available' to extend, but current status is: %s.", v.ID, v.Status)
	}
	if size <= v.Size {
		return nil, bad("Invalid input received: New size for extend must be greater than current size. (current: %d, new: %d).", v.Size, size)
	}
	if err := s.checkQuota(v.Project, 0, size-v.Size); err != nil {
		return nil, err
	}
	v.NewSize = size
	s.become(r.Now, v, "extending", "available", "share.extended")
	return rest.Status(http.StatusAccepted, nil)
}

func (s *Service) allow(r *rest.Request, v *Share, args map[string]any) (*rest.Response, error) {
	if v.Status != "available" {
		return nil, bad("New access rules cannot be applied while the share or any of its replicas or migration copies lacks a valid host or is in an invalid state.")
	}
	kind, to, level := fmt.Sprint(args["access_type"]), fmt.Sprint(args["access_to"]), fmt.Sprint(args["access_level"])
	if kind == "ip" && net.ParseIP(to) == nil {
		if _, _, err := net.ParseCIDR(to); err != nil {
			return nil, bad("Invalid IP access value: %s", to)
		}
	}
	for _, rule := range s.rules.By(0, v.ID) {
		if rule.Type == kind && rule.To == to {
			return nil, bad("Share access %s:%s exists.", kind, to)
		}
	}
	rule := &Rule{ID: rest.NewID(), ShareID: v.ID, Type: kind, To: to, Level: level, Status: "queued_to_apply", Next: "active", CreatedAt: r.Now, Due: s.World.Later(r.Now, "share.rule.active")}
	s.rules.Put(rule.ID, rule)
	s.watchRule(rule.ID)
	return rest.OK(rest.M{"access": ruleView(rule, true)})
}

func (s *Service) deny(r *rest.Request, v *Share, id string) (*rest.Response, error) {
	rule := s.rules.Get(id)
	if rule == nil || rule.ShareID != v.ID {
		return nil, rest.Errorf(http.StatusNotFound, "", "Resource could not be found.")
	}
	next := *rule
	next.Status, next.Next, next.Due = "queued_to_deny", gone, s.World.Later(r.Now, "share.rule.deleted")
	s.rules.Put(id, &next)
	s.watchRule(id)
	return rest.Status(http.StatusAccepted, nil)
}

func ruleView(v *Rule, alone bool) rest.M {
	out := rest.M{
		"id": v.ID, "access_level": v.Level, "access_to": v.To, "access_type": v.Type, "state": v.Status, "access_key": nil,
		"created_at": rest.Micros(v.CreatedAt), "updated_at": nil, "metadata": rest.M{},
	}
	if alone {
		out["share_id"] = v.ShareID
	}
	return out
}

func (s *Service) listRules(r *rest.Request) (*rest.Response, error) {
	v := s.shares.Get(r.Query.Get("share_id"))
	if v == nil || v.Project != r.Token.ProjectID {
		return nil, bad("Share %s not found.", r.Query.Get("share_id"))
	}
	out := []rest.M{}
	for _, rule := range s.rules.By(0, v.ID) {
		out = append(out, ruleView(rule, false))
	}
	return rest.OK(rest.M{"access_list": out})
}

func (s *Service) setMetadata(r *rest.Request) (*rest.Response, error) {
	v, err := s.share(r)
	if err != nil {
		return nil, err
	}
	body := struct{ Metadata map[string]string }{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	next := maps.Clone(orEmpty(v.Metadata))
	maps.Copy(next, body.Metadata)
	v.Metadata = next
	s.shares.Put(v.ID, v)
	return rest.OK(rest.M{"metadata": next})
}

func (s *Service) dropMetadata(r *rest.Request) (*rest.Response, error) {
	v, err := s.share(r)
	if err != nil {
		return nil, err
	}
	if _, ok := v.Metadata[r.Params["key"]]; !ok {
		return nil, rest.Errorf(http.StatusNotFound, "", "MetadataItemNotFound: Metadata item is not found.")
	}
	next := maps.Clone(v.Metadata)
	delete(next, r.Params["key"])
	v.Metadata = next
	s.shares.Put(v.ID, v)
	return rest.Status(http.StatusOK, nil)
}

func (s *Service) exports(r *rest.Request) (*rest.Response, error) {
	v, err := s.share(r)
	if err != nil {
		return nil, rest.Errorf(http.StatusNotFound, "", "Share '%s' not found.", r.Params["id"])
	}
	out := []rest.M{}
	for i, host := range []string{"10.0.0.10", "10.0.0.20"} {
		path := host + ":/path/to/fake/share/share_" + strings.ReplaceAll(v.ID, "-", "_")
		if v.Protocol == "CIFS" {
			path = `\\` + host + `\path\to\fake\share_` + strings.ReplaceAll(v.ID, "-", "_")
		}
		out = append(out, rest.M{"id": fmt.Sprintf("%s-%d", v.ID, i), "path": path, "preferred": i == 0})
	}
	return rest.OK(rest.M{"export_locations": out})
}

// noSnapshots answers the list of snapshots: none can be made here.
func noSnapshots(*rest.Request) (*rest.Response, error) {
	return rest.OK(rest.M{"snapshots": []rest.M{}})
}

func listTypes(*rest.Request) (*rest.Response, error) {
	out := []rest.M{}
	for i, t := range types {
		out = append(out, rest.M{
			"id": t.ID, "name": t.Name, "extra_specs": rest.M{"driver_handles_share_servers": "false", "snapshot_support": "true"},
			"required_extra_specs": rest.M{"driver_handles_share_servers": "false"}, "share_type_access:is_public": true, "description": nil, "is_default": i == 0,
		})
	}
	return rest.OK(rest.M{"share_types": out, "volume_types": out})
}

func pools(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, rest.Errorf(http.StatusForbidden, "", "Access was denied to this resource.")
	}
	return rest.OK(rest.M{"pools": []rest.M{{
		"name": "sandbox@dummy#fake_pool", "host": "sandbox", "backend": "dummy", "pool": "fake_pool",
		"capabilities": rest.M{"share_backend_name": "DUMMY", "storage_protocol": "NFS_CIFS", "total_capacity_gb": 1230.0, "free_capacity_gb": 1210.0},
	}}})
}

// Quotas.

func defaults() map[string]int {
	return map[string]int{"shares": 50, "gigabytes": 1000, "snapshots": 50, "snapshot_gigabytes": 1000, "share_networks": 10}
}

func (s *Service) limits(project string) map[string]int {
	out := defaults()
	if own := s.quotas.Get(project); own != nil {
		maps.Copy(out, *own)
	}
	return out
}

func (s *Service) usage(project string) map[string]int {
	out := map[string]int{}
	for _, v := range s.shares.All() {
		if v.Project == project {
			out["shares"]++
			out["gigabytes"] += max(v.Size, v.NewSize)
		}
	}
	return out
}

func (s *Service) checkQuota(project string, count, size int) error {
	limits, used := s.limits(project), s.usage(project)
	if l := limits["gigabytes"]; l >= 0 && used["gigabytes"]+size > l {
		return rest.Errorf(http.StatusRequestEntityTooLarge, "", "ShareSizeExceedsAvailableQuota: Requested share exceeds allowed project/user or share type gigabytes quota.")
	}
	if l := limits["shares"]; l >= 0 && used["shares"]+count > l {
		return rest.Errorf(http.StatusRequestEntityTooLarge, "", "ShareLimitExceeded: Maximum number of shares allowed (%d) exceeded.", l)
	}
	return nil
}

func (s *Service) getQuota(r *rest.Request) (*rest.Response, error) {
	if r.Params["project"] != r.Token.ProjectID && !r.Token.Admin() {
		return nil, rest.Errorf(http.StatusForbidden, "", "Access was denied to this resource.")
	}
	used, out := s.usage(r.Params["project"]), rest.M{"id": r.Params["project"]}
	for k, limit := range s.limits(r.Params["project"]) {
		out[k] = rest.M{"limit": limit, "in_use": used[k], "reserved": 0}
	}
	return rest.OK(rest.M{"quota_set": out})
}

// SetQuotas sets limits of a project.
func (s *Service) SetQuotas(project string, limits map[string]int) error {
	next := map[string]int{}
	if own := s.quotas.Get(project); own != nil {
		maps.Copy(next, *own)
	}
	for key := range limits {
		if _, ok := defaults()[key]; !ok {
			return bad("Bad key in quota set: %s", key)
		}
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

// Inventory lists the shares.
func (s *Service) Inventory() []control.InventoryItem {
	var out []control.InventoryItem
	for _, v := range s.shares.All() {
		out = append(out, control.InventoryItem{
			Service: "share", Kind: "share", ID: v.ID, Name: v.Name, Project: v.Project, State: v.Status, Metadata: v.Metadata, CreatedAt: v.CreatedAt,
			Settings: map[string]string{"size": strconv.Itoa(v.Size), "type": v.Type},
		})
	}
	return out
}
