package expr

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// source is the source of an expression after the parameters were put in.
type source struct {
	text string
	// spans say, in order, which bytes of text come from which of the original.
	spans []span
}

// span: text[at:] stands for original[from:], up to the next span; a fixed one stands for the single place from.
type span struct {
	at, from int
	fixed    bool
}

// original gives the offset in the original of an offset in text.
func (s source) original(offset int) int {
	found := span{}
	for _, sp := range s.spans {
		if sp.at > offset {
			break
		}
		found = sp
	}
	if found.fixed {
		return found.from
	}
	return found.from + offset - found.at
}

// putIn replaces params.name and params["name"] by the values. The error's offset is one in src.
func putIn(src string, params map[string]any) (source, error) {
	var b strings.Builder
	out := source{spans: []span{{}}}
	for i := 0; i < len(src); {
		c := src[i]
		switch {
		case c == '\'' || c == '"':
			end := skipString(src, i)
			b.WriteString(src[i:end])
			i = end
		case isIdentStart(c):
			end := identEnd(src, i)
			if src[i:end] != "params" || strings.HasSuffix(strings.TrimRight(src[:i], " \t\n"), ".") {
				b.WriteString(src[i:end])
				i = end
				continue
			}
			name, after, err := paramName(src, i, end)
			if err != nil {
				return source{}, err
			}
			value, ok := params[name]
			if !ok {
				return source{}, &Error{Offset: i, Message: unknownParameter(name, params)}
			}
			out.spans = append(out.spans, span{at: b.Len(), from: i, fixed: true})
			b.WriteString(literal(value))
			out.spans = append(out.spans, span{at: b.Len(), from: after})
			i = after
		case c >= '0' && c <= '9': // a number is skipped whole, so that its suffix is not taken for a name
			end := identEnd(src, i)
			b.WriteString(src[i:end])
			i = end
		default:
			b.WriteByte(c)
			i++
		}
	}
	out.text = b.String()
	return out, nil
}

func unknownParameter(name string, params map[string]any) string {
	names := slices.Sorted(maps.Keys(params))
	if near := Nearest(name, names); near != "" {
		return fmt.Sprintf("there is no parameter %q; did you mean %q?", name, near)
	}
	if len(names) == 0 {
		return fmt.Sprintf("there is no parameter %q; add it under parameters with a default value", name)
	}
	return fmt.Sprintf("there is no parameter %q; the parameters are %s", name, strings.Join(names, ", "))
}

// paramName reads what follows the word params at [at, end): a name, and the offset after it.
func paramName(src string, at, end int) (string, int, error) {
	i := skipSpace(src, end)
	if i < len(src) && src[i] == '.' {
		from := skipSpace(src, i+1)
		to := identEnd(src, from)
		if to > from {
			return src[from:to], to, nil
		}
	}
	if i < len(src) && src[i] == '[' {
		from := skipSpace(src, i+1)
		if from < len(src) && (src[from] == '"' || src[from] == '\'') {
			to := skipString(src, from)
			closeAt := skipSpace(src, to)
			if to-from >= 2 && closeAt < len(src) && src[closeAt] == ']' {
				return src[from+1 : to-1], closeAt + 1, nil
			}
		}
	}
	return "", 0, &Error{Offset: at, Message: `params is followed by the name of one parameter: params.name or params["the-name"]`}
}

func isIdentStart(c byte) bool {
	return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
}

func identEnd(s string, i int) int {
	for i < len(s) && (isIdentStart(s[i]) || (s[i] >= '0' && s[i] <= '9')) {
		i++
	}
	return i
}

func skipSpace(s string, i int) int {
	for i < len(s) && (s[i] == ' ' || s[i] == '\t' || s[i] == '\n' || s[i] == '\r') {
		i++
	}
	return i
}

// literal writes a parameter's value (string, bool, int64, float64, []any, map[string]any, nil) as CEL has it.
func literal(v any) string {
	switch v := v.(type) {
	case string:
		return strconv.Quote(v)
	case bool:
		return strconv.FormatBool(v)
	case int64:
		if v < 0 {
			return "(" + strconv.FormatInt(v, 10) + ")"
		}
		return strconv.FormatInt(v, 10)
	case float64:
		return floatLiteral(v)
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = literal(e)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case map[string]any:
		parts := make([]string, 0, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, strconv.Quote(k)+": "+literal(v[k]))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	default:
		return "null"
	}
}

func floatLiteral(v float64) string {
	if math.IsInf(v, 0) || math.IsNaN(v) {
		return fmt.Sprintf("double(%q)", strconv.FormatFloat(v, 'g', -1, 64))
	}
	s := strconv.FormatFloat(v, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	if v < 0 {
		return "(" + s + ")"
	}
	return s
}
