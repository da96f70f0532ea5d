package openstack

import (
	"context"
	"slices"
	"strings"
	"testing"

	neutron "github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/driver/drivertest"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"

	"github.com/weftcloud/weft/pkg/cloud/openstack/openstacktest"
)

// places are where the suite runs; see sandbox_test.go for the simulated one.
var places = map[string]func(*testing.T) *openstacktest.Place{
	"real":    openstacktest.Real,
	"sandbox": simulated,
}

func everywhere(t *testing.T, test func(t *testing.T, p *openstacktest.Place)) {
	for name, open := range places {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func TestNetworks(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		drivertest.Run(t, drivertest.Harness[*networkv1.NetworkSpec, *networkv1.NetworkObserved]{
			Driver:   NewNetworks(p.Session),
			Name:     func(id string) string { return "tenants/conform/networks/" + id },
			Spec:     func(*testing.T) (*networkv1.NetworkSpec, driver.Refs) { return &networkv1.NetworkSpec{Mtu: 1400}, nil },
			Outage:   p.Outage,
			Wait:     p.Wait,
			AbsentID: openstacktest.AbsentID,
			Change: func(*testing.T, driver.Request[*networkv1.NetworkSpec]) (*networkv1.NetworkSpec, driver.Refs) {
				return &networkv1.NetworkSpec{Mtu: 1350}, nil
			},
			Verify: func(t *testing.T, r driver.Request[*networkv1.NetworkSpec], o *networkv1.NetworkObserved) {
				if o.GetNetworkId() == "" || o.GetMtu() != r.Spec.GetMtu() {
					t.Errorf("observed %v, want %v", o, r.Spec)
				}
			},
		})
	})
}

func TestSubnets(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		spec := func(t *testing.T) (*networkv1.SubnetSpec, driver.Refs) {
			n, _ := p.Network(t, "")
			return &networkv1.SubnetSpec{Network: n.GetName(), Cidr: "10.91.0.0/24", DnsServers: []string{"192.0.2.1"}}, driver.Refs{n.GetName(): n}
		}
		drivertest.Run(t, drivertest.Harness[*networkv1.SubnetSpec, *networkv1.SubnetObserved]{
			Driver: NewSubnets(p.Session), Name: func(id string) string { return "tenants/conform/subnets/" + id },
			Spec: spec, Outage: p.Outage, Wait: p.Wait, AbsentID: openstacktest.AbsentID,
			Change: func(_ *testing.T, r driver.Request[*networkv1.SubnetSpec]) (*networkv1.SubnetSpec, driver.Refs) {
				return &networkv1.SubnetSpec{Network: r.Spec.GetNetwork(), Cidr: r.Spec.GetCidr(), GatewayIp: "10.91.0.100", DnsServers: []string{"192.0.2.2", "192.0.2.3"}, DhcpDisabled: true}, r.Refs
			},
			Verify: func(t *testing.T, r driver.Request[*networkv1.SubnetSpec], o *networkv1.SubnetObserved) {
				gateway := r.Spec.GetGatewayIp()
				if gateway == "" {
					gateway = "10.91.0.1"
				}
				if o.GetCidr() != r.Spec.GetCidr() || o.GetGatewayIp() != gateway || o.GetSubnetId() == "" {
					t.Errorf("observed %v, want %v", o, r.Spec)
				}
				standing, err := NewSubnets(p.Session).one(t.Context(), o.GetSubnetId())
				if err != nil || !slices.Equal(standing.DNS, r.Spec.GetDnsServers()) || standing.EnableDHCP == r.Spec.GetDhcpDisabled() {
					t.Errorf("standing %+v, %v; want %v", standing, err, r.Spec)
				}
			},
		})
	})
}

