// Command sandboxd runs a sandbox and writes the files that lead clients to it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/weftcloud/weft/services/sandbox"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "sandboxd:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("sandboxd", flag.ContinueOnError)
	cfg := sandbox.Config{Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	flags.StringVar(&cfg.DataDir, "data-dir", "", "keep state in this folder (default: in memory)")
	flags.StringVar(&cfg.Listen, "listen", "127.0.0.1:15000", "address of OpenStack and the admin API")
	flags.StringVar(&cfg.KubernetesListen, "kubernetes-listen", "127.0.0.1:16443", "address of the Kubernetes API")
	flags.StringVar(&cfg.AdminToken, "admin-token", "", "token of the admin API (default: made and written to --out)")
	flags.IntVar(&cfg.KubernetesNodes, "nodes", 0, "nodes of the cluster (default 3)")
	instant := flags.Bool("instant", false, "no latencies")
	out := flags.String("out", ".", "write clouds.yaml, kubeconfig and admin-token to this folder")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if !*instant {
		cfg.Latency = sandbox.DevLatencies()
	}
	s, err := sandbox.New(cfg)
	if err != nil {
		return err
	}
	if err := write(s, *out); err != nil {
		return errors.Join(err, s.Close())
	}
	fmt.Printf("OpenStack   OS_CLIENT_CONFIG_FILE=%s OS_CLOUD=sandbox\nKubernetes  KUBECONFIG=%s\nadmin       %s/_sandbox/\n",
		filepath.Join(*out, "clouds.yaml"), filepath.Join(*out, "kubeconfig"), s.AdminURL())
	return s.Run(ctx)
}

func write(s *sandbox.Sandbox, out string) error {
	if err := os.MkdirAll(out, 0o700); err != nil {
		return err
	}
	for name, data := range map[string][]byte{"clouds.yaml": s.CloudsYAML(), "kubeconfig": s.Kubeconfig(), "admin-token": []byte(s.AdminToken() + "\n")} {
		if err := os.WriteFile(filepath.Join(out, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
