package openstack

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/projects"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/users"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// gone makes the answer to a deletion: an object that is not there is what was asked for.
func (d *Projects) gone(err error, what string) error {
	err = cloud.Fault(err, "%s", what)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return d.permit(err)
}

// Delete implements driver.Driver. The cloud would delete a project with all that stands in it unreachable, so it is looked
// for first. The project goes last: it bears the mark.
func (d *Projects) Delete(ctx context.Context, id string) error {
	p, err := d.one(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return d.forget(ctx, id)
	}
	if err != nil {
		return err
	}
	found, err := d.Blockers(ctx, id)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return driver.Blocked(found)
	}
	c, err := d.s.Identity(ctx)
	if err != nil {
		return err
	}
	key, _, ours := cloud.ParseDescription(p.Description)
	if ours {
		if err := d.deleteUser(ctx, c, key, p.DomainID); err != nil {
			return err
		}
	}
	if err := d.deleteDefaultGroups(ctx, id); err != nil {
		return err
	}
	if err := d.gone(projects.Delete(ctx, c, id).ExtractErr(), "delete project "+id); err != nil || !ours {
		return err
	}
	return d.cfg.Vault.Drop(ctx, key)
}

// forget drops the secrets of a project that is gone.
func (d *Projects) forget(ctx context.Context, id string) error {
	key, _, err := d.cfg.Vault.Of(ctx, id)
	if err != nil || key == "" {
		return err
	}
	return d.cfg.Vault.Drop(ctx, key)
}

// deleteUser takes the user away, with whom the identity service takes all credentials. That it is about to is kept first:
// nobody can look into the project from then on, and nobody has to.
func (d *Projects) deleteUser(ctx context.Context, c *gophercloud.ServiceClient, key, domain string) error {
	user, err := d.findUser(ctx, key, domain)
	if err != nil || user == "" {
		return err
	}
	_, err = d.cfg.Vault.Change(ctx, key, func(k *orchestratorv1.ProjectKeys) error { k.Emptied = true; return nil })
	if err != nil {
		return err
	}
	return d.gone(users.Delete(ctx, c, user).ExtractErr(), "delete user "+user)
}

// group is a security group, as far as it matters here.
type group struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	ProjectID string `json:"project_id"`
}

// defaultGroup is the name of the security group that the network service makes in each project by itself.
const defaultGroup = "default"

// deleteDefaultGroups deletes the security group that the network service made in the project by itself and would leave
// behind. The list must not ask for the project: the service would make the group again.
func (d *Projects) deleteDefaultGroups(ctx context.Context, project string) error {
	c, err := d.s.Network(ctx)
	if fault.Is(err, fault.Unsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := cloud.List[group](ctx, c, "security-groups", "security_groups", url.Values{"name": {defaultGroup}})
	if err != nil {
		return err
	}
	for _, g := range all {
		if g.ProjectID != project || g.Name != defaultGroup {
			continue
		}
		if err := d.gone(groups.Delete(ctx, c, g.ID).ExtractErr(), "delete the project's default security group"); err != nil {
			return err
		}
	}
	return nil
}

// standing is one object in a project, whatever its kind.
type standing struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	ProjectID   string            `json:"project_id"`
	TenantID    string            `json:"tenant_id"`
	Description string            `json:"description"`
	DeviceOwner string            `json:"device_owner"`
	Metadata    map[string]string `json:"metadata"`
}

// resource gives the Weft resource that an object is; empty if it is none.
func (s standing) resource() string {
	if _, name, ok := cloud.ParseDescription(s.Description); ok {
		return name
	}
	_, name, _ := cloud.ParseMetadata(s.Metadata)
	return name
}

// inProject is what can stand in a project, by the list that tells of it.
var inProject = []struct {
	kind, path, field string
	client            func(*cloud.Session, context.Context) (*gophercloud.ServiceClient, error)
}{
	{"server", "servers/detail", "servers", (*cloud.Session).Compute},
	{"load balancer", "lbaas/loadbalancers", "loadbalancers", (*cloud.Session).LoadBalancer},
	{"floating IP", "floatingips", "floatingips", (*cloud.Session).Network},
	{"router", "routers", "routers", (*cloud.Session).Network},
	{"network", "networks", "networks", (*cloud.Session).Network},
	{"port", "ports", "ports", (*cloud.Session).Network},
	{"security group", "security-groups", "security_groups", (*cloud.Session).Network},
	{"volume", "volumes/detail", "volumes", (*cloud.Session).BlockStorage},
	{"snapshot", "snapshots/detail", "snapshots", (*cloud.Session).BlockStorage},
	{"share", "shares/detail", "shares", (*cloud.Session).SharedFileSystem},
}

