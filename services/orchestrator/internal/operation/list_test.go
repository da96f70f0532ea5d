package operation

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/bus/membus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/participant"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/saga"
	"github.com/weftcloud/weft/pkg/service"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/engine"
)

const (
	acme    = "tenants/acme"
	done    = orchestratorv1.OperationState_OPERATION_STATE_DONE
	failed  = orchestratorv1.OperationState_OPERATION_STATE_FAILED
	running = orchestratorv1.OperationState_OPERATION_STATE_RUNNING
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// peer is a connection to a service in the same process, which can be broken.
type peer struct {
	grpc.ClientConnInterface
	service *service.Service
	err     error
}

func (p *peer) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	if p.err != nil {
		return p.err
	}
	if method != longrunningpb.Operations_ListOperations_FullMethodName {
		return status.Errorf(codes.Unimplemented, "%s is not faked", method)
	}
	answer, err := p.service.ListOperations(ctx, args.(*longrunningpb.ListOperationsRequest))
	if err != nil {
		return fault.Status(err)
	}
	proto.Merge(reply.(proto.Message), answer)
	return nil
}

// rig is the operations of three services in one store.
type rig struct {
	*testing.T
	store  *memstore.Store
	server *Server
	peers  map[string]*peer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	kinds, err := resource.Linked()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{T: t, store: memstore.New(), peers: map[string]*peer{}}
	logger := slog.New(slog.DiscardHandler)
	local := func(name string, messages ...proto.Message) *service.Service {
		t.Helper()
		catalog := service.Catalog{Service: name}
		for _, m := range messages {
			catalog.Kinds = append(catalog.Kinds, service.Kind{Message: m, Local: &service.Local{}})
		}
		s, err := service.New(catalog, service.Deps{Store: r.store, Bus: membus.New(), Logger: logger})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	r.peers["network"] = &peer{service: local("network", &networkv1.Network{}, &networkv1.Subnet{})}
	r.peers["storage"] = &peer{service: local("storage", &storagev1.Volume{})}
	r.server = &Server{
		Engine: engine.New(engine.Config{Store: r.store, Kinds: kinds, Logger: logger, Now: func() time.Time { return noon }}), Kinds: kinds,
		Own:   local("orchestrator", &orchestratorv1.Secret{}),
		Peers: service.Peers{"network": r.peers["network"], "storage": r.peers["storage"]},
		Stack: func(context.Context, string) (*orchestratorv1.Stack, error) {
			return nil, fault.New(fault.NotFound, "no stack")
		},
	}
	return r
}

// saga keeps a saga as the engine does.
func (r *rig) saga(id string, state orchestratorv1.OperationState, steps ...string) string {
	r.Helper()
	name := acme + "/operations/" + id
	p := &orchestratorv1.SagaPlan{Name: name, Stack: acme + "/stacks/shop", Action: orchestratorv1.Action_ACTION_APPLY}
	s := &orchestratorv1.SagaState{State: state}
	for _, step := range steps {
		p.Steps = append(p.Steps, &orchestratorv1.PlannedStep{Id: step})
		s.Steps = append(s.Steps, &orchestratorv1.StepRecord{State: orchestratorv1.StepState_STEP_STATE_DONE})
	}
	hot := "/weft/orchestrator/s/" + strconv.Itoa(bus.ShardOf(p.GetStack())) + "/" + name + "/state"
	kept := map[string]proto.Message{"/weft/orchestrator/p/" + name: p, hot: s}
	if saga.Ended(s) {
		kept = map[string]proto.Message{"/weft/orchestrator/f/" + name: &orchestratorv1.SagaSummary{Operation: engine.View(p, s)}}
	}
	for key, m := range kept {
		raw, err := proto.Marshal(m)
		if err != nil {
			r.Fatal(err)
		}
		if _, err := r.store.Txn(r.Context(), nil, []store.Op{{Key: key, Value: raw}}); err != nil {
			r.Fatal(err)
		}
	}
	return name
}

// single keeps a resource, of a stack or alone, and gives the name of its last change's operation.
func (r *rig) single(s *service.Service, name, stack string, m proto.Message, phase kindv1.Phase) string {
	r.Helper()
	object := resource.Wrap(m)
	object.SetName(name)
	object.Metadata().Key, object.Metadata().Stack = "key-of-"+name[strings.LastIndexByte(name, '/')+1:], stack
	kind, parsed, err := r.server.Kinds.Of(name)
	if err != nil {
		r.Fatal(err)
	}
	e := participant.NewEntry(s.Book(), kind, object, noon)
	participant.SetPhase(e, phase, noon)
	if phase == kindv1.Phase_PHASE_READY {
		e.Object.Status().ObservedGeneration = 1
	}
	if err := s.Book().Add(r.Context(), e, record.Notice{}); err != nil {
		r.Fatal(err)
	}
	return fmt.Sprintf("%s/operations/%s.%s.%s.%s.1", acme, kind.Service, kind.Collection, parsed.ID, object.Metadata().GetKey())
}

// filled gives a rig with operations of all sorts, and their names in the order of a list.
func filled(t *testing.T) (*rig, []string) {
	r := newRig(t)
	ready, bad := kindv1.Phase_PHASE_READY, kindv1.Phase_PHASE_FAILED
	network, storage := r.peers["network"].service, r.peers["storage"].service
	want := []string{
		r.saga("03", running, "db"), r.saga("02", failed, "db"), r.saga("01", done, "db"),
		r.single(r.server.Own, acme+"/secrets/s", "", &orchestratorv1.Secret{}, ready),
		r.single(network, acme+"/networks/a", "", &networkv1.Network{}, ready),
		r.single(network, acme+"/networks/b.c", "", &networkv1.Network{}, bad),
		r.single(network, acme+"/subnets/a", "", &networkv1.Subnet{}, kindv1.Phase_PHASE_CREATING),
		r.single(storage, acme+"/volumes/v", "", &storagev1.Volume{}, ready),
	}
	r.single(network, acme+"/networks/shop.net", acme+"/stacks/shop", &networkv1.Network{}, ready)
	return r, want
}

// list reads all pages of a size.
func (r *rig) list(size int32, filter string) []string {
	r.Helper()
	var names []string
	for token, pages := "", 0; ; pages++ {
		page, err := r.server.ListOperations(r.Context(), &longrunningpb.ListOperationsRequest{Name: acme, PageSize: size, PageToken: token, Filter: filter})
		if err != nil {
			r.Fatal(err)
		}
		if size > 0 && len(page.GetOperations()) > int(size) || pages > 20 {
			r.Fatalf("page %d has %d operations", pages, len(page.GetOperations()))
		}
		for _, op := range page.GetOperations() {
			names = append(names, op.GetName())
		}
		if token = page.GetNextPageToken(); token == "" {
			return names
		}
	}
}

// TestListInPages: sagas and single changes come each once, whatever the size of the pages. What belongs to a stack is
// in its sagas already.
func TestListInPages(t *testing.T) {
	r, want := filled(t)
	for size := range int32(10) {
		if diff := cmp.Diff(want, r.list(size, "")); diff != "" {
			t.Errorf("pages of %d (-want +got):\n%s", size, diff)
		}
	}
	other, err := r.server.ListOperations(t.Context(), &longrunningpb.ListOperationsRequest{Name: "tenants/other"})
	if err != nil || len(other.GetOperations()) != 0 {
		t.Errorf("another tenant's: %v, %v", other, err)
	}
}

func TestListWithFilter(t *testing.T) {
	r, all := filled(t)
	pick := func(at ...int) []string {
		var out []string
		for _, i := range at {
			out = append(out, all[i])
		}
		return out
	}
	for filter, want := range map[string][]string{
		`state == "FAILED"`:             pick(1, 5),
		`state == "RUNNING"`:            pick(0, 6),
		`target.contains("/networks/")`: pick(4, 5),
		`action == "APPLY"`:             pick(0, 1, 2),
		`state == "CANCELLED"`:          nil,
	} {
		for _, size := range []int32{0, 1, 2} {
			if diff := cmp.Diff(want, r.list(size, filter)); diff != "" {
				t.Errorf("%s in pages of %d (-want +got):\n%s", filter, size, diff)
			}
		}
	}
}

// TestListWhileItGrows: what comes between two pages neither hides nor doubles what was there.
func TestListWhileItGrows(t *testing.T) {
	r, want := filled(t)
	var names []string
	token := ""
	for n := 0; ; n++ {
		page, err := r.server.ListOperations(t.Context(), &longrunningpb.ListOperationsRequest{Name: acme, PageSize: 1, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range page.GetOperations() {
			names = append(names, op.GetName())
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
		r.saga(fmt.Sprintf("1%02d", n), running)
		r.single(r.peers["network"].service, fmt.Sprintf("%s/networks/a%02d", acme, n), "", &networkv1.Network{}, kindv1.Phase_PHASE_READY)
	}
	for _, name := range want {
		if n := len(slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s != name })); n != 1 {
			t.Errorf("%s was listed %d times", name, n)
		}
	}
}

// TestListWithoutAService: a list that lacks a service is an error, unless the caller wants it all the same; then it says
// what it lacks.
func TestListWithoutAService(t *testing.T) {
	r, want := filled(t)
	r.peers["network"].err = status.Error(codes.Unavailable, "connection refused")
	if _, err := r.server.ListOperations(t.Context(), &longrunningpb.ListOperationsRequest{Name: acme}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want Unavailable", err)
	}
	page, err := r.server.ListOperations(t.Context(), &longrunningpb.ListOperationsRequest{Name: acme, ReturnPartialSuccess: true})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, op := range page.GetOperations() {
		names = append(names, op.GetName())
	}
	if diff := cmp.Diff(slices.Concat(want[:4], want[7:]), names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"services/network"}, page.GetUnreachable()); diff != "" {
		t.Errorf("unreachable (-want +got):\n%s", diff)
	}
	r.peers["network"].err = status.Error(codes.Internal, "broken")
	if _, err := r.server.ListOperations(t.Context(), &longrunningpb.ListOperationsRequest{Name: acme, ReturnPartialSuccess: true}); !fault.Is(err, fault.Internal) {
		t.Errorf("got %v, want Internal", err)
	}
}

func TestListRefuses(t *testing.T) {
	r, _ := filled(t)
	for name, c := range map[string]struct {
		request *longrunningpb.ListOperationsRequest
		field   string
	}{
		"no tenant":             {&longrunningpb.ListOperationsRequest{Name: "clouds/lab"}, "name"},
		"a token of nothing":    {&longrunningpb.ListOperationsRequest{Name: acme, PageToken: "?"}, "page_token"},
		"a token of no place":   {&longrunningpb.ListOperationsRequest{Name: acme, PageToken: tokenOf("moon", "")}, "page_token"},
		"a token of no record":  {&longrunningpb.ListOperationsRequest{Name: acme, PageToken: tokenOf("network", "?")}, "page_token"},
		"a filter by no field":  {&longrunningpb.ListOperationsRequest{Name: acme, Filter: `colour == "red"`}, "filter"},
		"a filter of no choice": {&longrunningpb.ListOperationsRequest{Name: acme, Filter: `target`}, "filter"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := r.server.ListOperations(t.Context(), c.request); !fault.Is(err, fault.Invalid) || fault.Field(err) != c.field {
				t.Errorf("got %v (field %q), want Invalid in %s", err, fault.Field(err), c.field)
			}
		})
	}
}

