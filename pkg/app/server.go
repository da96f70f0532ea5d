package app

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"buf.build/go/protovalidate"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/fault"
)

// MaxMessage is how large a gRPC message may be, in bytes. A page of a thousand resources fits.
const MaxMessage = 16 << 20

// ServerConfig is what a gRPC server is made of.
type ServerConfig struct {
	// TLS is required; see auth.ServerTLS.
	TLS *tls.Config
	// Logger gets a line for each call that fails by our fault, and at debug level for each call; nil means none.
	Logger *slog.Logger
	// Metrics counts the calls; nil means that nothing does.
	Metrics *Metrics
	// Grace is how long calls under way may take when the server ends; 0 means DefaultGrace.
	Grace time.Duration
	// Options are further options, e.g. grpc.UnknownServiceHandler for a proxy. Calls that come to it pass the same
	// interceptors.
	Options []grpc.ServerOption
}

// Server is a gRPC server with health, reflection and all interceptors on it. Services are registered on the embedded
// server before Serve.
type Server struct {
	*grpc.Server
	// Health says how the services are; Serve sets all of them serving.
	Health *health.Server
	grace  time.Duration
}

// NewGRPCServer makes a server. Every call passes, from the outside in: recovery from panics, logging and metrics, the
// translation of faults to statuses, authentication and authorization, validation. The error is Internal.
func NewGRPCServer(cfg ServerConfig) (*Server, error) {
	if cfg.TLS == nil {
		return nil, fault.New(fault.Internal, "a gRPC server without TLS is not made: give ServerConfig.TLS")
	}
	validator, err := protovalidate.New()
	if err != nil {
		return nil, fault.Wrap(fault.As(fault.Internal, err), "make the validator")
	}
	logger := cfg.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	grace := cfg.Grace
	if grace <= 0 {
		grace = DefaultGrace
	}
	recovered := recovery.WithRecoveryHandlerContext(func(ctx context.Context, p any) error {
		logger.ErrorContext(ctx, "panic in a call", "panic", p, "stack", string(debug.Stack()))
		return status.Error(codes.Internal, "a fault of Weft's own; it is in the service's log")
	})
	options := append([]grpc.ServerOption{
		grpc.Creds(credentials.NewTLS(cfg.TLS)),
		grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Minute, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 20 * time.Second, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(
			observeUnary(logger, cfg.Metrics), recovery.UnaryServerInterceptor(recovered), statusUnary, auth.Unary(), validateUnary(validator),
		),
		grpc.ChainStreamInterceptor(
			observeStream(logger, cfg.Metrics), recovery.StreamServerInterceptor(recovered), statusStream, auth.Stream(), validateStream(validator),
		),
	}, cfg.Options...)
	s := &Server{Server: grpc.NewServer(options...), Health: health.NewServer(), grace: grace}
	healthpb.RegisterHealthServer(s.Server, s.Health)
	reflection.Register(s.Server)
	return s, nil
}

// Serve serves until ctx ends, then lets the calls under way end within the grace period, and cuts off what is left.
func (s *Server) Serve(ctx context.Context, lis net.Listener) error {
	for name := range s.GetServiceInfo() {
		s.Health.SetServingStatus(name, healthpb.HealthCheckResponse_SERVING)
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		s.shutdown()
	})
	err := s.Server.Serve(lis)
	if !stop() {
		<-stopped
	}
	if ctx.Err() != nil && (err == nil || errors.Is(err, grpc.ErrServerStopped)) {
		return nil
	}
	return fault.Wrap(fault.As(fault.Unavailable, err), "serve gRPC on %s", lis.Addr())
}

func (s *Server) shutdown() {
	s.Health.Shutdown()
	graceful := make(chan struct{})
	go func() {
		s.GracefulStop()
		close(graceful)
	}()
	select {
	case <-graceful:
	case <-time.After(s.grace):
		s.Stop()
	}
}

func statusUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	return resp, fault.Status(err)
}

func statusStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return fault.Status(handler(srv, stream))
}

func observeUnary(logger *slog.Logger, m *Metrics) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		began := time.Now()
		resp, err := handler(ctx, req)
		ended(ctx, logger, m, info.FullMethod, err, time.Since(began))
		return resp, err
	}
}

func observeStream(logger *slog.Logger, m *Metrics) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		began := time.Now()
		err := handler(srv, stream)
		ended(stream.Context(), logger, m, info.FullMethod, err, time.Since(began))
		return err
	}
}

// ended records a call. Only what is our own fault is worth a person's eyes.
func ended(ctx context.Context, logger *slog.Logger, m *Metrics, fullMethod string, err error, took time.Duration) {
	code := status.Code(err)
	m.observe(fullMethod, code, took)
	level := slog.LevelDebug
	if code == codes.Internal || code == codes.Unknown || code == codes.DataLoss {
		level = slog.LevelError
	}
	if !logger.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{slog.String("method", fullMethod), slog.String("code", code.String()), slog.Duration("took", took)}
	if id, idErr := auth.FromPeer(ctx); idErr == nil {
		attrs = append(attrs, slog.String("caller", id.String()))
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	logger.LogAttrs(ctx, level, "call", attrs...)
}
