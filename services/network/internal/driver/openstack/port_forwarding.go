package openstack

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/portforwarding"
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// Port forwardings are parts of a floating IP at the network service: they are listed, made and deleted below it. So the id
// of ours is that of both, <floating IP>/<port forwarding>. Lists of floating IPs show their port forwardings without the
// descriptions, which is enough to observe many with one call; the mark is read below each address.
//
// The network service keeps two rules: a port of an address leads to one place, and a port of a private address is led to
// by one forwarding in all. The first is ours too: who has a port is claimed before anything is asked of the cloud (see
// package record), so that who comes second learns the owner's name. The cloud's own answer names no owner; where it
// refuses, we look and tell.
//
// A forwarding vanishes with the port that it leads to, e.g. with a server that somebody deletes.

// forwarding is one port forwarding as the lists below a floating IP show it.
type forwarding struct {
	mapping
	PortID string `json:"internal_port_id"`
}

// shared is a floating IP with its port forwardings, which are nil where the service does not show them.
type shared struct {
	floatingIP
	Forwardings *[]forwarding `json:"port_forwardings"`
}

// PortForwardings is the driver of PortForwarding.
type PortForwardings struct {
	s         *cloud.Session
	addresses objects[shared]
}

// NewPortForwardings makes the driver.
func NewPortForwardings(s *cloud.Session) *PortForwardings {
	return &PortForwardings{s: s, addresses: objects[shared]{s: s, path: "floatingips", field: "floatingips"}}
}

type (
	forwardingRequest = driver.Request[*networkv1.PortForwardingSpec]
	forwardingSeen    = driver.Observation[*networkv1.PortForwardingObserved]
)

// chosenPorts is the range that a port is chosen from where the spec gives none.
const chosenLow, chosenHigh = 20000, 29999

// PortClaims gives the port of an address that a spec asks for. keys gives the keys of what it refers to, as far as it
// stands; an address that does not is told by its name.
func PortClaims(spec proto.Message, keys map[string]string) []record.Want {
	s, ok := spec.(*networkv1.PortForwardingSpec)
	if !ok || s.GetFloatingIp() == "" {
		return nil
	}
	address := keys[s.GetFloatingIp()]
	if address == "" {
		address = s.GetFloatingIp()
	}
	low, high, err := externalRange(s)
	if err != nil {
		return nil // refused by the rules, and by Check
	}
	protocol := protocolOf(s)
	return []record.Want{{
		Field: "externalPort", Space: "floating-ip/" + address + "/" + protocol, Low: low, High: high,
		Thing: strings.ToUpper(protocol) + " port", Of: s.GetFloatingIp(),
	}}
}

// externalRange gives the ports of the address that will do. The error is Invalid.
func externalRange(s *networkv1.PortForwardingSpec) (low, high int32, err error) {
	if s.GetExternalPort() != 0 {
		return s.GetExternalPort(), s.GetExternalPort(), nil
	}
	if s.GetExternalPorts() == "" {
		return chosenLow, chosenHigh, nil
	}
	from, to, _ := strings.Cut(s.GetExternalPorts(), "-")
	first, firstErr := strconv.ParseUint(from, 10, 16)
	last, lastErr := strconv.ParseUint(to, 10, 16)
	if firstErr != nil || lastErr != nil || first < 1 || last < first {
		return 0, 0, fault.InField("spec.externalPorts", "%q is no range of ports; it should look like 30000-30099, and end at 65535 at most", s.GetExternalPorts())
	}
	return int32(first), int32(last), nil
}

// protocolOf gives the protocol in the network service's word.
func protocolOf(s *networkv1.PortForwardingSpec) string {
	if s.GetProtocol() == networkv1.Protocol_PROTOCOL_UDP {
		return "udp"
	}
	return "tcp"
}

