package rehearse

import (
	"context"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// failing makes one step fail after it was done: of the outcomes that the services tell the engine over the bus, it turns
// the step's success into a failure. The services and the engine are as they always are.
type failing struct {
	mu    sync.Mutex
	step  string
	late  bool // the step cannot be undone, so it fails in a way that passes
	times int  // how often it has struck
}

// arm chooses the step that fails from now on; nil for none.
func (f *failing) arm(step *orchestratorv1.StepPreview) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.step, f.late, f.times = step.GetId(), step.GetUndoAction() == orchestratorv1.UndoAction_UNDO_ACTION_NONE, 0
}

// struck tells whether the step has failed since it was chosen.
func (f *failing) struck() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.times > 0
}

// around puts it between the services and their bus.
func (f *failing) around(b bus.Bus) bus.Bus { return &failingBus{Bus: b, failing: f} }

type failingBus struct {
	bus.Bus
	failing *failing
}

// Publish publishes the messages, with the outcome of the chosen step turned round.
func (b *failingBus) Publish(ctx context.Context, messages ...bus.Message) error {
	out := make([]bus.Message, len(messages))
	for i, m := range messages {
		turned, err := b.failing.turn(m)
		if err != nil {
			return err
		}
		out[i] = turned
	}
	return b.Bus.Publish(ctx, out...)
}

// turn gives a message as it is to be sent. The message keeps its id, so that it is turned the same way when it is sent
// again.
func (f *failing) turn(m bus.Message) (bus.Message, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.step == "" || !strings.HasPrefix(m.Subject, outcomes) {
		return m, nil
	}
	o := &busv1.Outcome{}
	if err := proto.Unmarshal(m.Data, o); err != nil {
		return m, fault.As(fault.Internal, fault.Wrap(err, "decode an outcome"))
	}
	done := o.GetResult() == busv1.Result_RESULT_READY || o.GetResult() == busv1.Result_RESULT_RELEASED
	if o.GetOrigin().GetStep() != f.step || o.GetOrigin().GetDirection() != busv1.Direction_DIRECTION_DO || !done {
		return m, nil
	}
	kind := fault.Internal
	if f.late {
		kind = fault.Unavailable
		if o.GetOrigin().GetAttempt() > 1 {
			return m, nil
		}
	}
	f.times++
	o.Result, o.Observed = busv1.Result_RESULT_FAILED, nil
	o.Fault = &kindv1.Fault{Kind: string(kind), Message: "rehearsal: " + f.step + " was done, and fails all the same", Time: timestamppb.Now()}
	data, err := proto.Marshal(o)
	if err != nil {
		return m, fault.As(fault.Internal, fault.Wrap(err, "encode an outcome"))
	}
	m.Data = data
	return m, nil
}

// outcomes is what the subjects of outcomes begin with; bus.OutcomeQueue declares them.
const outcomes = "weft.out."
