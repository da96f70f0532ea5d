package stack_test

import (
	"context"
	"strings"
	"testing"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/store"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
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

// limited has the tenant be allowed so many volumes, of which others take some, and every volume draw one.
func limited(t *testing.T, limit int64, draws map[string]*participantv1.TenantDraw) *world {
	t.Helper()
	w := newWorld(t)
	w.server.Quotas = &quota.Account{Store: w.store, Limits: func(context.Context, string) (quota.Amounts, *store.Compare, error) {
		return quota.Amounts{quota.Volumes: limit}, nil, nil
	}}
	w.draws = func(i *participantv1.Item) *participantv1.Draw {
		return &participantv1.Draw{Name: i.GetName(), Amounts: quota.Amounts{quota.Volumes: 1}}
	}
	for owner, d := range draws {
		op, err := quota.Set("acme", owner, d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.Txn(t.Context(), nil, []store.Op{op}); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// TestOwnDrawIsNoObstacle plans changes of a stack whose tenant is at its limit: what the stack itself holds, for an operation
// that another takes the place of, needs no room besides, and neither does what is gone without Weft and made anew.
func TestOwnDrawIsNoObstacle(t *testing.T) {
	one := func(n int64) quota.Amounts { return quota.Amounts{quota.Volumes: n} }
	volumes := head + "  data: {kind: Volume, spec: {size: 1Gi}}\n"
	for what, c := range map[string]struct {
		document string
		repair   kindv1.DriftType
		own      *participantv1.TenantDraw
		want     int
	}{
		"as it stands":                  {volumes, 0, &participantv1.TenantDraw{Used: one(1)}, 0},
		"one more":                      {volumes + "  more: {kind: Volume, spec: {size: 1Gi}}\n", 0, &participantv1.TenantDraw{Used: one(1)}, 1},
		"one more, which is held":       {volumes + "  more: {kind: Volume, spec: {size: 1Gi}}\n", 0, &participantv1.TenantDraw{Used: one(1), Held: one(1)}, 0},
		"two more, one of which is":     {volumes + "  more: {kind: Volume, spec: {size: 1Gi}}\n  last: {kind: Volume, spec: {size: 1Gi}}\n", 0, &participantv1.TenantDraw{Used: one(1), Held: one(1)}, 1},
		"gone":                          {volumes, kindv1.DriftType_DRIFT_TYPE_MISSING, &participantv1.TenantDraw{Used: one(1)}, 0},
		"broken, so both stand a while": {volumes, kindv1.DriftType_DRIFT_TYPE_FAILED, &participantv1.TenantDraw{Used: one(1)}, 1},
	} {
		t.Run(what, func(t *testing.T) {
			others := 2 - quota.Amounts(c.own.GetUsed()).Plus(c.own.GetHeld())[quota.Volumes]
			w := limited(t, 2, map[string]*participantv1.TenantDraw{"stacks/shop": c.own, "stacks/other": {Used: one(others)}})
			record := stands("data", "storage.weft.cloud/Volume", "tenants/acme/volumes/shop.data", map[string]any{"size": "1Gi"})
			record.Standing[0].Draws = one(1)
			w.put(record)
			w.standing["tenants/acme/volumes/shop.data"] = &storagev1.Volume{
				Name: "tenants/acme/volumes/shop.data", Metadata: &kindv1.Metadata{Key: "old"}, Status: &kindv1.Status{Drift: &kindv1.Drift{Type: c.repair}},
			}
			p, err := w.server.PlanStack(t.Context(), &orchestratorv1.PlanStackRequest{Parent: "tenants/acme", Document: c.document, DocumentName: "s.yaml", Repair: c.repair != 0})
			if err != nil {
				t.Fatal(err)
			}
			if len(p.GetProblems()) != c.want {
				t.Errorf("problems: %v", p.GetProblems())
			}
		})
	}
}
