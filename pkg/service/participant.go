package service

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/installation"
	"github.com/weftcloud/weft/pkg/reconcile"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// participantServer answers the other services.
type participantServer struct {
	participantv1.UnimplementedParticipantServiceServer

	s *Service
}

func (p *participantServer) Query(ctx context.Context, r *participantv1.QueryRequest) (*participantv1.QueryResponse, error) {
	outcome, known, err := p.s.inbox.Query(ctx, record.ID{Name: r.GetName(), Key: r.GetKey()}, r.GetOrigin())
	if err != nil {
		return nil, err
	}
	return &participantv1.QueryResponse{Known: known, Outcome: outcome}, nil
}

func (p *participantServer) Resolve(ctx context.Context, r *participantv1.ResolveRequest) (*participantv1.ResolveResponse, error) {
	m, err := p.s.resolveOwn(ctx, r.GetName(), r.GetKey())
	if err != nil {
		return nil, err
	}
	packed, err := anypb.New(m)
	if err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "encode %s", r.GetName()))
	}
	return &participantv1.ResolveResponse{Resource: packed}, nil
}

func (p *participantServer) Expand(_ context.Context, r *participantv1.ExpandRequest) (*participantv1.ExpandResponse, error) {
	kind, ok := p.s.kinds[r.GetItem().GetType()]
	if !ok || kind.Expand == nil {
		return nil, fault.New(fault.Unsupported, "%s is no composite kind of the %s service", r.GetItem().GetType(), p.s.catalog.Service)
	}
	return kind.Expand(r.GetItem())
}

func (p *participantServer) Preflight(ctx context.Context, r *participantv1.PreflightRequest) (*participantv1.PreflightResponse, error) {
	items := make([]wanted, 0, len(r.GetItems()))
	for _, i := range r.GetItems() {
		w, err := p.s.wanted(i)
		if err != nil {
			return nil, err
		}
		items = append(items, w)
	}
	return p.s.preflight(ctx, items)
}

func (p *participantServer) Probe(ctx context.Context, r *participantv1.ProbeRequest) (*participantv1.ProbeResponse, error) {
	account, err := p.s.accounts.cloud(ctx, r.GetCloud(), "")
	if fault.Is(err, fault.Unsupported) {
		return &participantv1.ProbeResponse{}, nil // this service has nothing at such a cloud
	}
	if err != nil {
		return nil, err
	}
	features, err := account.Session.Probe(ctx)
	if err != nil {
		return nil, fault.Wrap(err, "probe %s", r.GetCloud())
	}
	out := &participantv1.ProbeResponse{}
	for _, f := range features {
		out.Features = append(out.Features, &participantv1.Feature{
			Service: f.Service, Name: f.Name, Value: f.Value, ProbeTime: timestamppb.New(p.s.deps.Now()),
		})
	}
	return out, nil
}

func (p *participantServer) OpenSecret(ctx context.Context, r *participantv1.OpenSecretRequest) (*participantv1.OpenSecretResponse, error) {
	value, err := p.s.secretOfOwn(ctx, r.GetName(), r.GetKey(), r.GetField())
	if err != nil {
		return nil, err
	}
	return &participantv1.OpenSecretResponse{Value: value}, nil
}

func (p *participantServer) ListLedger(ctx context.Context, r *participantv1.ListLedgerRequest) (*participantv1.ListLedgerResponse, error) {
	tenant := resource.TenantOf(r.GetTenant())
	prefix := ""
	if tenant != "" {
		prefix = "tenants/" + tenant + "/"
	}
	entries, _, err := p.s.book.List(ctx, prefix, record.ID{}, 0)
	if err != nil {
		return nil, err
	}
	out := &participantv1.ListLedgerResponse{}
	entries = slices.DeleteFunc(entries, func(e *record.Entry) bool { return p.s.kinds[e.Kind.Type].Local != nil }) // nothing stands for them anywhere
	for _, e := range entries {
		out.Entries = append(out.Entries, ledgerEntry(e))
	}
	if !r.GetOrphans() {
		return out, nil
	}
	for _, account := range p.accountsOf(ctx, r.GetClouds(), entries, out) {
		p.orphans(ctx, account, tenant, out)
	}
	return out, nil
}

