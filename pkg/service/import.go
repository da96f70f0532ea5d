package service

import (
	"context"
	"slices"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/reconcile"
	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// importServer describes what stands at clouds, whoever made it.
type importServer struct {
	participantv1.UnimplementedImportParticipantServiceServer

	s *Service
}

// DescribeObjects implements weft.participant.v1.ImportParticipantService.
func (i *importServer) DescribeObjects(ctx context.Context, r *participantv1.DescribeObjectsRequest) (*participantv1.DescribeObjectsResponse, error) {
	tenant, err := resource.ParseParent(r.GetTenant())
	if err != nil {
		return nil, err
	}
	out := &participantv1.DescribeObjectsResponse{}
	account, err := i.s.accounts.cloud(ctx, r.GetCloud(), tenant)
	if fault.Is(err, fault.Unsupported) {
		return out, nil // this service has nothing at such a cloud
	}
	if err != nil {
		return nil, err
	}
	found := map[*resource.Kind][]driver.Described{}
	kinds := i.s.own.Kinds()
	for _, kind := range kinds {
		if kind.Options.GetPlacement() != kindv1.Placement_PLACEMENT_CLOUD || kind.Options.GetComposite() {
			continue
		}
		ids, wanted := idsOf(r.GetObjects(), kind.Type)
		if !wanted {
			continue
		}
		described, ok, err := account.Describe(ctx, kind.Type, tenant, ids)
		if err != nil {
			return nil, fault.Wrap(err, "describe the kind %s at %s", kind.Name, r.GetCloud())
		}
		if !ok {
			out.Unsupported = append(out.Unsupported, kind.Type)
			continue
		}
		found[kind] = described
	}
	owners, err := reconcile.ReadOwners(ctx, i.s.book)
	if err != nil {
		return nil, err
	}
	for _, kind := range kinds {
		claimant := reconcile.Claimant{Type: kind.Type, Cloud: r.GetCloud(), Tenant: tenant, Installation: i.s.deps.Installation}
		for _, d := range found[kind] {
			o, err := i.object(owners, claimant, d)
			if err != nil {
				return nil, err
			}
			out.Objects = append(out.Objects, o)
		}
	}
	return out, nil
}

// idsOf gives the ids that are asked for of a type; all, which is none, if none of any type are.
func idsOf(objects []*participantv1.ObjectIds, typ string) (ids []string, wanted bool) {
	if len(objects) == 0 {
		return nil, true
	}
	for _, o := range objects {
		if o.GetType() == typ {
			ids = append(ids, o.GetIds()...)
		}
	}
	return ids, len(ids) > 0
}

// object gives one described object, and whose it is.
func (i *importServer) object(owners *reconcile.Owners, c reconcile.Claimant, d driver.Described) (*participantv1.DescribedObject, error) {
	spec, err := anypb.New(d.Spec)
	if err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "encode the spec of %s", d.ID))
	}
	out := &participantv1.DescribedObject{Type: c.Type, Id: d.ID, Name: d.Name, Spec: spec, Obstacles: d.Obstacles}
	if taken := owners.Taken(c, d); taken != nil {
		out.Taken = fault.Proto(taken, i.s.deps.Now())
	}
	slices.Sort(out.Obstacles)
	return out, nil
}
