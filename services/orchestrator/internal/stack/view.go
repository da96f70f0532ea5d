package stack

import (
	"context"
	"slices"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// View gives a stack by name, as clients see it.
func (s *Server) View(ctx context.Context, name string) (*orchestratorv1.Stack, error) {
	return s.GetStack(ctx, &orchestratorv1.GetStackRequest{Name: name})
}

// view shows a stack: what is kept of it, and its resources as the services see them now.
func (s *Server) view(ctx context.Context, record *orchestratorv1.StackRecord) (*orchestratorv1.Stack, error) {
	out := proto.CloneOf(record.GetStack())
	standing, err := s.members(ctx, record)
	if err != nil {
		return nil, err
	}
	out.Resources = make([]*orchestratorv1.StackResource, len(standing))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, m := range standing {
		out.Resources[i] = &orchestratorv1.StackResource{
			LocalName: m.GetLocalName(), Name: m.GetName(), Type: m.GetType(), Key: m.GetKey(), Parent: m.GetParent(), Cloud: m.GetCloud(), Needs: m.GetNeeds(),
		}
		if !m.GetComposite() {
			g.Go(func() error { return s.look(ctx, out.Resources[i]) })
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out.RepairHeld = s.heldRepair(record, out.GetResources())
	compose(out.Resources)
	return out, nil
}

// members gives the resources of a stack; while a saga works on it, those that it makes and those that it takes away.
func (s *Server) members(ctx context.Context, record *orchestratorv1.StackRecord) ([]*orchestratorv1.StandingResource, error) {
	out := slices.Clone(record.GetStanding())
	if record.GetStack().GetState() != orchestratorv1.StackState_STACK_STATE_CHANGING {
		return out, nil
	}
	p, err := s.Engine.Plan(ctx, record.GetStack().GetOperation())
	if fault.Is(err, fault.NotFound) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	next := slices.Clone(p.GetStanding())
	for _, former := range out {
		if !slices.ContainsFunc(next, func(n *orchestratorv1.StandingResource) bool {
			return n.GetLocalName() == former.GetLocalName() && (former.GetComposite() || n.GetKey() == former.GetKey())
		}) {
			next = append(next, former)
		}
	}
	return next, nil
}

// look asks the service that owns a resource where it stands. One that it does not know is pending.
func (s *Server) look(ctx context.Context, r *orchestratorv1.StackResource) error {
	kind, _, err := s.Kinds.Of(r.GetName())
	if err != nil {
		return err
	}
	m, err := s.resolve(ctx, kind, r.GetName(), r.GetKey())
	if fault.Is(err, fault.NotFound) {
		r.Status = &kindv1.Status{Phase: kindv1.Phase_PHASE_PENDING}
		return nil
	}
	if fault.Is(err, fault.Unavailable) {
		r.Status = &kindv1.Status{Fault: fault.Proto(err, s.Now())} // it is shown that it cannot be seen
		return nil
	}
	if err != nil {
		return err
	}
	object := resource.Wrap(m)
	r.Status, r.CreateTime = object.Status(), object.Metadata().GetCreateTime()
	return nil
}

// worse orders phases: a composite resource is in the least settled phase of its children.
var worse = []kindv1.Phase{
	kindv1.Phase_PHASE_READY, kindv1.Phase_PHASE_UNSPECIFIED, kindv1.Phase_PHASE_UPDATING, kindv1.Phase_PHASE_CREATING,
	kindv1.Phase_PHASE_PENDING, kindv1.Phase_PHASE_RELEASING, kindv1.Phase_PHASE_FAILED,
}

// compose gives composite resources the phase and age of their children.
func compose(resources []*orchestratorv1.StackResource) {
	for _, c := range resources {
		if c.GetStatus() != nil {
			continue
		}
		c.Status = &kindv1.Status{}
		phase := -1
		for _, r := range resources {
			if r.GetParent() != c.GetLocalName() {
				continue
			}
			phase = max(phase, slices.Index(worse, r.GetStatus().GetPhase()))
			if c.GetCreateTime() == nil || (r.GetCreateTime() != nil && r.GetCreateTime().AsTime().Before(c.GetCreateTime().AsTime())) {
				c.CreateTime = r.GetCreateTime()
			}
		}
		if phase >= 0 {
			c.Status.Phase = worse[phase]
		}
	}
}
