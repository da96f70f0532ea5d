package e2e

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// twelve is a stack of twelve steps on both clouds.
const twelve = `kind: Stack
name: twelve
placement: {cloud: lab}
parameters: {image: somebodys-image}
resources:
  net: {kind: Network, spec: {}}
  subnet: {kind: Subnet, spec: {network: net, cidr: 10.80.0.0/24}}
  router: {kind: Router, spec: {externalNetwork: public, subnets: [subnet]}}
  wall: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: "80"}]}}
  key: {kind: KeyPair, spec: {publicKey: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0v1h7mXyV9G6Zp7o2Ff7gkL9cQJ4nT1uQd5y8wXb3K me"}}
  data: {kind: Volume, spec: {size: 2Gi, reclaim: DESTROY}}
  db: {kind: Server, spec: {image: "${params.image}", flavor: m1.tiny, network: net, securityGroups: [wall], keyPair: key, metadata: {role: a}}}
  disk: {kind: VolumeAttachment, spec: {server: db, volume: data}}
  address: {kind: FloatingIP, spec: {externalNetwork: public, server: db}}
  apps: {kind: Cluster, spec: {driver: ADOPT, credentials: own}}
  settings: {kind: Manifest, spec: {cluster: apps, yaml: "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {a: b}}"}}
  web: {kind: Workload, spec: {cluster: apps, replicas: 2, containers: [{name: web, image: pause, ports: [80], env: {DB: "${db.address}"}}]}}
`

// edited makes, changes, restarts, replaces and deletes.
func edited() string {
	return strings.NewReplacer(
		`ports: "80"`, `ports: "81"`, // changed in place
		"size: 2Gi", "size: 3Gi", // can only grow
		"replicas: 2", "replicas: 3",
		"XyV9G6Zp7o2Ff7gkL9cQJ4nT1uQd5y8wXb3K", "XyV9G6Zp7o2Ff7gkL9cQJ4nT1uQd5y8wXb4K", // replaces the key, and by it the server, which holds a volume by its attachment
		"  settings: {kind: Manifest, spec: {cluster: apps, yaml: \"{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {a: b}}\"}}\n", "", // deleted
		"  apps:", "  second: {kind: Server, spec: {image: tiny, flavor: m1.tiny, network: net, metadata: {after: \"${db.address}\"}}}\n  apps:", // made
	).Replace(twelve)
}

// TestRehearsal rehearses a stack of twelve steps, and then an edit of it while it stands: whichever step fails after it
// was done, the inventory is as it was and every undo is as the plan tells. The person's own cloud is not touched.
func TestRehearsal(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	image(t, i, "somebodys-image")
	i.Must(t, "secret", "put", "own", "note=x", "--from-file", "kubeconfig="+filepath.Join(i.Data(), "kubeconfig"))
	since, before := i.Cloud.Last(t), i.Cloud.Inventory(t)

	made := rehearsed(t, i, twelve)
	if want := []string{"secret own: the values of note are made up"}; !slices.Equal(made.GetNotices(), want) {
		t.Errorf("the notices are %q, want %q", made.GetNotices(), want)
	}
	if n := len(made.GetPlan().GetSteps()); n != 12 {
		t.Errorf("the plan has %d steps, want 12", n)
	}
	for _, s := range made.GetPlan().GetSteps() {
		if s.GetUndoAction() != orchestratorv1.UndoAction_UNDO_ACTION_RELEASE || s.GetUndoPrecondition() == "" {
			t.Errorf("the undo of what is made is told as %v", s)
		}
	}
	if calls := i.Cloud.Mutations(t, since); len(calls) > 0 && !dryRuns(calls) {
		t.Errorf("the rehearsal changed something at the person's own cloud: %v", calls)
	}
	i.Cloud.Same(t, before)

	i.Apply(t, twelve, "DONE")
	stands := i.Cloud.Inventory(t)
	changed := rehearsed(t, i, edited())
	seen := map[orchestratorv1.UndoAction]bool{}
	kept := false
	for _, s := range changed.GetPlan().GetSteps() {
		seen[s.GetUndoAction()] = true
		kept = kept || slices.Contains(s.GetUndoKeeps(), "spec.size")
	}
	if len(seen) != 4 || !kept {
		t.Errorf("the edit leads to the undos %v, want one of each kind, and a size that is kept: %t", seen, kept)
	}
	i.Cloud.Same(t, stands)
	i.Destroy(t, "twelve", "DONE")
	i.NothingLeft(t, before)
}

// image makes an image at the person's cloud that no other cloud has.
func image(t *testing.T, i *story.Installation, name string) {
	t.Helper()
	somebody := i.Cloud.Foreign(t, "demo")
	var made struct {
		ID string `json:"id"`
	}
	somebody.Do("POST", "/image/v2/images", map[string]any{"name": name, "disk_format": "raw", "container_format": "bare"}, &made)
	somebody.Upload("/image/v2/images/"+made.ID+"/file", strings.Repeat("x", 1024))
}

