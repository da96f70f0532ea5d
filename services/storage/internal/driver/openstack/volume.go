package openstack

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// extendAttachedMinor is the minor of the volume API from which an attached volume can grow (3.42).
const extendAttachedMinor = 42

// volume is a volume, as far as the drivers look at it.
type volume struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Status      string            `json:"status"`
	Size        int64             `json:"size"`
	VolumeType  string            `json:"volume_type"`
	SnapshotID  string            `json:"snapshot_id"`
	Metadata    map[string]string `json:"metadata"`
	Attachments []struct {
		ServerID string `json:"server_id"`
		Device   string `json:"device"`
	} `json:"attachments"`
}

// Volumes is the driver of Volume.
type Volumes struct{ s *cloud.Session }

// NewVolumes makes the driver.
func NewVolumes(s *cloud.Session) *Volumes { return &Volumes{s} }

// list reads the project's volumes that fit a query.
func list(ctx context.Context, s *cloud.Session, query url.Values) ([]volume, error) {
	c, err := s.BlockStorage(ctx)
	if err != nil {
		return nil, err
	}
	return cloud.List[volume](ctx, c, "volumes/detail", "volumes", query)
}

// byIDs reads volumes by id; what does not exist is absent.
func byIDs(ctx context.Context, s *cloud.Session, ids []string) (map[string]volume, error) {
	if len(ids) == 0 {
		return map[string]volume{}, ctx.Err()
	}
	c, err := s.BlockStorage(ctx)
	if err != nil {
		return nil, err
	}
	return cloud.ByIDs(ctx, c, cloud.Collection[volume]{
		Path: "volumes/detail", Field: "volumes", ID: func(v volume) string { return v.ID },
		One: func(ctx context.Context, id string) (volume, error) { return one(ctx, s, id) },
	}, ids)
}

// one reads one volume. The error is NotFound if it does not exist.
func one(ctx context.Context, s *cloud.Session, id string) (volume, error) {
	c, err := s.BlockStorage(ctx)
	if err != nil {
		return volume{}, err
	}
	var answer struct{ Volume volume }
	err = volumes.Get(ctx, c, id).ExtractInto(&answer.Volume)
	return answer.Volume, cloud.Fault(err, "read volume %s", id)
}

// Find implements driver.Driver. The service filters by metadata, written as a dictionary; what comes is compared once
// more, since an operator can turn the filter off.
func (d *Volumes) Find(ctx context.Context, r driver.Request[*storagev1.VolumeSpec]) ([]string, error) {
	if r.Key == "" {
		return nil, fault.New(fault.Internal, "find volume: no key is given")
	}
	all, err := list(ctx, d.s, url.Values{"metadata": {fmt.Sprintf("{'%s':'%s'}", cloud.MetadataKey, r.Key)}})
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, v := range all {
		if v.Metadata[cloud.MetadataKey] == r.Key && !isGone(v.Status) {
			ids = append(ids, v.ID)
		}
	}
	return ids, nil
}

// Create implements driver.Driver.
func (d *Volumes) Create(ctx context.Context, r driver.Request[*storagev1.VolumeSpec]) (string, error) {
	size, err := sizeGiB(r.Spec.GetSize())
	if err != nil {
		return "", err
	}
	if r.Spec.GetAdoptKept() {
		if id, err := d.takeUp(ctx, r); id != "" || err != nil {
			return id, err
		}
	}
	opts := volumes.CreateOpts{Name: cloud.LastPart(r.Name), Size: int(size), VolumeType: r.Spec.GetType(), Metadata: cloud.Metadata(r.Key, r.Name)}
	if ref := r.Spec.GetImage(); ref != "" {
		image, err := d.s.ImageByRef(ctx, "spec.image", ref, false)
		if err != nil {
			return "", err
		}
		opts.ImageID = image.ID
	}
	if ref := r.Spec.GetSnapshot(); ref != "" {
		opts.SnapshotID, err = cloud.Ref(r.Refs, "spec.snapshot", ref, func(s *storagev1.VolumeSnapshot) string { return s.GetObserved().GetSnapshotId() })
		if err != nil {
			return "", err
		}
	}
	c, err := d.s.BlockStorage(ctx)
	if err != nil {
		return "", err
	}
	v, err := volumes.Create(ctx, c, opts, nil).Extract()
	if err != nil {
		return "", cloud.Fault(err, "create volume %s", r.Name)
	}
	return v.ID, nil
}

