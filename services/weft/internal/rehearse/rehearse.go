// Package rehearse carries a plan out in a simulated cloud before it is carried out in a real one, and makes it fail after
// each of its steps, to see that the undo does what the plan tells of it.
//
// # How a rehearsal goes
//
//  1. A private installation is started: all services, etcd, NATS and the sandbox, in this process, on the loopback, with
//     its data in a temporary folder. No cloud and no data of the person are touched; their installation is only read.
//  2. What the documents name is brought there (furnish.go): the tenant, clouds of the same names, secrets of the same
//     names with made-up values, images, flavors, external networks and namespaces. What cannot be brought is refused
//     by its place in the document.
//  3. If the stack stands, its last document is applied, so that the plan is the same change of the same stack.
//  4. For each step of the plan the document is applied, and the step fails after it was done: the bus of the private
//     installation (failing.go) turns the news of its success into that of a failure. All else is the product's own path:
//     the object exists at the cloud, and the engine must undo it with all others that were begun.
//  5. When the operation has ended, the cloud's inventory is held against the one before, and every step against what the
//     plan told of it (judge.go). Where the stack is not as it was, it is made anew for the next step.
//  6. Last comes a run without a failure.
//
// A step after the pivot cannot be undone: it fails once, in a way that passes, and the run must end with all done.
//
// The private installation and its folder are gone when Run returns, however it ends, unless the process is killed.
package rehearse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/weft/internal/contextfile"
)

// Installation is how a private installation is to run.
type Installation struct {
	// Dir holds its data.
	Dir string
	// ContextPath is the context file that it writes when it is ready.
	ContextPath string
	// Bus is put around the bus of its services.
	Bus func(bus.Bus) bus.Bus
}

// Config is all that a rehearsal needs.
type Config struct {
	// Install runs a private installation with a sandbox until ctx ends.
	Install func(ctx context.Context, in Installation) error
	// Dial connects to the installation of a context file; the caller closes the connection.
	Dial func(file *contextfile.File) (*grpc.ClientConn, error)
	// Person is the connection to the person's own installation, which is only read.
	Person *grpc.ClientConn
	// Parent is the tenant, as a full name.
	Parent string
	// Document is the document, DocumentName what messages call it.
	Document, DocumentName string
	// Parameters are values over the document's.
	Parameters *structpb.Struct
	// Timeout bounds each run; 0 means two minutes.
	Timeout time.Duration
	// Say tells a person how far it is.
	Say func(format string, args ...any)
}

// defaultTimeout is far more than a run at the sandbox's quickest takes.
const defaultTimeout = 2 * time.Minute

// readyTimeout is how long the private installation may take to get ready.
const readyTimeout = time.Minute

// stage is a rehearsal while it runs.
type stage struct {
	cfg   Config
	conn  *grpc.ClientConn // to the private installation
	file  *contextfile.File
	cloud *sandbox
	fail  *failing
	// former is the stack as it stands at the person's installation; nil if it does not.
	former *orchestratorv1.Stack
	// stack is the stack's full name.
	stack string
	// out is what came of it so far.
	out *orchestratorv1.Rehearsal
	// done is what the cloud held after a run that was done; nil before the first.
	done []string
}

// Run rehearses a document. The error is a status with a Problems detail where parts of the document cannot be
// rehearsed; Unavailable where the private installation does not start. A rehearsal that shows a difference is no error.
func Run(ctx context.Context, cfg Config) (report *orchestratorv1.Rehearsal, err error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	began := time.Now()
	dir, err := os.MkdirTemp("", "weft-rehearsal-")
	if err != nil {
		return nil, fault.Wrap(err, "make a folder for the rehearsal")
	}
	defer func() { err = errors.Join(err, fault.Wrap(os.RemoveAll(dir), "remove the rehearsal's folder %s", dir)) }()
	s := &stage{cfg: cfg, fail: &failing{}, out: &orchestratorv1.Rehearsal{AsTold: true}}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	in := Installation{Dir: filepath.Join(dir, "data"), ContextPath: filepath.Join(dir, "context.yaml"), Bus: s.fail.around}
	go func() { ended <- cfg.Install(running, in) }()
	defer func() {
		stop()
		err = errors.Join(err, fault.Wrap(<-ended, "end the private installation"))
	}()
	if err := s.await(running, in.ContextPath, ended); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.conn.Close()) }()
	if err := s.play(ctx); err != nil {
		return nil, err
	}
	s.out.Duration = durationpb.New(time.Since(began))
	return s.out, nil
}

