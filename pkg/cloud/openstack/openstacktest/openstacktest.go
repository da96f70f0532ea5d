// Package openstacktest gives tests of drivers the places to run at, and the objects that a kind needs and that are
// another service's to make.
package openstacktest

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/routers"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"

	"github.com/weftcloud/weft/pkg/driver"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// AbsentID is an id of an object that no cloud has.
const AbsentID = "00000000-0000-4000-8000-000000000000"

// Place is an OpenStack to run tests at.
type Place struct {
	// Session is a session with it.
	Session *cloud.Session
	// Image and Flavor name an image and a flavor to make servers from; OtherFlavor one to resize to.
	Image, Flavor, OtherFlavor string
	// Interval is the time between two looks at what is going on there.
	Interval time.Duration

	cut   *atomic.Bool
	calls *atomic.Int64
}

// Calls tells how many calls the session has made.
func (p *Place) Calls() int64 { return p.calls.Load() }

// Wait passes the time between two looks. The place is a process with a clock of its own.
func (p *Place) Wait() { time.Sleep(p.Interval) }

// Open opens a session at a place. Image and flavors are the ones that the lab and the sandbox have.
func Open(t *testing.T, c driver.Credentials) *Place {
	t.Helper()
	p := &Place{Image: "tiny", Flavor: "m1.tiny", OtherFlavor: "m1.small", Interval: 400 * time.Millisecond, cut: &atomic.Bool{}, calls: &atomic.Int64{}}
	s, err := cloud.Open(t.Context(), c, cloud.WithTransport(func(rt http.RoundTripper) http.RoundTripper { return breakable{rt, p.cut, p.calls} }))
	if err != nil {
		t.Fatal(err)
	}
	p.Session = s
	return p
}

// Real opens a session at the cloud that OS_CLIENT_CONFIG_FILE and OS_CLOUD name, and skips the test if they are unset.
func Real(t *testing.T) *Place {
	t.Helper()
	path, name := os.Getenv("OS_CLIENT_CONFIG_FILE"), os.Getenv("OS_CLOUD")
	if path == "" || name == "" {
		t.Skip("OS_CLIENT_CONFIG_FILE and OS_CLOUD name no real OpenStack")
	}
	c, err := cloud.FromCloudsYAML(path, name)
	if err != nil {
		t.Fatal(err)
	}
	return Open(t, c)
}

// FromYAML opens a session at a place that a clouds.yaml names, as simulated clouds give it.
func FromYAML(t *testing.T, text []byte, name string) *Place {
	t.Helper()
	path := filepath.Join(t.TempDir(), "clouds.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := cloud.FromCloudsYAML(path, name)
	if err != nil {
		t.Fatal(err)
	}
	p := Open(t, c)
	p.Interval = 20 * time.Millisecond
	return p
}

// Outage cuts the way to the place, and returns what mends it.
func (p *Place) Outage(t *testing.T) (mend func()) {
	p.cut.Store(true)
	mend = func() { p.cut.Store(false) }
	t.Cleanup(mend)
	return mend
}

// breakable is a transport that can be cut, and that counts.
type breakable struct {
	rt    http.RoundTripper
	cut   *atomic.Bool
	calls *atomic.Int64
}

// RoundTrip implements http.RoundTripper.
func (b breakable) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.cut.Load() {
		return nil, errors.New("the way is cut")
	}
	b.calls.Add(1)
	return b.rt.RoundTrip(r)
}

// client unwraps one of the session's clients.
func client(t *testing.T, get func(context.Context) (*gophercloud.ServiceClient, error)) *gophercloud.ServiceClient {
	t.Helper()
	c, err := get(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// remove has an object taken away at the end of the test, and waits until it is. It is tried again while the cloud says
// that something is in the way, for that goes away asynchronously.
func (p *Place) remove(t *testing.T, what string, del func(context.Context) error, get func(context.Context) error) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		var err error
		for ctx.Err() == nil {
			if err = del(ctx); gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
				return
			}
			if gophercloud.ResponseCodeIs(get(ctx), http.StatusNotFound) {
				return
			}
			p.Wait()
		}
		t.Errorf("%s is left behind: %v", what, err)
	})
}

