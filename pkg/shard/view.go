package shard

import (
	"encoding/json"
	"strconv"
	"strings"
	"sync"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
)

// record is what a member's or an owner's key says.
type record struct {
	replica, address string
	create           int64 // the key's creation revision; 0 in a record of an absent key
	revision         int64 // of the last change of the key that is known
}

// value is a record as it is kept.
type value struct {
	Replica string `json:"replica"`
	Address string `json:"address,omitempty"`
}

// table is what is known of the keys below one prefix. It is told of changes from three sides, a watch, lists and this
// replica's own transactions, each in an order of its own: it keeps for each key the latest, by revision.
type table[K comparable] struct {
	floor int64 // all changes up to this revision are known
	keys  map[K]record
	gone  map[K]int64 // keys that are known to be absent since a revision above the floor
}

func newTable[K comparable]() table[K] {
	return table[K]{keys: map[K]record{}, gone: map[K]int64{}}
}

// get gives the record of a key that exists.
func (t *table[K]) get(key K) (record, bool) {
	r, ok := t.keys[key]
	return r, ok
}

// known tells whether a change is no news.
func (t *table[K]) known(key K, revision int64) bool {
	return revision <= t.floor || revision <= t.keys[key].revision || revision <= t.gone[key]
}

// put tells of a key that exists; true if that is news.
func (t *table[K]) put(key K, r record) bool {
	if t.known(key, r.revision) {
		return false
	}
	delete(t.gone, key)
	t.keys[key] = r
	return true
}

// remove tells of a key that was deleted; true if that is news.
func (t *table[K]) remove(key K, revision int64) bool {
	if t.known(key, revision) {
		return false
	}
	_, had := t.keys[key]
	delete(t.keys, key)
	t.gone[key] = revision
	return had
}

// load tells of all keys that existed at a revision; true if there was news.
func (t *table[K]) load(listed map[K]record, revision int64) bool {
	if revision <= t.floor {
		return false
	}
	news := false
	for key, r := range t.keys {
		if _, ok := listed[key]; !ok && r.revision <= revision {
			delete(t.keys, key)
			news = true
		}
	}
	for key, r := range listed {
		news = t.put(key, r) || news
	}
	t.raise(revision)
	return news
}

// raise says that all changes up to a revision are known.
func (t *table[K]) raise(revision int64) {
	t.floor = max(t.floor, revision)
	for key, at := range t.gone {
		if at <= t.floor {
			delete(t.gone, key)
		}
	}
}

// view is what a replica knows of members and owners.
type view struct {
	poke func() // called after every change

	mu      sync.Mutex
	members table[string]
	owners  table[int]
	changed chan struct{} // closed and made anew when owners change
}

func newView(poke func()) *view {
	return &view{poke: poke, members: newTable[string](), owners: newTable[int](), changed: make(chan struct{})}
}

// known tells whether members and owners have been listed.
func (v *view) known() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.members.floor > 0 && v.owners.floor > 0
}

// floor gives the revision up to which everything is known of members, or of owners.
func (v *view) floor(members bool) int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	if members {
		return v.members.floor
	}
	return v.owners.floor
}

// member gives the record of a member.
func (v *view) member(replica string) (record, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.members.get(replica)
}

// change changes the view; f tells whether there was news of members, and of owners.
func (v *view) change(f func() (members, owners bool)) {
	v.mu.Lock()
	_, owners := f()
	if owners {
		close(v.changed)
		v.changed = make(chan struct{})
	}
	v.mu.Unlock()
	v.poke()
}

func (v *view) loadMembers(page store.Page) []error {
	listed, errs := read(page, memberOf)
	v.change(func() (bool, bool) { return v.members.load(listed, page.Revision), false })
	return errs
}

func (v *view) loadOwners(page store.Page) []error {
	listed, errs := read(page, shardOf)
	v.change(func() (bool, bool) { return false, v.owners.load(listed, page.Revision) })
	return errs
}

func (v *view) applyMembers(batch []store.Event) (errs []error) {
	v.change(func() (news, _ bool) {
		news, errs = apply(&v.members, batch, memberOf)
		return news, false
	})
	return errs
}

func (v *view) applyOwners(batch []store.Event) (errs []error) {
	v.change(func() (_, news bool) {
		news, errs = apply(&v.owners, batch, shardOf)
		return false, news
	})
	return errs
}

// read gives what a list says, and what of it says nothing.
func read[K comparable](page store.Page, keyOf func(string) (K, error)) (map[K]record, []error) {
	listed := make(map[K]record, len(page.Entries))
	var errs []error
	for _, e := range page.Entries {
		key, r, err := readEntry(e, keyOf)
		if err != nil {
			errs = append(errs, err)
		}
		if r.revision > 0 {
			listed[key] = r
		}
	}
	return listed, errs
}

// apply tells a table of changes that were written together, and that are the next of its prefix.
func apply[K comparable](t *table[K], batch []store.Event, keyOf func(string) (K, error)) (news bool, errs []error) {
	last := int64(0)
	for _, event := range batch {
		last = max(last, event.Entry.ModRevision)
		if event.Deleted {
			if key, err := keyOf(event.Entry.Key); err == nil {
				news = t.remove(key, event.Entry.ModRevision) || news
			}
			continue
		}
		key, r, err := readEntry(event.Entry, keyOf)
		if err != nil {
			errs = append(errs, err)
		}
		news = t.put(key, r) || news
	}
	t.raise(last)
	return news, errs
}

// readEntry reads the key and the value of an entry. A value that says nothing gives a record of nobody, since the key is
// taken all the same; a key that says nothing gives none, of revision 0.
func readEntry[K comparable](e store.Entry, keyOf func(string) (K, error)) (K, record, error) {
	key, err := keyOf(e.Key)
	if err != nil {
		return key, record{}, err
	}
	r := record{create: e.CreateRevision, revision: e.ModRevision}
	var v value
	if err := json.Unmarshal(e.Value, &v); err != nil {
		return key, r, fault.Wrap(fault.As(fault.Invalid, err), "read %s", e.Key)
	}
	r.replica, r.address = v.Replica, v.Address
	return key, r, nil
}

// memberOf gives the replica that a member key is of.
func memberOf(key string) (string, error) { return key[strings.LastIndex(key, "/")+1:], nil }

// shardOf gives the shard that an owner key is of.
func shardOf(key string) (int, error) {
	n, err := strconv.Atoi(key[strings.LastIndex(key, "/")+1:])
	if err != nil || n < 0 {
		return 0, fault.New(fault.Invalid, "owner key %s does not end in the number of a shard", key)
	}
	return n, nil
}
