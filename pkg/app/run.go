package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
)

// DefaultGrace is how long a program takes at most to end in order.
const DefaultGrace = 10 * time.Second

// Closers is a stack of what must be closed. The zero value is ready; it is safe for concurrent use.
type Closers struct {
	mu    sync.Mutex
	stack []closer
}

type closer struct {
	name  string
	close func(context.Context) error
}

// Add puts something on the stack. close gets a context that ends with the grace period: by then it MUST return, by
// force if need be.
func (c *Closers) Add(name string, close func(context.Context) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stack = append(c.stack, closer{name: name, close: close})
}

// AddCloser puts something on the stack whose Close needs no time.
func (c *Closers) AddCloser(name string, x interface{ Close() error }) {
	c.Add(name, func(context.Context) error { return x.Close() })
}

// Close closes everything in the reverse order of its making, and all of it whatever fails. What does not return when
// ctx ends is left behind and named in the error. A second call has nothing left to close.
func (c *Closers) Close(ctx context.Context) error {
	c.mu.Lock()
	stack := c.stack
	c.stack = nil
	c.mu.Unlock()
	var errs []error
	for i := len(stack) - 1; i >= 0; i-- {
		if err := closeOne(ctx, stack[i]); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", stack[i].name, err))
		}
	}
	return errors.Join(errs...)
}

func closeOne(ctx context.Context, c closer) error {
	done := make(chan error, 1)
	go func() { done <- c.close(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	// What obeys its context returns at once now; what does not is left.
	select {
	case err := <-done:
		return err
	case <-time.After(100 * time.Millisecond):
		return fault.New(fault.Unavailable, "it did not end within the grace period")
	}
}

// Task is something that runs until its context ends.
type Task struct {
	// Name is for messages.
	Name string
	// Run runs until ctx ends and returns nil then. If it returns earlier, all other tasks are ended too.
	Run func(ctx context.Context) error
}

// Group runs tasks together.
type Group struct {
	// Logger gets one line when the tasks end; nil means none.
	Logger *slog.Logger
	// Grace is how long ending may take; 0 means DefaultGrace.
	Grace time.Duration
	// Closers are closed after the tasks have ended; nil means none.
	Closers *Closers
}

// Run runs tasks until ctx ends or one of them returns. Then it ends the others, waits for them and closes the closers,
// all within the grace period. It returns the error of the task that returned first, joined with those of closing; nil
// if ctx ended and everything ended in order.
func (g Group) Run(ctx context.Context, tasks ...Task) error {
	grace := g.Grace
	if grace <= 0 {
		grace = DefaultGrace
	}
	first := runTasks(ctx, grace, tasks)
	if g.Logger != nil {
		g.Logger.Info("ending", "grace", grace)
	}
	if g.Closers == nil {
		return first
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	return errors.Join(first, g.Closers.Close(closing))
}

func runTasks(ctx context.Context, grace time.Duration, tasks []Task) error {
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	type end struct {
		name string
		err  error
	}
	ends := make(chan end, len(tasks))
	for _, t := range tasks {
		go func() { ends <- end{t.Name, runTask(running, t)} }()
	}
	var first error
	var limit <-chan time.Time
	ending := running.Done()
	for left := len(tasks); left > 0; {
		select {
		case e := <-ends:
			left--
			if first == nil {
				first = worth(e.name, e.err, running.Err() != nil)
			}
			cancel()
		case <-ending:
			ending, limit = nil, time.After(grace)
		case <-limit:
			return errors.Join(first, fault.New(fault.Unavailable, "%d tasks did not end within %s", left, grace))
		}
	}
	return first
}

// worth gives what is worth telling of the end of a task; nil if it ended because it was asked to.
func worth(name string, err error, asked bool) error {
	switch {
	case asked && (err == nil || errors.Is(err, context.Canceled)):
		return nil
	case err == nil:
		return fault.New(fault.Internal, "%s ended by itself", name)
	default:
		return fmt.Errorf("%s: %w", name, err)
	}
}

func runTask(ctx context.Context, t Task) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fault.New(fault.Internal, "panic: %v", r)
		}
	}()
	return t.Run(ctx)
}
