// Package enginebench measures what a saga costs: the engine, the bus, the store and the participants' inboxes, all in
// this process, with a store that syncs.
//
// # What is measured
//
// Everything that `weft dev` has between a plan and its end: etcd with fsync behind a groupstore, NATS with file storage,
// the engine that owns all shards through package shard, outboxes, the reading of outcomes, and for the network and the
// compute service a participant with its inbox, its book of records and its three command queues.
//
// What is left out is the reconcile loop and the cloud. In their place each record is answered as soon as the inbox has
// kept it: it is read, marked, and saved with its event and its outcome, as the loop does when a cloud has done its work
// at once. So a step costs its participant two transactions, the inbox's and the answer's, and leaves a record; a release
// costs two more, and leaves a tombstone. What a participant takes of a step is also measured by itself, without engine
// and bus.
//
// Then the same with participants that do nothing but their inbox: a command is kept and answered in one transaction. That
// is what the engine and the bus cost, and what the targets of the design are given for.
//
// # How to read it
//
// Times are of this machine and this moment. CPU per saga, and the ratios to what the store and the bus can do in the same
// run, are what can be compared.
package enginebench

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/bus/natsbus"
	"github.com/weftcloud/weft/pkg/embed"
	"github.com/weftcloud/weft/pkg/outbox"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/shard"
	"github.com/weftcloud/weft/pkg/store/etcdstore"
	"github.com/weftcloud/weft/pkg/store/groupstore"
	"github.com/weftcloud/weft/pkg/testkit"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/engine"
)

// ended begins the keys of the sagas that have ended, see package engine.
var ended = record.Prefix("orchestrator") + "f/"

// counted is a bus that counts what is published.
type counted struct {
	bus.Bus

	messages atomic.Int64
}

// Publish implements bus.Publisher.
func (c *counted) Publish(ctx context.Context, messages ...bus.Message) error {
	c.messages.Add(int64(len(messages)))
	return c.Bus.Publish(ctx, messages...)
}

// rig is an installation in this process.
type rig struct {
	testing.TB

	etcd     *etcdstore.Store
	store    *groupstore.Store
	bus      *counted
	kinds    *resource.Registry
	services map[string]*service // by service
	engine   *engine.Engine
	sagas    atomic.Int64 // how many were named so far
	atOnce   atomic.Bool  // participants answer a command in the transaction that keeps it

	mu      sync.Mutex
	waiting map[string]chan time.Time // by operation; gets when its end was seen
}

// newRig starts an installation, which ends with the benchmark.
func newRig(b *testing.B) *rig {
	dir := onDisk(b)
	logger := testkit.Logger(b)
	etcd, err := embed.EtcdWith(embed.EtcdConfig{Dir: filepath.Join(dir, "etcd"), Logger: logger})
	if err != nil {
		b.Fatal(err)
	}
	nats, err := embed.NATS(embed.NATSConfig{Dir: filepath.Join(dir, "nats"), Logger: logger})
	if err != nil {
		b.Fatal(err)
	}
	conn, err := nats.Connect()
	if err != nil {
		b.Fatal(err)
	}
	carrier, err := natsbus.New(b.Context(), conn, natsbus.Options{Logger: logger})
	if err != nil {
		b.Fatal(err)
	}
	kinds, err := resource.Linked()
	if err != nil {
		b.Fatal(err)
	}
	r := &rig{TB: b, etcd: etcd.Store(), bus: &counted{Bus: carrier}, kinds: kinds, services: map[string]*service{}, waiting: map[string]chan time.Time{}}
	r.store = groupstore.New(r.etcd)
	b.Cleanup(func() {
		for what, close := range map[string]func() error{"the bus": carrier.Close, "NATS": nats.Close, "etcd": etcd.Close} {
			if err := close(); err != nil {
				b.Errorf("close %s: %v", what, err)
			}
		}
	})
	r.services["network"] = newService(r, logger, "network", &networkv1.Network{})
	r.services["compute"] = newService(r, logger, "compute", &computev1.Server{})
	r.participate()
	return r
}

// tmpfs is the type of a file system that is kept in memory (statfs(2)): to sync it costs nothing.
const tmpfs = 0x01021994

