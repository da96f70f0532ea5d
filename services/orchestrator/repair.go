package orchestrator

import (
	"context"
	"time"

	"github.com/weftcloud/weft/pkg/record"
)

// defaultRepairEvery is the time between two looks for stacks that want to be repaired by themselves.
const defaultRepairEvery = 30 * time.Second

// repair repairs, as often as what stands is looked at, the stacks that want that; one replica does, the one that owns the
// first shard.
func (o *Orchestrator) repair(ctx context.Context) error {
	every := o.deps.ObserveEvery
	if every < 0 {
		return nil
	}
	if every == 0 {
		every = defaultRepairEvery
	}
	told := map[string]string{}
	for ctx.Err() == nil {
		pause(ctx, every)
		if own, _ := o.engine.Owns(0); !own || ctx.Err() != nil {
			continue
		}
		held, err := o.repairRound(ctx)
		if err != nil && ctx.Err() == nil {
			o.deps.Logger.Warn("repair what drifted", "error", err)
		}
		for stack, why := range held {
			if told[stack] != why {
				o.deps.Logger.Warn("a stack is not repaired by itself", "stack", stack, "reason", why)
			}
		}
		told = held
	}
	return nil
}

func (o *Orchestrator) repairRound(ctx context.Context) (map[string]string, error) {
	entries, _, err := o.Book().List(ctx, "tenants/", record.ID{}, 0)
	if err != nil {
		return nil, err
	}
	var tenants []string
	for _, e := range entries {
		if e.Kind.Name == "Tenant" {
			tenants = append(tenants, e.Name[len("tenants/"):])
		}
	}
	return o.stacks.RepairDrifted(ctx, tenants)
}
