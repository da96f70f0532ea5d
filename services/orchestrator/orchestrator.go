// Package orchestrator is the orchestrator: stacks and the sagas that make them real, clouds, tenants and secrets, and the
// front door through which clients reach every service.
package orchestrator

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/cloud/openstack"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/installation"
	"github.com/weftcloud/weft/pkg/outbox"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/service"
	"github.com/weftcloud/weft/pkg/shard"
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
	"github.com/weftcloud/weft/services/orchestrator/internal/project"
	"github.com/weftcloud/weft/services/orchestrator/internal/secret"
	"github.com/weftcloud/weft/services/orchestrator/internal/stack"
	"github.com/weftcloud/weft/services/orchestrator/internal/tenant"
)

// SealKeySize is the size in bytes of the key that secrets are sealed with.
const SealKeySize = secret.KeySize

// Deps is what the orchestrator needs to run.
type Deps struct {
	service.Deps

	// SealKey is the platform's key for secrets, SealKeySize bytes.
	SealKey []byte
	// Clouds are the sessions with clouds, which other services of the process may share; nil means that there are none yet.
	Clouds *openstack.Sessions
	// CredentialLifetime is how long a credential is valid that the platform makes for a tenant's project; 0 means a week. When
	// half of it is over another takes its place.
	CredentialLifetime time.Duration
	// CredentialGrace is how long a credential that another has taken the place of is kept; 0 means an hour. It must be well
	// over the half minute for which services use what they were given.
	CredentialGrace time.Duration
}

// Orchestrator is the orchestrator.
type Orchestrator struct {
	deps        Deps
	projects    *project.Keeper
	credentials *credential.Server
	kinds       *resource.Registry
	sealer      *secret.Sealer
	own         *service.Service
	outbox      *outbox.Box
	engine      *engine.Engine
	spread      *shard.Spread
	router      *engine.Router
	stacks      *stack.Server
	ops         *operation.Server
}

// New makes an orchestrator. It does nothing until Run.
func New(deps Deps) (*Orchestrator, error) {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Replica == "" {
		deps.Replica = uuid.NewString()
	}
	if deps.Clouds == nil {
		deps.Clouds = openstack.NewSessions()
	}
	if deps.CredentialLifetime == 0 {
		deps.CredentialLifetime = project.DefaultLifetime
	}
	if deps.CredentialGrace == 0 {
		deps.CredentialGrace = project.DefaultGrace
	}
	o := &Orchestrator{deps: deps}
	var err error
	if o.sealer, err = secret.NewSealer(deps.SealKey); err != nil {
		return nil, err
	}
	if o.kinds, err = resource.Linked(); err != nil {
		return nil, err
	}
	o.projects = &project.Keeper{
		Book: o.Book, Vault: &project.Vault{Store: deps.Store, Sealer: o.sealer}, Installation: deps.Installation, Unused: o.projectUnused,
		Lifetime: deps.CredentialLifetime, Grace: deps.CredentialGrace, Logger: deps.Logger, Now: deps.Now,
		Operation: func(e *record.Entry) (*longrunningpb.Operation, error) { return o.own.Operation(e) },
	}
	o.credentials = &credential.Server{Sealer: o.sealer, Projects: o.projects}
	if o.own, err = service.New(o.catalog(), deps.Deps); err != nil {
		return nil, err
	}
	o.credentials.Book = o.Book()
	o.outbox = outbox.New(deps.Store, deps.Bus, record.Prefix("orchestrator")+"so/", deps.Logger)
	o.engine = engine.New(engine.Config{Store: deps.Store, Outbox: o.outbox, Kinds: o.kinds, Querier: o, Logger: deps.Logger, Now: deps.Now, Admit: newAdmission(deps).admit, Quotas: service.Quotas(deps.Store), Traces: deps.Traces})
	o.spread = shard.New(shard.Config{
		Store: deps.Store, Prefix: record.Prefix("orchestrator") + "shards/", Replica: deps.Replica, Address: deps.Address, Count: bus.Shards, Logger: deps.Logger,
	})
	o.router = &engine.Router{Engine: o.engine, Owners: o.spread, Replica: deps.Replica, Dial: deps.Dial}
	o.ops = &operation.Server{Engine: o.engine, Sagas: o.router, Kinds: o.kinds, Own: o.own, Peers: deps.Peers, Stack: func(ctx context.Context, name string) (*orchestratorv1.Stack, error) {
		return o.stacks.View(ctx, name)
	}}
	o.stacks = &stack.Server{
		Engine: o.engine, Sagas: o.router, Kinds: o.kinds, Peers: deps.Peers, Now: deps.Now, NewKey: func() string { return installation.NewKey(deps.Installation) },
		Quotas: service.Quotas(deps.Store), Tenant: o.tenantExists, Describe: o.ops.Describe, Own: func(ctx context.Context, name string) (proto.Message, error) {
			return o.own.Resolve(ctx, name, "")
		},
	}
	return o, nil
}

