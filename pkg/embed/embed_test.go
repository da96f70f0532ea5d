package embed_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftcloud/weft/pkg/embed"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/testkit"
)

// childVariable makes the test binary run both servers in the directory it names, write, say so, and wait to be killed.
const childVariable = "WEFT_EMBED_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		if err := child(dir); err != nil {
			fmt.Println("child:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func child(dir string) error {
	etcd, err := embed.Etcd(dir+"/state", nil)
	if err != nil {
		return err
	}
	ctx := context.Background()
	if _, err := etcd.Store().Txn(ctx, nil, []store.Op{{Key: "fact", Value: []byte("kept")}}); err != nil {
		return err
	}
	server, err := embed.NATS(embed.NATSConfig{Dir: dir + "/bus"})
	if err != nil {
		return err
	}
	js, err := stream(server)
	if err != nil {
		return err
	}
	if _, err := js.Publish(ctx, "fact.1", []byte("kept")); err != nil {
		return err
	}
	fmt.Println("ready")
	select {}
}

func stream(server *embed.NATSServer) (jetstream.JetStream, error) {
	conn, err := server.Connect()
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, err
	}
	_, err = js.CreateOrUpdateStream(context.Background(), jetstream.StreamConfig{Name: "FACTS", Subjects: []string{"fact.>"}, MaxBytes: 1 << 33})
	return js, err
}

func TestSurvivesKill(t *testing.T) {
	dir := t.TempDir()
	for round := range 2 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childVariable+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if line != "ready\n" {
			t.Fatalf("round %d: the child said %q, error %v", round, line, err)
		}
		if _, err := embed.Etcd(dir+"/state", nil); !fault.Is(err, fault.Precondition) {
			t.Errorf("a second etcd in the same directory: %v, want Precondition", err)
		}
		if _, err := embed.NATS(embed.NATSConfig{Dir: dir + "/bus"}); !fault.Is(err, fault.Precondition) {
			t.Errorf("a second NATS in the same directory: %v, want Precondition", err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Error("the child ended well though it was killed")
		}
	}
	checkKept(t, dir)
}

