package enginebench

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/weftcloud/weft/pkg/testkit"
)

// loads are how many sagas are under way at once, and how many are run in all.
var loads = []struct{ atOnce, sagas int }{{1, 50}, {16, 300}, {64, 500}, {256, 768}}

// row is what was measured of one shape under one load.
type row struct {
	shape                   string
	atOnce                  int
	sagas                   float64 // in a second
	cpu                     time.Duration
	p50, p99                time.Duration
	steps                   float64 // of one saga, those of the way back included
	transactions, committed float64
	messages                float64
}

// BenchmarkSagas runs sagas of ten steps, and prints what they cost beside what the store and the bus can do.
func BenchmarkSagas(b *testing.B) {
	r := newRig(b)
	limits := r.raw(b)
	r.orchestrate(testkit.Logger(b))
	var rows []row
	for _, s := range slices.Concat(shapes, inboxOnly()) {
		r.atOnce.Store(s.inboxOnly)
		r.run(b, s, 16, 32) // what is made at the first use of it is not measured
		for _, load := range loads {
			b.Run(fmt.Sprintf("%s/%d", s.name, load.atOnce), func(b *testing.B) {
				for b.Loop() {
					got := r.run(b, s, load.atOnce, load.sagas)
					got.report(b, limits)
					rows = append(rows, got)
				}
			})
		}
	}
	if err := show(limits, rows); err != nil {
		b.Fatal(err)
	}
}

// run runs sagas of a shape, so many at once.
func (r *rig) run(b *testing.B, s shape, atOnce, sagas int) row {
	b.Helper()
	took, names := make([]time.Duration, sagas), make([]string, sagas)
	var next atomic.Int64
	var group sync.WaitGroup
	before := r.read()
	for range atOnce {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < sagas; i = int(next.Add(1)) - 1 {
				if names[i], took[i] = r.one(b, s); b.Failed() {
					return
				}
			}
		})
	}
	group.Wait()
	after := r.read()
	if b.Failed() {
		b.FailNow()
	}
	r.check(b, s, names)
	used, n := after.since(before), float64(sagas)
	slices.Sort(took)
	out := row{
		shape: s.name, atOnce: atOnce, sagas: n / after.at.Sub(before.at).Seconds(), cpu: used.cpu / time.Duration(sagas),
		p50: took[sagas/2], p99: took[sagas*99/100], steps: steps,
		transactions: float64(used.transactions) / n, committed: float64(used.committed) / n, messages: float64(used.messages) / n,
	}
	if s.fails {
		out.steps *= 2
	}
	return out
}

// patience is how long a saga may take before something must be wrong.
const patience = 2 * time.Minute

// check holds how sagas ended against how they are to end.
func (r *rig) check(b *testing.B, s shape, names []string) {
	b.Helper()
	for _, name := range names {
		summary, err := r.engine.Read(b.Context(), name)
		if err != nil {
			b.Fatal(err)
		}
		if got := summary.GetOperation(); got.GetState() != s.end {
			b.Fatalf("%s ended as %s, want %s: %v", name, got.GetState(), s.end, got.GetFault())
		}
	}
}

// one runs one saga and tells its name and how long it took, from Begin until its end was seen.
func (r *rig) one(b *testing.B, s shape) (string, time.Duration) {
	plan, changing := s.saga(r.sagas.Add(1), time.Now())
	over := r.await(plan.GetName())
	began := time.Now()
	if err := r.engine.Begin(b.Context(), plan, changing, 0); err != nil {
		b.Errorf("begin %s: %v", plan.GetName(), err)
		return plan.GetName(), 0
	}
	select {
	case end := <-over:
		return plan.GetName(), end.Sub(began)
	case <-time.After(patience):
		now, err := r.engine.Read(b.Context(), plan.GetName())
		b.Errorf("%s did not end within %s: it is %s, error %v", plan.GetName(), patience, now.GetOperation().GetState(), err)
		return plan.GetName(), patience
	}
}

// report gives the benchmark's figures of a row.
func (w row) report(b *testing.B, limits raw) {
	b.ReportMetric(w.sagas, "sagas/s")
	b.ReportMetric(w.sagas*w.steps, "steps/s")
	b.ReportMetric(w.cpu.Seconds()*1e3, "CPU-ms/saga")
	b.ReportMetric(w.p50.Seconds()*1e3, "ms-p50")
	b.ReportMetric(w.p99.Seconds()*1e3, "ms-p99")
	b.ReportMetric(w.transactions, "txns/saga")
	b.ReportMetric(w.messages, "messages/saga")
	b.ReportMetric(w.perTransaction(limits), "CPU-step/CPU-txn")
	b.ReportMetric(w.perTrip(limits), "CPU-step/CPU-trip")
}

// perTransaction gives the CPU time of a step as a multiple of that of a batched transaction, perTrip of that of a command
// and its outcome.
func (w row) perTransaction(limits raw) float64 {
	return w.cpu.Seconds() / w.steps / limits.batched.each.Seconds()
}

func (w row) perTrip(limits raw) float64 {
	return w.cpu.Seconds() / w.steps / limits.roundTrip.each.Seconds()
}

// perWait gives the time of a step as a multiple of that of a transaction and a round trip by themselves.
func (w row) perWait(limits raw) float64 {
	return w.p50.Seconds() / w.steps / (limits.alone.p50 + limits.lonely.p50).Seconds()
}

// show prints the table.
func show(limits raw, rows []row) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(format string, args ...any) error {
		_, err := fmt.Fprintf(w, format+"\t\n", args...)
		return err
	}
	err := line("\nlimit\tp50 ms\tCPU µs\tper second")
	for _, l := range []limit{limits.alone, limits.batched, limits.lonely, limits.roundTrip, limits.participant} {
		if err == nil {
			err = line("%s\t%.2f\t%d\t%.0f", l.name, l.p50.Seconds()*1e3, l.each.Microseconds(), l.second)
		}
	}
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = line("\nshape\tat once\tsagas/s\tsteps/s\tCPU ms/saga\tp50 ms\tp99 ms\ttxns/saga\tcommits/saga\tmessages/saga\tsteps/s ÷ txns/s\tsteps/s ÷ trips/s\tCPU step ÷ txn\tCPU step ÷ trip\tp50 step ÷ (txn + trip)")
	}
	for _, r := range rows {
		if err == nil {
			err = line("%s\t%d\t%.0f\t%.0f\t%.2f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.2f\t%.2f\t%.1f\t%.1f\t%.1f",
				r.shape, r.atOnce, r.sagas, r.sagas*r.steps, r.cpu.Seconds()*1e3, r.p50.Seconds()*1e3, r.p99.Seconds()*1e3,
				r.transactions, r.committed, r.messages,
				r.sagas*r.steps/limits.batched.second, r.sagas*r.steps/limits.roundTrip.second,
				r.perTransaction(limits), r.perTrip(limits), r.perWait(limits))
		}
	}
	if err != nil {
		return err
	}
	return w.Flush()
}
