// Package container is the container service: clusters and what runs on them.
package container

import (
	"github.com/weftcloud/weft/pkg/cloud/kubernetes"
	"github.com/weftcloud/weft/pkg/service"
)

// New composes the service.
func New(deps service.Deps, sessions *kubernetes.Sessions) (*service.Service, error) {
	return service.New(Catalog(sessions), deps)
}
