// Package identity simulates Keystone v3: users, projects, roles, tokens, application credentials and the catalog.
//
// Roles are fixed. There are projects and users from the beginning (see seed); an admin can make others, change them and
// take them away. A token carries its own content, sealed with a key that the journal keeps, so it stays valid over a
// restart and costs no memory; only revoked tokens are remembered, until they would have expired.
package identity

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
	"github.com/weftcloud/weft/services/sandbox/internal/world"
)

// Region is the only region of the sandbox.
const Region = "RegionOne"

// Password is the password of every seeded user.
const Password = "sandbox"

// TokenLife is how long a token is valid, as in the lab.
const TokenLife = 4 * time.Hour

// Project is one project of the default domain.
type Project struct {
	ID, Name, Description string
	Tags                  []string
	Disabled, Seeded      bool
	CreatedAt             time.Time
}

// User is one user of the default domain with the roles it has in its projects.
type User struct {
	ID, Name, Description, Password, DefaultProject string
	Roles                                           map[string][]string // project id: role names; replaced, never changed in place
	Disabled, Seeded                                bool
	CreatedAt                                       time.Time
	// TokensFrom is the second in which the password was changed: tokens from before are refused.
	TokensFrom time.Time
}

// AppCredential is one application credential.
type AppCredential struct {
	ID, Name, Description, UserID, ProjectID string
	SecretHash                               string
	Roles                                    []string
	ExpiresAt                                time.Time // zero: never
	Unrestricted                             bool
	CreatedAt                                time.Time
}

// CatalogEntry is one service of the catalog. URL may hold {project}.
type CatalogEntry struct{ Type, Name, URL string }

// Service is the simulated Keystone.
type Service struct {
	rest.Service
	catalog  []CatalogEntry
	projects *world.Table[Project]
	users    *world.Table[User]
	roles    []string
	key      []byte
	creds    *world.Table[AppCredential]
	revoked  *world.Table[revocation]
	secrets  *world.Table[secret]
	ec2      *world.Table[Credential]
}

type (
	revocation struct{ Until time.Time }
	secret     struct{ Key []byte }
)

// claims is what a token says.
type claims struct {
	User    string    `json:"u"`
	Project string    `json:"p,omitempty"`
	Methods []string  `json:"m"`
	Audits  []string  `json:"a"`
	Issued  time.Time `json:"i"`
	Expires time.Time `json:"e"`
	Cred    string    `json:"c,omitempty"`
}

// fixedID gives a name the same id in every sandbox.
func fixedID(kind, name string) string {
	sum := md5.Sum([]byte("weft sandbox " + kind + " " + name))
	return hex.EncodeToString(sum[:])
}

// New makes the service and loads its state.
func New(w *rest.World, prefix string, catalog []CatalogEntry) (*Service, error) {
	s := &Service{
		catalog:  catalog,
		roles:    []string{"admin", "member", "reader", "load-balancer_member", "swiftoperator"},
		projects: world.NewTable[Project](w.Journal, "identity.projects"),
		users:    world.NewTable[User](w.Journal, "identity.users"),
		creds:    world.NewTable[AppCredential](w.Journal, "identity.application_credentials"),
		revoked:  world.NewTable[revocation](w.Journal, "identity.revoked"),
		secrets:  world.NewTable[secret](w.Journal, "identity.secrets"),
		ec2:      world.NewTable[Credential](w.Journal, "identity.credentials"),
	}
	s.Service = rest.Service{
		Name: "identity", Prefix: prefix, World: w, Routes: s.routes(), WriteError: writeError,
		Authenticate: s.Authenticate, Negotiate: vary,
	}
	s.Prepare()
	for _, load := range []func() error{s.projects.Load, s.users.Load, s.creds.Load, s.revoked.Load, s.secrets.Load, s.ec2.Load} {
		if err := load(); err != nil {
			return nil, err
		}
	}
	s.seed()
	if held := s.secrets.Get("token"); held != nil {
		s.key = held.Key
		return s, nil
	}
	s.key = make([]byte, 32)
	if _, err := rand.Read(s.key); err != nil {
		return nil, fmt.Errorf("make token key: %w", err)
	}
	s.secrets.Put("token", &secret{Key: s.key})
	return s, nil
}

