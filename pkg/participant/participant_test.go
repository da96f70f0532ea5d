package participant_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"pgregory.net/rapid"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/participant"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/record/recordtest"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

const (
	name    = "tenants/acme/networks/net"
	typ     = "network.weft.cloud/Network"
	doing   = busv1.Direction_DIRECTION_DO
	undoing = busv1.Direction_DIRECTION_UNDO
)

// rig is an inbox with what is around it.
type rig struct {
	testing.TB
	store *memstore.Store
	box   *recordtest.Box
	book  *record.Book
	inbox *participant.Inbox
}

func newRig(t testing.TB) *rig {
	kinds, err := resource.NewRegistry(&networkv1.Network{})
	if err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }
	r := &rig{TB: t, store: memstore.New()}
	r.box = recordtest.NewBox(r.store, record.Prefix("network")+"o/")
	r.book = record.New(record.Config{Service: "network", Store: r.store, Outbox: r.box, Kinds: kinds, Now: now})
	r.inbox = participant.NewInbox(r.book, kinds, now)
	return r
}

// from gives the origin of a command.
func from(saga string, direction busv1.Direction, attempt int32, epoch int64) *busv1.Origin {
	return &busv1.Origin{Saga: "tenants/acme/operations/" + saga, Step: "net", Direction: direction, Attempt: attempt, Epoch: epoch}
}

func ensure(key string, mtu int32, o *busv1.Origin) *busv1.Command {
	spec, err := anypb.New(&networkv1.NetworkSpec{Mtu: mtu})
	if err != nil {
		panic(err)
	}
	return &busv1.Command{
		Origin: o, Name: name, Type: typ, Key: key,
		Action: &busv1.Command_Ensure{Ensure: &busv1.Ensure{Cloud: "clouds/lab", Spec: spec, Stack: "tenants/acme/stacks/s"}},
	}
}

func release(key string, o *busv1.Origin) *busv1.Command {
	return &busv1.Command{Origin: o, Name: name, Type: typ, Key: key, Action: &busv1.Command_Release{Release: &busv1.Release{}}}
}

func (r *rig) accept(commands ...*busv1.Command) {
	r.Helper()
	for _, c := range commands {
		if err := r.inbox.Accept(r.Context(), c); err != nil {
			r.Fatalf("accept %v: %v", c, err)
		}
	}
}

func (r *rig) get(key string) *record.Entry {
	r.Helper()
	e, err := r.book.Get(r.Context(), record.ID{Name: name, Key: key})
	if err != nil {
		r.Fatal(err)
	}
	return e
}

// ready does what the loop does when the object stands as wanted.
func (r *rig) ready(key string) {
	r.Helper()
	e := r.get(key)
	e.Record.Attempted = true
	e.Object.Status().ProviderId = "id-" + key
	e.Object.Status().ObservedGeneration = e.Object.Metadata().GetGeneration()
	e.Object.SetObserved(&networkv1.NetworkObserved{NetworkId: "id-" + key})
	participant.SetPhase(e, kindv1.Phase_PHASE_READY, time.Unix(0, 0))
	r.save(e)
}

func (r *rig) failed(key string) {
	r.Helper()
	e := r.get(key)
	e.Record.Failures = 3
	e.Object.Status().Fault = &kindv1.Fault{Kind: string(fault.Denied)}
	participant.SetPhase(e, kindv1.Phase_PHASE_FAILED, time.Unix(0, 0))
	r.save(e)
}

func (r *rig) save(e *record.Entry) {
	r.Helper()
	if err := r.book.Save(r.Context(), e, participant.NoticeOf(e)); err != nil {
		r.Fatal(err)
	}
}

// gone does what the loop does when the object is gone.
func (r *rig) gone(key string) {
	r.Helper()
	e := r.get(key)
	o := &busv1.Outcome{Origin: e.Record.GetOrigin(), Key: key, Result: busv1.Result_RESULT_RELEASED}
	if err := r.book.Remove(r.Context(), e, record.Notice{Verb: "released", Outcome: o}); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) last() *busv1.Outcome {
	r.Helper()
	all := r.box.Outcomes(r.TB)
	if len(all) == 0 {
		r.Fatal("there is no outcome")
	}
	return all[len(all)-1]
}

