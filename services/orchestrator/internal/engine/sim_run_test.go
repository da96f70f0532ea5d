package engine

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftcloud/weft/pkg/resource"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
)

var (
	simSeed = flag.Uint64("sim.seed", 1, "the first seed of the simulation")
	simN    = flag.Int("sim.n", 400, "how many seeds of the simulation are run")
)

func simKinds(t testing.TB) *resource.Registry {
	t.Helper()
	kinds, err := resource.NewRegistry(&networkv1.Network{}, &computev1.Server{}, &storagev1.Volume{})
	if err != nil {
		t.Fatal(err)
	}
	return kinds
}

// simulate runs one seed.
func simulate(seed uint64, kinds *resource.Registry, mutant simMutant, keep bool) (s *sim) {
	s = newSim(seed, kinds, mutant, keep)
	s.run()
	return s
}

// simulateMany runs seeds, as many at a time as there are processors, and hands each run to look, one at a time, until
// look says that it is enough.
func simulateMany(kinds *resource.Registry, first uint64, n int, mutant simMutant, look func(*sim) (enough bool)) {
	var group sync.WaitGroup
	var mu sync.Mutex
	next, stop := 0, false
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				over := stop || i >= n
				mu.Unlock()
				if over {
					return
				}
				s := simulate(first+uint64(i), kinds, mutant, false)
				mu.Lock()
				stop = look(s) || stop
				mu.Unlock()
			}
		})
	}
	group.Wait()
}

// TestSimulation runs seeds; `make sim SEED=… N=…` runs others. The log of a seed that fails is written to a file.
func TestSimulation(t *testing.T) {
	kinds := simKinds(t)
	var total simCounts
	total.ends = map[string]int{}
	began, failed, fired, seeds := time.Now(), 0, 0, 0
	simulateMany(kinds, *simSeed, *simN, simMutant{}, func(s *sim) bool {
		seeds++
		fired += s.fired
		total.add(s.counts)
		if len(s.violations) == 0 {
			return false
		}
		failed++
		again := simulate(s.seed, kinds, simMutant{}, true)
		path := filepath.Join(os.TempDir(), fmt.Sprintf("weft-sim-%d.log", s.seed))
		if err := os.WriteFile(path, []byte(strings.Join(again.lines, "")), 0o600); err != nil {
			t.Error(err)
		}
		t.Errorf("seed %d (log in %s):\n\t%s", s.seed, path, strings.Join(s.violations, "\n\t"))
		return failed >= 20
	})
	spent := time.Since(began)
	t.Logf("%d seeds in %s, %.0f a second, %d events; %+v", seeds, spent.Round(time.Millisecond), float64(seeds)/spent.Seconds(), fired, total)
}

func (c *simCounts) add(d simCounts) {
	c.sagas += d.sagas
	c.ended += d.ended
	c.crashes += d.crashes
	c.pauses += d.pauses
	c.takeovers += d.takeovers
	c.fenced += d.fenced
	c.lost += d.lost
	c.resurrected += d.resurrected
	c.refused += d.refused
	c.needsHand += d.needsHand
	for k, n := range d.ends {
		c.ends[k] += n
	}
}
