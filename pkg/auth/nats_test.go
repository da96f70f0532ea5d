package auth

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
)

// passport lets connections in by the identity's URI given as user name, with the permissions under test.
type passport struct{}

// Check says whether a connection may come in.
func (passport) Check(c server.ClientAuthentication) bool {
	id, err := ParseIdentity(c.GetOpts().Username)
	if err != nil {
		return false
	}
	publish, subscribe, ok := NATSPermissions(id)
	if !ok {
		return false
	}
	c.RegisterUser(&server.User{Username: id.String(), Permissions: &server.Permissions{
		Publish: &server.SubjectPermission{Allow: publish}, Subscribe: &server.SubjectPermission{Allow: subscribe},
	}})
	return true
}

// startNATS starts a server with the stream of events and one event each of acme and other on it.
func startNATS(t *testing.T) string {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
		CustomClientAuthentication: passport{},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("NATS did not start")
	}
	_, js := connect(t, s.ClientURL(), service)
	ctx := t.Context()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: eventStream, Subjects: []string{"weft.evt.>"}, Storage: jetstream.MemoryStorage}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "CMD_network", Subjects: []string{"weft.cmd.network.>"}, Storage: jetstream.MemoryStorage}); err != nil {
		t.Fatal(err)
	}
	for _, tenant := range []string{"acme", "other"} {
		if _, err := js.Publish(ctx, "weft.evt."+tenant+".network.subnets.ready", []byte(tenant)); err != nil {
			t.Fatal(err)
		}
	}
	return s.ClientURL()
}

