package kubernetes

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftcloud/weft/pkg/fault"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
)

func TestParseManifest(t *testing.T) {
	const a = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
	tests := map[string]struct {
		text     string
		want     []string // kind name place
		problems []string // parts of each problem's text
	}{
		"one":             {a, []string{"ConfigMap a document 1, line 1"}, nil},
		"separators":      {"---\n# note\n---\n\n" + a + "---\n---\n# only a note\n---\n" + strings.Replace(a, "a}", "b}", 1) + "...\n", []string{"ConfigMap a document 1, line 5", "ConfigMap b document 2, line 12"}, nil},
		"windows":         {strings.ReplaceAll("---\n"+a, "\n", "\r\n"), []string{"ConfigMap a document 1, line 2"}, nil},
		"list":            {"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: p}}\n- {apiVersion: v1, kind: Secret, metadata: {name: s}}\n", []string{"Pod p document 1, line 1", "Secret s document 1, line 1"}, nil},
		"empty":           {"# nothing\n---\n", nil, []string{"it holds no object"}},
		"syntax":          {a + "---\n\n" + "apiVersion: v1\nkind: [\nmetadata: {}\n", []string{"ConfigMap a document 1, line 1"}, []string{"document 2, line "}},
		"key twice":       {"apiVersion: v1\nkind: ConfigMap\nkind: Pod\nmetadata: {name: a}\n", nil, []string{"document 1, line 3"}},
		"scalar":          {"hello\n", nil, []string{"document 1, line 1: a document must be one object"}},
		"no kind":         {"apiVersion: v1\nmetadata: {name: a}\n", nil, []string{"it has no kind"}},
		"no version":      {"kind: Pod\nmetadata: {name: a}\n", nil, []string{"it has no apiVersion"}},
		"no name":         {"apiVersion: v1\nkind: Pod\n", nil, []string{"the Pod has no metadata.name"}},
		"generated name":  {"apiVersion: v1\nkind: Pod\nmetadata: {generateName: a-}\n", nil, []string{"generateName"}},
		"reserved":        {"apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {weft.cloud/key: x}}\n", nil, []string{"weft.cloud/key"}},
		"object twice":    {a + "---\n" + a, []string{"ConfigMap a document 1, line 1", "ConfigMap a document 2, line 5"}, []string{"document 2, line 5: ConfigMap a stands in document 1 already"}},
		"all are told of": {"kind: Pod\n---\nkind: Pod\n", nil, []string{"document 1, line 1", "document 2, line 3"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			docs, problems := parseManifest(tt.text)
			var got []string
			for _, d := range docs {
				got = append(got, d.object.GetKind()+" "+d.object.GetName()+" "+d.place())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("documents (-want +got):\n%s", diff)
			}
			if len(problems) != len(tt.problems) {
				t.Fatalf("problems %v, want %q", problems, tt.problems)
			}
			for i, p := range problems {
				if !fault.Is(p, fault.Invalid) || fault.Field(p) != fieldYAML || !strings.Contains(p.Error(), tt.problems[i]) {
					t.Errorf("problem %v (%s in %q), want %q", p, fault.KindOf(p), fault.Field(p), tt.problems[i])
				}
			}
		})
	}
}

func TestSyntaxErrorNamesItsLine(t *testing.T) {
	_, problems := parseManifest("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\n# note\napiVersion: v1\nkind: ]\n")
	if len(problems) != 1 || !strings.Contains(problems[0].Error(), "document 2, line 7, column 7") {
		t.Errorf("problems %v, want one in document 2, line 7, column 7", problems)
	}
}

func TestObjectName(t *testing.T) {
	long := strings.Repeat("a", 70)
	tests := map[string]struct{ name, want string }{
		"plain":       {"tenants/acme/workloads/web", "web"},
		"dots":        {"tenants/acme/workloads/shop.web", "shop-web"},
		"digit first": {"tenants/acme/workloads/1web", "w1web-" + digestOf([]byte("1web"))[:8]},
		"upper case":  {"tenants/acme/workloads/Web", "web-" + digestOf([]byte("Web"))[:8]},
		"long":        {"tenants/acme/workloads/" + long, long[:54] + "-" + digestOf([]byte(long))[:8]},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := objectName(tt.name)
			if got != tt.want || len(got) > maxName || !dnsLabel.MatchString(got) {
				t.Errorf("objectName(%q) = %q, want %q", tt.name, got, tt.want)
			}
		})
	}
	if n := inventoryName("tenants/acme/manifests/" + long); len(n) > maxName {
		t.Errorf("inventory name %q is too long", n)
	}
}

