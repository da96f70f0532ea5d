package openstack

import (
	"context"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/tags"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/volumeattach"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// Update implements driver.Driver. What is wanted is written into the metadata first; from then on Observe tells that the
// server is outdated until all of it is real, however often Update stops half way. Security groups and volumes follow,
// which need no waiting. Of resizing, confirming and switching the power only one is begun per call, since the server is
// busy with it afterwards.
func (d *Servers) Update(ctx context.Context, id string, r driver.Request[*computev1.ServerSpec]) error {
	s, err := d.one(ctx, id)
	if err != nil {
		return err
	}
	c, err := d.s.Compute(ctx)
	if err != nil {
		return err
	}
	w, err := d.resolve(ctx, c, r)
	if err != nil {
		return err
	}
	if _, known := s.Metadata[metadataRebuilt]; r.Undo || !known {
		w.metadata[metadataRebuilt] = w.metadata[metadataRebuild]
	}
	if s.Status == "VERIFY_RESIZE" { // until the resize is over, the service refuses every other change
		return cloud.Fault(step(ctx, c, s, w), "update server %s", r.Name)
	}
	if err := updateMetadata(ctx, c, s, w.metadata); err != nil {
		return cloud.Fault(err, "update metadata of server %s", r.Name)
	}
	if err := updateTags(ctx, c, s, r); err != nil {
		return cloud.Fault(err, "update tags of server %s", r.Name)
	}
	if err := d.updateSecurityGroups(ctx, id, w.securityGroups); err != nil {
		return cloud.Fault(err, "update security groups of server %s", r.Name)
	}
	if err := updateVolumes(ctx, c, s, w); err != nil {
		return cloud.Fault(err, "update volumes of server %s", r.Name)
	}
	return cloud.Fault(step(ctx, c, s, w), "update server %s", r.Name)
}

// updateMetadata brings the metadata to what is wanted. A volume that is no longer wanted is noted as to be detached
// while it is attached, and forgotten afterwards.
func updateMetadata(ctx context.Context, c *gophercloud.ServiceClient, s server, want map[string]string) error {
	set, remove := metadataDiff(s, want)
	if len(set) > 0 {
		if _, err := servers.UpdateMetadata(ctx, c, s.ID, servers.MetadataOpts(set)).Extract(); err != nil {
			return err
		}
	}
	for _, key := range remove {
		err := cloud.Fault(servers.DeleteMetadatum(ctx, c, s.ID, key).ExtractErr(), "delete %s", key)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	return nil
}

// updateTags brings the tags to what is wanted; the mark stays among them. Clouds that take no tags with the creation have
// none of ours.
func updateTags(ctx context.Context, c *gophercloud.ServiceClient, s server, r driver.Request[*computev1.ServerSpec]) error {
	if cloud.Minor(c) < cloud.TagsMinor {
		return nil
	}
	want := append([]string{cloud.Tag(r.Key)}, r.Spec.GetTags()...)
	if slices.Equal(slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(s.Tags))) {
		return nil
	}
	return tags.ReplaceAll(ctx, c, s.ID, tags.ReplaceAllOpts{Tags: want}).Err
}

// metadataDiff tells which metadata to set and which to remove.
func metadataDiff(s server, want map[string]string) (set map[string]string, remove []string) {
	set = map[string]string{}
	for key, value := range want {
		if have, ok := s.Metadata[key]; !ok || have != value {
			set[key] = value
		}
	}
	for _, key := range slices.Sorted(maps.Keys(s.Metadata)) {
		if _, wanted := want[key]; wanted {
			continue
		}
		volumeID, isVolume := strings.CutPrefix(key, metadataVolume)
		switch {
		case isVolume && s.attached(volumeID):
			if s.Metadata[key] != wantDetached {
				set[key] = wantDetached
			}
		case isVolume || !strings.HasPrefix(key, cloud.MetadataPrefix):
			remove = append(remove, key)
		case key == metadataRebuild && s.Metadata[key] != "":
			set[key] = ""
		}
	}
	return set, remove
}

// updateSecurityGroups brings the groups of all of the server's ports to what is wanted; none means the default group.
func (d *Servers) updateSecurityGroups(ctx context.Context, id string, want []string) error {
	c, err := d.s.Network(ctx)
	if err != nil {
		return err
	}
	byServer, err := d.ports(ctx, []string{id})
	if err != nil {
		return err
	}
	if len(want) == 0 && len(byServer[id]) > 0 {
		defaults, err := cloud.List[struct{ ID string }](ctx, c, "security-groups", "security_groups", url.Values{"name": {"default"}, "project_id": {d.s.ProjectID}})
		if err != nil {
			return err
		}
		for _, g := range defaults {
			want = append(want, g.ID)
		}
	}
	slices.Sort(want)
	for _, p := range byServer[id] {
		have := slices.Sorted(slices.Values(p.SecurityGroups))
		if slices.Equal(have, want) {
			continue
		}
		if _, err := ports.Update(ctx, c, p.ID, ports.UpdateOpts{SecurityGroups: &want}).Extract(); err != nil {
			return cloud.Fault(err, "of port %s", p.ID)
		}
	}
	return nil
}

// updateVolumes detaches the volumes of ours that are no longer wanted and attaches those that are missing.
func updateVolumes(ctx context.Context, c *gophercloud.ServiceClient, s server, w wanted) error {
	for _, key := range slices.Sorted(maps.Keys(s.Metadata)) {
		id, ours := strings.CutPrefix(key, metadataVolume)
		if !ours || slices.Contains(w.volumes, id) || !s.attached(id) {
			continue
		}
		err := cloud.Fault(volumeattach.Delete(ctx, c, s.ID, id).ExtractErr(), "detach volume %s", id)
		// a volume that is being detached already is refused as a conflict: Observe tells when it is done
		if err != nil && !fault.Is(err, fault.NotFound) && (!fault.Is(err, fault.Conflict) || s.Metadata[key] != wantDetached) {
			return err
		}
	}
	for _, id := range w.volumes {
		if s.attached(id) {
			continue
		}
		if _, err := volumeattach.Create(ctx, c, s.ID, volumeattach.CreateOpts{VolumeID: id, Device: w.devices[id]}).Extract(); err != nil {
			return cloud.Fault(err, "attach volume %s", id)
		}
	}
	return nil
}

// step begins the one change that keeps the server busy: a resize that is at its end is confirmed, or reverted if
// another flavor is wanted by now; then the size, then the disk, then the power. A server that is busy is a Conflict, if something is
// left to do.
func step(ctx context.Context, c *gophercloud.ServiceClient, s server, w wanted) error {
	sized := s.flavorName() == w.metadata[metadataFlavor]
	if s.Status == "VERIFY_RESIZE" && s.TaskState == "" {
		return endResize(ctx, c, s.ID, sized)
	}
	_, noted := w.metadata[metadataRebuilt]
	rebuilt := noted || s.Metadata[metadataRebuilt] == w.metadata[metadataRebuild]
	powered := powerWord(s.power()) == w.metadata[metadataPower]
	if sized && rebuilt && powered {
		return nil
	}
	if s.Status == "BUILD" { // one that was found again: nothing can be said of it before it is built, and then Observe does
		return nil
	}
	if s.TaskState != "" || s.Status != "ACTIVE" && s.Status != "SHUTOFF" {
		return fault.New(fault.Conflict, "the server is busy: status %s, task %s", s.Status, s.TaskState)
	}
	if !sized {
		return cloud.Fault(servers.Resize(ctx, c, s.ID, servers.ResizeOpts{FlavorRef: w.flavor.ID}).ExtractErr(), "resize to %s", w.flavor.Name)
	}
	if !rebuilt {
		return rebuild(ctx, c, s, w)
	}
	if w.metadata[metadataPower] == "off" {
		return cloud.Fault(servers.Stop(ctx, c, s.ID).ExtractErr(), "stop")
	}
	return cloud.Fault(servers.Start(ctx, c, s.ID).ExtractErr(), "start")
}

// rebuild makes the server's own disk anew from the image that it was made of. That it was asked for is noted in the same
// call, which replaces all metadata, so that it happens once.
// https://docs.openstack.org/api-ref/compute/#rebuild-server-rebuild-action
func rebuild(ctx context.Context, c *gophercloud.ServiceClient, s server, w wanted) error {
	image, err := s.imageID()
	if err != nil {
		return err
	}
	if image == "" {
		return fault.New(fault.Precondition, "the server was not made of an image, so its disk cannot be made anew; leave spec.rebuild as it was")
	}
	set, remove := metadataDiff(s, w.metadata) // s is as it was before these were written
	metadata := maps.Clone(s.Metadata)
	maps.Copy(metadata, set)
	for _, key := range remove {
		delete(metadata, key)
	}
	metadata[metadataRebuilt] = w.metadata[metadataRebuild]
	_, err = servers.Rebuild(ctx, c, s.ID, servers.RebuildOpts{ImageRef: image, Metadata: metadata}).Extract()
	return cloud.Fault(err, "make the disk anew from image %s", image)
}

// endResize confirms a resize, or reverts it. The service shows nothing of a confirmation that is going on, and refuses
// a second one as a conflict: Observe tells when the first is done.
func endResize(ctx context.Context, c *gophercloud.ServiceClient, id string, confirm bool) error {
	end, what := servers.RevertResize, "revert the resize"
	if confirm {
		end, what = servers.ConfirmResize, "confirm the resize"
	}
	err := cloud.Fault(end(ctx, c, id).ExtractErr(), "%s", what)
	if fault.Is(err, fault.Conflict) {
		return nil
	}
	return err
}
