package driver

import (
	"context"

	"google.golang.org/protobuf/proto"
)

// Any is a driver whose kind's types are erased, so that one loop can serve all kinds.
type Any interface {
	Driver[proto.Message, proto.Message]
	// NeedsUpdate is TwoStep's; false without the capability.
	NeedsUpdate() bool
	// Adopts is Adopted's; false without the capability.
	Adopts() bool
	// Blockable, Console, Lister, Checker and Follower give the capability, or false.
	Blockable() (Blockable, bool)
	Console() (Console, bool)
	Lister() (Lister, bool)
	Checker() (Checker[proto.Message], bool)
	Follower() (Follower[proto.Message], bool)
	// Keeper, Copier and SecretSource give the capability, or false.
	Keeper() (Keeper, bool)
	Copier() (Copier, bool)
	SecretSource() (SecretSource, bool)
	// Sized gives the capability, or false.
	Sized() (Sized[proto.Message], bool)
	// Importer gives the capability, or false.
	Importer() (Importer, bool)
	// Teller gives the capability, or false.
	Teller() (Teller[proto.Message], bool)
}

// Erase erases the types of a driver.
func Erase[S, O proto.Message](d Driver[S, O]) Any { return erased[S, O]{d} }

type erased[S, O proto.Message] struct{ d Driver[S, O] }

// narrow gives a spec its type back. None stays none: Find after a release may have none. The catalog pairs kinds with their
// drivers, so a spec of another kind is a fault of the program, and it panics.
func narrow[S proto.Message](spec proto.Message) S {
	if spec == nil {
		var none S
		return none
	}
	return spec.(S) //nolint:forcetypeassert // it panics
}

func typed[S proto.Message](r Request[proto.Message]) Request[S] {
	return Request[S]{Key: r.Key, Name: r.Name, Generation: r.Generation, Labels: r.Labels, Spec: narrow[S](r.Spec), Refs: r.Refs, Claimed: r.Claimed, Undo: r.Undo}
}

func (e erased[S, O]) Find(ctx context.Context, r Request[proto.Message]) ([]string, error) {
	return e.d.Find(ctx, typed[S](r))
}

func (e erased[S, O]) Create(ctx context.Context, r Request[proto.Message]) (string, error) {
	return e.d.Create(ctx, typed[S](r))
}

func (e erased[S, O]) Observe(ctx context.Context, ids []string) (map[string]Observation[proto.Message], error) {
	seen, err := e.d.Observe(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := make(map[string]Observation[proto.Message], len(seen))
	for id, o := range seen {
		out[id] = untyped(o)
	}
	return out, nil
}

func untyped[O proto.Message](o Observation[O]) Observation[proto.Message] {
	return Observation[proto.Message]{State: o.State, Fault: o.Fault, Observed: o.Observed, Facts: o.Facts}
}

func (e erased[S, O]) Teller() (Teller[proto.Message], bool) {
	t, ok := e.d.(Teller[O])
	if !ok {
		return nil, false
	}
	return erasedTeller[O]{t}, true
}

type erasedTeller[O proto.Message] struct{ t Teller[O] }

func (e erasedTeller[O]) Told(ctx context.Context, id string) (Observation[proto.Message], bool) {
	o, ok := e.t.Told(ctx, id)
	return untyped(o), ok
}

func (e erased[S, O]) Update(ctx context.Context, id string, r Request[proto.Message]) error {
	return e.d.Update(ctx, id, typed[S](r))
}

func (e erased[S, O]) Delete(ctx context.Context, id string) error { return e.d.Delete(ctx, id) }

func (e erased[S, O]) NeedsUpdate() bool {
	t, ok := e.d.(TwoStep)
	return ok && t.NeedsUpdate()
}

func (e erased[S, O]) Adopts() bool {
	a, ok := e.d.(Adopted)
	return ok && a.Adopts()
}

func (e erased[S, O]) Blockable() (Blockable, bool) {
	b, ok := e.d.(Blockable)
	return b, ok
}

func (e erased[S, O]) Console() (Console, bool) {
	c, ok := e.d.(Console)
	return c, ok
}

func (e erased[S, O]) Lister() (Lister, bool) {
	l, ok := e.d.(Lister)
	return l, ok
}

func (e erased[S, O]) Keeper() (Keeper, bool) {
	k, ok := e.d.(Keeper)
	return k, ok
}

func (e erased[S, O]) Copier() (Copier, bool) {
	c, ok := e.d.(Copier)
	return c, ok
}

func (e erased[S, O]) SecretSource() (SecretSource, bool) {
	s, ok := e.d.(SecretSource)
	return s, ok
}

func (e erased[S, O]) Importer() (Importer, bool) {
	i, ok := e.d.(Importer)
	return i, ok
}

func (e erased[S, O]) Checker() (Checker[proto.Message], bool) {
	c, ok := e.d.(Checker[S])
	if !ok {
		return nil, false
	}
	return erasedChecker[S]{c}, true
}

type erasedChecker[S proto.Message] struct{ c Checker[S] }

func (e erasedChecker[S]) Check(ctx context.Context, items []Item[proto.Message]) ([]Finding, []QuotaUse, error) {
	narrowed := make([]Item[S], 0, len(items))
	for _, i := range items {
		narrowed = append(narrowed, Item[S]{
			Name: i.Name, Unknown: i.Unknown, Change: i.Change, Refs: i.Refs, Planned: i.Planned, Spec: narrow[S](i.Spec), Former: narrow[S](i.Former),
		})
	}
	return e.c.Check(ctx, narrowed)
}

func (e erased[S, O]) Sized() (Sized[proto.Message], bool) {
	s, ok := e.d.(Sized[S])
	if !ok {
		return nil, false
	}
	return erasedSized[S]{s}, true
}

type erasedSized[S proto.Message] struct{ s Sized[S] }

func (e erasedSized[S]) Sizes(ctx context.Context, specs []proto.Message) ([]map[string]int64, error) {
	narrowed := make([]S, len(specs))
	for i, spec := range specs {
		narrowed[i] = narrow[S](spec)
	}
	return e.s.Sizes(ctx, narrowed)
}

func (e erased[S, O]) Follower() (Follower[proto.Message], bool) {
	f, ok := e.d.(Follower[S])
	if !ok {
		return nil, false
	}
	return erasedFollower[S]{f}, true
}

type erasedFollower[S proto.Message] struct{ f Follower[S] }

func (e erasedFollower[S]) Follows(r Request[proto.Message]) string { return e.f.Follows(typed[S](r)) }
