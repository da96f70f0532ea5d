// Package bustest holds every bus to the contract of bus.Bus.
package bustest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
)

// patience bounds every wait for a bus.
const patience = 20 * time.Second

// Run holds the buses that open makes to the contract. open is called once for each test and gives a bus with empty
// streams, which it closes by t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) bus.Bus) {
	tests := map[string]func(h *harness){
		"everything arrives as it was sent":   testWhole,
		"messages wait for their reader":      testWaits,
		"order of a subject":                  testOrder,
		"a thousand, many at once":            testMany,
		"concurrency is bounded":              testBounded,
		"shared by two consumers":             testShared,
		"priorities do not mix":               testPriorities,
		"tenants take turns":                  testTurns,
		"same id is stored once":              testDuplicate,
		"later comes again":                   testLater,
		"always later is buried":              testExhausted,
		"reject is buried":                    testReject,
		"no verdict in time comes again":      testAckWait,
		"consumer that comes back":            testComesBack,
		"consume ends after its handlers":     testConsumeEnds,
		"read to the end":                     testRead,
		"read of nothing":                     testReadNothing,
		"read a tenant's":                     testReadFilter,
		"read since":                          testReadSince,
		"read follows":                        testReadFollow,
		"read ends with its handler":          testReadError,
		"subject that no stream stores":       testNoStream,
		"publish nothing":                     testPublishNothing,
		"publish with an ended context":       testPublishEnded,
		"large message":                       testLarge,
		"consume what is no queue is refused": testNoQueue,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			t.Cleanup(cancel)
			test(&harness{T: t, ctx: ctx, bus: open(t)})
		})
	}
}

// harness is what a test works with.
type harness struct {
	*testing.T
	ctx context.Context
	bus bus.Bus
}

// queue is the queue that the tests use.
func queue() bus.Queue { return bus.CommandQueue("network", bus.PriorityNormal) }

// command makes a message for queue.
func command(tenant, id string) bus.Message {
	return bus.Message{Subject: bus.CommandSubject("network", bus.PriorityNormal, tenant, "subnets"), ID: id, Data: []byte(id)}
}

// event makes an event.
func event(tenant, id string) bus.Message {
	return bus.Message{Subject: bus.EventSubject(tenant, "network", "subnets", "ready"), ID: id, Data: []byte(id)}
}

// publish publishes.
func (h *harness) publish(messages ...bus.Message) {
	h.Helper()
	if err := h.bus.Publish(h.ctx, messages...); err != nil {
		h.Fatalf("Publish: %v", err)
	}
}

// inbox collects what is delivered.
type inbox struct {
	mu  sync.Mutex
	got []bus.Delivery
	c   chan struct{}
}

func newInbox() *inbox { return &inbox{c: make(chan struct{}, 1)} }

// add notes a delivery and gives how many there are.
func (i *inbox) add(d bus.Delivery) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.got = append(i.got, d)
	select {
	case i.c <- struct{}{}:
	default:
	}
	return len(i.got)
}

// all gives what was delivered.
func (i *inbox) all() []bus.Delivery {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.got)
}

// wait waits until n deliveries are there.
func (h *harness) wait(i *inbox, n int) []bus.Delivery {
	h.Helper()
	deadline := time.After(patience)
	for {
		if got := i.all(); len(got) >= n {
			return got
		}
		select {
		case <-i.c:
		case <-deadline:
			h.Fatalf("%d deliveries arrived of %d", len(i.all()), n)
		}
	}
}

// consume consumes in the background; the function it gives ends that and waits.
func (h *harness) consume(q bus.Queue, concurrency int, handle bus.Handler) (stop func()) {
	ctx, cancel := context.WithCancel(h.ctx)
	done := make(chan error, 1)
	go func() { done <- h.bus.Consume(ctx, q, concurrency, handle) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				h.Errorf("Consume = %v, want nil once its context ended", err)
			}
		})
	}
	h.Cleanup(stop)
	return stop
}

