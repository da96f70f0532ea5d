package real

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// wares shares the address of doors.yaml: a workload, which answers with what a server of that stack says, and whose cluster's nodes were joined to that stack's network.
const wares = `kind: Stack
name: wares
placement: {cloud: lab}
parameters: {image: "", db: ""}
resources:
  apps: {kind: Cluster, spec: {driver: ADOPT, credentials: kube, network: networks/doors.net.network, nodePortsNamed: "k8s-{node}"}}
  web:
    kind: Workload
    spec: {cluster: apps, exposure: NODES, containers: [{name: web, image: "${params.image}", ports: [8080], env: {DB_HOST: "${params.db}"}}]}
  door: {kind: Publication, spec: {target: web, port: 8080, via: PORT_MAPPING, address: floatingIps/doors.ip, publicPort: 8082}}
outputs: {url: "${door.url}"}
`

// late asks for a port that doors.yaml has.
const late = `kind: Stack
name: late
placement: {cloud: lab}
resources:
  wall: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: "80"}]}}
  one: {kind: Server, spec: {image: tiny, flavor: m1.tiny, network: networks/doors.net.network, securityGroups: [wall]}}
  door: {kind: Publication, spec: {target: one, port: 80, via: PORT_MAPPING, address: floatingIps/doors.ip, publicPort: 8081}}
`

// TestDoors has three services answer at one public address: two of servers, and one of a workload whose cluster's nodes
// were joined to the servers' network. A fourth that asks for a taken port is refused with the owner's name.
func TestDoors(t *testing.T) {
	p := open(t)
	variable(t, joinVariable)
	image := variable(t, imageVariable)
	before := p.list(t)
	i := story.Start(t, "--no-sandbox")
	i.Must(t, "cloud", "add", "lab", "--driver", "openstack", "--os-cloud", os.Getenv("OS_CLOUD"))
	i.Must(t, "secret", "put", "kube", "--from-file", "kubeconfig="+os.Getenv("KUBECONFIG"))
	document, err := filepath.Abs("../../examples/doors.yaml")
	if err != nil {
		t.Fatal(err)
	}
	i.Must(t, "apply", "-f", document, "--no-wait", "-o", "json")
	await(t, "the two servers stand behind the address", func() error {
		if state := i.Stack(t, "doors").GetState(); state != orchestratorv1.StackState_STACK_STATE_READY {
			return fmt.Errorf("the stack is %s", state)
		}
		return nil
	})
	outputs := i.Stack(t, "doors").GetOutputs().GetFields()
	urls := []string{outputs["first"].GetStringValue(), outputs["second"].GetStringValue()}

	network := &networkv1.Network{}
	i.Must(t, "get", "network", "doors.net.network", "-o", "json").Decode(t, network)
	id := network.GetObserved().GetNetworkId()
	joined := true
	t.Cleanup(func() {
		if joined {
			join(t, "--leave", id)
		}
	})
	join(t, id, p.groupFor(t, i))
	server := &computev1.Server{}
	i.Must(t, "get", "server", "doors.one", "-o", "json").Decode(t, server)
	i.Apply(t, wares, "DONE", "--param", "image="+image, "--param", "db="+server.GetObserved().GetAddress())
	urls = append(urls, i.Stack(t, "wares").GetOutputs().GetFields()["url"].GetStringValue())
	address := regexp.MustCompile(`^http://([0-9.]+):[0-9]+$`)
	for n, url := range urls {
		at := address.FindStringSubmatch(url)
		if at == nil || at[1] != address.FindStringSubmatch(urls[0])[1] {
			t.Fatalf("the services answer at %q, want one address", urls)
		}
		await(t, fmt.Sprintf("service %d answers at %s", n+1, url), func() error { _, err := fetch(url); return err })
	}
	said := i.Weft(t, "apply", "-f", i.Document(t, "late.yaml", late), "--wait").Refused(t).Err
	if !strings.Contains(said, "TCP port 8081 of tenants/default/floatingIps/doors.ip is taken by tenants/default/portForwardings/doors.first.mapping") {
		t.Errorf("who asks for a port that is taken is told:\n%s", said)
	}
	i.Destroy(t, "wares", "DONE")
	join(t, "--leave", id)
	joined = false
	i.Destroy(t, "group", "DONE")
	i.Destroy(t, "doors", "DONE")
	await(t, "nothing is left", func() error {
		if after := p.list(t); !slices.Equal(before, after) {
			return fmt.Errorf("something is left:\nbefore %q\nafter  %q", before, after)
		}
		return nil
	})
}

// groupFor makes a security group that lets others reach the ports of the nodes, and gives its id at the cloud.
func (p *place) groupFor(t *testing.T, i *story.Installation) string {
	t.Helper()
	i.Apply(t, `kind: Stack
name: group
placement: {cloud: lab}
resources:
  nodes: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: "30000-32767"}]}}
`, "DONE")
	group := &networkv1.SecurityGroup{}
	i.Must(t, "get", "securitygroup", "group.nodes", "-o", "json").Decode(t, group)
	return group.GetObserved().GetSecurityGroupId()
}
