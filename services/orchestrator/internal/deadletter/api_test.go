package deadletter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/bus/membus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

const (
	rejected  = orchestratorv1.DeadLetterReason_DEAD_LETTER_REASON_REJECTED
	exhausted = orchestratorv1.DeadLetterReason_DEAD_LETTER_REASON_EXHAUSTED
	keyOfWeb  = "0198f3a0-0000-7000-8000-000000000001"
)

var (
	noon     = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	commands = bus.CommandQueue("network", bus.PriorityNormal)
	subject  = bus.CommandSubject("network", bus.PriorityNormal, "acme", "subnets")
	origin   = &busv1.Origin{Saga: "tenants/acme/operations/op", Step: "net.subnet", Direction: busv1.Direction_DIRECTION_DO, Attempt: 2, Epoch: 3}
)

// rig is a server on a bus and a store in memory, called by an operator.
type rig struct {
	*testing.T
	ctx    context.Context
	bus    *membus.Bus
	store  *memstore.Store
	server *Server
	now    time.Time
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, bus: membus.New(), now: noon}
	r.ctx = auth.NewContext(t.Context(), auth.Identity{Class: auth.Operator, Name: "root"})
	r.store = memstore.NewWith(memstore.Options{Now: func() time.Time { return r.now }})
	r.server = &Server{
		Bus: r.bus, Store: r.store, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return r.now },
		Unfinished: func(_ context.Context, saga string) (bool, error) { return saga == origin.GetSaga(), nil },
	}
	return r
}

func (r *rig) encode(m proto.Message) []byte {
	r.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		r.Fatal(err)
	}
	return data
}

// bury puts messages among the dead letters, as a bus does.
func (r *rig) bury(queue bus.Queue, reason string, messages ...bus.Message) {
	r.Helper()
	for i, m := range messages {
		d := bus.Delivery{Message: m, Sequence: uint64(i + 1), Time: time.Now(), Attempt: 5}
		if err := r.bus.Publish(r.ctx, bus.DeadLetter(queue, d, reason)); err != nil {
			r.Fatal(err)
		}
	}
}

func (r *rig) list(request *orchestratorv1.ListDeadLettersRequest) *orchestratorv1.ListDeadLettersResponse {
	r.Helper()
	out, err := r.server.ListDeadLetters(r.ctx, request)
	if err != nil {
		r.Fatal(err)
	}
	return out
}

func (r *rig) resend(names ...string) []*orchestratorv1.ResendDeadLetterResult {
	r.Helper()
	out, err := r.server.ResendDeadLetters(r.ctx, &orchestratorv1.ResendDeadLettersRequest{Names: names})
	if err != nil {
		r.Fatal(err)
	}
	return out.GetResults()
}

// waiting gives how many commands wait for the network service.
func (r *rig) waiting() int { return r.bus.Pending(commands.Stream) }

func command(id string) bus.Message {
	return bus.Message{Subject: subject, ID: id, Header: map[string]string{"traceparent": "00-1-2-00"}, Data: []byte("\xff" + id)}
}

