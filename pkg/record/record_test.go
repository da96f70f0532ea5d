package record_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/record/recordtest"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

const name = "tenants/acme/networks/net"

// rig is a book with what is around it.
type rig struct {
	*testing.T
	store   *memstore.Store
	box     *recordtest.Box
	book    *record.Book
	now     time.Time
	changed []record.ID
}

func newRig(t *testing.T) *rig {
	kinds, err := resource.NewRegistry(&networkv1.Network{}, &orchestratorv1.Secret{})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{T: t, store: memstore.New(), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	r.box = recordtest.NewBox(r.store, record.Prefix("network")+"o/")
	r.book = record.New(record.Config{
		Service: "network", Store: r.store, Outbox: r.box, Kinds: kinds, Now: func() time.Time { return r.now },
		Changed: func(c record.Change) { r.changed = append(r.changed, c.ID) },
	})
	return r
}

// entry makes an entry that is not kept yet.
func (r *rig) entry(name, key string) *record.Entry {
	r.Helper()
	kinds, err := resource.NewRegistry(&networkv1.Network{})
	if err != nil {
		r.Fatal(err)
	}
	object := resource.Wrap(&networkv1.Network{Name: name, Spec: &networkv1.NetworkSpec{Mtu: 1400}})
	object.Metadata().Key = key
	return r.book.NewEntry(kinds.Kinds()[0], object)
}

func (r *rig) add(name, key, replaces string) *record.Entry {
	r.Helper()
	e := r.entry(name, key)
	e.Record.Replaces = replaces
	r.must(r.book.Add(r.Context(), e, record.Notice{Verb: "pending"}))
	return e
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) want(err error, kind fault.Kind) {
	r.Helper()
	if !fault.Is(err, kind) {
		r.Fatalf("error = %v, want %s", err, kind)
	}
}

// stands wants a key to stand under the name; "" wants the name to be free.
func (r *rig) stands(key string) {
	r.Helper()
	e, err := r.book.Current(r.Context(), name)
	if key == "" {
		r.want(err, fault.NotFound)
		return
	}
	r.must(err)
	if e.Key != key {
		r.Fatalf("%s leads to %s, want %s", name, e.Key, key)
	}
}

func (r *rig) sequences() []string {
	r.Helper()
	var out []string
	for _, m := range r.box.Events(r.T) {
		out = append(out, strings.TrimLeft(m.Header["ce-sequence"], "0"))
	}
	return out
}

func TestLifeOfARecord(t *testing.T) {
	r := newRig(t)
	e := r.add(name, "k1", "")
	read, err := r.book.Current(t.Context(), name)
	r.must(err)
	if read.Object.Metadata().GetEtag() == "" || read.Object.Metadata().GetEtag() != e.Object.Metadata().GetEtag() {
		t.Errorf("etag = %q as read, %q as written", read.Object.Metadata().GetEtag(), e.Object.Metadata().GetEtag())
	}
	read.Record.Attempted = true
	r.must(r.book.Save(t.Context(), read, record.Notice{}))
	r.must(r.book.Save(t.Context(), read, record.Notice{Verb: "ready"}))
	if again, err := r.book.Get(t.Context(), e.ID); err != nil || !again.Record.GetAttempted() || again.Record.GetResource() != nil {
		t.Errorf("record = %v, %v", again.Record, err)
	}
	r.must(r.book.Remove(t.Context(), read, record.Notice{Verb: "released"}))
	r.stands("")
	stone, err := r.book.Tombstone(t.Context(), "k1")
	r.must(err)
	if stone.GetName() != name || !stone.GetReleaseTime().AsTime().Equal(r.now) {
		t.Errorf("tombstone = %v", stone)
	}
	if diff := cmp.Diff([]string{"pending", "ready", "released"}, r.box.Verbs(t)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"1", "2", "3"}, r.sequences()); diff != "" {
		t.Error(diff)
	}
	if len(r.changed) != 4 {
		t.Errorf("told of %d changes, want 4", len(r.changed))
	}
	r.want(r.book.Add(t.Context(), r.entry(name, "k1"), record.Notice{Verb: "pending"}), fault.Conflict) // released stays released
}

