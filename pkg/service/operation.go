package service

import (
	"context"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weftcloud/weft/pkg/expr"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// The operation of a single change is no record of its own: its name says which generation of which resource is waited
// for, and the resource's record says whether it stands. Names are
//
//	tenants/{tenant}/operations/{service}.{collection}.{id}.{key}.{generation or "release"}

// change is what the name of such an operation says.
type change struct {
	id         record.ID
	generation int64
	release    bool
}

func operationName(service string, kind *resource.Kind, e *record.Entry) string {
	goal := strconv.FormatInt(e.Object.Metadata().GetGeneration(), 10)
	if e.Record.GetRelease() {
		goal = "release"
	}
	n, err := resource.ParseName(e.Name)
	if err != nil {
		panic("service: a record without a name: " + e.Name) // every record was written under a parsed name
	}
	op := resource.Name{Tenant: n.Tenant, Collection: "operations", ID: strings.Join([]string{service, kind.Collection, n.ID, e.Key, goal}, ".")}
	return op.String()
}

// ServiceOfOperation gives the service that an operation's name belongs to; false if it is the name of a saga.
func ServiceOfOperation(name string) (string, bool) {
	i := strings.LastIndex(name, "operations/")
	if i < 0 {
		return "", false
	}
	service, _, ok := strings.Cut(name[i+len("operations/"):], ".")
	return service, ok
}

func (s *Service) parseOperation(name string) (change, error) {
	wrong := fault.InField("name", "%q is no operation of the %s service", name, s.catalog.Service)
	n, err := resource.ParseName(name)
	if err != nil || n.Collection != "operations" {
		return change{}, wrong
	}
	parts := strings.Split(n.ID, ".")
	if len(parts) < 5 || parts[0] != s.catalog.Service {
		return change{}, wrong
	}
	kind, ok := s.own.ByCollection(parts[1])
	if !ok {
		return change{}, wrong
	}
	last := len(parts) - 1
	c := change{id: record.ID{Name: kind.FullName(n.Tenant, strings.Join(parts[2:last-1], ".")), Key: parts[last-1]}}
	if parts[last] == "release" {
		c.release = true
		return c, nil
	}
	if c.generation, err = strconv.ParseInt(parts[last], 10, 64); err != nil {
		return change{}, wrong
	}
	return c, nil
}

// Operation gives the operation of the last change of an entry.
func (s *Service) Operation(e *record.Entry) (*longrunningpb.Operation, error) {
	return s.operation(e, false)
}

// operation gives the operation of the last change of an entry. gone says that the record was removed.
func (s *Service) operation(e *record.Entry, gone bool) (*longrunningpb.Operation, error) {
	generation := e.Object.Metadata().GetGeneration()
	if e.Record.GetRelease() {
		generation = released
	}
	return s.describe(operationName(s.catalog.Service, e.Kind, e), e, generation, gone)
}

// released stands for the generation that a release waits for.
const released = 0

// describe gives an operation on an entry that waits for a generation, or for the release.
func (s *Service) describe(name string, e *record.Entry, generation int64, gone bool) (*longrunningpb.Operation, error) {
	op := &longrunningpb.Operation{Name: name}
	metadata, err := anypb.New(progress(name, e, generation, gone))
	if err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "describe %s", name))
	}
	op.Metadata = metadata
	st := e.Object.Status()
	switch {
	case gone:
		return finish(op, &emptypb.Empty{})
	case generation != released && st.GetObservedGeneration() >= generation:
		return finish(op, public(e.Object))
	case st.GetPhase() == kindv1.Phase_PHASE_FAILED: // also of a later generation: nobody tries the one before any more
		op.Done = true
		op.Result = &longrunningpb.Operation_Error{Error: rpcStatus(fault.FromProto(st.GetFault()))}
		return op, nil
	default:
		return op, nil
	}
}

func finish(op *longrunningpb.Operation, response proto.Message) (*longrunningpb.Operation, error) {
	packed, err := anypb.New(response)
	if err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "describe %s", op.GetName()))
	}
	op.Done, op.Result = true, &longrunningpb.Operation_Response{Response: packed}
	return op, nil
}

func rpcStatus(err error) *rpcstatus.Status {
	return status.Convert(fault.Status(err)).Proto()
}

