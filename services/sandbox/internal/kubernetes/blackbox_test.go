package kubernetes_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/weftcloud/weft/services/sandbox/internal/kubernetes"
)

// The black-box suite: what a client sees of a cluster. It runs against the sandbox always, and against the cluster of
// KUBECONFIG when that is set; answers that the two give differently are faults of the sandbox.

// cluster is one cluster under test.
type cluster struct {
	config    *rest.Config
	typed     *clientset.Clientset
	dynamic   *dynamic.DynamicClient
	namespace string
	image     string
}

// startSandbox serves a fresh sandbox with TLS and running controllers, and yields its kubeconfig.
func startSandbox(t *testing.T) (*kubernetes.Server, []byte) {
	t.Helper()
	s, err := kubernetes.New(kubernetes.Config{Latency: func(string) time.Duration { return 20 * time.Millisecond }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	server := httptest.NewUnstartedServer(s.Handler())
	server.TLS = s.TLSConfig()
	server.StartTLS()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		stop()
		if err := <-ended; err != nil {
			t.Errorf("controllers: %v", err)
		}
	})
	return s, s.Kubeconfig(server.URL)
}

func connect(t *testing.T, kubeconfig []byte) *cluster {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 500, 500
	c := &cluster{config: config, image: "pause:1"}
	if c.typed, err = clientset.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	c.findImage(t)
	ns, err := c.typed.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "blackbox-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.namespace = ns.Name
	t.Cleanup(func() {
		err := c.typed.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("delete namespace %s: %v", ns.Name, err)
		}
	})
	await(t, "the default service account", func() error {
		_, err := c.typed.CoreV1().ServiceAccounts(ns.Name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return c
}

// findImage picks an image that the nodes have: a cluster without a registry can run no other.
func (c *cluster) findImage(t *testing.T) {
	t.Helper()
	nodes, err := c.typed.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range nodes.Items {
		for _, image := range node.Status.Images {
			for _, name := range image.Names {
				if strings.Contains(name, "pause") && !strings.Contains(name, "@") {
					c.image = name
				}
			}
		}
	}
}

// await polls until check is content, for what happens in other processes.
func await(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// each runs a test on the sandbox and, when KUBECONFIG is set, on the real cluster.
func each(t *testing.T, test func(*testing.T, *cluster)) {
	t.Run("sandbox", func(t *testing.T) {
		_, kubeconfig := startSandbox(t)
		test(t, connect(t, kubeconfig))
	})
	t.Run("cluster", func(t *testing.T) {
		path := os.Getenv("KUBECONFIG")
		if path == "" {
			t.Skip("KUBECONFIG is not set")
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		test(t, connect(t, raw))
	})
}

func (c *cluster) deployment(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{TerminationGracePeriodSeconds: new(int64), Containers: []corev1.Container{{
					Name: "main", Image: c.image, ImagePullPolicy: corev1.PullIfNotPresent,
					Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}},
				}}},
			},
		},
	}
}

