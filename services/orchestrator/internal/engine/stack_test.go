package engine

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/plan"
)

// TestEventsOfAStackMadeAgain wants other ids for the events of a stack that was deleted and made again: a stream drops
// what has an id that it has seen.
func TestEventsOfAStackMadeAgain(t *testing.T) {
	e := &Engine{Config: Config{Now: time.Now}}
	ids := map[string]bool{}
	for _, key := range []string{"first", "second"} {
		var made transaction
		s := &orchestratorv1.Stack{Name: "tenants/acme/stacks/shop", Metadata: &kindv1.Metadata{Key: key, Sequence: 1}}
		if err := e.event(&made, stackEvent(s, "changing")); err != nil {
			t.Fatal(err)
		}
		ids[made.messages[0].ID] = true
	}
	if len(ids) != 2 {
		t.Errorf("ids = %v", ids)
	}
}

// TestAbandonedUndoIsKept abandons a saga at which an undo made anew what had been deleted early: what may stand of it is
// kept with the stack, and what may be on its way out is marked.
func TestAbandonedUndoIsKept(t *testing.T) {
	x := func(key string) *orchestratorv1.StandingResource {
		return &orchestratorv1.StandingResource{LocalName: "x", Name: "tenants/acme/servers/shop.x", Key: key}
	}
	former := &orchestratorv1.StackRecord{Stack: &orchestratorv1.Stack{}, Standing: []*orchestratorv1.StandingResource{x("old")}}
	r := &run{resolver: resolverOf(t), plan: &orchestratorv1.SagaPlan{
		Former: former,
		Steps: []*orchestratorv1.PlannedStep{
			{Id: "x/release", Goal: &orchestratorv1.Goal{Resource: x("old"), Release: true}, Undo: &orchestratorv1.Goal{Resource: x("fresh")}},
			{Id: "x", Goal: &orchestratorv1.Goal{Resource: x("new")}, Undo: &orchestratorv1.Goal{Resource: x("new"), Release: true}, Needs: []string{"x/release"}},
		},
	}}
	const (
		done    = orchestratorv1.StepState_STEP_STATE_DONE
		undone  = orchestratorv1.StepState_STEP_STATE_UNDONE
		undoing = orchestratorv1.StepState_STEP_STATE_UNDOING
		failed  = orchestratorv1.StepState_STEP_STATE_FAILED
	)
	for what, c := range map[string]struct {
		steps []*orchestratorv1.StepRecord
		want  map[string]bool // whether it is on its way out, by key
	}{
		"the old one is on its way out": {[]*orchestratorv1.StepRecord{{State: failed, Attempt: 1}, {}}, map[string]bool{"old": true}},
		"the new one is":                {[]*orchestratorv1.StepRecord{{State: done, Attempt: 1}, {State: undoing, Attempt: 1, UndoAttempt: 1}}, map[string]bool{"new": true}},
		"the old one is made anew": {
			[]*orchestratorv1.StepRecord{{State: undoing, Attempt: 1, UndoAttempt: 1}, {State: undone, Attempt: 1, UndoAttempt: 1}},
			map[string]bool{"fresh": false, "old": true},
		},
	} {
		t.Run(what, func(t *testing.T) {
			got, err := partly(r, &orchestratorv1.SagaState{Steps: c.steps}, nil, former)
			if err != nil {
				t.Fatal(err)
			}
			keys := map[string]bool{}
			for _, s := range got.GetStanding() {
				keys[s.GetKey()] = s.GetReleasing()
			}
			if diff := cmp.Diff(c.want, keys); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestSkippedUndoIsKept ends the undo of a saga at which a person skipped that an object is made anew: it ends, and the next
// plan makes sure of the object. Nothing was observed of it, which must not keep the end from being written.
func TestSkippedUndoIsKept(t *testing.T) {
	x := func(key string) *orchestratorv1.StandingResource {
		return &orchestratorv1.StandingResource{LocalName: "x", Name: "tenants/acme/servers/shop.x", Key: key}
	}
	before := x("old")
	before.Resolved = &structpb.Struct{}
	former := &orchestratorv1.StackRecord{Stack: &orchestratorv1.Stack{Metadata: &kindv1.Metadata{}}, Standing: []*orchestratorv1.StandingResource{before}}
	fresh := x("fresh")
	fresh.Resolved = &structpb.Struct{}
	r := &run{plan: &orchestratorv1.SagaPlan{
		Former: former,
		Steps:  []*orchestratorv1.PlannedStep{{Id: "x/release", Goal: &orchestratorv1.Goal{Resource: x("old"), Release: true}, Undo: &orchestratorv1.Goal{Resource: fresh}}},
	}}
	state := &orchestratorv1.SagaState{Steps: []*orchestratorv1.StepRecord{{State: orchestratorv1.StepState_STEP_STATE_SKIPPED, Attempt: 1, UndoAttempt: 1}}}
	got, err := restored(r, state, nil, former)
	if err != nil {
		t.Fatal(err)
	}
	if s := got.GetStanding()[0]; s.GetKey() != "fresh" || s.GetObserved() != nil || s.GetResolved() == nil || !s.GetUnsure() {
		t.Errorf("it is kept as %v", s)
	}
}

// TestAbandonedUndoIsUncertain abandons a saga before what an undo makes anew is known to stand: the next plan must ask for it
// again, so it is marked, but what was sent for it is known.
func TestAbandonedUndoIsUncertain(t *testing.T) {
	x := func(key string) *orchestratorv1.StandingResource {
		return &orchestratorv1.StandingResource{LocalName: "x", Name: "tenants/acme/servers/shop.x", Key: key, Resolved: &structpb.Struct{}}
	}
	former := &orchestratorv1.StackRecord{Stack: &orchestratorv1.Stack{}, Standing: []*orchestratorv1.StandingResource{x("old")}}
	r := &run{plan: &orchestratorv1.SagaPlan{Former: former, Steps: []*orchestratorv1.PlannedStep{
		{Id: "x/release", Goal: &orchestratorv1.Goal{Resource: x("old"), Release: true}, Undo: &orchestratorv1.Goal{Resource: x("fresh")}},
	}}}
	for state, certain := range map[orchestratorv1.StepState]bool{
		orchestratorv1.StepState_STEP_STATE_STUCK: false, orchestratorv1.StepState_STEP_STATE_UNDOING: false, orchestratorv1.StepState_STEP_STATE_UNDONE: true,
	} {
		got, err := partly(r, &orchestratorv1.SagaState{Steps: []*orchestratorv1.StepRecord{{State: state, Attempt: 1, UndoAttempt: 1}}}, nil, former)
		if err != nil {
			t.Fatal(err)
		}
		if s := got.GetStanding()[0]; s.GetKey() != "fresh" || s.GetUnsure() == certain || s.GetResolved() == nil {
			t.Errorf("%s: %v", state, s)
		}
	}
}

// TestAbandonedStepsKeepWhatWasSent abandons a saga on its way forward. What was sent for a server is kept with its
// expressions resolved: the next plan may make anew what they are about, and its undo must bring back what stood all the same.
func TestAbandonedStepsKeepWhatWasSent(t *testing.T) {
	net := &orchestratorv1.StandingResource{LocalName: "net", Name: "tenants/acme/networks/shop.net", Type: "network.weft.cloud/Network", Key: "n", Spec: &structpb.Struct{}}
	spec, err := structpb.NewStruct(map[string]any{"image": "debian", "flavor": "small", "network": net.GetName(), "userData": "mtu ${net.mtu}"})
	if err != nil {
		t.Fatal(err)
	}
	server := &orchestratorv1.StandingResource{LocalName: "x", Name: "tenants/acme/servers/shop.x", Type: "compute.weft.cloud/Server", Key: "x", Spec: spec}
	r := &run{resolver: resolverOf(t, net, server), plan: &orchestratorv1.SagaPlan{Steps: []*orchestratorv1.PlannedStep{
		{Id: "net", Goal: &orchestratorv1.Goal{Resource: net}}, {Id: "x", Goal: &orchestratorv1.Goal{Resource: server}},
	}}}
	state := &orchestratorv1.SagaState{Steps: []*orchestratorv1.StepRecord{
		{State: orchestratorv1.StepState_STEP_STATE_DONE, Attempt: 1}, {State: orchestratorv1.StepState_STEP_STATE_FAILED, Attempt: 2},
	}}
	outputs := map[string]proto.Message{"net": &networkv1.NetworkObserved{Mtu: 1400}}
	got, err := partly(r, state, outputs, &orchestratorv1.StackRecord{Stack: &orchestratorv1.Stack{}})
	if err != nil {
		t.Fatal(err)
	}
	s := got.GetStanding()[1]
	if text := s.GetResolved().GetFields()["userData"].GetStringValue(); text != "mtu 1400" || !s.GetUnsure() {
		t.Errorf("it is kept as %v", s)
	}
}

// TestAbandonedJoinKeepsWhatJoined abandons a saga at the step that has the rest join an object: what it asked for may stand, so
// it is kept, and not what was asked for first.
func TestAbandonedJoinKeepsWhatJoined(t *testing.T) {
	made := &orchestratorv1.StandingResource{LocalName: "x", Name: "tenants/acme/networks/shop.x", Type: "network.weft.cloud/Network", Key: "x", Spec: &structpb.Struct{}}
	whole := proto.CloneOf(made)
	whole.Needs = []string{"one"}
	r := &run{resolver: resolverOf(t, whole), plan: &orchestratorv1.SagaPlan{Steps: []*orchestratorv1.PlannedStep{
		{Id: "x", Goal: &orchestratorv1.Goal{Resource: made}, Undo: &orchestratorv1.Goal{Resource: made, Release: true}},
		{Id: "x/join", Goal: &orchestratorv1.Goal{Resource: whole}, Undo: &orchestratorv1.Goal{Resource: made}, Needs: []string{"x"}},
	}}}
	const done, failed = orchestratorv1.StepState_STEP_STATE_DONE, orchestratorv1.StepState_STEP_STATE_FAILED
	for what, c := range map[string]struct {
		steps []*orchestratorv1.StepRecord
		needs int
	}{
		"begun":     {[]*orchestratorv1.StepRecord{{State: done, Attempt: 1}, {State: failed, Attempt: 1}}, 1},
		"not begun": {[]*orchestratorv1.StepRecord{{State: done, Attempt: 1}, {}}, 0},
	} {
		t.Run(what, func(t *testing.T) {
			got, err := partly(r, &orchestratorv1.SagaState{Steps: c.steps}, nil, &orchestratorv1.StackRecord{Stack: &orchestratorv1.Stack{}})
			if err != nil {
				t.Fatal(err)
			}
			if s := got.GetStanding(); len(s) != 1 || len(s[0].GetNeeds()) != c.needs || !s[0].GetUnsure() {
				t.Errorf("it is kept as %v", s)
			}
		})
	}
}

// resolverOf makes a resolver of the resources of a stack.
func resolverOf(t *testing.T, standing ...*orchestratorv1.StandingResource) *plan.Resolver {
	t.Helper()
	r, err := plan.NewResolver(simKinds(t), standing)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
