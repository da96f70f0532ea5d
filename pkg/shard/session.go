package shard

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/lease"
	"github.com/weftcloud/weft/pkg/store"
)

// session is a replica's membership, from a lease to its end. One goroutine looks at the view and decides (loop); own
// functions, transactions, the lease and the watches have goroutines of their own and wake it.
type session struct {
	*Spread
	own    Own
	run    context.Context // Run's
	ctx    context.Context // the parent of the own functions' contexts: ends with run, and when the lease is lost
	end    context.CancelFunc
	calls  context.Context // the transactions': goes on after run has ended, ends when the lease is lost
	lease  *lease.Lease
	value  []byte
	member int64 // the creation revision of the member key

	names    []string // of the members that wanted was made of
	wanted   []string
	holds    map[int]*hold
	barred   map[int]time.Time
	expelled bool // the member key was deleted by somebody else
	left     bool // leaving, and the member key is deleted or was tried to be

	leaving, giving, taking writer
	gatherUntil             time.Time // of shards that are idle, the moment when they are given at the latest
	working                 sync.WaitGroup
}

// hold is a shard that this replica owns, or that it owned when its own function was started.
type hold struct {
	owned  *Owned
	cancel context.CancelFunc
	phase  phase
	done   chan struct{} // closed when the own function has returned
	err    error         // what it returned; valid once done is closed
	early  bool          // it returned while its context lived; valid once done is closed
}

// writer does one transaction at a time, and waits after one that was refused.
type writer struct {
	done  chan error // of the transaction under way; nil if there is none
	tries pause
	after time.Time // not before
}

// session joins, owns and gives up. joined is false if it never became a member.
func (s *Spread) session(run context.Context, own Own) (joined bool, err error) {
	value, err := json.Marshal(value{Replica: s.config.Replica, Address: s.config.Address})
	if err != nil {
		return false, fault.Wrap(fault.As(fault.Internal, err), "write the member key")
	}
	held, err := lease.Hold(run, s.config.Store, lease.Options{TTL: s.config.TTL, Logger: s.config.Logger})
	if err != nil {
		return false, err
	}
	m := &session{Spread: s, own: own, run: run, lease: held, value: value, holds: map[int]*hold{}, barred: map[int]time.Time{}}
	var stop context.CancelFunc
	m.ctx, m.end = context.WithCancel(run)
	m.calls, stop = context.WithCancel(context.WithoutCancel(run))
	m.working.Go(func() {
		<-held.Lost()
		m.end()
		stop()
		s.poke()
	})
	joined, err = m.join()
	if joined {
		m.loop()
	}
	m.release()
	m.end()
	stop()
	m.working.Wait()
	return joined, err
}

// release ends the lease, and with it whatever is left of this replica.
func (m *session) release() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.run), m.config.TTL/3)
	defer cancel()
	if err := m.lease.Release(ctx); err != nil {
		m.config.Logger.Warn("give back the lease: what it holds is free once it has ended by itself", "error", err)
	}
}

// lost tells whether the lease is lost, or may be, or the membership.
func (m *session) lost() bool {
	select {
	case <-m.lease.Lost():
		return true
	default:
		return m.expelled
	}
}

// memberKey is the key of this replica.
func (m *session) memberKey() string { return m.Spread.members() + m.config.Replica }

// ownerKey is the key of a shard.
func (m *session) ownerKey(shard int) string { return m.owners() + strconv.Itoa(shard) }

// join makes the member key, once no other process has it.
func (m *session) join() (bool, error) {
	told := false
	for m.ctx.Err() == nil {
		revision, err := m.txn([]store.Compare{{Key: m.memberKey()}}, []store.Op{{Key: m.memberKey(), Value: m.value, Lease: m.lease.ID()}})
		if err == nil {
			m.member = revision
			r := record{replica: m.config.Replica, address: m.config.Address, create: revision, revision: revision}
			m.view.change(func() (bool, bool) { return m.view.members.put(m.config.Replica, r), false })
			m.config.Logger.Info("joined the replicas", "epoch", revision)
			return true, nil
		}
		if !fault.Is(err, fault.Conflict) {
			return false, err
		}
		if !told {
			m.config.Logger.Warn("a replica of this name is a member: waiting until it has left, or its lease has ended")
			told = true
		}
		m.awaitName()
	}
	return false, nil
}

