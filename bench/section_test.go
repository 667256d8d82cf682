package main

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley/bench/internal/report"
)

func at(ms int) time.Time { return time.UnixMilli(int64(1_900_000_000_000 + ms)) }

// TestCheckpointSpans: of a log, the lines about checkpoints since the beginning.
func TestCheckpointSpans(t *testing.T) {
	log := filepath.Join(t.TempDir(), "n1.log")
	text := `time=2030-03-17T17:46:40.000Z level=DEBUG msg=checkpoint index=1 took=5ms
time=2030-03-17T17:46:41.500Z level=DEBUG msg=checkpoint index=12 users=3 took=250ms
time=2030-03-17T17:46:42.000Z level=INFO msg="took over" took=1s
time=2030-03-17T17:46:43.000Z level=DEBUG msg=checkpoint index=20 took=soon
plain text
`
	if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	spans, err := checkpointSpans(log, at(1000))
	if err != nil || len(spans) != 1 || !spans[0].from.Equal(at(1250)) || !spans[0].to.Equal(at(1500)) {
		t.Errorf("%v, %v", spans, err)
	}
}

func TestSortSamples(t *testing.T) {
	given := []span{{at(300), at(400)}, {at(100), at(200)}, {at(150), at(250)}, {at(500), at(600)}}
	for _, c := range []struct {
		begun, took int
		during      bool
	}{
		{0, 50, false}, {0, 101, true}, {120, 1, true}, {210, 10, true}, {251, 40, false},
		{260, 300, true}, {399, 5, true}, {401, 99, false}, {700, 1, false},
	} {
		out := sortSamples([]sample{{at(c.begun), time.Duration(c.took) * time.Millisecond}}, slices.Clone(given))
		if (len(out.during) == 1) != c.during || len(out.during)+len(out.without) != 1 || out.checkpoints != 4 {
			t.Errorf("begun at %d, took %d: %+v", c.begun, c.took, out)
		}
	}
}

func TestQuantile(t *testing.T) {
	var took []time.Duration
	if !math.IsNaN(quantile(took, 0.5)) {
		t.Error("a quantile of nothing")
	}
	for i := range 100 {
		took = append(took, time.Duration(i+1)*time.Millisecond)
	}
	if p50, p99, p100 := quantile(took, 0.5), quantile(took, 0.99), quantile(took, 1); p50 != 51 || p99 != 100 || p100 != 100 {
		t.Errorf("%v, %v, %v", p50, p99, p100)
	}
}

// TestGrid: rows keep their order and their rounds, and are compared with the first.
func TestGrid(t *testing.T) {
	var g grid
	for round := range 2 {
		for i, title := range []string{"few", "many"} {
			g.add(title, float64(i), outcome{rate: float64(100 - 20*i + round), p50: 1, p99: 2})
		}
	}
	table := g.table("Users", "", "users")
	goalOfLast(&table, 0, report.Goal{Least: 0.7})
	if len(table.Rows) != 2 || len(table.Ratios) != 1 || table.Spread(0, 0).N != 2 {
		t.Fatalf("%+v", table)
	}
	if r := table.Ratio(table.Ratios[0], 0); math.Abs(r.Median-80.5/100.5) > 1e-9 || !table.Ratios[0].Goals[0].Met(r) {
		t.Errorf("ratio %+v", r)
	}
}

// TestStep: what fails in a step is noted, and only the end of everything ends the
// section.
func TestStep(t *testing.T) {
	l := &lab{progress: io.Discard}
	s := new(report.Section)
	if err := l.step(t.Context(), s, "one", time.Minute, func(context.Context) error { return errors.New("it broke") }); err != nil {
		t.Error(err)
	}
	err := l.step(t.Context(), s, "two", time.Millisecond, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	if err != nil {
		t.Error(err)
	}
	over, cancel := context.WithTimeoutCause(t.Context(), 0, errTime)
	defer cancel()
	if err := l.step(over, s, "three", time.Minute, func(ctx context.Context) error { return ctx.Err() }); err != nil {
		t.Error(err)
	}
	all := strings.Join(s.Problems, "\n")
	for _, want := range []string{"one: it broke", "two: not done within 1ms", "three: the time was up"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not among the problems:\n%s", want, all)
		}
	}
	ended, cancelEnded := context.WithCancel(t.Context())
	cancelEnded()
	if err := l.step(ended, s, "four", time.Minute, func(ctx context.Context) error { return ctx.Err() }); !errors.Is(err, context.Canceled) {
		t.Errorf("after an interruption: %v", err)
	}
}

// TestSections: sections and steps have names of their own, and wrong ones are refused.
func TestSections(t *testing.T) {
	ids := sectionIDs()
	if slices.Contains(ids, "all") || len(slices.Compact(slices.Sorted(slices.Values(ids)))) != len(ids) {
		t.Errorf("%q", ids)
	}
	for list, want := range map[string]int{"all": len(ids) - 1, "idle,peers": 2, "steady": 1} {
		if got, err := chooseSections(settings{section: list}); err != nil || len(got) != want {
			t.Errorf("%q: %d sections, %v", list, len(got), err)
		}
	}
	if _, err := chooseSections(settings{section: "speed"}); err == nil {
		t.Error("an unknown section was accepted")
	}
}

// TestRender: a page can be written from whatever there is.
func TestRender(t *testing.T) {
	docs := t.TempDir()
	if err := render(docs); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(docs, "performance.md"))
	if err != nil || !strings.Contains(string(page), "Raft groups") {
		t.Errorf("%s, %v", page, err)
	}
}

// TestPaper: the reckoning uses the medians that there are, and says nothing about
// what was not measured.
func TestPaper(t *testing.T) {
	peers := &report.Section{
		ID: "peers", Machine: &report.Machine{Cores: 2, Sync: 200 * time.Microsecond},
		Tables: []report.Table{{
			Title: "Rates", Columns: []report.Column{{Title: "1 client"}, {Title: "16 conn × 256"}},
			Rows: []report.Row{{Title: "Parley", Cells: []report.Cell{report.Of(900), report.Of(90_000, 100_000, 130_000)}}},
		}},
	}
	text := paper([]*report.Section{peers}).Notes
	for _, want := range []string{
		"100,000 messages per second with 2 cores", "20.0 µs of a core", "32.0 MB per second", "5,000 per second and disk", "has to carry 60.0 messages",
		"| 6 with 16 cores | 12 | 6 | 4,800,000 | 833 | 500 GB |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the reckoning does not say %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "| memory |") || strings.Contains(text, "| start |") || strings.Contains(text, "NaN") {
		t.Errorf("something is said that was not measured:\n%s", text)
	}
	if bare := paper(nil).Notes; strings.Contains(bare, "messages per second") || !strings.Contains(bare, "one group") {
		t.Errorf("without figures:\n%s", bare)
	}
}
