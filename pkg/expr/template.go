// Package expr reads and evaluates the ${…} expressions of stack documents, and the filters of List methods.
//
// A text holds any number of expressions between "${" and "}"; "$${" stands for the two characters "${". A text that is
// one expression and nothing else has the expression's own type; any other text is put together from its parts, which
// must be strings, numbers or booleans. The language is CEL (cel.dev/cel-go). Its variables are the resources of the
// stack, each of the type of its kind's observed message, with hyphens in the resource's name written as underscores;
// field names are those of the contract, e.g. external_address. params["name"] and params.name are put in as constants
// before anything is checked, so they have the type of their value and an expression over parameters alone is a
// constant too.
package expr

import (
	"strings"

	"github.com/weftcloud/weft/pkg/fault"
)

// Error says what is wrong with a text and where. It unwraps to an Invalid fault.
type Error struct {
	// Offset is the byte in the text at which it is wrong, from 0.
	Offset int
	// Message says what is wrong and what can be done.
	Message string
}

// Error gives the message.
func (e *Error) Error() string { return e.Message }

// Unwrap gives the error as a fault.
func (e *Error) Unwrap() error { return fault.New(fault.Invalid, "%s", e.Message) }

// Part is a piece of a text: literal text or an expression.
type Part struct {
	// Expression tells which of the two it is.
	Expression bool
	// Text is the literal text with its escapes undone, or the source of the expression without "${" and "}".
	Text string
	// Offset is where Text begins in the whole, in bytes.
	Offset int
}

// Template is a text with the expressions in it.
type Template struct {
	// Parts are its pieces, in order; an empty text has none.
	Parts []Part
}

// Parse splits a text. The error is an *Error.
func Parse(s string) (*Template, error) {
	t := &Template{}
	literal, literalAt := strings.Builder{}, 0
	flush := func() {
		if literal.Len() > 0 {
			t.Parts = append(t.Parts, Part{Text: literal.String(), Offset: literalAt})
			literal.Reset()
		}
	}
	for i := 0; i < len(s); {
		switch {
		case strings.HasPrefix(s[i:], "$${"):
			literal.WriteString("${")
			i += 3
		case strings.HasPrefix(s[i:], "${"):
			flush()
			end, err := closing(s, i+2)
			if err != nil {
				return nil, err
			}
			if strings.TrimSpace(s[i+2:end]) == "" {
				return nil, &Error{Offset: i, Message: "the expression is empty; write what it should yield, e.g. ${db.address}, or $${ for a literal ${"}
			}
			t.Parts = append(t.Parts, Part{Expression: true, Text: s[i+2 : end], Offset: i + 2})
			i, literalAt = end+1, end+1
		default:
			literal.WriteByte(s[i])
			i++
		}
	}
	flush()
	return t, nil
}

// closing finds the brace that ends the expression whose source begins at from.
func closing(s string, from int) (int, error) {
	depth := 0
	for i := from; i < len(s); {
		switch s[i] {
		case '\'', '"':
			i = skipString(s, i)
			continue
		case '{':
			depth++
		case '}':
			if depth == 0 {
				return i, nil
			}
			depth--
		}
		i++
	}
	return 0, &Error{Offset: from - 2, Message: "the expression that begins with ${ has no closing brace; add }, or write $${ for a literal ${"}
}

// skipString gives the offset after the string literal that begins at i; the end of s if it is not closed.
func skipString(s string, i int) int {
	quote := s[i : i+1]
	if strings.HasPrefix(s[i:], strings.Repeat(quote, 3)) {
		quote = strings.Repeat(quote, 3)
	}
	raw := i > 0 && (s[i-1] == 'r' || s[i-1] == 'R')
	for j := i + len(quote); j < len(s); j++ {
		if s[j] == '\\' && !raw {
			j++
			continue
		}
		if strings.HasPrefix(s[j:], quote) {
			return j + len(quote)
		}
	}
	return len(s)
}

// HasExpressions tells whether there is an expression in the text.
func (t *Template) HasExpressions() bool {
	for _, p := range t.Parts {
		if p.Expression {
			return true
		}
	}
	return false
}

// Whole tells whether the text is one expression and nothing else.
func (t *Template) Whole() bool { return len(t.Parts) == 1 && t.Parts[0].Expression }

// Literal gives the text of a template without expressions, its escapes undone.
func (t *Template) Literal() string {
	var b strings.Builder
	for _, p := range t.Parts {
		b.WriteString(p.Text)
	}
	return b.String()
}

// Escape gives a text that, parsed, is the literal s.
func Escape(s string) string { return strings.ReplaceAll(s, "${", "$${") }

// VariableName gives the name under which expressions know a resource.
func VariableName(resource string) string { return strings.ReplaceAll(resource, "-", "_") }
