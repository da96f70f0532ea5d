package stack

import (
	"context"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// drifted gives what is kept of a stack as a plan has to see it that brings back what drifted: what is gone or broken can
// only be made anew, and of what was changed it is not certain that it stands as asked.
func (s *Server) drifted(ctx context.Context, record *orchestratorv1.StackRecord) (*orchestratorv1.StackRecord, error) {
	out := proto.CloneOf(record)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for _, r := range out.GetStanding() {
		if r.GetComposite() {
			continue
		}
		g.Go(func() error {
			drift, err := s.drift(ctx, r)
			switch drift.GetType() {
			case kindv1.DriftType_DRIFT_TYPE_MISSING:
				r.Releasing, r.Draws = true, nil // what is made in its place takes what it took
			case kindv1.DriftType_DRIFT_TYPE_FAILED:
				r.Releasing = true
			case kindv1.DriftType_DRIFT_TYPE_CHANGED:
				r.Unsure = true
			default:
			}
			return err
		})
	}
	return out, g.Wait()
}

// drift gives how a resource drifted, as the service that owns it saw it last; nil if it did not. One that its service does
// not know is gone.
func (s *Server) drift(ctx context.Context, r *orchestratorv1.StandingResource) (*kindv1.Drift, error) {
	kind, _, err := s.Kinds.Of(r.GetName())
	if err != nil {
		return nil, err
	}
	m, err := s.resolve(ctx, kind, r.GetName(), r.GetKey())
	if fault.Is(err, fault.NotFound) {
		return &kindv1.Drift{Type: kindv1.DriftType_DRIFT_TYPE_MISSING}, nil
	}
	if err != nil {
		return nil, fault.Wrap(err, "ask how %s drifted", r.GetName())
	}
	return resource.Wrap(m).Status().GetDrift(), nil
}
