package resource_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

// several is a reference that may lead to one of three kinds, of which no contract describes the last.
func several(value string) resource.Reference {
	return resource.Reference{Path: "target", Type: resource.AnyOf, Value: value, Types: []string{
		"compute.weft.cloud/Server", "container.weft.cloud/Workload", "nothing.weft.cloud/Nothing",
	}}
}

func TestReferenceToOneOfSeveralKinds(t *testing.T) {
	kinds, err := resource.Linked()
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{
		"servers/db":                      "compute.weft.cloud/Server tenants/acme/servers/db",
		"tenants/acme/workloads/shop.web": "container.weft.cloud/Workload tenants/acme/workloads/shop.web",
		"db":                              `"db" may lead to one of several kinds: write it as servers/NAME or workloads/NAME`,
		"networks/lan":                    `"networks/lan" may lead to one of several kinds: write it as servers/NAME or workloads/NAME`,
		"nothings/db":                     `"nothings/db" may lead to one of several kinds: write it as servers/NAME or workloads/NAME`,
		"tenants/other/servers/db":        "tenants/other/servers/db belongs to another tenant",
	} {
		k, full, err := kinds.Qualify("acme", several(value))
		got := ""
		if err != nil {
			got = err.Error()
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("%s: the error is %v, want Invalid", value, err)
			}
		} else {
			got = k.Type + " " + full
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", value, got, want)
		}
	}
	none := resource.Reference{Path: "target", Type: resource.AnyOf, Value: "a/b", Types: []string{"nothing.weft.cloud/Nothing"}}
	if _, _, err := kinds.Qualify("acme", none); !fault.Is(err, fault.Internal) {
		t.Errorf("a reference to kinds that no contract describes: got %v, want Internal", err)
	}
}

func TestReferencesTellTheirKinds(t *testing.T) {
	got := resource.References(&networkv1.FloatingIPSpec{Server: "tenants/acme/servers/a", Target: "tenants/acme/servers/b"})
	var types [][]string
	for _, r := range got {
		types = append(types, append([]string{r.Path, r.Type}, r.Types...))
	}
	want := [][]string{
		{"server", "compute.weft.cloud/Server", "compute.weft.cloud/Server"},
		{"target", "*", "compute.weft.cloud/Server", "network.weft.cloud/LoadBalancer"},
	}
	if d := cmp.Diff(want, types); d != "" {
		t.Error(d)
	}
}

// TestKindsOfSeveralAreOfTenants holds what the planner relies on for references that may lead to one of several kinds.
func TestKindsOfSeveralAreOfTenants(t *testing.T) {
	kinds, err := resource.Linked()
	if err != nil {
		t.Fatal(err)
	}
	looked := 0
	for _, m := range messages() {
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			if (resource.ReferenceTypeOf(f) == resource.AnyOf) != (len(resource.FieldOptionsOf(f).GetTypes()) > 0) {
				t.Errorf("%s must both refer to \"*\" and list its types, or neither", f.FullName())
			}
			for _, k := range kinds.Targets(resource.FieldOptionsOf(f).GetTypes()) {
				looked++
				if !k.Tenanted || !k.Options.GetStackable() {
					t.Errorf("%s may lead to a %s, which is no tenant's resource of a stack", f.FullName(), k.Name)
				}
			}
		}
	}
	if looked == 0 {
		t.Error("no field may lead to one of several kinds")
	}
}
