package embed

import (
	"crypto/x509"

	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/fault"
)

// ByIdentity gives the rights of a client of NATS by the identity that its certificate bears, see auth.NATSPermissions.
// It is what NATSConfig.Authenticate is for in an installation.
func ByIdentity(cert *x509.Certificate) (NATSUser, error) {
	id, err := auth.FromCertificate(cert)
	if err != nil {
		return NATSUser{}, err
	}
	publish, subscribe, ok := auth.NATSPermissions(id)
	if !ok {
		return NATSUser{}, fault.New(fault.Denied, "%s may not use NATS", id)
	}
	return NATSUser{Name: id.String(), Publish: publish, Subscribe: subscribe}, nil
}
