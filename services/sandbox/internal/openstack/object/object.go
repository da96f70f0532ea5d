// Package object simulates Swift: containers with their ACLs, quotas, versions and keys for temporary addresses, objects, and
// the same containers as buckets of the S3 protocol.
//
// Swift's paths begin with /v1/AUTH_<project>; all others are S3's, where the bucket is the first part of the path. What a
// container is asked to be stands in headers, which are answered as they were given: X-Container-Read and -Write are its ACLs,
// X-Container-Meta-… its metadata, of which Quota-Bytes, Quota-Count and Temp-URL-Key mean something to the service.
// With X-Versions-Enabled an object that is overwritten or deleted leaves a version, and the container cannot go before them.
package object

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/control"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
	"github.com/weftcloud/weft/services/sandbox/internal/world"
)

// Container is one container. Headers are those that are kept and answered, by their canonical names.
type Container struct {
	Name, Project string
	Headers       map[string]string
	Versioned     bool
	CreatedAt     time.Time
}

// Object is one version of an object. Deleted is one that stands for a deletion.
type Object struct {
	Project, Container, Name, Version string
	ContentType, ETag                 string
	Data                              []byte
	Latest, Deleted                   bool
	CreatedAt                         time.Time
}

// EC2 finds S3 credentials by their access key.
type EC2 func(access string, now time.Time) (secret string, token *rest.Token)

// Service is the simulated Swift.
type Service struct {
	rest.Service
	containers *world.Table[Container]
	objects    *world.Table[Object]
	auth       func(string, time.Time) *rest.Token
	ec2        EC2
	versions   int64
}

// byContainer is the index of objects.
const byContainer = 0

