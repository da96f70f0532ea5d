package groupstore_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/groupstore"
	"github.com/weftcloud/weft/pkg/store/memstore"
	"github.com/weftcloud/weft/pkg/store/storetest"
	"github.com/weftcloud/weft/pkg/testkit"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return groupstore.New(memstore.New()) })
}

func TestConformanceOnEtcd(t *testing.T) {
	server := testkit.Etcd(t)
	storetest.Run(t, func(t *testing.T) store.Store { return groupstore.New(server.Store()) })
}

// slow is a store below whose transactions wait until they are let go, so that others gather.
type slow struct {
	*memstore.Store
	gate chan struct{}

	mu    sync.Mutex
	sizes []int // number of ops of each transaction
}

func (s *slow) Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error) {
	s.mu.Lock()
	s.sizes = append(s.sizes, len(ops))
	s.mu.Unlock()
	<-s.gate
	return s.Store.Txn(ctx, compares, ops)
}

// result is what became of one transaction.
type result struct {
	revision int64
	err      error
}

// together asks for transactions at once, behind four that keep all committers busy, and gives what became of them.
func together(t *testing.T, below *slow, asked []store.Op, compares map[string][]store.Compare) (map[string]result, *groupstore.Store) {
	t.Helper()
	s := groupstore.New(below)
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			if _, err := s.Txn(t.Context(), nil, []store.Op{{Key: "busy" + strconv.Itoa(i)}}); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait() // a committer takes it before the next comes: else two might go together
	}
	var mu sync.Mutex
	out := map[string]result{}
	for _, op := range asked {
		group.Go(func() {
			revision, err := s.Txn(t.Context(), compares[op.Key], []store.Op{op})
			mu.Lock()
			defer mu.Unlock()
			out[op.Key] = result{revision, err}
		})
	}
	synctest.Wait()
	close(below.gate)
	group.Wait()
	return out, s
}

func ops(n int) []store.Op {
	var out []store.Op
	for i := range n {
		out = append(out, store.Op{Key: "k" + strconv.Itoa(i), Value: []byte{byte(i)}})
	}
	return out
}

func TestWhatWaitsGoesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := &slow{Store: memstore.New(), gate: make(chan struct{})}
		got, s := together(t, below, ops(100), nil)
		for key, r := range got {
			if r.err != nil {
				t.Errorf("%s: %v", key, r.err)
			}
		}
		slices.Sort(below.sizes)
		if want := []int{1, 1, 1, 1, 4, 32, 32, 32}; !slices.Equal(below.sizes, want) {
			t.Errorf("transactions of %v ops, want %v", below.sizes, want)
		}
		if stats := s.Stats(); stats.Transactions != 104 || stats.Commits != 8 || stats.Apart != 0 {
			t.Errorf("stats %+v", stats)
		}
	})
}

// TestOneThatIsRefusedRefusesNoOther puts a transaction whose condition does not hold among many whose do.
func TestOneThatIsRefusedRefusesNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := &slow{Store: memstore.New(), gate: make(chan struct{})}
		got, _ := together(t, below, ops(20), map[string][]store.Compare{"k7": {{Key: "k7", ModRevision: 4711}}})
		for key, r := range got {
			if refused := fault.Is(r.err, fault.Conflict); refused != (key == "k7") {
				t.Errorf("%s: %v", key, r.err)
			}
		}
	})
}

func TestUnknownIsUnknownForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := &slow{Store: memstore.New(), gate: make(chan struct{})}
		below.SetFaults(memstore.Faults{After: func(_, key string) error {
			if strings.HasPrefix(key, "k") {
				return fault.New(fault.Unavailable, "the answer was lost")
			}
			return nil
		}})
		got, _ := together(t, below, ops(20), nil)
		for key, r := range got {
			if !fault.Is(r.err, fault.Unavailable) {
				t.Errorf("%s: %v", key, r.err)
			}
		}
	})
}

func TestCallerThatLeavesIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := &slow{Store: memstore.New(), gate: make(chan struct{})}
		s := groupstore.New(below)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Txn(ctx, nil, ops(1)); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%v, want unavailable", err)
		}
		close(below.gate)
	})
}

// TestIsAsIfEachWereAlone has many writers count up a few keys, by compare and set, under faults of the store below: no
// count is lost or made twice.
func TestIsAsIfEachWereAlone(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		writers := rapid.IntRange(1, 24).Draw(rt, "writers")
		keys := rapid.IntRange(1, 6).Draw(rt, "keys")
		picks := rapid.SliceOfN(rapid.IntRange(0, keys-1), 64, 64).Draw(rt, "picks")
		below := memstore.New()
		s := groupstore.New(below)
		done := map[string]int{}
		var mu sync.Mutex
		var group sync.WaitGroup
		for w := range writers {
			group.Go(func() {
				for round := range 6 {
					a, b := picks[(w*7+round)%64], picks[(w*13+round*3)%64]
					for range 200 {
						err := count(s, a, b)
						if err == nil {
							mu.Lock()
							done[strconv.Itoa(a)]++
							if a != b {
								done[strconv.Itoa(b)]++
							}
							mu.Unlock()
							break
						}
						if !fault.Is(err, fault.Conflict) {
							rt.Errorf("%v", err)
							return
						}
					}
				}
			})
		}
		group.Wait()
		page, err := below.List(context.Background(), "", store.ListOptions{})
		if err != nil {
			rt.Fatal(err)
		}
		kept := map[string]int{}
		for _, e := range page.Entries {
			if kept[e.Key], err = strconv.Atoi(string(e.Value)); err != nil {
				rt.Fatal(err)
			}
		}
		if !maps.Equal(kept, done) {
			rt.Errorf("kept %v, counted %v", kept, done)
		}
	})
}

// count counts two keys up, in one transaction.
func count(s store.Store, a, b int) error {
	var compares []store.Compare
	var ops []store.Op
	for _, key := range slices.Compact([]string{strconv.Itoa(a), strconv.Itoa(b)}) {
		e, err := s.Get(context.Background(), key)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
		n := 0
		if err == nil {
			if n, err = strconv.Atoi(string(e.Value)); err != nil {
				return err
			}
		}
		compares = append(compares, store.Compare{Key: key, ModRevision: e.ModRevision})
		ops = append(ops, store.Op{Key: key, Value: fmt.Append(nil, n+1)})
	}
	_, err := s.Txn(context.Background(), compares, ops)
	return err
}

// BenchmarkTogether writes with many writers at etcd, straight and together, and prints the ratio.
func BenchmarkTogether(b *testing.B) {
	server := testkit.Etcd(b)
	for b.Loop() {
		straight := writeMany(b, server.Store())
		grouped := writeMany(b, groupstore.New(server.Store()))
		b.ReportMetric(straight.Seconds()/grouped.Seconds(), "times-as-fast")
	}
}

func writeMany(b *testing.B, s store.Store) time.Duration {
	began := time.Now()
	var group sync.WaitGroup
	for w := range 64 {
		group.Go(func() {
			for range 50 {
				if _, err := s.Txn(b.Context(), nil, []store.Op{{Key: "w" + strconv.Itoa(w), Value: make([]byte, 500)}}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	group.Wait()
	return time.Since(began)
}
