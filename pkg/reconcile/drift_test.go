package reconcile_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/driver/memdriver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store/memstore"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

// interval is the time between two looks in these tests.
const interval = 30 * time.Second

// watched runs a test with a loop that looks at what is ready, and with a network "a" (mem-1) that is.
func watched(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, config{})
		r.every = interval
		r.start()
		defer r.end()
		r.ensure("a", 1400)
		r.awaitReady("a")
		test(t, r)
	})
}

func (r *rig) drift(id string) *kindv1.Drift { return r.entry(id).Object.Status().GetDrift() }

// awaitDrift waits for what is to be seen within two intervals.
func (r *rig) awaitDrift(id string, want kindv1.DriftType) {
	r.Helper()
	r.await(2*interval, "drift of "+id, func() bool { return r.drift(id).GetType() == want })
	if r.phase(id) != ready {
		r.Errorf("%s is %s", id, r.phase(id))
	}
}

func TestDriftOfWhatIsGone(t *testing.T) {
	watched(t, func(t *testing.T, r *rig) {
		r.ensure("b", 1400)
		r.awaitReady("b")
		r.cloud.Remove("mem-1")
		r.awaitDrift("a", kindv1.DriftType_DRIFT_TYPE_MISSING)
		if r.drift("b") != nil {
			t.Errorf("of b: %v", r.drift("b"))
		}
		if verbs := r.box.Verbs(t); verbs[len(verbs)-1] != "drifted" {
			t.Errorf("told %v", verbs)
		}
		r.command("3", networkType, networkName("a"), "key-a", &networkv1.NetworkSpec{Mtu: 1400}, nil)
		r.await(time.Minute, "it stands again", func() bool { return r.drift("a") == nil && r.phase("a") == ready })
		if objects := r.cloud.Objects(); len(objects) != 2 || r.entry("a").Object.Status().GetProviderId() == "mem-1" {
			t.Errorf("there are %v", objects)
		}
	})
}

// TestGoneBeforeARound has the work on a record find out that its object is gone: that is drift as what a round finds, so who
// asks for the resource again, as an undo does, gets it.
func TestGoneBeforeARound(t *testing.T) {
	for name, c := range map[string]struct {
		config config
		lose   func(r *rig) // has the object go while the record is worked on
	}{
		"before a change": {lose: func(r *rig) {
			r.awaitReady("a")
			r.cloud.Remove("mem-1")
			r.command("2", networkType, networkName("a"), "key-a", &networkv1.NetworkSpec{Mtu: 1500}, nil)
		}},
		"before it was ready": {config: config{ReadyAfter: 10 * time.Second}, lose: func(r *rig) {
			r.await(time.Second, "it exists", func() bool { return len(r.cloud.Objects()) == 1 })
			r.cloud.Remove("mem-1")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, c.config, func(t *testing.T, r *rig) {
				r.ensure("a", 1400)
				c.lose(r)
				r.await(time.Minute, "it failed", func() bool { return r.phase("a") == failed })
				if e := r.entry("a"); r.drift("a").GetType() != kindv1.DriftType_DRIFT_TYPE_MISSING || e.Record.GetMissingTime() != nil {
					t.Errorf("drift %v, missed %v", r.drift("a"), e.Record.GetMissingTime())
				}
				if verbs := r.box.Verbs(t); !slices.Equal(verbs[len(verbs)-2:], []string{"drifted", "failed"}) {
					t.Errorf("told %v", verbs)
				}
				if f := r.lastOutcome().GetFault(); f.GetKind() != string(fault.NotFound) {
					t.Errorf("the fault is %v", f)
				}
				r.command("3", networkType, networkName("a"), "key-a", &networkv1.NetworkSpec{Mtu: 1400}, nil)
				r.awaitReady("a")
				if objects := r.cloud.Objects(); len(objects) != 1 || objects[0].Spec.GetMtu() != 1400 || r.drift("a") != nil {
					t.Errorf("objects %v, drift %v", objects, r.drift("a"))
				}
			})
		})
	}
}

// TestSomethingElseIsGone has a change refused because of what the spec asks for: the object stands, and did not drift.
func TestSomethingElseIsGone(t *testing.T) {
	run(t, config{}, func(t *testing.T, r *rig) {
		r.ensure("a", 1400)
		r.awaitReady("a")
		r.cloud.Inject(memdriver.Update, memdriver.Fault{Err: fault.New(fault.NotFound, "there is no such zone")})
		r.command("2", networkType, networkName("a"), "key-a", &networkv1.NetworkSpec{Mtu: 1500}, nil)
		r.await(time.Minute, "it failed", func() bool { return r.phase("a") == failed })
		if f := r.lastOutcome().GetFault(); r.drift("a") != nil || !strings.Contains(f.GetMessage(), "there is no such zone") {
			t.Errorf("drift %v, fault %v", r.drift("a"), f)
		}
	})
}

