// Package record keeps the records of one service: one per resource and key, with an index of names and tombstones.
//
// # Layout, below the service's prefix
//
//	r/<name>+<key>  the record
//	n/<name>        the key that stands under the name now
//	t/<key>         the tombstone of a released key
//	c/<space>/<n>   who holds a number of a shared space, see claim.go
//	o/…             the outbox: events and outcomes that are committed and not yet published
//
// # Who may write
//
// Only the service that owns the kind. What a record draws of its tenant's quotas stands in the tenant's account, in a key that
// is this record's alone (package quota). Its inbox and API write what is wanted, its reconcile loop writes what was seen;
// each write compares the revision that it read, so neither overwrites the other. Inbox and API write in any replica of the
// service; the loop of one replica works on a record at a time, and compares its fence too: the key of what it owns.
//
// # What happens on a crash
//
// A record, its event and its outcome are written in one transaction, so none is lost and none is told that is not true.
// Two objects may stand under one name while one replaces the other; the index says which is meant by the name.
package record

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/crash"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/store"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// Outbox makes messages part of a transaction.
type Outbox interface {
	// Ops gives the writes that keep messages until they are published.
	Ops(messages ...bus.Message) []store.Op
	// Committed is called with them once the transaction stands.
	Committed(ops []store.Op)
}

// keyMark parts the name from the key. It stands in no name and sorts before whatever may follow a name in a longer one,
// so that records are listed in the order of their names.
const keyMark = "+"

// RecordKey gives the key of the store at which a service keeps a record.
func RecordKey(service string, id ID) string {
	return Prefix(service) + "r/" + id.Name + keyMark + id.Key
}

// Book is the records of one service. All methods are safe for concurrent use.
type Book struct {
	service string
	prefix  string
	store   store.Store
	outbox  Outbox
	kinds   *resource.Registry
	now     func() time.Time
	changed func(Change)
	claims  func(*Entry) []Want
	quotas  *quota.Account
	fenced  atomic.Int64
	veil    *veil
}

// ID identifies one record.
type ID struct{ Name, Key string }

// Entry is one record as it was read. Its owner may change Record and Object and then Save it.
type Entry struct {
	ID
	// Kind is the resource's kind.
	Kind *resource.Kind
	// Record is the record, without the resource; see Object.
	Record *participantv1.Record
	// Object is the resource.
	Object resource.Object
	// Fence is what must stand when the entry is saved or removed, beside what was read; nil for nothing.
	Fence *store.Compare

	revision int64
	drawn    quota.Amounts // as it was read
}

// Config is what a Book is made of.
type Config struct {
	// Service is the service's name, e.g. network.
	Service string
	Store   store.Store
	Outbox  Outbox
	// Kinds holds at least the kinds of the service.
	Kinds *resource.Registry
	Now   func() time.Time
	// Changed is called after each write of a record through this book; it must not block. It may be nil.
	Changed func(Change)
	// Claims tells what an entry's spec asks for of spaces that are shared; it must be a function of the entry alone. nil
	// means that no kind of the service asks for any.
	Claims func(*Entry) []Want
	// Quotas keeps what records draw of their tenants' quotas (their Draws); nil means that none of the service's does.
	Quotas *quota.Account
}

// Prefix is the prefix of all that a service writes.
func Prefix(service string) string { return "/weft/" + service + "/" }

// New makes the book of a service.
func New(c Config) *Book {
	return &Book{service: c.Service, prefix: Prefix(c.Service), store: c.Store, outbox: c.Outbox, kinds: c.Kinds, now: c.Now, changed: c.Changed, claims: c.Claims, quotas: c.Quotas, veil: eventVeil()}
}

// Kind gives a kind by its type.
func (b *Book) Kind(typ string) (*resource.Kind, bool) { return b.kinds.ByType(typ) }

func (b *Book) recordKey(id ID) string      { return RecordKey(b.service, id) }
func (b *Book) indexKey(name string) string { return b.prefix + "n/" + name }
func (b *Book) tombKey(key string) string   { return b.prefix + "t/" + key }

// Revision gives the revision of the store at which the entry was read, or last written through it; 0 if it never was.
func (e *Entry) Revision() int64 { return e.revision }

// NewEntry makes an entry for a resource that is not kept yet. The object's metadata must bear a key.
func (b *Book) NewEntry(kind *resource.Kind, object resource.Object) *Entry {
	return &Entry{
		ID: ID{Name: object.Name(), Key: object.Metadata().GetKey()}, Kind: kind, Object: object, Record: &participantv1.Record{},
	}
}