func ledgerEntry(e *record.Entry) *participantv1.LedgerEntry {
	meta, status := e.Object.Metadata(), e.Object.Status()
	return &participantv1.LedgerEntry{
		Name: e.Name, Type: e.Kind.Type, Cloud: e.Object.Cloud(), Key: e.Key, ProviderId: status.GetProviderId(),
		Phase: status.GetPhase(), Stack: meta.GetStack(), CreateTime: meta.GetCreateTime(),
	}
}

// accountsOf gives the accounts to look for orphans in: the clouds', and those of the clusters that are kept here.
func (p *participantServer) accountsOf(ctx context.Context, clouds []string, entries []*record.Entry, out *participantv1.ListLedgerResponse) []*reconcile.Account {
	var accounts []*reconcile.Account
	note := func(a *reconcile.Account, err error) {
		switch {
		case fault.Is(err, fault.Unsupported): // this service has nothing there
		case err != nil:
			out.Unreachable = append(out.Unreachable, fault.Proto(err, p.s.deps.Now()))
		default:
			accounts = append(accounts, a)
		}
	}
	for _, c := range clouds {
		if n, err := resource.ParseName(c); err == nil && n.Tenant != "" { // a tenant's own project at a cloud
			note(p.s.accounts.cloud(ctx, "clouds/"+n.ID, n.Tenant))
			continue
		}
		note(p.s.accounts.cloud(ctx, c, ""))
	}
	for _, e := range entries {
		if f := e.Object.Spec().ProtoReflect().Descriptor().Fields().ByName("credentials"); f != nil {
			note(p.s.accounts.Account(ctx, e, nil))
		}
	}
	return accounts
}

// orphans adds the objects of an account that bear our mark and have no record.
func (p *participantServer) orphans(ctx context.Context, account *reconcile.Account, tenant string, out *participantv1.ListLedgerResponse) {
	for typ, d := range account.Session.Drivers {
		lister, ok := d.Lister()
		if !ok {
			continue
		}
		marked, err := lister.ListMarked(ctx)
		if err != nil {
			out.Unreachable = append(out.Unreachable, fault.Proto(fault.Wrap(err, "list %s at %s", typ, account.Name), p.s.deps.Now()))
			continue
		}
		for _, m := range marked {
			if tenant != "" && resource.TenantOf(m.Name) != tenant || !installation.Owns(p.s.deps.Installation, m.Key) {
				continue
			}
			known, err := p.recordOf(ctx, m)
			if err != nil {
				out.Unreachable = append(out.Unreachable, fault.Proto(err, p.s.deps.Now()))
			}
			if err != nil || known != nil {
				continue
			}
			out.Entries = append(out.Entries, &participantv1.LedgerEntry{
				Name: m.Name, Type: typ, Cloud: account.Name, Key: m.Key, ProviderId: m.ID, Orphan: !m.Kept, Kept: m.Kept,
			})
		}
	}
}

// wanted is one resource that a plan touches, with its specs as messages.
type wanted struct {
	name    string
	kind    *resource.Kind
	cloud   string
	spec    proto.Message // nil if the resource goes away
	former  proto.Message // nil if nothing stands
	unknown []string
	change  kindv1.Change
}

func (s *Service) wanted(i *participantv1.Item) (wanted, error) {
	kind, ok := s.own.ByType(i.GetType())
	if !ok {
		return wanted{}, fault.New(fault.Invalid, "preflight of %s: this service has no kind %s", i.GetName(), i.GetType())
	}
	w := wanted{name: i.GetName(), kind: kind, cloud: i.GetCloud(), unknown: i.GetUnknown(), change: i.GetChange()}
	var err, formerErr error
	if i.GetSpec() != nil {
		w.spec, err = resource.FromStruct(kind, i.GetSpec())
	}
	if i.GetFormer() != nil {
		w.former, formerErr = resource.FromStruct(kind, i.GetFormer())
	}
	return w, fault.Wrap(errors.Join(err, formerErr), "preflight of %s", i.GetName())
}

// item gives a wanted resource as drivers want it.
func (w wanted) item(refs, planned driver.Refs) driver.Item[proto.Message] {
	return driver.Item[proto.Message]{Name: w.name, Spec: w.spec, Former: w.former, Unknown: w.unknown, Change: w.change, Refs: refs, Planned: planned}
}
