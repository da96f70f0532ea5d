// Package compute simulates Nova v2.1 with microversions up to 2.93.
//
// What a server does over time is a list of steps in the server itself: each has a moment, the states that it
// brings (task, vm, power) and a deed (allocate networks, finish a resize, be gone). The agenda of the world runs
// the steps that are due; a sandbox that was killed finds them in its journal and goes on.
//
//	create: scheduling → (deed network) block_device_mapping → spawning → ACTIVE; a failed deed ends in ERROR with a fault
//	delete: deleting → (deed gone) 404
//
// Ports are Neutron's and volumes are Cinder's: the deeds call those services, and addresses are read from the
// ports whenever a server is shown.
package compute

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/control"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/image"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/network"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/volume"
	"github.com/weftcloud/weft/services/sandbox/internal/world"
)

// Flavor is a flavor. RAM is in MiB, disks in GiB.
type Flavor struct {
	ID, Name, Description             string
	VCPUs, RAM, Disk, Ephemeral, Swap int
	Public, Seeded                    bool
	ExtraSpecs                        map[string]string
}

// Server is one server.
type Server struct {
	ID, Name, Description, Project, User, Zone string
	ImageID, KeyName, UserData, Hostname       string
	Flavor                                     Flavor  // as it was when the server was made or resized
	NewFlavor, OldFlavor                       *Flavor // while a resize runs, and until it is confirmed
	Metadata                                   map[string]string
	Tags                                       []string
	ConfigDrive, Locked                        bool
	LockedReason                               string
	AccessIPv4, AccessIPv6                     string
	VMState, TaskState                         string
	Power                                      int
	Fault                                      *Fault
	Networks                                   []network.Attachment
	NoNetwork                                  bool
	Groups                                     []string // security group ids for new ports
	GroupNames                                 []string
	Ports                                      []ServerPort
	Disks                                      []Disk
	ServerGroup                                string
	Number                                     int
	Caller                                     rest.Token // whose rights the build uses
	Next                                       []Step
	CreatedAt, UpdatedAt, LaunchedAt           time.Time
}

// ServerPort is a port of a server; Made: Nova made it and deletes it.
type ServerPort struct {
	ID       string
	Made     bool
	Tag      string
	DetachAt time.Time // zero: stays
}

// Disk is one block device of a server.
type Disk struct {
	Source, Destination, UUID, Volume, Device, Tag, Attachment, ID, VolumeType string
	Size, BootIndex                                                            int
	DeleteOnTermination                                                        bool
}

// Fault is why a server is in ERROR.
type Fault struct {
	Code    int
	Message string
	Created time.Time
}

// Step is one thing that happens to a server at a moment.
type Step struct {
	At       time.Time
	VM, Task string // states from then on
	Power    int
	Do       string
}

// Keypair is a key of one user.
type Keypair struct {
	Number                                   int
	Name, User, PublicKey, Fingerprint, Type string
	CreatedAt                                time.Time
}

// ServerGroup is a server group.
type ServerGroup struct {
	ID, Name, Policy, Project, User string
	Rules                           map[string]int
	CreatedAt                       time.Time
}

// byProject is the index of servers, groups; byUser the one of keypairs.
const (
	byProject = 0
	byUser    = 0
	byGroup   = 1
)

type usage struct{ instances, cores, ram int }

// Service is the simulated Nova.
type Service struct {
	rest.Service
	servers  *world.Table[Server]
	deleted  *world.Table[Server]
	flavors  *world.Table[Flavor]
	keypairs *world.Table[Keypair]
	groups   *world.Table[ServerGroup]
	quotas   *world.Table[map[string]int]
	images   *image.Service
	networks *network.Service
	volumes  *volume.Service
	used     map[string]*usage
	number   int
}

