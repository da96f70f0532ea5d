package orchestrator

import (
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/service"
	"github.com/weftcloud/weft/services/orchestrator/internal/cloud"
	"github.com/weftcloud/weft/services/orchestrator/internal/credential"
	driveropenstack "github.com/weftcloud/weft/services/orchestrator/internal/driver/openstack"
	"github.com/weftcloud/weft/services/orchestrator/internal/secret"
	"github.com/weftcloud/weft/services/orchestrator/internal/tenant"
)

// catalog is the list of kinds. Stacks and operations are no kinds of the common sort: a stack is a document, an operation
// the run of a plan.
func (o *Orchestrator) catalog() service.Catalog {
	return service.Catalog{
		Service: "orchestrator",
		Kinds: []service.Kind{
			tenant.Kind(tenant.Deps{InUse: o.tenantInUse, Leave: o.projects.ReleaseAll}),
			secret.Kind(o.sealer, o.tenantExists),
			cloud.Kind(cloud.Deps{Book: o.Book, Peers: o.deps.Peers, InUse: o.cloudInUse, Now: o.deps.Now}),
			o.projects.Kind(),
		},
		Providers: []driver.Provider{driveropenstack.Provider(o.deps.Clouds, driveropenstack.Config{
			Vault: o.projects.Vault, Lifetime: o.deps.CredentialLifetime, Now: o.deps.Now,
		})},
		Credentials: credential.Platform{Server: o.credentials},
		Within:      true,
	}
}
