package openstack

import (
	"strconv"
	"strings"
	"testing"

	neutron "github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"

	"github.com/weftcloud/weft/pkg/cloud/openstack/openstacktest"
)

// exposed is a workload with two ports on nodes.
func exposed(pattern string, nodes ...*containerv1.Node) *containerv1.Workload {
	return &containerv1.Workload{
		Name: "tenants/conform/workloads/web",
		Spec: &containerv1.WorkloadSpec{
			Exposure: containerv1.Exposure_EXPOSURE_NODES, Containers: []*containerv1.Container{{Ports: []int32{8080}}, {Ports: []int32{9090}}},
		},
		Observed: &containerv1.WorkloadObserved{NodePorts: []int32{30080, 30090}, Nodes: nodes, NodePortName: pattern},
	}
}

func TestPlaces(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		n, _ := p.Network(t, "10.87.0.0/24")
		id := n.GetObserved().GetNetworkId()
		device := "5d1c1f0c-29a3-4fd5-8f0e-0f8c6a1b2c3d"
		byServer, serverAddress := p.PortAs(t, neutron.CreateOpts{Name: "vm", NetworkID: id, DeviceID: device})
		byAddress, address := p.PortAs(t, neutron.CreateOpts{Name: "some", NetworkID: id})
		byName, nameAddress := p.PortAs(t, neutron.CreateOpts{Name: "doors-k8s-node-9", NetworkID: id})
		for what, c := range map[string]struct {
			target  proto.Message
			network string
			port    int32
			want    string // port, address and number
			kind    fault.Kind
		}{
			"a server": {
				&computev1.Server{Observed: &computev1.ServerObserved{Interfaces: []*computev1.ServerInterface{{PortId: byServer}}}}, "", 80,
				byServer + " " + serverAddress + " 80", "",
			},
			"a member of a group that is in service": {
				&computev1.ScalingGroup{Observed: &computev1.ScalingGroupObserved{Members: []*computev1.Member{
					{ProviderId: device, State: computev1.MemberState_MEMBER_STATE_IN_SERVICE}, {ProviderId: "other", State: computev1.MemberState_MEMBER_STATE_DRAINING},
				}}}, id, 80, byServer + " " + serverAddress + " 80", "",
			},
			"a group without one":     {&computev1.ScalingGroup{}, id, 80, "", fault.Precondition},
			"a node that is a server": {exposed("", &containerv1.Node{Name: "a", ProviderId: "openstack:///" + device}), id, 9090, byServer + " " + serverAddress + " 30090", ""},
			"a node of a region":      {exposed("", &containerv1.Node{Name: "a", ProviderId: "openstack://one/" + device}), "", 8080, byServer + " " + serverAddress + " 30080", ""},
			"a node by its address":   {exposed("", &containerv1.Node{Name: "a", Addresses: []string{"192.0.2.77", address}}), id, 8080, byAddress + " " + address + " 30080", ""},
			"a node by its port's name": {
				exposed("doors-k8s-{node}", &containerv1.Node{Name: "node-9", Addresses: []string{"192.0.2.77"}}), id, 8080, byName + " " + nameAddress + " 30080", "",
			},
			"a node that has no port there": {exposed("", &containerv1.Node{Name: "none"}), id, 8080, "", fault.Precondition},
			"no node":                       {exposed(""), id, 8080, "", fault.Precondition},
			"a port that no container has":  {exposed("", &containerv1.Node{Name: "a"}), id, 1, "", fault.Invalid},
			"a workload inside its cluster": {&containerv1.Workload{Spec: &containerv1.WorkloadSpec{}}, id, 8080, "", fault.Invalid},
			"what answers nowhere":          {&networkv1.Network{}, id, 80, "", fault.Unsupported},
		} {
			found, err := targets{p.Session}.places(t.Context(), c.target, c.port, c.network)
			if c.kind != "" {
				if !fault.Is(err, c.kind) {
					t.Errorf("%s: got %v, %v; want %s", what, found, err, c.kind)
				}
				continue
			}
			if err != nil || len(found) != 1 {
				t.Errorf("%s: got %v, %v; want one place", what, found, err)
				continue
			}
			got := strings.Join([]string{found[0].portID, found[0].address, strconv.Itoa(int(found[0].port))}, " ")
			if got != c.want || found[0].subnetID == "" || found[0].networkID != id {
				t.Errorf("%s: got %s on %+v, want %s", what, got, found[0], c.want)
			}
		}
	})
}
