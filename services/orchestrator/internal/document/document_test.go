package document_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/resource"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/document"
)

var update = flag.Bool("update", false, "write the golden files anew")

func kinds(t testing.TB) *resource.Registry {
	t.Helper()
	r, err := resource.NewRegistry(
		&networkv1.Network{}, &networkv1.Subnet{}, &networkv1.Router{}, &networkv1.SecurityGroup{}, &networkv1.FloatingIP{},
		&networkv1.PrivateNetwork{}, &networkv1.Publication{}, &computev1.Server{}, &computev1.KeyPair{}, &storagev1.Volume{},
		&storagev1.VolumeAttachment{}, &containerv1.Cluster{}, &containerv1.Workload{}, &containerv1.Manifest{}, &orchestratorv1.Secret{},
		&orchestratorv1.Cloud{}, &orchestratorv1.Tenant{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const shop = `kind: Stack
name: shop
placement: {cloud: lab}
parameters: {web-replicas: 3, image: debian-12, mtu: 1400}
resources:
  net:   {kind: PrivateNetwork, spec: {cidr: 10.20.0.0/24, external: public, mtu: "${params.mtu}"}}
  data:  {kind: Volume, spec: {size: 20Gi}}
  sg:
    kind: SecurityGroup
    spec: {rules: [{protocol: tcp, ports: "80", remoteCidr: 0.0.0.0/0}, {remote_group: sg}]}
  db:
    kind: Server
    labels: {tier: db}
    spec:
      image: ${params.image}
      flavor: m1.small
      network: net
      securityGroups: [sg]
      volumes: [{volume: data}]
      userData: |
        #!/bin/sh
        echo "$${HOME}" ${net.gateway_ip}
  old:   {kind: Server, spec: {image: x, flavor: y, networks: [{network: networks/other.net}], volumes: [{volume: volumes/shop.data}]}}
  apps:  {kind: Cluster, spec: {driver: adopt, credentials: kube-lab}}
  web:
    kind: Workload
    dependsOn: [data]
    spec:
      cluster: apps
      replicas: ${params["web-replicas"]}
      containers: [{name: web, image: registry.example/shop:1, ports: [8080], env: {DB_HOST: "${db.address}"}}]
  door:  {kind: Publication, spec: {target: db, port: 80, via: FLOATING_IP}}
outputs: {url: "http://${door.address}:${door.port}", n: 3}
`

func parse(t testing.TB, text string, params map[string]any) (*document.Document, []*orchestratorv1.Problem) {
	t.Helper()
	p, err := structpb.NewStruct(params)
	if err != nil {
		t.Fatal(err)
	}
	return document.Parse(document.Source{Kinds: kinds(t), Tenant: "acme", Name: "shop.yaml", Text: []byte(text), Parameters: p})
}

func TestParseShop(t *testing.T) {
	d, problems := parse(t, shop, map[string]any{"web-replicas": 5})
	for _, p := range problems {
		t.Error(show(p))
	}
	if d == nil {
		t.Fatal("no document")
	}
	var b strings.Builder
	for _, r := range d.Resources {
		spec, err := json.Marshal(r.Spec.Value.AsMap())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %s %q %v\n  needs %v\n  spec %s\n", r.Name, r.Kind.Name, r.Cloud, r.Labels, r.Needs(), spec)
		for _, ref := range r.Spec.References {
			fmt.Fprintf(&b, "  %s -> %s%s completes=%v exclusive=%v\n", ref.Path, ref.Local, ref.Outside, ref.Completes, ref.Exclusive)
		}
		for _, u := range r.Spec.Uses {
			fmt.Fprintf(&b, "  %s uses %s.%s\n", u.Path, u.Resource, u.Field)
		}
	}
	fmt.Fprintf(&b, "outputs %v\n", d.Outputs.AsMap())
	golden(t, "shop.golden", b.String())
}

func show(p *orchestratorv1.Problem) string {
	return fmt.Sprintf("%s:%d:%d: %s: %s", p.GetDocument(), p.GetLine(), p.GetColumn(), p.GetField(), p.GetFault().GetMessage())
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("differs from %s (-update writes it anew):\n%s", path, d)
	}
}

const head = "kind: Stack\nname: shop\nplacement: {cloud: lab}\n"

func TestProblems(t *testing.T) {
	server := "kind: Server, spec: {image: a, flavor: b, network: net"
	cases := []struct {
		name, text string
		params     map[string]any
	}{
		{"nothing", "", nil},
		{"no map", "- a\n", nil},
		{"no YAML", "kind: [Stack\n", nil},
		{"bad indentation", "kind: Stack\n name: x\n", nil},
		{"tab", "kind: Stack\nname:\tshop\n\tx: y\n", nil},
		{"wrong kind of document", "kind: Stak\nname: shop\n", nil},
		{"no head", "resources: {}\n", nil},
		{"bad name", "kind: Stack\nname: Shop_1\n", nil},
		{"two documents", head + "---\nkind: Stack\n", nil},
		{"tag", "kind: !!python/object:x Stack\n", nil},
		{"alias to nothing", head + "outputs: {a: *x}\n", nil},
		{"unknown field at the root", head + "resource: {}\n", nil},
		{"unknown field of a resource", head + "resources:\n  db: {kind: Volume, spec: {size: 1Gi}, depends: [x]}\n", nil},
		{"unknown field of a spec", head + "resources:\n  net: {kind: Network}\n  db: {" + server + ", flavour: x}}\n", nil},
		{"unknown nested field", head + "resources:\n  net: {kind: Network}\n  db: {kind: Server, spec: {image: a, flavor: b, networks: [{network: net, adress: 10.0.0.1}]}}\n", nil},
		{"wrong types", head + `resources:
  net: {kind: Network, spec: {mtu: "1400"}}
  sub: {kind: Subnet, spec: {network: net, cidr: [a], dnsServers: 9.9.9.9, dhcpDisabled: "yes"}}
  c: {kind: Cluster, spec: {driver: adopt, credentials: k}}
  web: {kind: Workload, spec: {cluster: c, replicas: 1.5, containers: {name: a}, labels: {a: 1}}}
  big: {kind: Network, spec: {mtu: 99999999999}}
  spec: {kind: Network, spec: [1]}
  r: just text
`, nil},
		{"missing required", head + "resources:\n  db: {kind: Server, spec: {network: x}}\n  v: {kind: Volume}\n", nil},
		{"unknown kind", head + "resources:\n  db: {kind: Sever, spec: {}}\n  x: {kind: Secret}\n  y: {spec: {}}\n", nil},
		{"duplicate names", head + "resources:\n  v: {kind: Volume, spec: {size: 1Gi}}\n  v: {kind: Volume, spec: {size: 2Gi}}\nname: again\n", nil},
		{"same field twice", head + "resources:\n  net: {kind: Network}\n  s: {kind: Subnet, spec: {network: net, cidr: 10.0.0.0/24, dnsServers: [], dns_servers: []}}\n", nil},
		{"bad resource names", head + "resources:\n  Web_1: {kind: Network}\n  params: {kind: Network}\n", nil},
		{"no cloud", "kind: Stack\nname: shop\nresources:\n  v: {kind: Volume, spec: {size: 1Gi}}\n", nil},
		{"placement where there is none", head + "resources:\n  c: {kind: Cluster, placement: {cloud: lab}, spec: {driver: ADOPT, credentials: k}}\n  v: {kind: Volume, placement: {could: x}, spec: {size: 1Gi}}\n  w: {kind: Volume, placement: {cloud: A/B}, spec: {size: 1Gi}}\n", nil},
		{"enum", head + "resources:\n  c: {kind: Cluster, spec: {driver: adopted, credentials: k}}\n  d: {kind: Cluster, spec: {driver: 1, credentials: k}}\n", nil},
		{"rules", head + "resources:\n  v: {kind: Volume, spec: {size: 20}}\n  w: {kind: Volume, spec: {size: 20GB}}\n  net: {kind: PrivateNetwork, spec: {cidr: 10.0.0.0/33, dnsServers: [a]}}\n", nil},
		{"rule over a message", head + "resources:\n  net: {kind: Network}\n  a: {kind: Server, spec: {image: a, flavor: b}}\n  b: {kind: Server, spec: {image: a, flavor: b, network: net, networks: [{network: net}]}}\n", nil},
		{"reference to nothing", head + "resources:\n  net: {kind: Network}\n  db: {kind: Server, spec: {image: a, flavor: b, network: nett, volumes: [{volume: data}]}}\n", nil},
		{"reference to another kind", head + "resources:\n  net: {kind: Network}\n  data: {kind: Volume, spec: {size: 1Gi}}\n  db: {kind: Server, spec: {image: a, flavor: b, network: data, volumes: [{volume: volumes/a/b}], securityGroups: [servers/x, tenants/other/securityGroups/x]}}\n", nil},
		{"dependsOn nothing", head + "resources:\n  data: {kind: Volume, dependsOn: [net, 3], spec: {size: 1Gi}}\n", nil},
		{"cycle by references and expressions", head + `resources:
  net: {kind: Network}
  a: {kind: Server, dependsOn: [c], spec: {image: x, flavor: y, network: net}}
  b: {kind: Server, spec: {image: x, flavor: y, network: net, userData: "${a.address}"}}
  c: {kind: FloatingIP, spec: {server: b}}
`, nil},
		{"cycle of one", head + "resources:\n  net: {kind: Network}\n  a: {kind: Server, spec: {image: x, flavor: y, network: net, userData: '${a.address}'}}\n", nil},
		{"expressions", head + `resources:
  net: {kind: PrivateNetwork, spec: {cidr: 10.0.0.0/24}}
  c: {kind: Cluster, spec: {driver: adopt, credentials: k}}
  db:
    kind: Server
    spec:
      image: a
      flavor: ${net.gatewayIp}
      network: ${net.network_id}
      userData: |
        #!/bin/sh
        echo hello
        echo ${HOME}
  web:
    kind: Workload
    spec:
      cluster: c
      replicas: ${db.address}
      containers:
        - {name: web, image: "a${params.tag}", ports: ["${c.nodes}", "${c.version}"], env: {A: "x ${db.adress} ${db.address", B: "${db.interfaces}"}}
outputs: {x: "${nett.cidr}", y: ["${1 +}"]}
`, nil},
		{"constant expressions are held against the rules", head + "parameters: {size: 20GB, port: 99999, nets: []}\nresources:\n  v: {kind: Volume, spec: {size: '${params.size}'}}\n  net: {kind: Network, spec: {mtu: '${params.port}'}}\n", nil},
		{"parameters", head + "parameters: {a: 1, b: x, C!: 1, d: }\n", map[string]any{"a": "x", "bb": "y"}},
		{"labels", head + "resources:\n  v: {kind: Volume, labels: {A B: x, n: 1, e: '${v.size_gib}'}, spec: {size: 1Gi}}\n", nil},
		{"nesting", head + "outputs: " + strings.Repeat("[", 3000) + "\n", nil},
		{"nesting by hyphens", head + "outputs:\n  " + strings.Repeat("- ", 3000) + "x\n", nil},
		{"alias inside itself", head + "outputs: {a: &x [*x]}\n", nil},
		{"aliases that grow", head + "outputs:\n  a: &a [1,1,1,1,1,1,1,1,1,1]\n  b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n  c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n  d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n  e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n  f: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n", nil},
	}
	var b strings.Builder
	for _, c := range cases {
		d, problems := parse(t, c.text, c.params)
		if d != nil || len(problems) == 0 {
			t.Errorf("%s: it is accepted", c.name)
		}
		fmt.Fprintf(&b, "# %s\n", c.name)
		for _, p := range problems {
			fmt.Fprintln(&b, show(p))
		}
		b.WriteByte('\n')
	}
	golden(t, "problems.golden", strings.ReplaceAll(b.String(), "\u00a0", " "))
}

func TestLimits(t *testing.T) {
	if _, problems := parse(t, head+"# "+strings.Repeat("x", 1<<20), nil); len(problems) != 1 || !strings.Contains(problems[0].GetFault().GetMessage(), "at most 1048576") {
		t.Errorf("a text that is too long yields %v", problems)
	}
	var b strings.Builder
	b.WriteString(head + "resources:\n")
	for i := range 2001 {
		fmt.Fprintf(&b, "  n%d: {kind: Network}\n", i)
	}
	if _, problems := parse(t, b.String(), nil); len(problems) != 1 || !strings.Contains(problems[0].GetFault().GetMessage(), "at most 2000") {
		t.Errorf("too many resources yield %v", problems)
	}
	if _, problems := parse(t, head+"outputs: {a: \"\xff\"}", nil); len(problems) != 1 || !strings.Contains(problems[0].GetFault().GetMessage(), "UTF-8") {
		t.Errorf("bad text yields %v", problems)
	}
}

func TestPosition(t *testing.T) {
	d, problems := parse(t, shop, nil)
	if d == nil {
		t.Fatal(problems)
	}
	lines := strings.Split(shop, "\n")
	cases := map[string]struct{ local, field, at string }{
		"field":             {"db", "spec.flavor", "m1.small"},
		"without spec":      {"db", "flavor", "m1.small"},
		"proto name":        {"db", "spec.user_data", "|"},
		"element":           {"db", "spec.volumes[0].volume", "data}]"},
		"map":               {"web", "spec.containers[0].env.DB_HOST", `"${db`},
		"nearest above":     {"db", "spec.volumes[0].device", "{volume: data}]"},
		"not in the text":   {"db", "spec.keyPair", "image: ${params"},
		"child":             {"net.subnet", "spec.cidr", "10.20"},
		"resource":          {"data", "", "data:  "},
		"labels":            {"db", "labels.tier", "db}"},
		"cloud of a server": {"db", "cloud", "db:"},
	}
	for name, c := range cases {
		line, col := d.Position(c.local, c.field)
		if got := lines[line-1][col-1:]; !strings.HasPrefix(got, c.at) {
			t.Errorf("%s: %d:%d is %q, want %q", name, line, col, got, c.at)
		}
	}
}

func TestAliasesAndMerge(t *testing.T) {
	d, problems := parse(t, head+"resources:\n  a: &a\n    kind: Volume\n    spec: &s {size: 1Gi}\n  b: *a\n  c: {kind: Volume, spec: {<<: *s, type: fast}}\n", nil)
	if d == nil {
		t.Fatal(show(problems[0]))
	}
	if got := d.Resource("c").Spec.Value.AsMap(); !cmp.Equal(got, map[string]any{"size": "1Gi", "type": "fast"}) {
		t.Errorf("got %v", got)
	}
	if got := d.Resource("b").Kind.Name; got != "Volume" {
		t.Errorf("got %v", got)
	}
}

func TestJSON(t *testing.T) {
	d, problems := parse(t, `{"kind": "Stack", "name": "s", "resources": {"v": {"kind": "Volume", "placement": {"cloud": "clouds/lab"}, "spec": {"size": "1Gi"}}}}`, nil)
	if d == nil {
		t.Fatal(show(problems[0]))
	}
	if d.Resources[0].Cloud != "clouds/lab" {
		t.Errorf("got %v", d.Resources[0].Cloud)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{shop, "", "a: [", "*a", "&a *a", "? - - x\n: {<<: 1}", head + "outputs: {a: '${x.y + 1}'}", "kind: Stack\nname: \"\\u0000\"", "- - &x\n  ? *x", "{a: b, <<: [*c]}", "a: |2\n  x", "\"${\"", "a: !!binary x", "%YAML 1.2\n---\n", "0x1: .inf"} {
		f.Add(s)
	}
	k := kinds(f)
	f.Fuzz(func(t *testing.T, text string) {
		d, problems := document.Parse(document.Source{Kinds: k, Tenant: "acme", Name: "f", Text: []byte(text)})
		if (d == nil) == (len(problems) == 0) {
			t.Errorf("%q: document %v, %d problems", text, d != nil, len(problems))
		}
		lines := strings.Count(text, "\n") + 1
		for _, p := range problems {
			if p.GetLine() < 1 || int(p.GetLine()) > lines || p.GetColumn() < 1 || p.GetFault().GetMessage() == "" {
				t.Errorf("%q: no place or message in %v", text, p)
			}
		}
	})
}