// Collectors gives the metrics of the orchestrator.
func (o *Orchestrator) Collectors() []prometheus.Collector {
	return append(o.own.Collectors(), o.outbox, o.engine)
}

// Book gives the records of the orchestrator's own kinds.
func (o *Orchestrator) Book() *record.Book { return o.own.Book() }

// Register registers all gRPC services: the orchestrator's own, and the front door to the others'.
func (o *Orchestrator) Register(server grpc.ServiceRegistrar) error {
	if err := o.own.Register(server); err != nil {
		return err
	}
	orchestratorv1.RegisterStackServiceServer(server, o.stacks)
	orchestratorv1.RegisterImportServiceServer(server, o.stacks)
	participantv1.RegisterParticipantServiceServer(server, &stack.Composites{Stacks: o.stacks})
	orchestratorv1.RegisterOperationServiceServer(server, o.ops)
	orchestratorv1.RegisterSagaServiceServer(server, &engine.Server{Engine: o.engine})
	longrunningpb.RegisterOperationsServer(server, o.ops)
	orchestratorv1.RegisterLedgerServiceServer(server, o.ledger())
	orchestratorv1.RegisterQuotaServiceServer(server, &tenant.Quotas{Account: service.Quotas(o.deps.Store), Exists: o.tenantExists})
	orchestratorv1.RegisterEventServiceServer(server, &event.Server{Bus: o.deps.Bus})
	orchestratorv1.RegisterDeadLetterServiceServer(server, &deadletter.Server{
		Bus: o.deps.Bus, Store: o.deps.Store, Logger: o.deps.Logger, Now: o.deps.Now, Unfinished: o.unfinished,
	})
	orchestratorv1.RegisterCredentialServiceServer(server, o.credentials)
	return frontdoor.Register(server, o.kinds, o.deps.Peers)
}

// Run works until ctx ends: it serves the own kinds, and runs the sagas of the shards that it owns.
func (o *Orchestrator) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return o.own.Run(ctx) })
	g.Go(func() error { return o.outbox.Run(ctx) })
	g.Go(func() error { return o.persist(ctx, "take what participants tell", o.readOutcomes) })
	holds := make(chan struct{}) // closed once it is known which clouds are held
	told := sync.OnceFunc(func() { close(holds) })
	g.Go(func() error {
		return o.persist(ctx, "look which clouds are held", func(ctx context.Context) error { return o.watchHolds(ctx, told) })
	})
	g.Go(func() error { return o.sweep(ctx) })
	g.Go(func() error { return o.repair(ctx) })
	g.Go(func() error {
		return o.projects.Run(ctx, func() bool { own, _ := o.engine.Owns(0); return own })
	})
	g.Go(func() error {
		select { // a saga that is taken over before would go on at a cloud that is held
		case <-holds:
		case <-ctx.Done():
			return nil
		}
		return o.spread.Run(ctx, func(ctx context.Context, owned *shard.Owned) error { return o.engine.Own(ctx, owned) })
	})
	err := g.Wait()
	if closed := o.router.Close(); closed != nil {
		o.deps.Logger.Debug("close the connections to other orchestrators", "error", closed)
	}
	return err
}

