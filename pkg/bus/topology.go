package bus

import (
	"hash/fnv"
	"strconv"
	"strings"
	"time"
)

// Stream declares one stream.
type Stream struct {
	// Name is the stream's name.
	Name string
	// Subjects are what it stores.
	Subjects []string
	// WorkQueue streams delete a message when it is acked; others keep messages for MaxAge.
	WorkQueue bool
	// MaxAge is how long a message is kept.
	MaxAge time.Duration
	// Duplicates is the window in which a second message of the same id is dropped.
	Duplicates time.Duration
	// MaxBytes bounds the stream. A full work queue refuses new messages; others drop the oldest.
	MaxBytes int64
}

// Queue declares one durable consumer of a work queue.
type Queue struct {
	// Stream is the stream's name.
	Stream string
	// Name is the consumer's durable name.
	Name string
	// Filter is the subjects that it gets.
	Filter string
	// AckWait is how long a delivery may take before it is delivered again.
	AckWait time.Duration
	// MaxDeliver is how often a message is delivered before it goes to the dead letters.
	MaxDeliver int
	// MaxAckPending bounds how many deliveries may be under way in all.
	MaxAckPending int
}

// The services that take commands.
var services = []string{"network", "storage", "compute", "container"}

// The names of the streams.
const (
	outcomeStream = "OUTCOMES"
	eventStream   = "EVT"
	deadStream    = "DLQ"
	adviceStream  = "ADV"
)

// Priority orders commands: undo outranks interactive work, which outranks the rest.
type Priority string

// The priorities, highest first.
const (
	PriorityUndo        Priority = "undo"
	PriorityInteractive Priority = "interactive"
	PriorityNormal      Priority = "normal"
)

// Priorities lists the priorities, highest first.
var Priorities = []Priority{PriorityUndo, PriorityInteractive, PriorityNormal}

// Streams lists all streams. They are ensured at every start.
func Streams() []Stream {
	out := make([]Stream, 0, len(services)+4)
	for _, s := range services {
		out = append(out, Stream{
			Name: "CMD_" + s, Subjects: []string{"weft.cmd." + s + ".>"},
			WorkQueue: true, MaxAge: time.Hour, Duplicates: 2 * time.Minute, MaxBytes: 1 << 30,
		})
	}
	return append(out,
		// Outcomes are read by every orchestrator, each of which takes those of the shards that it owns and lets the others
		// pass: a queue for each of the shards would be as many consumers, each with a Raft group of its own. What is lost is
		// asked for.
		Stream{Name: outcomeStream, Subjects: []string{"weft.out.>"}, MaxAge: 10 * time.Minute, Duplicates: 2 * time.Minute, MaxBytes: 1 << 28},
		Stream{Name: eventStream, Subjects: []string{"weft.evt.>"}, MaxAge: 7 * 24 * time.Hour, Duplicates: 2 * time.Minute, MaxBytes: 4 << 30},
		Stream{Name: deadStream, Subjects: []string{DeadFilter}, MaxAge: 7 * 24 * time.Hour, Duplicates: 2 * time.Minute, MaxBytes: 1 << 28},
		Stream{
			Name: adviceStream,
			Subjects: []string{
				"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>",
				"$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>",
			},
			MaxAge: 7 * 24 * time.Hour, Duplicates: 2 * time.Minute, MaxBytes: 1 << 26,
		},
	)
}

// Queues lists all queues. They are ensured at every start, so that a message waits for its reader.
func Queues() []Queue {
	out := make([]Queue, 0, len(services)*len(Priorities)+1)
	for _, s := range services {
		for _, p := range Priorities {
			out = append(out, CommandQueue(s, p))
		}
	}
	return out
}

// Retired lists streams that are no longer used; they are deleted at every start, since their subjects have others now.
func Retired() []string { return []string{"OUT"} }

// StreamOf gives the stream that stores a subject, or every subject that a filter matches; false if none does.
func StreamOf(subject string) (Stream, bool) {
	for _, s := range Streams() {
		for _, pattern := range s.Subjects {
			if Match(pattern, subject) {
				return s, true
			}
		}
	}
	return Stream{}, false
}

