package reconcile

import (
	"regexp"

	"google.golang.org/protobuf/proto"

	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// resourceName finds the names of tenants' resources in a text.
var resourceName = regexp.MustCompile(`tenants/([a-z0-9-]+)/[A-Za-z]+/[a-z0-9.-]+`)

// unnamed gives blockers as a tenant may see them: what is another tenant's is told without its name. Tenants that share a
// project can be in each other's way; who it is, an operator sees at the cloud by the id.
func unnamed(tenant string, blockers []*kindv1.Blocker) []*kindv1.Blocker {
	hide := func(text string) string {
		return resourceName.ReplaceAllStringFunc(text, func(name string) string {
			if resourceName.FindStringSubmatch(name)[1] == tenant {
				return name
			}
			return "of another tenant"
		})
	}
	out := make([]*kindv1.Blocker, 0, len(blockers))
	for _, b := range blockers {
		next := proto.CloneOf(b)
		next.Owner, next.Action = hide(b.GetOwner()), hide(b.GetAction())
		out = append(out, next)
	}
	return out
}
