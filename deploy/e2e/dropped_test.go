package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
)

// fabric is what most stacks of these stories need.
const fabric = `  net: {kind: Network, spec: {}}
  subnet: {kind: Subnet, spec: {network: net, cidr: 10.61.0.0/24}}
`

const machine = fabric + `  router: {kind: Router, spec: {externalNetwork: public, subnets: [subnet]}}
  vm: {kind: Server, spec: {image: tiny, flavor: m1.tiny, network: net}}
`

const cluster = `  apps: {kind: Cluster, spec: {driver: ADOPT, credentials: kube}}
`

// droppedCase is one kind whose creation and deletion lose their answers.
type droppedCase struct {
	kind, resources        string
	service, create        string
	delete, deleteVerb     string
	counted                string
	createVerb, createBody string
	// named is the object's name, where the kind makes helpers of the same kind; empty where it does not.
	named string
	// rehearsed: preflight makes the same call as a dry run.
	rehearsed bool
}

// TestDropped cuts the connection after the cloud has done what it was asked, once at the creation and once at the
// deletion of each kind. Whether it happened is then not known; a look-up decides, and exactly one object is there.
func TestDropped(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	nothing := i.Cloud.Inventory(t)
	cases := []droppedCase{
		{kind: "Network", resources: fabric, service: "network", create: "/networks", delete: "/networks/*", counted: "network.network"},
		{kind: "Subnet", resources: fabric, service: "network", create: "/subnets", delete: "/subnets/*", counted: "network.subnet"},
		{kind: "Router", resources: fabric + "  router: {kind: Router, spec: {externalNetwork: public, subnets: [subnet]}}\n", service: "network", create: "/routers", delete: "/routers/*", counted: "network.router"},
		{kind: "Router interface", resources: fabric + "  router: {kind: Router, spec: {externalNetwork: public, subnets: [subnet]}}\n", service: "network", create: "/routers/*/add_router_interface", createVerb: "PUT", delete: "/routers/*/remove_router_interface", deleteVerb: "PUT", counted: "network.router"},
		{kind: "SecurityGroup", resources: "  wall: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: \"80\"}]}}\n", service: "network", create: "/security-groups", delete: "/security-groups/*", counted: "network.security_group"},
		{kind: "FloatingIP", resources: machine + "  ip: {kind: FloatingIP, spec: {externalNetwork: public, server: vm}}\n", service: "network", create: "/floatingips", delete: "/floatingips/*", counted: "network.floatingip"},
		{kind: "PortForwarding", resources: machine + "  ip: {kind: FloatingIP, spec: {externalNetwork: public}}\n  way: {kind: PortForwarding, spec: {floatingIp: ip, target: vm, port: 80, externalPort: 8080}}\n", service: "network", create: "/floatingips/*/port_forwardings", delete: "/floatingips/*/port_forwardings/*", counted: "network.port_forwarding"},
		{kind: "Publication", resources: machine + "  door: {kind: Publication, spec: {target: vm, port: 80, via: PORT_MAPPING, publicPort: 8080}}\n", service: "network", create: "/floatingips", delete: "/floatingips/*", counted: "network.floatingip"},
		{kind: "PrivateNetwork", resources: "  net: {kind: PrivateNetwork, spec: {cidr: 10.61.0.0/24, external: public}}\n", service: "network", create: "/networks", delete: "/networks/*", counted: "network.network"},
		{kind: "LoadBalancer", resources: fabric + "  front: {kind: LoadBalancer, spec: {network: net, listeners: [{name: web, port: 80}], pools: [{name: web, members: [{address: 10.61.0.77, port: 80}]}]}}\n", service: "load-balancer", create: "/lbaas/loadbalancers", delete: "/lbaas/loadbalancers/*", counted: "load-balancer.loadbalancer"},
		{kind: "KeyPair", resources: "  key: {kind: KeyPair, spec: {publicKey: \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0v1h7mXyV9G6Zp7o2Ff7gkL9cQJ4nT1uQd5y8wXb3K me\"}}\n", service: "compute", create: "/os-keypairs", delete: "/os-keypairs/*", counted: "compute.keypair"},
		{kind: "ServerGroup", resources: "  near: {kind: ServerGroup, spec: {policy: AFFINITY}}\n", service: "compute", create: "/os-server-groups", delete: "/os-server-groups/*", counted: "compute.server_group"},
		{kind: "Image", resources: "  disk: {kind: Image, spec: {source: {url: \"" + diskServer(t) + "\"}, diskFormat: RAW}}\n", service: "image", create: "/images", delete: "/images/*", counted: "image.image"},
		{kind: "Server", resources: machine, service: "compute", create: "/servers", delete: "/servers/*", counted: "compute.server"},
		{kind: "ScalingGroup", resources: fabric + "  web: {kind: ScalingGroup, spec: {template: {image: tiny, flavor: m1.tiny, network: net}, min: 1, max: 2, drainPeriod: 0s}}\n", service: "compute", create: "/servers", delete: "/servers/*", counted: "compute.server", named: "scalinggroup.web-1"},
		{kind: "Volume", resources: "  data: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}\n", service: "volume", create: "/volumes", delete: "/volumes/*", counted: "volume.volume"},
		{kind: "VolumeSnapshot", resources: "  data: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}\n  moment: {kind: VolumeSnapshot, spec: {volume: data, reclaim: DESTROY}}\n", service: "volume", create: "/snapshots", delete: "/snapshots/*", counted: "volume.snapshot"},
		{kind: "Share", resources: "  home: {kind: Share, spec: {size: 1Gi, clients: [{cidr: 10.0.0.0/24}], reclaim: DESTROY}}\n", service: "share", create: "/shares", delete: "/shares/*", counted: "share.share"},
		{kind: "Bucket", resources: "  files: {kind: Bucket, spec: {reclaim: DESTROY}}\n", service: "object", create: "/AUTH_*/*", createVerb: "PUT", delete: "/AUTH_*/*", counted: "object.container"},
		{kind: "VolumeAttachment", resources: machine + "  data: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}\n  disk: {kind: VolumeAttachment, spec: {server: vm, volume: data}}\n", service: "compute", create: "/servers/*/os-volume_attachments", delete: "/servers/*/os-volume_attachments/*", counted: "volume.volume"},
		{kind: "Workload", resources: cluster + "  web: {kind: Workload, spec: {cluster: apps, replicas: 1, containers: [{name: web, image: pause, ports: [80]}]}}\n", service: "kubernetes", create: "/deployments", rehearsed: true, delete: "/deployments/*", counted: "kubernetes.Deployment"},
		{kind: "Workload service", resources: cluster + "  web: {kind: Workload, spec: {cluster: apps, replicas: 1, containers: [{name: web, image: pause, ports: [80]}]}}\n", service: "kubernetes", create: "/services", rehearsed: true, delete: "/services/*", counted: "kubernetes.Service"},
		{kind: "Manifest", resources: cluster + "  map:\n    kind: Manifest\n    spec:\n      cluster: apps\n      yaml: |\n        {apiVersion: v1, kind: ConfigMap, metadata: {name: colours}, data: {sky: blue}}\n", service: "kubernetes", create: "/configmaps", createBody: "sky", rehearsed: true, delete: "/configmaps/colours", counted: "kubernetes.ConfigMap", named: "default/colours"},
	}
	var covered []string
	for _, c := range cases {
		covered = append(covered, strings.Fields(c.kind)[0])
	}
	coversEveryKind(t, covered, map[string]string{"Cluster": "an adopted cluster is somebody else's: nothing is made or deleted"})
	for _, c := range cases {
		t.Run(c.kind, func(t *testing.T) {
			name := strings.ToLower(strings.ReplaceAll(c.kind, " ", "-"))
			i.Cloud.Mend(t)
			drop := func(verb, otherwise, path, body string, skip int) string {
				if verb == "" {
					verb = otherwise
				}
				return i.Cloud.Break(t, story.Fault{Service: c.service, Method: verb, Path: path, Body: body, Effect: "drop_response", Times: 1, Skip: skip})
			}
			rehearsals := map[bool]int{true: 1}[c.rehearsed]
			fault := drop(c.createVerb, "POST", c.create, c.createBody, rehearsals)
			i.Apply(t, fmt.Sprintf("kind: Stack\nname: %s\nplacement: {cloud: lab}\nresources:\n%s", name, c.resources), "DONE")
			struckOnce(t, i, fault)
			in := i.Cloud.Inventory(t)
			_, found := in.Find(c.counted, c.named)
			if n := in.Counts()[c.counted]; n != 1 && !found {
				t.Errorf("there are %d of %s, want 1: %v", n, c.counted, in.Lines())
			}
			unique(t, in)
			fault = drop(c.deleteVerb, "DELETE", c.delete, "", 0)
			i.Destroy(t, name, "DONE")
			struckOnce(t, i, fault)
			i.NothingLeft(t, nothing)
		})
	}
}

// struckOnce fails the test if a fault did not break a call: then the story told nothing.
func struckOnce(t *testing.T, i *story.Installation, fault string) {
	t.Helper()
	if f := i.Cloud.Fault(t, fault); f.Struck != 1 {
		t.Errorf("the fault broke %d calls instead of one: %+v", f.Struck, f)
	}
}
