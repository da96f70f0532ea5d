package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
)

// simCloud is the cloud, with a ledger of its own: what really stands. The effects on one object come in the order in
// which they were asked for, each within effectLimit, whatever becomes of who asked.
type simCloud struct {
	sim     *sim
	objects map[string]*simObject // by id
	made    int
	last    map[string]time.Time // of the last effect on a key
}

// effectLimit is how long a call may take to have its effect: less than what participants wait before they believe that
// it has none.
const effectLimit = 1500 * time.Millisecond

// simObject is one object.
type simObject struct {
	id, key, name, stack, service string
	spec                          proto.Message
	refs                          map[string]string
	readyAt                       time.Time
	broken, deleting              bool
}

// simSeen is what is seen of an object.
type simSeen struct {
	ready, broken bool
	observed      proto.Message
}

func newSimCloud(s *sim) *simCloud {
	return &simCloud{sim: s, objects: map[string]*simObject{}, last: map[string]time.Time{}}
}

// of gives what stands of a stack, by key, as it is now.
func (c *simCloud) of(stack string) map[string]*simObject {
	out := map[string]*simObject{}
	for _, o := range c.objects {
		if o.stack == stack {
			same := *o
			out[o.key] = &same
		}
	}
	return out
}

// sorted gives the objects in the order of their ids.
func (c *simCloud) sorted() []*simObject {
	out := make([]*simObject, 0, len(c.objects))
	for _, id := range slices.Sorted(maps.Keys(c.objects)) {
		out = append(out, c.objects[id])
	}
	return out
}

// call makes a call: what it does, if it does it, and then what its caller is told.
func (c *simCloud) call(p *simProcess, what, key string, changes bool, effect func() error, then func(error)) {
	s := c.sim
	told := then
	then = func(err error) {
		s.note("%s is told of %s %s: %s", p.name, what, key, fault.KindOf(err))
		told(err)
	}
	begin := s.between(time.Millisecond, 60*time.Millisecond)
	end := begin + s.upTo(60*time.Millisecond)
	switch {
	case s.chance(s.odds.refuse):
		s.counts.refused++
		kind := []fault.Kind{fault.Unavailable, fault.Throttled, fault.Unavailable}[s.rng.IntN(3)]
		s.after(end, p, func() { then(fault.New(kind, "the cloud is busy")) })
		return
	case changes && s.chance(s.odds.deny):
		s.counts.refused++
		s.after(end, p, func() { then(fault.New(fault.Denied, "the cloud says no")) })
		return
	}
	lost := s.chance(s.odds.lose)
	if lost {
		begin, end = s.upTo(effectLimit), s.between(500*time.Millisecond, 10*time.Second)
	}
	if s.chance(s.odds.sluggish) {
		end += s.upTo(20 * time.Second)
	}
	at := s.now.Add(begin)
	if last := c.last[key]; changes && !at.After(last) {
		at = last.Add(time.Microsecond)
	}
	if changes {
		c.last[key] = at
	}
	done := s.now.Add(end)
	if !lost && done.Before(at) {
		done = at
	}
	var err error
	s.at(at, nil, func() {
		err = effect()
		if changes {
			s.note("cloud: %s %s: %s", what, key, fault.KindOf(err))
		}
	})
	s.at(done, p, func() {
		if lost {
			err = fault.New(fault.Unavailable, "the answer of the cloud was lost")
		}
		then(err)
	})
}

func (c *simCloud) find(p *simProcess, key string, then func([]string, error)) {
	var ids []string
	c.call(p, "find", key, false, func() error {
		for _, o := range c.sorted() {
			if o.key == key {
				ids = append(ids, o.id)
			}
		}
		return nil
	}, func(err error) { then(ids, err) })
}

func (c *simCloud) observe(p *simProcess, id string, then func(*simSeen, error)) {
	var seen *simSeen
	c.call(p, "observe", id, false, func() error {
		if o := c.objects[id]; o != nil {
			up := !c.sim.now.Before(o.readyAt)
			seen = &simSeen{ready: up && !o.deleting && !o.broken, broken: up && o.broken, observed: o.observed()}
		}
		return nil
	}, func(err error) { then(seen, err) })
}

// address gives the address of a server: no two have the same.
func (o *simObject) address() string { return "10.1.0." + strings.TrimPrefix(o.id, "obj-") }

