package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley/bench/internal/stats"
)

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1234567.4: "1,234,567", 1000: "1,000", 999.5: "1,000", 999.4: "999", 100: "100",
		99.96: "100", 99.94: "99.9", 10: "10.0", 9.999: "10.00", 1: "1.00", 0.5: "0.500", 0.01234: "0.0123", 0.000123: "0.0001", -1500: "-1,500",
	} {
		if got := number(v); got != want {
			t.Errorf("%v is shown as %q, want %q", v, got, want)
		}
	}
	if got := number(math.NaN()); got != none {
		t.Errorf("NaN is shown as %q", got)
	}
	for s, want := range map[stats.Spread]string{
		{}:                                 none,
		{Median: 2, Min: 2, Max: 2, N: 1}:  "2.00",
		{Median: 2, Min: 1, Max: 30, N: 3}: "2.00 (1.00–30.0)",
	} {
		if got := span(s); got != want {
			t.Errorf("%+v is shown as %q, want %q", s, got, want)
		}
	}
}

// sample is three rounds of two systems, one of which failed once.
func sample() *Section {
	s := &Section{
		ID: "peers", Title: "Beside others", Intro: "Two systems.", Notes: "The last word.",
		Date: time.Date(2030, 2, 3, 4, 5, 6, 0, time.UTC), Took: 5 * time.Minute, Commit: "abc1234", Rounds: 3,
		Machine:  &Machine{CPU: "A & B <fast>", Cores: 2},
		Versions: []Version{{"Us", "v1"}, {"Them & Co", "v2"}},
		Tables: []Table{{
			Title: "Rates", Text: "More is better.", Head: "system",
			Columns: []Column{{Title: "64 closed loop", Unit: "per second"}, {Title: "kill -9 → next ack", Unit: "ms", Less: true}},
			Rows: []Row{
				{Title: "Us", Ours: true, X: 10, Cells: []Cell{Of(20000, 21000, 22000), {Values: Figures{40, 41, 42}, Goal: &Goal{What: "back after a kill", Most: 30}}}},
				{Title: "Them & Co", X: 1000, Cells: []Cell{Of(10000, math.NaN(), 11000), Of(4000, 4100, 4200)}},
			},
			Ratios: []Ratio{{Title: "Us : Them & Co", Of: 0, To: 1, Goals: map[int]Goal{0: {What: "ahead of them", Least: 1.5}}}},
			Chart:  &Chart{File: "rates", Title: "rates (more is better)"},
		}},
		Problems: []string{"Them & Co, 64 closed loop, run 2: it fell over"},
	}
	for i := range 3 {
		s.Neighbour("Us", 0.2+0.05*float64(i), true)
		s.Neighbour("Them & Co", 0, false)
	}
	return s
}

