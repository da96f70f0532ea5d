package compute

import (
	"github.com/weftcloud/weft/pkg/cloud/openstack"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/service"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	"github.com/weftcloud/weft/services/compute/internal/console"
	driveropenstack "github.com/weftcloud/weft/services/compute/internal/driver/openstack"
	"github.com/weftcloud/weft/services/compute/internal/scalinggroup"
)

// Catalog is the list of kinds and providers.
func Catalog(sessions *openstack.Sessions) service.Catalog {
	return service.Catalog{
		Service: "compute",
		Kinds: []service.Kind{
			{Message: &computev1.KeyPair{}},
			{Message: &computev1.ServerGroup{}},
			{Message: &computev1.Image{}},
			{Message: &computev1.Server{}, Custom: console.Methods, Draws: []quota.Draw{
				{Quota: quota.Servers}, {Quota: quota.VCPUs, Field: "flavor", Sized: true}, {Quota: quota.RAMMiB, Field: "flavor", Sized: true},
			}},
			{Message: &computev1.ScalingGroup{}, Controller: scalinggroup.New(), Parts: scalinggroup.Parts, Most: scalinggroup.Most, MostBy: []string{"max", "maxSurge"}, Custom: scalinggroup.Methods},
		},
		Providers: []driver.Provider{driveropenstack.Provider(sessions)},
	}
}
