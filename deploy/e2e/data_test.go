package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// TestDataIsKept: what holds data outlives its stack, is listed as kept and not as an orphan, and is taken up again by the
// stack's next life; with a person's word all of it goes. A secret output is nowhere to be read.
func TestDataIsKept(t *testing.T) {
	i := story.Start(t)
	text, err := os.ReadFile("../examples/disks.yaml")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "disks.yaml")
	adopting := strings.NewReplacer("{size: 1Gi, type: standard}", "{size: 2Gi, type: fast, adoptKept: true}", "{size: 1Gi, snapshot: moment}", "{size: 2Gi, snapshot: moment}").Replace(string(text))
	if adopting == string(text) {
		t.Fatal("the example has no volume of type standard any more")
	}
	if err := os.WriteFile(path, []byte(adopting), 0o600); err != nil {
		t.Fatal(err)
	}
	i.Must(t, "apply", "-f", "../examples/disks.yaml", "--wait", "-o", "json")
	first := i.Must(t, "get", "volume", "disks.data", "-o", "json").Out
	bucket := i.Must(t, "get", "bucket", "disks.files", "-o", "json").Out
	if !strings.Contains(bucket, "weft-secret") {
		t.Errorf("the bucket tells of no secret: %s", bucket)
	}
	i.Destroy(t, "disks", "DONE")
	kinds := map[string]int{}
	for _, e := range ledgerOf(t, i) {
		if e.GetOrphan() || !e.GetKept() {
			t.Errorf("%s is listed as %v", e.GetName(), e)
		}
		kinds[e.GetType()]++
	}
	if kinds["storage.weft.cloud/Volume"] != 2 || kinds["storage.weft.cloud/VolumeSnapshot"] != 1 || kinds["storage.weft.cloud/Bucket"] != 1 || kinds["storage.weft.cloud/Share"] != 1 {
		t.Errorf("kept are %v", kinds)
	}
	i.Must(t, "apply", "-f", path, "--wait", "-o", "json")
	again := i.Must(t, "get", "volume", "disks.data", "-o", "json").Out
	if id := between(first, `"volumeId":`, ","); id == "" || !strings.Contains(again, id) || !strings.Contains(again, `"fast"`) {
		t.Errorf("the volume was not taken up:\n%s\n%s", first, again)
	}
	for _, e := range ledgerOf(t, i) { // the snapshot of its first life is nobody's, and the cloud keeps the volume for it
		if e.GetKept() && e.GetType() == "storage.weft.cloud/VolumeSnapshot" {
			item, ok := i.Cloud.Inventory(t).Find("volume.volume", "disks.data")
			if !ok {
				t.Fatal("the cloud has no volume disks.data")
			}
			i.Cloud.Foreign(t, "demo").Do(http.MethodDelete, "/volume/v3/"+item.Project+"/snapshots/"+e.GetProviderId(), nil, nil)
		}
	}
	i.Destroy(t, "disks", "DONE", "--reclaim", "destroy")
	for _, e := range ledgerOf(t, i) {
		if e.GetType() == "storage.weft.cloud/Volume" && strings.HasSuffix(e.GetName(), ".data") {
			t.Errorf("%v is left", e)
		}
	}
}

func ledgerOf(t *testing.T, i *story.Installation) []*participantv1.LedgerEntry {
	t.Helper()
	return i.Ledger(t).GetEntries()
}

// between gives what stands between two texts.
func between(text, from, to string) string {
	_, rest, ok := strings.Cut(text, from)
	if !ok {
		return ""
	}
	found, _, _ := strings.Cut(rest, to)
	return strings.TrimSpace(found)
}
