package reconcile_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftcloud/weft/pkg/budget"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/driver/memdriver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/participant"
	"github.com/weftcloud/weft/pkg/reconcile"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/record/recordtest"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
	"github.com/weftcloud/weft/pkg/testkit"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

const (
	networkType = "network.weft.cloud/Network"
	subnetType  = "network.weft.cloud/Subnet"
	ready       = kindv1.Phase_PHASE_READY
	failed      = kindv1.Phase_PHASE_FAILED
)

type config = memdriver.Config[*networkv1.NetworkSpec, *networkv1.NetworkObserved]

// rig is a loop with what is around it. It lives in a synctest bubble, whose clock all of it goes by.
type rig struct {
	renew func() (bool, error) // what Renew tells; nil that there are no other credentials

	*testing.T
	store   *memstore.Store
	box     *recordtest.Box
	book    *record.Book
	inbox   *participant.Inbox
	cloud   *memdriver.Driver[*networkv1.NetworkSpec, *networkv1.NetworkObserved]
	subnets *memdriver.Driver[*networkv1.SubnetSpec, *networkv1.SubnetObserved]
	tap     *tap
	account *reconcile.Account
	every   time.Duration // between two looks at what is ready; 0 means none
	slots   int           // ids that are worked on at once; 0 means many
	late    time.Duration // after a write until the loop hears of it from who wrote; the store tells it at once

	mu   sync.Mutex
	loop *reconcile.Loop
	stop func()
}

// tap stands between the loop and a driver, and can break any call, before or after it had its effect.
type tap struct {
	driver.Any

	mu     sync.Mutex
	adopts bool
	broken func() error  // asked before and after each call
	hidden func() bool   // has Observe leave out what it saw
	slow   time.Duration // after which a create has its effect, whoever still waits for its answer; 0 means at once
	anyAge atomic.Int64  // how many looks were told that objects may be of any age
	lost   bool          // nobody hears the answer of a slow create
}

// set changes what the tap does.
func (d *tap) set(change func(d *tap)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

func (d *tap) point() error {
	d.mu.Lock()
	broken := d.broken
	d.mu.Unlock()
	return broken()
}

func (d *tap) hide() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hidden()
}

func (d *tap) Adopts() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.adopts
}

func tapped[T any](d *tap, do func() (T, error)) (T, error) {
	var zero T
	if err := d.point(); err != nil {
		return zero, err
	}
	out, err := do()
	if err != nil {
		return zero, err
	}
	if err := d.point(); err != nil {
		return zero, err
	}
	return out, nil
}

func (d *tap) Find(ctx context.Context, r driver.Request[proto.Message]) ([]string, error) {
	return tapped(d, func() ([]string, error) { return d.Any.Find(ctx, r) })
}

func (d *tap) Create(ctx context.Context, r driver.Request[proto.Message]) (string, error) {
	return tapped(d, func() (string, error) { return d.create(ctx, r) })
}

// create makes an object, later if creates are slow.
func (d *tap) create(ctx context.Context, r driver.Request[proto.Message]) (string, error) {
	d.mu.Lock()
	slow, lost := d.slow, d.lost
	d.mu.Unlock()
	if slow == 0 {
		return d.Any.Create(ctx, r)
	}
	type answer struct {
		id  string
		err error
	}
	made := make(chan answer, 1)
	go func() {
		time.Sleep(slow)
		id, err := d.Any.Create(context.WithoutCancel(ctx), r)
		made <- answer{id, err}
	}()
	if lost {
		return "", unavailable()
	}
	select {
	case a := <-made:
		return a.id, a.err
	case <-ctx.Done():
		return "", fault.As(fault.Unavailable, ctx.Err())
	}
}

func (d *tap) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[proto.Message], error) {
	return tapped(d, func() (map[string]driver.Observation[proto.Message], error) {
		if driver.IsOfAnyAge(ctx) {
			d.anyAge.Add(1)
		}
		seen, err := d.Any.Observe(ctx, ids)
		if d.hide() {
			clear(seen)
		}
		return seen, err
	})
}

func (d *tap) Update(ctx context.Context, id string, r driver.Request[proto.Message]) error {
	_, err := tapped(d, func() (struct{}, error) { return struct{}{}, d.Any.Update(ctx, id, r) })
	return err
}

func (d *tap) Delete(ctx context.Context, id string) error {
	_, err := tapped(d, func() (struct{}, error) { return struct{}{}, d.Any.Delete(ctx, id) })
	return err
}

func (d *tap) Importer() (driver.Importer, bool) {
	i, ok := d.Any.Importer()
	return tappedImporter{d, i}, ok
}

// tappedImporter is what of a tap imports.
type tappedImporter struct {
	tap *tap

	driver.Importer
}

func (i tappedImporter) Describe(ctx context.Context, ids []string) ([]driver.Described, error) {
	return tapped(i.tap, func() ([]driver.Described, error) { return i.Importer.Describe(ctx, ids) })
}

func (i tappedImporter) Mark(ctx context.Context, id, key, name string) error {
	_, err := tapped(i.tap, func() (struct{}, error) { return struct{}{}, i.Importer.Mark(ctx, id, key, name) })
	return err
}

func (i tappedImporter) Unmark(ctx context.Context, id, key, before string) error {
	_, err := tapped(i.tap, func() (struct{}, error) { return struct{}{}, i.Importer.Unmark(ctx, id, key, before) })
	return err
}

// Account implements reconcile.Accounts: all resources are in one account.
func (r *rig) Account(context.Context, *record.Entry, driver.Refs) (*reconcile.Account, error) {
	return r.account, nil
}

// Renew implements reconcile.Renewer.
func (r *rig) Renew(context.Context, *record.Entry, *reconcile.Account) (bool, error) {
	if r.renew == nil {
		return false, nil
	}
	return r.renew()
}

// Resolve implements reconcile.Resolver from the records.
func (r *rig) Resolve(ctx context.Context, name, key string) (proto.Message, error) {
	if key == "" {
		e, err := r.book.Current(ctx, name)
		if err != nil {
			return nil, err
		}
		return e.Object.Message(), nil
	}
	e, err := r.book.Get(ctx, record.ID{Name: name, Key: key})
	if err != nil {
		return nil, err
	}
	return e.Object.Message(), nil
}

