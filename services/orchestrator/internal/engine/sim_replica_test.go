package engine

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/saga"
	"github.com/weftcloud/weft/pkg/store"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
)

// simTTL is how long the shards of a replica outlive its last word.
const simTTL = 5 * time.Second

// simReplica is one orchestrator; a restart gives it a new process.
type simReplica struct {
	sim     *sim
	slot    int
	life    int
	process *simProcess
	engine  *Engine
	parts   map[int]*simPart
}

// simPart is a shard that a replica has.
type simPart struct {
	owner  simOwner
	cancel context.CancelCauseFunc
	leave  func() // nil while it is being taken
}

// simOwner is the right to a shard.
type simOwner struct {
	shard int
	epoch int64
}

func (o simOwner) Shard() int   { return o.shard }
func (o simOwner) Epoch() int64 { return o.epoch }
func (o simOwner) Fence() store.Compare {
	return store.Compare{Key: simOwnerKey(o.shard), CreateRevision: o.epoch}
}

func newSimReplica(s *sim, slot int) *simReplica {
	r := &simReplica{sim: s, slot: slot}
	r.start()
	return r
}

// start starts a process.
func (r *simReplica) start() {
	s := r.sim
	if r.engine != nil {
		s.counts.fenced += int(r.engine.Stats().Fenced)
	}
	r.life++
	p := &simProcess{sim: s, name: fmt.Sprintf("o%d.%d", r.slot, r.life)}
	p.died = func() { r.died(p) }
	v := &simStore{sim: s, process: p}
	box := newSimOutbox(s, p, v, prefix+"so/")
	r.process, r.parts = p, map[int]*simPart{}
	r.engine = New(Config{
		Store: v, Outbox: box, Quotas: s.quotas(), Kinds: s.kinds, Querier: simQuerier{s}, Logger: slog.New(simFaultLog{s}), Now: func() time.Time { return s.now },
		Go: func(do func()) { do() },
		After: func(wait time.Duration, do func()) func() bool {
			ev := s.after(wait+s.upTo(time.Millisecond), p, do)
			return func() bool {
				stopped := !ev.over
				ev.over = true
				return stopped
			}
		},
	})
	r.engine.Hold(slices.Sorted(maps.Keys(s.holds)))
	box.Recover()
	s.after(s.upTo(sweepOutbox), p, box.sweep)
	s.note("%s starts", p.name)
}

// died ends the leases of a process that crashed, and starts another in a while.
func (r *simReplica) died(p *simProcess) {
	s := r.sim
	end := s.upTo(simTTL)
	if s.rng.IntN(3) == 0 {
		end = 0
	}
	shards := slices.Sorted(maps.Keys(r.parts))
	epochs := map[int]int64{}
	for _, shard := range shards {
		epochs[shard] = r.parts[shard].owner.epoch
	}
	s.after(end, nil, func() {
		for _, shard := range shards {
			s.disown(shard, epochs[shard])
		}
	})
	s.after(end+s.upTo(20*time.Second), nil, r.start)
}

// pause has a replica stand still.
func (r *simReplica) pause(wait time.Duration) {
	r.sim.note("%s stands still for %s", r.process.name, wait)
	r.process.freeze(wait)
}

// stopped ends the lease of a replica that stands still for too long. When it wakes it finds out, a little later.
func (r *simReplica) stopped(wait time.Duration) {
	s := r.sim
	rest := simTTL - s.upTo(simTTL/3)
	if wait <= rest {
		return
	}
	p := r.process
	epochs := map[int]int64{}
	shards := slices.Sorted(maps.Keys(r.parts))
	for _, shard := range shards {
		epochs[shard] = r.parts[shard].owner.epoch
	}
	s.after(rest, nil, func() {
		for _, shard := range shards {
			s.disown(shard, epochs[shard])
		}
	})
	s.after(wait+s.upTo(500*time.Millisecond), p, func() {
		for _, shard := range shards {
			if part := r.parts[shard]; part != nil && part.owner.epoch == epochs[shard] {
				r.drop(part, nil)
			}
		}
	})
}

// give has a replica give its shards away, as when another has joined.
func (r *simReplica) give() {
	s := r.sim
	for _, shard := range slices.Sorted(maps.Keys(r.parts)) {
		part := r.parts[shard]
		s.note("%s gives shard %d away", r.process.name, shard)
		s.after(0, r.process, func() { r.drop(part, func() { s.disown(shard, part.owner.epoch) }) })
	}
}

