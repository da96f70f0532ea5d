package openstack

import (
	"context"
	"fmt"
	"net/url"
	"slices"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/snapshots"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// snapshot is a snapshot, as far as the driver looks at it.
type snapshot struct {
	ID       string            `json:"id"`
	Status   string            `json:"status"`
	Size     int64             `json:"size"`
	VolumeID string            `json:"volume_id"`
	Metadata map[string]string `json:"metadata"`
}

// VolumeSnapshots is the driver of VolumeSnapshot.
type VolumeSnapshots struct{ s *cloud.Session }

// NewVolumeSnapshots makes the driver.
func NewVolumeSnapshots(s *cloud.Session) *VolumeSnapshots { return &VolumeSnapshots{s} }

func (d *VolumeSnapshots) list(ctx context.Context, query url.Values) ([]snapshot, error) {
	c, err := d.s.BlockStorage(ctx)
	if err != nil {
		return nil, err
	}
	return cloud.List[snapshot](ctx, c, "snapshots/detail", "snapshots", query)
}

func (d *VolumeSnapshots) one(ctx context.Context, id string) (snapshot, error) {
	c, err := d.s.BlockStorage(ctx)
	if err != nil {
		return snapshot{}, err
	}
	var answer struct{ Snapshot snapshot }
	err = snapshots.Get(ctx, c, id).ExtractInto(&answer)
	return answer.Snapshot, cloud.Fault(err, "read snapshot %s", id)
}

// Find implements driver.Driver. What the service filtered is compared once more, as with volumes.
func (d *VolumeSnapshots) Find(ctx context.Context, r driver.Request[*storagev1.VolumeSnapshotSpec]) ([]string, error) {
	if r.Key == "" {
		return nil, fault.New(fault.Internal, "find snapshot: no key is given")
	}
	all, err := d.list(ctx, url.Values{"metadata": {fmt.Sprintf("{'%s':'%s'}", cloud.MetadataKey, r.Key)}})
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, s := range all {
		if s.Metadata[cloud.MetadataKey] == r.Key && !isGone(s.Status) {
			ids = append(ids, s.ID)
		}
	}
	return ids, nil
}

// Create implements driver.Driver. A volume that a server uses is refused unless force is given; the service says so in the
// words by which it refuses a busy one, which would be waited for.
func (d *VolumeSnapshots) Create(ctx context.Context, r driver.Request[*storagev1.VolumeSnapshotSpec]) (string, error) {
	volumeID, err := cloud.Ref(r.Refs, "spec.volume", r.Spec.GetVolume(), func(v *storagev1.Volume) string { return v.GetObserved().GetVolumeId() })
	if err != nil {
		return "", err
	}
	c, err := d.s.BlockStorage(ctx)
	if err != nil {
		return "", err
	}
	made, err := snapshots.Create(ctx, c, snapshots.CreateOpts{
		VolumeID: volumeID, Force: r.Spec.GetForce(), Name: cloud.LastPart(r.Name), Metadata: cloud.Metadata(r.Key, r.Name),
	}).Extract()
	if err == nil {
		return made.ID, nil
	}
	err = cloud.Fault(err, "create snapshot %s", r.Name)
	if !r.Spec.GetForce() && fault.Is(err, fault.Conflict) {
		if v, readErr := one(ctx, d.s, volumeID); readErr == nil && v.Status == "in-use" {
			return "", fault.InField("spec.force", "%s is attached to a server; detach it, or give force: true for a snapshot without what the guest has not written out", r.Spec.GetVolume())
		}
	}
	return "", err
}

// Observe implements driver.Driver.
func (d *VolumeSnapshots) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[*storagev1.VolumeSnapshotObserved], error) {
	var all []snapshot
	var err error
	switch len(ids) {
	case 0:
		err = ctx.Err()
	case 1:
		var s snapshot
		if s, err = d.one(ctx, ids[0]); err == nil {
			all = []snapshot{s}
		} else if fault.Is(err, fault.NotFound) {
			err = nil
		}
	default:
		all, err = d.list(ctx, url.Values{"limit": {"1000"}})
	}
	if err != nil {
		return nil, err
	}
	out := map[string]driver.Observation[*storagev1.VolumeSnapshotObserved]{}
	for _, s := range all {
		if !slices.Contains(ids, s.ID) || isGone(s.Status) {
			continue
		}
		o := driver.Observation[*storagev1.VolumeSnapshotObserved]{Observed: &storagev1.VolumeSnapshotObserved{SnapshotId: s.ID, VolumeId: s.VolumeID, SizeGib: s.Size}}
		switch s.Status {
		case "available", "backing-up", "restoring":
			o.State = driver.Ready
		case "error", "error_deleting":
			o.State, o.Fault = driver.Failed, fault.New(fault.Unavailable, "snapshot %s is in status %s at the cloud", s.ID, s.Status)
		}
		out[s.ID] = o
	}
	return out, nil
}

// Update implements driver.Driver: nothing of a snapshot is changed.
func (d *VolumeSnapshots) Update(context.Context, string, driver.Request[*storagev1.VolumeSnapshotSpec]) error {
	return nil
}

// deletable tells whether each of the service's backends deletes a snapshot of a volume in a status. Those that keep volumes
// as files take no others (cinder/volume/drivers/remotefs.py); a volume can well work in one of the others, as reserved.
func deletable(status string) bool {
	return slices.Contains([]string{"available", "in-use", "backing-up", "deleting", "downloading"}, status)
}

