package e2e

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	"github.com/weftcloud/weft/pkg/auth"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// cloudEvent is one CloudEvent as a subscriber gets it.
type cloudEvent struct {
	ID, Type, Subject string
	Sequence          int64
	Data              map[string]any
}

// reader is a subscriber that reads all events of a tenant from the first.
type reader struct {
	consumer jetstream.Consumer
	events   []cloudEvent
}

func read(t *testing.T, i *story.Installation, contextPath, tenant string) *reader {
	t.Helper()
	conn, id := i.NATS(t, contextPath)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	c, err := js.OrderedConsumer(t.Context(), "EVT", jetstream.OrderedConsumerConfig{
		NamePrefix: auth.NATSConsumer(id), FilterSubjects: []string{"weft.evt." + tenant + ".>"}, DeliverPolicy: jetstream.DeliverAllPolicy,
	})
	if err != nil {
		t.Fatalf("read the events of %s as %s: %s", tenant, id, err)
	}
	return &reader{consumer: c}
}

// until reads on until an event is the last that is awaited.
func (r *reader) until(t *testing.T, what string, last func(cloudEvent) bool) []cloudEvent {
	t.Helper()
	for deadline := time.Now().Add(story.Patience); time.Now().Before(deadline); {
		m, err := r.consumer.Next(jetstream.FetchMaxWait(2 * time.Second))
		if errors.Is(err, nats.ErrTimeout) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		e := decodeEvent(t, m)
		r.events = append(r.events, e)
		if last(e) {
			return r.events
		}
	}
	t.Fatalf("%s did not come; there came %d events: %v", what, len(r.events), r.events)
	return nil
}

func decodeEvent(t *testing.T, m jetstream.Msg) cloudEvent {
	t.Helper()
	header := m.Headers()
	for _, name := range []string{"ce-specversion", "ce-id", "ce-type", "ce-source", "ce-subject", "ce-time", "ce-sequence"} {
		if header.Get(name) == "" {
			t.Errorf("the event on %s has no %s: %v", m.Subject(), name, header)
		}
	}
	e := cloudEvent{ID: header.Get("ce-id"), Type: header.Get("ce-type"), Subject: header.Get("ce-subject")}
	var err error
	if e.Sequence, err = strconv.ParseInt(header.Get("ce-sequence"), 10, 64); err != nil {
		t.Errorf("ce-sequence of %s: %s", e.ID, err)
	}
	if err := json.Unmarshal(m.Data(), &e.Data); err != nil {
		t.Errorf("the data of %s: %s", e.ID, err)
	}
	if e.Data["name"] != e.Subject {
		t.Errorf("the data of %s is of %v, its subject %s", e.ID, e.Data["name"], e.Subject)
	}
	return e
}

// rebuilt is the state that a reader knows when it has applied all events in turn: the last phase or state of what is
// not gone.
func rebuilt(events []cloudEvent) map[string]string {
	out := map[string]string{}
	for _, e := range events {
		if strings.Contains(e.Subject, "/operations/") {
			continue
		}
		if strings.HasSuffix(e.Type, ".deleted.v1") || strings.HasSuffix(e.Type, ".released.v1") {
			delete(out, e.Subject)
			continue
		}
		out[e.Subject] = ""
		if s, ok := e.Data["status"].(map[string]any); ok {
			if phase, ok := s["phase"].(string); ok {
				out[e.Subject] = phase
			}
		}
		if state, ok := e.Data["state"].(string); ok {
			out[e.Subject] = state
		}
	}
	return out
}

// ordered fails the test unless the events of each object come in order and without gaps, and no id comes twice.
func ordered(t *testing.T, events []cloudEvent) {
	t.Helper()
	last, ids := map[string]int64{}, map[string]bool{}
	for _, e := range events {
		if ids[e.ID] {
			t.Errorf("event %s came twice", e.ID)
		}
		ids[e.ID] = true
		object := e.ID[:strings.LastIndexByte(e.ID, '.')]
		if strings.Contains(e.Subject, "/operations/") {
			if e.Sequence <= last[object] {
				t.Errorf("%s: event %d after %d", e.Subject, e.Sequence, last[object])
			}
		} else if former, known := last[object]; e.Sequence != former+1 || !known && e.Sequence != 1 {
			t.Errorf("%s %s: event %d after %d: a gap", e.Subject, e.Type, e.Sequence, former)
		}
		last[object] = e.Sequence
	}
}

