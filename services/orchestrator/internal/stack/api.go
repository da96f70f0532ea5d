// Package stack serves stacks: it turns documents into plans, looks at the clouds before anything is made, and begins
// sagas.
package stack

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/google/uuid"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/expr"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/saga"
	"github.com/weftcloud/weft/pkg/service"
	"github.com/weftcloud/weft/pkg/tracing"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/engine"
	"github.com/weftcloud/weft/services/orchestrator/internal/plan"
)

// Server serves weft.orchestrator.v1.StackService.
type Server struct {
	orchestratorv1.UnimplementedStackServiceServer
	orchestratorv1.UnimplementedImportServiceServer

	Engine *engine.Engine
	// Sagas begins and changes sagas, wherever they run.
	Sagas engine.Sagas
	Kinds *resource.Registry
	Peers service.Peers
	Now   func() time.Time
	// NewKey makes a key, a UUIDv7.
	NewKey func() string
	// Tenant tells whether a tenant exists.
	Tenant func(ctx context.Context, tenant string) error
	// Quotas keeps what stacks draw of their tenants' quotas.
	Quotas *quota.Account
	// Own finds a resource of the orchestrator's own kinds; NotFound if there is none.
	Own func(ctx context.Context, name string) (proto.Message, error)
	// Describe gives a saga as an operation.
	Describe func(ctx context.Context, o *orchestratorv1.SagaSummary) (*longrunningpb.Operation, error)

	rounds rounds
}

// defaultTimeout is how long a saga may take if the caller does not say.
const defaultTimeout = 30 * time.Minute

// maxRequests is how many request ids a stack remembers.
const maxRequests = 100

// PlanStack says what ApplyStack would do.
func (s *Server) PlanStack(ctx context.Context, r *orchestratorv1.PlanStackRequest) (*orchestratorv1.Plan, error) {
	c, err := s.compile(ctx, source{parent: r.GetParent(), text: r.GetDocument(), name: r.GetDocumentName(), parameters: r.GetParameters(), repair: r.GetRepair(), adopt: shows}, !r.GetSkipPreflight())
	if err != nil {
		return nil, err
	}
	return c.plan(), nil
}

// ApplyStack begins the saga that brings a stack to a document.
func (s *Server) ApplyStack(ctx context.Context, r *orchestratorv1.ApplyStackRequest) (*longrunningpb.Operation, error) {
	src := source{parent: r.GetParent(), text: r.GetDocument(), name: r.GetDocumentName(), parameters: r.GetParameters(), timeout: r.GetTimeout().AsDuration(), repair: r.GetRepair()}
	if op, err := s.again(ctx, src, r.GetRequestId()); op != nil || err != nil {
		return op, err
	}
	c, err := s.compile(ctx, src, true)
	for {
		if err != nil {
			return nil, err
		}
		if len(c.problems) > 0 {
			return nil, refusal(c.problems)
		}
		waited, err := s.idle(ctx, c.record, r.GetBusy())
		if err != nil {
			return nil, err
		}
		if !waited {
			break
		}
		c, err = s.compile(ctx, src, true) // what stands has changed
		if err != nil {
			return nil, err
		}
	}
	if err := s.begin(ctx, c, r.GetRequestId(), r.GetKeepOnFailure()); err != nil {
		return nil, err
	}
	return s.operation(ctx, c.result.Saga.GetName())
}

// begin begins the saga of a document that was compared with what stands. The error is a Conflict if that has changed since.
func (s *Server) begin(ctx context.Context, c *compiled, requestID string, keepOnFailure bool) error {
	p := c.result.Saga
	p.KeepOnFailure = keepOnFailure
	p.Result = &orchestratorv1.Stack{Name: p.GetStack(), Document: c.source.text, Parameters: c.source.parameters, Operation: p.GetName()}
	changing := s.changing(c, p, requestID)
	p.TraceParent = tracing.Parent(ctx)
	return begun(s.Sagas.Begin(ctx, p, changing, c.revision), p.GetStack())
}

// begun says what a conflict at the beginning of a saga means.
func begun(err error, stack string) error {
	if fault.Is(err, fault.Conflict) {
		return fault.New(fault.Conflict, "%s was changed at the same time; look at it and try again", stack)
	}
	return err
}

func (s *Server) operation(ctx context.Context, name string) (*longrunningpb.Operation, error) {
	summary, err := s.Engine.Read(ctx, name)
	if err != nil {
		return nil, err
	}
	return s.Describe(ctx, summary)
}

// again gives the operation that a request with this id began before; nil if there is none.
func (s *Server) again(ctx context.Context, src source, requestID string) (*longrunningpb.Operation, error) {
	if requestID == "" {
		return nil, nil
	}
	name, ok := s.stackName(src)
	if !ok {
		return nil, nil
	}
	kept, _, err := s.Engine.ReadStack(ctx, name)
	if fault.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, r := range kept.GetRequests() {
		if r.GetRequestId() == requestID {
			return s.operation(ctx, r.GetOperation())
		}
	}
	return nil, nil
}