// collect consumes into an inbox and acks.
func (h *harness) collect(q bus.Queue, concurrency int) *inbox {
	box := newInbox()
	h.consume(q, concurrency, func(_ context.Context, d bus.Delivery) bus.Verdict {
		box.add(d)
		return bus.Ack
	})
	return box
}

// read reads what is stored.
func (h *harness) read(filter string, since time.Time) []bus.Delivery {
	h.Helper()
	var got []bus.Delivery
	err := h.bus.Read(h.ctx, filter, since, false, func(d bus.Delivery) error {
		got = append(got, d)
		return nil
	})
	if err != nil {
		h.Fatalf("Read(%s): %v", filter, err)
	}
	return got
}

// ids gives the ids of deliveries.
func ids(deliveries []bus.Delivery) []string {
	var out []string
	for _, d := range deliveries {
		out = append(out, d.ID)
	}
	return out
}

// wantIDs checks ids.
func (h *harness) wantIDs(got []bus.Delivery, want ...string) {
	h.Helper()
	if diff := cmp.Diff(want, ids(got)); diff != "" {
		h.Fatalf("ids (-want +got):\n%s", diff)
	}
}

// numbered makes n commands in order.
func numbered(tenant string, n int) ([]bus.Message, []string) {
	var messages []bus.Message
	var names []string
	for i := range n {
		m := command(tenant, fmt.Sprintf("%s-%04d", tenant, i))
		messages, names = append(messages, m), append(names, m.ID)
	}
	return messages, names
}

func testWhole(h *harness) {
	m := command("acme", "1")
	m.Header = map[string]string{"traceparent": "00-aa-bb-01", "ce-type": "x"}
	before := time.Now().Add(-time.Minute)
	h.publish(m, command("acme", "2"))
	got := h.wait(h.collect(queue(), 1), 2)
	first := got[0]
	if diff := cmp.Diff(m, first.Message); diff != "" {
		h.Errorf("message (-want +got):\n%s", diff)
	}
	if first.Attempt != 1 || first.Sequence == 0 || got[1].Sequence <= first.Sequence {
		h.Errorf("attempt %d, sequences %d and %d", first.Attempt, first.Sequence, got[1].Sequence)
	}
	if first.Time.Before(before) || first.Time.After(time.Now().Add(time.Minute)) {
		h.Errorf("time %s", first.Time)
	}
}

func testWaits(h *harness) {
	messages, names := numbered("acme", 5)
	h.publish(messages...)
	h.wantIDs(h.wait(h.collect(queue(), 1), 5), names...)
}

func testOrder(h *harness) {
	box := h.collect(queue(), 1)
	messages, names := numbered("acme", 200)
	for part := range slices.Chunk(messages, 50) {
		h.publish(part...)
	}
	h.wantIDs(h.wait(box, 200), names...)
}

func testMany(h *harness) {
	box := h.collect(queue(), 16)
	messages, names := numbered("acme", 1000)
	var group sync.WaitGroup
	for part := range slices.Chunk(messages, 100) {
		group.Go(func() {
			if err := h.bus.Publish(h.ctx, part...); err != nil {
				h.Errorf("Publish: %v", err)
			}
		})
	}
	group.Wait()
	got := ids(h.wait(box, 1000))
	slices.Sort(got)
	if diff := cmp.Diff(names, got); diff != "" {
		h.Errorf("ids (-want +got):\n%s", diff)
	}
}

func testBounded(h *harness) {
	const concurrency = 3
	var running, most atomic.Int64
	box := newInbox()
	full := make(chan struct{})
	h.consume(queue(), concurrency, func(ctx context.Context, d bus.Delivery) bus.Verdict {
		now := running.Add(1)
		defer running.Add(-1)
		for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
		}
		if box.add(d) == concurrency {
			close(full)
		}
		select {
		case <-full:
		case <-ctx.Done():
		}
		return bus.Ack
	})
	messages, _ := numbered("acme", 30)
	h.publish(messages...)
	h.wait(box, 30)
	if got := most.Load(); got != concurrency {
		h.Errorf("%d handlers ran at once, want %d", got, concurrency)
	}
}

