package shard_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/weftcloud/weft/pkg/lease"
	"github.com/weftcloud/weft/pkg/store/memstore"
)

// deed is one thing that happens to the replicas.
type deed struct {
	What    string
	Replica int
	Then    time.Duration // how long until the next
}

// script draws what happens.
func script(t *rapid.T) []deed {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) deed {
		what := []string{"join", "join", "join", "leave", "kill", "hang", "cut", "lossy", "up", "up", "compact", "break"}
		return deed{
			What: rapid.SampledFrom(what).Draw(t, "what"), Replica: rapid.IntRange(0, 4).Draw(t, "replica"),
			Then: time.Duration(rapid.SampledFrom([]int{0, 1, 50, 700, 2500, 4000, 7000}).Draw(t, "then")) * time.Millisecond,
		}
	}), 1, 30).Draw(t, "script")
}

// do does a deed.
func (w *world) do(s *memstore.Store, d deed, leaving map[string]bool) {
	name := fmt.Sprintf("r%d", d.Replica)
	r := w.replicas[name]
	switch {
	case d.What == "compact":
		s.Compact()
	case d.What == "break":
		s.BreakWatches()
	case d.What == "join" && (r == nil || leaving[name]):
		delete(leaving, name)
		w.join(name, nil) // the former process of the name may still be leaving, or be dead
	case r == nil || leaving[name]:
	case d.What == "leave":
		r.cancel()
		leaving[name] = true
	case d.What == "kill":
		w.kill(name)
	default:
		r.wire.set(map[string]int{"hang": hangs, "cut": cut, "lossy": lossy, "up": up}[d.What])
	}
}

// play plays a script in a world of its own and gives what went wrong.
func play(t *testing.T, deeds []deed, count int, slow time.Duration) []string {
	var wrong []string
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		w := newWorld(t, s, count)
		w.slow = slow
		ctx, cancel := context.WithCancel(t.Context())
		w.marks(ctx)
		leaving := map[string]bool{}
		for _, d := range deeds {
			w.do(s, d, leaving)
			rest(d.Then)
		}
		for name, r := range w.replicas {
			r.wire.set(up)
			if leaving[name] {
				delete(w.replicas, name)
			}
		}
		// The longest: a lease that is to end, own functions that end slowly, a replica that joins again, a handover.
		rest(2*lease.DefaultTTL + 3*slow + 2*time.Second)
		if err := w.settled(); err != nil {
			w.wrong("in the calm: %v", err)
		}
		cancel()
		for _, r := range w.replicas {
			r.cancel()
		}
		w.runs.Wait()
		wrong = w.faults
	})
	return wrong
}

// Whatever happens, a shard has one owner at most, and once nothing more happens it has one.
func TestOwnersAreNeverTwoAndAtLastOne(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		deeds := script(rt)
		count := rapid.IntRange(1, 12).Draw(rt, "count")
		slow := rapid.SampledFrom([]time.Duration{0, 0, 200 * time.Millisecond, 8 * time.Second}).Draw(rt, "slow")
		if wrong := play(t, deeds, count, slow); len(wrong) > 0 {
			rt.Fatalf("%s", strings.Join(wrong, "\n"))
		}
	})
}
