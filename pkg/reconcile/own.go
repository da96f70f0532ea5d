package reconcile

// How replicas share the records of a service.
//
// Background. A record belongs to the shard that its key hashes to, and whoever owns the shard (see package shard) works
// on the record: no other replica calls a provider for it. Inbox and API write records in any replica.
//
// Who is woken. Each replica follows what is written below the records' prefix, from a revision on, and wakes the ids that
// it owns; of what it wrote itself it need not hear again. What was written before a shard became its own it finds with
// one list, for all shards that it came to own at about the same time. When the watch ends, for whatever reason, it takes
// a new revision and lists what it owns once more. A deletion that nobody tells is none to wait for: a record that is not
// there any more ends the work on it whenever it is read.
//
// Safety. Three things hold, each by itself, that no two replicas work on a record: all work ends before a shard is given
// away, and with the context; right before each call at a provider the clock is asked whether the ownership may be over;
// and each write compares the fence, so that a replica that went on all the same changes nothing.
//
// Handover. One thing goes on when the context has ended: a create that was sent, and the write of the id that it is
// answered with. A provider may be at work on a create for longer than the next owner looks for what it made, so one that is
// given up makes a second object. The shard is given away when the answer is there, or after handoverLimit. Nothing
// new is begun meanwhile. If the shard was lost rather than called for, another may work on the record already: then the
// write is refused, as its fence does not hold, and the other finds the object by its key. A process that ends waits no
// longer than its grace (package app); what is left then is as after a crash.
//
// What happens on a crash. The lease of the replica ends; the next owner of the shard lists what is not settled. The
// record says how far it had come.

import (
	"context"
	"errors"
	"hash/fnv"
	"math"
	"sync"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/store"
)

// Shards is how many shards the records of a service are spread over. All replicas must agree on it.
const Shards = 64

// ShardOf gives the shard of a record by its key.
func ShardOf(key string) int {
	h := fnv.New32a()
	h.Write([]byte(key)) // a hash never fails to be written to (package hash)
	return int(h.Sum32() % Shards)
}

// Ownership is what entitles a replica to work on the records of a shard; *shard.Owned is one.
type Ownership interface {
	// Shard is the number of the shard, from 0.
	Shard() int
	// Fence is compared with each write.
	Fence() store.Compare
	// Live tells by the clock whether it lasts. It MUST be false as soon as another may be entitled.
	Live() bool
}

// owned is a shard that this replica works on.
type owned struct {
	Ownership

	ctx   context.Context // ends with the ownership: the goroutines of tasks live as long
	end   context.CancelFunc
	limit context.Context // ends handoverLimit after ctx
	group sync.WaitGroup

	tasks map[record.ID]*task // guarded by the loop's lock
	fresh bool                // its records are to be loaded; guarded by the loop's lock
}

// fence gives the condition of the shard's writes.
func (o *owned) fence() *store.Compare {
	f := o.Fence()
	return &f
}

// errOver says that a record is not this replica's any more.
var errOver = errors.New("the ownership of the shard may be over")

// check tells whether the shard is still this replica's.
func (o *owned) check(ctx context.Context) error {
	if ctx.Err() != nil || !o.Live() {
		return fault.As(fault.Unavailable, errOver)
	}
	return nil
}

// handoverLimit is how long a shard that is to be given away waits for the answers to creates. It is what the clients of
// providers give one request at most.
const handoverLimit = time.Minute

// outlasting gives a context for what must not be cut by a handover, once it was begun; it ends with the handover's limit.
func (o *owned) outlasting(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(o.limit, cancel)
	return ctx, func() { stop(); cancel() }
}

// Own works on the records of a shard until ctx ends, and returns when the last goroutine that does has, handoverLimit
// later at most if a create is under way. It may return earlier, when a write told that the shard is not this replica's any more.
func (l *Loop) Own(ctx context.Context, by Ownership) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	limit, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	o := &owned{Ownership: by, ctx: ctx, end: end, limit: limit, tasks: map[record.ID]*task{}, fresh: true}
	l.mu.Lock()
	l.owned[by.Shard()] = o
	l.mu.Unlock()
	l.refresh()
	if by.Shard() == 0 { // what is needed once for all replicas
		o.group.Go(func() { l.sweep(ctx) })
	}
	<-ctx.Done()
	defer time.AfterFunc(handoverLimit, cut).Stop()
	l.mu.Lock()
	if l.owned[by.Shard()] == o {
		delete(l.owned, by.Shard())
	}
	for _, t := range o.tasks {
		if t.timer != nil {
			t.timer.Stop()
		}
	}
	l.mu.Unlock()
	o.group.Wait()
	return nil
}

