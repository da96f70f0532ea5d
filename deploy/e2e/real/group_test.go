package real

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

// farm has a user's script of its own for each version of the template, and a load balancer before the group.
const farm = `kind: Stack
name: realfarm
placement: {cloud: lab}
resources:
  net: {kind: PrivateNetwork, spec: {cidr: 10.67.0.0/24, external: public}}
  wall: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: "80"}]}}
  web:
    kind: ScalingGroup
    spec:
      template: {image: tiny, flavor: m1.tiny, network: net, securityGroups: [wall], userData: "#!/bin/sh\necho %[1]s > /var/www/version"}
      min: 1
      max: 4
      warmUp: %[2]s
      drainPeriod: 12s
      metric: {url: "%[3]s", query: "sum(rate(requests[1m]))", target: 10, measure: TOTAL, interval: 1s, cooldownOut: 2s, cooldownIn: 5s}
  front:
    kind: LoadBalancer
    spec:
      network: net
      listeners: [{name: web, protocol: HTTP, port: 80}]
      pools: [{name: web, monitor: {delay: 3s, timeout: 2s, retries: 3}, members: [{target: web, port: 80}]}]
  door: {kind: FloatingIP, spec: {externalNetwork: public, target: front}}
outputs: {address: "${door.address}"}
`

// warmUp is how long a machine is given to boot: machines are emulated, and several may boot at once.
const warmUp = 60 * time.Second

// client asks for a page all the time, each time with a connection of its own, as many clients do.
type client struct {
	cancel context.CancelFunc
	over   sync.WaitGroup

	mu     sync.Mutex
	asked  int
	failed []string
	slow   time.Duration
}

func startClient(url string) *client {
	ctx, cancel := context.WithCancel(context.Background())
	c := &client{cancel: cancel}
	c.over.Go(func() {
		one := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		for ctx.Err() == nil {
			began := time.Now()
			_, err := fetchBy(one, url)
			c.mu.Lock()
			c.asked++
			c.slow = max(c.slow, time.Since(began))
			if err != nil {
				c.failed = append(c.failed, fmt.Sprintf("%s: %v", began.Format(time.TimeOnly), err))
			}
			c.mu.Unlock()
			time.Sleep(100 * time.Millisecond)
		}
	})
	return c
}

// stop ends the client, and fails the test if one request failed.
func (c *client) stop(t *testing.T) {
	t.Helper()
	c.cancel()
	c.over.Wait()
	t.Logf("%d requests, the longest took %s", c.asked, c.slow.Round(time.Millisecond))
	if len(c.failed) > 0 || c.asked == 0 {
		t.Errorf("%d of %d requests failed: %q", len(c.failed), c.asked, c.failed[:min(len(c.failed), 5)])
	}
}

// farmer is what the story's steps share.
type farmer struct {
	*story.Installation
	metric *story.Prometheus
}

func (f farmer) document(version string) string {
	return fmt.Sprintf(farm, version, warmUp, f.metric.URL)
}

// reach waits until n members are in service and no others are there, and at every moment at least so many.
func (f farmer) reach(t *testing.T, n, least int) {
	t.Helper()
	began := time.Now()
	await(t, fmt.Sprintf("%d in service", n), func() error {
		g := f.Group(t, "realfarm.web")
		if now := g.InService(t); now < least {
			t.Fatalf("%d are in service: %+v", now, g.Observed)
		}
		if !g.SettledAt(t, n) {
			return fmt.Errorf("the group is %+v", g)
		}
		return nil
	})
	await(t, fmt.Sprintf("the load balancer has %d members", n), func() error {
		var want, got []string
		for _, m := range f.Group(t, "realfarm.web").Observed.Members {
			want = append(want, m.Address)
		}
		front := &networkv1.LoadBalancer{}
		f.Must(t, "get", "loadBalancer", "realfarm.front", "-o", "json").Decode(t, front)
		for _, m := range front.GetObserved().GetMembers() {
			if m.GetOperatingStatus() == "ONLINE" {
				got = append(got, m.GetAddress())
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(want, got) {
			return fmt.Errorf("it sends to %q, want %q", got, want)
		}
		return nil
	})
	t.Logf("%d in service after %s", n, time.Since(began).Round(time.Second))
}

// TestScalingGroup has a group follow a metric from one to four and back to two behind a load balancer, and roll to another
// template, while a client asks all the time: no request fails.
func TestScalingGroup(t *testing.T) {
	p := open(t)
	f := farmer{story.Start(t, "--no-sandbox"), story.StartPrometheus(t)}
	f.Must(t, "cloud", "add", "lab", "--driver", "openstack", "--os-cloud", os.Getenv("OS_CLOUD"))
	destroyed := false
	t.Cleanup(func() {
		if !destroyed {
			ended(t, f.Installation, "destroy", "realfarm")
		}
	})
	ended(t, f.Installation, "apply", "-f", f.Installation.Document(t, "farm.yaml", f.document("one")))
	url := "http://" + f.Stack(t, "realfarm").GetOutputs().GetFields()["address"].GetStringValue() + "/"
	awaitPage(t, url+"version", func(text string) bool { return text == "one" })
	if log := f.Must(t, "console-log", f.Group(t, "realfarm.web").Observed.Members[0].Server, "--lines", "5").Out; strings.Count(log, "\n") > 5 {
		t.Errorf("more lines of the console than were asked for: %q", log)
	}
	c := startClient(url)
	f.metric.Set(40, false)
	f.reach(t, 4, 1)
	f.metric.Set(20, false)
	f.reach(t, 2, 2)
	began := time.Now()
	ended(t, f.Installation, "apply", "-f", f.Installation.Document(t, "farm.yaml", f.document("two")))
	f.reach(t, 2, 2)
	t.Logf("rolled after %s", time.Since(began).Round(time.Second))
	c.stop(t)
	for range 4 {
		if text, err := fetch(url + "version"); err != nil || text != "two" {
			t.Errorf("after the roll a machine says %q, %v", text, err)
		}
	}
	destroyed = true
	ended(t, f.Installation, "destroy", "realfarm")
	if left := p.named(t, "realfarm."); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if entries := f.Ledger(t).GetEntries(); len(entries) > 0 {
		t.Errorf("the ledger still has %v", entries)
	}
}