func newRig(t *testing.T, c config) *rig {
	kinds, err := resource.NewRegistry(&networkv1.Network{}, &networkv1.Subnet{})
	if err != nil {
		t.Fatal(err)
	}
	c.Observed = func(id string, spec *networkv1.NetworkSpec) *networkv1.NetworkObserved {
		return &networkv1.NetworkObserved{NetworkId: id, Mtu: spec.GetMtu()}
	}
	r := &rig{T: t, store: memstore.New(), cloud: memdriver.New(c)}
	r.subnets = memdriver.New(memdriver.Config[*networkv1.SubnetSpec, *networkv1.SubnetObserved]{
		Observed: func(id string, spec *networkv1.SubnetSpec) *networkv1.SubnetObserved {
			return &networkv1.SubnetObserved{SubnetId: id, Cidr: spec.GetCidr()}
		},
	})
	r.tap = &tap{Any: driver.Erase(r.cloud), broken: func() error { return nil }, hidden: func() bool { return false }}
	r.account = reconcile.NewAccount("clouds/lab", driver.Session{Drivers: map[string]driver.Any{networkType: r.tap, subnetType: driver.Erase(r.subnets)}}, budget.New(budget.Config{Rate: 1000, Burst: 2000}))
	r.box = recordtest.NewBox(r.store, record.Prefix("network")+"o/")
	r.book = record.New(record.Config{Service: "network", Store: r.store, Outbox: r.box, Kinds: kinds, Now: time.Now, Changed: func(c record.Change) {
		time.Sleep(r.late)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.loop != nil {
			r.loop.Changed(c)
		}
	}})
	r.inbox = participant.NewInbox(r.book, kinds, time.Now)
	return r
}

// start starts a loop, as a process does; it is stopped at the end at the latest.
func (r *rig) start() {
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	loop := reconcile.New(reconcile.Config{Book: r.book, Accounts: r, Resolver: r, Logger: testkit.Logger(r.T), Now: time.Now, ObserveEvery: r.every, Concurrency: r.slots})
	done := make(chan error, 1)
	owner := r.owner()
	r.mu.Lock()
	r.loop = loop
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.Errorf("Run = %v", err)
		}
	})
	r.mu.Unlock()
	go func() {
		var owning sync.WaitGroup
		for i := range reconcile.Shards {
			owning.Go(func() {
				if err := loop.Own(ctx, ownership{shard: i, fence: owner}); err != nil {
					r.Errorf("Own = %v", err)
				}
			})
		}
		err := loop.Run(ctx)
		owning.Wait()
		done <- err
	}()
}

// ownership is what a loop of the rig works by.
type ownership struct {
	shard int
	fence store.Compare
	over  *atomic.Bool // nil if it lasts
}

func (o ownership) Shard() int           { return o.shard }
func (o ownership) Fence() store.Compare { return o.fence }
func (o ownership) Live() bool           { return o.over == nil || !o.over.Load() }

// owner gives the fence of whoever starts now; that of whoever was before does not stand any more.
func (r *rig) owner() store.Compare {
	r.Helper()
	const key = "/weft/network/owner"
	for {
		ctx := context.WithoutCancel(r.Context())
		_, err := r.store.Txn(ctx, nil, []store.Op{{Key: key, Delete: true}})
		if err == nil {
			var revision int64
			if revision, err = r.store.Txn(ctx, []store.Compare{{Key: key}}, []store.Op{{Key: key, Value: []byte("r")}}); err == nil {
				return store.Compare{Key: key, CreateRevision: revision}
			}
		}
		time.Sleep(time.Millisecond) // the store is made to fail; a replica tries again
	}
}

// crash ends the loop where it stands, and starts another in its place.
func (r *rig) crash() {
	go func() {
		r.end()
		r.start()
	}()
}

// end stops the loop.
func (r *rig) end() {
	r.mu.Lock()
	stop := r.stop
	r.mu.Unlock()
	stop()
}

// run runs a test in a bubble with a loop that works.
func run(t *testing.T, c config, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, c)
		r.start()
		defer r.end()
		test(t, r)
	})
}

func networkName(id string) string { return "tenants/acme/networks/" + id }

func origin(direction busv1.Direction, saga string) *busv1.Origin {
	return &busv1.Origin{Saga: "tenants/acme/operations/" + saga, Step: "s", Direction: direction, Attempt: 1, Epoch: 1}
}

func (r *rig) ensure(id string, mtu int32) {
	r.Helper()
	r.command("1", networkType, networkName(id), "key-"+id, &networkv1.NetworkSpec{Mtu: mtu}, nil)
}

// command sends an Ensure, or with a nil spec a Release.
func (r *rig) command(saga, typ, name, key string, spec proto.Message, references map[string]string) {
	r.Helper()
	c := &busv1.Command{Origin: origin(busv1.Direction_DIRECTION_DO, saga), Name: name, Type: typ, Key: key}
	c.Action = &busv1.Command_Release{Release: &busv1.Release{}}
	if spec != nil {
		packed, err := anypb.New(spec)
		if err != nil {
			r.Fatal(err)
		}
		c.Action = &busv1.Command_Ensure{Ensure: &busv1.Ensure{Cloud: "clouds/lab", Spec: packed, References: references}}
	}
	r.send(c)
}

// adopt has a resource adopt an object.
func (r *rig) adopt(id, object string, mtu int32) {
	r.Helper()
	packed, err := anypb.New(&networkv1.NetworkSpec{Mtu: mtu})
	if err != nil {
		r.Fatal(err)
	}
	r.send(&busv1.Command{
		Origin: origin(busv1.Direction_DIRECTION_DO, "1"), Name: networkName(id), Type: networkType, Key: "key-" + id,
		Action: &busv1.Command_Ensure{Ensure: &busv1.Ensure{Cloud: "clouds/lab", Spec: packed, Adopt: object}},
	})
}

// undo takes back what made a resource.
func (r *rig) undo(id string) {
	r.Helper()
	r.send(&busv1.Command{
		Origin: origin(busv1.Direction_DIRECTION_UNDO, "1"), Name: networkName(id), Type: networkType, Key: "key-" + id,
		Action: &busv1.Command_Release{Release: &busv1.Release{}},
	})
}

