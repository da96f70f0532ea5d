// Package driver is the seam between Weft and the providers: a Driver makes one kind real at one provider.
//
// A driver neither retries nor waits: retry, rate, adoption and polling are written once above it (see package
// reconcile). It returns faults (see package fault) and never guesses: a look-up that failed is an error, not an empty
// answer.
package driver

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// Request is one resource as it is wanted.
type Request[S proto.Message] struct {
	// Key is the resource's identity. It MUST be written into the object in the same call that makes it.
	Key string
	// Name is the resource's full name: tenants/acme/servers/shop.db.
	Name string
	// Generation counts the changes of the spec.
	Generation int64
	// Labels are the resource's labels.
	Labels map[string]string
	// Spec is what is wanted: references in it are full names. Drivers MUST NOT change it.
	Spec S
	// Refs gives what the references lead to.
	Refs Refs
	// Claimed gives the numbers that the resource holds of shared spaces, by the field of the spec that asks for them, e.g.
	// the port that was chosen of a range under externalPort; see package record.
	Claimed map[string]int32
	// Undo says that an operation takes back what it did: what cannot be brought back, as what was on a disk, MUST NOT be
	// destroyed on the way.
	Undo bool
}

// Refs gives the resources that a spec refers to, by full name; each is its kind's message, e.g. *networkv1.Network.
type Refs map[string]proto.Message

// State is what an observation makes of an object.
type State int

// The states.
const (
	// Progressing: the provider is at work; look again.
	Progressing State = iota
	// Ready: it works, as it was last asked for.
	Ready
	// Outdated: it waits for a further Update, e.g. a resize that must be confirmed; or, once Delete was called, for a
	// further Delete, e.g. a part that can go only after the others.
	Outdated
	// Failed: the provider gave up; Fault says why.
	Failed
	// Broken: the provider gave up, nothing but another object can be of use, and nothing is lost with this one. The loop
	// takes it away and makes it anew; Fault says why.
	Broken
)

// Observation is one object as it was seen.
type Observation[O proto.Message] struct {
	// State is what is to be made of it.
	State State
	// Fault is why it failed, with the provider's own text, or what it waits for.
	Fault error
	// Observed is the kind's observed message.
	Observed O
	// Facts are what else was seen of a ready object and is decided by its spec alone, by names in the provider's word, e.g.
	// "rules". If they change while the spec does not, somebody else changed the object. Secrets MUST NOT be among them.
	Facts map[string]string
}

// Driver makes one kind real at one provider, in one account. All methods are safe for concurrent use.
type Driver[S, O proto.Message] interface {
	// Find returns the ids of the objects that bear the key; none is an empty slice. It is called after an unknown
	// outcome, and before anything is believed to be gone. An outage MUST be an error, never an empty answer.
	Find(ctx context.Context, r Request[S]) ([]string, error)
	// Create makes the object and marks it with the key, and returns its id. It is called only if no object can bear
	// the key, or after Find found none. It MUST NOT do anything that can fail after the object exists: what cannot be
	// asked for in the same call belongs into Update, see TwoStep.
	Create(ctx context.Context, r Request[S]) (string, error)
	// Observe reads many objects at once: one list call per page, not one call per object. An id that is absent from
	// the answer does not exist.
	Observe(ctx context.Context, ids []string) (map[string]Observation[O], error)
	// Update brings the object to the spec. It may be called when nothing differs, and again after it failed half way:
	// it MUST look at what is there and do only what is missing.
	Update(ctx context.Context, id string, r Request[S]) error
	// Delete asks for the object to be taken away; absent is success. Observe says when it is over. It may be called
	// again while the deletion goes on.
	Delete(ctx context.Context, id string) error
}

// errUnfinished is in the chain of the faults that Unfinished makes.
var errUnfinished = errors.New("it is at work")

// Unfinished is what Update returns when it has done, or could do, only a part: the provider takes one change after the
// other, and a further Update must follow when the object is not at work any more. It is no failure, and is not told as one;
// to who does not know of it, it is a Conflict. what says what is under way, and what is left.
func Unfinished(what string, args ...any) error {
	return &fault.Error{Kind: fault.Conflict, Message: fmt.Sprintf(what, args...), Cause: errUnfinished}
}

