package openstack

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/driver/drivertest"
	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
	"github.com/weftcloud/weft/pkg/cloud/openstack/openstacktest"
)

// places are where the suite runs; see sandbox_test.go for the simulated one.
var places = map[string]func(*testing.T) *openstacktest.Place{
	"real":    openstacktest.Real,
	"sandbox": simulated,
}

func everywhere(t *testing.T, test func(t *testing.T, p *openstacktest.Place)) {
	for name, open := range places {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func TestVolumes(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		drivertest.Run(t, drivertest.Harness[*storagev1.VolumeSpec, *storagev1.VolumeObserved]{
			Driver: NewVolumes(p.Session), Name: func(id string) string { return "tenants/conform/volumes/" + id },
			Spec: func(*testing.T) (*storagev1.VolumeSpec, driver.Refs) {
				return &storagev1.VolumeSpec{Size: "1Gi", Type: "standard"}, nil
			},
			Change: func(*testing.T, driver.Request[*storagev1.VolumeSpec]) (*storagev1.VolumeSpec, driver.Refs) {
				return &storagev1.VolumeSpec{Size: "2Gi", Type: "standard"}, nil
			},
			Outage: p.Outage, Wait: p.Wait, AbsentID: openstacktest.AbsentID,
			Verify: func(t *testing.T, r driver.Request[*storagev1.VolumeSpec], o *storagev1.VolumeObserved) {
				size, err := sizeGiB(r.Spec.GetSize())
				if err != nil || o.GetSizeGib() != size || o.GetType() != r.Spec.GetType() || o.GetVolumeId() == "" {
					t.Errorf("observed %v, want %v", o, r.Spec)
				}
			},
		})
	})
}

// TestVolumeSnapshots holds the suite for snapshots; a volume that is made of one has its size and no less.
func TestVolumeSnapshots(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		source := p.Volume(t)
		refs := driver.Refs{source.GetName(): source}
		snapshots, volumes := NewVolumeSnapshots(p.Session), NewVolumes(p.Session)
		drivertest.Run(t, drivertest.Harness[*storagev1.VolumeSnapshotSpec, *storagev1.VolumeSnapshotObserved]{
			Driver: snapshots, Name: func(id string) string { return "tenants/conform/volumeSnapshots/" + id },
			Spec: func(*testing.T) (*storagev1.VolumeSnapshotSpec, driver.Refs) {
				return &storagev1.VolumeSnapshotSpec{Volume: source.GetName()}, refs
			},
			Outage: p.Outage, Wait: p.Wait, AbsentID: openstacktest.AbsentID,
			Verify: func(t *testing.T, _ driver.Request[*storagev1.VolumeSnapshotSpec], o *storagev1.VolumeSnapshotObserved) {
				if o.GetSnapshotId() == "" || o.GetSizeGib() != 1 || o.GetVolumeId() != source.GetObserved().GetVolumeId() {
					t.Errorf("observed %v, want a snapshot of %v", o, source)
				}
			},
		})
		made := create(t, p, snapshots, driver.Request[*storagev1.VolumeSnapshotSpec]{Key: newKey(t), Name: "tenants/conform/volumeSnapshots/s", Spec: &storagev1.VolumeSnapshotSpec{Volume: source.GetName()}, Refs: refs})
		s := &storagev1.VolumeSnapshot{Name: "tenants/conform/volumeSnapshots/s", Observed: &storagev1.VolumeSnapshotObserved{SnapshotId: made}}
		blocked(t, volumes, source.GetObserved().GetVolumeId(), "snapshot", made)
		restored := create(t, p, volumes, driver.Request[*storagev1.VolumeSpec]{
			Key: newKey(t), Name: "tenants/conform/volumes/restored", Spec: &storagev1.VolumeSpec{Size: "2Gi", Snapshot: s.GetName()}, Refs: driver.Refs{s.GetName(): s},
		})
		seen, err := volumes.Observe(t.Context(), []string{restored})
		if err != nil || seen[restored].Observed.GetSizeGib() != 2 {
			t.Errorf("restored as %v, %v; want 2 GiB", seen[restored], err)
		}
	})
}

