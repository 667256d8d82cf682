package fair

import (
	"sync/atomic"
	"time"
)

// pace is how fast a gate lets in commands of flows with a backlog: as fast as they
// come, unless there is a crowd of them and those who send now and then notice. When
// the commands of the latter take too long, compared with how long they take when
// nothing is in their way, the pace falls to a part; else it rises by a part, until
// it holds nobody back any more. (Rising by an amount would take long at rates that
// differ by a factor of a thousand.)
type pace struct {
	start  time.Time
	on     atomic.Bool
	wanted atomic.Int64 // commands with a backlog since the last look
	flows  atomic.Int64 // that had one in this epoch
	epoch  atomic.Int64 // its number
	took   atomic.Int64 // of the samples since the last look, nanoseconds
	n      atomic.Int64
	best   atomic.Int64 // how long a command takes when nothing is in its way, nanoseconds
	last   atomic.Int64 // look, nanoseconds since start

	// Guarded by Gate.mu.
	rate   float64   // a second
	tokens float64   // commands that may enter now
	filled time.Time // when tokens were counted
	began  time.Time // this epoch
	before int       // flows in the one before
	held   bool      // somebody had to wait since the last look
	quiet  int       // looks in a row at which nobody had to
}

const (
	look     = 20 * time.Millisecond   // how often the pace is looked at
	step     = 5 * time.Millisecond    // the commands of so much time enter together
	few      = 4                       // samples: fewer tell nothing, they are waited for
	linger   = 5 * time.Second         // for as long; if there are none, nobody is to be protected
	age      = 500 * time.Millisecond  // an epoch
	shortest = 2 * time.Millisecond    // commands are never said to take less
	first    = 5 * time.Millisecond    // what they are said to take before any did
	late     = 2                       // times as long as at best is too long
	clamp    = 4                       // times as long is as late as one sample of few can be without making all late
	forget   = 20 * time.Second        // what they took at best is forgotten
	inVain   = 3 * time.Second         // the same when the lowest pace is of no use: it is not the crowd then
	doubling = 1280 * time.Millisecond // the pace rises
	slowest  = 200.0                   // the lowest pace, a second, unless more wait
	round    = 3                       // seconds until each who waits has its turn, at most
	crowd    = 48                      // so many flows have a backlog: fewer are not held back
	calm     = 50                      // looks at which the pace held nobody back: it ends
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
func (p *pace) sample(took time.Duration) bool {
	p.took.Add(min(int64(took), clamp*p.best.Load()))
	return p.due(p.n.Add(1))
}

// due reports whether it is time for a look, with n samples.
func (p *pace) due(n int64) bool {
	since := time.Since(p.start) - time.Duration(p.last.Load())
	return since > look && n >= few || since > linger
}

// ready reports whether one may enter. Gate.mu is held.
func (p *pace) ready(now time.Time) bool {
	if d := now.Sub(p.filled); d >= step {
		p.tokens = min(p.tokens+p.rate*d.Seconds(), max(1, p.rate*2*step.Seconds()))
		p.filled = now
	}
	return p.tokens >= 1
}

// adapt sets the pace, if it is time. So many wait. Gate.mu is held.
func (p *pace) adapt(waiting int) {
	if !p.due(p.n.Load()) {
		return
	}
	now := time.Now()
	since := now.Sub(p.start) - time.Duration(p.last.Load())
	p.last.Store(int64(now.Sub(p.start)))
	n := p.n.Swap(0)
	mean := time.Duration(p.took.Swap(0) / max(n, 1))
	wanted := float64(p.wanted.Swap(0)) / since.Seconds()
	if now.Sub(p.began) > age {
		p.began, p.before = now, int(p.flows.Swap(0))
		p.epoch.Add(1)
	}
	flows := max(p.before, int(p.flows.Load()), waiting)
	if n < few || since > 2*linger { // nobody is there, or nothing to compare it with
		p.on.Store(false)
		return
	}
	p.set(mean, since, wanted, max(slowest, float64(waiting)/round), flows)
	if p.held = false; p.quiet > calm || flows < crowd/4 {
		p.on.Store(false)
	}
}

// set sets the pace, given how long commands took since the last look, how many
// others were wanted a second and of how many flows, and the lowest pace.
func (p *pace) set(mean, since time.Duration, wanted, lowest float64, flows int) {
	best, on := time.Duration(p.best.Load()), p.on.Load()
	fade := forget
	if on && p.rate <= lowest {
		fade = inVain
	}
	best = max(shortest, min(mean, best+best*min(since, age)/fade))
	p.best.Store(int64(best))
	switch {
	case mean > late*best && !on:
		if flows >= crowd && wanted >= slowest {
			// What is under way will make all late for a while.
			p.rate, p.tokens, p.filled, p.quiet = max(lowest, wanted/16), 0, time.Now(), 0
			p.on.Store(true)
		}
	case mean > late*best:
		p.rate, p.quiet = max(lowest, p.rate/2), 0
	case on && p.held:
		p.rate += p.rate * min(1, since.Seconds()/doubling.Seconds())
		p.quiet = 0
	case on:
		p.quiet++
	}
}
