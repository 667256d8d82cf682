package client

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/pause"
)

const (
	deadTime   = 5 * time.Second  // after which a server that does not even answer a ping is not there any more
	drainTime  = time.Second      // how long a replaced connection may finish what is under way
	learnFirst = time.Second / 5  // when to ask for the members' addresses: at random up to this…
	learnLater = 5 * time.Second  // …or, with some known, up to this
	learnEvery = 30 * time.Second // not more often than this
	helperTime = 5 * time.Second  // how often a client on a follower looks for a way to the leader
	tellings   = 8                // most searches for the leader that a server has named
)

// manager is the state of the goroutine that owns the connection.
type manager struct {
	c     *Client
	link  *link     // as Client.link, which it sets; nil: none
	quest *search   // a search under way, nil: none
	old   []drained // replaced connections

	closing sync.WaitGroup // those that are being closed

	calls []*call // reused by pump
	flaps int     // connections in a row that were over soon, without an answer

	learnAt time.Time          // when to ask for the members; zero: not
	learnt  time.Time          // when they were learnt last
	lesson  chan bool          // nil, or gets whether they were learnt
	unlearn context.CancelFunc // ends that
}

// drained is a connection that has been replaced but may still bring outcomes.
type drained struct {
	link  *link
	until time.Time
}

// manage runs until ctx ends, and leaves nothing behind.
func (c *Client) manage(ctx context.Context) {
	defer close(c.stopped)
	m := &manager{c: c, quest: c.begin(ctx, nil, 0, 0), unlearn: func() {}}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		now := time.Now()
		wake := earliest(m.pump(), m.reap(now), m.doubt(ctx, now), m.learn(ctx, now))
		if !wake.IsZero() {
			timer.Reset(time.Until(wake))
		} else {
			timer.Stop()
		}
		m.wait(ctx, timer)
	}
	m.stop()
}

// wait returns when there may be something to do.
func (m *manager) wait(ctx context.Context, timer *time.Timer) {
	var lost <-chan struct{}
	if m.link != nil {
		lost = m.link.conn.Done()
	}
	var found <-chan *link
	if m.quest != nil {
		found = m.quest.found
	}
	select {
	case <-ctx.Done():
	case <-m.c.kicked:
	case <-timer.C:
	case <-lost:
		m.lost(ctx)
	case l := <-found:
		m.quest = nil
		if l != nil {
			m.adopt(l)
		}
	case ok := <-m.lesson:
		m.unlearn()
		m.lesson = nil
		if ok {
			m.learnt = time.Now()
		} else {
			m.learnAt = time.Now().Add(pause.Jitter(learnLater))
		}
	}
}

// pump sends what may be sent and says when there will be more.
func (m *manager) pump() time.Time {
	l := m.link
	if l == nil {
		return time.Time{}
	}
	for {
		if l.ended() {
			return time.Time{} // what is not sent can go over the next one
		}
		m.c.mu.Lock()
		calls, wake := m.c.queue.take(time.Now(), l, m.calls[:0])
		m.c.mu.Unlock()
		for _, k := range calls {
			l.do(k.req, func(r parley.Result, err error) { m.c.outcome(k, l, r, err) })
		}
		clear(calls)
		m.calls = calls
		if len(calls) == 0 {
			return wake
		}
	}
}

// outcome takes the outcome of one try of k.
func (c *Client) outcome(k *call, l *link, r parley.Result, err error) {
	now := time.Now()
	c.mu.Lock()
	l.judge(now, err)
	final, r, err := c.queue.outcome(now, k, l, r, err)
	again := !c.queue.idle() || l.refused || l.pending == 0 && l != c.link
	c.mu.Unlock()
	if final {
		c.finish(k, r, err)
	}
	if again {
		c.kick()
	}
}

// adopt makes l the connection. What is under way on the one before is sent
// again on l, except for what must not be; that is waited for.
func (m *manager) adopt(l *link) {
	c, now := m.c, time.Now()
	c.mu.Lock()
	l.heard, l.fine, l.since = now, now, now
	l.doubtAt = now.Add(roundWait(0))
	if m.link == nil {
		close(c.linked)
	} else {
		m.count(m.link, now)
		until := now.Add(drainTime)
		if m.link.silent(now) {
			until = now // nothing will come
		}
		m.old = append(m.old, drained{m.link, until})
	}
	m.link, c.link, c.trouble = l, l, nil
	c.book.arrived(l.node, l.addr)
	c.book.lost = ""
	if !c.cfg.Any {
		c.book.leader = l.node
	}
	c.queue.moved()
	c.mu.Unlock()
	switch {
	case m.learnt.IsZero():
		m.learnAt = now.Add(rand.N(learnFirst))
	case now.Sub(m.learnt) > learnEvery:
		m.learnAt = now.Add(pause.Jitter(learnLater))
	}
	c.emit(Event{Kind: Connected, Node: l.node, Addr: l.addr})
}

