package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/bus/bustest"
	"github.com/weftcloud/weft/pkg/bus/natsbus"
	"github.com/weftcloud/weft/pkg/embed"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/testkit"
)

const patience = 20 * time.Second

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
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan string, 100)
	var running sync.WaitGroup
	running.Go(func() {
		err := b.Consume(ctx, q, 1, func(_ context.Context, d bus.Delivery) bus.Verdict {
			got <- d.ID
			return bus.Ack
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

// A paused consumer is what a silent one looks like: messages wait, none arrive, nothing reports an error.
func TestSilentConsumerIsMadeAnew(t *testing.T) {
	server := testkit.NATS(t)
	b, js := open(t, server, natsbus.Options{Watch: 50 * time.Millisecond}), raw(t, server)
	q := bus.CommandQueue("network", bus.PriorityNormal)
	got := consume(t, b, q)
	publish(t, b, command("1"))
	want(t, got, "1")
	paused, err := js.PauseConsumer(t.Context(), q.Stream, q.Name, time.Now().Add(time.Hour))
	if err != nil || !paused.Paused {
		t.Fatalf("PauseConsumer = %+v, %v", paused, err)
	}
	publish(t, b, command("2"))
	want(t, got, "2")
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
