package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/fsm"
)

// lead keeps in order what only a leader can, for as long as this node is one;
// otherwise it makes itself known to the leader.
func (n *Node) lead(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var learned []parley.Member
	var d *duties
	for {
		l := n.leader.Load()
		learned = n.learn(learned)
		switch {
		case !l.Self:
			d = nil
			n.announce(ctx, l)
		case d == nil:
			d = &duties{n: n, active: time.Now(), caughtUp: make(map[raft.ServerID]int)}
			fallthrough
		default:
			d.do(ctx)
		}
		select {
		case <-ticker.C:
		case <-l.changed:
		case <-ctx.Done():
			return
		}
	}
}

// duties is what a leader remembers between two looks.
type duties struct {
	n *Node

	applied    uint64    // when it was last looked at
	active     time.Time // when something other than an expiry was last applied
	nextExpiry time.Time
	past       []moment // the first is the newest that is SessionIdle ago, if there is one
	nextPoll   time.Time
	goal       uint64 // committed at the last poll
	caughtUp   map[raft.ServerID]int
	lagging    map[string]lag
}

// moment is a time by this node's own clock, which does not jump, and what the state's
// time was then.
type moment struct{ at, state time.Time }

// lag is how far a member was behind when it was last polled.
type lag struct {
	entries uint64
	times   int // that it was not less than the time before
}

const (
	pollEvery     = time.Second
	stableFor     = 3    // polls for which a learner must have kept up
	lagAlarm      = 4096 // entries
	lagAlarmAfter = 10   // polls without catching up
)

func (d *duties) do(ctx context.Context) {
	n := d.n
	ctx, cancel := context.WithTimeout(ctx, n.roundTimeout())
	defer cancel()
	err := n.mark(ctx)
	if err == nil {
		err = n.setMember(ctx, n.row())
	}
	if err == nil && n.fsm.Limits() != n.cfg.Limits {
		err = n.proposer.admin(ctx, func(b *fsm.Batch) { b.AddSetLimits(n.cfg.Limits) })
	}
	if err == nil {
		err = d.forget(ctx)
	}
	if err == nil {
		err = d.expire(ctx)
	}
	if err == nil && time.Now().After(d.nextPoll) {
		d.nextPoll = time.Now().Add(pollEvery)
		d.poll(ctx)
	}
	if err != nil && ctx.Err() == nil && n.leader.Load().Self {
		n.log.Warn("a leader's duty failed, will try again", "err", err)
	}
}

// mark makes an entry of this term, so that the first read need not wait for one.
func (n *Node) mark(ctx context.Context) error {
	if n.proposer.marked.Load() == n.raft.CurrentTerm() {
		return nil
	}
	return n.proposer.admin(ctx, func(*fsm.Batch) {})
}

// setMember puts a member into the table, if the table says something else.
func (n *Node) setMember(ctx context.Context, m parley.Member) error {
	m = parley.Member{ID: m.ID, Server: m.Server, Client: m.Client, Peer: m.Peer}
	if slices.Contains(n.fsm.Members(), m) {
		return nil
	}
	return n.proposer.admin(ctx, func(b *fsm.Batch) { b.AddSetMember(m) })
}

// forget removes those from the table that are no longer in the cluster.
func (d *duties) forget(ctx context.Context) error {
	servers := d.n.servers()
	for _, m := range d.n.fsm.Members() {
		if slices.ContainsFunc(servers, func(s raft.Server) bool { return string(s.Address) == m.ID }) {
			continue
		}
		if err := d.n.proposer.admin(ctx, func(b *fsm.Batch) { b.AddRemoveMember(m.ID) }); err != nil {
			return err
		}
	}
	return nil
}

