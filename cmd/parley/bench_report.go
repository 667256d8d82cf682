package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/parley-chat/parley/internal/bench"
)

// benchJSON is what --json prints. Latencies are in milliseconds.
type benchJSON struct {
	Mode        bench.Mode     `json:"mode"`
	Rate        float64        `json:"rate"`
	Latency     benchLatency   `json:"latency_ms"`
	Errors      int64          `json:"errors"`
	Behind      int64          `json:"behind"`
	Lost        int64          `json:"lost_connections"`
	Seconds     float64        `json:"seconds"`
	Done        int64          `json:"done"`
	Sends       *benchPart     `json:"sends,omitempty"`
	Reads       *benchPart     `json:"reads,omitempty"`
	Connections *benchIdle     `json:"connections,omitempty"`
	Memory      []benchMemory  `json:"memory,omitempty"`
	Series      []benchPoint   `json:"series"`
	Problems    []string       `json:"problems,omitempty"`
	Settings    map[string]any `json:"settings"`
}

type benchLatency struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

type benchPart struct {
	Rate    float64      `json:"rate"`
	Latency benchLatency `json:"latency_ms"`
}

type benchIdle struct {
	Opened int `json:"opened"`
	Stayed int `json:"stayed"`
}

// benchMemory is the resident memory of a node in bytes.
type benchMemory struct {
	Node   string `json:"node"`
	Before int64  `json:"before"`
	After  int64  `json:"after"`
}

type benchPoint struct {
	T    float64 `json:"t"`
	Rate float64 `json:"rate"`
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
}

// millis are milliseconds with the three digits that are measured.
func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func rounded(v float64) float64 { return math.Round(v*10) / 10 }

func latencyJSON(l bench.Latency) benchLatency {
	return benchLatency{millis(l.P50), millis(l.P90), millis(l.P99), millis(l.P999), millis(l.Max)}
}

func partJSON(p *bench.Part) *benchPart {
	if p == nil {
		return nil
	}
	return &benchPart{Rate: rounded(p.Rate), Latency: latencyJSON(p.Latency)}
}

// print prints the report.
func (b *benchFlags) print(r bench.Report) error {
	if !b.json {
		_, err := io.WriteString(b.stdout, b.table(r))
		return err
	}
	out := benchJSON{
		Mode: b.cfg.Mode, Rate: rounded(r.Rate), Latency: latencyJSON(r.Latency), Errors: r.Errors, Behind: r.Behind, Lost: r.Lost,
		Seconds: millis(r.Elapsed) / 1000, Done: r.Done, Sends: partJSON(r.Sends), Reads: partJSON(r.Reads),
		Memory: memoryOf(r), Series: []benchPoint{}, Problems: r.Problems, Settings: b.settings(),
	}
	if b.cfg.Mode == bench.Idle {
		out.Connections = &benchIdle{r.Opened, r.Stayed}
	}
	for _, p := range r.Series {
		out.Series = append(out.Series, benchPoint{millis(p.T) / 1000, rounded(p.Rate), millis(p.P50), millis(p.P99)})
	}
	return printJSON(b.stdout, out)
}

// settings are the flags that matter in the mode.
func (b *benchFlags) settings() map[string]any {
	s := map[string]any{
		"servers": b.servers, "tls": b.tls || b.ca != "",
		"senders": b.cfg.Senders, "duration": b.cfg.Duration.Seconds(), "version": buildVersion().Version,
	}
	if b.cfg.Mode == bench.Idle {
		return s
	}
	s["window"], s["users"] = b.cfg.Window, b.cfg.Users
	s["warmup"], s["rate"] = b.cfg.Warmup.Seconds(), b.cfg.Rate
	switch b.cfg.Mode {
	case bench.List:
		s["pattern"], s["page"] = b.cfg.Pattern, b.cfg.Page
	case bench.E2E:
		if len(b.readerServers) > 0 {
			s["reader_servers"] = b.readerServers
		}
		fallthrough
	default:
		s["size"] = b.cfg.Size
	}
	return s
}

