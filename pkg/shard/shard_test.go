package shard_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/lease"
	"github.com/weftcloud/weft/pkg/shard"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
	"github.com/weftcloud/weft/pkg/testkit"
)

const prefix = "/weft/test/"

// How a replica's way to the store is.
const (
	up    = iota
	hangs // calls and watches wait until it is otherwise
	cut   // calls are refused, watches end
	lossy // every third call is refused, of every third the answer is lost
)

// wire is one replica's way to the store, with faults.
type wire struct {
	store.Store
	mu      sync.Mutex
	state   int
	changed chan struct{}
	calls   int
	txns    atomic.Int64
	onTxn   func(compares []store.Compare, ops []store.Op) // asked before each transaction; may be nil
}

func newWire(s store.Store) *wire { return &wire{Store: s, changed: make(chan struct{})} }

func (w *wire) set(state int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = state
	close(w.changed)
	w.changed = make(chan struct{})
}

// tap has f asked before each transaction.
func (w *wire) tap(f func(compares []store.Compare, ops []store.Op)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.onTxn = f
}

// pass waits while the wire hangs; lose tells to lose the answer.
func (w *wire) pass(ctx context.Context) (lose bool, err error) {
	for {
		w.mu.Lock()
		state, changed := w.state, w.changed
		w.calls++
		turn := w.calls % 3
		w.mu.Unlock()
		switch {
		case state == cut || state == lossy && turn == 1:
			return false, fault.New(fault.Unavailable, "no way to the store")
		case state != hangs:
			return state == lossy && turn == 2, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false, fault.As(fault.Unavailable, ctx.Err())
		}
	}
}

func through[T any](ctx context.Context, w *wire, call func() (T, error)) (T, error) {
	var none T
	lose, err := w.pass(ctx)
	if err != nil {
		return none, err
	}
	answer, err := call()
	if lose {
		return none, fault.New(fault.Unavailable, "answer lost")
	}
	return answer, err
}

func (w *wire) List(ctx context.Context, prefix string, opts store.ListOptions) (store.Page, error) {
	return through(ctx, w, func() (store.Page, error) { return w.Store.List(ctx, prefix, opts) })
}

func (w *wire) Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error) {
	w.txns.Add(1)
	w.mu.Lock()
	onTxn := w.onTxn
	w.mu.Unlock()
	if onTxn != nil {
		onTxn(compares, ops)
	}
	return through(ctx, w, func() (int64, error) { return w.Store.Txn(ctx, compares, ops) })
}

func (w *wire) Grant(ctx context.Context, ttl time.Duration) (store.LeaseID, error) {
	return through(ctx, w, func() (store.LeaseID, error) { return w.Store.Grant(ctx, ttl) })
}

func (w *wire) KeepAlive(ctx context.Context, id store.LeaseID) (time.Duration, error) {
	return through(ctx, w, func() (time.Duration, error) { return w.Store.KeepAlive(ctx, id) })
}

func (w *wire) Revoke(ctx context.Context, id store.LeaseID) error {
	_, err := through(ctx, w, func() (int, error) { return 0, w.Store.Revoke(ctx, id) })
	return err
}

// relay is a watch through a wire.
type relay struct {
	store.Watch
	events chan []store.Event
	err    error
}

func (r *relay) Events() <-chan []store.Event { return r.events }
func (r *relay) Err() error                   { return r.err }

func (w *wire) Watch(ctx context.Context, prefix string, revision int64) store.Watch {
	inner, cancel := context.WithCancel(ctx)
	r := &relay{Watch: w.Store.Watch(inner, prefix, revision), events: make(chan []store.Event)}
	go func() {
		defer close(r.events)
		defer cancel()
		for batch := range r.Watch.Events() {
			if _, err := w.pass(ctx); err != nil {
				r.err = err
				return
			}
			select {
			case r.events <- batch:
			case <-ctx.Done():
				return
			}
		}
		r.err = r.Watch.Err()
	}()
	return r
}

