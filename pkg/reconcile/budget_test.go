package reconcile_test

import (
	"context"
	"fmt"
	"slices"
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
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
)

// strict is a cloud that takes so many calls in any one second and refuses the rest.
type strict struct {
	driver.Any
	perSecond int

	mu             sync.Mutex
	taken          []time.Time // of the last second
	calls, refused int
}

func (d *strict) take() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls++
	d.taken = slices.DeleteFunc(d.taken, func(at time.Time) bool { return time.Since(at) >= time.Second })
	if len(d.taken) >= d.perSecond {
		d.refused++
		return &fault.Error{Kind: fault.Throttled, Message: "too many requests", RetryAfter: time.Second}
	}
	d.taken = append(d.taken, time.Now())
	return nil
}

func (d *strict) counts() (calls, refused int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls, d.refused
}

func taken[T any](d *strict, do func() (T, error)) (T, error) {
	if err := d.take(); err != nil {
		var zero T
		return zero, err
	}
	return do()
}

func (d *strict) Find(ctx context.Context, r driver.Request[proto.Message]) ([]string, error) {
	return taken(d, func() ([]string, error) { return d.Any.Find(ctx, r) })
}

func (d *strict) Create(ctx context.Context, r driver.Request[proto.Message]) (string, error) {
	return taken(d, func() (string, error) { return d.Any.Create(ctx, r) })
}

func (d *strict) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[proto.Message], error) {
	return taken(d, func() (map[string]driver.Observation[proto.Message], error) { return d.Any.Observe(ctx, ids) })
}

func (d *strict) Update(ctx context.Context, id string, r driver.Request[proto.Message]) error {
	_, err := taken(d, func() (struct{}, error) { return struct{}{}, d.Any.Update(ctx, id, r) })
	return err
}

func (d *strict) Delete(ctx context.Context, id string) error {
	_, err := taken(d, func() (struct{}, error) { return struct{}{}, d.Any.Delete(ctx, id) })
	return err
}

// tight runs a test at a cloud that takes 5 calls a second, in an account that may be called perSecond times.
func tight(t *testing.T, c config, perSecond float64, test func(t *testing.T, r *rig, cloud *strict, calls *budget.Budget)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, c)
		cloud := &strict{Any: r.tap, perSecond: 5}
		calls := budget.New(budget.Config{Rate: perSecond})
		r.account = reconcile.NewAccount("clouds/lab", driver.Session{Drivers: map[string]driver.Any{networkType: cloud}}, calls)
		r.start()
		defer r.end()
		test(t, r, cloud, calls)
	})
}

// byHand releases a resource as a client's single change does: without a saga.
func (r *rig) byHand(id string) {
	r.Helper()
	e := r.entry(id)
	e.Record.Origin = nil
	participant.MarkReleased(e, time.Now())
	if err := r.book.Save(context.WithoutCancel(r.Context()), e, record.Notice{}); err != nil {
		r.Fatal(err)
	}
}

// TestTwoHundredAtATightCloud: hardly a call is refused, nobody is told of the waiting, and what a person or an undo waits
// for comes through at once.
func TestTwoHundredAtATightCloud(t *testing.T) {
	for _, perSecond := range []float64{5, 50} { // what the cloud takes, and ten times as much
		t.Run(fmt.Sprintf("%g a second", perSecond), func(t *testing.T) {
			tight(t, config{ReadyAfter: time.Second}, perSecond, func(t *testing.T, r *rig, cloud *strict, calls *budget.Budget) {
				r.ensure("old", 1400)
				r.awaitReady("old")
				for i := range 200 {
					r.ensure(fmt.Sprintf("n%d", i), 1400)
				}
				time.Sleep(10 * time.Second)
				if s := calls.Stats(); s.Waiting[budget.Normal] < 100 {
					t.Fatalf("only %d creates wait", s.Waiting[budget.Normal])
				}
				r.byHand("old")
				r.await(3*time.Second, "old is gone", func() bool { return r.entry("old") == nil })
				time.Sleep(40 * time.Second)
				r.await(10*time.Minute, "all are ready", func() bool { return len(r.ready(200)) == 200 })

				made, refused := cloud.counts()
				if refused*20 >= made {
					t.Errorf("%d of %d calls were refused", refused, made)
				}
				if n := count(r.cloud.Calls(), memdriver.Create); n != 201 || len(r.cloud.Objects()) != 200 {
					t.Errorf("%d creates, %d objects", n, len(r.cloud.Objects()))
				}
				if n := count(r.cloud.Calls(), memdriver.Find); n != 0 {
					t.Errorf("%d look-ups of what was refused or has waited", n)
				}
				for _, o := range r.box.Outcomes(t) {
					if o.GetFault() != nil {
						t.Fatalf("the waiting was told: %v", o)
					}
				}
				for i := range 200 {
					if n := r.entry(fmt.Sprintf("n%d", i)).Record.GetFailures(); n != 0 {
						t.Fatalf("n%d has %d failures", i, n)
					}
				}
				t.Logf("%d of %d calls were refused", refused, made)
			})
		})
	}
}

