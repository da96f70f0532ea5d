package shard

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestAssignIsBalancedAndMovesLittle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.IntRange(1, 300).Draw(t, "count")
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,8}-[0-9]`), 1, 12, rapid.ID[string]).Draw(t, "members")
		slices.Sort(names)
		before := assign(names[1:], count)
		after := assign(names, count)
		loads := map[string]int{}
		moved := 0
		for i, name := range after {
			loads[name]++
			if before[i] != name {
				moved++
			}
		}
		if loads[""] > 0 {
			t.Fatalf("%d shards are assigned to nobody", loads[""])
		}
		least, most := count/len(names), (count+len(names)-1)/len(names)
		for _, name := range names {
			if loads[name] < least || loads[name] > most {
				t.Errorf("%s has %d of %d shards, want between %d and %d", name, loads[name], count, least, most)
			}
		}
		// What must move is what the new member gets; the bound makes some others change places.
		if must := most; len(names) > 1 && moved > must+count/4+len(names) {
			t.Errorf("%d of %d shards moved as one of %d joined, where %d must", moved, count, len(names), must)
		}
	})
}

// Replicas of different versions must agree: what is assigned now is assigned for good.
func TestAssignStays(t *testing.T) {
	want := []string{"c", "a", "a", "a", "c", "c", "b", "b"}
	if diff := cmp.Diff(want, assign([]string{"a", "b", "c"}, 8)); diff != "" {
		t.Errorf("assignment (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"", ""}, assign(nil, 2)); diff != "" {
		t.Errorf("assignment to nobody (-want +got):\n%s", diff)
	}
}

func TestDecide(t *testing.T) {
	now := time.Unix(1000, 0)
	mine, others := record{replica: "me", create: 20}, record{replica: "b", create: 20}
	for name, tc := range map[string]struct {
		want   bool
		key    *record
		held   *held
		barred time.Time
		expect decision
	}{
		"nobody's and wanted":           {want: true, expect: decision{take: []int{0}}},
		"nobody's and not wanted":       {},
		"barred":                        {want: true, barred: now.Add(1)},
		"barred no more":                {want: true, barred: now, expect: decision{take: []int{0}}},
		"another's and wanted":          {want: true, key: &others},
		"taken":                         {want: true, key: &mine, expect: decision{start: []int{0}}},
		"taken and wanted no more":      {key: &mine, expect: decision{strays: []int{0}}},
		"of a former process":           {want: true, key: &record{replica: "me", create: 9}},
		"runs":                          {want: true, key: &mine, held: &held{running, 20}},
		"runs and is not wanted":        {key: &mine, held: &held{running, 20}, expect: decision{stop: []int{0}}},
		"runs and the key is gone":      {want: true, held: &held{running, 20}, expect: decision{stop: []int{0}}},
		"runs and the key is another's": {want: true, key: &others, held: &held{running, 19}, expect: decision{stop: []int{0}}},
		"runs and the key is younger":   {want: true, key: &mine, held: &held{running, 19}, expect: decision{stop: []int{0}}},
		"stopping":                      {key: &mine, held: &held{stopping, 20}},
		"stopping and wanted again":     {want: true, key: &mine, held: &held{stopping, 20}},
		"stopping and the key is gone":  {want: true, held: &held{stopping, 20}},
		"idle":                          {key: &mine, held: &held{idle, 20}, expect: decision{give: []int{0}}},
		"idle and wanted again":         {want: true, key: &mine, held: &held{idle, 20}, expect: decision{give: []int{0}}},
		"idle and the key is gone":      {held: &held{idle, 20}, expect: decision{forget: []int{0}}},
	} {
		t.Run(name, func(t *testing.T) {
			s := situation{me: "me", member: 10, wanted: []string{"b"}, owners: map[int]record{}, held: map[int]held{}, barred: map[int]time.Time{0: tc.barred}, now: now}
			if tc.want {
				s.wanted[0] = "me"
			}
			if tc.key != nil {
				s.owners[0] = *tc.key
			}
			if tc.held != nil {
				s.held[0] = *tc.held
			}
			if diff := cmp.Diff(tc.expect, decide(s), cmp.AllowUnexported(decision{})); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
		})
	}
}

// What a table knows must not depend on the order in which lists, watches and own writes tell it.
func TestTableKeepsTheLatest(t *testing.T) {
	put := func(revision int64) record {
		return record{replica: fmt.Sprint(revision), create: revision, revision: revision}
	}
	tb := newTable[int]()
	tb.load(map[int]record{1: put(3), 2: put(4)}, 5)
	tb.put(1, put(9)) // an own write, told before the watch comes to it
	tb.remove(2, 8)
	for name, news := range map[string]bool{
		"put before the list":            tb.put(3, put(5)),
		"put before the latest":          tb.put(1, put(7)),
		"removal before the latest":      tb.remove(1, 8),
		"put before the removal":         tb.put(2, put(7)),
		"list before the latest changes": tb.load(map[int]record{1: put(7), 2: put(7)}, 7),
	} {
		if news {
			t.Errorf("%s was taken for news", name)
		}
	}
	if r, ok := tb.get(1); !ok || r.revision != 9 {
		t.Errorf("key 1 = %+v, %t, want the write of revision 9", r, ok)
	}
	if r, ok := tb.get(2); ok {
		t.Errorf("key 2 = %+v, want none", r)
	}
	if !tb.load(nil, 10) || len(tb.keys) != 0 || len(tb.gone) != 0 {
		t.Errorf("after an empty list %+v, %v, want nothing", tb.keys, tb.gone)
	}
}
