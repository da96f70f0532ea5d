// Package daemon is what every service process does: it reads a configuration, connects to etcd, NATS and the other
// services, serves gRPC, and ends in order.
//
// # Start
//
// Processes start in any order. What is wrong with the configuration or the certificates ends the process at once, since
// no waiting mends it. What is not there yet, etcd or NATS, is tried again until it is, with a line in the log each time;
// until then nothing listens, so that whoever looks sees that the service is not ready. Connections to other services are
// made with the first call, and calls to one that is not there are answered Unavailable, which callers try again.
//
// # End
//
// When the context ends the service takes no new work, calls under way end within the grace period, and then the
// connections are closed, in the reverse order of their making.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/weftcloud/weft/pkg/app"
	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/budget"
	"github.com/weftcloud/weft/pkg/bus/natsbus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/installation"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/service"
	"github.com/weftcloud/weft/pkg/store/etcdstore"
	"github.com/weftcloud/weft/pkg/store/groupstore"
	"github.com/weftcloud/weft/pkg/tracing"
)

// The pauses between two tries to reach what is not there yet.
const (
	firstPause   = 250 * time.Millisecond
	longestPause = 5 * time.Second
)

// Composed is what every service is once it is composed.
type Composed interface {
	// Register registers the service's gRPC services.
	Register(server grpc.ServiceRegistrar) error
	// Run works until ctx ends.
	Run(ctx context.Context) error
	// Collectors gives the service's metrics.
	Collectors() []prometheus.Collector
}

// Register registers a service on a gRPC server, with the operations of its single changes if it keeps its own.
func Register(server grpc.ServiceRegistrar, s Composed) error {
	if err := s.Register(server); err != nil {
		return err
	}
	if own, ok := s.(*service.Service); ok {
		own.RegisterOperations(server)
	}
	return nil
}

// process is one service process in the making.
type process struct {
	name    string
	cfg     Config
	logger  *slog.Logger
	own     material
	closers *app.Closers
	deps    service.Deps
	store   *groupstore.Store
	bus     *natsbus.Bus
	tasks   []app.Task
}

// Run runs the service of a name until ctx ends, and logs to log. compose makes the service once all that it needs is
// there; it is called once. The error is nil if the service ended because it was asked to.
func Run(ctx context.Context, name string, cfg Config, log io.Writer, compose func(service.Deps) (Composed, error)) error {
	logger, err := app.NewLogger(log, cfg.Log)
	if err != nil {
		return err
	}
	p := &process{name: name, cfg: cfg.complete(), logger: logger.With("service", name), closers: &app.Closers{}}
	if err := p.cfg.check(); err != nil {
		return err
	}
	if err := p.connect(ctx); err != nil {
		closed := p.close(ctx)
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return closed // it was asked to end before all was there
		}
		return errors.Join(err, closed)
	}
	if err := p.serve(ctx, compose); err != nil {
		return errors.Join(err, p.close(ctx))
	}
	return app.Group{Logger: p.logger, Closers: p.closers}.Run(ctx, p.tasks...)
}

// close closes what was made by a start that is given up.
func (p *process) close(ctx context.Context) error {
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), app.DefaultGrace)
	defer cancel()
	return p.closers.Close(closing)
}

