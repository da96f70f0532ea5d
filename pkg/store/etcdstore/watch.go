package etcdstore

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
)

// watch is a running watch.
type watch struct {
	prefix string
	events chan []store.Event
	done   chan struct{} // closed once err is final
	err    error
}

// Watch implements store.Store. A watch from now asks for the present revision first: etcd begins a watch some time
// after it was asked for, and what is written in between must not be missed, nor what is written while it reconnects.
func (s *Store) Watch(ctx context.Context, prefix string, revision int64) store.Watch {
	w := &watch{prefix: prefix, events: make(chan []store.Event), done: make(chan struct{})}
	if revision == 0 {
		page, err := s.List(ctx, prefix, store.ListOptions{Limit: 1, KeysOnly: true})
		if err != nil {
			w.end(ctx, err)
			return w
		}
		revision = page.Revision + 1
	}
	answers := s.watch.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithRev(revision))
	go w.run(ctx, answers)
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

// end closes the watch; err is nil if ctx ended.
func (w *watch) end(ctx context.Context, err error) {
	if ctx.Err() == nil {
		w.err = fault.Wrap(err, "watch %s", w.prefix)
	}
	close(w.done)
	close(w.events)
}

// run sends what etcd tells until it ends.
func (w *watch) run(ctx context.Context, answers clientv3.WatchChan) {
	for answer := range answers {
		if err := answer.Err(); err != nil {
			w.end(ctx, faultOf(ctx, err))
			return
		}
		if !w.send(ctx, answer.Events) {
			break
		}
	}
	w.end(ctx, fault.New(fault.Unavailable, "the connection was closed"))
}

// send sends events grouped as they were written; false once ctx has ended.
func (w *watch) send(ctx context.Context, events []*clientv3.Event) bool {
	for len(events) > 0 {
		n := 1
		for n < len(events) && events[n].Kv.ModRevision == events[0].Kv.ModRevision {
			n++
		}
		batch := make([]store.Event, n)
		for i, e := range events[:n] {
			batch[i] = store.Event{Entry: entryOf(e.Kv), Deleted: e.Type == clientv3.EventTypeDelete}
		}
		select {
		case w.events <- batch:
		case <-ctx.Done():
			return false
		}
		events = events[n:]
	}
	return true
}