func TestPage(t *testing.T) {
	docs := t.TempDir()
	paper := &Section{ID: "paper", Title: "On paper", Intro: "Nothing was measured."}
	first := &Section{ID: "idle", Title: "Idle"}
	for _, s := range []*Section{sample(), first} {
		if err := s.Save(docs); err != nil {
			t.Fatal(err)
		}
	}
	sections, err := Load(docs, []string{"peers", "idle"})
	if err != nil {
		t.Fatal(err)
	}
	if len(sections) != 2 || sections[0].ID != "peers" {
		t.Fatalf("%d sections, beginning with %q", len(sections), sections[0].ID)
	}
	if !math.IsNaN(sections[0].Tables[0].Rows[1].Cells[0].Values[1]) {
		t.Error("what was not measured came back as a figure")
	}
	sections = append(sections, paper)
	stale := filepath.Join(docs, figuresDir, "former.svg")
	if err := os.WriteFile(stale, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Render(docs, sections); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); err == nil {
		t.Error("a chart of no section was left")
	}
	page, err := os.ReadFile(filepath.Join(docs, "performance.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	for _, want := range []string{
		"# Performance\n", "Measured on 2030-02-03 in 5 minutes, 3 rounds, commit abc1234, Us v1, Them & Co v2. 2 cores of A & B <fast>",
		"**The machine was busy with something else: do not rely on these figures.**", "meanwhile: Us 25 % (20–30).",
		"| Us | 21,000 (20,000–22,000) | 41.0 (40.0–42.0) |",
		"| Them & Co | 10,500 (10,000–11,000) | 4,100 (4,000–4,200) |", // the failed round does not count
		"| Us : Them & Co | 2.00 (2.00–2.00) × |",                      // of the rounds that both have
		"| back after a kill | ≤ 30.0 ms | 41.0 (40.0–42.0) ms | **missed** |",
		"| ahead of them | ≥ 1.50 × | 2.00 (2.00–2.00) × | met |",
		"The last word.", "- Them & Co, 64 closed loop, run 2: it fell over",
		"(performance/rates.svg)", "(performance/peers.json)", "## On paper\n\nNothing was measured.",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if strings.Contains(text, "NaN") || strings.Contains(text, "\n\n\n") {
		t.Errorf("page:\n%s", text)
	}
	var terminal strings.Builder
	if err := sections[0].Print(&terminal); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"21,000 (20,000–22,000)", "MISSED: ≤ 30.0", "met: ≥ 1.50", "it fell over"} {
		if !strings.Contains(terminal.String(), want) {
			t.Errorf("the terminal is not shown %q", want)
		}
	}

	before := listing(t, docs)
	for _, s := range sections[:2] {
		if err := s.Save(docs); err != nil {
			t.Fatal(err)
		}
	}
	if err := Render(docs, sections); err != nil {
		t.Fatal(err)
	}
	if after := listing(t, docs); before != after {
		t.Error("the same figures made something else when they were written again")
	}
}

func TestLoadRefusesRenamedFigures(t *testing.T) {
	docs := t.TempDir()
	if err := sample().Save(docs); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(docs, figuresDir)
	if err := os.Rename(filepath.Join(dir, "peers.json"), filepath.Join(dir, "scale.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(docs, nil); err == nil {
		t.Error("a section was read under another name")
	}
}

func TestGoal(t *testing.T) {
	of := func(v ...float64) stats.Spread { return stats.Of(v) }
	for _, c := range []struct {
		g    Goal
		s    stats.Spread
		want bool
	}{
		{Goal{Least: 2}, of(1, 2, 9), true},
		{Goal{Least: 2}, of(1.9), false},
		{Goal{Most: 2}, of(2), true},
		{Goal{Most: 2}, of(2.1), false},
		{Goal{Most: 2}, of(), false},
	} {
		if got := c.g.Met(c.s); got != c.want {
			t.Errorf("%+v of %+v: %t", c.g, c.s, got)
		}
	}
}

// listing is the content of all files.
func listing(t *testing.T, docs string) string {
	var all strings.Builder
	for _, pattern := range []string{"*.md", "performance/*"} {
		names, _ := filepath.Glob(filepath.Join(docs, pattern))
		for _, name := range names {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			all.WriteString(name + "\n" + string(b))
		}
	}
	return all.String()
}

// TestCharts: charts are well-formed, and everything is inside.
func TestCharts(t *testing.T) {
	table := sample().Tables[0]
	table.Rows = append(table.Rows, Row{Title: "not measured"}, Row{Title: "one more", X: 100, Cells: []Cell{Of(1, 3, 2), Of(5)}})
	table.Columns = append(table.Columns, Column{Title: "measured by nobody"})
	bars := table
	bars.Chart = &Chart{File: "b", Title: "bars"}
	lines := table
	lines.Chart = &Chart{File: "l", Title: "lines", X: "users"}
	for _, c := range []struct {
		name           string
		chart          []byte
		rects, circles int
	}{
		{"bars", bars.draw(), 1 + 6, 0}, // with the ground
		{"lines", lines.draw(), 1, 6},
	} {
		seen := map[string]int{}
		for d := xml.NewDecoder(bytes.NewReader(c.chart)); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			e, ok := token.(xml.StartElement)
			if !ok {
				continue
			}
			seen[e.Name.Local]++
			a := map[string]float64{}
			for _, attr := range e.Attr {
				a[attr.Name.Local], _ = strconv.ParseFloat(attr.Value, 64)
			}
			if e.Name.Local == "rect" && (a["x"]+a["width"] > chartWidth || a["x"] < 0 || a["width"] <= 0) ||
				e.Name.Local == "circle" && (a["cx"] < lineLeft || a["cx"] > chartWidth-margin || a["cy"] < chartHead) {
				t.Errorf("%s: a mark at %v", c.name, a)
			}
		}
		if seen["rect"] != c.rects || seen["circle"] != c.circles {
			t.Errorf("%s: %d rectangles and %d circles, want %d and %d", c.name, seen["rect"], seen["circle"], c.rects, c.circles)
		}
	}
}

func TestMachine(t *testing.T) {
	dir := t.TempDir()
	m, err := ThisMachine(dir)
	if err != nil {
		t.Fatal(err)
	}
	if m.CPU == "" || m.Cores < 1 || m.Sync <= 0 || m.Go == "" {
		t.Errorf("%+v", m)
	}
	if host, err := os.Hostname(); err == nil && len(host) > 3 && strings.Contains(m.CPU+m.System+m.FileSystem, host) {
		t.Error("the host's name is in the description")
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}
