package stack

import (
	"context"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/service"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/plan"
)

// Composites answers the services that own composite kinds: what of these kinds stands in stacks. A composite resource
// has no record of its own; it is what its stack keeps of it, and its children as their services see them now. One that
// was made by its own API is left out: that API finds it by its stack (service.Alone).
type Composites struct {
	participantv1.UnimplementedParticipantServiceServer

	// Stacks are the stacks.
	Stacks *Server
}

// ListLedger lists the composite resources of a tenant's stacks, without their phases.
func (c *Composites) ListLedger(ctx context.Context, r *participantv1.ListLedgerRequest) (*participantv1.ListLedgerResponse, error) {
	tenant, err := resource.ParseParent(r.GetTenant())
	if err != nil {
		return nil, err
	}
	out := &participantv1.ListLedgerResponse{}
	for last, more := "", true; more; {
		var records []*orchestratorv1.StackRecord
		if records, more, err = c.Stacks.Engine.Stacks(ctx, tenant, last, largestPage); err != nil {
			return nil, err
		}
		for _, record := range records {
			last = record.GetStack().GetName()
			found, err := c.of(ctx, record)
			if err != nil {
				return nil, err
			}
			for _, s := range found {
				out.Entries = append(out.Entries, &participantv1.LedgerEntry{Name: s.GetName(), Type: s.GetType(), Cloud: s.GetCloud(), Stack: last})
			}
		}
	}
	return out, nil
}

// of gives the composite resources of a stack; none if the stack is one that a resource's own API made.
func (c *Composites) of(ctx context.Context, record *orchestratorv1.StackRecord) ([]*orchestratorv1.StandingResource, error) {
	alone, err := service.Alone(c.Stacks.Kinds, record.GetStack())
	if err != nil || alone != nil {
		return nil, err
	}
	all, err := c.Stacks.members(ctx, record)
	return slices.DeleteFunc(all, func(s *orchestratorv1.StandingResource) bool { return !s.GetComposite() }), err
}

