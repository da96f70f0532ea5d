package identity

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/control"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

func (s *Service) routes() []rest.Route {
	return []rest.Route{
		{Method: "GET", Pattern: "/", Operation: "version.list", Handler: s.versions, Public: true},
		{Method: "GET", Pattern: "/v3", Operation: "version.get", Handler: s.version, Public: true},
		{Method: "POST", Pattern: "/v3/auth/tokens", Operation: "token.create", Handler: s.createToken, Public: true},
		{Method: "GET", Pattern: "/v3/auth/tokens", Operation: "token.get", Handler: s.getToken},
		{Method: "HEAD", Pattern: "/v3/auth/tokens", Operation: "token.get", Handler: s.getToken},
		{Method: "DELETE", Pattern: "/v3/auth/tokens", Operation: "token.delete", Handler: s.deleteToken},
		{Method: "GET", Pattern: "/v3/auth/projects", Operation: "project.list", Handler: s.authProjects},
		{Method: "GET", Pattern: "/v3/auth/domains", Operation: "domain.list", Handler: s.authDomains},
		{Method: "GET", Pattern: "/v3/auth/catalog", Operation: "catalog.get", Handler: s.getCatalog},
		{Method: "GET", Pattern: "/v3/users", Operation: "user.list", Handler: s.listUsers},
		{Method: "GET", Pattern: "/v3/users/{user}", Operation: "user.get", Handler: s.getUser},
		{Method: "GET", Pattern: "/v3/users/{user}/projects", Operation: "project.list", Handler: s.userProjects},
		{Method: "GET", Pattern: "/v3/projects", Operation: "project.list", Handler: s.listProjects},
		{Method: "GET", Pattern: "/v3/projects/{project}", Operation: "project.get", Handler: s.getProject},
		{Method: "POST", Pattern: "/v3/projects", Operation: "project.create", Handler: s.createProject},
		{Method: "PATCH", Pattern: "/v3/projects/{project}", Operation: "project.update", Handler: s.updateProject},
		{Method: "DELETE", Pattern: "/v3/projects/{project}", Operation: "project.delete", Handler: s.deleteProject},
		{Method: "POST", Pattern: "/v3/users", Operation: "user.create", Handler: s.createUser},
		{Method: "PATCH", Pattern: "/v3/users/{user}", Operation: "user.update", Handler: s.updateUser},
		{Method: "POST", Pattern: "/v3/users/{user}/password", Operation: "user.password", Handler: s.changePassword},
		{Method: "DELETE", Pattern: "/v3/users/{user}", Operation: "user.delete", Handler: s.deleteUser},
		{Method: "PUT", Pattern: "/v3/projects/{project}/users/{user}/roles/{role}", Operation: "grant.create", Handler: s.createGrant},
		{Method: "HEAD", Pattern: "/v3/projects/{project}/users/{user}/roles/{role}", Operation: "grant.check", Handler: s.checkGrant},
		{Method: "DELETE", Pattern: "/v3/projects/{project}/users/{user}/roles/{role}", Operation: "grant.delete", Handler: s.deleteGrant},
		{Method: "GET", Pattern: "/v3/projects/{project}/users/{user}/roles", Operation: "grant.list", Handler: s.listGrants},
		{Method: "GET", Pattern: "/v3/domains", Operation: "domain.list", Handler: s.listDomains},
		{Method: "GET", Pattern: "/v3/domains/{domain}", Operation: "domain.get", Handler: s.getDomain},
		{Method: "GET", Pattern: "/v3/roles", Operation: "role.list", Handler: s.listRoles},
		{Method: "GET", Pattern: "/v3/role_assignments", Operation: "role_assignment.list", Handler: s.listAssignments},
		{Method: "GET", Pattern: "/v3/credentials", Operation: "credential.list", Handler: s.listCredentials},
		{Method: "POST", Pattern: "/v3/credentials", Operation: "credential.create", Handler: s.createCredential},
		{Method: "GET", Pattern: "/v3/credentials/{credential}", Operation: "credential.get", Handler: s.getCredential},
		{Method: "DELETE", Pattern: "/v3/credentials/{credential}", Operation: "credential.delete", Handler: s.deleteCredential},
		{Method: "GET", Pattern: "/v3/regions", Operation: "region.list", Handler: s.listRegions},
		{Method: "GET", Pattern: "/v3/regions/{region}", Operation: "region.get", Handler: s.getRegion},
		{Method: "GET", Pattern: "/v3/services", Operation: "service.list", Handler: s.listServices},
		{Method: "GET", Pattern: "/v3/endpoints", Operation: "endpoint.list", Handler: s.listEndpoints},
		{Method: "GET", Pattern: "/v3/users/{user}/application_credentials", Operation: "application_credential.list", Handler: s.listCreds},
		{Method: "POST", Pattern: "/v3/users/{user}/application_credentials", Operation: "application_credential.create", Handler: s.createCred},
		{Method: "GET", Pattern: "/v3/users/{user}/application_credentials/{cred}", Operation: "application_credential.get", Handler: s.getCred},
		{Method: "DELETE", Pattern: "/v3/users/{user}/application_credentials/{cred}", Operation: "application_credential.delete", Handler: s.deleteCred},
	}
}