// persist does something again whenever it ends, until ctx ends.
func (o *Orchestrator) persist(ctx context.Context, what string, do func(context.Context) error) error {
	for ctx.Err() == nil {
		err := do(ctx)
		if ctx.Err() != nil {
			return nil
		}
		o.deps.Logger.Warn(what, "error", err)
		pause(ctx, time.Second)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// outcomesSince is how far back outcomes are read: what was told while nobody read, for a while, and the difference of
// two clocks. That some come twice does no harm.
const outcomesSince = 30 * time.Second

// readOutcomes hands on what participants tell. What cannot be read goes to the dead letters; its step will be asked for.
func (o *Orchestrator) readOutcomes(ctx context.Context) error {
	return o.deps.Bus.Read(ctx, bus.OutcomeFilter, o.deps.Now().Add(-outcomesSince), true, func(d bus.Delivery) error {
		unreadable := o.engine.Outcome(d)
		if unreadable == nil {
			return nil
		}
		o.deps.Logger.Error("an outcome goes to the dead letters", "subject", d.Subject, "id", d.ID, "error", unreadable)
		return o.deps.Bus.Publish(ctx, bus.DeadLetter(bus.OutcomeQueue(), d, bus.DeadRejected))
	})
}

// watchHolds tells the engine which clouds are held, now and whenever that changes. told is called when it has.
func (o *Orchestrator) watchHolds(ctx context.Context, told func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := o.deps.Store.Watch(ctx, record.Prefix("orchestrator")+"r/clouds/", 0)
	for {
		var held []string
		for after, more := (record.ID{}), true; more; {
			entries, rest, err := o.Book().List(ctx, "clouds/", after, 500)
			if err != nil {
				return err
			}
			more = rest
			for _, e := range entries {
				after = e.ID
				if spec, ok := e.Object.Spec().(*orchestratorv1.CloudSpec); ok && spec.GetHold() != "" {
					held = append(held, e.Name)
				}
			}
		}
		o.engine.Hold(held)
		told()
		if _, ok := <-watch.Events(); !ok {
			return watch.Err()
		}
	}
}

// unfinished tells whether a saga has not ended yet.
func (o *Orchestrator) unfinished(ctx context.Context, saga string) (bool, error) {
	_, err := o.engine.Plan(ctx, saga)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	return err == nil, err
}

// sweepEvery is the time between two looks for operations that are too old to be kept.
const sweepEvery = time.Hour

// sweep deletes old operations; one replica does, the one that owns the first shard.
func (o *Orchestrator) sweep(ctx context.Context) error {
	for ctx.Err() == nil {
		pause(ctx, sweepEvery)
		if own, _ := o.engine.Owns(0); !own || ctx.Err() != nil {
			continue
		}
		if n, err := o.engine.Sweep(ctx, engine.Keep); err != nil && ctx.Err() == nil {
			o.deps.Logger.Warn("delete old operations", "deleted", n, "error", err)
		}
	}
	return nil
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

// ledger makes what lists all that exists because of us.
func (o *Orchestrator) ledger() *ledger.Server {
	return &ledger.Server{Book: o.Book(), Own: o.own.Participant(), Kinds: o.kinds, Peers: o.deps.Peers, Now: o.deps.Now}
}

// projectUnused refuses to delete the project of a tenant in which something stands.
func (o *Orchestrator) projectUnused(ctx context.Context, tenant, cloud string) error {
	answer, err := o.ledger().ListLedgerEntries(ctx, &orchestratorv1.ListLedgerEntriesRequest{Parent: "tenants/" + tenant})
	if err != nil {
		return err
	}
	return o.inUse(project.Name("tenants/"+tenant, cloud), answer, func(e *participantv1.LedgerEntry) bool {
		return e.GetCloud() == cloud && e.GetType() != project.Type
	})
}

// tenantInUse refuses to delete a tenant that still has something. Its projects go with it.
func (o *Orchestrator) tenantInUse(ctx context.Context, tenant string) error {
	answer, err := o.ledger().ListLedgerEntries(ctx, &orchestratorv1.ListLedgerEntriesRequest{Parent: "tenants/" + tenant})
	if err != nil {
		return err
	}
	return o.inUse("tenants/"+tenant, answer, func(e *participantv1.LedgerEntry) bool { return e.GetType() != project.Type })
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
	own, err := o.own.Participant().ListLedger(ctx, &participantv1.ListLedgerRequest{})
	if err != nil {
		return err
	}
	out.Entries = append(out.Entries, own.GetEntries()...)
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
