package service

import (
	"context"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// compositeBackend serves a composite kind. One that is made by this API is alone: a stack of its own that holds just the
// one resource. The stack is called {singular}-{id}, the resource in it {id}, so that the planner, the saga and the ledger
// know only stacks. One that a person's stack holds is called {stack}.{resource}, so a dot in the id tells the two apart;
// the orchestrator says how it stands, and only the stack's document can change it.
type compositeBackend struct {
	service *Service
	kind    *resource.Kind
}

func (b *compositeBackend) stacks() orchestratorv1.StackServiceClient {
	return orchestratorv1.NewStackServiceClient(b.service.deps.Peers["orchestrator"])
}

func (b *compositeBackend) orchestrator() participantv1.ParticipantServiceClient {
	return participantv1.NewParticipantServiceClient(b.service.deps.Peers["orchestrator"])
}

func (b *compositeBackend) prefix() string { return stackPrefix(b.kind) }

func stackPrefix(kind *resource.Kind) string { return strings.ToLower(kind.Singular) + "-" }

// Alone gives the composite resource that a stack was made for by the resource's own API; nil if the stack is a
// person's.
func Alone(kinds *resource.Registry, st *orchestratorv1.Stack) (proto.Message, error) {
	n, err := resource.ParseName(st.GetName())
	if err != nil {
		return nil, err
	}
	for _, kind := range kinds.Kinds() {
		id, alike := strings.CutPrefix(n.ID, stackPrefix(kind))
		if !kind.Options.GetComposite() || !alike {
			continue
		}
		m, err := aloneIn(kind, kind.FullName(n.Tenant, id), st)
		if fault.Is(err, fault.NotFound) {
			continue // a stack of a person that is called alike
		}
		return m, err
	}
	return nil, nil
}

func (b *compositeBackend) stackName(name string) (string, error) {
	n, err := resource.ParseName(name)
	if err != nil {
		return "", err
	}
	return resource.Name{Tenant: n.Tenant, Collection: "stacks", ID: b.prefix() + n.ID}.String(), nil
}

// document gives the stack that holds one resource. Every output of the kind becomes an output of the stack.
func (b *compositeBackend) document(object resource.Object) (string, error) {
	n, err := resource.ParseName(object.Name())
	if err != nil {
		return "", err
	}
	spec, err := resource.ToStruct(object.Spec())
	if err != nil {
		return "", err
	}
	outputs := map[string]any{}
	fields := b.kind.Observed.Fields()
	for i := range fields.Len() {
		f := string(fields.Get(i).Name())
		outputs[f] = "${" + strings.ReplaceAll(n.ID, "-", "_") + "." + f + "}"
	}
	labels := map[string]any{}
	for k, v := range object.Metadata().GetLabels() {
		labels[k] = v
	}
	doc, err := structpb.NewStruct(map[string]any{
		"kind": "Stack", "name": b.prefix() + n.ID, "placement": map[string]any{"cloud": strings.TrimPrefix(object.Cloud(), "clouds/")},
		"resources": map[string]any{n.ID: map[string]any{"kind": b.kind.Name, "spec": spec.AsMap(), "labels": labels}},
		"outputs":   outputs,
	})
	if err != nil {
		return "", fault.As(fault.Internal, fault.Wrap(err, "write the stack of %s", object.Name()))
	}
	text, err := protojson.Marshal(doc)
	if err != nil {
		return "", fault.As(fault.Internal, fault.Wrap(err, "write the stack of %s", object.Name()))
	}
	return string(text), nil
}

func (b *compositeBackend) apply(ctx context.Context, object resource.Object) (proto.Message, error) {
	text, err := b.document(object)
	if err != nil {
		return nil, err
	}
	op, err := b.stacks().ApplyStack(ctx, &orchestratorv1.ApplyStackRequest{
		Parent: "tenants/" + resource.TenantOf(object.Name()), Document: text, DocumentName: object.Name(),
	})
	if err != nil {
		return nil, err
	}
	return op, nil
}

func (b *compositeBackend) create(ctx context.Context, object resource.Object, validateOnly bool) (proto.Message, error) {
	if _, err := b.get(ctx, object.Name()); err == nil {
		return nil, fault.New(fault.Exists, "%s exists already", object.Name())
	} else if !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	if inStack(object.Name()) {
		return nil, fault.New(fault.Invalid, "%s cannot be created: a dot is for what stacks hold, {stack}.{resource}; choose a name without one", object.Name())
	}
	if !validateOnly {
		return b.apply(ctx, object)
	}
	return nil, fault.New(fault.Unsupported, "validate_only: use PlanStack with a document that holds the %s", b.kind.Name)
}

// inStack tells whether a name is that of a resource that a person's stack holds.
func inStack(name string) bool {
	return strings.Contains(name[strings.LastIndexByte(name, '/')+1:], ".")
}

func (b *compositeBackend) update(ctx context.Context, object resource.Object, mask *fieldmaskpb.FieldMask) (proto.Message, error) {
	former, err := b.open(ctx, object.Name(), object.Metadata().GetEtag())
	if err != nil {
		return nil, err
	}
	next, err := merge(resource.Wrap(former), object, mask)
	if err != nil {
		return nil, err
	}
	if f := immutable(resource.Wrap(former).Spec(), next.Spec()); f != "" {
		return nil, fault.InField("spec."+f, "it cannot be changed in place; create another %s", b.kind.Name)
	}
	return b.apply(ctx, next)
}

// open reads a resource that a client wants to change itself, as recordBackend.open does.
func (b *compositeBackend) open(ctx context.Context, name, etag string) (proto.Message, error) {
	m, err := b.get(ctx, name)
	if err != nil {
		return nil, err
	}
	meta := resource.Wrap(m).Metadata()
	if etag != "" && etag != meta.GetEtag() {
		return nil, fault.New(fault.Conflict, "%s was changed since it was read; read it again", name)
	}
	if inStack(name) {
		return nil, fault.New(fault.Precondition, "%s belongs to %s; change the stack's document and apply it", name, meta.GetStack())
	}
	return m, nil
}

func (b *compositeBackend) get(ctx context.Context, name string) (proto.Message, error) {
	if inStack(name) {
		return b.held(ctx, name)
	}
	stack, err := b.stackName(name)
	if err != nil {
		return nil, err
	}
	st, err := b.stacks().GetStack(ctx, &orchestratorv1.GetStackRequest{Name: stack})
	if err != nil {
		if fault.Is(fault.FromStatus(err), fault.NotFound) {
			return nil, fault.New(fault.NotFound, "%s does not exist", name)
		}
		return nil, fault.FromStatus(err)
	}
	return aloneIn(b.kind, name, st)
}

// held asks the orchestrator for a resource that a person's stack holds.
func (b *compositeBackend) held(ctx context.Context, name string) (proto.Message, error) {
	answer, err := b.orchestrator().Resolve(ctx, &participantv1.ResolveRequest{Name: name})
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	m, err := answer.GetResource().UnmarshalNew()
	return m, fault.As(fault.Internal, fault.Wrap(err, "decode %s", name))
}

// phases gives a composite resource's phase by the state of its stack.
var phases = map[orchestratorv1.StackState]kindv1.Phase{
	orchestratorv1.StackState_STACK_STATE_CHANGING: kindv1.Phase_PHASE_UPDATING,
	orchestratorv1.StackState_STACK_STATE_READY:    kindv1.Phase_PHASE_READY,
	orchestratorv1.StackState_STACK_STATE_DEGRADED: kindv1.Phase_PHASE_FAILED,
	orchestratorv1.StackState_STACK_STATE_DELETING: kindv1.Phase_PHASE_RELEASING,
}

// aloneIn gives the resource that a stack holds; NotFound if the stack is a person's.
func aloneIn(kind *resource.Kind, name string, st *orchestratorv1.Stack) (proto.Message, error) {
	n, err := resource.ParseName(name)
	if err != nil {
		return nil, err
	}
	// A person may call a stack alike; then it does not hold just the one resource, written as JSON.
	doc := &structpb.Struct{}
	if err := protojson.Unmarshal([]byte(st.GetDocument()), doc); err != nil {
		return nil, fault.New(fault.NotFound, "%s does not exist", name)
	}
	inner, ok := doc.GetFields()["resources"].GetStructValue().GetFields()[n.ID]
	if !ok || inner.GetStructValue().GetFields()["kind"].GetStringValue() != kind.Name {
		return nil, fault.New(fault.NotFound, "%s does not exist", name)
	}
	spec, err := resource.FromStruct(kind, inner.GetStructValue().GetFields()["spec"].GetStructValue())
	if err != nil {
		return nil, err
	}
	observed := kind.NewObserved()
	outputs, err := protojson.Marshal(st.GetOutputs())
	if err == nil && len(st.GetOutputs().GetFields()) > 0 {
		err = protojson.Unmarshal(outputs, observed)
	}
	if err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "read the outputs of %s", name))
	}
	out := resource.Wrap(kind.New())
	out.SetName(name)
	out.SetCloud("clouds/" + doc.GetFields()["placement"].GetStructValue().GetFields()["cloud"].GetStringValue())
	out.SetSpec(spec)
	out.SetObserved(observed)
	proto.Merge(out.Metadata(), st.GetMetadata())
	out.Metadata().Stack, out.Metadata().Labels = st.GetName(), labelsIn(inner.GetStructValue())
	out.Status().Phase = phases[st.GetState()]
	return out.Message(), nil
}