func versionView(r *rest.Request) rest.M {
	return rest.M{
		"id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z",
		"links":       []rest.M{rest.Link("self", r.Base+"/identity/v3/")},
		"media-types": []rest.M{{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}},
	}
}

func (s *Service) versions(r *rest.Request) (*rest.Response, error) {
	return &rest.Response{
		Status: http.StatusMultipleChoices, Header: map[string]string{"Location": r.Base + "/identity/v3/"},
		Body: rest.M{"versions": rest.M{"values": []rest.M{versionView(r)}}},
	}, nil
}

func (s *Service) version(r *rest.Request) (*rest.Response, error) {
	return rest.OK(rest.M{"version": versionView(r)})
}

func (s *Service) subject(r *rest.Request) (*claims, string, error) {
	token := r.HTTP.Header.Get("X-Subject-Token")
	c := s.open(token, r.Now)
	if c == nil {
		return nil, "", rest.Errorf(http.StatusNotFound, "", "Could not recognize Fernet token")
	}
	if c.User != r.Token.UserID && !r.Token.Admin() {
		return nil, "", forbidden("identity:validate_token")
	}
	return c, token, nil
}

func (s *Service) getToken(r *rest.Request) (*rest.Response, error) {
	c, token, err := s.subject(r)
	if err != nil {
		return nil, err
	}
	return &rest.Response{
		Status: http.StatusOK, Header: map[string]string{"X-Subject-Token": token},
		Body: rest.M{"token": s.tokenView(r, s.user(c.User), c)},
	}, nil
}

func (s *Service) deleteToken(r *rest.Request) (*rest.Response, error) {
	c, _, err := s.subject(r)
	if err != nil {
		return nil, err
	}
	s.revoked.Put(c.Audits[0], &revocation{Until: c.Expires})
	for id, old := range s.revoked.All() {
		if r.Now.After(old.Until) {
			s.revoked.Delete(id)
		}
	}
	return rest.Status(http.StatusNoContent, nil)
}

// list wraps a collection as Keystone does.
func list(r *rest.Request, name string, items []rest.M) (*rest.Response, error) {
	return rest.OK(rest.M{name: items, "links": rest.M{"next": nil, "previous": nil, "self": r.Base + r.HTTP.URL.RequestURI()}})
}

func self(r *rest.Request, path string) rest.M { return rest.M{"self": r.Base + "/identity/v3" + path} }

func projectView(r *rest.Request, p *Project) rest.M {
	return rest.M{
		"id": p.ID, "name": p.Name, "domain_id": "default", "description": p.Description, "enabled": !p.Disabled,
		"parent_id": "default", "is_domain": false, "tags": append([]string{}, p.Tags...), "options": rest.M{}, "links": self(r, "/projects/"+p.ID),
	}
}

func userView(r *rest.Request, u *User) rest.M {
	view := rest.M{
		"id": u.ID, "name": u.Name, "domain_id": "default", "enabled": !u.Disabled, "default_project_id": u.DefaultProject,
		"password_expires_at": nil, "options": rest.M{}, "links": self(r, "/users/"+u.ID),
	}
	if u.Description != "" {
		view["description"] = u.Description
	}
	return view
}