func splitID(id string) (address, forwarding string, err error) {
	address, forwarding, ok := strings.Cut(id, "/")
	if !ok || address == "" || forwarding == "" {
		return "", "", fault.New(fault.Internal, "%q is no id of a port forwarding, which is <floating IP>/<port forwarding>", id)
	}
	return address, forwarding, nil
}

// below lists the port forwardings of one address; none if the address is gone.
func (d *PortForwardings) below(ctx context.Context, address string, query url.Values) ([]forwarding, error) {
	c, err := d.s.Network(ctx)
	if err != nil {
		return nil, err
	}
	out, err := cloud.List[forwarding](ctx, c, "floatingips/"+url.PathEscape(address)+"/port_forwardings", "port_forwardings", query)
	if fault.Is(err, fault.NotFound) {
		return nil, nil
	}
	return out, err
}

// inUse lists the project's addresses that have port forwardings, or may have some.
func (d *PortForwardings) inUse(ctx context.Context) ([]shared, error) {
	all, err := d.addresses.list(ctx, url.Values{"project_id": {d.s.ProjectID}, "limit": {"1000"}})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(f shared) bool {
		return f.PortID != "" || f.Forwardings != nil && len(*f.Forwardings) == 0
	}), nil
}

// Find implements driver.Driver. Without the address, which may be gone by now, all of them are looked through.
func (d *PortForwardings) Find(ctx context.Context, r forwardingRequest) ([]string, error) {
	if r.Key == "" {
		return nil, fault.New(fault.Internal, "find port forwarding %s: no key is given", r.Name)
	}
	var addresses []string
	if f, ok := r.Refs[r.Spec.GetFloatingIp()].(*networkv1.FloatingIP); ok && f.GetObserved().GetFloatingIpId() != "" {
		addresses = []string{f.GetObserved().GetFloatingIpId()}
	} else {
		all, err := d.inUse(ctx)
		if err != nil {
			return nil, err
		}
		for _, f := range all {
			addresses = append(addresses, f.ID)
		}
	}
	mark := cloud.Description(r.Key, r.Name)
	ids := []string{}
	for _, address := range addresses {
		all, err := d.below(ctx, address, url.Values{"description": {mark}})
		if err != nil {
			return nil, err
		}
		for _, f := range all {
			if f.Description == mark {
				ids = append(ids, address+"/"+f.ID)
			}
		}
	}
	return ids, nil
}

// wanted is a port forwarding as a request wants it.
type wantedForwarding struct {
	address  string // the cloud's id
	protocol string
	external int32
	place    place
}

// wanted finds what a request asks for. The place that is led to already is kept if it will still do.
func (d *PortForwardings) wanted(ctx context.Context, r forwardingRequest, standing *forwarding) (wantedForwarding, error) {
	out := wantedForwarding{protocol: protocolOf(r.Spec), external: r.Claimed["externalPort"]}
	if out.external == 0 {
		out.external = r.Spec.GetExternalPort()
	}
	if out.external == 0 {
		return out, fault.New(fault.Internal, "port forwarding %s: no port was chosen of %q", r.Name, r.Spec.GetExternalPorts())
	}
	address, err := d.address(ctx, r)
	if err != nil {
		return out, err
	}
	out.address = address.ID
	target, ok := r.Refs[r.Spec.GetTarget()]
	if !ok {
		return out, &fault.Error{Kind: fault.Precondition, Field: "spec.target", Message: r.Spec.GetTarget() + " does not exist yet"}
	}
	network, err := networkID(r.Refs, "spec.network", r.Spec.GetNetwork())
	if err != nil {
		return out, err
	}
	t := targets{d.s}
	places, err := t.places(ctx, target, r.Spec.GetPort(), network)
	if err == nil && network == "" {
		places, err = t.routed(ctx, target, places, address.NetworkID)
	}
	if err != nil {
		return out, fault.Wrap(err, "find where port %d of %s answers", r.Spec.GetPort(), r.Spec.GetTarget())
	}
	out.place = places[0]
	if standing != nil {
		for _, p := range places {
			if p.portID == standing.PortID && p.address == standing.InternalIP {
				out.place = p
			}
		}
	}
	return out, nil
}

