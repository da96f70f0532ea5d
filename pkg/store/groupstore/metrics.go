package groupstore

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// meters are what a store tells Prometheus of its commits.
type meters struct {
	together prometheus.Histogram
	latency  prometheus.Histogram
	apart    prometheus.Counter
}

func newMeters() meters {
	return meters{
		together: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weft_store_commit_transactions", Help: "How many transactions were committed as one.", Buckets: []float64{1, 2, 4, 8, 16, 32},
		}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weft_store_commit_seconds", Help: "How long a commit took, in seconds.", Buckets: []float64{.001, .0025, .005, .01, .025, .1, .5, 2.5},
		}),
		apart: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_store_apart_total", Help: "Transactions that were tried by themselves, since what they went with was refused.",
		}),
	}
}

// committed notes a commit of so many transactions.
func (m meters) committed(transactions int, took time.Duration) {
	m.together.Observe(float64(transactions))
	m.latency.Observe(took.Seconds())
}

var _ prometheus.Collector = (*Store)(nil)

// Describe implements prometheus.Collector.
func (s *Store) Describe(to chan<- *prometheus.Desc) {
	s.meters.together.Describe(to)
	s.meters.latency.Describe(to)
	s.meters.apart.Describe(to)
}

// Collect implements prometheus.Collector.
func (s *Store) Collect(to chan<- prometheus.Metric) {
	s.meters.together.Collect(to)
	s.meters.latency.Collect(to)
	s.meters.apart.Collect(to)
}
