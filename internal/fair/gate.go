// Package fair shares what is scarce among those who want it: turns for commands
// among connections, processors among expensive questions, so much a second and so many at a time among users and addresses.
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
// While a crowd waits, the bound follows the time that commands take: what is
// under way is a line too, in which all are equal, and it is kept short.
//
// While nobody waits and the bound is at its most, entering and leaving are a step
// of a counter each, and flows are not told apart.
//
// Safe for concurrent use; it owns no goroutine. At most one Enter for each
// waiting goroutine is remembered.
type Gate struct {
	most int64

	in      atomic.Int64 // under way
	size    atomic.Int64 // the bound at present; changed under mu
	waiting atomic.Int64 // in the line or about to be; changed under mu

	mu    sync.Mutex
	now   uint64 // virtual time, in rounds: the start of the last that was let in
	count uint64 // of those who had to wait, for their order among equals
	line  line

	sample struct { // since the bound was last looked at, of those who had to wait
		since time.Time
		took  time.Duration
		n     int
	}
}

const (
	credit = 1                     // rounds by which a flow without a backlog goes before those with one
	crowd  = 32                    // so many wait: what is under way is to take no longer than goal
	goal   = 25 * time.Millisecond //
	least  = 64                    // the smallest bound
	look   = 20 * time.Millisecond // how often the bound is looked at
)

// Idle is for how long a connection has had nothing to send when a command that
// comes then counts as one without a backlog.
const Idle = 100 * time.Microsecond

// Flow is what a gate knows about a connection. The zero value is a new one.
type Flow struct {
	next uint64 // earliest start of its next command; guarded by Gate.mu
}

// Pass is the permission to have a command under way.
type Pass struct {
	g     *Gate
	since time.Time // zero: it did not have to wait
}

// turn is one who waits.
type turn struct {
	start, order uint64
	place        int           // in the line, -1: not any more
	come         chan struct{} // closed when it is let in
}

// NewGate returns a gate for at most so many commands.
func NewGate(most int) *Gate {
	g := &Gate{most: int64(most), now: credit}
	g.size.Store(g.most)
	return g
}

// Enter waits until one more command of the flow may be under way, or ctx ends.
// backlog says that the flow had this command ready when it was done with the one
// before. Each success is followed by a Leave. A nil gate lets everybody in.
func (g *Gate) Enter(ctx context.Context, f *Flow, backlog bool) (Pass, error) {
	if g == nil || g.waiting.Load() == 0 && g.enter() {
		return Pass{g: g}, nil
	}
	g.mu.Lock()
	g.waiting.Add(1) // from here on, who leaves looks at the line
	if len(g.line) == 0 && g.enter() {
		g.waiting.Add(-1)
		g.mu.Unlock()
		return Pass{g: g}, nil
	}
	start := max(f.next, g.now)
	f.next = start + 1
	if !backlog {
		start = g.now - credit
	}
	t := &turn{start: start, order: g.count, come: make(chan struct{})}
	g.count++
	heap.Push(&g.line, t)
	g.mu.Unlock()
	select {
	case <-t.come:
		return Pass{g, time.Now()}, nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.place >= 0 {
		heap.Remove(&g.line, t.place)
		g.waiting.Add(-1)
		return Pass{}, context.Cause(ctx)
	}
	return Pass{g, time.Now()}, nil // let in at the same moment
}

// enter lets one in if there is room.
func (g *Gate) enter() bool {
	for {
		in := g.in.Load()
		if in >= g.size.Load() {
			return false
		}
		if g.in.CompareAndSwap(in, in+1) {
			return true
		}
	}
}

// Leave says that the command is not under way any more.
func (p Pass) Leave() {
	g := p.g
	if g == nil {
		return
	}
	g.in.Add(-1) // before the look at the line: who has joined it since has seen this
	if g.waiting.Load() == 0 && g.size.Load() == g.most {
		return
	}
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !p.since.IsZero() {
		g.sample.took += now.Sub(p.since)
		g.sample.n++
	}
	if now.Sub(g.sample.since) > look {
		g.adapt(now)
	}
	for len(g.line) > 0 && g.enter() {
		t, _ := heap.Pop(&g.line).(*turn)
		g.waiting.Add(-1)
		g.now = max(g.now, t.start)
		close(t.come)
	}
}

// adapt sets the bound. mu is held.
func (g *Gate) adapt(now time.Time) {
	size, took := g.size.Load(), g.sample.took/time.Duration(max(g.sample.n, 1))
	switch {
	case len(g.line) < crowd:
		size = min(g.most, 2*size)
	case took > goal:
		size = max(min(least, g.most), size*7/8)
	case g.sample.n > 0 && took < goal/2:
		size = min(g.most, size+size/16+1)
	}
	g.size.Store(size)
	g.sample.since, g.sample.took, g.sample.n = now, 0, 0
}

// Waiting is how many wait.
func (g *Gate) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.line)
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