// disown deletes an owner's key, and has the shard found another owner.
func (s *sim) disown(shard int, epoch int64) {
	e, err := s.store.Get(context.Background(), simOwnerKey(shard))
	if err != nil || e.CreateRevision != epoch {
		return
	}
	if _, err := s.store.Txn(context.Background(), nil, []store.Op{{Key: e.Key, Delete: true}}); err != nil {
		panic(err)
	}
	s.note("shard %d is nobody's", shard)
	s.after(s.upTo(100*time.Millisecond), nil, func() { s.assign(shard) })
}

// assign gives a shard that nobody owns to a replica that is up and has let go of it before.
func (s *sim) assign(shard int) {
	if _, err := s.store.Get(context.Background(), simOwnerKey(shard)); err == nil {
		return
	}
	var able []*simReplica
	for _, r := range s.replicas {
		if r.process.up() && r.parts[shard] == nil {
			able = append(able, r)
		}
	}
	if len(able) == 0 {
		s.after(200*time.Millisecond, nil, func() { s.assign(shard) })
		return
	}
	r := able[s.rng.IntN(len(able))]
	epoch, err := s.store.Txn(context.Background(), nil, []store.Op{{Key: simOwnerKey(shard), Value: []byte(r.process.name)}})
	if err != nil {
		panic(err)
	}
	s.counts.takeovers++
	s.note("%s owns shard %d, epoch %d", r.process.name, shard, epoch)
	part := &simPart{owner: simOwner{shard, epoch}}
	r.parts[shard] = part
	s.after(s.upTo(5*time.Millisecond), r.process, func() { r.own(part) })
}

// own begins to run the sagas of a shard.
func (r *simReplica) own(part *simPart) {
	ctx, cancel := context.WithCancelCause(context.Background())
	part.cancel = cancel
	lose := func(cause error) {
		cancel(cause)
		r.sim.after(r.sim.upTo(10*time.Millisecond), r.process, func() { r.drop(part, func() { r.sim.disown(part.owner.shard, part.owner.epoch) }) })
	}
	part.leave = r.engine.take(ctx, lose, part.owner)
}

// drop ends the work on a shard, as soon as none of it is on the stack.
func (r *simReplica) drop(part *simPart, then func()) {
	if part.cancel != nil {
		part.cancel(nil)
	}
	if part.leave == nil || r.process.busy > 1 {
		r.sim.after(5*time.Millisecond, r.process, func() { r.drop(part, then) })
		return
	}
	if r.parts[part.owner.shard] == part {
		part.leave()
		delete(r.parts, part.owner.shard)
		r.sim.note("%s has left shard %d", r.process.name, part.owner.shard)
	}
	if then != nil {
		then()
	}
}

// holdEverywhere tells all replicas which clouds are held.
func (s *sim) holdEverywhere() {
	held := slices.Sorted(maps.Keys(s.holds))
	s.note("held: %v", held)
	for _, r := range s.replicas {
		s.after(s.upTo(20*time.Millisecond), r.process, func() { r.engine.Hold(slices.Sorted(maps.Keys(s.holds))) })
	}
}

// ownerOf gives the replica that runs a shard and answers; nil if there is none.
func (s *sim) ownerOf(shard int) *simReplica {
	for _, r := range s.replicas {
		if own, _ := r.engine.Owns(shard); own && r.process.up() {
			return r
		}
	}
	return nil
}

// act is Engine.Act, but for a saga that is being worked on further down the stack: there the answer would never come.
func (r *simReplica) act(stack, name string, event saga.Event) error {
	p, err := r.engine.part(stack)
	if err != nil {
		return err
	}
	if run := p.find(name); run != nil {
		run.mu.Lock()
		busy := run.busy
		run.mu.Unlock()
		if busy {
			return fault.New(fault.Unavailable, "it is being worked on")
		}
	}
	return r.engine.Act(context.Background(), stack, name, event)
}

// simQuerier asks participants.
type simQuerier struct{ sim *sim }

// Query implements Querier.
func (q simQuerier) Query(_ context.Context, kind *resource.Kind, origin *busv1.Origin, name, key string) (o *busv1.Outcome, err error) {
	s := q.sim
	v := s.service(kind.Service)
	if !v.process.up() || s.chance(s.odds.unavailable) {
		return nil, fault.New(fault.Unavailable, "%s does not answer", v.name)
	}
	if !v.process.enter(func() { o, err = v.query(origin, name, key) }) {
		return nil, fault.New(fault.Unavailable, "%s crashed", v.name)
	}
	s.note("asked for %s of %s: %s %s", key, origin.GetSaga(), o.GetResult(), fault.KindOf(err))
	return o, err
}
