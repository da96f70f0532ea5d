package service_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftcloud/weft/pkg/bus/membus"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/driver/memdriver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/reconcile"
	"github.com/weftcloud/weft/pkg/service"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
	"github.com/weftcloud/weft/pkg/testkit"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

type networks = memdriver.Driver[*networkv1.NetworkSpec, *networkv1.NetworkObserved]

// fleet is replicas of one service on one store and one cloud, in a synctest bubble.
type fleet struct {
	*testing.T
	store    *memstore.Store
	bus      *membus.Bus
	cloud    *networks
	replicas map[string]*replica
	keys     []string // of what was asked for

	mu      sync.Mutex
	creates map[string][]create // by key
}

// create is a call that began.
type create struct {
	by string
	at time.Time
}

type replica struct {
	name    string
	service *service.Service
	path    *path
	client  networkv1.NetworkServiceClient
	stop    func()
}

// seen is the cloud as one replica calls it.
type seen struct {
	*networks
	fleet *fleet
	name  string
}

func (s seen) Create(ctx context.Context, r driver.Request[*networkv1.NetworkSpec]) (string, error) {
	s.fleet.mu.Lock()
	s.fleet.creates[r.Key] = append(s.fleet.creates[r.Key], create{s.name, time.Now()})
	s.fleet.mu.Unlock()
	return s.networks.Create(ctx, r)
}

// path is a replica's way to the store.
type path struct {
	store.Store
	mu      sync.Mutex
	cut     bool          // calls are refused
	stopped chan struct{} // writes wait until it is closed, whatever their context; nil for none
}

func (p *path) set(change func(p *path)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

// pass lets a write through.
func (p *path) pass() error {
	p.mu.Lock()
	stopped := p.stopped
	p.mu.Unlock()
	if stopped != nil {
		<-stopped
	}
	return p.refuse()
}

func (p *path) refuse() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		return fault.New(fault.Unavailable, "no way to the store")
	}
	return nil
}

func (p *path) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := p.refuse(); err != nil {
		return store.Entry{}, err
	}
	return p.Store.Get(ctx, key)
}

func (p *path) List(ctx context.Context, prefix string, opts store.ListOptions) (store.Page, error) {
	if err := p.refuse(); err != nil {
		return store.Page{}, err
	}
	return p.Store.List(ctx, prefix, opts)
}

// Txn is what a replica sent before it was stopped goes on with, when it goes on: its context may have ended since.
func (p *path) Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error) {
	if err := p.pass(); err != nil {
		return 0, err
	}
	return p.Store.Txn(context.WithoutCancel(ctx), compares, ops)
}

func (p *path) Grant(ctx context.Context, ttl time.Duration) (store.LeaseID, error) {
	if err := p.pass(); err != nil {
		return 0, err
	}
	return p.Store.Grant(ctx, ttl)
}

func (p *path) KeepAlive(ctx context.Context, id store.LeaseID) (time.Duration, error) {
	if err := p.pass(); err != nil {
		return 0, err
	}
	return p.Store.KeepAlive(ctx, id)
}

func (p *path) Revoke(ctx context.Context, id store.LeaseID) error {
	if err := p.pass(); err != nil {
		return err
	}
	return p.Store.Revoke(ctx, id)
}

// replicated runs a test with replicas a and b, which own half of the shards each.
func replicated(t *testing.T, cloud memdriver.Config[*networkv1.NetworkSpec, *networkv1.NetworkObserved], test func(t *testing.T, f *fleet, a, b *replica)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cloud.Observed = func(id string, s *networkv1.NetworkSpec) *networkv1.NetworkObserved {
			return &networkv1.NetworkObserved{NetworkId: id, Mtu: s.GetMtu()}
		}
		f := &fleet{T: t, store: memstore.New(), bus: membus.New(), cloud: memdriver.New(cloud), replicas: map[string]*replica{}, creates: map[string][]create{}}
		a, b := f.join("a"), f.join("b")
		defer func() {
			for _, r := range f.replicas {
				r.stop()
			}
		}()
		f.await(time.Second, "each owns its part", func() bool {
			return a.service.Stats().Shards == reconcile.Shards/2 && b.service.Stats().Shards == reconcile.Shards/2
		})
		test(t, f, a, b)
	})
}

