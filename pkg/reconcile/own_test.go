package reconcile_test

import (
	"context"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftcloud/weft/pkg/driver/memdriver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/participant"
	"github.com/weftcloud/weft/pkg/reconcile"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/record/recordtest"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
	"github.com/weftcloud/weft/pkg/testkit"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

// shared is a rig whose loop owns nothing until it is told to.
type shared struct {
	*rig
	loop *reconcile.Loop
	over atomic.Bool // what its ownerships say of the clock
	ctx  context.Context
	runs sync.WaitGroup
}

func share(t *testing.T, c config, test func(t *testing.T, s *shared)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &shared{rig: newRig(t, c)}
		ctx, cancel := context.WithCancel(t.Context())
		s.ctx = ctx
		s.loop = reconcile.New(reconcile.Config{Book: s.book, Accounts: s.rig, Resolver: s.rig, Logger: testkit.Logger(t), Now: time.Now})
		s.rig.loop = s.loop
		s.runs.Go(func() {
			if err := s.loop.Run(ctx); err != nil {
				t.Errorf("Run = %v", err)
			}
		})
		test(t, s)
		cancel()
		s.runs.Wait()
	})
}

// own has the loop own shards; it gives what ends that, and waits.
func (s *shared) own(fence store.Compare, shards ...int) (lose func()) {
	ctx, cancel := context.WithCancel(s.ctx)
	var owning sync.WaitGroup
	for _, i := range shards {
		owning.Go(func() {
			if err := s.loop.Own(ctx, ownership{shard: i, fence: fence, over: &s.over}); err != nil {
				s.Errorf("Own = %v", err)
			}
		})
	}
	return func() { cancel(); owning.Wait() }
}

// elsewhere gives an inbox through which another replica writes: the loop is not told of its writes.
func (s *shared) elsewhere() *participant.Inbox {
	kinds, err := resource.NewRegistry(&networkv1.Network{}, &networkv1.Subnet{})
	if err != nil {
		s.Fatal(err)
	}
	box := recordtest.NewBox(s.store, record.Prefix("network")+"elsewhere/")
	return participant.NewInbox(record.New(record.Config{Service: "network", Store: s.store, Outbox: box, Kinds: kinds, Now: time.Now}), kinds, time.Now)
}

func shardOf(id string) int { return reconcile.ShardOf("key-" + id) }

func TestOwnsItsShardsOnly(t *testing.T) {
	share(t, config{ReadyAfter: 10 * time.Second}, func(t *testing.T, s *shared) {
		if shardOf("a") == shardOf("b") {
			t.Fatal("both are of one shard, which tells nothing")
		}
		fence := s.owner()
		lose := s.own(fence, shardOf("a"))
		s.ensure("a", 1400)
		s.ensure("b", 1400)
		s.await(time.Second, "a is made", func() bool { return len(s.cloud.Objects()) == 1 })
		time.Sleep(time.Minute)
		if s.phase("a") != ready || len(s.cloud.Objects()) != 1 {
			t.Fatalf("a is %s, there are %d objects", s.phase("a"), len(s.cloud.Objects()))
		}
		s.own(fence, shardOf("b"))
		s.await(100*time.Millisecond, "b, which was there before, is made", func() bool { return len(s.cloud.Objects()) == 2 })
		lose()
		s.ensure("a", 1500)
		calls := len(s.cloud.Calls())
		s.awaitReady("b")
		for _, c := range s.cloud.Calls()[calls:] {
			if c.Step != memdriver.Observe {
				t.Errorf("%v", c)
			}
		}
		s.own(s.owner(), shardOf("a"))
		s.await(time.Minute, "a is changed", func() bool {
			return s.phase("a") == ready && s.entry("a").Object.Status().GetObservedGeneration() == 2
		})
	})
}

// TestShardsAreLoadedTogether counts the lists when all shards come to be owned at once.
func TestShardsAreLoadedTogether(t *testing.T) {
	share(t, config{}, func(t *testing.T, s *shared) {
		for _, id := range []string{"a", "b", "c", "d"} {
			s.ensure(id, 1400)
		}
		fence := s.owner()
		synctest.Wait()
		var lists atomic.Int64
		s.store.SetFaults(memstore.Faults{Before: func(op, key string) error {
			if op == memstore.OpList && strings.HasSuffix(key, "/r/") {
				lists.Add(1)
			}
			return nil
		}})
		all := make([]int, reconcile.Shards)
		for i := range all {
			all[i] = i
		}
		s.own(fence, all...)
		for _, id := range []string{"a", "b", "c", "d"} {
			s.awaitReady(id)
		}
		if n := lists.Load(); n != 1 {
			t.Errorf("%d lists for %d shards, want one", n, len(all))
		}
	})
}

