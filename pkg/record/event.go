package record

import (
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

func etag(revision int64) string { return strconv.FormatInt(revision, 36) }

func (e *Entry) packInto(rec *participantv1.Record) error {
	packed, err := anypb.New(e.Object.Message())
	if err != nil {
		return fault.As(fault.Internal, fault.Wrap(err, "encode %s", e.Name))
	}
	rec.Resource = packed
	return nil
}

// messages gives what a write tells the world.
func (b *Book) messages(e *Entry, notice Notice) ([]bus.Message, error) {
	var out []bus.Message
	if notice.Verb != "" {
		event, err := Event(b.service, e.Kind, e.Object, notice.Verb, b.now().UTC().Format("2006-01-02T15:04:05.000000000Z"))
		if err != nil {
			return nil, err
		}
		out = append(out, event)
	}
	if notice.Outcome != nil {
		out = append(out, outcomeMessage(notice.Outcome, e.Object.Metadata().GetSequence()))
	}
	return out, nil
}

// Event gives the CloudEvent (CloudEvents 1.0, NATS protocol binding, binary mode) of a change of a resource. Its id is
// the key and the sequence, so that it is the same when it is published again. Fields that can only be written, and
// those that may hold what only their author should see, are left out.
func Event(service string, kind *resource.Kind, object resource.Object, verb, at string) (bus.Message, error) {
	public := proto.Clone(object.Message())
	clearFields(public.ProtoReflect(), func(f protoreflect.FieldDescriptor) bool {
		return inputOnly(f) || resource.FieldOptionsOf(f).GetOpaque()
	})
	data, err := protojson.Marshal(public)
	if err != nil {
		return bus.Message{}, fault.As(fault.Internal, fault.Wrap(err, "encode the event of %s", object.Name()))
	}
	meta := object.Metadata()
	id := meta.GetKey() + "." + strconv.FormatInt(meta.GetSequence(), 10)
	return bus.Message{
		Subject: bus.EventSubject(resource.TenantOf(object.Name()), service, kind.Collection, verb),
		ID:      id,
		Header: map[string]string{
			"ce-specversion": "1.0",
			"ce-id":          id,
			"ce-type":        "cloud.weft." + service + "." + strings.ToLower(kind.Name) + "." + verb + ".v1",
			"ce-source":      "/services/" + service,
			"ce-subject":     object.Name(),
			"ce-time":        at,
			"ce-sequence":    fmt.Sprintf("%020d", meta.GetSequence()),
			"content-type":   "application/json",
		},
		Data: data,
	}, nil
}

// Redact clears the fields of a message, at any depth, that can be written and never read.
func Redact(m proto.Message) { clearFields(m.ProtoReflect(), inputOnly) }

// clearFields clears the fields that which tells, at any depth.
func clearFields(m protoreflect.Message, which func(protoreflect.FieldDescriptor) bool) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case which(f):
			m.Clear(f)
		case f.Message() == nil || f.IsMap():
		case f.IsList():
			for i := range v.List().Len() {
				clearFields(v.List().Get(i).Message(), which)
			}
		default:
			clearFields(v.Message(), which)
		}
		return true
	})
}

func inputOnly(f protoreflect.FieldDescriptor) bool {
	behaviors, ok := proto.GetExtension(f.Options(), annotations.E_FieldBehavior).([]annotations.FieldBehavior)
	if !ok {
		return false
	}
	for _, b := range behaviors {
		if b == annotations.FieldBehavior_INPUT_ONLY {
			return true
		}
	}
	return false
}

// outcomeMessage gives the message that tells an outcome. Its id bears the sequence: the same outcome told again for
// another change of the record is another message.
func outcomeMessage(o *busv1.Outcome, sequence int64) bus.Message {
	origin := o.GetOrigin()
	id := fmt.Sprintf("%s.%s.%d.%d.%d.%d", origin.GetSaga(), origin.GetStep(), origin.GetDirection(), origin.GetAttempt(), o.GetResult(), sequence)
	data, err := proto.Marshal(o)
	if err != nil {
		panic("record: an outcome cannot be encoded: " + err.Error()) // its strings were valid when they were read from messages
	}
	m := bus.Message{Subject: bus.OutcomeSubject(int(origin.GetShard()), sagaID(origin.GetSaga())), ID: id, Data: data}
	if trace := origin.GetTraceParent(); trace != "" {
		m.Header = map[string]string{bus.HeaderTrace: trace}
	}
	return m
}

func sagaID(saga string) string {
	if i := strings.LastIndexByte(saga, '/'); i >= 0 {
		return saga[i+1:]
	}
	return saga
}