func TestConflicts(t *testing.T) {
	r := newRig(t)
	first := r.add(name, "k1", "")
	second, err := r.book.Get(t.Context(), first.ID)
	r.must(err)
	r.must(r.book.Save(t.Context(), first, record.Notice{Verb: "creating"}))
	for what, err := range map[string]error{
		"save":   r.book.Save(t.Context(), second, record.Notice{Verb: "ready"}),
		"remove": r.book.Remove(t.Context(), second, record.Notice{Verb: "released"}),
	} {
		if !record.IsConflict(err) {
			t.Errorf("%s of what was changed since: %v, want a conflict", what, err)
		}
	}
	if record.IsConflict(fault.New(fault.Conflict, "the cloud says so")) {
		t.Error("a conflict at a provider is taken for one of the record")
	}
	r.want(r.book.Add(t.Context(), r.entry(name, "k2"), record.Notice{}), fault.Exists)
	r.want(r.book.Add(t.Context(), func() *record.Entry { e := r.entry(name, "k2"); e.Record.Replaces = "other"; return e }(), record.Notice{}), fault.Exists)
	if got := len(r.box.Kept(t)); got != 2 {
		t.Errorf("%d messages are kept, want the 2 of the writes that stand", got)
	}
}

func TestNameOfAReplacement(t *testing.T) {
	for what, c := range map[string]struct{ remove, stands []string }{
		"the new one goes, the name falls back": {[]string{"k2", "k1"}, []string{"k1", ""}},
		"the old one goes, the name stays":      {[]string{"k1", "k2"}, []string{"k2", ""}},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t)
			r.add(name, "k1", "")
			r.add("tenants/acme/networks/net-two", "k0", "") // its name begins alike
			r.add(name, "k2", "k1")
			r.stands("k2")
			for i, key := range c.remove {
				e, err := r.book.Get(t.Context(), record.ID{Name: name, Key: key})
				r.must(err)
				r.must(r.book.Remove(t.Context(), e, record.Notice{Verb: "released"}))
				r.stands(c.stands[i])
			}
		})
	}
}

// TestNameWhenBothAreRemoved removes both records of a name at the same time: whichever transaction comes second must not
// leave the name with a record that is gone, for nothing could be made under it again.
func TestNameWhenBothAreRemoved(t *testing.T) {
	for _, order := range [][2]string{{"k1", "k2"}, {"k2", "k1"}} {
		t.Run(order[0]+" is overtaken by "+order[1], func(t *testing.T) {
			r := newRig(t)
			entries := map[string]*record.Entry{"k1": r.add(name, "k1", ""), "k2": r.add(name, "k2", "k1")}
			overtaken := false
			r.store.SetFaults(memstore.Faults{Before: func(op, _ string) error {
				if op != memstore.OpTxn || overtaken {
					return nil
				}
				overtaken = true
				return r.book.Remove(t.Context(), entries[order[1]], record.Notice{Verb: "released"})
			}})
			err := r.book.Remove(t.Context(), entries[order[0]], record.Notice{Verb: "released"})
			for range 3 {
				if !record.IsConflict(err) {
					break
				}
				e, getErr := r.book.Get(t.Context(), entries[order[0]].ID)
				r.must(getErr)
				err = r.book.Remove(t.Context(), e, record.Notice{Verb: "released"})
			}
			r.must(err)
			if !overtaken {
				t.Fatal("the removals did not meet")
			}
			r.add(name, "k3", "")
			r.stands("k3")
		})
	}
}

