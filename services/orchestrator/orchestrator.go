// Package orchestrator is the orchestrator: stacks and the sagas that make them real, clouds, tenants and secrets, and the
// front door through which clients reach every service.
package orchestrator

import (
	"context"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/lease"
	"github.com/weftcloud/weft/pkg/outbox"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/service"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/credential"
	"github.com/weftcloud/weft/services/orchestrator/internal/deadletter"
	"github.com/weftcloud/weft/services/orchestrator/internal/engine"
	"github.com/weftcloud/weft/services/orchestrator/internal/event"
	"github.com/weftcloud/weft/services/orchestrator/internal/frontdoor"
	"github.com/weftcloud/weft/services/orchestrator/internal/ledger"
	"github.com/weftcloud/weft/services/orchestrator/internal/operation"
	"github.com/weftcloud/weft/services/orchestrator/internal/secret"
	"github.com/weftcloud/weft/services/orchestrator/internal/stack"
)

// SealKeySize is the size in bytes of the key that secrets are sealed with.
const SealKeySize = secret.KeySize

// Deps is what the orchestrator needs to run.
type Deps struct {
	service.Deps

	// SealKey is the platform's key for secrets, SealKeySize bytes.
	SealKey []byte
	// Replica names this process among the orchestrators.
	Replica string
}

// Orchestrator is the orchestrator.
type Orchestrator struct {
	deps   Deps
	kinds  *resource.Registry
	sealer *secret.Sealer
	own    *service.Service
	outbox *outbox.Box
	engine *engine.Engine
	stacks *stack.Server
	ops    *operation.Server
}

// New makes an orchestrator. It does nothing until Run.
func New(deps Deps) (*Orchestrator, error) {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	o := &Orchestrator{deps: deps}
	var err error
	if o.sealer, err = secret.NewSealer(deps.SealKey); err != nil {
		return nil, err
	}
	if o.kinds, err = resource.Linked(); err != nil {
		return nil, err
	}
	if o.own, err = service.New(o.catalog(), deps.Deps); err != nil {
		return nil, err
	}
	o.outbox = outbox.New(deps.Store, deps.Bus, record.Prefix("orchestrator")+"so/", deps.Logger)
	o.engine = engine.New(engine.Config{Store: deps.Store, Outbox: o.outbox, Kinds: o.kinds, Querier: o, Logger: deps.Logger, Now: deps.Now})
	o.ops = &operation.Server{Engine: o.engine, Kinds: o.kinds, Own: o.own, Peers: deps.Peers, Stack: func(ctx context.Context, name string) (*orchestratorv1.Stack, error) {
		return o.stacks.View(ctx, name)
	}}
	o.stacks = &stack.Server{
		Engine: o.engine, Kinds: o.kinds, Peers: deps.Peers, Now: deps.Now, NewKey: func() string { return uuid.Must(uuid.NewV7()).String() },
		Tenant: o.tenantExists, Describe: o.ops.Describe, Own: func(ctx context.Context, name string) (proto.Message, error) {
			return o.own.Resolve(ctx, name, "")
		},
	}
	return o, nil
}

// Book gives the records of the orchestrator's own kinds.
func (o *Orchestrator) Book() *record.Book { return o.own.Book() }

// Register registers all gRPC services: the orchestrator's own, and the front door to the others'.
func (o *Orchestrator) Register(server grpc.ServiceRegistrar) error {
	if err := o.own.Register(server); err != nil {
		return err
	}
	orchestratorv1.RegisterStackServiceServer(server, o.stacks)
	participantv1.RegisterParticipantServiceServer(server, &stack.Composites{Stacks: o.stacks})
	orchestratorv1.RegisterOperationServiceServer(server, o.ops)
	longrunningpb.RegisterOperationsServer(server, o.ops)
	orchestratorv1.RegisterLedgerServiceServer(server, &ledger.Server{Book: o.Book(), Peers: o.deps.Peers, Now: o.deps.Now})
	orchestratorv1.RegisterEventServiceServer(server, &event.Server{Bus: o.deps.Bus})
	orchestratorv1.RegisterDeadLetterServiceServer(server, &deadletter.Server{Bus: o.deps.Bus, Store: o.deps.Store, Logger: o.deps.Logger, Now: o.deps.Now})
	orchestratorv1.RegisterCredentialServiceServer(server, &credential.Server{Book: o.Book(), Sealer: o.sealer})
	return frontdoor.Register(server, o.kinds, o.deps.Peers)
}

