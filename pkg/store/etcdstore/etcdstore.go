// Package etcdstore is a store in etcd, over the network or in the same process (see package embed).
//
// Requests are built as etcd's own messages, without the client library's operations in between: a transaction is the
// hottest call of the whole system, and the operations would copy every value twice.
//
// Watches, keep-alives and all else each have a connection of their own (see Dial): a large answer must not delay a
// keep-alive, and with it cost a lease.
package etcdstore

import (
	"context"
	"errors"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
)

// DefaultTimeout bounds a request whose context has no deadline.
const DefaultTimeout = 5 * time.Second

// pageSize is how many entries one request of a List without a limit asks for.
const pageSize = 1000

// Options change how a Store reaches etcd. The zero value uses the one client for everything.
type Options struct {
	// KV answers reads and transactions; nil means the client's connection. A server in the same process gives its own.
	KV pb.KVClient
	// Watch is the client for watches; nil means the same client.
	Watch *clientv3.Client
	// Lease is the client for leases; nil means the same client.
	Lease *clientv3.Client
	// Timeout bounds a request whose context has no deadline; 0 means DefaultTimeout.
	Timeout time.Duration
	// OnClose is called by Close, after the clients have been closed.
	OnClose func() error
}

// Store is a store in etcd.
type Store struct {
	kv      pb.KVClient
	watch   *clientv3.Client
	lease   *clientv3.Client
	clients []*clientv3.Client
	timeout time.Duration
	onClose func() error
}

var _ store.Store = (*Store)(nil)

// New makes a store over a client, which it closes with itself.
func New(client *clientv3.Client, opts Options) *Store {
	s := &Store{kv: opts.KV, watch: client, lease: client, clients: []*clientv3.Client{client}, timeout: opts.Timeout, onClose: opts.OnClose}
	if s.kv == nil {
		s.kv = clientv3.RetryKVClient(client)
	}
	if opts.Watch != nil {
		s.watch, s.clients = opts.Watch, append(s.clients, opts.Watch)
	}
	if opts.Lease != nil {
		s.lease, s.clients = opts.Lease, append(s.clients, opts.Lease)
	}
	if s.timeout == 0 {
		s.timeout = DefaultTimeout
	}
	return s
}

// Dial connects to etcd, three times: for watches, for leases, for all else. It does not wait for the connections.
func Dial(config clientv3.Config) (*Store, error) {
	if config.DialKeepAliveTime == 0 {
		config.DialKeepAliveTime, config.DialKeepAliveTimeout = 5*time.Second, 3*time.Second
	}
	if config.Logger == nil {
		config.Logger = zap.NewNop() // it logs every retry, and every error that it also returns
	}
	clients := make([]*clientv3.Client, 0, 3)
	for range 3 {
		client, err := clientv3.New(config)
		if err != nil {
			return nil, errors.Join(fault.Wrap(fault.As(fault.Invalid, err), "connect to etcd at %v", config.Endpoints), closeAll(clients))
		}
		clients = append(clients, client)
	}
	return New(clients[0], Options{Watch: clients[1], Lease: clients[2]}), nil
}

// closeAll closes clients.
func closeAll(clients []*clientv3.Client) error {
	var errs []error
	for _, c := range clients {
		if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Close implements store.Store.
func (s *Store) Close() error {
	err := closeAll(s.clients)
	if s.onClose != nil {
		err = errors.Join(err, s.onClose())
	}
	return fault.Wrap(err, "close the connection to etcd")
}

// bound gives ctx a deadline, if it has none.
func (s *Store) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, s.timeout)
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.Entry, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	resp, err := s.kv.Range(ctx, &pb.RangeRequest{Key: []byte(key)})
	if err != nil {
		return store.Entry{}, fault.Wrap(faultOf(ctx, err), "get %s", key)
	}
	if len(resp.Kvs) == 0 {
		return store.Entry{}, fault.New(fault.NotFound, "key %s does not exist", key)
	}
	kv := resp.Kvs[0]
	return store.Entry{Key: key, Value: kv.Value, ModRevision: kv.ModRevision, CreateRevision: kv.CreateRevision}, nil
}

// List implements store.Store. A list without a limit is read in pages, all as of the revision of the first.
func (s *Store) List(ctx context.Context, prefix string, opts store.ListOptions) (store.Page, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	req := &pb.RangeRequest{Key: []byte(prefix), RangeEnd: rangeEnd(prefix), Limit: int64(opts.Limit), KeysOnly: opts.KeysOnly}
	if prefix == "" {
		req.Key = []byte{0}
	}
	if opts.After >= prefix && opts.After != "" {
		req.Key = after(opts.After)
	}
	if opts.Limit <= 0 {
		req.Limit = pageSize
	}
	var page store.Page
	for {
		resp, err := s.kv.Range(ctx, req)
		if err != nil {
			return store.Page{}, fault.Wrap(faultOf(ctx, err), "list %s", prefix)
		}
		if req.Revision == 0 {
			page.Revision, req.Revision = resp.Header.Revision, resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			page.Entries = append(page.Entries, entryOf(kv))
		}
		if !resp.More || opts.Limit > 0 {
			page.More = resp.More
			return page, nil
		}
		req.Key = after(page.Entries[len(page.Entries)-1].Key)
	}
}

