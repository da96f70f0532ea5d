package reconcile

// What becomes of objects without us.
//
// Background. An object that is ready is not looked at by the work on its record. Once in each interval a round looks at all
// of them: with one list call for each account and kind, in the least urgent class of the budget. What it sees is compared
// with what was seen when the object became ready: the observed message, but for fields that change by themselves, and the
// driver's facts. A difference is drift: it is kept with the record, told as an event, and cleared when it is gone. The
// phase stays; nothing is done about it until someone asks (see Reopen in package participant).
//
// The record of an object that is just as it was is not read again: there may be many, and rounds are few seconds apart.
//
// A failed look is no answer and changes nothing. An object that is not listed is looked for once more, some time later,
// before it is taken for gone. If the work on a record finds that first, it keeps and tells the same drift with the failure
// (see ensure.go).
//
// Rounds rest longer, up to slowestRounds times the interval, while they find an account's objects as they were; any
// difference ends that. Who owns the record's shard compares, and its write is fenced.
//
// What happens on a crash. Nothing is kept but the drift itself: the next owner's first round finds the rest.

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/budget"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

const (
	// calmRounds is how many rounds without a difference make the next ones rest twice as long, up to slowestRounds times
	// the interval.
	calmRounds    = 20
	slowestRounds = 4
	// longestValue cuts what is told of a value that differs.
	longestValue = 200
)

// rounds looks at what is ready, once in each interval, until ctx ends.
func (l *Loop) rounds(ctx context.Context) {
	calm, rest := 0, 1
	for {
		pause(ctx, time.Duration(rest)*l.ObserveEvery)
		if ctx.Err() != nil {
			return
		}
		differences, err := l.round(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			l.Logger.Warn("look at what is ready", "error", err)
		}
		switch calm++; {
		case differences > 0 || err != nil:
			calm, rest = 0, 1
		case calm%calmRounds == 0:
			rest = min(2*rest, slowestRounds)
		}
	}
}

// group is the ready objects of one kind in one account.
type group struct {
	account *Account
	kind    string
	records map[string]recorded // by the object's id
}

// recorded is a record as a round found it: enough to tell whether its object is as it was without reading it again, of many.
type recorded struct {
	id record.ID
	// sum is that of what was observed; the zero sum if the record tells of a drift.
	sum sum
}

// sum stands for what was observed of an object and for its facts.
type sum [16]byte

// sumOf gives the sum of an observation that is ready; the zero sum, which is nobody's, if it cannot be told.
func sumOf(observed proto.Message, facts map[string]string) sum {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(observed)
	if err != nil {
		return sum{} // then the record is read
	}
	for _, name := range slices.Sorted(maps.Keys(facts)) {
		data = fmt.Appendf(data, "%q%q", name, facts[name])
	}
	whole := sha256.Sum256(data)
	return sum(whole[:])
}

// asItWas tells whether an object is seen just as its record has it, with nothing to write.
func (r recorded) asItWas(o driver.Observation[proto.Message]) bool {
	if o.State != driver.Ready || r.sum == (sum{}) {
		return false
	}
	handles(r.id, o.Observed) // as the record has it
	return r.sum == sumOf(o.Observed, o.Facts)
}

// round looks at all that is ready, and tells how many differences it wrote. An error of one account does not keep the
// others from being looked at; all are given. What was not listed is looked for once more after all groups were looked at,
// so that the time to wait for it is waited once, however much is gone.
func (l *Loop) round(ctx context.Context) (differences int, err error) {
	groups, err := l.grouped(ctx)
	var unlisted []*group
	for _, g := range groups {
		n, missing, failed := l.compare(ctx, g)
		differences += n
		if len(missing) > 0 {
			unlisted = append(unlisted, &group{account: g.account, kind: g.kind, records: missing})
		}
		err = errors.Join(err, g.failed(failed))
	}
	if len(unlisted) == 0 {
		return differences, err
	}
	pause(ctx, missingGrace)
	for _, g := range unlisted {
		n, missing, failed := l.compare(ctx, g)
		if failed == nil {
			var more int
			more, failed = l.lost(ctx, missing)
			n += more
		}
		differences += n
		err = errors.Join(err, g.failed(failed))
	}
	return differences, err
}

// failed says which group it was that could not be looked at.
func (g *group) failed(err error) error {
	if err == nil {
		return nil
	}
	return fault.Wrap(err, "observe the kind %s in %s", g.kind, g.account.Name)
}

