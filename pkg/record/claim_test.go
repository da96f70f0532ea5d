package record_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/record/recordtest"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

// The tests let a network claim its MTU of a space that all networks share; 1500 stands for any from 1500 to 1503.
func claimsOf(e *record.Entry) []record.Want {
	mtu := e.Object.Spec().(*networkv1.NetworkSpec).GetMtu()
	w := record.Want{Field: "mtu", Space: "mtu", Low: mtu, High: mtu, Thing: "MTU", Of: "all"}
	switch mtu {
	case 0:
		return nil
	case 1500:
		w.High = 1503
	}
	return []record.Want{w}
}

// shaky is a store whose transactions may fail, before they are written or after.
type shaky struct {
	store.Store
	fail func() (before, after bool)
}

var errCut = fault.New(fault.Unavailable, "the connection is cut")

func (s *shaky) Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error) {
	before, after := s.fail()
	if before {
		return 0, errCut
	}
	revision, err := s.Store.Txn(ctx, compares, ops)
	if err == nil && after {
		return 0, errCut
	}
	return revision, err
}

// claimRig is a store with books of several processes on it.
type claimRig struct {
	*testing.T
	store *memstore.Store
	kind  *resource.Kind
}

func newClaimRig(t *testing.T) *claimRig {
	kinds, err := resource.NewRegistry(&networkv1.Network{})
	if err != nil {
		t.Fatal(err)
	}
	return &claimRig{T: t, store: memstore.New(), kind: kinds.Kinds()[0]}
}

func (r *claimRig) book(fail func() (before, after bool)) *record.Book {
	r.Helper()
	kinds, err := resource.NewRegistry(&networkv1.Network{})
	if err != nil {
		r.Fatal(err)
	}
	return record.New(record.Config{
		Service: "network", Store: &shaky{r.store, fail}, Outbox: recordtest.NewBox(r.store, "/box/"), Kinds: kinds,
		Now: func() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }, Claims: claimsOf,
	})
}

func calm() (before, after bool) { return false, false }

func (r *claimRig) entry(b *record.Book, id, key string, mtu int32) *record.Entry {
	object := resource.Wrap(&networkv1.Network{Name: id, Spec: &networkv1.NetworkSpec{Mtu: mtu}})
	object.Metadata().Key = key
	return b.NewEntry(r.kind, object)
}

// check wants each number that is held to have one owner, whose record stands and says so, and each that a record says it
// holds to be held by it. It gives the owners by number.
func (r *claimRig) check() map[string]string {
	r.Helper()
	page, err := r.store.List(context.Background(), "/weft/network/c/", store.ListOptions{})
	if err != nil {
		r.Fatal(err)
	}
	keys := map[string]string{}
	for _, e := range page.Entries {
		keys[strings.TrimLeft(e.Key[strings.LastIndexByte(e.Key, '/')+1:], "0")] = string(e.Value)
	}
	entries, _, err := r.book(calm).List(context.Background(), "", record.ID{}, 0)
	if err != nil {
		r.Fatal(err)
	}
	said := map[string]string{}
	for _, e := range entries {
		for _, c := range e.Record.GetClaims() {
			n := fmt.Sprint(c.GetNumber())
			if said[n] != "" {
				r.Fatalf("%s has two owners: %s and %s", n, said[n], e.Name)
			}
			said[n] = e.Name + "+" + e.Key
		}
	}
	if d := cmp.Diff(said, keys); d != "" {
		r.Fatalf("what records say they hold, and what is held, differ (-said +held):\n%s", d)
	}
	return keys
}

