package memdriver_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/driver/drivertest"
	"github.com/weftcloud/weft/pkg/driver/memdriver"
	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

type memory = memdriver.Driver[*networkv1.NetworkSpec, *networkv1.NetworkObserved]

func observed(id string, spec *networkv1.NetworkSpec) *networkv1.NetworkObserved {
	return &networkv1.NetworkObserved{NetworkId: id, Mtu: spec.GetMtu()}
}

func TestConformance(t *testing.T) {
	for name, tune := range map[string]func(*memdriver.Config[*networkv1.NetworkSpec, *networkv1.NetworkObserved]){
		"at once":  func(*memdriver.Config[*networkv1.NetworkSpec, *networkv1.NetworkObserved]) {},
		"two step": func(c *memdriver.Config[*networkv1.NetworkSpec, *networkv1.NetworkObserved]) { c.TwoStep = true },
		"in time": func(c *memdriver.Config[*networkv1.NetworkSpec, *networkv1.NetworkObserved]) {
			c.ReadyAfter, c.GoneAfter = 3*time.Second, 2*time.Second
		},
		"telling": func(c *memdriver.Config[*networkv1.NetworkSpec, *networkv1.NetworkObserved]) {
			c.Tells, c.TwoStep = true, true
		},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(0, 0)
			config := memdriver.Config[*networkv1.NetworkSpec, *networkv1.NetworkObserved]{Observed: observed, Now: func() time.Time { return now }}
			tune(&config)
			d := memdriver.New(config)
			drivertest.Run(t, drivertest.Harness[*networkv1.NetworkSpec, *networkv1.NetworkObserved]{
				Driver: d,
				Name:   func(id string) string { return "tenants/conform/networks/" + id },
				Spec: func(*testing.T) (*networkv1.NetworkSpec, driver.Refs) {
					return &networkv1.NetworkSpec{Mtu: 1400}, nil
				},
				Change: func(*testing.T, driver.Request[*networkv1.NetworkSpec]) (*networkv1.NetworkSpec, driver.Refs) {
					return &networkv1.NetworkSpec{Mtu: 1300}, nil
				},
				Verify: func(t *testing.T, r driver.Request[*networkv1.NetworkSpec], o *networkv1.NetworkObserved) {
					if o.GetMtu() != r.Spec.GetMtu() || o.GetNetworkId() == "" {
						t.Errorf("observed %v, want what %v asks for", o, r.Spec)
					}
				},
				Outage:   func(*testing.T) func() { return outage(d) },
				AbsentID: "mem-0",
				Wait:     func() { now = now.Add(time.Second) },
			})
			if left := d.Objects(); len(left) != 0 {
				t.Errorf("%d objects are left", len(left))
			}
		})
	}
}

func outage(d *memory) func() {
	for _, step := range []memdriver.Step{memdriver.Find, memdriver.Create, memdriver.Observe, memdriver.Update, memdriver.Delete} {
		d.Inject(step, memdriver.Fault{Err: fault.New(fault.Unavailable, "cut"), Times: -1})
	}
	return d.Mend
}

func TestLostAnswerLeavesTheObject(t *testing.T) {
	d := memdriver.New(memdriver.Config[*networkv1.NetworkSpec, *networkv1.NetworkObserved]{Observed: observed})
	d.Inject(memdriver.Create, memdriver.Fault{Err: fault.New(fault.Unavailable, "lost"), After: true})
	r := driver.Request[*networkv1.NetworkSpec]{Key: "k", Name: "n", Spec: &networkv1.NetworkSpec{Mtu: 9}}
	if _, err := d.Create(t.Context(), r); !fault.Is(err, fault.Unavailable) {
		t.Fatalf("create = %v, want Unavailable", err)
	}
	ids, err := d.Find(t.Context(), r)
	if err != nil || len(ids) != 1 {
		t.Fatalf("find = %v, %v; want the one object", ids, err)
	}
	if got := d.Objects()[0]; got.Key != "k" || !proto.Equal(got.Spec, r.Spec) {
		t.Errorf("object = %+v", got)
	}
	want := []memdriver.Call{{Step: memdriver.Create, Key: "k"}, {Step: memdriver.Find, Key: "k"}}
	if diff := cmp.Diff(want, d.Calls()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestLatencyEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := memdriver.New(memdriver.Config[*networkv1.NetworkSpec, *networkv1.NetworkObserved]{Observed: observed, Latency: time.Minute})
		start := time.Now()
		if _, err := d.Observe(t.Context(), nil); err != nil || time.Since(start) != time.Minute {
			t.Errorf("observe = %v after %s, want an answer after a minute", err, time.Since(start))
		}
	})
}

func TestSetStateAndBlock(t *testing.T) {
	d := memdriver.New(memdriver.Config[*networkv1.NetworkSpec, *networkv1.NetworkObserved]{Observed: observed})
	id, err := d.Create(t.Context(), driver.Request[*networkv1.NetworkSpec]{Key: "k", Spec: &networkv1.NetworkSpec{}})
	if err != nil {
		t.Fatal(err)
	}
	d.SetState(id, driver.Failed, fault.New(fault.Quota, "no room"))
	seen, err := d.Observe(t.Context(), []string{id})
	if err != nil || seen[id].State != driver.Failed || !fault.Is(seen[id].Fault, fault.Quota) {
		t.Errorf("observe = %+v, %v; want the failure", seen[id], err)
	}
	d.Block(id, &kindv1.Blocker{Kind: "port", Id: "p1"})
	if err := d.Delete(t.Context(), id); !fault.Is(err, fault.Conflict) {
		t.Errorf("delete of a blocked object = %v, want Conflict", err)
	}
	if b, err := d.Blockers(t.Context(), id); err != nil || len(b) != 1 {
		t.Errorf("blockers = %v, %v; want one", b, err)
	}
	d.Remove(id)
	if seen, err := d.Observe(t.Context(), []string{id}); err != nil || len(seen) != 0 {
		t.Errorf("observe after removal = %v, %v", seen, err)
	}
}
