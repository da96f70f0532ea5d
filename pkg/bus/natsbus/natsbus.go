// Package natsbus is a bus over NATS JetStream.
//
// What it builds on, and works round (each was tried against nats-server 2.15):
//
//   - A delivery that nobody settles comes again after AckWait, MaxDeliver times; then the message stays in the work
//     queue, seen by nobody. So the server is told one delivery more than the queue allows, and that last one is not
//     handed to the handler but buried in the dead letters.
//   - A NAK with a delay occupies MaxAckPending on the server, and each one costs a delivery. So a message that a handler
//     puts off is held here and given to it again, with growing pauses, for nearly AckWait; only then it is NAKed, for
//     another replica to try. Putting off therefore never costs more than one delivery per AckWait.
//   - A late ack is accepted, a lost one means one more delivery: acks are not waited for.
//   - A consumer can fall silent while messages wait. A watchdog notices, pulls anew, and makes it anew (watch.go).
//   - Ids of messages that were acked are forgotten when the server restarts: an id is a courtesy, no guarantee.
package natsbus

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
)

// Options change how a Bus uses NATS. The zero value is right for one server.
type Options struct {
	// Replicas is how many servers keep each stream; 0 means 1.
	Replicas int
	// Logger tells of what went wrong and was mended; nil means nobody.
	Logger *slog.Logger
	// Watch is how often the watchdog of each consumption looks; 0 means 10 s. At the third look at a consumer that is
	// silent it acts, see watch.go.
	Watch time.Duration
}

// The bounds of publishing.
const (
	// inFlight is how many messages one Publish has under way at once.
	inFlight = 512
	// inFlightAll is how many all together may have.
	inFlightAll = 16 << 10
	// ackTimeout is how long a stream may take to store a message.
	ackTimeout = 10 * time.Second
	// tryTimeout is how long the making of one stream or consumer may take before it is asked for again.
	tryTimeout = 2 * time.Second
	// setupTimeout bounds the making of streams and consumers.
	setupTimeout = 30 * time.Second
)

// Bus is a bus over NATS JetStream.
type Bus struct {
	conn    *nats.Conn
	js      jetstream.JetStream
	options Options
	// noRetry keeps the client from sending a message again after the ones behind it.
	noRetry []jetstream.PublishOpt
	// stored are the subjects that streams store.
	stored []string

	mu      sync.Mutex
	counts  map[string]*counts // by queue
	streams map[string]uint64  // how often each was made anew
}

var _ bus.Bus = (*Bus)(nil)

