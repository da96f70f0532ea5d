package engine

import (
	"context"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
)

// Keep is how long an operation that has ended can be read.
const Keep = 30 * 24 * time.Hour

// sweepPage is how many keys a sweep reads at once.
const sweepPage = 1000

// Sweep deletes what is kept of operations that began before keep ago and have ended, and tells how many. The name of an
// operation tells when it began (UUIDv7, RFC 9562 section 5.7).
func (e *Engine) Sweep(ctx context.Context, keep time.Duration) (int, error) {
	swept := 0
	for after, more := "", true; more; {
		page, err := e.Store.List(ctx, summaryKey(""), store.ListOptions{After: after, Limit: sweepPage, KeysOnly: true})
		if err != nil {
			return swept, fault.Wrap(err, "list the operations that have ended")
		}
		more = page.More
		var ops []store.Op
		for _, entry := range page.Entries {
			after = entry.Key
			if began, ok := beganAt(entry.Key); ok && e.Now().Sub(began) > keep {
				ops = append(ops, store.Op{Key: entry.Key, Delete: true})
			}
		}
		for len(ops) > 0 {
			n := min(len(ops), deleteAtOnce)
			if _, err := e.Store.Txn(ctx, nil, ops[:n]); err != nil {
				return swept, fault.Wrap(err, "delete old operations")
			}
			swept, ops = swept+n, ops[n:]
		}
	}
	return swept, nil
}

// beganAt tells when the operation of a key began; false if its name does not tell.
func beganAt(key string) (time.Time, bool) {
	id, err := uuid.Parse(key[strings.LastIndexByte(key, '/')+1:])
	if err != nil || id.Version() != 7 {
		return time.Time{}, false
	}
	seconds, nanoseconds := id.Time().UnixTime()
	return time.Unix(seconds, nanoseconds), true
}