// await waits until the private installation has written its context, and connects to it.
func (s *stage) await(ctx context.Context, path string, ended chan error) (err error) {
	s.cfg.Say("starting a private installation with a simulated cloud")
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		if s.file, err = contextfile.Load(path); err == nil {
			break
		}
		select {
		case err := <-ended:
			ended <- nil
			if err == nil {
				err = fault.New(fault.Unavailable, "it ended at once")
			}
			return fault.Wrap(err, "start the private installation")
		case <-ctx.Done():
			return fault.New(fault.Unavailable, "the private installation was not ready within %s", readyTimeout)
		case <-time.After(20 * time.Millisecond):
		}
	}
	s.cloud = newSandbox(s.file.Sandbox)
	s.conn, err = s.cfg.Dial(s.file)
	return fault.Wrap(err, "connect to the private installation")
}

// play furnishes the private installation, and makes the runs.
func (s *stage) play(ctx context.Context) error {
	if err := s.furnish(ctx); err != nil {
		return err
	}
	if err := s.reset(ctx, false); err != nil {
		return err
	}
	plan, err := s.plan(ctx)
	if err != nil {
		return err
	}
	s.out.Plan = plan
	steps := plan.GetSteps()
	for i, step := range steps {
		s.cfg.Say("%d/%d  failing after %s", i+1, len(steps)+1, step.GetId())
		if err := s.run(ctx, int32(i+1), step); err != nil {
			return fault.Wrap(err, "rehearse a failure after %s", step.GetId())
		}
	}
	s.cfg.Say("%d/%d  without a failure", len(steps)+1, len(steps)+1)
	return fault.Wrap(s.run(ctx, 0, nil), "rehearse without a failure")
}

// run makes one run; step is what fails, nil for nothing.
func (s *stage) run(ctx context.Context, number int32, step *orchestratorv1.StepPreview) error {
	if err := s.same(ctx); err != nil {
		return err
	}
	before, err := s.look(ctx)
	if err != nil {
		return err
	}
	s.fail.arm(step)
	defer s.fail.arm(nil)
	end, order, err := s.apply(ctx, s.cfg.Document, s.cfg.Parameters)
	if err != nil {
		return err
	}
	run := &orchestratorv1.RehearsalRun{Number: number, Step: step.GetId(), State: end.GetState()}
	s.out.Runs = append(s.out.Runs, run)
	if err := s.judge(ctx, run, &verdict{step: step, end: end, order: order, before: before, struck: s.fail.struck()}); err != nil {
		return err
	}
	run.AsTold = run.GetInventoryEqual() && len(run.GetDifferences()) == 0
	s.out.AsTold = s.out.GetAsTold() && run.GetAsTold()
	if end.GetState() == orchestratorv1.OperationState_OPERATION_STATE_NEEDS_HAND {
		if _, err := orchestratorv1.NewOperationServiceClient(s.conn).AbandonOperation(ctx, &orchestratorv1.AbandonOperationRequest{Name: end.GetName(), Reason: "rehearsal"}); err != nil {
			return fault.Wrap(fault.FromStatus(err), "abandon %s", end.GetName())
		}
	}
	return nil
}

// same makes sure that the plan is still the one that is rehearsed; else the stack is made anew as it was.
func (s *stage) same(ctx context.Context) error {
	if plan, err := s.plan(ctx); err == nil && sameSteps(plan, s.out.GetPlan()) {
		return nil
	}
	if err := s.reset(ctx, true); err != nil {
		return err
	}
	plan, err := s.plan(ctx)
	if err != nil {
		return err
	}
	if !sameSteps(plan, s.out.GetPlan()) {
		return fault.New(fault.Internal, "the stack was made anew, and the plan is another one")
	}
	return nil
}

func sameSteps(a, b *orchestratorv1.Plan) bool {
	if len(a.GetSteps()) != len(b.GetSteps()) {
		return false
	}
	for i, s := range a.GetSteps() {
		if t := b.GetSteps()[i]; s.GetId() != t.GetId() || s.GetUndo() != t.GetUndo() || s.GetDoing() != t.GetDoing() {
			return false
		}
	}
	return true
}

