package tracing_test

import (
	"context"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/tracing"
)

// TestTraceGoesThroughText begins a trace, names it as a message would, and goes on with it elsewhere.
func TestTraceGoesThroughText(t *testing.T) {
	kept := tracetest.NewInMemoryExporter()
	traces := tracing.With("network", 0, sdktrace.WithSyncer(kept))
	ctx, end := traces.Span(t.Context(), "", "apply", "weft.stack", "shop")
	parent := tracing.Parent(ctx)
	end(nil)
	_, endCommand := traces.Span(context.Background(), parent, "command")
	endCommand(fault.New(fault.Quota, "no more networks"))
	spans := kept.GetSpans()
	if len(spans) != 2 || parent == "" {
		t.Fatalf("%d spans, parent %q", len(spans), parent)
	}
	apply, command := spans[0], spans[1]
	if command.Parent.SpanID() != apply.SpanContext.SpanID() || command.SpanContext.TraceID() != apply.SpanContext.TraceID() {
		t.Errorf("the command is not part of the trace: %v, %v", command.Parent, apply.SpanContext)
	}
	if command.Status.Description != string(fault.Quota) {
		t.Errorf("the command's status is %v", command.Status)
	}
	if err := traces.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestNothingIsTraced: without an endpoint there is nothing, and all calls do nothing.
func TestNothingIsTraced(t *testing.T) {
	traces, err := tracing.New(t.Context(), tracing.Config{}, "network", nil)
	if err != nil || traces != nil {
		t.Fatalf("%v, %v", traces, err)
	}
	ctx, end := traces.Span(t.Context(), "", "x")
	end(nil)
	if len(traces.ServerOptions())+len(traces.DialOptions()) > 0 || tracing.Parent(ctx) != "" || traces.Close(ctx) != nil {
		t.Error("nothing is traced, yet something is done")
	}
	if _, err := tracing.New(t.Context(), tracing.Config{Endpoint: "127.0.0.1:4317", Ratio: 2}, "network", nil); !fault.Is(err, fault.Invalid) {
		t.Errorf("a ratio of 2 gives %v", err)
	}
}
