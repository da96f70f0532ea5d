package stack_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/saga"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
)

// begun keeps the sagas that are begun.
type begun struct {
	plans   []*orchestratorv1.SagaPlan
	refuses string // the stack of which none can be begun
}

// Begin implements engine.Sagas.
func (b *begun) Begin(_ context.Context, p *orchestratorv1.SagaPlan, _ *orchestratorv1.StackRecord, _ int64) error {
	if p.GetStack() == b.refuses {
		return fault.New(fault.Unavailable, "the lights are off")
	}
	b.plans = append(b.plans, p)
	return nil
}

// Act implements engine.Sagas.
func (b *begun) Act(context.Context, string, string, saga.Event) error { return nil }

// told gives the steps of the sagas that were begun, of each stack.
func (b *begun) told() string {
	var out []string
	for _, p := range b.plans {
		stack := p.GetStack()[strings.LastIndexByte(p.GetStack(), '/')+1:]
		for _, s := range p.GetSteps() {
			stack += " " + s.GetId()
		}
		out = append(out, stack)
	}
	return strings.Join(out, ", ")
}

const wantsRepair = "kind: Stack\nname: shop\nplacement: {cloud: lab}\ndrift: {repair: RECREATE}\nresources:\n"

// networks puts a stack of networks called a, b and c, all of which stand, and gives its record. Its document has those
// that are given.
func (w *world) networks(name string, documented ...string) *orchestratorv1.StackRecord {
	w.Helper()
	document := strings.Replace(wantsRepair, "shop", name, 1)
	for _, local := range documented {
		document += "  " + local + ": {kind: Network, spec: {}}\n"
	}
	record := &orchestratorv1.StackRecord{Stack: &orchestratorv1.Stack{
		Name: "tenants/acme/stacks/" + name, Document: document, State: orchestratorv1.StackState_STACK_STATE_READY, Metadata: &kindv1.Metadata{Key: name},
	}}
	for _, local := range []string{"a", "b", "c"} {
		full := "tenants/acme/networks/" + name + "." + local
		record.Standing = append(record.Standing, &orchestratorv1.StandingResource{
			LocalName: local, Name: full, Type: "network.weft.cloud/Network", Key: name + "-" + local, Cloud: "clouds/lab", Spec: &structpb.Struct{}, Resolved: &structpb.Struct{},
		})
		w.standing[full] = &networkv1.Network{Name: full, Status: &kindv1.Status{ProviderId: "id-" + name + local}}
	}
	w.put(record)
	return record
}

func (w *world) drift(name string, typ kindv1.DriftType) {
	w.standing[name] = &networkv1.Network{Name: name, Status: &kindv1.Status{Drift: &kindv1.Drift{Type: typ}}}
}

// repairs begins what may be repaired without a word, and tells what was begun and why the rest is held.
func (w *world) repairs() (did string, held map[string]string) {
	w.Helper()
	b := &begun{}
	w.server.Sagas = b
	held, err := w.server.RepairDrifted(w.Context(), []string{"acme"})
	if err != nil {
		w.Fatal(err)
	}
	return b.told(), held
}

// TestRepairBringsBackOnlyWhatDrifted repairs a stack whose document was applied as it is, and holds one whose document would
// do more: nobody asked for that.
func TestRepairBringsBackOnlyWhatDrifted(t *testing.T) {
	tests := map[string]struct {
		document string
		want     string
		held     string
	}{
		"applied":            {want: "shop b"},
		"a resource less":    {document: "  a: {kind: Network, spec: {}}\n  b: {kind: Network, spec: {}}\n", held: "changes that were not applied, such as of c"},
		"a resource changed": {document: "  a: {kind: Network, spec: {}}\n  b: {kind: Network, spec: {}}\n  c: {kind: Network, spec: {mtu: 1400}}\n", held: "changes that were not applied, such as of c"},
		"a resource more":    {document: "  a: {kind: Network, spec: {}}\n  b: {kind: Network, spec: {}}\n  c: {kind: Network, spec: {}}\n  d: {kind: Network, spec: {}}\n", held: "changes that were not applied, such as of d"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			record := w.networks("shop", "a", "b", "c")
			if test.document != "" {
				record.Stack.Document = wantsRepair + test.document
				w.put(record)
			}
			w.drift("tenants/acme/networks/shop.b", kindv1.DriftType_DRIFT_TYPE_CHANGED)
			did, held := w.repairs()
			if did != test.want || !strings.Contains(held[shop], test.held) || (held[shop] == "") != (test.held == "") {
				t.Errorf("it began %q, want %q; held because %q, want %q", did, test.want, held[shop], test.held)
			}
		})
	}
}

