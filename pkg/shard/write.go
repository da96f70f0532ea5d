package shard

import (
	"context"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
)

// leave deletes the member key: from then on the others plan without this replica.
func (m *session) leave() error {
	revision, err := m.txn([]store.Compare{{Key: m.memberKey(), CreateRevision: m.member}}, []store.Op{{Key: m.memberKey(), Delete: true}})
	if err != nil {
		m.review()
		return fault.Wrap(err, "leave the replicas")
	}
	m.view.change(func() (bool, bool) { return m.view.members.remove(m.config.Replica, revision), false })
	return nil
}

// give deletes the owner keys of shards of which the own functions have returned, as many as one transaction takes.
func (m *session) give(shards []int, epochs map[int]int64) error {
	shards = shards[:min(len(shards), store.MaxTxnOps)]
	compares := make([]store.Compare, len(shards))
	ops := make([]store.Op, len(shards))
	for n, i := range shards {
		compares[n] = store.Compare{Key: m.ownerKey(i), CreateRevision: epochs[i]}
		ops[n] = store.Op{Key: m.ownerKey(i), Delete: true}
	}
	revision, err := m.txn(compares, ops)
	if err != nil {
		m.refused(err, func() bool { return m.isGone(shards, epochs) })
		return fault.Wrap(err, "give up %d shards", len(shards))
	}
	m.view.change(func() (_, news bool) {
		for _, i := range shards {
			news = m.view.owners.remove(i, revision) || news
		}
		return false, news
	})
	return nil
}

// take makes the owner keys of shards that nobody owns, as many as one transaction takes.
func (m *session) take(shards []int) error {
	shards = shards[:min(len(shards), store.MaxTxnOps-1)]
	compares := make([]store.Compare, 0, len(shards)+1)
	compares = append(compares, store.Compare{Key: m.memberKey(), CreateRevision: m.member})
	ops := make([]store.Op, len(shards))
	for n, i := range shards {
		compares = append(compares, store.Compare{Key: m.ownerKey(i)})
		ops[n] = store.Op{Key: m.ownerKey(i), Value: m.value, Lease: m.lease.ID()}
	}
	revision, err := m.txn(compares, ops)
	if err != nil {
		m.refused(err, func() bool { return false }) // the loss of the member key is found by the loop
		return fault.Wrap(err, "take %d shards", len(shards))
	}
	r := record{replica: m.config.Replica, address: m.config.Address, create: revision, revision: revision}
	m.view.change(func() (_, news bool) {
		for _, i := range shards {
			news = m.view.owners.put(i, r) || news
		}
		return false, news
	})
	return nil
}

// refused looks again after a transaction that was not done, or of which the answer was lost: what it was decided upon
// may be old. lost tells, upon the new view, whether it was refused because an ownership had been lost.
func (m *session) refused(err error, lost func() bool) {
	if m.review() && fault.Is(err, fault.Conflict) && lost() {
		m.config.Fenced()
	}
}

// review brings the view up to the present; false if that could not be done: the watches will, in time.
func (m *session) review() bool {
	ctx, cancel := context.WithTimeout(m.calls, m.config.TTL/3)
	defer cancel()
	if err := m.refresh(ctx); err != nil {
		if m.calls.Err() == nil {
			m.config.Logger.Warn("look who owns what", "error", err)
		}
		return false
	}
	return true
}

// isGone tells whether the key of any of the shards is no longer the one that this replica made.
func (m *session) isGone(shards []int, epochs map[int]int64) bool {
	m.view.mu.Lock()
	defer m.view.mu.Unlock()
	for _, i := range shards {
		if r, ok := m.view.owners.get(i); !ok || r.create != epochs[i] {
			return true
		}
	}
	return false
}