// Get reads one record, or gives NotFound.
func (b *Book) Get(ctx context.Context, id ID) (*Entry, error) {
	e, err := b.store.Get(ctx, b.recordKey(id))
	if err != nil {
		return nil, fault.Wrap(err, "read %s", id.Name)
	}
	return b.decode(e)
}

// Current reads the record that stands under a name, or gives NotFound.
func (b *Book) Current(ctx context.Context, name string) (*Entry, error) {
	e, err := b.store.Get(ctx, b.indexKey(name))
	if fault.Is(err, fault.NotFound) {
		return nil, fault.New(fault.NotFound, "%s does not exist", name)
	}
	if err != nil {
		return nil, fault.Wrap(err, "read %s", name)
	}
	return b.Get(ctx, ID{Name: name, Key: string(e.Value)})
}

// List reads the records whose names begin with prefix, in order of name and key, after the given one.
func (b *Book) List(ctx context.Context, prefix string, after ID, limit int) ([]*Entry, bool, error) {
	opts := store.ListOptions{Limit: limit}
	if after.Name != "" {
		opts.After = b.recordKey(after)
	}
	page, err := b.store.List(ctx, b.prefix+"r/"+prefix, opts)
	if err != nil {
		return nil, false, fault.Wrap(err, "list %s*", prefix)
	}
	out := make([]*Entry, 0, len(page.Entries))
	for _, e := range page.Entries {
		entry, err := b.decode(e)
		if err != nil {
			return nil, false, err
		}
		out = append(out, entry)
	}
	return out, page.More, nil
}

func (b *Book) decode(e store.Entry) (*Entry, error) {
	rec := &participantv1.Record{}
	if err := proto.Unmarshal(e.Value, rec); err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "decode %s", e.Key))
	}
	m, err := rec.GetResource().UnmarshalNew()
	if err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "decode %s", e.Key))
	}
	object := resource.Wrap(m)
	kind, _, err := b.kinds.Of(object.Name())
	if err != nil {
		return nil, fault.Wrap(err, "decode %s", e.Key)
	}
	rec.Resource = nil
	object.Metadata().Etag = etag(e.ModRevision)
	return &Entry{
		ID: ID{Name: object.Name(), Key: object.Metadata().GetKey()}, Kind: kind, Record: rec, Object: object, revision: e.ModRevision,
		drawn: maps.Clone(rec.GetDraws()),
	}, nil
}

// Tombstone reads the tombstone of a key, or gives NotFound.
func (b *Book) Tombstone(ctx context.Context, key string) (*participantv1.Tombstone, error) {
	e, err := b.store.Get(ctx, b.tombKey(key))
	if err != nil {
		return nil, fault.Wrap(err, "read the tombstone of %s", key)
	}
	t := &participantv1.Tombstone{}
	if err := proto.Unmarshal(e.Value, t); err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "decode %s", e.Key))
	}
	return t, nil
}

// Notice says what a write tells the world.
type Notice struct {
	// Verb is the event's verb, e.g. ready; empty for no event.
	Verb string
	// Outcome is told to the owner of the saga; nil for none.
	Outcome *busv1.Outcome
}

// Add writes a new record. Exists means that another object stands under the name (and is not the one that this one
// replaces); Conflict that someone wrote at the same time.
func (b *Book) Add(ctx context.Context, e *Entry, notice Notice) error {
	index, err := b.store.Get(ctx, b.indexKey(e.Name))
	if err != nil && !fault.Is(err, fault.NotFound) {
		return fault.Wrap(err, "read %s", e.Name)
	}
	if err == nil && string(index.Value) != e.Record.GetReplaces() {
		return fault.New(fault.Exists, "%s exists already", e.Name)
	}
	compares := []store.Compare{
		{Key: b.indexKey(e.Name), ModRevision: index.ModRevision},
		{Key: b.tombKey(e.Key)},
	}
	return b.write(ctx, e, compares, []store.Op{{Key: b.indexKey(e.Name), Value: []byte(e.Key)}}, notice)
}

// AddFirst writes a new record under a name that nothing stands under and nothing ever had the key of, without a look
// before: what is so nearly always is compared as it is written. Conflict means that it is not so; Add then tells why.
func (b *Book) AddFirst(ctx context.Context, e *Entry, notice Notice) error {
	compares := []store.Compare{{Key: b.indexKey(e.Name)}, {Key: b.tombKey(e.Key)}}
	return b.write(ctx, e, compares, []store.Op{{Key: b.indexKey(e.Name), Value: []byte(e.Key)}}, notice)
}

