package world

import (
	"container/heap"
	"time"
)

// Agenda holds what becomes true later: a server that turns ACTIVE, a volume that is gone. Nothing runs by
// itself: the owner calls Run with the present time before it reads or changes its world, so an object costs no
// goroutine, and a world that slept (or was killed and loaded again) catches up in the order of time.
//
// It is not safe for concurrent use: its owner holds the lock of its world.
type Agenda struct {
	entries entries
	seq     uint64
}

type entry struct {
	at  time.Time
	seq uint64
	do  func(at time.Time)
}

// At has do called once the time at has come, with the time it was due. do may add further entries. It MUST look
// at the object again, which may have changed or gone meanwhile.
func (a *Agenda) At(at time.Time, do func(at time.Time)) {
	a.seq++
	heap.Push(&a.entries, entry{at: at, seq: a.seq, do: do})
}

// Run does everything that is due at now, earliest first.
func (a *Agenda) Run(now time.Time) {
	for len(a.entries) > 0 && !a.entries[0].at.After(now) {
		e := heap.Pop(&a.entries).(entry)
		e.do(e.at)
	}
}

// Clear forgets everything.
func (a *Agenda) Clear() { a.entries = nil }

type entries []entry

func (e entries) Len() int { return len(e) }
func (e entries) Less(i, k int) bool {
	if e[i].at.Equal(e[k].at) {
		return e[i].seq < e[k].seq
	}
	return e[i].at.Before(e[k].at)
}
func (e entries) Swap(i, k int) { e[i], e[k] = e[k], e[i] }
func (e *entries) Push(x any)   { *e = append(*e, x.(entry)) }
func (e *entries) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}
