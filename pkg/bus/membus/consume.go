package membus

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
)

// Consume implements bus.Bus.
func (b *Bus) Consume(ctx context.Context, declared bus.Queue, concurrency int, handle bus.Handler) error {
	s, q, err := b.queue(declared)
	if err != nil {
		return err
	}
	slots := make(chan struct{}, max(concurrency, 1))
	var running sync.WaitGroup
	defer running.Wait()
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		it, err := b.next(ctx, s, q)
		if it == nil {
			return err
		}
		running.Go(func() {
			defer func() { <-slots }()
			b.deliver(ctx, s, q, it, handle)
		})
	}
}

// queue finds the queue, or makes it of what the stream has.
func (b *Bus) queue(declared bus.Queue) (*stream, *queue, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.streams[declared.Stream]
	if !ok || !s.WorkQueue {
		return nil, nil, fault.New(fault.Invalid, "consume %s: there is no work queue %q", declared.Name, declared.Stream)
	}
	q, ok := s.queues[declared.Name]
	if ok {
		q.Queue = declared
		return s, q, nil
	}
	q = &queue{Queue: declared, wake: make(chan struct{})}
	s.queues[declared.Name] = q
	for _, it := range s.items {
		if bus.Match(q.Filter, it.delivery.Subject) {
			q.push(it)
		}
	}
	return s, q, nil
}

// next waits for a message that is ready; nil once ctx or the bus has ended.
func (b *Bus) next(ctx context.Context, s *stream, q *queue) (*item, error) {
	for {
		it, wake, err := b.take(s, q)
		if it != nil || err != nil {
			return it, err
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// take takes the first ready message, unless too many are under way; else it gives what to wait for.
func (b *Bus) take(s *stream, q *queue) (*item, <-chan struct{}, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, nil, fault.New(fault.Unavailable, "consume %s: the bus is closed", q.Name)
	}
	s.prune(time.Now())
	for q.MaxAckPending <= 0 || q.pending < q.MaxAckPending {
		it, ok := q.ready.Next()
		if !ok {
			break
		}
		it.ready = false
		if it.acked {
			continue
		}
		it.attempts++
		it.underway = true
		q.pending++
		return it, nil, nil
	}
	return nil, q.wake, nil
}

// deliver delivers a message and does what the verdict says.
func (b *Bus) deliver(ctx context.Context, s *stream, q *queue, it *item, handle bus.Handler) {
	d, exhausted := b.begin(q, it)
	if exhausted {
		b.bury(s, q, it, d, bus.DeadExhausted)
		return
	}
	switch handle(ctx, d) {
	case bus.Ack:
		b.ack(s, q, it)
	case bus.Reject:
		b.bury(s, q, it, d, bus.DeadRejected)
	default:
		b.putOff(q, it, d.Attempt)
	}
}

// begin gives what is delivered, and starts the clock after which it is delivered again.
func (b *Bus) begin(q *queue, it *item) (bus.Delivery, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := it.delivery
	d.Attempt = it.attempts
	if q.MaxDeliver > 0 && it.attempts > q.MaxDeliver {
		d.Attempt = q.MaxDeliver
		return d, true
	}
	b.redeliverAfter(q.AckWait, q, it)
	return d, false
}

// redeliverAfter makes a message that is under way ready again after a time, unless it is acked by then.
func (b *Bus) redeliverAfter(wait time.Duration, q *queue, it *item) {
	attempt := it.attempts
	it.timer = time.AfterFunc(wait, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if it.acked || it.attempts != attempt || !it.underway {
			return
		}
		it.underway = false
		q.pending--
		q.push(it)
	})
}

// ack takes a message out. It is accepted however late.
func (b *Bus) ack(s *stream, q *queue, it *item) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle(s, q, it)
}

func (b *Bus) settle(s *stream, q *queue, it *item) {
	if it.timer != nil {
		it.timer.Stop()
	}
	if it.underway {
		it.underway = false
		q.pending--
		q.signal()
	}
	if it.acked {
		return
	}
	it.acked = true
	if at, found := s.find(it.delivery.Sequence); found {
		s.items = slices.Delete(s.items, at, at+1)
		s.bytes -= int64(len(it.delivery.Data))
	}
}

// bury moves a message to the dead letters.
func (b *Bus) bury(s *stream, q *queue, it *item, d bus.Delivery, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if it.acked {
		return
	}
	letter := bus.DeadLetter(q.Queue, d, reason)
	if dead, ok := b.streamOf(letter.Subject); ok && !dead.seen(letter.ID, time.Now()) {
		dead.store(letter)
	}
	b.settle(s, q, it)
}

// putOff makes a message ready again after a while.
func (b *Bus) putOff(q *queue, it *item, attempt int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if it.acked || it.attempts != attempt || !it.underway {
		return
	}
	it.timer.Stop()
	b.redeliverAfter(min(LaterDelay, q.AckWait), q, it)
}

// Read implements bus.Bus.
func (b *Bus) Read(ctx context.Context, filter string, since time.Time, follow bool, handle func(bus.Delivery) error) error {
	b.mu.Lock()
	s, ok := b.streamOf(filter)
	var last uint64
	if ok {
		last = s.last
	}
	b.mu.Unlock()
	if !ok || s.WorkQueue {
		return fault.New(fault.Invalid, "read %s: no stream keeps such messages", filter)
	}
	after := uint64(0)
	for {
		found, changed, closed := b.stored(s, filter, since, after)
		for _, d := range found {
			if ctx.Err() != nil || !follow && d.Sequence > last {
				return nil
			}
			if err := handle(d); err != nil {
				return err
			}
			after = d.Sequence
		}
		if len(found) > 0 {
			continue
		}
		if closed {
			return fault.New(fault.Unavailable, "read %s: the bus is closed", filter)
		}
		if !follow {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// stored gives the next stored messages that match, and what to wait for if there are none.
func (b *Bus) stored(s *stream, filter string, since time.Time, after uint64) ([]bus.Delivery, <-chan struct{}, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.prune(time.Now())
	from, _ := s.find(after + 1)
	var found []bus.Delivery
	for _, it := range s.items[from:] {
		if !bus.Match(filter, it.delivery.Subject) || it.delivery.Time.Before(since) {
			continue
		}
		d := it.delivery
		d.Attempt = 1
		if found = append(found, d); len(found) == 256 {
			break
		}
	}
	return found, s.changed, b.closed
}

// find finds where a message of a sequence stands, or would stand.
func (s *stream) find(sequence uint64) (int, bool) {
	return slices.BinarySearchFunc(s.items, sequence, func(it *item, want uint64) int { return cmp.Compare(it.delivery.Sequence, want) })
}
