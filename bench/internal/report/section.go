// Package report keeps what was measured and shows it: on a terminal, and as a page
// with tables and charts.
//
// The page is made of sections. Each is measured in one go and kept, with all that
// is needed to show it, in a file of its own, so that one section can be measured
// again without the others.
package report

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/parley-chat/parley/bench/internal/stats"
)

// Section is what was measured in one go. Texts are Markdown.
type Section struct {
	ID    string `json:"id"` // name of its file
	Title string `json:"title"`
	Intro string `json:"intro"`

	Date     time.Time     `json:"date"` // zero: nothing was measured
	Took     time.Duration `json:"took_ns"`
	Commit   string        `json:"commit,omitempty"`
	Versions []Version     `json:"versions,omitempty"` // of what was measured
	Machine  *Machine      `json:"machine,omitempty"`
	Rounds   int           `json:"rounds,omitempty"`
	Smoke    bool          `json:"smoke,omitempty"` // the short form: figures to see that it works

	Tables     []Table     `json:"tables,omitempty"`
	Notes      string      `json:"notes,omitempty"` // below the tables
	Neighbours []Neighbour `json:"neighbours,omitempty"`
	Problems   []string    `json:"problems,omitempty"` // what went wrong
}

// Version is that of a program.
type Version struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Neighbour is how much of the machine's processors other programs used while
// something was measured, from 0 to 1, each time.
type Neighbour struct {
	During string  `json:"during"`
	Shares Figures `json:"shares"`
}

// Table is figures that belong together, and how some of them compare.
type Table struct {
	Title   string   `json:"title"`
	Text    string   `json:"text,omitempty"`
	Head    string   `json:"head"` // what the rows are
	Columns []Column `json:"columns"`
	Rows    []Row    `json:"rows"`
	Ratios  []Ratio  `json:"ratios,omitempty"`
	Chart   *Chart   `json:"chart,omitempty"`
}

// Column is one kind of figure.
type Column struct {
	Title string `json:"title"`
	Unit  string `json:"unit,omitempty"`
	Less  bool   `json:"less,omitempty"`  // less is better
	Count bool   `json:"count,omitempty"` // says how much was measured: not to be compared
}

// Row is one thing that was measured.
type Row struct {
	Title string  `json:"title"`
	Ours  bool    `json:"ours,omitempty"` // coloured in charts
	X     float64 `json:"x,omitempty"`    // its place in a chart of lines
	Cells []Cell  `json:"cells"`          // one for each column
}

// Cell is one figure, measured once or in several rounds.
type Cell struct {
	Values Figures `json:"values,omitempty"`
	Text   string  `json:"text,omitempty"` // instead of values
	Goal   *Goal   `json:"goal,omitempty"`
}

// Ratio compares two rows.
type Ratio struct {
	Title string       `json:"title"`
	Of    int          `json:"of"` // rows, counted from 0
	To    int          `json:"to"`
	Goals map[int]Goal `json:"goals,omitempty"` // by column
}

// Goal is what a figure or a ratio should be.
type Goal struct {
	What  string  `json:"what"`
	Least float64 `json:"least,omitempty"` // 0: no such bound
	Most  float64 `json:"most,omitempty"`
}

// Chart shows columns of its table, each in a panel of its own.
type Chart struct {
	File    string `json:"file"` // without .svg
	Title   string `json:"title"`
	Columns []int  `json:"columns,omitempty"` // nil: all
	X       string `json:"x,omitempty"`       // lines over this, on a logarithmic scale; "": bars
}

// Figures are values of which some may be missing (NaN).
type Figures []float64

// MarshalJSON writes what is missing as null.
func (f Figures) MarshalJSON() ([]byte, error) {
	out := make([]*float64, len(f))
	for i := range f {
		if !math.IsNaN(f[i]) && !math.IsInf(f[i], 0) {
			v := roundTo(f[i], 6)
			out[i] = &v
		}
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads null as NaN.
func (f *Figures) UnmarshalJSON(data []byte) error {
	var in []*float64
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	*f = make(Figures, len(in))
	for i, v := range in {
		(*f)[i] = math.NaN()
		if v != nil {
			(*f)[i] = *v
		}
	}
	return nil
}

// roundTo keeps so many digits, which is more than is measured.
func roundTo(v float64, digits int) float64 {
	if v == 0 {
		return 0
	}
	p := math.Pow(10, float64(digits-1)-math.Floor(math.Log10(math.Abs(v))))
	if math.IsInf(p, 0) || p == 0 {
		return v
	}
	return math.Round(v*p) / p
}

// Of is a cell with these values.
func Of(values ...float64) Cell { return Cell{Values: values} }

// Spread sums up the cell in a row and column.
func (t Table) Spread(row, column int) stats.Spread {
	return stats.Of(t.cell(row, column).Values)
}

func (t Table) cell(row, column int) Cell {
	if row < 0 || row >= len(t.Rows) || column >= len(t.Rows[row].Cells) {
		return Cell{}
	}
	return t.Rows[row].Cells[column]
}

// Ratio compares two rows in a column.
func (t Table) Ratio(r Ratio, column int) stats.Spread {
	if t.Columns[column].Count {
		return stats.Spread{}
	}
	return stats.Ratio(t.cell(r.Of, column).Values, t.cell(r.To, column).Values)
}

// Met reports whether a figure is what it should be.
func (g Goal) Met(s stats.Spread) bool {
	return s.N > 0 && (g.Least == 0 || s.Median >= g.Least) && (g.Most == 0 || s.Median <= g.Most)
}

// Bound is the goal in signs.
func (g Goal) Bound() string {
	var parts []string
	if g.Least != 0 {
		parts = append(parts, "≥ "+number(g.Least))
	}
	if g.Most != 0 {
		parts = append(parts, "≤ "+number(g.Most))
	}
	return strings.Join(parts, ", ")
}

// busyPercent is how much of the machine others may use.
const busyPercent = 10

// neighbours says how busy the machine was with something else: what disturbs one
// figure and not the other spoils their ratio. Busy: so much that the figures are
// not to be relied on.
func (s *Section) neighbours() (text string, busy bool) {
	var parts []string
	for _, n := range s.Neighbours {
		sp := stats.Of(n.Shares)
		if sp.N == 0 {
			continue
		}
		parts = append(parts, fmt.Sprintf("%s %.0f %% (%.0f–%.0f)", n.During, 100*sp.Median, 100*sp.Min, 100*sp.Max))
		busy = busy || 100*sp.Median > busyPercent
	}
	return strings.Join(parts, "; "), busy
}

// Neighbour takes down how much others used.
func (s *Section) Neighbour(during string, share float64, known bool) {
	if !known {
		return
	}
	for i := range s.Neighbours {
		if s.Neighbours[i].During == during {
			s.Neighbours[i].Shares = append(s.Neighbours[i].Shares, share)
			return
		}
	}
	s.Neighbours = append(s.Neighbours, Neighbour{during, Figures{share}})
}

// Problem takes down what went wrong.
func (s *Section) Problem(format string, args ...any) {
	s.Problems = append(s.Problems, fmt.Sprintf(format, args...))
}
