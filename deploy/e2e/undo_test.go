package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
)

// eight is a stack of eight steps; the sixth, the server, needs all that stands before it.
const eight = `kind: Stack
name: eight
placement: {cloud: lab}
resources:
  net: {kind: Network, spec: {}}
  subnet: {kind: Subnet, spec: {network: net, cidr: 10.60.0.0/24}}
  router: {kind: Router, spec: {externalNetwork: public, subnets: [subnet]}}
  wall: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: "80"}]}}
  data: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}
  db: {kind: Server, spec: {image: IMAGE, flavor: m1.tiny, network: net, securityGroups: [wall], metadata: {size: "${string(data.size_gib)}"}}}
  disk: {kind: VolumeAttachment, spec: {server: db, volume: data}}
  address: {kind: FloatingIP, spec: {externalNetwork: public, server: db}}
`

// TestUndo shows that a stack whose step fails leaves nothing of what was started, and says in the cloud's own words why.
func TestUndo(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	i.Cloud.Foreign(t, "demo").Network("stood-before")
	for _, c := range []struct {
		name, step string
		fault      story.Fault
		cloudSays  string
	}{
		{"server quota", "db", story.Fault{
			Service: "compute", Method: "POST", Path: "/servers", Effect: "status", Status: 403,
			Message: "Quota exceeded for instances: Requested 1, but already used 10 of 10 instances",
		}, "already used 10 of 10 instances"},
		{"image vanished", "db", story.Fault{
			Service: "compute", Method: "POST", Path: "/servers", Effect: "status", Status: 400,
			Message: "Image 5e0b8a2c could not be found.",
		}, "Image 5e0b8a2c could not be found."},
		{"attachment refused", "disk", story.Fault{
			Service: "compute", Method: "POST", Path: "/servers/*/os-volume_attachments", Effect: "status", Status: 403,
			Message: "Policy doesn't allow volume attachment",
		}, "Policy doesn't allow volume attachment"},
		{"address quota", "address", story.Fault{
			Service: "network", Method: "POST", Path: "/floatingips", Effect: "status", Status: 409,
			Message: "Quota exceeded for resources: ['floatingip'].",
		}, "Quota exceeded for resources"},
		{"volume quota", "data", story.Fault{
			Service: "volume", Method: "POST", Path: "/volumes", Effect: "status", Status: 413,
			Message: "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed gigabytes quota.",
		}, "exceeds allowed gigabytes quota"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := i.Cloud.Inventory(t)
			i.Cloud.Break(t, c.fault)
			defer i.Cloud.Mend(t)
			undone(t, i, strings.ReplaceAll(eight, "IMAGE", "tiny"), c.step, c.cloudSays)
			i.NothingLeft(t, before)
		})
	}
}

// undone applies a document that must fail at a step and be undone.
func undone(t *testing.T, i *story.Installation, document, step, cloudSays string) {
	t.Helper()
	r := i.Weft(t, "apply", "-f", i.Document(t, "eight.yaml", document), "--wait", "-o", "json")
	op := r.Ended(t, "UNDONE")
	for _, text := range []string{op.GetFault().GetMessage(), op.Long.GetError().GetMessage(), r.Err} {
		if !strings.Contains(text, cloudSays) {
			t.Errorf("the cloud's words %q are not in %q", cloudSays, text)
		}
	}
	if text := op.GetFault().GetMessage(); !strings.Contains(text, "eight."+step) {
		t.Errorf("the fault does not name eight.%s: %q", step, text)
	}
	if op.StepState(step) != "UNDONE" {
		t.Errorf("step %s is %s, want UNDONE", step, op.StepState(step))
	}
	if r := i.Weft(t, "get", "stack", op.GetTarget()).Refused(t); !strings.Contains(r.Err, "does not exist") {
		t.Errorf("the stack that was undone: %s", r.Err)
	}
}

