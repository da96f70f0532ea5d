package story

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Cloud is the sandbox of an installation, by its admin API and, as a foreign hand, by the simulated OpenStack's own.
type Cloud struct {
	// URL is what the paths of the admin API and of OpenStack stand below; Token opens the admin API.
	URL, Token string
}

// Item is one object that exists at the cloud.
type Item struct {
	Service  string            `json:"service"`
	Kind     string            `json:"kind"`
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	State    string            `json:"state"`
	Metadata map[string]string `json:"metadata"`
	Project  string            `json:"project"` // or namespace
}

// Inventory is all that exists at the cloud but its own furniture.
type Inventory []Item

// Call is one API call that the cloud got.
type Call struct {
	Seq       uint64 `json:"seq"`
	Service   string `json:"service"`
	Method    string `json:"method"`
	Path      string `json:"path"`
	Query     string `json:"query"`
	Status    int    `json:"status"`
	Operation string `json:"operation"`
	Fault     string `json:"fault"`
	// Time is when it arrived, DurationMS how long it took, in milliseconds.
	Time       time.Time `json:"time"`
	DurationMS float64   `json:"durationMs"`
}

// String shows a call in messages.
func (c Call) String() string {
	return fmt.Sprintf("#%d %s %s %s %d", c.Seq, c.Service, c.Method, c.Path, c.Status)
}

// Fault is an order to break calls; see the sandbox's README.
type Fault struct {
	ID      string `json:"id,omitempty"`
	Service string `json:"service,omitempty"`
	Method  string `json:"method,omitempty"`
	Path    string `json:"path,omitempty"`
	Body    string `json:"body,omitempty"`
	Times   int    `json:"times,omitempty"`
	Skip    int    `json:"skip,omitempty"`
	Effect  string `json:"effect,omitempty"`
	Status  int    `json:"status,omitempty"`
	Message string `json:"message,omitempty"`
	Delay   string `json:"delay,omitempty"`
	// Rate is how many calls a second a limit lets pass.
	Rate    float64 `json:"rate,omitempty"`
	Matched int     `json:"matched,omitempty"`
	Struck  int     `json:"struck,omitempty"`
}

// do calls the admin API.
func (c *Cloud) do(t testing.TB, method, path string, in, out any) {
	t.Helper()
	c.request(t, method, path, map[string]string{"X-Sandbox-Token": c.Token}, in, out)
}

func (c *Cloud) request(t testing.TB, method, path string, header map[string]string, in, out any) http.Header {
	t.Helper()
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			t.Fatal(err)
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), method, c.URL+path, &body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for k, v := range header {
		r.Header.Set(k, v)
	}
	client := &http.Client{Timeout: 30 * time.Second}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(answer.Body)
	if closeErr := answer.Body.Close(); err == nil {
		err = closeErr
	}
	if err != nil || answer.StatusCode >= 300 {
		t.Fatalf("%s %s: %s %s %v", method, path, answer.Status, data, err)
	}
	if out != nil {
		if err := json.Unmarshal(data, out); err != nil {
			t.Fatalf("%s %s: %s\n%s", method, path, err, data)
		}
	}
	return answer.Header
}

// Inventory lists what exists, ordered.
func (c *Cloud) Inventory(t testing.TB) Inventory {
	t.Helper()
	var answer struct {
		Items Inventory `json:"items"`
	}
	c.do(t, http.MethodGet, "/_sandbox/inventory", nil, &answer)
	slices.SortFunc(answer.Items, func(a, b Item) int { return strings.Compare(a.line(), b.line()) })
	return answer.Items
}

// TryInventory lists what exists, if the cloud answers.
func (c *Cloud) TryInventory() (items Inventory, err error) {
	r, err := http.NewRequest(http.MethodGet, c.URL+"/_sandbox/inventory", http.NoBody)
	if err != nil {
		return nil, err
	}
	r.Header.Set("X-Sandbox-Token", c.Token)
	answer, err := (&http.Client{Timeout: 30 * time.Second}).Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, answer.Body.Close()) }()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("list what the cloud holds: %s", answer.Status)
	}
	var all struct {
		Items Inventory `json:"items"`
	}
	err = json.NewDecoder(answer.Body).Decode(&all)
	return all.Items, err
}

