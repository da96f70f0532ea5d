// Package bench measures whole installations from outside. What it prints are ratios wherever a ratio can be had:
// absolute times say more of the machine than of Weft.
package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
)

// TestMain builds the binary once.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "weft-bench-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary, err := story.Build(dir)
	if err == nil {
		err = os.Setenv(story.Binary, binary)
	}
	code := 1
	if err == nil {
		code = m.Run()
	}
	if removed := os.RemoveAll(dir); err == nil {
		err = removed
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// What the simulated cloud takes: every create 200 ms; servers and volumes are ready a second later, the others at once.
const (
	createTakes = 200 * time.Millisecond
	readyTakes  = time.Second
)

var latencies = map[string]string{
	"request": "0s", "state": "1s", "network.port.active": "0s", "network.dhcp.port": "0s",
	"network.network.create": "200ms", "network.subnet.create": "200ms", "network.router.create": "200ms", "network.floatingip.create": "200ms",
	"compute.server.create": "200ms", "compute.server.active": "1s", "volume.volume.create": "200ms", "volume.volume.available": "1s",
	"volume.volume.attached": "0s", "network.floatingip.active": "0s",
}

// cells is how many times the cell of ten resources stands in the document.
const cells = 10

// document gives a stack of 100 resources, 5 levels deep: in each cell a network, a subnet on it, a router on that, three
// volumes, two servers with volumes, and a floating IP for each.
func document() string {
	var b strings.Builder
	b.WriteString("kind: Stack\nname: hundred\nplacement: {cloud: lab}\nresources:\n")
	for c := range cells {
		fmt.Fprintf(&b, "  net%[1]d: {kind: Network, spec: {}}\n"+
			"  sub%[1]d: {kind: Subnet, spec: {network: net%[1]d, cidr: 10.%[1]d.0.0/24}}\n"+
			"  rtr%[1]d: {kind: Router, spec: {externalNetwork: public, subnets: [sub%[1]d]}}\n", c)
		for s := range 2 {
			fmt.Fprintf(&b, "  vol%[1]d-%[2]d: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}\n"+
				"  srv%[1]d-%[2]d: {kind: Server, spec: {image: tiny, flavor: m1.tiny, network: net%[1]d, volumes: [{volume: vol%[1]d-%[2]d}]}}\n"+
				"  fip%[1]d-%[2]d: {kind: FloatingIP, spec: {server: srv%[1]d-%[2]d}}\n", c, s)
		}
		fmt.Fprintf(&b, "  vol%d-spare: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}\n", c)
	}
	return b.String()
}

// criticalPath is the least time in which the graph can be made: a server waits for its volume (created, then ready) and
// for the network, the subnet and the router; then comes the floating IP.
const criticalPath = max(createTakes+readyTakes, 3*createTakes) + (createTakes + readyTakes) + createTakes

// BenchmarkHundredResources applies a stack of 100 resources and takes it away again.
func BenchmarkHundredResources(b *testing.B) {
	i := story.Start(b)
	for service, limits := range map[string]map[string]int{
		"compute": {"instances": -1, "cores": -1, "ram": -1},
		"network": {"network": -1, "subnet": -1, "router": -1, "port": -1, "floatingip": -1},
		"volume":  {"volumes": -1, "gigabytes": -1},
	} {
		i.Cloud.Quota(b, service, limits)
	}
	for key, value := range latencies {
		i.Cloud.Latency(b, key, value)
	}
	text := document()
	warmUp(b, i)
	for b.Loop() {
		since := i.Cloud.Last(b)
		op := i.Apply(b, text, "DONE")
		took := span(op.GetCreateTime(), op.GetEndTime())
		made, calls := len(op.GetSteps()), len(i.Cloud.Calls(b, since))
		b.ReportMetric(took.Seconds()/criticalPath.Seconds(), "wall/critical-path")
		b.ReportMetric(float64(calls)/float64(made), "API-calls/resource")
		b.ReportMetric(float64(made), "resources")
		b.Logf("%d resources: %.2f s on a critical path of %.2f s, %d API calls, preflight included", made, took.Seconds(), criticalPath.Seconds(), calls)
		since = i.Cloud.Last(b)
		op = i.Destroy(b, "hundred", "DONE")
		b.ReportMetric(float64(len(i.Cloud.Calls(b, since)))/float64(made), "API-calls/resource-deleted")
		b.Logf("gone after %.2f s", span(op.GetCreateTime(), op.GetEndTime()).Seconds())
	}
}

// warmUp makes and deletes one resource of each kind, as an installation that has been at work for a while has.
func warmUp(b *testing.B, i *story.Installation) {
	one := strings.ReplaceAll(document(), "name: hundred", "name: warm")
	lines := strings.SplitAfter(one, "\n")
	text := strings.Join(lines[:4+10], "")
	i.Apply(b, text, "DONE")
	i.Destroy(b, "warm", "DONE")
}

func span(from, to *timestamppb.Timestamp) time.Duration { return to.AsTime().Sub(from.AsTime()) }

// BenchmarkIdle looks at an installation that has nothing to do.
func BenchmarkIdle(b *testing.B) {
	began := time.Now()
	i := story.Start(b)
	ready := time.Since(began)
	i.Apply(b, "kind: Stack\nname: one\nplacement: {cloud: lab}\nresources:\n  net: {kind: Network, spec: {}}\n", "DONE")
	const settle, watch = 3 * time.Second, 20 * time.Second
	for b.Loop() {
		time.Sleep(settle)
		before, began := cpu(b, i.Pid()), time.Now()
		time.Sleep(watch)
		used := cpu(b, i.Pid()) - before
		b.ReportMetric(100*used.Seconds()/time.Since(began).Seconds(), "%-of-a-core")
		b.ReportMetric(float64(resident(b, i.Pid()))/(1<<20), "MiB-resident")
	}
	b.ReportMetric(ready.Seconds(), "s-until-ready")
	info, err := os.Stat(os.Getenv(story.Binary))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(info.Size())/(1<<20), "MiB-binary")
}

// cpu reads the CPU time that a process has used (proc(5), stat, fields 14 and 15).
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+2:]))
	user, errUser := strconv.Atoi(fields[11])
	system, errSystem := strconv.Atoi(fields[12])
	if errUser != nil || errSystem != nil {
		b.Fatal(errUser, errSystem)
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on Linux
	return time.Duration(user+system) * tick
}

// resident reads the resident memory of a process in bytes (proc(5), statm, field 2).
func resident(b *testing.B, pid int) int {
	b.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "statm"))
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		b.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// BenchmarkBuild builds the binary with an empty build cache and again with a full one.
func BenchmarkBuild(b *testing.B) {
	for b.Loop() {
		cache := b.TempDir()
		cold := build(b, cache)
		b.ReportMetric(cold.Seconds(), "s-cold")
		b.ReportMetric(build(b, cache).Seconds()/cold.Seconds(), "warm/cold")
	}
}

func build(b *testing.B, cache string) time.Duration {
	b.Helper()
	cmd := exec.Command("go", "build", "-o", filepath.Join(b.TempDir(), "weft"), "github.com/weftcloud/weft/services/weft/cmd/weft")
	cmd.Env = append(os.Environ(), "GOCACHE="+cache)
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return time.Since(began)
}
