// Package operation serves google.longrunning.Operations and what people can do with an operation beyond it.
//
// An operation is a saga, kept by the engine, or the change of a single resource, kept by the service that owns its kind;
// its name tells which (see service.ServiceOfOperation).
package operation

import (
	"context"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/saga"
	"github.com/weftcloud/weft/pkg/service"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/engine"
	"github.com/weftcloud/weft/services/orchestrator/internal/frontdoor"
)

// Server serves both services.
type Server struct {
	longrunningpb.UnimplementedOperationsServer
	orchestratorv1.UnimplementedOperationServiceServer

	Engine *engine.Engine
	// Sagas begins and changes sagas, wherever they run.
	Sagas engine.Sagas
	Kinds *resource.Registry
	// Own serves the single changes of the orchestrator's own kinds.
	Own *service.Service
	// Peers serve those of the others.
	Peers service.Peers
	// Stack gives a stack as clients see it.
	Stack func(ctx context.Context, name string) (*orchestratorv1.Stack, error)
}

// Describe gives a saga as an operation.
func (s *Server) Describe(ctx context.Context, o *orchestratorv1.SagaSummary) (*longrunningpb.Operation, error) {
	view := o.GetOperation()
	metadata, err := anypb.New(view)
	if err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "describe %s", view.GetName()))
	}
	op := &longrunningpb.Operation{Name: view.GetName(), Metadata: metadata, Done: engine.OverOperation(view)}
	if !op.GetDone() {
		return op, nil
	}
	if view.GetState() != orchestratorv1.OperationState_OPERATION_STATE_DONE {
		op.Result = &longrunningpb.Operation_Error{Error: status.Convert(fault.Status(failure(o))).Proto()}
		return op, nil
	}
	var response proto.Message = &emptypb.Empty{}
	if view.GetAction() != orchestratorv1.Action_ACTION_DESTROY {
		stack, err := s.Stack(ctx, view.GetTarget())
		if err != nil && !fault.Is(err, fault.NotFound) {
			return nil, err
		}
		if err == nil {
			if response, err = s.answer(stack); err != nil {
				return nil, err
			}
		}
	}
	packed, err := anypb.New(response)
	if err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "describe %s", view.GetName()))
	}
	op.Result = &longrunningpb.Operation_Response{Response: packed}
	return op, nil
}

// answer gives what an operation on a stack answers: the stack, or the resource whose own API it was made by.
func (s *Server) answer(stack *orchestratorv1.Stack) (proto.Message, error) {
	alone, err := service.Alone(s.Kinds, stack)
	if alone == nil || err != nil {
		return stack, err
	}
	return alone, nil
}

// failure says how an operation ended that did not end well.
func failure(o *orchestratorv1.SagaSummary) error {
	cause := fault.FromProto(o.GetOperation().GetFault())
	kind := fault.KindOf(cause)
	if cause == nil {
		kind = fault.Internal
	}
	out := &fault.Error{Kind: kind, Cause: cause}
	switch o.GetOperation().GetState() {
	case orchestratorv1.OperationState_OPERATION_STATE_UNDONE:
		out.Message = "it failed, and all that it had done was undone"
	case orchestratorv1.OperationState_OPERATION_STATE_CANCELLED:
		out.Message = "it was cancelled, and all that it had done was undone"
	case orchestratorv1.OperationState_OPERATION_STATE_NEEDS_HAND:
		out.Message = "it needs a hand: see weft ops get, then retry or skip the stuck steps, or abandon it"
		stuck := stuckFault(o.GetOperation())
		switch {
		case cause == nil:
			out.Kind, out.Cause = fault.Precondition, stuck
		case stuck != nil && stuck.Error() != cause.Error(): // that time ran out does not say what to do; what is in the way does
			out.Message += "; " + cause.Error()
			out.Cause = stuck
		}
	default:
		out.Message = "it failed"
		if o.GetAbandonReason() != "" {
			out.Message = "it was abandoned (" + o.GetAbandonReason() + ")"
		}
		if o.GetKeepOnFailure() {
			out.Message += "; what it had made was kept, as was asked"
		}
	}
	return out
}

func stuckFault(o *orchestratorv1.OperationMetadata) error {
	for _, step := range o.GetSteps() {
		if step.GetState() == orchestratorv1.StepState_STEP_STATE_STUCK && step.GetFault() != nil {
			return fault.FromProto(step.GetFault())
		}
	}
	return nil
}

