// Package store keeps facts: a key-value store with revisions, in which several keys are written at once or not at all,
// provided that they are as the writer last saw them.
//
// Every service writes only below its own prefix. A value has a modification revision; a transaction compares revisions
// and writes. What no reader may conclude: that a key is absent because a read failed. A failed read is an error.
package store

import (
	"context"
	"time"
)

// Entry is one key with its value.
type Entry struct {
	// Key is the whole key.
	Key string
	// Value is the value. Callers MUST NOT change it.
	Value []byte
	// ModRevision is the store's revision at the last write of the key; > 0.
	ModRevision int64
	// CreateRevision is the store's revision at which the key was made; > 0.
	CreateRevision int64
}

// Page is the answer to a List.
type Page struct {
	// Entries are in order of their keys.
	Entries []Entry
	// Revision is the store's revision at which the list is true. A Watch from Revision+1 misses nothing.
	Revision int64
	// More says that there are more entries after the last.
	More bool
}

// ListOptions cuts a List.
type ListOptions struct {
	// After leaves out keys up to and including this one; empty means from the first.
	After string
	// Limit is the greatest number of entries; 0 means all.
	Limit int
	// KeysOnly leaves values out.
	KeysOnly bool
}

// Compare is a condition of a transaction: the key's revision must be as given. ModRevision 0 means that the key must
// not exist. If CreateRevision is not 0 it is compared instead: the key must be the very one made at that revision,
// whatever its value (a fence).
type Compare struct {
	Key            string
	ModRevision    int64
	CreateRevision int64
}

// Op is one write of a transaction: a put, or a delete.
type Op struct {
	// Key is the key.
	Key string
	// Value is the value to put; ignored by a delete.
	Value []byte
	// Delete deletes the key; that it is absent is no error.
	Delete bool
	// Lease, if not 0, makes the key vanish with the lease.
	Lease LeaseID
}

// Event is one change that a watch saw.
type Event struct {
	// Entry is the key after the change; of a deletion it has Key and ModRevision, the revision of the deletion.
	Entry Entry
	// Deleted says that the key was deleted.
	Deleted bool
}

// LeaseID identifies a lease.
type LeaseID int64

// MaxTxnOps is the greatest number of compares, and of ops, that one Txn takes (etcd, --max-txn-ops).
const MaxTxnOps = 128

// Store is a key-value store with revisions. All methods are safe for concurrent use. Errors bear a fault kind:
// Invalid, NotFound, Conflict, Unavailable, Quota (the store is full), Internal.
type Store interface {
	// Get returns one entry, or a NotFound fault.
	Get(ctx context.Context, key string) (Entry, error)
	// List returns the entries whose keys begin with prefix, in order, all as of one revision.
	List(ctx context.Context, prefix string, opts ListOptions) (Page, error)
	// Txn writes all ops, if all compares hold, and returns the new revision. If one does not hold nothing is written
	// and the error is a Conflict fault. After an Unavailable fault it is not known whether it was written.
	// No key may stand twice in ops, and there may be no more than MaxTxnOps of them: Invalid. A lease that has ended
	// is NotFound. A transaction that changes nothing returns the revision as it stands.
	Txn(ctx context.Context, compares []Compare, ops []Op) (int64, error)
	// Watch sends every change of keys that begin with prefix, from revision on (0 means from now), in order of
	// revision, grouped as they were written, until ctx ends or an error. The channel is closed then; Err of the
	// watch tells why. A Conflict fault means that the revision is no longer kept: list again and watch from there.
	Watch(ctx context.Context, prefix string, revision int64) Watch
	// Grant makes a lease that lasts for ttl after the last KeepAlive; the store may round ttl up.
	Grant(ctx context.Context, ttl time.Duration) (LeaseID, error)
	// KeepAlive renews a lease once and returns the time to live that the store answered with. NotFound means that
	// the lease has ended.
	KeepAlive(ctx context.Context, lease LeaseID) (time.Duration, error)
	// Revoke ends a lease and deletes its keys; that it has ended is no error.
	Revoke(ctx context.Context, lease LeaseID) error
	// Close gives up connections. The store's data stays.
	Close() error
}

// Meter is a Store that can tell how full it is.
type Meter interface {
	// Usage tells how full the store is.
	Usage(ctx context.Context) (Usage, error)
}

// Usage is how full a store is, in bytes.
type Usage struct {
	// Used is what is used, Quota what may be; 0 means that there is no bound.
	Used, Quota int64
}

// Part gives the part of the quota that is used, from 0 to 1; 0 if there is no bound.
func (u Usage) Part() float64 {
	if u.Quota <= 0 {
		return 0
	}
	return float64(u.Used) / float64(u.Quota)
}

// Watch is a running watch.
type Watch interface {
	// Events is closed when the watch ends.
	Events() <-chan []Event
	// Err tells why the watch ended; nil while it runs and after ctx ended. Valid once Events is closed.
	Err() error
}
