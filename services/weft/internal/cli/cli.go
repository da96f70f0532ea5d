// Package cli is Weft's command line. It speaks gRPC to one endpoint and nothing else; what it knows of kinds it reads
// from their contracts, so that a new kind needs no line here.
//
// What a command found goes to standard output, and with -o json or yaml it is one document of the API's own messages.
// Progress, questions of order and errors go to standard error. Exit codes: 0 done, 1 refused or failed, 2 misused.
package cli

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// Process is what a command gets of the process that it runs in.
type Process struct {
	// Args are the arguments without the program's name.
	Args []string
	// In, Out and Err are the standard streams.
	In       io.Reader
	Out, Err io.Writer
	// Getenv reads the environment.
	Getenv func(string) string
	// OutIsTerminal and ErrIsTerminal tell whether a person looks at the streams.
	OutIsTerminal, ErrIsTerminal bool
	// Size gives the terminal's width and height in cells.
	Size func() (width, height int)
	// Now tells the time.
	Now func() time.Time
	// Dev runs a whole installation until ctx ends.
	Dev func(ctx context.Context, cfg DevConfig) error
}

// FromProcess gives the real process. dev runs a whole installation, for `weft dev`.
func FromProcess(dev func(ctx context.Context, cfg DevConfig) error) Process {
	return Process{
		Args: os.Args[1:], In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv,
		OutIsTerminal: term.IsTerminal(int(os.Stdout.Fd())), ErrIsTerminal: term.IsTerminal(int(os.Stderr.Fd())),
		Size: terminalSize, Now: time.Now, Dev: dev,
	}
}

// terminalSize gives the size of whichever stream is a terminal; without one, lines are not cut.
func terminalSize() (int, int) {
	for _, f := range []*os.File{os.Stdout, os.Stderr} {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			return w, h
		}
	}
	return unlimited, unlimited
}

// unlimited is the width of what is no terminal: programs and files get whole lines.
const unlimited = 1 << 20

// tool is what all commands share.
type tool struct {
	p Process
	// The flags of the root command.
	contextPath, tenant, output string
	// running is the command that was chosen; nil while the arguments are still being read.
	running *cobra.Command
}

// Execute runs a command and returns the exit code.
func Execute(ctx context.Context, p Process) int {
	a := &tool{p: p}
	root := a.root()
	root.SetArgs(p.Args)
	root.SetIn(p.In)
	root.SetOut(p.Out)
	root.SetErr(p.Err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	return a.report(err)
}

func (a *tool) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "weft",
		Short: "Make stacks of machines, containers, networks and storage real, change them, and take them away",
		Example: `  weft dev                      run a whole installation on this machine
  weft plan -f shop.yaml        say what a document would do
  weft apply -f shop.yaml       do it
  weft describe stack shop      look at it
  weft destroy shop             take every trace of it away`,
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			a.running = cmd
			return a.checkOutput()
		},
	}
	root.PersistentFlags().StringVar(&a.contextPath, "context", "", "the context `file`: which installation, and as whom (default $WEFT_CONTEXT, then ~/.config/weft/context.yaml)")
	root.PersistentFlags().StringVar(&a.tenant, "tenant", "", "the tenant (default: the context's)")
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "table", "table, json or yaml")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return misused(cmd, "%s", err) })
	root.AddCommand(
		a.applyCommand(), a.planCommand(), a.repairCommand(), a.importCommand(), a.adoptCommand(), a.forgetCommand(), a.destroyCommand(), a.getCommand(), a.describeCommand(), a.createCommand(), a.deleteCommand(), a.scaleCommand(), a.consoleLogCommand(),
		a.opsCommand(), a.eventsCommand(), a.ledgerCommand(), a.sweepCommand(), a.secretCommand(), a.cloudCommand(), a.tenantCommand(), a.projectCommand(), a.quotasCommand(), a.identityCommand(),
		a.devCommand(), a.versionCommand(),
	)
	fixed := func(values ...string) cobra.CompletionFunc {
		return func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return values, cobra.ShellCompDirectiveNoFileComp
		}
	}
	if err := root.RegisterFlagCompletionFunc("output", fixed("table", "json", "yaml")); err != nil {
		panic("cli: " + err.Error()) // the flag is defined above
	}
	return root
}

func (a *tool) checkOutput() error {
	switch a.output {
	case "table", "json", "yaml":
		return nil
	}
	return misused(a.running, "-o %s: give table, json or yaml", a.output)
}

// group makes a command that only holds others.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return misused(cmd, "there is no command %q", cmd.CommandPath()+" "+args[0])
			}
			return misused(cmd, "say which: one of the commands below")
		},
	}
	cmd.AddCommand(children...)
	return cmd
}

// takes checks the number of arguments.
func takes(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return misused(cmd, "give %s; %d were given", what, len(args))
		}
		return nil
	}
}

func (a *tool) interactive() bool { return a.p.ErrIsTerminal }
