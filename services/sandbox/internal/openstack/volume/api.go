package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

func (s *Service) routes() []rest.Route {
	routes := []rest.Route{
		{Method: "GET", Pattern: "/", Operation: "version.list", Handler: versions(http.StatusMultipleChoices), Public: true},
		{Method: "GET", Pattern: "/v3", Operation: "version.get", Handler: versions(http.StatusOK)},
	}
	add := func(method, pattern, operation string, h rest.Handler) {
		routes = append(routes, rest.Route{Method: method, Pattern: "/v3/{project}" + pattern, Operation: operation, Handler: s.inProject(h)})
	}
	add("GET", "/volumes", "volume.list", s.listVolumes(false))
	add("GET", "/volumes/detail", "volume.list", s.listVolumes(true))
	add("GET", "/volumes/summary", "volume.summary", s.summary)
	add("POST", "/volumes", "volume.create", s.createVolume)
	add("GET", "/volumes/{id}", "volume.get", s.getVolume)
	add("PUT", "/volumes/{id}", "volume.update", s.updateVolume)
	add("DELETE", "/volumes/{id}", "volume.delete", s.deleteVolume)
	add("POST", "/volumes/{id}/action", "volume.action", s.volumeAction)
	add("GET", "/snapshots", "snapshot.list", s.listSnapshots(false))
	add("GET", "/snapshots/detail", "snapshot.list", s.listSnapshots(true))
	add("POST", "/snapshots", "snapshot.create", s.createSnapshot)
	add("GET", "/snapshots/{id}", "snapshot.get", s.getSnapshot)
	add("PUT", "/snapshots/{id}", "snapshot.update", s.updateSnapshot)
	add("POST", "/snapshots/{id}/action", "snapshot.action", s.snapshotAction)
	add("DELETE", "/snapshots/{id}", "snapshot.delete", s.deleteSnapshot)
	for _, kind := range []string{"volume", "snapshot"} {
		base := "/" + kind + "s/{id}/metadata"
		add("GET", base, kind+".metadata", s.getMetadata(kind))
		add("POST", base, kind+".metadata", s.setMetadata(kind, false))
		add("PUT", base, kind+".metadata", s.setMetadata(kind, true))
		add("GET", base+"/{key}", kind+".metadata", s.getMetadataItem(kind))
		add("PUT", base+"/{key}", kind+".metadata", s.setMetadataItem(kind))
		add("DELETE", base+"/{key}", kind+".metadata", s.deleteMetadataItem(kind))
	}
	add("GET", "/types", "type.list", listTypes)
	add("GET", "/types/{id}", "type.get", getType)
	add("GET", "/types/{id}/extra_specs", "type.get", func(*rest.Request) (*rest.Response, error) {
		return rest.OK(rest.M{"extra_specs": rest.M{}})
	})
	add("GET", "/attachments", "attachment.list", s.listAttachments(false))
	add("GET", "/attachments/detail", "attachment.list", s.listAttachments(true))
	add("GET", "/attachments/{id}", "attachment.get", s.getAttachment)
	add("GET", "/limits", "limits.get", s.getLimits)
	add("GET", "/os-quota-sets/{target}", "quota.get", s.getQuota)
	add("GET", "/os-quota-sets/{target}/defaults", "quota.get", s.getQuotaDefaults)
	add("PUT", "/os-quota-sets/{target}", "quota.update", s.putQuota)
	add("DELETE", "/os-quota-sets/{target}", "quota.delete", s.deleteQuota)
	add("GET", "/os-availability-zone", "zone.list", func(*rest.Request) (*rest.Response, error) {
		return rest.OK(rest.M{"availabilityZoneInfo": []rest.M{{"zoneName": "nova", "zoneState": rest.M{"available": true}}}})
	})
	add("GET", "/scheduler-stats/get_pools", "pool.list", listPools)
	add("GET", "/os-services", "service.list", listServices)
	add("GET", "/extensions", "extension.list", func(*rest.Request) (*rest.Response, error) {
		return rest.OK(rest.M{"extensions": []rest.M{}})
	})
	return routes
}

func versions(status int) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		return rest.Status(status, rest.M{"versions": []rest.M{{
			"id": "v3.0", "status": "CURRENT", "version": fmt.Sprintf("3.%d", HighestMinor), "min_version": "3.0", "updated": "2022-08-31T00:00:00Z",
			"links":       []rest.M{{"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"}, rest.Link("self", r.Base+"/volume/v3/")},
			"media-types": []rest.M{{"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}},
		}}})
	}
}

// inProject refuses a path that names another project than the token.
func (s *Service) inProject(h rest.Handler) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		if r.Params["project"] != r.Token.ProjectID {
			return nil, bad("Malformed request url")
		}
		return h(r)
	}
}

func optional(text string) any {
	if text == "" {
		return nil
	}
	return text
}