func TestRouters(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		external, err := p.Session.ExternalNetwork(t.Context(), "", "", false)
		if err != nil {
			t.Fatal(err)
		}
		d := NewRouters(p.Session)
		drivertest.Run(t, drivertest.Harness[*networkv1.RouterSpec, *networkv1.RouterObserved]{
			Driver: d, Name: func(id string) string { return "tenants/conform/routers/" + id },
			Spec: func(t *testing.T) (*networkv1.RouterSpec, driver.Refs) {
				_, s := p.Network(t, "10.92.0.0/24")
				return &networkv1.RouterSpec{ExternalNetwork: external.Name, Subnets: []string{s.GetName()}}, driver.Refs{s.GetName(): s}
			},
			Outage: p.Outage, Wait: p.Wait, AbsentID: openstacktest.AbsentID,
			Change: func(t *testing.T, _ driver.Request[*networkv1.RouterSpec]) (*networkv1.RouterSpec, driver.Refs) {
				_, s := p.Network(t, "10.93.0.0/24")
				return &networkv1.RouterSpec{Subnets: []string{s.GetName()}}, driver.Refs{s.GetName(): s}
			},
			Verify: func(t *testing.T, r driver.Request[*networkv1.RouterSpec], o *networkv1.RouterObserved) {
				if (o.GetExternalAddress() != "") != (r.Spec.GetExternalNetwork() != "") {
					t.Errorf("observed %v, want %v", o, r.Spec)
				}
				joined, err := d.interfaces(t.Context(), o.GetRouterId())
				want, refErr := subnetRefs(r.Refs, r.Spec.GetSubnets())
				if err != nil || refErr != nil || len(joined) != len(want) || !joined[0].on(want[0]) {
					t.Errorf("interfaces %+v (%v), want %v (%v)", joined, err, want, refErr)
				}
			},
		})
	})
}

func TestSecurityGroups(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		drivertest.Run(t, drivertest.Harness[*networkv1.SecurityGroupSpec, *networkv1.SecurityGroupObserved]{
			Driver: NewSecurityGroups(p.Session), Name: func(id string) string { return "tenants/conform/securityGroups/" + id },
			Spec: func(t *testing.T) (*networkv1.SecurityGroupSpec, driver.Refs) {
				g := p.SecurityGroup(t)
				return &networkv1.SecurityGroupSpec{Rules: []*networkv1.SecurityGroupRule{
					{Protocol: networkv1.Protocol_PROTOCOL_TCP, Ports: "80"},
					{Protocol: networkv1.Protocol_PROTOCOL_ICMP},
					{Protocol: networkv1.Protocol_PROTOCOL_UDP, Ports: "8000-8080", RemoteCidr: "10.0.0.7/8"},
					{RemoteGroup: g.GetName()},
				}}, driver.Refs{g.GetName(): g}
			},
			Outage: p.Outage, Wait: p.Wait, AbsentID: openstacktest.AbsentID,
			Change: func(_ *testing.T, r driver.Request[*networkv1.SecurityGroupSpec]) (*networkv1.SecurityGroupSpec, driver.Refs) {
				return &networkv1.SecurityGroupSpec{Rules: []*networkv1.SecurityGroupRule{
					r.Spec.GetRules()[0],
					{Protocol: networkv1.Protocol_PROTOCOL_TCP, Ports: "22", RemoteCidr: "0.0.0.0/0"},
					{Direction: networkv1.Direction_DIRECTION_EGRESS, Protocol: networkv1.Protocol_PROTOCOL_TCP, Ports: "443"},
				}}, r.Refs
			},
			Verify: func(t *testing.T, r driver.Request[*networkv1.SecurityGroupSpec], o *networkv1.SecurityGroupObserved) {
				if int(o.GetRuleCount()) != len(r.Spec.GetRules()) {
					t.Errorf("observed %v, want %d rules", o, len(r.Spec.GetRules()))
				}
				standing, err := NewSecurityGroups(p.Session).one(t.Context(), o.GetSecurityGroupId())
				wanted, rulesErr := rulesOf(r)
				if err != nil || rulesErr != nil {
					t.Fatal(err, rulesErr)
				}
				if missing, extra := ruleDiff(standing.Rules, append(wanted, leaving...)); len(missing)+len(extra) > 0 {
					t.Errorf("missing %+v, extra %+v", missing, extra)
				}
			},
		})
	})
}

