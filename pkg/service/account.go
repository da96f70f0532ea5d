package service

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/weftcloud/weft/pkg/budget"
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
	// shared holds the accounts by their credentials: tenants whose work is done with the same ones share the account, and
	// so its list calls.
	shared map[fingerprint]*reconcile.Account
}

// opened is one account that was opened, for one tenant.
type opened struct {
	mu          sync.Mutex
	account     *reconcile.Account
	credentials driver.Credentials
	fresh       time.Time
	unasked     error // why nobody could be asked for credentials the last time; nil if they were given
}

func newAccounts(providers []driver.Provider, credentials orchestratorv1.CredentialServiceClient, deps Deps) *accounts {
	a := &accounts{providers: map[string]driver.Provider{}, credentials: credentials, deps: deps, opened: map[string]*opened{}, shared: map[fingerprint]*reconcile.Account{}}
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
		return driver.Credentials{Driver: c.GetDriver(), Account: cloud, Endpoint: c.GetEndpoint(), Region: c.GetRegion(), Data: c.GetData(), Budget: c.GetBudget()}, nil
	})
}

// Renew asks anew for the credentials of an account that the provider refuses, and tells whether there are others now: then
// the work that was refused can be done again with those. The error says that it could not be found out.
func (a *accounts) Renew(ctx context.Context, e *record.Entry, refused *reconcile.Account) (bool, error) {
	if e.Kind.Options.GetPlacement() != kindv1.Placement_PLACEMENT_CLOUD {
		return false, nil
	}
	a.mu.Lock()
	o := a.opened[e.Object.Cloud()+" "+resource.TenantOf(e.Name)]
	a.mu.Unlock()
	if o == nil {
		return false, nil
	}
	o.mu.Lock()
	if o.account == refused {
		o.fresh = time.Time{}
	}
	o.mu.Unlock()
	account, err := a.Account(ctx, e, nil)
	if fault.Retryable(err) {
		return false, err
	}
	if err != nil || account != refused {
		return err == nil, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return false, o.unasked // what was refused is used on when nobody can be asked
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
		o.unasked = err
		return o.account, nil // work at clouds goes on while nobody can be asked; the next use asks again
	}
	if err != nil {
		return nil, err
	}
	o.unasked = nil
	if o.account != nil && sameCredentials(o.credentials, credentials) {
		o.fresh = a.deps.Now()
		return o.account, nil
	}
	account, err := a.account(ctx, credentials)
	if err != nil {
		return nil, err
	}
	if o.account != nil {
		a.forget(o.credentials)
	}
	o.account, o.credentials, o.fresh = account, credentials, a.deps.Now()
	return account, nil
}

// account gives the account that credentials lead to, and opens it if nobody has.
func (a *accounts) account(ctx context.Context, credentials driver.Credentials) (*reconcile.Account, error) {
	key := fingerprintOf(credentials)
	a.mu.Lock()
	found := a.shared[key]
	a.mu.Unlock()
	if found != nil {
		return found, nil
	}
	provider, ok := a.providers[credentials.Driver]
	if !ok {
		return nil, fault.New(fault.Unsupported, "%s: this service has no driver %q", credentials.Account, credentials.Driver)
	}
	session, err := provider.Open(ctx, credentials)
	if err != nil {
		return nil, fault.Wrap(err, "open %s", credentials.Account)
	}
	made := reconcile.NewAccount(credentials.Account, session, a.deps.Budgets.Budget(budgetKey(credentials), a.deps.CallsPerSecond))
	a.mu.Lock()
	defer a.mu.Unlock()
	if found := a.shared[key]; found != nil {
		return found, nil // two opened it at once
	}
	a.shared[key] = made
	return made, nil
}

// forget drops the account of credentials that have changed; who works with it still may end that.
func (a *accounts) forget(former driver.Credentials) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.shared, fingerprintOf(former))
}

// fingerprint identifies credentials without keeping them.
type fingerprint [sha256.Size]byte

func fingerprintOf(c driver.Credentials) fingerprint {
	h := sha256.New()
	write := func(s string) { fmt.Fprintf(h, "%d:%s", len(s), s) }
	for _, part := range []string{c.Driver, c.Account, c.Endpoint, c.Region} {
		write(part)
	}
	for _, key := range slices.Sorted(maps.Keys(c.Data)) {
		write(key)
		write(c.Data[key])
	}
	return fingerprint(h.Sum(nil))
}

// identity is what tells accounts at one endpoint apart, by the names of openstacksdk. Secrets are not among it: a password
// that is changed leaves the account, and its budget, as they are. A cluster's account is told by the secret's name.
var identity = []string{
	"username", "user_id", "user_domain_name", "user_domain_id", "project_name", "project_id", "project_domain_name", "project_domain_id",
	"application_credential_id",
}

// budgetKey gives the key of the budget that credentials draw on, the same in all services and for all tenants.
func budgetKey(c driver.Credentials) string {
	parts := []string{c.Driver, c.Endpoint, c.Region}
	data := c.Data
	if len(c.Budget) > 0 {
		data = c.Budget
	}
	for _, key := range identity {
		parts = append(parts, data[key])
	}
	return budget.AccountKey(c.Account, parts...)
}

// Identity gives what of the values of credentials tells accounts apart, without secrets.
func Identity(data map[string]string) map[string]string {
	out := map[string]string{}
	for _, key := range identity {
		if data[key] != "" {
			out[key] = data[key]
		}
	}
	return out
}

func sameCredentials(a, b driver.Credentials) bool {
	return a.Driver == b.Driver && a.Endpoint == b.Endpoint && a.Region == b.Region && maps.Equal(a.Data, b.Data)
}