// TestWhatIsOver: an operation that has ended says so, and a step that there is not is told from those that there are.
func TestWhatIsOver(t *testing.T) {
	r := newRig(t)
	ended := r.saga("01", orchestratorv1.OperationState_OPERATION_STATE_UNDONE, "net.network", "db")
	single := r.single(r.server.Own, acme+"/secrets/s", "", &orchestratorv1.Secret{}, kindv1.Phase_PHASE_READY)
	going := r.single(r.server.Own, acme+"/secrets/t", "", &orchestratorv1.Secret{}, kindv1.Phase_PHASE_CREATING)
	cancel := func(name string) error {
		_, err := r.server.CancelOperation(t.Context(), &longrunningpb.CancelOperationRequest{Name: name})
		return err
	}
	retry := func(name, step string) error {
		_, err := r.server.RetryStep(t.Context(), &orchestratorv1.RetryStepRequest{Name: name, Step: step})
		return err
	}
	for name, c := range map[string]struct {
		err  error
		kind fault.Kind
		says string
	}{
		"cancel what has ended":             {cancel(ended), fault.Precondition, "has already ended as UNDONE"},
		"cancel a single change that ended": {cancel(single), fault.Precondition, "has already ended as DONE"},
		"cancel a single change":            {cancel(going), fault.Unsupported, "delete the resource instead"},
		"cancel nothing":                    {cancel(acme + "/operations/none"), fault.NotFound, "does not exist"},
		"retry no step":                     {retry(ended, "dbx"), fault.NotFound, `has no step "dbx"; its steps are net.network, db`},
		"retry what has ended":              {retry(ended, "db"), fault.Precondition, "has already ended as UNDONE"},
		"retry a single change":             {retry(single, ""), fault.Unsupported, "change of a single resource"},
	} {
		if !fault.Is(c.err, c.kind) || !strings.Contains(c.err.Error(), c.says) {
			t.Errorf("%s: %v, want %s with %q", name, c.err, c.kind, c.says)
		}
	}
}