// answered wants the last outcome to be of a result and of a command.
func (r *rig) answered(result busv1.Result, o *busv1.Origin) *busv1.Outcome {
	r.Helper()
	last := r.last()
	if last.GetResult() != result || !proto.Equal(last.GetOrigin(), o) {
		r.Fatalf("the last outcome is %v, want %s to %v", last, result, o)
	}
	return last
}

func (r *rig) mtu(key string) (mtu int32, generation int64) {
	r.Helper()
	e := r.get(key)
	return e.Object.Spec().(*networkv1.NetworkSpec).GetMtu(), e.Object.Metadata().GetGeneration()
}

func TestInbox(t *testing.T) {
	const ready, released, progress, failed = busv1.Result_RESULT_READY, busv1.Result_RESULT_RELEASED, busv1.Result_RESULT_PROGRESS, busv1.Result_RESULT_FAILED
	first, again, undo := from("1", doing, 1, 5), from("1", doing, 2, 5), from("1", undoing, 1, 5)
	for what, c := range map[string]func(t *testing.T, r *rig){
		"ensure of a new key adds a record": func(t *testing.T, r *rig) {
			r.accept(ensure("k1", 1400, first))
			e := r.get("k1")
			meta := e.Object.Metadata()
			if meta.GetGeneration() != 1 || meta.GetStack() != "tenants/acme/stacks/s" || e.Object.Cloud() != "clouds/lab" || e.Object.Status().GetPhase() != kindv1.Phase_PHASE_PENDING {
				t.Errorf("%v", e.Object.Message())
			}
			if diff := cmp.Diff([]string{"pending"}, r.box.Verbs(t)); diff != "" {
				t.Error(diff)
			}
		},
		"ensure of a released key is refused": func(t *testing.T, r *rig) {
			r.accept(ensure("k1", 1400, first), release("k1", undo))
			r.gone("k1")
			r.accept(ensure("k1", 1400, again))
			if _, err := r.book.Get(t.Context(), record.ID{Name: name, Key: "k1"}); !fault.Is(err, fault.NotFound) {
				t.Errorf("a released key stands again: %v", err)
			}
		},
		"ensure of a key that is being released is refused": func(t *testing.T, r *rig) {
			r.accept(ensure("k1", 1400, first), release("k1", undo), ensure("k1", 1500, again))
			e := r.get("k1")
			if mtu, _ := r.mtu("k1"); mtu != 1400 || !e.Record.GetRelease() || !proto.Equal(e.Record.GetOrigin(), undo) {
				t.Errorf("%v %v", e.Record, e.Object.Message())
			}
		},
		"ensure with an older epoch is refused": func(t *testing.T, r *rig) {
			r.accept(ensure("k1", 1400, first), ensure("k1", 1500, from("1", doing, 2, 4)))
			if mtu, generation := r.mtu("k1"); mtu != 1400 || generation != 1 {
				t.Errorf("mtu %d, generation %d", mtu, generation)
			}
			r.accept(ensure("k1", 1500, from("1", doing, 2, 6)))
			if mtu, _ := r.mtu("k1"); mtu != 1500 {
				t.Errorf("the new owner's command was refused: mtu %d", mtu)
			}
		},
		"release with an older epoch is refused": func(t *testing.T, r *rig) {
			r.accept(ensure("k1", 1400, first), release("k1", from("1", undoing, 1, 4)))
			if r.get("k1").Record.GetRelease() {
				t.Error("a former owner released")
			}
		},
		"what is made anew waits until the one before is gone": func(t *testing.T, r *rig) {
			r.accept(ensure("k1", 1400, from("0", doing, 1, 5)))
			r.ready("k1")
			anew := ensure("k2", 1400, undo)
			anew.GetEnsure().Replaces, anew.GetEnsure().ReleaseReplaced = "k1", true
			r.accept(anew)
			if !r.get("k1").Record.GetRelease() {
				t.Error("the one before is not released")
			}
			told := r.box.Outcomes(t)
			if o := told[len(told)-1]; o.GetKey() != "k2" || o.GetResult() != failed || !fault.Kind(o.GetFault().GetKind()).Retryable() {
				t.Errorf("told %v", o)
			}
			r.gone("k1")
			r.accept(anew)
			r.get("k2")
		},
		"release that forgets needs no cloud": func(t *testing.T, r *rig) {
			r.accept(ensure("k1", 1400, first), release("k1", undo))
			forget := release("k1", from("1", undoing, 2, 5))
			forget.GetRelease().Forget = true
			r.accept(forget, ensure("k1", 1400, again), forget)
			if _, err := r.book.Get(t.Context(), record.ID{Name: name, Key: "k1"}); !fault.Is(err, fault.NotFound) {
				t.Errorf("what was forgotten is kept: %v", err)
			}
			if diff := cmp.Diff([]busv1.Result{released, released}, r.box.Results(t)); diff != "" {
				t.Error(diff)
			}
		},
		"a late command of a saga that is over is refused": func(t *testing.T, r *rig) {
			r.accept(ensure("k1", 1400, first))
			r.ready("k1")
			for _, next := range []*busv1.Origin{from("2", doing, 1, 5), from("0", doing, 1, 7)} { // of the same owner, and of the next one
				r.accept(ensure("k1", 1500, next), ensure("k1", 1400, again), release("k1", undo))
				if mtu, _ := r.mtu("k1"); mtu != 1500 || r.get("k1").Record.GetRelease() {
					t.Errorf("a saga that is over changed what the next one made: mtu %d", mtu)
				}
			}
		},
		"a late do does not take back the undo of a change": func(t *testing.T, r *rig) {
			r.accept(ensure("k1", 1400, from("0", doing, 1, 5)))
			r.ready("k1")
			r.accept(ensure("k1", 1500, first), ensure("k1", 1400, undo), ensure("k1", 1500, first), ensure("k1", 1500, again))
			if mtu, _ := r.mtu("k1"); mtu != 1400 {
				t.Errorf("mtu %d, want what the undo asked for", mtu)
			}
			if !proto.Equal(r.get("k1").Record.GetOrigin(), undo) {
				t.Errorf("the record answers %v, want the undo", r.get("k1").Record.GetOrigin())
			}
		},
		"a late command of the step before on the same key is refused, forward and back": func(t *testing.T, r *rig) {
			step := func(id string, direction busv1.Direction, place int32) *busv1.Origin {
				o := from("1", direction, 1, 5)
				o.Step, o.Place = id, place
				return o
			}
			r.accept(ensure("k1", 1400, step("net/restore", doing, 1)), ensure("k1", 1500, step("net", doing, 3)))
			r.accept(ensure("k1", 1400, step("net/restore", doing, 1)))
			if mtu, _ := r.mtu("k1"); mtu != 1500 {
				t.Errorf("forward: mtu %d", mtu)
			}
			r.accept(ensure("k1", 1500, step("net", undoing, 1)), ensure("k1", 1400, step("net/restore", undoing, 3)))
			r.accept(ensure("k1", 1500, step("net", undoing, 1)))
			if mtu, _ := r.mtu("k1"); mtu != 1400 {
				t.Errorf("back: mtu %d", mtu)
			}
		},
		"a late attempt does not take the answer from a newer one": func(t *testing.T, r *rig) {
			r.accept(ensure("k1", 1400, again), ensure("k1", 1400, first))
			if !proto.Equal(r.get("k1").Record.GetOrigin(), again) {
				t.Errorf("the record answers %v", r.get("k1").Record.GetOrigin())
			}
		},
		"ensure with another spec makes a new generation": func(t *testing.T, r *rig) {
			r.accept(ensure("k1", 1400, first))
			r.ready("k1")
			r.accept(ensure("k1", 1500, again))
			if mtu, generation := r.mtu("k1"); mtu != 1500 || generation != 2 {
				t.Errorf("mtu %d, generation %d", mtu, generation)
			}
			if o := participant.Outcome(r.get("k1")); o.GetResult() != progress {
				t.Errorf("the former generation answers for the new: %v", o)
			}
		},
		"ensure with the spec that stands is answered again": func(t *testing.T, r *rig) {
			r.accept(ensure("k1", 1400, first))
			r.ready("k1")
			r.answered(ready, first)
			r.accept(ensure("k1", 1400, again))
			o := r.answered(ready, again)
			if o.GetObserved() == nil || o.GetProviderId() != "id-k1" {
				t.Errorf("%v", o)
			}
			if _, generation := r.mtu("k1"); generation != 1 {
				t.Errorf("generation %d", generation)
			}
		},
		"ensure of what failed tries again": func(t *testing.T, r *rig) {
			r.accept(ensure("k1", 1400, first))
			r.failed("k1")
			r.answered(failed, first)
			r.accept(ensure("k1", 1400, again))
			r.answered(progress, again)
			e := r.get("k1")
			if e.Record.GetFailures() != 0 || e.Object.Status().GetFault() != nil || e.Object.Status().GetPhase() != kindv1.Phase_PHASE_PENDING {
				t.Errorf("%v %v", e.Record, e.Object.Status())
			}
		},
		"ensure under a name that is taken fails": func(t *testing.T, r *rig) {
			r.accept(ensure("k1", 1400, first), ensure("k2", 1400, again))
			if o := r.answered(failed, again); o.GetFault().GetKind() != string(fault.Exists) || o.GetKey() != "k2" {
				t.Errorf("%v", o)
			}
			r.accept(release("k2", undo)) // the saga undoes what it started
			r.answered(released, undo)
			r.get("k1")
		},
		"ensure of a replacement takes the name": func(t *testing.T, r *rig) {
			replacing := ensure("k2", 1400, again)
			replacing.GetEnsure().Replaces = "k1"
			r.accept(ensure("k1", 1400, first), replacing)
			e, err := r.book.Current(t.Context(), name)
			if err != nil || e.Key != "k2" {
				t.Errorf("%v %v", e, err)
			}
		},
		"release of a released key is answered again": func(t *testing.T, r *rig) {
			r.accept(ensure("k1", 1400, first), release("k1", undo))
			r.gone("k1")
			r.accept(release("k1", from("1", undoing, 2, 5)))
			r.answered(released, from("1", undoing, 2, 5))
		},
		"release of a key never seen leaves a tombstone": func(t *testing.T, r *rig) {
			r.accept(release("k1", undo))
			r.answered(released, undo)
			r.accept(ensure("k1", 1400, first))
			if _, err := r.book.Current(t.Context(), name); !fault.Is(err, fault.NotFound) {
				t.Errorf("do came after undo and had an effect: %v", err)
			}
		},
		"release of a record marks it": func(t *testing.T, r *rig) {
			r.accept(ensure("k1", 1400, first))
			r.failed("k1")
			r.accept(release("k1", undo))
			e := r.get("k1")
			if !e.Record.GetRelease() || e.Object.Status().GetPhase() != kindv1.Phase_PHASE_RELEASING || e.Object.Metadata().GetDeleteTime() == nil || e.Object.Status().GetFault() != nil {
				t.Errorf("%v %v", e.Record, e.Object.Message())
			}
		},
		"release of what could not be released tries again": func(t *testing.T, r *rig) {
			r.accept(ensure("k1", 1400, first), release("k1", undo))
			r.failed("k1")
			r.answered(failed, undo)
			second := from("1", undoing, 2, 5)
			r.accept(release("k1", second))
			r.answered(progress, second)
			if e := r.get("k1"); e.Record.GetFailures() != 0 || e.Object.Status().GetPhase() != kindv1.Phase_PHASE_RELEASING {
				t.Errorf("%v %v", e.Record, e.Object.Status())
			}
		},
	} {
		t.Run(what, func(t *testing.T) { c(t, newRig(t)) })
	}
}

