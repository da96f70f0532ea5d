// Package openstack opens sessions at OpenStack clouds and translates their errors. The drivers of all services share it,
// so that one account has one token, one set of connections and one table of faults.
package openstack

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	"github.com/gophercloud/gophercloud/v2/openstack/utils"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
)

// ProviderName is the provider's name in clouds and credentials.
const ProviderName = "openstack"

// requestTimeout bounds one request to the cloud, its answer included.
const requestTimeout = 60 * time.Second

// The highest microversions that the drivers were written for. A session uses these or the cloud's own highest,
// whichever is lower.
const (
	maxComputeMinor      = 93
	maxBlockStorageMinor = 59
	maxShareMinor        = 60
)

// TagsMinor is the minor of the compute API from which a server can bear tags in the call that makes it (2.52).
const TagsMinor = 52

// Session is one account at one OpenStack cloud: an authenticated client, shared by the drivers of all kinds. It is safe
// for concurrent use.
type Session struct {
	// Account names the account in messages, e.g. clouds/lab.
	Account string
	// Region is the region; empty means the only one.
	Region string
	// ProjectID is the id of the project that the credentials are for.
	ProjectID string

	provider *gophercloud.ProviderClient
	primary  func(ctx context.Context) (*gophercloud.ProviderClient, error) // logs in by a password; nil if there is none beside
	lookups  lookups

	mu      sync.Mutex
	clients map[string]*gophercloud.ServiceClient
}

// Option changes how sessions are opened.
type Option func(*options)

type options struct {
	wrap func(http.RoundTripper) http.RoundTripper
	now  func() time.Time
}

// WithTransport puts wrap around the transport of every session, e.g. to measure or to limit the rate.
func WithTransport(wrap func(http.RoundTripper) http.RoundTripper) Option {
	return func(o *options) { o.wrap = wrap }
}

// WithClock replaces the clock by which remembered look-ups grow old.
func WithClock(now func() time.Time) Option { return func(o *options) { o.now = now } }

// Open authenticates at the cloud. The error is Invalid if the credentials lack something, Denied if the cloud refuses
// them, Unavailable if it does not answer.
//
// The keys of c.Data are username, password, project_name or project_id, user_domain_name or user_domain_id,
// project_domain_name or project_domain_id; or application_credential_id and application_credential_secret. If both are given
// the application credential is used, and the password for what none may do, see Primary. ca_cert may
// hold the certificate authority as PEM. c.Endpoint is the identity endpoint; it may also stand in Data as auth_url.
func Open(ctx context.Context, c driver.Credentials, opts ...Option) (*Session, error) {
	o := options{wrap: func(rt http.RoundTripper) http.RoundTripper { return rt }, now: time.Now}
	for _, apply := range opts {
		apply(&o)
	}
	auth, err := authOptions(c)
	if err != nil {
		return nil, fault.Wrap(err, "credentials of %s", c.Account)
	}
	transport, err := transportFor(c)
	if err != nil {
		return nil, fault.Wrap(err, "credentials of %s", c.Account)
	}
	authenticate := func(ctx context.Context, auth gophercloud.AuthOptions) (*gophercloud.ProviderClient, error) {
		provider, err := openstack.NewClient(auth.IdentityEndpoint)
		if err != nil {
			return nil, fault.Wrap(fault.InField("endpoint", "%q is no address of an identity service: %v", auth.IdentityEndpoint, err), "credentials of %s", c.Account)
		}
		provider.HTTPClient = http.Client{Transport: o.wrap(transport), Timeout: requestTimeout}
		provider.UserAgent.Prepend("weft")
		err = openstack.Authenticate(ctx, provider, auth)
		return provider, Fault(failedLogin(err), "authenticate %s at %s (weft cloud add %s changes its credentials)", c.Account, auth.IdentityEndpoint, strings.TrimPrefix(c.Account, "clouds/"))
	}
	provider, err := authenticate(ctx, auth)
	if err != nil {
		return nil, err
	}
	s := &Session{Account: c.Account, Region: c.Region, provider: provider, clients: map[string]*gophercloud.ServiceClient{}}
	s.lookups.now = o.now
	if c.Data["application_credential_id"] != "" && c.Data["password"] != "" {
		byPassword, err := passwordOptions(auth.IdentityEndpoint, c.Data)
		if err != nil {
			return nil, fault.Wrap(err, "credentials of %s", c.Account)
		}
		s.primary = func(ctx context.Context) (*gophercloud.ProviderClient, error) { return authenticate(ctx, byPassword) }
	}
	if s.ProjectID, err = projectOf(provider); err != nil {
		return nil, fault.Wrap(err, "authenticate %s at %s", c.Account, auth.IdentityEndpoint)
	}
	return s, nil
}

