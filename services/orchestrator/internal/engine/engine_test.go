package engine_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/bus/membus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/outbox"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/saga"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
	"github.com/weftcloud/weft/pkg/testkit"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/document"
	"github.com/weftcloud/weft/services/orchestrator/internal/engine"
	"github.com/weftcloud/weft/services/orchestrator/internal/plan"
)

const (
	stackName = "tenants/acme/stacks/shop"
	ownerKey  = "/weft/orchestrator/owner"

	done      = orchestratorv1.OperationState_OPERATION_STATE_DONE
	undone    = orchestratorv1.OperationState_OPERATION_STATE_UNDONE
	failed    = orchestratorv1.OperationState_OPERATION_STATE_FAILED
	needsHand = orchestratorv1.OperationState_OPERATION_STATE_NEEDS_HAND
)

// shop is the document that the tests apply: a chain of three, each fed by the one before.
func shop(mtu int, label string) string {
	return fmt.Sprintf(`
kind: Stack
name: shop
placement: {cloud: lab}
resources:
  net: {kind: Network, spec: {mtu: %d}}
  db: {kind: Server, spec: {image: debian, flavor: small, network: net, userData: "mtu ${net.mtu}", metadata: {label: %s}}}
  web: {kind: Server, spec: {image: debian, flavor: small, network: net, userData: "db ${db.address}", metadata: {label: %s}}}
outputs: {url: "http://${web.address}/"}
`, mtu, label, label)
}

// world plays the participants: what they have, and what they were told.
type world struct {
	kinds *resource.Registry

	mu       sync.Mutex
	objects  map[string]proto.Message // specs by key
	buried   map[string]bool
	commands map[string]*busv1.Command // by message id
	order    []string                  // step and direction, of the first delivery of each message
	queries  int
	// script changes the answer to a command; nil as the answer is silence.
	script func(c *busv1.Command, usual *busv1.Outcome) *busv1.Outcome
}

// obey does what a command says and gives the outcome.
func (w *world) obey(id string, c *busv1.Command) *busv1.Outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.commands[id] == nil {
		w.commands[id] = c
		w.order = append(w.order, fmt.Sprintf("%s %s", c.GetOrigin().GetStep(), strings.ToLower(strings.TrimPrefix(c.GetOrigin().GetDirection().String(), "DIRECTION_"))))
	}
	usual := &busv1.Outcome{Origin: c.GetOrigin(), Key: c.GetKey(), Result: busv1.Result_RESULT_RELEASED}
	if c.GetEnsure() != nil {
		spec, err := c.GetEnsure().GetSpec().UnmarshalNew()
		if err != nil {
			panic(err)
		}
		if w.buried[c.GetKey()] {
			return nil
		}
		usual.Result, usual.Observed = busv1.Result_RESULT_READY, observed(c.GetKey(), spec)
		if w.script == nil {
			w.objects[c.GetKey()] = spec
			return usual
		}
		o := w.script(c, usual)
		if o != nil && o.GetFault().GetKind() != string(fault.Invalid) { // what was refused was not made
			w.objects[c.GetKey()] = spec
		}
		return o
	}
	if w.script != nil {
		o := w.script(c, usual)
		if o == nil || o.GetResult() != busv1.Result_RESULT_RELEASED {
			return o
		}
	}
	delete(w.objects, c.GetKey())
	w.buried[c.GetKey()] = true
	return usual
}

// observed gives what is seen of an object.
func observed(key string, spec proto.Message) *anypb.Any {
	var m proto.Message = &computev1.ServerObserved{ServerId: key, Address: "10.0.0.1"}
	if n, ok := spec.(*networkv1.NetworkSpec); ok {
		m = &networkv1.NetworkObserved{NetworkId: key, Mtu: n.GetMtu()}
	}
	packed, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return packed
}

// Query implements engine.Querier.
func (w *world) Query(_ context.Context, _ *resource.Kind, origin *busv1.Origin, _, key string) (*busv1.Outcome, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queries++
	if w.buried[key] {
		return &busv1.Outcome{Origin: origin, Key: key, Result: busv1.Result_RESULT_RELEASED}, nil
	}
	if w.script != nil { // it says what it said
		for _, c := range w.commands {
			if o := c.GetOrigin(); o.GetStep() == origin.GetStep() && o.GetDirection() == origin.GetDirection() {
				usual := &busv1.Outcome{Origin: origin, Key: key, Result: busv1.Result_RESULT_READY}
				if spec := w.objects[key]; spec != nil {
					usual.Observed = observed(key, spec)
				}
				return w.script(c, usual), nil
			}
		}
		return nil, nil
	}
	spec, ok := w.objects[key]
	if !ok {
		return nil, nil
	}
	return &busv1.Outcome{Origin: origin, Key: key, Result: busv1.Result_RESULT_READY, Observed: observed(key, spec)}, nil
}

