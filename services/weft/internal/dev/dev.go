package dev

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/weftcloud/weft/pkg/app"
	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/budget"
	"github.com/weftcloud/weft/pkg/bus/natsbus"
	"github.com/weftcloud/weft/pkg/cloud/kubernetes"
	"github.com/weftcloud/weft/pkg/cloud/openstack"
	"github.com/weftcloud/weft/pkg/daemon"
	"github.com/weftcloud/weft/pkg/embed"
	"github.com/weftcloud/weft/pkg/fault"
	naming "github.com/weftcloud/weft/pkg/installation"
	"github.com/weftcloud/weft/pkg/service"
	"github.com/weftcloud/weft/pkg/store/groupstore"
	"github.com/weftcloud/weft/services/compute"
	"github.com/weftcloud/weft/services/container"
	"github.com/weftcloud/weft/services/network"
	"github.com/weftcloud/weft/services/orchestrator"
	"github.com/weftcloud/weft/services/sandbox"
	"github.com/weftcloud/weft/services/storage"
	"github.com/weftcloud/weft/services/weft/internal/contextfile"
)

// The tenant and the names that a new installation has, so that the examples run as they are.
const (
	// Tenant is the tenant that the context file works in.
	Tenant = "default"
	// Cloud is the name of the sandbox's cloud.
	Cloud = "lab"
	// Cluster is the name of the secret with the kubeconfig of the sandbox's cluster.
	Cluster = "kube"
)

// installation is everything that runs in the process, in the making.
type installation struct {
	cfg      Config
	logger   *slog.Logger
	closers  *app.Closers
	ca       *auth.CA
	ports    ports
	etcd     *embed.EtcdServer
	nats     *embed.NATSServer
	bus      *natsbus.Bus
	sandbox  *sandbox.Sandbox
	peers    service.Peers
	inside   map[string]*app.InProcess
	tasks    []app.Task
	listener net.Listener
}

// Run runs the installation until ctx ends. What it has begun goes on at the next start, also after a kill.
func Run(ctx context.Context, cfg Config) (err error) {
	logger, err := app.NewLogger(cfg.Out, app.LogConfig{Level: "warn"})
	if err != nil {
		return err
	}
	in := &installation{cfg: cfg, logger: logger, closers: &app.Closers{}, peers: service.Peers{}, inside: map[string]*app.InProcess{}}
	defer func() {
		if err != nil {
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), app.DefaultGrace)
			defer cancel()
			err = errors.Join(err, in.closers.Close(closing))
		}
	}()
	began := time.Now()
	for _, step := range []func(context.Context) error{in.openData, in.openBackbone, in.openSandbox, in.connect, in.compose} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	in.tasks = append(in.tasks, app.Task{Name: "welcome", Run: func(ctx context.Context) error {
		if err := in.seed(ctx); err != nil {
			return err
		}
		if err := in.writeContext(); err != nil {
			return err
		}
		in.welcome(time.Since(began))
		<-ctx.Done()
		return nil
	}})
	return app.Group{Closers: in.closers}.Run(ctx, in.tasks...)
}

// openData opens the folder with the CA and the ports.
func (in *installation) openData(context.Context) error {
	if err := os.MkdirAll(in.cfg.DataDir, 0o700); err != nil {
		return fault.Wrap(err, "make the data directory %s", in.cfg.DataDir)
	}
	ca, err := auth.OpenCA(filepath.Join(in.cfg.DataDir, "ca"))
	if err != nil {
		return err
	}
	in.ca = ca
	in.ports, err = readPorts(filepath.Join(in.cfg.DataDir, "ports.json"))
	return err
}

// openBackbone starts etcd and NATS.
func (in *installation) openBackbone(ctx context.Context) error {
	etcd, err := embed.EtcdWith(embed.EtcdConfig{Dir: filepath.Join(in.cfg.DataDir, "etcd"), Logger: in.logger, NoSync: in.cfg.Fleeting})
	if err != nil {
		return err
	}
	in.etcd = etcd
	in.closers.AddCloser("etcd", etcd)
	natsServer, err := embed.NATS(embed.NATSConfig{
		Dir: filepath.Join(in.cfg.DataDir, "nats"), Listen: in.ports.free(in.ports.NATS), Logger: in.logger,
		TLS:          auth.ServerTLS(in.ca.Source(service0("nats"), auth.IssueOptions{}), in.ca.Pool()),
		Authenticate: embed.ByIdentity,
	})
	if err != nil {
		return err
	}
	in.nats = natsServer
	in.closers.AddCloser("NATS", natsServer)
	conn, err := natsServer.Connect()
	if err != nil {
		return err
	}
	in.bus, err = natsbus.New(ctx, conn, natsbus.Options{Logger: in.logger})
	if err != nil {
		return err
	}
	in.closers.AddCloser("bus", in.bus)
	return nil
}

func service0(name string) auth.Identity { return auth.Identity{Class: auth.Service, Name: name} }

