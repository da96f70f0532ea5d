package openstack

// A tenant's own project, its user and its credentials.
//
// Background. The project is the object: it bears the mark in its description, and its name ends with the key, so that a
// look-up after a lost answer is one call. All else belongs to it and is made by Update, which looks at what is there and
// does only what is missing: a user of the platform's, whose name is made of the key; the roles of this user in the project
// and nowhere else; and application credentials, made by the user itself, restricted, with an end. No person's credentials
// are among them: the cloud's own are needed to make the user and to take it away, not to work in the project nor to rotate,
// nor to see that the project stands, for as long as the user can log in.
//
// States of a credential. The spec says by numbers which credential is to be in use, and which are to be gone.
//
//	begun      its secret is drawn and kept in the vault before the cloud is asked: the cloud takes the secret from us, so
//	           that a credential whose answer was lost is found by its name and is of use
//	in use     it was made, and a login with it has worked; this is the number that the vault gives to services
//	retired    a later one is in use; it works on, for those who have it still
//	gone       deleted at the cloud, and then in the vault
//
// EC2 credentials, which S3 is used with, cannot be made with an application credential. Who makes them logs in as the user;
// they have no part in rotations.
//
// Who may write. The vault's entry of a project is written by this driver alone, called for the project's record by the
// replica that owns it; each write compares.
//
// What happens on a crash. Update is called again and finds how far things had come: a user by its name, grants as they
// are, a credential by its name. A deletion takes the user first and the project last, so that the project bears the mark
// for as long as there is anything; that it is about to take the user is kept before, so that a user that is missing for
// any other reason is not taken for a project that was looked into.

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/applicationcredentials"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/projects"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/roles"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/users"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// tag is borne by every project of Weft's, so that lists need not read all projects of the cloud.
const tag = "weft"

// neededRole is what every cloud must have: with it a user may work in a project. furtherRoles are needed where the cloud
// has them: its load balancers, or its object store, ask for them.
const neededRole = "member"

var furtherRoles = []string{"load-balancer_member", "swiftoperator"}

// Projects is the driver of Project.
type Projects struct {
	s           *cloud.Session
	credentials driver.Credentials
	cfg         Config
}

// NewProjects makes the driver. The credentials are those of the session.
func NewProjects(s *cloud.Session, c driver.Credentials, cfg Config) *Projects {
	return &Projects{s: s, credentials: c, cfg: cfg}
}

// project is a project as the identity service tells of it.
type project struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description"`
	DomainID    string `json:"domain_id"`
	Enabled     bool   `json:"enabled"`
}

// ProjectName gives what a project is called at the cloud: 64 characters are allowed, and the key has to be among them.
func ProjectName(key, name string) string {
	const room = 64 - len("weft--") - 36
	tenant := resource.TenantOf(name)
	return "weft-" + strings.TrimRight(tenant[:min(len(tenant), room)], "-") + "-" + key
}

// UserName gives what the user of a project is called at the cloud.
func UserName(key string) string { return "weft-" + key }

func credentialName(number int64) string { return "weft-" + strconv.FormatInt(number, 10) }

// permit tells what to grant to who may not do what the driver does.
func (d *Projects) permit(err error) error {
	if !fault.Is(err, fault.Denied) {
		return err
	}
	return &fault.Error{Kind: fault.Denied, Cause: err, Message: fmt.Sprintf(
		"the cloud refuses the credentials of %s the management of projects: they must be valid (weft cloud add %s gives it others) and need the role admin, by Keystone's policies "+
			"identity:create_project, list_projects, delete_project, create_user, list_users, update_user, delete_user, list_roles and create_grant, and by Neutron's to delete default security groups",
		d.s.Account, strings.TrimPrefix(d.s.Account, "clouds/"))}
}

// list reads the projects that fit a query.
func (d *Projects) list(ctx context.Context, query url.Values) ([]project, error) {
	c, err := d.s.Identity(ctx)
	if err != nil {
		return nil, err
	}
	all, err := cloud.List[project](ctx, c, "projects", "projects", query)
	return all, d.permit(err)
}

