package openstack

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/weftcloud/weft/pkg/cloud/openstack/openstacktest"
	"github.com/weftcloud/weft/services/sandbox"
)

// simulated runs a sandbox and opens a session at it. The sandbox is held to the same suite as a real OpenStack.
func simulated(t *testing.T) *openstacktest.Place {
	t.Helper()
	return openstacktest.FromYAML(t, start(t).CloudsYAML(), "sandbox")
}

// start runs a sandbox.
func start(t *testing.T) *sandbox.Sandbox {
	t.Helper()
	// short latencies, so that every state between is seen
	s, err := sandbox.New(sandbox.Config{Logger: slog.New(slog.DiscardHandler), Latency: sandbox.Latencies{
		"compute.server.active": 150 * time.Millisecond, "compute.server.deleted": 80 * time.Millisecond,
		"volume.volume.available": 80 * time.Millisecond, "state": 60 * time.Millisecond,
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("sandbox: %v", err)
		}
	})
	return s
}
