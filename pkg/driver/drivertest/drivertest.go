// Package drivertest is the one contract that every driver is held to, whatever its kind and provider. It runs against
// the memory driver, against simulated clouds, and against real ones where their credentials are given.
package drivertest

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
)

// Harness is what the suite needs to know of one kind at one provider.
type Harness[S, O proto.Message] struct {
	// Driver is the driver under test.
	Driver driver.Driver[S, O]
	// Name gives a full resource name for an id, e.g. tenants/conform/networks/<id>.
	Name func(id string) string
	// Spec gives what is wanted in a new object, and what its references lead to. It is called for each object, may make
	// what they need, and has it taken away by t.Cleanup.
	Spec func(t *testing.T) (S, driver.Refs)
	// Change gives another spec that the object can be changed to in place; nil if the kind cannot be changed.
	Change func(t *testing.T, r driver.Request[S]) (S, driver.Refs)
	// Verify compares what was observed with what is wanted.
	Verify func(t *testing.T, r driver.Request[S], observed O)
	// Outage cuts the way to the provider, and returns what mends it; nil if it cannot be cut.
	Outage func(t *testing.T) (mend func())
	// AbsentID is an id that could exist and does not.
	AbsentID string
	// Wait passes the time between two looks at the provider; nil waits for half a second.
	Wait func()
	// Patience is how long an object may take to become ready or to go; 0 means five minutes.
	Patience time.Duration
	// Identity says why the kind's objects bear no key; empty if they do. Find is then not asked for other keys, and two
	// objects of one name are not made.
	Identity string
}

// Run runs the suite.
func Run[S, O proto.Message](t *testing.T, h Harness[S, O]) {
	if h.Wait == nil {
		h.Wait = func() { time.Sleep(500 * time.Millisecond) } // the other side is a real process with a clock of its own
	}
	if h.Patience == 0 {
		h.Patience = 5 * time.Minute
	}
	s := suite[S, O]{h}
	t.Run("absent", s.absent)
	t.Run("life", s.life)
	t.Run("told", s.retold)
	t.Run("twins", s.twins)
	t.Run("import", s.imported)
	t.Run("outage", s.outage)
	t.Run("context", s.endedContext)
}

type suite[S, O proto.Message] struct{ Harness[S, O] }

// newKey makes a key as the platform does.
func newKey(t *testing.T) string {
	t.Helper()
	key, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return key.String()
}

// request makes a request for a new object under a name of its own.
func (s suite[S, O]) request(t *testing.T) driver.Request[S] {
	t.Helper()
	spec, refs := s.Spec(t)
	key := newKey(t)
	return driver.Request[S]{Key: key, Name: s.Name("c" + key[len(key)-8:]), Generation: 1, Spec: spec, Refs: refs}
}

// create makes an object, brings it to ready and has it taken away at the end.
func (s suite[S, O]) create(t *testing.T, r driver.Request[S]) string {
	t.Helper()
	before := proto.Clone(r.Spec)
	look := driver.Remembering(t.Context())
	id, err := s.Driver.Create(look, r)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(func() { s.remove(t, id) })
	if id == "" {
		t.Fatal("create gives no id")
	}
	if !proto.Equal(before, r.Spec) {
		t.Error("create changed the spec that it was given")
	}
	if two, ok := s.Driver.(driver.TwoStep); ok && two.NeedsUpdate() {
		if err := s.Driver.Update(look, id, r); err != nil && !fault.Is(err, fault.Conflict) {
			t.Fatalf("update what was made: %v", err)
		} else if err != nil {
			s.update(t, id, r)
			look = t.Context() // what was told is of an earlier look
		}
	}
	s.told(t, look, id)
	s.settle(t, id, r)
	return id
}

// told holds what the answers told of a new object to what Observe gives.
func (s suite[S, O]) told(t *testing.T, look context.Context, id string) {
	t.Helper()
	teller, ok := s.Driver.(driver.Teller[O])
	if !ok {
		return
	}
	if o, told := teller.Told(t.Context(), id); told {
		t.Errorf("another look is told %v", o)
	}
	told, ok := teller.Told(look, id)
	if !ok || told.State != driver.Ready {
		return // it is looked at
	}
	all, err := s.Driver.Observe(t.Context(), []string{id})
	if err != nil {
		t.Fatalf("observe: %v", err)
	}
	seen := all[id]
	if told.State != seen.State || !proto.Equal(told.Observed, seen.Observed) || !maps.Equal(told.Facts, seen.Facts) {
		t.Errorf("the answers told %v with %v, and observed is %v with %v in state %v", told.Observed, told.Facts, seen.Observed, seen.Facts, seen.State)
	}
}