// one reads one project. The error is NotFound if it does not exist.
func (d *Projects) one(ctx context.Context, id string) (*projects.Project, error) {
	c, err := d.s.Identity(ctx)
	if err != nil {
		return nil, err
	}
	p, err := projects.Get(ctx, c, id).Extract()
	return p, d.permit(cloud.Fault(err, "read project %s", id))
}

// Find implements driver.Driver.
func (d *Projects) Find(ctx context.Context, r driver.Request[*orchestratorv1.ProjectSpec]) ([]string, error) {
	all, err := d.list(ctx, url.Values{"name": {ProjectName(r.Key, r.Name)}})
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, p := range all {
		if key, _, ok := cloud.ParseDescription(p.Description); ok && key == r.Key {
			ids = append(ids, p.ID)
		}
	}
	return ids, nil
}

// Create implements driver.Driver.
func (d *Projects) Create(ctx context.Context, r driver.Request[*orchestratorv1.ProjectSpec]) (string, error) {
	c, err := d.s.Identity(ctx)
	if err != nil {
		return "", err
	}
	enabled := true
	p, err := projects.Create(ctx, c, projects.CreateOpts{
		Name: ProjectName(r.Key, r.Name), Description: cloud.Description(r.Key, r.Name), Tags: []string{tag}, Enabled: &enabled,
	}).Extract()
	if err != nil {
		return "", d.permit(cloud.Fault(err, "create project %s", r.Name))
	}
	return p.ID, nil
}

// NeedsUpdate implements driver.TwoStep: user, roles and credential are made in the project when it is there.
func (d *Projects) NeedsUpdate() bool { return true }

// Observe implements driver.Driver.
func (d *Projects) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[*orchestratorv1.ProjectObserved], error) {
	out := map[string]driver.Observation[*orchestratorv1.ProjectObserved]{}
	if len(ids) == 0 {
		return out, ctx.Err()
	}
	all, err := d.list(ctx, url.Values{"tags": {tag}})
	if fault.Is(err, fault.Denied) {
		all, err = d.seenFromWithin(ctx, ids, err)
	}
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if !slices.Contains(ids, p.ID) {
			continue
		}
		seen := &orchestratorv1.ProjectObserved{ProjectId: p.ID, ProjectName: p.Name}
		if key, _, ok := cloud.ParseDescription(p.Description); ok {
			kept, err := d.cfg.Vault.Load(ctx, key)
			if err != nil {
				return nil, err
			}
			seen.UserId, seen.Roles = kept.GetUserId(), kept.GetRoles()
			for _, k := range kept.GetKeys() {
				if k.GetCredential().GetId() != "" {
					seen.Credentials = append(seen.Credentials, k.GetCredential())
				}
			}
		}
		out[p.ID] = driver.Observation[*orchestratorv1.ProjectObserved]{
			State: driver.Ready, Observed: seen, Facts: map[string]string{"enabled": strconv.FormatBool(p.Enabled)},
		}
	}
	return out, nil
}

// seenFromWithin reads projects each as its own user, where the cloud's credentials are refused. If one cannot be read so the
// error is that refusal: that a project cannot be seen does not say that it is gone.
func (d *Projects) seenFromWithin(ctx context.Context, ids []string, refusal error) ([]project, error) {
	var out []project
	for _, id := range ids {
		key, kept, err := d.cfg.Vault.Of(ctx, id)
		if err != nil {
			return nil, err
		}
		if kept.GetUserId() == "" {
			return nil, refusal
		}
		s, err := d.asUser(ctx, key, id, kept.GetDomainId(), kept.GetPassword())
		if fault.Is(err, fault.Denied) {
			return nil, refusal
		}
		if err != nil {
			return nil, fault.Wrap(err, "log in as the project's user")
		}
		c, err := s.Identity(ctx)
		if err != nil {
			return nil, err
		}
		p, err := projects.Get(ctx, c, id).Extract()
		if err := cloud.Fault(err, "read project %s", id); fault.Is(err, fault.Denied) || fault.Is(err, fault.NotFound) {
			return nil, refusal
		} else if err != nil {
			return nil, err
		}
		out = append(out, project{ID: p.ID, Name: p.Name, Description: p.Description, DomainID: p.DomainID, Enabled: p.Enabled})
	}
	return out, nil
}

