package story

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// Prometheus is a Prometheus server that answers every query with one number, or not at all.
type Prometheus struct {
	// URL is its address.
	URL string

	mu    sync.Mutex
	value float64
	down  bool
}

// Set sets the number; down says that it does not answer.
func (p *Prometheus) Set(value float64, down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.value, p.down = value, down
}

// ServeHTTP implements http.Handler.
func (p *Prometheus) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[%d,"%g"]}]}}`, time.Now().Unix(), p.value)
}

// StartPrometheus starts one on loopback, as long as the test lasts.
func StartPrometheus(t testing.TB) *Prometheus {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Prometheus{URL: "http://" + listener.Addr().String(), value: 10}
	server := &http.Server{Handler: p, ReadHeaderTimeout: time.Minute}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// Group is what a story looks at of a group.
type Group struct {
	Observed struct {
		Members []struct {
			Server     string `json:"server"`
			ProviderID string `json:"providerId"`
			Address    string `json:"address"`
			State      string `json:"state"`
		}
		Desired, Ready int
		Reason         string
		Metric         struct{ Error string }
	}
	Status struct{ Phase string }
}

// Group reads a scaling group.
func (i *Installation) Group(t testing.TB, name string) Group {
	t.Helper()
	var g Group
	if err := json.Unmarshal([]byte(i.Must(t, "get", "scalingGroup", name, "-o", "json").Out), &g); err != nil {
		t.Fatal(err)
	}
	return g
}

// InService counts the members in service, and fails the test if one has no address.
func (g Group) InService(t testing.TB) int {
	t.Helper()
	n := 0
	for _, m := range g.Observed.Members {
		if m.State != "MEMBER_STATE_IN_SERVICE" {
			continue
		}
		if n++; m.Address == "" || m.ProviderID == "" {
			t.Errorf("%s is in service without an address: %+v", m.Server, m)
		}
	}
	if n != g.Observed.Ready {
		t.Errorf("%d are in service, and %d are told", n, g.Observed.Ready)
	}
	return n
}

// SettledAt tells whether a group has just so many members, all in service.
func (g Group) SettledAt(t testing.TB, n int) bool {
	t.Helper()
	return g.InService(t) == n && len(g.Observed.Members) == n && g.Status.Phase == "PHASE_READY"
}
