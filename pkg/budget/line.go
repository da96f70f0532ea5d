package budget

import "container/list"

// Ticket is a place in line for one call. Its methods are safe for concurrent use.
type Ticket struct {
	budget *Budget
	tenant string
	ready  chan struct{}

	class Class
	queue *queue
	place *list.Element // nil once it is out of the line
	ended bool
}

// Budget is where the ticket stands in line.
func (t *Ticket) Budget() *Budget { return t.budget }

// Ready is closed when the call may be made.
func (t *Ticket) Ready() <-chan struct{} { return t.ready }

// SetClass moves a ticket that waits to another class, to the end of its tenant's line there.
func (t *Ticket) SetClass(class Class) {
	b := t.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.place == nil || t.class == class {
		return
	}
	b.lines[t.class].remove(t)
	t.class = class
	b.lines[class].push(t)
	b.dispatch()
	if t.place != nil && b.kick != nil && b.lines[class].waiting == 1 {
		b.kick()
	}
}

// Done says that the call has ended.
func (t *Ticket) Done() {
	b := t.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.place != nil || t.ended {
		return
	}
	t.ended = true
	b.flying--
	b.used++
	b.dispatch()
}

// Cancel gives the place up, or the call if it was not made: who waits behind is next. After Done it does nothing.
func (t *Ticket) Cancel() {
	b := t.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.ended {
		return
	}
	t.ended = true
	if t.place != nil {
		b.lines[t.class].remove(t)
		b.dispatch() // the timer may be set for nobody now
		return
	}
	b.flying--
	if !b.now().Before(b.until) {
		b.tokens = min(b.tokens+1, b.capacity())
	}
	b.dispatch()
}

// line is the tickets of one class: a ring of tenants with a queue each, served in turn.
type line struct {
	waiting int
	ring    list.List // of *queue, the next first
	tenants map[string]*queue
}

type queue struct {
	tenant  string
	tickets list.List // of *Ticket, the oldest first
	place   *list.Element
}

func (l *line) push(t *Ticket) {
	if l.tenants == nil {
		l.tenants = map[string]*queue{}
	}
	q := l.tenants[t.tenant]
	if q == nil {
		q = &queue{tenant: t.tenant}
		q.place = l.ring.PushBack(q)
		l.tenants[t.tenant] = q
	}
	t.queue, t.place = q, q.tickets.PushBack(t)
	l.waiting++
}

func (l *line) remove(t *Ticket) {
	q := t.queue
	q.tickets.Remove(t.place)
	t.queue, t.place = nil, nil
	l.waiting--
	if q.tickets.Len() == 0 {
		l.ring.Remove(q.place)
		delete(l.tenants, q.tenant)
	}
}

// pop takes the oldest ticket of the tenant whose turn it is; the line must not be empty.
func (l *line) pop() *Ticket {
	q, ok := l.ring.Front().Value.(*queue)
	if !ok {
		panic("budget: the ring holds queues only")
	}
	t, ok := q.tickets.Front().Value.(*Ticket)
	if !ok {
		panic("budget: a queue holds tickets only")
	}
	l.ring.MoveToBack(q.place)
	l.remove(t)
	return t
}
