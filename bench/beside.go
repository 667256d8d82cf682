package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/parley-chat/parley/bench/internal/peers"
	"github.com/parley-chat/parley/bench/internal/report"
)

// figureOf picks one number of an outcome.
type figureOf func(outcome) float64

func rateOf(o outcome) float64 { return o.rate }
func p50Of(o outcome) float64  { return o.p50 }
func p99Of(o outcome) float64  { return o.p99 }

// beside is the comparison with other systems.
type beside struct {
	systems  []peers.Peer
	columns  []column
	outcomes map[string]map[string][]outcome // by system and column, in the order of the rounds
}

// measurePeers runs the rounds of the comparison.
func measurePeers(ctx context.Context, l *lab, s *report.Section) error {
	b := &beside{outcomes: make(map[string]map[string][]outcome)}
	var err error
	if b.systems, err = choosePeers(ctx, l); err != nil {
		return err
	}
	if b.columns, err = chooseColumns(l.settings); err != nil {
		return err
	}
	for round := range l.rounds {
		// Each round begins with another system, so that none always has the machine as
		// another one leaves it.
		for i := range b.systems {
			p := b.systems[(i+round)%len(b.systems)]
			err := b.measureOne(ctx, l, s, p, fmt.Sprintf("round %d/%d  %-32s", round+1, l.rounds, p.Name))
			switch {
			case timeIsUp(ctx):
				s.Problem("round %d, %s: %v", round+1, p.Name, errTime)
				b.show(l, s)
				return nil
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case err != nil: // of one system, once: its other rounds count
				l.say("problem: %v", err)
				s.Problem("round %d, %s: %v", round+1, p.Name, err)
			}
		}
	}
	b.show(l, s)
	return nil
}

// measureOne runs all loads on a fresh cluster of one system. What goes wrong with a
// load is a part of the results.
func (b *beside) measureOne(ctx context.Context, l *lab, s *report.Section, p peers.Peer, prefix string) (err error) {
	c, err := p.Start(ctx, l.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if b.outcomes[p.ID] == nil {
		b.outcomes[p.ID] = make(map[string][]outcome)
	}
	for _, col := range b.columns {
		got, err := col.measure(ctx, c, l.timing)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			got = append(got, failed(err))
		}
		for _, o := range got {
			l.say("%s  %-32s %s", prefix, col.title, o)
			s.Neighbour(p.Name, o.others, o.othersAreSeen)
			if o.problem != "" {
				s.Problem("%s, %s: %s", p.Name, col.title, o.problem)
			}
		}
		b.outcomes[p.ID][col.id] = append(b.outcomes[p.ID][col.id], got...)
	}
	return nil
}

func choosePeers(ctx context.Context, l *lab) ([]peers.Peer, error) {
	all, err := peers.Parley(ctx, l.binary)
	if err != nil {
		return nil, err
	}
	all = append(all, peers.NATS()...)
	all = append(all, peers.Etcd())
	rabbit, err := peers.RabbitMQ()
	if err == nil {
		all = append(all, rabbit)
	} else {
		l.say("left out: %v", err)
	}
	return choose("peers", l.peers, all, func(p peers.Peer) string { return p.ID })
}

func chooseColumns(s settings) ([]column, error) {
	all := columns()
	if s.smoke && s.columns == "" {
		all = slices.DeleteFunc(all, func(c column) bool { return !c.smoke })
	}
	return choose("columns", s.columns, all, func(c column) string { return c.id })
}

// bar is a goal of the comparison.
type bar struct {
	figure      string // rate, p50 or p99
	of, to      string // systems; to "": the figure itself
	columns     []string
	least, most float64
}

func bars() []bar {
	one := func(s string) []string { return []string{s} }
	return []bar{
		{"rate", "parley", "nats-always", one("conn16"), 2, 0},
		{"rate", "parley", "nats-default", one("conn16"), 1.5, 0},
		{"rate", "parley-wal", "nats-always", one("conn16"), 3, 0},
		{"rate", "parley-wal", "nats-default", one("conn16"), 2.2, 0},
		{"rate", "parley", "etcd", one("conn16"), 12, 0},
		{"p99", "parley", "nats-always", one("conn16"), 0, 1},
		{"rate", "parley", "nats-always", one("loop256"), 1.8, 0},
		{"rate", "parley", "nats-always", one("loop64"), 1.5, 0},
		{"rate", "parley", "etcd", []string{"loop64", "loop256"}, 3, 0},
		{"p50", "parley", "nats-always", one("one"), 0, 1},
		{"p50", "parley-wal", "nats-always", one("one"), 0, 0.7},
		{"p50", "parley", "nats-always", one("push"), 0, 0.7},
		{"p50", "parley", "", one("follower"), 0, 10},
	}
}

// goal returns what a figure, or a ratio, of a column should be.
func goal(figure, of, to string, ofName, toName string, c column) (report.Goal, bool) {
	for _, b := range bars() {
		if b.figure == figure && b.of == of && b.to == to && slices.Contains(b.columns, c.id) {
			what := c.title + ", " + figure + ": " + ofName
			if toName != "" {
				what += " : " + toName
			}
			return report.Goal{What: what, Least: b.least, Most: b.most}, true
		}
	}
	return report.Goal{}, false
}

