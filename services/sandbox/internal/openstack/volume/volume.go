// Package volume simulates Cinder v3: volumes, snapshots, types, attachments and quotas.
//
// A volume's state is one of
//
//	creating → (downloading →) available → reserved → attaching → in-use → detaching → available
//	available|in-use → extending | uploading → as before;  available → retyping → available;  any at rest → deleting → gone
//
// The state that comes next and its moment stand in the volume, so they survive a restart; the agenda of the world
// only says when to look. Nova calls Reserve, Attach and Detach; Cinder never calls Nova.
package volume

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/control"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/image"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
	"github.com/weftcloud/weft/services/sandbox/internal/world"
)

// Due is a state that comes at a moment.
type Due struct {
	Status string
	At     time.Time
}

// gone is the status that stands for removal.
const gone = "deleted"

// Volume is one volume. Sizes are in GiB.
type Volume struct {
	ID, Name, Description, Project, User, Status string
	Type, Zone, SnapshotID, SourceID             string
	Size                                         int
	NewType                                      string
	NewSize                                      int
	UploadID                                     string // the image that it is being copied into
	Bootable, ReadOnly, MultiAttach              bool
	Metadata                                     map[string]string
	ImageMetadata                                map[string]string
	Attachments                                  []Attachment
	Next                                         []Due
	CreatedAt, UpdatedAt                         time.Time
}

// Attachment ties a volume to a server.
type Attachment struct {
	ID, Server, Device string
	At                 time.Time
}

// Snapshot is one snapshot.
type Snapshot struct {
	ID, Name, Description, Project, User, VolumeID, Status string
	Size                                                   int
	Metadata                                               map[string]string
	Next                                                   []Due
	CreatedAt, UpdatedAt                                   time.Time
}

// Type is a volume type.
type Type struct{ ID, Name string }

// types of the cloud; the first is the default.
var types = []Type{
	{"0f3c1a52-7a55-4c8e-9a2f-6b1f6c0d1e01", "standard"},
	{"0f3c1a52-7a55-4c8e-9a2f-6b1f6c0d1e02", "fast"},
	{"0f3c1a52-7a55-4c8e-9a2f-6b1f6c0d1e03", "__DEFAULT__"},
}

// Service is the simulated Cinder.
type Service struct {
	rest.Service
	volumes   *world.Table[Volume]
	snapshots *world.Table[Snapshot]
	quotas    *world.Table[map[string]int]
	images    *image.Service
}

// byProject is the index of every table; bySource is the index of snapshots by volume.
const (
	byProject = iota
	bySource
)

// New makes the service and loads its state.
func New(w *rest.World, prefix string, images *image.Service, auth func(string, time.Time) *rest.Token) (*Service, error) {
	s := &Service{
		volumes: world.NewTable(w.Journal, "volume.volumes", func(v *Volume) []string { return []string{v.Project} }),
		snapshots: world.NewTable(w.Journal, "volume.snapshots", func(v *Snapshot) []string { return []string{v.Project} },
			func(v *Snapshot) []string { return []string{v.VolumeID} }),
		quotas: world.NewTable[map[string]int](w.Journal, "volume.quotas"), images: images,
	}
	s.Service = rest.Service{
		Name: "volume", Prefix: prefix, World: w, Routes: s.routes(), WriteError: writeError, Authenticate: auth, Negotiate: negotiate,
		NoRoute: rest.WriteHTML,
	}
	s.Prepare()
	for _, load := range []func() error{s.volumes.Load, s.snapshots.Load, s.quotas.Load} {
		if err := load(); err != nil {
			return nil, err
		}
	}
	for _, v := range s.volumes.All() {
		s.watchVolume(v)
	}
	for _, v := range s.snapshots.All() {
		s.watchSnapshot(v)
	}
	return s, nil
}

// Reset forgets everything.
func (s *Service) Reset() {
	s.volumes.Clear()
	s.snapshots.Clear()
	s.quotas.Clear()
}

// HighestMinor is the highest microversion, 3.70.
const HighestMinor = 70

func negotiate(w http.ResponseWriter, r *rest.Request) error {
	w.Header().Set("Vary", "OpenStack-API-Version")
	version := ""
	for _, part := range strings.Split(r.HTTP.Header.Get("OpenStack-API-Version"), ",") {
		if service, v, ok := strings.Cut(strings.TrimSpace(part), " "); ok && service == "volume" {
			version = v
		}
	}
	if version != "" {
		minor, err := rest.Microversion(version, 3, 0, HighestMinor)
		if err != nil {
			return err
		}
		r.Minor = minor
	}
	w.Header().Set("OpenStack-API-Version", fmt.Sprintf("volume 3.%d", r.Minor))
	return nil
}