// Save writes a record that was read. Conflict means that it was changed since.
func (b *Book) Save(ctx context.Context, e *Entry, notice Notice) error {
	return b.write(ctx, e, nil, nil, notice)
}

// claimTries is how often a write reaches for a number that others take before it does.
const claimTries = 16

// write writes a record with what it claims and what it draws of its tenant's quotas. Who is overtaken by others at a
// number looks again: of a range it takes another, and of the very number it learns who has it. Who is overtaken at a quota
// looks whether there is enough left.
func (b *Book) write(ctx context.Context, e *Entry, compares []store.Compare, ops []store.Op, notice Notice) error {
	held := e.Record.GetClaims()
	for try := 1; ; try++ {
		c, err := b.claim(ctx, e)
		if err != nil {
			return fault.Wrap(err, "write %s", e.Name)
		}
		draw, err := b.draw(ctx, e)
		if err != nil {
			return err
		}
		e.Record.Claims = c.next
		err = b.writeOnce(ctx, e, slices.Concat(compares, c.compares, draw.Compares), slices.Concat(ops, c.ops, draw.Ops), notice)
		if err == nil {
			e.drawn = maps.Clone(e.Record.GetDraws())
			return nil
		}
		e.Record.Claims = held
		if !IsConflict(err) {
			return err
		}
		again, lookErr := false, error(nil)
		if len(c.fresh) > 0 && try < claimTries {
			again, lookErr = b.overtaken(ctx, c.fresh)
		}
		if !again && lookErr == nil && try < quota.Tries {
			again, lookErr = b.quotas.Overtaken(ctx, draw)
		}
		if lookErr != nil || !again {
			return errors.Join(err, lookErr)
		}
	}
}

// owner is what an entry is called among those that draw on its tenant's quotas.
func (e *Entry) owner() string {
	return strings.TrimPrefix(e.Name, "tenants/"+resource.TenantOf(e.Name)+"/") + keyMark + e.Key
}

// draw gives what makes an entry draw what its record says; nothing if it does already. The error is Quota if its tenant
// may not have so much.
func (b *Book) draw(ctx context.Context, e *Entry) (*quota.Hold, error) {
	e.settleDraws()
	if b.quotas == nil || maps.Equal(e.Record.GetDraws(), e.drawn) {
		return &quota.Hold{}, nil
	}
	return b.quotas.Draw(ctx, resource.TenantOf(e.Name), e.owner(), &participantv1.TenantDraw{Used: e.Record.GetDraws()})
}

// settleDraws has an entry draw no more than its spec asks for once the object is found to be so: a provider may have refused
// to make it smaller, and then all that stood before still stands.
func (e *Entry) settleDraws() {
	status := e.Object.Status()
	reached := status.GetPhase() == kindv1.Phase_PHASE_READY && status.GetObservedGeneration() == e.Object.Metadata().GetGeneration()
	if len(e.Record.GetNextDraws()) > 0 && reached && !e.Record.GetRelease() {
		e.Record.Draws, e.Record.NextDraws = e.Record.GetNextDraws(), nil
	}
}

// undraw gives the write that frees what an entry draws.
func (b *Book) undraw(e *Entry) ([]store.Op, error) {
	if b.quotas == nil || len(e.drawn) == 0 {
		return nil, nil
	}
	op, err := quota.Set(resource.TenantOf(e.Name), e.owner(), nil)
	return []store.Op{op}, err
}

func (b *Book) writeOnce(ctx context.Context, e *Entry, compares []store.Compare, ops []store.Op, notice Notice) error {
	sequence := e.Object.Metadata().GetSequence()
	if notice.Verb != "" {
		e.Object.Metadata().Sequence++
	}
	value, err := b.encode(e)
	if err != nil {
		return err
	}
	compares = append(compares, store.Compare{Key: b.recordKey(e.ID), ModRevision: e.revision})
	ops = append(ops, store.Op{Key: b.recordKey(e.ID), Value: value})
	revision, err := b.commit(ctx, e, compares, ops, notice)
	if err != nil {
		e.Object.Metadata().Sequence = sequence // the next try tells the same change: readers see no gap
		return fault.Wrap(err, "write %s", e.Name)
	}
	e.revision = revision
	e.Object.Metadata().Etag = etag(revision)
	return nil
}

func (b *Book) encode(e *Entry) ([]byte, error) {
	e.Object.Metadata().Etag = ""
	if err := e.packInto(e.Record); err != nil {
		return nil, err
	}
	value, err := proto.Marshal(e.Record)
	e.Record.Resource = nil
	if err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "encode %s", e.Name))
	}
	return value, nil
}

