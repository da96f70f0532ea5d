package enginebench

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/outbox"
	"github.com/weftcloud/weft/pkg/participant"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

// refuse is the metadata of a server that cannot be made.
const refuse = "refuse"

// handlers is how many commands of a queue are dealt with at once, as package service has it.
const handlers = 32

// service is a participant whose cloud does everything at once.
type service struct {
	name      string
	rig       *rig
	box       *outbox.Box
	book      *record.Book
	inbox     *participant.Inbox
	answering sync.WaitGroup

	mu     sync.Mutex
	writes map[record.ID]int // of records that are being answered, since that began
	told   map[record.ID]chan struct{}
}

func newService(r *rig, logger *slog.Logger, name string, kinds ...proto.Message) *service {
	own, err := resource.NewRegistry(kinds...)
	if err != nil {
		r.Fatal(err)
	}
	s := &service{name: name, rig: r, writes: map[record.ID]int{}, told: map[record.ID]chan struct{}{}}
	s.box = outbox.New(r.store, r.bus, record.Prefix(name)+"o/", logger)
	s.book = record.New(record.Config{Service: name, Store: r.store, Outbox: s.box, Kinds: r.kinds, Now: time.Now, Changed: func(c record.Change) { s.changed(c.ID) }})
	s.inbox = participant.NewInbox(s.book, own, time.Now)
	return s
}

// tasks are what a service does with its queues, see package service.
func (s *service) tasks() []task {
	out := []task{s.box.Run}
	for _, p := range bus.Priorities {
		out = append(out, func(ctx context.Context) error {
			return s.rig.bus.Consume(ctx, bus.CommandQueue(s.name, p), handlers, s.handle)
		})
	}
	return out
}

// handle takes a command: into the inbox, or, if the participants are to do nothing but keep what they are told, with its
// outcome in the transaction that keeps it.
func (s *service) handle(ctx context.Context, d bus.Delivery) bus.Verdict {
	if !s.rig.atOnce.Load() {
		return s.inbox.Handle(ctx, d)
	}
	err := s.keep(ctx, d)
	if record.IsConflict(err) || fault.Is(err, fault.NotFound) {
		return s.inbox.Handle(ctx, d) // it is not the first of its kind: it was sent again
	}
	if err != nil {
		s.rig.Errorf("keep command %s: %v", d.ID, err)
		return bus.Reject
	}
	return bus.Ack
}

// keep keeps a command as a record that stands already, or takes a record away.
func (s *service) keep(ctx context.Context, d bus.Delivery) error {
	cmd := &busv1.Command{}
	if err := proto.Unmarshal(d.Data, cmd); err != nil {
		return err
	}
	id := record.ID{Name: cmd.GetName(), Key: cmd.GetKey()}
	if cmd.GetRelease() != nil {
		e, err := s.book.Get(ctx, id)
		if err != nil {
			return err
		}
		e.Record.Origin, e.Record.Release = cmd.GetOrigin(), true
		return s.end(ctx, e)
	}
	kind, ok := s.rig.kinds.ByType(cmd.GetType())
	if !ok {
		return fault.New(fault.Internal, "there is no kind %s", cmd.GetType())
	}
	spec := kind.NewSpec()
	if err := cmd.GetEnsure().GetSpec().UnmarshalTo(spec); err != nil {
		return err
	}
	object := resource.Wrap(kind.New())
	object.SetName(id.Name)
	object.SetCloud(cmd.GetEnsure().GetCloud())
	object.SetSpec(spec)
	object.Metadata().Key, object.Metadata().Stack = id.Key, cmd.GetEnsure().GetStack()
	e := participant.NewEntry(s.book, kind, object, time.Now())
	e.Record.Origin, e.Record.References = cmd.GetOrigin(), cmd.GetEnsure().GetReferences()
	s.settle(e)
	return s.book.AddFirst(ctx, e, participant.NoticeOf(e))
}

// changed has a record answered that was written, unless the answer itself wrote it.
func (s *service) changed(id record.ID) {
	if s.rig.atOnce.Load() {
		return // it was answered as it was kept
	}
	s.mu.Lock()
	s.writes[id]++
	first := s.writes[id] == 1
	s.mu.Unlock()
	if first {
		s.answering.Go(func() { s.work(id) })
	}
}

// work answers a record until nobody but itself has written it.
func (s *service) work(id record.ID) {
	for {
		s.mu.Lock()
		seen := s.writes[id]
		s.mu.Unlock()
		err := s.answer(context.WithoutCancel(s.rig.Context()), id)
		if record.IsConflict(err) {
			continue // a command that was sent again came between
		}
		if err != nil {
			s.rig.Errorf("answer %s: %v", id.Name, err)
		}
		s.mu.Lock()
		over := s.writes[id] <= seen+1
		if over {
			delete(s.writes, id)
			if c := s.told[id]; c != nil {
				delete(s.told, id)
				close(c)
			}
		} else {
			s.writes[id]--
		}
		s.mu.Unlock()
		if over {
			return
		}
	}
}

// await gives a channel that is closed when a record has been answered.
func (s *service) await(id record.ID) <-chan struct{} {
	c := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told[id] = c
	return c
}

// answer makes a record what it is to become, and tells so.
func (s *service) answer(ctx context.Context, id record.ID) error {
	e, err := s.book.Get(ctx, id)
	if err != nil {
		return err
	}
	if e.Record.GetRelease() {
		return s.end(ctx, e)
	}
	s.settle(e)
	return s.book.Save(ctx, e, participant.NoticeOf(e))
}

// end takes a record away, and tells so.
func (s *service) end(ctx context.Context, e *record.Entry) error {
	return s.book.Remove(ctx, e, record.Notice{Verb: "released", Outcome: &busv1.Outcome{
		Origin: e.Record.GetOrigin(), Key: e.Key, Result: busv1.Result_RESULT_RELEASED,
	}})
}

// settle makes of a record what a cloud would that does everything at once.
func (s *service) settle(e *record.Entry) {
	now, status := time.Now(), e.Object.Status()
	if spec, ok := e.Object.Spec().(*computev1.ServerSpec); ok && spec.GetMetadata()[refuse] != "" {
		status.Fault = &kindv1.Fault{Kind: string(fault.Invalid), Message: "the cloud refuses it", Time: timestamppb.New(now)}
		participant.SetPhase(e, kindv1.Phase_PHASE_FAILED, now)
		return
	}
	e.Object.SetObserved(observed(e))
	status.ProviderId, status.ObserveTime, status.ObservedGeneration = e.Key, timestamppb.New(now), e.Object.Metadata().GetGeneration()
	participant.SetPhase(e, kindv1.Phase_PHASE_READY, now)
}

// observed gives what is seen of a resource.
func observed(e *record.Entry) proto.Message {
	if spec, ok := e.Object.Spec().(*networkv1.NetworkSpec); ok {
		return &networkv1.NetworkObserved{NetworkId: e.Key, Mtu: spec.GetMtu()}
	}
	return &computev1.ServerObserved{ServerId: e.Key, Address: "10.0.0.1"}
}
