// Package scalinggroup makes a scaling group real: a number of servers from one template, kept at the size that is wanted.
//
// # Background
//
// A group is no object at a cloud. Its members are Server records of the same service, which bear the group as their owner;
// the ordinary loop and the ordinary drivers make them real, so a group works at every provider that has servers.
//
// # States of a member
//
//	PENDING ──ready, warm──▶ IN_SERVICE ──too many, or another template──▶ DRAINING ──drain period──▶ RELEASING ──gone──▶ (forgotten)
//	   │                         │  ▲                                          │
//	   │                         │  └──────────────wanted after all────────────┘
//	   └─────fault──▶ FAILED ◀──gone from the cloud, or fault─┘           FAILED ──▶ RELEASING, and another is made
//
// # Who may write
//
// The controller of the replica that owns the group's record writes the group's observed and adds, changes and releases the
// members' records; members refuse changes by clients. A client changes the group's spec, or asks for a size, which is kept
// beside the spec (see Record.requests).
//
// # What happens on a crash
//
// Each look reads the members' records, decides, writes the group's record, and only then acts on members, by what the
// group's record says: a member that is PENDING without a record is added under the key that the group keeps for it; one
// that is RELEASING is released; a released one without a record is forgotten. So a crash at any write leaves what the next
// look goes on from, and a key is never made twice.
package scalinggroup

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/participant"
	"github.com/weftcloud/weft/pkg/reconcile"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// Times of the controller.
const (
	// lookEvery is the time between two looks at the members at the cloud, if all stands as wanted.
	lookEvery = 10 * time.Second
	// missingGrace is how long a member must be missing at the cloud before it is believed to be gone: clouds list with a
	// delay.
	missingGrace = 2 * time.Second
	// longestPause bounds the time between two tries to make a member.
	longestPause = 5 * time.Minute
	// tries is how many members in a row may fail before a new size or template is given up.
	tries = 3
)

// serverType is the type of members.
const serverType = "compute.weft.cloud/Server"

// Controller is the controller of ScalingGroup.
type Controller struct {
	ask   func(ctx context.Context, m *computev1.ScalingMetric) reading
	looks *looks
}

// New makes the controller.
func New() *Controller { return &Controller{ask: newQuerier().ask, looks: newLooks()} }

// group is one look at one group.
type group struct {
	*reconcile.Hand

	spec     *computev1.ScalingGroupSpec
	observed *computev1.ScalingGroupObserved // as it will be
	parts    map[string]*record.Entry        // the members' records that stand, by key
	buried   map[string]bool                 // the keys of members that have been released
	reopen   []*record.Entry                 // members that the cloud shows otherwise than as wanted
	blame    error                           // why a member that was being made failed
	server   *resource.Kind
}

// Control implements reconcile.Controller.
func (c *Controller) Control(ctx context.Context, h *reconcile.Hand) (time.Duration, error) {
	g, err := c.open(ctx, h)
	if err != nil {
		return 0, err
	}
	if h.Entry.Record.GetRelease() {
		return g.release(ctx)
	}
	if h.Entry.Object.Status().GetPhase() == kindv1.Phase_PHASE_FAILED {
		return 0, nil
	}
	if h.Entry.Object.Status().GetPhase() != kindv1.Phase_PHASE_READY && g.observed.GetFailures() >= tries {
		g.observed.Failures, g.observed.NextAttemptTime = 0, nil // it was given up, and someone asks again
	}
	looked, err := c.look(ctx, g)
	if err != nil {
		return 0, err
	}
	g.see()
	c.measure(ctx, g)
	g.decide()
	if err := g.save(ctx); err != nil {
		return 0, err
	}
	if err := g.act(ctx); err != nil {
		return 0, err
	}
	return g.next(looked), nil
}

