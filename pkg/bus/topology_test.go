package bus

import (
	"testing"
	"time"
)

func TestMatch(t *testing.T) {
	tests := map[string]struct {
		filter, subject string
		want            bool
	}{
		"same":                   {"a.b", "a.b", true},
		"other":                  {"a.b", "a.c", false},
		"star":                   {"a.*.c", "a.b.c", true},
		"star is one token":      {"a.*", "a.b.c", false},
		"rest":                   {"a.>", "a.b.c", true},
		"rest is not empty":      {"a.>", "a", false},
		"subject longer":         {"a", "a.b", false},
		"filter in filter":       {"a.>", "a.*.c", true},
		"rest in rest":           {"a.>", "a.b.>", true},
		"rest is wider than one": {"a.*", "a.>", false},
		"star does not fit name": {"a.b", "a.*", false},
	}
	for name, test := range tests {
		if got := Match(test.filter, test.subject); got != test.want {
			t.Errorf("%s: Match(%q, %q) = %t, want %t", name, test.filter, test.subject, got, test.want)
		}
	}
}

// Every subject that is sent must be stored by exactly one stream, and every command must reach exactly one
// queue: a work queue whose consumers overlap is refused by the server.
func TestEverySubjectHasOneStreamAndOneQueue(t *testing.T) {
	type sent struct {
		subject string
		queues  int
	}
	subjects := []sent{
		{OutcomeSubject(17, "op-1"), 0}, // every orchestrator reads it
		{EventSubject("acme", "network", "subnets", "ready"), 0},
		{EventSubject("", "network", "subnets", "ready"), 0},
		{"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.OUT.out", 0},
	}
	for _, service := range services {
		for _, p := range Priorities {
			subjects = append(subjects, sent{CommandSubject(service, p, "acme", "subnets"), 1})
		}
	}
	for _, q := range Queues() {
		subjects = append(subjects, sent{DeadSubject(q), 0})
	}
	for _, s := range subjects {
		streams, queues := 0, 0
		for _, stream := range Streams() {
			for _, pattern := range stream.Subjects {
				if Match(pattern, s.subject) {
					streams++
				}
			}
		}
		for _, q := range Queues() {
			if Match(q.Filter, s.subject) {
				queues++
			}
		}
		if streams != 1 || queues != s.queues {
			t.Errorf("%s: stored by %d streams, read by %d queues, want 1 and %d", s.subject, streams, queues, s.queues)
		}
	}
}

func TestQueuesStandOnTheirStreams(t *testing.T) {
	for _, q := range Queues() {
		stream, ok := StreamOf(q.Filter)
		if !ok || stream.Name != q.Stream || !stream.WorkQueue {
			t.Errorf("queue %s reads %s of %s, stored by %+v", q.Name, q.Filter, q.Stream, stream)
		}
		if q.AckWait < time.Second || q.MaxDeliver < 2 || q.MaxAckPending < 1 {
			t.Errorf("queue %s has no bounds: %+v", q.Name, q)
		}
	}
}

func TestTokensCannotWidenASubject(t *testing.T) {
	if got, want := EventSubject("a.b", "*", ">", "x y"), "weft.evt.a_b._._.x_y"; got != want {
		t.Errorf("EventSubject = %s, want %s", got, want)
	}
	if got, want := EventFilter("a.>"), "weft.evt.a__.>"; got != want {
		t.Errorf("EventFilter = %s, want %s", got, want)
	}
}

func TestOutcomeShard(t *testing.T) {
	for subject, want := range map[string]int{OutcomeSubject(0, "op"): 0, OutcomeSubject(255, "a.b"): 255, "weft.out.256.op": -1, "weft.out.x.op": -1, "weft.evt.1.op": -1} {
		got, ok := OutcomeShard(subject)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%s: shard %d, want %d", subject, got, want)
		}
	}
}
