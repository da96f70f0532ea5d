package orchestrator

import (
	"context"
	"sync"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
)

// Bounds beyond which no new saga is begun. Those that run are never refused anything.
const (
	// fullest is the part of the store's quota that may be in use.
	fullest = 0.6
	// longestQueue is how many transactions may wait to be written.
	longestQueue = 2000
	// lookEvery is how often the store is asked how full it is.
	lookEvery = 5 * time.Second
	// comeBack is how long who is refused is asked to wait.
	comeBack = 5 * time.Second
)

// admission refuses new sagas before the store is in danger.
type admission struct {
	store store.Store
	now   func() time.Time

	mu     sync.Mutex
	looked time.Time
	used   float64
}

func newAdmission(deps Deps) *admission { return &admission{store: deps.Store, now: deps.Now} }

// admit says whether there is room for one more saga; the error is Throttled.
func (a *admission) admit(ctx context.Context) error {
	if queue, ok := a.store.(interface{ Waiting() int }); ok && queue.Waiting() > longestQueue {
		return &fault.Error{Kind: fault.Throttled, RetryAfter: comeBack, Message: "the platform has more to write down than it can; try again in a while"}
	}
	meter, ok := a.store.(store.Meter)
	if !ok {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.now().Sub(a.looked) >= lookEvery {
		usage, err := meter.Usage(ctx)
		if err != nil {
			return fault.Wrap(err, "look how full the store is")
		}
		a.looked, a.used = a.now(), usage.Part()
	}
	if a.used > fullest {
		return &fault.Error{
			Kind: fault.Throttled, RetryAfter: time.Minute,
			Message: "the platform's store is nearly full and takes no new operations; an operator must make room (etcd: compact and defragment, or raise the quota)",
		}
	}
	return nil
}
