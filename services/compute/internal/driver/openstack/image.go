package openstack

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// An image is made in two parts: a record without data, in status queued, which bears the mark as properties from its first
// moment on; and the data, which are streamed from the source to the image service without being kept in between (see
// image_upload.go). While nobody streams, an image in status queued is outdated: Update streams. If a stream breaks the
// service puts the image back to queued, so whatever crashes, it is streamed again.
//
//	queued ──data──▶ saving ──▶ active
//	   ▲               │
//	   └────broken─────┘
//
// The property weft-properties names those that a spec asked for, so that one that is asked for no more is taken off, and
// those that the cloud or somebody else put there are let be.

// imageProperties is the property that names the spec's properties.
const imageProperties = cloud.MetadataPrefix + "properties"

// Images is the driver of Image.
type Images struct {
	s       *cloud.Session
	uploads *uploads
}

// NewImages makes the driver.
func NewImages(s *cloud.Session) *Images { return &Images{s: s, uploads: newUploads()} }

// list reads the project's images that fit a query, as far as the client library knows them.
func (d *Images) list(ctx context.Context, query url.Values) ([]images.Image, error) {
	c, err := d.s.Image(ctx)
	if err != nil {
		return nil, err
	}
	query.Set("limit", "1000")
	return cloud.List[images.Image](ctx, c, "images", "images", query)
}

// Find implements driver.Driver: lists filter by properties.
func (d *Images) Find(ctx context.Context, r driver.Request[*computev1.ImageSpec]) ([]string, error) {
	if r.Key == "" {
		return nil, fault.New(fault.Internal, "find image: no key is given")
	}
	all, err := d.list(ctx, url.Values{cloud.MetadataKey: {r.Key}})
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, i := range all {
		if propertiesOf(i)[cloud.MetadataKey] == r.Key && !imageGone(i) {
			ids = append(ids, i.ID)
		}
	}
	return ids, nil
}

// propertiesOf gives the properties that are texts.
func propertiesOf(i images.Image) map[string]string {
	out := map[string]string{}
	for k, v := range i.Properties {
		if text, ok := v.(string); ok {
			out[k] = text
		}
	}
	return out
}

func imageGone(i images.Image) bool {
	return i.Status == images.ImageStatusDeleted || i.Status == images.ImageStatusPendingDelete
}

// title gives what an image is called at the cloud.
func title(r driver.Request[*computev1.ImageSpec]) string {
	if r.Spec.GetTitle() != "" {
		return r.Spec.GetTitle()
	}
	return cloud.LastPart(r.Name)
}

// formatWord gives a format as the service calls it. Virtual PC's is vhd, VMware's vmdk, and so on.
func formatWord(f computev1.DiskFormat) string {
	return strings.ToLower(strings.TrimPrefix(f.String(), "DISK_FORMAT_"))
}

func visibilityOf(spec *computev1.ImageSpec) images.ImageVisibility {
	switch spec.GetVisibility() {
	case computev1.ImageVisibility_IMAGE_VISIBILITY_SHARED:
		return images.ImageVisibilityShared
	case computev1.ImageVisibility_IMAGE_VISIBILITY_COMMUNITY:
		return images.ImageVisibilityCommunity
	case computev1.ImageVisibility_IMAGE_VISIBILITY_PUBLIC:
		return images.ImageVisibilityPublic
	default:
		return images.ImageVisibilityPrivate
	}
}

// wantedProperties gives all properties that an image should bear.
func wantedProperties(r driver.Request[*computev1.ImageSpec]) map[string]string {
	out := cloud.Metadata(r.Key, r.Name)
	maps.Copy(out, r.Spec.GetProperties())
	out[imageProperties] = strings.Join(slices.Sorted(maps.Keys(r.Spec.GetProperties())), ",")
	return out
}

// Create implements driver.Driver: the record, without data.
func (d *Images) Create(ctx context.Context, r driver.Request[*computev1.ImageSpec]) (string, error) {
	c, err := d.s.Image(ctx)
	if err != nil {
		return "", err
	}
	if found := checkProperties(r.Spec); len(found) > 0 {
		return "", found[0]
	}
	visibility := visibilityOf(r.Spec)
	i, err := images.Create(ctx, c, images.CreateOpts{
		Name: title(r), DiskFormat: formatWord(r.Spec.GetDiskFormat()), ContainerFormat: "bare", Visibility: &visibility,
		MinDisk: int(r.Spec.GetMinDisk()), MinRAM: int(r.Spec.GetMinRam()), Properties: wantedProperties(r),
	}).Extract()
	if err != nil {
		return "", cloud.Fault(err, "create image %s", r.Name)
	}
	return i.ID, nil
}

// Observe implements driver.Driver: one is read by itself, several are read by one list.
func (d *Images) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[*computev1.ImageObserved], error) {
	out := map[string]driver.Observation[*computev1.ImageObserved]{}
	if len(ids) == 0 {
		return out, ctx.Err()
	}
	all, err := d.read(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		if slices.Contains(ids, i.ID) && !imageGone(i) {
			out[i.ID] = d.observation(i)
		}
	}
	return out, nil
}

