package container

import (
	"github.com/weftcloud/weft/pkg/cloud/kubernetes"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/service"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	driverkubernetes "github.com/weftcloud/weft/services/container/internal/driver/kubernetes"
)

// Catalog is the list of kinds and providers.
func Catalog(sessions *kubernetes.Sessions) service.Catalog {
	return service.Catalog{
		Service: "container",
		Kinds: []service.Kind{
			{Message: &containerv1.Cluster{}},
			{Message: &containerv1.Workload{}, Draws: []quota.Draw{{Quota: quota.Workloads}}},
			{Message: &containerv1.Manifest{}},
		},
		Providers: []driver.Provider{driverkubernetes.Provider(sessions)},
	}
}
