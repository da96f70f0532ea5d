package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	"github.com/weftcloud/weft/pkg/testkit"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// observeEvery is how often the installation of these stories looks at what stands.
const observeEvery = 2 * time.Second

// driftPlace is where an object of a kind is at the cloud, and how it is taken away by hand.
type driftPlace struct {
	kind, local string
	// path gives where a DELETE takes it away, from its id; PROJECT stands for the stack's project.
	path func(id string) string
	// before does what is to be done before it can go.
	before func(t *testing.T, h *hands)
	// cluster says that it stands on the cluster, not at the cloud.
	cluster bool
	// parts says that the object is several, of which one is taken away: the resource is changed, not gone.
	parts bool
}

// under gives the path of an object by that of its collection.
func under(collection string) func(string) string {
	return func(id string) string { return collection + id }
}

// driftPlaces lists them in an order in which they can go.
var driftPlaces = []driftPlace{
	{kind: "Workload", local: "shop", path: func(string) string { return "/apis/apps/v1/namespaces/default/deployments/drift-shop" }, cluster: true},
	{kind: "Manifest", local: "map", path: func(string) string { return "/api/v1/namespaces/default/configmaps/colours" }, cluster: true, parts: true},
	{kind: "PortForwarding", local: "way", path: func(id string) string {
		address, forwarding, _ := strings.Cut(id, "/")
		return neutron + "floatingips/" + address + "/port_forwardings/" + forwarding
	}},
	{kind: "LoadBalancer", local: "front", path: func(id string) string { return "/load-balancer/v2.0/lbaas/loadbalancers/" + id + "?cascade=true" }},
	{kind: "FloatingIP", local: "address", path: under(neutron + "floatingips/")},
	{kind: "VolumeAttachment", local: "disk", path: func(id string) string {
		server, volume, _ := strings.Cut(id, "/")
		return "/compute/v2.1/servers/" + server + "/os-volume_attachments/" + volume
	}},
	{kind: "VolumeSnapshot", local: "moment", path: under("/volume/v3/PROJECT/snapshots/")},
	{kind: "Server", local: "web", path: under("/compute/v2.1/servers/")},
	{kind: "Server", local: "other", path: under("/compute/v2.1/servers/")},
	{kind: "KeyPair", local: "key", path: under("/compute/v2.1/os-keypairs/")},
	{kind: "ServerGroup", local: "near", path: under("/compute/v2.1/os-server-groups/")},
	{kind: "Image", local: "disk-image", path: under("/image/v2/images/")},
	{kind: "Volume", local: "data", path: under("/volume/v3/PROJECT/volumes/"), before: func(t *testing.T, h *hands) {
		story.Await(t, "the volume is detached", func() bool {
			item, ok := h.i.Cloud.Inventory(t).Find("volume.volume", h.stack+".data")
			return ok && item.State == "available"
		})
	}},
	{kind: "Share", local: "home", path: under("/share/v2/shares/")},
	{kind: "Bucket", local: "files", path: under("/object/v1/AUTH_PROJECT/")},
	{kind: "SecurityGroup", local: "group", path: under(neutron + "security-groups/"), before: func(t *testing.T, h *hands) {
		h.gone(t, h.standing(t, "web"))
	}},
	{kind: "Router", local: "router", path: under(neutron + "routers/"), before: func(t *testing.T, h *hands) {
		router, subnet := h.standing(t, "router"), h.standing(t, "subnet")
		h.Do(http.MethodPut, neutron+"routers/"+router+"/remove_router_interface", object{"subnet_id": subnet}, nil)
	}},
	{kind: "Subnet", local: "subnet", path: under(neutron + "subnets/"), before: func(t *testing.T, h *hands) {
		h.gone(t, h.standing(t, "front"))
		h.gone(t, h.standing(t, "other"))
	}},
	{kind: "Network", local: "net", path: under(neutron + "networks/")},
}

// driftExcepted are the kinds without such a place, each with the reason.
var driftExcepted = map[string]string{
	"Cluster":        "an adopted cluster is somebody else's: there is no object of ours to be deleted",
	"PrivateNetwork": "its children are: networks, subnets and routers",
	"Publication":    "its children are: floating IPs, port forwardings and load balancers",
	"ScalingGroup":   "it makes a member that is gone anew by itself, see TestDriftOfAGroup",
}

