package lease_test

import (
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

// owner holds a lease with a key under it.
type owner struct {
	*lease.Lease
	epoch int64
}

func (o *owner) fence() store.Compare { return store.Compare{Key: key, CreateRevision: o.epoch} }

// acquire takes a lease, and the key as soon as nobody has it; Release is the test's.
func acquire(t *testing.T, s store.Store, name string) *owner {
	t.Helper()
	for {
		held, err := lease.Hold(t.Context(), s, lease.Options{})
		if err != nil {
			t.Fatalf("Hold for %s: %v", name, err)
		}
		revision, err := s.Txn(t.Context(), []store.Compare{{Key: key}}, []store.Op{{Key: key, Value: []byte(name), Lease: held.ID()}})
		if err == nil {
			return &owner{held, revision}
		}
		if !fault.Is(err, fault.Conflict) {
			t.Fatalf("own the key for %s: %v", name, err)
		}
		if err := held.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func release(t *testing.T, o *owner) {
	t.Helper()
	if err := o.Release(t.Context()); err != nil {
		t.Errorf("Release: %v", err)
	}
}

// isLost tells whether an owner was told to stop.
func isLost(o *owner) bool {
	select {
	case <-o.Lost():
		return true
	default:
		return false
	}
}

// write writes with an owner's fence.
func write(t *testing.T, s store.Store, o *owner) error {
	t.Helper()
	_, err := s.Txn(t.Context(), []store.Compare{o.fence()}, []store.Op{{Key: "/saga"}})
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
		if err != nil || string(got.Value) != "a" || got.CreateRevision != o.epoch {
			t.Errorf("owner key = %+v, %v, want a at epoch %d", got, err, o.epoch)
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
		next := make(chan *owner)
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

func TestWithEtcd(t *testing.T) {
	s := testkit.EtcdStore(t)
	first := acquire(t, s, "a")
	second := make(chan *owner, 1)
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
