package engine

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/saga"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// Sagas is what the rest of the orchestrator changes sagas by. A request may reach any replica; only the owner of a
// stack's shard may write its sagas.
type Sagas interface {
	// Begin begins a saga, see Engine.Begin.
	Begin(ctx context.Context, plan *orchestratorv1.SagaPlan, changing *orchestratorv1.StackRecord, stackRevision int64) error
	// Act applies what a person asks for, see Engine.Act.
	Act(ctx context.Context, stack, name string, event saga.Event) error
}

// Owners tells who owns a shard, see shard.Spread.
type Owners interface {
	Owner(shard int) (replica, address string, found bool)
	Changed() <-chan struct{}
}

// Router is Sagas over all replicas: it calls the engine of this process for the shards that it owns, and the owner for
// others. While nobody owns a shard it waits.
type Router struct {
	Engine *Engine
	Owners Owners
	// Replica is the name of this process.
	Replica string
	// Dial connects to another replica; nil if there are none.
	Dial func(address string) (*grpc.ClientConn, error)

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
}

// patience is how long a request waits for an owner: longer than a lease outlives a killed one, so that what is asked
// right after a crash is not refused.
const patience = 8 * time.Second

const (
	// answerWithin is how long another replica may take to answer.
	answerWithin = 3 * time.Second
	// lookAgain is when an owner that did not answer is asked again.
	lookAgain = 250 * time.Millisecond
)

// Begin implements Sagas. If the owner dies while it is asked the next is asked; the saga may then have begun already.
func (r *Router) Begin(ctx context.Context, plan *orchestratorv1.SagaPlan, changing *orchestratorv1.StackRecord, stackRevision int64) error {
	tries := 0
	err := r.at(ctx, plan.GetStack(), func() error {
		tries++
		return r.Engine.Begin(ctx, plan, changing, stackRevision)
	}, func(ctx context.Context, peer orchestratorv1.SagaServiceClient) error {
		tries++
		_, err := peer.BeginSaga(ctx, &orchestratorv1.BeginSagaRequest{Plan: plan, Changing: changing, StackRevision: stackRevision})
		return fault.FromStatus(err)
	})
	if tries > 1 && fault.Is(err, fault.Conflict) {
		if _, known := r.Engine.Read(ctx, plan.GetName()); known == nil {
			return nil
		}
	}
	return err
}

// Act implements Sagas.
func (r *Router) Act(ctx context.Context, stack, name string, event saga.Event) error {
	request, err := asked(stack, name, event)
	if err != nil {
		return err
	}
	return r.at(ctx, stack, func() error {
		return r.Engine.Act(ctx, stack, name, event)
	}, func(ctx context.Context, peer orchestratorv1.SagaServiceClient) error {
		_, err := peer.ActOnSaga(ctx, request)
		return fault.FromStatus(err)
	})
}

// at does something where a stack's shard is owned, once somebody owns it, and again if it turns out that nobody did.
func (r *Router) at(ctx context.Context, stack string, here func() error, there func(context.Context, orchestratorv1.SagaServiceClient) error) error {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	shard := bus.ShardOf(stack)
	for {
		changed := r.Owners.Changed()
		own, ready := r.Engine.Owns(shard)
		replica, address, found := r.Owners.Owner(shard)
		var err error
		var look <-chan time.Time // when to look again though nothing has changed
		switch {
		case own:
			err, look = here(), time.After(lookAgain)
		case found && replica != r.Replica && address != "" && r.Dial != nil:
			err, look = r.ask(ctx, address, there), time.After(lookAgain)
		default:
			err = fault.New(fault.Unavailable, "no orchestrator owns %s yet; try again", stack)
		}
		if !fault.Is(err, fault.Unavailable) {
			return err
		}
		select {
		case <-changed:
		case <-ready:
		case <-look:
		case <-deadline.C:
			return err
		case <-ctx.Done():
			return err
		}
	}
}

