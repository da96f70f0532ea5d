package sandboxtest

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftcloud/weft/services/sandbox"
)

// The usual command line clients, as their projects deliver them, on the sandbox: nothing of them is changed, and they
// are told of the sandbox only by the files that they read anyway.

// commandPatience is how long one command may take; most of it is the start of the client on a busy machine.
const commandPatience = 2 * time.Minute

// client is a command line client with its environment.
type client struct {
	binary string
	env    []string
	first  []string // arguments before all others
}

// find looks a client up, and skips the test without it.
func find(t *testing.T, name, how string) client {
	t.Helper()
	binary, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("there is no %s in PATH; %s", name, how)
	}
	c := client{binary: binary, env: []string{"HOME=" + t.TempDir()}}
	for _, v := range os.Environ() { // what would lead the client to another cloud is left out
		if !strings.HasPrefix(v, "OS_") && !strings.HasPrefix(v, "KUBE") && !strings.HasPrefix(v, "HOME=") {
			c.env = append(c.env, v)
		}
	}
	return c
}

// try runs a command and gives what it wrote to standard output, and to both streams.
func (c client) try(t *testing.T, args ...string) (out, both string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.binary, slices.Concat(c.first, args)...)
	var text, all strings.Builder
	cmd.Env, cmd.Stdout, cmd.Stderr = c.env, &text, &all
	err = cmd.Run()
	return text.String(), text.String() + all.String(), err
}

// run runs a command that must succeed.
func (c client) run(t *testing.T, args ...string) string {
	t.Helper()
	out, both, err := c.try(t, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(c.binary), strings.Join(args, " "), err, both)
	}
	return out
}

// value gives one column of what a command shows.
func (c client) value(t *testing.T, column string, args ...string) string {
	t.Helper()
	return strings.TrimSpace(c.run(t, append(args, "-f", "value", "-c", column)...))
}