// join starts a replica.
func (f *fleet) join(name string) *replica {
	f.Helper()
	r := &replica{name: name, path: &path{Store: f.store}}
	session := driver.Session{Drivers: map[string]driver.Any{"network.weft.cloud/Network": driver.Erase(seen{f.cloud, f, name})}}
	catalog := service.Catalog{
		Service: "network", Kinds: []service.Kind{{Message: &networkv1.Network{}}},
		Providers: []driver.Provider{{Name: "memory", Open: func(context.Context, driver.Credentials) (driver.Session, error) { return session, nil }}},
	}
	peer, own := wire{}, wire{}
	orchestratorv1.RegisterCredentialServiceServer(peer, credentials{})
	s, err := service.New(catalog, service.Deps{Store: r.path, Bus: f.bus, Peers: service.Peers{"orchestrator": peer}, Logger: testkit.Logger(f.T), Replica: name})
	if err != nil {
		f.Fatal(err)
	}
	if err := s.Register(own); err != nil {
		f.Fatal(err)
	}
	r.service, r.client = s, networkv1.NewNetworkServiceClient(own)
	ctx, cancel := context.WithCancel(context.WithoutCancel(f.Context()))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			f.Errorf("Run of %s = %v", name, err)
		}
	})
	f.replicas[name] = r
	return r
}

func (f *fleet) await(limit time.Duration, what string, ok func() bool) {
	f.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(limit / 50) {
		synctest.Wait()
		if ok() {
			return
		}
		if !time.Now().Before(end) {
			f.Fatalf("after %s: %s is not so", limit, what)
		}
	}
}

// ask asks a replica for networks.
func (f *fleet) ask(r *replica, prefix string, n int) {
	f.Helper()
	for i := range n {
		_, err := r.client.CreateNetwork(f.Context(), &networkv1.CreateNetworkRequest{
			Parent: acme, NetworkId: fmt.Sprintf("%s%d", prefix, i), Network: &networkv1.Network{Cloud: "clouds/lab", Spec: &networkv1.NetworkSpec{Mtu: 1400}},
		})
		if err != nil {
			f.Fatal(err)
		}
		made, err := r.client.GetNetwork(f.Context(), &networkv1.GetNetworkRequest{Name: fmt.Sprintf("%s/networks/%s%d", acme, prefix, i)})
		if err != nil {
			f.Fatal(err)
		}
		f.keys = append(f.keys, made.GetMetadata().GetKey())
	}
}

// ready tells, through a replica, whether all that was asked for is ready.
func (f *fleet) ready(r *replica) bool {
	f.Helper()
	list, err := r.client.ListNetworks(f.Context(), &networkv1.ListNetworksRequest{Parent: acme, PageSize: 1000})
	if err != nil {
		f.Fatal(err)
	}
	return len(list.GetNetworks()) == len(f.keys) && !slices.ContainsFunc(list.GetNetworks(), func(n *networkv1.Network) bool {
		return n.GetStatus().GetPhase() != kindv1.Phase_PHASE_READY
	})
}

// once wants one create call and one object for each key, and gives the number of calls by replica.
func (f *fleet) once() map[string]int {
	f.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if got, want := slices.Sorted(maps.Keys(f.creates)), slices.Sorted(slices.Values(f.keys)); !slices.Equal(got, want) {
		f.Errorf("creates of %v, want of %v", got, want)
	}
	by := map[string]int{}
	for key, calls := range f.creates {
		if len(calls) != 1 {
			f.Errorf("%s was created %d times: %v", key, len(calls), calls)
		}
		by[calls[0].by]++
	}
	if n := len(f.cloud.Objects()); n != len(f.keys) {
		f.Errorf("%d objects for %d keys", n, len(f.keys))
	}
	return by
}

// owners gives the owner of each shard.
func (f *fleet) owners() map[int]string {
	f.Helper()
	owners := map[int]string{}
	page, err := f.store.List(f.Context(), "/weft/network/shards/owners/", store.ListOptions{})
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range page.Entries {
		var n int
		if _, err := fmt.Sscanf(e.Key, "/weft/network/shards/owners/%d", &n); err != nil {
			f.Fatal(err)
		}
		for name := range f.replicas {
			if string(e.Value) == fmt.Sprintf(`{"replica":%q}`, name) {
				owners[n] = name
			}
		}
	}
	return owners
}

func TestReplicasShareTheRecords(t *testing.T) {
	replicated(t, memdriver.Config[*networkv1.NetworkSpec, *networkv1.NetworkObserved]{ReadyAfter: time.Second}, func(t *testing.T, f *fleet, a, b *replica) {
		f.ask(a, "of-a-", 30)
		f.ask(b, "of-b-", 30)
		f.await(3*time.Second, "all are ready", func() bool { return f.ready(a) })
		want := map[string]int{}
		for _, key := range f.keys {
			want[f.owners()[reconcile.ShardOf(key)]]++
		}
		if diff := cmp.Diff(want, f.once()); diff != "" || want["a"] == 0 || want["b"] == 0 {
			t.Errorf("creates by replica (-want +got):\n%s", diff)
		}
		for _, r := range []*replica{a, b} {
			if n := r.service.Stats().FenceRejections; n != 0 {
				t.Errorf("%d writes of %s were refused", n, r.name)
			}
		}
	})
}

