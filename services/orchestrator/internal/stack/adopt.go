package stack

// How a document adopts what stands at a cloud.
//
// A resource with adopt: ID becomes the object of that id. Until it is ours the services are asked what the object is, and
// the answer is written as a document of its own, the reality, with the references as names of this stack. A plan of the
// reality gives every object as it would stand had this stack made it; so the ordinary comparison of the person's document
// with that tells what adoption would leave to be changed, and if it is nothing the plan is empty.
//
// Adoption itself is a saga of one step an object, which marks it and changes nothing; its undo takes the mark off. What
// stands afterwards is the reality.

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/tracing"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/document"
	"github.com/weftcloud/weft/services/orchestrator/internal/plan"
)

// object names an object at a cloud by its type and id.
type object struct{ typ, id string }

// adoption is what a document adopts that is not ours yet.
type adoption struct {
	resources []*document.Resource
	// standing are the objects as they would stand had the stack made them.
	standing []*orchestratorv1.StandingResource
	// ids gives the ids of the objects by local name.
	ids map[string]string
	// saga is the one that would make the objects, in the order in which they need each other.
	saga *orchestratorv1.SagaPlan
}

// adopting gives the resources of a document that adopt an object which the stack does not have yet.
func adopting(doc *document.Document, record *orchestratorv1.StackRecord) []*document.Resource {
	var out []*document.Resource
	for _, r := range doc.Resources {
		has := slices.ContainsFunc(record.GetStanding(), func(s *orchestratorv1.StandingResource) bool { return s.GetLocalName() == r.Name })
		if r.Adopt != "" && !has {
			out = append(out, r)
		}
	}
	return out
}

// adopt finds out what a document adopts. What cannot be adopted is a problem; a document that is only applied must not
// adopt anything, so that ownership is never taken by the way. nil means that there is nothing to adopt.
func (s *Server) adopt(ctx context.Context, c *compiled, doc *document.Document) (*adoption, error) {
	resources := adopting(doc, c.record)
	if len(resources) == 0 {
		return nil, nil
	}
	trouble := func(r *document.Resource, kind fault.Kind, format string, args ...any) {
		line, col := doc.Position(r.Name, "adopt")
		field := document.Join("resources", r.Name) + ".adopt"
		f := &kindv1.Fault{Kind: string(kind), Message: fmt.Sprintf(format, args...), Field: field}
		c.problems = append(c.problems, &orchestratorv1.Problem{Document: doc.Source, Line: int32(line), Column: int32(col), Field: field, Fault: f})
	}
	if id, ok := auth.FromContext(ctx); ok && !id.Platform() {
		for _, r := range resources {
			trouble(r, fault.Denied, "%s of the cloud is nobody's in particular, so only operators may adopt it", r.Adopt)
		}
		return nil, nil
	}
	if c.source.adopt == never {
		for _, r := range resources {
			trouble(r, fault.Precondition, "%s stands at the cloud and is not Weft's yet; weft adopt takes ownership of it, after which the document can be applied", r.Adopt)
		}
		return nil, nil
	}
	found, err := s.describeAll(ctx, c.source.parent, resources)
	if err != nil {
		return nil, err
	}
	names, err := s.namesOf(ctx, c.record, doc)
	if err != nil {
		return nil, err
	}
	before := len(c.problems)
	drafts := []draft{}
	for _, r := range resources {
		o := found[object{r.Kind.Type, r.Adopt}]
		switch {
		case o == nil:
			trouble(r, fault.NotFound, "%s has no %s %s", r.Cloud, r.Kind.Name, r.Adopt)
			continue
		case o.GetTaken() != nil:
			trouble(r, fault.Exists, "%s cannot be adopted: %s", r.Adopt, o.GetTaken().GetMessage())
			continue
		case len(o.GetObstacles()) > 0:
			trouble(r, fault.Unsupported, "%s cannot be adopted: %s", r.Adopt, strings.Join(o.GetObstacles(), "; "))
			continue
		}
		d, missing, err := newDraft(r.Kind, r.Name, o, names)
		if err != nil {
			return nil, err
		}
		for _, m := range missing {
			trouble(r, fault.Precondition, "%s refers to %s, which the stack does not have; add it with adopt: %q (weft import does)", r.Adopt, m, m.id)
		}
		d.cloud, d.labels = r.Cloud, r.Labels
		drafts = append(drafts, d)
	}
	if len(c.problems) > before {
		return nil, nil
	}
	return s.reality(ctx, c, doc, resources, drafts)
}

