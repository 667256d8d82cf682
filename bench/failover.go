package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/parley-chat/parley/bench/internal/report"
)

const failoverIntro = `How long nothing is acknowledged when the leader fails. ` + "`parley chaos`" + ` keeps 8 senders and 8 readers
busy with 2,000 messages per second, makes the leader of three nodes fail again and again, and checks in the end that no message was
lost, duplicated, reordered or made up. The gap of a failure runs from just before it to the first acknowledgement of a
message whose sending began after it.`

// fault is one way to fail.
type fault struct {
	title    string
	args     []string
	times    int // of the kills of a round
	every    time.Duration
	p50, p99 float64 // goals in ms; 0: none
}

func faults() []fault {
	return []fault{
		{"`kill -9` of the leader", []string{"--fault", "kill"}, 17, 3 * time.Second, 100, 500},
		{"`kill -9` of the leader, `--log-store wal`", []string{"--fault", "kill", "--log-store", "wal"}, 17, 3 * time.Second, 0, 0},
		{"leader frozen (SIGSTOP) for 3 s", []string{"--fault", "freeze"}, 7, 6 * time.Second, 900, 0},
		{"planned: leader stopped in order (SIGTERM)", []string{"--fault", "term"}, 7, 3 * time.Second, 0, 50},
	}
}

// verdict is what `parley chaos --json` prints, as far as it matters here.
type verdict struct {
	Sent         int `json:"sent"`
	Acknowledged int `json:"acknowledged"`
	Lost         int `json:"lost"`
	Duplicated   int `json:"duplicated"`
	Reordered    int `json:"reordered"`
	Phantom      int `json:"phantom"`
	Kills        int `json:"kills"`
	Elections    int `json:"elections"`
	Gap          *struct {
		P50 float64 `json:"p50"`
		P99 float64 `json:"p99"`
		Max float64 `json:"max"`
	} `json:"gap_ms"`
}

func (v verdict) broken() int { return v.Lost + v.Duplicated + v.Reordered + v.Phantom }

// gapTable has a row for each kind of failure.
func gapTable() report.Table {
	return report.Table{
		Title: "Write gap", Head: "failure", Text: "Percentiles of all failures of a kind; *broken* counts messages lost, duplicated, reordered or made up.",
		Columns: []report.Column{
			{Title: "p50", Unit: "ms", Less: true}, {Title: "p99", Unit: "ms", Less: true}, {Title: "longest", Unit: "ms", Less: true},
			{Title: "failures", Count: true}, {Title: "messages", Count: true}, {Title: "broken", Count: true},
		},
	}
}

// row is what a verdict says about gaps; p50 and p99 are what they should be, 0: anything.
func (v verdict) row(title string, p50, p99 float64) report.Row {
	row := report.Row{Title: title, Ours: true, Cells: make([]report.Cell, 6)}
	if v.Gap != nil {
		row.Cells = []report.Cell{report.Of(v.Gap.P50), report.Of(v.Gap.P99), report.Of(v.Gap.Max),
			report.Of(float64(v.Kills)), report.Of(float64(v.Sent)), report.Of(float64(v.broken()))}
	}
	if p50 > 0 {
		row.Cells[0].Goal = &report.Goal{What: "write gap, p50: " + title, Most: p50}
	}
	if p99 > 0 {
		row.Cells[1].Goal = &report.Goal{What: "write gap, p99: " + title, Most: p99}
	}
	return row
}

// measureFailover has `parley chaos` make nodes fail.
func measureFailover(ctx context.Context, l *lab, s *report.Section) error {
	s.Intro, s.Rounds = failoverIntro, 0
	t := gapTable()
	for _, f := range faults() {
		times := f.times * l.timing.kills
		if l.smoke {
			times = 2
		}
		limit := time.Duration(times)*3*f.every + 2*time.Minute
		err := l.step(ctx, s, f.title, limit, func(ctx context.Context) error {
			v, err := l.chaos(ctx, f, times)
			if v.Gap != nil {
				l.say("  %d failures, gap p50 %.1f ms, p99 %.1f ms", v.Kills, v.Gap.P50, v.Gap.P99)
			}
			t.Rows = append(t.Rows, v.row(f.title, f.p50, f.p99))
			return err
		})
		if err != nil {
			return err
		}
	}
	t.Chart = &report.Chart{File: "failover", Title: "write gap in ms (less is better)", Columns: []int{0, 1}}
	s.Tables = append(s.Tables, t)
	return nil
}

// chaos runs `parley chaos`. There may be a verdict beside an error.
func (l *lab) chaos(ctx context.Context, f fault, times int) (v verdict, err error) {
	dir := filepath.Join(l.dir, "chaos")
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	args := append([]string{
		"chaos", "--json", "--only-leaders", "--dir", dir, "--kills", strconv.Itoa(times), "--kill-every", f.every.String(),
		"--duration", (time.Duration(times) * 3 * f.every).String(),
	}, f.args...)
	return judge(exec.CommandContext(ctx, l.binary, args...))
}

// judge runs a command that prints a verdict. There may be one beside an error.
// When the command's context ends, all that it has started is interrupted.
func judge(cmd *exec.Cmd) (v verdict, err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 30 * time.Second // so that it takes its servers along
	var out, trouble bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &trouble
	err = cmd.Run()
	if parseErr := json.Unmarshal(out.Bytes(), &v); parseErr != nil && err == nil {
		err = fmt.Errorf("the verdict: %w", parseErr)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, oneLine(trouble.String()))
	}
	return v, err
}

// oneLine shows what a program said in one line.
func oneLine(text string) string {
	const most = 300
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' }), "; ")
	return text[max(0, len(text)-most):]
}
