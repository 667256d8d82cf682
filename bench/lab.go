package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/parley-chat/parley/bench/internal/report"
)

// section is a part of the page that is measured in one go.
type section struct {
	id, title string
	limit     time.Duration // what is not measured by then is left out
	measure   func(ctx context.Context, l *lab, s *report.Section) error
	asked     bool // measured only when it is named, not with all
}

// sections lists them in the order of the page.
func sections() []section {
	return []section{
		{id: "peers", title: "Beside other systems", limit: 45 * time.Minute, measure: measurePeers},
		{id: "users", title: "With more users", limit: 7 * time.Minute, measure: measureScale((*scale).byUsers)},
		{id: "unread", title: "With more unread mail", limit: 7 * time.Minute, measure: measureScale((*scale).byUnread)},
		{id: "state", title: "With more state", limit: 8 * time.Minute, measure: measureScale((*scale).byState)},
		{id: "size", title: "With larger messages", limit: 3 * time.Minute, measure: measureScale((*scale).bySize)},
		{id: "nodes", title: "With more nodes", limit: 4 * time.Minute, measure: measureScale((*scale).byNodes)},
		{id: "checkpoints", title: "During checkpoints", limit: 5 * time.Minute, measure: measureScale((*scale).checkpoints)},
		{id: "idle", title: "At rest", limit: 8 * time.Minute, measure: measureIdle},
		{id: "failover", title: "When a node fails", limit: 15 * time.Minute, measure: measureFailover},
		{id: "containers", title: "When a container fails", limit: 8 * time.Minute, measure: measureContainers},
		{id: "restart", title: "After a restart", limit: 6 * time.Minute, measure: measureRestart},
		{id: "away", title: "After an absence", limit: 12 * time.Minute, measure: measureAway},
		{id: "steady", title: "At full load for long", limit: time.Hour, measure: measureSteady, asked: true},
	}
}

func sectionIDs() []string {
	var ids []string
	for _, s := range sections() {
		ids = append(ids, s.id)
	}
	return ids
}

// lab is what sections are measured with.
type lab struct {
	settings
	dir      string // for the servers; empty between two sections
	binary   string // of parley
	version  string
	commit   string
	machine  report.Machine
	progress io.Writer
}

func newLab(ctx context.Context, s settings, dir string, progress io.Writer) (*lab, error) {
	l := &lab{settings: s, dir: dir, progress: progress}
	var err error
	if s.binary == "" {
		s.binary = filepath.Join(dir, "bin", "parley")
		if err := build(ctx, s.repo, s.binary); err != nil {
			return nil, err
		}
	}
	if l.binary, err = filepath.Abs(s.binary); err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, l.binary, "version").Output()
	if err != nil {
		return nil, err
	}
	l.version, _, _ = strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(out)), "parley "), " ")
	l.commit = commit(ctx, s.repo)
	l.machine, err = report.ThisMachine(dir)
	return l, err
}

// build makes a parley binary.
func build(ctx context.Context, repo, binary string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=auto", "-o", binary, "./cmd/parley")
	cmd.Dir = repo
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build ./cmd/parley: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// commit names the state of the sources; "" where git does not tell.
func commit(ctx context.Context, repo string) string {
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", repo}, args...)...).Output()
		return strings.TrimSpace(string(out)), err
	}
	hash, err := git("rev-parse", "--short=10", "HEAD")
	if err != nil {
		return ""
	}
	if changed, err := git("status", "--porcelain", "--untracked-files=no", "--", "*.go", "go.mod"); err == nil && changed != "" {
		hash += " with changes"
	}
	return hash
}

// errSkipped is why a section cannot be measured here; its former figures stay.
var errSkipped = errors.New("skipped")

// measure measures a section. What goes wrong with one of its figures is a part of
// it, and so is what was left out when the time was up; an error means that there is
// nothing to be kept.
func (l *lab) measure(ctx context.Context, sec section) (*report.Section, error) {
	begun := time.Now()
	s := &report.Section{
		ID: sec.id, Title: sec.title, Date: begun.UTC().Truncate(time.Second), Commit: l.commit, Machine: &l.machine,
		Versions: []report.Version{{Name: "Parley", Version: l.version}}, Rounds: l.rounds, Smoke: l.smoke,
	}
	limited, cancel := context.WithTimeoutCause(ctx, sec.limit, errTime)
	defer cancel()
	if err := sec.measure(limited, l, s); err != nil {
		return nil, fmt.Errorf("section %s: %w", sec.id, err)
	}
	s.Took = time.Since(begun).Round(time.Second)
	l.say("section %s took %v", sec.id, s.Took)
	if ctx.Err() != nil && !timeIsUp(ctx) {
		return nil, context.Cause(ctx)
	}
	return s, nil
}

var errTime = errors.New("the time was up")

// timeIsUp reports whether what ended ctx was the limit of a section or of the whole.
func timeIsUp(ctx context.Context) bool { return errors.Is(context.Cause(ctx), errTime) }

// say tells how it goes.
func (l *lab) say(format string, args ...any) {
	fmt.Fprintf(l.progress, time.Now().Format("15:04:05")+"  "+format+"\n", args...)
}
