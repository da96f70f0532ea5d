package app

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"

	"github.com/weftcloud/weft/pkg/fault"
)

// Metrics counts what a program's gRPC server does. Each program makes its own, so that several can run in one process.
type Metrics struct {
	// Registry is where further metrics of the program are registered.
	Registry *prometheus.Registry
	handled  *prometheus.CounterVec
	latency  *prometheus.HistogramVec
}

// NewMetrics makes the metrics of one program.
func NewMetrics() *Metrics {
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		handled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grpc_server_handled_total", Help: "RPCs that ended, by service, method and code.",
		}, []string{"grpc_service", "grpc_method", "grpc_code"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "grpc_server_handling_seconds", Help: "How long RPCs took, in seconds.",
			Buckets: []float64{.005, .02, .1, .5, 2, 10},
		}, []string{"grpc_service", "grpc_method"}),
	}
	m.Registry.MustRegister(m.handled, m.latency, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *Metrics) observe(fullMethod string, code codes.Code, took time.Duration) {
	if m == nil {
		return
	}
	service, method, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	if code == codes.Unimplemented {
		service, method = "unknown", "unknown" // whoever calls methods that do not exist must not make up series
	}
	m.handled.WithLabelValues(service, method, code.String()).Inc()
	m.latency.WithLabelValues(service, method).Observe(took.Seconds())
}

// Serve serves the metrics at /metrics over TLS until ctx ends.
func (m *Metrics) Serve(ctx context.Context, lis net.Listener, config *tls.Config) error {
	if config == nil {
		return fault.New(fault.Internal, "metrics on %s have no TLS configuration", lis.Addr())
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.Registry, promhttp.HandlerOpts{}))
	config = config.Clone()
	config.NextProtos = []string{"h2", "http/1.1"}
	server := &http.Server{Handler: mux, TLSConfig: config, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() {
		if err := server.Close(); err != nil {
			return // the listener was closed already; Serve returns all the same
		}
	})
	defer stop()
	err := server.ServeTLS(lis, "", "")
	if errors.Is(err, http.ErrServerClosed) && ctx.Err() != nil {
		return nil
	}
	return fault.Wrap(err, "serve metrics on %s", lis.Addr())
}
