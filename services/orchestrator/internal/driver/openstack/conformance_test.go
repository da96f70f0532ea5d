package openstack

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/applicationcredentials"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/credentials"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/users"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/objectstorage/v1/containers"
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/cloud/openstack/openstacktest"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/driver/drivertest"
	"github.com/weftcloud/weft/pkg/fault"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/sandbox"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// place is an OpenStack, as somebody sees it who may manage projects, with what the driver logs in there with.
type place struct {
	*openstacktest.Place
	credentials driver.Credentials
	other       driver.Credentials // of somebody who may not
}

// places are where the suite runs. At a real cloud OS_CLOUD and WEFT_REAL_ADMIN_CLOUD name the entries of clouds.yaml: of
// somebody who may not manage projects, and of somebody who may.
var places = map[string]func(*testing.T) *place{
	"real": func(t *testing.T) *place {
		path, name, admin := os.Getenv("OS_CLIENT_CONFIG_FILE"), os.Getenv("OS_CLOUD"), os.Getenv("WEFT_REAL_ADMIN_CLOUD")
		if path == "" || name == "" || admin == "" {
			t.Skip("OS_CLIENT_CONFIG_FILE, OS_CLOUD and WEFT_REAL_ADMIN_CLOUD name no real OpenStack and who may manage projects there")
		}
		return open(t, path, name, admin)
	},
	"sandbox": func(t *testing.T) *place {
		s, err := sandbox.New(sandbox.Config{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		t.Cleanup(func() {
			stop()
			if err := <-ended; err != nil {
				t.Errorf("sandbox: %v", err)
			}
		})
		path := filepath.Join(t.TempDir(), "clouds.yaml")
		if err := os.WriteFile(path, s.CloudsYAML(), 0o600); err != nil {
			t.Fatal(err)
		}
		p := open(t, path, "sandbox", "sandbox-admin")
		p.Interval = 20 * time.Millisecond
		return p
	},
}

func open(t *testing.T, path, name, admin string) *place {
	t.Helper()
	p := &place{}
	for at, c := range map[string]*driver.Credentials{admin: &p.credentials, name: &p.other} {
		found, err := cloud.FromCloudsYAML(path, at)
		if err != nil {
			t.Fatal(err)
		}
		*c = found
	}
	p.Place = openstacktest.Open(t, p.credentials)
	return p
}

func everywhere(t *testing.T, test func(t *testing.T, p *place)) {
	for name, open := range places {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// memory is a vault that keeps its secrets in the open.
type memory struct {
	mu   sync.Mutex
	kept map[string]*orchestratorv1.ProjectKeys
	// fail is asked before each change, and its error given; nil never fails.
	fail func() error
}

func (m *memory) Load(_ context.Context, key string) (*orchestratorv1.ProjectKeys, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kept[key] == nil {
		return &orchestratorv1.ProjectKeys{}, nil
	}
	return proto.CloneOf(m.kept[key]), nil
}

func (m *memory) Of(_ context.Context, id string) (string, *orchestratorv1.ProjectKeys, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, kept := range m.kept {
		if kept.GetProjectId() == id {
			return key, proto.CloneOf(kept), nil
		}
	}
	return "", &orchestratorv1.ProjectKeys{}, nil
}

func (m *memory) Change(ctx context.Context, key string, change func(*orchestratorv1.ProjectKeys) error) (*orchestratorv1.ProjectKeys, error) {
	next, err := m.Load(ctx, key)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		if err := m.fail(); err != nil {
			return nil, err
		}
	}
	if err := change(next); err != nil {
		return nil, err
	}
	if m.kept == nil {
		m.kept = map[string]*orchestratorv1.ProjectKeys{}
	}
	m.kept[key] = proto.CloneOf(next)
	return next, nil
}

func (m *memory) Drop(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.kept, key)
	return nil
}

func (p *place) driver(v Vault) *Projects {
	return NewProjects(p.Session, p.credentials, Config{Vault: v, Lifetime: time.Hour, Now: time.Now})
}

func TestProjects(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		drivertest.Run(t, drivertest.Harness[*orchestratorv1.ProjectSpec, *orchestratorv1.ProjectObserved]{
			Driver: p.driver(&memory{}),
			Name:   func(id string) string { return "tenants/conform-" + id + "/projects/lab" },
			Spec: func(*testing.T) (*orchestratorv1.ProjectSpec, driver.Refs) {
				return &orchestratorv1.ProjectSpec{Credential: 1}, nil
			},
			Change: func(*testing.T, driver.Request[*orchestratorv1.ProjectSpec]) (*orchestratorv1.ProjectSpec, driver.Refs) {
				return &orchestratorv1.ProjectSpec{Credential: 2, Oldest: 2}, nil
			},
			Verify: func(t *testing.T, r driver.Request[*orchestratorv1.ProjectSpec], o *orchestratorv1.ProjectObserved) {
				all := o.GetCredentials()
				if o.GetProjectId() == "" || o.GetUserId() == "" || !slices.Contains(o.GetRoles(), "member") || len(all) != 1 || all[0].GetNumber() != r.Spec.GetCredential() {
					t.Errorf("observed %v, want %v", o, r.Spec)
				}
			},
			Outage:   p.Outage,
			Wait:     p.Wait,
			AbsentID: strings.ReplaceAll(openstacktest.AbsentID, "-", ""),
		})
	})
}

