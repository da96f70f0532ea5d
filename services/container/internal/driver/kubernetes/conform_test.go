package kubernetes

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	cloud "github.com/weftcloud/weft/pkg/cloud/kubernetes"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/driver/drivertest"
	"github.com/weftcloud/weft/pkg/fault"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	"github.com/weftcloud/weft/services/sandbox"
)

// peer is a cluster that tests run against, reached through a door that can be shut.
type peer struct {
	session *cloud.Session
	door    *door
	// image is one that the nodes have and that runs until it is stopped.
	image string
	// wait passes the time between two looks; nil means the suite's own.
	wait func()
}

// peers runs a test against every cluster that there is: the simulated one always, the one of KUBECONFIG if it is set.
func peers(t *testing.T, test func(t *testing.T, p *peer)) {
	t.Helper()
	t.Run("sandbox", func(t *testing.T) {
		p := connect(t, startSandbox(t))
		p.wait = func() { time.Sleep(20 * time.Millisecond) } // it has a clock and a scheduler of its own
		test(t, p)
	})
	t.Run("real", func(t *testing.T) {
		path := os.Getenv("KUBECONFIG")
		if path == "" {
			t.Skip("KUBECONFIG is not set: there is no real cluster to run against")
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		test(t, connect(t, text))
	})
}

// startSandbox starts simulated clouds for as long as the test runs, and gives the kubeconfig of their cluster.
func startSandbox(t *testing.T) []byte {
	t.Helper()
	s, err := sandbox.New(sandbox.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run sandbox: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close sandbox: %v", err)
		}
	})
	return s.Kubeconfig()
}

// connect opens a session through a door.
func connect(t *testing.T, kubeconfig []byte) *peer {
	t.Helper()
	file, err := clientcmd.Load(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cluster := file.Clusters[file.Contexts[file.CurrentContext].Cluster]
	at, err := url.Parse(cluster.Server)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{door: openDoor(t, at.Host)}
	if cluster.TLSServerName == "" {
		cluster.TLSServerName = at.Hostname()
	}
	cluster.Server = at.Scheme + "://" + p.door.address
	text, err := clientcmd.Write(*file)
	if err != nil {
		t.Fatal(err)
	}
	p.session, err = (&cloud.Sessions{}).Open(t.Context(), driver.Credentials{Driver: Name, Account: "test", Data: map[string]string{cloud.KubeconfigKey: string(text)}})
	if err != nil {
		t.Fatal(err)
	}
	p.image = p.findImage(t)
	return p
}

// findImage gives the image of the pause container, which each node has.
func (p *peer) findImage(t *testing.T) string {
	t.Helper()
	nodes, err := p.session.Typed.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.Items {
		for _, i := range n.Status.Images {
			for _, name := range i.Names {
				if strings.Contains(name, "pause:") {
					return name
				}
			}
		}
	}
	return "registry.k8s.io/pause:3.10"
}

// namespace makes a namespace of the test's own.
func (p *peer) namespace(t *testing.T) string {
	t.Helper()
	made, err := p.session.Typed.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "weft-conform-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.session.Typed.CoreV1().Namespaces().Delete(context.Background(), made.Name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("delete namespace: %v", err)
		}
	})
	return made.Name
}

// door forwards connections until it is shut.
type door struct {
	address, target string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
}

func openDoor(t *testing.T, target string) *door {
	t.Helper()
	d := &door{target: target, conns: map[net.Conn]bool{}}
	d.open(t, "127.0.0.1:0")
	t.Cleanup(d.shut)
	return d
}

func (d *door) open(t *testing.T, address string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	d.listener, d.address = l, l.Addr().String()
	d.mu.Unlock()
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go d.forward(in)
		}
	}()
}

func (d *door) forward(in net.Conn) {
	out, err := net.Dial("tcp", d.target)
	if err != nil {
		in.Close()
		return
	}
	d.mu.Lock()
	d.conns[in], d.conns[out] = true, true
	d.mu.Unlock()
	var both sync.WaitGroup
	for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
		both.Go(func() {
			if _, err := io.Copy(pair[0], pair[1]); err != nil {
				pair[0].Close()
			}
			pair[0].Close()
		})
	}
	both.Wait()
	d.mu.Lock()
	delete(d.conns, in)
	delete(d.conns, out)
	d.mu.Unlock()
}

// shut ends all connections and refuses new ones.
func (d *door) shut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listener.Close()
	for c := range d.conns {
		c.Close()
	}
}

// outage shuts the door and gives what opens it again.
func (p *peer) outage(t *testing.T) func() {
	p.door.shut()
	return func() { p.door.open(t, p.door.address) }
}

const absent = "default/absent/0190a000-0000-7000-8000-000000000000"

func (p *peer) workloads() *workloads { return &workloads{p.session, time.Now} }
func (p *peer) manifests() *manifests { return &manifests{p.session, time.Now} }

