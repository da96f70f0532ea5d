package dev

import (
	"context"

	"github.com/weftcloud/weft/pkg/fault"
)

// Run runs an installation until ctx ends.
func Run(_ context.Context, cfg Config) error {
	return fault.New(fault.Unsupported, "an installation in %s cannot be run by this build", cfg.DataDir)
}
