package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/parley-chat/parley/internal/bench"
)

func TestBenchUsage(t *testing.T) {
	for _, args := range [][]string{
		{"--mode", "fast"},
		{"--mode", ""},
		{"--senders", "0"},
		{"--senders", "70000"},
		{"--window", "0"},
		{"--window", "4097"},
		{"--size", "0"},
		{"--size", "-1"},
		{"--size", "1TiB"},
		{"--mode", "e2e", "--size", "15"},
		{"--mode", "e2e", "--users", "70000"},
		{"--users", "0"},
		{"--duration", "0s"},
		{"--warmup", "-1s"},
		{"--rate", "-1"},
		{"--rate", "NaN"},
		{"--rate", "1e-9"},
		{"--page", "-1", "--mode", "list"},
		{"--pattern", "x"},
		{"--page", "10"},
		{"--reader-servers", "127.0.0.1:1"},
		{"--mode", "e2e", "--reader-servers", "a:b:c"},
		{"--mode", "idle", "--rate", "10"},
		{"--mode", "idle", "--window", "10"},
		{"--mode", "list", "--size", "10"},
		{"--servers", "a:b:c"},
		{"--timeout", "0s"},
		{"--ca", "missing.pem"},
		{"now"},
	} {
		var out, errOut bytes.Buffer
		full := append([]string{"bench"}, args...)
		if err := run(t.Context(), full, strings.NewReader(""), &out, &errOut); exitCode(err) != exitUsage || out.Len() > 0 {
			t.Errorf("bench %s: error %v, exit status %d", strings.Join(args, " "), err, exitCode(err))
		}
	}
}

var benchReport = bench.Report{
	Elapsed: 2 * time.Second, Done: 2469135, Rate: 1234567.5, Errors: 3, Behind: 4, Lost: 1,
	Latency: bench.Latency{
		P50: 1234567 * time.Nanosecond, P90: 2 * time.Millisecond, P99: 3 * time.Millisecond, P999: 40 * time.Millisecond, Max: time.Second,
	},
	Series:   []bench.Point{{T: time.Second, Rate: 10.04, P50: time.Millisecond, P99: 2 * time.Millisecond}},
	Problems: []string{"send: mailbox full"},
	Before:   []bench.Memory{{Node: "n1", Bytes: 10 << 20}},
	After:    []bench.Memory{{Node: "n1", Bytes: 30 << 20}},
}

func TestBenchJSON(t *testing.T) {
	var out bytes.Buffer
	b := &benchFlags{app: &app{stdout: &out}, json: true}
	b.servers = []string{"127.0.0.1:3000"}
	b.cfg = bench.Config{Mode: bench.Send, Senders: 2, Window: 3, Size: 100, Users: 5, Rate: 7, Duration: 2 * time.Second, Warmup: time.Second}
	if err := b.print(benchReport); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	settings := got["settings"].(map[string]any)
	delete(settings, "version")
	want := `{"behind":4,"done":2469135,"errors":3,"latency_ms":{"max":1000,"p50":1.234,"p90":2,"p99":3,"p999":40},` +
		`"lost_connections":1,"memory":[{"after":31457280,"before":10485760,"node":"n1"}],"mode":"send",` +
		`"problems":["send: mailbox full"],"rate":1234567.5,"seconds":2,"series":[{"p50":1,"p99":2,"rate":10,"t":1}],` +
		`"settings":{"duration":2,"rate":7,"senders":2,"servers":["127.0.0.1:3000"],"size":100,"tls":false,"users":5,"warmup":1,"window":3}}`
	if text, _ := json.Marshal(got); string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}

func TestBenchTable(t *testing.T) {
	b := &benchFlags{app: &app{}}
	b.cfg = bench.Config{Mode: bench.Mixed, Senders: 2, Window: 3, Size: 100, Users: 5, Rate: 7}
	r := benchReport
	r.Sends, r.Reads = &bench.Part{Latency: r.Latency}, &bench.Part{}
	text := b.table(r)
	for _, want := range []string{
		"mixed, 2 senders × 3 under way, 5 users, 100 bytes, 7 per second\n",
		"1,234,568 per second (2,469,135 in 2.0 s)", "     1.234      2.000      3.000     40.000   1000.000\n",
		"  sends ", "  reads ", "errors     3\n", "behind     4\n", "lost       1 connections\n", "n1: 30.0 MiB, before 10.0 MiB",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	b.cfg = bench.Config{Mode: bench.Idle, Senders: 1024, Duration: time.Minute}
	r.Sends, r.Reads, r.Opened, r.Stayed = nil, nil, 1024, 1000
	text = b.table(r)
	for _, want := range []string{"idle, 1024 connections for 1m0s\n", "1000 of 1024 connections", "20.0 KiB more per connection"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestBenchProgress(t *testing.T) {
	cfg := bench.Config{Mode: bench.Send, Duration: 10 * time.Second}
	p := bench.Point{T: 3 * time.Second, Rate: 12345, P50: time.Millisecond, P99: 20 * time.Millisecond}
	if got, want := progressLine(cfg, p), "3 of 10 s         12,345/s   p50 1ms   p99 20ms"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	p.T = 0
	if got := progressLine(cfg, p); !strings.HasPrefix(got, "warming up ") {
		t.Errorf("got %q", got)
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("%d became %s, want %s", n, got, want)
		}
	}
}

func TestNodesMemory(t *testing.T) {
	page := "# HELP process_resident_memory_bytes Resident memory size in bytes.\nprocess_resident_memory_bytes 2.5e+07\nx 1\n"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, page)
	}))
	defer server.Close()
	addr := strings.TrimPrefix(server.URL, "http://")
	got, err := nodesMemory(t.Context(), []string{addr})
	if err != nil || len(got) != 1 || got[0] != (bench.Memory{Node: addr, Bytes: 25_000_000}) {
		t.Errorf("got %v, %v", got, err)
	}
	page = "x 1\n"
	if _, err := nodesMemory(t.Context(), []string{addr}); err == nil || !strings.Contains(err.Error(), "does not tell") {
		t.Errorf("without the metric: %v", err)
	}
}

// TestBenchFlagsAreDocumented holds the section of docs/operations.md to the
// flags and defaults that there are.
func TestBenchFlagsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Measuring: `parley bench`\n")
	section, _, _ = strings.Cut(section, "\n## ")
	common := pflag.NewFlagSet("", pflag.ContinueOnError)
	common.AddFlagSet(newListCmd(&app{}).Flags())
	newBenchCmd(&app{}).Flags().VisitAll(func(f *pflag.Flag) {
		if common.Lookup(f.Name) != nil && f.Name != "json" {
			return // described with the client commands
		}
		def := f.DefValue
		if def == "false" || def == "[]" || def == "" {
			def = "  "
		} else {
			def = " `" + def + "` "
		}
		if row := "| `--" + f.Name + "` |" + def + "| "; !strings.Contains(section, row) {
			t.Errorf("no row that begins with %q", row)
		}
	})
}
