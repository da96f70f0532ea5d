package driver_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

func TestBlocked(t *testing.T) {
	if err := driver.Blocked(nil); err != nil {
		t.Errorf("without blockers: %v", err)
	}
	many := []*kindv1.Blocker{}
	for _, id := range strings.Split("abcdefg", "") {
		many = append(many, &kindv1.Blocker{Kind: "port", Id: id, Owner: "them", Action: "ask them"})
	}
	err := fault.Wrap(driver.Blocked(many), "delete network n")
	const want = "delete network n: it cannot go before port a (them): ask them; port b (them): ask them; port c (them): ask them; port d (them): ask them; port e (them): ask them; and 2 more"
	if !fault.Is(err, fault.Precondition) || err.Error() != want {
		t.Errorf("the fault is %s %q, want %q", fault.KindOf(err), err, want)
	}
	if diff := cmp.Diff(many, driver.BlockersOf(err), protocmp.Transform()); diff != "" {
		t.Errorf("blockers of the fault (-want +got):\n%s", diff)
	}
	if got := driver.BlockersOf(fault.New(fault.Conflict, "in use")); len(got) > 0 {
		t.Errorf("blockers of another fault = %v", got)
	}
}

func TestSortBlockers(t *testing.T) {
	a, b, c := &kindv1.Blocker{Kind: "port", Id: "1", Owner: "x"}, &kindv1.Blocker{Kind: "port", Id: "2"}, &kindv1.Blocker{Kind: "server", Id: "1"}
	given := []*kindv1.Blocker{c, b, a, b}
	if diff := cmp.Diff([]*kindv1.Blocker{a, b, c}, driver.SortBlockers(given), protocmp.Transform()); diff != "" {
		t.Errorf("sorted (-want +got):\n%s", diff)
	}
	if given[0] != c {
		t.Error("what was given was changed")
	}
}
