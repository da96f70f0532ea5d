package kubernetes

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/weftcloud/weft/services/sandbox/internal/world"
)

// hand is a clock that a test moves.
type hand struct{ now time.Time }

func (h *hand) tell() time.Time { return h.now }

func newHand() *hand { return &hand{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

// serve puts a server behind TLS and yields its URL and an administrator's client. Nothing runs the controllers.
func serve(t *testing.T, s *Server) (string, *clientset.Clientset) {
	t.Helper()
	server := httptest.NewUnstartedServer(s.Handler())
	server.TLS = s.TLSConfig()
	server.StartTLS()
	t.Cleanup(server.Close)
	config, err := clientcmd.RESTConfigFromKubeConfig(s.Kubeconfig(server.URL))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 1000, 1000
	client, err := clientset.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return server.URL, client
}

func step(t *testing.T, s *Server) {
	t.Helper()
	if _, err := s.Step(); err != nil {
		t.Fatal(err)
	}
}

func deploymentOf(name, image string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas,
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}}},
	}}
}

func TestCredentials(t *testing.T) {
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	url, _ := serve(t, s)
	stranger, err := s.keys.certificateFor("stranger", nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	other, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.keys.certificateFor(adminName, []string{groupMasters}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		token string
		cert  *tls.Certificate
		check func(error) bool
	}{
		"none":                   {check: apierrors.IsUnauthorized},
		"wrong token":            {token: "wrong", check: apierrors.IsUnauthorized},
		"another cluster's cert": {cert: &foreign, check: apierrors.IsUnauthorized},
		"user without a role":    {cert: &stranger, check: apierrors.IsForbidden},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			config := &tls.Config{InsecureSkipVerify: true} // the test is about the client's side
			if test.cert != nil {
				config.Certificates = []tls.Certificate{*test.cert}
			}
			client, err := clientset.NewForConfigAndClient(&rest.Config{Host: url, BearerToken: test.token},
				&http.Client{Transport: &bearer{test.token, &http.Transport{TLSClientConfig: config}}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); !test.check(err) {
				t.Errorf("list: %v", err)
			}
		})
	}
}

type bearer struct {
	token string
	next  http.RoundTripper
}

func (b *bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.token != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	return b.next.RoundTrip(r)
}

