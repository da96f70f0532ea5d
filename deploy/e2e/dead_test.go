package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/bus"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// asService connects to NATS as one of the platform's own services, which the CA in the data folder makes possible.
func asService(t *testing.T, i *story.Installation, name string) jetstream.JetStream {
	t.Helper()
	ca, err := auth.OpenCA(filepath.Join(i.Data(), "ca"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(auth.Identity{Class: auth.Service, Name: name}, auth.IssueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := nats.Connect(i.File(t, i.Context()).NATS, nats.Secure(auth.ClientTLS(auth.Static(cert), ca.Pool(), "")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// deadLetters lists the dead letters, newest first.
func deadLetters(t *testing.T, i *story.Installation) []*orchestratorv1.DeadLetter {
	t.Helper()
	out := &orchestratorv1.ListDeadLettersResponse{}
	i.Must(t, "ops", "dead", "-o", "json").Decode(t, out)
	return out.GetDeadLetters()
}

// awaitDead waits until there are so many dead letters.
func awaitDead(t *testing.T, i *story.Installation, n int) []*orchestratorv1.DeadLetter {
	t.Helper()
	var out []*orchestratorv1.DeadLetter
	story.Await(t, "a dead letter", func() bool {
		out = deadLetters(t, i)
		return len(out) == n
	})
	return out
}

// TestDeadLetters sends the network service what nobody can read. Operators find it, send it again, and see that it was,
// also after a crash; what it says is shown to nobody.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	if r := i.Must(t, "ops", "dead"); !strings.Contains(r.Out, "there are no dead letters") {
		t.Errorf("of a new installation: %s", r.Out)
	}
	subject := bus.CommandSubject("network", bus.PriorityNormal, "default", "subnets")
	if _, err := asService(t, i, "orchestrator").Publish(t.Context(), subject, []byte("not a command, but hunter2"), jetstream.WithMsgID("odd")); err != nil {
		t.Fatal(err)
	}
	first := awaitDead(t, i, 1)[0]
	if first.GetUnreadable() == "" || first.GetSubject() != subject || first.GetQueue() != "cmd_network_normal" || first.GetMessageId() != "odd" ||
		first.GetReason() != orchestratorv1.DeadLetterReason_DEAD_LETTER_REASON_REJECTED || first.GetResend() != nil {
		t.Errorf("the letter is %v", first)
	}
	if r := i.Must(t, "ops", "dead"); !strings.Contains(r.Out, "the data are no command") || strings.Contains(r.Out, "hunter2") {
		t.Errorf("the table:\n%s", r.Out)
	}
	member := i.Identity(t, "default", "mia", "editor")
	if r := (<-i.GoAs(t, member, "ops", "dead")).Refused(t); !strings.Contains(r.Err, "is for operators") {
		t.Errorf("a member of a tenant: %s", r.Err)
	}

	i.Must(t, "ops", "dead", "resend", "--all")
	again := awaitDead(t, i, 2) // it is no better than before
	if again[0].GetMessageId() != "odd.again.1" || again[0].GetResend() != nil {
		t.Errorf("what died again is %v", again[0])
	}
	if by := again[1].GetResend().GetBy(); again[1].GetName() != first.GetName() || !strings.HasSuffix(by, "/operator/dev") {
		t.Errorf("what was sent again is %v", again[1])
	}
	i.Kill(t)
	i.Restart(t)
	if r := i.Must(t, "ops", "dead", "resend", "1"); !strings.Contains(r.Out, "left alone: it was sent again") {
		t.Errorf("the second time: %s", r.Out)
	}
	if n := len(deadLetters(t, i)); n != 2 {
		t.Errorf("after all there are %d dead letters, want 2", n)
	}
}
