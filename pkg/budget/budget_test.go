package budget_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftcloud/weft/pkg/budget"
	"github.com/weftcloud/weft/pkg/fault"
)

// log notes who went when, since the test began.
type log struct {
	mu    sync.Mutex
	began time.Time
	names []string
	times []time.Duration
}

func (l *log) note(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names, l.times = append(l.names, name), append(l.times, time.Since(l.began))
}

// gone gives who has gone so far, when the times.
func (l *log) gone() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.names)
}

func (l *log) when() []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.times)
}

// enter stands in line, in the order of its calls, and notes when it is let through.
func (l *log) enter(b *budget.Budget, class budget.Class, tenant, name string) *budget.Ticket {
	t := b.Enter(class, tenant)
	go func() {
		<-t.Ready()
		l.note(name)
		t.Done()
	}()
	return t
}

// empty takes the token that a new budget has, so that whoever comes next must wait.
func empty(t *testing.T, b *budget.Budget) *log {
	t.Helper()
	if err := b.Acquire(t.Context(), budget.Normal, "first"); err != nil {
		t.Fatal(err)
	}
	b.Done()
	return &log{began: time.Now()}
}

func TestStrictOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := budget.New(budget.Config{Rate: 10, Burst: 1})
		l := empty(t, b)
		for _, class := range []budget.Class{budget.Normal, budget.Interactive, budget.Undo} {
			for i := range 3 {
				l.enter(b, class, "acme", fmt.Sprintf("%s%d", class, i))
			}
		}
		if got := b.Stats().Waiting; got != [3]int{3, 3, 3} {
			t.Errorf("waiting = %v", got)
		}
		time.Sleep(2 * time.Second)
		want := []string{"undo0", "undo1", "undo2", "interactive0", "interactive1", "interactive2", "normal0", "normal1", "normal2"}
		if diff := cmp.Diff(want, l.gone()); diff != "" {
			t.Error(diff)
		}
		for i, at := range l.when() {
			if due := time.Duration(i+1) * 100 * time.Millisecond; (at - due).Abs() > time.Millisecond {
				t.Errorf("call %d after %s, want %s", i, at, due)
			}
		}
		if s := b.Stats(); s.Used != 10 || s.InFlight != 0 {
			t.Errorf("stats = %+v", s)
		}
	})
}

func TestGuaranteedShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := budget.New(budget.Config{Rate: 10, Burst: 1})
		l := empty(t, b)
		for range 100 {
			for _, class := range []budget.Class{budget.Normal, budget.Interactive, budget.Undo} {
				l.enter(b, class, "acme", class.String())
			}
		}
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		counts := map[string]int{}
		for _, name := range l.gone() {
			counts[name]++
		}
		if len(l.gone()) != 100 || counts["normal"] != 10 || counts["interactive"] < 9 || counts["undo"] < 80 {
			t.Errorf("of %d calls: %v", len(l.gone()), counts)
		}
		time.Sleep(time.Minute)
	})
}

func TestFairBetweenTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := budget.New(budget.Config{Rate: 10, Burst: 1})
		l := empty(t, b)
		for range 50 {
			l.enter(b, budget.Normal, "big", "big")
		}
		for range 3 {
			l.enter(b, budget.Normal, "small", "small")
		}
		l.enter(b, budget.Normal, "tiny", "tiny")
		time.Sleep(900*time.Millisecond + time.Millisecond)
		synctest.Wait()
		if diff := cmp.Diff([]string{"big", "small", "tiny", "big", "small", "big", "small", "big", "big"}, l.gone()); diff != "" {
			t.Error(diff)
		}
		time.Sleep(time.Minute)
	})
}

func TestBurstAfterRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := budget.New(budget.Config{Rate: 10, Burst: 5})
		time.Sleep(time.Hour)
		l := &log{began: time.Now()}
		for range 7 {
			l.enter(b, budget.Normal, "acme", "x")
		}
		synctest.Wait()
		if len(l.gone()) != 5 {
			t.Errorf("%d calls at once, want the burst of 5", len(l.gone()))
		}
		time.Sleep(time.Second)
	})
}

// TestCancelLeavesNoHole cancels in the middle of the line, and one that was let through and made no call.
func TestCancelLeavesNoHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := budget.New(budget.Config{Rate: 1, Burst: 1})
		l := empty(t, b)
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 1)
		go func() { errs <- b.Acquire(ctx, budget.Normal, "acme") }()
		synctest.Wait()
		unused := b.Enter(budget.Normal, "acme")
		l.enter(b, budget.Normal, "acme", "last")
		time.Sleep(500 * time.Millisecond)
		cancel()
		if err := <-errs; !fault.Is(err, fault.Unavailable) {
			t.Errorf("Acquire = %v, want Unavailable", err)
		}
		<-unused.Ready() // at 1 s: the one before is gone
		unused.Cancel()
		unused.Cancel()
		synctest.Wait()
		if diff := cmp.Diff([]string{"last"}, l.gone()); diff != "" {
			t.Error(diff)
		}
		if at := l.when()[0]; (at - time.Second).Abs() > time.Millisecond {
			t.Errorf("the last went after %s, want 1s: the token of who made no call", at)
		}
		if s := b.Stats(); s.InFlight != 0 || s.Waiting != [3]int{} || s.Used != 2 {
			t.Errorf("stats = %+v", s)
		}
	})
}

