package plan

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/resource"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// DestroyInput is all that the plan of a destruction depends on.
type DestroyInput struct {
	// Record is the stack as it stands. The document plays no part.
	Record *orchestratorv1.StackRecord
	// Kinds are all kinds.
	Kinds *resource.Registry
	// Operation is the full name of the operation.
	Operation string
	// Now is the time; Timeout how long the saga may take, 0 for 30 minutes.
	Now     time.Time
	Timeout time.Duration
	// Reclaim is what becomes of the data of all resources, on a person's word; unspecified means what their specs say.
	Reclaim kindv1.Reclaim
}

// Destroy makes the saga that takes a stack away: every step is a release, what needs an object goes before it, and
// nothing is undone.
func Destroy(in DestroyInput) (*orchestratorv1.SagaPlan, error) {
	g := &graph{steps: map[string]*orchestratorv1.PlannedStep{}}
	former, release := map[string]*orchestratorv1.StandingResource{}, map[string]string{}
	for _, s := range in.Record.GetStanding() {
		if s.GetComposite() {
			continue
		}
		former[s.GetLocalName()], release[s.GetLocalName()] = s, s.GetLocalName()
		g.add(&orchestratorv1.PlannedStep{
			Id: s.GetLocalName(), Change: remove, Retriable: true, Goal: &orchestratorv1.Goal{Resource: proto.CloneOf(s), Release: true, Reclaim: in.Reclaim},
		})
	}
	releaseNeeds(g, in.Kinds, former, release)
	saga := sagaPlan(in.Operation, in.Record.GetStack().GetName(), orchestratorv1.Action_ACTION_DESTROY, in.Now, in.Timeout)
	saga.Steps, saga.Former = g.sorted(), in.Record
	saga.Priority = busv1.Priority_PRIORITY_INTERACTIVE // it frees what others may wait for
	return saga, nil
}