// New makes the service and loads its state.
func New(w *rest.World, prefix string, auth func(string, time.Time) *rest.Token, ec2 EC2) (*Service, error) {
	s := &Service{
		containers: world.NewTable[Container](w.Journal, "object.containers"),
		objects:    world.NewTable(w.Journal, "object.objects", func(o *Object) []string { return []string{at(o.Project, o.Container)} }),
		auth:       auth, ec2: ec2,
	}
	s.Service = rest.Service{
		Name: "object", Prefix: prefix, World: w, Routes: s.routes(), WriteError: writeError, Authenticate: auth, Clean: clean,
	}
	s.Prepare()
	for _, load := range []func() error{s.containers.Load, s.objects.Load} {
		if err := load(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Reset forgets everything.
func (s *Service) Reset() {
	s.containers.Clear()
	s.objects.Clear()
}

func at(project, container string) string { return project + "/" + container }

// clean makes the name of an object, which may have slashes, one part of the path.
func clean(path string) string {
	fixed := 2 // bucket, object
	if strings.HasPrefix(path, "/v1/") {
		fixed = 4 // v1, account, container, object
	}
	parts := strings.SplitN(strings.TrimPrefix(path, "/"), "/", fixed)
	if len(parts) == fixed {
		parts[fixed-1] = strings.ReplaceAll(strings.TrimSuffix(parts[fixed-1], "/"), "/", "%2F")
	}
	return "/" + strings.Join(parts, "/")
}

// writeError answers a small page, as Swift does.
func writeError(w http.ResponseWriter, _ *http.Request, status int, kind, message string) {
	if status == http.StatusUnauthorized {
		w.Header().Set("Www-Authenticate", "Keystone uri=\"/identity\"")
	}
	w.Header().Set("Content-Type", "text/html; charset=UTF-8")
	if kind != "" { // S3
		w.Header().Set("Content-Type", "application/xml")
		message = "<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>" + kind + "</Code><Message>" + message + "</Message></Error>"
	}
	w.WriteHeader(status)
	if _, err := w.Write([]byte(message)); err != nil {
		return // the client is gone; nobody else is there to tell
	}
}

func refuse(status int) error {
	text := map[int]string{
		http.StatusNotFound:     "The resource could not be found.",
		http.StatusUnauthorized: "This server could not verify that you are authorized to access the document you requested.",
		http.StatusForbidden:    "Access was denied to this resource.",
	}[status]
	return rest.Errorf(status, "", "<html><h1>%s</h1><p>%s</p></html>", http.StatusText(status), text)
}

func (s *Service) routes() []rest.Route {
	var routes []rest.Route
	add := func(methods, pattern, operation string, h rest.Handler) {
		for _, m := range strings.Fields(methods) {
			routes = append(routes, rest.Route{Method: m, Pattern: pattern, Operation: operation, Handler: h, Public: true})
		}
	}
	add("GET", "/info", "info.get", func(*rest.Request) (*rest.Response, error) {
		return rest.OK(rest.M{
			"swift": rest.M{"version": "2.30.1", "policies": []rest.M{{"name": "default", "aliases": "default", "default": true}}},
			"s3api": rest.M{"s3_acl": false}, "tempurl": rest.M{"allowed_digests": []string{"sha1", "sha256", "sha512"}},
			"object_versioning": rest.M{}, "container_quotas": rest.M{},
		})
	})
	add("GET HEAD", "/v1/{account}", "account.get", s.mine(s.account))
	add("GET HEAD", "/v1/{account}/{container}", "container.get", s.readable(s.getContainer))
	add("PUT", "/v1/{account}/{container}", "container.create", s.mine(s.putContainer))
	add("POST", "/v1/{account}/{container}", "container.update", s.mine(s.postContainer))
	add("DELETE", "/v1/{account}/{container}", "container.delete", s.mine(s.deleteContainer))
	add("GET HEAD", "/v1/{account}/{container}/{object}", "object.get", s.readable(s.getObject))
	add("PUT", "/v1/{account}/{container}/{object}", "object.create", s.writable(s.putObject))
	add("DELETE", "/v1/{account}/{container}/{object}", "object.delete", s.writable(s.deleteObject))
	add("GET HEAD", "/{container}", "container.get", s.s3(s.s3List))
	add("GET HEAD", "/{container}/{object}", "object.get", s.s3(s.getObject))
	add("PUT", "/{container}/{object}", "object.create", s.s3(s.putObject))
	add("DELETE", "/{container}/{object}", "object.delete", s.s3(s.deleteObject))
	return routes
}

// identify reads the token of a request; nil without a good one.
func (s *Service) identify(r *rest.Request) {
	if id := r.HTTP.Header.Get("X-Auth-Token"); id != "" && r.Token == nil {
		if r.Token = s.auth(id, r.Now); r.Token != nil {
			control.Identify(r.HTTP.Context(), r.Token.ProjectName, r.Token.UserName)
		}
	}
}

func project(r *rest.Request) string { return strings.TrimPrefix(r.Params["account"], "AUTH_") }

// mine serves the account's own project only.
func (s *Service) mine(h rest.Handler) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		s.identify(r)
		if r.Token == nil {
			return nil, refuse(http.StatusUnauthorized)
		}
		if r.Token.ProjectID != project(r) {
			return nil, refuse(http.StatusForbidden)
		}
		return h(r)
	}
}

// readable serves the own project, whom the container's ACL lets read, and who holds a signed address.
func (s *Service) readable(h rest.Handler) rest.Handler { return s.open(h, "X-Container-Read") }

// writable is readable for changes.
func (s *Service) writable(h rest.Handler) rest.Handler { return s.open(h, "X-Container-Write") }

func (s *Service) open(h rest.Handler, acl string) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		s.identify(r)
		if r.Token != nil && r.Token.ProjectID == project(r) {
			return h(r)
		}
		c := s.containers.Get(at(project(r), r.Params["container"]))
		if c == nil || !s.signed(r, c) && !allows(c.Headers[acl], r) {
			if r.Token != nil {
				return nil, refuse(http.StatusForbidden)
			}
			return nil, refuse(http.StatusUnauthorized)
		}
		return h(r)
	}
}

// allows tells whether an ACL lets a request pass.
func allows(acl string, r *rest.Request) bool {
	for _, who := range strings.Split(acl, ",") {
		who = strings.TrimSpace(who)
		if who == ".r:*" && r.Params["object"] != "" || who == ".rlistings" && r.Params["object"] == "" {
			return true
		}
		if r.Token == nil {
			continue
		}
		p, u, ok := strings.Cut(who, ":")
		if ok && (p == "*" || p == r.Token.ProjectID) && (u == "*" || u == r.Token.UserID) {
			return true
		}
	}
	return false
}

