package scalinggroup

import (
	"errors"
	"math"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
)

// noon is a time to count from.
func noon() time.Time { return time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC) } // a Monday

func seconds(n int64) *durationpb.Duration { return &durationpb.Duration{Seconds: n} }

// TestResize holds who decides the size, in one life of a group.
func TestResize(t *testing.T) {
	spec := &computev1.ScalingGroupSpec{Min: 1, Max: 6, Desired: proto.Int32(2)}
	o := &computev1.ScalingGroupObserved{}
	now := noon()
	step := func(name string, want int32, s sight) {
		t.Helper()
		now = now.Add(time.Minute)
		s.spec, s.now = spec, now
		resize(o, s)
		if o.GetDesired() != want {
			t.Errorf("%s: %d members (%s), want %d", name, o.GetDesired(), o.GetReason(), want)
		}
	}
	command := map[string]string{requestDesired: "4", requestID: "a"}
	step("at first", 2, sight{})
	step("by command", 4, sight{requests: command})
	step("the same document again", 4, sight{requests: command})
	spec = proto.CloneOf(spec)
	spec.Template = &computev1.ServerSpec{Image: "other"}
	step("the document says something else, and the same size", 4, sight{requests: command})
	spec = proto.CloneOf(spec)
	spec.Desired = proto.Int32(3)
	step("the document says another size", 3, sight{requests: command})
	step("by command again", 4, sight{requests: map[string]string{requestDesired: "4", requestID: "b"}})
	command = map[string]string{requestDesired: "4", requestID: "b"}
	spec = proto.CloneOf(spec)
	spec.Schedules = []*computev1.ScalingSchedule{{Cron: "10 12 * * mon", Desired: 6}, {Cron: "12 12 * * *", Desired: 1}}
	for now.Before(noon().Add(9 * time.Minute)) {
		step("before the clock", 4, sight{requests: command})
	}
	step("by the clock", 6, sight{requests: command})
	step("after the clock", 6, sight{requests: command})
	step("by the clock again", 1, sight{requests: command})
	spec = proto.CloneOf(spec)
	spec.Min = 2
	step("within new bounds", 2, sight{requests: command})
}

// metered gives a group that a metric decides the size of.
func metered(measure computev1.ScalingMeasure) *computev1.ScalingGroupSpec {
	return &computev1.ScalingGroupSpec{Min: 1, Max: 10, Metric: &computev1.ScalingMetric{
		Url: "http://here", Query: "q", Target: 10, Measure: measure, CooldownOut: seconds(30), CooldownIn: seconds(120),
	}}
}

// TestMetric holds what a metric does, value by value, each 15 s after the one before.
func TestMetric(t *testing.T) {
	total := computev1.ScalingMeasure_SCALING_MEASURE_TOTAL
	gone := errors.New("it does not answer")
	type say struct {
		value float64
		err   error
		want  int32
	}
	for name, tc := range map[string]struct {
		measure computev1.ScalingMeasure
		says    []say
	}{
		"larger when the last change is long enough ago": {total, []say{{35, nil, 1}, {35, nil, 4}, {55, nil, 4}, {55, nil, 6}}},
		"within the tolerance nothing":                   {total, []say{{10.9, nil, 1}, {10.9, nil, 1}, {9.2, nil, 1}, {11.2, nil, 2}}},
		"smaller only after a while, as many as were needed in it": {total, []say{
			{35, nil, 1}, {35, nil, 4}, {8, nil, 4}, {8, nil, 4}, {18, nil, 4}, {8, nil, 4}, {8, nil, 4}, {8, nil, 4}, {8, nil, 4}, {8, nil, 4}, {8, nil, 2},
		}},
		"a failed query is no value": {total, []say{
			{35, nil, 1}, {35, nil, 4}, {0, gone, 4}, {0, gone, 4}, {0, gone, 4}, {0, gone, 4}, {0, gone, 4}, {0, gone, 4}, {0, gone, 4}, {0, gone, 4}, {0, gone, 4}, {0, gone, 4},
		}},
		"an average": {0, []say{{25, nil, 1}, {25, nil, 3}, {10, nil, 3}, {14, nil, 5}}},
		"the bounds": {total, []say{{1e9, nil, 1}, {1e9, nil, 10}, {math.MaxFloat64, nil, 10}}},
	} {
		t.Run(name, func(t *testing.T) {
			o, spec, now := &computev1.ScalingGroupObserved{}, metered(tc.measure), noon()
			resize(o, sight{spec: spec, now: now})
			for i, s := range tc.says {
				now = now.Add(15 * time.Second)
				o.Ready = o.GetDesired()
				resize(o, sight{spec: spec, now: now, metric: &reading{s.value, s.err}})
				if o.GetDesired() != s.want {
					t.Fatalf("after value %d there are %d (%s), want %d", i, o.GetDesired(), o.GetReason(), s.want)
				}
				if (o.GetMetric().GetError() != "") != (s.err != nil) {
					t.Errorf("after value %d the error is %q", i, o.GetMetric().GetError())
				}
			}
		})
	}
}

