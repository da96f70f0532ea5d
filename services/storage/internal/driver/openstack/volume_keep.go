package openstack

import (
	"context"
	"fmt"
	"net/url"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// Metadata of volumes besides the mark: the type that the volume was last asked to become; that another Update must follow
// when it is at rest; and that it had been kept before it was taken up.
const (
	metadataType    = cloud.MetadataPrefix + "type"
	metadataPending = cloud.MetadataPrefix + "pending"
	metadataTakenUp = cloud.MetadataPrefix + "taken-up"
)

// setMetadata sets values of a volume's metadata, and takes off the keys that drop lists. Values are set first: an object
// that lost its mark half way would be nobody's.
func setMetadata(ctx context.Context, c *gophercloud.ServiceClient, path string, values map[string]string, drop ...string) error {
	resp, err := c.Post(ctx, c.ServiceURL(path), map[string]any{"metadata": values}, nil, &gophercloud.RequestOpts{OkCodes: []int{200}})
	if err != nil {
		return cloud.Fault(err, "set %s", path)
	}
	if err := resp.Body.Close(); err != nil {
		return cloud.Fault(err, "set %s", path)
	}
	for _, key := range drop {
		resp, err := c.Delete(ctx, c.ServiceURL(path, key), &gophercloud.RequestOpts{OkCodes: []int{200, 202, 204}})
		if err = cloud.Fault(err, "take %s off %s", key, path); fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if err := resp.Body.Close(); err != nil {
			return cloud.Fault(err, "take %s off %s", key, path)
		}
	}
	return nil
}

// typeWanted gives the name of the type that a volume is to have. Without one in the spec what it has will do, whatever the
// default is.
func (d *Volumes) typeWanted(ctx context.Context, v volume, spec *storagev1.VolumeSpec) (string, error) {
	wanted := spec.GetType()
	if wanted == "" || wanted == v.VolumeType {
		return v.VolumeType, nil
	}
	types, err := volumeTypes(ctx, d.s)
	if err != nil {
		return "", err
	}
	for _, t := range types {
		if t.ID == wanted {
			return t.Name, nil
		}
	}
	return wanted, nil
}

// retype has a volume changed to a type. What is asked for is noted at the volume first: the service takes the request and
// tells of a refusal by its backends only in that the type stays as it was.
func (d *Volumes) retype(ctx context.Context, c *gophercloud.ServiceClient, v volume, wanted string) error {
	if noted := v.Metadata[metadataType]; noted != wanted && (noted != "" || wanted != v.VolumeType) {
		if err := setMetadata(ctx, c, "volumes/"+v.ID+"/metadata", map[string]string{metadataType: wanted}); err != nil {
			return err
		}
	}
	if wanted == v.VolumeType || v.Status == "retyping" {
		return nil
	}
	opts := volumes.ChangeTypeOpts{NewType: wanted, MigrationPolicy: volumes.MigrationPolicyOnDemand}
	return cloud.Fault(volumes.ChangeType(ctx, c, v.ID, opts).ExtractErr(), "change volume %s to type %s", v.ID, wanted)
}

// takeUp marks a volume that was kept under the resource's name as the resource's own; "" if there is none. Of several the
// one that was kept last is taken: the service lists the newest first.
func (d *Volumes) takeUp(ctx context.Context, r driver.Request[*storagev1.VolumeSpec]) (string, error) {
	all, err := list(ctx, d.s, url.Values{"metadata": {fmt.Sprintf("{'%s':'%s'}", cloud.MetadataName, r.Name)}})
	if err != nil {
		return "", err
	}
	c, err := d.s.BlockStorage(ctx)
	if err != nil {
		return "", err
	}
	for _, v := range all {
		kept, name, ok := cloud.ParseKept(v.Metadata)
		if !ok || name != r.Name || isGone(v.Status) {
			continue
		}
		values := cloud.Metadata(r.Key, r.Name)
		values[metadataTakenUp], values[metadataPending] = kept, "yes"
		return v.ID, setMetadata(ctx, c, "volumes/"+v.ID+"/metadata", values, cloud.MetadataKept)
	}
	return "", nil
}

// Keep implements driver.Keeper.
func (d *Volumes) Keep(ctx context.Context, id, key, name string) error {
	c, err := d.s.BlockStorage(ctx)
	if err != nil {
		return err
	}
	err = setMetadata(ctx, c, "volumes/"+id+"/metadata", map[string]string{cloud.MetadataKept: key, cloud.MetadataName: name}, cloud.MetadataKey, metadataTakenUp, metadataType, metadataPending)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// TakenUp implements driver.Keeper.
func (d *Volumes) TakenUp(ctx context.Context, id string) (bool, error) {
	v, err := one(ctx, d.s, id)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	return v.Metadata[metadataTakenUp] != "", err
}

// Copy implements driver.Copier. A snapshot of this service cannot outlive its volume, so the copy is an image, from which
// volumes can be filled as from any other; it bears the mark as its properties.
func (d *Volumes) Copy(ctx context.Context, id, key, name string) (done bool, err error) {
	v, err := one(ctx, d.s, id)
	if fault.Is(err, fault.NotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	image, err := d.copyOf(ctx, key, name)
	if err != nil || image == nil {
		return false, firstErr(err, func() error { return d.upload(ctx, v, key, name) })
	}
	switch image.Status {
	case images.ImageStatusActive:
		return v.Status != "uploading", d.markCopy(ctx, image, key, name)
	case images.ImageStatusKilled, images.ImageStatusDeleted, images.ImageStatusPendingDelete:
		return false, fault.New(fault.Unavailable, "the copy of volume %s failed: image %s is %s", id, image.ID, image.Status)
	}
	return false, nil
}

// firstErr gives err, or what next gives if there is none.
func firstErr(err error, next func() error) error {
	if err != nil {
		return err
	}
	return next()
}

// copyName is the name of the image that holds a copy; it bears the key, since the call that makes it takes no properties.
func copyName(key, name string) string { return cloud.LastPart(name) + "-" + key }

// copyOf finds the copy that was made for a key; nil if there is none.
func (d *Volumes) copyOf(ctx context.Context, key, name string) (*images.Image, error) {
	c, err := d.s.Image(ctx)
	if err != nil {
		return nil, err
	}
	pages, err := images.List(c, images.ListOpts{Name: copyName(key, name)}).AllPages(ctx)
	if err != nil {
		return nil, cloud.Fault(err, "look for the copy of volume %s", name)
	}
	found, err := images.ExtractImages(pages)
	if err != nil || len(found) == 0 {
		return nil, cloud.Fault(err, "look for the copy of volume %s: read the answer", name)
	}
	return &found[0], nil
}

// upload begins to copy a volume into an image.
func (d *Volumes) upload(ctx context.Context, v volume, key, name string) error {
	if v.Status == "uploading" {
		return nil
	}
	c, err := d.s.BlockStorage(ctx)
	if err != nil {
		return err
	}
	opts := volumes.UploadImageOpts{ImageName: copyName(key, name), DiskFormat: "raw", ContainerFormat: "bare", Force: len(v.Attachments) > 0}
	_, err = volumes.UploadImage(ctx, c, v.ID, opts).Extract()
	return cloud.Fault(err, "copy volume %s into an image", name)
}

// markCopy has the copy bear the mark of what was kept.
func (d *Volumes) markCopy(ctx context.Context, image *images.Image, key, name string) error {
	if image.Properties[cloud.MetadataKept] == key {
		return nil
	}
	c, err := d.s.Image(ctx)
	if err != nil {
		return err
	}
	_, err = images.Update(ctx, c, image.ID, images.UpdateOpts{
		images.UpdateImageProperty{Op: images.AddOp, Name: cloud.MetadataKept, Value: key},
		images.UpdateImageProperty{Op: images.AddOp, Name: cloud.MetadataName, Value: name},
	}).Extract()
	return cloud.Fault(err, "mark the copy of volume %s", name)
}