// blocked holds Blockers to one answer.
func blocked(t *testing.T, d driver.Blockable, id, kind, by string) {
	t.Helper()
	blockers, err := d.Blockers(t.Context(), id)
	if err != nil || len(blockers) != 1 || blockers[0].GetKind() != kind || blockers[0].GetId() != by {
		t.Errorf("blockers = %v, %v; want %s %s", blockers, err, kind, by)
	}
}

// create makes an object, waits until it is ready and has it taken away at the end.
func create[S, O proto.Message](t *testing.T, p *openstacktest.Place, d driver.Driver[S, O], r driver.Request[S]) string {
	t.Helper()
	id, err := d.Create(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { gone(t, p, d, id) })
	ready(t, p, d, id, r)
	return id
}

// ready waits until an object is ready, and updates it as often as it asks for that.
func ready[S, O proto.Message](t *testing.T, p *openstacktest.Place, d driver.Driver[S, O], id string, r driver.Request[S]) (observed O) {
	t.Helper()
	p.Await(t, r.Name, func() (bool, error) {
		seen, err := d.Observe(t.Context(), []string{id})
		if err != nil {
			return false, err
		}
		observed = seen[id].Observed
		switch seen[id].State {
		case driver.Failed:
			return false, seen[id].Fault
		case driver.Outdated:
			if err := d.Update(t.Context(), id, r); err != nil && !fault.Is(err, fault.Conflict) {
				return false, err
			}
		}
		return seen[id].State == driver.Ready, nil
	})
	return observed
}

// gone deletes an object and waits until it is gone.
func gone[S, O proto.Message](t *testing.T, p *openstacktest.Place, d driver.Driver[S, O], id string) {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	for ctx.Err() == nil {
		if err := d.Delete(ctx, id); err != nil && !fault.Is(err, fault.Conflict) {
			t.Errorf("delete %s: %v", id, err)
			return
		}
		if seen, err := d.Observe(ctx, []string{id}); err == nil && len(seen) == 0 {
			return
		}
		p.Wait()
	}
	t.Errorf("%s is left behind", id)
}

func newKey(t *testing.T) string {
	t.Helper()
	key, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return key.String()
}

// TestRetype: a volume grows and changes its type with one request; the cloud does one after the other.
func TestRetype(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		volumes := NewVolumes(p.Session)
		r := driver.Request[*storagev1.VolumeSpec]{Key: newKey(t), Name: "tenants/conform/volumes/typed", Spec: &storagev1.VolumeSpec{Size: "1Gi", Type: "standard"}}
		id := create(t, p, volumes, r)
		r.Spec = &storagev1.VolumeSpec{Size: "2Gi", Type: "fast"}
		if err := volumes.Update(t.Context(), id, r); err != nil {
			t.Fatal(err)
		}
		if o := ready(t, p, volumes, id, r); o.GetSizeGib() != 2 || o.GetType() != "fast" {
			t.Errorf("observed %v, want 2 GiB of type fast", o)
		}
	})
}

// TestKeptVolume: a volume that is kept is found by its former key no more, is listed as kept, and is taken up by the next
// resource of its name, larger if that is wanted. What was taken up is told, so that an undo keeps it again.
func TestKeptVolume(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		volumes := NewVolumes(p.Session)
		name := "tenants/conform/volumes/kept-" + newKey(t)[24:]
		r := driver.Request[*storagev1.VolumeSpec]{Key: newKey(t), Name: name, Spec: &storagev1.VolumeSpec{Size: "1Gi"}}
		id := create(t, p, volumes, r)
		for range 2 {
			if err := volumes.Keep(t.Context(), id, r.Key, r.Name); err != nil {
				t.Fatal(err)
			}
		}
		if found, err := volumes.Find(t.Context(), r); err != nil || len(found) > 0 {
			t.Errorf("found by its former key: %v, %v", found, err)
		}
		all, err := volumes.ListMarked(t.Context())
		if err != nil || !slices.Contains(all, driver.Marked{ID: id, Key: r.Key, Name: name, Kept: true}) {
			t.Errorf("listed %v, %v; want %s as kept", all, err, id)
		}
		next := driver.Request[*storagev1.VolumeSpec]{Key: newKey(t), Name: name, Spec: &storagev1.VolumeSpec{Size: "2Gi", AdoptKept: true}}
		got, err := volumes.Create(t.Context(), next)
		if err != nil || got != id {
			t.Fatalf("taken up %s, %v; want %s", got, err, id)
		}
		if o := ready(t, p, volumes, id, next); o.GetSizeGib() != 2 {
			t.Errorf("observed %v, want 2 GiB", o)
		}
		if found, err := volumes.Find(t.Context(), next); err != nil || !slices.Equal(found, []string{id}) {
			t.Errorf("found by its new key: %v, %v", found, err)
		}
		if up, err := volumes.TakenUp(t.Context(), id); err != nil || !up {
			t.Errorf("taken up: %v, %v", up, err)
		}
		if err := volumes.Keep(t.Context(), openstacktest.AbsentID, r.Key, name); err != nil {
			t.Errorf("keep what is gone: %v", err)
		}
	})
}

