package enginebench

import (
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// steps is how many steps a saga has.
const steps = 10

// shape is the form of a saga of ten steps: a network, and servers on it.
type shape struct {
	name string
	// needs gives the steps that a step needs.
	needs func(step int) []int
	// feeds says that each server is given something that was observed of the network, by an expression.
	feeds bool
	// fails says that the last step fails, so that all that was begun is undone.
	fails bool
	// inboxOnly says that participants answer a command in the transaction that keeps it.
	inboxOnly bool
	// end is how it ends.
	end orchestratorv1.OperationState
}

// shapes are what is measured.
var shapes = []shape{
	{name: "sequence", needs: chain, end: orchestratorv1.OperationState_OPERATION_STATE_DONE},
	{name: "graph", needs: levels, end: orchestratorv1.OperationState_OPERATION_STATE_DONE},
	{name: "undo", needs: chain, fails: true, end: orchestratorv1.OperationState_OPERATION_STATE_UNDONE},
	{name: "expressions", needs: levels, feeds: true, end: orchestratorv1.OperationState_OPERATION_STATE_DONE},
}

// inboxOnly gives the same shapes with participants that do nothing but their inbox.
func inboxOnly() []shape {
	var out []shape
	for _, s := range shapes {
		s.name, s.inboxOnly = s.name+", inbox only", true
		out = append(out, s)
	}
	return out
}

// chain lets each step need the one before it.
func chain(step int) []int {
	if step == 0 {
		return nil
	}
	return []int{step - 1}
}

// levels makes three levels: one step, four that need it, and five that each need two of these.
func levels(step int) []int {
	switch {
	case step == 0:
		return nil
	case step < 5:
		return []int{0}
	default:
		return []int{1 + step%4, 1 + (step+1)%4}
	}
}

// saga gives the plan of a saga that nothing stood before of, and the stack as it begins. n tells it from all others.
func (s shape) saga(n int64, now time.Time) (*orchestratorv1.SagaPlan, *orchestratorv1.StackRecord) {
	tenant, id := "tenants/bench", strconv.FormatInt(n, 10)
	p := &orchestratorv1.SagaPlan{
		Name: tenant + "/operations/" + uuid.Must(uuid.NewV7()).String(), Stack: tenant + "/stacks/s" + id, Action: orchestratorv1.Action_ACTION_APPLY,
		CreateTime: timestamppb.New(now), Deadline: timestamppb.New(now.Add(time.Hour)),
	}
	p.Result = &orchestratorv1.Stack{Name: p.GetStack(), Document: "kind: Stack\nname: s" + id + "\n"}
	for step := range steps {
		resource := s.resource(tenant, id, step)
		planned := &orchestratorv1.PlannedStep{
			Id: resource.GetLocalName(), Change: kindv1.Change_CHANGE_CREATE,
			Goal: &orchestratorv1.Goal{Resource: resource}, Undo: &orchestratorv1.Goal{Resource: resource, Release: true},
		}
		for _, need := range s.needs(step) {
			planned.Needs = append(planned.Needs, localName(need))
		}
		resource.Needs = planned.GetNeeds()
		for _, need := range p.GetSteps() {
			if step > 0 && need.GetId() == localName(0) {
				resource.References = map[string]string{need.GetGoal().GetResource().GetName(): need.GetGoal().GetResource().GetKey()}
			}
		}
		p.Steps, p.Standing = append(p.Steps, planned), append(p.Standing, resource)
	}
	changing := &orchestratorv1.StackRecord{Stack: &orchestratorv1.Stack{
		Name: p.GetStack(), Document: p.GetResult().GetDocument(), State: orchestratorv1.StackState_STACK_STATE_CHANGING, Operation: p.GetName(),
		Metadata: &kindv1.Metadata{Key: uuid.Must(uuid.NewV7()).String(), CreateTime: timestamppb.New(now), Sequence: 1},
	}}
	return p, changing
}

func localName(step int) string {
	if step == 0 {
		return "net"
	}
	return fmt.Sprintf("srv%d", step)
}

// resource gives the resource of a step: the first is a network, the others are servers on it.
func (s shape) resource(tenant, id string, step int) *orchestratorv1.StandingResource {
	out := &orchestratorv1.StandingResource{
		LocalName: localName(step), Key: uuid.Must(uuid.NewV7()).String(), Cloud: "clouds/lab", Labels: map[string]string{"stack": "s" + id},
	}
	network := tenant + "/networks/s" + id + "-net"
	if step == 0 {
		out.Name, out.Type = network, "network.weft.cloud/Network"
		out.Spec = &structpb.Struct{Fields: map[string]*structpb.Value{"mtu": structpb.NewNumberValue(1400)}}
		return out
	}
	out.Name, out.Type = tenant+"/servers/s"+id+"-"+out.GetLocalName(), "compute.weft.cloud/Server"
	out.Spec = &structpb.Struct{Fields: map[string]*structpb.Value{
		"image": structpb.NewStringValue("debian"), "flavor": structpb.NewStringValue("small"), "network": structpb.NewStringValue(network),
	}}
	if s.feeds {
		out.Spec.Fields["userData"] = structpb.NewStringValue("mtu ${net.mtu}")
	}
	if s.fails && step == steps-1 {
		out.Spec.Fields["metadata"] = structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{refuse: structpb.NewStringValue("yes")}})
	}
	return out
}