func (w *world) setScript(script func(c *busv1.Command, usual *busv1.Outcome) *busv1.Outcome) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.script = script
}

// state gives the objects by what tells them apart.
func (w *world) state() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, spec := range w.objects {
		switch s := spec.(type) {
		case *networkv1.NetworkSpec:
			out = append(out, fmt.Sprint("network ", s.GetMtu()))
		case *computev1.ServerSpec:
			out = append(out, fmt.Sprintf("server %s, %s", s.GetUserData(), s.GetMetadata()["label"]))
		}
	}
	slices.Sort(out)
	return out
}

// ids gives the ids of all commands.
func (w *world) ids() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.commands))
}

// owner is an ownership without a lease.
type owner struct{ epoch int64 }

func (o owner) Fence() store.Compare { return store.Compare{Key: ownerKey, CreateRevision: o.epoch} }
func (o owner) Epoch() int64         { return o.epoch }
func (o owner) Shard() int           { return bus.ShardOf(stackName) }

// rig is an engine with what is around it, in a synctest bubble.
type rig struct {
	*testing.T
	store *memstore.Store
	bus   *membus.Bus
	world *world
	keys  int

	mu     sync.Mutex
	engine *engine.Engine
	owner  owner
	stop   func()
}

func newRig(t *testing.T) *rig {
	kinds, err := resource.NewRegistry(&networkv1.Network{}, &computev1.Server{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{kinds: kinds, objects: map[string]proto.Message{}, buried: map[string]bool{}, commands: map[string]*busv1.Command{}}
	return &rig{T: t, store: memstore.New(), bus: membus.New(), world: w}
}

// run runs a test in a bubble, with participants and an engine that work.
func run(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		stop := r.participants()
		defer stop()
		r.start()
		defer r.end()
		synctest.Wait() // until it owns the sagas
		test(t, r)
	})
}

