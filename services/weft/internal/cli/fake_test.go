package cli

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/app"
	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/resource"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	"github.com/weftcloud/weft/services/weft/internal/contextfile"
)

// installation is a fake of everything behind the front door. It keeps resources of all kinds, written by their
// standard methods, and stacks whose documents it judges by what stands in them: a document with "debian" is refused,
// one with "breaks" fails while it is applied, one with "hangs" is never done.
type installation struct {
	orchestratorv1.UnimplementedStackServiceServer
	orchestratorv1.UnimplementedOperationServiceServer
	orchestratorv1.UnimplementedEventServiceServer
	orchestratorv1.UnimplementedLedgerServiceServer
	orchestratorv1.UnimplementedQuotaServiceServer
	orchestratorv1.UnimplementedDeadLetterServiceServer
	longrunningpb.UnimplementedOperationsServer

	mu         sync.Mutex
	resources  map[string]proto.Message
	stacks     map[string]*orchestratorv1.Stack
	operations map[string][]*orchestratorv1.OperationMetadata
	dead       []*orchestratorv1.DeadLetter
}

// startInstallation serves the fake, with contexts for an operator and a viewer of it in dir, until stop is called.
func startInstallation(dir string) (stop func(), err error) {
	ca, err := auth.OpenCA(dir + "/ca")
	if err != nil {
		return nil, err
	}
	f := &installation{resources: map[string]proto.Message{}, stacks: map[string]*orchestratorv1.Stack{}, operations: map[string][]*orchestratorv1.OperationMetadata{}, dead: sampleDead()}
	source := ca.Source(auth.Identity{Class: auth.Service, Name: "orchestrator"}, auth.IssueOptions{})
	s, err := app.NewGRPCServer(app.ServerConfig{
		TLS: auth.ServerTLS(source, ca.Pool()), Grace: time.Second, Options: []grpc.ServerOption{grpc.UnknownServiceHandler(f.standardMethod)},
	})
	if err != nil {
		return nil, err
	}
	orchestratorv1.RegisterStackServiceServer(s, f)
	orchestratorv1.RegisterOperationServiceServer(s, f)
	orchestratorv1.RegisterEventServiceServer(s, f)
	orchestratorv1.RegisterLedgerServiceServer(s, f)
	orchestratorv1.RegisterQuotaServiceServer(s, f)
	orchestratorv1.RegisterDeadLetterServiceServer(s, f)
	longrunningpb.RegisterOperationsServer(s, f)
	ctx, cancel := context.WithCancel(context.Background())
	lis, err := app.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		cancel()
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, lis) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			panic(err)
		}
	}
	for name, id := range map[string]auth.Identity{
		"context.yaml": {Class: auth.Operator, Name: "root"}, "viewer.yaml": {Class: auth.Viewer, Tenant: "demo", Name: "vera"},
	} {
		if err := writeContext(dir+"/"+name, ca, id, lis.Addr().String()); err != nil {
			stop()
			return nil, err
		}
	}
	return stop, nil
}

func writeContext(path string, ca *auth.CA, id auth.Identity, endpoint string) error {
	cert, err := ca.Issue(id, auth.IssueOptions{})
	if err != nil {
		return err
	}
	certPEM, keyPEM, err := auth.EncodePEM(cert)
	if err != nil {
		return err
	}
	return contextfile.Save(path, &contextfile.File{Endpoint: endpoint, Tenant: "demo", CA: string(ca.PEM()), Cert: string(certPEM), Key: string(keyPEM)})
}

// standardMethod serves Get, List, Create, Update, Delete and Probe of every kind.
func (f *installation) standardMethod(_ any, stream grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(stream)
	service, name, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	for _, x := range apis() {
		if string(x.methods["Get"].Parent().FullName()) != service {
			continue
		}
		d := x.methods["Get"].Parent().(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(name))
		request, err := newMessage(d.Input())
		if err != nil {
			return err
		}
		if err := stream.RecvMsg(request); err != nil {
			return err
		}
		response, err := f.answer(x, name, request.ProtoReflect())
		if err != nil {
			return err
		}
		return stream.SendMsg(response)
	}
	return fault.New(fault.Unsupported, "%s is not faked", full)
}