const driftStack = routed + `  group: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: "80"}]}}
  key: {kind: KeyPair, spec: {publicKey: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0v1h7mXyV9G6Zp7o2Ff7gkL9cQJ4nT1uQd5y8wXb3K me"}}
  data: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}
  moment: {kind: VolumeSnapshot, spec: {volume: data, force: true, reclaim: DESTROY}}
  home: {kind: Share, spec: {size: 1Gi, clients: [{cidr: 10.0.0.0/24}], reclaim: DESTROY}}
  files: {kind: Bucket, spec: {reclaim: DESTROY}}
  near: {kind: ServerGroup, spec: {policy: SOFT_ANTI_AFFINITY}}
  disk-image: {kind: Image, spec: {source: {url: "%s"}, diskFormat: RAW}}
  web:
    kind: Server
    spec: {image: tiny, flavor: m1.tiny, network: net, keyPair: key, securityGroups: [group], serverGroup: near}
  other: {kind: Server, spec: {image: tiny, flavor: m1.tiny, network: net}}
  disk: {kind: VolumeAttachment, spec: {server: web, volume: data}}
  address: {kind: FloatingIP, spec: {externalNetwork: public, server: web}}
  shared: {kind: FloatingIP, spec: {externalNetwork: public}}
  way: {kind: PortForwarding, spec: {floatingIp: shared, target: other, port: 80, externalPort: 8080}}
  front: {kind: LoadBalancer, spec: {network: net, listeners: [{name: web, port: 80}], pools: [{name: web, members: [{address: 10.61.0.77, port: 80}]}]}}
  apps: {kind: Cluster, spec: {driver: ADOPT, credentials: kube}}
  shop: {kind: Workload, spec: {cluster: apps, replicas: 1, containers: [{name: web, image: pause}]}}
  map: {kind: Manifest, spec: {cluster: apps, yaml: "{apiVersion: v1, kind: ConfigMap, metadata: {name: colours}, data: {sky: blue}}"}}
`

// driftSlack is what looks may take beyond two intervals on a busy machine.
const driftSlack = 10 * time.Second

// TestDrift takes what stands away by hand, kind by kind: it is seen within two intervals, told, shown, and repaired.
func TestDrift(t *testing.T) {
	t.Parallel()
	var covered []string
	for _, place := range driftPlaces {
		covered = append(covered, place.kind)
	}
	coversEveryKind(t, covered, driftExcepted)
	i := story.Start(t, "--observe-every", observeEvery.String())
	i.Cloud.Hurry(t)
	nothing := i.Cloud.Inventory(t)
	document := stackOf("drift", fmt.Sprintf(driftStack, diskServer(t)))
	i.Apply(t, document, "DONE")
	h := &hands{Foreign: i.Cloud.Foreign(t, "demo"), i: i, kube: i.Kube(t), stack: "drift"}
	if plan := i.Plan(t, document); len(plan.GetChanges()) != 0 {
		t.Fatalf("the plan of what stands is %v", plan.GetChanges())
	}
	h.takeAway(t)
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

// takeAway deletes what stands, kind by kind, and holds each against the time in which it must be seen.
func (h *hands) takeAway(t *testing.T) {
	t.Helper()
	project := h.project(t)
	deleted := map[string]time.Time{}
	for _, place := range driftPlaces {
		if place.before != nil {
			place.before(t, h)
		}
		path := strings.ReplaceAll(place.path(h.standing(t, place.local)), "PROJECT", project)
		if place.cluster {
			h.kube.Do(http.MethodDelete, path, nil)
		} else {
			h.drop(path)
		}
		deleted[place.local] = time.Now()
	}
	for _, place := range driftPlaces {
		t.Run(place.kind+" "+place.local, func(t *testing.T) {
			within := time.Until(deleted[place.local].Add(2*observeEvery + driftSlack))
			want := kindv1.DriftType_DRIFT_TYPE_MISSING
			if place.parts {
				want = kindv1.DriftType_DRIFT_TYPE_CHANGED
			}
			awaitDriftWithin(t, h.i, place.local, want, max(within, time.Second))
		})
	}
}

// gone waits until the cloud no longer holds an object.
func (h *hands) gone(t *testing.T, id string) {
	t.Helper()
	story.Await(t, id+" is gone", func() bool {
		return !slices.ContainsFunc(h.i.Cloud.Inventory(t), func(item story.Item) bool { return item.ID == id })
	})
}

// TestDriftOfAGroup takes a member of a scaling group away by hand: the group makes another, without anybody's word.
func TestDriftOfAGroup(t *testing.T) {
	t.Parallel()
	i := story.Start(t, "--observe-every", observeEvery.String())
	i.Cloud.Hurry(t)
	nothing := i.Cloud.Inventory(t)
	document := stackOf("drift", fabric+"  web: {kind: ScalingGroup, spec: {template: {image: tiny, flavor: m1.tiny, network: net}, min: 2, max: 2, drainPeriod: 0s}}\n")
	i.Apply(t, document, "DONE")
	var lost string
	for _, item := range i.Cloud.Inventory(t) {
		if item.Service+"."+item.Kind == "compute.server" {
			lost = item.ID
		}
	}
	i.Cloud.Foreign(t, "demo").Do(http.MethodDelete, "/compute/v2.1/servers/"+lost, nil, nil)
	story.Await(t, "the group has two again", func() bool {
		in := i.Cloud.Inventory(t)
		anew := !slices.ContainsFunc(in, func(item story.Item) bool { return item.ID == lost })
		return anew && in.Counts()["compute.server"] == 2 && i.Group(t, "drift.web").SettledAt(t, 2)
	})
	if plan := i.Plan(t, document); len(plan.GetChanges()) != 0 {
		t.Errorf("afterwards the plan is %v", plan.GetChanges())
	}
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
	return awaitDriftWithin(t, i, local, want, 2*observeEvery+driftSlack)
}

// awaitDriftWithin is awaitDrift with another bound.
func awaitDriftWithin(t *testing.T, i *story.Installation, local string, want kindv1.DriftType, bound time.Duration) *kindv1.Drift {
	t.Helper()
	var drift *kindv1.Drift
	testkit.Await(t, bound, func() error {
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