// TestCopiedVolume: the copy of a volume is an image that bears the mark of what was kept, and is made once.
func TestCopiedVolume(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		volumes := NewVolumes(p.Session)
		r := driver.Request[*storagev1.VolumeSpec]{Key: newKey(t), Name: "tenants/conform/volumes/copied", Spec: &storagev1.VolumeSpec{Size: "1Gi"}}
		id := create(t, p, volumes, r)
		copied, err := false, error(nil)
		for end := time.Now().Add(5 * time.Minute); !copied && err == nil && time.Now().Before(end); p.Wait() {
			copied, err = volumes.Copy(t.Context(), id, r.Key, r.Name)
		}
		if err != nil || !copied {
			t.Fatalf("copied: %v, %v", copied, err)
		}
		if done, err := volumes.Copy(t.Context(), id, r.Key, r.Name); err != nil || !done {
			t.Errorf("copied again: %v, %v", done, err)
		}
		made, err := volumes.copyOf(t.Context(), r.Key, r.Name)
		if err != nil || made == nil || made.Properties[cloud.MetadataKept] != r.Key {
			t.Fatalf("copy = %v, %v", made, err)
		}
		c, err := p.Session.Image(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := images.Delete(t.Context(), c, made.ID).ExtractErr(); err != nil {
			t.Error(err)
		}
	})
}

func TestVolumeAttachments(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		network, _ := p.Network(t, "10.81.0.0/24")
		server := p.Server(t, network)
		drivertest.Run(t, drivertest.Harness[*storagev1.VolumeAttachmentSpec, *storagev1.VolumeAttachmentObserved]{
			Driver: NewVolumeAttachments(p.Session), Name: func(id string) string { return "tenants/conform/volumeAttachments/" + id },
			Identity: "server and volume are an attachment's identity; it bears no key",
			Spec: func(t *testing.T) (*storagev1.VolumeAttachmentSpec, driver.Refs) {
				v := p.Volume(t)
				return &storagev1.VolumeAttachmentSpec{Server: server.GetName(), Volume: v.GetName()}, driver.Refs{server.GetName(): server, v.GetName(): v}
			},
			Outage: p.Outage, Wait: p.Wait, AbsentID: openstacktest.AbsentID + "/" + openstacktest.AbsentID,
			Verify: func(t *testing.T, _ driver.Request[*storagev1.VolumeAttachmentSpec], o *storagev1.VolumeAttachmentObserved) {
				if o.GetDevice() == "" {
					t.Errorf("observed %v, want a device", o)
				}
			},
		})
	})
}