func (f *installation) answer(x *api, method string, r protoreflect.Message) (proto.Message, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := textOf(r, "name")
	switch {
	case strings.HasPrefix(method, "Get"), strings.HasPrefix(method, "Probe"):
		if f.resources[name] == nil {
			return nil, fault.New(fault.NotFound, "there is no %s %s", x.singular, name)
		}
		return shown(f.resources[name]), nil
	case strings.HasPrefix(method, "List"):
		return f.page(x, textOf(r, "parent"))
	case strings.HasPrefix(method, "Delete"):
		if f.resources[name] == nil {
			return nil, fault.New(fault.NotFound, "there is no %s %s", x.singular, name)
		}
		delete(f.resources, name)
		return done(&emptypb.Empty{}), nil
	}
	var m proto.Message
	id := ""
	r.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if fd.Message() == x.message {
			m = proto.Clone(v.Message().Interface())
		}
		if strings.HasSuffix(string(fd.Name()), "_id") {
			id = v.String()
		}
		return true
	})
	o := resource.Wrap(m)
	if strings.HasPrefix(method, "Create") {
		o.SetName(strings.TrimPrefix(textOf(r, "parent")+"/"+x.plural+"/"+id, "/"))
		if f.resources[o.Name()] != nil {
			return nil, fault.New(fault.Exists, "%s exists", o.Name())
		}
	} else if mask := r.Descriptor().Fields().ByName("update_mask"); mask != nil && r.Has(mask) && f.resources[o.Name()] != nil {
		m = masked(f.resources[o.Name()], m, r.Get(mask).Message())
		o = resource.Wrap(m)
	}
	o.Status().Phase, o.Status().ProviderId = kindv1.Phase_PHASE_READY, "id-of-"+base(o.Name())
	f.resources[o.Name()] = m
	return done(shown(m)), nil
}

// masked gives what stands with the fields that a mask names as they are wanted.
func masked(standing, wanted proto.Message, mask protoreflect.Message) proto.Message {
	out := proto.Clone(standing)
	paths := mask.Get(mask.Descriptor().Fields().ByName("paths")).List()
	for i := range paths.Len() {
		to, from := out.ProtoReflect(), wanted.ProtoReflect()
		words := strings.Split(paths.Get(i).String(), ".")
		for _, w := range words[:len(words)-1] {
			fd := to.Descriptor().Fields().ByName(protoreflect.Name(w))
			to, from = to.Mutable(fd).Message(), from.Get(fd).Message()
		}
		fd := to.Descriptor().Fields().ByName(protoreflect.Name(words[len(words)-1]))
		if from.Has(fd) {
			to.Set(fd, from.Get(fd))
		} else {
			to.Clear(fd)
		}
	}
	return out
}

// shown hides what is never shown.
func shown(m proto.Message) proto.Message {
	out := proto.Clone(m)
	if secret, ok := out.(*orchestratorv1.Secret); ok {
		secret.Observed = &orchestratorv1.SecretObserved{Keys: sortedKeys(secret.GetSpec().GetData())}
		secret.Spec = nil
	}
	if cloud, ok := out.(*orchestratorv1.Cloud); ok {
		cloud.Observed = &orchestratorv1.CloudObserved{Features: []*participantv1.Feature{{Service: "compute", Name: "microversion", Value: "2.93"}}}
	}
	return out
}

// page gives one resource a page, so that a client must turn pages.
func (f *installation) page(x *api, parent string) (proto.Message, error) {
	response, err := newMessage(x.methods["List"].Output())
	if err != nil {
		return nil, err
	}
	m := response.ProtoReflect()
	for _, name := range sortedKeys(f.resources) {
		if f.resources[name].ProtoReflect().Descriptor() == x.message && strings.HasPrefix(name, parent) {
			fields := m.Descriptor().Fields()
			for i := range fields.Len() {
				if fields.Get(i).Message() == x.message {
					m.Mutable(fields.Get(i)).List().Append(protoreflect.ValueOfMessage(shown(f.resources[name]).ProtoReflect()))
				}
			}
		}
	}
	return response, nil
}