// openSandbox starts the simulated clouds.
func (in *installation) openSandbox(context.Context) error {
	if in.cfg.NoSandbox {
		return nil
	}
	token, err := tokenFile(filepath.Join(in.cfg.DataDir, "sandbox.token"))
	if err != nil {
		return err
	}
	dir := filepath.Join(in.cfg.DataDir, "sandbox")
	if in.cfg.Fleeting {
		dir = "" // in memory
	}
	in.sandbox, err = sandbox.New(sandbox.Config{
		DataDir: dir, Listen: in.ports.free(in.ports.OpenStack), KubernetesListen: in.ports.free(in.ports.Kubernetes),
		AdminToken: token, Latency: sandbox.DevLatencies(), Logger: in.logger,
	})
	if err != nil {
		return err
	}
	in.closers.AddCloser("sandbox", in.sandbox)
	files := in.sandboxFiles()
	if err := os.WriteFile(files.Kubeconfig, in.sandbox.Kubeconfig(), 0o600); err != nil {
		return fault.Wrap(err, "write %s", files.Kubeconfig)
	}
	if err := os.WriteFile(files.CloudsFile, in.sandbox.CloudsYAML(), 0o600); err != nil {
		return fault.Wrap(err, "write %s", files.CloudsFile)
	}
	in.tasks = append(in.tasks, app.Task{Name: "sandbox", Run: in.sandbox.Run})
	return nil
}

// members are the services, in the order in which they are composed.
var members = []string{"network", "storage", "compute", "container", "orchestrator"}

// connect makes a connection from the platform to each service, within the process and with certificates all the same.
func (in *installation) connect(context.Context) error {
	source := in.ca.Source(service0("dev"), auth.IssueOptions{})
	for _, name := range members {
		in.inside[name] = app.NewInProcess()
		conn, err := app.Dial("passthrough:///"+name, app.DialConfig{
			TLS: auth.ClientTLS(source, in.ca.Pool(), auth.ServerName(name)), InProcess: in.inside[name],
		})
		if err != nil {
			return err
		}
		in.closers.AddCloser("connection to "+name, conn)
		in.peers[name] = conn
	}
	return nil
}

// compose makes the services. The orchestrator's server also listens outside.
func (in *installation) compose(ctx context.Context) error {
	below := in.etcd.Store()
	name, err := naming.Name(ctx, below)
	if err != nil {
		return err
	}
	deps := service.Deps{Store: groupstore.New(below), Bus: in.bus, Peers: in.peers, Logger: in.logger, Replica: "dev", Installation: name, ObserveEvery: in.cfg.ObserveEvery}
	if in.cfg.Bus != nil {
		deps.Bus = in.cfg.Bus(in.bus)
	}
	deps.Budgets = budget.NewRegistry(budget.RegistryConfig{Store: below, Process: deps.Replica, Logger: in.logger})
	in.tasks = append(in.tasks, app.Task{Name: "budgets", Run: deps.Budgets.Run})
	clouds, clusters := openstack.NewSessions(), &kubernetes.Sessions{}
	makers := map[string]func() (daemon.Composed, error){
		"network":   func() (daemon.Composed, error) { return network.New(deps, clouds) },
		"storage":   func() (daemon.Composed, error) { return storage.New(deps, clouds) },
		"compute":   func() (daemon.Composed, error) { return compute.New(deps, clouds) },
		"container": func() (daemon.Composed, error) { return container.New(deps, clusters) },
		"orchestrator": func() (daemon.Composed, error) {
			key, err := secretFile(filepath.Join(in.cfg.DataDir, "seal.key"), orchestrator.SealKeySize)
			if err != nil {
				return nil, err
			}
			with := deps
			with.Peers = service.Peers{}
			for name, conn := range in.peers {
				if name != "orchestrator" {
					with.Peers[name] = conn
				}
			}
			return orchestrator.New(orchestrator.Deps{
				Deps: with, SealKey: key, Clouds: clouds, CredentialLifetime: in.cfg.CredentialLifetime, CredentialGrace: in.cfg.CredentialGrace,
			})
		},
	}
	for _, name := range members {
		s, err := makers[name]()
		if err != nil {
			return fault.Wrap(err, "compose the %s service", name)
		}
		if err := in.serve(ctx, name, s); err != nil {
			return err
		}
	}
	return nil
}

func (in *installation) serve(ctx context.Context, name string, s daemon.Composed) error {
	server, err := app.NewGRPCServer(app.ServerConfig{TLS: auth.ServerTLS(in.ca.Source(service0(name), auth.IssueOptions{}), in.ca.Pool()), Logger: in.logger})
	if err != nil {
		return err
	}
	if err := daemon.Register(server, s); err != nil {
		return err
	}
	in.tasks = append(in.tasks,
		app.Task{Name: name, Run: s.Run},
		app.Task{Name: name + " within the process", Run: func(ctx context.Context) error { return server.Serve(ctx, in.inside[name]) }},
	)
	if name != "orchestrator" {
		return nil
	}
	in.listener, err = app.Listen(ctx, in.cfg.Listen)
	if err != nil {
		return err
	}
	in.tasks = append(in.tasks, app.Task{Name: "front door", Run: func(ctx context.Context) error { return server.Serve(ctx, in.listener) }})
	return nil
}

