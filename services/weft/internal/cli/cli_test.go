package cli

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"weft": func() {
			nothing := func(context.Context, DevConfig) error {
				return fault.New(fault.Unavailable, "this machine has no room")
			}
			os.Exit(Execute(context.Background(), FromProcess(nothing)))
		},
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", UpdateScripts: *update, RequireUniqueNames: true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"errorobject": errorObject},
		Setup: func(env *testscript.Env) error {
			dir := filepath.Join(env.WorkDir, ".weft")
			stop, err := startInstallation(dir)
			if err != nil {
				return err
			}
			env.Defer(stop)
			env.Setenv("WEFT_CONTEXT", filepath.Join(dir, "context.yaml"))
			env.Setenv("VIEWER", filepath.Join(dir, "viewer.yaml"))
			env.Setenv("CA_DIR", filepath.Join(dir, "ca"))
			return nil
		},
	})
}

// errorObject checks that standard error of the last command is one google.rpc.Status as JSON, with the code that is
// given by its name and with what every error has: a reason and what to do next.
func errorObject(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: errorobject CODE")
	}
	text := ts.ReadFile("stderr")
	s := &rpcstatus.Status{}
	if err := protojson.Unmarshal([]byte(text), s); err != nil {
		ts.Fatalf("standard error is no single status: %v\n%s", err, text)
	}
	if want := code.Code_value[args[0]]; s.GetCode() != want || want == 0 {
		ts.Fatalf("code %d, want %s (%d)\n%s", s.GetCode(), args[0], want, text)
	}
	if !has[*errdetails.ErrorInfo](s) || !has[*errdetails.Help](s) || s.GetMessage() == "" {
		ts.Fatalf("it lacks a message, a reason or help:\n%s", text)
	}
}

// golden compares text with a file.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
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
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func TestGolden(t *testing.T) {
	a := &tool{p: Process{Now: func() time.Time { return birth.Add(3 * time.Second) }}}
	states := sampleOperation("tenants/demo/operations/o", "tenants/demo/stacks/shop", orchestratorv1.Action_ACTION_APPLY)
	for _, width := range []int{60, 80, 120} {
		for name, text := range map[string]string{
			"plan":      planText(samplePlan(), width, style{}),
			"describe":  a.describeStack(sampleStack(), width, style{}),
			"rehearsal": rehearsalText(sampleRehearsal(), width, style{}),
			"progress":  progressText(states[1], a.p.Now(), 0, width, 40, style{}),
		} {
			golden(t, fmt.Sprintf("%s-%d.txt", name, width), text)
			for _, line := range strings.Split(text, "\n") {
				if ansi.StringWidth(line) > width {
					t.Errorf("%s: %q is wider than %d", name, line, width)
				}
			}
		}
	}
}

// TestProgressFitsTheTerminal: what is higher than the terminal cannot be redrawn in place.
func TestProgressFitsTheTerminal(t *testing.T) {
	op := &orchestratorv1.OperationMetadata{CreateTime: at(0)}
	for i := range 100 {
		state := orchestratorv1.StepState_STEP_STATE_DONE
		if i > 50 {
			state = orchestratorv1.StepState_STEP_STATE_RUNNING
		}
		op.Steps = append(op.Steps, &orchestratorv1.StepStatus{Id: fmt.Sprintf("s%d", i), State: state})
	}
	for _, height := range []int{5, 24, 60, 200} {
		if got := strings.Count(progressText(op, birth, 0, 80, height, style{}), "\n"); got > height {
			t.Errorf("height %d: %d lines", height, got)
		}
	}
}

