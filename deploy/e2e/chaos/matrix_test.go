package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/weftcloud/weft/pkg/crash"
)

// moment is when the order to die is given.
type moment int

const (
	// atApply is before the apply begins.
	atApply moment = iota
	// atRefusal is when the cloud has refused the last step: what dies is the undo.
	atRefusal
	// atUpdate is before the stack, which stands, is changed in place.
	atUpdate
	// atDestroy is before the stack, which stands, is destroyed: a destroy goes forward, and so does a deletion in it.
	atDestroy
)

// place is how one point is tried.
type place struct {
	point crash.Name
	// forward and undo are when the order is given, in each direction.
	forward, undo moment
	// passings are the passings at which to die, one for each repeat.
	passings, undoPassings []int
	// first is a point at which to die before, so that there is something to take over.
	first crash.Name
	// late says that something may come once more long after, which must then do no harm.
	late bool
}

// places are all points. What passes a point in which order is not the same in each run; the passings are such that each
// is reached whatever the order.
var places = []place{
	{point: crash.EngineCommitBefore, undo: atRefusal, passings: []int{1, 2, 5}, undoPassings: []int{1, 2, 3}},
	{point: crash.EngineCommitAfter, undo: atRefusal, passings: []int{1, 2, 5}, undoPassings: []int{1, 2, 3}},
	{point: crash.EngineEndBefore, undo: atRefusal, passings: []int{1}, undoPassings: []int{1}},
	{point: crash.EngineEndAfter, undo: atRefusal, passings: []int{1}, undoPassings: []int{1}},
	{point: crash.EngineTakeoverRead, first: crash.EngineCommitAfter, undo: atRefusal, passings: []int{1}, undoPassings: []int{1}},
	{point: crash.EngineTakeoverAsked, first: crash.EngineCommitAfter, undo: atRefusal, passings: []int{1}, undoPassings: []int{1}},
	{point: crash.OutboxPublishBefore, undo: atRefusal, passings: []int{1, 4, 9}, undoPassings: []int{1, 2, 4}},
	{point: crash.OutboxPublishAfter, undo: atRefusal, passings: []int{1, 4, 9}, undoPassings: []int{1, 2, 4}},
	{point: crash.OutboxDeleteBefore, undo: atRefusal, passings: []int{1, 4, 9}, undoPassings: []int{1, 2, 4}},
	{point: crash.OutboxDeleteAfter, undo: atRefusal, passings: []int{1, 4, 9}, undoPassings: []int{1, 2, 4}},
	{point: crash.InboxCommitBefore, undo: atRefusal, passings: []int{1, 3, 6}, undoPassings: []int{1, 2, 4}},
	{point: crash.InboxAckBefore, passings: []int{1, 3, 6}, undoPassings: []int{1, 3, 6}, late: true},
	{point: crash.BusAckAfter, undo: atRefusal, passings: []int{1, 5, 10}, undoPassings: []int{1, 3, 5}},
	{point: crash.RecordCommitBefore, undo: atRefusal, passings: []int{1, 7, 15}, undoPassings: []int{1, 3, 6}},
	{point: crash.RecordCommitAfter, undo: atRefusal, passings: []int{1, 7, 15}, undoPassings: []int{1, 3, 6}},
	{point: crash.RecordTombstoneBefore, forward: atDestroy, undo: atRefusal, passings: []int{1, 3, 6}, undoPassings: []int{1, 2, 4}},
	{point: crash.LoopAttemptBefore, passings: []int{3, 9, 15}, undoPassings: []int{6, 12, 18}},
	{point: crash.LoopCreateBefore, passings: []int{6, 14, 20}, undoPassings: []int{16, 4, 10}},
	{point: crash.LoopCreateAfter, passings: []int{19, 8, 12}, undoPassings: []int{11, 18, 5}},
	{point: crash.LoopIDAfter, passings: []int{4, 10, 16}, undoPassings: []int{13, 7, 2}},
	{point: crash.LoopUpdateBefore, forward: atUpdate, passings: []int{3, 1, 6}, undoPassings: []int{2, 1, 3}},
	{point: crash.LoopUpdateAfter, forward: atUpdate, passings: []int{5, 2, 7}, undoPassings: []int{1, 2, 3}},
	{point: crash.LoopDeleteBefore, forward: atDestroy, undo: atRefusal, passings: []int{3, 9, 15}, undoPassings: []int{2, 7, 12}},
	{point: crash.LoopDeleteAfter, forward: atDestroy, undo: atRefusal, passings: []int{12, 5, 17}, undoPassings: []int{9, 4, 14}},
}

// trial is one run.
type trial struct {
	program string // what the table calls the program
	path    string // of the program; empty for the sound one
	member  string // the process of a fleet that dies; empty if there is one for all
	place
	undoing bool
	passing int
	wider   bool // it is made with the stack of all kinds
}

func (c trial) row() row {
	direction := "forward"
	if c.undoing {
		direction = "undo"
	}
	return row{program: c.program, point: string(c.point), direction: direction}
}

