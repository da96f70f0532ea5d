package openstack

import (
	"context"
	"encoding/base64"
	"strconv"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// createOpts is the client library's options and what it does not know: the key pair, and the devices' names.
type createOpts struct {
	servers.CreateOpts
	keyName string
	group   string
	devices map[string]string
}

// ToServerCreateMap implements servers.CreateOptsBuilder.
func (o createOpts) ToServerCreateMap() (map[string]any, error) {
	body, err := o.CreateOpts.ToServerCreateMap()
	if err != nil {
		return nil, err
	}
	s, ok := body["server"].(map[string]any)
	if !ok {
		return nil, fault.New(fault.Internal, "the client library made a request without a server")
	}
	if o.keyName != "" {
		s["key_name"] = o.keyName
	}
	if o.group != "" {
		body["os:scheduler_hints"] = map[string]any{"group": o.group}
	}
	blocks, ok := s["block_device_mapping_v2"].([]any)
	if !ok {
		return body, nil
	}
	for _, b := range blocks {
		block, isMap := b.(map[string]any)
		if id, isText := block["uuid"].(string); isMap && isText && o.devices[id] != "" {
			block["device_name"] = o.devices[id]
		}
	}
	return body, nil
}

// createOpts gives the one call that makes a server.
func (d *Servers) createOpts(ctx context.Context, c *gophercloud.ServiceClient, r driver.Request[*computev1.ServerSpec]) (createOpts, error) {
	w, err := d.resolve(ctx, c, r)
	if err != nil {
		return createOpts{}, err
	}
	image, err := d.s.ImageByRef(ctx, "spec.image", r.Spec.GetImage(), false)
	if err != nil {
		return createOpts{}, err
	}
	networks, err := networksOf(r)
	if err != nil {
		return createOpts{}, err
	}
	w.metadata[metadataRebuilt] = r.Spec.GetRebuild()
	o := createOpts{devices: w.devices, CreateOpts: servers.CreateOpts{
		Name: cloud.LastPart(r.Name), ImageRef: image.ID, FlavorRef: w.flavor.ID, Networks: networks, SecurityGroups: w.securityGroups,
		Metadata: w.metadata, AvailabilityZone: r.Spec.GetAvailabilityZone(), BlockDevice: blockDevices(image.ID, w.volumes),
	}}
	if cloud.Minor(c) >= cloud.TagsMinor {
		o.Tags = append([]string{cloud.Tag(r.Key)}, r.Spec.GetTags()...)
	}
	if text := r.Spec.GetUserData(); text != "" {
		o.UserData = []byte(base64.StdEncoding.EncodeToString([]byte(text)))
	}
	if name := r.Spec.GetServerGroup(); name != "" {
		if o.group, err = cloud.Ref(r.Refs, "spec.serverGroup", name, func(g *computev1.ServerGroup) string { return g.GetObserved().GetServerGroupId() }); err != nil {
			return o, err
		}
	}
	if name := r.Spec.GetKeyPair(); name != "" {
		o.keyName, err = cloud.Ref(r.Refs, "spec.keyPair", name, func(k *computev1.KeyPair) string { return k.GetObserved().GetKeyPairName() })
	}
	return o, err
}

// blockDevices gives the disks of a server with volumes: its own from the image, which goes with it, and the volumes,
// which stay. Without volumes the service makes the disk by itself.
func blockDevices(imageID string, volumes []string) []servers.BlockDevice {
	if len(volumes) == 0 {
		return nil
	}
	out := []servers.BlockDevice{{
		UUID: imageID, BootIndex: 0, SourceType: servers.SourceImage, DestinationType: servers.DestinationLocal, DeleteOnTermination: true,
	}}
	for _, id := range volumes {
		out = append(out, servers.BlockDevice{UUID: id, BootIndex: -1, SourceType: servers.SourceVolume, DestinationType: servers.DestinationVolume})
	}
	return out
}

// networksOf gives the interfaces that a spec asks for, in order.
func networksOf(r driver.Request[*computev1.ServerSpec]) ([]servers.Network, error) {
	asked, at := r.Spec.GetNetworks(), func(i int) string { return "spec.networks[" + strconv.Itoa(i) + "].network" }
	if name := r.Spec.GetNetwork(); name != "" {
		asked, at = []*computev1.ServerNetwork{{Network: name}}, func(int) string { return "spec.network" }
	}
	if len(asked) == 0 {
		return nil, fault.InField("spec.network", "a server needs a network")
	}
	out := make([]servers.Network, 0, len(asked))
	for i, n := range asked {
		id, err := cloud.Ref(r.Refs, at(i), n.GetNetwork(), func(n *networkv1.Network) string { return n.GetObserved().GetNetworkId() })
		if err != nil {
			return nil, err
		}
		out = append(out, servers.Network{UUID: id, FixedIP: n.GetAddress()})
	}
	return out, nil
}