// Resolve gives a composite resource of a stack; NotFound if there is none of the name.
func (c *Composites) Resolve(ctx context.Context, r *participantv1.ResolveRequest) (*participantv1.ResolveResponse, error) {
	n, err := resource.ParseName(r.GetName())
	if err != nil {
		return nil, err
	}
	missing := fault.New(fault.NotFound, "%s does not exist", r.GetName())
	id, _, ok := strings.Cut(n.ID, ".")
	if !ok {
		return nil, missing
	}
	record, _, err := c.Stacks.Engine.ReadStack(ctx, resource.Name{Tenant: n.Tenant, Collection: "stacks", ID: id}.String())
	if fault.Is(err, fault.NotFound) {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	found, err := c.of(ctx, record)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(found, func(s *orchestratorv1.StandingResource) bool { return s.GetName() == r.GetName() })
	if i < 0 {
		return nil, missing
	}
	m, err := c.show(ctx, record, found[i])
	if err != nil {
		return nil, err
	}
	packed, err := anypb.New(m)
	return &participantv1.ResolveResponse{Resource: packed}, fault.As(fault.Internal, fault.Wrap(err, "encode %s", r.GetName()))
}

// show gives a composite resource as its API shows it.
func (c *Composites) show(ctx context.Context, record *orchestratorv1.StackRecord, s *orchestratorv1.StandingResource) (proto.Message, error) {
	all, err := c.Stacks.members(ctx, record)
	if err != nil {
		return nil, err
	}
	resolver, err := plan.NewResolver(c.Stacks.Kinds, all)
	if err != nil {
		return nil, err
	}
	inputs, err := resolver.ShownInputs(s)
	if err != nil {
		return nil, err
	}
	seen, err := c.see(ctx, all, inputs)
	if err != nil {
		return nil, err
	}
	n, err := resource.ParseName(record.GetStack().GetName())
	if err != nil {
		return nil, err
	}
	spec, observed, err := resolver.Composite(s, n.Tenant, n.ID, seen.outputs())
	if err != nil {
		return nil, err
	}
	kind, ok := c.Stacks.Kinds.ByType(s.GetType())
	if !ok {
		return nil, fault.New(fault.Internal, "show %s: there is no kind %s", s.GetName(), s.GetType())
	}
	out := resource.Wrap(kind.New())
	out.SetName(s.GetName())
	out.SetCloud(s.GetCloud())
	out.SetSpec(spec)
	out.SetObserved(observed)
	meta := out.Metadata()
	meta.Stack, meta.Etag = record.GetStack().GetName(), record.GetStack().GetMetadata().GetEtag()
	meta.DeleteTime = record.GetStack().GetMetadata().GetDeleteTime()
	c.gather(out, record, seen.childrenOf(s.GetLocalName()))
	return out.Message(), nil
}

// sight is one member of a stack as its service sees it; the object's message is nil if it sees none.
type sight struct {
	member *orchestratorv1.StandingResource
	object proto.Message
	status *kindv1.Status
}

type sights []sight

// see asks the services about the members of the given local names.
func (c *Composites) see(ctx context.Context, all []*orchestratorv1.StandingResource, locals []string) (sights, error) {
	var out sights
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for _, m := range all {
		if m.GetComposite() || !slices.Contains(locals, m.GetLocalName()) {
			continue
		}
		g.Go(func() error {
			one, err := c.look(ctx, m)
			mu.Lock()
			defer mu.Unlock()
			out = append(out, one)
			return err
		})
	}
	err := g.Wait()
	slices.SortFunc(out, func(a, b sight) int { return strings.Compare(a.member.GetLocalName(), b.member.GetLocalName()) })
	return out, err
}

func (c *Composites) look(ctx context.Context, m *orchestratorv1.StandingResource) (sight, error) {
	kind, ok := c.Stacks.Kinds.ByType(m.GetType())
	if !ok {
		return sight{}, fault.New(fault.Internal, "show %s: there is no kind %s", m.GetName(), m.GetType())
	}
	object, err := c.Stacks.resolve(ctx, kind, m.GetName(), m.GetKey())
	switch {
	case fault.Is(err, fault.NotFound):
		return sight{member: m, status: &kindv1.Status{Phase: kindv1.Phase_PHASE_PENDING}}, nil
	case fault.Is(err, fault.Unavailable): // it is shown that it cannot be seen
		return sight{member: m, status: &kindv1.Status{Fault: fault.Proto(err, c.Stacks.Now())}}, nil
	case err != nil:
		return sight{}, err
	}
	return sight{member: m, object: object, status: resource.Wrap(object).Status()}, nil
}

// outputs gives what was observed, by local name.
func (s sights) outputs() map[string]proto.Message {
	out := map[string]proto.Message{}
	for _, one := range s {
		if one.object == nil {
			continue
		}
		if observed := resource.Wrap(one.object).Observed(); proto.Size(observed) > 0 { // else it was never seen
			out[one.member.GetLocalName()] = observed
		}
	}
	return out
}

func (s sights) childrenOf(local string) sights {
	return slices.DeleteFunc(slices.Clone(s), func(one sight) bool { return one.member.GetParent() != local })
}

// gather gives a composite resource what its children have in common, and the least settled of their phases.
func (c *Composites) gather(out resource.Object, record *orchestratorv1.StackRecord, children sights) {
	meta, status := out.Metadata(), out.Status()
	phase := -1
	for _, child := range children {
		st := child.status
		phase = max(phase, slices.Index(worse, st.GetPhase()))
		if status.GetFault() == nil {
			status.Fault = st.GetFault()
		}
		status.Blockers = append(status.Blockers, st.GetBlockers()...)
		if t := st.GetPhaseTime(); t != nil && (status.GetPhaseTime() == nil || t.AsTime().After(status.GetPhaseTime().AsTime())) {
			status.PhaseTime = t
		}
		if t := st.GetObserveTime(); t != nil && (status.GetObserveTime() == nil || t.AsTime().Before(status.GetObserveTime().AsTime())) {
			status.ObserveTime = t
		}
		meta.Labels = child.member.GetLabels() // the composite's own, which all of its children bear
		if child.object == nil {
			continue
		}
		of := resource.Wrap(child.object).Metadata()
		if t := of.GetCreateTime(); t != nil && (meta.GetCreateTime() == nil || t.AsTime().Before(meta.GetCreateTime().AsTime())) {
			meta.CreateTime = t
		}
		if t := of.GetUpdateTime(); t != nil && (meta.GetUpdateTime() == nil || t.AsTime().After(meta.GetUpdateTime().AsTime())) {
			meta.UpdateTime = t
		}
	}
	if phase >= 0 {
		status.Phase = worse[phase]
	}
	if record.GetStack().GetState() == orchestratorv1.StackState_STACK_STATE_DELETING && status.GetPhase() != kindv1.Phase_PHASE_FAILED {
		status.Phase = kindv1.Phase_PHASE_RELEASING
	}
}
