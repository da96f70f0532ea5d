package openstack

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/driver/drivertest"
	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"

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

// publicKey makes a key as authorized_keys has it.
func publicKey(t *testing.T) string {
	t.Helper()
	key, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	blob := append([]byte("\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"), key...)
	return "ssh-ed25519 " + base64.StdEncoding.EncodeToString(blob) + " conform"
}

// freshKey gives a key that no run before had: on a real cloud one that was killed leaves what bears its keys.
func freshKey() string {
	return fmt.Sprintf("01936b5e-0000-7000-8000-%012x", time.Now().UnixNano()&0xffffffffffff)
}

func TestKeyPairs(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		drivertest.Run(t, drivertest.Harness[*computev1.KeyPairSpec, *computev1.KeyPairObserved]{
			Driver: NewKeyPairs(p.Session), Name: func(id string) string { return "tenants/conform/keyPairs/shop." + id },
			Spec: func(t *testing.T) (*computev1.KeyPairSpec, driver.Refs) {
				return &computev1.KeyPairSpec{PublicKey: publicKey(t)}, nil
			},
			Outage: p.Outage, Wait: p.Wait, AbsentID: "no-such-key-pair",
			Verify: func(t *testing.T, _ driver.Request[*computev1.KeyPairSpec], o *computev1.KeyPairObserved) {
				if o.GetKeyPairName() == "" || o.GetFingerprint() == "" {
					t.Errorf("observed %v", o)
				}
			},
		})
	})
}

// TestServerGroups takes groups of each policy through their lives.
func TestServerGroups(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		drivertest.Run(t, drivertest.Harness[*computev1.ServerGroupSpec, *computev1.ServerGroupObserved]{
			Driver: NewServerGroups(p.Session), Name: func(id string) string { return "tenants/conform/serverGroups/shop." + id },
			Spec: func(t *testing.T) (*computev1.ServerGroupSpec, driver.Refs) {
				if strings.HasSuffix(t.Name(), "/life") {
					return &computev1.ServerGroupSpec{Policy: computev1.ServerGroupPolicy_SERVER_GROUP_POLICY_ANTI_AFFINITY, MaxServersPerHost: 2}, nil
				}
				return &computev1.ServerGroupSpec{Policy: computev1.ServerGroupPolicy_SERVER_GROUP_POLICY_SOFT_AFFINITY}, nil
			},
			Outage: p.Outage, Wait: p.Wait, AbsentID: openstacktest.AbsentID,
			Verify: func(t *testing.T, _ driver.Request[*computev1.ServerGroupSpec], o *computev1.ServerGroupObserved) {
				if o.GetServerGroupId() == "" || len(o.GetServerIds()) > 0 {
					t.Errorf("observed %v", o)
				}
			},
		})
		_, uses, err := NewServerGroups(p.Session).Check(t.Context(), []driver.Item[*computev1.ServerGroupSpec]{
			{Name: "g", Change: kindv1.Change_CHANGE_CREATE, Spec: &computev1.ServerGroupSpec{Policy: computev1.ServerGroupPolicy_SERVER_GROUP_POLICY_AFFINITY}},
		})
		if err != nil || len(uses) != 1 || uses[0].Quota != "server_groups" || uses[0].Need != 1 || uses[0].Limit < 1 {
			t.Errorf("quotas %v, %v", uses, err)
		}
	})
}