// String tells an object in messages.
func (o object) String() string { return o.typ[strings.LastIndexByte(o.typ, '/')+1:] + " " + o.id }

// reality plans the objects as they are.
func (s *Server) reality(ctx context.Context, c *compiled, doc *document.Document, resources []*document.Resource, drafts []draft) (*adoption, error) {
	text, err := writeDocument(doc.Name, "", drafts)
	if err != nil {
		return nil, err
	}
	actual, problems := document.Parse(document.Source{Kinds: s.Kinds, Tenant: doc.Tenant, Name: "what stands at the cloud", Text: []byte(text)})
	if actual == nil {
		return nil, fault.New(fault.Unsupported, "what stands at the cloud does not hold to the rules of the kinds: %s: %s", problems[0].GetField(), problems[0].GetFault().GetMessage())
	}
	result, problems, err := plan.Build(ctx, plan.Input{
		Document: actual, Kinds: s.Kinds, Expand: s.expand, Lookup: s.lookup, NewKey: s.NewKey, Tenant: doc.Tenant, Now: s.Now(),
		Timeout: timeoutOr(c.source.timeout), Operation: s.newOperation(doc.Tenant, c.record),
	})
	if err != nil {
		return nil, err
	}
	if len(problems) > 0 {
		return nil, fault.New(fault.Unsupported, "what stands at the cloud cannot be planned: %s: %s", problems[0].GetField(), problems[0].GetFault().GetMessage())
	}
	answers, err := s.ask(ctx, c.source.parent, result.Items)
	if err != nil {
		return nil, err
	}
	draws := drawsOf(answers)
	for _, name := range slices.Sorted(maps.Keys(draws)) {
		if err := fault.FromProto(draws[name].GetFault()); err != nil { // it would draw nothing for as long as it stands
			return nil, fault.Wrap(err, "look how much %s takes of its tenant's quotas", name)
		}
	}
	recordDraws(result, draws) // what is adopted draws on the tenant's quotas like what is made
	out := &adoption{resources: resources, standing: result.Saga.GetStanding(), ids: map[string]string{}, saga: result.Saga}
	for _, r := range resources {
		out.ids[r.Name] = r.Adopt
	}
	for _, standing := range out.standing {
		standing.Resolved = standing.GetSpec() // there are no expressions in it
	}
	return out, nil
}

// with gives a stack as it would stand with what is adopted.
func (a *adoption) with(record *orchestratorv1.StackRecord) *orchestratorv1.StackRecord {
	out := &orchestratorv1.StackRecord{}
	if record != nil {
		out = proto.CloneOf(record)
	}
	for _, s := range a.standing {
		out.Standing = append(out.Standing, proto.CloneOf(s))
	}
	return out
}

// show adds to a plan what is adopted.
func (a *adoption) show(p *orchestratorv1.Plan) {
	for _, r := range a.resources {
		p.Adoptions = append(p.Adoptions, &orchestratorv1.Adoption{LocalName: r.Name, Type: r.Kind.Type, ProviderId: r.Adopt})
	}
}

// steps turns the saga that would make the objects into the one that adopts them: each step marks what stands, and is undone
// by taking the mark off.
func (a *adoption) steps(result *orchestratorv1.SagaPlan, record *orchestratorv1.StackRecord) *orchestratorv1.SagaPlan {
	out := proto.CloneOf(a.saga)
	for _, step := range out.GetSteps() {
		step.Change = kindv1.Change_CHANGE_ADOPT
		step.Goal.Adopt = a.ids[step.GetGoal().GetResource().GetLocalName()]
	}
	out.Former, out.Standing = record, a.with(record).GetStanding()
	out.Outputs, out.Parameters, out.Result = result.GetOutputs(), result.GetParameters(), result.GetResult()
	return out
}

