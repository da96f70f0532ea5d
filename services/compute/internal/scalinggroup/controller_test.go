package scalinggroup

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

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
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

const (
	groupName = "tenants/acme/scalingGroups/web"
	groupKey  = "01936b5e-0000-7000-8000-000000000001"
)

// rig is a loop with the controller and a cloud in memory. It lives in a synctest bubble.
type rig struct {
	*testing.T
	store   *memstore.Store
	book    *record.Book
	kinds   *resource.Registry
	cloud   *memdriver.Driver[*computev1.ServerSpec, *computev1.ServerObserved]
	account *reconcile.Account

	mu     sync.Mutex
	loop   *reconcile.Loop
	stop   func()
	metric reading
}

// Account implements reconcile.Accounts.
func (r *rig) Account(context.Context, *record.Entry, driver.Refs) (*reconcile.Account, error) {
	return r.account, nil
}

// Resolve implements reconcile.Resolver; the rig's servers refer to nothing.
func (r *rig) Resolve(_ context.Context, name, _ string) (proto.Message, error) {
	return nil, fault.New(fault.NotFound, "%s does not exist", name)
}

// ownership is what the loop works by.
type ownership struct {
	shard int
	fence store.Compare
}

func (o ownership) Shard() int           { return o.shard }
func (o ownership) Fence() store.Compare { return o.fence }
func (o ownership) Live() bool           { return true }

func newRig(t *testing.T) *rig {
	kinds, err := resource.NewRegistry(&computev1.Server{}, &computev1.ScalingGroup{})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{T: t, store: memstore.New(), kinds: kinds, metric: reading{value: 10}}
	r.cloud = memdriver.New(memdriver.Config[*computev1.ServerSpec, *computev1.ServerObserved]{
		ReadyAfter: 3 * time.Second, GoneAfter: time.Second,
		Observed: func(id string, _ *computev1.ServerSpec) *computev1.ServerObserved {
			return &computev1.ServerObserved{ServerId: id, Address: "10.0.0." + id}
		},
	})
	r.account = reconcile.NewAccount("clouds/lab", driver.Session{Drivers: map[string]driver.Any{serverType: driver.Erase(r.cloud)}}, budget.New(budget.Config{Rate: 1000, Burst: 2000}))
	r.book = record.New(record.Config{Service: "compute", Store: r.store, Outbox: recordtest.NewBox(r.store, record.Prefix("compute")+"o/"), Kinds: kinds, Now: time.Now, Changed: func(c record.Change) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.loop != nil {
			r.loop.Changed(c)
		}
	}})
	return r
}