// made is a project that the driver made.
type made struct {
	*place
	d     *Projects
	vault *memory
	id    string
	r     driver.Request[*orchestratorv1.ProjectSpec]
}

func (p *place) make(t *testing.T, end string) *made {
	t.Helper()
	m := &made{place: p, vault: &memory{}}
	m.d = p.driver(m.vault)
	key := fmt.Sprintf("0199b0c4-0000-7000-8000-%012x", time.Now().UnixNano()&0xffffffffffff)
	m.r = driver.Request[*orchestratorv1.ProjectSpec]{Key: key, Name: "tenants/conform-" + end + "/projects/lab", Generation: 1, Spec: &orchestratorv1.ProjectSpec{Credential: 1}}
	var err error
	if m.id, err = m.d.Create(t.Context(), m.r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.d.Delete(context.Background(), m.id); err != nil {
			t.Errorf("delete the project: %v", err)
		}
	})
	m.update(t)
	return m
}

func (m *made) update(t *testing.T) {
	t.Helper()
	if err := m.d.Update(t.Context(), m.id, m.r); err != nil {
		t.Fatal(err)
	}
}

// session works in the project with the credential of a number, or with the one in use.
func (m *made) session(t *testing.T, number int64) (*cloud.Session, error) {
	t.Helper()
	kept, err := m.vault.Load(t.Context(), m.r.Key)
	if err != nil {
		t.Fatal(err)
	}
	key := InUse(kept)
	for _, k := range kept.GetKeys() {
		if k.GetCredential().GetNumber() == number {
			key = k
		}
	}
	return m.d.as(t.Context(), map[string]string{"application_credential_id": key.GetCredential().GetId(), "application_credential_secret": key.GetSecret()})
}

// TestCredentialIsNarrow: it is for its project alone, has an end, and can make no others; flavors, public images and the
// networks that lead outside can be used from the project.
func TestCredentialIsNarrow(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		m := p.make(t, "narrow")
		s, err := m.session(t, 0)
		if err != nil {
			t.Fatal(err)
		}
		if s.ProjectID != m.id {
			t.Errorf("works in project %s, want %s", s.ProjectID, m.id)
		}
		c, err := s.Identity(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		user, err := s.UserID()
		if err != nil {
			t.Fatal(err)
		}
		pages, err := applicationcredentials.List(c, user, nil).AllPages(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all, err := applicationcredentials.ExtractApplicationCredentials(pages)
		if err != nil || len(all) != 1 || all[0].Unrestricted || time.Until(all[0].ExpiresAt) > time.Hour || all[0].ProjectID != m.id {
			t.Errorf("credentials %+v, %v", all, err)
		}
		_, err = applicationcredentials.Create(t.Context(), c, user, applicationcredentials.CreateOpts{Name: "more"}).Extract()
		if err := cloud.Fault(err, "create"); !fault.Is(err, fault.Denied) {
			t.Errorf("it makes others: %v", err)
		}
		if _, err := m.driver(&memory{}).list(t.Context(), nil); err != nil {
			t.Error(err)
		}
		if _, err := (&Projects{s: s, cfg: m.d.cfg}).list(t.Context(), nil); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "role admin") {
			t.Errorf("it lists projects: %v", err)
		}
		if _, err := s.Flavor(t.Context(), "", p.Flavor, true); err != nil {
			t.Error(err)
		}
		if _, err := s.ImageByRef(t.Context(), "", p.Image, true); err != nil {
			t.Error(err)
		}
		if outside, err := s.ExternalNetworks(t.Context(), true); err != nil || len(outside) == 0 {
			t.Errorf("networks that lead outside: %v, %v", outside, err)
		}
	})
}

