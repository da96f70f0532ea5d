package driver

import "context"

// Credentials is what a session with a provider is opened with. It MUST NOT be logged.
type Credentials struct {
	// Driver is the provider's name, e.g. openstack or kubernetes.
	Driver string
	// Account names the account in messages and metrics, e.g. clouds/lab or tenants/acme/secrets/kube-lab.
	Account string
	// Endpoint is the provider's address; for openstack the identity endpoint. Empty if it stands in Data.
	Endpoint string
	// Region is the region; empty means the only one.
	Region string
	// Data is the values of the secret.
	Data map[string]string
	// Budget tells whose budget of calls the account draws on, by the names of Data that tell accounts apart; empty means
	// that Data do. Credentials that the platform made for a tenant draw on the budget of those that it made them with.
	Budget map[string]string
}

// Provider opens sessions at one family of clouds, for the kinds of one service.
type Provider struct {
	// Name is the provider's name, as Credentials.Driver has it.
	Name string
	// Open opens a session. It MUST fail with Denied for wrong credentials and with Unavailable if the provider does
	// not answer.
	Open func(ctx context.Context, c Credentials) (Session, error)
}

// Session is one account at a provider.
type Session struct {
	// Drivers holds the service's drivers by resource type, e.g. network.weft.cloud/Subnet.
	Drivers map[string]Any
	// Probe asks the provider what it can do.
	Probe func(ctx context.Context) ([]Feature, error)
}
