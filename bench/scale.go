package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/parley-chat/parley/bench/internal/cpu"
	"github.com/parley-chat/parley/bench/internal/peers"
	"github.com/parley-chat/parley/bench/internal/report"
	"github.com/parley-chat/parley/internal/bench"
)

// amounts say how far the sections go.
type amounts struct {
	users      []int
	depths     []int // of one mailbox
	unread     int   // messages in all mailboxes
	spread     int   // mailboxes that they are in
	state      int   // bytes of mail
	sizes      []int // of messages
	checkpoint time.Duration
}

func amountsOf(smoke bool) amounts {
	if smoke {
		return amounts{
			users: []int{1_000, 5_000}, depths: []int{1_000, 5_000}, unread: 20_000, spread: 1_000,
			state: 20_000_000, sizes: []int{100, 16 << 10}, checkpoint: 10 * time.Second,
		}
	}
	return amounts{
		users: []int{1_000, 10_000, 100_000, 1_000_000}, depths: []int{1_000, 100_000, 1_000_000}, unread: 10_000_000, spread: 1_000,
		state: 5_000_000_000, sizes: []int{10, 100, 1 << 10, 16 << 10, 64 << 10}, checkpoint: 30 * time.Second,
	}
}

// scale measures what grows.
type scale struct {
	*lab
	amounts
	s *report.Section
}

const scaleIntro = `The load is 16 connections with up to 256 messages of %d bytes under way each, to users that are
there already, whose mail stays unread, unless something else is said. Three servers and the load
share the machine. A state is made through the framed protocol like any other, and measured
once the servers have nothing left to do; figures that are compared are of one cluster where that is possible.`

// roomy are limits beyond those of a default cluster, which protect it from what is
// done here on purpose.
func roomy() []string {
	return []string{"--max-users", "2000000", "--max-mailbox-messages", "100000000", "--max-mailbox-bytes", "64GiB"}
}

// measureScale measures what one of scale's methods does.
func measureScale(f func(*scale, context.Context) error) func(context.Context, *lab, *report.Section) error {
	return func(ctx context.Context, l *lab, s *report.Section) error {
		m := &scale{lab: l, amounts: amountsOf(l.smoke), s: s}
		s.Intro = fmt.Sprintf(scaleIntro, messageBytes)
		return l.step(ctx, s, s.ID, time.Hour, func(ctx context.Context) error { return f(m, ctx) })
	}
}

