package chaos

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Failure is one node's failure and what it did to writing.
type Failure struct {
	Number int // from 1
	Fault  Fault
	Node   string        // who failed
	Leader bool          // it led the cluster
	At     time.Duration // since the load began
	// Gap is how long nobody could write. After Kill, Freeze and Cut it is the time
	// from just before the failure to the first acknowledgement of a message whose
	// sending began after the failure was complete; it thus contains the time it
	// takes to make the node fail. A node that is asked to stop works on for a
	// while, and so it does while a slow target's command runs: there it is the
	// longest time in between without any acknowledgement.
	Gap    time.Duration
	Closed bool // Gap is final; until then it is 0
}

// gaps measures the gaps in writing.
type gaps struct {
	open atomic.Int64 // gaps not closed; lets senders pass without a lock

	mu       sync.Mutex
	failures []timed
}

type timed struct {
	Failure
	began    time.Time // just before the failure
	complete time.Time // when it was complete; zero: not yet
	last     time.Time // the latest acknowledgement since it began
	pauses   bool      // Gap is the longest pause
	longest  time.Duration
}

// begin notes that a failure is about to be caused, and gives it its number.
// pauses says that its gap is the longest time without an acknowledgement.
func (g *gaps) begin(f Failure, pauses bool, now time.Time) Failure {
	g.mu.Lock()
	defer g.mu.Unlock()
	f.Number = len(g.failures) + 1
	g.failures = append(g.failures, timed{Failure: f, pauses: pauses, began: now, last: now})
	g.open.Add(1)
	return f
}

// complete notes that the failure has been caused.
func (g *gaps) complete(number int, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failures[number-1].complete = now
}

// acknowledged records that a message whose sending began at sent was
// acknowledged at now, and returns the failures whose gaps that closes.
func (g *gaps) acknowledged(sent, now time.Time) (closed []Failure) {
	if g.open.Load() == 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.failures {
		f := &g.failures[i]
		if f.Closed {
			continue
		}
		if now.After(f.last) {
			f.longest = max(f.longest, now.Sub(f.last))
			f.last = now
		}
		if f.complete.IsZero() || !sent.After(f.complete) {
			continue
		}
		f.Gap, f.Closed = now.Sub(f.began), true
		if f.pauses {
			f.Gap = f.longest
		}
		g.open.Add(-1)
		closed = append(closed, f.Failure)
	}
	return closed
}

func (g *gaps) all() []Failure {
	g.mu.Lock()
	defer g.mu.Unlock()
	failures := make([]Failure, len(g.failures))
	for i, f := range g.failures {
		failures[i] = f.Failure
	}
	return failures
}

// Quantiles sums up durations.
type Quantiles struct{ P50, P99, Max time.Duration }

// LeaderGaps sums up the write gaps after failures of the leader; those of other
// nodes interrupt nothing and would only flatter the numbers. ok is false if
// there are none.
func LeaderGaps(failures []Failure) (q Quantiles, ok bool) {
	var gaps []time.Duration
	for _, f := range failures {
		if f.Leader && f.Closed {
			gaps = append(gaps, f.Gap)
		}
	}
	if len(gaps) == 0 {
		return q, false
	}
	slices.Sort(gaps)
	return Quantiles{P50: quantile(gaps, 50), P99: quantile(gaps, 99), Max: gaps[len(gaps)-1]}, true
}

// OfFault returns the failures of one kind.
func OfFault(failures []Failure, fault Fault) []Failure {
	var of []Failure
	for _, f := range failures {
		if f.Fault == fault {
			of = append(of, f)
		}
	}
	return of
}

// quantile returns the smallest value that p percent of the sorted values do not
// exceed.
func quantile(sorted []time.Duration, p int) time.Duration {
	return sorted[(len(sorted)*p+99)/100-1]
}
