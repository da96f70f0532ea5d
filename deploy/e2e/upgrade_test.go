package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
)

// oldBuild is the environment variable that names the commit whose build leaves sagas to this one; formerCommit is the
// one without it.
const (
	oldBuild     = "WEFT_OLD"
	formerCommit = "33870f06414b80ea31dd6f229023522ee2446ad8"
)

// formerPrograms builds the programs of a former commit and gives their folder.
func formerPrograms(t *testing.T) string {
	t.Helper()
	commit := os.Getenv(oldBuild)
	if commit == "" {
		commit = formerCommit
	}
	root := filepath.Join("..", "..")
	git := func(args ...string) ([]byte, error) {
		return exec.Command("git", append([]string{"-C", root}, args...)...).CombinedOutput()
	}
	if out, err := git("cat-file", "-e", commit+"^{commit}"); err != nil {
		t.Skipf("there is no commit %s here to build: %s %s", commit, err, out)
	}
	source, bin := t.TempDir(), t.TempDir()
	archive := filepath.Join(bin, "source.tar")
	if out, err := git("archive", "-o", archive, commit); err != nil {
		t.Fatalf("take the source of %s: %s\n%s", commit, err, out)
	}
	if out, err := exec.Command("tar", "-xf", archive, "-C", source).CombinedOutput(); err != nil {
		t.Fatalf("unpack the source of %s: %s\n%s", commit, err, out)
	}
	args := []string{"build", "-o", bin + "/"}
	for _, s := range story.Services() {
		args = append(args, "./services/"+s+"/cmd/"+s+"d")
	}
	build := exec.Command("go", args...)
	build.Dir = source
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %s\n%s", commit, err, out)
	}
	return bin
}

// TestUpgrade has a former build begin applies and destroys, kills all its processes, and starts this build on what they
// left: all that was in flight ends as it should, and nothing is made twice.
func TestUpgrade(t *testing.T) {
	if os.Getenv(chaos) == "" {
		t.Skipf("it builds a former commit, which takes minutes; make cluster (%s=1) tells it", chaos)
	}
	former := formerPrograms(t)
	c := prepareWith(t, everywhere(unbounded))
	current := c.Bin
	c.StartEtcd(t)
	c.StartNATS(t)
	c.StartSandbox(t)
	c.Bin = former
	for _, s := range story.Services() {
		c.Start(t, s)
	}
	c.Register(t)
	limitless(t, c.Cloud)
	c.Cloud.Hurry(t)
	nothing := c.Cloud.Inventory(t)
	client := c.at(t, c.Addresses["orchestrator"])
	standing := c.jobs(t, 10, 3, "standing", machine)
	each(t, standing, func(ctx context.Context, _ int, j *job) error { return client.apply(ctx, j) })
	client.end(t, standing, story.Patience, allDone)

	c.Cloud.Latency(t, "volume.volume.available", "8s")
	c.Cloud.Latency(t, "compute.server.deleted", "8s")
	flying := c.jobs(t, 20, 3, "flying", fabric+oneVolume)
	since := c.Cloud.Last(t)
	each(t, flying, func(ctx context.Context, _ int, j *job) error { return client.apply(ctx, j) })
	each(t, standing, func(ctx context.Context, _ int, j *job) error { return client.destroy(ctx, j) })
	story.Await(t, "all volumes are asked for", func() bool { return c.Cloud.Inventory(t).Counts()["volume.volume"] == len(flying) })
	for _, s := range story.Services() {
		c.Kill(t, s+"d")
	}
	c.Bin = current
	began := time.Now()
	for _, s := range story.Services() {
		c.Start(t, s)
	}
	client.end(t, append(flying, standing...), 2*story.Patience, allDone)
	t.Logf("all that the former build had left ended within %.1f s of the start of this one", time.Since(began).Seconds())
	c.once(t, since, len(flying))
	each(t, flying, func(ctx context.Context, _ int, j *job) error { return client.destroy(ctx, j) })
	client.end(t, flying, story.Patience, allDone)
	c.NothingLeft(t, nothing)
}