// retold: an object that is changed in the look that made it is not told as it was before.
func (s suite[S, O]) retold(t *testing.T) {
	if _, ok := s.Driver.(driver.Teller[O]); !ok || s.Change == nil {
		t.Skip("nothing is told, or nothing can be changed")
	}
	r := s.request(t)
	look := driver.Remembering(t.Context())
	id, err := s.Driver.Create(look, r)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(func() { s.remove(t, id) })
	changed := r
	changed.Generation++
	changed.Spec, changed.Refs = s.Change(t, r)
	if proto.Equal(changed.Spec, r.Spec) {
		t.Fatal("the harness changes nothing")
	}
	for _, wanted := range []driver.Request[S]{r, changed} {
		s.until(t, "update", func(context.Context) (bool, error) {
			err := s.Driver.Update(look, id, wanted)
			if fault.Is(err, fault.Conflict) {
				return false, nil
			}
			return err == nil, err
		})
	}
	s.told(t, look, id)
	s.remove(t, id)
}

// update brings an object to a request. A conflict may pass by itself: the object can be busy.
func (s suite[S, O]) update(t *testing.T, id string, r driver.Request[S]) {
	t.Helper()
	s.until(t, "update", func(ctx context.Context) (bool, error) {
		err := s.Driver.Update(ctx, id, r)
		if fault.Is(err, fault.Conflict) {
			return false, nil
		}
		return err == nil, err
	})
}

// settle waits until an object is ready, and updates it as often as it says that it is outdated.
func (s suite[S, O]) settle(t *testing.T, id string, r driver.Request[S]) O {
	t.Helper()
	var seen driver.Observation[O]
	s.until(t, "become ready", func(ctx context.Context) (bool, error) {
		all, err := s.Driver.Observe(ctx, []string{id})
		if err != nil {
			return false, err
		}
		var exists bool
		if seen, exists = all[id]; !exists {
			return false, fault.New(fault.NotFound, "observe does not give %s", id)
		}
		switch seen.State {
		case driver.Failed, driver.Broken:
			return false, fault.Wrap(seen.Fault, "it failed")
		case driver.Outdated:
			if err := s.Driver.Update(ctx, id, r); err != nil && !fault.Is(err, fault.Conflict) {
				return false, err
			}
		}
		return seen.State == driver.Ready, nil
	})
	return seen.Observed
}

// remove deletes an object and waits until it is gone.
func (s suite[S, O]) remove(t *testing.T, id string) {
	t.Helper()
	s.until(t, "go", func(ctx context.Context) (bool, error) {
		if err := s.Driver.Delete(ctx, id); err != nil {
			if fault.Is(err, fault.Conflict) {
				return false, nil
			}
			return false, err
		}
		all, err := s.Driver.Observe(ctx, []string{id})
		_, exists := all[id]
		return err == nil && !exists, err
	})
}

// until repeats a step until it is done, fails or takes too long. The context is the step's own, since a test's context
// has ended when it cleans up.
func (s suite[S, O]) until(t *testing.T, what string, step func(context.Context) (done bool, err error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), s.Patience)
	defer cancel()
	for {
		done, err := step(ctx)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if done {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%s: it did not within %s", what, s.Patience)
		}
		s.Wait()
	}
}

// found holds Find to an answer.
func (s suite[S, O]) found(t *testing.T, r driver.Request[S], want ...string) {
	t.Helper()
	got, err := s.Driver.Find(t.Context(), r)
	if err != nil {
		t.Fatalf("find: %v", err)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("find gives %q, want %q", got, want)
	}
}

// absent: what does not exist is an empty answer, and deleting it is success.
func (s suite[S, O]) absent(t *testing.T) {
	r := s.request(t)
	s.found(t, r)
	all, err := s.Driver.Observe(t.Context(), []string{s.AbsentID})
	if err != nil || len(all) != 0 {
		t.Errorf("observe of an unknown id = %v, %v; want nothing", all, err)
	}
	all, err = s.Driver.Observe(t.Context(), nil)
	if err != nil || len(all) != 0 {
		t.Errorf("observe of no ids = %v, %v; want nothing", all, err)
	}
	for range 2 {
		if err := s.Driver.Delete(t.Context(), s.AbsentID); err != nil {
			t.Errorf("delete of an unknown id: %v", err)
		}
	}
}

