// Package groupstore commits transactions together: those that wait while others are being written go to the store below
// as one. One transaction alone costs it about five times as much as each of thirty that come together.
//
// # Protocol
//
// A few committers take from one queue. A committer takes what waits at that moment, and never waits for more: a
// transaction that comes alone is written at once. Two transactions go together only if neither writes a key that the
// other writes or compares and if they agree on what they compare, so that the outcome of each is what it would be alone.
//
// If what went together is refused each of it is tried by itself, so that only those are refused that would be alone. If
// it is not known what became of it (Unavailable) it is not known of any of it.
//
// # What happens on a crash
//
// Nothing is kept here: a transaction is answered after the store below has answered.
package groupstore

import (
	"context"
	"sync"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
)

// Bounds of what goes together.
const (
	// committers is how many transactions are under way at once: more makes etcd slower, fewer leaves it idle while one
	// is being synced.
	committers = 4
	// maxTogether and maxBytes bound one transaction of the store below (etcd takes requests of up to 1.5 MiB).
	maxTogether = 32
	maxBytes    = 512 << 10
	// answerWithin bounds the wait for an answer when the callers have gone.
	answerWithin = 30 * time.Second
)

// Stats counts what was written.
type Stats struct {
	// Transactions counts those that were asked for, Commits those that the store below was asked for.
	Transactions, Commits int64
	// Apart counts those that were tried by themselves since what they went with was refused.
	Apart int64
	// Busy is the time that commits took, summed.
	Busy time.Duration
}

// Store commits transactions together. Everything else goes straight to the store below.
type Store struct {
	store.Store

	mu      sync.Mutex
	waiting []*transaction
	idle    int // committers that may be started
	stats   Stats

	meters meters
}

var _ store.Store = (*Store)(nil)

// New makes a store above another. Closing it closes the other.
func New(below store.Store) *Store {
	return &Store{Store: below, idle: committers, meters: newMeters()}
}

// transaction is one that was asked for.
type transaction struct {
	ctx      context.Context // of the caller who waits for it
	compares []store.Compare
	ops      []store.Op
	answer   chan answer
}

type answer struct {
	revision int64
	err      error
}

// Txn implements store.Store.
func (s *Store) Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, fault.As(fault.Unavailable, err)
	}
	t := &transaction{ctx: ctx, compares: compares, ops: ops, answer: make(chan answer, 1)}
	s.mu.Lock()
	s.stats.Transactions++
	s.waiting = append(s.waiting, t)
	if s.idle > 0 {
		s.idle--
		go s.commit()
	}
	s.mu.Unlock()
	select {
	case a := <-t.answer:
		return a.revision, a.err
	case <-ctx.Done():
		return 0, fault.As(fault.Unavailable, ctx.Err())
	}
}

// Stats tells what was written so far.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Waiting tells how many transactions wait for a committer.
func (s *Store) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiting)
}

// Usage implements store.Meter if the store below does; else there is no bound.
func (s *Store) Usage(ctx context.Context) (store.Usage, error) {
	if meter, ok := s.Store.(store.Meter); ok {
		return meter.Usage(ctx)
	}
	return store.Usage{}, nil
}

