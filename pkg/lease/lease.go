// Package lease gives one process at a time the ownership of something, with an epoch that fences off its predecessors.
//
// # Protocol
//
// The owner holds a key under a lease of the store. The key's creation revision is the epoch: it grows with every owner.
// Safety is the fence, a comparison of the key's creation revision in every transaction; the lease gives liveness only.
// An owner that hears nothing from the store for two thirds of the time to live must stop, by the monotonic clock: Lost
// says so before anybody else can own the key.
package lease

import (
	"context"
	"log/slog"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
)

// DefaultTTL is how long an ownership outlives its owner's last word.
const DefaultTTL = 5 * time.Second

// Options say more about an ownership, or a lease.
type Options struct {
	// TTL is how long it outlives the owner's last word; 0 means DefaultTTL.
	TTL time.Duration
	// Logger gets what goes wrong; nil means none.
	Logger *slog.Logger
}

// complete gives the options with what they leave out.
func (o Options) complete() Options {
	if o.TTL <= 0 {
		o.TTL = DefaultTTL
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Owner is an ownership.
type Owner struct {
	lease *Lease
	key   string
	epoch int64
}

// Acquire waits until nobody owns key, and owns it. name tells who, for people. Unavailable means that the store did not
// answer: try again.
func Acquire(ctx context.Context, s store.Store, key, name string, opts Options) (*Owner, error) {
	opts = opts.complete()
	for {
		if err := free(ctx, s, key); err != nil {
			return nil, err
		}
		o, err := take(ctx, s, key, name, opts)
		if !fault.Is(err, fault.Conflict) {
			return o, err
		}
	}
}

// free waits until a key does not exist.
func free(ctx context.Context, s store.Store, key string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := s.Watch(ctx, key, 0)
	for {
		_, err := s.Get(ctx, key)
		if fault.Is(err, fault.NotFound) {
			return nil
		}
		if err != nil {
			return fault.Wrap(err, "look who owns %s", key)
		}
		select {
		case _, ok := <-watch.Events():
			if !ok && ctx.Err() == nil {
				return fault.Wrap(watch.Err(), "wait for %s", key)
			}
		case <-ctx.Done():
			return fault.As(fault.Unavailable, ctx.Err())
		}
	}
}

func take(ctx context.Context, s store.Store, key, name string, opts Options) (*Owner, error) {
	opts.Logger = opts.Logger.With("key", key)
	held, err := Hold(ctx, s, opts)
	if err != nil {
		return nil, fault.Wrap(err, "own %s", key)
	}
	revision, err := s.Txn(ctx, []store.Compare{{Key: key}}, []store.Op{{Key: key, Value: []byte(name), Lease: held.ID()}})
	if err != nil {
		// If the answer was lost the key may be ours: it goes with the lease, now or when that ends by itself.
		giving, cancel := context.WithTimeout(context.WithoutCancel(ctx), opts.TTL)
		defer cancel()
		if revoked := held.Release(giving); revoked != nil {
			opts.Logger.Debug("give back a lease", "error", revoked)
		}
		return nil, fault.Wrap(err, "own %s", key)
	}
	return &Owner{lease: held, key: key, epoch: revision}, nil
}

// Lost is closed when the owner must stop, and by Release.
func (o *Owner) Lost() <-chan struct{} { return o.lease.Lost() }

// Epoch numbers the owners of the key; a later one has a greater.
func (o *Owner) Epoch() int64 { return o.epoch }

// Fence is the condition that every transaction of the owner carries.
func (o *Owner) Fence() store.Compare { return store.Compare{Key: o.key, CreateRevision: o.epoch} }

// Release gives the ownership up, so that the next need not wait for the lease to end.
func (o *Owner) Release(ctx context.Context) error {
	return fault.Wrap(o.lease.Release(ctx), "give up %s", o.key)
}