// life: an object is made, found, seen, left alone, changed and taken away.
func (s suite[S, O]) life(t *testing.T) {
	r := s.request(t)
	id := s.create(t, r)
	s.Verify(t, r, s.settle(t, id, r))
	s.found(t, r, id)
	s.marked(t, id, r)
	s.free(t, id)
	for range 2 {
		s.update(t, id, r)
	}
	s.Verify(t, r, s.settle(t, id, r))
	if s.Change != nil {
		former := r
		r.Generation++
		r.Spec, r.Refs = s.Change(t, former)
		if proto.Equal(r.Spec, former.Spec) {
			t.Fatal("the harness changes nothing")
		}
		for range 2 {
			s.update(t, id, r)
			s.Verify(t, r, s.settle(t, id, r))
		}
		s.found(t, r, id)
	}
	all, err := s.Driver.Observe(t.Context(), []string{s.AbsentID, id})
	if _, ok := all[id]; err != nil || !ok || len(all) != 1 {
		t.Errorf("observe of one that exists and one that does not = %v, %v", all, err)
	}
	s.remove(t, id)
	s.found(t, r)
	if err := s.Driver.Delete(t.Context(), id); err != nil {
		t.Errorf("delete again: %v", err)
	}
	if err := s.Driver.Update(t.Context(), id, r); !fault.Is(err, fault.NotFound) && s.Change != nil {
		t.Errorf("update of what is gone = %v, want NotFound", err)
	}
}

// marked holds a lister to what was made.
func (s suite[S, O]) marked(t *testing.T, id string, r driver.Request[S]) {
	t.Helper()
	lister, ok := s.Driver.(driver.Lister)
	if !ok {
		return
	}
	all, err := lister.ListMarked(t.Context())
	if err != nil {
		t.Fatalf("list marked: %v", err)
	}
	at := slices.IndexFunc(all, func(m driver.Marked) bool { return m.ID == id })
	if at < 0 {
		t.Fatalf("list marked does not give %s", id)
	}
	if m := all[at]; m.Key != r.Key || m.Name != "" && m.Name != r.Name {
		t.Errorf("list marked gives %+v, want key %s and name %s", m, r.Key, r.Name)
	}
}

// free holds a driver that knows blockers to an empty answer for an object that nothing holds.
func (s suite[S, O]) free(t *testing.T, id string) {
	t.Helper()
	b, ok := s.Driver.(driver.Blockable)
	if !ok {
		return
	}
	blockers, err := b.Blockers(t.Context(), id)
	if err != nil || len(blockers) != 0 {
		t.Errorf("blockers of a free object = %v, %v; want none", blockers, err)
	}
}

// twins: two objects of one name are told apart by their keys, and no other key finds them.
func (s suite[S, O]) twins(t *testing.T) {
	if s.Identity != "" {
		t.Skip(s.Identity)
	}
	a, b := s.request(t), s.request(t)
	b.Name = a.Name
	idA, idB := s.create(t, a), s.create(t, b)
	if idA == idB {
		t.Fatal("two keys gave one object")
	}
	s.found(t, a, idA)
	s.found(t, b, idB)
	wrong := a
	wrong.Key = newKey(t)
	s.found(t, wrong)
	all, err := s.Driver.Observe(t.Context(), []string{idA, idB})
	if err != nil || len(all) != 2 {
		t.Errorf("observe of two = %d answers, %v", len(all), err)
	}
	s.remove(t, idA)
	s.found(t, a)
	s.found(t, b, idB)
}

// imported: an object that bears no mark is described by a spec that changes nothing, takes a mark once, and gives it up.
func (s suite[S, O]) imported(t *testing.T) {
	importer, ok := s.Driver.(driver.Importer)
	if !ok {
		t.Skip("the driver imports nothing")
	}
	r := s.request(t)
	id := s.create(t, r)
	if s.Identity == "" && !s.describe(t, importer, id).Unmarkable {
		s.remarked(t, importer, id, r)
	} else if err := importer.Mark(t.Context(), id, r.Key, r.Name); err != nil {
		t.Errorf("mark of one that cannot be marked: %v", err)
	}
	if spec, ok := s.describe(t, importer, id).Spec.(S); !ok || !spec.ProtoReflect().IsValid() {
		t.Error("what is described has no spec of the kind")
	}
	for what, absent := range map[string]func() error{
		"mark":   func() error { return importer.Mark(t.Context(), s.AbsentID, r.Key, r.Name) },
		"unmark": func() error { return importer.Unmark(t.Context(), s.AbsentID, r.Key, "") },
	} {
		if err := absent(); fault.Is(err, fault.NotFound) != (what == "mark") || what == "unmark" && err != nil {
			t.Errorf("%s of what does not exist = %v", what, err)
		}
	}
	all, err := importer.Describe(t.Context(), nil)
	if err != nil || !slices.ContainsFunc(all, func(d driver.Described) bool { return d.ID == id }) {
		t.Errorf("among all that is described %s is missing: %v", id, err)
	}
	if some, err := importer.Describe(t.Context(), []string{s.AbsentID}); err != nil || len(some) > 0 {
		t.Errorf("what does not exist is described as %v, %v", some, err)
	}
}