func TestDriftOfWhatWasChanged(t *testing.T) {
	watched(t, func(t *testing.T, r *rig) {
		mtu := func(n int32) func(*networkv1.NetworkSpec) {
			return func(s *networkv1.NetworkSpec) { s.Mtu = n }
		}
		r.cloud.Change("mem-1", mtu(9000))
		r.awaitDrift("a", kindv1.DriftType_DRIFT_TYPE_CHANGED)
		want := []*kindv1.DriftField{{Path: "observed.mtu", Was: "1400", Is: "9000"}}
		if d := cmp.Diff(want, r.drift("a").GetFields(), protocmp.Transform()); d != "" {
			t.Error(d)
		}
		r.cloud.Change("mem-1", mtu(1400))
		r.awaitDrift("a", kindv1.DriftType_DRIFT_TYPE_UNSPECIFIED)
		if verbs := r.box.Verbs(t); verbs[len(verbs)-1] != "restored" {
			t.Errorf("told %v", verbs)
		}
		r.cloud.Change("mem-1", mtu(9000))
		r.awaitDrift("a", kindv1.DriftType_DRIFT_TYPE_CHANGED)
		r.command("3", networkType, networkName("a"), "key-a", &networkv1.NetworkSpec{Mtu: 1400}, nil)
		r.await(time.Minute, "it is as it was", func() bool { return r.drift("a") == nil && r.phase("a") == ready })
		if objects := r.cloud.Objects(); len(objects) != 1 || objects[0].Spec.GetMtu() != 1400 {
			t.Errorf("there are %v", objects)
		}
	})
}

func TestDriftOfWhatBroke(t *testing.T) {
	watched(t, func(t *testing.T, r *rig) {
		r.cloud.SetState("mem-1", driver.Failed, fault.New(fault.Internal, "its host is gone"))
		r.awaitDrift("a", kindv1.DriftType_DRIFT_TYPE_FAILED)
		if got := r.drift("a").GetFault().GetMessage(); got != "its host is gone" {
			t.Errorf("told %q", got)
		}
		told := len(r.box.Verbs(t))
		time.Sleep(3 * interval)
		if now := r.box.Verbs(t); len(now) != told {
			t.Errorf("the same is told again: %v", now[told:])
		}
	})
}

// TestNoDrift looks when the cloud does not answer, or its list is late.
func TestNoDrift(t *testing.T) {
	watched(t, func(t *testing.T, r *rig) {
		told := len(r.box.Verbs(t))
		r.cloud.Inject(memdriver.Observe, memdriver.Fault{Err: fault.New(fault.Unavailable, "no answer"), Times: 3})
		time.Sleep(4 * interval)
		late := time.Now().Add(interval + time.Second) // the list is late when the round begins, and right a second later
		r.tap.set(func(d *tap) {
			d.hidden = func() bool { return time.Now().After(late.Add(-2*time.Second)) && time.Now().Before(late) }
		})
		time.Sleep(4 * interval)
		if r.drift("a") != nil || len(r.box.Verbs(t)) != told {
			t.Errorf("drift %v, told %v", r.drift("a"), r.box.Verbs(t)[told:])
		}
	})
}

// TestRoundsAreBatched looks at many objects with one call each interval, and less often while nothing happens. No record is
// read by itself of what is as it was.
func TestRoundsAreBatched(t *testing.T) {
	watched(t, func(t *testing.T, r *rig) {
		for i := range 50 {
			r.ensure(fmt.Sprintf("n%d", i), 1400)
		}
		r.await(time.Minute, "all stand", func() bool { return len(r.ready(50)) == 50 })
		looks := func() int {
			return len(slices.DeleteFunc(r.cloud.Calls(), func(c memdriver.Call) bool { return c.Step != memdriver.Observe || len(c.IDs) != 51 }))
		}
		var reads atomic.Int64
		r.store.SetFaults(memstore.Faults{Before: func(op, key string) error {
			if op == memstore.OpGet && strings.Contains(key, "/r/") {
				reads.Add(1)
			}
			return nil
		}})
		before := looks()
		time.Sleep(20 * interval)
		if n := looks() - before; n < 19 || n > 20 {
			t.Errorf("%d looks in 20 intervals", n)
		}
		before = looks()
		time.Sleep(80 * interval)
		if n := looks() - before; n < 30 || n > 45 {
			t.Errorf("%d looks in the 80 quiet intervals after that", n)
		}
		if n := r.tap.anyAge.Load(); n == 0 || int(n) != looks() {
			t.Errorf("%d of %d rounds said that the objects may be of any age; nothing else does", n, looks())
		}
		if n := reads.Load(); n > 0 {
			t.Errorf("%d records were read to compare them", n)
		}
	})
}
