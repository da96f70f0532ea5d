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
	if d := cmp.Diff(map[string]string{"address": "address.address", "port": "80"}, got.GetOutputs()); d != "" {
		t.Error(d)
	}
}

func TestExpandRefuses(t *testing.T) {
	cases := map[string]struct {
		spec  map[string]any
		field string
	}{
		"no way in":       {map[string]any{"target": "db", "port": 80}, "spec.via"},
		"expression port": {map[string]any{"target": "db", "port": "${web.port}", "via": "VIA_FLOATING_IP"}, "spec.port"},
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
