package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

// Credential is one credential of the credentials API; of type ec2 its blob holds access and secret.
type Credential struct {
	ID, Type, Blob, UserID, ProjectID string
	CreatedAt                         time.Time
}

// blob is what an EC2 credential holds.
type blob struct {
	Access string `json:"access"`
	Secret string `json:"secret"`
}

// EC2ID is the id of an EC2 credential: the hash of its access key.
func EC2ID(access string) string {
	sum := sha256.Sum256([]byte(access))
	return hex.EncodeToString(sum[:])
}

// EC2 finds an EC2 credential by its access key: its secret, and who and in which project its bearer is; nil if there is none.
func (s *Service) EC2(access string, _ time.Time) (secret string, token *rest.Token) {
	c := s.ec2.Get(EC2ID(access))
	if c == nil {
		return "", nil
	}
	b := blob{}
	if json.Unmarshal([]byte(c.Blob), &b) != nil {
		return "", nil
	}
	u, p := s.users.Get(c.UserID), s.projects.Get(c.ProjectID)
	if u == nil || u.Disabled || p == nil || p.Disabled {
		return "", nil
	}
	t := &rest.Token{UserID: u.ID, UserName: u.Name, ProjectID: c.ProjectID, ProjectName: p.Name, Roles: u.Roles[c.ProjectID]}
	return b.Secret, t
}

// delegated refuses what only a user's own login may do.
func delegated() error { return forbidden("Delegated tokens cannot access credentials directly") }

func ec2View(r *rest.Request, c *Credential) rest.M {
	return rest.M{"id": c.ID, "user_id": c.UserID, "project_id": c.ProjectID, "type": c.Type, "blob": c.Blob, "links": self(r, "/credentials/"+c.ID)}
}

func (s *Service) listCredentials(r *rest.Request) (*rest.Response, error) {
	if s.credOf(r) != "" {
		return nil, delegated()
	}
	out := []rest.M{}
	for _, c := range s.ec2.All() {
		if typ := r.Query.Get("type"); c.UserID == r.Token.UserID && (typ == "" || typ == c.Type) {
			out = append(out, ec2View(r, c))
		}
	}
	return list(r, "credentials", out)
}

func (s *Service) createCredential(r *rest.Request) (*rest.Response, error) {
	if s.credOf(r) != "" {
		return nil, delegated()
	}
	body := struct {
		Credential struct {
			Type, Blob string
			UserID     string `json:"user_id"`
			ProjectID  string `json:"project_id"`
		}
	}{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	in := body.Credential
	if in.UserID != r.Token.UserID {
		return nil, forbidden("identity:create_credential")
	}
	c := &Credential{ID: rest.NewHex(), Type: in.Type, Blob: in.Blob, UserID: in.UserID, ProjectID: in.ProjectID, CreatedAt: r.Now}
	if in.Type == "ec2" {
		b := blob{}
		if json.Unmarshal([]byte(in.Blob), &b) != nil || b.Access == "" || in.ProjectID == "" {
			return nil, bad("Invalid blob in credential")
		}
		c.ID = EC2ID(b.Access)
	}
	if s.ec2.Get(c.ID) != nil {
		return nil, rest.Errorf(http.StatusConflict, "", "Conflict occurred attempting to store credential - Duplicate entry found with ID %s.", c.ID)
	}
	s.ec2.Put(c.ID, c)
	return rest.Status(http.StatusCreated, rest.M{"credential": ec2View(r, c)})
}

// credential finds the credential of the path. What is not the caller's own, or does not exist, is forbidden: Keystone looks
// at whose it is before it looks whether it is there.
func (s *Service) credential(r *rest.Request, action string) (*Credential, error) {
	if s.credOf(r) != "" {
		return nil, delegated()
	}
	c := s.ec2.Get(r.Params["credential"])
	if c == nil || c.UserID != r.Token.UserID {
		return nil, forbidden(action)
	}
	return c, nil
}

func (s *Service) getCredential(r *rest.Request) (*rest.Response, error) {
	c, err := s.credential(r, "identity:get_credential")
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"credential": ec2View(r, c)})
}

func (s *Service) deleteCredential(r *rest.Request) (*rest.Response, error) {
	c, err := s.credential(r, "identity:delete_credential")
	if err != nil {
		return nil, err
	}
	s.ec2.Delete(c.ID)
	return rest.Status(http.StatusNoContent, nil)
}
