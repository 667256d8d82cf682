package client

import (
	"math/rand/v2"
	"time"

	"github.com/parley-chat/parley/internal/pause"
)

// Many clients lose the same leader at the same moment. All waits are therefore
// random over a wide part of their length: spread, so that servers see a trickle,
// and growing, so that a cluster that is down is asked about once a second.
const (
	firstRound = 20 * time.Millisecond // between rounds over the servers, growing…
	lastRound  = time.Second           // …up to this

	firstSilence = 50 * time.Millisecond // between searches while the server is silent, growing as well
	firstTry     = 10 * time.Millisecond // after a rejection, growing…
	lastTry      = 500 * time.Millisecond
	spread       = 20 * time.Millisecond // before the first dial after a loss or redirect
)

// roundWait is the wait after round n, counted from 0, over all servers.
func roundWait(n int) time.Duration { return pause.Jitter(grow(firstRound, n, lastRound)) }

// tryWait is the wait after rejection n, counted from 0, of a command or query.
func tryWait(n int) time.Duration { return pause.Jitter(grow(firstTry, n, lastTry)) }

// silenceWait is the wait after search n, counted from 0, for another leader than
// a server that says nothing.
func silenceWait(n int) time.Duration { return pause.Jitter(grow(firstSilence, n, lastRound)) }

// grow is first × 1.5ⁿ, at most last.
func grow(first time.Duration, n int, last time.Duration) time.Duration {
	d := first
	for ; n > 0 && d < last; n-- {
		d += d / 2
	}
	return min(d, last)
}

// alone is how long a try of round n has the search to itself.
func alone(first time.Duration, n int) time.Duration { return pause.Jitter(grow(first, n, lastAlone)) }

// upTo is a time-out of at most d: random over its last quarter, so that clients
// that began to wait together do not lose their patience together.
func upTo(d time.Duration) time.Duration { return d - rand.N(d/4+1) }
