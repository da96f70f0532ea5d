package openstack

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/weftcloud/weft/pkg/driver"
)

// sessionLimit is how many sessions are kept. Who works with one keeps it longer; the limit is there since credentials that
// are rotated leave a session behind each time.
const sessionLimit = 256

// Sessions keeps one session per account, found by a hash of its credentials, so that all kinds of a service share it and
// changed credentials open a new one. Of more than 256 the least recently asked for are opened anew.
type Sessions struct {
	opts []Option
	mu   sync.Mutex
	open []*entry // the least recently asked for first
}

type entry struct {
	key     [sha256.Size]byte
	mu      sync.Mutex
	session *Session
}

// NewSessions makes an empty cache; the options are those of Open.
func NewSessions(opts ...Option) *Sessions { return &Sessions{opts: opts} }

// Get gives the session of an account and opens it if there is none yet. A failure is not kept. The errors are Open's.
func (s *Sessions) Get(ctx context.Context, c driver.Credentials) (*Session, error) {
	e := s.entry(hash(c))
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.session != nil {
		return e.session, nil
	}
	session, err := Open(ctx, c, s.opts...)
	if err != nil {
		return nil, err
	}
	e.session = session
	return session, nil
}

func (s *Sessions) entry(key [sha256.Size]byte) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := &entry{key: key}
	if i := slices.IndexFunc(s.open, func(e *entry) bool { return e.key == key }); i >= 0 {
		e = s.open[i]
		s.open = slices.Delete(s.open, i, i+1)
	}
	if len(s.open) == sessionLimit {
		s.open = slices.Delete(s.open, 0, 1)
	}
	s.open = append(s.open, e)
	return e
}

// hash gives one value for all that decides where a session leads; the parts are written with their lengths, so that no
// two credentials run together.
func hash(c driver.Credentials) [sha256.Size]byte {
	h := sha256.New()
	write := func(s string) { fmt.Fprintf(h, "%d:%s", len(s), s) }
	for _, part := range []string{c.Driver, c.Account, c.Endpoint, c.Region} {
		write(part)
	}
	for _, key := range slices.Sorted(maps.Keys(c.Data)) {
		write(key)
		write(c.Data[key])
	}
	return [sha256.Size]byte(h.Sum(nil))
}
