package plan_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/plan"
)

// draw makes a random document over a few names, so that two drawn ones have much in common.
func draw(t *rapid.T) string {
	resources := map[string]any{}
	has := func(name string) bool { return rapid.IntRange(0, 3).Draw(t, name+"?") > 0 }
	pick := func(label string, from []string) string { return rapid.SampledFrom(from).Draw(t, label) }
	var nets, groups, volumes, servers []string
	for _, n := range []string{"net-a", "net-b"} {
		if n == "net-b" && !has(n) {
			continue
		}
		spec := map[string]any{"cidr": pick(n, []string{"10.0.0.0/24", "10.0.1.0/24"})}
		if has(n + " external") {
			spec["external"] = "public"
		}
		resources[n] = map[string]any{"kind": "PrivateNetwork", "spec": spec}
		nets = append(nets, n)
	}
	for _, n := range []string{"sg-a", "sg-b"} {
		if has(n) {
			resources[n] = map[string]any{"kind": "SecurityGroup", "spec": map[string]any{"rules": []any{map[string]any{"ports": pick(n, []string{"80", "81"})}, map[string]any{"remoteGroup": n}}}}
			groups = append(groups, n)
		}
	}
	for _, n := range []string{"vol-a", "vol-b", "vol-c"} {
		if has(n) {
			resources[n] = map[string]any{"kind": "Volume", "spec": map[string]any{"size": pick(n, []string{"10Gi", "20Gi", "1Ti"})}}
			volumes = append(volumes, n)
		}
	}
	for _, n := range []string{"srv-a", "srv-b", "srv-c"} {
		if !has(n) {
			continue
		}
		spec := map[string]any{"image": pick(n+" image", []string{"a", "a", "b"}), "flavor": pick(n+" flavor", []string{"s", "m"}), "network": pick(n+" net", nets)}
		if len(groups) > 0 && has(n+" group") {
			spec["securityGroups"] = []any{pick(n+" group", groups)}
		}
		if len(volumes) > 0 && has(n+" volume") {
			i := rapid.IntRange(0, len(volumes)-1).Draw(t, n+" volume")
			spec["volumes"] = []any{map[string]any{"volume": volumes[i]}}
			volumes = slices.Delete(slices.Clone(volumes), i, i+1)
		}
		if len(servers) > 0 && has(n+" data") {
			spec["userData"] = "peer ${" + strings.ReplaceAll(pick(n+" peer", servers), "-", "_") + ".address}"
		}
		resources[n] = map[string]any{"kind": "Server", "spec": spec, "labels": map[string]any{"a": pick(n+" label", []string{"x", "y"})}}
		servers = append(servers, n)
	}
	for _, n := range []string{"door-a", "door-b"} {
		if len(servers) > 0 && has(n) {
			resources[n] = map[string]any{"kind": pick(n+" kind", []string{"FloatingIP", "FloatingIP", "Publication"})}
			r := resources[n].(map[string]any)
			target := pick(n, servers)
			r["spec"] = map[string]any{"server": target}
			if r["kind"] == "Publication" {
				r["spec"] = map[string]any{"target": target, "port": 80, "via": "FLOATING_IP"}
			}
		}
	}
	if len(servers) > 0 && has("front") {
		var members []any
		for _, s := range servers {
			if has("front " + s) {
				members = append(members, map[string]any{"target": s, "port": 80}, map[string]any{"address": "${" + strings.ReplaceAll(s, "-", "_") + ".address}", "port": 81})
			}
		}
		pool := map[string]any{"name": "web", "members": members, "algorithm": pick("front algorithm", []string{"ROUND_ROBIN", "SOURCE_IP"})}
		resources["front"] = map[string]any{"kind": "LoadBalancer", "spec": map[string]any{
			"network": pick("front net", nets), "listeners": []any{map[string]any{"name": "web", "port": 80}}, "pools": []any{pool},
		}}
		if has("front door") {
			resources["front-door"] = map[string]any{"kind": "FloatingIP", "spec": map[string]any{"target": "front"}}
		}
	}
	if len(servers) > 0 && len(volumes) > 0 && has("att") {
		resources["att"] = map[string]any{"kind": "VolumeAttachment", "spec": map[string]any{"server": pick("att server", servers), "volume": pick("att volume", volumes)}}
	}
	if has("web") {
		resources["apps"] = map[string]any{"kind": "Cluster", "spec": map[string]any{"driver": "adopt", "credentials": "kube"}}
		env := map[string]any{"GW": "${net_a.gateway_ip} ${net_a.external_address}"}
		if len(servers) > 0 {
			env["DB"] = "${" + strings.ReplaceAll(pick("web db", servers), "-", "_") + ".address}"
		}
		resources["web"] = map[string]any{"kind": "Workload", "dependsOn": []any{pick("web after", nets)}, "spec": map[string]any{"cluster": "apps", "containers": []any{map[string]any{"name": "c", "image": "i", "env": env}}}}
	}
	text, err := json.Marshal(map[string]any{"kind": "Stack", "name": "s", "placement": map[string]any{"cloud": "lab"}, "resources": resources})
	if err != nil {
		t.Fatalf("%v", err)
	}
	return string(text)
}