func TestEventsTellEachChangeOnce(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("answer lost %v", lost), func(t *testing.T) {
			r := newRig(t)
			e := r.add(name, "k1", "")
			broken := fault.New(fault.Unavailable, "the store is away")
			fail := func(op, _ string) error {
				if op == memstore.OpTxn {
					return broken
				}
				return nil
			}
			r.store.SetFaults(memstore.Faults{Before: fail})
			if lost {
				r.store.SetFaults(memstore.Faults{After: fail})
			}
			r.want(r.book.Save(t.Context(), e, record.Notice{Verb: "creating"}), fault.Unavailable)
			r.store.SetFaults(memstore.Faults{})
			err := r.book.Save(t.Context(), e, record.Notice{Verb: "creating"})
			if record.IsConflict(err) != lost {
				t.Fatalf("the second write: %v", err)
			}
			read, err := r.book.Get(t.Context(), e.ID)
			r.must(err)
			r.must(r.book.Save(t.Context(), read, record.Notice{Verb: "ready"}))
			if diff := cmp.Diff([]string{"1", "2", "3"}, r.sequences()); diff != "" {
				t.Error(diff)
			}
			ids := map[string]bool{}
			for _, m := range r.box.Events(t) {
				ids[m.ID] = true
				if m.ID != m.Header["ce-id"] || !strings.HasPrefix(m.ID, "k1.") {
					t.Errorf("id = %s, ce-id = %s", m.ID, m.Header["ce-id"])
				}
			}
			if len(ids) != 3 {
				t.Errorf("ids = %v", ids)
			}
		})
	}
}

func TestEventIsAFunctionOfTheState(t *testing.T) {
	kinds, err := resource.NewRegistry(&orchestratorv1.Secret{})
	if err != nil {
		t.Fatal(err)
	}
	secret := &orchestratorv1.Secret{Name: "tenants/acme/secrets/s", Spec: &orchestratorv1.SecretSpec{Data: map[string]string{"password": "hunter2"}}}
	object := resource.Wrap(secret)
	object.Metadata().Key, object.Metadata().Sequence = "k9", 7
	first, err := record.Event("orchestrator", kinds.Kinds()[0], object, "ready", "2026-01-01T00:00:00Z")
	if err != nil {
		t.Fatal(err)
	}
	second, err := record.Event("orchestrator", kinds.Kinds()[0], object, "ready", "2026-01-01T00:00:00Z")
	if err != nil {
		t.Fatal(err)
	}
	if first.ID != "k9.7" || first.ID != second.ID || first.Header["ce-id"] != "k9.7" {
		t.Errorf("ids = %s, %s", first.ID, second.ID)
	}
	if strings.Contains(string(first.Data), "hunter2") {
		t.Errorf("the event tells the secret: %s", first.Data)
	}
	if secret.GetSpec().GetData()["password"] != "hunter2" {
		t.Error("the event took the secret from the record")
	}
	if first.Header["ce-subject"] != secret.GetName() || first.Header["ce-type"] != "cloud.weft.orchestrator.secret.ready.v1" || !strings.HasPrefix(first.Subject, "weft.evt.acme.orchestrator.secrets.") {
		t.Errorf("%s %v", first.Subject, first.Header)
	}
}

func TestOutcomeStandsOrFallsWithItsRecord(t *testing.T) {
	r := newRig(t)
	origin := &busv1.Origin{Saga: "tenants/acme/operations/o", Step: "net", Direction: busv1.Direction_DIRECTION_DO, Attempt: 1}
	notice := record.Notice{Verb: "ready", Outcome: &busv1.Outcome{Origin: origin, Key: "k1", Result: busv1.Result_RESULT_READY}}
	e := r.add(name, "k1", "")
	stale, err := r.book.Get(t.Context(), e.ID)
	r.must(err)
	r.must(r.book.Save(t.Context(), e, notice))
	if err := r.book.Save(t.Context(), stale, notice); !record.IsConflict(err) {
		t.Fatalf("%v", err)
	}
	got := r.box.Outcomes(t)
	if len(got) != 1 || !proto.Equal(got[0], notice.Outcome) {
		t.Errorf("outcomes = %v", got)
	}
	r.must(r.book.Tell(t.Context(), notice.Outcome, 3))
	if got := r.box.Outcomes(t); len(got) != 2 {
		t.Errorf("outcomes = %v", got)
	}
	var ids []string
	for _, m := range r.box.Kept(t) {
		if m.Header["ce-id"] == "" {
			ids = append(ids, m.ID)
		}
	}
	if ids[0] == ids[1] {
		t.Errorf("the same outcome of another state of the record has the same id %s", ids[0])
	}
}