// seed makes the first projects and users, unless there are some.
func (s *Service) seed() {
	if s.projects.Len() > 0 {
		return
	}
	for _, name := range []string{"admin", "demo", "other", "service"} {
		id := fixedID("project", name)
		s.projects.Put(id, &Project{ID: id, Name: name, Seeded: true})
	}
	for _, name := range []string{"admin", "demo", "other"} {
		roles := []string{"member", "reader", "load-balancer_member", "swiftoperator"}
		if name == "admin" {
			roles = append([]string{"admin"}, roles...)
		}
		id := fixedID("user", name)
		s.users.Put(id, &User{
			ID: id, Name: name, Password: Password, DefaultProject: fixedID("project", name), Seeded: true,
			Roles: map[string][]string{fixedID("project", name): roles},
		})
	}
}

// Reset forgets what clients made; tokens of the first users stay valid.
func (s *Service) Reset() {
	s.projects.Clear()
	s.users.Clear()
	s.creds.Clear()
	s.revoked.Clear()
	s.ec2.Clear()
	s.seed()
}

// Project finds a project by id or name.
func (s *Service) Project(idOrName string) (Project, bool) {
	if p := s.projects.Get(idOrName); p != nil {
		return *p, true
	}
	for _, p := range s.projects.All() {
		if p.Name == idOrName {
			return *p, true
		}
	}
	return Project{}, false
}

// ProjectNames lists the projects by name.
func (s *Service) ProjectNames() []string {
	var out []string
	for _, p := range s.projects.All() {
		out = append(out, p.Name)
	}
	slices.Sort(out)
	return out
}

func (s *Service) user(idOrName string) *User {
	if u := s.users.Get(idOrName); u != nil {
		return u
	}
	for _, u := range s.users.All() {
		if u.Name == idOrName {
			return u
		}
	}
	return nil
}

func (s *Service) seal(c claims) string {
	payload, err := json.Marshal(c)
	if err != nil {
		panic(fmt.Sprintf("encode token: %v", err)) // strings and times always encode
	}
	mac := hmac.New(sha256.New, s.key)
	mac.Write(payload)
	return "gAAAAA" + base64.RawURLEncoding.EncodeToString(append(mac.Sum(nil), payload...))
}

func (s *Service) open(token string, now time.Time) *claims {
	data, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, "gAAAAA"))
	if err != nil || len(data) <= sha256.Size {
		return nil
	}
	mac := hmac.New(sha256.New, s.key)
	mac.Write(data[sha256.Size:])
	if !hmac.Equal(mac.Sum(nil), data[:sha256.Size]) {
		return nil
	}
	c := &claims{}
	if err := json.Unmarshal(data[sha256.Size:], c); err != nil || !now.Before(c.Expires) {
		return nil
	}
	if s.revoked.Get(c.Audits[0]) != nil {
		return nil
	}
	if c.Cred != "" && s.creds.Get(c.Cred) == nil {
		return nil
	}
	if u := s.users.Get(c.User); u == nil || u.Disabled || c.Issued.Before(u.TokensFrom) {
		return nil
	}
	if p := s.projects.Get(c.Project); c.Project != "" && (p == nil || p.Disabled) {
		return nil
	}
	return c
}

// Authenticate finds who a token belongs to.
func (s *Service) Authenticate(token string, now time.Time) *rest.Token {
	c := s.open(token, now)
	if c == nil {
		return nil
	}
	u := s.users.Get(c.User)
	if u == nil {
		return nil
	}
	t := &rest.Token{ID: token, UserID: u.ID, UserName: u.Name, ProjectID: c.Project, Roles: s.rolesOf(u, c)}
	if p, ok := s.Project(c.Project); ok {
		t.ProjectName = p.Name
	}
	return t
}

func (s *Service) rolesOf(u *User, c *claims) []string {
	if cred := s.creds.Get(c.Cred); cred != nil {
		return cred.Roles
	}
	return u.Roles[c.Project]
}

func vary(w http.ResponseWriter, _ *rest.Request) error {
	w.Header().Set("Vary", "X-Auth-Token")
	return nil
}