func title(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func typeID(name string) any {
	for _, t := range types {
		if t.Name == name {
			return t.ID
		}
	}
	return nil
}

// serviceUUID names the backend once the volume has one.
func serviceUUID(v *Volume) any {
	if v.Status == "creating" {
		return nil
	}
	return "c0a8f0d6-4c0a-4f43-8a1b-0d1c8f4a5e01"
}

func links(r *rest.Request, kind, id string) []rest.M {
	return []rest.M{
		rest.Link("self", fmt.Sprintf("%s/volume/v3/%s/%s/%s", r.Base, r.Token.ProjectID, kind, id)),
		rest.Link("bookmark", fmt.Sprintf("%s/volume/%s/%s/%s", r.Base, r.Token.ProjectID, kind, id)),
	}
}

func (s *Service) view(r *rest.Request, v *Volume) rest.M {
	attachments := []rest.M{}
	for _, a := range v.Attachments {
		if a.At.After(r.Now) {
			continue // reserved, not attached yet
		}
		attachments = append(attachments, rest.M{
			"id": v.ID, "attachment_id": a.ID, "volume_id": v.ID, "server_id": a.Server, "host_name": nil, "device": a.Device,
			"attached_at": rest.Micros(a.At),
		})
	}
	meta := maps.Clone(orEmpty(v.Metadata))
	if v.ReadOnly {
		meta["readonly"] = "True"
	}
	out := rest.M{
		"id": v.ID, "status": v.Status, "size": v.Size, "availability_zone": v.Zone, "created_at": rest.Micros(v.CreatedAt), "updated_at": nil,
		"name": optional(v.Name), "description": optional(v.Description), "volume_type": v.Type, "snapshot_id": optional(v.SnapshotID),
		"source_volid": optional(v.SourceID), "metadata": meta, "links": links(r, "volumes", v.ID), "user_id": v.User, "bootable": title(v.Bootable),
		"encrypted": false, "replication_status": nil, "consistencygroup_id": nil, "multiattach": v.MultiAttach, "attachments": attachments,
		"os-vol-tenant-attr:tenant_id": v.Project,
	}
	if v.UpdatedAt.After(v.CreatedAt) {
		out["updated_at"] = rest.Micros(v.UpdatedAt)
	}
	if v.ImageMetadata != nil {
		out["volume_image_metadata"] = v.ImageMetadata
	}
	if r.Token.Admin() {
		out["os-vol-host-attr:host"], out["os-vol-mig-status-attr:migstat"], out["os-vol-mig-status-attr:name_id"] = "sandbox-node@"+v.Type+"#"+v.Type, nil, nil
	}
	for name, since := range map[string]int{"group_id": 13, "shared_targets": 48, "service_uuid": 48, "volume_type_id": 63, "consumes_quota": 65} {
		if r.Minor >= since {
			out[name] = map[string]any{"shared_targets": true, "service_uuid": serviceUUID(v), "volume_type_id": typeID(v.Type), "consumes_quota": true}[name]
		}
	}
	return out
}

// Spec is what a new volume is made from.
type Spec struct {
	Size          any               `json:"size"`
	Name          *string           `json:"name"`
	Description   *string           `json:"description"`
	Type          *string           `json:"volume_type"`
	Zone          *string           `json:"availability_zone"`
	ImageID       *string           `json:"imageRef"`
	SnapshotID    *string           `json:"snapshot_id"`
	SourceID      *string           `json:"source_volid"`
	Metadata      map[string]string `json:"metadata"`
	MultiAttach   any               `json:"multiattach"`
	DisplayName   *string           `json:"display_name"`
	DisplayText   *string           `json:"display_description"`
	Consistency   *string           `json:"consistencygroup_id"`
	Group         *string           `json:"group_id"`
	Backup        *string           `json:"backup_id"`
	ImageID2      *string           `json:"image_id"`
	UserID        any               `json:"user_id"`
	ProjectID     any               `json:"project_id"`
	Status        any               `json:"status"`
	AttachStatus  any               `json:"attach_status"`
	SourceReplica any               `json:"source_replica"`
}

func text(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}

// field reads body[name] strictly: an unknown field is refused like Cinder's schema does.
func field(r *rest.Request, name string, into any) error {
	body := map[string]json.RawMessage{}
	if err := r.JSON(&body); err != nil {
		return err
	}
	raw, ok := body[name]
	if !ok {
		return bad("'%s' is a required property", name)
	}
	shown := strings.ReplaceAll(string(raw), `"`, "'")
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		return nil
	}
	if unknown, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return bad("Invalid input for field/attribute %s. Value: %s. Additional properties are not allowed ('%s' was unexpected)", name, shown, strings.Trim(unknown, `"`))
	}
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		return bad("Invalid input for field/attribute %s. Value: %s. a %s is not of type '%s'", wrong.Field, shown, wrong.Value, wrong.Type)
	}
	return bad("Invalid input for field/attribute %s. Value: %s. %v", name, shown, err)
}