// Mark is what the objects bear that are made as Weft makes them, for a kind that refers to them.
var Mark = cloud.Description("00000000-0000-7000-8000-00000000c0de", "tenants/conform/subnets/ours")

// Network makes a network with a subnet, which bears the mark.
func (p *Place) Network(t *testing.T, cidr string) (*networkv1.Network, *networkv1.Subnet) {
	t.Helper()
	return p.network(t, cidr, Mark)
}

// ForeignNetwork makes a network with a subnet, as someone else would.
func (p *Place) ForeignNetwork(t *testing.T, cidr string) (*networkv1.Network, *networkv1.Subnet) {
	t.Helper()
	return p.network(t, cidr, "")
}

func (p *Place) network(t *testing.T, cidr, description string) (*networkv1.Network, *networkv1.Subnet) {
	t.Helper()
	c := client(t, p.Session.Network)
	n, err := networks.Create(t.Context(), c, networks.CreateOpts{Name: "conform"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	p.remove(t, "network "+n.ID, func(ctx context.Context) error { return networks.Delete(ctx, c, n.ID).ExtractErr() },
		func(ctx context.Context) error { return networks.Get(ctx, c, n.ID).Err })
	network := &networkv1.Network{Name: "tenants/conform/networks/" + n.ID, Observed: &networkv1.NetworkObserved{NetworkId: n.ID}}
	if cidr == "" {
		return network, nil
	}
	s, err := subnets.Create(t.Context(), c, subnets.CreateOpts{Name: "conform", Description: description, NetworkID: n.ID, CIDR: cidr, IPVersion: gophercloud.IPv4}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	return network, &networkv1.Subnet{Name: "tenants/conform/subnets/" + s.ID, Spec: &networkv1.SubnetSpec{Cidr: cidr}, Observed: &networkv1.SubnetObserved{SubnetId: s.ID, Cidr: cidr}}
}

// Port makes a port on a network, as someone else would, and gives its id and address.
func (p *Place) Port(t *testing.T, network *networkv1.Network) (id, address string) {
	t.Helper()
	return p.PortAs(t, ports.CreateOpts{Name: "foreign", NetworkID: network.GetObserved().GetNetworkId()})
}

// PortAs makes a port as the options say, and gives its id and address.
func (p *Place) PortAs(t *testing.T, opts ports.CreateOpts) (id, address string) {
	t.Helper()
	c := client(t, p.Session.Network)
	made, err := ports.Create(t.Context(), c, opts).Extract()
	if err != nil {
		t.Fatal(err)
	}
	p.remove(t, "port "+made.ID, func(ctx context.Context) error { return ports.Delete(ctx, c, made.ID).ExtractErr() },
		func(ctx context.Context) error { return ports.Get(ctx, c, made.ID).Err })
	return made.ID, made.FixedIPs[0].IPAddress
}

// Routed makes a router between a subnet and the only external network, and gives its id.
func (p *Place) Routed(t *testing.T, subnet *networkv1.Subnet) string {
	t.Helper()
	c := client(t, p.Session.Network)
	external, err := p.Session.ExternalNetwork(t.Context(), "", "", false)
	if err != nil {
		t.Fatal(err)
	}
	r, err := routers.Create(t.Context(), c, routers.CreateOpts{Name: "conform", GatewayInfo: &routers.GatewayInfo{NetworkID: external.ID}}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	subnetID := subnet.GetObserved().GetSubnetId()
	p.remove(t, "router "+r.ID, func(ctx context.Context) error {
		// the interface may be gone already; the router's own deletion tells what is wrong
		if _, err := routers.RemoveInterface(ctx, c, r.ID, routers.RemoveInterfaceOpts{SubnetID: subnetID}).Extract(); err != nil && !gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
			return err
		}
		return routers.Delete(ctx, c, r.ID).ExtractErr()
	}, func(ctx context.Context) error { return routers.Get(ctx, c, r.ID).Err })
	if _, err := routers.AddInterface(t.Context(), c, r.ID, routers.AddInterfaceOpts{SubnetID: subnetID}).Extract(); err != nil {
		t.Fatal(err)
	}
	return r.ID
}

// SecurityGroup makes a security group.
func (p *Place) SecurityGroup(t *testing.T) *networkv1.SecurityGroup {
	t.Helper()
	c := client(t, p.Session.Network)
	g, err := groups.Create(t.Context(), c, groups.CreateOpts{Name: "conform"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	p.remove(t, "security group "+g.ID, func(ctx context.Context) error { return groups.Delete(ctx, c, g.ID).ExtractErr() },
		func(ctx context.Context) error { return groups.Get(ctx, c, g.ID).Err })
	return &networkv1.SecurityGroup{Name: "tenants/conform/securityGroups/" + g.ID, Observed: &networkv1.SecurityGroupObserved{SecurityGroupId: g.ID}}
}

// Volume makes a volume of 1 GiB and waits until it is available.
func (p *Place) Volume(t *testing.T) *storagev1.Volume {
	t.Helper()
	c := client(t, p.Session.BlockStorage)
	v, err := volumes.Create(t.Context(), c, volumes.CreateOpts{Name: "conform", Size: 1}, nil).Extract()
	if err != nil {
		t.Fatal(err)
	}
	p.remove(t, "volume "+v.ID, func(ctx context.Context) error { return volumes.Delete(ctx, c, v.ID, nil).ExtractErr() },
		func(ctx context.Context) error { return volumes.Get(ctx, c, v.ID).Err })
	p.Await(t, "volume", func() (bool, error) {
		got, err := volumes.Get(t.Context(), c, v.ID).Extract()
		return err == nil && got.Status == "available", err
	})
	return &storagev1.Volume{Name: "tenants/conform/volumes/" + v.ID, Observed: &storagev1.VolumeObserved{VolumeId: v.ID, SizeGib: 1}}
}

// Server makes a server on a network and waits until it runs.
func (p *Place) Server(t *testing.T, network *networkv1.Network) *computev1.Server {
	t.Helper()
	c := client(t, p.Session.Compute)
	image, err := p.Session.ImageByRef(t.Context(), "", p.Image, false)
	if err != nil {
		t.Fatal(err)
	}
	flavor, err := p.Session.Flavor(t.Context(), "", p.Flavor, false)
	if err != nil {
		t.Fatal(err)
	}
	s, err := servers.Create(t.Context(), c, servers.CreateOpts{
		Name: "conform", ImageRef: image.ID, FlavorRef: flavor.ID,
		Networks: []servers.Network{{UUID: network.GetObserved().GetNetworkId()}},
	}, nil).Extract()
	if err != nil {
		t.Fatal(err)
	}
	p.remove(t, "server "+s.ID, func(ctx context.Context) error { return servers.Delete(ctx, c, s.ID).ExtractErr() },
		func(ctx context.Context) error { return servers.Get(ctx, c, s.ID).Err })
	p.Await(t, "server", func() (bool, error) {
		got, err := servers.Get(t.Context(), c, s.ID).Extract()
		return err == nil && got.Status == "ACTIVE", err
	})
	return &computev1.Server{Name: "tenants/conform/servers/" + s.ID, Observed: &computev1.ServerObserved{ServerId: s.ID}}
}

// Await repeats a look until it is true, fails or takes longer than a minute.
func (p *Place) Await(t *testing.T, what string, look func() (bool, error)) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); p.Wait() {
		done, err := look()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if done {
			return
		}
	}
	t.Fatalf("%s: not within a minute", what)
}
