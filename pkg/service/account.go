package service

import (
	"context"
	"maps"
	"sync"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/reconcile"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// refreshAfter is how long credentials are used before they are asked for again, so that a rotation or a withdrawal is
// seen soon.
const refreshAfter = 30 * time.Second

// accounts opens the accounts that resources are placed in. Credentials stay in memory only.
type accounts struct {
	providers   map[string]driver.Provider
	credentials orchestratorv1.CredentialServiceClient
	deps        Deps

	mu     sync.Mutex
	opened map[string]*opened
}

// opened is one account that was opened.
type opened struct {
	mu          sync.Mutex
	account     *reconcile.Account
	credentials driver.Credentials
	fresh       time.Time
}

func newAccounts(providers []driver.Provider, credentials orchestratorv1.CredentialServiceClient, deps Deps) *accounts {
	a := &accounts{providers: map[string]driver.Provider{}, credentials: credentials, deps: deps, opened: map[string]*opened{}}
	for _, p := range providers {
		a.providers[p.Name] = p
	}
	return a
}

// Account gives the account of an entry: its cloud's, or that of the cluster that it runs on.
func (a *accounts) Account(ctx context.Context, e *record.Entry, refs driver.Refs) (*reconcile.Account, error) {
	tenant := resource.TenantOf(e.Name)
	if e.Kind.Options.GetPlacement() == kindv1.Placement_PLACEMENT_CLOUD {
		return a.cloud(ctx, e.Object.Cloud(), tenant)
	}
	secret, err := clusterSecret(e.Object.Spec().ProtoReflect(), refs)
	if err != nil {
		return nil, err
	}
	return a.cluster(ctx, secret, tenant)
}

// clusterSecret gives the secret that a spec's cluster is reached with: the spec's own, if it is a cluster, else that of
// the cluster that it refers to.
func clusterSecret(spec protoreflect.Message, refs driver.Refs) (string, error) {
	if f := spec.Descriptor().Fields().ByName("credentials"); f != nil {
		return spec.Get(f).String(), nil
	}
	f := spec.Descriptor().Fields().ByName("cluster")
	if f == nil {
		return "", fault.New(fault.Internal, "%s names neither a cluster nor credentials", spec.Descriptor().FullName())
	}
	name := spec.Get(f).String()
	cluster, ok := refs[name]
	if !ok {
		return "", &fault.Error{Kind: fault.Precondition, Field: "spec.cluster", Message: name + " does not exist"}
	}
	return clusterSecret(resource.Wrap(cluster).Spec().ProtoReflect(), nil)
}

// cloud gives the account of a cloud, for work on behalf of a tenant; tenant "" is the platform itself.
func (a *accounts) cloud(ctx context.Context, cloud, tenant string) (*reconcile.Account, error) {
	return a.open(ctx, cloud+" "+tenant, func(ctx context.Context) (driver.Credentials, error) {
		request := &orchestratorv1.GetCloudCredentialsRequest{Cloud: cloud}
		if tenant != "" {
			request.Tenant = "tenants/" + tenant
		}
		c, err := a.credentials.GetCloudCredentials(ctx, request)
		if err != nil {
			return driver.Credentials{}, fault.Wrap(fault.FromStatus(err), "get the credentials of %s", cloud)
		}
		return driver.Credentials{Driver: c.GetDriver(), Account: cloud, Endpoint: c.GetEndpoint(), Region: c.GetRegion(), Data: c.GetData()}, nil
	})
}

// cluster gives the account of a cluster by the secret that holds its kubeconfig.
func (a *accounts) cluster(ctx context.Context, secret, tenant string) (*reconcile.Account, error) {
	if resource.TenantOf(secret) == "" {
		secret = "tenants/" + tenant + "/secrets/" + secret
	}
	return a.open(ctx, secret, func(ctx context.Context) (driver.Credentials, error) {
		data, err := a.credentials.GetSecretData(ctx, &orchestratorv1.GetSecretDataRequest{Name: secret})
		if err != nil {
			return driver.Credentials{}, fault.Wrap(fault.FromStatus(err), "get the credentials of the cluster")
		}
		return driver.Credentials{Driver: "kubernetes", Account: secret, Data: data.GetData()}, nil
	})
}

func (a *accounts) open(ctx context.Context, id string, get func(context.Context) (driver.Credentials, error)) (*reconcile.Account, error) {
	a.mu.Lock()
	o := a.opened[id]
	if o == nil {
		o = &opened{}
		a.opened[id] = o
	}
	a.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.account != nil && a.deps.Now().Sub(o.fresh) < refreshAfter {
		return o.account, nil
	}
	credentials, err := get(ctx)
	if fault.Is(err, fault.Unavailable) && o.account != nil {
		return o.account, nil // work at clouds goes on while nobody can be asked; the next use asks again
	}
	if err != nil {
		return nil, err
	}
	if o.account != nil && sameCredentials(o.credentials, credentials) {
		o.fresh = a.deps.Now()
		return o.account, nil
	}
	provider, ok := a.providers[credentials.Driver]
	if !ok {
		return nil, fault.New(fault.Unsupported, "%s: this service has no driver %q", credentials.Account, credentials.Driver)
	}
	session, err := provider.Open(ctx, credentials)
	if err != nil {
		return nil, fault.Wrap(err, "open %s", credentials.Account)
	}
	o.account = reconcile.NewAccount(credentials.Account, session, a.deps.CallsPerSecond, a.deps.Now)
	o.credentials, o.fresh = credentials, a.deps.Now()
	return o.account, nil
}

func sameCredentials(a, b driver.Credentials) bool {
	return a.Driver == b.Driver && a.Endpoint == b.Endpoint && a.Region == b.Region && maps.Equal(a.Data, b.Data)
}
