// Command backbone runs one member of an etcd or a NATS cluster, for stories in which members die, are cut off and come
// back. Clients come by TLS and show the certificates of the installation; members trust each other, on the loopback.
//
//	backbone -kind etcd -name etcd-0 -dir DIR -tls DIR -client HOST:PORT -peer HOST:PORT -cluster etcd-0=HOST:PORT,…
//	backbone -kind nats … the same, with -advertise HOST:PORT, where clients reach it
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	etcd "go.etcd.io/etcd/server/v3/embed"

	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/embed"
)

// member says what to run.
type member struct {
	kind, name, dir, tls, client, peer, cluster, advertise string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "backbone:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	m := member{}
	flags := flag.NewFlagSet("backbone", flag.ContinueOnError)
	flags.StringVar(&m.kind, "kind", "", "etcd or nats")
	flags.StringVar(&m.name, "name", "", "the member's name")
	flags.StringVar(&m.dir, "dir", "", "where its data are")
	flags.StringVar(&m.tls, "tls", "", "the folder with tls.crt, tls.key and ca.crt")
	flags.StringVar(&m.client, "client", "", "the address, host:port, for clients")
	flags.StringVar(&m.peer, "peer", "", "the address, host:port, for other members")
	flags.StringVar(&m.cluster, "cluster", "", "all members, NAME=HOST:PORT with commas between them")
	flags.StringVar(&m.advertise, "advertise", "", "the address, host:port, that clients are told of")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch m.kind {
	case "etcd":
		return m.etcd(ctx)
	case "nats":
		return m.nats(ctx)
	default:
		return fmt.Errorf("-kind %q: give etcd or nats", m.kind)
	}
}

// etcd runs a member of an etcd cluster until ctx ends.
func (m member) etcd(ctx context.Context) error {
	c := etcd.NewConfig()
	c.Name, c.Dir, c.LogLevel, c.UnsafeNoFsync = m.name, m.dir, "error", true
	client, peer := url.URL{Scheme: "https", Host: m.client}, url.URL{Scheme: "http", Host: m.peer}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.InitialCluster = strings.ReplaceAll(m.cluster, "=", "=http://")
	c.ClientTLSInfo = transport.TLSInfo{
		CertFile: filepath.Join(m.tls, "tls.crt"), KeyFile: filepath.Join(m.tls, "tls.key"), TrustedCAFile: filepath.Join(m.tls, "ca.crt"),
	}
	e, err := etcd.StartEtcd(c)
	if err != nil {
		return fmt.Errorf("start etcd member %s: %w", m.name, err)
	}
	defer e.Close()
	select {
	case <-ctx.Done():
		return nil
	case err := <-e.Err():
		return err
	}
}

// gate lets in whoever shows a certificate of the installation, with the rights that its identity has there.
type gate struct{}

// Check implements server.Authentication.
func (gate) Check(c server.ClientAuthentication) bool {
	state := c.GetTLSConnectionState()
	if state == nil || len(state.VerifiedChains) == 0 {
		return false
	}
	user, err := embed.ByIdentity(state.VerifiedChains[0][0])
	if err != nil {
		return false
	}
	c.RegisterUser(&server.User{Username: user.Name, Permissions: &server.Permissions{
		Publish: &server.SubjectPermission{Allow: user.Publish}, Subscribe: &server.SubjectPermission{Allow: user.Subscribe},
	}})
	return true
}

// nats runs a member of a NATS cluster until ctx ends.
func (m member) nats(ctx context.Context) error {
	opts, err := m.natsOptions()
	if err != nil {
		return err
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("start NATS member %s: %w", m.name, err)
	}
	s.ConfigureLogger()
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		return fmt.Errorf("NATS member %s is not ready", m.name)
	}
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

func (m member) natsOptions() (*server.Options, error) {
	pem, err := os.ReadFile(filepath.Join(m.tls, "ca.crt"))
	if err != nil {
		return nil, err
	}
	trust, err := auth.ParsePool(pem)
	if err != nil {
		return nil, err
	}
	config := auth.ServerTLS(auth.Files(filepath.Join(m.tls, "tls.crt"), filepath.Join(m.tls, "tls.key")), trust)
	config.ClientAuth = tls.RequireAndVerifyClientCert
	clientHost, clientPort, err := parse(m.client)
	peerHost, peerPort, peerErr := parse(m.peer)
	if err := errors.Join(err, peerErr); err != nil {
		return nil, err
	}
	var routes []*url.URL
	for entry := range strings.SplitSeq(m.cluster, ",") {
		_, address, _ := strings.Cut(entry, "=")
		routes = append(routes, &url.URL{Scheme: "nats", Host: address})
	}
	return &server.Options{
		ServerName: m.name, NoSigs: true, Host: clientHost, Port: clientPort, ClientAdvertise: m.advertise,
		TLSConfig: config, TLSVerify: true, TLSTimeout: 5, AuthTimeout: 5, CustomClientAuthentication: gate{},
		JetStream: true, StoreDir: m.dir, JetStreamMaxStore: 256 << 30, JetStreamMaxMemory: 256 << 20,
		Cluster: server.ClusterOpts{Name: "weft", Host: peerHost, Port: peerPort, NoAdvertise: true}, Routes: routes,
	}, nil
}

func parse(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	port, err = strconv.Atoi(text)
	return host, port, err
}
