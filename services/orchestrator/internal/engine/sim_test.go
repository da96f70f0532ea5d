package engine

// The cluster simulation (doc of what is proved: it is the second of the proofs of the saga engine).
//
// # What runs
//
// One goroutine, one virtual clock, one queue of events and one seed. Real: the engine of three orchestrators, the inbox,
// the records and the plans. Played: the store's faults (the store itself is memstore, with its revisions and
// transactions), the outboxes, the bus, who owns which shard, the participants' loop above a cloud, the clients. Whatever
// happens is an event in the queue; which event, when, and what goes wrong is drawn from the seed. The same seed gives the
// same run, byte for byte: the hash of its log tells.
//
// # What goes wrong
//
//	processes  crash before and after each transaction and each publication, and at any other time; stop for longer than
//	           their lease and go on with what they had in hand; give shards away
//	the store  refuses before the effect; loses the answer after it; takes its time, while all else goes on
//	the bus    drops, doubles, delays for minutes, reorders, brings back what was sent an hour ago; drops what has an id
//	           that it has seen
//	the cloud  refuses, for now or for good; loses the answer after the effect; makes objects that fail or never come up;
//	           is slow to delete, and keeps what others need
//	people     cancel, pause, hold a cloud, retry, skip, abandon, destroy
//
// A transaction that takes its time runs the queue within itself: the process stands in the middle of its work, and the
// others (if it is only slow, it too) go on. That is how a former owner comes to write after it was replaced.
//
// # Phases
//
//	chaos     clients work, all goes wrong that is drawn
//	calm      nothing goes wrong any more but what is under way; every saga must end, people help those that need a hand
//	destroy   every stack is destroyed
//	the hour  what the bus still brings back arrives; nothing may come of it
//
// The files: sim_test.go the clock, the processes and the phases; sim_store_test.go the store and what is held to at each
// transaction; sim_bus_test.go outboxes and bus; sim_replica_test.go the orchestrators; sim_service_test.go the
// participants; sim_cloud_test.go the cloud; sim_client_test.go clients and people; sim_check_test.go what must be true
// of the world; sim_run_test.go the tests, the mutants, and the scenarios that were found.

import (
	"container/heap"
	"context"
	"fmt"
	"hash"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/store/memstore"
)

// simStart is when every run begins.
var simStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// simMutant says what is broken on purpose, to see that the simulation finds it.
type simMutant struct {
	publishEarly bool // outboxes publish before the commit
	noTombstones bool // participants do not see tombstones
	noFence      bool // the store does not compare the owner's key
	noRevision   bool // the store does not compare the revision of a record
	blindQuery   bool // participants answer for whatever stands under a key
	noLookup     bool // participants create again without a look-up
}

// any tells whether anything is broken on purpose: then a run ends with the first violation.
func (m simMutant) any() bool { return m != simMutant{} }

// sim is one run.
type sim struct {
	seed   uint64
	rng    *rand.Rand
	mutant simMutant
	odds   simOdds

	now   time.Time
	queue simQueue
	seq   uint64
	fired int
	depth int // of transactions that take their time

	hash  hash.Hash64
	keep  bool // keep the log's lines
	lines []string

	kinds    *resource.Registry
	store    *memstore.Store
	mail     [][]simMessage // what the outboxes keep in the store, by number
	bus      *simBus
	replicas []*simReplica
	services []*simService
	cloud    *simCloud
	stacks   []*simStack
	monitor  *simMonitor
	shards   []int
	holds    map[string]bool
	keys     int
	ops      int

	calm       bool
	violations []string
	counts     simCounts
}

// simCounts tells what a run has seen, so that a test can tell that it saw it.
type simCounts struct {
	sagas, ended, crashes, pauses, takeovers, fenced, lost, resurrected, refused, overQuota, needsHand int
	ends                                                                                               map[string]int
}

// simOdds are the odds of what goes wrong in one run, in thousandths. Each run has some of them only.
type simOdds struct {
	crashTxn, lostAnswer, unavailable, slow, stop     int // per call of the store
	crashPublish                                      int // per publication
	drop, double, delay, late, resurrect              int // per message
	refuse, deny, lose, hang, broken, sluggish, block int // per call of the cloud
	kill, pause, give                                 int // per event of the weather
	dedup                                             bool
	people                                            int // how often a person does something unusual
}

// simEvent is something that happens at a time. Those of a process happen only while it lives and does not stand still.
type simEvent struct {
	at      time.Time
	seq     uint64
	process *simProcess
	do      func()
	over    bool // it has happened, or was called off
}

// simQueue is the queue of events, in order of time.
type simQueue []*simEvent

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	if !q[i].at.Equal(q[j].at) {
		return q[i].at.Before(q[j].at)
	}
	return q[i].seq < q[j].seq
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *simQueue) Push(x any) { *q = append(*q, x.(*simEvent)) }