// TestWrittenElsewhere has another replica write what this one owns, also while its watch is broken and compacted.
func TestWrittenElsewhere(t *testing.T) {
	share(t, config{}, func(t *testing.T, s *shared) {
		s.own(s.owner(), shardOf("a"), shardOf("b"))
		synctest.Wait()
		s.inbox = s.elsewhere()
		s.ensure("a", 1400)
		s.await(50*time.Millisecond, "a is ready", func() bool { return s.phase("a") == ready })
		s.store.BreakWatches()
		s.ensure("b", 1400)
		s.store.Compact()
		s.await(time.Second, "b is ready", func() bool { return s.phase("b") == ready })
		s.release("a")
		s.await(600*time.Millisecond, "a is gone", func() bool { return s.entry("a") == nil })
	})
}

// TestNothingIsDoneTwice compares what is asked of store and cloud with what must be: that a write is told by the book and
// by the store is one wake. What is settled costs nothing.
func TestNothingIsDoneTwice(t *testing.T) {
	share(t, config{}, func(t *testing.T, s *shared) {
		s.own(s.owner(), shardOf("a"))
		time.Sleep(time.Second)
		var mu sync.Mutex
		ops := map[string]int{}
		s.store.SetFaults(memstore.Faults{Before: func(op, key string) error {
			mu.Lock()
			defer mu.Unlock()
			if strings.Contains(key, "/r/") || op == memstore.OpTxn {
				ops[op]++
			}
			return nil
		}})
		s.ensure("a", 1400)
		time.Sleep(time.Second)
		mu.Lock()
		seen := maps.Clone(ops)
		mu.Unlock()
		// Written: the command, the attempt, the id, that it is ready. Read: at the one look that did all,
		// and after it; the inbox writes what is new without a look.
		if diff := cmp.Diff(map[string]int{memstore.OpTxn: 4, memstore.OpGet: 2}, seen); diff != "" || s.phase("a") != ready {
			t.Errorf("%s; the store was asked (-want +got):\n%s", s.phase("a"), diff)
		}
		if creates, observes := count(s.cloud.Calls(), memdriver.Create), count(s.cloud.Calls(), memdriver.Observe); creates != 1 || observes != 1 {
			t.Errorf("calls %v", steps(s.cloud.Calls()))
		}
		mu.Lock()
		clear(ops)
		mu.Unlock()
		time.Sleep(time.Hour)
		mu.Lock()
		defer mu.Unlock()
		if len(ops) != 0 {
			t.Errorf("in an hour of rest the store was asked %v", ops)
		}
	})
}

// TestOverByTheClock has the clock say that the ownership may be over before the context does: nothing is begun at the
// cloud, neither by a look that begins nor by one that had its turn already.
func TestOverByTheClock(t *testing.T) {
	share(t, config{}, func(t *testing.T, s *shared) {
		s.own(s.owner(), shardOf("a"))
		synctest.Wait()
		s.over.Store(true)
		s.ensure("a", 1400)
		time.Sleep(10 * time.Second)
		if e := s.entry("a"); len(s.cloud.Calls()) != 0 || e.Record.GetAttempted() || e.Record.GetFailures() != 0 {
			t.Fatalf("calls %v, record %v", steps(s.cloud.Calls()), e.Record)
		}
		s.over.Store(false)
		s.await(2*time.Second, "it is taken up again", func() bool { return s.phase("a") == ready })
	})
	share(t, config{}, func(t *testing.T, s *shared) {
		s.own(s.owner(), shardOf("a"))
		synctest.Wait()
		var once sync.Once
		s.store.SetFaults(memstore.Faults{After: func(op, _ string) error {
			if op == memstore.OpTxn && len(s.cloud.Calls()) == 0 && s.entry("a").Record.GetAttempted() {
				once.Do(func() { s.over.Store(true) })
			}
			return nil
		}})
		s.ensure("a", 1400)
		time.Sleep(time.Minute)
		if e := s.entry("a"); !e.Record.GetAttempted() || count(s.cloud.Calls(), memdriver.Create) != 0 {
			t.Fatalf("calls %v, record %v", steps(s.cloud.Calls()), e.Record)
		}
	})
}

// TestFencedWriteEndsTheWork takes the shard away in the store, and nobody tells: the first write finds out.
func TestFencedWriteEndsTheWork(t *testing.T) {
	share(t, config{ReadyAfter: 10 * time.Second}, func(t *testing.T, s *shared) {
		ended := make(chan error, 1)
		fence := s.owner()
		go func() { ended <- s.loop.Own(s.ctx, ownership{shard: shardOf("a"), fence: fence}) }()
		s.ensure("a", 1400)
		s.await(time.Second, "a is made", func() bool { return len(s.cloud.Objects()) == 1 })
		s.owner() // another's
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if n := s.book.FenceRejections(); n != 1 {
			t.Errorf("%d writes were refused, want one", n)
		}
		if s.phase("a") == ready {
			t.Error("it wrote that a is ready")
		}
		calls := len(s.cloud.Calls())
		s.command("2", networkType, networkName("a"), "key-a", &networkv1.NetworkSpec{Mtu: 1500}, nil)
		time.Sleep(time.Minute)
		if more := s.cloud.Calls()[calls:]; len(more) != 0 {
			t.Errorf("it goes on: %v", steps(more))
		}
	})
}