// idle deals with an operation that still works on a stack: it is waited for, or cancelled first, or the request is refused,
// as busy says. waited says that there was one, and that the stack must be read again. One that needs a hand is held until
// a person has decided, so the request is refused.
func (s *Server) idle(ctx context.Context, record *orchestratorv1.StackRecord, busy orchestratorv1.Busy) (waited bool, err error) {
	stack, name := record.GetStack().GetName(), record.GetStack().GetOperation()
	if name == "" {
		return false, nil
	}
	summary, err := s.Engine.Read(ctx, name)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	switch summary.GetOperation().GetState() {
	case orchestratorv1.OperationState_OPERATION_STATE_RUNNING, orchestratorv1.OperationState_OPERATION_STATE_UNDOING:
	case orchestratorv1.OperationState_OPERATION_STATE_NEEDS_HAND:
		return false, fault.New(fault.Precondition, "%s is held by %s, which needs a hand; retry or skip its stuck steps, or abandon it (weft ops)", stack, name)
	default:
		return false, nil
	}
	switch busy {
	case orchestratorv1.Busy_BUSY_REFUSE:
		return false, fault.New(fault.Precondition, "%s is being worked on by %s; wait for it or cancel it (weft ops cancel)", stack, name)
	case orchestratorv1.Busy_BUSY_SUPERSEDE:
		err := s.Sagas.Act(ctx, stack, name, saga.Cancelled{})
		// One that can only go forward, or has just ended, is waited for.
		if err != nil && !fault.Is(err, fault.Precondition) && !fault.Is(err, fault.NotFound) {
			return false, fault.Wrap(err, "supersede %s", name)
		}
	default:
	}
	err = s.Engine.Watch(ctx, name, func(*orchestratorv1.OperationMetadata) error { return nil })
	if ctx.Err() != nil {
		return false, fault.New(fault.Unavailable, "%s is still being worked on by %s; wait for it or cancel it (weft ops cancel)", stack, name)
	}
	return true, fault.Wrap(err, "wait for %s", name)
}

// changing gives the stack as it is kept while the saga runs.
func (s *Server) changing(c *compiled, p *orchestratorv1.SagaPlan, requestID string) *orchestratorv1.StackRecord {
	out := &orchestratorv1.StackRecord{Stack: &orchestratorv1.Stack{Name: p.GetStack(), Document: c.source.text, Metadata: &kindv1.Metadata{
		Key: s.NewKey(), CreateTime: timestamppb.New(s.Now()),
	}}}
	if c.record != nil {
		out = proto.CloneOf(c.record)
		out.Stack.Metadata.Etag = ""
	}
	out.Stack.State, out.Stack.Operation = orchestratorv1.StackState_STACK_STATE_CHANGING, p.GetName()
	out.Stack.Metadata.Sequence++
	if requestID != "" {
		out.Requests = append(out.Requests, &orchestratorv1.RequestRecord{RequestId: requestID, Operation: p.GetName()})
		out.Requests = out.Requests[max(0, len(out.Requests)-maxRequests):]
	}
	return out
}

// DeleteStack begins the saga that takes a stack away.
func (s *Server) DeleteStack(ctx context.Context, r *orchestratorv1.DeleteStackRequest) (*longrunningpb.Operation, error) {
	record, revision, err := s.Engine.ReadStack(ctx, r.GetName())
	for {
		if err != nil {
			return nil, err
		}
		if r.GetEtag() != "" && r.GetEtag() != record.GetStack().GetMetadata().GetEtag() {
			return nil, fault.New(fault.Conflict, "%s was changed since it was read; read it again", r.GetName())
		}
		waited, err := s.idle(ctx, record, r.GetBusy())
		if err != nil {
			return nil, err
		}
		if !waited {
			break
		}
		if record, revision, err = s.Engine.ReadStack(ctx, r.GetName()); err != nil {
			return nil, err
		}
	}
	p, err := plan.Destroy(plan.DestroyInput{
		Record: record, Kinds: s.Kinds, Now: s.Now(), Timeout: timeoutOr(r.GetTimeout().AsDuration()), Operation: s.newOperation(resource.TenantOf(r.GetName()), record),
		Reclaim: r.GetReclaim(),
	})
	if err != nil {
		return nil, err
	}
	deleting := proto.CloneOf(record)
	deleting.Stack.State, deleting.Stack.Operation = orchestratorv1.StackState_STACK_STATE_DELETING, p.GetName()
	deleting.Stack.Metadata.Etag = ""
	deleting.Stack.Metadata.Sequence++
	deleting.Stack.Metadata.DeleteTime = timestamppb.New(s.Now())
	p.TraceParent = tracing.Parent(ctx)
	if err := s.Sagas.Begin(ctx, p, deleting, revision); err != nil {
		return nil, begun(err, r.GetName())
	}
	return s.operation(ctx, p.GetName())
}

