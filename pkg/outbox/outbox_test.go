package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
)

// prefix is where the tests' boxes keep their records.
const prefix = "/o/"

// recorder is a publisher that notes what it stored, in order.
type recorder struct {
	mu   sync.Mutex
	ids  []string
	fail func(m bus.Message) (before, after error)
}

// Publish implements bus.Publisher.
func (r *recorder) Publish(ctx context.Context, messages ...bus.Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range messages {
		if err := ctx.Err(); err != nil {
			return fault.As(fault.Unavailable, err)
		}
		var before, after error
		if r.fail != nil {
			before, after = r.fail(m)
		}
		if before != nil {
			return before
		}
		r.ids = append(r.ids, m.ID)
		if after != nil {
			return after
		}
	}
	return nil
}

// got gives the ids that were stored.
func (r *recorder) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ids)
}

// setFail sets what fails.
func (r *recorder) setFail(fail func(m bus.Message) (before, after error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = fail
}

// rig is a box with what is around it.
type rig struct {
	*testing.T
	store *memstore.Store
	bus   *recorder
	box   *Box
}

func newRig(t *testing.T) *rig {
	r := &rig{T: t, store: memstore.New(), bus: &recorder{}}
	r.box = New(r.store, r.bus, prefix, nil)
	return r
}

// run runs the box until the function that it gives is called.
func (r *rig) run() (stop func()) {
	ctx, cancel := context.WithCancel(r.Context())
	done := make(chan error, 1)
	box := r.box
	go func() { done <- box.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			r.Errorf("Run = %v", err)
		}
	}
}

// restart makes a box anew, as a process does that starts again.
func (r *rig) restart() { r.box = New(r.store, r.bus, prefix, nil) }

func message(id string) bus.Message {
	return bus.Message{Subject: "weft.evt." + id, ID: id, Data: []byte(id)}
}

// commit writes messages with a fact, and hands them in.
func (r *rig) commit(ids ...string) {
	r.Helper()
	ops := r.write(ids...)
	r.box.Committed(ops)
}

// write writes messages with a fact.
func (r *rig) write(ids ...string) []store.Op {
	r.Helper()
	var messages []bus.Message
	for _, id := range ids {
		messages = append(messages, message(id))
	}
	ops := append([]store.Op{{Key: "/fact"}}, r.box.Ops(messages...)...)
	if _, err := r.store.Txn(r.Context(), nil, ops); err != nil {
		r.Fatalf("Txn: %v", err)
	}
	return ops
}

// want checks what was published, and that nothing is left.
func (r *rig) want(ids ...string) {
	r.Helper()
	if diff := cmp.Diff(ids, r.bus.got(), cmpopts.EquateEmpty()); diff != "" {
		r.Errorf("published (-want +got):\n%s", diff)
	}
	r.wantLeft(0)
}

func (r *rig) wantLeft(n int) {
	r.Helper()
	page, err := r.store.List(context.WithoutCancel(r.Context()), prefix, store.ListOptions{})
	if err != nil || len(page.Entries) != n {
		r.Errorf("%d records are left, error %v, want %d", len(page.Entries), err, n)
	}
}

// bubble runs a test in fake time.
func bubble(t *testing.T, test func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newRig(t)) })
}

// settle lets everything happen that happens within a time.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestPublishesInOrderAndDeletes(t *testing.T) {
	bubble(t, func(r *rig) {
		stop := r.run()
		var want []string
		for i := range 1000 {
			id := fmt.Sprintf("%04d", i)
			r.commit(id)
			want = append(want, id)
		}
		settle(time.Second)
		r.want(want...)
		if n := r.box.Waiting(); n != 0 {
			t.Errorf("%d are waiting", n)
		}
		stop()
	})
}

func TestMessagesOfOneTransactionAreOneRecord(t *testing.T) {
	bubble(t, func(r *rig) {
		if ops := r.box.Ops(message("1"), message("2"), message("3")); len(ops) != 1 {
			t.Errorf("%d writes for three small messages, want 1", len(ops))
		}
		if ops := r.box.Ops(); len(ops) != 0 {
			t.Errorf("%d writes for no message", len(ops))
		}
		large := message("large")
		large.Data = make([]byte, recordSize)
		if ops := r.box.Ops(large, large, message("3")); len(ops) != 3 {
			t.Errorf("%d writes for two large messages and a small one, want 3", len(ops))
		}
		stop := r.run()
		r.commit("1", "2", "3")
		settle(time.Second)
		r.want("1", "2", "3")
		stop()
	})
}

func TestFindsWhatACrashLeft(t *testing.T) {
	bubble(t, func(r *rig) {
		r.write("1")
		r.write("2")
		r.restart()
		r.commit("3") // before Run found the others
		stop := r.run()
		settle(time.Second)
		r.want("1", "2", "3")
		stop()
	})
}

