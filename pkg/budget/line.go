package budget

import "slices"

// Ticket is a place in line for one call. Its methods are safe for concurrent use.
type Ticket struct {
	budget *Budget
	tenant string
	ready  chan struct{}

	class Class
	waits bool // it stands in line
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
	if !t.waits || t.class == class {
		return
	}
	b.lines[t.class].remove(t)
	t.class = class
	b.lines[class].push(t)
	b.dispatch()
	if t.waits && b.kick != nil && b.lines[class].waiting == 1 {
		b.kick()
	}
}

// Done says that the call has ended.
func (t *Ticket) Done() {
	b := t.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.waits || t.ended {
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
	if t.waits {
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

// line is the tickets of one class: a ring of tenants with a queue each, served in turn. A tenant is in it while one of its
// tickets waits.
type line struct {
	waiting int
	ring    []string             // tenants, the next first
	tickets map[string][]*Ticket // by tenant, the oldest first
}

func (l *line) push(t *Ticket) {
	if l.tickets == nil {
		l.tickets = map[string][]*Ticket{}
	}
	if len(l.tickets[t.tenant]) == 0 {
		l.ring = append(l.ring, t.tenant)
	}
	l.tickets[t.tenant] = append(l.tickets[t.tenant], t)
	t.waits = true
	l.waiting++
}

func (l *line) remove(t *Ticket) {
	queue := l.tickets[t.tenant]
	i := slices.Index(queue, t)
	l.tickets[t.tenant] = slices.Delete(queue, i, i+1)
	t.waits = false
	l.waiting--
	if len(l.tickets[t.tenant]) == 0 {
		i := slices.Index(l.ring, t.tenant)
		l.ring = slices.Delete(l.ring, i, i+1)
		delete(l.tickets, t.tenant)
	}
}

// pop takes the oldest ticket of the tenant whose turn it is; the line must not be empty.
func (l *line) pop() *Ticket {
	tenant := l.ring[0]
	l.ring = append(l.ring[1:], tenant)
	t := l.tickets[tenant][0]
	l.remove(t)
	return t
}
