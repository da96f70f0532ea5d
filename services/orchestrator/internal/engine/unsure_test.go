package engine

import (
	"testing"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// handedIn counts what is handed in to be published.
type handedIn struct{ ops []store.Op }

func (h *handedIn) Ops(...bus.Message) []store.Op { return nil }
func (h *handedIn) Committed(ops []store.Op)      { h.ops = append(h.ops, ops...) }
func (h *handedIn) Recover()                      {}

// TestOnlyWhatWasKeptIsPublished lets an owner find out that a saga has ended of which it does not know whether its own last
// transition was kept: what it would have told is published only if that stands in the store. Another owner may have ended it.
func TestOnlyWhatWasKeptIsPublished(t *testing.T) {
	const name = "tenants/acme/operations/1"
	unsent := []store.Op{{Key: prefix + "so/1", Value: []byte("told")}}
	for what, c := range map[string]struct {
		kept    []store.Op
		away    bool
		want    int
		failure fault.Kind
	}{
		"it was kept":                {kept: unsent, want: 1},
		"it was not, another's was":  {},
		"the store does not tell it": {kept: unsent, away: true, failure: fault.Unavailable},
	} {
		t.Run(what, func(t *testing.T) {
			s, box := memstore.New(), &handedIn{}
			if _, err := s.Txn(t.Context(), nil, append([]store.Op{{Key: summaryKey(name)}}, c.kept...)); err != nil {
				t.Fatal(err)
			}
			if c.away {
				s.SetFaults(memstore.Faults{Before: func(string, string) error { return fault.New(fault.Unavailable, "away") }})
			}
			p := &part{Engine: New(Config{Store: s, Outbox: box}), ctx: t.Context(), runs: map[string]*run{}}
			r := newRun(p, name)
			r.state, r.unsure, r.unsent = &orchestratorv1.SagaState{}, true, unsent
			err := p.vanished(r)
			if c.failure == "" && err != nil || c.failure != "" && !fault.Is(err, c.failure) || len(box.ops) != c.want {
				t.Errorf("%d handed in, %v", len(box.ops), err)
			}
			if r.unsure != (c.failure != "") {
				t.Errorf("it is unsure: %v", r.unsure)
			}
		})
	}
}