// writeError is Nova's dialect; over-limit errors carry Retry-After.
func writeError(w http.ResponseWriter, r *http.Request, status int, kind, message string) {
	if status == http.StatusRequestEntityTooLarge && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", "0")
	}
	rest.WriteFault(w, r, status, kind, message)
}

func bad(format string, args ...any) error {
	return rest.Errorf(http.StatusBadRequest, "", format, args...)
}

func missing(kind, id string) error {
	return rest.Errorf(http.StatusNotFound, "", "%s %s could not be found.", kind, id)
}

// States.

// become sets a volume's state and what follows.
func (s *Service) become(now time.Time, v *Volume, status string, next ...Due) {
	v.Status, v.Next, v.UpdatedAt = status, next, now
	s.volumes.Put(v.ID, v)
	s.watchVolume(v)
}

func (s *Service) watchVolume(v *Volume) {
	if len(v.Next) == 0 {
		return
	}
	id := v.ID
	s.World.Agenda.At(v.Next[0].At, func(at time.Time) {
		v := s.volumes.Get(id)
		if v == nil || len(v.Next) == 0 || v.Next[0].At.After(at) {
			return
		}
		next := v.Next[0]
		if next.Status == gone {
			s.volumes.Delete(id)
			return
		}
		s.arrive(v, next.Status)
		s.become(next.At, v, next.Status, v.Next[1:]...)
	})
}

// arrive does what a state brings with it.
func (s *Service) arrive(v *Volume, status string) {
	if v.NewSize > 0 && status != "extending" {
		v.Size, v.NewSize = v.NewSize, 0
	}
	if v.NewType != "" && status != "retyping" {
		v.Type, v.NewType = v.NewType, ""
	}
	if v.UploadID != "" && status != "uploading" {
		s.images.Finish(v.UploadID, s.World.Clock().UTC())
		v.UploadID = ""
	}
	if status == "available" && len(v.Attachments) > 0 && v.Status == "detaching" {
		v.Attachments = nil
	}
}

func (s *Service) watchSnapshot(v *Snapshot) {
	if len(v.Next) == 0 {
		return
	}
	id := v.ID
	s.World.Agenda.At(v.Next[0].At, func(at time.Time) {
		v := s.snapshots.Get(id)
		if v == nil || len(v.Next) == 0 || v.Next[0].At.After(at) {
			return
		}
		if v.Next[0].Status == gone {
			s.snapshots.Delete(id)
			return
		}
		v.Status, v.UpdatedAt, v.Next = v.Next[0].Status, v.Next[0].At, v.Next[1:]
		s.snapshots.Put(id, v)
		s.watchSnapshot(v)
	})
}

// moving tells whether a volume is in a state in which a backend that keeps volumes as files fails to delete a snapshot of it
// (cinder/volume/drivers/remotefs.py, which takes available, in-use, backing-up, deleting and downloading only). Attaching
// begins with reserved.
func (s *Service) moving(id string) bool {
	v := s.volumes.Get(id)
	return v != nil && !slices.Contains([]string{"available", "in-use", "backing-up", "deleting", "downloading"}, v.Status)
}

func (s *Service) later(now time.Time, key string) time.Time {
	return s.World.Later(now, "volume."+key)
}

// For Nova.

// Find yields a volume of the caller's project.
func (s *Service) Find(t *rest.Token, id string) *Volume {
	v := s.volumes.Get(id)
	if v == nil || v.Project != t.ProjectID && !t.Admin() {
		return nil
	}
	return v
}

// Snapshot yields a snapshot of the caller's project.
func (s *Service) Snapshot(t *rest.Token, id string) *Snapshot {
	v := s.snapshots.Get(id)
	if v == nil || v.Project != t.ProjectID && !t.Admin() {
		return nil
	}
	return v
}

// Make creates a volume for a server that boots from it.
func (s *Service) Make(t *rest.Token, now time.Time, spec Spec) (*Volume, error) {
	return s.make(&rest.Request{Token: t, Now: now}, spec)
}

// Reserve takes an available volume for a server; the caller attaches it next.
func (s *Service) Reserve(now time.Time, v *Volume, server, device string, attached time.Time) string {
	a := Attachment{ID: rest.NewID(), Server: server, Device: device, At: attached}
	v.Attachments = append(slices.Clone(v.Attachments), a)
	middle := now.Add(attached.Sub(now) / 2)
	s.become(now, v, "reserved", Due{"attaching", middle}, Due{"in-use", attached})
	return a.ID
}

// Detach frees a volume from a server; it is available again after the detach latency.
func (s *Service) Detach(now time.Time, id, server string) {
	v := s.volumes.Get(id)
	if v == nil || !slices.ContainsFunc(v.Attachments, func(a Attachment) bool { return a.Server == server }) {
		return
	}
	s.become(now, v, "detaching", Due{"available", s.later(now, "volume.detached")})
}

