package outbox

import (
	"encoding/binary"
	"slices"

	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
)

// A record is a version byte, the number of messages and the messages; a message is its subject, id, number of headers,
// headers in order of their names, and data. Numbers are uvarints (encoding/binary), texts have their length before them.
const version = 1

// sizeOf gives about how many bytes a message takes.
func sizeOf(m bus.Message) int {
	n := len(m.Subject) + len(m.ID) + len(m.Data) + 16
	for k, v := range m.Header {
		n += len(k) + len(v) + 4
	}
	return n
}

// encode gives the record of messages, which take about size bytes.
func encode(messages []bus.Message, size int) []byte {
	out := make([]byte, 0, size+16)
	out = append(out, version)
	out = binary.AppendUvarint(out, uint64(len(messages)))
	var names []string
	for _, m := range messages {
		out = appendText(out, m.Subject)
		out = appendText(out, m.ID)
		names = names[:0]
		for name := range m.Header {
			names = append(names, name)
		}
		slices.Sort(names)
		out = binary.AppendUvarint(out, uint64(len(names)))
		for _, name := range names {
			out = appendText(out, name)
			out = appendText(out, m.Header[name])
		}
		out = appendText(out, m.Data)
	}
	return out
}

// appendText appends a length and a text.
func appendText[T string | []byte](out []byte, text T) []byte {
	out = binary.AppendUvarint(out, uint64(len(text)))
	return append(out, text...)
}

// decode gives the messages of a record. Their data are part of it.
func decode(record []byte) ([]bus.Message, error) {
	if len(record) == 0 || record[0] != version {
		return nil, fault.New(fault.Internal, "the record is of no version that is known")
	}
	r := &reader{left: record[1:]}
	n := r.number()
	messages := make([]bus.Message, 0, min(n, uint64(len(record))))
	for range n {
		m := bus.Message{Subject: string(r.text()), ID: string(r.text())}
		headers := r.number()
		if headers > 0 && !r.broken {
			m.Header = make(map[string]string, min(headers, uint64(len(record))))
		}
		for range headers {
			name := string(r.text())
			if r.broken {
				break
			}
			m.Header[name] = string(r.text())
		}
		m.Data = r.text()
		if r.broken {
			return nil, fault.New(fault.Internal, "the record is cut off")
		}
		messages = append(messages, m)
	}
	if r.broken || len(r.left) > 0 {
		return nil, fault.New(fault.Internal, "the record is damaged")
	}
	return messages, nil
}

// reader reads a record. Once it is broken it reads zeros.
type reader struct {
	left   []byte
	broken bool
}

// number reads a number.
func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.left)
	if size <= 0 {
		r.left, r.broken = nil, true
		return 0
	}
	r.left = r.left[size:]
	return n
}

// text reads a text.
func (r *reader) text() []byte {
	n := r.number()
	if n > uint64(len(r.left)) {
		r.left, r.broken = nil, true
		return nil
	}
	text := r.left[:n:n]
	r.left = r.left[n:]
	return text
}
