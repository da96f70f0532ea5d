package outbox

import "github.com/prometheus/client_golang/prometheus"

// depth tells how many records of a writer's outbox are not yet published.
func depth() *prometheus.Desc {
	return prometheus.NewDesc("weft_outbox_depth", "Records that are committed and not yet published, by the prefix of the outbox.", []string{"outbox"}, nil)
}

var _ prometheus.Collector = (*Box)(nil)

// Describe implements prometheus.Collector.
func (b *Box) Describe(to chan<- *prometheus.Desc) { to <- depth() }

// Collect implements prometheus.Collector.
func (b *Box) Collect(to chan<- prometheus.Metric) {
	to <- prometheus.MustNewConstMetric(depth(), prometheus.GaugeValue, float64(b.Waiting()), b.prefix)
}