// Pop implements heap.Interface.
func (q *simQueue) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return last
}

// simProcess is one life of a process.
type simProcess struct {
	sim    *sim
	name   string
	dead   bool
	frozen time.Time // it stands still until then
	busy   int       // how many frames of it are on the stack
	died   func()
}

// simCrash is what ends the frames of a process.
type simCrash struct{ process *simProcess }

// enter does something as a process; false if it is dead, or died by it.
func (p *simProcess) enter(do func()) (alive bool) {
	if p.dead {
		return false
	}
	p.busy++
	defer func() {
		p.busy--
		if x := recover(); x != nil {
			if c, ok := x.(simCrash); !ok || c.process != p {
				panic(x)
			}
			alive = false
		}
	}()
	do()
	return !p.dead
}

// kill ends a process. Frames of it that are on the stack end when they are reached.
func (p *simProcess) kill(why string) {
	if p.dead {
		return
	}
	p.dead = true
	p.sim.counts.crashes++
	p.sim.note("%s crashes: %s", p.name, why)
	p.died()
}

// crash ends the process that runs now.
func (p *simProcess) crash(why string) {
	p.kill(why)
	panic(simCrash{p})
}

// up tells whether a process answers.
func (p *simProcess) up() bool { return !p.dead && !p.sim.now.Before(p.frozen) }

// at plans an event; process may be nil.
func (s *sim) at(when time.Time, p *simProcess, do func()) *simEvent {
	s.seq++
	ev := &simEvent{at: when, seq: s.seq, process: p, do: do}
	heap.Push(&s.queue, ev)
	return ev
}

func (s *sim) after(wait time.Duration, p *simProcess, do func()) *simEvent {
	return s.at(s.now.Add(wait), p, do)
}

// fire has an event happen.
func (s *sim) fire(ev *simEvent) {
	if ev.over {
		return
	}
	p := ev.process
	if p == nil {
		ev.over = true
		ev.do()
		return
	}
	if p.dead {
		ev.over = true
		return
	}
	if s.now.Before(p.frozen) {
		ev.at = p.frozen.Add(s.upTo(20 * time.Millisecond))
		heap.Push(&s.queue, ev)
		return
	}
	ev.over = true
	p.enter(ev.do)
}

// eventLimit bounds how many events a run may have: more, and it does not come to rest.
const eventLimit = 400000

// until runs events up to a time, or until enough says so.
func (s *sim) until(when time.Time, enough func() bool) {
	for len(s.queue) > 0 && !s.queue[0].at.After(when) {
		if len(s.violations) > 0 && s.mutant.any() {
			return
		}
		if s.fired++; s.fired > eventLimit {
			if s.fired == eventLimit+1 {
				s.violate("it does not come to rest: %d events", s.fired)
			}
			return
		}
		ev := heap.Pop(&s.queue).(*simEvent)
		if ev.at.After(s.now) {
			s.now = ev.at
		}
		s.fire(ev)
		if enough != nil && enough() {
			return
		}
	}
	if when.After(s.now) && enough == nil {
		s.now = when
	}
}

// note writes a line of the log.
func (s *sim) note(format string, args ...any) {
	line := fmt.Sprintf("%12.6f "+format+"\n", append([]any{s.now.Sub(simStart).Seconds()}, args...)...)
	s.hash.Write([]byte(line)) // a hash never fails to be written to (package hash)
	if s.keep {
		s.lines = append(s.lines, line)
	}
}

// violate notes that something is not true that must be.
func (s *sim) violate(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.note("VIOLATION %s", text)
	if len(s.violations) < 20 {
		s.violations = append(s.violations, fmt.Sprintf("%.3fs: %s", s.now.Sub(simStart).Seconds(), text))
	}
}

// chance draws whether something of these odds, in thousandths, happens; never once it is calm.
func (s *sim) chance(odds int) bool { return !s.calm && odds > 0 && s.rng.IntN(1000) < odds }

// upTo draws a time.
func (s *sim) upTo(most time.Duration) time.Duration {
	return time.Duration(s.rng.Int64N(int64(most) + 1))
}

func (s *sim) between(least, most time.Duration) time.Duration { return least + s.upTo(most-least) }

// newKey makes a key; keys sort by age, as UUIDv7 do.
func (s *sim) newKey() string {
	s.keys++
	return fmt.Sprintf("01900000-0000-7000-8000-%012x", s.keys)
}