func TestBury(t *testing.T) {
	r := newRig(t)
	outcome := &busv1.Outcome{Origin: &busv1.Origin{Saga: "tenants/acme/operations/o"}, Key: "k1", Result: busv1.Result_RESULT_RELEASED}
	id := record.ID{Name: name, Key: "k1"}
	r.must(r.book.Bury(t.Context(), id, outcome.GetOrigin(), outcome))
	r.want(r.book.Bury(t.Context(), id, outcome.GetOrigin(), outcome), fault.Conflict)
	r.want(r.book.Add(t.Context(), r.entry(name, "k1"), record.Notice{}), fault.Conflict)
	r.add(name, "k2", "")
	r.want(r.book.Bury(t.Context(), record.ID{Name: name, Key: "k2"}, outcome.GetOrigin(), outcome), fault.Conflict) // it is there
	if got := r.box.Outcomes(t); len(got) != 1 {
		t.Errorf("outcomes = %v", got)
	}
}

func TestSweep(t *testing.T) {
	r := newRig(t)
	for i := range 3 {
		e := r.add(fmt.Sprintf("tenants/acme/networks/n%d", i), fmt.Sprintf("k%d", i), "")
		r.must(r.book.Remove(t.Context(), e, record.Notice{Verb: "released"}))
		r.now = r.now.Add(time.Hour)
	}
	n, err := r.book.Sweep(t.Context(), 2*time.Hour)
	if err != nil || n != 2 {
		t.Errorf("swept %d, %v, want the 2 that are two hours old", n, err)
	}
	if _, err := r.book.Tombstone(t.Context(), "k2"); err != nil {
		t.Errorf("the young tombstone: %v", err)
	}
	if _, err := r.book.Tombstone(t.Context(), "k1"); !fault.Is(err, fault.NotFound) {
		t.Errorf("the old tombstone: %v", err)
	}
}

// TestSweepOfMany: what thousands of sagas release in an hour is swept many at a time.
func TestSweepOfMany(t *testing.T) {
	r := newRig(t)
	const stones = 250
	for i := range stones {
		r.must(r.book.Bury(t.Context(), record.ID{Name: name, Key: fmt.Sprintf("k%d", i)}, nil, &busv1.Outcome{}))
	}
	r.now = r.now.Add(time.Hour)
	asked := 0
	r.store.SetFaults(memstore.Faults{Before: func(string, string) error { asked++; return nil }})
	n, err := r.book.Sweep(t.Context(), time.Hour)
	if err != nil || n != stones || asked > 6 {
		t.Errorf("swept %d with %d requests, %v; want %d with 6", n, asked, err, stones)
	}
}

func TestAFailedReadIsNoAnswer(t *testing.T) {
	r := newRig(t)
	e := r.add(name, "k1", "")
	broken := errors.New("no route")
	r.store.SetFaults(memstore.Faults{Before: func(op, _ string) error {
		if op == memstore.OpTxn {
			return nil
		}
		return fault.As(fault.Unavailable, broken)
	}})
	_, getErr := r.book.Get(t.Context(), e.ID)
	_, currentErr := r.book.Current(t.Context(), name)
	_, stoneErr := r.book.Tombstone(t.Context(), "k1")
	_, _, listErr := r.book.List(t.Context(), "", record.ID{}, 0)
	for what, err := range map[string]error{
		"get": getErr, "current": currentErr, "tombstone": stoneErr, "list": listErr,
		"add": r.book.Add(t.Context(), r.entry(name, "k2"), record.Notice{}), "remove": r.book.Remove(t.Context(), e, record.Notice{}),
	} {
		if !fault.Is(err, fault.Unavailable) || !errors.Is(err, broken) {
			t.Errorf("%s = %v, want the store's own fault", what, err)
		}
	}
}

