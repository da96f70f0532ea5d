// Package sandbox is a simulated OpenStack and a simulated Kubernetes behind their real HTTP APIs, with an admin
// API below /_sandbox/ that tells what exists and what was called, and breaks what a test wants broken.
//
// New opens the state and binds the listeners, so that all addresses are known and another process cannot take
// them; Run serves until its context ends. State lives in one journal below Config.DataDir and survives kill -9.
package sandbox

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftcloud/weft/services/sandbox/internal/control"
	"github.com/weftcloud/weft/services/sandbox/internal/kubernetes"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
	"github.com/weftcloud/weft/services/sandbox/internal/world"
)

// Latencies are waiting times by operation; see the README for the keys.
type Latencies = control.Latencies

// DevLatencies feel like a small fast cloud; they are for people and demos.
func DevLatencies() Latencies { return control.DevLatencies() }

// NoLatencies make every call and every state immediate; they are for tests.
func NoLatencies() Latencies { return control.NoLatencies() }

// Config is what a sandbox needs. The zero value works: memory only, free ports on the loopback, no latencies.
type Config struct {
	// DataDir is where state is kept; empty: in memory only.
	DataDir string
	// Listen is the address of OpenStack and of the admin API; empty: 127.0.0.1:0.
	Listen string
	// KubernetesListen is the address of the Kubernetes API (TLS); empty: 127.0.0.1:0.
	KubernetesListen string
	// Now is the clock of the simulated clouds; nil: time.Now.
	Now func() time.Time
	// Latency is in force at the start and after a reset; nil: NoLatencies.
	Latency Latencies
	// Logger gets the sandbox's own messages; nil: slog.Default().
	Logger *slog.Logger
	// AdminToken protects the admin API; empty: one is made, see Sandbox.AdminToken.
	AdminToken string
	// KubernetesNodes is how many nodes the cluster has at first; 0: 3.
	KubernetesNodes int
}

// AdminHeader carries the token of the admin API.
const AdminHeader = "X-Sandbox-Token"

// Sandbox is one running pair of simulated clouds.
type Sandbox struct {
	config     Config
	logger     *slog.Logger
	control    *control.Control
	cloud      *openstack.Cloud
	kubernetes *kubernetes.Server
	journal    *world.Journal
	listener   net.Listener
	kubeLn     net.Listener
	token      string

	closeOnce sync.Once
	closeErr  error
}

// New opens the state and binds the listeners.
func New(cfg Config) (s *Sandbox, err error) {
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.KubernetesListen == "" {
		cfg.KubernetesListen = "127.0.0.1:0"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.AdminToken == "" {
		cfg.AdminToken = rest.NewHex()
	}
	s = &Sandbox{config: cfg, logger: cfg.Logger, token: cfg.AdminToken}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.listener, err = net.Listen("tcp", cfg.Listen); err != nil {
		return nil, fmt.Errorf("listen for OpenStack: %w", err)
	}
	if s.kubeLn, err = net.Listen("tcp", cfg.KubernetesListen); err != nil {
		return nil, fmt.Errorf("listen for Kubernetes: %w", err)
	}
	return s, s.open()
}

// open loads the clouds.
func (s *Sandbox) open() (err error) {
	path, images := "", ""
	if s.config.DataDir != "" {
		path, images = filepath.Join(s.config.DataDir, "sandbox.db"), filepath.Join(s.config.DataDir, "images")
	}
	if s.journal, err = world.OpenJournal(path); err != nil {
		return err
	}
	s.control = control.New(s.config.Now)
	s.control.SetPreset(s.config.Latency)
	s.cloud, err = openstack.New(openstack.Config{Journal: s.journal, Control: s.control, Clock: s.config.Now, ImageDir: images})
	if err != nil {
		return fmt.Errorf("open the simulated OpenStack: %w", err)
	}
	s.kubernetes, err = kubernetes.New(kubernetes.Config{
		Journal: s.journal, Control: s.control, Now: s.config.Now, Logger: s.logger, Nodes: s.config.KubernetesNodes,
	})
	if err != nil {
		return fmt.Errorf("open the simulated Kubernetes: %w", err)
	}
	return s.journal.Flush()
}

// Run serves until ctx ends, then closes what New opened. It must be called at most once.
func (s *Sandbox) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	// Hanging requests and watches end with this context.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	clouds := s.server(serving, s.cloudHandler())
	cluster := s.server(serving, s.kubernetes.Handler())
	cluster.TLSConfig = s.kubernetes.TLSConfig()
	group.Go(func() error { return served("OpenStack", clouds.Serve(s.listener)) })
	group.Go(func() error { return served("Kubernetes", cluster.ServeTLS(s.kubeLn, "", "")) })
	group.Go(func() error { return s.kubernetes.Run(ctx) })
	group.Go(func() error {
		<-ctx.Done()
		stop()
		last, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		err := errors.Join(clouds.Shutdown(last), cluster.Shutdown(last))
		if errors.Is(err, context.DeadlineExceeded) {
			return errors.Join(clouds.Close(), cluster.Close())
		}
		return err
	})
	err := group.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, s.Close())
}

func (s *Sandbox) server(ctx context.Context, h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog: slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
}

func served(what string, err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", what, err)
}

// cloudHandler is OpenStack and, below /_sandbox/, the admin API.
func (s *Sandbox) cloudHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", s.cloud.Handler())
	mux.Handle("/_sandbox/", s.guard(s.journal.Middleware(s.control.Handler())))
	return mux
}

func (s *Sandbox) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get(AdminHeader)), []byte(s.token)) != 1 {
			http.Error(w, "sandbox: the header "+AdminHeader+" must carry the admin token", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Close releases listeners and state. Run calls it; without Run the owner does. It may be called twice.
func (s *Sandbox) Close() error {
	s.closeOnce.Do(func() {
		var errs []error
		for _, ln := range []net.Listener{s.listener, s.kubeLn} {
			if ln == nil {
				continue
			}
			if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
		if s.journal != nil {
			errs = append(errs, s.journal.Close())
		}
		s.closeErr = errors.Join(errs...)
	})
	return s.closeErr
}

// AdminURL is the address of the admin API without the path /_sandbox/.
func (s *Sandbox) AdminURL() string { return "http://" + s.listener.Addr().String() }

// AdminToken is what the header X-Sandbox-Token must carry.
func (s *Sandbox) AdminToken() string { return s.token }

// OpenStackURL is the address of Keystone, the auth URL.
func (s *Sandbox) OpenStackURL() string { return s.AdminURL() + "/identity/v3" }

// CloudsYAML is a clouds.yaml with the clouds sandbox (project demo), sandbox-other and sandbox-admin.
func (s *Sandbox) CloudsYAML() []byte { return openstack.CloudsYAML(s.OpenStackURL()) }

// KubernetesURL is the address of the Kubernetes API.
func (s *Sandbox) KubernetesURL() string { return "https://" + s.kubeLn.Addr().String() }

// Kubeconfig leads kubectl and client-go to the simulated cluster.
func (s *Sandbox) Kubeconfig() []byte { return s.kubernetes.Kubeconfig(s.KubernetesURL()) }

// TLSConfig is what the Kubernetes API serves with.
func (s *Sandbox) TLSConfig() *tls.Config { return s.kubernetes.TLSConfig() }
