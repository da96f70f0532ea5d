package openstack

import (
	"context"

	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// Vault keeps the secrets of projects. What it gives and takes is in the open; where it is kept it is sealed.
type Vault interface {
	// Load gives what is kept for a project's key; an empty message if nothing is.
	Load(ctx context.Context, key string) (*orchestratorv1.ProjectKeys, error)
	// Of gives what is kept for the project of an id at its cloud, and the project's key; both empty if nothing is.
	Of(ctx context.Context, project string) (string, *orchestratorv1.ProjectKeys, error)
	// Change changes what is kept and gives it as it is then. The error is Conflict if another wrote meanwhile, or what change
	// returns; then nothing is changed.
	Change(ctx context.Context, key string, change func(*orchestratorv1.ProjectKeys) error) (*orchestratorv1.ProjectKeys, error)
	// Drop forgets what is kept; that there is nothing is no error.
	Drop(ctx context.Context, key string) error
}
