// Command weft is what a person runs: the command line to a Weft installation, and with `weft dev` an installation.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/weftcloud/weft/services/weft/internal/cli"
	"github.com/weftcloud/weft/services/weft/internal/dev"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Execute(ctx, cli.FromProcess(func(ctx context.Context, cfg cli.DevConfig) error { return dev.Run(ctx, dev.Config(cfg)) }))
	stop()
	os.Exit(code)
}
