package engine

import "github.com/prometheus/client_golang/prometheus"

// series are what an engine tells Prometheus.
type series struct {
	shards, sagas, held, hand, idle, oldest             *prometheus.Desc
	transitions, events, commands, fenced, late, unread *prometheus.Desc
}

func describe() series {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return series{
		shards:      desc("weft_saga_shards", "Shards whose sagas run in this process."),
		sagas:       desc("weft_sagas", "Unfinished sagas that run in this process."),
		held:        desc("weft_sagas_held", "Unfinished sagas of which a person holds something."),
		hand:        desc("weft_sagas_needing_hand", "Unfinished sagas that wait for a person."),
		idle:        desc("weft_sagas_without_next_action", "Unfinished sagas without a next action. There must be none."),
		oldest:      desc("weft_saga_oldest_step_seconds", "Age of the oldest step that is begun and not done, by the type of its resource.", "type"),
		transitions: desc("weft_saga_transitions_total", "Transitions of sagas that were kept."),
		events:      desc("weft_saga_events_total", "Events that transitions took: more than one go together under load."),
		commands:    desc("weft_saga_commands_total", "Commands that transitions sent."),
		fenced:      desc("weft_saga_fence_rejections_total", "Transactions that the store refused because another process owns the shard."),
		late:        desc("weft_saga_late_events_total", "Events that were not applied because the ownership of the shard was over by this process's clock."),
		unread:      desc("weft_sagas_unreadable_total", "Sagas that could not be taken over, and need a hand."),
	}
}

var _ prometheus.Collector = (*Engine)(nil)

// Describe implements prometheus.Collector.
func (e *Engine) Describe(to chan<- *prometheus.Desc) {
	m := describe()
	for _, d := range []*prometheus.Desc{m.shards, m.sagas, m.held, m.hand, m.idle, m.oldest, m.transitions, m.events, m.commands, m.fenced, m.late, m.unread} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (e *Engine) Collect(to chan<- prometheus.Metric) {
	m, s := describe(), e.Stats()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v int64) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	gauge(m.shards, float64(s.Shards))
	gauge(m.sagas, float64(s.Sagas))
	gauge(m.held, float64(s.Held))
	gauge(m.hand, float64(s.NeedsHand))
	gauge(m.idle, float64(s.Idle))
	for typ, age := range s.Oldest {
		gauge(m.oldest, age.Seconds(), typ)
	}
	counter(m.transitions, s.Transitions)
	counter(m.events, s.Events)
	counter(m.commands, s.Commands)
	counter(m.fenced, s.Fenced)
	counter(m.late, s.Late)
	counter(m.unread, s.Unreadable)
}