// background runs until the function that it gives is called.
func (r *rig) background(tasks ...func(ctx context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	var group sync.WaitGroup
	for _, task := range tasks {
		group.Go(func() {
			if err := task(ctx); err != nil && ctx.Err() == nil {
				r.Errorf("it ended with %v", err)
			}
		})
	}
	return sync.OnceFunc(func() {
		cancel()
		group.Wait()
	})
}

func (r *rig) participants() (stop func()) {
	var tasks []func(ctx context.Context) error
	for _, service := range []string{"network", "compute"} {
		for _, p := range bus.Priorities {
			tasks = append(tasks, func(ctx context.Context) error { return r.bus.Consume(ctx, bus.CommandQueue(service, p), 1, r.command) })
		}
	}
	return r.background(tasks...)
}

// command takes a command and publishes the outcome.
func (r *rig) command(ctx context.Context, d bus.Delivery) bus.Verdict {
	c := &busv1.Command{}
	if err := proto.Unmarshal(d.Data, c); err != nil {
		r.Errorf("decode a command: %v", err)
		return bus.Reject
	}
	o := r.world.obey(d.ID, c)
	if o == nil {
		return bus.Ack
	}
	data, err := proto.Marshal(o)
	if err != nil {
		r.Errorf("encode an outcome: %v", err)
	}
	name := o.GetOrigin().GetSaga()
	subject := bus.OutcomeSubject(int(o.GetOrigin().GetShard()), name[strings.LastIndexByte(name, '/')+1:])
	if err := r.bus.Publish(ctx, bus.Message{Subject: subject, Data: data}); err != nil && ctx.Err() == nil {
		r.Errorf("publish an outcome: %v", err)
	}
	return bus.Ack
}

// start starts an orchestrator that owns the sagas from now on.
func (r *rig) start() {
	box := outbox.New(r.store, r.bus, "/weft/orchestrator/so/", testkit.Logger(r.T))
	e := engine.New(engine.Config{Store: r.store, Outbox: box, Kinds: r.world.kinds, Querier: r.world, Logger: testkit.Logger(r.T), Now: time.Now})
	ctx := context.WithoutCancel(r.Context())
	if _, err := r.store.Txn(ctx, nil, []store.Op{{Key: ownerKey, Delete: true}}); err != nil {
		r.Fatal(err)
	}
	revision, err := r.store.Txn(ctx, nil, []store.Op{{Key: ownerKey}})
	if err != nil {
		r.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.engine, r.owner = e, owner{revision}
	r.stop = r.background(box.Run,
		func(ctx context.Context) error {
			if err := e.Own(ctx, owner{revision}); !fault.Is(err, fault.Conflict) { // it may have found out that another is the owner
				return err
			}
			return nil
		},
		func(ctx context.Context) error {
			return r.bus.Read(ctx, bus.OutcomeFilter, time.Now(), true, e.Outcome)
		})
}

func (r *rig) end() {
	r.mu.Lock()
	stop := r.stop
	r.mu.Unlock()
	stop()
}

func (r *rig) eng() *engine.Engine {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.engine
}

// crash ends the orchestrator where it stands; another takes over.
func (r *rig) crash() {
	go func() {
		r.end()
		r.start()
	}()
}

// read reads the stack; nil if there is none.
func (r *rig) read() (*orchestratorv1.StackRecord, int64) {
	r.Helper()
	kept, revision, err := r.eng().ReadStack(context.WithoutCancel(r.Context()), stackName)
	if err != nil && !fault.Is(err, fault.NotFound) {
		r.Fatal(err)
	}
	return kept, revision
}

// plan makes the saga that applies a document.
func (r *rig) plan(operation, text string) (*orchestratorv1.SagaPlan, *orchestratorv1.StackRecord, int64) {
	r.Helper()
	d, problems := document.Parse(document.Source{Kinds: r.world.kinds, Tenant: "acme", Name: "shop.yaml", Text: []byte(text)})
	if len(problems) > 0 {
		r.Fatalf("%v", problems)
	}
	former, revision := r.read()
	built, problems, err := plan.Build(context.WithoutCancel(r.Context()), plan.Input{
		Document: d, Former: former, Kinds: r.world.kinds, Tenant: "acme", Operation: "tenants/acme/operations/" + operation, Now: time.Now(),
		NewKey: func() string { r.keys++; return fmt.Sprintf("key-%02d", r.keys) },
		Expand: func(context.Context, *participantv1.Item) (*participantv1.ExpandResponse, error) {
			return nil, fault.New(fault.Unsupported, "no composites")
		},
		Lookup: func(context.Context, string) (proto.Message, error) {
			return nil, fault.New(fault.NotFound, "nothing else")
		},
	})
	if err != nil || len(problems) > 0 {
		r.Fatalf("%v %v", problems, err)
	}
	p := built.Saga
	p.Result = &orchestratorv1.Stack{Name: stackName, Document: text, Operation: p.GetName()}
	changing := &orchestratorv1.StackRecord{Stack: &orchestratorv1.Stack{Name: stackName, Document: text, Metadata: &kindv1.Metadata{Key: "stack-key"}}}
	if former != nil {
		changing = proto.CloneOf(former)
		changing.Stack.Metadata.Etag = ""
	}
	changing.Stack.State, changing.Stack.Operation = orchestratorv1.StackState_STACK_STATE_CHANGING, p.GetName()
	changing.Stack.Metadata.Sequence++
	return p, changing, revision
}

// apply begins a saga and gives its name.
func (r *rig) apply(operation, text string) string {
	r.Helper()
	p, changing, revision := r.plan(operation, text)
	if err := r.eng().Begin(r.Context(), p, changing, revision); err != nil {
		r.Fatal(err)
	}
	return p.GetName()
}

// await waits until nothing happens to an operation any more, and wants a state.
func (r *rig) await(name string, limit time.Duration, want orchestratorv1.OperationState) *orchestratorv1.OperationMetadata {
	r.Helper()
	for end := time.Now().Add(limit); ; {
		synctest.Wait()
		kept, err := r.eng().Read(context.WithoutCancel(r.Context()), name)
		s := kept.GetOperation()
		if err == nil && engine.OverOperation(s) {
			if s.GetState() != want {
				r.Fatalf("%s is %s, want %s: %v", name, s.GetState(), want, s)
			}
			return s
		}
		if !time.Now().Before(end) {
			r.Fatalf("after %s %s has not ended: %v %v", limit, name, s, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (r *rig) stands(want ...string) {
	r.Helper()
	if diff := cmp.Diff(want, r.world.state()); diff != "" {
		r.Errorf("what stands: %s", diff)
	}
}

func standing(mtu int, label string) []string {
	return []string{fmt.Sprint("network ", mtu), "server db 10.0.0.1, " + label, fmt.Sprintf("server mtu %d, %s", mtu, label)}
}

func refuse(step string, kind fault.Kind) func(c *busv1.Command, usual *busv1.Outcome) *busv1.Outcome {
	return func(c *busv1.Command, usual *busv1.Outcome) *busv1.Outcome {
		if c.GetOrigin().GetStep() != step || c.GetOrigin().GetDirection() != busv1.Direction_DIRECTION_DO {
			return usual
		}
		return &busv1.Outcome{Origin: c.GetOrigin(), Key: c.GetKey(), Result: busv1.Result_RESULT_FAILED, Fault: &kindv1.Fault{Kind: string(kind), Message: "no"}}
	}
}

func TestApply(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		name := r.apply("1", shop(1400, "a"))
		r.await(name, 5*time.Second, done)
		r.stands(standing(1400, "a")...)
		kept, _ := r.read()
		if kept.GetStack().GetState() != orchestratorv1.StackState_STACK_STATE_READY || kept.GetStack().GetOutputs().AsMap()["url"] != "http://10.0.0.1/" {
			t.Errorf("stack = %v", kept.GetStack())
		}
		for _, s := range kept.GetStanding() {
			if s.GetResolved() == nil || s.GetObserved() == nil {
				t.Errorf("%s is kept without what was sent and seen: %v", s.GetLocalName(), s)
			}
		}
		if diff := cmp.Diff([]string{"net do", "db do", "web do"}, r.world.order); diff != "" {
			t.Error(diff)
		}
		again := r.apply("2", shop(1400, "b")) // in place
		r.await(again, 5*time.Second, done)
		r.stands(standing(1400, "b")...)
		if n := len(r.world.ids()); n != 5 {
			t.Errorf("%d commands, want those of 3 and 2 steps: %v", n, r.world.ids())
		}
		if err := r.eng().Act(t.Context(), stackName, name, saga.Cancelled{}); !fault.Is(err, fault.NotFound) {
			t.Errorf("cancel of what has ended: %v", err)
		}
	})
}

func TestFailureIsUndone(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.world.setScript(refuse("web", fault.Denied))
		s := r.await(r.apply("1", shop(1400, "a")), time.Minute, undone)
		if s.GetFault().GetKind() != string(fault.Denied) {
			t.Errorf("fault = %v", s.GetFault())
		}
		r.stands()
		if kept, _ := r.read(); kept != nil {
			t.Errorf("the stack is kept: %v", kept)
		}
		if diff := cmp.Diff([]string{"net do", "db do", "web do", "web undo", "db undo", "net undo"}, r.world.order); diff != "" {
			t.Error(diff)
		}
	})
}

func TestFailedChangeIsRestored(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.await(r.apply("1", shop(1400, "a")), time.Minute, done)
		before, _ := r.read()
		r.world.setScript(refuse("web", fault.Denied))
		r.await(r.apply("2", shop(1400, "b")), time.Minute, undone)
		r.stands(standing(1400, "a")...)
		after, _ := r.read()
		if after.GetStack().GetState() != orchestratorv1.StackState_STACK_STATE_READY || after.GetStack().GetDocument() != before.GetStack().GetDocument() {
			t.Errorf("stack = %v", after.GetStack())
		}
		same := slices.EqualFunc(before.GetStanding(), after.GetStanding(), func(a, b *orchestratorv1.StandingResource) bool { return proto.Equal(a, b) })
		if !same {
			t.Errorf("before %v\nafter %v", before.GetStanding(), after.GetStanding())
		}
	})
}