// New makes the service, loads its state and seeds flavors when there are none.
func New(w *rest.World, prefix string, images *image.Service, networks *network.Service, volumes *volume.Service, auth func(string, time.Time) *rest.Token) (*Service, error) {
	j := w.Journal
	s := &Service{
		servers: world.NewTable(j, "compute.servers", func(v *Server) []string { return []string{v.Project} },
			func(v *Server) []string { return []string{v.ServerGroup} }),
		deleted:  world.NewTable[Server](j, "compute.deleted"),
		flavors:  world.NewTable[Flavor](j, "compute.flavors"),
		keypairs: world.NewTable(j, "compute.keypairs", func(k *Keypair) []string { return []string{k.User} }),
		groups:   world.NewTable(j, "compute.server_groups", func(g *ServerGroup) []string { return []string{g.Project} }),
		quotas:   world.NewTable[map[string]int](j, "compute.quotas"),
		images:   images, networks: networks, volumes: volumes, used: map[string]*usage{},
	}
	s.Service = rest.Service{
		Name: "compute", Prefix: prefix, World: w, Routes: s.routes(), WriteError: rest.WriteFault, Authenticate: auth, Negotiate: negotiate,
	}
	s.Prepare()
	for _, load := range []func() error{s.servers.Load, s.deleted.Load, s.flavors.Load, s.keypairs.Load, s.groups.Load, s.quotas.Load} {
		if err := load(); err != nil {
			return nil, err
		}
	}
	for _, v := range s.servers.All() {
		s.count(v, 1)
		s.number = max(s.number, v.Number)
		s.watch(v)
		for _, p := range v.Ports {
			s.watchDetach(v.ID, p)
		}
	}
	for _, k := range s.keypairs.All() {
		s.number = max(s.number, k.Number)
	}
	s.seed()
	return s, nil
}

func (s *Service) seed() {
	if s.flavors.Len() > 0 {
		return
	}
	for _, f := range []Flavor{
		{ID: "1", Name: "m1.tiny", VCPUs: 1, RAM: 128, Disk: 1},
		{ID: "2", Name: "m1.small", VCPUs: 1, RAM: 256, Disk: 2},
		{ID: "3", Name: "m1.medium", VCPUs: 2, RAM: 512, Disk: 4},
		{ID: "4", Name: "m1.large", VCPUs: 4, RAM: 1024, Disk: 8},
	} {
		f.Public, f.Seeded = true, true
		s.flavors.Put(f.ID, &f)
	}
}

// Reset brings the service back to its seeds.
func (s *Service) Reset() {
	s.servers.Clear()
	s.deleted.Clear()
	s.flavors.Clear()
	s.keypairs.Clear()
	s.groups.Clear()
	s.quotas.Clear()
	s.used = map[string]*usage{}
	s.seed()
}

// HighestMinor is the highest microversion, 2.93.
const HighestMinor = 93

func negotiate(w http.ResponseWriter, r *rest.Request) error {
	w.Header().Set("Vary", "OpenStack-API-Version, X-OpenStack-Nova-API-Version")
	version := r.HTTP.Header.Get("X-OpenStack-Nova-API-Version")
	for _, part := range strings.Split(r.HTTP.Header.Get("OpenStack-API-Version"), ",") {
		if service, v, ok := strings.Cut(strings.TrimSpace(part), " "); ok && service == "compute" {
			version = v
		}
	}
	r.Minor = 1
	if version != "" {
		minor, err := rest.Microversion(version, 2, 1, HighestMinor)
		if err != nil {
			return err
		}
		r.Minor = minor
	}
	w.Header().Set("OpenStack-API-Version", fmt.Sprintf("compute 2.%d", r.Minor))
	w.Header().Set("X-OpenStack-Nova-API-Version", fmt.Sprintf("2.%d", r.Minor))
	return nil
}

func bad(format string, args ...any) error {
	return rest.Errorf(http.StatusBadRequest, "", format, args...)
}

func conflict(format string, args ...any) error {
	return rest.Errorf(http.StatusConflict, "", format, args...)
}

func notFound(format string, args ...any) error {
	return rest.Errorf(http.StatusNotFound, "", format, args...)
}

func policy(rule string) error {
	return rest.Errorf(http.StatusForbidden, "", "Policy doesn't allow %s to be performed.", rule)
}

// Steps.

// plan replaces what is to happen to a server.
func (s *Service) plan(now time.Time, v *Server, steps ...Step) {
	v.Next, v.UpdatedAt = steps, now
	s.servers.Put(v.ID, v)
	s.watch(v)
}