// TestWhoMayNot: the error says what to grant.
func TestWhoMayNot(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		s := openstacktest.Open(t, p.other).Session
		d := NewProjects(s, p.other, Config{Vault: &memory{}, Lifetime: time.Hour, Now: time.Now})
		_, err := d.Create(t.Context(), driver.Request[*orchestratorv1.ProjectSpec]{Key: "k", Name: "tenants/a/projects/lab", Spec: &orchestratorv1.ProjectSpec{Credential: 1}})
		if !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "identity:create_project") {
			t.Errorf("error %v, want Denied with what to grant", err)
		}
		if found, err := d.ListMarked(t.Context()); err != nil || len(found) != 0 {
			t.Errorf("marked %v, %v; want none: it can have made none", found, err)
		}
	})
}

// TestRotation: while two credentials stand both work; the former is gone when it is told to be, and EC2 credentials that
// were made with it live on. It is broken off at each write of the vault, and goes on.
func TestRotation(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		m := p.make(t, "rotate")
		m.rotate(t, &orchestratorv1.ProjectSpec{Credential: 2})
		for _, number := range []int64{1, 2} {
			if _, err := m.session(t, number); err != nil {
				t.Errorf("credential %d after a rotation: %v", number, err)
			}
		}
		former, err := m.vault.Load(t.Context(), m.r.Key)
		if err != nil {
			t.Fatal(err)
		}
		m.rotate(t, &orchestratorv1.ProjectSpec{Credential: 2, Oldest: 2})
		first := former.GetKeys()[0]
		_, err = m.d.as(t.Context(), map[string]string{"application_credential_id": first.GetCredential().GetId(), "application_credential_secret": first.GetSecret()})
		if !fault.Is(err, fault.Denied) {
			t.Errorf("credential 1 after its end: %v", err)
		}
		if _, err = m.session(t, 2); err != nil {
			t.Error(err)
		}
	})
}

// TestOtherCredentials: an application credential cannot make any; the user's own login, which services get beside it, can.
func TestOtherCredentials(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		m := p.make(t, "ec2")
		kept, err := m.vault.Load(t.Context(), m.r.Key)
		if err != nil {
			t.Fatal(err)
		}
		s, err := m.d.as(t.Context(), Login(m.r.Key, kept))
		if err != nil {
			t.Fatal(err)
		}
		opts := credentials.CreateOpts{Type: "ec2", Blob: fmt.Sprintf(`{"access": "access-%s", "secret": "s"}`, m.r.Key), ProjectID: m.id, UserID: kept.GetUserId()}
		c, err := s.Identity(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = credentials.Create(t.Context(), c, opts).Extract()
		if err := cloud.Fault(err, "create"); !fault.Is(err, fault.Denied) {
			t.Errorf("with an application credential: %v, want Denied", err)
		}
		if c, err = s.Primary(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err = credentials.Create(t.Context(), c, opts).Extract(); err != nil {
			t.Error(err)
		}
	})
}

// rotate brings the project to a spec, broken off at each write of the vault in turn.
func (m *made) rotate(t *testing.T, spec *orchestratorv1.ProjectSpec) {
	t.Helper()
	m.r.Spec = spec
	m.r.Generation++
	broken := fault.New(fault.Unavailable, "the store is away")
	for at := 1; ; at++ {
		n := 0
		m.vault.fail = func() error {
			if n++; n == 1 && at%2 == 1 { // every other try gets one write further
				return broken
			}
			if n == 2 && at%2 == 0 {
				return broken
			}
			return nil
		}
		err := m.d.Update(t.Context(), m.id, m.r)
		m.vault.fail = nil
		if err == nil && at == 1 {
			t.Fatal("nothing was written, so nothing could be broken off")
		}
		if err == nil {
			return
		}
		if !fault.Is(err, fault.Unavailable) || at > 20 {
			t.Fatalf("try %d: %v", at, err)
		}
	}
}