// ListMarked implements driver.Lister.
func (d *Projects) ListMarked(ctx context.Context) ([]driver.Marked, error) {
	c, err := d.s.Identity(ctx)
	if err != nil {
		return nil, err
	}
	pages, err := projects.List(c, projects.ListOpts{Tags: tag}).AllPages(ctx)
	if gophercloud.ResponseCodeIs(err, http.StatusForbidden) {
		return nil, nil // who may not list projects has made none
	}
	if err != nil {
		return nil, cloud.Fault(err, "list projects")
	}
	all, err := projects.ExtractProjects(pages)
	if err != nil {
		return nil, cloud.Fault(err, "list projects: read the answer")
	}
	var out []driver.Marked
	for _, p := range all {
		if key, name, ok := cloud.ParseDescription(p.Description); ok {
			out = append(out, driver.Marked{ID: p.ID, Key: key, Name: name})
		}
	}
	return out, nil
}

// Update implements driver.Driver. Where the user and its roles are known to stand, the user's own login does all that is
// left: a rotation needs no credentials of the cloud's, which may have ended with the person whose they are. They are gone
// to if the user is refused, since then something of it is missing.
func (d *Projects) Update(ctx context.Context, id string, r driver.Request[*orchestratorv1.ProjectSpec]) error {
	w, err := d.alone(ctx, id, r)
	if err != nil {
		return fault.Wrap(err, "update project %s", r.Name)
	}
	if w != nil {
		err := w.credentials(ctx, r.Spec)
		if err == nil || fault.Retryable(err) && !w.refused {
			return fault.Wrap(err, "update project %s", r.Name)
		}
	}
	p, err := d.one(ctx, id)
	if err != nil {
		return err
	}
	if !p.Enabled {
		if err := d.enable(ctx, id); err != nil {
			return err
		}
	}
	kept, err := d.begin(ctx, r)
	if err != nil {
		return err
	}
	w = &work{Projects: d, key: r.Key, project: p, kept: kept}
	for _, step := range []func(context.Context) error{w.haveUser, w.haveRoles, func(ctx context.Context) error { return w.credentials(ctx, r.Spec) }} {
		if err := step(ctx); err != nil {
			return fault.Wrap(err, "update project %s", r.Name)
		}
	}
	return nil
}

// alone begins the work that the project's user can do by itself; nil if there is no such user yet, or if it is refused.
func (d *Projects) alone(ctx context.Context, id string, r driver.Request[*orchestratorv1.ProjectSpec]) (*work, error) {
	kept, err := d.cfg.Vault.Load(ctx, r.Key)
	if err != nil || kept.GetProjectId() != id || kept.GetUserId() == "" || len(kept.GetRoles()) == 0 {
		return nil, err
	}
	s, err := d.asUser(ctx, r.Key, id, kept.GetDomainId(), kept.GetPassword())
	if fault.Is(err, fault.Denied) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Wrap(err, "log in as the project's user")
	}
	user, err := s.Identity(ctx)
	if err != nil {
		return nil, err
	}
	if kept, err = d.begin(ctx, r); err != nil {
		return nil, err
	}
	p := &projects.Project{ID: id, DomainID: kept.GetDomainId(), Description: cloud.Description(r.Key, r.Name)}
	return &work{Projects: d, key: r.Key, project: p, kept: kept, user: user}, nil
}

// credentials brings the credentials to what a spec asks for.
func (w *work) credentials(ctx context.Context, spec *orchestratorv1.ProjectSpec) error {
	if standsFor(w.kept, spec) {
		return nil
	}
	if err := w.haveCredential(ctx, spec.GetCredential()); err != nil {
		return err
	}
	return w.deleteBefore(ctx, spec.GetOldest())
}

func (d *Projects) enable(ctx context.Context, id string) error {
	c, err := d.s.Identity(ctx)
	if err != nil {
		return err
	}
	enabled := true
	_, err = projects.Update(ctx, c, id, projects.UpdateOpts{Enabled: &enabled}).Extract()
	return d.permit(cloud.Fault(err, "enable project %s", id))
}

