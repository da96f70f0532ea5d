// Package world holds what every simulated cloud of the sandbox shares: time, the journal that lets state
// survive the process, tables of objects with indexes, and the agenda of things that become true later.
//
// # The journal
//
// A simulated cloud keeps its objects in memory; the journal is the copy that survives kill -9. Put and Delete
// only queue a change (the newest change of one object wins inside a batch), one writer commits batches in
// order, and Flush waits until everything queued before it has been handed to the operating system. Handlers do
// not call Flush: Middleware does, before the first byte of a response leaves the process. So a client never
// holds an answer that a killed process would forget, and a thousand changes cost one commit.
//
// The file is not synced: a killed process keeps what it wrote in the page cache; a machine that loses power may
// lose the sandbox's state, which is acceptable for a simulator.
package world

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// Clock tells the time of a simulated world. Tests pass one that they move by hand.
type Clock func() time.Time

type change struct{ bucket, id string }

// Journal persists objects by bucket and id. Its methods may be called from many goroutines.
type Journal struct {
	db *bbolt.DB // nil: memory only, nothing is kept

	mu      sync.Mutex
	wake    *sync.Cond
	pending map[change][]byte // nil value: delete
	queued  uint64            // batches opened so far
	written uint64            // batches committed so far
	broken  error             // the first failed commit; every later call returns it
	closed  bool
	done    chan struct{}
}

// OpenJournal opens or creates the journal file at path. An empty path gives a journal that keeps nothing.
func OpenJournal(path string) (*Journal, error) {
	j := &Journal{pending: map[change][]byte{}, done: make(chan struct{})}
	j.wake = sync.NewCond(&j.mu)
	if path == "" {
		close(j.done)
		return j, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: time.Second, NoSync: true, NoGrowSync: true, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType,
	})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open journal %s: another process holds it", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	j.db = db
	go j.write()
	return j, nil
}

// Put queues the new value of one object. The journal keeps value; the caller must not change it afterwards.
func (j *Journal) Put(bucket, id string, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	return j.queue(bucket, id, value)
}

// Delete queues the removal of one object; an absent object is no error.
func (j *Journal) Delete(bucket, id string) error { return j.queue(bucket, id, nil) }

func (j *Journal) queue(bucket, id string, value []byte) error {
	if j.db == nil {
		return nil
	}
	if bucket == "" || id == "" {
		return fmt.Errorf("journal: bucket %q and id %q must not be empty", bucket, id)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken != nil {
		return j.broken
	}
	if j.closed {
		return errors.New("journal: closed")
	}
	if len(j.pending) == 0 {
		j.queued++
		j.wake.Broadcast()
	}
	j.pending[change{bucket, id}] = value
	return nil
}

// Flush returns when every change queued before the call is in the file, or with the error that prevents it.
func (j *Journal) Flush() error {
	if j.db == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	until := j.queued
	for j.written < until && j.broken == nil {
		j.wake.Wait()
	}
	return j.broken
}

// Load calls each for every object of a bucket, in order of id. It sees what was queued before.
func (j *Journal) Load(bucket string, each func(id string, value []byte) error) error {
	if j.db == nil {
		return nil
	}
	if err := j.Flush(); err != nil {
		return err
	}
	err := j.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error { return each(string(k), append([]byte(nil), v...)) })
	})
	if err != nil {
		return fmt.Errorf("load %s: %w", bucket, err)
	}
	return nil
}

// Close commits what is queued and releases the file.
func (j *Journal) Close() error {
	j.mu.Lock()
	closed := j.closed
	j.closed = true
	j.wake.Broadcast()
	j.mu.Unlock()
	<-j.done
	if j.db == nil || closed {
		return nil
	}
	if err := j.db.Close(); err != nil {
		return errors.Join(j.broken, fmt.Errorf("close journal: %w", err))
	}
	return j.broken
}

func (j *Journal) write() {
	defer close(j.done)
	for {
		j.mu.Lock()
		for len(j.pending) == 0 && !j.closed {
			j.wake.Wait()
		}
		if len(j.pending) == 0 {
			j.mu.Unlock()
			return
		}
		batch, number := j.pending, j.queued
		j.pending = map[change][]byte{}
		j.mu.Unlock()

		err := j.commit(batch)

		j.mu.Lock()
		j.written = number
		if err != nil && j.broken == nil {
			j.broken = err
		}
		j.wake.Broadcast()
		j.mu.Unlock()
	}
}

func (j *Journal) commit(batch map[change][]byte) error {
	err := j.db.Update(func(tx *bbolt.Tx) error {
		for c, value := range batch {
			b, err := tx.CreateBucketIfNotExists([]byte(c.bucket))
			if err != nil {
				return err
			}
			if value == nil {
				err = b.Delete([]byte(c.id))
			}
			if value != nil {
				err = b.Put([]byte(c.id), value)
			}
			if err != nil {
				return fmt.Errorf("%s/%s: %w", c.bucket, c.id, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("commit journal: %w", err)
	}
	return nil
}

// Middleware makes every response of next wait for the changes that were queued before it. When the journal
// cannot be written the client gets 500 and no success that would not last.
func (j *Journal) Middleware(next http.Handler) http.Handler {
	if j.db == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fw := &flushingWriter{ResponseWriter: w, journal: j}
		next.ServeHTTP(fw, r)
		if fw.wrote {
			return
		}
		// An empty answer has a status line, too.
		if err := j.Flush(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
}

type flushingWriter struct {
	http.ResponseWriter
	journal *Journal
	wrote   bool
	failed  error
}

// Unwrap lets http.ResponseController reach the connection.
func (w *flushingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush passes http.Flusher on, which watches need.
func (w *flushingWriter) Flush() {
	if f, ok := w.ResponseWriter.(http.Flusher); ok && w.failed == nil {
		w.wrote = true
		f.Flush()
	}
}

func (w *flushingWriter) WriteHeader(status int) {
	if w.wrote || w.failed != nil {
		return
	}
	if err := w.journal.Flush(); err != nil {
		w.failed = err
		http.Error(w.ResponseWriter, err.Error(), http.StatusInternalServerError)
		return
	}
	w.wrote = status >= 200
	w.ResponseWriter.WriteHeader(status)
}

func (w *flushingWriter) Write(b []byte) (int, error) {
	if !w.wrote && w.failed == nil {
		w.WriteHeader(http.StatusOK)
	}
	if w.failed != nil {
		return 0, w.failed
	}
	// A watch writes many times; what it tells must last as well.
	if err := w.journal.Flush(); err != nil {
		w.failed = err
		return 0, err
	}
	return w.ResponseWriter.Write(b)
}
