package volume

import (
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

func snapshotView(r *rest.Request, v *Snapshot, detail bool) rest.M {
	out := rest.M{
		"id": v.ID, "created_at": rest.Micros(v.CreatedAt), "updated_at": nil, "name": optional(v.Name), "description": optional(v.Description),
		"volume_id": v.VolumeID, "status": v.Status, "size": v.Size, "metadata": orEmpty(v.Metadata),
	}
	if v.UpdatedAt.After(v.CreatedAt) {
		out["updated_at"] = rest.Micros(v.UpdatedAt)
	}
	for name, since := range map[string]int{"group_snapshot_id": 14, "user_id": 41, "consumes_quota": 65} {
		if r.Minor >= since {
			out[name] = map[string]any{"user_id": v.User, "consumes_quota": true}[name]
		}
	}
	if detail {
		out["os-extended-snapshot-attributes:project_id"] = v.Project
		out["os-extended-snapshot-attributes:progress"] = "100%"
		if v.Status == "creating" {
			out["os-extended-snapshot-attributes:progress"] = "0%"
		}
	}
	return out
}

func (s *Service) snapshot(r *rest.Request) (*Snapshot, error) {
	v := s.Snapshot(r.Token, r.Params["id"])
	if v == nil {
		return nil, missing("Snapshot", r.Params["id"])
	}
	return v, nil
}

func (s *Service) createSnapshot(r *rest.Request) (*rest.Response, error) {
	in := struct {
		VolumeID          string `json:"volume_id"`
		Name, Description *string
		Metadata          map[string]string
		Force             any
	}{}
	if err := field(r, "snapshot", &in); err != nil {
		return nil, err
	}
	if in.VolumeID == "" {
		return nil, bad("'volume_id' is a required property")
	}
	source := s.Find(r.Token, in.VolumeID)
	if source == nil {
		return nil, missing("Volume", in.VolumeID)
	}
	force, _ := rest.ParseBool(fmt.Sprint(in.Force))
	if force = force || r.Minor >= 66; source.Status != "available" && !(force && source.Status == "in-use") {
		return nil, bad("Invalid volume: Volume %s status must be available, but current status is: %s.", source.ID, source.Status)
	}
	if err := s.checkQuota(r.Token.ProjectID, "snapshots", 1, source.Size); err != nil {
		return nil, err
	}
	v := &Snapshot{
		ID: rest.NewID(), Name: text(in.Name), Description: text(in.Description), Project: source.Project, User: r.Token.UserID, VolumeID: source.ID,
		Status: "creating", Size: source.Size, Metadata: in.Metadata, CreatedAt: r.Now, UpdatedAt: r.Now,
		Next: []Due{{"available", s.later(r.Now, "snapshot.available")}},
	}
	s.snapshots.Put(v.ID, v)
	s.watchSnapshot(v)
	return rest.Status(http.StatusAccepted, rest.M{"snapshot": snapshotView(r, v, false)})
}

func (s *Service) getSnapshot(r *rest.Request) (*rest.Response, error) {
	v, err := s.snapshot(r)
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"snapshot": snapshotView(r, v, true)})
}

func (s *Service) updateSnapshot(r *rest.Request) (*rest.Response, error) {
	v, err := s.snapshot(r)
	if err != nil {
		return nil, err
	}
	in := struct{ Name, Description *string }{}
	if err := field(r, "snapshot", &in); err != nil {
		return nil, err
	}
	if in.Name != nil {
		v.Name = *in.Name
	}
	if in.Description != nil {
		v.Description = *in.Description
	}
	v.UpdatedAt = r.Now
	s.snapshots.Put(v.ID, v)
	return rest.OK(rest.M{"snapshot": snapshotView(r, v, false)})
}

func (s *Service) deleteSnapshot(r *rest.Request) (*rest.Response, error) {
	v, err := s.snapshot(r)
	if err != nil {
		return nil, err
	}
	if v.Status != "available" && v.Status != "error" {
		return nil, bad("Invalid snapshot: Snapshot status must be available or error and must not be in a group, but current status is: %s.", v.Status)
	}
	end := gone
	if s.moving(v.VolumeID) { // backends that keep volumes as files fail then
		end = "error_deleting"
	}
	v.Status, v.Next, v.UpdatedAt = "deleting", []Due{{end, s.later(r.Now, "snapshot.deleted")}}, r.Now
	s.snapshots.Put(v.ID, v)
	s.watchSnapshot(v)
	return rest.Status(http.StatusAccepted, nil)
}