// projectOf gives the project that the token is for.
func projectOf(provider *gophercloud.ProviderClient) (string, error) {
	result, ok := provider.GetAuthResult().(tokens.CreateResult)
	if !ok {
		return "", fault.New(fault.Unsupported, "the identity service answers with an old version of its API; version 3 is needed")
	}
	project, err := result.ExtractProject()
	if err != nil {
		return "", Fault(err, "read the token")
	}
	if project == nil || project.ID == "" {
		return "", fault.InField("project_name", "the credentials are for no project; give project_name or project_id")
	}
	return project.ID, nil
}

// authOptions reads credentials.
func authOptions(c driver.Credentials) (gophercloud.AuthOptions, error) {
	d := c.Data
	endpoint := c.Endpoint
	if endpoint == "" {
		endpoint = d["auth_url"]
	}
	if endpoint == "" {
		return gophercloud.AuthOptions{}, fault.InField("endpoint", "the address of the identity service is missing, e.g. https://cloud.example/identity/v3")
	}
	auth := gophercloud.AuthOptions{IdentityEndpoint: endpoint, AllowReauth: true}
	if d["application_credential_id"] != "" {
		if d["application_credential_secret"] == "" {
			return auth, fault.InField("application_credential_secret", "application_credential_id is given, application_credential_secret is missing")
		}
		auth.ApplicationCredentialID, auth.ApplicationCredentialSecret = d["application_credential_id"], d["application_credential_secret"]
		return auth, nil
	}
	return passwordOptions(endpoint, d)
}

// passwordOptions reads the name and password of a user from credentials.
func passwordOptions(endpoint string, d map[string]string) (gophercloud.AuthOptions, error) {
	auth := gophercloud.AuthOptions{IdentityEndpoint: endpoint, AllowReauth: true}
	for _, key := range []string{"username", "password"} {
		if d[key] == "" {
			return auth, fault.InField(key, "%s is missing; give username and password, or application_credential_id and application_credential_secret", key)
		}
	}
	auth.Username, auth.Password = d["username"], d["password"]
	auth.DomainID, auth.DomainName = d["user_domain_id"], d["user_domain_name"]
	if auth.DomainID != "" {
		auth.DomainName = ""
	}
	if auth.DomainID == "" && auth.DomainName == "" {
		auth.DomainName = "Default"
	}
	scope, err := scopeOf(d)
	auth.Scope = scope
	return auth, err
}

// scopeOf reads the project from credentials.
func scopeOf(d map[string]string) (*gophercloud.AuthScope, error) {
	if d["project_id"] != "" {
		return &gophercloud.AuthScope{ProjectID: d["project_id"]}, nil
	}
	if d["project_name"] == "" {
		return nil, fault.InField("project_name", "the project is missing; give project_name or project_id")
	}
	scope := &gophercloud.AuthScope{ProjectName: d["project_name"], DomainID: d["project_domain_id"], DomainName: d["project_domain_name"]}
	if scope.DomainID != "" {
		scope.DomainName = ""
	}
	if scope.DomainID == "" && scope.DomainName == "" {
		scope.DomainName = "Default"
	}
	return scope, nil
}

// transportFor makes the transport of one account.
func transportFor(c driver.Credentials) (http.RoundTripper, error) {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          64,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: requestTimeout,
	}
	if pem := c.Data["ca_cert"]; pem != "" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(pem)) {
			return nil, fault.InField("ca_cert", "ca_cert holds no certificate in PEM form")
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return t, nil
}

// Network gives the client of the network service.
func (s *Session) Network(context.Context) (*gophercloud.ServiceClient, error) {
	return s.client("network", openstack.NewNetworkV2, nil)
}

// Compute gives the client of the compute service, with the microversion negotiated.
func (s *Session) Compute(ctx context.Context) (*gophercloud.ServiceClient, error) {
	return s.client("compute", openstack.NewComputeV2, func(c *gophercloud.ServiceClient) error { return negotiate(ctx, c, 2, maxComputeMinor) })
}

