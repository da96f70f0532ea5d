package record_test

import (
	"context"
	"testing"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/record/recordtest"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

// drawRig gives a book whose tenants may have five networks each, and their account.
func drawRig(t *testing.T, mem *memstore.Store, s store.Store) (*record.Book, *resource.Kind, *quota.Account) {
	t.Helper()
	kinds, err := resource.NewRegistry(&networkv1.Network{})
	if err != nil {
		t.Fatal(err)
	}
	account := &quota.Account{Store: s, Limits: func(context.Context, string) (quota.Amounts, *store.Compare, error) {
		return quota.Amounts{quota.Networks: 5}, nil, nil
	}}
	return record.New(record.Config{
		Service: "network", Store: s, Outbox: recordtest.NewBox(mem, "/box/"), Kinds: kinds, Quotas: account,
		Now: func() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) },
	}), kinds.Kinds()[0], account
}

func drawing(b *record.Book, kind *resource.Kind, id string, n int64) *record.Entry {
	object := resource.Wrap(&networkv1.Network{Name: "tenants/acme/networks/" + id, Spec: &networkv1.NetworkSpec{}})
	object.Metadata().Key = "key-of-" + id
	e := b.NewEntry(kind, object)
	e.Record.Draws = quota.Amounts{quota.Networks: n}
	return e
}

func drawnNow(t *testing.T, a *quota.Account) int64 {
	t.Helper()
	state, err := a.Read(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	return state.Used[quota.Networks]
}

// TestRecordsDraw has records draw on their tenant's quota: as they are made, changed and removed, and never more than it allows.
func TestRecordsDraw(t *testing.T) {
	t.Parallel()
	mem := memstore.New()
	b, kind, account := drawRig(t, mem, mem)
	one, two := drawing(b, kind, "one", 2), drawing(b, kind, "two", 3)
	for _, e := range []*record.Entry{one, two} {
		if err := b.Add(t.Context(), e, record.Notice{}); err != nil {
			t.Fatal(err)
		}
	}
	three := drawing(b, kind, "three", 1)
	if err := b.Add(t.Context(), three, record.Notice{}); !fault.Is(err, fault.Quota) {
		t.Errorf("a sixth of five: %v", err)
	}
	if _, err := b.Current(t.Context(), three.Name); !fault.Is(err, fault.NotFound) {
		t.Errorf("what was refused is kept: %v", err)
	}
	one, err := b.Current(t.Context(), one.Name)
	if err != nil {
		t.Fatal(err)
	}
	one.Record.Draws = quota.Amounts{quota.Networks: 3}
	if err := b.Save(t.Context(), one, record.Notice{}); !fault.Is(err, fault.Quota) {
		t.Errorf("one that grows past the limit: %v", err)
	}
	one.Record.Draws = quota.Amounts{quota.Networks: 1}
	if err := b.Save(t.Context(), one, record.Notice{}); err != nil {
		t.Fatal(err)
	}
	if n := drawnNow(t, account); n != 4 {
		t.Errorf("%d are drawn, want 4", n)
	}
	if err := b.Add(t.Context(), three, record.Notice{}); err != nil {
		t.Errorf("a fifth: %v", err)
	}
	for _, e := range []*record.Entry{one, two, three} {
		if err := b.Remove(t.Context(), e, record.Notice{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := drawnNow(t, account); n != 0 {
		t.Errorf("nothing is left, and %d are drawn", n)
	}
}

// between is a store that lets something happen between the look of a write and its transaction, once.
type between struct {
	store.Store
	happens func()
}

func (s *between) Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error) {
	if do := s.happens; do != nil {
		s.happens = nil
		do()
	}
	return s.Store.Txn(ctx, compares, ops)
}

// TestRecordsTakeTurns has another take what was free when a write looked: the write looks again, and is written if there is
// enough left, and refused if not.
func TestRecordsTakeTurns(t *testing.T) {
	t.Parallel()
	for takes, want := range map[int64]bool{3: true, 4: false} {
		mem := memstore.New()
		s := &between{Store: mem}
		b, kind, account := drawRig(t, mem, s)
		other, _, _ := drawRig(t, mem, mem)
		s.happens = func() {
			if err := other.Add(t.Context(), drawing(other, kind, "other", takes), record.Notice{}); err != nil {
				t.Error(err)
			}
		}
		err := b.Add(t.Context(), drawing(b, kind, "one", 2), record.Notice{})
		if want != (err == nil) || !want && !fault.Is(err, fault.Quota) {
			t.Errorf("two of five after another took %d: %v", takes, err)
		}
		drawn := takes
		if want {
			drawn += 2
		}
		if n := drawnNow(t, account); n != drawn {
			t.Errorf("%d are drawn, want %d", n, drawn)
		}
	}
}
