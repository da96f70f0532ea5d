package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// soakLength is the environment variable that says how long TestSoak lasts.
const soakLength = "WEFT_SOAK"

// What the soak allows.
const (
	// soakTimeout is the deadline of each operation.
	soakTimeout = 60 * time.Second
	// soakGrace is how long after its deadline an operation may be seen unfinished: whoever looks is slow, too.
	soakGrace = 20 * time.Second
	// soakSettled is when a call that was under way at a cancel has been answered.
	soakSettled = 5 * time.Second
)

// TestSoak has people of several tenants apply, change, cancel and destroy stacks at random while all kinds of faults go on
// at the cloud, and while everything is killed now and then: no operation is unfinished past its deadline, a cancelled one
// makes nothing more, memory stays flat, and in the end nothing is left.
func TestSoak(t *testing.T) {
	if os.Getenv(soakLength) == "" {
		t.Skip("it takes as long as " + soakLength + " says: make soak LENGTH=1h")
	}
	length, err := time.ParseDuration(os.Getenv(soakLength))
	if err != nil {
		t.Fatalf("%s: %s", soakLength, err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	s := &soak{T: t, i: story.Start(t), end: time.Now().Add(length), counts: map[string]int{}, random: rand.New(rand.NewPCG(seed, 1))}
	s.i.Cloud.Hurry(t)
	s.i.Cloud.Quota(t, "volume", map[string]int{"volumes": 100})
	s.i.Cloud.Quota(t, "compute", map[string]int{"instances": 100, "cores": 100})
	for _, tenant := range []string{"red", "blue"} {
		s.i.Must(t, "tenant", "add", tenant)
	}
	nothing := s.i.Cloud.Inventory(t)
	var people sync.WaitGroup
	for n, tenant := range []string{"default", "default", "red", "red", "blue"} {
		people.Go(func() { s.person(tenant, fmt.Sprint("soak", n)) })
	}
	people.Go(s.overdue)
	s.faults(length)
	people.Wait()
	s.i.Cloud.Mend(t)
	for n, tenant := range []string{"default", "default", "red", "red", "blue"} {
		s.away(tenant, fmt.Sprint("soak", n))
	}
	s.i.NothingLeft(t, nothing)
	s.flat()
	t.Logf("%v", s.counts)
	if s.counts["DONE"] == 0 || s.counts["UNDONE"]+s.counts["CANCELLED"] == 0 {
		t.Errorf("a soak that says little: %v", s.counts)
	}
}

// soak is one run.
type soak struct {
	*testing.T

	i      *story.Installation
	end    time.Time
	mu     sync.Mutex
	counts map[string]int
	random *rand.Rand
	memory []int // in KiB, since the last start
}

func (s *soak) draw(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.random.IntN(n)
}

func (s *soak) count(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[what]++
}

// document is a stack at random.
func (s *soak) document(name string) string {
	text := fabric
	for n := range s.draw(3) {
		text += fmt.Sprintf("  data%d: {kind: Volume, spec: {size: %dGi, reclaim: DESTROY}}\n", n, 1+s.draw(2))
	}
	if s.draw(2) == 0 {
		text += fmt.Sprintf("  vm: {kind: Server, spec: {image: tiny, flavor: m1.tiny, network: net, metadata: {round: \"%d\"}}}\n", s.draw(100))
	}
	if s.draw(3) == 0 {
		text += "  wall: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: \"80\"}]}}\n"
	}
	return stackOf(name, text)
}

// person works on one stack of a tenant until it is over.
func (s *soak) person(tenant, stack string) {
	for time.Now().Before(s.end) {
		switch what := s.draw(10); {
		case what < 6:
			s.ended(tenant, s.apply(tenant, stack))
		case what < 8:
			s.cancel(tenant, stack)
		default:
			s.ended(tenant, <-s.i.Go(s.T, "--tenant", tenant, "destroy", stack, "--timeout", soakTimeout.String(), "--wait", "-o", "json"))
		}
	}
}

func (s *soak) apply(tenant, stack string) story.Result {
	path := s.i.Document(s.T, stack+".yaml", s.document(stack))
	return <-s.i.Go(s.T, "--tenant", tenant, "apply", "-f", path, "--timeout", soakTimeout.String(), "--wait", "-o", "json")
}

// ended notes how an operation ended. One that needs a hand gets it.
func (s *soak) ended(tenant string, r story.Result) {
	op := operationIn(r.Out)
	if op == nil {
		s.count("refused") // there is no such stack, or nobody answers since everything was killed
		time.Sleep(200 * time.Millisecond)
		return
	}
	state := strings.TrimPrefix(op.GetState().String(), "OPERATION_STATE_")
	s.count(state)
	if op.GetState() == orchestratorv1.OperationState_OPERATION_STATE_NEEDS_HAND {
		id := op.GetName()[strings.LastIndexByte(op.GetName(), '/')+1:]
		<-s.i.Go(s.T, "--tenant", tenant, "ops", "retry", id)
		<-s.i.Go(s.T, "--tenant", tenant, "ops", "watch", id, "-o", "json")
	}
}

// operationIn gives the operation that a command printed; nil if it printed none.
func operationIn(out string) *orchestratorv1.OperationMetadata {
	long, view := &longrunningpb.Operation{}, &orchestratorv1.OperationMetadata{}
	if protojson.Unmarshal([]byte(out), long) != nil || long.GetMetadata().UnmarshalTo(view) != nil {
		return nil
	}
	return view
}

// cancel applies, and cancels that: once the cancel is answered, and what was under way has ended, nothing more is made.
func (s *soak) cancel(tenant, stack string) {
	path := s.i.Document(s.T, stack+".yaml", s.document(stack))
	begun := operationIn((<-s.i.Go(s.T, "--tenant", tenant, "apply", "-f", path, "--timeout", soakTimeout.String(), "--no-wait", "-o", "json")).Out)
	if begun == nil {
		return
	}
	time.Sleep(time.Duration(s.draw(400)) * time.Millisecond)
	id := begun.GetName()[strings.LastIndexByte(begun.GetName(), '/')+1:]
	answer := <-s.i.Go(s.T, "--tenant", tenant, "ops", "cancel", id)
	if answer.Code != 0 {
		<-s.i.Go(s.T, "--tenant", tenant, "ops", "watch", id, "-o", "json")
		return
	}
	time.Sleep(soakSettled)
	before, known := s.objects(stack)
	s.ended(tenant, <-s.i.Go(s.T, "--tenant", tenant, "ops", "watch", id, "-o", "json"))
	after, still := s.objects(stack)
	for _, object := range after {
		if known && still && !slices.Contains(before, object) {
			s.Errorf("%s of %s was made after %s had been cancelled", object, stack, id)
		}
	}
}

// objects gives what the cloud has of a stack, by id; false if the cloud does not answer since everything was killed.
func (s *soak) objects(stack string) ([]string, bool) {
	items, err := s.i.Cloud.TryInventory()
	var out []string
	for _, item := range items {
		if strings.HasPrefix(item.Name, stack+".") {
			out = append(out, item.Kind+" "+item.ID)
		}
	}
	return out, err == nil
}

// overdue looks, until it is over, for operations that are unfinished past their deadline.
func (s *soak) overdue() {
	for time.Now().Before(s.end) {
		time.Sleep(3 * time.Second)
		for _, tenant := range []string{"default", "red", "blue"} {
			all := &longrunningpb.ListOperationsResponse{}
			if protojson.Unmarshal([]byte((<-s.i.Go(s.T, "--tenant", tenant, "ops", "list", "-o", "json")).Out), all) != nil {
				continue // nobody answers
			}
			for _, op := range all.GetOperations() {
				view := &orchestratorv1.OperationMetadata{}
				if op.GetMetadata().UnmarshalTo(view) != nil || op.GetDone() || view.GetDeadline() == nil {
					continue
				}
				if late := time.Since(view.GetDeadline().AsTime()); late > soakGrace {
					s.Errorf("%s is %s %s after its deadline", view.GetName(), view.GetState(), late)
				}
			}
		}
	}
}

// faults breaks calls at the cloud at random, and in the first half kills everything now and then.
func (s *soak) faults(length time.Duration) {
	paths := []struct{ service, path string }{
		{"network", "/networks"},
		{"network", "/subnets"},
		{"network", "/security-groups"},
		{"volume", "/volumes"},
		{"compute", "/servers"},
		{"network", "/networks/*"},
		{"network", "/subnets/*"},
		{"volume", "/volumes/*"},
		{"compute", "/servers/*"},
	}
	began, killed := time.Now(), time.Now()
	for time.Now().Before(s.end) {
		time.Sleep(time.Duration(300+s.draw(1500)) * time.Millisecond)
		at := paths[s.draw(len(paths))]
		f := story.Fault{Service: at.service, Path: at.path, Times: 1 + s.draw(3), Message: "it is not a good day"}
		switch s.draw(7) {
		case 0:
			f.Effect, f.Status = "status", 500
		case 1:
			f.Effect, f.Status = "status", 503
		case 2:
			f.Effect, f.Status = "status", 429
		case 3:
			f.Effect, f.Status, f.Method = "status", 409, "DELETE"
		case 4:
			f.Effect, f.Status, f.Method = "status", 403, "POST"
		case 5:
			f.Effect = "drop_response"
		default:
			f.Effect, f.Delay = "delay", "2s"
		}
		s.i.Cloud.Break(s.T, f)
		if s.draw(20) == 0 {
			s.i.Cloud.Mend(s.T)
		}
		if time.Since(killed) > 30*time.Second && time.Since(began) < length/2 {
			s.i.Kill(s.T)
			s.i.Restart(s.T)
			killed, s.memory = time.Now(), nil
			s.count("killed")
		}
		s.memory = append(s.memory, s.resident())
	}
}

// resident gives how much memory the installation uses, in KiB.
func (s *soak) resident() int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.i.Pid()))
	if err != nil {
		s.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		s.Fatal(err)
	}
	return kib
}

