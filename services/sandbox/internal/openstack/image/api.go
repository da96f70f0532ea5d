package image

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

func (s *Service) routes() []rest.Route {
	return []rest.Route{
		{Method: "GET", Pattern: "/", Operation: "version.list", Handler: versions(http.StatusMultipleChoices), Public: true},
		{Method: "GET", Pattern: "/versions", Operation: "version.list", Handler: versions(http.StatusOK), Public: true},
		{Method: "GET", Pattern: "/v2/images", Operation: "image.list", Handler: s.list},
		{Method: "POST", Pattern: "/v2/images", Operation: "image.create", Handler: s.create},
		{Method: "GET", Pattern: "/v2/images/{id}", Operation: "image.get", Handler: s.get},
		{Method: "PATCH", Pattern: "/v2/images/{id}", Operation: "image.update", Handler: s.patch},
		{Method: "DELETE", Pattern: "/v2/images/{id}", Operation: "image.delete", Handler: s.delete},
		{Method: "PUT", Pattern: "/v2/images/{id}/file", Operation: "image.upload", Handler: s.upload, Stream: true},
		{Method: "PUT", Pattern: "/v2/images/{id}/stage", Operation: "image.stage", Handler: s.upload, Stream: true},
		{Method: "POST", Pattern: "/v2/images/{id}/import", Operation: "image.import", Handler: s.importStaged},
		{Method: "GET", Pattern: "/v2/images/{id}/file", Operation: "image.download", Handler: s.download, Stream: true},
		{Method: "PUT", Pattern: "/v2/images/{id}/tags/{tag}", Operation: "image_tag.create", Handler: s.addTag},
		{Method: "DELETE", Pattern: "/v2/images/{id}/tags/{tag}", Operation: "image_tag.delete", Handler: s.removeTag},
		{Method: "GET", Pattern: "/v2/images/{id}/members", Operation: "image_member.list", Handler: s.listMembers},
		{Method: "POST", Pattern: "/v2/images/{id}/members", Operation: "image_member.create", Handler: s.addMember},
		{Method: "GET", Pattern: "/v2/images/{id}/members/{member}", Operation: "image_member.get", Handler: s.getMember},
		{Method: "PUT", Pattern: "/v2/images/{id}/members/{member}", Operation: "image_member.update", Handler: s.updateMember},
		{Method: "DELETE", Pattern: "/v2/images/{id}/members/{member}", Operation: "image_member.delete", Handler: s.removeMember},
		{Method: "POST", Pattern: "/v2/images/{id}/actions/deactivate", Operation: "image.deactivate", Handler: s.switchTo("deactivated")},
		{Method: "POST", Pattern: "/v2/images/{id}/actions/reactivate", Operation: "image.reactivate", Handler: s.switchTo("active")},
		{Method: "GET", Pattern: "/v2/schemas/{name}", Operation: "schema.get", Handler: schema},
		{Method: "GET", Pattern: "/v2/info/stores", Operation: "store.list", Handler: func(*rest.Request) (*rest.Response, error) {
			return rest.OK(rest.M{"stores": []rest.M{{"id": "file", "default": "true"}}})
		}},
		{Method: "GET", Pattern: "/v2/info/import", Operation: "import.get", Handler: func(*rest.Request) (*rest.Response, error) {
			return rest.OK(rest.M{"import-methods": rest.M{"description": "Import methods available.", "type": "array", "value": []string{"glance-direct"}}})
		}},
	}
}

func versions(status int) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		out := []rest.M{}
		for _, v := range []int{15, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0} {
			state := "SUPPORTED"
			if v == 15 {
				state = "CURRENT"
			}
			out = append(out, rest.M{"id": fmt.Sprintf("v2.%d", v), "status": state, "links": []rest.M{rest.Link("self", r.Base+"/image/v2/")}})
		}
		return rest.Status(status, rest.M{"versions": out})
	}
}

