package membus_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/bus/bustest"
	"github.com/weftcloud/weft/pkg/bus/membus"
	"github.com/weftcloud/weft/pkg/fault"
)

func TestConformance(t *testing.T) {
	bustest.Run(t, func(t *testing.T) bus.Bus {
		b := membus.New()
		t.Cleanup(func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
		return b
	})
}

func command(id string) bus.Message {
	return bus.Message{Subject: bus.CommandSubject("network", bus.PriorityNormal, "acme", "subnets"), ID: id}
}

func TestFates(t *testing.T) {
	refused := fault.New(fault.Unavailable, "refused")
	tests := map[string]struct {
		fate    membus.Fate
		want    []string
		wantErr bool
	}{
		"usual":         {want: []string{"1", "2"}},
		"refused":       {fate: membus.Fate{Err: refused}, want: []string{"2"}, wantErr: true},
		"answer lost":   {fate: membus.Fate{ErrAfter: refused}, want: []string{"1", "2"}, wantErr: true},
		"dropped":       {fate: membus.Fate{Drop: true}, want: []string{"2"}},
		"doubled":       {fate: membus.Fate{Copies: 1}, want: []string{"1", "1", "2"}},
		"comes back":    {fate: membus.Fate{Copies: 1, CopyDelay: time.Minute}, want: []string{"1", "2", "1"}},
		"late":          {fate: membus.Fate{Delay: time.Second}, want: []string{"2", "1"}},
		"late and back": {fate: membus.Fate{Delay: time.Second, Copies: 1, CopyDelay: time.Second}, want: []string{"2", "1", "1"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := membus.New()
				b.SetFate(func(m bus.Message) membus.Fate {
					if m.ID == "1" {
						return test.fate
					}
					return membus.Fate{}
				})
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				if err := b.Publish(ctx, command("1")); (err != nil) != test.wantErr {
					t.Errorf("Publish = %v, want an error: %t", err, test.wantErr)
				}
				if err := b.Publish(ctx, command("2")); err != nil {
					t.Errorf("Publish: %v", err)
				}
				var got []string
				err := b.Consume(ctx, bus.CommandQueue("network", bus.PriorityNormal), 1, func(_ context.Context, d bus.Delivery) bus.Verdict {
					got = append(got, d.ID)
					return bus.Ack
				})
				if err != nil {
					t.Errorf("Consume: %v", err)
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("delivered (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// A sender that repeats what was refused, and a receiver that forgets doubles, get everything across any lie but a drop.
func TestLyingLosesNothingThatIsRepeated(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			b := membus.New()
			b.SetFate(membus.Lying(seed, membus.Odds{Refuse: 0.2, LoseAnswer: 0.2, Double: 0.2, Delay: 0.3, MaxDelay: time.Second}))
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			var mu sync.Mutex
			seen := map[string]int{}
			var running sync.WaitGroup
			running.Go(func() {
				err := b.Consume(ctx, bus.CommandQueue("network", bus.PriorityNormal), 4, func(_ context.Context, d bus.Delivery) bus.Verdict {
					mu.Lock()
					defer mu.Unlock()
					seen[d.ID]++
					return bus.Ack
				})
				if err != nil {
					t.Errorf("Consume: %v", err)
				}
			})
			for i := range 50 {
				for b.Publish(ctx, command(fmt.Sprint(i))) != nil {
				}
			}
			running.Wait()
			doubles := 0
			for i := range 50 {
				if seen[fmt.Sprint(i)] == 0 {
					t.Errorf("seed %d: message %d was lost", seed, i)
				}
				doubles += seen[fmt.Sprint(i)] - 1
			}
			if doubles == 0 {
				t.Errorf("seed %d: the bus doubled nothing: it did not lie", seed)
			}
		})
	}
}

func TestSameSeedSameFates(t *testing.T) {
	fates := func() []membus.Fate {
		decide := membus.Lying(7, membus.Odds{Drop: 0.5, Delay: 0.5, MaxDelay: time.Second})
		var out []membus.Fate
		for range 20 {
			out = append(out, decide(bus.Message{}))
		}
		return out
	}
	first := fates()
	if !slices.Equal(first, fates()) {
		t.Error("the same seed gave other fates")
	}
	if !slices.ContainsFunc(first, func(f membus.Fate) bool { return f.Drop }) {
		t.Error("half of the messages should be dropped, none is")
	}
}

func TestFullQueueThrottles(t *testing.T) {
	b := membus.New()
	m := command("")
	m.Data = make([]byte, 1<<26)
	for range 16 {
		if err := b.Publish(t.Context(), m); err != nil {
			t.Fatalf("Publish into a queue with room: %v", err)
		}
	}
	if err := b.Publish(t.Context(), m); !fault.Is(err, fault.Throttled) {
		t.Errorf("Publish into a full queue = %v, want Throttled", err)
	}
}

func TestOldMessagesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := membus.New()
		if err := b.Publish(t.Context(), command("1")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Minute)
		if got := b.Pending("CMD_network"); got != 1 {
			t.Errorf("%d messages before their age, want 1", got)
		}
		time.Sleep(time.Minute)
		if got := b.Pending("CMD_network"); got != 0 {
			t.Errorf("%d messages after their age, want none", got)
		}
	})
}