func TestClaims(t *testing.T) {
	r := newClaimRig(t)
	b := r.book(calm)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	one := r.entry(b, "tenants/acme/networks/one", "k1", 1400)
	must(b.Add(ctx, one, record.Notice{}))
	two := r.entry(b, "tenants/acme/networks/two", "k2", 1400)
	err := b.Add(ctx, two, record.Notice{})
	if !fault.Is(err, fault.Exists) || !strings.Contains(err.Error(), "MTU 1400 of all is taken by tenants/acme/networks/one") || fault.Field(err) != "spec.mtu" {
		t.Errorf("the second at a number gets %v in %q, want the owner's name", err, fault.Field(err))
	}
	other := r.entry(b, "tenants/other/networks/two", "k3", 1400)
	if err := b.AddFirst(ctx, other, record.Notice{}); !fault.Is(err, fault.Exists) || !strings.Contains(err.Error(), "another tenant") || strings.Contains(err.Error(), "acme") {
		t.Errorf("one of another tenant gets %v, want no name", err)
	}
	// A change takes the new number at once, and gives the former up when the object has been brought to it.
	one.Object.SetSpec(&networkv1.NetworkSpec{Mtu: 1300})
	one.Object.Metadata().Generation = 2
	must(b.Save(ctx, one, record.Notice{}))
	if held := r.check(); len(held) != 2 {
		t.Errorf("while it is changed it holds %v, want both", held)
	}
	one.Object.Status().Phase, one.Object.Status().ObservedGeneration = kindv1.Phase_PHASE_READY, 2
	must(b.Save(ctx, one, record.Notice{}))
	if held := r.check(); len(held) != 1 || held["1300"] == "" {
		t.Errorf("after the change it holds %v, want 1300", held)
	}
	must(b.Add(ctx, two, record.Notice{}))
	// What is released holds on until it is gone.
	one.Record.Release = true
	must(b.Save(ctx, one, record.Notice{}))
	if held := r.check(); len(held) != 2 {
		t.Errorf("while it is released %v are held, want both", held)
	}
	stale, err := b.Get(ctx, one.ID)
	must(err)
	must(b.Remove(ctx, one, record.Notice{}))
	must(b.Add(ctx, r.entry(b, "tenants/acme/networks/three", "k4", 1300), record.Notice{}))
	if err := b.Remove(ctx, stale, record.Notice{}); !record.IsConflict(err) {
		t.Errorf("a second removal gives %v, want a conflict", err)
	}
	if held := r.check(); held["1300"] != "tenants/acme/networks/three+k4" {
		t.Errorf("1300 is held by %q; a second removal must free nothing", held["1300"])
	}
}

// TestClaimPassesOver makes a resource anew whose object is gone: the new record has the number of the one that it replaces,
// of which nothing is lost when that one is removed. While the object stands its number is not given away.
func TestClaimPassesOver(t *testing.T) {
	for want, drift := range map[string]*kindv1.Drift{
		"k2": {Type: kindv1.DriftType_DRIFT_TYPE_MISSING},
		"k1": {Type: kindv1.DriftType_DRIFT_TYPE_FAILED},
	} {
		t.Run(want, func(t *testing.T) {
			r := newClaimRig(t)
			b := r.book(calm)
			old := r.entry(b, "tenants/acme/networks/one", "k1", 1400)
			if err := b.Add(t.Context(), old, record.Notice{}); err != nil {
				t.Fatal(err)
			}
			old.Object.Status().Drift = drift
			if err := b.Save(t.Context(), old, record.Notice{}); err != nil {
				t.Fatal(err)
			}
			anew := r.entry(b, "tenants/acme/networks/one", "k2", 1400)
			anew.Record.Replaces = "k1"
			err := b.Add(t.Context(), anew, record.Notice{})
			if taken := fault.Is(err, fault.Exists); taken != (want == "k1") || !taken && err != nil {
				t.Fatalf("made anew: %v", err)
			}
			if held := r.check(); held["1400"] != "tenants/acme/networks/one+"+want {
				t.Errorf("1400 is held by %q, want %s", held["1400"], want)
			}
			if old, err = b.Get(t.Context(), old.ID); err != nil {
				t.Fatal(err)
			}
			for _, write := range []func() error{
				func() error { return b.Save(t.Context(), old, record.Notice{}) },
				func() error { return b.Remove(t.Context(), old, record.Notice{}) },
			} {
				if err := write(); err != nil {
					t.Fatal(err)
				}
			}
			if held := r.check(); want == "k2" && held["1400"] != "tenants/acme/networks/one+k2" || want == "k1" && len(held) > 0 {
				t.Errorf("afterwards %v are held", held)
			}
		})
	}
}

