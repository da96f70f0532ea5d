// Command testreal runs every driver's conformance suite and the stories on the OpenStack of OS_CLIENT_CONFIG_FILE and
// OS_CLOUD and the Kubernetes of KUBECONFIG. A part is left out, and said to be, only when its variable is not set.
//
// Most of the time is spent waiting for machines and load balancers. If WEFT_REAL_SECOND_CLOUD names an entry of
// clouds.yaml with another project, what needs no peace in the first project runs there, at the same time: some stories look
// that a project holds in the end exactly what it held before, so nothing else may be at work in it.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// secondCloud is the variable that names the entry of another project.
const secondCloud = "WEFT_REAL_SECOND_CLOUD"

// part is one part of the run.
type part struct {
	name string
	// needs are the variables without which it is left out.
	needs []string
	// args are those of go test.
	args []string
}

// adminCloud is the variable that names the entry of somebody who may make projects.
const adminCloud = "WEFT_REAL_ADMIN_CLOUD"

const (
	// anywhere matches the stories that look only at what is theirs.
	anywhere = "^(TestScalingGroup|TestDrift)$"

	stories = "./deploy/e2e/real"
	drivers = "/internal/driver/openstack"
)

var (
	onOpenStack  = []string{"OS_CLIENT_CONFIG_FILE", "OS_CLOUD"}
	onKubernetes = []string{"KUBECONFIG"}
	onBoth       = []string{"OS_CLIENT_CONFIG_FILE", "OS_CLOUD", "KUBECONFIG"}
)

// first are the parts that need the first project, or the cluster, for themselves. They run one after the other.
var first = []part{
	{name: "the stories on both clouds", needs: onBoth, args: []string{"-skip", anywhere, stories}},
	{name: "drivers at Kubernetes", needs: onKubernetes, args: []string{"-run", "/real", "./services/container/internal/driver/kubernetes"}},
	{name: "what the simulated Kubernetes is held to", needs: onKubernetes, args: []string{"-run", "/cluster", "./services/sandbox/internal/kubernetes"}},
}

// second are the others. They, too, run one after the other: the clouds are small.
var second = []part{
	{
		name: "drivers at OpenStack", needs: onOpenStack,
		args: []string{"-p", "1", "-run", "/real", "./services/network" + drivers, "./services/storage" + drivers, "./services/compute" + drivers},
	},
	{name: "projects at OpenStack", needs: append(onOpenStack, adminCloud), args: []string{"-run", "/real", "./services/orchestrator" + drivers}},
	{name: "what the simulated OpenStack is held to", needs: onOpenStack, args: []string{"-run", "/real", "./services/sandbox/sandboxtest"}},
	{name: "the other stories", needs: onBoth, args: []string{"-run", anywhere, stories}},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "test-real:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	other := os.Getenv(secondCloud)
	if other == "" {
		fmt.Printf("--- one after the other: not set: %s\n", secondCloud)
		return inTurn(ctx, append(first, second...))
	}
	var wg sync.WaitGroup
	var there error
	wg.Go(func() { there = inTurn(ctx, second, "OS_CLOUD="+other) })
	here := inTurn(ctx, first)
	wg.Wait()
	return errors.Join(here, there)
}

// inTurn runs parts one after the other, with further variables.
func inTurn(ctx context.Context, parts []part, environment ...string) error {
	var failed []error
	for _, p := range parts {
		if missing := p.missing(); len(missing) > 0 {
			fmt.Printf("--- left out: %s: not set: %s\n", p.name, strings.Join(missing, ", "))
			continue
		}
		if err := p.run(ctx, environment); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", p.name, err))
		}
	}
	return errors.Join(failed...)
}

// told matches the lines that are shown of a part that went well: what took seconds, and what was left out.
var told = regexp.MustCompile(`(?m)^(ok  .*|--- PASS: .*\([0-9]{2,}\.[0-9]+s\)|\s*--- SKIP: .*)$`)

// run runs a part. What it writes is shown when it has ended, so that parts that run at the same time can be read: all of
// it if the part failed.
func (p part) run(ctx context.Context, environment []string) error {
	fmt.Printf("--- begins: %s\n", p.name)
	began := time.Now()
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-count=1", "-v", "-timeout", "40m"}, p.args...)...)
	cmd.Env = append(os.Environ(), environment...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	err := cmd.Run()
	text := out.String()
	if err == nil {
		text = strings.Join(told.FindAllString(text, -1), "\n") + "\n"
	}
	fmt.Printf("%s--- %s: %.0f s\n", text, p.name, time.Since(began).Seconds())
	return err
}

func (p part) missing() []string {
	var out []string
	for _, name := range p.needs {
		if os.Getenv(name) == "" {
			out = append(out, name)
		}
	}
	return out
}