// with runs f on a fresh cluster.
func (m *scale) with(ctx context.Context, nodes int, args []string, f func(c *peers.Cluster) error) (err error) {
	c, err := m.cluster(ctx, nodes, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return f(c)
}

// byUsers has a fresh cluster in each round, to which users are added.
func (m *scale) byUsers(ctx context.Context) error {
	var rows grid
	pages := &pageTable{}
	memory := make([]report.Figures, len(m.users))
	err := m.eachRound(ctx, func() error {
		return m.with(ctx, 3, roomy(), func(c *peers.Cluster) error {
			for i, n := range m.users {
				st := bench.Stock{To: n}
				if i > 0 {
					st.From = m.users[i-1]
				}
				if err := m.fill(ctx, c, st); err != nil {
					return err
				}
				o, err := m.load(ctx, m.s, c, full(n))
				if err != nil {
					return err
				}
				rows.add(count(n), float64(n), o)
				used, err := leaderMemory(ctx, c)
				if err != nil {
					return err
				}
				memory[i] = append(memory[i], used)
			}
			return m.pages(ctx, c, pages)
		})
	})
	t := rows.table("Users", "Each connection goes from user to user, through all of them if it gets so far.", "users")
	t.Columns = append(t.Columns, report.Column{Title: "leader's memory", Unit: "MiB", Less: true})
	for i := range t.Rows {
		t.Rows[i].Cells = append(t.Rows[i].Cells, report.Cell{Values: memory[i]})
	}
	t.Chart = &report.Chart{File: "scale-users", Title: "by number of users: median, lowest and highest round", X: "users"}
	last := m.users[len(m.users)-1]
	goalOfLast(&t, 0, report.Goal{What: fmt.Sprintf("throughput with %s users : with %s", count(last), count(m.users[0])), Least: 0.8})
	m.s.Tables = append(m.s.Tables, t, pages.table(last))
	return err
}

// usersMemory is the column of the table of users that tells of memory.
const usersMemory = 3

// leaderMemory is what the leader's process occupies, in MiB.
func leaderMemory(ctx context.Context, c *peers.Cluster) (float64, error) {
	leader, err := c.Leader(ctx)
	if err != nil {
		return 0, err
	}
	n, err := cpu.Resident(leader.PID())
	return float64(n) / mib, err
}

// eachRound calls f once for each round.
func (m *scale) eachRound(ctx context.Context, f func() error) error {
	for round := range m.rounds {
		m.say(" round %d/%d", round+1, m.rounds)
		if err := f(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// pageTable is what pages of the list of users take.
type pageTable struct {
	patterns []pattern
	p50, p99 []report.Figures
}

type pattern struct {
	expression, what string
	bar              bool
}

// patterns name users by numbers of which there are enough in the short form, too.
func patterns() []pattern {
	return []pattern{
		{"", "all, a page after the other", true},
		{"^" + prefix + "-00004", "a literal prefix, 100 names", true},
		{"^" + prefix + "-000042[0-4]$", "a literal prefix, 5 names", true},
		{"[02468]$", "no literal prefix, every second name", false},
		{"0042$", "no literal prefix, one name in ten thousand", false},
	}
}

func (m *scale) pages(ctx context.Context, c *peers.Cluster, t *pageTable) error {
	if t.patterns == nil {
		t.patterns = patterns()
		t.p50, t.p99 = make([]report.Figures, len(t.patterns)), make([]report.Figures, len(t.patterns))
	}
	for i, p := range t.patterns {
		o, err := m.load(ctx, m.s, c, bench.Config{Mode: bench.List, Senders: 1, Window: 1, Existing: prefix, Users: 1, Pattern: p.expression, Duration: 1500 * time.Millisecond})
		if err != nil {
			return err
		}
		t.p50[i], t.p99[i] = append(t.p50[i], o.p50), append(t.p99[i], o.p99)
	}
	return nil
}

func (t *pageTable) table(users int) report.Table {
	out := report.Table{
		Title: "A page of the list of users", Head: "pattern",
		Text:    fmt.Sprintf("One client asks for one page after the other, from %s users: as many names as the cluster gives at a time, about 64 KiB.", count(users)),
		Columns: []report.Column{{Title: "p50", Unit: "ms", Less: true}, {Title: "p99", Unit: "ms", Less: true}},
	}
	for i, p := range t.patterns {
		title := p.what
		if p.expression != "" {
			title = "`" + p.expression + "`: " + p.what
		}
		half := report.Cell{Values: t.p50[i]}
		if p.bar {
			half.Goal = &report.Goal{What: fmt.Sprintf("a page of the list from %s users, p50: %s", count(users), p.what), Most: 5}
		}
		out.Rows = append(out.Rows, report.Row{Title: title, Cells: []report.Cell{half, {Values: t.p99[i]}}})
	}
	return out
}

// bySize measures messages of different sizes on one cluster.
func (m *scale) bySize(ctx context.Context) error {
	var rows grid
	bytesPerSecond := make(map[string]report.Figures)
	err := m.with(ctx, 3, roomy(), func(c *peers.Cluster) error {
		return m.eachRound(ctx, func() error {
			for _, n := range m.sizes {
				// At most 8 MiB under way: more than a cluster lets wait would be refused.
				window := min(256, max(1, 8<<20/16/n))
				o, err := m.load(ctx, m.s, c, bench.Config{Mode: bench.Send, Senders: 16, Window: window, Size: n, Users: 64, Duration: 3 * time.Second})
				if err != nil {
					return err
				}
				title := sizeText(n)
				rows.add(title, float64(n), o)
				bytesPerSecond[title] = append(bytesPerSecond[title], o.rate*float64(n)/1e6)
			}
			return nil
		})
	})
	t := rows.table("Size of messages", "To 64 mailboxes whose mail is acknowledged as it comes. Of larger messages fewer are under way: 8 MiB in all.", "bytes")
	t.Ratios = nil
	t.Columns = append(t.Columns, report.Column{Title: "texts", Unit: "MB/s"})
	for i, r := range t.Rows {
		t.Rows[i].Cells = append(r.Cells, report.Cell{Values: bytesPerSecond[r.Title]})
	}
	t.Chart = &report.Chart{File: "scale-size", Title: "by size of messages: median, lowest and highest round", X: "bytes of a message"}
	m.s.Tables = append(m.s.Tables, t)
	return err
}

// byNodes puts clusters of three and of five nodes under the same loads in turns.
func (m *scale) byNodes(ctx context.Context) error {
	loads := []struct {
		title           string
		senders, window int
	}{{"1 client", 1, 1}, {"64 closed loop", 64, 1}, {"16 conn × 256", 16, 256}}
	rows := make(map[string]*grid)
	err := m.eachRound(ctx, func() error {
		for _, nodes := range []int{3, 5} {
			err := m.with(ctx, nodes, nil, func(c *peers.Cluster) error {
				for _, load := range loads {
					o, err := m.load(ctx, m.s, c, bench.Config{Mode: bench.Send, Senders: load.senders, Window: load.window, Size: messageBytes, Users: 64, Duration: 3 * time.Second})
					if err != nil {
						return err
					}
					if rows[load.title] == nil {
						rows[load.title] = new(grid)
					}
					rows[load.title].add(strconv.Itoa(nodes)+" nodes", 0, o)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	for _, load := range loads {
		if g := rows[load.title]; g != nil {
			t := g.table("Five nodes beside three: "+load.title, "", "cluster")
			m.s.Tables = append(m.s.Tables, t)
		}
	}
	return err
}

// count shows how many there are of something.
func count(n int) string { return report.Number(float64(n)) }

// sizeText shows a size.
func sizeText(n int) string {
	switch {
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	case n >= 10_000 && n%1_000 == 0:
		return fmt.Sprintf("%d kB", n/1_000)
	default:
		return fmt.Sprintf("%d B", n)
	}
}