// readSize reads a size in GiB given as number or text; 0 when it is absent.
func readSize(name string, v any) (int, error) {
	switch v := v.(type) {
	case nil:
		return 0, nil
	case int:
		return v, nil
	case float64:
		if v < 1 || v != float64(int(v)) {
			return 0, bad("Invalid input for field/attribute %s. Value: %v. %v is less than the minimum of 1", name, v, v)
		}
		return int(v), nil
	case string:
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return 0, bad("Invalid input for field/attribute %s. Value: %s. '%s' does not match '^[0-9]+$'", name, v, v)
		}
		return n, nil
	}
	return 0, bad("Invalid input for field/attribute %s. Value: %v. not an integer", name, v)
}

func (s *Service) createVolume(r *rest.Request) (*rest.Response, error) {
	spec := Spec{}
	if err := field(r, "volume", &spec); err != nil {
		return nil, err
	}
	v, err := s.make(r, spec)
	if err != nil {
		return nil, err
	}
	out := s.view(r, v)
	delete(out, "os-vol-tenant-attr:tenant_id")
	delete(out, "volume_image_metadata")
	return rest.Status(http.StatusAccepted, rest.M{"volume": out})
}

func (s *Service) make(r *rest.Request, spec Spec) (*Volume, error) {
	size, err := readSize("size", spec.Size)
	if err != nil {
		return nil, err
	}
	v := &Volume{
		ID: rest.NewID(), Name: text(spec.Name) + text(spec.DisplayName), Description: text(spec.Description) + text(spec.DisplayText), Project: r.Token.ProjectID,
		User: r.Token.UserID, Size: size, Zone: "nova", Type: types[0].Name, Metadata: spec.Metadata, CreatedAt: r.Now, UpdatedAt: r.Now,
	}
	if multi, ok := spec.MultiAttach.(bool); ok {
		v.MultiAttach = multi
	}
	if len(v.Name) > 255 {
		return nil, bad("Invalid input received: name has %d characters, more than 255.", len(v.Name))
	}
	for k, value := range spec.Metadata {
		if len(k) > 255 || len(value) > 255 {
			return nil, bad("Invalid input for field/attribute metadata. Value: %s. too long", k)
		}
	}
	if zone := text(spec.Zone); zone != "" && zone != "nova" {
		return nil, bad("Availability zone '%s' is invalid.", zone)
	}
	if err := s.source(r, v, spec); err != nil {
		return nil, err
	}
	if name := text(spec.Type); name != "" {
		if v.Type = typeName(name); v.Type == "" {
			return nil, rest.Errorf(http.StatusNotFound, "", "Volume type with name %s could not be found.", name)
		}
	}
	if v.Size == 0 {
		return nil, bad("The server could not comply with the request since it is either malformed or otherwise incorrect.")
	}
	if err := s.checkQuota(v.Project, "volumes", 1, v.Size); err != nil {
		return nil, err
	}
	ready := s.later(r.Now, "volume.available")
	if text(spec.ImageID)+text(spec.ImageID2) == "" {
		s.become(r.Now, v, "creating", Due{"available", ready})
		return v, nil
	}
	s.become(r.Now, v, "creating", Due{"downloading", r.Now.Add(ready.Sub(r.Now) / 3)}, Due{"available", ready})
	return v, nil
}

// source applies image, snapshot or source volume to a new volume.
func (s *Service) source(r *rest.Request, v *Volume, spec Spec) error {
	if id := text(spec.SnapshotID); id != "" {
		snap := s.Snapshot(r.Token, id)
		if snap == nil {
			return missing("Snapshot", id)
		}
		if snap.Status != "available" {
			return bad("Invalid snapshot: Originating snapshot status must be one of 'available' values")
		}
		v.SnapshotID = id
		if source := s.volumes.Get(snap.VolumeID); source != nil {
			v.Type, v.Bootable = source.Type, source.Bootable
		}
		return v.atLeast(snap.Size, "Volume size '%d'GB cannot be smaller than the snapshot size %dGB. They must be >= original snapshot size.")
	}
	if id := text(spec.SourceID); id != "" {
		source := s.Find(r.Token, id)
		if source == nil {
			return missing("Volume", id)
		}
		if source.Status != "available" && source.Status != "in-use" {
			return bad("Invalid volume: Originating volume status must be one of 'available, in-use' values")
		}
		v.SourceID, v.Type, v.Bootable = id, source.Type, source.Bootable
		return v.atLeast(source.Size, "Clones currently must be >= original volume size. (clone: %d, original: %d)")
	}
	id := text(spec.ImageID) + text(spec.ImageID2)
	if id == "" {
		return nil
	}
	project := r.Token.ProjectID
	if r.Token.Admin() {
		project = ""
	}
	img := s.images.Find(id, project)
	if img == nil {
		return bad("Invalid image identifier or unable to access requested image.")
	}
	if img.Status != "active" {
		return bad("Invalid input received: Invalid image identifier or unable to access requested image: image %s is not active.", id)
	}
	if v.Size > 0 && v.Size < img.MinDisk {
		return bad("Invalid input received: Volume size %dGB cannot be smaller than the image minDisk size %dGB.", v.Size, img.MinDisk)
	}
	v.Bootable = true
	v.ImageMetadata = map[string]string{
		"image_id": img.ID, "image_name": img.Name, "checksum": img.Checksum, "container_format": img.ContainerFormat,
		"disk_format": img.DiskFormat, "min_disk": strconv.Itoa(img.MinDisk), "min_ram": strconv.Itoa(img.MinRAM), "size": strconv.FormatInt(img.Size, 10),
	}
	maps.Copy(v.ImageMetadata, img.Properties)
	return nil
}