func (s *Service) account(r *rest.Request) (*rest.Response, error) {
	type entry struct {
		Name     string `json:"name"`
		Count    int    `json:"count"`
		Bytes    int    `json:"bytes"`
		Modified string `json:"last_modified"`
	}
	out, objects, bytes := []entry{}, 0, 0
	var names []*Container
	for _, c := range s.containers.All() {
		if c.Project == r.Token.ProjectID {
			names = append(names, c)
		}
	}
	sortBy(names, func(c *Container) string { return c.Name })
	for _, c := range names {
		count, size := s.used(c)
		objects, bytes = objects+count, bytes+size
		if strings.HasPrefix(c.Name, r.Query.Get("prefix")) && c.Name > r.Query.Get("marker") {
			out = append(out, entry{c.Name, count, size, rest.Micros(c.CreatedAt)})
		}
	}
	header := map[string]string{"X-Account-Container-Count": strconv.Itoa(len(names)), "X-Account-Object-Count": strconv.Itoa(objects), "X-Account-Bytes-Used": strconv.Itoa(bytes)}
	if limit, err := strconv.Atoi(r.Query.Get("limit")); err == nil && limit < len(out) {
		out = out[:limit]
	}
	return page(r, header, out, func(e entry) string { return e.Name })
}

// page answers a list as JSON or as lines of names.
func page[T any](r *rest.Request, header map[string]string, items []T, name func(T) string) (*rest.Response, error) {
	if r.HTTP.Method == http.MethodHead {
		return &rest.Response{Status: http.StatusNoContent, Header: header}, nil
	}
	if r.Query.Get("format") == "json" {
		return &rest.Response{Status: http.StatusOK, Header: header, Body: items}, nil
	}
	text := ""
	for _, i := range items {
		text += name(i) + "\n"
	}
	if text == "" {
		return &rest.Response{Status: http.StatusNoContent, Header: header}, nil
	}
	return &rest.Response{Status: http.StatusOK, Header: header, Raw: []byte(text), ContentType: "text/plain; charset=utf-8"}, nil
}

// used gives what a container holds now.
func (s *Service) used(c *Container) (objects, bytes int) {
	for _, o := range s.objects.By(byContainer, at(c.Project, c.Name)) {
		if o.Latest && !o.Deleted {
			objects++
		}
		bytes += len(o.Data) // versions take room, too
	}
	return objects, bytes
}

func (s *Service) headers(c *Container) map[string]string {
	objects, bytes := s.used(c)
	out := map[string]string{
		"X-Container-Object-Count": strconv.Itoa(objects), "X-Container-Bytes-Used": strconv.Itoa(bytes), "X-Storage-Policy": "default",
		"X-Timestamp": fmt.Sprintf("%d.%05d", c.CreatedAt.Unix(), c.CreatedAt.Nanosecond()/10000),
	}
	for k, v := range c.Headers {
		out[k] = v
	}
	if _, asked := c.Headers["X-Versions-Enabled"]; asked {
		out["X-Versions-Enabled"] = map[bool]string{true: "True", false: "False"}[c.Versioned]
	}
	return out
}

// apply takes what the headers of a request ask of a container.
func (c *Container) apply(h http.Header) error {
	next := map[string]string{}
	for k, v := range c.Headers {
		next[k] = v
	}
	for k := range h {
		name, remove := k, false
		if rest, ok := strings.CutPrefix(k, "X-Remove-"); ok {
			name, remove = textproto.CanonicalMIMEHeaderKey("X-"+rest), true
		}
		switch {
		case name == "X-Versions-Enabled":
			on, ok := rest.ParseBool(h.Get(k))
			if !ok {
				return rest.Errorf(http.StatusBadRequest, "", "X-Versions-Enabled must be a boolean")
			}
			c.Versioned, next[name] = on, h.Get(k)
		case name != "X-Container-Read" && name != "X-Container-Write" && !strings.HasPrefix(name, "X-Container-Meta-"):
		case remove || h.Get(k) == "":
			delete(next, name)
		default:
			next[name] = h.Get(k)
		}
		if strings.HasPrefix(name, "X-Container-Meta-Quota-") && !remove && h.Get(k) != "" {
			if n, err := strconv.Atoi(h.Get(k)); err != nil || n < 0 {
				return rest.Errorf(http.StatusBadRequest, "", "Invalid bytes quota.")
			}
		}
	}
	c.Headers = next
	return nil
}

