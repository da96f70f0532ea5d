package sandbox

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SANDBOX_TEST_CHILD"); dir != "" {
		if err := child(dir, os.Getenv("SANDBOX_TEST_LISTEN")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func child(dir, listen string) error {
	s, err := New(Config{DataDir: dir, Listen: listen, AdminToken: "t", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	fmt.Println(s.AdminURL())
	return s.Run(context.Background())
}

// client is a plain OpenStack client: gophercloud is used in sandboxtest.
type client struct {
	t       testing.TB
	base    string
	token   string
	project string
	version string // of the compute API; empty: 2.79
}

func (c *client) do(method, path string, body any) (int, map[string]any) {
	c.t.Helper()
	status, data, _, err := c.try(method, path, body)
	if err != nil {
		c.t.Fatal(err)
	}
	out := map[string]any{}
	if len(data) > 0 && data[0] == '{' {
		if err := json.Unmarshal(data, &out); err != nil {
			c.t.Fatal(err)
		}
	}
	return status, out
}

func (c *client) try(method, path string, body any) (int, []byte, http.Header, error) {
	var in io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return 0, nil, nil, err
		}
		in = bytes.NewReader(data)
	}
	req, err := http.NewRequest(method, c.base+path, in)
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header.Set("X-Auth-Token", c.token)
	req.Header.Set(AdminHeader, "t")
	req.Header.Set("X-OpenStack-Nova-API-Version", cmp.Or(c.version, "2.79"))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, data, resp.Header, err
}

func (c *client) want(status int, method, path string, body any) map[string]any {
	c.t.Helper()
	got, out := c.do(method, path, body)
	if got != status {
		c.t.Fatalf("%s %s: status %d, want %d: %v", method, path, got, status, out)
	}
	return out
}

type m = map[string]any

func login(t testing.TB, base, user string) *client {
	t.Helper()
	c := &client{t: t, base: base}
	domain := m{"name": "Default"}
	status, data, header, err := c.try("POST", "/identity/v3/auth/tokens", m{"auth": m{
		"identity": m{"methods": []string{"password"}, "password": m{"user": m{"name": user, "domain": domain, "password": "sandbox"}}},
		"scope":    m{"project": m{"name": user, "domain": domain}},
	}})
	if err != nil || status != http.StatusCreated {
		t.Fatalf("login: %d %v %s", status, err, data)
	}
	out := struct {
		Token struct{ Project struct{ ID string } }
	}{}
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	c.token, c.project = header.Get("X-Subject-Token"), out.Token.Project.ID
	return c
}

// handClock is a clock that is moved by hand.
type handClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *handClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *handClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func start(t testing.TB, cfg Config) *Sandbox {
	t.Helper()
	cfg.AdminToken, cfg.Logger = "t", slog.New(slog.DiscardHandler)
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// addNetwork makes a network with a subnet and yields the network's id.
func (c *client) addNetwork(cidr string) string {
	c.t.Helper()
	id := c.want(201, "POST", "/network/v2.0/networks", m{"network": m{"name": "n"}})["network"].(m)["id"].(string)
	c.want(201, "POST", "/network/v2.0/subnets", m{"subnet": m{"network_id": id, "ip_version": 4, "cidr": cidr}})
	return id
}

func (c *client) imageID() string {
	c.t.Helper()
	return c.want(200, "GET", "/image/v2/images?name=tiny", nil)["images"].([]any)[0].(m)["id"].(string)
}

func (c *client) server(network string) m {
	return m{"server": m{"name": "s", "imageRef": c.imageID(), "flavorRef": "1", "networks": []m{{"uuid": network}}}}
}

func (c *client) status(id string) string {
	status, out := c.do("GET", "/compute/v2.1/servers/"+id, nil)
	if status != 200 {
		return strconv.Itoa(status)
	}
	return out["server"].(m)["status"].(string)
}

func TestStatesAreFunctionsOfTime(t *testing.T) {
	clock := &handClock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	dir := t.TempDir()
	cfg := Config{DataDir: dir, Now: clock.Now, Latency: Latencies{"compute.server.active": 10 * time.Second, "compute.server.deleted": 4 * time.Second, "volume.volume.available": 6 * time.Second}}
	var id, volume, network string
	t.Run("before the restart", func(t *testing.T) {
		c := login(t, start(t, cfg).AdminURL(), "demo")
		network = c.addNetwork("10.0.0.0/24")
		id = c.want(202, "POST", "/compute/v2.1/servers", c.server(network))["server"].(m)["id"].(string)
		volume = c.want(202, "POST", "/volume/v3/"+c.project+"/volumes", m{"volume": m{"size": 1}})["volume"].(m)["id"].(string)
		clock.add(5 * time.Second)
		if got := c.status(id); got != "BUILD" {
			t.Errorf("after 5 s: %s", got)
		}
	})
	c := login(t, start(t, cfg).AdminURL(), "demo")
	if got := c.status(id); got != "BUILD" {
		t.Errorf("after a restart: %s", got)
	}
	clock.add(2 * time.Second)
	if got := c.want(200, "GET", "/volume/v3/"+c.project+"/volumes/"+volume, nil)["volume"].(m)["status"]; got != "available" {
		t.Errorf("volume after 7 s: %s", got)
	}
	clock.add(3 * time.Second)
	if got := c.status(id); got != "ACTIVE" {
		t.Errorf("after 10 s: %s", got)
	}
	c.want(204, "DELETE", "/compute/v2.1/servers/"+id, nil)
	c.want(409, "DELETE", "/network/v2.0/networks/"+network, nil)
	clock.add(4 * time.Second)
	if got := c.status(id); got != "404" {
		t.Errorf("after the deletion: %s", got)
	}
	c.want(204, "DELETE", "/network/v2.0/networks/"+network, nil)
}

func TestTokensEnd(t *testing.T) {
	clock := &handClock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	c := login(t, start(t, Config{Now: clock.Now}).AdminURL(), "demo")
	c.want(200, "GET", "/compute/v2.1/servers", nil)
	clock.add(5 * time.Hour)
	c.want(401, "GET", "/compute/v2.1/servers", nil)
}

func TestImageThatVanishesFailsTheBuild(t *testing.T) {
	clock := &handClock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	s := start(t, Config{Now: clock.Now, Latency: Latencies{"compute.server.active": 10 * time.Second}})
	c, admin := login(t, s.AdminURL(), "demo"), login(t, s.AdminURL(), "admin")
	id := c.want(202, "POST", "/compute/v2.1/servers", c.server(c.addNetwork("10.0.0.0/24")))["server"].(m)["id"].(string)
	admin.want(204, "DELETE", "/image/v2/images/"+c.imageID(), nil)
	clock.add(time.Minute)
	out := c.want(200, "GET", "/compute/v2.1/servers/"+id, nil)["server"].(m)
	if out["status"] != "ERROR" || !strings.Contains(fmt.Sprint(out["fault"]), "Image") {
		t.Errorf("status %v, fault %v", out["status"], out["fault"])
	}
	ports := c.want(200, "GET", "/network/v2.0/ports?device_id="+id, nil)["ports"].([]any)
	if len(ports) != 0 {
		t.Errorf("ports left behind: %v", ports)
	}
}

func TestDroppedResponseLeavesOneObject(t *testing.T) {
	s := start(t, Config{})
	c := login(t, s.AdminURL(), "demo")
	c.want(201, "POST", "/_sandbox/faults", m{"service": "network", "method": "POST", "path": "/networks", "effect": "drop_response", "times": 1})
	if _, _, _, err := c.try("POST", "/network/v2.0/networks", m{"network": m{"name": "once"}}); err == nil {
		t.Fatal("there was an answer")
	}
	inventory := c.want(200, "GET", "/_sandbox/inventory?service=network&kind=network", nil)
	if items := inventory["items"].([]any); len(items) != 1 || items[0].(m)["name"] != "once" {
		t.Errorf("inventory: %v", items)
	}
}

// TestDownCell: the servers of a cell that does not answer are shown, with little, where nothing is asked of them, and only from the
// microversion on that can say so.
func TestDownCell(t *testing.T) {
	s := start(t, Config{})
	c := login(t, s.AdminURL(), "demo")
	network := c.addNetwork("10.0.0.0/24")
	near := c.want(202, "POST", "/compute/v2.1/servers", c.server(network))["server"].(m)["id"].(string)
	far := c.want(202, "POST", "/compute/v2.1/servers", c.server(network))["server"].(m)["id"].(string)
	c.want(400, "POST", "/_sandbox/faults", m{"effect": "cell_down", "service": "volume"})
	c.want(400, "POST", "/_sandbox/faults", m{"effect": "hang", "cell": []string{far}})
	c.want(201, "POST", "/_sandbox/faults", m{"effect": "cell_down", "cell": []string{far}})
	for _, x := range []struct {
		version, path string
		shown         bool
	}{
		{"2.69", "/servers", true},
		{"2.69", "/servers/detail", true},
		{"2.68", "/servers/detail", false},
		{"2.69", "/servers/detail?limit=10", false},
		{"2.69", "/servers?name=s", false},
		{"2.69", "/servers/detail?sort_key=uuid", false},
	} {
		c.version = x.version
		status := map[any]any{}
		for _, one := range c.want(200, "GET", "/compute/v2.1"+x.path, nil)["servers"].([]any) {
			status[one.(m)["id"]] = one.(m)["status"]
		}
		if got, shown := status[far]; shown != x.shown || shown && got != "UNKNOWN" || status[near] == "UNKNOWN" {
			t.Errorf("%s of %s shows %v", x.version, x.path, status)
		}
	}
	c.want(500, "GET", "/compute/v2.1/servers/detail?marker="+far, nil)
	c.want(500, "DELETE", "/compute/v2.1/servers/"+far, nil)
	if got := c.want(200, "GET", "/compute/v2.1/servers/"+far, nil)["server"].(m); got["status"] != "UNKNOWN" || got["metadata"] != nil {
		t.Errorf("shown as %v", got)
	}
	c.want(200, "GET", "/compute/v2.1/servers/"+near, nil)
	c.version = "2.68"
	c.want(500, "GET", "/compute/v2.1/servers/"+far, nil)
	c.want(204, "DELETE", "/_sandbox/faults", nil)
	if got := c.want(200, "GET", "/compute/v2.1/servers/"+far, nil)["server"].(m); got["status"] == "UNKNOWN" {
		t.Errorf("when it answers again it is shown as %v", got)
	}
}

func TestAdminNeedsTheToken(t *testing.T) {
	s := start(t, Config{})
	resp, err := http.Get(s.AdminURL() + "/_sandbox/inventory")
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("status %d", resp.StatusCode)
	}
}

func TestQuotasAndReset(t *testing.T) {
	s := start(t, Config{})
	c, other := login(t, s.AdminURL(), "demo"), login(t, s.AdminURL(), "other")
	network := c.addNetwork("10.0.0.0/24")
	for service, limits := range map[string]m{"compute": {"instances": 0}, "network": {"network": 1}, "volume": {"volumes": 0}} {
		limits["project"], limits["service"] = "demo", service
		c.want(204, "PUT", "/_sandbox/quotas", limits)
	}
	out := c.want(403, "POST", "/compute/v2.1/servers", c.server(network))
	if text := fmt.Sprint(out); !strings.Contains(text, "Quota exceeded for instances: Requested 1, but already used 0 of 0 instances") {
		t.Error(text)
	}
	out = c.want(409, "POST", "/network/v2.0/networks", m{"network": m{}})
	if text := fmt.Sprint(out); !strings.Contains(text, "Quota exceeded for resources: ['network'].") {
		t.Error(text)
	}
	c.want(413, "POST", "/volume/v3/"+c.project+"/volumes", m{"volume": m{"size": 1}})
	other.want(201, "POST", "/network/v2.0/networks", m{"network": m{}})
	c.want(400, "PUT", "/_sandbox/quotas", m{"project": "nobody", "service": "compute", "instances": 1})
	c.want(400, "PUT", "/_sandbox/quotas", m{"project": "demo", "service": "compute", "nonsense": 1})
	c.want(204, "POST", "/_sandbox/reset", nil)
	if total := c.want(200, "GET", "/_sandbox/inventory", nil)["total"]; total != 0.0 {
		t.Errorf("after a reset %v objects exist", total)
	}
	c.want(201, "POST", "/network/v2.0/networks", m{"network": m{}})
}

func TestProjectsDoNotSeeEachOther(t *testing.T) {
	s := start(t, Config{})
	c, other, admin := login(t, s.AdminURL(), "demo"), login(t, s.AdminURL(), "other"), login(t, s.AdminURL(), "admin")
	network := c.addNetwork("10.0.0.0/24")
	server := c.want(202, "POST", "/compute/v2.1/servers", c.server(network))["server"].(m)["id"].(string)
	volume := c.want(202, "POST", "/volume/v3/"+c.project+"/volumes", m{"volume": m{"size": 1}})["volume"].(m)["id"].(string)
	for _, path := range []string{"/network/v2.0/networks/" + network, "/compute/v2.1/servers/" + server, "/volume/v3/" + other.project + "/volumes/" + volume} {
		other.want(404, "GET", path, nil)
		other.want(404, "DELETE", path, nil)
	}
	other.want(400, "GET", "/volume/v3/"+c.project+"/volumes/"+volume, nil)
	admin.want(200, "GET", "/compute/v2.1/servers/"+server, nil)
	admin.want(200, "GET", "/network/v2.0/networks/"+network, nil)
}

// spawn runs a sandbox in a process of its own and yields its address.
func spawn(t *testing.T, dir, listen string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SANDBOX_TEST_CHILD="+dir, "SANDBOX_TEST_LISTEN="+listen)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 100)
	n, err := out.Read(line)
	if err != nil {
		t.Fatalf("the sandbox did not start: %v", err)
	}
	return cmd, strings.TrimSpace(string(line[:n]))
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the process ended by itself")
	}
}