func TestListShowsWhatALetterIsAbout(t *testing.T) {
	r := newRig(t)
	secret, err := anypb.New(timestamppb.New(noon))
	if err != nil {
		t.Fatal(err)
	}
	secret.Value = []byte("hunter2")
	ensure := &busv1.Command{
		Origin: origin, Name: "tenants/acme/subnets/web", Type: "network.weft.cloud/Subnet", Key: keyOfWeb,
		Action: &busv1.Command_Ensure{Ensure: &busv1.Ensure{Spec: secret, Labels: map[string]string{"password": "hunter2"}}},
	}
	release := &busv1.Command{Origin: origin, Name: "tenants/acme/subnets/web", Type: "network.weft.cloud/Subnet", Key: keyOfWeb, Action: &busv1.Command_Release{}}
	outcome := &busv1.Outcome{Origin: origin, Key: keyOfWeb, Result: busv1.Result_RESULT_READY, ProviderId: "hunter2", Observed: secret}
	out := bus.OutcomeSubject(3, "op")
	r.bury(commands, bus.DeadRejected,
		bus.Message{Subject: subject, ID: "a", Data: r.encode(ensure)}, bus.Message{Subject: subject, ID: "b", Data: r.encode(release)},
		bus.Message{Subject: subject, ID: "c", Data: []byte("hunter2")}, bus.Message{Subject: "elsewhere", ID: "\xff"})
	r.bury(bus.OutcomeQueue(), bus.DeadExhausted, bus.Message{Subject: out, ID: "d", Data: r.encode(outcome)}, bus.Message{Subject: out, ID: "e", Data: []byte("hunter2")})

	want := []*orchestratorv1.DeadLetter{
		{Name: "deadLetters/1", Queue: commands.Name, Subject: subject, MessageId: "a", Reason: rejected, Origin: origin, Resource: ensure.GetName(), Type: ensure.GetType(), Key: keyOfWeb, Action: "ensure"},
		{Name: "deadLetters/2", Queue: commands.Name, Subject: subject, MessageId: "b", Reason: rejected, Origin: origin, Resource: ensure.GetName(), Type: ensure.GetType(), Key: keyOfWeb, Action: "release"},
		{Name: "deadLetters/3", Queue: commands.Name, Subject: subject, MessageId: "c", Reason: rejected, Unreadable: "the data are no command"},
		{Name: "deadLetters/4", Queue: commands.Name, Subject: "elsewhere", MessageId: "\uFFFD", Reason: rejected, Unreadable: "it does not say that it was sent as a command or an outcome"},
		{Name: "deadLetters/5", Queue: "out", Subject: out, MessageId: "d", Reason: exhausted, Origin: origin, Key: keyOfWeb, Result: busv1.Result_RESULT_READY},
		{Name: "deadLetters/6", Queue: "out", Subject: out, MessageId: "e", Reason: exhausted, Unreadable: "the data are no outcome"},
	}
	for _, w := range want {
		w.Attempts = 5
	}
	got := r.list(&orchestratorv1.ListDeadLettersRequest{})
	if diff := cmp.Diff(want, got.GetDeadLetters(), protocmp.Transform(), protocmp.IgnoreFields(&orchestratorv1.DeadLetter{}, "create_time", "data_bytes")); diff != "" {
		t.Errorf("letters (-want +got):\n%s", diff)
	}
	for _, l := range got.GetDeadLetters() {
		if l.GetCreateTime().AsTime().Before(time.Now().Add(-time.Hour)) {
			t.Errorf("%s came at %s", l.GetName(), l.GetCreateTime().AsTime())
		}
	}
	if n := got.GetDeadLetters()[2].GetDataBytes(); n != 7 {
		t.Errorf("the third has %d bytes, want 7", n)
	}
	text, err := protojson.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte("hunter2")) || bytes.Contains(text, []byte("aHVudGVyM")) {
		t.Errorf("the list shows what is secret: %s", text)
	}
}

func TestListTurnsPages(t *testing.T) {
	r := newRig(t)
	for i := range 7 {
		queue := commands
		if i%2 == 1 {
			queue = bus.CommandQueue("network", bus.PriorityUndo)
		}
		m := command(fmt.Sprint(i + 1))
		r.bury(queue, bus.DeadRejected, m)
	}
	tests := map[string]struct {
		filter string
		size   int32
		want   []string
	}{
		"all on one":        {"", 0, []string{"1 2 3 4 5 6 7"}},
		"pages of three":    {"", 3, []string{"1 2 3", "4 5 6", "7"}},
		"the last is full":  {"", 7, []string{"1 2 3 4 5 6 7"}},
		"of one queue":      {`queue == "cmd_network_undo"`, 2, []string{"2 4", "6"}},
		"for one reason":    {`reason == "REJECTED" && subject.startsWith("weft.cmd.network.")`, 4, []string{"1 2 3 4", "5 6 7"}},
		"what cannot match": {`type == "network.weft.cloud/Subnet" || origin.saga != ""`, 0, []string{""}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			request := &orchestratorv1.ListDeadLettersRequest{PageSize: test.size, Filter: test.filter}
			for len(got) < 10 {
				page := r.list(request)
				var ids []string
				for _, l := range page.GetDeadLetters() {
					ids = append(ids, strings.TrimPrefix(l.GetName(), collection))
				}
				got = append(got, strings.Join(ids, " "))
				if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
					break
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("pages (-want +got):\n%s", diff)
			}
		})
	}
	for name, request := range map[string]*orchestratorv1.ListDeadLettersRequest{
		"page_token": {PageToken: "nonsense"}, "filter": {Filter: "colour == 1"},
	} {
		_, err := r.server.ListDeadLetters(r.ctx, request)
		if !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
}