func workloadSpec(namespace, image string) *containerv1.WorkloadSpec {
	replicas := int32(2)
	return &containerv1.WorkloadSpec{
		Cluster: "tenants/conform/clusters/c", Namespace: namespace, Replicas: &replicas,
		Labels:  map[string]string{"tier": "front"},
		Volumes: []*containerv1.WorkloadVolume{{Name: "files", Config: map[string]string{"a.conf": "one", "b.conf": "two"}}},
		Containers: []*containerv1.Container{
			{
				Name: "main", Image: image, Ports: []int32{8080, 9090}, Env: map[string]string{"B": "2", "A": "1"},
				Resources: &containerv1.ResourceRequirements{Cpu: "10m", Memory: "16Mi", MemoryLimit: "64Mi"},
				Mounts:    []*containerv1.VolumeMount{{Volume: "files", Path: "/etc/files"}},
			},
			{Name: "side", Image: image},
		},
	}
}

func TestWorkloadConforms(t *testing.T) {
	peers(t, func(t *testing.T, p *peer) {
		drivertest.Run(t, drivertest.Harness[*containerv1.WorkloadSpec, *containerv1.WorkloadObserved]{
			Driver: p.workloads(), AbsentID: absent, Outage: p.outage, Wait: p.wait,
			Name: func(id string) string { return "tenants/conform/workloads/shop." + id },
			Spec: func(t *testing.T) (*containerv1.WorkloadSpec, driver.Refs) {
				return workloadSpec(p.namespace(t), p.image), nil
			},
			Change: func(t *testing.T, r driver.Request[*containerv1.WorkloadSpec]) (*containerv1.WorkloadSpec, driver.Refs) {
				s, replicas := workloadSpec(r.Spec.GetNamespace(), p.image), int32(1)
				s.Replicas, s.Exposure = &replicas, containerv1.Exposure_EXPOSURE_NODES
				s.Volumes[0].Config = map[string]string{"a.conf": "three"}
				s.Containers = s.Containers[:1]
				s.Containers[0].Env = map[string]string{"A": "3"}
				cluster := &containerv1.Cluster{Name: "tenants/conform/clusters/main", Spec: &containerv1.ClusterSpec{
					Network: "tenants/conform/networks/lan", NodePortsNamed: "k8s-{node}",
				}}
				s.Cluster = cluster.GetName()
				return s, driver.Refs{cluster.GetName(): cluster}
			},
			Verify: func(t *testing.T, r driver.Request[*containerv1.WorkloadSpec], o *containerv1.WorkloadObserved) {
				p.verifyWorkload(t, r, o)
			},
		})
	})
}

