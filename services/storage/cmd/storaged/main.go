// Command storaged runs the storage service.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/weftcloud/weft/pkg/cloud/openstack"
	"github.com/weftcloud/weft/pkg/daemon"
	"github.com/weftcloud/weft/pkg/service"
	"github.com/weftcloud/weft/services/storage"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := daemon.ExitCode(os.Stderr, "storaged", run(ctx))
	stop()
	os.Exit(code)
}

func run(ctx context.Context) error {
	cfg := daemon.Config{}
	if err := daemon.Load(&cfg, os.Args, os.Environ()); err != nil {
		return err
	}
	return daemon.Run(ctx, "storage", cfg, os.Stderr, func(deps service.Deps) (daemon.Composed, error) { return storage.New(deps, openstack.NewSessions()) })
}
