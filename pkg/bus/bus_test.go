package bus

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftcloud/weft/pkg/fault"
)

func TestResendGivesTheMessageBack(t *testing.T) {
	queue := CommandQueue("network", PriorityNormal)
	first := Message{
		Subject: CommandSubject("network", PriorityNormal, "acme", "subnets"), ID: "s.a.do.1",
		Header: map[string]string{"traceparent": "00-1-2-00"}, Data: []byte("x"),
	}
	died := Delivery{Message: first, Sequence: 7, Attempt: 5, Time: time.Unix(1, 0)}
	letter := Delivery{Message: DeadLetter(queue, died, DeadExhausted), Sequence: 3}
	again, err := Resend(letter)
	if err != nil {
		t.Fatal(err)
	}
	want := first
	want.ID = "s.a.do.1.again.3"
	if diff := cmp.Diff(want, again); diff != "" {
		t.Errorf("what is sent again (-want +got):\n%s", diff)
	}
	if q := DeadQueue(letter.Subject); q != queue.Name {
		t.Errorf("the letter's queue is %q, want %q", q, queue.Name)
	}
}

// A stream that was made anew counts from 1 again: its dead letters must not be taken for those of the one before.
func TestDeadLettersOfAStreamMadeAnewHaveOtherIDs(t *testing.T) {
	queue, died := OutcomeQueue(), Delivery{Sequence: 1, Time: time.Unix(1, 0)}
	before := DeadLetter(queue, died, DeadRejected)
	died.Time = time.Unix(2, 0)
	if after := DeadLetter(queue, died, DeadRejected); before.ID == after.ID {
		t.Errorf("both have the id %s", after.ID)
	}
}

func TestResendRefusesWhatNoQueueTakes(t *testing.T) {
	for name, subject := range map[string]string{
		"nowhere": "", "no stream": "a.b", "an event": EventSubject("acme", "network", "subnets", "ready"), "the dead letters": DeadSubject(OutcomeQueue()),
	} {
		_, err := Resend(Delivery{Message: Message{Header: map[string]string{HeaderDeadSubject: subject}}})
		if !fault.Is(err, fault.Precondition) {
			t.Errorf("%s: %v, want Precondition", name, err)
		}
	}
}
