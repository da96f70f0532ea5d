package memstore

import (
	"context"
	"sort"
	"strings"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
)

// watch is a running watch. It reads the history from next on: a watch that is slow keeps nothing of its own, and one
// that is too slow ends with a Conflict, as at a real store.
type watch struct {
	store  *Store
	prefix string
	next   int64
	events chan []store.Event
	done   chan struct{} // closed once err is final
	err    error
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, revision int64) store.Watch {
	w := &watch{store: s, prefix: prefix, next: revision, events: make(chan []store.Event), done: make(chan struct{})}
	if err := s.before(ctx, OpWatch, prefix); err != nil {
		if ctx.Err() == nil {
			w.err = err
		}
		w.end()
		return w
	}
	s.mu.Lock()
	if revision == 0 {
		w.next = s.revision + 1
	}
	broken := s.broken
	s.mu.Unlock()
	go w.run(ctx, broken)
	return w
}

// Events implements store.Watch.
func (w *watch) Events() <-chan []store.Event { return w.events }

// Err implements store.Watch.
func (w *watch) Err() error {
	select {
	case <-w.done:
		return w.err
	default:
		return nil
	}
}

// end closes the watch.
func (w *watch) end() {
	close(w.done)
	close(w.events)
}

// run sends what changes until ctx ends, the watch is broken or has fallen behind.
func (w *watch) run(ctx context.Context, broken <-chan struct{}) {
	defer w.end()
	for {
		batches, changed, err := w.read()
		if err != nil {
			w.err = err
			return
		}
		for _, batch := range batches {
			select {
			case w.events <- batch:
			case <-broken:
				w.err = fault.New(fault.Unavailable, "watch %s: the connection broke", w.prefix)
				return
			case <-ctx.Done():
				return
			}
		}
		if len(batches) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-broken:
			w.err = fault.New(fault.Unavailable, "watch %s: the connection broke", w.prefix)
			return
		case <-ctx.Done():
			return
		}
	}
}

// readAtOnce bounds how many batches a watch takes from the history at once.
const readAtOnce = 256

// read takes the next batches of matching events, and the signal of the next change.
func (w *watch) read() ([][]store.Event, <-chan struct{}, error) {
	s := w.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.next <= s.compacted {
		return nil, nil, fault.New(fault.Conflict, "watch %s from revision %d: changes up to %d are no longer kept", w.prefix, w.next, s.compacted)
	}
	from := sort.Search(len(s.history), func(i int) bool { return s.history[i].revision >= w.next })
	var batches [][]store.Event
	for _, c := range s.history[from:] {
		if len(batches) == readAtOnce {
			break
		}
		if batch := matching(c.events, w.prefix); len(batch) > 0 {
			batches = append(batches, batch)
		}
		w.next = c.revision + 1
	}
	return batches, s.changed, nil
}

// matching gives the events of keys that begin with prefix.
func matching(events []store.Event, prefix string) []store.Event {
	var out []store.Event
	for _, e := range events {
		if strings.HasPrefix(e.Entry.Key, prefix) {
			out = append(out, e)
		}
	}
	return out
}
