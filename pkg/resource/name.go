package resource

import (
	"regexp"
	"strings"

	"github.com/weftcloud/weft/pkg/fault"
)

// Name is a parsed resource name: tenants/{tenant}/{collection}/{id}, or {collection}/{id} for what is no tenant's.
type Name struct {
	// Tenant is the tenant's id; empty for clouds and tenants.
	Tenant string
	// Collection is the kind's plural, e.g. subnets.
	Collection string
	// ID is the last part.
	ID string
}

var (
	tenantPattern = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
	idPattern     = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._~-]{0,126}[a-zA-Z0-9])?$`)
)

// ParseName parses a full resource name. The error is Invalid.
func ParseName(s string) (Name, error) {
	parts := strings.Split(s, "/")
	n := Name{}
	switch {
	case len(parts) == 4 && parts[0] == "tenants":
		n = Name{Tenant: parts[1], Collection: parts[2], ID: parts[3]}
		if !tenantPattern.MatchString(n.Tenant) {
			return Name{}, fault.InField("name", "%q: the tenant must be lower-case letters, digits and hyphens", s)
		}
	case len(parts) == 2:
		n = Name{Collection: parts[0], ID: parts[1]}
	default:
		return Name{}, fault.InField("name", "%q is no resource name; it should look like tenants/acme/servers/db", s)
	}
	if n.Collection == "" || !idPattern.MatchString(n.ID) {
		return Name{}, fault.InField("name", "%q: the last part must be letters, digits, dots and hyphens", s)
	}
	return n, nil
}

// String gives the full name.
func (n Name) String() string {
	if n.Tenant == "" {
		return n.Collection + "/" + n.ID
	}
	return "tenants/" + n.Tenant + "/" + n.Collection + "/" + n.ID
}

// TenantOf gives the tenant's id in a full name that is or begins with tenants/{tenant}; empty if it has none.
func TenantOf(name string) string {
	rest, ok := strings.CutPrefix(name, "tenants/")
	if !ok {
		return ""
	}
	tenant, _, _ := strings.Cut(rest, "/")
	return tenant
}

// ParseParent gives the tenant's id of a parent tenants/{tenant}. The error is Invalid.
func ParseParent(s string) (string, error) {
	tenant, ok := strings.CutPrefix(s, "tenants/")
	if !ok || !tenantPattern.MatchString(tenant) {
		return "", fault.InField("parent", "%q is no tenant; it should look like tenants/acme", s)
	}
	return tenant, nil
}