func (v *Volume) atLeast(size int, format string) error {
	if v.Size == 0 {
		v.Size = size
	}
	if v.Size < size {
		return bad("Invalid input received: "+format, v.Size, size)
	}
	return nil
}

func typeName(nameOrID string) string {
	for _, t := range types {
		if t.Name == nameOrID || t.ID == nameOrID {
			return t.Name
		}
	}
	return ""
}

func (s *Service) volume(r *rest.Request) (*Volume, error) {
	v := s.Find(r.Token, r.Params["id"])
	if v == nil {
		return nil, missing("Volume", r.Params["id"])
	}
	return v, nil
}

func (s *Service) getVolume(r *rest.Request) (*rest.Response, error) {
	v, err := s.volume(r)
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"volume": s.view(r, v)})
}

func (s *Service) updateVolume(r *rest.Request) (*rest.Response, error) {
	v, err := s.volume(r)
	if err != nil {
		return nil, err
	}
	in := struct {
		Name, Description *string
		DisplayName       *string `json:"display_name"`
		DisplayText       *string `json:"display_description"`
		Metadata          map[string]string
	}{}
	if err := field(r, "volume", &in); err != nil {
		return nil, err
	}
	if in.Name != nil {
		v.Name = *in.Name
	}
	if in.Description != nil {
		v.Description = *in.Description
	}
	if in.Metadata != nil {
		v.Metadata = in.Metadata
	}
	v.UpdatedAt = r.Now
	s.volumes.Put(v.ID, v)
	return rest.OK(rest.M{"volume": s.view(r, v)})
}

func (s *Service) deleteVolume(r *rest.Request) (*rest.Response, error) {
	v, err := s.volume(r)
	if err != nil {
		return nil, err
	}
	cascade, _ := rest.ParseBool(r.Query.Get("cascade"))
	force, _ := rest.ParseBool(r.Query.Get("force"))
	atRest := slices.Contains([]string{"available", "error", "error_restoring", "error_extending", "error_managing"}, v.Status)
	snaps := s.snapshots.By(bySource, v.ID)
	if !atRest && !(force && r.Token.Admin()) || len(v.Attachments) > 0 || len(snaps) > 0 && !cascade {
		return nil, bad("Invalid volume: Volume status must be available or error or error_restoring or error_extending or error_managing and must not be migrating, attached, belong to a group, have snapshots, awaiting a transfer, or be disassociated from snapshots after volume transfer.")
	}
	for _, snap := range snaps {
		s.snapshots.Delete(snap.ID)
	}
	s.become(r.Now, v, "deleting", Due{gone, s.later(r.Now, "volume.deleted")})
	return rest.Status(http.StatusAccepted, nil)
}