// address gives the floating IP that a request is for.
func (d *PortForwardings) address(ctx context.Context, r forwardingRequest) (shared, error) {
	id, err := cloud.Ref(r.Refs, "spec.floatingIp", r.Spec.GetFloatingIp(), func(f *networkv1.FloatingIP) string { return f.GetObserved().GetFloatingIpId() })
	if err != nil {
		return shared{}, err
	}
	f, err := d.addresses.one(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return f, &fault.Error{Kind: fault.Precondition, Field: "spec.floatingIp", Message: "the cloud has " + r.Spec.GetFloatingIp() + " no longer"}
	}
	if err != nil {
		return f, err
	}
	if f.PortID != "" {
		return f, &fault.Error{
			Kind: fault.Precondition, Field: "spec.floatingIp",
			Message: fmt.Sprintf("%s leads to %s itself, so its ports cannot be led elsewhere; use an address that leads nowhere", r.Spec.GetFloatingIp(), f.FixedAddress),
		}
	}
	return f, nil
}

// Create implements driver.Driver.
func (d *PortForwardings) Create(ctx context.Context, r forwardingRequest) (string, error) {
	w, err := d.wanted(ctx, r, nil)
	if err != nil {
		return "", err
	}
	c, err := d.s.Network(ctx)
	if err != nil {
		return "", err
	}
	made, err := portforwarding.Create(ctx, c, w.address, portforwarding.CreateOpts{
		Description: cloud.Description(r.Key, r.Name), Protocol: w.protocol, ExternalPort: int(w.external),
		InternalPortID: w.place.portID, InternalIPAddress: w.place.address, InternalPort: int(w.place.port),
	}).Extract()
	if err != nil {
		return "", d.explained(ctx, w, cloud.Fault(err, "create port forwarding %s", r.Name))
	}
	return w.address + "/" + made.ID, nil
}

// explained tells who has what the cloud refused, if it was refused since somebody else has it.
func (d *PortForwardings) explained(ctx context.Context, w wantedForwarding, refused error) error {
	if !fault.Is(refused, fault.Invalid) && !fault.Is(refused, fault.Conflict) && !fault.Is(refused, fault.Exists) {
		return refused
	}
	all, err := d.inUse(ctx)
	if err != nil {
		return refused // what the cloud said is still true
	}
	for _, f := range all {
		below, err := d.below(ctx, f.ID, nil)
		if err != nil {
			return refused
		}
		for _, other := range below {
			if other.Protocol != w.protocol {
				continue
			}
			if f.ID == w.address && int32(other.ExternalPort) == w.external {
				return &fault.Error{Kind: fault.Exists, Field: "spec.externalPort", Message: other.has(d.s, f), Cause: refused}
			}
			if other.PortID == w.place.portID && other.InternalIP == w.place.address && int32(other.InternalPort) == w.place.port {
				return &fault.Error{Kind: fault.Exists, Field: "spec.port", Message: other.has(d.s, f) + ", and the cloud lets one address only lead there", Cause: refused}
			}
		}
	}
	if fault.Is(refused, fault.Conflict) && strings.Contains(refused.Error(), "PortHasBindingFloatingIP") {
		return &fault.Error{Kind: fault.Precondition, Field: "spec.target", Message: "the target has a floating IP of its own, so no port of another can lead to it", Cause: refused}
	}
	return refused
}

// has says who has a port of an address, and where it leads.
func (f forwarding) has(s *cloud.Session, on shared) string {
	_, name, _ := cloud.ParseDescription(f.Description)
	return fmt.Sprintf("%s port %d of %s leads to %s:%d already, by %s", strings.ToUpper(f.Protocol), f.ExternalPort, on.Address, f.InternalIP, f.InternalPort, s.Whose(name, "", on.ProjectID, "port forwarding "+f.ID))
}

