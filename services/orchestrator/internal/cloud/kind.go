// Package cloud is the kind Cloud: one registered IaaS endpoint with credentials and region.
package cloud

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/participant"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/service"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// Deps is what the kind needs.
type Deps struct {
	// Book gives the records; it is asked when a call comes, since the service is made from the catalog.
	Book func() *record.Book
	// Peers are the services that work at clouds.
	Peers service.Peers
	// InUse tells what stands on a cloud; nil if nothing.
	InUse func(ctx context.Context, cloud string) error
	Now   service.Clock
}

// Kind is the entry of the catalog.
func Kind(d Deps) service.Kind {
	return service.Kind{
		Message: &orchestratorv1.Cloud{},
		Local: &service.Local{
			Admit:   d.admit,
			Show:    show,
			Release: func(ctx context.Context, object resource.Object) error { return d.InUse(ctx, object.Name()) },
		},
		Methods: []grpc.MethodDesc{service.Method("weft.orchestrator.v1.CloudService", "ProbeCloud", d.probe)},
	}
}

// show hides from members the clouds that their tenant may not use, and of the others who else may.
func show(ctx context.Context, object resource.Object) bool {
	id, ok := auth.FromContext(ctx)
	if !ok || id.Platform() {
		return true
	}
	spec, ok := object.Spec().(*orchestratorv1.CloudSpec)
	if !ok {
		return false
	}
	if resource.TenantOf(spec.GetCredentials()) != id.Tenant {
		spec.Credentials = "" // another tenant's secret, by its name
	}
	own := "tenants/" + id.Tenant
	if !Allows(spec, own) {
		return false
	}
	if len(spec.GetTenants()) > 0 {
		spec.Tenants = []string{own}
	}
	return true
}

// Allows tells whether a tenant, by its name, may use a cloud.
func Allows(spec *orchestratorv1.CloudSpec, tenant string) bool {
	return len(spec.GetTenants()) == 0 || slices.Contains(spec.GetTenants(), tenant)
}

// admit checks that what a cloud refers to exists.
func (d Deps) admit(ctx context.Context, next resource.Object, _ *resource.Object) error {
	spec, ok := next.Spec().(*orchestratorv1.CloudSpec)
	if !ok {
		return fault.InField("spec", "a cloud needs a spec")
	}
	if _, err := d.Book().Current(ctx, spec.GetCredentials()); err != nil {
		return &fault.Error{Kind: fault.Invalid, Field: "spec.credentials", Message: "put the secret first (weft secret put)", Cause: err}
	}
	for _, t := range spec.GetTenants() {
		if _, err := d.Book().Current(ctx, t); err != nil {
			return &fault.Error{Kind: fault.Invalid, Field: "spec.tenants", Message: "add the tenant first (weft tenant add)", Cause: err}
		}
	}
	return nil
}

// probe asks every service what the cloud can do, and keeps the answers. A service that cannot tell fails the probe:
// half an answer would be taken for a whole one.
func (d Deps) probe(ctx context.Context, r *orchestratorv1.ProbeCloudRequest) (*orchestratorv1.Cloud, error) {
	e, err := d.Book().Current(ctx, r.GetName())
	if err != nil {
		return nil, err
	}
	observed := &orchestratorv1.CloudObserved{ProbeTime: timestamppb.New(d.Now())}
	for _, peer := range d.Peers {
		answer, err := participantv1.NewParticipantServiceClient(peer).Probe(ctx, &participantv1.ProbeRequest{Cloud: r.GetName()})
		if err != nil {
			return nil, fault.Wrap(fault.FromStatus(err), "probe %s", r.GetName())
		}
		observed.Features = append(observed.Features, answer.GetFeatures()...)
	}
	slices.SortFunc(observed.Features, func(a, b *participantv1.Feature) int {
		return strings.Compare(a.GetService()+" "+a.GetName(), b.GetService()+" "+b.GetName())
	})
	e.Object.SetObserved(observed)
	e.Object.Status().ObserveTime = observed.GetProbeTime()
	if err := d.Book().Save(ctx, e, participant.NoticeOf(e)); err != nil {
		return nil, err
	}
	out, ok := e.Object.Message().(*orchestratorv1.Cloud)
	if !ok {
		return nil, fault.New(fault.Internal, "%s is kept as something else than a cloud", r.GetName())
	}
	return out, nil
}