// connect gathers what the service needs.
func (p *process) connect(ctx context.Context) error {
	p.deps = service.Deps{Logger: p.logger, CallsPerSecond: p.cfg.CallsPerSecond, ObserveEvery: p.cfg.ObserveEvery, Replica: p.cfg.Replica}
	for _, step := range []func(context.Context) error{p.identify, p.openTraces, p.openStore, p.openBus, p.dialPeers} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// identify reads the service's certificate, and refuses one of somebody else.
func (p *process) identify(context.Context) error {
	own, err := p.cfg.TLS.read()
	if err != nil {
		return err
	}
	cert, err := own.source()
	if err != nil {
		return err
	}
	id, err := auth.FromCertificate(cert.Leaf)
	if err != nil {
		return fault.New(fault.Invalid, "%s: %s", p.cfg.TLS.Cert, err)
	}
	if want := (auth.Identity{Class: auth.Service, Name: p.name}); id != want {
		return fault.New(fault.Invalid, "%s is the certificate of %s; this service needs one of %s (weft identity issue --service %s)", p.cfg.TLS.Cert, id, want, p.name)
	}
	p.own = own
	return nil
}

// openTraces makes the traces, if they go anywhere.
func (p *process) openTraces(ctx context.Context) error {
	traces, err := tracing.New(ctx, p.cfg.Traces, p.name, p.own.server())
	if err != nil {
		return err
	}
	p.deps.Traces = traces
	p.closers.Add("traces", traces.Close)
	return nil
}

// openStore connects to etcd and waits until it answers.
func (p *process) openStore(ctx context.Context) error {
	tls, err := p.cfg.Etcd.TLS.read()
	if err != nil {
		return fault.Wrap(err, "connect to etcd")
	}
	s, err := etcdstore.Dial(clientv3.Config{Endpoints: p.cfg.Etcd.Endpoints, TLS: tls.server()})
	if err != nil {
		return err
	}
	p.store = groupstore.New(s)
	p.deps.Store = p.store
	p.deps.Budgets = budget.NewRegistry(budget.RegistryConfig{Store: s, Process: p.name + "-" + p.cfg.Replica, Logger: p.logger})
	p.closers.AddCloser("the connection to etcd", s)
	return p.until(ctx, "etcd", func(ctx context.Context) (err error) {
		p.deps.Installation, err = installation.Name(ctx, s)
		return err
	})
}

// openBus connects to NATS and makes sure that the streams are there.
func (p *process) openBus(ctx context.Context) error {
	tls, err := p.cfg.NATS.TLS.read()
	if err != nil {
		return fault.Wrap(err, "connect to NATS")
	}
	var made *natsbus.Bus
	err = p.until(ctx, "NATS", func(ctx context.Context) error {
		conn, err := nats.Connect(p.cfg.NATS.URL, p.natsOptions(tls)...)
		if err != nil {
			return fault.As(fault.Unavailable, fault.Wrap(err, "connect to NATS at %s", p.cfg.NATS.URL))
		}
		b, err := natsbus.New(ctx, conn, natsbus.Options{Logger: p.logger, Replicas: p.cfg.NATS.Replicas})
		if err != nil {
			conn.Close()
			return err
		}
		made = b
		return nil
	})
	if err != nil {
		return err
	}
	p.deps.Bus, p.bus = made, made
	p.closers.AddCloser("the bus", made)
	return nil
}

// natsOptions never gives a connection up once it was made.
func (p *process) natsOptions(tls material) []nats.Option {
	return []nats.Option{
		nats.Name("weft " + p.name), nats.Secure(tls.server()), nats.Timeout(5 * time.Second),
		nats.MaxReconnects(-1), nats.ReconnectWait(200 * time.Millisecond),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				p.logger.Warn("NATS is gone; it is looked for", "error", err)
			}
		}),
		nats.ReconnectHandler(func(conn *nats.Conn) { p.logger.Info("NATS is back", "url", conn.ConnectedUrlRedacted()) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { p.logger.Warn("NATS", "error", err) }),
	}
}

// until tries until it works. It gives ctx's error once ctx ends.
func (p *process) until(ctx context.Context, what string, try func(context.Context) error) error {
	for wait := firstPause; ; wait = min(2*wait, longestPause) {
		err := try(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			p.logger.Info("connected", "to", what)
			return nil
		}
		p.logger.Warn("not there yet", "awaiting", what, "error", err, "again_in", wait.String())
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// dialPeers makes a connection to each service that owns a kind which this program knows, and to those that the
// configuration names.
func (p *process) dialPeers(context.Context) error {
	kinds, err := resource.Linked()
	if err != nil {
		return fault.Wrap(err, "read the kinds")
	}
	p.deps.Peers = service.Peers{}
	p.deps.Dial = func(address string) (*grpc.ClientConn, error) { return p.dial(p.name, address) }
	for name, address := range p.peers(kinds) {
		conn, err := p.dial(name, address)
		if err != nil {
			return err
		}
		p.closers.AddCloser("the connection to "+name, conn)
		p.deps.Peers[name] = conn
	}
	p.logger.Info("peers", "names", slices.Sorted(maps.Keys(p.deps.Peers)))
	return nil
}

// dial connects to a service at an address.
func (p *process) dial(name, address string) (*grpc.ClientConn, error) {
	return app.Dial(address, app.DialConfig{
		TLS: auth.ClientTLS(p.own.source, p.own.trust, auth.ServerName(name)), UserAgent: "weft-" + p.name,
		// A peer that comes back is found within a second: a person may be waiting for it.
		Options: append(p.deps.Traces.DialOptions(), grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		})),
	})
}

