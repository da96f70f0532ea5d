package privatenetwork_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"

	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	"github.com/weftcloud/weft/services/network/internal/privatenetwork"
)

func TestExpand(t *testing.T) {
	cases := map[string]struct {
		spec     map[string]any
		children map[string]any
		outputs  map[string]string
	}{
		"without a way out": {
			map[string]any{"cidr": "10.0.0.0/24", "dnsServers": []any{"9.9.9.9"}, "mtu": 1400},
			map[string]any{
				"network": map[string]any{"mtu": 1400.0},
				"subnet":  map[string]any{"network": ".network", "cidr": "10.0.0.0/24", "dnsServers": []any{"9.9.9.9"}},
			},
			map[string]string{"network_id": "network.network_id", "cidr": "subnet.cidr", "gateway_ip": "subnet.gateway_ip"},
		},
		"with a way out": {
			map[string]any{"cidr": "${db.range}", "external": "public"},
			map[string]any{
				"network": map[string]any{},
				"subnet":  map[string]any{"network": ".network", "cidr": "${db.range}"},
				"router":  map[string]any{"subnets": []any{".subnet"}, "externalNetwork": "public"},
			},
			map[string]string{"network_id": "network.network_id", "cidr": "subnet.cidr", "gateway_ip": "subnet.gateway_ip", "external_address": "router.external_address"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			spec, err := structpb.NewStruct(c.spec)
			if err != nil {
				t.Fatal(err)
			}
			got, err := privatenetwork.Expand(&participantv1.Item{Spec: spec})
			if err != nil {
				t.Fatal(err)
			}
			children := map[string]any{}
			for _, child := range got.GetChildren() {
				children[child.GetName()] = child.GetSpec().AsMap()
				for path := range child.GetSpec().GetFields() {
					if child.GetSources()[path] == "" && path != "network" && path != "subnets" {
						t.Errorf("%s of %s has no source", path, child.GetName())
					}
				}
			}
			if d := cmp.Diff(c.children, children); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(c.outputs, got.GetOutputs()); d != "" {
				t.Error(d)
			}
		})
	}
}
