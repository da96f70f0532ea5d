// Package openstack holds the drivers of the compute kinds for OpenStack's compute service (Nova).
package openstack

import (
	"context"
	"net/url"
	"strconv"
	"strings"

	"github.com/weftcloud/weft/pkg/driver"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// Provider gives the drivers of the compute kinds. Sessions are shared with the other services of the process.
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
		"compute.weft.cloud/Server":      driver.Erase(NewServers(s)),
		"compute.weft.cloud/KeyPair":     driver.Erase(NewKeyPairs(s)),
		"compute.weft.cloud/Image":       driver.Erase(NewImages(s)),
		"compute.weft.cloud/ServerGroup": driver.Erase(NewServerGroups(s)),
	}
}

// probe asks the compute service what it can do.
func probe(ctx context.Context, s *cloud.Session) ([]driver.Feature, error) {
	c, err := s.Compute(ctx)
	if err != nil {
		return nil, err
	}
	flavors, err := s.Flavors(ctx, true)
	if err != nil {
		return nil, err
	}
	images, err := s.Images(ctx, true)
	if err != nil {
		return nil, err
	}
	zones, err := zoneNames(ctx, s)
	if err != nil {
		return nil, err
	}
	limits, err := quotas(ctx, s)
	if err != nil {
		return nil, err
	}
	yesNo := map[bool]string{true: "yes", false: "no"}
	feature := func(name, value string) driver.Feature {
		return driver.Feature{Service: "compute", Name: name, Value: value}
	}
	return []driver.Feature{
		feature("endpoint", c.Endpoint),
		feature("microversion", c.Microversion),
		feature("tags in the call that creates", yesNo[cloud.Minor(c) >= cloud.TagsMinor]),
		feature("availability zones", strings.Join(zones, ", ")),
		feature("flavors", strconv.Itoa(len(flavors))),
		feature("images", strconv.Itoa(len(images))),
		feature("quotas are shown", yesNo[len(limits) > 0]),
	}, nil
}

// zoneNames lists the availability zones that take servers.
func zoneNames(ctx context.Context, s *cloud.Session) ([]string, error) {
	return cloud.Recent(s, "availability zones", func() ([]string, error) { return readZones(ctx, s) })
}

func readZones(ctx context.Context, s *cloud.Session) ([]string, error) {
	c, err := s.Compute(ctx)
	if err != nil {
		return nil, err
	}
	zones, err := cloud.List[struct {
		ZoneName  string `json:"zoneName"`
		ZoneState struct {
			Available bool `json:"available"`
		} `json:"zoneState"`
	}](ctx, c, "os-availability-zone", "availabilityZoneInfo", url.Values{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, z := range zones {
		if z.ZoneState.Available {
			names = append(names, z.ZoneName)
		}
	}
	return names, nil
}

// quotas reads the project's quotas. The service tells them in one flat object, e.g. maxTotalCores and totalCoresUsed.
// How many key pairs there are it does not tell; they are counted where that is needed.
func quotas(ctx context.Context, s *cloud.Session) (map[string]cloud.Limit, error) {
	c, err := s.Compute(ctx)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Limits struct {
			Absolute map[string]int64 `json:"absolute"`
		} `json:"limits"`
	}
	resp, err := c.Get(ctx, c.ServiceURL("limits"), &answer, nil)
	if err != nil {
		return nil, cloud.Fault(err, "read quotas of %s", s.Account)
	}
	if err := resp.Body.Close(); err != nil {
		return nil, cloud.Fault(err, "read quotas of %s", s.Account)
	}
	out := map[string]cloud.Limit{}
	for name, words := range map[string][2]string{
		"instances": {"maxTotalInstances", "totalInstancesUsed"}, "cores": {"maxTotalCores", "totalCoresUsed"},
		"ram": {"maxTotalRAMSize", "totalRAMUsed"}, "key_pairs": {"maxTotalKeypairs", ""},
		"server_groups": {"maxServerGroups", "totalServerGroupsUsed"},
	} {
		if limit, ok := answer.Limits.Absolute[words[0]]; ok {
			out[name] = cloud.Limit{Limit: limit, Used: answer.Limits.Absolute[words[1]]}
		}
	}
	return out, nil
}
