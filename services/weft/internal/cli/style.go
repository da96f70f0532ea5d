package cli

import (
	"strings"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"
)

// style colours text, or leaves it alone where nobody sees colours.
type style struct{ on bool }

// style gives the style for a stream; NO_COLOR turns colours off (no-color.org).
func (a *tool) style(terminal bool) style {
	return style{on: terminal && a.p.Getenv("NO_COLOR") == "" && a.p.Getenv("TERM") != "dumb"}
}

func (s style) paint(st lipgloss.Style, text string) string {
	if !s.on || text == "" {
		return text
	}
	return st.Render(text)
}

func (s style) green(t string) string {
	return s.paint(lipgloss.NewStyle().Foreground(lipgloss.Green), t)
}

func (s style) yellow(t string) string {
	return s.paint(lipgloss.NewStyle().Foreground(lipgloss.Yellow), t)
}

func (s style) red(t string) string {
	return s.paint(lipgloss.NewStyle().Foreground(lipgloss.Red), t)
}

func (s style) cyan(t string) string {
	return s.paint(lipgloss.NewStyle().Foreground(lipgloss.Cyan), t)
}
func (s style) bold(t string) string { return s.paint(lipgloss.NewStyle().Bold(true), t) }
func (s style) dim(t string) string  { return s.paint(lipgloss.NewStyle().Faint(true), t) }

// wrapped breaks text to a width; further lines are indented by so many cells.
func wrapped(text string, width, indent int) string {
	room := max(20, width-indent)
	lines := strings.Split(ansi.Wrap(text, room, " /"), "\n")
	return strings.Join(lines, "\n"+strings.Repeat(" ", indent))
}

// folded breaks text between words into lines of at most a width. Unlike wrapped it never breaks a word, so that an id can
// be copied.
func folded(text string, width int) []string {
	lines := []string{""}
	for word := range strings.FieldsSeq(text) {
		last := lines[len(lines)-1]
		switch {
		case last == "":
			lines[len(lines)-1] = word
		case ansi.StringWidth(last)+1+ansi.StringWidth(word) <= width:
			lines[len(lines)-1] = last + " " + word
		default:
			lines = append(lines, word)
		}
	}
	return lines
}

// cut shortens text to a width, with an ellipsis for what is gone.
func cut(text string, width int) string { return ansi.Truncate(text, max(1, width), "…") }

// padded fills text with spaces to a width.
func padded(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-ansi.StringWidth(text)))
}

// table lays out rows in columns that together fit a width: the widest columns give way first.
type table struct {
	header []string
	rows   [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// render gives the table, with the header dimmed. Empty columns are left out.
func (t *table) render(width int, st style) string {
	keep := t.filled()
	widths := t.fit(keep, width)
	var b strings.Builder
	line := func(cells []string, paint func(string) string) {
		var l strings.Builder
		for i, c := range keep {
			cell := cut(cells[c], widths[i])
			if i < len(keep)-1 {
				cell = padded(cell, widths[i]) + "  "
			}
			l.WriteString(cell)
		}
		b.WriteString(paint(strings.TrimRight(l.String(), " ")) + "\n")
	}
	line(t.header, st.dim)
	for _, row := range t.rows {
		line(row, func(s string) string { return s })
	}
	return b.String()
}

// filled gives the columns that have something in them; the first always counts.
func (t *table) filled() []int {
	var keep []int
	for i := range t.header {
		full := i == 0
		for _, row := range t.rows {
			full = full || row[i] != ""
		}
		if full {
			keep = append(keep, i)
		}
	}
	return keep
}

// leastColumn is the width below which a column is not narrowed, in cells.
const leastColumn = 6

func (t *table) fit(keep []int, width int) []int {
	widths := make([]int, len(keep))
	total := 2 * (len(keep) - 1)
	for i, c := range keep {
		widths[i] = ansi.StringWidth(t.header[c])
		for _, row := range t.rows {
			widths[i] = max(widths[i], ansi.StringWidth(row[c]))
		}
		total += widths[i]
	}
	for ; total > width; total-- {
		widest := 0
		for i, w := range widths {
			if w > widths[widest] {
				widest = i
			}
		}
		if widths[widest] <= leastColumn {
			break
		}
		widths[widest]--
	}
	return widths
}
