package rehearse

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// TestTurn shows which outcomes a failing step turns round: its own success on the way forward, and no other.
func TestTurn(t *testing.T) {
	early := &orchestratorv1.StepPreview{Id: "db", UndoAction: toldRelease}
	late := &orchestratorv1.StepPreview{Id: "db", UndoAction: toldNone}
	const forward, back = busv1.Direction_DIRECTION_DO, busv1.Direction_DIRECTION_UNDO
	const ready, released, progress = busv1.Result_RESULT_READY, busv1.Result_RESULT_RELEASED, busv1.Result_RESULT_PROGRESS
	cases := map[string]struct {
		fails     *orchestratorv1.StepPreview
		step      string
		direction busv1.Direction
		result    busv1.Result
		attempt   int32
		want      fault.Kind // empty: it is not turned
	}{
		"nothing fails":            {nil, "db", forward, ready, 1, ""},
		"made":                     {early, "db", forward, ready, 1, fault.Internal},
		"made at a later attempt":  {early, "db", forward, ready, 3, fault.Internal},
		"deleted early":            {early, "db", forward, released, 1, fault.Internal},
		"another step":             {early, "data", forward, ready, 1, ""},
		"undone":                   {early, "db", back, released, 1, ""},
		"on its way":               {early, "db", forward, progress, 1, ""},
		"deleted late":             {late, "db", forward, released, 1, fault.Unavailable},
		"deleted late, once again": {late, "db", forward, released, 2, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f := &failing{}
			f.arm(c.fails)
			sent := &busv1.Outcome{Origin: &busv1.Origin{Step: c.step, Direction: c.direction, Attempt: c.attempt}, Key: "k", Result: c.result}
			data, err := proto.Marshal(sent)
			if err != nil {
				t.Fatal(err)
			}
			turned, err := f.turn(bus.Message{Subject: bus.OutcomeSubject(7, "saga"), ID: "id", Data: data})
			if err != nil {
				t.Fatal(err)
			}
			got := &busv1.Outcome{}
			if err := proto.Unmarshal(turned.Data, got); err != nil {
				t.Fatal(err)
			}
			if fault.Kind(got.GetFault().GetKind()) != c.want || (got.GetResult() == busv1.Result_RESULT_FAILED) != (c.want != "") || f.struck() != (c.want != "") {
				t.Errorf("got %v, struck %t", got, f.struck())
			}
			if c.want != "" && (c.want.Retryable() != (c.fails == late) || got.GetKey() != "k" || turned.ID != "id") {
				t.Errorf("got %v", got)
			}
		})
	}
	f := &failing{}
	f.arm(early)
	if m, err := f.turn(bus.Message{Subject: "weft.evt.default.compute.servers.ready", Data: []byte("no outcome")}); err != nil || string(m.Data) != "no outcome" {
		t.Errorf("an event became %q, %v", m.Data, err)
	}
}

func resourceOf(key, id string) *orchestratorv1.StackResource {
	return &orchestratorv1.StackResource{Key: key, Status: &kindv1.Status{ProviderId: id}}
}

// standing is a server with its port, as a sight.
func standing(key, id, port, role string) *sight {
	return &sight{
		resources: map[string]*orchestratorv1.StackResource{"db": resourceOf(key, id)},
		inventory: []item{
			{Service: "compute", Kind: "server", ID: id, Name: "shop.db", State: "ACTIVE", Tags: []string{"weft:key=" + key}, Metadata: map[string]string{"role": role}, Settings: map[string]string{"flavor": "small", "size": "1"}},
			{Service: "network", Kind: "port", ID: port, State: "ACTIVE", Metadata: map[string]string{"device_id": id}},
			{Service: "kubernetes", Kind: "ReplicaSet", ID: port + "-rs", Name: port},
		},
	}
}