// wide tells whether the run is made with the stack of all kinds: where a driver is called, the kind matters. Broken
// programs are found out, and fleets killed, with the other one.
func (c trial) wide() bool { return c.wider }

// when is when the order to die is given.
func (c trial) when() moment {
	if c.undoing {
		return c.undo
	}
	return c.forward
}

// orders are the lines of the file that the program reads.
func (c trial) orders() []string {
	own := fmt.Sprintf("%s %d", c.point, c.passing)
	if c.first == "" {
		return []string{own}
	}
	return []string{fmt.Sprintf("%s %d", c.first, 2), own}
}

// soundTrials gives the runs of the sound program: each point, each direction, each repeat.
func soundTrials(wanted, wide func(crash.Name) bool) []trial {
	var out []trial
	for _, p := range places {
		for k := range *repeat {
			if wanted(p.point) {
				out = append(out,
					trial{program: "sound", place: p, passing: nth(p.passings, k, wide(p.point)), wider: wide(p.point)},
					trial{program: "sound", place: p, undoing: true, passing: nth(p.undoPassings, k, wide(p.point)), wider: wide(p.point)})
			}
		}
	}
	return out
}

// nth gives the passing of a repeat. Where a stack is not the one of all kinds it has less to pass: the least of them is sure.
func nth(passings []int, k int, wide bool) int {
	if wide {
		return passings[k%len(passings)]
	}
	sorted := slices.Sorted(slices.Values(passings))
	return sorted[k%len(sorted)]
}

// TestPlaces holds the places against the list of the points.
func TestPlaces(t *testing.T) {
	var tried []crash.Name
	for _, p := range places {
		tried = append(tried, p.point)
	}
	if all := crash.Points(); !slices.Equal(all, tried) {
		t.Errorf("the points are %v\ntried are %v", all, tried)
	}
}

// matching compiles the expression of a flag.
func matching(t *testing.T, expression string) *regexp.Regexp {
	t.Helper()
	re, err := regexp.Compile(expression)
	if err != nil {
		t.Fatal(err)
	}
	return re
}

// TestMatrix is the matrix: each point, each direction, each repeat; first with the programs that were broken, then with
// the sound one.
func TestMatrix(t *testing.T) {
	if *repeat == 0 {
		t.Skip("it takes its time: make chaos runs it")
	}
	sums := &table{}
	t.Cleanup(func() {
		fmt.Print(sums)
		if *tablePath == "" {
			return
		}
		if err := os.WriteFile(*tablePath, []byte(sums.String()), 0o600); err != nil {
			t.Error(err)
		}
	})
	re, widely := matching(t, *only), matching(t, *wideAt)
	wanted := func(n crash.Name) bool { return re.MatchString(string(n)) }
	var plan, fleets []trial
	if *workers > 0 {
		plan = append(brokenTrials(t), soundTrials(wanted, func(n crash.Name) bool { return widely.MatchString(string(n)) })...)
	}
	if *withFleet {
		fleets = fleetTrials(wanted)
	}
	queue := queued(plan, sums)
	fleetQueue := queued(fleets, sums)
	t.Run("runs", func(t *testing.T) {
		for n := range *workers {
			t.Run(fmt.Sprint(n+1), func(t *testing.T) {
				t.Parallel()
				work(t, queue, sums)
			})
		}
		if len(fleets) > 0 {
			t.Run("fleet", func(t *testing.T) {
				t.Parallel()
				work(t, fleetQueue, sums)
			})
		}
	})
	judge(t, append(plan, fleets...), sums)
}

// queued puts trials into a queue, and plans their rows.
func queued(plan []trial, sums *table) <-chan trial {
	queue := make(chan trial, len(plan))
	for _, c := range plan {
		sums.expect(c.row())
		queue <- c
	}
	close(queue)
	return queue
}

// judge says what the table shows.
func judge(t *testing.T, plan []trial, sums *table) {
	t.Helper()
	found := map[string]bool{}
	for _, c := range plan {
		a := sums.of(c.row())
		if c.path == "" && (!a.clean() || a.runs == 0) {
			t.Errorf("%v: %+v", c.row(), a)
		}
		if c.path != "" {
			found[c.program] = found[c.program] || !a.clean()
		}
	}
	for program, out := range found {
		if !out {
			t.Errorf("the program that is broken (%s) was not found out", program)
		}
	}
}

// work takes trials until there are none, and keeps an installation for as long as it does what it should.
func work(t *testing.T, queue <-chan trial, sums *table) {
	var s *site
	for c := range queue {
		if s != nil && (s.Program != c.path || s.spoilt) {
			s.end(t)
			s = nil
		}
		name := filepath.ToSlash(fmt.Sprintf("%s/%s/%s/%d", c.program, c.row().direction, c.point, c.passing))
		if s == nil && c.member != "" {
			s = beginFleet(t)
		}
		if s == nil {
			s = begin(t, c.path)
		}
		before := s
		ok := t.Run(name, func(t *testing.T) {
			a := before.try(t, c)
			sums.add(c.row(), a)
			before.spoilt = before.spoilt || !a.clean()
		})
		s.spoilt = s.spoilt || !ok
	}
}
