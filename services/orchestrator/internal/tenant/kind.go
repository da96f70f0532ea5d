// Package tenant is the kind Tenant: who owns resources and is isolated from others.
package tenant

import (
	"context"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/service"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// InUse tells what a tenant still has; nil if nothing.
type InUse func(ctx context.Context, tenant string) error

// Kind is the entry of the catalog.
func Kind(inUse InUse) service.Kind {
	return service.Kind{Message: &orchestratorv1.Tenant{}, Local: &service.Local{
		Admit: func(_ context.Context, next resource.Object, _ *resource.Object) error {
			_, err := resource.ParseParent(next.Name())
			return fault.Wrap(err, "name the tenant")
		},
		Release: func(ctx context.Context, object resource.Object) error {
			n, err := resource.ParseName(object.Name())
			if err != nil {
				return err
			}
			return inUse(ctx, n.ID)
		},
	}}
}
