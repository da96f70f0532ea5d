package e2e

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftcloud/weft/deploy/e2e/internal/proxy"
	"github.com/weftcloud/weft/deploy/e2e/internal/story"
)

const (
	// chaos is the environment variable without which the stories that take minutes, and the whole machine, are not told.
	chaos = "WEFT_CHAOS"
	// seedOf is the environment variable with the seed of whatever is left to chance; each such story tells its own.
	seedOf = "WEFT_SEED"
	// membersOfEach is how many servers etcd and NATS have.
	membersOfEach = 3
)

// backbone is etcd and NATS as clusters of processes of their own. Each member has its proxy, by which clients reach it.
type backbone struct {
	c       *fleet
	members map[string][]*member // by the kind, etcd or nats
}

// member is one server.
type member struct {
	kind, name, client, peer, dir string
	proxy                         *proxy.Proxy
}

func (m *member) program() string { return "backbone " + m.name }

// newBackbone starts an installation on clusters of etcd and NATS.
func newBackbone(t *testing.T) *backbone {
	t.Helper()
	b := &backbone{c: prepareWith(t, everywhere(unbounded)), members: map[string][]*member{}}
	build := exec.Command("go", "build", "-o", filepath.Join(b.c.Bin, "backbone"), "./cmd/backbone")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the backbone: %s\n%s", err, out)
	}
	for _, kind := range []string{"etcd", "nats"} {
		for n := range membersOfEach {
			m := &member{kind: kind, name: fmt.Sprintf("%s-%d", kind, n), client: story.Address(t), peer: story.Address(t), dir: t.TempDir()}
			m.proxy = b.c.proxy(t, story.Address(t), m.client)
			b.members[kind] = append(b.members[kind], m)
		}
		for _, m := range b.members[kind] {
			b.start(t, m)
		}
	}
	for _, s := range story.Services() {
		b.c.Write(t, s+".yaml", strings.NewReplacer(
			`"https://`+b.c.Addresses["etcd"]+`"`, `"`+strings.Join(b.urls("etcd", "https://"), `", "`)+`"`,
			`"tls://`+b.c.Addresses["nats"]+`"`, `"`+strings.Join(b.urls("nats", "tls://"), ",")+`", replicas: 3`,
		).Replace(b.c.Configuration(s)))
	}
	b.c.StartSandbox(t)
	for _, s := range story.Services() {
		b.c.Start(t, s)
	}
	b.c.Register(t)
	return b
}

// urls gives where clients find the members.
func (b *backbone) urls(kind, scheme string) []string {
	var out []string
	for _, m := range b.members[kind] {
		out = append(out, scheme+m.proxy.Addr())
	}
	return out
}

// start starts a member, on what it kept.
func (b *backbone) start(t *testing.T, m *member) {
	t.Helper()
	var all []string
	for _, other := range b.members[m.kind] {
		all = append(all, other.name+"="+other.peer)
	}
	b.c.Run(t, m.program(), "-kind", m.kind, "-name", m.name, "-dir", m.dir, "-tls", filepath.Join(b.c.Dir, "tls", m.kind),
		"-client", m.client, "-peer", m.peer, "-cluster", strings.Join(all, ","), "-advertise", m.proxy.Addr())
}

// blow is one thing that breaks, and how it is mended after a while.
type blow struct {
	name     string
	lasts    time.Duration
	do, mend func(t *testing.T)
}

// network is a blow to the ways to some members.
func network(name string, lasts time.Duration, f proxy.Fault, members ...*member) blow {
	set := func(f proxy.Fault) func(*testing.T) {
		return func(*testing.T) {
			for _, m := range members {
				m.proxy.Set(f)
			}
		}
	}
	return blow{name: name, lasts: lasts, do: set(f), mend: set(proxy.Fault{})}
}

// reset is a blow that ends all connections of some members.
func reset(name string, members ...*member) blow {
	return blow{name: name, lasts: time.Second, mend: func(*testing.T) {}, do: func(*testing.T) {
		for _, m := range members {
			m.proxy.Reset()
		}
	}}
}

// death is a blow that kills members, does something to what they kept, and starts them again.
func (b *backbone) death(name string, lasts time.Duration, then func(*testing.T, *member), members ...*member) blow {
	return blow{name: name, lasts: lasts, do: func(t *testing.T) {
		for _, m := range members {
			b.c.Kill(t, m.program())
		}
	}, mend: func(t *testing.T) {
		for _, m := range members {
			then(t, m)
			b.start(t, m)
		}
	}}
}

func keep(*testing.T, *member) {}

