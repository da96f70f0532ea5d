package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/config"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/routers"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"

	"github.com/weftcloud/weft/services/sandbox"
)

// absent is the id of nothing.
const absent = "6c7a3c36-4b1c-4c3a-8d8a-3f1d6bd05fd3"

// cloud is one OpenStack under test: the sandbox, or a real one.
type cloud struct {
	real                           bool
	compute, network, block, image *gophercloud.ServiceClient
	prefix                         string // of every name, so that a real cloud can be shared
}

// eachCloud runs a test on the sandbox and, when OS_CLIENT_CONFIG_FILE and OS_CLOUD are set, on that cloud.
func eachCloud(t *testing.T, test func(t *testing.T, c *cloud)) {
	t.Run("sandbox", func(t *testing.T) {
		s := Start(t, sandbox.Config{})
		test(t, connect(t, CloudsFile(t, s), "sandbox", false))
	})
	t.Run("real", func(t *testing.T) {
		file, name := os.Getenv("OS_CLIENT_CONFIG_FILE"), os.Getenv("OS_CLOUD")
		if file == "" || name == "" {
			t.Skip("set OS_CLIENT_CONFIG_FILE and OS_CLOUD to hold the sandbox against a real OpenStack")
		}
		test(t, connect(t, file, name, true))
	})
}

func connect(t *testing.T, file, name string, real bool) *cloud {
	t.Helper()
	ctx := t.Context()
	auth, endpoint, tlsConfig, err := clouds.Parse(clouds.WithLocations(file), clouds.WithCloudName(name))
	if err != nil {
		t.Fatal(err)
	}
	provider, err := config.NewProviderClient(ctx, auth, config.WithTLSConfig(tlsConfig))
	if err != nil {
		t.Fatal(err)
	}
	c := &cloud{real: real, prefix: fmt.Sprintf("sandboxtest-%d-", time.Now().UnixNano()%1e9)}
	for _, one := range []struct {
		make func(*gophercloud.ProviderClient, gophercloud.EndpointOpts) (*gophercloud.ServiceClient, error)
		to   **gophercloud.ServiceClient
	}{{openstack.NewComputeV2, &c.compute}, {openstack.NewNetworkV2, &c.network}, {openstack.NewBlockStorageV3, &c.block}, {openstack.NewImageV2, &c.image}} {
		client, err := one.make(provider, endpoint)
		if err != nil {
			t.Fatal(err)
		}
		*one.to = client
	}
	c.compute.Microversion = "2.79"
	c.block.Microversion = "3.59"
	return c
}

