package e2e

import (
	"cmp"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
)

// refusal is a document that cannot be applied, and what a person is told: the place, what is wrong, and what to do.
type refusal struct {
	name, document string
	// place is line:column; empty if the problem has none.
	place string
	says  []string
	// args are further arguments.
	args []string
	// next is what weft apply says to do; empty means mend.
	next string
	// whole says that the request is refused as a whole, so that weft plan says the same.
	whole bool
}

// What a person is told to do next: of most that is wrong, and by weft plan.
const (
	mend      = "mend what is named above and run the command again"
	mendPlan  = "mend the places above, then weft plan again"
	free      = "free some of what counts against the limit, or ask for a higher one"
	doFirst   = "do first what the message asks for, then run the command again"
	lookAbout = "look at what there is with weft get KIND; kinds and names complete with the tab key"
)

// nextOf gives what a verb must say to do next.
func (r refusal) nextOf(verb string) string {
	if verb == "plan" && !r.whole {
		return mendPlan
	}
	return cmp.Or(r.next, mend)
}

const head = "kind: Stack\nname: bad\nplacement: {cloud: lab}\nresources:\n" // four lines

// sound is what stands in every document beside what is wrong, so that something could be made.
const sound = "  fine: {kind: Network, spec: {}}\n" // line 5

var refusals = []refusal{
	{
		name: "unknown field", document: head + sound + "  a: {kind: Volume, spec: {size: 1Gi, colour: red}}\n",
		place: "6:39", says: []string{`resources.a.spec.colour: there is no field "colour"`, "known: size, type, image"},
	},
	{
		name: "wrong type", document: head + sound + "  a: {kind: Network, spec: {mtu: big}}\n",
		place: "6:34", says: []string{"resources.a.spec.mtu", `the string "big"`, "must be a whole number"},
	},
	{
		name: "rule of a field", document: head + sound + "  a: {kind: Subnet, spec: {network: fine, cidr: 10.0.0.0}}\n",
		place: "6:49", says: []string{"resources.a.spec.cidr"},
	},
	{
		name: "missing field", document: head + sound + "  a: {kind: Volume, spec: {}}\n",
		place: "6:27", says: []string{"resources.a.spec.size", "needs the field size"},
	},
	{
		name: "reference to nothing", document: head + sound + "  a: {kind: Subnet, spec: {network: fin, cidr: 10.0.0.0/24}}\n",
		place: "6:37", says: []string{`there is no resource "fin" in the stack`, `did you mean "fine"?`},
	},
	{
		name: "reference to another kind", document: head + sound + "  v: {kind: Volume, spec: {size: 1Gi}}\n  a: {kind: Subnet, spec: {network: v, cidr: 10.0.0.0/24}}\n",
		place: "7:37", says: []string{"resources.a.spec.network", "Volume", "Network"},
	},
	{
		name: "circle", document: head + sound + "  a: {kind: Volume, spec: {size: 1Gi, type: \"${b.type}\"}}\n  b: {kind: Volume, spec: {size: 1Gi, type: \"${a.type}\"}}\n",
		place: "6:3", says: []string{"a → b → a", "take one of these references away"},
	},
	{
		name: "expression of the wrong type", document: head + sound + "  a: {kind: Network, spec: {mtu: \"${fine.network_id}\"}}\n",
		place: "6:", says: []string{"resources.a.spec.mtu", "string"},
	},
	{
		name: "expression that is not sound", document: head + sound + "  a: {kind: Volume, spec: {size: 1Gi, type: \"${fine.network_id + 1}\"}}\n",
		place: "6:", says: []string{"the expression is not sound", "no matching overload"},
	},
	{
		name: "expression of a field that there is not", document: head + sound + "  a: {kind: Volume, spec: {size: 1Gi, type: \"${fine.colour}\"}}\n",
		place: "6:", says: []string{`no field "colour"`, "network_id"},
	},
	{
		name: "unknown kind", document: head + sound + "  a: {kind: Gizmo, spec: {}}\n",
		place: "6:13", says: []string{`there is no kind "Gizmo"`, "known: ", "Volume"},
	},
	{
		name: "duplicate name", document: head + sound + "  fine: {kind: Network, spec: {}}\n",
		place: "6:3", says: []string{`"fine" stands here twice`, "line 5", "remove or rename one"},
	},
	{name: "no YAML", document: "kind: Stack\nname: [\n", place: "2:7", says: []string{"no YAML"}},
	{name: "unknown parameter", document: head + sound, args: []string{"--param", "colour=red"}, says: []string{"colour"}},
	{
		name: "flavor", document: head + sound + "  s: {kind: Subnet, spec: {network: fine, cidr: 10.0.0.0/24}}\n  a: {kind: Server, spec: {image: tiny, flavor: m9, network: fine}}\n",
		place: "7:49", says: []string{`flavor "m9" does not exist`, "m1.tiny"},
	},
	{
		name: "image", document: head + sound + "  s: {kind: Subnet, spec: {network: fine, cidr: 10.0.0.0/24}}\n  a: {kind: Server, spec: {image: debain-12, flavor: m1.tiny, network: fine}}\n",
		place: "7:35", says: []string{`image "debain-12" does not exist`, "debian-12"},
	},
	{
		name: "external network", document: head + sound + "  a: {kind: Router, spec: {externalNetwork: publik}}\n",
		place: "6:45", says: []string{`external network "publik" does not exist`, "public"},
	},
	{
		name: "overlap", document: head + sound + "  a: {kind: Subnet, spec: {network: fine, cidr: 10.0.0.0/24}}\n  b: {kind: Subnet, spec: {network: fine, cidr: 10.0.0.128/25}}\n",
		place: "7:49", says: []string{"10.0.0.128/25 overlaps with 10.0.0.0/24", "choose another range"},
	},
	{
		name: "quota", document: head + sound + "  a: {kind: Volume, spec: {size: 2Ti}}\n",
		place: "6:3", says: []string{"resources.a", "quota of gigabytes does not suffice", "need 2048", "used 0", "limit 1000", "have the quota raised"}, next: free,
	},
	{
		name: "quota that the second passes", document: head + sound + "  a: {kind: Volume, spec: {size: 600Gi}}\n  c: {kind: Volume, spec: {size: 500Gi}}\n  b: {kind: Volume, spec: {size: 1Gi}}\n",
		place: "7:3", says: []string{"resources.c", "need 1101", "used 0", "limit 1000"}, next: free,
	},
	{
		name: "unknown field and flavor", document: head + sound + "  v: {kind: Volume, spec: {size: 1Gi, colour: red}}\n  s: {kind: Subnet, spec: {network: fine, cidr: 10.0.0.0/24}}\n" +
			"  a: {kind: Server, spec: {image: tiny, flavor: m9, network: fine}}\n",
		place: "6:39", says: []string{`resources.v.spec.colour: there is no field "colour"`, "bad.yaml:8:49", `flavor "m9" does not exist`, "m1.tiny"},
	},
	{
		name: "secret", document: head + sound + "  a: {kind: Cluster, spec: {driver: ADOPT, credentials: nosuch}}\n",
		place: "6:57", says: []string{"secrets/nosuch does not exist", "make it first"},
	},
	{
		name: "cluster", document: head + sound + "  a: {kind: Cluster, spec: {driver: ADOPT, credentials: unreachable}}\n",
		place: "6:57", says: []string{"127.0.0.1:1", "connection refused"}, next: "see that what is named above can be reached, then run the command again",
	},
	{
		name: "credentials", document: strings.Replace(head, "lab", "wrong", 1) + sound,
		place: "5:3", says: []string{"clouds/wrong", "HTTP 401", "weft cloud add wrong"}, next: doFirst,
	},
	{
		name: "cloud", document: strings.Replace(head, "lab", "nowhere", 1) + sound,
		place: "5:3", says: []string{"clouds/nowhere is not registered", "weft cloud list"},
	},
	{name: "tenant", document: head + sound, args: []string{"--tenant", "nobody"}, says: []string{"there is no tenant nobody", "weft tenant add nobody"}, next: lookAbout, whole: true},
}

