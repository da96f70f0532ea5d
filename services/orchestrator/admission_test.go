package orchestrator

import (
	"context"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/service"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
)

// gauge is a store that says how full it is, and how much waits for it.
type gauge struct {
	store.Store

	usage   store.Usage
	err     error
	waiting int
	asked   int
}

func (g *gauge) Waiting() int { return g.waiting }

func (g *gauge) Usage(context.Context) (store.Usage, error) {
	g.asked++
	return g.usage, g.err
}

func TestAdmission(t *testing.T) {
	away := fault.New(fault.Unavailable, "away")
	for name, c := range map[string]struct {
		store store.Store
		want  fault.Kind // empty: admitted
	}{
		"room":              {&gauge{usage: store.Usage{Used: 59, Quota: 100}, waiting: longestQueue}, ""},
		"nearly full":       {&gauge{usage: store.Usage{Used: 61, Quota: 100}}, fault.Throttled},
		"no bound":          {&gauge{usage: store.Usage{Used: 1 << 40}}, ""},
		"too much waits":    {&gauge{waiting: longestQueue + 1}, fault.Throttled},
		"it does not say":   {&gauge{err: away}, fault.Unavailable},
		"it has no measure": {memstore.New(), ""},
	} {
		a := newAdmission(Deps{Deps: service.Deps{Store: c.store, Now: time.Now}})
		err := a.admit(t.Context())
		if got := fault.KindOf(err); c.want != "" && got != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if c.want != fault.Throttled {
			continue
		}
		st := status.Convert(fault.Status(err))
		waits := false
		for _, d := range st.Details() {
			info, ok := d.(*errdetails.RetryInfo)
			waits = waits || ok && info.GetRetryDelay().AsDuration() > 0
		}
		if st.Code() != codes.ResourceExhausted || !waits {
			t.Errorf("%s: the client is told %s with %v", name, st.Code(), st.Details())
		}
	}
}

// TestAdmissionAsksSeldom: a store is asked how full it is every few seconds, not with each saga.
func TestAdmissionAsksSeldom(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	g := &gauge{usage: store.Usage{Used: 1, Quota: 100}}
	a := newAdmission(Deps{Deps: service.Deps{Store: g, Now: func() time.Time { return now }}})
	for range 100 {
		if err := a.admit(t.Context()); err != nil {
			t.Fatal(err)
		}
		now = now.Add(lookEvery / 50)
	}
	if g.asked != 2 {
		t.Errorf("it was asked %d times", g.asked)
	}
}
