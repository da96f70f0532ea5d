package identity

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

// What an admin does: projects, users and the roles of one in the other.

// bearsTags says whether a project bears all of the tags, which are separated by commas.
func bearsTags(p *Project, tags string) bool {
	if tags == "" {
		return true
	}
	for tag := range strings.SplitSeq(tags, ",") {
		if !slices.Contains(p.Tags, tag) {
			return false
		}
	}
	return true
}

// credOf gives the id of the application credential that a client works with; empty if it logged in otherwise.
func (s *Service) credOf(r *rest.Request) string {
	if c := s.open(r.Token.ID, r.Now); c != nil {
		return c.Cred
	}
	return ""
}

// restricted says whether the client works with an application credential that must not manage others.
func (s *Service) restricted(r *rest.Request) bool {
	cred := s.creds.Get(s.credOf(r))
	return cred != nil && !cred.Unrestricted
}

func conflict(kind, name string) error {
	return rest.Errorf(http.StatusConflict, "", "Conflict occurred attempting to store %s - Duplicate entry found with name %s at domain ID default.", kind, name)
}

// projectFields are the fields of a project as clients write them; nil means not given.
type projectFields struct {
	Name        *string
	Description *string
	DomainID    *string `json:"domain_id"`
	Enabled     *bool
	Tags        []string
}

// longestName is how long the name of a project may be in Keystone.
const longestName = 64

func (s *Service) checkName(name string) error {
	if name == "" || len(name) > longestName {
		return bad("Invalid input for field 'name': %q is too long or too short", name)
	}
	for _, p := range s.projects.All() {
		if p.Name == name {
			return conflict("project", name)
		}
	}
	return nil
}

func (s *Service) createProject(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, forbidden("identity:create_project")
	}
	body := struct{ Project projectFields }{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	in := body.Project
	if in.Name == nil {
		return nil, bad("'name' is a required property")
	}
	if in.DomainID != nil && *in.DomainID != "default" {
		return nil, notFound("domain", *in.DomainID)
	}
	if err := s.checkName(*in.Name); err != nil {
		return nil, err
	}
	p := &Project{ID: rest.NewHex(), Name: *in.Name, Tags: in.Tags, CreatedAt: r.Now}
	if in.Description != nil {
		p.Description = *in.Description
	}
	p.Disabled = in.Enabled != nil && !*in.Enabled
	s.projects.Put(p.ID, p)
	return rest.Status(http.StatusCreated, rest.M{"project": projectView(r, p)})
}

func (s *Service) updateProject(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, forbidden("identity:update_project")
	}
	p := s.projects.Get(r.Params["project"])
	if p == nil {
		return nil, notFound("project", r.Params["project"])
	}
	body := struct{ Project projectFields }{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	in, next := body.Project, *p
	if in.Name != nil && *in.Name != p.Name {
		if err := s.checkName(*in.Name); err != nil {
			return nil, err
		}
		next.Name = *in.Name
	}
	if in.Description != nil {
		next.Description = *in.Description
	}
	if in.Enabled != nil {
		next.Disabled = !*in.Enabled
	}
	if in.Tags != nil {
		next.Tags = in.Tags
	}
	s.projects.Put(p.ID, &next)
	return rest.OK(rest.M{"project": projectView(r, &next)})
}

// deleteProject takes a project away with its grants and credentials. What stands in it at the other services stays: they
// are not asked.
func (s *Service) deleteProject(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, forbidden("identity:delete_project")
	}
	id := r.Params["project"]
	if s.projects.Get(id) == nil {
		return nil, notFound("project", id)
	}
	for _, u := range users(s) {
		if len(u.Roles[id]) > 0 {
			s.grant(u, id, nil)
		}
	}
	s.dropCredentials(func(user, project string) bool { return project == id })
	s.projects.Delete(id)
	return rest.Status(http.StatusNoContent, nil)
}

// users gives the users, so that they can be changed meanwhile.
func users(s *Service) []*User {
	var out []*User
	for _, u := range s.users.All() {
		out = append(out, u)
	}
	return out
}

// dropCredentials deletes all credentials of the users and projects that are meant.
func (s *Service) dropCredentials(meant func(user, project string) bool) {
	var creds, ec2 []string
	for id, c := range s.creds.All() {
		if meant(c.UserID, c.ProjectID) {
			creds = append(creds, id)
		}
	}
	for id, c := range s.ec2.All() {
		if meant(c.UserID, c.ProjectID) {
			ec2 = append(ec2, id)
		}
	}
	for _, id := range creds {
		s.creds.Delete(id)
	}
	for _, id := range ec2 {
		s.ec2.Delete(id)
	}
}

// userFields are the fields of a user as clients write them; nil means not given.
type userFields struct {
	Name           *string
	Description    *string
	Password       *string
	OldPassword    string  `json:"original_password"`
	DomainID       *string `json:"domain_id"`
	DefaultProject *string `json:"default_project_id"`
	Enabled        *bool
}

func (s *Service) createUser(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, forbidden("identity:create_user")
	}
	body := struct{ User userFields }{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	in := body.User
	if in.Name == nil || *in.Name == "" {
		return nil, bad("'name' is a required property")
	}
	if in.DomainID != nil && *in.DomainID != "default" {
		return nil, notFound("domain", *in.DomainID)
	}
	if s.user(*in.Name) != nil {
		return nil, conflict("user", *in.Name)
	}
	u := &User{ID: rest.NewHex(), Name: *in.Name, Roles: map[string][]string{}, CreatedAt: r.Now}
	fillUser(u, in)
	s.users.Put(u.ID, u)
	return rest.Status(http.StatusCreated, rest.M{"user": userView(r, u)})
}

