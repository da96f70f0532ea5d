package chaos

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	"github.com/weftcloud/weft/pkg/crash"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// document is the stack of most runs. Its last step is the address.
const document = `kind: Stack
name: chaos
placement: {cloud: lab}
resources:
  net: {kind: Network, spec: {}}
  subnet: {kind: Subnet, spec: {network: net, cidr: 10.60.0.0/24}}
  router: {kind: Router, spec: {externalNetwork: public, subnets: [subnet]}}
  wall: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: "80"}]}}
  data: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}
  more: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}
  db: {kind: Server, spec: {image: tiny, flavor: m1.tiny, network: net, securityGroups: [wall], metadata: {size: "${string(data.size_gib)}"}}}
  disk: {kind: VolumeAttachment, spec: {server: db, volume: data}}
  address: {kind: FloatingIP, spec: {externalNetwork: public, server: db}}
`

// wide is the stack of the runs that die at a driver's call: it has every kind of the catalog that is made at the cloud.
// %s is where the image's bytes are; the rest are what changed changes in place.
const wide = `kind: Stack
name: chaos
placement: {cloud: lab}
resources:
  fabric: {kind: PrivateNetwork, spec: {cidr: 10.59.0.0/24, external: public}}
  net: {kind: Network, spec: {}}
  subnet: {kind: Subnet, spec: {network: net, cidr: 10.60.0.0/24}}
  router: {kind: Router, spec: {externalNetwork: public, subnets: [subnet]}}
  wall: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: "@PORT"}]}}
  key: {kind: KeyPair, spec: {publicKey: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0v1h7mXyV9G6Zp7o2Ff7gkL9cQJ4nT1uQd5y8wXb3K me"}}
  near: {kind: ServerGroup, spec: {policy: SOFT_ANTI_AFFINITY}}
  disk-image: {kind: Image, spec: {source: {url: "@SOURCE"}, diskFormat: RAW, properties: {colour: @COLOUR}}}
  data: {kind: Volume, spec: {size: @SIZE, reclaim: DESTROY}}
  moment: {kind: VolumeSnapshot, spec: {volume: data, force: true, reclaim: DESTROY}, dependsOn: [disk]}
  home: {kind: Share, spec: {size: @SIZE, clients: [{cidr: 10.0.0.0/24}], reclaim: DESTROY}}
  files: {kind: Bucket, spec: {quotaSize: @SIZE, reclaim: DESTROY}}
  db: {kind: Server, spec: {image: tiny, flavor: m1.tiny, network: net, securityGroups: [wall], keyPair: key, serverGroup: near, metadata: {colour: @COLOUR}}}
  disk: {kind: VolumeAttachment, spec: {server: db, volume: data}}
  farm: {kind: ScalingGroup, spec: {template: {image: tiny, flavor: m1.tiny, network: net, metadata: {colour: @COLOUR}}, min: 1, max: 1, drainPeriod: 0s}}
  shared: {kind: FloatingIP, spec: {externalNetwork: public}}
  web: {kind: Server, spec: {image: tiny, flavor: m1.tiny, network: net}}
  way: {kind: PortForwarding, spec: {floatingIp: shared, target: web, port: 80, externalPort: 8080}}
  door: {kind: Publication, spec: {target: web, port: 22, via: PORT_MAPPING, address: shared, publicPort: 8022}}
  front: {kind: LoadBalancer, spec: {network: net, listeners: [{name: web, port: 80}], pools: [{name: web, members: [{target: web, port: @PORT}]}]}}
  address:
    kind: FloatingIP
    spec: {externalNetwork: public, server: db}
    dependsOn: [fabric, moment, home, files, farm, way, door, front, disk-image]
`

// refusal is what the cloud answers at the last step when all is to be undone.
var refusal = story.Fault{Service: "network", Method: "POST", Path: "/floatingips", Body: "chaos.address", Effect: "status", Status: 403, Message: "Policy forbids it"}

// The bounds of a run.
const (
	// bound is how long an operation may take, deaths and all.
	bound = 75 * time.Second
	// lateness is how long after a death a delivery may come again: the bus waits 30 s for an ack.
	lateness = 40 * time.Second
	// settling is how long the cloud's own controllers may go on tidying up.
	settling = 10 * time.Second
)

// site is an installation on which runs are made: one process, or a fleet.
type site struct {
	*story.Installation
	fleet  *story.Fleet    // nil if it is one process
	before story.Inventory // what the cloud holds without a stack
	learnt map[bool]makes  // what a stack makes, the wide one or the other
	source string          // where the wide stack's image has its bytes
	spoilt bool            // it did not do what it should: it tells nothing of the next run
}