// InUse gives the credential that services are to work with: the last that is known to work; nil if there is none yet.
func InUse(kept *orchestratorv1.ProjectKeys) *orchestratorv1.ProjectKey {
	for _, k := range slices.Backward(kept.GetKeys()) {
		if k.GetCredential().GetUseTime() != nil {
			return k
		}
	}
	return nil
}

// Login gives what to log in with for the work in a project: the credential in use, and the name and password of its user for
// what no application credential may do; nil if there is no credential yet, or if its user is being taken away.
func Login(key string, kept *orchestratorv1.ProjectKeys) map[string]string {
	used := InUse(kept)
	if used == nil || kept.GetEmptied() {
		return nil
	}
	return map[string]string{
		"application_credential_id": used.GetCredential().GetId(), "application_credential_secret": used.GetSecret(),
		"username": UserName(key), "user_domain_id": kept.GetDomainId(), "project_id": kept.GetProjectId(), "password": kept.GetPassword(),
	}
}

// standsFor tells whether what is kept is what a spec asks for, so that the cloud need not be asked.
func standsFor(kept *orchestratorv1.ProjectKeys, spec *orchestratorv1.ProjectSpec) bool {
	used := InUse(kept)
	return used.GetCredential().GetNumber() == spec.GetCredential() && kept.GetKeys()[0].GetCredential().GetNumber() >= spec.GetOldest()
}

// begin draws what has to be kept before the cloud is asked: the user's password, and the secret of the credential.
func (d *Projects) begin(ctx context.Context, r driver.Request[*orchestratorv1.ProjectSpec]) (*orchestratorv1.ProjectKeys, error) {
	kept, err := d.cfg.Vault.Load(ctx, r.Key)
	if err != nil {
		return nil, err
	}
	number := r.Spec.GetCredential()
	if kept.GetPassword() != "" && slices.ContainsFunc(kept.GetKeys(), func(k *orchestratorv1.ProjectKey) bool { return k.GetCredential().GetNumber() >= number }) {
		return kept, nil
	}
	return d.cfg.Vault.Change(ctx, r.Key, func(k *orchestratorv1.ProjectKeys) error {
		if k.GetPassword() == "" {
			k.Password = random()
		}
		k.Keys = append(k.Keys, &orchestratorv1.ProjectKey{Credential: &orchestratorv1.ProjectCredential{Number: number}, Secret: random()})
		return nil
	})
}

// random draws a secret of 256 bits, at least.
func random() string { return rand.Text() + rand.Text() }

// work is one update under way.
type work struct {
	*Projects

	key     string
	project *projects.Project
	kept    *orchestratorv1.ProjectKeys
	user    *gophercloud.ServiceClient // the identity service as the project's user sees it; nil before the login
	refused bool                       // the user was refused something after its login
}

func (w *work) change(ctx context.Context, change func(*orchestratorv1.ProjectKeys)) error {
	kept, err := w.cfg.Vault.Change(ctx, w.key, func(k *orchestratorv1.ProjectKeys) error { change(k); return nil })
	if err == nil {
		w.kept = kept
	}
	return err
}

// findUser gives the id of the user of a project; empty if there is none.
func (d *Projects) findUser(ctx context.Context, key, domain string) (string, error) {
	c, err := d.s.Identity(ctx)
	if err != nil {
		return "", err
	}
	found, err := cloud.List[struct{ ID, Name string }](ctx, c, "users", "users", url.Values{"name": {UserName(key)}, "domain_id": {domain}})
	if err != nil {
		return "", d.permit(err)
	}
	for _, u := range found {
		if u.Name == UserName(key) {
			return u.ID, nil
		}
	}
	return "", nil
}

// haveUser makes the user, unless there is one.
func (w *work) haveUser(ctx context.Context) error {
	id, err := w.findUser(ctx, w.key, w.project.DomainID)
	if err != nil {
		return err
	}
	if id == "" {
		c, err := w.s.Identity(ctx)
		if err != nil {
			return err
		}
		made, err := users.Create(ctx, c, users.CreateOpts{
			Name: UserName(w.key), DomainID: w.project.DomainID, DefaultProjectID: w.project.ID, Password: w.kept.GetPassword(), Description: w.project.Description,
		}).Extract()
		if err != nil {
			return w.permit(cloud.Fault(err, "create the user"))
		}
		id = made.ID
	}
	if id == w.kept.GetUserId() {
		return nil
	}
	return w.change(ctx, func(k *orchestratorv1.ProjectKeys) {
		k.UserId, k.DomainId, k.ProjectId = id, w.project.DomainID, w.project.ID
	})
}

