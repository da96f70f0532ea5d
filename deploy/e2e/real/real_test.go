// Package real tells the example's story on a real OpenStack and a real Kubernetes, seen from outside.
package real

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/keypairs"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/loadbalancer/v2/loadbalancers"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/floatingips"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/routers"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"
	"github.com/gophercloud/gophercloud/v2/pagination"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	"github.com/weftcloud/weft/pkg/cloud/kubernetes"
	"github.com/weftcloud/weft/pkg/cloud/openstack"
	"github.com/weftcloud/weft/pkg/driver"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

// What the story needs beyond the clouds; each part that lacks its variable is left out, and said to be.
const (
	// joinVariable names a program that is called with a network's id and plugs the cluster's nodes into it, and with
	// --leave and the id to pull them out again.
	joinVariable = "WEFT_REAL_JOIN"
	// imageVariable names an image that the cluster can run and that is built from deploy/e2e/cmd/shopweb.
	imageVariable = "WEFT_REAL_WEB_IMAGE"
	// adminVariable names an entry of clouds.yaml that may make projects.
	adminVariable = "WEFT_REAL_ADMIN_CLOUD"
)

// patience is how long a real cloud may take over one thing.
const patience = 10 * time.Minute

// variable gives a variable of the environment, or leaves the test out.
func variable(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Skipf("%s is not set", name)
	}
	return value
}