func TestSurvivesKill(t *testing.T) {
	dir := t.TempDir()
	cmd, url := spawn(t, dir, "127.0.0.1:0")
	c := login(t, url, "demo")
	const workers, each = 4, 12
	ids := make(chan string, workers*each)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				// Every answered create must be there afterwards.
				status, data, _, err := c.try("POST", "/network/v2.0/networks", m{"network": m{"name": "kept"}})
				out := struct{ Network struct{ ID string } }{}
				if err != nil || status != 201 || json.Unmarshal(data, &out) != nil {
					t.Errorf("create: %d %v", status, err)
					return
				}
				ids <- out.Network.ID
			}
		})
	}
	wg.Wait()
	kill(t, cmd)
	close(ids)
	cmd, again := spawn(t, dir, strings.TrimPrefix(url, "http://"))
	defer kill(t, cmd)
	if again != url {
		t.Fatalf("the address changed from %s to %s", url, again)
	}
	// The old token is still good.
	c.base = again
	for id := range ids {
		c.want(200, "GET", "/network/v2.0/networks/"+id, nil)
	}
	if got := c.want(200, "GET", "/_sandbox/inventory?kind=network", nil)["total"]; got != float64(workers*each) {
		t.Errorf("%v networks, want %d", got, workers*each)
	}
}