// TestReplicaLeaves has one replica leave in good order shortly before what it made is ready: who stays sees that at once,
// not only when a lease ends.
func TestReplicaLeaves(t *testing.T) {
	replicated(t, memdriver.Config[*networkv1.NetworkSpec, *networkv1.NetworkObserved]{ReadyAfter: 10 * time.Second}, func(t *testing.T, f *fleet, a, b *replica) {
		f.ask(a, "n", 40)
		time.Sleep(9900 * time.Millisecond)
		if by := f.once(); by["a"] == 0 || by["b"] == 0 {
			t.Fatalf("creates by replica: %v", by)
		}
		b.stop()
		f.await(100*time.Millisecond, "a owns all", func() bool { return a.service.Stats().Shards == reconcile.Shards })
		f.await(time.Second, "all are ready", func() bool { return f.ready(a) })
		f.ask(a, "later", 10)
		f.await(100*time.Millisecond, "what is asked for later is made", func() bool { return len(f.cloud.Objects()) == 50 })
		f.once()
	})
}

// TestReplicaCutOff cuts one replica off from the store, not from the cloud: who stays takes over when the lease has ended,
// and finds what the other has made. In the end the other is back, and takes its part again.
func TestReplicaCutOff(t *testing.T) {
	replicated(t, memdriver.Config[*networkv1.NetworkSpec, *networkv1.NetworkObserved]{Latency: 300 * time.Millisecond, ReadyAfter: 10 * time.Second}, func(t *testing.T, f *fleet, a, b *replica) {
		f.ask(a, "n", 300) // 200 calls a second
		time.Sleep(100 * time.Millisecond)
		cut := time.Now()
		b.path.set(func(p *path) { p.cut = true })
		f.store.BreakWatches()
		f.mu.Lock()
		begun := len(f.creates)
		f.mu.Unlock()
		if begun == 0 || begun == len(f.keys) {
			t.Fatalf("%d of %d creates had begun, which tells nothing", begun, len(f.keys))
		}
		f.await(6*time.Second, "a owns all", func() bool { return a.service.Stats().Shards == reconcile.Shards })
		taken := time.Now()
		if taken.Sub(cut) < 3*time.Second || b.service.Stats().Shards != 0 {
			t.Errorf("after %s a owns all, and b still %d shards", taken.Sub(cut), b.service.Stats().Shards)
		}
		f.await(time.Minute, "all are ready", func() bool { return f.ready(a) })
		f.once()
		adopted := 0
		for key, calls := range f.creates {
			if calls[0].by == "b" && !calls[0].at.Before(taken) {
				t.Errorf("b began to create %s %s after a had taken over", key, calls[0].at.Sub(taken))
			}
			if calls[0].by == "b" {
				adopted++
			}
		}
		if adopted == 0 {
			t.Error("b had made nothing that a could have adopted")
		}
		b.path.set(func(p *path) { p.cut = false })
		f.await(5*time.Second, "b has its part again", func() bool {
			return a.service.Stats().Shards == reconcile.Shards/2 && b.service.Stats().Shards == reconcile.Shards/2
		})
		f.ask(a, "later", 20)
		f.await(time.Minute, "all are ready", func() bool { return f.ready(a) })
		f.once()
	})
}

// TestReplicaStandsStill has one replica stand still with writes on their way to the store, until another has taken over:
// when it goes on none of them is let through, and it makes nothing.
func TestReplicaStandsStill(t *testing.T) {
	replicated(t, memdriver.Config[*networkv1.NetworkSpec, *networkv1.NetworkObserved]{ReadyAfter: time.Second}, func(t *testing.T, f *fleet, a, b *replica) {
		goOn := make(chan struct{})
		b.path.set(func(p *path) { p.stopped = goOn })
		f.ask(a, "n", 40)
		f.await(10*time.Second, "all are ready", func() bool { return f.ready(a) })
		if by := f.once(); by["b"] != 0 {
			t.Errorf("b made %d", by["b"])
		}
		if n := b.service.Stats().FenceRejections; n != 0 {
			t.Errorf("%d writes were refused before they came", n)
		}
		close(goOn)
		f.await(10*time.Second, "b has its part again", func() bool { return b.service.Stats().Shards == reconcile.Shards/2 })
		f.once()
		if n := b.service.Stats().FenceRejections; n == 0 {
			t.Error("no write was refused: none was on its way")
		}
	})
}
