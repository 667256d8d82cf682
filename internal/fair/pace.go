package fair

import (
	"sync/atomic"
	"time"
)

// pace is how fast a gate lets in commands of flows with a backlog: as fast as they
// come, unless there is a crowd of them and those who send now and then notice. When their commands
// take too long, compared with how long they take when nothing is in their way, the
// pace falls by a part; else it rises by a part, until it holds nobody back any
// more. (Additive increase would take long at rates that differ by a factor of a
// thousand.)
type pace struct {
	on     atomic.Bool
	wanted atomic.Int64 // commands with a backlog since the last look
	flows  atomic.Int64 // that had one in this epoch
	epoch  atomic.Int64 // its number
	took   atomic.Int64 // of the samples since the last look, nanoseconds
	n      atomic.Int64
	last   atomic.Int64 // look, nanoseconds since 1970

	// Guarded by Gate.mu.
	rate   float64       // a second
	tokens float64       // commands that may enter now
	filled time.Time     // when tokens were counted
	began  time.Time     // this epoch
	before int           // flows in the one before
	best   time.Duration // how long a command takes when nothing is in its way
	held   bool          // somebody had to wait since the last look
	quiet  int           // looks in a row at which nobody had to
}

const (
	look     = 20 * time.Millisecond  // how often the pace is looked at
	step     = 5 * time.Millisecond   // the commands of so much time enter together
	few      = 4                      // samples tell nothing, unless there are no more
	patience = 500 * time.Millisecond // for as long, which is also that of an epoch
	shortest = 2 * time.Millisecond   // commands are never said to take less
	first    = 5 * time.Millisecond   // what they are said to take before any did
	forget   = 20 * time.Second       // what they took at best is forgotten
	slowest  = 200.0                  // the lowest pace, a second
	crowd    = 128                    // so many flows have a backlog: fewer are not held back
	calm     = 50                     // looks at which the pace held nobody back: it ends
)

// want takes note of a command of a flow with a backlog.
func (p *pace) want(f *Flow) {
	p.wanted.Add(1)
	if epoch := p.epoch.Load(); f.seen.Swap(epoch) != epoch {
		p.flows.Add(1)
	}
}

// sample takes note of how long a command took, and reports whether it is time for
// a look.
func (p *pace) sample(now time.Time, took time.Duration) bool {
	p.took.Add(int64(took))
	n := p.n.Add(1)
	since := time.Duration(now.UnixNano() - p.last.Load())
	return since > look && n >= few || since > patience
}

// ready reports whether one may enter. Gate.mu is held.
func (p *pace) ready(now time.Time) bool {
	d := now.Sub(p.filled)
	if d >= step {
		p.tokens = min(p.tokens, 0) + p.rate*min(d, 2*step).Seconds()
		p.filled = now
	}
	return p.tokens >= 1
}

func (p *pace) take() bool { p.tokens--; return true }

// adapt sets the pace, if it is time. So many wait. Gate.mu is held.
func (p *pace) adapt(now time.Time, waiting int) {
	since := time.Duration(now.UnixNano() - p.last.Load())
	n := p.n.Load()
	if since <= look || n < few && since <= patience {
		return
	}
	mean := time.Duration(p.took.Swap(0) / max(p.n.Swap(0), 1))
	wanted := float64(p.wanted.Swap(0)) / since.Seconds()
	p.last.Store(now.UnixNano())
	if now.Sub(p.began) > patience {
		p.began, p.before = now, int(p.flows.Swap(0))
		p.epoch.Add(1)
	}
	if since > 2*patience { // nothing to compare it with
		p.before = 0
		return
	}
	flows := max(p.before, int(p.flows.Load())) + waiting
	if n > 0 {
		aged := p.best + p.best*min(since, patience)/forget
		p.best = max(shortest, min(mean, aged))
	}
	switch on := p.on.Load(); {
	case n > 0 && mean > 2*p.best:
		if !on {
			if flows < crowd || wanted < slowest {
				break
			}
			p.rate, p.tokens, p.filled, p.quiet = wanted/8, 0, now, 0 // what is under way will make all late for a while
			p.on.Store(true)
		}
		p.rate = max(slowest, p.rate/2)
		p.quiet = 0
	case on && p.held:
		p.rate += p.rate / 64
		p.quiet = 0
	case on:
		p.quiet++
	}
	p.held = false
	if n == 0 || p.quiet > calm || flows < crowd/4 {
		p.on.Store(false)
	}
}