func testShared(h *harness) {
	box := newInbox()
	for range 2 {
		h.consume(queue(), 2, func(_ context.Context, d bus.Delivery) bus.Verdict {
			box.add(d)
			return bus.Ack
		})
	}
	messages, names := numbered("acme", 100)
	h.publish(messages...)
	got := ids(h.wait(box, 100))
	slices.Sort(got)
	if diff := cmp.Diff(names, got); diff != "" {
		h.Errorf("ids (-want +got):\n%s", diff)
	}
}

func testPriorities(h *harness) {
	undo := command("acme", "undo")
	undo.Subject = bus.CommandSubject("network", bus.PriorityUndo, "acme", "subnets")
	other := command("acme", "other service")
	other.Subject = bus.CommandSubject("storage", bus.PriorityNormal, "acme", "volumes")
	h.publish(undo, other, command("acme", "normal"))
	h.wantIDs(h.wait(h.collect(queue(), 1), 1), "normal")
	h.wantIDs(h.wait(h.collect(bus.CommandQueue("network", bus.PriorityUndo), 1), 1), "undo")
	h.wantIDs(h.wait(h.collect(bus.CommandQueue("storage", bus.PriorityNormal), 1), 1), "other service")
}

// testTurns has one tenant's message wait behind hundreds of another's: it does not wait for most of them.
func testTurns(h *harness) {
	const crowd = 300
	messages, _ := numbered("acme", crowd)
	h.publish(messages...)
	h.publish(command("bert", "lone"))
	box, lone := newInbox(), make(chan struct{})
	h.consume(queue(), 1, func(_ context.Context, d bus.Delivery) bus.Verdict {
		busy := 10 * time.Millisecond
		if box.add(d) == 1 {
			busy = 2 * time.Second // while the others arrive
		}
		if d.ID == "lone" {
			close(lone)
		}
		select {
		case <-lone:
		case <-time.After(busy):
		}
		return bus.Ack
	})
	order := ids(h.wait(box, crowd+1))
	if at := slices.Index(order, "lone"); at > crowd/2 {
		h.Errorf("it came as number %d, behind a tenant that has sent %d", at+1, crowd)
	}
	mine := slices.DeleteFunc(order, func(id string) bool { return id == "lone" })
	if !slices.IsSorted(mine) {
		h.Errorf("the other tenant's came in the order %v", mine)
	}
}

func testDuplicate(h *harness) {
	h.publish(command("acme", "1"), command("acme", "1"), command("acme", "2"))
	h.publish(command("acme", "1"), command("acme", "3"))
	h.wantIDs(h.wait(h.collect(queue(), 1), 3), "1", "2", "3")
}

func testLater(h *harness) {
	box := newInbox()
	h.consume(queue(), 1, func(_ context.Context, d bus.Delivery) bus.Verdict {
		if box.add(d) == 1 {
			return bus.Later
		}
		return bus.Ack
	})
	h.publish(command("acme", "1"))
	got := h.wait(box, 2)
	h.wantIDs(got, "1", "1")
	if got[0].Sequence != got[1].Sequence {
		h.Errorf("sequences %d and %d of one message", got[0].Sequence, got[1].Sequence)
	}
	h.publish(command("acme", "2"))
	h.wantIDs(h.wait(box, 3), "1", "1", "2")
}

// wantDead waits for one dead letter of q.
func (h *harness) wantDead(q bus.Queue, m bus.Message, reason, attempts string) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.ctx, patience)
	defer cancel()
	found := errors.New("found")
	var dead bus.Delivery
	err := h.bus.Read(ctx, bus.DeadSubject(q), time.Time{}, true, func(d bus.Delivery) error {
		dead = d
		return found
	})
	if !errors.Is(err, found) {
		h.Fatalf("no dead letter came: %v", err)
	}
	want := map[string]string{
		bus.HeaderDeadSubject: m.Subject, bus.HeaderDeadID: m.ID, bus.HeaderDeadReason: reason, bus.HeaderDeadAttempts: attempts,
	}
	for k, v := range m.Header {
		want[k] = v
	}
	if diff := cmp.Diff(want, dead.Header); diff != "" {
		h.Errorf("header of the dead letter (-want +got):\n%s", diff)
	}
	if string(dead.Data) != string(m.Data) {
		h.Errorf("data of the dead letter = %q, want %q", dead.Data, m.Data)
	}
}

