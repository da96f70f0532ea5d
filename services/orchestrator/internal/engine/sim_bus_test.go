package engine

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/store"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
)

// simMessage is a message as an outbox keeps it.
type simMessage = bus.Message

// simOutbox is the outbox of one process: what package outbox promises, by events.
type simOutbox struct {
	sim     *sim
	process *simProcess
	store   store.Store
	prefix  string
	last    int64
	known   map[string]bool // keys in hand
}

func newSimOutbox(s *sim, p *simProcess, v store.Store, prefix string) *simOutbox {
	return &simOutbox{sim: s, process: p, store: v, prefix: prefix, known: map[string]bool{}}
}

// Ops implements record.Outbox.
func (o *simOutbox) Ops(messages ...bus.Message) []store.Op {
	if len(messages) == 0 {
		return nil
	}
	s := o.sim
	o.last = max(s.now.UnixNano(), o.last+1)
	s.mail = append(s.mail, messages)
	op := store.Op{Key: fmt.Sprintf("%s%016x%s", o.prefix, o.last, o.process.name), Value: []byte(strconv.Itoa(len(s.mail) - 1))}
	if s.mutant.publishEarly {
		o.Committed([]store.Op{op})
	}
	return []store.Op{op}
}

// Committed implements record.Outbox.
func (o *simOutbox) Committed(ops []store.Op) {
	for _, op := range ops {
		if !op.Delete && strings.HasPrefix(op.Key, o.prefix) {
			o.take(op.Key, op.Value, o.sim.upTo(5*time.Millisecond))
		}
	}
}

// take publishes a record in a while, unless it is in hand already.
func (o *simOutbox) take(key string, value []byte, wait time.Duration) {
	if o.known[key] {
		return
	}
	o.known[key] = true
	n, err := strconv.Atoi(string(value))
	if err != nil {
		panic(err)
	}
	o.sim.after(wait, o.process, func() { o.publish(key, o.sim.mail[n]) })
}

// publish publishes a record and then deletes it.
func (o *simOutbox) publish(key string, messages []bus.Message) {
	for _, m := range messages {
		if o.sim.chance(o.sim.odds.crashPublish) {
			o.process.crash("before a publication")
		}
		o.sim.bus.publish(o.process, m)
	}
	o.sim.after(o.sim.upTo(20*time.Millisecond), o.process, func() { o.remove(key) })
}

// remove deletes what was published, again and again until it works.
func (o *simOutbox) remove(key string) {
	if _, err := o.store.Txn(context.Background(), nil, []store.Op{{Key: key, Delete: true}}); err != nil {
		o.sim.after(time.Second, o.process, func() { o.remove(key) })
		return
	}
	delete(o.known, key)
}

// Recover implements Outbox.
func (o *simOutbox) Recover() {
	o.sim.after(o.sim.upTo(5*time.Millisecond), o.process, func() { o.find("") })
}

// sweepOutbox is how often an outbox looks for what was left over, and how old that must be.
const sweepOutbox = 30 * time.Second

// sweep looks every so often for what nobody has in hand.
func (o *simOutbox) sweep() {
	o.find(fmt.Sprintf("%s%016x", o.prefix, o.sim.now.Add(-sweepOutbox).UnixNano()))
	o.sim.after(sweepOutbox, o.process, o.sweep)
}

// find takes what is kept, up to a key; "" means all but what this process wrote.
func (o *simOutbox) find(until string) {
	page, err := o.store.List(context.Background(), o.prefix, store.ListOptions{})
	if err != nil {
		if until == "" {
			o.sim.after(time.Second, o.process, func() { o.find("") })
		}
		return
	}
	for _, e := range page.Entries {
		if until != "" && e.Key >= until || until == "" && strings.HasSuffix(e.Key, o.process.name) {
			continue
		}
		o.take(e.Key, e.Value, 0)
	}
}

// simBus carries messages, and lies.
type simBus struct {
	sim    *sim
	number uint64
	seen   map[string]time.Time // when an id was last stored
	events map[string]string    // the subject and body of each event, by id
}