// send hands a command in.
func (r *rig) send(c *busv1.Command) {
	r.Helper()
	for try := range 10 { // as the bus delivers again
		err := r.inbox.Accept(context.WithoutCancel(r.Context()), c)
		if err == nil {
			return
		}
		if !fault.Retryable(err) || try == 9 {
			r.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (r *rig) release(id string) {
	r.Helper()
	r.command("2", networkType, networkName(id), "key-"+id, nil, nil)
}

// entry reads a record; nil if there is none.
func (r *rig) entry(id string) *record.Entry {
	r.Helper()
	e, err := r.book.Get(context.WithoutCancel(r.Context()), record.ID{Name: networkName(id), Key: "key-" + id})
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		r.Fatal(err)
	}
	return e
}

func (r *rig) phase(id string) kindv1.Phase {
	r.Helper()
	if e := r.entry(id); e != nil {
		return e.Object.Status().GetPhase()
	}
	return kindv1.Phase_PHASE_UNSPECIFIED
}

// await lets time pass until ok, for at most limit.
func (r *rig) await(limit time.Duration, what string, ok func() bool) {
	r.Helper()
	for end := time.Now().Add(limit); ; {
		synctest.Wait()
		if ok() {
			return
		}
		if !time.Now().Before(end) {
			r.Fatalf("after %s: %s is not so; calls %v", limit, what, steps(r.cloud.Calls()))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (r *rig) awaitReady(id string) {
	r.Helper()
	r.await(5*time.Minute, id+" is ready", func() bool { return r.phase(id) == ready })
}

func (r *rig) awaitGone(id string) {
	r.Helper()
	r.await(5*time.Minute, id+" is gone", func() bool { return r.entry(id) == nil })
	if _, err := r.book.Tombstone(r.Context(), "key-"+id); err != nil {
		r.Errorf("tombstone of %s: %v", id, err)
	}
}

func steps(calls []memdriver.Call) []memdriver.Step {
	var out []memdriver.Step
	for _, c := range calls {
		out = append(out, c.Step)
	}
	return out
}

func count(calls []memdriver.Call, step memdriver.Step) int {
	n := 0
	for _, c := range calls {
		if c.Step == step {
			n++
		}
	}
	return n
}

func (r *rig) lastOutcome() *busv1.Outcome {
	r.Helper()
	all := r.box.Outcomes(r.T)
	if len(all) == 0 {
		r.Fatal("there is no outcome")
	}
	return all[len(all)-1]
}

func unavailable() error { return fault.New(fault.Unavailable, "the cloud is away") }

func TestLife(t *testing.T) {
	for what, c := range map[string]config{
		"at once": {}, "two step": {TwoStep: true}, "in time": {ReadyAfter: 7 * time.Second, GoneAfter: 3 * time.Second, Latency: 300 * time.Millisecond},
	} {
		t.Run(what, func(t *testing.T) {
			run(t, c, func(t *testing.T, r *rig) {
				r.ensure("a", 1400)
				r.awaitReady("a")
				objects := r.cloud.Objects()
				if len(objects) != 1 || objects[0].Key != "key-a" || objects[0].Spec.GetMtu() != 1400 {
					t.Fatalf("objects = %v", objects)
				}
				o := r.lastOutcome()
				observed := &networkv1.NetworkObserved{}
				if o.GetResult() != busv1.Result_RESULT_READY || o.GetObserved().UnmarshalTo(observed) != nil || observed.GetMtu() != 1400 {
					t.Errorf("outcome = %v", o)
				}
				if diff := cmp.Diff([]string{"pending", "creating", "ready"}, r.box.Verbs(t)); diff != "" {
					t.Error(diff)
				}
				r.command("2", networkType, networkName("a"), "key-a", &networkv1.NetworkSpec{Mtu: 1500}, nil)
				r.await(time.Minute, "the change is ready", func() bool {
					return r.phase("a") == ready && r.entry("a").Object.Status().GetObservedGeneration() == 2
				})
				if objects := r.cloud.Objects(); objects[0].Spec.GetMtu() != 1500 {
					t.Errorf("the object was not changed: %v", objects)
				}
				r.command("3", networkType, networkName("a"), "key-a", nil, nil)
				r.awaitGone("a")
				if left := r.cloud.Objects(); len(left) != 0 {
					t.Errorf("%v are left", left)
				}
				if o := r.lastOutcome(); o.GetResult() != busv1.Result_RESULT_RELEASED {
					t.Errorf("outcome = %v", o)
				}
				if n := count(r.cloud.Calls(), memdriver.Create); n != 1 {
					t.Errorf("%d creates", n)
				}
			})
		})
	}
}

func TestOutdatedIsUpdated(t *testing.T) {
	run(t, config{ReadyAfter: 3 * time.Second}, func(t *testing.T, r *rig) {
		r.ensure("a", 1400)
		r.await(time.Second, "it exists", func() bool { return len(r.cloud.Objects()) == 1 })
		r.cloud.SetState("mem-1", driver.Outdated, nil)
		r.awaitReady("a")
		if n := count(r.cloud.Calls(), memdriver.Update); n != 1 {
			t.Errorf("%d updates, want the one that was asked for", n)
		}
	})
}

func TestFailureAtTheCloud(t *testing.T) {
	run(t, config{ReadyAfter: time.Hour}, func(t *testing.T, r *rig) {
		r.ensure("a", 1400)
		r.await(time.Second, "it exists", func() bool { return len(r.cloud.Objects()) == 1 })
		r.cloud.SetState("mem-1", driver.Failed, fault.New(fault.Quota, "no host was found"))
		r.await(time.Minute, "it failed", func() bool { return r.phase("a") == failed })
		if o := r.lastOutcome(); o.GetResult() != busv1.Result_RESULT_FAILED || o.GetFault().GetKind() != string(fault.Quota) {
			t.Errorf("outcome = %v", o)
		}
		calls := len(r.cloud.Calls())
		time.Sleep(10 * time.Minute)
		if n := len(r.cloud.Calls()); n != calls {
			t.Errorf("%d calls after it was given up", n-calls)
		}
		r.release("a")
		r.awaitGone("a")
		if left := r.cloud.Objects(); len(left) != 0 {
			t.Errorf("%v are left", left)
		}
	})
}

// TestBackOff has each step fail for ten minutes with a fault that can pass: it is tried again, ever less often, is told
// once, and succeeds when the cloud is back.
func TestBackOff(t *testing.T) {
	for _, step := range []memdriver.Step{memdriver.Create, memdriver.Observe, memdriver.Update, memdriver.Delete, memdriver.Find} {
		t.Run(string(step), func(t *testing.T) {
			run(t, config{TwoStep: true}, func(t *testing.T, r *rig) {
				switch step {
				case memdriver.Delete:
					r.ensure("a", 1400)
					r.awaitReady("a")
					r.cloud.Inject(step, memdriver.Fault{Err: unavailable(), Times: -1})
					r.release("a")
				case memdriver.Find:
					r.cloud.Inject(memdriver.Create, memdriver.Fault{Err: unavailable(), After: true})
					r.cloud.Inject(step, memdriver.Fault{Err: unavailable(), Times: -1})
					r.ensure("a", 1400)
				default:
					r.cloud.Inject(step, memdriver.Fault{Err: unavailable(), Times: -1})
					r.ensure("a", 1400)
				}
				before, told := count(r.cloud.Calls(), step), len(r.box.Outcomes(t))
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				if n := count(r.cloud.Calls(), step) - before; n < 15 || n > 40 {
					t.Errorf("tried %d times in ten minutes", n)
				}
				if n := len(r.box.Outcomes(t)) - told; n > 3 {
					t.Errorf("told %d times of one fault", n)
				}
				if o := r.lastOutcome(); o.GetResult() != busv1.Result_RESULT_PROGRESS || o.GetFault().GetKind() != string(fault.Unavailable) {
					t.Errorf("outcome = %v", o)
				}
				r.cloud.Mend()
				if step == memdriver.Delete {
					r.awaitGone("a")
					return
				}
				r.awaitReady("a")
				if n := len(r.cloud.Objects()); n != 1 {
					t.Errorf("%d objects", n)
				}
				if f := r.entry("a").Object.Status().GetFault(); f != nil {
					t.Errorf("the fault is still told: %v", f)
				}
			})
		})
	}
}

func TestDroppedAnswerOfCreate(t *testing.T) {
	run(t, config{}, func(t *testing.T, r *rig) {
		r.cloud.Inject(memdriver.Create, memdriver.Fault{Err: unavailable(), After: true})
		r.cloud.Inject(memdriver.Find, memdriver.Fault{Err: unavailable(), Times: 5}) // and nobody can be asked for a while
		r.ensure("a", 1400)
		r.awaitReady("a")
		if n := count(r.cloud.Calls(), memdriver.Create); n != 1 || len(r.cloud.Objects()) != 1 {
			t.Errorf("%d creates, objects %v", n, r.cloud.Objects())
		}
	})
}

// TestWokenBeforeItsTurn has a record written again and again while the next look at it waits for others: the last look had
// heard of its own write at its very end.
func TestWokenBeforeItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, config{})
		r.slots = 1
		r.start()
		defer r.end()
		time.Sleep(time.Second)                                               // what was there before is found
		r.cloud.Inject(memdriver.Create, memdriver.Fault{Err: unavailable()}) // it is tried again after 250 ms
		r.ensure("a", 1400)
		time.Sleep(200 * time.Millisecond)
		var once sync.Once
		r.store.SetFaults(memstore.Faults{Before: func(op, key string) error {
			if op == memstore.OpGet && strings.Contains(key, "/r/"+networkName("b")) {
				once.Do(func() { time.Sleep(time.Second) })
			}
			return nil
		}})
		r.ensure("b", 1400)
		for i := range 3 {
			time.Sleep(100 * time.Millisecond)
			r.command(fmt.Sprint(2+i), networkType, networkName("a"), "key-a", &networkv1.NetworkSpec{Mtu: int32(1401 + i)}, nil)
		}
		r.awaitReady("a")
		r.awaitReady("b")
	})
}

// TestTold: what the answer to a create shows as ready is not asked for once more; anything else is.
func TestTold(t *testing.T) {
	create, update, observe := memdriver.Create, memdriver.Update, memdriver.Observe
	for name, c := range map[string]struct {
		config config
		lost   memdriver.Step // whose answer is lost
		late   time.Duration
		want   []memdriver.Step
	}{
		"ready at once":            {config: config{Tells: true}, want: []memdriver.Step{create}},
		"in two steps":             {config: config{Tells: true, TwoStep: true}, want: []memdriver.Step{create, update}},
		"the store tells sooner":   {config: config{Tells: true, TwoStep: true}, late: 10 * time.Millisecond, want: []memdriver.Step{create, update}},
		"ready later":              {config: config{Tells: true, ReadyAfter: 50 * time.Millisecond}, want: []memdriver.Step{create, observe, observe}},
		"it does not tell":         {want: []memdriver.Step{create, observe}},
		"lost answer of a create":  {config: config{Tells: true}, lost: create, want: []memdriver.Step{create, memdriver.Find, update, observe}},
		"lost answer of an update": {config: config{Tells: true, TwoStep: true}, lost: update, want: []memdriver.Step{create, update, update, observe}},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, c.config, func(t *testing.T, r *rig) {
				if c.lost != "" {
					r.cloud.Inject(c.lost, memdriver.Fault{Err: unavailable(), After: true})
				}
				time.Sleep(time.Second) // what was there before is found
				r.late = c.late
				r.ensure("a", 1400)
				r.awaitReady("a")
				if diff := cmp.Diff(c.want, steps(r.cloud.Calls())); diff != "" {
					t.Errorf("calls (-want +got):\n%s", diff)
				}
				seen, ok := r.entry("a").Object.Observed().(*networkv1.NetworkObserved)
				if !ok || seen.GetMtu() != 1400 || seen.GetNetworkId() == "" {
					t.Errorf("observed %v", seen)
				}
			})
		})
	}
}

