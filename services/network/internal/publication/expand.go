// Package publication makes a Publication out of the kinds that open a way in from outside.
package publication

import (
	"strconv"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/fault"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// addressChild is the name of the child that bears the public address.
const addressChild = "address"

// Expand gives the child of a Publication: for FLOATING_IP an address of its own, on which every port of the target can be
// reached, so that the public port is the target's. The errors are Invalid and name the field.
func Expand(item *participantv1.Item) (*participantv1.ExpandResponse, error) {
	spec := item.GetSpec().GetFields()
	switch via := spec["via"].GetStringValue(); via {
	case networkv1.Via_VIA_FLOATING_IP.String():
	case networkv1.Via_VIA_LOAD_BALANCER.String():
		return balanced(spec)
	default:
		return nil, fault.InField("spec.via", "via is %q; the ways in are FLOATING_IP and LOAD_BALANCER", via)
	}
	port, ok := spec["port"].GetKind().(*structpb.Value_NumberValue)
	if !ok {
		return nil, fault.InField("spec.port", "the port must be known before anything is made: write a number or a parameter, no expression over outputs")
	}
	child := &participantv1.Child{
		Name: addressChild, Type: "network.weft.cloud/FloatingIP",
		Spec:    &structpb.Struct{Fields: map[string]*structpb.Value{"server": spec["target"]}},
		Sources: map[string]string{"server": "target", "externalNetwork": "externalNetwork"},
	}
	if v, ok := spec["externalNetwork"]; ok {
		child.Spec.Fields["externalNetwork"] = v
	}
	return &participantv1.ExpandResponse{
		Children: []*participantv1.Child{child},
		Outputs:  map[string]string{"address": addressChild + ".address", "port": strconv.Itoa(int(port.NumberValue))},
	}, nil
}
