// Package service is what every service does for its kinds: the gRPC API of each kind, the operations of single changes,
// what services ask each other, and the loops. A service brings its catalog; all else is written once, here.
//
// A service may run in any number of processes. Each serves all calls and takes commands from the common queues; the
// records are spread over them by package shard, and the one that owns a record works on it (see package reconcile).
package service

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/weftcloud/weft/pkg/budget"
	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/outbox"
	"github.com/weftcloud/weft/pkg/participant"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/reconcile"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/shard"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/tracing"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// Catalog names every kind and provider of a service. It is the one list of them.
type Catalog struct {
	// Service is the service's name, e.g. network.
	Service string
	// Kinds are the kinds that it owns.
	Kinds []Kind
	// Providers are the families of clouds that it can make them at.
	Providers []driver.Provider
	// Credentials gives the credentials of accounts; nil means that the orchestrator is asked.
	Credentials orchestratorv1.CredentialServiceClient
	// Within says that the catalog is a part of a service that has shards of its own, takes no commands, and answers the
	// other services itself.
	Within bool
}

// Kind is one kind of a catalog.
type Kind struct {
	// Message is the kind's message; its contract says all that is common to kinds.
	Message proto.Message
	// Expand expands a resource of a composite kind; nil for others.
	Expand func(item *participantv1.Item) (*participantv1.ExpandResponse, error)
	// Claims tells what a spec asks for of spaces that it shares with others, e.g. a port of an address; nil for nothing. keys
	// gives the keys of the resources that it refers to, by full name, as far as they stand.
	Claims func(spec proto.Message, keys map[string]string) []record.Want
	// Local makes it a kind without a driver: the record itself is the resource.
	Local *Local
	// Unused is called before a resource is deleted by its API; an error refuses it. nil refuses nothing.
	Unused func(ctx context.Context, object resource.Object) error
	// Methods are the custom methods of its gRPC service.
	Methods []grpc.MethodDesc
	// Custom gives further custom methods, which work with the records of the service; nil for none.
	Custom func(s *Service) []grpc.MethodDesc
	// Controller makes it a kind without a driver whose resources are made of others of this service; nil for others.
	Controller reconcile.Controller
	// Parts gives, for a kind with a controller, what a resource is made of, so that it is looked at before it is asked for.
	Parts func(spec, former proto.Message) []Part
	// Draws says how its resources draw on their tenant's quotas; nil for not at all.
	Draws []quota.Draw
	// Most gives, for a kind whose resources are made of others that draw for it, of what and how many at once at most. The
	// paths of unknown fields of the spec lead to the other through field.
	Most func(spec proto.Message) (typ, field string, part proto.Message, count int64)
	// MostBy names the fields of the spec that Most counts by.
	MostBy []string
}

// Part is one of the resources that another is made of.
type Part struct {
	// Type is its type; Field is the field of the whole's spec that it is made from.
	Type, Field string
	// Spec is what it is to be; Former is what stands, or nil.
	Spec, Former proto.Message
	// Change is what is done with it.
	Change kindv1.Change
}

// Local is what a kind without a driver may add to its writes. Both may be nil.
type Local struct {
	// Admit is called before a resource is written, with the one that it replaces, or nil. It may change it, e.g. seal
	// what must not be kept in the open.
	Admit func(ctx context.Context, next resource.Object, former *resource.Object) error
	// Release is called before a resource is deleted; an error refuses it.
	Release func(ctx context.Context, object resource.Object) error
	// Show is called before a caller sees a resource, which it may strip of what is not for this caller; false hides it.
	Show func(ctx context.Context, object resource.Object) bool
}

// Peers gives connections to the other services by name, e.g. orchestrator.
type Peers map[string]grpc.ClientConnInterface

// Deps is what a service needs to run.
type Deps struct {
	Store  store.Store
	Bus    bus.Bus
	Peers  Peers
	Logger *slog.Logger
	// Address is where other replicas of the service reach this one, host:port; empty if there are none.
	Address string
	// Dial connects to another replica of the service; nil if there are none.
	Dial func(address string) (*grpc.ClientConn, error)
	// Installation is the name of the installation, see package installation; with none, whatever bears a mark is ours.
	Installation string
	// Traces makes spans of what is done; nil makes none.
	Traces *tracing.Traces
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// CallsPerSecond is the budget of API calls of each cloud account, for all services together; 0 means 200.
	CallsPerSecond float64
	// ObserveEvery is how often what is ready is looked at; 0 means every 30 seconds, less than 0 never.
	ObserveEvery time.Duration
	// Replica names this process among those of its service, without a slash; empty means a name that nobody else has. A
	// second process of the same name waits until the first has left.
	Replica string
	// Budgets keeps the budgets of the process; whoever hands it over runs it. nil means that the service keeps its own.
	Budgets *budget.Registry
}

