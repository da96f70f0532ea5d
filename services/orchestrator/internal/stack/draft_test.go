package stack

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// TestPartsOfOursAreNotSeeded reads a whole project in which a server of ours has a disk attached by its own spec, so that no
// record holds the attachment: it is the server's. A server of others on a network of ours is told as what is left out.
func TestPartsOfOursAreNotSeeded(t *testing.T) {
	const prefix = "weft.cloud/"
	network, ours, theirs := object{prefix + "Network", "n"}, object{prefix + "Server", "s"}, object{prefix + "Server", "t"}
	disk, part, other := object{prefix + "Volume", "v"}, object{prefix + "VolumeAttachment", "s/v"}, object{prefix + "VolumeAttachment", "t/v"}
	lone := object{prefix + "Network", "m"}
	v := &survey{all: map[object]*participantv1.DescribedObject{}, chosen: map[object]bool{}, left: map[object]string{}, missing: map[object]object{}}
	for _, at := range []object{network, ours, theirs, disk, part, other, lone} {
		v.all[at] = &participantv1.DescribedObject{Type: at.typ, Id: at.id}
	}
	for _, at := range []object{network, ours, disk} {
		v.all[at].Taken = &kindv1.Fault{Message: "it is ours"}
	}
	v.toward = map[object][]object{ours: {network}, theirs: {network}, part: {ours, disk}, other: {theirs, disk}}
	v.from = map[object][]edge{network: {{ours, false}, {theirs, false}}, ours: {{part, false}}, theirs: {{other, false}}, disk: {{part, false}, {other, false}}}
	if err := v.seed(&orchestratorv1.DraftDocumentRequest{}); err != nil {
		t.Fatal(err)
	}
	v.leave()
	var chosen []string
	for at := range v.chosen {
		chosen = append(chosen, at.String())
	}
	slices.Sort(chosen)
	if diff := cmp.Diff([]string{"Network m", "Network n", "Server t", "Volume v", "VolumeAttachment t/v"}, chosen); diff != "" {
		t.Errorf("chosen (-want +got):\n%s", diff)
	}
	if _, left := v.left[theirs]; !left || v.left[lone] != "" {
		t.Errorf("left out: %v", slices.Collect(maps.Keys(v.left)))
	}
}
