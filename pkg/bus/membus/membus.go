// Package membus is a bus in memory, for tests and for services that run for a moment. It keeps the whole contract of
// bus.Bus, and it can be told to lie as a real bus may: to lose, double, delay and reorder messages, to refuse them, and
// to store them and lose the answer.
package membus

import (
	"context"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
)

// Fate is what becomes of a message that is published. The zero value is the usual: stored once, at once.
type Fate struct {
	// Err refuses the message: it is not stored and Publish answers with this error.
	Err error
	// ErrAfter stores the message, but Publish answers with this error: the answer is lost.
	ErrAfter error
	// Drop loses the message, though Publish says that it is stored.
	Drop bool
	// Delay stores the message only after that time. What is published meanwhile goes before it.
	Delay time.Duration
	// Copies stores so many more of the message, whatever its id.
	Copies int
	// CopyDelay is the time after which the copies are stored: a message that comes back though it was dealt with.
	CopyDelay time.Duration
}

// Odds are the probabilities, from 0 to 1, of what may become of a message.
type Odds struct {
	Refuse, LoseAnswer, Drop, Double, Delay float64
	// MaxDelay bounds the delay of messages and of doubles.
	MaxDelay time.Duration
}

// Lying decides each message's fate by chance. The same seed and the same messages in order have the same fates.
func Lying(seed uint64, odds Odds) func(bus.Message) Fate {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, seed))
	return func(bus.Message) Fate {
		mu.Lock()
		defer mu.Unlock()
		var f Fate
		if random.Float64() < odds.Refuse {
			f.Err = fault.New(fault.Unavailable, "the bus refused the message, as it was told to")
		}
		if random.Float64() < odds.LoseAnswer {
			f.ErrAfter = fault.New(fault.Unavailable, "the answer was lost, as it was told to")
		}
		f.Drop = random.Float64() < odds.Drop
		if random.Float64() < odds.Double {
			f.Copies, f.CopyDelay = 1, time.Duration(random.Int64N(int64(odds.MaxDelay)+1))
		}
		if random.Float64() < odds.Delay {
			f.Delay = time.Duration(random.Int64N(int64(odds.MaxDelay) + 1))
		}
		return f
	}
}

// LaterDelay is the time after which a message is delivered again that a handler put off, unless the queue's AckWait is
// shorter.
const LaterDelay = 100 * time.Millisecond

// Bus is a bus in memory.
type Bus struct {
	mu      sync.Mutex
	fate    func(bus.Message) Fate
	streams map[string]*stream
	closed  bool
}

// stream is what one stream keeps.
type stream struct {
	bus.Stream
	last    uint64
	bytes   int64
	items   []*item // in order of sequence; those of a work queue that were acked are taken out
	ids     map[string]struct{}
	idTimes []idTime // in order of time
	queues  map[string]*queue
	changed chan struct{} // closed and made anew when a message is stored
}

// idTime is when an id was seen.
type idTime struct {
	id string
	at time.Time
}

// item is a stored message. Its fields are guarded by the bus.
type item struct {
	delivery bus.Delivery
	attempts int
	acked    bool
	ready    bool // stands in its queue's ready
	underway bool // counts as pending: it is being dealt with, or was put off
	timer    *time.Timer
}

// queue is a durable consumer.
type queue struct {
	bus.Queue
	ready   bus.Turns[*item]
	pending int // deliveries that are under way or put off
	wake    chan struct{}
}

var _ bus.Bus = (*Bus)(nil)

// New makes a bus with the streams of the topology, all empty.
func New() *Bus {
	b := &Bus{streams: map[string]*stream{}}
	for _, s := range bus.Streams() {
		b.streams[s.Name] = &stream{Stream: s, ids: map[string]struct{}{}, queues: map[string]*queue{}, changed: make(chan struct{})}
	}
	for _, q := range bus.Queues() {
		b.streams[q.Stream].queues[q.Name] = &queue{Queue: q, wake: make(chan struct{})}
	}
	return b
}

// SetFate sets what becomes of messages that are published from now on; nil means that all goes well.
func (b *Bus) SetFate(fate func(bus.Message) Fate) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fate = fate
}