// describeAll asks the services what objects are, all of a cloud and service at once.
func (s *Server) describeAll(ctx context.Context, parent string, resources []*document.Resource) (map[object]*participantv1.DescribedObject, error) {
	requests := map[[2]string]*participantv1.DescribeObjectsRequest{}
	for _, r := range resources {
		at := [2]string{r.Kind.Service, r.Cloud}
		if requests[at] == nil {
			requests[at] = &participantv1.DescribeObjectsRequest{Cloud: r.Cloud, Tenant: parent}
		}
		requests[at].Objects = append(requests[at].Objects, &participantv1.ObjectIds{Type: r.Kind.Type, Ids: []string{r.Adopt}})
	}
	out := map[object]*participantv1.DescribedObject{}
	for at, request := range requests {
		answer, err := s.describe(ctx, at[0], request)
		if err != nil {
			return nil, err
		}
		for _, o := range answer.GetObjects() {
			out[object{o.GetType(), o.GetId()}] = o
		}
	}
	return out, nil
}

func (s *Server) describe(ctx context.Context, service string, request *participantv1.DescribeObjectsRequest) (*participantv1.DescribeObjectsResponse, error) {
	peer, ok := s.Peers[service]
	if !ok {
		return nil, fault.New(fault.Unavailable, "no connection to the %s service", service)
	}
	answer, err := participantv1.NewImportParticipantServiceClient(peer).DescribeObjects(ctx, request)
	return answer, fault.Wrap(fault.FromStatus(err), "ask the %s service what stands at %s", service, request.GetCloud())
}

// namesOf gives how documents call the objects that a stack has or adopts.
func (s *Server) namesOf(ctx context.Context, record *orchestratorv1.StackRecord, doc *document.Document) (map[object]string, error) {
	out := map[object]string{}
	for _, standing := range record.GetStanding() {
		if standing.GetComposite() {
			continue
		}
		kind, _, err := s.Kinds.Of(standing.GetName())
		if err != nil {
			return nil, err
		}
		m, err := s.resolve(ctx, kind, standing.GetName(), standing.GetKey())
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if id := resource.Wrap(m).Status().GetProviderId(); id != "" {
			out[object{kind.Type, id}] = strings.TrimPrefix(standing.GetName(), "tenants/"+doc.Tenant+"/")
		}
	}
	for _, r := range adopting(doc, record) {
		out[object{r.Kind.Type, r.Adopt}] = r.Name
	}
	return out, nil
}

// AdoptStack begins the saga that takes ownership of what a document adopts.
func (s *Server) AdoptStack(ctx context.Context, r *orchestratorv1.AdoptStackRequest) (*longrunningpb.Operation, error) {
	src := source{parent: r.GetParent(), text: r.GetDocument(), name: r.GetDocumentName(), parameters: r.GetParameters(), timeout: r.GetTimeout().AsDuration(), adopt: takes}
	c, err := s.compile(ctx, src, false)
	if err != nil {
		return nil, err
	}
	if len(c.problems) > 0 {
		return nil, refusal(c.problems)
	}
	if c.adoption == nil {
		return nil, fault.New(fault.Precondition, "the document adopts nothing that is not Weft's already; a resource adopts an object by adopt: ID")
	}
	if _, err := s.idle(ctx, c.kept, orchestratorv1.Busy_BUSY_REFUSE); err != nil {
		return nil, err
	}
	if c.kept.GetStack().GetState() == orchestratorv1.StackState_STACK_STATE_DEGRADED {
		return nil, fault.New(fault.Precondition, "%s is degraded: a part of what it was to become was neither done nor undone; apply a document that adopts nothing first", c.kept.GetStack().GetName())
	}
	p := c.adoption.steps(c.result.Saga, c.kept)
	p.Result = &orchestratorv1.Stack{Name: p.GetStack(), Document: r.GetDocument(), Parameters: r.GetParameters(), Operation: p.GetName()}
	c.record = c.kept
	changing := s.changing(c, p, "")
	p.TraceParent = tracing.Parent(ctx)
	if err := s.Sagas.Begin(ctx, p, changing, c.revision); err != nil {
		return nil, begun(err, p.GetStack())
	}
	return s.operation(ctx, p.GetName())
}
