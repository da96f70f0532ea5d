package service

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftcloud/weft/pkg/budget"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// vault gives every tenant the credentials that it holds.
type vault struct {
	orchestratorv1.CredentialServiceClient
	data   map[string]string
	budget map[string]string
	fail   error // given for credentials, if it is set
}

func (v *vault) GetCloudCredentials(_ context.Context, r *orchestratorv1.GetCloudCredentialsRequest, _ ...grpc.CallOption) (*orchestratorv1.CloudCredentials, error) {
	if v.fail != nil {
		return nil, v.fail
	}
	return &orchestratorv1.CloudCredentials{Driver: "memory", Endpoint: "http://" + r.GetCloud(), Data: v.data, Budget: v.budget}, nil
}

// TestOneBudgetPerCloudAccount: tenants and services draw on one budget; tenants of one service share the account, too,
// until a rotation, which leaves the budget as it is.
func TestOneBudgetPerCloudAccount(t *testing.T) {
	now := time.Unix(1000, 0)
	budgets := budget.NewRegistry(budget.RegistryConfig{})
	v := &vault{data: map[string]string{"username": "weft", "project_name": "lab", "password": "old"}}
	probed := 0
	provider := driver.Provider{Name: "memory", Open: func(context.Context, driver.Credentials) (driver.Session, error) {
		return driver.Session{Probe: func(context.Context) ([]driver.Feature, error) { probed++; return nil, nil }}, nil
	}}
	service := func() *accounts {
		return newAccounts([]driver.Provider{provider}, v, Deps{Budgets: budgets, CallsPerSecond: 5, Now: func() time.Time { return now }})
	}
	network, storage := service(), service()
	open := func(a *accounts, cloud, tenant string) interface{} {
		t.Helper()
		account, err := a.cloud(t.Context(), cloud, tenant)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := account.Session.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		return account
	}
	acme := open(network, "clouds/lab", "acme")
	if open(network, "clouds/lab", "umbrella") != acme {
		t.Error("two tenants with the same credentials have two accounts")
	}
	open(storage, "clouds/lab", "acme")
	now = now.Add(time.Hour)
	v.data = map[string]string{"username": "weft", "project_name": "lab", "password": "new"}
	rotated := open(network, "clouds/lab", "acme")
	if rotated == acme || open(network, "clouds/lab", "umbrella") != rotated {
		t.Error("after a rotation tenants do not share the new account")
	}
	stats := budgets.Stats()
	if len(stats) != 1 {
		t.Fatalf("budgets = %v, want one", stats)
	}
	for _, s := range stats {
		if s.Used != uint64(probed) || probed != 5 || s.AccountRate != 5 {
			t.Errorf("stats = %+v after %d calls", s, probed)
		}
	}
	open(network, "clouds/other", "acme")
	v.data = map[string]string{"username": "weft", "project_name": "another", "password": "new"}
	now = now.Add(time.Hour)
	open(network, "clouds/lab", "acme")
	if n := len(budgets.Stats()); n != 3 {
		t.Errorf("%d budgets, want one for each cloud and project", n)
	}
	if _, err := newAccounts(nil, v, Deps{Budgets: budgets, Now: time.Now}).cloud(t.Context(), "clouds/lab", "acme"); !fault.Is(err, fault.Unsupported) {
		t.Errorf("without a driver: %v, want Unsupported", err)
	}
}

// TestProjectDrawsOnTheCloudsBudget: credentials that the platform made for a tenant draw on the budget of the cloud's own,
// however often they are rotated.
func TestProjectDrawsOnTheCloudsBudget(t *testing.T) {
	now := time.Unix(1000, 0)
	budgets := budget.NewRegistry(budget.RegistryConfig{})
	v := &vault{data: map[string]string{"username": "weft", "project_name": "admin", "password": "p"}}
	provider := driver.Provider{Name: "memory", Open: func(context.Context, driver.Credentials) (driver.Session, error) { return driver.Session{}, nil }}
	a := newAccounts([]driver.Provider{provider}, v, Deps{Budgets: budgets, CallsPerSecond: 5, Now: func() time.Time { return now }})
	open := func(tenant string) {
		t.Helper()
		if _, err := a.cloud(t.Context(), "clouds/lab", tenant); err != nil {
			t.Fatal(err)
		}
	}
	open("shared")
	v.budget = Identity(v.data)
	if _, secret := v.budget["password"]; secret {
		t.Error("what tells accounts apart holds a secret")
	}
	for _, id := range []string{"first", "second"} {
		v.data = map[string]string{"application_credential_id": id, "application_credential_secret": "s"}
		now = now.Add(time.Hour)
		open("acme")
	}
	if n := len(budgets.Stats()); n != 1 {
		t.Errorf("%d budgets, want the cloud's alone", n)
	}
}

// TestRenew: credentials that the provider refuses are asked for anew at once, and work goes on if there are others.
func TestRenew(t *testing.T) {
	v := &vault{data: map[string]string{"application_credential_id": "first"}}
	provider := driver.Provider{Name: "memory", Open: func(context.Context, driver.Credentials) (driver.Session, error) { return driver.Session{}, nil }}
	a := newAccounts([]driver.Provider{provider}, v, Deps{Budgets: budget.NewRegistry(budget.RegistryConfig{}), CallsPerSecond: 5, Now: time.Now})
	kinds, err := resource.NewRegistry(&networkv1.Network{})
	if err != nil {
		t.Fatal(err)
	}
	kind, _, err := kinds.Of("tenants/acme/networks/net")
	if err != nil {
		t.Fatal(err)
	}
	e := &record.Entry{ID: record.ID{Name: "tenants/acme/networks/net"}, Kind: kind, Object: resource.Wrap(&networkv1.Network{Cloud: "clouds/lab"})}
	first, err := a.Account(t.Context(), e, nil)
	if err != nil {
		t.Fatal(err)
	}
	if other, err := a.Renew(t.Context(), e, first); other || err != nil {
		t.Errorf("renewed: %v, %v; there are no other credentials", other, err)
	}
	v.fail = status.Error(codes.Unavailable, "the orchestrator is away")
	if other, err := a.Renew(t.Context(), e, first); other || !fault.Is(err, fault.Unavailable) {
		t.Errorf("renewed while nobody can be asked: %v, %v; want Unavailable", other, err)
	}
	v.fail = nil
	if other, err := a.Renew(t.Context(), e, first); other || err != nil {
		t.Errorf("renewed when it can be asked again: %v, %v; there are no other credentials", other, err)
	}
	v.data = map[string]string{"application_credential_id": "second"}
	if again, err := a.Account(t.Context(), e, nil); err != nil || again != first {
		t.Errorf("it asks for credentials before it has to: %v", err)
	}
	if other, err := a.Renew(t.Context(), e, first); !other || err != nil {
		t.Errorf("renewed: %v, %v; it does not tell of other credentials", other, err)
	}
	if again, err := a.Account(t.Context(), e, nil); err != nil || again == first {
		t.Errorf("it goes on with what was refused: %v", err)
	}
}
