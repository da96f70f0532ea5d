// Package budget shares out the API calls that one account at a cloud allows.
//
// A Budget is a bucket of tokens, one for each call, with a line of those who wait for one. Who is next is decided when a
// token is there, not when somebody comes: undo before what a person waits for, that before the rest, and within a class
// one tenant after the other. A provider that says that it is too much (HTTP 429, RFC 6585; Retry-After, RFC 9110,
// section 10.2.3) stops all calls of the account for as long as it asks.
//
// # The rate
//
//	too much   the rate is halved, once however many calls were refused together, and no token is kept
//	afterwards it grows evenly: in recovery it is where it was; then the step doubles, until it is what was configured
//
// A provider that allows less than what was configured is so found out with a few refused calls, and asked for a little
// more from time to time.
//
// # Several processes
//
// See Registry: each process has its own Budget of an account, and they divide the rate between them.
package budget

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
)

// Class orders work that waits for a call. The greater comes first.
type Class int

// The classes. The zero value is the usual work.
const (
	// Normal is work that nobody waits for at a screen, e.g. the steps of a saga.
	Normal Class = iota
	// Interactive is a single change or a look, made by a person who waits for it.
	Interactive
	// Undo takes back what failed: it frees what others wait for.
	Undo

	classes = int(Undo) + 1
)

// String gives the class's name, as metrics have it.
func (c Class) String() string { return [classes]string{"normal", "interactive", "undo"}[c] }

const (
	// guaranteed is how often a class may be passed over while it waits before it is served once: one call in ten is its
	// own, whatever waits above it.
	guaranteed = 9
	// shortestPause is how long calls stop at least once one was refused.
	shortestPause = time.Second
	// longestPause bounds what a provider can ask for, lest a slip of its clock stops an account for good.
	longestPause = time.Hour
	// recovery is how long it takes from a rate that was cut back to what it was.
	recovery = 30 * time.Second
	// slowest is the least part of the configured rate that refusals can bring it down to.
	slowest = 1.0 / 64
	// nearly is 1, but for what is lost in adding fractions of tokens.
	nearly = 1 - 1e-6
)

// Config is what a Budget is made of.
type Config struct {
	// Rate is how many calls may be made a second; > 0.
	Rate float64
	// Burst is how many calls may be made at once after a rest; 0 means those of a quarter of a second. It is at least 1.
	Burst float64
	// InFlight is how many calls may be under way at once; 0 means 64. Of these Normal leaves a quarter free and
	// Interactive an eighth, so that a cloud that does not answer usual work still takes the rest.
	InFlight int
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Budget is the calls of one account. All methods are safe for concurrent use.
type Budget struct {
	now      func() time.Time
	burst    float64 // 0: by the rate
	inFlight int

	mu     sync.Mutex
	full   float64   // the configured rate of the account
	rate   float64   // the rate of the account at last
	step   float64   // by how much the rate grows in a second
	goal   float64   // at which rate the step doubles
	share  float64   // of the rate, that of this process
	tokens float64   // at last
	last   time.Time // until when tokens and rate are counted
	until  time.Time // no call before
	own    time.Time // until when this process itself was asked to pause
	lines  [classes]line
	passed [classes]int
	flying int
	timer  *time.Timer

	used, throttled uint64
	kick            func() // told, under the lock, of what the other processes should know soon; nil for nobody
}

// New makes a budget with a full bucket.
func New(c Config) *Budget {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.InFlight == 0 {
		c.InFlight = 64
	}
	b := &Budget{now: c.Now, burst: c.Burst, inFlight: c.InFlight, full: c.Rate, rate: c.Rate, goal: c.Rate, share: 1, last: c.Now()}
	b.tokens = b.capacity()
	return b
}

// Acquire waits for a call of a class on behalf of a tenant. Without an error the call may be made, and Done MUST be
// called when it has ended. The error is Unavailable, if ctx ends before.
func (b *Budget) Acquire(ctx context.Context, class Class, tenant string) error {
	t := b.Enter(class, tenant)
	select {
	case <-t.Ready():
		return nil
	case <-ctx.Done():
		t.Cancel()
		return fault.As(fault.Unavailable, fault.Wrap(ctx.Err(), "wait for a call"))
	}
}

// Done says that a call that was acquired has ended.
func (b *Budget) Done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flying--
	b.used++
	b.dispatch()
}

// Enter stands in line for a call, without waiting. The ticket MUST end with Done or Cancel.
func (b *Budget) Enter(class Class, tenant string) *Ticket {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := &Ticket{budget: b, class: class, tenant: tenant, ready: make(chan struct{})}
	b.lines[class].push(t)
	b.dispatch()
	if t.waits && b.kick != nil && b.lines[class].waiting == 1 {
		b.kick()
	}
	return t
}

// Throttled says that the provider refused a call because it was one too many, and asked to wait for retryAfter; 0 if it
// did not say how long.
func (b *Budget) Throttled(retryAfter time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.throttled++
	b.own = b.pause(retryAfter)
	if b.kick != nil {
		b.kick()
	}
}

