package cli

import (
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftcloud/weft/pkg/bus"
)

// DevConfig is what `weft dev` was asked. Its fields are those of dev.Config; main puts the two together, so that the
// command line by itself needs none of the services.
type DevConfig struct {
	// DataDir is where everything is kept.
	DataDir string
	// Listen is the address of the front door.
	Listen string
	// NoSandbox leaves the sandbox out.
	NoSandbox bool
	// ContextPath is the context file to write.
	ContextPath string
	// Out gets what a person should read.
	Out io.Writer
	// Bus is put around the bus of the services; nil leaves it as it is.
	Bus func(bus.Bus) bus.Bus
	// ObserveEvery is how often what is ready is looked at, to find what was done to it elsewhere; 0 means every 30 seconds.
	ObserveEvery time.Duration
	// CredentialLifetime is how long a credential is valid that is made for a tenant's own project, CredentialGrace how long it
	// is kept when another has taken its place; 0 means a week and an hour.
	CredentialLifetime, CredentialGrace time.Duration
	// Fleeting says that nothing of it is to outlive the process, so that nobody waits for disks.
	Fleeting bool
}

func (a *tool) devCommand() *cobra.Command {
	cfg := DevConfig{Out: a.p.Err}
	cmd := &cobra.Command{
		Use: "dev", Short: "Run a whole installation in this process, with a simulated cloud",
		Long: `Run a whole installation in this process: all services, etcd, NATS, and the sandbox, a simulated OpenStack and
Kubernetes. What it knows is kept in the data folder: ended in whatever way, it goes on where it was.

It writes the context file, so that the other commands need no flags.`,
		Args: takes(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.DataDir == "" {
				cfg.DataDir = a.dataDir()
			}
			cfg.ContextPath = a.path()
			return failed(a.p.Dev(cmd.Context(), cfg), "run the installation in %s", cfg.DataDir)
		},
	}
	cmd.Flags().StringVar(&cfg.DataDir, "data-dir", "", "where everything is kept (default $XDG_DATA_HOME/weft, then ~/.local/share/weft)")
	cmd.Flags().StringVar(&cfg.Listen, "listen", "127.0.0.1:7443", "the `address` of the front door")
	cmd.Flags().BoolVar(&cfg.NoSandbox, "no-sandbox", false, "leave the simulated cloud out")
	cmd.Flags().DurationVar(&cfg.ObserveEvery, "observe-every", 30*time.Second, "how often what stands is looked at, to find what was done to it elsewhere")
	cmd.Flags().DurationVar(&cfg.CredentialLifetime, "credential-lifetime", 0, "how long a credential is valid that is made for a tenant's own project (default a week)")
	cmd.Flags().DurationVar(&cfg.CredentialGrace, "credential-grace", 0, "how long it is kept when another has taken its place (default an hour)")
	return cmd
}

func (a *tool) dataDir() string {
	if dir := a.p.Getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "weft")
	}
	return filepath.Join(a.p.Getenv("HOME"), ".local", "share", "weft")
}