// ask does something at another replica. One that has stopped without ending its connections is not waited for long.
func (r *Router) ask(ctx context.Context, address string, there func(context.Context, orchestratorv1.SagaServiceClient) error) error {
	peer, err := r.peer(address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	return there(ctx, peer)
}

// peer gives a connection to another replica.
func (r *Router) peer(address string) (orchestratorv1.SagaServiceClient, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	conn := r.conns[address]
	if conn == nil {
		var err error
		if conn, err = r.Dial(address); err != nil {
			return nil, fault.Wrap(err, "connect to the orchestrator at %s", address)
		}
		if r.conns == nil {
			r.conns = map[string]*grpc.ClientConn{}
		}
		r.conns[address] = conn
	}
	return orchestratorv1.NewSagaServiceClient(conn), nil
}

// Close closes the connections to other replicas.
func (r *Router) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var first error
	for address, conn := range r.conns {
		if err := conn.Close(); err != nil && first == nil {
			first = fault.Wrap(err, "close the connection to %s", address)
		}
	}
	r.conns = nil
	return first
}

// Server serves SagaService to the other replicas.
type Server struct {
	orchestratorv1.UnimplementedSagaServiceServer

	Engine *Engine
}

// BeginSaga begins a saga of a shard that this process owns.
func (s *Server) BeginSaga(ctx context.Context, r *orchestratorv1.BeginSagaRequest) (*orchestratorv1.BeginSagaResponse, error) {
	return &orchestratorv1.BeginSagaResponse{}, s.Engine.Begin(ctx, r.GetPlan(), r.GetChanging(), r.GetStackRevision())
}

// ActOnSaga applies what a person asks for to a saga of a shard that this process owns.
func (s *Server) ActOnSaga(ctx context.Context, r *orchestratorv1.ActOnSagaRequest) (*orchestratorv1.ActOnSagaResponse, error) {
	event, err := wanted(r)
	if err != nil {
		return nil, err
	}
	return &orchestratorv1.ActOnSagaResponse{}, s.Engine.Act(ctx, r.GetStack(), r.GetName(), event)
}

// asked gives what a person asks for as a message.
func asked(stack, name string, event saga.Event) (*orchestratorv1.ActOnSagaRequest, error) {
	out := &orchestratorv1.ActOnSagaRequest{Name: name, Stack: stack}
	switch e := event.(type) {
	case saga.Cancelled:
		out.Verb = orchestratorv1.SagaVerb_SAGA_VERB_CANCEL
	case saga.Retried:
		out.Verb, out.Step = orchestratorv1.SagaVerb_SAGA_VERB_RETRY, e.Step
	case saga.Skipped:
		out.Verb, out.Step, out.Reason = orchestratorv1.SagaVerb_SAGA_VERB_SKIP, e.Step, e.Reason
	case saga.Abandoned:
		out.Verb, out.Reason = orchestratorv1.SagaVerb_SAGA_VERB_ABANDON, e.Reason
	case saga.Paused:
		out.Verb, out.Step, out.Reason = orchestratorv1.SagaVerb_SAGA_VERB_PAUSE, e.Step, e.Reason
	case saga.Resumed:
		out.Verb, out.Step = orchestratorv1.SagaVerb_SAGA_VERB_RESUME, e.Step
	default:
		return nil, fault.New(fault.Internal, "%T is nothing that a person asks for", event)
	}
	return out, nil
}

// wanted gives the event of a message.
func wanted(r *orchestratorv1.ActOnSagaRequest) (saga.Event, error) {
	switch r.GetVerb() {
	case orchestratorv1.SagaVerb_SAGA_VERB_CANCEL:
		return saga.Cancelled{}, nil
	case orchestratorv1.SagaVerb_SAGA_VERB_RETRY:
		return saga.Retried{Step: r.GetStep()}, nil
	case orchestratorv1.SagaVerb_SAGA_VERB_SKIP:
		return saga.Skipped{Step: r.GetStep(), Reason: r.GetReason()}, nil
	case orchestratorv1.SagaVerb_SAGA_VERB_ABANDON:
		return saga.Abandoned{Reason: r.GetReason()}, nil
	case orchestratorv1.SagaVerb_SAGA_VERB_PAUSE:
		return saga.Paused{Step: r.GetStep(), Reason: r.GetReason()}, nil
	case orchestratorv1.SagaVerb_SAGA_VERB_RESUME:
		return saga.Resumed{Step: r.GetStep()}, nil
	default:
		return nil, fault.InField("verb", "%s is not known here", r.GetVerb())
	}
}
