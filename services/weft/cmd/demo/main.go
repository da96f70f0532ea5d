// Command demo tells the story of Weft by running it: an installation on a temporary folder, a stack that is planned,
// made, looked at, changed and taken away, and a look whether anything is left. It ends with 0 only if all of it went
// as it should.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/weftcloud/weft/services/weft/internal/contextfile"
)

func main() {
	weft := flag.String("weft", "bin/weft", "the weft program")
	document := flag.String("f", "deploy/examples/shop.yaml", "the stack's document")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	began := time.Now()
	err := run(ctx, *weft, *document)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
	fmt.Printf("\nThe demo is over, and nothing is left. It took %.1f s.\n", time.Since(began).Seconds())
}

// story is one telling.
type story struct {
	weft, dir string
}

func run(ctx context.Context, weft, document string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	program, err := filepath.Abs(weft)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "weft-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s := &story{weft: program, dir: dir}
	end, err := s.start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	changed, err := s.change(document)
	if err != nil {
		return err
	}
	for _, chapter := range []func() error{
		func() error { return s.show(ctx, "the clouds that there are", "cloud", "list") },
		func() error { return s.show(ctx, "what the document would do", "plan", "-f", document) },
		func() error { return s.show(ctx, "do it", "apply", "-f", document, "--wait") },
		func() error { return s.show(ctx, "look at it", "describe", "stack", "shop") },
		func() error { return s.checkOutputs(ctx) },
		func() error { return s.show(ctx, "what a changed document would do", "plan", "-f", changed) },
		func() error { return s.checkPlan(ctx, changed) },
		func() error { return s.show(ctx, "change it", "apply", "-f", changed, "--wait") },
		func() error { return s.show(ctx, "take every trace of it away", "destroy", "shop", "--wait") },
		func() error { return s.show(ctx, "what Weft knows to exist", "ledger", "--orphans") },
		func() error { return s.checkEmpty(ctx) },
	} {
		if err := chapter(); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) context() string { return filepath.Join(s.dir, "context.yaml") }

// command makes a command with the demo's context.
func (s *story) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.weft, args...)
	cmd.Env = append(os.Environ(), "WEFT_CONTEXT="+s.context())
	return cmd
}

// start starts the installation and waits until it answers. end ends it in order.
func (s *story) start(ctx context.Context) (end func() error, err error) {
	title("start an installation with a simulated cloud", "dev", "--data-dir", filepath.Join(s.dir, "data"))
	log := &bytes.Buffer{}
	cmd := s.command(context.WithoutCancel(ctx), "dev", "--data-dir", filepath.Join(s.dir, "data"), "--listen", "127.0.0.1:0")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start weft dev: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	began := time.Now()
	for ctx.Err() == nil {
		select {
		case err := <-exited:
			return nil, fmt.Errorf("weft dev ended: %w\n%s", err, log)
		case <-time.After(50 * time.Millisecond):
		}
		if s.command(ctx, "tenant", "list").Run() == nil {
			fmt.Printf("ready after %.1f s\n", time.Since(began).Seconds())
			return func() error { return s.stop(cmd, exited, log) }, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("weft dev was not ready in time"), s.stop(cmd, exited, log))
}

func (s *story) stop(cmd *exec.Cmd, exited <-chan error, log fmt.Stringer) error {
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		return fmt.Errorf("end weft dev: %w\n%s", err, log)
	}
	select {
	case err := <-exited:
		if err != nil {
			return fmt.Errorf("weft dev ended: %w\n%s", err, log)
		}
		return nil
	case <-time.After(20 * time.Second):
		return errors.Join(fmt.Errorf("weft dev did not end\n%s", log), cmd.Process.Kill())
	}
}

func title(what string, args ...string) {
	fmt.Printf("\n\033[1m# %s\033[0m\n$ weft %s\n", what, strings.Join(args, " "))
}

