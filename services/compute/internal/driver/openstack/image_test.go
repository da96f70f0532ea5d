package openstack

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/driver/drivertest"
	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"

	"github.com/weftcloud/weft/pkg/cloud/openstack/openstacktest"
)

// disk is an image's data: 200 KiB that begin as qcow2 ones do.
func disk() []byte {
	return append([]byte("QFI\xfb\x00\x00\x00\x03"), bytes.Repeat([]byte("conform "), 25<<10)...)
}

// mirror serves images: the disk at /disk, its first half at /half, and what else tests need.
func mirror(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	serve := func(path string, data []byte) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			if _, err := w.Write(data); err != nil {
				return // who reads only the beginning closes
			}
		})
	}
	serve("/disk", disk())
	serve("/raw", bytes.Repeat([]byte{0x42}, 1<<10))
	serve("/page", []byte("<!DOCTYPE html><html></html>"))
	serve("/packed", []byte("\x1f\x8b\x08rest"))
	mux.HandleFunc("/half", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "205000")
		if _, err := w.Write(disk()[:100<<10]); err != nil {
			return
		}
		panic(http.ErrAbortHandler)
	})
	mux.Handle("/moved", http.RedirectHandler("/disk", http.StatusFound))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// TestImages takes an image through its life: its data are fetched from a mirror, then its title, needs and properties are
// changed.
func TestImages(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		from := mirror(t)
		d := NewImages(p.Session)
		drivertest.Run(t, drivertest.Harness[*computev1.ImageSpec, *computev1.ImageObserved]{
			Driver: d, Name: func(id string) string { return "tenants/conform/images/shop." + id },
			Spec: func(*testing.T) (*computev1.ImageSpec, driver.Refs) {
				return &computev1.ImageSpec{
					Source: &computev1.ImageSource{Url: from + "/moved", Sha256: sum(disk())}, DiskFormat: computev1.DiskFormat_DISK_FORMAT_QCOW2, MinDisk: 1,
					Properties: map[string]string{"os_distro": "debian", "old": "1"},
				}, nil
			},
			Change: func(_ *testing.T, r driver.Request[*computev1.ImageSpec]) (*computev1.ImageSpec, driver.Refs) {
				return &computev1.ImageSpec{
					Source: r.Spec.GetSource(), DiskFormat: r.Spec.GetDiskFormat(), MinDisk: 2, MinRam: 64, Title: "conform image", Visibility: computev1.ImageVisibility_IMAGE_VISIBILITY_SHARED,
					Properties: map[string]string{"os_distro": "ubuntu", "kube_version": "v1.31.4"},
				}, nil
			},
			Outage: p.Outage, Wait: p.Wait, AbsentID: openstacktest.AbsentID,
			Verify: func(t *testing.T, r driver.Request[*computev1.ImageSpec], o *computev1.ImageObserved) {
				if o.GetSizeBytes() != int64(len(disk())) || o.GetTitle() != title(r) || !strings.Contains(o.GetChecksum(), ":") {
					t.Errorf("observed %v", o)
				}
				c, err := p.Session.Image(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				i, err := images.Get(t.Context(), c, o.GetImageId()).Extract()
				if err != nil {
					t.Fatal(err)
				}
				if patch := imagePatch(*i, r); len(patch) > 0 {
					t.Errorf("still to be changed: %v", patch)
				}
				if _, old := propertiesOf(*i)["old"]; old != (r.Spec.GetProperties()["old"] != "") {
					t.Errorf("properties %v, want %v", propertiesOf(*i), r.Spec.GetProperties())
				}
			},
		})
	})
}

