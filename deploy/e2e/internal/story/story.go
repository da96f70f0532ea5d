// Package story runs a whole installation, the real binary in processes of its own, and looks at it only from outside:
// by the command line, by gRPC, by NATS, and by the sandbox's admin API.
package story

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// Binary is the environment variable that holds the path of the weft binary under test.
const Binary = "WEFT_BIN"

// Build builds the weft binary into dir and gives its path, unless the environment names one.
func Build(dir string) (string, error) {
	if path := os.Getenv(Binary); path != "" {
		return filepath.Abs(path)
	}
	path := filepath.Join(dir, "weft")
	out, err := exec.Command("go", "build", "-o", path, "github.com/weftcloud/weft/services/weft/cmd/weft").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build weft: %w\n%s", err, out)
	}
	return path, nil
}

// Patience is how long a story waits for what must come: long, since the machine may be busy.
const Patience = 90 * time.Second

// Await polls until done tells true, and fails the test when it does not in time. what says what is awaited.
func Await(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatalf("waited %s in vain: %s", Patience, what)
}

// Installation is one `weft dev` with its data.
type Installation struct {
	// Dir holds the data, the context and the log.
	Dir string
	// Cloud is the sandbox that belongs to it.
	Cloud *Cloud
	// Program is the binary that `weft dev` runs from; empty means the one that the commands run from. Environment is
	// added to its environment. Both count from the next start on.
	Program     string
	Environment []string

	listen string
	flags  []string
	cmd    *exec.Cmd
	ended  chan struct{}
	log    *os.File
}

// Start starts an installation that lasts as long as the test, with further flags. Its log is shown if the test fails.
func Start(t testing.TB, flags ...string) *Installation {
	t.Helper()
	i := &Installation{Dir: t.TempDir(), flags: flags}
	i.Begin(t)
	return i
}