func testExhausted(h *harness) {
	q := queue()
	q.MaxDeliver, q.AckWait = 2, time.Second
	h.consume(q, 1, func(context.Context, bus.Delivery) bus.Verdict { return bus.Later })
	m := command("acme", "1")
	h.publish(m)
	h.wantDead(q, m, bus.DeadExhausted, "2")
	if got := h.read("weft.dead.>", time.Time{}); len(got) != 1 {
		h.Errorf("%d dead letters, want 1", len(got))
	}
}

func testReject(h *harness) {
	q := queue()
	box := newInbox()
	h.consume(q, 1, func(_ context.Context, d bus.Delivery) bus.Verdict {
		box.add(d)
		if d.ID == "bad" {
			return bus.Reject
		}
		return bus.Ack
	})
	bad := command("acme", "bad")
	bad.Header = map[string]string{"ce-type": "x"}
	h.publish(bad, command("acme", "good"))
	h.wantDead(q, bad, bus.DeadRejected, "1")
	h.wantIDs(h.wait(box, 2), "bad", "good")
}

func testAckWait(h *harness) {
	q := queue()
	q.AckWait = time.Second
	box := newInbox()
	again := make(chan struct{})
	h.consume(q, 2, func(ctx context.Context, d bus.Delivery) bus.Verdict {
		if box.add(d) > 1 {
			close(again)
			return bus.Ack
		}
		select {
		case <-again:
		case <-ctx.Done():
		}
		return bus.Ack
	})
	h.publish(command("acme", "1"))
	got := h.wait(box, 2)
	if got[1].Attempt != 2 || got[0].Sequence != got[1].Sequence {
		h.Errorf("second delivery: attempt %d, sequences %d and %d", got[1].Attempt, got[0].Sequence, got[1].Sequence)
	}
}

func testComesBack(h *harness) {
	q := queue()
	box := newInbox()
	first := h.consume(q, 1, func(_ context.Context, d bus.Delivery) bus.Verdict {
		box.add(d)
		return bus.Ack
	})
	h.publish(command("acme", "1"))
	h.wait(box, 1)
	first()
	h.publish(command("acme", "2"), command("acme", "3"))
	h.wantIDs(h.wait(h.collect(q, 1), 2), "2", "3")
}

func testConsumeEnds(h *harness) {
	begun, release := make(chan struct{}), make(chan struct{})
	var ended atomic.Bool
	stop := h.consume(queue(), 1, func(context.Context, bus.Delivery) bus.Verdict {
		close(begun)
		<-release
		ended.Store(true)
		return bus.Ack
	})
	h.publish(command("acme", "1"))
	select {
	case <-begun:
	case <-time.After(patience):
		h.Fatal("the handler was not begun")
	}
	go func() { close(release) }()
	stop()
	if !ended.Load() {
		h.Error("Consume returned while its handler ran")
	}
}

func testRead(h *harness) {
	h.publish(event("acme", "1"), event("other", "2"), event("", "3"))
	got := h.read(bus.EventFilter("-"), time.Time{})
	h.wantIDs(got, "1", "2", "3")
	if !slices.IsSortedFunc(got, func(a, b bus.Delivery) int { return int(a.Sequence) - int(b.Sequence) }) {
		h.Errorf("sequences are out of order: %+v", got)
	}
	h.wantIDs(h.read(bus.EventFilter(""), time.Time{}), "1", "2", "3")
}

