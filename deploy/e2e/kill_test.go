package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
)

// shop is the document that newcomers copy.
func shop(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "examples", "shop.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// moment is a moment in the life of an operation at which everything dies.
type moment struct {
	name string
	// fault holds the moment open; nil if there is nothing to hold.
	fault *story.Fault
	// method and path are the call after which to kill, if no fault is given.
	method, path string
}

func (m moment) await(t *testing.T, i *story.Installation, since uint64, fault string) {
	t.Helper()
	if m.fault != nil {
		i.Cloud.AwaitStruck(t, fault)
		return
	}
	i.Cloud.AwaitCall(t, since, m.method, m.path)
}

// TestKill kills the whole platform in the middle of an apply, at different moments, and starts it again: the operation
// is done in the end, and there is no second object of anything. The command that waits for it outlives the kill.
func TestKill(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	nothing := i.Cloud.Inventory(t)
	i.Apply(t, shop(t), "DONE")
	want := i.Cloud.Inventory(t).Counts()
	i.Destroy(t, "shop", "DONE")
	i.NothingLeft(t, nothing)
	for _, m := range []moment{
		{name: "before the cloud makes the network", fault: &story.Fault{Service: "network", Method: "POST", Path: "/networks", Effect: "delay", Delay: "3s", Times: 1}},
		{name: "after the router, before its interface", method: "POST", path: "/routers"},
		{name: "before the answer that the server is made", fault: &story.Fault{Service: "compute", Method: "POST", Path: "/servers", Effect: "drop_response", Times: 1}},
		{name: "while the server builds", method: "POST", path: "/servers"},
		{name: "after the address", method: "POST", path: "/floatingips"},
		{name: "after the deployment, before its service", method: "POST", path: "/deployments"},
	} {
		t.Run(m.name, func(t *testing.T) {
			r := killed(t, i, m, "apply", "-f", i.Document(t, "shop.yaml", shop(t)), "--wait", "-o", "json")
			r.Ended(t, "DONE")
			story.Await(t, "the cloud holds exactly one of everything", func() bool {
				return cmp.Equal(want, i.Cloud.Inventory(t).Counts()) || t.Failed()
			})
			unique(t, i.Cloud.Inventory(t))
			i.Destroy(t, "shop", "DONE")
			i.NothingLeft(t, nothing)
		})
	}
}

// killed runs a command in the background, kills the installation at the moment, starts it again, and gives what the
// command left in the end.
func killed(t *testing.T, i *story.Installation, m moment, args ...string) story.Result {
	t.Helper()
	fault := ""
	if m.fault != nil {
		fault = i.Cloud.Break(t, *m.fault)
	}
	since := i.Cloud.Last(t)
	running := i.Go(t, args...)
	m.await(t, i, since, fault)
	i.Kill(t)
	i.Restart(t)
	i.Cloud.Mend(t)
	return <-running
}

// unique fails the test if two objects of a kind have the same name or the same key.
func unique(t *testing.T, in story.Inventory) {
	t.Helper()
	var seen []string
	for _, item := range in {
		for _, mark := range []string{item.Name, item.Metadata["weft-key"]} {
			if mark == "" {
				continue
			}
			mark = item.Service + "." + item.Kind + " " + mark
			if slices.Contains(seen, mark) && item.Metadata["weft-key"] == "" {
				t.Errorf("there are two of %s", mark)
			}
			seen = append(seen, mark)
		}
	}
}

// TestKillDuringDestroy kills the platform while it takes a stack away.
func TestKillDuringDestroy(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	nothing := i.Cloud.Inventory(t)
	i.Apply(t, shop(t), "DONE")
	killed(t, i, moment{method: "DELETE", path: "/servers/"}, "destroy", "shop", "--wait", "-o", "json").Ended(t, "DONE")
	i.NothingLeft(t, nothing)
}

// TestKillDuringUndo kills the platform while it goes back.
func TestKillDuringUndo(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	nothing := i.Cloud.Inventory(t)
	i.Cloud.Break(t, story.Fault{Service: "network", Method: "POST", Path: "/floatingips", Effect: "status", Status: 403, Message: "Policy forbids it"})
	r := killed(t, i, moment{method: "DELETE", path: "/servers/"}, "apply", "-f", i.Document(t, "shop.yaml", shop(t)), "--wait", "-o", "json")
	r.Ended(t, "UNDONE")
	i.NothingLeft(t, nothing)
}

// TestKillThenApply asks for something right after a restart, while the killed owner's lease still runs: the request waits
// instead of being refused.
func TestKillThenApply(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	i.Kill(t)
	i.Restart(t)
	i.Apply(t, stackOf("soon", fabric), "DONE")
	i.Kill(t)
	i.Restart(t)
	i.Destroy(t, "soon", "DONE")
	i.NothingLeft(t, nil)
}