func TestVerdicts(t *testing.T) {
	encode := func(c *busv1.Command) []byte {
		data, err := proto.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	wrongSpec := ensure("k1", 1400, from("1", doing, 1, 1))
	wrongSpec.GetEnsure().Spec = &anypb.Any{TypeUrl: "type.googleapis.com/weft.network.v1.SubnetSpec"}
	wrongType := ensure("k1", 1400, from("1", doing, 1, 1))
	wrongType.Type = "network.weft.cloud/Nothing"
	empty := ensure("k1", 1400, from("1", doing, 1, 1))
	empty.Action = nil
	for what, c := range map[string]struct {
		data []byte
		away bool
		want bus.Verdict
	}{
		"a command":              {data: encode(ensure("k1", 1400, from("1", doing, 1, 1))), want: bus.Ack},
		"noise":                  {data: []byte("noise"), want: bus.Reject},
		"a kind of another":      {data: encode(wrongType), want: bus.Reject},
		"a spec of another kind": {data: encode(wrongSpec), want: bus.Reject},
		"nothing asked":          {data: encode(empty), want: bus.Reject},
		"the store is away":      {data: encode(ensure("k1", 1400, from("1", doing, 1, 1))), away: true, want: bus.Later},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t)
			if c.away {
				r.store.SetFaults(memstore.Faults{Before: func(string, string) error { return fault.New(fault.Unavailable, "away") }})
			}
			if got := r.inbox.Handle(t.Context(), bus.Delivery{Message: bus.Message{Data: c.data}}); got != c.want {
				t.Errorf("verdict %d, want %d", got, c.want)
			}
		})
	}
}

