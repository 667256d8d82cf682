package fair

import (
	"context"
	"sync/atomic"
	"time"
)

// Share keeps expensive work to a part of the processors: so much at a time, first
// come, first served; and while more than patience wait, each place rests for as
// long as it has worked. Safe for concurrent use; it owns no goroutine.
type Share struct {
	places   chan struct{}
	patience int64
	waiting  atomic.Int64
}

// NewShare returns a share of so many places at a time, at least one.
func NewShare(places, patience int) *Share {
	return &Share{places: make(chan struct{}, max(1, places)), patience: int64(patience)}
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
		if s.waiting.Load() <= s.patience {
			<-s.places
			return
		}
		time.AfterFunc(time.Since(began), func() { <-s.places })
	}()
	work()
	return nil
}

// Waiting is how many wait.
func (s *Share) Waiting() int { return int(s.waiting.Load()) }