// haveRoles gives the user what is needed to work in the project, and nothing elsewhere.
func (w *work) haveRoles(ctx context.Context) error {
	c, err := w.s.Identity(ctx)
	if err != nil {
		return err
	}
	offered, err := cloud.List[struct{ ID, Name string }](ctx, c, "roles", "roles", nil)
	if err != nil {
		return w.permit(err)
	}
	var given []string
	for _, name := range append([]string{neededRole}, furtherRoles...) {
		at := slices.IndexFunc(offered, func(r struct{ ID, Name string }) bool { return r.Name == name })
		if at < 0 && name == neededRole {
			return fault.New(fault.Unsupported, "%s has no role %s, which a tenant's user needs; make it (openstack role create %s)", w.s.Account, name, name)
		}
		if at < 0 {
			continue
		}
		opts := roles.AssignOpts{UserID: w.kept.GetUserId(), ProjectID: w.project.ID}
		if err := roles.Assign(ctx, c, offered[at].ID, opts).ExtractErr(); err != nil {
			return w.permit(cloud.Fault(err, "give the user the role %s", name))
		}
		given = append(given, name)
	}
	if slices.Equal(given, w.kept.GetRoles()) {
		return nil
	}
	return w.change(ctx, func(k *orchestratorv1.ProjectKeys) { k.Roles = given })
}

// as opens a session in the project with other credentials than the cloud's own.
func (d *Projects) as(ctx context.Context, data map[string]string) (*cloud.Session, error) {
	c := d.credentials
	c.Data = data
	if pem := d.credentials.Data["ca_cert"]; pem != "" {
		c.Data["ca_cert"] = pem
	}
	if c.Endpoint == "" {
		c.Endpoint = d.credentials.Data["auth_url"]
	}
	return cloud.Open(ctx, c)
}

func (d *Projects) asUser(ctx context.Context, key, projectID, domain, password string) (*cloud.Session, error) {
	return d.as(ctx, map[string]string{"username": UserName(key), "user_domain_id": domain, "project_id": projectID, "password": password})
}

// login gives the identity service as the project's user sees it. A password that somebody else has changed is set again.
func (w *work) login(ctx context.Context) (*gophercloud.ServiceClient, error) {
	if w.user != nil {
		return w.user, nil
	}
	s, err := w.asUser(ctx, w.key, w.project.ID, w.project.DomainID, w.kept.GetPassword())
	if fault.Is(err, fault.Denied) {
		c, own := w.s.Identity(ctx)
		if own != nil {
			return nil, own
		}
		enabled := true
		_, set := users.Update(ctx, c, w.kept.GetUserId(), users.UpdateOpts{Password: w.kept.GetPassword(), Enabled: &enabled}).Extract()
		if set != nil {
			return nil, w.permit(cloud.Fault(set, "set the user's password again"))
		}
		return nil, driver.Unfinished("the password of the project's user was set again")
	}
	if err != nil {
		return nil, fault.Wrap(err, "log in as the project's user")
	}
	w.user, err = s.Identity(ctx)
	return w.user, err
}

// fresh makes a refusal of the user's own login one that passes: the identity service refuses all tokens of a user that are
// from the very second in which the password was set.
func (w *work) fresh(err error) error {
	if fault.Is(err, fault.Denied) {
		w.refused = true
		return &fault.Error{Kind: fault.Unavailable, Cause: err}
	}
	return err
}