// TestMain builds the binary once.
func TestMain(m *testing.M) {
	if os.Getenv("OS_CLOUD") == "" || os.Getenv("KUBECONFIG") == "" {
		os.Exit(m.Run()) // every story says what it lacks
	}
	dir, err := os.MkdirTemp("", "weft-real-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary, err := story.Build(dir)
	if err == nil {
		err = os.Setenv(story.Binary, binary)
	}
	code := 1
	if err == nil {
		code = m.Run()
	}
	if removed := os.RemoveAll(dir); err == nil {
		err = removed
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// place is the two clouds, seen without Weft.
type place struct {
	cloud   *openstack.Session
	cluster *kubernetes.Session
}

func open(t *testing.T) *place {
	t.Helper()
	credentials, err := openstack.FromCloudsYAML(variable(t, "OS_CLIENT_CONFIG_FILE"), variable(t, "OS_CLOUD"))
	if err != nil {
		t.Fatal(err)
	}
	cloud, err := openstack.Open(t.Context(), credentials)
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(variable(t, "KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := kubernetes.Open(t.Context(), driver.Credentials{
		Driver: "kubernetes", Account: "the real cluster", Data: map[string]string{kubernetes.KubeconfigKey: string(config)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &place{cloud: cloud, cluster: cluster}
}

// list gives all that both clouds list, a line each, sorted.
func (p *place) list(t *testing.T) []string {
	t.Helper()
	network, err := p.cloud.Network(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	compute, err := p.cloud.Compute(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	storage, err := p.cloud.BlockStorage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	add := func(kind string, pager pagination.Pager, ids func(pagination.Page) ([]string, error)) {
		err := pager.EachPage(t.Context(), func(_ context.Context, page pagination.Page) (bool, error) {
			found, err := ids(page)
			for _, id := range found {
				out = append(out, kind+" "+id)
			}
			return true, err
		})
		if err != nil {
			t.Fatalf("list %s: %v", kind, err)
		}
	}
	add("network", networks.List(network, nil), ids(networks.ExtractNetworks, func(n networks.Network) string { return n.ID + " " + n.Name }))
	add("subnet", subnets.List(network, nil), ids(subnets.ExtractSubnets, func(s subnets.Subnet) string { return s.ID + " " + s.Name }))
	add("router", routers.List(network, nil), ids(routers.ExtractRouters, func(r routers.Router) string { return r.ID + " " + r.Name }))
	add("port", ports.List(network, nil), ids(ports.ExtractPorts, func(r ports.Port) string { return r.ID + " " + r.Name }))
	add("group", groups.List(network, groups.ListOpts{}), ids(groups.ExtractGroups, func(g groups.SecGroup) string { return g.ID + " " + g.Name }))
	add("floating IP", floatingips.List(network, nil), ids(floatingips.ExtractFloatingIPs, func(f floatingips.FloatingIP) string { return f.ID + " " + f.Description }))
	add("server", servers.List(compute, nil), ids(servers.ExtractServers, func(s servers.Server) string { return s.ID + " " + s.Name }))
	add("key pair", keypairs.List(compute, nil), ids(keypairs.ExtractKeyPairs, func(k keypairs.KeyPair) string { return k.Name }))
	add("volume", volumes.List(storage, nil), ids(volumes.ExtractVolumes, func(v volumes.Volume) string { return v.ID + " " + v.Name }))
	balancing, err := p.cloud.LoadBalancer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	add("load balancer", loadbalancers.List(balancing, nil), ids(loadbalancers.ExtractLoadBalancers, func(l loadbalancers.LoadBalancer) string { return l.ID + " " + l.Name }))
	out = append(out, p.listCluster(t)...)
	slices.Sort(out)
	return out
}

// named lists what the clouds have with a text in its name, such as that of a stack.
func (p *place) named(t *testing.T, text string) []string {
	t.Helper()
	return slices.DeleteFunc(p.list(t), func(line string) bool { return !strings.Contains(line, text) })
}

// listCluster gives what the cluster lists of all kinds that Weft can make itself and of what comes with them.
func (p *place) listCluster(t *testing.T) []string {
	t.Helper()
	var out []string
	add := func(kind string, list runtime.Object, err error) {
		if err != nil {
			t.Fatalf("list %ss: %v", kind, err)
		}
		err = meta.EachListItem(list, func(o runtime.Object) error {
			m, err := meta.Accessor(o)
			if err == nil {
				out = append(out, kind+" "+m.GetNamespace()+"/"+m.GetName())
			}
			return err
		})
		if err != nil {
			t.Fatalf("list %ss: %v", kind, err)
		}
	}
	all, ctx := metav1.ListOptions{}, t.Context()
	deployments, err := p.cluster.Typed.AppsV1().Deployments("").List(ctx, all)
	add("deployment", deployments, err)
	services, err := p.cluster.Typed.CoreV1().Services("").List(ctx, all)
	add("service", services, err)
	configs, err := p.cluster.Typed.CoreV1().ConfigMaps("").List(ctx, all)
	add("config map", configs, err)
	secrets, err := p.cluster.Typed.CoreV1().Secrets("").List(ctx, all)
	add("secret", secrets, err)
	pods, err := p.cluster.Typed.CoreV1().Pods("").List(ctx, all)
	add("pod", pods, err)
	return out
}

// await waits until get gives no error.
func await(t *testing.T, what string, get func() error) {
	t.Helper()
	err := get()
	for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); err = get() {
		time.Sleep(500 * time.Millisecond)
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// fetch gets a page.
func fetch(url string) (body string, err error) {
	return fetchBy(&http.Client{Timeout: 10 * time.Second}, url)
}

func fetchBy(client *http.Client, url string) (body string, err error) {
	answer, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer func() {
		if closed := answer.Body.Close(); err == nil {
			err = closed
		}
	}()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, answer.Status, text)
	}
	return strings.TrimSpace(string(text)), err
}

// TestShop brings the example up, reaches its server from outside and from a pod, and takes it away while a foreign port
// still sits on its network.
func TestShop(t *testing.T) {
	p := open(t)
	before := p.list(t)
	i := story.Start(t, "--no-sandbox")
	i.Must(t, "cloud", "add", "lab", "--driver", "openstack", "--os-cloud", os.Getenv("OS_CLOUD"))
	i.Must(t, "secret", "put", "kube", "--from-file", "kubeconfig="+os.Getenv("KUBECONFIG"))
	document, err := filepath.Abs("../../examples/shop.yaml")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"apply", "-f", document, "--wait", "-o", "json"}
	if image := os.Getenv(imageVariable); image != "" {
		args = append(args, "--param", "web-image="+image)
	}
	i.Must(t, args...)
	stack := i.Stack(t, "shop")
	url := stack.GetOutputs().GetFields()["url"].GetStringValue()
	await(t, "the server answers on its floating IP", func() error { _, err := fetch(url); return err })

	network := &networkv1.Network{}
	i.Must(t, "get", "network", "shop.net.network", "-o", "json").Decode(t, network)
	foreign := network.GetObserved().GetNetworkId()
	t.Run("pod reaches server", func(t *testing.T) {
		p.podReachesServer(t, foreign, stack.GetOutputs().GetFields()["database"].GetStringValue())
	})
	t.Run("destroy waits for a foreign port", func(t *testing.T) { p.destroyWaits(t, i, foreign) })
	await(t, "nothing is left", func() error { // a cluster takes a deployment's pods away after it
		if after := p.list(t); !slices.Equal(before, after) {
			return fmt.Errorf("something is left:\nbefore %q\nafter  %q", before, after)
		}
		return nil
	})
	if entries := i.Ledger(t).GetEntries(); len(entries) > 0 {
		t.Errorf("the ledger still has %v", entries)
	}
}

func join(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command(variable(t, joinVariable), args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", cmd.Path, args, err, out)
	}
}

// podReachesServer joins the nodes to the stack's network: a pod then reaches the server by the private address that it
// was given in its environment.
func (p *place) podReachesServer(t *testing.T, network, database string) {
	variable(t, imageVariable)
	join(t, network)
	t.Cleanup(func() { join(t, "--leave", network) })
	pods, err := p.cluster.Typed.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=shop"})
	if err != nil || len(pods.Items) == 0 {
		t.Fatalf("the pods of the workload: %v, %d found", err, len(pods.Items))
	}
	await(t, "the pod answers with what the server says", func() error {
		text, err := fetch("http://" + pods.Items[0].Status.PodIP + ":8080/")
		if err == nil && !strings.Contains(text, "web via http://"+database+"/: ") {
			err = fmt.Errorf("it answered %q", text)
		}
		return err
	})
}

// destroyWaits destroys the stack while a port that is none of Weft's sits on its network: the operation names it, waits,
// and goes on when it is gone.
func (p *place) destroyWaits(t *testing.T, i *story.Installation, network string) {
	client, err := p.cloud.Network(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	port, err := ports.Create(t.Context(), client, ports.CreateOpts{NetworkID: network, Name: "foreign"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	op := i.Must(t, "destroy", "shop", "--no-wait", "-o", "json").Operation(t)
	await(t, "the operation names the port", func() error {
		now := i.Op(t, op.ID())
		for _, s := range now.GetSteps() {
			for _, b := range s.GetBlockers() {
				if b.GetId() == port.ID && b.GetKind() == "port" && b.GetAction() != "" {
					return nil
				}
			}
		}
		return fmt.Errorf("it does not: %v", now)
	})
	if !i.Op(t, op.ID()).Is("RUNNING") {
		t.Fatalf("it does not wait: %v", i.Op(t, op.ID()))
	}
	if err := ports.Delete(t.Context(), client, port.ID).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	await(t, "the stack is gone", func() error {
		if now := i.Op(t, op.ID()); !now.Is("DONE") {
			return fmt.Errorf("it is not: %v", now)
		}
		return nil
	})
}
