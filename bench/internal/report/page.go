package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/parley-chat/parley/bench/internal/stats"
)

const pageHead = `<!-- written by ` + "`make performance`" + ` from docs/performance/*.json: measure again or change bench/, do not edit -->

# Performance

Everything here is measured from outside, through the protocols that programs use:
sessions, deduplication, mailboxes, acknowledgements and synced logs are on. The load is
that of ` + "`parley bench`" + `.

` + "`make performance`" + ` measures all sections on the machine that it runs on and writes this page;
one section is measured alone with

` + "```sh" + `
cd bench && go run -mod=mod . -docs ../docs -section users   # -smoke: in seconds, to see that it works
cd bench && go run -mod=mod . -docs ../docs -render          # measures nothing, writes the page again
` + "```" + `

Figures are medians of a section's rounds, with the lowest and the highest round in
parentheses; a figure without parentheses was measured once. A ratio is that of the
medians, with the lowest and the highest ratio within one round. The figures themselves, machine, date and versions
included, are in [performance/](performance/), a file for each section.
`

const goalText = `What was asked for when Parley was planned, on a machine like this one, and what came of it.
`

// page is the whole page.
func page(sections []*Section) []byte {
	var b strings.Builder
	b.WriteString(pageHead)
	if rows := goalRows(sections); len(rows) > 0 {
		b.WriteString("\n## The bar, and where it was met\n\n" + goalText + "\n" + grid([]string{"what", "bar", "measured", ""}, rows) + "\n")
	}
	for _, s := range sections {
		b.WriteString("\n" + strings.TrimRight(s.markdown(), "\n") + "\n")
	}
	return []byte(b.String())
}

// goalRows lists all goals with what was measured.
func goalRows(sections []*Section) (rows [][]string) {
	add := func(g Goal, sp stats.Spread, unit string, smoke bool) {
		verdict := "met"
		switch {
		case sp.N == 0:
			verdict = "not measured"
		case !g.Met(sp):
			verdict = "**missed**"
		}
		if smoke {
			verdict += " (short form)"
		}
		rows = append(rows, []string{g.What, g.Bound() + unit, span(sp) + unit, verdict})
	}
	for _, s := range sections {
		for _, t := range s.Tables {
			for i, row := range t.Rows {
				for j, c := range row.Cells {
					if c.Goal != nil {
						add(*c.Goal, t.Spread(i, j), " "+t.Columns[j].Unit, s.Smoke)
					}
				}
			}
			for _, r := range t.Ratios {
				for j := range t.Columns {
					if g, ok := r.Goals[j]; ok {
						add(g, t.Ratio(r, j), " ×", s.Smoke)
					}
				}
			}
		}
	}
	return rows
}

// markdown is the section as a part of the page.
func (s *Section) markdown() string {
	var parts []string
	add := func(text string) {
		if text = strings.TrimSpace(text); text != "" {
			parts = append(parts, text)
		}
	}
	add("## " + s.Title)
	add(s.Intro)
	add(s.where())
	for _, t := range s.Tables {
		add("### " + t.Title)
		add(t.Text)
		add(t.markdown())
		add(t.ratioMarkdown())
		if t.Chart != nil {
			add(fmt.Sprintf("![%s](%s/%s.svg)", t.Chart.Title, figuresDir, t.Chart.File))
		}
	}
	add(s.Notes)
	if len(s.Problems) > 0 {
		add("What went wrong:\n\n- " + strings.Join(s.Problems, "\n- "))
	}
	return strings.Join(parts, "\n\n")
}

// where says when, where and with what it was measured.
func (s *Section) where() string {
	if s.Date.IsZero() || s.Machine == nil {
		return ""
	}
	m := s.Machine
	text := fmt.Sprintf("Measured on %s in %s", s.Date.Format("2006-01-02"), minutes(s.Took))
	if s.Rounds > 0 {
		text += fmt.Sprintf(", %d round%s", s.Rounds, plural(s.Rounds))
	}
	if s.Commit != "" {
		text += ", commit " + s.Commit
	}
	for _, v := range s.Versions {
		text += ", " + v.Name + " " + v.Version
	}
	text += fmt.Sprintf(". %d cores of %s, %s GiB of memory, %s, %s, %s; appending 4 KiB and syncing takes %d µs here.",
		m.Cores, m.CPU, number(m.MemoryGiB), m.System, m.FileSystem, m.Go, m.Sync.Microseconds())
	if others, busy := s.neighbours(); others != "" {
		text += "\nOf the processors, other programs used meanwhile: " + others + "."
		if busy {
			text = "**The machine was busy with something else: do not rely on these figures.** " + text
		}
	}
	if s.Smoke {
		text = "**Measured in the short form, which only shows that it works.** " + text
	}
	return text + fmt.Sprintf("\n[The figures](%s/%s.json).", figuresDir, s.ID)
}

// markdown is the table with its figures.
func (t Table) markdown() string {
	head := []string{t.Head}
	for _, c := range t.Columns {
		head = append(head, c.head())
	}
	var rows [][]string
	for i, r := range t.Rows {
		line := []string{r.Title}
		for j := range t.Columns {
			line = append(line, t.shown(i, j))
		}
		rows = append(rows, line)
	}
	return grid(head, rows)
}

func (c Column) head() string {
	if c.Unit == "" {
		return c.Title
	}
	return c.Title + ", " + c.Unit
}

func (t Table) shown(row, column int) string {
	if c := t.cell(row, column); c.Text != "" {
		return c.Text
	}
	s := t.Spread(row, column)
	if s.N == 1 && t.Columns[column].Count && s.Median == math.Trunc(s.Median) {
		return thousands(strconv.FormatFloat(s.Median, 'f', 0, 64))
	}
	return span(s)
}

// ratioMarkdown is the table's ratios.
func (t Table) ratioMarkdown() string {
	if len(t.Ratios) == 0 {
		return ""
	}
	head := []string{"ratio"}
	for _, c := range t.Columns {
		if !c.Count {
			head = append(head, c.Title)
		}
	}
	var rows [][]string
	for _, r := range t.Ratios {
		line := []string{r.Title}
		for j, c := range t.Columns {
			if !c.Count {
				line = append(line, factor(t.Ratio(r, j)))
			}
		}
		rows = append(rows, line)
	}
	return grid(head, rows)
}

// grid is a table in Markdown: the first column to the left, the others to the right.
func grid(head []string, rows [][]string) string {
	rule := []string{"---"}
	for range len(head) - 1 {
		rule = append(rule, "---:")
	}
	lines := []string{line(head), line(rule)}
	for _, r := range rows {
		lines = append(lines, line(r))
	}
	return strings.Join(lines, "\n")
}

func line(cells []string) string { return "| " + strings.Join(cells, " | ") + " |" }

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}