// Observe implements driver.Driver.
func (d *Volumes) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[*storagev1.VolumeObserved], error) {
	all, err := byIDs(ctx, d.s, ids)
	if err != nil {
		return nil, err
	}
	out := make(map[string]driver.Observation[*storagev1.VolumeObserved], len(all))
	for id, v := range all {
		if isGone(v.Status) {
			continue
		}
		o := driver.Observation[*storagev1.VolumeObserved]{State: stateOf(v.Status), Observed: &storagev1.VolumeObserved{VolumeId: id, SizeGib: v.Size, Type: v.VolumeType}}
		for _, a := range v.Attachments {
			o.Observed.ServerIds = append(o.Observed.ServerIds, a.ServerID)
		}
		if o.State == driver.Ready && v.Metadata[metadataPending] != "" {
			o.State = driver.Outdated
		}
		if wanted := v.Metadata[metadataType]; o.State == driver.Ready && wanted != "" && wanted != v.VolumeType {
			o.State = driver.Failed // the service tried, and says nothing of it but in its messages
		}
		if o.State == driver.Failed {
			if o.Fault, err = d.reason(ctx, v); err != nil {
				return nil, err
			}
		}
		out[id] = o
	}
	return out, nil
}

func isGone(status string) bool { return status == "deleted" }

// stateOf gives the state for a status of the volume service. What is attached, reserved or being copied from works.
func stateOf(status string) driver.State {
	switch status {
	case "available", "in-use", "reserved", "backing-up", "uploading", "awaiting-transfer":
		return driver.Ready
	case "error", "error_extending", "error_deleting", "error_restoring", "error_managing", "error_backing-up":
		return driver.Failed
	default:
		return driver.Progressing
	}
}

// reason gives why a volume failed: the service keeps it as messages for the user, not with the volume.
func (d *Volumes) reason(ctx context.Context, v volume) (why error, err error) {
	c, err := d.s.BlockStorage(ctx)
	if err != nil {
		return nil, err
	}
	messages, err := cloud.List[struct {
		Text      string `json:"user_message"`
		RequestID string `json:"request_id"`
	}](ctx, c, "messages", "messages", url.Values{"resource_uuid": {v.ID}, "sort": {"created_at:desc"}})
	if fault.Is(err, fault.Unavailable) || fault.Is(err, fault.Throttled) {
		return nil, err
	}
	f := fault.New(fault.Unavailable, "volume %s is in status %s at the cloud", v.ID, v.Status)
	if wanted := v.Metadata[metadataType]; stateOf(v.Status) == driver.Ready && wanted != "" {
		f = fault.New(fault.Precondition, "the cloud did not change volume %s from type %s to %s (it may refuse that while the volume is attached or has snapshots)", v.ID, v.VolumeType, wanted)
	}
	if err == nil && len(messages) > 0 { // a service without messages tells no reason
		f.Message += ": " + messages[0].Text
		f.RequestID = messages[0].RequestID
	}
	return f, nil
}

