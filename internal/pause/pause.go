// Package pause waits: no longer than a context lives, longer after each
// failure, and never everybody at the same moment.
package pause

import (
	"context"
	"math/rand/v2"
	"time"
)

// For waits and reports whether ctx is still alive.
func For(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// Backoff is the wait after failure n, counted from 0: first, doubled with each
// failure up to last, half of it random.
func Backoff(n int, first, last time.Duration) time.Duration {
	d := first
	for ; n > 0 && d < last; n-- {
		d *= 2
	}
	return Jitter(min(d, last))
}

// Jitter is a random time between half of d and d, so that those who wait for the
// same reason do not come back together.
func Jitter(d time.Duration) time.Duration {
	if d < 2 {
		return max(d, 0)
	}
	return d/2 + rand.N(d/2)
}
