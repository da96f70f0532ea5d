package secret

import (
	"context"
	"maps"
	"slices"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/service"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// Tenants tells whether a tenant exists.
type Tenants func(ctx context.Context, tenant string) error

// Kind is the entry of the catalog.
func Kind(sealer *Sealer, tenants Tenants) service.Kind {
	return service.Kind{Message: &orchestratorv1.Secret{}, Local: &service.Local{
		Admit: func(ctx context.Context, next resource.Object, former *resource.Object) error {
			if err := tenants(ctx, resource.TenantOf(next.Name())); err != nil {
				return err
			}
			return seal(sealer, next, former)
		},
	}}
}

// seal seals every value but those that were sealed before, and shows which keys there are.
func seal(sealer *Sealer, next resource.Object, former *resource.Object) error {
	spec, ok := next.Spec().(*orchestratorv1.SecretSpec)
	if !ok || len(spec.GetData()) == 0 {
		return fault.InField("spec.data", "a secret without values is of no use; give at least one key")
	}
	kept := &orchestratorv1.SecretSpec{}
	if former != nil {
		if spec, ok := former.Spec().(*orchestratorv1.SecretSpec); ok {
			kept = spec
		}
	}
	for key, value := range spec.GetData() {
		if value == kept.GetData()[key] && Sealed(value) {
			continue // carried over by an update of something else
		}
		sealed, err := sealer.Seal(next.Name(), key, value)
		if err != nil {
			return err
		}
		spec.Data[key] = sealed
	}
	next.SetObserved(&orchestratorv1.SecretObserved{Keys: slices.Sorted(maps.Keys(spec.GetData()))})
	return nil
}

// Open gives the values of a secret.
func Open(sealer *Sealer, s *orchestratorv1.Secret) (map[string]string, error) {
	out := map[string]string{}
	for key, sealed := range s.GetSpec().GetData() {
		value, err := sealer.Open(s.GetName(), key, sealed)
		if err != nil {
			return nil, err
		}
		out[key] = value
	}
	return out, nil
}
