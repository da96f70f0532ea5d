// Package heat holds one composite application as a template of Heat and as a stack of Weft, and measures both beside each
// other on the cloud of OS_CLOUD.
//
// # What is measured
//
// Each round makes the composite with one, takes it away, and does the same with the other. It is ready when the one that
// made it says so and both machines run, their volumes are attached, the load balancer is online, and both machines answer
// at the public address: the benchmark asks the cloud for these itself, of both in the same way. It is gone when the one
// that made it says so and the cloud lists nothing of it any more.
//
// Calls are counted by proxies before the services of the cloud, for both alike: they are the endpoints of a region that the
// benchmark adds to the catalog, for which an administrator's credentials are needed, and takes away again. Heat is told by a
// header to work in that region, Weft by its clouds.yaml. What the services of the cloud call each other for is not counted,
// nor is the identity service, nor what the benchmark asks.
//
// Then a last resource is added that waits for all others and that the cloud accepts and cannot make: a machine from an
// image whose disk is too large. What is left is listed when each is done with it: Heat as it is by default, which keeps what it made
// until it is told to delete, Heat with its rollback, and Weft.
package heat

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftcloud/weft/deploy/e2e/internal/count"
	"github.com/weftcloud/weft/deploy/e2e/internal/story"
)

const (
	// stackName is in the name or description of all that is made.
	stackName = "beside"
	// adminVariable names the cloud in clouds.yaml whose credentials may add endpoints to the catalog.
	adminVariable = "WEFT_REAL_ADMIN_CLOUD"
	// roundsVariable says how many rounds there are; with 0 only the failure is looked at.
	roundsVariable = "WEFT_HEAT_ROUNDS"
	// stepsVariable, if it is set, has the steps of Weft's operations and all calls printed.
	stepsVariable = "WEFT_HEAT_VERBOSE"

	patience  = 20 * time.Minute
	pollEvery = 500 * time.Millisecond
)

// BenchmarkBesideHeat makes the composite with both, in turn.
func BenchmarkBesideHeat(b *testing.B) {
	for _, name := range []string{"OS_CLIENT_CONFIG_FILE", "OS_CLOUD", adminVariable} {
		if os.Getenv(name) == "" {
			b.Skipf("%s is not set: the benchmark needs an OpenStack with Heat, and credentials that may add a region", name)
		}
	}
	rounds := 2
	if text := os.Getenv(roundsVariable); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil || rounds < 0 {
			b.Fatalf("%s is %q, want a number of rounds", roundsVariable, text)
		}
	}
	build(b)
	p := open(b)
	if left := p.names(b); len(left) > 0 {
		b.Fatalf("the cloud has objects of the benchmark's name already: %q", left)
	}
	heat, weft := newHeat(b, p), newWeft(b, p)
	for b.Loop() {
		var heats, wefts []result
		for n := range rounds {
			heats = append(heats, p.round(b, fmt.Sprintf("Heat, round %d", n+1), heat))
			wefts = append(wefts, p.round(b, fmt.Sprintf("Weft, round %d", n+1), weft))
		}
		if rounds > 0 {
			report(b, heats, wefts)
		}
		image := p.brokenImage(b)
		p.failing(b, "Heat", heat, image)
		heat.rollback = true
		p.failing(b, "Heat with rollback", heat, image)
		heat.rollback = false
		left := p.failing(b, "Weft", weft, image)
		b.ReportMetric(float64(len(left)), "left-after-failure")
	}
}

