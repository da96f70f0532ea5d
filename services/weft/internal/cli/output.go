package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
	"sigs.k8s.io/yaml"

	"github.com/weftcloud/weft/pkg/fault"
)

// encodeJSON gives a message as protojson with a stable layout. Fields without presence are written even when they are
// empty, so that a program finds them.
func encodeJSON(m proto.Message) ([]byte, error) {
	raw, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, fault.Wrap(err, "write %s as JSON", m.ProtoReflect().Descriptor().FullName())
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil { // protojson varies its spaces on purpose
		return nil, fault.Wrap(err, "write JSON")
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// print writes a message as the output flag says; asTable writes it for a person.
func (a *tool) print(m proto.Message, asTable func() string) error {
	if a.output == "table" {
		return a.write([]byte(asTable()))
	}
	data, err := encode(m, a.output)
	if err != nil {
		return err
	}
	return a.write(data)
}

// encode gives a message as json or yaml.
func encode(m proto.Message, format string) ([]byte, error) {
	data, err := encodeJSON(m)
	if err != nil || format != "yaml" {
		return data, err
	}
	if data, err = yaml.JSONToYAML(data); err != nil {
		return nil, fault.Wrap(err, "write YAML")
	}
	return data, nil
}

func (a *tool) write(data []byte) error {
	_, err := a.p.Out.Write(data)
	return failed(err, "write to standard output")
}

// printTable writes a table, or what to say when it is empty, unless the output is for programs.
func (a *tool) printTable(m proto.Message, t *table, empty string) error {
	return a.print(m, func() string {
		if len(t.rows) == 0 {
			return empty + "\n"
		}
		width, _ := a.p.Size()
		return t.render(width, a.style(a.p.OutIsTerminal))
	})
}

// note writes a line for a person to standard error.
func (a *tool) note(format string, args ...any) { fmt.Fprintf(a.p.Err, format+"\n", args...) }

// age says how long ago something was, in the two units that matter; empty for never.
func age(now time.Time, t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return span(now.Sub(t.AsTime()))
}

// span says how long something takes, e.g. 4.2s, 3m10s, 2h5m, 4d3h.
func span(d time.Duration) string {
	switch d = max(0, d); {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}

// enumText gives an enum's value without the prefix that its names share, e.g. READY for PHASE_READY; empty for the
// value zero.
func enumText(e protoreflect.Enum) string {
	if e.Number() == 0 {
		return ""
	}
	values := e.Descriptor().Values()
	value, zero := values.ByNumber(e.Number()), values.ByNumber(0)
	if value == nil {
		return fmt.Sprint(e.Number())
	}
	prefix := strings.TrimSuffix(string(zero.Name()), "UNSPECIFIED")
	return strings.TrimPrefix(string(value.Name()), prefix)
}

// words writes an enum's value in small letters, e.g. needs hand.
func words(e protoreflect.Enum) string {
	return strings.ToLower(strings.ReplaceAll(enumText(e), "_", " "))
}

// base gives the last part of a full name.
func base(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