// Begin starts an installation for the first time; of its fields Dir, at least, is set. It lasts as long as the test.
func (i *Installation) Begin(t testing.TB) {
	t.Helper()
	i.listen = Address(t) // so that an installation that is restarted is found where it was
	log, err := os.Create(filepath.Join(i.Dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	i.log = log
	i.Restart(t)
	t.Cleanup(func() {
		i.Kill(t)
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("the log of weft dev:\n%s", text)
		}
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Context is the path of the context file of an operator.
func (i *Installation) Context() string { return filepath.Join(i.Dir, "context.yaml") }

// Data is the path of the data folder.
func (i *Installation) Data() string { return filepath.Join(i.Dir, "data") }

// Restart starts `weft dev` on the data that there is, and waits until it is ready.
func (i *Installation) Restart(t testing.TB) {
	t.Helper()
	if !i.TryRestart(t) {
		t.Fatal("weft dev ended instead of getting ready")
	}
}

// TryRestart is Restart, and tells whether it got ready; false if it ended before.
func (i *Installation) TryRestart(t testing.TB) bool {
	t.Helper()
	if err := os.Remove(i.Context()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	args := append([]string{"dev", "--data-dir", i.Data(), "--context", i.Context(), "--listen", i.listen}, i.flags...)
	program := i.Program
	if program == "" {
		program = os.Getenv(Binary)
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), i.Environment...)
	cmd.Stdout, cmd.Stderr = i.log, i.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := cmd.Wait(); err != nil {
			fmt.Fprintf(i.log, "weft dev ended: %s\n", err)
		}
	}()
	i.cmd, i.ended = cmd, ended
	died := false
	Await(t, "weft dev is ready", func() bool {
		select {
		case <-ended:
			died = true
			return true
		default:
		}
		_, err := os.Stat(i.Context()) // it is written when all is ready
		return err == nil
	})
	if died {
		return false
	}
	i.Cloud = &Cloud{URL: i.File(t, i.Context()).Sandbox.Admin, Token: i.File(t, i.Context()).Sandbox.Token}
	return true
}

// Ended gives a channel that is closed once the process that runs now has ended.
func (i *Installation) Ended() <-chan struct{} { return i.ended }

// Kill ends the process with SIGKILL, in the middle of whatever it does.
func (i *Installation) Kill(t testing.TB) {
	t.Helper()
	if err := i.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	<-i.ended
}

// File is what a story needs of a context file.
type File struct {
	Endpoint string `json:"endpoint"`
	Tenant   string `json:"tenant"`
	CA       string `json:"ca"`
	Cert     string `json:"cert"`
	Key      string `json:"key"`
	NATS     string `json:"nats"`
	Sandbox  struct {
		Admin string `json:"admin"`
		Token string `json:"token"`
	} `json:"sandbox"`
}

// File reads a context file.
func (i *Installation) File(t testing.TB, path string) *File {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f := &File{}
	if err := yaml.Unmarshal(data, f); err != nil {
		t.Fatal(err)
	}
	return f
}

// Result is what a command left.
type Result struct {
	// Args are the command's arguments.
	Args []string
	// Code is the exit code.
	Code int
	// Out and Err are what it wrote.
	Out, Err string
}

// Weft runs a command as the operator of the context file.
func (i *Installation) Weft(t testing.TB, args ...string) Result {
	t.Helper()
	return <-i.Go(t, args...)
}

// Go runs a command in the background.
func (i *Installation) Go(t testing.TB, args ...string) <-chan Result {
	return i.GoAs(t, i.Context(), args...)
}

// GoAs runs a command with another context file in the background.
func (i *Installation) GoAs(t testing.TB, contextPath string, args ...string) <-chan Result {
	t.Helper()
	return i.GoIn(t, []string{"WEFT_CONTEXT=" + contextPath}, args...)
}

// GoIn runs a command in the background, with variables of the environment. Without WEFT_CONTEXT among them it is the
// operator's command.
func (i *Installation) GoIn(t testing.TB, environment []string, args ...string) <-chan Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*Patience)
	cmd := exec.CommandContext(ctx, os.Getenv(Binary), args...)
	cmd.Env = append(append(os.Environ(), "WEFT_CONTEXT="+i.Context()), environment...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	result := make(chan Result, 1)
	go func() {
		defer cancel()
		err := cmd.Wait()
		r := Result{Args: args, Code: cmd.ProcessState.ExitCode(), Out: out.String(), Err: errOut.String()}
		if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
			r.Code, r.Err = -1, r.Err+err.Error()
		}
		result <- r
	}()
	return result
}

// Must runs a command that must succeed.
func (i *Installation) Must(t testing.TB, args ...string) Result {
	t.Helper()
	return i.Weft(t, args...).Ok(t)
}

// Ok fails the test unless the command ended with exit code 0.
func (r Result) Ok(t testing.TB) Result {
	t.Helper()
	if r.Code != 0 {
		t.Fatalf("weft %q: exit code %d\n%s\n%s", r.Args, r.Code, r.Err, r.Out)
	}
	return r
}

// Refused fails the test unless the command ended with exit code 1.
func (r Result) Refused(t testing.TB) Result {
	t.Helper()
	if r.Code != 1 {
		t.Fatalf("weft %q: exit code %d, want 1\n%s\n%s", r.Args, r.Code, r.Err, r.Out)
	}
	return r
}

// Document writes a document for -f and gives its path. The name is what messages call it.
func (i *Installation) Document(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Identity issues a certificate to a member of a tenant and gives the path of the context file with it.
func (i *Installation) Identity(t testing.TB, tenant, name, role string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name+".yaml")
	i.Must(t, "identity", "issue", name, "--role", role, "--tenant", tenant, "--ca-dir", filepath.Join(i.Data(), "ca"), "--out", path)
	return path
}

// Pid is the id of the process that runs the installation.
func (i *Installation) Pid() int { return i.cmd.Process.Pid }