// build builds the binary of the installation.
func build(b *testing.B) {
	b.Helper()
	binary, err := story.Build(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Setenv(story.Binary, binary)
}

// result is what one round of one side gave.
type result struct {
	ready, gone           time.Duration
	readyCalls, goneCalls int
	left                  []string
}

// round makes the composite with one side and takes it away.
func (p *place) round(b *testing.B, who string, s side) result {
	b.Helper()
	var r result
	first, began := p.counter.Last(), time.Now()
	if said, ok := s.make(b, s.document()); !ok {
		b.Fatalf("%s: %s", who, said)
	}
	done := time.Since(began)
	err := p.ready(b.Context())
	for deadline := time.Now().Add(patience); err != nil; err = p.ready(b.Context()) {
		if time.Now().After(deadline) {
			b.Fatalf("%s: not ready: %v", who, err)
		}
		time.Sleep(pollEvery)
	}
	r.ready = time.Since(began)
	r.readyCalls = p.calls(b, first)
	second, began := p.counter.Last(), time.Now()
	s.take(b)
	r.left = p.drain(b, time.Minute)
	r.gone = time.Since(began)
	r.goneCalls = p.calls(b, second)
	b.Logf("%s: done after %.1f s, ready after %.1f s with %d calls, gone after %.1f s with %d calls, %d objects left %q",
		who, done.Seconds(), r.ready.Seconds(), r.readyCalls, r.gone.Seconds(), r.goneCalls, len(r.left), r.left)
	return r
}

// calls counts the calls since one.
func (p *place) calls(b *testing.B, since int) int {
	b.Helper()
	calls := p.counter.Since(since)
	if os.Getenv(stepsVariable) != "" {
		b.Logf("%d calls:\n%s", len(calls), table(calls))
	}
	return len(calls)
}

// table counts calls by method and path, most frequent first.
func table(calls []count.Call) string {
	by := map[string]int{}
	for _, c := range calls {
		by[c.Service+" "+c.String()]++
	}
	names := slices.SortedFunc(maps.Keys(by), func(a, b string) int { return cmp.Or(by[b]-by[a], strings.Compare(a, b)) })
	var out strings.Builder
	for _, name := range names {
		fmt.Fprintf(&out, "  %4d %s\n", by[name], name)
	}
	return out.String()
}

// report prints ratios of the best rounds: whatever else the machine does makes a round longer, never shorter.
func report(b *testing.B, heats, wefts []result) {
	b.Helper()
	ratio := func(unit string, of func(result) float64) {
		best := func(all []result) float64 {
			values := make([]float64, len(all))
			for n, r := range all {
				values[n] = of(r)
			}
			return slices.Min(values)
		}
		b.ReportMetric(best(wefts)/best(heats), unit)
	}
	ratio("ready/Heat's", func(r result) float64 { return r.ready.Seconds() })
	ratio("gone/Heat's", func(r result) float64 { return r.gone.Seconds() })
	ratio("calls-to-ready/Heat's", func(r result) float64 { return float64(r.readyCalls) })
	ratio("calls-to-gone/Heat's", func(r result) float64 { return float64(r.goneCalls) })
	left := 0
	for _, r := range wefts {
		left += len(r.left)
	}
	b.ReportMetric(float64(left), "left-after-destroy")
}

// failing has a side make the composite with a last resource that cannot be made, and gives what is left when it is done
// with it. Then it is told to take the stack away.
func (p *place) failing(b *testing.B, who string, s side, image string) []string {
	b.Helper()
	first, began := p.counter.Last(), time.Now()
	said, ok := s.make(b, s.document()+s.late(image))
	if ok {
		b.Fatalf("%s: a machine was made from %s", who, image)
	}
	left := p.names(b)
	b.Logf("%s, a failure at the end: after %.1f s and %d calls it says %q; %d objects are left %q",
		who, time.Since(began).Seconds(), p.calls(b, first), said, len(left), left)
	if w, is := s.(*withWeft); is {
		if entries := w.i.Ledger(b).GetEntries(); len(entries) > 0 {
			b.Errorf("%s: the ledger still has %v", who, entries)
		}
		return left
	}
	s.take(b)
	if after := p.drain(b, time.Minute); len(after) > 0 {
		b.Logf("%s: after its deletion %d objects are left %q", who, len(after), after)
	}
	return left
}