func TestUnresolvableSpecFailsItsStep(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		text := strings.Replace(shop(1400, "a"), "${db.address}", "${db.volume_ids[3]}", 1)
		s := r.await(r.apply("1", text), time.Minute, undone)
		if s.GetFault().GetKind() != string(fault.Invalid) || !strings.Contains(s.GetFault().GetMessage(), "web") {
			t.Errorf("fault = %v", s.GetFault())
		}
		r.stands()
	})
}

// TestOutputThatCannotBeHad applies a document whose output has no value once all is there: the operation ends, and
// nothing that was made is lost sight of.
func TestOutputThatCannotBeHad(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		text := strings.Replace(shop(1400, "a"), "http://${web.address}/", "${web.volume_ids[3]}", 1)
		if s := r.await(r.apply("1", text), time.Minute, done); !strings.Contains(s.GetFault().GetMessage(), "outputs.url") {
			t.Errorf("fault = %v", s.GetFault())
		}
		kept, _ := r.read()
		if len(kept.GetStanding()) != 3 || kept.GetStack().GetState() != orchestratorv1.StackState_STACK_STATE_READY {
			t.Errorf("stack = %v", kept)
		}
	})
}

// TestBrokenAtEveryTransition breaks the write of each transition, before and after its effect: in one way the process
// ends there and another takes over, in the other only the answer is lost. All ends the same, with the same commands.
func TestBrokenAtEveryTransition(t *testing.T) {
	for what, c := range map[string]struct {
		script func(c *busv1.Command, usual *busv1.Outcome) *busv1.Outcome
		want   orchestratorv1.OperationState
		stands []string
	}{
		"apply": {nil, done, standing(1400, "a")},
		"undo":  {refuse("web", fault.Denied), undone, nil},
	} {
		var usual []string
		run(t, func(_ *testing.T, r *rig) {
			r.world.setScript(c.script)
			r.await(r.apply("1", shop(1400, "a")), time.Minute, c.want)
			usual = r.world.ids()
		})
		for _, crash := range []bool{true, false} {
			for _, after := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, crash %v, after %v", what, crash, after), func(t *testing.T) {
					at := 1
					for ; ; at++ {
						var reached func() bool
						run(t, func(t *testing.T, r *rig) {
							r.world.setScript(c.script)
							reached = r.breakAt(at, crash, after)
							p, changing, revision := r.plan("1", shop(1400, "a"))
							if err := r.eng().Begin(t.Context(), p, changing, revision); err != nil && !after {
								synctest.Wait()
								time.Sleep(2 * time.Second) // another may be taking over
								if err := r.eng().Begin(t.Context(), p, changing, revision); err != nil {
									t.Fatalf("nothing was written, yet it cannot begin: %v", err)
								}
							}
							r.await(p.GetName(), time.Minute, c.want)
							r.stands(c.stands...)
							if extra := cmp.Diff(usual, r.world.ids()); extra != "" {
								t.Errorf("transition %d: commands: %s", at, extra)
							}
						})
						if !reached() || t.Failed() {
							break
						}
					}
					if at < 4 {
						t.Errorf("broken at %d transitions only", at-1)
					}
				})
			}
		}
	}
}

