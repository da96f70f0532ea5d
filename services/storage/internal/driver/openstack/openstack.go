// Package openstack holds the drivers of the storage kinds for OpenStack's volume service (Cinder); attachments are made
// by its compute service (Nova).
package openstack

import (
	"context"
	"strings"

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

// probe asks the volume service what it can do.
func probe(ctx context.Context, s *cloud.Session) ([]driver.Feature, error) {
	c, err := s.BlockStorage(ctx)
	if err != nil {
		return nil, err
	}
	types, err := volumeTypes(ctx, s)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(types))
	for _, t := range types {
		names = append(names, t.Name)
	}
	limits, err := quotas(ctx, s)
	if err != nil {
		return nil, err
	}
	yesNo := map[bool]string{true: "yes", false: "no"}
	feature := func(name, value string) driver.Feature {
		return driver.Feature{Service: "block-storage", Name: name, Value: value}
	}
	return []driver.Feature{
		feature("endpoint", c.Endpoint),
		feature("microversion", c.Microversion),
		feature("volume types", strings.Join(names, ", ")),
		feature("extend while attached", yesNo[cloud.Minor(c) >= extendAttachedMinor]),
		feature("quotas are shown", yesNo[len(limits) > 0]),
	}, nil
}
