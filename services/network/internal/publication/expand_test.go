package publication_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/fault"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	"github.com/weftcloud/weft/services/network/internal/publication"
)

func TestExpand(t *testing.T) {
	spec, err := structpb.NewStruct(map[string]any{"target": "db", "port": 80, "via": "VIA_FLOATING_IP", "externalNetwork": "public"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := publication.Expand(&participantv1.Item{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.GetChildren()) != 1 || got.GetChildren()[0].GetName() != "address" || got.GetChildren()[0].GetType() != "network.weft.cloud/FloatingIP" {
		t.Errorf("got %v", got.GetChildren())
	}
	if d := cmp.Diff(map[string]any{"server": "db", "externalNetwork": "public"}, got.GetChildren()[0].GetSpec().AsMap()); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]string{"address": "address.address", "port": "80", "url": `"http://" + address.address + ":" + "80"`}, got.GetOutputs()); d != "" {
		t.Error(d)
	}
}

func TestExpandMapping(t *testing.T) {
	outputs := map[string]string{"address": "mapping.address", "port": "mapping.port", "url": `"https://" + mapping.address + ":" + string(mapping.port)`}
	for name, c := range map[string]struct {
		spec map[string]any
		want map[string]map[string]any
	}{
		"a shared address": {
			map[string]any{"target": "web", "port": 8080, "via": "VIA_PORT_MAPPING", "address": "floatingIps/door.ip", "publicPort": 80, "scheme": "https"},
			map[string]map[string]any{"mapping": {"target": "web", "port": 8080.0, "floatingIp": "floatingIps/door.ip", "externalPort": 80.0}},
		},
		"one of its own": {
			map[string]any{
				"target": "web", "port": "${x.port}", "via": "VIA_PORT_MAPPING", "externalNetwork": "public", "publicPorts": "30000-30009",
				"protocol": "PROTOCOL_UDP", "network": "lan", "scheme": "https",
			},
			map[string]map[string]any{
				"address": {"externalNetwork": "public"},
				"mapping": {"target": "web", "port": "${x.port}", "floatingIp": ".address", "externalPorts": "30000-30009", "protocol": "PROTOCOL_UDP", "network": "lan"},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			spec, err := structpb.NewStruct(c.spec)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := publication.Expand(&participantv1.Item{Spec: spec})
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]map[string]any{}
			for _, child := range answer.GetChildren() {
				got[child.GetName()] = child.GetSpec().AsMap()
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(outputs, answer.GetOutputs()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestExpandRefuses(t *testing.T) {
	cases := map[string]struct {
		spec  map[string]any
		field string
	}{
		"no way in":                          {map[string]any{"target": "db", "port": 80}, "spec.via"},
		"a shared address that is one's own": {map[string]any{"target": "db", "port": 80, "via": "VIA_FLOATING_IP", "address": "ip"}, "spec.address"},
		"two external networks":              {map[string]any{"target": "db", "port": 80, "via": "VIA_PORT_MAPPING", "address": "ip", "externalNetwork": "x"}, "spec.externalNetwork"},
		"expression port":                    {map[string]any{"target": "db", "port": "${web.port}", "via": "VIA_FLOATING_IP"}, "spec.port"},
	}
	for name, c := range cases {
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