func (s *Service) volumeAction(r *rest.Request) (*rest.Response, error) {
	v, err := s.volume(r)
	if err != nil {
		return nil, err
	}
	body := map[string]map[string]any{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	for name, args := range body {
		switch name {
		case "os-extend":
			return s.extend(r, v, args)
		case "os-retype":
			return s.retype(r, v, args)
		case "os-set_bootable":
			v.Bootable = fmt.Sprint(args["bootable"]) != "false" && fmt.Sprint(args["bootable"]) != "False"
			s.volumes.Put(v.ID, v)
			return rest.Status(http.StatusOK, nil)
		case "os-update_readonly_flag":
			v.ReadOnly = fmt.Sprint(args["readonly"]) == "true" || fmt.Sprint(args["readonly"]) == "True"
			s.volumes.Put(v.ID, v)
			return rest.Status(http.StatusAccepted, nil)
		case "os-volume_upload_image":
			return s.upload(r, v, args)
		case "os-set_image_metadata":
			return s.imageMetadata(v, args)
		case "os-reset_status":
			if !r.Token.Admin() {
				return nil, rest.Errorf(http.StatusForbidden, "", "Policy doesn't allow volume_extension:volume_admin_actions:reset_status to be performed.")
			}
			s.become(r.Now, v, fmt.Sprint(args["status"]))
			return rest.Status(http.StatusAccepted, nil)
		case "os-detach", "os-begin_detaching":
			if len(v.Attachments) > 0 {
				return nil, rest.Errorf(http.StatusConflict, "", "ConflictNovaUsingAttachment: Detach volume from instance %s using the Compute API", v.Attachments[0].Server)
			}
			return nil, bad("Invalid volume: Unable to detach volume. Volume status must be 'in-use' and attach_status must be 'attached' to detach.")
		}
		return nil, bad("There is no such action: %s. Verify the request body and Content-Type header and try again.", name)
	}
	return nil, bad("There is no such action. Verify the request body and Content-Type header and try again.")
}

func (s *Service) imageMetadata(v *Volume, args map[string]any) (*rest.Response, error) {
	meta, ok := args["metadata"].(map[string]any)
	if !ok {
		return nil, bad("'metadata' is a required property")
	}
	next := maps.Clone(orEmpty(v.ImageMetadata))
	for k, value := range meta {
		next[k] = fmt.Sprint(value)
	}
	v.ImageMetadata = next
	s.volumes.Put(v.ID, v)
	return rest.OK(rest.M{"metadata": next})
}

func (s *Service) extend(r *rest.Request, v *Volume, args map[string]any) (*rest.Response, error) {
	size, err := readSize("new_size", args["new_size"])
	if err != nil {
		return nil, err
	}
	if v.Status != "available" && (v.Status != "in-use" || r.Minor < 42) {
		return nil, bad("Invalid volume: Volume %s status must be '{'status': 'available'}' to extend, currently %s.", v.ID, v.Status)
	}
	if size <= v.Size {
		return nil, bad("Invalid input received: New size for extend must be greater than current size. (current: %d, extended: %d).", v.Size, size)
	}
	if err := s.checkQuota(v.Project, "volumes", 0, size-v.Size); err != nil {
		return nil, err
	}
	v.NewSize = size
	s.become(r.Now, v, "extending", Due{v.Status, s.later(r.Now, "volume.extended")})
	return rest.Status(http.StatusAccepted, nil)
}

func (s *Service) retype(r *rest.Request, v *Volume, args map[string]any) (*rest.Response, error) {
	want := fmt.Sprint(args["new_type"])
	name := typeName(want)
	if name == "" {
		return nil, rest.Errorf(http.StatusNotFound, "", "Volume type with name %s could not be found.", want)
	}
	if v.Status != "available" && v.Status != "in-use" {
		return nil, bad("Invalid volume: Retype needs volume to be in available or in-use state, not be part of an active migration or a consistency group, requested type has to be different that the one from the volume, and for in-use volumes front-end qos specs cannot change.")
	}
	if name == v.Type {
		return nil, bad("Invalid volume: Retype needs volume to be in available or in-use state, not be part of an active migration or a consistency group, requested type has to be different that the one from the volume, and for in-use volumes front-end qos specs cannot change.")
	}
	// The types live on different backends: without migration the volume stays what it is, and nobody is told.
	if args["migration_policy"] == "on-demand" {
		v.NewType = name
	}
	s.become(r.Now, v, "retyping", Due{v.Status, s.later(r.Now, "volume.retyped")})
	return rest.Status(http.StatusAccepted, nil)
}

// upload copies a volume into an image. The content of volumes is not simulated: the image holds none of it.
func (s *Service) upload(r *rest.Request, v *Volume, args map[string]any) (*rest.Response, error) {
	name, ok := args["image_name"].(string)
	if !ok || name == "" {
		return nil, bad("Invalid input for field/attribute os-volume_upload_image. Value: %v. 'image_name' is a required property", args)
	}
	force, _ := rest.ParseBool(fmt.Sprint(args["force"]))
	if v.Status != "available" && (v.Status != "in-use" || !force) {
		return nil, bad("Invalid volume: Volume %s status must be available or in-use, but current status is: %s.", v.ID, v.Status)
	}
	ready := s.later(r.Now, "volume.uploaded")
	id := s.images.FromVolume(r, name)
	v.UploadID = id
	s.become(r.Now, v, "uploading", Due{v.Status, ready})
	return rest.Status(http.StatusAccepted, rest.M{"os-volume_upload_image": rest.M{
		"id": v.ID, "updated_at": rest.Micros(r.Now), "status": "uploading", "display_description": optional(v.Description), "size": v.Size,
		"volume_type": rest.M{"id": typeID(v.Type), "name": v.Type}, "image_id": id, "container_format": "bare", "disk_format": "raw",
		"image_name": name, "protected": false, "visibility": "shared",
	}})
}

// Lists.

// volumeFilters are the query words that are filters, besides all_tenants for admins.
var volumeFilters = []string{"name", "status", "metadata", "bootable", "availability_zone", "volume_type", "id", "consistencygroup_id", "group_id", "project_id", "created_at", "updated_at", "image_metadata", "glance_metadata", "migration_status", "multiattach", "description"}

var pageWords = []string{"limit", "marker", "sort", "sort_key", "sort_dir", "offset", "all_tenants", "with_count"}

func checkWords(r *rest.Request, filters []string) error {
	var unknown []string
	for name := range r.Query {
		if !slices.Contains(filters, name) && !slices.Contains(pageWords, name) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	if len(unknown) > 0 && !r.Token.Admin() {
		return bad("Invalid filters %s are found in query options.", strings.Join(unknown, ","))
	}
	return nil
}

// readMap reads a metadata filter, which clients write as JSON or as a Python dictionary.
func readMap(text string) map[string]string {
	out := map[string]string{}
	if json.Unmarshal([]byte(text), &out) == nil {
		return out
	}
	if json.Unmarshal([]byte(strings.ReplaceAll(text, "'", `"`)), &out) == nil {
		return out
	}
	return nil
}

func contains(have map[string]string, filter string) bool {
	want := readMap(filter)
	if want == nil {
		return false
	}
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func allTenants(r *rest.Request) bool {
	all, _ := rest.ParseBool(r.Query.Get("all_tenants"))
	return all && r.Token.Admin()
}

func (s *Service) listVolumes(detail bool) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		if err := checkWords(r, volumeFilters); err != nil {
			return nil, err
		}
		var found []*Volume
		asked := slices.DeleteFunc(slices.Clone(volumeFilters), func(name string) bool { return !r.Query.Has(name) })
		for _, v := range s.volumes.Newest() {
			if (v.Project == r.Token.ProjectID || allTenants(r)) && s.matches(r, v, asked) {
				found = append(found, v)
			}
		}
		sorted, err := sortBy(r, found, func(v *Volume, key string) (string, bool) {
			switch key {
			case "name", "display_name":
				return v.Name, true
			case "id":
				return v.ID, true
			case "status":
				return v.Status, true
			case "size":
				return fmt.Sprintf("%09d", v.Size), true
			case "created_at":
				return v.CreatedAt.Format("20060102150405.000000000"), true
			case "availability_zone", "bootable", "host", "volume_type":
				return v.Type, true
			}
			return "", false
		})
		if err != nil {
			return nil, err
		}
		return paginate(r, "volumes", sorted, func(v *Volume) string { return v.ID }, func(v *Volume) rest.M {
			if detail {
				return s.view(r, v)
			}
			return rest.M{"id": v.ID, "name": v.Name, "links": links(r, "volumes", v.ID)}
		})
	}
}

// matches tells whether a volume passes the filters asked for.
func (s *Service) matches(r *rest.Request, v *Volume, asked []string) bool {
	for _, name := range asked {
		want := r.Query.Get(name)
		ok := true
		switch name {
		case "name":
			ok = v.Name == want
		case "status":
			ok = v.Status == want
		case "metadata":
			ok = contains(v.Metadata, want)
		case "image_metadata", "glance_metadata":
			ok = contains(v.ImageMetadata, want)
		case "bootable":
			b, _ := rest.ParseBool(want)
			ok = b == v.Bootable
		case "availability_zone":
			ok = v.Zone == want
		case "id":
			ok = v.ID == want
		case "project_id":
			ok = v.Project == want
		case "volume_type":
			ok = v.Type == typeName(want)
		case "description":
			ok = v.Description == want
		case "multiattach":
			b, _ := rest.ParseBool(want)
			ok = b == v.MultiAttach
		}
		if !ok {
			return false
		}
	}
	return true
}

// sortBy applies ?sort=key:dir,… ; without it the newest come first.
func sortBy[T any](r *rest.Request, items []T, key func(T, string) (string, bool)) ([]T, error) {
	sort := r.Query.Get("sort")
	if old := r.Query.Get("sort_key"); sort == "" && old != "" {
		sort = old + ":" + r.Query.Get("sort_dir")
	}
	if sort == "" {
		return items, nil
	}
	parts := strings.Split(sort, ",")
	for _, part := range parts {
		name, _, _ := strings.Cut(part, ":")
		var zero T
		if len(items) > 0 {
			zero = items[0]
		}
		if len(items) == 0 {
			continue
		}
		if _, ok := key(zero, strings.TrimSpace(name)); !ok {
			return nil, bad("Invalid input received: Invalid sort key")
		}
	}
	slices.SortStableFunc(items, func(a, b T) int {
		for _, part := range parts {
			name, dir, _ := strings.Cut(strings.TrimSpace(part), ":")
			x, _ := key(a, name)
			y, _ := key(b, name)
			c := strings.Compare(x, y)
			if dir != "asc" {
				c = -c
			}
			if c != 0 {
				return c
			}
		}
		return 0
	})
	return items, nil
}

// maxPage is osapi_max_limit.
const maxPage = 1000

func paginate[T any](r *rest.Request, name string, items []T, id func(T) string, view func(T) rest.M) (*rest.Response, error) {
	total := len(items)
	limit := maxPage
	if given := r.Query.Get("limit"); given != "" {
		n, err := strconv.Atoi(given)
		if err != nil {
			return nil, bad("limit param must be an integer")
		}
		if n < 0 {
			return nil, bad("limit param must be positive")
		}
		limit = min(n, maxPage)
	}
	if marker := r.Query.Get("marker"); marker != "" {
		at := slices.IndexFunc(items, func(v T) bool { return id(v) == marker })
		if at < 0 {
			return nil, missing(strings.ToUpper(name[:1])+name[1:len(name)-1], marker)
		}
		items = items[at+1:]
	}
	if text := r.Query.Get("offset"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return nil, bad("offset param must be an integer")
		}
		items = items[min(n, len(items)):]
	}
	body := rest.M{}
	if limit > 0 && len(items) >= limit && (r.Query.Has("limit") || len(items) > limit) {
		items = items[:limit]
		body[name+"_links"] = []rest.M{rest.Link("next", rest.NextLink(r, r.HTTP.URL.Path, id(items[limit-1]), limit))}
	}
	if limit == 0 {
		items = nil
	}
	views := make([]rest.M, 0, len(items))
	for _, v := range items {
		views = append(views, view(v))
	}
	body[name] = views
	if count, _ := rest.ParseBool(r.Query.Get("with_count")); count {
		body["count"] = total
	}
	return rest.OK(body)
}

