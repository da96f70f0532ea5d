package auth

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"sync"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
)

// Source gives the certificate to show now. It is asked at every handshake and MUST be safe for concurrent use.
type Source func() (*tls.Certificate, error)

// Static is a source that always gives the same certificate.
func Static(cert tls.Certificate) Source {
	return func() (*tls.Certificate, error) { return &cert, nil }
}

// Files is a source that reads a certificate and its key from files, and again when the certificate's file changes.
func Files(certPath, keyPath string) Source {
	var mu sync.Mutex
	var held tls.Certificate
	var read time.Time
	return func() (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		info, err := os.Stat(certPath)
		if err != nil {
			return nil, fault.Wrap(err, "read certificate %s", certPath)
		}
		if held.Leaf == nil || !info.ModTime().Equal(read) {
			cert, err := tls.LoadX509KeyPair(certPath, keyPath)
			if err != nil {
				return nil, fault.Wrap(err, "read certificate %s and key %s", certPath, keyPath)
			}
			held, read = cert, info.ModTime()
		}
		cert := held
		return &cert, nil
	}
}

// Source gives an identity's certificate and issues a new one when a third of its life or less is left.
func (ca *CA) Source(id Identity, opts IssueOptions) Source {
	var mu sync.Mutex
	var held tls.Certificate
	return func() (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		if held.Leaf != nil {
			life := held.Leaf.NotAfter.Sub(held.Leaf.NotBefore)
			if ca.now().Add(life / 3).Before(held.Leaf.NotAfter) {
				cert := held
				return &cert, nil
			}
		}
		cert, err := ca.Issue(id, opts)
		if err != nil {
			return nil, err
		}
		held = cert
		return &cert, nil
	}
}

// ServerTLS is the configuration of every listener: TLS 1.3, and a client certificate of the same CA.
func ServerTLS(source Source, trust *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: trust,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return source() },
	}
}

// ClientTLS is the configuration of every connection to a service: TLS 1.3, our certificate, and a server that the same
// CA says is a service. serverName is the name that the server's certificate must bear; empty means the host dialled.
func ClientTLS(source Source, trust *x509.CertPool, serverName string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: trust, ServerName: serverName,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return source() },
		VerifyConnection: func(state tls.ConnectionState) error {
			id, err := FromConnection(state)
			if err != nil {
				return err
			}
			if id.Class != Service {
				return fault.New(fault.Denied, "the server is %s, not a service", id)
			}
			return nil
		},
	}
}

// ParsePool reads the certificates that are to be trusted from PEM. The error is Invalid when there is none.
func ParsePool(pem []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fault.New(fault.Invalid, "there is no certificate in the CA's PEM")
	}
	return pool, nil
}
