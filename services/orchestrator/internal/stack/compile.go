package stack

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
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
	repair             bool // what drifted is brought back
	adopt              ownership
}

// ownership says what becomes of objects that a document adopts and that are not ours yet.
type ownership int

const (
	// never: they are a problem.
	never ownership = iota
	// shows: what would follow once they are ours is planned.
	shows
	// takes: they become ours.
	takes
)

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
	doc      *document.Document          // nil if anything is wrong with it
	record   *orchestratorv1.StackRecord // nil if the stack does not exist
	kept     *orchestratorv1.StackRecord // the same, without what would stand once it is adopted
	adoption *adoption                   // nil if there is nothing to adopt
	revision int64
	result   *plan.Result // nil if anything is wrong with the document
	problems []*orchestratorv1.Problem
	quotas   []*participantv1.QuotaUse
}

// plan gives what is shown of it.
func (c *compiled) plan() *orchestratorv1.Plan {
	out := &orchestratorv1.Plan{}
	if c.result != nil {
		out = c.result.Plan
	}
	if c.adoption != nil {
		c.adoption.show(out)
	}
	out.Problems, out.Quotas = c.problems, c.quotas
	return out
}

// compile parses, expands, plans and looks at the clouds. What is wrong with the document stands in problems; an error
// means that it could not be found out. Of a document with problems all that is sound is still looked at, so that the
// problems and what the clouds say are told together.
func (s *Server) compile(ctx context.Context, src source, look bool) (*compiled, error) {
	tenant, err := resource.ParseParent(src.parent)
	if err != nil {
		return nil, err
	}
	if err := s.Tenant(ctx, tenant); err != nil {
		return nil, err
	}
	c := &compiled{source: src}
	sound, problems := document.Sound(s.read(src))
	c.problems = problems
	if sound == nil {
		return c, nil
	}
	err = s.examine(ctx, c, sound, look)
	if err != nil && len(problems) > 0 && ctx.Err() == nil { // what is known to be wrong is worth telling by itself
		c.problems = append(c.problems, &orchestratorv1.Problem{
			Document: src.name, Fault: fault.Proto(fault.Wrap(err, "the rest of the document could not be looked at"), s.Now()),
		})
		err = nil
	}
	inOrder(c.problems)
	return c, err
}

// examine plans what is sound of a document, and looks at the clouds. The document is left without what turns out not to
// be sound until a plan can be made of the rest.
func (s *Server) examine(ctx context.Context, c *compiled, sound *document.Document, look bool) error {
	tenant := sound.Tenant
	name := resource.Name{Tenant: tenant, Collection: "stacks", ID: sound.Name}.String()
	var err error
	c.record, c.revision, err = s.Engine.ReadStack(ctx, name)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	if c.source.repair && c.record != nil {
		if c.record, err = s.drifted(ctx, c.record); err != nil {
			return err
		}
	}
	c.kept = c.record
	if c.adoption, err = s.adopt(ctx, c, sound); err != nil {
		return err
	}
	if c.adoption != nil {
		c.record = c.adoption.with(c.record)
	}
	for sound != nil {
		result, problems, err := plan.Build(ctx, plan.Input{
			Document: sound, Former: c.record, Kinds: s.Kinds, Expand: s.expand, Lookup: s.lookup, NewKey: s.NewKey, Tenant: tenant,
			Now: s.Now(), Timeout: timeoutOr(c.source.timeout), Operation: s.newOperation(tenant, c.record),
		})
		if err != nil {
			return err
		}
		c.problems = append(c.problems, problems...)
		unsound := blamed(problems)
		if len(problems) == 0 {
			unsound = result.Uncertain()
		}
		switch {
		case len(unsound) > 0:
			sound = sound.Without(unsound...)
			continue
		case len(problems) > 0: // of no resource, so nothing is known to be sound
			return nil
		}
		if len(c.problems) == 0 {
			c.doc, c.result = sound, result
		}
		if !look {
			return nil
		}
		return s.preflight(ctx, c, result)
	}
	return nil
}

// blamed gives the resources that problems are about.
func blamed(problems []*orchestratorv1.Problem) []string {
	var out []string
	for _, p := range problems {
		if name := document.ResourceOf(p.GetField()); name != "" {
			out = append(out, name)
		}
	}
	return out
}

// inOrder sorts problems by their place in the document; those without one come last.
func inOrder(problems []*orchestratorv1.Problem) {
	line := func(p *orchestratorv1.Problem) int32 {
		if p.GetLine() == 0 {
			return math.MaxInt32
		}
		return p.GetLine()
	}
	slices.SortStableFunc(problems, func(a, b *orchestratorv1.Problem) int {
		return cmp.Or(cmp.Compare(line(a), line(b)), cmp.Compare(a.GetColumn(), b.GetColumn()))
	})
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

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + strings.TrimSuffix(what, "s") + "s"
}