// start starts a loop, as a process does.
func (r *rig) start() {
	r.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	c := New()
	c.ask = func(context.Context, *computev1.ScalingMetric) reading {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.metric
	}
	loop := reconcile.New(reconcile.Config{
		Book: r.book, Accounts: r, Resolver: r, Logger: testkit.Logger(r.T), Now: time.Now,
		Controllers: map[string]reconcile.Controller{"compute.weft.cloud/ScalingGroup": c},
	})
	fence := r.fence()
	var work sync.WaitGroup
	for i := range reconcile.Shards {
		work.Go(func() {
			if err := loop.Own(ctx, ownership{i, fence}); err != nil {
				r.Error(err)
			}
		})
	}
	work.Go(func() {
		if err := loop.Run(ctx); err != nil {
			r.Error(err)
		}
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loop, r.stop = loop, func() { cancel(); work.Wait() }
}

// fence gives what the writes of whoever starts now compare; that of whoever was before does not stand any more.
func (r *rig) fence() store.Compare {
	const key = "/weft/compute/owner"
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

func (r *rig) end() {
	r.mu.Lock()
	stop := r.stop
	r.mu.Unlock()
	stop()
}

func run(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		defer func() { r.end() }()
		test(t, r)
	})
}

func template(image string) *computev1.ServerSpec {
	return &computev1.ServerSpec{Image: image, Flavor: "small"}
}

// want asks for a group, or changes it.
func (r *rig) want(change func(*computev1.ScalingGroupSpec)) {
	r.Helper()
	r.retry(func(ctx context.Context) error {
		e, err := r.book.Get(ctx, record.ID{Name: groupName, Key: groupKey})
		if err == nil {
			spec := proto.CloneOf(e.Object.Spec().(*computev1.ScalingGroupSpec))
			change(spec)
			participant.Change(e, spec, nil, nil, time.Now())
			return r.book.Save(ctx, e, participant.NoticeOf(e))
		}
		if !fault.Is(err, fault.NotFound) {
			return err
		}
		spec := &computev1.ScalingGroupSpec{Template: template("a"), Max: 6, DrainPeriod: seconds(2)}
		change(spec)
		kind, _ := r.kinds.ByName("ScalingGroup")
		object := resource.Wrap(&computev1.ScalingGroup{Name: groupName, Cloud: "clouds/lab", Spec: spec, Metadata: &kindv1.Metadata{Key: groupKey}})
		e = participant.NewEntry(r.book, kind, object, time.Now())
		return r.book.Add(ctx, e, participant.NoticeOf(e))
	})
}

// retry does what a client does whose call fails or comes at a bad time.
func (r *rig) retry(do func(ctx context.Context) error) {
	r.Helper()
	for range 50 {
		err := do(context.WithoutCancel(r.Context()))
		if err == nil {
			return
		}
		if !fault.Retryable(err) {
			r.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	r.Fatal("the store never takes it")
}

// ask asks for a size, or a release, beside the spec.
func (r *rig) ask(change func(e *record.Entry)) {
	r.Helper()
	r.retry(func(ctx context.Context) error {
		e, err := r.book.Get(ctx, record.ID{Name: groupName, Key: groupKey})
		if err != nil {
			return err
		}
		change(e)
		return r.book.Save(ctx, e, participant.NoticeOf(e))
	})
}

func release(e *record.Entry) { participant.MarkReleased(e, time.Now()) }

func (r *rig) group() *computev1.ScalingGroup {
	r.Helper()
	var out *computev1.ScalingGroup
	r.retry(func(ctx context.Context) error {
		e, err := r.book.Get(ctx, record.ID{Name: groupName, Key: groupKey})
		if fault.Is(err, fault.NotFound) {
			out = nil
			return nil
		}
		if err == nil {
			out = e.Object.Message().(*computev1.ScalingGroup)
		}
		return err
	})
	return out
}

// await waits until the group is as wanted, holding it to its promises all the time.
func (r *rig) await(what string, is func(*computev1.ScalingGroup) bool) {
	r.Helper()
	for range 6000 {
		g := r.group()
		r.hold(g)
		if is(g) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	r.Fatalf("%s is never seen; the group is %v, the cloud has %d", what, r.group(), len(r.cloud.Objects()))
}

// hold holds what must be true at every moment: each object at the cloud is a member's, and no member has two; never are
// there more than max and surge.
func (r *rig) hold(g *computev1.ScalingGroup) {
	r.Helper()
	seen := map[string]bool{}
	for _, o := range r.cloud.Objects() {
		if seen[o.Key] {
			r.Fatalf("two objects bear the key %s", o.Key)
		}
		seen[o.Key] = true
	}
	if g != nil && len(seen) > int(g.GetSpec().GetMax())+1 {
		r.Fatalf("%d servers, at most %d and one are to be", len(seen), g.GetSpec().GetMax())
	}
}

func settledAt(n int) func(*computev1.ScalingGroup) bool {
	return func(g *computev1.ScalingGroup) bool {
		if g.GetStatus().GetPhase() != kindv1.Phase_PHASE_READY || g.GetStatus().GetObservedGeneration() != g.GetMetadata().GetGeneration() || len(g.GetObserved().GetMembers()) != n {
			return false
		}
		for _, m := range g.GetObserved().GetMembers() {
			if m.GetState() != inService || m.GetAddress() == "" || m.GetProviderId() == "" {
				return false
			}
		}
		return int(g.GetObserved().GetReady()) == n
	}
}

func gone(g *computev1.ScalingGroup) bool { return g == nil }

func (r *rig) images() string {
	var out []string
	for _, o := range r.cloud.Objects() {
		out = append(out, o.Spec.GetImage())
	}
	slices.Sort(out)
	return strings.Join(out, "")
}

// TestLife takes a group through its life: made, scaled by command, out-of-band loss, rolled, adapted, scaled by a metric,
// and deleted.
func TestLife(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.want(func(s *computev1.ScalingGroupSpec) { s.Desired = proto.Int32(2) })
		r.await("two", settledAt(2))
		r.ask(func(e *record.Entry) {
			e.Record.Requests = map[string]string{requestDesired: "3", requestID: "1"}
			participant.Change(e, e.Object.Spec(), nil, nil, time.Now())
		})
		r.await("three by command", settledAt(3))
		lost := r.group().GetObserved().GetMembers()[0]
		r.cloud.Remove(lost.GetProviderId())
		r.await("another in place of the lost one", func(g *computev1.ScalingGroup) bool {
			return settledAt(3)(g) && !slices.ContainsFunc(g.GetObserved().GetMembers(), func(m *computev1.Member) bool { return m.GetKey() == lost.GetKey() })
		})
		broken := r.group().GetObserved().GetMembers()[1]
		r.cloud.SetState(broken.GetProviderId(), driver.Failed, errors.New("the host burns"))
		r.await("another in place of the broken one", func(g *computev1.ScalingGroup) bool {
			return settledAt(3)(g) && !slices.ContainsFunc(g.GetObserved().GetMembers(), func(m *computev1.Member) bool { return m.GetKey() == broken.GetKey() })
		})
		r.want(func(s *computev1.ScalingGroupSpec) { s.Template = template("b") })
		least := 3
		r.await("all rolled, still three", func(g *computev1.ScalingGroup) bool {
			least = min(least, int(g.GetObserved().GetReady()))
			return settledAt(3)(g)
		})
		if got := r.images(); got != "bbb" || least != 3 {
			t.Errorf("images %s, at least %d in service", got, least)
		}
		before := r.group().GetObserved().GetMembers()
		r.want(func(s *computev1.ScalingGroupSpec) { s.Template.Metadata = map[string]string{"role": "web"} })
		r.await("metadata in place", func(g *computev1.ScalingGroup) bool {
			return settledAt(3)(g) && r.cloud.Objects()[0].Spec.GetMetadata()["role"] == "web"
		})
		for i, m := range r.group().GetObserved().GetMembers() {
			if m.GetKey() != before[i].GetKey() {
				t.Errorf("member %d was replaced because of metadata", i)
			}
		}
		r.want(func(s *computev1.ScalingGroupSpec) {
			s.Min = 1
			s.Metric = &computev1.ScalingMetric{Url: "http://p", Query: "q", Target: 10, Measure: computev1.ScalingMeasure_SCALING_MEASURE_TOTAL, Interval: seconds(1), CooldownOut: seconds(5), CooldownIn: seconds(20)}
		})
		r.set(reading{value: 50})
		r.await("five by the metric", settledAt(5))
		r.set(reading{err: errors.New("down")})
		time.Sleep(time.Minute)
		if g := r.group(); !settledAt(5)(g) || g.GetObserved().GetMetric().GetError() == "" {
			t.Errorf("while the metric fails: %v", g.GetObserved())
		}
		r.set(reading{value: 20})
		r.await("two by the metric", settledAt(2))
		r.ask(release)
		r.await("the end", gone)
		if left := r.cloud.Objects(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// TestWarmUp holds that a member serves only a while after it runs, and that none goes for it before.
func TestWarmUp(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		const warmUp = 40 * time.Second
		r.want(func(s *computev1.ScalingGroupSpec) { s.Desired, s.WarmUp = proto.Int32(2), seconds(40) })
		began := time.Now()
		r.await("two", settledAt(2))
		if took := time.Since(began); took < warmUp || took > warmUp+10*time.Second {
			t.Errorf("two served after %s, want little more than %s", took, warmUp)
		}
		r.want(func(s *computev1.ScalingGroupSpec) { s.Template = template("b") })
		running := map[string]time.Time{}
		r.await("all rolled", func(g *computev1.ScalingGroup) bool {
			old := 0
			for _, o := range r.cloud.Objects() {
				if _, seen := running[o.Key]; !seen && o.Spec.GetImage() == "b" {
					running[o.Key] = time.Now()
				}
				if o.Spec.GetImage() == "a" {
					old++
				}
			}
			warm := 0
			for _, since := range running {
				if time.Since(since) >= warmUp {
					warm++
				}
			}
			if old+warm < 2 {
				t.Fatalf("%d of before and %d that are warm", old, warm)
			}
			return settledAt(2)(g)
		})
		if got := r.images(); got != "bb" {
			t.Errorf("images %s", got)
		}
		r.ask(release)
		r.await("the end", gone)
	})
}

func (r *rig) set(m reading) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.metric = m
}

// TestGivesUp holds that a group that cannot be made says so, and is made when it can be.
func TestGivesUp(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.cloud.Inject(memdriver.Create, memdriver.Fault{Err: fault.New(fault.Quota, "too many"), Times: -1})
		r.want(func(s *computev1.ScalingGroupSpec) { s.Min = 2 })
		r.await("FAILED", func(g *computev1.ScalingGroup) bool { return g.GetStatus().GetPhase() == kindv1.Phase_PHASE_FAILED })
		if f := r.group().GetStatus().GetFault(); f.GetKind() != string(fault.Quota) {
			t.Errorf("fault %v", f)
		}
		r.cloud.Mend()
		r.ask(func(e *record.Entry) { participant.Reopen(e, time.Now()) })
		r.await("two", settledAt(2))
		r.ask(release)
		r.await("the end", gone)
	})
}

// TestNameTaken holds that a server of somebody that is called like a member is let be.
func TestNameTaken(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		kind, _ := r.kinds.ByName("Server")
		mine := participant.NewEntry(r.book, kind, resource.Wrap(&computev1.Server{
			Name: "tenants/acme/servers/web-1", Cloud: "clouds/lab", Spec: template("mine"), Metadata: &kindv1.Metadata{Key: "01936b5e-0000-7000-8000-000000000002"},
		}), time.Now())
		if err := r.book.Add(t.Context(), mine, record.Notice{}); err != nil {
			t.Fatal(err)
		}
		r.want(func(s *computev1.ScalingGroupSpec) { s.Min = 2 })
		r.await("two", settledAt(2))
		r.ask(release)
		r.await("the end", gone)
		if got := r.images(); got != "mine" {
			t.Errorf("the cloud has %q", got)
		}
	})
}