// base is the attributes that are not free properties; true: a client may set it.
var base = map[string]bool{
	"id": true, "name": true, "disk_format": true, "container_format": true, "visibility": true, "protected": true, "min_ram": true,
	"min_disk": true, "os_hidden": true, "tags": true, "owner": false, "size": false, "virtual_size": false, "status": false, "checksum": false,
	"os_hash_algo": false, "os_hash_value": false, "created_at": false, "updated_at": false, "self": false, "file": false, "schema": false,
	"stores": false, "direct_url": false, "locations": false,
}

func schema(r *rest.Request) (*rest.Response, error) {
	props := rest.M{}
	for name, writable := range base {
		props[name] = rest.M{"type": []string{"null", "string"}, "readOnly": !writable}
	}
	props["tags"] = rest.M{"type": "array", "items": rest.M{"type": "string", "maxLength": 255}}
	props["min_ram"], props["min_disk"] = rest.M{"type": "integer"}, rest.M{"type": "integer"}
	props["protected"], props["os_hidden"] = rest.M{"type": "boolean"}, rest.M{"type": "boolean"}
	one := rest.M{
		"name": "image", "properties": props, "additionalProperties": rest.M{"type": "string"},
		"links": []rest.M{{"rel": "self", "href": "{self}"}, {"rel": "enclosure", "href": "{file}"}, {"rel": "describedby", "href": "{schema}"}},
	}
	switch r.Params["name"] {
	case "image":
		return rest.OK(one)
	case "images":
		return rest.OK(rest.M{"name": "images", "properties": rest.M{
			"images": rest.M{"type": "array", "items": one}, "first": rest.M{"type": "string"}, "next": rest.M{"type": "string"}, "schema": rest.M{"type": "string"},
		}})
	case "member", "members":
		return rest.OK(rest.M{"name": r.Params["name"], "properties": rest.M{"member_id": rest.M{"type": "string"}, "status": rest.M{"type": "string"}}})
	}
	return nil, rest.Errorf(http.StatusNotFound, "", "The resource could not be found.")
}

func missing(id string) error {
	return rest.Errorf(http.StatusNotFound, "", "No image found with ID %s", id)
}

func project(r *rest.Request) string {
	if r.Token.Admin() {
		return ""
	}
	return r.Token.ProjectID
}

func (s *Service) one(r *rest.Request) (*Image, error) {
	img := s.Find(r.Params["id"], project(r))
	if img == nil {
		return nil, missing(r.Params["id"])
	}
	return img, nil
}

// mine is one, if the caller may change it.
func (s *Service) mine(r *rest.Request) (*Image, error) {
	img, err := s.one(r)
	if err != nil {
		return nil, err
	}
	if img.Owner != r.Token.ProjectID && !r.Token.Admin() {
		return nil, rest.Errorf(http.StatusForbidden, "", "You do not own this image")
	}
	next := *img
	next.UpdatedAt = r.Now
	return &next, nil
}

func (s *Service) get(r *rest.Request) (*rest.Response, error) {
	img, err := s.one(r)
	if err != nil {
		return nil, err
	}
	return rest.OK(img.view())
}

// listed says whether an image is in the caller's list: community images and images of others only when asked for.
func listed(r *rest.Request, img *Image) bool {
	if r.Query.Get("visibility") == "community" {
		return img.Visibility == "community"
	}
	if img.Visibility == "community" && img.Owner != r.Token.ProjectID {
		return false
	}
	return img.visible(project(r))
}

var sortKeys = []string{"name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at"}