// grouped groups the records that are ready and this replica's.
func (l *Loop) grouped(ctx context.Context) ([]*group, error) {
	var groups []*group
	var unknown error
	after := record.ID{}
	for more := true; more; {
		entries, further, err := l.Book.List(ctx, "", after, 500)
		if err != nil {
			return groups, err
		}
		more = further
		for _, e := range entries {
			after = e.ID
			if !l.inRound(e) {
				continue
			}
			account, err := l.accountOf(ctx, e)
			if err != nil {
				unknown = errors.Join(unknown, fault.Wrap(err, "open the account of %s", e.Name)) // the others' can be told
				continue
			}
			i := slices.IndexFunc(groups, func(g *group) bool { return g.account == account && g.kind == e.Kind.Type })
			if i < 0 {
				i = len(groups)
				groups = append(groups, &group{account: account, kind: e.Kind.Type, records: map[string]recorded{}})
			}
			r := recorded{id: e.ID}
			if e.Object.Status().GetDrift() == nil {
				r.sum = sumOf(e.Object.Observed(), e.Record.GetFacts())
			}
			groups[i].records[e.Object.Status().GetProviderId()] = r
		}
	}
	return groups, unknown
}

// inRound tells whether a record is this replica's, and ready.
func (l *Loop) inRound(e *record.Entry) bool {
	return l.ownerOf(e.ID) != nil && l.settled(e) && e.Object.Status().GetPhase() == kindv1.Phase_PHASE_READY && e.Object.Status().GetProviderId() != ""
}

// ownerOf gives the shard of a record, if it is this replica's.
func (l *Loop) ownerOf(id record.ID) *owned {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.owned[ShardOf(id.Key)]
}

// accountOf opens the account of an entry. Only what is placed on a cluster needs its references for that.
func (l *Loop) accountOf(ctx context.Context, e *record.Entry) (*Account, error) {
	var refs driver.Refs
	if e.Kind.Options.GetPlacement() != kindv1.Placement_PLACEMENT_CLOUD {
		var err error
		if refs, err = l.refs(ctx, e); err != nil {
			return nil, err
		}
	}
	return l.Accounts.Account(ctx, e, refs)
}

// compare looks at the objects of a group with one list call, and writes what differs. It gives those that were not listed.
func (l *Loop) compare(ctx context.Context, g *group) (differences int, missing map[string]recorded, err error) {
	d, ok := g.account.Session.Drivers[g.kind]
	if !ok {
		return 0, nil, fault.New(fault.Unsupported, "%s has no driver for it", g.account.Name)
	}
	ids := make([]string, 0, len(g.records))
	for id := range g.records {
		ids = append(ids, id)
	}
	seen, err := g.account.observe(ctx, d, ids)
	if err != nil {
		return 0, nil, err
	}
	missing = map[string]recorded{}
	for object, r := range g.records {
		o, stands := seen[object]
		if !stands {
			missing[object] = r
			continue
		}
		if r.asItWas(o) {
			continue
		}
		changed, err := l.note(ctx, r.id, object, o, true)
		if err != nil {
			return differences, nil, err
		}
		if changed {
			differences++
		}
	}
	return differences, missing, nil
}

// lost writes that objects are gone that were looked for twice.
func (l *Loop) lost(ctx context.Context, missing map[string]recorded) (differences int, err error) {
	for object, r := range missing {
		changed, err := l.note(ctx, r.id, object, driver.Observation[proto.Message]{}, false)
		if err != nil {
			return differences, err
		}
		if changed {
			differences++
		}
	}
	return differences, nil
}

// observe makes one list call outside the work on a record.
func (a *Account) observe(ctx context.Context, d driver.Any, ids []string) (map[string]driver.Observation[proto.Message], error) {
	if err := a.budget.Acquire(ctx, budget.Normal, ""); err != nil {
		return nil, fault.Wrap(err, "wait for a call at %s", a.Name)
	}
	defer a.budget.Done()
	ctx, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	seen, err := d.Observe(driver.OfAnyAge(ctx), ids)
	a.throttled(err)
	return seen, err
}

