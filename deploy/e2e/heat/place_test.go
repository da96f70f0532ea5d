package heat

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/endpoints"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/regions"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/services"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imagedata"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"sigs.k8s.io/yaml"

	"github.com/weftcloud/weft/deploy/e2e/internal/count"
	"github.com/weftcloud/weft/pkg/cloud/openstack"
)

// counted is the region of the cloud whose endpoints are the counting proxies.
const counted = "weft-beside-heat"

// place is the cloud, seen without Weft and without Heat.
type place struct {
	*openstack.Session
	counter *count.Counter
	// clouds is a clouds.yaml with the same credentials in the counted region.
	clouds string
}

func openCloud(b *testing.B, name string) *openstack.Session {
	b.Helper()
	credentials, err := openstack.FromCloudsYAML(os.Getenv("OS_CLIENT_CONFIG_FILE"), name)
	if err != nil {
		b.Fatal(err)
	}
	s, err := openstack.Open(b.Context(), credentials)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// open opens the cloud and puts the proxies before its services.
func open(b *testing.B) *place {
	b.Helper()
	p := &place{counter: count.New(), clouds: filepath.Join(b.TempDir(), "clouds.yaml")}
	b.Cleanup(func() {
		if err := p.counter.Close(); err != nil {
			b.Error(err)
		}
	})
	addRegion(b, openCloud(b, os.Getenv(adminVariable)), p.counter)
	p.Session = openCloud(b, os.Getenv("OS_CLOUD")) // after that: the catalog is part of the token
	p.writeClouds(b)
	return p
}

// writeClouds writes the credentials of OS_CLOUD with the counted region.
func (p *place) writeClouds(b *testing.B) {
	b.Helper()
	from := os.Getenv("OS_CLIENT_CONFIG_FILE")
	text, err := os.ReadFile(from)
	if err != nil {
		b.Fatal(err)
	}
	var file struct {
		Clouds map[string]map[string]any `json:"clouds"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		b.Fatal(err)
	}
	entry := file.Clouds[os.Getenv("OS_CLOUD")]
	entry["region_name"] = counted
	if ca, ok := entry["cacert"].(string); ok && !filepath.IsAbs(ca) {
		entry["cacert"] = filepath.Join(filepath.Dir(from), ca)
	}
	out, err := yaml.Marshal(map[string]any{"clouds": map[string]any{"lab": entry}})
	if err == nil {
		err = os.WriteFile(p.clouds, out, 0o600)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// addRegion adds a region whose endpoints are those of the administrator's, each behind a proxy, as long as the benchmark
// lasts. Only the identity service stands there as it is: Heat is configured with its address, and Weft logs in there.
func addRegion(b *testing.B, admin *openstack.Session, counter *count.Counter) {
	b.Helper()
	c, err := admin.Identity(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	dropRegion(b, c) // one that was left behind
	if err := regions.Create(b.Context(), c, regions.CreateOpts{ID: counted}).Err; err != nil {
		b.Fatalf("add region %s: %v", counted, err)
	}
	b.Cleanup(func() { dropRegion(b, c) })
	page, err := services.List(c, nil).AllPages(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	all, err := services.ExtractServices(page)
	if err != nil {
		b.Fatal(err)
	}
	types := map[string]string{}
	for _, s := range all {
		types[s.ID] = s.Type
	}
	for _, e := range listEndpoints(b, c, admin.Region) {
		address := e.URL
		if types[e.ServiceID] != "identity" {
			at, err := url.Parse(strings.NewReplacer("%", "%25").Replace(e.URL)) // %(project_id)s stands in it
			if err != nil {
				b.Fatal(err)
			}
			upstream := at.Scheme + "://" + at.Host
			front, err := counter.Before(upstream)
			if err != nil {
				b.Fatal(err)
			}
			address = front + strings.TrimPrefix(e.URL, upstream)
		}
		opts := endpoints.CreateOpts{Availability: e.Availability, Region: counted, ServiceID: e.ServiceID, URL: address}
		if err := endpoints.Create(b.Context(), c, opts).Err; err != nil {
			b.Fatalf("add an endpoint: %v", err)
		}
	}
}

func listEndpoints(b *testing.B, c *gophercloud.ServiceClient, region string) []endpoints.Endpoint {
	b.Helper()
	page, err := endpoints.List(c, endpoints.ListOpts{RegionID: region}).AllPages(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	all, err := endpoints.ExtractEndpoints(page)
	if err != nil {
		b.Fatal(err)
	}
	return all
}

// dropRegion takes the region away, if there is one.
func dropRegion(b *testing.B, c *gophercloud.ServiceClient) {
	ctx := context.Background() // the benchmark's own is over when this cleans up
	if err := regions.Get(ctx, c, counted).Err; gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
		return
	}
	for _, e := range listEndpoints(b, c, counted) {
		if err := endpoints.Delete(ctx, c, e.ID).ExtractErr(); err != nil {
			b.Errorf("delete an endpoint: %v", err)
		}
	}
	if err := regions.Delete(ctx, c, counted).ExtractErr(); err != nil {
		b.Errorf("delete region %s: %v", counted, err)
	}
}

// object is what is read of any object of the cloud.
type object struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description"`
	NetworkID   string `json:"network_id"`
	Status      string `json:"status"`
	Address     string `json:"floating_ip_address"`
	Provision   string `json:"provisioning_status"`
	Operating   string `json:"operating_status"`
	Attachments []any  `json:"attachments"`
}

// kinds are the kinds of objects that the composite and what comes with it are made of.
var kinds = []struct {
	name, path, field string
	client            func(*openstack.Session, context.Context) (*gophercloud.ServiceClient, error)
}{
	{"server", "servers/detail", "servers", (*openstack.Session).Compute},
	{"load balancer", "lbaas/loadbalancers", "loadbalancers", (*openstack.Session).LoadBalancer},
	{"volume", "volumes/detail", "volumes", (*openstack.Session).BlockStorage},
	{"floating IP", "floatingips", "floatingips", (*openstack.Session).Network},
	{"router", "routers", "routers", (*openstack.Session).Network},
	{"network", "networks", "networks", (*openstack.Session).Network},
	{"subnet", "subnets", "subnets", (*openstack.Session).Network},
	{"port", "ports", "ports", (*openstack.Session).Network},
	{"security group", "security-groups", "security_groups", (*openstack.Session).Network},
}

// mine lists what the cloud has of the composite, by kind: what bears the stack's name, what has its subnet's or network's
// id, and what stands on its network.
func (p *place) mine(ctx context.Context) (map[string][]object, error) {
	out := map[string][]object{}
	networks := map[string]bool{}
	for _, kind := range kinds {
		c, err := kind.client(p.Session, ctx)
		if err != nil {
			return nil, err
		}
		all, err := openstack.List[object](ctx, c, kind.path, kind.field, nil)
		if err != nil {
			return nil, fmt.Errorf("list each %s: %w", kind.name, err)
		}
		for _, o := range all {
			if strings.Contains(o.Name+" "+o.Description, stackName) || networks[o.NetworkID] {
				out[kind.name] = append(out[kind.name], o)
				networks[o.ID] = kind.name == "network"
			}
		}
	}
	return out, nil
}

// names names what the cloud has of the composite, a line each.
func (p *place) names(b *testing.B) []string {
	b.Helper()
	all, err := p.mine(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	var out []string
	for kind, objects := range all {
		for _, o := range objects {
			out = append(out, kind+" "+o.Name)
		}
	}
	slices.Sort(out)
	return out
}

// ready is an error until the composite stands: both machines run, each has its volume, the load balancer and what is below
// it are active, and both machines answer at the public address.
func (p *place) ready(ctx context.Context) error {
	all, err := p.mine(ctx)
	if err != nil {
		return err
	}
	for _, kind := range []struct {
		name string
		want int
		good func(object) bool
	}{
		{"server", 2, func(o object) bool { return o.Status == "ACTIVE" }},
		{"volume", 2, func(o object) bool { return o.Status == "in-use" && len(o.Attachments) == 1 }},
		{"load balancer", 1, func(o object) bool { return o.Provision == "ACTIVE" && o.Operating == "ONLINE" }},
		{"floating IP", 1, func(o object) bool { return o.Address != "" }},
	} {
		if n := len(all[kind.name]); n != kind.want {
			return fmt.Errorf("there is not each %s: %d", kind.name, n)
		}
		for _, o := range all[kind.name] {
			if !kind.good(o) {
				return fmt.Errorf("the %s is not ready: %+v", kind.name, o)
			}
		}
	}
	heard := map[string]bool{}
	for range 4 {
		text, err := fetch(ctx, "http://"+all["floating IP"][0].Address+"/")
		if err != nil {
			return err
		}
		heard[text] = true
	}
	if len(heard) != 2 {
		return fmt.Errorf("not both answer, but %v", heard)
	}
	return nil
}

func fetch(ctx context.Context, url string) (body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, answer.Body.Close()) }()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, answer.Status)
	}
	return strings.TrimSpace(string(text)), err
}