// onDisk gives a directory that is on a disk.
func onDisk(b *testing.B) string {
	dir := b.TempDir()
	var on syscall.Statfs_t
	if err := syscall.Statfs(dir, &on); err != nil {
		b.Fatal(err)
	}
	if on.Type == tmpfs {
		b.Fatalf("%s is kept in memory, where fsync costs nothing; set TMPDIR to a directory on a disk", dir)
	}
	return dir
}

// participate runs the participants until the benchmark ends.
func (r *rig) participate() {
	var tasks []task
	for _, s := range r.services {
		tasks = append(tasks, s.tasks()...)
	}
	stop := r.background(tasks...)
	r.Cleanup(func() {
		stop()
		for _, s := range r.services {
			s.answering.Wait()
		}
	})
}

// orchestrate runs the engine until the benchmark ends, and returns when it owns all shards.
func (r *rig) orchestrate(logger *slog.Logger) {
	box := outbox.New(r.store, r.bus, record.Prefix("orchestrator")+"so/", logger)
	r.engine = engine.New(engine.Config{Store: r.store, Outbox: box, Kinds: r.kinds, Querier: r, Logger: logger, Now: time.Now})
	spread := shard.New(shard.Config{Store: r.store, Prefix: record.Prefix("orchestrator") + "shards/", Replica: "bench", Count: bus.Shards, Logger: logger})
	since := time.Now()
	r.Cleanup(r.background(
		box.Run, r.watchEnds,
		func(ctx context.Context) error {
			return spread.Run(ctx, func(ctx context.Context, owned *shard.Owned) error { return r.engine.Own(ctx, owned) })
		},
		func(ctx context.Context) error {
			return r.bus.Read(ctx, bus.OutcomeFilter, since, true, r.engine.Outcome)
		},
	))
	for i := range bus.Shards {
		for own, changed := r.engine.Owns(i); !own; own, changed = r.engine.Owns(i) {
			<-changed
		}
	}
}

// task works until ctx ends.
type task = func(ctx context.Context) error

// background runs tasks until the function that it gives is called.
func (r *rig) background(tasks ...task) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	var group sync.WaitGroup
	for _, do := range tasks {
		group.Go(func() {
			if err := do(ctx); err != nil && ctx.Err() == nil {
				r.Errorf("it ended with %v", err)
			}
		})
	}
	return func() {
		cancel()
		group.Wait()
	}
}

// watchEnds notes when sagas end: when their summaries are seen, by one watch for all.
func (r *rig) watchEnds(ctx context.Context) error {
	watch := r.store.Watch(ctx, ended, 0)
	for events := range watch.Events() {
		now := time.Now()
		r.mu.Lock()
		for _, e := range events {
			name := strings.TrimPrefix(e.Entry.Key, ended)
			if c := r.waiting[name]; c != nil {
				delete(r.waiting, name)
				c <- now
			}
		}
		r.mu.Unlock()
	}
	return watch.Err()
}

// await gives a channel that gets the time at which the end of a saga was seen.
func (r *rig) await(name string) <-chan time.Time {
	c := make(chan time.Time, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting[name] = c
	return c
}

// Query implements engine.Querier.
func (r *rig) Query(ctx context.Context, kind *resource.Kind, origin *busv1.Origin, name, key string) (*busv1.Outcome, error) {
	p := r.services[kind.Service]
	if p == nil {
		return nil, fmt.Errorf("there is no participant for %s", kind.Type)
	}
	o, _, err := p.inbox.Query(ctx, record.ID{Name: name, Key: key}, origin)
	return o, err
}

// meter is what was used up to a moment.
type meter struct {
	at                      time.Time
	cpu                     time.Duration
	transactions, committed int64
	messages                int64
}

// read reads the meter. The CPU time is that of the whole process (getrusage(2)).
func (r *rig) read() meter {
	r.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		r.Fatal(os.NewSyscallError("getrusage", err))
	}
	s := r.store.Stats()
	return meter{
		at: time.Now(), cpu: time.Duration(used.Utime.Nano() + used.Stime.Nano()),
		transactions: s.Transactions, committed: s.Commits, messages: r.bus.messages.Load(),
	}
}

// since gives what was used since another reading.
func (m meter) since(before meter) meter {
	return meter{
		cpu: m.cpu - before.cpu, transactions: m.transactions - before.transactions, committed: m.committed - before.committed,
		messages: m.messages - before.messages,
	}
}