// awaitName waits until no member has this replica's name, but not for long: the view may be old.
func (m *session) awaitName() {
	ctx, cancel := context.WithTimeout(m.ctx, m.config.TTL/5)
	defer cancel()
	sleep(ctx, firstPause) // the view may not have it yet
	m.await(ctx, func() bool { _, ok := m.view.member(m.config.Replica); return !ok })
}

// txn does a transaction that may not take longer than the lease can wait.
func (m *session) txn(compares []store.Compare, ops []store.Op) (int64, error) {
	ctx, cancel := context.WithTimeout(m.calls, m.config.TTL/3)
	defer cancel()
	return m.config.Store.Txn(ctx, compares, ops)
}

// loop looks at what is and does what is to be done, until this replica has left or all its own functions have ended
// after a loss.
func (m *session) loop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		again := m.step(time.Now())
		if m.over() {
			return
		}
		timer.Reset(time.Until(again))
		select {
		case <-m.wake:
		case <-timer.C:
		}
	}
}

// over tells whether nothing is left to do but to end the lease.
func (m *session) over() bool {
	for _, h := range m.holds {
		if h.phase != idle {
			return false
		}
	}
	if m.lost() {
		return true
	}
	return m.run.Err() != nil && m.left && m.giving.done == nil && m.taking.done == nil
}

// step looks once, and gives the time to look again if nothing happens.
func (m *session) step(now time.Time) time.Time {
	m.reap(now)
	for _, w := range []*writer{&m.leaving, &m.giving, &m.taking} {
		m.settle(w, now)
	}
	again := now.Add(m.config.TTL)
	if m.lost() {
		return again // all contexts have ended: the last own function that returns wakes the loop
	}
	d, member := m.look(now)
	if !member && m.run.Err() == nil {
		m.config.Logger.Warn("the member key is gone: joining anew")
		m.config.Fenced()
		m.end()
		m.expelled = true
		return again
	}
	m.stop(d)
	for _, i := range d.start {
		m.start(i)
	}
	for _, i := range d.strays {
		m.stray(i)
	}
	if len(d.forget)+len(d.strays) > 0 {
		again = now // they are to be taken, or given
	}
	return m.write(d, now, again)
}

// reap takes notice of own functions that have returned.
func (m *session) reap(now time.Time) {
	for i, h := range m.holds {
		if h.phase == idle {
			continue
		}
		select {
		case <-h.done:
		default:
			continue
		}
		h.phase = idle
		h.cancel()
		if h.early {
			m.barred[i] = now.Add(bar)
			m.config.Logger.Warn("the work on a shard ended by itself: giving it up", "shard", i, "error", h.err)
			continue
		}
		if h.err != nil && !errors.Is(h.err, context.Canceled) {
			m.config.Logger.Warn("end the work on a shard", "shard", i, "error", h.err)
		}
	}
	maps.DeleteFunc(m.barred, func(_ int, until time.Time) bool { return !now.Before(until) })
}

// look decides upon the view, and tells whether this replica is still the member that it joined as.
func (m *session) look(now time.Time) (decision, bool) {
	holds := make(map[int]held, len(m.holds))
	for i, h := range m.holds {
		holds[i] = held{phase: h.phase, epoch: h.owned.epoch}
	}
	v := m.view
	v.mu.Lock()
	defer v.mu.Unlock()
	me, ok := v.members.get(m.config.Replica)
	m.want(v.members.keys)
	return decide(situation{
		me: m.config.Replica, member: m.member, wanted: m.wanted, owners: v.owners.keys, held: holds, barred: m.barred, now: now,
	}), ok && me.create == m.member
}

