package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/bus/bustest"
	"github.com/weftcloud/weft/pkg/bus/natsbus"
	"github.com/weftcloud/weft/pkg/embed"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/testkit"
)

const patience = 20 * time.Second

// watch is how often the watchdog looks in these tests.
const watch = 50 * time.Millisecond

// open gives a bus at a server.
func open(t testing.TB, server *embed.NATSServer, options natsbus.Options) *natsbus.Bus {
	t.Helper()
	b, err := natsbus.New(t.Context(), testkit.NATSConn(t, server), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

// raw gives JetStream beneath the bus.
func raw(t testing.TB, server *embed.NATSServer) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(testkit.NATSConn(t, server))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestConformance(t *testing.T) {
	bustest.Run(t, func(t *testing.T) bus.Bus { return open(t, testkit.NATS(t), natsbus.Options{}) })
}

func command(id string) bus.Message {
	return bus.Message{Subject: bus.CommandSubject("network", bus.PriorityNormal, "acme", "subnets"), ID: id, Data: []byte(id)}
}

// consume acks all that comes and gives its ids.
func consume(t *testing.T, b bus.Bus, q bus.Queue) <-chan string {
	t.Helper()
	return handle(t, b, q, 1, func(bus.Delivery) bus.Verdict { return bus.Ack })
}

// handle deals with what comes, and gives the ids before it does.
func handle(t *testing.T, b bus.Bus, q bus.Queue, concurrency int, verdict func(bus.Delivery) bus.Verdict) <-chan string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan string, 100)
	var running sync.WaitGroup
	running.Go(func() {
		err := b.Consume(ctx, q, concurrency, func(_ context.Context, d bus.Delivery) bus.Verdict {
			got <- d.ID
			return verdict(d)
		})
		if err != nil {
			t.Errorf("Consume: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return got
}

func want(t *testing.T, got <-chan string, id string) {
	t.Helper()
	select {
	case g := <-got:
		if g != id {
			t.Fatalf("message %q came, want %q", g, id)
		}
	case <-time.After(patience):
		t.Fatalf("message %q did not come", id)
	}
}

func publish(t *testing.T, b bus.Bus, messages ...bus.Message) {
	t.Helper()
	if err := b.Publish(t.Context(), messages...); err != nil {
		t.Fatalf("Publish: %v", err)
	}
}

func TestManyStartAtOnce(t *testing.T) {
	server := testkit.NATS(t)
	var group sync.WaitGroup
	for range 8 {
		conn := testkit.NATSConn(t, server)
		group.Go(func() {
			if _, err := natsbus.New(t.Context(), conn, natsbus.Options{}); err != nil {
				t.Errorf("New: %v", err)
			}
		})
	}
	group.Wait()
}

func TestDeletedConsumerIsMadeAnew(t *testing.T) {
	server := testkit.NATS(t)
	b, js := open(t, server, natsbus.Options{}), raw(t, server)
	q := bus.CommandQueue("network", bus.PriorityNormal)
	got := consume(t, b, q)
	publish(t, b, command("1"))
	want(t, got, "1")
	testkit.Await(t, patience, func() error { // the ack is not waited for: a consumer deleted before it came would deliver again
		stream, err := js.Stream(t.Context(), q.Stream)
		if err == nil && stream.CachedInfo().State.Msgs > 0 {
			err = errors.New("the message is not acked")
		}
		return err
	})
	if err := js.DeleteConsumer(t.Context(), q.Stream, q.Name); err != nil {
		t.Fatal(err)
	}
	publish(t, b, command("2"))
	want(t, got, "2")
}

// mute is a JetStream whose consumer is paused when it is first ensured. That is what a silent one looks like: messages
// wait, none arrive, nothing reports an error.
type mute struct {
	jetstream.JetStream
	mended  bool // the next time it is ensured it is resumed, as if the pull alone had been dead
	ensured atomic.Int64
}

func (m *mute) CreateOrUpdateConsumer(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	consumer, err := m.JetStream.CreateOrUpdateConsumer(ctx, stream, cfg)
	switch n := m.ensured.Add(1); {
	case err == nil && n == 1:
		_, err = m.PauseConsumer(ctx, stream, cfg.Durable, time.Now().Add(time.Hour))
	case err == nil && n == 2 && m.mended:
		_, err = m.ResumeConsumer(ctx, stream, cfg.Durable)
	}
	return consumer, err
}

func TestSilentConsumerIsMadeAnew(t *testing.T) {
	waits := func(t *testing.T, b bus.Bus, _ jetstream.JetStream, _ bus.Queue) { publish(t, b, command("1")) }
	tests := map[string]struct {
		before func(t *testing.T, b bus.Bus, js jetstream.JetStream, q bus.Queue)
		mended bool
		want   natsbus.QueueStats
	}{
		"a new pull is enough": {waits, true, natsbus.QueueStats{Silent: 1, Broken: 1}},
		"messages wait":        {waits, false, natsbus.QueueStats{Silent: 2, Broken: 2, Remade: 1}},
		"deliveries are not acked": {func(t *testing.T, b bus.Bus, js jetstream.JetStream, q bus.Queue) {
			publish(t, b, command("1"))
			consumer, err := js.Consumer(t.Context(), q.Stream, q.Name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := consumer.Next(); err != nil { // somebody else takes it and is never heard of again
				t.Fatal(err)
			}
		}, false, natsbus.QueueStats{Silent: 2, Broken: 2, Remade: 1}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			server := testkit.NATS(t)
			b, js := open(t, server, natsbus.Options{Watch: watch}), raw(t, server)
			q := bus.CommandQueue("network", bus.PriorityNormal)
			test.before(t, b, js, q)
			q.AckWait = 2 * watch
			natsbus.Wrap(b, func(js jetstream.JetStream) jetstream.JetStream { return &mute{JetStream: js, mended: test.mended} })
			want(t, consume(t, b, q), "1")
			if got := b.Stats().Queues[q.Name]; got != test.want {
				t.Errorf("Stats = %+v, want %+v", got, test.want)
			}
		})
	}
}

// That a handler still runs keeps nobody from seeing the silence while another could run.
func TestSilentConsumerIsSeenWhileAHandlerRuns(t *testing.T) {
	server := testkit.NATS(t)
	b, js := open(t, server, natsbus.Options{Watch: watch}), raw(t, server)
	q := bus.CommandQueue("network", bus.PriorityNormal)
	begun, release, other := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var once sync.Once
	handle(t, b, q, 2, func(d bus.Delivery) bus.Verdict {
		if d.ID == "other" {
			close(other)
			return bus.Ack
		}
		first := false
		once.Do(func() { first = true })
		if first { // the consumer that is made anew delivers it again, since it is not acked
			close(begun)
			<-release
		}
		return bus.Ack
	})
	defer close(release)
	publish(t, b, command("long"))
	<-begun
	if _, err := js.PauseConsumer(t.Context(), q.Stream, q.Name, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	publish(t, b, command("other"))
	select {
	case <-other:
	case <-time.After(patience):
		t.Fatal("the other message did not come")
	}
}

// Whatever is done to the consumer or its stream behind the bus's back while it consumes, what is published afterwards
// arrives, and what was not acked and is still stored arrives too.
func TestConsumingGoesOn(t *testing.T) {
	tests := map[string]struct {
		harm   func(ctx context.Context, js jetstream.JetStream, q bus.Queue) error
		lost   bool // what the stream held is gone
		remade bool // the bus makes the stream
	}{
		"the consumer is deleted": {harm: func(ctx context.Context, js jetstream.JetStream, q bus.Queue) error {
			return js.DeleteConsumer(ctx, q.Stream, q.Name)
		}},
		"the stream is purged": {lost: true, harm: func(ctx context.Context, js jetstream.JetStream, q bus.Queue) error {
			stream, err := js.Stream(ctx, q.Stream)
			if err != nil {
				return err
			}
			return stream.Purge(ctx)
		}},
		"the stream is deleted": {lost: true, remade: true, harm: func(ctx context.Context, js jetstream.JetStream, q bus.Queue) error {
			return js.DeleteStream(ctx, q.Stream)
		}},
		"the stream is deleted and made anew": {lost: true, harm: func(ctx context.Context, js jetstream.JetStream, q bus.Queue) error {
			stream, err := js.Stream(ctx, q.Stream)
			if err != nil {
				return err
			}
			if err := js.DeleteStream(ctx, q.Stream); err != nil {
				return err
			}
			_, err = js.CreateStream(ctx, stream.CachedInfo().Config)
			return err
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			server := testkit.NATS(t)
			b, js := open(t, server, natsbus.Options{Watch: watch}), raw(t, server)
			q := bus.CommandQueue("network", bus.PriorityNormal)
			begun, release := make(chan struct{}), make(chan struct{})
			var once sync.Once
			got := handle(t, b, q, 1, func(bus.Delivery) bus.Verdict {
				once.Do(func() { close(begun) })
				<-release
				return bus.Ack
			})
			publish(t, b, command("1"), command("2"), command("3"), command("4"), command("5"))
			<-begun
			if err := test.harm(t.Context(), js, q); err != nil {
				t.Fatal(err)
			}
			testkit.Await(t, patience, func() error { return b.Publish(t.Context(), command("6")) })
			close(release)
			missing := map[string]bool{"6": true}
			if !test.lost {
				missing = map[string]bool{"1": true, "2": true, "3": true, "4": true, "5": true, "6": true}
			}
			for deadline := time.After(patience); len(missing) > 0; {
				select {
				case id := <-got:
					delete(missing, id)
				case <-deadline:
					t.Fatalf("%v did not come", missing)
				}
			}
			if s := b.Stats(); test.remade && s.Streams[q.Stream] == 0 || s.Queues[q.Name].Remade != 0 {
				t.Errorf("Stats = %+v, want the stream made anew (%t), and no consumer for being silent", s, test.remade)
			}
		})
	}
}

// Replicas that find the same consumer silent make it anew, and all go on.
func TestReplicasMakeASilentConsumerAnew(t *testing.T) {
	server := testkit.NATS(t)
	js, q := raw(t, server), bus.CommandQueue("network", bus.PriorityNormal)
	var replicas []*natsbus.Bus
	came := make(chan bus.Delivery, 100)
	for range 3 {
		b := open(t, server, natsbus.Options{Watch: watch})
		replicas = append(replicas, b)
		handle(t, b, q, 1, func(d bus.Delivery) bus.Verdict {
			came <- d
			return bus.Ack
		})
	}
	publish(t, replicas[0], command("1"))
	<-came
	if _, err := js.PauseConsumer(t.Context(), q.Stream, q.Name, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"2", "3"} {
		publish(t, replicas[0], command(id))
		for deadline, found := time.After(patience), false; !found; {
			select {
			case d := <-came: // one before it may come again, as after a crash
				found = d.ID == id
			case <-deadline:
				t.Fatalf("message %s did not come", id)
			}
		}
	}
	remade := uint64(0)
	for _, b := range replicas {
		remade += b.Stats().Queues[q.Name].Remade
	}
	if remade == 0 || remade > 3 {
		t.Errorf("the consumer was made anew %d times, want once for each replica at most", remade)
	}
}

func TestMetricsTellOfEachQueue(t *testing.T) {
	server := testkit.NATS(t)
	b, js := open(t, server, natsbus.Options{}), raw(t, server)
	q := bus.CommandQueue("network", bus.PriorityNormal)
	got := consume(t, b, q)
	publish(t, b, command("1"))
	want(t, got, "1")
	if err := js.DeleteConsumer(t.Context(), q.Stream, q.Name); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), "EVT"); err != nil {
		t.Fatal(err)
	}
	testkit.Await(t, patience, func() error { // nobody consumes it: who publishes to it finds that it is missing
		return b.Publish(t.Context(), bus.Message{Subject: bus.EventSubject("acme", "network", "subnets", "ready"), ID: "1"})
	})
	testkit.Await(t, patience, func() error {
		if b.Stats().Queues[q.Name].Broken == 0 {
			return errors.New("that the consumer was deleted is not counted")
		}
		return nil
	})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(b)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	figures := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			figures[f.GetName()+" "+m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	wanted := map[string]float64{
		"weft_bus_consumer_broken_total " + q.Name: 1, "weft_bus_consumer_silent_total " + q.Name: 0,
		"weft_bus_consumer_remade_total " + q.Name: 0, "weft_bus_stream_remade_total EVT": 1,
	}
	if diff := cmp.Diff(wanted, figures); diff != "" {
		t.Errorf("figures (-want +got):\n%s", diff)
	}
}

func TestRestartOfTheServer(t *testing.T) {
	cfg := embed.NATSConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Token: "t"}
	first, err := embed.NATS(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listen = first.Addr().String()
	conn, err := nats.Connect("nats://"+cfg.Listen, nats.Token("t"), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	b, err := natsbus.New(t.Context(), conn, natsbus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	got := consume(t, b, bus.CommandQueue("network", bus.PriorityNormal))
	publish(t, b, command("1"))
	want(t, got, "1")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	if err := b.Publish(ctx, command("2")); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Publish with no server = %v, want Unavailable", err)
	}
	cancel()
	second, err := embed.NATS(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := second.Close(); err != nil {
			t.Error(err)
		}
	})
	testkit.Await(t, patience, func() error { return b.Publish(t.Context(), command("2")) })
	want(t, got, "2")
}

func TestStoppedConsumerGivesBackWhatItFetched(t *testing.T) {
	server := testkit.NATS(t)
	b := open(t, server, natsbus.Options{})
	q := bus.CommandQueue("network", bus.PriorityNormal)
	ctx, cancel := context.WithCancel(t.Context())
	begun, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- b.Consume(ctx, q, 1, func(ctx context.Context, _ bus.Delivery) bus.Verdict {
			close(begun)
			<-ctx.Done()
			return bus.Later
		})
	}()
	publish(t, b, command("1"), command("2"), command("3"))
	<-begun
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// AckWait is 30 s: what was not given back would come too late.
	got, seen := consume(t, b, q), map[string]bool{}
	for range 3 {
		select {
		case id := <-got:
			seen[id] = true
		case <-time.After(patience):
			t.Fatalf("only %v came", seen)
		}
	}
	if len(seen) != 3 {
		t.Errorf("came: %v", seen)
	}
}

func TestTooLargeIsInvalid(t *testing.T) {
	b := open(t, testkit.NATS(t), natsbus.Options{})
	m := command("1")
	m.Data = make([]byte, 2<<20)
	if err := b.Publish(t.Context(), m); !fault.Is(err, fault.Invalid) {
		t.Errorf("Publish of 2 MiB = %v, want Invalid", err)
	}
}

func TestFullQueueThrottles(t *testing.T) {
	server := testkit.NATS(t)
	b, js := open(t, server, natsbus.Options{}), raw(t, server)
	stream, err := js.Stream(t.Context(), "CMD_network")
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.MaxBytes = 4096
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		m := command(fmt.Sprint(i))
		m.Data = make([]byte, 1024)
		if err = b.Publish(t.Context(), m); err != nil {
			break
		}
	}
	if !fault.Is(err, fault.Throttled) {
		t.Errorf("Publish into a full queue = %v, want Throttled", err)
	}
}

func TestReadLeavesNothingBehind(t *testing.T) {
	server := testkit.NATS(t)
	b, js := open(t, server, natsbus.Options{}), raw(t, server)
	publish(t, b, bus.Message{Subject: bus.EventSubject("acme", "network", "subnets", "ready"), ID: "1"})
	n := 0
	if err := b.Read(t.Context(), bus.EventFilter(""), time.Time{}, false, func(bus.Delivery) error { n++; return nil }); err != nil || n != 1 {
		t.Fatalf("Read = %v after %d", err, n)
	}
	stream, err := js.Stream(t.Context(), "EVT")
	if err != nil {
		t.Fatal(err)
	}
	testkit.Await(t, patience, func() error {
		info, err := stream.Info(t.Context())
		if err == nil && info.State.Consumers > 0 {
			err = fmt.Errorf("%d readers are left", info.State.Consumers)
		}
		return err
	})
}

func TestFaultKinds(t *testing.T) {
	tests := map[string]struct {
		err  error
		want fault.Kind
	}{
		"too large":      {nats.ErrMaxPayload, fault.Invalid},
		"denied":         {fmt.Errorf("x: %w", nats.ErrPermissionViolation), fault.Denied},
		"no answer":      {nats.ErrTimeout, fault.Unavailable},
		"no stream":      {jetstream.ErrNoStreamResponse, fault.Unavailable},
		"closed":         {nats.ErrConnectionClosed, fault.Unavailable},
		"full":           {&jetstream.APIError{Code: 503, ErrorCode: 10077}, fault.Throttled},
		"disk":           {&jetstream.APIError{Code: 500, ErrorCode: 10047}, fault.Quota},
		"not found":      {&jetstream.APIError{Code: 404, ErrorCode: 10014}, fault.NotFound},
		"bad":            {&jetstream.APIError{Code: 400, ErrorCode: 10003}, fault.Invalid},
		"server":         {&jetstream.APIError{Code: 503, ErrorCode: 10009}, fault.Unavailable},
		"context":        {context.Canceled, fault.Unavailable},
		"something else": {errors.New("odd"), fault.Unavailable},
	}
	for name, test := range tests {
		if got := fault.KindOf(natsbus.FaultOf(test.err)); got != test.want {
			t.Errorf("%s: kind %s, want %s", name, got, test.want)
		}
	}
}

// BenchmarkRoundTrip is a command to a participant and its outcome back, many at once.
func BenchmarkRoundTrip(b *testing.B) {
	server := testkit.NATS(b)
	orchestrator, participant := open(b, server, natsbus.Options{}), open(b, server, natsbus.Options{})
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	running.Go(func() {
		err := participant.Consume(ctx, bus.CommandQueue("network", bus.PriorityNormal), 64, func(ctx context.Context, d bus.Delivery) bus.Verdict {
			outcome := bus.Message{Subject: bus.OutcomeSubject(1, "op"), ID: "out." + d.ID, Data: d.Data}
			if err := participant.Publish(ctx, outcome); err != nil {
				return bus.Later
			}
			return bus.Ack
		})
		if err != nil {
			b.Error(err)
		}
	})
	var arrived atomic.Int64
	all := make(chan struct{})
	running.Go(func() {
		err := orchestrator.Read(ctx, bus.OutcomeFilter, time.Now(), true, func(bus.Delivery) error {
			if arrived.Add(1) == int64(b.N) {
				close(all)
			}
			return nil
		})
		if err != nil {
			b.Error(err)
		}
	})
	data := make([]byte, 1024)
	b.ReportAllocs()
	b.ResetTimer()
	batch := make([]bus.Message, 0, 64)
	for i := range b.N {
		m := command(fmt.Sprintf("bench-%d-%d", b.N, i))
		m.Data = data
		if batch = append(batch, m); len(batch) < cap(batch) && i < b.N-1 {
			continue
		}
		if err := orchestrator.Publish(ctx, batch...); err != nil {
			b.Fatal(err)
		}
		batch = batch[:0]
	}
	select {
	case <-all:
	case <-time.After(time.Minute):
		b.Errorf("%d outcomes of %d came", arrived.Load(), b.N)
	}
	b.StopTimer()
	cancel()
	running.Wait()
}

// TestFollowingFindsThatTheStreamIsNew: a stream that is lost and made anew counts from 1 again. Who follows it is told,
// instead of waiting for the number that comes next.
func TestFollowingFindsThatTheStreamIsNew(t *testing.T) {
	t.Parallel()
	server := testkit.NATS(t)
	b, js := open(t, server, natsbus.Options{}), raw(t, server)
	event := func(id string) bus.Message {
		return bus.Message{Subject: bus.EventSubject("acme", "network", "networks", "ready"), ID: id, Data: []byte(id)}
	}
	publish(t, b, event("1"), event("2"), event("3"))
	seen, ended := make(chan string, 10), make(chan error, 1)
	go func() {
		ended <- b.Read(t.Context(), "weft.evt.>", time.Time{}, true, func(d bus.Delivery) error {
			seen <- d.ID
			return nil
		})
	}()
	for range 3 {
		select {
		case <-seen:
		case <-time.After(patience):
			t.Fatal("what was published did not come")
		}
	}
	stream, err := js.Stream(t.Context(), "EVT")
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), "EVT"); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), stream.CachedInfo().Config); err != nil {
		t.Fatal(err)
	}
	publish(t, b, event("4"))
	select {
	case err := <-ended:
		if !fault.Retryable(err) {
			t.Errorf("the reader ended with %v, want an error upon which it is read again", err)
		}
	case <-seen: // it found the new stream by itself
	case <-time.After(2 * patience):
		t.Fatal("the reader waits for what cannot come")
	}
}