func TestContains(t *testing.T) {
	type m = map[string]any
	live := m{"a": "x", "n": int64(1), "l": []any{m{"k": "v", "default": true}, "more"}, "empty": nil}
	tests := map[string]struct {
		wanted any
		want   bool
	}{
		"nothing":       {m{}, true},
		"a part":        {m{"n": int64(1), "l": []any{m{"k": "v"}}}, true},
		"other value":   {m{"a": "y"}, false},
		"missing":       {m{"b": "x"}, false},
		"longer list":   {m{"l": []any{m{"k": "v"}, "more", "most"}}, false},
		"other kind":    {m{"a": m{"k": "v"}}, false},
		"empty is none": {m{"empty": m{}, "absent": []any{}}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := contains(live, tt.wanted); got != tt.want {
				t.Errorf("contains = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestExamineWorkload(t *testing.T) {
	tests := map[string]struct {
		change func(*containerv1.WorkloadSpec)
		field  string // empty: nothing is wrong
	}{
		"good":             {func(*containerv1.WorkloadSpec) {}, ""},
		"no container":     {func(s *containerv1.WorkloadSpec) { s.Containers = nil }, "spec.containers"},
		"name twice":       {func(s *containerv1.WorkloadSpec) { s.Containers[1].Name = "main" }, "spec.containers[1].name"},
		"name":             {func(s *containerv1.WorkloadSpec) { s.Containers[1].Name = "a_b" }, "spec.containers[1].name"},
		"image":            {func(s *containerv1.WorkloadSpec) { s.Containers[1].Image = "Shop/Web" }, "spec.containers[1].image"},
		"port twice":       {func(s *containerv1.WorkloadSpec) { s.Containers[1].Ports = []int32{9090} }, "spec.containers[1].ports[0]"},
		"port":             {func(s *containerv1.WorkloadSpec) { s.Containers[1].Ports = []int32{0} }, "spec.containers[1].ports[0]"},
		"env":              {func(s *containerv1.WorkloadSpec) { s.Containers[1].Env = map[string]string{"a=b": ""} }, "spec.containers[1].env.a=b"},
		"mount of nothing": {func(s *containerv1.WorkloadSpec) { s.Containers[0].Mounts[0].Volume = "x" }, "spec.containers[0].mounts[0].volume"},
		"limit too small":  {func(s *containerv1.WorkloadSpec) { s.Containers[0].Resources.MemoryLimit = "1Mi" }, "spec.containers[0].resources.memoryLimit"},
		"quantity":         {func(s *containerv1.WorkloadSpec) { s.Containers[0].Resources.Cpu = "lots" }, "spec.containers[0].resources.cpu"},
		"reserved label":   {func(s *containerv1.WorkloadSpec) { s.Labels = map[string]string{"weft.cloud/key": "x"} }, "spec.labels.weft.cloud/key"},
		"label value":      {func(s *containerv1.WorkloadSpec) { s.Labels = map[string]string{"tier": "a b"} }, "spec.labels.tier"},
		"volume twice":     {func(s *containerv1.WorkloadSpec) { s.Volumes = append(s.Volumes, s.Volumes[0]) }, "spec.volumes[1].name"},
		"file name":        {func(s *containerv1.WorkloadSpec) { s.Volumes[0].Config = map[string]string{"a/b": ""} }, "spec.volumes[0].config.a/b"},
		"too large a file": {func(s *containerv1.WorkloadSpec) { s.Volumes[0].Config["x"] = strings.Repeat("x", maxConfig+1) }, "spec.volumes[0].config"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := workloadSpec("shop", "registry.example/shop/web:1")
			tt.change(s)
			problems := examineWorkload(s)
			if tt.field == "" {
				if len(problems) > 0 {
					t.Errorf("problems %v, want none", problems)
				}
				return
			}
			if len(problems) != 1 || !fault.Is(problems[0], fault.Invalid) || fault.Field(problems[0]) != tt.field {
				t.Errorf("problems %v, want one Invalid in %s", problems, tt.field)
			}
		})
	}
}

func TestMerge(t *testing.T) {
	wanted := []entry{{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "n", Name: "a"}}
	standing := []entry{{APIVersion: "apps/v1beta1", Kind: "Deployment", Namespace: "n", Name: "a"}, {APIVersion: "v1", Kind: "Pod", Namespace: "n", Name: "b"}}
	want := []entry{wanted[0], {APIVersion: "v1", Kind: "Pod", Namespace: "n", Name: "b", Surplus: true}}
	if diff := cmp.Diff(want, merge(wanted, standing)); diff != "" {
		t.Errorf("merge (-want +got):\n%s", diff)
	}
	again := merge([]entry{want[1]}, want)
	if !again[1].Surplus || again[0].Name != "b" {
		t.Errorf("merge of what was surplus and is wanted again = %v", again)
	}
}
