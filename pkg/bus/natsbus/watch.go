package natsbus

// The watchdog of a consumption. A pull can die without a word, and a durable consumer can fall silent while messages
// wait; nothing reports an error then, and without a watchdog the queue stands still until somebody restarts something.
//
// At each look it asks the server how the consumer stands. Nothing is right as long as
//
//	messages wait, the consumer may deliver more of them, and handlers are free here; or
//	deliveries are not acked, AckWait has passed since the last one was made, and handlers are free here
//
// and yet nothing is delivered to anyone from one look to the next. At the third such look it acts: at first the pull is
// ended and begun anew. If nothing has arrived until it acts again, the durable consumer is deleted and made anew.
//
// Nothing is lost by either. What was fetched and not begun is given back; what is not acked stays in the work queue and
// the new consumer delivers it, again perhaps, as after a crash. If several replicas find the same consumer silent, only
// those delete it that still see the very one that they found silent.
//
// A consumer that is missing is made at once, and so is its stream if that is missing too. A stream of which only a
// publisher finds that it is missing is made then. The facts are in the store, and whoever sent what was lost with a
// stream sends it again.

import (
	"context"
	"errors"
	"maps"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
)

// silentLooks is at how many looks in a row nothing must be delivered before it counts as silence.
const silentLooks = 3

// What ends a consumption's session when nothing else does.
var (
	errSilent  = errors.New("messages wait and none arrive")
	errOverdue = errors.New("deliveries are not acked and none is made again")
)

// sight is how a consumer stands at one look.
type sight struct {
	at        time.Time
	waiting   uint64 // messages that were never delivered
	unacked   int    // deliveries that were not acked
	delivered uint64 // counts the deliveries
	room      bool   // a handler is free here
}

// silence is how long nothing was delivered though something should have been.
type silence struct {
	delivered uint64
	since     time.Time
	looks     int
}

// see takes one look into account, and tells what is wrong; nil if nothing is, or it is too early to say.
func (s *silence) see(now sight, queue bus.Queue, every time.Duration) error {
	waits := now.waiting > 0 && now.unacked < queue.MaxAckPending
	if !now.room || !waits && now.unacked == 0 {
		*s = silence{}
		return nil
	}
	if s.looks == 0 || now.delivered != s.delivered {
		*s = silence{delivered: now.delivered, since: now.at}
	}
	s.looks++
	switch {
	case s.looks < silentLooks:
		return nil
	case waits:
		return errSilent
	case now.at.Sub(s.since) > queue.AckWait+every:
		return errOverdue
	}
	return nil
}

// watch looks after a durable consumer until ctx ends, and ends the session by stop if it finds it silent or missing.
func (c *consumption) watch(ctx context.Context, consumer jetstream.Consumer, stop context.CancelCauseFunc) {
	var quiet silence
	for pause(ctx, c.options.Watch) == nil {
		info, err := consumer.Info(ctx)
		if missing(err) {
			stop(err)
			return
		}
		if err != nil { // it says nothing of the consumer; the pull's heartbeat tells when the server is away
			quiet = silence{}
			continue
		}
		err = quiet.see(sight{
			at: time.Now(), waiting: info.NumPending, unacked: info.NumAckPending, delivered: info.Delivered.Consumer, room: len(c.slots) < cap(c.slots),
		}, c.queue, c.options.Watch)
		if err != nil && ctx.Err() == nil {
			c.counts.silent.Add(1)
			c.suspect(info.Created)
			stop(err)
			return
		}
	}
}

// missing tells whether an error says that a consumer or its stream is not there.
func missing(err error) bool {
	return errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound)
}

// suspect notes that the consumer made at a time was found silent. The second time in a row it is to be made anew.
func (c *consumption) suspect(created time.Time) {
	if c.suspected.Swap(true) {
		c.condemned.Store(&created)
	}
}

// arrived notes that the consumer delivers.
func (c *consumption) arrived() {
	if c.suspected.Load() {
		c.suspected.Store(false)
	}
}

// ensureConsumer makes sure that the durable consumer is there, and that it is another than the one that was found silent
// even by a new pull.
func (c *consumption) ensureConsumer(ctx context.Context) (jetstream.Consumer, error) {
	consumer, err := c.makeConsumer(ctx)
	if err != nil {
		return nil, err
	}
	condemned := c.condemned.Load()
	if condemned == nil {
		return consumer, nil
	}
	if consumer.CachedInfo().Created.Equal(*condemned) {
		if err := c.js.DeleteConsumer(ctx, c.queue.Stream, c.queue.Name); err != nil && !missing(err) {
			return nil, fault.Wrap(faultOf(err), "delete the silent consumer %s", c.queue.Name)
		}
		if consumer, err = c.makeConsumer(ctx); err != nil {
			return nil, err
		}
		c.counts.remade.Add(1)
		c.options.Logger.WarnContext(ctx, "the consumer stayed silent; it was deleted and made anew", "queue", c.queue.Name)
	}
	c.condemned.Store(nil)
	c.suspected.Store(false)
	return consumer, nil
}

