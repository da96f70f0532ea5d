package control

import (
	"strconv"
	"time"
)

// keptCalls is how many calls the log holds; older ones are forgotten, their counts are not.
const keptCalls = 250_000

// Call is one finished API call.
type Call struct {
	Seq        uint64    `json:"seq"` // in order of arrival, from 1; 0 never occurs
	Time       time.Time `json:"time"`
	Service    string    `json:"service"`
	Method     string    `json:"method"`
	Path       string    `json:"path"`
	Query      string    `json:"query,omitempty"`
	Status     int       `json:"status"` // 0: the client got no answer
	DurationMS float64   `json:"durationMs"`
	UserAgent  string    `json:"userAgent,omitempty"`
	RequestID  string    `json:"requestId,omitempty"`
	Operation  string    `json:"operation,omitempty"`
	Project    string    `json:"project,omitempty"`
	User       string    `json:"user,omitempty"`
	Fault      string    `json:"fault,omitempty"` // id of the fault that struck
}

// callLog is a ring of finished calls plus exact counts. It grows as needed up to keptCalls.
type callLog struct {
	ring   []Call
	next   int // where the next call goes once the ring is full
	seq    uint64
	total  uint64
	counts map[string]uint64
	names  map[string]string
}

func (l *callLog) clear() {
	// seq goes on, so that a reader's ?since= stays meaningful.
	*l = callLog{seq: l.seq, counts: map[string]uint64{}, names: map[string]string{}}
}

func (l *callLog) number() uint64 {
	l.seq++
	return l.seq
}

func (l *callLog) add(c Call) {
	// A few strings repeat in every call; keep one copy of each.
	c.UserAgent, c.Operation, c.Project, c.User = l.one(c.UserAgent), l.one(c.Operation), l.one(c.Project), l.one(c.User)
	l.total++
	l.counts[c.Service+" "+c.Method+" "+strconv.Itoa(c.Status)]++
	if len(l.ring) < keptCalls {
		l.ring = append(l.ring, c)
		return
	}
	l.ring[l.next] = c
	l.next = (l.next + 1) % keptCalls
}

func (l *callLog) one(s string) string {
	if len(l.names) > 10_000 {
		return s
	}
	if known, ok := l.names[s]; ok {
		return known
	}
	l.names[s] = s
	return s
}

// list yields the kept calls that want accepts, in order of their end.
func (l *callLog) list(want func(*Call) bool) []Call {
	out := []Call{}
	for i := range l.ring {
		c := &l.ring[(l.next+i)%len(l.ring)]
		if want(c) {
			out = append(out, *c)
		}
	}
	return out
}