// brokenImage uploads an image from which no machine can be made: its disk is larger than that of any flavor, which the
// cloud finds out only on the host.
func (p *place) brokenImage(b *testing.B) (id string) {
	b.Helper()
	c, err := p.Image(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	visibility := images.ImageVisibilityPrivate
	image, err := images.Create(b.Context(), c, images.CreateOpts{Name: stackName + "-broken", DiskFormat: "qcow2", ContainerFormat: "bare", Visibility: &visibility}).Extract()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := images.Delete(context.Background(), c, image.ID).ExtractErr(); err != nil {
			b.Errorf("delete the image: %v", err)
		}
	})
	if err := imagedata.Upload(b.Context(), c, image.ID, strings.NewReader(string(emptyDisk(500<<30)))).ExtractErr(); err != nil {
		b.Fatal(err)
	}
	return image.ID
}

// emptyDisk gives an empty disk of a size in bytes in the format qcow2, version 2: a header, a table of references to one
// block of references, and a first table without an entry (docs/interop/qcow2.txt in the sources of QEMU).
func emptyDisk(size uint64) []byte {
	const clusterBits = 16
	const cluster = 1 << clusterBits
	tables := (size + cluster*cluster/8 - 1) / (cluster * cluster / 8) // what one cluster of the second table leads to
	out := make([]byte, 4*cluster)
	copy(out, "QFI\xfb")
	put32, put64 := binary.BigEndian.PutUint32, binary.BigEndian.PutUint64
	put32(out[4:], 2)
	put32(out[20:], clusterBits)
	put64(out[24:], size)
	put32(out[36:], uint32(tables))
	put64(out[40:], 3*cluster) // the first table
	put64(out[48:], cluster)   // the table of references,
	put32(out[56:], 1)         // one cluster of it
	put64(out[cluster:], 2*cluster)
	for n := range 4 {
		binary.BigEndian.PutUint16(out[2*cluster+2*n:], 1)
	}
	return out
}

// drain waits until what the cloud still tidies up is gone, at most for a while, and names the rest.
func (p *place) drain(b *testing.B, patience time.Duration) []string {
	b.Helper()
	left := p.names(b)
	for deadline := time.Now().Add(patience); len(left) > 0 && time.Now().Before(deadline); left = p.names(b) {
		time.Sleep(time.Second)
	}
	return left
}