// Blockers implements driver.Blockable: what stands in the project, as its own user sees it. Only where this release has
// taken the user away there is nobody left to look, and nothing to look for. One that somebody else deleted is made anew.
func (d *Projects) Blockers(ctx context.Context, id string) ([]*kindv1.Blocker, error) {
	p, err := d.one(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	key, _, ours := cloud.ParseDescription(p.Description)
	if !ours {
		return nil, fault.New(fault.Unavailable, "project %s bears our mark no more, so that nobody can look into it; give it its description again", id)
	}
	kept, err := d.cfg.Vault.Load(ctx, key)
	if err != nil {
		return nil, err
	}
	if kept.GetPassword() != "" && len(kept.GetRoles()) == 0 {
		return nil, nil // nobody could ever work in it
	}
	user, err := d.findUser(ctx, key, p.DomainID)
	if err != nil || user == "" && kept.GetEmptied() {
		return nil, err
	}
	if !p.Enabled {
		if err := d.enable(ctx, id); err != nil {
			return nil, err
		}
	}
	w := &work{Projects: d, key: key, project: p, kept: kept}
	return w.look(ctx)
}

// look lists what stands in the project. It makes of its user what is missing.
func (w *work) look(ctx context.Context) ([]*kindv1.Blocker, error) {
	if w.kept.GetPassword() == "" || w.kept.GetEmptied() {
		err := w.change(ctx, func(k *orchestratorv1.ProjectKeys) {
			k.Emptied = false
			if k.GetPassword() == "" {
				k.Password = random()
			}
		})
		if err != nil {
			return nil, err
		}
	}
	for _, step := range []func(context.Context) error{w.haveUser, w.haveRoles} {
		if err := step(ctx); err != nil {
			return nil, fault.Wrap(err, "look into project %s", w.project.ID)
		}
	}
	if _, err := w.login(ctx); err != nil { // which sets a password again that was changed
		return nil, err
	}
	s, err := w.asUser(ctx, w.key, w.project.ID, w.project.DomainID, w.kept.GetPassword())
	if err != nil {
		return nil, fault.Wrap(err, "log in as the project's user")
	}
	found, err := inside(ctx, s)
	return found, w.fresh(err)
}

// inside lists what stands in the project of a session.
func inside(ctx context.Context, s *cloud.Session) ([]*kindv1.Blocker, error) {
	var out []*kindv1.Blocker
	for _, place := range inProject {
		c, err := place.client(s, ctx)
		if fault.Is(err, fault.Unsupported) {
			continue // the cloud has no such service
		}
		if err != nil {
			return nil, err
		}
		all, err := cloud.List[standing](ctx, c, place.path, place.field, nil)
		if err != nil {
			return nil, err
		}
		for _, one := range all {
			foreign := one.ProjectID != "" && one.ProjectID != s.ProjectID || one.TenantID != "" && one.TenantID != s.ProjectID
			if foreign || place.kind == "security group" && one.Name == defaultGroup || place.kind == "port" && one.DeviceOwner != "" {
				continue // shared by others, the service's own, or told as what it belongs to
			}
			out = append(out, &kindv1.Blocker{Kind: place.kind, Id: one.ID, Owner: s.Whose(one.resource(), one.Name, s.ProjectID), Action: "delete the " + place.kind})
		}
	}
	for _, list := range []func(context.Context, *cloud.Session) ([]*kindv1.Blocker, error){imagesIn, containersIn} {
		found, err := list(ctx, s)
		if err != nil && !fault.Is(err, fault.Unsupported) {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// imagesIn lists the images that the project of a session owns.
func imagesIn(ctx context.Context, s *cloud.Session) ([]*kindv1.Blocker, error) {
	c, err := s.Image(ctx)
	if err != nil {
		return nil, err
	}
	pages, err := images.List(c, images.ListOpts{Owner: s.ProjectID}).AllPages(ctx)
	if err != nil {
		return nil, cloud.Fault(err, "list images")
	}
	all, err := images.ExtractImages(pages)
	if err != nil {
		return nil, cloud.Fault(err, "list images: read the answer")
	}
	var out []*kindv1.Blocker
	for _, i := range all {
		if i.Owner == s.ProjectID {
			out = append(out, &kindv1.Blocker{Kind: "image", Id: i.ID, Owner: s.Whose("", i.Name, ""), Action: "delete the image"})
		}
	}
	return out, nil
}

// containersIn lists the containers of the project of a session. An account that was never used may not be there, and who may
// not use the object store can have put nothing there.
func containersIn(ctx context.Context, s *cloud.Session) ([]*kindv1.Blocker, error) {
	c, err := s.ObjectStorage(ctx)
	if err != nil {
		return nil, err
	}
	var out []*kindv1.Blocker
	for marker := ""; ; {
		var page []struct {
			Name string `json:"name"`
		}
		query := url.Values{"format": {"json"}, "marker": {marker}}
		resp, err := c.Get(ctx, strings.TrimSuffix(c.Endpoint, "/")+"?"+query.Encode(), &page, &gophercloud.RequestOpts{OkCodes: []int{http.StatusOK, http.StatusNoContent}})
		if gophercloud.ResponseCodeIs(err, http.StatusNotFound) || gophercloud.ResponseCodeIs(err, http.StatusForbidden) {
			return nil, nil
		}
		if err != nil {
			return nil, cloud.Fault(err, "list containers")
		}
		if err := resp.Body.Close(); err != nil {
			return nil, cloud.Fault(err, "list containers")
		}
		if len(page) == 0 {
			return out, nil
		}
		marker = page[len(page)-1].Name
		for _, one := range page {
			out = append(out, &kindv1.Blocker{Kind: "container", Id: one.Name, Owner: s.Whose("", one.Name, ""), Action: "delete the container"})
		}
	}
}