// TestImageData holds that data that are not what they should be are not taken, and that a broken sending is begun again.
func TestImageData(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		from := mirror(t)
		for name, tc := range map[string]struct {
			path, sha256 string
			format       computev1.DiskFormat
			kind         fault.Kind
			says         string
		}{
			"other checksum": {"/disk", strings.Repeat("0", 64), computev1.DiskFormat_DISK_FORMAT_QCOW2, fault.Invalid, "SHA-256"},
			"other format":   {"/disk", "", computev1.DiskFormat_DISK_FORMAT_VMDK, fault.Invalid, "say diskFormat: QCOW2"},
			"nothing there":  {"/none", "", computev1.DiskFormat_DISK_FORMAT_RAW, fault.Invalid, "404"},
			"breaks off":     {"/half", "", computev1.DiskFormat_DISK_FORMAT_QCOW2, fault.Unavailable, "read the image's source"},
		} {
			t.Run(name, func(t *testing.T) {
				d := NewImages(p.Session)
				r := driver.Request[*computev1.ImageSpec]{Key: "01936b5e-0000-7000-8000-00000000000c", Name: "tenants/conform/images/bad", Spec: &computev1.ImageSpec{
					Source: &computev1.ImageSource{Url: from + tc.path, Sha256: tc.sha256}, DiskFormat: tc.format,
				}}
				id, err := d.Create(t.Context(), r)
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := d.Delete(t.Context(), id); err != nil {
						t.Error(err)
					}
				}()
				var told error
				for deadline := time.Now().Add(time.Minute); told == nil && time.Now().Before(deadline); p.Wait() {
					seen, err := d.Observe(t.Context(), []string{id})
					if err != nil {
						t.Fatal(err)
					}
					switch seen[id].State {
					case driver.Outdated:
						told = d.Update(t.Context(), id, r)
					case driver.Ready:
						t.Fatal("the image is ready")
					default:
					}
				}
				if !fault.Is(told, tc.kind) || !strings.Contains(told.Error(), tc.says) {
					t.Errorf("told %v (%s), want %s: %s", told, fault.KindOf(told), tc.kind, tc.says)
				}
			})
		}
	})
}

func TestImageCheck(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		from := mirror(t)
		item := func(name, path string, format computev1.DiskFormat, properties map[string]string) driver.Item[*computev1.ImageSpec] {
			return driver.Item[*computev1.ImageSpec]{Name: name, Change: kindv1.Change_CHANGE_CREATE, Spec: &computev1.ImageSpec{
				Source: &computev1.ImageSource{Url: from + path}, DiskFormat: format, Properties: properties,
			}}
		}
		qcow2, raw := computev1.DiskFormat_DISK_FORMAT_QCOW2, computev1.DiskFormat_DISK_FORMAT_RAW
		node := item("node", "/disk", qcow2, map[string]string{"os-distro": "Ubuntu", "architecture": "amd64"})
		node.Spec.Purpose = computev1.ImagePurpose_IMAGE_PURPOSE_CLUSTER_NODE
		findings, _, err := NewImages(p.Session).Check(t.Context(), []driver.Item[*computev1.ImageSpec]{
			item("good", "/disk", qcow2, map[string]string{"os_distro": "debian", "mine-own": "x"}), item("raw", "/raw", raw, nil),
			item("format", "/disk", raw, nil), item("not", "/raw", qcow2, nil), item("page", "/page", raw, nil), item("packed", "/packed", qcow2, nil),
			item("none", "/none", raw, nil), item("ours", "/raw", raw, map[string]string{"weft-key": "x"}), node,
		})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string][]string{}
		for _, f := range findings {
			got[f.Name] = append(got[f.Name], f.Field)
		}
		want := map[string][]string{
			"format": {"spec.diskFormat"}, "not": {"spec.diskFormat"}, "page": {"spec.source.url"}, "packed": {"spec.source.url"}, "none": {"spec.source.url"},
			"ours": {"spec.properties.weft-key"},
			"node": {"spec.properties.os-distro", "spec.properties.architecture", "spec.properties", "spec.properties"},
		}
		if !maps.EqualFunc(got, want, slices.Equal) {
			t.Errorf("findings %v, want %v", got, want)
		}
	})
}