func TestHandedInTwiceIsPublishedOnce(t *testing.T) {
	bubble(t, func(r *rig) {
		ops := r.write("1")
		r.box.Committed(ops)
		r.box.Committed(ops)
		stop := r.run()
		settle(time.Second)
		r.want("1")
		stop()
	})
}

func TestSweepFindsWhatNobodyHandedIn(t *testing.T) {
	bubble(t, func(r *rig) {
		stop := r.run()
		settle(time.Second)
		r.write("lost answer")
		settle(20 * time.Second)
		r.wantLeft(1) // it may yet be handed in
		settle(2 * sweepEvery)
		r.want("lost answer")
		stop()
	})
}

func TestOutageOfTheBusKeepsTheOrder(t *testing.T) {
	for name, fail := range map[string]func(bus.Message) (error, error){
		"refused":     func(bus.Message) (error, error) { return fault.New(fault.Unavailable, "down"), nil },
		"full":        func(bus.Message) (error, error) { return fault.New(fault.Throttled, "full"), nil },
		"answer lost": func(bus.Message) (error, error) { return nil, fault.New(fault.Unavailable, "lost") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(r *rig) {
				r.bus.setFail(fail)
				stop := r.run()
				r.commit("1")
				r.commit("2")
				settle(10 * time.Second)
				r.wantLeft(2)
				r.bus.setFail(nil)
				r.commit("3")
				settle(10 * time.Second)
				got := slices.Compact(r.bus.got())
				if diff := cmp.Diff([]string{"1", "2", "3"}, got); diff != "" {
					t.Errorf("published, doubles apart (-want +got):\n%s", diff)
				}
				r.wantLeft(0)
				stop()
			})
		})
	}
}

func TestOutageOfTheStoreDelaysDeletesOnly(t *testing.T) {
	bubble(t, func(r *rig) {
		stop := r.run()
		settle(time.Second)
		ops := append(r.write("1"), r.write("2")...)
		r.store.SetFaults(memstore.Faults{Before: func(string, string) error { return fault.New(fault.Unavailable, "down") }})
		r.box.Committed(ops)
		settle(time.Minute)
		if diff := cmp.Diff([]string{"1", "2"}, r.bus.got()); diff != "" {
			t.Errorf("published (-want +got):\n%s", diff)
		}
		r.store.SetFaults(memstore.Faults{})
		r.wantLeft(2)
		settle(time.Minute)
		r.want("1", "2")
		stop()
	})
}

func TestWhatCanNeverBePublishedStopsNobody(t *testing.T) {
	bubble(t, func(r *rig) {
		r.bus.setFail(func(m bus.Message) (error, error) {
			if m.ID == "bad" {
				return fault.New(fault.Invalid, "too large"), nil
			}
			return nil, nil
		})
		for _, id := range []string{"1", "bad", "2"} {
			r.commit(id)
		}
		stop := r.run()
		settle(time.Minute)
		got := r.bus.got()
		if got = slices.Compact(got); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("published %v, want 1 and 2", got)
		}
		r.wantLeft(1)
		stop()
		r.bus.setFail(nil)
		r.restart()
		stop = r.run()
		settle(time.Minute)
		if got := r.bus.got(); got[len(got)-1] != "bad" {
			t.Errorf("published %v, want the bad one once it is taken", got)
		}
		r.wantLeft(0)
		stop()
	})
}

func TestStopDeletesWhatWasPublished(t *testing.T) {
	bubble(t, func(r *rig) {
		stop := r.run()
		r.commit("1")
		synctest.Wait() // published, and lingering before the deletion
		stop()
		r.want("1")
	})
}

// TestCrashAtEveryMoment ends a writer at each call that it makes to the store or the bus, before or after the effect,
// and starts it again: whatever was committed is published, in order, and nothing is left.
func TestCrashAtEveryMoment(t *testing.T) {
	const facts = 5
	crashes := 0
	for moment := 0; ; moment++ {
		survived := false
		for _, after := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				survived = !r.crashAt(moment, after, facts)
			})
		}
		if survived {
			break
		}
		crashes++
	}
	if crashes < 2*facts {
		t.Errorf("only %d moments were tried", crashes)
	}
}

