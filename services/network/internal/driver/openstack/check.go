package openstack

import (
	"context"
	"net/url"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/driver"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// isMade tells whether a plan makes an object for an item. A replacement makes the new one before the old one goes.
func isMade[S proto.Message](i driver.Item[S]) bool {
	return i.Change == kindv1.Change_CHANGE_CREATE || i.Change == kindv1.Change_CHANGE_REPLACE
}

// made counts the objects that a plan makes.
func made[S proto.Message](items []driver.Item[S]) int64 {
	var n int64
	for _, i := range items {
		if isMade(i) {
			n++
		}
	}
	return n
}

// quotaUses joins needs with the project's quotas at the network service.
func quotaUses(ctx context.Context, s *cloud.Session, need map[string]int64) ([]driver.QuotaUse, error) {
	c, err := s.Network(ctx)
	if err != nil {
		return nil, err
	}
	limits, err := s.Limits(ctx, c, "quotas/"+s.ProjectID+"/details.json", "quota")
	if err != nil {
		return nil, err
	}
	return cloud.QuotaUses("network", need, limits), nil
}

// extensionsUsed are the extensions that decide what the drivers, and later kinds, can do here.
var extensionsUsed = []string{
	"standard-attr-description", "standard-attr-tag", "router", "external-net", "security-group", "port-security-groups-filtering",
	"floating-ip-port-forwarding", "net-mtu-writable", "quota_details", "qos", "trunk", "dns-integration",
}

// probe asks the network service what it can do.
func probe(ctx context.Context, s *cloud.Session) ([]driver.Feature, error) {
	c, err := s.Network(ctx)
	if err != nil {
		return nil, err
	}
	found, err := cloud.List[struct{ Alias string }](ctx, c, "extensions", "extensions", url.Values{})
	if err != nil {
		return nil, err
	}
	has := map[string]bool{}
	for _, e := range found {
		has[e.Alias] = true
	}
	feature := func(name, value string) driver.Feature {
		return driver.Feature{Service: "network", Name: name, Value: value}
	}
	yesNo := map[bool]string{true: "yes", false: "no"}
	out := []driver.Feature{feature("endpoint", c.Endpoint)}
	for _, name := range extensionsUsed {
		out = append(out, feature("extension "+name, yesNo[has[name]]))
	}
	external, err := s.ExternalNetworks(ctx, true)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(external))
	for _, n := range external {
		names = append(names, n.Name)
	}
	limits, err := s.Limits(ctx, c, "quotas/"+s.ProjectID+"/details.json", "quota")
	if err != nil {
		return nil, err
	}
	balance, err := probeBalancers(ctx, s)
	if err != nil {
		return nil, err
	}
	out = append(out, feature("external networks", strings.Join(names, ", ")), feature("quotas are shown", yesNo[len(limits) > 0]))
	return append(out, balance...), nil
}
