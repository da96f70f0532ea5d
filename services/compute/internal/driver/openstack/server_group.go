package openstack

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servergroups"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// The microversions that groups change with: rules came with 2.64, in which a group has one policy in place of a list; the
// soft policies with 2.15.
const (
	groupRulesMinor = 64
	softPolicyMinor = 15
)

// serverGroup is a server group, as far as the driver looks at it.
type serverGroup struct {
	ID      string   `json:"id"`
	Name    string   `json:"name"`
	Members []string `json:"members"`
}

// ServerGroups is the driver of ServerGroup. A group bears no metadata and no description: its name holds the key, as with
// key pairs.
type ServerGroups struct{ s *cloud.Session }

// NewServerGroups makes the driver.
func NewServerGroups(s *cloud.Session) *ServerGroups { return &ServerGroups{s} }

func (d *ServerGroups) list(ctx context.Context) ([]serverGroup, error) {
	c, err := d.s.Compute(ctx)
	if err != nil {
		return nil, err
	}
	return cloud.List[serverGroup](ctx, c, "os-server-groups", "server_groups", url.Values{"limit": {"1000"}})
}

// Find implements driver.Driver.
func (d *ServerGroups) Find(ctx context.Context, r driver.Request[*computev1.ServerGroupSpec]) ([]string, error) {
	if r.Key == "" {
		return nil, fault.New(fault.Internal, "find server group: no key is given")
	}
	all, err := d.list(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, g := range all {
		if key, ok := cloud.ParseKeyPairName(g.Name); ok && key == r.Key {
			ids = append(ids, g.ID)
		}
	}
	return ids, nil
}

// policyWord gives a policy as the service calls it, e.g. soft-anti-affinity.
func policyWord(p computev1.ServerGroupPolicy) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(p.String(), "SERVER_GROUP_POLICY_")), "_", "-")
}

// Create implements driver.Driver.
func (d *ServerGroups) Create(ctx context.Context, r driver.Request[*computev1.ServerGroupSpec]) (string, error) {
	c, err := d.s.Compute(ctx)
	if err != nil {
		return "", err
	}
	if err := checkGroup(r.Spec, cloud.Minor(c)); err != nil {
		return "", err
	}
	opts := servergroups.CreateOpts{Name: cloud.KeyPairName(r.Key, r.Name)}
	if word := policyWord(r.Spec.GetPolicy()); cloud.Minor(c) >= groupRulesMinor {
		opts.Policy = word
		if n := r.Spec.GetMaxServersPerHost(); n > 0 {
			opts.Rules = &servergroups.Rules{MaxServerPerHost: int(n)}
		}
	} else {
		opts.Policies = []string{word}
	}
	g, err := servergroups.Create(ctx, c, opts).Extract()
	if err != nil {
		return "", cloud.Fault(err, "create server group %s", r.Name)
	}
	return g.ID, nil
}

// Observe implements driver.Driver: one list tells of all.
func (d *ServerGroups) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[*computev1.ServerGroupObserved], error) {
	out := map[string]driver.Observation[*computev1.ServerGroupObserved]{}
	if len(ids) == 0 {
		return out, ctx.Err()
	}
	all, err := d.list(ctx)
	if err != nil {
		return nil, err
	}
	for _, g := range all {
		if slices.Contains(ids, g.ID) {
			out[g.ID] = driver.Observation[*computev1.ServerGroupObserved]{
				State: driver.Ready, Observed: &computev1.ServerGroupObserved{ServerGroupId: g.ID, ServerIds: g.Members},
			}
		}
	}
	return out, nil
}

// Update implements driver.Driver: nothing of a group can be changed in place.
func (d *ServerGroups) Update(context.Context, string, driver.Request[*computev1.ServerGroupSpec]) error {
	return nil
}

// Delete implements driver.Driver. The service deletes groups that still have servers; those go on as they are.
func (d *ServerGroups) Delete(ctx context.Context, id string) error {
	c, err := d.s.Compute(ctx)
	if err != nil {
		return err
	}
	err = cloud.Fault(servergroups.Delete(ctx, c, id).ExtractErr(), "delete server group %s", id)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// ListMarked implements driver.Lister. A group's name has no room for the resource's.
func (d *ServerGroups) ListMarked(ctx context.Context) ([]driver.Marked, error) {
	all, err := d.list(ctx)
	if err != nil {
		return nil, err
	}
	var out []driver.Marked
	for _, g := range all {
		if key, ok := cloud.ParseKeyPairName(g.Name); ok {
			out = append(out, driver.Marked{ID: g.ID, Key: key})
		}
	}
	return out, nil
}

// Check implements driver.Checker: policies that the cloud has, and the quota.
func (d *ServerGroups) Check(ctx context.Context, items []driver.Item[*computev1.ServerGroupSpec]) ([]driver.Finding, []driver.QuotaUse, error) {
	c, err := d.s.Compute(ctx)
	if err != nil {
		return nil, nil, err
	}
	var findings []driver.Finding
	var need int64
	for _, i := range items {
		if i.Spec == nil {
			continue
		}
		if err := checkGroup(i.Spec, cloud.Minor(c)); err != nil {
			findings = append(findings, driver.Finding{Name: i.Name, Field: fault.Field(err), Fault: err})
		}
		if i.Change == kindv1.Change_CHANGE_CREATE || i.Change == kindv1.Change_CHANGE_REPLACE {
			need++
		}
	}
	if need == 0 {
		return findings, nil, nil
	}
	limits, err := quotas(ctx, d.s)
	if err != nil {
		return nil, nil, err
	}
	return findings, cloud.QuotaUses("compute", map[string]int64{"server_groups": need}, limits), nil
}

// checkGroup looks whether the service can make a group. The error is Invalid.
func checkGroup(spec *computev1.ServerGroupSpec, minor int) error {
	if strings.HasPrefix(policyWord(spec.GetPolicy()), "soft-") && minor < softPolicyMinor {
		return fault.InField("spec.policy", "the cloud's compute service has no soft policies (they came with microversion 2.%d, it has 2.%d); take AFFINITY or ANTI_AFFINITY", softPolicyMinor, minor)
	}
	if spec.GetMaxServersPerHost() > 0 && minor < groupRulesMinor {
		return fault.InField("spec.maxServersPerHost", "the cloud's compute service has no such rule (it came with microversion 2.%d, it has 2.%d); leave it out", groupRulesMinor, minor)
	}
	return nil
}
