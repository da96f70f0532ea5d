package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// blockerCase is one thing that keeps a stack from being destroyed.
type blockerCase struct {
	// resources are the stack's.
	resources string
	// block makes, as somebody else, what is in the way. It gives what is to be told of it, and what takes it away again.
	block func(t *testing.T, c *hands) (told *kindv1.Blocker, free func())
}

// hands is what a case works with: the stack as it stands at the cloud, and somebody else there.
type hands struct {
	*story.Foreign
	i     *story.Installation
	kube  *story.Kube
	stack string
}

// id gives the id at the cloud of one of the stack's objects, e.g. network.network and net.
func (h *hands) id(t *testing.T, kind, local string) string {
	t.Helper()
	item, ok := h.i.Cloud.Inventory(t).Find(kind, h.stack+"."+local)
	if !ok {
		t.Fatalf("the cloud has no %s %s.%s", kind, h.stack, local)
	}
	return item.ID
}

const neutron = "/network/v2.0/"

// object is a part of a request.
type object = map[string]any

// make makes an object of the network service and gives its id.
func (h *hands) make(collection, kind string, in object) string {
	var out map[string]struct {
		ID string `json:"id"`
	}
	h.Do(http.MethodPost, neutron+collection, object{kind: in}, &out)
	return out[kind].ID
}

func (h *hands) drop(path string) { h.Do(http.MethodDelete, path, nil, nil) }

// external gives the id of the external network.
func (h *hands) external() string {
	var out struct {
		Networks []struct {
			ID string `json:"id"`
		} `json:"networks"`
	}
	h.Do(http.MethodGet, neutron+"networks?router:external=true", nil, &out)
	return out.Networks[0].ID
}

// yard makes a network with a subnet of somebody else and gives their ids.
func (h *hands) yard(cidr string) (network, subnet string) {
	network = h.Network("yard-of-" + h.stack)
	return network, h.make("subnets", "subnet", object{"network_id": network, "cidr": cidr, "ip_version": 4, "name": "yard"})
}

// server makes a server of somebody else on a network, and waits until it runs.
func (h *hands) server(t *testing.T, network string) (id string, drop func()) {
	t.Helper()
	id = h.Server(object{"name": "intruder", "networks": []object{{"uuid": network}}})
	var out struct {
		Server struct {
			Status string `json:"status"`
		} `json:"server"`
	}
	story.Await(t, "the other server runs", func() bool {
		h.Do(http.MethodGet, "/compute/v2.1/servers/"+id, nil, &out)
		return out.Server.Status == "ACTIVE"
	})
	return id, func() { h.drop("/compute/v2.1/servers/" + id) }
}

const routed = fabric + "  router: {kind: Router, spec: {externalNetwork: public, subnets: [subnet]}}\n"

