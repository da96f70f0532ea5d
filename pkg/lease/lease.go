// Package lease keeps a lease of the store alive, and tells its holder in time when it may have ended.
//
// # Protocol
//
// Whoever holds the lease puts keys of its own under it, which vanish with it (see package shard). A holder that hears
// nothing from the store for two thirds of the time to live must stop, by the monotonic clock: Lost says so before anybody
// else can have its keys. That gives liveness only; safety is the fence, a comparison of a key's creation revision in every
// transaction.
package lease

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
)

// DefaultTTL is how long a lease outlives its holder's last word. A take-over takes as long, and half a second
// more at most until etcd finds that the lease has ended.
const DefaultTTL = 4 * time.Second

// Options say more about a lease.
type Options struct {
	// TTL is how long it outlives the holder's last word; 0 means DefaultTTL.
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

// Lease is a lease of a store that is kept alive, for whoever has keys of its own to put under it.
type Lease struct {
	store  store.Store
	id     store.LeaseID
	opts   Options
	lost   chan struct{}
	until  atomic.Pointer[time.Time] // when it is lost, unless the store answers before
	once   sync.Once
	cancel context.CancelFunc
	done   chan struct{}
}

// Hold takes a lease and keeps it alive, whatever becomes of ctx, until it is lost or released. Unavailable means that
// the store did not answer: try again.
func Hold(ctx context.Context, s store.Store, opts Options) (*Lease, error) {
	opts = opts.complete()
	began := time.Now()
	id, err := s.Grant(ctx, opts.TTL)
	if err != nil {
		return nil, err
	}
	keeping, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l := &Lease{store: s, id: id, opts: opts, lost: make(chan struct{}), cancel: cancel, done: make(chan struct{})}
	l.extend(began)
	go l.keep(keeping, began)
	return l, nil
}

// keep renews the lease until it is released or lost. It counts from when the store was asked, not from when it
// answered: the lease runs from some moment in between.
func (l *Lease) keep(ctx context.Context, granted time.Time) {
	defer close(l.done)
	ttl := l.opts.TTL
	limit := l.limit()
	watchdog := time.AfterFunc(limit-time.Since(granted), l.lose)
	defer watchdog.Stop()
	timer := time.NewTimer(ttl / 3)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.lost:
			return
		case <-timer.C:
		}
		sent := time.Now()
		call, cancel := context.WithTimeout(ctx, ttl/3)
		_, err := l.store.KeepAlive(call, l.id)
		cancel()
		switch {
		case err == nil && watchdog.Stop():
			watchdog.Reset(limit - time.Since(sent))
			l.extend(sent)
			timer.Reset(ttl/3 - time.Since(sent))
		case err == nil:
			return // too late: Lost has been told
		case fault.Is(err, fault.NotFound):
			l.lose()
			return
		default:
			timer.Reset(ttl / 20)
			if ctx.Err() == nil {
				l.opts.Logger.Warn("keep the ownership alive", "error", err)
			}
		}
	}
}

// limit is how long the lease is taken to last after the store was asked.
func (l *Lease) limit() time.Duration { return l.opts.TTL * 2 / 3 }

// extend notes when the store was asked, after it has answered.
func (l *Lease) extend(asked time.Time) {
	until := asked.Add(l.limit())
	l.until.Store(&until)
}

// Live tells by the clock alone whether the lease still lasts. It turns false no later than Lost is closed, and at once in
// a process that was stopped for a while and goes on: there the closing of Lost may take its turn after other work.
func (l *Lease) Live() bool {
	select {
	case <-l.lost:
		return false
	default:
		return time.Now().Before(*l.until.Load())
	}
}

func (l *Lease) lose() { l.once.Do(func() { close(l.lost) }) }

// ID is the lease, for the keys that are put under it.
func (l *Lease) ID() store.LeaseID { return l.id }

// Lost is closed when nothing has been heard from the store for two thirds of the time to live, or the store has said
// that the lease ended; and by Release. Whoever holds the keys of the lease must stop then.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Release ends the lease, and with it its keys. If it fails the lease ends by itself within its time to live.
func (l *Lease) Release(ctx context.Context) error {
	l.cancel()
	<-l.done
	l.lose()
	return l.store.Revoke(ctx, l.id)
}