func TestClaimOfARange(t *testing.T) {
	r := newClaimRig(t)
	b := r.book(calm)
	numbers := map[int32]bool{}
	for i := range 4 {
		e := r.entry(b, fmt.Sprintf("tenants/acme/networks/n%d", i), fmt.Sprintf("k%d", i), 1500)
		if err := b.AddFirst(t.Context(), e, record.Notice{}); err != nil {
			t.Fatal(err)
		}
		n := record.Claimed(e)["mtu"]
		if n < 1500 || n > 1503 || numbers[n] {
			t.Errorf("number %d was chosen, with %v taken", n, numbers)
		}
		numbers[n] = true
		read, err := b.Get(t.Context(), e.ID)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Save(t.Context(), read, record.Notice{}); err != nil || record.Claimed(read)["mtu"] != n {
			t.Errorf("after another write it holds %v (%v), want %d still", record.Claimed(read), err, n)
		}
	}
	e := r.entry(b, "tenants/acme/networks/late", "k9", 1500)
	if err := b.Add(t.Context(), e, record.Notice{}); !fault.Is(err, fault.Exists) || !strings.Contains(err.Error(), "all taken") {
		t.Errorf("one more than there are numbers gets %v", err)
	}
	want := claimsOf(e)[0]
	if owner, err := b.Holder(t.Context(), want, e.Name); err != nil || owner == "" {
		t.Errorf("the holder of a full range is %q, %v", owner, err)
	}
	if owner, err := b.Holder(t.Context(), want, "tenants/acme/networks/n0"); err != nil || owner != "" {
		t.Errorf("who has a number of it finds it held by %q, %v", owner, err)
	}
}