func TestListThatIsCutShortIsAnError(t *testing.T) {
	r := newRig(t)
	r.bury(commands, bus.DeadRejected, command("a"), command("b"))
	ctx, cancel := context.WithCancel(r.ctx)
	r.store.SetFaults(memstore.Faults{After: func(string, string) error { cancel(); return nil }})
	if out, err := r.server.ListDeadLetters(ctx, &orchestratorv1.ListDeadLettersRequest{}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a list of a caller who left: %v, %v; want Unavailable", out, err)
	}
}

// A message that is rejected comes to its receiver again, once, however often it is asked for.
func TestResend(t *testing.T) {
	r := newRig(t)
	if err := r.bus.Publish(r.ctx, command("first")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.ctx)
	came := make(chan bus.Delivery, 10)
	var running sync.WaitGroup
	running.Go(func() {
		err := r.bus.Consume(ctx, commands, 1, func(_ context.Context, d bus.Delivery) bus.Verdict {
			came <- d
			if d.ID == "first" {
				return bus.Reject
			}
			return bus.Ack
		})
		if err != nil {
			t.Error(err)
		}
	})
	defer running.Wait()
	defer cancel()
	<-came
	err := r.bus.Read(r.ctx, bus.DeadFilter, time.Time{}, true, func(bus.Delivery) error { return errEnough }) // it is among the dead
	if !errors.Is(err, errEnough) {
		t.Fatal(err)
	}

	results := r.resend("deadLetters/1", "deadLetters/9")
	again := <-came
	want := command("first")
	want.ID = "first.again.1"
	if diff := cmp.Diff(want, again.Message); diff != "" {
		t.Errorf("what came again (-want +got):\n%s", diff)
	}
	letters := r.list(&orchestratorv1.ListDeadLettersRequest{}).GetDeadLetters()
	if len(letters) != 1 {
		t.Fatalf("%d dead letters, want 1", len(letters))
	}
	resend := &orchestratorv1.DeadLetterResend{Time: timestamppb.New(noon), By: "spiffe://weft/operator/root", MessageId: "first.again.1", LetterTime: letters[0].GetCreateTime()}
	if diff := cmp.Diff(resend, letters[0].GetResend(), protocmp.Transform()); diff != "" {
		t.Errorf("how it was sent again (-want +got):\n%s", diff)
	}
	wantResults := []*orchestratorv1.ResendDeadLetterResult{{Name: "deadLetters/1", DeadLetter: letters[0]}, {Name: "deadLetters/9", Fault: results[1].GetFault()}}
	if diff := cmp.Diff(wantResults, results, protocmp.Transform()); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	if f := results[1].GetFault(); f.GetKind() != string(fault.NotFound) || !strings.Contains(f.GetMessage(), "no dead letter 9") {
		t.Errorf("of one that is not there: %v", f)
	}

	r.now = noon.Add(time.Hour)
	second := r.resend("deadLetters/1")
	if diff := cmp.Diff([]*orchestratorv1.ResendDeadLetterResult{{Name: "deadLetters/1", DeadLetter: letters[0], Already: true}}, second, protocmp.Transform()); diff != "" {
		t.Errorf("the second time (-want +got):\n%s", diff)
	}
	if err := r.bus.Publish(r.ctx, command("last")); err != nil {
		t.Fatal(err)
	}
	if d := <-came; d.ID != "last" {
		t.Errorf("after the second time %q came", d.ID)
	}
}

