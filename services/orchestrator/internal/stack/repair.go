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
//
// At most roundRepairs repairs are begun in a round. Drift is only what two looks at the cloud agreed on, and a look that
// failed is none (see pkg/reconcile/drift.go), so a cloud that does not answer is never taken for one that lost everything.

import (
	"context"
	"fmt"
	"strings"

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
)

// ailing is a stack of which something drifted.
type ailing struct {
	record *orchestratorv1.StackRecord
	drifts map[string]*kindv1.Drift // by local name
}

// RepairDrifted looks at the stacks of tenants that want to be repaired, and begins the repairs that may be. It gives why
// the others are held, by stack.
func (s *Server) RepairDrifted(ctx context.Context, tenants []string) (held map[string]string, err error) {
	var found []ailing
	gone := 0
	for _, tenant := range tenants {
		some, err := s.ailing(ctx, tenant)
		if err != nil {
			return nil, err
		}
		found = append(found, some...)
	}
	for _, a := range found {
		for _, d := range a.drifts {
			if d.GetType() == kindv1.DriftType_DRIFT_TYPE_MISSING {
				gone++
			}
		}
	}
	held = map[string]string{}
	begun := 0
	for _, a := range found {
		name := a.record.GetStack().GetName()
		switch why := s.holds(a); {
		case gone > mostGone:
			held[name] = fmt.Sprintf("%d objects of several stacks are gone at once; look at the cloud first", gone)
		case why != "":
			held[name] = why
		case begun < roundRepairs:
			why, err := s.repair(ctx, a)
			if err != nil {
				return held, fault.Wrap(err, "repair %s", name)
			}
			if why != "" {
				held[name] = why
				continue
			}
			begun++
		}
	}
	return held, nil
}

// ailing gives the stacks of a tenant that want to be repaired and of which something drifted.
func (s *Server) ailing(ctx context.Context, tenant string) ([]ailing, error) {
	var out []ailing
	last := ""
	for more := true; more; {
		records, further, err := s.Engine.Stacks(ctx, tenant, last, largestPage)
		if err != nil {
			return nil, err
		}
		more = further
		for _, record := range records {
			last = record.GetStack().GetName()
			if record.GetStack().GetState() != orchestratorv1.StackState_STACK_STATE_READY || !s.repairs(record.GetStack()) {
				continue
			}
			drifts := map[string]*kindv1.Drift{}
			for _, r := range record.GetStanding() {
				if r.GetComposite() {
					continue
				}
				drift, err := s.drift(ctx, r)
				if err != nil {
					return nil, err
				}
				if drift != nil {
					drifts[r.GetLocalName()] = drift
				}
			}
			if len(drifts) > 0 {
				out = append(out, ailing{record, drifts})
			}
		}
	}
	return out, nil
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
	return ""
}

// repair begins the repair of a stack, unless it would do more than bring back what drifted; why says so.
func (s *Server) repair(ctx context.Context, a ailing) (why string, err error) {
	stack := a.record.GetStack()
	last, err := s.Engine.Read(ctx, stack.GetOperation())
	if err != nil && !fault.Is(err, fault.NotFound) {
		return "", err
	}
	switch last.GetOperation().GetState() {
	case orchestratorv1.OperationState_OPERATION_STATE_UNDONE, orchestratorv1.OperationState_OPERATION_STATE_CANCELLED:
		return "its last operation, " + stack.GetOperation() + ", was undone; it would fail again", nil
	default:
	}
	src := source{
		parent: "tenants/" + resource.TenantOf(stack.GetName()), text: stack.GetDocument(), name: stack.GetName(), parameters: stack.GetParameters(),
	}
	applied, err := s.compile(ctx, src, false)
	if err != nil {
		return "", err
	}
	src.repair = true
	c, err := s.compile(ctx, src, true)
	if err != nil {
		return "", err
	}
	if applied.revision != c.revision || c.record.GetStack().GetOperation() != stack.GetOperation() {
		return "", nil // somebody else works on it
	}
	if why := beyond(a, applied, c); why != "" {
		return why, nil
	}
	if _, err = s.idle(ctx, c.record, orchestratorv1.Busy_BUSY_REFUSE); err == nil {
		err = s.begin(ctx, c, "", false)
	}
	if fault.Is(err, fault.Precondition) || fault.Is(err, fault.Conflict) {
		return "", nil // somebody else works on it
	}
	return "", err
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
	return s.holds(ailing{record, drifts})
}
