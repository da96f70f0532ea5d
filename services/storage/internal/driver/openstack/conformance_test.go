package openstack

import (
	"slices"
	"strings"
	"testing"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/driver/drivertest"
	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"

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
		if err != nil || len(features) < 4 {
			t.Errorf("probe = %v, %v", features, err)
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
