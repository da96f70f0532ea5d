// Package memstore is a store in memory, for tests and for services that run for a moment. It keeps the whole contract
// of store.Store: revisions, transactions, leases, watches that can fall behind. And it can be told to fail: before a
// call has its effect, or after, when the caller cannot know.
package memstore

import (
	"context"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
)

// The operations that a fault hook is told of.
const (
	OpGet       = "get"
	OpList      = "list"
	OpTxn       = "txn"
	OpWatch     = "watch"
	OpGrant     = "grant"
	OpKeepAlive = "keepalive"
	OpRevoke    = "revoke"
)

// Hook is asked at every call. op is one of the operations; key is the key or prefix of the call, of a transaction its
// first op's (or else its first compare's) key, of a lease "". An error that it returns is the answer of the call.
// It may block, and may call the store.
type Hook func(op, key string) error

// Faults are injected faults. Each hook may be nil.
type Faults struct {
	// Before is asked before a call has its effect: an error means that nothing happened.
	Before Hook
	// After is asked after a call had its effect: an error means that the answer was lost.
	After Hook
}

// Options change how a Store behaves. The zero value is the usual.
type Options struct {
	// History is how many revisions are kept for watches; 0 means 10000.
	History int
	// Now is the clock of leases. If it is nil it is time.Now, and leases end by themselves; else they end at the first
	// call after their time, or at Tick.
	Now func() time.Time
}

// Store is a store in memory.
type Store struct {
	options Options

	mu        sync.Mutex
	faults    Faults
	entries   map[string]*entry
	keys      []string // in order
	revision  int64
	compacted int64 // the greatest revision of which changes are no longer kept
	history   []change
	changed   chan struct{} // closed and made anew at every change
	broken    chan struct{} // closed and made anew when watches are broken
	leases    map[store.LeaseID]*lease
	lastLease store.LeaseID
}

// entry is a key that exists.
type entry struct {
	store.Entry
	lease store.LeaseID
}

// change is what one revision changed.
type change struct {
	revision int64
	events   []store.Event
}

// lease is a lease that has not ended.
type lease struct {
	ttl   time.Duration
	ends  time.Time
	keys  map[string]struct{}
	timer *time.Timer // nil if the clock is injected
}

var _ store.Store = (*Store)(nil)

// New makes an empty store.
func New() *Store { return NewWith(Options{}) }

// NewWith makes an empty store that behaves as the options say.
func NewWith(options Options) *Store {
	if options.History == 0 {
		options.History = 10000
	}
	return &Store{
		options: options, entries: map[string]*entry{}, revision: 1,
		changed: make(chan struct{}), broken: make(chan struct{}), leases: map[store.LeaseID]*lease{},
	}
}

// SetFaults sets what goes wrong from now on; the zero value lets everything go right.
func (s *Store) SetFaults(faults Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = faults
}

// before asks the hook of what happens before a call, and whether ctx has ended.
func (s *Store) before(ctx context.Context, op, key string) error {
	if err := ctx.Err(); err != nil {
		return fault.As(fault.Unavailable, err)
	}
	s.mu.Lock()
	hook := s.faults.Before
	s.mu.Unlock()
	if hook == nil {
		return nil
	}
	return fault.Wrap(hook(op, key), "%s %s", op, key)
}

// after asks the hook of what happens after a call.
func (s *Store) after(op, key string) error {
	s.mu.Lock()
	hook := s.faults.After
	s.mu.Unlock()
	if hook == nil {
		return nil
	}
	return fault.Wrap(hook(op, key), "%s %s", op, key)
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := s.before(ctx, OpGet, key); err != nil {
		return store.Entry{}, err
	}
	found, err := s.get(key)
	if err != nil {
		return store.Entry{}, err
	}
	return found, s.after(OpGet, key)
}

func (s *Store) get(key string) (store.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	e, ok := s.entries[key]
	if !ok {
		return store.Entry{}, fault.New(fault.NotFound, "key %s does not exist", key)
	}
	return e.Entry, nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string, opts store.ListOptions) (store.Page, error) {
	if err := s.before(ctx, OpList, prefix); err != nil {
		return store.Page{}, err
	}
	page := s.list(prefix, opts)
	return page, s.after(OpList, prefix)
}

func (s *Store) list(prefix string, opts store.ListOptions) store.Page {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	page := store.Page{Revision: s.revision}
	from := sort.SearchStrings(s.keys, prefix)
	if opts.After >= prefix && opts.After != "" {
		from = sort.SearchStrings(s.keys, opts.After+"\x00")
	}
	for _, key := range s.keys[from:] {
		if !strings.HasPrefix(key, prefix) {
			break
		}
		if opts.Limit > 0 && len(page.Entries) == opts.Limit {
			page.More = true
			break
		}
		e := s.entries[key].Entry
		if opts.KeysOnly {
			e.Value = nil
		}
		page.Entries = append(page.Entries, e)
	}
	return page
}

