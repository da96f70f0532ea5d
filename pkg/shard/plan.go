package shard

import (
	"cmp"
	"hash/fnv"
	"slices"
	"time"
)

// assign gives the replica that ought to own each shard. It is a function of the members' names alone, the same in every
// replica and every version of this code: replicas that disagree wait for each other.
//
// It is rendezvous hashing with a bound: each pair of a member and a shard has a weight, and the pairs are taken from the
// heaviest on, as long as the shard is free and the member has room. A member has room for count/members shards, and
// the first ones to fill up have room for one of the rest, so that loads differ by at most one. When a member joins or
// leaves few shards move but those that must.
func assign(members []string, count int) []string {
	owners := make([]string, count)
	if len(members) == 0 {
		return owners
	}
	type pair struct {
		weight        uint64
		member, shard int
	}
	pairs := make([]pair, 0, len(members)*count)
	for m, name := range members {
		h := fnv.New64a()
		h.Write([]byte(name)) // a hash never fails
		seed := h.Sum64()
		for i := range count {
			pairs = append(pairs, pair{weight: mix(seed ^ mix(uint64(i)+1)), member: m, shard: i})
		}
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(members[a.member], members[b.member]), cmp.Compare(a.shard, b.shard))
	})
	least, rest := count/len(members), count%len(members)
	loads := make([]int, len(members))
	for _, p := range pairs {
		load := loads[p.member]
		if owners[p.shard] != "" || load > least || load == least && rest == 0 {
			continue
		}
		if load == least {
			rest--
		}
		loads[p.member]++
		owners[p.shard] = members[p.member]
	}
	return owners
}

// mix spreads the bits of x over the whole word (the finalizer of SplitMix64, Steele, Lea and Flood 2014).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// phase is how far a shard is that this replica holds.
type phase int

const (
	running  phase = iota // the own function runs
	stopping              // it runs, and its context has ended
	idle                  // it has returned: the key is to be deleted
)

// held is what decide must know of a shard that this replica holds.
type held struct {
	phase phase
	epoch int64
}

// situation is all that decide looks at.
type situation struct {
	me     string
	member int64          // the creation revision of my member key
	wanted []string       // by shard: who ought to own it
	owners map[int]record // by shard: who does
	held   map[int]held   // by shard: what I hold
	barred map[int]time.Time
	now    time.Time
}

// decision is what is to be done, by shard.
type decision struct {
	stop   []int // end the context of the own function
	forget []int // it is idle, and the key is no longer mine
	start  []int // the key is mine: call the own function
	strays []int // the key is mine, but I ought not to own it: hold it as idle, so that it is given
	give   []int // delete the key
	take   []int // make the key
}

// decide says what to do about every shard.
func decide(s situation) decision {
	var d decision
	for i, wanted := range s.wanted {
		want := wanted == s.me
		key, exists := s.owners[i]
		h, holding := s.held[i]
		mine := exists && key.replica == s.me && key.create > s.member
		switch {
		case holding && (!mine || key.create != h.epoch):
			switch h.phase {
			case running:
				d.stop = append(d.stop, i)
			case idle:
				d.forget = append(d.forget, i)
			case stopping:
			}
		case holding && h.phase == running && !want:
			d.stop = append(d.stop, i)
		case holding && h.phase == idle:
			d.give = append(d.give, i)
		case holding:
		case mine && want:
			d.start = append(d.start, i)
		case mine:
			d.strays = append(d.strays, i)
		case !exists && want && !s.now.Before(s.barred[i]):
			d.take = append(d.take, i)
		}
	}
	return d
}