func memoryOf(r bench.Report) []benchMemory {
	var out []benchMemory
	for i, m := range r.After {
		out = append(out, benchMemory{Node: m.Node, Before: r.Before[i].Bytes, After: m.Bytes})
	}
	return out
}

// table is the report for people.
func (b *benchFlags) table(r bench.Report) string {
	var t strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&t, "%-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("mode", "%s", b.what())
	if b.cfg.Mode == bench.Idle {
		row("stayed", "%d of %d connections", r.Stayed, r.Opened)
	}
	row("rate", "%s per second (%s in %.1f s)", thousands(int64(math.Round(r.Rate))), thousands(r.Done), r.Elapsed.Seconds())
	fmt.Fprintf(&t, "%-10s %10s %10s %10s %10s %10s   ms\n", "", "p50", "p90", "p99", "p99.9", "max")
	latencyRow := func(name string, l bench.Latency) {
		fmt.Fprintf(&t, "%-10s %10.3f %10.3f %10.3f %10.3f %10.3f\n", name, millis(l.P50), millis(l.P90), millis(l.P99), millis(l.P999), millis(l.Max))
	}
	latencyRow("latency", r.Latency)
	if r.Sends != nil {
		latencyRow("  sends", r.Sends.Latency)
		latencyRow("  reads", r.Reads.Latency)
	}
	row("errors", "%s", thousands(r.Errors))
	if b.cfg.Rate > 0 {
		row("behind", "%s", thousands(r.Behind))
	}
	if r.Lost > 0 {
		row("lost", "%d connections", r.Lost)
	}
	var grown int64
	for _, m := range memoryOf(r) {
		grown += max(0, m.After-m.Before) // others gave memory back, for other reasons
		row("memory", "%s: %.1f MiB, before %.1f MiB", visible(m.Node), float64(m.After)/(1<<20), float64(m.Before)/(1<<20))
	}
	if b.cfg.Mode == bench.Idle && len(r.After) > 0 && r.Opened > 0 {
		row("", "%.1f KiB more per connection", float64(grown)/float64(r.Opened)/(1<<10))
	}
	return t.String()
}

// what is the load in words.
func (b *benchFlags) what() string {
	c := b.cfg
	if c.Mode == bench.Idle {
		return fmt.Sprintf("idle, %d connections for %v", c.Senders, c.Duration)
	}
	s := fmt.Sprintf("%s, %d senders × %d under way, %d users", c.Mode, c.Senders, c.Window, c.Users)
	if c.Mode != bench.List {
		s += fmt.Sprintf(", %d bytes", c.Size)
	}
	if c.Rate > 0 {
		return s + fmt.Sprintf(", %g per second", c.Rate)
	}
	return s + ", as fast as possible"
}

// thousands writes 1234567 as 1,234,567.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// benchProgress shows on a terminal how the run goes: one line, written anew.
type benchProgress struct {
	out *os.File
	cfg *bench.Config
}

// newProgress returns nil if nobody watches.
func (b *benchFlags) newProgress() *benchProgress {
	f, ok := b.stderr.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return nil
	}
	fmt.Fprint(f, "connecting")
	return &benchProgress{out: f, cfg: &b.cfg}
}

func (p *benchProgress) point(pt bench.Point) {
	fmt.Fprint(p.out, "\r"+progressLine(*p.cfg, pt)+"\x1b[K")
}

func (p *benchProgress) clear() {
	if p != nil {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

func progressLine(cfg bench.Config, pt bench.Point) string {
	where := fmt.Sprintf("%.0f of %.0f s", pt.T.Seconds(), cfg.Duration.Seconds())
	switch {
	case cfg.Mode == bench.Idle:
		where = "opening"
	case pt.T <= 0:
		where = "warming up"
	}
	return fmt.Sprintf("%-12s %11s/s   p50 %s   p99 %s", where, thousands(int64(math.Round(pt.Rate))), short(pt.P50), short(pt.P99))
}
