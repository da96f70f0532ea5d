package openstack

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/snapshots"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/weftcloud/weft/pkg/cloud/openstack/openstacktest"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
	"github.com/weftcloud/weft/services/sandbox"
)

// simulated runs a sandbox and opens a session at it. The sandbox is held to the same suite as a real OpenStack.
func simulated(t *testing.T) *openstacktest.Place {
	t.Helper()
	return openstacktest.FromYAML(t, start(t), "sandbox")
}

// start runs a sandbox and gives its clouds.yaml.
func start(t *testing.T) []byte {
	t.Helper()
	// short latencies, so that every state between is seen
	s, err := sandbox.New(sandbox.Config{Logger: slog.New(slog.DiscardHandler), Latency: sandbox.Latencies{
		"compute.server.active": 150 * time.Millisecond, "compute.server.deleted": 80 * time.Millisecond,
		"volume.volume.available": 80 * time.Millisecond, "state": 60 * time.Millisecond,
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("sandbox: %v", err)
		}
	})
	return s.CloudsYAML()
}

// TestSnapshotsNeedAVolumeAtRest: no snapshot is deleted while its volume is in a status in which a backend that keeps volumes as
// files fails at that, whether or not the volume works then. One at which that happened waits for the cloud's operator.
func TestSnapshotsNeedAVolumeAtRest(t *testing.T) {
	yaml := start(t)
	p, admin := openstacktest.FromYAML(t, yaml, "sandbox"), openstacktest.FromYAML(t, yaml, "sandbox-admin")
	v, d := p.Volume(t), NewVolumeSnapshots(p.Session)
	volumeID := v.GetObserved().GetVolumeId()
	own, err := p.Session.BlockStorage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	operators, err := admin.Session.BlockStorage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	become := func(status string) {
		t.Helper()
		if err := volumes.ResetStatus(t.Context(), operators, volumeID, volumes.ResetStatusOpts{Status: status}).ExtractErr(); err != nil {
			t.Fatal(err)
		}
	}
	for _, status := range []string{"available", "in-use", "backing-up", "downloading"} {
		become("available")
		id := create(t, p, d, driver.Request[*storagev1.VolumeSnapshotSpec]{
			Key: newKey(t), Name: "tenants/conform/volumeSnapshots/s", Spec: &storagev1.VolumeSnapshotSpec{Volume: v.GetName()}, Refs: driver.Refs{v.GetName(): v},
		})
		for _, busy := range []string{"reserved", "attaching", "detaching", "uploading", "awaiting-transfer", "extending", "error_extending"} {
			become(busy)
			if err := d.Delete(t.Context(), id); !fault.Is(err, fault.Conflict) {
				t.Errorf("delete while its volume is %s = %v, want Conflict", busy, err)
			}
		}
		become(status)
		gone(t, p, d, id)
	}
	become("available")
	id := create(t, p, d, driver.Request[*storagev1.VolumeSnapshotSpec]{
		Key: newKey(t), Name: "tenants/conform/volumeSnapshots/s", Spec: &storagev1.VolumeSnapshotSpec{Volume: v.GetName()}, Refs: driver.Refs{v.GetName(): v},
	})
	become("reserved")
	if err := snapshots.Delete(t.Context(), own, id).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	p.Await(t, "the cloud fails at it", func() (bool, error) {
		seen, err := d.Observe(t.Context(), []string{id})
		return seen[id].State == driver.Failed, err
	})
	become("available")
	if err := d.Delete(t.Context(), id); !fault.Is(err, fault.Precondition) {
		t.Errorf("delete after the cloud failed at it = %v, want Precondition", err)
	}
	if err := snapshots.ResetStatus(t.Context(), operators, id, snapshots.ResetStatusOpts{Status: "available"}).ExtractErr(); err != nil {
		t.Fatal(err)
	}
}
