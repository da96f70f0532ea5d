package chaos

import (
	"slices"
	"strings"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	"github.com/weftcloud/weft/pkg/crash"
)

// beginFleet starts an installation whose services are processes of their own, each with its points and orders of its own.
func beginFleet(t *testing.T) *site {
	t.Helper()
	bin := t.TempDir()
	if err := story.BuildFleet(bin, "-tags", "crash"); err != nil {
		t.Fatal(err)
	}
	f := story.NewFleet(t, bin, func(service string) string {
		if service == "orchestrator" { // it has a name
			return ""
		}
		return "replica: a\n" // who starts again takes the place of who died
	})
	f.StartEtcd(t)
	f.StartNATS(t)
	f.StartSandbox(t)
	for _, s := range story.Services() {
		f.Start(t, s)
	}
	f.Register(t)
	s := &site{Installation: f.Installation, fleet: f}
	s.hurry(t)
	s.before = s.Cloud.Inventory(t)
	return s
}

// end kills all processes.
func (s *site) end(t *testing.T) {
	t.Helper()
	if s.fleet == nil {
		s.Kill(t)
		return
	}
	for program := range s.fleet.Processes {
		s.fleet.Kill(t, program)
	}
}

// fleetTrials are the runs of the fleet: of each point one process that passes it, in each direction once. The outbox is
// the same code everywhere, and passed by both kinds of processes.
func fleetTrials(wanted func(crash.Name) bool) []trial {
	var out []trial
	for _, p := range places {
		members := []string{"networkd"}
		switch what, _, _ := strings.Cut(string(p.point), "/"); what {
		case "engine":
			members = []string{"orchestratord"}
		case "outbox":
			members = []string{"orchestratord", "networkd"}
		}
		for _, m := range members {
			for _, undoing := range []bool{false, true} {
				if wanted(p.point) {
					// One process of several passes less often than all together: the first passing is sure.
					out = append(out, trial{program: m, member: m, place: p, undoing: undoing, passing: 1})
				}
			}
		}
	}
	return slices.Clip(out)
}
