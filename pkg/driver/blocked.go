package driver

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// Blocked gives blockers as the fault of a deletion that the driver itself refuses, since the provider would take away
// what is somebody else's, or would wait without a word. It is Precondition and names them; nil if there are none.
func Blocked(blockers []*kindv1.Blocker) error {
	if len(blockers) == 0 {
		return nil
	}
	return &fault.Error{Kind: fault.Precondition, Cause: &blockedError{blockers}}
}

// blockedError is the cause of a fault that Blocked made.
type blockedError struct{ blockers []*kindv1.Blocker }

// Error names the blockers.
func (e *blockedError) Error() string { return "it cannot go before " + NameBlockers(e.blockers) }

// BlockersOf gives the blockers that a refusal itself names, see Blocked; none if it names none.
func BlockersOf(err error) []*kindv1.Blocker {
	if b, ok := errors.AsType[*blockedError](err); ok {
		return b.blockers
	}
	return nil
}

// mostNamed is how many blockers stand in a sentence.
const mostNamed = 5

// NameBlockers names blockers in a sentence: kind, id, whose, and what can be done; of many only the first.
func NameBlockers(blockers []*kindv1.Blocker) string {
	var names []string
	for i, b := range blockers {
		if i == mostNamed {
			names = append(names, fmt.Sprintf("and %d more", len(blockers)-mostNamed))
			break
		}
		names = append(names, fmt.Sprintf("%s %s (%s): %s", b.GetKind(), b.GetId(), b.GetOwner(), b.GetAction()))
	}
	return strings.Join(names, "; ")
}

// SortBlockers puts blockers into an order that does not depend on how the provider listed them, and drops what is told
// twice.
func SortBlockers(blockers []*kindv1.Blocker) []*kindv1.Blocker {
	order := func(a, b *kindv1.Blocker) int {
		return cmp.Or(strings.Compare(a.GetKind(), b.GetKind()), strings.Compare(a.GetId(), b.GetId()), strings.Compare(a.GetOwner(), b.GetOwner()))
	}
	out := slices.Clone(blockers)
	slices.SortStableFunc(out, order)
	return slices.CompactFunc(out, func(a, b *kindv1.Blocker) bool { return order(a, b) == 0 })
}