// cloud is a world in which objects stand by their keys, and what cannot be is refused.
type cloud struct {
	stands map[string]*orchestratorv1.StandingResource
	dead   map[string]bool
}

func (c *cloud) do(t fataler, w *world, step string, goal *orchestratorv1.Goal) {
	t.Helper()
	r := goal.GetResource()
	if goal.GetRelease() {
		c.dead[r.GetKey()] = true
		delete(c.stands, r.GetKey())
		return
	}
	if c.dead[r.GetKey()] {
		t.Fatalf("step %s: the key %s of %s was released", step, r.GetKey(), r.GetLocalName())
	}
	for name, key := range r.GetReferences() {
		if _, outside := w.outside[name]; !outside && key != r.GetKey() && c.stands[key] == nil {
			t.Fatalf("step %s: %s refers to %s (%s), which does not stand", step, r.GetLocalName(), name, key)
		}
	}
	c.stands[r.GetKey()] = r
	holders := map[string]string{}
	for key, s := range c.stands {
		for _, volume := range volumesOf(s) {
			if other := holders[volume]; other != "" {
				t.Fatalf("step %s: %s and %s hold %s", step, key, other, volume)
			}
			holders[volume] = key
		}
	}
}

func volumesOf(s *orchestratorv1.StandingResource) []string {
	var out []string
	if strings.HasSuffix(s.GetType(), "/Server") || strings.HasSuffix(s.GetType(), "/VolumeAttachment") {
		for name, key := range s.GetReferences() {
			if strings.Contains(name, "/volumes/") {
				out = append(out, key)
			}
		}
	}
	return out
}

func cloudOf(record *orchestratorv1.StackRecord) *cloud {
	c := &cloud{stands: map[string]*orchestratorv1.StandingResource{}, dead: map[string]bool{}}
	for _, s := range record.GetStanding() {
		if !s.GetComposite() {
			c.stands[s.GetKey()] = s
		}
	}
	return c
}

func (c *cloud) keys() []string {
	var out []string
	for k := range c.stands {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func TestPropertiesOfPlans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		before, after := draw(t), draw(t)
		r, problems := w.build(t, before, nil)
		if len(problems) > 0 {
			t.Fatalf("%v", problems)
		}
		record := w.run(t, r.Saga)
		if same, _ := w.build(t, before, proto.CloneOf(record)); len(same.Plan.GetChanges())+len(same.Saga.GetSteps()) > 0 {
			t.Fatalf("the plan of an unchanged document:\n%s", show(same))
		}
		r, problems = w.build(t, after, proto.CloneOf(record))
		if len(problems) > 0 {
			for _, p := range problems {
				if !strings.Contains(p.GetFault().GetMessage(), "make the change in two steps") {
					t.Fatalf("%v", p)
				}
			}
			return
		}
		checkSteps(t, r)
		checkTouched(t, r, record)
		undoAtEachPoint(t, w, r, record)
		done := w.run(t, r.Saga)
		c := cloudOf(record)
		for _, s := range r.Saga.GetSteps() {
			c.do(t, w, s.GetId(), s.GetGoal())
		}
		if got, want := c.keys(), cloudOf(done).keys(); !slices.Equal(got, want) {
			t.Fatalf("after the saga %v stand, the record has %v\n%s", got, want, show(r))
		}
		if again, _ := w.build(t, after, done); len(again.Plan.GetChanges())+len(again.Saga.GetSteps()) > 0 {
			t.Fatalf("after it was applied:\n%s", show(again))
		}
		destroy(t, w, done)
	})
}

func checkSteps(t *rapid.T, r *plan.Result) {
	late, ids := false, map[string]bool{}
	for _, s := range r.Saga.GetSteps() {
		if ids[s.GetId()] {
			t.Fatalf("two steps are called %s", s.GetId())
		}
		for _, n := range s.GetNeeds() {
			if !ids[n] {
				t.Fatalf("step %s needs %s, which does not stand before it", s.GetId(), n)
			}
		}
		ids[s.GetId()] = true
		if late && !s.GetRetriable() {
			t.Fatalf("step %s stands after the pivot", s.GetId())
		}
		late = late || s.GetRetriable()
		if s.GetRetriable() == (s.GetUndo() != nil) {
			t.Fatalf("step %s: retriable %v, undo %v", s.GetId(), s.GetRetriable(), s.GetUndo())
		}
		if s.GetChange() == kindv1.Change_CHANGE_CREATE && (!s.GetUndo().GetRelease() || s.GetUndo().GetResource().GetKey() != s.GetGoal().GetResource().GetKey()) {
			t.Fatalf("the undo of %s does not release what it makes", s.GetId())
		}
	}
}