func (d *Images) read(ctx context.Context, ids []string) ([]images.Image, error) {
	if len(ids) > 1 {
		return d.list(ctx, url.Values{"owner": {d.s.ProjectID}})
	}
	c, err := d.s.Image(ctx)
	if err != nil {
		return nil, err
	}
	i, err := images.Get(ctx, c, ids[0]).Extract()
	err = cloud.Fault(err, "read image %s", ids[0])
	if fault.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []images.Image{*i}, nil
}

// observation gives what is to be made of an image.
func (d *Images) observation(i images.Image) driver.Observation[*computev1.ImageObserved] {
	o := driver.Observation[*computev1.ImageObserved]{State: driver.Progressing, Observed: &computev1.ImageObserved{
		ImageId: i.ID, SizeBytes: i.SizeBytes, Title: i.Name,
	}}
	if algorithm, isText := i.Properties["os_hash_algo"].(string); isText {
		o.Observed.Checksum = fmt.Sprintf("%s:%v", algorithm, i.Properties["os_hash_value"])
	} else if i.Checksum != "" {
		o.Observed.Checksum = "md5:" + i.Checksum
	}
	switch i.Status {
	case images.ImageStatusActive, images.ImageStatusDeactivated:
		o.State = driver.Ready
	case images.ImageStatusKilled:
		o.State, o.Fault = driver.Failed, fault.New(fault.Unavailable, "image %s is in status killed at the cloud: its data were not taken", i.ID)
	case images.ImageStatusQueued:
		o.State = driver.Outdated
	default: // saving, importing, uploading
	}
	if progress, runs := d.uploads.progress(i.ID); runs {
		if o.State == driver.Outdated {
			o.State = driver.Progressing
		}
		if o.State == driver.Progressing {
			o.Fault = fault.New(fault.Unavailable, "its data are on their way: %s", progress)
		}
	}
	return o
}

// Update implements driver.Driver. An image without data is sent them; that goes on after Update has returned. Why a
// sending has failed is told by the Update after it.
func (d *Images) Update(ctx context.Context, id string, r driver.Request[*computev1.ImageSpec]) error {
	c, err := d.s.Image(ctx)
	if err != nil {
		return err
	}
	i, err := images.Get(ctx, c, id).Extract()
	if err != nil {
		return cloud.Fault(err, "read image %s", id)
	}
	if patch := imagePatch(*i, r); len(patch) > 0 {
		if _, err := images.Update(ctx, c, id, patch).Extract(); err != nil {
			return cloud.Fault(err, "update image %s", r.Name)
		}
	}
	if i.Status != images.ImageStatusQueued {
		return nil
	}
	return d.uploads.begin(ctx, c, id, r.Spec)
}

// imagePatch gives what is to be changed of an image (RFC 6902, as the service takes it).
func imagePatch(i images.Image, r driver.Request[*computev1.ImageSpec]) images.UpdateOpts {
	var out images.UpdateOpts
	if i.Name != title(r) {
		out = append(out, images.ReplaceImageName{NewName: title(r)})
	}
	if i.MinDiskGigabytes != int(r.Spec.GetMinDisk()) {
		out = append(out, images.ReplaceImageMinDisk{NewMinDisk: int(r.Spec.GetMinDisk())})
	}
	if i.MinRAMMegabytes != int(r.Spec.GetMinRam()) {
		out = append(out, images.ReplaceImageMinRam{NewMinRam: int(r.Spec.GetMinRam())})
	}
	if v := visibilityOf(r.Spec); i.Visibility != v {
		out = append(out, images.UpdateVisibility{Visibility: v})
	}
	have, want := propertiesOf(i), wantedProperties(r)
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if value, ok := have[k]; !ok {
			out = append(out, images.UpdateImageProperty{Op: images.AddOp, Name: k, Value: want[k]})
		} else if value != want[k] {
			out = append(out, images.UpdateImageProperty{Op: images.ReplaceOp, Name: k, Value: want[k]})
		}
	}
	for _, k := range strings.Split(have[imageProperties], ",") {
		_, wanted := want[k]
		if _, stands := have[k]; stands && !wanted {
			out = append(out, images.UpdateImageProperty{Op: images.RemoveOp, Name: k})
		}
	}
	return out
}

// Delete implements driver.Driver. Data on their way are stopped.
func (d *Images) Delete(ctx context.Context, id string) error {
	d.uploads.stop(id)
	c, err := d.s.Image(ctx)
	if err != nil {
		return err
	}
	err = cloud.Fault(images.Delete(ctx, c, id).ExtractErr(), "delete image %s", id)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// ListMarked implements driver.Lister.
func (d *Images) ListMarked(ctx context.Context) ([]driver.Marked, error) {
	all, err := d.list(ctx, url.Values{"owner": {d.s.ProjectID}})
	if err != nil {
		return nil, err
	}
	var out []driver.Marked
	for _, i := range all {
		if key, name, ok := cloud.ParseMetadata(propertiesOf(i)); ok && !imageGone(i) {
			out = append(out, driver.Marked{ID: i.ID, Key: key, Name: name})
		}
	}
	return out, nil
}