// Remove deletes a record whose object is gone and leaves a tombstone. The name falls back to another record that stands
// under it, if there is one.
func (b *Book) Remove(ctx context.Context, e *Entry, notice Notice) error {
	stone, err := proto.Marshal(&participantv1.Tombstone{
		Name: e.Name, Origin: e.Record.GetOrigin(), ReleaseTime: timestamppb.New(b.now()), RequestTime: e.Object.Metadata().GetDeleteTime(),
	})
	if err != nil {
		return fault.As(fault.Internal, fault.Wrap(err, "encode the tombstone of %s", e.Name))
	}
	compares, ops, err := b.unname(ctx, e.ID)
	if err != nil {
		return err
	}
	compares = append(compares, store.Compare{Key: b.recordKey(e.ID), ModRevision: e.revision})
	ops = append(ops, store.Op{Key: b.recordKey(e.ID), Delete: true}, store.Op{Key: b.tombKey(e.Key), Value: stone})
	ops = append(ops, b.freeAll(e)...)
	undrawn, err := b.undraw(e)
	if err != nil {
		return err
	}
	ops = append(ops, undrawn...)
	e.Object.Metadata().Sequence++
	crash.Point(crash.RecordTombstoneBefore)
	if _, err := b.commit(ctx, e, compares, ops, notice); err != nil {
		e.Object.Metadata().Sequence-- // as with a write
		return fault.Wrap(err, "remove %s", e.Name)
	}
	return nil
}

// unname gives the writes that take the name from a key.
func (b *Book) unname(ctx context.Context, id ID) ([]store.Compare, []store.Op, error) {
	index, err := b.store.Get(ctx, b.indexKey(id.Name))
	if fault.Is(err, fault.NotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fault.Wrap(err, "read %s", id.Name)
	}
	compares := []store.Compare{{Key: index.Key, ModRevision: index.ModRevision}} // the name may fall to this very record meanwhile
	if string(index.Value) != id.Key {
		return compares, nil, nil
	}
	others, err := b.store.List(ctx, b.prefix+"r/"+id.Name+keyMark, store.ListOptions{KeysOnly: true})
	if err != nil {
		return nil, nil, fault.Wrap(err, "list %s", id.Name)
	}
	for i := len(others.Entries) - 1; i >= 0; i-- {
		key := strings.TrimPrefix(others.Entries[i].Key, b.prefix+"r/"+id.Name+keyMark)
		if key != id.Key {
			compares = append(compares, store.Compare{Key: others.Entries[i].Key, ModRevision: others.Entries[i].ModRevision})
			return compares, []store.Op{{Key: index.Key, Value: []byte(key)}}, nil
		}
	}
	return compares, []store.Op{{Key: index.Key, Delete: true}}, nil
}

// Bury writes the tombstone of a key that was never seen, so that a late Ensure of it is refused.
func (b *Book) Bury(ctx context.Context, id ID, origin *busv1.Origin, outcome *busv1.Outcome) error {
	stone, err := proto.Marshal(&participantv1.Tombstone{Name: id.Name, Origin: origin, ReleaseTime: timestamppb.New(b.now())})
	if err != nil {
		return fault.As(fault.Internal, fault.Wrap(err, "encode the tombstone of %s", id.Name))
	}
	ops := append([]store.Op{{Key: b.tombKey(id.Key), Value: stone}}, b.outbox.Ops(outcomeMessage(outcome, 0))...)
	compares := []store.Compare{{Key: b.recordKey(id)}, {Key: b.tombKey(id.Key)}}
	if _, err := b.store.Txn(ctx, compares, ops); err != nil {
		return fault.Wrap(err, "bury %s", id.Name)
	}
	b.outbox.Committed(ops[1:])
	return nil
}

// Tell publishes an outcome that stands in a record already.
func (b *Book) Tell(ctx context.Context, outcome *busv1.Outcome, sequence int64) error {
	ops := b.outbox.Ops(outcomeMessage(outcome, sequence))
	if _, err := b.store.Txn(ctx, nil, ops); err != nil {
		return fault.Wrap(err, "tell the outcome of %s", outcome.GetKey())
	}
	b.outbox.Committed(ops)
	return nil
}

// commit writes a change with what it tells the world.
func (b *Book) commit(ctx context.Context, e *Entry, compares []store.Compare, ops []store.Op, notice Notice) (int64, error) {
	messages, err := b.messages(e, notice)
	if err != nil {
		return 0, err
	}
	if e.Fence != nil {
		compares = append(compares, *e.Fence)
	}
	out := b.outbox.Ops(messages...)
	crash.Point(crash.RecordCommitBefore)
	revision, err := b.store.Txn(ctx, compares, append(ops, out...))
	if fault.Is(err, fault.Conflict) {
		return 0, b.refused(ctx, e, err)
	}
	if err != nil {
		return 0, err
	}
	crash.Point(crash.RecordCommitAfter)
	b.outbox.Committed(out)
	if b.changed != nil {
		b.changed(Change{ID: e.ID, Revision: revision})
	}
	return revision, nil
}