func domainView(r *rest.Request) rest.M {
	return rest.M{
		"id": "default", "name": "Default", "description": "The default domain", "enabled": true, "tags": []string{},
		"options": rest.M{}, "links": self(r, "/domains/default"),
	}
}

func (s *Service) projectsOf(r *rest.Request, u *User) []rest.M {
	out := []rest.M{}
	for _, p := range s.projects.All() {
		if len(u.Roles[p.ID]) > 0 {
			out = append(out, projectView(r, p))
		}
	}
	return out
}

func (s *Service) authProjects(r *rest.Request) (*rest.Response, error) {
	return list(r, "projects", s.projectsOf(r, s.user(r.Token.UserID)))
}

func (s *Service) authDomains(r *rest.Request) (*rest.Response, error) {
	return list(r, "domains", []rest.M{})
}

func (s *Service) getCatalog(r *rest.Request) (*rest.Response, error) {
	if r.Token.ProjectID == "" {
		return nil, forbidden("identity:get_auth_catalog")
	}
	return rest.OK(rest.M{"catalog": s.catalogView(r, r.Token.ProjectID), "links": rest.M{"next": nil, "previous": nil, "self": r.Base + "/identity/v3/auth/catalog"}})
}

func (s *Service) listUsers(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, forbidden("identity:list_users")
	}
	out := []rest.M{}
	for _, u := range s.users.All() {
		if name := r.Query.Get("name"); name == "" || name == u.Name {
			out = append(out, userView(r, u))
		}
	}
	return list(r, "users", out)
}

// owner yields the user of the path, who must be the caller unless an admin asks.
func (s *Service) owner(r *rest.Request, action string) (*User, error) {
	if u := s.users.Get(r.Params["user"]); u != nil && (u.ID == r.Token.UserID || r.Token.Admin()) {
		return u, nil
	}
	if r.Token.Admin() {
		return nil, notFound("user", r.Params["user"])
	}
	return nil, forbidden(action)
}

func (s *Service) getUser(r *rest.Request) (*rest.Response, error) {
	u, err := s.owner(r, "identity:get_user")
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"user": userView(r, u)})
}

func (s *Service) userProjects(r *rest.Request) (*rest.Response, error) {
	u, err := s.owner(r, "identity:list_user_projects")
	if err != nil {
		return nil, err
	}
	return list(r, "projects", s.projectsOf(r, u))
}

func (s *Service) listProjects(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, forbidden("identity:list_projects")
	}
	out := []rest.M{}
	for _, p := range s.projects.All() {
		if name := r.Query.Get("name"); name != "" && name != p.Name || !bearsTags(p, r.Query.Get("tags")) {
			continue
		}
		out = append(out, projectView(r, p))
	}
	return list(r, "projects", out)
}

func (s *Service) getProject(r *rest.Request) (*rest.Response, error) {
	if p := s.projects.Get(r.Params["project"]); p != nil && (p.ID == r.Token.ProjectID || r.Token.Admin()) {
		return rest.OK(rest.M{"project": projectView(r, p)})
	}
	if !r.Token.Admin() {
		return nil, forbidden("identity:get_project")
	}
	return nil, notFound("project", r.Params["project"])
}

func (s *Service) listDomains(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, forbidden("identity:list_domains")
	}
	if name := r.Query.Get("name"); name != "" && !strings.EqualFold(name, "Default") {
		return list(r, "domains", []rest.M{})
	}
	return list(r, "domains", []rest.M{domainView(r)})
}

func (s *Service) getDomain(r *rest.Request) (*rest.Response, error) {
	if r.Params["domain"] != "default" {
		return nil, notFound("domain", r.Params["domain"])
	}
	return rest.OK(rest.M{"domain": domainView(r)})
}

func roleView(r *rest.Request, name string) rest.M {
	id := fixedID("role", name)
	return rest.M{"id": id, "name": name, "domain_id": nil, "description": nil, "options": rest.M{"immutable": true}, "links": self(r, "/roles/"+id)}
}

func (s *Service) listRoles(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, forbidden("identity:list_roles")
	}
	out := []rest.M{}
	for _, role := range s.roles {
		if name := r.Query.Get("name"); name == "" || name == role {
			out = append(out, roleView(r, role))
		}
	}
	return list(r, "roles", out)
}

