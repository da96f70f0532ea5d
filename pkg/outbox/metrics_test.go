package outbox

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftcloud/weft/pkg/store/memstore"
)

// TestSeveralBoxesOfOneProcessAreCounted registers the outboxes of an orchestrator: that of its sagas and that of its
// resources.
func TestSeveralBoxesOfOneProcessAreCounted(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	for _, p := range []string{"/a/", "/b/"} {
		if err := registry.Register(New(memstore.New(), &recorder{}, p, nil)); err != nil {
			t.Fatalf("register the outbox %s: %s", p, err)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if len(families) != 1 || len(families[0].GetMetric()) != 2 {
		t.Errorf("two outboxes give %v", families)
	}
}