// blockerCases are the ways in which others stand in the way of a release.
var blockerCases = map[string]blockerCase{
	"foreign port": {resources: fabric, block: func(t *testing.T, h *hands) (*kindv1.Blocker, func()) {
		port := h.Port(h.id(t, "network.network", "net"), "their:tool")
		return &kindv1.Blocker{Kind: "port", Id: port, Owner: "by-hand, not made by Weft, in this project, on device their:tool somebody-else", Action: "their:tool"},
			func() { h.drop(neutron + "ports/" + port) }
	}},
	"foreign server": {resources: fabric, block: func(t *testing.T, h *hands) (*kindv1.Blocker, func()) {
		server, drop := h.server(t, h.id(t, "network.network", "net"))
		return &kindv1.Blocker{Kind: "server", Id: server, Owner: "intruder, not made by Weft, in this project, by port ", Action: "delete server " + server + ", or detach port "}, drop
	}},
	"router interface": {resources: fabric, block: func(t *testing.T, h *hands) (*kindv1.Blocker, func()) {
		subnet := h.id(t, "network.subnet", "subnet")
		router := h.make("routers", "router", object{"name": "their-router"})
		var added struct {
			Port string `json:"port_id"`
		}
		h.Do(http.MethodPut, neutron+"routers/"+router+"/add_router_interface", object{"subnet_id": subnet}, &added)
		return &kindv1.Blocker{Kind: "router interface", Id: added.Port, Owner: "router " + router + " of their-router", Action: "detach subnet " + subnet + " from router " + router}, func() {
			h.Do(http.MethodPut, neutron+"routers/"+router+"/remove_router_interface", object{"subnet_id": subnet}, nil)
			h.drop(neutron + "routers/" + router)
		}
	}},
	"foreign subnet on our router": {resources: routed, block: func(t *testing.T, h *hands) (*kindv1.Blocker, func()) {
		router := h.id(t, "network.router", "router")
		network, subnet := h.yard("10.62.0.0/24")
		var added struct {
			Port string `json:"port_id"`
		}
		h.Do(http.MethodPut, neutron+"routers/"+router+"/add_router_interface", object{"subnet_id": subnet}, &added)
		return &kindv1.Blocker{Kind: "router interface", Id: added.Port, Owner: "subnet " + subnet + " of yard", Action: "detach it from router " + router}, func() {
			h.Do(http.MethodPut, neutron+"routers/"+router+"/remove_router_interface", object{"subnet_id": subnet}, nil)
			h.drop(neutron + "networks/" + network)
		}
	}},
	"attached volume": {resources: "  data: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}\n", block: func(t *testing.T, h *hands) (*kindv1.Blocker, func()) {
		volume := h.id(t, "volume.volume", "data")
		network, _ := h.yard("10.63.0.0/24")
		server, drop := h.server(t, network)
		h.Do(http.MethodPost, "/compute/v2.1/servers/"+server+"/os-volume_attachments", object{"volumeAttachment": object{"volumeId": volume}}, nil)
		return &kindv1.Blocker{Kind: "server", Id: server, Owner: "intruder, not made by Weft, in this project, as /dev/", Action: "detach volume " + volume + " from server " + server}, func() {
			drop()
			story.Await(t, "the server's port is gone", func() bool {
				return !slices.ContainsFunc(h.i.Cloud.Inventory(t), func(i story.Item) bool { return i.ID == server })
			})
			h.drop(neutron + "networks/" + network)
		}
	}},
	"floating IP in use": {resources: "  ip: {kind: FloatingIP, spec: {externalNetwork: public}}\n", block: func(t *testing.T, h *hands) (*kindv1.Blocker, func()) {
		network, subnet := h.yard("10.64.0.0/24")
		router := h.make("routers", "router", object{"name": "their-router", "external_gateway_info": object{"network_id": h.external()}})
		h.Do(http.MethodPut, neutron+"routers/"+router+"/add_router_interface", object{"subnet_id": subnet}, nil)
		port := h.Port(network, "their:tool")
		var ips struct {
			IPs []struct {
				ID          string `json:"id"`
				Description string `json:"description"`
			} `json:"floatingips"`
		}
		h.Do(http.MethodGet, neutron+"floatingips", nil, &ips)
		at := slices.IndexFunc(ips.IPs, func(f struct {
			ID          string `json:"id"`
			Description string `json:"description"`
		},
		) bool {
			return strings.HasSuffix(f.Description, "/"+h.stack+".ip")
		})
		if at < 0 {
			t.Fatalf("the cloud has no floating IP of the stack: %v", ips)
		}
		h.Do(http.MethodPut, neutron+"floatingips/"+ips.IPs[at].ID, object{"floatingip": object{"port_id": port}}, nil)
		return &kindv1.Blocker{Kind: "port", Id: port, Owner: "by-hand, not made by Weft, in this project", Action: "unset its port"}, func() {
			h.Do(http.MethodPut, neutron+"floatingips/"+ips.IPs[at].ID, object{"floatingip": object{"port_id": nil}}, nil)
			h.drop(neutron + "ports/" + port)
			h.Do(http.MethodPut, neutron+"routers/"+router+"/remove_router_interface", object{"subnet_id": subnet}, nil)
			h.drop(neutron + "routers/" + router)
			h.drop(neutron + "networks/" + network)
		}
	}},
	"foreign floating IP through our router": {resources: routed, block: func(t *testing.T, h *hands) (*kindv1.Blocker, func()) {
		port := h.Port(h.id(t, "network.network", "net"), "their:tool")
		float := h.make("floatingips", "floatingip", object{"floating_network_id": h.external(), "port_id": port})
		return &kindv1.Blocker{Kind: "floating IP", Id: float, Owner: "not made by Weft, in this project, 172.24.", Action: "lead it nowhere"}, func() {
			h.drop(neutron + "floatingips/" + float)
			h.drop(neutron + "ports/" + port)
		}
	}},
	"security group in use": {resources: "  wall: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: \"80\"}]}}\n", block: func(t *testing.T, h *hands) (*kindv1.Blocker, func()) {
		group := h.id(t, "network.security_group", "wall")
		network, _ := h.yard("10.65.0.0/24")
		port := h.make("ports", "port", object{"network_id": network, "name": "by-hand", "security_groups": []string{group}})
		return &kindv1.Blocker{Kind: "port", Id: port, Owner: "by-hand, not made by Weft, in this project", Action: "take security group " + group + " off port " + port}, func() {
			h.drop(neutron + "ports/" + port)
			h.drop(neutron + "networks/" + network)
		}
	}},
	"namespace with foreign objects": {resources: cluster + `  space:
    kind: Manifest
    spec:
      cluster: apps
      yaml: |
        {apiVersion: v1, kind: Namespace, metadata: {name: shared-room}}
`, block: func(t *testing.T, h *hands) (*kindv1.Blocker, func()) {
		theirs := "/api/v1/namespaces/shared-room/configmaps"
		h.kube.Do(http.MethodPost, theirs, object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": object{"name": "precious"}, "data": object{"only": "copy"}})
		return &kindv1.Blocker{Kind: "ConfigMap", Id: "shared-room/precious", Owner: "by-hand", Action: "move it to another namespace"},
			func() { h.kube.Do(http.MethodDelete, theirs+"/precious", nil) }
	}},
	"finalizer that nobody serves": {resources: cluster + `  map:
    kind: Manifest
    spec:
      cluster: apps
      yaml: |
        {apiVersion: v1, kind: ConfigMap, metadata: {name: guarded}}
`, block: func(t *testing.T, h *hands) (*kindv1.Blocker, func()) {
		guarded := "/api/v1/namespaces/default/configmaps/guarded"
		h.kube.Do(http.MethodPatch, guarded, object{"metadata": object{"finalizers": []string{"example.com/guard"}}})
		return &kindv1.Blocker{Kind: "finalizer", Id: "example.com/guard", Owner: "an unknown controller (set by by-hand), on ConfigMap default/guarded", Action: "take the finalizer off ConfigMap default/guarded"},
			func() { h.kube.Do(http.MethodPatch, guarded, object{"metadata": object{"finalizers": nil}}) }
	}},
}

// TestBlocker puts what is somebody else's in the way of a stack's destruction. The operation waits, names what is in the
// way, whose it is and what to do, touches nothing of theirs, and goes on by itself when it is gone.
func TestBlocker(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	nothing := i.Cloud.Inventory(t)
	hand := func(t *testing.T, name string) *hands {
		return &hands{Foreign: i.Cloud.Foreign(t, "demo"), i: i, kube: i.Kube(t), stack: strings.ReplaceAll(strings.ToLower(name), " ", "-")}
	}
	const slow = "finalizer that nobody serves" // it is given time to be served, during which the others run
	end := blockerCases[slow].begin(t, hand(t, slow))
	t.Run("cases", func(t *testing.T) {
		for name, c := range blockerCases {
			if name == slow {
				continue
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c.begin(t, hand(t, name))()
			})
		}
		t.Run("without a stack", func(t *testing.T) {
			t.Parallel()
			alone(t, hand(t, "lonely"))
		})
	})
	end()
	i.NothingLeft(t, nothing)
}

