package stack

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/service"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/document"
	"github.com/weftcloud/weft/services/orchestrator/internal/plan"
)

// source is a document as it was handed in.
type source struct {
	parent, text, name string
	parameters         *structpb.Struct
	timeout            time.Duration
}

// stackName gives the stack that a document is about; false if it cannot be told.
func (s *Server) stackName(src source) (string, bool) {
	doc, _ := document.Parse(s.read(src))
	if doc == nil {
		return "", false
	}
	return resource.Name{Tenant: resource.TenantOf(src.parent), Collection: "stacks", ID: doc.Name}.String(), true
}

func (s *Server) read(src source) document.Source {
	return document.Source{Kinds: s.Kinds, Tenant: resource.TenantOf(src.parent), Name: src.name, Text: []byte(src.text), Parameters: src.parameters}
}

// compiled is a document that was compared with what stands.
type compiled struct {
	source   source
	doc      *document.Document
	record   *orchestratorv1.StackRecord // nil if the stack does not exist
	revision int64
	result   *plan.Result
	problems []*orchestratorv1.Problem
	quotas   []*participantv1.QuotaUse
}

// plan gives what is shown of it.
func (c *compiled) plan() *orchestratorv1.Plan {
	out := &orchestratorv1.Plan{}
	if c.result != nil {
		out = c.result.Plan
	}
	out.Problems, out.Quotas = c.problems, c.quotas
	return out
}

// compile parses, expands, plans and looks at the clouds. What is wrong with the document stands in problems; an error
// means that it could not be found out.
func (s *Server) compile(ctx context.Context, src source, look bool) (*compiled, error) {
	tenant, err := resource.ParseParent(src.parent)
	if err != nil {
		return nil, err
	}
	if err := s.Tenant(ctx, tenant); err != nil {
		return nil, err
	}
	c := &compiled{source: src}
	c.doc, c.problems = document.Parse(s.read(src))
	if len(c.problems) > 0 || c.doc == nil {
		return c, nil
	}
	name := resource.Name{Tenant: tenant, Collection: "stacks", ID: c.doc.Name}.String()
	c.record, c.revision, err = s.Engine.ReadStack(ctx, name)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	c.result, c.problems, err = plan.Build(ctx, plan.Input{
		Document: c.doc, Former: c.record, Kinds: s.Kinds, Expand: s.expand, Lookup: s.lookup, NewKey: s.NewKey, Tenant: tenant,
		Now: s.Now(), Timeout: timeoutOr(src.timeout), Operation: s.newOperation(tenant),
	})
	if err != nil || len(c.problems) > 0 || !look {
		return c, err
	}
	return c, s.preflight(ctx, c)
}

// expand asks the service that owns a composite kind.
func (s *Server) expand(ctx context.Context, item *participantv1.Item) (*participantv1.ExpandResponse, error) {
	kind, ok := s.Kinds.ByType(item.GetType())
	if !ok {
		return nil, fault.New(fault.Internal, "expand %s: there is no kind %s", item.GetName(), item.GetType())
	}
	client, err := s.participant(kind.Service)
	if err != nil {
		return nil, err
	}
	answer, err := client.Expand(ctx, &participantv1.ExpandRequest{Item: item})
	return answer, fault.Wrap(fault.FromStatus(err), "expand %s", item.GetName())
}

// lookup finds a resource that stands outside the stack; NotFound if there is none.
func (s *Server) lookup(ctx context.Context, name string) (proto.Message, error) {
	kind, _, err := s.Kinds.Of(name)
	if err != nil {
		return nil, err
	}
	return s.resolve(ctx, kind, name, "")
}

func (s *Server) resolve(ctx context.Context, kind *resource.Kind, name, key string) (proto.Message, error) {
	if kind.Service == "orchestrator" {
		return s.Own(ctx, name)
	}
	client, err := s.participant(kind.Service)
	if err != nil {
		return nil, err
	}
	answer, err := client.Resolve(ctx, &participantv1.ResolveRequest{Name: name, Key: key})
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	m, err := answer.GetResource().UnmarshalNew()
	return m, fault.As(fault.Internal, err)
}

func (s *Server) participant(name string) (participantv1.ParticipantServiceClient, error) {
	peer, ok := s.Peers[name]
	if !ok {
		return nil, fault.New(fault.Unavailable, "no connection to the %s service", name)
	}
	return participantv1.NewParticipantServiceClient(peer), nil
}

// preflight asks every service that the plan touches to look at the clouds, all at once.
func (s *Server) preflight(ctx context.Context, c *compiled) error {
	answers := make([]*participantv1.PreflightResponse, len(c.result.Items))
	g, ctx := errgroup.WithContext(ctx)
	services := make([]string, 0, len(c.result.Items))
	for name := range c.result.Items {
		services = append(services, name)
	}
	slices.Sort(services)
	for i, name := range services {
		g.Go(func() error {
			client, err := s.participant(name)
			if err != nil {
				return err
			}
			answers[i], err = client.Preflight(ctx, &participantv1.PreflightRequest{Tenant: c.source.parent, Items: c.result.Items[name]})
			return fault.Wrap(fault.FromStatus(err), "preflight of the %s service", name)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, a := range answers {
		for _, q := range a.GetQuotas() {
			c.draw(q, s.Now())
		}
		for _, f := range a.GetFindings() {
			c.problems = append(c.problems, c.result.Problem(f))
		}
	}
	return nil
}

// draw adds what one service needs of a quota. Several services may draw on one, each little enough by itself; together
// they must not want more than there is.
func (c *compiled) draw(q *participantv1.QuotaUse, now time.Time) {
	i := slices.IndexFunc(c.quotas, func(o *participantv1.QuotaUse) bool {
		return o.GetCloud() == q.GetCloud() && o.GetService() == q.GetService() && o.GetQuota() == q.GetQuota()
	})
	if i < 0 {
		c.quotas = append(c.quotas, q)
		return
	}
	sum := c.quotas[i]
	fits := func(need int64) bool { return sum.GetLimit() < 0 || sum.GetUsed()+need <= sum.GetLimit() }
	alone := fits(sum.GetNeed()) && fits(q.GetNeed())
	sum.Need += q.GetNeed()
	if alone && !fits(sum.GetNeed()) {
		c.problems = append(c.problems, c.result.Problem(&participantv1.Finding{Fault: fault.Proto(service.QuotaFault(sum), now)}))
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + strings.TrimSuffix(what, "s") + "s"
}