// expire lets sessions end that nobody has used for long. How long is measured here,
// while this node leads: the state's time is that of leaders' wall clocks, and jumps
// with them. So a session lives longer when the leader changes, and never shorter.
// When nothing has happened for longer than that, there are none left, and an idle
// cluster writes nothing.
func (d *duties) expire(ctx context.Context) error {
	now, idle := time.Now(), d.n.cfg.SessionIdle
	if applied := d.n.fsm.Applied(); applied != d.applied {
		d.applied, d.active = applied, now
	}
	if now.Before(d.nextExpiry) || now.Sub(d.active) > 2*idle {
		return nil
	}
	d.nextExpiry = now.Add(idle / 8)
	for len(d.past) > 1 && now.Sub(d.past[1].at) >= idle {
		d.past = d.past[1:]
	}
	d.past = append(d.past, moment{now, d.n.fsm.Now()})
	last := d.past[0]
	if now.Sub(last.at) < idle {
		return nil // has not led for long enough to know
	}
	p := d.n.proposer
	if err := p.admin(ctx, func(b *fsm.Batch) { b.AddExpireSessions(p.stamp.Sub(last.state)) }); err != nil {
		return err
	}
	d.applied = d.n.fsm.Applied() // this one does not count
	return nil
}

// poll asks the members how far they are: learners that keep up become voters,
// and a member that lags and does not catch up is an alarm (hashicorp/raft #612).
func (d *duties) poll(ctx context.Context) {
	n := d.n
	servers := n.servers()
	var names []string
	for _, s := range servers {
		names = append(names, string(s.Address))
	}
	said := n.identifyAll(ctx, names)
	for _, s := range servers {
		id, ok := said[string(s.Address)]
		if s.ID == n.server {
			continue
		}
		if !ok || id.Server != string(s.ID) {
			delete(d.caughtUp, s.ID)
			continue
		}
		d.watchLag(id)
		if s.Suffrage == raft.Voter || id.Applied < d.goal || d.goal == 0 {
			delete(d.caughtUp, s.ID)
			continue
		}
		if d.caughtUp[s.ID]++; d.caughtUp[s.ID] >= stableFor {
			n.log.Info("a learner has caught up and becomes a voter", "member", id.ID, "server", s.ID)
			if err := n.raft.AddVoter(s.ID, s.Address, 0, n.roundTimeout()).Error(); err != nil {
				n.log.Warn("making a learner a voter failed, will try again", "member", id.ID, "err", err)
			}
		}
	}
	d.goal = n.raft.CommitIndex() // which the state machine gets to see, see leaderRead
}

func (d *duties) watchLag(id identity) {
	behind := d.n.raft.LastIndex() - min(id.Last, d.n.raft.LastIndex())
	d.n.meters.lag(id.ID, behind)
	if d.lagging == nil {
		d.lagging = make(map[string]lag)
	}
	l := d.lagging[id.ID]
	if behind < lagAlarm || behind < l.entries {
		d.lagging[id.ID] = lag{entries: behind}
		return
	}
	l = lag{behind, l.times + 1}
	d.lagging[id.ID] = l
	if l.times%lagAlarmAfter == 0 {
		d.n.log.Error("ALARM: a reachable member does not catch up (hashicorp/raft #612); restart it", "member", id.ID, "entries", behind)
	}
}

// alarms counts the snapshots that are sent to each server.
type alarms struct {
	mu       sync.Mutex
	installs map[raft.ServerID][]time.Time
}

const (
	installsAlarm  = 3
	installsWithin = 10 * time.Minute
)

// onInstall is called when a snapshot is sent. Again and again to the same
// server, it never gets anywhere (hashicorp/raft #697).
func (n *Node) onInstall(id raft.ServerID) {
	a := &n.dutyAlarms
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.installs == nil {
		a.installs = make(map[raft.ServerID][]time.Time)
	}
	now := time.Now()
	recent := slices.DeleteFunc(a.installs[id], func(t time.Time) bool { return now.Sub(t) > installsWithin })
	recent = append(recent, now)
	a.installs[id] = recent
	n.meters.install()
	if len(recent) >= installsAlarm {
		n.log.Error("ALARM: a member needs one snapshot after the other (hashicorp/raft #697); is its disk or network too slow, or TrailingLogs too small?", "server", id, "snapshots", len(recent), "within", installsWithin)
	}
}
