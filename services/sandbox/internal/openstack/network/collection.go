package network

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

// object is one of the types with Standard inside.
type object interface{ std() *Standard }

// attribute says what a client may do with one field of a kind.
type attribute struct {
	form     string // string, bool, int, id, list, any
	required bool   // in a create
	post     bool   // may be given in a create
	put      bool   // may be given in an update
	admin    bool   // only an admin may give it
	nofilter bool   // not a filter
}

// kind is one collection of the API.
type kind struct {
	one, many string // "network", "networks"
	notFound  func(id string) error
	attrs     map[string]attribute
	get       func(id string) object
	list      func(q url.Values) []object // may use indexes; the filters are applied afterwards, too
	view      func(r *rest.Request, o object) rest.M
	visible   func(t *rest.Token, o object) bool // for those who are neither owner nor admin
	create    func(r *rest.Request, in rest.M) (object, error)
	update    func(r *rest.Request, o object, in rest.M) (object, error)
	remove    func(r *rest.Request, o object) error
	put       func(o object)
}

// standardAttrs are part of every kind.
var standardAttrs = map[string]attribute{
	"id": {form: "string"}, "tenant_id": {form: "string", post: true}, "project_id": {form: "string", post: true},
	"description": {form: "string", post: true, put: true}, "created_at": {form: "string"}, "updated_at": {form: "string"},
	"revision_number": {form: "int"}, "tags": {form: "list", nofilter: true},
}

func withStandard(own map[string]attribute) map[string]attribute {
	out := maps.Clone(standardAttrs)
	maps.Copy(out, own)
	return out
}

// path is the collection's name in a URL.
func (k *kind) path() string { return strings.ReplaceAll(k.many, "_", "-") }

func (s *Service) routes() []rest.Route {
	routes := []rest.Route{
		{Method: "GET", Pattern: "/", Operation: "version.list", Handler: versions, Public: true},
		{Method: "GET", Pattern: "/v2.0", Operation: "version.get", Handler: s.resources},
		{Method: "GET", Pattern: "/v2.0/extensions", Operation: "extension.list", Handler: listExtensions},
		{Method: "GET", Pattern: "/v2.0/extensions/{alias}", Operation: "extension.get", Handler: getExtension},
		{Method: "GET", Pattern: "/v2.0/availability_zones", Operation: "availability_zone.list", Handler: listZones},
		{Method: "GET", Pattern: "/v2.0/agents", Operation: "agent.list", Handler: func(*rest.Request) (*rest.Response, error) {
			return rest.OK(rest.M{"agents": []rest.M{}})
		}},
		{Method: "GET", Pattern: "/v2.0/quotas", Operation: "quota.list", Handler: s.listQuotas},
		{Method: "GET", Pattern: "/v2.0/quotas/{project}", Operation: "quota.get", Handler: s.getQuota},
		{Method: "GET", Pattern: "/v2.0/quotas/{project}/details", Operation: "quota.get", Handler: s.getQuotaDetails},
		{Method: "GET", Pattern: "/v2.0/quotas/{project}/default", Operation: "quota.get", Handler: s.getQuotaDefaults},
		{Method: "PUT", Pattern: "/v2.0/quotas/{project}", Operation: "quota.update", Handler: s.putQuota},
		{Method: "DELETE", Pattern: "/v2.0/quotas/{project}", Operation: "quota.delete", Handler: s.deleteQuota},
		{Method: "PUT", Pattern: "/v2.0/routers/{id}/add_router_interface", Operation: "router.add_interface", Handler: s.addInterface},
		{Method: "PUT", Pattern: "/v2.0/routers/{id}/remove_router_interface", Operation: "router.remove_interface", Handler: s.removeInterface},
	}
	for _, f := range []struct{ method, pattern, op string }{{"GET", "", "list"}, {"POST", "", "create"}, {"GET", "/{forward}", "get"}, {"PUT", "/{forward}", "update"}, {"DELETE", "/{forward}", "delete"}} {
		handlers := map[string]rest.Handler{"list": s.listForwards, "create": s.createForward, "get": s.getForward, "update": s.updateForward, "delete": s.deleteForward}
		routes = append(routes, rest.Route{Method: f.method, Pattern: "/v2.0/floatingips/{id}/port_forwardings" + f.pattern, Operation: "port_forwarding." + f.op, Handler: handlers[f.op]})
	}
	for _, k := range s.kinds {
		base := "/v2.0/" + k.path()
		routes = append(routes,
			rest.Route{Method: "GET", Pattern: base, Operation: k.one + ".list", Handler: s.listOf(k)},
			rest.Route{Method: "POST", Pattern: base, Operation: k.one + ".create", Handler: s.createOf(k)},
			rest.Route{Method: "GET", Pattern: base + "/{id}", Operation: k.one + ".get", Handler: s.getOf(k)},
			rest.Route{Method: "PUT", Pattern: base + "/{id}", Operation: k.one + ".update", Handler: s.updateOf(k)},
			rest.Route{Method: "DELETE", Pattern: base + "/{id}", Operation: k.one + ".delete", Handler: s.deleteOf(k)},
		)
		bases := []string{base}
		if k.path() != k.many {
			bases = append(bases, "/v2.0/"+k.many)
		}
		for _, base := range bases {
			routes = append(routes, s.tagRoutes(k, base)...)
		}
	}
	return routes
}