// TestRefusals shows that bad input is refused with its place and what to do, and that nothing was made by then.
func TestRefusals(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	kubeconfig, err := os.ReadFile(filepath.Join(i.Data(), "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	dead := regexp.MustCompile(`(server: "?https://127\.0\.0\.1:)[0-9]+`).ReplaceAllString(string(kubeconfig), "${1}1")
	i.Must(t, "secret", "put", "unreachable", "--from-file", "kubeconfig="+i.Document(t, "kubeconfig", dead))
	i.Must(t, "cloud", "add", "wrong", "--driver", "openstack", "--endpoint", i.Cloud.URL+"/identity/v3", "--username", "demo", "--project", "demo",
		"--password-file", i.Document(t, "password", "guess"))
	since := i.Cloud.Last(t)
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			path := i.Document(t, "bad.yaml", c.document)
			for _, verb := range []string{"apply", "plan"} {
				r := i.Weft(t, append([]string{verb, "-f", path}, c.args...)...).Refused(t)
				want := slices.Clone(c.says)
				if c.place != "" {
					want = append([]string{"bad.yaml:" + c.place}, want...)
				}
				want = append(want, "\n  next: "+c.nextOf(verb)+"\n")
				for _, text := range want {
					if !strings.Contains(r.Err, text) {
						t.Errorf("weft %s does not say %q:\n%s", verb, text, r.Err)
					}
				}
			}
		})
	}
	if calls := i.Cloud.Mutations(t, since); len(calls) != 0 {
		t.Errorf("what was refused changed something: %v", calls)
	}
	if out := i.Must(t, "ledger").Out; out != "the ledger is empty\n" {
		t.Errorf("what was refused stands in the ledger: %s", out)
	}
	if out := i.Must(t, "get", "stacks", "-o", "json").Out; strings.Contains(out, "tenants/") {
		t.Errorf("what was refused left a stack: %s", out)
	}
	if in := i.Cloud.Inventory(t); len(in) != 0 {
		t.Errorf("what was refused is at the cloud: %v", in.Lines())
	}
}
