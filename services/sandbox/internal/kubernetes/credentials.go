package kubernetes

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/weftcloud/weft/services/sandbox/internal/world"
)

// user is who sends a request.
type user struct {
	name   string
	uid    string
	groups []string
}

const (
	groupMasters       = "system:masters"
	groupAuthenticated = "system:authenticated"
	adminName          = "kubernetes-admin"
	certificateLife    = 10 * 365 * 24 * time.Hour
)

// credentials are the certificate authority of the cluster and what it signed. They are made once and kept in the
// journal, so that a kubeconfig stays good over restarts.
type credentials struct {
	ca       *x509.Certificate
	kept     keptCredentials
	serving  tls.Certificate
	accounts map[string]account // by token
	journal  *world.Journal
}

type keptCredentials struct {
	CA, CAKey, Serving, ServingKey, Admin, AdminKey, AdminToken []byte
}

// account is a token that was issued for a service account.
type account struct {
	Namespace, Name, UID string
	Expires              time.Time
}

func loadCredentials(journal *world.Journal, now time.Time) (*credentials, error) {
	c := &credentials{accounts: map[string]account{}, journal: journal}
	found := false
	err := journal.Load(bucketServer, func(id string, value []byte) error {
		if token, ok := strings.CutPrefix(id, "token/"); ok {
			var a account
			if err := json.Unmarshal(value, &a); err != nil {
				return err
			}
			c.accounts[token] = a
		}
		if id != "credentials" {
			return nil
		}
		found = true
		return json.Unmarshal(value, &c.kept)
	})
	if err != nil {
		return nil, fmt.Errorf("load cluster credentials: %w", err)
	}
	if !found {
		if err := c.generate(now); err != nil {
			return nil, fmt.Errorf("make cluster credentials: %w", err)
		}
		raw, err := json.Marshal(c.kept)
		if err != nil {
			return nil, fmt.Errorf("keep cluster credentials: %w", err)
		}
		if err := journal.Put(bucketServer, "credentials", raw); err != nil {
			return nil, fmt.Errorf("keep cluster credentials: %w", err)
		}
	}
	block, _ := pem.Decode(c.kept.CA)
	if block == nil {
		return nil, errors.New("load cluster credentials: the certificate authority is not PEM")
	}
	if c.ca, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, fmt.Errorf("load cluster credentials: %w", err)
	}
	if c.serving, err = tls.X509KeyPair(c.kept.Serving, c.kept.ServingKey); err != nil {
		return nil, fmt.Errorf("load cluster credentials: %w", err)
	}
	return c, nil
}

func (c *credentials) generate(now time.Time) error {
	ca := &x509.Certificate{
		Subject: pkix.Name{CommonName: "kubernetes"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if c.kept.CA, c.kept.CAKey, err = sign(ca, ca, caKey, caKey, now); err != nil {
		return err
	}
	serving := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		DNSNames:    []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback, net.IPv4(10, 96, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if c.kept.Serving, c.kept.ServingKey, err = signNew(serving, ca, caKey, now); err != nil {
		return err
	}
	admin := &x509.Certificate{
		Subject:     pkix.Name{CommonName: adminName, Organization: []string{groupMasters}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if c.kept.Admin, c.kept.AdminKey, err = signNew(admin, ca, caKey, now); err != nil {
		return err
	}
	c.kept.AdminToken = []byte(rand.Text())
	return nil
}

func signNew(cert, parent *x509.Certificate, parentKey *ecdsa.PrivateKey, now time.Time) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	return sign(cert, parent, key, parentKey, now)
}

func sign(cert, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey, now time.Time) (certPEM, keyPEM []byte, err error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	cert.SerialNumber = serial
	cert.NotBefore, cert.NotAfter = now.Add(-time.Hour), now.Add(certificateLife)
	cert.KeyUsage |= x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, &key.PublicKey, parentKey)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return certPEM, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), nil
}

// authenticate finds who sends a request: by client certificate, by the admin's token or by a service account's.
func (c *credentials) authenticate(r *http.Request, now time.Time) (user, error) {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		if who, err := c.fromCertificate(r.TLS.PeerCertificates[0], now); err == nil {
			return who, nil
		}
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		return user{}, errors.New("no credentials")
	}
	if subtle.ConstantTimeCompare([]byte(token), c.kept.AdminToken) == 1 {
		return user{name: adminName, groups: []string{groupMasters, groupAuthenticated}}, nil
	}
	a, ok := c.accounts[token]
	if !ok || now.After(a.Expires) {
		return user{}, errors.New("unknown token")
	}
	return user{
		name: "system:serviceaccount:" + a.Namespace + ":" + a.Name, uid: a.UID,
		groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + a.Namespace, groupAuthenticated},
	}, nil
}

func (c *credentials) fromCertificate(cert *x509.Certificate, now time.Time) (user, error) {
	roots := x509.NewCertPool()
	roots.AddCert(c.ca)
	_, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return user{}, err
	}
	return user{name: cert.Subject.CommonName, groups: append(slices.Clone(cert.Subject.Organization), groupAuthenticated)}, nil
}

// issue makes a token for a service account.
func (c *credentials) issue(a account) (string, error) {
	token := rand.Text() + rand.Text()
	raw, err := json.Marshal(a)
	if err != nil {
		return "", err
	}
	if err := c.journal.Put(bucketServer, "token/"+token, raw); err != nil {
		return "", fmt.Errorf("keep token: %w", err)
	}
	c.accounts[token] = a
	return token, nil
}

// certificateFor signs a client certificate for a user: for tests of what others may do.
func (c *credentials) certificateFor(name string, groups []string, now time.Time) (tls.Certificate, error) {
	caPair, err := tls.X509KeyPair(c.kept.CA, c.kept.CAKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, ok := caPair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return tls.Certificate{}, errors.New("the authority's key is not ECDSA")
	}
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: name, Organization: groups}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	certPEM, keyPEM, err := signNew(cert, c.ca, key, now)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(certPEM, keyPEM)
}

// TLSConfig is how the API is to be served: with the cluster's certificate, asking for a client certificate.
func (s *Server) TLSConfig() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(s.keys.ca)
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{s.keys.serving},
		ClientAuth: tls.RequestClientCert, ClientCAs: pool, NextProtos: []string{"h2", "http/1.1"},
	}
}

// Kubeconfig is the administrator's kubeconfig for the server at serverURL. It is the same after a restart.
func (s *Server) Kubeconfig(serverURL string) []byte {
	config := clientcmdapi.NewConfig()
	config.Clusters["sandbox"] = &clientcmdapi.Cluster{Server: serverURL, CertificateAuthorityData: s.keys.kept.CA}
	config.AuthInfos[adminName] = &clientcmdapi.AuthInfo{ClientCertificateData: s.keys.kept.Admin, ClientKeyData: s.keys.kept.AdminKey}
	config.Contexts["sandbox"] = &clientcmdapi.Context{Cluster: "sandbox", AuthInfo: adminName}
	config.CurrentContext = "sandbox"
	raw, err := clientcmd.Write(*config)
	if err != nil {
		s.logger.Error("write kubeconfig", "error", err) // cannot happen: the types are known to encode
		return nil
	}
	return raw
}
