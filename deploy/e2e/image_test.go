package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
)

// diskServer serves a raw disk of 1 MiB, as long as the test lasts, and gives its address.
func diskServer(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := w.Write(bytes.Repeat([]byte("weft"), 256<<10)); err != nil {
			return // who reads only the beginning closes
		}
	}))
	t.Cleanup(server.Close)
	return server.URL + "/disk"
}

// TestImageForServer brings an image to the cloud and starts a server from it in one document, then changes what can be
// changed in place. A document whose image would not work is refused before anything is made, with the fix.
func TestImageForServer(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	nothing := i.Cloud.Inventory(t)
	source := diskServer(t)
	document := func(format, property string) string {
		return fmt.Sprintf(`kind: Stack
name: own
placement: {cloud: lab}
resources:
%s  near: {kind: ServerGroup, spec: {policy: SOFT_ANTI_AFFINITY}}
  disk: {kind: Image, spec: {source: {url: "%s"}, diskFormat: %s, minDisk: 1, properties: {%s}}}
  vm: {kind: Server, spec: {image: "${disk.image_id}", flavor: m1.tiny, network: net, serverGroup: near, tags: [blue]}}
`, fabric, source, format, property)
	}
	before := i.Cloud.Last(t)
	refused := i.Weft(t, "apply", "-f", i.Document(t, "stack.yaml", document("QCOW2", "os-distro: debian"))).Refused(t)
	for _, says := range []string{"they may be RAW, or damaged", "OpenStack reads os_distro"} {
		if !strings.Contains(refused.Err, says) {
			t.Errorf("the refusal does not say %q: %s", says, refused.Err)
		}
	}
	if calls := i.Cloud.Mutations(t, before); len(calls) > 0 {
		t.Errorf("something was changed all the same: %v", calls)
	}
	i.Apply(t, document("RAW", "os_distro: debian"), "DONE")
	in := i.Cloud.Inventory(t)
	if c := in.Counts(); c["image.image"] != 1 || c["compute.server"] != 1 || c["compute.server_group"] != 1 {
		t.Errorf("the cloud has %v", in.Lines())
	}
	i.Apply(t, document("RAW", "os_distro: ubuntu"), "DONE")
	if c := i.Cloud.Inventory(t).Counts(); c["image.image"] != 1 || c["compute.server"] != 1 {
		t.Errorf("after a change of a property the cloud has %v", c)
	}
	i.Destroy(t, "own", "DONE")
	i.NothingLeft(t, nothing)
}
