// Package ledger lists all that exists because of us, over all services.
package ledger

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/service"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/cloud"
	"github.com/weftcloud/weft/services/orchestrator/internal/project"
)

// Server serves weft.orchestrator.v1.LedgerService.
type Server struct {
	orchestratorv1.UnimplementedLedgerServiceServer

	Book *record.Book
	// Own answers for what the orchestrator itself has at clouds.
	Own   participantv1.ParticipantServiceServer
	Kinds *resource.Registry
	Peers service.Peers
	Now   func() time.Time
}

// all stands for every tenant (AIP-159).
const all = "tenants/-"

// ListLedgerEntries asks every service. One that cannot be asked is named in the answer: an incomplete ledger says so.
func (s *Server) ListLedgerEntries(ctx context.Context, r *orchestratorv1.ListLedgerEntriesRequest) (*orchestratorv1.ListLedgerEntriesResponse, error) {
	request := &participantv1.ListLedgerRequest{Tenant: r.GetParent(), Orphans: r.GetOrphans()}
	if r.GetParent() == all {
		if id, ok := auth.FromContext(ctx); !ok || !id.Platform() {
			return nil, fault.New(fault.Denied, "only operators may list the ledger of all tenants")
		}
		request.Tenant = ""
	}
	own, silent := proto.CloneOf(request), map[string]error{}
	if r.GetOrphans() {
		var err error
		if request.Clouds, own.Clouds, err = s.clouds(ctx, request.GetTenant(), silent); err != nil {
			return nil, err
		}
	}
	out := &orchestratorv1.ListLedgerEntriesResponse{}
	for name := range s.Peers {
		answer, err := s.ask(ctx, name, request, silent)
		if err != nil {
			out.Unreachable = append(out.Unreachable, fault.Proto(err, s.Now()))
			continue
		}
		out.Entries = append(out.Entries, answer.GetEntries()...)
		out.Unreachable = append(out.Unreachable, answer.GetUnreachable()...)
	}
	answer, err := s.Own.ListLedger(ctx, own)
	if err != nil {
		return nil, err
	}
	out.Entries = append(out.Entries, answer.GetEntries()...)
	out.Unreachable = append(out.Unreachable, answer.GetUnreachable()...)
	slices.SortFunc(out.Entries, func(a, b *participantv1.LedgerEntry) int {
		return strings.Compare(a.GetName()+" "+a.GetKey(), b.GetName()+" "+b.GetKey())
	})
	return out, nil
}

// ask asks a service. One that did not answer is not asked again: silent holds why, so that it is named in the answer whichever
// question it was that it left open.
func (s *Server) ask(ctx context.Context, name string, r *participantv1.ListLedgerRequest, silent map[string]error) (*participantv1.ListLedgerResponse, error) {
	if silent[name] != nil {
		return nil, silent[name]
	}
	answer, err := participantv1.NewParticipantServiceClient(s.Peers[name]).ListLedger(ctx, r)
	if err != nil {
		silent[name] = fault.Wrap(fault.FromStatus(err), "ask the %s service", name)
	}
	return answer, silent[name]
}

// clouds gives where to look for what bears our mark: everywhere, that is, in each cloud and in the projects there of the
// tenant, or of all; and the clouds alone, whose own credentials show the projects themselves. Of the clouds that the tenant
// may not use those count in which it has something, from when it could: it knows them, and what was left there is its own.
// The others are left out: not even the name of one, in what it answers or fails to, is the tenant's to know.
func (s *Server) clouds(ctx context.Context, tenant string, silent map[string]error) (everywhere, clouds []string, err error) {
	entries, _, err := s.Book.List(ctx, "clouds/", record.ID{}, 0)
	if err != nil {
		return nil, nil, err
	}
	var closed []string
	for _, e := range entries {
		spec, ok := e.Object.Spec().(*orchestratorv1.CloudSpec)
		if !ok {
			return nil, nil, fault.New(fault.Internal, "%s is kept as something else than a cloud", e.Name)
		}
		if tenant == "" || cloud.Allows(spec, tenant) {
			clouds = append(clouds, e.Name)
		} else {
			closed = append(closed, e.Name)
		}
	}
	if len(closed) > 0 {
		has, err := s.has(ctx, tenant, silent)
		if err != nil {
			return nil, nil, err
		}
		clouds = append(clouds, slices.DeleteFunc(closed, func(name string) bool { return !has[name] })...)
	}
	if tenant == "" {
		tenant = "tenants"
	}
	if entries, _, err = s.Book.List(ctx, tenant+"/", record.ID{}, 0); err != nil {
		return nil, nil, err
	}
	everywhere = slices.Clone(clouds)
	for _, e := range entries {
		if e.Kind.Type == project.Type {
			everywhere = append(everywhere, e.Name)
		}
	}
	return everywhere, clouds, nil
}

// has gives the clouds in which a tenant has a record, its project there included. What a service that does not answer knows
// of is missing; silent then names it.
func (s *Server) has(ctx context.Context, tenant string, silent map[string]error) (map[string]bool, error) {
	request := &participantv1.ListLedgerRequest{Tenant: tenant}
	own, err := s.Own.ListLedger(ctx, request)
	if err != nil {
		return nil, err
	}
	entries := own.GetEntries()
	for name := range s.Peers {
		if answer, err := s.ask(ctx, name, request, silent); err == nil {
			entries = append(entries, answer.GetEntries()...)
		}
	}
	out := map[string]bool{}
	for _, e := range entries {
		out[e.GetCloud()] = true
	}
	return out, nil
}
