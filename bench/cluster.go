package main

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/parley-chat/parley/bench/internal/cpu"
	"github.com/parley-chat/parley/bench/internal/peers"
	"github.com/parley-chat/parley/bench/internal/report"
	"github.com/parley-chat/parley/internal/bench"
)

// prefix is what the names of users begin with that sections make.
const prefix = "user"

// cluster starts a fresh cluster of Parley with further flags for its nodes.
func (l *lab) cluster(ctx context.Context, nodes int, args ...string) (*peers.Cluster, error) {
	all, err := peers.Parley(ctx, l.binary)
	if err != nil {
		return nil, err
	}
	return all[0].With(nodes, args...).Start(ctx, l.dir)
}

// step is a part of a section with a time limit. What goes wrong is noted there, and
// the section goes on; only the end of ctx ends it.
func (l *lab) step(ctx context.Context, s *report.Section, name string, limit time.Duration, f func(ctx context.Context) error) error {
	l.say("%s", name)
	begun := time.Now()
	limited, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done within %v", limit))
	defer cancel()
	err := f(limited)
	switch {
	case timeIsUp(ctx):
		s.Problem("%s: %v", name, context.Cause(ctx))
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		if limited.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(limited), err)
		}
		l.say("%s: problem: %v", name, err)
		s.Problem("%s: %v", name, err)
	}
	l.say("%s took %v", name, time.Since(begun).Round(time.Second))
	return nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// load puts a load on the leader, for no longer than the flags say, and notes what
// disturbed it.
func (l *lab) load(ctx context.Context, s *report.Section, c *peers.Cluster, cfg bench.Config) (outcome, error) {
	var err error
	if cfg.Dial, err = c.Dial(ctx, cfg.Window); err != nil {
		return outcome{}, err
	}
	setDefault(&cfg.Duration, 4*time.Second)
	cfg.Duration = min(l.timing.duration, cfg.Duration)
	cfg.Warmup = min(l.timing.warmup, cfg.Duration/3)
	cfg.Patience = 20 * time.Second
	o, err := runLoad(ctx, c, cfg)
	if err != nil {
		return o, err
	}
	s.Neighbour("Parley", o.others, o.othersAreSeen)
	if o.problem != "" {
		s.Problem("%s", o.problem)
	}
	l.say("  %s", o)
	return o, nil
}

// full is the load of 16 connections with 256 messages under way each, to users
// that exist. Their mail stays unread.
func full(users int) bench.Config {
	return bench.Config{Mode: bench.Send, Senders: 16, Window: 256, Size: messageBytes, Existing: prefix, Users: users, Keep: true}
}

// fill puts users or mail into a cluster and waits until it has settled.
func (l *lab) fill(ctx context.Context, c *peers.Cluster, st bench.Stock) error {
	st.Prefix = prefix
	if st.Window == 0 {
		st.Window = 512
	}
	var err error
	if st.Dial, err = c.Dial(ctx, st.Window); err != nil {
		return err
	}
	begun := time.Now()
	if err := bench.Fill(ctx, st); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	commands := (st.To - st.From) * st.Messages
	if !st.Made {
		commands += st.To - st.From
	}
	l.say("  %d commands of filling took %v", commands, time.Since(begun).Round(100*time.Millisecond))
	return settle(ctx, c)
}

// largeText is the size of messages with which a state is made large.
const largeText = 60_000

// fillBytes puts so many bytes of mail into the mailboxes of users. Few messages are
// under way, so that an entry has one or two: the logs keep a number of entries, and
// with many messages in each they would take as much of the disk as the state.
func (l *lab) fillBytes(ctx context.Context, c *peers.Cluster, users, n int) error {
	messages := max(1, n/largeText/users)
	return l.fill(ctx, c, bench.Stock{To: users, Made: true, Messages: messages, Size: largeText, Senders: 2, Window: 1})
}

// settle waits, for up to 10 s, until the servers have hardly
// anything left to do: what filling has left behind is not to be measured.
func settle(ctx context.Context, c *peers.Cluster) error {
	const look, quiet = 500 * time.Millisecond, 100 * time.Millisecond // of processor time, all servers together
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		before, err := cpu.Used(c.PIDs()...)
		if err != nil {
			return err
		}
		if err := sleep(ctx, look); err != nil {
			return err
		}
		after, err := cpu.Used(c.PIDs()...)
		if err != nil || after-before < quiet {
			return err
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// size is how many bytes the files below dir take whose names begin with part.
func size(dir, part string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasPrefix(d.Name(), part) {
			return nil // what has just been removed does not count
		}
		if info, err := d.Info(); err == nil {
			sum += info.Size()
		}
		return nil
	})
	return sum
}

// grid collects the outcomes of the rows of a table.
type grid struct {
	titles []string
	x      []float64
	rates  []report.Figures
	halves []report.Figures
	tails  []report.Figures
}

// add takes down an outcome of a row, which is made when it is new.
func (g *grid) add(title string, x float64, o outcome) {
	i := 0
	for i < len(g.titles) && g.titles[i] != title {
		i++
	}
	if i == len(g.titles) {
		g.titles, g.x = append(g.titles, title), append(g.x, x)
		g.rates, g.halves, g.tails = append(g.rates, nil), append(g.halves, nil), append(g.tails, nil)
	}
	g.rates[i], g.halves[i], g.tails[i] = append(g.rates[i], o.rate), append(g.halves[i], o.p50), append(g.tails[i], o.p99)
}

// table shows the rows and compares each with the first.
func (g *grid) table(title, text, head string) report.Table {
	t := report.Table{
		Title: title, Text: text, Head: head,
		Columns: []report.Column{{Title: "rate", Unit: "/s"}, {Title: "p50", Unit: "ms", Less: true}, {Title: "p99", Unit: "ms", Less: true}},
	}
	for i, name := range g.titles {
		t.Rows = append(t.Rows, report.Row{Title: name, Ours: true, X: g.x[i], Cells: []report.Cell{
			{Values: g.rates[i]}, {Values: g.halves[i]}, {Values: g.tails[i]},
		}})
		if i > 0 {
			t.Ratios = append(t.Ratios, report.Ratio{Title: name + " : " + g.titles[0], Of: i, To: 0})
		}
	}
	return t
}

// goalOfLast sets what the last ratio of a table should be in a column.
func goalOfLast(t *report.Table, column int, g report.Goal) {
	if n := len(t.Ratios); n > 0 {
		t.Ratios[n-1].Goals = map[int]report.Goal{column: g}
	}
}
