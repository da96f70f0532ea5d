// Package publication makes a Publication out of the kinds that open a way in from outside.
package publication

import (
	"strconv"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/fault"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// The names of the children: addressChild bears the public address, if the Publication has one of its own, mappingChild leads
// a port of an address to the target.
const (
	addressChild = "address"
	mappingChild = "mapping"
)

// Expand gives the children of a Publication, each way in its own. The errors are Invalid and name the field.
func Expand(item *participantv1.Item) (*participantv1.ExpandResponse, error) {
	switch via := item.GetSpec().GetFields()["via"].GetStringValue(); via {
	case networkv1.Via_VIA_FLOATING_IP.String():
		return expandAddress(item)
	case networkv1.Via_VIA_PORT_MAPPING.String():
		return expandMapping(item)
	case networkv1.Via_VIA_LOAD_BALANCER.String():
		return expandBalanced(item)
	default:
		return nil, fault.InField("spec.via", "via is %q; the ways in are FLOATING_IP, PORT_MAPPING and LOAD_BALANCER", via)
	}
}

// expandAddress gives an address of its own, on which every port of the target can be reached, so that the public port is
// the target's.
func expandAddress(item *participantv1.Item) (*participantv1.ExpandResponse, error) {
	spec := item.GetSpec().GetFields()
	for _, field := range []string{"address", "publicPort", "publicPorts", "network"} {
		if _, given := spec[field]; given {
			return nil, fault.InField("spec."+field, "with FLOATING_IP all ports of the target answer at an address of its own, so there is no %s to choose; leave it out, or publish via PORT_MAPPING", field)
		}
	}
	port, ok := spec["port"].GetKind().(*structpb.Value_NumberValue)
	if !ok {
		return nil, fault.InField("spec.port", "the port must be known before anything is made: write a number or a parameter, no expression over outputs")
	}
	number := strconv.Itoa(int(port.NumberValue))
	return &participantv1.ExpandResponse{
		Children: []*participantv1.Child{child(addressChild, "FloatingIP", spec, map[string]string{"server": "target", "externalNetwork": "externalNetwork"})},
		Outputs:  map[string]string{"address": addressChild + ".address", "port": number, "url": url(spec, addressChild+".address", number)},
	}, nil
}

// expandMapping gives a port of a public address: of the one that the spec names, which may serve many, or of one of its own.
func expandMapping(item *participantv1.Item) (*participantv1.ExpandResponse, error) {
	spec := item.GetSpec().GetFields()
	out := &participantv1.ExpandResponse{}
	mapping := child(mappingChild, "PortForwarding", spec, map[string]string{
		"floatingIp": "address", "target": "target", "port": "port", "protocol": "protocol", "network": "network",
		"externalPort": "publicPort", "externalPorts": "publicPorts",
	})
	_, shared := spec["address"]
	if _, given := spec["externalNetwork"]; given && shared {
		return nil, fault.InField("spec.externalNetwork", "the address that is named is on its network already; leave externalNetwork out")
	}
	if !shared {
		out.Children = append(out.Children, child(addressChild, "FloatingIP", spec, map[string]string{"externalNetwork": "externalNetwork"}))
		mapping.Spec.Fields["floatingIp"] = structpb.NewStringValue("." + addressChild)
	}
	out.Children = append(out.Children, mapping)
	out.Outputs = map[string]string{
		"address": mappingChild + ".address", "port": mappingChild + ".port",
		"url": url(spec, mappingChild+".address", "string("+mappingChild+".port)"),
	}
	return out, nil
}

// url gives the expression of where it answers. A port that is a number is written as it is.
func url(spec map[string]*structpb.Value, address, port string) string {
	scheme := spec["scheme"].GetStringValue()
	if scheme == "" {
		scheme = "http"
	}
	if _, err := strconv.Atoi(port); err == nil {
		port = strconv.Quote(port)
	}
	return strconv.Quote(scheme+"://") + " + " + address + ` + ":" + ` + port
}

// child makes a child whose spec has the values of the Publication's that are given; expressions stay expressions.
func child(name, kind string, from map[string]*structpb.Value, sources map[string]string) *participantv1.Child {
	c := &participantv1.Child{Name: name, Type: "network.weft.cloud/" + kind, Spec: &structpb.Struct{Fields: map[string]*structpb.Value{}}, Sources: sources}
	for to, field := range sources {
		if v, ok := from[field]; ok {
			c.Spec.Fields[to] = v
		}
	}
	return c
}