// TestLosingEndsTheWork has calls under way when a shard is lost: Own waits for them, and nothing is begun afterwards.
func TestLosingEndsTheWork(t *testing.T) {
	ids := strings.Split("abcdefghijklmnop", "")
	for after := 10 * time.Millisecond; after < 600*time.Millisecond; after += 35 * time.Millisecond {
		share(t, config{Latency: 100 * time.Millisecond, ReadyAfter: 300 * time.Millisecond}, func(t *testing.T, s *shared) {
			var shards []int
			for _, id := range ids {
				shards = append(shards, shardOf(id))
			}
			lose := s.own(s.owner(), shards...)
			for _, id := range ids {
				s.ensure(id, 1400)
			}
			time.Sleep(after)
			lose()
			calls := len(s.cloud.Calls())
			time.Sleep(time.Minute)
			if more := s.cloud.Calls()[calls:]; len(more) > 1 || count(more, memdriver.Observe) != len(more) { // a list that was under way may end
				t.Errorf("lost after %s: %v", after, steps(more))
			}
			s.own(s.owner(), shards...)
			for _, id := range ids {
				s.awaitReady(id)
			}
			if n := len(s.cloud.Objects()); n != len(ids) {
				t.Errorf("lost after %s: %d objects for %d", after, n, len(ids))
			}
		})
	}
}

// TestHandoverAwaitsCreates hands a shard over while a create is under way: its answer is waited for and kept, and the next
// owner sends none.
func TestHandoverAwaitsCreates(t *testing.T) {
	for name, late := range map[string]func(s *shared){
		"in good order":          func(*shared) {},
		"after it had been lost": func(s *shared) { s.owner() }, // then the write is refused, and a look-up finds the object
	} {
		t.Run(name, func(t *testing.T) {
			share(t, config{}, func(t *testing.T, s *shared) {
				s.tap.set(func(d *tap) { d.slow = 4 * time.Second })
				lose := s.own(s.owner(), shardOf("a"))
				s.ensure("a", 1400)
				time.Sleep(time.Second)
				late(s)
				lose()
				s.own(s.owner(), shardOf("a"))
				s.awaitReady("a")
				time.Sleep(time.Minute)
				if n, objects := count(s.cloud.Calls(), memdriver.Create), s.cloud.Objects(); n != 1 || len(objects) != 1 {
					t.Errorf("%d creates, objects %v", n, objects)
				}
				if finds := count(s.cloud.Calls(), memdriver.Find); finds != int(s.book.FenceRejections()) {
					t.Errorf("%d look-ups, %d writes were refused", finds, s.book.FenceRejections())
				}
			})
		})
	}
}

// TestHandoverDoesNotHang has a create without an answer under way when a shard is lost: it is waited for as long as a
// request may take, and no longer.
func TestHandoverDoesNotHang(t *testing.T) {
	share(t, config{}, func(t *testing.T, s *shared) {
		s.tap.set(func(d *tap) { d.slow = time.Hour })
		lose := s.own(s.owner(), shardOf("a"))
		s.ensure("a", 1400)
		time.Sleep(time.Second)
		began := time.Now()
		lose()
		if took := time.Since(began); took != time.Minute {
			t.Errorf("the shard was given away after %s", took)
		}
		time.Sleep(2 * time.Hour) // the cloud's answer comes to nobody
	})
}

// TestOneReplicaSweeps has tombstones swept by the owner of shard 0, and by no other.
func TestOneReplicaSweeps(t *testing.T) {
	share(t, config{}, func(t *testing.T, s *shared) {
		buried := func() bool {
			_, err := s.book.Tombstone(t.Context(), "key-a")
			if err != nil && !fault.Is(err, fault.NotFound) {
				t.Fatal(err)
			}
			return err == nil
		}
		s.own(s.owner(), 1, 2, shardOf("a"))
		s.ensure("a", 1400)
		s.awaitReady("a")
		s.release("a")
		s.awaitGone("a")
		time.Sleep(5 * time.Hour)
		if !buried() {
			t.Fatal("one who does not own shard 0 sweeps")
		}
		lose := s.own(s.owner(), 0)
		time.Sleep(time.Hour)
		if buried() {
			t.Error("the owner of shard 0 does not sweep")
		}
		lose()
	})
}
