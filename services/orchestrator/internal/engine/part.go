package engine

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/saga"
	"github.com/weftcloud/weft/pkg/store"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

var prefix = record.Prefix("orchestrator")

func hotPrefix(shard int) string             { return prefix + "s/" + strconv.Itoa(shard) + "/" }
func sagaPrefix(shard int, n string) string  { return hotPrefix(shard) + n + "/" }
func stateKey(shard int, name string) string { return sagaPrefix(shard, name) + "state" }
func planKey(name string) string             { return prefix + "p/" + name }
func summaryKey(name string) string          { return prefix + "f/" + name }
func stackKey(name string) string            { return prefix + "k/" + name }

func outKey(shard int, name string, n int) string {
	s := strconv.Itoa(n)
	return sagaPrefix(shard, name) + "out/" + strings.Repeat("0", max(0, 5-len(s))) + s
}

const (
	// takeOverAtOnce bounds how many sagas are taken over at the same time.
	takeOverAtOnce = 32
	// deleteAtOnce is how many keys one transaction deletes.
	deleteAtOnce = 100
	// firstPause and longestPause bound the waits between tries to take over; they double.
	firstPause   = 50 * time.Millisecond
	longestPause = 2 * time.Second
)

// errFenced ends the ownership of a shard: the store says that another has it.
var errFenced = errors.New("another owns the shard")

// part is one shard that this process owns.
type part struct {
	*Engine
	owner Owner
	ctx   context.Context // ends with the ownership
	lose  context.CancelCauseFunc

	working sync.WaitGroup // of those who work on a saga, and of cleaners

	mu    sync.Mutex
	runs  map[string]*run
	early []*busv1.Outcome // that came before the sagas were read
	ready bool
	over  bool // nothing is begun any more
}

// Own runs the sagas of a shard until ctx ends, or until the store says that another owns it.
func (e *Engine) Own(ctx context.Context, owner Owner) error {
	ctx, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	p := &part{Engine: e, owner: owner, ctx: ctx, lose: lose, runs: map[string]*run{}}
	e.mu.Lock()
	e.parts[owner.Shard()] = p
	e.mu.Unlock()
	p.takeOver()
	<-ctx.Done()
	e.mu.Lock()
	if e.parts[owner.Shard()] == p {
		delete(e.parts, owner.Shard())
	}
	e.change()
	e.mu.Unlock()
	p.stop()
	if cause := context.Cause(ctx); errors.Is(cause, errFenced) {
		return fault.New(fault.Conflict, "shard %d: %s", owner.Shard(), cause)
	}
	return nil
}

// stop ends all work, and waits until it has ended.
func (p *part) stop() {
	p.mu.Lock()
	p.over = true
	p.mu.Unlock()
	for _, r := range p.all() {
		r.disarm()
	}
	p.working.Wait()
}

func (p *part) isReady() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ready && !p.over
}

// find gives an unfinished saga; nil if there is none.
func (p *part) find(name string) *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.runs[name]
}

func (p *part) all() []*run {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*run, 0, len(p.runs))
	for _, r := range p.runs {
		out = append(out, r)
	}
	return out
}

func (p *part) add(r *run) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.runs[r.name] = r
}

func (p *part) drop(r *run) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.runs[r.name] == r {
		delete(p.runs, r.name)
	}
}

// outcome takes an outcome, or keeps it until the sagas have been read.
func (p *part) outcome(o *busv1.Outcome) {
	p.mu.Lock()
	r := p.runs[o.GetOrigin().GetSaga()]
	if r == nil && !p.ready {
		p.early = append(p.early, o)
	}
	p.mu.Unlock()
	if r != nil {
		p.post(r, posted{event: saga.OutcomeReceived{Outcome: o}})
	}
}

// takeOver reads every unfinished saga of the shard and has each look at where it stands, until that works.
func (p *part) takeOver() {
	for wait := firstPause; p.ctx.Err() == nil; wait = min(2*wait, longestPause) {
		runs, leftovers, err := p.read()
		if err == nil {
			p.begun(runs)
			p.clean(leftovers)
			return
		}
		p.Logger.Warn("take over a shard", "shard", p.owner.Shard(), "error", err, "again_in", wait)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-p.ctx.Done():
		}
		timer.Stop()
	}
}

// begun takes what was read as the sagas of the shard.
func (p *part) begun(runs []*run) {
	p.mu.Lock()
	for _, r := range runs {
		p.runs[r.name] = r
	}
	early := p.early
	p.early, p.ready = nil, true
	p.mu.Unlock()
	p.Engine.mu.Lock()
	p.change()
	held := p.held
	p.Engine.mu.Unlock()
	for _, r := range runs {
		p.post(r, posted{event: saga.CloudsHeld{Clouds: held}})
	}
	for _, o := range early {
		p.outcome(o)
	}
	if len(runs) > 0 {
		p.Logger.Info("sagas were taken over", "shard", p.owner.Shard(), "sagas", len(runs))
	}
	p.Outbox.Recover()
}

