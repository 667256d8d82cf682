package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/bench/internal/cpu"
	"github.com/parley-chat/parley/bench/internal/peers"
	"github.com/parley-chat/parley/bench/internal/report"
	"github.com/parley-chat/parley/internal/bench"
	"github.com/parley-chat/parley/internal/local"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

const idleIntro = `What it costs to be there. A fresh cluster of three nodes for each figure; memory is what the
node's process occupies (RSS), processor time is that of the process.`

// idle measures what does nothing.
type idle struct {
	*lab
	s     *report.Section
	conns int
	rest  time.Duration // before and while something is looked at
	look  time.Duration // at an idle node
}

func measureIdle(ctx context.Context, l *lab, s *report.Section) error {
	m := &idle{lab: l, s: s, conns: 10_000, rest: 8 * time.Second, look: 20 * time.Second}
	if l.smoke {
		m.conns, m.rest, m.look = 500, time.Second, 3*time.Second
	}
	s.Intro = idleIntro
	rows := []idleRow{
		{title: "framed, connected and no more", open: m.openFramed, most: 12},
		{title: "framed, watching a mailbox", open: m.openWatching},
		{title: "classic, connected as a user", open: m.openClassic, most: 16},
	}
	node := []report.Row{{Title: "leader"}, {Title: "follower that takes more"}}
	nodes := [2][2]report.Figures{}
	for round := range l.rounds {
		l.say(" round %d/%d", round+1, l.rounds)
		err := l.step(ctx, s, "idle nodes", 2*time.Minute, func(ctx context.Context) error { return m.nodes(ctx, &nodes) })
		if err != nil {
			return err
		}
		for i := range rows {
			err := l.step(ctx, s, rows[i].title, 3*time.Minute, func(ctx context.Context) error { return m.connections(ctx, &rows[i]) })
			if err != nil {
				return err
			}
		}
	}
	for i := range node {
		node[i].Cells = []report.Cell{
			{Values: nodes[i][0], Goal: &report.Goal{What: "memory of an idle node: " + node[i].Title, Most: 60}},
			{Values: nodes[i][1], Goal: &report.Goal{What: "processor time of an idle node: " + node[i].Title, Most: 2}},
		}
	}
	s.Tables = append(s.Tables, report.Table{
		Title: "An idle node", Head: "node", Text: fmt.Sprintf("Without clients, looked at for %v.", m.look), Rows: node,
		Columns: []report.Column{{Title: "memory", Unit: "MiB", Less: true}, {Title: "processor", Unit: "% of a core", Less: true}},
	}, m.table(rows))
	return nil
}

// idleRow is one kind of connection.
type idleRow struct {
	title string
	open  func(ctx context.Context, n *local.Node, c *peers.Cluster) (closeAll func(), err error)
	most  float64 // KiB for each; 0: no goal

	memory, took report.Figures
}

func (m *idle) table(rows []idleRow) report.Table {
	t := report.Table{
		Title: "Idle connections", Head: "connection",
		Text: fmt.Sprintf("%s connections from this machine to one follower: by how much its process has grown %v after the last one was made, for each of them.",
			count(m.conns), m.rest),
		Columns: []report.Column{{Title: "memory for each", Unit: "KiB", Less: true}, {Title: "all were made in", Unit: "s", Less: true}},
	}
	for _, r := range rows {
		cell := report.Cell{Values: r.memory}
		if r.most > 0 {
			cell.Goal = &report.Goal{What: "memory of an idle connection: " + r.title, Most: r.most}
		}
		t.Rows = append(t.Rows, report.Row{Title: r.title, Cells: []report.Cell{cell, {Values: r.took}}})
	}
	return t
}

// nodes looks at a cluster without clients.
func (m *idle) nodes(ctx context.Context, into *[2][2]report.Figures) (err error) {
	c, err := m.cluster(ctx, 3)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	leader, err := c.Leader(ctx)
	if err != nil {
		return err
	}
	if err := sleep(ctx, m.rest); err != nil {
		return err
	}
	used := make([]time.Duration, 3)
	for i, n := range c.Nodes() {
		if used[i], err = cpu.Used(n.PID()); err != nil {
			return err
		}
	}
	meter := cpu.Start(c.PIDs()...)
	begun := time.Now()
	if err := sleep(ctx, m.look); err != nil {
		return err
	}
	others, known := meter.Others()
	m.s.Neighbour("Parley", others, known)
	var most [2][2]float64
	for i, n := range c.Nodes() {
		memory, err := cpu.Resident(n.PID())
		if err != nil {
			return err
		}
		now, err := cpu.Used(n.PID())
		if err != nil {
			return err
		}
		row := 1
		if n == leader {
			row = 0
		}
		most[row][0] = max(most[row][0], float64(memory)/mib)
		most[row][1] = max(most[row][1], 100*(now-used[i]).Seconds()/time.Since(begun).Seconds())
	}
	for i := range most {
		for j := range most[i] {
			into[i][j] = append(into[i][j], most[i][j])
		}
	}
	m.say("  leader %.1f MiB, %.2f %%; follower %.1f MiB, %.2f %%", most[0][0], most[0][1], most[1][0], most[1][1])
	return nil
}

