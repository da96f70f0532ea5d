package budget_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftcloud/weft/pkg/budget"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
	"github.com/weftcloud/weft/pkg/testkit"
)

// process starts a process that shares; stop ends it in order.
func process(t *testing.T, s store.Store) (r *budget.Registry, stop func()) {
	r = budget.NewRegistry(budget.RegistryConfig{Store: s, Process: "network", Logger: testkit.Logger(t)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return r, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	}
}

// busy has a process want more of a budget than it gets, until ctx ends; it gives how many calls it has made.
func busy(ctx context.Context, b *budget.Budget, class budget.Class) func() uint64 {
	for range 40 {
		go func() {
			for b.Acquire(ctx, class, "acme") == nil {
				b.Done()
			}
		}()
	}
	began := b.Stats().Used
	return func() uint64 { return b.Stats().Used - began }
}

func keys(t *testing.T, s store.Store) int {
	t.Helper()
	page, err := s.List(t.Context(), budget.Prefix, store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return len(page.Entries)
}

func TestAccountKey(t *testing.T) {
	key := budget.AccountKey("clouds/lab", "http://here", "ab", "c")
	if again := budget.AccountKey("clouds/lab", "http://here", "ab", "c"); again != key {
		t.Errorf("%s, then %s", key, again)
	}
	for _, other := range []string{
		budget.AccountKey("clouds/lab", "http://here", "a", "bc"), budget.AccountKey("clouds/rab", "http://here", "ab", "c"),
		budget.AccountKey("clouds/lab", "http://there", "ab", "c"),
	} {
		if other == key {
			t.Errorf("two accounts have the key %s", key)
		}
	}
}

func TestOneProcessHasOneBudget(t *testing.T) {
	r := budget.NewRegistry(budget.RegistryConfig{})
	b := r.Budget("lab", 5)
	if r.Budget("lab", 7) != b || r.Budget("other", 5) == b {
		t.Error("a budget is not its account's")
	}
	if rate := b.Stats().Rate; rate != 7 {
		t.Errorf("rate = %g, want the one given last", rate)
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(r)
	families, err := metrics.Gather()
	if err != nil || len(families) != 6 {
		t.Errorf("%d metrics, %v", len(families), err)
	}
}

// TestProcessesDivideTheRate: together they use the rate, an idle one takes nothing, and a crashed one's part falls to
// the other.
func TestProcessesDivideTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		one, stopOne := process(t, s)
		defer stopOne()
		two, stopTwo := process(t, s)
		a, b := one.Budget("lab", 20), two.Budget("lab", 20)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		madeA := busy(ctx, a, budget.Normal)
		time.Sleep(10 * time.Second)
		if rate := a.Stats().Rate; rate != 20 || keys(t, s) != 1 {
			t.Errorf("rate beside an idle process = %g, %d keys", rate, keys(t, s))
		}
		second, cancelSecond := context.WithCancel(ctx)
		madeB := busy(second, b, budget.Normal)
		time.Sleep(10 * time.Second)
		fromA, fromB := madeA(), madeB()
		time.Sleep(10 * time.Second)
		gotA, gotB := madeA()-fromA, madeB()-fromB
		if sum := gotA + gotB; sum < 190 || sum > 210 {
			t.Errorf("%d + %d calls in 10 s at 20 a second", gotA, gotB)
		}
		if gotA < 80 || gotB < 80 {
			t.Errorf("%d and %d calls: equals are not treated alike", gotA, gotB)
		}
		cancelSecond()
		stopTwo() // its keys go with its lease
		time.Sleep(time.Second)
		if rate := a.Stats().Rate; rate != 20 {
			t.Errorf("rate after the other has gone = %g", rate)
		}
	})
}

// TestUrgentWorkElsewhere: what a person waits for in one process is not held up by the mass of usual work in another.
func TestUrgentWorkElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		one, stopOne := process(t, s)
		defer stopOne()
		two, stopTwo := process(t, s)
		defer stopTwo()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		busy(ctx, one.Budget("lab", 5), budget.Normal)
		b := two.Budget("lab", 5)
		time.Sleep(5 * time.Second)
		began := time.Now()
		for range 6 {
			if err := b.Acquire(ctx, budget.Interactive, "acme"); err != nil {
				t.Fatal(err)
			}
			b.Done()
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("6 interactive calls took %s", took)
		}
	})
}

// TestRestIsObeyedByAll: what one process was asked the other obeys, once.
func TestRestIsObeyedByAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		one, stopOne := process(t, s)
		defer stopOne()
		two, stopTwo := process(t, s)
		defer stopTwo()
		a, b := one.Budget("lab", 20), two.Budget("lab", 20)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		busy(ctx, a, budget.Normal)
		made := busy(ctx, b, budget.Normal)
		time.Sleep(10 * time.Second)
		a.Throttled(20 * time.Second)
		time.Sleep(time.Second)
		synctest.Wait()
		before := made()
		if rest := b.Stats().Paused; rest < 18*time.Second || rest > 20*time.Second {
			t.Fatalf("the other rests for %s, want 19s", rest)
		}
		third, stopThird := process(t, s) // one that starts meanwhile obeys, too
		defer stopThird()
		time.Sleep(2 * time.Second)
		if rest := third.Budget("lab", 20).Stats().Paused; rest == 0 {
			t.Error("one that starts later does not rest")
		}
		time.Sleep(15 * time.Second)
		if n := made() - before; n != 0 {
			t.Errorf("%d calls while another was asked to rest", n)
		}
		time.Sleep(10 * time.Second)
		if s := b.Stats(); s.Paused != 0 || made() == before || s.AccountRate < 10 {
			t.Errorf("it rests again and again: %+v", s)
		}
	})
}

// TestStoreIsAway: without the store the work goes on, and afterwards processes find each other again.
func TestStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		one, stopOne := process(t, s)
		defer stopOne()
		two, stopTwo := process(t, s)
		defer stopTwo()
		a, b := one.Budget("lab", 20), two.Budget("lab", 20)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		made := busy(ctx, a, budget.Normal)
		busy(ctx, b, budget.Normal)
		time.Sleep(5 * time.Second)
		s.SetFaults(memstore.Faults{Before: func(string, string) error { return fault.New(fault.Unavailable, "the store is away") }})
		s.BreakWatches()
		time.Sleep(20 * time.Second)
		before := made()
		time.Sleep(10 * time.Second)
		if made() == before {
			t.Error("no call without the store")
		}
		s.SetFaults(memstore.Faults{})
		time.Sleep(10 * time.Second)
		if n := keys(t, s); n != 2 {
			t.Errorf("%d keys, want one of each process", n)
		}
		if sum := a.Stats().Rate + b.Stats().Rate; sum > 20.5 || sum < 19.5 {
			t.Errorf("together they take %g of 20 calls a second", sum)
		}
	})
}

// TestIdleAccountHasNoKey: a key goes when no call was made for a while.
func TestIdleAccountHasNoKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		one, stop := process(t, s)
		defer stop()
		ctx, cancel := context.WithCancel(t.Context())
		busy(ctx, one.Budget("lab", 20), budget.Normal)
		time.Sleep(3 * time.Second)
		if n := keys(t, s); n != 1 {
			t.Errorf("%d keys", n)
		}
		cancel()
		time.Sleep(30 * time.Second)
		if n := keys(t, s); n != 0 {
			t.Errorf("%d keys of an idle account", n)
		}
	})
}
