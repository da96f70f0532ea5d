package openstack

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	neutron "github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/weftcloud/weft/pkg/cloud/openstack/openstacktest"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/driver/drivertest"
	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// behind makes a network with a server on it, as a load balancer sees it: by its port.
func behind(t *testing.T, p *openstacktest.Place, cidr string) (*networkv1.Network, *computev1.Server) {
	t.Helper()
	n, _ := p.Network(t, cidr)
	id, address := p.PortAs(t, neutron.CreateOpts{Name: "ours", Description: openstacktest.Mark, NetworkID: n.GetObserved().GetNetworkId()})
	return n, &computev1.Server{Name: "tenants/conform/servers/web", Observed: &computev1.ServerObserved{Interfaces: []*computev1.ServerInterface{
		{PortId: id, NetworkId: n.GetObserved().GetNetworkId(), Address: address},
	}}}
}

func TestLoadBalancers(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		d := NewLoadBalancers(p.Session)
		drivertest.Run(t, drivertest.Harness[*networkv1.LoadBalancerSpec, *networkv1.LoadBalancerObserved]{
			Driver: d, Name: func(id string) string { return "tenants/conform/loadBalancers/" + id },
			Spec: func(t *testing.T) (*networkv1.LoadBalancerSpec, driver.Refs) {
				if !strings.Contains(t.Name(), "life") { // little is made where little is looked at
					n, _ := p.Network(t, "10.88.0.0/24")
					return &networkv1.LoadBalancerSpec{
						Network: n.GetName(), Listeners: []*networkv1.LoadBalancerListener{{Name: "web", Port: 80}}, Pools: []*networkv1.LoadBalancerPool{{Name: "web"}},
					}, driver.Refs{n.GetName(): n}
				}
				n, s := behind(t, p, "10.88.0.0/24")
				return &networkv1.LoadBalancerSpec{
					Network: n.GetName(),
					Listeners: []*networkv1.LoadBalancerListener{
						{Name: "web", Protocol: networkv1.ListenerProtocol_LISTENER_PROTOCOL_HTTP, Port: 80, AllowedCidrs: []string{"10.0.0.7/8", "172.24.4.0/24"}},
						{Name: "alt", Protocol: networkv1.ListenerProtocol_LISTENER_PROTOCOL_HTTP, Port: 8080, Pool: "web"},
						{Name: "db", Port: 5432},
					},
					Pools: []*networkv1.LoadBalancerPool{
						{Name: "web", Persistence: &networkv1.LoadBalancerPersistence{Type: networkv1.PersistenceType_PERSISTENCE_TYPE_HTTP_COOKIE}, Members: []*networkv1.LoadBalancerMember{
							{Target: s.GetName(), Port: 80}, {Address: "10.88.0.250", Port: 8080, Weight: 3},
						}},
						{Name: "db", Monitor: &networkv1.LoadBalancerMonitor{Type: networkv1.MonitorType_MONITOR_TYPE_NONE}, Members: []*networkv1.LoadBalancerMember{{Target: s.GetName(), Port: 5432}}},
					},
				}, driver.Refs{n.GetName(): n, s.GetName(): s}
			},
			Outage: p.Outage, Wait: p.Wait, AbsentID: openstacktest.AbsentID,
			Change: func(_ *testing.T, r driver.Request[*networkv1.LoadBalancerSpec]) (*networkv1.LoadBalancerSpec, driver.Refs) {
				return &networkv1.LoadBalancerSpec{
					Network: r.Spec.GetNetwork(),
					Listeners: []*networkv1.LoadBalancerListener{
						{Name: "web", Protocol: networkv1.ListenerProtocol_LISTENER_PROTOCOL_HTTP, Port: 80},
						{Name: "alt", Protocol: networkv1.ListenerProtocol_LISTENER_PROTOCOL_HTTP, Port: 8081, Pool: "more"},
					},
					Pools: []*networkv1.LoadBalancerPool{
						{
							Name: "web", Algorithm: networkv1.PoolAlgorithm_POOL_ALGORITHM_LEAST_CONNECTIONS,
							Members: []*networkv1.LoadBalancerMember{{Address: "10.88.0.250", Port: 8080, Weight: 1}, {Address: "10.88.0.251", Port: 80}},
							Monitor: &networkv1.LoadBalancerMonitor{Type: networkv1.MonitorType_MONITOR_TYPE_TCP, Delay: durationpb.New(10 * time.Second), Retries: 3},
						},
						{Name: "more", Protocol: networkv1.ListenerProtocol_LISTENER_PROTOCOL_HTTP, Monitor: &networkv1.LoadBalancerMonitor{UrlPath: "/ok", ExpectedCodes: "200-204"}},
					},
				}, r.Refs
			},
			Verify: func(t *testing.T, r driver.Request[*networkv1.LoadBalancerSpec], o *networkv1.LoadBalancerObserved) {
				t.Helper()
				want, networkID, err := d.wanted(t.Context(), r)
				if err != nil {
					t.Fatal(err)
				}
				standing, err := d.standing(t.Context(), o.GetLoadBalancerId())
				if err != nil {
					t.Fatal(err)
				}
				members := 0
				for _, p := range want.pools {
					members += len(p.members)
				}
				if missing := changes(want, standing); len(missing) > 0 || len(standing.pools) != len(want.pools) || len(standing.listeners) != len(want.listeners) {
					t.Errorf("standing %+v, want %+v; missing %+v", standing, want, missing)
				}
				if o.GetAddress() == "" || o.GetPortId() == "" || o.GetNetworkId() != networkID || len(o.GetMembers()) != members {
					t.Errorf("observed %v, want %d members on network %s", o, members, networkID)
				}
			},
		})
	})
}