// Match tells whether a filter matches a subject: "*" stands for one token, a last ">" for one or more. The subject may
// be a filter itself: then whether the first matches all that the second does.
func Match(filter, subject string) bool {
	for {
		want, wantRest, wantMore := strings.Cut(filter, ".")
		have, haveRest, haveMore := strings.Cut(subject, ".")
		if want == ">" {
			return !wantMore && have != ""
		}
		if have == ">" || want != "*" && want != have {
			return false
		}
		if !wantMore || !haveMore {
			return wantMore == haveMore
		}
		filter, subject = wantRest, haveRest
	}
}

// CommandQueue is the queue of a service's commands of one priority.
func CommandQueue(service string, p Priority) Queue {
	return Queue{
		Stream: "CMD_" + service, Name: "cmd_" + service + "_" + string(p), Filter: "weft.cmd." + service + "." + string(p) + ".>",
		AckWait: 30 * time.Second, MaxDeliver: 5, MaxAckPending: 4096,
	}
}

// OutcomeQueue names the reading of outcomes among the dead letters. It is no consumer: every orchestrator reads them all.
func OutcomeQueue() Queue { return Queue{Stream: outcomeStream, Name: "out", Filter: OutcomeFilter} }

// OutcomeFilter matches the outcomes for all sagas.
const OutcomeFilter = "weft.out.>"

// EventFilter matches the events of a tenant; "" or "-" means of all tenants.
func EventFilter(tenant string) string {
	if tenant == "" || tenant == "-" {
		return "weft.evt.>"
	}
	return "weft.evt." + token(tenant) + ".>"
}

// CommandSubject is where a command for a kind of a service is sent. kind is the kind's collection, e.g. subnets.
func CommandSubject(service string, p Priority, tenant, kind string) string {
	return "weft.cmd." + token(service) + "." + string(p) + "." + token(tenant) + "." + token(kind)
}

// OutcomeSubject is where the outcomes of a saga are sent; shard is the shard of its stack, saga its operation id.
func OutcomeSubject(shard int, saga string) string {
	return "weft.out." + strconv.Itoa(shard) + "." + token(saga)
}

// OutcomeShard gives the shard of an outcome's subject; false if it is none.
func OutcomeShard(subject string) (int, bool) {
	rest, ok := strings.CutPrefix(subject, "weft.out.")
	if !ok {
		return 0, false
	}
	number, _, _ := strings.Cut(rest, ".")
	shard, err := strconv.Atoi(number)
	return shard, err == nil && shard >= 0 && shard < Shards
}

// EventSubject is where an event is sent. An event that is no tenant's has tenant "_platform".
func EventSubject(tenant, service, kind, verb string) string {
	if tenant == "" {
		tenant = "_platform"
	}
	return "weft.evt." + token(tenant) + "." + token(service) + "." + token(kind) + "." + token(verb)
}

// deadPrefix begins the subjects of dead letters.
const deadPrefix = "weft.dead."

// DeadFilter matches all dead letters.
const DeadFilter = deadPrefix + ">"

// DeadSubject is where a dead letter of a queue goes.
func DeadSubject(queue Queue) string { return deadPrefix + token(queue.Name) }

// DeadQueue gives the name of the queue whose dead letters go to a subject.
func DeadQueue(subject string) string { return strings.TrimPrefix(subject, deadPrefix) }

// token makes s one token of a subject: dots, spaces and wildcards become "_" (NATS, Subject-Based Messaging), and so
// does nothing at all, since a subject has no empty token.
func token(s string) string {
	if s == "" {
		return "_"
	}
	if !strings.ContainsAny(s, ". *>/") {
		return s
	}
	return strings.NewReplacer(".", "_", " ", "_", "*", "_", ">", "_", "/", "_").Replace(s)
}

// Shards is the number of shards that stacks, and with them their sagas, are spread over.
const Shards = 256

// ShardOf gives the shard of a stack, by its full name. It is the stack that is spread, and not the saga: epochs are
// compared where the sagas of one stack meet, at its records, and epochs of different shards cannot be.
func ShardOf(stack string) int {
	h := fnv.New32a()
	h.Write([]byte(stack)) // a hash never fails to be written to (package hash)
	return int(h.Sum32() % Shards)
}
