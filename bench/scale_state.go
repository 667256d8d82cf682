package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/parley-chat/parley/bench/internal/peers"
	"github.com/parley-chat/parley/bench/internal/report"
	"github.com/parley-chat/parley/internal/bench"
)

// byUnread fills one mailbox, then many.
func (m *scale) byUnread(ctx context.Context) error {
	var deep, wide grid
	err := m.with(ctx, 3, roomy(), func(c *peers.Cluster) error {
		if err := m.fill(ctx, c, bench.Stock{To: m.spread}); err != nil {
			return err
		}
		if err := m.runs(ctx, c, full(m.spread), &wide, "hardly any"); err != nil {
			return err
		}
		if err := m.fill(ctx, c, bench.Stock{To: m.spread, Made: true, Messages: m.unread / m.spread, Senders: 16}); err != nil {
			return err
		}
		return m.runs(ctx, c, full(m.spread), &wide, count(m.unread))
	})
	t := wide.table("Unread mail in all", fmt.Sprintf("In the mailboxes of %s users.", count(m.spread)), "unread")
	goalOfLast(&t, 0, report.Goal{What: fmt.Sprintf("throughput with %s unread messages : with hardly any", count(m.unread)), Least: 0.8})
	m.s.Tables = append(m.s.Tables, t)
	if err != nil {
		return err
	}
	err = m.with(ctx, 3, roomy(), func(c *peers.Cluster) error { return m.deepen(ctx, c, &deep) })
	d := deep.table("Unread mail in one mailbox",
		"All messages go to that mailbox. Four are sent, then the first ten unread ones are asked for; the rate counts both.", "unread at the beginning")
	d.Chart = &report.Chart{File: "scale-unread", Title: "by unread messages in one mailbox: median, lowest and highest run", X: "unread"}
	m.s.Tables = append(m.s.Tables, d)
	return err
}

// deepen fills one mailbox further and further. The load itself adds to it.
func (m *scale) deepen(ctx context.Context, c *peers.Cluster, rows *grid) error {
	cfg := full(1)
	cfg.Mode = bench.Mixed
	if err := m.fill(ctx, c, bench.Stock{To: 1}); err != nil {
		return err
	}
	for i, depth := range m.depths {
		filled := 0
		if i > 0 {
			filled = m.depths[i-1]
		}
		st := bench.Stock{To: 1, Made: true, Messages: depth - filled, Senders: 16}
		if err := m.fill(ctx, c, st); err != nil {
			return err
		}
		o, err := m.load(ctx, m.s, c, cfg)
		if err != nil {
			return err
		}
		rows.add(count(depth), float64(depth), o)
	}
	return nil
}

// runs puts a load on a cluster once for each round and adds the outcomes to a row.
func (m *scale) runs(ctx context.Context, c *peers.Cluster, cfg bench.Config, rows *grid, title string) error {
	for range m.rounds {
		o, err := m.load(ctx, m.s, c, cfg)
		if err != nil {
			return err
		}
		rows.add(title, 0, o)
	}
	return nil
}

// byState fills a cluster with large texts.
func (m *scale) byState(ctx context.Context) error {
	var rows grid
	var stored int64
	err := m.with(ctx, 3, roomy(), func(c *peers.Cluster) error {
		if err := m.fill(ctx, c, bench.Stock{To: m.spread}); err != nil {
			return err
		}
		if err := m.runs(ctx, c, full(m.spread), &rows, "hardly any"); err != nil {
			return err
		}
		if err := m.fillBytes(ctx, c, m.spread, m.state); err != nil {
			return err
		}
		stored = size(c.Nodes()[0].Data, "state")
		m.say("  a node's state takes %.1f GB, all nodes %.1f GB with their logs", float64(stored)/1e9, float64(m.used(c))/1e9)
		return m.runs(ctx, c, full(m.spread), &rows, gigabytes(m.state))
	})
	t := rows.table("State", fmt.Sprintf("Unread messages of %s in the mailboxes of %s users; the load's own are of %d bytes. The state of a node took %s on its disk.",
		sizeText(largeText), count(m.spread), messageBytes, gigabytes(int(stored))), "unread mail")
	goalOfLast(&t, 0, report.Goal{What: fmt.Sprintf("throughput with %s of mail : with hardly any", gigabytes(m.state)), Least: 0.8})
	m.s.Tables = append(m.s.Tables, t)
	return err
}

// used is the disk space of all nodes, in bytes.
func (m *scale) used(c *peers.Cluster) (sum int64) {
	for _, n := range c.Nodes() {
		sum += size(n.Data, "")
	}
	return sum
}

func gigabytes(n int) string {
	if n < 1e9 {
		return fmt.Sprintf("%.0f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}

// checkpointRate is the messages per second during which checkpoints are looked at:
// enough that they come several times a second, and less than a cluster takes.
const checkpointRate = 5_000

// checkpoints compares the latencies of messages that were under way while a
// checkpoint was written with those of others.
func (m *scale) checkpoints(ctx context.Context) error {
	t := report.Table{
		Title: "While a checkpoint is written", Head: "messages begun",
		Columns: []report.Column{{Title: "p50", Unit: "ms", Less: true}, {Title: "p99", Unit: "ms", Less: true}, {Title: "messages", Count: true}, {Title: "checkpoints", Count: true}},
	}
	rows := []report.Row{{Title: "while none was written"}, {Title: "while one was written"}}
	users := m.users[min(2, len(m.users)-1)]
	err := m.with(ctx, 3, append(roomy(), "--log-level", "debug"), func(c *peers.Cluster) error {
		if err := m.fill(ctx, c, bench.Stock{To: users}); err != nil {
			return err
		}
		seen, err := m.watchCheckpoints(ctx, c, users)
		if err != nil {
			return err
		}
		for i, took := range [][]time.Duration{seen.without, seen.during} {
			slices.Sort(took)
			rows[i].Cells = []report.Cell{report.Of(quantile(took, 0.5)), report.Of(quantile(took, 0.99)), report.Of(float64(len(took))), {Text: "–"}}
		}
		rows[1].Cells[3] = report.Of(float64(seen.checkpoints))
		return nil
	})
	t.Text = fmt.Sprintf(`%s messages of 1 KiB per second, each to another of %s users, whose mail stays unread. A checkpoint is written, as the
servers' logs tell, by any of the three nodes; a snapshot copies nothing, it is the checkpoint.`, count(checkpointRate), count(users))
	t.Rows = rows
	t.Ratios = []report.Ratio{{Title: "while one : while none", Of: 1, To: 0, Goals: map[int]report.Goal{1: {What: "p99 of sending while a checkpoint is written : while none is", Most: 2}}}}
	m.s.Tables = append(m.s.Tables, t)
	return err
}

// quantile of sorted times, in milliseconds; NaN of none.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return missing()
	}
	return milliseconds(sorted[min(len(sorted)-1, int(q*float64(len(sorted))))])
}