// flat fails unless the memory of the last quarter since the last start is about that of the quarter before.
func (s *soak) flat() {
	n := len(s.memory) / 4
	if n < 5 {
		s.Logf("too short to say whether memory is flat")
		return
	}
	middle := func(part []int) int {
		part = slices.Sorted(slices.Values(part))
		return part[len(part)/2]
	}
	before, last := middle(s.memory[2*n:3*n]), middle(s.memory[3*n:])
	s.Logf("memory: %d MiB, and then %d MiB", before>>10, last>>10)
	if last > before*5/4+20<<10 {
		s.Errorf("memory grows: %d MiB, and then %d MiB", before>>10, last>>10)
	}
}

// away takes a stack away, whatever its last operation left.
func (s *soak) away(tenant, stack string) {
	story.Await(s.T, stack+" is gone", func() bool {
		r := <-s.i.Go(s.T, "--tenant", tenant, "destroy", stack, "--wait", "-o", "json")
		if strings.Contains(r.Err, "does not exist") {
			return true
		}
		if op := operationIn(r.Out); op != nil && op.GetState() == orchestratorv1.OperationState_OPERATION_STATE_DONE {
			return true
		}
		for _, id := range s.held(tenant, stack) {
			<-s.i.Go(s.T, "--tenant", tenant, "ops", "retry", id)
		}
		return false
	})
}

// held gives the operations of a stack that need a hand.
func (s *soak) held(tenant, stack string) []string {
	all := &longrunningpb.ListOperationsResponse{}
	(<-s.i.Go(s.T, "--tenant", tenant, "ops", "list", "-o", "json")).Decode(s.T, all)
	var out []string
	for _, op := range all.GetOperations() {
		view := &orchestratorv1.OperationMetadata{}
		if err := op.GetMetadata().UnmarshalTo(view); err != nil {
			s.Fatal(err)
		}
		if strings.HasSuffix(view.GetTarget(), "/"+stack) && view.GetState() == orchestratorv1.OperationState_OPERATION_STATE_NEEDS_HAND {
			out = append(out, view.GetName()[strings.LastIndexByte(view.GetName(), '/')+1:])
		}
	}
	return out
}