func TestRefusedCreateIsGivenUp(t *testing.T) {
	run(t, config{}, func(t *testing.T, r *rig) {
		r.cloud.Inject(memdriver.Create, memdriver.Fault{Err: fault.New(fault.Quota, "none left")})
		r.ensure("a", 1400)
		r.await(time.Minute, "it failed", func() bool { return r.phase("a") == failed })
		r.release("a")
		r.awaitGone("a")
	})
}

// TestRefusedLogin: a refusal is the last word if there are no other credentials, not while nobody can be asked for others.
func TestRefusedLogin(t *testing.T) {
	denied := fault.New(fault.Denied, "the credential has ended")
	t.Run("there are no others", func(t *testing.T) {
		run(t, config{}, func(t *testing.T, r *rig) {
			r.cloud.Inject(memdriver.Create, memdriver.Fault{Err: denied})
			r.ensure("a", 1400)
			r.await(time.Minute, "it failed", func() bool { return r.phase("a") == failed })
		})
	})
	t.Run("nobody can be asked", func(t *testing.T) {
		run(t, config{}, func(t *testing.T, r *rig) {
			asked := 0
			r.renew = func() (bool, error) { asked++; return false, unavailable() }
			r.cloud.Inject(memdriver.Create, memdriver.Fault{Err: denied, Times: 3})
			r.ensure("a", 1400)
			r.awaitReady("a")
			if asked != 3 {
				t.Errorf("it asked %d times for others, want 3", asked)
			}
		})
	})
}