// advertised gives the address at which other replicas reach this one, which listens at an address.
func (p *process) advertised(listens net.Addr) (string, error) {
	if p.cfg.Advertise != "" {
		return p.cfg.Advertise, nil
	}
	host, port, err := net.SplitHostPort(listens.String())
	if err != nil {
		return "", fault.As(fault.Internal, fault.Wrap(err, "read the address %s", listens))
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
		return listens.String(), nil
	}
	if host, err = os.Hostname(); err != nil {
		return "", fault.InField("advertise", "the name of the machine cannot be read (%s); say where other replicas reach this one", err)
	}
	return net.JoinHostPort(host, port), nil
}

// peers gives the addresses of all other services.
func (p *process) peers(kinds *resource.Registry) Addresses {
	out := Addresses{}
	for _, k := range kinds.Kinds() {
		out[k.Service] = k.Service + ":" + DefaultPort
	}
	maps.Copy(out, p.cfg.Peers)
	delete(out, p.name)
	return out
}

// serve composes the service and gathers what is to run.
func (p *process) serve(ctx context.Context, compose func(service.Deps) (Composed, error)) error {
	lis, err := app.Listen(ctx, p.cfg.Listen)
	if err != nil {
		return err
	}
	p.closers.AddCloser("the listener", closeOnce{lis})
	if p.deps.Address, err = p.advertised(lis.Addr()); err != nil {
		return err
	}
	s, err := compose(p.deps)
	if err != nil {
		return fault.Wrap(err, "compose the %s service", p.name)
	}
	metrics := app.NewMetrics()
	server, err := app.NewGRPCServer(app.ServerConfig{TLS: auth.ServerTLS(p.own.source, p.own.trust), Logger: p.logger, Metrics: metrics, Options: p.deps.Traces.ServerOptions()})
	if err != nil {
		return err
	}
	if err := Register(server, s); err != nil {
		return err
	}
	metrics.Registry.MustRegister(append(s.Collectors(), p.deps.Budgets, p.bus, p.store)...)
	p.tasks = append(p.tasks, app.Task{Name: p.name, Run: s.Run}, app.Task{Name: "budgets", Run: p.deps.Budgets.Run})
	if p.cfg.Metrics != "" {
		lis, err := app.Listen(ctx, p.cfg.Metrics)
		if err != nil {
			return err
		}
		p.tasks = append(p.tasks, app.Task{Name: "metrics", Run: func(ctx context.Context) error {
			return metrics.Serve(ctx, lis, auth.ServerTLS(p.own.source, p.own.trust))
		}})
	}
	p.tasks = append(p.tasks, app.Task{Name: "gRPC", Run: func(ctx context.Context) error { return server.Serve(ctx, lis) }})
	p.logger.Info("ready", "address", lis.Addr().String())
	return nil
}

// closeOnce is a listener that may have been closed by who served it.
type closeOnce struct{ net.Listener }

// Close closes it; that it is closed is no error.
func (l closeOnce) Close() error {
	if err := l.Listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// ExitCode tells what a program should exit with after err, and writes the error to w, with the field of the
// configuration that it is about.
func ExitCode(w io.Writer, program string, err error) int {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	field := ""
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Field != "" {
		field = f.Field + ": "
	}
	if _, printErr := fmt.Fprintf(w, "%s: %s%s\n", program, field, err); printErr != nil {
		return 2 // nobody can be told
	}
	return 1
}
