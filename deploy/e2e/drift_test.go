package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	"github.com/weftcloud/weft/pkg/testkit"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// observeEvery is how often the installation of these stories looks at what stands.
const observeEvery = 2 * time.Second

// driftPlace is where an object of a kind is at the cloud, and what is to be done before it can be taken away by hand.
type driftPlace struct {
	local, path string
	before      func(t *testing.T, h *hands)
}

// driftPlaces lists them in an order in which they can go.
var driftPlaces = []driftPlace{
	{local: "address", path: neutron + "floatingips/"},
	{local: "web", path: "/compute/v2.1/servers/"},
	{local: "key", path: "/compute/v2.1/os-keypairs/"},
	{local: "data", path: "/volume/v3/PROJECT/volumes/"},
	{local: "group", path: neutron + "security-groups/"},
	{local: "router", path: neutron + "routers/", before: func(t *testing.T, h *hands) {
		router, subnet := h.standing(t, "router"), h.standing(t, "subnet")
		h.Do(http.MethodPut, neutron+"routers/"+router+"/remove_router_interface", object{"subnet_id": subnet}, nil)
	}},
	{local: "subnet", path: neutron + "subnets/"},
	{local: "net", path: neutron + "networks/"},
}

const driftStack = routed + `  group: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: "80"}]}}
  key: {kind: KeyPair, spec: {publicKey: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0v1h7mXyV9G6Zp7o2Ff7gkL9cQJ4nT1uQd5y8wXb3K me"}}
  data: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}
  web:
    kind: Server
    spec: {image: tiny, flavor: m1.tiny, network: net, keyPair: key, securityGroups: [group], volumes: [{volume: data}]}
  address: {kind: FloatingIP, spec: {externalNetwork: public, server: web}}
`

// TestDrift takes what stands away by hand, kind by kind: it is seen within two intervals, told, shown, and repaired.
func TestDrift(t *testing.T) {
	t.Parallel()
	i := story.Start(t, "--observe-every", observeEvery.String())
	i.Cloud.Hurry(t)
	nothing := i.Cloud.Inventory(t)
	document := stackOf("drift", driftStack)
	i.Apply(t, document, "DONE")
	h := &hands{Foreign: i.Cloud.Foreign(t, "demo"), i: i, stack: "drift"}
	if plan := i.Plan(t, document); len(plan.GetChanges()) != 0 {
		t.Fatalf("the plan of what stands is %v", plan.GetChanges())
	}
	for _, place := range driftPlaces {
		t.Run(place.local, func(t *testing.T) {
			if place.before != nil {
				place.before(t, h)
			}
			h.drop(strings.ReplaceAll(place.path, "PROJECT", h.project(t)) + h.standing(t, place.local))
			awaitDrift(t, i, place.local, kindv1.DriftType_DRIFT_TYPE_MISSING)
		})
	}
	if text := i.Must(t, "describe", "stack", "drift").Out; !strings.Contains(text, "web: it is gone from the cloud; weft repair drift") {
		t.Errorf("describe says nothing of it:\n%s", text)
	}
	if text := i.Must(t, "repair", "drift", "--plan").Out; !strings.Contains(text, "-/+") {
		t.Errorf("the plan of the repair:\n%s", text)
	}
	i.Must(t, "repair", "drift", "--wait", "-o", "json").Ended(t, "DONE")
	if plan := i.Plan(t, document); len(plan.GetChanges()) != 0 {
		t.Errorf("after the repair the plan is %v", plan.GetChanges())
	}
	for _, r := range i.Stack(t, "drift").GetResources() {
		if r.GetStatus().GetPhase() != kindv1.Phase_PHASE_READY || r.GetStatus().GetDrift() != nil {
			t.Errorf("after the repair %s is %v", r.GetLocalName(), r.GetStatus())
		}
	}
	t.Run("a rule", func(t *testing.T) { changedRule(t, i, h) })
	i.Destroy(t, "drift", "DONE")
	i.NothingLeft(t, nothing)
}

// standing gives the id at the cloud of one of the stack's objects.
func (h *hands) standing(t *testing.T, local string) string {
	t.Helper()
	for _, r := range h.i.Stack(t, h.stack).GetResources() {
		if r.GetLocalName() == local {
			return r.GetStatus().GetProviderId()
		}
	}
	t.Fatalf("%s has no %s", h.stack, local)
	return ""
}

// project gives the project that the stack's objects are in.
func (h *hands) project(t *testing.T) string {
	t.Helper()
	item, ok := h.i.Cloud.Inventory(t).Find("network.network", h.stack+".net")
	if !ok {
		t.Fatalf("there is no network of %s", h.stack)
	}
	return item.Project
}

// changedRule opens a port in a security group by hand: it is seen, and closed again.
func changedRule(t *testing.T, i *story.Installation, h *hands) {
	group := h.standing(t, "group")
	rule := h.make("security-group-rules", "security_group_rule", object{
		"security_group_id": group, "direction": "ingress", "ethertype": "IPv4", "protocol": "tcp", "port_range_min": 22, "port_range_max": 22,
	})
	drift := awaitDrift(t, i, "group", kindv1.DriftType_DRIFT_TYPE_CHANGED)
	if text := drift.String(); !strings.Contains(text, "22-22") {
		t.Errorf("the drift is %s", text)
	}
	i.Must(t, "repair", "drift", "--wait")
	var out struct {
		Rules []struct {
			ID string `json:"id"`
		} `json:"security_group_rules"`
	}
	h.Do(http.MethodGet, neutron+"security-group-rules?security_group_id="+group, nil, &out)
	for _, r := range out.Rules {
		if r.ID == rule {
			t.Error("the rule still stands")
		}
	}
}

// awaitDrift waits until a resource of the stack is seen to have drifted; two intervals, and what a look takes, must do.
func awaitDrift(t *testing.T, i *story.Installation, local string, want kindv1.DriftType) *kindv1.Drift {
	t.Helper()
	var drift *kindv1.Drift
	testkit.Await(t, 2*observeEvery+10*time.Second, func() error {
		for _, r := range i.Stack(t, "drift").GetResources() {
			if r.GetLocalName() == local {
				drift = r.GetStatus().GetDrift()
			}
		}
		if drift.GetType() != want {
			return fmt.Errorf("the drift of %s is %v, want %s", local, drift, want)
		}
		return nil
	})
	return drift
}