// Shards tells how many shards are owned.
func (l *Loop) Shards() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.owned)
}

// refresh has the fresh shards loaded.
func (l *Loop) refresh() {
	select {
	case l.fresh <- struct{}{}:
	default:
	}
}

// The times of following.
const (
	// gather is how long a shard waits for others that come to be owned, so that one list serves all.
	gather = 5 * time.Millisecond
	// firstPause and longestPause bound the waits between tries when the store does not answer; they double.
	firstPause   = 20 * time.Millisecond
	longestPause = 2 * time.Second
)

// Run wakes what is owned and was written, in whatever replica, until ctx ends. It returns nil.
func (l *Loop) Run(ctx context.Context) error {
	var loading sync.WaitGroup
	defer loading.Wait()
	loading.Go(func() { l.load(ctx) })
	if l.ObserveEvery > 0 {
		loading.Go(func() { l.rounds(ctx) })
	}
	wait := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := l.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > longestPause {
			wait = firstPause
		}
		l.Logger.Warn("follow the records; it is tried again", "error", err)
		pause(ctx, wait)
		wait = min(2*wait, longestPause)
	}
	return nil
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// follow wakes what is written until the watch ends. All that is owned is loaded once: what was written before the
// revision from which it follows is not told.
func (l *Loop) follow(ctx context.Context) error {
	revision, err := l.Book.Revision(ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.watched = revision
	clear(l.written)
	for _, o := range l.owned {
		o.fresh = true
	}
	l.mu.Unlock()
	l.refresh()
	return l.Book.Follow(ctx, revision, l.changed)
}

// changed wakes what was written by whatever replica.
func (l *Loop) changed(changes []record.Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range changes {
		l.watched = max(l.watched, c.Revision)
		known := l.written[c.ID]
		if known <= c.Revision {
			delete(l.written, c.ID)
		}
		if known < c.Revision {
			l.wake(c.ID, c.Revision)
			l.wakeWhole(c.ID)
		}
	}
}

// wakeWhole wakes the record that another is a part of, for who holds the lock.
func (l *Loop) wakeWhole(part record.ID) {
	if whole, ok := l.wholes[part]; ok {
		l.wake(whole, math.MaxInt64)
	}
}

// Changed wakes what this replica itself wrote: sooner than the store can tell, which is not heard then. It does not block.
func (l *Loop) Changed(c record.Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.Revision <= l.watched {
		return // the store was sooner
	}
	l.wakeWhole(c.ID)
	if l.owned[ShardOf(c.Key)] == nil {
		return
	}
	l.written[c.ID] = max(l.written[c.ID], c.Revision)
	l.wake(c.ID, c.Revision)
}

// load wakes the records of fresh shards that are not where they should be, until ctx ends.
func (l *Loop) load(ctx context.Context) {
	wait := firstPause
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.fresh:
		}
		pause(ctx, gather)
		fresh := l.take()
		if len(fresh) == 0 {
			continue
		}
		l.Taken()
		err := l.find(ctx, fresh)
		if err == nil {
			wait = firstPause
			continue
		}
		if ctx.Err() != nil {
			return
		}
		l.Logger.Warn("load the records; it is tried again", "error", err)
		pause(ctx, wait)
		wait = min(2*wait, longestPause)
		l.putBack(fresh)
	}
}

// take gives the fresh shards, which are not fresh then.
func (l *Loop) take() map[int]*owned {
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh := map[int]*owned{}
	for i, o := range l.owned {
		if o.fresh {
			o.fresh, fresh[i] = false, o
		}
	}
	return fresh
}

// putBack makes shards fresh again.
func (l *Loop) putBack(fresh map[int]*owned) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range fresh {
		o.fresh = true
	}
	l.refresh()
}

// find lists all records, and wakes those of the shards that are not settled, or follow others.
func (l *Loop) find(ctx context.Context, shards map[int]*owned) error {
	after := record.ID{}
	for {
		entries, more, err := l.Book.List(ctx, "", after, 500)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if shards[ShardOf(e.Key)] != nil && (!l.settled(e) || follows(e)) {
				l.Wake(e.ID)
			}
			after = e.ID
		}
		if !more {
			return nil
		}
	}
}
