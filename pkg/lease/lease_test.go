package lease_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/lease"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
	"github.com/weftcloud/weft/pkg/testkit"
)

const key = "/orchestrator/owner"

// acquire acquires for a test; Release is the test's.
func acquire(t *testing.T, s store.Store, name string) *lease.Owner {
	t.Helper()
	o, err := lease.Acquire(t.Context(), s, key, name, lease.Options{})
	if err != nil {
		t.Fatalf("Acquire for %s: %v", name, err)
	}
	return o
}

func release(t *testing.T, o *lease.Owner) {
	t.Helper()
	if err := o.Release(t.Context()); err != nil {
		t.Errorf("Release: %v", err)
	}
}

// isLost tells whether an owner was told to stop.
func isLost(o *lease.Owner) bool {
	select {
	case <-o.Lost():
		return true
	default:
		return false
	}
}

// write writes with an owner's fence.
func write(t *testing.T, s store.Store, o *lease.Owner) error {
	t.Helper()
	_, err := s.Txn(t.Context(), []store.Compare{o.Fence()}, []store.Op{{Key: "/saga"}})
	return err
}

func TestOwnerIsKeptAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		o := acquire(t, s, "a")
		time.Sleep(time.Hour)
		synctest.Wait()
		if isLost(o) {
			t.Error("the ownership was lost though the store answers")
		}
		if err := write(t, s, o); err != nil {
			t.Errorf("write of the owner: %v", err)
		}
		got, err := s.Get(t.Context(), key)
		if err != nil || string(got.Value) != "a" || got.CreateRevision != o.Epoch() {
			t.Errorf("owner key = %+v, %v, want a at epoch %d", got, err, o.Epoch())
		}
		release(t, o)
	})
}

func TestReleaseHandsOverAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		first := acquire(t, s, "a")
		second := make(chan *lease.Owner)
		go func() { second <- acquire(t, s, "b") }()
		time.Sleep(time.Minute)
		select {
		case <-second:
			t.Fatal("two owners at once")
		default:
		}
		start := time.Now()
		release(t, first)
		o := <-second
		if waited := time.Since(start); waited > 0 {
			t.Errorf("the next owner waited %s after the release", waited)
		}
		if !isLost(first) {
			t.Error("the first owner was not told to stop")
		}
		if o.Epoch() <= first.Epoch() {
			t.Errorf("epochs %d and then %d", first.Epoch(), o.Epoch())
		}
		if err := write(t, s, first); !fault.Is(err, fault.Conflict) {
			t.Errorf("write of the former owner = %v, want Conflict", err)
		}
		release(t, o)
	})
}

// A store that answers nobody: the owner must be told before anybody else can own the key.
func TestSilenceIsLossBeforeTheLeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		o := acquire(t, s, "a")
		time.Sleep(time.Minute)
		s.SetFaults(memstore.Faults{Before: func(op, _ string) error {
			if op == memstore.OpKeepAlive {
				return fault.New(fault.Unavailable, "down")
			}
			return nil
		}})
		start := time.Now()
		next := make(chan *lease.Owner)
		go func() { next <- acquire(t, s, "b") }()
		<-o.Lost()
		told := time.Since(start)
		// The last answer came up to a third of the time to live before the silence.
		if least, most := lease.DefaultTTL/3, lease.DefaultTTL*2/3; told < least || told > most {
			t.Errorf("told after %s of silence, want between %s and %s", told, least, most)
		}
		other := <-next
		taken := time.Since(start)
		if taken <= told || taken > lease.DefaultTTL {
			t.Errorf("taken over after %s, told after %s", taken, told)
		}
		if err := write(t, s, o); !fault.Is(err, fault.Conflict) {
			t.Errorf("write of the former owner = %v, want Conflict", err)
		}
		s.SetFaults(memstore.Faults{})
		release(t, o)
		if isLost(other) {
			t.Error("the former owner's release took the key from the next")
		}
		if err := write(t, s, other); err != nil {
			t.Errorf("write of the next owner: %v", err)
		}
		release(t, other)
	})
}

