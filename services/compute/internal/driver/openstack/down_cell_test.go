package openstack

import (
	"bytes"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	"github.com/weftcloud/weft/services/sandbox"

	"github.com/weftcloud/weft/pkg/cloud/openstack/openstacktest"
)

// TestDownCell: while the database of a cell does not answer, the service leaves the servers of that cell out of lists. None of
// them is taken for gone, or for one that was never made, and the others are seen as always.
func TestDownCell(t *testing.T) {
	s := start(t)
	p := openstacktest.FromYAML(t, s.CloudsYAML(), "sandbox")
	d := NewServers(p.Session)
	n, _ := p.Network(t, "10.87.0.0/24")
	request := func(key, name string) driver.Request[*computev1.ServerSpec] {
		return driver.Request[*computev1.ServerSpec]{
			Key: key, Name: "tenants/conform/servers/" + name, Generation: 1, Refs: driver.Refs{n.GetName(): n},
			Spec: &computev1.ServerSpec{Image: p.Image, Flavor: p.Flavor, Network: n.GetName()},
		}
	}
	keys, requests, ids := map[string]string{}, map[string]driver.Request[*computev1.ServerSpec]{}, map[string]string{}
	for _, name := range []string{"near", "beside", "far"} {
		keys[name] = freshKey()
		requests[name] = request(keys[name], name)
		id, err := d.Create(t.Context(), requests[name])
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = id
		p.Await(t, name, func() (bool, error) {
			seen, err := d.Observe(t.Context(), []string{id})
			return seen[id].State == driver.Ready, err
		})
	}
	down(t, s, ids["far"])

	seen, err := d.Observe(t.Context(), []string{ids["near"], ids["beside"], ids["far"], openstacktest.AbsentID})
	if err != nil || len(seen) != 3 || seen[ids["near"]].State != driver.Ready || seen[ids["beside"]].State != driver.Ready {
		t.Errorf("observed %v, %v; want the two others as they are, and the one", seen, err)
	}
	if far := seen[ids["far"]]; far.State != driver.Progressing || !fault.Is(far.Fault, fault.Unavailable) {
		t.Errorf("what cannot be seen is observed as %v, want that it is looked at again", far)
	}
	if found, err := d.Find(t.Context(), requests["near"]); err != nil || len(found) != 1 {
		t.Errorf("find = %v, %v; want the server that can be seen", found, err)
	}
	for name, look := range map[string]func() error{
		"find what cannot be seen": func() error { _, err := d.Find(t.Context(), requests["far"]); return err },
		"find what may be there":   func() error { _, err := d.Find(t.Context(), request(freshKey(), "new")); return err },
		"list what is marked":      func() error { _, err := d.ListMarked(t.Context()); return err },
		"describe all":             func() error { _, err := d.Describe(t.Context(), nil); return err },
		"describe it":              func() error { _, err := d.Describe(t.Context(), []string{ids["far"]}); return err },
		"change it":                func() error { return d.Update(t.Context(), ids["far"], requests["far"]) },
		"mark it":                  func() error { return d.Mark(t.Context(), ids["far"], keys["far"], requests["far"].Name) },
		"take its mark off":        func() error { return d.Unmark(t.Context(), ids["far"], keys["far"], "") },
		"delete it":                func() error { return d.Delete(t.Context(), ids["far"]) },
	} {
		if err := look(); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%s: %v, want Unavailable", name, err)
		}
	}
	if all, err := d.Describe(t.Context(), []string{ids["near"]}); err != nil || len(all) != 1 {
		t.Errorf("describe the other = %v, %v", all, err)
	}

	admin(t, s, http.MethodDelete, nil)
	if found, err := d.Find(t.Context(), requests["far"]); err != nil || len(found) != 1 || found[0] != ids["far"] {
		t.Errorf("find when the cell answers again = %v, %v", found, err)
	}
	for _, id := range ids {
		if err := d.Delete(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	p.Await(t, "gone", func() (bool, error) {
		seen, err := d.Observe(t.Context(), []string{ids["near"], ids["beside"], ids["far"]})
		return len(seen) == 0, err
	})
}

// down has the database of the cell that some servers are in answer no more.
func down(t *testing.T, s *sandbox.Sandbox, servers ...string) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"effect": "cell_down", "cell": servers})
	if err != nil {
		t.Fatal(err)
	}
	admin(t, s, http.MethodPost, body)
}

// admin makes or, with DELETE, mends faults.
func admin(t *testing.T, s *sandbox.Sandbox, method string, body []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.AdminURL()+"/_sandbox/faults", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(sandbox.AdminHeader, s.AdminToken())
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		t.Fatalf("%s a fault: %s", method, resp.Status)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
}
