package enginebench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/store"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
)

// raw is what the store, the bus and the participants can do by themselves, in the same run.
type raw struct {
	// alone is a fenced transaction by itself; batched is one of many through the groupstore; roundTrip is a command to a
	// queue and its outcome back, one by one and many at once; participant is a command that an inbox keeps and that is
	// answered, without a saga.
	alone, batched, lonely, roundTrip, participant limit
}

// limit is how something does.
type limit struct {
	name   string
	p50    time.Duration
	each   time.Duration // CPU time
	second float64       // how many in a second
}

// measure does something n times, by so many workers, and tells how it went.
func (r *rig) measure(name string, n, workers int, do func(i int) error) limit {
	r.Helper()
	took := make([]time.Duration, n)
	var next atomic.Int64
	var group sync.WaitGroup
	before := r.read()
	for range workers {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				began := time.Now()
				if err := do(i); err != nil {
					r.Errorf("%s: %v", name, err)
					return
				}
				took[i] = time.Since(began)
			}
		})
	}
	group.Wait()
	after := r.read()
	slices.Sort(took)
	return limit{
		name: name, p50: took[n/2], each: (after.cpu - before.cpu) / time.Duration(n),
		second: float64(n) / after.at.Sub(before.at).Seconds(),
	}
}

// raw measures what the parts can do.
func (r *rig) raw(b *testing.B) raw {
	ctx := b.Context()
	const fence = "/weft/bench/fence"
	if _, err := r.etcd.Txn(ctx, nil, []store.Op{{Key: fence}}); err != nil {
		b.Fatal(err)
	}
	held, err := r.etcd.Get(ctx, fence)
	if err != nil {
		b.Fatal(err)
	}
	fenced := func(s store.Store, round string) func(int) error {
		value, message := make([]byte, 1024), make([]byte, 512)
		return func(i int) error {
			key := fmt.Sprintf("/weft/bench/%s/%d", round, i)
			_, err := s.Txn(ctx, []store.Compare{{Key: fence, CreateRevision: held.CreateRevision}, {Key: key + "/state"}},
				[]store.Op{{Key: key + "/state", Value: value}, {Key: key + "/out", Value: message}})
			return err
		}
	}
	trip, stop := r.trips(b)
	out := raw{
		alone:     r.measure("a fenced transaction alone", 400, 1, fenced(r.etcd, "alone")),
		batched:   r.measure("one of 64 at once", 8000, 64, fenced(r.store, "batched")),
		lonely:    r.measure("a command and its outcome", 400, 1, trip),
		roundTrip: r.measure("one of 64 at once", 8000, 64, trip),
	}
	stop()
	out.participant = r.measure("a participant's part of a step, 64 at once", 4000, 64, r.alone(b))
	return out
}

// trips gives a function that sends a command to a queue of a service that is not there, and waits for the outcome.
func (r *rig) trips(b *testing.B) (trip func(int) error, stop func()) {
	var mu sync.Mutex
	waiting := map[string]chan struct{}{}
	since := time.Now()
	stop = r.background(func(ctx context.Context) error {
		return r.bus.Consume(ctx, bus.CommandQueue("storage", bus.PriorityNormal), handlers, func(ctx context.Context, d bus.Delivery) bus.Verdict {
			if err := r.bus.Publish(ctx, bus.Message{Subject: bus.OutcomeSubject(0, d.ID), ID: d.ID, Data: d.Data}); err != nil {
				return bus.Later
			}
			return bus.Ack
		})
	}, func(ctx context.Context) error {
		return r.bus.Read(ctx, bus.OutcomeFilter, since, true, func(d bus.Delivery) error {
			mu.Lock()
			defer mu.Unlock()
			if c := waiting[d.ID]; c != nil {
				delete(waiting, d.ID)
				close(c)
			}
			return nil
		})
	})
	return func(int) error {
		id, c := uuid.NewString(), make(chan struct{})
		mu.Lock()
		waiting[id] = c
		mu.Unlock()
		message := bus.Message{Subject: bus.CommandSubject("storage", bus.PriorityNormal, "bench", "volumes"), ID: id, Data: make([]byte, 400)}
		if err := r.bus.Publish(b.Context(), message); err != nil {
			return err
		}
		select {
		case <-c:
			return nil
		case <-time.After(30 * time.Second):
			return fmt.Errorf("the outcome of %s did not come", id)
		}
	}, stop
}

// alone gives a function that hands a command to an inbox, and waits until the record is answered.
func (r *rig) alone(b *testing.B) func(int) error {
	spec, err := anypb.New(&computev1.ServerSpec{Image: "debian", Flavor: "small", Network: "tenants/bench/networks/net"})
	if err != nil {
		b.Fatal(err)
	}
	s := r.services["compute"]
	return func(i int) error {
		id := record.ID{Name: fmt.Sprintf("tenants/bench/servers/alone-%d", i), Key: uuid.NewString()}
		data, err := proto.Marshal(&busv1.Command{
			Origin: &busv1.Origin{Saga: "tenants/bench/operations/none", Step: "srv", Direction: busv1.Direction_DIRECTION_DO, Attempt: 1},
			Name:   id.Name, Type: "compute.weft.cloud/Server", Key: id.Key, Action: &busv1.Command_Ensure{Ensure: &busv1.Ensure{Cloud: "clouds/lab", Spec: spec}},
		})
		if err != nil {
			return err
		}
		answered := s.await(id)
		if v := s.inbox.Handle(b.Context(), bus.Delivery{Message: bus.Message{Data: data}}); v != bus.Ack {
			return fmt.Errorf("the inbox said %d", v)
		}
		<-answered
		return nil
	}
}