// Service serves the kinds of one catalog.
type Service struct {
	catalog  Catalog
	deps     Deps
	own      *resource.Registry // the kinds of this service
	linked   *resource.Registry // all kinds
	book     *record.Book
	outbox   *outbox.Box
	inbox    *participant.Inbox
	loop     *reconcile.Loop
	spread   *shard.Spread
	fenced   atomic.Int64 // of what the spread wrote
	accounts *accounts
	budgets  *budget.Registry // nil unless the service keeps its own
	kinds    map[string]Kind  // by type
}

// New makes a service. It does nothing until Run.
func New(catalog Catalog, deps Deps) (*Service, error) {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.CallsPerSecond == 0 {
		deps.CallsPerSecond = 200
	}
	if deps.ObserveEvery == 0 {
		deps.ObserveEvery = 30 * time.Second
	}
	if deps.Replica == "" {
		deps.Replica = uuid.NewString()
	}
	s := &Service{catalog: catalog, deps: deps, kinds: map[string]Kind{}}
	if err := s.readKinds(); err != nil {
		return nil, err
	}
	s.outbox = outbox.New(deps.Store, deps.Bus, record.Prefix(catalog.Service)+"o/", deps.Logger)
	s.book = record.New(record.Config{
		Service: catalog.Service, Store: deps.Store, Outbox: s.outbox, Kinds: s.linked, Now: deps.Now,
		Changed: func(c record.Change) {
			if s.loop != nil {
				s.loop.Changed(c)
			}
		},
		Claims: s.claims, Quotas: Quotas(deps.Store),
	})
	if len(catalog.Providers) == 0 {
		return s, nil
	}
	if s.deps.Budgets == nil {
		s.budgets = budget.NewRegistry(budget.RegistryConfig{Store: deps.Store, Process: catalog.Service + "-" + deps.Replica, Logger: deps.Logger, Now: deps.Now})
		s.deps.Budgets = s.budgets
	}
	credentials := catalog.Credentials
	if credentials == nil {
		credentials = orchestratorv1.NewCredentialServiceClient(deps.Peers["orchestrator"])
	}
	s.accounts = newAccounts(catalog.Providers, credentials, s.deps)
	s.inbox = participant.NewInbox(s.book, s.own, deps.Now)
	s.inbox.Traces = deps.Traces
	s.loop = reconcile.New(reconcile.Config{
		Book: s.book, Accounts: s.accounts, Resolver: s, Logger: deps.Logger, Traces: deps.Traces, Now: deps.Now, Taken: s.outbox.Recover, Secrets: s,
		ObserveEvery: deps.ObserveEvery, Installation: deps.Installation,
		Controllers: s.controllers(),
	})
	s.spread = shard.New(shard.Config{
		Store: deps.Store, Prefix: record.Prefix(catalog.Service) + catalog.shards(), Replica: deps.Replica, Address: deps.Address, Count: reconcile.Shards,
		Logger: deps.Logger, Fenced: func() { s.fenced.Add(1) },
	})
	return s, nil
}

// shards is the name below which it is kept who owns the shards of the records.
func (c Catalog) shards() string {
	if c.Within {
		return "record-shards/"
	}
	return "shards/"
}

// controllers gives the controllers of the kinds that have one, by type.
func (s *Service) controllers() map[string]reconcile.Controller {
	out := map[string]reconcile.Controller{}
	for typ, k := range s.kinds {
		if k.Controller != nil {
			out[typ] = k.Controller
		}
	}
	return out
}

// claims tells what an entry asks for of spaces that are shared.
func (s *Service) claims(e *record.Entry) []record.Want {
	ask := s.kinds[e.Kind.Type].Claims
	if ask == nil {
		return nil
	}
	return ask(e.Object.Spec(), e.Record.GetReferences())
}

// Stats are figures of a service in this process.
type Stats struct {
	// FenceRejections counts the writes that the store refused because this replica had lost what it took for its own.
	FenceRejections int64
	// Shards is how many shards of the records this replica works on now.
	Shards int
}

// Stats gives the figures as they stand.
func (s *Service) Stats() Stats {
	out := Stats{FenceRejections: s.fenced.Load() + s.book.FenceRejections()}
	if s.loop != nil {
		out.Shards = s.loop.Shards()
	}
	return out
}

func (s *Service) readKinds() error {
	messages := make([]proto.Message, 0, len(s.catalog.Kinds))
	for _, k := range s.catalog.Kinds {
		messages = append(messages, k.Message)
	}
	own, err := resource.NewRegistry(messages...)
	if err != nil {
		return fault.Wrap(err, "read the catalog of %s", s.catalog.Service)
	}
	linked, err := resource.Linked()
	if err != nil {
		return fault.Wrap(err, "read the kinds")
	}
	s.own, s.linked = own, linked
	for i, k := range own.Kinds() {
		s.kinds[k.Type] = s.catalog.Kinds[i]
	}
	return nil
}