// TestAttachedVolume: an attached volume names its server as blocker, is refused to be deleted, and grows.
func TestAttachedVolume(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		network, _ := p.Network(t, "10.82.0.0/24")
		server, v := p.Server(t, network), p.Volume(t)
		attachments, volumes := NewVolumeAttachments(p.Session), NewVolumes(p.Session)
		id, err := attachments.Create(t.Context(), driver.Request[*storagev1.VolumeAttachmentSpec]{
			Spec: &storagev1.VolumeAttachmentSpec{Server: server.GetName(), Volume: v.GetName()}, Refs: driver.Refs{server.GetName(): server, v.GetName(): v},
		})
		if err != nil {
			t.Fatal(err)
		}
		volumeID, serverID := v.GetObserved().GetVolumeId(), server.GetObserved().GetServerId()
		p.Await(t, "attached", func() (bool, error) {
			seen, err := attachments.Observe(t.Context(), []string{id})
			return seen[id].State == driver.Ready, err
		})
		blockers, err := volumes.Blockers(t.Context(), volumeID)
		if err != nil || len(blockers) != 1 || blockers[0].GetKind() != "server" || blockers[0].GetId() != serverID {
			t.Fatalf("blockers = %v, %v; want server %s", blockers, err, serverID)
		}
		if owner := blockers[0].GetOwner(); !strings.Contains(owner, "conform") || !strings.Contains(owner, "this project") || !strings.Contains(owner, "as /dev/") {
			t.Errorf("the owner is told as %q, want the server's name, project and device", owner)
		}
		if want := "detach volume " + volumeID + " from server " + serverID; blockers[0].GetAction() != want {
			t.Errorf("the action is %q, want %q", blockers[0].GetAction(), want)
		}
		if err := volumes.Delete(t.Context(), volumeID); !fault.Is(err, fault.Conflict) {
			t.Errorf("delete of an attached volume = %v, want Conflict", err)
		}
		if err := volumes.Update(t.Context(), volumeID, driver.Request[*storagev1.VolumeSpec]{Name: "v", Spec: &storagev1.VolumeSpec{Size: "2Gi"}}); err != nil {
			t.Errorf("extend while attached: %v", err)
		}
		p.Await(t, "extended", func() (bool, error) {
			seen, err := volumes.Observe(t.Context(), []string{volumeID})
			return seen[volumeID].State == driver.Ready && seen[volumeID].Observed.GetSizeGib() == 2, err
		})
		for range 2 {
			if err := attachments.Delete(t.Context(), id); err != nil {
				t.Errorf("detach: %v", err)
			}
		}
		p.Await(t, "detached", func() (bool, error) {
			seen, err := attachments.Observe(t.Context(), []string{id})
			return len(seen) == 0, err
		})
		if err := volumes.Delete(t.Context(), volumeID); err != nil {
			t.Errorf("delete after it was detached: %v", err)
		}
		if blockers, err := volumes.Blockers(t.Context(), volumeID); err != nil || len(blockers) > 0 {
			t.Errorf("blockers after it was detached = %v, %v", blockers, err)
		}
	})
}

// TestSnapshotOfAMovingVolume: a snapshot is not deleted while its volume is detached, since the cloud would fail at it for
// good; afterwards it is.
func TestSnapshotOfAMovingVolume(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		network, _ := p.Network(t, "10.83.0.0/24")
		server, v := p.Server(t, network), p.Volume(t)
		refs := driver.Refs{server.GetName(): server, v.GetName(): v}
		attachments, snapshots := NewVolumeAttachments(p.Session), NewVolumeSnapshots(p.Session)
		moment := create(t, p, snapshots, driver.Request[*storagev1.VolumeSnapshotSpec]{
			Key: newKey(t), Name: "tenants/conform/volumeSnapshots/moment", Spec: &storagev1.VolumeSnapshotSpec{Volume: v.GetName()}, Refs: refs,
		})
		r := driver.Request[*storagev1.VolumeAttachmentSpec]{Name: "tenants/conform/volumeAttachments/a", Spec: &storagev1.VolumeAttachmentSpec{Server: server.GetName(), Volume: v.GetName()}, Refs: refs}
		id, err := attachments.Create(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		ready(t, p, attachments, id, r)
		if err := attachments.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		p.Await(t, "deleted", func() (bool, error) {
			err := snapshots.Delete(t.Context(), moment)
			if fault.Is(err, fault.Conflict) {
				return false, nil
			}
			return err == nil, err
		})
		p.Await(t, "gone", func() (bool, error) {
			seen, err := snapshots.Observe(t.Context(), []string{moment})
			if err == nil && seen[moment].State == driver.Failed {
				err = seen[moment].Fault
			}
			return len(seen) == 0, err
		})
	})
}