func TestCompared(t *testing.T) {
	before := standing("k1", "id1", "p1", "a")
	more := standing("k1", "id1", "p1", "a")
	more.inventory = append(more.inventory, item{Service: "volume", Kind: "volume", ID: "v", Name: "shop.data"})
	resized := standing("k1", "id1", "p1", "a")
	resized.inventory[0].Settings = map[string]string{"flavor": "large", "size": "1"}
	larger := standing("k1", "id1", "p1", "a")
	larger.inventory[0].Settings = map[string]string{"flavor": "small", "size": "2"}
	cases := map[string]struct {
		after             *sight
		remade            []string
		grown             bool
		missing, leftover int
	}{
		"the same":                     {standing("k1", "id1", "p1", "a"), nil, false, 0, 0},
		"another port":                 {standing("k1", "id1", "p2", "a"), nil, false, 0, 0},
		"another setting":              {standing("k1", "id1", "p1", "b"), nil, false, 1, 1},
		"another server":               {standing("k2", "id2", "p1", "a"), nil, false, 2, 2},
		"another server, told":         {standing("k2", "id2", "p2", "a"), []string{"db"}, false, 0, 0},
		"another server and setting":   {standing("k2", "id2", "p2", "b"), []string{"db"}, false, 1, 1},
		"another flavor":               {resized, nil, false, 1, 1},
		"another size":                 {larger, nil, false, 1, 1},
		"another size, told":           {larger, nil, true, 0, 0},
		"something more":               {more, nil, false, 0, 1},
		"nothing":                      {&sight{}, nil, false, 2, 0},
		"told to be made anew, is not": {&sight{}, []string{"db"}, false, 2, 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			was, is := compared(before, c.after, c.remade, c.grown)
			missing, leftover := without(was, is), without(is, was)
			if len(missing) != c.missing || len(leftover) != c.leftover {
				t.Errorf("missing %q, left over %q", missing, leftover)
			}
		})
	}
}

func TestNames(t *testing.T) {
	named := func(key string) []string {
		s := standing(key, "id-"+key, "p-"+key, "a")
		s.inventory = append(s.inventory, item{Service: "compute", Kind: "keypair", Name: "weft-" + key}, item{Service: "kubernetes", Kind: "Pod", Name: "pod-" + key})
		s.inventory[0].Name = "shop.db"
		s.resources["key"] = resourceOf(key, "")
		delete(s.resources, "db")
		return s.names()
	}
	if diff := cmp.Diff(named("k1"), named("k2")); diff != "" {
		t.Errorf("two stacks of other keys differ:\n%s", diff)
	}
}

// TestJudgeUndo shows that each way in which an undo can differ from what is told is found.
func TestJudgeUndo(t *testing.T) {
	one, other := standing("k1", "id1", "p1", "a"), standing("k2", "id2", "p2", "a")
	gone := &sight{resources: map[string]*orchestratorv1.StackResource{}}
	left := &sight{resources: gone.resources, inventory: one.inventory}
	cases := map[string]struct {
		told          orchestratorv1.UndoAction
		before, after *sight
		want          orchestratorv1.UndoAction
	}{
		"released":                {toldRelease, gone, gone, toldRelease},
		"left instead":            {toldRelease, gone, left, toldNone},
		"restored":                {toldRestore, one, one, toldRestore},
		"made anew instead":       {toldRestore, one, other, toldRemake},
		"gone instead":            {toldRestore, one, gone, told0},
		"made in the same run":    {toldRestore, gone, gone, toldRestore},
		"made anew":               {toldRemake, one, other, toldRemake},
		"still there instead":     {toldRemake, one, one, toldRestore},
		"deleted and not remade":  {toldRemake, one, gone, told0},
		"the new one is released": {toldRelease, other, other, toldRelease},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := &stage{out: &orchestratorv1.Rehearsal{Plan: &orchestratorv1.Plan{Steps: []*orchestratorv1.StepPreview{{Id: "db", LocalName: "db", UndoAction: c.told}}}}}
			v := &verdict{
				before: c.before, after: c.after, order: []string{"db"},
				end: &orchestratorv1.OperationMetadata{Steps: []*orchestratorv1.StepStatus{{Id: "db", ProviderId: "id1", State: orchestratorv1.StepState_STEP_STATE_UNDONE}}},
			}
			var differences []string
			got := s.judgeUndo(v, "db", func(text string) { differences = append(differences, text) })
			if got.GetFound() != c.want || (len(differences) > 0) != (c.want != c.told) {
				t.Errorf("found %s, differences %q", got.GetFound(), differences)
			}
		})
	}
}

