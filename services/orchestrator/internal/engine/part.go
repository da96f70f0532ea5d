package engine

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

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
	// lastWord is how long a transaction that is on its way when the ownership ends is waited for.
	lastWord = 2 * time.Second
)

// errFenced ends the ownership of a shard: the store says that another has it.
var errFenced = errors.New("another owns the shard")

// part is one shard that this process owns.
type part struct {
	*Engine
	owner Owner
	ctx   context.Context // ends with the ownership
	lose  context.CancelCauseFunc
	// writing is for transitions: it outlives the ownership by lastWord, so that what is on its way is answered for. That
	// is safe, since the fence refuses it if another owns the shard by then, and is told as that (Stats.Fenced).
	writing context.Context

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
	leave := e.take(ctx, lose, owner)
	<-ctx.Done()
	leave()
	if cause := context.Cause(ctx); errors.Is(cause, errFenced) {
		return fault.New(fault.Conflict, "shard %d: %s", owner.Shard(), cause)
	}
	return nil
}

// take begins to run the sagas of a shard. leave ends all work and returns when it has ended; ctx must have ended.
func (e *Engine) take(ctx context.Context, lose context.CancelCauseFunc, owner Owner) (leave func()) {
	writing, cut := context.WithCancel(context.WithoutCancel(ctx))
	p := &part{Engine: e, owner: owner, ctx: ctx, lose: lose, writing: writing, runs: map[string]*run{}}
	e.mu.Lock()
	e.parts[owner.Shard()] = p
	e.mu.Unlock()
	p.takeOver(firstPause)
	return func() {
		e.mu.Lock()
		if e.parts[owner.Shard()] == p {
			delete(e.parts, owner.Shard())
		}
		e.change()
		e.mu.Unlock()
		late := e.After(lastWord, cut)
		p.stop()
		late()
		cut()
	}
}

// stop ends all work, and waits until it has ended.
func (p *part) stop() {
	p.mu.Lock()
	p.over = true
	p.mu.Unlock()
	for _, r := range p.all() {
		r.mu.Lock()
		r.disarm()
		r.mu.Unlock()
	}
	p.working.Wait()
}

// spawn does something beside what is under way; false, and it is not done, if the shard is being given up.
func (p *part) spawn(do func()) bool {
	p.mu.Lock()
	if p.over {
		p.mu.Unlock()
		return false
	}
	p.working.Add(1)
	p.mu.Unlock()
	p.Go(func() {
		defer p.working.Done()
		do()
	})
	return true
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
	for _, name := range slices.Sorted(maps.Keys(p.runs)) {
		out = append(out, p.runs[name])
	}
	return out
}

// add adds a saga; false if there is one of the name.
func (p *part) add(r *run) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.runs[r.name] != nil {
		return false
	}
	p.runs[r.name] = r
	return true
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

// takeOver reads every unfinished saga of the shard and has each look at where it stands. If that does not work it is
// tried again after a pause.
func (p *part) takeOver(pause time.Duration) {
	runs, leftovers, err := p.read()
	if err == nil {
		p.begun(runs)
		p.clean(leftovers)
		return
	}
	if p.ctx.Err() != nil {
		return
	}
	p.Logger.Warn("take over a shard", "shard", p.owner.Shard(), "error", err, "again_in", pause)
	p.After(pause, func() {
		p.spawn(func() { p.takeOver(min(2*pause, longestPause)) })
	})
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
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		r, err := p.decode(p.ctx, name, byName[name])
		switch {
		case fault.Is(err, fault.Unavailable):
			return nil, nil, err
		case err != nil: // it waits for a person, and holds up no other
			p.Logger.Error("a saga cannot be taken over; it needs a hand", "operation", name, "error", err)
			p.count(func(s *Stats) { s.Unreadable++ })
		case r == nil:
			for _, entry := range byName[name] {
				leftovers = append(leftovers, entry.Key)
			}
		default:
			runs = append(runs, r)
		}
	}
	return runs, leftovers, nil
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
	if len(keys) == 0 {
		return
	}
	slices.Sort(keys)
	p.spawn(func() {
		for chunk := range slices.Chunk(keys, deleteAtOnce) {
			ops := make([]store.Op, len(chunk))
			for i, key := range chunk {
				ops[i] = store.Op{Key: key, Delete: true}
			}
			if _, err := p.Store.Txn(p.ctx, []store.Compare{p.owner.Fence()}, ops); err != nil {
				if p.ctx.Err() == nil {
					p.Logger.Info("clean up after sagas; the next owner will", "shard", p.owner.Shard(), "error", err)
				}
				return
			}
		}
	})
}

// fenced looks, after a transaction was refused, whether that was because another owns the shard. If so all work on the
// shard ends.
func (p *part) fenced() {
	fence := p.owner.Fence()
	entry, err := p.Store.Get(p.writing, fence.Key)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return
	}
	if err == nil && entry.CreateRevision == fence.CreateRevision {
		return
	}
	p.count(func(s *Stats) { s.Fenced++ })
	p.lose(errFenced)
}