func connect(t *testing.T, url string, id Identity) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(url, nats.UserInfo(id.String(), "x"), nats.CustomInboxPrefix(NATSInbox(id)), nats.PermissionErrOnSubscribe(true),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

// read reads up to n messages of a consumer.
func read(t *testing.T, c jetstream.Consumer, n int) []string {
	t.Helper()
	batch, err := c.Fetch(n, jetstream.FetchMaxWait(500*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for msg := range batch.Messages() {
		got = append(got, string(msg.Data()))
	}
	return got
}

func TestNATSTenantReadsItsOwnEvents(t *testing.T) {
	url := startNATS(t)
	for _, id := range []Identity{editor, viewer} {
		_, js := connect(t, url, id)
		ordered, err := js.OrderedConsumer(t.Context(), eventStream, jetstream.OrderedConsumerConfig{
			NamePrefix: NATSConsumer(id), FilterSubjects: []string{"weft.evt.acme.>"}, DeliverPolicy: jetstream.DeliverAllPolicy,
		})
		if err != nil {
			t.Fatalf("%s: ordered consumer: %v", id, err)
		}
		if got := read(t, ordered, 2); !slices.Equal(got, []string{"acme"}) {
			t.Errorf("%s: ordered consumer read %q", id, got)
		}
		own, err := js.CreateConsumer(t.Context(), eventStream, jetstream.ConsumerConfig{
			Name: NATSConsumer(id), FilterSubject: "weft.evt.acme.network.>", AckPolicy: jetstream.AckExplicitPolicy,
		})
		if err != nil {
			t.Fatalf("%s: consumer: %v", id, err)
		}
		if got := read(t, own, 2); !slices.Equal(got, []string{"acme"}) {
			t.Errorf("%s: consumer read %q", id, got)
		}
	}
}

func TestNATSOperatorReadsAll(t *testing.T) {
	_, js := connect(t, startNATS(t), operator)
	c, err := js.OrderedConsumer(t.Context(), eventStream, jetstream.OrderedConsumerConfig{
		NamePrefix: NATSConsumer(operator), FilterSubjects: []string{"weft.evt.>"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, c, 2); !slices.Equal(got, []string{"acme", "other"}) {
		t.Errorf("read %q", got)
	}
}

func TestNATSTenantReadsNothingElse(t *testing.T) {
	url := startNATS(t)
	_, victim := connect(t, url, stranger)
	victimConsumer := NATSConsumer(stranger)
	if _, err := victim.CreateConsumer(t.Context(), eventStream, jetstream.ConsumerConfig{Name: victimConsumer, FilterSubject: "weft.evt.other.>"}); err != nil {
		t.Fatal(err)
	}
	nc, js := connect(t, url, editor)
	mine := NATSConsumer(editor)
	create := func(cfg jetstream.ConsumerConfig) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := js.CreateOrUpdateConsumer(ctx, eventStream, cfg)
			return err
		}
	}
	request := func(subject, payload string) func(context.Context) error {
		return func(ctx context.Context) error { return answered(nc.RequestWithContext(ctx, subject, []byte(payload))) }
	}
	wide := `{"stream_name":"EVT","config":{"name":"` + mine + `","filter_subject":"weft.evt.>","ack_policy":"none"}}`
	several := `{"stream_name":"EVT","config":{"name":"` + mine + `","filter_subjects":["weft.evt.acme.>","weft.evt.other.>"],"ack_policy":"none"}}`
	for name, try := range map[string]func(context.Context) error{
		"another's filter":            create(jetstream.ConsumerConfig{Name: mine, FilterSubject: "weft.evt.other.>"}),
		"wider filter":                create(jetstream.ConsumerConfig{Name: mine, FilterSubject: "weft.evt.>"}),
		"no filter":                   create(jetstream.ConsumerConfig{Name: mine}),
		"several filters":             create(jetstream.ConsumerConfig{Name: mine, FilterSubjects: []string{"weft.evt.acme.>", "weft.evt.other.>"}}),
		"durable of the old API":      request("$JS.API.CONSUMER.DURABLE.CREATE.EVT."+mine, wide),
		"payload beyond the subject":  request("$JS.API.CONSUMER.CREATE.EVT."+mine+".weft.evt.acme.>", wide),
		"filters beyond the subject":  request("$JS.API.CONSUMER.CREATE.EVT."+mine+".weft.evt.acme.>", several),
		"another's consumer's name":   create(jetstream.ConsumerConfig{Name: victimConsumer, FilterSubject: "weft.evt.acme.>"}),
		"pull from another's":         request("$JS.API.CONSUMER.MSG.NEXT.EVT."+victimConsumer, ""),
		"delete another's":            request("$JS.API.CONSUMER.DELETE.EVT."+victimConsumer, ""),
		"list consumers":              request("$JS.API.CONSUMER.NAMES.EVT", ""),
		"subjects of the stream":      request("$JS.API.STREAM.INFO.EVT", `{"subjects_filter":">"}`),
		"get a message by sequence":   request("$JS.API.STREAM.MSG.GET.EVT", `{"seq":2}`),
		"get a message directly":      request("$JS.API.DIRECT.GET.EVT", `{"seq":2}`),
		"purge the stream":            request("$JS.API.STREAM.PURGE.EVT", ""),
		"publish an event":            request("weft.evt.acme.network.subnets.ready", "{}"),
		"publish a command":           request("weft.cmd.network.undo.acme.subnets", "{}"),
		"make a stream of one's own":  request("$JS.API.STREAM.CREATE.MINE", `{"name":"MINE","subjects":["mine"],"sources":[{"name":"EVT"}]}`),
		"the consumer of commands":    request("$JS.API.CONSUMER.CREATE.CMD_network."+mine+".weft.cmd.network.>", `{}`),
		"information of the account":  request("$JS.API.INFO", ""),
		"subscribe to another's":      subscribed(nc, "weft.evt.other.>"),
		"subscribe to all":            subscribed(nc, ">"),
		"subscribe to commands":       subscribed(nc, "weft.cmd.>"),
		"subscribe to another's box":  subscribed(nc, NATSInbox(stranger)+".>"),
		"subscribe to the common box": subscribed(nc, "_INBOX.>"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
			defer cancel()
			if err := try(ctx); err == nil {
				t.Error("it was let in")
			}
		})
	}
}

// answered turns an answer of the JetStream API that is a refusal into an error.
func answered(msg *nats.Msg, err error) error {
	if err != nil {
		return err
	}
	if slices.Contains([]string{"404", "408", "409", "503"}, msg.Header.Get("Status")) || bytes.Contains(msg.Data, []byte(`"error":`)) {
		return errors.New(string(msg.Data))
	}
	return nil
}

// subscribed tries a subscription and reports the server's refusal.
func subscribed(nc *nats.Conn, subject string) func(context.Context) error {
	return func(ctx context.Context) error {
		sub, err := nc.SubscribeSync(subject)
		if err != nil {
			return err
		}
		if err := nc.FlushWithContext(ctx); err != nil {
			return err
		}
		_, err = sub.NextMsgWithContext(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			return nil // no refusal came: the subscription stands
		}
		return err
	}
}

// TestNATSTenantCannotCommandThroughReplies: an answer goes where the asker says, past the asker's own permissions (see
// nats.go). It must not work as a request to JetStream, and what reaches a command's subject must be no command.
func TestNATSTenantCannotCommandThroughReplies(t *testing.T) {
	url := startNATS(t)
	nc, js := connect(t, url, editor)
	own := NATSConsumer(editor)
	if _, err := js.CreateConsumer(t.Context(), eventStream, jetstream.ConsumerConfig{Name: own, FilterSubject: "weft.evt.acme.>"}); err != nil {
		t.Fatal(err)
	}
	const command = "weft.cmd.network.undo.acme.subnets"
	for _, target := range []string{"$JS.API.STREAM.DELETE.EVT", "$JS.API.STREAM.PURGE.EVT", "$JS.API.STREAM.DELETE.CMD_network", command} {
		for _, ask := range []string{"INFO", "MSG.NEXT"} {
			if err := nc.PublishRequest("$JS.API.CONSUMER."+ask+".EVT."+own, target, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	_, platform := connect(t, url, service)
	commands, err := platform.CreateConsumer(t.Context(), "CMD_network", jetstream.ConsumerConfig{Name: "all", FilterSubject: "weft.cmd.network.>"})
	if err != nil {
		t.Fatalf("the stream of commands: %v", err)
	}
	for _, data := range read(t, commands, 2) {
		if err := proto.Unmarshal([]byte(data), &busv1.Command{}); err == nil {
			t.Errorf("%q reads as a command", data)
		}
	}
	events, err := platform.Stream(t.Context(), eventStream)
	if err != nil || events.CachedInfo().State.Msgs != 2 {
		t.Errorf("the stream of events: %v", err)
	}
}