func TestListInPages(t *testing.T) {
	r := newRig(t)
	for i := range 5 {
		r.add(fmt.Sprintf("tenants/acme/networks/n%d", i), "k", "")
	}
	r.add("tenants/acmes/networks/n", "k", "") // another tenant whose name begins alike
	var got []string
	after, more := record.ID{}, true
	for more {
		var page []*record.Entry
		var err error
		page, more, err = r.book.List(t.Context(), "tenants/acme/", after, 2)
		r.must(err)
		for _, e := range page {
			got = append(got, e.Name[len("tenants/acme/networks/"):])
			after = e.ID
		}
	}
	if diff := cmp.Diff([]string{"n0", "n1", "n2", "n3", "n4"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestFence(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	const owner = "/weft/network/owner"
	revision, err := r.store.Txn(ctx, nil, []store.Op{{Key: owner, Value: []byte("me")}})
	r.must(err)
	r.add(name, "k1", "")
	e, err := r.book.Get(ctx, record.ID{Name: name, Key: "k1"})
	r.must(err)
	e.Fence = &store.Compare{Key: owner, CreateRevision: revision}
	r.must(r.book.Save(ctx, e, record.Notice{}))

	other, err := r.book.Get(ctx, e.ID)
	r.must(err)
	r.must(r.book.Save(ctx, other, record.Notice{})) // without a fence, as the inbox does
	if err := r.book.Save(ctx, e, record.Notice{}); !record.IsConflict(err) || record.IsFenced(err) {
		t.Errorf("a record that was written meanwhile: %v", err)
	}
	e, err = r.book.Get(ctx, e.ID)
	r.must(err)
	e.Fence = other.Fence
	for what, write := range map[string]func(e *record.Entry) error{
		"save":   func(e *record.Entry) error { return r.book.Save(ctx, e, record.Notice{Verb: "ready"}) },
		"remove": func(e *record.Entry) error { return r.book.Remove(ctx, e, record.Notice{Verb: "released"}) },
	} {
		t.Run(what, func(t *testing.T) {
			_, err := r.store.Txn(ctx, nil, []store.Op{{Key: owner, Delete: true}})
			r.must(err)
			before := r.book.FenceRejections()
			e.Fence = &store.Compare{Key: owner, CreateRevision: revision}
			if err := write(e); !record.IsFenced(err) || record.IsConflict(err) {
				t.Errorf("nobody owns it: %v", err)
			}
			_, err = r.store.Txn(ctx, nil, []store.Op{{Key: owner, Value: []byte("another")}})
			r.must(err)
			if err := write(e); !record.IsFenced(err) {
				t.Errorf("another owns it: %v", err)
			}
			if n := r.book.FenceRejections() - before; n != 2 {
				t.Errorf("%d rejections were counted, want 2", n)
			}
		})
	}
	r.must(r.book.Save(ctx, other, record.Notice{})) // none of those was written
}

func TestFollow(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	r.add(name, "before", "")
	revision, err := r.book.Revision(ctx)
	r.must(err)
	e := r.add(name+"2", "k2", "")
	r.must(r.book.Save(ctx, e, record.Notice{}))
	r.must(r.book.Remove(ctx, e, record.Notice{Verb: "released"}))
	r.add(name+"3", "k3", "")
	var got []record.ID
	last := revision
	err = r.book.Follow(ctx, revision, func(changes []record.Change) {
		for _, c := range changes {
			if c.Revision <= last {
				t.Errorf("%v at %d comes after one at %d", c.ID, c.Revision, last)
			}
			last = c.Revision
			if got = append(got, c.ID); c.Key == "k3" {
				cancel()
			}
		}
	})
	r.must(err)
	if diff := cmp.Diff([]record.ID{{Name: name + "2", Key: "k2"}, {Name: name + "2", Key: "k2"}, {Name: name + "2", Key: "k2"}, {Name: name + "3", Key: "k3"}}, got); diff != "" {
		t.Error(diff)
	}
	r.store.Compact()
	if err := r.book.Follow(t.Context(), revision, func([]record.Change) {}); !fault.Is(err, fault.Conflict) {
		t.Errorf("follow from a revision that is not kept: %v", err)
	}
}
