// Package recordtest stands in for the outbox in the tests of records and of what is built on them.
package recordtest

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/store"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
)

// Box is an outbox that publishes nothing: what was committed stays in the store, for tests to look at. All methods are
// safe for concurrent use.
type Box struct {
	store  store.Store
	prefix string

	mu       sync.Mutex
	messages map[string]bus.Message
}

// NewBox makes a box that keeps its messages below prefix.
func NewBox(s store.Store, prefix string) *Box {
	return &Box{store: s, prefix: prefix, messages: map[string]bus.Message{}}
}

// Ops implements record.Outbox: a write for each message.
func (b *Box) Ops(messages ...bus.Message) []store.Op {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ops []store.Op
	for _, m := range messages {
		key := b.prefix + strconv.Itoa(100000+len(b.messages))
		b.messages[key] = m
		ops = append(ops, store.Op{Key: key, Value: []byte(m.ID)})
	}
	return ops
}

// Committed implements record.Outbox; nothing is published, so there is nothing to do.
func (b *Box) Committed([]store.Op) {}

// Kept lists the messages whose transactions stand, in the order of the transactions.
func (b *Box) Kept(t testing.TB) []bus.Message {
	t.Helper()
	page, err := b.store.List(context.WithoutCancel(t.Context()), b.prefix, store.ListOptions{})
	if err != nil {
		t.Fatalf("list the outbox: %v", err)
	}
	slices.SortStableFunc(page.Entries, func(x, y store.Entry) int { return cmp.Compare(x.CreateRevision, y.CreateRevision) })
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []bus.Message
	for _, e := range page.Entries {
		out = append(out, b.messages[e.Key])
	}
	return out
}

// Events lists the events that are kept.
func (b *Box) Events(t testing.TB) []bus.Message {
	t.Helper()
	return slices.DeleteFunc(b.Kept(t), func(m bus.Message) bool { return m.Header["ce-id"] == "" })
}

// Verbs lists the verbs of the events that are kept.
func (b *Box) Verbs(t testing.TB) []string {
	t.Helper()
	var out []string
	for _, m := range b.Events(t) {
		out = append(out, m.Subject[strings.LastIndexByte(m.Subject, '.')+1:])
	}
	return out
}

// Outcomes lists the outcomes that are kept.
func (b *Box) Outcomes(t testing.TB) []*busv1.Outcome {
	t.Helper()
	var out []*busv1.Outcome
	for _, m := range b.Kept(t) {
		if m.Header["ce-id"] != "" {
			continue
		}
		o := &busv1.Outcome{}
		if err := proto.Unmarshal(m.Data, o); err != nil {
			t.Fatalf("decode an outcome: %v", err)
		}
		out = append(out, o)
	}
	return out
}

// Results lists the results of the outcomes that are kept.
func (b *Box) Results(t testing.TB) []busv1.Result {
	t.Helper()
	var out []busv1.Result
	for _, o := range b.Outcomes(t) {
		out = append(out, o.GetResult())
	}
	return out
}
