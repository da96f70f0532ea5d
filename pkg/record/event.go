package record

import (
	"fmt"
	"strconv"
	"strings"
	"sync"

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
		event, err := event(b.veil, b.service, e.Kind, e.Object, notice.Verb, b.now().UTC().Format("2006-01-02T15:04:05.000000000Z"))
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
	return event(eventVeil(), service, kind, object, verb, at)
}

// eventVeil hides what events do not tell.
func eventVeil() *veil {
	return &veil{hides: func(f protoreflect.FieldDescriptor) bool {
		return inputOnly(f) || resource.FieldOptionsOf(f).GetOpaque()
	}}
}

func event(v *veil, service string, kind *resource.Kind, object resource.Object, verb, at string) (bus.Message, error) {
	public := object.Message()
	if len(v.fields(public.ProtoReflect().Descriptor())) > 0 {
		public = proto.Clone(public)
		v.clear(public.ProtoReflect())
	}
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
func Redact(m proto.Message) { (&veil{hides: inputOnly}).clear(m.ProtoReflect()) }

// veil clears fields that must not be seen, at any depth. It remembers where they are in each type of message, since to
// ask for the options of a field costs much more than to clear it. It is safe for concurrent use.
type veil struct {
	hides func(protoreflect.FieldDescriptor) bool
	types sync.Map // []veiled by protoreflect.MessageDescriptor
}

// veiled is a field that is hidden, or below which something is.
type veiled struct {
	field  protoreflect.FieldDescriptor
	hidden bool
}

// clear clears what is hidden in a message.
func (v *veil) clear(m protoreflect.Message) {
	for _, at := range v.fields(m.Descriptor()) {
		switch {
		case !m.Has(at.field):
		case at.hidden:
			m.Clear(at.field)
		case at.field.IsList():
			list := m.Mutable(at.field).List()
			for i := range list.Len() {
				v.clear(list.Get(i).Message())
			}
		default:
			v.clear(m.Mutable(at.field).Message())
		}
	}
}

// fields gives the fields of a type of message that are hidden, or below which something is.
func (v *veil) fields(d protoreflect.MessageDescriptor) []veiled {
	if known, ok := v.types.Load(d); ok {
		if fields, ok := known.([]veiled); ok {
			return fields
		}
	}
	var out []veiled
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		if hidden := v.hides(f); hidden || v.below(f, map[protoreflect.FullName]bool{}) {
			out = append(out, veiled{f, hidden})
		}
	}
	v.types.Store(d, out)
	return out
}

// below tells whether something is hidden below a field. seen are the types that were looked at: they may hold themselves.
func (v *veil) below(f protoreflect.FieldDescriptor, seen map[protoreflect.FullName]bool) bool {
	if f.Message() == nil || f.IsMap() || seen[f.Message().FullName()] {
		return false
	}
	seen[f.Message().FullName()] = true
	for i := range f.Message().Fields().Len() {
		if sub := f.Message().Fields().Get(i); v.hides(sub) || v.below(sub, seen) {
			return true
		}
	}
	return false
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