func (s *Service) putContainer(r *rest.Request) (*rest.Response, error) {
	id := at(project(r), r.Params["container"])
	c, status := s.containers.Get(id), http.StatusAccepted
	if c == nil {
		c, status = &Container{Name: r.Params["container"], Project: project(r), CreatedAt: r.Now}, http.StatusCreated
	}
	next := *c
	if err := next.apply(r.HTTP.Header); err != nil {
		return nil, err
	}
	s.containers.Put(id, &next)
	return rest.Status(status, nil)
}

func (s *Service) container(r *rest.Request) (*Container, error) {
	c := s.containers.Get(at(project(r), r.Params["container"]))
	if c == nil {
		return nil, refuse(http.StatusNotFound)
	}
	return c, nil
}

func (s *Service) postContainer(r *rest.Request) (*rest.Response, error) {
	c, err := s.container(r)
	if err != nil {
		return nil, err
	}
	next := *c
	if err := next.apply(r.HTTP.Header); err != nil {
		return nil, err
	}
	s.containers.Put(at(c.Project, c.Name), &next)
	return rest.Status(http.StatusNoContent, nil)
}

func (s *Service) deleteContainer(r *rest.Request) (*rest.Response, error) {
	c, err := s.container(r)
	if err != nil {
		return nil, err
	}
	versions := false
	for _, o := range s.objects.By(byContainer, at(c.Project, c.Name)) {
		if o.Latest && !o.Deleted && !c.Versioned {
			return nil, rest.Errorf(http.StatusConflict, "", "<html><h1>Conflict</h1><p>There was a conflict when trying to complete your request.</p></html>")
		}
		versions = true
	}
	if versions {
		return nil, rest.Errorf(http.StatusConflict, "", "Delete all versions before deleting container.")
	}
	s.containers.Delete(at(c.Project, c.Name))
	return rest.Status(http.StatusNoContent, nil)
}

func (s *Service) getContainer(r *rest.Request) (*rest.Response, error) {
	c, err := s.container(r)
	if err != nil {
		return nil, err
	}
	items := []rest.M{}
	_, versions := r.Query["versions"]
	all := s.objects.By(byContainer, at(c.Project, c.Name))
	sortBy(all, func(o *Object) string { return o.Name + "\x00" + o.Version })
	for _, o := range all {
		if !strings.HasPrefix(o.Name, r.Query.Get("prefix")) || o.Name <= r.Query.Get("marker") || !versions && (!o.Latest || o.Deleted) {
			continue
		}
		view := rest.M{"name": o.Name, "bytes": len(o.Data), "hash": o.ETag, "content_type": o.ContentType, "last_modified": rest.Micros(o.CreatedAt)}
		if versions {
			view["is_latest"], view["version_id"] = o.Latest, o.Version
		}
		items = append(items, view)
	}
	if limit, err := strconv.Atoi(r.Query.Get("limit")); err == nil && limit < len(items) {
		items = items[:limit]
	}
	header := s.headers(c)
	if r.Token == nil || r.Token.ProjectID != c.Project {
		delete(header, "X-Container-Meta-Temp-Url-Key")
	}
	return page(r, header, items, func(m rest.M) string { return fmt.Sprint(m["name"]) })
}

// Objects.

// latest finds an object as it stands.
func (s *Service) latest(r *rest.Request) *Object {
	for _, o := range s.objects.By(byContainer, at(project(r), r.Params["container"])) {
		if o.Name == r.Params["object"] && o.Latest && !o.Deleted {
			return o
		}
	}
	return nil
}

func (s *Service) getObject(r *rest.Request) (*rest.Response, error) {
	o := s.latest(r)
	if o == nil {
		return nil, refuse(http.StatusNotFound)
	}
	header := map[string]string{"Etag": o.ETag, "Last-Modified": o.CreatedAt.Format(http.TimeFormat), "Accept-Ranges": "bytes", "Content-Length": strconv.Itoa(len(o.Data))}
	return &rest.Response{Status: http.StatusOK, Header: header, Raw: o.Data, ContentType: o.ContentType}, nil
}