// TestCrashAtEachWrite breaks each call of the store that a command makes, before or after its effect, and delivers the
// command again, as the bus does: there is exactly one record, and exactly one outcome where the command has one.
func TestCrashAtEachWrite(t *testing.T) {
	commands := map[string]func(r *rig) *busv1.Command{
		"ensure": func(*rig) *busv1.Command { return ensure("k1", 1400, from("1", doing, 1, 1)) },
		"change": func(r *rig) *busv1.Command {
			r.accept(ensure("k1", 1400, from("0", doing, 1, 1)))
			r.ready("k1")
			return ensure("k1", 1500, from("1", doing, 1, 1))
		},
		"release": func(r *rig) *busv1.Command {
			r.accept(ensure("k1", 1400, from("1", doing, 1, 1)))
			return release("k1", from("1", undoing, 1, 1))
		},
		"bury": func(*rig) *busv1.Command { return release("k1", from("1", undoing, 1, 1)) },
	}
	for what, prepare := range commands {
		for _, after := range []bool{false, true} {
			for at := 0; ; at++ {
				r := newRig(t)
				c := prepare(r)
				calls, broke := 0, false
				hook := func(string, string) error {
					if calls++; calls == at+1 {
						broke = true
						return fault.New(fault.Unavailable, "broken at call %d", at)
					}
					return nil
				}
				r.store.SetFaults(memstore.Faults{Before: hook})
				if after {
					r.store.SetFaults(memstore.Faults{After: hook})
				}
				err := r.inbox.Accept(t.Context(), c)
				if !broke {
					break
				}
				if err == nil {
					t.Fatalf("%s, broken at call %d: it was accepted", what, at)
				}
				r.accept(c)
				r.oneOfAll(what, at)
			}
		}
	}
}

