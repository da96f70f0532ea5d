package stack

import (
	"testing"

	"google.golang.org/protobuf/types/known/structpb"

	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/plan"
)

// TestDrawsOfADeletion records what a plan draws that deletes something after the pivot, which has no undo, from a stack with
// a composite resource, which has no key: neither is the other's.
func TestDrawsOfADeletion(t *testing.T) {
	made := &orchestratorv1.StandingResource{Name: "tenants/acme/servers/shop.web", Key: "w"}
	result := &plan.Result{
		Saga: &orchestratorv1.SagaPlan{
			Former: &orchestratorv1.StackRecord{Standing: []*orchestratorv1.StandingResource{{LocalName: "net", Composite: true, Spec: &structpb.Struct{}}}},
			Steps: []*orchestratorv1.PlannedStep{
				{Id: "web", Goal: &orchestratorv1.Goal{Resource: made}, Undo: &orchestratorv1.Goal{Resource: made, Release: true}},
				{Id: "old/release", Goal: &orchestratorv1.Goal{Resource: &orchestratorv1.StandingResource{Key: "o"}, Release: true}},
			},
		},
		Items: map[string][]*participantv1.Item{"compute": {{Name: made.GetName(), Key: "w", Spec: &structpb.Struct{}}}},
	}
	recordDraws(result, map[string]*participantv1.Draw{made.GetName(): {Name: made.GetName(), Amounts: map[string]int64{"servers": 1}}})
	if got := made.GetDraws()["servers"]; got != 1 {
		t.Errorf("the server draws %d servers, want 1", got)
	}
}

// TestDrawsOfWhatIsGone records what a plan draws that makes anew what is gone, and so draws nothing any more: if its undo makes
// the former one anew, that draws as much as what takes its place.
func TestDrawsOfWhatIsGone(t *testing.T) {
	x := func(key string) *orchestratorv1.StandingResource {
		return &orchestratorv1.StandingResource{Name: "tenants/acme/servers/shop.web", Key: key}
	}
	fresh := x("fresh")
	result := &plan.Result{
		Saga: &orchestratorv1.SagaPlan{
			Former: &orchestratorv1.StackRecord{Standing: []*orchestratorv1.StandingResource{x("old")}},
			Steps:  []*orchestratorv1.PlannedStep{{Id: "web/release", Goal: &orchestratorv1.Goal{Resource: x("old"), Release: true}, Undo: &orchestratorv1.Goal{Resource: fresh}}},
		},
		Items: map[string][]*participantv1.Item{"compute": {{Name: fresh.GetName(), Key: "new", Spec: &structpb.Struct{}}}},
	}
	recordDraws(result, map[string]*participantv1.Draw{fresh.GetName(): {Name: fresh.GetName(), Amounts: map[string]int64{"servers": 1}}})
	if got := fresh.GetDraws()["servers"]; got != 1 {
		t.Errorf("what the undo makes anew draws %d servers, want 1", got)
	}
}