func (s *Service) watch(v *Server) {
	if len(v.Next) == 0 {
		return
	}
	id := v.ID
	s.World.Agenda.At(v.Next[0].At, func(at time.Time) {
		v := s.servers.Get(id)
		if v == nil || len(v.Next) == 0 || v.Next[0].At.After(at) {
			return
		}
		step := v.Next[0]
		v.Next = v.Next[1:]
		v.VMState, v.TaskState, v.Power, v.UpdatedAt = step.VM, step.Task, step.Power, step.At
		if step.Do == "gone" {
			s.gone(step.At, v)
			return
		}
		s.do(step.At, v, step.Do)
		s.servers.Put(id, v)
		s.watch(v)
	})
}

// do is what a step brings besides states.
func (s *Service) do(now time.Time, v *Server, deed string) {
	switch deed {
	case "network":
		s.build(now, v)
	case "launched":
		v.LaunchedAt = now
	case "resized":
		old := v.Flavor
		s.count(v, -1)
		v.Flavor, v.OldFlavor, v.NewFlavor = *v.NewFlavor, &old, nil
		s.count(v, 1)
	case "confirmed":
		v.OldFlavor = nil
	case "reverted":
		s.count(v, -1)
		v.Flavor, v.OldFlavor = *v.OldFlavor, nil
		s.count(v, 1)
	}
	if id, ok := strings.CutPrefix(deed, "image "); ok {
		s.images.Finish(id, now)
	}
}

// fail puts a server into ERROR.
func (s *Service) fail(now time.Time, v *Server, message string) {
	v.VMState, v.TaskState, v.Power, v.Next = "error", "", 0, nil
	v.Fault = &Fault{Code: 500, Message: message, Created: now}
	v.UpdatedAt = now
}

// Capacity of the only host: what a flavor may ask for.
const (
	hostRAM  = 512 * 1024 // MiB
	hostDisk = 64 * 1024  // GiB
	hostCPUs = 512
)

// build makes the ports and volumes of a new server.
func (s *Service) build(now time.Time, v *Server) {
	active := v.Next[len(v.Next)-1].At
	if v.Flavor.RAM > hostRAM || v.Flavor.Disk > hostDisk || v.Flavor.VCPUs > hostCPUs {
		s.release(now, v)
		s.fail(now, v, "No valid host was found. ")
		return
	}
	if v.ImageID != "" && s.images.Find(v.ImageID, "") == nil {
		s.release(now, v)
		s.fail(now, v, fmt.Sprintf("Build of instance %s aborted: Image %s could not be found.", v.ID, v.ImageID))
		return
	}
	for i := range v.Networks {
		if err := s.plug(now, active, v, v.Networks[i]); err != nil {
			s.release(now, v)
			s.fail(now, v, fmt.Sprintf("Build of instance %s aborted: %s", v.ID, reason(err)))
			return
		}
	}
	for i := range v.Disks {
		if err := s.provide(now, active, v, &v.Disks[i]); err != nil {
			s.release(now, v)
			s.fail(now, v, fmt.Sprintf("Build of instance %s aborted: Block Device Mapping is Invalid: %s", v.ID, reason(err)))
			return
		}
	}
}

func reason(err error) string {
	if e, ok := errors.AsType[*rest.Error](err); ok {
		return e.Message
	}
	return err.Error()
}

func (s *Service) plug(now, active time.Time, v *Server, a network.Attachment) error {
	t := v.Caller
	p, made, err := s.networks.Attach(&t, now, active, a, v.ID, v.Groups)
	if err != nil {
		return err
	}
	v.Ports = append(slices.Clone(v.Ports), ServerPort{ID: p.ID, Made: made, Tag: a.Tag})
	return nil
}

// provide makes the volume of a disk, where it is made from something, and attaches it.
func (s *Service) provide(now, active time.Time, v *Server, d *Disk) error {
	if d.Destination != "volume" || d.Attachment != "" {
		return nil
	}
	t := v.Caller
	if d.Volume == "" {
		spec := volume.Spec{}
		if d.Size > 0 {
			spec.Size = d.Size
		}
		switch d.Source {
		case "image":
			spec.ImageID = &d.UUID
		case "snapshot":
			spec.SnapshotID = &d.UUID
		}
		if d.VolumeType != "" {
			spec.Type = &d.VolumeType
		}
		made, err := s.volumes.Make(&t, now, spec)
		if err != nil {
			return err
		}
		d.Volume = made.ID
	}
	vol := s.volumes.Find(&t, d.Volume)
	if vol == nil {
		return notFound("Volume %s could not be found.", d.Volume)
	}
	d.Attachment = s.volumes.Reserve(now, vol, v.ID, d.Device, active)
	return nil
}