func (o *simObject) observed() proto.Message {
	switch spec := o.spec.(type) {
	case *networkv1.NetworkSpec:
		return &networkv1.NetworkObserved{NetworkId: o.id, Mtu: spec.GetMtu()}
	case *networkv1.FloatingIPSpec:
		return &networkv1.FloatingIPObserved{FloatingIpId: o.id, Address: o.address()}
	case *storagev1.VolumeSpec:
		return &storagev1.VolumeObserved{VolumeId: o.id, Type: spec.GetType()}
	default:
		return &computev1.ServerObserved{ServerId: o.id, Address: o.address()}
	}
}

// refuses tells why the cloud does not take a spec: what it refers to is not there, or is another's.
func (c *simCloud) refuses(key string, refs map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		var found *simObject
		for _, o := range c.sorted() {
			if o.key == refs[name] && !o.deleting {
				found = o
			}
		}
		if found == nil {
			return fault.New(fault.Precondition, "%s does not stand", name)
		}
		if !strings.Contains(name, "/volumes/") {
			continue
		}
		for _, o := range c.sorted() {
			if o.key != key && o.refs[name] == refs[name] {
				return fault.New(fault.Conflict, "%s is held by %s", name, o.name)
			}
		}
	}
	return nil
}

func (c *simCloud) create(p *simProcess, service string, e *record.Entry, then func(string, error)) {
	s := c.sim
	c.made++
	o := &simObject{
		id: fmt.Sprintf("obj-%04d", c.made), key: e.Key, name: e.Name, stack: e.Object.Metadata().GetStack(), service: service,
		spec: proto.Clone(e.Object.Spec()), refs: maps.Clone(e.Record.GetReferences()),
	}
	wait := s.between(50*time.Millisecond, 20*time.Second)
	if s.chance(s.odds.hang) {
		wait = 25 * time.Minute
	}
	o.broken = s.chance(s.odds.broken)
	c.call(p, "create "+o.name, o.key, true, func() error {
		if err := c.refuses(o.key, o.refs); err != nil {
			return err
		}
		for _, other := range c.sorted() {
			if other.key == o.key {
				s.violate("a second object is made for the key %s: %s beside %s", o.key, o.id, other.id)
			}
		}
		if _, err := s.store.Get(context.Background(), record.Prefix(service)+"t/"+o.key); err == nil {
			s.violate("an object is made for the key %s, which was released", o.key)
		}
		o.readyAt = s.now.Add(wait)
		c.objects[o.id] = o
		return nil
	}, func(err error) { then(o.id, err) })
}

func (c *simCloud) update(p *simProcess, e *record.Entry, then func(error)) {
	s := c.sim
	id, spec, refs := e.Object.Status().GetProviderId(), proto.Clone(e.Object.Spec()), maps.Clone(e.Record.GetReferences())
	c.call(p, "update "+e.Name, e.Key, true, func() error {
		o := c.objects[id]
		if o == nil || o.deleting {
			return fault.New(fault.NotFound, "there is no %s", id)
		}
		if err := c.refuses(o.key, refs); err != nil {
			return err
		}
		o.spec, o.refs = spec, refs
		if at := s.now.Add(s.upTo(3 * time.Second)); at.After(o.readyAt) {
			o.readyAt = at
		}
		return nil
	}, then)
}

func (c *simCloud) delete(p *simProcess, id, key string, then func(error)) {
	s := c.sim
	wait := s.between(50*time.Millisecond, 5*time.Second)
	if s.chance(s.odds.sluggish) {
		wait = s.upTo(5 * time.Minute)
	}
	blocked := s.chance(s.odds.block)
	c.call(p, "delete", key, true, func() error {
		o := c.objects[id]
		if o == nil || o.deleting {
			return fault.New(fault.NotFound, "there is no %s", id)
		}
		for _, other := range c.sorted() {
			if other.refs[o.name] == o.key && o.service != "compute" { // an address does not keep a server
				return fault.New(fault.Conflict, "%s is needed by %s", o.name, other.name)
			}
		}
		if blocked {
			return fault.New(fault.Conflict, "%s is still being used", o.name)
		}
		o.deleting = true
		s.after(wait, nil, func() {
			delete(c.objects, id)
			s.note("cloud: %s (%s) is gone", o.name, o.key)
		})
		return nil
	}, then)
}

// strike deletes an object by hand.
func (c *simCloud) strike(key string) {
	for _, o := range c.sorted() {
		if o.key == key {
			delete(c.objects, o.id)
			c.sim.note("cloud: %s (%s) is deleted by hand", o.name, o.key)
		}
	}
}

// mend makes what failed to come up come up.
func (c *simCloud) mend() {
	for _, o := range c.sorted() {
		o.broken = false
		if soon := c.sim.now.Add(10 * time.Second); o.readyAt.After(soon) {
			o.readyAt = soon
		}
	}
}