// cutTail takes the last part of every message log away that a NATS server kept, as a crash of the machine does with
// what was not synced.
func cutTail(t *testing.T, m *member) {
	t.Helper()
	cut := 0
	err := filepath.WalkDir(filepath.Join(m.dir, "jetstream"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".blk") || !strings.Contains(path, "/streams/") && !strings.Contains(path, "/S-R3F-") {
			return err
		}
		info, err := entry.Info()
		if err != nil || info.Size() == 0 {
			return err
		}
		cut++
		return os.Truncate(path, info.Size()*2/3)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the tails of %d message logs of %s are lost", cut, m.name)
}

// blows gives all that is to break, in an order of chance.
func (b *backbone) blows(chance *rand.Rand) []blow {
	etcd, nats := b.members["etcd"], b.members["nats"]
	one := func(of []*member) *member { return of[chance.IntN(len(of))] }
	const aWhile = 2 * time.Second
	out := []blow{
		network("all of etcd answers late", aWhile, proxy.Fault{Delay: 100 * time.Millisecond}, etcd...),
		network("one of etcd is in a black hole", aWhile, proxy.Fault{BlackHole: true}, one(etcd)),
		network("all of etcd is in a black hole, for longer than a lease", 8*time.Second, proxy.Fault{BlackHole: true}, etcd...),
		reset("all connections to etcd are reset", etcd...),
		b.death("one of etcd dies", aWhile, keep, one(etcd)),
		network("all of NATS answers late", aWhile, proxy.Fault{Delay: 100 * time.Millisecond}, nats...),
		network("one of NATS is in a black hole", aWhile, proxy.Fault{BlackHole: true}, one(nats)),
		reset("all connections to NATS are reset", nats...),
		b.death("one of NATS dies", aWhile, keep, one(nats)),
		b.death("all of NATS dies", time.Second, keep, nats...),
		b.death("all of NATS dies and loses the tails of its logs", time.Second, cutTail, nats...),
		b.death("all of NATS dies and loses all that it had", time.Second, func(t *testing.T, m *member) {
			if err := os.RemoveAll(filepath.Join(m.dir, "jetstream")); err != nil {
				t.Fatal(err)
			}
		}, nats...),
	}
	chance.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// TestBackboneBreaks applies and destroys stacks while etcd and NATS, three servers each, break in every way that there is.
func TestBackboneBreaks(t *testing.T) {
	if os.Getenv(chaos) == "" {
		t.Skipf("it takes minutes; make cluster (%s=1) tells it", chaos)
	}
	seed := uint64(number(t, seedOf, int(time.Now().Unix())))
	t.Logf("%s=%d", seedOf, seed)
	b := newBackbone(t)
	limitless(t, b.c.Cloud)
	b.c.Cloud.Hurry(t)
	nothing := b.c.Cloud.Inventory(t)
	calm := make(chan struct{})
	worked := make(chan error, 1)
	jobs := b.c.jobs(t, 6, 3, "round", fabric+oneVolume)
	go func() { worked <- b.work(t, jobs, calm) }()
	for _, blow := range b.blows(rand.New(rand.NewPCG(seed, 0))) {
		t.Logf("%s for %s", blow.name, blow.lasts)
		blow.do(t)
		time.Sleep(blow.lasts) // the story is about time
		blow.mend(t)
		time.Sleep(time.Second)
	}
	close(calm)
	if err := <-worked; err != nil {
		t.Fatal(err)
	}
	b.c.NothingLeft(t, nothing)
}

// work applies and destroys stacks, round after round, until it is calm; the round that has begun is ended.
func (b *backbone) work(t *testing.T, rounds []*job, calm <-chan struct{}) error {
	c := b.c.at(t, b.c.Addresses["orchestrator"])
	for n := 0; ; n++ {
		began := time.Now()
		for what, begin := range []func(context.Context, *job) error{c.apply, c.destroy} {
			err := eachOf(t.Context(), rounds, func(ctx context.Context, i int, j *job) error {
				if what == 0 {
					j.stack = fmt.Sprintf("round-%d-%d", n, i)
					j.document = stackOf(j.stack, fabric+oneVolume)
				}
				if err := begin(ctx, j); err != nil {
					return err
				}
				return c.done(ctx, j, 2*story.Patience)
			})
			if err != nil {
				return fmt.Errorf("round %d: %w", n, err)
			}
		}
		t.Logf("round %d: applied and destroyed %d stacks in %.1f s", n, len(rounds), time.Since(began).Seconds())
		select {
		case <-calm:
			return nil
		default:
		}
	}
}