// fillUser takes what is given of a user.
func fillUser(u *User, in userFields) {
	if in.Description != nil {
		u.Description = *in.Description
	}
	if in.Password != nil {
		u.Password = *in.Password
	}
	if in.DefaultProject != nil {
		u.DefaultProject = *in.DefaultProject
	}
	if in.Enabled != nil {
		u.Disabled = !*in.Enabled
	}
}

func (s *Service) updateUser(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, forbidden("identity:update_user")
	}
	u := s.users.Get(r.Params["user"])
	if u == nil {
		return nil, notFound("user", r.Params["user"])
	}
	body := struct{ User userFields }{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	next := *u
	if name := body.User.Name; name != nil && *name != u.Name {
		if s.user(*name) != nil {
			return nil, conflict("user", *name)
		}
		next.Name = *name
	}
	fillUser(&next, body.User)
	if body.User.Password != nil {
		next.TokensFrom = r.Now.Truncate(time.Second)
	}
	s.users.Put(u.ID, &next)
	return rest.OK(rest.M{"user": userView(r, &next)})
}

// changePassword is what a user does to the own password.
func (s *Service) changePassword(r *rest.Request) (*rest.Response, error) {
	u := s.users.Get(r.Params["user"])
	if u == nil || u.ID != r.Token.UserID {
		return nil, denied()
	}
	body := struct{ User userFields }{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.User.Password == nil || body.User.OldPassword != u.Password {
		return nil, denied()
	}
	next := *u
	next.Password, next.TokensFrom = *body.User.Password, r.Now.Truncate(time.Second)
	s.users.Put(u.ID, &next)
	return rest.Status(http.StatusNoContent, nil)
}

// deleteUser takes a user away with all of its credentials.
func (s *Service) deleteUser(r *rest.Request) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, forbidden("identity:delete_user")
	}
	id := r.Params["user"]
	if s.users.Get(id) == nil {
		return nil, notFound("user", id)
	}
	s.dropCredentials(func(user, _ string) bool { return user == id })
	s.users.Delete(id)
	return rest.Status(http.StatusNoContent, nil)
}

// grant sets the roles of a user in a project.
func (s *Service) grant(u *User, project string, roles []string) {
	next := *u
	next.Roles = maps.Clone(u.Roles)
	if next.Roles == nil {
		next.Roles = map[string][]string{}
	}
	next.Roles[project] = roles
	if len(roles) == 0 {
		delete(next.Roles, project)
	}
	s.users.Put(u.ID, &next)
}

// granting reads the path of a grant.
func (s *Service) granting(r *rest.Request, action string) (u *User, p *Project, role string, err error) {
	if !r.Token.Admin() {
		return nil, nil, "", forbidden(action)
	}
	if p = s.projects.Get(r.Params["project"]); p == nil {
		return nil, nil, "", notFound("project", r.Params["project"])
	}
	if u = s.users.Get(r.Params["user"]); u == nil {
		return nil, nil, "", notFound("user", r.Params["user"])
	}
	id, given := r.Params["role"]
	at := slices.IndexFunc(s.roles, func(name string) bool { return fixedID("role", name) == id })
	if given && at < 0 {
		return nil, nil, "", notFound("role", id)
	}
	if given {
		role = s.roles[at]
	}
	return u, p, role, nil
}

func (s *Service) createGrant(r *rest.Request) (*rest.Response, error) {
	u, p, role, err := s.granting(r, "identity:create_grant")
	if err != nil {
		return nil, err
	}
	if !slices.Contains(u.Roles[p.ID], role) {
		s.grant(u, p.ID, append(slices.Clone(u.Roles[p.ID]), role))
	}
	return rest.Status(http.StatusNoContent, nil)
}

func (s *Service) checkGrant(r *rest.Request) (*rest.Response, error) {
	u, p, role, err := s.granting(r, "identity:check_grant")
	if err != nil {
		return nil, err
	}
	if !slices.Contains(u.Roles[p.ID], role) {
		return nil, notFound("role assignment with role", role)
	}
	return rest.Status(http.StatusNoContent, nil)
}

// deleteGrant takes a role away, and the application credentials that have it: they were made of what the user may do.
func (s *Service) deleteGrant(r *rest.Request) (*rest.Response, error) {
	u, p, role, err := s.granting(r, "identity:revoke_grant")
	if err != nil {
		return nil, err
	}
	if !slices.Contains(u.Roles[p.ID], role) {
		return nil, notFound("role assignment with role", role)
	}
	s.grant(u, p.ID, slices.DeleteFunc(slices.Clone(u.Roles[p.ID]), func(name string) bool { return name == role }))
	var bearing []string
	for id, c := range s.creds.All() {
		if c.UserID == u.ID && c.ProjectID == p.ID && slices.Contains(c.Roles, role) {
			bearing = append(bearing, id)
		}
	}
	for _, id := range bearing {
		s.creds.Delete(id)
	}
	return rest.Status(http.StatusNoContent, nil)
}

func (s *Service) listGrants(r *rest.Request) (*rest.Response, error) {
	u, p, _, err := s.granting(r, "identity:list_grants")
	if err != nil {
		return nil, err
	}
	out := []rest.M{}
	for _, role := range u.Roles[p.ID] {
		out = append(out, roleView(r, role))
	}
	return list(r, "roles", out)
}
