package stack

import (
	"context"
	"slices"
	"strings"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/tracing"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/document"
)

// ForgetResource takes a resource out of a stack: out of its document, and out of what its service keeps. It is an apply of
// the document without the resource whose one deletion does not touch the cloud.
func (s *Server) ForgetResource(ctx context.Context, r *orchestratorv1.ForgetResourceRequest) (*longrunningpb.Operation, error) {
	kept, _, err := s.Engine.ReadStack(ctx, r.GetName())
	if err != nil {
		return nil, err
	}
	if others := needing(kept, r.GetLocalName()); len(others) > 0 {
		return nil, fault.New(fault.Precondition, "%s cannot be forgotten while others need it: %s; take these away or forget them first", r.GetLocalName(), strings.Join(others, ", "))
	}
	src := source{
		parent: "tenants/" + resource.TenantOf(r.GetName()), name: r.GetName()[strings.LastIndexByte(r.GetName(), '/')+1:],
		text: kept.GetStack().GetDocument(), parameters: kept.GetStack().GetParameters(),
	}
	doc, problems := document.Parse(s.read(src))
	if doc == nil {
		return nil, refusal(problems)
	}
	if doc.Resource(r.GetLocalName()) == nil {
		return nil, fault.InField("local_name", "the document of %s has no resource %q", r.GetName(), r.GetLocalName())
	}
	line, col := doc.Position(r.GetLocalName(), "")
	if src.text, err = cutEntry(src.text, line, col); err != nil {
		return nil, err
	}
	c, err := s.compile(ctx, src, false)
	if err != nil {
		return nil, err
	}
	if len(c.problems) > 0 {
		return nil, refusal(c.problems)
	}
	if _, err := s.idle(ctx, c.record, orchestratorv1.Busy_BUSY_REFUSE); err != nil {
		return nil, err
	}
	p := c.result.Saga
	for _, step := range p.GetSteps() {
		top, _, _ := strings.Cut(step.GetGoal().GetResource().GetLocalName(), ".")
		if top != r.GetLocalName() || !step.GetGoal().GetRelease() || step.GetUndo() != nil {
			return nil, fault.New(fault.Precondition, "%s does not stand as its document says: %s would change, too; weft apply its document first", r.GetName(), step.GetId())
		}
		step.Goal.Forget, step.Change = true, kindv1.Change_CHANGE_FORGET
	}
	p.Result = &orchestratorv1.Stack{Name: p.GetStack(), Document: src.text, Parameters: src.parameters, Operation: p.GetName()}
	changing := s.changing(c, p, "")
	p.TraceParent = tracing.Parent(ctx)
	if err := s.Sagas.Begin(ctx, p, changing, c.revision); err != nil {
		return nil, begun(err, p.GetStack())
	}
	return s.operation(ctx, p.GetName())
}

// needing gives the resources of a stack that need one of the document, children of composite ones by their parent.
func needing(record *orchestratorv1.StackRecord, local string) []string {
	var out []string
	for _, standing := range record.GetStanding() {
		top, _, _ := strings.Cut(standing.GetLocalName(), ".")
		uses := slices.ContainsFunc(standing.GetNeeds(), func(n string) bool {
			first, _, _ := strings.Cut(n, ".")
			return first == local
		})
		if uses && top != local && !slices.Contains(out, top) {
			out = append(out, top)
		}
	}
	return out
}

// cutEntry takes the entry of a map out of a document: the line at which its name stands, and those below that are further
// in. The error is Precondition if it shares its line with others.
func cutEntry(text string, line, col int) (string, error) {
	lines := strings.SplitAfter(text, "\n")
	if line < 1 || line > len(lines) || strings.TrimSpace(lines[line-1][:min(col-1, len(lines[line-1]))]) != "" {
		return "", fault.New(fault.Precondition, "the document has the resource on one line with others; write it on lines of its own, weft apply that, and try again")
	}
	indent := func(l string) int { return len(l) - len(strings.TrimLeft(l, " ")) }
	end := line
	for end < len(lines) && (strings.TrimSpace(lines[end]) == "" || indent(lines[end]) > col-1) {
		end++
	}
	return strings.Join(slices.Concat(lines[:line-1], lines[end:]), ""), nil
}