// show runs a command for the person who watches.
func (s *story) show(ctx context.Context, what string, args ...string) error {
	title(what, args...)
	cmd := s.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("weft %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// read runs a command and reads its JSON.
func (s *story) read(ctx context.Context, into any, args ...string) error {
	cmd := s.command(ctx, append(args, "-o", "json")...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("weft %s: %w", strings.Join(args, " "), err)
	}
	return json.Unmarshal(out, into)
}

// change writes a changed document: one more copy of the workload, and one more pair of server metadata.
func (s *story) change(document string) (string, error) {
	text, err := os.ReadFile(document)
	if err != nil {
		return "", err
	}
	changed := string(text)
	for from, to := range map[string]string{"web-replicas: 2": "web-replicas: 3", "{role: db}": "{role: db, tier: gold}"} {
		if strings.Count(changed, from) != 1 {
			return "", fmt.Errorf("%s: %q does not stand in it exactly once", document, from)
		}
		changed = strings.Replace(changed, from, to, 1)
	}
	path := filepath.Join(s.dir, "shop-changed.yaml")
	return path, os.WriteFile(path, []byte(changed), 0o600)
}

// checkOutputs sees that the stack's outputs are what the cloud says.
func (s *story) checkOutputs(ctx context.Context) error {
	var stack struct {
		Outputs struct{ URL, Database string }
	}
	var server struct {
		Observed struct{ Address string }
	}
	if err := s.read(ctx, &stack, "get", "stack", "shop"); err != nil {
		return err
	}
	if err := s.read(ctx, &server, "get", "server", "shop.db"); err != nil {
		return err
	}
	url, database := stack.Outputs.URL, stack.Outputs.Database
	if !strings.HasPrefix(url, "http://") || !strings.HasSuffix(url, ":80") || database == "" || database != server.Observed.Address {
		return fmt.Errorf("the outputs are %q and %q; the server's address is %q", url, database, server.Observed.Address)
	}
	return nil
}

// checkPlan sees that the changed document touches what was changed, in place, and nothing else.
func (s *story) checkPlan(ctx context.Context, changed string) error {
	var plan struct {
		Changes []struct{ LocalName, Change string }
	}
	if err := s.read(ctx, &plan, "plan", "-f", changed); err != nil {
		return err
	}
	var got []string
	for _, c := range plan.Changes {
		got = append(got, c.LocalName+" "+c.Change)
	}
	slices.Sort(got)
	if want := []string{"db CHANGE_IN_PLACE", "web CHANGE_IN_PLACE"}; !slices.Equal(got, want) {
		return fmt.Errorf("the changed document would touch %q, not %q", got, want)
	}
	return nil
}

// checkEmpty sees that neither Weft nor the cloud has anything left.
func (s *story) checkEmpty(ctx context.Context) error {
	var ledger struct{ Entries []any }
	if err := s.read(ctx, &ledger, "ledger", "--all-tenants", "--orphans"); err != nil {
		return err
	}
	fmt.Print("\n\033[1m# what the simulated cloud has\033[0m\n$ curl $SANDBOX/_sandbox/inventory\n")
	inventory, err := s.inventory(ctx)
	if err != nil {
		return err
	}
	fmt.Println(inventory)
	var left struct{ Total *int }
	if err := json.Unmarshal([]byte(inventory), &left); err != nil {
		return fmt.Errorf("read the inventory: %w", err)
	}
	if left.Total == nil || *left.Total > 0 || len(ledger.Entries) > 0 {
		return fmt.Errorf("something is left: %d entries in the ledger, and in the cloud %s", len(ledger.Entries), inventory)
	}
	return nil
}

// inventory asks the sandbox what exists in it.
func (s *story) inventory(ctx context.Context) (text string, err error) {
	file, err := contextfile.Load(s.context())
	if err != nil {
		return "", err
	}
	if file.Sandbox == nil {
		return "", errors.New("the context names no sandbox")
	}
	trust := x509.NewCertPool()
	trust.AppendCertsFromPEM([]byte(file.CA + "\n" + file.Sandbox.CA))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS12}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(file.Sandbox.Admin, "/")+"/_sandbox/inventory", nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("X-Sandbox-Token", file.Sandbox.Token)
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	body, err := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the sandbox's inventory: %s: %s", response.Status, body)
	}
	return strings.TrimSpace(string(body)), err
}
