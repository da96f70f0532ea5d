// Package plan compares a stack's document with what stands, and gives the steps that bring one to the other. It is pure:
// what it must ask (how composite kinds expand, what a name outside of the stack leads to) is passed in.
//
// # How a plan comes about
//
//  1. Composite resources are expanded; what refers to one refers to the child that provides what is wanted, and waits for
//     all of its children. The resources that remain, each with an object of its own, are the nodes (nodes.go).
//  2. Nodes need each other by references, expressions and dependsOn. Who refers to X also waits for what completes X, as
//     a subnet completes its network and a router that, unless it completes X itself or would wait for itself (nodes.go). A
//     load balancer needs an address of its network, and not the router: who needs the load balancer waits for that.
//  3. In the order of need each node is compared with what stands under its local name (compare.go). A replaced resource
//     has a new key, so whoever refers to it changes too; an output of what is made anew is not known, so an expression
//     over it counts as changed.
//  4. The changes become steps (steps.go): before the pivot, creations and changes in the order of need; after it,
//     deletions in the reverse order of need as it stood before.
//
// # Replacing what holds something exclusively
//
// A server that holds a volume cannot be replaced by a second one while it stands. It is deleted first, before the pivot:
//
//	d/restore ─▶ x/release ─▶ x ─▶ d
//
// The undo of x/release makes the former object anew under a fresh key, since a released key stays released. What refers
// to x and stays (d) must then be led back to the fresh one after that is made, which the undo of x's and d's own steps
// is too early for: so d/restore, which changes nothing going forward, stands before x/release, and d's own undo leaves
// it alone. Whether the old or the fresh key is right depends on how far the saga came: UndoGoal and AfterUndo tell.
//
// # Making first what others join
//
// A load balancer leads to servers, and takes as long to make as they do. Made in the order of need it would wait for them,
// and its public address for it. So what a kind says to join its object (the option joins) is left out at first, and follows
// by a change in place when it stands (join.go):
//
//	front ─▶ front/join ◀─ servers
//
// The undo of front/join asks for what was asked of front, and lets the servers go; that of front deletes it. Who needs front
// waits for front/join, but for references that say that the object alone is enough (the option alone). A resource that
// stands, or takes another's place, is changed in one step.
package plan

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/document"
)

const (
	// attemptTimeout is how long one attempt of a step may take.
	attemptTimeout = 10 * time.Minute
	// sagaTimeout is how long a saga may take if the request does not say.
	sagaTimeout = 30 * time.Minute
)

// Input is all that a plan depends on.
type Input struct {
	// Document is the document; Former the stack as it stands, nil if it does not.
	Document *document.Document
	Former   *orchestratorv1.StackRecord
	// Kinds are all kinds.
	Kinds *resource.Registry
	// Expand expands a resource of a composite kind. Expressions stand in the item's spec as they were written. An
	// Invalid fault is a problem of the document, at the field that it names; any other ends the plan.
	Expand func(context.Context, *participantv1.Item) (*participantv1.ExpandResponse, error)
	// Lookup finds a resource outside of the stack by its full name, as its kind's message. NotFound and Denied are
	// problems of the document; any other fault ends the plan.
	Lookup func(context.Context, string) (proto.Message, error)
	// NewKey makes a key.
	NewKey func() string
	// Tenant is the tenant's id, Operation the full name of the operation.
	Tenant, Operation string
	// Now is the time; Timeout how long the saga may take, 0 for 30 minutes.
	Now     time.Time
	Timeout time.Duration
}

// Result is a plan in the forms in which it is shown, run and looked at beforehand.
type Result struct {
	// Plan is what is shown. Problems and quotas, which preflight finds, are not in it.
	Plan *orchestratorv1.Plan
	// Saga is what is run.
	Saga *orchestratorv1.SagaPlan
	// Items are the resources that are touched, by service, for preflight. Paths in unknown are relative to the spec.
	Items map[string][]*participantv1.Item

	document  *document.Document
	locals    map[string]string            // full name to local name
	sources   map[string]map[string]string // of children, by local name
	ranks     map[string]int               // full name to place in the document's order
	uncertain []string
	frees     bool
}

// Build makes a plan. Problems are what is wrong with the document; an error means that it could not be found out. Of a
// document that leaves something out (document.Sound) the plan says what preflight needs; it must not be run.
func Build(ctx context.Context, in Input) (*Result, []*orchestratorv1.Problem, error) {
	p := &planner{in: in, nodes: map[string]*node{}, composites: map[string]*expansion{}, former: map[string]*orchestratorv1.StandingResource{}, formerComposites: map[string]*orchestratorv1.StandingResource{}}
	p.readFormer()
	if err := p.collect(ctx); err != nil {
		return nil, nil, err
	}
	if err := p.lead(ctx); err != nil {
		return nil, nil, err
	}
	if len(p.problems) > 0 {
		return nil, p.problems, nil
	}
	if !p.sort() {
		return nil, p.problems, nil
	}
	p.complete()
	resolver, err := NewResolver(in.Kinds, p.standing())
	if err != nil {
		return nil, nil, err
	}
	p.resolver = resolver
	for _, n := range p.sorted {
		if err := p.compare(n); err != nil {
			return nil, nil, err
		}
	}
	p.removed()
	p.exclusive()
	saga, plan := p.steps()
	if len(p.problems) > 0 {
		return nil, p.problems, nil
	}
	items, err := p.items()
	if err != nil {
		return nil, nil, err
	}
	return p.result(saga, plan, items), nil, nil
}

