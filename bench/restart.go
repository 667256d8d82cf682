package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/bench/internal/peers"
	"github.com/parley-chat/parley/bench/internal/report"
	"github.com/parley-chat/parley/internal/bench"
	"github.com/parley-chat/parley/internal/local"
)

const restartIntro = `How long it takes until nodes serve again that have been away. The state is unread mail
in %s mailboxes, in messages of %s, made through the framed protocol.`

const (
	restartState = 1_000_000_000 // bytes
	restartUsers = 1_000
	awayRate     = 10_000 // messages per second while a follower is away
	caughtUp     = 1_000  // entries behind the leader, under load, that count as none
)

// restart measures how nodes come back.
type restart struct {
	*lab
	s     *report.Section
	state int
}

func newRestart(l *lab, s *report.Section) *restart {
	m := &restart{lab: l, s: s, state: restartState}
	if l.smoke {
		m.state = 20_000_000
	}
	s.Intro = fmt.Sprintf(restartIntro, count(restartUsers), sizeText(largeText))
	return m
}

func measureRestart(ctx context.Context, l *lab, s *report.Section) error {
	return l.step(ctx, s, "restart", time.Hour, newRestart(l, s).starts)
}

func measureAway(ctx context.Context, l *lab, s *report.Section) error {
	s.Rounds = 0
	return l.step(ctx, s, "catching up", time.Hour, newRestart(l, s).catchUp)
}

