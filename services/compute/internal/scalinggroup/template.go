package scalinggroup

import (
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/service"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// canAdapt tells whether a server can be brought from one spec to another while it works, as the contract of Server says.
func canAdapt(from, to *computev1.ServerSpec) bool {
	a, b := from.ProtoReflect(), to.ProtoReflect()
	fields := a.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if a.Get(f).Equal(b.Get(f)) {
			continue
		}
		switch resource.FieldOptionsOf(f).GetChange() {
		case kindv1.Change_CHANGE_REPLACE, kindv1.Change_CHANGE_RESTART:
			return false
		default:
		}
	}
	return true
}

// sameHeld tells whether what a member's server cannot change, e.g. its network, is what the template refers to by the same
// name: it may have been made anew since.
func (g *group) sameHeld(e *record.Entry) bool {
	keys := g.references()
	for _, r := range resource.References(proto.CloneOf(g.spec.GetTemplate())) {
		if r.Options.GetChange() == kindv1.Change_CHANGE_IN_PLACE {
			continue
		}
		if e.Record.GetReferences()[r.Value] != keys[r.Value] {
			return false
		}
	}
	return true
}

// Parts gives the servers that a group is made of, as a plan asks for them: those that there are to be, and more while
// they are replaced.
func Parts(spec, former proto.Message) []service.Part {
	next, ok := spec.(*computev1.ScalingGroupSpec)
	if !ok || next.GetTemplate() == nil {
		return nil
	}
	count := documentDesired(next)
	if before, ok := former.(*computev1.ScalingGroupSpec); ok && before != nil {
		count = max(count-documentDesired(before), 0)
		if before.GetTemplate() != nil && !canAdapt(before.GetTemplate(), next.GetTemplate()) {
			surge := int32(defaultSurge)
			if next.MaxSurge != nil {
				surge = next.GetMaxSurge()
			}
			count += min(surge, documentDesired(next))
		}
	}
	part := service.Part{Type: serverType, Field: "template", Spec: next.GetTemplate(), Change: kindv1.Change_CHANGE_CREATE}
	if count == 0 { // what is changed in place is looked at, too
		part.Former, part.Change = next.GetTemplate(), kindv1.Change_CHANGE_IN_PLACE
		return []service.Part{part}
	}
	out := make([]service.Part, count)
	for i := range out {
		out[i] = part
	}
	return out
}

// Most gives what a group has at most: servers of its template, as many as it may have, and those that a rolling replacement
// adds before it takes others away.
func Most(spec proto.Message) (typ, field string, part proto.Message, count int64) {
	s, ok := spec.(*computev1.ScalingGroupSpec)
	if !ok {
		return serverType, "template", &computev1.ServerSpec{}, 0
	}
	surge := int64(defaultSurge)
	if s.MaxSurge != nil {
		surge = int64(s.GetMaxSurge())
	}
	return serverType, "template", s.GetTemplate(), int64(s.GetMax()) + surge
}

// looks remembers when the members of groups were looked at. It is no fact: who begins anew looks at once.
type looks struct {
	mu sync.Mutex
	at map[string]time.Time // by the group's key
}

func newLooks() *looks { return &looks{at: map[string]time.Time{}} }

// wait gives the time until the members of a group are to be looked at.
func (l *looks) wait(key string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(lookEvery-now.Sub(l.at[key]), 0)
}

// done notes a look.
func (l *looks) done(key string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at[key] = now
	for k, at := range l.at { // those of groups that nobody looks at here any more
		if now.Sub(at) > time.Hour {
			delete(l.at, k)
		}
	}
}
