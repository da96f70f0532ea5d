package stack_test

import (
	"strings"
	"testing"

	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// TestAdoptionOfUnknownSizeIsRefused adopts an object of which it cannot be told how much it takes: it would take nothing of the
// tenant's quotas for as long as it stands. What else is wrong with it as it is does not matter: nothing is done to it.
func TestAdoptionOfUnknownSizeIsRefused(t *testing.T) {
	const document = head + "  data: {kind: Volume, adopt: abc, spec: {size: 100Gi}}\n"
	plan := func(why *kindv1.Fault) error {
		w := newWorld(t)
		w.draws = func(i *participantv1.Item) *participantv1.Draw {
			if i.GetChange() != kindv1.Change_CHANGE_CREATE {
				return &participantv1.Draw{Name: i.GetName()}
			}
			return &participantv1.Draw{Name: i.GetName(), Amounts: map[string]int64{"volumes": 1}, Fault: why}
		}
		_, err := w.server.PlanStack(t.Context(), &orchestratorv1.PlanStackRequest{Parent: "tenants/acme", Document: document, DocumentName: "s.yaml"})
		return err
	}
	if err := plan(nil); err != nil {
		t.Errorf("of a known size: %v", err)
	}
	err := plan(&kindv1.Fault{Kind: string(fault.Unavailable), Message: "the sizes are not at hand"})
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "shop.data") {
		t.Errorf("of a size that cannot be told: %v", err)
	}
}
