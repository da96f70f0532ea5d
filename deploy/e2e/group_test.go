package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
)

const groupDocument = `kind: Stack
name: farm
placement: {cloud: lab}
parameters: {image: tiny, metadata: blue}
resources:
  net: {kind: Network, spec: {}}
  subnet: {kind: Subnet, spec: {network: net, cidr: 10.62.0.0/24}}
  web:
    kind: ScalingGroup
    spec:
      template: {image: tiny, flavor: m1.tiny, network: net, userData: "%s", metadata: {colour: "%s"}}
      min: 1
      max: 4
      drainPeriod: 1s
      metric: {url: "%s", query: "sum(rate(requests[1m]))", target: 10, measure: TOTAL, interval: 0.2s, cooldownOut: 1s, cooldownIn: 2s}
`

// TestScalingGroup has a group follow a metric from one to four and back to two, holds it where the metric fails, rolls its
// template with all the members that are wanted in service at every moment, and takes it away. Then nothing is left.
func TestScalingGroup(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	nothing := i.Cloud.Inventory(t)
	p := story.StartPrometheus(t)
	i.Apply(t, fmt.Sprintf(groupDocument, "v1", "blue", p.URL), "DONE")
	if g := i.Group(t, "farm.web"); !g.SettledAt(t, 1) {
		t.Errorf("at first the group is %+v", g)
	}
	watch := func(what string, least int, done func(story.Group) bool) {
		t.Helper()
		story.Await(t, what, func() bool {
			g := i.Group(t, "farm.web")
			if n := g.InService(t); n < least || len(g.Observed.Members) > 5 {
				t.Fatalf("while awaiting %s, %d are in service of %d: %+v", what, n, least, g.Observed)
			}
			return done(g)
		})
	}
	p.Set(40, false)
	watch("four by the metric", 1, func(g story.Group) bool { return g.SettledAt(t, 4) })
	p.Set(0, true)
	watch("the metric fails", 4, func(g story.Group) bool { return g.Observed.Metric.Error != "" })
	p.Set(20, false)
	watch("two by the metric", 2, func(g story.Group) bool { return g.SettledAt(t, 2) })

	i.Apply(t, fmt.Sprintf(groupDocument, "v1", "green", p.URL), "DONE") // in place
	before := i.Group(t, "farm.web").Observed.Members
	rolled := make(chan bool)
	go func() {
		defer close(rolled)
		i.Apply(t, fmt.Sprintf(groupDocument, "v2", "green", p.URL), "DONE")
	}()
	watch("the template rolls", 2, func(g story.Group) bool {
		select {
		case <-rolled:
			return g.SettledAt(t, 2)
		default:
			return false
		}
	})
	for _, m := range i.Group(t, "farm.web").Observed.Members {
		for _, old := range before {
			if m.Server == old.Server {
				t.Errorf("%s was not replaced", m.Server)
			}
		}
	}
	p.Set(30, false)
	watch("three by the metric", 2, func(g story.Group) bool { return g.SettledAt(t, 3) })
	i.Destroy(t, "farm", "DONE")
	i.NothingLeft(t, nothing)
}

// TestScaleByCommand gives a group another size, which the same document leaves as it is and another document changes;
// members are nobody else's to change, and one that is deleted behind Weft's back is made anew.
func TestScaleByCommand(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	nothing := i.Cloud.Inventory(t)
	document := func(desired int) string {
		return fmt.Sprintf("kind: Stack\nname: crew\nplacement: {cloud: lab}\nresources:\n%s  web: {kind: ScalingGroup, spec: {template: {image: tiny, flavor: m1.tiny, network: net}, min: 1, max: 3, desired: %d, drainPeriod: 0s}}\n", fabric, desired)
	}
	i.Apply(t, document(1), "DONE")
	i.Must(t, "scale", "crew.web", "3", "--wait")
	if g := i.Group(t, "crew.web"); !g.SettledAt(t, 3) {
		t.Errorf("by command: %+v", g)
	}
	i.Weft(t, "scale", "crew.web", "4").Refused(t)
	if log := i.Must(t, "console-log", i.Group(t, "crew.web").Observed.Members[0].Server, "--lines", "2").Out; !strings.Contains(log, "login:") {
		t.Errorf("the console says %q", log)
	}
	i.Apply(t, document(1), "DONE")
	if g := i.Group(t, "crew.web"); !g.SettledAt(t, 3) {
		t.Errorf("the same document: %+v", g)
	}
	member := i.Group(t, "crew.web").Observed.Members[0]
	i.Weft(t, "delete", "server", member.Server).Refused(t)
	i.Cloud.Foreign(t, "demo").Do(http.MethodDelete, "/compute/v2.1/servers/"+member.ProviderID, nil, nil)
	story.Await(t, "another in place of the one that was deleted", func() bool {
		g := i.Group(t, "crew.web")
		return g.SettledAt(t, 3) && g.Observed.Members[0].Server != member.Server
	})
	i.Apply(t, document(2), "DONE")
	if g := i.Group(t, "crew.web"); !g.SettledAt(t, 2) {
		t.Errorf("another document: %+v", g)
	}
	i.Destroy(t, "crew", "DONE")
	i.NothingLeft(t, nothing)
}
