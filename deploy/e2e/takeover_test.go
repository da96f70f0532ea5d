package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	"github.com/weftcloud/weft/pkg/crash"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// sagasInFlight is the environment variable that says how many sagas are in flight when an orchestrator is killed.
const sagasInFlight = "WEFT_SAGAS"

// takeOverWithin is how long it may take from the death of an orchestrator until another does its work.
const takeOverWithin = 6 * time.Second

// unbounded lets clouds be called as often as the sandbox can answer.
const unbounded = "callsPerSecond: 5000\n"

// oneVolume is a stack whose only object takes as long as the cloud is told to.
const oneVolume = "  data: {kind: Volume, spec: {size: 1Gi, reclaim: DESTROY}}\n"

// TestSeveralOrchestrators runs two orchestrators. Either takes any request; when one is killed, or is paused for longer
// than its lease, the other goes on where it was, and what the paused one still sends when it wakes up has no effect.
func TestSeveralOrchestrators(t *testing.T) {
	t.Parallel()
	c := newReplicated(t, []string{"a", "b"}, unbounded)
	limitless(t, c.Cloud)
	c.Cloud.Hurry(t)
	nothing := c.Cloud.Inventory(t)
	t.Run("the wrong one is asked", func(t *testing.T) { c.wrongOneAsked(t, nothing) })
	t.Run("one is killed", func(t *testing.T) { c.killedInFlight(t, nothing) })
	t.Run("one is paused before it writes", func(t *testing.T) { c.pausedBeforeCommit(t, nothing) })
	t.Run("one is paused before it commands", func(t *testing.T) { c.pausedBeforePublish(t, nothing) })
}

// shared waits until both orchestrators own shards.
func (c *replicated) shared(t *testing.T) {
	t.Helper()
	story.Await(t, "every orchestrator owns its part of the shards", func() bool {
		sum := 0.0
		for name := range c.replicas {
			n, _ := c.metric(t, name, "weft_saga_shards")
			if n < 256/float64(len(c.replicas))-1 {
				return false
			}
			sum += n
		}
		return sum == 256
	})
}

// inFlight waits until there are so many unfinished sagas, and gives how many each orchestrator runs.
func (c *replicated) inFlight(t *testing.T, want int) map[string]int {
	t.Helper()
	out := map[string]int{}
	story.Await(t, fmt.Sprintf("%d sagas are in flight", want), func() bool {
		sum := 0
		for name := range c.replicas {
			n, _ := c.metric(t, name, "weft_sagas")
			out[name] = int(n)
			sum += int(n)
		}
		return sum == want
	})
	return out
}

// wrongOneAsked has replica a alone asked for everything, also for the sagas that b runs.
func (c *replicated) wrongOneAsked(t *testing.T, nothing story.Inventory) {
	const n = 18 // that one runs none of them has a chance of 2 in 2^18
	a, b := c.at(t, c.replicas["a"].address), c.at(t, c.replicas["b"].address)
	c.shared(t)
	jobs := c.jobs(t, n, 3, "asked", fabric)
	c.Cloud.Break(t, story.Fault{Service: "network", Method: "POST", Path: "/networks", Effect: "delay", Delay: "2s"})
	each(t, jobs, func(ctx context.Context, _ int, j *job) error { return a.apply(ctx, j) })
	if parts := c.inFlight(t, n); parts["a"] == 0 || parts["b"] == 0 {
		t.Fatalf("one orchestrator runs all sagas: %v", parts)
	}
	each(t, jobs, func(ctx context.Context, n int, j *job) (err error) {
		switch n % 3 {
		case 1:
			_, err = a.ops.PauseOperation(ctx, &orchestratorv1.PauseOperationRequest{Name: j.operation, Reason: "lunch"})
		case 2:
			_, err = a.long.CancelOperation(ctx, &longrunningpb.CancelOperationRequest{Name: j.operation})
		}
		return err
	})
	paused := slices.DeleteFunc(slices.Clone(jobs), func(j *job) bool { return slices.Index(jobs, j)%3 != 1 })
	for _, j := range paused {
		story.Await(t, "the network of "+j.name(), func() bool {
			op := b.read(t, j)
			return op.StepState("net") == "DONE" && op.GetHold().GetReason() == "lunch"
		})
		if state := b.read(t, j).StepState("subnet"); state != "WAITING" {
			t.Errorf("%s is paused, but its subnet is %s", j.name(), state)
		}
	}
	each(t, paused, func(ctx context.Context, _ int, j *job) error {
		_, err := a.ops.ResumeOperation(ctx, &orchestratorv1.ResumeOperationRequest{Name: j.operation})
		return err
	})
	b.end(t, jobs, story.Patience, func(n int) string { return map[bool]string{true: "CANCELLED", false: "DONE"}[n%3 == 2] })
	c.Cloud.Mend(t)
	standing := slices.DeleteFunc(slices.Clone(jobs), func(j *job) bool { return slices.Index(jobs, j)%3 == 2 })
	if got := c.Cloud.Inventory(t).Counts()["network.network"]; got != len(standing) {
		t.Errorf("the cloud has %d networks, want %d", got, len(standing))
	}
	each(t, standing, func(ctx context.Context, _ int, j *job) error { return b.destroy(ctx, j) })
	a.end(t, standing, story.Patience, allDone)
	c.NothingLeft(t, nothing)
}

