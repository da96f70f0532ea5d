// Package memdriver is a driver whose provider is this process's memory. It behaves like a cloud: objects take time to
// become ready and to go, and any step can be told to fail, before or after it had its effect. What stands above drivers
// is tested with it.
package memdriver

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// Step is one method of a driver.
type Step string

// The steps.
const (
	Find    Step = "find"
	Create  Step = "create"
	Observe Step = "observe"
	Update  Step = "update"
	Delete  Step = "delete"
	Mark    Step = "mark"
)

// Fault is what a step is told to do instead of succeeding.
type Fault struct {
	// Err is what it returns.
	Err error
	// After has the step take effect before it returns Err: the answer was lost, the object exists.
	After bool
	// Times is how often; 0 means once, negative for ever.
	Times int
}

// Config is how a driver behaves.
type Config[S, O proto.Message] struct {
	// Observed gives what is observed of an object; required.
	Observed func(id string, spec S) O
	// ReadyAfter is how long an object is progressing after it was made or changed; GoneAfter how long after its deletion
	// was asked for. 0 means at once.
	ReadyAfter, GoneAfter time.Duration
	// Latency is how long each call takes.
	Latency time.Duration
	// Now gives the time; nil means time.Now, which also suits a synctest bubble.
	Now func() time.Time
	// TwoStep has objects bare until they are updated: they are observed as made, with the zero spec.
	TwoStep bool
	// Tells has the answers to Create, and to the Update after it, tell the object, see driver.Teller.
	Tells bool
}

// Object is one object as it stands.
type Object[S proto.Message] struct {
	// ID is its id, Key the key that it bears, Name the resource's name.
	ID, Key, Name string
	// Spec is what it was last brought to.
	Spec S

	readyAt time.Time
	goneAt  time.Time
	failed  error
	state   driver.State
}

// Call is one call that was made.
type Call struct {
	// Step is the method.
	Step Step
	// Key is the request's key, for Find, Create and Update; ID the object's id, for Update and Delete; IDs those of Observe.
	Key, ID string
	IDs     []string
}

// Driver is a driver in memory. All methods are safe for concurrent use.
type Driver[S, O proto.Message] struct {
	config Config[S, O]

	mu       sync.Mutex
	next     int
	objects  map[string]*Object[S]
	faults   map[Step][]Fault
	blockers map[string][]*kindv1.Blocker
	calls    []Call
}

// New makes a driver without objects.
func New[S, O proto.Message](config Config[S, O]) *Driver[S, O] {
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Driver[S, O]{config: config, objects: map[string]*Object[S]{}, faults: map[Step][]Fault{}, blockers: map[string][]*kindv1.Blocker{}}
}

// Inject has the next calls of a step fail; injected faults follow each other.
func (d *Driver[S, O]) Inject(step Step, f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.Times == 0 {
		f.Times = 1
	}
	d.faults[step] = append(d.faults[step], f)
}

// Mend takes all injected faults back.
func (d *Driver[S, O]) Mend() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = map[Step][]Fault{}
}

// SetState has an object observed in a state, with why, until it is next updated. One that is being deleted is Outdated or
// Progressing.
func (d *Driver[S, O]) SetState(id string, state driver.State, why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if o, ok := d.objects[id]; ok {
		o.state, o.failed = state, why
	}
}

// Block has deletions of an object refused until it is called without blockers.
func (d *Driver[S, O]) Block(id string, blockers ...*kindv1.Blocker) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.blockers[id] = blockers
}

// Remove takes an object away, as if someone else had.
func (d *Driver[S, O]) Remove(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.objects, id)
}

// Change changes what an object is, as if someone else had.
func (d *Driver[S, O]) Change(id string, change func(spec S)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if o, ok := d.objects[id]; ok {
		o.Spec = clone(o.Spec)
		change(o.Spec)
	}
}

