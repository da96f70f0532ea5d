package network

import (
	"github.com/weftcloud/weft/pkg/cloud/openstack"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/service"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	driveropenstack "github.com/weftcloud/weft/services/network/internal/driver/openstack"
	"github.com/weftcloud/weft/services/network/internal/privatenetwork"
	"github.com/weftcloud/weft/services/network/internal/publication"
)

// Catalog is the list of kinds and providers.
func Catalog(sessions *openstack.Sessions) service.Catalog {
	return service.Catalog{
		Service: "network",
		Kinds: []service.Kind{
			{Message: &networkv1.Network{}, Draws: []quota.Draw{{Quota: quota.Networks}}},
			{Message: &networkv1.Subnet{}},
			{Message: &networkv1.Router{}, Draws: []quota.Draw{{Quota: quota.Routers}}},
			{Message: &networkv1.SecurityGroup{}},
			{Message: &networkv1.FloatingIP{}, Draws: []quota.Draw{{Quota: quota.FloatingIPs}}},
			{Message: &networkv1.LoadBalancer{}, Draws: []quota.Draw{{Quota: quota.LoadBalancers}}},
			{Message: &networkv1.PortForwarding{}, Claims: driveropenstack.PortClaims},
			{Message: &networkv1.PrivateNetwork{}, Expand: privatenetwork.Expand},
			{Message: &networkv1.Publication{}, Expand: publication.Expand},
		},
		Providers: []driver.Provider{driveropenstack.Provider(sessions)},
	}
}