// world is a store and its replicas.
type world struct {
	t     testing.TB
	store store.Store
	count int
	slow  time.Duration // an own function goes on for so long after its context has ended

	mu       sync.Mutex
	replicas map[string]*replica
	live     map[int]context.Context // by shard: the context of the latest own function
	ended    map[int]time.Time       // by shard: when the latest own function returned
	gap      time.Duration           // the longest that a shard was without own function after one had returned
	faults   []string
	runs     sync.WaitGroup
}

type replica struct {
	name   string
	wire   *wire
	spread *shard.Spread
	cancel context.CancelFunc
	done   chan struct{}
	fenced atomic.Int64
}

func newWorld(t testing.TB, s store.Store, count int) *world {
	return &world{t: t, store: s, count: count, replicas: map[string]*replica{}, live: map[int]context.Context{}, ended: map[int]time.Time{}}
}

func (w *world) wrong(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

// join starts a replica.
func (w *world) join(name string, own shard.Own) *replica {
	r := &replica{name: name, wire: newWire(w.store), done: make(chan struct{})}
	r.spread = shard.New(shard.Config{
		Store: r.wire, Prefix: prefix, Replica: name, Address: "at-" + name, Count: w.count, Fenced: func() { r.fenced.Add(1) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	if own == nil {
		own = w.work(r)
	}
	w.replicas[name] = r
	w.runs.Go(func() {
		defer close(r.done)
		if err := r.spread.Run(ctx, own); err != nil {
			w.wrong("Run of %s: %v", name, err)
		}
	})
	return r
}

// leave ends a replica in good order and waits until it has.
func (w *world) leave(name string) {
	w.replicas[name].cancel()
	<-w.replicas[name].done
	delete(w.replicas, name)
}

// kill ends a replica without letting it tell the store.
func (w *world) kill(name string) {
	w.replicas[name].wire.set(cut)
	w.replicas[name].cancel()
	delete(w.replicas, name)
}

// close ends all.
func (w *world) close() {
	for name, r := range w.replicas {
		r.wire.set(up)
		w.leave(name)
	}
	w.runs.Wait()
	for _, text := range w.faults {
		w.t.Error(text)
	}
}

// work is an own function that writes with its fence, and checks that no other lives.
func (w *world) work(r *replica) shard.Own {
	return func(ctx context.Context, o *shard.Owned) error {
		w.begin(ctx, r, o)
		defer w.finish(o)
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for ctx.Err() == nil {
			if err := mark(ctx, r.wire, o); err != nil && fault.Is(err, fault.Conflict) {
				w.wrong("the fenced write of %s for shard %d was refused while its context lived", r.name, o.Shard())
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
			}
		}
		if w.slow > 0 {
			time.Sleep(w.slow)
			if err := mark(context.WithoutCancel(ctx), w.store, o); err != nil && !fault.Is(err, fault.Conflict) {
				w.wrong("late write of %s: %v", r.name, err)
			}
		}
		return nil
	}
}

// mark writes the epoch of an owner, if it is the owner.
func mark(ctx context.Context, s store.Store, o *shard.Owned) error {
	op := store.Op{Key: "/work/" + strconv.Itoa(o.Shard()), Value: []byte(strconv.FormatInt(o.Epoch(), 10))}
	_, err := s.Txn(ctx, []store.Compare{o.Fence()}, []store.Op{op})
	return err
}

func (w *world) begin(ctx context.Context, r *replica, o *shard.Owned) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if before, ok := w.live[o.Shard()]; ok && before.Err() == nil && ctx.Err() == nil {
		w.faults = append(w.faults, fmt.Sprintf("%s began shard %d while another own function lived", r.name, o.Shard()))
	}
	w.live[o.Shard()] = ctx
	if ended, ok := w.ended[o.Shard()]; ok {
		w.gap = max(w.gap, time.Since(ended))
	}
}

func (w *world) finish(o *shard.Owned) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended[o.Shard()] = time.Now()
}

// marks watches the marks in the store: those of an earlier owner must never follow those of a later. It ends with ctx.
func (w *world) marks(ctx context.Context) {
	last := map[string]int64{}
	watch := w.store.Watch(ctx, "/work/", 1)
	w.runs.Go(func() {
		for batch := range watch.Events() {
			for _, e := range batch {
				epoch, err := strconv.ParseInt(string(e.Entry.Value), 10, 64)
				if err != nil || epoch < last[e.Entry.Key] {
					w.wrong("%s was written by the owner of epoch %d after the one of %d (%v)", e.Entry.Key, epoch, last[e.Entry.Key], err)
				}
				last[e.Entry.Key] = epoch
			}
		}
		if err := watch.Err(); err != nil && !fault.Is(err, fault.Conflict) && !fault.Is(err, fault.Unavailable) {
			w.wrong("watch the marks: %v", err)
		}
	})
}

// settled tells what is not as it ought to be in a calm: every shard owned, evenly, and every replica knows by whom.
func (w *world) settled() error {
	page, err := w.store.List(context.Background(), prefix+"owners/", store.ListOptions{})
	if err != nil {
		return err
	}
	if len(w.replicas) > 0 && len(page.Entries) != w.count {
		return fmt.Errorf("%d of %d shards are owned", len(page.Entries), w.count)
	}
	for _, r := range w.replicas {
		loads := map[string]int{}
		for i := range w.count {
			name, address, found := r.spread.Owner(i)
			if !found || address != "at-"+name || w.replicas[name] == nil {
				return fmt.Errorf("%s has %q at %q, %t for the owner of shard %d", r.name, name, address, found, i)
			}
			loads[name]++
		}
		least, most := w.count/len(w.replicas), (w.count+len(w.replicas)-1)/len(w.replicas)
		for name := range w.replicas {
			if loads[name] < least || loads[name] > most {
				return fmt.Errorf("%s has %d shards, want between %d and %d", name, loads[name], least, most)
			}
		}
	}
	return nil
}

func (w *world) check(when string) {
	w.t.Helper()
	if err := w.settled(); err != nil {
		w.t.Errorf("%s: %v", when, err)
	}
}

// calm is time for everything that needs no lease to end: no more than what the fake clock needs to move at all.
const calm = 20 * time.Millisecond

func rest(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestManyShardsOverThreeReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memstore.New(), 256)
		idle := func(ctx context.Context, _ *shard.Owned) error { <-ctx.Done(); return nil }
		a := w.join("a", idle)
		rest(calm)
		w.check("one replica")
		// The member key, and 127 shards at a time beside the fence.
		if n := a.wire.txns.Load(); n != 4 {
			t.Errorf("taking 256 shards took %d transactions, want 4", n)
		}
		b := w.join("b", idle)
		rest(calm)
		w.check("two replicas")
		w.join("c", idle)
		rest(calm)
		w.check("three replicas")
		if n := a.wire.txns.Load() + b.wire.txns.Load(); n > 40 {
			t.Errorf("%d transactions for two joins", n)
		}
		rest(time.Hour)
		w.check("after an hour")
		w.close()
	})
}

func TestJoinAndLeaveHandOverAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memstore.New(), 32)
		w.slow = 300 * time.Millisecond
		w.join("a", nil)
		w.join("b", nil)
		rest(time.Second)
		w.check("two replicas")
		w.join("c", nil)
		rest(w.slow + calm)
		w.check("c joined")
		start := time.Now()
		w.leave("a")
		if took := time.Since(start); took > w.slow+calm {
			t.Errorf("leaving took %s", took)
		}
		rest(calm)
		w.check("a left")
		w.mu.Lock()
		if w.gap > calm {
			t.Errorf("a shard had no owner for %s after its own function ended", w.gap)
		}
		w.mu.Unlock()
		for name, r := range w.replicas {
			if n := r.fenced.Load(); n != 0 {
				t.Errorf("%s was fenced %d times in peace", name, n)
			}
		}
		w.close()
	})
}

func TestMemberKeyGoesBeforeTheShards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		w := newWorld(t, s, 8)
		w.slow = time.Minute // much longer than the time to live: the lease must be kept meanwhile
		w.join("a", nil)
		rest(calm)
		w.join("b", nil)
		rest(w.slow + time.Second)
		w.check("two replicas")
		w.replicas["a"].cancel()
		rest(time.Second)
		if _, err := s.Get(t.Context(), prefix+"members/a"); !fault.Is(err, fault.NotFound) {
			t.Errorf("member key of a leaving replica: %v, want NotFound", err)
		}
		rest(30 * time.Second)
		page, err := s.List(t.Context(), prefix+"owners/", store.ListOptions{})
		if err != nil || len(page.Entries) != 8 {
			t.Errorf("%d owners, %v: want 8 while the own functions end", len(page.Entries), err)
		}
		w.leave("a")
		rest(calm)
		w.check("a left")
		w.close()
	})
}

