package chaos

import (
	"testing"

	"github.com/weftcloud/weft/pkg/crash"
)

// broken is a program that was broken on purpose, and where that must show.
type broken struct {
	name    string
	changes []change
	trials  []trial
}

// at gives the place of a point.
func at(point crash.Name) place {
	for _, p := range places {
		if p.point == point {
			return p
		}
	}
	panic("there is no place for " + point)
}

// brokens are the programs that must be found out.
var brokens = []broken{
	{
		// The commands of a saga that was never kept make objects that nobody knows of. The pause is what any relay might
		// take; without it the process would die before its relay gets a turn.
		name: "publishes before commit",
		changes: []change{{
			file: "services/orchestrator/internal/engine/run.go",
			old:  "\tcrash.Point(crash.EngineCommitBefore)\n",
			new:  "\tp.Outbox.Committed(messages)\n\ttime.Sleep(500 * time.Millisecond)\n\tcrash.Point(crash.EngineCommitBefore)\n",
		}},
		trials: []trial{{place: at(crash.EngineCommitBefore), passing: 1}},
	},
	{
		// A command whose ack was lost comes again after the undo.
		name: "has no tombstones",
		changes: []change{{
			file: "pkg/participant/participant.go",
			old:  "err == nil {\n\t\treturn in.released(ctx, id, cmd)\n\t} else if !fault.Is(err, fault.NotFound) {",
			new:  "err == nil && cmd.GetRelease() != nil {\n\t\treturn in.released(ctx, id, cmd)\n\t} else if err != nil && !fault.Is(err, fault.NotFound) {",
		}, {
			file: "pkg/record/record.go",
			old:  "\t\t{Key: b.tombKey(e.Key)},\n",
			new:  "",
		}},
		trials: []trial{{place: at(crash.InboxAckBefore), undoing: true, passing: 1}},
	},
	{
		// A create whose answer was lost is sent again.
		name: "creates without a look-up",
		changes: []change{{
			file: "pkg/reconcile/ensure.go",
			old:  "\t} else if e.Record.GetAttempted() {\n\t\tif wait, err := l.adopt(",
			new:  "\t} else if status.GetProviderId() == \"never\" {\n\t\tif wait, err := l.adopt(",
		}},
		trials: []trial{{place: at(crash.LoopCreateAfter), passing: 1}, {place: at(crash.LoopCreateAfter), undoing: true, passing: 4}},
	},
}

// brokenTrials builds the programs that are broken and gives their runs.
func brokenTrials(t *testing.T) []trial {
	t.Helper()
	var out []trial
	wanted := matching(t, *breaking)
	for _, b := range brokens {
		if !wanted.MatchString(b.name) {
			continue
		}
		path, err := buildBroken(t.TempDir(), b.changes)
		if err != nil {
			t.Fatalf("build the program that %s: %s", b.name, err)
		}
		for _, c := range b.trials {
			c.program, c.path = b.name, path
			out = append(out, c)
		}
	}
	return out
}