// crashAt writes facts, each with a message, and crashes at the given call. It tells whether it came to that.
func (r *rig) crashAt(moment int, after bool, facts int) bool {
	ctx, crash := context.WithCancel(r.Context())
	defer crash()
	calls, crashed := 0, false
	var mu sync.Mutex
	step := func(isAfter bool) error {
		mu.Lock()
		defer mu.Unlock()
		if crashed {
			return fault.New(fault.Unavailable, "crashed")
		}
		if isAfter != after {
			return nil
		}
		if calls++; calls <= moment {
			return nil
		}
		crashed = true
		crash()
		return fault.New(fault.Unavailable, "crashed")
	}
	r.store.SetFaults(memstore.Faults{
		Before: func(string, string) error { return step(false) },
		After:  func(string, string) error { return step(true) },
	})
	r.bus.setFail(func(bus.Message) (error, error) { return step(false), step(true) })
	var running sync.WaitGroup
	box := r.box
	running.Go(func() {
		if err := box.Run(ctx); err != nil {
			r.Errorf("Run: %v", err)
		}
	})
	r.writeFacts(ctx, box, facts)
	settle(5 * time.Second)
	crash()
	running.Wait()
	r.store.SetFaults(memstore.Faults{})
	r.bus.setFail(nil)
	r.recover(moment, after, facts)
	return crashed
}

// writeFacts writes facts with messages until it crashes.
func (r *rig) writeFacts(ctx context.Context, box *Box, facts int) {
	for i := range facts {
		id := fmt.Sprint(i)
		ops := append([]store.Op{{Key: "/fact/" + id}}, box.Ops(message(id))...)
		if _, err := r.store.Txn(ctx, nil, ops); err != nil {
			return
		}
		box.Committed(ops)
		settle(time.Millisecond)
	}
}

// recover starts again and checks that facts and messages agree.
func (r *rig) recover(moment int, after bool, facts int) {
	r.restart()
	stop := r.run()
	settle(time.Minute)
	stop()
	got := r.bus.got()
	slices.Sort(got)
	got = slices.Compact(got)
	var want []string
	for i := range facts {
		_, err := r.store.Get(context.WithoutCancel(r.Context()), fmt.Sprintf("/fact/%d", i))
		if err == nil {
			want = append(want, fmt.Sprint(i))
		} else if !fault.Is(err, fault.NotFound) {
			r.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		r.Errorf("crash at call %d, after its effect %t: published (-want +got):\n%s", moment, after, diff)
	}
	r.wantLeft(0)
}

func TestEncoding(t *testing.T) {
	tests := map[string][]bus.Message{
		"nothing": {},
		"empty":   {{}},
		"whole":   {{Subject: "a.b", ID: "1", Header: map[string]string{"k": "v", "": ""}, Data: []byte{0, 1, 255}}},
		"several": {message("1"), {Subject: "x", Data: []byte(strings.Repeat("x", 1000))}, message("3")},
	}
	for name, want := range tests {
		record := encode(want, 0)
		got, err := decode(record)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		for cut := range record {
			if _, err := decode(record[:cut]); err == nil {
				t.Errorf("%s: a record cut off at %d of %d was read", name, cut, len(record))
			}
		}
		if _, err := decode(append(record, 0)); err == nil {
			t.Errorf("%s: a record with more behind it was read", name)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode([]bus.Message{message("1"), {Header: map[string]string{"a": "b"}}}, 0))
	f.Add([]byte{version, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, record []byte) {
		messages, err := decode(record)
		if err != nil {
			return
		}
		again, err := decode(encode(messages, 0))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(messages, again, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-first +again):\n%s", diff)
		}
	})
}

func TestDamagedRecordIsLeftAlone(t *testing.T) {
	bubble(t, func(r *rig) {
		if _, err := r.store.Txn(t.Context(), nil, []store.Op{{Key: prefix + "0", Value: []byte("?")}}); err != nil {
			t.Fatal(err)
		}
		r.commit("1")
		stop := r.run()
		settle(time.Minute)
		stop()
		if diff := cmp.Diff([]string{"1"}, r.bus.got()); diff != "" {
			t.Errorf("published (-want +got):\n%s", diff)
		}
		r.wantLeft(1)
	})
}

// fastStore is a store that does nothing, so that a benchmark counts the box alone.
type fastStore struct{ store.Store }

func (fastStore) Txn(context.Context, []store.Compare, []store.Op) (int64, error) { return 1, nil }
func (fastStore) List(context.Context, string, store.ListOptions) (store.Page, error) {
	return store.Page{}, nil
}

// countingPublisher counts messages and says when all came.
type countingPublisher struct {
	left int
	all  chan struct{}
}

func (p *countingPublisher) Publish(_ context.Context, messages ...bus.Message) error {
	if p.left -= len(messages); p.left <= 0 {
		close(p.all)
	}
	return nil
}

func BenchmarkBox(b *testing.B) {
	p := &countingPublisher{left: b.N, all: make(chan struct{})}
	box := New(fastStore{}, p, prefix, nil)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- box.Run(ctx) }()
	m := bus.Message{Subject: "weft.cmd.network.normal.acme.subnets", ID: "op.step.do.1", Header: map[string]string{"traceparent": "x"}, Data: make([]byte, 1024)}
	b.ReportAllocs()
	for range b.N {
		box.Committed(box.Ops(m))
	}
	<-p.all
	cancel()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		b.Error(err)
	}
}