// ListQuotas tells what the tenant may have, with three servers in use, one of them held.
func (f *installation) ListQuotas(_ context.Context, r *orchestratorv1.ListQuotasRequest) (*orchestratorv1.ListQuotasResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	limits := quota.Amounts{}
	if t, ok := f.resources[r.GetParent()].(*orchestratorv1.Tenant); ok {
		limits = quota.Limits(t.GetSpec().GetQuotas().ProtoReflect())
	}
	out := &orchestratorv1.ListQuotasResponse{}
	state := &quota.State{Used: quota.Amounts{quota.Servers: 2}, Held: quota.Amounts{quota.Servers: 1}}
	for _, q := range quota.All() {
		out.Quotas = append(out.Quotas, state.Use("demo", q, 0, limits))
	}
	return out, nil
}

func done(response proto.Message) *longrunningpb.Operation {
	packed, err := anypb.New(response)
	if err != nil {
		panic(err)
	}
	return &longrunningpb.Operation{Name: "tenants/demo/operations/single", Done: true, Result: &longrunningpb.Operation_Response{Response: packed}}
}

// birth is when everything in the fake was made.
var birth = time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)

func imageProblem(document, name string) []*orchestratorv1.Problem {
	for i, line := range strings.Split(document, "\n") {
		if at := strings.Index(line, "debian"); at >= 0 {
			return []*orchestratorv1.Problem{{
				Document: name, Line: int32(i + 1), Column: int32(at + 1), Field: "resources.db.spec.image",
				Fault: &kindv1.Fault{Kind: "NotFound", Message: `cloud lab has no image "debian"; it has tiny`},
			}}
		}
	}
	return nil
}

func (f *installation) PlanStack(_ context.Context, r *orchestratorv1.PlanStackRequest) (*orchestratorv1.Plan, error) {
	if problems := imageProblem(r.GetDocument(), r.GetDocumentName()); problems != nil {
		return &orchestratorv1.Plan{Problems: problems}, nil // a document with problems is compared with nothing
	}
	return samplePlan(), nil
}

func (f *installation) ApplyStack(_ context.Context, r *orchestratorv1.ApplyStackRequest) (*longrunningpb.Operation, error) {
	if problems := imageProblem(r.GetDocument(), r.GetDocumentName()); problems != nil {
		s, err := status.Convert(fault.Status(fault.New(fault.Invalid, "the document has a problem"))).WithDetails(&orchestratorv1.Problems{Problems: problems})
		if err != nil {
			return nil, err
		}
		return nil, s.Err()
	}
	doc := document{name: "x", text: r.GetDocument()}
	id, err := doc.stackName()
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	stack := sampleStack()
	stack.Name, stack.Document, stack.Parameters = r.GetParent()+"/stacks/"+id, r.GetDocument(), r.GetParameters()
	op := r.GetParent() + "/operations/apply-" + id
	if strings.Contains(r.GetDocument(), "breaks") {
		f.operations[op] = brokenOperation(op, stack.Name)
		return &longrunningpb.Operation{Name: op}, nil
	}
	if strings.Contains(r.GetDocument(), "hangs") {
		f.operations[op] = sampleOperation(op, stack.Name, orchestratorv1.Action_ACTION_APPLY)[:1]
		return &longrunningpb.Operation{Name: op}, nil
	}
	f.stacks[stack.Name] = stack
	f.operations[op] = sampleOperation(op, stack.Name, orchestratorv1.Action_ACTION_APPLY)
	return &longrunningpb.Operation{Name: op}, nil
}

func (f *installation) GetStack(_ context.Context, r *orchestratorv1.GetStackRequest) (*orchestratorv1.Stack, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stacks[r.GetName()] == nil {
		return nil, fault.New(fault.NotFound, "there is no stack %s", base(r.GetName()))
	}
	return f.stacks[r.GetName()], nil
}

func (f *installation) ListStacks(context.Context, *orchestratorv1.ListStacksRequest) (*orchestratorv1.ListStacksResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &orchestratorv1.ListStacksResponse{}
	for _, name := range sortedKeys(f.stacks) {
		out.Stacks = append(out.Stacks, f.stacks[name])
	}
	return out, nil
}

