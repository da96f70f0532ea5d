package service

import (
	"context"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weftcloud/weft/pkg/fault"
)

// RegisterOperations registers google.longrunning.Operations for the single changes of this service.
func (s *Service) RegisterOperations(server grpc.ServiceRegistrar) {
	longrunningpb.RegisterOperationsServer(server, &operationsServer{s: s})
}

type operationsServer struct {
	longrunningpb.UnimplementedOperationsServer

	s *Service
}

func (o *operationsServer) GetOperation(ctx context.Context, r *longrunningpb.GetOperationRequest) (*longrunningpb.Operation, error) {
	return o.s.GetOperation(ctx, r.GetName())
}

func (o *operationsServer) WaitOperation(ctx context.Context, r *longrunningpb.WaitOperationRequest) (*longrunningpb.Operation, error) {
	return o.s.WaitOperation(ctx, r.GetName(), r.GetTimeout().AsDuration())
}

func (o *operationsServer) CancelOperation(context.Context, *longrunningpb.CancelOperationRequest) (*emptypb.Empty, error) {
	return nil, fault.New(fault.Unsupported, "the change of a single resource cannot be cancelled; delete the resource instead")
}
