// Bench measures Parley on this machine, alone and beside other systems that
// replicate messages, prints what it measured and writes docs/performance.md.
//
// It lives in a module of its own, so that what it compares with never becomes a
// part of the product.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/parley-chat/parley/bench/internal/report"
	"github.com/parley-chat/parley/bench/internal/server"
)

func main() {
	if len(os.Args) > 1 && (os.Args[1] == "serve" || os.Args[1] == "certs") { // started as a peer's server
		os.Exit(server.Main(os.Args[1:]))
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	cancel()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// settings are what the flags say.
type settings struct {
	repo, docs, dir, binary string
	section                 string
	smoke, render           bool
	rounds                  int
	peers, columns          string
	timing                  timing
	away, steady, limit     time.Duration
}

// timing says how long loads take.
type timing struct {
	warmup, duration time.Duration
	kills            int
}

func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.repo, "repo", "..", "`directory` of Parley's sources, of which a binary is built")
	f.StringVar(&s.binary, "parley", "", "this parley `binary` instead")
	f.StringVar(&s.docs, "docs", "", "keep the figures and write performance.md with its charts in this `directory`")
	f.StringVar(&s.dir, "dir", "", "`directory` on the disk that the servers are to use (default: that for temporary files)")
	f.StringVar(&s.section, "section", "peers", "`sections` to measure, separated by commas: "+strings.Join(sectionIDs(), ", ")+"; all")
	f.BoolVar(&s.smoke, "smoke", false, "a short form, good for seeing that it works")
	f.BoolVar(&s.render, "render", false, "measure nothing: write the page again from the figures in -docs")
	f.IntVar(&s.rounds, "rounds", 3, "`number` of rounds; in each, everything is measured with fresh clusters")
	f.StringVar(&s.peers, "peers", "", "peers: only these systems, separated by commas: parley, parley-wal, nats-always, nats-default, etcd, rabbitmq")
	f.StringVar(&s.columns, "columns", "", "peers: only these loads, separated by commas: one, loop64, loop256, conn1, conn16, push, follower, kill")
	f.DurationVar(&s.timing.duration, "duration", 5*time.Second, "`time` for which each load is measured")
	f.DurationVar(&s.timing.warmup, "warmup", time.Second, "`time` of load before that")
	f.IntVar(&s.timing.kills, "kills", 3, "peers: `number` of leaders killed in each round; failover: 17 times as many in all")
	f.DurationVar(&s.away, "away", 5*time.Minute, "away: `time` for which a follower is away under load")
	f.DurationVar(&s.steady, "steady", 30*time.Minute, "steady: `time` for which the load runs")
	f.DurationVar(&s.limit, "limit", 0, "`time` after which what is not measured is left out; 0: the sections' own limits only")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	switch {
	case f.NArg() > 0:
		return s, fmt.Errorf("%q is no flag", f.Arg(0))
	case s.rounds < 1 || s.timing.kills < 1 || s.timing.duration <= 0 || s.timing.warmup < 0 || s.away <= 0 || s.steady <= 0:
		return s, errors.New("-rounds, -kills, -duration, -away and -steady must be more than nothing")
	case s.render && s.docs == "":
		return s, errors.New("-render needs -docs")
	}
	if s.smoke {
		s.rounds, s.timing = 1, timing{warmup: 500 * time.Millisecond, duration: 1500 * time.Millisecond, kills: 1}
		s.away, s.steady = 3*time.Second, 5*time.Second
		if s.peers == "" {
			s.peers = "parley,nats-always"
		}
	}
	return s, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	s, err := parse(args, stderr)
	if err != nil {
		return err
	}
	chosen, err := chooseSections(s)
	if err != nil {
		return err
	}
	if s.render {
		return render(s.docs)
	}
	dir, err := os.MkdirTemp(s.dir, "parley-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	l, err := newLab(ctx, s, dir, stderr)
	if err != nil {
		return err
	}
	if s.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, s.limit, errTime)
		defer cancel()
	}
	var failures []error
	for _, sec := range chosen {
		err := l.keep(ctx, sec, stdout)
		if ctx.Err() != nil && !timeIsUp(ctx) {
			return context.Cause(ctx)
		}
		if err != nil && !errors.Is(err, errSkipped) {
			failures = append(failures, err) // the others can be measured all the same
		}
	}
	return errors.Join(failures...)
}

// keep measures a section and, at once, prints it and writes the page with its
// figures beside those of the others that there are.
func (l *lab) keep(ctx context.Context, sec section, stdout io.Writer) error {
	if timeIsUp(ctx) {
		l.say("section %s left out: %v", sec.id, errTime)
		return nil
	}
	r, err := l.measure(ctx, sec)
	if err != nil {
		l.say("%v", err)
		return err
	}
	if err := r.Print(stdout); err != nil || l.docs == "" {
		return err
	}
	if err := r.Save(l.docs); err != nil {
		return err
	}
	return render(l.docs)
}

// render writes the page from the figures that there are.
func render(docs string) error {
	sections, err := report.Load(docs, sectionIDs())
	if err != nil {
		return err
	}
	return report.Render(docs, append(sections, paper(sections)))
}

// choose returns the items that a list of ids names; all of them if it is empty.
func choose[T any](what, list string, items []T, id func(T) string) ([]T, error) {
	if list == "" {
		return items, nil
	}
	var chosen []T
	for _, want := range strings.Split(list, ",") {
		i := slices.IndexFunc(items, func(item T) bool { return id(item) == want })
		if i < 0 {
			var ids []string
			for _, item := range items {
				ids = append(ids, id(item))
			}
			return nil, fmt.Errorf("-%s: %q is none of %s", what, want, strings.Join(ids, ", "))
		}
		chosen = append(chosen, items[i])
	}
	return chosen, nil
}

func chooseSections(s settings) ([]section, error) {
	if s.section == "all" {
		return slices.DeleteFunc(sections(), func(sec section) bool { return sec.asked }), nil
	}
	return choose("section", s.section, sections(), func(sec section) string { return sec.id })
}