// lost looks for another connection after the end of this one. All commands
// under way on it have had their outcome.
func (m *manager) lost(ctx context.Context) {
	c, l := m.c, m.link
	err := l.conn.Err()
	l.conn.Close()
	m.link = nil
	c.mu.Lock()
	c.link = nil
	c.linked = make(chan struct{})
	c.book.lost = l.addr
	m.count(l, time.Now())
	c.mu.Unlock()
	c.emit(Event{Kind: Lost, Node: l.node, Addr: l.addr, Err: err})
	if m.quest != nil { // it looked for a successor; what it has found is welcome
		next := m.quest.end()
		m.quest = nil
		if next != nil {
			m.adopt(next)
			return
		}
	}
	m.quest = c.begin(ctx, nil, 0, m.pause())
}

// count notes whether a connection that is over was good for anything. mu is held.
func (m *manager) count(l *link, now time.Time) {
	if l.fine.After(l.since) || now.Sub(l.since) > lastRound {
		m.flaps = 0
	} else {
		m.flaps++
	}
}

// pause is the wait before a search: short, to be back soon, unless connections
// keep coming to nothing.
func (m *manager) pause() time.Duration {
	if m.flaps > 1 {
		return roundWait(m.flaps - 2)
	}
	return rand.N(spread)
}

// reap closes replaced connections that have nothing more to bring.
func (m *manager) reap(now time.Time) time.Time {
	var wake time.Time
	keep := m.old[:0]
	for _, d := range m.old {
		m.c.mu.Lock()
		pending := d.link.pending
		m.c.mu.Unlock()
		if pending == 0 || !now.Before(d.until) {
			m.closing.Go(func() { d.link.conn.Close() }) // may take a while with TLS
			continue
		}
		wake = earliest(wake, d.until)
		keep = append(keep, d)
	}
	clear(m.old[len(keep):])
	m.old = keep
	return wake
}

// doubt asks the other servers whether one of them leads when there is reason to
// believe so: the server says it itself, it turns commands away, or it has left
// everything unanswered for too long. The connection is kept meanwhile, unless
// nothing at all comes over it.
func (m *manager) doubt(ctx context.Context, now time.Time) time.Time {
	c, l := m.c, m.link
	if l == nil || m.quest != nil {
		return time.Time{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var due time.Time
	switch {
	case l.told > 0, l.refused && !c.cfg.Any:
		due = latest(now, l.doubtAt)
	case l.refused: // it may be cut off from the others
		due = latest(l.fine.Add(l.patience), l.doubtAt)
	case l.pending > 0:
		due = latest(l.heard.Add(l.patience), l.doubtAt)
	}
	if l.helper {
		due = earliest(due, latest(l.since.Add(helperTime), l.doubtAt))
	}
	if due.IsZero() || now.Before(due) {
		return due
	}
	switch {
	case l.told > 0:
		l.told--
		l.doubtAt = now.Add(roundWait(tellings - l.told))
	case l.helper:
		l.doubtAt = now.Add(pause.Jitter(helperTime))
	case l.refused:
		l.doubtAt = now.Add(roundWait(l.doubts))
	default: // it is silent, and so may the whole cluster be: it need not be asked in a hurry
		l.conn.Hurry(deadTime) // or only the connection, whose other end may be gone
		l.doubtAt = now.Add(silenceWait(l.doubts))
	}
	l.refused = false
	m.quest = c.begin(ctx, l, l.doubts, m.pause())
	l.doubts++
	return time.Time{}
}

// redirected is told that the server at the other end of l says that node leads.
func (c *Client) redirected(l *link, node, addr string) {
	if c.cfg.Any || node == l.node {
		return
	}
	c.mu.Lock()
	late := c.link != nil && c.link != l
	if !late {
		c.book.follow(node, addr)
		l.told, l.doubtAt = tellings, time.Time{}
	}
	c.mu.Unlock()
	if !late {
		c.emit(Event{Kind: Redirected, Node: node, Addr: addr})
		c.kick()
	}
}

// learn asks for the addresses of the members, so that the client is not lost
// when the configured servers are. It is not urgent, and is put off by a random
// time: after a failover the cluster has more important things to do.
func (m *manager) learn(ctx context.Context, now time.Time) time.Time {
	if m.link == nil || m.lesson != nil || m.learnAt.IsZero() {
		return time.Time{}
	}
	if now.Before(m.learnAt) {
		return m.learnAt
	}
	m.learnAt = time.Time{}
	c, l, lesson := m.c, m.link, make(chan bool, 1)
	m.lesson = lesson
	ctx, m.unlearn = context.WithTimeout(ctx, drainTime)
	go func() {
		r, err := l.conn.Get(ctx, parley.Status{})
		c.mu.Lock()
		c.book.learn(r.Members)
		c.mu.Unlock()
		lesson <- err == nil
	}()
	return time.Time{}
}

// stop ends everything that the manager owns.
func (m *manager) stop() {
	m.unlearn()
	if m.lesson != nil {
		<-m.lesson
	}
	if m.quest != nil {
		if l := m.quest.end(); l != nil {
			l.conn.Close()
		}
	}
	for _, d := range m.old {
		d.link.conn.Close()
	}
	if m.link != nil {
		m.link.conn.Close()
	}
	m.closing.Wait()
	m.c.mu.Lock()
	m.c.link = nil
	m.c.mu.Unlock()
}

// earliest returns the first of the times that are not zero.
func earliest(times ...time.Time) time.Time {
	var first time.Time
	for _, t := range times {
		if first.IsZero() || !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	return first
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