func TestClassIsRaised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := budget.New(budget.Config{Rate: 1, Burst: 1})
		l := empty(t, b)
		l.enter(b, budget.Normal, "acme", "first")
		l.enter(b, budget.Normal, "acme", "second").SetClass(budget.Undo)
		time.Sleep(3 * time.Second)
		if diff := cmp.Diff([]string{"second", "first"}, l.gone()); diff != "" {
			t.Error(diff)
		}
	})
}

// TestThrottled: all rest for as long as was asked, refusals that come together count once, and the rate comes back.
func TestThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := budget.New(budget.Config{Rate: 8, Burst: 8})
		l := &log{began: time.Now()}
		b.Throttled(10 * time.Second)
		b.Throttled(0)
		b.Throttled(5 * time.Second)
		if s := b.Stats(); s.AccountRate != 4 || s.Paused != 10*time.Second || s.Throttled != 3 {
			t.Errorf("stats = %+v, want half of the rate and a pause of 10s", s)
		}
		for range 5 {
			l.enter(b, budget.Undo, "acme", "x")
		}
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		if len(l.gone()) != 0 {
			t.Errorf("%d calls while it was asked to rest, or all at once after it", len(l.gone()))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(l.gone()); n < 3 || n > 4 {
			t.Errorf("%d calls in the first second after the rest, want those of half the rate", n)
		}
		time.Sleep(14 * time.Second) // 15 s after the rest
		if r := b.Stats().AccountRate; r < 5.9 || r > 6.1 {
			t.Errorf("rate = %g, want it half way back", r)
		}
		time.Sleep(15*time.Second + time.Millisecond)
		if r := b.Stats().AccountRate; r != 8 {
			t.Errorf("rate = %g, want it back", r)
		}
		time.Sleep(time.Hour)
		if r := b.Stats().AccountRate; r != 8 {
			t.Errorf("rate = %g, want no more than what was configured", r)
		}
	})
}

// TestFindsOutWhatIsAllowed: a provider that allows a tenth of what was configured refuses few calls, and is used well.
func TestFindsOutWhatIsAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const allowed = 5.0
		b := budget.New(budget.Config{Rate: 50, Burst: 1})
		tokens, last := allowed, time.Now()
		made, refused := 0, 0
		for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); {
			if err := b.Acquire(t.Context(), budget.Normal, "acme"); err != nil {
				t.Fatal(err)
			}
			tokens, last = min(tokens+time.Since(last).Seconds()*allowed, allowed), time.Now()
			made++
			if tokens < 1 {
				refused++
				b.Throttled(0)
			} else {
				tokens--
			}
			b.Done()
		}
		if refused > made/50 {
			t.Errorf("%d of %d calls were refused", refused, made)
		}
		if made < 600*allowed*6/10 {
			t.Errorf("%d calls in ten minutes at %g a second: too little was used", made, allowed)
		}
	})
}

func TestSetRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := budget.New(budget.Config{Rate: 0.01, Burst: 1})
		l := empty(t, b)
		l.enter(b, budget.Normal, "acme", "x")
		time.Sleep(time.Second)
		b.SetRate(1)
		time.Sleep(time.Second)
		synctest.Wait()
		if len(l.gone()) != 1 {
			t.Error("who waits does not know of the new rate")
		}
	})
}

// TestRoomForBetterClasses: calls that do not end leave room for what comes before them.
func TestRoomForBetterClasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := budget.New(budget.Config{Rate: 1000, Burst: 1000, InFlight: 8})
		for class, want := range []int{6, 7, 8} { // 8 less a quarter, less an eighth, all
			for range 10 {
				ticket := b.Enter(budget.Class(class), "acme")
				defer ticket.Cancel()
			}
			time.Sleep(time.Second)
			if got := b.Stats().InFlight; got != want {
				t.Errorf("%d in flight with %s, want %d", got, budget.Class(class), want)
			}
		}
		b.Done()
		if s := b.Stats(); s.InFlight != 8 || s.Waiting[budget.Undo] != 8 {
			t.Errorf("stats = %+v, want that the next goes when one ends", s)
		}
	})
}
