package etcdstore_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/etcdstore"
	"github.com/weftcloud/weft/pkg/store/storetest"
	"github.com/weftcloud/weft/pkg/testkit"
)

func TestConformanceInProcess(t *testing.T) {
	server := testkit.Etcd(t)
	storetest.Run(t, func(t *testing.T) store.Store { return closing(t, server.Store()) })
}

func TestConformanceOverConnections(t *testing.T) {
	address := testkit.EtcdAddr(t, testkit.Etcd(t))
	storetest.Run(t, func(t *testing.T) store.Store { return closing(t, dial(t, address)) })
}

func dial(t testing.TB, address string) *etcdstore.Store {
	t.Helper()
	s, err := etcdstore.Dial(clientv3.Config{Endpoints: []string{address}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// closing closes a store with its test.
func closing(t *testing.T, s *etcdstore.Store) *etcdstore.Store {
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func TestWatchOfCompactedRevisionIsConflict(t *testing.T) {
	server := testkit.Etcd(t)
	s := closing(t, server.Store())
	var revision int64
	for i := range 3 {
		var err error
		if revision, err = s.Txn(t.Context(), nil, []store.Op{{Key: "a", Value: fmt.Append(nil, i)}}); err != nil {
			t.Fatal(err)
		}
	}
	client := server.Client()
	if _, err := client.Compact(t.Context(), revision); err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); !errors.Is(err, context.Canceled) {
		t.Errorf("Close of a client in the process = %v, want what it always says", err)
	}
	w := s.Watch(t.Context(), "a", revision-1)
	for range w.Events() {
		t.Error("an event of a compacted revision arrived")
	}
	if !fault.Is(w.Err(), fault.Conflict) {
		t.Errorf("Err = %v, want Conflict", w.Err())
	}
}

func TestUnreachableIsUnavailable(t *testing.T) {
	s := closing(t, dial(t, "127.0.0.1:1"))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := s.Get(ctx, "a"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Get = %v, want Unavailable, never NotFound", err)
	}
	if _, err := s.Txn(ctx, nil, []store.Op{{Key: "a"}}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Txn = %v, want Unavailable", err)
	}
}

func TestTooLargeIsInvalid(t *testing.T) {
	s := closing(t, testkit.Etcd(t).Store())
	_, err := s.Txn(t.Context(), nil, []store.Op{{Key: "a", Value: make([]byte, 2<<20)}})
	if !fault.Is(err, fault.Invalid) {
		t.Errorf("Txn of 2 MiB = %v, want Invalid", err)
	}
}

func TestFaultKinds(t *testing.T) {
	tests := map[string]struct {
		err  error
		want fault.Kind
	}{
		"compacted":       {rpctypes.ErrGRPCCompacted, fault.Conflict},
		"no space":        {rpctypes.ErrGRPCNoSpace, fault.Quota},
		"lease":           {rpctypes.ErrGRPCLeaseNotFound, fault.NotFound},
		"duplicate":       {rpctypes.ErrGRPCDuplicateKey, fault.Invalid},
		"too many":        {rpctypes.ErrGRPCRequestTooManyRequests, fault.Throttled},
		"client's form":   {rpctypes.ErrNoSpace, fault.Quota},
		"no leader":       {rpctypes.ErrGRPCNoLeader, fault.Unavailable},
		"timeout":         {rpctypes.ErrGRPCTimeout, fault.Unavailable},
		"stopped":         {rpctypes.ErrGRPCStopped, fault.Unavailable},
		"corrupt":         {rpctypes.ErrGRPCCorrupt, fault.Internal},
		"connection":      {status.Error(codes.Unavailable, "connection refused"), fault.Unavailable},
		"deadline":        {context.DeadlineExceeded, fault.Unavailable},
		"something else":  {errors.New("odd"), fault.Internal},
		"wrapped, joined": {errors.Join(context.Canceled), fault.Unavailable},
	}
	for name, test := range tests {
		if got := fault.KindOf(etcdstore.FaultOf(t.Context(), test.err)); got != test.want {
			t.Errorf("%s: kind %s, want %s", name, got, test.want)
		}
	}
}

// BenchmarkTxn is the fenced write of one record, which every step of a saga makes.
func BenchmarkTxn(b *testing.B) {
	server := testkit.Etcd(b)
	stores := map[string]func() *etcdstore.Store{
		"in process":      server.Store,
		"over connection": func() *etcdstore.Store { return dial(b, testkit.EtcdAddr(b, server)) },
	}
	for name, open := range stores {
		b.Run(name, func(b *testing.B) {
			s := open()
			defer func() {
				if err := s.Close(); err != nil {
					b.Error(err)
				}
			}()
			if _, err := s.Txn(b.Context(), nil, []store.Op{{Key: "owner"}}); err != nil {
				b.Fatal(err)
			}
			owner, err := s.Get(b.Context(), "owner")
			if err != nil {
				b.Fatal(err)
			}
			fence := store.Compare{Key: owner.Key, CreateRevision: owner.CreateRevision}
			value := make([]byte, 2048)
			b.ReportAllocs()
			b.SetParallelism(4)
			b.RunParallel(func(p *testing.PB) {
				key := fmt.Sprintf("saga/%p", p)
				for p.Next() {
					_, err := s.Txn(b.Context(), []store.Compare{fence}, []store.Op{{Key: key, Value: value}})
					if err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkTxnOf32 is the same for 32 records in one transaction; the time is that of one record.
func BenchmarkTxnOf32(b *testing.B) {
	s := testkit.EtcdStore(b)
	value := make([]byte, 2048)
	ops := make([]store.Op, 32)
	for i := range ops {
		ops[i] = store.Op{Key: fmt.Sprintf("saga/%d", i), Value: value}
	}
	b.ReportAllocs()
	for i := 0; i < b.N; i += len(ops) {
		if _, err := s.Txn(b.Context(), nil, ops); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDeleteOf64 is one of 64 keys that are written and then deleted, each in one transaction.
func BenchmarkDeleteOf64(b *testing.B) {
	s := testkit.EtcdStore(b)
	puts, deletes := make([]store.Op, 64), make([]store.Op, 64)
	for i := range puts {
		key := fmt.Sprintf("outbox/%d", i)
		puts[i], deletes[i] = store.Op{Key: key, Value: make([]byte, 256)}, store.Op{Key: key, Delete: true}
	}
	b.ReportAllocs()
	for i := 0; i < b.N; i += len(puts) {
		for _, ops := range [][]store.Op{puts, deletes} {
			if _, err := s.Txn(b.Context(), nil, ops); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// TestUsage asks an etcd how full it is: more after a large write, and far from its quota.
func TestUsage(t *testing.T) {
	s := testkit.EtcdStore(t)
	before, err := s.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if _, err := s.Txn(t.Context(), nil, []store.Op{{Key: fmt.Sprint("/large/", i), Value: make([]byte, 1<<20)}}); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Await(t, 10*time.Second, func() error { // it counts when it writes a batch to its file
		after, err := s.Usage(t.Context())
		if err == nil && (after.Used < before.Used+20<<20 || after.Quota <= 0 || after.Part() <= 0 || after.Part() > 0.5) {
			err = fmt.Errorf("before %+v, after %+v", before, after)
		}
		return err
	})
}