func TestResendInTheOrderOfDeath(t *testing.T) {
	r := newRig(t)
	r.bury(commands, bus.DeadRejected, command("a"), command("b"), bus.Message{Subject: "elsewhere"}, command("c"))
	results := r.resend("deadLetters/4", "deadLetters/3", "deadLetters/1", "deadLetters/2")
	var names []string
	for _, result := range results {
		names = append(names, result.GetName()+" "+result.GetFault().GetKind())
	}
	if diff := cmp.Diff([]string{"deadLetters/1 ", "deadLetters/2 ", "deadLetters/3 Precondition", "deadLetters/4 "}, names); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	if n := r.waiting(); n != 3 {
		t.Errorf("%d commands wait, want 3", n)
	}
}

func TestResendRefusesWhatIsNoName(t *testing.T) {
	r := newRig(t)
	for _, names := range [][]string{nil, {"1"}, {"deadLetters/0"}, {"deadLetters/01"}, {"deadLetters/x"}, {"tenants/acme"}} {
		if out, err := r.server.ResendDeadLetters(r.ctx, &orchestratorv1.ResendDeadLettersRequest{Names: names}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v, %v; want Invalid", names, out, err)
		}
	}
}

// Whatever goes wrong between publishing and noting it, asking again does no harm, and in the end it is noted.
func TestResendAfterAFault(t *testing.T) {
	broken := func(op string) memstore.Hook {
		return func(got, _ string) error {
			if got == op {
				return fault.New(fault.Unavailable, "the store is away")
			}
			return nil
		}
	}
	tests := map[string]struct {
		faults  memstore.Faults
		refuse  bool
		sent    int
		already bool // what the second asking says
	}{
		"the bus refuses":      {refuse: true},
		"no lease is granted":  {faults: memstore.Faults{Before: broken(memstore.OpGrant)}, sent: 1},
		"it is not noted":      {faults: memstore.Faults{Before: broken(memstore.OpTxn)}, sent: 1},
		"the answer gets lost": {faults: memstore.Faults{After: broken(memstore.OpTxn)}, sent: 1, already: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.bury(commands, bus.DeadRejected, command("a"))
			r.store.SetFaults(test.faults)
			if test.refuse {
				r.bus.SetFate(func(bus.Message) membus.Fate {
					return membus.Fate{Err: fault.New(fault.Throttled, "the stream is full")}
				})
			}
			first := r.resend("deadLetters/1")[0]
			if first.GetFault() == nil || first.GetAlready() || first.GetDeadLetter().GetResend() != nil {
				t.Errorf("with the fault: %v", first)
			}
			if n := r.waiting(); n != test.sent {
				t.Errorf("%d commands wait, want %d", n, test.sent)
			}
			r.store.SetFaults(memstore.Faults{})
			r.bus.SetFate(nil)
			second := r.resend("deadLetters/1")[0]
			if second.GetFault() != nil || second.GetAlready() != test.already || second.GetDeadLetter().GetResend() == nil {
				t.Errorf("without the fault: %v", second)
			}
			if n := r.waiting(); n != 1 {
				t.Errorf("in the end %d commands wait, want 1", n)
			}
		})
	}
}