// checkTouched compares what is touched with what changed, found out in another way: by the records before and after.
func checkTouched(t *rapid.T, r *plan.Result, record *orchestratorv1.StackRecord) {
	touched := map[string]bool{}
	for _, c := range r.Plan.GetChanges() {
		touched[c.GetLocalName()] = true
	}
	former, wanted := map[string]*orchestratorv1.StandingResource{}, map[string]*orchestratorv1.StandingResource{}
	composite := map[string]map[string]string{}
	for _, s := range record.GetStanding() {
		if s.GetComposite() {
			composite[s.GetLocalName()] = s.GetOutputs()
			continue
		}
		former[s.GetLocalName()] = s
	}
	outputsDiffer := map[string]bool{}
	for _, s := range r.Saga.GetStanding() {
		if s.GetComposite() {
			old := composite[s.GetLocalName()]
			outputsDiffer[s.GetLocalName()] = fmt.Sprint(old) != fmt.Sprint(s.GetOutputs())
			continue
		}
		wanted[s.GetLocalName()] = s
	}
	for local, s := range wanted {
		f := former[local]
		differs := f == nil || !proto.Equal(f.GetSpec(), s.GetSpec()) || !maps.Equal(f.GetLabels(), s.GetLabels()) ||
			fmt.Sprint(f.GetReferences()) != fmt.Sprint(s.GetReferences())
		mayDiffer := differs
		if f != nil { // an expression over what is made anew
			for _, need := range s.GetNeeds() {
				if former[need] == nil || former[need].GetKey() != wanted[need].GetKey() {
					mayDiffer = true
				}
			}
			for name, d := range outputsDiffer {
				mayDiffer = mayDiffer || (d && strings.Contains(s.GetSpec().String(), strings.ReplaceAll(name, "-", "_")+"."))
			}
		}
		if differs && !touched[local] || touched[local] && !mayDiffer {
			t.Fatalf("%s: differs %v, touched %v\n%s", local, differs, touched[local], show(r))
		}
	}
	for local := range former {
		if wanted[local] == nil && !touched[local] {
			t.Fatalf("%s goes away and is not shown", local)
		}
	}
}

// undoAtEachPoint stops the saga after each step before the pivot, undoes what was started in reverse order, and looks
// whether the world is as the record after the undo says.
func undoAtEachPoint(t *rapid.T, w *world, r *plan.Result, record *orchestratorv1.StackRecord) {
	steps := r.Saga.GetSteps()
	for stop := 0; stop < len(steps) && !steps[stop].GetRetriable(); stop++ {
		c, started := cloudOf(record), map[string]bool{}
		for _, s := range steps[:stop+1] {
			c.do(t, w, s.GetId(), s.GetGoal())
			started[s.GetId()] = true
		}
		is := func(id string) bool { return started[id] }
		for _, s := range slices.Backward(steps[:stop+1]) {
			c.do(t, w, "undo of "+s.GetId(), plan.UndoGoal(r.Saga, s, is))
		}
		back := cloudOf(&orchestratorv1.StackRecord{Standing: plan.AfterUndo(r.Saga, is)})
		if got, want := c.keys(), back.keys(); !slices.Equal(got, want) {
			t.Fatalf("undone after %s: %v stand, the record has %v\n%s", steps[stop].GetId(), got, want, show(r))
		}
		for key, s := range back.stands {
			if fmt.Sprint(s.GetReferences()) != fmt.Sprint(c.stands[key].GetReferences()) {
				t.Fatalf("undone after %s: %s refers to %v, the record has %v", steps[stop].GetId(), s.GetLocalName(), c.stands[key].GetReferences(), s.GetReferences())
			}
			for name, k := range s.GetReferences() {
				if _, outside := w.outside[name]; !outside && back.stands[k] == nil {
					t.Fatalf("undone after %s: %s refers to %s (%s), which does not stand\n%s", steps[stop].GetId(), s.GetLocalName(), name, k, show(r))
				}
			}
		}
	}
}

func destroy(t *rapid.T, w *world, record *orchestratorv1.StackRecord) {
	saga, err := plan.Destroy(plan.DestroyInput{Record: record, Kinds: w.kinds, Now: now})
	if err != nil {
		t.Fatalf("%v", err)
	}
	c := cloudOf(record)
	for _, s := range saga.GetSteps() {
		key := s.GetGoal().GetResource().GetKey()
		for _, other := range c.stands {
			for _, k := range other.GetReferences() {
				if k == key && other.GetKey() != key {
					t.Fatalf("%s goes while %s refers to it", s.GetId(), other.GetLocalName())
				}
			}
		}
		c.do(t, w, s.GetId(), s.GetGoal())
	}
	if len(c.stands) > 0 {
		t.Fatalf("%v are left", c.keys())
	}
}