// labelsIn reads the labels of a resource in the document that was written for it.
func labelsIn(inner *structpb.Struct) map[string]string {
	var out map[string]string
	for k, v := range inner.GetFields()["labels"].GetStructValue().GetFields() {
		if out == nil {
			out = map[string]string{}
		}
		out[k] = v.GetStringValue()
	}
	return out
}

// list looks first which there are, then, for one page of them, how they stand.
func (b *compositeBackend) list(ctx context.Context, tenant, after string, limit int) ([]proto.Message, string, error) {
	all, err := b.alone(ctx, tenant)
	if err != nil {
		return nil, "", err
	}
	ledger, err := b.orchestrator().ListLedger(ctx, &participantv1.ListLedgerRequest{Tenant: "tenants/" + tenant})
	if err != nil {
		return nil, "", fault.FromStatus(err)
	}
	for _, e := range ledger.GetEntries() {
		if e.GetType() == b.kind.Type {
			all[e.GetName()] = nil
		}
	}
	maps.DeleteFunc(all, func(name string, _ proto.Message) bool { return name <= after })
	names, next := slices.Sorted(maps.Keys(all)), ""
	if len(names) > limit {
		names, next = names[:limit], names[limit-1]
	}
	page := make([]proto.Message, len(names))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, name := range names {
		if page[i] = all[name]; page[i] != nil {
			continue
		}
		g.Go(func() error {
			m, err := b.held(ctx, name)
			if fault.Is(err, fault.NotFound) {
				return nil // it has gone since it was listed
			}
			page[i] = m
			return err
		})
	}
	err = g.Wait()
	return slices.DeleteFunc(page, func(m proto.Message) bool { return m == nil }), next, err
}