func (p *planner) result(saga *orchestratorv1.SagaPlan, plan *orchestratorv1.Plan, items map[string][]*participantv1.Item) *Result {
	r := &Result{
		Plan: plan, Saga: saga, Items: items, document: p.in.Document, locals: map[string]string{}, sources: map[string]map[string]string{},
		ranks: map[string]int{}, uncertain: p.uncertain(), frees: len(p.leftStanding()) > 0,
	}
	for i, n := range p.order {
		r.locals[n.name], r.sources[n.local], r.ranks[n.name] = n.local, n.sources, i
	}
	return r
}

// Problem gives a finding of preflight with its place in the document.
func (r *Result) Problem(f *participantv1.Finding) *orchestratorv1.Problem {
	return problemAt(r.document, r.locals[f.GetName()], r.sources[r.locals[f.GetName()]], f.GetField(), f.GetFault())
}

// sagaPlan gives the parts of a saga that all have.
func sagaPlan(operation, stack string, action orchestratorv1.Action, now time.Time, timeout time.Duration) *orchestratorv1.SagaPlan {
	if timeout <= 0 {
		timeout = sagaTimeout
	}
	return &orchestratorv1.SagaPlan{
		Name: operation, Stack: stack, Action: action, CreateTime: timestamppb.New(now), Deadline: timestamppb.New(now.Add(timeout)),
	}
}

func (p *planner) stack() string {
	return resource.Name{Tenant: p.in.Tenant, Collection: "stacks", ID: p.in.Document.Name}.String()
}

// readFormer sorts what stands by local name.
func (p *planner) readFormer() {
	for _, s := range p.in.Former.GetStanding() {
		if p.left(s) {
			continue
		}
		if s.GetComposite() {
			p.formerComposites[s.GetLocalName()] = s
			continue
		}
		p.former[s.GetLocalName()] = s
		p.formerOrder = append(p.formerOrder, s.GetLocalName())
	}
}

// standing gives the stack's resources as they are asked for.
func (p *planner) standing() []*orchestratorv1.StandingResource {
	var out []*orchestratorv1.StandingResource
	for _, r := range p.in.Document.Resources {
		if e, ok := p.composites[r.Name]; ok {
			out = append(out, &orchestratorv1.StandingResource{
				LocalName: r.Name, Name: r.Kind.FullName(p.in.Tenant, p.in.Document.Name+"."+r.Name), Type: r.Kind.Type, Cloud: r.Cloud,
				Spec: r.Spec.Value, Composite: true, Outputs: e.outputs,
			})
		}
	}
	nodes := p.sorted
	for _, n := range nodes {
		out = append(out, n.standing())
	}
	return out
}

// standing gives a node as it is asked for.
func (n *node) standing() *orchestratorv1.StandingResource {
	s := &orchestratorv1.StandingResource{
		LocalName: n.local, Name: n.name, Type: n.kind.Type, Key: n.key, Cloud: n.cloud, Spec: n.spec, Labels: n.labels,
		References: map[string]string{}, Needs: n.needs, Parent: n.parent,
	}
	for _, r := range n.refs {
		s.References[r.name] = r.key
	}
	if n.former != nil && n.key == n.former.GetKey() {
		s.Observed, s.Draws = n.former.GetObserved(), n.former.GetDraws()
		if n.change == unchanged {
			s.Resolved = n.former.GetResolved()
		}
	}
	return s
}

// problemAt places a fault at a field of a resource; sources leads from a child's field to that of its composite.
func problemAt(d *document.Document, local string, sources map[string]string, field string, f *kindv1.Fault) *orchestratorv1.Problem {
	if sources != nil {
		field = sourceOf(sources, field)
	}
	line, col := d.Position(local, field)
	top, _, _ := cut(local)
	at := ""
	if top != "" {
		at = document.Join("resources", top)
	}
	if field != "" {
		at += "." + field
	}
	placed := &kindv1.Fault{Kind: string(fault.Invalid)}
	if f != nil {
		placed = proto.CloneOf(f)
	}
	placed.Field = at
	return &orchestratorv1.Problem{Document: d.Source, Line: int32(line), Column: int32(col), Field: at, Fault: placed}
}

func attempt() *durationpb.Duration { return durationpb.New(attemptTimeout) }