func (s *Service) listAssignments(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, forbidden("identity:list_role_assignments")
	}
	out := []rest.M{}
	for _, u := range s.users.All() {
		for _, p := range s.projects.All() {
			if id := r.Query.Get("user.id"); id != "" && id != u.ID {
				continue
			}
			if id := r.Query.Get("scope.project.id"); id != "" && id != p.ID {
				continue
			}
			for _, role := range u.Roles[p.ID] {
				out = append(out, rest.M{
					"role": rest.M{"id": fixedID("role", role)}, "user": rest.M{"id": u.ID}, "scope": rest.M{"project": rest.M{"id": p.ID}},
					"links": rest.M{"assignment": r.Base + "/identity/v3/projects/" + p.ID + "/users/" + u.ID + "/roles/" + fixedID("role", role)},
				})
			}
		}
	}
	return list(r, "role_assignments", out)
}

func regionView(r *rest.Request) rest.M {
	return rest.M{"id": Region, "description": "", "parent_region_id": nil, "links": self(r, "/regions/"+Region)}
}

func (s *Service) listRegions(r *rest.Request) (*rest.Response, error) {
	return list(r, "regions", []rest.M{regionView(r)})
}

func (s *Service) getRegion(r *rest.Request) (*rest.Response, error) {
	if r.Params["region"] != Region {
		return nil, notFound("region", r.Params["region"])
	}
	return rest.OK(rest.M{"region": regionView(r)})
}

func (s *Service) listServices(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, forbidden("identity:list_services")
	}
	out := []rest.M{}
	for _, e := range s.catalog {
		id := fixedID("service", e.Type)
		out = append(out, rest.M{"name": e.Name, "id": id, "type": e.Type, "enabled": true, "links": self(r, "/services/"+id)})
	}
	return list(r, "services", out)
}

func (s *Service) listEndpoints(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, forbidden("identity:list_endpoints")
	}
	out := []rest.M{}
	for _, e := range s.catalog {
		for _, iface := range []string{"public", "internal", "admin"} {
			id := fixedID("endpoint", e.Type+iface)
			out = append(out, rest.M{
				"id": id, "interface": iface, "region_id": Region, "region": Region, "service_id": fixedID("service", e.Type), "enabled": true,
				"url": r.Base + strings.ReplaceAll(e.URL, "{project}", "%(project_id)s"), "links": self(r, "/endpoints/"+id),
			})
		}
	}
	return list(r, "endpoints", out)
}

func (s *Service) credView(r *rest.Request, c *AppCredential) rest.M {
	roles := []rest.M{}
	for _, name := range c.Roles {
		roles = append(roles, rest.M{"id": fixedID("role", name), "name": name, "domain_id": nil, "description": nil, "options": rest.M{"immutable": true}})
	}
	view := rest.M{
		"id": c.ID, "name": c.Name, "description": nil, "user_id": c.UserID, "project_id": c.ProjectID, "system": nil,
		"expires_at": nil, "unrestricted": c.Unrestricted, "roles": roles, "links": self(r, "/application_credentials/"+c.ID),
	}
	if c.Description != "" {
		view["description"] = c.Description
	}
	if !c.ExpiresAt.IsZero() {
		view["expires_at"] = c.ExpiresAt.Format("2006-01-02T15:04:05.000000")
	}
	return view
}

func (s *Service) listCreds(r *rest.Request) (*rest.Response, error) {
	u, err := s.owner(r, "identity:list_application_credentials")
	if err != nil {
		return nil, err
	}
	out := []rest.M{}
	for _, c := range s.creds.All() {
		if name := r.Query.Get("name"); c.UserID == u.ID && (name == "" || name == c.Name) {
			out = append(out, s.credView(r, c))
		}
	}
	return list(r, "application_credentials", out)
}