// TestReleaseAfterLostCreate releases what may or may not exist: an object that shows up late is still taken away.
func TestReleaseAfterLostCreate(t *testing.T) {
	for _, exists := range []bool{false, true} {
		t.Run(fmt.Sprintf("exists %v", exists), func(t *testing.T) {
			run(t, config{}, func(t *testing.T, r *rig) {
				r.cloud.Inject(memdriver.Create, memdriver.Fault{Err: unavailable(), After: exists})
				r.cloud.Inject(memdriver.Find, memdriver.Fault{Err: unavailable(), Times: -1})
				r.ensure("a", 1400)
				r.await(time.Second, "it was tried", func() bool { return count(r.cloud.Calls(), memdriver.Create) == 1 })
				r.release("a")
				time.Sleep(5 * time.Minute)
				if r.entry("a") == nil {
					t.Fatal("a look-up that failed was taken for nothing there")
				}
				r.cloud.Mend()
				r.awaitGone("a")
				if left := r.cloud.Objects(); len(left) != 0 {
					t.Errorf("%v are left", left)
				}
			})
		})
	}
}

// TestLateCreate has a create without an answer take effect long after it was looked up and sent again: a release takes both
// objects away, also if the second create was refused. What was made with one create is not looked up.
func TestLateCreate(t *testing.T) {
	late := func(r *rig) {
		r.tap.set(func(d *tap) { d.slow, d.lost = 10*time.Second, true })
		r.ensure("a", 1400)
		time.Sleep(time.Second)
		r.tap.set(func(d *tap) { d.slow = 0 })
	}
	for name, c := range map[string]struct {
		begin   func(r *rig)
		objects int
		finds   int // of the release
	}{
		"two objects": {objects: 2, finds: 2, begin: func(r *rig) {
			late(r)
			r.awaitReady("a")
		}},
		"the second create is refused": {objects: 1, finds: 2, begin: func(r *rig) {
			late(r)
			r.cloud.Inject(memdriver.Create, memdriver.Fault{Err: fault.New(fault.Quota, "none left")})
			r.await(time.Minute, "it failed", func() bool { return r.phase("a") == failed })
		}},
		"one create": {objects: 1, begin: func(r *rig) {
			r.ensure("a", 1400)
			r.awaitReady("a")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, config{GoneAfter: time.Second}, func(t *testing.T, r *rig) {
				c.begin(r)
				time.Sleep(20 * time.Second)
				if n := len(r.cloud.Objects()); n != c.objects {
					t.Fatalf("there are %d objects before the release, want %d", n, c.objects)
				}
				before := count(r.cloud.Calls(), memdriver.Find)
				r.release("a")
				r.awaitGone("a")
				if left := r.cloud.Objects(); len(left) != 0 {
					t.Errorf("%v are left", left)
				}
				if n := count(r.cloud.Calls(), memdriver.Find) - before; n != c.finds {
					t.Errorf("the release looked up by the key %d times, want %d", n, c.finds)
				}
			})
		})
	}
}

func TestMissingTwice(t *testing.T) {
	run(t, config{ReadyAfter: 10 * time.Second}, func(t *testing.T, r *rig) {
		r.ensure("a", 1400)
		r.await(time.Second, "it exists", func() bool { return len(r.cloud.Objects()) == 1 })
		until := time.Now().Add(1500 * time.Millisecond)
		r.tap.set(func(d *tap) { d.hidden = func() bool { return time.Now().Before(until) } })
		r.awaitReady("a") // the cloud's list was late

		r.tap.set(func(d *tap) { d.hidden = func() bool { return false } })
		r.ensure("b", 1400)
		r.await(time.Second, "it exists", func() bool { return len(r.cloud.Objects()) == 2 })
		r.cloud.Remove("mem-2")
		gone := time.Now()
		r.await(time.Minute, "it is missed", func() bool { return r.phase("b") == failed })
		if took := time.Since(gone); took < 2*time.Second {
			t.Errorf("it was believed to be gone after %s", took)
		}
		if o := r.lastOutcome(); o.GetFault().GetKind() != string(fault.NotFound) {
			t.Errorf("outcome = %v", o)
		}
	})
}

// TestMissedNowAndThen: what was seen between two looks that missed it is not gone.
func TestMissedNowAndThen(t *testing.T) {
	run(t, config{ReadyAfter: 30 * time.Second}, func(t *testing.T, r *rig) {
		r.tap.set(func(d *tap) {
			d.hidden = func() bool {
				look := count(r.cloud.Calls(), memdriver.Observe)
				return look == 2 || look == 4
			}
		})
		r.ensure("a", 1400)
		r.await(time.Minute, "it is missed, seen and missed", func() bool { return count(r.cloud.Calls(), memdriver.Observe) > 4 })
		if r.entry("a").Record.GetMissingTime() != nil {
			t.Error("that it was missed before it was seen is still kept")
		}
		r.awaitReady("a")
	})
}

