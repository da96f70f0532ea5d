package record

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/store"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// Claims are what a resource takes for itself out of a space that it shares with others: a port of an address.
//
// Below the service's prefix, c/<space>/<number> says who holds a number: the name and key of the record. The record lists
// what it holds. Both are written in the transaction that adds or changes the record, which compares that the number is
// free; the one that removes the record frees what it holds. So there is no moment at which a number has two owners, is
// held by a record that is gone, or is used by one that does not hold it, and whatever crashes, it is freed once.
//
//	Add, Save   a number that the spec asks for and that the record does not hold is taken; one of a range is chosen then
//	Save        a number that the spec asks for no longer is former: it is held on until the object was brought to the
//	            spec, since until then the cloud has it in use, and an undo may want it back
//	Remove      all is freed
//	Add         of what replaces a record whose object is gone from the cloud: what that one holds passes over, in the same
//	            transaction; if it is saved once more it leaves the numbers with who has them now

// Want is one number of a shared space that a spec asks for.
type Want struct {
	// Field is the field that asks for it, e.g. externalPort.
	Field string
	// Space is the space, e.g. floating-ip/<key>/tcp. It must not hold a plus sign.
	Space string
	// Low and High bound the number; they are equal if it must be just that one.
	Low, High int32
	// Thing is how people call what is numbered, e.g. TCP port; Of is what has it, e.g. the full name of the address.
	Thing, Of string
}

// What tells one number, or the range, as people call it.
func (w Want) What() string {
	if w.Low == w.High {
		return fmt.Sprintf("%s %d of %s", w.Thing, w.Low, w.Of)
	}
	return fmt.Sprintf("%s %d to %d of %s", w.Thing, w.Low, w.High, w.Of)
}

// Taken is the fault of a number that somebody else holds: Exists, at the field that asks for it. Of an owner of another
// tenant no name is told.
func (w Want) Taken(asking, owner string) error {
	by := owner
	if resource.TenantOf(owner) != resource.TenantOf(asking) {
		by = "another tenant"
	}
	return &fault.Error{
		Kind: fault.Exists, Field: "spec." + w.Field,
		Message: fmt.Sprintf("%s is taken by %s; ask for another, or have that one give it up first", w.What(), by),
	}
}

// full is the fault of a range without a free number.
func (w Want) full() error {
	return &fault.Error{Kind: fault.Exists, Field: "spec." + w.Field, Message: w.What() + " are all taken; widen the range, or use another"}
}

func (b *Book) claimKey(space string, number int32) string {
	return b.prefix + "c/" + space + "/" + fmt.Sprintf("%010d", number)
}

// claimed is what a write does to the claims of a record.
type claimed struct {
	next     []*participantv1.Claim
	compares []store.Compare
	ops      []store.Op
	fresh    []string // the keys that are taken by it
}