// TestNoFlapping holds a metric that is all noise to the cool-downs: between two changes lies at least the cool-down of the
// second, and one that is steady within the tolerance changes nothing.
func TestNoFlapping(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := metered(rapid.SampledFrom([]computev1.ScalingMeasure{1, 2}).Draw(t, "measure"))
		o, now := &computev1.ScalingGroupObserved{}, noon()
		resize(o, sight{spec: spec, now: now})
		changed, desired := now, o.GetDesired()
		for range rapid.IntRange(1, 200).Draw(t, "values") {
			now = now.Add(time.Duration(rapid.IntRange(1, 20).Draw(t, "seconds")) * time.Second)
			o.Ready = rapid.Int32Range(0, o.GetDesired()).Draw(t, "ready")
			r := &reading{value: rapid.Float64Range(0, 100).Draw(t, "value")}
			if rapid.IntRange(0, 9).Draw(t, "fails") == 0 {
				r.err = errors.New("no answer")
			}
			resize(o, sight{spec: spec, now: now, metric: r})
			if o.GetDesired() == desired {
				continue
			}
			if r.err != nil {
				t.Fatal("a failed query changed the size")
			}
			least := 30 * time.Second
			if o.GetDesired() < desired {
				least = 120 * time.Second
			}
			if rested := now.Sub(changed); rested < least {
				t.Fatalf("from %d to %d after %s", desired, o.GetDesired(), rested)
			}
			changed, desired = now, o.GetDesired()
		}
		for range 50 { // steady
			now = now.Add(15 * time.Second)
			o.Ready = o.GetDesired()
			value := 10 + rapid.Float64Range(-0.9, 0.9).Draw(t, "noise")
			if spec.GetMetric().GetMeasure() == computev1.ScalingMeasure_SCALING_MEASURE_TOTAL {
				value *= float64(o.GetDesired())
			}
			resize(o, sight{spec: spec, now: now, metric: &reading{value: value}})
			if o.GetDesired() != desired {
				t.Fatalf("noise within the tolerance changed the size from %d to %d", desired, o.GetDesired())
			}
		}
	})
}

func TestCron(t *testing.T) {
	for line, tc := range map[string]struct {
		zone, yes, no string
	}{
		"0 8 * * mon-fri":       {"", "2026-03-02T08:00:00Z", "2026-03-01T08:00:00Z"},
		"0 8 * * 1-5 ":          {"Asia/Shanghai", "2026-03-02T00:00:00Z", "2026-03-02T08:00:00Z"},
		"*/15 0-6/2,22 * * *":   {"", "2026-03-02T04:45:00Z", "2026-03-02T05:45:00Z"},
		"5/20 * * JAN,Mar *":    {"", "2026-03-02T05:45:00Z", "2026-03-02T05:20:00Z"},
		"0 0 1 * sun":           {"", "2026-03-08T00:00:00Z", "2026-03-09T00:00:00Z"},
		"0 0 1 * 7":             {"", "2026-04-01T00:00:00Z", "2026-04-02T00:00:00Z"},
		"0 0 */2 * sun":         {"", "2026-03-15T00:00:00Z", "2026-03-08T00:00:00Z"},
		"59 23 31 12 *":         {"", "2026-12-31T23:59:59Z", "2026-12-30T23:59:00Z"},
		"30 2 29 2 *":           {"", "2028-02-29T02:30:00Z", "2026-03-01T02:30:00Z"},
		"0 12 * * tue,thu-sat ": {"America/New_York", "2026-07-02T16:00:00Z", "2026-07-01T16:00:00Z"},
	} {
		c, err := parseCron(line, tc.zone)
		if err != nil {
			t.Errorf("%q: %v", line, err)
			continue
		}
		for text, want := range map[string]bool{tc.yes: true, tc.no: false} {
			at, err := time.Parse(time.RFC3339, text)
			if err != nil {
				t.Fatal(err)
			}
			if c.fires(at) != want {
				t.Errorf("%q %s at %s: %v", line, tc.zone, text, !want)
			}
		}
	}
	for _, line := range []string{"", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "5-1 * * * *", "*/0 * * * *", "x * * * *", "1- * * * *", "* * * mon *"} {
		if _, err := parseCron(line, ""); err == nil {
			t.Errorf("%q is read", line)
		}
	}
	if _, err := parseCron("* * * * *", "Moon/Base"); err == nil {
		t.Error("a zone that does not exist is read")
	}
}