// Delete removes a volume that a server owned (delete_on_termination), after it was detached.
func (s *Service) Delete(now time.Time, id string) {
	v := s.volumes.Get(id)
	if v == nil {
		return
	}
	v.Attachments = nil
	s.become(now, v, "deleting", Due{gone, s.later(now, "volume.deleted")})
}

// Attached says whether the volume is attached to the server.
func (s *Service) Attached(id, server string) bool {
	v := s.volumes.Get(id)
	return v != nil && slices.ContainsFunc(v.Attachments, func(a Attachment) bool { return a.Server == server })
}

// Inventory lists volumes and snapshots.
func (s *Service) Inventory() []control.InventoryItem {
	var out []control.InventoryItem
	for _, v := range s.volumes.All() {
		var servers []string
		for _, a := range v.Attachments {
			servers = append(servers, a.Server)
		}
		slices.Sort(servers)
		out = append(out, control.InventoryItem{
			Service: "volume", Kind: "volume", ID: v.ID, Name: v.Name, Project: v.Project, State: v.Status, Description: v.Description,
			Metadata: v.Metadata, CreatedAt: v.CreatedAt,
			Settings: map[string]string{"size": strconv.Itoa(v.Size), "type": v.Type, "servers": strings.Join(servers, ",")},
		})
	}
	for _, v := range s.snapshots.All() {
		out = append(out, control.InventoryItem{
			Service: "volume", Kind: "snapshot", ID: v.ID, Name: v.Name, Project: v.Project, State: v.Status, Description: v.Description,
			Metadata: v.Metadata, CreatedAt: v.CreatedAt,
		})
	}
	return out
}

// Quotas.

func defaults() map[string]int {
	out := map[string]int{
		"volumes": 10, "per_volume_gigabytes": -1, "snapshots": 10, "gigabytes": 1000, "backups": 10, "backup_gigabytes": 1000, "groups": 10,
	}
	for _, t := range types {
		out["volumes_"+t.Name], out["gigabytes_"+t.Name], out["snapshots_"+t.Name] = -1, -1, -1
	}
	return out
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
	for _, v := range s.volumes.By(byProject, project) {
		out["volumes"]++
		out["gigabytes"] += max(v.Size, v.NewSize)
		out["volumes_"+v.Type]++
		out["gigabytes_"+v.Type] += max(v.Size, v.NewSize)
	}
	for _, v := range s.snapshots.By(byProject, project) {
		out["snapshots"]++
		out["gigabytes"] += v.Size
		if source := s.volumes.Get(v.VolumeID); source != nil {
			out["snapshots_"+source.Type]++
			out["gigabytes_"+source.Type] += v.Size
		}
	}
	return out
}

// checkQuota refuses more volumes or snapshots ("what") of size GiB in total.
func (s *Service) checkQuota(project, what string, count, size int) error {
	limits := s.limits(project)
	if limits["volumes"] < 0 && limits["snapshots"] < 0 && limits["gigabytes"] < 0 && limits["per_volume_gigabytes"] < 0 {
		return nil // no walk over thousands of volumes when nothing is limited
	}
	used := s.usage(project)
	if per := limits["per_volume_gigabytes"]; per >= 0 && size > per {
		return rest.Errorf(http.StatusRequestEntityTooLarge, "", "VolumeSizeExceedsLimit: Requested volume size %dG is larger than maximum allowed limit %dG.", size, per)
	}
	if limit := limits["gigabytes"]; limit >= 0 && used["gigabytes"]+size > limit {
		return rest.Errorf(http.StatusRequestEntityTooLarge, "", "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed gigabytes quota. Requested %dG, quota is %dG and %dG has been consumed.", size, limit, used["gigabytes"])
	}
	limit := limits[what]
	if limit < 0 || used[what]+count <= limit {
		return nil
	}
	if what == "snapshots" {
		return rest.Errorf(http.StatusRequestEntityTooLarge, "", "SnapshotLimitExceeded: Maximum number of snapshots allowed (%d) exceeded", limit)
	}
	return rest.Errorf(http.StatusRequestEntityTooLarge, "", "VolumeLimitExceeded: Maximum number of volumes allowed (%d) exceeded for quota '%s'.", limit, what)
}

// SetQuotas sets limits of a project.
func (s *Service) SetQuotas(project string, limits map[string]int) error {
	known := defaults()
	for key := range limits {
		if _, ok := known[key]; !ok {
			return bad("Bad key(s) in quota set: %s", key)
		}
	}
	next := map[string]int{}
	if own := s.quotas.Get(project); own != nil {
		maps.Copy(next, *own)
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