// remarked takes an object's mark off, and has it bear another and then its own again.
func (s suite[S, O]) remarked(t *testing.T, importer driver.Importer, id string, r driver.Request[S]) {
	t.Helper()
	if d := s.describe(t, importer, id); d.Key != r.Key || d.Owner != "" && d.Owner != r.Name {
		t.Errorf("it is described with key %q of %q, want %q of %q", d.Key, d.Owner, r.Key, r.Name)
	}
	if err := importer.Unmark(t.Context(), id, newKey(t), ""); err != nil {
		t.Fatal(err)
	}
	s.found(t, r, id) // it bears another key than the one that was to be taken off
	for range 2 {
		if err := importer.Unmark(t.Context(), id, r.Key, ""); err != nil {
			t.Fatalf("unmark: %v", err)
		}
	}
	s.found(t, r)
	if d := s.describe(t, importer, id); d.Key != "" || d.Owner != "" {
		t.Errorf("without its mark it is described as %+v", d)
	}
	other := r
	other.Key, other.Name = newKey(t), s.Name("other")
	for range 2 {
		if err := importer.Mark(t.Context(), id, other.Key, other.Name); err != nil {
			t.Fatalf("mark: %v", err)
		}
	}
	s.found(t, other, id)
	if err := importer.Mark(t.Context(), id, r.Key, r.Name); !fault.Is(err, fault.Exists) {
		t.Errorf("marking what bears another key = %v, want Exists", err)
	}
	if err := importer.Unmark(t.Context(), id, other.Key, ""); err != nil {
		t.Fatal(err)
	}
	if err := importer.Mark(t.Context(), id, r.Key, r.Name); err != nil {
		t.Fatal(err)
	}
	s.found(t, r, id)
}

// describe describes one object, which exists.
func (s suite[S, O]) describe(t *testing.T, importer driver.Importer, id string) driver.Described {
	t.Helper()
	all, err := importer.Describe(t.Context(), []string{id})
	if err != nil || len(all) != 1 || all[0].ID != id {
		t.Fatalf("describe %s = %v, %v", id, all, err)
	}
	return all[0]
}

// outage: no answer is an error of a kind that can pass, never an empty answer; afterwards nothing was made.
func (s suite[S, O]) outage(t *testing.T) {
	if s.Outage == nil {
		t.Skip("the way to this provider cannot be cut")
	}
	r := s.request(t)
	mend := s.Outage(t)
	steps := map[string]func() error{
		"find":    func() error { _, err := s.Driver.Find(t.Context(), r); return err },
		"create":  func() error { _, err := s.Driver.Create(t.Context(), r); return err },
		"observe": func() error { _, err := s.Driver.Observe(t.Context(), []string{s.AbsentID}); return err },
		"delete":  func() error { return s.Driver.Delete(t.Context(), s.AbsentID) },
	}
	if l, ok := s.Driver.(driver.Lister); ok {
		steps["list marked"] = func() error { _, err := l.ListMarked(t.Context()); return err }
	}
	if b, ok := s.Driver.(driver.Blockable); ok {
		steps["blockers"] = func() error { _, err := b.Blockers(t.Context(), s.AbsentID); return err }
	}
	if s.Change != nil {
		steps["update"] = func() error { return s.Driver.Update(t.Context(), s.AbsentID, r) }
	}
	for name, step := range steps {
		if err := step(); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%s during an outage = %v, want Unavailable", name, err)
		}
	}
	mend()
	s.found(t, r)
}

// endedContext: a context that has ended is an error.
func (s suite[S, O]) endedContext(t *testing.T) {
	r := s.request(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Driver.Find(ctx, r); err == nil {
		t.Error("find with an ended context gives an answer")
	}
	if _, err := s.Driver.Create(ctx, r); err == nil {
		t.Error("create with an ended context gives an answer")
	}
	if _, err := s.Driver.Observe(ctx, []string{s.AbsentID}); err == nil {
		t.Error("observe with an ended context gives an answer")
	}
}