func writeError(w http.ResponseWriter, r *http.Request, status int, _, message string) {
	if status == http.StatusUnauthorized {
		w.Header().Set("Www-Authenticate", fmt.Sprintf("Keystone uri=%q", "http://"+r.Host+"/identity/v3"))
	}
	rest.WriteJSON(w, status, rest.M{"error": rest.M{"code": status, "message": message, "title": http.StatusText(status)}})
}

func denied() error {
	return rest.Errorf(http.StatusUnauthorized, "", "The request you have made requires authentication.")
}

func forbidden(action string) error {
	return rest.Errorf(http.StatusForbidden, "", "You are not authorized to perform the requested action: %s.", action)
}

func notFound(kind, id string) error {
	return rest.Errorf(http.StatusNotFound, "", "Could not find %s: %s.", kind, id)
}

func bad(format string, args ...any) error {
	return rest.Errorf(http.StatusBadRequest, "", format, args...)
}

// domainRef names the domain of a user or project.
type domainRef struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

func (d *domainRef) wrong() bool {
	return d == nil || d.ID != "default" && d.Name != "Default" && d.Name != "default"
}

type authRequest struct {
	Auth struct {
		Identity *struct {
			Methods  []string `json:"methods"`
			Password struct {
				User struct {
					ID, Name, Password string
					Domain             *domainRef
				}
			} `json:"password"`
			Token struct {
				ID string `json:"id"`
			} `json:"token"`
			AppCred struct {
				ID, Name, Secret string
				User             *struct {
					ID, Name string
					Domain   *domainRef
				}
			} `json:"application_credential"`
		} `json:"identity"`
		Scope json.RawMessage `json:"scope"`
	} `json:"auth"`
}

func (s *Service) createToken(r *rest.Request) (*rest.Response, error) {
	req := authRequest{}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	if req.Auth.Identity == nil || len(req.Auth.Identity.Methods) == 0 {
		return nil, bad("'identity' is a required property")
	}
	c := claims{Issued: r.Now.Truncate(time.Second), Expires: r.Now.Truncate(time.Second).Add(TokenLife), Audits: []string{newAudit()}}
	u, err := s.identify(r, &req, &c)
	if err != nil {
		return nil, err
	}
	if err := s.scope(req.Auth.Scope, u, &c); err != nil {
		return nil, err
	}
	token := s.seal(c)
	rest.Identify(r.HTTP.Context(), s.Authenticate(token, r.Now))
	return &rest.Response{
		Status: http.StatusCreated, Header: map[string]string{"X-Subject-Token": token},
		Body: rest.M{"token": s.tokenView(r, u, &c)},
	}, nil
}

func newAudit() string {
	return base64.RawURLEncoding.EncodeToString([]byte(rest.NewHex())[:16])
}

// identify checks every method that the client gives; all must agree.
func (s *Service) identify(r *rest.Request, req *authRequest, c *claims) (*User, error) {
	var u *User
	id := req.Auth.Identity
	for _, method := range id.Methods {
		switch method {
		case "password":
			p := id.Password.User
			if p.ID == "" && p.Domain.wrong() {
				return nil, denied()
			}
			u = s.user(p.ID + p.Name)
			if u == nil || u.Disabled || subtle.ConstantTimeCompare([]byte(u.Password), []byte(p.Password)) != 1 {
				return nil, denied()
			}
			c.Methods = append(c.Methods, "password")
		case "token":
			old := s.open(id.Token.ID, r.Now)
			if old == nil {
				return nil, denied()
			}
			u = s.user(old.User)
			c.Expires, c.Cred = old.Expires, old.Cred
			c.Audits = append(c.Audits, old.Audits[len(old.Audits)-1])
			c.Methods = append(slices.DeleteFunc(slices.Clone(old.Methods), func(m string) bool { return m == "token" }), "token")
		case "application_credential":
			cred := s.findCred(id.AppCred.ID, id.AppCred.Name, func() *User {
				if id.AppCred.User == nil {
					return nil
				}
				return s.user(id.AppCred.User.ID + id.AppCred.User.Name)
			})
			if cred == nil && id.AppCred.ID != "" {
				return nil, notFound("Application Credential", id.AppCred.ID)
			}
			if cred == nil || cred.SecretHash != hash(id.AppCred.Secret) || !cred.ExpiresAt.IsZero() && !r.Now.Before(cred.ExpiresAt) {
				return nil, denied()
			}
			if p := s.projects.Get(cred.ProjectID); p == nil || p.Disabled {
				return nil, denied()
			}
			if u = s.users.Get(cred.UserID); u == nil || u.Disabled {
				return nil, denied()
			}
			c.Cred, c.Project = cred.ID, cred.ProjectID
			if !cred.ExpiresAt.IsZero() && cred.ExpiresAt.Before(c.Expires) {
				c.Expires = cred.ExpiresAt
			}
			c.Methods = append(c.Methods, "application_credential")
		default:
			return nil, denied()
		}
	}
	if u == nil {
		return nil, denied()
	}
	c.User = u.ID
	return u, nil
}

