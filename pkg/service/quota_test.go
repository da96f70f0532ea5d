package service_test

import (
	"testing"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/driver/memdriver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/service"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// drawn wants the tenant to take so many of the virtual CPUs.
func (r *rig) drawn(when string, want int64) {
	r.Helper()
	state, err := service.Quotas(r.store).Read(r.Context(), "acme")
	if err != nil {
		r.Fatal(err)
	}
	if n := state.Used[quota.VCPUs]; n != want {
		r.Errorf("%s: %d are drawn, want %d", when, n, want)
	}
}

// TestDrawFallsWhenItIsDone makes a resource smaller and larger. It draws less only once the object is smaller: asking is not
// enough, since the provider may refuse. To ask for a size that there is not is refused.
func TestDrawFallsWhenItIsDone(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		update := func(mtu int32) (*longrunningpb.Operation, error) {
			return r.client.UpdateNetwork(t.Context(), &networkv1.UpdateNetworkRequest{Network: &networkv1.Network{Name: acme + "/networks/net", Spec: &networkv1.NetworkSpec{Mtu: mtu}}})
		}
		must := func(mtu int32) *longrunningpb.Operation {
			op, err := update(mtu)
			if err != nil {
				t.Fatal(err)
			}
			return op
		}
		r.succeeded(r.create("net", 1400), nil)
		r.drawn("made", 1400)
		_, err := update(1313)
		r.want(err, fault.Invalid, "spec.mtu")
		r.drawn("refused a size that there is not", 1400)

		r.networks.Inject(memdriver.Update, memdriver.Fault{Err: fault.New(fault.Denied, "not smaller"), Times: 1})
		op := must(1300)
		r.drawn("asked to be smaller", 1400)
		if op = r.wait(op); op.GetError() == nil {
			t.Fatalf("%v", op)
		}
		r.drawn("not made smaller", 1400)
		r.succeeded(must(1300), nil)
		r.drawn("made smaller", 1300)

		op = must(1500)
		r.drawn("asked to be larger", 1500)
		r.succeeded(op, nil)
		r.drawn("made larger", 1500)
	})
}

// TestSizesInPreflight looks at items whose sizes cannot be told: each has one finding, at the field if that is wrong.
func TestSizesInPreflight(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		for mtu, want := range map[float64]string{1313: "spec.mtu", 1314: "cloud"} {
			spec, err := structpb.NewStruct(map[string]any{"mtu": mtu})
			if err != nil {
				t.Fatal(err)
			}
			item := &participantv1.Item{Name: acme + "/networks/net", Type: "network.weft.cloud/Network", Cloud: "clouds/lab", Spec: spec, Change: kindv1.Change_CHANGE_CREATE}
			answer, err := r.participant.Preflight(t.Context(), &participantv1.PreflightRequest{Items: []*participantv1.Item{item}})
			if err != nil {
				t.Fatal(err)
			}
			if found := answer.GetFindings(); len(found) != 1 || found[0].GetField() != want {
				t.Errorf("%v: %v", mtu, found)
			}
			if draws := answer.GetDraws(); len(draws) != 1 || draws[0].GetName() != item.GetName() || draws[0].GetFault() == nil {
				t.Errorf("%v: that it cannot be told what it draws is not told: %v", mtu, draws)
			}
		}
	})
}

// TestUnknownCountsDrawUnknown looks at a kind that is made of others, as many as fields of its spec say: if the value of one
// of these is known only later, so is all that it draws, and if that of a field of what it is made of, what that tells.
func TestUnknownCountsDrawUnknown(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		for unknown, want := range map[string]map[string]string{
			"spec.dnsServers":   {},
			"spec.cidr":         {quota.Networks: "cidr", quota.VCPUs: "cidr"},
			"gatewayIp":         {quota.Networks: "gatewayIp", quota.VCPUs: "gatewayIp"},
			"spec.template.mtu": {quota.VCPUs: "template.mtu"},
			"spec.template":     {quota.VCPUs: "template.mtu"},
		} {
			item := &participantv1.Item{
				Name: acme + "/subnets/s", Type: "network.weft.cloud/Subnet", Cloud: "clouds/lab", Spec: &structpb.Struct{}, Change: kindv1.Change_CHANGE_CREATE,
				Unknown: []string{unknown},
			}
			answer, err := r.participant.Preflight(t.Context(), &participantv1.PreflightRequest{Items: []*participantv1.Item{item}})
			if err != nil || len(answer.GetDraws()) != 1 {
				t.Fatalf("%v, %v", answer, err)
			}
			if diff := cmp.Diff(want, answer.GetDraws()[0].GetUnknown(), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s: %s", unknown, diff)
			}
		}
	})
}
