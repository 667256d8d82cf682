package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/chaos"
	"github.com/parley-chat/parley/internal/check"
)

func TestChaosUsage(t *testing.T) {
	for _, args := range [][]string{
		{"--duration", "0s"},
		{"--kill-every", "-1s"},
		{"--down", "0s"},
		{"--senders", "0"},
		{"--rate", "-1"},
		{"--nodes", "2"},
		{"--servers", "127.0.0.1:1"},
		{"--kill-cmd", "true"},
		{"--repair-cmd", "true"},
		{"--nodes", "many"},
		{"--fault", "fire"},
		{"--fault", "kill,transfer"},
		{"--fault", "cut"},
		{"--fault", ""},
		{"--kills", "-1"},
		{"--frozen", "0s"},
		{"--burners", "-1"},
		{"--burners", "1001"},
		{"now"},
	} {
		var out, errOut bytes.Buffer
		cmd := newChaosCmd(&app{stdout: &out, stderr: &errOut})
		cmd.SetArgs(args)
		cmd.SetErr(&errOut)
		cmd.SilenceUsage, cmd.SilenceErrors = true, true
		cmd.SetFlagErrorFunc(newRootCmd(&app{}).FlagErrorFunc())
		if err := cmd.ExecuteContext(t.Context()); exitCode(err) != exitUsage {
			t.Errorf("chaos %s: error %v, exit status %d", strings.Join(args, " "), err, exitCode(err))
		}
	}
}

var chaosReport = chaos.Report{
	Verdict: check.Verdict{Sent: 10, Acknowledged: 9, Delivered: 9},
	Failures: []chaos.Failure{
		{Number: 1, Fault: chaos.Kill, Node: "n1", Leader: true, Gap: 48*time.Millisecond + 30*time.Microsecond, Closed: true},
		{Number: 2, Fault: chaos.Kill, Node: "n2", Gap: 2 * time.Millisecond, Closed: true},
		{Number: 3, Fault: chaos.Term, Node: "n2", Leader: true, Gap: 20 * time.Millisecond, Closed: true},
		{Number: 4, Fault: chaos.Freeze, Node: "n2", Gap: time.Millisecond, Closed: true},
	},
	Elections: 2,
}

func TestChaosVerdictJSON(t *testing.T) {
	var out bytes.Buffer
	c := &chaosFlags{app: &app{stdout: &out}, json: true}
	if err := c.verdict(chaosReport, nil); err != nil {
		t.Fatal(err)
	}
	want := `{"sent":10,"acknowledged":9,"delivered":9,"lost":0,"duplicated":0,"reordered":0,"phantom":0,"kills":4,"gap_ms":{"p50":20,"p99":48,"max":48},` +
		`"elections":2,"faults":{"freeze":{"count":1,"gap_ms":null},"kill":{"count":2,"gap_ms":{"p50":48,"p99":48,"max":48}},` +
		`"term":{"count":1,"gap_ms":{"p50":20,"p99":20,"max":20}}}}` + "\n"
	if out.String() != want {
		t.Errorf("got  %swant %s", out.String(), want)
	}
	out.Reset()
	if err := c.verdict(chaos.Report{}, nil); err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(out.Bytes(), &v); err != nil || v["gap_ms"] != nil || len(v) != 11 {
		t.Errorf("without kills: %s, %v", out.String(), err)
	}
}

func TestChaosVerdictText(t *testing.T) {
	bad := chaosReport
	bad.Lost = 1
	for _, tt := range []struct {
		report chaos.Report
		err    error
		want   string
	}{
		{chaosReport, nil, "OK: every promise was kept"},
		{bad, nil, "FAILED"},
		{chaosReport, errors.New("did not heal"), "NO VERDICT"},
	} {
		var out bytes.Buffer
		c := &chaosFlags{app: &app{stdout: &out}}
		if err := c.verdict(tt.report, tt.err); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(out.String(), tt.want+"\n") || !strings.Contains(out.String(), "p50 48ms, p99 48ms, max 48ms") {
			t.Errorf("want %q at the end of\n%s", tt.want, out.String())
		}
	}
}