// note writes what a round saw of an object, if that is news. The record may have been changed since the round began: then
// the work on it knows more.
func (l *Loop) note(ctx context.Context, id record.ID, object string, o driver.Observation[proto.Message], listed bool) (bool, error) {
	owner := l.ownerOf(id)
	e, err := l.Book.Get(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if owner == nil || !l.inRound(e) || e.Object.Status().GetProviderId() != object || listed && o.State == driver.Progressing {
		return false, nil
	}
	status := e.Object.Status()
	if listed {
		handles(e.ID, o.Observed)
	}
	next := l.driftOf(e, o, listed)
	news := !sameDrift(status.GetDrift(), next)
	moved := listed && next == nil && !proto.Equal(e.Object.Observed(), o.Observed)
	if !news && !moved {
		return false, nil
	}
	e.Fence = owner.fence()
	notice := record.Notice{Verb: "observed"}
	if moved {
		e.Object.SetObserved(o.Observed) // only what changes by itself
	}
	if news {
		if next != nil && status.GetDrift() != nil {
			next.Time = status.GetDrift().GetTime()
		}
		status.Drift, notice.Verb = next, "drifted"
		if next == nil {
			notice.Verb = "restored"
		}
	}
	status.ObserveTime = timestamppb.New(l.Now())
	err = l.Book.Save(ctx, e, notice)
	if record.IsConflict(err) {
		return false, nil // somebody works on it
	}
	return err == nil && news, err
}

// driftOf compares what is seen of an object with what was seen when it became ready; nil if nothing differs.
func (l *Loop) driftOf(e *record.Entry, o driver.Observation[proto.Message], listed bool) *kindv1.Drift {
	drift := &kindv1.Drift{Time: timestamppb.New(l.Now())}
	switch {
	case !listed:
		drift.Type = kindv1.DriftType_DRIFT_TYPE_MISSING
		return drift
	case o.State == driver.Failed || o.State == driver.Broken:
		drift.Type, drift.Fault = kindv1.DriftType_DRIFT_TYPE_FAILED, fault.Proto(o.Fault, l.Now())
		return drift
	}
	drift.Type = kindv1.DriftType_DRIFT_TYPE_CHANGED
	drift.Fields = append(observedDiffers(e.Object.Observed(), o.Observed), factsDiffer(e.Record.GetFacts(), o.Facts)...)
	if len(drift.GetFields()) == 0 && o.State != driver.Outdated {
		return nil
	}
	return drift
}

// sameDrift tells whether two drifts say the same, whenever they were seen.
func sameDrift(a, b *kindv1.Drift) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := proto.CloneOf(a), proto.CloneOf(b)
	x.Time, y.Time = nil, nil
	if x.GetFault() != nil && y.GetFault() != nil {
		x.Fault.Time, y.Fault.Time = nil, nil
	}
	return proto.Equal(x, y)
}

// observedDiffers gives the fields of two observed messages that differ and do not change by themselves.
func observedDiffers(was, is proto.Message) []*kindv1.DriftField {
	var out []*kindv1.DriftField
	a, b := was.ProtoReflect(), is.ProtoReflect()
	fields := a.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if o, _ := proto.GetExtension(f.Options(), kindv1.E_Field).(*kindv1.FieldOptions); o.GetVolatile() {
			continue
		}
		if x, y := a.Get(f), b.Get(f); a.Has(f) != b.Has(f) || !x.Equal(y) {
			out = append(out, &kindv1.DriftField{Path: "observed." + f.JSONName(), Was: textOf(a, f), Is: textOf(b, f)})
		}
	}
	return out
}

// textOf gives the value of a field as JSON has it, cut if it is long.
func textOf(m protoreflect.Message, f protoreflect.FieldDescriptor) string {
	if !m.Has(f) {
		return ""
	}
	only := m.New()
	only.Set(f, m.Get(f))
	text, err := protojson.Marshal(only.Interface())
	if err != nil {
		return fmt.Sprint(m.Get(f).Interface())
	}
	_, value, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(string(text)), "}"), ":")
	return cut(strings.Trim(strings.TrimSpace(value), `"`))
}

// factsDiffer gives the facts that differ. What was not known when the object became ready differs from nothing.
func factsDiffer(was, is map[string]string) []*kindv1.DriftField {
	var out []*kindv1.DriftField
	for name, before := range was {
		if now := is[name]; now != before {
			out = append(out, &kindv1.DriftField{Path: name, Was: cut(before), Is: cut(now)})
		}
	}
	slices.SortFunc(out, func(a, b *kindv1.DriftField) int { return strings.Compare(a.GetPath(), b.GetPath()) })
	return out
}

// cut cuts a long text, at a rune.
func cut(s string) string {
	if len(s) <= longestValue {
		return s
	}
	return strings.ToValidUTF8(s[:longestValue], "") + "…"
}
