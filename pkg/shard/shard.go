// Package shard spreads shards of work over the live replicas of a service, so that each shard has at most one owner.
//
// # Protocol
//
// Background. A replica holds one lease (package lease). Under it stand its member key, <prefix>members/<replica>, and
// the key of every shard that it owns, <prefix>owners/<shard>. Both have the replica's name and address as their value.
// Every replica watches all of them, and knows from the members alone who ought to own what (assign): no replica tells
// another what to do.
//
// The states of a shard, as its key in the store has it, and who moves it:
//
//	nobody's ──take──▶ owned by r ──give──▶ nobody's
//	                        │
//	                        └──the lease of r ends──▶ nobody's
//
//	take  only by the replica that ought to own it. Compares: the key is absent, and the member key is still the one that
//	      the replica joined with.
//	give  only by r, after its own function has returned: r ought not to own it any more, or the function returned by
//	      itself. Compares: the key is still the one that r made.
//
// The states of a shard within its owner: running (the own function runs), stopping (its context has ended), idle (it
// has returned; the key is to be deleted). A shard that becomes the replica's again while stopping is given up and taken
// anew all the same: an own function always begins with an epoch of its own.
//
// The states of a replica: joining (it waits until no key has its name: a former process of that name may still have
// one), member, leaving (Run's context has ended), lost (the lease has, or may have). A leaving replica deletes its
// member key first, so that the others plan without it and are ready for each shard as its own function ends; it keeps
// its lease alive until the last has. A lost one ends all contexts at once, waits for the own functions, and joins again
// under a new lease. It joins no sooner, whatever the store says, since a function that is still at work has no owner
// key to be fenced by.
//
// Safety is the fence: the creation revision of the owner key, compared in every transaction of the owner (Owned.Fence).
// Beyond that no two own functions whose contexts live overlap: a replica that hears nothing from the store ends them
// two thirds of the time to live after it last asked what was answered, and nobody can take the shards before it is over.
//
// What happens on a crash. The keys of the replica vanish with its lease, all at one revision; the others see that its
// member key is gone and take what is theirs now. After a transaction of which the answer was lost it is not known what
// is owned: the replica lists the keys again, and takes an owner key with its name that is younger than its member key
// for what it is, its own. Nothing else is kept in memory that the store would not tell.
//
// All replicas of a service must have the same number of shards and the same assign.
package shard

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/lease"
	"github.com/weftcloud/weft/pkg/store"
)

// Config says what is spread, and who takes part.
type Config struct {
	// Store keeps the members and the owners.
	Store store.Store
	// Prefix is where they are kept, ending in a slash: below Prefix+"members/" and Prefix+"owners/".
	Prefix string
	// Replica is the name of this process, without a slash. A second process of the same name waits until the first has left.
	Replica string
	// Address is where other replicas reach this one; they are told by Owner. It may be empty.
	Address string
	// Count is the number of shards; the same in all replicas.
	Count int
	// TTL is how long a replica's shards outlive its last word; 0 means lease.DefaultTTL.
	TTL time.Duration
	// Logger gets what goes wrong and who joins and leaves; nil means none.
	Logger *slog.Logger
	// Fenced is called when the store refused to hand over or take shards because the ownership, or the membership, had
	// been lost. It must not block. It may be nil.
	Fenced func()
}

// check finds what is wrong with the configuration.
func (c Config) check() error {
	switch {
	case c.Store == nil:
		return fault.InField("Store", "a store is needed to spread shards")
	case !strings.HasSuffix(c.Prefix, "/"):
		return fault.InField("Prefix", "the prefix %q of the shards must end in a slash", c.Prefix)
	case c.Replica == "" || strings.Contains(c.Replica, "/"):
		return fault.InField("Replica", "the replica's name is %q; it must be one that no other has, without a slash", c.Replica)
	case c.Count <= 0:
		return fault.InField("Count", "the number of shards is %d; it must be positive", c.Count)
	}
	return nil
}

// Owned is the ownership of one shard by this process.
type Owned struct {
	shard int
	key   string
	epoch int64
	live  func() bool
}

// Shard is the number of the shard, from 0.
func (o *Owned) Shard() int { return o.shard }

// Fence is the condition that every transaction of the owner carries.
func (o *Owned) Fence() store.Compare { return store.Compare{Key: o.key, CreateRevision: o.epoch} }

// Epoch numbers the owners of the shard; a later one has a greater. Shards that were taken together have the same.
func (o *Owned) Epoch() int64 { return o.epoch }

// Live tells by the clock alone whether the ownership still lasts: false once nobody was heard from for so long that it may
// be over. Ask it, beside the context, right before what must not be done by two: in a process that was stopped for a
// while the context may end a moment after other work has gone on.
func (o *Owned) Live() bool { return o.live() }

// Own is what a replica does with a shard that it owns, until ctx ends.
type Own = func(ctx context.Context, o *Owned) error

// The times that the protocol needs beside the time to live.
const (
	// bar is how long a shard is left alone after its own function returned by itself.
	bar = time.Second
	// gather is how long a shard that can be given waits for others, so that they go in one transaction.
	gather = time.Millisecond
	// firstPause and longestPause bound the waits between tries of what the store refused; they double.
	firstPause   = 5 * time.Millisecond
	longestPause = 500 * time.Millisecond
)

