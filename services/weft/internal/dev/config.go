// Package dev runs a whole installation in one process: every service, etcd, NATS and the sandbox.
package dev

import (
	"io"
	"time"

	"github.com/weftcloud/weft/pkg/bus"
)

// Config is how `weft dev` runs.
type Config struct {
	// DataDir holds everything that outlives the process: etcd's and NATS's data, the CA, the sandbox's journal. It is
	// made if need be.
	DataDir string
	// Listen is the address, host:port, of the gRPC front door.
	Listen string
	// NoSandbox leaves the sandbox out; clouds must be added then.
	NoSandbox bool
	// ContextPath is the context file that is written when the installation is ready, so that the other commands need
	// no flags.
	ContextPath string
	// Out gets what a person should read, e.g. that the installation is ready; logs go there too.
	Out io.Writer
	// Bus is put around the bus of the services; nil leaves it as it is. A rehearsal breaks steps by it.
	Bus func(bus.Bus) bus.Bus
	// ObserveEvery is how often what is ready is looked at, to find what was done to it elsewhere; 0 means every 30 seconds.
	ObserveEvery time.Duration
	// CredentialLifetime is how long a credential is valid that is made for a tenant's own project, CredentialGrace how long it
	// is kept when another has taken its place; 0 means a week and an hour.
	CredentialLifetime, CredentialGrace time.Duration
	// Fleeting says that nothing of it is to outlive the process, so that nobody waits for disks.
	Fleeting bool
}