// oneOfAll wants one record or one tombstone, with the right generation.
func (r *rig) oneOfAll(what string, at int) {
	r.Helper()
	page, err := r.store.List(r.Context(), record.Prefix("network"), store.ListOptions{})
	if err != nil {
		r.Fatal(err)
	}
	count := map[string]int{}
	for _, e := range page.Entries {
		count[strings.TrimPrefix(e.Key, record.Prefix("network"))[:1]]++
	}
	if what == "bury" {
		if count["r"] != 0 || count["t"] != 1 {
			r.Errorf("%s, broken at call %d: %v", what, at, count)
		}
		return
	}
	if count["r"] != 1 || count["n"] != 1 || count["t"] != 0 {
		r.Errorf("%s, broken at call %d: %v", what, at, count)
	}
	if mtu, generation := r.mtu("k1"); what == "change" && (mtu != 1500 || generation != 2) {
		r.Errorf("%s, broken at call %d: mtu %d, generation %d", what, at, mtu, generation)
	}
}

func TestQuery(t *testing.T) {
	r := newRig(t)
	asking := from("1", doing, 3, 9)
	id := record.ID{Name: name, Key: "k1"}
	want := func(known bool, result busv1.Result) {
		t.Helper()
		o, k, err := r.inbox.Query(t.Context(), id, asking)
		if err != nil || k != known || o.GetResult() != result || known && !proto.Equal(o.GetOrigin(), asking) {
			t.Errorf("%v, %v, %v, want known %v, %s", o, k, err, known, result)
		}
	}
	want(false, busv1.Result_RESULT_UNSPECIFIED)
	r.accept(ensure("k1", 1400, from("1", doing, 1, 1)))
	want(true, busv1.Result_RESULT_PROGRESS)
	r.ready("k1")
	want(true, busv1.Result_RESULT_READY)
	asking = from("2", doing, 1, 9)
	want(false, busv1.Result_RESULT_UNSPECIFIED) // what stands is what another command asked for
	r.accept(release("k1", from("1", undoing, 1, 1)))
	asking = from("1", doing, 3, 9)
	want(false, busv1.Result_RESULT_UNSPECIFIED)
	asking = from("1", undoing, 3, 9)
	want(true, busv1.Result_RESULT_PROGRESS)
	asking = nil
	want(true, busv1.Result_RESULT_PROGRESS)
	asking = from("2", doing, 1, 9)
	r.gone("k1")
	want(true, busv1.Result_RESULT_RELEASED)
	r.store.SetFaults(memstore.Faults{Before: func(string, string) error { return fault.New(fault.Unavailable, "away") }})
	if _, _, err := r.inbox.Query(t.Context(), id, asking); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a store that is away is answered with %v", err)
	}
}

