package e2e

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// shared is the same document for every tenant: the same names, and the same addresses.
func shared(size int) string {
	return fmt.Sprintf(`kind: Stack
name: shop
placement: {cloud: metal}
resources:
  net: {kind: PrivateNetwork, spec: {cidr: 10.60.0.0/24, external: public}}
  wall: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: "80"}]}}
  data: {kind: Volume, spec: {size: %dGi, reclaim: DESTROY}}
  files: {kind: Bucket, spec: {s3: true, reclaim: DESTROY}}
  web:
    kind: Server
    spec: {image: tiny, flavor: m1.tiny, network: net, securityGroups: [wall], volumes: [{volume: data}]}
`, size)
}

// owner is a tenant with somebody in it.
type owner struct {
	*story.Installation
	name, context string
	multi         bool
}

func (o owner) run(t testing.TB, args ...string) story.Result {
	t.Helper()
	return <-o.GoAs(t, o.context, args...)
}

func (o owner) apply(t testing.TB, size int) {
	t.Helper()
	r := o.run(t, "apply", "-f", o.Document(t, "shop.yaml", shared(size)), "--wait", "-o", "json").Ok(t)
	if op := r.Operation(t); !op.Is("DONE") {
		t.Fatalf("%s: apply ended %s\n%s", o.name, op.State(), r.Err)
	}
}

// boss is a person with an account of its own, which the cloud is registered with.
func boss(t *testing.T, i *story.Installation) (id, passwordFile string, admin *story.Foreign) {
	t.Helper()
	admin = i.Cloud.Foreign(t, "admin")
	var user struct{ User struct{ ID string } }
	admin.Do(http.MethodPost, "/identity/v3/users", object{"user": object{"name": "boss", "password": "first"}}, &user)
	var roles struct{ Roles []struct{ ID, Name string } }
	admin.Do(http.MethodGet, "/identity/v3/roles", nil, &roles)
	var projects struct{ Projects []struct{ ID, Name string } }
	admin.Do(http.MethodGet, "/identity/v3/projects?name=admin", nil, &projects)
	for _, r := range roles.Roles {
		admin.Do(http.MethodPut, "/identity/v3/projects/"+projects.Projects[0].ID+"/users/"+user.User.ID+"/roles/"+r.ID, nil, nil)
	}
	return user.User.ID, i.Document(t, "password", "first"), admin
}

// projectOf reads a tenant's project.
func projectOf(t testing.TB, i *story.Installation, tenant string) *orchestratorv1.Project {
	t.Helper()
	out := &orchestratorv1.Project{}
	i.Must(t, "get", "project", "metal", "--tenant", tenant, "-o", "json").Decode(t, out)
	return out
}