// TestReleaseMissesTwice: one list without the object is not believed, unless the deletion itself was told that there is none.
// Beside its own time a deletion takes one look more.
func TestReleaseMissesTwice(t *testing.T) {
	for name, c := range map[string]struct {
		config config
		hide   func(looks int) bool // has a look leave the object out
		denied bool                 // the object is gone already, and the deletion is told so
		looks  int                  // 0 if they depend on how long it takes
	}{
		"it goes at once":             {looks: 2},
		"it is left out once":         {config: config{GoneAfter: 10 * time.Second}, hide: func(looks int) bool { return looks == 1 }},
		"it is left out now and then": {config: config{GoneAfter: 10 * time.Second}, hide: func(looks int) bool { return looks%2 == 0 }},
		"there is none":               {denied: true, looks: 1},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, c.config, func(t *testing.T, r *rig) {
				r.ensure("a", 1400)
				r.awaitReady("a")
				if c.denied {
					r.cloud.Remove("mem-1")
					r.cloud.Inject(memdriver.Delete, memdriver.Fault{Err: fault.New(fault.NotFound, "there is none")})
				}
				before := count(r.cloud.Calls(), memdriver.Observe)
				looks := func() int { return count(r.cloud.Calls(), memdriver.Observe) - before }
				if c.hide != nil {
					r.tap.set(func(d *tap) { d.hidden = func() bool { return c.hide(looks()) } })
				}
				began := time.Now()
				r.release("a")
				r.awaitGone("a")
				if left := r.cloud.Objects(); len(left) != 0 {
					t.Errorf("it was believed to be gone, but %v are left", left)
				}
				if n := looks(); c.looks > 0 && n != c.looks {
					t.Errorf("%d looks, want %d", n, c.looks)
				}
				if took := time.Since(began) - c.config.GoneAfter; c.hide == nil && took > time.Second {
					t.Errorf("it took %s", took)
				}
				if n := count(r.cloud.Calls(), memdriver.Delete); n > 2 {
					t.Errorf("%d deletes", n)
				}
			})
		})
	}
}

func TestBlockers(t *testing.T) {
	port := &kindv1.Blocker{Kind: "port", Id: "p1", Owner: "someone", Action: "remove it"}
	run(t, config{}, func(t *testing.T, r *rig) {
		r.ensure("a", 1400)
		r.awaitReady("a")
		r.cloud.Block("mem-1", port, &kindv1.Blocker{Kind: "port", Id: "p2"})
		before := len(r.box.Outcomes(t))
		r.release("a")
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		told := r.box.Outcomes(t)[before:]
		if len(told) != 1 || len(told[0].GetBlockers()) != 2 || !proto.Equal(told[0].GetBlockers()[0], port) {
			t.Fatalf("told %v", told)
		}
		if text := told[0].GetFault().GetMessage(); !strings.Contains(text, "port p1 (someone): remove it") {
			t.Errorf("the fault does not name the blocker: %q", text)
		}
		if n := count(r.cloud.Calls(), memdriver.Delete); n > 5*60/15+10 {
			t.Errorf("%d deletes in five minutes", n)
		}
		r.cloud.Block("mem-1", port)
		r.await(time.Minute, "the change of the blockers is told", func() bool { return len(r.lastOutcome().GetBlockers()) == 1 })
		r.cloud.Block("mem-1")
		r.awaitGone("a")
	})
}

// TestOneOfManyBlockers: a driver's own refusal is told by the blockers that it names, each once and in an order of its own;
// a status holds only so many.
func TestOneOfManyBlockers(t *testing.T) {
	run(t, config{}, func(t *testing.T, r *rig) {
		r.ensure("a", 1400)
		r.awaitReady("a")
		many := []*kindv1.Blocker{}
		for n := range 70 {
			many = append(many, &kindv1.Blocker{Kind: "port", Id: fmt.Sprintf("p%02d", 69-n), Owner: "someone", Action: "remove it"})
		}
		r.cloud.Inject(memdriver.Delete, memdriver.Fault{Err: driver.Blocked([]*kindv1.Blocker{many[69], {Kind: "floating IP", Id: "f1", Owner: "them", Action: "ask them"}}), Times: 1})
		r.cloud.Block("mem-1", many...)
		r.release("a")
		r.await(time.Minute, "the refusal is told", func() bool { return len(r.lastOutcome().GetBlockers()) > 0 })
		told := r.lastOutcome()
		if n := len(told.GetBlockers()); n != 50 || told.GetBlockers()[0].GetId() != "f1" || told.GetBlockers()[1].GetId() != "p00" {
			t.Errorf("told %d blockers, first %v", n, told.GetBlockers()[:2])
		}
		if text := told.GetFault().GetMessage(); strings.Count(text, "floating IP f1 (them): ask them") != 1 {
			t.Errorf("the fault is %q", text)
		}
		r.cloud.Block("mem-1")
		r.awaitGone("a")
	})
}

// TestOutdatedReleaseIsAskedAgain: a part of an object that can go only after the others is asked for without delay, and
// one whose deletion goes on is not asked for at every look.
func TestOutdatedReleaseIsAskedAgain(t *testing.T) {
	for state, most := range map[driver.State][2]int{driver.Outdated: {8, 40}, driver.Progressing: {1, 1}} {
		run(t, config{GoneAfter: time.Hour}, func(t *testing.T, r *rig) {
			r.ensure("a", 1400)
			r.awaitReady("a")
			r.cloud.SetState("mem-1", state, nil)
			r.release("a")
			time.Sleep(9 * time.Second)
			synctest.Wait()
			if n := count(r.cloud.Calls(), memdriver.Delete); n < most[0] || n > most[1] {
				t.Errorf("state %v: %d deletes within 9 seconds, want %d to %d", state, n, most[0], most[1])
			}
		})
	}
}

func TestReferences(t *testing.T) {
	run(t, config{ReadyAfter: 10 * time.Second}, func(t *testing.T, r *rig) {
		subnet := "tenants/acme/subnets/s"
		r.command("1", subnetType, subnet, "key-s", &networkv1.SubnetSpec{Network: networkName("a"), Cidr: "10.0.0.0/24"}, map[string]string{networkName("a"): "key-a"})
		r.await(time.Minute, "it waits", func() bool {
			return len(r.box.Outcomes(t)) > 0 && r.lastOutcome().GetFault().GetKind() == string(fault.Precondition) && r.lastOutcome().GetFault().GetField() == "spec.network"
		})
		if len(r.subnets.Calls()) != 0 {
			t.Errorf("the cloud was asked for what cannot be: %v", r.subnets.Calls())
		}
		r.ensure("a", 1400)
		r.awaitReady("a")
		r.await(time.Minute, "the subnet is ready", func() bool {
			e, err := r.book.Current(t.Context(), subnet)
			return err == nil && e.Object.Status().GetPhase() == ready
		})
		r.release("a")
		r.awaitGone("a")
		r.command("2", subnetType, subnet, "key-s", nil, nil) // what is gone is not needed to delete
		r.await(time.Minute, "the subnet is gone", func() bool {
			_, err := r.book.Current(t.Context(), subnet)
			return fault.Is(err, fault.NotFound)
		})
	})
}