// Run works until ctx ends: it serves the own kinds, and runs sagas whenever it owns them.
func (o *Orchestrator) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return o.own.Run(ctx) })
	g.Go(func() error { return o.outbox.Run(ctx) })
	g.Go(func() error {
		for ctx.Err() == nil {
			if err := o.lead(ctx); err != nil && ctx.Err() == nil {
				o.deps.Logger.Warn("run sagas", "error", err)
				pause(ctx, time.Second)
			}
		}
		return nil
	})
	return g.Wait()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// lead waits until this process owns the sagas, and runs them until it loses them or ctx ends.
func (o *Orchestrator) lead(ctx context.Context) error {
	owner, err := lease.Acquire(ctx, o.deps.Store, record.Prefix("orchestrator")+"owner", o.deps.Replica, lease.Options{Logger: o.deps.Logger})
	if err != nil {
		return fault.Wrap(err, "become the owner of the sagas")
	}
	leading, cancel := context.WithCancel(ctx)
	defer cancel()
	g, leading := errgroup.WithContext(leading)
	g.Go(func() error { return o.engine.Run(leading, owner) })
	g.Go(func() error { return o.deps.Bus.Consume(leading, bus.OutcomeQueue(), 64, o.engine.Outcome) })
	g.Go(func() error {
		select {
		case <-owner.Lost():
			return fault.New(fault.Unavailable, "the ownership of the sagas was lost")
		case <-leading.Done():
			return nil
		}
	})
	err = g.Wait()
	release, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer done()
	if freed := owner.Release(release); freed != nil {
		o.deps.Logger.Info("give up the ownership of the sagas", "error", freed)
	}
	return err
}

// Query asks the service that owns a kind what became of a key; nil if it has never seen it.
func (o *Orchestrator) Query(ctx context.Context, kind *resource.Kind, origin *busv1.Origin, name, key string) (*busv1.Outcome, error) {
	peer, ok := o.deps.Peers[kind.Service]
	if !ok {
		return nil, fault.New(fault.Unavailable, "no connection to the %s service", kind.Service)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	answer, err := participantv1.NewParticipantServiceClient(peer).Query(ctx, &participantv1.QueryRequest{Origin: origin, Name: name, Key: key})
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	if !answer.GetKnown() {
		return nil, nil
	}
	return answer.GetOutcome(), nil
}

// tenantExists refuses what is asked for a tenant that does not exist.
func (o *Orchestrator) tenantExists(ctx context.Context, tenant string) error {
	_, err := o.Book().Current(ctx, "tenants/"+tenant)
	if fault.Is(err, fault.NotFound) {
		return &fault.Error{Kind: fault.NotFound, Field: "parent", Message: "there is no tenant " + tenant + "; an operator can add it (weft tenant add " + tenant + ")"}
	}
	return err
}

// tenantInUse refuses to delete a tenant that still has something.
func (o *Orchestrator) tenantInUse(ctx context.Context, tenant string) error {
	answer, err := (&ledger.Server{Book: o.Book(), Peers: o.deps.Peers, Now: o.deps.Now}).ListLedgerEntries(ctx, &orchestratorv1.ListLedgerEntriesRequest{Parent: "tenants/" + tenant})
	if err != nil {
		return err
	}
	return o.inUse("tenants/"+tenant, answer, func(*participantv1.LedgerEntry) bool { return true })
}

// cloudInUse refuses to delete a cloud that something still stands on: without its credentials nothing there could be
// deleted any more.
func (o *Orchestrator) cloudInUse(ctx context.Context, cloud string) error {
	out := &orchestratorv1.ListLedgerEntriesResponse{}
	for name, peer := range o.deps.Peers {
		answer, err := participantv1.NewParticipantServiceClient(peer).ListLedger(ctx, &participantv1.ListLedgerRequest{})
		if err != nil {
			return fault.Wrap(fault.FromStatus(err), "ask the %s service", name)
		}
		out.Entries = append(out.Entries, answer.GetEntries()...)
	}
	return o.inUse(cloud, out, func(e *participantv1.LedgerEntry) bool { return e.GetCloud() == cloud })
}

func (o *Orchestrator) inUse(what string, ledger *orchestratorv1.ListLedgerEntriesResponse, counts func(*participantv1.LedgerEntry) bool) error {
	if missing := ledger.GetUnreachable(); len(missing) > 0 {
		return fault.Wrap(fault.FromProto(missing[0]), "look what %s still has", what)
	}
	for _, e := range ledger.GetEntries() {
		if counts(e) {
			return fault.New(fault.Precondition, "%s still has %s; destroy what it has first (weft ledger lists it)", what, e.GetName())
		}
	}
	return nil
}