func must[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// refused checks that err is the given status with the words in its body.
func refused(t *testing.T, err error, status int, words ...string) {
	t.Helper()
	if !gophercloud.ResponseCodeIs(err, status) {
		t.Fatalf("got %v, want status %d", err, status)
	}
	e := gophercloud.ErrUnexpectedResponseCode{}
	if !errors.As(err, &e) {
		t.Fatalf("got %T", err)
	}
	for _, word := range words {
		if !strings.Contains(string(e.Body), word) {
			t.Errorf("body %q lacks %q", e.Body, word)
		}
	}
}

// until polls with a bound: the clouds under test are processes of their own.
func until(t *testing.T, what string, done func(ctx context.Context) (bool, error)) {
	t.Helper()
	end := time.Now().Add(2 * time.Minute)
	for time.Now().Before(end) {
		ok, err := done(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if ok {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Fatalf("%s: not reached", what)
}

func gone(err error) (bool, error) {
	if gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
		return true, nil
	}
	return false, err
}

// cleanup deletes after the test, when the context of the test is over already.
func cleanup(t *testing.T, what string, remove func(ctx context.Context) error) {
	t.Cleanup(func() {
		end := time.Now().Add(time.Minute)
		for {
			err := remove(context.Background())
			if err == nil || gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
				return
			}
			if time.Now().After(end) {
				t.Errorf("clean up %s: %v", what, err)
				return
			}
			time.Sleep(200 * time.Millisecond)
		}
	})
}

func (c *cloud) addNetwork(t *testing.T, name string) *networks.Network {
	t.Helper()
	n := must[*networks.Network](t)(networks.Create(t.Context(), c.network, networks.CreateOpts{Name: c.prefix + name, Description: "made by " + c.prefix}).Extract())
	cleanup(t, "network", func(ctx context.Context) error { return networks.Delete(ctx, c.network, n.ID).ExtractErr() })
	return n
}

func (c *cloud) addSubnet(t *testing.T, network, cidr string) *subnets.Subnet {
	t.Helper()
	s := must[*subnets.Subnet](t)(subnets.Create(t.Context(), c.network, subnets.CreateOpts{NetworkID: network, CIDR: cidr, IPVersion: 4, Name: c.prefix + "subnet"}).Extract())
	return s
}

func (c *cloud) addPort(t *testing.T, network, name string) *ports.Port {
	t.Helper()
	p := must[*ports.Port](t)(ports.Create(t.Context(), c.network, ports.CreateOpts{NetworkID: network, Name: c.prefix + name}).Extract())
	cleanup(t, "port", func(ctx context.Context) error { return ports.Delete(ctx, c.network, p.ID).ExtractErr() })
	return p
}

func (c *cloud) addRouter(t *testing.T, gateway string) *routers.Router {
	t.Helper()
	opts := routers.CreateOpts{Name: c.prefix + "router"}
	if gateway != "" {
		opts.GatewayInfo = &routers.GatewayInfo{NetworkID: gateway}
	}
	r := must[*routers.Router](t)(routers.Create(t.Context(), c.network, opts).Extract())
	cleanup(t, "router", func(ctx context.Context) error { return routers.Delete(ctx, c.network, r.ID).ExtractErr() })
	return r
}

func (c *cloud) plug(t *testing.T, router, subnet string) {
	t.Helper()
	must[*routers.InterfaceInfo](t)(routers.AddInterface(t.Context(), c.network, router, routers.AddInterfaceOpts{SubnetID: subnet}).Extract())
	cleanup(t, "router interface", func(ctx context.Context) error {
		_, err := routers.RemoveInterface(ctx, c.network, router, routers.RemoveInterfaceOpts{SubnetID: subnet}).Extract()
		return err
	})
}

func (c *cloud) external(t *testing.T) string {
	t.Helper()
	pages := must[interface{ IsEmpty() (bool, error) }](t)(networks.List(c.network, networks.ListOpts{Name: "public"}).AllPages(t.Context()))
	found := must[[]networks.Network](t)(networks.ExtractNetworks(pages.(networks.NetworkPage)))
	if len(found) != 1 {
		t.Fatalf("external networks: %v", found)
	}
	return found[0].ID
}

func (c *cloud) imageID(t *testing.T) string {
	t.Helper()
	pages := must[interface{ IsEmpty() (bool, error) }](t)(images.List(c.image, images.ListOpts{Name: "tiny"}).AllPages(t.Context()))
	found := must[[]images.Image](t)(images.ExtractImages(pages.(images.ImagePage)))
	if len(found) != 1 {
		t.Fatalf("images called tiny: %v", found)
	}
	return found[0].ID
}

func (c *cloud) addServer(t *testing.T, opts servers.CreateOpts) *servers.Server {
	t.Helper()
	opts.Name = c.prefix + opts.Name
	if opts.FlavorRef == "" {
		opts.FlavorRef = "1"
	}
	v := must[*servers.Server](t)(servers.Create(t.Context(), c.compute, opts, nil).Extract())
	cleanup(t, "server", func(ctx context.Context) error {
		if err := servers.Delete(ctx, c.compute, v.ID).ExtractErr(); err != nil {
			return err
		}
		if _, err := servers.Get(ctx, c.compute, v.ID).Extract(); err != nil {
			return err
		}
		return errors.New("still there")
	})
	return v
}

func (c *cloud) serverReaches(t *testing.T, id, status string) *servers.Server {
	t.Helper()
	var v *servers.Server
	until(t, "server "+status, func(ctx context.Context) (bool, error) {
		var err error
		v, err = servers.Get(ctx, c.compute, id).Extract()
		if err != nil {
			return false, err
		}
		if v.Status == "ERROR" && status != "ERROR" {
			return false, fmt.Errorf("fault: %s", v.Fault.Message)
		}
		return v.Status == status && v.TaskState == "", nil
	})
	return v
}

func (c *cloud) addVolume(t *testing.T, opts volumes.CreateOpts) *volumes.Volume {
	t.Helper()
	opts.Name = c.prefix + opts.Name
	v := must[*volumes.Volume](t)(volumes.Create(t.Context(), c.block, opts, nil).Extract())
	cleanup(t, "volume", func(ctx context.Context) error {
		if err := volumes.Delete(ctx, c.block, v.ID, nil).ExtractErr(); err != nil {
			return err
		}
		return errors.New("still there")
	})
	return v
}

func (c *cloud) volumeReaches(t *testing.T, id, status string) *volumes.Volume {
	t.Helper()
	var v *volumes.Volume
	until(t, "volume "+status, func(ctx context.Context) (bool, error) {
		var err error
		v, err = volumes.Get(ctx, c.block, id).Extract()
		return err == nil && v.Status == status, err
	})
	return v
}
