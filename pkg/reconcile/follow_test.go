package reconcile_test

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/driver/memdriver"
	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

// following is a driver of subnets that are made from the MTU that their network observes.
type following struct {
	driver.Any
	parts int // how many calls a change takes
	left  int
	looks atomic.Int64 // from 1 on, of which the first and the third miss the object; none does before
}

// Observe implements driver.Driver.
func (f *following) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[proto.Message], error) {
	seen, err := f.Any.Observe(ctx, ids)
	if f.looks.Load() == 0 {
		return seen, err
	}
	if look := f.looks.Add(1) - 1; look == 1 || look == 3 {
		clear(seen)
	}
	return seen, err
}

// Follower implements driver.Any.
func (f *following) Follower() (driver.Follower[proto.Message], bool) { return f, true }

// Follows implements driver.Follower.
func (f *following) Follows(r driver.Request[proto.Message]) string {
	for _, m := range r.Refs {
		if n, ok := m.(*networkv1.Network); ok {
			return "mtu " + strconv.Itoa(int(n.GetObserved().GetMtu()))
		}
	}
	return ""
}

// Update implements driver.Driver: the change is done with the last of its parts.
func (f *following) Update(ctx context.Context, id string, r driver.Request[proto.Message]) error {
	if f.left == 0 {
		f.left = f.parts
	}
	f.left--
	if err := f.Any.Update(ctx, id, r); err != nil || f.left == 0 {
		return err
	}
	return driver.Unfinished("%d parts are left", f.left)
}

// follower has subnet s follow network a, and waits until both are ready.
func (r *rig) follower(parts int) func() kindv1.Phase {
	r.Helper()
	subnet := "tenants/acme/subnets/s"
	r.account.Session.Drivers[subnetType] = &following{Any: driver.Erase(r.subnets), parts: parts}
	r.ensure("a", 1400)
	r.awaitReady("a")
	r.command("1", subnetType, subnet, "key-s", &networkv1.SubnetSpec{Network: networkName("a"), Cidr: "10.0.0.0/24"}, map[string]string{networkName("a"): "key-a"})
	phase := func() kindv1.Phase {
		e, err := r.book.Current(r.Context(), subnet)
		if err != nil {
			r.Fatal(err)
		}
		return e.Object.Status().GetPhase()
	}
	r.await(time.Minute, "the follower is ready", func() bool { return phase() == ready })
	return phase
}

// TestFollows: when what an object follows observes something else, the object is brought to it, without a new generation
// and by whoever owns its record then; when nothing changes the provider is not asked to change anything.
func TestFollows(t *testing.T) {
	run(t, config{}, func(t *testing.T, r *rig) {
		phase := r.follower(3)
		time.Sleep(time.Minute)
		if n := count(r.subnets.Calls(), memdriver.Update); n != 0 {
			t.Fatalf("%d updates while nothing changed", n)
		}
		for i, parts := range []int{3, 6} {
			r.command(strconv.Itoa(7+i), networkType, networkName("a"), "key-a", &networkv1.NetworkSpec{Mtu: int32(1300 + i)}, nil)
			r.awaitReady("a")
			if i == 1 {
				r.end()
				r.start()
			}
			r.await(10*time.Second, "it follows", func() bool { return count(r.subnets.Calls(), memdriver.Update) == parts && phase() == ready })
		}
		time.Sleep(time.Minute)
		if n := count(r.subnets.Calls(), memdriver.Update); n != 6 {
			t.Errorf("%d updates, want 6: one for each part of two changes", n)
		}
		e, err := r.book.Current(t.Context(), "tenants/acme/subnets/s")
		if err != nil || e.Object.Metadata().GetGeneration() != 1 || e.Object.Status().GetFault() != nil {
			t.Errorf("generation %d, fault %v, %v; want the first without a fault", e.Object.Metadata().GetGeneration(), e.Object.Status().GetFault(), err)
		}
	})
}

// TestFollowerIsWatched: an object that follows others, and is gone from the cloud, is told to be.
func TestFollowerIsWatched(t *testing.T) {
	run(t, config{}, func(t *testing.T, r *rig) {
		r.follower(1)
		r.subnets.Remove(r.subnets.Objects()[0].ID)
		r.await(time.Minute, "it is missed", func() bool {
			e, err := r.book.Current(t.Context(), "tenants/acme/subnets/s")
			return err == nil && e.Object.Status().GetDrift().GetType() == kindv1.DriftType_DRIFT_TYPE_MISSING
		})
	})
}

// TestFollowerIsLeftOutNowAndThen: an object that was seen between two looks that missed it is not gone.
func TestFollowerIsLeftOutNowAndThen(t *testing.T) {
	run(t, config{}, func(t *testing.T, r *rig) {
		r.follower(1)
		f, ok := r.account.Session.Drivers[subnetType].(*following)
		if !ok {
			t.Fatalf("the driver is a %T", r.account.Session.Drivers[subnetType])
		}
		f.looks.Store(1)
		r.await(time.Minute, "it is looked at", func() bool { return f.looks.Load() > 4 })
		e, err := r.book.Current(t.Context(), "tenants/acme/subnets/s")
		if err != nil || e.Object.Status().GetDrift() != nil || e.Record.GetMissingTime() != nil {
			t.Errorf("drift %v, missed %v, %v", e.Object.Status().GetDrift(), e.Record.GetMissingTime(), err)
		}
	})
}

// TestBrokenIsMadeAnew: an object that the provider calls broken is taken away, and another is made; also after a crash
// between the two. Those that break again and again are given up, and nothing is left.
func TestBrokenIsMadeAnew(t *testing.T) {
	run(t, config{ReadyAfter: 3 * time.Second, GoneAfter: 3 * time.Second}, func(t *testing.T, r *rig) {
		r.ensure("a", 1400)
		for i := 1; i <= 4; i++ {
			id := "mem-" + strconv.Itoa(i)
			r.await(time.Minute, id+" exists", func() bool { o := r.cloud.Objects(); return len(o) == 1 && o[0].ID == id })
			if i == 2 {
				r.awaitReady("a") // and is not counted any more
				r.ensure("a", 1300)
				r.await(time.Minute, "it is changed", func() bool { return count(r.cloud.Calls(), memdriver.Update) == 1 })
			}
			r.cloud.SetState(id, driver.Broken, fault.New(fault.Unavailable, "it is in status ERROR"))
			r.await(time.Minute, "it is on its way", func() bool { return r.entry("a").Record.GetRemakes() > 0 })
			r.end()
			r.start()
		}
		r.await(time.Minute, "mem-5 exists", func() bool { o := r.cloud.Objects(); return len(o) == 1 && o[0].ID == "mem-5" })
		r.cloud.SetState("mem-5", driver.Broken, nil)
		r.await(time.Minute, "it is given up", func() bool { return r.phase("a") == failed })
		r.release("a")
		r.awaitGone("a")
		if left := r.cloud.Objects(); len(left) != 0 {
			t.Errorf("%v are left", left)
		}
	})
}