// However long the store takes to delete the member key: no shard is given before.
func TestNothingIsGivenBeforeTheMemberKeyIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memstore.New(), 8)
		a := w.join("a", nil)
		w.join("b", nil)
		rest(time.Second)
		w.check("two replicas")
		var left, given time.Time
		a.wire.tap(func(_ []store.Compare, ops []store.Op) {
			if !ops[0].Delete {
				return
			}
			if ops[0].Key == prefix+"members/a" {
				time.Sleep(100 * time.Millisecond)
				left = time.Now()
			} else if given.IsZero() {
				given = time.Now()
			}
		})
		w.leave("a")
		if left.IsZero() || !given.IsZero() && given.Before(left) {
			t.Errorf("left at %s, gave at %s", left, given)
		}
		rest(calm)
		w.check("a left")
		w.close()
	})
}

func TestEveryTakingIsFencedByTheMemberKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		w := newWorld(t, s, 300)
		r := w.join("a", func(ctx context.Context, _ *shard.Owned) error { <-ctx.Done(); return nil })
		taken := 0
		r.wire.tap(func(compares []store.Compare, ops []store.Op) {
			if ops[0].Delete || ops[0].Key == prefix+"members/a" {
				return
			}
			taken += len(ops)
			member, err := s.Get(context.Background(), prefix+"members/a")
			if err != nil || !slices.Contains(compares, store.Compare{Key: member.Key, CreateRevision: member.CreateRevision}) {
				t.Errorf("a taking without the fence of the member key (%v)", err)
			}
		})
		rest(calm)
		w.check("one replica")
		if taken != 300 {
			t.Errorf("%d shards were put, want 300", taken)
		}
		w.close()
	})
}

// The keys vanish just before they are given: that is told, and nothing is stuck.
func TestRefusedHandoverIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		w := newWorld(t, s, 8)
		a := w.join("a", nil)
		rest(time.Second)
		once := sync.Once{}
		a.wire.tap(func(_ []store.Compare, ops []store.Op) {
			if !ops[0].Delete {
				return
			}
			once.Do(func() {
				if _, err := s.Txn(context.Background(), nil, ops[:1]); err != nil {
					t.Error(err)
				}
			})
		})
		w.join("b", nil)
		rest(time.Second)
		w.check("b joined")
		if n := a.fenced.Load(); n != 1 {
			t.Errorf("told %d times of a refusal, want once", n)
		}
		w.close()
	})
}

// A replica that lost its lease gives it back only when the last own function has returned, though the store is back.
func TestLostLeaseIsKeptUntilTheWorkHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memstore.New(), 8)
		w.slow = time.Second
		a := w.join("a", nil)
		rest(10 * lease.DefaultTTL)
		w.join("b", func(ctx context.Context, _ *shard.Owned) error { <-ctx.Done(); return nil })
		rest(3 * time.Second)
		w.check("two replicas")
		var first, last time.Time
		watch := w.store.Watch(t.Context(), prefix+"members/a", 0)
		go func() {
			for range watch.Events() {
				if first.IsZero() {
					first = time.Now()
				}
			}
		}()
		a.wire.set(hangs)
		w.mu.Lock()
		var lost context.Context
		for i := range w.count {
			if name, _, _ := a.spread.Owner(i); name == "a" {
				lost = w.live[i]
			}
		}
		w.mu.Unlock()
		<-lost.Done()
		a.wire.set(up)
		rest(2 * lease.DefaultTTL)
		w.mu.Lock()
		for i, ended := range w.ended {
			if name, _, _ := a.spread.Owner(i); name == "a" && ended.After(last) {
				last = ended
			}
		}
		w.mu.Unlock()
		if first.Before(last) || last.IsZero() {
			t.Errorf("gone at %s, the last own function returned at %s", first, last)
		}
		w.check("a is back")
		w.close()
	})
}

func TestTakeOverAfterKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memstore.New(), 64)
		w.join("a", nil)
		w.join("b", nil)
		rest(time.Minute)
		w.kill("a")
		start := time.Now()
		for w.settled() != nil && time.Since(start) < time.Minute {
			rest(10 * time.Millisecond)
		}
		if took := time.Since(start); took < lease.DefaultTTL/2 || took > lease.DefaultTTL+calm {
			t.Errorf("taken over after %s, want about %s", took, lease.DefaultTTL)
		}
		w.close()
	})
}

// A replica whose calls hang stops before another takes over, and what it writes later is refused.
func TestPausedReplicaStopsAndIsFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		w := newWorld(t, s, 16)
		var mu sync.Mutex
		var was []*shard.Owned
		var stopped time.Time
		a := w.join("a", func(ctx context.Context, o *shard.Owned) error {
			mu.Lock()
			was = append(was, o)
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			stopped = time.Now()
			mu.Unlock()
			return ctx.Err()
		})
		rest(calm)
		a.wire.set(hangs)
		start := time.Now()
		b := w.join("b", nil)
		for found := "a"; found != "b"; found, _, _ = b.spread.Owner(was[0].Shard()) {
			rest(10 * time.Millisecond)
		}
		mu.Lock()
		told, taken := stopped.Sub(start), time.Since(start)
		for _, o := range was {
			if err := mark(t.Context(), s, o); !fault.Is(err, fault.Conflict) {
				t.Errorf("late write for shard %d: %v, want Conflict", o.Shard(), err)
			}
		}
		mu.Unlock()
		if told <= 0 || told > lease.DefaultTTL*2/3 || taken <= told || taken > lease.DefaultTTL+calm {
			t.Errorf("stopped after %s, taken over after %s", told, taken)
		}
		a.wire.set(up)
		rest(2 * lease.DefaultTTL)
		w.check("a is back")
		w.close()
	})
}

func TestFailingWorkIsGivenUpForASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memstore.New(), 1)
		var begun []time.Time
		epochs := map[int64]bool{}
		r := w.join("a", func(ctx context.Context, o *shard.Owned) error {
			begun = append(begun, time.Now())
			epochs[o.Epoch()] = true
			if len(begun) < 3 {
				return errors.New("cannot read the shard")
			}
			<-ctx.Done()
			return nil
		})
		rest(500 * time.Millisecond)
		if name, _, found := r.spread.Owner(0); found {
			t.Errorf("%s owns a shard that it could not work on", name)
		}
		rest(5 * time.Second)
		if len(begun) != 3 || len(epochs) != 3 || begun[1].Sub(begun[0]) < time.Second || begun[2].Sub(begun[0]) > 2*time.Second+calm {
			t.Errorf("begun at %v, %d epochs", begun, len(epochs))
		}
		w.check("the third time")
		w.close()
	})
}

func TestSecondProcessOfANameWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memstore.New(), 4)
		w.join("a", nil)
		rest(calm)
		first := w.replicas["a"]
		key, err := w.store.Get(t.Context(), prefix+"members/a")
		if err != nil {
			t.Fatal(err)
		}
		second := w.join("a", nil)
		rest(time.Minute)
		if now, err := w.store.Get(t.Context(), key.Key); err != nil || now.ModRevision != key.ModRevision {
			t.Errorf("the second wrote the first's member key (%v)", err)
		}
		w.check("the second waits")
		if n := first.fenced.Load(); n != 0 {
			t.Errorf("the first was fenced %d times", n)
		}
		first.cancel()
		<-first.done
		rest(calm)
		w.check("the first has left")
		if second.wire.txns.Load() < 2 {
			t.Error("the second took nothing")
		}
		w.close()
	})
}

