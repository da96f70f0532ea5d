// Package deadletter shows operators the messages that nobody could deal with, and sends them again.
//
// The letters are in the stream of dead letters, which nobody can change. That one was sent again is a fact of its own,
// in the store below /weft/orchestrator/:
//
//	dead/<number>   how the letter of this number was sent again; its lease lasts as long as the stream keeps letters
//
// # Order, and what happens on a crash
//
// The message is published first and the fact is kept after it. A crash between the two leaves a letter that seems not to
// be sent again; when it is, its message bears the same id, so the stream drops it while it remembers the first, and later
// the receiver deals with it as with every message that comes twice. Two operators at once differ in nothing from that:
// one of them finds the fact kept by the other.
//
// # What is not sent again
//
// A letter that asks to make something for a saga that has ended. Nobody would take away what it makes: the tombstone by
// which its receiver knows that the key was released is kept for hours, and a letter for days.
//
// The stream numbers letters from 1. If it is lost and made anew, a fact of the lost one must not be taken for one of a new
// letter of the same number: so the fact holds the letter's time, and counts only for a letter of that time.
package deadletter

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/expr"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/store"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// The sizes of a page.
const (
	defaultPage = 100
	largestPage = 1000
)

// collection begins the names of dead letters.
const collection = "deadLetters/"

// prefix begins the keys of the facts.
var prefix = record.Prefix("orchestrator") + "dead/"

// key gives the key of the fact of a letter; keys sort as letters do.
func key(number uint64) string { return prefix + fmt.Sprintf("%020d", number) }

// Server serves weft.orchestrator.v1.DeadLetterService. That only operators may call it is written in the contract and held
// by the interceptor.
type Server struct {
	orchestratorv1.UnimplementedDeadLetterServiceServer

	Bus    bus.Bus
	Store  store.Store
	Logger *slog.Logger
	Now    func() time.Time
	// Unfinished tells whether a saga has not ended yet.
	Unfinished func(ctx context.Context, saga string) (bool, error)
}

// errEnough ends a reading that has what it wants.
var errEnough = errors.New("enough is read")

// read reads the dead letters from a time on, oldest first, until handle says errEnough.
func (s *Server) read(ctx context.Context, since time.Time, handle func(bus.Delivery) error) error {
	err := s.Bus.Read(ctx, bus.DeadFilter, since, false, handle)
	if errors.Is(err, errEnough) {
		return nil
	}
	if err == nil && ctx.Err() != nil { // Read ends without a word then, perhaps before the last letter
		err = fault.As(fault.Unavailable, ctx.Err())
	}
	return fault.Wrap(err, "read the dead letters")
}