// TestRoundGoesOn repairs the other stacks when one cannot be looked at and another cannot be planned.
func TestRoundGoesOn(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"one", "shop", "two"} {
		w.networks(name, "a", "b", "c")
		w.drift("tenants/acme/networks/"+name+".b", kindv1.DriftType_DRIFT_TYPE_MISSING)
	}
	w.broken = "tenants/acme/networks/one.c"
	b := &begun{refuses: shop}
	w.server.Sagas = b
	held, err := w.server.RepairDrifted(t.Context(), []string{"acme"})
	if b.told() != "two b b/release" {
		t.Errorf("it began %q, want the repair of two", b.told())
	}
	for _, stack := range []string{"tenants/acme/stacks/one", shop} {
		if !strings.Contains(held[stack], "the lights are off") || err == nil || !strings.Contains(err.Error(), "repair "+stack+":") {
			t.Errorf("%s is held because %q; the error says %v", stack, held[stack], err)
		}
	}
}

// TestRepairedTooOften holds a stack whose repairs do not last, until an hour has passed since the first.
func TestRepairedTooOften(t *testing.T) {
	w := newWorld(t)
	at := now
	w.server.Now = func() time.Time { return at }
	w.networks("shop", "a", "b", "c")
	w.drift("tenants/acme/networks/shop.b", kindv1.DriftType_DRIFT_TYPE_MISSING)
	for round := range 6 { // at 0, 15, 30 … minutes
		did, held := w.repairs()
		want := round != 3
		if strings.HasPrefix(did, "shop b") != want || strings.Contains(held[shop], "repaired 3 times") == want {
			t.Errorf("round %d: it began %q, held because %q", round, did, held[shop])
		}
		at = at.Add(15 * time.Minute)
	}
}

// TestStacksTakeTurns begins a round with the stacks that the one before had no time for.
func TestStacksTakeTurns(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		w.networks(name, "a", "b", "c")
		w.drift("tenants/acme/networks/"+name+".b", kindv1.DriftType_DRIFT_TYPE_CHANGED)
	}
	for _, want := range []string{"a b, b b, c b", "d b, e b, a b", "b b, c b, d b"} {
		if did, held := w.repairs(); did != want || len(held) > 0 {
			t.Errorf("it began %q, want %q; held %v", did, want, held)
		}
	}
}

// TestWhatHoldsDataIsHeld leaves what holds data alone, however it drifted: a volume that somebody made larger cannot shrink.
func TestWhatHoldsDataIsHeld(t *testing.T) {
	const volume = "tenants/acme/volumes/shop.data"
	for typ, want := range map[kindv1.DriftType]string{
		kindv1.DriftType_DRIFT_TYPE_CHANGED: "data holds data and was changed", kindv1.DriftType_DRIFT_TYPE_MISSING: "data holds data, which",
		kindv1.DriftType_DRIFT_TYPE_FAILED: "data holds data, which",
	} {
		w := newWorld(t)
		record := w.networks("shop", "a", "b", "c")
		record.Stack.Document += "  data: {kind: Volume, spec: {size: 1Gi}}\n"
		spec := &structpb.Struct{Fields: map[string]*structpb.Value{"size": structpb.NewStringValue("1Gi")}}
		record.Standing = append(record.Standing, &orchestratorv1.StandingResource{
			LocalName: "data", Name: volume, Type: "storage.weft.cloud/Volume", Key: "d", Cloud: "clouds/lab", Spec: spec, Resolved: spec,
		})
		w.put(record)
		w.standing[volume] = &storagev1.Volume{Name: volume, Status: &kindv1.Status{Drift: &kindv1.Drift{Type: typ}}}
		if did, held := w.repairs(); did != "" || !strings.Contains(held[shop], want) {
			t.Errorf("%s: it began %q, held because %q, want %q", typ, did, held[shop], want)
		}
	}
}

// TestDegradedAdoptsNothing refuses to have a stack adopt of which nobody knows whether it stands as asked: the end of the
// adoption would call it ready.
func TestDegradedAdoptsNothing(t *testing.T) {
	w := newWorld(t)
	record := w.networks("shop", "a", "b", "c")
	b := &begun{}
	w.server.Sagas = b
	document := record.GetStack().GetDocument() + "  mine: {kind: Network, adopt: n-1, spec: {}}\n"
	for state, refused := range map[orchestratorv1.StackState]bool{
		orchestratorv1.StackState_STACK_STATE_READY: false, orchestratorv1.StackState_STACK_STATE_DEGRADED: true,
	} {
		record.Stack.State, b.plans = state, nil
		w.put(record)
		_, err := w.server.AdoptStack(t.Context(), &orchestratorv1.AdoptStackRequest{Parent: "tenants/acme", Document: document, DocumentName: "s.yaml"})
		if (len(b.plans) == 0) != refused {
			t.Errorf("%s: %d sagas were begun, %v", state, len(b.plans), err)
		}
		if refused && !(fault.Is(err, fault.Precondition) && strings.Contains(err.Error(), "is degraded")) {
			t.Errorf("%s: %v", state, err)
		}
	}
}