// A store that hangs, instead of failing, must not hold up the watchdog.
func TestHangingStoreIsLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		o := acquire(t, s, "a")
		hang := make(chan struct{})
		s.SetFaults(memstore.Faults{Before: func(op, _ string) error {
			if op == memstore.OpKeepAlive {
				<-hang
			}
			return nil
		}})
		start := time.Now()
		<-o.Lost()
		if told := time.Since(start); told != lease.DefaultTTL*2/3 {
			t.Errorf("told after %s, want %s", told, lease.DefaultTTL*2/3)
		}
		s.SetFaults(memstore.Faults{})
		close(hang)
		release(t, o)
	})
}

func TestShortOutageIsNoLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		o := acquire(t, s, "a")
		var calls atomic.Int64
		s.SetFaults(memstore.Faults{Before: func(op, _ string) error {
			if op == memstore.OpKeepAlive && calls.Add(1)%3 != 0 {
				return fault.New(fault.Unavailable, "blip")
			}
			return nil
		}})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if isLost(o) {
			t.Error("two refused keep-alives in a row lost the ownership")
		}
		if calls.Load() < 100 {
			t.Errorf("only %d keep-alives in ten minutes", calls.Load())
		}
		release(t, o)
	})
}

func TestEndedLeaseIsLossAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ahead atomic.Int64
		s := memstore.NewWith(memstore.Options{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
		o := acquire(t, s, "a")
		ahead.Store(int64(time.Hour))
		start := time.Now()
		<-o.Lost()
		if waited := time.Since(start); waited > lease.DefaultTTL/3 {
			t.Errorf("told after %s, want at the next keep-alive", waited)
		}
		release(t, o)
	})
}

func TestLostAnswerOfTheAcquisitionBlocksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		lost := errors.New("answer lost")
		s.SetFaults(memstore.Faults{After: func(op, _ string) error {
			if op == memstore.OpTxn {
				return fault.As(fault.Unavailable, lost)
			}
			return nil
		}})
		if _, err := lease.Acquire(t.Context(), s, key, "a", lease.Options{}); !errors.Is(err, lost) || !fault.Is(err, fault.Unavailable) {
			t.Errorf("Acquire = %v, want the lost answer", err)
		}
		s.SetFaults(memstore.Faults{})
		start := time.Now()
		o := acquire(t, s, "b")
		if waited := time.Since(start); waited > 0 {
			t.Errorf("the next owner waited %s for a key that was given back", waited)
		}
		release(t, o)
	})
}

func TestAcquireEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		o := acquire(t, s, "a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := lease.Acquire(ctx, s, key, "b", lease.Options{}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("Acquire = %v, want Unavailable", err)
		}
		release(t, o)
	})
}

func TestManyContendForOneKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		var owning atomic.Int64
		epochs := make(chan int64, 20)
		for range 20 {
			go func() {
				o := acquire(t, s, "x")
				if n := owning.Add(1); n != 1 {
					t.Errorf("%d owners at once", n)
				}
				time.Sleep(time.Second)
				epochs <- o.Epoch()
				owning.Add(-1)
				release(t, o)
			}()
		}
		last := int64(0)
		for range 20 {
			epoch := <-epochs
			if epoch <= last {
				t.Errorf("epoch %d after %d", epoch, last)
			}
			last = epoch
		}
		synctest.Wait()
	})
}

func TestWithEtcd(t *testing.T) {
	s := testkit.EtcdStore(t)
	first := acquire(t, s, "a")
	second := make(chan *lease.Owner, 1)
	go func() { second <- acquire(t, s, "b") }()
	if err := write(t, s, first); err != nil {
		t.Errorf("write of the owner: %v", err)
	}
	release(t, first)
	select {
	case o := <-second:
		if err := write(t, s, first); !fault.Is(err, fault.Conflict) {
			t.Errorf("write of the former owner = %v, want Conflict", err)
		}
		if err := write(t, s, o); err != nil {
			t.Errorf("write of the next owner: %v", err)
		}
		release(t, o)
	case <-time.After(20 * time.Second):
		t.Fatal("the next owner never came")
	}
}