func checkKept(t *testing.T, dir string) {
	start := time.Now()
	etcd, err := embed.Etcd(dir+"/state", testkit.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	server, err := embed.NATS(embed.NATSConfig{Dir: dir + "/bus", Logger: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("both were up again after %s", time.Since(start))
	got, err := etcd.Store().Get(t.Context(), "fact")
	if err != nil || string(got.Value) != "kept" {
		t.Errorf("Get after the kill = %q, %v", got.Value, err)
	}
	js, err := stream(server)
	if err != nil {
		t.Fatal(err)
	}
	facts, err := js.Stream(t.Context(), "FACTS")
	if err != nil {
		t.Fatal(err)
	}
	if n := facts.CachedInfo().State.Msgs; n != 2 {
		t.Errorf("%d messages after the kills, want 2", n)
	}
	if err := errors.Join(etcd.Close(), server.Close()); err != nil {
		t.Error(err)
	}
}

func TestStartIsQuick(t *testing.T) {
	start := time.Now()
	testkit.Etcd(t)
	etcd := time.Since(start)
	start = time.Now()
	testkit.NATS(t)
	t.Logf("etcd %s, NATS %s", etcd, time.Since(start))
	if etcd > 10*time.Second {
		t.Errorf("etcd took %s", etcd)
	}
}

func TestRefusesToListenInTheClear(t *testing.T) {
	_, serverTLS := newAuthority(t).issue("server")
	tests := map[string]embed.NATSConfig{
		"no TLS, no token":         {Listen: "127.0.0.1:0"},
		"token beyond loopback":    {Listen: "0.0.0.0:0", Token: "t"},
		"token at a name":          {Listen: "example.org:0", Token: "t"},
		"no port":                  {Listen: "127.0.0.1", Token: "t"},
		"bad port":                 {Listen: "127.0.0.1:nats", Token: "t"},
		"TLS without client CAs":   {Listen: "127.0.0.1:0", TLS: &tls.Config{Certificates: serverTLS.Certificates}},
		"TLS without Authenticate": {Listen: "127.0.0.1:0", TLS: serverTLS},
	}
	for name, cfg := range tests {
		cfg.Dir = t.TempDir()
		if server, err := embed.NATS(cfg); !fault.Is(err, fault.Invalid) || fault.Field(err) == "" {
			t.Errorf("%s: server %v, error %v, want Invalid with a field", name, server, err)
		}
	}
}

func TestTokenOverLoopback(t *testing.T) {
	server := start(t, embed.NATSConfig{Listen: "127.0.0.1:0", Token: "secret"})
	url := "nats://" + server.Addr().String()
	if conn, err := nats.Connect(url, nats.Token("wrong")); err == nil {
		conn.Close()
		t.Error("a wrong token was let in")
	}
	if conn, err := nats.Connect(url); err == nil {
		conn.Close()
		t.Error("a client without a token was let in")
	}
	conn, err := nats.Connect(url, nats.Token("secret"))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func start(t *testing.T, cfg embed.NATSConfig) *embed.NATSServer {
	cfg.Dir = t.TempDir()
	server, err := embed.NATS(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

func TestClientsByCertificate(t *testing.T) {
	ca := newAuthority(t)
	_, serverTLS := ca.issue("server")
	server := start(t, embed.NATSConfig{Listen: "127.0.0.1:0", TLS: serverTLS, Authenticate: func(c *x509.Certificate) (embed.NATSUser, error) {
		tenant := c.Subject.CommonName
		if tenant == "banned" {
			return embed.NATSUser{}, errors.New("banned")
		}
		return embed.NATSUser{Name: tenant, Subscribe: []string{"weft.evt." + tenant + ".>"}}, nil
	}})
	url := "tls://" + server.Addr().String()
	inside := testkit.NATSConn(t, server)
	acme, failures := connect(t, url, ca, "acme")
	own := subscribe(t, acme, "weft.evt.acme.>")
	subscribe(t, acme, "weft.evt.other.>")
	wantDenied(t, failures, "weft.evt.other.>")
	if err := acme.Publish("weft.cmd.network.normal.acme.subnets", nil); err != nil {
		t.Fatal(err)
	}
	wantDenied(t, failures, "weft.cmd.network")
	if err := inside.Publish("weft.evt.acme.network.subnets.ready", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if m, err := own.NextMsg(10 * time.Second); err != nil || string(m.Data) != "hello" {
		t.Errorf("own event: %v, %v", m, err)
	}
	for name, opts := range map[string][]nats.Option{
		"turned away":         {nats.Secure(ca.client("banned"))},
		"no certificate":      {nats.Secure(&tls.Config{RootCAs: ca.pool, ServerName: "127.0.0.1"})},
		"foreign certificate": {nats.Secure(ca.trustedBy(newAuthority(t).client("acme")))},
		"name of the inside":  {nats.Secure(ca.client("banned")), nats.UserInfo("weft", "")},
	} {
		if conn, err := nats.Connect(url, opts...); err == nil {
			conn.Close()
			t.Errorf("%s: was let in", name)
		}
	}
}

// connect connects with a certificate; the channel gets what the server refuses later.
func connect(t *testing.T, url string, ca *authority, name string) (*nats.Conn, <-chan error) {
	t.Helper()
	failures := make(chan error, 10)
	conn, err := nats.Connect(url, nats.Secure(ca.client(name)), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		failures <- err
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn, failures
}

func subscribe(t *testing.T, conn *nats.Conn, subject string) *nats.Subscription {
	t.Helper()
	sub, err := conn.SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	return sub
}

func wantDenied(t *testing.T, failures <-chan error, subject string) {
	t.Helper()
	select {
	case err := <-failures:
		if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), subject) {
			t.Errorf("error %v, want a permission violation of %s", err, subject)
		}
	case <-time.After(10 * time.Second):
		t.Errorf("%s was not denied", subject)
	}
}

// authority is a certificate authority of a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{t: t, cert: cert, key: key, pool: pool}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue gives a certificate for name, as a client's configuration and as a server's.
func (a *authority) issue(name string) (client, server *tls.Config) {
	key := newKey(a.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	certificates := []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	return &tls.Config{Certificates: certificates, RootCAs: a.pool, ServerName: "127.0.0.1"}, &tls.Config{Certificates: certificates, ClientCAs: a.pool}
}

func (a *authority) client(name string) *tls.Config {
	client, _ := a.issue(name)
	return client
}

// trustedBy lets a client of another authority trust our server.
func (a *authority) trustedBy(c *tls.Config) *tls.Config {
	c.RootCAs = a.pool
	return c
}