// breakAt has one transition break. What it gives tells whether it came to that.
func (r *rig) breakAt(at int, crash, after bool) (reached func() bool) {
	var mu sync.Mutex
	n := 0
	hook := func(op, key string) error {
		if op != memstore.OpTxn || !strings.HasPrefix(key, "/weft/orchestrator/") || strings.HasPrefix(key, "/weft/orchestrator/so/") ||
			strings.Contains(key, "/out/") || key == ownerKey {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		if n++; n != at {
			return nil
		}
		if crash {
			r.crash()
		}
		return fault.New(fault.Unavailable, "broken at transition %d", at)
	}
	r.store.SetFaults(memstore.Faults{Before: hook})
	if after {
		r.store.SetFaults(memstore.Faults{After: hook})
	}
	return func() bool {
		mu.Lock()
		defer mu.Unlock()
		return n >= at
	}
}

// TestFormerOwnerCannotWrite lets an owner go on that does not know that another took over.
func TestFormerOwnerCannotWrite(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.world.setScript(func(*busv1.Command, *busv1.Outcome) *busv1.Outcome { return nil })
		p, changing, revision := r.plan("1", shop(1400, "a"))
		if err := r.eng().Begin(t.Context(), p, changing, revision); err != nil {
			t.Fatal(err)
		}
		former, stop := r.eng(), r.stop
		defer stop()
		r.start()
		synctest.Wait()
		before, err := former.Read(t.Context(), p.GetName())
		if err != nil {
			t.Fatal(err)
		}
		other, changing2, revision2 := r.plan("2", shop(1400, "a"))
		if err := former.Begin(t.Context(), other, changing2, revision2); !fault.Is(err, fault.Conflict) {
			t.Errorf("a former owner's begin = %v, want a conflict", err)
		}
		if err := former.Act(t.Context(), stackName, p.GetName(), saga.Cancelled{}); !fault.Is(err, fault.Conflict) && !fault.Is(err, fault.Unavailable) {
			t.Errorf("a former owner's cancel = %v, want a conflict, or that it is not the owner", err)
		}
		if former.Stats().Fenced == 0 {
			t.Error("it did not find out that another is the owner")
		}
		after, err := former.Read(t.Context(), p.GetName())
		if err != nil || !proto.Equal(before, after) {
			t.Errorf("%v\n%v %v", before, after, err)
		}
		for id, c := range r.world.commands {
			if c.GetOrigin().GetEpoch() > r.owner.epoch {
				t.Errorf("command %s bears epoch %d", id, c.GetOrigin().GetEpoch())
			}
		}
	})
}

