package stack

// What a stack does about its drift by itself.
//
// A document may say drift: {repair: RECREATE}. Once in each interval one replica looks at the stacks that say so, and begins
// the repair that weft repair would begin, within bounds: what a person would want to look at first is held, and told.
//
//	nothing is repaired by itself
//	  while an operation works on the stack, or the last one did not end well
//	  if more than mostRepairs objects drifted, or more than half of the stack's: then it may be the cloud that is ill
//	  if more than mostGone objects are gone over all such stacks together, for the same reason
//	  if the document has changes that were not applied: they are not what drifted
//	  if what drifted holds data, or the repair would lose some: what is gone with its data must not be covered up, and what
//	  somebody changed, such as a volume that grew, may have no way back
//	  if the stack was repaired oftenRepairs times within oftenSpan: something undoes the repairs
//
// At most roundRepairs repairs are begun in a round; the next round begins with the stacks after the one served last. Drift is only what two looks at the cloud agreed on, and a look that
// failed is none (see pkg/reconcile/drift.go), so a cloud that does not answer is never taken for one that lost everything.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/document"
)

// The bounds of what is repaired without a person's word.
const (
	mostRepairs  = 5
	mostGone     = 20
	roundRepairs = 3
	oftenRepairs = 3
	oftenSpan    = time.Hour
)

// ailing is a stack of which something drifted.
type ailing struct {
	record *orchestratorv1.StackRecord
	drifts map[string]*kindv1.Drift // by local name
	failed error                    // why not all of it could be looked at
}

func (a ailing) name() string { return a.record.GetStack().GetName() }

// rounds is what is remembered of the rounds of one replica: another that takes over begins to count anew.
type rounds struct {
	mu    sync.Mutex
	begun map[string][]time.Time // when repairs of a stack were begun, those within oftenSpan
	last  string                 // the stack that was served last
}

// note keeps that a stack was served, and whether a repair was begun.
func (r *rounds) note(stack string, begun bool, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = stack
	if !begun {
		return
	}
	if r.begun == nil {
		r.begun = map[string][]time.Time{}
	}
	r.begun[stack] = append(r.begun[stack], now)
}

// often tells why a stack that was repaired again and again is not repaired once more; empty if it may be. Somebody or
// something takes away what is made: that is found out by a person, not by making it for ever.
func (r *rounds) often(stack string, now time.Time) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	recent := slices.DeleteFunc(r.begun[stack], func(at time.Time) bool { return now.Sub(at) >= oftenSpan })
	if len(recent) == 0 {
		delete(r.begun, stack)
		return ""
	}
	r.begun[stack] = recent
	if len(recent) < oftenRepairs {
		return ""
	}
	return fmt.Sprintf("it was repaired %d times within an hour and drifted again; find out what changes it", len(recent))
}

// inTurn sorts stacks so that those come first that come after the one that was served last.
func (r *rounds) inTurn(found []ailing) []ailing {
	r.mu.Lock()
	last := r.last
	r.mu.Unlock()
	slices.SortFunc(found, func(a, b ailing) int { return cmp.Compare(a.name(), b.name()) })
	next := slices.IndexFunc(found, func(a ailing) bool { return a.name() > last })
	if next < 0 {
		return found
	}
	return slices.Concat(found[next:], found[:next])
}

// RepairDrifted looks at the stacks of tenants that want to be repaired, and begins the repairs that may be. It gives why
// the others are held, by stack: also those that could not be looked at or repaired, of which the error tells. They keep no
// other from being repaired.
func (s *Server) RepairDrifted(ctx context.Context, tenants []string) (held map[string]string, err error) {
	var found []ailing
	var failed []error
	for _, tenant := range tenants {
		some, err := s.ailing(ctx, tenant)
		if err != nil {
			failed = append(failed, fault.Wrap(err, "look at the stacks of %s", tenant))
		}
		found = append(found, some...)
	}
	gone := 0
	for _, a := range found {
		for _, d := range a.drifts {
			if d.GetType() == kindv1.DriftType_DRIFT_TYPE_MISSING {
				gone++
			}
		}
	}
	held = map[string]string{}
	began := 0
	for _, a := range s.rounds.inTurn(found) {
		begun, why, err := false, "", a.failed
		switch {
		case err != nil:
		case gone > mostGone:
			why = fmt.Sprintf("%d objects of several stacks are gone at once; look at the cloud first", gone)
		case began < roundRepairs:
			begun, why, err = s.serve(ctx, a)
		}
		if err != nil {
			failed = append(failed, fault.Wrap(err, "repair %s", a.name()))
			why = "it could not be looked at or repaired: " + err.Error()
		}
		if why != "" {
			held[a.name()] = why
		}
		if begun {
			began++
		}
	}
	return held, errors.Join(failed...)
}

// serve begins the repair of a stack unless something holds it.
func (s *Server) serve(ctx context.Context, a ailing) (begun bool, why string, err error) {
	if why := s.holds(a); why != "" {
		return false, why, nil
	}
	if begun, why, err = s.repair(ctx, a); begun || err != nil {
		s.rounds.note(a.name(), begun, s.Now())
	}
	return begun, why, err
}

// ailing gives the stacks of a tenant that want to be repaired and of which something drifted, or could not be looked at.
func (s *Server) ailing(ctx context.Context, tenant string) ([]ailing, error) {
	var out []ailing
	last := ""
	for more := true; more; {
		records, further, err := s.Engine.Stacks(ctx, tenant, last, largestPage)
		if err != nil {
			return out, err
		}
		more = further
		for _, record := range records {
			last = record.GetStack().GetName()
			if record.GetStack().GetState() != orchestratorv1.StackState_STACK_STATE_READY || !s.repairs(record.GetStack()) {
				continue
			}
			if a := s.inspect(ctx, record); len(a.drifts) > 0 || a.failed != nil {
				out = append(out, a)
			}
		}
	}
	return out, nil
}

