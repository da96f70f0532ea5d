// Package storetest holds every store to the contract of store.Store.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
)

// patience bounds every wait for a store.
const patience = 15 * time.Second

// Run holds the stores that open makes to the contract. open is called once for each test; the store may have entries
// of other tests in it, and open closes it by t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	tests := map[string]func(t *testing.T, h *harness){
		"absent key":                  testAbsent,
		"put, get, delete":            testPutGetDelete,
		"compare":                     testCompare,
		"fence":                       testFence,
		"all or nothing":              testAllOrNothing,
		"bad transactions":            testBadTxn,
		"no change, no revision":      testNoChange,
		"list":                        testList,
		"list of many":                testListMany,
		"list excludes its neighbour": testListNeighbour,
		"counter under contention":    testContention,
		"watch":                       testWatch,
		"watch from a list":           testWatchFromList,
		"watch from now":              testWatchFromNow,
		"watch ends with its context": testWatchEnds,
		"lease ends":                  testLeaseEnds,
		"lease kept alive":            testKeepAlive,
		"lease revoked":               testRevoke,
		"key leaves its lease":        testLeaveLease,
		"ended context":               testEndedContext,
	}
	var runs atomic.Int64
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			t.Cleanup(cancel)
			prefix := fmt.Sprintf("/storetest/%d-%d/", time.Now().UnixNano(), runs.Add(1))
			test(t, &harness{t: t, ctx: ctx, store: open(t), prefix: prefix})
		})
	}
}

// harness is what a test works with: a store, and a prefix of its own.
type harness struct {
	t      *testing.T
	ctx    context.Context
	store  store.Store
	prefix string
}

// key gives a key of this test's own.
func (h *harness) key(name string) string { return h.prefix + name }

// put gives an op.
func (h *harness) op(name, value string) store.Op {
	return store.Op{Key: h.key(name), Value: []byte(value)}
}

// write writes without a condition.
func (h *harness) write(ops ...store.Op) int64 {
	h.t.Helper()
	revision, err := h.store.Txn(h.ctx, nil, ops)
	if err != nil {
		h.t.Fatalf("Txn(%v): %v", ops, err)
	}
	return revision
}