// TestBlockersAreTold: on a narrow terminal too, whoever waits for a deletion reads what blocks it, whose it is, and what to
// do; and where nothing can be redrawn, a line tells that another object blocks it now.
func TestBlockersAreTold(t *testing.T) {
	const id = "6dd1b2a4-6a57-4bb3-9ea1-5f0f2a6d3c11"
	blocked := func(id string) *orchestratorv1.OperationMetadata {
		return &orchestratorv1.OperationMetadata{CreateTime: at(0), Steps: []*orchestratorv1.StepStatus{{
			Id: "net", State: orchestratorv1.StepState_STEP_STATE_RUNNING, Change: kindv1.Change_CHANGE_DELETE,
			Fault:    &kindv1.Fault{Kind: "Conflict", Message: "delete it: the cloud's own words"},
			Blockers: []*kindv1.Blocker{{Kind: "server", Id: id, Owner: "web-1, not made by Weft, in this project", Action: "delete server " + id + ", or detach its port"}},
		}}}
	}
	tree := progressText(blocked(id), birth, 0, 60, 40, style{})
	flat := strings.Join(strings.Fields(tree), " ")
	for _, want := range []string{"waits for server " + id + " of web-1, not made by Weft, in this project", "delete server " + id + ", or detach its port"} {
		if !strings.Contains(flat, want) {
			t.Errorf("it does not say %q:\n%s", want, tree)
		}
	}
	if strings.Contains(tree, "own words") {
		t.Errorf("it says the same twice:\n%s", tree)
	}
	for line := range strings.Lines(tree) {
		if ansi.StringWidth(strings.TrimSuffix(line, "\n")) > 60 {
			t.Errorf("%q is wider than the terminal", line)
		}
	}
	if lines := changedLines(blocked(id), blocked("another"), birth); len(lines) != 1 || !strings.Contains(lines[0], "server another") {
		t.Errorf("another blocker is told by %q", lines)
	}
	if lines := changedLines(blocked(id), blocked(id), birth); len(lines) != 0 {
		t.Errorf("nothing has changed, and %q is told", lines)
	}
}

