package chaos

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// tally is what runs showed.
type tally struct{ runs, died, lost, doubled, orphans, stuck int }

func (a tally) plus(b tally) tally {
	return tally{a.runs + b.runs, a.died + b.died, a.lost + b.lost, a.doubled + b.doubled, a.orphans + b.orphans, a.stuck + b.stuck}
}

// clean tells whether nothing was wrong.
func (a tally) clean() bool { return a.lost+a.doubled+a.orphans+a.stuck == 0 }

// table sums up the tallies, a row for each program, point and direction.
type table struct {
	mu   sync.Mutex
	keys []row
	sums map[row]tally
}

// row is what one line of the table is about.
type row struct{ program, point, direction string }

// expect makes a row, so that rows stand in the order in which they were planned.
func (t *table) expect(r row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sums == nil {
		t.sums = map[row]tally{}
	}
	if !slices.Contains(t.keys, r) {
		t.keys = append(t.keys, r)
	}
}

func (t *table) add(r row, a tally) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sums[r] = t.sums[r].plus(a)
}

func (t *table) of(r row) tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sums[r]
}

// String shows the table.
func (t *table) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	const line = "%-28s %-26s %-8s %5v %5v %5v %8v %8v %6v\n"
	fmt.Fprintf(&b, line, "program", "point", "way", "runs", "died", "lost", "doubled", "orphans", "stuck")
	totals, programs := map[string]tally{}, []string{}
	for _, k := range t.keys {
		a := t.sums[k]
		fmt.Fprintf(&b, line, k.program, k.point, k.direction, a.runs, a.died, a.lost, a.doubled, a.orphans, a.stuck)
		if !slices.Contains(programs, k.program) {
			programs = append(programs, k.program)
		}
		totals[k.program] = totals[k.program].plus(a)
	}
	for _, p := range programs {
		a := totals[p]
		fmt.Fprintf(&b, line, p, "all", "", a.runs, a.died, a.lost, a.doubled, a.orphans, a.stuck)
	}
	return b.String()
}