// TestWhatIsOnItsWayIsRefused has an ownership end, by the clock of the owner, while a transition of it is on its way to
// the store: the process was stopped for a while and goes on. By then another is the owner. The store refuses it, and it
// is counted as that.
func TestWhatIsOnItsWayIsRefused(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.world.setScript(func(*busv1.Command, *busv1.Outcome) *busv1.Outcome { return nil })
		name := r.apply("1", shop(1400, "a"))
		synctest.Wait()
		former, stop := r.eng(), r.stop
		before, err := former.Read(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		r.store.SetFaults(memstore.Faults{Before: func(op, key string) error {
			if op != memstore.OpTxn || !strings.HasPrefix(key, "/weft/orchestrator/") {
				return nil
			}
			r.store.SetFaults(memstore.Faults{})
			go stop()
			synctest.Wait() // now its ownership has ended
			r.start()
			return nil
		}})
		if err := former.Act(t.Context(), stackName, name, saga.Cancelled{}); !fault.Is(err, fault.Conflict) {
			t.Errorf("what was on its way: %v, want a conflict", err)
		}
		synctest.Wait()
		if n := former.Stats().Fenced; n != 1 {
			t.Errorf("%d transactions are counted as refused by the fence, want 1", n)
		}
		if after, err := former.Read(t.Context(), name); err != nil || !proto.Equal(before, after) {
			t.Errorf("%v\n%v %v", before, after, err)
		}
	})
}

// TestTakeOverAsks loses every outcome: the next owner asks what became of the steps, and does not wait for news.
func TestTakeOverAsks(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.bus.SetFate(func(m bus.Message) membus.Fate { return membus.Fate{Drop: strings.HasPrefix(m.Subject, "weft.out.")} })
		name := r.apply("1", shop(1400, "a"))
		for range 3 {
			synctest.Wait()
			time.Sleep(time.Second)
			r.end()
			r.start()
		}
		r.bus.SetFate(nil)
		r.await(name, 5*time.Second, done)
		r.stands(standing(1400, "a")...)
		if r.world.queries < 3 {
			t.Errorf("%d questions", r.world.queries)
		}
	})
}

// TestLostMessages loses the first delivery of everything: it is sent again, and all is well in the end.
func TestLostMessages(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		var mu sync.Mutex
		n := 0
		r.bus.SetFate(func(bus.Message) membus.Fate {
			mu.Lock()
			defer mu.Unlock()
			n++
			return membus.Fate{Drop: n%2 == 1, Copies: n % 3}
		})
		r.await(r.apply("1", shop(1400, "a")), 10*time.Minute, done)
		r.stands(standing(1400, "a")...)
	})
}

func TestKeepOnFailure(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.world.setScript(refuse("web", fault.Denied))
		p, changing, revision := r.plan("1", shop(1400, "a"))
		p.KeepOnFailure = true
		if err := r.eng().Begin(t.Context(), p, changing, revision); err != nil {
			t.Fatal(err)
		}
		r.await(p.GetName(), time.Minute, failed)
		r.degraded("net", "db", "web")
		r.world.setScript(nil)
		r.await(r.apply("2", shop(1400, "a")), time.Minute, done) // the same document again mends it
		r.stands(standing(1400, "a")...)
	})
}

// degraded wants a stack that holds just what may exist.
func (r *rig) degraded(want ...string) {
	r.Helper()
	kept, _ := r.read()
	var got []string
	for _, s := range kept.GetStanding() {
		got = append(got, s.GetLocalName())
	}
	if diff := cmp.Diff(want, got); diff != "" || kept.GetStack().GetState() != orchestratorv1.StackState_STACK_STATE_DEGRADED {
		r.Errorf("%s: %s", kept.GetStack().GetState(), diff)
	}
}

