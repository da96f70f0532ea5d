// Package image simulates Glance v2: images with properties, tags and members, upload and download.
//
// An image is queued until its data has come, then active. The data lie in files beside the journal, or in
// memory when the sandbox keeps nothing.
package image

import (
	"crypto/md5"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/control"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
	"github.com/weftcloud/weft/services/sandbox/internal/world"
)

// Image is one image.
type Image struct {
	ID, Name, Status, Visibility, Owner string
	DiskFormat, ContainerFormat         string
	Checksum, HashValue                 string
	Size                                int64 // bytes; -1: not known yet
	MinRAM, MinDisk                     int   // MiB, GiB
	Protected, Hidden, Seeded           bool
	Tags                                []string
	Properties                          map[string]string
	Members                             []Member
	CreatedAt, UpdatedAt                time.Time
}

// Member is a project that an image is shared with.
type Member struct {
	ID, Status           string
	CreatedAt, UpdatedAt time.Time
}

// Service is the simulated Glance.
type Service struct {
	rest.Service
	images *world.Table[Image]
	dir    string // "" : memory
	blobs  map[string][]byte
	admin  string // project that owns the seeds
}

// New makes the service, loads its state and seeds it when it is empty. dir is where image data go.
func New(w *rest.World, prefix, dir, adminProject string, auth func(string, time.Time) *rest.Token) (*Service, error) {
	s := &Service{images: world.NewTable[Image](w.Journal, "image.images"), dir: dir, blobs: map[string][]byte{}, admin: adminProject}
	s.Service = rest.Service{
		Name: "image", Prefix: prefix, World: w, Routes: s.routes(), WriteError: rest.WriteHTML, Authenticate: auth,
		Unauthorized: func(w http.ResponseWriter, r *http.Request) {
			rest.WriteHTML(w, r, http.StatusUnauthorized, "", "This server could not verify that you are authorized to access the document you requested. Either you supplied the wrong credentials (e.g., bad password), or your browser does not understand how to supply the credentials required.")
		},
	}
	s.Prepare()
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("image folder: %w", err)
		}
	}
	if err := s.images.Load(); err != nil {
		return nil, err
	}
	s.seed()
	return s, nil
}

// seeds are the images of a fresh cloud, as in the lab plus a Debian.
var seeds = []struct {
	name, distro    string
	minRAM, minDisk int
}{{"tiny", "debian", 96, 1}, {"debian-12", "debian", 128, 1}, {"coreos-stub", "fedora-coreos", 96, 1}}

func (s *Service) seed() {
	now := s.World.Clock().UTC().Truncate(time.Second)
	fresh := s.images.Len() == 0
	for i, seed := range seeds {
		sum := md5.Sum([]byte("weft sandbox image " + seed.name))
		id := seedID(sum)
		data := []byte("weft sandbox: the disk of " + seed.name + "\n")
		s.blobs[id] = data // seeds are small: never on disk
		if !fresh {
			continue
		}
		img := &Image{
			ID: id, Name: seed.name, Visibility: "public", Owner: s.admin, DiskFormat: "raw", ContainerFormat: "bare",
			MinRAM: seed.minRAM, MinDisk: seed.minDisk, Seeded: true, CreatedAt: now.Add(time.Duration(i) * time.Second), UpdatedAt: now,
			Properties: map[string]string{"os_distro": seed.distro, "architecture": "x86_64", "hw_rng_model": "virtio"},
		}
		img.finish(int64(len(data)), sumsOf(data))
		s.images.Put(id, img)
	}
}

