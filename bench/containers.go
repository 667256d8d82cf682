package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/parley-chat/parley/bench/internal/report"
)

const containersIntro = `The containers of docker-compose.yml, as deploy/chaos-compose.sh has them fail. Load and gap are those of the section
before; the gap begins when the command that kills is started, and goes on to the next acknowledgement after the longest time without one.`

// containerKills is how many leaders are killed for one of a round.
const containerKills = 5

// measureContainers kills the containers of leaders.
func measureContainers(ctx context.Context, l *lab, s *report.Section) error {
	if err := haveContainers(ctx); err != nil {
		return fmt.Errorf("%w: %w", errSkipped, err)
	}
	s.Intro, s.Rounds = containersIntro, 0
	times, every := containerKills*l.timing.kills, 6*time.Second
	if l.smoke {
		times = 1
	}
	t := gapTable()
	err := l.step(ctx, s, "killing containers", time.Hour, func(ctx context.Context) error {
		script, err := filepath.Abs(filepath.Join(l.repo, "deploy", "chaos-compose.sh"))
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, script, "--fault", "kill", "--only-leaders", "--kills", strconv.Itoa(times),
			"--kill-every", every.String(), "--duration", (time.Duration(times) * 3 * every).String(), "--json")
		v, err := judge(cmd)
		t.Rows = append(t.Rows, v.row("container of the leader killed", 300, 0))
		return err
	})
	s.Tables = append(s.Tables, t)
	return err
}

// haveContainers says why containers cannot be used here.
func haveContainers(ctx context.Context) error {
	works := func(name string, args ...string) bool { return exec.CommandContext(ctx, name, args...).Run() == nil }
	if !works("docker", "version") {
		return errors.New("no Docker engine answers")
	}
	if !works("docker", "compose", "version") && !works("docker-compose", "version") {
		return errors.New("there is no Docker Compose")
	}
	return nil
}

const steadyIntro = `` + "`parley chaos --steady`" + ` puts as much load on three nodes as they take, while %d further processes do nothing but use the
processors. Nothing fails: every election would be a spurious one, unless the machine itself was not run
([ADR 64](adr/0064-short-time-slices.md)).`

// burners is how many processes use the processors beside a steady load.
const burners = 24

// measureSteady waits for elections that nothing has caused.
func measureSteady(ctx context.Context, l *lab, s *report.Section) error {
	s.Intro, s.Rounds = fmt.Sprintf(steadyIntro, burners), 0
	t := report.Table{
		Title: "Elections", Head: "load", Text: "*Broken* counts messages lost, duplicated, reordered or made up.",
		Columns: []report.Column{{Title: "time for each leader", Unit: "min"}, {Title: "elections", Count: true}, {Title: "messages", Count: true}, {Title: "broken", Count: true}},
	}
	err := l.step(ctx, s, "steady load", l.steady+2*time.Minute, func(ctx context.Context) error {
		v, err := judge(exec.CommandContext(ctx, l.binary, "chaos", "--json", "--steady", "--rate", "0",
			"--burners", strconv.Itoa(burners), "--duration", l.steady.String(), "--dir", filepath.Join(l.dir, "steady")))
		row := report.Row{Title: fmt.Sprintf("saturating, %d burners", burners), Cells: make([]report.Cell, len(t.Columns))}
		if v.Sent > 0 {
			row.Cells = []report.Cell{report.Of(l.steady.Minutes() / float64(v.Elections+1)), report.Of(float64(v.Elections)),
				report.Of(float64(v.Sent)), report.Of(float64(v.broken()))}
		}
		row.Cells[0].Goal = &report.Goal{What: "saturating load beside burners without a spurious election", Least: 30}
		t.Rows = append(t.Rows, row)
		return err
	})
	s.Tables = append(s.Tables, t)
	return err
}