// TestPasswordOfTheUser: one that somebody changed is set again, and a user that somebody disabled is enabled.
func TestPasswordOfTheUser(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		m := p.make(t, "password")
		c, err := p.Session.Identity(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		kept, err := m.vault.Load(t.Context(), m.r.Key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := users.Update(t.Context(), c, kept.GetUserId(), users.UpdateOpts{Password: "changed"}).Extract(); err != nil {
			t.Fatal(err)
		}
		m.r.Spec = &orchestratorv1.ProjectSpec{Credential: 2}
		p.Await(t, "a new credential", func() (bool, error) {
			err := m.d.Update(t.Context(), m.id, m.r)
			return err == nil, ifFinal(err)
		})
		if _, err := m.session(t, 2); err != nil {
			t.Error(err)
		}
	})
}

// TestRotationWithoutTheCloudsOwn: the project's user rotates, and sees the project, while the cloud's own credentials are
// refused; what the user cannot do then is told as that refusal.
func TestRotationWithoutTheCloudsOwn(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		m := p.make(t, "alone")
		refused := NewProjects(openstacktest.Open(t, p.other).Session, p.other, Config{Vault: m.vault, Lifetime: time.Hour, Now: time.Now})
		m.r.Spec = &orchestratorv1.ProjectSpec{Credential: 2, Oldest: 2}
		if err := refused.Update(t.Context(), m.id, m.r); err != nil {
			t.Fatal(err)
		}
		if _, err := m.session(t, 2); err != nil {
			t.Error(err)
		}
		seen, err := refused.Observe(t.Context(), []string{m.id})
		if all := seen[m.id].Observed.GetCredentials(); err != nil || len(all) != 1 || all[0].GetNumber() != 2 {
			t.Errorf("observed %v, %v", seen, err)
		}
		if seen, err := refused.Observe(t.Context(), []string{m.id, openstacktest.AbsentID}); !fault.Is(err, fault.Denied) {
			t.Errorf("observed what is not the project of any user %v, %v; want Denied", seen, err)
		}
		c, err := p.Session.Identity(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		kept, err := m.vault.Load(t.Context(), m.r.Key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := users.Update(t.Context(), c, kept.GetUserId(), users.UpdateOpts{Password: "changed"}).Extract(); err != nil {
			t.Fatal(err)
		}
		m.r.Spec = &orchestratorv1.ProjectSpec{Credential: 3, Oldest: 2}
		if err := refused.Update(t.Context(), m.id, m.r); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "weft cloud add") {
			t.Errorf("update with a user that is refused, too: %v", err)
		}
		p.Await(t, "the user's password as it was", func() (bool, error) {
			err := m.d.Update(t.Context(), m.id, m.r)
			return err == nil, ifFinal(err)
		})
	})
}

// ifFinal drops an error that can pass.
func ifFinal(err error) error {
	if fault.Retryable(err) {
		return nil
	}
	return err
}