// inspect asks how the resources of a stack drifted.
func (s *Server) inspect(ctx context.Context, record *orchestratorv1.StackRecord) ailing {
	a := ailing{record: record, drifts: map[string]*kindv1.Drift{}}
	for _, r := range record.GetStanding() {
		if r.GetComposite() {
			continue
		}
		drift, err := s.drift(ctx, r)
		if err != nil {
			a.failed = err
			return a
		}
		if drift != nil {
			a.drifts[r.GetLocalName()] = drift
		}
	}
	return a
}

// repairs tells whether a stack's document wants it to be repaired. Most say nothing of it, and are not read for that.
func (s *Server) repairs(stack *orchestratorv1.Stack) bool {
	if !strings.Contains(stack.GetDocument(), "drift") {
		return false
	}
	doc, _ := document.Parse(s.read(source{
		parent: "tenants/" + resource.TenantOf(stack.GetName()), text: stack.GetDocument(), name: stack.GetName(), parameters: stack.GetParameters(),
	}))
	return doc != nil && doc.Repair
}

// holds tells why what drifted is not repaired without a person's word; empty if it may be.
func (s *Server) holds(a ailing) string {
	objects := 0
	for _, r := range a.record.GetStanding() {
		if r.GetComposite() {
			continue
		}
		objects++
		kind, ok := s.Kinds.ByType(r.GetType())
		if d := a.drifts[r.GetLocalName()]; ok && d != nil && kind.Options.GetHoldsData() {
			if d.GetType() == kindv1.DriftType_DRIFT_TYPE_CHANGED {
				return r.GetLocalName() + " holds data and was changed; look at it before it is changed back"
			}
			return r.GetLocalName() + " holds data, which a repair would not bring back"
		}
	}
	n := len(a.drifts)
	if n > mostRepairs || 2*n > objects {
		return fmt.Sprintf("%d of %d objects drifted, which is more than is repaired without being asked", n, objects)
	}
	return s.rounds.often(a.name(), s.Now())
}

// repair begins the repair of a stack, unless it would do more than bring back what drifted; why says so.
func (s *Server) repair(ctx context.Context, a ailing) (begun bool, why string, err error) {
	stack := a.record.GetStack()
	last, err := s.Engine.Read(ctx, stack.GetOperation())
	if err != nil && !fault.Is(err, fault.NotFound) {
		return false, "", err
	}
	switch last.GetOperation().GetState() {
	case orchestratorv1.OperationState_OPERATION_STATE_UNDONE, orchestratorv1.OperationState_OPERATION_STATE_CANCELLED:
		return false, "its last operation, " + stack.GetOperation() + ", was undone; it would fail again", nil
	default:
	}
	src := source{
		parent: "tenants/" + resource.TenantOf(stack.GetName()), text: stack.GetDocument(), name: stack.GetName(), parameters: stack.GetParameters(),
	}
	applied, err := s.compile(ctx, src, false)
	if err != nil {
		return false, "", err
	}
	src.repair = true
	c, err := s.compile(ctx, src, true)
	if err != nil {
		return false, "", err
	}
	if applied.revision != c.revision || c.record.GetStack().GetOperation() != stack.GetOperation() {
		return false, "", nil // somebody else works on it
	}
	if why := beyond(a, applied, c); why != "" {
		return false, why, nil
	}
	if _, err = s.idle(ctx, c.record, orchestratorv1.Busy_BUSY_REFUSE); err == nil {
		err = s.begin(ctx, c, "", false)
	}
	if fault.Is(err, fault.Precondition) || fault.Is(err, fault.Conflict) {
		return false, "", nil // somebody else works on it
	}
	return err == nil, "", err
}

// beyond tells why a plan that repairs a stack is not begun without a person's word; empty if it may be. applied is the plan
// of the same document without the repair. It has to be empty: what it would change nobody asked for yet, as after an
// adoption, which keeps a document and changes nothing.
func beyond(a ailing, applied, repaired *compiled) string {
	for _, c := range []*compiled{applied, repaired} {
		if len(c.problems) > 0 {
			return "it cannot be repaired: " + c.problems[0].GetFault().GetMessage()
		}
	}
	if changes := applied.result.Plan.GetChanges(); len(changes)+len(applied.result.Saga.GetSteps()) > 0 {
		where := ""
		if len(changes) > 0 {
			where = ", such as of " + changes[0].GetLocalName()
		}
		return "its document has changes that were not applied" + where + "; apply it"
	}
	for _, change := range repaired.result.Plan.GetChanges() {
		missing := a.drifts[change.GetLocalName()].GetType() == kindv1.DriftType_DRIFT_TYPE_MISSING // what was on it is gone already
		if change.GetDataLoss() != "" && !missing {
			return "the repair of " + change.GetLocalName() + " would lose data: " + change.GetDataLoss()
		}
	}
	return ""
}

// heldRepair tells of a stack that is shown why its drift is not repaired by itself, as far as its resources tell.
func (s *Server) heldRepair(record *orchestratorv1.StackRecord, resources []*orchestratorv1.StackResource) string {
	drifts := map[string]*kindv1.Drift{}
	for _, r := range resources {
		if d := r.GetStatus().GetDrift(); d != nil {
			drifts[r.GetLocalName()] = d
		}
	}
	if len(drifts) == 0 || !s.repairs(record.GetStack()) {
		return ""
	}
	return s.holds(ailing{record: record, drifts: drifts})
}