// IsUnfinished tells whether err is one that Unfinished made.
func IsUnfinished(err error) bool { return errors.Is(err, errUnfinished) }

// Follower is a capability: the object is made from what its references observe, and must follow that when it changes, as
// the members of a load balancer follow a group of servers. The loop looks at the references of an object that is ready
// every few seconds, and calls Update when what Follows gives is not what the object was last brought to.
type Follower[S proto.Message] interface {
	// Follows gives what the object is made from of what its references observe, as text that is compared and kept. It
	// MUST be a function of the request alone and not ask the provider.
	Follows(r Request[S]) string
}

// TwoStep is a capability: Create makes a bare object, and Update must follow before it is as wanted.
type TwoStep interface {
	// NeedsUpdate tells that Update must follow each Create.
	NeedsUpdate() bool
}

// Teller is a capability: the provider answers a create with the whole object, so that nobody need look at what it has just
// been told. What an answer shows is kept for the look at the resource that it is part of (Remembering, Tell): a later look,
// as after a crash or an unknown outcome, asks the provider.
type Teller[O proto.Message] interface {
	// Told gives an object as the answers to the Create, and to the Update after it, showed it in this look. It MUST be what
	// Observe would give; false if no answer of this look showed the whole object as it is now. It MUST NOT ask the provider.
	Told(ctx context.Context, id string) (Observation[O], bool)
}

// Adopted is a capability: the objects are somebody else's and live on when the resource is released. Create makes
// nothing and returns the id of what stands, Find finds nothing since nothing is marked, and a release ends with
// forgetting the id: Delete is not called, and nobody waits until Observe misses the id.
type Adopted interface {
	// Adopts tells that this driver's objects are adopted.
	Adopts() bool
}

// Blockable is a capability: the driver can say what keeps an object from being deleted.
type Blockable interface {
	// Blockers lists the objects that keep id from being deleted; none is an empty slice.
	Blockers(ctx context.Context, id string) ([]*kindv1.Blocker, error)
}

// Console is a capability: the objects write to a console that the provider keeps.
type Console interface {
	// ConsoleLog gives the last lines of an object's console; 0 means all that the provider keeps.
	ConsoleLog(ctx context.Context, id string, lines int) (string, error)
}

// Marked is one object at a provider that bears our mark.
type Marked struct {
	// ID is the object's id.
	ID string
	// Key is the key that it bears.
	Key string
	// Name is the resource's full name as the mark has it; empty if the mark has none.
	Name string
	// Kept says that it was left for its data when its resource was deleted.
	Kept bool
}

// Described is one object at a provider as its kind has it, whoever made it.
type Described struct {
	// ID is its id, Name how the provider calls it.
	ID, Name string
	// Spec is the kind's spec message that the object is in accord with: Update with it changes nothing. A reference holds
	// the provider's id of what it leads to.
	Spec proto.Message
	// Key is the key that it bears, Owner the resource's full name as the mark has it; empty if it bears none. Kept says
	// that the mark is that of an object that was kept.
	Key, Owner string
	Kept       bool
	// Unmarkable says that objects of this kind cannot be marked after they were made. Who has it in a record owns it.
	Unmarkable bool
	// Before is what stands in the mark's place; Unmark puts it back. It is empty if the mark takes no place of its own.
	Before string
	// Obstacles tell what of the object the kind cannot express, or does not know, so that it cannot be adopted.
	Obstacles []string
}

// Importer is a capability: objects that somebody else made can become resources.
type Importer interface {
	// Describe describes objects by id, or with none all of the account's. What does not exist is absent; an outage MUST be
	// an error. It changes nothing.
	Describe(ctx context.Context, ids []string) ([]Described, error)
	// Mark has an object bear a key and a name, as if it had been made with them. It MUST change nothing else, and be an
	// Exists fault for an object that bears another key. It may be called again after it failed half way. Where objects are
	// unmarkable it only looks that the object exists; NotFound says that it does not.
	Mark(ctx context.Context, id, key, name string) error
	// Unmark takes the mark off an object that bears the key, and puts back what stood in its place. One that is absent, or
	// bears another mark or none, is left alone.
	Unmark(ctx context.Context, id, key, before string) error
}