// Somebody deletes keys by hand: whoever had them stops, and all is as before.
func TestDeletedKeysAreLoss(t *testing.T) {
	for name, key := range map[string]string{"member": prefix + "members/a", "owner": prefix + "owners/0"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := memstore.New()
				w := newWorld(t, s, 4)
				var begun atomic.Int64
				r := w.join("a", func(ctx context.Context, _ *shard.Owned) error { begun.Add(1); <-ctx.Done(); return nil })
				rest(calm)
				before := begun.Load()
				if _, err := s.Txn(t.Context(), nil, []store.Op{{Key: key, Delete: true}}); err != nil {
					t.Fatal(err)
				}
				rest(calm)
				w.check("after the deletion")
				if begun.Load() == before {
					t.Error("no own function began anew")
				}
				if fenced := r.fenced.Load() > 0; fenced != (name == "member") {
					t.Errorf("fenced = %t", fenced)
				}
				w.close()
			})
		})
	}
}

func TestLostAnswersLoseNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memstore.New(), 64)
		a := w.join("a", nil)
		rest(calm)
		a.wire.set(lossy)
		b := w.join("b", nil)
		b.wire.set(lossy)
		rest(3 * lease.DefaultTTL)
		a.wire.set(up)
		b.wire.set(up)
		rest(2 * lease.DefaultTTL)
		w.check("after losses")
		w.close()
	})
}

func TestForgottenChangesAreListedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		w := newWorld(t, s, 16)
		a := w.join("a", nil)
		rest(calm)
		a.wire.set(hangs)
		w.join("b", nil)
		rest(time.Second)
		s.Compact()
		s.BreakWatches()
		a.wire.set(up)
		rest(time.Second)
		w.check("after a compaction")
		w.close()
	})
}

func TestChangedTellsOfOwners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memstore.New(), 1)
		r := w.join("a", nil)
		changed := r.spread.Changed()
		if _, _, found := r.spread.Owner(0); found {
			t.Error("an owner before anything ran")
		}
		<-changed
		if name, address, found := r.spread.Owner(0); name != "a" || address != "at-a" || !found {
			t.Errorf("Owner = %s at %s, %t", name, address, found)
		}
		if _, _, found := r.spread.Owner(1); found {
			t.Error("a shard that is not there has an owner")
		}
		changed = r.spread.Changed()
		rest(time.Minute)
		select {
		case <-changed:
			t.Error("a change was told where there was none")
		default:
		}
		w.close()
	})
}

func TestWrongConfig(t *testing.T) {
	good := shard.Config{Store: memstore.New(), Prefix: prefix, Replica: "a", Count: 1}
	for field, spoil := range map[string]func(*shard.Config){
		"Store":   func(c *shard.Config) { c.Store = nil },
		"Prefix":  func(c *shard.Config) { c.Prefix = "/weft" },
		"Replica": func(c *shard.Config) { c.Replica = "a/b" },
		"Count":   func(c *shard.Config) { c.Count = 0 },
	} {
		t.Run(field, func(t *testing.T) {
			c := good
			spoil(&c)
			err := shard.New(c).Run(t.Context(), nil)
			if !fault.Is(err, fault.Invalid) || fault.Field(err) != field {
				t.Errorf("Run = %v, want Invalid in %s", err, field)
			}
		})
	}
}

func TestWithEtcd(t *testing.T) {
	w := newWorld(t, testkit.EtcdStore(t), 256)
	for _, name := range []string{"a", "b", "c"} {
		w.join(name, nil)
		testkit.Await(t, 20*time.Second, w.settled)
	}
	w.leave("a")
	testkit.Await(t, 20*time.Second, w.settled)
	w.mu.Lock()
	t.Logf("longest without an own function on joins and a leave: %s", w.gap)
	w.mu.Unlock()
	start := time.Now()
	w.kill("b")
	testkit.Await(t, 20*time.Second, w.settled)
	took := time.Since(start)
	t.Logf("taken over %s after a kill", took)
	if took > lease.DefaultTTL+5*time.Second { // a busy machine; the time itself is tested on a fake clock
		t.Errorf("taken over after %s", took)
	}
	w.close()
}
