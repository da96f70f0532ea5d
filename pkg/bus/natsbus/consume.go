package natsbus

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/crash"
	"github.com/weftcloud/weft/pkg/fault"
)

// The pauses of a consumption.
const (
	// firstHold and longestHold are the pauses between two tries of a message that its handler puts off.
	firstHold   = 100 * time.Millisecond
	longestHold = 5 * time.Second
	// pullExpiry is how long one request for messages lasts; pullHeartbeat how often the server says that it lives.
	pullExpiry    = 30 * time.Second
	pullHeartbeat = 5 * time.Second
	// longestBackoff is the longest pause before a consumer that broke is used again.
	longestBackoff = 5 * time.Second
	// leastBatch is how many messages are asked for at once, at least.
	leastBatch = 64
	// window is how many messages wait here for a handler, so that tenants can take turns at them. What the server has
	// beyond that comes in its own order.
	window = 1024
)

// consumption is one running Consume.
type consumption struct {
	*Bus
	queue   bus.Queue
	stream  bus.Stream
	handle  bus.Handler
	slots   chan struct{} // one for each handler that runs
	batch   int
	line    *line
	running sync.WaitGroup
	counts  *counts
	// suspected says that the watchdog ended the session and nothing has arrived since; condemned is when the consumer
	// was made that was found silent though it was suspected: it is made anew.
	suspected atomic.Bool
	condemned atomic.Pointer[time.Time]
}

// Consume implements bus.Bus.
func (b *Bus) Consume(ctx context.Context, queue bus.Queue, concurrency int, handle bus.Handler) error {
	stream, ok := bus.StreamOf(queue.Filter)
	if !ok || !stream.WorkQueue || stream.Name != queue.Stream {
		return fault.New(fault.Invalid, "consume %s: %s is no work queue that stores %s", queue.Name, queue.Stream, queue.Filter)
	}
	concurrency = max(concurrency, 1)
	c := &consumption{
		Bus: b, queue: queue, stream: stream, handle: handle, slots: make(chan struct{}, concurrency), batch: max(2*concurrency, leastBatch), counts: b.countsOf(queue.Name),
		line: &line{room: make(chan struct{}, window), more: make(chan struct{}, 1)},
	}
	defer c.running.Wait()
	var helpers sync.WaitGroup
	defer func() {
		helpers.Wait()
		c.giveUp(ctx)
	}()
	helpers.Go(func() { c.handOut(ctx) })
	helpers.Go(func() { c.keep(ctx) })
	for wait := firstHold; ; wait = min(wait*2, longestBackoff) {
		begun := time.Now()
		err := c.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if b.conn.IsClosed() {
			return fault.New(fault.Unavailable, "consume %s: the connection is closed", queue.Name)
		}
		c.counts.broken.Add(1)
		b.options.Logger.WarnContext(ctx, "consuming broke off; it is begun anew", "queue", queue.Name, "error", err)
		if time.Since(begun) > time.Minute {
			wait = firstHold
		}
		if pause(ctx, wait) != nil {
			return nil
		}
	}
}

// session makes sure that the durable consumer is there and deals with what it gives, until it breaks or ctx ends.
func (c *consumption) session(ctx context.Context) error {
	consumer, err := c.ensureConsumer(ctx)
	if err != nil {
		return err
	}
	iter, err := consumer.Messages(
		jetstream.PullMaxMessages(c.batch), jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(pullHeartbeat),
		jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return fault.Wrap(faultOf(err), "pull from queue %s", c.queue.Name)
	}
	defer c.giveBack(ctx, iter)
	watching, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	c.running.Go(func() { c.watch(watching, consumer, stop) })
	for {
		select {
		case c.line.room <- struct{}{}:
		case <-watching.Done():
			return context.Cause(watching)
		}
		msg, err := iter.Next(jetstream.NextContext(watching))
		if err != nil {
			<-c.line.room
		}
		if cause := context.Cause(watching); err != nil && cause != nil {
			return cause
		}
		if err != nil {
			return fault.Wrap(faultOf(err), "pull from queue %s", c.queue.Name)
		}
		c.arrived()
		c.line.add(msg)
	}
}

// line is what has arrived and waits for a handler. It outlives the sessions: what one has fetched is not given back when it
// breaks off, since that would cost each message a delivery.
type line struct {
	mu    sync.Mutex
	turns bus.Turns[*arrival]
	room  chan struct{} // one for each that waits or is about to
	more  chan struct{} // has a token when some may have come
}

// arrival is a message that waits for a handler.
type arrival struct {
	jetstream.Msg
	// heard is when the server was last told that somebody has it: its delivery, at first.
	heard time.Time
}

// held tells the server that somebody has a message, unless it heard so of late.
func (a *arrival) held(than time.Duration) error {
	if time.Since(a.heard) < than {
		return nil
	}
	a.heard = time.Now()
	return a.InProgress()
}