func TestThrottledAccountRests(t *testing.T) {
	run(t, config{ReadyAfter: 20 * time.Second}, func(t *testing.T, r *rig) {
		for i := range 5 {
			r.ensure(fmt.Sprintf("old%d", i), 1400)
		}
		r.await(5*time.Second, "they are begun", func() bool { return len(r.cloud.Objects()) == 5 })
		r.cloud.Inject(memdriver.Create, memdriver.Fault{Err: &fault.Error{Kind: fault.Throttled, Message: "slow down", RetryAfter: 10 * time.Second}})
		r.ensure("a", 1400)
		r.await(5*time.Second, "the cloud asks to wait", func() bool { return count(r.cloud.Calls(), memdriver.Create) == 6 })
		calls := len(r.cloud.Calls())
		r.ensure("b", 1400)
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if n := len(r.cloud.Calls()); n != calls {
			t.Errorf("%d calls while the cloud asked to wait", n-calls)
		}
		r.awaitReady("a")
		r.awaitReady("b")
		if n := len(r.cloud.Objects()); n != 7 {
			t.Errorf("%d objects", n)
		}
	})
}

// TestObservationIsBatched makes a hundred objects that take a while: they are looked at together.
func TestObservationIsBatched(t *testing.T) {
	run(t, config{ReadyAfter: 5 * time.Second}, func(t *testing.T, r *rig) {
		for i := range 100 {
			r.ensure(fmt.Sprintf("n%d", i), 1400)
		}
		r.await(time.Minute, "all are ready", func() bool {
			return len(r.ready(100)) == 100
		})
		if n := count(r.cloud.Calls(), memdriver.Observe); n > 40 {
			t.Errorf("%d list calls for 100 objects that took 5 s", n)
		}
		if n := count(r.cloud.Calls(), memdriver.Create); n != 100 || len(r.cloud.Objects()) != 100 {
			t.Errorf("%d creates, %d objects", n, len(r.cloud.Objects()))
		}
		if n := count(r.cloud.Calls(), memdriver.Find); n != 0 {
			t.Errorf("%d look-ups of what cannot exist yet", n)
		}
	})
}

func (r *rig) ready(n int) []string {
	var out []string
	for i := range n {
		if id := fmt.Sprintf("n%d", i); r.phase(id) == ready {
			out = append(out, id)
		}
	}
	return out
}

// TestWhoseIsIt has resources adopt what another has, or another installation marked: they learn whose it is, and it stays.
func TestWhoseIsIt(t *testing.T) {
	run(t, config{}, func(t *testing.T, r *rig) {
		r.cloud.Stand(&networkv1.NetworkSpec{Mtu: 1400})
		r.adopt("a", "mem-1", 1400)
		r.awaitReady("a")
		r.adopt("b", "mem-1", 1400)
		r.await(time.Minute, "b is refused", func() bool { return r.phase("b") == failed })
		if f := r.entry("b").Object.Status().GetFault(); f.GetKind() != string(fault.Exists) || !strings.Contains(f.GetMessage(), "it is the object of "+networkName("a")) {
			t.Errorf("who adopts another's is told %v", f)
		}
		r.adopt("c", "mem-9", 1400)
		r.await(time.Minute, "c is refused", func() bool { return r.phase("c") == failed })
		if f := r.entry("c").Object.Status().GetFault(); f.GetKind() != string(fault.NotFound) {
			t.Errorf("who adopts what does not exist is told %v", f)
		}
		for _, id := range []string{"b", "c"} {
			r.release(id)
			r.awaitGone(id)
		}
		if objects := r.cloud.Objects(); len(objects) != 1 || objects[0].Key != "key-a" {
			t.Errorf("objects = %v", objects)
		}
	})
}

// TestSameNameElsewhere has an object that cannot be marked, whose id is its name, taken by a record at its own cloud only.
func TestSameNameElsewhere(t *testing.T) {
	run(t, config{}, func(t *testing.T, r *rig) {
		r.cloud.Stand(&networkv1.NetworkSpec{Mtu: 1400})
		r.adopt("a", "mem-1", 1400)
		r.awaitReady("a")
		owners, err := reconcile.ReadOwners(t.Context(), r.book)
		if err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			cloud, key string
			unmarkable bool
			want       bool
		}{
			{"clouds/lab", "", true, true}, {"clouds/other", "", true, false}, {"clouds/other", "", false, true}, {"clouds/other", "key-a", true, true}, {"clouds/lab", "", false, true},
		} {
			taken := owners.Taken(reconcile.Claimant{Type: networkType, Cloud: test.cloud, Tenant: "acme"}, driver.Described{ID: "mem-1", Key: test.key, Unmarkable: test.unmarkable})
			if (taken != nil) != test.want {
				t.Errorf("%+v: %v", test, taken)
			}
		}
		own := reconcile.Claimant{Type: networkType, Key: "key-a", Cloud: "clouds/lab", Tenant: "acme"}
		if taken := owners.Taken(own, driver.Described{ID: "mem-1", Key: "key-a"}); taken != nil {
			t.Errorf("its own record: %v", taken)
		}
	})
}

// TestLateMark undoes an adoption whose mark was sent without an answer, and has the mark take effect after it was taken off:
// it is taken off once more, since an object of others that bears our mark without a record is swept.
func TestLateMark(t *testing.T) {
	run(t, config{}, func(t *testing.T, r *rig) {
		r.cloud.Stand(&networkv1.NetworkSpec{Mtu: 1400})
		r.cloud.Inject(memdriver.Mark, memdriver.Fault{Err: fault.New(fault.Unavailable, "the connection broke")})
		r.adopt("a", "mem-1", 1400)
		r.await(time.Minute, "the mark is sent", func() bool { return count(r.cloud.Calls(), memdriver.Mark) == 1 })
		r.undo("a")
		r.await(time.Minute, "the mark is taken off", func() bool { return count(r.cloud.Calls(), memdriver.Mark) == 2 })
		if objects := r.cloud.Objects(); objects[0].Key != "" {
			t.Fatalf("it was marked a second time: %v", objects)
		}
		if err := r.cloud.Mark(t.Context(), "mem-1", "key-a", networkName("a")); err != nil {
			t.Fatal(err)
		}
		r.awaitGone("a")
		if objects := r.cloud.Objects(); len(objects) != 1 || objects[0].Key != "" {
			t.Errorf("after the undo the objects are %v", objects)
		}
		if n := count(r.cloud.Calls(), memdriver.Mark); n != 4 { // two that mark, two that take the mark off
			t.Errorf("the mark was put on or taken off %d times, want 4", n)
		}
	})
}