// BlockStorage gives the client of the volume service, with the microversion negotiated.
func (s *Session) BlockStorage(ctx context.Context) (*gophercloud.ServiceClient, error) {
	return s.client("block-storage", openstack.NewBlockStorageV3, func(c *gophercloud.ServiceClient) error { return negotiate(ctx, c, 3, maxBlockStorageMinor) })
}

// SharedFileSystem gives the client of the shared file system service, with the microversion negotiated.
func (s *Session) SharedFileSystem(ctx context.Context) (*gophercloud.ServiceClient, error) {
	return s.client("shared-file-system", openstack.NewSharedFileSystemV2, func(c *gophercloud.ServiceClient) error { return negotiate(ctx, c, 2, maxShareMinor) })
}

// ObjectStorage gives the client of the object storage service.
func (s *Session) ObjectStorage(context.Context) (*gophercloud.ServiceClient, error) {
	return s.client("object-store", openstack.NewObjectStorageV1, nil)
}

// Identity gives the client of the identity service.
func (s *Session) Identity(context.Context) (*gophercloud.ServiceClient, error) {
	return s.client("identity", openstack.NewIdentityV3, nil)
}

// Primary gives the client of the identity service for what it refuses to delegated logins, such as application credentials:
// the user's other credentials. Where the session's credentials hold no password beside, it is the client that Identity gives.
func (s *Session) Primary(ctx context.Context) (*gophercloud.ServiceClient, error) {
	if s.primary == nil {
		return s.Identity(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.clients["primary"]; ok {
		return c, nil
	}
	provider, err := s.primary(ctx)
	if err != nil {
		return nil, err
	}
	c, err := openstack.NewIdentityV3(provider, gophercloud.EndpointOpts{Region: s.Region})
	if err != nil {
		return nil, Fault(err, "find the identity service of %s", s.Account)
	}
	s.clients["primary"] = c
	return c, nil
}

// UserID gives the id of the user that the session works as.
func (s *Session) UserID() (string, error) {
	result, ok := s.provider.GetAuthResult().(tokens.CreateResult)
	if !ok {
		return "", fault.New(fault.Unsupported, "the identity service answers with an old version of its API; version 3 is needed")
	}
	user, err := result.ExtractUser()
	if err != nil {
		return "", Fault(err, "read the token")
	}
	return user.ID, nil
}

// Image gives the client of the image service.
func (s *Session) Image(context.Context) (*gophercloud.ServiceClient, error) {
	return s.client("image", openstack.NewImageV2, nil)
}

// LoadBalancer gives the client of the load balancer service.
func (s *Session) LoadBalancer(context.Context) (*gophercloud.ServiceClient, error) {
	return s.client("load-balancer", openstack.NewLoadBalancerV2, nil)
}

type constructor func(*gophercloud.ProviderClient, gophercloud.EndpointOpts) (*gophercloud.ServiceClient, error)

// client gives the client of one service, made at the first need. It is Unsupported if the catalog has no such service.
func (s *Session) client(service string, make constructor, prepare func(*gophercloud.ServiceClient) error) (*gophercloud.ServiceClient, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.clients[service]; ok {
		return c, nil
	}
	c, err := make(s.provider, gophercloud.EndpointOpts{Region: s.Region})
	if err != nil {
		return nil, Fault(err, "find the %s service of %s", service, s.Account)
	}
	if prepare != nil {
		if err := prepare(c); err != nil {
			return nil, Fault(err, "ask the %s service of %s for its version", service, s.Account)
		}
	}
	s.clients[service] = c
	return c, nil
}

// negotiate sets the highest microversion that both sides know. A service without microversions is used without.
func negotiate(ctx context.Context, c *gophercloud.ServiceClient, major, minor int) error {
	root, err := utils.BaseVersionedEndpoint(c.Endpoint) // the document stands above the project's id, where there is one
	if err != nil {
		return err
	}
	versions, err := utils.GetServiceVersions(ctx, c.ProviderClient, root, true)
	if err != nil {
		return err
	}
	for _, v := range versions {
		if v.MaxMajor == major && v.MaxMinor > 0 {
			c.Microversion = fmt.Sprintf("%d.%d", major, min(v.MaxMinor, minor))
		}
	}
	return nil
}

// Minor gives the minor of the microversion that a client uses; 0 without microversions.
func Minor(c *gophercloud.ServiceClient) int {
	if c.Microversion == "" {
		return 0
	}
	_, minor, err := utils.ParseMicroversion(c.Microversion)
	if err != nil {
		return 0 // negotiate wrote it; a client without a readable version is used as the oldest
	}
	return minor
}