// TestAttempt: the number of an attempt is told while a step goes forward, and not once it has ended or goes back.
func TestAttempt(t *testing.T) {
	shown := map[orchestratorv1.StepState]bool{orchestratorv1.StepState_STEP_STATE_RUNNING: true, orchestratorv1.StepState_STEP_STATE_BACKOFF: true}
	for n := range orchestratorv1.StepState_name {
		state := orchestratorv1.StepState(n)
		op := &orchestratorv1.OperationMetadata{CreateTime: at(0), Steps: []*orchestratorv1.StepStatus{{Id: "db", State: state, Attempt: 2}}}
		lines := strings.Join(changedLines(&orchestratorv1.OperationMetadata{}, op, birth), "\n")
		tree := progressText(op, birth, 0, 80, 40, style{})
		if got := strings.Contains(lines, "attempt 2"); got != shown[state] {
			t.Errorf("%s: the line is %q", state, lines)
		}
		if got := strings.Contains(tree, "attempt 2"); got != shown[state] {
			t.Errorf("%s: the tree is %q", state, tree)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"networks", "subnets", "servers", "securityGroups", "floatingIps"}
	for word, want := range map[string]string{
		"subnts": "subnets", "network": "networks", "sevrers": "servers", "securitygroup": "securityGroups", "spaceships": "", "x": "",
	} {
		if got := nearest(word, known); got != want {
			t.Errorf("%s: %q, want %q", word, got, want)
		}
	}
}

func TestBuild(t *testing.T) {
	info := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.0"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "4e53295"}, {Key: "vcs.time", Value: "2026-11-23T06:00:00Z"}, {Key: "vcs.modified", Value: "true"},
	}}
	for name, c := range map[string]struct {
		info *debug.BuildInfo
		want string
	}{
		"stamped":   {info, "weft v1.2.0 revision 4e53295 (modified) "},
		"unstamped": {&debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, "weft devel revision unknown "},
		"nothing":   {nil, "weft devel revision unknown "},
	} {
		if got := buildOf(c.info).text(); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestValueText: enums are shown without the prefix that their names share.
func TestValueText(t *testing.T) {
	m := &computev1.ServerObserved{PowerState: computev1.PowerState_POWER_STATE_ON}
	f := m.ProtoReflect().Descriptor().Fields().ByName("power_state")
	if got := valueText(f, m.ProtoReflect().Get(f)); got != "ON" {
		t.Errorf("got %q, want ON", got)
	}
	m.PowerState = computev1.PowerState_POWER_STATE_UNSPECIFIED
	if got := valueText(f, m.ProtoReflect().Get(f)); got != "" {
		t.Errorf("got %q of what is not known", got)
	}
}

func TestExcerpt(t *testing.T) {
	document := "kind: Stack\nresources:\n\tdb: {image: debian}\n"
	tests := map[string]struct {
		line, column, width int
		want                string
	}{
		"caret below":    {3, 14, 80, "    3 | \tdb: {image: debian}\n      | \t            ^\n"},
		"no place":       {0, 0, 80, ""},
		"beyond the end": {9, 1, 80, ""},
		"column too far": {1, 99, 80, "    1 | kind: Stack\n      |            ^\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, excerpt(document, test.line, test.column, test.width, style{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	stop, err := startInstallation(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	tests := map[string]struct {
		args string
		want int
	}{
		"done":                  {"get networks", exitDone},
		"refused":               {"get network none", exitFailed},
		"no such kind":          {"get spaceships", exitUsage},
		"no context":            {"--context nowhere get networks", exitFailed},
		"no such command":       {"nonsense", exitUsage},
		"no such flag":          {"get networks --nonsense", exitUsage},
		"no such output":        {"get networks -o xml", exitUsage},
		"missing argument":      {"describe network", exitUsage},
		"missing verb":          {"ops", exitUsage},
		"unknown verb":          {"ops dance", exitUsage},
		"missing document":      {"apply", exitUsage},
		"flags that clash":      {"destroy x --wait --no-wait", exitUsage},
		"done, as json":         {"get networks -o json", exitDone},
		"refused, as json":      {"get network none -o json", exitFailed},
		"misused, as json":      {"get spaceships -o json", exitUsage},
		"no such flag, as json": {"get networks --nonsense -o json", exitUsage},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var out, errs strings.Builder
			env := map[string]string{"WEFT_CONTEXT": filepath.Join(dir, "context.yaml")}
			code := Execute(t.Context(), Process{
				Args: strings.Fields(test.args), In: strings.NewReader(""), Out: &out, Err: &errs, Now: time.Now,
				Getenv: func(name string) string { return env[name] }, Size: func() (int, int) { return 80, 24 },
			})
			if code != test.want {
				t.Errorf("exit code %d, want %d\n%s", code, test.want, errs.String())
			}
			if (code == exitDone) != (errs.Len() == 0) || code != exitDone && out.Len() > 0 {
				t.Errorf("standard output %q, standard error %q", out.String(), errs.String())
			}
		})
	}
}

// cancelling is a terminal at which a person presses Ctrl-C as soon as they see a word.
type cancelling struct {
	text   strings.Builder
	word   string
	cancel func()
}

// Write writes, and cancels when the word is seen.
func (c *cancelling) Write(p []byte) (int, error) {
	n, err := c.text.Write(p)
	if strings.Contains(c.text.String(), c.word) {
		c.cancel()
	}
	return n, err
}

func TestCancelLeavesTheOperation(t *testing.T) {
	dir := t.TempDir()
	stop, err := startInstallation(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	for _, terminal := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		errs := &cancelling{word: "creating", cancel: cancel}
		var out strings.Builder
		code := Execute(ctx, Process{
			Args: []string{"--context", filepath.Join(dir, "context.yaml"), "apply", "-f", "-", "--wait"}, In: strings.NewReader("name: slow # hangs"),
			Out: &out, Err: errs, ErrIsTerminal: terminal, Now: time.Now, Getenv: func(string) string { return "" }, Size: func() (int, int) { return 80, 24 },
		})
		if code != exitFailed || out.Len() > 0 || !strings.Contains(errs.text.String(), "weft ops cancel apply-slow") {
			t.Errorf("terminal %v: code %d, standard output %q, standard error %q", terminal, code, out.String(), errs.text.String())
		}
		if got := strings.Contains(errs.text.String(), "⠋"); got != terminal {
			t.Errorf("terminal %v: spinner drawn: %v", terminal, got)
		}
	}
}