// makes is what a stack makes when nothing goes wrong.
type makes struct {
	counts map[string]int // how many objects of each kind
	ledger int            // how many entries the ledger has of it
}

// document gives the stack of a run, as it is first or as it is changed.
func (s *site) document(wider, changed bool) string {
	if !wider && changed {
		return strings.Replace(document, `ports: "80"`, `ports: "81"`, 1)
	}
	if !wider {
		return document
	}
	values := map[bool][]string{
		false: {"@SOURCE", s.source, "@PORT", "80", "@SIZE", "1Gi", "@COLOUR", "red"},
		true:  {"@SOURCE", s.source, "@PORT", "81", "@SIZE", "2Gi", "@COLOUR", "blue"},
	}
	return strings.NewReplacer(values[changed]...).Replace(wide)
}

// victim is the process that dies.
type victim interface {
	// Ended gives a channel that is closed once the process that runs now has ended.
	Ended() <-chan struct{}
	// TryRestart starts it again, and tells whether it got ready.
	TryRestart(t testing.TB) bool
	// Orders is the path of its orders.
	Orders() string
}

// single is an installation that is one process.
type single struct{ *story.Installation }

// Orders implements victim.
func (s single) Orders() string { return filepath.Join(s.Dir, "orders") }

// victim gives the process that is to die; "" means the only one.
func (s *site) victim(member string) victim {
	if s.fleet == nil {
		return single{s.Installation}
	}
	return s.fleet.Processes[member]
}

// begin starts an installation, and learns from an undisturbed run what a stack makes.
func begin(t *testing.T, program string) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{Installation: &story.Installation{
		Dir: dir, Program: program, Environment: []string{crash.Orders + "=" + filepath.Join(dir, "orders")},
	}}
	bytesOf := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := w.Write(bytes.Repeat([]byte("weft"), 64<<10)); err != nil {
			return // who reads only the beginning closes
		}
	}))
	t.Cleanup(bytesOf.Close)
	s.source = bytesOf.URL + "/disk"
	s.Begin(t)
	s.hurry(t)
	s.before = s.Cloud.Inventory(t)
	return s
}

// learn makes an undisturbed run if there was none, and sees what a stack makes.
func (s *site) learn(t *testing.T, wider bool) {
	t.Helper()
	if _, known := s.learnt[wider]; known {
		return
	}
	s.Apply(t, s.document(wider, false), "DONE")
	if s.learnt == nil {
		s.learnt = map[bool]makes{}
	}
	s.learnt[wider] = makes{counts: s.Cloud.Inventory(t).Counts(), ledger: len(s.Ledger(t).GetEntries())}
	s.Destroy(t, "chaos", "DONE")
	s.NothingLeft(t, s.before)
}

// hurry makes the cloud quick, but not so quick that an undo is over before an order reaches it.
func (s *site) hurry(t *testing.T) {
	t.Helper()
	s.Cloud.Hurry(t)
	s.Cloud.Latency(t, "request", "10ms")
}