// Publish implements bus.Publisher.
func (b *Bus) Publish(ctx context.Context, messages ...bus.Message) error {
	for _, m := range messages {
		if err := ctx.Err(); err != nil {
			return fault.Wrap(fault.As(fault.Unavailable, err), "publish %s", m.Subject)
		}
		if err := b.publish(m); err != nil {
			return fault.Wrap(err, "publish %s", m.Subject)
		}
	}
	return nil
}

func (b *Bus) publish(m bus.Message) error {
	b.mu.Lock()
	fate := b.fate
	b.mu.Unlock()
	var f Fate
	if fate != nil {
		f = fate(m)
	}
	if f.Err != nil {
		return f.Err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return fault.New(fault.Unavailable, "the bus is closed")
	}
	s, ok := b.streamOf(m.Subject)
	if !ok {
		return fault.New(fault.Invalid, "no stream stores the subject")
	}
	if s.WorkQueue && s.bytes+int64(len(m.Data)) > s.MaxBytes {
		return fault.New(fault.Throttled, "stream %s is full", s.Name)
	}
	if f.Drop || s.seen(m.ID, time.Now()) {
		return f.ErrAfter
	}
	b.storeAfter(f.Delay, s, m)
	for range f.Copies {
		b.storeAfter(f.Delay+f.CopyDelay, s, m)
	}
	return f.ErrAfter
}

// streamOf gives the stream that stores a subject.
func (b *Bus) streamOf(subject string) (*stream, bool) {
	declared, ok := bus.StreamOf(subject)
	if !ok {
		return nil, false
	}
	return b.streams[declared.Name], true
}

// seen tells whether a message of the id was stored within the duplicate window, and notes the id.
func (s *stream) seen(id string, now time.Time) bool {
	for len(s.idTimes) > 0 && now.Sub(s.idTimes[0].at) >= s.Duplicates {
		delete(s.ids, s.idTimes[0].id)
		s.idTimes = s.idTimes[1:]
	}
	if id == "" {
		return false
	}
	if _, ok := s.ids[id]; ok {
		return true
	}
	s.ids[id] = struct{}{}
	s.idTimes = append(s.idTimes, idTime{id: id, at: now})
	return false
}

// storeAfter stores a message after a delay.
func (b *Bus) storeAfter(delay time.Duration, s *stream, m bus.Message) {
	if delay <= 0 {
		s.store(m)
		return
	}
	time.AfterFunc(delay, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		s.store(m)
	})
}

// store stores a message and hands it to the queues that it matches.
func (s *stream) store(m bus.Message) {
	s.prune(time.Now())
	s.last++
	m.Header = maps.Clone(m.Header)
	it := &item{delivery: bus.Delivery{Message: m, Sequence: s.last, Time: time.Now()}}
	s.items = append(s.items, it)
	s.bytes += int64(len(m.Data))
	for _, q := range s.queues {
		if bus.Match(q.Filter, m.Subject) {
			q.push(it)
		}
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// prune drops what is too old, and the oldest of a stream of events that is full.
func (s *stream) prune(now time.Time) {
	n := 0
	for n < len(s.items) && (now.Sub(s.items[n].delivery.Time) >= s.MaxAge || !s.WorkQueue && s.bytes > s.MaxBytes) {
		s.items[n].acked = true
		s.bytes -= int64(len(s.items[n].delivery.Data))
		n++
	}
	s.items = s.items[n:]
}

// push makes a message ready to be delivered.
func (q *queue) push(it *item) {
	if it.acked || it.ready {
		return
	}
	it.ready = true
	q.ready.Add(it.delivery.Subject, it)
	q.signal()
}

// signal wakes all that wait for the queue.
func (q *queue) signal() {
	close(q.wake)
	q.wake = make(chan struct{})
}

// Pending tells how many messages of a work queue's stream are not acked.
func (b *Bus) Pending(streamName string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.streams[streamName]
	if !ok {
		return 0
	}
	s.prune(time.Now())
	return len(s.items)
}

// Close implements bus.Bus: what is published afterwards is refused, and readers end.
func (b *Bus) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, s := range b.streams {
		close(s.changed)
		s.changed = make(chan struct{})
		for _, q := range s.queues {
			q.signal()
		}
	}
	return nil
}
