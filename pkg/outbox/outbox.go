// Package outbox publishes messages that were committed together with a fact.
//
// # Protocol
//
// A writer adds the writes of Ops to its transaction. Once the transaction stands it hands the same writes to Committed;
// the box publishes the messages in the order in which they were handed in and then deletes the writes. At its start the
// box first publishes everything that it finds.
//
// # What happens on a crash
//
// Before the commit nothing was written. After the commit and before the deletion the next start finds the message and
// publishes it, perhaps a second time, with the same id. Between a commit whose answer was lost and the next start a
// message is published late; a sweep looks for such messages every so often, so that it need not wait for a restart.
package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
)

// Limits of one round.
const (
	publishBatch = 256
	deleteBatch  = 64
	sweepEvery   = 30 * time.Second
	firstWait    = 50 * time.Millisecond
	longestWait  = 5 * time.Second
)

// Box is the outbox of one writer. All methods are safe for concurrent use.
type Box struct {
	store     store.Store
	publisher bus.Publisher
	prefix    string
	logger    *slog.Logger

	next atomic.Uint64
	wake chan struct{}

	mu    sync.Mutex
	queue []entry
	held  map[string]bool // keys that are in the queue or being published
}

// entry is one message with the key that keeps it.
type entry struct {
	key     string
	message bus.Message
}

// New makes the box that keeps its messages below prefix. It publishes nothing until Run.
func New(s store.Store, p bus.Publisher, prefix string, logger *slog.Logger) *Box {
	b := &Box{store: s, publisher: p, prefix: prefix, logger: logger, wake: make(chan struct{}, 1), held: map[string]bool{}}
	b.next.Store(uint64(time.Now().UnixNano())) // keys of a later start sort after those of an earlier one
	return b
}

// Ops gives the writes that keep messages until they are published.
func (b *Box) Ops(messages ...bus.Message) []store.Op {
	ops := make([]store.Op, 0, len(messages))
	for _, m := range messages {
		value, err := json.Marshal(m)
		if err != nil {
			panic("outbox: a message cannot be encoded: " + err.Error()) // it holds strings and bytes only
		}
		ops = append(ops, store.Op{Key: fmt.Sprintf("%s%020d", b.prefix, b.next.Add(1)), Value: value})
	}
	return ops
}

// Committed hands in the writes of Ops after their transaction stands.
func (b *Box) Committed(ops []store.Op) {
	if len(ops) == 0 {
		return
	}
	b.mu.Lock()
	for _, op := range ops {
		b.add(op.Key, op.Value)
	}
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// add queues one kept message, unless it is in hand already. The caller holds the lock.
func (b *Box) add(key string, value []byte) {
	if b.held[key] {
		return
	}
	var m bus.Message
	if err := json.Unmarshal(value, &m); err != nil {
		b.logger.Error("a kept message cannot be read", "key", key, "error", err)
		return
	}
	b.held[key] = true
	b.queue = append(b.queue, entry{key: key, message: m})
}

// Run publishes until ctx ends: first what it finds, then what is handed in.
func (b *Box) Run(ctx context.Context) error {
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	wait := time.Duration(0)
	found := false
	for ctx.Err() == nil {
		var err error
		if !found {
			err = b.find(ctx, "")
			found = err == nil
		}
		if err == nil {
			err = b.drain(ctx)
		}
		if err != nil && ctx.Err() == nil {
			wait = min(max(2*wait, firstWait), longestWait)
			b.logger.Warn("publish what was committed", "error", err, "again in", wait)
			rest(ctx, wait)
			continue
		}
		wait = 0
		select {
		case <-ctx.Done():
		case <-b.wake:
		case <-sweep.C:
			if err := b.find(ctx, b.old()); err != nil && ctx.Err() == nil {
				b.logger.Warn("sweep the outbox", "error", err)
			}
		}
	}
	return nil
}

func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// old gives the key before which everything is older than a sweep, so that a sweep does not meet messages that are about
// to be handed in.
func (b *Box) old() string {
	return fmt.Sprintf("%s%020d", b.prefix, time.Now().Add(-sweepEvery).UnixNano())
}

// find queues what is kept, up to a key; "" means all.
func (b *Box) find(ctx context.Context, until string) error {
	page, err := b.store.List(ctx, b.prefix, store.ListOptions{})
	if err != nil {
		return fault.Wrap(err, "list the outbox")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	late := b.queue
	b.queue = nil
	for _, e := range page.Entries {
		if until == "" || e.Key < until {
			b.add(e.Key, e.Value)
		}
	}
	b.queue = append(b.queue, late...) // what was found is older than what was handed in
	return nil
}

// drain publishes until nothing is queued.
func (b *Box) drain(ctx context.Context) error {
	for {
		b.mu.Lock()
		batch := b.queue[:min(len(b.queue), publishBatch)]
		b.mu.Unlock()
		if len(batch) == 0 {
			return nil
		}
		messages := make([]bus.Message, len(batch))
		for i, e := range batch {
			messages[i] = e.message
		}
		if err := b.publisher.Publish(ctx, messages...); err != nil {
			return fault.Wrap(err, "publish %d messages", len(messages))
		}
		if err := b.forget(ctx, batch); err != nil {
			return err
		}
	}
}

// forget deletes messages that were published. Until it has, they stay in the queue and would be published again.
func (b *Box) forget(ctx context.Context, batch []entry) error {
	for start := 0; start < len(batch); start += deleteBatch {
		part := batch[start:min(start+deleteBatch, len(batch))]
		ops := make([]store.Op, len(part))
		for i, e := range part {
			ops[i] = store.Op{Key: e.key, Delete: true}
		}
		if _, err := b.store.Txn(ctx, nil, ops); err != nil {
			return fault.Wrap(err, "delete what was published")
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = b.queue[len(batch):]
	for _, e := range batch {
		delete(b.held, e.key)
	}
	return nil
}