// Update implements driver.Driver: a volume can grow and change its type. The service does one at a time; if both are wanted
// the volume is marked as pending, which has Observe ask for another Update.
func (d *Volumes) Update(ctx context.Context, id string, r driver.Request[*storagev1.VolumeSpec]) error {
	size, err := sizeGiB(r.Spec.GetSize())
	if err != nil {
		return err
	}
	v, err := one(ctx, d.s, id)
	if err != nil {
		return err
	}
	typ, err := d.typeWanted(ctx, v, r.Spec)
	if err != nil {
		return err
	}
	c, err := d.s.BlockStorage(ctx)
	if err != nil {
		return err
	}
	path := "volumes/" + id + "/metadata"
	switch {
	case v.Size > size:
		return fault.InField("spec.size", "volume %s has %d GiB; a volume cannot shrink to %d GiB", r.Name, v.Size, size)
	case v.Size < size && len(v.Attachments) > 0 && cloud.Minor(c) < extendAttachedMinor:
		return fault.New(fault.Unsupported, "extend volume %s: this cloud cannot extend an attached volume; detach it first", r.Name)
	case v.Size < size:
		if typ != v.VolumeType && v.Metadata[metadataPending] == "" {
			if err := setMetadata(ctx, c, path, map[string]string{metadataPending: "yes"}); err != nil {
				return err
			}
		}
		return cloud.Fault(volumes.ExtendSize(ctx, c, id, volumes.ExtendSizeOpts{NewSize: int(size)}).ExtractErr(), "extend volume %s to %d GiB", r.Name, size)
	}
	if err := d.retype(ctx, c, v, typ); err != nil || v.Metadata[metadataPending] == "" {
		return err
	}
	return setMetadata(ctx, c, path, map[string]string{}, metadataPending)
}

// Delete implements driver.Driver. The service refuses to delete a volume that it is deleting already, in the same words
// as one that is in use, so a refusal is looked into.
func (d *Volumes) Delete(ctx context.Context, id string) error {
	c, err := d.s.BlockStorage(ctx)
	if err != nil {
		return err
	}
	err = cloud.Fault(volumes.Delete(ctx, c, id, nil).ExtractErr(), "delete volume %s", id)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if !fault.Is(err, fault.Conflict) {
		return err
	}
	v, readErr := one(ctx, d.s, id)
	if fault.Is(readErr, fault.NotFound) || readErr == nil && v.Status == "deleting" {
		return nil
	}
	return err
}

// Blockers implements driver.Blockable: servers that the volume is attached to, and its snapshots.
func (d *Volumes) Blockers(ctx context.Context, id string) ([]*kindv1.Blocker, error) {
	out := []*kindv1.Blocker{}
	v, err := one(ctx, d.s, id)
	if fault.Is(err, fault.NotFound) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	serverIDs := make([]string, 0, len(v.Attachments))
	for _, a := range v.Attachments {
		serverIDs = append(serverIDs, a.ServerID)
	}
	servers, err := d.s.Holders(ctx, serverIDs)
	if err != nil {
		return nil, err
	}
	for _, a := range v.Attachments {
		h := servers[a.ServerID]
		action := "detach volume " + id + " from server " + a.ServerID
		if h.Resource != "" {
			action = "let go of the volume in Weft: delete " + h.Resource + " or the volume's attachment to it"
		}
		out = append(out, &kindv1.Blocker{Kind: "server", Id: a.ServerID, Owner: d.s.Whose(h.Resource, h.Name, h.ProjectID, "as "+a.Device), Action: action})
	}
	snapshots, err := d.snapshotBlockers(ctx, id)
	return append(out, snapshots...), err
}

// snapshotBlockers tells the snapshots of a volume.
func (d *Volumes) snapshotBlockers(ctx context.Context, id string) ([]*kindv1.Blocker, error) {
	c, err := d.s.BlockStorage(ctx)
	if err != nil {
		return nil, err
	}
	snapshots, err := cloud.List[struct {
		ID, Name string
		Metadata map[string]string
	}](ctx, c, "snapshots", "snapshots", url.Values{"volume_id": {id}})
	if err != nil {
		return nil, err
	}
	var out []*kindv1.Blocker
	for _, s := range snapshots {
		_, resource, _ := cloud.ParseMetadata(s.Metadata)
		out = append(out, &kindv1.Blocker{Kind: "snapshot", Id: s.ID, Owner: d.s.Whose(resource, s.Name, d.s.ProjectID), Action: "delete snapshot " + s.ID})
	}
	return out, nil
}