// want works out who ought to own what, if the members are not those of the last time. Whoever leaves wants nothing.
func (m *session) want(members map[string]record) {
	names := make([]string, 0, len(members))
	for name, r := range members {
		if r.replica == name && (name != m.config.Replica || m.run.Err() == nil) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if m.wanted == nil || !slices.Equal(names, m.names) {
		m.names, m.wanted = names, assign(names, m.config.Count)
	}
}

// stop ends what must end and forgets what is no longer this replica's.
func (m *session) stop(d decision) {
	for _, i := range d.stop {
		m.holds[i].phase = stopping
		m.holds[i].cancel()
	}
	for _, i := range d.forget {
		delete(m.holds, i)
	}
}

// start calls the own function of a shard that this replica has come to own.
func (m *session) start(i int) {
	h := m.hold(i)
	ctx, cancel := context.WithCancel(m.ctx)
	h.cancel = cancel
	m.working.Go(func() {
		h.err = m.own(ctx, h.owned)
		h.early = ctx.Err() == nil
		close(h.done)
		m.poke()
	})
}

// stray holds a shard that came to this replica after it had ceased to want it.
func (m *session) stray(i int) {
	h := m.hold(i)
	h.cancel, h.phase = func() {}, idle
	close(h.done)
}

// hold makes the hold of a shard, as the view has it.
func (m *session) hold(i int) *hold {
	m.view.mu.Lock()
	r, _ := m.view.owners.get(i)
	m.view.mu.Unlock()
	h := &hold{owned: &Owned{shard: i, key: m.ownerKey(i), epoch: r.create, live: m.lease.Live}, done: make(chan struct{})}
	m.holds[i] = h
	return h
}

// write begins the transactions that are to be done and gives the time to look again.
func (m *session) write(d decision, now, again time.Time) time.Time {
	if m.run.Err() != nil {
		if _, ok := m.view.member(m.config.Replica); ok {
			m.try(&m.leaving, now, &again, m.leave)
		} else {
			m.left = true
		}
		if !m.left {
			return again
		}
	}
	if len(d.give) > 0 && m.gathered(now, &again) {
		epochs := make(map[int]int64, len(d.give))
		for _, i := range d.give {
			epochs[i] = m.holds[i].owned.epoch
		}
		m.try(&m.giving, now, &again, func() error { return m.give(d.give, epochs) })
	}
	if len(d.take) > 0 && m.run.Err() == nil {
		m.try(&m.taking, now, &again, func() error { return m.take(d.take) })
	}
	for _, until := range m.barred {
		again = earlier(again, until)
	}
	return again
}

// gathered tells whether to give now, or to wait for a moment for the other own functions that are stopping.
func (m *session) gathered(now time.Time, again *time.Time) bool {
	if m.gatherUntil.IsZero() {
		m.gatherUntil = now.Add(gather)
	}
	for _, h := range m.holds {
		if h.phase == stopping && now.Before(m.gatherUntil) {
			*again = earlier(*again, m.gatherUntil)
			return false
		}
	}
	m.gatherUntil = time.Time{}
	return true
}

// try begins a transaction, unless one of its sort is under way or has to wait.
func (m *session) try(w *writer, now time.Time, again *time.Time, transact func() error) {
	if w.done != nil {
		return
	}
	if now.Before(w.after) {
		*again = earlier(*again, w.after)
		return
	}
	done := make(chan error, 1)
	w.done = done
	m.working.Go(func() {
		done <- transact()
		m.poke()
	})
}

// settle takes notice of the end of a transaction.
func (m *session) settle(w *writer, now time.Time) {
	select {
	case err := <-w.done:
		w.done = nil
		if w == &m.leaving {
			m.left = true
		}
		if err == nil {
			w.tries = pause{}
			return
		}
		w.after = now.Add(w.tries.next())
		switch {
		case m.lost():
		case fault.Is(err, fault.Conflict): // the view was old; it has been renewed
			m.config.Logger.Debug("write who owns what", "error", err)
		default:
			m.config.Logger.Warn("write who owns what", "error", err)
		}
	default:
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
