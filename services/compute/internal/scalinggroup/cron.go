package scalinggroup

import (
	"strconv"
	"strings"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
)

// Lines of crontab(5): minute, hour, day of the month, month, day of the week. A field is *, or a list of numbers, names
// and ranges, each with a step behind a slash. If both days are restricted, one of them suffices, as cron(8) has it; a day
// is restricted unless its field begins with a star. A time that the clock leaves out when it is put forward does not fire.

// cronField says what a field may hold.
type cronField struct {
	name          string
	low, high     int
	names         []string // of low and what follows
	sundayIsSeven bool     // 7 is Sunday, as 0 is
}

// cronFields are the fields in their order.
func cronFields() []cronField {
	return []cronField{
		{name: "minute", high: 59},
		{name: "hour", high: 23},
		{name: "day of the month", low: 1, high: 31},
		{name: "month", low: 1, high: 12, names: []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
		{name: "day of the week", high: 7, names: []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}, sundayIsSeven: true},
	}
}

// cronLine is a line that was read: the values of each field, as bits.
type cronLine struct {
	bits       [5]uint64
	anyDay     bool // the day of the month is not restricted
	anyWeekday bool // nor is the day of the week
	location   *time.Location
}

// parseCron reads a line. The error is Invalid.
func parseCron(line, zone string) (cronLine, error) {
	parts := strings.Fields(line)
	fields := cronFields()
	if len(parts) != len(fields) {
		return cronLine{}, fault.New(fault.Invalid, "%q has %d fields, not the five of minute, hour, day of the month, month, day of the week", line, len(parts))
	}
	out := cronLine{anyDay: strings.HasPrefix(parts[2], "*"), anyWeekday: strings.HasPrefix(parts[4], "*")}
	for i, f := range fields {
		bits, err := f.parse(parts[i])
		if err != nil {
			return cronLine{}, err
		}
		out.bits[i] = bits
	}
	location, err := time.LoadLocation(zone)
	if err != nil {
		return cronLine{}, fault.New(fault.Invalid, "there is no time zone %q; name it as the IANA does, e.g. Asia/Shanghai", zone)
	}
	out.location = location
	return out, nil
}

// parse reads a field.
func (f cronField) parse(text string) (uint64, error) {
	var bits uint64
	for _, item := range strings.Split(text, ",") {
		span, step, stepped := strings.Cut(item, "/")
		every := 1
		if stepped {
			n, err := strconv.Atoi(step)
			if err != nil || n < 1 {
				return 0, fault.New(fault.Invalid, "the %s %q has a step that is no number above 0", f.name, item)
			}
			every = n
		}
		low, high, err := f.span(span, stepped)
		if err != nil {
			return 0, err
		}
		for v := low; v <= high; v += every {
			if f.sundayIsSeven && v == 7 {
				bits |= 1
				continue
			}
			bits |= 1 << v
		}
	}
	return bits, nil
}

// span reads a star, a value, or a range. A value with a step begins a range to the end.
func (f cronField) span(text string, stepped bool) (low, high int, err error) {
	if text == "*" {
		return f.low, f.high, nil
	}
	from, to, ranged := strings.Cut(text, "-")
	if low, err = f.value(from); err != nil {
		return 0, 0, err
	}
	switch {
	case ranged:
		high, err = f.value(to)
	case stepped:
		high = f.high
	default:
		high = low
	}
	if err == nil && high < low {
		err = fault.New(fault.Invalid, "the %s %q ends before it begins", f.name, text)
	}
	return low, high, err
}

func (f cronField) value(text string) (int, error) {
	for i, name := range f.names {
		if strings.EqualFold(name, text) {
			return f.low + i, nil
		}
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < f.low || n > f.high {
		return 0, fault.New(fault.Invalid, "%q is no %s: it is between %d and %d", text, f.name, f.low, f.high)
	}
	return n, nil
}

// fires tells whether the line fires in the minute of a time.
func (c cronLine) fires(at time.Time) bool {
	at = at.In(c.location)
	has := func(field, value int) bool { return c.bits[field]&(1<<value) != 0 }
	if !has(0, at.Minute()) || !has(1, at.Hour()) || !has(3, int(at.Month())) {
		return false
	}
	day, weekday := has(2, at.Day()), has(4, int(at.Weekday()))
	if !c.anyDay && !c.anyWeekday {
		return day || weekday
	}
	return day && weekday
}

// longestGap bounds how far back firings are looked for: who was away for longer starts from there.
const longestGap = 32 * 24 * time.Hour

// lastFiring gives the last time after one and up to another at which a schedule fires, and the schedule; of several that
// fire at once the last in the list. Lines that cannot be read fire never: they are refused before.
func lastFiring(schedules []*computev1.ScalingSchedule, after, until time.Time) (time.Time, *computev1.ScalingSchedule, bool) {
	lines := make([]cronLine, 0, len(schedules))
	var kept []*computev1.ScalingSchedule
	for _, s := range schedules {
		if line, err := parseCron(s.GetCron(), s.GetTimeZone()); err == nil {
			lines, kept = append(lines, line), append(kept, s)
		}
	}
	if until.Sub(after) > longestGap {
		after = until.Add(-longestGap)
	}
	for at := until.Truncate(time.Minute); len(lines) > 0 && at.After(after); at = at.Add(-time.Minute) {
		for i := len(lines) - 1; i >= 0; i-- {
			if lines[i].fires(at) {
				return at, kept[i], true
			}
		}
	}
	return time.Time{}, nil, false
}

// untilNextMinute gives the time until schedules are to be looked at again.
func untilNextMinute(now time.Time) time.Duration {
	return now.Truncate(time.Minute).Add(time.Minute).Sub(now)
}