func (f *installation) DeleteStack(_ context.Context, r *orchestratorv1.DeleteStackRequest) (*longrunningpb.Operation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stacks[r.GetName()] == nil {
		return nil, fault.New(fault.NotFound, "there is no stack %s", base(r.GetName()))
	}
	delete(f.stacks, r.GetName())
	op := "tenants/demo/operations/destroy-" + base(r.GetName())
	f.operations[op] = sampleOperation(op, r.GetName(), orchestratorv1.Action_ACTION_DESTROY)
	return &longrunningpb.Operation{Name: op}, nil
}

func (f *installation) WatchOperation(r *orchestratorv1.WatchOperationRequest, s grpc.ServerStreamingServer[orchestratorv1.WatchOperationResponse]) error {
	f.mu.Lock()
	states := f.operations[r.GetName()]
	f.mu.Unlock()
	for _, state := range states {
		if err := s.Send(&orchestratorv1.WatchOperationResponse{Operation: state}); err != nil {
			return err
		}
	}
	return nil
}

func (f *installation) GetOperation(_ context.Context, r *longrunningpb.GetOperationRequest) (*longrunningpb.Operation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	states := f.operations[r.GetName()]
	if len(states) == 0 {
		return nil, fault.New(fault.NotFound, "there is no operation %s", base(r.GetName()))
	}
	last := states[len(states)-1]
	var response proto.Message = &emptypb.Empty{}
	if stack := f.stacks[last.GetTarget()]; stack != nil {
		response = stack
	}
	op := done(response)
	op.Name = r.GetName()
	if last.GetState() == orchestratorv1.OperationState_OPERATION_STATE_RUNNING {
		op.Done, op.Result = false, nil
	}
	if last.GetFault() != nil {
		op.Result = &longrunningpb.Operation_Error{Error: status.Convert(fault.Status(fault.FromProto(last.GetFault()))).Proto()}
	}
	var err error
	op.Metadata, err = anypb.New(last)
	return op, err
}

func (f *installation) ListOperations(ctx context.Context, _ *longrunningpb.ListOperationsRequest) (*longrunningpb.ListOperationsResponse, error) {
	f.mu.Lock()
	names := sortedKeys(f.operations)
	f.mu.Unlock()
	out := &longrunningpb.ListOperationsResponse{}
	for _, name := range names {
		op, err := f.GetOperation(ctx, &longrunningpb.GetOperationRequest{Name: name})
		if err != nil {
			return nil, err
		}
		out.Operations = append(out.Operations, op)
	}
	return out, nil
}

func (f *installation) SkipStep(_ context.Context, r *orchestratorv1.SkipStepRequest) (*orchestratorv1.OperationMetadata, error) {
	return nil, fault.New(fault.Precondition, "step %s is not stuck", r.GetStep())
}

func (f *installation) WatchEvents(r *orchestratorv1.WatchEventsRequest, s grpc.ServerStreamingServer[orchestratorv1.WatchEventsResponse]) error {
	for i := range 2 {
		e := &orchestratorv1.Event{Id: "e", Type: "cloud.weft.network.subnet.ready.v1", Subject: r.GetParent() + "/subnets/web", Sequence: int64(i + 1), Time: timestamppb.New(birth)}
		if err := s.Send(&orchestratorv1.WatchEventsResponse{Event: e}); err != nil {
			return err
		}
	}
	return nil
}

func (f *installation) ListLedgerEntries(_ context.Context, r *orchestratorv1.ListLedgerEntriesRequest) (*orchestratorv1.ListLedgerEntriesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &orchestratorv1.ListLedgerEntriesResponse{}
	for _, name := range sortedKeys(f.resources) {
		if strings.HasPrefix(name, r.GetParent()) {
			out.Entries = append(out.Entries, &participantv1.LedgerEntry{Name: name, Phase: kindv1.Phase_PHASE_READY})
		}
	}
	if r.GetOrphans() {
		out.Unreachable = []*kindv1.Fault{{Kind: "Unavailable", Message: "cloud lab does not answer"}}
	}
	return out, nil
}