// TestCrashAtEachWrite ends the loop at each write of a life, before and after it stands, and starts another in its place.
func TestCrashAtEachWrite(t *testing.T) {
	writes := 0
	for n, broke := 1, true; broke; n++ {
		for _, after := range []bool{false, true} {
			run(t, func(t *testing.T, r *rig) {
				broke = r.crashAt(n, after)
			})
		}
		writes = n
	}
	if writes < 30 {
		t.Errorf("a life has only %d writes", writes)
	}
}

// crashAt crashes at the nth write of a life, and tells whether there was one.
func (r *rig) crashAt(n int, after bool) bool {
	r.Helper()
	count, broke := 0, false
	var mu sync.Mutex
	hit := func(op, key string) error {
		mu.Lock()
		defer mu.Unlock()
		if op != "txn" || strings.HasSuffix(key, "/owner") {
			return nil
		}
		if count++; count != n {
			return nil
		}
		broke = true
		go func() { r.end(); r.start() }()
		return fault.New(fault.Unavailable, "the process dies")
	}
	faults := memstore.Faults{Before: hit}
	if after {
		faults = memstore.Faults{After: hit}
	}
	r.want(func(s *computev1.ScalingGroupSpec) { s.Min, s.Desired = 1, proto.Int32(2) })
	r.store.SetFaults(faults)
	r.await("two", settledAt(2))
	r.want(func(s *computev1.ScalingGroupSpec) { s.Template, s.Desired = template("b"), proto.Int32(1) })
	r.await("one, of the new template", func(g *computev1.ScalingGroup) bool { return settledAt(1)(g) && r.images() == "b" })
	r.ask(release)
	r.await("the end", gone)
	synctest.Wait()
	if left := r.cloud.Objects(); len(left) > 0 {
		r.Errorf("crash at write %d (after: %v): left %v", n, after, left)
	}
	mu.Lock()
	defer mu.Unlock()
	return broke
}
