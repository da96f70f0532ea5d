// Package frontdoor makes the typed APIs of all services reachable at the orchestrator's one endpoint. A call is decoded,
// authorised like any other, and passed on in the name of the caller.
package frontdoor

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/service"
)

// Register registers the gRPC services of all kinds that peers own.
func Register(server grpc.ServiceRegistrar, kinds *resource.Registry, peers service.Peers) error {
	for _, k := range kinds.Kinds() {
		peer, ok := peers[k.Service]
		if !ok {
			continue
		}
		sd := k.Message.ParentFile().Services().ByName(protoreflect.Name(k.Name + "Service"))
		if sd == nil {
			return fault.New(fault.Internal, "%s has no service in its file", k.Name)
		}
		desc := &grpc.ServiceDesc{ServiceName: string(sd.FullName()), HandlerType: (*any)(nil), Metadata: sd.ParentFile().Path()}
		for i := range sd.Methods().Len() {
			m, err := forward(sd, sd.Methods().Get(i), peer)
			if err != nil {
				return err
			}
			desc.Methods = append(desc.Methods, m)
		}
		server.RegisterService(desc, struct{}{})
	}
	return nil
}

// forward passes one method on.
func forward(sd protoreflect.ServiceDescriptor, md protoreflect.MethodDescriptor, peer grpc.ClientConnInterface) (grpc.MethodDesc, error) {
	input, err := protoregistry.GlobalTypes.FindMessageByName(md.Input().FullName())
	if err != nil {
		return grpc.MethodDesc{}, fault.As(fault.Internal, fault.Wrap(err, "find %s", md.Input().FullName()))
	}
	output, err := protoregistry.GlobalTypes.FindMessageByName(md.Output().FullName())
	if err != nil {
		return grpc.MethodDesc{}, fault.As(fault.Internal, fault.Wrap(err, "find %s", md.Output().FullName()))
	}
	full := "/" + string(sd.FullName()) + "/" + string(md.Name())
	call := func(ctx context.Context, request any) (any, error) {
		answer := output.New().Interface()
		if err := peer.Invoke(OnBehalf(ctx), full, request, answer); err != nil {
			return nil, err
		}
		return answer, nil
	}
	return grpc.MethodDesc{MethodName: string(md.Name()), Handler: service.Handler(full, func() proto.Message { return input.New().Interface() }, call)}, nil
}

// OnBehalf makes a call to another service one in the name of the caller of this one.
func OnBehalf(ctx context.Context) context.Context {
	if id, ok := auth.FromContext(ctx); ok {
		return auth.OnBehalfOf(ctx, id)
	}
	return ctx
}
