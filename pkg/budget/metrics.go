package budget

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics describes the figures that a registry gives of each account.
type metrics struct{ waiting, inFlight, rate, paused, used, throttled *prometheus.Desc }

func describe() metrics {
	desc := func(name, help string, more ...string) *prometheus.Desc {
		return prometheus.NewDesc("weft_budget_"+name, help, append([]string{"account"}, more...), nil)
	}
	return metrics{
		waiting:   desc("waiting", "Calls at a cloud account that wait for their turn, by class.", "class"),
		inFlight:  desc("in_flight", "Calls at a cloud account that are under way."),
		rate:      desc("rate", "Calls a second that this process may make at a cloud account now."),
		paused:    desc("paused_seconds", "How long no call is made at a cloud account, because it asked so."),
		used:      desc("calls_total", "Calls that were made at a cloud account."),
		throttled: desc("throttled_total", "Calls that a cloud account refused because they were too many."),
	}
}

var _ prometheus.Collector = (*Registry)(nil)

// Describe implements prometheus.Collector.
func (r *Registry) Describe(to chan<- *prometheus.Desc) {
	m := describe()
	for _, d := range []*prometheus.Desc{m.waiting, m.inFlight, m.rate, m.paused, m.used, m.throttled} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (r *Registry) Collect(to chan<- prometheus.Metric) {
	m := describe()
	for key, s := range r.Stats() {
		for class := Normal; class <= Undo; class++ {
			to <- prometheus.MustNewConstMetric(m.waiting, prometheus.GaugeValue, float64(s.Waiting[class]), key, class.String())
		}
		to <- prometheus.MustNewConstMetric(m.inFlight, prometheus.GaugeValue, float64(s.InFlight), key)
		to <- prometheus.MustNewConstMetric(m.rate, prometheus.GaugeValue, s.Rate, key)
		to <- prometheus.MustNewConstMetric(m.paused, prometheus.GaugeValue, s.Paused.Seconds(), key)
		to <- prometheus.MustNewConstMetric(m.used, prometheus.CounterValue, float64(s.Used), key)
		to <- prometheus.MustNewConstMetric(m.throttled, prometheus.CounterValue, float64(s.Throttled), key)
	}
}

// Stats gives the figures of all budgets, by account.
func (r *Registry) Stats() map[string]Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]Stats, len(r.accounts))
	for key, a := range r.accounts {
		out[key] = a.budget.Stats()
	}
	return out
}
