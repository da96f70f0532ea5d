// Package auth says who calls, and what they may do.
//
// Every connection is TLS with certificates on both sides. A certificate carries one identity as a URI SAN in the form
// of a SPIFFE ID (SPIFFE-ID standard, section 2) of the trust domain "weft":
//
//	spiffe://weft/service/NAME                      one of the platform's own services
//	spiffe://weft/operator/NAME                     a person or program that runs the platform
//	spiffe://weft/tenant/TENANT/role/editor/NAME    a member of a tenant who may change things
//	spiffe://weft/tenant/TENANT/role/viewer/NAME    a member of a tenant who may look
//
// The interceptors of this package are the one place where a call is let in or refused. What a method asks of its
// caller stands in its contract (weft.kind.v1.access); without it, the tenant that the request names must be the
// caller's. A request that names none is refused.
package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"regexp"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/weftcloud/weft/pkg/fault"
)

// trustDomain is the authority of every identity's URI.
const trustDomain = "weft"

// Class is what an identity is, and with it what it may do.
type Class string

// The classes.
const (
	// Service is one of the platform's own services.
	Service Class = "service"
	// Operator runs the platform and sees all tenants.
	Operator Class = "operator"
	// Editor is a member of one tenant who may change what is the tenant's.
	Editor Class = "editor"
	// Viewer is a member of one tenant who may only look.
	Viewer Class = "viewer"
)

// Identity is who calls.
type Identity struct {
	// Class is what it is.
	Class Class
	// Tenant is the tenant's id; empty for services and operators.
	Tenant string
	// Name tells it from others of its class.
	Name string
}

// namePattern allows what is safe in a URI path, a file name and a NATS subject token alike.
var (
	namePattern   = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$`)
	tenantPattern = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// String gives the identity's URI.
func (id Identity) String() string {
	if id.Tenant != "" {
		return "spiffe://" + trustDomain + "/tenant/" + id.Tenant + "/role/" + string(id.Class) + "/" + id.Name
	}
	return "spiffe://" + trustDomain + "/" + string(id.Class) + "/" + id.Name
}

// Platform tells whether the identity is the platform's own (a service or an operator) and so bound to no tenant.
func (id Identity) Platform() bool { return id.Class == Service || id.Class == Operator }

// Validate tells whether the identity is one that can exist. The error is Invalid.
func (id Identity) Validate() error {
	if !namePattern.MatchString(id.Name) {
		return fault.InField("name", "identity %q: the name must be lower-case letters, digits, hyphens and underscores, at most 63", id.Name)
	}
	switch id.Class {
	case Service, Operator:
		if id.Tenant != "" {
			return fault.InField("tenant", "identity %q: a %s belongs to no tenant", id.Name, id.Class)
		}
	case Editor, Viewer:
		if !tenantPattern.MatchString(id.Tenant) {
			return fault.InField("tenant", "identity %q: %q is no tenant; use lower-case letters, digits and hyphens", id.Name, id.Tenant)
		}
	default:
		return fault.InField("class", "identity %q: %q is none of service, operator, editor, viewer", id.Name, id.Class)
	}
	return nil
}

// ParseIdentity reads an identity's URI. The error is Invalid.
func ParseIdentity(uri string) (Identity, error) {
	rest, ours := strings.CutPrefix(uri, "spiffe://"+trustDomain+"/")
	if !ours {
		return Identity{}, fault.New(fault.Invalid, "%q is no identity; it should look like spiffe://%s/operator/anna", uri, trustDomain)
	}
	parts := strings.Split(rest, "/")
	id := Identity{}
	switch {
	case len(parts) == 2:
		id = Identity{Class: Class(parts[0]), Name: parts[1]}
	case len(parts) == 5 && parts[0] == "tenant" && parts[2] == "role":
		id = Identity{Class: Class(parts[3]), Tenant: parts[1], Name: parts[4]}
	default:
		return Identity{}, fault.New(fault.Invalid, "%q is no identity; it should look like spiffe://%s/tenant/acme/role/editor/anna", uri, trustDomain)
	}
	if err := id.Validate(); err != nil {
		return Identity{}, err
	}
	return id, nil
}

// FromCertificate reads the identity of a certificate. It does not verify the certificate. A certificate that bears no
// identity, or more than one URI, is Denied.
func FromCertificate(cert *x509.Certificate) (Identity, error) {
	if len(cert.URIs) != 1 {
		return Identity{}, fault.New(fault.Denied, "the certificate bears %d URIs; an identity has exactly one", len(cert.URIs))
	}
	id, err := ParseIdentity(cert.URIs[0].String())
	if err != nil {
		return Identity{}, fault.New(fault.Denied, "the certificate bears no identity: %s", err)
	}
	return id, nil
}

// FromConnection reads the identity of the other side of a TLS connection whose certificate was verified; Denied
// without one.
func FromConnection(state tls.ConnectionState) (Identity, error) {
	if len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return Identity{}, fault.New(fault.Denied, "the other side showed no certificate that we trust")
	}
	return FromCertificate(state.VerifiedChains[0][0])
}

// FromPeer reads the identity of the caller of a gRPC method from its verified certificate; Denied without one.
func FromPeer(ctx context.Context) (Identity, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Identity{}, fault.New(fault.Denied, "the call has no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return Identity{}, fault.New(fault.Denied, "the connection is not TLS")
	}
	return FromConnection(info.State)
}

type contextKey struct{}

// NewContext gives a context that carries the identity on whose rights a call runs.
func NewContext(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, contextKey{}, id)
}

// FromContext gives the identity on whose rights a call runs, as the interceptors found it.
func FromContext(ctx context.Context) (Identity, bool) {
	id, ok := ctx.Value(contextKey{}).(Identity)
	return id, ok
}

// uri gives the identity as a URL for a certificate.
func (id Identity) uri() *url.URL {
	rest := strings.TrimPrefix(id.String(), "spiffe://"+trustDomain)
	return &url.URL{Scheme: "spiffe", Host: trustDomain, Path: rest}
}