func testReadNothing(h *harness) {
	if got := h.read(bus.EventFilter(""), time.Time{}); len(got) != 0 {
		h.Errorf("Read of an empty stream = %+v", got)
	}
	h.publish(event("acme", "1"))
	if got := h.read(bus.EventFilter("other"), time.Time{}); len(got) != 0 {
		h.Errorf("Read of a tenant with no events = %+v", got)
	}
	if got := h.read(bus.EventFilter(""), time.Now().Add(time.Hour)); len(got) != 0 {
		h.Errorf("Read from the future = %+v", got)
	}
	err := h.bus.Read(h.ctx, queue().Filter, time.Time{}, false, func(bus.Delivery) error { return nil })
	if !fault.Is(err, fault.Invalid) {
		h.Errorf("Read of a work queue = %v, want Invalid", err)
	}
}

func testReadFilter(h *harness) {
	h.publish(event("acme", "1"), event("other", "2"), event("acme", "3"), event("acme2", "4"), event("other", "5"))
	h.wantIDs(h.read(bus.EventFilter("acme"), time.Time{}), "1", "3")
	h.wantIDs(h.read(bus.EventSubject("other", "network", "subnets", "ready"), time.Time{}), "2", "5")
}

func testReadSince(h *harness) {
	h.publish(event("acme", "1"))
	first := h.read(bus.EventFilter(""), time.Time{})[0].Time
	// The server's clock stamps messages: publish until one has a later stamp than the first.
	for i := 2; ; i++ {
		h.publish(event("acme", fmt.Sprint(i)))
		got := h.read(bus.EventFilter(""), time.Time{})
		last := got[len(got)-1]
		if !last.Time.After(first) {
			continue
		}
		h.wantIDs(h.read(bus.EventFilter(""), last.Time), last.ID)
		return
	}
}

func testReadFollow(h *harness) {
	h.publish(event("acme", "1"))
	ctx, cancel := context.WithCancel(h.ctx)
	defer cancel()
	box := newInbox()
	done := make(chan error, 1)
	go func() {
		done <- h.bus.Read(ctx, bus.EventFilter("acme"), time.Time{}, true, func(d bus.Delivery) error {
			box.add(d)
			return nil
		})
	}()
	h.wait(box, 1)
	h.publish(event("other", "2"), event("acme", "3"))
	h.wantIDs(h.wait(box, 2), "1", "3")
	cancel()
	if err := <-done; err != nil {
		h.Errorf("Read = %v, want nil once its context ended", err)
	}
}

func testReadError(h *harness) {
	h.publish(event("acme", "1"), event("acme", "2"))
	enough := errors.New("enough")
	for _, follow := range []bool{false, true} {
		n := 0
		err := h.bus.Read(h.ctx, bus.EventFilter(""), time.Time{}, follow, func(bus.Delivery) error {
			n++
			return enough
		})
		if !errors.Is(err, enough) || n != 1 {
			h.Errorf("Read = %v after %d deliveries, want the handler's error after one", err, n)
		}
	}
}

func testNoStream(h *harness) {
	err := h.bus.Publish(h.ctx, bus.Message{Subject: "elsewhere.x", ID: "1"})
	if !fault.Is(err, fault.Invalid) {
		h.Errorf("Publish = %v, want Invalid", err)
	}
}

func testPublishNothing(h *harness) { h.publish() }

func testPublishEnded(h *harness) {
	ctx, cancel := context.WithCancel(h.ctx)
	cancel()
	if err := h.bus.Publish(ctx, command("acme", "1")); !fault.Is(err, fault.Unavailable) {
		h.Errorf("Publish = %v, want Unavailable", err)
	}
}

func testLarge(h *harness) {
	m := command("acme", "1")
	m.Data = make([]byte, 512<<10)
	m.Data[len(m.Data)-1] = 7
	h.publish(m)
	got := h.wait(h.collect(queue(), 1), 1)
	if diff := cmp.Diff(m.Data, got[0].Data); diff != "" {
		h.Error("the data changed on its way")
	}
}

func testNoQueue(h *harness) {
	err := h.bus.Consume(h.ctx, bus.Queue{Stream: "EVT", Name: "x", Filter: "weft.evt.>"}, 1, func(context.Context, bus.Delivery) bus.Verdict { return bus.Ack })
	if !fault.Is(err, fault.Invalid) {
		h.Errorf("Consume of the event stream = %v, want Invalid", err)
	}
}
