package openstack

import (
	"context"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/volumeattach"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// VolumeAttachments is the driver of VolumeAttachment. An attachment bears no mark: the server and the volume together
// are its identity, and its id here is "<server's id>/<volume's id>". The compute service makes and takes it away; the
// volume service tells of many at once how they stand.
type VolumeAttachments struct{ s *cloud.Session }

// NewVolumeAttachments makes the driver.
func NewVolumeAttachments(s *cloud.Session) *VolumeAttachments { return &VolumeAttachments{s} }

// ids gives the ids of the server and the volume that a spec refers to.
func ids(r driver.Request[*storagev1.VolumeAttachmentSpec]) (server, volume string, err error) {
	server, err = cloud.Ref(r.Refs, "spec.server", r.Spec.GetServer(), func(s *computev1.Server) string { return s.GetObserved().GetServerId() })
	if err != nil {
		return "", "", err
	}
	volume, err = cloud.Ref(r.Refs, "spec.volume", r.Spec.GetVolume(), func(v *storagev1.Volume) string { return v.GetObserved().GetVolumeId() })
	return server, volume, err
}

// Find implements driver.Driver. Without a server or a volume at the cloud there is no attachment.
func (d *VolumeAttachments) Find(ctx context.Context, r driver.Request[*storagev1.VolumeAttachmentSpec]) ([]string, error) {
	server, volume, err := ids(r)
	if fault.Is(err, fault.Precondition) {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	id := server + "/" + volume
	seen, err := d.Observe(ctx, []string{id})
	if _, exists := seen[id]; err != nil || !exists {
		return nil, err
	}
	return []string{id}, nil
}

// Create implements driver.Driver.
func (d *VolumeAttachments) Create(ctx context.Context, r driver.Request[*storagev1.VolumeAttachmentSpec]) (string, error) {
	server, volume, err := ids(r)
	if err != nil {
		return "", err
	}
	c, err := d.s.Compute(ctx)
	if err != nil {
		return "", err
	}
	_, err = volumeattach.Create(ctx, c, server, volumeattach.CreateOpts{VolumeID: volume, Device: r.Spec.GetDevice()}).Extract()
	if err != nil {
		return "", cloud.Fault(err, "attach volume %s to server %s", r.Spec.GetVolume(), r.Spec.GetServer())
	}
	return server + "/" + volume, nil
}

// Observe implements driver.Driver. Before the volume service knows of an attachment, the volume is reserved or
// attaching; if that fails, the volume is available again and there is no attachment.
func (d *VolumeAttachments) Observe(ctx context.Context, pairs []string) (map[string]driver.Observation[*storagev1.VolumeAttachmentObserved], error) {
	var volumeIDs []string
	for _, pair := range pairs {
		_, volume, _ := strings.Cut(pair, "/")
		if volume != "" && !slices.Contains(volumeIDs, volume) {
			volumeIDs = append(volumeIDs, volume)
		}
	}
	all, err := byIDs(ctx, d.s, volumeIDs)
	if err != nil {
		return nil, err
	}
	out := map[string]driver.Observation[*storagev1.VolumeAttachmentObserved]{}
	for _, pair := range pairs {
		server, volume, _ := strings.Cut(pair, "/")
		if v, ok := all[volume]; ok {
			if o, exists := attachmentOf(v, server); exists {
				out[pair] = o
			}
		}
	}
	return out, nil
}

// attachmentOf gives how the attachment of a volume to a server stands; false if there is none.
func attachmentOf(v volume, server string) (o driver.Observation[*storagev1.VolumeAttachmentObserved], exists bool) {
	o.Observed = &storagev1.VolumeAttachmentObserved{}
	for _, a := range v.Attachments {
		if a.ServerID != server {
			continue
		}
		o.Observed.Device = a.Device
		if v.Status == "in-use" {
			o.State = driver.Ready
		}
		return o, true
	}
	return o, v.Status == "reserved" || v.Status == "attaching"
}

// Update implements driver.Driver: nothing of an attachment can be changed in place.
func (d *VolumeAttachments) Update(context.Context, string, driver.Request[*storagev1.VolumeAttachmentSpec]) error {
	return nil
}

// Delete implements driver.Driver. A refusal because the volume is already being detached is what was asked for.
func (d *VolumeAttachments) Delete(ctx context.Context, id string) error {
	server, volume, ok := strings.Cut(id, "/")
	if !ok {
		return fault.New(fault.Internal, "%q is no id of an attachment", id)
	}
	c, err := d.s.Compute(ctx)
	if err != nil {
		return err
	}
	err = cloud.Fault(volumeattach.Delete(ctx, c, server, volume).ExtractErr(), "detach volume %s from server %s", volume, server)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if !fault.Is(err, fault.Conflict) {
		return err
	}
	v, readErr := one(ctx, d.s, volume)
	if fault.Is(readErr, fault.NotFound) || readErr == nil && v.Status == "detaching" {
		return nil
	}
	return err
}