// TestAbandonedReleaseIsReplaced abandons an operation while it releases an object. Participants refuse the key from then
// on, so the next operation that wants the object makes another in its place.
func TestAbandonedReleaseIsReplaced(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.await(r.apply("1", shop(1400, "a")), time.Minute, done)
		web := func() *orchestratorv1.StandingResource {
			kept, _ := r.read()
			for _, s := range kept.GetStanding() {
				if s.GetLocalName() == "web" {
					return s
				}
			}
			return nil
		}
		former := web().GetKey()
		r.world.setScript(func(c *busv1.Command, usual *busv1.Outcome) *busv1.Outcome {
			if c.GetRelease() == nil {
				return usual
			}
			return &busv1.Outcome{Origin: c.GetOrigin(), Key: c.GetKey(), Result: busv1.Result_RESULT_FAILED, Fault: &kindv1.Fault{Kind: string(fault.Denied)}}
		})
		without := strings.SplitAfter(shop(1400, "a"), "\n")
		without = slices.DeleteFunc(without, func(line string) bool { return strings.Contains(line, "web") })
		name := r.apply("2", strings.Join(without, ""))
		r.await(name, time.Minute, needsHand)
		if err := r.eng().Act(t.Context(), stackName, name, saga.Abandoned{Reason: "the cloud is away"}); err != nil {
			t.Fatal(err)
		}
		r.await(name, time.Minute, failed)
		if s := web(); s.GetKey() != former || !s.GetReleasing() {
			t.Errorf("what was being released is kept as %v", s)
		}
		r.world.setScript(nil)
		r.await(r.apply("3", shop(1400, "a")), time.Minute, done)
		if s := web(); s.GetKey() == former || s.GetReleasing() {
			t.Errorf("what stands in its place is kept as %v", s)
		}
		r.stands(standing(1400, "a")...)
	})
}

func TestStuckUndoNeedsAHand(t *testing.T) {
	stuckUndo := func(c *busv1.Command, usual *busv1.Outcome) *busv1.Outcome {
		if c.GetOrigin().GetStep() == "db" && c.GetRelease() != nil && !c.GetRelease().GetForget() {
			return &busv1.Outcome{Origin: c.GetOrigin(), Key: c.GetKey(), Result: busv1.Result_RESULT_FAILED, Fault: &kindv1.Fault{Kind: string(fault.Denied)}}
		}
		return refuse("web", fault.Denied)(c, usual)
	}
	for what, verb := range map[string]struct {
		event  saga.Event
		mended bool
		want   orchestratorv1.OperationState
		stands int
	}{
		"retry":   {saga.Retried{}, true, undone, 0},
		"skip":    {saga.Skipped{Step: "db", Reason: "it was deleted by hand"}, false, undone, 0},
		"abandon": {saga.Abandoned{Reason: "the cloud is gone"}, false, failed, 2},
	} {
		t.Run(what, func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) {
				r.world.setScript(stuckUndo)
				name := r.apply("1", shop(1400, "a"))
				r.await(name, time.Minute, needsHand)
				r.degraded("net", "db")
				r.end() // what is held survives a restart
				r.start()
				synctest.Wait()
				if verb.mended {
					r.world.setScript(nil)
				}
				if err := r.eng().Act(t.Context(), stackName, name, verb.event); err != nil {
					t.Fatal(err)
				}
				s := r.await(name, time.Minute, verb.want)
				if n := len(r.world.state()); n != verb.stands {
					t.Errorf("%d objects stand: %v", n, r.world.state())
				}
				kept, _ := r.read()
				if verb.want == undone && kept != nil {
					t.Errorf("the stack is kept: %v", kept)
				}
				if verb.want == failed {
					r.degraded("net", "db")
					if kept, err := r.eng().Read(t.Context(), s.GetName()); err != nil || kept.GetAbandonReason() == "" {
						t.Errorf("the reason is not kept: %v %v", kept, err)
					}
				}
			})
		})
	}
}

func TestNotOwned(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		p, changing, revision := r.plan("1", shop(1400, "a"))
		r.end()
		if err := r.eng().Begin(t.Context(), p, changing, revision); !fault.Is(err, fault.Unavailable) {
			t.Errorf("begin = %v", err)
		}
	})
}