func (s *Service) createCred(r *rest.Request) (*rest.Response, error) {
	if s.restricted(r) {
		return nil, forbidden("Using method 'application_credential' is not allowed for managing additional application credentials")
	}
	if r.Params["user"] != r.Token.UserID || r.Token.ProjectID == "" {
		return nil, forbidden("identity:create_application_credential")
	}
	body := struct {
		Cred struct {
			Name, Description, Secret string
			Roles                     []struct{ ID, Name string }
			ExpiresAt                 string `json:"expires_at"`
			Unrestricted              bool
		} `json:"application_credential"`
	}{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	in := body.Cred
	if in.Name == "" {
		return nil, bad("'name' is a required property")
	}
	for _, c := range s.creds.All() {
		if c.UserID == r.Token.UserID && c.Name == in.Name {
			return nil, rest.Errorf(http.StatusConflict, "", "Conflict occurred attempting to store application_credential - Duplicate entry found with name %s.", in.Name)
		}
	}
	if in.Secret == "" {
		in.Secret = base64.RawURLEncoding.EncodeToString([]byte(rest.NewHex() + rest.NewHex()))
	}
	cred := &AppCredential{
		ID: rest.NewHex(), Name: in.Name, Description: in.Description, UserID: r.Token.UserID, ProjectID: r.Token.ProjectID,
		SecretHash: hash(in.Secret), Unrestricted: in.Unrestricted, Roles: r.Token.Roles, CreatedAt: r.Now,
	}
	if len(in.Roles) > 0 {
		cred.Roles = nil
	}
	for _, want := range in.Roles {
		at := slices.IndexFunc(r.Token.Roles, func(name string) bool { return name == want.Name || fixedID("role", name) == want.ID })
		if at < 0 {
			return nil, bad("Invalid application credential: Could not find role assignment with role: %s, user or group: %s, project, domain, or system: %s.", want.ID+want.Name, r.Token.UserID, r.Token.ProjectID)
		}
		cred.Roles = append(cred.Roles, r.Token.Roles[at])
	}
	if in.ExpiresAt != "" {
		at, err := time.Parse("2006-01-02T15:04:05", strings.TrimSuffix(strings.SplitN(in.ExpiresAt, ".", 2)[0], "Z"))
		if err != nil {
			return nil, bad("expires_at: %v", err)
		}
		cred.ExpiresAt = at
	}
	s.creds.Put(cred.ID, cred)
	view := s.credView(r, cred)
	view["secret"] = in.Secret
	return rest.Status(http.StatusCreated, rest.M{"application_credential": view})
}

func (s *Service) cred(r *rest.Request, action string) (*AppCredential, error) {
	u, err := s.owner(r, action)
	if err != nil {
		return nil, err
	}
	c := s.creds.Get(r.Params["cred"])
	if c == nil || c.UserID != u.ID {
		return nil, notFound("Application Credential", r.Params["cred"])
	}
	return c, nil
}

func (s *Service) getCred(r *rest.Request) (*rest.Response, error) {
	c, err := s.cred(r, "identity:get_application_credential")
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"application_credential": s.credView(r, c)})
}

func (s *Service) deleteCred(r *rest.Request) (*rest.Response, error) {
	if s.restricted(r) {
		return nil, forbidden("Using method 'application_credential' is not allowed for managing additional application credentials")
	}
	c, err := s.cred(r, "identity:delete_application_credential")
	if err != nil {
		return nil, err
	}
	s.creds.Delete(c.ID)
	return rest.Status(http.StatusNoContent, nil)
}

// Inventory lists projects, users and credentials.
func (s *Service) Inventory() []control.InventoryItem {
	var out []control.InventoryItem
	for _, p := range s.projects.All() {
		out = append(out, control.InventoryItem{
			Service: "identity", Kind: "project", ID: p.ID, Name: p.Name, Project: p.ID, Description: p.Description, Seeded: p.Seeded, CreatedAt: p.CreatedAt,
		})
	}
	for _, u := range s.users.All() {
		out = append(out, control.InventoryItem{
			Service: "identity", Kind: "user", ID: u.ID, Name: u.Name, Project: u.DefaultProject, Description: u.Description, Seeded: u.Seeded, CreatedAt: u.CreatedAt,
		})
	}
	for _, c := range s.creds.All() {
		out = append(out, control.InventoryItem{
			Service: "identity", Kind: "application_credential", ID: c.ID, Name: c.Name, Project: c.ProjectID, Description: c.Description, CreatedAt: c.CreatedAt,
		})
	}
	for _, c := range s.ec2.All() {
		out = append(out, control.InventoryItem{Service: "identity", Kind: "credential", ID: c.ID, Name: c.Type, Project: c.ProjectID, CreatedAt: c.CreatedAt})
	}
	return out
}