func TestFloatingIPs(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		server := func(t *testing.T, name, cidr string) *computev1.Server {
			n, s := p.Network(t, cidr)
			p.Routed(t, s)
			id, address := p.PortAs(t, neutron.CreateOpts{Name: "ours", Description: openstacktest.Mark, NetworkID: n.GetObserved().GetNetworkId()})
			return &computev1.Server{Name: "tenants/conform/servers/" + name, Observed: &computev1.ServerObserved{Interfaces: []*computev1.ServerInterface{
				{PortId: id, NetworkId: n.GetObserved().GetNetworkId(), Address: address},
			}}}
		}
		drivertest.Run(t, drivertest.Harness[*networkv1.FloatingIPSpec, *networkv1.FloatingIPObserved]{
			Driver: NewFloatingIPs(p.Session), Name: func(id string) string { return "tenants/conform/floatingIps/" + id },
			Spec: func(t *testing.T) (*networkv1.FloatingIPSpec, driver.Refs) {
				if !strings.Contains(t.Name(), "life") && !strings.Contains(t.Name(), "told") {
					return &networkv1.FloatingIPSpec{}, nil
				}
				s := server(t, "a", "10.94.0.0/24")
				return &networkv1.FloatingIPSpec{Server: s.GetName()}, driver.Refs{s.GetName(): s}
			},
			Outage: p.Outage, Wait: p.Wait, AbsentID: openstacktest.AbsentID,
			Change: func(t *testing.T, r driver.Request[*networkv1.FloatingIPSpec]) (*networkv1.FloatingIPSpec, driver.Refs) {
				return &networkv1.FloatingIPSpec{}, nil
			},
			Verify: func(t *testing.T, r driver.Request[*networkv1.FloatingIPSpec], o *networkv1.FloatingIPObserved) {
				want := ""
				if s, ok := r.Refs[r.Spec.GetServer()].(*computev1.Server); ok {
					want = s.GetObserved().GetInterfaces()[0].GetAddress()
				}
				if o.GetAddress() == "" || o.GetFixedAddress() != want {
					t.Errorf("observed %v, want it to lead to %q", o, want)
				}
			},
		})
	})
}

func TestPortForwardings(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		n, s := p.Network(t, "10.99.0.0/24")
		p.Routed(t, s)
		server := func(t *testing.T, name string) *computev1.Server {
			id, address := p.PortAs(t, neutron.CreateOpts{Name: name, Description: openstacktest.Mark, NetworkID: n.GetObserved().GetNetworkId()})
			return &computev1.Server{Name: "tenants/conform/servers/" + name, Observed: &computev1.ServerObserved{Interfaces: []*computev1.ServerInterface{
				{PortId: id, NetworkId: n.GetObserved().GetNetworkId(), Address: address},
			}}}
		}
		address := floatingIPAt(t, p)
		port := int32(30000)
		spec := func(t *testing.T, name string, protocol networkv1.Protocol) (*networkv1.PortForwardingSpec, driver.Refs) {
			port++
			to := server(t, name)
			return &networkv1.PortForwardingSpec{
				FloatingIp: address.GetName(), Target: to.GetName(), Port: 80, ExternalPort: port, Protocol: protocol,
			}, driver.Refs{address.GetName(): address, to.GetName(): to}
		}
		drivertest.Run(t, drivertest.Harness[*networkv1.PortForwardingSpec, *networkv1.PortForwardingObserved]{
			Driver: NewPortForwardings(p.Session), Name: func(id string) string { return "tenants/conform/portForwardings/" + id },
			Spec: func(t *testing.T) (*networkv1.PortForwardingSpec, driver.Refs) {
				return spec(t, "a", networkv1.Protocol_PROTOCOL_UNSPECIFIED)
			},
			Outage: p.Outage, Wait: p.Wait, AbsentID: openstacktest.AbsentID + "/" + openstacktest.AbsentID,
			Change: func(t *testing.T, _ driver.Request[*networkv1.PortForwardingSpec]) (*networkv1.PortForwardingSpec, driver.Refs) {
				s, refs := spec(t, "b", networkv1.Protocol_PROTOCOL_UDP)
				s.Port = 8081
				return s, refs
			},
			Verify: func(t *testing.T, r driver.Request[*networkv1.PortForwardingSpec], o *networkv1.PortForwardingObserved) {
				to := r.Refs[r.Spec.GetTarget()].(*computev1.Server).GetObserved().GetInterfaces()[0].GetAddress()
				protocol := max(r.Spec.GetProtocol(), networkv1.Protocol_PROTOCOL_TCP)
				if o.GetAddress() != address.GetObserved().GetAddress() || o.GetPort() != r.Spec.GetExternalPort() || o.GetTargetAddress() != to ||
					o.GetTargetPort() != r.Spec.GetPort() || o.GetProtocol() != protocol {
					t.Errorf("observed %v, want %v to %s", o, r.Spec, to)
				}
			},
		})
	})
}

