package e2e

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftcloud/weft/deploy/e2e/internal/proxy"
	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// replicated is a fleet with several orchestrators. Whoever does not care which one answers calls the address of the
// orchestrator, which leads to any that lives.
type replicated struct {
	*fleet
	replicas map[string]*replica
	// points is the folder of an orchestrator that obeys orders at its points (package crash).
	points string
	// restartNATS ends NATS and starts it again on what it has kept.
	restartNATS func()
	// metrics are where the services but the orchestrators serve theirs.
	metrics map[string]string
}

// replica is one of the orchestrators.
type replica struct {
	name, address, metrics string
	// store is the way to etcd, which can be broken.
	store *proxy.Proxy
}

func (r *replica) program() string { return "orchestratord " + r.name }

// newReplicated starts an installation with orchestrators of these names, and registers the sandbox with it.
func newReplicated(t *testing.T, names []string, more ...string) *replicated {
	t.Helper()
	c := &replicated{replicas: map[string]*replica{}, points: orchestratorWithPoints(t), metrics: map[string]string{}}
	for _, s := range story.Services() {
		c.metrics[s] = story.Address(t)
	}
	c.fleet = prepareWith(t, func(service string) string {
		if service == "orchestrator" { // each has its own
			return strings.Join(more, "")
		}
		return strings.Join(more, "") + "metrics: " + c.metrics[service] + "\n"
	})
	c.StartEtcd(t)
	c.restartNATS = c.StartNATS(t)
	c.StartSandbox(t)
	var addresses []string
	for _, name := range names {
		r := &replica{name: name, address: story.Address(t), metrics: story.Address(t), store: c.proxy(t, story.Address(t), c.Addresses["etcd"])}
		c.replicas[name] = r
		addresses = append(addresses, r.address)
		c.Write(t, r.program()+".yaml", c.replicaConfiguration(r))
		c.startReplica(t, name)
	}
	c.proxy(t, c.Addresses["orchestrator"], addresses...)
	for _, s := range story.Services() {
		if s != "orchestrator" {
			c.Start(t, s)
		}
	}
	c.Register(t)
	return c
}

// orchestratorWithPoints builds one, beside the programs, and gives its folder.
func orchestratorWithPoints(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(filepath.Dir(os.Getenv(story.Binary)), "points")
	if err := story.BuildServices(dir, []string{"-tags", "crash"}, "orchestrator"); err != nil {
		t.Fatal(err)
	}
	return dir
}

// everywhere is what also stands in the configurations of all services.
func everywhere(more ...string) func(service string) string {
	return func(string) string { return strings.Join(more, "") }
}

