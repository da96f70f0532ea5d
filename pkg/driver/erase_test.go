package driver

import (
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"

	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

// TestTypedKeepsAll gives a request its type: every field of it reaches the driver.
func TestTypedKeepsAll(t *testing.T) {
	spec := &networkv1.NetworkSpec{Mtu: 1400}
	r := Request[proto.Message]{
		Key: "k", Name: "tenants/acme/networks/n", Generation: 2, Labels: map[string]string{"a": "b"}, Spec: spec,
		Refs: Refs{"x": spec}, Claimed: map[string]int32{"port": 1}, Undo: true,
	}
	from, to := reflect.ValueOf(r), reflect.ValueOf(typed[*networkv1.NetworkSpec](r))
	for i := range from.NumField() {
		name := from.Type().Field(i).Name
		if from.Field(i).IsZero() {
			t.Errorf("this test says nothing of %s", name)
		}
		if got := to.FieldByName(name); !reflect.DeepEqual(got.Interface(), from.Field(i).Interface()) {
			t.Errorf("%s arrives as %v, want %v", name, got, from.Field(i))
		}
	}
}
