package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
)

const (
	// keyFile holds the CA's key and certificate, for its owner only.
	keyFile = "ca.pem"
	// certFile holds the certificate alone, for whoever must trust it.
	certFile = "ca.crt"
	// caLifetime is how long the CA itself is valid.
	caLifetime = 10 * 365 * 24 * time.Hour
	// DefaultLifetime is how long an issued certificate is valid when nothing else is asked.
	DefaultLifetime = 24 * time.Hour
	// skew is how far the clocks of two machines may differ.
	skew = 5 * time.Minute
)

// CA issues the certificates of one installation. It is safe for concurrent use.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	now  func() time.Time
}

// OpenCA opens the CA that is kept in a folder. The first call makes it: an ECDSA P-256 key in ca.pem (mode 0600) and
// the certificate once more, for all to read, in ca.crt. Of two first calls at the same time one wins and both get it.
func OpenCA(dir string) (*CA, error) { return openCA(dir, time.Now) }

func openCA(dir string, now func() time.Time) (*CA, error) {
	path := filepath.Join(dir, keyFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeCA(dir, now()); err != nil {
			return nil, fault.Wrap(err, "make the CA in %s", dir)
		}
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fault.Wrap(err, "read the CA in %s", dir)
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, fault.Wrap(err, "read the CA in %s", path)
	}
	key, isECDSA := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !isECDSA || !pair.Leaf.IsCA {
		return nil, fault.New(fault.Invalid, "%s holds no ECDSA CA", path)
	}
	ca := &CA{cert: pair.Leaf, key: key, now: now}
	if err := writeOnce(filepath.Join(dir, certFile), ca.PEM(), 0o644); err != nil {
		return nil, fault.Wrap(err, "write the CA's certificate in %s", dir)
	}
	return ca, nil
}

func makeCA(dir string, now time.Time) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := newSerial()
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "weft CA"},
		NotBefore: now.Add(-skew), NotAfter: now.Add(caLifetime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	data, err := encodePair([][]byte{der}, key)
	if err != nil {
		return err
	}
	return writeOnce(filepath.Join(dir, keyFile), data, 0o600)
}

// writeOnce writes a file whole, unless it exists. The file appears in one step, so that a reader sees all or nothing.
func writeOnce(path string, data []byte, mode os.FileMode) error {
	if _, err := os.Stat(path); err == nil {
		return nil // the common case, without the price of a sync
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, writeErr := tmp.Write(data)
	err = errors.Join(writeErr, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		if linkErr := os.Link(tmp.Name(), path); !errors.Is(linkErr, fs.ErrExist) {
			err = linkErr
		}
	}
	return errors.Join(err, os.Remove(tmp.Name()))
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// PEM gives the CA's certificate.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// Pool gives a pool that trusts this CA alone.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// IssueOptions says more about a certificate. The zero value is good for a client, and for a service on this machine.
type IssueOptions struct {
	// Lifetime is how long it is valid; 0 means DefaultLifetime.
	Lifetime time.Duration
	// Hosts are the names and addresses that a service is reached by, beside localhost, 127.0.0.1, ::1 and NAME.weft.
	// Only services may have any.
	Hosts []string
}

// Issue makes a certificate for an identity, with a new key. A service's is good for servers and clients, any other's
// for clients only, so that no member of a tenant can pose as a service. The error is Invalid for an identity that
// cannot exist.
func (ca *CA) Issue(id Identity, opts IssueOptions) (tls.Certificate, error) {
	if err := id.Validate(); err != nil {
		return tls.Certificate{}, err
	}
	if id.Class != Service && len(opts.Hosts) > 0 {
		return tls.Certificate{}, fault.InField("hosts", "%s: only a service is reached by a host name", id)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fault.Wrap(err, "make a key for %s", id)
	}
	template, err := ca.template(id, opts)
	if err != nil {
		return tls.Certificate{}, fault.Wrap(err, "issue a certificate to %s", id)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		return tls.Certificate{}, fault.Wrap(err, "issue a certificate to %s", id)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fault.Wrap(err, "issue a certificate to %s", id)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

func (ca *CA) template(id Identity, opts IssueOptions) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	lifetime := opts.Lifetime
	if lifetime <= 0 {
		lifetime = DefaultLifetime
	}
	now := ca.now()
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: id.Name}, URIs: nil,
		NotBefore: now.Add(-skew), NotAfter: now.Add(lifetime), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	t.URIs = append(t.URIs, id.uri())
	if t.NotAfter.After(ca.cert.NotAfter) {
		t.NotAfter = ca.cert.NotAfter
	}
	if id.Class != Service {
		return t, nil
	}
	t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	for _, host := range append([]string{"localhost", "127.0.0.1", "::1", ServerName(id.Name)}, opts.Hosts...) {
		if ip := net.ParseIP(host); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
			continue
		}
		if !slices.Contains(t.DNSNames, host) {
			t.DNSNames = append(t.DNSNames, host)
		}
	}
	return t, nil
}

// ServerName is the host name that every certificate of a service bears, for connections that have no address of their
// own, e.g. within one process.
func ServerName(service string) string { return service + ".weft" }

// EncodePEM gives a certificate and its key as PEM.
func EncodePEM(cert tls.Certificate) (certPEM, keyPEM []byte, err error) {
	key, isECDSA := cert.PrivateKey.(*ecdsa.PrivateKey)
	if !isECDSA {
		return nil, nil, fault.New(fault.Invalid, "the key is not ECDSA")
	}
	for _, der := range cert.Certificate {
		certPEM = append(certPEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fault.Wrap(err, "encode a key")
	}
	return certPEM, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func encodePair(ders [][]byte, key *ecdsa.PrivateKey) ([]byte, error) {
	certPEM, keyPEM, err := EncodePEM(tls.Certificate{Certificate: ders, PrivateKey: key})
	return append(certPEM, keyPEM...), err
}