// proxy starts a proxy that lasts as long as the test.
func (c *fleet) proxy(t *testing.T, address string, upstreams ...string) *proxy.Proxy {
	t.Helper()
	p, err := proxy.Listen(address, upstreams...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (c *replicated) startReplica(t *testing.T, name string) {
	t.Helper()
	usual, program := c.Bin, c.replicas[name].program()
	c.Bin = c.points
	c.Run(t, program, "--config", filepath.Join(c.Dir, program+".yaml"))
	c.Bin = usual
}

// replicaConfiguration is what stands in the configuration of one orchestrator.
func (c *replicated) replicaConfiguration(r *replica) string {
	return strings.NewReplacer(
		"listen: "+c.Addresses["orchestrator"], "listen: "+r.address+"\nadvertise: "+r.address+"\nmetrics: "+r.metrics,
		"replica: a\n", "replica: "+r.name+"\n",
		"https://"+c.Addresses["etcd"], "https://"+r.store.Addr(),
	).Replace(c.Configuration("orchestrator"))
}

// metric reads one number of a replica; a replica that does not answer has none.
func (c *replicated) metric(t *testing.T, replica, name string) (float64, bool) {
	t.Helper()
	m, err := story.Scrape(t.Context(), c.replicas[replica].metrics, c.TLS(t))
	if err != nil {
		return 0, false
	}
	v, ok := m[name]
	if !ok {
		t.Fatalf("replica %s serves no %s", replica, name)
	}
	return v, true
}

// refusedCommands counts the commands that came too late for a service.
func (c *replicated) refusedCommands(t *testing.T, service string) float64 {
	t.Helper()
	m, err := story.Scrape(t.Context(), c.metrics[service], c.TLS(t))
	if err != nil {
		t.Fatal(err)
	}
	return m[`weft_participant_commands_total{result="refused"}`]
}

// client is somebody who calls the API.
type client struct {
	stacks orchestratorv1.StackServiceClient
	ops    orchestratorv1.OperationServiceClient
	long   longrunningpb.OperationsClient
}

// at gives a client of one address of the installation.
func (c *fleet) at(t *testing.T, address string) *client {
	t.Helper()
	return clientOn(c.DialAt(t, address, c.TLS(t)))
}

func clientOn(conn *grpc.ClientConn) *client {
	return &client{orchestratorv1.NewStackServiceClient(conn), orchestratorv1.NewOperationServiceClient(conn), longrunningpb.NewOperationsClient(conn)}
}

// job is a stack that is applied or destroyed.
type job struct {
	tenant, stack, document string
	operation               string
}

func (j *job) parent() string { return "tenants/" + j.tenant }
func (j *job) name() string   { return j.parent() + "/stacks/" + j.stack }

// asMany is how many calls clients of these stories make at the same time.
const asMany = 16

// each does something for each job, many at a time.
func each(t *testing.T, jobs []*job, do func(ctx context.Context, n int, j *job) error) {
	t.Helper()
	if err := eachOf(t.Context(), jobs, do); err != nil {
		t.Fatal(err)
	}
}

// eachOf is each in the background.
func eachOf(ctx context.Context, jobs []*job, do func(ctx context.Context, n int, j *job) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(asMany)
	for n, j := range jobs {
		g.Go(func() error {
			if err := do(ctx, n, j); err != nil {
				return fmt.Errorf("%s: %w", j.name(), err)
			}
			return nil
		})
	}
	return g.Wait()
}

// patiently calls until the answer is not that it should be tried later, or that it is not known what happened. What it
// does must be the same however often it is done.
func patiently(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, story.Patience)
	defer cancel()
	for {
		err := call(ctx)
		if code := status.Code(err); code != codes.Unavailable && code != codes.ResourceExhausted || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

// apply begins the apply of a job. The request's id makes it the same however often it is sent; another document is another.
func (c *client) apply(ctx context.Context, j *job) error {
	id := fmt.Sprintf("apply-%s-%s-%x", j.tenant, j.stack, crc32.ChecksumIEEE([]byte(j.document)))
	return patiently(ctx, func(ctx context.Context) error {
		op, err := c.stacks.ApplyStack(ctx, &orchestratorv1.ApplyStackRequest{Parent: j.parent(), Document: j.document, RequestId: id})
		j.operation = op.GetName()
		return err
	})
}

// destroy begins the destroy of a job. If an answer was lost and the stack is gone, there is no operation to wait for.
func (c *client) destroy(ctx context.Context, j *job) error {
	lost := false
	return patiently(ctx, func(ctx context.Context) error {
		op, err := c.stacks.DeleteStack(ctx, &orchestratorv1.DeleteStackRequest{Name: j.name()})
		j.operation = op.GetName()
		if lost && status.Code(err) == codes.NotFound {
			return nil
		}
		lost = lost || err != nil
		return err
	})
}

// read reads the operation of a job.
func (c *client) read(t *testing.T, j *job) *story.Operation {
	t.Helper()
	var long *longrunningpb.Operation
	err := patiently(t.Context(), func(ctx context.Context) (err error) {
		long, err = c.long.GetOperation(ctx, &longrunningpb.GetOperationRequest{Name: j.operation})
		return err
	})
	if err != nil {
		t.Fatalf("read %s: %s", j.operation, err)
	}
	return story.ReadOperation(t, long)
}

// end waits until the operations of all jobs have ended, as state says. It waits however long all of them take, as long as
// one ends within every such time: a busy machine makes them slow, and what stands still is found all the same.
func (c *client) end(t *testing.T, jobs []*job, within time.Duration, state func(n int) string) {
	t.Helper()
	deadline, unfinished := time.Now().Add(within), len(jobs)
	for n, j := range jobs {
		if j.operation == "" {
			continue // it is known to have ended, see destroy
		}
		op := c.read(t, j)
		for ; !op.Long.GetDone(); op = c.read(t, j) {
			time.Sleep(20 * time.Millisecond)
			if time.Now().Before(deadline) {
				continue
			}
			late := c.unfinished(t, jobs[n:])
			if len(late) >= unfinished {
				t.Fatalf("none of %d operations has ended for %s; the first is %v", len(late), within, late[0])
			}
			deadline, unfinished = time.Now().Add(within), len(late)
		}
		if want := state(n); !op.Is(want) {
			t.Fatalf("%s of %s is %s, want %s: %v", j.operation, j.name(), op.State(), want, op)
		}
	}
}

// unfinished gives the operations of jobs that have not ended.
func (c *client) unfinished(t *testing.T, jobs []*job) []*story.Operation {
	t.Helper()
	var out []*story.Operation
	for _, j := range jobs {
		if j.operation == "" {
			continue
		}
		if op := c.read(t, j); !op.Long.GetDone() {
			out = append(out, op)
		}
	}
	return out
}

func allDone(int) string { return "DONE" }

// jobs makes jobs of a document's resources, over a number of tenants, which are added.
func (c *fleet) jobs(t *testing.T, n, tenants int, prefix, resources string) []*job {
	t.Helper()
	for i := range tenants {
		c.Must(t, "tenant", "add", fmt.Sprintf("t%d", i))
	}
	out := make([]*job, n)
	for i := range out {
		name := fmt.Sprintf("%s-%d", prefix, i)
		out[i] = &job{tenant: fmt.Sprintf("t%d", i%tenants), stack: name, document: stackOf(name, resources)}
	}
	return out
}

// limitless takes the quotas of the sandbox away.
func limitless(t *testing.T, cloud *story.Cloud) {
	t.Helper()
	for service, limits := range map[string]map[string]int{
		"compute": {"instances": -1, "cores": -1, "ram": -1},
		"network": {"network": -1, "subnet": -1, "router": -1, "port": -1, "floatingip": -1, "security_group": -1, "security_group_rule": -1},
		"volume":  {"volumes": -1, "gigabytes": -1},
	} {
		cloud.Quota(t, service, limits)
	}
}

// monotone watches operations and finds whether one ever goes back.
type monotone struct {
	mu   sync.Mutex
	last map[string]int64
}

// see takes what was read of an operation; the error says that an older state was shown after a newer.
func (s *monotone) see(op *orchestratorv1.OperationMetadata) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = map[string]int64{}
	}
	if last := s.last[op.GetName()]; op.GetSequence() < last {
		return fmt.Errorf("%s went back from change %d to %d", op.GetName(), last, op.GetSequence())
	}
	s.last[op.GetName()] = op.GetSequence()
	return nil
}

// all takes what a client reads of the operations of jobs, and fails the test if one went back.
func (s *monotone) all(t *testing.T, from *client, jobs []*job) {
	t.Helper()
	for _, j := range jobs {
		if err := s.see(from.read(t, j).OperationMetadata); err != nil {
			t.Error(err)
		}
	}
}

// done waits until the operation of a job is done; the error says how it ended otherwise.
func (c *client) done(ctx context.Context, j *job, within time.Duration) error {
	if j.operation == "" {
		return nil // it is known to have ended, see destroy
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		var long *longrunningpb.Operation
		err := patiently(ctx, func(ctx context.Context) (err error) {
			long, err = c.long.GetOperation(ctx, &longrunningpb.GetOperationRequest{Name: j.operation})
			return err
		})
		if err != nil {
			return fmt.Errorf("read %s, which is not known to have ended: %w", j.operation, err)
		}
		if long.GetDone() {
			return status.ErrorProto(long.GetError())
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s has not ended within %s: %v", j.operation, within, long)
		}
	}
}