// commit writes what waits until nothing does.
func (s *Store) commit() {
	for {
		s.mu.Lock()
		together := s.take()
		if len(together) == 0 {
			s.idle++
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		s.write(together)
	}
}

// take takes from the queue what can go together: the oldest, and all that may join it. The caller holds the lock.
func (s *Store) take() []*transaction {
	b := newBatch()
	left := s.waiting[:0]
	for i, t := range s.waiting {
		if len(b.together) == maxTogether {
			left = append(left, s.waiting[i:]...)
			break
		}
		if t.ctx.Err() != nil {
			continue // nobody waits for it any more
		}
		if !b.add(t) {
			left = append(left, t)
		}
	}
	clear(s.waiting[len(left):])
	s.waiting = left
	return b.together
}

// write writes transactions as one, or each by itself if that is refused.
func (s *Store) write(together []*transaction) {
	if len(together) == 1 {
		t := together[0]
		revision, err := s.ask(t.ctx, t.compares, t.ops, 1)
		t.answer <- answer{revision, err}
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(together[0].ctx), answerWithin)
	defer cancel()
	compares, ops := joined(together)
	revision, err := s.ask(ctx, compares, ops, len(together))
	if err == nil || fault.Is(err, fault.Unavailable) {
		for _, t := range together {
			t.answer <- answer{revision, err}
		}
		return
	}
	s.mu.Lock()
	s.stats.Apart += int64(len(together))
	s.mu.Unlock()
	s.meters.apart.Add(float64(len(together)))
	var group sync.WaitGroup
	for _, t := range together {
		group.Go(func() {
			revision, err := s.ask(t.ctx, t.compares, t.ops, 1)
			t.answer <- answer{revision, err}
		})
	}
	group.Wait()
}

// ask asks the store below to write so many transactions as one.
func (s *Store) ask(ctx context.Context, compares []store.Compare, ops []store.Op, transactions int) (int64, error) {
	began := time.Now()
	revision, err := s.Store.Txn(ctx, compares, ops)
	took := time.Since(began)
	s.meters.committed(transactions, took)
	s.mu.Lock()
	s.stats.Commits++
	s.stats.Busy += took
	s.mu.Unlock()
	return revision, err
}

// joined gives the compares, each once, and the ops of transactions.
func joined(together []*transaction) ([]store.Compare, []store.Op) {
	var compares []store.Compare
	var ops []store.Op
	seen := map[store.Compare]bool{}
	for _, t := range together {
		for _, c := range t.compares {
			if !seen[c] {
				seen[c] = true
				compares = append(compares, c)
			}
		}
		ops = append(ops, t.ops...)
	}
	return compares, ops
}

// batch is what goes together, in the making.
type batch struct {
	together []*transaction
	written  map[string]bool
	compared map[string]store.Compare
	// toWrite and toCompare are the keys of those that stay behind: who came after them must not pass them.
	toWrite, toCompare map[string]bool
	compares, ops      int
	bytes              int
}

func newBatch() *batch {
	return &batch{written: map[string]bool{}, compared: map[string]store.Compare{}, toWrite: map[string]bool{}, toCompare: map[string]bool{}}
}

// add adds a transaction, or tells that it must wait.
func (b *batch) add(t *transaction) bool {
	size := 0
	for _, op := range t.ops {
		size += len(op.Key) + len(op.Value)
	}
	fits := len(b.together) == 0 ||
		b.compares+len(t.compares) <= store.MaxTxnOps && b.ops+len(t.ops) <= store.MaxTxnOps && b.bytes+size <= maxBytes
	if !fits || !b.apart(t) {
		for _, op := range t.ops {
			b.toWrite[op.Key] = true
		}
		for _, c := range t.compares {
			b.toCompare[c.Key] = true
		}
		return false
	}
	for _, op := range t.ops {
		b.written[op.Key] = true
	}
	for _, c := range t.compares {
		b.compared[c.Key] = c
	}
	b.compares, b.ops, b.bytes = b.compares+len(t.compares), b.ops+len(t.ops), b.bytes+size
	b.together = append(b.together, t)
	return true
}

// apart tells whether a transaction has nothing to do with what is in the batch and would pass none that stays behind.
func (b *batch) apart(t *transaction) bool {
	for _, op := range t.ops {
		if _, compared := b.compared[op.Key]; compared || b.written[op.Key] || b.toWrite[op.Key] || b.toCompare[op.Key] {
			return false
		}
	}
	for _, c := range t.compares {
		same, compared := b.compared[c.Key]
		if b.written[c.Key] || b.toWrite[c.Key] || compared && same != c {
			return false
		}
	}
	return true
}