// listed gives the application credential of a name; false if there is none.
func (w *work) listed(ctx context.Context, name string) (applicationcredentials.ApplicationCredential, bool, error) {
	var none applicationcredentials.ApplicationCredential
	c, err := w.login(ctx)
	if err != nil {
		return none, false, err
	}
	pages, err := applicationcredentials.List(c, w.kept.GetUserId(), applicationcredentials.ListOpts{Name: name}).AllPages(ctx)
	if err != nil {
		return none, false, w.fresh(cloud.Fault(err, "list the credentials"))
	}
	all, err := applicationcredentials.ExtractApplicationCredentials(pages)
	if err != nil {
		return none, false, cloud.Fault(err, "list the credentials: read the answer")
	}
	at := slices.IndexFunc(all, func(a applicationcredentials.ApplicationCredential) bool { return a.Name == name })
	if at < 0 {
		return none, false, nil
	}
	return all[at], true, nil
}

// haveCredential makes the credential of a number, sees that it works, and puts it in use.
func (w *work) haveCredential(ctx context.Context, number int64) error {
	at := slices.IndexFunc(w.kept.GetKeys(), func(k *orchestratorv1.ProjectKey) bool { return k.GetCredential().GetNumber() == number })
	if at < 0 {
		return fault.New(fault.Internal, "credential %d was never begun", number)
	}
	kept := w.kept.GetKeys()[at]
	if kept.GetCredential().GetUseTime() != nil {
		return nil
	}
	made, found, err := w.listed(ctx, credentialName(number))
	if err != nil {
		return err
	}
	if !found {
		if made, err = w.makeCredential(ctx, number, kept.GetSecret()); err != nil {
			return err
		}
	}
	if _, err := w.as(ctx, map[string]string{"application_credential_id": made.ID, "application_credential_secret": kept.GetSecret()}); err != nil {
		return fault.Wrap(err, "try credential %d", number)
	}
	now := timestamppb.New(w.cfg.Now())
	return w.change(ctx, func(k *orchestratorv1.ProjectKeys) {
		for _, key := range k.GetKeys() {
			switch c := key.GetCredential(); {
			case c.GetNumber() == number:
				c.Id, c.UseTime, c.ExpireTime = made.ID, now, timestamppb.New(made.ExpiresAt)
			case c.GetNumber() < number && c.GetRetireTime() == nil:
				c.RetireTime = now
			}
		}
	})
}

func (w *work) makeCredential(ctx context.Context, number int64, secret string) (applicationcredentials.ApplicationCredential, error) {
	c, err := w.login(ctx)
	if err != nil {
		return applicationcredentials.ApplicationCredential{}, err
	}
	ends := w.cfg.Now().Add(w.cfg.Lifetime).UTC().Truncate(time.Second)
	opts := applicationcredentials.CreateOpts{Name: credentialName(number), Description: w.project.Description, Secret: secret, ExpiresAt: &ends}
	for _, name := range w.kept.GetRoles() {
		opts.Roles = append(opts.Roles, applicationcredentials.Role{Name: name})
	}
	made, err := applicationcredentials.Create(ctx, c, w.kept.GetUserId(), opts).Extract()
	if err != nil {
		return applicationcredentials.ApplicationCredential{}, w.fresh(cloud.Fault(err, "create credential %d", number))
	}
	return *made, nil
}

// deleteBefore takes away the credentials with lower numbers.
func (w *work) deleteBefore(ctx context.Context, oldest int64) error {
	for _, k := range slices.Clone(w.kept.GetKeys()) {
		number := k.GetCredential().GetNumber()
		if number >= oldest {
			continue
		}
		id := k.GetCredential().GetId()
		if id == "" { // one that was begun and overtaken may have been made all the same
			found, _, err := w.listed(ctx, credentialName(number))
			if err != nil {
				return err
			}
			id = found.ID
		}
		if err := w.deleteCredential(ctx, id); err != nil {
			return fault.Wrap(err, "delete credential %d", number)
		}
		err := w.change(ctx, func(k *orchestratorv1.ProjectKeys) {
			k.Keys = slices.DeleteFunc(k.GetKeys(), func(key *orchestratorv1.ProjectKey) bool { return key.GetCredential().GetNumber() == number })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *work) deleteCredential(ctx context.Context, id string) error {
	if id == "" {
		return nil
	}
	c, err := w.login(ctx)
	if err != nil {
		return err
	}
	err = w.fresh(cloud.Fault(applicationcredentials.Delete(ctx, c, w.kept.GetUserId(), id).ExtractErr(), "delete %s", id))
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}
