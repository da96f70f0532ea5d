// Package crash names the points at which the programs are killed to show that nothing is lost or doubled there.
//
// In a normal build Point does nothing and costs nothing. In a build with the tag crash the environment variable Orders
// names a file; the first line of that file orders a death, "POINT N": the process that passes the point for the Nth time
// since the order came takes the line out of the file and kills itself with SIGKILL, so that nothing is flushed, closed
// or told. "POINT N stop" has it stop itself with SIGSTOP instead: whoever sends it SIGCONT finds out what becomes of what
// was about to be done, when all others think that the process is dead. An order is thus obeyed once, by one process; the
// next line, if there is one, is obeyed by whoever passes next, e.g. by the process that was started anew. Without the
// variable or the file nothing happens.
package crash

// Name is the name of a point: where, what, and on which side of it.
type Name string

// The points. Each stands at exactly one place in the source; TestPointsArePlaced holds it.
const (
	// Engine: the transaction that keeps a transition, with its commands. The first one of a saga begins it.
	EngineCommitBefore Name = "engine/commit/before"
	EngineCommitAfter  Name = "engine/commit/after"
	// Engine: the transaction that ends a saga.
	EngineEndBefore Name = "engine/end/before"
	EngineEndAfter  Name = "engine/end/after"
	// Engine: a saga was read by a new owner, and nobody has been asked about it yet.
	EngineTakeoverRead Name = "engine/takeover/read"
	// Engine: the participants were asked, and what they do not know is not yet sent again.
	EngineTakeoverAsked Name = "engine/takeover/asked"

	// Outbox, of the orchestrator and of each service: committed messages are published, and then deleted.
	OutboxPublishBefore Name = "outbox/publish/before"
	OutboxPublishAfter  Name = "outbox/publish/after"
	OutboxDeleteBefore  Name = "outbox/delete/before"
	OutboxDeleteAfter   Name = "outbox/delete/after"

	// Inbox of a service: a command has come, it was recorded, the bus was told.
	InboxCommitBefore Name = "inbox/commit/before"
	InboxAckBefore    Name = "inbox/ack/before"
	// Bus: a command was acked.
	BusAckAfter Name = "bus/ack/after"

	// Record of a resource: the transaction that writes it, with what it tells.
	RecordCommitBefore Name = "record/commit/before"
	RecordCommitAfter  Name = "record/commit/after"
	// Record: it is deleted and its tombstone is written, in one transaction.
	RecordTombstoneBefore Name = "record/tombstone/before"

	// Loop: that a create may have been sent is not yet written; it is written and the call is about to be sent; the cloud
	// has answered and the id is not yet written; the id is written.
	LoopAttemptBefore Name = "loop/attempt/before"
	LoopCreateBefore  Name = "loop/create/before"
	LoopCreateAfter   Name = "loop/create/after"
	LoopIDAfter       Name = "loop/id/after"
	// Loop: the call that changes the object at the cloud.
	LoopUpdateBefore Name = "loop/update/before"
	LoopUpdateAfter  Name = "loop/update/after"
	// Loop: the call that deletes the object at the cloud.
	LoopDeleteBefore Name = "loop/delete/before"
	LoopDeleteAfter  Name = "loop/delete/after"
)

// Stop, at the end of an order, is what is done instead of dying.
const Stop = "stop"

// Orders is the environment variable that names the file with the orders.
const Orders = "WEFT_CRASH"

// Points gives all points.
func Points() []Name {
	return []Name{
		EngineCommitBefore, EngineCommitAfter, EngineEndBefore, EngineEndAfter, EngineTakeoverRead, EngineTakeoverAsked,
		OutboxPublishBefore, OutboxPublishAfter, OutboxDeleteBefore, OutboxDeleteAfter,
		InboxCommitBefore, InboxAckBefore, BusAckAfter,
		RecordCommitBefore, RecordCommitAfter, RecordTombstoneBefore,
		LoopAttemptBefore, LoopCreateBefore, LoopCreateAfter, LoopIDAfter, LoopUpdateBefore, LoopUpdateAfter, LoopDeleteBefore, LoopDeleteAfter,
	}
}