// sampleDead are three dead letters: a command, what nobody can read, and an outcome.
func sampleDead() []*orchestratorv1.DeadLetter {
	const rejected, exhausted = orchestratorv1.DeadLetterReason_DEAD_LETTER_REASON_REJECTED, orchestratorv1.DeadLetterReason_DEAD_LETTER_REASON_EXHAUSTED
	origin := &busv1.Origin{Saga: "tenants/demo/operations/apply-shop", Step: "net.subnet"}
	return []*orchestratorv1.DeadLetter{
		{Name: "deadLetters/1", Queue: "cmd_network_normal", Reason: exhausted, Attempts: 5, CreateTime: at(0), Origin: origin, Resource: "tenants/demo/subnets/shop.net.subnet", Type: "network.weft.cloud/Subnet", Action: "ensure"},
		{Name: "deadLetters/2", Queue: "cmd_network_normal", Subject: "elsewhere", Reason: rejected, Attempts: 1, CreateTime: at(1), Unreadable: "the data are no command"},
		{Name: "deadLetters/3", Queue: "out", Reason: rejected, Attempts: 1, CreateTime: at(2), Origin: origin, Result: busv1.Result_RESULT_READY},
	}
}

// ListDeadLetters gives one letter a page, so that a client must turn pages. It knows one filter only.
func (f *installation) ListDeadLetters(_ context.Context, r *orchestratorv1.ListDeadLettersRequest) (*orchestratorv1.ListDeadLettersResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &orchestratorv1.ListDeadLettersResponse{}
	for _, l := range f.dead {
		if l.GetName() <= r.GetPageToken() || r.GetFilter() != "" && r.GetFilter() != `queue == "`+l.GetQueue()+`"` {
			continue
		}
		if len(out.GetDeadLetters()) > 0 {
			out.NextPageToken = out.GetDeadLetters()[0].GetName()
			break
		}
		out.DeadLetters = append(out.DeadLetters, proto.CloneOf(l))
	}
	return out, nil
}

func (f *installation) ResendDeadLetters(_ context.Context, r *orchestratorv1.ResendDeadLettersRequest) (*orchestratorv1.ResendDeadLettersResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &orchestratorv1.ResendDeadLettersResponse{}
	for _, name := range r.GetNames() {
		result := &orchestratorv1.ResendDeadLetterResult{Name: name}
		i := slices.IndexFunc(f.dead, func(l *orchestratorv1.DeadLetter) bool { return l.GetName() == name })
		switch {
		case i < 0:
			result.Fault = &kindv1.Fault{Kind: "NotFound", Message: "there is no dead letter " + base(name)}
		case f.dead[i].GetSubject() == "elsewhere":
			result.Fault = &kindv1.Fault{Kind: "Precondition", Message: "dead letter 2 was sent to elsewhere"}
		case f.dead[i].GetResend() != nil:
			result.Already = true
		default:
			f.dead[i].Resend = &orchestratorv1.DeadLetterResend{Time: timestamppb.Now()}
		}
		if i >= 0 {
			result.DeadLetter = proto.CloneOf(f.dead[i])
		}
		out.Results = append(out.Results, result)
	}
	return out, nil
}

func at(seconds float64) *timestamppb.Timestamp {
	return timestamppb.New(birth.Add(time.Duration(seconds * float64(time.Second))))
}

