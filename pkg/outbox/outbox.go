// Package outbox publishes messages that were committed together with a fact.
//
// # Protocol
//
// A writer adds the writes of Ops to its transaction. Once the transaction stands it hands the same writes to Committed;
// the box publishes the messages in the order in which they were handed in and then deletes the writes. At its start the
// box first publishes everything that it finds. Publishing and deleting overlap: a message waits for no deletion.
//
// # What happens on a crash
//
// Before the commit nothing was written. After the commit and before the deletion the next start finds the messages and
// publishes them, perhaps a second time, with the same ids. If the answer of the commit was lost, or a peer with the same
// prefix crashed, nobody hands the messages in: a sweep, every so often, publishes what is older than a sweep, and whoever
// takes over a peer's work has the box look at once (Recover).
//
// # What can never be published
//
// A message that the bus refuses for good (say, too large) is logged and left where it is, and those behind it go on. It
// is tried again at the next start.
package outbox

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/crash"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
)

// Limits of one round.
const (
	// publishBatch is how many records are published at once.
	publishBatch = 256
	// deleteBatch is how many are deleted in one transaction. Fewer wait for deleteLinger for others to join them.
	deleteBatch  = 64
	deleteLinger = 10 * time.Millisecond
	// listBatch is how many are read at once.
	listBatch = 500
	// sweepEvery is the time between two sweeps, and the age from which a record is swept.
	sweepEvery = 30 * time.Second
	// firstWait and longestWait are the pauses between two tries.
	firstWait   = 50 * time.Millisecond
	longestWait = 5 * time.Second
	// farewell is how long Run goes on deleting once its context has ended, to spare the next start the doubles.
	farewell = time.Second
	// recordSize is the size from which messages are split into several records: etcd takes requests of 1.5 MiB.
	recordSize = 256 << 10
)

// Box is the outbox of one writer. All methods are safe for concurrent use.
type Box struct {
	store     store.Store
	publisher bus.Publisher
	prefix    string
	logger    *slog.Logger

	suffix string       // tells this box's keys from those of peers with the same prefix
	last   atomic.Int64 // the time in the last key

	mu        sync.Mutex
	queue     []record            // to be published, in order
	known     map[string]struct{} // keys that are queued, being published, or not deleted yet
	published []string            // keys to be deleted
	wake      chan struct{}       // has a token when queue may have grown
	wakeSweep chan struct{}       // has a token when published may have grown
	recover   chan struct{}       // has a token when a peer may have left something
}

// record is what one key keeps.
type record struct {
	key      string
	messages []bus.Message
}

// New makes the box that keeps its messages below prefix. It publishes nothing until Run.
func New(s store.Store, p bus.Publisher, prefix string, logger *slog.Logger) *Box {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Box{
		store: s, publisher: p, prefix: prefix, logger: logger, suffix: rand.Text()[:6],
		known: map[string]struct{}{}, wake: make(chan struct{}, 1), wakeSweep: make(chan struct{}, 1), recover: make(chan struct{}, 1),
	}
}

// keyAt gives the least key of a time. Keys sort by time.
func (b *Box) keyAt(t int64) string { return fmt.Sprintf("%s%016x", b.prefix, t) }

// key gives a key that no other record has and that sorts after all that this box gave before.
func (b *Box) key() string {
	for {
		last := b.last.Load()
		now := max(time.Now().UnixNano(), last+1)
		if b.last.CompareAndSwap(last, now) {
			return b.keyAt(now) + b.suffix
		}
	}
}

// Ops gives the writes that keep messages until they are published: one for all, unless they are large.
func (b *Box) Ops(messages ...bus.Message) []store.Op {
	var ops []store.Op
	for len(messages) > 0 {
		n, size := 0, 0
		for n < len(messages) && (n == 0 || size+sizeOf(messages[n]) <= recordSize) {
			size += sizeOf(messages[n])
			n++
		}
		ops = append(ops, store.Op{Key: b.key(), Value: encode(messages[:n], size)})
		messages = messages[n:]
	}
	return ops
}

// Committed hands in the writes of a transaction that stands. Those that are none of Ops are passed over.
func (b *Box) Committed(ops []store.Op) {
	b.mu.Lock()
	for _, op := range ops {
		if !op.Delete && strings.HasPrefix(op.Key, b.prefix) {
			b.queue = b.add(b.queue, op.Key, op.Value)
		}
	}
	b.mu.Unlock()
	token(b.wake)
}

// token leaves a token, unless there is one.
func token(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Recover has the box publish soon what peers with the same prefix committed, for when one of them may be gone. What a peer
// that lives is about to publish is then published twice, with the same ids.
func (b *Box) Recover() { token(b.recover) }

// Waiting tells how many records are not yet published.
func (b *Box) Waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue)
}

// add adds a record to queue, unless it is in hand already. The caller holds the lock.
func (b *Box) add(queue []record, key string, value []byte) []record {
	if _, ok := b.known[key]; ok {
		return queue
	}
	b.known[key] = struct{}{}
	messages, err := decode(value)
	if err != nil {
		b.logger.Error("a kept message cannot be read; it is left in the store", "key", key, "error", err)
		return queue
	}
	return append(queue, record{key: key, messages: messages})
}

