// Package openstack puts the simulated services together: one world, one lock, the services below path prefixes
// of one listener, with the catalog that leads from one to the other.
package openstack

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/control"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/balance"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/compute"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/identity"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/image"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/network"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/object"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/share"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/volume"
	"github.com/weftcloud/weft/services/sandbox/internal/world"
)

// Config is what a simulated OpenStack needs.
type Config struct {
	Journal  *world.Journal
	Control  *control.Control
	Clock    world.Clock
	ImageDir string // where image data go; "" keeps them in memory
}

// Cloud is one simulated OpenStack.
type Cloud struct {
	world    *rest.World
	identity *identity.Service
	image    *image.Service
	network  *network.Service
	volume   *volume.Service
	compute  *compute.Service
	balance  *balance.Service
	object   *object.Service
	share    *share.Service
	handler  http.Handler
}

// catalog is what the cloud offers, with the types of the lab.
var catalog = []identity.CatalogEntry{
	{Type: "identity", Name: "keystone", URL: "/identity/v3/"},
	{Type: "compute", Name: "nova", URL: "/compute/v2.1"},
	{Type: "network", Name: "neutron", URL: "/network"},
	{Type: "volumev3", Name: "cinderv3", URL: "/volume/v3/{project}"},
	{Type: "block-storage", Name: "cinder", URL: "/volume/v3/{project}"},
	{Type: "image", Name: "glance", URL: "/image"},
	{Type: "load-balancer", Name: "octavia", URL: "/load-balancer"},
	{Type: "object-store", Name: "swift", URL: "/object/v1/AUTH_{project}"},
	{Type: "shared-file-system", Name: "manila", URL: "/share/v2"},
	{Type: "sharev2", Name: "manilav2", URL: "/share/v2"},
}

// New makes the cloud, loads its state and registers it with the control.
func New(cfg Config) (*Cloud, error) {
	w := &rest.World{Clock: cfg.Clock, Journal: cfg.Journal, Control: cfg.Control}
	c := &Cloud{world: w}
	var err error
	if c.identity, err = identity.New(w, "/identity", catalog); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	admin, _ := c.identity.Project("admin")
	auth := c.identity.Authenticate
	if c.image, err = image.New(w, "/image", cfg.ImageDir, admin.ID, auth); err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	if c.network, err = network.New(w, "/network", admin.ID, auth); err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	if c.volume, err = volume.New(w, "/volume", c.image, auth); err != nil {
		return nil, fmt.Errorf("volume: %w", err)
	}
	if c.compute, err = compute.New(w, "/compute", c.image, c.network, c.volume, auth); err != nil {
		return nil, fmt.Errorf("compute: %w", err)
	}
	if c.balance, err = balance.New(w, "/load-balancer", c.network, c.compute, auth); err != nil {
		return nil, fmt.Errorf("load balancer: %w", err)
	}
	if c.object, err = object.New(w, "/object", auth, c.identity.EC2); err != nil {
		return nil, fmt.Errorf("object: %w", err)
	}
	if c.share, err = share.New(w, "/share", auth); err != nil {
		return nil, fmt.Errorf("share: %w", err)
	}
	c.handler = c.mount()
	cfg.Control.AddInventory(c)
	cfg.Control.AddQuotas(c)
	cfg.Control.AddReset(c.Reset)
	return c, nil
}

func (c *Cloud) mount() http.Handler {
	mux := http.NewServeMux()
	for _, s := range []*rest.Service{&c.identity.Service, &c.image.Service, &c.network.Service, &c.volume.Service, &c.compute.Service, &c.balance.Service, &c.object.Service, &c.share.Service} {
		c.world.Control.AddDialect(s.Name, s.Dialect)
		wrapped := c.world.Control.Middleware(s.Name, c.world.Journal.Middleware(s))
		mux.Handle(s.Prefix, wrapped)
		mux.Handle(s.Prefix+"/", wrapped)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "sandbox: nothing at "+r.URL.Path+"; the services are below /identity, /compute, /network, /volume, /image, /object, /share and /load-balancer", http.StatusNotFound)
	})
	return mux
}