// line names an object by what stays the same as long as it lives.
func (i Item) line() string { return i.Service + "." + i.Kind + " " + i.ID + " " + i.Name }

// Lines names every object by service, kind, id and name.
func (in Inventory) Lines() []string {
	out := []string{}
	for _, i := range in {
		out = append(out, i.line())
	}
	return out
}

// Without leaves kinds out, e.g. network.security_group_rule.
func (in Inventory) Without(kinds ...string) Inventory {
	return slices.DeleteFunc(slices.Clone(in), func(i Item) bool { return slices.Contains(kinds, i.Service+"."+i.Kind) })
}

// Counts counts the objects by service and kind.
func (in Inventory) Counts() map[string]int {
	out := map[string]int{}
	for _, i := range in {
		out[i.Service+"."+i.Kind]++
	}
	return out
}

// Find gives the object of a service.kind and name; false if there is none or are several.
func (in Inventory) Find(kind, name string) (Item, bool) {
	found := slices.DeleteFunc(slices.Clone(in), func(i Item) bool { return i.Service+"."+i.Kind != kind || i.Name != name })
	if len(found) != 1 {
		return Item{}, false
	}
	return found[0], true
}

// Same fails the test unless the cloud holds exactly what it held before, by id. What the cloud's own controllers still
// tidy up is given time to go.
func (c *Cloud) Same(t testing.TB, before Inventory) {
	t.Helper()
	var diff string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if diff = cmp.Diff(before.Lines(), c.Inventory(t).Lines()); diff == "" {
			return
		}
	}
	t.Errorf("the cloud does not hold what it held before (-before +now):\n%s", diff)
}

// Last is the number of the last call.
func (c *Cloud) Last(t testing.TB) uint64 {
	t.Helper()
	var answer struct {
		Last uint64 `json:"last"`
	}
	c.do(t, http.MethodGet, "/_sandbox/calls?since=9999999999", nil, &answer)
	return answer.Last
}

// Calls lists the calls after one.
func (c *Cloud) Calls(t testing.TB, since uint64) []Call {
	t.Helper()
	var answer struct {
		Calls []Call `json:"calls"`
	}
	c.do(t, http.MethodGet, fmt.Sprintf("/_sandbox/calls?since=%d", since), nil, &answer)
	return answer.Calls
}

// Mutations lists the calls after one that could change something. Getting a token changes nothing.
func (c *Cloud) Mutations(t testing.TB, since uint64) []Call {
	t.Helper()
	return slices.DeleteFunc(c.Calls(t, since), func(c Call) bool {
		return c.Method == http.MethodGet || c.Method == http.MethodHead || c.Service == "identity" || strings.Contains(c.Path, "selfsubject")
	})
}

// AwaitCall waits until a call of a method to a path with such an end was answered after since.
func (c *Cloud) AwaitCall(t testing.TB, since uint64, method, pathPart string) {
	t.Helper()
	Await(t, "a call "+method+" …"+pathPart, func() bool {
		return slices.ContainsFunc(c.Calls(t, since), func(call Call) bool {
			return call.Method == method && strings.Contains(call.Path, pathPart)
		})
	})
}

// Break registers a fault and gives its id.
func (c *Cloud) Break(t testing.TB, f Fault) string {
	t.Helper()
	out := Fault{}
	c.do(t, http.MethodPost, "/_sandbox/faults", f, &out)
	return out.ID
}

// Fault reads a fault; its zero value if there is none.
func (c *Cloud) Fault(t testing.TB, id string) Fault {
	t.Helper()
	var answer struct {
		Faults []Fault `json:"faults"`
	}
	c.do(t, http.MethodGet, "/_sandbox/faults", nil, &answer)
	for _, f := range answer.Faults {
		if f.ID == id {
			return f
		}
	}
	return Fault{}
}

// AwaitStruck waits until a fault has broken a call.
func (c *Cloud) AwaitStruck(t testing.TB, id string) {
	t.Helper()
	Await(t, "fault "+id+" strikes", func() bool { return c.Fault(t, id).Matched > 0 })
}

// Mend removes all faults.
func (c *Cloud) Mend(t testing.TB) {
	t.Helper()
	c.do(t, http.MethodDelete, "/_sandbox/faults", nil, nil)
}

