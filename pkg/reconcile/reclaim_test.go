package reconcile

import (
	"testing"

	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
)

// TestReclaim holds whose word counts when an object that may hold data is released.
func TestReclaim(t *testing.T) {
	const (
		unsaid   = kindv1.Reclaim_RECLAIM_UNSPECIFIED
		keep     = kindv1.Reclaim_RECLAIM_KEEP
		snapshot = kindv1.Reclaim_RECLAIM_SNAPSHOT
		destroy  = kindv1.Reclaim_RECLAIM_DESTROY
	)
	for what, c := range map[string]struct {
		spec, asked kindv1.Reclaim
		undo, young bool
		want        kindv1.Reclaim
	}{
		"nothing is said":                      {want: keep},
		"the spec says it":                     {spec: snapshot, want: snapshot},
		"a person says otherwise":              {spec: keep, asked: destroy, want: destroy},
		"a person saves what was to go":        {spec: destroy, asked: keep, want: keep},
		"an undo takes back what it made":      {spec: keep, undo: true, want: destroy},
		"an undo does, whatever a person said": {asked: keep, undo: true, want: destroy},
		"it never stood":                       {spec: keep, young: true, want: destroy},
	} {
		t.Run(what, func(t *testing.T) {
			status := &kindv1.Status{ObservedGeneration: 1}
			if c.young {
				status.ObservedGeneration = 0
			}
			e := &record.Entry{
				Object: resource.Wrap(&storagev1.Volume{Spec: &storagev1.VolumeSpec{Size: "1Gi", Reclaim: c.spec}, Status: status}),
				Record: &participantv1.Record{Reclaim: c.asked, Origin: &busv1.Origin{Direction: busv1.Direction_DIRECTION_DO}},
			}
			if c.undo {
				e.Record.Origin.Direction = busv1.Direction_DIRECTION_UNDO
			}
			if got := reclaimOf(e); got != c.want {
				t.Errorf("its data: %s, want %s", got, c.want)
			}
		})
	}
	e := &record.Entry{
		Object: resource.Wrap(&networkv1.Network{Spec: &networkv1.NetworkSpec{}, Status: &kindv1.Status{ObservedGeneration: 1}}),
		Record: &participantv1.Record{Reclaim: keep},
	}
	if got := reclaimOf(e); got != destroy {
		t.Errorf("of a kind that holds no data: %s, want %s", got, destroy)
	}
}