// owned says whether the object belongs to the caller, or the caller may do everything.
func owned(t *rest.Token, o object) bool { return t.Admin() || o.std().Project == t.ProjectID }

func (s *Service) find(k *kind, r *rest.Request) (object, error) {
	o := k.get(r.Params["id"])
	if o == nil || !owned(r.Token, o) && (k.visible == nil || !k.visible(r.Token, o)) {
		return nil, k.notFound(r.Params["id"])
	}
	return o, nil
}

// findOwn is find for a change; what is only visible is refused.
func (s *Service) findOwn(k *kind, r *rest.Request, verb string) (object, error) {
	o, err := s.find(k, r)
	if err != nil {
		return nil, err
	}
	if !owned(r.Token, o) {
		return nil, denied("rule:" + verb + "_" + k.one)
	}
	return o, nil
}

func (s *Service) getOf(k *kind) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		o, err := s.find(k, r)
		if err != nil {
			return nil, err
		}
		return rest.OK(rest.M{k.one: pick(k.view(r, o), r.Query["fields"])})
	}
}

func (s *Service) createOf(k *kind) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		body := map[string]json.RawMessage{}
		if err := r.JSON(&body); err != nil {
			return nil, err
		}
		if raw, ok := body[k.many]; ok {
			return s.createMany(k, r, raw)
		}
		in, err := k.input(r, body[k.one], true)
		if err != nil {
			return nil, err
		}
		o, err := k.create(r, in)
		if err != nil {
			return nil, err
		}
		return rest.Status(http.StatusCreated, rest.M{k.one: k.view(r, o)})
	}
}

// createMany is the bulk form; the first refusal takes back what the call made.
func (s *Service) createMany(k *kind, r *rest.Request, raw json.RawMessage) (*rest.Response, error) {
	list := []json.RawMessage{}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, badRequest("Unable to find '%s' in request body", k.many)
	}
	made := []object{}
	views := []rest.M{}
	for _, item := range list {
		in, err := k.input(r, item, true)
		var o object
		if err == nil {
			o, err = k.create(r, in)
		}
		if err != nil {
			for _, o := range slices.Backward(made) {
				if undo := k.remove(r, o); undo != nil {
					return nil, undo
				}
			}
			return nil, err
		}
		made = append(made, o)
		views = append(views, k.view(r, o))
	}
	return rest.Status(http.StatusCreated, rest.M{k.many: views})
}

func (s *Service) updateOf(k *kind) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		o, err := s.findOwn(k, r, "update")
		if err != nil {
			return nil, err
		}
		if k.update == nil {
			return nil, rest.Errorf(http.StatusNotFound, "HTTPNotFound", "The resource could not be found.")
		}
		body := map[string]json.RawMessage{}
		if err := r.JSON(&body); err != nil {
			return nil, err
		}
		in, err := k.input(r, body[k.one], false)
		if err != nil {
			return nil, err
		}
		if match := r.HTTP.Header.Get("If-Match"); match != "" && match != fmt.Sprintf("revision_number=%d", o.std().Revision) {
			return nil, rest.Errorf(http.StatusPreconditionFailed, "RevisionNumberConstraintFailed", "Constrained to %s, but current revision is %d", strings.TrimPrefix(match, "revision_number="), o.std().Revision)
		}
		o, err = k.update(r, o, in)
		if err != nil {
			return nil, err
		}
		return rest.OK(rest.M{k.one: k.view(r, o)})
	}
}

