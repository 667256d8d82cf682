package fair

import (
	"context"
	"sync/atomic"
	"time"
)

// Share keeps expensive work to a part of the processors: so much at a time, first
// come, first served. While more than patience wait, each place rests for as long as
// it has worked, with twice as many twice as long, and so on up to longestRest times.
// Safe for concurrent use; it owns no goroutine.
type Share struct {
	places   chan struct{}
	patience int64
	waiting  atomic.Int64
}

const longestRest = 16

// NewShare returns a share of so many places at a time; both are at least one.
func NewShare(places, patience int) *Share {
	return &Share{places: make(chan struct{}, max(1, places)), patience: int64(max(1, patience))}
}

// Do runs work when it is its turn, unless ctx ends before.
func (s *Share) Do(ctx context.Context, work func()) error {
	s.waiting.Add(1)
	select {
	case s.places <- struct{}{}:
		s.waiting.Add(-1)
	case <-ctx.Done():
		s.waiting.Add(-1)
		return context.Cause(ctx)
	}
	began := time.Now()
	defer func() {
		rest := s.rest(time.Since(began))
		if rest == 0 {
			<-s.places
			return
		}
		time.AfterFunc(rest, func() { <-s.places })
	}()
	work()
	return nil
}

// rest is how long a place rests that has worked for so long.
func (s *Share) rest(worked time.Duration) time.Duration {
	n := s.waiting.Load()
	if n <= s.patience {
		return 0
	}
	return worked * time.Duration(min(n/s.patience, longestRest))
}

// Waiting is how many wait.
func (s *Share) Waiting() int { return int(s.waiting.Load()) }