// progress watches the records of sagas in etcd.
type progress struct {
	mu    sync.Mutex
	first map[string]time.Time // of each operation, the first change that was seen
	stop  context.CancelFunc
	ended chan struct{}
}

// sagaRecords is where the states of unfinished sagas are.
const sagaRecords = "/weft/orchestrator/s/"

// operationOfKey gives the operation that a record belongs to; empty if the record is none of a state.
func operationOfKey(key string) string {
	_, name, _ := strings.Cut(strings.TrimPrefix(key, sagaRecords), "/")
	name, _ = strings.CutSuffix(name, "/state")
	return name
}

// watch begins to watch.
func (c *replicated) watch(t *testing.T) *progress {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	out := &progress{first: map[string]time.Time{}, stop: stop, ended: make(chan struct{})}
	etcd := c.Store.Client()
	channel := etcd.Watch(ctx, sagaRecords, clientv3.WithPrefix())
	go func() {
		defer close(out.ended)
		for answer := range channel {
			now := time.Now()
			out.mu.Lock()
			for _, e := range answer.Events {
				if name := operationOfKey(string(e.Kv.Key)); strings.HasSuffix(string(e.Kv.Key), "/state") && out.first[name].IsZero() {
					out.first[name] = now
				}
			}
			out.mu.Unlock()
		}
		if err := etcd.Close(); err != nil && !errors.Is(err, context.Canceled) { // so it says when it was closed
			t.Error(err)
		}
	}()
	return out
}

// after gives how long after a time each operation of some was first changed, in order of time.
func (p *progress) after(began time.Time, operations []string) []time.Duration {
	p.stop()
	<-p.ended
	var out []time.Duration
	for _, name := range operations {
		if first, ok := p.first[name]; ok {
			out = append(out, first.Sub(began))
		}
	}
	slices.Sort(out)
	return out
}

// runBy lists the unfinished sagas in the shards that a replica owns.
func (c *replicated) runBy(t *testing.T, replica string) []string {
	t.Helper()
	etcd := c.Store.Client()
	defer func() {
		if err := etcd.Close(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	const owners = "/weft/orchestrator/shards/owners/"
	owned := map[string]bool{}
	answer, err := etcd.Get(t.Context(), owners, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range answer.Kvs {
		if strings.Contains(string(kv.Value), c.replicas[replica].address) {
			owned[strings.TrimPrefix(string(kv.Key), owners)] = true
		}
	}
	if answer, err = etcd.Get(t.Context(), sagaRecords, clientv3.WithPrefix(), clientv3.WithKeysOnly()); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, kv := range answer.Kvs {
		if shard, _, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), sagaRecords), "/"); owned[shard] && strings.HasSuffix(string(kv.Key), "/state") {
			out = append(out, operationOfKey(string(kv.Key)))
		}
	}
	return out
}

