package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
)

// TestSpecInWords reads specs in which enums stand as in documents, at any depth, beside those with full names.
func TestSpecInWords(t *testing.T) {
	volume := &storagev1.VolumeSpec{}
	if err := decodeSpec(volume, []byte("{size: 1Gi, reclaim: destroy}")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&storagev1.VolumeSpec{Size: "1Gi", Reclaim: kindv1.Reclaim_RECLAIM_DESTROY}, volume, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	group := &networkv1.SecurityGroupSpec{}
	if err := decodeSpec(group, []byte(`{rules: [{protocol: TCP, ports: "80"}, {protocol: PROTOCOL_UDP, ports: "53"}]}`)); err != nil {
		t.Fatal(err)
	}
	rules := []*networkv1.SecurityGroupRule{{Protocol: networkv1.Protocol_PROTOCOL_TCP, Ports: "80"}, {Protocol: networkv1.Protocol_PROTOCOL_UDP, Ports: "53"}}
	if diff := cmp.Diff(rules, group.GetRules(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if err := decodeSpec(&storagev1.VolumeSpec{}, []byte("{reclaim: maybe}")); err == nil || !strings.Contains(err.Error(), "maybe") {
		t.Errorf("a word that is none: %v", err)
	}
}