// nobody owns a shard besides the engine itself.
type nobody struct{}

func (nobody) Owner(int) (replica, address string, found bool) { return "", "", false }
func (nobody) Changed() <-chan struct{}                        { return nil }

// TestBeginWhoseAnswerIsLost begins a saga of which the store does not say whether it was kept: it was, or it was not, and
// in the end it runs once.
func TestBeginWhoseAnswerIsLost(t *testing.T) {
	for _, after := range []bool{true, false} {
		run(t, func(t *testing.T, r *rig) {
			p, changing, revision := r.plan("1", shop(1400, "a"))
			reached := r.breakAt(1, false, after)
			router := &engine.Router{Engine: r.eng(), Owners: nobody{}, Replica: "a"}
			if err := router.Begin(t.Context(), p, changing, revision); err != nil {
				t.Fatalf("after the effect %v: %v", after, err)
			}
			if !reached() {
				t.Fatal("nothing was broken")
			}
			r.await(p.GetName(), time.Minute, done)
			r.stands(standing(1400, "a")...)
			if n := len(r.world.ids()); n != 3 {
				t.Errorf("%d commands for 3 steps: %v", n, r.world.ids())
			}
		})
	}
}

// TestHeldWhileItBegins holds a cloud at any moment of a saga's beginning: it is held in the end.
func TestHeldWhileItBegins(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		p, changing, revision := r.plan("1", shop(1400, "a"))
		r.store.SetFaults(memstore.Faults{Before: func(op, key string) error {
			if op == memstore.OpTxn && strings.HasPrefix(key, "/weft/orchestrator/p/") {
				r.eng().Hold([]string{"clouds/lab"}) // while the first transition is written
			}
			return nil
		}})
		if err := r.eng().Begin(t.Context(), p, changing, revision); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		kept, err := r.eng().Read(t.Context(), p.GetName())
		if err != nil || !slices.Equal(kept.GetOperation().GetHeldClouds(), []string{"clouds/lab"}) || len(r.world.state()) != 1 {
			t.Errorf("held at %v, %v stands, %v", kept.GetOperation().GetHeldClouds(), r.world.state(), err)
		}
		r.eng().Hold(nil)
		r.await(p.GetName(), time.Minute, done)
		r.stands(standing(1400, "a")...)
	})
}

// TestBeginAgainWhileItRuns begins a saga whose first answer is lost and that is still at work when it is asked for again.
func TestBeginAgainWhileItRuns(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.world.setScript(func(*busv1.Command, *busv1.Outcome) *busv1.Outcome { return nil }) // it takes its time
		p, changing, revision := r.plan("1", shop(1400, "a"))
		reached := r.breakAt(1, false, true)
		router := &engine.Router{Engine: r.eng(), Owners: nobody{}, Replica: "a"}
		if err := router.Begin(t.Context(), p, changing, revision); err != nil {
			t.Errorf("begin = %v", err)
		}
		if !reached() {
			t.Fatal("nothing was broken")
		}
		r.world.setScript(nil)
		r.await(p.GetName(), time.Minute, done)
	})
}

// TestHeldAsItIsNow tells a saga of a hold that is over by the time it hears of it: nobody would end it any more.
func TestHeldAsItIsNow(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.world.setScript(func(*busv1.Command, *busv1.Outcome) *busv1.Outcome { return nil })
		name := r.apply("1", shop(1400, "a"))
		r.eng().QueueHeld(stackName, name, []string{"clouds/lab"})
		synctest.Wait()
		r.world.setScript(nil)
		r.await(name, time.Minute, done)
	})
}

// TestOldestIsBeingUndone: an undo of which nothing is heard is under way like any other step.
func TestOldestIsBeingUndone(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		fails := refuse("web", fault.Denied)
		r.world.setScript(func(c *busv1.Command, usual *busv1.Outcome) *busv1.Outcome {
			if c.GetOrigin().GetStep() == "db" && c.GetOrigin().GetDirection() == busv1.Direction_DIRECTION_UNDO {
				return nil
			}
			return fails(c, usual)
		})
		name := r.apply("1", shop(1400, "a"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if age := r.eng().Stats().Oldest["compute.weft.cloud/Server"]; age < time.Minute {
			t.Errorf("the oldest step of a server is %s old", age)
		}
		r.world.setScript(nil)
		r.await(name, time.Minute, undone)
	})
}
