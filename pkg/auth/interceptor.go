package auth

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/weftcloud/weft/pkg/fault"
)

// Unary lets unary calls in or refuses them. The handler's context carries the identity, see FromContext.
func Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		id, m, err := enter(ctx, info.FullMethod)
		if err != nil {
			return nil, err
		}
		if err := m.admitAny(id, req); err != nil {
			return nil, err
		}
		return handler(NewContext(ctx, id), req)
	}
}

// Stream lets streams in or refuses them. What needs the request is checked on every message that arrives, before the
// handler sees it.
func Stream() grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		id, m, err := enter(stream.Context(), info.FullMethod)
		if err != nil {
			return err
		}
		return handler(srv, &guarded{ServerStream: stream, ctx: NewContext(stream.Context(), id), id: id, method: m})
	}
}

func enter(ctx context.Context, fullMethod string) (Identity, method, error) {
	id, err := Authenticate(ctx)
	if err != nil {
		return Identity{}, method{}, err
	}
	m, err := describe(fullMethod)
	if err != nil {
		return Identity{}, method{}, err
	}
	return id, m, m.admit(id)
}

// guarded is a stream whose incoming messages are checked.
type guarded struct {
	grpc.ServerStream
	ctx    context.Context
	id     Identity
	method method
}

// Context gives the stream's context with the identity.
func (g *guarded) Context() context.Context { return g.ctx }

// RecvMsg receives a message and refuses what the identity may not ask.
func (g *guarded) RecvMsg(msg any) error {
	if err := g.ServerStream.RecvMsg(msg); err != nil {
		return err
	}
	return g.method.admitAny(g.id, msg)
}

// admitAny checks a request in whatever form the server's codec gives it: as a message, or, where a proxy passes bytes
// on, as bytes that the method's contract tells how to read.
func (m method) admitAny(id Identity, req any) error {
	switch req := req.(type) {
	case proto.Message:
		return m.admitRequest(id, req)
	case *[]byte:
		return m.admitBytes(id, *req)
	case interface{ Bytes() []byte }:
		return m.admitBytes(id, req.Bytes())
	}
	if m.open || id.Platform() {
		return nil
	}
	return fault.New(fault.Denied, "%s/%s: the request cannot be read, so %s may not make it", m.service, m.name, id)
}

func (m method) admitBytes(id Identity, data []byte) error {
	if m.open || id.Platform() {
		return nil
	}
	request := dynamicpb.NewMessage(m.input)
	if err := proto.Unmarshal(data, request); err != nil {
		return fault.New(fault.Invalid, "%s/%s: the request is malformed: %s", m.service, m.name, err)
	}
	return m.admitRequest(id, request)
}