// drawOdds draws what goes wrong in this run. Each kind of trouble is there in half of the runs.
func (s *sim) drawOdds() {
	some := func(most int) int {
		if s.rng.IntN(2) == 0 {
			return 0
		}
		return 1 + s.rng.IntN(most)
	}
	s.odds = simOdds{
		crashTxn: some(15), lostAnswer: some(40), unavailable: some(40), slow: some(40), stop: some(12), crashPublish: some(15),
		drop: some(150), double: some(200), delay: some(200), late: some(60), resurrect: some(150),
		refuse: some(150), deny: some(60), lose: some(80), hang: some(20), broken: some(40), sluggish: some(100), block: some(100),
		kill: some(300), pause: some(300), give: some(300), dedup: s.rng.IntN(2) == 0, people: some(400),
	}
}

// simFaultLog makes what the engine tells as an error a violation: all such lines say that something is not as it must be.
type simFaultLog struct{ sim *sim }

// Enabled implements slog.Handler.
func (l simFaultLog) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelError
}

// Handle implements slog.Handler.
func (l simFaultLog) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	})
	l.sim.violate("an error is told: %s%s", r.Message, b.String())
	return nil
}

// WithAttrs implements slog.Handler.
func (l simFaultLog) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup implements slog.Handler.
func (l simFaultLog) WithGroup(string) slog.Handler { return l }

// newSim makes a run.
func newSim(seed uint64, kinds *resource.Registry, mutant simMutant, keep bool) *sim {
	s := &sim{
		seed: seed, rng: rand.New(rand.NewPCG(seed, 0x5765667453696d)), mutant: mutant, now: simStart, hash: fnv.New64a(), keep: keep,
		kinds: kinds, store: memstore.New(), holds: map[string]bool{}, counts: simCounts{ends: map[string]int{}},
	}
	s.drawOdds()
	switch { // what shows at some moments only is given more of them
	case mutant.blindQuery:
		s.odds.kill, s.odds.give, s.odds.late = 800, 800, 100
	case mutant.noFence:
		s.odds.pause, s.odds.stop = 800, 15
	}
	s.monitor = newSimMonitor(s)
	s.bus = &simBus{sim: s, seen: map[string]time.Time{}, events: map[string]string{}}
	s.cloud = newSimCloud(s)
	for _, name := range []string{"network", "storage", "compute"} {
		s.services = append(s.services, newSimService(s, name))
	}
	s.makeStacks()
	for i := range 3 {
		s.replicas = append(s.replicas, newSimReplica(s, i))
	}
	for _, shard := range s.shards {
		s.after(s.upTo(time.Second), nil, func() { s.assign(shard) })
	}
	s.after(time.Second, nil, s.weather)
	return s
}

// The bounds of the phases, in virtual time.
const (
	chaosLimit   = 40 * time.Minute
	calmLimit    = 4 * time.Hour
	lastMessages = 62 * time.Minute
)

// run runs all phases.
func (s *sim) run() {
	s.until(s.now.Add(chaosLimit), s.served)
	s.note("calm")
	s.soothe()
	s.until(s.now.Add(calmLimit), s.idle)
	s.checkRest("when all is calm")
	s.note("destroy")
	for _, st := range s.stacks {
		st.destroy = true
		st.again(s.upTo(time.Second))
	}
	s.until(s.now.Add(calmLimit), func() bool { return s.idle() && s.destroyed() })
	s.note("the hour")
	for _, r := range s.replicas { // what the owners of shards could not clean up the next ones do
		s.after(s.upTo(time.Minute), r.process, r.give)
	}
	s.until(s.now.Add(lastMessages), nil)
	s.checkRest("in the end")
	s.checkGone()
	for _, r := range s.replicas {
		s.counts.fenced += int(r.engine.Stats().Fenced)
	}
}

// weather has something go wrong now and then.
func (s *sim) weather() {
	if s.calm {
		return
	}
	r := s.replicas[s.rng.IntN(len(s.replicas))]
	if s.chance(s.odds.kill) && r.process.up() {
		r.process.kill("killed")
	}
	r = s.replicas[s.rng.IntN(len(s.replicas))]
	if s.chance(s.odds.pause) && r.process.up() {
		r.pause(s.between(100*time.Millisecond, 20*time.Second))
	}
	r = s.replicas[s.rng.IntN(len(s.replicas))]
	if s.chance(s.odds.give) && r.process.up() {
		r.give()
	}
	v := s.services[s.rng.IntN(len(s.services))]
	if s.chance(s.odds.kill) && v.process.up() {
		v.process.kill("killed")
	}
	s.after(s.between(time.Second, 40*time.Second), nil, s.weather)
}

// soothe ends all trouble but what is under way.
func (s *sim) soothe() {
	s.calm = true
	if len(s.holds) > 0 {
		clear(s.holds)
		s.holdEverywhere()
	}
	s.cloud.mend()
	for _, st := range s.stacks {
		st.again(s.upTo(time.Second))
	}
}