// column gives one column of all that a command lists.
func (c client) column(t *testing.T, column string, args ...string) []string {
	t.Helper()
	var rows []map[string]any
	if err := json.Unmarshal([]byte(c.run(t, append(args, "-f", "json")...)), &rows); err != nil {
		t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	var out []string
	for _, row := range rows {
		text, ok := row[column].(string)
		if !ok {
			t.Fatalf("%s: a row without a %s: %v", strings.Join(args, " "), column, row)
		}
		out = append(out, text)
	}
	return out
}

// lists checks whether a list has a value.
func (c client) lists(t *testing.T, want bool, column, value string, args ...string) {
	t.Helper()
	if all := c.column(t, column, args...); slices.Contains(all, value) != want {
		t.Errorf("%s: %s %q is listed: %v, want %v; listed are %v", strings.Join(args, " "), column, value, !want, want, all)
	}
}

// awaits polls one column of what a command shows until it has a value.
func (c client) awaits(t *testing.T, column, want string, args ...string) {
	t.Helper()
	until(t, strings.Join(args, " ")+": "+column+" "+want, func(context.Context) (bool, error) {
		return c.value(t, column, args...) == want, nil
	})
}

// TestOpenStackClient drives the sandbox with python-openstackclient.
func TestOpenStackClient(t *testing.T) {
	c := find(t, "openstack", "install python3-openstackclient (apt) or python-openstackclient (pip)")
	s := Start(t, sandbox.Config{Latency: sandbox.DevLatencies()})
	c.env = append(c.env, "OS_CLIENT_CONFIG_FILE="+CloudsFile(t, s), "OS_CLOUD=sandbox")
	t.Run("what there is", func(t *testing.T) { t.Parallel(); clientLooks(t, c) })
	t.Run("networks", func(t *testing.T) { t.Parallel(); clientNetworks(t, c) })
	t.Run("servers", func(t *testing.T) { t.Parallel(); clientServers(t, c) })
}

func clientLooks(t *testing.T, c client) {
	if project := c.value(t, "project_id", "token", "issue"); project == "" {
		t.Error("the token has no project")
	}
	services := c.column(t, "Type", "catalog", "list")
	for _, want := range []string{"identity", "compute", "network", "image"} {
		if !slices.Contains(services, want) {
			t.Errorf("the catalog lacks %s; it has %v", want, services)
		}
	}
	c.lists(t, true, "Name", "tiny", "image", "list")
	c.lists(t, true, "Name", "m1.tiny", "flavor", "list")
	if _, both, err := c.try(t, "network", "show", "nowhere"); err == nil || !strings.Contains(both, "nowhere") {
		t.Errorf("what there is not is shown: %v, %s", err, both)
	}
}

func clientNetworks(t *testing.T, c client) {
	c.run(t, "network", "create", "lan")
	c.lists(t, true, "Name", "lan", "network", "list")
	if gateway := c.value(t, "gateway_ip", "subnet", "create", "--network", "lan", "--subnet-range", "10.61.0.0/24", "lan4"); gateway != "10.61.0.1" {
		t.Errorf("the subnet's gateway is %q", gateway)
	}
	c.lists(t, true, "Subnet", "10.61.0.0/24", "subnet", "list")
	c.run(t, "router", "create", "--external-gateway", "public", "way")
	c.run(t, "router", "add", "subnet", "way", "lan4")
	c.lists(t, true, "Name", "way", "router", "list")
	c.run(t, "security", "group", "create", "wall")
	c.run(t, "security", "group", "rule", "create", "--protocol", "tcp", "--dst-port", "22", "wall")
	c.lists(t, true, "Port Range", "22:22", "security", "group", "rule", "list", "wall")
	c.lists(t, true, "Name", "wall", "security", "group", "list")
	address := c.value(t, "floating_ip_address", "floating", "ip", "create", "public")
	c.lists(t, true, "Floating IP Address", address, "floating", "ip", "list")
	if _, both, err := c.try(t, "network", "delete", "lan"); err == nil || !strings.Contains(both, "in use") {
		t.Errorf("a network that the router uses was deleted: %v, %s", err, both)
	}
	c.run(t, "floating", "ip", "delete", address)
	c.lists(t, false, "Floating IP Address", address, "floating", "ip", "list")
	c.run(t, "router", "remove", "subnet", "way", "lan4")
	c.run(t, "router", "delete", "way")
	c.lists(t, false, "Name", "way", "router", "list")
	c.run(t, "subnet", "delete", "lan4")
	c.lists(t, false, "Name", "lan4", "subnet", "list")
	c.run(t, "network", "delete", "lan")
	c.lists(t, false, "Name", "lan", "network", "list")
	c.run(t, "security", "group", "delete", "wall")
	c.lists(t, false, "Name", "wall", "security", "group", "list")
}

func clientServers(t *testing.T, c client) {
	c.run(t, "network", "create", "farm")
	c.run(t, "subnet", "create", "--network", "farm", "--subnet-range", "10.62.0.0/24", "farm4")
	c.run(t, "volume", "create", "--size", "1", "disk")
	c.run(t, "server", "create", "--image", "tiny", "--flavor", "m1.tiny", "--network", "farm", "--wait", "vm")
	if state := c.value(t, "status", "server", "show", "vm"); state != "ACTIVE" {
		t.Errorf("after --wait the server is %s", state)
	}
	c.lists(t, true, "Name", "vm", "server", "list")
	c.awaits(t, "status", "available", "volume", "show", "disk")
	c.run(t, "server", "add", "volume", "vm", "disk")
	c.awaits(t, "status", "in-use", "volume", "show", "disk")
	c.run(t, "server", "remove", "volume", "vm", "disk")
	c.awaits(t, "status", "available", "volume", "show", "disk")
	c.run(t, "server", "delete", "--wait", "vm")
	c.lists(t, false, "Name", "vm", "server", "list")
	c.run(t, "volume", "delete", "disk")
	until(t, "the volume's deletion", func(context.Context) (bool, error) {
		return !slices.Contains(c.column(t, "Name", "volume", "list"), "disk"), nil
	})
	c.run(t, "network", "delete", "farm")
	c.lists(t, false, "Name", "farm", "network", "list")
}

var kubectlVersion = regexp.MustCompile(`"gitVersion": "v1\.(\d+)`)

// TestKubectlWatch follows a deployment with kubectl from its creation to its end. What else kubectl does is tested
// beside the simulated API.
func TestKubectlWatch(t *testing.T) {
	c := find(t, "kubectl", "1.30 or later is needed")
	version := kubectlVersion.FindStringSubmatch(c.run(t, "version", "--client", "-o", "json"))
	if version == nil {
		t.Fatal("kubectl tells no version")
	}
	if minor, err := strconv.Atoi(version[1]); err != nil || minor < 30 {
		t.Skipf("kubectl 1.%s is too old: 1.30 is needed", version[1])
	}
	s := Start(t, sandbox.Config{Latency: sandbox.DevLatencies()})
	folder := t.TempDir()
	config, manifest := filepath.Join(folder, "kubeconfig"), filepath.Join(folder, "web.yaml")
	for path, content := range map[string][]byte{config: s.Kubeconfig(), manifest: []byte(webManifest)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.first = []string{"--kubeconfig", config, "-n", "default"}
	lines := c.follow(t, "get", "deployments", "--watch", "--output-watch-events", "-o", "custom-columns=EVENT:.type,NAME:.object.metadata.name,READY:.object.status.readyReplicas", "--no-headers")
	c.run(t, "apply", "-f", manifest)
	c.run(t, "rollout", "status", "deployment/web", "--timeout=60s")
	if ready := c.run(t, "get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}"); ready != "2" {
		t.Errorf("%s replicas are ready, want 2", ready)
	}
	expect(t, lines, `^(ADDED|MODIFIED) +web +2`)
	c.run(t, "delete", "-f", manifest, "--timeout=60s")
	if _, both, err := c.try(t, "get", "deployment", "web"); err == nil || !strings.Contains(both, "NotFound") {
		t.Errorf("after its deletion: %v, %s", err, both)
	}
	expect(t, lines, `^DELETED +web`)
}

// follow starts a command that does not end, and gives its lines as they come.
func (c client) follow(t *testing.T, args ...string) <-chan string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, c.binary, slices.Concat(c.first, args)...)
	cmd.Env = c.env
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	t.Cleanup(func() {
		cancel()
		if err := cmd.Wait(); err == nil {
			t.Errorf("%s %s ended by itself", filepath.Base(c.binary), strings.Join(args, " "))
		}
	})
	return lines
}

// expect waits until a line has come that matches the pattern.
func expect(t *testing.T, lines <-chan string, pattern string) {
	t.Helper()
	wanted, limit := regexp.MustCompile(pattern), time.After(time.Minute)
	var seen []string
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("the lines ended before one matched %q; there were %q", pattern, seen)
			}
			if wanted.MatchString(line) {
				return
			}
			seen = append(seen, line)
		case <-limit:
			t.Fatalf("no line matched %q; there were %q", pattern, seen)
		}
	}
}

const webManifest = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: main, image: "web:1"}
`
