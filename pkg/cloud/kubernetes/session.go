// Package kubernetes opens sessions with Kubernetes clusters: clients made from a kubeconfig that a tenant gave us, and
// the one table that maps the cluster's errors to faults.
//
// A kubeconfig is a stranger's input that is used inside a service: it may neither start programs (exec, auth-provider)
// nor read the service's files (paths to certificates, keys and tokens). Everything it needs stands in it.
package kubernetes

import (
	"context"
	"encoding/json"
	"time"

	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
)

// KubeconfigKey is the key under which a secret holds a kubeconfig.
const KubeconfigKey = "kubeconfig"

const (
	// userAgent is how we name ourselves in the cluster's audit log.
	userAgent = "weft"
	// requestsPerSecond and burst bound one session; the cluster's own priority and fairness does the rest.
	requestsPerSecond, burst = 50, 100
	// requestTimeout ends a request whose answer does not come: its outcome is then unknown.
	requestTimeout = 30 * time.Second
)

// Session is a connection to one cluster with one identity. It is safe for concurrent use.
type Session struct {
	// Account names the credentials in messages, e.g. tenants/acme/secrets/kube-lab.
	Account string
	// Endpoint is the API server's address.
	Endpoint string
	// Typed is the client for the built-in kinds, Dynamic for all kinds.
	Typed   kubernetes.Interface
	Dynamic dynamic.Interface
	// Discovery asks the cluster what it serves; its answers are kept, see Kinds.
	Discovery discovery.CachedDiscoveryInterface
	// Kinds finds the REST resource of a kind.
	Kinds *Kinds
}

// Open makes a session from c.Data["kubeconfig"] and asks the cluster once whether it lets us in. The error is Invalid
// and names the field if the kubeconfig cannot be used, Denied for wrong credentials, Unavailable without an answer.
func Open(ctx context.Context, c driver.Credentials) (*Session, error) {
	config, err := Config(c)
	if err != nil {
		return nil, fault.Wrap(err, "open cluster of %s", c.Account)
	}
	s, err := connect(config, c.Account)
	if err != nil {
		return nil, fault.Wrap(err, "open cluster of %s", c.Account)
	}
	if _, err := s.Version(ctx); err != nil {
		return nil, fault.Wrap(err, "open cluster of %s at %s", c.Account, config.Host)
	}
	// The version is public on most clusters; the list of API groups is served to those who are known only.
	if err := s.Typed.Discovery().RESTClient().Get().AbsPath("/apis").Do(ctx).Error(); err != nil {
		return nil, fault.Wrap(Fault(err), "open cluster of %s at %s", c.Account, config.Host)
	}
	return s, nil
}

func connect(config *rest.Config, account string) (*Session, error) {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fault.InField(KubeconfigKey, "its certificates or keys cannot be used: %v", err)
	}
	typed, err := kubernetes.NewForConfigAndClient(config, client)
	if err != nil {
		return nil, fault.InField(KubeconfigKey, "%v", err)
	}
	dyn, err := dynamic.NewForConfigAndClient(config, client)
	if err != nil {
		return nil, fault.InField(KubeconfigKey, "%v", err)
	}
	cached := memory.NewMemCacheClient(typed.Discovery())
	return &Session{
		Account: account, Endpoint: config.Host, Typed: typed, Dynamic: dyn, Discovery: cached,
		Kinds: &Kinds{mapper: restmapper.NewDeferredDiscoveryRESTMapper(cached), now: time.Now},
	}, nil
}

// Version asks the API server for its version.
func (s *Session) Version(ctx context.Context) (*version.Info, error) {
	body, err := s.Typed.Discovery().RESTClient().Get().AbsPath("/version").Do(ctx).Raw()
	if err != nil {
		return nil, Fault(err)
	}
	v := &version.Info{}
	if err := json.Unmarshal(body, v); err != nil {
		return nil, fault.New(fault.Unavailable, "what answers is no Kubernetes API server: its version is not JSON: %v", err)
	}
	return v, nil
}

// Config gives the client settings of the kubeconfig in c. The error is Invalid and names the field.
func Config(c driver.Credentials) (*rest.Config, error) {
	text := c.Data[KubeconfigKey]
	if text == "" {
		return nil, fault.InField(KubeconfigKey, "the secret has no value under the key %q; put a kubeconfig with inline certificates or a token there", KubeconfigKey)
	}
	file, err := clientcmd.Load([]byte(text))
	if err != nil {
		return nil, fault.InField(KubeconfigKey, "it is no kubeconfig: %v", err)
	}
	if err := selfContained(file); err != nil {
		return nil, err
	}
	config, err := clientcmd.NewNonInteractiveClientConfig(*file, file.CurrentContext, &clientcmd.ConfigOverrides{}, nil).ClientConfig()
	if err != nil {
		return nil, fault.InField(KubeconfigKey, "%v", err)
	}
	config.QPS, config.Burst, config.UserAgent, config.Timeout = requestsPerSecond, burst, userAgent, requestTimeout
	config.WarningHandlerWithContext = rest.NoWarnings{}
	return config, nil
}

// selfContained refuses a kubeconfig whose current context is incomplete, starts programs or reads files.
func selfContained(file *api.Config) error {
	if file.CurrentContext == "" {
		return fault.InField(KubeconfigKey+".current-context", "it is not set; run kubectl config use-context NAME before you export the kubeconfig")
	}
	current, ok := file.Contexts[file.CurrentContext]
	if !ok {
		return fault.InField(KubeconfigKey+".current-context", "there is no context %q", file.CurrentContext)
	}
	cluster, ok := file.Clusters[current.Cluster]
	if !ok {
		return fault.InField(KubeconfigKey+".contexts["+file.CurrentContext+"].cluster", "there is no cluster %q", current.Cluster)
	}
	user, ok := file.AuthInfos[current.AuthInfo]
	if !ok {
		return fault.InField(KubeconfigKey+".contexts["+file.CurrentContext+"].user", "there is no user %q", current.AuthInfo)
	}
	if cluster.Server == "" {
		return fault.InField(KubeconfigKey+".clusters["+current.Cluster+"].server", "it is not set")
	}
	const inline = "a file cannot be read here; put its content there instead, as kubectl config view --flatten --minify prints it"
	checks := []struct {
		bad           bool
		field, reason string
	}{
		{cluster.CertificateAuthority != "", ".clusters[" + current.Cluster + "].certificate-authority", inline},
		{user.ClientCertificate != "", ".users[" + current.AuthInfo + "].client-certificate", inline},
		{user.ClientKey != "", ".users[" + current.AuthInfo + "].client-key", inline},
		{user.TokenFile != "", ".users[" + current.AuthInfo + "].tokenFile", inline},
		{user.Exec != nil, ".users[" + current.AuthInfo + "].exec", "programs are not started; give a token or a client certificate"},
		{user.AuthProvider != nil, ".users[" + current.AuthInfo + "].auth-provider", "login plugins are not used; give a token or a client certificate"},
	}
	for _, c := range checks {
		if c.bad {
			return fault.InField(KubeconfigKey+c.field, "%s", c.reason)
		}
	}
	return nil
}