// filled starts a cluster with the state.
func (m *restart) filled(ctx context.Context) (*peers.Cluster, error) {
	c, err := m.cluster(ctx, 3, roomy()...)
	if err != nil {
		return nil, err
	}
	err = m.fill(ctx, c, bench.Stock{To: restartUsers})
	if err == nil {
		err = m.fillBytes(ctx, c, restartUsers, m.state)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// starts kills and stops a cluster with much state, and starts it again.
func (m *restart) starts(ctx context.Context) (err error) {
	c, err := m.filled(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	stored := size(c.Nodes()[0].Data, "state")
	rows := []struct {
		title  string
		end    func() error
		values report.Figures
	}{
		{title: "one node, after `kill -9`, until it says that it is ready", end: func() error { c.Nodes()[0].Kill(); return nil }},
		{title: "all nodes, after `kill -9`, until a message is acknowledged", end: func() error { c.Kill(); return nil }},
		{title: "all nodes, after an orderly end, until a message is acknowledged", end: func() error { return c.Stop(ctx) }},
	}
	for range m.rounds {
		for i := range rows {
			if err := rows[i].end(); err != nil {
				return err
			}
			took, err := m.start(ctx, c, i > 0)
			if err != nil {
				return fmt.Errorf("%s: %w", rows[i].title, err)
			}
			rows[i].values = append(rows[i].values, took.Seconds())
			m.say("  %s: %.2f s", rows[i].title, took.Seconds())
		}
	}
	t := report.Table{
		Title: "Start with " + gigabytes(m.state) + " of mail", Head: "what starts",
		Text:    fmt.Sprintf("From the start of the process. All of the state, %s on each disk, is verified before a node serves.", gigabytes(int(stored))),
		Columns: []report.Column{{Title: "time", Unit: "s", Less: true}},
	}
	for _, r := range rows {
		t.Rows = append(t.Rows, report.Row{Title: r.title, Cells: []report.Cell{
			{Values: r.values, Goal: &report.Goal{What: "start with " + gigabytes(m.state) + " of mail: " + r.title, Most: 10}},
		}})
	}
	m.s.Tables = append(m.s.Tables, t)
	return nil
}

// start starts the nodes that do not run and waits until they are ready, or until a
// message is acknowledged.
func (m *restart) start(ctx context.Context, c *peers.Cluster, untilSent bool) (time.Duration, error) {
	begun := time.Now()
	if err := c.Cluster.Start(); err != nil {
		return 0, err
	}
	if untilSent {
		if err := sendOne(ctx, c); err != nil {
			return 0, err
		}
	} else if err := c.WaitReady(ctx); err != nil {
		return 0, err
	}
	took := time.Since(begun)
	return took, c.WaitHealthy(ctx)
}

// sendOne sends a message through whichever nodes answer, as soon as they do.
func sendOne(ctx context.Context, c *peers.Cluster) error {
	cl, err := c.DialAny()
	if err != nil {
		return err
	}
	defer func() { _ = cl.Close() }()
	res, err := parley.NewSession(cl).Do(ctx, parley.Send{From: "bench", To: prefix + "-0000000", Body: "back?"})
	if err != nil {
		return err
	}
	return res.Err()
}

// catchUp takes a follower away while the others work, and back.
func (m *restart) catchUp(ctx context.Context) (err error) {
	c, err := m.filled(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	leader, err := c.Leader(ctx)
	if err != nil {
		return err
	}
	follower := c.Nodes()[0]
	if follower == leader {
		follower = c.Nodes()[1]
	}
	load, err := m.background(ctx, c)
	if err != nil {
		return err
	}
	defer load.stop()
	if err := sleep(ctx, min(10*time.Second, m.away)); err != nil { // all together, to compare with
		return err
	}
	killed := time.Now()
	follower.Kill()
	if err := sleep(ctx, m.away); err != nil {
		return err
	}
	behind, err := lag(ctx, c, follower)
	if err != nil {
		return err
	}
	started := time.Now()
	if err := follower.Start(); err != nil {
		return err
	}
	if err := waitCaughtUp(ctx, c, follower); err != nil {
		return err
	}
	done := time.Now()
	load.stop()
	m.say("  %v behind by %d entries, caught up after %v", m.away, behind, done.Sub(started).Round(time.Millisecond))
	m.s.Tables = append(m.s.Tables, m.catchUpTable(load, killed, started, done, behind))
	return load.err
}

func (m *restart) catchUpTable(load *background, killed, started, done time.Time, behind uint64) report.Table {
	t := report.Table{
		Title: fmt.Sprintf("A follower that was away for %v", m.away), Head: "messages begun",
		Text: fmt.Sprintf(`While %s messages of %d bytes per second go on. After its start it was within %s entries of the leader in **%.1f s**;
it had missed %s entries.`, count(awayRate), messageBytes, count(caughtUp), done.Sub(started).Seconds(), count(int(behind))),
		Columns: []report.Column{{Title: "p50", Unit: "ms", Less: true}, {Title: "p99", Unit: "ms", Less: true}, {Title: "time", Unit: "s", Count: true}},
	}
	var first time.Time
	for i, part := range []struct {
		title    string
		from, to time.Time
	}{
		{"before it went", first, killed}, {"while it was away", killed, started}, {"while it caught up", started, done},
	} {
		took := load.within(part.from, part.to)
		length := part.to.Sub(part.from)
		if i == 0 {
			length = part.to.Sub(load.begun)
		}
		t.Rows = append(t.Rows, report.Row{Title: part.title, Cells: []report.Cell{
			report.Of(quantile(took, 0.5)), report.Of(quantile(took, 0.99)), report.Of(length.Seconds()),
		}})
	}
	t.Ratios = []report.Ratio{{Title: "while it caught up : before it went", Of: 2, To: 0}}
	return t
}

// background is a load that goes on until it is stopped.
type background struct {
	begun  time.Time
	cancel context.CancelFunc
	done   chan struct{}
	once   sync.Once
	err    error // valid after stop

	mu      sync.Mutex
	samples []sample
}

// background begins a load on the cluster, whose mail is acknowledged as it comes.
func (m *restart) background(ctx context.Context, c *peers.Cluster) (*background, error) {
	dial, err := c.DialAll(ctx, 256)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	b := &background{begun: time.Now(), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(b.done)
		_, err := bench.Run(ctx, bench.Config{
			Dial: dial, Senders: 16, Window: 256, Size: messageBytes, Users: 64, Rate: awayRate, Duration: 24 * time.Hour, Patience: 10 * time.Second,
			Observe: func(begun time.Time, took time.Duration) {
				b.mu.Lock()
				b.samples = append(b.samples, sample{begun, took})
				b.mu.Unlock()
			},
		})
		if err != nil && ctx.Err() == nil {
			b.err = err
		}
	}()
	return b, nil
}

func (b *background) stop() {
	b.once.Do(func() {
		b.cancel()
		<-b.done
	})
}

// within is what the messages begun in a time took, sorted.
func (b *background) within(from, to time.Time) (took []time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.samples {
		if !s.begun.Before(from) && s.begun.Before(to) {
			took = append(took, s.took)
		}
	}
	slices.Sort(took)
	return took
}

// lag is by how many entries a node is behind the furthest one; one that cannot be
// asked is behind by all.
func lag(ctx context.Context, c *peers.Cluster, n *local.Node) (uint64, error) {
	members, err := c.Members(ctx)
	if err != nil {
		return 0, err
	}
	var most, its uint64
	for _, m := range members {
		most = max(most, m.Applied)
		if m.ID == n.Name {
			its = m.Applied
		}
	}
	return most - its, nil
}

// waitCaughtUp waits until a node is ready and hardly behind.
func waitCaughtUp(ctx context.Context, c *peers.Cluster, n *local.Node) error {
	if err := n.WaitReady(ctx); err != nil {
		return err
	}
	for {
		if behind, err := lag(ctx, c, n); err == nil && behind <= caughtUp {
			return nil
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}
