package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/weftcloud/weft/pkg/app"
	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/tracing"
)

// The values of fields that are empty. With them a service whose peers are found by their own names needs nothing but
// its certificate.
const (
	// DefaultPort is the port that services listen on and look for each other at.
	DefaultPort = "7443"
	// DefaultTLSDir is the folder with tls.crt, tls.key and ca.crt, the names that `weft identity issue` and Kubernetes
	// secrets of the type kubernetes.io/tls have.
	DefaultTLSDir = "/etc/weft/tls"
	// DefaultEtcd is where etcd is.
	DefaultEtcd = "https://etcd:2379"
	// DefaultNATS is where NATS is.
	DefaultNATS = "tls://nats:4222"
	// EnvPrefix begins the names of all variables, e.g. WEFTD_NATS_URL.
	EnvPrefix = "WEFTD_"
)

// Config is how a service process runs. The zero value works where the defaults above are right.
type Config struct {
	// Listen is the address, host:port, of the gRPC server; empty means DefaultPort on all interfaces.
	Listen string `koanf:"listen"`
	// Advertise is the address, host:port, at which other replicas of the service reach this one; empty means the host
	// and port that it listens on or, if that is all interfaces, the name of the machine.
	Advertise string `koanf:"advertise"`
	// Metrics is the address, host:port, at which metrics are served over TLS, to clients with a certificate; empty
	// means nowhere.
	Metrics string `koanf:"metrics"`
	// TLS is the service's identity: its certificate says service/NAME, see auth.Identity. Empty paths mean those in
	// DefaultTLSDir. A certificate whose file changes is read anew.
	TLS Files `koanf:"tls"`
	// Etcd is where records are kept.
	Etcd Etcd `koanf:"etcd"`
	// NATS is where messages go.
	NATS NATS `koanf:"nats"`
	// Peers are the addresses of the other services by name; one that is not named is at NAME:DefaultPort. An entry for
	// the service itself is left aside, so that all services can share one file.
	Peers Addresses `koanf:"peers"`
	// Replica names this process among those of its service, without a slash; empty means a name that nobody else has. A
	// second process of the same name does no work before the first has left, or is taken for dead (5 s).
	Replica string `koanf:"replica"`
	// CallsPerSecond is the budget of API calls of each cloud account, which all processes that use it divide; 0 means 200.
	// It should be the same in all of them.
	CallsPerSecond float64 `koanf:"callsPerSecond"`
	// ObserveEvery is how often what is ready is looked at, to find what was done to it elsewhere, e.g. 30s; 0 means every 30
	// seconds.
	ObserveEvery time.Duration `koanf:"observeEvery"`
	// Traces says where traces go; empty means nowhere.
	Traces tracing.Config `koanf:"traces"`
	// Log is how it logs.
	Log app.LogConfig `koanf:"log"`
}

// Files are the paths of PEM files.
type Files struct {
	// Cert and Key are the certificate to show.
	Cert string `koanf:"certFile"`
	Key  string `koanf:"keyFile"`
	// CA is who must have issued the certificates of the others.
	CA string `koanf:"caFile"`
}

// Etcd is how etcd is reached.
type Etcd struct {
	// Endpoints are URLs, https://host:port; empty means DefaultEtcd.
	Endpoints []string `koanf:"endpoints"`
	// TLS is what to show and to trust there; empty paths mean those of the service.
	TLS Files `koanf:"tls"`
}

// NATS is how NATS is reached.
type NATS struct {
	// URL is one URL or several with commas between them, tls://host:port; empty means DefaultNATS.
	URL string `koanf:"url"`
	// Replicas is how many servers keep each stream; 0 means 1.
	Replicas int `koanf:"replicas"`
	// TLS is what to show and to trust there; empty paths mean those of the service.
	TLS Files `koanf:"tls"`
}

// Addresses are host:port by the name of a service.
type Addresses map[string]string

// UnmarshalText reads NAME=HOST:PORT with commas between them, as a variable has it.
func (a *Addresses) UnmarshalText(text []byte) error {
	*a = Addresses{}
	for entry := range strings.SplitSeq(string(text), ",") {
		name, address, ok := strings.Cut(strings.TrimSpace(entry), "=")
		if !ok || name == "" || address == "" {
			return fault.New(fault.Invalid, "%q is not NAME=HOST:PORT", entry)
		}
		(*a)[name] = address
	}
	return nil
}

