package world

import (
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"sort"
)

// Table keeps the objects of one kind in memory in the order in which they were made, with indexes, and writes
// every change to the journal. It is not safe for concurrent use: its owner holds the lock of its world.
type Table[T any] struct {
	journal *Journal
	bucket  string
	rows    map[string]*row[T]
	order   []*row[T] // by seq; deleted rows stay until compaction
	dead    int
	seq     uint64
	keys    []func(*T) []string
	indexes []map[string]map[string]*row[T]
}

type row[T any] struct {
	id    string
	seq   uint64
	value *T
	keys  [][]string // per index, as they were when the row was last put
	dead  bool
}

type envelope[T any] struct {
	Seq   uint64 `json:"s"`
	Value *T     `json:"v"`
}

// NewTable makes a table whose rows live in the given bucket. Each index function yields the keys under which a
// row can be found with By(its position, key); an empty key is not indexed.
func NewTable[T any](journal *Journal, bucket string, indexes ...func(*T) []string) *Table[T] {
	t := &Table[T]{journal: journal, bucket: bucket, rows: map[string]*row[T]{}, keys: indexes}
	for range indexes {
		t.indexes = append(t.indexes, map[string]map[string]*row[T]{})
	}
	return t
}

// Load reads the rows of an earlier process.
func (t *Table[T]) Load() error {
	var loaded []*row[T]
	err := t.journal.Load(t.bucket, func(id string, value []byte) error {
		e := envelope[T]{}
		if err := json.Unmarshal(value, &e); err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
		loaded = append(loaded, &row[T]{id: id, seq: e.Seq, value: e.Value})
		return nil
	})
	if err != nil {
		return err
	}
	sort.Slice(loaded, func(i, k int) bool { return loaded[i].seq < loaded[k].seq })
	for _, r := range loaded {
		t.rows[r.id] = r
		t.order = append(t.order, r)
		t.seq = max(t.seq, r.seq)
		t.index(r)
	}
	return nil
}

// Get yields the row, or nil.
func (t *Table[T]) Get(id string) *T {
	if r := t.rows[id]; r != nil {
		return r.value
	}
	return nil
}

// Len is the number of rows.
func (t *Table[T]) Len() int { return len(t.rows) }

// Put adds or replaces a row, renews its indexes and journals it. It must be called after every change of a row.
// A value that cannot be written to the journal is a fault of the program: it panics.
func (t *Table[T]) Put(id string, v *T) {
	r := t.rows[id]
	if r == nil {
		t.seq++
		r = &row[T]{id: id, seq: t.seq}
		t.rows[id] = r
		t.order = append(t.order, r)
	}
	r.value = v
	t.index(r)
	if t.journal.db == nil {
		return
	}
	data, err := json.Marshal(envelope[T]{Seq: r.seq, Value: v})
	if err != nil {
		panic(fmt.Sprintf("journal %s/%s: %v", t.bucket, id, err))
	}
	// A broken journal is reported to every client by Middleware, which sees the same error.
	if err := t.journal.Put(t.bucket, id, data); err != nil {
		return
	}
}

// Delete removes a row; an absent row is no error.
func (t *Table[T]) Delete(id string) {
	r := t.rows[id]
	if r == nil {
		return
	}
	t.unindex(r)
	delete(t.rows, id)
	r.dead = true
	t.dead++
	if t.dead > 64 && t.dead > len(t.rows) {
		t.order = slices.DeleteFunc(t.order, func(r *row[T]) bool { return r.dead })
		t.dead = 0
	}
	// See Put.
	if err := t.journal.Delete(t.bucket, id); err != nil {
		return
	}
}

// Clear removes all rows.
func (t *Table[T]) Clear() {
	for id := range t.rows {
		t.Delete(id)
	}
}

// All yields every row, oldest first. The table may be changed while it is walked; new rows are not seen.
func (t *Table[T]) All() iter.Seq2[string, *T] {
	return func(yield func(string, *T) bool) {
		for _, r := range t.order[:len(t.order):len(t.order)] {
			if !r.dead && !yield(r.id, r.value) {
				return
			}
		}
	}
}

// Newest yields every row, newest first.
func (t *Table[T]) Newest() iter.Seq2[string, *T] {
	return func(yield func(string, *T) bool) {
		for _, r := range slices.Backward(t.order[:len(t.order):len(t.order)]) {
			if !r.dead && !yield(r.id, r.value) {
				return
			}
		}
	}
}

// By yields the rows that have key in the index at the given position, oldest first.
func (t *Table[T]) By(index int, key string) []*T {
	found := make([]*row[T], 0, len(t.indexes[index][key]))
	for _, r := range t.indexes[index][key] {
		found = append(found, r)
	}
	sort.Slice(found, func(i, k int) bool { return found[i].seq < found[k].seq })
	values := make([]*T, len(found))
	for i, r := range found {
		values[i] = r.value
	}
	return values
}

// Count is len(By(index, key)) without making the list.
func (t *Table[T]) Count(index int, key string) int { return len(t.indexes[index][key]) }

func (t *Table[T]) index(r *row[T]) {
	if len(t.keys) == 0 {
		return
	}
	fresh := make([][]string, len(t.keys))
	for i, keys := range t.keys {
		fresh[i] = keys(r.value)
	}
	if r.keys != nil && slices.EqualFunc(fresh, r.keys, slices.Equal[[]string]) {
		return
	}
	t.unindex(r)
	r.keys = fresh
	for i, keys := range fresh {
		for _, key := range keys {
			if key == "" {
				continue
			}
			if t.indexes[i][key] == nil {
				t.indexes[i][key] = map[string]*row[T]{}
			}
			t.indexes[i][key][r.id] = r
		}
	}
}

func (t *Table[T]) unindex(r *row[T]) {
	for i, keys := range r.keys {
		for _, key := range keys {
			delete(t.indexes[i][key], r.id)
			if len(t.indexes[i][key]) == 0 {
				delete(t.indexes[i], key)
			}
		}
	}
	r.keys = nil
}