func (s *Service) deleteOf(k *kind) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		o, err := s.findOwn(k, r, "delete")
		if err != nil {
			return nil, err
		}
		if err := k.remove(r, o); err != nil {
			return nil, err
		}
		return rest.Status(http.StatusNoContent, nil)
	}
}

// input checks the body of a create or update against the attributes of the kind.
func (k *kind) input(r *rest.Request, raw json.RawMessage, create bool) (rest.M, error) {
	in := rest.M{}
	if len(raw) == 0 || json.Unmarshal(raw, &in) != nil {
		return nil, badRequest("Unable to find '%s' in request body", k.one)
	}
	var unknown []string
	for _, name := range slices.Sorted(maps.Keys(in)) {
		a, ok := k.attrs[name]
		if !ok {
			unknown = append(unknown, name)
			continue
		}
		if create && !a.post || !create && !a.put {
			if create {
				return nil, badRequest("Attribute '%s' not allowed in POST", name)
			}
			return nil, badRequest("Cannot update read-only attribute %s", name)
		}
		if err := a.check(name, in[name]); err != nil {
			return nil, err
		}
	}
	if len(unknown) > 0 {
		return nil, badRequest("Unrecognized attribute(s) '%s'", strings.Join(unknown, ", "))
	}
	for _, name := range slices.Sorted(maps.Keys(k.attrs)) {
		if _, ok := in[name]; create && k.attrs[name].required && !ok {
			return nil, badRequest("Failed to parse request. Required attribute '%s' not specified", name)
		}
	}
	verb := "update"
	if create {
		verb = "create"
	}
	for _, name := range slices.Sorted(maps.Keys(in)) {
		if k.attrs[name].admin && !r.Token.Admin() {
			return nil, denied(fmt.Sprintf("(rule:%s_%s and rule:%s_%s:%s)", verb, k.one, verb, k.one, name))
		}
	}
	for _, name := range []string{"tenant_id", "project_id"} {
		if v, ok := in[name].(string); ok && create && v != r.Token.ProjectID && !r.Token.Admin() {
			return nil, denied(fmt.Sprintf("(rule:create_%s and rule:create_%s:tenant_id)", k.one, k.one))
		}
	}
	return in, nil
}

func (a attribute) check(name string, v any) error {
	switch a.form {
	case "string":
		text, ok := v.(string)
		if v == nil {
			return badRequest("Invalid input for %s. Reason: 'None' is not a valid string.", name)
		}
		if !ok {
			return badRequest("Invalid input for %s. Reason: '%v' is not a valid string.", name, v)
		}
		if len(text) > 255 {
			return badRequest("Invalid input for %s. Reason: '%s' exceeds maximum length of 255.", name, text)
		}
	case "id":
		text, ok := v.(string)
		if v != nil && (!ok || !rest.IsID(text)) {
			return badRequest("Invalid input for %s. Reason: '%v' is not a valid UUID.", name, v)
		}
	case "bool":
		if _, ok := asBool(v); !ok {
			return invalidInput("'%v' cannot be converted to boolean.", v)
		}
	case "int":
		if _, ok := v.(float64); !ok && v != nil {
			if _, err := strconv.Atoi(fmt.Sprint(v)); err != nil {
				return badRequest("Invalid input for %s. Reason: '%v' is not an integer.", name, v)
			}
		}
	case "list":
		if _, ok := v.([]any); !ok && v != nil {
			return badRequest("Invalid input for %s. Reason: '%v' is not a list.", name, v)
		}
	}
	return nil
}

func asBool(v any) (value, ok bool) {
	switch v := v.(type) {
	case bool:
		return v, true
	case string:
		return rest.ParseBool(v)
	case float64:
		return v == 1, v == 0 || v == 1
	}
	return false, false
}

func setString(in rest.M, name string, to *string) {
	if v, ok := in[name].(string); ok {
		*to = v
	}
}

func setBool(in rest.M, name string, to *bool) {
	if v, ok := asBool(in[name]); ok {
		*to = v
	}
}

