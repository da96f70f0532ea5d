package reconcile

import (
	"context"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// What is released may hold data. A resource whose spec has the field reclaim says what becomes of them, a person who has
// the stack destroyed can say otherwise, and without either word the object is kept: it stays at the cloud, its mark changed
// to that of a kept one, and the record ends as with any other release. Two things are never kept: what never stood, for it
// holds nothing; and what an undo takes back, for it was made a moment ago, and nothing is to be left of it. An undo keeps
// only what its step had taken up from what was kept before.

// reclaimOf gives what becomes of the data of an entry that is released.
func reclaimOf(e *record.Entry) kindv1.Reclaim {
	spec := e.Object.Spec().ProtoReflect()
	field := spec.Descriptor().Fields().ByName("reclaim")
	switch {
	case field == nil || field.Kind() != protoreflect.EnumKind || e.Object.Status().GetObservedGeneration() == 0:
		return kindv1.Reclaim_RECLAIM_DESTROY
	case undone(e):
		return kindv1.Reclaim_RECLAIM_DESTROY
	case e.Record.GetReclaim() != kindv1.Reclaim_RECLAIM_UNSPECIFIED:
		return e.Record.GetReclaim()
	}
	if own := kindv1.Reclaim(spec.Get(field).Enum()); own != kindv1.Reclaim_RECLAIM_UNSPECIFIED {
		return own
	}
	return kindv1.Reclaim_RECLAIM_KEEP
}

// undone tells whether what an entry was last asked for takes back what was done before.
func undone(e *record.Entry) bool {
	return e.Record.GetOrigin().GetDirection() == busv1.Direction_DIRECTION_UNDO
}

// reclaim sees to the data of an entry before its object is deleted. An entry that has no provider's id afterwards is done
// with: its object was kept. A wait says that a copy is being made, or that there is another object to see to.
func (l *Loop) reclaim(ctx context.Context, at *turn, e *record.Entry, d driver.Any, refs driver.Refs) (time.Duration, error) {
	keeper, keeps := d.Keeper()
	copier, copies := d.Copier()
	id, word := e.Object.Status().GetProviderId(), reclaimOf(e)
	if keeps && undone(e) {
		taken, err := call(ctx, at, "look", func(ctx context.Context) (bool, error) { return keeper.TakenUp(ctx, id) })
		if err != nil {
			return l.failed(ctx, at, e, fault.Wrap(err, "look whether %s was taken up", e.Name))
		}
		if taken {
			word = kindv1.Reclaim_RECLAIM_KEEP
		}
	}
	switch {
	case word == kindv1.Reclaim_RECLAIM_SNAPSHOT && copies:
		done, err := call(ctx, at, "copy", func(ctx context.Context) (bool, error) { return copier.Copy(ctx, id, e.Key, e.Name) })
		if err != nil {
			return l.failed(ctx, at, e, fault.Wrap(err, "keep a copy of %s", e.Name))
		}
		if !done {
			return copyInterval, nil
		}
	case word == kindv1.Reclaim_RECLAIM_KEEP && keeps, word == kindv1.Reclaim_RECLAIM_SNAPSHOT && keeps:
		_, err := call(ctx, at, "keep", func(ctx context.Context) (struct{}, error) { return struct{}{}, keeper.Keep(ctx, id, e.Key, e.Name) })
		if err != nil {
			return l.failed(ctx, at, e, fault.Wrap(err, "keep %s", e.Name))
		}
		e.Object.Status().ProviderId = ""
		return l.others(ctx, at, e, d, refs)
	}
	return 0, nil
}

// copyInterval is the time between two looks at a copy that is being made.
const copyInterval = time.Second