// secretFile reads random bytes from a file, which it makes at the first start.
func secretFile(path string, size int) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err == nil && len(data) == size {
		return data, nil
	}
	if err == nil {
		return nil, fault.New(fault.Internal, "%s has %d bytes instead of %d; was it cut?", path, len(data), size)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Wrap(err, "read %s", path)
	}
	data = make([]byte, size)
	if _, err := rand.Read(data); err != nil {
		return nil, fault.Wrap(err, "make %s", path)
	}
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return nil, fault.Wrap(err, "write %s", path)
	}
	return data, fault.Wrap(os.Rename(path+".new", path), "write %s", path)
}

// tokenSize is the size of a token in bytes; it is written as twice as many hexadecimal digits.
const tokenSize = 16

// tokenFile reads a token from a file that a person can use as it stands, and makes the file at the first start. An
// earlier version kept the bytes themselves: their token stays the same.
func tokenFile(path string) (string, error) {
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		data = make([]byte, tokenSize)
		if _, err := rand.Read(data); err != nil {
			return "", fault.Wrap(err, "make %s", path)
		}
	case err != nil:
		return "", fault.Wrap(err, "read %s", path)
	case len(data) != tokenSize:
		token := strings.TrimSpace(string(data))
		if raw, err := hex.DecodeString(token); err != nil || len(raw) != tokenSize {
			return "", fault.New(fault.Invalid, "%s holds no token of %d hexadecimal digits; delete the file to have one made", path, 2*tokenSize)
		}
		return token, nil
	}
	token := hex.EncodeToString(data)
	if err := os.WriteFile(path+".new", []byte(token+"\n"), 0o600); err != nil {
		return "", fault.Wrap(err, "write %s", path)
	}
	return token, fault.Wrap(os.Rename(path+".new", path), "write %s", path)
}

// writeContext writes the file that the other commands find the installation by.
func (in *installation) writeContext() error {
	cert, err := in.ca.Issue(auth.Identity{Class: auth.Operator, Name: "dev"}, auth.IssueOptions{Lifetime: 365 * 24 * time.Hour})
	if err != nil {
		return err
	}
	certPEM, keyPEM, err := auth.EncodePEM(cert)
	if err != nil {
		return err
	}
	f := &contextfile.File{
		Endpoint: in.listener.Addr().String(), Tenant: Tenant, CA: string(in.ca.PEM()), Cert: string(certPEM), Key: string(keyPEM),
		NATS: "tls://" + in.nats.Addr().String(),
	}
	kept := ports{NATS: portOf(in.nats.Addr().String())}
	if in.sandbox != nil {
		f.Sandbox = in.sandboxFiles()
		kept.OpenStack, kept.Kubernetes = portOf(in.sandbox.OpenStackURL()), portOf(in.sandbox.KubernetesURL())
	}
	if err := kept.write(filepath.Join(in.cfg.DataDir, "ports.json")); err != nil {
		return err
	}
	return contextfile.Save(in.cfg.ContextPath, f)
}

// sandboxFiles says where the sandbox is found, and by which files the usual clients reach it.
func (in *installation) sandboxFiles() *contextfile.Sandbox {
	return &contextfile.Sandbox{
		OpenStack: in.sandbox.OpenStackURL(), Kubernetes: in.sandbox.KubernetesURL(), Admin: in.sandbox.AdminURL(), Token: in.sandbox.AdminToken(),
		Kubeconfig: filepath.Join(in.cfg.DataDir, "kubeconfig"), CloudsFile: filepath.Join(in.cfg.DataDir, "clouds.yaml"),
	}
}

func (in *installation) welcome(took time.Duration) {
	line := func(format string, args ...any) { in.print(format+"\n", args...) }
	line("weft is ready at %s (%s)", in.listener.Addr(), strconv.FormatFloat(took.Seconds(), 'f', 1, 64)+" s")
	line("  context   %s", in.cfg.ContextPath)
	line("  data      %s", in.cfg.DataDir)
	if in.sandbox != nil {
		line("  sandbox   OpenStack %s (cloud %q), Kubernetes %s (secret %q)", in.sandbox.OpenStackURL(), Cloud, in.sandbox.KubernetesURL(), Cluster)
	}
	line("  try       weft apply -f deploy/examples/shop.yaml")
}

// print writes to a person; that nobody reads is no reason to stop.
func (in *installation) print(format string, args ...any) {
	if _, err := fmt.Fprintf(in.cfg.Out, format, args...); err != nil {
		in.logger.Debug("write to the terminal", "error", err)
	}
}