func samplePlan() *orchestratorv1.Plan {
	return &orchestratorv1.Plan{
		Stack: "tenants/demo/stacks/shop", Unchanged: 5,
		Changes: []*orchestratorv1.ResourceChange{
			{LocalName: "cache", Type: "compute.weft.cloud/Server", Change: kindv1.Change_CHANGE_CREATE, Undo: "delete it", Fields: []*orchestratorv1.FieldChange{{Path: "spec.flavor", NewValue: `"m1.tiny"`}}},
			{LocalName: "web", Type: "container.weft.cloud/Workload", Change: kindv1.Change_CHANGE_IN_PLACE, Undo: "set the former spec again", Fields: []*orchestratorv1.FieldChange{{Path: "spec.replicas", OldValue: "2", NewValue: "3", Change: kindv1.Change_CHANGE_IN_PLACE}}},
			{LocalName: "db", Type: "compute.weft.cloud/Server", Change: kindv1.Change_CHANGE_RESTART, Undo: "resize it back", UndoNotice: "it is interrupted once more", Fields: []*orchestratorv1.FieldChange{{Path: "spec.flavor", OldValue: `"m1.tiny"`, NewValue: `"m1.small"`, Change: kindv1.Change_CHANGE_RESTART}, {Path: "spec.userData"}}},
			{LocalName: "data", Type: "storage.weft.cloud/Volume", Change: kindv1.Change_CHANGE_REPLACE, DataLoss: "what is on the volume is lost, since 2Gi is smaller than 20Gi and the cloud cannot shrink a volume", Undo: "keep the old one", Fields: []*orchestratorv1.FieldChange{{Path: "spec.size", OldValue: `"20Gi"`, NewValue: `"2Gi"`, Change: kindv1.Change_CHANGE_REPLACE}}},
			{LocalName: "an-address-with-a-very-long-name.of-a-child", Type: "network.weft.cloud/FloatingIP", Change: kindv1.Change_CHANGE_DELETE},
		},
		Steps: []*orchestratorv1.StepPreview{
			{Id: "cache", LocalName: "cache", Undo: "delete Server cache", UndoPrecondition: "nothing from outside of the stack is attached to it", UndoDataLoss: "what was written to its own disk meanwhile"},
			{Id: "web", LocalName: "web", Undo: "put back spec.replicas of Workload web", UndoPrecondition: "the former values are still accepted"},
			{Id: "db", LocalName: "db", Undo: "put back spec.flavor and spec.userData of Server db", UndoPrecondition: "the cloud still has room for the former values", UndoNotice: "it is interrupted once more"},
			{Id: "data", LocalName: "data", Undo: "delete the new Volume data", UndoPrecondition: "nothing from outside of the stack is attached to it", UndoDataLoss: "what was written to it meanwhile"},
			{Id: "an-address-with-a-very-long-name.of-a-child", LocalName: "an-address-with-a-very-long-name.of-a-child", Undo: "none: FloatingIP an-address-with-a-very-long-name.of-a-child is deleted only when all else is done, and is then tried until it is gone"},
			{Id: "data/release", LocalName: "data", Undo: "none: the old Volume data is deleted only when all else is done, and is then tried until it is gone"},
		},
		Quotas: []*participantv1.QuotaUse{
			{Cloud: "clouds/lab", Service: "compute", Quota: "cores", Need: 3, Used: 18, Limit: 20},
			{Cloud: "clouds/lab", Service: "network", Quota: "floating_ips", Need: -1, Used: 3, Limit: -1},
		},
	}
}

func sampleRehearsal() *orchestratorv1.Rehearsal {
	undone := func(steps ...string) []*orchestratorv1.RehearsedUndo {
		var out []*orchestratorv1.RehearsedUndo
		for _, s := range steps {
			out = append(out, &orchestratorv1.RehearsedUndo{Step: s})
		}
		return out
	}
	return &orchestratorv1.Rehearsal{
		Plan: samplePlan(), Duration: durationpb.New(4200 * time.Millisecond), Notices: []string{"secret backup: the values of user, password are made up"},
		Runs: []*orchestratorv1.RehearsalRun{
			{Number: 1, Step: "cache", State: orchestratorv1.OperationState_OPERATION_STATE_UNDONE, Undone: undone("db", "cache"), InventoryEqual: true, AsTold: true},
			{Number: 2, Step: "db", State: orchestratorv1.OperationState_OPERATION_STATE_NEEDS_HAND, Undone: undone("cache"), Leftovers: []string{"compute.server 0d4fbc2e-2f8a-4f0e-9c3f-0c51a9b0e2aa shop.db ACTIVE"}, Missing: []string{"volume.volume shop.data available"}, Differences: []string{"the operation ended NEEDS_HAND instead of UNDONE: the flavor is gone"}},
			{State: orchestratorv1.OperationState_OPERATION_STATE_DONE, InventoryEqual: true, AsTold: true},
		},
	}
}