// Collectors gives the metrics of the service.
func (s *Service) Collectors() []prometheus.Collector {
	out := []prometheus.Collector{s.outbox, s}
	if s.inbox != nil {
		out = append(out, s.inbox)
	}
	return out
}

// Book gives the service's records.
func (s *Service) Book() *record.Book { return s.book }

// Register registers the gRPC services of all kinds, the operations and the participant's.
func (s *Service) Register(server grpc.ServiceRegistrar) error {
	for _, k := range s.own.Kinds() {
		if err := s.registerKind(server, k); err != nil {
			return err
		}
	}
	if s.accounts != nil && !s.catalog.Within {
		participantv1.RegisterParticipantServiceServer(server, s.Participant())
		participantv1.RegisterImportParticipantServiceServer(server, &importServer{s: s})
	}
	return nil
}

// Participant gives what answers the other services.
func (s *Service) Participant() participantv1.ParticipantServiceServer {
	return &participantServer{s: s}
}

// Run works until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.outbox.Run(ctx) })
	if s.budgets != nil {
		g.Go(func() error { return s.budgets.Run(ctx) })
	}
	if s.loop != nil {
		g.Go(func() error { return s.loop.Run(ctx) })
		g.Go(func() error {
			return s.spread.Run(ctx, func(ctx context.Context, o *shard.Owned) error { return s.loop.Own(ctx, o) })
		})
		for _, p := range bus.Priorities {
			if s.catalog.Within {
				break
			}
			g.Go(func() error {
				return s.deps.Bus.Consume(ctx, bus.CommandQueue(s.catalog.Service, p), 32, s.inbox.Handle)
			})
		}
	}
	return g.Wait()
}

// Resolve gives the resource of a name and key: from the own records, or from the service that owns its kind.
func (s *Service) Resolve(ctx context.Context, name, key string) (proto.Message, error) {
	kind, _, err := s.linked.Of(name)
	if err != nil {
		return nil, err
	}
	if _, own := s.own.ByType(kind.Type); own {
		return s.resolveOwn(ctx, name, key)
	}
	peer, ok := s.deps.Peers[kind.Service]
	if !ok {
		return nil, fault.New(fault.Unavailable, "resolve %s: no connection to the %s service", name, kind.Service)
	}
	answer, err := participantv1.NewParticipantServiceClient(peer).Resolve(ctx, &participantv1.ResolveRequest{Name: name, Key: key})
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	m, err := answer.GetResource().UnmarshalNew()
	if err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "decode %s", name))
	}
	return m, nil
}

// Secret gives the value of a secret output: of an own resource from its provider, else from the service that owns its kind.
func (s *Service) Secret(ctx context.Context, name, key, field string) (string, error) {
	kind, _, err := s.linked.Of(name)
	if err != nil {
		return "", err
	}
	if _, own := s.own.ByType(kind.Type); own {
		return s.secretOfOwn(ctx, name, key, field)
	}
	peer, ok := s.deps.Peers[kind.Service]
	if !ok {
		return "", fault.New(fault.Unavailable, "open a secret of %s: no connection to the %s service", name, kind.Service)
	}
	answer, err := participantv1.NewParticipantServiceClient(peer).OpenSecret(ctx, &participantv1.OpenSecretRequest{Name: name, Key: key, Field: field})
	return answer.GetValue(), fault.FromStatus(err)
}

// secretOfOwn reads a secret output of a resource of this service from its provider.
func (s *Service) secretOfOwn(ctx context.Context, name, key, field string) (string, error) {
	e, err := s.book.Get(ctx, record.ID{Name: name, Key: key})
	if err != nil {
		return "", err
	}
	f := e.Kind.Observed.Fields().ByName(protoreflect.Name(field))
	if f == nil || !resource.FieldOptionsOf(f).GetSecret() || e.Object.Status().GetProviderId() == "" {
		return "", fault.New(fault.NotFound, "%s has no secret output %s", name, field)
	}
	account, err := s.accounts.Account(ctx, e, nil)
	if err != nil {
		return "", err
	}
	d, ok := account.Session.Drivers[e.Kind.Type]
	if !ok {
		return "", fault.New(fault.Unsupported, "%s has no driver for %s", account.Name, e.Kind.Name)
	}
	source, ok := d.SecretSource()
	if !ok {
		return "", fault.New(fault.NotFound, "%s has no secret output %s", name, field)
	}
	return source.OpenSecret(ctx, e.Object.Status().GetProviderId(), field)
}

func (s *Service) resolveOwn(ctx context.Context, name, key string) (proto.Message, error) {
	var e *record.Entry
	var err error
	if key == "" {
		e, err = s.book.Current(ctx, name)
	} else {
		e, err = s.book.Get(ctx, record.ID{Name: name, Key: key})
	}
	if err != nil {
		return nil, err
	}
	return e.Object.Message(), nil
}