// New makes sure that all streams and queues of the topology are there and as declared, and gives a bus over the
// connection, which it closes with itself. Several may start at once.
func New(ctx context.Context, conn *nats.Conn, options Options) (*Bus, error) {
	if options.Replicas == 0 {
		options.Replicas = 1
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Watch == 0 {
		options.Watch = 10 * time.Second
	}
	js, err := jetstream.New(conn, jetstream.WithPublishAsyncMaxPending(inFlightAll), jetstream.WithPublishAsyncTimeout(ackTimeout))
	if err != nil {
		return nil, fault.Wrap(err, "use JetStream")
	}
	b := &Bus{conn: conn, js: js, options: options, noRetry: []jetstream.PublishOpt{jetstream.WithRetryAttempts(0)}, counts: map[string]*counts{}, streams: map[string]uint64{}}
	for _, s := range bus.Streams() {
		b.stored = append(b.stored, s.Subjects...)
	}
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	if err := b.ensure(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

// ensure makes streams and queues, and deletes those that are no longer used.
func (b *Bus) ensure(ctx context.Context) error {
	for _, name := range bus.Retired() {
		err := b.persist(ctx, func(ctx context.Context) error {
			if err := b.js.DeleteStream(ctx, name); !errors.Is(err, jetstream.ErrStreamNotFound) {
				return err
			}
			return nil
		})
		if err != nil {
			return fault.Wrap(err, "delete the former stream %s", name)
		}
	}
	for _, s := range bus.Streams() {
		err := b.persist(ctx, func(ctx context.Context) error {
			_, err := b.js.CreateOrUpdateStream(ctx, streamConfig(s, b.options.Replicas))
			return err
		})
		if err != nil {
			return fault.Wrap(err, "ensure stream %s", s.Name)
		}
	}
	for _, q := range bus.Queues() {
		err := b.persist(ctx, func(ctx context.Context) error {
			_, err := b.js.CreateOrUpdateConsumer(ctx, q.Stream, consumerConfig(q))
			return err
		})
		if err != nil {
			return fault.Wrap(err, "ensure queue %s", q.Name)
		}
	}
	return nil
}

// persist tries again while JetStream is not ready, or another process changes the same thing. A try does not take long:
// when several processes make the same stream at the same time, a NATS cluster makes it, and answers none of them.
func (b *Bus) persist(ctx context.Context, try func(context.Context) error) error {
	bounded := func() error {
		ctx, cancel := context.WithTimeout(ctx, tryTimeout)
		defer cancel()
		return try(ctx)
	}
	for wait := 20 * time.Millisecond; ; wait = min(wait*2, time.Second) {
		err := faultOf(bounded())
		if !fault.Retryable(err) {
			return err
		}
		b.options.Logger.DebugContext(ctx, "try again", "error", err)
		if pause(ctx, wait) != nil {
			return err
		}
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// streamConfig gives a stream as JetStream takes it.
func streamConfig(s bus.Stream, replicas int) jetstream.StreamConfig {
	cfg := jetstream.StreamConfig{
		Name: s.Name, Subjects: s.Subjects, Replicas: replicas, Storage: jetstream.FileStorage,
		MaxAge: s.MaxAge, Duplicates: s.Duplicates, MaxBytes: s.MaxBytes, Discard: jetstream.DiscardOld,
	}
	if s.WorkQueue {
		cfg.Retention, cfg.Discard = jetstream.WorkQueuePolicy, jetstream.DiscardNew
	}
	return cfg
}

// consumerConfig gives a queue as JetStream takes it.
func consumerConfig(q bus.Queue) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: q.Name, FilterSubject: q.Filter, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: q.AckWait, MaxDeliver: q.MaxDeliver + 1, MaxAckPending: q.MaxAckPending,
	}
}

// Publish implements bus.Publisher. Messages are sent without waiting for one another, and their answers are then
// waited for in order.
func (b *Bus) Publish(ctx context.Context, messages ...bus.Message) error {
	for len(messages) > 0 {
		n := min(len(messages), inFlight)
		if err := b.publish(ctx, messages[:n]); err != nil {
			return err
		}
		messages = messages[n:]
	}
	return nil
}

// publish publishes a few messages.
func (b *Bus) publish(ctx context.Context, messages []bus.Message) error {
	answers := make([]jetstream.PubAckFuture, 0, len(messages))
	var failed error
	for i := range messages {
		answer, err := b.send(ctx, &messages[i])
		if err != nil {
			failed = fault.Wrap(err, "publish %s", messages[i].Subject)
			break
		}
		answers = append(answers, answer)
	}
	for i, answer := range answers {
		select {
		case <-answer.Ok():
		case err := <-answer.Err():
			b.mendStream(ctx, messages[i].Subject, err)
			return fault.Wrap(faultOf(err), "publish %s", messages[i].Subject)
		case <-ctx.Done():
			return fault.Wrap(fault.As(fault.Unavailable, ctx.Err()), "publish %s", messages[i].Subject)
		}
	}
	return failed
}

// send sends one message.
func (b *Bus) send(ctx context.Context, m *bus.Message) (jetstream.PubAckFuture, error) {
	if err := ctx.Err(); err != nil {
		return nil, fault.As(fault.Unavailable, err)
	}
	if !slices.ContainsFunc(b.stored, func(pattern string) bool { return bus.Match(pattern, m.Subject) }) {
		return nil, fault.New(fault.Invalid, "no stream stores the subject")
	}
	msg := &nats.Msg{Subject: m.Subject, Data: m.Data}
	if len(m.Header) > 0 || m.ID != "" {
		msg.Header = make(nats.Header, len(m.Header)+1)
	}
	for k, v := range m.Header {
		msg.Header[k] = []string{v}
	}
	if m.ID != "" {
		msg.Header[nats.MsgIdHdr] = []string{m.ID}
	}
	answer, err := b.js.PublishMsgAsync(msg, b.noRetry...)
	return answer, faultOf(err)
}

// deliveryOf gives a message as it was received.
func deliveryOf(msg jetstream.Msg) (bus.Delivery, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return bus.Delivery{}, fault.Wrap(err, "read where %s comes from", msg.Subject())
	}
	d := bus.Delivery{
		Message:  bus.Message{Subject: msg.Subject(), Data: msg.Data()},
		Sequence: meta.Sequence.Stream, Time: meta.Timestamp, Attempt: int(min(meta.NumDelivered, 1<<30)),
	}
	headers := msg.Headers()
	for k, v := range headers {
		if k == nats.MsgIdHdr || len(v) == 0 {
			continue
		}
		if d.Header == nil {
			d.Header = make(map[string]string, len(headers))
		}
		d.Header[k] = v[0]
	}
	if id := headers[nats.MsgIdHdr]; len(id) > 0 {
		d.ID = id[0]
	}
	return d, nil
}

// Close implements bus.Bus.
func (b *Bus) Close() error {
	defer b.conn.Close()
	err := b.conn.FlushTimeout(5 * time.Second)
	if errors.Is(err, nats.ErrConnectionClosed) {
		return nil
	}
	return fault.Wrap(faultOf(err), "flush the connection to NATS")
}