func (s *Service) summary(r *rest.Request) (*rest.Response, error) {
	count, size := 0, 0
	meta := map[string][]string{}
	for _, v := range s.volumes.All() {
		if v.Project != r.Token.ProjectID && !allTenants(r) {
			continue
		}
		count++
		size += v.Size
		for k, value := range v.Metadata {
			if !slices.Contains(meta[k], value) {
				meta[k] = append(meta[k], value)
			}
		}
	}
	return rest.OK(rest.M{"volume-summary": rest.M{"total_count": count, "total_size": size, "metadata": meta}})
}

// Types, attachments, services.

func typeView(t Type) rest.M {
	return rest.M{"id": t.ID, "name": t.Name, "is_public": true, "description": nil, "extra_specs": rest.M{}}
}

func listTypes(*rest.Request) (*rest.Response, error) {
	out := []rest.M{}
	for _, t := range types {
		view := typeView(t)
		view["os-volume-type-access:is_public"] = true
		out = append(out, view)
	}
	return rest.OK(rest.M{"volume_types": out})
}

func getType(r *rest.Request) (*rest.Response, error) {
	want := r.Params["id"]
	if want == "default" {
		want = types[0].ID
	}
	for _, t := range types {
		if t.ID == want {
			return rest.OK(rest.M{"volume_type": typeView(t)})
		}
	}
	return nil, rest.Errorf(http.StatusNotFound, "", "Volume type %s could not be found.", want)
}