// snapshotAction is what an operator does to a snapshot that is stuck.
func (s *Service) snapshotAction(r *rest.Request) (*rest.Response, error) {
	v, err := s.snapshot(r)
	if err != nil {
		return nil, err
	}
	body := map[string]map[string]any{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	args, given := body["os-reset_status"]
	if !given || len(body) > 1 {
		return nil, bad("There is no such action. Verify the request body and Content-Type header and try again.")
	}
	if !r.Token.Admin() {
		return nil, rest.Errorf(http.StatusForbidden, "", "Policy doesn't allow volume_extension:snapshot_admin_actions:reset_status to be performed.")
	}
	status, ok := args["status"].(string)
	if !ok || !slices.Contains([]string{"available", "creating", "deleting", "error", "error_deleting"}, status) {
		return nil, bad("Invalid input for field/attribute status. Value: %v.", args["status"])
	}
	v.Status, v.Next, v.UpdatedAt = status, nil, r.Now
	s.snapshots.Put(v.ID, v)
	return rest.Status(http.StatusAccepted, nil)
}

var snapshotFilters = []string{"name", "status", "volume_id", "metadata", "project_id", "availability_zone", "consumes_quota"}

func (s *Service) listSnapshots(detail bool) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		if err := checkWords(r, snapshotFilters); err != nil {
			return nil, err
		}
		q := r.Query
		var found []*Snapshot
		for _, v := range s.snapshots.Newest() {
			if v.Project != r.Token.ProjectID && !allTenants(r) || q.Has("name") && q.Get("name") != v.Name || q.Has("status") && q.Get("status") != v.Status ||
				q.Has("volume_id") && q.Get("volume_id") != v.VolumeID || q.Has("metadata") && !contains(v.Metadata, q.Get("metadata")) {
				continue
			}
			found = append(found, v)
		}
		sorted, err := sortBy(r, found, func(v *Snapshot, key string) (string, bool) {
			switch key {
			case "name", "display_name":
				return v.Name, true
			case "id":
				return v.ID, true
			case "created_at":
				return v.CreatedAt.Format("20060102150405.000000000"), true
			}
			return "", false
		})
		if err != nil {
			return nil, err
		}
		return paginate(r, "snapshots", sorted, func(v *Snapshot) string { return v.ID }, func(v *Snapshot) rest.M { return snapshotView(r, v, detail) })
	}
}

// Metadata, of volumes and of snapshots.

// metadataOf yields the metadata of the object in the path and a way to store new ones.
func (s *Service) metadataOf(kind string, r *rest.Request) (map[string]string, func(map[string]string), error) {
	if kind == "snapshot" {
		v, err := s.snapshot(r)
		if err != nil {
			return nil, nil, err
		}
		return orEmpty(v.Metadata), func(m map[string]string) { v.Metadata = m; s.snapshots.Put(v.ID, v) }, nil
	}
	v, err := s.volume(r)
	if err != nil {
		return nil, nil, err
	}
	return orEmpty(v.Metadata), func(m map[string]string) { v.Metadata = m; s.volumes.Put(v.ID, v) }, nil
}

func noKey(kind string, r *rest.Request) error {
	name := map[string]string{"volume": "Volume", "snapshot": "Snapshot"}[kind]
	return rest.Errorf(http.StatusNotFound, "", "%s %s has no metadata with key %s.", name, r.Params["id"], r.Params["key"])
}

func (s *Service) getMetadata(kind string) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		meta, _, err := s.metadataOf(kind, r)
		if err != nil {
			return nil, err
		}
		return rest.OK(rest.M{"metadata": meta})
	}
}

func (s *Service) setMetadata(kind string, replace bool) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		meta, store, err := s.metadataOf(kind, r)
		if err != nil {
			return nil, err
		}
		in := map[string]string{}
		if err := field(r, "metadata", &in); err != nil {
			return nil, err
		}
		next := map[string]string{}
		if !replace {
			next = maps.Clone(meta)
		}
		maps.Copy(next, in)
		store(next)
		return rest.OK(rest.M{"metadata": next})
	}
}

func (s *Service) getMetadataItem(kind string) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		meta, _, err := s.metadataOf(kind, r)
		if err != nil {
			return nil, err
		}
		value, ok := meta[r.Params["key"]]
		if !ok {
			return nil, noKey(kind, r)
		}
		return rest.OK(rest.M{"meta": rest.M{r.Params["key"]: value}})
	}
}

func (s *Service) setMetadataItem(kind string) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		meta, store, err := s.metadataOf(kind, r)
		if err != nil {
			return nil, err
		}
		in := map[string]string{}
		if err := field(r, "meta", &in); err != nil {
			return nil, err
		}
		value, ok := in[r.Params["key"]]
		if !ok || len(in) != 1 {
			return nil, bad("Request body and URI mismatch")
		}
		next := maps.Clone(meta)
		next[r.Params["key"]] = value
		store(next)
		return rest.OK(rest.M{"meta": in})
	}
}

func (s *Service) deleteMetadataItem(kind string) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		meta, store, err := s.metadataOf(kind, r)
		if err != nil {
			return nil, err
		}
		if _, ok := meta[r.Params["key"]]; !ok {
			return nil, noKey(kind, r)
		}
		next := maps.Clone(meta)
		delete(next, r.Params["key"])
		store(next)
		return rest.Status(http.StatusOK, nil)
	}
}
