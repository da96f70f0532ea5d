package memstore_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
	"github.com/weftcloud/weft/pkg/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return memstore.New() })
}

var errInjected = errors.New("injected")

func TestFaultBeforeLeavesNothing(t *testing.T) {
	s := memstore.New()
	s.SetFaults(memstore.Faults{Before: func(op, key string) error {
		if op == memstore.OpTxn && key == "a" {
			return fault.As(fault.Unavailable, errInjected)
		}
		return nil
	}})
	_, err := s.Txn(t.Context(), nil, []store.Op{{Key: "a"}})
	if !fault.Is(err, fault.Unavailable) || !errors.Is(err, errInjected) {
		t.Errorf("Txn = %v, want the injected fault", err)
	}
	if _, err := s.Get(t.Context(), "a"); !fault.Is(err, fault.NotFound) {
		t.Errorf("Get = %v, want NotFound", err)
	}
	s.SetFaults(memstore.Faults{})
	if _, err := s.Txn(t.Context(), nil, []store.Op{{Key: "a"}}); err != nil {
		t.Errorf("Txn without faults: %v", err)
	}
}

func TestFaultAfterHasTheEffect(t *testing.T) {
	s := memstore.New()
	s.SetFaults(memstore.Faults{After: func(op, _ string) error {
		if op == memstore.OpTxn {
			return fault.As(fault.Unavailable, errInjected)
		}
		return nil
	}})
	if _, err := s.Txn(t.Context(), nil, []store.Op{{Key: "a"}}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Txn = %v, want Unavailable", err)
	}
	if _, err := s.Get(t.Context(), "a"); err != nil {
		t.Errorf("Get of what was written with a lost answer: %v", err)
	}
}

func TestWatchOfForgottenRevisionIsConflict(t *testing.T) {
	for name, forget := range map[string]func(s *memstore.Store){
		"compact": func(s *memstore.Store) { s.Compact() },
		"bounded history": func(s *memstore.Store) {
			for range 10 {
				if _, err := s.Txn(t.Context(), nil, []store.Op{{Key: "b"}}); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := memstore.NewWith(memstore.Options{History: 4})
			revision, err := s.Txn(t.Context(), nil, []store.Op{{Key: "a"}})
			if err != nil {
				t.Fatal(err)
			}
			forget(s)
			w := s.Watch(t.Context(), "", revision)
			for range w.Events() {
				t.Error("an event of a forgotten revision arrived")
			}
			if !fault.Is(w.Err(), fault.Conflict) {
				t.Errorf("Err = %v, want Conflict", w.Err())
			}
		})
	}
}

func TestBreakWatches(t *testing.T) {
	s := memstore.New()
	w := s.Watch(t.Context(), "", 0)
	s.BreakWatches()
	for range w.Events() {
		t.Error("an event arrived")
	}
	if !fault.Is(w.Err(), fault.Unavailable) {
		t.Errorf("Err = %v, want Unavailable", w.Err())
	}
}

func TestInjectedClock(t *testing.T) {
	now := time.Unix(1000, 0)
	s := memstore.NewWith(memstore.Options{Now: func() time.Time { return now }})
	id, err := s.Grant(t.Context(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Txn(t.Context(), nil, []store.Op{{Key: "a", Lease: id}}); err != nil {
		t.Fatal(err)
	}
	now = now.Add(4 * time.Second)
	if _, err := s.KeepAlive(t.Context(), id); err != nil {
		t.Fatalf("KeepAlive before the end: %v", err)
	}
	now = now.Add(4 * time.Second)
	if _, err := s.Get(t.Context(), "a"); err != nil {
		t.Errorf("Get after a keep-alive: %v", err)
	}
	before := s.Revision()
	now = now.Add(time.Second)
	s.Tick()
	if got := s.Revision(); got != before+1 {
		t.Errorf("revision after the lease ended = %d, want %d", got, before+1)
	}
	if _, err := s.Get(t.Context(), "a"); !fault.Is(err, fault.NotFound) {
		t.Errorf("Get after the lease ended = %v, want NotFound", err)
	}
}

func TestLeaseEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		ctx, cancel := context.WithCancel(t.Context())
		w := s.Watch(ctx, "", 0)
		id, err := s.Grant(ctx, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Txn(ctx, nil, []store.Op{{Key: "a", Lease: id}}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if batch := <-w.Events(); batch[0].Deleted {
			t.Errorf("first event %+v, want a put", batch[0])
		}
		if batch := <-w.Events(); !batch[0].Deleted || time.Since(start) != 5*time.Second {
			t.Errorf("event %+v after %s, want a deletion after 5s", batch[0], time.Since(start))
		}
		cancel()
		synctest.Wait()
	})
}
