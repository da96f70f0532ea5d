package compute

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

func (k *Keypair) view(r *rest.Request) rest.M {
	out := rest.M{"name": k.Name, "public_key": k.PublicKey, "fingerprint": k.Fingerprint}
	if r.Minor >= 2 {
		out["type"] = k.Type
	}
	return out
}

// keyUser is whose keys a request is about.
func keyUser(r *rest.Request) (string, error) {
	want := r.Query.Get("user_id")
	if want == "" || want == r.Token.UserID {
		return r.Token.UserID, nil
	}
	if !r.Token.Admin() || r.Minor < 10 {
		return "", policy("os_compute_api:os-keypairs:show")
	}
	return want, nil
}

func (s *Service) listKeypairs(r *rest.Request) (*rest.Response, error) {
	user, err := keyUser(r)
	if err != nil {
		return nil, err
	}
	limit, err := pageSize(r)
	if err != nil {
		return nil, err
	}
	keys := s.keypairs.By(byUser, user)
	slices.SortFunc(keys, func(a, b *Keypair) int { return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)) })
	if marker := r.Query.Get("marker"); marker != "" {
		at := slices.IndexFunc(keys, func(k *Keypair) bool { return k.Name == marker })
		if at < 0 {
			return nil, bad("marker [%s] not found", marker)
		}
		keys = keys[at+1:]
	}
	body := rest.M{}
	if r.Minor >= 35 && limit > 0 && len(keys) >= limit {
		keys = keys[:limit]
		body["keypairs_links"] = []rest.M{rest.Link("next", rest.NextLink(r, r.HTTP.URL.Path, keys[limit-1].Name, limit))}
	}
	out := []rest.M{}
	for _, k := range keys {
		out = append(out, rest.M{"keypair": k.view(r)})
	}
	body["keypairs"] = out
	return rest.OK(body)
}

func (s *Service) keypair(r *rest.Request) (*Keypair, error) {
	user, err := keyUser(r)
	if err != nil {
		return nil, err
	}
	k := s.keypairs.Get(user + "/" + r.Params["name"])
	if k == nil {
		return nil, notFound("Keypair %s not found for user %s", r.Params["name"], user)
	}
	return k, nil
}

func (s *Service) getKeypair(r *rest.Request) (*rest.Response, error) {
	k, err := s.keypair(r)
	if err != nil {
		return nil, err
	}
	out := k.view(r)
	out["user_id"], out["created_at"], out["id"] = k.User, rest.Micros(k.CreatedAt), k.Number
	out["deleted"], out["deleted_at"], out["updated_at"] = false, nil, nil
	return rest.OK(rest.M{"keypair": out})
}

func (s *Service) deleteKeypair(r *rest.Request) (*rest.Response, error) {
	k, err := s.keypair(r)
	if err != nil {
		return nil, err
	}
	s.keypairs.Delete(k.User + "/" + k.Name)
	if r.Minor >= 2 {
		return rest.Status(http.StatusNoContent, nil)
	}
	return accepted()
}

var (
	keyName    = regexp.MustCompile(`^[ \w-]+$`)
	keyNameNew = regexp.MustCompile(`^[@._ \w-]+$`)
)

type keyRequest struct {
	Name      string  `json:"name"`
	PublicKey *string `json:"public_key"`
	Type      string  `json:"type"`
	UserID    string  `json:"user_id"`
}

// createKeypair runs without the lock while it makes a private key.
func (s *Service) createKeypair(r *rest.Request) (*rest.Response, error) {
	body := struct {
		Keypair *keyRequest `json:"keypair"`
	}{}
	data, err := readAll(r)
	if err != nil {
		return nil, err
	}
	r.Body = data
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	in := body.Keypair
	if in == nil {
		return nil, bad("'keypair' is a required property")
	}
	if err := in.check(r); err != nil {
		return nil, err
	}
	k := &Keypair{Name: in.Name, User: r.Token.UserID, Type: "ssh"}
	if in.Type != "" {
		k.Type = in.Type
	}
	if in.UserID != "" && r.Token.Admin() {
		k.User = in.UserID
	}
	private := ""
	if in.PublicKey == nil {
		if private, err = k.generate(); err != nil {
			return nil, err
		}
	}
	if in.PublicKey != nil {
		k.PublicKey = *in.PublicKey
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(*in.PublicKey))
		if err != nil {
			return nil, bad("Keypair data is invalid: failed to generate fingerprint")
		}
		k.Fingerprint = fingerprint(key)
	}
	return s.storeKeypair(r, k, private)
}

func (in *keyRequest) check(r *rest.Request) error {
	pattern := keyName
	if r.Minor >= 92 {
		pattern = keyNameNew
	}
	if in.Name == "" || len(in.Name) > 255 || !pattern.MatchString(in.Name) {
		extra := ""
		if r.Minor >= 92 {
			extra = "@."
		}
		return bad("An invalid 'name' value was provided. The name must be: Only expected characters: [%s_- 0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ]", extra)
	}
	if in.Type != "" && in.Type != "ssh" && in.Type != "x509" {
		return invalid("type", in.Type, fmt.Sprintf("'%s' is not one of ['ssh', 'x509']", in.Type))
	}
	if in.PublicKey == nil && r.Minor >= 92 {
		return bad("Invalid input for field/attribute keypair. Value: {'name': '%s', 'type': '%s'}. 'public_key' is a required property", in.Name, in.Type)
	}
	return nil
}

func (s *Service) storeKeypair(r *rest.Request, k *Keypair, private string) (*rest.Response, error) {
	var failed error
	s.World.Do(func(now time.Time) {
		id := k.User + "/" + k.Name
		if s.keypairs.Get(id) != nil {
			failed = conflict("Key pair '%s' already exists.", k.Name)
			return
		}
		if limit := s.limits(r.Token.ProjectID)["key_pairs"]; limit >= 0 && s.keypairs.Count(byUser, k.User) >= limit {
			failed = rest.Errorf(http.StatusForbidden, "", "Quota exceeded, too many key pairs.")
			return
		}
		s.number++
		k.Number, k.CreatedAt = s.number, now
		s.keypairs.Put(id, k)
	})
	if failed != nil {
		return nil, failed
	}
	out := k.view(r)
	out["user_id"] = k.User
	if private != "" {
		out["private_key"] = private
	}
	if r.Minor >= 2 {
		return rest.Status(http.StatusCreated, rest.M{"keypair": out})
	}
	return rest.OK(rest.M{"keypair": out})
}

func (k *Keypair) generate() (private string, err error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	public, err := ssh.NewPublicKey(&key.PublicKey)
	if err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	k.PublicKey = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public))) + " Generated-by-Nova"
	k.Fingerprint = fingerprint(public)
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})), nil
}

func fingerprint(key ssh.PublicKey) string {
	sum := md5.Sum(key.Marshal())
	parts := make([]string, len(sum))
	for i, b := range sum {
		parts[i] = hex.EncodeToString([]byte{b})
	}
	return strings.Join(parts, ":")
}
