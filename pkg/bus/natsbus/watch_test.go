package natsbus

import (
	"errors"
	"testing"
	"time"

	"github.com/weftcloud/weft/pkg/bus"
)

func TestSilence(t *testing.T) {
	const every = 10 * time.Second
	queue := bus.Queue{AckWait: 30 * time.Second, MaxAckPending: 4}
	same := func(n int, s sight) []sight {
		out := make([]sight, n)
		for i := range out {
			out[i] = s
		}
		return out
	}
	join := func(parts ...[]sight) []sight {
		var out []sight
		for _, p := range parts {
			out = append(out, p...)
		}
		return out
	}
	waits := sight{waiting: 1, delivered: 7, room: true}
	unacked := sight{unacked: 1, delivered: 7, room: true}
	tests := map[string]struct {
		looks []sight // one every 10 s
		want  error   // at the last look; at those before it nothing is wrong
	}{
		"nothing waits":                       {same(20, sight{delivered: 7, room: true}), nil},
		"messages wait, twice seen":           {same(2, waits), nil},
		"messages wait":                       {same(3, waits), errSilent},
		"they are delivered to somebody":      {[]sight{waits, waits, {waiting: 1, delivered: 8, room: true}, {waiting: 1, delivered: 9, room: true}}, nil},
		"and then no more":                    {join(same(2, waits), same(3, sight{waiting: 1, delivered: 8, room: true})), errSilent},
		"all handlers run":                    {same(20, sight{waiting: 1, delivered: 7}), nil},
		"one has become free":                 {join(same(20, sight{waiting: 1, delivered: 7}), same(3, waits)), errSilent},
		"some of the handlers run":            {same(3, sight{waiting: 1, unacked: 2, delivered: 7, room: true}), errSilent},
		"as many are unacked as may be":       {same(4, sight{waiting: 1, unacked: 4, delivered: 7, room: true}), nil},
		"and stay so beyond AckWait":          {same(6, sight{waiting: 1, unacked: 4, delivered: 7, room: true}), errOverdue},
		"unacked within AckWait":              {same(5, unacked), nil},
		"unacked beyond AckWait":              {same(6, unacked), errOverdue},
		"unacked beyond AckWait, no room":     {same(20, sight{unacked: 1, delivered: 7}), nil},
		"delivered again after AckWait":       {join(same(4, unacked), same(5, sight{unacked: 1, delivered: 8, room: true})), nil},
		"acked, and the next is not":          {[]sight{unacked, unacked, unacked, {delivered: 7, room: true}, unacked, unacked, unacked}, nil},
		"a fresh consumer delivers nothing":   {same(3, sight{waiting: 1, room: true}), errSilent},
		"a fresh consumer has nothing to do":  {same(9, sight{room: true}), nil},
		"what waited was taken away meantime": {[]sight{waits, waits, {delivered: 7, room: true}, waits, waits}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var s silence
			for i, look := range test.looks {
				look.at = time.Unix(0, 0).Add(time.Duration(i) * every)
				want := test.want
				if i < len(test.looks)-1 {
					want = nil
				}
				if got := s.see(look, queue, every); !errors.Is(got, want) || (got == nil) != (want == nil) {
					t.Errorf("look %d of %d: %v, want %v", i+1, len(test.looks), got, want)
				}
			}
		})
	}
}