// Another operator is quicker, after this one has looked and before it has noted what it did.
func TestResendByTwoAtOnce(t *testing.T) {
	r := newRig(t)
	r.bury(commands, bus.DeadRejected, command("a"))
	other := &Server{Bus: r.bus, Store: r.store, Logger: r.server.Logger, Now: r.server.Now, Unfinished: r.server.Unfinished}
	var once sync.Once
	r.store.SetFaults(memstore.Faults{Before: func(op, _ string) error {
		if op != memstore.OpGrant {
			return nil
		}
		var err error
		once.Do(func() {
			r.store.SetFaults(memstore.Faults{})
			_, err = other.ResendDeadLetters(auth.NewContext(t.Context(), auth.Identity{Class: auth.Operator, Name: "quick"}), &orchestratorv1.ResendDeadLettersRequest{Names: []string{"deadLetters/1"}})
		})
		return err
	}})
	result := r.resend("deadLetters/1")[0]
	if result.GetFault() != nil || !result.GetAlready() || !strings.HasSuffix(result.GetDeadLetter().GetResend().GetBy(), "/quick") {
		t.Errorf("the slower one: %v", result)
	}
	if n := r.waiting(); n != 1 {
		t.Errorf("%d commands wait, want 1", n)
	}
}

// A stream that was lost and made anew gives the number again: what is known of the old letter does not hold for the new.
func TestFactOfALostStreamDoesNotCount(t *testing.T) {
	r := newRig(t)
	old := &orchestratorv1.DeadLetterResend{Time: timestamppb.New(noon), LetterTime: timestamppb.New(noon.Add(-24 * time.Hour))}
	if _, err := r.store.Txn(t.Context(), nil, []store.Op{{Key: key(1), Value: r.encode(old)}}); err != nil {
		t.Fatal(err)
	}
	r.bury(commands, bus.DeadRejected, command("a"))
	if letter := r.list(&orchestratorv1.ListDeadLettersRequest{}).GetDeadLetters()[0]; letter.GetResend() != nil {
		t.Errorf("the new letter seems to be sent again: %v", letter.GetResend())
	}
	if result := r.resend("deadLetters/1")[0]; result.GetAlready() || result.GetFault() != nil || r.waiting() != 1 {
		t.Errorf("sending it again: %v; %d commands wait", result, r.waiting())
	}
	if !r.resend("deadLetters/1")[0].GetAlready() {
		t.Error("that it was sent again is not kept over the old fact")
	}
}

func TestFactsLastAsLongAsLetters(t *testing.T) {
	r := newRig(t)
	r.bury(commands, bus.DeadRejected, command("a"))
	r.resend("deadLetters/1")
	for _, test := range []struct {
		after time.Duration
		want  int
	}{{6 * 24 * time.Hour, 1}, {8 * 24 * time.Hour, 0}} {
		r.now = noon.Add(test.after)
		r.store.Tick()
		if facts, err := r.server.facts(t.Context(), 0); err != nil || len(facts) != test.want {
			t.Errorf("after %s there are %d facts, want %d (%v)", test.after, len(facts), test.want, err)
		}
	}
}

// TestEnsureForAnEndedSagaIsLeft: what it makes nobody would take away. A release does no harm.
func TestEnsureForAnEndedSagaIsLeft(t *testing.T) {
	r := newRig(t)
	over := &busv1.Origin{Saga: "tenants/acme/operations/over", Step: "web"}
	ensure := func(o *busv1.Origin) []byte {
		return r.encode(&busv1.Command{Origin: o, Name: "tenants/acme/subnets/web", Key: keyOfWeb, Action: &busv1.Command_Ensure{Ensure: &busv1.Ensure{}}})
	}
	release := r.encode(&busv1.Command{Origin: over, Name: "tenants/acme/subnets/web", Key: keyOfWeb, Action: &busv1.Command_Release{Release: &busv1.Release{}}})
	r.bury(commands, bus.DeadExhausted, bus.Message{Subject: subject, ID: "a", Data: ensure(over)},
		bus.Message{Subject: subject, ID: "b", Data: ensure(origin)}, bus.Message{Subject: subject, ID: "c", Data: release})
	results := r.resend("deadLetters/1", "deadLetters/2", "deadLetters/3")
	if kind := results[0].GetFault().GetKind(); kind != string(fault.Precondition) || results[1].GetFault() != nil || results[2].GetFault() != nil {
		t.Errorf("results = %v", results)
	}
	if n := r.waiting(); n != 2 {
		t.Errorf("%d commands were sent, want 2", n)
	}
}