func timeoutOr(d time.Duration) time.Duration {
	if d <= 0 {
		return defaultTimeout
	}
	return d
}

// newOperation names an operation of a tenant on a stack as it is kept; nil if it is not. The names of a stack's operations
// sort by age: participants tell by them which of two commands was overtaken.
func (s *Server) newOperation(tenant string, record *orchestratorv1.StackRecord) string {
	last := record.GetStack().GetOperation()
	id := laterThan(s.NewKey(), last[strings.LastIndexByte(last, '/')+1:])
	return resource.Name{Tenant: tenant, Collection: "operations", ID: id}.String()
}

// laterThan gives key, made to sort after another. Both are UUIDv7 (RFC 9562 section 5.7), so it does already, unless the
// clock of whoever made the other is ahead of ours, as that of another replica may be; then it gets the next millisecond.
func laterThan(key, other string) string {
	if key > other {
		return key
	}
	mine, err := uuid.Parse(key)
	theirs, otherErr := uuid.Parse(other)
	if err != nil || otherErr != nil || theirs.Version() != 7 {
		return key
	}
	next := binary.BigEndian.Uint64(theirs[:8])>>16 + 1
	for i := range 6 {
		mine[i] = byte(next >> (8 * (5 - i)))
	}
	return mine.String()
}

// GetStack gives a stack with its resources as they are now.
func (s *Server) GetStack(ctx context.Context, r *orchestratorv1.GetStackRequest) (*orchestratorv1.Stack, error) {
	record, _, err := s.Engine.ReadStack(ctx, r.GetName())
	if err != nil {
		return nil, err
	}
	return s.view(ctx, record)
}

// Page sizes (AIP-158).
const (
	defaultPage = 100
	largestPage = 1000
)

// ListStacks lists stacks without the state of their resources.
func (s *Server) ListStacks(ctx context.Context, r *orchestratorv1.ListStacksRequest) (*orchestratorv1.ListStacksResponse, error) {
	tenant, err := resource.ParseParent(r.GetParent())
	if err != nil {
		return nil, err
	}
	match, err := expr.CompileFilter((&orchestratorv1.Stack{}).ProtoReflect().Descriptor(), r.GetFilter())
	if err != nil {
		return nil, err
	}
	after, err := base64.RawURLEncoding.DecodeString(r.GetPageToken())
	if err != nil {
		return nil, fault.InField("page_token", "%q is no token of this list", r.GetPageToken())
	}
	size := int(r.GetPageSize())
	if size == 0 {
		size = defaultPage
	}
	size = min(size, largestPage)
	out := &orchestratorv1.ListStacksResponse{}
	last := string(after)
	for {
		records, more, err := s.Engine.Stacks(ctx, tenant, last, size)
		if err != nil {
			return nil, err
		}
		for i, record := range records {
			last = record.GetStack().GetName()
			ok, err := match(record.GetStack())
			if err != nil {
				return nil, err
			}
			if ok {
				out.Stacks = append(out.Stacks, record.GetStack())
			}
			if len(out.Stacks) == size {
				if more || i+1 < len(records) {
					out.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(last))
				}
				return out, nil
			}
		}
		if !more {
			return out, nil
		}
	}
}

// worst gives the kind of fault that several problems amount to: what is wrong with the document comes first, then quotas;
// what could not be found out counts only by itself.
func worst(problems []*orchestratorv1.Problem) fault.Kind {
	for _, p := range problems {
		if kind := fault.Kind(p.GetFault().GetKind()); kind == fault.Invalid || kind == fault.NotFound {
			return fault.Invalid
		}
	}
	if slices.ContainsFunc(problems, func(p *orchestratorv1.Problem) bool { return fault.Kind(p.GetFault().GetKind()) == fault.Quota }) {
		return fault.Quota
	}
	unseen := fault.Throttled // unless something is known to be wrong: what could not be looked at can be later
	for _, p := range problems {
		switch fault.Kind(p.GetFault().GetKind()) {
		case fault.Throttled:
		case fault.Unavailable:
			unseen = fault.Unavailable
		default:
			return fault.Precondition
		}
	}
	return unseen
}

// refusal gives problems as the error that refuses a document.
func refusal(problems []*orchestratorv1.Problem) error {
	text := problems[0].GetFault().GetMessage()
	if n := len(problems) - 1; n > 0 {
		text += " (and " + plural(n, "more problem") + ")"
	}
	st := status.Convert(fault.Status(fault.New(worst(problems), "%s", text)))
	if with, err := st.WithDetails(&orchestratorv1.Problems{Problems: problems}); err == nil {
		st = with
	}
	return st.Err()
}
