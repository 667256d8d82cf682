package report

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/parley-chat/parley/bench/internal/stats"
)

// none stands where nothing was measured.
const none = "–"

// number shows a number with three significant digits at least, thousands apart.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return none
	case a >= 99.95 || a == 0:
		return thousands(strconv.FormatFloat(v, 'f', 0, 64))
	default:
		whole := int(math.Floor(math.Log10(a)))
		return strconv.FormatFloat(v, 'f', min(2-whole, 4), 64)
	}
}

func thousands(digits string) string {
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// Number shows a number as the tables do.
func Number(v float64) string { return number(v) }

// span shows a median and how far the values lie apart.
func span(s stats.Spread) string {
	switch s.N {
	case 0:
		return none
	case 1:
		return number(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.Median), number(s.Min), number(s.Max))
}

// factor shows a ratio.
func factor(s stats.Spread) string {
	if s.N == 0 {
		return none
	}
	return span(s) + " ×"
}

// minutes shows how long something took.
func minutes(d time.Duration) string {
	if d < 2*time.Minute {
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f minutes", d.Minutes())
}

// Print shows the section on a terminal.
func (s *Section) Print(w io.Writer) error {
	fmt.Fprintf(w, "\n%s: medians of the rounds (lowest–highest)\n", s.Title)
	for _, t := range s.Tables {
		if err := t.print(w); err != nil {
			return err
		}
	}
	if text, busy := s.neighbours(); text != "" {
		fmt.Fprintf(w, "\nused by other programs meanwhile: %s\n", text)
		if busy {
			fmt.Fprintln(w, "The machine was busy with something else: do not rely on these figures.")
		}
	}
	for _, p := range s.Problems {
		fmt.Fprintln(w, "problem:", p)
	}
	return nil
}

// print shows figures and ratios column by column, so that lines stay short.
func (t Table) print(w io.Writer) error {
	fmt.Fprintf(w, "\n%s\n", t.Title)
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for j, c := range t.Columns {
		fmt.Fprintf(tw, " %s\t\n", c.head())
		for i, r := range t.Rows {
			fmt.Fprintf(tw, "  %s\t%s%s\n", r.Title, t.shown(i, j), verdict(t.cell(i, j).Goal, t.Spread(i, j)))
		}
		for _, r := range t.Ratios {
			if c.Count {
				continue
			}
			var goal *Goal
			if g, ok := r.Goals[j]; ok {
				goal = &g
			}
			fmt.Fprintf(tw, "  %s\t%s%s\n", r.Title, factor(t.Ratio(r, j)), verdict(goal, t.Ratio(r, j)))
		}
	}
	return tw.Flush()
}

// verdict compares a figure with its goal.
func verdict(g *Goal, s stats.Spread) string {
	switch {
	case g == nil || s.N == 0:
		return ""
	case g.Met(s):
		return "\tmet: " + g.Bound()
	}
	return "\tMISSED: " + g.Bound()
}