// alone gives the resources that were made by this API, by name.
func (b *compositeBackend) alone(ctx context.Context, tenant string) (map[string]proto.Message, error) {
	prefix := "tenants/" + tenant + "/stacks/" + b.prefix()
	out := map[string]proto.Message{}
	request := &orchestratorv1.ListStacksRequest{Parent: "tenants/" + tenant, PageSize: largestPage, Filter: `name.startsWith("` + prefix + `")`}
	for {
		page, err := b.stacks().ListStacks(ctx, request)
		if err != nil {
			return nil, fault.FromStatus(err)
		}
		for _, st := range page.GetStacks() {
			name := b.kind.FullName(tenant, strings.TrimPrefix(st.GetName(), prefix))
			m, err := aloneIn(b.kind, name, st)
			if fault.Is(err, fault.NotFound) {
				continue // a stack of a person that is called alike
			}
			if err != nil {
				return nil, err
			}
			out[name] = m
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return out, nil
		}
	}
}

func (b *compositeBackend) remove(ctx context.Context, name, etag string) (proto.Message, error) {
	if _, err := b.open(ctx, name, etag); err != nil {
		return nil, err // a stack that a person called alike is not taken away
	}
	stack, err := b.stackName(name)
	if err != nil {
		return nil, err
	}
	op, err := b.stacks().DeleteStack(ctx, &orchestratorv1.DeleteStackRequest{Name: stack, Etag: etag})
	if err != nil {
		return nil, err
	}
	return op, nil
}