// connections opens connections to a follower and sees how it grows.
func (m *idle) connections(ctx context.Context, row *idleRow) (err error) {
	c, err := m.cluster(ctx, 3)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := m.fill(ctx, c, bench.Stock{To: m.conns}); err != nil { // the users, for all kinds alike
		return err
	}
	leader, err := c.Leader(ctx)
	if err != nil {
		return err
	}
	n := c.Nodes()[0]
	if n == leader {
		n = c.Nodes()[1]
	}
	if err := sleep(ctx, m.rest); err != nil {
		return err
	}
	before, err := cpu.Resident(n.PID())
	if err != nil {
		return err
	}
	begun := time.Now()
	closeAll, err := row.open(ctx, n, c)
	defer closeAll()
	if err != nil {
		return err
	}
	took := time.Since(begun)
	if err := sleep(ctx, m.rest); err != nil {
		return err
	}
	after, err := cpu.Resident(n.PID())
	if err != nil {
		return err
	}
	each := float64(after-before) / float64(m.conns) / kib
	row.memory, row.took = append(row.memory, each), append(row.took, took.Seconds())
	m.say("  %d MiB, before %d MiB: %.1f KiB for each", after/mib, before/mib, each)
	return nil
}

// opened is connections to be closed together.
type opened struct {
	mu  sync.Mutex
	all []io.Closer
}

func (o *opened) add(c io.Closer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, c)
}

func (o *opened) closeAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.all {
		_ = c.Close()
	}
}

// each calls f for all connections, 64 at a time, until one fails.
func (m *idle) each(ctx context.Context, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 64)
	for i := 0; i < m.conns && ctx.Err() == nil; i++ {
		slots <- struct{}{}
		wg.Go(func() {
			if err := f(ctx, i); err != nil {
				cancel(fmt.Errorf("connection %d: %w", i+1, err))
			}
			<-slots
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// connect makes a framed client that is connected to a node.
func connect(ctx context.Context, c *peers.Cluster, n *local.Node) (bench.Client, error) {
	connected := make(chan struct{})
	var once sync.Once
	cl, err := c.DialNode(n, func(yes bool) {
		if yes {
			once.Do(func() { close(connected) })
		}
	})
	if err != nil {
		return nil, err
	}
	select {
	case <-connected:
		return cl, nil
	case <-ctx.Done():
		_ = cl.Close()
		return nil, errors.Join(context.Cause(ctx), cl.Trouble())
	}
}

func (m *idle) openFramed(ctx context.Context, n *local.Node, c *peers.Cluster) (func(), error) {
	var all opened
	err := m.each(ctx, func(ctx context.Context, _ int) error {
		cl, err := connect(ctx, c, n)
		if err == nil {
			all.add(cl)
		}
		return err
	})
	return all.closeAll, err
}

// openWatching has each connection watch a mailbox, and waits until it has been
// shown a message.
func (m *idle) openWatching(ctx context.Context, n *local.Node, c *peers.Cluster) (func(), error) {
	var all opened
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var watches sync.WaitGroup
	closeAll := func() {
		cancel()
		watches.Wait()
		all.closeAll()
	}
	err := m.each(ctx, func(ctx context.Context, i int) error {
		cl, err := connect(ctx, c, n)
		if err != nil {
			return err
		}
		all.add(cl)
		user := fmt.Sprintf("%s-%07d", prefix, i)
		shown := make(chan error, 1)
		watches.Go(func() {
			for _, err := range cl.Watch(watching, user, parley.Cursor{}) {
				select {
				case shown <- err:
				default:
				}
			}
		})
		if _, err := parley.NewSession(cl).Do(ctx, parley.Send{From: "bench", To: user, Body: "hello"}); err != nil {
			return err
		}
		select {
		case err := <-shown:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	return closeAll, err
}

// classicFrame is the size of a frame of the classic protocol that a node sends.
const classicFrame = 1024

func (m *idle) openClassic(ctx context.Context, n *local.Node, _ *peers.Cluster) (func(), error) {
	var all opened
	err := m.each(ctx, func(ctx context.Context, i int) error {
		nc, err := new(net.Dialer).DialContext(ctx, "tcp", n.Client)
		if err != nil {
			return err
		}
		all.add(nc)
		_ = nc.SetDeadline(time.Now().Add(30 * time.Second)) // fails for closed connections only
		command := "connect" + strings.Repeat("\x00", 15-len("connect")) + fmt.Sprintf("%s-%07d", prefix, i)
		if _, err := io.WriteString(nc, command); err != nil {
			return err
		}
		frame := make([]byte, classicFrame)
		if _, err := io.ReadFull(nc, frame); err != nil {
			return err
		}
		if answer := strings.TrimRight(string(frame), "\x00"); answer != "ok" {
			return errors.New("connect was answered " + strconv.Quote(answer))
		}
		return nc.SetDeadline(time.Time{})
	})
	return all.closeAll, err
}
