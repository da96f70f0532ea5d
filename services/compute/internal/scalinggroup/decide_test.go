package scalinggroup

import (
	"math/rand/v2"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
)

// world is a group in a world that takes its time: what is asked for happens some steps later, in any order.
type world struct {
	members []member
	made    int
	wish    wish
	largest int // the most that were wanted at once, with surge, since the world began
	r       *rand.Rand
}

// act does what was decided, as the controller does.
func (w *world) act(t *rapid.T) (changed bool) {
	before := map[string]member{}
	available := 0
	for _, m := range w.members {
		before[m.key] = m
		if m.state == inService {
			available++
		}
	}
	actions, add := decide(w.members, w.wish)
	for _, a := range actions {
		m := w.find(a.key)
		switch a.verb {
		case adapt:
			m.current = true
		case recall:
			m.state, m.drained = inService, false
			available++
		case drain:
			m.state = draining
			available--
			if available < w.wish.desired-w.wish.unavailable {
				t.Fatalf("%s is drained: %d are left in service of %d, %d may be missing", a.key, available, w.wish.desired, w.wish.unavailable)
			}
		case remove:
			if m.state == inService {
				t.Fatalf("%s is removed while it serves", a.key)
			}
			if m.state == draining && !before[a.key].drained {
				t.Fatalf("%s is removed before its time is over", a.key)
			}
			m.state = releasing
		}
	}
	for range add {
		w.made++
		w.members = append(w.members, member{key: strconv.Itoa(w.made), state: pending, current: true})
	}
	if add > 0 && len(w.members) > w.wish.desired+w.wish.surge {
		t.Fatalf("%d were added: there are %d, and may be %d and %d", add, len(w.members), w.wish.desired, w.wish.surge)
	}
	if len(w.members) > w.largest {
		t.Fatalf("there are %d members, at most %d were ever to be", len(w.members), w.largest)
	}
	return len(actions)+add > 0
}

func (w *world) find(key string) *member {
	for i := range w.members {
		if w.members[i].key == key {
			return &w.members[i]
		}
	}
	return nil
}

// pass lets some of what goes on come to its end; hard says that all of it does.
func (w *world) pass(hard bool) {
	var kept []member
	for _, m := range w.members {
		happens := hard || w.r.IntN(2) == 0
		switch {
		case !happens:
		case m.state == pending:
			m.state = inService
		case m.state == draining:
			m.drained = true
		case m.state == releasing:
			continue
		}
		kept = append(kept, m)
	}
	w.members = kept
}

// disturb does what people and clouds do.
func (w *world) disturb(t *rapid.T) {
	switch rapid.IntRange(0, 4).Draw(t, "disturbance") {
	case 0:
		w.wish.desired = rapid.IntRange(0, 8).Draw(t, "desired")
		w.largest = max(w.largest, w.wish.desired+w.wish.surge)
	case 1: // another template
		can := rapid.Bool().Draw(t, "adaptable")
		for i := range w.members {
			w.members[i].current, w.members[i].adaptable = false, can
		}
	case 2:
		if len(w.members) > 0 {
			if m := &w.members[w.r.IntN(len(w.members))]; m.state == pending || m.state == inService {
				m.state = failed
			}
		}
	default:
	}
}

// TestDecide holds decisions to what decide promises, in worlds in which anything may happen at any time, and to that they
// come to an end once nothing happens any more.
func TestDecide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{r: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))}
		w.wish = wish{desired: rapid.IntRange(0, 8).Draw(t, "desired"), surge: rapid.IntRange(0, 3).Draw(t, "surge"), mayAdd: true}
		w.wish.unavailable = rapid.IntRange(0, 3).Draw(t, "unavailable")
		if w.wish.surge == 0 {
			w.wish.unavailable = max(w.wish.unavailable, 1)
		}
		w.largest = w.wish.desired + w.wish.surge
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			w.disturb(t)
			w.wish.mayAdd = rapid.Bool().Draw(t, "mayAdd")
			w.act(t)
			w.pass(false)
		}
		w.wish.mayAdd = true
		for step := 0; ; step++ {
			acted := w.act(t)
			w.pass(true)
			if !acted && w.settled() {
				break
			}
			if step > 100 {
				t.Fatalf("it does not come to an end: %+v of %+v", w.members, w.wish)
			}
		}
		if actions, add := decide(w.members, w.wish); len(actions) > 0 || add > 0 {
			t.Fatalf("at the end there is still something to do: %v, %d", actions, add)
		}
	})
}

func (w *world) settled() bool {
	for _, m := range w.members {
		if m.state != inService || !m.current {
			return false
		}
	}
	return len(w.members) == w.wish.desired
}

// TestWhoGoes holds which member goes when there are too many.
func TestWhoGoes(t *testing.T) {
	of := func(states ...computev1.MemberState) []member {
		var out []member
		for i, s := range states {
			out = append(out, member{key: strconv.Itoa(i), state: s, current: true})
		}
		return out
	}
	for name, tc := range map[string]struct {
		members []member
		desired int
		want    []action
	}{
		"the newest":                    {of(inService, inService, inService), 2, []action{{drain, "2"}}},
		"who does not serve yet":        {of(pending, inService, inService), 2, []action{{remove, "0"}}},
		"nobody whom others do without": {of(inService, failed, inService), 2, []action{{remove, "1"}}},
		"taken back":                    {of(inService, draining), 2, []action{{recall, "1"}}},
		"all":                           {of(inService, pending), 0, []action{{remove, "1"}, {drain, "0"}}},
	} {
		got, _ := decide(tc.members, wish{desired: tc.desired, surge: 1, mayAdd: true})
		if len(got) != len(tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
			continue
		}
		for i := range got {
			if got[i] != tc.want[i] {
				t.Errorf("%s: %v, want %v", name, got, tc.want)
			}
		}
	}
}
