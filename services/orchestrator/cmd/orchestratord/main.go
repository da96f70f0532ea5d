// Command orchestratord runs the orchestrator.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/weftcloud/weft/pkg/daemon"
	"github.com/weftcloud/weft/services/orchestrator"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := daemon.ExitCode(os.Stderr, "orchestratord", run(ctx))
	stop()
	os.Exit(code)
}

func run(ctx context.Context) error {
	cfg := orchestrator.Config{}
	if err := daemon.Load(&cfg, os.Args, os.Environ()); err != nil {
		return err
	}
	compose, err := cfg.Compose()
	if err != nil {
		return err
	}
	return daemon.Run(ctx, "orchestrator", cfg.Config, os.Stderr, compose)
}