// Keeper is a capability: an object that holds data can outlive its resource.
type Keeper interface {
	// Keep changes the mark of an object to that of one that was kept: Find no longer gives it, ListMarked gives it as
	// kept. An absent object is success. It may be called again after it failed half way.
	Keep(ctx context.Context, id, key, name string) error
	// TakenUp tells whether the object was a kept one that Create took up instead of making one: an undo keeps it again.
	TakenUp(ctx context.Context, id string) (bool, error)
}

// Copier is a capability: the driver can keep a copy of what an object holds, which outlives the object.
type Copier interface {
	// Copy makes the copy, marked as kept with key, if there is none yet, and tells whether it is complete. It is called
	// until it is.
	Copy(ctx context.Context, id, key, name string) (done bool, err error)
}

// SecretHere is what a driver observes in place of a secret output that exists. The secret itself it MUST NOT observe.
const SecretHere = "secret"

// SecretSource is a capability: the object has secret outputs.
type SecretSource interface {
	// OpenSecret reads a secret output of the object by its field, e.g. s3_secret_key. The error is NotFound if it has none.
	OpenSecret(ctx context.Context, id, field string) (string, error)
}

// Lister is a capability: the driver can list all objects of its kind that bear our mark, so that orphans are found.
type Lister interface {
	// ListMarked lists them. An outage MUST be an error.
	ListMarked(ctx context.Context) ([]Marked, error)
}

// Item is one resource as a plan wants it.
type Item[S proto.Message] struct {
	// Name is the resource's full name.
	Name string
	// Spec is what is wanted, as far as it is known; nil if the resource goes away.
	Spec S
	// Former is what stands; nil if nothing does.
	Former S
	// Unknown lists the paths of spec whose value is known only later.
	Unknown []string
	// Change is what the plan does.
	Change kindv1.Change
	// Refs gives the resources that exist already among those that Spec refers to.
	Refs Refs
	// Planned gives the resources that the same plan makes or changes among those that Spec refers to, with the spec that
	// they will have and without observed, as far as they are the same service's; nil if the caller does not tell.
	Planned Refs
}

// Finding is one thing that is wrong with an item.
type Finding struct {
	// Name is the resource's full name; empty if it is wrong for all.
	Name string
	// Field is the field, e.g. spec.image.
	Field string
	// Fault is what is wrong and what can be done.
	Fault error
}

// QuotaUse is what a plan needs of one quota of the provider.
type QuotaUse struct {
	// Service is the service at the provider, e.g. compute; Quota is the quota's name there, e.g. cores.
	Service, Quota string
	// Need is what the plan adds, Used what is used now, Limit the limit; -1 means none.
	Need, Used, Limit int64
}

// Checker is a capability: the driver can look, without changing anything, whether items can be made as asked.
type Checker[S proto.Message] interface {
	// Check reports all that is wrong with the items, all at once, and the quotas that they use, needs added up. Too
	// small a quota is not reported as a finding: the caller compares, since several kinds may draw on one quota. An
	// error means that the look itself failed.
	Check(ctx context.Context, items []Item[S]) ([]Finding, []QuotaUse, error)
}

// Sized is a capability: how much of its tenant's quotas an object takes is told by the provider's facts, as a server's
// virtual CPUs by its flavor.
type Sized[S proto.Message] interface {
	// Sizes gives what each of the specs takes of a tenant's quotas, by quota (package quota). An error means that the
	// look failed; it is Invalid, in the field, for a spec that asks for what the provider does not have.
	Sizes(ctx context.Context, specs []S) ([]map[string]int64, error)
}

// Feature is one thing that was found by asking a provider.
type Feature struct {
	// Service is the service at the provider, Name the feature, Value what was found.
	Service, Name, Value string
}
