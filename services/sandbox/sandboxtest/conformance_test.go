package sandboxtest

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/snapshots"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/attachinterfaces"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/keypairs"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/tags"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/volumeattach"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imagedata"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/attributestags"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/floatingips"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/portforwarding"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/routers"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/rules"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"
	"github.com/gophercloud/gophercloud/v2/pagination"
)

func TestNetworksAndSubnets(t *testing.T) {
	eachCloud(t, func(t *testing.T, c *cloud) {
		ctx := t.Context()
		n := c.addNetwork(t, "a")
		if n.Status != "ACTIVE" || n.AdminStateUp != true {
			t.Errorf("new network: %+v", n)
		}
		s := c.addSubnet(t, n.ID, "10.77.0.0/24")
		want := subnets.Subnet{GatewayIP: "10.77.0.1", CIDR: "10.77.0.0/24", EnableDHCP: true, AllocationPools: []subnets.AllocationPool{{Start: "10.77.0.2", End: "10.77.0.254"}}}
		got := subnets.Subnet{GatewayIP: s.GatewayIP, CIDR: s.CIDR, EnableDHCP: s.EnableDHCP, AllocationPools: s.AllocationPools}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		create := func(opts subnets.CreateOpts) error {
			opts.NetworkID, opts.IPVersion = n.ID, 4
			_, err := subnets.Create(ctx, c.network, opts).Extract()
			return err
		}
		refused(t, create(subnets.CreateOpts{CIDR: "10.77.0.128/25"}), http.StatusBadRequest, "InvalidInput", "overlaps with another subnet")
		refused(t, create(subnets.CreateOpts{CIDR: "10.79.0.0/32"}), http.StatusBadRequest, "incompatible with DHCP")
		refused(t, create(subnets.CreateOpts{CIDR: "10.79.0.0/24", AllocationPools: []subnets.AllocationPool{{Start: "10.80.0.1", End: "10.80.0.2"}}}), http.StatusBadRequest, "OutOfBoundsAllocationPool")
		_, err := networks.Get(ctx, c.network, absent).Extract()
		refused(t, err, http.StatusNotFound, "NetworkNotFound")
		refused(t, networks.Delete(ctx, c.network, absent).ExtractErr(), http.StatusNotFound)
		p := c.addPort(t, n.ID, "p")
		refused(t, networks.Delete(ctx, c.network, n.ID).ExtractErr(), http.StatusConflict, "NetworkInUse", p.ID)
		refused(t, subnets.Delete(ctx, c.network, s.ID).ExtractErr(), http.StatusConflict, "SubnetInUse")
		// The DHCP port comes by itself and does not block the deletion.
		until(t, "dhcp port", func(ctx context.Context) (bool, error) {
			page, err := ports.List(c.network, ports.ListOpts{NetworkID: n.ID, DeviceOwner: "network:dhcp"}).AllPages(ctx)
			if err != nil {
				return false, err
			}
			found, err := ports.ExtractPorts(page)
			return len(found) == 1, err
		})
		if err := ports.Delete(ctx, c.network, p.ID).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		if err := networks.Delete(ctx, c.network, n.ID).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		_, err = subnets.Get(ctx, c.network, s.ID).Extract()
		refused(t, err, http.StatusNotFound, "SubnetNotFound")
	})
}

