package engine_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/bus/membus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store/memstore"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/engine"
)

// asked is what a client asks of the stack: to apply a document, or with none to read it.
type asked struct{ apply string }

// told is what it was told: what was read; or whether the apply took effect, which may not be known.
type told struct{ read, applied string }

const (
	took, tookNot, unknown = "took effect", "took no effect", "not known"
)

// register is what a stack is to its clients: a document, which an apply replaces at one moment between its beginning and
// the end of its operation.
var register = porcupine.NondeterministicModel{
	Init: func() []any { return []any{""} },
	Step: func(state, input, output any) []any {
		in, ok := input.(asked)
		out, fits := output.(told)
		switch {
		case !ok || !fits, in.apply == "" && out.read != state:
			return nil
		case in.apply == "", out.applied == tookNot:
			return []any{state}
		case out.applied == took:
			return []any{in.apply}
		default:
			return []any{state, in.apply}
		}
	},
}

// TestHistoryIsLinearizable has clients apply documents to one stack and read it, all at once, while orchestrators are killed,
// answers of the store are lost and messages come late: what they are told is what one stack would tell that does one
// thing after the other (checked by porcupine, https://github.com/anishathalye/porcupine).
func TestHistoryIsLinearizable(t *testing.T) {
	counts := map[string]int{}
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) {
				h := &history{rig: r, random: rand.New(rand.NewPCG(seed, 1))}
				h.disturb()
				var clients sync.WaitGroup
				for client := range 4 {
					clients.Go(func() { h.client(client) })
				}
				clients.Wait()
				h.calm()
				if result := porcupine.CheckOperationsTimeout(register.ToModel(), h.operations, time.Minute); result != porcupine.Ok {
					t.Errorf("the history is %s:", result)
					for _, o := range h.operations {
						t.Logf("client %d: %6d to %6d ms %+v %+v", o.ClientId, o.Call/1e6, o.Return/1e6, o.Input, o.Output)
					}
				}
				for what, n := range h.counts {
					counts[what] += n
				}
			})
		})
	}
	if counts[took] < 12 || counts[tookNot] < 12 {
		t.Errorf("histories that say little: %v", counts)
	}
}

// history is what clients did.
type history struct {
	*rig

	mu         sync.Mutex
	random     *rand.Rand
	operations []porcupine.Operation
	counts     map[string]int
	planning   sync.Mutex
	stopped    bool
}

func (h *history) draw(n int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.random.IntN(n)
}

// disturb breaks things until calm is called.
func (h *history) disturb() {
	h.bus.SetFate(func(bus.Message) membus.Fate {
		return membus.Fate{Drop: h.draw(12) == 0, Copies: h.draw(8) / 7}
	})
	h.store.SetFaults(memstore.Faults{After: func(op, key string) error {
		if op == memstore.OpTxn && !strings.HasPrefix(key, "/weft/orchestrator/so/") && key != ownerKey && h.draw(15) == 0 {
			return fault.New(fault.Unavailable, "the answer is lost")
		}
		return nil
	}})
	go func() {
		for {
			time.Sleep(time.Duration(500+h.draw(3000)) * time.Millisecond)
			h.mu.Lock()
			over := h.stopped
			h.mu.Unlock()
			if over {
				return
			}
			h.end()
			h.start()
		}
	}()
}

func (h *history) calm() {
	h.mu.Lock()
	h.stopped = true
	h.mu.Unlock()
	h.bus.SetFate(nil)
	h.store.SetFaults(memstore.Faults{})
	time.Sleep(5 * time.Second) // the last disturbance ends
	synctest.Wait()
}

// client asks a few things, one after the other.
func (h *history) client(id int) {
	for i := range 6 {
		time.Sleep(time.Duration(h.draw(1500)) * time.Millisecond)
		in, call := asked{}, time.Now().UnixNano()
		if h.draw(2) == 0 {
			in.apply = fmt.Sprint(1000 + 100*id + i)
		}
		out, known := h.ask(in, fmt.Sprintf("%d-%d", id, i))
		if !known {
			continue // a read that failed tells nothing
		}
		h.mu.Lock()
		h.operations = append(h.operations, porcupine.Operation{ClientId: id, Input: in, Call: call, Output: out, Return: time.Now().UnixNano()})
		if h.counts == nil {
			h.counts = map[string]int{}
		}
		h.counts[out.applied]++
		h.mu.Unlock()
	}
}

func (h *history) ask(in asked, operation string) (out told, known bool) {
	ctx := context.WithoutCancel(h.Context())
	if in.apply == "" {
		kept, _, err := h.eng().ReadStack(ctx, stackName)
		return told{read: mtuOf(kept)}, err == nil || fault.Is(err, fault.NotFound)
	}
	h.planning.Lock()
	p, changing, revision := h.plan(operation, strings.Replace(shop(1400, "a"), "1400", in.apply, 1))
	h.planning.Unlock()
	if !h.idle(ctx, revision) {
		return told{applied: tookNot}, true
	}
	err := h.eng().Begin(ctx, p, changing, revision)
	if fault.Is(err, fault.Conflict) {
		return told{applied: tookNot}, true
	}
	return told{applied: h.outcome(ctx, p.GetName())}, true
}

// idle tells whether no operation works on the stack as it was planned from, as the API of stacks makes sure of before it
// begins another.
func (h *history) idle(ctx context.Context, revision int64) bool {
	kept, now, err := h.eng().ReadStack(ctx, stackName)
	if fault.Is(err, fault.NotFound) || now != revision {
		return revision == 0
	}
	last, readErr := h.eng().Read(ctx, kept.GetStack().GetOperation())
	return err == nil && readErr == nil && engine.OverOperation(last.GetOperation())
}

// outcome waits until an operation has ended. One that is not there after a while may yet come, or never: it is not known.
func (h *history) outcome(ctx context.Context, name string) string {
	for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		kept, err := h.eng().Read(ctx, name)
		switch {
		case fault.Is(err, fault.NotFound) && time.Until(end) < 9*time.Minute:
			return unknown
		case err != nil || !engine.OverOperation(kept.GetOperation()):
		case kept.GetOperation().GetState() == done:
			return took
		default:
			return tookNot
		}
	}
	return unknown
}

// mtuOf gives what tells the documents of the clients apart; empty if there is no stack, or none was ever applied.
func mtuOf(kept *orchestratorv1.StackRecord) string {
	if kept.GetStack().GetMetadata().GetGeneration() == 0 {
		return ""
	}
	_, rest, found := strings.Cut(kept.GetStack().GetDocument(), "mtu: ")
	if !found {
		return ""
	}
	mtu, _, _ := strings.Cut(rest, "}")
	return mtu
}