// table shows one figure of the columns that it is about.
func (b *beside) table(title, text, figure string, f figureOf, cols []column, unit string) report.Table {
	t := report.Table{Title: title, Text: text, Head: "system"}
	for _, c := range cols {
		t.Columns = append(t.Columns, report.Column{Title: c.title, Unit: unit, Less: figure != "rate"})
	}
	for _, p := range b.systems {
		row := report.Row{Title: p.Name, Ours: p.Ours}
		for _, c := range cols {
			var cell report.Cell
			for _, o := range b.outcomes[p.ID][c.id] {
				cell.Values = append(cell.Values, f(o))
			}
			if g, ok := goal(figure, p.ID, "", p.Name, "", c); ok {
				cell.Goal = &g
			}
			row.Cells = append(row.Cells, cell)
		}
		t.Rows = append(t.Rows, row)
	}
	t.Ratios = b.ratios(figure, cols)
	return t
}

// ratios compares each of ours with each of the others.
func (b *beside) ratios(figure string, cols []column) (ratios []report.Ratio) {
	for i, ours := range b.systems {
		for j, other := range b.systems {
			if !ours.Ours || other.Ours {
				continue
			}
			r := report.Ratio{Title: ours.Name + " : " + other.Name, Of: i, To: j, Goals: make(map[int]report.Goal)}
			for k, c := range cols {
				if g, ok := goal(figure, ours.ID, other.ID, ours.Name, other.Name, c); ok {
					r.Goals[k] = g
				}
			}
			ratios = append(ratios, r)
		}
	}
	return ratios
}

const besideIntro = `Parley beside other systems: three nodes each, one system after the other on
the same machine, under the same loads, put on by the same program through each system's own
client library.

**How to read it.** Messages of %d bytes to 64 mailboxes. *64 closed loop* is 64 connections that
each wait for an acknowledgement before they send again; *16 conn × 256* is 16 connections with up to 256 messages
under way each. In each round
every system gets a fresh cluster and is under each load for %v after %v of warming up; rounds begin with
another system each time. Three servers and the load share the machine.`

// show makes the tables.
func (b *beside) show(l *lab, s *report.Section) {
	s.Intro = fmt.Sprintf(besideIntro, messageBytes, l.timing.duration, l.timing.warmup)
	var rated, times []column
	for _, c := range b.columns {
		if c.rated() {
			rated = append(rated, c)
		} else {
			times = append(times, c)
		}
	}
	if len(rated) > 0 {
		rates := b.table("Rates", "Acknowledged messages per second. More is better.", "rate", rateOf, rated, "/s")
		rates.Chart = &report.Chart{File: "rates", Title: "acknowledged messages per second: median, lowest and highest round (more is better)"}
		half := b.table("Latencies under these loads, p50", "Less is better. With a full window they say how long the queue is, not how fast a message can be.",
			"p50", p50Of, rated, "ms")
		tail := b.table("Latencies under these loads, p99", "", "p99", p99Of, rated, "ms")
		tail.Chart = &report.Chart{File: "latencies", Title: "p99 in ms: median, lowest and highest round (less is better)"}
		s.Tables = append(s.Tables, rates, half, tail)
	}
	if len(times) > 0 {
		t := b.table("Times", fmt.Sprintf(`Less is better. *Push* is the median time from sending a message until a reader that
waits for it has been shown it, one message at a time. *Leader kill -9 → next ack*: under %d closed loops the
process that leads is killed; the time until a message is acknowledged that was begun
after that. One is begun every %v, so that no client's own waiting counts. %d in each round.`, killSenders, probeEvery, l.timing.kills),
			"p50", p50Of, times, "ms")
		t.Chart = &report.Chart{File: "times", Title: "ms: median, lowest and highest (less is better)"}
		s.Tables = append(s.Tables, t)
	}
	s.Notes = b.compared()
	s.Versions = nil
	for _, p := range b.systems {
		s.Versions = append(s.Versions, report.Version{Name: p.Name, Version: p.Version})
	}
}

// compared says what each system promises, and how it was used.
func (b *beside) compared() string {
	var t strings.Builder
	t.WriteString("### What is compared\n\n| system | version | an acknowledged message is | what its numbers leave out |\n|---|---|---|---|\n")
	for _, p := range b.systems {
		fmt.Fprintf(&t, "| %s | %s | %s | %s |\n", p.Name, p.Version, p.Promises, p.Missing)
	}
	t.WriteString("\n| system | settings and use |\n|---|---|\n")
	for _, p := range b.systems {
		fmt.Fprintf(&t, "| %s | %s |\n", p.Name, p.Settings)
	}
	t.WriteString(`
All clients connect in plain text. While Parley is under load without readers, the load also
acknowledges the mail in its mailboxes through a connection of its own; others
keep all of it. JetStream can take several messages of one client as one batch, and etcd several
puts as one transaction; neither is used, since the messages here are independent of each other.`)
	return t.String()
}