func quota(c *Container, name string) int {
	n, err := strconv.Atoi(c.Headers["X-Container-Meta-Quota-"+name])
	if err != nil {
		return -1
	}
	return n
}

func (s *Service) putObject(r *rest.Request) (*rest.Response, error) {
	c, err := s.container(r)
	if err != nil {
		return nil, err
	}
	objects, bytes := s.used(c)
	former := s.latest(r)
	if former == nil {
		objects++
	}
	if q := quota(c, "Bytes"); q >= 0 && bytes+len(r.Body) > q {
		return nil, rest.Errorf(http.StatusRequestEntityTooLarge, "", "Upload exceeds quota.")
	}
	if q := quota(c, "Count"); q >= 0 && objects > q {
		return nil, rest.Errorf(http.StatusRequestEntityTooLarge, "", "Upload exceeds quota.")
	}
	sum := md5.Sum(r.Body)
	o := &Object{
		Project: c.Project, Container: c.Name, Name: r.Params["object"], ContentType: r.HTTP.Header.Get("Content-Type"), ETag: hex.EncodeToString(sum[:]),
		Data: append([]byte{}, r.Body...), CreatedAt: r.Now,
	}
	if o.ContentType == "" {
		o.ContentType = "application/octet-stream"
	}
	s.put(c, o)
	header := map[string]string{"Etag": o.ETag, "Last-Modified": r.Now.Format(http.TimeFormat)}
	if c.Versioned {
		header["X-Object-Version-Id"] = o.Version
	}
	return &rest.Response{Status: http.StatusCreated, Header: header}, nil
}

// put makes an object the latest of its name. Without versions it takes the place of the one before.
func (s *Service) put(c *Container, o *Object) {
	for id, former := range s.objects.All() {
		if former.Project != o.Project || former.Container != o.Container || former.Name != o.Name || !former.Latest {
			continue
		}
		if !c.Versioned {
			s.objects.Delete(id)
			continue
		}
		next := *former
		next.Latest = false
		s.objects.Put(id, &next)
	}
	s.versions++
	o.Latest, o.Version = true, fmt.Sprintf("%d.%05d", o.CreatedAt.Unix(), s.versions)
	s.objects.Put(rest.NewID(), o)
}

func (s *Service) deleteObject(r *rest.Request) (*rest.Response, error) {
	c, err := s.container(r)
	if err != nil {
		return nil, err
	}
	if version := r.Query.Get("version-id"); version != "" {
		for id, o := range s.objects.All() {
			if o.Project == c.Project && o.Container == c.Name && o.Name == r.Params["object"] && o.Version == version {
				s.objects.Delete(id)
				return rest.Status(http.StatusNoContent, nil)
			}
		}
		return nil, refuse(http.StatusNotFound)
	}
	if s.latest(r) == nil {
		return nil, refuse(http.StatusNotFound)
	}
	if c.Versioned {
		s.put(c, &Object{Project: c.Project, Container: c.Name, Name: r.Params["object"], Deleted: true, ContentType: "application/x-deleted;swift_versions_deleted=1", CreatedAt: r.Now})
		return rest.Status(http.StatusNoContent, nil)
	}
	for id, o := range s.objects.All() {
		if o.Project == c.Project && o.Container == c.Name && o.Name == r.Params["object"] {
			s.objects.Delete(id)
		}
	}
	return rest.Status(http.StatusNoContent, nil)
}

// Inventory lists the containers.
func (s *Service) Inventory() []control.InventoryItem {
	var out []control.InventoryItem
	for _, c := range s.containers.All() {
		meta := map[string]string{}
		for k, v := range c.Headers {
			if name, ok := strings.CutPrefix(k, "X-Container-Meta-"); ok && name != "Temp-Url-Key" {
				if text, err := url.PathUnescape(v); err == nil { // else it was never escaped
					v = text
				}
				meta[strings.ToLower(name)] = v
			}
		}
		objects, _ := s.used(c)
		out = append(out, control.InventoryItem{
			Service: "object", Kind: "container", ID: c.Name, Name: c.Name, Project: c.Project, State: "active", Metadata: meta, CreatedAt: c.CreatedAt,
			Settings: map[string]string{"objects": strconv.Itoa(objects)},
		})
	}
	return out
}