// claim finds what a write must take and free.
func (b *Book) claim(ctx context.Context, e *Entry) (claimed, error) {
	held := e.Record.GetClaims()
	if b.claims == nil || e.Record.GetRelease() {
		return claimed{next: held}, nil // what is being released holds on until it is gone
	}
	out := claimed{}
	heir, err := b.inheritance(ctx, e)
	if err != nil {
		return claimed{}, err
	}
	for _, w := range b.claims(e) {
		i := slices.IndexFunc(held, func(c *participantv1.Claim) bool {
			return c.GetSpace() == w.Space && w.Low <= c.GetNumber() && c.GetNumber() <= w.High
		})
		if i >= 0 {
			out.next = append(out.next, &participantv1.Claim{Field: w.Field, Space: w.Space, Number: held[i].GetNumber()})
			continue
		}
		if number, inherits := heir.take(w); inherits {
			out.next = append(out.next, &participantv1.Claim{Field: w.Field, Space: w.Space, Number: number})
			out.ops = append(out.ops, store.Op{Key: b.claimKey(w.Space, number), Value: []byte(e.Name + keyMark + e.Key)})
			continue
		}
		number, err := b.free(ctx, e, w)
		if errors.Is(err, errSuccessor) {
			continue
		}
		if err != nil {
			return claimed{}, err
		}
		key := b.claimKey(w.Space, number)
		out.next = append(out.next, &participantv1.Claim{Field: w.Field, Space: w.Space, Number: number})
		out.compares = append(out.compares, store.Compare{Key: key})
		out.ops = append(out.ops, store.Op{Key: key, Value: []byte(e.Name + keyMark + e.Key)})
		out.fresh = append(out.fresh, key)
	}
	settled := e.Object.Status().GetPhase() == kindv1.Phase_PHASE_READY && e.Object.Status().GetObservedGeneration() == e.Object.Metadata().GetGeneration()
	for _, h := range held {
		same := func(c *participantv1.Claim) bool {
			return c.GetSpace() == h.GetSpace() && c.GetNumber() == h.GetNumber()
		}
		switch {
		case slices.ContainsFunc(out.next, same):
		case settled:
			out.ops = append(out.ops, store.Op{Key: b.claimKey(h.GetSpace(), h.GetNumber()), Delete: true})
		default:
			out.next = append(out.next, &participantv1.Claim{Field: h.GetField(), Space: h.GetSpace(), Number: h.GetNumber(), Former: true})
		}
	}
	return out, b.bequeath(heir, &out)
}

// errSuccessor says that a number is held by what replaced the record that asks for it.
var errSuccessor = errors.New("it is held by what replaced this one")

// heir is what a new record takes over of the one that it replaces.
type heir struct {
	old    *Entry // nil if it takes over nothing
	passed bool
}

// inheritance gives the record that a new one replaces, if the cloud no longer has its object: a port that is led nowhere
// would otherwise keep who is to lead it again from having it.
func (b *Book) inheritance(ctx context.Context, e *Entry) (*heir, error) {
	if e.revision != 0 || e.Record.GetReplaces() == "" {
		return &heir{}, nil
	}
	old, err := b.Get(ctx, ID{Name: e.Name, Key: e.Record.GetReplaces()})
	if fault.Is(err, fault.NotFound) {
		return &heir{}, nil
	}
	if err != nil {
		return nil, err
	}
	if old.Object.Status().GetDrift().GetType() != kindv1.DriftType_DRIFT_TYPE_MISSING {
		return &heir{}, nil
	}
	return &heir{old: old}, nil
}

// take takes a number that fits a want from what the old record holds.
func (h *heir) take(w Want) (int32, bool) {
	if h.old == nil {
		return 0, false
	}
	held := h.old.Record.GetClaims()
	i := slices.IndexFunc(held, func(c *participantv1.Claim) bool {
		return c.GetSpace() == w.Space && w.Low <= c.GetNumber() && c.GetNumber() <= w.High
	})
	if i < 0 {
		return 0, false
	}
	number := held[i].GetNumber()
	h.old.Record.Claims, h.passed = slices.Delete(slices.Clone(held), i, i+1), true
	return number, true
}

// bequeath adds the write of the old record, which holds less now.
func (b *Book) bequeath(h *heir, out *claimed) error {
	if !h.passed {
		return nil
	}
	value, err := b.encode(h.old)
	if err != nil {
		return err
	}
	key := b.recordKey(h.old.ID)
	out.compares = append(out.compares, store.Compare{Key: key, ModRevision: h.old.revision})
	out.ops = append(out.ops, store.Op{Key: key, Value: value})
	return nil
}