// release frees the ports and volumes of a server.
func (s *Service) release(now time.Time, v *Server) {
	for _, p := range v.Ports {
		s.networks.Detach(now, p.ID, p.Made)
	}
	for _, d := range v.Disks {
		if d.Volume == "" {
			continue
		}
		if d.DeleteOnTermination {
			s.volumes.Delete(now, d.Volume)
			continue
		}
		s.volumes.Detach(now, d.Volume, v.ID)
	}
	v.Ports = nil
	v.Disks = slices.DeleteFunc(slices.Clone(v.Disks), func(d Disk) bool { return d.Destination == "volume" })
}

// keptDeleted is how many deleted servers changes-since can still tell about.
const keptDeleted = 1000

func (s *Service) gone(now time.Time, v *Server) {
	s.release(now, v)
	s.count(v, -1)
	s.servers.Delete(v.ID)
	v.VMState, v.TaskState, v.Power, v.UpdatedAt, v.Next = "deleted", "", 0, now, nil
	s.deleted.Put(v.ID, v)
	for id := range s.deleted.All() {
		if s.deleted.Len() <= keptDeleted {
			break
		}
		s.deleted.Delete(id)
	}
}

func (s *Service) count(v *Server, sign int) {
	u := s.used[v.Project]
	if u == nil {
		u = &usage{}
		s.used[v.Project] = u
	}
	u.instances += sign
	u.cores += sign * v.Flavor.VCPUs
	u.ram += sign * v.Flavor.RAM
}

// at is the moment after a part of the latency named by key.
func (s *Service) at(now time.Time, key string, percent int) time.Time {
	return now.Add(s.World.Control.StateLatency("compute."+key) * time.Duration(percent) / 100)
}

// Status is what the API shows for the states.
func (v *Server) Status() string {
	task := v.TaskState
	switch v.VMState {
	case "building":
		return "BUILD"
	case "error":
		return "ERROR"
	case "deleted":
		return "DELETED"
	case "resized":
		if task == "resize_reverting" {
			return "REVERT_RESIZE"
		}
		return "VERIFY_RESIZE"
	}
	switch {
	case strings.HasPrefix(task, "resize_"):
		return "RESIZE"
	case strings.HasPrefix(task, "rebuild"):
		return "REBUILD"
	case task == "rebooting":
		return "REBOOT"
	case strings.HasSuffix(task, "_hard"):
		return "HARD_REBOOT"
	case v.VMState == "stopped":
		return "SHUTOFF"
	case v.VMState == "paused":
		return "PAUSED"
	case v.VMState == "suspended":
		return "SUSPENDED"
	}
	return "ACTIVE"
}

func hostID(project string) string {
	sum := sha256.Sum224([]byte(project + network.Host))
	return hex.EncodeToString(sum[:])
}

// Inventory lists servers, keypairs, server groups and flavors.
func (s *Service) Inventory() []control.InventoryItem {
	var out []control.InventoryItem
	for _, v := range s.servers.All() {
		out = append(out, control.InventoryItem{
			Service: "compute", Kind: "server", ID: v.ID, Name: v.Name, Project: v.Project, State: v.Status(), Tags: v.Tags,
			Description: v.Description, Metadata: v.Metadata, CreatedAt: v.CreatedAt,
			Settings: map[string]string{"flavor": v.Flavor.Name, "image": v.ImageID, "key": v.KeyName},
		})
	}
	for _, k := range s.keypairs.All() {
		out = append(out, control.InventoryItem{
			Service: "compute", Kind: "keypair", ID: k.User + "/" + k.Name, Name: k.Name, CreatedAt: k.CreatedAt,
			Metadata: map[string]string{"user_id": k.User, "fingerprint": k.Fingerprint},
		})
	}
	for _, g := range s.groups.All() {
		out = append(out, control.InventoryItem{Service: "compute", Kind: "server_group", ID: g.ID, Name: g.Name, Project: g.Project, CreatedAt: g.CreatedAt})
	}
	for _, f := range s.flavors.All() {
		out = append(out, control.InventoryItem{Service: "compute", Kind: "flavor", ID: f.ID, Name: f.Name, Seeded: f.Seeded})
	}
	return out
}
