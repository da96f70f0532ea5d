package real

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/projects"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	"github.com/weftcloud/weft/pkg/cloud/openstack"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
)

// patient waits for guests that a busy machine emulates: what they run on being asked tries for 5 s itself.
var patient = &http.Client{Timeout: time.Minute}

// house is a document of one server, or more, that tell whether they reach an address: /cgi-bin/reach?ADDRESS.
func house(name, cidr string, servers ...string) string {
	out := fmt.Sprintf(`kind: Stack
name: %s
placement: {cloud: lab}
resources:
  net: {kind: PrivateNetwork, spec: {cidr: %s, external: public}}
  wall: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: "80"}, {protocol: ICMP}]}}
  door: {kind: Publication, spec: {target: %s, port: 80, via: FLOATING_IP}}
`, name, cidr, servers[0])
	for _, server := range servers {
		out += fmt.Sprintf(`  %s:
    kind: Server
    spec:
      image: tiny
      flavor: m1.tiny
      network: net
      securityGroups: [wall]
      userData: |
        #!/bin/sh
        cd /var/www/cgi-bin
        cat > reach <<'Y'
        #!/bin/sh
        printf 'Content-Type: text/plain\r\n\r\n'
        timeout 5 wget -q -O - "http://$QUERY_STRING/" >/dev/null 2>&1 && echo reached || echo not reached
        Y
        chmod +x reach
`, server)
	}
	return out + `outputs: {door: "${door.address}"}` + "\n"
}

// guarded is a tenant of the story.
type guarded struct {
	*story.Installation
	tenant string
}

func (g guarded) apply(t *testing.T, document string) {
	t.Helper()
	g.ended(t, "apply", "-f", g.Document(t, "house.yaml", document))
}

func (g guarded) destroy(t *testing.T, stack string) {
	t.Helper()
	g.ended(t, "destroy", stack)
}

// ended runs a command of the tenant's that begins an operation, and waits until that is done.
func (g guarded) ended(t *testing.T, args ...string) {
	t.Helper()
	ended(t, g.Installation, append(args, "--tenant", g.tenant)...)
}

// private gives the private address of a server.
func (g guarded) private(t *testing.T, server string) string {
	t.Helper()
	out := &computev1.Server{}
	g.Must(t, "get", "server", server, "--tenant", g.tenant, "-o", "json").Decode(t, out)
	return out.GetObserved().GetAddress()
}

// asks has the server behind a stack's door try an address, once its page answers.
func (g guarded) asks(t *testing.T, stack, address, want string) {
	t.Helper()
	text := g.Must(t, "get", "stack", stack, "--tenant", g.tenant, "-o", "json").Out
	_, rest, _ := strings.Cut(text, `"door":`)
	door := strings.Trim(strings.TrimSpace(strings.SplitN(rest, "}", 2)[0]), "\" \n,")
	said := func(of string) (string, error) {
		text, err := fetchBy(patient, "http://"+door+"/cgi-bin/reach?"+of)
		return strings.TrimSpace(text), err
	}
	says := func(of, want string) func() error {
		return func() error {
			text, err := said(of)
			if err == nil && text != want {
				err = fmt.Errorf("it says %q", text)
			}
			return err
		}
	}
	await(t, "the server of "+stack+" tells what it reaches", says("127.0.0.1", "reached"))
	if want == "reached" { // the other may be about to start
		await(t, "it reaches "+address, says(address, want))
		return
	}
	for range 3 {
		text := ""
		await(t, "the server of "+stack+" answers", func() (err error) { // no answer tells nothing of what it reaches
			text, err = said(address)
			return err
		})
		if text != want {
			t.Errorf("a server of %s in %s asks for %s: %q; want %q", stack, g.tenant, address, text, want)
		}
	}
}

// answers waits until a server answers at its door, so that who does not reach it is not just early.
func (g guarded) answers(t *testing.T, stack string) {
	t.Helper()
	g.asks(t, stack, "127.0.0.1", "reached")
}

// TestIsolation lets a server try the private address of another: one of another tenant, where each has a project of its own,
// and one of another stack of a tenant that has none, are out of reach; one of the same stack is not.
func TestIsolation(t *testing.T) {
	name := variable(t, adminVariable)
	credentials, err := openstack.FromCloudsYAML(variable(t, "OS_CLIENT_CONFIG_FILE"), name)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := openstack.Open(t.Context(), credentials)
	if err != nil {
		t.Fatal(err)
	}
	i := story.Start(t, "--no-sandbox")
	i.Must(t, "cloud", "add", "lab", "--driver", "openstack", "--os-cloud", name)
	i.Must(t, "tenant", "add", "acme", "--isolation", "multi-tenant")
	i.Must(t, "tenant", "add", "umbrella", "--isolation", "multi-tenant")
	acme, umbrella, shared := guarded{i, "acme"}, guarded{i, "umbrella"}, guarded{i, "default"}
	t.Cleanup(func() { // what a failure left
		if t.Failed() && os.Getenv("WEFT_REAL_KEEP") == "" {
			for _, at := range []struct {
				g     guarded
				stack string
			}{{acme, "iso-a"}, {umbrella, "iso-b"}, {shared, "iso-c"}, {shared, "iso-d"}} {
				t.Logf("clean up: %d", i.Weft(t, "destroy", at.stack, "--tenant", at.g.tenant, "--wait").Code)
			}
			for _, tenant := range []string{"acme", "umbrella"} {
				t.Logf("clean up: %d", i.Weft(t, "delete", "tenant", tenant).Code)
			}
		}
	})

	acme.apply(t, house("iso-a", "10.98.1.0/24", "one"))
	umbrella.apply(t, house("iso-b", "10.98.2.0/24", "one"))
	umbrella.answers(t, "iso-b")
	acme.asks(t, "iso-a", umbrella.private(t, "iso-b.one"), "not reached")
	umbrella.asks(t, "iso-b", acme.private(t, "iso-a.one"), "not reached")
	umbrella.destroy(t, "iso-b")
	acme.apply(t, house("iso-a", "10.98.1.0/24", "one", "two"))
	acme.asks(t, "iso-a", acme.private(t, "iso-a.two"), "reached")
	ended(t, i, "project", "rotate", "acme/lab")
	acme.destroy(t, "iso-a")

	shared.apply(t, house("iso-c", "10.98.3.0/24", "one"))
	shared.apply(t, house("iso-d", "10.98.4.0/24", "one"))
	shared.answers(t, "iso-d")
	shared.asks(t, "iso-c", shared.private(t, "iso-d.one"), "not reached")
	shared.destroy(t, "iso-c")
	shared.destroy(t, "iso-d")

	i.Must(t, "delete", "tenant", "acme")
	i.Must(t, "delete", "tenant", "umbrella")
	c, err := admin.Identity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pages, err := projects.List(c, projects.ListOpts{Tags: "weft"}).AllPages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	left, err := projects.ExtractProjects(pages)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range left {
		if strings.HasPrefix(p.Name, "weft-acme-") || strings.HasPrefix(p.Name, "weft-umbrella-") {
			t.Errorf("project %s is left", p.Name)
		}
	}
}