// TestIsolation has two tenants with projects of their own and two in the cloud's project do the same under the same names:
// nothing collides, nothing is told to another, credentials rotate while work goes on, the work outlives the person whose
// account the cloud was registered with, and nothing is left of any of them.
func TestIsolation(t *testing.T) {
	t.Parallel()
	i := story.Start(t, "--credential-lifetime", "100s", "--credential-grace", "40s")
	i.Cloud.Hurry(t)
	nothing := i.Cloud.Inventory(t)
	person, password, admin := boss(t, i)
	i.Must(t, "cloud", "add", "metal", "--endpoint", i.Cloud.URL+"/identity/v3", "--username", "boss", "--password-file", password, "--project", "admin")
	owners := map[string]owner{}
	for name, isolation := range map[string]string{"acme": "multi-tenant", "umbrella": "multi-tenant", "east": "single-tenant", "west": "single-tenant"} {
		i.Must(t, "tenant", "add", name, "--isolation", isolation)
		owners[name] = owner{i, name, i.Identity(t, name, "of-"+name, "editor"), isolation == "multi-tenant"}
	}
	t.Run("same names", func(t *testing.T) {
		for name, o := range owners {
			t.Run(name, func(t *testing.T) { t.Parallel(); o.apply(t, 1) })
		}
	})
	apart(t, i, owners)
	for _, o := range owners {
		discreet(t, o)
	}
	hidden(t, owners, password)
	sealed(t, i)
	if r := i.Weft(t, "tenant", "add", "acme", "--isolation", "single-tenant").Refused(t); !strings.Contains(r.Err, "cannot be changed") {
		t.Errorf("another isolation for a tenant that has something: %s", r.Err)
	}
	if r := i.Weft(t, "delete", "tenant", "acme").Refused(t); !strings.Contains(r.Err, "tenants/acme") || !strings.Contains(r.Err, "still has") {
		t.Errorf("delete a tenant that has something: %s", r.Err)
	}
	rotates(t, owners["acme"])
	for _, name := range []string{"east", "west"} { // they work with the person's account
		owners[name].run(t, "destroy", "shop", "--wait").Ok(t)
		i.Must(t, "delete", "tenant", name)
	}
	admin.Do(http.MethodPatch, "/identity/v3/users/"+person, object{"user": object{"password": "second"}}, nil)
	outlives(t, owners)
	if r := i.Weft(t, "delete", "tenant", "acme").Refused(t); !strings.Contains(r.Err, "weft cloud add metal") {
		t.Errorf("delete a project while the cloud's credentials are refused: %s", r.Err)
	}
	admin.Do(http.MethodDelete, "/identity/v3/users/"+person, nil, nil)
	i.Must(t, "cloud", "add", "metal", "--endpoint", i.Cloud.URL+"/identity/v3", "--username", "admin", "--password-file", i.Document(t, "password", "sandbox"), "--project", "admin")
	story.Await(t, "the tenant can be deleted", func() bool { return i.Weft(t, "delete", "tenant", "acme").Code == 0 })
	story.Await(t, "the tenant can be deleted", func() bool { return i.Weft(t, "delete", "tenant", "umbrella").Code == 0 })
	i.NothingLeft(t, nothing)
}

// apart looks at the cloud whether each tenant's objects are where they should be.
func apart(t *testing.T, i *story.Installation, owners map[string]owner) {
	t.Helper()
	found := i.Cloud.Inventory(t)
	in := map[string]int{}
	for _, item := range found {
		if item.Kind == "server" || item.Kind == "volume" || item.Kind == "network" || item.Kind == "container" {
			in[item.Project]++
		}
	}
	for name, o := range owners {
		if !o.multi {
			continue
		}
		id := projectOf(t, i, name).GetObserved().GetProjectId()
		if in[id] != 4 {
			t.Errorf("%s's project has %d objects, want 4: %v", name, in[id], found.Lines())
		}
		delete(in, id)
	}
	rest := 0
	for _, n := range in {
		rest += n
	}
	if len(in) != 1 || rest != 8 {
		t.Errorf("the tenants without a project have %v, want 8 objects in one project", in)
	}
}

// discreet looks at all that a tenant is told for the names of others.
func discreet(t *testing.T, o owner) {
	t.Helper()
	others := slices.DeleteFunc([]string{"acme", "umbrella", "east", "west"}, func(name string) bool { return name == o.name })
	for _, args := range [][]string{
		{"get", "servers"},
		{"get", "projects", "-o", "yaml"},
		{"describe", "stack", "shop"},
		{"ledger"},
		{"ledger", "--orphans"},
		{"tenant", "list"},
		{"cloud", "list", "-o", "yaml"},
		{"plan", "-f", o.Document(t, "shop.yaml", shared(2))},
		{"events", "--since", "1h"},
	} {
		r := o.run(t, args...)
		if r.Code != 0 {
			t.Errorf("%s: weft %v: %d %s", o.name, args, r.Code, r.Err)
		}
		for _, other := range others {
			if strings.Contains(r.Out+r.Err, other) {
				t.Errorf("%s learns of %s from weft %v:\n%s%s", o.name, other, args, r.Out, r.Err)
			}
		}
	}
	for _, other := range others {
		for _, args := range [][]string{
			{"get", "servers"},
			{"get", "projects"},
			{"describe", "project", "metal"},
			{"ledger"},
			{"events", "--since", "1h"},
			{"project", "rotate", "metal"},
		} {
			if r := o.run(t, append(args, "--tenant", other)...); r.Code == 0 {
				t.Errorf("%s does weft %v for %s:\n%s", o.name, args, other, r.Out)
			}
		}
	}
	if r := o.run(t, "project", "rotate", "metal"); r.Code == 0 {
		t.Errorf("a member rotates credentials: %s", r.Out)
	}
}