// newStandard fills what every new object has.
func newStandard(r *rest.Request, in rest.M) Standard {
	now := r.Now.Truncate(time.Second)
	st := Standard{ID: rest.NewID(), Project: r.Token.ProjectID, CreatedAt: now, UpdatedAt: now, Revision: 1}
	setString(in, "tenant_id", &st.Project)
	setString(in, "project_id", &st.Project)
	setString(in, "name", &st.Name)
	setString(in, "description", &st.Description)
	return st
}

func (s *Standard) change(r *rest.Request, in rest.M) {
	setString(in, "name", &s.Name)
	setString(in, "description", &s.Description)
	s.touch(r.Now)
}

func (s *Standard) common(v rest.M) rest.M {
	v["id"], v["tenant_id"], v["project_id"] = s.ID, s.Project, s.Project
	v["description"], v["tags"] = s.Description, append([]string{}, s.Tags...)
	v["created_at"], v["updated_at"], v["revision_number"] = rest.Seconds(s.CreatedAt), rest.Seconds(s.UpdatedAt), s.Revision
	return v
}

func pick(v rest.M, fields []string) rest.M {
	if len(fields) == 0 {
		return v
	}
	out := rest.M{}
	for _, f := range fields {
		if value, ok := v[f]; ok {
			out[f] = value
		}
	}
	return out
}

// Listing.

// notFilters are the words of a query that are not filters.
var notFilters = []string{"fields", "limit", "marker", "page_reverse", "sort_key", "sort_dir", "tags", "tags-any", "not-tags", "not-tags-any"}

func (s *Service) listOf(k *kind) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		q := r.Query
		if err := k.checkFilters(q); err != nil {
			return nil, err
		}
		if k.many == "security_groups" {
			s.defaultGroups(r)
		}
		views := []rest.M{}
		for _, o := range k.list(q) {
			if !owned(r.Token, o) && (k.visible == nil || !k.visible(r.Token, o)) || !tagged(q, o.std().Tags) {
				continue
			}
			if v := k.view(r, o); k.matches(q, v) {
				views = append(views, v)
			}
		}
		if err := k.sort(q, views); err != nil {
			return nil, err
		}
		return k.page(r, views)
	}
}

func (k *kind) checkFilters(q url.Values) error {
	var unknown []string
	for name := range q {
		base := strings.TrimSuffix(name, "__in")
		if a, ok := k.attrs[base]; slices.Contains(notFilters, name) || ok && !a.nofilter {
			continue
		}
		unknown = append(unknown, "'"+name+"'")
	}
	slices.Sort(unknown)
	if len(unknown) > 0 {
		return badRequest("[%s] is invalid attribute for filtering", strings.Join(unknown, ", "))
	}
	for name, values := range q {
		if k.attrs[name].form != "bool" {
			continue
		}
		for _, v := range values {
			if _, ok := rest.ParseBool(v); !ok {
				return invalidInput("'%s' cannot be converted to boolean.", v)
			}
		}
	}
	return nil
}

func (k *kind) matches(q url.Values, v rest.M) bool {
	for name, values := range q {
		if slices.Contains(notFilters, name) {
			continue
		}
		if name == "fixed_ips" {
			if !hasFixedIP(v["fixed_ips"], values) {
				return false
			}
			continue
		}
		have := v[name]
		if !slices.ContainsFunc(values, func(want string) bool { return equal(have, want) }) {
			return false
		}
	}
	return true
}

func equal(have any, want string) bool {
	switch have := have.(type) {
	case nil:
		return want == ""
	case string:
		return have == want
	case bool:
		b, _ := rest.ParseBool(want)
		return b == have
	case []string:
		return slices.Contains(have, want)
	}
	return fmt.Sprint(have) == want
}

// hasFixedIP applies filters like subnet_id=…, ip_address=… and ip_address_substr=…; those of one name are
// alternatives, different names must all hold.
func hasFixedIP(have any, wants []string) bool {
	ips, ok := have.([]FixedIP)
	if !ok {
		return false
	}
	byName := map[string][]string{}
	for _, want := range wants {
		name, value, _ := strings.Cut(want, "=")
		byName[name] = append(byName[name], value)
	}
	return slices.ContainsFunc(ips, func(ip FixedIP) bool {
		for name, values := range byName {
			if !slices.ContainsFunc(values, func(value string) bool {
				switch name {
				case "subnet_id", "subnet":
					return ip.Subnet == value
				case "ip_address":
					return ip.Address.String() == value
				case "ip_address_substr":
					return strings.Contains(ip.Address.String(), value)
				}
				return false
			}) {
				return false
			}
		}
		return true
	})
}

