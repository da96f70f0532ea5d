package scalinggroup

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
)

// The requests that a group's record keeps.
const (
	requestDesired = "desired"
	requestID      = "desired-id" // another with each command
)

// What is used where a spec says nothing.
const (
	defaultSurge       = 1
	defaultDrain       = 5 * time.Second
	defaultInterval    = 15 * time.Second
	defaultTolerance   = 10
	defaultCooldownOut = time.Minute
	defaultCooldownIn  = 5 * time.Minute
)

// duration gives a duration of a spec, or what is used where it says nothing.
func duration(d *durationpb.Duration, otherwise time.Duration) time.Duration {
	if d == nil {
		return otherwise
	}
	return d.AsDuration()
}

// reading is what a query yielded.
type reading struct {
	value float64
	err   error
}

// sight is what is known when a size is decided.
type sight struct {
	spec     *computev1.ScalingGroupSpec
	requests map[string]string
	// metric is what the query yielded just now; nil if it was not asked.
	metric *reading
	now    time.Time
}

// documentDesired gives the size that the document wants.
func documentDesired(spec *computev1.ScalingGroupSpec) int32 {
	if spec.Desired == nil {
		return spec.GetMin()
	}
	return spec.GetDesired()
}

// resize decides how many members are wanted, and writes it into what was observed, with the reason. Whoever changed it
// last is right: the document, when its own number is another; a command; the clock; and the metric, within its
// cool-downs. Nothing of it is asked twice: what was taken is noted.
func resize(o *computev1.ScalingGroupObserved, s sight) {
	before, first := o.GetDesired(), o.GetScheduleTime() == nil
	desired, reason := before, o.GetReason()
	if document := documentDesired(s.spec); first || document != o.GetDocumentDesired() {
		o.DocumentDesired, desired, reason = document, document, "the document says so"
	}
	if id := s.requests[requestID]; id != o.GetRequest() {
		o.Request = id
		if n, err := strconv.ParseInt(s.requests[requestDesired], 10, 32); err == nil {
			desired, reason = int32(n), "asked for by command"
		}
	}
	if first {
		o.ScheduleTime = timestamppb.New(s.now)
	}
	if at, size, ok := lastFiring(s.spec.GetSchedules(), o.GetScheduleTime().AsTime(), s.now); ok {
		desired, reason = size.GetDesired(), fmt.Sprintf("the schedule %q said so at %s", size.GetCron(), at.UTC().Format(time.RFC3339))
		o.ScheduleTime = timestamppb.New(at)
	}
	decided := desired != before || reason != o.GetReason()
	if s.spec.GetMetric() == nil {
		o.Metric = nil
	} else if wanted, ok := measure(o, s, desired); ok && !decided {
		desired, reason = wanted, fmt.Sprintf("the metric is %.6g for each target of %.6g", s.metric.value, s.spec.GetMetric().GetTarget())
	}
	if bounded := min(max(desired, s.spec.GetMin()), s.spec.GetMax()); bounded != desired {
		desired, reason = bounded, reason+", within min and max"
	}
	if desired != before || first {
		o.ScaleTime = timestamppb.New(s.now)
		if o.GetMetric() != nil {
			o.Metric.BelowTime, o.Metric.BelowMost = nil, 0
		}
	}
	o.Desired, o.Reason = desired, reason
}

// measure notes what the metric says, and gives the size that it asks for once it may: a larger one when the last change is
// long enough ago, a smaller one when it asked for fewer for all of that time; then as many as it asked for at most. What
// failed says nothing, and what went before it counts no more.
func measure(o *computev1.ScalingGroupObserved, s sight, desired int32) (int32, bool) {
	if o.GetMetric() == nil {
		o.Metric = &computev1.ScalingMetricObserved{}
	}
	m, want := o.GetMetric(), s.spec.GetMetric()
	if s.metric == nil {
		return 0, false
	}
	m.Time = timestamppb.New(s.now)
	if s.metric.err != nil {
		m.Error, m.BelowTime, m.BelowMost = s.metric.err.Error(), nil, 0
		return 0, false
	}
	m.Error, m.Value = "", s.metric.value
	asked, ok := asksFor(want, s.metric.value, o.GetReady(), desired)
	if !ok {
		m.BelowTime, m.BelowMost = nil, 0
		return 0, false
	}
	m.Wanted = min(max(asked, s.spec.GetMin()), s.spec.GetMax())
	rested := s.now.Sub(o.GetScaleTime().AsTime())
	switch {
	case m.GetWanted() > desired:
		m.BelowTime, m.BelowMost = nil, 0
		return m.GetWanted(), rested >= duration(want.GetCooldownOut(), defaultCooldownOut)
	case m.GetWanted() == desired:
		m.BelowTime, m.BelowMost = nil, 0
		return 0, false
	}
	if m.GetBelowTime() == nil {
		m.BelowTime, m.BelowMost = timestamppb.New(s.now), 0
	}
	m.BelowMost = max(m.GetBelowMost(), m.GetWanted())
	cooldown := duration(want.GetCooldownIn(), defaultCooldownIn)
	return m.GetBelowMost(), s.now.Sub(m.GetBelowTime().AsTime()) >= cooldown && rested >= cooldown
}

// asksFor gives the number of members at which a value is on target; the present one within the tolerance. It is false
// where the value says nothing: it is no average if nobody serves.
func asksFor(want *computev1.ScalingMetric, value float64, ready, desired int32) (int32, bool) {
	tolerance := float64(defaultTolerance) / 100
	if want.TolerancePercent != nil {
		tolerance = float64(want.GetTolerancePercent()) / 100
	}
	base := float64(ready)
	exact := base * value / want.GetTarget()
	if want.GetMeasure() == computev1.ScalingMeasure_SCALING_MEASURE_TOTAL {
		base, exact = float64(desired), value/want.GetTarget()
	} else if ready == 0 {
		return 0, false
	}
	if math.Abs(exact-base) <= tolerance*base {
		return desired, true
	}
	return int32(min(max(math.Ceil(exact), 0), math.MaxInt32)), true
}

// due gives the time until the metric is asked for next; 0 means now.
func due(o *computev1.ScalingGroupObserved, m *computev1.ScalingMetric, now time.Time) time.Duration {
	if o.GetMetric().GetTime() == nil {
		return 0
	}
	return max(duration(m.GetInterval(), defaultInterval)-now.Sub(o.GetMetric().GetTime().AsTime()), 0)
}

// same tells whether nothing was observed that is news.
func same(a, b *computev1.ScalingGroupObserved) bool { return proto.Equal(a, b) }
