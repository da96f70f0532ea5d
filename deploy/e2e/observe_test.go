package e2e

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	"github.com/weftcloud/weft/pkg/auth"
)

// traces takes spans, as an OpenTelemetry collector does.
type traces struct {
	collector.UnimplementedTraceServiceServer

	mu    sync.Mutex
	spans map[string]map[string]bool // by trace: the spans, each as its service and its name
}

// Export implements the collector.
func (c *traces) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, from := range r.GetResourceSpans() {
		service := ""
		for _, a := range from.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				service = a.GetValue().GetStringValue()
			}
		}
		for _, scope := range from.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.add(service, span)
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func (c *traces) add(service string, span *tracev1.Span) {
	id := string(span.GetTraceId())
	if c.spans[id] == nil {
		c.spans[id] = map[string]bool{}
	}
	c.spans[id][service+": "+span.GetName()] = true
}

// best gives the trace that has most of some spans, and those of them that it lacks.
func (c *traces) best(want ...string) (found, missing []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	missing = want
	for _, spans := range c.spans {
		var lacks []string
		for _, w := range want {
			if !spans[w] {
				lacks = append(lacks, w)
			}
		}
		if len(lacks) < len(missing) {
			found, missing = slices.Sorted(maps.Keys(spans)), lacks
		}
	}
	return found, missing
}

// TestObserved runs the services with a collector of traces and with metrics: one apply is one trace, from the call of the
// client through the saga and the bus to the calls at the cloud, and the metrics tell what runs.
func TestObserved(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seen, server := &traces{spans: map[string]map[string]bool{}}, grpc.NewServer()
	collector.RegisterTraceServiceServer(server, seen)
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	metrics := map[string]string{}
	for _, s := range story.Services() {
		metrics[s] = story.Address(t)
	}
	c := prepareWith(t, func(service string) string {
		return fmt.Sprintf("metrics: %s\ntraces: {endpoint: %q, plaintext: true}\n", metrics[service], lis.Addr())
	})
	c.StartSandbox(t)
	c.StartEtcd(t)
	c.StartNATS(t)
	for _, s := range story.Services() {
		c.Start(t, s)
	}
	c.Register(t)
	c.Cloud.Hurry(t)
	c.Apply(t, many(1), "DONE")

	want := []string{
		"weft-orchestrator: weft.orchestrator.v1.StackService/ApplyStack", "weft-orchestrator: transition",
		"weft-network: command network.weft.cloud/Network", "weft-network: create Network", "weft-network: create Subnet",
	}
	story.Await(t, "the apply is one trace", func() bool {
		found, missing := seen.best(want...)
		t.Logf("the best trace lacks %q of %q", missing, found)
		return len(missing) == 0
	})
	c.tells(t, "orchestrator", metrics["orchestrator"],
		"weft_saga_shards 256", "weft_sagas 0", "weft_sagas_without_next_action 0", "weft_saga_fence_rejections_total 0", "weft_saga_transitions_total ",
		`weft_outbox_depth{outbox="/weft/orchestrator/so/"} 0`, "weft_store_commit_seconds_count ", "weft_store_commit_transactions_count ")
	c.tells(t, "network", metrics["network"],
		`weft_participant_commands_total{result="taken"} `, `weft_record_shards{service="network"} 64`, `weft_fence_rejections_total{service="network"} 0`, "weft_budget_calls_total{")
}

// tells fails the test unless the metrics of a service, read as Prometheus does, have lines that begin so.
func (c *fleet) tells(t *testing.T, service, address string, want ...string) {
	t.Helper()
	dir := filepath.Join(c.Dir, "tls", "nats")
	source := auth.Files(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: auth.ClientTLS(source, c.ServerTLS(t, "nats").ClientCAs, auth.ServerName(service))}}
	answer, err := client.Get("https://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(answer.Body)
	if closed := answer.Body.Close(); err != nil || closed != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("the metrics of %s: %s, %v, %v", service, answer.Status, err, closed)
	}
	for _, w := range want {
		if !strings.Contains("\n"+string(text), "\n"+w) {
			t.Errorf("the metrics of %s lack %q", service, w)
		}
	}
	if t.Failed() {
		t.Logf("%s", text)
	}
}