// sequences counts the events of each object.
func sequences(events []cloudEvent) map[string]int {
	out := map[string]int{}
	for _, e := range events {
		out[e.Subject]++
	}
	return out
}

func idsOf(events []cloudEvent) []string {
	var out []string
	for _, e := range events {
		out = append(out, e.ID)
	}
	return out
}

// TestEvents reads a tenant's events as a member of the tenant: in order, without gaps, again from the start with the
// same ids also after a kill, and enough to know what stands. Members of another tenant see none of them.
func TestEvents(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	i.Must(t, "tenant", "add", "other")
	member, stranger := i.Identity(t, "default", "anna", "viewer"), i.Identity(t, "other", "bert", "editor")
	live := read(t, i, member, "default")
	stackIs := func(state string) func(cloudEvent) bool {
		return func(e cloudEvent) bool {
			return strings.HasSuffix(e.Subject, "/stacks/shop") && strings.HasSuffix(e.Type, "."+state+".v1")
		}
	}
	i.Apply(t, shop(t), "DONE")
	events := live.until(t, "the stack is ready", stackIs("ready"))
	ordered(t, events)
	stands := rebuilt(events)
	for _, e := range i.Ledger(t).GetEntries() {
		if stands[e.GetName()] != "PHASE_READY" {
			t.Errorf("by the events %s is %q", e.GetName(), stands[e.GetName()])
		}
	}
	if stands["tenants/default/stacks/shop"] != "STACK_STATE_READY" {
		t.Errorf("by the events the stack is %q", stands["tenants/default/stacks/shop"])
	}
	i.Apply(t, strings.Replace(shop(t), "web-replicas: 2", "web-replicas: 1", 1), "DONE")
	i.Destroy(t, "shop", "DONE")
	events = live.until(t, "the stack is gone", stackIs("deleted"))
	ordered(t, events)
	t.Logf("%d events of %d objects", len(events), len(sequences(events)))
	for _, name := range slices.Collect(maps.Keys(rebuilt(events))) {
		if strings.Contains(name, "shop") {
			t.Errorf("by the events %s still stands", name)
		}
	}
	i.Kill(t)
	i.Restart(t)
	again := read(t, i, member, "default").until(t, "the replay", stackIs("deleted"))
	if diff := cmp.Diff(idsOf(events), idsOf(again)[:min(len(again), len(events))]); diff != "" {
		t.Errorf("read again from the start (-first +again):\n%s", diff)
	}
	stranded(t, i, stranger)
}