// somebodys makes a network that is not ours where a session is.
func somebodys(t *testing.T, s *cloud.Session) (*gophercloud.ServiceClient, *networks.Network) {
	t.Helper()
	c, err := s.Network(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n, err := networks.Create(t.Context(), c, networks.CreateOpts{Name: "somebodys"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	return c, n
}

// TestWhatStandsInAProject: it is not deleted with what others made there.
func TestWhatStandsInAProject(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		m := p.make(t, "full")
		s, err := m.session(t, 0)
		if err != nil {
			t.Fatal(err)
		}
		c, n := somebodys(t, s)
		err = m.d.Delete(t.Context(), m.id)
		if !fault.Is(err, fault.Precondition) || !strings.Contains(err.Error(), n.ID) || !strings.Contains(err.Error(), "somebodys") {
			t.Errorf("delete: %v, want a refusal that names the network", err)
		}
		if err := networks.Delete(t.Context(), c, n.ID).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		if found, err := m.d.Blockers(t.Context(), m.id); err != nil || len(found) != 0 {
			t.Errorf("blockers %v, %v", found, err)
		}
	})
}

// TestDeletedUserHidesNothing: if somebody else deleted the project's user, or its secrets are lost, what stands in the
// project is found all the same; if the release itself was broken off after that it goes on.
func TestDeletedUserHidesNothing(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		m := p.make(t, "blind")
		s, err := m.session(t, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, n := somebodys(t, s)
		deleteUser := func() {
			t.Helper()
			c, err := p.Session.Identity(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			user, err := m.d.findUser(t.Context(), m.r.Key, "default")
			if err != nil {
				t.Fatal(err)
			}
			if err := users.Delete(t.Context(), c, user).ExtractErr(); err != nil {
				t.Fatal(err)
			}
		}
		found := func() bool {
			t.Helper()
			var err error
			p.Await(t, "a look into the project", func() (bool, error) {
				err = m.d.Delete(t.Context(), m.id)
				return !fault.Retryable(err) || fault.Is(err, fault.Precondition), nil
			})
			return fault.Is(err, fault.Precondition) && strings.Contains(err.Error(), n.ID)
		}
		deleteUser()
		if !found() {
			t.Error("the network is not found when the user was deleted")
		}
		if err := m.vault.Drop(t.Context(), m.r.Key); err != nil {
			t.Fatal(err)
		}
		if !found() {
			t.Error("the network is not found when the secrets are lost")
		}
		network, err := p.Session.Network(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := networks.Delete(t.Context(), network, n.ID).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		if _, err := m.vault.Change(t.Context(), m.r.Key, func(k *orchestratorv1.ProjectKeys) error { k.Emptied = true; return nil }); err != nil {
			t.Fatal(err)
		}
		deleteUser()
		if err := m.d.Delete(t.Context(), m.id); err != nil {
			t.Errorf("a release that was broken off: %v", err)
		}
	})
}

// TestKeptInAProject: images and containers hold a project, too.
func TestKeptInAProject(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		m := p.make(t, "kept")
		s, err := m.session(t, 0)
		if err != nil {
			t.Fatal(err)
		}
		image, err := s.Image(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		i, err := images.Create(t.Context(), image, images.CreateOpts{Name: "somebodys", DiskFormat: "raw", ContainerFormat: "bare"}).Extract()
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"image " + i.ID}
		store, err := s.ObjectStorage(t.Context())
		if err == nil {
			if _, err = containers.Create(t.Context(), store, "somebodys", nil).Extract(); err != nil {
				t.Fatal(err)
			}
			want = append(want, "container somebodys")
		}
		found, err := m.d.Blockers(t.Context(), m.id)
		var got []string
		for _, b := range found {
			got = append(got, b.GetKind()+" "+b.GetId())
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("blockers %v, %v; want %v", got, err, want)
		}
		if err := images.Delete(t.Context(), image, i.ID).ExtractErr(); err != nil {
			t.Error(err)
		}
		if len(want) > 1 {
			if _, err := containers.Delete(t.Context(), store, "somebodys").Extract(); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestNothingIsLeftOfAProject: user, credentials and the default security group go with it.
func TestNothingIsLeftOfAProject(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		m := p.make(t, "left")
		s, err := m.session(t, 0)
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Network(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if all, err := cloud.List[group](t.Context(), c, "security-groups", "security_groups", nil); err != nil || len(all) != 1 {
			t.Fatalf("security groups of a new project: %v, %v", all, err)
		}
		if err := m.d.Delete(t.Context(), m.id); err != nil {
			t.Fatal(err)
		}
		if user, err := m.d.findUser(t.Context(), m.r.Key, "default"); err != nil || user != "" {
			t.Errorf("user %q, %v", user, err)
		}
		if len(m.vault.kept) != 0 {
			t.Errorf("kept secrets of %d projects", len(m.vault.kept))
		}
		network, err := p.Session.Network(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all, err := cloud.List[group](t.Context(), network, "security-groups", "security_groups", map[string][]string{"name": {"default"}})
		if err != nil || slices.ContainsFunc(all, func(g group) bool { return g.ProjectID == m.id }) {
			t.Errorf("security groups %v, %v", all, err)
		}
	})
}