// peerOf gives the operations of the service that keeps an operation; false if it is a saga.
func (s *Server) peerOf(name string) (longrunningpb.OperationsClient, bool, error) {
	owner, single := service.ServiceOfOperation(name)
	if !single || owner == "orchestrator" {
		return nil, false, nil
	}
	peer, ok := s.Peers[owner]
	if !ok {
		return nil, false, fault.InField("name", "%q is no operation: there is no service %q", name, owner)
	}
	return longrunningpb.NewOperationsClient(peer), true, nil
}

func own(name string) bool {
	owner, single := service.ServiceOfOperation(name)
	return single && owner == "orchestrator"
}

// GetOperation gives an operation as it stands.
func (s *Server) GetOperation(ctx context.Context, r *longrunningpb.GetOperationRequest) (*longrunningpb.Operation, error) {
	peer, remote, err := s.peerOf(r.GetName())
	if err != nil {
		return nil, err
	}
	if remote {
		return peer.GetOperation(frontdoor.OnBehalf(ctx), r)
	}
	if own(r.GetName()) {
		return s.Own.GetOperation(ctx, r.GetName())
	}
	summary, err := s.Engine.Read(ctx, r.GetName())
	if err != nil {
		return nil, err
	}
	return s.Describe(ctx, summary)
}

// CancelOperation asks a saga to go back. One that has ended cannot be cancelled: Precondition, with how it ended.
func (s *Server) CancelOperation(ctx context.Context, r *longrunningpb.CancelOperationRequest) (*emptypb.Empty, error) {
	peer, remote, err := s.peerOf(r.GetName())
	if err != nil {
		return nil, err
	}
	if remote || own(r.GetName()) {
		return s.cancelSingle(ctx, peer, r)
	}
	_, err = s.act(ctx, r.GetName(), "", saga.Cancelled{})
	return &emptypb.Empty{}, err
}

// cancelSingle answers who wants to cancel the change of a single resource: it may be over; else its service answers.
func (s *Server) cancelSingle(ctx context.Context, peer longrunningpb.OperationsClient, r *longrunningpb.CancelOperationRequest) (*emptypb.Empty, error) {
	op, err := s.GetOperation(ctx, &longrunningpb.GetOperationRequest{Name: r.GetName()})
	if err != nil {
		return nil, err
	}
	if op.GetDone() {
		view := &orchestratorv1.OperationMetadata{}
		if err := op.GetMetadata().UnmarshalTo(view); err != nil {
			return nil, fault.As(fault.Internal, fault.Wrap(err, "decode %s", r.GetName()))
		}
		return nil, over(r.GetName(), view.GetState())
	}
	if peer == nil {
		return nil, fault.New(fault.Unsupported, "the change of a single resource cannot be cancelled; delete the resource instead")
	}
	return peer.CancelOperation(frontdoor.OnBehalf(ctx), r)
}

// over is the error of asking something of an operation that has ended.
func over(name string, state orchestratorv1.OperationState) error {
	return fault.New(fault.Precondition, "operation %s has already ended as %s", name, strings.TrimPrefix(state.String(), "OPERATION_STATE_"))
}

// WaitOperation waits until an operation is done, or until the timeout.
func (s *Server) WaitOperation(ctx context.Context, r *longrunningpb.WaitOperationRequest) (*longrunningpb.Operation, error) {
	peer, remote, err := s.peerOf(r.GetName())
	if err != nil {
		return nil, err
	}
	if remote {
		return peer.WaitOperation(frontdoor.OnBehalf(ctx), r)
	}
	if own(r.GetName()) {
		return s.Own.WaitOperation(ctx, r.GetName(), r.GetTimeout().AsDuration())
	}
	waiting := ctx
	if r.GetTimeout().AsDuration() > 0 {
		var cancel context.CancelFunc
		waiting, cancel = context.WithTimeout(ctx, r.GetTimeout().AsDuration())
		defer cancel()
	}
	err = s.Engine.Watch(waiting, r.GetName(), func(*orchestratorv1.OperationMetadata) error { return nil })
	if err != nil && waiting.Err() == nil {
		return nil, err
	}
	return s.GetOperation(ctx, &longrunningpb.GetOperationRequest{Name: r.GetName()})
}

// WatchOperation sends an operation whenever it changes.
func (s *Server) WatchOperation(r *orchestratorv1.WatchOperationRequest, stream grpc.ServerStreamingServer[orchestratorv1.WatchOperationResponse]) error {
	ctx := stream.Context()
	peer, remote, err := s.peerOf(r.GetName())
	if err != nil {
		return err
	}
	if remote || own(r.GetName()) {
		return s.watchSingle(ctx, r.GetName(), peer, stream)
	}
	return s.Engine.Watch(ctx, r.GetName(), func(view *orchestratorv1.OperationMetadata) error {
		return stream.Send(&orchestratorv1.WatchOperationResponse{Operation: view})
	})
}