// TestServers takes a server through its life: with a key, a security group, two networks and a volume; then it is made
// larger, stopped, and has its volume, groups and metadata changed, all in one change.
func TestServers(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		first, _ := p.Network(t, "10.71.0.0/24")
		second, _ := p.Network(t, "10.72.0.0/24")
		group, other := p.SecurityGroup(t), p.SecurityGroup(t)
		keys := NewKeyPairs(p.Session)
		pair, err := keys.Create(t.Context(), driver.Request[*computev1.KeyPairSpec]{Key: freshKey(), Name: "k", Spec: &computev1.KeyPairSpec{PublicKey: publicKey(t)}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := keys.Delete(context.Background(), pair); err != nil { // the test's own context has ended
				t.Error(err)
			}
		})
		groups := NewServerGroups(p.Session)
		near, err := groups.Create(t.Context(), driver.Request[*computev1.ServerGroupSpec]{
			Key: freshKey(), Name: "g", Spec: &computev1.ServerGroupSpec{Policy: computev1.ServerGroupPolicy_SERVER_GROUP_POLICY_SOFT_ANTI_AFFINITY},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := groups.Delete(context.Background(), near); err != nil { // the test's own context has ended
				t.Error(err)
			}
		})
		d := NewServers(p.Session)
		drivertest.Run(t, drivertest.Harness[*computev1.ServerSpec, *computev1.ServerObserved]{
			Driver: d, Name: func(id string) string { return "tenants/conform/servers/shop." + id },
			Outage: p.Outage, Wait: p.Wait, AbsentID: openstacktest.AbsentID,
			Spec: func(t *testing.T) (*computev1.ServerSpec, driver.Refs) {
				refs := driver.Refs{
					first.GetName(): first, second.GetName(): second, group.GetName(): group, other.GetName(): other,
					"g": &computev1.ServerGroup{Observed: &computev1.ServerGroupObserved{ServerGroupId: near}},
					"k": &computev1.KeyPair{Observed: &computev1.KeyPairObserved{KeyPairName: pair}},
				}
				spec := &computev1.ServerSpec{Image: p.Image, Flavor: p.Flavor, Network: second.GetName()}
				if strings.HasSuffix(t.Name(), "/life") {
					v := p.Volume(t)
					refs[v.GetName()] = v
					spec.Network, spec.KeyPair, spec.UserData = "", "k", "#!/bin/sh\necho conform\n"
					spec.Networks = []*computev1.ServerNetwork{{Network: second.GetName(), Address: "10.72.0.77"}, {Network: first.GetName()}}
					spec.SecurityGroups = []string{group.GetName()}
					spec.Volumes = []*computev1.ServerVolume{{Volume: v.GetName(), Device: "/dev/vdb"}}
					spec.Metadata = map[string]string{"role": "db", "old": "1"}
					spec.ServerGroup, spec.Tags = "g", []string{"blue", "old"}
				}
				return spec, refs
			},
			Change: func(t *testing.T, r driver.Request[*computev1.ServerSpec]) (*computev1.ServerSpec, driver.Refs) {
				v := p.Volume(t)
				r.Refs[v.GetName()] = v
				return &computev1.ServerSpec{
					Image: r.Spec.GetImage(), Flavor: p.OtherFlavor, KeyPair: "k", UserData: r.Spec.GetUserData(), Networks: r.Spec.GetNetworks(),
					SecurityGroups: []string{other.GetName()}, Volumes: []*computev1.ServerVolume{{Volume: v.GetName()}},
					Metadata: map[string]string{"role": "cache", "new": "2"}, PowerState: computev1.PowerState_POWER_STATE_OFF,
					ServerGroup: "g", Tags: []string{"blue", "new"}, Rebuild: "once",
				}, r.Refs
			},
			Verify: func(t *testing.T, r driver.Request[*computev1.ServerSpec], o *computev1.ServerObserved) {
				verifyServer(t, p, d, r, o)
			},
		})
	})
}

