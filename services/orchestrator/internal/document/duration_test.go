package document

import (
	"testing"

	"github.com/weftcloud/weft/pkg/resource"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
)

// TestDuration holds how durations are written: with their units, as Go and people write them, kept as JSON has them.
func TestDuration(t *testing.T) {
	kinds, err := resource.NewRegistry(&computev1.ScalingGroup{})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{"90s": "90s", "1h30m": "5400s", "0.25s": "0.25s", "5": "", "soon": "", "1 day": ""} {
		c := &specChecker{kind: kinds.Kinds()[0], spec: &Spec{}}
		v := c.duration(&node{kind: stringNode, text: text}, "drainPeriod", "drainPeriod")
		if got := v.GetStringValue(); got != want {
			t.Errorf("%q is read as %q, want %q", text, got, want)
		}
		if (want == "") != (len(c.troubles) > 0) {
			t.Errorf("%q: troubles %v", text, c.troubles)
		}
	}
}
