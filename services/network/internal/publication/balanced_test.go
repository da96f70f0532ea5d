package publication_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/fault"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	"github.com/weftcloud/weft/services/network/internal/publication"
)

func TestExpandBalanced(t *testing.T) {
	spec, err := structpb.NewStruct(map[string]any{"target": "web", "port": 8080, "publicPort": 80, "via": "VIA_LOAD_BALANCER", "network": "net", "scheme": "http", "externalNetwork": "public"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := publication.Expand(&participantv1.Item{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	children := map[string]any{}
	for _, c := range got.GetChildren() {
		children[c.GetName()+" "+c.GetType()] = c.GetSpec().AsMap()
	}
	want := map[string]any{
		"balancer network.weft.cloud/LoadBalancer": map[string]any{
			"network":   "net",
			"listeners": []any{map[string]any{"name": "in", "protocol": "LISTENER_PROTOCOL_HTTP", "port": 80.0}},
			"pools":     []any{map[string]any{"name": "in", "members": []any{map[string]any{"target": "web", "port": 8080.0}}}},
		},
		"address network.weft.cloud/FloatingIP": map[string]any{"target": ".balancer", "externalNetwork": "public"},
	}
	if d := cmp.Diff(want, children); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]string{"address": "address.address", "port": "80", "url": `"http://" + address.address + ":" + "80"`}, got.GetOutputs()); d != "" {
		t.Error(d)
	}
}

func TestExpandBalancedRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spec  map[string]any
		field string
	}{
		"no network":      {map[string]any{"target": "web", "port": 80, "via": "VIA_LOAD_BALANCER"}, "spec.network"},
		"shared address":  {map[string]any{"target": "web", "port": 80, "via": "VIA_LOAD_BALANCER", "network": "net", "address": "ours"}, "spec.address"},
		"expression port": {map[string]any{"target": "web", "port": "${x.port}", "via": "VIA_LOAD_BALANCER", "network": "net"}, "spec.port"},
	} {
		t.Run(name, func(t *testing.T) {
			spec, err := structpb.NewStruct(c.spec)
			if err != nil {
				t.Fatal(err)
			}
			_, err = publication.Expand(&participantv1.Item{Spec: spec})
			if !fault.Is(err, fault.Invalid) || fault.Field(err) != c.field {
				t.Errorf("got %v in %q", err, fault.Field(err))
			}
		})
	}
}