// Load fills the configuration that into points to, a Config or a struct with one embedded, from the file that the
// argument --config names and from the environment, which outweighs it. args are the program's, its own name first. The
// error is Invalid, or flag.ErrHelp when that was asked.
func Load(into any, args, environ []string) error {
	name := "weft"
	if len(args) > 0 {
		name, args = filepath.Base(args[0]), args[1:]
	}
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	file := flags.String("config", "", "the configuration, a YAML `file`; variables "+EnvPrefix+"… outweigh it, e.g. "+EnvPrefix+"NATS_URL")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fault.New(fault.Invalid, "%s takes no argument but --config; %q was given", name, flags.Arg(0))
	}
	return app.LoadConfig(into, app.Sources{File: *file, EnvPrefix: EnvPrefix, Environ: environ})
}

// complete gives the configuration with all that was left empty filled in.
func (c Config) complete() Config {
	c.Listen = or(c.Listen, ":"+DefaultPort)
	c.TLS = c.TLS.or(Files{
		Cert: filepath.Join(DefaultTLSDir, "tls.crt"), Key: filepath.Join(DefaultTLSDir, "tls.key"), CA: filepath.Join(DefaultTLSDir, "ca.crt"),
	})
	c.Etcd.TLS, c.NATS.TLS = c.Etcd.TLS.or(c.TLS), c.NATS.TLS.or(c.TLS)
	if len(c.Etcd.Endpoints) == 0 {
		c.Etcd.Endpoints = []string{DefaultEtcd}
	}
	c.NATS.URL = or(c.NATS.URL, DefaultNATS)
	if c.Replica == "" {
		c.Replica = uuid.NewString()
	}
	return c
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

func (f Files) or(otherwise Files) Files {
	// A certificate and its key belong together: half a pair is completed by nothing.
	if f.Cert == "" && f.Key == "" {
		f.Cert, f.Key = otherwise.Cert, otherwise.Key
	}
	f.CA = or(f.CA, otherwise.CA)
	return f
}

// check refuses what would never work, or would send records in the clear.
func (c Config) check() error {
	for _, endpoint := range c.Etcd.Endpoints {
		if err := checkURL("etcd.endpoints", endpoint, "https"); err != nil {
			return err
		}
	}
	for server := range strings.SplitSeq(c.NATS.URL, ",") {
		if err := checkURL("nats.url", strings.TrimSpace(server), "tls"); err != nil {
			return err
		}
	}
	if strings.Contains(c.Replica, "/") {
		return fault.InField("replica", "%q has a slash; a replica's name has none", c.Replica)
	}
	if c.CallsPerSecond < 0 {
		return fault.InField("callsPerSecond", "%g calls per second are none; 0 means 200", c.CallsPerSecond)
	}
	if c.ObserveEvery < 0 {
		return fault.InField("observeEvery", "%s is no interval; 0 means 30s", c.ObserveEvery)
	}
	if c.NATS.Replicas < 0 {
		return fault.InField("nats.replicas", "%d replicas are none; 0 means 1", c.NATS.Replicas)
	}
	return nil
}

func checkURL(field, text, scheme string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != scheme || u.Host == "" {
		return fault.InField(field, "%q should look like %s://host:port; Weft connects with TLS only", text, scheme)
	}
	return nil
}

// material is what a certificate's files hold.
type material struct {
	source auth.Source
	trust  *x509.CertPool
}

// read reads the files once, so that what is wrong with them is said at the start and not at the first connection.
func (f Files) read() (material, error) {
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return material{}, fault.New(fault.Invalid, "read the CA: %s", err)
	}
	trust, err := auth.ParsePool(pem)
	if err != nil {
		return material{}, fault.Wrap(err, "read %s", f.CA)
	}
	source := auth.Files(f.Cert, f.Key)
	if _, err := source(); err != nil {
		return material{}, fault.As(fault.Invalid, err)
	}
	return material{source: source, trust: trust}, nil
}

// server gives the configuration of a connection to a server that is none of ours and bears no identity: only that the
// CA vouches for its host name counts.
func (m material) server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: m.trust,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.source() },
	}
}