// Run publishes until ctx ends: first what it finds, then what is handed in. It returns nil.
func (b *Box) Run(ctx context.Context) error {
	var deleting sync.WaitGroup
	defer deleting.Wait()
	deleting.Go(func() { b.delete(ctx) })
	if !b.persist(ctx, func() error { return b.find(ctx, "") }) {
		return nil
	}
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		if !b.drain(ctx) {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-b.wake:
		case <-b.recover:
			if err := b.find(ctx, ""); err != nil && ctx.Err() == nil {
				b.logger.WarnContext(ctx, "look for what others left in the outbox", "error", err)
			}
		case <-sweep.C:
			// What is younger may belong to a transaction that is about to be handed in.
			if err := b.find(ctx, b.keyAt(time.Now().Add(-sweepEvery).UnixNano())); err != nil && ctx.Err() == nil {
				b.logger.WarnContext(ctx, "sweep the outbox", "error", err)
			}
		}
	}
}

// persist tries until it works; false once ctx has ended.
func (b *Box) persist(ctx context.Context, try func() error) bool {
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		if ctx.Err() != nil {
			return false
		}
		err := try()
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		b.logger.WarnContext(ctx, "publish what was committed", "error", err, "again in", wait)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// find queues what is kept, up to a key; "" means all but what this box wrote itself, which is about to be handed in.
// What it finds is older than what was handed in.
func (b *Box) find(ctx context.Context, until string) error {
	var found []store.Entry
	for after, more := "", true; more; {
		page, err := b.store.List(ctx, b.prefix, store.ListOptions{After: after, Limit: listBatch})
		if err != nil {
			return fault.Wrap(err, "list the outbox")
		}
		more = page.More
		for _, e := range page.Entries {
			if until != "" && e.Key >= until {
				more = false
				break
			}
			if after = e.Key; until != "" || !strings.HasSuffix(e.Key, b.suffix) {
				found = append(found, e)
			}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var older []record
	for _, e := range found {
		older = b.add(older, e.Key, e.Value)
	}
	if len(older) > 0 {
		b.queue = append(older, b.queue...)
	}
	return nil
}

// drain publishes until nothing is queued; false once ctx has ended.
func (b *Box) drain(ctx context.Context) bool {
	var batch []record
	var messages []bus.Message
	for {
		b.mu.Lock()
		n := min(len(b.queue), publishBatch)
		batch = append(batch[:0], b.queue[:n]...)
		b.mu.Unlock()
		if n == 0 {
			return true
		}
		messages = messages[:0]
		for _, r := range batch {
			messages = append(messages, r.messages...)
		}
		var refused error
		crash.Point(crash.OutboxPublishBefore)
		ok := b.persist(ctx, func() error {
			refused = b.publisher.Publish(ctx, messages...)
			if refused == nil || fault.Retryable(refused) {
				return refused
			}
			return nil
		})
		if !ok || refused != nil && !b.oneByOne(ctx, batch) {
			return false
		}
		crash.Point(crash.OutboxPublishAfter)
		if refused == nil {
			b.done(batch)
		}
		b.mu.Lock()
		b.queue = b.queue[n:]
		b.mu.Unlock()
	}
}

// oneByOne publishes records of which one was refused for good, and leaves out what is refused; false once ctx ended.
func (b *Box) oneByOne(ctx context.Context, batch []record) bool {
	for i, r := range batch {
		ok := b.persist(ctx, func() error {
			err := b.publisher.Publish(ctx, r.messages...)
			if err != nil && !fault.Retryable(err) {
				b.logger.ErrorContext(ctx, "a message can never be published; it is left in the store", "key", r.key, "error", err)
				return nil
			}
			if err == nil {
				b.done(batch[i : i+1])
			}
			return err
		})
		if !ok {
			return false
		}
	}
	return true
}

// done notes records that were published, to be deleted.
func (b *Box) done(batch []record) {
	b.mu.Lock()
	for _, r := range batch {
		b.published = append(b.published, r.key)
	}
	b.mu.Unlock()
	token(b.wakeSweep)
}

// delete deletes what was published, until ctx ends and a little longer.
func (b *Box) delete(ctx context.Context) {
	for {
		select {
		case <-b.wakeSweep:
		case <-ctx.Done():
			b.bidFarewell(ctx)
			return
		}
		for b.linger(ctx) > 0 {
			if !b.persist(ctx, func() error { return b.deleteSome(ctx) }) {
				break
			}
		}
	}
}

// linger gives how many keys are to be deleted, and lets others join a few.
func (b *Box) linger(ctx context.Context) int {
	count := func() int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.published)
	}
	n := count()
	if n == 0 || n >= deleteBatch {
		return n
	}
	timer := time.NewTimer(deleteLinger)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return count()
}

// deleteSome deletes a few records that were published.
func (b *Box) deleteSome(ctx context.Context) error {
	b.mu.Lock()
	keys := b.published[:min(len(b.published), deleteBatch)]
	b.mu.Unlock()
	ops := make([]store.Op, len(keys))
	for i, key := range keys {
		ops[i] = store.Op{Key: key, Delete: true}
	}
	crash.Point(crash.OutboxDeleteBefore)
	if _, err := b.store.Txn(ctx, nil, ops); err != nil {
		return fault.Wrap(err, "delete what was published")
	}
	crash.Point(crash.OutboxDeleteAfter)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, key := range keys {
		delete(b.known, key)
	}
	b.published = b.published[len(keys):]
	return nil
}

// bidFarewell deletes what it can before Run returns.
func (b *Box) bidFarewell(ctx context.Context) {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	for {
		b.mu.Lock()
		left := len(b.published)
		b.mu.Unlock()
		if left == 0 {
			return
		}
		if err := b.deleteSome(bounded); err != nil {
			b.logger.InfoContext(ctx, "messages will be published again at the next start", "records", left, "error", err)
			return
		}
	}
}
