package fair

import (
	"sync"

	"golang.org/x/time/rate"
)

// Rates is a token bucket for each of many: users, addresses. Each may do so much
// a second, and so much at once after a pause. The memory for it is bounded.
type Rates[K comparable] struct {
	limit rate.Limit // a second; 0: there is none
	burst int

	mu      sync.Mutex
	buckets map[K]*rate.Limiter
}

// maxBuckets bounds Rates.buckets; full ones are forgotten first, which changes
// nothing, and if that is not enough, all, which is to everybody's advantage.
const maxBuckets = 10_000

// NewRates returns buckets that gain limit tokens a second and hold burst. Without
// a limit (0 or less), there is always a token.
func NewRates[K comparable](limit, burst int) *Rates[K] {
	return &Rates[K]{limit: rate.Limit(max(limit, 0)), burst: burst, buckets: make(map[K]*rate.Limiter)}
}

// Take takes a token out of key's bucket, and reports whether there was one.
func (r *Rates[K]) Take(key K) bool {
	if r.limit == 0 {
		return true
	}
	r.mu.Lock()
	b := r.buckets[key]
	if b == nil {
		r.makeRoom()
		b = rate.NewLimiter(r.limit, r.burst)
		r.buckets[key] = b
	}
	r.mu.Unlock()
	return b.Allow()
}

// makeRoom forgets buckets when there are too many, so many at once that it is
// seldom done. mu is held.
func (r *Rates[K]) makeRoom() {
	if len(r.buckets) < maxBuckets {
		return
	}
	for key, b := range r.buckets {
		if b.Tokens() >= float64(r.burst) {
			delete(r.buckets, key)
		}
	}
	if len(r.buckets) > maxBuckets*3/4 {
		clear(r.buckets)
	}
}
