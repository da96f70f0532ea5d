package story

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// Kube is somebody who works at the sandbox's Kubernetes without Weft, by its HTTP API.
type Kube struct {
	t      testing.TB
	server string
	token  string
	client *http.Client
}

// Kube opens the simulated Kubernetes of an installation with the kubeconfig in its data.
func (i *Installation) Kube(t testing.TB) *Kube {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(i.Data(), "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
				CA     []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct {
				Token string `json:"token"`
				Cert  []byte `json:"client-certificate-data"`
				Key   []byte `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := yaml.Unmarshal(data, &config); err != nil || len(config.Clusters) == 0 || len(config.Users) == 0 {
		t.Fatalf("the kubeconfig cannot be read: %v", err)
	}
	trust := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	trust.RootCAs.AppendCertsFromPEM(config.Clusters[0].Cluster.CA)
	user := config.Users[0].User
	if len(user.Cert) > 0 {
		cert, err := tls.X509KeyPair(user.Cert, user.Key)
		if err != nil {
			t.Fatal(err)
		}
		trust.Certificates = []tls.Certificate{cert}
	}
	return &Kube{t: t, server: config.Clusters[0].Cluster.Server, token: user.Token, client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: trust}}}
}

// Do makes one call, e.g. POST /api/v1/namespaces/default/configmaps, as the manager of fields "by-hand".
func (k *Kube) Do(method, path string, in any) {
	k.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		k.t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(k.t.Context(), method, k.server+path+"?fieldManager=by-hand", bytes.NewReader(body))
	if err != nil {
		k.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		r.Header.Set("Content-Type", "application/merge-patch+json")
	}
	if k.token != "" {
		r.Header.Set("Authorization", "Bearer "+k.token)
	}
	answer, err := k.client.Do(r)
	if err != nil {
		k.t.Fatal(err)
	}
	data, err := io.ReadAll(answer.Body)
	if closeErr := answer.Body.Close(); err == nil {
		err = closeErr
	}
	if err != nil || answer.StatusCode >= 300 {
		k.t.Fatalf("%s %s: %s %s %v", method, path, answer.Status, data, err)
	}
}