// obey pauses because another process was asked to.
func (b *Budget) obey(pause time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pause(pause)
}

// pause stops all calls and cuts the rate, and tells until when. Calls that were under way together are refused together:
// the rate is cut once for all of them.
func (b *Budget) pause(d time.Duration) time.Time {
	now := b.now()
	b.settle(now)
	first := !now.Before(b.until)
	until := now.Add(min(max(d, shortestPause), longestPause))
	if until.After(b.until) {
		b.until = until
	}
	b.tokens, b.last = 0, b.until
	if first {
		b.goal = b.rate
		b.rate = max(b.rate/2, b.full*slowest)
		b.step = b.rate / recovery.Seconds()
	}
	b.dispatch()
	return b.until
}

// SetRate changes the configured rate; what refusals have taught is kept in proportion.
func (b *Budget) SetRate(perSecond float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if perSecond == b.full {
		return
	}
	b.settle(b.now())
	by := perSecond / b.full
	b.full, b.rate, b.goal, b.step = perSecond, b.rate*by, b.goal*by, b.step*by
	b.dispatch()
}

// setShare sets the part of the account's rate that this process may use.
func (b *Budget) setShare(share float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if share == b.share {
		return
	}
	b.settle(b.now())
	b.share = share
	b.tokens = min(b.tokens, b.capacity())
	b.dispatch()
}

// capacity is how many tokens are kept at most.
func (b *Budget) capacity() float64 {
	burst := b.burst
	if burst == 0 {
		burst = b.full / 4
	}
	return max(1, burst*b.share*b.rate/b.full)
}

// settle counts what has come since it was last counted: tokens, and the growth of the rate.
func (b *Budget) settle(now time.Time) {
	elapsed := now.Sub(b.last).Seconds()
	if elapsed <= 0 {
		return // paused, or the clock was set back
	}
	b.last = now
	for elapsed > 0 && b.rate < b.full {
		part := min(elapsed, (min(b.goal, b.full)-b.rate)/b.step)
		b.tokens += (b.rate + b.step*part/2) * part * b.share
		b.rate += b.step * part
		elapsed -= part
		if b.rate >= b.goal*nearly && b.goal < b.full {
			b.rate, b.step, b.goal = b.goal, b.goal/recovery.Seconds(), 2*b.goal
		}
		if b.rate >= b.full*nearly {
			b.rate, b.goal = b.full, b.full
		}
	}
	b.tokens = min(b.tokens+b.rate*elapsed*b.share, b.capacity())
}

// dispatch lets through who may go now, and sets the timer for who is next. The caller holds the lock.
func (b *Budget) dispatch() {
	now := b.now()
	b.settle(now)
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
	for !now.Before(b.until) && b.tokens >= nearly {
		t := b.next()
		if t == nil {
			return
		}
		b.tokens--
		b.flying++
		close(t.ready)
	}
	if !b.anyone() {
		return
	}
	wait := time.Duration(math.Ceil((1 - b.tokens) / (b.rate * b.share) * float64(time.Second)))
	if now.Before(b.last) {
		wait += b.last.Sub(now) // tokens come from the end of the pause on
	}
	b.timer = time.AfterFunc(max(wait, 0), func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.dispatch()
	})
}

// may tells whether a class has somebody waiting and room for another call under way.
func (b *Budget) may(class int) bool {
	free := [classes]int{Normal: b.inFlight / 4, Interactive: b.inFlight / 8}
	return b.lines[class].waiting > 0 && b.flying < b.inFlight-free[class]
}

func (b *Budget) anyone() bool {
	for class := range classes {
		if b.may(class) {
			return true
		}
	}
	return false
}

// next takes who is next out of the line; nil if nobody may go.
func (b *Budget) next() *Ticket {
	chosen := -1
	for class := range classes {
		if b.may(class) && b.passed[class] >= guaranteed {
			chosen = class
			break
		}
	}
	for class := classes - 1; chosen < 0 && class >= 0; class-- {
		if b.may(class) {
			chosen = class
		}
	}
	if chosen < 0 {
		return nil
	}
	b.passed[chosen] = 0
	for class := range chosen {
		if b.may(class) {
			b.passed[class]++
		}
	}
	return b.lines[chosen].pop()
}

// Stats are figures of a budget.
type Stats struct {
	// Waiting is how many wait, by class.
	Waiting [classes]int
	// InFlight is how many calls are under way.
	InFlight int
	// Rate is how many calls a second this process may make now; AccountRate how many all processes may.
	Rate, AccountRate float64
	// Used counts the calls that have ended, Throttled those that the provider refused here as too many.
	Used, Throttled uint64
	// Paused is for how long no call is made from now on; 0 if calls are made.
	Paused time.Duration
}

// Stats gives the figures as they stand.
func (b *Budget) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	b.settle(now)
	s := Stats{
		InFlight: b.flying, Rate: b.rate * b.share, AccountRate: b.rate, Used: b.used, Throttled: b.throttled, Paused: max(b.until.Sub(now), 0),
	}
	for class := range classes {
		s.Waiting[class] = b.lines[class].waiting
	}
	return s
}