// number reads how many of something a story is to have; the usual number without the variable.
func number(t *testing.T, variable string, usual int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is no number of anything", variable, text)
	}
	return n
}

// slowVolume is how long volumes take, so that the first is not ready before the last of n sagas has begun and the survivor
// has taken over. Many take longer for each: a thousand fill the machine.
func slowVolume(n int) time.Duration {
	return 8*time.Second + time.Duration(n)*50*time.Millisecond + time.Duration(max(n-100, 0))*150*time.Millisecond
}

// killedInFlight kills one of the two while many sagas wait for slow volumes. The other has all of them within seconds;
// all end as wanted, and every volume was asked for once.
func (c *replicated) killedInFlight(t *testing.T, nothing story.Inventory) {
	n := number(t, sagasInFlight, 100)
	a, b := c.at(t, c.replicas["a"].address), c.at(t, c.replicas["b"].address)
	c.shared(t)
	jobs := c.jobs(t, n, 10, "flying", oneVolume)
	c.Cloud.Latency(t, "volume.volume.available", slowVolume(n).String())
	since, began := c.Cloud.Last(t), time.Now()
	each(t, jobs, func(ctx context.Context, n int, j *job) error { return []*client{a, b}[n%2].apply(ctx, j) })
	parts := c.inFlight(t, n)
	story.Await(t, "every volume is asked for", func() bool { return c.Cloud.Inventory(t).Counts()["volume.volume"] == n })
	t.Logf("%d sagas are in flight %.1f s after the first apply: %v", n, time.Since(began).Seconds(), parts)
	orphans := c.runBy(t, "a")
	if len(orphans) != parts["a"] || len(orphans) < n/4 {
		t.Fatalf("replica a runs %d sagas by its shards and %d by its metrics, want the same, and a good part of %d", len(orphans), parts["a"], n)
	}
	c.Kill(t, c.replicas["a"].program())
	records, killed := c.watch(t), time.Now()
	answered := askOrphans(t, b, orphans)
	story.Await(t, "the survivor runs all sagas", func() bool {
		sagas, _ := c.metric(t, "b", "weft_sagas")
		shards, _ := c.metric(t, "b", "weft_saga_shards")
		return sagas == float64(n) && shards == 256
	})
	took := time.Since(killed)
	t.Logf("the survivor runs all %d sagas %.2f s after the other was killed", n, took.Seconds())
	if took > takeOverWithin {
		t.Errorf("the take-over took %s, more than %s", took, takeOverWithin)
	}
	if err := <-answered; err != nil {
		t.Errorf("what the survivor was asked right after the kill: %s", err)
	}
	first := records.after(killed, orphans)
	if len(first) != len(orphans) {
		t.Fatalf("the survivor changed %d of %d orphans", len(first), len(orphans))
	}
	t.Logf("the survivor's first transition of the %d orphans came %.2f s after the kill, half of them by %.2f s, the last by %.2f s",
		len(orphans), first[0].Seconds(), first[len(first)/2].Seconds(), first[len(first)-1].Seconds())
	each(t, jobs, func(ctx context.Context, _ int, j *job) error {
		if !slices.Contains(orphans, j.operation) {
			return nil
		}
		_, err := b.ops.ResumeOperation(ctx, &orchestratorv1.ResumeOperationRequest{Name: j.operation})
		return err
	})
	b.end(t, jobs, slowVolume(n)+story.Patience, allDone) // none ends before its volume is ready
	t.Logf("all %d sagas had ended %.1f s after the kill; a volume takes %s", n, time.Since(killed).Seconds(), slowVolume(n))
	c.once(t, since, n)
	c.Cloud.Latency(t, "volume.volume.available", "50ms")
	c.startReplica(t, "a")
	c.shared(t)
	each(t, jobs, func(ctx context.Context, _ int, j *job) error { return b.destroy(ctx, j) })
	b.end(t, jobs, story.Patience, allDone)
	c.NothingLeft(t, nothing)
}

