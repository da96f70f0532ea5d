// Package openstack holds the drivers of the storage kinds for OpenStack: volumes and snapshots of its volume service (Cinder),
// attachments, which its compute service (Nova) makes, shares of its shared file system service (Manila) and containers of its
// object store (Swift).
package openstack

import (
	"context"

	"github.com/weftcloud/weft/pkg/driver"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// Provider gives the drivers of the storage kinds. Sessions are shared with the other services of the process.
func Provider(sessions *cloud.Sessions) driver.Provider {
	return driver.Provider{Name: cloud.ProviderName, Open: func(ctx context.Context, c driver.Credentials) (driver.Session, error) {
		s, err := sessions.Get(ctx, c)
		if err != nil {
			return driver.Session{}, err
		}
		return driver.Session{Drivers: Drivers(s), Probe: func(ctx context.Context) ([]driver.Feature, error) { return probe(ctx, s) }}, nil
	}}
}

// Drivers gives the drivers of one session by resource type.
func Drivers(s *cloud.Session) map[string]driver.Any {
	return map[string]driver.Any{
		"storage.weft.cloud/Volume":           driver.Erase(NewVolumes(s)),
		"storage.weft.cloud/VolumeAttachment": driver.Erase(NewVolumeAttachments(s)),
		"storage.weft.cloud/VolumeSnapshot":   driver.Erase(NewVolumeSnapshots(s)),
		"storage.weft.cloud/Bucket":           driver.Erase(NewBuckets(s)),
		"storage.weft.cloud/Share":            driver.Erase(NewShares(s)),
	}
}
