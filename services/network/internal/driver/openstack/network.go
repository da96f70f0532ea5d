package openstack

import (
	"context"
	"net/url"

	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/mtu"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"

	"github.com/weftcloud/weft/pkg/driver"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

type network struct {
	base
	Name     string `json:"name"`
	MTU      int    `json:"mtu"`
	External bool   `json:"router:external"`
	Shared   bool   `json:"shared"`
}

// Networks is the driver of Network.
type Networks struct{ objects[network] }

// NewNetworks makes the driver.
func NewNetworks(s *cloud.Session) *Networks {
	return &Networks{objects[network]{s: s, path: "networks", field: "networks"}}
}

// Find implements driver.Driver.
func (d *Networks) Find(ctx context.Context, r driver.Request[*networkv1.NetworkSpec]) ([]string, error) {
	return d.find(ctx, r.Key, r.Name)
}

// Create implements driver.Driver.
func (d *Networks) Create(ctx context.Context, r driver.Request[*networkv1.NetworkSpec]) (string, error) {
	c, err := d.client(ctx)
	if err != nil {
		return "", err
	}
	opts := mtu.CreateOptsExt{
		CreateOptsBuilder: networks.CreateOpts{Name: cloud.LastPart(r.Name), Description: cloud.Description(r.Key, r.Name)},
		MTU:               int(r.Spec.GetMtu()),
	}
	id, err := d.created(ctx, networks.Create(ctx, c, opts).Result, "network")
	return id, cloud.Fault(err, "create network %s", r.Name)
}

// Told implements driver.Teller.
func (d *Networks) Told(ctx context.Context, id string) (driver.Observation[*networkv1.NetworkObserved], bool) {
	n, ok := d.told(ctx, id)
	return n.observation(), ok
}

// Observe implements driver.Driver.
func (d *Networks) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[*networkv1.NetworkObserved], error) {
	all, err := d.byIDs(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := make(map[string]driver.Observation[*networkv1.NetworkObserved], len(all))
	for id, n := range all {
		out[id] = n.observation()
	}
	return out, nil
}

func (n network) observation() driver.Observation[*networkv1.NetworkObserved] {
	state, why := stateOf(n.Status, "network", n.ID)
	return driver.Observation[*networkv1.NetworkObserved]{
		State: state, Fault: why,
		Observed: &networkv1.NetworkObserved{NetworkId: n.ID, Mtu: int32(n.MTU)}, // a size of packets is far below the bound
	}
}

// Update implements driver.Driver.
func (d *Networks) Update(ctx context.Context, id string, r driver.Request[*networkv1.NetworkSpec]) error {
	n, err := d.one(ctx, id)
	if err != nil {
		return err
	}
	wanted := int(r.Spec.GetMtu())
	if wanted == 0 || wanted == n.MTU {
		return nil
	}
	c, err := d.client(ctx)
	if err != nil {
		return err
	}
	d.forget(ctx, id)
	_, err = networks.Update(ctx, c, id, mtu.UpdateOptsExt{UpdateOptsBuilder: networks.UpdateOpts{}, MTU: wanted}).Extract()
	return cloud.Fault(err, "update network %s", r.Name)
}

// Delete implements driver.Driver.
func (d *Networks) Delete(ctx context.Context, id string) error {
	c, err := d.client(ctx)
	if err != nil {
		return err
	}
	return gone(networks.Delete(ctx, c, id).ExtractErr(), "network", id)
}

// Blockers implements driver.Blockable: the ports on the network that the cloud does not take away by itself.
func (d *Networks) Blockers(ctx context.Context, id string) ([]*kindv1.Blocker, error) {
	return portBlockers(ctx, d.s, url.Values{"network_id": {id}}, nil)
}

// Check implements driver.Checker.
func (d *Networks) Check(ctx context.Context, items []driver.Item[*networkv1.NetworkSpec]) ([]driver.Finding, []driver.QuotaUse, error) {
	uses, err := quotaUses(ctx, d.s, map[string]int64{"network": made(items)})
	return nil, uses, err
}
