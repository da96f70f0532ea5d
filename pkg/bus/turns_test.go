package bus_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftcloud/weft/pkg/bus"
)

// TestTurns lets messages of three tenants wait: they take turns, and each tenant's own keep their order.
func TestTurns(t *testing.T) {
	var turns bus.Turns[string]
	add := func(tenant string, from, to int) {
		for i := from; i <= to; i++ {
			turns.Add(bus.CommandSubject("network", bus.PriorityNormal, tenant, "subnets"), fmt.Sprintf("%s%d", tenant, i))
		}
	}
	var got []string
	take := func(n int) {
		for range n {
			m, ok := turns.Next()
			if !ok {
				t.Fatalf("nothing waits after %v", got)
			}
			got = append(got, m)
		}
	}
	add("a", 1, 4)
	take(1)
	add("b", 1, 1)
	add("c", 1, 2)
	take(3)
	add("b", 2, 2)
	waiting := 0
	turns.Each(func(string) { waiting++ })
	if waiting != 4 || turns.Len() != 4 {
		t.Errorf("%d wait, Len is %d; want 4", waiting, turns.Len())
	}
	take(4)
	if diff := cmp.Diff([]string{"a1", "a2", "b1", "c1", "a3", "c2", "b2", "a4"}, got); diff != "" {
		t.Errorf("the turns (-want +got):\n%s", diff)
	}
	if m, ok := turns.Next(); ok || turns.Len() != 0 {
		t.Errorf("at the end there is %q", m)
	}
}