// marked reads the mark of an object, ours or kept; false if it bears none or is gone.
func marked(id string, metadata map[string]string, status string) (driver.Marked, bool) {
	if isGone(status) {
		return driver.Marked{}, false
	}
	if key, name, ok := cloud.ParseMetadata(metadata); ok {
		return driver.Marked{ID: id, Key: key, Name: name}, true
	}
	key, name, ok := cloud.ParseKept(metadata)
	return driver.Marked{ID: id, Key: key, Name: name, Kept: true}, ok
}

// ListMarked implements driver.Lister.
func (d *Volumes) ListMarked(ctx context.Context) ([]driver.Marked, error) {
	all, err := list(ctx, d.s, url.Values{"limit": {"1000"}})
	if err != nil {
		return nil, err
	}
	var out []driver.Marked
	for _, v := range all {
		if m, ok := marked(v.ID, v.Metadata, v.Status); ok {
			out = append(out, m)
		}
	}
	return out, nil
}

// sizeGiB reads a size, e.g. 20Gi or 1Ti. The error is Invalid.
func sizeGiB(text string) (int64, error) {
	number, unit := strings.TrimRight(text, "GTi"), int64(1)
	if strings.HasSuffix(text, "Ti") {
		unit = 1024
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 1 || n > math.MaxInt32/unit || number+"Gi" != text && number+"Ti" != text {
		return 0, fault.InField("spec.size", "%q is no size; write it as 20Gi or 1Ti", text)
	}
	return n * unit, nil
}

// volumeType is a volume type that the project may use.
type volumeType struct {
	ID    string         `json:"id"`
	Name  string         `json:"name"`
	Specs map[string]any `json:"extra_specs"`
}

func volumeTypes(ctx context.Context, s *cloud.Session) ([]volumeType, error) {
	c, err := s.BlockStorage(ctx)
	if err != nil {
		return nil, err
	}
	return cloud.Recent(s, "volume types", func() ([]volumeType, error) {
		return cloud.List[volumeType](ctx, c, "types", "volume_types", nil)
	})
}

func quotas(ctx context.Context, s *cloud.Session) (map[string]cloud.Limit, error) {
	c, err := s.BlockStorage(ctx)
	if err != nil {
		return nil, err
	}
	return s.Limits(ctx, c, "os-quota-sets/"+s.ProjectID+"?usage=true", "quota_set")
}

// Check implements driver.Checker: sizes, also of what stands, types, images, and the quotas, those of each type included.
func (d *Volumes) Check(ctx context.Context, items []driver.Item[*storagev1.VolumeSpec]) ([]driver.Finding, []driver.QuotaUse, error) {
	limits, err := quotas(ctx, d.s)
	if err != nil {
		return nil, nil, err
	}
	types, err := volumeTypes(ctx, d.s)
	if err != nil {
		return nil, nil, err
	}
	findings, err := d.grown(ctx, items)
	if err != nil {
		return nil, nil, err
	}
	need := map[string]int64{}
	for _, i := range items {
		if i.Spec == nil {
			continue
		}
		report := func(field string, err error) {
			findings = append(findings, driver.Finding{Name: i.Name, Field: field, Fault: err})
		}
		size, err := sizeGiB(i.Spec.GetSize())
		if err != nil && !slices.Contains(i.Unknown, "size") {
			report("spec.size", err)
		}
		if most, ok := limits["per_volume_gigabytes"]; ok && most.Limit >= 0 && size > most.Limit {
			report("spec.size", fault.New(fault.Quota, "a volume may have %d GiB at most, %d are asked for", most.Limit, size))
		}
		if err := knownType(types, i.Spec.GetType()); err != nil {
			report("spec.type", err)
		}
		if err := d.checkImage(ctx, i.Spec, size); err != nil {
			if !fault.Is(err, fault.Invalid) {
				return nil, nil, err
			}
			report("spec.image", err)
		}
		if s, ok := i.Refs[i.Spec.GetSnapshot()].(*storagev1.VolumeSnapshot); ok && i.Change != kindv1.Change_CHANGE_DELETE && size < s.GetObserved().GetSizeGib() {
			report("spec.size", fault.InField("spec.size", "snapshot %s is of %d GiB; a volume made of it cannot have %d", i.Spec.GetSnapshot(), s.GetObserved().GetSizeGib(), size))
		}
		addNeed(need, i, size)
	}
	return findings, cloud.QuotaUses("block-storage", need, limits), nil
}

// grown reports the volumes that are to be changed and are larger than is asked for: somebody made them grow, and Update would
// refuse every change. An item bears no key, so volumes are known by the resource's name in their marks; of several, such
// as one that is on its way out, the smallest counts.
func (d *Volumes) grown(ctx context.Context, items []driver.Item[*storagev1.VolumeSpec]) ([]driver.Finding, error) {
	wanted := map[string]int64{}
	for _, i := range items {
		if i.Spec == nil || i.Change != kindv1.Change_CHANGE_IN_PLACE || slices.Contains(i.Unknown, "size") {
			continue
		}
		if size, err := sizeGiB(i.Spec.GetSize()); err == nil { // what is no size is reported as that
			wanted[i.Name] = size
		}
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	all, err := list(ctx, d.s, url.Values{"limit": {"1000"}})
	if err != nil {
		return nil, err
	}
	smallest := map[string]volume{}
	for _, v := range all {
		_, name, ok := cloud.ParseMetadata(v.Metadata)
		if had, twice := smallest[name]; ok && !isGone(v.Status) && (!twice || v.Size < had.Size) {
			smallest[name] = v
		}
	}
	var out []driver.Finding
	for _, i := range items {
		size, asked := wanted[i.Name]
		if v, stands := smallest[i.Name]; asked && stands && v.Size > size {
			out = append(out, driver.Finding{Name: i.Name, Field: "spec.size", Fault: fault.InField("spec.size",
				"volume %s has %d GiB at the cloud and cannot shrink to %d; raise spec.size to %dGi", v.ID, v.Size, size, v.Size)})
		}
	}
	return out, nil
}

// addNeed adds what one item draws from the quotas.
func addNeed(need map[string]int64, i driver.Item[*storagev1.VolumeSpec], size int64) {
	count, grows := int64(0), int64(0)
	switch i.Change {
	case kindv1.Change_CHANGE_CREATE, kindv1.Change_CHANGE_REPLACE:
		count, grows = 1, size
	case kindv1.Change_CHANGE_IN_PLACE, kindv1.Change_CHANGE_RESTART:
		if former, err := sizeGiB(i.Former.GetSize()); err == nil {
			grows = max(size-former, 0)
		}
	}
	need["volumes"] += count
	need["gigabytes"] += grows
	if t := i.Spec.GetType(); t != "" {
		need["volumes_"+t] += count
		need["gigabytes_"+t] += grows
	}
}

func knownType(types []volumeType, ref string) error {
	names := make([]string, 0, len(types))
	for _, t := range types {
		if ref == "" || t.Name == ref || t.ID == ref {
			return nil
		}
		names = append(names, t.Name)
	}
	if ref == "" {
		return nil
	}
	return cloud.Unknown("spec.type", "volume type", ref, names)
}

// checkImage looks whether a volume can be filled with the image.
func (d *Volumes) checkImage(ctx context.Context, spec *storagev1.VolumeSpec, size int64) error {
	if spec.GetImage() == "" {
		return nil
	}
	image, err := d.s.ImageByRef(ctx, "spec.image", spec.GetImage(), false)
	if err != nil {
		return err
	}
	if image.Status != "active" {
		return fault.InField("spec.image", "image %q is %s at the cloud, not active", image.Name, image.Status)
	}
	if int64(image.MinDiskGigabytes) > size {
		return fault.InField("spec.image", "image %q needs a disk of %d GiB, the volume has %d", image.Name, image.MinDiskGigabytes, size)
	}
	return nil
}