func (s *Service) list(r *rest.Request) (*rest.Response, error) {
	limit := 25
	if text := r.Query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, rest.Errorf(http.StatusBadRequest, "", "limit param must be an integer")
		}
		if n < 0 {
			return nil, rest.Errorf(http.StatusBadRequest, "", "limit param must be positive")
		}
		limit = min(n, 1000)
	}
	if v := r.Query.Get("visibility"); v != "" && !slices.Contains([]string{"public", "private", "shared", "community", "all"}, v) {
		return nil, rest.Errorf(http.StatusBadRequest, "", "Invalid visibility value: %s", v)
	}
	views := []rest.M{}
	for _, img := range s.images.Newest() {
		if listed(r, img) && matches(r, img) {
			views = append(views, img.view())
		}
	}
	if err := sortViews(r, views); err != nil {
		return nil, err
	}
	if marker := r.Query.Get("marker"); marker != "" {
		at := slices.IndexFunc(views, func(v rest.M) bool { return v["id"] == marker })
		if at < 0 {
			return nil, rest.Errorf(http.StatusBadRequest, "", "No image found with ID %s", marker)
		}
		views = views[at+1:]
	}
	q := r.HTTP.URL.Query()
	q.Del("marker")
	first := "/v2/images"
	if len(q) > 0 {
		first += "?" + q.Encode()
	}
	body := rest.M{"first": first, "schema": "/v2/schemas/images"}
	if limit > 0 && len(views) >= limit {
		views = views[:limit]
		q.Set("marker", views[limit-1]["id"].(string))
		body["next"] = "/v2/images?" + q.Encode()
	}
	if limit == 0 {
		views = []rest.M{}
	}
	body["images"] = views
	return rest.OK(body)
}