// askOrphans asks an orchestrator to pause operations whose owner has died a moment ago, each once and many at a time.
// They wait for their new owner; none is refused. What became of it comes when all are answered.
func askOrphans(t *testing.T, at *client, operations []string) <-chan error {
	t.Helper()
	answered := make(chan error, 1)
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(asMany)
	go func() {
		for _, name := range operations {
			g.Go(func() error {
				_, err := at.ops.PauseOperation(ctx, &orchestratorv1.PauseOperationRequest{Name: name, Reason: "what does the survivor do?"})
				return err
			})
		}
		answered <- g.Wait()
	}()
	return answered
}

// posts gives the calls that ask to make something, by the end of their paths.
func posts(calls []story.Call, path string) []story.Call {
	return slices.DeleteFunc(calls, func(call story.Call) bool { return call.Method != "POST" || !strings.HasSuffix(call.Path, path) })
}

// once fails the test unless n volumes were asked for since a call, and n are there, each with a name of its own.
func (c *fleet) once(t *testing.T, since uint64, n int) {
	t.Helper()
	if got := len(posts(c.Cloud.Mutations(t, since), "/volumes")); got != n {
		t.Errorf("the cloud was asked for %d volumes, want %d", got, n)
	}
	in := c.Cloud.Inventory(t)
	if got := in.Counts()["volume.volume"]; got != n {
		t.Errorf("the cloud has %d volumes, want %d", got, n)
	}
	unique(t, in)
}

// pausedBeforeCommit has one of the two stop for longer than its lease right before it writes a transition. The other goes
// on. When the stopped one wakes up the transition reaches etcd, and is refused; it finds out that it has lost all, and
// takes part again.
func (c *replicated) pausedBeforeCommit(t *testing.T, nothing story.Inventory) {
	const n = 40
	a, b := c.at(t, c.replicas["a"].address), c.at(t, c.replicas["b"].address)
	c.shared(t)
	jobs := c.jobs(t, n, 4, "paused", oneVolume)
	since := c.Cloud.Last(t)
	c.Cloud.Latency(t, "volume.volume.available", "10s")
	each(t, jobs, func(ctx context.Context, n int, j *job) error { return []*client{a, b}[n%2].apply(ctx, j) })
	story.Await(t, "their volumes are asked for", func() bool { return c.Cloud.Inventory(t).Counts()["volume.volume"] == n })
	c.inFlight(t, n)
	history := c.epochs(t)
	process := c.stopAt(t, "a", crash.EngineCommitBefore)
	process.AwaitStop(t) // the first volume is ready
	began, seen := time.Now(), &monotone{}
	c.takenOver(t, "b")
	t.Logf("the other runs all sagas %.2f s after the pause began", time.Since(began).Seconds())
	story.Await(t, "the other ends all applies", func() bool {
		seen.all(t, b, jobs)
		return len(b.unfinished(t, jobs)) == 0
	})
	b.end(t, jobs, story.Patience, allDone)
	process.Signal(t, syscall.SIGCONT)
	story.Await(t, "the fence refuses what the paused one writes", func() bool {
		seen.all(t, b, jobs)
		refused, ok := c.metric(t, "a", "weft_saga_fence_rejections_total")
		return ok && refused > 0
	})
	c.shared(t)
	seen.all(t, b, jobs)
	c.once(t, since, n)
	history.check(t)
	for _, name := range []string{"a", "b"} {
		fenced, _ := c.metric(t, name, "weft_saga_fence_rejections_total")
		idle, _ := c.metric(t, name, "weft_sagas_without_next_action")
		t.Logf("replica %s: %v transactions were refused by the fence", name, fenced)
		if idle != 0 {
			t.Errorf("replica %s has %v sagas without a next action", name, idle)
		}
	}
	c.Cloud.Latency(t, "volume.volume.available", "50ms")
	each(t, jobs, func(ctx context.Context, _ int, j *job) error { return a.destroy(ctx, j) })
	b.end(t, jobs, story.Patience, allDone)
	c.NothingLeft(t, nothing)
}

// wall is a security group that lets a port in.
func wall(port int) string {
	return fmt.Sprintf("  wall: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: \"%d\"}]}}\n", port)
}