func sampleStack() *orchestratorv1.Stack {
	child := func(local, parent, typ string, phase kindv1.Phase) *orchestratorv1.StackResource {
		return &orchestratorv1.StackResource{LocalName: local, Parent: parent, Type: typ, Cloud: "clouds/lab", CreateTime: at(-30), Status: &kindv1.Status{Phase: phase, ProviderId: "0d4fbc2e-2f8a-4f0e-9c3f-" + base(typ)}}
	}
	s := &orchestratorv1.Stack{
		Name: "tenants/demo/stacks/shop", State: orchestratorv1.StackState_STACK_STATE_READY, Operation: "tenants/demo/operations/apply-shop",
		Metadata: &kindv1.Metadata{CreateTime: at(-40)},
		Resources: []*orchestratorv1.StackResource{
			{LocalName: "net", Type: "network.weft.cloud/PrivateNetwork"},
			child("net.network", "net", "network.weft.cloud/Network", kindv1.Phase_PHASE_READY),
			child("net.subnet", "net", "network.weft.cloud/Subnet", kindv1.Phase_PHASE_READY),
			child("db", "", "compute.weft.cloud/Server", kindv1.Phase_PHASE_FAILED),
		},
	}
	s.Resources[3].Status.Fault = &kindv1.Fault{Kind: "Quota", Message: "the cloud has no host with room for m1.huge"}
	outputs, err := structpb.NewStruct(map[string]any{"url": "http://172.24.4.10:80", "replicas": 2})
	if err != nil {
		panic(err)
	}
	s.Outputs = outputs
	return s
}

func step(id, typ string, change kindv1.Change, state orchestratorv1.StepState, needs ...string) *orchestratorv1.StepStatus {
	s := &orchestratorv1.StepStatus{Id: id, Type: typ, Change: change, State: state, Needs: needs, Attempt: 1}
	if state != orchestratorv1.StepState_STEP_STATE_WAITING {
		s.StartTime = at(0.5)
	}
	if state == orchestratorv1.StepState_STEP_STATE_DONE {
		s.EndTime = at(2)
	}
	return s
}

// sampleOperation is an operation in three states: begun, half way, done.
func sampleOperation(name, target string, action orchestratorv1.Action) []*orchestratorv1.OperationMetadata {
	const waits, runs, ready = orchestratorv1.StepState_STEP_STATE_WAITING, orchestratorv1.StepState_STEP_STATE_RUNNING, orchestratorv1.StepState_STEP_STATE_DONE
	change := kindv1.Change_CHANGE_CREATE
	if action == orchestratorv1.Action_ACTION_DESTROY {
		change = kindv1.Change_CHANGE_DELETE
	}
	state := func(net, subnet, db orchestratorv1.StepState, whole orchestratorv1.OperationState) *orchestratorv1.OperationMetadata {
		return &orchestratorv1.OperationMetadata{
			Name: name, Target: target, Action: action, State: whole, CreateTime: at(0),
			Steps: []*orchestratorv1.StepStatus{
				step("net.network", "network.weft.cloud/Network", change, net),
				step("net.subnet", "network.weft.cloud/Subnet", change, subnet, "net.network"),
				step("db", "compute.weft.cloud/Server", change, db, "net.subnet"),
			},
		}
	}
	half := state(ready, runs, waits, orchestratorv1.OperationState_OPERATION_STATE_RUNNING)
	half.Steps[1].Attempt = 2
	half.Steps[1].Fault = &kindv1.Fault{Kind: "Throttled", Message: "the cloud asks to wait 2s"}
	end := state(ready, ready, ready, orchestratorv1.OperationState_OPERATION_STATE_DONE)
	end.EndTime = at(4)
	return []*orchestratorv1.OperationMetadata{state(runs, waits, waits, orchestratorv1.OperationState_OPERATION_STATE_RUNNING), half, end}
}

// brokenOperation is one that was undone.
func brokenOperation(name, target string) []*orchestratorv1.OperationMetadata {
	states := slices.Clone(sampleOperation(name, target, orchestratorv1.Action_ACTION_APPLY)[:1])
	last := proto.Clone(states[0]).(*orchestratorv1.OperationMetadata)
	last.State, last.EndTime = orchestratorv1.OperationState_OPERATION_STATE_UNDONE, at(3)
	last.Fault = &kindv1.Fault{Kind: "Quota", Message: "create server db: Quota exceeded for cores"}
	last.Steps[0].State = orchestratorv1.StepState_STEP_STATE_UNDONE
	return append(states, last)
}