// TestSurvivesKill stops a cluster in the middle of a rollout without any farewell, and opens its journal again.
func TestSurvivesKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	clock := newHand()
	open := func() (*Server, *world.Journal) {
		journal, err := world.OpenJournal(path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := New(Config{Journal: journal, Now: clock.tell, Latency: func(string) time.Duration { return 10 * time.Second }})
		if err != nil {
			t.Fatal(err)
		}
		return s, journal
	}
	s, journal := open()
	step(t, s)
	_, client := serve(t, s)
	made, err := client.AppsV1().Deployments("default").Create(t.Context(), deploymentOf("web", "x:1", 3), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "gone"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := client.CoreV1().ConfigMaps("default").Delete(t.Context(), "gone", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	step(t, s)
	before, authority := s.store.rv, string(s.keys.kept.CA)
	if err := journal.Close(); err != nil {
		t.Fatal(err)
	}
	s, journal = open()
	defer func() {
		if err := journal.Close(); err != nil {
			t.Error(err)
		}
	}()
	if s.store.rv < before || string(s.keys.kept.CA) != authority {
		t.Errorf("after restart: version %d (before %d), same authority %v", s.store.rv, before, string(s.keys.kept.CA) == authority)
	}
	_, client = serve(t, s)
	step(t, s)
	clock.now = clock.now.Add(11 * time.Second)
	step(t, s)
	d, err := client.AppsV1().Deployments("default").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || d.UID != made.UID || d.Status.AvailableReplicas != 3 {
		t.Fatalf("deployment after restart: %+v, %v", d, err)
	}
	pods, err := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(pods.Items) != 3 {
		t.Errorf("%d pods, %v: want the three made before", len(pods.Items), err)
	}
	if s.exists("configmaps", "default", "gone") {
		t.Error("a deleted object came back")
	}
}

func TestOldWatchIsGone(t *testing.T) {
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, client := serve(t, s)
	s.store.mu.Lock()
	s.store.oldest = s.store.rv
	s.store.mu.Unlock()
	w, err := client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: "2"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	event := <-w.ResultChan()
	if err := apierrors.FromObject(event.Object); !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Errorf("event %s: %v", event.Type, err)
	}
}

func TestFiveThousandPods(t *testing.T) {
	clock := newHand()
	s, err := New(Config{Now: clock.tell, Latency: func(string) time.Duration { return time.Second }})
	if err != nil {
		t.Fatal(err)
	}
	_, client := serve(t, s)
	step(t, s)
	if _, err := client.AppsV1().Deployments("default").Create(t.Context(), deploymentOf("many", "x:1", 5000), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	step(t, s)
	clock.now = clock.now.Add(2 * time.Second)
	step(t, s)
	d, err := client.AppsV1().Deployments("default").Get(t.Context(), "many", metav1.GetOptions{})
	if err != nil || d.Status.AvailableReplicas != 5000 {
		t.Fatalf("status %+v, %v", d.Status, err)
	}
}

var kubectlVersion = regexp.MustCompile(`gitVersion: v1\.(\d+)`)

// TestKubectl drives the sandbox with the kubectl in PATH, when it is recent enough.
func TestKubectl(t *testing.T) {
	binary, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("no kubectl in PATH")
	}
	out, err := exec.Command(binary, "version", "--client", "-o", "yaml").CombinedOutput()
	if err != nil {
		t.Skipf("kubectl version: %v", err)
	}
	found := kubectlVersion.FindSubmatch(out)
	if found == nil {
		t.Skipf("kubectl tells no version: %s", out)
	}
	if minor, err := strconv.Atoi(string(found[1])); err != nil || minor < 30 {
		t.Skipf("kubectl 1.%s is too old: 1.30 is needed", found[1])
	}
	s, err := New(Config{Latency: func(string) time.Duration { return 50 * time.Millisecond }})
	if err != nil {
		t.Fatal(err)
	}
	url, _ := serve(t, s)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	folder := t.TempDir()
	config, manifest := filepath.Join(folder, "kubeconfig"), filepath.Join(folder, "web.yaml")
	wrong := filepath.Join(folder, "wrong.yaml")
	for path, content := range map[string][]byte{config: s.Kubeconfig(url), manifest: []byte(manifestText), wrong: []byte(strings.Replace(manifestText, "image:", "imago: x\n        image:", 1))} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	steps := []struct {
		args string
		want string // in what it prints
		fail bool
	}{
		{"create namespace shop", "namespace/shop created", false},
		{"apply -f " + manifest, "deployment.apps/web created", false},
		{"rollout status deployment/web --timeout=30s", "successfully rolled out", false},
		{"apply -f " + manifest, "service/web unchanged", false},
		{"get deployments", "web    2/2     2            2", false},
		{"get pods -o wide", "node-1", false},
		{"get service web -o jsonpath={.spec.clusterIP}", "10.96.", false},
		{"describe deployment web", "ScalingReplicaSet", false},
		{"apply -f " + wrong, `unknown field "spec.template.spec.containers[0].imago"`, true},
		{"apply --server-side -f " + manifest, "deployment.apps/web serverside-applied", false},
		{"apply --server-side -f " + wrong, "field not declared in schema", true},
		{"set image deployment/web main=web:2", "image updated", false},
		{"rollout status deployment/web --timeout=30s", "successfully rolled out", false},
		{"rollout undo deployment/web", "rolled back", false},
		{"scale deployment/web --replicas=3", "scaled", false},
		{"wait deployment/web --for=jsonpath={.status.availableReplicas}=3 --timeout=30s", "condition met", false},
		{"patch deployment web -p {\"spec\":{\"replicas\":1}}", "patched", false},
		{"explain deployment.spec.strategy", "rollingUpdate", false},
		{"api-resources", "horizontalpodautoscalers", false},
		{"delete deployment web --cascade=foreground --timeout=30s", "deleted", false},
		{"get pods", "No resources found", false},
		{"delete namespace shop --timeout=30s", "deleted", false},
		{"get namespace shop", "not found", true},
	}
	for _, each := range steps {
		args := append([]string{"--kubeconfig", config, "-n", "shop"}, strings.Fields(each.args)...)
		out, err := exec.CommandContext(t.Context(), binary, args...).CombinedOutput()
		if (err != nil) != each.fail || !strings.Contains(string(out), each.want) {
			t.Fatalf("kubectl %s: %v\n%s\nwant %q", each.args, err, out, each.want)
		}
	}
}

const manifestText = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: main
        image: web:1
        ports: [{containerPort: 80, name: http}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
`
