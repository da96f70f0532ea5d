package engine

import (
	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/saga"
)

// QueueHeld queues for a saga what clouds were held at some time, as Hold does, but late.
func (e *Engine) QueueHeld(stack, name string, clouds []string) {
	e.mu.Lock()
	p := e.parts[bus.ShardOf(stack)]
	e.mu.Unlock()
	p.post(p.find(name), posted{event: saga.CloudsHeld{Clouds: clouds}})
}