// makeConsumer makes the durable consumer if it is missing, and the stream if that is missing.
func (c *consumption) makeConsumer(ctx context.Context) (jetstream.Consumer, error) {
	consumer, err := c.js.CreateOrUpdateConsumer(ctx, c.queue.Stream, consumerConfig(c.queue))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if err := c.remakeStream(ctx, c.stream); err != nil {
			return nil, err
		}
		consumer, err = c.js.CreateOrUpdateConsumer(ctx, c.queue.Stream, consumerConfig(c.queue))
	}
	if err != nil {
		return nil, fault.Wrap(faultOf(err), "ensure queue %s", c.queue.Name)
	}
	return consumer, nil
}

// remakeStream makes a stream that is missing.
func (b *Bus) remakeStream(ctx context.Context, s bus.Stream) error {
	if _, err := b.js.CreateOrUpdateStream(ctx, streamConfig(s, b.options.Replicas)); err != nil {
		return fault.Wrap(faultOf(err), "make the missing stream %s anew", s.Name)
	}
	b.mu.Lock()
	b.streams[s.Name]++
	b.mu.Unlock()
	b.options.Logger.WarnContext(ctx, "the stream was missing; it was made anew", "stream", s.Name)
	return nil
}

// mendStream makes the stream that stores a subject, if that it is missing is why the subject could not be published to.
func (b *Bus) mendStream(ctx context.Context, subject string, failed error) {
	if !errors.Is(failed, jetstream.ErrNoStreamResponse) {
		return
	}
	s, ok := bus.StreamOf(subject)
	if !ok {
		return
	}
	if _, err := b.js.Stream(ctx, s.Name); !errors.Is(err, jetstream.ErrStreamNotFound) {
		return // it is there, or cannot be asked for, and will answer again
	}
	if err := b.remakeStream(ctx, s); err != nil {
		b.options.Logger.WarnContext(ctx, "mend what could not be published to", "subject", subject, "error", err)
	}
}

// Stats counts what went wrong and was mended by this bus, since it was made.
type Stats struct {
	// Queues has the figures of each queue that was ever consumed, by the queue's name.
	Queues map[string]QueueStats
	// Streams is how often a stream was missing and made anew, by the stream's name; those that never were are left out.
	Streams map[string]uint64
}

// QueueStats counts what went wrong with the consumption of one queue.
type QueueStats struct {
	// Broken is how often consuming broke off for any reason and was begun anew.
	Broken uint64
	// Silent is how often the watchdog was the reason: messages waited, and none arrived.
	Silent uint64
	// Remade is how often the durable consumer was deleted and made anew, since it stayed silent.
	Remade uint64
}

// counts are the figures of one queue as they grow.
type counts struct{ broken, silent, remade atomic.Uint64 }

// countsOf gives the figures of a queue.
func (b *Bus) countsOf(queue string) *counts {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.counts[queue] == nil {
		b.counts[queue] = &counts{}
	}
	return b.counts[queue]
}

// Stats gives all figures as they stand.
func (b *Bus) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := Stats{Queues: make(map[string]QueueStats, len(b.counts)), Streams: maps.Clone(b.streams)}
	for name, c := range b.counts {
		out.Queues[name] = QueueStats{Broken: c.broken.Load(), Silent: c.silent.Load(), Remade: c.remade.Load()}
	}
	return out
}

// metrics describes the figures.
type metrics struct{ broken, silent, remade, streams *prometheus.Desc }

func describe() metrics {
	desc := func(name, help, label string) *prometheus.Desc {
		return prometheus.NewDesc("weft_bus_"+name, help, []string{label}, nil)
	}
	return metrics{
		broken:  desc("consumer_broken_total", "How often consuming a queue broke off and was begun anew.", "queue"),
		silent:  desc("consumer_silent_total", "How often messages waited in a queue and none arrived.", "queue"),
		remade:  desc("consumer_remade_total", "How often a queue's durable consumer was deleted and made anew.", "queue"),
		streams: desc("stream_remade_total", "How often a stream was missing and made anew.", "stream"),
	}
}

var _ prometheus.Collector = (*Bus)(nil)

// Describe implements prometheus.Collector.
func (b *Bus) Describe(to chan<- *prometheus.Desc) {
	m := describe()
	for _, d := range []*prometheus.Desc{m.broken, m.silent, m.remade, m.streams} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (b *Bus) Collect(to chan<- prometheus.Metric) {
	m := describe()
	stats := b.Stats()
	for queue, s := range stats.Queues {
		to <- prometheus.MustNewConstMetric(m.broken, prometheus.CounterValue, float64(s.Broken), queue)
		to <- prometheus.MustNewConstMetric(m.silent, prometheus.CounterValue, float64(s.Silent), queue)
		to <- prometheus.MustNewConstMetric(m.remade, prometheus.CounterValue, float64(s.Remade), queue)
	}
	for stream, n := range stats.Streams {
		to <- prometheus.MustNewConstMetric(m.streams, prometheus.CounterValue, float64(n), stream)
	}
}