// seedID gives a seeded image the same id in every sandbox.
func seedID(sum [16]byte) string {
	sum[6] = sum[6]&0x0f | 0x40
	sum[8] = sum[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

type sums struct{ md5, sha512 string }

func sumsOf(data []byte) sums {
	a, b := md5.Sum(data), sha512.Sum512(data)
	return sums{hex.EncodeToString(a[:]), hex.EncodeToString(b[:])}
}

func (i *Image) finish(size int64, s sums) {
	i.Status, i.Size, i.Checksum, i.HashValue = "active", size, s.md5, s.sha512
}

// Reset brings the service back to its seeds.
func (s *Service) Reset() error {
	var errs []error
	for id := range s.images.All() {
		errs = append(errs, s.dropData(id))
	}
	s.images.Clear()
	s.seed()
	return errors.Join(errs...)
}

// Find yields the image if the project may see it; for Nova and Cinder.
func (s *Service) Find(id, project string) *Image {
	img := s.images.Get(id)
	if img == nil || !img.visible(project) {
		return nil
	}
	return img
}

// Add registers an image made by Nova (createImage) or Cinder; data may be nil.
func (s *Service) Add(img *Image) { s.images.Put(img.ID, img) }

// FromVolume registers an image that Cinder copies a volume into, and gives its id; Finish turns it active.
func (s *Service) FromVolume(r *rest.Request, name string) string {
	now := r.Now.Truncate(time.Second)
	img := &Image{
		ID: rest.NewID(), Name: name, Status: "saving", Visibility: "shared", Owner: r.Token.ProjectID, Size: -1, DiskFormat: "raw", ContainerFormat: "bare",
		Properties: map[string]string{}, CreatedAt: now, UpdatedAt: now,
	}
	s.images.Put(img.ID, img)
	return img.ID
}

// Finish turns an image that Nova or Cinder saves active.
func (s *Service) Finish(id string, now time.Time) {
	img := s.images.Get(id)
	if img == nil || img.Status != "queued" && img.Status != "saving" {
		return
	}
	data := []byte("weft sandbox: snapshot " + id + "\n")
	next := *img
	next.UpdatedAt = now
	if s.dir == "" {
		s.blobs[id] = data
	}
	if s.dir != "" {
		if err := os.WriteFile(filepath.Join(s.dir, id), data, 0o600); err != nil {
			next.Status = "killed"
			s.images.Put(id, &next)
			return
		}
	}
	next.finish(int64(len(data)), sumsOf(data))
	s.images.Put(id, &next)
}

// Inventory lists all images.
func (s *Service) Inventory() []control.InventoryItem {
	var out []control.InventoryItem
	for _, i := range s.images.All() {
		out = append(out, control.InventoryItem{
			Service: "image", Kind: "image", ID: i.ID, Name: i.Name, Project: i.Owner, State: i.Status, Tags: i.Tags,
			Metadata: i.Properties, CreatedAt: i.CreatedAt, Seeded: i.Seeded,
		})
	}
	return out
}

func (i *Image) visible(project string) bool {
	if i.Visibility == "public" || i.Visibility == "community" || i.Owner == project || project == "" {
		return true
	}
	return slices.ContainsFunc(i.Members, func(m Member) bool { return m.ID == project && m.Status != "rejected" })
}

func optional(text string) any {
	if text == "" {
		return nil
	}
	return text
}

func (i *Image) view() rest.M {
	v := rest.M{}
	for k, value := range i.Properties {
		v[k] = value
	}
	maps.Copy(v, rest.M{
		"id": i.ID, "name": optional(i.Name), "disk_format": optional(i.DiskFormat), "container_format": optional(i.ContainerFormat),
		"visibility": i.Visibility, "size": nil, "virtual_size": nil, "status": i.Status, "checksum": optional(i.Checksum),
		"protected": i.Protected, "min_ram": i.MinRAM, "min_disk": i.MinDisk, "owner": i.Owner, "os_hidden": i.Hidden,
		"os_hash_algo": nil, "os_hash_value": optional(i.HashValue), "created_at": rest.Seconds(i.CreatedAt),
		"updated_at": rest.Seconds(i.UpdatedAt), "tags": append([]string{}, i.Tags...), "self": "/v2/images/" + i.ID,
		"file": "/v2/images/" + i.ID + "/file", "schema": "/v2/schemas/image",
	})
	if i.Size >= 0 {
		v["size"], v["virtual_size"] = i.Size, i.Size
	}
	if i.HashValue != "" {
		v["os_hash_algo"], v["stores"] = "sha512", "file"
	}
	return v
}

func (s *Service) dropData(id string) error {
	delete(s.blobs, id)
	if s.dir == "" {
		return nil
	}
	if err := os.Remove(filepath.Join(s.dir, id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove image data: %w", err)
	}
	return nil
}

// store reads the data of an image from the client; it runs without the lock.
func (s *Service) store(id string, body io.Reader) (size int64, data []byte, got sums, err error) {
	a, b := md5.New(), sha512.New()
	in := io.TeeReader(body, io.MultiWriter(a, b))
	if s.dir == "" {
		data, err = io.ReadAll(in)
		size = int64(len(data))
	}
	if s.dir != "" {
		size, err = writeFile(filepath.Join(s.dir, id), in)
	}
	if err != nil {
		return 0, nil, sums{}, rest.Errorf(http.StatusBadRequest, "", "read image data: %v", err)
	}
	return size, data, sums{hex.EncodeToString(a.Sum(nil)), hex.EncodeToString(b.Sum(nil))}, nil
}

func writeFile(path string, in io.Reader) (int64, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	size, err := io.Copy(f, in)
	return size, errors.Join(err, f.Close())
}