// TestClaimsCrashAtEachWrite lets the process die before and after each write of a record's life. Whoever goes on finds the
// number held or free, as the record says, and in the end it is free.
func TestClaimsCrashAtEachWrite(t *testing.T) {
	life := func(r *claimRig, b *record.Book) error {
		ctx := r.Context()
		id := record.ID{Name: "tenants/acme/networks/one", Key: "k1"}
		e, err := b.Get(ctx, id)
		if fault.Is(err, fault.NotFound) {
			if _, err := r.store.Get(ctx, "/weft/network/t/k1"); err == nil {
				return nil // it is over
			}
			e = r.entry(b, id.Name, id.Key, 1400)
			if err := b.Add(ctx, e, record.Notice{Verb: "pending"}); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		if e.Object.Metadata().GetGeneration() == 0 {
			e.Object.SetSpec(&networkv1.NetworkSpec{Mtu: 1500})
			e.Object.Metadata().Generation = 1
			if err := b.Save(ctx, e, record.Notice{Verb: "updating"}); err != nil {
				return err
			}
		}
		if !e.Record.GetRelease() && e.Object.Status().GetObservedGeneration() == 0 {
			e.Object.Status().Phase, e.Object.Status().ObservedGeneration = kindv1.Phase_PHASE_READY, 1
			if err := b.Save(ctx, e, record.Notice{Verb: "ready"}); err != nil {
				return err
			}
		}
		e.Record.Release = true
		if err := b.Save(ctx, e, record.Notice{Verb: "releasing"}); err != nil {
			return err
		}
		return b.Remove(ctx, e, record.Notice{Verb: "released"})
	}
	broke := 0
	for at := 1; ; at++ {
		for _, after := range []bool{false, true} {
			r, writes := newClaimRig(t), 0
			err := life(r, r.book(func() (bool, bool) {
				writes++
				return writes == at && !after, writes == at && after
			}))
			if err == nil {
				if broke < 10 {
					t.Fatalf("it broke %d times only, at %d", broke, at)
				}
				return
			}
			broke++
			if !errors.Is(err, errCut) {
				t.Fatalf("write %d broke by %v", at, err)
			}
			r.check()
			if err := life(r, r.book(calm)); err != nil {
				t.Fatalf("after a crash at write %d: %v", at, err)
			}
			if held := r.check(); len(held) != 0 {
				t.Errorf("after a crash at write %d, %v are held in the end", at, held)
			}
		}
	}
}

// TestOneOwnerAtATime runs random histories of several processes whose writes fail now and then, and wants after each step
// that each number has one owner at most, and that all are free when all records are gone.
func TestOneOwnerAtATime(t *testing.T) {
	mtus := []int32{0, 1400, 1401, 1500, 1501}
	for seed := range uint64(150) {
		r := newClaimRig(t)
		random := rand.New(rand.NewPCG(seed, 7))
		books := []*record.Book{}
		for range 3 {
			books = append(books, r.book(func() (bool, bool) { return random.IntN(12) == 0, random.IntN(12) == 0 }))
		}
		old := []*record.Entry{} // as some process read them, perhaps long ago
		refused, keys := 0, 0
		for range 60 {
			b := books[random.IntN(len(books))]
			err := r.step(b, random, mtus, &old, &keys)
			if fault.Is(err, fault.Exists) {
				refused++
			} else if err != nil && !fault.Is(err, fault.Conflict) && !errors.Is(err, errCut) {
				t.Fatalf("seed %d: %v", seed, err)
			}
			r.check()
		}
		b := r.book(calm)
		all, _, err := b.List(t.Context(), "", record.ID{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			if err := b.Remove(t.Context(), e, record.Notice{}); err != nil {
				t.Fatal(err)
			}
		}
		if held := r.check(); len(held) != 0 {
			t.Fatalf("seed %d: %v are held by nobody", seed, held)
		}
		if keys > 0 && refused == 0 && seed == 0 {
			t.Errorf("nothing was refused in %d additions", keys)
		}
	}
}

// step does one thing that a process may do.
func (r *claimRig) step(b *record.Book, random *rand.Rand, mtus []int32, old *[]*record.Entry, keys *int) error {
	ctx := r.Context()
	if len(*old) == 0 || random.IntN(3) == 0 {
		*keys++
		e := r.entry(b, fmt.Sprintf("tenants/acme/networks/n%d", random.IntN(6)), fmt.Sprintf("k%d", *keys), mtus[random.IntN(len(mtus))])
		add := b.Add
		if random.IntN(2) == 0 {
			add = b.AddFirst
		}
		err := add(ctx, e, record.Notice{})
		*old = append(*old, e)
		return err
	}
	i := random.IntN(len(*old))
	e := (*old)[i]
	if random.IntN(2) == 0 {
		fresh, err := b.Get(ctx, e.ID)
		if fault.Is(err, fault.NotFound) {
			*old = slices.Delete(*old, i, i+1)
			return nil
		}
		if err != nil {
			return err
		}
		e = fresh
		(*old)[i] = e
	}
	switch random.IntN(4) {
	case 0:
		e.Object.SetSpec(&networkv1.NetworkSpec{Mtu: mtus[random.IntN(len(mtus))]})
		e.Object.Metadata().Generation++
		return b.Save(ctx, e, record.Notice{})
	case 1:
		e.Object.Status().Phase, e.Object.Status().ObservedGeneration = kindv1.Phase_PHASE_READY, e.Object.Metadata().GetGeneration()
		return b.Save(ctx, e, record.Notice{})
	case 2:
		e.Record.Release = true
		return b.Save(ctx, e, record.Notice{})
	default:
		return b.Remove(ctx, e, record.Notice{})
	}
}
