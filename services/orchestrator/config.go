package orchestrator

import (
	"os"
	"time"

	"github.com/weftcloud/weft/pkg/daemon"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/service"
	// The contracts of all kinds are linked in: the orchestrator knows a kind by its contract alone, and passes calls on
	// to the service that owns it.
	_ "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
)

// DefaultSealKeyFile is where the key for secrets is when nothing else is said.
const DefaultSealKeyFile = "/etc/weft/seal/key"

// Config is how the orchestrator runs in a process of its own.
type Config struct {
	daemon.Config `koanf:",squash"`

	// SealKeyFile is the path of the platform's key for secrets, SealKeySize random bytes, the same for all replicas.
	// Who loses it loses the secrets. Empty means DefaultSealKeyFile.
	SealKeyFile string `koanf:"sealKeyFile"`
	// CredentialLifetime is how long a credential is valid that is made for a tenant's own project, e.g. 168h; 0 means a week.
	// When half of it is over another is made.
	CredentialLifetime time.Duration `koanf:"credentialLifetime"`
	// CredentialGrace is how long a credential is kept that another has taken the place of; 0 means an hour.
	CredentialGrace time.Duration `koanf:"credentialGrace"`
}

// Compose reads the key and gives what makes the orchestrator that the configuration says.
func (c Config) Compose() (func(service.Deps) (daemon.Composed, error), error) {
	path := c.SealKeyFile
	if path == "" {
		path = DefaultSealKeyFile
	}
	key, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.InField("sealKeyFile", "read the key for secrets: %s; make it once, for all replicas: head -c %d /dev/urandom", err, SealKeySize)
	}
	if len(key) != SealKeySize {
		return nil, fault.InField("sealKeyFile", "the key for secrets in %s has %d bytes instead of %d", path, len(key), SealKeySize)
	}
	return func(deps service.Deps) (daemon.Composed, error) {
		return New(Deps{Deps: deps, SealKey: key, CredentialLifetime: c.CredentialLifetime, CredentialGrace: c.CredentialGrace})
	}, nil
}
