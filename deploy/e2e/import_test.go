package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
)

// yardOf is what somebody made by hand.
type yardOf struct {
	*hands
	network, subnet, router, group, server, volume, address, key string
}

const handKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0v1h7mXyV9G6Zp7o2Ff7gkL9cQJ4nT1uQd5y8wXb3K me"

// byHand makes a small site with plain calls: a server with a disk behind a router, with an address of its own.
func byHand(t *testing.T, i *story.Installation) *yardOf {
	t.Helper()
	y := &yardOf{hands: &hands{Foreign: i.Cloud.Foreign(t, "demo"), i: i, stack: "hand"}, key: "my key"}
	y.network = y.make("networks", "network", object{"name": "backbone", "description": "the old one"})
	y.subnet = y.make("subnets", "subnet", object{"network_id": y.network, "cidr": "10.71.0.0/24", "ip_version": 4, "name": "backbone-a", "dns_nameservers": []string{"9.9.9.9"}})
	y.router = y.make("routers", "router", object{"name": "edge", "external_gateway_info": object{"network_id": y.external()}})
	y.Do(http.MethodPut, neutron+"routers/"+y.router+"/add_router_interface", object{"subnet_id": y.subnet}, nil)
	y.group = y.make("security-groups", "security_group", object{"name": "web ports"})
	for _, port := range []int{80, 443} {
		for _, family := range []string{"IPv4", "IPv6"} {
			y.make("security-group-rules", "security_group_rule", object{
				"security_group_id": y.group, "direction": "ingress", "ethertype": family, "protocol": "tcp", "port_range_min": port, "port_range_max": port,
			})
		}
	}
	y.Do(http.MethodPost, "/compute/v2.1/os-keypairs", object{"keypair": object{"name": y.key, "public_key": handKey}}, nil)
	y.server = y.machine(t, "web1")
	var volume struct {
		Volume struct {
			ID string `json:"id"`
		} `json:"volume"`
	}
	project := y.projectOf(t)
	y.Do(http.MethodPost, "/volume/v3/"+project+"/volumes", object{"volume": object{"name": "data", "size": 1}}, &volume)
	y.volume = volume.Volume.ID
	y.state(t, "volume.volume", y.volume, "available")
	y.Do(http.MethodPost, "/compute/v2.1/servers/"+y.server+"/os-volume_attachments", object{"volumeAttachment": object{"volumeId": y.volume}}, nil)
	y.state(t, "volume.volume", y.volume, "in-use")
	var ports struct {
		Ports []struct {
			ID string `json:"id"`
		} `json:"ports"`
	}
	y.Do(http.MethodGet, neutron+"ports?device_id="+y.server, nil, &ports)
	y.address = y.make("floatingips", "floatingip", object{"floating_network_id": y.external(), "port_id": ports.Ports[0].ID})
	return y
}

// machine makes a server and waits until it runs.
func (y *yardOf) machine(t *testing.T, name string) string {
	t.Helper()
	id := y.Server(object{
		"name": name, "networks": []object{{"uuid": y.network}}, "key_name": y.key,
		"security_groups": []object{{"name": y.group}}, "metadata": object{"team": "red"},
	})
	y.state(t, "compute.server", id, "ACTIVE")
	return id
}

// state waits until an object is in a state.
func (y *yardOf) state(t *testing.T, kind, id, want string) {
	t.Helper()
	story.Await(t, kind+" "+id+" is "+want, func() bool {
		for _, item := range y.i.Cloud.Inventory(t) {
			if item.Service+"."+item.Kind == kind && item.ID == id {
				return item.State == want
			}
		}
		return false
	})
}

func (y *yardOf) projectOf(t *testing.T) string {
	t.Helper()
	for _, item := range y.i.Cloud.Inventory(t) {
		if item.ID == y.network {
			return item.Project
		}
	}
	t.Fatal("the network is not there")
	return ""
}