func attachmentView(v *Volume, a Attachment, detail bool) rest.M {
	status := "attached"
	if v.Status == "reserved" || v.Status == "attaching" || v.Status == "detaching" {
		status = v.Status
	}
	out := rest.M{"id": a.ID, "status": status, "instance": a.Server, "volume_id": v.ID}
	if detail {
		out["attached_at"], out["detached_at"], out["attach_mode"] = rest.Micros(a.At), "", "rw"
		out["connection_info"] = rest.M{"driver_volume_type": "sandbox", "attachment_id": a.ID, "access_mode": "rw", "encrypted": false}
	}
	return out
}

func (s *Service) listAttachments(detail bool) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		out := []rest.M{}
		for _, v := range s.volumes.All() {
			if v.Project != r.Token.ProjectID && !allTenants(r) || r.Query.Has("volume_id") && r.Query.Get("volume_id") != v.ID {
				continue
			}
			for _, a := range v.Attachments {
				if !r.Query.Has("instance_id") || r.Query.Get("instance_id") == a.Server {
					out = append(out, attachmentView(v, a, detail))
				}
			}
		}
		return rest.OK(rest.M{"attachments": out})
	}
}

func (s *Service) getAttachment(r *rest.Request) (*rest.Response, error) {
	for _, v := range s.volumes.All() {
		for _, a := range v.Attachments {
			if a.ID == r.Params["id"] && (v.Project == r.Token.ProjectID || r.Token.Admin()) {
				return rest.OK(rest.M{"attachment": attachmentView(v, a, true)})
			}
		}
	}
	return nil, rest.Errorf(http.StatusNotFound, "", "Volume attachment could not be found with filter: attachment_id = %s.", r.Params["id"])
}