// Handler serves all services.
func (c *Cloud) Handler() http.Handler { return c.handler }

// Reset brings the cloud back to its seeds; tokens stay valid.
func (c *Cloud) Reset() error {
	var err error
	c.world.Do(func(time.Time) {
		c.world.Agenda.Clear()
		c.balance.Reset()
		c.compute.Reset()
		c.volume.Reset()
		c.network.Reset()
		c.object.Reset()
		c.share.Reset()
		c.identity.Reset()
		err = c.image.Reset()
	})
	return err
}

// Inventory lists every object at one moment.
func (c *Cloud) Inventory() []control.InventoryItem {
	var out []control.InventoryItem
	c.world.Do(func(time.Time) {
		out = append(out, c.identity.Inventory()...)
		out = append(out, c.compute.Inventory()...)
		out = append(out, c.network.Inventory()...)
		out = append(out, c.balance.Inventory()...)
		out = append(out, c.volume.Inventory()...)
		out = append(out, c.image.Inventory()...)
		out = append(out, c.object.Inventory()...)
		out = append(out, c.share.Inventory()...)
	})
	return out
}

// Counts is the number of objects by service and kind, without the seeds.
func (c *Cloud) Counts() map[string]int {
	out := map[string]int{}
	for _, item := range c.Inventory() {
		if !item.Seeded {
			out[item.Service+"."+item.Kind]++
		}
	}
	return out
}

// SetQuotas sets limits of one service for a project.
func (c *Cloud) SetQuotas(project, service string, limits map[string]int) error {
	var p identity.Project
	var known []string
	ok := false
	c.world.Do(func(time.Time) {
		p, ok = c.identity.Project(project)
		known = c.identity.ProjectNames()
	})
	if !ok {
		return fmt.Errorf("project %q: does not exist; there are %s", project, strings.Join(known, ", "))
	}
	set := map[string]func(string, map[string]int) error{
		"compute": c.compute.SetQuotas, "network": c.network.SetQuotas, "volume": c.volume.SetQuotas, "share": c.share.SetQuotas, "load-balancer": c.balance.SetQuotas,
	}[service]
	if set == nil {
		return fmt.Errorf("service %q: has no quotas; use compute, network, volume, share or load-balancer", service)
	}
	for key, limit := range limits {
		if limit < -1 {
			return fmt.Errorf("%s: %d must be -1 (unlimited) or more", key, limit)
		}
	}
	var err error
	c.world.Do(func(time.Time) { err = set(p.ID, limits) })
	if e, ok := errors.AsType[*rest.Error](err); ok {
		return fmt.Errorf("%s", e.Message)
	}
	return err
}

// Quotas yields the limits that were set: project id, service, key.
func (c *Cloud) Quotas() map[string]map[string]map[string]int {
	out := map[string]map[string]map[string]int{}
	c.world.Do(func(time.Time) {
		for service, all := range map[string]map[string]map[string]int{"compute": c.compute.Quotas(), "network": c.network.Quotas(), "volume": c.volume.Quotas(), "share": c.share.Quotas(), "load-balancer": c.balance.Quotas()} {
			for project, limits := range all {
				if out[project] == nil {
					out[project] = map[string]map[string]int{}
				}
				out[project][service] = limits
			}
		}
	})
	return out
}

// CloudsYAML is a clouds.yaml with the clouds sandbox (project demo), sandbox-other and sandbox-admin.
func CloudsYAML(authURL string) []byte {
	b := &strings.Builder{}
	b.WriteString("clouds:\n")
	for _, c := range []struct{ name, user string }{{"sandbox", "demo"}, {"sandbox-other", "other"}, {"sandbox-admin", "admin"}} {
		fmt.Fprintf(b, `  %s:
    auth:
      auth_url: %s
      username: %s
      password: %s
      project_name: %s
      user_domain_name: Default
      project_domain_name: Default
    region_name: %s
    interface: public
    identity_api_version: 3
`, c.name, authURL, c.user, identity.Password, c.user, identity.Region)
	}
	return []byte(b.String())
}