func TestNetworkListsTagsAndPages(t *testing.T) {
	eachCloud(t, func(t *testing.T, c *cloud) {
		ctx := t.Context()
		ids := []string{c.addNetwork(t, "1").ID, c.addNetwork(t, "2").ID, c.addNetwork(t, "3").ID}
		mine := "made by " + c.prefix
		tag := func(i int, all ...string) {
			got := must[[]string](t)(attributestags.ReplaceAll(ctx, c.network, "networks", ids[i], attributestags.ReplaceAllOpts{Tags: all}).Extract())
			slices.Sort(got)
			if diff := cmp.Diff(all, got); diff != "" {
				t.Error(diff)
			}
		}
		tag(0, "blue", "red")
		tag(1, "red")
		find := func(opts networks.ListOpts) []string {
			opts.Description = mine
			page := must[pagination.Page](t)(networks.List(c.network, opts).AllPages(ctx))
			var out []string
			for _, n := range must[[]networks.Network](t)(networks.ExtractNetworks(page)) {
				out = append(out, n.Name[len(c.prefix):])
			}
			slices.Sort(out)
			return out
		}
		for name, one := range map[string]struct {
			opts networks.ListOpts
			want []string
		}{
			"all":         {networks.ListOpts{}, []string{"1", "2", "3"}},
			"tags":        {networks.ListOpts{Tags: "red,blue"}, []string{"1"}},
			"tagsAny":     {networks.ListOpts{TagsAny: "blue,red"}, []string{"1", "2"}},
			"notTags":     {networks.ListOpts{NotTags: "blue,red"}, []string{"2", "3"}},
			"notTagsAny":  {networks.ListOpts{NotTagsAny: "blue,red"}, []string{"3"}},
			"name":        {networks.ListOpts{Name: c.prefix + "2"}, []string{"2"}},
			"status":      {networks.ListOpts{Status: "DOWN"}, nil},
			"pages of 1":  {networks.ListOpts{Limit: 1}, []string{"1", "2", "3"}},
			"pages of 2":  {networks.ListOpts{Limit: 2, SortKey: "name", SortDir: "desc"}, []string{"1", "2", "3"}},
			"other owner": {networks.ListOpts{ProjectID: "nobody"}, nil},
		} {
			if diff := cmp.Diff(one.want, find(one.opts)); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
		_, err := networks.List(c.network, networks.ListOpts{SortKey: "nonsense", SortDir: "asc"}).AllPages(ctx)
		refused(t, err, http.StatusBadRequest, "invalid attribute for sort_keys")
		_, err = networks.List(c.network, networks.ListOpts{Limit: 1, Marker: absent}).AllPages(ctx)
		refused(t, err, http.StatusNotFound, "NetworkNotFound")
		refused(t, attributestags.Delete(ctx, c.network, "networks", ids[2], "none").ExtractErr(), http.StatusNotFound, "TagNotFound")
		refused(t, attributestags.Add(ctx, c.network, "networks", absent, "x").ExtractErr(), http.StatusNotFound, "TagResourceNotFound")
	})
}

func TestPorts(t *testing.T) {
	eachCloud(t, func(t *testing.T, c *cloud) {
		ctx := t.Context()
		n := c.addNetwork(t, "a")
		s := c.addSubnet(t, n.ID, "10.78.0.0/24")
		p := c.addPort(t, n.ID, "p")
		if p.Status != "DOWN" || len(p.FixedIPs) != 1 || p.FixedIPs[0].SubnetID != s.ID || len(p.SecurityGroups) != 1 {
			t.Errorf("new port: %+v", p)
		}
		create := func(opts ports.CreateOpts) error {
			opts.NetworkID = n.ID
			_, err := ports.Create(ctx, c.network, opts).Extract()
			return err
		}
		refused(t, create(ports.CreateOpts{FixedIPs: []ports.IP{{IPAddress: p.FixedIPs[0].IPAddress}}}), http.StatusConflict, "IpAddressAlreadyAllocated")
		refused(t, create(ports.CreateOpts{FixedIPs: []ports.IP{{SubnetID: s.ID, IPAddress: "10.99.0.1"}}}), http.StatusBadRequest, "InvalidIpForSubnet")
		refused(t, create(ports.CreateOpts{FixedIPs: []ports.IP{{SubnetID: absent}}}), http.StatusNotFound, "SubnetNotFound")
		refused(t, create(ports.CreateOpts{SecurityGroups: &[]string{absent}}), http.StatusNotFound, "SecurityGroupNotFound")
		refused(t, create(ports.CreateOpts{MACAddress: p.MACAddress}), http.StatusConflict, "MacAddressInUse")
		_, err := ports.Create(ctx, c.network, ports.CreateOpts{NetworkID: absent}).Extract()
		refused(t, err, http.StatusNotFound, "NetworkNotFound")
		pairs := []ports.AddressPair{{IPAddress: "10.78.0.200"}}
		name := c.prefix + "renamed"
		p = must[*ports.Port](t)(ports.Update(ctx, c.network, p.ID, ports.UpdateOpts{Name: &name, AllowedAddressPairs: &pairs}).Extract())
		if p.Name != name || len(p.AllowedAddressPairs) != 1 || p.AllowedAddressPairs[0].MACAddress != p.MACAddress || p.RevisionNumber < 2 {
			t.Errorf("updated port: %+v", p)
		}
		page := must[pagination.Page](t)(ports.List(c.network, ports.ListOpts{FixedIPs: []ports.FixedIPOpts{{SubnetID: s.ID, IPAddress: p.FixedIPs[0].IPAddress}}}).AllPages(ctx))
		if found := must[[]ports.Port](t)(ports.ExtractPorts(page)); len(found) != 1 || found[0].ID != p.ID {
			t.Errorf("by fixed ip: %v", found)
		}
	})
}

func TestRoutersAndFloatingIPs(t *testing.T) {
	eachCloud(t, func(t *testing.T, c *cloud) {
		ctx := t.Context()
		public := c.external(t)
		n := c.addNetwork(t, "a")
		s := c.addSubnet(t, n.ID, "10.76.0.0/24")
		p := c.addPort(t, n.ID, "p")
		q := c.addPort(t, n.ID, "q")
		router := c.addRouter(t, "")
		c.plug(t, router.ID, s.ID)
		_, err := routers.AddInterface(ctx, c.network, router.ID, routers.AddInterfaceOpts{SubnetID: s.ID}).Extract()
		refused(t, err, http.StatusBadRequest, "Router already has a port on subnet")
		_, err = routers.Update(ctx, c.network, router.ID, routers.UpdateOpts{GatewayInfo: &routers.GatewayInfo{NetworkID: n.ID}}).Extract()
		refused(t, err, http.StatusBadRequest, "is not an external network")
		refused(t, routers.Delete(ctx, c.network, router.ID).ExtractErr(), http.StatusConflict, "RouterInUse")

		add := func() *floatingips.FloatingIP {
			f := must[*floatingips.FloatingIP](t)(floatingips.Create(ctx, c.network, floatingips.CreateOpts{FloatingNetworkID: public, Description: c.prefix}).Extract())
			cleanup(t, "floating ip", func(ctx context.Context) error { return floatingips.Delete(ctx, c.network, f.ID).ExtractErr() })
			return f
		}
		bind := func(f *floatingips.FloatingIP, port *string) (*floatingips.FloatingIP, error) {
			return floatingips.Update(ctx, c.network, f.ID, floatingips.UpdateOpts{PortID: port}).Extract()
		}
		f := add()
		if f.Status != "DOWN" || f.PortID != "" || f.FloatingIP == "" {
			t.Errorf("new floating ip: %+v", f)
		}
		_, err = bind(f, &p.ID)
		refused(t, err, http.StatusNotFound, "ExternalGatewayForFloatingIPNotFound")
		_, err = floatingips.Create(ctx, c.network, floatingips.CreateOpts{FloatingNetworkID: n.ID}).Extract()
		refused(t, err, http.StatusBadRequest, "is not a valid external network")

		r := must[*routers.Router](t)(routers.Update(ctx, c.network, router.ID, routers.UpdateOpts{GatewayInfo: &routers.GatewayInfo{NetworkID: public}}).Extract())
		if len(r.GatewayInfo.ExternalFixedIPs) != 1 || r.Status != "ACTIVE" {
			t.Errorf("router with gateway: %+v", r)
		}
		f = must[*floatingips.FloatingIP](t)(bind(f, &p.ID))
		if f.RouterID != router.ID || f.FixedIP != p.FixedIPs[0].IPAddress {
			t.Errorf("associated: %+v", f)
		}
		until(t, "floating ip ACTIVE", func(ctx context.Context) (bool, error) {
			f, err := floatingips.Get(ctx, c.network, f.ID).Extract()
			return err == nil && f.Status == "ACTIVE", err
		})
		g := add()
		_, err = bind(g, &p.ID)
		refused(t, err, http.StatusConflict, "FloatingIPPortAlreadyAssociated")
		checkForwardings(t, c, g, p, q)
		_, err = routers.RemoveInterface(ctx, c.network, router.ID, routers.RemoveInterfaceOpts{SubnetID: s.ID}).Extract()
		refused(t, err, http.StatusConflict, "RouterInterfaceInUseByFloatingIP")
		_, err = routers.Update(ctx, c.network, router.ID, routers.UpdateOpts{GatewayInfo: &routers.GatewayInfo{}}).Extract()
		refused(t, err, http.StatusConflict, "RouterExternalGatewayInUseByFloatingIp")
		// A port that goes takes its association along.
		if err := ports.Delete(ctx, c.network, p.ID).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		f = must[*floatingips.FloatingIP](t)(floatingips.Get(ctx, c.network, f.ID).Extract())
		if f.PortID != "" || f.RouterID != "" {
			t.Errorf("after its port went: %+v", f)
		}
	})
}

func checkForwardings(t *testing.T, c *cloud, f *floatingips.FloatingIP, bound, free *ports.Port) {
	t.Helper()
	ctx := t.Context()
	create := func(p *ports.Port, external, internal int) (*portforwarding.PortForwarding, error) {
		return portforwarding.Create(ctx, c.network, f.ID, portforwarding.CreateOpts{
			Protocol: "tcp", InternalPortID: p.ID, InternalIPAddress: p.FixedIPs[0].IPAddress, ExternalPort: external, InternalPort: internal,
		}).Extract()
	}
	_, err := create(bound, 2222, 22)
	refused(t, err, http.StatusConflict, "PortHasBindingFloatingIP")
	fw := must[*portforwarding.PortForwarding](t)(create(free, 2222, 22))
	_, err = create(free, 2222, 23)
	refused(t, err, http.StatusBadRequest, "port collision with the external_port_range")
	_, err = create(free, 2223, 22)
	refused(t, err, http.StatusBadRequest, "port collision with the internal_port_range")
	_, err = create(free, 70000, 23)
	refused(t, err, http.StatusBadRequest, "'70000' is too large - must be no larger than '65535'")
	for text, opts := range map[string]portforwarding.CreateOpts{
		"TCP is not in valid_values":   {Protocol: "TCP", InternalPortID: free.ID, InternalIPAddress: free.FixedIPs[0].IPAddress, ExternalPort: 2224, InternalPort: 24},
		"is not suitable for internal": {Protocol: "tcp", InternalPortID: free.ID, InternalIPAddress: "192.0.2.1", ExternalPort: 2224, InternalPort: 24},
	} {
		_, err = portforwarding.Create(ctx, c.network, f.ID, opts).Extract()
		refused(t, err, http.StatusBadRequest, text)
	}
	refused(t, floatingips.Delete(ctx, c.network, f.ID).ExtractErr(), http.StatusConflict, "FipInUseByPortForwarding")
	moved := must[*portforwarding.PortForwarding](t)(portforwarding.Update(ctx, c.network, f.ID, fw.ID, portforwarding.UpdateOpts{ExternalPort: 2225, Protocol: "udp"}).Extract())
	if moved.ExternalPort != 2225 || moved.Protocol != "udp" || moved.InternalPort != 22 {
		t.Errorf("changed: %+v", moved)
	}
	_, err = floatingips.Update(ctx, c.network, f.ID, floatingips.UpdateOpts{PortID: &free.ID}).Extract()
	refused(t, err, http.StatusConflict, "FipInUseByPortForwarding")
	page := must[pagination.Page](t)(portforwarding.List(c.network, portforwarding.ListOpts{}, f.ID).AllPages(ctx))
	if found := must[[]portforwarding.PortForwarding](t)(portforwarding.ExtractPortForwardings(page)); len(found) != 1 || found[0].ID != fw.ID {
		t.Errorf("port forwardings: %v", found)
	}
	if err := portforwarding.Delete(ctx, c.network, f.ID, fw.ID).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	refused(t, portforwarding.Delete(ctx, c.network, f.ID, fw.ID).ExtractErr(), http.StatusNotFound, "PortForwardingNotFound")
}

func TestSecurityGroups(t *testing.T) {
	eachCloud(t, func(t *testing.T, c *cloud) {
		ctx := t.Context()
		g := must[*groups.SecGroup](t)(groups.Create(ctx, c.network, groups.CreateOpts{Name: c.prefix + "web"}).Extract())
		cleanup(t, "security group", func(ctx context.Context) error { return groups.Delete(ctx, c.network, g.ID).ExtractErr() })
		if len(g.Rules) != 2 {
			t.Errorf("a new group has two egress rules, got %v", g.Rules)
		}
		create := func(opts rules.CreateOpts) (*rules.SecGroupRule, error) {
			opts.SecGroupID = g.ID
			if opts.Direction == "" {
				opts.Direction = rules.DirIngress
			}
			opts.EtherType = rules.EtherType4
			return rules.Create(ctx, c.network, opts).Extract()
		}
		web := rules.CreateOpts{Protocol: rules.ProtocolTCP, PortRangeMin: 80, PortRangeMax: 80, RemoteIPPrefix: "0.0.0.0/0"}
		first := must[*rules.SecGroupRule](t)(create(web))
		_, err := create(web)
		refused(t, err, http.StatusConflict, "SecurityGroupRuleExists", first.ID)
		_, err = create(rules.CreateOpts{Protocol: rules.ProtocolTCP, PortRangeMin: 90, PortRangeMax: 80})
		refused(t, err, http.StatusBadRequest, "SecurityGroupInvalidPortRange")
		_, err = create(rules.CreateOpts{RemoteGroupID: g.ID, RemoteIPPrefix: "10.0.0.0/8"})
		refused(t, err, http.StatusBadRequest, "SecurityGroupMultipleRemoteEntites")
		_, err = create(rules.CreateOpts{Direction: rules.DirEgress})
		refused(t, err, http.StatusConflict, "SecurityGroupRuleExists")
		n := c.addNetwork(t, "a")
		_, err = groups.Create(ctx, c.network, groups.CreateOpts{Name: "default"}).Extract()
		refused(t, err, http.StatusConflict, "SecurityGroupDefaultAlreadyExists")
		must[*ports.Port](t)(ports.Create(ctx, c.network, ports.CreateOpts{NetworkID: n.ID, SecurityGroups: &[]string{g.ID}}).Extract())
		refused(t, groups.Delete(ctx, c.network, g.ID).ExtractErr(), http.StatusConflict, "SecurityGroupInUse")
		page := must[pagination.Page](t)(ports.List(c.network, ports.ListOpts{NetworkID: n.ID}).AllPages(ctx))
		for _, p := range must[[]ports.Port](t)(ports.ExtractPorts(page)) {
			if err := ports.Delete(ctx, c.network, p.ID).ExtractErr(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestServerRefusals(t *testing.T) {
	eachCloud(t, func(t *testing.T, c *cloud) {
		ctx := t.Context()
		n := c.addNetwork(t, "a")
		c.addSubnet(t, n.ID, "10.75.0.0/24")
		good := servers.CreateOpts{Name: c.prefix + "x", ImageRef: c.imageID(t), FlavorRef: "1", Networks: []servers.Network{{UUID: n.ID}}}
		for name, one := range map[string]struct {
			change func(*servers.CreateOpts)
			status int
			text   string
		}{
			"no image":   {func(o *servers.CreateOpts) { o.ImageRef = absent }, 400, "Can not find requested image"},
			"no flavor":  {func(o *servers.CreateOpts) { o.FlavorRef = "99" }, 400, "Flavor 99 could not be found."},
			"no network": {func(o *servers.CreateOpts) { o.Networks = []servers.Network{{UUID: absent}} }, 400, "Network " + absent + " could not be found."},
			"no port":    {func(o *servers.CreateOpts) { o.Networks = []servers.Network{{Port: absent}} }, 400, "Port id " + absent + " could not be found."},
			"no group":   {func(o *servers.CreateOpts) { o.SecurityGroups = []string{"nope"} }, 400, "Unable to find security_group"},
			"no zone":    {func(o *servers.CreateOpts) { o.AvailabilityZone = "nope" }, 400, "The requested availability zone is not available"},
			"bad tag":    {func(o *servers.CreateOpts) { o.Tags = []string{"a,b"} }, 400, "does not match"},
			"too many":   {func(o *servers.CreateOpts) { o.Min, o.Max = 21, 21 }, 403, "Quota exceeded for"},
			"volume is gone": {func(o *servers.CreateOpts) {
				o.BlockDevice = []servers.BlockDevice{{BootIndex: 0, SourceType: "volume", DestinationType: "volume", UUID: absent}}
			}, 400, "Volume " + absent + " could not be found."},
			"no size of disk": {func(o *servers.CreateOpts) {
				o.BlockDevice = []servers.BlockDevice{{BootIndex: 0, SourceType: "image", DestinationType: "volume", UUID: o.ImageRef}}
				o.ImageRef = ""
			}, 400, "non-zero size"},
		} {
			t.Run(name, func(t *testing.T) {
				opts := good
				one.change(&opts)
				_, err := servers.Create(ctx, c.compute, opts, nil).Extract()
				refused(t, err, one.status, one.text)
			})
		}
		_, err := servers.Get(ctx, c.compute, absent).Extract()
		refused(t, err, http.StatusNotFound, "Instance "+absent+" could not be found.")
		old := *c.compute
		old.Microversion = "2.99"
		_, err = servers.Get(ctx, &old, absent).Extract()
		refused(t, err, http.StatusNotAcceptable, "is not supported by the API")
	})
}

func TestServerLife(t *testing.T) {
	eachCloud(t, func(t *testing.T, c *cloud) {
		ctx := t.Context()
		n := c.addNetwork(t, "a")
		c.addSubnet(t, n.ID, "10.74.0.0/24")
		p := c.addPort(t, n.ID, "p")
		k := must[*keypairs.KeyPair](t)(keypairs.Create(ctx, c.compute, keypairs.CreateOpts{Name: strings.TrimSuffix(c.prefix, "-")}).Extract())
		cleanup(t, "keypair", func(ctx context.Context) error { return keypairs.Delete(ctx, c.compute, k.Name, nil).ExtractErr() })
		if !strings.HasPrefix(k.PrivateKey, "-----BEGIN") || k.Fingerprint == "" {
			t.Errorf("keypair: %+v", k)
		}
		_, err := keypairs.Create(ctx, c.compute, keypairs.CreateOpts{Name: k.Name}).Extract()
		refused(t, err, http.StatusConflict, "already exists")

		created := c.addServer(t, servers.CreateOpts{
			Name: "one", ImageRef: c.imageID(t), Networks: []servers.Network{{Port: p.ID}}, Metadata: map[string]string{"a": "b"}, Tags: []string{"t1"},
			UserData: []byte("#!/bin/sh\n"),
		})
		if created.AdminPass == "" {
			t.Error("no password in the answer to create")
		}
		v := c.serverReaches(t, created.ID, "ACTIVE")
		if v.PowerState != servers.RUNNING || v.VmState != "active" || v.Metadata["a"] != "b" || v.HostID == "" || v.Image["id"] == "" || !slices.Equal(*v.Tags, []string{"t1"}) {
			t.Errorf("active server: %+v", v)
		}
		if got := must[*ports.Port](t)(ports.Get(ctx, c.network, p.ID).Extract()); got.DeviceID != v.ID || got.DeviceOwner != "compute:nova" {
			t.Errorf("plugged port: %+v", got)
		}
		_, err = servers.Create(ctx, c.compute, servers.CreateOpts{Name: c.prefix + "two", ImageRef: c.imageID(t), FlavorRef: "1", Networks: []servers.Network{{Port: p.ID}}}, nil).Extract()
		refused(t, err, http.StatusConflict, "is still in use")

		checkServerLists(t, c, v)
		checkServerAttributes(t, c, v.ID)
		refused(t, servers.Start(ctx, c.compute, v.ID).ExtractErr(), http.StatusConflict, "while it is in vm_state active")
		if err := servers.Stop(ctx, c.compute, v.ID).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		if v = c.serverReaches(t, v.ID, "SHUTOFF"); v.PowerState != servers.SHUTDOWN {
			t.Errorf("stopped: %v", v.PowerState)
		}
		refused(t, servers.Reboot(ctx, c.compute, v.ID, servers.RebootOpts{Type: servers.SoftReboot}).ExtractErr(), http.StatusConflict)
		if err := servers.Start(ctx, c.compute, v.ID).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		c.serverReaches(t, v.ID, "ACTIVE")
		if err := servers.Delete(ctx, c.compute, v.ID).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		until(t, "server gone", func(ctx context.Context) (bool, error) {
			_, err := servers.Get(ctx, c.compute, v.ID).Extract()
			return gone(err)
		})
		// A port that was given to the server stays, free again.
		until(t, "port free", func(ctx context.Context) (bool, error) {
			p, err := ports.Get(ctx, c.network, p.ID).Extract()
			return err == nil && p.DeviceID == "", err
		})
	})
}

func checkServerLists(t *testing.T, c *cloud, v *servers.Server) {
	t.Helper()
	ctx := t.Context()
	for name, one := range map[string]struct {
		opts servers.ListOpts
		want int
	}{
		"name":          {servers.ListOpts{Name: v.Name}, 1},
		"part of name":  {servers.ListOpts{Name: c.prefix}, 1},
		"other name":    {servers.ListOpts{Name: c.prefix + "nope"}, 0},
		"status":        {servers.ListOpts{Name: c.prefix, Status: "ACTIVE"}, 1},
		"other status":  {servers.ListOpts{Name: c.prefix, Status: "ERROR"}, 0},
		"tags":          {servers.ListOpts{Tags: "t1", Name: c.prefix}, 1},
		"not tags":      {servers.ListOpts{NotTags: "t1", Name: c.prefix}, 0},
		"changes since": {servers.ListOpts{Name: c.prefix, ChangesSince: "2020-01-01T00:00:00Z"}, 1},
		"limit":         {servers.ListOpts{Name: c.prefix, Limit: 1}, 1},
	} {
		page := must[pagination.Page](t)(servers.List(c.compute, one.opts).AllPages(ctx))
		if found := must[[]servers.Server](t)(servers.ExtractServers(page)); len(found) != one.want {
			t.Errorf("%s: %d servers, want %d", name, len(found), one.want)
		}
	}
	_, err := servers.List(c.compute, servers.ListOpts{AllTenants: true}).AllPages(ctx)
	refused(t, err, http.StatusForbidden, "get_all_tenants")
	_, err = servers.List(c.compute, servers.ListOpts{Marker: absent}).AllPages(ctx)
	refused(t, err, http.StatusBadRequest, "marker")
	_, err = servers.List(c.compute, servers.ListOpts{Status: "NONSENSE"}).AllPages(ctx)
	refused(t, err, http.StatusBadRequest, "Invalid status value")
}

func checkServerAttributes(t *testing.T, c *cloud, id string) {
	t.Helper()
	ctx := t.Context()
	meta := must[map[string]string](t)(servers.UpdateMetadata(ctx, c.compute, id, servers.MetadataOpts{"x": "y"}).Extract())
	if diff := cmp.Diff(map[string]string{"a": "b", "x": "y"}, meta); diff != "" {
		t.Error(diff)
	}
	meta = must[map[string]string](t)(servers.ResetMetadata(ctx, c.compute, id, servers.MetadataOpts{"z": "1"}).Extract())
	if diff := cmp.Diff(map[string]string{"z": "1"}, meta); diff != "" {
		t.Error(diff)
	}
	_, err := servers.Metadatum(ctx, c.compute, id, "nope").Extract()
	refused(t, err, http.StatusNotFound, "Metadata item was not found")
	if err := tags.Add(ctx, c.compute, id, "t2").ExtractErr(); err != nil {
		t.Fatal(err)
	}
	if got := must[[]string](t)(tags.List(ctx, c.compute, id).Extract()); !slices.Equal(got, []string{"t1", "t2"}) {
		t.Errorf("tags: %v", got)
	}
	if err := tags.Delete(ctx, c.compute, id, "t2").ExtractErr(); err != nil {
		t.Fatal(err)
	}
	refused(t, tags.Delete(ctx, c.compute, id, "t2").ExtractErr(), http.StatusNotFound, "has no tag")
	if err := servers.Lock(ctx, c.compute, id).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	refused(t, servers.Delete(ctx, c.compute, id).ExtractErr(), http.StatusConflict, "is locked")
	if err := servers.Unlock(ctx, c.compute, id).ExtractErr(); err != nil {
		t.Fatal(err)
	}
}

func TestVolumes(t *testing.T) {
	eachCloud(t, func(t *testing.T, c *cloud) {
		ctx := t.Context()
		v := c.addVolume(t, volumes.CreateOpts{Size: 1, Name: "v", Metadata: map[string]string{"key": c.prefix}})
		if v.Status != "creating" || v.VolumeType != "standard" {
			t.Errorf("new volume: %+v", v)
		}
		c.volumeReaches(t, v.ID, "available")
		list := func(opts volumes.ListOpts) int {
			page := must[pagination.Page](t)(volumes.List(c.block, opts).AllPages(ctx))
			return len(must[[]volumes.Volume](t)(volumes.ExtractVolumes(page)))
		}
		for name, one := range map[string]struct {
			opts volumes.ListOpts
			want int
		}{
			"metadata":       {volumes.ListOpts{Metadata: map[string]string{"key": c.prefix}}, 1},
			"other metadata": {volumes.ListOpts{Metadata: map[string]string{"key": "nope"}}, 0},
			"name":           {volumes.ListOpts{Name: c.prefix + "v"}, 1},
			"part of a name": {volumes.ListOpts{Name: c.prefix}, 0},
			"status":         {volumes.ListOpts{Name: c.prefix + "v", Status: "available"}, 1},
		} {
			if got := list(one.opts); got != one.want {
				t.Errorf("%s: %d, want %d", name, got, one.want)
			}
		}
		_, err := volumes.Create(ctx, c.block, volumes.CreateOpts{Size: 1, VolumeType: "nope"}, nil).Extract()
		refused(t, err, http.StatusNotFound, "Volume type with name nope could not be found.")
		_, err = volumes.Create(ctx, c.block, volumes.CreateOpts{Size: 1, ImageID: absent}, nil).Extract()
		refused(t, err, http.StatusBadRequest, "Invalid image identifier")
		_, err = volumes.Create(ctx, c.block, volumes.CreateOpts{Size: 99999}, nil).Extract()
		refused(t, err, http.StatusRequestEntityTooLarge, "VolumeSizeExceedsAvailableQuota")
		_, err = volumes.Get(ctx, c.block, absent).Extract()
		refused(t, err, http.StatusNotFound, "could not be found")
		refused(t, volumes.ExtendSize(ctx, c.block, v.ID, volumes.ExtendSizeOpts{NewSize: 1}).ExtractErr(), http.StatusBadRequest, "must be greater than current size")
		if err := volumes.ExtendSize(ctx, c.block, v.ID, volumes.ExtendSizeOpts{NewSize: 2}).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		until(t, "extended", func(ctx context.Context) (bool, error) {
			v, err := volumes.Get(ctx, c.block, v.ID).Extract()
			return err == nil && v.Status == "available" && v.Size == 2, err
		})
		checkSnapshots(t, c, v.ID)
		if err := volumes.Delete(ctx, c.block, v.ID, nil).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		until(t, "volume gone", func(ctx context.Context) (bool, error) {
			_, err := volumes.Get(ctx, c.block, v.ID).Extract()
			return gone(err)
		})
	})
}

func checkSnapshots(t *testing.T, c *cloud, volume string) {
	t.Helper()
	ctx := t.Context()
	snap := must[*snapshots.Snapshot](t)(snapshots.Create(ctx, c.block, snapshots.CreateOpts{VolumeID: volume, Name: c.prefix + "snap"}).Extract())
	until(t, "snapshot available", func(ctx context.Context) (bool, error) {
		s, err := snapshots.Get(ctx, c.block, snap.ID).Extract()
		return err == nil && s.Status == "available", err
	})
	refused(t, volumes.Delete(ctx, c.block, volume, nil).ExtractErr(), http.StatusBadRequest, "have snapshots")
	_, err := volumes.Create(ctx, c.block, volumes.CreateOpts{SnapshotID: snap.ID, Size: 1}, nil).Extract()
	refused(t, err, http.StatusBadRequest, "cannot be smaller than the snapshot size")
	if err := snapshots.Delete(ctx, c.block, snap.ID).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	until(t, "snapshot gone", func(ctx context.Context) (bool, error) {
		_, err := snapshots.Get(ctx, c.block, snap.ID).Extract()
		return gone(err)
	})
}

func TestAttachments(t *testing.T) {
	eachCloud(t, func(t *testing.T, c *cloud) {
		ctx := t.Context()
		n := c.addNetwork(t, "a")
		c.addSubnet(t, n.ID, "10.73.0.0/24")
		data := c.addVolume(t, volumes.CreateOpts{Size: 1, Name: "data"})
		c.volumeReaches(t, data.ID, "available")
		v := c.addServer(t, servers.CreateOpts{Name: "disks", Networks: []servers.Network{{UUID: n.ID}}, BlockDevice: []servers.BlockDevice{
			{BootIndex: 0, UUID: c.imageID(t), SourceType: "image", DestinationType: "volume", VolumeSize: 1, DeleteOnTermination: true},
			{BootIndex: -1, UUID: data.ID, SourceType: "volume", DestinationType: "volume"},
		}})
		v = c.serverReaches(t, v.ID, "ACTIVE")
		if len(v.AttachedVolumes) != 2 || len(v.Image) != 0 {
			t.Fatalf("server from a volume: image %v, volumes %v", v.Image, v.AttachedVolumes)
		}
		inUse := c.volumeReaches(t, data.ID, "in-use")
		if len(inUse.Attachments) != 1 || inUse.Attachments[0].ServerID != v.ID || inUse.Attachments[0].Device != "/dev/vdb" {
			t.Errorf("attachments: %+v", inUse.Attachments)
		}
		refused(t, volumes.Delete(ctx, c.block, data.ID, nil).ExtractErr(), http.StatusBadRequest, "must not be migrating, attached")
		_, err := volumeattach.Create(ctx, c.compute, v.ID, volumeattach.CreateOpts{VolumeID: data.ID}).Extract()
		refused(t, err, http.StatusBadRequest, "is already attached to instances")
		_, err = volumeattach.Get(ctx, c.compute, v.ID, absent).Extract()
		refused(t, err, http.StatusNotFound, "is not attached to volume")
		if err := volumeattach.Delete(ctx, c.compute, v.ID, data.ID).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		c.volumeReaches(t, data.ID, "available")
		nic := must[*attachinterfaces.Interface](t)(attachinterfaces.Create(ctx, c.compute, v.ID, attachinterfaces.CreateOpts{NetworkID: n.ID}).Extract())
		if err := attachinterfaces.Delete(ctx, c.compute, v.ID, nic.PortID).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		until(t, "interface gone", func(ctx context.Context) (bool, error) {
			_, err := ports.Get(ctx, c.network, nic.PortID).Extract()
			return gone(err)
		})
		boot := v.AttachedVolumes[0].ID
		if boot == data.ID {
			boot = v.AttachedVolumes[1].ID
		}
		if err := servers.Delete(ctx, c.compute, v.ID).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		until(t, "boot volume gone with the server", func(ctx context.Context) (bool, error) {
			_, err := volumes.Get(ctx, c.block, boot).Extract()
			return gone(err)
		})
	})
}

func TestResize(t *testing.T) {
	eachCloud(t, func(t *testing.T, c *cloud) {
		ctx := t.Context()
		n := c.addNetwork(t, "a")
		c.addSubnet(t, n.ID, "10.72.0.0/24")
		v := c.addServer(t, servers.CreateOpts{Name: "grow", ImageRef: c.imageID(t), Networks: []servers.Network{{UUID: n.ID}}})
		c.serverReaches(t, v.ID, "ACTIVE")
		refused(t, servers.Resize(ctx, c.compute, v.ID, servers.ResizeOpts{FlavorRef: "1"}).ExtractErr(), http.StatusBadRequest, "must change flavor")
		refused(t, servers.ConfirmResize(ctx, c.compute, v.ID).ExtractErr(), http.StatusConflict, "confirmResize")
		if err := servers.Resize(ctx, c.compute, v.ID, servers.ResizeOpts{FlavorRef: "2"}).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		if got := c.serverReaches(t, v.ID, "VERIFY_RESIZE"); got.Flavor["original_name"] != "m1.small" {
			t.Errorf("flavor after resize: %v", got.Flavor)
		}
		refused(t, servers.Stop(ctx, c.compute, v.ID).ExtractErr(), http.StatusConflict, "vm_state resized")
		if err := servers.ConfirmResize(ctx, c.compute, v.ID).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		if got := c.serverReaches(t, v.ID, "ACTIVE"); got.Flavor["original_name"] != "m1.small" {
			t.Errorf("flavor after confirm: %v", got.Flavor)
		}
	})
}

func TestImages(t *testing.T) {
	eachCloud(t, func(t *testing.T, c *cloud) {
		ctx := t.Context()
		img := must[*images.Image](t)(images.Create(ctx, c.image, images.CreateOpts{
			Name: c.prefix + "img", DiskFormat: "raw", ContainerFormat: "bare", Tags: []string{c.prefix}, Properties: map[string]string{"os_distro": "weft"},
		}).Extract())
		cleanup(t, "image", func(ctx context.Context) error { return images.Delete(ctx, c.image, img.ID).ExtractErr() })
		if img.Status != images.ImageStatusQueued {
			t.Errorf("new image: %v", img.Status)
		}
		if err := imagedata.Upload(ctx, c.image, img.ID, strings.NewReader("hello")).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		img = must[*images.Image](t)(images.Get(ctx, c.image, img.ID).Extract())
		if img.Status != images.ImageStatusActive || img.SizeBytes != 5 || img.Checksum != "5d41402abc4b2a76b9719d911017c592" {
			t.Errorf("uploaded: %+v", img)
		}
		page := must[pagination.Page](t)(images.List(c.image, images.ListOpts{Tags: []string{c.prefix}}).AllPages(ctx))
		if found := must[[]images.Image](t)(images.ExtractImages(page)); len(found) != 1 || found[0].ID != img.ID {
			t.Errorf("by tag: %v", found)
		}
		got := must[*images.Image](t)(images.Update(ctx, c.image, img.ID, images.UpdateOpts{images.ReplaceImageName{NewName: c.prefix + "new"}, images.UpdateImageProperty{Op: images.AddOp, Name: "k", Value: "v"}}).Extract())
		if got.Name != c.prefix+"new" || got.Properties["k"] != "v" {
			t.Errorf("patched: %+v", got)
		}
		_, err := images.Get(ctx, c.image, absent).Extract()
		refused(t, err, http.StatusNotFound, "No image found with ID")
		refused(t, images.Delete(ctx, c.image, c.imageID(t)).ExtractErr(), http.StatusForbidden, "You do not own this image")
		_, err = images.Create(ctx, c.image, images.CreateOpts{ID: img.ID, Name: c.prefix + "twin"}).Extract()
		refused(t, err, http.StatusConflict, "already exists")
	})
}

func TestBadToken(t *testing.T) {
	eachCloud(t, func(t *testing.T, c *cloud) {
		for name, client := range map[string]*gophercloud.ServiceClient{"compute": c.compute, "network": c.network, "volume": c.block, "image": c.image} {
			provider := &gophercloud.ProviderClient{TokenID: "bad"}
			bad := *client
			bad.ProviderClient = provider
			path := map[string]string{"compute": "servers", "network": "networks", "volume": "volumes", "image": "images"}[name]
			_, err := bad.Get(t.Context(), bad.ServiceURL(path), nil, nil)
			refused(t, err, http.StatusUnauthorized)
		}
	})
}