func TestAdoptedIsForgotten(t *testing.T) {
	run(t, config{}, func(t *testing.T, r *rig) {
		r.tap.set(func(d *tap) { d.adopts = true })
		r.ensure("a", 1400)
		r.awaitReady("a")
		r.release("a")
		r.awaitGone("a")
		if n := count(r.cloud.Calls(), memdriver.Delete); n != 0 || len(r.cloud.Objects()) != 1 {
			t.Errorf("%d deletes; objects %v", n, r.cloud.Objects())
		}
	})
}

// story is a way through the life of a resource, to be broken at every point.
type story struct {
	config config
	// begin is what is asked for; the points are counted from then on.
	begin func(r *rig)
	// prepare is done before, undisturbed; nil for nothing.
	prepare func(r *rig)
	// end waits for the end and looks at it. The point may come only here.
	end func(r *rig)
}

func stories() map[string]story {
	one := func(mtu int32) func(r *rig) {
		return func(r *rig) {
			r.awaitReady("a")
			objects := r.cloud.Objects()
			if len(objects) != 1 || objects[0].Spec.GetMtu() != mtu {
				r.Errorf("objects = %v", objects)
			}
			if o := r.lastOutcome(); o.GetResult() != busv1.Result_RESULT_READY {
				r.Errorf("outcome = %v", o)
			}
		}
	}
	none := func(r *rig) {
		r.awaitGone("a")
		if left := r.cloud.Objects(); len(left) != 0 {
			r.Errorf("%v are left", left)
		}
		if o := r.lastOutcome(); o.GetResult() != busv1.Result_RESULT_RELEASED {
			r.Errorf("outcome = %v", o)
		}
	}
	stand := func(r *rig) {
		r.ensure("a", 1400)
		r.awaitReady("a")
	}
	create := func(r *rig) { r.ensure("a", 1400) }
	// What somebody made stands, bears our mark or none, and nothing else of it was changed.
	foreign := func(r *rig) { r.cloud.Stand(&networkv1.NetworkSpec{Mtu: 1400}) }
	adopt := func(r *rig) { r.adopt("a", "mem-1", 1400) }
	standsWith := func(key string) func(r *rig) {
		return func(r *rig) {
			objects, calls := r.cloud.Objects(), r.cloud.Calls()
			if len(objects) != 1 || objects[0].Key != key || objects[0].Spec.GetMtu() != 1400 {
				r.Errorf("objects = %v, want one with the key %q", objects, key)
			}
			if n := count(calls, memdriver.Create) + count(calls, memdriver.Update) + count(calls, memdriver.Delete); n > 0 {
				r.Errorf("it was made, changed or deleted: %v", steps(calls))
			}
		}
	}
	return map[string]story{
		"adopt": {prepare: foreign, begin: adopt, end: func(r *rig) {
			one(1400)(r)
			standsWith("key-a")(r)
		}},
		"let go": {prepare: func(r *rig) { foreign(r); adopt(r); r.awaitReady("a") }, begin: func(r *rig) { r.undo("a") }, end: func(r *rig) {
			r.awaitGone("a")
			standsWith("")(r)
		}},
		"let go at all": {prepare: foreign, begin: adopt, end: func(r *rig) {
			r.undo("a")
			r.awaitGone("a")
			standsWith("")(r)
		}},
		"release what was adopted": {prepare: func(r *rig) { foreign(r); adopt(r); r.awaitReady("a") }, begin: func(r *rig) { r.release("a") }, end: none},
		"create":                   {config: config{ReadyAfter: time.Second}, begin: create, end: one(1400)},
		"create two":               {config: config{TwoStep: true}, begin: create, end: one(1400)},
		"create told":              {config: config{TwoStep: true, Tells: true}, begin: create, end: one(1400)},
		"change": {prepare: stand, begin: func(r *rig) {
			r.command("2", networkType, networkName("a"), "key-a", &networkv1.NetworkSpec{Mtu: 1500}, nil)
		}, end: one(1500)},
		"release":        {config: config{GoneAfter: time.Second}, prepare: stand, begin: func(r *rig) { r.release("a") }, end: none},
		"release at all": {config: config{ReadyAfter: time.Hour, GoneAfter: time.Second}, begin: create, end: func(r *rig) { r.release("a"); none(r) }},
	}
}

// TestBrokenAtEveryPoint breaks each story at each write of the store and at each call of the driver, before and after
// its effect: in one way the process ends there and another takes over, in the other it only gets no answer.
func TestBrokenAtEveryPoint(t *testing.T) {
	for what, s := range stories() {
		for _, crash := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, crash %v", what, crash), func(t *testing.T) {
				broken := 0
				for at := 1; brokenAt(t, s, crash, at); at++ {
					broken++
				}
				if broken < 4 { // letting go takes that many: the mark is taken off, the record goes
					t.Errorf("broken at %d points only", broken)
				}
			})
		}
	}
}

// brokenAt tells one story, broken at one point; it tells whether it came to that point.
func brokenAt(t *testing.T, s story, crash bool, at int) (reached bool) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, s.config)
		r.start()
		defer r.end()
		if s.prepare != nil {
			s.prepare(r)
		}
		var mu sync.Mutex
		points := 0
		point := func() error {
			mu.Lock()
			defer mu.Unlock()
			if points++; points != at {
				return nil
			}
			reached = true
			if crash {
				r.crash()
			}
			return fault.New(fault.Unavailable, "broken at point %d", at) // the first loop does not act on it, if it crashes
		}
		onWrite := func(op, _ string) error {
			if op != memstore.OpTxn {
				return nil
			}
			return point()
		}
		r.tap.set(func(d *tap) { d.broken = point })
		r.store.SetFaults(memstore.Faults{Before: onWrite, After: onWrite})
		s.begin(r)
		time.Sleep(10 * time.Second)
		s.end(r)
		if n := count(r.cloud.Calls(), memdriver.Create); n > 2 {
			t.Errorf("point %d: %d creates", at, n)
		}
		if t.Failed() {
			t.Logf("broken at point %d; calls %v", at, steps(r.cloud.Calls()))
		}
	})
	return reached && !t.Failed()
}
