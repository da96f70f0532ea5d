package publication

import (
	"strconv"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/fault"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// balancerChild is the name of the child that spreads what comes over the target.
const balancerChild = "balancer"

// expandBalanced gives the children of a Publication by LOAD_BALANCER: a load balancer with one listener and one pool, whose
// member is the target, and a public address that leads to it. The public port is public_port, or else the target's.
// Requests are told from each other, so that each goes to the next server, where the scheme says that they are HTTP.
func expandBalanced(item *participantv1.Item) (*participantv1.ExpandResponse, error) {
	spec := item.GetSpec().GetFields()
	port, err := known(spec, "port")
	if err != nil {
		return nil, err
	}
	public, err := known(spec, "publicPort")
	if err != nil {
		return nil, err
	}
	if public == 0 {
		public = port
	}
	if spec["network"] == nil {
		return nil, fault.InField("spec.network", "say on which network the load balancer takes its address and reaches the target")
	}
	if spec["address"] != nil {
		return nil, fault.InField("spec.address", "a load balancer has a public address of its own; leave address out, or publish via PORT_MAPPING")
	}
	protocol := networkv1.ListenerProtocol_LISTENER_PROTOCOL_TCP
	switch {
	case spec["protocol"].GetStringValue() == networkv1.Protocol_PROTOCOL_UDP.String():
		protocol = networkv1.ListenerProtocol_LISTENER_PROTOCOL_UDP
	case spec["scheme"].GetStringValue() == "http":
		protocol = networkv1.ListenerProtocol_LISTENER_PROTOCOL_HTTP
	}
	text, number := structpb.NewStringValue, func(n int) *structpb.Value { return structpb.NewNumberValue(float64(n)) }
	object := func(fields map[string]*structpb.Value) *structpb.Value {
		return structpb.NewStructValue(&structpb.Struct{Fields: fields})
	}
	list := func(v *structpb.Value) *structpb.Value {
		return structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{v}})
	}
	balancer := &participantv1.Child{
		Name: balancerChild, Type: "network.weft.cloud/LoadBalancer",
		Spec: &structpb.Struct{Fields: map[string]*structpb.Value{
			"network":   spec["network"],
			"listeners": list(object(map[string]*structpb.Value{"name": text("in"), "protocol": text(protocol.String()), "port": number(public)})),
			"pools": list(object(map[string]*structpb.Value{
				"name": text("in"), "members": list(object(map[string]*structpb.Value{"target": spec["target"], "port": number(port)})),
			})),
		}},
		Sources: map[string]string{
			"network": "network", "listeners[0].port": "publicPort", "listeners[0].protocol": "protocol",
			"pools[0].members[0].target": "target", "pools[0].members[0].port": "port",
		},
	}
	address := child(addressChild, "FloatingIP", spec, map[string]string{"externalNetwork": "externalNetwork"})
	address.Spec.Fields["target"] = structpb.NewStringValue("." + balancerChild)
	return &participantv1.ExpandResponse{
		Children: []*participantv1.Child{balancer, address},
		Outputs: map[string]string{
			"address": addressChild + ".address", "port": strconv.Itoa(public), "url": url(spec, addressChild+".address", strconv.Itoa(public)),
		},
	}, nil
}

// known gives a number that must be known before anything is made; 0 if it is not given.
func known(spec map[string]*structpb.Value, field string) (int, error) {
	v, given := spec[field]
	if !given {
		return 0, nil
	}
	n, ok := v.GetKind().(*structpb.Value_NumberValue)
	if !ok {
		return 0, fault.InField("spec."+field, "%s must be known before anything is made: write a number or a parameter, no expression over outputs", field)
	}
	return int(n.NumberValue), nil
}
