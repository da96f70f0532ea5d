package reconcile

// How an object that stands already becomes a resource's.
//
// Its record is written first, as any other, with the object's id as what it adopts; so whatever happens, there is a record
// that tells what was begun. Then the object is looked at: one that bears another's mark, or that another record has, is
// refused with its owner's name. What stands in the mark's place is kept with the record, and only then the object is
// marked. From then on the record and the mark say the same, and the object is observed as any other. It is not changed: that
// it is as the spec says was seen to before, by whoever asked (see package stack of the orchestrator).
//
//	record written ─▶ looked at ─▶ attempted, what stood there kept ─▶ marked ─▶ id written ─▶ observed
//
// What happens on a crash. Before the mark nothing was done; the next owner begins again. After it the object bears the
// record's own key, and marking it again changes nothing.
//
// An undo takes the mark off and puts back what stood there, twice if it is not known whether the mark was put on; the object
// is never deleted by it. A release that is no undo
// deletes the object, as that of any resource, if it was marked.

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/installation"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
)

// Claimant is who wants an object.
type Claimant struct {
	// Type is the resource type, Key the key of the record that wants it; empty if there is none yet.
	Type, Key string
	// Cloud is the cloud that the object is at: clouds/{cloud}.
	Cloud string
	// Tenant is the tenant's id, Installation the installation's name.
	Tenant, Installation string
}

// owning is what a record has, by its type: an object's id, or a key.
type owning struct{ typ, value string }

// Owners tells which records have objects. It is as old as the read that it was made of, so it is made after the objects
// were described: of an object that became ours in between the record is known then.
type Owners struct {
	byObject map[owning][]*record.Entry
	byKey    map[owning]*record.Entry
}

// ReadOwners reads all records once.
func ReadOwners(ctx context.Context, book *record.Book) (*Owners, error) {
	o := &Owners{byObject: map[owning][]*record.Entry{}, byKey: map[owning]*record.Entry{}}
	for after, more := (record.ID{}), true; more; {
		entries, further, err := book.List(ctx, "", after, 500)
		if err != nil {
			return nil, err
		}
		more = further
		for _, e := range entries {
			after = e.ID
			o.byKey[owning{e.Kind.Type, e.Key}] = e
			id, adopts := e.Object.Status().GetProviderId(), e.Record.GetAdopt()
			if id != "" {
				o.add(owning{e.Kind.Type, id}, e)
			}
			if adopts != "" && adopts != id {
				o.add(owning{e.Kind.Type, adopts}, e)
			}
		}
	}
	return o, nil
}

func (o *Owners) add(at owning, e *record.Entry) { o.byObject[at] = append(o.byObject[at], e) }

// of gives the record other than the claimant's that has an object; nil if there is none. Where objects cannot be marked ids may
// be names, as those of key pairs are, which say nothing of an object at another cloud.
func (o *Owners) of(c Claimant, d driver.Described) *record.Entry {
	for _, e := range o.byObject[owning{c.Type, d.ID}] {
		if e.Key != c.Key && (!d.Unmarkable || e.Object.Cloud() == c.Cloud) {
			return e
		}
	}
	if e := o.byKey[owning{c.Type, d.Key}]; e != nil && d.Key != c.Key {
		return e
	}
	return nil
}

// Taken gives why an object cannot be had: it bears another's mark, or another record has it. nil means that it can. Of an
// owner of another tenant no name is told.
func (o *Owners) Taken(c Claimant, d driver.Described) *fault.Error {
	owner := ""
	if e := o.of(c, d); e != nil {
		owner = e.Name
	}
	switch {
	case owner != "" && resource.TenantOf(owner) == c.Tenant:
		return &fault.Error{Kind: fault.Exists, Message: "it is the object of " + owner}
	case owner != "":
		return &fault.Error{Kind: fault.Exists, Message: "it is another tenant's"}
	case d.Key == "" || d.Key == c.Key:
		return nil
	case !installation.Owns(c.Installation, d.Key):
		return &fault.Error{Kind: fault.Exists, Message: "it bears the mark of another installation of Weft"}
	case d.Kept:
		return &fault.Error{Kind: fault.Exists, Message: "it was kept for its data by " + d.Owner + "; take it up with adoptKept"}
	default:
		return &fault.Error{Kind: fault.Exists, Message: "it is an orphan of ours, of " + d.Owner + "; weft sweep deletes it"}
	}
}