// hidden registers a cloud for one tenant, which cannot be reached: what another is told of that does not name it.
func hidden(t *testing.T, owners map[string]owner, password string) {
	t.Helper()
	const name = "vault"
	acme, west := owners["acme"], owners["west"]
	args := []string{"cloud", "add", name, "--endpoint", "http://" + story.Address(t) + "/v3", "--username", "boss", "--password-file", password, "--project", "admin"}
	acme.Must(t, append(args, "--only-for", "acme")...)
	acme.Must(t, args...) // other credentials do not open it to others
	if r := acme.run(t, "ledger", "--orphans").Refused(t); !strings.Contains(r.Err, name) {
		t.Errorf("acme's ledger does not tell that %s cannot be asked: %s", name, r.Err)
	}
	for _, args := range [][]string{{"ledger", "--orphans"}, {"cloud", "list"}} {
		if r := west.run(t, args...).Ok(t); strings.Contains(r.Out+r.Err, name) {
			t.Errorf("west learns of %s from weft %v:\n%s%s", name, args, r.Out, r.Err)
		}
	}
	acme.Must(t, append(args, "--only-for", "")...) // that opens it again
	if r := west.run(t, "cloud", "list").Ok(t); !strings.Contains(r.Out, name) {
		t.Errorf("west does not learn of %s, which all may use now:\n%s", name, r.Out)
	}
	acme.Must(t, "delete", "cloud", name)
}

// secretsOf finds the passwords of the projects' users where the simulated cloud keeps them.
var secretsOf = regexp.MustCompile(`"weft-[0-9a-f-]{36}"[^{}]*?"Password":"([^"]+)"`)

// sealed looks for the secrets of the projects in all that the platform keeps and writes.
func sealed(t *testing.T, i *story.Installation) {
	t.Helper()
	var secrets []string
	var elsewhere []string
	err := filepath.WalkDir(i.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !strings.HasPrefix(path, filepath.Join(i.Data(), "sandbox")) {
			elsewhere = append(elsewhere, path)
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range secretsOf.FindAllStringSubmatch(string(text), -1) {
			secrets = append(secrets, m[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(secrets) < 2 {
		t.Fatalf("found %d passwords at the cloud, want those of two projects", len(secrets))
	}
	for _, path := range elsewhere {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range secrets {
			if strings.Contains(string(text), s) {
				t.Errorf("%s holds the password of a project in the open", path)
			}
		}
	}
}

// rotates works on while credentials are rotated, on request and by themselves.
func rotates(t *testing.T, o owner) {
	t.Helper()
	first := projectOf(t, o.Installation, o.name)
	o.Must(t, "project", "rotate", o.name+"/metal", "--wait")
	requested := projectOf(t, o.Installation, o.name)
	if n := len(requested.GetObserved().GetCredentials()); requested.GetSpec().GetCredential() <= first.GetSpec().GetCredential() || n < 2 {
		t.Errorf("after a rotation %d credentials stand: %v", n, requested.GetObserved())
	}
	size := 1
	for end := time.Now().Add(story.Patience); ; {
		size++
		o.apply(t, size)
		now := projectOf(t, o.Installation, o.name)
		gone := now.GetSpec().GetOldest() > first.GetSpec().GetCredential() && now.GetStatus().GetPhase().String() == "PHASE_READY"
		if gone && now.GetSpec().GetCredential() > requested.GetSpec().GetCredential() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("it was not rotated by itself, or the first credential stands: %v", now)
		}
		time.Sleep(time.Second) // the cloud account need not be worked all the time
	}
}

// outlives works on when the password of the account has changed that the projects were made with.
func outlives(t *testing.T, owners map[string]owner) {
	t.Helper()
	owners["umbrella"].Must(t, "project", "rotate", "umbrella/metal", "--tenant", "umbrella", "--wait")
	owners["umbrella"].apply(t, 2)
	for _, name := range []string{"acme", "umbrella"} {
		owners[name].run(t, "destroy", "shop", "--wait").Ok(t)
	}
}
