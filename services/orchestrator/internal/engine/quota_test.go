package engine

import (
	"testing"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/quota"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// TestUncertainChangesDrawTheLarger ends sagas that change a volume in place, smaller or larger, where the provider refused the
// change or nobody knows: what is drawn is the larger, since either may stand.
func TestUncertainChangesDrawTheLarger(t *testing.T) {
	const (
		failed  = orchestratorv1.StepState_STEP_STATE_FAILED
		skip    = orchestratorv1.StepState_STEP_STATE_SKIPPED
		done    = orchestratorv1.StepState_STEP_STATE_DONE
		undone  = orchestratorv1.StepState_STEP_STATE_UNDONE
		ended   = orchestratorv1.OperationState_OPERATION_STATE_DONE
		back    = orchestratorv1.OperationState_OPERATION_STATE_UNDONE
		abandon = orchestratorv1.OperationState_OPERATION_STATE_FAILED
	)
	for what, c := range map[string]struct {
		from, to int64
		state    orchestratorv1.OperationState
		step     *orchestratorv1.StepRecord
		want     int64
	}{
		"abandoned, smaller":              {100, 1, abandon, &orchestratorv1.StepRecord{State: failed, Attempt: 1}, 100},
		"abandoned, larger":               {1, 100, abandon, &orchestratorv1.StepRecord{State: failed, Attempt: 1}, 100},
		"skipped, smaller":                {100, 1, ended, &orchestratorv1.StepRecord{State: skip, Attempt: 1}, 100},
		"done, smaller":                   {100, 1, ended, &orchestratorv1.StepRecord{State: done, Attempt: 1}, 1},
		"undo skipped of what was larger": {1, 100, back, &orchestratorv1.StepRecord{State: skip, Attempt: 1, UndoAttempt: 1}, 100},
		"undone":                          {1, 100, back, &orchestratorv1.StepRecord{State: undone, Attempt: 1, UndoAttempt: 1}, 1},
	} {
		t.Run(what, func(t *testing.T) {
			x := func(size int64) *orchestratorv1.StandingResource {
				return &orchestratorv1.StandingResource{
					LocalName: "x", Name: "tenants/acme/volumes/shop.x", Type: "storage.weft.cloud/Volume", Key: "x",
					Spec: &structpb.Struct{}, Resolved: &structpb.Struct{}, Draws: quota.Amounts{quota.VolumeGiB: size},
				}
			}
			former := &orchestratorv1.StackRecord{Stack: &orchestratorv1.Stack{Metadata: &kindv1.Metadata{}}, Standing: []*orchestratorv1.StandingResource{x(c.from)}}
			r := &run{resolver: resolverOf(t), plan: &orchestratorv1.SagaPlan{
				Former: former, Standing: []*orchestratorv1.StandingResource{x(c.to)}, Result: &orchestratorv1.Stack{},
				Steps: []*orchestratorv1.PlannedStep{{Id: "x", Goal: &orchestratorv1.Goal{Resource: x(c.to)}, Undo: &orchestratorv1.Goal{Resource: x(c.from)}}},
			}}
			e := &Engine{}
			got, err := e.conclusion(r, &orchestratorv1.SagaState{State: c.state, Steps: []*orchestratorv1.StepRecord{c.step}}, nil, former)
			if err != nil {
				t.Fatal(err)
			}
			if n := drawn(got.GetStanding())[quota.VolumeGiB]; n != c.want {
				t.Errorf("%d are drawn, want %d", n, c.want)
			}
		})
	}
}