// publish takes a message.
func (b *simBus) publish(p *simProcess, m bus.Message) {
	s := b.sim
	stream, ok := bus.StreamOf(m.Subject)
	if !ok {
		s.violate("%s published to %s, which no stream stores", p.name, m.Subject)
		return
	}
	b.number++
	s.note("%s publishes %s to %s", p.name, m.ID, m.Subject)
	if strings.HasPrefix(m.Subject, "weft.evt.") {
		b.event(m)
		return
	}
	if last, ok := b.seen[m.ID]; ok && s.odds.dedup && s.now.Sub(last) < stream.Duplicates {
		return
	}
	b.seen[m.ID] = s.now
	deliver := func(attempt int) { b.outcome(m) }
	if strings.HasPrefix(m.Subject, "weft.cmd.") {
		deliver = func(attempt int) { b.command(m, attempt) }
	}
	for range b.copies() {
		s.after(b.delay(), nil, func() { deliver(1) })
	}
	if s.chance(s.odds.resurrect) {
		s.after(s.upTo(stream.MaxAge), nil, func() {
			s.counts.resurrected++
			deliver(1)
		})
	}
}

// copies draws how many of a message arrive.
func (b *simBus) copies() int {
	switch s := b.sim; {
	case s.chance(s.odds.drop):
		return 0
	case s.chance(s.odds.double):
		return 2 + s.rng.IntN(2)
	default:
		return 1
	}
}

func (b *simBus) delay() time.Duration {
	switch s := b.sim; {
	case s.chance(s.odds.late):
		return s.upTo(5 * time.Minute)
	case s.chance(s.odds.delay):
		return s.upTo(15 * time.Second)
	default:
		return s.between(time.Millisecond, 5*time.Millisecond)
	}
}

// event holds an event to its promise: two with the same id are the same.
func (b *simBus) event(m bus.Message) {
	was, ok := b.events[m.ID]
	if ok && was != m.Subject {
		b.sim.violate("two events have the id %s: %s and %s", m.ID, was, m.Subject)
	}
	b.events[m.ID] = m.Subject
}

// outcome hands an outcome to every replica that lives.
func (b *simBus) outcome(m bus.Message) {
	for _, r := range b.sim.replicas {
		b.sim.after(b.sim.upTo(2*time.Millisecond), r.process, func() {
			if err := r.engine.Outcome(bus.Delivery{Message: m, Sequence: b.number, Time: b.sim.now, Attempt: 1}); err != nil {
				b.sim.violate("the outcome %s cannot be read: %v", m.ID, err)
			}
		})
	}
}

// command hands a command to its service; what it does not ack it gets again.
func (b *simBus) command(m bus.Message, attempt int) {
	s := b.sim
	v := s.service(strings.Split(m.Subject, ".")[2])
	again := func(next int) {
		if next <= 5 {
			s.after(s.between(time.Second, 30*time.Second), nil, func() { b.command(m, next) })
		}
	}
	if v.process.dead {
		again(attempt) // it waits in the queue
		return
	}
	if !v.process.up() {
		s.at(v.process.frozen, nil, func() { b.command(m, attempt) })
		return
	}
	cmd := &busv1.Command{}
	if err := proto.Unmarshal(m.Data, cmd); err != nil {
		s.violate("the command %s cannot be read: %v", m.ID, err)
		return
	}
	verdict, handled := bus.Later, false
	v.process.enter(func() {
		verdict = v.handle(bus.Delivery{Message: m, Sequence: b.number, Time: s.now, Attempt: attempt}, cmd)
		handled = true
	})
	s.note("%s: command %s epoch %d: verdict %d %v", v.name, m.ID, cmd.GetOrigin().GetEpoch(), verdict, handled)
	switch verdict {
	case bus.Reject:
		s.violate("the command %s was rejected", m.ID)
	case bus.Later:
		again(attempt + 1)
	}
}
