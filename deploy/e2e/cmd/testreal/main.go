// Command testreal runs every driver's conformance suite and the stories on the OpenStack of OS_CLIENT_CONFIG_FILE and
// OS_CLOUD and the Kubernetes of KUBECONFIG. A part is left out, and said to be, only when its variable is not set.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// part is one part of the run.
type part struct {
	name string
	// needs are the variables without which it is left out.
	needs []string
	// args are those of go test.
	args []string
}

// parts are run one after the other: the clouds are small.
var parts = []part{
	{
		name: "the stories on both clouds", needs: []string{"OS_CLIENT_CONFIG_FILE", "OS_CLOUD", "KUBECONFIG"},
		args: []string{"-v", "./deploy/e2e/real"},
	},
	{
		name: "drivers at OpenStack", needs: []string{"OS_CLIENT_CONFIG_FILE", "OS_CLOUD"},
		args: []string{"-p", "1", "-run", "/real", "./services/network/internal/driver/openstack", "./services/storage/internal/driver/openstack", "./services/compute/internal/driver/openstack", "./services/orchestrator/internal/driver/openstack"},
	},
	{
		name: "drivers at Kubernetes", needs: []string{"KUBECONFIG"},
		args: []string{"-run", "/real", "./services/container/internal/driver/kubernetes"},
	},
	{
		name: "what the simulated OpenStack is held to", needs: []string{"OS_CLIENT_CONFIG_FILE", "OS_CLOUD"},
		args: []string{"-run", "/real", "./services/sandbox/sandboxtest"},
	},
	{
		name: "what the simulated Kubernetes is held to", needs: []string{"KUBECONFIG"},
		args: []string{"-run", "/cluster", "./services/sandbox/internal/kubernetes"},
	},
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
	var failed []error
	for _, p := range parts {
		if missing := p.missing(); len(missing) > 0 {
			fmt.Printf("--- left out: %s: not set: %s\n", p.name, strings.Join(missing, ", "))
			continue
		}
		fmt.Printf("--- %s\n", p.name)
		began := time.Now()
		cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-count=1", "-timeout", "30m"}, p.args...)...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		if err := cmd.Run(); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", p.name, err))
		}
		fmt.Printf("--- %s: %.0f s\n", p.name, time.Since(began).Seconds())
	}
	return errors.Join(failed...)
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
