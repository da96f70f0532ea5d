package openstack

import (
	"bytes"
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/flavors"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// What a server is wanted to be stands in its own metadata, beside the mark, so that one list call tells of many servers
// at once which of them wait for a further Update: a change of size must be confirmed, and only then can the power be
// switched; the disk is made anew of a server at rest; a server is made running and stopped afterwards.
//
//	weft-flavor         the flavor, as the service names it in the server
//	weft-power          on or off
//	weft-rebuild        the text of the spec
//	weft-rebuilt        that text when the disk was made: the call that makes it anew sets this too, so it is made anew once.
//	                    Where it is missing nobody knows, and where something is undone nothing is to be lost: then the text is
//	                    noted, and the disk stays
//	weft-volume-<id>    attach: we attached it, or want it attached; detach: we want it detached
//
// Volumes without such a key were attached by someone else, e.g. a VolumeAttachment, and are left alone.
const (
	metadataFlavor = cloud.MetadataPrefix + "flavor"
	metadataPower  = cloud.MetadataPrefix + "power"
	metadataVolume = cloud.MetadataPrefix + "volume-"

	metadataRebuild = cloud.MetadataPrefix + "rebuild"
	metadataRebuilt = cloud.MetadataPrefix + "rebuilt"

	wantAttached, wantDetached = "attach", "detach"
)

// embeddedFlavorMinor is the minor from which a server tells its flavor by name instead of by id (2.47).
const embeddedFlavorMinor = 47

// downCellsMinor is the minor from which the service shows the servers of a cell whose database does not answer (2.69), with the
// status unseen and little else: to who asks for one by id, and to who lists all without a page, an order or a filter (API guide,
// "Handling Down Cells"). Before, and in other lists, they are left out unless the cloud's operator wants the call to fail
// ([api]list_records_by_skipping_down_cells). Such a list has as many items as a page without being asked, 1,000 where the
// operator said nothing else ([api]max_limit).
const (
	downCellsMinor = 69
	unseen         = "UNKNOWN"
)

// server is a server, as far as the driver looks at it.
type server struct {
	ID        string            `json:"id"`
	Status    string            `json:"status"`
	TaskState string            `json:"OS-EXT-STS:task_state"`
	Metadata  map[string]string `json:"metadata"`
	Tags      []string          `json:"tags"`
	// Image is an object, or "" for a server that boots from a volume.
	Image json.RawMessage `json:"image"`
	// Addresses is kept as text, since the order of its fields is the order of the interfaces.
	Addresses json.RawMessage `json:"addresses"`
	Flavor    struct {
		ID           string `json:"id"`
		OriginalName string `json:"original_name"`
	} `json:"flavor"`
	Fault struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"fault"`
	Volumes []struct {
		ID string `json:"id"`
	} `json:"os-extended-volumes:volumes_attached"`
}

// flavorName gives the flavor as the service names it in the server.
func (s server) flavorName() string {
	if s.Flavor.OriginalName != "" {
		return s.Flavor.OriginalName
	}
	return s.Flavor.ID
}

// attached tells whether the server has the volume.
func (s server) attached(volumeID string) bool {
	for _, v := range s.Volumes {
		if v.ID == volumeID {
			return true
		}
	}
	return false
}

// imageID is the image that the server was made of; empty if it boots from a volume.
func (s server) imageID() (string, error) {
	if string(s.Image) == `""` {
		return "", nil
	}
	var image struct {
		ID string `json:"id"`
	}
	err := json.Unmarshal(s.Image, &image)
	return image.ID, fault.Wrap(err, "read the image of server %s", s.ID)
}

// isGone tells whether the server only stands in lists any more.
func (s server) isGone() bool { return s.Status == "DELETED" || s.Status == "SOFT_DELETED" }

// unseen is the fault of looking at a server that its cell tells nothing of; nil if it can be seen.
func (s server) unseen() error {
	if s.Status != unseen {
		return nil
	}
	return fault.New(fault.Unavailable, "server %s is in status %s at the cloud: the database of its cell does not answer", s.ID, s.Status)
}

// power gives the power state; a server that is neither running nor stopped is somewhere between.
func (s server) power() computev1.PowerState {
	if s.Status == "ACTIVE" {
		return computev1.PowerState_POWER_STATE_ON
	}
	return computev1.PowerState_POWER_STATE_OFF
}

// state gives what is to be made of the server:
//
//	ERROR                                          failed
//	a task is going on, or a status that passes    progressing
//	VERIFY_RESIZE                                  outdated: the new size must be confirmed
//	flavor, disk, power or volumes not as wanted   outdated, or progressing while a volume is being detached
//	else                                           ready
func (s server) state() driver.State {
	if s.Status == "ERROR" {
		return driver.Failed
	}
	if s.TaskState != "" {
		return driver.Progressing
	}
	switch s.Status {
	case "VERIFY_RESIZE":
		return driver.Outdated
	case "ACTIVE", "SHUTOFF":
		return s.pending()
	case "PAUSED", "SUSPENDED", "RESCUE", "SHELVED", "SHELVED_OFFLOADED":
		return driver.Ready // someone put it there and can take it out again
	default:
		return driver.Progressing
	}
}

// pending compares a server at rest with what its metadata wants.
func (s server) pending() driver.State {
	if f := s.Metadata[metadataFlavor]; f != "" && f != s.flavorName() {
		return driver.Outdated
	}
	if s.Metadata[metadataRebuild] != s.Metadata[metadataRebuilt] {
		return driver.Outdated
	}
	if p := s.Metadata[metadataPower]; p != "" && p != powerWord(s.power()) {
		return driver.Outdated
	}
	for key, want := range s.Metadata {
		id, ours := strings.CutPrefix(key, metadataVolume)
		if !ours {
			continue
		}
		if want == wantDetached && s.attached(id) {
			return driver.Progressing
		}
		if want == wantDetached || !s.attached(id) {
			return driver.Outdated
		}
	}
	return driver.Ready
}

// powerWord gives a power state as the metadata has it.
func powerWord(p computev1.PowerState) string {
	if p == computev1.PowerState_POWER_STATE_OFF {
		return "off"
	}
	return "on"
}

// Servers is the driver of Server.
type Servers struct{ s *cloud.Session }

// NewServers makes the driver.
func NewServers(s *cloud.Session) *Servers { return &Servers{s} }

// list reads all of the project's servers. The error is Unavailable if there is one that cannot be seen: whose it is is not known
// then. No page is asked for, which would hide those; of a project with more servers than a page holds the others are seen as far
// as their cells answer.
func (d *Servers) list(ctx context.Context) ([]server, error) {
	c, err := d.s.Compute(ctx)
	if err != nil {
		return nil, err
	}
	all, err := cloud.List[server](ctx, c, "servers/detail", "servers", nil)
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		if err := s.unseen(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// tagged reads the project's servers that bear the tag of a key. Since a list by tag leaves out what cannot be seen, that there is
// none counts only if there is nothing that cannot: the bare list, which no detail is read for, shows that. So a look-up that finds
// something is one call and a short answer, and one that does not, of which there are few (after an outcome that is not known),
// reads no more than the ids of a page of servers, rather than all about each. If the newest of a project fill that page there is no
// room for what cannot be seen, and nothing tells of it.
func (d *Servers) tagged(ctx context.Context, c *gophercloud.ServiceClient, key string) ([]server, error) {
	found, err := cloud.List[server](ctx, c, "servers/detail", "servers", url.Values{"tags": {cloud.Tag(key)}})
	if err != nil || len(found) > 0 || cloud.Minor(c) < downCellsMinor {
		return found, err
	}
	shown, err := cloud.First[server](ctx, c, "servers", "servers")
	if err != nil {
		return nil, err
	}
	for _, s := range shown {
		if err := s.unseen(); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// byIDs reads servers by id; what does not exist is absent.
func (d *Servers) byIDs(ctx context.Context, ids []string) (map[string]server, error) {
	if len(ids) == 0 {
		return nil, ctx.Err()
	}
	c, err := d.s.Compute(ctx)
	if err != nil {
		return nil, err
	}
	return cloud.ByIDs(ctx, c, cloud.Collection[server]{Path: "servers/detail", Field: "servers", ID: func(s server) string { return s.ID }, One: d.read}, ids)
}

// one reads one server. The error is NotFound if it does not exist, and Unavailable if it cannot be seen.
func (d *Servers) one(ctx context.Context, id string) (server, error) {
	s, err := d.read(ctx, id)
	if err != nil {
		return s, err
	}
	return s, s.unseen()
}

// read reads one server, also one that cannot be seen. The error is NotFound if it does not exist.
func (d *Servers) read(ctx context.Context, id string) (server, error) {
	c, err := d.s.Compute(ctx)
	if err != nil {
		return server{}, err
	}
	var s server
	if err := servers.Get(ctx, c, id).ExtractInto(&s); err != nil {
		return s, cloud.Fault(err, "read server %s", id)
	}
	if s.isGone() {
		return s, fault.New(fault.NotFound, "server %s is deleted", id)
	}
	return s, nil
}

// Find implements driver.Driver: by tag where servers bear one, else among all of the project's servers.
func (d *Servers) Find(ctx context.Context, r driver.Request[*computev1.ServerSpec]) ([]string, error) {
	if r.Key == "" {
		return nil, fault.New(fault.Internal, "find server: no key is given")
	}
	c, err := d.s.Compute(ctx)
	if err != nil {
		return nil, err
	}
	var all []server
	if cloud.Minor(c) >= cloud.TagsMinor {
		all, err = d.tagged(ctx, c, r.Key)
	} else {
		all, err = d.list(ctx)
	}
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, s := range all {
		if s.Metadata[cloud.MetadataKey] == r.Key && !s.isGone() {
			ids = append(ids, s.ID)
		}
	}
	return ids, nil
}

// Create implements driver.Driver. All that the server needs is asked for in the one call, its volumes included.
func (d *Servers) Create(ctx context.Context, r driver.Request[*computev1.ServerSpec]) (string, error) {
	c, err := d.s.Compute(ctx)
	if err != nil {
		return "", err
	}
	opts, err := d.createOpts(ctx, c, r)
	if err != nil {
		return "", err
	}
	s, err := servers.Create(ctx, c, opts, nil).Extract()
	if err != nil {
		return "", cloud.Fault(err, "create server %s", r.Name)
	}
	return s.ID, nil
}

// Observe implements driver.Driver: one call for the servers, and one for their ports once there are any. What cannot be seen is
// there, and is looked at again until it can.
func (d *Servers) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[*computev1.ServerObserved], error) {
	all, err := d.byIDs(ctx, ids)
	if err != nil {
		return nil, err
	}
	var withPorts []string
	for _, s := range all {
		if s.Status != "BUILD" && s.Status != unseen && !s.isGone() {
			withPorts = append(withPorts, s.ID)
		}
	}
	ports, err := d.ports(ctx, withPorts)
	if err != nil {
		return nil, err
	}
	out := make(map[string]driver.Observation[*computev1.ServerObserved], len(all))
	for _, s := range all {
		if !s.isGone() {
			out[s.ID] = observation(s, ports[s.ID])
		}
	}
	return out, nil
}

// observation puts together what was seen of one server.
func observation(s server, ports []port) driver.Observation[*computev1.ServerObserved] {
	o := driver.Observation[*computev1.ServerObserved]{State: s.state(), Fault: s.unseen(), Observed: &computev1.ServerObserved{ServerId: s.ID, PowerState: s.power()}}
	if o.State == driver.Failed {
		message := s.Fault.Message
		if message == "" {
			message = "the cloud tells no reason"
		}
		o.Fault = failure(s.ID, message)
	}
	for _, p := range inOrder(ports, s.Addresses) {
		i := &computev1.ServerInterface{PortId: p.ID, NetworkId: p.NetworkID, MacAddress: p.MACAddress}
		if len(p.FixedIPs) > 0 {
			i.Address = p.FixedIPs[0].IPAddress
		}
		if o.Observed.Address == "" {
			o.Observed.Address = i.GetAddress()
		}
		o.Observed.Interfaces = append(o.Observed.Interfaces, i)
	}
	o.Observed.Addresses = addressesOf(s.Addresses)
	for _, v := range s.Volumes {
		o.Observed.VolumeIds = append(o.Observed.VolumeIds, v.ID)
	}
	o.Facts = map[string]string{"flavor": s.flavorName(), "security_groups": groupsOf(ports)}
	return o
}

// groupsOf gives the security groups of ports, each once, in an order of their own.
func groupsOf(ports []port) string {
	var ids []string
	for _, p := range ports {
		ids = append(ids, p.SecurityGroups...)
	}
	slices.Sort(ids)
	return strings.Join(slices.Compact(ids), " ")
}

// failure gives the cloud's own words why a server failed. Too little room and a quota that was reached late are told in
// words only.
func failure(id, message string) error {
	kind := fault.Unavailable
	lower := strings.ToLower(message)
	if strings.Contains(lower, "no valid host") || strings.Contains(lower, "quota") || strings.Contains(lower, "exceeded") {
		kind = fault.Quota
	}
	return fault.New(kind, "server %s is in status ERROR at the cloud: %s", id, message)
}

// port is a server's port, as far as the driver looks at it.
type port struct {
	ID             string   `json:"id"`
	NetworkID      string   `json:"network_id"`
	MACAddress     string   `json:"mac_address"`
	DeviceID       string   `json:"device_id"`
	SecurityGroups []string `json:"security_groups"`
	FixedIPs       []struct {
		IPAddress string `json:"ip_address"`
	} `json:"fixed_ips"`
}

// ports reads the ports of servers, by server.
func (d *Servers) ports(ctx context.Context, serverIDs []string) (map[string][]port, error) {
	out := map[string][]port{}
	if len(serverIDs) == 0 {
		return out, nil
	}
	c, err := d.s.Network(ctx)
	if err != nil {
		return nil, err
	}
	all, err := cloud.ListByValues[port](ctx, c, "ports", "ports", "device_id", serverIDs, nil)
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		out[p.DeviceID] = append(out[p.DeviceID], p)
	}
	return out, nil
}

// inOrder sorts ports as the server has its interfaces. The network service does not know that order; the compute
// service shows it by the order in which it names the networks and their MAC addresses.
func inOrder(ports []port, addresses json.RawMessage) []port {
	rank := map[string]int{}
	for i, mac := range macsOf(addresses) {
		if _, seen := rank[mac]; !seen {
			rank[mac] = i + 1
		}
	}
	place := func(p port) int {
		if at := rank[p.MACAddress]; at > 0 {
			return at
		}
		return len(rank) + len(ports) + 1
	}
	sorted := slices.Clone(ports)
	slices.SortStableFunc(sorted, func(a, b port) int { return place(a) - place(b) })
	return sorted
}

// networkAddresses is what the service shows of one network of a server.
type networkAddresses struct {
	network string
	list    []struct {
		MAC     string `json:"OS-EXT-IPS-MAC:mac_addr"`
		Address string `json:"addr"`
		Type    string `json:"OS-EXT-IPS:type"`
	}
}

// networksIn reads a server's addresses, an object of lists, in the order of the text. Text that cannot be read has no order.
func networksIn(addresses json.RawMessage) []networkAddresses {
	d := json.NewDecoder(bytes.NewReader(addresses))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil
	}
	var out []networkAddresses
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return out
		}
		var n networkAddresses
		n.network, _ = name.(string)
		if err := d.Decode(&n.list); err != nil {
			return out
		}
		out = append(out, n)
	}
	return out
}

// macsOf lists the MAC addresses in a server's addresses, in the order of the text.
func macsOf(addresses json.RawMessage) []string {
	var macs []string
	for _, n := range networksIn(addresses) {
		for _, a := range n.list {
			macs = append(macs, a.MAC)
		}
	}
	return macs
}

// addressesOf gives a server's addresses by network, fixed and floating.
func addressesOf(addresses json.RawMessage) []*computev1.ServerAddresses {
	var out []*computev1.ServerAddresses
	for _, n := range networksIn(addresses) {
		one := &computev1.ServerAddresses{Network: n.network}
		for _, a := range n.list {
			if a.Type == "floating" {
				one.Floating = append(one.Floating, a.Address)
			} else {
				one.Fixed = append(one.Fixed, a.Address)
			}
		}
		out = append(out, one)
	}
	return out
}

// Delete implements driver.Driver.
func (d *Servers) Delete(ctx context.Context, id string) error {
	c, err := d.s.Compute(ctx)
	if err != nil {
		return err
	}
	err = cloud.Fault(servers.Delete(ctx, c, id).ExtractErr(), "delete server %s", id)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// ListMarked implements driver.Lister.
func (d *Servers) ListMarked(ctx context.Context) ([]driver.Marked, error) {
	all, err := d.list(ctx)
	if err != nil {
		return nil, err
	}
	var out []driver.Marked
	for _, s := range all {
		if key, name, ok := cloud.ParseMetadata(s.Metadata); ok && !s.isGone() {
			out = append(out, driver.Marked{ID: s.ID, Key: key, Name: name})
		}
	}
	return out, nil
}

// wanted is what a request asks for, with every reference resolved to the cloud's ids.
type wanted struct {
	flavor         flavors.Flavor
	securityGroups []string
	// volumes are in the order of the spec; devices gives the device's name where the spec has one.
	volumes []string
	devices map[string]string
	// metadata is all that the server should bear.
	metadata map[string]string
}

// resolve resolves what can be changed in place.
func (d *Servers) resolve(ctx context.Context, c *gophercloud.ServiceClient, r driver.Request[*computev1.ServerSpec]) (wanted, error) {
	w := wanted{devices: map[string]string{}, metadata: cloud.Metadata(r.Key, r.Name)}
	if err := checkMetadata(r.Spec.GetMetadata()); err != nil {
		return w, err
	}
	var err error
	if w.flavor, err = d.s.Flavor(ctx, "spec.flavor", r.Spec.GetFlavor(), false); err != nil {
		return w, err
	}
	for i, name := range r.Spec.GetSecurityGroups() {
		id, err := cloud.Ref(r.Refs, "spec.securityGroups["+strconv.Itoa(i)+"]", name, func(g *networkv1.SecurityGroup) string { return g.GetObserved().GetSecurityGroupId() })
		if err != nil {
			return w, err
		}
		w.securityGroups = append(w.securityGroups, id)
	}
	for i, v := range r.Spec.GetVolumes() {
		id, err := cloud.Ref(r.Refs, "spec.volumes["+strconv.Itoa(i)+"].volume", v.GetVolume(), func(v *storagev1.Volume) string { return v.GetObserved().GetVolumeId() })
		if err != nil {
			return w, err
		}
		w.volumes = append(w.volumes, id)
		w.devices[id] = v.GetDevice()
		w.metadata[metadataVolume+id] = wantAttached
	}
	for k, v := range r.Spec.GetMetadata() {
		w.metadata[k] = v
	}
	if text := r.Spec.GetRebuild(); text != "" {
		w.metadata[metadataRebuild] = text
	}
	w.metadata[metadataPower] = powerWord(r.Spec.GetPowerState())
	w.metadata[metadataFlavor] = w.flavor.Name
	if cloud.Minor(c) < embeddedFlavorMinor {
		w.metadata[metadataFlavor] = w.flavor.ID
	}
	return w, nil
}

// checkMetadata refuses keys that are Weft's own. The error is Invalid.
func checkMetadata(metadata map[string]string) error {
	for k := range metadata {
		if strings.HasPrefix(k, cloud.MetadataPrefix) {
			return fault.InField("spec.metadata."+k, "keys that begin with %q are Weft's own; choose another", cloud.MetadataPrefix)
		}
	}
	return nil
}