// Quota limits a project.
func (c *Cloud) Quota(t testing.TB, service string, limits map[string]int) {
	t.Helper()
	in := map[string]any{"project": "demo", "service": service}
	for k, v := range limits {
		in[k] = v
	}
	c.do(t, http.MethodPut, "/_sandbox/quotas", in, nil)
}

// Hurry makes the cloud as quick as it can be.
func (c *Cloud) Hurry(t testing.TB) {
	t.Helper()
	c.do(t, http.MethodPut, "/_sandbox/latencies", map[string]any{
		"state": "50ms", "compute.server.active": "100ms", "compute.server.deleted": "50ms", "volume.volume.available": "50ms", "request": "1ms",
	}, nil)
}

// Latency sets one latency of the cloud.
func (c *Cloud) Latency(t testing.TB, key, value string) {
	t.Helper()
	c.do(t, http.MethodPut, "/_sandbox/latencies", map[string]any{key: value}, nil)
}

// Foreign is somebody who works at the cloud without Weft.
type Foreign struct {
	t     testing.TB
	cloud *Cloud
	token string
}

// Foreign logs in at the simulated OpenStack as a user, in the project of the same name.
func (c *Cloud) Foreign(t testing.TB, user string) *Foreign {
	t.Helper()
	domain := map[string]any{"name": "Default"}
	in := map[string]any{"auth": map[string]any{
		"identity": map[string]any{"methods": []string{"password"}, "password": map[string]any{
			"user": map[string]any{"name": user, "password": "sandbox", "domain": domain},
		}},
		"scope": map[string]any{"project": map[string]any{"name": user, "domain": domain}},
	}}
	header := c.request(t, http.MethodPost, "/identity/v3/auth/tokens", nil, in, nil)
	return &Foreign{t: t, cloud: c, token: header.Get("X-Subject-Token")}
}

// Do makes one call of OpenStack's API, e.g. POST /network/v2.0/ports.
func (f *Foreign) Do(method, path string, in, out any) {
	f.t.Helper()
	f.cloud.request(f.t, method, path, map[string]string{"X-Auth-Token": f.token}, in, out)
}

// Network makes a network by hand and gives its id.
func (f *Foreign) Network(name string) string {
	f.t.Helper()
	var out struct {
		Network struct {
			ID string `json:"id"`
		} `json:"network"`
	}
	f.Do(http.MethodPost, "/network/v2.0/networks", map[string]any{"network": map[string]any{"name": name}}, &out)
	return out.Network.ID
}

// Port makes a port on a network by hand and gives its id.
func (f *Foreign) Port(network, owner string) string {
	f.t.Helper()
	var out struct {
		Port struct {
			ID string `json:"id"`
		} `json:"port"`
	}
	f.Do(http.MethodPost, "/network/v2.0/ports", map[string]any{"port": map[string]any{
		"network_id": network, "name": "by-hand", "device_owner": owner, "device_id": "somebody-else",
	}}, &out)
	return out.Port.ID
}

// Server makes a server of the image tiny by hand and gives its id. options are the fields of the request beyond image and
// flavor, name and networks among them.
func (f *Foreign) Server(options map[string]any) string {
	f.t.Helper()
	var flavors struct {
		Flavors []struct {
			ID string `json:"id"`
		} `json:"flavors"`
	}
	f.Do(http.MethodGet, "/compute/v2.1/flavors", nil, &flavors)
	var images struct {
		Images []struct {
			ID string `json:"id"`
		} `json:"images"`
	}
	f.Do(http.MethodGet, "/image/v2/images?name=tiny", nil, &images)
	in := map[string]any{"flavorRef": flavors.Flavors[0].ID, "imageRef": images.Images[0].ID}
	maps.Copy(in, options)
	var out struct {
		Server struct {
			ID string `json:"id"`
		} `json:"server"`
	}
	f.Do(http.MethodPost, "/compute/v2.1/servers", map[string]any{"server": in}, &out)
	return out.Server.ID
}

// Upload puts bytes at a path.
func (f *Foreign) Upload(path, data string) {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), http.MethodPut, f.cloud.URL+path, strings.NewReader(data))
	if err != nil {
		f.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/octet-stream")
	r.Header.Set("X-Auth-Token", f.token)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := answer.Body.Close(); err != nil {
		f.t.Fatal(err)
	}
	if answer.StatusCode >= 300 {
		f.t.Fatalf("PUT %s: %s", path, answer.Status)
	}
}