// ListDeadLetters lists the dead letters, oldest first.
func (s *Server) ListDeadLetters(ctx context.Context, r *orchestratorv1.ListDeadLettersRequest) (*orchestratorv1.ListDeadLettersResponse, error) {
	match, err := expr.CompileFilter((&orchestratorv1.DeadLetter{}).ProtoReflect().Descriptor(), r.GetFilter())
	if err != nil {
		return nil, err
	}
	from, err := parseToken(r.GetPageToken())
	if err != nil {
		return nil, err
	}
	facts, err := s.facts(ctx, from.number)
	if err != nil {
		return nil, err
	}
	out, last := &orchestratorv1.ListDeadLettersResponse{}, from
	err = s.read(ctx, from.time, func(d bus.Delivery) error {
		if d.Sequence <= from.number {
			return nil
		}
		letter := letterOf(d, facts[d.Sequence])
		ok, err := match(letter)
		if err != nil || !ok {
			return err
		}
		if len(out.GetDeadLetters()) == page(r.GetPageSize()) {
			out.NextPageToken = last.String()
			return errEnough
		}
		out.DeadLetters, last = append(out.DeadLetters, letter), token{number: d.Sequence, time: d.Time}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func page(asked int32) int {
	if asked <= 0 {
		return defaultPage
	}
	return min(int(asked), largestPage)
}

// token is the letter that a page ended with. Its time tells where in the stream to go on.
type token struct {
	number uint64
	time   time.Time
}

// String gives the token as it stands in an answer.
func (t token) String() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %d", t.number, t.time.UnixNano()))
}

func parseToken(text string) (token, error) {
	if text == "" {
		return token{}, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	number, nanos, _ := strings.Cut(string(raw), " ")
	n, numberErr := strconv.ParseUint(number, 10, 64)
	at, timeErr := strconv.ParseInt(nanos, 10, 64)
	if errors.Join(err, numberErr, timeErr) != nil {
		return token{}, fault.InField("page_token", "%q is no token of this list", text)
	}
	return token{number: n, time: time.Unix(0, at).UTC()}, nil
}

// fact is how a letter was sent again, as it is kept.
type fact struct {
	resend   *orchestratorv1.DeadLetterResend
	revision int64
}

// of tells whether the fact is of this letter, and not of one of the same number in a stream that is lost.
func (f fact) of(d bus.Delivery) bool {
	return f.resend != nil && f.resend.GetLetterTime().AsTime().Equal(d.Time)
}

// facts reads the facts of the letters after one, by their numbers.
func (s *Server) facts(ctx context.Context, after uint64) (map[uint64]fact, error) {
	kept, err := s.Store.List(ctx, prefix, store.ListOptions{After: key(after)})
	if err != nil {
		return nil, fault.Wrap(err, "read which dead letters were sent again")
	}
	out := make(map[uint64]fact, len(kept.Entries))
	for _, e := range kept.Entries {
		number, err := strconv.ParseUint(strings.TrimPrefix(e.Key, prefix), 10, 64)
		if err != nil {
			return nil, fault.As(fault.Internal, fault.Wrap(err, "read the number of the dead letter in %s", e.Key))
		}
		if out[number], err = factOf(e); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func factOf(e store.Entry) (fact, error) {
	f := fact{resend: &orchestratorv1.DeadLetterResend{}, revision: e.ModRevision}
	if err := proto.Unmarshal(e.Value, f.resend); err != nil {
		return fact{}, fault.As(fault.Internal, fault.Wrap(err, "decode %s", e.Key))
	}
	return f, nil
}

// resending is one request to send letters again.
type resending struct {
	*Server
	facts  map[uint64]fact
	wanted map[uint64]bool
	by     string
	lease  store.LeaseID // of the facts that this request keeps; 0 before the first
	out    *orchestratorv1.ResendDeadLettersResponse
}

// ResendDeadLetters sends dead letters again, in the order in which they died. What becomes of one is told beside it and
// keeps no other from being sent.
func (s *Server) ResendDeadLetters(ctx context.Context, r *orchestratorv1.ResendDeadLettersRequest) (*orchestratorv1.ResendDeadLettersResponse, error) {
	run := &resending{Server: s, wanted: map[uint64]bool{}, out: &orchestratorv1.ResendDeadLettersResponse{}}
	if id, ok := auth.FromContext(ctx); ok {
		run.by = id.String()
	}
	first, last := uint64(math.MaxUint64), uint64(0)
	for _, name := range r.GetNames() {
		number, err := strconv.ParseUint(strings.TrimPrefix(name, collection), 10, 64)
		if err != nil || number == 0 || name != nameOf(number) {
			return nil, fault.InField("names", "%q is no dead letter; it should look like %s17", name, collection)
		}
		run.wanted[number] = true
		first, last = min(first, number), max(last, number)
	}
	if len(run.wanted) == 0 {
		return nil, fault.InField("names", "name at least one dead letter")
	}
	var err error
	if run.facts, err = s.facts(ctx, first-1); err != nil {
		return nil, err
	}
	err = s.read(ctx, time.Time{}, func(d bus.Delivery) error {
		if run.wanted[d.Sequence] {
			delete(run.wanted, d.Sequence)
			run.out.Results = append(run.out.Results, run.resend(ctx, d))
		}
		if d.Sequence >= last {
			return errEnough
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	run.missing()
	return run.out, nil
}

// missing tells of the letters that were not found.
func (r *resending) missing() {
	numbers := make([]uint64, 0, len(r.wanted))
	for number := range r.wanted {
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	for _, number := range numbers {
		err := fault.New(fault.NotFound, "there is no dead letter %d; they are kept for %d days (weft ops dead lists them)", number, keptFor()/(24*time.Hour))
		r.out.Results = append(r.out.Results, &orchestratorv1.ResendDeadLetterResult{Name: nameOf(number), Fault: fault.Proto(err, r.Now())})
	}
}

// resend sends one letter again, unless that was done before.
func (r *resending) resend(ctx context.Context, d bus.Delivery) *orchestratorv1.ResendDeadLetterResult {
	known := r.facts[d.Sequence]
	out := &orchestratorv1.ResendDeadLetterResult{Name: nameOf(d.Sequence), DeadLetter: letterOf(d, known)}
	if known.of(d) {
		out.Already = true
		return out
	}
	err := r.wantedStill(ctx, out.DeadLetter)
	var message bus.Message
	if err == nil {
		message, err = bus.Resend(d)
	}
	if err == nil {
		err = fault.Wrap(r.Bus.Publish(ctx, message), "send dead letter %d again", d.Sequence)
	}
	if err != nil {
		out.Fault = fault.Proto(err, r.Now())
		return out
	}
	done := &orchestratorv1.DeadLetterResend{Time: timestamppb.New(r.Now()), By: r.by, MessageId: text(message.ID), LetterTime: timestamppb.New(d.Time)}
	r.Logger.InfoContext(ctx, "sent a dead letter again", "letter", d.Sequence, "subject", message.Subject, "id", message.ID, "by", r.by)
	kept, err := r.keep(ctx, d, known, done)
	if err != nil {
		out.Fault = fault.Proto(fault.Wrap(err, "dead letter %d was sent again, which could not be noted; to send it once more does no harm", d.Sequence), r.Now())
		return out
	}
	out.Already, out.DeadLetter.Resend = kept != done, kept
	return out
}

// wantedStill refuses a letter that asks to make something for a saga that has ended.
func (r *resending) wantedStill(ctx context.Context, letter *orchestratorv1.DeadLetter) error {
	saga := letter.GetOrigin().GetSaga()
	if letter.GetAction() != actionEnsure || saga == "" {
		return nil
	}
	unfinished, err := r.Unfinished(ctx, saga)
	if err != nil || unfinished {
		return err
	}
	return fault.New(fault.Precondition, "operation %s has ended; what this would make for it nobody would take away", saga)
}

// keep keeps the fact that a letter was sent again, and gives the one that is kept now: another's, if that came first.
func (r *resending) keep(ctx context.Context, d bus.Delivery, known fact, done *orchestratorv1.DeadLetterResend) (*orchestratorv1.DeadLetterResend, error) {
	value, err := proto.Marshal(done)
	if err != nil {
		return nil, fault.As(fault.Internal, err)
	}
	if r.lease == 0 {
		if r.lease, err = r.Store.Grant(ctx, keptFor()); err != nil {
			return nil, err
		}
	}
	k := key(d.Sequence)
	_, err = r.Store.Txn(ctx, []store.Compare{{Key: k, ModRevision: known.revision}}, []store.Op{{Key: k, Value: value, Lease: r.lease}})
	if !fault.Is(err, fault.Conflict) {
		return done, err
	}
	e, err := r.Store.Get(ctx, k)
	if err != nil {
		return nil, err
	}
	other, err := factOf(e)
	if err == nil && !other.of(d) {
		err = fault.New(fault.Conflict, "the number is of another letter now")
	}
	return other.resend, err
}

// keptFor is how long the stream keeps a dead letter.
func keptFor() time.Duration {
	s, ok := bus.StreamOf(bus.DeadFilter)
	if !ok {
		return 0 // the topology's test holds that there is one
	}
	return s.MaxAge
}

func nameOf(number uint64) string { return collection + strconv.FormatUint(number, 10) }

// text gives a header as a string field takes it.
func text(header string) string { return strings.ToValidUTF8(header, "\uFFFD") }

// letterOf shows a dead letter.
func letterOf(d bus.Delivery, known fact) *orchestratorv1.DeadLetter {
	out := &orchestratorv1.DeadLetter{
		Name: nameOf(d.Sequence), Queue: text(bus.DeadQueue(d.Subject)), Subject: text(d.Header[bus.HeaderDeadSubject]),
		MessageId: text(d.Header[bus.HeaderDeadID]), Reason: reasons[d.Header[bus.HeaderDeadReason]],
		CreateTime: timestamppb.New(d.Time), DataBytes: int64(len(d.Data)),
	}
	if attempts, err := strconv.ParseInt(d.Header[bus.HeaderDeadAttempts], 10, 32); err == nil {
		out.Attempts = int32(attempts)
	}
	if known.of(d) {
		out.Resend = known.resend
	}
	about(out, d)
	return out
}

// actionEnsure is what a letter asks for that makes something.
const actionEnsure = "ensure"

var reasons = map[string]orchestratorv1.DeadLetterReason{
	bus.DeadRejected:  orchestratorv1.DeadLetterReason_DEAD_LETTER_REASON_REJECTED,
	bus.DeadExhausted: orchestratorv1.DeadLetterReason_DEAD_LETTER_REASON_EXHAUSTED,
}

// about shows what a dead letter is about, as far as it can be read: never the spec of a command or what an outcome
// observed, which may hold secrets.
func about(out *orchestratorv1.DeadLetter, d bus.Delivery) {
	subject := d.Header[bus.HeaderDeadSubject]
	switch {
	case bus.Match("weft.cmd.>", subject):
		command := &busv1.Command{}
		if proto.Unmarshal(d.Data, command) != nil || command.GetOrigin() == nil && command.GetName() == "" {
			out.Unreadable = "the data are no command"
			return
		}
		out.Origin, out.Resource, out.Type, out.Key = command.GetOrigin(), command.GetName(), command.GetType(), command.GetKey()
		switch command.GetAction().(type) {
		case *busv1.Command_Ensure:
			out.Action = actionEnsure
		case *busv1.Command_Release:
			out.Action = "release"
		}
	case bus.Match("weft.out.>", subject):
		outcome := &busv1.Outcome{}
		if proto.Unmarshal(d.Data, outcome) != nil || outcome.GetOrigin() == nil {
			out.Unreadable = "the data are no outcome"
			return
		}
		out.Origin, out.Key, out.Result = outcome.GetOrigin(), outcome.GetKey(), outcome.GetResult()
	default:
		out.Unreadable = "it does not say that it was sent as a command or an outcome"
	}
}