// progress shows a single change as an operation of one step.
func progress(name string, e *record.Entry, generation int64, gone bool) *orchestratorv1.OperationMetadata {
	st, meta := e.Object.Status(), e.Object.Metadata()
	step := &orchestratorv1.StepStatus{
		Id: e.Name, Resource: e.Name, Type: e.Kind.Type, State: orchestratorv1.StepState_STEP_STATE_RUNNING, Change: kindv1.Change_CHANGE_IN_PLACE,
		Fault: st.GetFault(), Blockers: st.GetBlockers(), ProviderId: st.GetProviderId(), StartTime: meta.GetUpdateTime(),
	}
	out := &orchestratorv1.OperationMetadata{
		Name: name, Target: e.Name, Action: orchestratorv1.Action_ACTION_UPDATE, State: orchestratorv1.OperationState_OPERATION_STATE_RUNNING,
		Steps: []*orchestratorv1.StepStatus{step}, CreateTime: meta.GetUpdateTime(), Fault: st.GetFault(), Sequence: meta.GetSequence(),
	}
	switch generation {
	case released:
		out.Action, step.Change, step.StartTime, out.CreateTime = orchestratorv1.Action_ACTION_DELETE, kindv1.Change_CHANGE_DELETE, meta.GetDeleteTime(), meta.GetDeleteTime()
	case 1:
		out.Action, step.Change = orchestratorv1.Action_ACTION_CREATE, kindv1.Change_CHANGE_CREATE
	}
	switch {
	case gone || (generation != released && st.GetObservedGeneration() >= generation):
		out.State, step.State = orchestratorv1.OperationState_OPERATION_STATE_DONE, orchestratorv1.StepState_STEP_STATE_DONE
		out.EndTime, step.EndTime = st.GetPhaseTime(), st.GetPhaseTime()
	case st.GetPhase() == kindv1.Phase_PHASE_FAILED:
		out.State, step.State = orchestratorv1.OperationState_OPERATION_STATE_FAILED, orchestratorv1.StepState_STEP_STATE_FAILED
		out.EndTime, step.EndTime = st.GetPhaseTime(), st.GetPhaseTime()
	}
	return out
}

// GetOperation gives an operation of this service. After its resource is gone a release is done for as long as the
// tombstone is kept.
func (s *Service) GetOperation(ctx context.Context, name string) (*longrunningpb.Operation, error) {
	c, err := s.parseOperation(name)
	if err != nil {
		return nil, err
	}
	e, err := s.book.Get(ctx, c.id)
	if err == nil {
		return s.describe(name, e, c.generation, false)
	}
	if !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	if c.id.Key == "" {
		return nil, fault.InField("name", "%q is no operation: it names no key", name)
	}
	stone, err := s.book.Tombstone(ctx, c.id.Key)
	if err != nil {
		return nil, fault.Wrap(err, "%s", name)
	}
	return ended(name, c, stone)
}

// ended gives an operation on a resource that is gone. Whether a change was done before can no longer be told.
func ended(name string, c change, stone *participantv1.Tombstone) (*longrunningpb.Operation, error) {
	view := &orchestratorv1.OperationMetadata{Name: name, Target: c.id.Name, EndTime: stone.GetReleaseTime()}
	switch {
	case c.release:
		view.Action, view.CreateTime = orchestratorv1.Action_ACTION_DELETE, stone.GetRequestTime()
	case c.generation == 1:
		view.Action = orchestratorv1.Action_ACTION_CREATE
	default:
		view.Action = orchestratorv1.Action_ACTION_UPDATE
	}
	view.State = orchestratorv1.OperationState_OPERATION_STATE_DONE
	if !c.release {
		view.State = orchestratorv1.OperationState_OPERATION_STATE_FAILED
	}
	metadata, err := anypb.New(view)
	if err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "describe %s", name))
	}
	op := &longrunningpb.Operation{Name: name, Metadata: metadata}
	if c.release {
		return finish(op, &emptypb.Empty{})
	}
	op.Done = true
	op.Result = &longrunningpb.Operation_Error{Error: rpcStatus(fault.New(fault.NotFound, "%s has been deleted since", c.id.Name))}
	return op, nil
}

// How many operations a page of a list has if the caller does not say, and at most.
const (
	defaultOperations = 50
	mostOperations    = 1000
)

// PageOfOperations gives how many operations a caller wants on a page.
func PageOfOperations(asked int32) int {
	if asked <= 0 {
		return defaultOperations
	}
	return min(int(asked), mostOperations)
}

