package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
)

// prometheus answers every query with one number, as Prometheus does, or not at all.
type prometheus struct {
	url string

	mu    sync.Mutex
	value float64
	down  bool
}

func (p *prometheus) set(value float64, down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.value, p.down = value, down
}

// ServeHTTP implements http.Handler.
func (p *prometheus) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[%d,"%g"]}]}}`, time.Now().Unix(), p.value)
}

// startPrometheus starts one on loopback, as long as the test lasts.
func startPrometheus(t *testing.T) *prometheus {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &prometheus{url: "http://" + listener.Addr().String(), value: 10}
	server := &http.Server{Handler: p, ReadHeaderTimeout: time.Minute}
	go func() {
		if err := server.Serve(listener); err != http.ErrServerClosed {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// scalingGroup is what a story looks at of a group.
type scalingGroup struct {
	Observed struct {
		Members []struct {
			Server     string `json:"server"`
			ProviderID string `json:"providerId"`
			Address    string `json:"address"`
			State      string `json:"state"`
		}
		Desired, Ready int
		Reason         string
		Metric         struct{ Error string }
	}
	Status struct{ Phase string }
}

// groupOf reads a group.
func groupOf(t *testing.T, i *story.Installation, name string) scalingGroup {
	t.Helper()
	var g scalingGroup
	if err := json.Unmarshal([]byte(i.Must(t, "get", "scalingGroup", name, "-o", "json").Out), &g); err != nil {
		t.Fatal(err)
	}
	return g
}

// states counts the members by state, and fails the test if one that is in service has no address.
func (g scalingGroup) states(t *testing.T) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, m := range g.Observed.Members {
		out[m.State]++
		if m.State == "MEMBER_STATE_IN_SERVICE" && (m.Address == "" || m.ProviderID == "") {
			t.Errorf("%s is in service without an address: %+v", m.Server, m)
		}
	}
	if out["MEMBER_STATE_IN_SERVICE"] != g.Observed.Ready {
		t.Errorf("%d are in service, and %d are told", out["MEMBER_STATE_IN_SERVICE"], g.Observed.Ready)
	}
	return out
}

// settledAt tells whether a group has just so many members, all in service.
func (g scalingGroup) settledAt(t *testing.T, n int) bool {
	t.Helper()
	return g.states(t)["MEMBER_STATE_IN_SERVICE"] == n && len(g.Observed.Members) == n && g.Status.Phase == "PHASE_READY"
}

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
	p := startPrometheus(t)
	i.Apply(t, fmt.Sprintf(groupDocument, "v1", "blue", p.url), "DONE")
	if g := groupOf(t, i, "farm.web"); !g.settledAt(t, 1) {
		t.Errorf("at first the group is %+v", g)
	}
	watch := func(what string, least int, done func(scalingGroup) bool) {
		t.Helper()
		story.Await(t, what, func() bool {
			g := groupOf(t, i, "farm.web")
			if n := g.states(t)["MEMBER_STATE_IN_SERVICE"]; n < least || len(g.Observed.Members) > 5 {
				t.Fatalf("while awaiting %s, %d are in service of %d: %+v", what, n, least, g.Observed)
			}
			return done(g)
		})
	}
	p.set(40, false)
	watch("four by the metric", 1, func(g scalingGroup) bool { return g.settledAt(t, 4) })
	p.set(0, true)
	watch("the metric fails", 4, func(g scalingGroup) bool { return g.Observed.Metric.Error != "" })
	p.set(20, false)
	watch("two by the metric", 2, func(g scalingGroup) bool { return g.settledAt(t, 2) })

	i.Apply(t, fmt.Sprintf(groupDocument, "v1", "green", p.url), "DONE") // in place
	before := groupOf(t, i, "farm.web").Observed.Members
	rolled := make(chan bool)
	go func() {
		defer close(rolled)
		i.Apply(t, fmt.Sprintf(groupDocument, "v2", "green", p.url), "DONE")
	}()
	watch("the template rolls", 2, func(g scalingGroup) bool {
		select {
		case <-rolled:
			return g.settledAt(t, 2)
		default:
			return false
		}
	})
	for _, m := range groupOf(t, i, "farm.web").Observed.Members {
		for _, old := range before {
			if m.Server == old.Server {
				t.Errorf("%s was not replaced", m.Server)
			}
		}
	}
	p.set(30, false)
	watch("three by the metric", 2, func(g scalingGroup) bool { return g.settledAt(t, 3) })
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
	if g := groupOf(t, i, "crew.web"); !g.settledAt(t, 3) {
		t.Errorf("by command: %+v", g)
	}
	i.Weft(t, "scale", "crew.web", "4").Refused(t)
	if log := i.Must(t, "console-log", groupOf(t, i, "crew.web").Observed.Members[0].Server, "--lines", "2").Out; !strings.Contains(log, "login:") {
		t.Errorf("the console says %q", log)
	}
	i.Apply(t, document(1), "DONE")
	if g := groupOf(t, i, "crew.web"); !g.settledAt(t, 3) {
		t.Errorf("the same document: %+v", g)
	}
	member := groupOf(t, i, "crew.web").Observed.Members[0]
	i.Weft(t, "delete", "server", member.Server).Refused(t)
	i.Cloud.Foreign(t, "demo").Do(http.MethodDelete, "/compute/v2.1/servers/"+member.ProviderID, nil, nil)
	story.Await(t, "another in place of the one that was deleted", func() bool {
		g := groupOf(t, i, "crew.web")
		return g.settledAt(t, 3) && g.Observed.Members[0].Server != member.Server
	})
	i.Apply(t, document(2), "DONE")
	if g := groupOf(t, i, "crew.web"); !g.settledAt(t, 2) {
		t.Errorf("another document: %+v", g)
	}
	i.Destroy(t, "crew", "DONE")
	i.NothingLeft(t, nothing)
}
