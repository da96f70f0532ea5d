package natsbus

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
)

// readCheck is how long a Read that does not follow waits for a message before it looks whether there still is one.
const readCheck = 2 * time.Second

// followCheck is how long a Read that follows hears nothing before it looks whether the stream is still the one that it
// reads. A stream that was lost and made anew counts from 1 again, and would be waited for until it has caught up.
const followCheck = 5 * time.Second

// readerLife is how long the server keeps a reader that does not ask any more. It bounds what a crash leaves behind.
const readerLife = 30 * time.Second

// Read implements bus.Bus.
func (b *Bus) Read(ctx context.Context, filter string, since time.Time, follow bool, handle func(bus.Delivery) error) error {
	declared, ok := bus.StreamOf(filter)
	if !ok || declared.WorkQueue {
		return fault.New(fault.Invalid, "read %s: no stream keeps such messages", filter)
	}
	err := b.read(ctx, declared.Name, filter, since, follow, handle)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (b *Bus) read(ctx context.Context, name, filter string, since time.Time, follow bool, handle func(bus.Delivery) error) error {
	stream, err := b.js.Stream(ctx, name)
	if err != nil {
		return fault.Wrap(faultOf(err), "read %s", filter)
	}
	last := uint64(0)
	if !follow {
		if last, err = lastOf(ctx, stream, filter, since); last == 0 || err != nil {
			return err
		}
	}
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{filter}, DeliverPolicy: jetstream.DeliverAllPolicy, InactiveThreshold: readerLife}
	if !since.IsZero() {
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	}
	consumer, err := stream.OrderedConsumer(ctx, cfg)
	if err != nil {
		return fault.Wrap(faultOf(err), "read %s", filter)
	}
	iter, err := consumer.Messages()
	if err != nil {
		return fault.Wrap(faultOf(err), "read %s", filter)
	}
	defer b.forget(name, consumer, iter)
	seen := uint64(0)
	for {
		d, err := next(ctx, iter, follow)
		if follow && errors.Is(err, nats.ErrTimeout) {
			if err := same(ctx, stream, seen); err != nil {
				return fault.Wrap(err, "read %s", filter)
			}
			continue
		}
		if errors.Is(err, nats.ErrTimeout) {
			if gone, goneErr := allGone(ctx, stream, last); gone || goneErr != nil {
				return goneErr
			}
			continue
		}
		if err != nil {
			return fault.Wrap(err, "read %s", filter)
		}
		seen = d.Sequence
		if !follow && d.Sequence > last {
			return nil
		}
		if err := handle(d); err != nil {
			return err
		}
		if d.Sequence == last {
			return nil
		}
	}
}

// forget ends a reader, and takes it from the server.
func (b *Bus) forget(stream string, consumer jetstream.Consumer, iter jetstream.MessagesContext) {
	iter.Stop()
	info := consumer.CachedInfo()
	if info == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), readCheck)
	defer cancel()
	if err := b.js.DeleteConsumer(ctx, stream, info.Name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		b.options.Logger.Debug("forget a reader", "stream", stream, "error", err)
	}
}

// next waits for the next message, no longer than followCheck, or without follow readCheck; then the error is a timeout.
func next(ctx context.Context, iter jetstream.MessagesContext, follow bool) (bus.Delivery, error) {
	wait := readCheck
	if follow {
		wait = followCheck
	}
	if err := ctx.Err(); err != nil {
		return bus.Delivery{}, fault.As(fault.Unavailable, err)
	}
	bounded, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	msg, err := iter.Next(jetstream.NextContext(bounded))
	if bounded.Err() != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = nats.ErrTimeout
	}
	if errors.Is(err, nats.ErrTimeout) {
		return bus.Delivery{}, err
	}
	if err != nil {
		return bus.Delivery{}, faultOf(err)
	}
	return deliveryOf(msg)
}

// same looks whether a stream is still the one that is read, of which a message was seen; the error says that it is not.
func same(ctx context.Context, stream jetstream.Stream, seen uint64) error {
	began := stream.CachedInfo().Created
	info, err := stream.Info(ctx)
	if err != nil {
		return fault.Wrap(faultOf(err), "look at the stream")
	}
	if !info.Created.Equal(began) || info.State.LastSeq < seen {
		return fault.New(fault.Unavailable, "the stream was lost and made anew")
	}
	return nil
}

// lastOf gives the sequence of the last message that matches and is not older than since; 0 if there is none.
func lastOf(ctx context.Context, stream jetstream.Stream, filter string, since time.Time) (uint64, error) {
	msg, err := stream.GetLastMsgForSubject(ctx, filter)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fault.Wrap(faultOf(err), "find the last of %s", filter)
	}
	if msg.Time.Before(since) {
		return 0, nil
	}
	return msg.Sequence, nil
}

// allGone tells whether the stream has dropped everything up to a sequence, by age or for room.
func allGone(ctx context.Context, stream jetstream.Stream, last uint64) (bool, error) {
	info, err := stream.Info(ctx)
	if err != nil {
		return false, fault.Wrap(faultOf(err), "look at the stream")
	}
	return info.State.FirstSeq > last, nil
}