// order leaves the orders to die, whole or not at all.
func (a *attempt) order() {
	t, path := a.t, a.victim.Orders()
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(strings.Join(a.orders(), "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// pardon takes back what was not obeyed, and tells whether there was any.
func (a *attempt) pardon() bool {
	a.t.Helper()
	if err := os.Remove(a.victim.Orders() + ".taken"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.t.Fatal(err)
	}
	err := os.Remove(a.victim.Orders())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.t.Fatal(err)
	}
	return err == nil
}

// attempt is one run under way.
type attempt struct {
	*site
	trial
	tally
	t      *testing.T
	victim victim
	// diedAt is when the process last died.
	diedAt time.Time
}

// try makes one run.
func (s *site) try(t *testing.T, c trial) tally {
	t.Helper()
	a := &attempt{site: s, trial: c, t: t, victim: s.victim(c.member)}
	a.runs = 1
	s.learn(t, c.wide())
	if a.undoing {
		a.backward()
	} else {
		a.forth()
	}
	reached := !a.pardon()
	if a.died == len(c.orders()) {
		a.died = 1 // the table counts runs in which the point was reached
	} else {
		a.died = 0
	}
	if !reached || a.died == 0 {
		t.Errorf("the point was not reached")
	}
	return a.tally
}

// wrong counts something that is wrong, and says what. With a program that is broken it is what is looked for.
func (a *attempt) wrong(count *int, n int, format string, args ...any) {
	a.t.Helper()
	*count += n
	if say := a.t.Errorf; a.path == "" {
		say(format, args...)
		return
	}
	a.t.Logf("found out: "+format, args...)
}

// forth applies the stack, looks, and destroys it.
func (a *attempt) forth() {
	a.t.Helper()
	if a.when() == atApply {
		a.order()
	}
	path := a.Document(a.t, "chaos.yaml", a.document(a.wide(), false))
	a.operation("DONE", "apply", "-f", path, "--request-id", a.request())
	a.stands()
	if a.when() == atUpdate {
		a.order()
		path := a.Document(a.t, "chaos.yaml", a.document(a.wide(), true))
		a.operation("DONE", "apply", "-f", path, "--request-id", a.request())
		a.stands()
	}
	if a.when() == atDestroy {
		a.order()
	}
	a.operation("DONE", "destroy", "chaos")
	a.nothingLeft()
}

// backward applies the stack, which is refused at the end, and looks that nothing is left of it.
func (a *attempt) backward() {
	a.t.Helper()
	fault := a.Cloud.Break(a.t, refusal)
	if a.when() == atApply {
		a.order()
	}
	path := a.Document(a.t, "chaos.yaml", a.document(a.wide(), false))
	var struck <-chan struct{}
	if a.when() == atRefusal {
		struck = a.atRefusal(fault)
	}
	a.operation("UNDONE", "apply", "-f", path, "--request-id", a.request())
	if struck != nil {
		<-struck
	}
	if a.late {
		time.Sleep(time.Until(a.diedAt.Add(lateness)))
	}
	a.Cloud.Mend(a.t)
	a.nothingLeft()
}

// request is the name of a person's request: who got no answer asks again by it.
func (a *attempt) request() string { return fmt.Sprintf("chaos-%d", time.Now().UnixNano()) }

// atRefusal leaves the orders once the cloud has refused the last step.
func (a *attempt) atRefusal(fault string) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for deadline := time.Now().Add(bound); time.Now().Before(deadline); time.Sleep(3 * time.Millisecond) {
			if a.Cloud.Fault(a.t, fault).Matched > 0 {
				a.order()
				return
			}
		}
	}()
	return done
}

// operation runs a command that begins an operation, brings the dead back, and holds the operation against the state in
// which it must end.
func (a *attempt) operation(state string, args ...string) {
	a.t.Helper()
	args = append(args, "--wait", "-o", "json")
	deadline := time.After(bound)
	running := a.Go(a.t, args...)
	for {
		select {
		case <-a.victim.Ended():
			a.died, a.diedAt = a.died+1, time.Now()
			a.revive()
		case r := <-running:
			if r.Out == "" && a.hasDied() {
				running = a.again(args) // it died before there was an operation: whoever asked asks again
				continue
			}
			a.calm()
			a.ended(r, state)
			return
		case <-deadline:
			a.wrong(&a.stuck, 1, "weft %q did not end within %s: %s", args, bound, a.Weft(a.t, "ops", "list").Out)
			return
		}
	}
}

// hasDied tells whether the process has died, or does so within a moment: a command may hear of it before we do.
func (a *attempt) hasDied() bool {
	a.t.Helper()
	if a.died > 0 {
		return true
	}
	select {
	case <-a.victim.Ended():
		a.died, a.diedAt = a.died+1, time.Now()
		a.revive()
		return true
	case <-time.After(2 * time.Second):
		return false
	}
}

// calm waits until the orders were obeyed, for a while: what follows an operation's end may pass the point, too.
func (a *attempt) calm() {
	a.t.Helper()
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline) && a.ordered(); time.Sleep(5 * time.Millisecond) {
	}
	if a.ordered() || a.died == len(a.orders()) {
		return
	}
	if _, err := os.Stat(a.victim.Orders() + ".taken"); err != nil {
		return // there were none yet
	}
	<-a.victim.Ended()
	a.died, a.diedAt = a.died+1, time.Now()
	a.revive()
}

// ordered tells whether there are orders that were not obeyed yet.
func (a *attempt) ordered() bool {
	_, err := os.Stat(a.victim.Orders())
	return err == nil
}

// again asks again, a moment later: the answer may have been that nobody is there yet.
func (a *attempt) again(args []string) <-chan story.Result {
	time.Sleep(200 * time.Millisecond)
	return a.Go(a.t, args...)
}