func sortViews(r *rest.Request, views []rest.M) error {
	type order struct {
		key  string
		desc bool
	}
	var orders []order
	for _, part := range strings.Split(r.Query.Get("sort"), ",") {
		key, dir, _ := strings.Cut(part, ":")
		if key != "" {
			orders = append(orders, order{key, dir == "desc" || dir == ""})
		}
	}
	for i, key := range r.Query["sort_key"] {
		dirs := r.Query["sort_dir"]
		orders = append(orders, order{key, len(dirs) <= i || dirs[i] == "desc"})
	}
	for _, o := range orders {
		if !slices.Contains(sortKeys, o.key) {
			return rest.Errorf(http.StatusBadRequest, "", "Invalid sort key: %s. It must be one of the following: %s.", o.key, strings.Join(sortKeys, ", "))
		}
	}
	if len(orders) == 0 {
		return nil
	}
	slices.SortStableFunc(views, func(a, b rest.M) int {
		for _, o := range orders {
			c := compare(a[o.key], b[o.key])
			if o.desc {
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

func compare(a, b any) int {
	x, okX := a.(int64)
	y, okY := b.(int64)
	if okX && okY {
		return int(min(max(x-y, -1), 1))
	}
	return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
}

// matches applies the filters of the query; unknown names are free properties.
func matches(r *rest.Request, img *Image) bool {
	var view rest.M
	for name, values := range r.Query {
		switch name {
		case "limit", "marker", "sort", "sort_key", "sort_dir", "member_status":
			continue
		case "tag":
			for _, tag := range values {
				if !slices.Contains(img.Tags, tag) {
					return false
				}
			}
			continue
		case "visibility":
			if values[0] != "all" && values[0] != img.Visibility {
				return false
			}
			continue
		case "size_min", "size_max":
			n, err := strconv.ParseInt(values[0], 10, 64)
			if err != nil || name == "size_min" && img.Size < n || name == "size_max" && img.Size > n {
				return false
			}
			continue
		}
		if view == nil {
			view = img.view()
		}
		have, ok := view[name]
		text := fmt.Sprint(have)
		if have == nil {
			text = ""
		}
		if list, isIn := strings.CutPrefix(values[0], "in:"); isIn {
			if !ok || !slices.ContainsFunc(strings.Split(list, ","), func(v string) bool { return strings.Trim(v, `"`) == text }) {
				return false
			}
			continue
		}
		if !ok || !strings.EqualFold(text, values[0]) && (name == "protected" || name == "os_hidden") || text != values[0] && name != "protected" && name != "os_hidden" {
			return false
		}
	}
	return r.Query.Has("os_hidden") || !img.Hidden
}

// set changes one attribute from a client's JSON value.
func (i *Image) set(r *rest.Request, name string, raw json.RawMessage) error {
	writable, known := base[name]
	if known && !writable && !(name == "owner" && r.Token.Admin()) {
		return rest.Errorf(http.StatusForbidden, "", "Attribute '%s' is read-only.", name)
	}
	var into any
	switch name {
	case "name":
		into = &i.Name
	case "disk_format":
		into = &i.DiskFormat
	case "container_format":
		into = &i.ContainerFormat
	case "visibility":
		into = &i.Visibility
	case "owner":
		into = &i.Owner
	case "protected":
		into = &i.Protected
	case "os_hidden":
		into = &i.Hidden
	case "min_ram":
		into = &i.MinRAM
	case "min_disk":
		into = &i.MinDisk
	case "tags":
		i.Tags = nil
		into = &i.Tags
	case "id":
		into = &i.ID
	default:
		value := ""
		if err := json.Unmarshal(raw, &value); err != nil {
			return invalid(raw, "is not of type 'string'")
		}
		i.Properties[name] = value
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return invalid(raw, "is not of the expected type")
	}
	return i.check(r, name, raw)
}

func invalid(raw json.RawMessage, why string) error {
	return rest.Errorf(http.StatusBadRequest, "", "Provided object does not match schema 'image': %s %s", strings.ReplaceAll(string(raw), `"`, "'"), why)
}

var (
	diskFormats      = []string{"", "ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop"}
	containerFormats = []string{"", "ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed"}
	visibilities     = []string{"public", "private", "shared", "community"}
)

func (i *Image) check(r *rest.Request, name string, raw json.RawMessage) error {
	switch name {
	case "disk_format":
		if !slices.Contains(diskFormats, i.DiskFormat) {
			return invalid(raw, "is not one of [None, 'ami', 'ari', 'aki', 'vhd', 'vhdx', 'vmdk', 'raw', 'qcow2', 'vdi', 'iso', 'ploop']")
		}
	case "container_format":
		if !slices.Contains(containerFormats, i.ContainerFormat) {
			return invalid(raw, "is not one of [None, 'ami', 'ari', 'aki', 'bare', 'ovf', 'ova', 'docker', 'compressed']")
		}
	case "visibility":
		if !slices.Contains(visibilities, i.Visibility) {
			return invalid(raw, "is not one of ['community', 'public', 'private', 'shared']")
		}
		if i.Visibility == "public" && !r.Token.Admin() {
			return rest.Errorf(http.StatusForbidden, "", "You are not authorized to complete publicize_image action.")
		}
	case "id":
		if !rest.IsID(i.ID) {
			return invalid(raw, "does not match the pattern of an id")
		}
	case "min_ram", "min_disk":
		if i.MinRAM < 0 || i.MinDisk < 0 {
			return invalid(raw, "is less than the minimum of 0")
		}
	}
	return nil
}

func (s *Service) create(r *rest.Request) (*rest.Response, error) {
	body := map[string]json.RawMessage{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	img := &Image{
		ID: rest.NewID(), Status: "queued", Visibility: "shared", Owner: r.Token.ProjectID, Size: -1,
		Properties: map[string]string{}, CreatedAt: r.Now.Truncate(time.Second), UpdatedAt: r.Now.Truncate(time.Second),
	}
	for name, raw := range body {
		if err := img.set(r, name, raw); err != nil {
			return nil, err
		}
	}
	slices.Sort(img.Tags)
	if s.images.Get(img.ID) != nil {
		return nil, rest.Errorf(http.StatusConflict, "", "Image ID %s already exists!", img.ID)
	}
	s.images.Put(img.ID, img)
	return &rest.Response{Status: http.StatusCreated, Body: img.view(), Header: map[string]string{
		"Location": r.Base + "/image/v2/images/" + img.ID, "OpenStack-image-import-methods": "glance-direct",
	}}, nil
}

const patchType = "application/openstack-images-v2"

func (s *Service) patch(r *rest.Request) (*rest.Response, error) {
	if ct := r.HTTP.Header.Get("Content-Type"); !strings.HasPrefix(ct, patchType) || !strings.HasSuffix(ct, "-json-patch") {
		return nil, rest.Errorf(http.StatusUnsupportedMediaType, "", "The request media type %s is not supported by this server.", ct)
	}
	img, err := s.mine(r)
	if err != nil {
		return nil, err
	}
	ops := []struct {
		Op, Path string
		Value    json.RawMessage
	}{}
	if err := r.JSON(&ops); err != nil {
		return nil, err
	}
	props := map[string]string{}
	for k, v := range img.Properties {
		props[k] = v
	}
	img.Properties, img.Tags = props, slices.Clone(img.Tags)
	for _, op := range ops {
		name := strings.ReplaceAll(strings.ReplaceAll(strings.TrimPrefix(op.Path, "/"), "~1", "/"), "~0", "~")
		_, isBase := base[name]
		_, isProp := img.Properties[name]
		if op.Op != "add" && !isBase && !isProp {
			return nil, rest.Errorf(http.StatusConflict, "", "There was a conflict when trying to complete your request.\n\nProperty %s does not exist.", name)
		}
		switch op.Op {
		case "add", "replace":
			if err := img.set(r, name, op.Value); err != nil {
				return nil, err
			}
		case "remove":
			if isBase {
				return nil, rest.Errorf(http.StatusForbidden, "", "Property %s may not be removed.", name)
			}
			delete(img.Properties, name)
		default:
			return nil, rest.Errorf(http.StatusBadRequest, "", "Operations must be one of ['add', 'remove', 'replace'], not %s.", op.Op)
		}
	}
	s.images.Put(img.ID, img)
	return rest.OK(img.view())
}

func (s *Service) delete(r *rest.Request) (*rest.Response, error) {
	img, err := s.mine(r)
	if err != nil {
		if s.Find(r.Params["id"], project(r)) == nil {
			return nil, rest.Errorf(http.StatusNotFound, "", "Failed to find image %s to delete", r.Params["id"])
		}
		return nil, err
	}
	if img.Protected {
		return nil, rest.Errorf(http.StatusForbidden, "", "Image %s is protected and cannot be deleted.", img.ID)
	}
	if err := s.dropData(img.ID); err != nil {
		return nil, err
	}
	s.images.Delete(img.ID)
	return rest.Status(http.StatusNoContent, nil)
}

// upload answers PUT file and PUT stage. The data are read without the lock; the state is checked before and after.
func (s *Service) upload(r *rest.Request) (*rest.Response, error) {
	if ct := r.HTTP.Header.Get("Content-Type"); ct != "application/octet-stream" {
		return nil, rest.Errorf(http.StatusUnsupportedMediaType, "", "The request media type %s is not supported by this server.", ct)
	}
	stage := strings.HasSuffix(r.HTTP.URL.Path, "/stage")
	var img *Image
	var err error
	s.World.Do(func(now time.Time) {
		r.Now = now
		if img, err = s.mine(r); err != nil {
			return
		}
		if img.Status != "queued" {
			err = rest.Errorf(http.StatusConflict, "", "Image status transition from %s to saving is not allowed", img.Status)
			return
		}
		if img.DiskFormat == "" || img.ContainerFormat == "" {
			err = rest.Errorf(http.StatusBadRequest, "", "Properties disk_format, container_format must be set prior to saving data.")
			return
		}
		img.Status = "saving"
		if stage {
			img.Status = "uploading"
		}
		s.images.Put(img.ID, img)
	})
	if err != nil {
		return nil, err
	}
	size, data, got, failed := s.store(img.ID, r.HTTP.Body)
	s.World.Do(func(now time.Time) {
		cur := s.images.Get(img.ID)
		if cur == nil {
			err = rest.Errorf(http.StatusGone, "", "Image %s could not be found after upload. The image may have been deleted during the upload.", img.ID)
			return
		}
		next := *cur
		next.UpdatedAt = now
		if failed != nil {
			next.Status, err = "queued", failed
			s.images.Put(next.ID, &next)
			return
		}
		if data != nil {
			s.blobs[next.ID] = data
		}
		next.finish(size, got)
		if stage {
			next.Status = "uploading"
		}
		s.images.Put(next.ID, &next)
	})
	if err != nil {
		return nil, err
	}
	return rest.Status(http.StatusNoContent, nil)
}

func (s *Service) importStaged(r *rest.Request) (*rest.Response, error) {
	img, err := s.mine(r)
	if err != nil {
		return nil, err
	}
	body := struct{ Method struct{ Name string } }{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Method.Name != "glance-direct" {
		return nil, rest.Errorf(http.StatusBadRequest, "", "Unknown import method name '%s'.", body.Method.Name)
	}
	if img.Status != "uploading" {
		return nil, rest.Errorf(http.StatusConflict, "", "Image needs to be staged before 'glance-direct' method can be used")
	}
	img.Status = "active"
	s.images.Put(img.ID, img)
	return rest.Status(http.StatusAccepted, nil)
}

func (s *Service) download(r *rest.Request) (*rest.Response, error) {
	var img *Image
	var data []byte
	var err error
	s.World.Do(func(time.Time) {
		img, err = s.one(r)
		if err == nil {
			data = s.blobs[img.ID]
		}
	})
	if err != nil {
		return nil, err
	}
	if img.Status == "deactivated" && !r.Token.Admin() {
		return nil, rest.Errorf(http.StatusForbidden, "", "The requested image has been deactivated. Image data download is forbidden.")
	}
	if img.Size < 0 {
		return rest.Status(http.StatusNoContent, nil)
	}
	if data == nil && s.dir != "" {
		if data, err = os.ReadFile(filepath.Join(s.dir, img.ID)); err != nil {
			return nil, rest.Errorf(http.StatusNotFound, "", "Image %s has no data", img.ID)
		}
	}
	return &rest.Response{Status: http.StatusOK, Raw: append([]byte{}, data...), ContentType: "application/octet-stream", Header: map[string]string{"Content-Md5": img.Checksum}}, nil
}

func (s *Service) addTag(r *rest.Request) (*rest.Response, error) {
	img, err := s.mine(r)
	if err != nil {
		return nil, err
	}
	if tag := r.Params["tag"]; !slices.Contains(img.Tags, tag) {
		img.Tags = append(slices.Clone(img.Tags), tag)
		slices.Sort(img.Tags)
	}
	s.images.Put(img.ID, img)
	return rest.Status(http.StatusNoContent, nil)
}

func (s *Service) removeTag(r *rest.Request) (*rest.Response, error) {
	img, err := s.mine(r)
	if err != nil {
		return nil, err
	}
	at := slices.Index(img.Tags, r.Params["tag"])
	if at < 0 {
		return nil, rest.Errorf(http.StatusNotFound, "", "The resource could not be found.")
	}
	img.Tags = slices.Delete(slices.Clone(img.Tags), at, at+1)
	s.images.Put(img.ID, img)
	return rest.Status(http.StatusNoContent, nil)
}

func (i *Image) memberView(m Member) rest.M {
	return rest.M{
		"member_id": m.ID, "image_id": i.ID, "status": m.Status, "created_at": rest.Seconds(m.CreatedAt),
		"updated_at": rest.Seconds(m.UpdatedAt), "schema": "/v2/schemas/member",
	}
}

func (s *Service) listMembers(r *rest.Request) (*rest.Response, error) {
	img, err := s.one(r)
	if err != nil {
		return nil, err
	}
	out := []rest.M{}
	for _, m := range img.Members {
		if img.Owner == r.Token.ProjectID || r.Token.Admin() || m.ID == r.Token.ProjectID {
			out = append(out, img.memberView(m))
		}
	}
	return rest.OK(rest.M{"members": out, "schema": "/v2/schemas/members"})
}

func (s *Service) addMember(r *rest.Request) (*rest.Response, error) {
	img, err := s.mine(r)
	if err != nil {
		return nil, err
	}
	body := struct{ Member string }{}
	if err := r.JSON(&body); err != nil || body.Member == "" {
		return nil, rest.Errorf(http.StatusBadRequest, "", "Member can't be empty")
	}
	if img.Visibility != "shared" {
		return nil, rest.Errorf(http.StatusForbidden, "", "Only shared images have members.")
	}
	if slices.ContainsFunc(img.Members, func(m Member) bool { return m.ID == body.Member }) {
		return nil, rest.Errorf(http.StatusConflict, "", "Member %s is duplicated for image %s", body.Member, img.ID)
	}
	m := Member{ID: body.Member, Status: "pending", CreatedAt: r.Now, UpdatedAt: r.Now}
	img.Members = append(slices.Clone(img.Members), m)
	s.images.Put(img.ID, img)
	return rest.OK(img.memberView(m))
}

func memberAt(img *Image, id string) (int, error) {
	at := slices.IndexFunc(img.Members, func(m Member) bool { return m.ID == id })
	if at < 0 {
		return 0, rest.Errorf(http.StatusNotFound, "", "%s not found in the member list of the image %s.", id, img.ID)
	}
	return at, nil
}

func (s *Service) getMember(r *rest.Request) (*rest.Response, error) {
	img, err := s.one(r)
	if err != nil {
		return nil, err
	}
	at, err := memberAt(img, r.Params["member"])
	if err != nil {
		return nil, err
	}
	return rest.OK(img.memberView(img.Members[at]))
}

func (s *Service) updateMember(r *rest.Request) (*rest.Response, error) {
	img, err := s.one(r)
	if err != nil {
		return nil, err
	}
	at, err := memberAt(img, r.Params["member"])
	if err != nil {
		return nil, err
	}
	if r.Params["member"] != r.Token.ProjectID && !r.Token.Admin() {
		return nil, rest.Errorf(http.StatusForbidden, "", "You do not have permission to modify this image member.")
	}
	body := struct{ Status string }{}
	if err := r.JSON(&body); err != nil || !slices.Contains([]string{"pending", "accepted", "rejected"}, body.Status) {
		return nil, rest.Errorf(http.StatusBadRequest, "", "Invalid status: %s", body.Status)
	}
	next := *img
	next.Members = slices.Clone(img.Members)
	next.Members[at].Status, next.Members[at].UpdatedAt = body.Status, r.Now
	s.images.Put(next.ID, &next)
	return rest.OK(next.memberView(next.Members[at]))
}

func (s *Service) removeMember(r *rest.Request) (*rest.Response, error) {
	img, err := s.mine(r)
	if err != nil {
		return nil, err
	}
	at, err := memberAt(img, r.Params["member"])
	if err != nil {
		return nil, err
	}
	img.Members = slices.Delete(slices.Clone(img.Members), at, at+1)
	s.images.Put(img.ID, img)
	return rest.Status(http.StatusNoContent, nil)
}

func (s *Service) switchTo(status string) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		img, err := s.mine(r)
		if err != nil {
			return nil, err
		}
		if img.Status != "active" && img.Status != "deactivated" {
			return nil, rest.Errorf(http.StatusForbidden, "", "Not allowed to change the status of image %s from %s to %s", img.ID, img.Status, status)
		}
		img.Status = status
		s.images.Put(img.ID, img)
		return rest.Status(http.StatusNoContent, nil)
	}
}
