package scalinggroup

import (
	"cmp"
	"slices"

	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
)

// The states of a member, shorter.
const (
	pending   = computev1.MemberState_MEMBER_STATE_PENDING
	inService = computev1.MemberState_MEMBER_STATE_IN_SERVICE
	draining  = computev1.MemberState_MEMBER_STATE_DRAINING
	releasing = computev1.MemberState_MEMBER_STATE_RELEASING
	failed    = computev1.MemberState_MEMBER_STATE_FAILED
)

// member is one member as decisions see it.
type member struct {
	key   string
	state computev1.MemberState
	// current says that it is as the template has it; adaptable that it can be made so without being replaced.
	current, adaptable bool
	// drained says that it has been DRAINING for as long as it should.
	drained bool
}

// good tells whether a member counts towards what is wanted.
func (m member) good() bool { return m.current && (m.state == pending || m.state == inService) }

// wish is what is wanted of the members.
type wish struct {
	desired, surge, unavailable int
	// mayAdd says that members may be made now.
	mayAdd bool
}

// verb is what is done with a member.
type verb int

// The verbs.
const (
	// adapt changes the member to the template.
	adapt verb = iota
	// recall takes a draining member back into service.
	recall
	// drain tells a member as DRAINING.
	drain
	// remove deletes a member.
	remove
)

// action is one thing to do with a member.
type action struct {
	verb verb
	key  string
}

// decide gives what is next: what to do with members, and how many to add. Members are in the order in which they were
// made. It holds, whatever the members are, that
//
//   - no more are added than there may be: desired and surge, with those that are on their way out;
//   - none in service is drained if fewer than desired less unavailable would be left in service;
//   - whoever goes because there are too many goes before it serves, if it can, and else the newest first.
//
// Done again and again with what comes of it, it ends with desired members in service, all as the template has them.
func decide(members []member, w wish) (actions []action, add int) {
	d := &decision{members: slices.Clone(members), wish: w}
	d.out()
	d.adapt()
	d.shrink()
	d.roll()
	return d.actions, d.add()
}

// decision is a decision in the making: members are as they will be.
type decision struct {
	wish

	members []member
	actions []action
}

func (d *decision) do(v verb, at int, next computev1.MemberState) {
	d.actions = append(d.actions, action{v, d.members[at].key})
	d.members[at].state = next
}

func (d *decision) count(is func(member) bool) int {
	n := 0
	for _, m := range d.members {
		if is(m) {
			n++
		}
	}
	return n
}

func (d *decision) available() int {
	return d.count(func(m member) bool { return m.state == inService })
}

func (d *decision) good() int { return d.count(member.good) }

// out deals with those that failed or are on their way out. A draining member that is wanted after all is taken back.
func (d *decision) out() {
	for i, m := range d.members {
		switch {
		case m.state == failed:
			d.do(remove, i, releasing)
		case m.state == draining && m.current && d.good() < d.desired:
			d.do(recall, i, inService)
		case m.state == draining && m.drained:
			d.do(remove, i, releasing)
		}
	}
}

// adapt changes those that can be brought to the template as they are.
func (d *decision) adapt() {
	for i, m := range d.members {
		if !m.current && m.adaptable && (m.state == pending || m.state == inService) {
			d.do(adapt, i, m.state)
			d.members[i].current = true
		}
	}
}

// shrink takes away what is more than desired: first those that do not serve yet, then the newest.
func (d *decision) shrink() {
	order := make([]int, len(d.members))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(d.members[a].state, d.members[b].state), cmp.Compare(b, a)) // PENDING is less than IN_SERVICE
	})
	for _, i := range order {
		m := d.members[i]
		switch {
		case !m.good() || d.good() <= d.desired:
		case m.state == pending:
			d.do(remove, i, releasing)
		case d.available() > d.desired:
			d.do(drain, i, draining)
		}
	}
}

// roll takes away those that are not as the template has them, as far as enough stay in service.
func (d *decision) roll() {
	floor := max(d.desired-d.unavailable, 0)
	for i, m := range d.members {
		switch {
		case m.current:
		case m.state == pending:
			d.do(remove, i, releasing)
		case m.state == inService && d.available() > floor:
			d.do(drain, i, draining)
		}
	}
}

// add gives how many are to be made.
func (d *decision) add() int {
	if !d.mayAdd {
		return 0
	}
	return max(min(d.desired-d.good(), d.desired+d.surge-len(d.members)), 0)
}