// residentMiB is the memory of this process.
func residentMiB(t testing.TB) int {
	t.Helper()
	runtime.GC()
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc: ", err)
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "VmRSS:" {
			kib, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			return kib / 1024
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

func TestCarriesTenThousandServers(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 10,000 servers")
	}
	const n, workers = 10_000, 8
	s := start(t, Config{DataDir: t.TempDir()})
	c := login(t, s.AdminURL(), "demo")
	c.want(204, "PUT", "/_sandbox/quotas", m{"project": "demo", "service": "compute", "instances": -1, "cores": -1, "ram": -1})
	c.want(204, "PUT", "/_sandbox/quotas", m{"project": "demo", "service": "network", "port": -1})
	body := c.server(c.addNetwork("10.0.0.0/16"))
	body["server"].(m)["metadata"] = m{"weft-key": "0192f0c1-2b7e-7c5b-9d0e-3a1f5b6c7d8e"}
	body["server"].(m)["tags"] = []string{"weft"}
	begin := time.Now()
	jobs := make(chan int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range jobs {
				if status, data, _, err := c.try("POST", "/compute/v2.1/servers", body); err != nil || status != 202 {
					t.Errorf("create: %d %v %s", status, err, data)
				}
			}
		})
	}
	for i := range n {
		jobs <- i
	}
	close(jobs)
	wg.Wait()
	made := time.Since(begin)
	pages, active := 0, 0
	begin = time.Now()
	for marker := ""; ; pages++ {
		list := c.want(200, "GET", "/compute/v2.1/servers/detail?limit=1000&tags=weft&marker="+marker, nil)["servers"].([]any)
		if len(list) == 0 {
			break
		}
		for _, v := range list {
			if v := v.(m); v["status"] == "ACTIVE" && len(v["addresses"].(m)) == 1 {
				active++
			}
		}
		marker = list[len(list)-1].(m)["id"].(string)
	}
	perPage := time.Since(begin) / time.Duration(pages)
	rss := residentMiB(t)
	t.Logf("%d servers with a port each: %v to make (%v each), %v for a page of 1000 in detail, %d MiB resident (test client included)", n, made.Round(time.Millisecond), (made / n).Round(time.Microsecond), perPage.Round(time.Millisecond), rss)
	if active != n {
		t.Errorf("%d servers ACTIVE with an address, want %d", active, n)
	}
	if rss >= 1024 {
		t.Errorf("%d MiB resident, want less than 1024", rss)
	}
	if perPage > 2*time.Second {
		t.Errorf("a page takes %v", perPage)
	}
}