// TestReleasedStaysReleased delivers the commands of a key in any order, any number of times, with a loop that acts and
// crashes between: once a release was accepted nothing stands, or will stand, for the key.
func TestReleasedStaysReleased(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t)
		objects, released := 0, false
		steps := rapid.IntRange(1, 25).Draw(rt, "steps")
		var trace []string
		for range steps {
			o := from("1", doing, rapid.Int32Range(1, 3).Draw(rt, "attempt"), 1)
			what := rapid.SampledFrom([]string{"ensure", "other spec", "release", "loop", "loop", "lost answer"}).Draw(rt, "what")
			trace = append(trace, what)
			switch what {
			case "ensure":
				r.deliver(ensure("k1", 1400, o), false)
			case "other spec":
				r.deliver(ensure("k1", 1500, o), false)
			case "lost answer":
				r.deliver(ensure("k1", 1400, o), true)
			case "release":
				o.Direction = undoing
				r.deliver(release("k1", o), rapid.Bool().Draw(rt, "answer lost"))
				released = true
			case "loop":
				objects = r.loop(objects)
			}
			e, err := r.book.Get(t.Context(), record.ID{Name: name, Key: "k1"})
			if released && err == nil && !e.Record.GetRelease() {
				rt.Fatalf("%v: the key is wanted again after it was released", trace)
			}
		}
		if !released {
			return
		}
		objects = r.loop(objects)
		if objects != 0 {
			rt.Fatalf("%v: %d objects are left", trace, objects)
		}
		if _, err := r.book.Tombstone(t.Context(), "k1"); err != nil {
			rt.Fatalf("%v: %v", trace, err)
		}
		if got := r.last().GetResult(); got != busv1.Result_RESULT_RELEASED && got != busv1.Result_RESULT_PROGRESS {
			rt.Fatalf("%v: the last outcome is %s", trace, got)
		}
	})
}

// deliver delivers a command until it is accepted; the first answer of the store may be lost.
func (r *rig) deliver(c *busv1.Command, lost bool) {
	r.Helper()
	if lost {
		r.store.SetFaults(memstore.Faults{After: func(op, _ string) error {
			if op != memstore.OpTxn {
				return nil
			}
			return fault.New(fault.Unavailable, "the answer was lost")
		}})
		if err := r.inbox.Accept(r.Context(), c); err != nil && !fault.Retryable(err) {
			r.Fatal(err)
		}
		r.store.SetFaults(memstore.Faults{})
	}
	r.accept(c)
}

// loop does one round of the loop on a cloud that holds objects, and gives how many it holds then.
func (r *rig) loop(objects int) int {
	r.Helper()
	e, err := r.book.Get(r.Context(), record.ID{Name: name, Key: "k1"})
	if err != nil {
		return objects
	}
	if e.Record.GetRelease() {
		r.gone("k1")
		return 0
	}
	r.ready("k1")
	return max(objects, 1)
}