// Describe describes objects of a type at the account, all of them without ids; false if the provider cannot.
func (a *Account) Describe(ctx context.Context, typ, tenant string, ids []string) ([]driver.Described, bool, error) {
	d, ok := a.Session.Drivers[typ]
	if !ok {
		return nil, false, nil
	}
	importer, ok := d.Importer()
	if !ok {
		return nil, false, nil
	}
	out, err := look(ctx, a, tenant, func() ([]driver.Described, error) { return importer.Describe(ctx, ids) })
	return out, true, err
}

// takeOver has the object that an entry adopts become its own.
func (l *Loop) takeOver(ctx context.Context, at *turn, e *record.Entry, d driver.Any, refs driver.Refs) error {
	id := e.Record.GetAdopt()
	importer, ok := d.Importer()
	if !ok {
		return fault.New(fault.Unsupported, "adopt %s: objects of the kind %s cannot be adopted", id, e.Kind.Name)
	}
	all, err := call(ctx, at, "describe", func(ctx context.Context) ([]driver.Described, error) { return importer.Describe(ctx, []string{id}) })
	if err != nil {
		return fault.Wrap(err, "look at %s, which %s adopts", id, e.Name)
	}
	if len(all) == 0 {
		return fault.New(fault.NotFound, "%s cannot adopt %s: the cloud has no such object", e.Name, id)
	}
	owners, err := ReadOwners(ctx, l.Book)
	if err != nil {
		return err
	}
	claimant := Claimant{Type: e.Kind.Type, Key: e.Key, Cloud: e.Object.Cloud(), Tenant: resource.TenantOf(e.Name), Installation: l.Installation}
	if taken := owners.Taken(claimant, all[0]); taken != nil {
		return fault.Wrap(taken, "%s cannot adopt %s", e.Name, id)
	}
	if !e.Record.GetAttempted() {
		e.Record.Attempted, e.Record.Unadopted = true, all[0].Before
		if err := l.Book.Save(ctx, e, record.Notice{}); err != nil {
			return err
		}
	}
	if err := at.owned.check(ctx); err != nil {
		return err // that took its time
	}
	_, err = call(ctx, at, "mark", func(ctx context.Context) (struct{}, error) { return struct{}{}, importer.Mark(ctx, id, e.Key, e.Name) })
	if err != nil {
		return fault.Wrap(err, "mark %s as %s", id, e.Name)
	}
	e.Object.Status().ProviderId = id
	e.Record.AppliedGeneration, e.Record.Followed = e.Object.Metadata().GetGeneration(), followed(d, request(e, refs))
	return nil
}

// letGo undoes an adoption: the object bears what it bore before, and stands. A mark that was sent without an answer may still
// be under way. It is taken off twice, some time apart, before it is believed to be off; until then letGo gives the time to
// wait. An object of others that bears our mark without a record would be swept.
func (l *Loop) letGo(ctx context.Context, at *turn, e *record.Entry, d driver.Any) (time.Duration, error) {
	importer, ok := d.Importer()
	if !ok {
		return 0, fault.New(fault.Unsupported, "let go of %s: objects of the kind %s cannot be adopted", e.Record.GetAdopt(), e.Kind.Name)
	}
	unanswered, first := e.Object.Status().GetProviderId() == "", e.Record.GetMissingTime()
	if unanswered && first != nil {
		if rest := missingGrace - l.Now().Sub(first.AsTime()); rest > 0 {
			return rest, nil
		}
	}
	_, err := call(ctx, at, "unmark", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, importer.Unmark(ctx, e.Record.GetAdopt(), e.Key, e.Record.GetUnadopted())
	})
	if err != nil {
		return 0, fault.Wrap(err, "take the mark of %s off %s", e.Name, e.Record.GetAdopt())
	}
	if unanswered && first == nil {
		e.Record.MissingTime = timestamppb.New(l.Now())
		return missingGrace, l.Book.Save(ctx, e, record.Notice{})
	}
	return 0, nil
}
