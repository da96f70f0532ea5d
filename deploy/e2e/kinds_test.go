package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/weftcloud/weft/pkg/resource"
	_ "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
)

// coversEveryKind fails the test unless each kind that is made at a cloud or a cluster is either covered or excepted, with
// the reason: a new kind is part of a story of all kinds, or somebody says why not.
func coversEveryKind(t *testing.T, covered []string, excepted map[string]string) {
	t.Helper()
	all, err := resource.Linked()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range all.Kinds() {
		if k.Service == "orchestrator" {
			continue
		}
		reason, isExcepted := excepted[k.Name]
		switch isCovered := slices.Contains(covered, k.Name); {
		case !isCovered && strings.TrimSpace(reason) == "":
			t.Errorf("the story leaves the kind %s out, without a reason", k.Name)
		case isCovered && isExcepted:
			t.Errorf("the kind %s is excepted (%s), and covered", k.Name, reason)
		}
	}
	for name := range excepted {
		if _, ok := all.ByName(name); !ok {
			t.Errorf("there is no kind %s to be excepted", name)
		}
	}
}