// ListOperations lists the operations of this service in a tenant: of each resource that belongs to no stack that of its
// last change, in order of the resources' names. That of a deletion is listed until the resource is gone. The filter is
// over the operations' metadata. The name is tenants/{tenant}, or with /operations behind it.
func (s *Service) ListOperations(ctx context.Context, r *longrunningpb.ListOperationsRequest) (*longrunningpb.ListOperationsResponse, error) {
	tenant := resource.TenantOf(r.GetName())
	if tenant == "" {
		return nil, fault.InField("name", "%q is no tenant; it should look like tenants/acme", r.GetName())
	}
	match, err := expr.CompileFilter((&orchestratorv1.OperationMetadata{}).ProtoReflect().Descriptor(), r.GetFilter())
	if err != nil {
		return nil, err
	}
	after, err := parseOperationsToken(r.GetPageToken())
	if err != nil {
		return nil, err
	}
	size := PageOfOperations(r.GetPageSize())
	out := &longrunningpb.ListOperationsResponse{}
	for {
		entries, more, err := s.book.List(ctx, "tenants/"+tenant+"/", after, size)
		if err != nil {
			return nil, err
		}
		for i, e := range entries {
			after = e.ID
			op, err := s.listed(e, match)
			if err != nil {
				return nil, err
			}
			if op != nil {
				out.Operations = append(out.Operations, op)
			}
			if len(out.GetOperations()) == size && (more || i+1 < len(entries)) {
				out.NextPageToken = operationsToken(after)
				return out, nil
			}
		}
		if !more || len(entries) == 0 {
			return out, nil
		}
	}
}

// listed gives the operation of an entry as a list shows it; nil if it does not: what belongs to a stack is made by the
// stack's operations.
func (s *Service) listed(e *record.Entry, match func(proto.Message) (bool, error)) (*longrunningpb.Operation, error) {
	if _, own := s.own.ByType(e.Kind.Type); !own || e.Object.Metadata().GetStack() != "" || e.Object.Metadata().GetOwner() != "" {
		return nil, nil
	}
	op, err := s.operation(e, false)
	if err != nil {
		return nil, err
	}
	view := &orchestratorv1.OperationMetadata{}
	if err := op.GetMetadata().UnmarshalTo(view); err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "decode %s", op.GetName()))
	}
	if ok, err := match(view); err != nil || !ok {
		return nil, err
	}
	return op, nil
}

// ListOperations lists the operations of this service in a tenant.
func (o *operationsServer) ListOperations(ctx context.Context, r *longrunningpb.ListOperationsRequest) (*longrunningpb.ListOperationsResponse, error) {
	return o.s.ListOperations(ctx, r)
}

// A page's token names the record that the page before ended with, so that what comes and goes meanwhile shifts nothing.
func operationsToken(last record.ID) string {
	return base64.RawURLEncoding.EncodeToString([]byte(last.Name + " " + last.Key))
}

func parseOperationsToken(token string) (record.ID, error) {
	if token == "" {
		return record.ID{}, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	name, key, ok := strings.Cut(string(raw), " ")
	if err != nil || !ok {
		return record.ID{}, fault.InField("page_token", "%q is no token of this list", token)
	}
	return record.ID{Name: name, Key: key}, nil
}

// WaitOperation waits until an operation of this service is done, or until the timeout. The timeout bounds only the wait:
// however short it is, the answer is the operation as it stands, and not that the store took longer.
func (s *Service) WaitOperation(ctx context.Context, name string, timeout time.Duration) (*longrunningpb.Operation, error) {
	last, err := s.GetOperation(ctx, name)
	if err != nil || last.GetDone() {
		return last, err
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	err = s.WatchOperation(ctx, name, func(op *longrunningpb.Operation) error {
		last = op
		return nil
	})
	if ctx.Err() != nil {
		return last, nil // AIP-151: the state at the timeout
	}
	return last, err
}

// WatchOperation gives an operation of this service to send, at once and after each change, until it is done.
func (s *Service) WatchOperation(ctx context.Context, name string, send func(*longrunningpb.Operation) error) error {
	c, err := s.parseOperation(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := s.deps.Store.Watch(ctx, record.RecordKey(s.catalog.Service, c.id), 0)
	for {
		op, err := s.GetOperation(ctx, name)
		if err != nil {
			return err
		}
		if err := send(op); err != nil {
			return err
		}
		if op.GetDone() {
			return nil
		}
		select {
		case _, ok := <-watch.Events():
			if !ok && ctx.Err() == nil {
				return fault.Wrap(watch.Err(), "watch %s", name)
			}
		case <-ctx.Done():
			return fault.As(fault.Unavailable, fmt.Errorf("wait for %s: %w", name, ctx.Err()))
		}
	}
}