// pausedBeforePublish has one of the two stop right before it publishes commands that it has committed. The other takes
// over and publishes them; the applies end, and a later apply of the same stacks changes what they made. NATS is started
// anew and with that forgets which messages it has had. When the stopped one wakes up its commands reach the service for a
// second time, and are refused there, since a younger owner has commanded the same resources.
func (c *replicated) pausedBeforePublish(t *testing.T, nothing story.Inventory) {
	const n = 18 // that the one runs none of them has a chance of 1 in 2^18
	b := c.at(t, c.replicas["b"].address)
	c.shared(t)
	jobs := c.jobs(t, n, 3, "late", wall(80))
	process := c.stopAt(t, "a", crash.OutboxPublishBefore)
	each(t, jobs, func(ctx context.Context, _ int, j *job) error { return b.apply(ctx, j) })
	process.AwaitStop(t)
	c.takenOver(t, "b")
	b.end(t, jobs, story.Patience, allDone)
	for _, j := range jobs {
		j.document = stackOf(j.stack, wall(443))
	}
	each(t, jobs, func(ctx context.Context, _ int, j *job) error { return b.apply(ctx, j) })
	b.end(t, jobs, story.Patience, allDone)
	c.restartNATS()
	since, before := c.Cloud.Last(t), c.refusedCommands(t, "network")
	process.Signal(t, syscall.SIGCONT)
	story.Await(t, "the service refuses what the paused one commands", func() bool { return c.refusedCommands(t, "network") > before })
	t.Logf("the network service refused %v commands of the paused orchestrator", c.refusedCommands(t, "network")-before)
	c.shared(t)
	if calls := c.Cloud.Mutations(t, since); len(calls) > 0 {
		t.Errorf("what the paused one commanded had an effect: %v", calls)
	}
	each(t, jobs, func(ctx context.Context, _ int, j *job) error { return b.destroy(ctx, j) })
	b.end(t, jobs, story.Patience, allDone)
	c.NothingLeft(t, nothing)
}

// stopAt orders an orchestrator to stop when it next passes a point, and gives its process.
func (c *replicated) stopAt(t *testing.T, replica string, point crash.Name) *story.Process {
	t.Helper()
	p := c.Processes[c.replicas[replica].program()]
	p.Order(t, fmt.Sprintf("%s 1 %s", point, crash.Stop))
	return p
}

// takenOver waits until one orchestrator owns all shards.
func (c *replicated) takenOver(t *testing.T, by string) {
	t.Helper()
	story.Await(t, "replica "+by+" runs all sagas", func() bool {
		shards, _ := c.metric(t, by, "weft_saga_shards")
		return shards == 256
	})
}

// history are the writes of sagas' states, as etcd tells of them.
type history struct {
	mu     sync.Mutex
	writes int
	wrong  []string
	stop   context.CancelFunc
	ended  chan struct{}
}

// epochs watches that no state is written by an older owner than the one that wrote it last.
func (c *replicated) epochs(t *testing.T) *history {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	out := &history{stop: stop, ended: make(chan struct{})}
	etcd := c.Store.Client()
	channel := etcd.Watch(ctx, sagaRecords, clientv3.WithPrefix())
	go func() {
		defer close(out.ended)
		last := map[string]int64{}
		for answer := range channel {
			for _, e := range answer.Events {
				state := &orchestratorv1.SagaState{}
				if e.Type != clientv3.EventTypePut || !strings.HasSuffix(string(e.Kv.Key), "/state") {
					continue
				}
				err := proto.Unmarshal(e.Kv.Value, state)
				out.mu.Lock()
				out.writes++
				if key := string(e.Kv.Key); err != nil || state.GetEpoch() < last[key] {
					out.wrong = append(out.wrong, fmt.Sprintf("%s: epoch %d after %d, %v", key, state.GetEpoch(), last[key], err))
				}
				last[string(e.Kv.Key)] = state.GetEpoch()
				out.mu.Unlock()
			}
		}
		if err := etcd.Close(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	return out
}

// check fails the test if an older owner wrote after a newer.
func (h *history) check(t *testing.T) {
	t.Helper()
	h.stop()
	<-h.ended
	if len(h.wrong) > 0 {
		t.Errorf("of %d writes these are wrong: %v", h.writes, h.wrong)
	}
}