func TestVolumeCheck(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		create := kindv1.Change_CHANGE_CREATE
		findings, uses, err := NewVolumes(p.Session).Check(t.Context(), []driver.Item[*storagev1.VolumeSpec]{
			{Name: "good", Change: create, Spec: &storagev1.VolumeSpec{Size: "3Gi", Type: "standard", Image: p.Image}},
			{Name: "size", Change: create, Spec: &storagev1.VolumeSpec{Size: "3G"}},
			{Name: "type", Change: create, Spec: &storagev1.VolumeSpec{Size: "1Ti", Type: "standart"}},
			{Name: "image", Change: create, Spec: &storagev1.VolumeSpec{Size: "1Gi", Image: "no-such"}},
			{Name: "grows", Change: kindv1.Change_CHANGE_IN_PLACE, Spec: &storagev1.VolumeSpec{Size: "5Gi"}, Former: &storagev1.VolumeSpec{Size: "2Gi"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range findings {
			got = append(got, f.Name+" "+f.Field)
		}
		if want := []string{"size spec.size", "type spec.type", "image spec.image"}; !slices.Equal(got, want) {
			t.Errorf("findings %q, want %q", got, want)
		}
		need := map[string]int64{}
		for _, u := range uses {
			need[u.Quota] = u.Need
		}
		if need["volumes"] != 4 || need["gigabytes"] != 3+1024+1+3 {
			t.Errorf("needs = %v", need)
		}
		features, err := probe(t.Context(), p.Session)
		if err != nil {
			t.Fatal(err)
		}
		told := map[string]string{}
		for _, f := range features {
			told[f.Service+" "+f.Name] = f.Value
		}
		for name, want := range map[string]string{
			"block-storage extend while attached": "yes", "block-storage type standard": "any backend", "block-storage pools": "shown to administrators only",
			"shared-file-system type default": "driver_handles_share_servers=false", "object-store S3": "yes",
		} {
			if !strings.Contains(told[name], want) { // clouds tell more of a type, in the order of its facts
				t.Errorf("the probe tells %s %q, want %q", name, told[name], want)
			}
		}
	})
}

// TestGrownByHand changes a volume that somebody made larger than its spec: the look before says so, and what to do.
func TestGrownByHand(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		volumes := NewVolumes(p.Session)
		r := driver.Request[*storagev1.VolumeSpec]{Key: newKey(t), Name: "tenants/conform/volumes/grown", Spec: &storagev1.VolumeSpec{Size: "2Gi"}}
		id := create(t, p, volumes, r)
		for size, want := range map[string]bool{"1Gi": true, "2Gi": false, "3Gi": false} {
			for _, change := range []kindv1.Change{kindv1.Change_CHANGE_IN_PLACE, kindv1.Change_CHANGE_CREATE} {
				findings, _, err := volumes.Check(t.Context(), []driver.Item[*storagev1.VolumeSpec]{
					{Name: r.Name, Change: change, Spec: &storagev1.VolumeSpec{Size: size}, Former: &storagev1.VolumeSpec{Size: size}},
				})
				if err != nil {
					t.Fatal(err)
				}
				found := slices.ContainsFunc(findings, func(f driver.Finding) bool {
					return f.Field == "spec.size" && strings.Contains(f.Fault.Error(), id+" has 2 GiB at the cloud") && strings.Contains(f.Fault.Error(), "raise spec.size to 2Gi")
				})
				if found != (want && change == kindv1.Change_CHANGE_IN_PLACE) || !found && len(findings) > 0 {
					t.Errorf("%s of %s: %v", change, size, findings)
				}
			}
		}
	})
}

func TestSizeGiB(t *testing.T) {
	for text, want := range map[string]int64{"1Gi": 1, "20Gi": 20, "2Ti": 2048, "": 0, "20": 0, "20G": 0, "0Gi": 0, "-1Gi": 0, "Gi": 0, "1GiGi": 0, "9999999999Ti": 0} {
		got, err := sizeGiB(text)
		if got != want || (err != nil) != (want == 0) {
			t.Errorf("sizeGiB(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
}
