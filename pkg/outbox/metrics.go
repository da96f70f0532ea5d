package outbox

import "github.com/prometheus/client_golang/prometheus"

// depth tells how many records of an outbox are not yet published. A process may have several.
func (b *Box) depth() *prometheus.Desc {
	return prometheus.NewDesc("weft_outbox_depth", "Records that are committed and not yet published, by the prefix of the outbox.", nil, prometheus.Labels{"outbox": b.prefix})
}

var _ prometheus.Collector = (*Box)(nil)

// Describe implements prometheus.Collector.
func (b *Box) Describe(to chan<- *prometheus.Desc) { to <- b.depth() }

// Collect implements prometheus.Collector.
func (b *Box) Collect(to chan<- prometheus.Metric) {
	to <- prometheus.MustNewConstMetric(b.depth(), prometheus.GaugeValue, float64(b.Waiting()))
}
