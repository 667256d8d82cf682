// Package fair shares what is scarce among those who want it: turns for commands
// among connections, processors among expensive questions, so much a second and so
// many at a time among users and addresses.
package fair

import (
	"container/heap"
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Gate lets a bounded number of commands be under way at a time, and shares them
// fairly among flows (connections): start-time fair queueing. Of those who wait,
// the one whose flow has had the least goes first. A flow that had nothing left to
// send when this command came goes before all that have a backlog, so that who
// sends now and then hardly waits, however many others flood.
//
// What is under way is a line too, in which nobody overtakes. When a crowd has
// a backlog and those who send now and then find the line long, the crowd's commands
// are let in at a pace that keeps it short (see pace).
//
// While nobody waits and there is no pace, entering and leaving are a few steps of
// counters, and flows are not told apart.
//
// Safe for concurrent use; it owns no goroutine. At most one Enter for each
// waiting goroutine is remembered.
type Gate struct {
	most  int64
	leads func() bool // nil: yes

	in      atomic.Int64 // under way
	waiting atomic.Int64 // in the line or about to be; changed under mu
	pace    pace

	mu    sync.Mutex
	now   uint64 // virtual time, in rounds: the start of the last that was let in
	count uint64 // of those who had to wait, for their order among equals
	line  line
	wake  *time.Timer // while the first in the line waits for the pace
}

const credit = 1 // rounds by which a flow without a backlog goes before those with one

// Idle is for how long a connection has had nothing to send when a command that
// comes then counts as one without a backlog.
const Idle = 100 * time.Microsecond

// Flow is what a gate knows about a connection. The zero value is a new one.
type Flow struct {
	next   uint64       // earliest start of its next command; guarded by Gate.mu
	credit atomic.Int32 // more than a new one has: from -excuse to mostCredit
	seen   atomic.Int64 // the pace's epoch when it last had a backlog
}

// A flow that sends now and then seems to have a backlog when its commands were held
// up on their way, or in the gate. It is not taken for a flood at once: each of its
// commands without a backlog earns it a credit, and one with a backlog that costs
// several of them counts as one without. A new flow has enough for one. One that has
// earned enough for another sends now and then.
const (
	excuse     = 4           // what that costs
	mostCredit = 64 - excuse // beside what a new one has
)

// excused takes note of a command, and reports whether it counts as one without a
// backlog, and whether the flow sends now and then.
func (f *Flow) excused(backlog bool) (excused, modest bool) {
	n := f.credit.Load()
	switch {
	case !backlog && n < mostCredit:
		f.credit.Store(n + 1)
	case backlog && n > -excuse:
		f.credit.Store(max(n-excuse, -excuse))
	}
	return !backlog || n >= 0, n >= excuse
}

// Pass is the permission to have a command under way.
type Pass struct {
	g     *Gate
	since time.Time // zero: nobody asks how long it takes
}

// Unasked is the pass of a command whose end nobody waits for.
func (p Pass) Unasked() Pass {
	p.since = time.Time{}
	return p
}

// turn is one who waits.
type turn struct {
	start, order uint64
	backlog      bool
	place        int           // in the line, -1: not any more
	come         chan struct{} // closed when it is let in
}

// NewGate returns a gate for at most so many commands. leads says whether this node
// has the line in which commands are under way, or sends them to one that has it;
// nil: it has.
func NewGate(most int, leads func() bool) *Gate {
	g := &Gate{most: int64(most), leads: leads, now: credit, pace: pace{start: time.Now()}}
	g.pace.epoch.Store(1)
	g.pace.best.Store(int64(first))
	return g
}

// Enter waits until one more command of the flow may be under way, or ctx ends.
// backlog says that the flow had this command ready when it was done with the one
// before. Each success is followed by a Leave. A nil gate lets everybody in.
func (g *Gate) Enter(ctx context.Context, f *Flow, backlog bool) (Pass, error) {
	if g == nil {
		return Pass{}, nil
	}
	pass := Pass{g: g}
	excused, modest := f.excused(backlog)
	if backlog = !excused; modest {
		pass.since = time.Now() // its wait counts
	}
	if backlog {
		g.pace.want(f)
	}
	if g.waiting.Load() == 0 && !(backlog && g.pace.on.Load()) && g.enter() {
		return g.admitted(pass, backlog), nil
	}
	return g.wait(ctx, f, pass, backlog)
}

// Turn waits for what takes no place among the commands: questions, logins, watches.
// It is only a flood of them that waits, and only while floods have a pace.
func (g *Gate) Turn(ctx context.Context, f *Flow, backlog bool) error {
	if g == nil {
		return nil
	}
	if excused, _ := f.excused(backlog); excused {
		return nil
	}
	g.pace.want(f)
	if !g.pace.on.Load() {
		return nil
	}
	pass, err := g.wait(ctx, f, Pass{g: g}, true)
	pass.Unasked().Leave()
	return err
}

// wait is the slow part of Enter: there is somebody else, or no room, or a pace.
func (g *Gate) wait(ctx context.Context, f *Flow, pass Pass, backlog bool) (Pass, error) {
	g.mu.Lock()
	g.waiting.Add(1) // from here on, who leaves looks at the line
	if len(g.line) == 0 && g.admit(backlog) {
		g.waiting.Add(-1)
		g.mu.Unlock()
		return g.admitted(pass, backlog), nil
	}
	start := max(f.next, g.now)
	f.next = start + 1
	if !backlog {
		start = g.now - credit
	}
	t := &turn{start: start, order: g.count, backlog: backlog, come: make(chan struct{})}
	g.count++
	heap.Push(&g.line, t)
	g.serve()
	g.mu.Unlock()
	select {
	case <-t.come:
		return g.admitted(pass, backlog), nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.place >= 0 {
		heap.Remove(&g.line, t.place)
		g.waiting.Add(-1)
		return Pass{}, context.Cause(ctx)
	}
	return g.admitted(pass, backlog), nil // let in at the same moment
}

// admitted is the pass of one who has been let in. Where the line is another
// node's, the commands of those with a backlog tell how long it is, from here on.
func (g *Gate) admitted(p Pass, backlog bool) Pass {
	if backlog && g.leads != nil && !g.leads() {
		p.since = time.Now()
	}
	return p
}

// enter lets one in if there is room.
func (g *Gate) enter() bool {
	for {
		in := g.in.Load()
		if in >= g.most {
			return false
		}
		if g.in.CompareAndSwap(in, in+1) {
			return true
		}
	}
}

// admit lets one in if there is room and the pace allows it. mu is held.
func (g *Gate) admit(backlog bool) bool {
	if !backlog || !g.pace.on.Load() {
		return g.enter()
	}
	if !g.pace.ready(time.Now()) || !g.enter() {
		return false
	}
	g.pace.tokens--
	return true
}

// Leave says that the command is not under way any more.
func (p Pass) Leave() {
	g := p.g
	if g == nil {
		return
	}
	g.in.Add(-1) // before the look at the line: who has joined it since has seen this
	looked := false
	if !p.since.IsZero() {
		looked = g.pace.sample(time.Since(p.since))
	}
	if !looked && g.waiting.Load() == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if looked {
		g.pace.adapt(len(g.line))
	}
	g.serve()
}

// serve lets in whom it can. mu is held.
func (g *Gate) serve() {
	for len(g.line) > 0 && g.admit(g.line[0].backlog) {
		t, _ := heap.Pop(&g.line).(*turn)
		g.waiting.Add(-1)
		g.now = max(g.now, t.start)
		close(t.come)
	}
	if len(g.line) > 0 && g.line[0].backlog && g.pace.on.Load() {
		g.pace.held = true
		if g.wake == nil {
			g.wake = time.AfterFunc(step, g.woken)
		}
	}
}

// woken goes on where the pace made the line wait.
func (g *Gate) woken() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wake = nil
	g.pace.adapt(len(g.line))
	g.serve()
}

// Waiting is how many wait.
func (g *Gate) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.line)
}

// Pace is how many commands of flows with a backlog are let in, a second; 0: as
// many as there is room for.
func (g *Gate) Pace() float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.pace.on.Load() {
		return 0
	}
	return g.pace.rate
}

// line is those who wait, as a heap.
type line []*turn

func (l line) Len() int { return len(l) }
func (l line) Less(i, j int) bool {
	return l[i].start < l[j].start || l[i].start == l[j].start && l[i].order < l[j].order
}
func (l line) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].place, l[j].place = i, j
}

func (l *line) Push(x any) {
	t, _ := x.(*turn)
	t.place = len(*l)
	*l = append(*l, t)
}

func (l *line) Pop() any {
	last := len(*l) - 1
	t := (*l)[last]
	(*l)[last] = nil
	*l = (*l)[:last]
	t.place = -1
	return t
}
