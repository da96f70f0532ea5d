package service

import "github.com/prometheus/client_golang/prometheus"

// series are what a service tells Prometheus of its records.
type series struct{ fenced, shards *prometheus.Desc }

func describe() series {
	return series{
		fenced: prometheus.NewDesc("weft_fence_rejections_total", "Writes that the store refused because another replica owns the record's shard.", []string{"service"}, nil),
		shards: prometheus.NewDesc("weft_record_shards", "Shards of records that this process works on.", []string{"service"}, nil),
	}
}

var _ prometheus.Collector = (*Service)(nil)

// Describe implements prometheus.Collector.
func (s *Service) Describe(to chan<- *prometheus.Desc) {
	m := describe()
	to <- m.fenced
	to <- m.shards
}

// Collect implements prometheus.Collector.
func (s *Service) Collect(to chan<- prometheus.Metric) {
	m, now := describe(), s.Stats()
	to <- prometheus.MustNewConstMetric(m.fenced, prometheus.CounterValue, float64(now.FenceRejections), s.catalog.Service)
	to <- prometheus.MustNewConstMetric(m.shards, prometheus.GaugeValue, float64(now.Shards), s.catalog.Service)
}