// TestUndoOvertakesWhatWaits: what waits for its turn to be created and is undone meanwhile is never created.
func TestUndoOvertakesWhatWaits(t *testing.T) {
	tight(t, config{}, 5, func(t *testing.T, r *rig, cloud *strict, calls *budget.Budget) {
		for i := range 100 {
			r.ensure(fmt.Sprintf("n%d", i), 1400)
		}
		time.Sleep(time.Second)
		for i := range 100 {
			id := fmt.Sprintf("n%d", i)
			o := origin(busv1.Direction_DIRECTION_UNDO, "1")
			c := &busv1.Command{Origin: o, Name: networkName(id), Type: networkType, Key: "key-" + id, Action: &busv1.Command_Release{Release: &busv1.Release{}}}
			if err := r.inbox.Accept(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		r.await(20*time.Second, "all are gone", func() bool {
			for i := range 100 {
				if r.entry(fmt.Sprintf("n%d", i)) != nil {
					return false
				}
			}
			return true
		})
		if n := count(r.cloud.Calls(), memdriver.Create); n > 10 || len(r.cloud.Objects()) != 0 {
			t.Errorf("%d creates, %d objects", n, len(r.cloud.Objects()))
		}
		time.Sleep(time.Second)
		if s := calls.Stats(); s.Waiting != [3]int{} || s.InFlight != 0 {
			t.Errorf("places in line are left: %+v", s)
		}
	})
}

// TestPlaceInLineIsKept: a record that is written again and again while it waits still has its turn.
func TestPlaceInLineIsKept(t *testing.T) {
	tight(t, config{}, 1, func(t *testing.T, r *rig, cloud *strict, calls *budget.Budget) {
		r.ensure("first", 1400)
		r.awaitReady("first")
		for i := range 10 {
			r.ensure(fmt.Sprintf("n%d", i), 1400)
		}
		r.ensure("often", 1400)
		time.Sleep(time.Second / 2) // these stand in line before the others come
		for i := range 100 {
			r.ensure(fmt.Sprintf("late%d", i), 1400)
		}
		for range 25 {
			r.ensure("often", 1400) // as an orchestrator asks again
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if r.entry("often").Object.Status().GetProviderId() == "" {
			t.Error("it has lost its place each time")
		}
	})
}

// TestRefusedForLong: a provider that refuses the same call again and again is told, once, and asked ever less often.
func TestRefusedForLong(t *testing.T) {
	run(t, config{}, func(t *testing.T, r *rig) {
		r.cloud.Inject(memdriver.Create, memdriver.Fault{Err: fault.New(fault.Throttled, "not now"), Times: -1})
		r.ensure("a", 1400)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := count(r.cloud.Calls(), memdriver.Create); n < 10 || n > 45 {
			t.Errorf("tried %d times in ten minutes", n)
		}
		if o := r.lastOutcome(); o.GetResult() != busv1.Result_RESULT_PROGRESS || o.GetFault().GetKind() != string(fault.Throttled) {
			t.Errorf("outcome = %v", o)
		}
		if n := len(r.box.Outcomes(t)); n > 3 {
			t.Errorf("told %d times", n)
		}
		r.cloud.Mend()
		r.awaitReady("a")
		if n := count(r.cloud.Calls(), memdriver.Find); n != 0 {
			t.Errorf("%d look-ups of what the provider itself said it did not make", n)
		}
	})
}

// TestLooksDrawOnTheBudget: what is looked at before a plan waits its turn, and is tried again if it was one too many.
func TestLooksDrawOnTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := budget.New(budget.Config{Rate: 1, Burst: 1})
		refusals := 1
		probe := func(context.Context) ([]driver.Feature, error) {
			if refusals > 0 {
				refusals--
				return nil, &fault.Error{Kind: fault.Throttled, RetryAfter: 5 * time.Second}
			}
			return []driver.Feature{{Name: "dns"}}, nil
		}
		a := reconcile.NewAccount("clouds/lab", driver.Session{Probe: probe}, calls)
		began := time.Now()
		found, err := a.Session.Probe(t.Context())
		if err != nil || len(found) != 1 || time.Since(began) < 5*time.Second {
			t.Errorf("Probe = %v, %v after %s", found, err, time.Since(began))
		}
		refusals = 100
		if _, err := a.Session.Probe(t.Context()); !fault.Is(err, fault.Throttled) || refusals != 97 {
			t.Errorf("Probe = %v with %d tries, want three", err, 100-refusals)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := a.Session.Probe(ctx); !fault.Is(err, fault.Unavailable) {
			t.Errorf("Probe while the account rests = %v, want Unavailable", err)
		}
		if s := calls.Stats(); s.InFlight != 0 || s.Waiting != [3]int{} {
			t.Errorf("stats = %+v", s)
		}
	})
}