// TestChaosPicture wants the picture to fit any terminal and to say what matters.
func TestChaosPicture(t *testing.T) {
	s := chaos.Snapshot{
		Elapsed: 65 * time.Second,
		Members: []parley.Member{
			{ID: "n2", Role: parley.RoleFollower, Client: "127.0.0.1:3001", Term: 4, Applied: 100, Reachable: true},
			{ID: "n1", Role: parley.RoleLeader, Client: "127.0.0.1:3000", Term: 4, Applied: 101, Reachable: true},
			{ID: "n3\x1b[2J", Role: parley.RoleUnknown, Client: "127.0.0.1:3002"},
		},
		Verdict:  check.Verdict{Sent: 1000, Acknowledged: 990, Delivered: 980},
		Failures: slices.Clone(chaosReport.Failures),
	}
	for i := range 40 {
		s.Failures = append(s.Failures, chaos.Failure{Number: i + 5, Fault: chaos.Freeze, Node: "n1", Leader: true, Gap: time.Minute, Closed: true})
	}
	s.Failures = append(s.Failures, chaos.Failure{Number: 45, Fault: chaos.Kill, Node: "n3", At: 64 * time.Second})
	v := newChaosView(nil, true, chaos.Config{Duration: 2 * time.Minute})
	for range 500 {
		v.rates = append(v.rates, 2000, 0)
	}
	v.troubles, v.trouble = 3, strings.Repeat("no quorum ", 50)

	for _, size := range [][2]int{{80, 24}, {200, 60}, {40, 10}, {1, 1}} {
		lines := v.draw(s, size[0], size[1])
		if size[1] >= 24 && len(lines) > size[1] {
			t.Errorf("%d lines for a height of %d", len(lines), size[1])
		}
		for _, line := range lines {
			for _, colour := range []string{plain, bold, dim, red, green, yellow} {
				line = strings.ReplaceAll(line, colour, "")
			}
			if n := utf8.RuneCountInString(line); n > size[0] || strings.ContainsFunc(line, treacherous) {
				t.Errorf("%d characters for a width of %d: %q", n, size[0], line)
			}
		}
	}
	text := strings.Join(v.draw(s, 80, 24), "\n")
	for _, want := range []string{"1:05 of 2:00", green + "  n1     leader", red + `  n3\x1b[2J down`, "acknowledged 990", "kill   45 ", "no write yet", "more", "█ █ █", "3 troubles"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestSparkline(t *testing.T) {
	if got, want := sparkline([]float64{0, 1, 50, 100}), " ▁▅█"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := sparkline([]float64{0, 0}); got != "  " {
		t.Errorf("all zero: %q", got)
	}
}

func TestShell(t *testing.T) {
	check := `[ "$1 $2" = "n2 cut" ] && [ "$PARLEY_NODE $PARLEY_FAULT" = "n2 cut" ]`
	if err := shell(t.Context(), check, "n2", chaos.Cut); err != nil {
		t.Error(err)
	}
	err := shell(t.Context(), `echo no such container; exit 3`, "n2", chaos.Kill)
	if err == nil || !strings.Contains(err.Error(), "no such container") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("error %v", err)
	}
}

func TestParseFaults(t *testing.T) {
	faults, err := parseFaults([]string{"freeze", "mixed"})
	if want := []chaos.Fault{chaos.Freeze, chaos.Kill, chaos.Freeze, chaos.Term}; err != nil || !slices.Equal(faults, want) {
		t.Errorf("%v, %v, want %v", faults, err, want)
	}
	if list, _ := completeFaults(nil, nil, "kill,fr"); !slices.Contains(list, "kill,freeze") {
		t.Errorf("completion of kill,fr: %v", list)
	}
}

// Burners use the processor for as long as they are wanted, and then end.
func TestBurners(t *testing.T) {
	b, err := startBurners("parley", 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, cmd := range b.cmds {
		for end := time.Now().Add(10 * time.Second); processorTicks(t, cmd.Process.Pid) < 10; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Error("a burner does not burn")
				break
			}
		}
	}
	if err := b.close(); err != nil {
		t.Error(err)
	}
}

// processorTicks is how long a process has been computing, in hundredths of a
// second; enough for anybody where the system does not say.
func processorTicks(t *testing.T, pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) && runtime.GOOS != "linux" {
		return 10
	}
	if err != nil {
		t.Fatal(err)
	}
	ticks, err := strconv.Atoi(strings.Fields(string(stat))[13])
	if err != nil {
		t.Fatal(err)
	}
	return ticks
}
