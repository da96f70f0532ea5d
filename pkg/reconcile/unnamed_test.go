package reconcile

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// TestOthersStayUnnamed: a tenant reads the names of its own resources, and none of another's.
func TestOthersStayUnnamed(t *testing.T) {
	got := unnamed("acme", []*kindv1.Blocker{
		{Kind: "server", Id: "1", Owner: "the Weft resource tenants/acme/servers/shop.db, port p", Action: "delete the server"},
		{Kind: "server", Id: "2", Owner: "the Weft resource tenants/umbrella/servers/shop.db, port p", Action: "have the server tenants/umbrella/servers/shop.db detached"},
		{Kind: "port", Id: "3", Owner: "by-hand, in project x", Action: "delete it"},
	})
	want := []*kindv1.Blocker{
		{Kind: "server", Id: "1", Owner: "the Weft resource tenants/acme/servers/shop.db, port p", Action: "delete the server"},
		{Kind: "server", Id: "2", Owner: "the Weft resource of another tenant, port p", Action: "have the server of another tenant detached"},
		{Kind: "port", Id: "3", Owner: "by-hand, in project x", Action: "delete it"},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}
