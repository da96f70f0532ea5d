package memstore

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
)

// now gives the time by the clock of leases.
func (s *Store) now() time.Time {
	if s.options.Now != nil {
		return s.options.Now()
	}
	return time.Now()
}

// Grant implements store.Store.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (store.LeaseID, error) {
	if err := s.before(ctx, OpGrant, ""); err != nil {
		return 0, err
	}
	if ttl <= 0 {
		return 0, fault.New(fault.Invalid, "grant a lease of %s: the time to live must be positive", ttl)
	}
	id := s.grant(ttl)
	if err := s.after(OpGrant, ""); err != nil {
		return 0, err
	}
	return id, nil
}

func (s *Store) grant(ttl time.Duration) store.LeaseID {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastLease++
	id := s.lastLease
	l := &lease{ttl: ttl, ends: s.now().Add(ttl), keys: map[string]struct{}{}}
	if s.options.Now == nil {
		l.timer = time.AfterFunc(ttl, s.Tick)
	}
	s.leases[id] = l
	return id
}

// KeepAlive implements store.Store.
func (s *Store) KeepAlive(ctx context.Context, id store.LeaseID) (time.Duration, error) {
	if err := s.before(ctx, OpKeepAlive, ""); err != nil {
		return 0, err
	}
	ttl, err := s.renew(id)
	if err != nil {
		return 0, err
	}
	if err := s.after(OpKeepAlive, ""); err != nil {
		return 0, err
	}
	return ttl, nil
}

func (s *Store) renew(id store.LeaseID) (time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	l, ok := s.leases[id]
	if !ok {
		return 0, fault.New(fault.NotFound, "keep lease %x alive: it has ended", int64(id))
	}
	l.ends = s.now().Add(l.ttl)
	if l.timer != nil {
		l.timer.Reset(l.ttl)
	}
	return l.ttl, nil
}

// Revoke implements store.Store.
func (s *Store) Revoke(ctx context.Context, id store.LeaseID) error {
	if err := s.before(ctx, OpRevoke, ""); err != nil {
		return err
	}
	s.mu.Lock()
	s.end(id)
	s.mu.Unlock()
	return s.after(OpRevoke, "")
}

// Tick ends the leases whose time has come.
func (s *Store) Tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
}

// expire ends the leases whose time has come, the oldest first.
func (s *Store) expire() {
	if len(s.leases) == 0 {
		return
	}
	now := s.now()
	var due []store.LeaseID
	for id, l := range s.leases {
		if !now.Before(l.ends) {
			due = append(due, id)
		}
	}
	slices.Sort(due)
	for _, id := range due {
		s.end(id)
	}
}

// end ends a lease and deletes its keys, all at one revision.
func (s *Store) end(id store.LeaseID) {
	l, ok := s.leases[id]
	if !ok {
		return
	}
	if l.timer != nil {
		l.timer.Stop()
	}
	delete(s.leases, id)
	var events []store.Event
	for _, key := range slices.Sorted(maps.Keys(l.keys)) {
		events = s.remove(events, key)
	}
	s.commit(events)
}
