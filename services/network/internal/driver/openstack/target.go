package openstack

import (
	"cmp"
	"context"
	"net/url"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// Where a target answers: the ports at the network service by which a server, the members of a scaling group, or the nodes
// of a workload's cluster are reached. A port forwarding leads to one of these places, a load balancer to all.
//
// A server tells its ports itself. Of a member of a group its server is known, and its ports are asked for by that. A node
// is found in three ways, the surest first: by the server that it says it is (openstack:///<server id>), by one of its
// addresses on the network, and by the name of its port, which the cluster's node_ports_named tells.

// place is one place where a target answers.
type place struct {
	portID, networkID, subnetID, address string
	// port is the port there: of a workload the port of the nodes.
	port int32
}

// targets finds where targets answer.
type targets struct{ s *cloud.Session }

// places gives where port of a target answers, on the network of an id, or on any if that is empty: of a
// server in the order of its interfaces, else ordered by address. is Precondition if it answers nowhere yet.
func (t targets) places(ctx context.Context, target proto.Message, port int32, networkID string) ([]place, error) {
	var found []place
	var err error
	switch m := target.(type) {
	case *computev1.Server:
		found, err = t.ofServer(ctx, m, port)
	case *computev1.ScalingGroup:
		found, err = t.ofServers(ctx, inService(m), port)
	case *containerv1.Workload:
		found, err = t.ofWorkload(ctx, m, port, networkID)
	default:
		return nil, fault.New(fault.Unsupported, "nothing is known of where a %s answers", target.ProtoReflect().Descriptor().Name())
	}
	if err != nil {
		return nil, err
	}
	if networkID != "" {
		found = slices.DeleteFunc(found, func(p place) bool { return p.networkID != networkID })
	}
	if len(found) == 0 {
		return nil, fault.New(fault.Precondition, "%s has no port on the network yet", nameOf(target))
	}
	if _, isServer := target.(*computev1.Server); !isServer {
		slices.SortFunc(found, func(a, b place) int {
			return cmp.Or(cmp.Compare(a.address, b.address), cmp.Compare(a.portID, b.portID))
		})
	}
	return found, nil
}

// inService gives the servers of a scaling group that should be sent work, by the cloud's ids.
func inService(g *computev1.ScalingGroup) []string {
	var ids []string
	for _, m := range g.GetObserved().GetMembers() {
		if m.GetState() == computev1.MemberState_MEMBER_STATE_IN_SERVICE {
			ids = append(ids, m.GetProviderId())
		}
	}
	return ids
}

func nameOf(m proto.Message) string { return resource.Wrap(m).Name() }

// ofServer gives the places of a server.
func (t targets) ofServer(ctx context.Context, s *computev1.Server, port int32) ([]place, error) {
	var ids []string
	for _, i := range s.GetObserved().GetInterfaces() {
		ids = append(ids, i.GetPortId())
	}
	all, err := ports(t.s).byIDs(ctx, ids)
	if err != nil {
		return nil, err
	}
	var out []place
	for _, id := range ids {
		out = append(out, all[id].places(port)...)
	}
	return out, nil
}

// ofServers gives the places of servers that are known by the cloud's ids.
func (t targets) ofServers(ctx context.Context, ids []string, number int32) ([]place, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	c, err := t.s.Network(ctx)
	if err != nil {
		return nil, err
	}
	all, err := cloud.ListByValues[port](ctx, c, "ports", "ports", "device_id", ids, nil)
	if err != nil {
		return nil, err
	}
	var out []place
	for _, p := range all {
		out = append(out, p.places(number)...)
	}
	return out, nil
}

// ofWorkload gives the places of a workload: the nodes on which it answers, with the node port of its port.
func (t targets) ofWorkload(ctx context.Context, w *containerv1.Workload, port int32, networkID string) ([]place, error) {
	nodePort, err := nodePortOf(w, port)
	if err != nil {
		return nil, err
	}
	nodes := w.GetObserved().GetNodes()
	if len(nodes) == 0 {
		return nil, fault.New(fault.Precondition, "no node of the cluster of %s is ready", w.GetName())
	}
	var out []place
	for _, n := range nodes {
		found, err := t.ofNode(ctx, n, w.GetObserved().GetNodePortName(), networkID, nodePort)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	if networkID == "" {
		return t.onNetworkOf(ctx, w.GetObserved().GetNodeNetwork(), out)
	}
	return out, nil
}

// nodePortOf gives the port of the nodes that leads to a port of a workload's containers.
func nodePortOf(w *containerv1.Workload, port int32) (int32, error) {
	if w.GetSpec().GetExposure() != containerv1.Exposure_EXPOSURE_NODES {
		return 0, fault.New(fault.Invalid, "%s can be reached inside its cluster only; set exposure: NODES in its spec", w.GetName())
	}
	var all []int32
	for _, c := range w.GetSpec().GetContainers() {
		all = append(all, c.GetPorts()...)
	}
	i := slices.Index(all, port)
	if i < 0 {
		return 0, fault.New(fault.Invalid, "no container of %s has the port %d", w.GetName(), port)
	}
	if i >= len(w.GetObserved().GetNodePorts()) {
		return 0, fault.New(fault.Precondition, "the port %d of %s has no port on the nodes yet", port, w.GetName())
	}
	return w.GetObserved().GetNodePorts()[i], nil
}

// ofNode gives the places of one node.
func (t targets) ofNode(ctx context.Context, n *containerv1.Node, pattern, networkID string, port int32) ([]place, error) {
	if id, ok := serverOf(n.GetProviderId()); ok {
		return t.ofServers(ctx, []string{id}, port)
	}
	if networkID != "" {
		query := url.Values{"network_id": {networkID}}
		for _, a := range n.GetAddresses() {
			query.Add("fixed_ips", "ip_address="+a)
		}
		if found, err := t.listed(ctx, query, port); len(n.GetAddresses()) > 0 && (err != nil || len(found) > 0) {
			return found, err
		}
	}
	if pattern == "" {
		pattern = "{node}"
	}
	query := url.Values{"name": {strings.ReplaceAll(pattern, "{node}", n.GetName())}, "project_id": {t.s.ProjectID}}
	if networkID != "" {
		query.Set("network_id", networkID)
	}
	return t.listed(ctx, query, port)
}

// listed gives the places of the ports that fit a query.
func (t targets) listed(ctx context.Context, query url.Values, port int32) ([]place, error) {
	all, err := ports(t.s).list(ctx, query)
	if err != nil {
		return nil, err
	}
	var out []place
	for _, p := range all {
		out = append(out, p.places(port)...)
	}
	return out, nil
}

// serverOf gives the server that a node says it is, as OpenStack's cloud provider writes it: openstack:///<id>, or with a
// region before the last slash.
func serverOf(providerID string) (string, bool) {
	rest, ok := strings.CutPrefix(providerID, "openstack://")
	if !ok {
		return "", false
	}
	id := rest[strings.LastIndexByte(rest, '/')+1:]
	return id, id != ""
}

// onNetworkOf keeps the places on the network of a resource, which bears our mark; all of them if no network is named.
func (t targets) onNetworkOf(ctx context.Context, name string, found []place) ([]place, error) {
	if name == "" || len(found) == 0 {
		return found, nil
	}
	var ids []string
	for _, p := range found {
		if !slices.Contains(ids, p.networkID) {
			ids = append(ids, p.networkID)
		}
	}
	known, err := NewNetworks(t.s).byIDs(ctx, ids)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(p place) bool {
		_, bears, ours := cloud.ParseDescription(known[p.networkID].Description)
		return !ours || bears != name
	}), nil
}

// places gives where a port answers: its first IPv4 address.
func (p port) places(number int32) []place {
	for _, f := range p.FixedIPs {
		if strings.Contains(f.IPAddress, ".") {
			return []place{{portID: p.ID, networkID: p.NetworkID, subnetID: f.SubnetID, address: f.IPAddress, port: number}}
		}
	}
	return nil
}

// routed keeps the places on networks that have a router to the external network. The error is Precondition if there are
// some and none is left, or if they are on several networks and it is not said which is meant.
func (t targets) routed(ctx context.Context, target proto.Message, found []place, externalID string) ([]place, error) {
	reached, err := NewFloatingIPs(t.s).networksRoutedTo(ctx, externalID)
	if err != nil {
		return nil, err
	}
	var out []place
	for _, p := range found {
		if reached[p.networkID] {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		return nil, &fault.Error{Kind: fault.Precondition, Field: "spec.target", Message: "none of the networks of " + nameOf(target) + " has a router to the external network"}
	}
	for _, p := range out {
		if _, isServer := target.(*computev1.Server); !isServer && p.networkID != out[0].networkID {
			return nil, &fault.Error{
				Kind: fault.Precondition, Field: "spec.network",
				Message: nameOf(target) + " is on several networks that have a router to the external network; say which is meant: network here, or in the spec of its cluster",
			}
		}
	}
	return out, nil
}

// networkID gives the cloud's id of the network that a spec names; empty if it names none.
func networkID(refs map[string]proto.Message, field, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	return cloud.Ref(refs, field, name, func(n *networkv1.Network) string { return n.GetObserved().GetNetworkId() })
}
