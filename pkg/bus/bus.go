// Package bus carries commands, outcomes and events between services. It knocks; the facts are in the store. Whatever
// is sent here may be lost, doubled, late or reordered, and can be built again from a record.
//
// Subjects, streams and consumers are declared in topology.go and nowhere else.
package bus

import (
	"context"
	"time"
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
	// Later: it could not be recorded; deliver it again after the consumer's wait.
	Later
	// Reject: it can never be dealt with; move it to the dead letters.
	Reject
)

// Handler deals with one delivery. It MUST return only after what it means to keep is kept.
type Handler func(ctx context.Context, d Delivery) Verdict

// Publisher sends messages.
type Publisher interface {
	// Publish sends messages in their order and returns when the streams have stored them all, or with the first
	// error; messages after the one that failed may have been stored too. Unavailable: try again with the same ids.
	Publish(ctx context.Context, messages ...Message) error
}

// Bus carries messages. All methods are safe for concurrent use.
type Bus interface {
	Publisher
	// Consume delivers the messages of a work queue to handle, at most concurrency at once, until ctx ends; it returns
	// nil then. Messages of one subject are begun in their order. Each message is delivered to one of all that consume
	// the queue, again after a Later, after AckWait, and after a crash.
	Consume(ctx context.Context, queue Queue, concurrency int, handle Handler) error
	// Read delivers the stored messages of the event stream whose subject matches filter, one by one and in order,
	// from a time on (the zero time means from the first that is kept), to handle, until handle returns an error, ctx
	// ends (then it returns nil) or, without follow, the last one that was stored when Read began is delivered. It
	// leaves nothing behind and disturbs no other reader.
	Read(ctx context.Context, filter string, since time.Time, follow bool, handle func(Delivery) error) error
	// Close ends the connection after what was published is flushed.
	Close() error
}