// lookWithin bounds the look at a fence.
const lookWithin = 2 * time.Second

// refused tells why a write was: because of the fence, or because the record was written since it was read.
func (b *Book) refused(ctx context.Context, e *Entry, cause error) error {
	if e.Fence == nil {
		return &conflict{cause}
	}
	// Who lost what it owned may have been told so by its context at the same time.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookWithin)
	defer cancel()
	stands, err := b.store.Get(ctx, e.Fence.Key)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return fault.Wrap(err, "look whether %s still stands", e.Fence.Key)
	}
	if err == nil && stands.CreateRevision == e.Fence.CreateRevision {
		return &conflict{cause}
	}
	b.fenced.Add(1)
	return &fenced{cause}
}

// fenced is a write that was refused because the writer's fence does not stand any more.
type fenced struct{ cause error }

func (f *fenced) Error() string { return "the writer does not own it any more: " + f.cause.Error() }
func (f *fenced) Unwrap() error { return f.cause }

// IsFenced tells whether a write failed because the entry's fence does not stand any more: another may own the record.
func IsFenced(err error) bool {
	_, ok := errors.AsType[*fenced](err)
	return ok
}

// FenceRejections counts the writes that were refused because of their fence.
func (b *Book) FenceRejections() int64 { return b.fenced.Load() }

// conflict is a record that was written by someone else since it was read.
type conflict struct{ cause error }

func (c *conflict) Error() string { return c.cause.Error() }
func (c *conflict) Unwrap() error { return c.cause }

// IsConflict tells whether a write failed because the record was written since it was read. A conflict at a provider is
// none of these.
func IsConflict(err error) bool {
	_, ok := errors.AsType[*conflict](err)
	return ok
}

// sweepAtOnce is how many tombstones a sweep reads, and deletes, at once.
const sweepAtOnce = 100

// Sweep deletes the tombstones that are older than age, and tells how many.
func (b *Book) Sweep(ctx context.Context, age time.Duration) (int, error) {
	swept := 0
	for after, more := "", true; more; {
		page, err := b.store.List(ctx, b.prefix+"t/", store.ListOptions{After: after, Limit: sweepAtOnce})
		if err != nil {
			return swept, fault.Wrap(err, "list tombstones")
		}
		more = page.More
		var compares []store.Compare
		var ops []store.Op
		for _, e := range page.Entries {
			after = e.Key
			t := &participantv1.Tombstone{}
			if err := proto.Unmarshal(e.Value, t); err != nil {
				return swept, fault.As(fault.Internal, fault.Wrap(err, "decode %s", e.Key))
			}
			if b.now().Sub(t.GetReleaseTime().AsTime()) >= age {
				compares = append(compares, store.Compare{Key: e.Key, ModRevision: e.ModRevision})
				ops = append(ops, store.Op{Key: e.Key, Delete: true})
			}
		}
		if len(ops) == 0 {
			continue
		}
		if _, err := b.store.Txn(ctx, compares, ops); err != nil {
			return swept, fault.Wrap(err, "sweep tombstones")
		}
		swept += len(ops)
	}
	return swept, nil
}

// Peek reads the resource that stands under a name in the records of any service, and gives what must stand for that to
// remain so. The error is NotFound if there is none.
func Peek(ctx context.Context, s store.Store, service, name string) (proto.Message, *store.Compare, error) {
	index, err := s.Get(ctx, Prefix(service)+"n/"+name)
	if err != nil {
		return nil, nil, fault.Wrap(err, "read %s", name)
	}
	e, err := s.Get(ctx, RecordKey(service, ID{Name: name, Key: string(index.Value)}))
	if err != nil {
		return nil, nil, fault.Wrap(err, "read %s", name)
	}
	rec := &participantv1.Record{}
	if err := proto.Unmarshal(e.Value, rec); err != nil {
		return nil, nil, fault.As(fault.Internal, fault.Wrap(err, "decode %s", e.Key))
	}
	m, err := rec.GetResource().UnmarshalNew()
	if err != nil {
		return nil, nil, fault.As(fault.Internal, fault.Wrap(err, "decode %s", e.Key))
	}
	return m, &store.Compare{Key: e.Key, ModRevision: e.ModRevision}, nil
}