// Delete implements driver.Driver. While its volume is on its way between states, as while it is attached or detached, a snapshot
// is let be: the service would take the deletion, fail at it, and take none after that (error_deleting) until an operator has reset
// the snapshot's state.
func (d *VolumeSnapshots) Delete(ctx context.Context, id string) error {
	s, err := d.one(ctx, id)
	if fault.Is(err, fault.NotFound) || err == nil && s.Status == "deleting" {
		return nil
	}
	if err != nil {
		return err
	}
	if s.Status == "error_deleting" {
		return fault.New(fault.Precondition, "snapshot %[1]s is in status error_deleting: the cloud could not delete it, and does not try again unless its operator resets it: openstack volume snapshot set --state available %[1]s", id)
	}
	v, err := one(ctx, d.s, s.VolumeID)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	if err == nil && !deletable(v.Status) {
		return fault.New(fault.Conflict, "delete snapshot %s: its volume %s is in status %s, in which the cloud may fail at that for good", id, s.VolumeID, v.Status)
	}
	c, err := d.s.BlockStorage(ctx)
	if err != nil {
		return err
	}
	err = cloud.Fault(snapshots.Delete(ctx, c, id).ExtractErr(), "delete snapshot %s", id)
	if err == nil || fault.Is(err, fault.NotFound) {
		return nil
	}
	if !fault.Is(err, fault.Invalid) {
		return err
	}
	s, readErr := d.one(ctx, id)
	switch {
	case fault.Is(readErr, fault.NotFound) || readErr == nil && s.Status == "deleting":
		return nil
	case readErr == nil && s.Status != "available" && s.Status != "error":
		return &fault.Error{Kind: fault.Conflict, Message: "snapshot " + id + " is in status " + s.Status, Cause: err} // it is at something that ends by itself
	}
	return err
}

// Blockers implements driver.Blockable: the volumes that were made from it, which some backends need it for.
func (d *VolumeSnapshots) Blockers(ctx context.Context, id string) ([]*kindv1.Blocker, error) {
	out := []*kindv1.Blocker{}
	if _, err := d.one(ctx, id); err != nil {
		if fault.Is(err, fault.NotFound) {
			return out, nil
		}
		return nil, err
	}
	all, err := list(ctx, d.s, url.Values{"limit": {"1000"}})
	if err != nil {
		return nil, err
	}
	for _, v := range all {
		if v.SnapshotID != id || stateOf(v.Status) == driver.Ready { // one that is filled needs it no more
			continue
		}
		_, resource, _ := cloud.ParseMetadata(v.Metadata)
		out = append(out, &kindv1.Blocker{Kind: "volume", Id: v.ID, Owner: d.s.Whose(resource, v.Name, d.s.ProjectID), Action: "wait until volume " + v.ID + " is filled, or delete it"})
	}
	return out, nil
}

// ListMarked implements driver.Lister.
func (d *VolumeSnapshots) ListMarked(ctx context.Context) ([]driver.Marked, error) {
	all, err := d.list(ctx, url.Values{"limit": {"1000"}})
	if err != nil {
		return nil, err
	}
	var out []driver.Marked
	for _, s := range all {
		if m, ok := marked(s.ID, s.Metadata, s.Status); ok {
			out = append(out, m)
		}
	}
	return out, nil
}

// Keep implements driver.Keeper.
func (d *VolumeSnapshots) Keep(ctx context.Context, id, key, name string) error {
	c, err := d.s.BlockStorage(ctx)
	if err != nil {
		return err
	}
	err = setMetadata(ctx, c, "snapshots/"+id+"/metadata", map[string]string{cloud.MetadataKept: key, cloud.MetadataName: name}, cloud.MetadataKey)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// TakenUp implements driver.Keeper: a kept snapshot is not taken up.
func (d *VolumeSnapshots) TakenUp(context.Context, string) (bool, error) { return false, nil }

// Check implements driver.Checker: the quotas. Snapshots draw on the volumes' gigabytes, too.
func (d *VolumeSnapshots) Check(ctx context.Context, items []driver.Item[*storagev1.VolumeSnapshotSpec]) ([]driver.Finding, []driver.QuotaUse, error) {
	limits, err := quotas(ctx, d.s)
	if err != nil {
		return nil, nil, err
	}
	var findings []driver.Finding
	need := map[string]int64{}
	for _, i := range items {
		if i.Spec == nil || i.Change != kindv1.Change_CHANGE_CREATE && i.Change != kindv1.Change_CHANGE_REPLACE {
			continue
		}
		need["snapshots"]++
		if v, ok := i.Planned[i.Spec.GetVolume()].(*storagev1.Volume); ok {
			if size, err := sizeGiB(v.GetSpec().GetSize()); err == nil {
				need["gigabytes"] += size
			}
			continue
		}
		v, ok := i.Refs[i.Spec.GetVolume()].(*storagev1.Volume)
		if !ok {
			continue
		}
		need["gigabytes"] += v.GetObserved().GetSizeGib()
		if len(v.GetObserved().GetServerIds()) > 0 && !i.Spec.GetForce() {
			findings = append(findings, driver.Finding{Name: i.Name, Field: "spec.force", Fault: fault.InField("spec.force", "%s is attached to a server; detach it, or give force: true for a snapshot without what the guest has not written out", i.Spec.GetVolume())})
		}
	}
	return findings, cloud.QuotaUses("block-storage", need, limits), nil
}