// free gives a number that a record can take, as far as can be seen now. The error is Exists if there is none.
func (b *Book) free(ctx context.Context, e *Entry, w Want) (int32, error) {
	if w.Low == w.High {
		owner, err := b.Holder(ctx, w, "")
		switch {
		case err != nil || owner == "":
		case owner == e.Name && e.revision != 0:
			err = errSuccessor
		default:
			err = w.Taken(e.Name, owner)
		}
		return w.Low, err
	}
	taken, err := b.taken(ctx, w)
	if err != nil {
		return 0, err
	}
	// It begins at a place of the name's own, so that who is made anew tends to have its number back, and those who come
	// at once do not all reach for the same.
	h := fnv.New32a()
	if _, err := h.Write([]byte(e.Name)); err != nil {
		return 0, fault.As(fault.Internal, err)
	}
	size := int64(w.High) - int64(w.Low) + 1
	for i := range size {
		n := w.Low + int32((int64(h.Sum32())+i)%size)
		if !taken[n] {
			return n, nil
		}
	}
	return 0, w.full()
}

// taken gives the numbers of a want's range that somebody holds.
func (b *Book) taken(ctx context.Context, w Want) (map[int32]bool, error) {
	page, err := b.store.List(ctx, b.prefix+"c/"+w.Space+"/", store.ListOptions{KeysOnly: true})
	if err != nil {
		return nil, fault.Wrap(err, "look which %s are taken", w.What())
	}
	out := map[int32]bool{}
	for _, entry := range page.Entries {
		n, err := b.numberOf(w, entry.Key)
		if err != nil {
			return nil, err
		}
		out[n] = true
	}
	return out, nil
}

// Holder gives the full name of another resource that holds the number that is wanted by the one that asks; empty if it can
// have it. Of a range that is one of those who hold it, if all of its numbers are taken and none by who asks.
func (b *Book) Holder(ctx context.Context, w Want, asking string) (string, error) {
	page := store.Page{}
	if w.Low == w.High {
		entry, err := b.store.Get(ctx, b.claimKey(w.Space, w.Low))
		if err != nil && !fault.Is(err, fault.NotFound) {
			return "", fault.Wrap(err, "look who has %s", w.What())
		}
		if err == nil {
			page.Entries = append(page.Entries, entry)
		}
	} else {
		var err error
		if page, err = b.store.List(ctx, b.prefix+"c/"+w.Space+"/", store.ListOptions{}); err != nil {
			return "", fault.Wrap(err, "look who has %s", w.What())
		}
	}
	holder, within := "", int64(0)
	for _, entry := range page.Entries {
		n, err := b.numberOf(w, entry.Key)
		if err != nil {
			return "", err
		}
		if n < w.Low || n > w.High {
			continue
		}
		within++
		if holder, _, _ = strings.Cut(string(entry.Value), keyMark); holder == asking {
			return "", nil
		}
	}
	if within < int64(w.High)-int64(w.Low)+1 {
		return "", nil
	}
	return holder, nil
}

// numberOf reads the number of a claim's key.
func (b *Book) numberOf(w Want, key string) (int32, error) {
	n, err := strconv.ParseInt(strings.TrimPrefix(key, b.prefix+"c/"+w.Space+"/"), 10, 32)
	if err != nil {
		return 0, fault.As(fault.Internal, fault.Wrap(err, "read %s", key))
	}
	return int32(n), nil
}

// overtaken tells whether one of the keys that a write wanted to take stands by now.
func (b *Book) overtaken(ctx context.Context, fresh []string) (bool, error) {
	for _, key := range fresh {
		_, err := b.store.Get(ctx, key)
		if err == nil {
			return true, nil
		}
		if !fault.Is(err, fault.NotFound) {
			return false, fault.Wrap(err, "look whether %s is taken", key)
		}
	}
	return false, nil
}

// freeAll gives the writes that free all that a record holds.
func (b *Book) freeAll(e *Entry) []store.Op {
	var ops []store.Op
	for _, c := range e.Record.GetClaims() {
		ops = append(ops, store.Op{Key: b.claimKey(c.GetSpace(), c.GetNumber()), Delete: true})
	}
	return ops
}

// Claimed gives the numbers that an entry holds for its spec, by the fields that ask for them.
func Claimed(e *Entry) map[string]int32 {
	out := map[string]int32{}
	for _, c := range e.Record.GetClaims() {
		if !c.GetFormer() {
			out[c.GetField()] = c.GetNumber()
		}
	}
	return out
}
