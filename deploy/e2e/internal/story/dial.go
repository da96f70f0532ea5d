package story

import (
	"crypto/tls"
	"testing"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"

	"github.com/weftcloud/weft/pkg/app"
	"github.com/weftcloud/weft/pkg/auth"
)

// Dial connects to the front door with a context file.
func (i *Installation) Dial(t testing.TB, contextPath string) *grpc.ClientConn {
	t.Helper()
	config, _ := i.File(t, contextPath).tls(t)
	return i.DialAs(t, config)
}

// DialAs connects to the front door with a TLS configuration.
func (i *Installation) DialAs(t testing.TB, config *tls.Config) *grpc.ClientConn {
	t.Helper()
	return i.DialAt(t, i.File(t, i.Context()).Endpoint, config)
}

// DialAt connects to a server of the installation, e.g. to one of several replicas.
func (i *Installation) DialAt(t testing.TB, address string, config *tls.Config) *grpc.ClientConn {
	t.Helper()
	conn, err := app.Dial(address, app.DialConfig{TLS: config, UserAgent: "weft-e2e"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// TLS is the configuration of the operator's connections.
func (i *Installation) TLS(t testing.TB) *tls.Config {
	t.Helper()
	config, _ := i.File(t, i.Context()).tls(t)
	return config
}

// NATS connects to the events with a context file, and gives the identity in it.
func (i *Installation) NATS(t testing.TB, contextPath string) (*nats.Conn, auth.Identity) {
	t.Helper()
	file := i.File(t, contextPath)
	config, id := file.tls(t)
	conn, err := nats.Connect(file.NATS, nats.Secure(config), nats.CustomInboxPrefix(auth.NATSInbox(id)))
	if err != nil {
		t.Fatalf("connect to NATS as %s: %s", id, err)
	}
	t.Cleanup(conn.Close)
	return conn, id
}

// tls gives the configuration of a connection, and the identity that it bears.
func (f *File) tls(t testing.TB) (*tls.Config, auth.Identity) {
	t.Helper()
	cert, err := tls.X509KeyPair([]byte(f.Cert), []byte(f.Key))
	if err != nil {
		t.Fatal(err)
	}
	trust, err := auth.ParsePool([]byte(f.CA))
	if err != nil {
		t.Fatal(err)
	}
	id, err := auth.FromCertificate(cert.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	return auth.ClientTLS(auth.Static(cert), trust, ""), id
}
