// Package bus carries commands, outcomes and events between services. It knocks; the facts are in the store. Whatever
// is sent here may be lost, doubled, late or reordered, and can be built again from a record.
//
// Subjects, streams and consumers are declared in topology.go and nowhere else.
package bus

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
)

// Message is one message.
type Message struct {
	// Subject is where it is sent, see topology.go.
	Subject string
	// ID is the message's id: a second message of the same id within the stream's duplicate window is dropped.
	// It is no proof of anything (see saga.md); receivers are idempotent by themselves.
	ID string
	// Header is what travels beside the data, e.g. traceparent and ce-* attributes.
	Header map[string]string
	// Data is the payload.
	Data []byte
}

// Delivery is one message as it was received.
type Delivery struct {
	Message
	// Sequence is the message's number in its stream; it grows, and is the same for every delivery of one message.
	Sequence uint64
	// Time is when the stream stored it.
	Time time.Time
	// Attempt counts the deliveries of this message, from 1.
	Attempt int
}

// Verdict is what a handler makes of a delivery.
type Verdict int

// The verdicts.
const (
	// Ack: it is dealt with, or recorded; do not deliver it again.
	Ack Verdict = iota
	// Later: it could not be recorded; deliver it again after a while. Until then others of its subject may pass it.
	Later
	// Reject: it can never be dealt with; move it to the dead letters.
	Reject
)

// HeaderTrace is the header that bears the trace which a message is part of (W3C Trace Context, traceparent).
const (
	HeaderTrace = "traceparent"
	// deadHeaders begins the names of the headers that a dead letter bears beside its own.
	deadHeaders = "Weft-Dead-"
)

// The headers that a dead letter bears beside its own.
const (
	// HeaderDeadSubject is the subject that the message was sent to.
	HeaderDeadSubject = "Weft-Dead-Subject"
	// HeaderDeadID is the id that the message was sent with.
	HeaderDeadID = "Weft-Dead-Id"
	// HeaderDeadReason says why: DeadRejected or DeadExhausted.
	HeaderDeadReason = "Weft-Dead-Reason"
	// HeaderDeadAttempts is how often the message was delivered.
	HeaderDeadAttempts = "Weft-Dead-Attempts"
)

// The reasons of a dead letter.
const (
	// DeadRejected: a handler gave the verdict Reject.
	DeadRejected = "rejected"
	// DeadExhausted: it was delivered as often as the queue allows, and never acked.
	DeadExhausted = "deliveries exhausted"
)

// DeadLetter gives the message that keeps a delivery which nobody could deal with.
func DeadLetter(queue Queue, d Delivery, reason string) Message {
	header := make(map[string]string, len(d.Header)+4)
	maps.Copy(header, d.Header)
	header[HeaderDeadSubject] = d.Subject
	header[HeaderDeadID] = d.ID
	header[HeaderDeadReason] = reason
	header[HeaderDeadAttempts] = strconv.Itoa(d.Attempt)
	return Message{
		Subject: DeadSubject(queue), ID: fmt.Sprintf("dead.%s.%d.%d", queue.Stream, d.Sequence, d.Time.UnixNano()),
		Header: header, Data: d.Data,
	}
}

// Resend gives the message that a dead letter keeps, to be sent once more to where it was sent first. Its id tells that it
// is sent again, and after which letter: the stream does not take it for the first, and takes it once only however often
// it is sent within the duplicate window. Precondition means that the letter does not name a work queue's subject.
func Resend(letter Delivery) (Message, error) {
	subject := letter.Header[HeaderDeadSubject]
	if s, ok := StreamOf(subject); !ok || !s.WorkQueue && s.Name != outcomeStream {
		return Message{}, fault.New(fault.Precondition, "dead letter %d was sent to %q, which no queue takes messages from", letter.Sequence, subject)
	}
	m := Message{Subject: subject, ID: letter.Header[HeaderDeadID] + ".again." + strconv.FormatUint(letter.Sequence, 10), Data: letter.Data}
	for k, v := range letter.Header {
		if strings.HasPrefix(k, deadHeaders) {
			continue
		}
		if m.Header == nil {
			m.Header = make(map[string]string, len(letter.Header))
		}
		m.Header[k] = v
	}
	return m, nil
}

// Handler deals with one delivery. It MUST return only after what it means to keep is kept.
type Handler func(ctx context.Context, d Delivery) Verdict

// Publisher sends messages.
type Publisher interface {
	// Publish sends messages in their order and returns when the streams have stored them all, or with the first
	// error; messages after the one that failed may have been stored too. A retryable fault (Unavailable; Throttled: the
	// stream is full): try again with the same ids. Any other: trying again cannot help, e.g. Invalid: no stream
	// stores the subject, or the message is too large.
	Publish(ctx context.Context, messages ...Message) error
}

// Bus carries messages. All methods are safe for concurrent use.
type Bus interface {
	Publisher
	// Consume delivers the messages of a work queue to handle, at most concurrency at once, until ctx ends; it returns
	// nil then, after the handlers that run have returned. Messages of one subject are begun in their order; with a
	// concurrency over 1 one may begin before the one before it has ended. Tenants take
	// turns at what has been fetched, see Turns. Each message is delivered to one of all that
	// consume the queue, again after a Later, after AckWait, and after a crash; once it has been delivered
	// queue.MaxDeliver times in vain it goes to the dead letters.
	Consume(ctx context.Context, queue Queue, concurrency int, handle Handler) error
	// Read delivers the stored messages whose subject matches filter, from the one stream that is no work queue and
	// keeps such subjects (events, dead letters, advisories; else the error is Invalid), one by one and in order,
	// from a time on (the zero time means from the first that is kept), to handle, until handle returns an error, ctx
	// ends (then it returns nil) or, without follow, the last one that was stored when Read began is delivered. It
	// leaves nothing behind and disturbs no other reader.
	Read(ctx context.Context, filter string, since time.Time, follow bool, handle func(Delivery) error) error
	// Close ends the connection after what was published is flushed.
	Close() error
}
