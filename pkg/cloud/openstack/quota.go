package openstack

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
)

// Limit is one quota as the cloud tells it. Limit -1 means none; Used includes what is reserved.
type Limit struct{ Used, Limit int64 }

// Limits reads all quotas of the project from a service whose answer is {field: {quota: {limit, used or in_use,
// reserved}}}, as neutron, cinder and nova give them. A cloud that does not show quotas to its users gives none. In one look
// (driver.Remembering) each service is asked once.
func (s *Session) Limits(ctx context.Context, c *gophercloud.ServiceClient, path, field string) (map[string]Limit, error) {
	return driver.Once(ctx, "limits "+s.Account+" "+c.ServiceURL(path), func() (map[string]Limit, error) {
		return s.readLimits(ctx, c, path, field)
	})
}

func (s *Session) readLimits(ctx context.Context, c *gophercloud.ServiceClient, path, field string) (map[string]Limit, error) {
	answer := map[string]map[string]json.RawMessage{}
	resp, err := c.Get(ctx, c.ServiceURL(path), &answer, nil)
	if err != nil {
		err = Fault(err, "read quotas of %s", s.Account)
		if fault.Is(err, fault.Denied) || fault.Is(err, fault.NotFound) {
			return nil, nil
		}
		return nil, err
	}
	if err := resp.Body.Close(); err != nil {
		return nil, Fault(err, "read quotas of %s", s.Account)
	}
	out := map[string]Limit{}
	for name, raw := range answer[field] {
		var q struct {
			Limit, Used, Reserved int64
			InUse                 int64 `json:"in_use"`
		}
		if json.Unmarshal(raw, &q) != nil {
			continue // the project's id stands among the quotas
		}
		out[name] = Limit{Used: q.Used + q.InUse + q.Reserved, Limit: q.Limit}
	}
	return out, nil
}

// QuotaUses joins what a plan needs with what the cloud allows. Quotas that the cloud does not tell are left out.
func QuotaUses(service string, need map[string]int64, limits map[string]Limit) []driver.QuotaUse {
	var out []driver.QuotaUse
	for _, name := range slices.Sorted(maps.Keys(need)) {
		l, known := limits[name]
		if !known || need[name] == 0 {
			continue
		}
		out = append(out, driver.QuotaUse{Service: service, Quota: name, Need: need[name], Used: l.Used, Limit: l.Limit})
	}
	return out
}
