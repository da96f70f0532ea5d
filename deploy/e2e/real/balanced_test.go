package real

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

// outWithin is how long a member that is stopped may be asked at most.
const outWithin = 10 * time.Second

// TestBalanced brings the example up: two servers answer in turn through the public address of their load balancer. One is
// stopped, is out within outWithin, and no request fails after that; started again it comes back. Then a node of the cluster
// joins the network, and answers in the same pool.
func TestBalanced(t *testing.T) {
	p := open(t)
	i := story.Start(t, "--no-sandbox")
	i.Must(t, "cloud", "add", "lab", "--driver", "openstack", "--os-cloud", os.Getenv("OS_CLOUD"))
	document, err := filepath.Abs("../../examples/balanced.yaml")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	t.Cleanup(func() { ended(t, i, "destroy", "balanced") })
	ended(t, i, "apply", "-f", document)
	t.Logf("ready after %s", time.Since(began).Round(time.Second))
	address, front := &networkv1.FloatingIP{}, &networkv1.LoadBalancer{}
	i.Must(t, "get", "floatingIp", "balanced.address", "-o", "json").Decode(t, address)
	i.Must(t, "get", "loadBalancer", "balanced.front", "-o", "json").Decode(t, front)
	url := "http://" + address.GetObserved().GetAddress() + "/"
	all := []string{"balanced-one", "balanced-two"}
	await(t, "both answer", func() error { return answers(url, 8, all...) })
	if err := answers(url, 8, all...); err != nil {
		t.Errorf("then, without a pause: %v", err)
	}

	one := &computev1.Server{}
	i.Must(t, "get", "server", "balanced.one", "-o", "json").Decode(t, one)
	compute, err := p.cloud.Compute(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := servers.Stop(t.Context(), compute, one.GetObserved().GetServerId()).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	await(t, "one is stopped", func() error { return powered(t, p, one, "SHUTOFF") })
	time.Sleep(outWithin) // what is promised is promised for after that
	for n := range 40 {
		text, err := fetch(url)
		if err != nil || !strings.Contains(text, "two") {
			t.Fatalf("request %d after one was out: %q, %v", n, text, err)
		}
	}
	if err := servers.Start(t.Context(), compute, one.GetObserved().GetServerId()).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	await(t, "one is back", func() error { return answers(url, 8, all...) })
	t.Run("a node in the same pool", func(t *testing.T) { withNode(t, i, document, url) })
}

// ended runs a command that begins an operation, and waits until that is done: it may take longer than a command may. One
// that ends otherwise, or needs a hand, fails the test at once.
func ended(t *testing.T, i *story.Installation, args ...string) {
	t.Helper()
	op := i.Must(t, append(args, "--no-wait", "-o", "json")...).Operation(t)
	await(t, strings.Join(args[:1], " ")+" is done", func() error {
		now := i.Op(t, op.GetName()) // by its whole name: it may be another tenant's than the operator's own
		switch now.State() {
		case "DONE":
			return nil
		case "RUNNING":
			return fmt.Errorf("it is running: %v", now.GetSteps())
		}
		t.Fatalf("weft %s: the operation is %s: %v", strings.Join(args, " "), now.State(), now)
		return nil
	})
}

// powered is an error until a server has a status.
func powered(t *testing.T, p *place, s *computev1.Server, status string) error {
	compute, err := p.cloud.Compute(t.Context())
	if err != nil {
		return err
	}
	got, err := servers.Get(t.Context(), compute, s.GetObserved().GetServerId()).Extract()
	if err == nil && got.Status != status {
		err = fmt.Errorf("it is %s", got.Status)
	}
	return err
}

// answers is an error unless all of several requests are answered, and each of those who are named answers one of them.
func answers(url string, requests int, all ...string) error {
	heard := map[string]int{}
	for range requests {
		text, err := fetch(url)
		if err != nil {
			return err
		}
		heard[text]++
	}
	for _, who := range all {
		last := who[strings.LastIndex(who, "-")+1:]
		if !slices.ContainsFunc(keys(heard), func(text string) bool { return strings.Contains(text, last) }) {
			return fmt.Errorf("%s did not answer; heard %v", who, heard)
		}
	}
	return nil
}

func keys(m map[string]int) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	return out
}

// withNode adds a workload to the pool of the servers. The cluster's nodes are joined to the network; both kinds answer.
func withNode(t *testing.T, i *story.Installation, document, url string) {
	image := variable(t, imageVariable)
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	quoted, err := json.Marshal(image)
	if err != nil {
		t.Fatal(err)
	}
	open := strings.Replace(string(text), "  front:\n", "  nodes: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: 30000-32767}]}}\n  front:\n", 1)
	ended(t, i, "apply", "-f", i.Document(t, "open.yaml", open))
	network, group := &networkv1.Network{}, &networkv1.SecurityGroup{}
	i.Must(t, "get", "network", "balanced.net.network", "-o", "json").Decode(t, network)
	i.Must(t, "get", "securityGroup", "balanced.nodes", "-o", "json").Decode(t, group)
	id := network.GetObserved().GetNetworkId()
	join(t, id, group.GetObserved().GetSecurityGroupId())
	t.Cleanup(func() { // the foreign ports would keep the network from going
		join(t, "--leave", id)
		ended(t, i, "apply", "-f", document)
	})
	i.Must(t, "secret", "put", "kube", "--from-file", "kubeconfig="+os.Getenv("KUBECONFIG"))
	with := strings.Replace(open, "{target: two, port: 80}]", "{target: two, port: 80}, {target: pods, port: 8080}]", 1)
	// what the pod says it asks the server two for, which takes its time where machines are emulated
	with = strings.Replace(with, "{delay: 2s, timeout: 1s, retries: 2}", "{delay: 6s, timeout: 5s, retries: 2}", 1)
	with = strings.Replace(with, "  front:\n", "  apps: {kind: Cluster, spec: {driver: ADOPT, credentials: kube, network: net, nodePortsNamed: \"k8s-{node}\"}}\n"+
		"  pods: {kind: Workload, spec: {cluster: apps, replicas: 1, exposure: NODES, containers: [{name: pods, image: "+string(quoted)+", ports: [8080], env: {DB_HOST: \"${two.address}\"}}]}}\n  front:\n", 1)
	ended(t, i, "apply", "-f", i.Document(t, "with-node.yaml", with))
	await(t, "servers and pods answer", func() error { return answers(url, 24, "balanced-one", "balanced-two", "the-web") })
}