// watchSingle watches the change of a single resource by waiting for it, a second at a time.
func (s *Server) watchSingle(ctx context.Context, name string, peer longrunningpb.OperationsClient, stream grpc.ServerStreamingServer[orchestratorv1.WatchOperationResponse]) error {
	last := int64(-1)
	for wait := time.Millisecond; ; wait = time.Second {
		var op *longrunningpb.Operation
		var err error
		if peer == nil {
			op, err = s.Own.WaitOperation(ctx, name, wait)
		} else {
			op, err = peer.WaitOperation(frontdoor.OnBehalf(ctx), &longrunningpb.WaitOperationRequest{Name: name, Timeout: durationpb.New(wait)})
		}
		if err != nil {
			return err
		}
		view := &orchestratorv1.OperationMetadata{}
		if err := op.GetMetadata().UnmarshalTo(view); err != nil {
			return fault.As(fault.Internal, fault.Wrap(err, "decode %s", name))
		}
		if view.GetSequence() != last || op.GetDone() {
			last = view.GetSequence()
			if err := stream.Send(&orchestratorv1.WatchOperationResponse{Operation: view}); err != nil {
				return err
			}
		}
		if op.GetDone() {
			return nil
		}
	}
}

// act applies what a person asks for, and gives the operation as it then stands. step is the step that is meant; empty
// for all.
func (s *Server) act(ctx context.Context, name, step string, event saga.Event) (*orchestratorv1.OperationMetadata, error) {
	if _, single := service.ServiceOfOperation(name); single {
		return nil, fault.New(fault.Unsupported, "operation %s is the change of a single resource, which is tried again by itself; if it has failed, make the change again", name)
	}
	summary, err := s.Engine.Read(ctx, name)
	if err != nil {
		return nil, err
	}
	view := summary.GetOperation()
	if step != "" && !slices.Contains(stepsOf(view), step) {
		return nil, fault.New(fault.NotFound, "operation %s has no step %q; its steps are %s", name, step, strings.Join(stepsOf(view), ", "))
	}
	if ended(view) {
		return nil, over(name, view.GetState())
	}
	if err := s.Sagas.Act(ctx, view.GetTarget(), name, event); err != nil {
		return nil, err
	}
	if summary, err = s.Engine.Read(ctx, name); err != nil {
		return nil, err
	}
	return summary.GetOperation(), nil
}

func ended(o *orchestratorv1.OperationMetadata) bool {
	return saga.Ended(&orchestratorv1.SagaState{State: o.GetState()})
}

func stepsOf(o *orchestratorv1.OperationMetadata) []string {
	var out []string
	for _, step := range o.GetSteps() {
		out = append(out, step.GetId())
	}
	return out
}

// RetryStep tries a stuck or waiting step again at once.
func (s *Server) RetryStep(ctx context.Context, r *orchestratorv1.RetryStepRequest) (*orchestratorv1.OperationMetadata, error) {
	return s.act(ctx, r.GetName(), r.GetStep(), saga.Retried{Step: r.GetStep()})
}

// SkipStep takes a stuck step as done.
func (s *Server) SkipStep(ctx context.Context, r *orchestratorv1.SkipStepRequest) (*orchestratorv1.OperationMetadata, error) {
	return s.act(ctx, r.GetName(), r.GetStep(), saga.Skipped{Step: r.GetStep(), Reason: r.GetReason()})
}

// AbandonOperation ends an operation that needs a hand.
func (s *Server) AbandonOperation(ctx context.Context, r *orchestratorv1.AbandonOperationRequest) (*orchestratorv1.OperationMetadata, error) {
	return s.act(ctx, r.GetName(), "", saga.Abandoned{Reason: r.GetReason()})
}

// PauseOperation holds an operation or a step.
func (s *Server) PauseOperation(ctx context.Context, r *orchestratorv1.PauseOperationRequest) (*orchestratorv1.OperationMetadata, error) {
	return s.act(ctx, r.GetName(), r.GetStep(), saga.Paused{Step: r.GetStep(), Reason: r.GetReason()})
}

// ResumeOperation lets an operation or a step go on.
func (s *Server) ResumeOperation(ctx context.Context, r *orchestratorv1.ResumeOperationRequest) (*orchestratorv1.OperationMetadata, error) {
	return s.act(ctx, r.GetName(), r.GetStep(), saga.Resumed{Step: r.GetStep()})
}