// balanced makes a load balancer, waits until it is ready, and has it taken away at the end.
func balanced(t *testing.T, p *openstacktest.Place, d *LoadBalancers, r driver.Request[*networkv1.LoadBalancerSpec]) driver.Observation[*networkv1.LoadBalancerObserved] {
	t.Helper()
	id, err := d.Create(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Await(t, "the load balancer is gone", func() (bool, error) {
			ctx := context.WithoutCancel(t.Context())
			if err := d.Delete(ctx, id); err != nil && !fault.Is(err, fault.Conflict) {
				return false, err
			}
			seen, err := d.Observe(ctx, []string{id})
			return len(seen) == 0, err
		})
	})
	return readyBalancer(t, p, d, id)
}

func readyBalancer(t *testing.T, p *openstacktest.Place, d *LoadBalancers, id string) (now driver.Observation[*networkv1.LoadBalancerObserved]) {
	t.Helper()
	p.Await(t, "the load balancer is ready", func() (bool, error) {
		seen, err := d.Observe(t.Context(), []string{id})
		now = seen[id]
		return now.State == driver.Ready, err
	})
	return now
}

// TestLoadBalancerFacts: what is below a load balancer is among its facts, so that it is noticed when somebody takes a part
// of it away; an update brings it back.
func TestLoadBalancerFacts(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		d := NewLoadBalancers(p.Session)
		n, _ := p.Network(t, "10.91.0.0/24")
		r := driver.Request[*networkv1.LoadBalancerSpec]{
			Key: openstacktest.AbsentID[:24] + "fac70000" + p.Session.ProjectID[:4], Name: "tenants/conform/loadBalancers/facts", Generation: 1, Refs: driver.Refs{n.GetName(): n},
			Spec: &networkv1.LoadBalancerSpec{
				Network: n.GetName(), Listeners: []*networkv1.LoadBalancerListener{{Name: "web", Protocol: networkv1.ListenerProtocol_LISTENER_PROTOCOL_HTTP, Port: 80}},
				Pools: []*networkv1.LoadBalancerPool{{Name: "web", Members: []*networkv1.LoadBalancerMember{{Address: "10.91.0.250", Port: 80}, {Address: "10.91.0.251", Port: 81}}}},
			},
		}
		made := balanced(t, p, d, r)
		id := made.Observed.GetLoadBalancerId()
		want := map[string]string{"listeners": "web", "pools": "web", "members": "web 10.91.0.250:80, web 10.91.0.251:81", "healthmonitors": "web HTTP"}
		if diff := cmp.Diff(want, made.Facts); diff != "" {
			t.Error(diff)
		}
		c, err := p.Session.LoadBalancer(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		pools, err := cloud.List[struct{ ID string }](t.Context(), c, "lbaas/pools", "pools", url.Values{"loadbalancer_id": {id}})
		if err != nil || len(pools) != 1 {
			t.Fatal(pools, err)
		}
		members := "lbaas/pools/" + pools[0].ID + "/members"
		standing, err := cloud.List[struct{ ID, Address string }](t.Context(), c, members, "members", nil)
		if err != nil || len(standing) != 2 {
			t.Fatal(standing, err)
		}
		if _, err := c.Delete(t.Context(), c.ServiceURL(members, standing[0].ID), nil); err != nil {
			t.Fatal(err)
		}
		if without := readyBalancer(t, p, d, id).Facts; cmp.Equal(without, want) || strings.Contains(without["members"], standing[0].Address) {
			t.Errorf("without %s the facts are %v", standing[0].Address, without)
		}
		p.Await(t, "it is repaired", func() (bool, error) {
			err := d.Update(t.Context(), id, r)
			return err == nil, nil
		})
		if diff := cmp.Diff(want, readyBalancer(t, p, d, id).Facts); diff != "" {
			t.Error(diff)
		}
	})
}