// after gives the first key after key.
func after(key string) []byte { return append([]byte(key), 0) }

// rangeEnd gives the first key after all that begin with prefix; etcd takes "\x00" for "no end".
func rangeEnd(prefix string) []byte {
	end := []byte(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < math.MaxUint8 {
			end[i]++
			return end[:i+1]
		}
	}
	return []byte{0}
}

// entryOf gives an entry of what etcd answered.
func entryOf(kv *mvccpb.KeyValue) store.Entry {
	return store.Entry{Key: string(kv.Key), Value: kv.Value, ModRevision: kv.ModRevision, CreateRevision: kv.CreateRevision}
}

// Txn implements store.Store.
func (s *Store) Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	resp, err := s.kv.Txn(ctx, txnRequest(compares, ops))
	if err != nil {
		return 0, fault.Wrap(faultOf(ctx, err), "transaction of %s", subject(compares, ops))
	}
	if !resp.Succeeded {
		return 0, fault.New(fault.Conflict, "transaction of %s: a key is not as it was last seen", subject(compares, ops))
	}
	return resp.Header.Revision, nil
}

// subject names a transaction in an error.
func subject(compares []store.Compare, ops []store.Op) string {
	if len(ops) > 0 {
		return ops[0].Key
	}
	if len(compares) > 0 {
		return compares[0].Key
	}
	return "nothing"
}

// txnRequest gives a transaction as etcd takes it.
func txnRequest(compares []store.Compare, ops []store.Op) *pb.TxnRequest {
	req := &pb.TxnRequest{Compare: make([]*pb.Compare, len(compares)), Success: make([]*pb.RequestOp, len(ops))}
	for i, c := range compares {
		compare := &pb.Compare{Result: pb.Compare_EQUAL, Key: []byte(c.Key)}
		if c.CreateRevision != 0 {
			compare.Target, compare.TargetUnion = pb.Compare_CREATE, &pb.Compare_CreateRevision{CreateRevision: c.CreateRevision}
		} else {
			compare.Target, compare.TargetUnion = pb.Compare_MOD, &pb.Compare_ModRevision{ModRevision: c.ModRevision}
		}
		req.Compare[i] = compare
	}
	for i, op := range ops {
		if op.Delete {
			req.Success[i] = &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(op.Key)}}}
			continue
		}
		put := &pb.PutRequest{Key: []byte(op.Key), Value: op.Value, Lease: int64(op.Lease)}
		req.Success[i] = &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}}
	}
	return req
}

// defaultQuota is the quota of an etcd that was given none (etcd, --quota-backend-bytes).
const defaultQuota = 2 << 30

// Usage implements store.Meter: the fullest member counts. Space that is free within the file is not used, etcd takes it
// before the file grows.
func (s *Store) Usage(ctx context.Context) (store.Usage, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	endpoints := s.watch.Endpoints()
	if len(endpoints) == 0 {
		endpoints = []string{""} // a server in the same process
	}
	var fullest store.Usage
	var last error
	for _, endpoint := range endpoints {
		status, err := s.watch.Status(ctx, endpoint)
		if err != nil {
			last = err
			continue
		}
		usage := store.Usage{Used: status.DbSizeInUse, Quota: status.DbSizeQuota}
		if usage.Quota == 0 {
			usage.Quota = defaultQuota
		}
		if fullest.Quota == 0 || usage.Part() > fullest.Part() {
			fullest = usage
		}
	}
	if fullest.Quota == 0 {
		return fullest, fault.Wrap(faultOf(ctx, last), "ask etcd how full it is")
	}
	return fullest, nil
}

// Grant implements store.Store. etcd counts in whole seconds, and has a least time to live of one and a half election
// timeouts.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (store.LeaseID, error) {
	if ttl <= 0 {
		return 0, fault.New(fault.Invalid, "grant a lease of %s: the time to live must be positive", ttl)
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	resp, err := s.lease.Grant(ctx, int64((ttl+time.Second-1)/time.Second))
	if err != nil {
		return 0, fault.Wrap(faultOf(ctx, err), "grant a lease of %s", ttl)
	}
	return store.LeaseID(resp.ID), nil
}

// KeepAlive implements store.Store.
func (s *Store) KeepAlive(ctx context.Context, id store.LeaseID) (time.Duration, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	resp, err := s.lease.KeepAliveOnce(ctx, clientv3.LeaseID(id))
	if err != nil {
		return 0, fault.Wrap(faultOf(ctx, err), "keep lease %x alive", int64(id))
	}
	return time.Duration(resp.TTL) * time.Second, nil
}

// Revoke implements store.Store.
func (s *Store) Revoke(ctx context.Context, id store.LeaseID) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	_, err := s.lease.Revoke(ctx, clientv3.LeaseID(id))
	if err = faultOf(ctx, err); err == nil || fault.Is(err, fault.NotFound) {
		return nil
	}
	return fault.Wrap(err, "revoke lease %x", int64(id))
}