// rehearsed rehearses a document, which must go as told, and checks that nothing of the rehearsal is left on the machine.
func rehearsed(t *testing.T, i *story.Installation, document string) *orchestratorv1.Rehearsal {
	t.Helper()
	temporary := t.TempDir()
	r := <-i.GoIn(t, []string{"TMPDIR=" + temporary}, "plan", "-f", i.Document(t, "twelve.yaml", document), "--rehearse", "-o", "json")
	report := &orchestratorv1.Rehearsal{}
	r.Decode(t, report)
	steps := report.GetPlan().GetSteps()
	if len(report.GetRuns()) != len(steps)+1 {
		t.Fatalf("%d runs of %d steps", len(report.GetRuns()), len(steps))
	}
	for n, run := range report.GetRuns() {
		checkRun(t, steps, n, run)
	}
	if r.Code != 0 || !report.GetAsTold() {
		t.Errorf("exit code %d, as told: %t\n%s", r.Code, report.GetAsTold(), r.Err)
	}
	if left, err := filepath.Glob(filepath.Join(temporary, "*")); err != nil || len(left) > 0 {
		t.Errorf("the rehearsal left %v, %v", left, err)
	}
	t.Logf("%d runs in %s", len(report.GetRuns()), report.GetDuration().AsDuration())
	return report
}

// checkRun holds one run against what the plan tells, without believing the rehearsal's own verdict.
func checkRun(t *testing.T, steps []*orchestratorv1.StepPreview, n int, run *orchestratorv1.RehearsalRun) {
	t.Helper()
	want, name := orchestratorv1.OperationState_OPERATION_STATE_DONE, ""
	if n < len(steps) {
		name = steps[n].GetId()
		if steps[n].GetUndoAction() != orchestratorv1.UndoAction_UNDO_ACTION_NONE {
			want = orchestratorv1.OperationState_OPERATION_STATE_UNDONE
		}
	}
	if run.GetStep() != name || run.GetState() != want || !run.GetInventoryEqual() || !run.GetAsTold() {
		t.Errorf("after %q: %v\nwant the state %s and the inventory as it was", name, run, want)
	}
	if want == orchestratorv1.OperationState_OPERATION_STATE_DONE {
		return
	}
	if !slices.ContainsFunc(run.GetUndone(), func(u *orchestratorv1.RehearsedUndo) bool { return u.GetStep() == name }) {
		t.Errorf("after %s: the step itself was not undone: %v", name, run.GetUndone())
	}
	for _, u := range run.GetUndone() {
		at := slices.IndexFunc(steps, func(s *orchestratorv1.StepPreview) bool { return s.GetId() == u.GetStep() })
		if at < 0 || u.GetFound() != steps[at].GetUndoAction() {
			t.Errorf("after %s: the undo of %s was %s, and the plan shows another", name, u.GetStep(), u.GetFound())
		}
	}
}

// TestRehearsalInterrupted shows that Ctrl-C ends a rehearsal soon, with nothing left on the machine.
func TestRehearsalInterrupted(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	temporary := t.TempDir()
	cmd := exec.Command(os.Getenv(story.Binary), "plan", "-f", i.Document(t, "twelve.yaml", strings.NewReplacer("somebodys-image", "tiny", "credentials: own", "credentials: kube").Replace(twelve)), "--rehearse")
	cmd.Env = append(os.Environ(), "WEFT_CONTEXT="+i.Context(), "TMPDIR="+temporary)
	progress, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(progress)
	seen := ""
	for lines.Scan() {
		seen += lines.Text() + "\n"
		if strings.Contains(lines.Text(), "failing after router") { // in the middle of its work
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = cmd.Wait()
	if _, failed := errors.AsType[*exec.ExitError](err); !failed || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(seen, "it was interrupted; nothing of it is left") {
		t.Errorf("it ended with %v and said\n%s", err, seen)
	}
	if left, err := filepath.Glob(filepath.Join(temporary, "*")); err != nil || len(left) > 0 {
		t.Errorf("the rehearsal left %v, %v", left, err)
	}
}

// TestRehearsalRefused shows that what the simulated cloud cannot stand in for is named with its place.
func TestRehearsalRefused(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	document := `kind: Stack
name: other
placement: {cloud: lab}
resources:
  data: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY, type: rare}}
`
	r := i.Weft(t, "plan", "-f", i.Document(t, "other.yaml", document), "--rehearse", "--skip-preflight").Refused(t)
	for _, want := range []string{"rehearse other.yaml: the simulated cloud cannot stand in", "other.yaml:5:", "resources.data.spec.type", "rare"} {
		if !strings.Contains(r.Err, want) {
			t.Errorf("it does not say %q:\n%s", want, r.Err)
		}
	}
}