// Observe implements driver.Driver: one list of the addresses tells all, where the service shows the forwardings in it.
func (d *PortForwardings) Observe(ctx context.Context, ids []string) (map[string]forwardingSeen, error) {
	var addresses []string
	for _, id := range ids {
		address, _, err := splitID(id)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(addresses, address) {
			addresses = append(addresses, address)
		}
	}
	all, err := d.addresses.byIDs(ctx, addresses)
	if err != nil {
		return nil, err
	}
	out := map[string]forwardingSeen{}
	for _, f := range all {
		var standing []forwarding
		if f.Forwardings != nil {
			standing = *f.Forwardings
		} else if standing, err = d.below(ctx, f.ID, nil); err != nil {
			return nil, err
		}
		for _, m := range standing {
			if id := f.ID + "/" + m.ID; slices.Contains(ids, id) {
				out[id] = forwardingSeen{State: driver.Ready, Observed: m.observed(f)}
			}
		}
	}
	return out, nil
}

func (f forwarding) observed(on shared) *networkv1.PortForwardingObserved {
	protocol := networkv1.Protocol_PROTOCOL_TCP
	if f.Protocol == "udp" {
		protocol = networkv1.Protocol_PROTOCOL_UDP
	}
	return &networkv1.PortForwardingObserved{
		PortForwardingId: f.ID, FloatingIpId: on.ID, Address: on.Address, Port: int32(f.ExternalPort), Protocol: protocol,
		TargetAddress: f.InternalIP, TargetPort: int32(f.InternalPort),
	}
}

// Update implements driver.Driver: what differs is changed in one call. Only the address cannot be.
func (d *PortForwardings) Update(ctx context.Context, id string, r forwardingRequest) error {
	address, forwardingID, err := splitID(id)
	if err != nil {
		return err
	}
	all, err := d.below(ctx, address, nil)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(f forwarding) bool { return f.ID == forwardingID })
	if i < 0 {
		return fault.New(fault.NotFound, "port forwarding %s does not exist", id)
	}
	w, err := d.wanted(ctx, r, &all[i])
	if err != nil {
		return err
	}
	opts, differs := w.change(all[i])
	if !differs {
		return nil
	}
	c, err := d.s.Network(ctx)
	if err != nil {
		return err
	}
	if _, err = portforwarding.Update(ctx, c, address, forwardingID, opts).Extract(); err != nil {
		return d.explained(ctx, w, cloud.Fault(err, "change port forwarding %s", r.Name))
	}
	return nil
}

// change gives what differs from what stands.
func (w wantedForwarding) change(standing forwarding) (opts portforwarding.UpdateOpts, differs bool) {
	if standing.Protocol != w.protocol {
		opts.Protocol = w.protocol
	}
	if int32(standing.ExternalPort) != w.external {
		opts.ExternalPort = int(w.external)
	}
	if standing.PortID != w.place.portID || standing.InternalIP != w.place.address {
		opts.InternalPortID, opts.InternalIPAddress = w.place.portID, w.place.address
	}
	if int32(standing.InternalPort) != w.place.port {
		opts.InternalPort = int(w.place.port)
	}
	return opts, opts != portforwarding.UpdateOpts{}
}

// Delete implements driver.Driver. Nothing uses a port forwarding, so nothing can keep it from going.
func (d *PortForwardings) Delete(ctx context.Context, id string) error {
	address, forwardingID, err := splitID(id)
	if err != nil {
		return err
	}
	c, err := d.s.Network(ctx)
	if err != nil {
		return err
	}
	return gone(portforwarding.Delete(ctx, c, address, forwardingID).ExtractErr(), "port forwarding", id)
}

