package embed

import (
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/weftcloud/weft/pkg/fault"
)

// NATSConfig says how NATS runs.
type NATSConfig struct {
	// Dir is where its data are. It is made if need be, with mode 0700.
	Dir string
	// Listen is the address, host:port, at which it answers clients from outside; port 0 takes any. Empty means that
	// only this process reaches it. With it either TLS and Authenticate are needed, or Token.
	Listen string
	// TLS is the server's certificate, and in ClientCAs who vouches for clients. Clients must show a certificate.
	TLS *tls.Config
	// Authenticate tells who the client with a verified certificate is and what it may do. An error turns it away.
	Authenticate func(client *x509.Certificate) (NATSUser, error)
	// Token lets a client do everything. It goes unencrypted, so that Listen must be a loopback address.
	Token string
	// Logger takes its log, one level lower; nil discards it.
	Logger *slog.Logger
}

// NATSUser is a client from outside. What is not allowed here is forbidden.
type NATSUser struct {
	// Name is shown in the server's log.
	Name string
	// Publish are the subjects that it may send to, with wildcards.
	Publish []string
	// Subscribe are the subjects that it may receive, with wildcards. Its own inbox needs to be among them.
	Subscribe []string
}

// NATSServer is NATS inside the process.
type NATSServer struct {
	server *server.Server
	lock   *dirLock
	secret string
}

// internalUser is the name by which this process's own connections log in.
const internalUser = "weft"

// NATS runs NATS with JetStream.
func NATS(cfg NATSConfig) (_ *NATSServer, err error) {
	opts, err := natsOptions(cfg)
	if err != nil {
		return nil, err
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	logger := orDiscard(cfg.Logger).With("component", "nats")
	secret := rand.Text()
	opts.CustomClientAuthentication = &gate{secret: secret, token: cfg.Token, authenticate: cfg.Authenticate, logger: logger}
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, fault.Wrap(err, "start NATS in %s", cfg.Dir)
	}
	ns.SetLoggerV2(natsLogger{logger}, false, false, false)
	ns.Start()
	if !ns.ReadyForConnections(startTimeout) {
		ns.Shutdown()
		ns.WaitForShutdown()
		return nil, fault.New(fault.Internal, "start NATS in %s, listening at %q: it is not ready; its log says why", cfg.Dir, cfg.Listen)
	}
	return &NATSServer{server: ns, lock: lock, secret: secret}, nil
}

// natsOptions gives the server's options, or says what is wrong with cfg.
func natsOptions(cfg NATSConfig) (*server.Options, error) {
	opts := &server.Options{
		ServerName: "weft", NoSigs: true, NoLog: true, DontListen: true,
		JetStream: true, StoreDir: filepath.Join(cfg.Dir, "nats"),
		// Streams reserve their greatest size in the books: more than the disk may have, never more than this.
		JetStreamMaxStore: 256 << 30, JetStreamMaxMemory: 256 << 20,
	}
	if cfg.Listen == "" {
		return opts, nil
	}
	host, portText, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fault.InField("listen", "the address %q of NATS is not host:port: %v", cfg.Listen, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fault.InField("listen", "the port %q of NATS is not a number up to 65535", portText)
	}
	opts.DontListen, opts.Host, opts.Port = false, host, int(port)
	if port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	if cfg.TLS == nil {
		return opts, checkToken(cfg, host)
	}
	if cfg.TLS.ClientCAs == nil || cfg.Authenticate == nil {
		return nil, fault.InField("tls", "NATS at %s has a certificate, but nothing to know its clients by: set ClientCAs and Authenticate", cfg.Listen)
	}
	opts.TLSConfig = cfg.TLS.Clone()
	opts.TLSConfig.ClientAuth = tls.RequireAndVerifyClientCert
	opts.TLSConfig.MinVersion = max(opts.TLSConfig.MinVersion, tls.VersionTLS12)
	opts.TLSVerify, opts.TLSTimeout, opts.AuthTimeout = true, 5, 5
	return opts, nil
}

// checkToken refuses to listen in the clear, but for this machine's own processes.
func checkToken(cfg NATSConfig, host string) error {
	ip := net.ParseIP(host)
	if cfg.Token == "" || (host != "localhost" && (ip == nil || !ip.IsLoopback())) {
		return fault.InField("listen", "NATS at %s needs TLS with client certificates; without TLS it takes a token, at a loopback address only", cfg.Listen)
	}
	return nil
}

// gate lets clients in.
type gate struct {
	secret       string
	token        string
	authenticate func(*x509.Certificate) (NATSUser, error)
	logger       *slog.Logger
}

var _ server.Authentication = (*gate)(nil)

// Check implements server.Authentication.
func (g *gate) Check(c server.ClientAuthentication) bool {
	login := c.GetOpts()
	if login.Username == internalUser && equal(login.Password, g.secret) {
		c.RegisterUser(&server.User{Username: internalUser})
		return true
	}
	if g.token != "" && equal(login.Token, g.token) {
		c.RegisterUser(&server.User{Username: "token"})
		return true
	}
	state := c.GetTLSConnectionState()
	if g.authenticate == nil || state == nil || len(state.VerifiedChains) == 0 {
		g.logger.Warn("refuse a client without a verified certificate", "address", addressOf(c))
		return false
	}
	leaf := state.VerifiedChains[0][0]
	user, err := g.authenticate(leaf)
	if err != nil {
		g.logger.Warn("refuse a client", "address", addressOf(c), "subject", leaf.Subject.String(), "error", err)
		return false
	}
	c.RegisterUser(&server.User{Username: user.Name, Permissions: &server.Permissions{
		Publish: allowOnly(user.Publish), Subscribe: allowOnly(user.Subscribe),
	}})
	return true
}

// allowOnly allows subjects and nothing else: an empty list of the server's means everything, ours nothing.
func allowOnly(subjects []string) *server.SubjectPermission {
	if len(subjects) == 0 {
		return &server.SubjectPermission{Deny: []string{">"}}
	}
	return &server.SubjectPermission{Allow: subjects}
}

// equal compares secrets in constant time.
func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// addressOf gives a client's address for the log.
func addressOf(c server.ClientAuthentication) string {
	if address := c.RemoteAddress(); address != nil {
		return address.String()
	}
	return "in process"
}

// Connect gives a connection within the process, with full rights. The caller closes it.
func (s *NATSServer) Connect(opts ...nats.Option) (*nats.Conn, error) {
	all := append([]nats.Option{
		nats.InProcessServer(s.server), nats.UserInfo(internalUser, s.secret), nats.MaxReconnects(-1), nats.ReconnectWait(100 * time.Millisecond),
	}, opts...)
	conn, err := nats.Connect("", all...)
	return conn, fault.Wrap(fault.As(fault.Unavailable, err), "connect to NATS in the process")
}

// Addr gives the address at which it answers clients from outside; nil if it does not.
func (s *NATSServer) Addr() net.Addr { return s.server.Addr() }

// Close stops the server; its data stay.
func (s *NATSServer) Close() error {
	s.server.Shutdown()
	s.server.WaitForShutdown()
	return fault.Wrap(s.lock.Close(), "unlock the data directory of NATS")
}
