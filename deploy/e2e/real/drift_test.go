package real

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/volumeattach"
	"github.com/gophercloud/gophercloud/v2/openstack/loadbalancer/v2/pools"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/floatingips"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/rules"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	"github.com/weftcloud/weft/pkg/cloud/openstack"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

const drifting = `kind: Stack
name: realdrift
placement: {cloud: lab}
resources:
  net: {kind: PrivateNetwork, spec: {cidr: 10.68.0.0/24, external: public}}
  wall: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: "80"}]}}
  one: {kind: Server, spec: {image: tiny, flavor: m1.tiny, network: net, securityGroups: [wall]}}
  data: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}
  disk: {kind: VolumeAttachment, spec: {server: one, volume: data}}
  front:
    kind: LoadBalancer
    spec:
      network: net
      listeners: [{name: web, protocol: HTTP, port: 80}]
      pools: [{name: web, members: [{target: one, port: 80}]}]
  door: {kind: FloatingIP, spec: {externalNetwork: public, target: front}}
outputs: {address: "${door.address}"}
`

// hand takes things away at the cloud, without Weft.
type hand struct {
	*openstack.Session
	stack *orchestratorv1.Stack
}

// id gives the cloud's id of a resource of the stack.
func (h hand) id(t *testing.T, local string) string {
	t.Helper()
	for _, r := range h.stack.GetResources() {
		if r.GetLocalName() == local {
			return r.GetStatus().GetProviderId()
		}
	}
	t.Fatalf("the stack has no %s", local)
	return ""
}

func clientOf(t *testing.T, get func(context.Context) (*gophercloud.ServiceClient, error)) *gophercloud.ServiceClient {
	t.Helper()
	c, err := get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// member takes the only member out of the load balancer's pool.
func (h hand) member(t *testing.T) {
	t.Helper()
	c := clientOf(t, h.LoadBalancer)
	type object struct {
		ID string `json:"id"`
	}
	all, err := openstack.List[object](t.Context(), c, "lbaas/pools", "pools", map[string][]string{"loadbalancer_id": {h.id(t, "front")}})
	if err != nil || len(all) != 1 {
		t.Fatalf("the pools are %v, %v", all, err)
	}
	members, err := openstack.List[object](t.Context(), c, "lbaas/pools/"+all[0].ID+"/members", "members", nil)
	if err != nil || len(members) != 1 {
		t.Fatalf("the members are %v, %v", members, err)
	}
	if err := pools.DeleteMember(t.Context(), c, all[0].ID, members[0].ID).ExtractErr(); err != nil {
		t.Fatal(err)
	}
}

// rule takes one of the rules that let visitors in, of IPv4 or IPv6, out of the security group.
func (h hand) rule(t *testing.T) {
	t.Helper()
	c := clientOf(t, h.Network)
	page, err := rules.List(c, rules.ListOpts{SecGroupID: h.id(t, "wall"), Direction: "ingress"}).AllPages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, err := rules.ExtractRules(page)
	if err != nil || len(all) == 0 {
		t.Fatalf("the rules are %v, %v", all, err)
	}
	if err := rules.Delete(t.Context(), c, all[0].ID).ExtractErr(); err != nil {
		t.Fatal(err)
	}
}

// attachment takes the volume off the server.
func (h hand) attachment(t *testing.T) {
	t.Helper()
	c := clientOf(t, h.Compute)
	if err := volumeattach.Delete(t.Context(), c, h.id(t, "one"), h.id(t, "data")).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	await(t, "the volume is off", func() error {
		page, err := volumeattach.List(c, h.id(t, "one")).AllPages(t.Context())
		if err != nil {
			return err
		}
		all, err := volumeattach.ExtractVolumeAttachments(page)
		if err == nil && len(all) > 0 {
			err = fmt.Errorf("the server still has %v", all)
		}
		return err
	})
}

// TestDrift takes things of a stack away without Weft, which tells of all of them, and has them repaired: the same document
// then has an empty plan, and what answered before answers again.
func TestDrift(t *testing.T) {
	p := open(t)
	const every = 5 * time.Second
	i := story.Start(t, "--no-sandbox", "--observe-every", every.String())
	i.Must(t, "cloud", "add", "lab", "--driver", "openstack", "--os-cloud", os.Getenv("OS_CLOUD"))
	destroyed := false
	t.Cleanup(func() {
		if !destroyed {
			ended(t, i, "destroy", "realdrift")
		}
	})
	ended(t, i, "apply", "-f", i.Document(t, "drift.yaml", drifting))
	drift := func(local string) kindv1.DriftType {
		for _, r := range i.Stack(t, "realdrift").GetResources() {
			if r.GetLocalName() == local {
				return r.GetStatus().GetDrift().GetType()
			}
		}
		return kindv1.DriftType_DRIFT_TYPE_UNSPECIFIED
	}
	seen := func(local string, want kindv1.DriftType, took time.Time) {
		t.Helper()
		await(t, "the drift of "+local, func() error {
			if got := drift(local); got != want {
				return fmt.Errorf("it is %s, want %s", got, want)
			}
			return nil
		})
		t.Logf("%s: seen after %s", local, time.Since(took).Round(time.Second))
	}
	h := hand{Session: p.cloud, stack: i.Stack(t, "realdrift")}
	const missing, changed = kindv1.DriftType_DRIFT_TYPE_MISSING, kindv1.DriftType_DRIFT_TYPE_CHANGED

	began := time.Now()
	h.member(t)
	h.rule(t)
	if err := floatingips.Delete(t.Context(), clientOf(t, h.Network), h.id(t, "door")).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	h.attachment(t)
	seen("front", changed, began)
	seen("wall", changed, began)
	seen("door", missing, began)
	seen("disk", missing, began)
	began = time.Now()
	if err := servers.Delete(t.Context(), clientOf(t, h.Compute), h.id(t, "one")).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	seen("one", missing, began)

	ended(t, i, "repair", "realdrift")
	if plan := i.Plan(t, drifting); len(plan.GetChanges()) != 0 {
		t.Errorf("after the repair the plan is %v", plan.GetChanges())
	}
	url := "http://" + i.Stack(t, "realdrift").GetOutputs().GetFields()["address"].GetStringValue() + "/"
	await(t, "what answered before answers again", func() error { _, err := fetch(url); return err })
	destroyed = true
	ended(t, i, "destroy", "realdrift")
	for _, e := range i.Ledger(t).GetEntries() {
		t.Errorf("left in the ledger: %v", e)
	}
	if left := p.named(t, "realdrift."); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