func listPools(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, rest.Errorf(http.StatusForbidden, "", "Policy doesn't allow scheduler_extension:scheduler_stats:get_pools to be performed.")
	}
	out := []rest.M{}
	for _, t := range types[:2] {
		out = append(out, rest.M{"name": "sandbox-node@" + t.Name + "#" + t.Name, "capabilities": rest.M{
			"volume_backend_name": t.Name, "storage_protocol": "sandbox", "driver_version": "1.0", "total_capacity_gb": 1000.0, "free_capacity_gb": 900.0,
		}})
	}
	return rest.OK(rest.M{"pools": out})
}

func listServices(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, rest.Errorf(http.StatusForbidden, "", "Policy doesn't allow volume_extension:services:index to be performed.")
	}
	out := []rest.M{}
	for _, binary := range []string{"cinder-scheduler", "cinder-volume"} {
		out = append(out, rest.M{"binary": binary, "host": "sandbox-node", "zone": "nova", "status": "enabled", "state": "up", "updated_at": rest.Micros(r.Now), "disabled_reason": nil})
	}
	return rest.OK(rest.M{"services": out})
}

// Quotas and limits.

func (s *Service) getLimits(r *rest.Request) (*rest.Response, error) {
	limits, used := s.limits(r.Token.ProjectID), s.usage(r.Token.ProjectID)
	return rest.OK(rest.M{"limits": rest.M{"rate": []any{}, "absolute": rest.M{
		"maxTotalVolumes": limits["volumes"], "maxTotalSnapshots": limits["snapshots"], "maxTotalVolumeGigabytes": limits["gigabytes"],
		"maxTotalBackups": limits["backups"], "maxTotalBackupGigabytes": limits["backup_gigabytes"], "totalVolumesUsed": used["volumes"],
		"totalGigabytesUsed": used["gigabytes"], "totalSnapshotsUsed": used["snapshots"], "totalBackupsUsed": 0, "totalBackupGigabytesUsed": 0,
	}}})
}

func (s *Service) quotaTarget(r *rest.Request, write bool) (string, error) {
	target := r.Params["target"]
	if r.Token.Admin() || !write && target == r.Token.ProjectID {
		return target, nil
	}
	action := "show"
	if write {
		action = "update"
	}
	return "", rest.Errorf(http.StatusForbidden, "", "Policy doesn't allow volume_extension:quotas:%s to be performed.", action)
}

func quotaView(limits map[string]int, id string) rest.M {
	out := rest.M{}
	for k, v := range limits {
		out[k] = v
	}
	if id != "" {
		out["id"] = id
	}
	return rest.M{"quota_set": out}
}

func (s *Service) getQuota(r *rest.Request) (*rest.Response, error) {
	target, err := s.quotaTarget(r, false)
	if err != nil {
		return nil, err
	}
	limits := s.limits(target)
	if usage, _ := rest.ParseBool(r.Query.Get("usage")); !usage {
		return rest.OK(quotaView(limits, target))
	}
	used := s.usage(target)
	out := rest.M{"id": target}
	for k, limit := range limits {
		out[k] = rest.M{"limit": limit, "in_use": used[k], "reserved": 0}
	}
	return rest.OK(rest.M{"quota_set": out})
}

func (s *Service) getQuotaDefaults(r *rest.Request) (*rest.Response, error) {
	target, err := s.quotaTarget(r, false)
	if err != nil {
		return nil, err
	}
	return rest.OK(quotaView(defaults(), target))
}

func (s *Service) putQuota(r *rest.Request) (*rest.Response, error) {
	target, err := s.quotaTarget(r, true)
	if err != nil {
		return nil, err
	}
	body := struct {
		Set map[string]any `json:"quota_set"`
	}{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	limits := map[string]int{}
	for k, v := range body.Set {
		if k == "tenant_id" || k == "force" {
			continue
		}
		n, err := strconv.Atoi(fmt.Sprint(v))
		if err != nil {
			return nil, bad("Invalid input for field/attribute %s. Value: %v. not an integer", k, v)
		}
		limits[k] = n
	}
	if err := s.SetQuotas(target, limits); err != nil {
		return nil, err
	}
	return rest.OK(quotaView(s.limits(target), ""))
}

func (s *Service) deleteQuota(r *rest.Request) (*rest.Response, error) {
	target, err := s.quotaTarget(r, true)
	if err != nil {
		return nil, err
	}
	s.quotas.Delete(target)
	return rest.Status(http.StatusOK, nil)
}