// TestUndoImageVanishes takes the image away for real, after preflight has seen it and before the server is made.
func TestUndoImageVanishes(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	somebody := i.Cloud.Foreign(t, "demo")
	before := i.Cloud.Inventory(t)
	var image struct {
		ID string `json:"id"`
	}
	somebody.Do(http.MethodPost, "/image/v2/images", map[string]any{"name": "fleeting", "disk_format": "raw", "container_format": "bare"}, &image)
	somebody.Upload("/image/v2/images/"+image.ID+"/file", strings.Repeat("x", 1024))
	i.Cloud.Break(t, story.Fault{Service: "network", Method: "POST", Path: "/routers", Effect: "delay", Delay: "2s", Times: 1})
	since := i.Cloud.Last(t)
	running := i.Go(t, "apply", "-f", i.Document(t, "eight.yaml", strings.ReplaceAll(eight, "IMAGE", "fleeting")), "--wait", "-o", "json")
	i.Cloud.AwaitCall(t, since, "POST", "/subnets")
	somebody.Do(http.MethodDelete, "/image/v2/images/"+image.ID, nil, nil)
	op := (<-running).Ended(t, "UNDONE")
	if text := op.GetFault().GetMessage(); !strings.Contains(text, "Can not find requested image") || !strings.Contains(text, "eight.db") {
		t.Errorf("the fault does not say that the image of eight.db is gone: %q", text)
	}
	i.NothingLeft(t, before)
}

// TestUndoOfAnUpdate shows that a change that fails leaves the stack as it stood: the same objects, by id, with the same
// settings.
func TestUndoOfAnUpdate(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	nothing := i.Cloud.Inventory(t)
	first := strings.ReplaceAll(eight, "IMAGE", "tiny")
	i.Apply(t, first, "DONE")
	before := i.Cloud.Inventory(t).Without("network.security_group_rule")
	second := strings.NewReplacer(
		`ports: "80"`, `ports: "81"`, `metadata: {`, `metadata: {role: changed, `,
		"  disk:", "  other: {kind: Server, spec: {image: tiny, flavor: m1.tiny, network: net, metadata: {after: \"${db.address}\"}}}\n  disk:",
	).Replace(first)
	i.Cloud.Break(t, story.Fault{Service: "compute", Method: "POST", Path: "/servers", Body: "eight.other", Effect: "status", Status: 403, Message: "Quota exceeded for cores"})
	op := i.Apply(t, second, "UNDONE")
	if op.StepState("other") != "UNDONE" || !strings.Contains(op.GetFault().GetMessage(), "Quota exceeded for cores") {
		t.Errorf("the step is %s, the fault %q", op.StepState("other"), op.GetFault().GetMessage())
	}
	i.Cloud.Mend(t)
	after := i.Cloud.Inventory(t)
	if got, want := strings.Join(after.Without("network.security_group_rule").Lines(), "\n"), strings.Join(before.Lines(), "\n"); got != want {
		t.Errorf("the cloud holds\n%s\nbefore it held\n%s", got, want)
	}
	if db, ok := after.Find("compute.server", "eight.db"); !ok || db.Metadata["role"] != "" {
		t.Errorf("the server's metadata was not put back: %v", db.Metadata)
	}
	if p := i.Plan(t, first); len(p.GetChanges()) != 0 {
		t.Errorf("after the undo the former document changes something: %v", p.GetChanges())
	}
	i.Destroy(t, "eight", "DONE")
	i.NothingLeft(t, nothing)
}

// TestUndoOfAChangeOfWhatIsGone changes what somebody has taken away, before anything has seen that: the undo makes it anew as
// the former document has it.
func TestUndoOfAChangeOfWhatIsGone(t *testing.T) {
	t.Parallel()
	i := story.Start(t, "--observe-every", "1h")
	i.Cloud.Hurry(t)
	nothing := i.Cloud.Inventory(t)
	first := stackOf("drift", `  group: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: "80"}]}}
  other: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: "443"}]}}
`)
	i.Apply(t, first, "DONE")
	h := &hands{Foreign: i.Cloud.Foreign(t, "demo"), i: i, stack: "drift"}
	lost := h.standing(t, "group")
	h.drop(neutron + "security-groups/" + lost)
	op := i.Apply(t, strings.Replace(first, `ports: "80"`, `ports: "81"`, 1), "UNDONE")
	if text := op.GetFault().GetMessage(); !strings.Contains(text, "is gone from the cloud") {
		t.Errorf("the fault is %q", text)
	}
	if h.standing(t, "group") == lost {
		t.Error("the group was not made anew")
	}
	if p := i.Plan(t, first); len(p.GetChanges()) != 0 {
		t.Errorf("after the undo the former document changes something: %v", p.GetChanges())
	}
	i.Destroy(t, "drift", "DONE")
	i.NothingLeft(t, nothing)
}
