// Package compute is the compute service: servers and the keys that they accept.
package compute

import (
	"github.com/weftcloud/weft/pkg/cloud/openstack"
	"github.com/weftcloud/weft/pkg/service"
)

// New composes the service. Its sessions with clouds may be shared with other services of the process.
func New(deps service.Deps, sessions *openstack.Sessions) (*service.Service, error) {
	return service.New(Catalog(sessions), deps)
}