func verifyServer(t *testing.T, p *openstacktest.Place, d *Servers, r driver.Request[*computev1.ServerSpec], o *computev1.ServerObserved) {
	t.Helper()
	if len(r.Spec.GetNetworks()) == 2 {
		want, err := networksOf(r)
		if err != nil || len(o.GetInterfaces()) != 2 || o.GetInterfaces()[0].GetNetworkId() != want[0].UUID || o.GetAddress() != "10.72.0.77" {
			t.Errorf("interfaces %v, want them in the order %v (%v)", o.GetInterfaces(), want, err)
		}
	}
	c, err := p.Session.Compute(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w, err := d.resolve(t.Context(), c, r)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(o.GetVolumeIds(), w.volumes) {
		t.Errorf("volumes %q, want %q", o.GetVolumeIds(), w.volumes)
	}
	if powerWord(o.GetPowerState()) != powerWord(r.Spec.GetPowerState()) {
		t.Errorf("power %s, want %s", o.GetPowerState(), r.Spec.GetPowerState())
	}
	s, err := d.one(t.Context(), o.GetServerId())
	if err != nil {
		t.Fatal(err)
	}
	if want := append([]string{cloud.Tag(r.Key)}, r.Spec.GetTags()...); !slices.Equal(slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(s.Tags))) {
		t.Errorf("tags %q, want %q", s.Tags, want)
	}
	if r.Spec.GetServerGroup() != "" {
		id := r.Refs["g"].(*computev1.ServerGroup).GetObserved().GetServerGroupId()
		seen, err := NewServerGroups(p.Session).Observe(t.Context(), []string{id})
		if err != nil || !slices.Contains(seen[id].Observed.GetServerIds(), s.ID) {
			t.Errorf("the group has %v (%v), not the server", seen[id].Observed, err)
		}
		if len(o.GetAddresses()) == 0 || !slices.Contains(o.GetAddresses()[0].GetFixed(), "10.72.0.77") {
			t.Errorf("addresses %v", o.GetAddresses())
		}
		_, err = d.ConsoleLog(t.Context(), s.ID, 3)
		if on := s.Status == "ACTIVE"; on && err != nil || !on && !fault.Is(err, fault.Precondition) {
			t.Errorf("the console of a server that is %s: %v", s.Status, err)
		}
	}
	if s.Metadata[metadataRebuilt] != r.Spec.GetRebuild() {
		t.Errorf("its disk was made anew for %q, want %q", s.Metadata[metadataRebuilt], r.Spec.GetRebuild())
	}
	if set, remove := metadataDiff(s, w.metadata); len(set)+len(remove) > 0 {
		t.Errorf("metadata to set %v, to remove %v", set, remove)
	}
	if s.flavorName() != w.metadata[metadataFlavor] {
		t.Errorf("flavor %s, want %s", s.flavorName(), r.Spec.GetFlavor())
	}
	ports, err := d.ports(t.Context(), []string{s.ID})
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range ports[s.ID] {
		if len(w.securityGroups) > 0 && !slices.Equal(port.SecurityGroups, w.securityGroups) {
			t.Errorf("groups of port %s = %q, want %q", port.ID, port.SecurityGroups, w.securityGroups)
		}
	}
}

// TestUpdateWhileBuilding: a server whose creation was asked for, and that was found again, is updated before it is built.
// That it has no power yet is no reason to try again and again, more and more seldom.
func TestUpdateWhileBuilding(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		n, _ := p.Network(t, "10.73.0.0/24")
		d := NewServers(p.Session)
		r := driver.Request[*computev1.ServerSpec]{
			Key: openstacktest.AbsentID[:24] + "b0110000" + p.Session.ProjectID[:4], Name: "tenants/conform/servers/building", Generation: 1,
			Spec: &computev1.ServerSpec{Image: p.Image, Flavor: p.Flavor, Network: n.GetName()}, Refs: driver.Refs{n.GetName(): n},
		}
		id := made(t, p, d, r)
		if err := d.Update(t.Context(), id, r); err != nil {
			t.Errorf("update a server that is being built: %v", err)
		}
		p.Await(t, "it is built", func() (bool, error) {
			seen, err := d.Observe(t.Context(), []string{id})
			return seen[id].State == driver.Ready, err
		})
	})
}

// made makes a server, which goes with the test.
func made(t *testing.T, p *openstacktest.Place, d *Servers, r driver.Request[*computev1.ServerSpec]) string {
	t.Helper()
	id, err := d.Create(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Await(t, "the server is gone", func() (bool, error) {
			ctx := context.WithoutCancel(t.Context())
			if err := d.Delete(ctx, id); err != nil {
				return false, err
			}
			seen, err := d.Observe(ctx, []string{id})
			return len(seen) == 0, err
		})
	})
	return id
}

