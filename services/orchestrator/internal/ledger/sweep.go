package ledger

import (
	"context"

	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// SweepOrphans passes orphans on to the services that own their kinds. An orphan is the caller's only if its mark names the
// caller's tenant; what the service finds out about it then decides.
func (s *Server) SweepOrphans(ctx context.Context, r *orchestratorv1.SweepOrphansRequest) (*orchestratorv1.SweepOrphansResponse, error) {
	if r.GetParent() == all {
		if id, ok := auth.FromContext(ctx); !ok || !id.Platform() {
			return nil, fault.New(fault.Denied, "only operators may sweep the orphans of all tenants")
		}
	}
	out := &orchestratorv1.SweepOrphansResponse{Swept: make([]*participantv1.Swept, len(r.GetOrphans()))}
	requests, places := map[string]*participantv1.SweepRequest{}, map[string][]int{}
	for i, o := range r.GetOrphans() {
		kind, ok := s.Kinds.ByType(o.GetType())
		switch {
		case !ok || s.service(kind.Service) == nil:
			return nil, fault.InField("orphans", "%s: there is no kind %s", o.GetProviderId(), o.GetType())
		case r.GetParent() != all && "tenants/"+resource.TenantOf(o.GetName()) != r.GetParent():
			return nil, fault.New(fault.Denied, "%s (%s) is not an orphan of %s", o.GetProviderId(), o.GetName(), r.GetParent())
		}
		if requests[kind.Service] == nil {
			requests[kind.Service] = &participantv1.SweepRequest{}
		}
		requests[kind.Service].Orphans = append(requests[kind.Service].Orphans, o)
		places[kind.Service] = append(places[kind.Service], i)
	}
	for name, request := range requests {
		answer, err := s.service(name)(ctx, request)
		for n, i := range places[name] {
			switch {
			case err != nil:
				f := fault.Proto(fault.Wrap(fault.FromStatus(err), "ask the %s service", name), s.Now())
				out.Swept[i] = &participantv1.Swept{Orphan: r.GetOrphans()[i], Fault: f}
			case n < len(answer.GetSwept()):
				out.Swept[i] = answer.GetSwept()[n]
			}
		}
	}
	return out, nil
}

// service gives what sweeps for a service; nil if there is none.
func (s *Server) service(name string) func(context.Context, *participantv1.SweepRequest) (*participantv1.SweepResponse, error) {
	if name == "orchestrator" {
		return s.Own.Sweep
	}
	peer, ok := s.Peers[name]
	if !ok {
		return nil
	}
	return func(ctx context.Context, r *participantv1.SweepRequest) (*participantv1.SweepResponse, error) {
		return participantv1.NewParticipantServiceClient(peer).Sweep(ctx, r)
	}
}