// open reads a group and its members.
func (c *Controller) open(ctx context.Context, h *reconcile.Hand) (*group, error) {
	spec, isSpec := h.Entry.Object.Spec().(*computev1.ScalingGroupSpec)
	observed, isObserved := h.Entry.Object.Observed().(*computev1.ScalingGroupObserved)
	if !isSpec || !isObserved {
		return nil, fault.New(fault.Internal, "%s is no scaling group", h.Entry.Name)
	}
	server, ok := h.Book.Kind(serverType)
	if !ok {
		return nil, fault.New(fault.Internal, "the kind %s is not linked in", serverType)
	}
	g := &group{Hand: h, spec: spec, observed: proto.CloneOf(observed), parts: map[string]*record.Entry{}, buried: map[string]bool{}, server: server}
	ids := make([]record.ID, 0, len(g.observed.GetMembers()))
	for _, m := range g.observed.GetMembers() {
		ids = append(ids, idOf(m))
	}
	h.Parts(ids) // before they are read: what is written from now on is told
	for _, id := range ids {
		if err := g.read(ctx, id); err != nil {
			return nil, err
		}
	}
	return g, nil
}

func idOf(m *computev1.Member) record.ID { return record.ID{Name: m.GetServer(), Key: m.GetKey()} }

// read reads the record of a member, or finds that it has been released.
func (g *group) read(ctx context.Context, id record.ID) error {
	e, err := g.Book.Get(ctx, id)
	if err == nil {
		e.Fence = g.Entry.Fence
		g.parts[id.Key] = e
		return nil
	}
	if !fault.Is(err, fault.NotFound) {
		return err
	}
	_, err = g.Book.Tombstone(ctx, id.Key)
	if err == nil {
		g.buried[id.Key] = true
		return nil
	}
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// look looks at the members in service at the cloud, if it is time, and tells how long the next look can wait.
func (c *Controller) look(ctx context.Context, g *group) (time.Duration, error) {
	wait := c.looks.wait(g.Entry.Key, g.Now())
	var standing []*record.Entry
	for _, m := range g.observed.GetMembers() {
		e := g.parts[m.GetKey()]
		if e != nil && (m.GetState() == inService || m.GetState() == draining) && e.Object.Status().GetPhase() == kindv1.Phase_PHASE_READY {
			standing = append(standing, e)
			if m.GetMissingTime() != nil {
				wait = min(wait, missingGrace-g.Now().Sub(m.GetMissingTime().AsTime()))
			}
		}
	}
	if wait > 0 || len(standing) == 0 {
		return max(wait, 0), nil
	}
	asked := g.Now()
	seen, err := g.Observe(ctx, standing)
	if err != nil {
		if !fault.Retryable(err) {
			g.Warn("look at the members; what is known of them stands", err) // a failed look is no reason to fail the group
			return lookEvery, nil
		}
		return 0, fault.Wrap(err, "look at the members of %s", g.Entry.Name)
	}
	c.looks.done(g.Entry.Key, asked)
	for _, e := range standing {
		o, present := seen[e.Object.Status().GetProviderId()]
		g.found(e, o, present, asked)
	}
	return lookEvery, nil
}

// found notes what the cloud shows of a member.
func (g *group) found(e *record.Entry, o driver.Observation[proto.Message], present bool, asked time.Time) {
	m := g.member(e.Key)
	switch {
	case present && o.State == driver.Failed:
		m.State, m.MissingTime = failed, nil
	case present:
		m.MissingTime = nil
		if o.State == driver.Outdated {
			g.reopen = append(g.reopen, e)
		}
	case m.GetMissingTime() == nil:
		m.MissingTime = timestamppb.New(asked)
	case asked.Sub(m.GetMissingTime().AsTime()) >= missingGrace:
		m.State = failed
	}
}

func (g *group) member(key string) *computev1.Member {
	for _, m := range g.observed.GetMembers() {
		if m.GetKey() == key {
			return m
		}
	}
	return nil
}

// see brings the members to what their records say, and forgets those that are gone.
func (g *group) see() {
	var kept []*computev1.Member
	g.observed.Ready = 0
	for _, m := range g.observed.GetMembers() {
		e := g.parts[m.GetKey()]
		if e == nil && (g.buried[m.GetKey()] || m.GetState() != pending) {
			continue // gone, or never asked for
		}
		kept = append(kept, m)
		if e == nil {
			continue // to be added
		}
		g.seeOne(m, e)
		if m.GetState() == inService {
			g.observed.Ready++
		}
	}
	g.observed.Members = kept
}

func (g *group) seeOne(m *computev1.Member, e *record.Entry) {
	status := e.Object.Status()
	m.ProviderId = status.GetProviderId()
	if o, ok := e.Object.Observed().(*computev1.ServerObserved); ok && o.GetAddress() != "" {
		m.Address = o.GetAddress()
	}
	switch {
	case e.Record.GetRelease():
		m.State = releasing
	case m.GetState() == releasing, m.GetState() == draining && status.GetPhase() != kindv1.Phase_PHASE_FAILED:
	case status.GetPhase() == kindv1.Phase_PHASE_FAILED:
		if m.GetState() == pending {
			g.stumbled(fault.FromProto(status.GetFault()))
		}
		m.State = failed
	case status.GetPhase() == kindv1.Phase_PHASE_READY && m.GetState() == pending:
		if m.GetReadyTime() == nil {
			m.ReadyTime = timestamppb.New(g.Now())
		}
		if g.warming(m) > 0 {
			return
		}
		m.State = inService
		g.observed.Failures, g.observed.NextAttemptTime = 0, nil
	}
}

// warming gives the time that a member that runs still needs until it serves.
func (g *group) warming(m *computev1.Member) time.Duration {
	return m.GetReadyTime().AsTime().Add(g.spec.GetWarmUp().AsDuration()).Sub(g.Now())
}

// stumbled notes that a member failed before it was in service: the next is made later.
func (g *group) stumbled(err error) {
	g.blame = err
	g.observed.Failures++
	wait := min(time.Second<<min(g.observed.GetFailures()-1, 10), longestPause)
	g.observed.NextAttemptTime = timestamppb.New(g.Now().Add(wait))
}

// measure asks the metric, if it is time, and decides the size.
func (c *Controller) measure(ctx context.Context, g *group) {
	s := sight{spec: g.spec, requests: g.Entry.Record.GetRequests()}
	if m := g.spec.GetMetric(); m != nil && g.observed.GetScheduleTime() != nil && due(g.observed, m, g.Now()) == 0 {
		g.Aside(func() {
			r := c.ask(ctx, m)
			s.metric = &r
		})
	}
	s.now = g.Now()
	resize(g.observed, s)
}

// decide decides what is done with the members, and notes it.
func (g *group) decide() {
	now := g.Now()
	actions, add := decide(g.members(now), g.wish(now))
	for _, a := range actions {
		m := g.member(a.key)
		switch a.verb {
		case recall:
			m.State, m.DrainTime = inService, nil
		case drain:
			m.State, m.DrainTime = draining, timestamppb.New(now)
		case remove:
			m.State = releasing
		case adapt: // the record of the member is changed, see act
		}
	}
	for range add {
		g.observed.LastNumber++
		g.observed.Members = append(g.observed.Members, &computev1.Member{
			Server: g.memberName(g.observed.GetLastNumber()), Key: uuid.Must(uuid.NewV7()).String(), State: pending,
		})
	}
	g.observed.Ready = 0
	for _, m := range g.observed.GetMembers() {
		if m.GetState() == inService {
			g.observed.Ready++
		}
	}
}

// members gives the members as decisions see them.
func (g *group) members(now time.Time) []member {
	period := duration(g.spec.GetDrainPeriod(), defaultDrain)
	out := make([]member, 0, len(g.observed.GetMembers()))
	for _, m := range g.observed.GetMembers() {
		one := member{key: m.GetKey(), state: m.GetState(), current: true}
		one.drained = m.GetDrainTime() != nil && now.Sub(m.GetDrainTime().AsTime()) >= period
		if e := g.parts[m.GetKey()]; e != nil {
			spec, ok := e.Object.Spec().(*computev1.ServerSpec)
			one.current = ok && participant.Same(e, g.spec.GetTemplate(), g.labels(), g.references())
			one.adaptable = ok && canAdapt(spec, g.spec.GetTemplate()) && g.sameHeld(e)
		}
		out = append(out, one)
	}
	return out
}

func (g *group) wish(now time.Time) wish {
	w := wish{desired: int(g.observed.GetDesired()), surge: defaultSurge, unavailable: int(g.spec.GetMaxUnavailable()), mayAdd: true}
	if g.spec.MaxSurge != nil {
		w.surge = int(g.spec.GetMaxSurge())
	}
	if at := g.observed.GetNextAttemptTime(); at != nil && now.Before(at.AsTime()) {
		w.mayAdd = false
	}
	return w
}

// memberName gives the name of a member: the group's with a number.
func (g *group) memberName(number int32) string {
	parsed := strings.Split(g.Entry.Name, "/")
	return g.server.FullName(resource.TenantOf(g.Entry.Name), fmt.Sprintf("%s-%d", parsed[len(parsed)-1], number))
}

func (g *group) labels() map[string]string { return g.Entry.Object.Metadata().GetLabels() }

// references gives the keys of what the template refers to.
func (g *group) references() map[string]string {
	out := map[string]string{}
	all := g.Entry.Record.GetReferences()
	for _, r := range resource.References(proto.CloneOf(g.spec.GetTemplate())) {
		if key, ok := all[r.Value]; ok {
			out[r.Value] = key
		}
	}
	return out
}

// save writes the group, if anything is news, and tells its operation how it stands.
func (g *group) save(ctx context.Context) error {
	e, status := g.Entry, g.Entry.Object.Status()
	former, ok := e.Object.Observed().(*computev1.ScalingGroupObserved)
	news := !ok || !same(former, g.observed) || status.GetProviderId() == ""
	status.ProviderId, e.Record.Attempted = e.Key, true
	generation, phase := e.Object.Metadata().GetGeneration(), kindv1.Phase_PHASE_READY
	reached := status.GetPhase() == kindv1.Phase_PHASE_READY && status.GetObservedGeneration() == generation
	why := g.why()
	switch {
	case g.settled():
		status.ObservedGeneration, why = generation, nil
		e.Record.AppliedGeneration = generation
	case reached: // it goes on by itself, and stays what it is
	case g.hopeless(why):
		phase = kindv1.Phase_PHASE_FAILED
	case status.GetObservedGeneration() == 0:
		phase = kindv1.Phase_PHASE_CREATING
	default:
		phase = kindv1.Phase_PHASE_UPDATING
	}
	turned := phase != status.GetPhase() || phase == kindv1.Phase_PHASE_READY && !reached
	next, told := fault.Proto(why, g.Now()), status.GetFault()
	if next.GetMessage() != told.GetMessage() {
		status.Fault, news = next, true
	}
	if !news && !turned {
		return nil
	}
	status.ObserveTime = timestamppb.New(g.Now())
	participant.SetPhase(e, phase, g.Now())
	e.Object.SetObserved(proto.CloneOf(g.observed))
	notice := participant.NoticeOf(e)
	if reached {
		notice.Outcome = nil // who asked was answered
	}
	if reached && ok && same(quiet(former), quiet(g.observed)) && next.GetMessage() == told.GetMessage() {
		notice.Verb = "" // that the metric was asked is no news for others
	}
	return g.Book.Save(ctx, e, notice)
}

// quiet gives what was observed without what the metric said.
func quiet(o *computev1.ScalingGroupObserved) *computev1.ScalingGroupObserved {
	out := proto.CloneOf(o)
	out.Metric = nil
	return out
}

// settled tells whether all members are in service as the template has them, and there are as many as wanted.
func (g *group) settled() bool {
	for _, m := range g.observed.GetMembers() {
		e := g.parts[m.GetKey()]
		if m.GetState() != inService || e == nil || !participant.Same(e, g.spec.GetTemplate(), g.labels(), g.references()) {
			return false
		}
		if s := e.Object.Status(); s.GetPhase() != kindv1.Phase_PHASE_READY || s.GetObservedGeneration() != e.Object.Metadata().GetGeneration() {
			return false
		}
	}
	return len(g.observed.GetMembers()) == int(g.observed.GetDesired())
}

// why gives what keeps the group from being as wanted: the fault of a member. What was told of a member that failed stays
// until the next is in service.
func (g *group) why() error {
	if g.blame != nil {
		return g.blame
	}
	for _, m := range g.observed.GetMembers() {
		if e := g.parts[m.GetKey()]; e != nil && e.Object.Status().GetFault() != nil {
			return fault.Wrap(fault.FromProto(e.Object.Status().GetFault()), "member %s", m.GetServer())
		}
	}
	if f := g.Entry.Object.Status().GetFault(); g.observed.GetFailures() > 0 && f != nil {
		return fault.FromProto(f)
	}
	return nil
}

// hopeless tells whether the group is given up: what is wrong does not pass, or has come back too often.
func (g *group) hopeless(why error) bool {
	if g.blame != nil && (fault.Is(g.blame, fault.Invalid) || fault.Is(g.blame, fault.Denied) || fault.Is(g.blame, fault.Unsupported)) {
		return true
	}
	return why != nil && g.observed.GetFailures() >= tries
}

// act brings the members' records to what the group's record says.
func (g *group) act(ctx context.Context) error {
	if g.Entry.Object.Status().GetPhase() == kindv1.Phase_PHASE_FAILED {
		return g.abandon(ctx)
	}
	for _, m := range g.observed.GetMembers() {
		if err := g.actOn(ctx, m); err != nil {
			return err
		}
	}
	for _, e := range g.reopen {
		if m := g.member(e.Key); m == nil || m.GetState() != inService {
			continue
		}
		participant.Reopen(e, g.Now())
		if err := g.Book.Save(ctx, e, participant.NoticeOf(e)); err != nil {
			return err
		}
	}
	return nil
}

// abandon releases the members that have failed, of a group that was given up; the others stand.
func (g *group) abandon(ctx context.Context) error {
	for _, m := range g.observed.GetMembers() {
		if m.GetState() == releasing {
			if err := g.actOn(ctx, m); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *group) actOn(ctx context.Context, m *computev1.Member) error {
	e := g.parts[m.GetKey()]
	switch {
	case e == nil && m.GetState() == pending:
		return g.add(ctx, m)
	case e == nil:
		return nil
	case m.GetState() == releasing:
		return g.free(ctx, e)
	case m.GetState() == pending || m.GetState() == inService:
		return g.adapt(ctx, e)
	default:
		return nil
	}
}

// add asks for a server.
func (g *group) add(ctx context.Context, m *computev1.Member) error {
	object := resource.Wrap(g.server.New())
	object.SetName(m.GetServer())
	object.SetCloud(g.Entry.Object.Cloud())
	object.SetSpec(proto.CloneOf(g.spec.GetTemplate()))
	meta := object.Metadata()
	meta.Key, meta.Stack, meta.Owner, meta.Labels = m.GetKey(), g.Entry.Object.Metadata().GetStack(), g.Entry.Name, maps.Clone(g.labels())
	e := participant.NewEntry(g.Book, g.server, object, g.Now())
	e.Record.References, e.Fence = g.references(), g.Entry.Fence
	err := g.Book.Add(ctx, e, participant.NoticeOf(e))
	if !fault.Is(err, fault.Exists) {
		return err
	}
	m.State = releasing // a server of somebody bears the name: the next member gets the next number
	g.Entry.Object.SetObserved(proto.CloneOf(g.observed))
	return g.Book.Save(ctx, g.Entry, record.Notice{})
}

// free releases a member's server. A release that was given up is asked for again when some time has passed.
func (g *group) free(ctx context.Context, e *record.Entry) error {
	status := e.Object.Status()
	stuck := status.GetPhase() == kindv1.Phase_PHASE_FAILED && g.Now().Sub(status.GetPhaseTime().AsTime()) > time.Minute
	if e.Record.GetRelease() && !stuck {
		return nil
	}
	participant.MarkReleased(e, g.Now())
	return g.Book.Save(ctx, e, participant.NoticeOf(e))
}

// adapt gives a member's server what it can take while it runs.
func (g *group) adapt(ctx context.Context, e *record.Entry) error {
	references := g.references()
	if participant.Same(e, g.spec.GetTemplate(), g.labels(), references) {
		return nil
	}
	spec, ok := e.Object.Spec().(*computev1.ServerSpec)
	if !ok || !canAdapt(spec, g.spec.GetTemplate()) || !g.sameHeld(e) {
		return nil
	}
	participant.Change(e, proto.CloneOf(g.spec.GetTemplate()), maps.Clone(g.labels()), references, g.Now())
	return g.Book.Save(ctx, e, participant.NoticeOf(e))
}

// release takes a group away: its members first.
func (g *group) release(ctx context.Context) (time.Duration, error) {
	g.see()
	e := g.Entry
	if len(g.observed.GetMembers()) == 0 {
		notice := record.Notice{Verb: "released"}
		if e.Record.GetOrigin() != nil {
			notice.Outcome = &busv1.Outcome{Origin: e.Record.GetOrigin(), Key: e.Key, Result: busv1.Result_RESULT_RELEASED}
		}
		return 0, g.Book.Remove(ctx, e, notice)
	}
	var blockers []*kindv1.Blocker
	var why *kindv1.Fault
	for _, m := range g.observed.GetMembers() {
		m.State = releasing
		if part := g.parts[m.GetKey()]; part != nil {
			blockers = append(blockers, part.Object.Status().GetBlockers()...)
			if f := part.Object.Status().GetFault(); part.Record.GetRelease() && f != nil {
				why = f
			}
		}
	}
	g.observed.Ready = 0
	former, ok := e.Object.Observed().(*computev1.ScalingGroupObserved)
	status := e.Object.Status()
	told := len(blockers) != len(status.GetBlockers()) || why.GetMessage() != status.GetFault().GetMessage()
	if !ok || !same(former, g.observed) || told {
		status.Blockers, status.Fault = driver.SortBlockers(blockers), why
		e.Object.SetObserved(proto.CloneOf(g.observed))
		if err := g.Book.Save(ctx, e, participant.NoticeOf(e)); err != nil {
			return 0, err
		}
	}
	return lookEvery, g.abandon(ctx)
}

// next gives the time after which the group is to be looked at, if nothing is written.
func (g *group) next(looked time.Duration) time.Duration {
	now, wait := g.Now(), lookEvery
	if looked > 0 {
		wait = min(wait, looked)
	}
	sooner := func(d time.Duration) { wait = min(wait, max(d, time.Millisecond)) }
	for _, m := range g.observed.GetMembers() {
		if m.GetState() == draining && m.GetDrainTime() != nil {
			sooner(duration(g.spec.GetDrainPeriod(), defaultDrain) - now.Sub(m.GetDrainTime().AsTime()))
		}
		if m.GetState() == pending && m.GetReadyTime() != nil {
			sooner(g.warming(m))
		}
		if m.GetMissingTime() != nil {
			sooner(missingGrace - now.Sub(m.GetMissingTime().AsTime()))
		}
	}
	if at := g.observed.GetNextAttemptTime(); at != nil && at.AsTime().After(now) {
		sooner(at.AsTime().Sub(now))
	}
	if m := g.spec.GetMetric(); m != nil {
		sooner(due(g.observed, m, now))
	}
	if len(g.spec.GetSchedules()) > 0 {
		sooner(untilNextMinute(now))
	}
	return wait
}
