// Package network is the network service: networks, subnets, routers, security groups and floating IPs, and the
// composite kinds made of them.
package network

import (
	"github.com/weftcloud/weft/pkg/cloud/openstack"
	"github.com/weftcloud/weft/pkg/service"
)

// New composes the service. Its sessions with clouds may be shared with other services of the process.
func New(deps service.Deps, sessions *openstack.Sessions) (*service.Service, error) {
	return service.New(Catalog(sessions), deps)
}