// ListMarked implements driver.Lister.
func (d *PortForwardings) ListMarked(ctx context.Context) ([]driver.Marked, error) {
	addresses, err := d.inUse(ctx)
	if err != nil {
		return nil, err
	}
	var out []driver.Marked
	for _, f := range addresses {
		all, err := d.below(ctx, f.ID, nil)
		if err != nil {
			return nil, err
		}
		for _, m := range all {
			if key, name, ok := cloud.ParseDescription(m.Description); ok {
				out = append(out, driver.Marked{ID: f.ID + "/" + m.ID, Key: key, Name: name})
			}
		}
	}
	return out, nil
}

// Check implements driver.Checker: that the service can forward ports, that the address leads nowhere itself, that nobody
// outside of Weft has the port (Weft's own are told by their claims), and that the target has the port. The network service
// has no quota of port forwardings; the address counts among the floating IPs.
func (d *PortForwardings) Check(ctx context.Context, items []driver.Item[*networkv1.PortForwardingSpec]) ([]driver.Finding, []driver.QuotaUse, error) {
	var out []driver.Finding
	if err := d.offered(ctx); fault.Is(err, fault.Unsupported) {
		return []driver.Finding{{Fault: err}}, nil, nil
	} else if err != nil {
		return nil, nil, err
	}
	for _, i := range items {
		if i.Spec == nil {
			continue
		}
		found, err := d.examine(ctx, i)
		if err != nil {
			return nil, nil, err
		}
		for _, f := range found {
			out = append(out, driver.Finding{Name: i.Name, Field: fault.Field(f), Fault: f})
		}
	}
	return out, nil, nil
}

// offered tells whether the network service can forward ports: Unsupported says that it cannot.
func (d *PortForwardings) offered(ctx context.Context) error {
	c, err := d.s.Network(ctx)
	if err != nil {
		return err
	}
	found, err := cloud.List[struct{ Alias string }](ctx, c, "extensions", "extensions", url.Values{})
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(found, func(e struct{ Alias string }) bool { return e.Alias == "floating-ip-port-forwarding" }) {
		return fault.New(fault.Unsupported, "this cloud's network service cannot forward ports (it lacks the extension floating-ip-port-forwarding); use a floating IP of its own for each server, or a load balancer")
	}
	return nil
}

// examine lists what is wrong with one item, each a fault that names its field.
func (d *PortForwardings) examine(ctx context.Context, i driver.Item[*networkv1.PortForwardingSpec]) ([]error, error) {
	var out []error
	if _, _, err := externalRange(i.Spec); err != nil {
		out = append(out, err)
	}
	if w, ok := i.Refs[i.Spec.GetTarget()].(*containerv1.Workload); ok {
		if _, err := nodePortOf(w, i.Spec.GetPort()); fault.Is(err, fault.Invalid) {
			out = append(out, &fault.Error{Kind: fault.Invalid, Field: "spec.port", Message: err.Error()})
		}
	}
	if f, ok := i.Planned[i.Spec.GetFloatingIp()].(*networkv1.FloatingIP); ok && f.GetSpec().GetServer()+f.GetSpec().GetTarget() != "" {
		return append(out, &fault.Error{
			Kind: fault.Invalid, Field: "spec.floatingIp",
			Message: i.Spec.GetFloatingIp() + " leads to " + f.GetSpec().GetServer() + f.GetSpec().GetTarget() + " itself, so its ports cannot be led elsewhere",
		}), nil
	}
	f, ok := i.Refs[i.Spec.GetFloatingIp()].(*networkv1.FloatingIP)
	if !ok || f.GetObserved().GetFloatingIpId() == "" {
		return out, nil
	}
	address, err := d.addresses.one(ctx, f.GetObserved().GetFloatingIpId())
	if fault.Is(err, fault.NotFound) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := d.below(ctx, address.ID, nil)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		_, _, ours := cloud.ParseDescription(m.Description)
		if !ours && i.Spec.GetExternalPort() == int32(m.ExternalPort) && protocolOf(i.Spec) == m.Protocol {
			out = append(out, &fault.Error{Kind: fault.Exists, Field: "spec.externalPort", Message: m.has(d.s, address)})
		}
	}
	return out, nil
}
