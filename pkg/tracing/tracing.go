// Package tracing makes what becomes of one request visible across services, as OpenTelemetry spans: the gRPC calls, the
// transitions of its saga, the commands, and the calls at clouds.
//
// A trace begins with a client's call, or goes on with the one that the client is in. It is named in the plan of a saga, in
// the origin of each of its commands and in the headers of messages, as a traceparent (W3C Trace Context, section 3.2), so
// that it also outlives a restart.
package tracing

import (
	"context"
	"crypto/tls"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/weftcloud/weft/pkg/fault"
)

// Config says where spans go.
type Config struct {
	// Endpoint is the host:port of a collector that takes OTLP over gRPC; empty means that nothing is traced.
	Endpoint string `koanf:"endpoint"`
	// Plaintext sends them without TLS, e.g. to a collector on the same machine.
	Plaintext bool `koanf:"plaintext"`
	// Ratio is the part of the traces that begin here which is kept, from 0 to 1; 0 means all. Those that a client began are
	// kept if the client keeps them.
	Ratio float64 `koanf:"ratio"`
}

// Traces makes spans. nil makes none.
type Traces struct {
	provider *sdktrace.TracerProvider
}

// New makes the traces of a service. It does not wait for the collector.
func New(ctx context.Context, cfg Config, service string, config *tls.Config) (*Traces, error) {
	if cfg.Endpoint == "" {
		return nil, nil
	}
	if cfg.Ratio < 0 || cfg.Ratio > 1 {
		return nil, fault.InField("traces.ratio", "%v is no part of a whole; give a number from 0 to 1", cfg.Ratio)
	}
	options := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(cfg.Endpoint), otlptracegrpc.WithTLSCredentials(credentials.NewTLS(config))}
	if cfg.Plaintext {
		options[1] = otlptracegrpc.WithInsecure()
	}
	exporter, err := otlptracegrpc.New(ctx, options...)
	if err != nil {
		return nil, fault.Wrap(fault.As(fault.Invalid, err), "send traces to %s", cfg.Endpoint)
	}
	return With(service, cfg.Ratio, sdktrace.WithBatcher(exporter)), nil
}

// With makes the traces of a service whose spans go where the options say.
func With(service string, ratio float64, options ...sdktrace.TracerProviderOption) *Traces {
	sampler := sdktrace.AlwaysSample()
	if ratio > 0 {
		sampler = sdktrace.TraceIDRatioBased(ratio)
	}
	options = append([]sdktrace.TracerProviderOption{
		sdktrace.WithSampler(sdktrace.ParentBased(sampler)),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "weft-"+service))),
	}, options...)
	return &Traces{provider: sdktrace.NewTracerProvider(options...)}
}

// Close sends what has not been sent.
func (t *Traces) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return fault.Wrap(t.provider.Shutdown(ctx), "send the last traces")
}

// ServerOptions make a span of each call that a server takes.
func (t *Traces) ServerOptions() []grpc.ServerOption {
	if t == nil {
		return nil
	}
	return []grpc.ServerOption{grpc.StatsHandler(otelgrpc.NewServerHandler(otelgrpc.WithTracerProvider(t.provider), otelgrpc.WithPropagators(propagation.TraceContext{})))}
}

// DialOptions make a span of each call that a client makes, and tell the server of the trace.
func (t *Traces) DialOptions() []grpc.DialOption {
	if t == nil {
		return nil
	}
	return []grpc.DialOption{grpc.WithStatsHandler(otelgrpc.NewClientHandler(otelgrpc.WithTracerProvider(t.provider), otelgrpc.WithPropagators(propagation.TraceContext{})))}
}

// Span begins a span of the trace that parent names, or of ctx's if it is empty. attributes are names and values in turn.
// end ends it with what became of it.
func (t *Traces) Span(ctx context.Context, parent, name string, attributes ...string) (_ context.Context, end func(error)) {
	if t == nil {
		return ctx, func(error) {}
	}
	if parent != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": parent})
	}
	ctx, span := t.provider.Tracer("github.com/weftcloud/weft").Start(ctx, name)
	for i := 0; i+1 < len(attributes); i += 2 {
		span.SetAttributes(attribute.String(attributes[i], attributes[i+1]))
	}
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, string(fault.KindOf(err)))
			span.SetAttributes(attribute.String("weft.fault", err.Error()))
		}
		span.End()
	}
}

// Parent names the trace that ctx is in; empty if it is in none.
func Parent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}
