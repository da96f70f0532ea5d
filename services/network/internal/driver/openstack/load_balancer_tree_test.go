package openstack

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

const (
	http  = networkv1.ListenerProtocol_LISTENER_PROTOCOL_HTTP
	https = networkv1.ListenerProtocol_LISTENER_PROTOCOL_HTTPS
	udp   = networkv1.ListenerProtocol_LISTENER_PROTOCOL_UDP
)

func TestTreeDefaults(t *testing.T) {
	got, err := treeOf(&networkv1.LoadBalancerSpec{
		Listeners: []*networkv1.LoadBalancerListener{{Name: "web", Protocol: http, Port: 80, AllowedCidrs: []string{"192.0.2.0/24", "10.1.2.3/8", "10.0.0.0/8"}}},
		Pools:     []*networkv1.LoadBalancerPool{{Name: "all"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if l := got.listeners[0]; l.pool != "all" || !slices.Equal(l.cidrs, []string{"10.0.0.0/8", "192.0.2.0/24"}) {
		t.Errorf("listener %+v", l)
	}
	want := monitor{kind: "HTTP", delay: 3, timeout: 2, retries: 2, path: "/", codes: "200"}
	if p := got.pools[0]; p.protocol != "HTTP" || p.algorithm != "ROUND_ROBIN" || p.monitor == nil || *p.monitor != want {
		t.Errorf("pool %+v with monitor %+v, want HTTP, ROUND_ROBIN and %+v", p, p.monitor, want)
	}
}

func TestTreeRefuses(t *testing.T) {
	type listener = networkv1.LoadBalancerListener
	type pool = networkv1.LoadBalancerPool
	type watch = networkv1.LoadBalancerMonitor
	one := func(l *listener, p *pool) *networkv1.LoadBalancerSpec {
		l.Name, p.Name, l.Port = "web", "web", 80
		return &networkv1.LoadBalancerSpec{Listeners: []*listener{l}, Pools: []*pool{p}}
	}
	cookie := &networkv1.LoadBalancerPersistence{Type: networkv1.PersistenceType_PERSISTENCE_TYPE_HTTP_COOKIE}
	for name, c := range map[string]struct {
		spec  *networkv1.LoadBalancerSpec
		field string
	}{
		"no such pool":      {one(&listener{Pool: "wep"}, &pool{}), "spec.listeners[0].pool"},
		"which pool":        {&networkv1.LoadBalancerSpec{Listeners: []*listener{{Name: "c", Port: 1}}, Pools: []*pool{{Name: "a"}, {Name: "b"}}}, "spec.listeners[0].pool"},
		"two of a name":     {&networkv1.LoadBalancerSpec{Listeners: []*listener{{Name: "a", Port: 1}, {Name: "a", Port: 2}}, Pools: []*pool{{Name: "a"}}}, "spec.listeners[1].name"},
		"two pools":         {&networkv1.LoadBalancerSpec{Listeners: []*listener{{Name: "a", Port: 1}}, Pools: []*pool{{Name: "a"}, {Name: "a"}}}, "spec.pools[1].name"},
		"two on a port":     {&networkv1.LoadBalancerSpec{Listeners: []*listener{{Name: "a", Port: 1}, {Name: "b", Port: 1, Protocol: http}}, Pools: []*pool{{Name: "a"}}}, "spec.listeners[1].port"},
		"UDP to HTTP":       {one(&listener{Protocol: udp}, &pool{Protocol: http}), "spec.listeners[0].pool"},
		"cookie over TLS":   {one(&listener{Protocol: https}, &pool{Persistence: cookie}), "spec.pools[0].persistence.type"},
		"cookie's name":     {one(&listener{Protocol: http}, &pool{Persistence: &networkv1.LoadBalancerPersistence{Type: networkv1.PersistenceType_PERSISTENCE_TYPE_APP_COOKIE}}), "spec.pools[0].persistence.cookie"},
		"half a second":     {one(&listener{}, &pool{Monitor: &watch{Delay: durationpb.New(1500 * time.Millisecond)}}), "spec.pools[0].monitor.delay"},
		"slow answer":       {one(&listener{}, &pool{Monitor: &watch{Delay: durationpb.New(2 * time.Second), Timeout: durationpb.New(2 * time.Second)}}), "spec.pools[0].monitor.timeout"},
		"path of TCP":       {one(&listener{}, &pool{Monitor: &watch{UrlPath: "/ok"}}), "spec.pools[0].monitor.urlPath"},
		"codes of TCP":      {one(&listener{}, &pool{Monitor: &watch{ExpectedCodes: "200"}}), "spec.pools[0].monitor.expectedCodes"},
		"UDP watch of TCP":  {one(&listener{}, &pool{Monitor: &watch{Type: networkv1.MonitorType_MONITOR_TYPE_UDP_CONNECT}}), "spec.pools[0].monitor.type"},
		"member of nothing": {one(&listener{}, &pool{Members: []*networkv1.LoadBalancerMember{{Port: 1}}}), "spec.pools[0].members[0]"},
		"member twice":      {one(&listener{}, &pool{Members: []*networkv1.LoadBalancerMember{{Port: 1, Target: "a", Address: "10.0.0.1"}}}), "spec.pools[0].members[0]"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := treeOf(c.spec); !fault.Is(err, fault.Invalid) || fault.Field(err) != c.field {
				t.Errorf("got %v in %q, want Invalid in %q", err, fault.Field(err), c.field)
			}
		})
	}
}

// TestWithin: what is documented of a provider decides, and of an unknown one only the common things are believed.
func TestWithin(t *testing.T) {
	datagrams := tree{listeners: []listener{{name: "dns", protocol: "UDP", port: 53, pool: "dns"}}, pools: []pool{{name: "dns", protocol: "UDP", algorithm: "ROUND_ROBIN"}}}
	requests := tree{listeners: []listener{{name: "web", protocol: "HTTP", port: 80, pool: "web"}}, pools: []pool{{name: "web", protocol: "HTTP", algorithm: "ROUND_ROBIN"}}}
	for name, c := range map[string]struct {
		tree     tree
		provider string
		field    string
	}{
		"amphora has datagrams":         {datagrams, "amphora", ""},
		"ovn balances by source only":   {datagrams, "ovn", "spec.pools[0].algorithm"},
		"ovn reads no requests":         {requests, "ovn", "spec.listeners[0].protocol"},
		"an unknown one has requests":   {requests, "haproxy", ""},
		"an unknown one, no datagrams":  {datagrams, "haproxy", "spec.listeners[0].protocol"},
		"amphora under its second name": {datagrams, "octavia", ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.tree.within(c.provider)
			if fault.Field(err) != c.field || (c.field != "") != fault.Is(err, fault.Unsupported) {
				t.Errorf("got %v in %q, want it in %q", err, fault.Field(err), c.field)
			}
		})
	}
}

// TestChangesOrder: what is new is whole before a listener leads to it, and what goes is led nowhere before it goes.
func TestChangesOrder(t *testing.T) {
	want := tree{
		listeners: []listener{{name: "web", protocol: "HTTP", port: 80, pool: "new"}},
		pools:     []pool{{name: "new", protocol: "HTTP", algorithm: "ROUND_ROBIN", members: []member{{address: "10.0.0.1", port: 80, weight: 1}}}},
	}
	standing := tree{
		listeners: []listener{{id: "l1", name: "web", protocol: "HTTP", port: 80, pool: "old"}, {id: "l2", name: "gone", protocol: "TCP", port: 81, pool: "old"}},
		pools:     []pool{{id: "p1", name: "old", protocol: "HTTP", algorithm: "ROUND_ROBIN"}},
	}
	order := func(all []change) []string {
		var out []string
		for _, c := range all {
			out = append(out, c.verb+" "+c.what)
		}
		return out
	}
	if got, w := order(changes(want, standing)), []string{"delete listener gone", "create pool new", "delete pool old"}; !slices.Equal(got, w) {
		t.Errorf("first %q, want %q", got, w)
	}
	standing.listeners = standing.listeners[:1]
	standing.pools = append(standing.pools, pool{id: "p2", name: "new", protocol: "HTTP", algorithm: "ROUND_ROBIN"})
	if got, w := order(changes(want, standing)), []string{"members members of pool new", "update listener web", "delete pool old"}; !slices.Equal(got, w) {
		t.Errorf("then %q, want %q", got, w)
	}
	if complete([]change{{verb: "create", pool: &pool{}}}) || !complete([]change{{verb: "create", listener: &listener{}}}) {
		t.Error("a pool that was just made is empty, and a listener is whole")
	}
}

// TestFollowsTargets: what a load balancer follows changes with where its targets answer, and with nothing else.
func TestFollowsTargets(t *testing.T) {
	const name = "tenants/conform/servers/web"
	spec := &networkv1.LoadBalancerSpec{Pools: []*networkv1.LoadBalancerPool{{Name: "web", Members: []*networkv1.LoadBalancerMember{{Target: name, Port: 80}, {Address: "10.0.0.1", Port: 80}}}}}
	d := NewLoadBalancers(nil)
	of := func(m proto.Message) string {
		return d.Follows(driver.Request[*networkv1.LoadBalancerSpec]{Spec: spec, Refs: driver.Refs{name: m}})
	}
	server := func(port string, power computev1.PowerState) proto.Message {
		return &computev1.Server{Name: name, Observed: &computev1.ServerObserved{PowerState: power, Interfaces: []*computev1.ServerInterface{{PortId: port, Address: "10.0.0.9"}}}}
	}
	workload := func(ports ...int32) proto.Message {
		return &containerv1.Workload{Observed: &containerv1.WorkloadObserved{NodePorts: ports, Nodes: []*containerv1.Node{{Name: "n"}}}}
	}
	if of(server("a", 0)) != of(server("a", 1)) || of(server("a", 0)) == of(server("b", 0)) {
		t.Error("a server is followed by its ports")
	}
	if of(workload(30001)) == of(workload(30002)) {
		t.Error("a workload is followed by the ports of the nodes")
	}
	other := func(id string) proto.Message {
		return &networkv1.Subnet{Observed: &networkv1.SubnetObserved{SubnetId: id}}
	}
	if of(other("a")) == of(other("b")) {
		t.Error("of any other kind all that is observed is followed")
	}
}