// floatingIPAt makes a floating IP that leads nowhere.
func floatingIPAt(t *testing.T, p *openstacktest.Place) *networkv1.FloatingIP {
	t.Helper()
	name := "tenants/conform/floatingIps/shared"
	d := NewFloatingIPs(p.Session)
	id, err := d.Create(t.Context(), driver.Request[*networkv1.FloatingIPSpec]{Key: openstacktest.AbsentID, Name: name, Spec: &networkv1.FloatingIPSpec{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Delete(context.WithoutCancel(t.Context()), id); err != nil {
			t.Errorf("delete the shared address: %v", err)
		}
	})
	seen, err := d.Observe(t.Context(), []string{id})
	if err != nil {
		t.Fatal(err)
	}
	return &networkv1.FloatingIP{Name: name, Spec: &networkv1.FloatingIPSpec{}, Observed: seen[id].Observed}
}

func TestChecks(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		n, _ := p.Network(t, "10.96.0.0/24")
		item := func(name, cidr string) driver.Item[*networkv1.SubnetSpec] {
			return driver.Item[*networkv1.SubnetSpec]{
				Name: "tenants/conform/subnets/" + name, Change: kindv1.Change_CHANGE_CREATE,
				Spec: &networkv1.SubnetSpec{Network: n.GetName(), Cidr: cidr}, Refs: driver.Refs{n.GetName(): n},
			}
		}
		findings, uses, err := NewSubnets(p.Session).Check(t.Context(), []driver.Item[*networkv1.SubnetSpec]{
			item("free", "10.97.0.0/24"), item("standing", "10.96.0.128/25"), item("twin", "10.97.0.0/16"), item("wrong", "10.98.0.0"),
		})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range findings {
			names = append(names, f.Name[strings.LastIndex(f.Name, "/")+1:]+" "+f.Field)
		}
		if want := []string{"standing spec.cidr", "twin spec.cidr", "wrong spec.cidr"}; !slices.Equal(names, want) {
			t.Errorf("findings in %q, want %q: %v", names, want, findings)
		}
		if len(uses) != 2 || uses[1].Quota != "subnet" || uses[1].Need != 4 || uses[1].Limit == 0 || uses[1].Used < 1 {
			t.Errorf("quotas = %+v", uses)
		}
		routers, _, err := NewRouters(p.Session).Check(t.Context(), []driver.Item[*networkv1.RouterSpec]{{
			Name: "r", Change: kindv1.Change_CHANGE_CREATE,
			Spec: &networkv1.RouterSpec{ExternalNetwork: "publik", Subnets: []string{"a", "b"}},
			Planned: driver.Refs{
				"a": &networkv1.Subnet{Spec: &networkv1.SubnetSpec{Cidr: "10.1.0.0/16"}},
				"b": &networkv1.Subnet{Spec: &networkv1.SubnetSpec{Cidr: "10.1.2.0/24"}},
			},
		}})
		if err != nil || len(routers) != 2 || !strings.Contains(routers[0].Fault.Error(), "close to it are") || routers[1].Field != "spec.subnets[1]" {
			t.Errorf("findings = %v, %v; want the external network and the overlap", routers, err)
		}
		features, err := probe(t.Context(), p.Session)
		if err != nil || len(features) < 5 {
			t.Errorf("probe = %v, %v", features, err)
		}
	})
}