func (l *line) add(msg jetstream.Msg) {
	l.mu.Lock()
	l.turns.Add(msg.Subject(), &arrival{msg, time.Now()})
	l.mu.Unlock()
	select {
	case l.more <- struct{}{}:
	default:
	}
}

func (l *line) empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.turns.Len() == 0
}

func (l *line) next() (*arrival, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.turns.Next()
}

// handOut gives what waits to handlers, until ctx ends. Nobody else takes anything out of the line until then.
func (c *consumption) handOut(ctx context.Context) {
	for {
		if c.line.empty() {
			select {
			case <-c.line.more:
				continue
			case <-ctx.Done():
				return
			}
		}
		// The slot is taken last: a message that is held must find one while nothing new comes.
		select {
		case c.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		a, ok := c.line.next()
		if !ok {
			<-c.slots
			continue
		}
		<-c.line.room
		c.settled(ctx, a.held(c.queue.AckWait/6)) // so that the handler has nearly all of AckWait
		c.running.Go(func() { c.deliver(ctx, a.Msg, a.heard) })
	}
}

// keep tells the server of what waits here that somebody has it, so that it is not delivered again meanwhile.
func (c *consumption) keep(ctx context.Context) {
	every := c.queue.AckWait / 3
	for pause(ctx, every) == nil {
		c.line.mu.Lock()
		c.line.turns.Each(func(a *arrival) { c.settled(ctx, a.held(every/2)) })
		c.line.mu.Unlock()
	}
}

// giveUp lets others have at once what waits here for a handler.
func (c *consumption) giveUp(ctx context.Context) {
	for a, ok := c.line.next(); ok; a, ok = c.line.next() {
		c.settled(ctx, a.Nak())
	}
}

// giveBack ends a pull, and lets others have at once what came here and was not begun.
func (c *consumption) giveBack(ctx context.Context, iter jetstream.MessagesContext) {
	iter.Drain()
	for {
		msg, err := iter.Next(jetstream.NextMaxWait(time.Second))
		if err != nil {
			iter.Stop()
			return
		}
		c.settled(ctx, msg.Nak())
	}
}

// settled logs that a verdict could not be sent. The message then comes again.
func (c *consumption) settled(ctx context.Context, err error) {
	if err != nil {
		c.options.Logger.WarnContext(ctx, "settle a delivery", "queue", c.queue.Name, "error", err)
	}
}

// deliver hands a message to the handler, until it does not put it off any more, and settles it. It has a slot. AckWait
// counts from received on.
func (c *consumption) deliver(ctx context.Context, msg jetstream.Msg, received time.Time) {
	d, err := deliveryOf(msg)
	if err != nil || d.Attempt > c.queue.MaxDeliver {
		<-c.slots
		d.Attempt = min(d.Attempt, c.queue.MaxDeliver)
		c.bury(ctx, msg, d, bus.DeadExhausted)
		return
	}
	for hold := firstHold; ; hold = min(hold*2, longestHold) {
		verdict := c.handle(ctx, d)
		<-c.slots
		switch verdict {
		case bus.Ack:
			c.settled(ctx, msg.Ack())
			crash.Point(crash.BusAckAfter)
			return
		case bus.Reject:
			c.bury(ctx, msg, d, bus.DeadRejected)
			return
		}
		if !c.hold(ctx, received, hold) {
			break
		}
	}
	if ctx.Err() == nil && d.Attempt >= c.queue.MaxDeliver {
		c.bury(ctx, msg, d, bus.DeadExhausted)
		return
	}
	c.settled(ctx, msg.Nak())
}

// hold waits before a message is tried again, and takes a slot. It says no once ctx has ended, or AckWait nearly has:
// then the server would give the message to another while it is dealt with here.
func (c *consumption) hold(ctx context.Context, received time.Time, wait time.Duration) bool {
	left := c.queue.AckWait*9/10 - time.Since(received) - wait
	if left <= 0 || pause(ctx, wait) != nil {
		return false
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case c.slots <- struct{}{}:
		return true
	case <-timer.C:
		return false
	case <-ctx.Done():
		return false
	}
}

// bury moves a message to the dead letters. If that cannot be done now, it comes again.
func (c *consumption) bury(ctx context.Context, msg jetstream.Msg, d bus.Delivery, reason string) {
	c.options.Logger.WarnContext(ctx, "move a message to the dead letters", "queue", c.queue.Name, "subject", d.Subject, "id", d.ID, "reason", reason, "attempts", d.Attempt)
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(c.queue.AckWait, ackTimeout))
	defer cancel()
	if err := c.Publish(bounded, bus.DeadLetter(c.queue, d, reason)); err != nil {
		c.options.Logger.ErrorContext(ctx, "keep a dead letter", "queue", c.queue.Name, "subject", d.Subject, "id", d.ID, "error", err)
		return
	}
	c.settled(ctx, msg.Ack())
}
