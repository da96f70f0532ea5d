package openstack

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
)

const key = "01936b5e-0000-7000-8000-000000000001"

func TestMarks(t *testing.T) {
	name := "tenants/acme/networks/shop.net"
	for label, tc := range map[string]struct{ name, wantName string }{
		"usual":             {name, name},
		"without a name":    {"", ""},
		"name far too long": {"tenants/" + strings.Repeat("a", 63) + "/securityGroups/" + strings.Repeat("b", 127), ""},
	} {
		t.Run(label, func(t *testing.T) {
			d := Description(key, tc.name)
			if len(d) > maxDescription {
				t.Errorf("description has %d bytes", len(d))
			}
			gotKey, gotName, ok := ParseDescription(d)
			if !ok || gotKey != key || gotName != tc.wantName {
				t.Errorf("ParseDescription(%q) = %q, %q, %v", d, gotKey, gotName, ok)
			}
		})
	}
	if _, _, ok := ParseDescription("my weft key=1"); ok {
		t.Error("a foreign description was taken for a mark")
	}
	pair := KeyPairName(key, "tenants/acme/keyPairs/shop.admin")
	if want := "weft-shop-admin-" + key; pair != want {
		t.Errorf("key pair name = %q, want %q", pair, want)
	}
	if got, ok := ParseKeyPairName(pair); !ok || got != key {
		t.Errorf("ParseKeyPairName = %q, %v", got, ok)
	}
	if _, ok := ParseKeyPairName("admin-" + key); ok {
		t.Error("a foreign key pair was taken for ours")
	}
	if len(Tag(key)) > 60 {
		t.Error("tag is too long")
	}
}

func TestAuthOptionsNameWhatIsMissing(t *testing.T) {
	full := map[string]string{"username": "u", "password": "p", "project_name": "x"}
	for name, tc := range map[string]struct {
		endpoint, without string
		field             string
	}{
		"complete":    {"http://k", "", ""},
		"no endpoint": {"", "", "endpoint"},
		"no user":     {"http://k", "username", "username"},
		"no password": {"http://k", "password", "password"},
		"no project":  {"http://k", "project_name", "project_name"},
	} {
		t.Run(name, func(t *testing.T) {
			data := map[string]string{}
			for k, v := range full {
				if k != tc.without {
					data[k] = v
				}
			}
			_, err := authOptions(driver.Credentials{Endpoint: tc.endpoint, Data: data})
			if fault.Field(err) != tc.field || (err != nil) != (tc.field != "") {
				t.Errorf("error = %v, want one in field %q", err, tc.field)
			}
		})
	}
}

func TestFromCloudsYAML(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "clouds.yaml")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ca.pem", "PEM")
	write("clouds.yaml", "clouds:\n  lab:\n    auth: {auth_url: http://k/v3, username: u, password: p, project_name: x, domain_name: D}\n    region_name: R\n    cacert: ca.pem\n  open:\n    auth: {auth_url: http://k}\n    verify: false\n")
	got, err := FromCloudsYAML(path, "lab")
	if err != nil {
		t.Fatal(err)
	}
	want := driver.Credentials{Driver: "openstack", Account: "clouds/lab", Endpoint: "http://k/v3", Region: "R", Data: map[string]string{
		"username": "u", "password": "p", "project_name": "x", "user_domain_name": "D", "project_domain_name": "D", "ca_cert": "PEM",
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("credentials (-want +got):\n%s", diff)
	}
	for name, kind := range map[string]fault.Kind{"lap": fault.Invalid, "open": fault.Invalid} {
		if _, err := FromCloudsYAML(path, name); fault.KindOf(err) != kind {
			t.Errorf("cloud %s: error = %v, want %s", name, err, kind)
		}
	}
	if _, err := FromCloudsYAML(filepath.Join(dir, "none"), "lab"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("absent file: error = %v, want NotFound", err)
	}
}

func TestHashTellsCredentialsApart(t *testing.T) {
	base := driver.Credentials{Endpoint: "e", Data: map[string]string{"a": "bc"}}
	same := driver.Credentials{Endpoint: "e", Data: map[string]string{"a": "bc"}}
	if hash(base) != hash(same) {
		t.Error("equal credentials must share a session")
	}
	for name, other := range map[string]driver.Credentials{
		"password": {Endpoint: "e", Data: map[string]string{"a": "bd"}},
		"shifted":  {Endpoint: "e", Data: map[string]string{"ab": "c"}},
		"region":   {Endpoint: "e", Region: "r", Data: map[string]string{"a": "bc"}},
	} {
		if hash(base) == hash(other) {
			t.Errorf("%s: different credentials share a session", name)
		}
	}
}

// TestSessionsOfFormerCredentialsGo holds that what is asked for stays, and that the rest has an end.
func TestSessionsOfFormerCredentialsGo(t *testing.T) {
	s := NewSessions()
	of := func(n int) [sha256.Size]byte { return hash(driver.Credentials{Region: strconv.Itoa(n)}) }
	first := s.entry(of(0))
	for n := range 3 * sessionLimit {
		s.entry(of(n + 1))
		if s.entry(of(0)) != first {
			t.Fatalf("what is asked for all the time is gone after %d others", n+1)
		}
	}
	if len(s.open) != sessionLimit {
		t.Errorf("%d sessions are kept, want %d", len(s.open), sessionLimit)
	}
	if last := s.open[len(s.open)-2].key; last != of(3*sessionLimit) {
		t.Error("the last one that was opened is not kept")
	}
}

func TestFindLooksAgainBeforeItSaysNo(t *testing.T) {
	type thing struct{ id, name string }
	now := time.Unix(0, 0)
	var r remembered[thing]
	atCloud := []thing{{"1", "m1.tiny"}}
	calls := 0
	var outage error
	list := func(_ context.Context, fresh bool) ([]thing, error) {
		return r.get(func() time.Time { return now }, fresh, func() ([]thing, error) { calls++; return atCloud, outage })
	}
	look := func(ref string) (thing, error) {
		return find(t.Context(), list, false, choice[thing]{
			what: "flavor", field: "spec.flavor", ref: ref,
			id: func(x thing) string { return x.id }, name: func(x thing) string { return x.name },
		})
	}
	for range 3 {
		if _, err := look("m1.tiny"); err != nil || calls != 1 {
			t.Fatalf("error = %v after %d calls, want one call", err, calls)
		}
	}
	atCloud = append(atCloud, thing{"2", "m1.small"}, thing{"3", "twin"}, thing{"4", "twin"})
	if got, err := look("m1.small"); err != nil || got.id != "2" || calls != 2 {
		t.Errorf("look = %v, %v after %d calls, want a second look at the cloud", got, err, calls)
	}
	if _, err := look("twin"); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "3, 4") {
		t.Errorf("ambiguous name: %v", err)
	}
	if _, err := look("m1.smal"); fault.Field(err) != "spec.flavor" || !strings.Contains(err.Error(), "close to it are: m1.small") {
		t.Errorf("unknown name: %v", err)
	}
	outage = errors.New("down")
	now = now.Add(2 * keepFor)
	if _, err := look("m1.tiny"); err == nil {
		t.Error("an outage must be an error, not an old answer")
	}
}
