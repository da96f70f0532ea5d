package kubernetes

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/weftcloud/weft/pkg/driver"
)

// sessionLimit is how many sessions are kept; a session costs a connection and what it knows of the cluster's kinds.
const sessionLimit = 256

// Sessions keeps sessions by their credentials, so that all work on a cluster shares one connection, one budget of
// requests and one look at its kinds. Changed credentials make a new session. The zero value is ready to use.
type Sessions struct {
	mu   sync.Mutex
	open map[[sha256.Size]byte]*Session
	// order holds the keys of open, the least recently used first.
	order [][sha256.Size]byte
}

// Open gives the session of these credentials; see the function Open for its errors. A failure is not kept.
func (s *Sessions) Open(ctx context.Context, c driver.Credentials) (*Session, error) {
	key := fingerprint(c)
	if found := s.use(key); found != nil {
		return found, nil
	}
	// Opened outside the lock: a cluster that does not answer must not hold up the others. Two may open the same
	// cluster at once; the first to finish stays.
	made, err := Open(ctx, c)
	if err != nil {
		return nil, err
	}
	return s.keep(key, made), nil
}

func (s *Sessions) use(key [sha256.Size]byte) *Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.open[key]
	if found != nil {
		s.order = append(slices.DeleteFunc(s.order, func(k [sha256.Size]byte) bool { return k == key }), key)
	}
	return found
}

func (s *Sessions) keep(key [sha256.Size]byte, made *Session) *Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found := s.open[key]; found != nil {
		return found
	}
	if s.open == nil {
		s.open = map[[sha256.Size]byte]*Session{}
	}
	if len(s.order) >= sessionLimit {
		delete(s.open, s.order[0])
		s.order = s.order[1:]
	}
	s.open[key] = made
	s.order = append(s.order, key)
	return made
}

// fingerprint identifies credentials without keeping them. Each value goes in with its length, so that no two
// credentials make one text.
func fingerprint(c driver.Credentials) [sha256.Size]byte {
	h := sha256.New()
	for _, value := range []string{c.Account, c.Endpoint, c.Region, c.Data[KubeconfigKey]} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(value))))
		h.Write([]byte(value))
	}
	return [sha256.Size]byte(h.Sum(nil))
}
