// Package openstack holds the driver of Project for OpenStack's identity service (Keystone).
package openstack

import (
	"context"
	"time"

	"github.com/weftcloud/weft/pkg/driver"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// ProjectType is the type of the kind that the driver is for.
const ProjectType = "orchestrator.weft.cloud/Project"

// Config is what the driver needs beside a session.
type Config struct {
	// Vault keeps the secrets.
	Vault Vault
	// Lifetime is how long a credential is valid.
	Lifetime time.Duration
	// Now is the clock.
	Now func() time.Time
}

// Provider gives the driver of Project. Sessions are shared with the other services of the process.
func Provider(sessions *cloud.Sessions, cfg Config) driver.Provider {
	return driver.Provider{Name: cloud.ProviderName, Open: func(ctx context.Context, c driver.Credentials) (driver.Session, error) {
		s, err := sessions.Get(ctx, c)
		if err != nil {
			return driver.Session{}, err
		}
		return driver.Session{Drivers: map[string]driver.Any{ProjectType: driver.Erase(NewProjects(s, c, cfg))}}, nil
	}}
}
