package lease

import (
	"context"
	"sync"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
)

// Lease is a lease of a store that is kept alive, for whoever has keys of its own to put under it.
type Lease struct {
	store  store.Store
	id     store.LeaseID
	opts   Options
	lost   chan struct{}
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
	go l.keep(keeping, began)
	return l, nil
}

// keep renews the lease until it is released or lost. It counts from when the store was asked, not from when it
// answered: the lease runs from some moment in between.
func (l *Lease) keep(ctx context.Context, granted time.Time) {
	defer close(l.done)
	ttl := l.opts.TTL
	limit := ttl * 2 / 3
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
