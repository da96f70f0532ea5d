// Package privatenetwork makes a PrivateNetwork out of a Network, a Subnet and a Router.
package privatenetwork

import (
	"google.golang.org/protobuf/types/known/structpb"

	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// The names of the children, which the contract's provides options name too.
const (
	networkChild = "network"
	subnetChild  = "subnet"
	routerChild  = "router"
)

// Expand gives the children of a PrivateNetwork. The router joins the network to the outside, so there is one only if the
// spec names an external network. Values are passed on as they stand, so that expressions in them stay expressions.
func Expand(item *participantv1.Item) (*participantv1.ExpandResponse, error) {
	spec := item.GetSpec().GetFields()
	out := &participantv1.ExpandResponse{
		Children: []*participantv1.Child{
			child(networkChild, "network.weft.cloud/Network", spec, nil, map[string]string{"mtu": "mtu"}),
			child(subnetChild, "network.weft.cloud/Subnet", spec,
				map[string]*structpb.Value{"network": structpb.NewStringValue("." + networkChild)},
				map[string]string{"cidr": "cidr", "dnsServers": "dnsServers"}),
		},
		Outputs: map[string]string{
			"network_id": networkChild + ".network_id",
			"cidr":       subnetChild + ".cidr",
			"gateway_ip": subnetChild + ".gateway_ip",
		},
	}
	if spec["external"].GetStringValue() == "" {
		return out, nil
	}
	subnets := structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewStringValue("." + subnetChild)}})
	out.Children = append(out.Children, child(routerChild, "network.weft.cloud/Router", spec,
		map[string]*structpb.Value{"subnets": subnets}, map[string]string{"externalNetwork": "external"}))
	out.Outputs["external_address"] = routerChild + ".external_address"
	return out, nil
}

// child makes a child whose spec has the own values and those that come from the composite's spec.
func child(name, typ string, from, own map[string]*structpb.Value, sources map[string]string) *participantv1.Child {
	c := &participantv1.Child{Name: name, Type: typ, Spec: &structpb.Struct{Fields: map[string]*structpb.Value{}}, Sources: map[string]string{}}
	for field, v := range own {
		c.Spec.Fields[field] = v
	}
	for to, field := range sources {
		c.Sources[to] = field
		if v, ok := from[field]; ok {
			c.Spec.Fields[to] = v
		}
	}
	return c
}