// Txn implements store.Store.
func (s *Store) Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error) {
	key := ""
	if len(ops) > 0 {
		key = ops[0].Key
	} else if len(compares) > 0 {
		key = compares[0].Key
	}
	if err := s.before(ctx, OpTxn, key); err != nil {
		return 0, err
	}
	revision, err := s.txn(compares, ops)
	if err != nil {
		return 0, err
	}
	if err := s.after(OpTxn, key); err != nil {
		return 0, err
	}
	return revision, nil
}

func (s *Store) txn(compares []store.Compare, ops []store.Op) (int64, error) {
	if err := checkOps(compares, ops); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	for _, c := range compares {
		if !s.holds(c) {
			return 0, fault.New(fault.Conflict, "key %s is not as it was last seen", c.Key)
		}
	}
	for _, op := range ops {
		if _, ok := s.leases[op.Lease]; op.Lease != 0 && !op.Delete && !ok {
			return 0, fault.New(fault.NotFound, "put %s: lease %x has ended", op.Key, int64(op.Lease))
		}
	}
	events := make([]store.Event, 0, len(ops))
	for _, op := range ops {
		if op.Delete {
			events = s.remove(events, op.Key)
			continue
		}
		events = append(events, s.put(op))
	}
	s.commit(events)
	return s.revision, nil
}

// checkOps refuses what etcd refuses.
func checkOps(compares []store.Compare, ops []store.Op) error {
	if len(ops) > store.MaxTxnOps || len(compares) > store.MaxTxnOps {
		return fault.New(fault.Invalid, "a transaction of %d compares and %d ops: at most %d of each", len(compares), len(ops), store.MaxTxnOps)
	}
	for _, c := range compares {
		if c.Key == "" {
			return fault.New(fault.Invalid, "a compare has an empty key")
		}
	}
	for i, op := range ops {
		if op.Key == "" {
			return fault.New(fault.Invalid, "an op has an empty key")
		}
		if slices.ContainsFunc(ops[:i], func(o store.Op) bool { return o.Key == op.Key }) {
			return fault.New(fault.Invalid, "key %s stands twice in one transaction", op.Key)
		}
	}
	return nil
}

// holds tells whether a compare holds.
func (s *Store) holds(c store.Compare) bool {
	var have store.Entry
	if e, ok := s.entries[c.Key]; ok {
		have = e.Entry
	}
	if c.CreateRevision != 0 {
		return have.CreateRevision == c.CreateRevision
	}
	return have.ModRevision == c.ModRevision
}

// put writes one key at the next revision.
func (s *Store) put(op store.Op) store.Event {
	e, ok := s.entries[op.Key]
	if !ok {
		e = &entry{Entry: store.Entry{Key: op.Key, CreateRevision: s.revision + 1}}
		s.entries[op.Key] = e
		at := sort.SearchStrings(s.keys, op.Key)
		s.keys = slices.Insert(s.keys, at, op.Key)
	}
	if old, ok := s.leases[e.lease]; ok {
		delete(old.keys, op.Key)
	}
	if l, ok := s.leases[op.Lease]; ok {
		l.keys[op.Key] = struct{}{}
	}
	e.Value, e.ModRevision, e.lease = slices.Clone(op.Value), s.revision+1, op.Lease
	return store.Event{Entry: e.Entry}
}

// remove deletes one key at the next revision; an absent key makes no event.
func (s *Store) remove(events []store.Event, key string) []store.Event {
	e, ok := s.entries[key]
	if !ok {
		return events
	}
	delete(s.entries, key)
	at := sort.SearchStrings(s.keys, key)
	s.keys = slices.Delete(s.keys, at, at+1)
	if l, ok := s.leases[e.lease]; ok {
		delete(l.keys, key)
	}
	return append(events, store.Event{Entry: store.Entry{Key: key, ModRevision: s.revision + 1}, Deleted: true})
}

// commit makes the next revision of the events, if there are any, and wakes the watches.
func (s *Store) commit(events []store.Event) {
	if len(events) == 0 {
		return
	}
	s.revision++
	s.history = append(s.history, change{revision: s.revision, events: events})
	if extra := len(s.history) - s.options.History; extra > s.options.History/4 {
		s.compacted = s.history[extra-1].revision
		s.history = append([]change(nil), s.history[extra:]...)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// Compact forgets all changes up to the present, as a store does after a while: a watch from an older revision ends
// with a Conflict.
func (s *Store) Compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compacted, s.history = s.revision, nil
	close(s.changed)
	s.changed = make(chan struct{})
}

// BreakWatches ends all watches that run with an Unavailable fault.
func (s *Store) BreakWatches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.broken)
	s.broken = make(chan struct{})
}

// Revision gives the present revision.
func (s *Store) Revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	return s.revision
}

// Close implements store.Store; it does nothing.
func (s *Store) Close() error { return nil }