func (s *Service) findCred(id, name string, owner func() *User) *AppCredential {
	if id != "" {
		return s.creds.Get(id)
	}
	u := owner()
	if u == nil {
		return nil
	}
	for _, cred := range s.creds.All() {
		if cred.UserID == u.ID && cred.Name == name {
			return cred
		}
	}
	return nil
}

func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func (s *Service) scope(raw json.RawMessage, u *User, c *claims) error {
	if c.Cred != "" {
		if len(raw) > 0 && string(raw) != "null" {
			return bad("Application credentials cannot request a scope.")
		}
		return nil
	}
	if string(raw) == `"unscoped"` {
		return nil
	}
	if len(raw) == 0 || string(raw) == "null" {
		if p := s.projects.Get(u.DefaultProject); p != nil && len(u.Roles[p.ID]) > 0 {
			c.Project = p.ID
		}
		return nil
	}
	scope := struct {
		Project *struct {
			ID, Name string
			Domain   *domainRef
		}
		Domain *domainRef
		System json.RawMessage
	}{}
	if err := json.Unmarshal(raw, &scope); err != nil {
		return bad("scope: %v", err)
	}
	if scope.Project == nil {
		return denied() // no user has roles on a domain or on the system
	}
	if scope.Project.ID == "" && scope.Project.Domain.wrong() {
		return denied()
	}
	p, ok := s.Project(scope.Project.ID + scope.Project.Name)
	if !ok || p.Disabled || len(u.Roles[p.ID]) == 0 {
		return denied()
	}
	c.Project = p.ID
	return nil
}

func (s *Service) tokenView(r *rest.Request, u *User, c *claims) rest.M {
	domain := rest.M{"id": "default", "name": "Default"}
	view := rest.M{
		"methods":    c.Methods,
		"user":       rest.M{"domain": domain, "id": u.ID, "name": u.Name, "password_expires_at": nil},
		"audit_ids":  c.Audits,
		"expires_at": c.Expires.Format("2006-01-02T15:04:05.000000Z"),
		"issued_at":  c.Issued.Format("2006-01-02T15:04:05.000000Z"),
	}
	p, ok := s.Project(c.Project)
	if !ok {
		return view
	}
	roles := []rest.M{}
	for _, role := range s.rolesOf(u, c) {
		roles = append(roles, rest.M{"id": fixedID("role", role), "name": role})
	}
	view["project"] = rest.M{"domain": domain, "id": p.ID, "name": p.Name}
	view["is_domain"] = false
	view["roles"] = roles
	view["catalog"] = s.catalogView(r, p.ID)
	if cred := s.creds.Get(c.Cred); cred != nil {
		view["application_credential"] = rest.M{"id": cred.ID, "name": cred.Name, "restricted": !cred.Unrestricted}
	}
	return view
}

func (s *Service) catalogView(r *rest.Request, project string) []rest.M {
	out := []rest.M{}
	for _, entry := range s.catalog {
		url := r.Base + strings.ReplaceAll(entry.URL, "{project}", project)
		endpoints := []rest.M{}
		for _, iface := range []string{"public", "internal", "admin"} {
			endpoints = append(endpoints, rest.M{
				"id": fixedID("endpoint", entry.Type+iface), "interface": iface, "region_id": Region, "region": Region, "url": url,
			})
		}
		out = append(out, rest.M{"endpoints": endpoints, "id": fixedID("service", entry.Type), "type": entry.Type, "name": entry.Name})
	}
	return out
}
