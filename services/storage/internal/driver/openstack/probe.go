package openstack

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// A backend is chosen by the type of a volume or share. What a type leads to stands in its extra specs, which every user may
// read; how much room its pools have, and of what make they are, the services tell administrators only. The probe shows both,
// and says when it may not see the second.

// probe asks the storage services what they can do.
func probe(ctx context.Context, s *cloud.Session) ([]driver.Feature, error) {
	out, err := probeVolumes(ctx, s)
	if err != nil {
		return nil, err
	}
	for _, more := range []func(context.Context, *cloud.Session) ([]driver.Feature, error){probeShares, probeObjects} {
		found, err := more(ctx, s)
		if fault.Is(err, fault.Unsupported) {
			continue // the cloud has no such service, which is said below
		}
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

var yesNo = map[bool]string{true: "yes", false: "no"}

// of makes the features of one service.
func of(service string) func(name, value string) driver.Feature {
	return func(name, value string) driver.Feature {
		return driver.Feature{Service: service, Name: name, Value: value}
	}
}

func probeVolumes(ctx context.Context, s *cloud.Session) ([]driver.Feature, error) {
	c, err := s.BlockStorage(ctx)
	if err != nil {
		return nil, err
	}
	types, err := volumeTypes(ctx, s)
	if err != nil {
		return nil, err
	}
	limits, err := quotas(ctx, s)
	if err != nil {
		return nil, err
	}
	pools, err := poolsOf(ctx, s, "volume")
	if err != nil {
		return nil, err
	}
	feature := of("block-storage")
	names := make([]string, 0, len(types))
	for _, t := range types {
		names = append(names, t.Name)
	}
	out := []driver.Feature{
		feature("endpoint", c.Endpoint), feature("microversion", c.Microversion), feature("volume types", strings.Join(names, ", ")),
		feature("extend while attached", yesNo[cloud.Minor(c) >= extendAttachedMinor]), feature("quotas are shown", yesNo[len(limits) > 0]),
	}
	for _, t := range types {
		out = append(out, feature("type "+t.Name, facts(t.Specs)))
	}
	return append(out, pools...), nil
}

func probeShares(ctx context.Context, s *cloud.Session) ([]driver.Feature, error) {
	c, err := s.SharedFileSystem(ctx)
	if err != nil {
		return nil, err
	}
	types, err := shareTypes(ctx, s)
	if err != nil {
		return nil, err
	}
	pools, err := poolsOf(ctx, s, "share")
	if err != nil {
		return nil, err
	}
	feature := of("shared-file-system")
	out := []driver.Feature{feature("endpoint", c.Endpoint), feature("microversion", c.Microversion)}
	for _, t := range types {
		out = append(out, feature("type "+t.Name, facts(t.Specs)))
	}
	return append(out, pools...), nil
}

func probeObjects(ctx context.Context, s *cloud.Session) ([]driver.Feature, error) {
	c, err := s.ObjectStorage(ctx)
	if err != nil {
		return nil, err
	}
	info, err := swiftInfo(ctx, s)
	if err != nil {
		return nil, err
	}
	feature := of("object-store")
	out := []driver.Feature{feature("endpoint", c.Endpoint)}
	if info == nil {
		return append(out, feature("capabilities", "not told")), nil
	}
	for name, key := range map[string]string{"S3": "s3api", "temporary addresses": "tempurl", "versions": "object_versioning", "quotas of containers": "container_quotas"} {
		_, has := info[key]
		out = append(out, feature(name, yesNo[has]))
	}
	slices.SortFunc(out, func(a, b driver.Feature) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// facts gives the extra specs of a type in one line: its backend first, then what else is promised.
func facts(specs map[string]any) string {
	var out []string
	for k, v := range specs {
		out = append(out, fmt.Sprintf("%s=%v", k, v))
	}
	slices.SortFunc(out, func(a, b string) int {
		if x, y := strings.Contains(a, "backend_name"), strings.Contains(b, "backend_name"); x != y {
			return map[bool]int{true: -1, false: 1}[x]
		}
		return cmp.Compare(a, b)
	})
	if len(out) == 0 {
		return "any backend"
	}
	return strings.Join(out, ", ")
}

// pool is what an administrator is told of a pool.
type pool struct {
	Name         string         `json:"name"`
	Capabilities map[string]any `json:"capabilities"`
}

// poolsOf tells of the pools behind a service; for users who may not see them it says so.
func poolsOf(ctx context.Context, s *cloud.Session, what string) ([]driver.Feature, error) {
	client, path, service := s.BlockStorage, "scheduler-stats/get_pools", "block-storage"
	if what == "share" {
		client, path, service = s.SharedFileSystem, "scheduler-stats/pools/detail", "shared-file-system"
	}
	c, err := client(ctx)
	if err != nil {
		return nil, err
	}
	query := map[string][]string{}
	if what == "volume" {
		query["detail"] = []string{"True"}
	}
	all, err := cloud.List[pool](ctx, c, path, "pools", query)
	feature := of(service)
	if fault.Is(err, fault.Denied) || fault.Is(err, fault.NotFound) {
		return []driver.Feature{feature("pools", "shown to administrators only")}, nil
	}
	if err != nil {
		return nil, err
	}
	var out []driver.Feature
	for _, p := range all {
		var told []string
		for _, key := range []string{what + "_backend_name", "storage_protocol", "driver_version", "total_capacity_gb", "free_capacity_gb", "thin_provisioning_support"} {
			if v, ok := p.Capabilities[key]; ok {
				told = append(told, fmt.Sprintf("%s=%v", key, v))
			}
		}
		out = append(out, feature("pool "+p.Name, strings.Join(told, ", ")))
	}
	return out, nil
}