// TestImport makes a site by hand and has Weft take it over: the document that is read of it has an empty plan, before and
// after ownership is taken; then it is changed in place, a part of it is forgotten, and a destroy leaves nothing.
func TestImport(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	nothing := i.Cloud.Inventory(t)
	y := byHand(t, i)
	file := filepath.Join(t.TempDir(), "hand.yaml")
	since := i.Cloud.Last(t)
	if said := i.Weft(t, "import", "--cloud", "lab", "--stack", "hand", "--server", "nowhere").Refused(t).Err; !strings.Contains(said, `no Server "nowhere"`) {
		t.Errorf("a server that is not there: %s", said)
	}
	i.Must(t, "import", "--cloud", "lab", "--stack", "hand", "--server", "web1", "--to", file)
	text := documentIn(t, file)
	for _, id := range []string{y.network, y.subnet, y.router, y.group, y.server, y.volume, y.address, y.key, y.server + "/" + y.volume} {
		if !strings.Contains(text, "adopt: "+id) {
			t.Errorf("the document does not adopt %s:\n%s", id, text)
		}
	}
	plan := i.Plan(t, text)
	if len(plan.GetChanges()) != 0 || len(plan.GetAdoptions()) != 9 {
		t.Fatalf("the plan of what was read has changes %v and adopts %d, want none and 9:\n%s", plan.GetChanges(), len(plan.GetAdoptions()), text)
	}
	if said := i.Weft(t, "apply", "-f", file).Refused(t).Err; !strings.Contains(said, "weft adopt takes ownership") {
		t.Errorf("an apply of what is not ours yet: %s", said)
	}
	if calls := i.Cloud.Mutations(t, since); len(calls) > 0 {
		t.Errorf("reading and planning changed something: %v", calls)
	}
	before := i.Cloud.Inventory(t).Lines()
	i.Must(t, "adopt", "-f", file, "--wait", "-o", "json").Ended(t, "DONE")
	if now := i.Cloud.Inventory(t).Lines(); strings.Join(now, "\n") != strings.Join(before, "\n") {
		t.Errorf("after the adoption the cloud holds\n%s\nbefore it held\n%s", strings.Join(now, "\n"), strings.Join(before, "\n"))
	}
	if plan := i.Plan(t, text); len(plan.GetChanges())+len(plan.GetAdoptions()) != 0 {
		t.Errorf("after the adoption the plan is %v, %v", plan.GetChanges(), plan.GetAdoptions())
	}
	other := strings.Replace(text, "name: hand", "name: other", 1)
	if said := i.Weft(t, "adopt", "-f", i.Document(t, "other.yaml", other)).Refused(t).Err; !strings.Contains(said, "it is the object of tenants/default/servers/hand.web1") {
		t.Errorf("who adopts what is another's is told: %s", said)
	}
	y.owned(t, i, text)
	i.Destroy(t, "hand", "DONE", "--reclaim", "destroy")
	i.NothingLeft(t, nothing)
}

// owned changes what was adopted in place, and forgets a part of it.
func (y *yardOf) owned(t *testing.T, i *story.Installation, text string) {
	t.Helper()
	changed := strings.NewReplacer("9.9.9.9", "9.9.9.10", "size: 1Gi", "size: 2Gi", "team: red", "team: blue").Replace(text)
	i.Apply(t, changed, "DONE")
	if item, ok := i.Cloud.Inventory(t).Find("compute.server", "web1"); !ok || item.ID != y.server || item.Metadata["team"] != "blue" || item.Metadata["weft-key"] == "" {
		t.Errorf("after a change in place the server is %+v", item)
	}
	if said := i.Weft(t, "forget", "hand", "backbone").Refused(t).Err; !strings.Contains(said, "cannot be forgotten while others need it") {
		t.Errorf("forgetting what others need: %s", said)
	}
	var local string
	for _, r := range i.Stack(t, "hand").GetResources() {
		if strings.HasSuffix(r.GetType(), "/FloatingIP") {
			local = r.GetLocalName()
		}
	}
	since := i.Cloud.Last(t)
	i.Must(t, "forget", "hand", local, "--wait", "-o", "json").Ended(t, "DONE")
	if calls := i.Cloud.Mutations(t, since); len(calls) > 0 {
		t.Errorf("forgetting changed something at the cloud: %v", calls)
	}
	stack := i.Stack(t, "hand")
	if strings.Contains(stack.GetDocument(), y.address) || len(stack.GetResources()) != 8 {
		t.Errorf("after the address was forgotten the stack is %v", stack)
	}
	if plan := i.Plan(t, stack.GetDocument()); len(plan.GetChanges()) != 0 {
		t.Errorf("after the address was forgotten the plan is %v", plan.GetChanges())
	}
	y.drop(neutron + "floatingips/" + y.address) // it is somebody's own again
}

// TestAdoptionIsUndone has the cloud refuse the last mark: what was marked before bears no mark any more, what stood in its
// place is back, and all objects stand.
func TestAdoptionIsUndone(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	y := byHand(t, i)
	file := filepath.Join(t.TempDir(), "hand.yaml")
	i.Must(t, "import", "--cloud", "lab", "--stack", "hand", "--server", "web1", "--to", file)
	before := i.Cloud.Inventory(t).Lines()
	i.Cloud.Break(t, story.Fault{Service: "network", Method: "PUT", Path: "/floatingips/*", Effect: "status", Status: 403, Message: "Policy forbids it"})
	i.Weft(t, "adopt", "-f", file, "--wait", "-o", "json").Ended(t, "UNDONE")
	if now := i.Cloud.Inventory(t).Lines(); strings.Join(now, "\n") != strings.Join(before, "\n") {
		t.Errorf("after the undo the cloud holds\n%s\nbefore it held\n%s", strings.Join(now, "\n"), strings.Join(before, "\n"))
	}
	var net struct {
		Network struct {
			Description string `json:"description"`
		} `json:"network"`
	}
	y.Do(http.MethodGet, neutron+"networks/"+y.network, nil, &net)
	if net.Network.Description != "the old one" {
		t.Errorf("after the undo the network's description is %q", net.Network.Description)
	}
	if item, ok := i.Cloud.Inventory(t).Find("compute.server", "web1"); !ok || item.Metadata["weft-key"] != "" {
		t.Errorf("after the undo the server is %+v", item)
	}
	for _, e := range i.Ledger(t).GetEntries() {
		t.Errorf("left in the ledger: %v", e)
	}
	i.Cloud.Mend(t)
	i.Must(t, "adopt", "-f", file, "--wait", "-o", "json").Ended(t, "DONE")
}

func documentIn(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
