package kubernetes

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
)

// kubeconfig makes a kubeconfig with the given lines in its cluster and its user.
func kubeconfig(server, cluster, user string) string {
	indent := func(s string) string { return strings.ReplaceAll(s, "\n", "\n    ") }
	return fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters:
- name: k
  cluster:
    server: %s
    %s
users:
- name: u
  user:
    %s
`, server, indent(cluster), indent(user))
}

func credentials(text string) driver.Credentials {
	return driver.Credentials{Driver: "kubernetes", Account: "tenants/acme/secrets/lab", Data: map[string]string{KubeconfigKey: text}}
}

func TestConfigRefusesWhatIsNotSelfContained(t *testing.T) {
	const server = "https://127.0.0.1:1"
	tests := map[string]struct{ text, field string }{
		"absent":       {"", "kubeconfig"},
		"no yaml":      {"{", "kubeconfig"},
		"no context":   {strings.Replace(kubeconfig(server, "", "token: x"), "current-context: c", "", 1), "kubeconfig.current-context"},
		"wrong name":   {strings.Replace(kubeconfig(server, "", "token: x"), "current-context: c", "current-context: d", 1), "kubeconfig.current-context"},
		"no cluster":   {strings.Replace(kubeconfig(server, "", "token: x"), "cluster: k", "cluster: z", 1), "kubeconfig.contexts[c].cluster"},
		"no user":      {strings.Replace(kubeconfig(server, "", "token: x"), "user: u", "user: z", 1), "kubeconfig.contexts[c].user"},
		"no server":    {kubeconfig(`""`, "", "token: x"), "kubeconfig.clusters[k].server"},
		"exec":         {kubeconfig(server, "", "exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/sh, interactiveMode: Never}"), "kubeconfig.users[u].exec"},
		"plugin":       {kubeconfig(server, "", "auth-provider: {name: oidc}"), "kubeconfig.users[u].auth-provider"},
		"token file":   {kubeconfig(server, "", "tokenFile: /etc/passwd"), "kubeconfig.users[u].tokenFile"},
		"cert file":    {kubeconfig(server, "", "client-certificate: /etc/passwd"), "kubeconfig.users[u].client-certificate"},
		"key file":     {kubeconfig(server, "", "client-key: /etc/passwd"), "kubeconfig.users[u].client-key"},
		"ca file":      {kubeconfig(server, "certificate-authority: /etc/passwd", "token: x"), "kubeconfig.clusters[k].certificate-authority"},
		"ca is no pem": {kubeconfig(server, "certificate-authority-data: eA==", "token: x"), "kubeconfig"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Open(t.Context(), credentials(tt.text))
			if !fault.Is(err, fault.Invalid) || fault.Field(err) != tt.field {
				t.Errorf("got %v (%s, field %q), want Invalid in %q", err, fault.KindOf(err), fault.Field(err), tt.field)
			}
		})
	}
}

// apiServer answers what a session asks: its version, its groups, and the kinds of one group once they are defined.
type apiServer struct {
	*httptest.Server
	defined atomic.Bool
	opened  atomic.Int32
	agent   atomic.Value
}

func newAPIServer(t *testing.T) *apiServer {
	a := &apiServer{}
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Errorf("answer: %v", err)
		}
	}
	known := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			a.agent.Store(r.UserAgent())
			if r.Header.Get("Authorization") != "Bearer right" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			h(w, r)
		}
	}
	version := metav1.GroupVersionForDiscovery{GroupVersion: "shop.example/v1", Version: "v1"}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /version", known(func(w http.ResponseWriter, _ *http.Request) {
		a.opened.Add(1)
		answer(w, map[string]string{"gitVersion": "v1.37.2"})
	}))
	mux.HandleFunc("GET /api", known(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}})
	}))
	mux.HandleFunc("GET /apis", known(func(w http.ResponseWriter, _ *http.Request) {
		list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
		if a.defined.Load() {
			list.Groups = []metav1.APIGroup{{Name: "shop.example", Versions: []metav1.GroupVersionForDiscovery{version}, PreferredVersion: version}}
		}
		answer(w, list)
	}))
	mux.HandleFunc("GET /apis/shop.example/v1", known(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, metav1.APIResourceList{
			TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: "shop.example/v1",
			APIResources: []metav1.APIResource{{Name: "doors", SingularName: "door", Kind: "Door", Namespaced: true, Verbs: metav1.Verbs{"get"}}},
		})
	}))
	a.Server = httptest.NewTLSServer(mux)
	t.Cleanup(a.Close)
	return a
}

// authority gives the kubeconfig line that makes the server's certificate trusted.
func (a *apiServer) authority() string {
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate().Raw})
	return "certificate-authority-data: " + base64.StdEncoding.EncodeToString(block)
}

func TestOpen(t *testing.T) {
	a := newAPIServer(t)
	s, err := Open(t.Context(), credentials(kubeconfig(a.URL, a.authority(), "token: right")))
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.Version(t.Context())
	if err != nil || v.GitVersion != "v1.37.2" {
		t.Errorf("version %v, %v", v, err)
	}
	if s.Endpoint != a.URL {
		t.Errorf("endpoint %q, want %q", s.Endpoint, a.URL)
	}
	if a.agent.Load() != "weft" {
		t.Errorf("user agent %q", a.agent.Load())
	}
	if _, err := Open(t.Context(), credentials(kubeconfig(a.URL, a.authority(), "token: wrong"))); !fault.Is(err, fault.Denied) {
		t.Errorf("wrong token: %v (%s), want Denied", err, fault.KindOf(err))
	}
	a.Close()
	if _, err := Open(t.Context(), credentials(kubeconfig(a.URL, a.authority(), "token: right"))); !fault.Is(err, fault.Unavailable) {
		t.Errorf("server gone: %v (%s), want Unavailable", err, fault.KindOf(err))
	}
}

func TestOpenWithAForeignCertificateIsDenied(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	if _, err := Open(t.Context(), credentials(kubeconfig(server.URL, "", "token: right"))); !fault.Is(err, fault.Denied) {
		t.Errorf("got %v (%s), want Denied", err, fault.KindOf(err))
	}
}

func TestSessionsShareByCredentials(t *testing.T) {
	a := newAPIServer(t)
	sessions := &Sessions{}
	open := func(ctx context.Context, account string) *Session {
		c := credentials(kubeconfig(a.URL, a.authority(), "token: right"))
		c.Account = account
		s, err := sessions.Open(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first, again, other := open(t.Context(), "a"), open(t.Context(), "a"), open(t.Context(), "b")
	if first != again || first == other {
		t.Error("sessions are not shared by credentials")
	}
	if n := a.opened.Load(); n != 2 {
		t.Errorf("opened %d times, want 2", n)
	}
	for i := range sessionLimit {
		sessions.keep([32]byte{1, byte(i), byte(i >> 8)}, &Session{})
	}
	if len(sessions.open) != sessionLimit || len(sessions.order) != sessionLimit {
		t.Errorf("%d sessions are kept, want %d", len(sessions.open), sessionLimit)
	}
}

func TestKindsLooksAgainForAnUnknownKind(t *testing.T) {
	a := newAPIServer(t)
	s, err := Open(t.Context(), credentials(kubeconfig(a.URL, a.authority(), "token: right")))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s.Kinds.now = func() time.Time { return now }
	door := schema.GroupVersionKind{Group: "shop.example", Version: "v1", Kind: "Door"}
	if _, err := s.Kinds.Resource(door); !fault.Is(err, fault.Unsupported) {
		t.Fatalf("before it is defined: %v, want Unsupported", err)
	}
	a.defined.Store(true)
	if _, err := s.Kinds.Resource(door); !fault.Is(err, fault.Unsupported) {
		t.Fatalf("a moment later: %v, want what was known", err)
	}
	now = now.Add(refreshInterval)
	m, err := s.Kinds.Resource(door)
	if err != nil || m.Resource.Resource != "doors" {
		t.Fatalf("after it is defined: %v, %v", m, err)
	}
	a.Close()
	s.Kinds.Forget()
	if _, err := s.Kinds.Resource(door); !fault.Is(err, fault.Unavailable) {
		t.Errorf("server gone: %v (%s), want Unavailable", err, fault.KindOf(err))
	}
}