func TestJudgeOrderAndUntouched(t *testing.T) {
	s := &stage{out: &orchestratorv1.Rehearsal{Plan: &orchestratorv1.Plan{Steps: []*orchestratorv1.StepPreview{
		{Id: "net", LocalName: "net", UndoAction: toldRelease}, {Id: "db", LocalName: "db", UndoAction: toldRelease, Needs: []string{"net"}},
	}}}}
	step := func(id string, state orchestratorv1.StepState) *orchestratorv1.StepStatus {
		return &orchestratorv1.StepStatus{Id: id, State: state}
	}
	const undone, stuck = orchestratorv1.StepState_STEP_STATE_UNDONE, orchestratorv1.StepState_STEP_STATE_STUCK
	for name, c := range map[string]struct {
		order         []string
		net           orchestratorv1.StepState
		before, after *sight
		want          string
	}{
		"as told":             {[]string{"db", "net"}, undone, &sight{}, &sight{}, ""},
		"the wrong way round": {[]string{"net", "db"}, undone, &sight{}, &sight{}, "net was undone before db"},
		"stuck":               {[]string{"db"}, stuck, &sight{}, &sight{}, "net is STUCK"},
		"lost what stood":     {[]string{"db", "net"}, undone, standing("k1", "id1", "p", "a"), &sight{}, "db stood before and is gone"},
		"exchanged it":        {[]string{"db", "net"}, undone, standing("k1", "id1", "p", "a"), standing("k2", "id2", "p", "a"), "db is another object"},
	} {
		t.Run(name, func(t *testing.T) {
			v := &verdict{order: c.order, before: c.before, after: c.after, end: &orchestratorv1.OperationMetadata{Steps: []*orchestratorv1.StepStatus{step("net", c.net), step("db", undone)}}}
			var differences []string
			differ := func(text string) { differences = append(differences, text) }
			s.judgeOrder(v, differ)
			s.judgeUntouched(v, differ)
			if got := strings.Join(differences, "\n"); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestUndoOrder(t *testing.T) {
	state := func(states ...string) *orchestratorv1.OperationMetadata {
		op := &orchestratorv1.OperationMetadata{}
		for _, s := range states {
			op.Steps = append(op.Steps, &orchestratorv1.StepStatus{Id: s[:1], State: orchestratorv1.StepState(orchestratorv1.StepState_value["STEP_STATE_"+s[2:]])})
		}
		return op
	}
	u := &undoOrder{}
	for _, op := range []*orchestratorv1.OperationMetadata{
		state("a DONE", "b DONE", "c RUNNING"), state("a DONE", "b UNDOING", "c UNDONE"), state("a UNDONE", "b UNDONE", "c UNDONE"),
	} {
		u.add(op)
	}
	if want := []string{"c", "b", "a"}; !slices.Equal(u.order, want) {
		t.Errorf("got %v, want %v", u.order, want)
	}
}

func TestNamesIn(t *testing.T) {
	given, err := structpb.NewStruct(map[string]any{"big": "c9.huge"})
	if err != nil {
		t.Fatal(err)
	}
	got := namesIn(`
parameters: {image: debian-99, big: c1.small, cluster-secret: my-kube}
resources:
  net: {kind: PrivateNetwork, spec: {cidr: 10.0.0.0/24, external: provider}}
  db: {kind: Server, spec: {image: "${params.image}", flavor: '${params["big"]}'}}
  b: {kind: Server, spec: {image: "${other.image}", flavor: m1.tiny}}
  ip: {kind: FloatingIP, spec: {external_network: provider2}}
  web: {kind: Workload, spec: {namespace: shop, containers: [{name: web, image: "nginx:1"}]}}
`, given)
	for _, values := range got {
		slices.Sort(values)
	}
	want := names{
		"image": {"debian-99"}, "flavor": {"c9.huge", "m1.tiny"}, "external": {"provider", "provider2"}, "namespace": {"shop"},
		"parameter": {"c9.huge", "debian-99", "my-kube"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !got.mentions("my-kube") || got.mentions("nginx:1") {
		t.Errorf("mentions: %v", got)
	}
}