// TestFloatingIPToLoadBalancer: an address is led to a load balancer, and goes again although the port that it leads to
// bears no mark of ours.
func TestFloatingIPToLoadBalancer(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		n, subnet := p.Network(t, "10.89.0.0/24")
		p.Routed(t, subnet)
		balancers, floats := NewLoadBalancers(p.Session), NewFloatingIPs(p.Session)
		key := func(last string) string {
			return openstacktest.AbsentID[:24] + "f10a7" + last + "00" + p.Session.ProjectID[:4]
		}
		b := driver.Request[*networkv1.LoadBalancerSpec]{Key: key("1"), Name: "tenants/conform/loadBalancers/led", Generation: 1, Refs: driver.Refs{n.GetName(): n}, Spec: &networkv1.LoadBalancerSpec{
			Network: n.GetName(), Listeners: []*networkv1.LoadBalancerListener{{Name: "web", Port: 80}}, Pools: []*networkv1.LoadBalancerPool{{Name: "web"}},
		}}
		observed := balanced(t, p, balancers, b).Observed
		target := &networkv1.LoadBalancer{Name: b.Name, Observed: observed}
		r := driver.Request[*networkv1.FloatingIPSpec]{Key: key("2"), Name: "tenants/conform/floatingIps/led", Generation: 1, Refs: driver.Refs{b.Name: target}, Spec: &networkv1.FloatingIPSpec{Target: b.Name}}
		address, err := floats.Create(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		seen, err := floats.Observe(t.Context(), []string{address})
		if err != nil || seen[address].Observed.GetFixedAddress() != observed.GetAddress() {
			t.Errorf("the address leads to %v (%v), want %s", seen[address].Observed, err, observed.GetAddress())
		}
		if floats.Follows(r) != observed.GetPortId() {
			t.Errorf("it follows %q, want the port %s", floats.Follows(r), observed.GetPortId())
		}
		if err := floats.Delete(t.Context(), address); err != nil {
			t.Errorf("delete: %v", err)
		}
	})
}

// TestLoadBalancerChecks: what cannot be made is told before anything is, with its field, and quotas are counted.
func TestLoadBalancerChecks(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		item := func(name string, l *networkv1.LoadBalancerListener, pool *networkv1.LoadBalancerPool) driver.Item[*networkv1.LoadBalancerSpec] {
			return driver.Item[*networkv1.LoadBalancerSpec]{Name: name, Change: kindv1.Change_CHANGE_CREATE, Spec: &networkv1.LoadBalancerSpec{
				Network: "n", Listeners: []*networkv1.LoadBalancerListener{l}, Pools: []*networkv1.LoadBalancerPool{pool},
			}}
		}
		web := func() *networkv1.LoadBalancerPool {
			return &networkv1.LoadBalancerPool{Name: "web", Members: []*networkv1.LoadBalancerMember{{Address: "10.0.0.1", Port: 80}, {Address: "10.0.0.2", Port: 80}}}
		}
		strange := item("strange", &networkv1.LoadBalancerListener{Name: "web", Port: 80}, web())
		strange.Spec.Provider = "haproxi"
		// The lab's provider has no UDP, see its README: this is the exception that keeps UDP from being made there. The
		// sandbox has the same provider.
		findings, uses, err := NewLoadBalancers(p.Session).Check(t.Context(), []driver.Item[*networkv1.LoadBalancerSpec]{
			item("good", &networkv1.LoadBalancerListener{Name: "web", Port: 80}, web()),
			item("udp", &networkv1.LoadBalancerListener{Name: "web", Port: 53, Protocol: networkv1.ListenerProtocol_LISTENER_PROTOCOL_UDP}, web()),
			item("lost", &networkv1.LoadBalancerListener{Name: "web", Port: 80, Pool: "wep"}, web()),
			strange,
		})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range findings {
			got = append(got, f.Name+" "+f.Field+" "+string(fault.KindOf(f.Fault)))
		}
		if want := []string{"udp spec.listeners[0].protocol Unsupported", "lost spec.listeners[0].pool Invalid", "strange spec.provider Invalid"}; !slices.Equal(got, want) {
			t.Errorf("findings %q, want %q", got, want)
		}
		need := map[string]int64{}
		for _, u := range uses {
			need[u.Quota] = u.Need
		}
		if need["load_balancer"] != 4 || need["listener"] != 4 || need["pool"] != 4 || need["member"] != 8 || need["health_monitor"] != 4 || need["port"] != 4 {
			t.Errorf("quotas = %+v", uses)
		}
	})
}