// want checks an entry.
func (h *harness) want(want store.Entry) {
	h.t.Helper()
	got, err := h.store.Get(h.ctx, want.Key)
	if err != nil {
		h.t.Fatalf("Get(%s): %v", want.Key, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		h.t.Fatalf("Get(%s) (-want +got):\n%s", want.Key, diff)
	}
}

// wantKind checks the kind of an error.
func (h *harness) wantKind(err error, kind fault.Kind) {
	h.t.Helper()
	if !fault.Is(err, kind) {
		h.t.Fatalf("error %v of kind %q, want kind %q", err, fault.KindOf(err), kind)
	}
}

// wantAbsent checks that a key does not exist.
func (h *harness) wantAbsent(name string) {
	h.t.Helper()
	_, err := h.store.Get(h.ctx, h.key(name))
	h.wantKind(err, fault.NotFound)
}

// list lists.
func (h *harness) list(prefix string, opts store.ListOptions) store.Page {
	h.t.Helper()
	page, err := h.store.List(h.ctx, prefix, opts)
	if err != nil {
		h.t.Fatalf("List(%s, %+v): %v", prefix, opts, err)
	}
	return page
}

// next waits for the next batch of a watch.
func (h *harness) next(w store.Watch) []store.Event {
	h.t.Helper()
	select {
	case batch, open := <-w.Events():
		if !open {
			h.t.Fatalf("the watch ended: %v", w.Err())
		}
		return batch
	case <-time.After(patience):
		h.t.Fatal("no event arrived")
	}
	return nil
}

// wantBatch checks the next batch of a watch.
func (h *harness) wantBatch(w store.Watch, want ...store.Event) {
	h.t.Helper()
	if diff := cmp.Diff(want, h.next(w), cmpopts.EquateEmpty()); diff != "" {
		h.t.Fatalf("batch (-want +got):\n%s", diff)
	}
}

func testAbsent(_ *testing.T, h *harness) {
	h.wantAbsent("a")
	page := h.list(h.prefix, store.ListOptions{})
	if len(page.Entries) != 0 || page.More || page.Revision < 1 {
		h.t.Errorf("List of an empty prefix = %+v", page)
	}
	h.write(store.Op{Key: h.key("a"), Delete: true})
}

func testPutGetDelete(_ *testing.T, h *harness) {
	first := h.write(h.op("a", "1"))
	h.want(store.Entry{Key: h.key("a"), Value: []byte("1"), ModRevision: first, CreateRevision: first})
	second := h.write(h.op("a", "2"))
	if second <= first {
		h.t.Errorf("the second write has revision %d, the first %d", second, first)
	}
	h.want(store.Entry{Key: h.key("a"), Value: []byte("2"), ModRevision: second, CreateRevision: first})
	h.write(store.Op{Key: h.key("a"), Delete: true})
	h.wantAbsent("a")
	again := h.write(h.op("a", "3"))
	h.want(store.Entry{Key: h.key("a"), Value: []byte("3"), ModRevision: again, CreateRevision: again})
}

func testCompare(_ *testing.T, h *harness) {
	absent := []store.Compare{{Key: h.key("a")}}
	first, err := h.store.Txn(h.ctx, absent, []store.Op{h.op("a", "1")})
	if err != nil {
		h.t.Fatalf("create: %v", err)
	}
	_, err = h.store.Txn(h.ctx, absent, []store.Op{h.op("a", "2")})
	h.wantKind(err, fault.Conflict)
	seen := []store.Compare{{Key: h.key("a"), ModRevision: first}}
	if _, err = h.store.Txn(h.ctx, seen, []store.Op{h.op("a", "3")}); err != nil {
		h.t.Fatalf("update of what was seen: %v", err)
	}
	_, err = h.store.Txn(h.ctx, seen, []store.Op{h.op("a", "4")})
	h.wantKind(err, fault.Conflict)
	got, err := h.store.Get(h.ctx, h.key("a"))
	if err != nil || string(got.Value) != "3" {
		h.t.Errorf("Get = %s, %v, want 3", got.Value, err)
	}
	_, err = h.store.Txn(h.ctx, []store.Compare{{Key: h.key("gone"), ModRevision: first}}, []store.Op{h.op("b", "1")})
	h.wantKind(err, fault.Conflict)
	h.wantAbsent("b")
}

func testFence(_ *testing.T, h *harness) {
	epoch := h.write(h.op("owner", "me"))
	fence := []store.Compare{{Key: h.key("owner"), CreateRevision: epoch}}
	h.write(h.op("owner", "still me"))
	if _, err := h.store.Txn(h.ctx, fence, []store.Op{h.op("a", "1")}); err != nil {
		h.t.Fatalf("the fence fell though the key is the very one: %v", err)
	}
	h.write(store.Op{Key: h.key("owner"), Delete: true})
	_, err := h.store.Txn(h.ctx, fence, []store.Op{h.op("a", "2")})
	h.wantKind(err, fault.Conflict)
	h.write(h.op("owner", "other"))
	_, err = h.store.Txn(h.ctx, fence, []store.Op{h.op("a", "3")})
	h.wantKind(err, fault.Conflict)
}

func testAllOrNothing(_ *testing.T, h *harness) {
	first := h.write(h.op("a", "1"), h.op("b", "1"))
	stale := []store.Compare{{Key: h.key("a"), ModRevision: first}, {Key: h.key("b"), ModRevision: first - 1}}
	_, err := h.store.Txn(h.ctx, stale, []store.Op{h.op("a", "2"), {Key: h.key("b"), Delete: true}, h.op("c", "2")})
	h.wantKind(err, fault.Conflict)
	h.want(store.Entry{Key: h.key("a"), Value: []byte("1"), ModRevision: first, CreateRevision: first})
	h.want(store.Entry{Key: h.key("b"), Value: []byte("1"), ModRevision: first, CreateRevision: first})
	h.wantAbsent("c")
	second := h.write(h.op("a", "2"), store.Op{Key: h.key("b"), Delete: true}, h.op("c", "2"))
	h.want(store.Entry{Key: h.key("a"), Value: []byte("2"), ModRevision: second, CreateRevision: first})
	h.wantAbsent("b")
	h.want(store.Entry{Key: h.key("c"), Value: []byte("2"), ModRevision: second, CreateRevision: second})
}

func testBadTxn(_ *testing.T, h *harness) {
	_, err := h.store.Txn(h.ctx, nil, []store.Op{h.op("a", "1"), h.op("a", "2")})
	h.wantKind(err, fault.Invalid)
	_, err = h.store.Txn(h.ctx, nil, []store.Op{h.op("a", "1"), {Key: h.key("a"), Delete: true}})
	h.wantKind(err, fault.Invalid)
	_, err = h.store.Txn(h.ctx, nil, []store.Op{{Value: []byte("1")}})
	h.wantKind(err, fault.Invalid)
	_, err = h.store.Txn(h.ctx, nil, []store.Op{{Key: h.key("a"), Lease: 12345}})
	h.wantKind(err, fault.NotFound)
	var ops []store.Op
	for i := range store.MaxTxnOps + 1 {
		ops = append(ops, h.op(fmt.Sprintf("many%d", i), "1"))
	}
	_, err = h.store.Txn(h.ctx, nil, ops)
	h.wantKind(err, fault.Invalid)
	h.write(ops[:store.MaxTxnOps]...)
	h.wantAbsent("a")
}

func testNoChange(_ *testing.T, h *harness) {
	first := h.write(h.op("a", "1"))
	if got := h.write(store.Op{Key: h.key("absent"), Delete: true}); got != first {
		h.t.Errorf("deleting an absent key: revision %d, want %d", got, first)
	}
	got, err := h.store.Txn(h.ctx, []store.Compare{{Key: h.key("a"), ModRevision: first}}, nil)
	if err != nil || got != first {
		h.t.Errorf("a transaction with no ops = %d, %v, want %d", got, err, first)
	}
	_, err = h.store.Txn(h.ctx, []store.Compare{{Key: h.key("a"), ModRevision: first + 1}}, nil)
	h.wantKind(err, fault.Conflict)
}

// names gives the keys of entries, without the test's prefix.
func (h *harness) names(entries []store.Entry) []string {
	var out []string
	for _, e := range entries {
		out = append(out, e.Key[len(h.prefix):])
	}
	return out
}

func testList(_ *testing.T, h *harness) {
	revision := h.write(h.op("x/b", "2"), h.op("x/a", "1"), h.op("x/d", "4"), h.op("x/c", "3"), h.op("y", "5"))
	tests := map[string]struct {
		opts store.ListOptions
		want []string
		more bool
	}{
		"all":                  {want: []string{"x/a", "x/b", "x/c", "x/d"}},
		"first":                {opts: store.ListOptions{Limit: 2}, want: []string{"x/a", "x/b"}, more: true},
		"rest":                 {opts: store.ListOptions{After: h.key("x/b"), Limit: 2}, want: []string{"x/c", "x/d"}},
		"after an absent key":  {opts: store.ListOptions{After: h.key("x/bb")}, want: []string{"x/c", "x/d"}},
		"after the last":       {opts: store.ListOptions{After: h.key("x/d")}},
		"keys only":            {opts: store.ListOptions{KeysOnly: true}, want: []string{"x/a", "x/b", "x/c", "x/d"}},
		"limit that just fits": {opts: store.ListOptions{Limit: 4}, want: []string{"x/a", "x/b", "x/c", "x/d"}},
	}
	for name, test := range tests {
		page := h.list(h.key("x/"), test.opts)
		if diff := cmp.Diff(test.want, h.names(page.Entries)); diff != "" || page.More != test.more {
			h.t.Errorf("%s: more %t, want %t; keys (-want +got):\n%s", name, page.More, test.more, diff)
		}
		if page.Revision != revision {
			h.t.Errorf("%s: revision %d, want %d", name, page.Revision, revision)
		}
		for i, e := range page.Entries {
			wantValue := !test.opts.KeysOnly
			if hasValue := len(e.Value) > 0; hasValue != wantValue || e.ModRevision != revision || e.CreateRevision != revision {
				h.t.Errorf("%s: entry %d = %+v", name, i, e)
			}
		}
	}
}

func testListMany(_ *testing.T, h *harness) {
	const batches, each = 25, 100
	for b := range batches {
		var ops []store.Op
		for i := range each {
			ops = append(ops, h.op(fmt.Sprintf("%04d", b*each+i), "v"))
		}
		h.write(ops...)
	}
	page := h.list(h.prefix, store.ListOptions{})
	if len(page.Entries) != batches*each || page.More {
		h.t.Fatalf("List gave %d entries, more %t", len(page.Entries), page.More)
	}
	for i, name := range h.names(page.Entries) {
		if name != fmt.Sprintf("%04d", i) {
			h.t.Fatalf("entry %d is %s", i, name)
		}
	}
}

func testListNeighbour(_ *testing.T, h *harness) {
	h.write(h.op("shard/1", "a"), h.op("shard/10", "b"), h.op("shard0", "c"), h.op("shard.", "d"))
	if diff := cmp.Diff([]string{"shard/1", "shard/10"}, h.names(h.list(h.key("shard/"), store.ListOptions{}).Entries)); diff != "" {
		h.t.Errorf("keys (-want +got):\n%s", diff)
	}
}

func testContention(_ *testing.T, h *harness) {
	const writers, rounds = 4, 10
	var group sync.WaitGroup
	errs := make(chan error, writers)
	for range writers {
		group.Go(func() {
			for range rounds {
				if err := h.increment(); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	group.Wait()
	close(errs)
	for err := range errs {
		h.t.Fatal(err)
	}
	got, err := h.store.Get(h.ctx, h.key("n"))
	if err != nil || len(got.Value) != writers*rounds {
		h.t.Errorf("%d increments are left of %d, error %v", len(got.Value), writers*rounds, err)
	}
}

// increment makes the value of n one byte longer, whoever else does.
func (h *harness) increment() error {
	for {
		old, err := h.store.Get(h.ctx, h.key("n"))
		if err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
		seen := []store.Compare{{Key: h.key("n"), ModRevision: old.ModRevision}}
		_, err = h.store.Txn(h.ctx, seen, []store.Op{h.op("n", string(old.Value)+"x")})
		if !fault.Is(err, fault.Conflict) {
			return err
		}
	}
}

func testWatch(_ *testing.T, h *harness) {
	start := h.write(h.op("w/a", "0"))
	w := h.store.Watch(h.ctx, h.key("w/"), start+1)
	first := h.write(h.op("w/a", "1"), h.op("w/b", "1"), h.op("else", "1"))
	h.write(h.op("else", "2"))
	second := h.write(store.Op{Key: h.key("w/a"), Delete: true}, h.op("w/b", "2"))
	h.wantBatch(w,
		store.Event{Entry: store.Entry{Key: h.key("w/a"), Value: []byte("1"), ModRevision: first, CreateRevision: start}},
		store.Event{Entry: store.Entry{Key: h.key("w/b"), Value: []byte("1"), ModRevision: first, CreateRevision: first}})
	h.wantBatch(w,
		store.Event{Entry: store.Entry{Key: h.key("w/a"), ModRevision: second}, Deleted: true},
		store.Event{Entry: store.Entry{Key: h.key("w/b"), Value: []byte("2"), ModRevision: second, CreateRevision: first}})
	if err := w.Err(); err != nil {
		h.t.Errorf("Err of a running watch = %v", err)
	}
}

func testWatchFromList(_ *testing.T, h *harness) {
	h.write(h.op("a", "0"))
	page := h.list(h.prefix, store.ListOptions{})
	var want []int64
	for i := range 50 {
		want = append(want, h.write(h.op("a", fmt.Sprint(i))))
	}
	w := h.store.Watch(h.ctx, h.prefix, page.Revision+1)
	for i, revision := range want {
		batch := h.next(w)
		if len(batch) != 1 || batch[0].Entry.ModRevision != revision || string(batch[0].Entry.Value) != fmt.Sprint(i) {
			h.t.Fatalf("batch %d = %+v, want revision %d", i, batch, revision)
		}
	}
}

func testWatchFromNow(_ *testing.T, h *harness) {
	h.write(h.op("a", "0"))
	w := h.store.Watch(h.ctx, h.prefix, 0)
	revision := h.write(h.op("b", "1"))
	h.wantBatch(w, store.Event{Entry: store.Entry{Key: h.key("b"), Value: []byte("1"), ModRevision: revision, CreateRevision: revision}})
}

func testWatchEnds(_ *testing.T, h *harness) {
	ctx, cancel := context.WithCancel(h.ctx)
	w := h.store.Watch(ctx, h.prefix, 0)
	h.write(h.op("a", "1"))
	h.next(w)
	cancel()
	h.wantClosed(w)
	if err := w.Err(); err != nil {
		h.t.Errorf("Err after the context ended = %v, want nil", err)
	}
	ended := h.store.Watch(ctx, h.prefix, 1)
	h.wantClosed(ended)
	if err := ended.Err(); err != nil {
		h.t.Errorf("Err of a watch whose context had ended = %v, want nil", err)
	}
}

// wantClosed waits until a watch is closed.
func (h *harness) wantClosed(w store.Watch) {
	h.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case _, open := <-w.Events():
			if !open {
				return
			}
		case <-deadline:
			h.t.Fatal("the watch did not end")
		}
	}
}

// grant makes a lease.
func (h *harness) grant(ttl time.Duration) store.LeaseID {
	h.t.Helper()
	id, err := h.store.Grant(h.ctx, ttl)
	if err != nil {
		h.t.Fatalf("Grant(%s): %v", ttl, err)
	}
	return id
}

func testLeaseEnds(_ *testing.T, h *harness) {
	w := h.store.Watch(h.ctx, h.prefix, 0)
	id := h.grant(time.Second)
	h.write(store.Op{Key: h.key("a"), Value: []byte("1"), Lease: id}, store.Op{Key: h.key("b"), Value: []byte("1"), Lease: id})
	if batch := h.next(w); len(batch) != 2 {
		h.t.Fatalf("first batch = %+v, want two puts", batch)
	}
	for _, e := range h.next(w) {
		if !e.Deleted {
			h.t.Errorf("event %+v, want a deletion", e)
		}
	}
	_, err := h.store.KeepAlive(h.ctx, id)
	h.wantKind(err, fault.NotFound)
	_, err = h.store.Txn(h.ctx, nil, []store.Op{{Key: h.key("c"), Lease: id}})
	h.wantKind(err, fault.NotFound)
}

func testKeepAlive(_ *testing.T, h *harness) {
	id := h.grant(5 * time.Second)
	h.write(store.Op{Key: h.key("a"), Value: []byte("1"), Lease: id})
	for range 3 {
		ttl, err := h.store.KeepAlive(h.ctx, id)
		if err != nil || ttl < 5*time.Second || ttl > patience {
			h.t.Fatalf("KeepAlive = %s, %v", ttl, err)
		}
	}
	if _, err := h.store.Get(h.ctx, h.key("a")); err != nil {
		h.t.Errorf("Get under a live lease: %v", err)
	}
}

func testRevoke(_ *testing.T, h *harness) {
	id := h.grant(time.Minute)
	h.write(store.Op{Key: h.key("a"), Value: []byte("1"), Lease: id}, h.op("b", "1"))
	for range 2 {
		if err := h.store.Revoke(h.ctx, id); err != nil {
			h.t.Fatalf("Revoke: %v", err)
		}
	}
	h.wantAbsent("a")
	if _, err := h.store.Get(h.ctx, h.key("b")); err != nil {
		h.t.Errorf("Get of a key without the lease: %v", err)
	}
	_, err := h.store.KeepAlive(h.ctx, id)
	h.wantKind(err, fault.NotFound)
}

func testLeaveLease(_ *testing.T, h *harness) {
	id := h.grant(time.Minute)
	h.write(store.Op{Key: h.key("a"), Value: []byte("1"), Lease: id})
	h.write(h.op("a", "2"))
	if err := h.store.Revoke(h.ctx, id); err != nil {
		h.t.Fatalf("Revoke: %v", err)
	}
	got, err := h.store.Get(h.ctx, h.key("a"))
	if err != nil || string(got.Value) != "2" {
		h.t.Errorf("Get = %q, %v, want 2", got.Value, err)
	}
}

func testEndedContext(_ *testing.T, h *harness) {
	ctx, cancel := context.WithCancel(h.ctx)
	cancel()
	_, err := h.store.Get(ctx, h.key("a"))
	h.wantKind(err, fault.Unavailable)
	if !errors.Is(err, context.Canceled) {
		h.t.Errorf("Get with an ended context = %v, want it to wrap context.Canceled", err)
	}
	_, err = h.store.List(ctx, h.prefix, store.ListOptions{})
	h.wantKind(err, fault.Unavailable)
	_, err = h.store.Txn(ctx, nil, []store.Op{h.op("a", "1")})
	h.wantKind(err, fault.Unavailable)
	_, err = h.store.Grant(ctx, time.Minute)
	h.wantKind(err, fault.Unavailable)
}