// Spread is one replica's part.
type Spread struct {
	config Config
	view   *view
	wake   chan struct{} // holds one token: there is something to look at
}

// New makes one replica's part. It does nothing before Run.
func New(c Config) *Spread {
	if c.TTL <= 0 {
		c.TTL = lease.DefaultTTL
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Fenced == nil {
		c.Fenced = func() {}
	}
	c.Logger = c.Logger.With("replica", c.Replica, "prefix", c.Prefix)
	s := &Spread{config: c, wake: make(chan struct{}, 1)}
	s.view = newView(s.poke)
	return s
}

// Owner tells who owns a shard, as last seen; found is false while nobody does. It is true only of the past: the owner
// itself finds out by its fence.
func (s *Spread) Owner(shard int) (replica, address string, found bool) {
	s.view.mu.Lock()
	defer s.view.mu.Unlock()
	r, ok := s.view.owners.get(shard)
	return r.replica, r.address, ok
}

// Changed gives a channel that is closed at the next change of what Owner tells. Take it before asking Owner.
func (s *Spread) Changed() <-chan struct{} {
	s.view.mu.Lock()
	defer s.view.mu.Unlock()
	return s.view.changed
}

// poke has whoever waits look again.
func (s *Spread) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run takes part until ctx ends. own is called in a goroutine of its own for each shard that this replica comes to own.
// Its context ends when the shard must be given up, when the lease is lost, or when ctx ends; it must return soon then,
// and the shard goes to the next owner once it has. If it returns while its context lives the shard is given up, and not
// taken again by this replica for a second.
//
// Run returns after the last own function has, and has given up all shards; nil, unless the configuration is wrong
// (Invalid). A store that fails is tried again and again. It must not run twice at once.
func (s *Spread) Run(ctx context.Context, own Own) error {
	if err := s.config.check(); err != nil {
		return fault.Wrap(err, "spread shards")
	}
	var following sync.WaitGroup
	defer following.Wait()
	// What others do is followed to the very end: while leaving, too, it must be known what is still owned.
	follow, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	following.Go(func() { s.follow(follow, s.members(), s.view.loadMembers, s.view.applyMembers) })
	following.Go(func() { s.follow(follow, s.owners(), s.view.loadOwners, s.view.applyOwners) })

	defer context.AfterFunc(ctx, s.poke)()
	if !s.await(ctx, s.view.known) {
		return nil
	}
	tries := pause{}
	for ctx.Err() == nil {
		joined, err := s.session(ctx, own)
		if err != nil && ctx.Err() == nil {
			s.config.Logger.Warn("join the replicas", "error", err)
		}
		if joined {
			tries = pause{}
			continue
		}
		sleep(ctx, tries.next())
	}
	return nil
}

// members is the prefix of member keys.
func (s *Spread) members() string { return s.config.Prefix + "members/" }

// owners is the prefix of owner keys.
func (s *Spread) owners() string { return s.config.Prefix + "owners/" }

// await waits until something of the view is so; false if ctx ended first.
func (s *Spread) await(ctx context.Context, so func() bool) bool {
	for !so() {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// follow keeps the view true to the keys below a prefix: it lists them, and watches from there on. When the watch ends it
// lists again, whatever the reason.
func (s *Spread) follow(ctx context.Context, prefix string, load func(store.Page) []error, apply func([]store.Event) []error) {
	tries := pause{}
	for ctx.Err() == nil {
		err := s.list(ctx, prefix, load)
		if err == nil {
			err = s.watch(ctx, prefix, apply, &tries)
		}
		if ctx.Err() != nil {
			return
		}
		s.config.Logger.Warn("follow the replicas", "error", err)
		sleep(ctx, tries.next())
	}
}

// list brings the view up to the present.
func (s *Spread) list(ctx context.Context, prefix string, load func(store.Page) []error) error {
	page, err := s.config.Store.List(ctx, prefix, store.ListOptions{})
	if err != nil {
		return fault.Wrap(err, "list %s", prefix)
	}
	s.complain(load(page))
	return nil
}

// watch brings every change into the view, from what it knows on, until the watch ends.
func (s *Spread) watch(ctx context.Context, prefix string, apply func([]store.Event) []error, tries *pause) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := s.config.Store.Watch(ctx, prefix, s.view.floor(prefix == s.members())+1)
	for batch := range w.Events() {
		*tries = pause{}
		s.complain(apply(batch))
	}
	return w.Err()
}

// complain logs keys that say nothing.
func (s *Spread) complain(errs []error) {
	for _, err := range errs {
		s.config.Logger.Warn("read who owns what", "error", err)
	}
}

// refresh lists everything once more, for whoever was refused because of an old view.
func (s *Spread) refresh(ctx context.Context) error {
	if err := s.list(ctx, s.members(), s.view.loadMembers); err != nil {
		return err
	}
	return s.list(ctx, s.owners(), s.view.loadOwners)
}

// pause gives waits that double.
type pause struct{ last time.Duration }

func (p *pause) next() time.Duration {
	p.last = min(max(p.last*2, firstPause), longestPause)
	return p.last
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
