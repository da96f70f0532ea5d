package orchestrator

import (
	"github.com/weftcloud/weft/pkg/service"
	"github.com/weftcloud/weft/services/orchestrator/internal/cloud"
	"github.com/weftcloud/weft/services/orchestrator/internal/secret"
	"github.com/weftcloud/weft/services/orchestrator/internal/tenant"
)

// catalog is the list of kinds. Stacks and operations are no kinds of the common sort: a stack is a document, an operation
// the run of a plan.
func (o *Orchestrator) catalog() service.Catalog {
	return service.Catalog{
		Service: "orchestrator",
		Kinds: []service.Kind{
			tenant.Kind(o.tenantInUse),
			secret.Kind(o.sealer, o.tenantExists),
			cloud.Kind(cloud.Deps{Book: o.Book, Peers: o.deps.Peers, InUse: o.cloudInUse, Now: o.deps.Now}),
		},
	}
}
