// Package sandboxtest starts a sandbox for tests.
package sandboxtest

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/weftcloud/weft/services/sandbox"
)

// Start runs a sandbox until the test ends. The zero Config keeps state in memory and has no latencies.
func Start(t testing.TB, cfg sandbox.Config) *sandbox.Sandbox {
	t.Helper()
	s, err := sandbox.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("sandbox: %v", err)
		}
	})
	return s
}

// CloudsFile writes the sandbox's clouds.yaml below the test's folder and yields its path.
func CloudsFile(t testing.TB, s *sandbox.Sandbox) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "clouds.yaml")
	if err := os.WriteFile(path, s.CloudsYAML(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Admin makes a request of the admin API, path like "/_sandbox/faults".
func Admin(t testing.TB, s *sandbox.Sandbox, r *http.Request) *http.Response {
	t.Helper()
	r.Header.Set(sandbox.AdminHeader, s.AdminToken())
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}
