package participant

import "github.com/prometheus/client_golang/prometheus"

// What became of commands, as metrics count them.
const (
	taken     = "taken"     // it changed a record
	duplicate = "duplicate" // what it asks for was asked for before, and is told again
	refused   = "refused"   // it came too late: the key is released, or another has overtaken it
)

func newCommands() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weft_participant_commands_total", Help: "Commands by what became of them: taken, duplicate, or refused as too late.",
	}, []string{"result"})
}

var _ prometheus.Collector = (*Inbox)(nil)

// Describe implements prometheus.Collector.
func (in *Inbox) Describe(to chan<- *prometheus.Desc) { in.commands.Describe(to) }

// Collect implements prometheus.Collector.
func (in *Inbox) Collect(to chan<- prometheus.Metric) { in.commands.Collect(to) }
