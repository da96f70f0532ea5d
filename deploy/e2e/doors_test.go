package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

// wares is a stack that shares the address of doors.yaml: a workload whose cluster's nodes are on that stack's network.
const wares = `kind: Stack
name: wares
placement: {cloud: lab}
resources:
  apps: {kind: Cluster, spec: {driver: ADOPT, credentials: kube, network: networks/doors.net.network, nodePortsNamed: "k8s-{node}"}}
  web:
    kind: Workload
    spec: {cluster: apps, exposure: NODES, containers: [{name: web, image: "registry.sandbox/web:1", ports: [8080]}]}
  door: {kind: Publication, spec: {target: web, port: 8080, via: PORT_MAPPING, address: floatingIps/doors.ip, publicPort: 8082}}
outputs: {url: "${door.url}"}
`

// late asks for a port that doors.yaml has.
const late = `kind: Stack
name: late
placement: {cloud: lab}
resources:
  one: {kind: Server, spec: {image: tiny, flavor: m1.tiny, network: networks/doors.net.network}}
  door: {kind: Publication, spec: {target: one, port: 80, via: PORT_MAPPING, address: floatingIps/doors.ip, publicPort: 8081}}
`

// TestDoors shares one public address among services of two stacks, servers and a workload. Who asks for a port that is
// taken learns who has it before anything is made; when that one is gone the port can be had.
func TestDoors(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	before := i.Cloud.Inventory(t)
	text, err := os.ReadFile(filepath.Join("..", "examples", "doors.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if plan := i.Plan(t, string(text)); plan.GetPublicAddresses() != 1 {
		t.Errorf("the plan tells of %d public addresses, want 1", plan.GetPublicAddresses())
	}
	i.Apply(t, string(text), "DONE")
	outputs := i.Stack(t, "doors").GetOutputs().GetFields()
	address := regexp.MustCompile(`^http://(\S+):8081$`).FindStringSubmatch(outputs["first"].GetStringValue())
	if address == nil || !regexp.MustCompile(`^http://`+regexp.QuoteMeta(address[1])+`:300[0-9]{2}$`).MatchString(outputs["second"].GetStringValue()) {
		t.Fatalf("outputs = %v, want two ports of one address", outputs)
	}
	if out := i.Must(t, "describe", "stack", "doors").Out; !strings.Contains(out, "1 public address in use") {
		t.Errorf("describe does not tell how many public addresses are used:\n%s", out)
	}

	ports := joinNodes(t, i)
	i.Apply(t, wares, "DONE")
	if url := i.Stack(t, "wares").GetOutputs().GetFields()["url"].GetStringValue(); url != "http://"+address[1]+":8082" {
		t.Errorf("the workload answers at %s", url)
	}
	if plan := i.Plan(t, wares); len(plan.GetChanges()) != 0 || plan.GetPublicAddresses() != 0 {
		t.Errorf("planned again: %d changes, %d public addresses of its own", len(plan.GetChanges()), plan.GetPublicAddresses())
	}

	since := i.Cloud.Last(t)
	refused := i.Weft(t, "apply", "-f", i.Document(t, "late.yaml", late), "--wait")
	if said := refused.Refused(t).Err; !strings.Contains(said, "resources.door.spec.publicPort") ||
		!strings.Contains(said, "TCP port 8081 of tenants/default/floatingIps/doors.ip is taken by tenants/default/portForwardings/doors.first.mapping") {
		t.Errorf("who asks for a port that is taken is told:\n%s", said)
	}
	if made := i.Cloud.Mutations(t, since); len(made) > 0 {
		t.Errorf("it was refused after %v", made)
	}
	without := regexp.MustCompile(`(?m)^  first:\n.*\n.*\n|^  first: .*\n`).ReplaceAllString(string(text), "")
	i.Apply(t, without, "DONE")
	i.Apply(t, late, "DONE")

	for _, stack := range []string{"late", "wares"} {
		i.Destroy(t, stack, "DONE")
	}
	f := i.Cloud.Foreign(t, "demo")
	for _, id := range ports {
		f.Do(http.MethodDelete, "/network/v2.0/ports/"+id, nil, nil)
	}
	i.Destroy(t, "doors", "DONE")
	i.NothingLeft(t, before)
}

// joinNodes gives the cluster's nodes ports on the network of doors.yaml, as whoever plugs them in does.
func joinNodes(t *testing.T, i *story.Installation) []string {
	t.Helper()
	n := &networkv1.Network{}
	i.Must(t, "get", "network", "doors.net.network", "-o", "json").Decode(t, n)
	f := i.Cloud.Foreign(t, "demo")
	var ids []string
	for _, node := range []string{"node-1", "node-2", "node-3"} {
		var out struct {
			Port struct {
				ID string `json:"id"`
			} `json:"port"`
		}
		f.Do(http.MethodPost, "/network/v2.0/ports", map[string]any{"port": map[string]any{
			"network_id": n.GetObserved().GetNetworkId(), "name": "k8s-" + node, "device_owner": "compute:k8s", "device_id": "k8s-" + node,
		}}, &out)
		ids = append(ids, out.Port.ID)
	}
	return ids
}
