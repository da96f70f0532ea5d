package openstack

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/services/sandbox"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// TestProvider: good credentials open all kinds and a probe; a wrong password is Denied, a silent cloud Unavailable.
func TestProvider(t *testing.T) {
	s, err := sandbox.New(sandbox.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	path := filepath.Join(t.TempDir(), "clouds.yaml")
	if err := os.WriteFile(path, s.CloudsYAML(), 0o600); err != nil {
		t.Fatal(err)
	}
	good, err := cloud.FromCloudsYAML(path, "sandbox")
	if err != nil {
		t.Fatal(err)
	}
	p := Provider(cloud.NewSessions())
	session, err := p.Open(t.Context(), good)
	if err != nil || len(session.Drivers) != 7 {
		t.Fatalf("open = %d drivers, %v", len(session.Drivers), err)
	}
	if features, err := session.Probe(t.Context()); err != nil || len(features) == 0 {
		t.Errorf("probe = %v, %v", features, err)
	}
	wrong, err := cloud.FromCloudsYAML(path, "sandbox")
	if err != nil {
		t.Fatal(err)
	}
	wrong.Data["password"] = "wrong"
	if _, err := p.Open(t.Context(), wrong); !fault.Is(err, fault.Denied) {
		t.Errorf("open with a wrong password = %v, want Denied", err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if _, err := p.Open(t.Context(), wrong); !fault.Is(err, fault.Unavailable) {
		t.Errorf("open of a cloud that is gone = %v, want Unavailable", err)
	}
}