// TestDiskIsMadeAnewOnce changes the text that calls for another disk: it is made anew once, without what the document no longer
// says of the metadata. Where nobody knows for which text it was made, and in an undo, the disk stays.
func TestDiskIsMadeAnewOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		n, _ := p.Network(t, "10.74.0.0/24")
		d := NewServers(p.Session)
		r := driver.Request[*computev1.ServerSpec]{
			Key: openstacktest.AbsentID[:24] + "b0220000" + p.Session.ProjectID[:4], Name: "tenants/conform/servers/anew", Generation: 1, Refs: driver.Refs{n.GetName(): n},
			Spec: &computev1.ServerSpec{Image: p.Image, Flavor: p.Flavor, Network: n.GetName(), Metadata: map[string]string{"old": "1"}},
		}
		id := made(t, p, d, r)
		p.Await(t, "it is built", func() (bool, error) {
			seen, err := d.Observe(t.Context(), []string{id})
			return seen[id].State == driver.Ready, err
		})
		update := func(text string, undo bool) (status string) {
			t.Helper()
			r.Spec.Rebuild, r.Undo = text, undo
			if err := d.Update(t.Context(), id, r); err != nil {
				t.Fatal(err)
			}
			s, err := d.one(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			p.Await(t, "it is at rest", func() (bool, error) {
				seen, err := d.Observe(t.Context(), []string{id})
				return seen[id].State == driver.Ready, err
			})
			return s.Status + " " + s.TaskState
		}
		busy := func(status string) bool { return status != "ACTIVE " }
		r.Spec.Metadata = nil
		if status := update("1", false); !busy(status) {
			t.Errorf("asked for another disk it is %s", status)
		}
		if s, err := d.one(t.Context(), id); err != nil || s.Metadata["old"] != "" || s.Metadata[metadataRebuilt] != "1" {
			t.Errorf("afterwards its metadata are %v, %v", s.Metadata, err)
		}
		if status := update("1", false); busy(status) {
			t.Errorf("asked again for the same it is %s", status)
		}
		if status := update("2", true); busy(status) {
			t.Errorf("in an undo it is %s", status)
		}
		c, err := p.Session.Compute(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := servers.DeleteMetadatum(t.Context(), c, id, metadataRebuilt).ExtractErr(); err != nil {
			t.Fatal(err)
		}
		if status := update("3", false); busy(status) {
			t.Errorf("not known to be made for any text it is %s", status)
		}
	})
}

func TestServerCheck(t *testing.T) {
	everywhere(t, func(t *testing.T, p *openstacktest.Place) {
		create := kindv1.Change_CHANGE_CREATE
		findings, uses, err := NewServers(p.Session).Check(t.Context(), []driver.Item[*computev1.ServerSpec]{
			{Name: "good", Change: create, Spec: &computev1.ServerSpec{Image: p.Image, Flavor: p.Flavor, Network: "n"}},
			{Name: "flavor", Change: create, Spec: &computev1.ServerSpec{Image: p.Image, Flavor: "m1.tinny", Network: "n"}},
			{Name: "image", Change: create, Spec: &computev1.ServerSpec{Image: "tinni", Flavor: p.Flavor, Network: "n"}},
			{Name: "later", Change: create, Spec: &computev1.ServerSpec{Flavor: p.Flavor, Network: "n"}, Unknown: []string{"image"}},
			{Name: "zone", Change: create, Spec: &computev1.ServerSpec{Image: p.Image, Flavor: p.Flavor, AvailabilityZone: "mars"}},
			{Name: "metadata", Change: create, Spec: &computev1.ServerSpec{Image: p.Image, Flavor: p.Flavor, Metadata: map[string]string{"weft-key": "x"}}},
			{Name: "gone", Change: kindv1.Change_CHANGE_DELETE, Former: &computev1.ServerSpec{Flavor: p.Flavor}},
		})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range findings {
			got = append(got, f.Name+" "+f.Field)
		}
		if want := []string{"flavor spec.flavor", "image spec.image", "zone spec.availabilityZone", "metadata spec.metadata.weft-key"}; !slices.Equal(got, want) {
			t.Errorf("findings %q, want %q", got, want)
		}
		if len(findings) > 0 && !strings.Contains(findings[0].Fault.Error(), "close to it are: m1.tiny") {
			t.Errorf("finding %v, want close names", findings[0].Fault)
		}
		need := map[string]int64{}
		for _, u := range uses {
			need[u.Quota] = u.Need
		}
		if need["instances"] != 5 || need["cores"] < 5 || need["ram"] < 5 || need["port"] != 5 {
			t.Errorf("needs = %v", need)
		}
		features, err := probe(t.Context(), p.Session)
		if err != nil || len(features) < 5 {
			t.Errorf("probe = %v, %v", features, err)
		}
	})
}