func (c *cluster) awaitRollout(t *testing.T, name string) *appsv1.Deployment {
	t.Helper()
	var last *appsv1.Deployment
	await(t, "rollout of "+name, func() error {
		d, err := c.typed.AppsV1().Deployments(c.namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		last = d
		if d.Status.ObservedGeneration < d.Generation || d.Status.UpdatedReplicas != *d.Spec.Replicas ||
			d.Status.AvailableReplicas != *d.Spec.Replicas || d.Status.Replicas != *d.Spec.Replicas {
			return fmt.Errorf("status %+v", d.Status)
		}
		return nil
	})
	return last
}

func TestWorkloadLife(t *testing.T) {
	each(t, func(t *testing.T, c *cluster) {
		deployments := c.typed.AppsV1().Deployments(c.namespace)
		if _, err := deployments.Create(t.Context(), c.deployment("web", 2), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("http")}},
		}}
		made, err := c.typed.CoreV1().Services(c.namespace).Create(t.Context(), svc, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if made.Spec.ClusterIP == "" || made.Spec.Ports[0].NodePort < 30000 {
			t.Errorf("service got no address: %+v", made.Spec)
		}
		d := c.awaitRollout(t, "web")
		if len(d.Status.Conditions) != 2 {
			t.Errorf("conditions %+v, want Available and Progressing", d.Status.Conditions)
		}
		await(t, "endpoints", func() error {
			slices, err := c.typed.DiscoveryV1().EndpointSlices(c.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=web"})
			if err != nil {
				return err
			}
			ready := 0
			for _, slice := range slices.Items {
				for _, e := range slice.Endpoints {
					if *e.Conditions.Ready && *slice.Ports[0].Port == 80 {
						ready++
					}
				}
			}
			if ready != 2 {
				return fmt.Errorf("%d ready endpoints", ready)
			}
			return nil
		})
		patch := []byte(`{"spec":{"template":{"metadata":{"annotations":{"turn":"2"}}}}}`)
		if _, err := deployments.Patch(t.Context(), "web", types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		if d := c.awaitRollout(t, "web"); d.Annotations["deployment.kubernetes.io/revision"] != "2" {
			t.Errorf("revision %q, want 2", d.Annotations["deployment.kubernetes.io/revision"])
		}
		scale, err := deployments.GetScale(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		scale.Spec.Replicas = 3
		if _, err := deployments.UpdateScale(t.Context(), "web", scale, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.awaitRollout(t, "web")
		foreground := metav1.DeletePropagationForeground
		if err := deployments.Delete(t.Context(), "web", metav1.DeleteOptions{PropagationPolicy: &foreground}); err != nil {
			t.Fatal(err)
		}
		await(t, "deletion in the foreground", func() error {
			if _, err := deployments.Get(t.Context(), "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("still there (%w)", err)
			}
			return nil
		})
		pods, err := c.typed.CoreV1().Pods(c.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
		if err != nil || len(pods.Items) != 0 {
			t.Errorf("after deletion: %d pods, %v", len(pods.Items), err)
		}
	})
}

func TestMissingImageNeverAvailable(t *testing.T) {
	each(t, func(t *testing.T, c *cluster) {
		c.image = "registry.invalid/does-not-exist:1"
		d := c.deployment("broken", 1)
		deadline := int32(2)
		d.Spec.ProgressDeadlineSeconds = &deadline
		if _, err := c.typed.AppsV1().Deployments(c.namespace).Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		await(t, "ProgressDeadlineExceeded", func() error {
			d, err := c.typed.AppsV1().Deployments(c.namespace).Get(t.Context(), "broken", metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, condition := range d.Status.Conditions {
				if condition.Reason == "ProgressDeadlineExceeded" && condition.Status == corev1.ConditionFalse {
					return nil
				}
			}
			return fmt.Errorf("conditions %+v", d.Status.Conditions)
		})
		pods, err := c.typed.CoreV1().Pods(c.namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil || len(pods.Items) != 1 {
			t.Fatalf("%d pods, %v", len(pods.Items), err)
		}
		waiting := pods.Items[0].Status.ContainerStatuses[0].State.Waiting
		if waiting == nil || waiting.Reason != "ImagePullBackOff" && waiting.Reason != "ErrImagePull" {
			t.Errorf("container waits for %+v", waiting)
		}
	})
}

func TestServerSideApply(t *testing.T) {
	each(t, func(t *testing.T, c *cluster) {
		maps := c.dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Namespace(c.namespace)
		apply := func(manager string, force bool, data map[string]any) (*unstructured.Unstructured, error) {
			u := &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": "v1", "kind": "ConfigMap",
				"metadata": map[string]any{"name": "c", "namespace": c.namespace}, "data": data,
			}}
			return maps.Apply(t.Context(), "c", u, metav1.ApplyOptions{FieldManager: manager, Force: force})
		}
		first, err := apply("one", false, map[string]any{"a": "1", "b": "1"})
		if err != nil {
			t.Fatal(err)
		}
		again, err := apply("one", false, map[string]any{"a": "1", "b": "1"})
		if err != nil || again.GetResourceVersion() != first.GetResourceVersion() {
			t.Errorf("the same apply again: version %s then %s, %v", first.GetResourceVersion(), again.GetResourceVersion(), err)
		}
		_, err = apply("two", false, map[string]any{"a": "2"})
		if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "one": .data.a`) {
			t.Errorf("apply over another's field: %v", err)
		}
		if _, err = apply("two", true, map[string]any{"a": "2"}); err != nil {
			t.Fatal(err)
		}
		after, err := apply("one", false, map[string]any{})
		if err != nil {
			t.Fatal(err)
		}
		data, _, err := unstructured.NestedStringMap(after.Object, "data")
		if diff := cmp.Diff(map[string]string{"a": "2"}, data); diff != "" || err != nil {
			t.Errorf("after one let go of its fields: %s %v", diff, err)
		}
	})
}

func TestWatchAndInformers(t *testing.T) {
	each(t, func(t *testing.T, c *cluster) {
		maps := c.typed.CoreV1().ConfigMaps(c.namespace)
		list, err := maps.List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		w, err := maps.Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion, LabelSelector: "watched=yes"})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		factory := informers.NewSharedInformerFactoryWithOptions(c.typed, 0, informers.WithNamespace(c.namespace))
		lister := factory.Core().V1().ConfigMaps().Lister()
		stop := make(chan struct{})
		defer close(stop)
		factory.Start(stop)
		factory.WaitForCacheSync(stop)

		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "w", Labels: map[string]string{"watched": "yes"}}}
		made, err := maps.Create(t.Context(), cm, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		made.Data = map[string]string{"a": "b"}
		changed, err := maps.Update(t.Context(), made, metav1.UpdateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := maps.Update(t.Context(), made, metav1.UpdateOptions{}); err == nil {
			made.Data["a"] = "c"
			made.ResourceVersion = list.ResourceVersion
			_, err = maps.Update(t.Context(), made, metav1.UpdateOptions{})
			if !apierrors.IsConflict(err) {
				t.Errorf("update of an old version: %v", err)
			}
		}
		changed.Labels = nil
		if _, err := maps.Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted} {
			if got := <-w.ResultChan(); got.Type != want {
				t.Fatalf("event %s, want %s: %+v", got.Type, want, got.Object)
			}
		}
		await(t, "the informer", func() error {
			seen, err := lister.ConfigMaps(c.namespace).Get("w")
			if err == nil && len(seen.Labels) > 0 {
				return errors.New("old object")
			}
			return err
		})
	})
}

func TestDiscoveryAndMapping(t *testing.T) {
	each(t, func(t *testing.T, c *cluster) {
		disco, err := discovery.NewDiscoveryClientForConfig(c.config)
		if err != nil {
			t.Fatal(err)
		}
		mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(disco))
		for kind, want := range map[schema.GroupKind]string{
			{Kind: "Pod"}: "pods", {Group: "apps", Kind: "Deployment"}: "deployments", {Group: "networking.k8s.io", Kind: "Ingress"}: "ingresses",
			{Group: "autoscaling", Kind: "HorizontalPodAutoscaler"}: "horizontalpodautoscalers",
		} {
			mapping, err := mapper.RESTMapping(kind)
			if err != nil || mapping.Resource.Resource != want {
				t.Errorf("%s maps to %+v, %v", kind, mapping, err)
			}
		}
		document, err := disco.OpenAPISchema()
		if err != nil || len(document.GetDefinitions().GetAdditionalProperties()) < 100 {
			t.Errorf("OpenAPI 2: %v", err)
		}
	})
}

func TestNamespaceGoesWithItsContent(t *testing.T) {
	each(t, func(t *testing.T, c *cluster) {
		maps := c.typed.CoreV1().ConfigMaps(c.namespace)
		held := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.com/hold"}}}
		if _, err := maps.Create(t.Context(), held, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		namespaces := c.typed.CoreV1().Namespaces()
		if err := namespaces.Delete(t.Context(), c.namespace, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		await(t, "the condition that names the finalizer", func() error {
			ns, err := namespaces.Get(t.Context(), c.namespace, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, condition := range ns.Status.Conditions {
				if condition.Type == corev1.NamespaceFinalizersRemaining && strings.Contains(condition.Message, "example.com/hold in 1 resource instances") {
					return nil
				}
			}
			return fmt.Errorf("conditions %+v", ns.Status.Conditions)
		})
		_, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{})
		if !apierrors.IsForbidden(err) || !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			t.Errorf("create in a terminating namespace: %v", err)
		}
		if _, err := maps.Patch(t.Context(), "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		await(t, "the end of the namespace", func() error {
			if _, err := namespaces.Get(t.Context(), c.namespace, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return errors.New("still there")
			}
			return nil
		})
	})
}

func TestPages(t *testing.T) {
	each(t, func(t *testing.T, c *cluster) {
		maps := c.typed.CoreV1().ConfigMaps(c.namespace)
		for i := range 5 {
			cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", i), Labels: map[string]string{"page": "yes"}}}
			if _, err := maps.Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		opts := metav1.ListOptions{Limit: 2, LabelSelector: "page=yes"}
		for {
			list, err := maps.List(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			for _, item := range list.Items {
				got = append(got, item.Name)
			}
			if opts.Continue = list.Continue; opts.Continue == "" {
				break
			}
		}
		if diff := cmp.Diff([]string{"p0", "p1", "p2", "p3", "p4"}, got); diff != "" {
			t.Error(diff)
		}
	})
}

// TestSameAnswers sends requests that are wrong in ways that people get wrong, and holds the sandbox's answers against
// the recorded ones of a real server of the same version; with KUBECONFIG the record itself is checked.
func TestSameAnswers(t *testing.T) {
	const record = "testdata/answers.json"
	each(t, func(t *testing.T, c *cluster) {
		got := c.answers(t)
		if os.Getenv("WEFT_RECORD_ANSWERS") != "" && strings.HasSuffix(t.Name(), "/cluster") {
			raw, err := json.MarshalIndent(got, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(record, append(raw, '\n'), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		raw, err := os.ReadFile(record)
		if err != nil {
			t.Fatal(err)
		}
		var want map[string]string
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("answers differ from those of a real server (-real +got):\n%s", diff)
		}
	})
}

type attempt struct{ verb, path, contentType, body string }

const (
	goodTemplate = `"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"missing:1"}]}}`
	mergePatch   = "application/merge-patch+json"
	jsonType     = "application/json"
)

func attempts() map[string]attempt {
	deploy := func(name, spec string) string {
		return `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"` + name + `"},"spec":{` + spec + `}}`
	}
	service := func(name, spec string) string {
		return `{"apiVersion":"v1","kind":"Service","metadata":{"name":"` + name + `"},"spec":{` + spec + `}}`
	}
	selector := `"selector":{"matchLabels":{"a":"b"}},`
	ns := "/namespaces/{ns}"
	deployments, services, maps := "/apis/apps/v1"+ns+"/deployments", "/api/v1"+ns+"/services", "/api/v1"+ns+"/configmaps"
	return map[string]attempt{
		"01 good deployment":       {"POST", deployments, jsonType, deploy("good", `"replicas":0,`+selector+goodTemplate)},
		"02 again":                 {"POST", deployments, jsonType, deploy("good", `"replicas":0,`+selector+goodTemplate)},
		"03 bad name":              {"POST", deployments, jsonType, deploy("Bad_Name", selector+goodTemplate)},
		"04 no selector":           {"POST", deployments, jsonType, deploy("x", goodTemplate)},
		"05 selector mismatch":     {"POST", deployments, jsonType, deploy("x", `"selector":{"matchLabels":{"z":"z"}},`+goodTemplate)},
		"06 no image":              {"POST", deployments, jsonType, deploy("x", selector+strings.Replace(goodTemplate, `,"image":"missing:1"`, "", 1))},
		"07 no containers":         {"POST", deployments, jsonType, deploy("x", selector+`"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[]}}`)},
		"08 negative replicas":     {"POST", deployments, jsonType, deploy("x", `"replicas":-1,`+selector+goodTemplate)},
		"09 unknown field":         {"POST", deployments + "?fieldValidation=Strict", jsonType, deploy("x", `"nope":1,`+selector+goodTemplate)},
		"10 wrong type":            {"POST", deployments, jsonType, deploy("x", `"replicas":"three",`+selector+goodTemplate)},
		"11 selector change":       {"PATCH", deployments + "/good", mergePatch, `{"spec":{"selector":{"matchLabels":{"n":"w"}},"template":{"metadata":{"labels":{"n":"w"}}}}}`},
		"12 port out of range":     {"POST", services, jsonType, service("x", `"ports":[{"port":70000}]`)},
		"13 no ports":              {"POST", services, jsonType, service("x", `"selector":{"a":"b"}`)},
		"14 service name":          {"POST", services, jsonType, service("1x", `"ports":[{"port":80}]`)},
		"15 unnamed ports":         {"POST", services, jsonType, service("x", `"ports":[{"port":80},{"port":81}]`)},
		"16 node port range":       {"POST", services, jsonType, service("x", `"type":"NodePort","ports":[{"port":80,"nodePort":80}]`)},
		"17 good service":          {"POST", services, jsonType, service("svc", `"ports":[{"port":80}]`)},
		"18 cluster ip change":     {"PATCH", services + "/svc", mergePatch, `{"spec":{"clusterIP":"10.96.250.250","clusterIPs":["10.96.250.250"]}}`},
		"19 not found":             {"GET", deployments + "/absent", "", ""},
		"20 no namespace":          {"POST", "/api/v1/namespaces/does-not-exist/configmaps", jsonType, `{"metadata":{"name":"x"}}`},
		"21 unknown resource":      {"GET", "/apis/apps/v1" + ns + "/nothings", "", ""},
		"22 wrong kind":            {"POST", maps, jsonType, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}`},
		"23 wrong version":         {"POST", deployments, jsonType, `{"apiVersion":"apps/v1beta1","kind":"Deployment","metadata":{"name":"x"}}`},
		"24 no name":               {"POST", maps, jsonType, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{}}`},
		"25 bad key":               {"POST", maps, jsonType, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a b":"c"}}`},
		"26 bad label":             {"POST", maps, jsonType, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","labels":{"a":"b c"}}}`},
		"27 bad selector":          {"GET", maps + "?labelSelector=a+b+c", "", ""},
		"28 bad field":             {"GET", maps + "?fieldSelector=spec.x%3Dy", "", ""},
		"29 other namespace":       {"POST", maps, jsonType, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","namespace":"other"}}`},
		"30 version on create":     {"POST", maps, jsonType, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","resourceVersion":"7"}}`},
		"31 apply without manager": {"PATCH", maps + "/x", "application/apply-patch+yaml", `{"apiVersion":"v1","kind":"ConfigMap"}`},
		"32 apply unknown field":   {"PATCH", maps + "/x?fieldManager=m", "application/apply-patch+yaml", `{"apiVersion":"v1","kind":"ConfigMap","nope":1}`},
		"33 bad patch":             {"PATCH", deployments + "/good", "application/json-patch+json", `[{"op":"test","path":"/spec/replicas","value":9}]`},
		"34 delete default":        {"DELETE", "/api/v1/namespaces/default", "", ""},
		"35 mount of nothing":      {"POST", deployments, jsonType, deploy("x", selector+strings.Replace(goodTemplate, `"name":"c"`, `"name":"c","volumeMounts":[{"name":"v","mountPath":"/v"}]`, 1))},
		"36 request over limit":    {"POST", deployments, jsonType, deploy("x", selector+strings.Replace(goodTemplate, `"name":"c"`, `"name":"c","resources":{"requests":{"cpu":"2"},"limits":{"cpu":"1"}}`, 1))},
		"37 bad quantity":          {"POST", deployments, jsonType, deploy("x", selector+strings.Replace(goodTemplate, `"name":"c"`, `"name":"c","resources":{"requests":{"cpu":"lots"}}`, 1))},
		"38 claim without size":    {"POST", "/api/v1" + ns + "/persistentvolumeclaims", jsonType, `{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"x"},"spec":{"accessModes":["ReadWriteOnce"]}}`},
		"39 job restart policy":    {"POST", "/apis/batch/v1" + ns + "/jobs", jsonType, `{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"x"},"spec":{` + goodTemplate + `}}`},
		"41 merge unknown field":   {"PATCH", deployments + "/good?fieldValidation=Strict", mergePatch, `{"spec":{"nope":1}}`},
		"42 strategic unknown":     {"PATCH", deployments + "/good?fieldValidation=Strict", "application/strategic-merge-patch+json", `{"spec":{"nope":1}}`},
		"43 json unknown field":    {"PATCH", deployments + "/good?fieldValidation=Strict", "application/json-patch+json", `[{"op":"add","path":"/spec/nope","value":1}]`},
		"44 merge wrong type":      {"PATCH", deployments + "/good", mergePatch, `{"spec":{"replicas":"three"}}`},
		"45 strategic wrong type":  {"PATCH", deployments + "/good", "application/strategic-merge-patch+json", `{"spec":{"replicas":"three"}}`},
		"46 merge not an object":   {"PATCH", deployments + "/good", mergePatch, `[1]`},
		"47 patch of a kind":       {"PATCH", deployments + "/good", "text/plain", `{}`},
		"48 rename by patch":       {"PATCH", deployments + "/good", mergePatch, `{"metadata":{"name":"other"}}`},
		"49 old version":           {"PATCH", deployments + "/good", mergePatch, `{"metadata":{"resourceVersion":"1"}}`},
		"50 wrong uid":             {"DELETE", deployments + "/good", jsonType, `{"preconditions":{"uid":"11111111-1111-1111-1111-111111111111"}}`},
		"51 pod field":             {"GET", "/api/v1" + ns + "/pods?fieldSelector=spec.x%3Dy", "", ""},
		"52 secret type":           {"POST", "/api/v1" + ns + "/secrets", jsonType, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"},"type":"kubernetes.io/tls"}`},
		"53 ingress without rules": {"POST", "/apis/networking.k8s.io/v1" + ns + "/ingresses", jsonType, `{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"name":"x"},"spec":{}}`},
		"54 not json":              {"POST", maps, jsonType, `{"kind":`},
		"55 empty body":            {"POST", maps, jsonType, ` `},
		"56 cron schedule":         {"POST", "/apis/batch/v1" + ns + "/cronjobs", jsonType, `{"apiVersion":"batch/v1","kind":"CronJob","metadata":{"name":"x"},"spec":{"schedule":"often","jobTemplate":{"spec":{` + strings.Replace(goodTemplate, `"spec":{`, `"spec":{"restartPolicy":"Never",`, 1) + `}}}}`},
		"57 surge and unavailable": {"POST", deployments, jsonType, deploy("x", `"strategy":{"rollingUpdate":{"maxSurge":0,"maxUnavailable":0}},`+selector+goodTemplate)},
		"58 put other name":        {"PUT", maps + "/x", jsonType, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"y"}}`},
		"59 put what is not there": {"PUT", maps + "/x", jsonType, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`},
		"60 post to a name":        {"POST", maps + "/x", jsonType, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`},
		"61 container port":        {"POST", deployments, jsonType, deploy("x", selector+strings.Replace(goodTemplate, `"name":"c"`, `"name":"c","ports":[{"containerPort":0},{"containerPort":99999}]`, 1))},
		"62 probe without handler": {"POST", deployments, jsonType, deploy("x", selector+strings.Replace(goodTemplate, `"name":"c"`, `"name":"c","readinessProbe":{}`, 1))},
		"63 twice the same name":   {"POST", deployments, jsonType, deploy("x", selector+strings.Replace(goodTemplate, `]}}`, `,{"name":"c","image":"missing:2"}]}}`, 1))},
		"64 bad policy":            {"DELETE", deployments + "/good?propagationPolicy=Sideways", "", ""},
		"40 dry run":               {"POST", maps + "?dryRun=Some", jsonType, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`},
	}
}

var wholeObject = regexp.MustCompile(`(?s)Invalid value: "(\{|map\[).*[}\]]": `)

var volatile = regexp.MustCompile(`blackbox-[a-z0-9]{5}|record \([-0-9a-f]{36}\)`)

// answers sends every attempt in order and yields code, reason, message and causes of each answer.
func (c *cluster) answers(t *testing.T) map[string]string {
	t.Helper()
	all := attempts()
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	sort.Strings(names)
	got := map[string]string{}
	for _, name := range names {
		a := all[name]
		request := c.typed.RESTClient().Verb(a.verb).RequestURI(strings.ReplaceAll(a.path, "{ns}", c.namespace))
		if a.body != "" {
			request.SetHeader("Content-Type", a.contentType).Body([]byte(a.body))
		}
		request.SetHeader("Accept", jsonType)
		code := 0
		raw, err := request.Do(t.Context()).StatusCode(&code).Raw()
		status := metav1.Status{}
		if err := json.Unmarshal(raw, &status); err != nil {
			status.Message = strings.TrimSpace(string(raw))
		}
		if err == nil {
			status = metav1.Status{}
		}
		text := fmt.Sprintf("%d %s: %s", code, status.Reason, status.Message)
		if status.Details != nil {
			for _, cause := range status.Details.Causes {
				text += fmt.Sprintf(" [%s at %s]", cause.Type, cause.Field)
			}
		}
		text = wholeObject.ReplaceAllString(text, `Invalid value: "(object)": `)
		got[name] = volatile.ReplaceAllString(text, "blackbox-x")
	}
	return got
}
