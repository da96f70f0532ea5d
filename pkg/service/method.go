package service

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Clock gives the time.
type Clock = func() time.Time

// Handler gives a gRPC handler that decodes a request, passes the interceptors, and calls.
func Handler(fullMethod string, newRequest func() proto.Message, call grpc.UnaryHandler) grpc.MethodHandler {
	return func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		request := newRequest()
		if err := decode(request); err != nil {
			return nil, err
		}
		if intercept == nil {
			return call(ctx, request)
		}
		return intercept(ctx, request, &grpc.UnaryServerInfo{Server: srv, FullMethod: fullMethod}, call)
	}
}

// Method gives a custom method of a kind's gRPC service.
func Method[Q any, A any, PQ interface {
	*Q
	proto.Message
}](service, name string, do func(context.Context, PQ) (A, error)) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name, Handler: Handler("/"+service+"/"+name, func() proto.Message { return PQ(new(Q)) }, func(ctx context.Context, request any) (any, error) {
		answer, err := do(ctx, request.(PQ))
		if err != nil {
			return nil, err
		}
		return answer, nil
	})}
}