// begin makes the stack of a case, has somebody stand in the way, and begins to destroy it. What it gives ends the case.
func (c blockerCase) begin(t *testing.T, h *hands) (end func()) {
	t.Helper()
	h.i.Apply(t, "kind: Stack\nname: "+h.stack+"\nplacement: {cloud: lab}\nresources:\n"+c.resources, "DONE")
	want, free := c.block(t, h)
	destroying := h.i.Go(t, "destroy", h.stack, "--wait", "-o", "json")
	op := destroyOf(t, h.i, h.stack)
	return func() {
		t.Helper()
		phrase := h.told(t, op.ID(), want)
		if text := h.i.Must(t, "describe", "stack", h.stack).Out; !strings.Contains(inOneLine(text), phrase) {
			t.Errorf("who looks at the stack is not told: %s", text)
		}
		free()
		(<-destroying).Ended(t, "DONE")
	}
}

// alone deletes a resource that belongs to no stack.
func alone(t *testing.T, h *hands) {
	h.i.Must(t, "create", "network", h.stack, "--cloud", "lab", "--wait")
	network, ok := h.i.Cloud.Inventory(t).Find("network.network", h.stack)
	if !ok {
		t.Fatalf("the cloud has no network %s", h.stack)
	}
	port := h.Port(network.ID, "their:tool")
	deleting := h.i.Go(t, "delete", "network", h.stack, "--wait", "-o", "json")
	op := operationOf(t, h.i, h.stack, "ACTION_DELETE")
	h.told(t, op.ID(), &kindv1.Blocker{Kind: "port", Id: port, Owner: "on device their:tool somebody-else", Action: "their:tool"})
	h.drop(neutron + "ports/" + port)
	(<-deleting).Ended(t, "DONE")
}

func inOneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// told waits until an operation names a blocker, checks how it is told, and gives the words in which a person reads it.
func (h *hands) told(t *testing.T, id string, want *kindv1.Blocker) string {
	t.Helper()
	var blocker *kindv1.Blocker
	var message string
	op := h.i.AwaitOp(t, id, "the operation names "+want.GetKind()+" "+want.GetId(), func(o *story.Operation) bool {
		for _, step := range o.GetSteps() {
			at := slices.IndexFunc(step.GetBlockers(), func(b *kindv1.Blocker) bool { return b.GetKind() == want.GetKind() && b.GetId() == want.GetId() })
			if at >= 0 {
				blocker, message = step.GetBlockers()[at], step.GetFault().GetMessage()
			}
		}
		return blocker != nil || !o.Is("RUNNING")
	})
	if blocker == nil || !op.Is("RUNNING") {
		t.Fatalf("the operation is %s and names %v instead of waiting: %v", op.State(), blocker, op)
	}
	if !strings.Contains(blocker.GetOwner(), want.GetOwner()) || !strings.Contains(blocker.GetAction(), want.GetAction()) {
		t.Errorf("told %v, want %v", blocker, want)
	}
	for _, part := range []string{want.GetId(), blocker.GetOwner(), blocker.GetAction()} {
		if !strings.Contains(message, part) {
			t.Errorf("the step's fault does not say %q: %s", part, message)
		}
	}
	phrase := "waits for " + want.GetKind() + " " + want.GetId() + " of " + blocker.GetOwner() + "; " + blocker.GetAction()
	if text := h.i.Must(t, "ops", "get", id).Out; !strings.Contains(inOneLine(text), phrase) {
		t.Errorf("who looks at the operation is not told: %s", text)
	}
	return phrase
}

// destroyOf waits until an operation destroys a stack, and gives it.
func destroyOf(t *testing.T, i *story.Installation, stack string) *story.Operation {
	t.Helper()
	return operationOf(t, i, stack, "ACTION_DESTROY")
}