// read reads the unfinished sagas of the shard, and the keys that sagas which have ended left behind.
func (p *part) read() (runs []*run, leftovers []string, err error) {
	page, err := p.Store.List(p.ctx, hotPrefix(p.owner.Shard()), store.ListOptions{})
	if err != nil {
		return nil, nil, fault.Wrap(err, "list the sagas of shard %d", p.owner.Shard())
	}
	byName := map[string][]store.Entry{}
	for _, entry := range page.Entries {
		name, _ := splitKey(strings.TrimPrefix(entry.Key, hotPrefix(p.owner.Shard())))
		byName[name] = append(byName[name], entry)
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(p.ctx)
	g.SetLimit(takeOverAtOnce)
	for name, entries := range byName {
		g.Go(func() error {
			r, err := p.decode(ctx, name, entries)
			if fault.Is(err, fault.Unavailable) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil: // it waits for a person, and holds up no other
				p.Logger.Error("a saga cannot be taken over; it needs a hand", "operation", name, "error", err)
				p.count(func(s *Stats) { s.Unreadable++ })
			case r == nil:
				for _, entry := range entries {
					leftovers = append(leftovers, entry.Key)
				}
			default:
				runs = append(runs, r)
			}
			return nil
		})
	}
	return runs, leftovers, g.Wait()
}

// decode makes the run of a saga that was kept; nil if only leftovers of it are.
func (p *part) decode(ctx context.Context, name string, entries []store.Entry) (*run, error) {
	r := newRun(p, name)
	r.resuming = true
	for _, entry := range entries {
		var err error
		switch _, what := splitKey(strings.TrimPrefix(entry.Key, hotPrefix(p.owner.Shard()))); {
		case what == "state":
			r.state, r.revision = &orchestratorv1.SagaState{}, entry.ModRevision
			err = proto.Unmarshal(entry.Value, r.state)
		case strings.HasPrefix(what, "out/"):
			err = r.decodeOutput(strings.TrimPrefix(what, "out/"), entry.Value)
		}
		if err != nil {
			return nil, fault.As(fault.Internal, fault.Wrap(err, "decode %s", entry.Key))
		}
	}
	if r.state == nil {
		return nil, nil
	}
	planned, err := p.readPlan(ctx, name)
	if err != nil {
		return nil, err
	}
	return r, r.prepare(planned)
}

func (r *run) decodeOutput(number string, value []byte) error {
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	packed := &anypb.Any{}
	if err := proto.Unmarshal(value, packed); err != nil {
		return err
	}
	r.observed[n], err = packed.UnmarshalNew()
	return err
}

// splitKey parts a saga's key, below its shard, into the operation's name and what is kept there.
func splitKey(key string) (name, what string) {
	if n, ok := strings.CutSuffix(key, "/state"); ok {
		return n, "state"
	}
	if i := strings.LastIndex(key, "/out/"); i > 0 {
		return key[:i], key[i+1:]
	}
	return key, ""
}

// readPlan reads the plan of an unfinished saga.
func (e *Engine) readPlan(ctx context.Context, name string) (*orchestratorv1.SagaPlan, error) {
	entry, err := e.Store.Get(ctx, planKey(name))
	if err != nil {
		return nil, fault.Wrap(err, "read the plan of %s", name)
	}
	out := &orchestratorv1.SagaPlan{}
	if err := proto.Unmarshal(entry.Value, out); err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "decode the plan of %s", name))
	}
	return out, nil
}

// clean deletes keys that nobody needs any more. What it cannot delete the next owner does.
func (p *part) clean(keys []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over || len(keys) == 0 {
		return
	}
	p.working.Go(func() {
		for len(keys) > 0 {
			n := min(len(keys), deleteAtOnce)
			ops := make([]store.Op, n)
			for i, key := range keys[:n] {
				ops[i] = store.Op{Key: key, Delete: true}
			}
			if _, err := p.Store.Txn(p.ctx, []store.Compare{p.owner.Fence()}, ops); err != nil {
				if p.ctx.Err() == nil {
					p.Logger.Info("clean up after sagas; the next owner will", "shard", p.owner.Shard(), "error", err)
				}
				return
			}
			keys = keys[n:]
		}
	})
}

// fenced looks, after a transaction was refused, whether that was because another owns the shard. If so all work on the
// shard ends.
func (p *part) fenced() {
	fence := p.owner.Fence()
	entry, err := p.Store.Get(p.ctx, fence.Key)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return
	}
	if err == nil && entry.CreateRevision == fence.CreateRevision {
		return
	}
	p.count(func(s *Stats) { s.Fenced++ })
	p.lose(errFenced)
}