// stranded fails the test unless a member of another tenant is kept out of a tenant's events.
func stranded(t *testing.T, i *story.Installation, contextPath string) {
	t.Helper()
	conn, id := i.NATS(t, contextPath)
	js, err := jetstream.New(conn, jetstream.WithDefaultTimeout(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for _, filter := range []string{"weft.evt.default.>", "weft.evt.>", "weft.>"} {
		if _, err := js.CreateConsumer(t.Context(), "EVT", jetstream.ConsumerConfig{Name: auth.NATSConsumer(id), FilterSubject: filter}); err == nil {
			t.Errorf("a stranger reads %s", filter)
		}
		if sub, err := conn.SubscribeSync(filter); err == nil {
			if m, err := sub.NextMsg(200 * time.Millisecond); err == nil {
				t.Errorf("a stranger got %s", m.Subject)
			}
		}
	}
	own, err := js.CreateConsumer(t.Context(), "EVT", jetstream.ConsumerConfig{Name: auth.NATSConsumer(id), FilterSubject: "weft.evt.other.>", AckPolicy: jetstream.AckNonePolicy})
	if err != nil {
		t.Fatalf("a member cannot read the own tenant's events: %s", err)
	}
	batch, err := own.FetchNoWait(100)
	if err != nil {
		t.Fatal(err)
	}
	for m := range batch.Messages() {
		if subject := m.Headers().Get("ce-subject"); strings.HasPrefix(subject, "tenants/default") {
			t.Errorf("a stranger got %s", subject)
		}
	}
}

// TestTenants shows that an identity of one tenant gets at nothing of another by gRPC, and that a viewer only views.
func TestTenants(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	i.Must(t, "tenant", "add", "other")
	i.Apply(t, stackOf("mine", fabric), "DONE")
	stranger, viewer := i.Dial(t, i.Identity(t, "other", "bert", "editor")), i.Dial(t, i.Identity(t, "default", "vera", "viewer"))
	since, ctx := i.Cloud.Last(t), t.Context()
	stacks, networks := orchestratorv1.NewStackServiceClient(stranger), networkv1.NewNetworkServiceClient(stranger)
	for what, call := range map[string]func() error{
		"get a stack": func() error {
			_, err := stacks.GetStack(ctx, &orchestratorv1.GetStackRequest{Name: tenant + "/stacks/mine"})
			return err
		},
		"list the stacks": func() error {
			_, err := stacks.ListStacks(ctx, &orchestratorv1.ListStacksRequest{Parent: tenant})
			return err
		},
		"list all tenants' stacks": func() error {
			_, err := stacks.ListStacks(ctx, &orchestratorv1.ListStacksRequest{Parent: "tenants/-"})
			return err
		},
		"apply": func() error {
			_, err := stacks.ApplyStack(ctx, &orchestratorv1.ApplyStackRequest{Parent: tenant, Document: stackOf("theirs", fabric)})
			return err
		},
		"destroy": func() error {
			_, err := stacks.DeleteStack(ctx, &orchestratorv1.DeleteStackRequest{Name: tenant + "/stacks/mine"})
			return err
		},
		"get a network": func() error {
			_, err := networks.GetNetwork(ctx, &networkv1.GetNetworkRequest{Name: tenant + "/networks/mine.net"})
			return err
		},
		"list the networks": func() error {
			_, err := networks.ListNetworks(ctx, &networkv1.ListNetworksRequest{Parent: tenant})
			return err
		},
		"refer to a network": func() error {
			_, err := networkv1.NewSubnetServiceClient(stranger).CreateSubnet(ctx, &networkv1.CreateSubnetRequest{Parent: "tenants/other", SubnetId: "sneaky", Subnet: &networkv1.Subnet{
				Cloud: "clouds/lab", Spec: &networkv1.SubnetSpec{Network: tenant + "/networks/mine.net", Cidr: "10.1.0.0/24"},
			}})
			return err
		},
		"read the ledger": func() error {
			_, err := orchestratorv1.NewLedgerServiceClient(stranger).ListLedgerEntries(ctx, &orchestratorv1.ListLedgerEntriesRequest{Parent: tenant})
			return err
		},
		"read the events": func() error {
			s, err := orchestratorv1.NewEventServiceClient(stranger).WatchEvents(ctx, &orchestratorv1.WatchEventsRequest{Parent: tenant})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"add a tenant": func() error {
			_, err := orchestratorv1.NewTenantServiceClient(stranger).CreateTenant(ctx, &orchestratorv1.CreateTenantRequest{TenantId: "more", Tenant: &orchestratorv1.Tenant{Spec: &orchestratorv1.TenantSpec{}}})
			return err
		},
		"apply as a viewer": func() error {
			_, err := orchestratorv1.NewStackServiceClient(viewer).ApplyStack(ctx, &orchestratorv1.ApplyStackRequest{Parent: tenant, Document: stackOf("viewed", fabric)})
			return err
		},
	} {
		if err := call(); status.Code(err) != codes.PermissionDenied && status.Code(err) != codes.NotFound {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := orchestratorv1.NewStackServiceClient(viewer).GetStack(ctx, &orchestratorv1.GetStackRequest{Name: tenant + "/stacks/mine"}); err != nil {
		t.Errorf("a viewer of the tenant: %s", err)
	}
	if calls := i.Cloud.Mutations(t, since); len(calls) != 0 {
		t.Errorf("what was denied changed something: %v", calls)
	}
}