// reset brings the private stack to where the person's stands; away first takes what is there away.
func (s *stage) reset(ctx context.Context, away bool) error {
	if away {
		if err := s.destroy(ctx); err != nil {
			return err
		}
	}
	if s.former == nil {
		return nil
	}
	s.cfg.Say("bringing the stack to where it stands")
	end, _, err := s.apply(ctx, s.former.GetDocument(), s.former.GetParameters())
	if err != nil {
		return fault.Wrap(err, "bring the stack to where it stands")
	}
	if end.GetState() != orchestratorv1.OperationState_OPERATION_STATE_DONE {
		return fault.New(fault.Precondition, "the stack as it stands cannot be made in the simulated cloud: %s", end.GetFault().GetMessage())
	}
	return nil
}

// plan plans the document in the private installation.
func (s *stage) plan(ctx context.Context) (*orchestratorv1.Plan, error) {
	plan, err := orchestratorv1.NewStackServiceClient(s.conn).PlanStack(ctx, &orchestratorv1.PlanStackRequest{
		Parent: s.cfg.Parent, Document: s.cfg.Document, DocumentName: s.cfg.DocumentName, Parameters: s.cfg.Parameters,
	})
	if err != nil {
		return nil, fault.Wrap(fault.FromStatus(err), "plan %s in the simulated cloud", s.cfg.DocumentName)
	}
	if len(plan.GetProblems()) > 0 {
		return nil, unrehearsable(plan.GetProblems())
	}
	s.stack = plan.GetStack()
	return plan, nil
}

// apply applies a document, and gives the operation as it ended and the steps in the order in which they were undone.
func (s *stage) apply(ctx context.Context, document string, parameters *structpb.Struct) (*orchestratorv1.OperationMetadata, []string, error) {
	op, err := orchestratorv1.NewStackServiceClient(s.conn).ApplyStack(ctx, &orchestratorv1.ApplyStackRequest{
		Parent: s.cfg.Parent, Document: document, DocumentName: s.cfg.DocumentName, Parameters: parameters, Timeout: durationpb.New(s.cfg.Timeout),
	})
	if err != nil {
		return nil, nil, fault.Wrap(fault.FromStatus(err), "apply %s", s.cfg.DocumentName)
	}
	return s.watch(ctx, op)
}

// destroy takes the private stack away, if it stands.
func (s *stage) destroy(ctx context.Context) error {
	op, err := orchestratorv1.NewStackServiceClient(s.conn).DeleteStack(ctx, &orchestratorv1.DeleteStackRequest{Name: s.stack, Timeout: durationpb.New(s.cfg.Timeout)})
	if err = fault.FromStatus(err); fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return fault.Wrap(err, "take away %s", s.stack)
	}
	end, _, err := s.watch(ctx, op)
	if err == nil && end.GetState() != orchestratorv1.OperationState_OPERATION_STATE_DONE {
		return fault.New(fault.Precondition, "the stack of the last run cannot be taken away: %s", end.GetFault().GetMessage())
	}
	return err
}

// watch follows an operation until it has ended or needs a hand.
func (s *stage) watch(ctx context.Context, op *longrunningpb.Operation) (*orchestratorv1.OperationMetadata, []string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := orchestratorv1.NewOperationServiceClient(s.conn).WatchOperation(ctx, &orchestratorv1.WatchOperationRequest{Name: op.GetName()})
	if err != nil {
		return nil, nil, fault.Wrap(fault.FromStatus(err), "watch %s", op.GetName())
	}
	seen := undoOrder{}
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil, nil, fault.Wrap(fault.FromStatus(err), "watch %s", op.GetName())
		}
		seen.add(m.GetOperation())
		switch m.GetOperation().GetState() {
		case orchestratorv1.OperationState_OPERATION_STATE_RUNNING, orchestratorv1.OperationState_OPERATION_STATE_UNDOING, orchestratorv1.OperationState_OPERATION_STATE_UNSPECIFIED:
		default:
			return m.GetOperation(), seen.order, nil
		}
	}
}

// Summary says in one line what a rehearsal showed.
func Summary(r *orchestratorv1.Rehearsal) string {
	bad := 0
	for _, run := range r.GetRuns() {
		if !run.GetAsTold() {
			bad++
		}
	}
	took := r.GetDuration().AsDuration().Round(100 * time.Millisecond)
	if bad > 0 {
		return fmt.Sprintf("%d of %d runs ended otherwise than the plan tells (%s)", bad, len(r.GetRuns()), took)
	}
	return fmt.Sprintf("all %d runs ended as the plan tells (%s)", len(r.GetRuns()), took)
}
