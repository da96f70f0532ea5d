package bus

import "strings"

// Turns holds messages that wait for a handler, in a line for each tenant. The tenants take turns: one that has sent
// many does not keep another, which has sent one, waiting behind them. Within a line the order is kept. The zero value
// is ready. It is not safe for concurrent use.
type Turns[M any] struct {
	lines map[string][]M
	order []string // of the tenants in line, whose turn it is first
	n     int
}

// Add adds a message at the end of the line of its subject's tenant.
func (t *Turns[M]) Add(subject string, m M) {
	if t.lines == nil {
		t.lines = map[string][]M{}
	}
	tenant := tenantOf(subject)
	if len(t.lines[tenant]) == 0 {
		t.order = append(t.order, tenant)
	}
	t.lines[tenant] = append(t.lines[tenant], m)
	t.n++
}

// Next takes the message out whose turn it is; false if none waits.
func (t *Turns[M]) Next() (M, bool) {
	if t.n == 0 {
		var none M
		return none, false
	}
	tenant := t.order[0]
	line := t.lines[tenant]
	m := line[0]
	t.order, t.n = t.order[1:], t.n-1
	if len(line) == 1 {
		delete(t.lines, tenant)
		return m, true
	}
	t.lines[tenant] = line[1:]
	t.order = append(t.order, tenant)
	return m, true
}

// Len tells how many messages wait.
func (t *Turns[M]) Len() int { return t.n }

// Each calls do with every message that waits, in no particular order.
func (t *Turns[M]) Each(do func(M)) {
	for _, line := range t.lines {
		for _, m := range line {
			do(m)
		}
	}
}

// tenantOf gives the tenant that a command's subject names; all other subjects count as one tenant's.
func tenantOf(subject string) string {
	parts := strings.SplitN(subject, ".", 6)
	if len(parts) < 6 || parts[1] != "cmd" {
		return ""
	}
	return parts[4]
}