func tagged(q url.Values, have []string) bool {
	words := func(name string) []string {
		var out []string
		for _, v := range q[name] {
			out = append(out, strings.Split(v, ",")...)
		}
		return out
	}
	has := func(tag string) bool { return slices.Contains(have, tag) }
	lacks := func(tag string) bool { return !slices.Contains(have, tag) }
	if all := words("tags"); slices.ContainsFunc(all, lacks) {
		return false
	}
	if anyOf := words("tags-any"); len(anyOf) > 0 && !slices.ContainsFunc(anyOf, has) {
		return false
	}
	if notAll := words("not-tags"); len(notAll) > 0 && !slices.ContainsFunc(notAll, lacks) {
		return false
	}
	return !slices.ContainsFunc(words("not-tags-any"), has)
}

func (k *kind) sort(q url.Values, views []rest.M) error {
	keys, dirs := q["sort_key"], q["sort_dir"]
	for _, key := range keys {
		if _, ok := k.attrs[key]; !ok {
			return badRequest("['%s'] is invalid attribute for sort_keys", key)
		}
	}
	if len(dirs) > 0 && len(dirs) != len(keys) {
		return badRequest("The number of sort_keys and sort_dirs must be same")
	}
	slices.SortFunc(views, func(a, b rest.M) int {
		for i, key := range keys {
			c := compare(a[key], b[key])
			if len(dirs) > i && strings.EqualFold(dirs[i], "desc") {
				c = -c
			}
			if c != 0 {
				return c
			}
		}
		return cmp.Compare(a["id"].(string), b["id"].(string))
	})
	return nil
}

func compare(a, b any) int {
	x, okX := a.(int)
	y, okY := b.(int)
	if okX && okY {
		return cmp.Compare(x, y)
	}
	return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b))
}

func (k *kind) page(r *rest.Request, views []rest.M) (*rest.Response, error) {
	q := r.Query
	limit := 0
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return nil, rest.Errorf(http.StatusBadRequest, "BadRequest", "Bad limit request: Limit must be an integer 0 or greater and not '%s'.", text)
		}
		limit = n
	}
	reverse, _ := rest.ParseBool(q.Get("page_reverse"))
	from, to := 0, len(views)
	if marker := q.Get("marker"); marker != "" {
		at := slices.IndexFunc(views, func(v rest.M) bool { return v["id"] == marker })
		if at < 0 {
			return nil, k.notFound(marker)
		}
		if reverse {
			to = at
		}
		if !reverse {
			from = at + 1
		}
	}
	if limit > 0 && reverse {
		from = max(from, to-limit)
	}
	if limit > 0 && !reverse {
		to = min(to, from+limit)
	}
	body := rest.M{}
	if limit > 0 {
		if links := k.links(r, views, from, to, limit, reverse); len(links) > 0 {
			body[k.many+"_links"] = links
		}
	}
	out := []rest.M{}
	for _, v := range views[from:to] {
		out = append(out, pick(v, q["fields"]))
	}
	body[k.many] = out
	return rest.OK(body)
}

// links are given as Neutron does: a next link when the page is full, a previous link when there was a marker
// (for a reversed page the other way round).
func (k *kind) links(r *rest.Request, views []rest.M, from, to, limit int, reverse bool) []rest.M {
	if to <= from {
		return nil
	}
	href := func(marker any, back bool) string {
		q := r.HTTP.URL.Query()
		q.Set("limit", strconv.Itoa(limit))
		q.Set("marker", fmt.Sprint(marker))
		q.Del("page_reverse")
		if back {
			q.Set("page_reverse", "True")
		}
		return r.Base + r.HTTP.URL.Path + "?" + q.Encode()
	}
	var links []rest.M
	full := to-from >= limit
	if !reverse && full || reverse && r.Query.Get("marker") != "" {
		links = append(links, rest.Link("next", href(views[to-1]["id"], false)))
	}
	if reverse && full || !reverse && r.Query.Get("marker") != "" {
		links = append(links, rest.Link("previous", href(views[from]["id"], true)))
	}
	return links
}

