// Package tenant is the kind Tenant: who owns resources and is isolated from others.
package tenant

import (
	"context"

	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/service"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/project"
)

// Deps is what the kind needs.
type Deps struct {
	// InUse tells what a tenant still has; nil if nothing.
	InUse func(ctx context.Context, tenant string) error
	// Leave has the tenant's projects at clouds taken away, and waits until they are gone.
	Leave func(ctx context.Context, tenant string) error
}

// Kind is the entry of the catalog.
func Kind(d Deps) service.Kind {
	return service.Kind{Message: &orchestratorv1.Tenant{}, Local: &service.Local{
		Admit: d.admit,
		Show:  show,
		Release: func(ctx context.Context, object resource.Object) error {
			n, err := resource.ParseName(object.Name())
			if err != nil {
				return err
			}
			if err := d.InUse(ctx, n.ID); err != nil {
				return err
			}
			return d.Leave(ctx, object.Name())
		},
	}}
}

// show lets a member see the own tenant only: who else there is, is not told.
func show(ctx context.Context, object resource.Object) bool {
	id, ok := auth.FromContext(ctx)
	return !ok || id.Platform() || "tenants/"+id.Tenant == object.Name()
}

// admit refuses another isolation for a tenant that has something: it would be looked for in the wrong project.
func (d Deps) admit(ctx context.Context, next resource.Object, former *resource.Object) error {
	n, err := resource.ParseName(next.Name())
	if err != nil {
		return fault.Wrap(err, "name the tenant")
	}
	if _, err := resource.ParseParent(next.Name()); err != nil {
		return fault.Wrap(err, "name the tenant")
	}
	if former == nil || multi(next) == multi(*former) {
		return nil
	}
	if err := d.InUse(ctx, n.ID); err != nil {
		return &fault.Error{Kind: fault.Precondition, Field: "spec.isolation", Message: "the isolation of a tenant cannot be changed while it has anything", Cause: err}
	}
	if !multi(next) {
		return d.Leave(ctx, next.Name())
	}
	return nil
}

func multi(o resource.Object) bool {
	spec, ok := o.Spec().(*orchestratorv1.TenantSpec)
	return ok && project.IsMulti(spec)
}