// Objects lists the objects that exist, by id.
func (d *Driver[S, O]) Objects() []Object[S] {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pass()
	out := make([]Object[S], 0, len(d.objects))
	for _, o := range d.objects {
		out = append(out, *o)
	}
	slices.SortFunc(out, func(a, b Object[S]) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Calls lists the calls that were made, in order.
func (d *Driver[S, O]) Calls() []Call {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.calls)
}

// begin notes a call, waits for the latency and takes the fault that is due. The caller holds the lock afterwards, if
// there is no error.
func (d *Driver[S, O]) begin(ctx context.Context, c Call) (Fault, error) {
	if err := wait(ctx, d.config.Latency); err != nil {
		return Fault{}, fault.As(fault.Unavailable, err)
	}
	d.mu.Lock()
	d.calls = append(d.calls, c)
	d.pass()
	f := d.take(c.Step)
	if f.Err != nil && !f.After {
		d.mu.Unlock()
		return Fault{}, f.Err
	}
	return f, nil
}

// wait passes the latency, or ends with the context.
func wait(ctx context.Context, latency time.Duration) error {
	if latency > 0 {
		timer := time.NewTimer(latency)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// take gives the fault that is due for a step.
func (d *Driver[S, O]) take(step Step) Fault {
	queue := d.faults[step]
	if len(queue) == 0 {
		return Fault{}
	}
	f := queue[0]
	if f.Times > 0 {
		queue[0].Times--
		if queue[0].Times == 0 {
			d.faults[step] = queue[1:]
		}
	}
	return f
}

// pass takes away the objects whose time has come.
func (d *Driver[S, O]) pass() {
	now := d.config.Now()
	for id, o := range d.objects {
		if !o.goneAt.IsZero() && !now.Before(o.goneAt) {
			delete(d.objects, id)
		}
	}
}

// NeedsUpdate implements driver.TwoStep.
func (d *Driver[S, O]) NeedsUpdate() bool { return d.config.TwoStep }

// Find implements driver.Driver.
func (d *Driver[S, O]) Find(ctx context.Context, r driver.Request[S]) ([]string, error) {
	f, err := d.begin(ctx, Call{Step: Find, Key: r.Key})
	if err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	ids := []string{}
	for id, o := range d.objects {
		if o.Key == r.Key {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, f.Err
}

// Create implements driver.Driver.
func (d *Driver[S, O]) Create(ctx context.Context, r driver.Request[S]) (string, error) {
	f, err := d.begin(ctx, Call{Step: Create, Key: r.Key})
	if err != nil {
		return "", err
	}
	defer d.mu.Unlock()
	d.next++
	o := &Object[S]{ID: "mem-" + strconv.Itoa(d.next), Key: r.Key, Name: r.Name, Spec: clone(r.Spec), readyAt: d.config.Now().Add(d.config.ReadyAfter), state: driver.Ready}
	if d.config.TwoStep {
		o.Spec = zero(r.Spec)
	}
	d.objects[o.ID] = o
	if f.Err != nil {
		return "", f.Err
	}
	if d.config.Tells {
		driver.Tell(ctx, o.ID, d.observation(o))
	}
	return o.ID, nil
}

// Told implements driver.Teller.
func (d *Driver[S, O]) Told(ctx context.Context, id string) (driver.Observation[O], bool) {
	return driver.Recall[driver.Observation[O]](ctx, id)
}

// Observe implements driver.Driver.
func (d *Driver[S, O]) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[O], error) {
	f, err := d.begin(ctx, Call{Step: Observe, IDs: slices.Clone(ids)})
	if err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	if f.Err != nil {
		return nil, f.Err
	}
	out := map[string]driver.Observation[O]{}
	for _, id := range ids {
		if o, ok := d.objects[id]; ok {
			out[id] = d.observation(o)
		}
	}
	return out, nil
}

func (d *Driver[S, O]) observation(o *Object[S]) driver.Observation[O] {
	seen := driver.Observation[O]{State: o.state, Fault: o.failed, Observed: d.config.Observed(o.ID, o.Spec)}
	if !o.goneAt.IsZero() && o.state != driver.Outdated || o.state == driver.Ready && d.config.Now().Before(o.readyAt) {
		seen.State = driver.Progressing
	}
	return seen
}

// Update implements driver.Driver.
func (d *Driver[S, O]) Update(ctx context.Context, id string, r driver.Request[S]) error {
	f, err := d.begin(ctx, Call{Step: Update, Key: r.Key, ID: id})
	if err != nil {
		return err
	}
	defer d.mu.Unlock()
	o, ok := d.objects[id]
	if !ok {
		return fault.New(fault.NotFound, "%s does not exist", id)
	}
	if !o.goneAt.IsZero() {
		return fault.New(fault.Conflict, "%s is being deleted", id)
	}
	if !proto.Equal(o.Spec, r.Spec) {
		o.Spec, o.readyAt = clone(r.Spec), d.config.Now().Add(d.config.ReadyAfter)
	}
	o.state, o.failed = driver.Ready, nil
	if _, told := d.Told(ctx, id); told {
		driver.Tell(ctx, id, d.observation(o))
	}
	return f.Err
}

// Delete implements driver.Driver.
func (d *Driver[S, O]) Delete(ctx context.Context, id string) error {
	f, err := d.begin(ctx, Call{Step: Delete, ID: id})
	if err != nil {
		return err
	}
	defer d.mu.Unlock()
	o, ok := d.objects[id]
	if !ok {
		return f.Err
	}
	if len(d.blockers[id]) > 0 {
		return fault.New(fault.Conflict, "%s is in use", id)
	}
	if o.goneAt.IsZero() {
		o.goneAt = d.config.Now().Add(d.config.GoneAfter)
	}
	d.pass()
	return f.Err
}

// Blockers implements driver.Blockable. It fails as Observe is told to.
func (d *Driver[S, O]) Blockers(ctx context.Context, id string) ([]*kindv1.Blocker, error) {
	f, err := d.begin(ctx, Call{Step: Observe, ID: id})
	if err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	return slices.Clone(d.blockers[id]), f.Err
}

// ListMarked implements driver.Lister. It fails as Find is told to.
func (d *Driver[S, O]) ListMarked(ctx context.Context) ([]driver.Marked, error) {
	f, err := d.begin(ctx, Call{Step: Find})
	if err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	var out []driver.Marked
	for _, o := range d.objects {
		out = append(out, driver.Marked{ID: o.ID, Key: o.Key, Name: o.Name})
	}
	slices.SortFunc(out, func(a, b driver.Marked) int { return cmp.Compare(a.ID, b.ID) })
	return out, f.Err
}

// Describe implements driver.Importer. It fails as Observe is told to.
func (d *Driver[S, O]) Describe(ctx context.Context, ids []string) ([]driver.Described, error) {
	f, err := d.begin(ctx, Call{Step: Observe, IDs: slices.Clone(ids)})
	if err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	var out []driver.Described
	for id, o := range d.objects {
		if len(ids) == 0 || slices.Contains(ids, id) {
			out = append(out, driver.Described{ID: id, Name: id, Spec: clone(o.Spec), Key: o.Key, Owner: o.Name})
		}
	}
	slices.SortFunc(out, func(a, b driver.Described) int { return cmp.Compare(a.ID, b.ID) })
	return out, f.Err
}

// Mark implements driver.Importer. It fails as it is told to.
func (d *Driver[S, O]) Mark(ctx context.Context, id, key, name string) error {
	f, err := d.begin(ctx, Call{Step: Mark, Key: key, ID: id})
	if err != nil {
		return err
	}
	defer d.mu.Unlock()
	o, ok := d.objects[id]
	switch {
	case !ok:
		return fault.New(fault.NotFound, "%s does not exist", id)
	case o.Key != "" && o.Key != key:
		return fault.New(fault.Exists, "%s bears the key %s", id, o.Key)
	}
	o.Key, o.Name = key, name
	return f.Err
}

// Unmark implements driver.Importer. It fails as Mark is told to.
func (d *Driver[S, O]) Unmark(ctx context.Context, id, key, _ string) error {
	f, err := d.begin(ctx, Call{Step: Mark, Key: key, ID: id})
	if err != nil {
		return err
	}
	defer d.mu.Unlock()
	if o, ok := d.objects[id]; ok && o.Key == key {
		o.Key, o.Name = "", ""
	}
	return f.Err
}

// Stand has an object stand that somebody else made: it bears no mark. It gives its id.
func (d *Driver[S, O]) Stand(spec S) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next++
	id := "mem-" + strconv.Itoa(d.next)
	d.objects[id] = &Object[S]{ID: id, Spec: clone(spec), readyAt: d.config.Now(), state: driver.Ready}
	return id
}

func clone[S proto.Message](spec S) S {
	copied, ok := proto.Clone(spec).(S)
	if !ok {
		return spec // a clone has its original's type
	}
	return copied
}

func zero[S proto.Message](spec S) S {
	empty, ok := spec.ProtoReflect().New().Interface().(S)
	if !ok {
		return spec // as with clone
	}
	return empty
}