// Tags.

func (s *Service) tagRoutes(k *kind, base string) []rest.Route {
	change := func(do func(r *rest.Request, tags []string) ([]string, *rest.Response, error)) rest.Handler {
		return func(r *rest.Request) (*rest.Response, error) {
			o, err := s.find(k, r)
			if err != nil {
				return nil, rest.Errorf(http.StatusNotFound, "TagResourceNotFound", "Resource %s %s could not be found.", k.many, r.Params["id"])
			}
			tags, resp, err := do(r, o.std().Tags)
			if err != nil || r.HTTP.Method == http.MethodGet {
				return resp, err
			}
			if !owned(r.Token, o) {
				return nil, denied("rule:update_" + k.one)
			}
			next := k.get(o.std().ID)
			next.std().Tags = slices.Sorted(slices.Values(tags))
			next.std().touch(r.Now)
			k.put(next)
			return resp, nil
		}
	}
	gone := func(tag string) error {
		return rest.Errorf(http.StatusNotFound, "TagNotFound", "Tag %s could not be found.", tag)
	}
	one := base + "/{id}/tags/{tag}"
	return []rest.Route{
		{Method: "GET", Pattern: base + "/{id}/tags", Operation: "tag.list", Handler: change(func(_ *rest.Request, tags []string) ([]string, *rest.Response, error) {
			return nil, &rest.Response{Status: 200, Body: rest.M{"tags": append([]string{}, tags...)}}, nil
		})},
		{Method: "PUT", Pattern: base + "/{id}/tags", Operation: "tag.update", Handler: change(replaceTags)},
		{Method: "DELETE", Pattern: base + "/{id}/tags", Operation: "tag.delete", Handler: change(func(*rest.Request, []string) ([]string, *rest.Response, error) {
			return nil, &rest.Response{Status: 204}, nil
		})},
		{Method: "GET", Pattern: one, Operation: "tag.get", Handler: change(func(r *rest.Request, tags []string) ([]string, *rest.Response, error) {
			if !slices.Contains(tags, r.Params["tag"]) {
				return nil, nil, gone(r.Params["tag"])
			}
			return nil, &rest.Response{Status: 204}, nil
		})},
		{Method: "PUT", Pattern: one, Operation: "tag.create", Handler: change(func(r *rest.Request, tags []string) ([]string, *rest.Response, error) {
			tag := r.Params["tag"]
			if err := checkTag(tag); err != nil {
				return nil, nil, err
			}
			if !slices.Contains(tags, tag) {
				tags = append(slices.Clone(tags), tag)
			}
			return tags, &rest.Response{Status: 201, Raw: []byte("null"), ContentType: "application/json"}, nil
		})},
		{Method: "DELETE", Pattern: one, Operation: "tag.delete", Handler: change(func(r *rest.Request, tags []string) ([]string, *rest.Response, error) {
			at := slices.Index(tags, r.Params["tag"])
			if at < 0 {
				return nil, nil, gone(r.Params["tag"])
			}
			return slices.Delete(slices.Clone(tags), at, at+1), &rest.Response{Status: 204}, nil
		})},
	}
}

func checkTag(tag string) error {
	if len(tag) > 255 {
		return invalidInput("'%s' exceeds maximum length of 255.", tag)
	}
	return nil
}

func replaceTags(r *rest.Request, _ []string) ([]string, *rest.Response, error) {
	body := struct{ Tags []string }{}
	if err := r.JSON(&body); err != nil {
		return nil, nil, invalidInput("Invalid tags body")
	}
	if body.Tags == nil {
		return nil, nil, invalidInput("Invalid tags body")
	}
	for _, tag := range body.Tags {
		if err := checkTag(tag); err != nil {
			return nil, nil, err
		}
	}
	slices.Sort(body.Tags)
	if len(slices.Compact(slices.Clone(body.Tags))) != len(body.Tags) {
		return nil, nil, invalidInput("Invalid input for tags. Reason: Duplicate items in the list.")
	}
	return body.Tags, &rest.Response{Status: 200, Body: rest.M{"tags": body.Tags}}, nil
}
