package plan_test

import (
	"fmt"
	"strings"
	"testing"
)

// A stack near the limit of what is taken is planned whole, well within the time limit of a test.
func TestLargestStack(t *testing.T) {
	var b strings.Builder
	b.WriteString(head + "resources:\n  net: {kind: PrivateNetwork, spec: {cidr: 10.0.0.0/16, external: public}}\n")
	for i := range 990 {
		fmt.Fprintf(&b, "  s%d: {kind: Server, spec: {image: a, flavor: b, network: net, userData: \"gw ${net.gateway_ip}\"}}\n", i)
		fmt.Fprintf(&b, "  f%d: {kind: FloatingIP, spec: {server: s%d}}\n", i, i)
	}
	w := newWorld(t)
	r, problems := w.build(t, b.String(), nil)
	if len(problems) > 0 {
		t.Fatal(problems[0])
	}
	if got := len(r.Saga.GetSteps()); got != 1983 {
		t.Errorf("%d steps", got)
	}
}
