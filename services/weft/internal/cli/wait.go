package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftcloud/weft/pkg/fault"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

const (
	// redraw is how often a live view is drawn anew.
	redraw = 100 * time.Millisecond
	// poll is how often an operation is read that cannot be watched, or whose watch broke.
	poll = 300 * time.Millisecond
	// patience is how long an installation may be away, e.g. while it starts again, before waiting is given up.
	patience = time.Minute
)

// wait shows an operation until it has ended and gives it as it ended. When ctx ends first, the operation goes on, and
// the person is told how to come back to it.
func (a *tool) wait(ctx context.Context, c *client, op *longrunningpb.Operation) (*longrunningpb.Operation, error) {
	if op.GetDone() {
		return op, operationError(op)
	}
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	states := make(chan *orchestratorv1.OperationMetadata)
	result := make(chan error, 1)
	go func() { result <- watch(watching, c, op.GetName(), states) }()
	a.show(states)
	err := <-result
	if ctx.Err() != nil {
		id := base(op.GetName())
		if a.machine() {
			return nil, &failure{
				what: "wait for operation " + id, err: status.Error(codes.Canceled, "it goes on without you"), resource: operationInfo(op),
				next: fmt.Sprintf("weft ops watch %[1]s, or weft ops cancel %[1]s", id),
			}
		}
		a.note("\nThe operation goes on without you: %s\n  watch it:  weft ops watch %s\n  cancel it: weft ops cancel %s", id, id, id)
		return nil, errReported
	}
	if err != nil {
		return nil, failed(err, "watch operation %s", base(op.GetName()))
	}
	last, err := c.operation(ctx, op.GetName())
	if err != nil {
		return nil, failed(err, "read operation %s", base(op.GetName()))
	}
	return last, operationError(last)
}

// operationError gives the error that an operation ended in; nil if it was done.
func operationError(op *longrunningpb.Operation) error {
	s := op.GetError()
	if s == nil {
		return nil
	}
	f := &failure{what: "operation " + base(op.GetName()), err: status.ErrorProto(s), resource: operationInfo(op)}
	meta := metadataOfOperation(op)
	switch meta.GetState() {
	case orchestratorv1.OperationState_OPERATION_STATE_UNDONE, orchestratorv1.OperationState_OPERATION_STATE_CANCELLED:
		f.what += " was undone: nothing of it is left"
	case orchestratorv1.OperationState_OPERATION_STATE_NEEDS_HAND:
		f.what += " needs a hand"
		f.next = fmt.Sprintf("weft ops get %[1]s shows the step; then weft ops retry, skip or abandon %[1]s", base(op.GetName()))
	}
	return f
}

func operationInfo(op *longrunningpb.Operation) *errdetails.ResourceInfo {
	return &errdetails.ResourceInfo{ResourceType: "google.longrunning.Operation", ResourceName: op.GetName()}
}

func metadataOfOperation(op *longrunningpb.Operation) *orchestratorv1.OperationMetadata {
	m := &orchestratorv1.OperationMetadata{}
	if op.GetMetadata() == nil || op.GetMetadata().UnmarshalTo(m) != nil {
		return &orchestratorv1.OperationMetadata{Name: op.GetName()}
	}
	return m
}

// watch sends the states of an operation until it has ended. It outlives the installation's being away for a while; an
// operation that is no saga is read again and again.
func watch(ctx context.Context, c *client, name string, states chan<- *orchestratorv1.OperationMetadata) error {
	defer close(states)
	var away time.Time
	for {
		err := stream(ctx, c, name, states)
		if code := status.Code(err); code == codes.Unimplemented || code == codes.NotFound || code == codes.InvalidArgument {
			err = nil // it is no saga, or is over and forgotten: reading it tells
		}
		if err == nil {
			var op *longrunningpb.Operation
			if op, err = c.operation(ctx, name); err == nil {
				send(ctx, states, metadataOfOperation(op))
				if op.GetDone() {
					return nil
				}
			}
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			away = time.Time{}
		case !fault.Is(err, fault.Unavailable):
			return err
		case away.IsZero():
			away = time.Now()
		case time.Since(away) > patience:
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(poll):
		}
	}
}

func stream(ctx context.Context, c *client, name string, states chan<- *orchestratorv1.OperationMetadata) error {
	s, err := orchestratorv1.NewOperationServiceClient(c.conn).WatchOperation(ctx, &orchestratorv1.WatchOperationRequest{Name: name})
	if err != nil {
		return err
	}
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		send(ctx, states, m.GetOperation())
	}
}

func send(ctx context.Context, states chan<- *orchestratorv1.OperationMetadata, m *orchestratorv1.OperationMetadata) {
	select {
	case states <- m:
	case <-ctx.Done():
	}
}

// show shows the states of an operation as they come: redrawn on a terminal, a line for each change elsewhere, and
// nothing where a program reads both streams.
func (a *tool) show(states <-chan *orchestratorv1.OperationMetadata) {
	if a.p.ErrIsTerminal {
		a.showLive(states)
		return
	}
	var former *orchestratorv1.OperationMetadata
	for next := range states {
		if a.machine() {
			continue
		}
		for _, line := range changedLines(former, next, a.p.Now()) {
			a.note("%s", line)
		}
		former = next
	}
}

func (a *tool) showLive(states <-chan *orchestratorv1.OperationMetadata) {
	ticker := time.NewTicker(redraw)
	defer ticker.Stop()
	var last *orchestratorv1.OperationMetadata
	drawn, st := 0, a.style(true)
	for frame := 0; ; frame++ {
		select {
		case next, ok := <-states:
			if !ok {
				return
			}
			last = next
		case <-ticker.C:
		}
		if last == nil {
			continue
		}
		width, height := a.p.Size()
		text := progressText(last, a.p.Now(), frame, width-1, height-1, st)
		if drawn > 0 {
			text = fmt.Sprintf("\x1b[%dF\x1b[J", drawn) + text
		}
		if _, err := io.WriteString(a.p.Err, text); err != nil {
			return
		}
		drawn = strings.Count(text, "\n")
	}
}