// revive starts the process again, as often as it takes: it may be ordered to die once more while it starts.
func (a *attempt) revive() {
	a.t.Helper()
	for range 3 {
		if a.victim.TryRestart(a.t) {
			if a.fleet == nil { // the cloud died, too
				a.hurry(a.t)
			}
			if a.fleet == nil && a.undoing {
				a.Cloud.Break(a.t, refusal)
			}
			return
		}
		a.died, a.diedAt = a.died+1, time.Now()
	}
	a.t.Fatal("the process does not start any more")
}

// ended looks at what a command left.
func (a *attempt) ended(r story.Result, state string) {
	a.t.Helper()
	if r.Out == "" {
		a.wrong(&a.lost, 1, "weft %q began no operation: %s", r.Args, r.Err)
		return
	}
	if op := r.Operation(a.t); !op.Is(state) {
		a.wrong(&a.lost, 1, "the operation of weft %q is %s, want %s: %s", r.Args, op.State(), state, r.Err)
	}
}

// stands looks that the cloud holds one object for each resource, and that the ledger says the same.
func (a *attempt) stands() {
	a.t.Helper()
	in := a.Cloud.Inventory(a.t)
	counts, learnt := in.Counts(), a.learnt[a.wide()]
	for kind, want := range learnt.counts {
		switch got := counts[kind]; {
		case got > want:
			a.wrong(&a.doubled, got-want, "the cloud holds %d of %s, want %d:\n%s", got, kind, want, strings.Join(in.Lines(), "\n"))
		case got < want:
			a.wrong(&a.lost, want-got, "the cloud holds %d of %s, want %d:\n%s", got, kind, want, strings.Join(in.Lines(), "\n"))
		}
	}
	for kind, got := range counts {
		if learnt.counts[kind] == 0 {
			a.wrong(&a.orphans, got, "the cloud holds %d of %s, want none", got, kind)
		}
	}
	entries := a.entries()
	if n := len(entries) - learnt.ledger; n > 0 {
		a.wrong(&a.doubled, n, "the ledger has %d entries, want %d: %v", len(entries), learnt.ledger, entries)
	} else if n < 0 {
		a.wrong(&a.lost, -n, "the ledger has %d entries, want %d: %v", len(entries), learnt.ledger, entries)
	}
	for _, e := range entries {
		known := slices.ContainsFunc(in, func(i story.Item) bool {
			return strings.Contains(e.GetProviderId(), i.ID) || e.GetProviderId() == i.Name // a key pair's id is its name
		})
		if !known && e.GetProviderId() != e.GetKey() { // a scaling group is its members, and nothing beside
			a.wrong(&a.lost, 1, "the ledger has %s as %s, which the cloud does not hold", e.GetName(), e.GetProviderId())
		}
	}
	a.noneUnfinished()
}

// entries gives the ledger, without orphans, which it counts.
func (a *attempt) entries() []*participantv1.LedgerEntry {
	a.t.Helper()
	var out []*participantv1.LedgerEntry
	for _, e := range a.Ledger(a.t).GetEntries() {
		if e.GetOrphan() {
			a.wrong(&a.orphans, 1, "%s bears our mark and no stack holds it: %s", e.GetProviderId(), e.GetName())
			continue
		}
		out = append(out, e)
	}
	return out
}

// nothingLeft looks that the ledger is empty, and that the cloud holds what it held before.
func (a *attempt) nothingLeft() {
	a.t.Helper()
	for _, e := range a.entries() {
		a.wrong(&a.orphans, 1, "left in the ledger: %s %s", e.GetName(), e.GetProviderId())
	}
	a.noneUnfinished()
	want := a.before.Lines()
	var left, gone []string
	for deadline := time.Now().Add(settling); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		now := a.Cloud.Inventory(a.t).Lines()
		left = slices.DeleteFunc(slices.Clone(now), func(l string) bool { return slices.Contains(want, l) })
		gone = slices.DeleteFunc(slices.Clone(want), func(l string) bool { return slices.Contains(now, l) })
		if len(left)+len(gone) == 0 {
			return
		}
	}
	if len(left) > 0 {
		a.wrong(&a.orphans, len(left), "left at the cloud:\n%s", strings.Join(left, "\n"))
	}
	if len(gone) > 0 {
		a.wrong(&a.lost, len(gone), "gone from the cloud:\n%s", strings.Join(gone, "\n"))
	}
}

// noneUnfinished looks that every operation has ended.
func (a *attempt) noneUnfinished() {
	a.t.Helper()
	all := &longrunningpb.ListOperationsResponse{}
	a.Must(a.t, "ops", "list", "-o", "json").Decode(a.t, all)
	for _, op := range all.GetOperations() {
		if !op.GetDone() {
			a.wrong(&a.stuck, 1, "%s has not ended", op.GetName())
		}
	}
}