func TestCheckPublicKey(t *testing.T) {
	good := publicKey(t)
	for name, tc := range map[string]struct {
		line string
		ok   bool
	}{
		"good":       {good, true},
		"no comment": {strings.TrimSuffix(good, " conform"), true},
		"type alone": {"ssh-ed25519", false},
		"cut off":    {good[:40], false},
		"other type": {strings.Replace(good, "ssh-ed25519", "ssh-rsa", 1), false},
		"two lines":  {good + "\n" + good, false},
		"private":    {"-----BEGIN OPENSSH PRIVATE KEY-----", false},
	} {
		if err := checkPublicKey(tc.line); (err == nil) != tc.ok || err != nil && !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestServerState(t *testing.T) {
	volume := func(id string) server {
		var s server
		s.Volumes = append(s.Volumes, struct {
			ID string `json:"id"`
		}{id})
		return s
	}
	with := func(s server, status, task string, metadata map[string]string) server {
		s.Status, s.TaskState, s.Metadata = status, task, metadata
		s.Flavor.OriginalName = "small"
		return s
	}
	for name, tc := range map[string]struct {
		server server
		want   driver.State
	}{
		"building":              {with(server{}, "BUILD", "spawning", nil), driver.Progressing},
		"running":               {with(server{}, "ACTIVE", "", map[string]string{metadataFlavor: "small", metadataPower: "on"}), driver.Ready},
		"being deleted":         {with(server{}, "ACTIVE", "deleting", nil), driver.Progressing},
		"failed":                {with(server{}, "ERROR", "", nil), driver.Failed},
		"resized":               {with(server{}, "VERIFY_RESIZE", "", nil), driver.Outdated},
		"other flavor wanted":   {with(server{}, "ACTIVE", "", map[string]string{metadataFlavor: "large"}), driver.Outdated},
		"to be made anew":       {with(server{}, "ACTIVE", "", map[string]string{metadataRebuild: "2", metadataRebuilt: "1"}), driver.Outdated},
		"made anew":             {with(server{}, "ACTIVE", "", map[string]string{metadataRebuild: "2", metadataRebuilt: "2"}), driver.Ready},
		"to be stopped":         {with(server{}, "ACTIVE", "", map[string]string{metadataPower: "off"}), driver.Outdated},
		"stopped":               {with(server{}, "SHUTOFF", "", map[string]string{metadataPower: "off"}), driver.Ready},
		"stopped by someone":    {with(server{}, "SHUTOFF", "", map[string]string{metadataPower: "on"}), driver.Outdated},
		"volume is attached":    {with(volume("v"), "ACTIVE", "", map[string]string{metadataVolume + "v": wantAttached}), driver.Ready},
		"volume is missing":     {with(server{}, "ACTIVE", "", map[string]string{metadataVolume + "v": wantAttached}), driver.Outdated},
		"volume is detaching":   {with(volume("v"), "ACTIVE", "", map[string]string{metadataVolume + "v": wantDetached}), driver.Progressing},
		"volume is detached":    {with(server{}, "ACTIVE", "", map[string]string{metadataVolume + "v": wantDetached}), driver.Outdated},
		"someone else's volume": {with(volume("v"), "ACTIVE", "", nil), driver.Ready},
	} {
		if got := tc.server.state(); got != tc.want {
			t.Errorf("%s: state = %v, want %v", name, got, tc.want)
		}
	}
}

func TestInterfacesKeepTheirOrder(t *testing.T) {
	ports := []port{{ID: "c", MACAddress: "cc"}, {ID: "x", MACAddress: "xx"}, {ID: "a", MACAddress: "aa"}, {ID: "b", MACAddress: "bb"}}
	addresses := []byte(`{"zz-net": [{"addr": "10.0.0.1", "OS-EXT-IPS-MAC:mac_addr": "aa"}, {"addr": "172.24.4.9", "OS-EXT-IPS-MAC:mac_addr": "aa"}, {"OS-EXT-IPS-MAC:mac_addr": "bb"}], "aa-net": [{"OS-EXT-IPS-MAC:mac_addr": "cc"}]}`)
	var got []string
	for _, p := range inOrder(ports, addresses) {
		got = append(got, p.ID)
	}
	if want := []string{"a", "b", "c", "x"}; !slices.Equal(got, want) {
		t.Errorf("order %q, want %q", got, want)
	}
}