// verifyWorkload compares what was observed, and what stands at the cluster, with what is wanted.
func (p *peer) verifyWorkload(t *testing.T, r driver.Request[*containerv1.WorkloadSpec], o *containerv1.WorkloadObserved) {
	t.Helper()
	name := objectName(r.Name)
	if o.GetNamespace() != r.Spec.GetNamespace() || o.GetReadyReplicas() != r.Spec.GetReplicas() {
		t.Errorf("observed %v", o)
	}
	if want := name + "." + r.Spec.GetNamespace() + ".svc"; o.GetHost() != want || net.ParseIP(o.GetAddress()) == nil {
		t.Errorf("observed host %q and address %q, want %q and an address", o.GetHost(), o.GetAddress(), want)
	}
	exposed := 0
	if r.Spec.GetExposure() == containerv1.Exposure_EXPOSURE_NODES {
		exposed = len(r.Spec.GetContainers()[0].GetPorts())
	}
	joined := o.GetNodePortName() == "k8s-{node}" && o.GetNodeNetwork() == "tenants/conform/networks/lan" && len(o.GetNodes()) > 0 && o.GetNodes()[0].GetName() != ""
	if (exposed > 0) != joined {
		t.Errorf("observed nodes %v, ports %q, network %q, with %d ports exposed", o.GetNodes(), o.GetNodePortName(), o.GetNodeNetwork(), exposed)
	}
	if len(o.GetNodePorts()) != exposed {
		t.Errorf("observed node ports %v, want %d", o.GetNodePorts(), exposed)
	}
	d, err := p.session.Typed.AppsV1().Deployments(r.Spec.GetNamespace()).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod := d.Spec.Template
	if len(pod.Spec.Containers) != len(r.Spec.GetContainers()) || len(pod.Spec.Containers[0].Env) != len(r.Spec.GetContainers()[0].GetEnv()) {
		t.Errorf("the deployment has %d containers, the first with environment %v", len(pod.Spec.Containers), pod.Spec.Containers[0].Env)
	}
	if d.Annotations[annotationName] != r.Name || pod.Labels["tier"] != "front" || pod.Annotations[annotationConfig] != configDigest(r.Spec.GetVolumes()) {
		t.Errorf("the deployment is marked %v, its pods %v and %v", d.Annotations, pod.Labels, pod.Annotations)
	}
	files, err := p.session.Typed.CoreV1().ConfigMaps(r.Spec.GetNamespace()).Get(t.Context(), name+".files", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(files.Data) != len(r.Spec.GetVolumes()[0].GetConfig()) || files.Data["a.conf"] != r.Spec.GetVolumes()[0].GetConfig()["a.conf"] {
		t.Errorf("the files are %v, want %v", files.Data, r.Spec.GetVolumes()[0].GetConfig())
	}
}

// manifestText gives a manifest that uses all tiers; suffix makes the names of what is not namespaced its own.
func manifestText(suffix, image, value string) string {
	return fmt.Sprintf(`# a kind of our own, used before it is defined
apiVersion: conform%[1]s.weft.example/v1
kind: Door
metadata: {name: front}
spec: {colour: %[3]s}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: "%[2]s", env: [{name: VALUE, value: %[3]s}]}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: settings, namespace: weft-conform-%[1]s, labels: {app.kubernetes.io/managed-by: author}}
  data: {value: %[3]s}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: doors.conform%[1]s.weft.example}
spec:
  group: conform%[1]s.weft.example
  scope: Namespaced
  names: {kind: Door, listKind: DoorList, plural: doors, singular: door}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {colour: {type: string}}}}
---
apiVersion: v1
kind: Namespace
metadata: {name: weft-conform-%[1]s}
`, suffix, image, value)
}

func suffix(t *testing.T) string {
	t.Helper()
	id, err := uuid.NewRandom()
	if err != nil {
		t.Fatal(err)
	}
	return id.String()[:8]
}

func TestManifestConforms(t *testing.T) {
	peers(t, func(t *testing.T, p *peer) {
		suffixes := map[string]string{} // by namespace
		drivertest.Run(t, drivertest.Harness[*containerv1.ManifestSpec, *containerv1.ManifestObserved]{
			Driver: p.manifests(), AbsentID: absent, Outage: p.outage, Wait: p.wait,
			Name: func(id string) string { return "tenants/conform/manifests/shop." + id },
			Spec: func(t *testing.T) (*containerv1.ManifestSpec, driver.Refs) {
				ns := p.namespace(t)
				suffixes[ns] = suffix(t)
				return &containerv1.ManifestSpec{Cluster: "tenants/conform/clusters/c", Namespace: ns, Yaml: manifestText(suffixes[ns], p.image, "red")}, nil
			},
			Change: func(t *testing.T, r driver.Request[*containerv1.ManifestSpec]) (*containerv1.ManifestSpec, driver.Refs) {
				text := manifestText(suffixes[r.Spec.GetNamespace()], p.image, "blue")
				text += "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n"
				text = strings.Replace(text, "apiVersion: v1\n  kind: ConfigMap", "apiVersion: v1\n  kind: Secret", 1)
				text = strings.Replace(text, "data: {value: blue}", "stringData: {value: blue}", 1)
				return &containerv1.ManifestSpec{Cluster: r.Spec.GetCluster(), Namespace: r.Spec.GetNamespace(), Yaml: text}, nil
			},
			Verify: func(t *testing.T, r driver.Request[*containerv1.ManifestSpec], o *containerv1.ManifestObserved) {
				docs, problems := parseManifest(r.Spec.GetYaml())
				if len(problems) > 0 || len(o.GetObjects()) != len(docs) {
					t.Errorf("observed %d objects, want %d (%v)", len(o.GetObjects()), len(docs), problems)
				}
				for _, seen := range o.GetObjects() {
					if !seen.GetReady() || seen.GetMessage() != "" {
						t.Errorf("observed %v", seen)
					}
				}
			},
		})
	})
}

func TestClusterConforms(t *testing.T) {
	peers(t, func(t *testing.T, p *peer) {
		c := &clusters{p.session}
		r := clusterRequest{Key: uuid.NewString(), Name: "tenants/conform/clusters/c", Spec: &containerv1.ClusterSpec{Driver: containerv1.ClusterDriver_CLUSTER_DRIVER_ADOPT}}
		if ids, err := c.Find(t.Context(), r); err != nil || len(ids) != 0 {
			t.Errorf("find = %v, %v; want nothing", ids, err)
		}
		id, err := c.Create(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Delete(t.Context(), id); err != nil {
			t.Error(err)
		}
		seen, err := c.Observe(t.Context(), []string{id, "another"})
		if err != nil || len(seen) != 1 || seen[id].State != driver.Ready {
			t.Fatalf("observe = %v, %v", seen, err)
		}
		if o := seen[id].Observed; o.GetVersion() == "" || o.GetEndpoint() != p.session.Endpoint || o.GetNodes() < 1 || o.GetReadyNodes() < 1 {
			t.Errorf("observed %v", o)
		}
		if !driver.Erase[*containerv1.ClusterSpec, *containerv1.ClusterObserved](c).Adopts() {
			t.Error("a cluster is not adopted")
		}
		mend := p.outage(t)
		if _, err := c.Create(t.Context(), r); !fault.Is(err, fault.Unavailable) {
			t.Errorf("create during an outage = %v, want Unavailable", err)
		}
		if _, err := c.Observe(t.Context(), []string{id}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("observe during an outage = %v, want Unavailable", err)
		}
		mend()
		features, err := probe(t.Context(), p.session)
		if err != nil || len(features) < 5 {
			t.Errorf("probe = %v, %v", features, err)
		}
	})
}
