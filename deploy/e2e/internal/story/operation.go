package story

import (
	"slices"
	"strings"
	"testing"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	_ "google.golang.org/genproto/googleapis/rpc/errdetails" // errors of operations bear them
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	_ "github.com/weftcloud/weft/proto/gen/weft/compute/v1" // answers of operations bear the kinds
	_ "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
)

// Decode reads what a command wrote with -o json.
func (r Result) Decode(t testing.TB, into proto.Message) {
	t.Helper()
	if err := protojson.Unmarshal([]byte(r.Out), into); err != nil {
		t.Fatalf("weft %q wrote no %s: %s\n%s\n%s", r.Args, into.ProtoReflect().Descriptor().FullName(), err, r.Out, r.Err)
	}
}

// Operation is an operation as a command showed it.
type Operation struct {
	*orchestratorv1.OperationMetadata
	// Long is the operation in the API's own shape.
	Long *longrunningpb.Operation
}

// Operation reads the operation that a command wrote with -o json.
func (r Result) Operation(t testing.TB) *Operation {
	t.Helper()
	long := &longrunningpb.Operation{}
	r.Decode(t, long)
	return ReadOperation(t, long)
}

// ReadOperation reads an operation that the API gave.
func ReadOperation(t testing.TB, long *longrunningpb.Operation) *Operation {
	t.Helper()
	op := &Operation{OperationMetadata: &orchestratorv1.OperationMetadata{}, Long: long}
	if err := op.Long.GetMetadata().UnmarshalTo(op.OperationMetadata); err != nil {
		t.Fatal(err)
	}
	return op
}

// ID is the last part of the operation's name.
func (o *Operation) ID() string { return o.GetName()[strings.LastIndexByte(o.GetName(), '/')+1:] }

// Is tells whether the operation is in a state, e.g. DONE.
func (o *Operation) Is(state string) bool { return o.State() == state }

// State is where it stands, e.g. DONE or NEEDS_HAND.
func (o *Operation) State() string {
	return strings.TrimPrefix(o.GetState().String(), "OPERATION_STATE_")
}

// Step gives a step; nil if there is none of the id.
func (o *Operation) Step(id string) *orchestratorv1.StepStatus {
	i := slices.IndexFunc(o.GetSteps(), func(s *orchestratorv1.StepStatus) bool { return s.GetId() == id })
	if i < 0 {
		return nil
	}
	return o.GetSteps()[i]
}

// StepState is where a step stands, e.g. RUNNING; empty if there is none of the id.
func (o *Operation) StepState(id string) string {
	s := o.Step(id)
	if s == nil {
		return ""
	}
	return strings.TrimPrefix(s.GetState().String(), "STEP_STATE_")
}

// Op reads an operation by the command line.
func (i *Installation) Op(t testing.TB, id string) *Operation {
	t.Helper()
	return i.Must(t, "ops", "get", id, "-o", "json").Operation(t)
}

// AwaitOp waits until an operation is as wanted, and gives it.
func (i *Installation) AwaitOp(t testing.TB, id, what string, wanted func(*Operation) bool) *Operation {
	t.Helper()
	var op *Operation
	Await(t, what, func() bool {
		op = i.Op(t, id)
		return wanted(op)
	})
	return op
}

// AwaitState waits until an operation is in a state.
func (i *Installation) AwaitState(t testing.TB, id, state string) *Operation {
	t.Helper()
	return i.AwaitOp(t, id, "operation "+id+" is "+state, func(o *Operation) bool { return o.Is(state) })
}

// Apply applies a document and waits; it must end in state. More arguments may follow.
func (i *Installation) Apply(t testing.TB, document, state string, args ...string) *Operation {
	t.Helper()
	path := i.Document(t, "stack.yaml", document)
	r := i.Weft(t, append([]string{"apply", "-f", path, "--wait", "-o", "json"}, args...)...)
	return r.ended(t, state)
}

// Destroy destroys a stack and waits; it must end in state.
func (i *Installation) Destroy(t testing.TB, name, state string, args ...string) *Operation {
	t.Helper()
	return i.Weft(t, append([]string{"destroy", name, "--wait", "-o", "json"}, args...)...).ended(t, state)
}

func (r Result) ended(t testing.TB, state string) *Operation {
	t.Helper()
	op := r.Operation(t)
	if !op.Is(state) {
		t.Fatalf("weft %q: the operation is %s, want %s\n%s", r.Args, op.State(), state, r.Err)
	}
	if want := map[bool]int{true: 0, false: 1}[state == "DONE"]; r.Code != want {
		t.Fatalf("weft %q: exit code %d of an operation that is %s, want %d\n%s", r.Args, r.Code, state, want, r.Err)
	}
	return op
}

// Ended checks the end of a command that ran in the background, and gives its operation.
func (r Result) Ended(t testing.TB, state string) *Operation {
	t.Helper()
	return r.ended(t, state)
}

// Ledger lists the ledger, objects at the clouds without a record included.
func (i *Installation) Ledger(t testing.TB) *orchestratorv1.ListLedgerEntriesResponse {
	t.Helper()
	out := &orchestratorv1.ListLedgerEntriesResponse{}
	i.Must(t, "ledger", "--orphans", "-o", "json").Decode(t, out)
	return out
}

// NothingLeft fails the test unless the ledger is empty and the clouds hold exactly what they held before, by id.
func (i *Installation) NothingLeft(t testing.TB, before Inventory) {
	t.Helper()
	for _, e := range i.Ledger(t).GetEntries() {
		t.Errorf("left in the ledger: %s %s (orphan: %t)", e.GetName(), e.GetProviderId(), e.GetOrphan())
	}
	i.Cloud.Same(t, before)
}

// Stack reads a stack.
func (i *Installation) Stack(t testing.TB, name string) *orchestratorv1.Stack {
	t.Helper()
	out := &orchestratorv1.Stack{}
	i.Must(t, "get", "stack", name, "-o", "json").Decode(t, out)
	return out
}

// Plan plans a document that is sound.
func (i *Installation) Plan(t testing.TB, document string) *orchestratorv1.Plan {
	t.Helper()
	out := &orchestratorv1.Plan{}
	i.Must(t, "plan", "-f", i.Document(t, "stack.yaml", document), "-o", "json").Decode(t, out)
	return out
}

// ChangeName is a kind of change without its prefix, e.g. IN_PLACE.
func ChangeName(c kindv1.Change) string { return strings.TrimPrefix(c.String(), "CHANGE_") }
