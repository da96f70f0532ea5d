package real

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
)

const farm = `kind: Stack
name: realfarm
placement: {cloud: lab}
resources:
  net: {kind: Network, spec: {}}
  subnet: {kind: Subnet, spec: {network: net, cidr: 10.67.0.0/24}}
  web:
    kind: ScalingGroup
    spec:
      template: {image: tiny, flavor: m1.tiny, network: net}
      min: 1
      max: 2
      drainPeriod: 2s
      metric: {url: "%s", query: "sum(rate(requests[1m]))", target: 10, measure: TOTAL, interval: 1s, cooldownOut: 2s, cooldownIn: 5s}
`

// mine lists what the cloud has of the story's stack.
func (p *place) mine(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, line := range p.list(t) {
		if strings.Contains(line, "realfarm.") {
			out = append(out, line)
		}
	}
	return out
}

// TestScalingGroup has a group follow a metric from one to two and back to one, looks at its console, and takes it away.
// At every moment at least as many members as are wanted are in service once they were.
func TestScalingGroup(t *testing.T) {
	p := open(t)
	i := story.Start(t, "--no-sandbox")
	i.Must(t, "cloud", "add", "lab", "--driver", "openstack", "--os-cloud", os.Getenv("OS_CLOUD"))
	metric := story.StartPrometheus(t)
	i.Must(t, "apply", "-f", i.Document(t, "farm.yaml", fmt.Sprintf(farm, metric.URL)), "--no-wait", "-o", "json")
	reach := func(n, least int) {
		t.Helper()
		began := time.Now()
		await(t, fmt.Sprintf("%d in service", n), func() error {
			if i.Weft(t, "get", "scalingGroup", "realfarm.web").Code != 0 {
				return fmt.Errorf("there is no group yet")
			}
			g := i.Group(t, "realfarm.web")
			if now := g.InService(t); now < least {
				t.Fatalf("%d are in service: %+v", now, g.Observed)
			}
			if !g.SettledAt(t, n) {
				return fmt.Errorf("the group is %+v", g)
			}
			return nil
		})
		t.Logf("%d in service after %s", n, time.Since(began).Round(time.Second))
	}
	reach(1, 0)
	metric.Set(20, false)
	reach(2, 1)
	if n := len(p.mine(t)); n < 4 {
		t.Errorf("the cloud has %q", p.mine(t))
	}
	if log := i.Must(t, "console-log", i.Group(t, "realfarm.web").Observed.Members[0].Server, "--lines", "5").Out; strings.Count(log, "\n") > 5 {
		t.Errorf("more lines of the console than were asked for: %q", log)
	}
	metric.Set(5, false)
	reach(1, 1)
	op := i.Must(t, "destroy", "realfarm", "--no-wait", "-o", "json").Operation(t)
	await(t, "the stack is gone", func() error {
		if now := i.Op(t, op.ID()); !now.Is("DONE") {
			return fmt.Errorf("it is not: %v", now)
		}
		return nil
	})
	if left := p.mine(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if entries := i.Ledger(t).GetEntries(); len(entries) > 0 {
		t.Errorf("the ledger still has %v", entries)
	}
}
