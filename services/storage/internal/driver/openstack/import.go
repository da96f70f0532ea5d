package openstack

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// Describe implements driver.Importer. What a volume was filled from does not count any more; its snapshots hang on it, and
// are not imported.
func (d *Volumes) Describe(ctx context.Context, ids []string) ([]driver.Described, error) {
	all, err := list(ctx, d.s, url.Values{"limit": {"1000"}})
	if err != nil {
		return nil, err
	}
	c, err := d.s.BlockStorage(ctx)
	if err != nil {
		return nil, err
	}
	snapshots, err := cloud.List[struct {
		ID       string `json:"id"`
		VolumeID string `json:"volume_id"`
	}](ctx, c, "snapshots", "snapshots", url.Values{"limit": {"1000"}})
	if err != nil {
		return nil, err
	}
	out := []driver.Described{}
	for _, v := range all {
		if isGone(v.Status) || len(ids) > 0 && !slices.Contains(ids, v.ID) {
			continue
		}
		described := driver.Described{ID: v.ID, Name: v.Name, Spec: &storagev1.VolumeSpec{Size: fmt.Sprintf("%dGi", v.Size), Type: v.VolumeType}}
		if m, ok := marked(v.ID, v.Metadata, v.Status); ok {
			described.Key, described.Owner, described.Kept = m.Key, m.Name, m.Kept
		}
		if stateOf(v.Status) != driver.Ready {
			described.Obstacles = append(described.Obstacles, "it is "+v.Status)
		}
		for _, s := range snapshots {
			if s.VolumeID == v.ID {
				described.Obstacles = append(described.Obstacles, "it has snapshot "+s.ID+", which is not imported")
			}
		}
		out = append(out, described)
	}
	return out, nil
}

// Mark implements driver.Importer.
func (d *Volumes) Mark(ctx context.Context, id, key, name string) error {
	v, err := one(ctx, d.s, id)
	if err != nil {
		return err
	}
	if m, ok := marked(id, v.Metadata, v.Status); ok && m.Key != key {
		return fault.New(fault.Exists, "volume %s bears the key %s already", id, m.Key)
	}
	c, err := d.s.BlockStorage(ctx)
	if err != nil {
		return err
	}
	return setMetadata(ctx, c, "volumes/"+id+"/metadata", cloud.Metadata(key, name))
}

// Unmark implements driver.Importer.
func (d *Volumes) Unmark(ctx context.Context, id, key, _ string) error {
	v, err := one(ctx, d.s, id)
	if fault.Is(err, fault.NotFound) || err == nil && v.Metadata[cloud.MetadataKey] != key {
		return nil
	}
	if err != nil {
		return err
	}
	c, err := d.s.BlockStorage(ctx)
	if err != nil {
		return err
	}
	return setMetadata(ctx, c, "volumes/"+id+"/metadata", map[string]string{}, cloud.MetadataName, cloud.MetadataKey)
}

// Describe implements driver.Importer. Server and volume together are the attachment's identity.
func (d *VolumeAttachments) Describe(ctx context.Context, ids []string) ([]driver.Described, error) {
	all, err := list(ctx, d.s, url.Values{"limit": {"1000"}})
	if err != nil {
		return nil, err
	}
	out := []driver.Described{}
	for _, v := range all {
		for _, a := range v.Attachments {
			id := a.ServerID + "/" + v.ID
			if len(ids) == 0 || slices.Contains(ids, id) {
				out = append(out, driver.Described{ID: id, Name: v.Name + "-disk", Unmarkable: true, Spec: &storagev1.VolumeAttachmentSpec{Server: a.ServerID, Volume: v.ID}})
			}
		}
	}
	slices.SortFunc(out, func(a, b driver.Described) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// Mark implements driver.Importer.
func (d *VolumeAttachments) Mark(ctx context.Context, id, _, _ string) error {
	seen, err := d.Observe(ctx, []string{id})
	if err != nil {
		return err
	}
	if _, stands := seen[id]; !stands {
		return fault.New(fault.NotFound, "attachment %s does not exist", id)
	}
	return nil
}

// Unmark implements driver.Importer: there is no mark.
func (d *VolumeAttachments) Unmark(ctx context.Context, _, _, _ string) error { return ctx.Err() }
